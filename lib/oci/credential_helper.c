/* docker-credential-NAME get: the server's address on its standard input, JSON on its standard output. */
#include "base/program.h"
#include "base/str.h"
#include "oci/credentials.h"
#include "oci/json.h"
#include "oci/secret.h"

#include <string.h>
#include <sys/wait.h>

enum { ANSWER_MAX = 64 << 10, SERVER_MAX = 1024 };

static int parse_answer(const struct lm_buf *answer, struct lm_credential *ret, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *root = NULL;
	const char *user, *secret;
	int r = lm_json_load("answer", (const char *)answer->data, answer->len, &root, NULL);
	if (r < 0) /* the parser's message would show a piece of the text */
		return lm_err_set(err, r, "its answer is no JSON object");
	r = lm_json_string("answer", root, "Username", LM_JSON_REQUIRED, &user, err);
	if (r == 0)
		r = lm_json_string("answer", root, "Secret", LM_JSON_REQUIRED, &secret, err);
	if (r < 0)
		return r;
	bool token = strcmp(user, "<token>") == 0;
	CLEANUP(lm_credential_done) struct lm_credential c = {.user = strdup(user)};
	*(token ? &c.identity_token : &c.password) = strdup(secret);
	if (!c.user || !(token ? c.identity_token : c.password))
		return lm_err_oom(err);
	*ret = c;
	c = (struct lm_credential){0};
	return 1;
}

static int judge(const struct lm_buf *answer, int status, struct lm_credential *ret, struct lm_err *err)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return parse_answer(answer, ret, err);
	/* What Docker's own helpers say, and what others say after them. */
	if (answer->len > 0 && strcasestr((const char *)answer->data, "credentials not found"))
		return 0;
	if (WIFEXITED(status))
		return lm_err_set(err, -EACCES, "it failed with exit code %d", WEXITSTATUS(status));
	return lm_err_set(err, -EACCES, "it was killed by signal %d", WTERMSIG(status));
}

static int ask(const struct lm_credential_helper *helper, const char *program, unsigned limit_ms,
	struct lm_credential *ret, struct lm_err *err)
{
	CLEANUP(lm_secret_buf_done) struct lm_buf answer = LM_BUF(ANSWER_MAX);
	const char *const argv[] = {program, "get", NULL};
	const struct lm_program run = {.argv = argv, .input = helper->server, .limit_ms = limit_ms};
	int status = 0;
	if (strlen(helper->server) > SERVER_MAX)
		return lm_err_set(err, -EPROTO, "too long a server name");
	if (lm_buf_reserve(&answer, ANSWER_MAX) < 0)
		return lm_err_oom(err);
	int r = lm_program_run(&run, &answer, &status, err);
	return r < 0 ? r : judge(&answer, status, ret, err);
}

/* A helper that is not there, or can't be run, is one that gives nothing. */
static int meaning(int r)
{
	return r == -EMSGSIZE ? -EPROTO : r == -ENOENT || r == -EPERM || r == -ENOEXEC || r == -ENOTDIR ? -EACCES : r;
}

int lm_credential_helper_ask(
	const struct lm_credential_helper *helper, unsigned limit_ms, struct lm_credential *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *program = lm_str_printf("docker-credential-%s", helper->name);
	if (!program)
		return lm_err_oom(err);
	int r = ask(helper, program, limit_ms, ret, err);
	return r < 0 ? lm_err_prefix(err, meaning(r), "%s", program) : r;
}
