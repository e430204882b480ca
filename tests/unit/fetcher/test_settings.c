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

/* A directory as a site has it in /etc/cvmfs. */

static void write_at(const struct place *p, const char *name, const char *text)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", p->dir, name);
	CLEANUP(lm_freep) char *dir = lm_str_ndup(path, (size_t)(strrchr(path, '/') - path));
	assert_ok(lm_mkdir_p(AT_FDCWD, dir, 0755, &err), &err);
	assert_ok(lm_file_replace(AT_FDCWD, path, text, strlen(text), 0644, 0, &err), &err);
}

static int load_site(const struct place *p, struct lm_settings **ret, struct lm_err *err, const char *more)
{
	CLEANUP(lm_freep) char *own = lm_str_printf("%s/own.conf", p->dir);
	CLEANUP(lm_freep) char *copy = lm_str_printf("%s/copy", p->dir);
	const char *argv[] = {
		"lamella-fetcher", "--config-dir", p->dir, "--config-repository", copy, "--config", own, more, NULL};
	return lm_settings_load(ARRAY_LEN(argv) - 1 - !more, (char **)argv, ret, err);
}

static void site_make(struct place *p)
{
	place_make(p, "");
	CLEANUP(lm_freep)
	char *local =
		lm_str_printf("CVMFS_REPOSITORIES=a,b.example.org,c.example.net\nCVMFS_HTTP_PROXY=http://squid:3128\n"
			      "CVMFS_KEYS_DIR=%s\nORDER=\"$ORDER 5\"\n",
			p->dir);
	write_at(p, "default.conf", "CVMFS_MOUNT_DIR=/stock\nCVMFS_CACHE_BASE=/c\nORDER=1\n");
	write_at(p, "default.d/20-b.conf", "ORDER=\"$ORDER 3\"\n");
	write_at(p, "default.d/10-a.conf", "ORDER=\"$ORDER 2\"\nCVMFS_DEFAULT_DOMAIN=example.org\n");
	write_at(p, "default.d/30-c.conf.rpmsave", "x x\n");
	write_at(p, "copy/default.conf", "ORDER=\"$ORDER 4\"\n");
	write_at(p, "default.local", local);
	write_at(p, "copy/domain.d/example.org.conf", "ORDER=\"$ORDER 6\"\n");
	write_at(p, "domain.d/example.org.conf", "ORDER=\"$ORDER 7\"\nCVMFS_SERVER_URL='http://s/cvmfs/@fqrn@'\n");
	write_at(p, "domain.d/example.org.local", "ORDER=\"$ORDER 8\"\nCVMFS_MAX_RETRIES=4\n");
	write_at(p, "domain.d/example.net.conf", "CVMFS_SERVER_URL='http://n/@org@'\n");
	write_at(p, "copy/config.d/a.example.org.conf", "ORDER=\"$ORDER 9\"\n");
	write_at(p, "config.d/a.example.org.conf", "ORDER=\"$ORDER 10\"\n");
	write_at(p, "config.d/a.example.org.local", "ORDER=\"$ORDER 11 $CVMFS_FQRN\"\nCVMFS_MAX_RETRIES=5\n");
	write_at(p, "own.conf", "ORDER=\"$ORDER 12\"\n");
}

static void test_site(void **state)
{
	CLEANUP(place_remove) struct place p = {0};
	CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
	struct lm_err err = LM_ERR_INIT;
	site_make(&p);
	assert_ok(load_site(&p, &s, &err, NULL), &err);
	assert_int_equal(s->repository_count, 3);
	const struct lm_repository_settings *a = lm_settings_find(s, "a.example.org");
	const struct lm_repository_settings *b = lm_settings_find(s, "b.example.org");
	const struct lm_repository_settings *c = lm_settings_find(s, "c.example.net");
	assert_true(a && b && c && !lm_settings_find(s, "d.example.org"));
	assert_string_equal(lm_conf_get(s->conf, "ORDER"), "1 2 3 4 5 12");
	assert_string_equal(lm_conf_get(a->conf, "ORDER"), "1 2 3 4 5 6 7 8 9 10 11 a.example.org 12");
	assert_string_equal(lm_conf_get(b->conf, "ORDER"), "1 2 3 4 5 6 7 8 12");
	assert_string_equal(a->servers, "http://s/cvmfs/a.example.org");
	assert_string_equal(c->servers, "http://n/c");
	assert_string_equal(a->mountpoint, "/stock/a.example.org");
	assert_int_equal(a->max_retries, 5);
	assert_int_equal(b->max_retries, 4);
	assert_int_equal(c->max_retries, 1);
	assert_int_equal(s->quota, (uint64_t)4000 << 20);
	assert_int_equal(c->key_count, 1);
}

