#include "fetcher/settings.h"

#include "../repo/repo_test.h"

#include "repo/signature.h"

/* A directory with a public key and a settings file that is complete. */
struct place {
	char *dir, *conf, *key;
};

static void place_make(struct place *p, const char *more)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_key_freep) struct lm_key *key = NULL;
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(64 << 10);
	p->dir = temp_dir();
	p->conf = lm_str_printf("%s/lamella.conf", p->dir);
	p->key = lm_str_printf("%s/test.pub", p->dir);
	assert_ok(lm_key_generate(2048, &key, &err), &err);
	assert_ok(lm_key_format_public(key, &pem, &err), &err);
	assert_ok(lm_file_replace(AT_FDCWD, p->key, pem.data, pem.len, 0644, 0, &err), &err);
	CLEANUP(lm_freep)
	char *text = lm_str_printf("CVMFS_REPOSITORIES=a.example.org,b.example.org\n"
				   "CVMFS_SERVER_URL='http://s/cvmfs/@fqrn@'\n"
				   "CVMFS_HTTP_PROXY=DIRECT\n"
				   "CVMFS_PUBLIC_KEY=%s\n%s",
		p->key, more);
	assert_ok(lm_file_replace(AT_FDCWD, p->conf, text, strlen(text), 0644, 0, &err), &err);
}

static void place_remove(struct place *p)
{
	temp_dir_remove(&p->dir);
	free(p->conf);
	free(p->key);
}

/* Loads with the place's file and up to three more arguments. */
static int load(const struct place *p, struct lm_settings **ret, struct lm_err *err, const char *a, const char *b,
	const char *c)
{
	const char *argv[] = {"lamella-fetcher", "--config", p->conf, a, b, c, NULL};
	int argc = 3;
	while (argv[argc])
		argc++;
	return lm_settings_load(argc, (char **)argv, ret, err);
}

static void test_all_keys(void **state)
{
	CLEANUP(place_remove) struct place p = {0};
	CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
	struct lm_err err = LM_ERR_INIT;
	place_make(&p, "CVMFS_TIMEOUT=7\nCVMFS_MAX_RETRIES=3\nCVMFS_MAX_TTL=2\nCVMFS_CACHE_BASE=/c\n"
		       "LAMELLA_MOUNT_BASE=/m\nLAMELLA_SOCKET=/run/x.sock\nSOMETHING_ELSE=1\n");
	assert_ok(load(&p, &s, &err, NULL, NULL, NULL), &err);
	assert_int_equal(s->repository_count, 2);
	assert_string_equal(s->repositories[1].fqrn, "b.example.org");
	assert_string_equal(s->repositories[0].servers, "http://s/cvmfs/a.example.org");
	assert_string_equal(s->repositories[0].proxies, "DIRECT");
	assert_int_equal(s->repositories[0].key_count, 1);
	assert_int_equal(s->repositories[0].timeout_ms, 7000);
	assert_int_equal(s->repositories[0].timeout_direct_ms, 10000);
	assert_int_equal(s->repositories[0].max_retries, 3);
	assert_int_equal(s->repositories[0].max_ttl_s, 120);
	assert_string_equal(s->socket, "/run/x.sock");
	assert_false(s->require_mounts);
	assert_string_equal(s->repositories[0].mountpoint, "/m/a.example.org");
}

static void test_command_line_wins(void **state)
{
	CLEANUP(place_remove) struct place p = {0};
	CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
	struct lm_err err = LM_ERR_INIT;
	place_make(&p, "CVMFS_TIMEOUT=7\n");
	assert_ok(load(&p, &s, &err, "--set=CVMFS_TIMEOUT=9", "--set=CVMFS_REPOSITORIES=c.example.org",
			  "--set=LAMELLA_MOUNTPOINT=/mnt/c"),
		&err);
	assert_int_equal(s->repositories[0].timeout_ms, 9000);
	assert_int_equal(s->repository_count, 1);
	assert_string_equal(s->repositories[0].mountpoint, "/mnt/c");
}

static void test_defaults(void **state)
{
	CLEANUP(place_remove) struct place p = {0};
	CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
	struct lm_err err = LM_ERR_INIT;
	place_make(&p, "");
	assert_ok(load(&p, &s, &err, "--log-level=debug", "--require-mounts", "--foreground"), &err);
	assert_string_equal(s->cache_base, "/var/lib/cvmfs");
	assert_string_equal(s->socket, "/run/lamella/fetcher.sock");
	assert_int_equal(s->repositories[0].max_retries, 1);
	assert_int_equal(s->log_level, LM_LOG_DEBUG);
	assert_true(s->require_mounts);
	assert_string_equal(s->repositories[1].mountpoint, "/cvmfs/b.example.org");
	assert_int_equal(s->repositories[0].pin.kind, LM_PIN_NONE);
	assert_int_equal(s->repositories[0].catalog_max, 1 << 30);
}

