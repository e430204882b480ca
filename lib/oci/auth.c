#include "oci/auth.h"

#include "base/str.h"
#include "oci/json.h"

#include <string.h>
#include <strings.h>

enum { TOKEN_MAX = 32 << 10, ANSWER_MAX = 64 << 10, URL_MAX = 8 << 10 };

void lm_auth_challenge_done(struct lm_auth_challenge *challenge)
{
	free(challenge->scheme);
	free(challenge->realm);
	free(challenge->service);
	free(challenge->scope);
	*challenge = (struct lm_auth_challenge){0};
}

static const char *skip_blanks(const char *at)
{
	return at + strspn(at, " \t");
}

/* RFC 9110: token characters, and the slash and more that realms come with when somebody forgot the quotes. */
static size_t token_length(const char *at)
{
	size_t n = 0;
	while (at[n] > ' ' && at[n] < 0x7f && !strchr("\",=", at[n]))
		n++;
	return n;
}

/* "quoted", with \-escapes, or a token. Advances *at. */
static int parse_value(const char **at, struct lm_buf *ret, struct lm_err *err)
{
	const char *c = *at;
	int r = 0;
	if (*c != '"') {
		size_t n = token_length(c);
		*at = c + n;
		r = lm_buf_append(ret, c, n);
		return r < 0 ? lm_err_oom(err) : 0;
	}
	for (c++; *c && *c != '"' && r == 0; c++) {
		if (*c == '\\' && c[1])
			c++;
		r = lm_buf_append(ret, c, 1);
	}
	if (r < 0)
		return lm_err_oom(err);
	if (*c != '"')
		return lm_err_set(err, -EPROTO, "challenge: closing quote missing");
	*at = c + 1;
	return 0;
}

static int set_parameter(struct lm_auth_challenge *c, const char *name, size_t len, struct lm_buf *value)
{
	const struct {
		const char *name;
		char **target;
	} known[] = {{"realm", &c->realm}, {"service", &c->service}, {"scope", &c->scope}};
	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		if (strlen(known[i].name) != len || strncasecmp(known[i].name, name, len) != 0)
			continue;
		free(*known[i].target);
		*known[i].target = strdup(lm_buf_cstr(value));
		return *known[i].target ? 0 : -ENOMEM;
	}
	return 0;
}

/* name=value, name=value … up to the next scheme or the end. */
static int parse_parameters(const char **at, struct lm_auth_challenge *c, struct lm_err *err)
{
	for (;;) {
		*at += strspn(*at, " \t,");
		const char *name = *at;
		size_t len = token_length(name);
		const char *after = skip_blanks(name + len);
		if (len == 0 || *after != '=')
			return 0;
		CLEANUP(lm_buf_done) struct lm_buf value = LM_BUF(LM_AUTH_CHALLENGE_MAX);
		*at = skip_blanks(after + 1);
		int r = parse_value(at, &value, err);
		if (r < 0)
			return r;
		if (set_parameter(c, name, len, &value) < 0)
			return lm_err_oom(err);
	}
}

static bool is_bearer(const struct lm_auth_challenge *c)
{
	return c->scheme && strcasecmp(c->scheme, "bearer") == 0;
}

int lm_auth_challenge_parse(const char *value, struct lm_auth_challenge *ret, struct lm_err *err)
{
	CLEANUP(lm_auth_challenge_done) struct lm_auth_challenge best = {0};
	const char *at = value;
	if (strlen(value) > LM_AUTH_CHALLENGE_MAX)
		return lm_err_set(err, -EPROTO, "challenge: too long");
	while (*(at += strspn(at, " \t,")) && !is_bearer(&best)) {
		CLEANUP(lm_auth_challenge_done) struct lm_auth_challenge c = {0};
		size_t len = token_length(at);
		if (len == 0)
			return lm_err_set(err, -EPROTO, "challenge: \"%.100s\" is not understood", at);
		c.scheme = lm_str_ndup(at, len);
		if (!c.scheme)
			return lm_err_oom(err);
		at += len;
		int r = parse_parameters(&at, &c, err);
		if (r < 0)
			return r;
		if (best.scheme && !is_bearer(&c))
			continue;
		lm_auth_challenge_done(&best);
		best = c;
		c = (struct lm_auth_challenge){0};
	}
	if (!best.scheme)
		return lm_err_set(err, -EPROTO, "challenge: empty");
	*ret = best;
	best = (struct lm_auth_challenge){0};
	return 0;
}