static void test_site_is_refused(void **state)
{
	static const struct {
		const char *file, *text, *words;
	} wrong[] = {
		{"default.conf", "A=$(date)\n", "default.conf:1: "},
		{"config.d/a.example.org.local", "\nCVMFS_TIMEOUT=x\n", "a.example.org.local:2: CVMFS_TIMEOUT=x"},
		{"domain.d/example.net.conf", "A=1", "CVMFS_SERVER_URL must be set for c.example.net"},
		{"config.d/b.example.org.conf", "LAMELLA_READ_TIMEOT=1\n", "is LAMELLA_READ_TIMEOUT meant?"},
		{"own.conf", "CVMFS_ROOT_HASH=c39b376cee68a9221393f25c7a5fb46a56ec2947\n", "one repository"},
		{"own.conf", "LAMELLA_LOG_LEVEL=loud\n", "one of error warn info debug"},
		{"own.conf", "CVMFS_IPFAMILY_PREFER=5\nCVMFS_QUOTA_LIMIT=-2\n", "CVMFS_QUOTA_LIMIT=-2 is not a number"},
		{"config.d/a.example.org.local", "LAMELLA_MOUNTPOINT=/stock/b.example.org\n", "LAMELLA_MOUNTPOINT"},
	};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		CLEANUP(place_remove) struct place p = {0};
		CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
		struct lm_err err = LM_ERR_INIT;
		site_make(&p);
		write_at(&p, wrong[i].file, wrong[i].text);
		if (load_site(&p, &s, &err, NULL) >= 0)
			fail_msg("%s with %s was accepted", wrong[i].file, wrong[i].text);
		if (!strstr(err.msg, wrong[i].words))
			fail_msg("%s: \"%s\" does not say %s", wrong[i].file, err.msg, wrong[i].words);
	}
}

/* The stock client takes the directory where both are set; a list in a file that is read later is meant to count. */
static void test_which_keys(void **state)
{
	CLEANUP(place_remove) struct place p = {0};
	struct lm_err err = LM_ERR_INIT;
	site_make(&p);
	CLEANUP(lm_freep) char *list = lm_str_printf("CVMFS_PUBLIC_KEY=%s:%s\n", p.key, p.key);
	static const struct {
		const char *file;
		size_t keys;
	} cases[] = {{"default.conf", 1}, {"own.conf", 2}, {"config.d/a.example.org.local", 2}};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
		write_at(&p, cases[i].file, list);
		assert_ok(load_site(&p, &s, &err, NULL), &err);
		assert_int_equal(s->repositories[0].key_count, cases[i].keys);
		write_at(&p, cases[i].file, "");
	}
}

/* KEY= takes a value back. */
static void test_empty_is_default(void **state)
{
	CLEANUP(place_remove) struct place p = {0};
	CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
	struct lm_err err = LM_ERR_INIT;
	place_make(&p, "CVMFS_TIMEOUT=7\nCVMFS_TIMEOUT=\nCVMFS_PROXY_SHARD=\nCVMFS_QUOTA_LIMIT=-1\n"
		       "LAMELLA_LOG_LEVEL=\nLAMELLA_CATALOG_MAX=\n");
	assert_ok(load(&p, &s, &err, NULL, NULL, NULL), &err);
	assert_int_equal(s->repositories[0].timeout_ms, 5000);
	assert_false(s->repositories[0].proxy_shard);
	assert_true(s->quota == LM_SETTINGS_UNLIMITED);
	assert_int_equal(s->log_level, LM_LOG_INFO);
}

