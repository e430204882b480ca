/* Which credential a file holds for a registry, and helpers that answer, fail, hang or talk too much. */
#include "base/file.h"
#include "base/str.h"
#include "oci/credentials.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define AUTH(key, text) "\"" key "\":{\"auth\":\"" text "\"}"
#define A "YTox" /* a:1 */
#define B "Yjoy" /* b:2 */

static void files(void **state)
{
	static const struct {
		const char *json, *registry, *repository, *user, *helper; /* helper: NAME SERVER */
	} cases[] = {
		{"{}", "h", "r", NULL, NULL},
		{"{\"auths\":{" AUTH("h", A) "}}", "h", "r", "a", NULL},
		{"{\"auths\":{" AUTH("h", A) "}}", "h:5000", "r", NULL, NULL},
		{"{\"auths\":{" AUTH("h", A) "," AUTH("h/x", B) "}}", "h", "x/y", "b", NULL},
		{"{\"auths\":{" AUTH("h", A) "," AUTH("h/x", B) "}}", "h", "xx/y", "a", NULL},
		{"{\"auths\":{" AUTH("https://h/v1/", A) "}}", "h", "r", "a", NULL},
		{"{\"auths\":{" AUTH("https://index.docker.io/v1/", A) "}}", "docker.io", "library/x", "a", NULL},
		{"{\"auths\":{\"h\":{}},\"credsStore\":\"s\"}", "h", "r", NULL, "s h"},
		{"{\"credsStore\":\"s\"}", "docker.io", "r", NULL, "s https://index.docker.io/v1/"},
		{"{\"credHelpers\":{\"h\":\"k\"},\"auths\":{" AUTH("h", A) "}}", "h", "r", NULL, "k h"},
		{"{\"credHelpers\":{\"i\":\"k\"},\"auths\":{" AUTH("h", A) "}}", "h", "r", "a", NULL},
	};
	static const char *const bad[] = {"[]", "{\"auths\":7}", "{\"auths\":{" AUTH("h", "!!!!") "}}",
		"{\"auths\":{" AUTH("h", "YWFh") "}}", "{\"credHelpers\":{\"h\":\"../x\"}}",
		"{\"auths\":{\"h\" secret"};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_credential_done) struct lm_credential c = {0};
		CLEANUP(lm_credential_helper_done) struct lm_credential_helper h = {0};
		int r = lm_credentials_parse(
			cases[i].json, strlen(cases[i].json), cases[i].registry, cases[i].repository, &c, &h, NULL);
		CLEANUP(lm_freep) char *helper = h.name ? lm_str_printf("%s %s", h.name, h.server) : NULL;
		if (r != (cases[i].user != NULL) || (c.user && strcmp(c.user, cases[i].user) != 0) ||
			(helper != NULL) != (cases[i].helper != NULL) ||
			(helper && strcmp(helper, cases[i].helper) != 0))
			fail_msg("case %zu: %d, %s, %s", i, r, c.user ? c.user : "-", helper ? helper : "-");
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct lm_credential c = {0};
		struct lm_credential_helper h = {0};
		struct lm_err err = LM_ERR_INIT;
		if (lm_credentials_parse(bad[i], strlen(bad[i]), "h", "r", &c, &h, &err) != -EPROTO)
			fail_msg("accepted: %s", bad[i]);
		assert_null(strstr(err.msg, "secret"));
	}
}

static void helpers(void **state)
{
	static const struct {
		const char *script;
		int r;
	} cases[] = {
		{"echo '{\"Username\":\"u\",\"Secret\":\"p\"}'", 1},
		{"echo credentials not found in native keychain; exit 1", 0}, {"exit 3", -EACCES},
		{"kill -9 $$", -EACCES}, {"echo nonsense", -EPROTO}, {"head -c 100000 /dev/zero", -EPROTO},
		{"sleep 100", -ETIMEDOUT},
		{"sleep 100 & echo '{}'", -ETIMEDOUT}, /* who holds the pipe is killed, too */
	};
	char dir[] = "/tmp/lamella-helper.XXXXXX";
	assert_non_null(mkdtemp(dir));
	CLEANUP(lm_freep) char *program = lm_str_printf("%s/docker-credential-t", dir);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s:%s", dir, getenv("PATH"));
	setenv("PATH", path, 1);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_credential_done) struct lm_credential c = {0};
		CLEANUP(lm_freep) char *text = lm_str_printf("#!/bin/sh\n%s\n", cases[i].script);
		char name[] = "t", server[] = "h";
		const struct lm_credential_helper helper = {name, server};
		assert_int_equal(lm_file_replace(AT_FDCWD, program, text, strlen(text), 0755, 0, NULL), 0);
		int r = lm_credential_helper_ask(&helper, cases[i].r == -ETIMEDOUT ? 200 : 20000, &c, NULL);
		if (r != cases[i].r || (r == 1 && (strcmp(c.user, "u") != 0 || strcmp(c.password, "p") != 0)))
			fail_msg("%s: %d", cases[i].script, r);
	}
	assert_int_equal(lm_remove_tree(AT_FDCWD, dir, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(files), cmocka_unit_test(helpers)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