static int append_escaped(struct lm_buf *url, const char *text)
{
	int r = 0;
	for (; *text && r == 0; text++) {
		bool plain = (*text >= '0' && *text <= '9') || (*text >= 'a' && *text <= 'z') ||
			     (*text >= 'A' && *text <= 'Z') || strchr("-._~", *text);
		r = plain ? lm_buf_append(url, text, 1) : lm_buf_printf(url, "%%%02X", (unsigned char)*text);
	}
	return r;
}

static int token_url(const struct lm_auth_challenge *c, const char *repository, struct lm_buf *url)
{
	CLEANUP(lm_freep) char *scope = c->scope ? strdup(c->scope) : lm_str_printf("repository:%s:pull", repository);
	if (!scope)
		return -ENOMEM;
	int r = lm_buf_printf(url, "%s%cscope=", c->realm, strchr(c->realm, '?') ? '&' : '?');
	if (r == 0)
		r = append_escaped(url, scope);
	if (r == 0 && c->service)
		r = lm_buf_str(url, "&service=");
	return r == 0 && c->service ? append_escaped(url, c->service) : r;
}

/* Nothing that could end the header line. */
static bool token_valid(const char *token)
{
	size_t len = 0;
	while (token[len] > ' ' && token[len] < 0x7f)
		len++;
	return len > 0 && len <= TOKEN_MAX && token[len] == '\0';
}

static int parse_token(const struct lm_buf *answer, char **ret_header, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *root = NULL;
	const char *token = NULL;
	int r = lm_json_load("token", lm_buf_cstr(answer), answer->len, &root, err);
	if (r == 0)
		r = lm_json_string("token", root, "token", LM_JSON_OPTIONAL, &token, err);
	if (r == 0 && !token)
		r = lm_json_string("token", root, "access_token", LM_JSON_REQUIRED, &token, err);
	if (r < 0)
		return r;
	if (!token_valid(token))
		return lm_err_set(err, -EPROTO, "token: too long or with characters that no token has");
	*ret_header = lm_str_printf("Authorization: Bearer %s", token);
	return *ret_header ? 0 : lm_err_oom(err);
}

static int fetch_token(struct lm_http *http, const struct lm_auth_challenge *c, const char *repository,
	char **ret_header, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf url = LM_BUF(URL_MAX);
	CLEANUP(lm_buf_done) struct lm_buf answer = LM_BUF(ANSWER_MAX);
	int r = token_url(c, repository, &url);
	if (r < 0)
		return lm_err_set(err, r, "no address for a token can be made of the registry's challenge");
	struct lm_http_request request = {.url = lm_buf_cstr(&url), .follow_redirects = true};
	r = lm_http_get(http, &request, &answer, NULL, err);
	if (r == 0)
		r = parse_token(&answer, ret_header, err);
	return r < 0 ? lm_err_prefix(err, r, "token from %s", c->realm) : 0;
}

int lm_auth_answer(struct lm_http *http, const char *challenge, const char *repository, bool insecure,
	char **ret_header, struct lm_err *err)
{
	CLEANUP(lm_auth_challenge_done) struct lm_auth_challenge c = {0};
	int r = lm_auth_challenge_parse(challenge, &c, err);
	if (r < 0)
		return r;
	if (!is_bearer(&c))
		return lm_err_set(err, -EACCES, "a user and a password are wanted (%.50s)", c.scheme);
	if (!c.realm ||
		(strncasecmp(c.realm, "https://", 8) != 0 && !(insecure && strncasecmp(c.realm, "http://", 7) == 0)))
		return lm_err_set(err, -EACCES, "tokens are offered at \"%.200s\", which is no safe address",
			c.realm ? c.realm : "");
	return fetch_token(http, &c, repository, ret_header, err);
}