/* Every default is a value that the table allows; every key is there once, and in one list. */
static void test_table(void **state)
{
	for (const struct lm_setting *s = lm_settings_table; s->key; s++) {
		assert_non_null(s->help);
		assert_non_null(s->fallback);
		assert_ptr_equal(lm_setting_find(s->key), s);
		assert_null(lm_setting_find_elsewhere(s->key));
	}
	for (const struct lm_setting_elsewhere *s = lm_settings_elsewhere; s->key; s++) {
		assert_ptr_equal(lm_setting_find_elsewhere(s->key), s);
		assert_null(lm_setting_find(s->key));
	}
	assert_non_null(lm_setting_find_elsewhere("CVMFS_CACHE_hpc_TYPE"));
	assert_string_equal(lm_setting_nearest("CVMFS_HTTP_PROXI"), "CVMFS_HTTP_PROXY");
	assert_string_equal(lm_setting_nearest("CVMFS_STRIKT_MOUNT"), "CVMFS_STRICT_MOUNT");
	assert_null(lm_setting_nearest("CVMFS_SOMETHING_ELSE_ENTIRELY"));
}

/* Parameters of the stock client, as its documentation lists them: each is in one of the tables. */
static void test_stock_client(void **state)
{
	static const char names[] =
		"ALIEN_CACHE ALT_ROOT_PATH AUTO_UPDATE AUTHZ_HELPER AUTHZ_SEARCH_PATH BACKOFF_INIT BACKOFF_MAX "
		"CATALOG_WATERMARK CACHE_BASE CACHE_REFCOUNT CACHE_SYMLINKS CHECK_PERMISSIONS CLAIM_OWNERSHIP "
		"CPU_AFFINITY DEBUGLOG DEFAULT_DOMAIN DNS_MIN_TTL DNS_MAX_TTL DNS_RETRIES DNS_TIMEOUT DNS_ROAMING "
		"ENFORCE_ACLS EXTERNAL_FALLBACK_PROXY EXTERNAL_HTTP_PROXY EXTERNAL_MAX_SERVERS EXTERNAL_TIMEOUT "
		"EXTERNAL_TIMEOUT_DIRECT EXTERNAL_URL FALLBACK_PROXY FOLLOW_REDIRECTS HIDE_MAGIC_XATTRS "
		"HOST_RESET_AFTER HTTP_PROXY HTTP_TRACING HTTP_TRACING_HEADERS IGNORE_SIGNATURE INITIAL_GENERATION "
		"INSTRUMENT_FUSE NFS_INTERLEAVED_INODES INFLUX_EXTRA_FIELDS INFLUX_EXTRA_TAGS INFLUX_HOST "
		"INFLUX_METRIC_NAME INFLUX_PORT IPFAMILY_PREFER KCACHE_TIMEOUT KEYS_DIR LOW_SPEED_LIMIT "
		"MAX_EXTERNAL_SERVERS MAX_IPADDR_PER_PROXY MAX_RETRIES MAX_SERVERS MAX_TTL MEMCACHE_SIZE MOUNT_RW "
		"NFILES NFS_SOURCE NFS_SHARED PAC_URLS OOM_SCORE_ADJ PROXY_RESET_AFTER PROXY_SHARD PROXY_TEMPLATE "
		"PUBLIC_KEY QUOTA_LIMIT RELOAD_SOCKETS REPOSITORIES REPOSITORY_DATE REPOSITORY_TAG "
		"CONFIG_REPO_REQUIRED ROOT_HASH SEND_INFO_HEADER SERVER_CACHE_MODE SERVER_URL SHARED_CACHE "
		"STATFS_CACHE_TIMEOUT STREAMING_CACHE STRICT_MOUNT SUID SYSLOG_FACILITY SYSLOG_LEVEL SYSTEMD_NOKILL "
		"TELEMETRY_RATE TELEMETRY_SEND TIMEOUT TIMEOUT_DIRECT TRACEFILE USE_GEOAPI USE_SSL_SYSTEM_CA USER "
		"USYSLOG XATTR_PRIVILEGED_GIDS XATTR_PROTECTED_XATTRS WORKSPACE WORLD_READABLE";
	CLEANUP(lm_freep) char *copy = strdup(names);
	char *save = NULL;
	for (char *name = strtok_r(copy, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
		CLEANUP(lm_freep) char *key = lm_str_printf("CVMFS_%s", name);
		if (!lm_setting_find(key) && !lm_setting_find_elsewhere(key))
			fail_msg("%s is in no table", key);
	}
}

static void test_manual(void **state)
{
	const char *root = getenv("LM_SOURCE_ROOT");
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(1 << 20);
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/deploy/man/lamella.conf.5", root ? root : ".");
	assert_ok(lm_file_read(AT_FDCWD, path, &text, &err), &err);
	for (const struct lm_setting *s = lm_settings_table; s->key; s++)
		if (!strstr(lm_buf_cstr(&text), s->key))
			fail_msg("lamella.conf(5) does not name %s", s->key);
	for (const struct lm_setting_elsewhere *s = lm_settings_elsewhere; s->key; s++)
		if (!strstr(lm_buf_cstr(&text), s->key))
			fail_msg("lamella.conf(5) does not name %s", s->key);
}

static void add_change(void *arg, const struct lm_settings_change *c)
{
	CLEANUP(lm_freep)
	char *line = lm_str_printf("%s %s %s > %s %d\n", c->fqrn, c->setting->key, c->from, c->to, c->setting->reload);
	assert_int_equal(lm_buf_str(arg, line), 0);
}

static void test_diff(void **state)
{
	CLEANUP(place_remove) struct place p = {0};
	CLEANUP(lm_settings_unrefp) struct lm_settings *older = NULL;
	CLEANUP(lm_settings_unrefp) struct lm_settings *newer = NULL;
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(64 << 10);
	struct lm_err err = LM_ERR_INIT;
	site_make(&p);
	assert_ok(load_site(&p, &older, &err, NULL), &err);
	assert_ok(load_site(&p, &newer, &err, NULL), &err);
	assert_ok(lm_settings_diff(older, newer, add_change, &out, &err), &err);
	assert_string_equal(lm_buf_cstr(&out), "");
	lm_settings_unref(STEAL(newer));
	write_at(&p, "own.conf",
		"CVMFS_REPOSITORIES=a,d.example.org\nCVMFS_CACHE_BASE=/d\nCVMFS_QUOTA_LIMIT=4000\n"
		"CVMFS_HTTP_PROXY='http://u:p@other:1'\n");
	write_at(&p, "config.d/a.example.org.local", "CVMFS_MAX_RETRIES=6\n");
	assert_ok(load_site(&p, &newer, &err, NULL), &err);
	assert_ok(lm_settings_diff(older, newer, add_change, &out, &err), &err);
	CLEANUP(lm_freep)
	char *expected = lm_str_printf(" CVMFS_REPOSITORIES a,b.example.org,c.example.net > a,d.example.org %d\n"
				       " CVMFS_CACHE_BASE /c > /d %d\n"
				       "a.example.org CVMFS_HTTP_PROXY http://squid:3128 > http://u:***@other:1 %d\n"
				       "a.example.org CVMFS_MAX_RETRIES 5 > 6 %d\n",
		LM_RELOAD_WORKER, LM_RELOAD_START, LM_RELOAD_LIVE, LM_RELOAD_LIVE);
	assert_string_equal(lm_buf_cstr(&out), expected);
}

static void add_remark(void *arg, const struct lm_settings_remark *r)
{
	struct lm_buf *out = arg;
	CLEANUP(lm_freep)
	char *line = lm_str_printf(
		"%c %s %s %u: %s\n", r->warning ? 'W' : '-', r->fqrn, r->entry->key, r->entry->line, r->text);
	assert_int_equal(lm_buf_str(out, line), 0);
}

static void test_remarks(void **state)
{
	CLEANUP(place_remove) struct place p = {0};
	CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(64 << 10);
	struct lm_err err = LM_ERR_INIT;
	site_make(&p);
	write_at(&p, "own.conf",
		"CVMFS_QUOTA_LIMT=1\nCVMFS_USER=cvmfs\nCVMFS_NFS_SOURCE=no\nSITE=x\n"
		"CVMFS_MOUNT_RW=yes\n");
	write_at(&p, "config.d/b.example.org.local", "CVMFS_QUOTA_LIMIT=5\nCVMFS_ALIEN_CACHE=/x\nCVMFS_X=1\n");
	assert_ok(load_site(&p, &s, &err, NULL), &err);
	lm_settings_remarks(s, add_remark, &out);
	assert_string_equal(lm_buf_cstr(&out),
		"W  CVMFS_QUOTA_LIMT 1: unknown, also to the stock client; is CVMFS_QUOTA_LIMIT meant?\n"
		"-  CVMFS_USER 2: the service runs as who starts it\n"
		"-  CVMFS_NFS_SOURCE 3: export by NFS is not supported\n"
		"W  CVMFS_MOUNT_RW 5: has no effect: mounts are always read-only\n"
		"W b.example.org CVMFS_QUOTA_LIMIT 1: has no effect here: this is a setting of the node, not of a "
		"repository\n"
		"W b.example.org CVMFS_ALIEN_CACHE 2: has no effect: a cache shared with stock clients is not "
		"supported\n"
		"W b.example.org CVMFS_X 3: unknown, also to the stock client\n");
}

static void test_passwords_are_hidden(void **state)
{
	static const struct {
		const char *value, *shown;
	} cases[] = {
		{"http://u:p@h:1;http://h|http://u2:p@q@h2", "http://u:***@h:1;http://h|http://u2:***@h2"},
		{"http://u@h/a:b@c", "http://u@h/a:b@c"},
		{"DIRECT", "DIRECT"},
		{"http://", "http://"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_conf_freep) struct lm_conf *conf = NULL;
		struct lm_err err = LM_ERR_INIT;
		assert_ok(lm_conf_new(&conf, &err), &err);
		assert_ok(lm_conf_set(conf, "CVMFS_HTTP_PROXY", cases[i].value, "test", &err), &err);
		CLEANUP(lm_freep) char *shown = lm_setting_shown(conf, lm_setting_find("CVMFS_HTTP_PROXY"));
		assert_string_equal(shown, cases[i].shown);
	}
}

static void unpacked_is(const struct lm_settings *expected, const struct lm_buf *packed)
{
	CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
	CLEANUP(lm_buf_done) struct lm_buf again = LM_BUF(LM_SETTINGS_PACKED_MAX);
	CLEANUP(lm_buf_done) struct lm_buf changes = LM_BUF(64 << 10);
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_settings_unpack(packed, &s, &err), &err);
	assert_int_equal(s->repository_count, expected->repository_count);
	assert_ok(lm_settings_diff(expected, s, add_change, &changes, &err), &err);
	assert_string_equal(lm_buf_cstr(&changes), "");
	assert_ok(lm_settings_pack(s, NULL, &again, &err), &err);
	assert_int_equal(again.len, packed->len);
	assert_memory_equal(again.data, packed->data, packed->len);
}