/* Root hash before tag before date; the empty value is none. */
static void test_pins(void **state)
{
	static const char hash[] = "c39b376cee68a9221393f25c7a5fb46a56ec2947-shake128";
	static const struct {
		const char *root, *tag, *date, *text;
	} cases[] = {
		{"", "", "", ""},
		{"", "", "2026-11-21T23:46:38Z", "date 2026-11-21T23:46:38Z"},
		{"", "", "1969-12-31T23:59:59Z", "date 1969-12-31T23:59:59Z"},
		{"", "", "2028-02-29T00:00:00Z", "date 2028-02-29T00:00:00Z"},
		{"", "v1", "", "tag v1"},
		{"", "v1", "2026-11-21T23:46:38Z", "tag v1"},
		{hash, "v1", "2026-11-21T23:46:38Z", "root c39b376cee68a9221393f25c7a5fb46a56ec2947-shake128"},
	};
	CLEANUP(place_remove) struct place p = {0};
	place_make(&p, "LAMELLA_CATALOG_MAX=7\n");
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_freep)
		char *text = lm_str_printf("CVMFS_REPOSITORIES=a.example.org\nCVMFS_ROOT_HASH=%s\n"
					   "CVMFS_REPOSITORY_TAG=%s\nCVMFS_REPOSITORY_DATE=%s\n",
			cases[i].root, cases[i].tag, cases[i].date);
		CLEANUP(lm_freep) char *more = lm_str_printf("%s/more.conf", p.dir);
		assert_ok(lm_file_replace(AT_FDCWD, more, text, strlen(text), 0644, 0, &err), &err);
		assert_ok(load(&p, &s, &err, "--config", more, NULL), &err);
		CLEANUP(lm_freep) char *said = lm_pin_text(&s->repositories[0].pin);
		assert_string_equal(said, cases[i].text);
		assert_int_equal(s->repositories[0].catalog_max, 7 << 20);
	}
}

static void test_key_dir(void **state)
{
	CLEANUP(place_remove) struct place p = {0};
	CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
	struct lm_err err = LM_ERR_INIT;
	place_make(&p, "CVMFS_PUBLIC_KEY=\n");
	CLEANUP(lm_freep) char *dir = lm_str_printf("--set=CVMFS_KEYS_DIR=%s", p.dir);
	assert_ok(load(&p, &s, &err, dir, NULL, NULL), &err);
	assert_int_equal(s->repositories[0].key_count, 1); /* *.pub only, not the settings file beside it */
}

/* Each argument makes the settings wrong; the words must be in the message. */
static void test_refused(void **state)
{
	static const struct {
		const char *argument, *words;
	} wrong[] = {
		{"--set=LAMELLA_SOKET=/x", "LAMELLA_SOKET"},
		{"--set=CVMFS_REPOSITORIES=", "CVMFS_REPOSITORIES"},
		{"--set=CVMFS_REPOSITORIES=../etc", "../etc"},
		{"--set=CVMFS_REPOSITORIES=a.b,a.b", "twice"},
		{"--set=CVMFS_HTTP_PROXY=", "CVMFS_HTTP_PROXY"},
		{"--set=CVMFS_SERVER_URL=", "CVMFS_SERVER_URL"},
		{"--set=CVMFS_PUBLIC_KEY=", "CVMFS_KEYS_DIR"},
		{"--set=CVMFS_PUBLIC_KEY=/nonexistent.pub", "/nonexistent.pub"},
		{"--set=CVMFS_TIMEOUT=soon", "CVMFS_TIMEOUT"},
		{"--set=CVMFS_TIMEOUT=-1", "CVMFS_TIMEOUT"},
		{"--set=CVMFS_MAX_TTL=99999999999", "CVMFS_MAX_TTL"},
		{"--set=CVMFS_CACHE_BASE=relative", "absolute"},
		{"--set=LAMELLA_MOUNTPOINT=/mnt", "LAMELLA_MOUNTPOINT"}, /* two repositories */
		{"--set=CVMFS_BLACKLIST=/nonexistent", "CVMFS_BLACKLIST"},
		{"--set=CVMFS_ROOT_HASH=c39b376cee68a9221393f25c7a5fb46a56ec2947", "one repository"},
		{"--set=CVMFS_REPOSITORY_DATE=yesterday", "yesterday"},
		{"--set=CVMFS_REPOSITORY_DATE=2026-11-21", "no time like"},
		{"--set=CVMFS_REPOSITORY_DATE=2026-11-21T23:46:38", "no time like"},
		{"--set=CVMFS_REPOSITORY_DATE=2026-11-21T23:46:38Z.", "no time like"},
		{"--set=CVMFS_REPOSITORY_DATE=2026-02-30T00:00:00Z", "no time like"},
		{"--set=CVMFS_REPOSITORY_DATE=2026-1-1T0:0:0Z", "no time like"},
		{"--set=LAMELLA_CATALOG_MAX=9999999999", "LAMELLA_CATALOG_MAX"},
		{"--set=NOVALUE", "KEY=VALUE"},
		{"--log-level=loud", "loud"},
		{"--config=/nonexistent.conf", "/nonexistent.conf"},
		{"surplus", "surplus"},
	};
	CLEANUP(place_remove) struct place p = {0};
	place_make(&p, "");
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		struct lm_settings *s = NULL;
		struct lm_err err = LM_ERR_INIT;
		int r = load(&p, &s, &err, wrong[i].argument, NULL, NULL);
		if (r >= 0)
			fail_msg("%s was accepted", wrong[i].argument);
		if (!strstr(err.msg, wrong[i].words))
			fail_msg("%s: \"%s\" does not name %s", wrong[i].argument, err.msg, wrong[i].words);
	}
}

static void test_key_that_is_none(void **state)
{
	CLEANUP(place_remove) struct place p = {0};
	struct lm_settings *s = NULL;
	struct lm_err err = LM_ERR_INIT;
	place_make(&p, "");
	assert_ok(lm_file_replace(AT_FDCWD, p.key, "no key", 6, 0644, 0, &err), &err);
	assert_true(load(&p, &s, &err, NULL, NULL, NULL) < 0);
	assert_non_null(strstr(err.msg, p.key));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_keys),
		cmocka_unit_test(test_command_line_wins),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_pins),
		cmocka_unit_test(test_key_dir),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_key_that_is_none),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