/* What the next process makes of them needs no file, not even those of keys. */
static void test_packed(void **state)
{
	CLEANUP(place_remove) struct place p = {0};
	CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
	CLEANUP(lm_buf_done) struct lm_buf packed = LM_BUF(LM_SETTINGS_PACKED_MAX);
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *blacklist = NULL;
	place_make(&p, "CVMFS_MAX_RETRIES=7\nCVMFS_REPOSITORY_TAG=v1\nSOMETHING_ELSE=1\n");
	write_at(&p, "forbidden", "<images 7\n");
	blacklist = lm_str_printf("--set=CVMFS_BLACKLIST=%s/forbidden", p.dir);
	assert_ok(load(&p, &s, &err, blacklist, "--require-mounts", NULL), &err);
	assert_ok(lm_settings_pack(s, NULL, &packed, &err), &err);
	unlink(p.conf);
	unlink(p.key);
	unpacked_is(s, &packed);

	CLEANUP(lm_settings_unrefp) struct lm_settings *later = NULL;
	assert_ok(lm_settings_unpack(&packed, &later, &err), &err);
	assert_true(later->require_mounts);
	assert_int_equal(later->repositories[1].max_retries, 7);
	assert_int_equal(later->repositories[1].key_count, 1);
	assert_int_equal(later->repositories[1].pin.kind, LM_PIN_TAG);
	assert_string_equal(later->repositories[1].blacklist, "<images 7\n");
	assert_string_equal(lm_conf_entry(later->conf, "CVMFS_MAX_RETRIES")->file, p.conf);
	assert_int_equal(lm_conf_entry(later->conf, "CVMFS_MAX_RETRIES")->line, 5);

	/* Of another version, or damaged. */
	size_t len = packed.len;
	for (packed.len = 0; packed.len < len; packed.len++) {
		CLEANUP(lm_settings_unrefp) struct lm_settings *cut = NULL;
		assert_true(lm_settings_unpack(&packed, &cut, NULL) < 0);
	}
	assert_int_equal(lm_buf_append(&packed, "", 1), 0);
	lm_settings_unref(STEAL(later));
	assert_int_equal(lm_settings_unpack(&packed, &later, &err), -EPROTO);
	packed.len = len;
	packed.data[sizeof("lamella-settings")] = '9';
	assert_int_equal(lm_settings_unpack(&packed, &later, &err), -EPROTO);
}

/* What needs a start of the program stays as it was then, but for repositories that are new. */
static void test_packed_for_another_worker(void **state)
{
	CLEANUP(place_remove) struct place p = {0};
	CLEANUP(lm_settings_unrefp) struct lm_settings *started = NULL;
	CLEANUP(lm_settings_unrefp) struct lm_settings *files = NULL;
	CLEANUP(lm_settings_unrefp) struct lm_settings *s = NULL;
	CLEANUP(lm_buf_done) struct lm_buf packed = LM_BUF(LM_SETTINGS_PACKED_MAX);
	struct lm_err err = LM_ERR_INIT;
	place_make(&p, "CVMFS_CACHE_BASE=/old\nCVMFS_MAX_RETRIES=1\n");
	assert_ok(load(&p, &started, &err, "--set=CVMFS_REPOSITORIES=a.example.org", NULL, NULL), &err);
	assert_ok(load(&p, &files, &err, "--set=CVMFS_CACHE_BASE=/new", "--set=CVMFS_MAX_RETRIES=2",
			  "--set=CVMFS_REPOSITORY_TAG=v1"),
		&err);
	assert_ok(lm_settings_pack(files, started, &packed, &err), &err);
	assert_ok(lm_settings_unpack(&packed, &s, &err), &err);
	assert_string_equal(s->cache_base, "/old");
	assert_int_equal(s->repository_count, 2);
	assert_int_equal(s->repositories[0].max_retries, 2);
	assert_int_equal(s->repositories[0].pin.kind, LM_PIN_NONE);
	assert_int_equal(s->repositories[1].pin.kind, LM_PIN_TAG);
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
		cmocka_unit_test(test_site),
		cmocka_unit_test(test_site_is_refused),
		cmocka_unit_test(test_which_keys),
		cmocka_unit_test(test_empty_is_default),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_stock_client),
		cmocka_unit_test(test_manual),
		cmocka_unit_test(test_diff),
		cmocka_unit_test(test_packed),
		cmocka_unit_test(test_packed_for_another_worker),
		cmocka_unit_test(test_remarks),
		cmocka_unit_test(test_passwords_are_hidden),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
