/* Key directories: what others made, and a change of the certificate interrupted at each step. */
#include "repo/repo_keys.h"

#include "repo_test.h"

#include <sys/stat.h>

#define FQRN "test.example.org"

static char *dir;

static int setup(void **state)
{
	dir = temp_dir();
	return 0;
}

static int teardown(void **state)
{
	temp_dir_remove(&dir);
	return 0;
}

/* DIR/NAMEsuffix. Valid until the fourth call after. */
static const char *file(const char *suffix)
{
	static char paths[4][512];
	static unsigned count;
	char *path = paths[count++ % 4];
	snprintf(path, sizeof(paths[0]), "%s/" FQRN "%s", dir, suffix);
	return path;
}

static bool there(const char *suffix)
{
	return access(file(suffix), F_OK) == 0;
}

static void make(struct lm_repo_keys *ret)
{
	struct lm_err err = LM_ERR_INIT;
	*ret = (struct lm_repo_keys){0};
	assert_ok(lm_repo_keys_make(dir, FQRN, ret, &err), &err);
}

static void load(struct lm_repo_keys *ret)
{
	struct lm_err err = LM_ERR_INIT;
	*ret = (struct lm_repo_keys){0};
	assert_ok(lm_repo_keys_load(dir, FQRN, ret, &err), &err);
}

static void stage(struct lm_repo_keys *keys)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_repo_keys_stage(dir, FQRN, keys, &err), &err);
	assert_non_null(keys->master);
	assert_true(lm_cert_matches_key(keys->cert, keys->key));
}

static void install(void)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_repo_keys_install(dir, FQRN, &err), &err);
}

static bool same_key(const struct lm_repo_keys *a, const struct lm_repo_keys *b)
{
	return lm_cert_matches_key(a->cert, b->key);
}

static bool same_cert(const struct lm_repo_keys *a, const struct lm_repo_keys *b)
{
	struct lm_hash x, y;
	assert_int_equal(lm_cert_fingerprint(a->cert, LM_HASH_SHA1, &x, NULL), 0);
	assert_int_equal(lm_cert_fingerprint(b->cert, LM_HASH_SHA1, &y, NULL), 0);
	return lm_hash_equal(&x, &y);
}

static void assert_private(const char *suffix)
{
	struct stat st;
	assert_int_equal(stat(file(suffix), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void test_change(void **state)
{
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys old = {0}, staged = {0}, found = {0};
	mode_t mask = umask(0);
	make(&old);
	stage(&staged);
	umask(mask);
	assert_false(same_key(&old, &staged));
	assert_private(".key.new");
	load(&found); /* what is in use has not changed yet */
	assert_true(same_key(&old, &found));
	lm_repo_keys_done(&found);
	install();
	load(&found);
	assert_true(same_key(&staged, &found) && same_cert(&staged, &found));
	assert_private(".key");
	assert_private(".key.old");
	assert_private(".masterkey");
	assert_true(there(".crt.old") && !there(".key.new") && !there(".crt.new"));
	lm_repo_keys_done(&found);
	assert_int_equal(lm_repo_keys_read_pair(file(".key.old"), file(".crt.old"), &found, NULL), 0);
	assert_true(same_key(&old, &found));
	install(); /* nothing is staged */
	lm_repo_keys_done(&found);
	load(&found);
	assert_true(same_key(&staged, &found));
}

/* Whatever of the files is there, staging again gives the pair that may have signed already. */
static void test_interrupted(void **state)
{
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys old = {0}, first = {0};
	struct lm_repo_keys again = {0};
	struct lm_err err = LM_ERR_INIT;
	make(&old);
	stage(&first);
	stage(&again); /* killed before or while signing */
	assert_true(same_key(&first, &again) && same_cert(&first, &again));
	lm_repo_keys_done(&again);

	/* Killed between the two renames of install. */
	assert_int_equal(rename(file(".crt.new"), file(".crt")), 0);
	assert_int_equal(lm_repo_keys_load(dir, FQRN, &again, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "interrupted"));
	stage(&again);
	assert_true(same_key(&first, &again) && same_cert(&first, &again));
	lm_repo_keys_done(&again);
	install();
	load(&again);
	assert_true(same_key(&first, &again) && same_cert(&first, &again));
	lm_repo_keys_done(&again);

	/* Killed between the two writes of stage: no one has signed with that key yet. */
	stage(&again);
	lm_repo_keys_done(&again);
	assert_int_equal(unlink(file(".crt.new")), 0);
	stage(&again);
	assert_false(same_key(&first, &again));
	lm_repo_keys_done(&again);
	install();
	load(&again);
	lm_repo_keys_done(&again);
}

static void test_given_pair(void **state)
{
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys old = {0}, staged = {0}, mine = {0}, found = {0};
	struct lm_err err = LM_ERR_INIT;
	make(&old);
	stage(&staged); /* left over; what is given counts */
	assert_ok(lm_key_generate(2048, &mine.key, &err), &err);
	assert_ok(lm_cert_make(mine.key, FQRN, &mine.cert, &err), &err);
	stage(&mine);
	install();
	load(&found);
	assert_true(same_key(&mine, &found) && same_cert(&mine, &found));

	struct lm_repo_keys mixed = {.key = mine.key, .cert = old.cert, .master = old.master};
	assert_int_equal(lm_repo_keys_stage(dir, FQRN, &mixed, &err), -EINVAL);
	assert_false(there(".key.new"));
	struct lm_repo_keys none = {0};
	assert_int_equal(lm_repo_keys_read_pair(file(".key"), file(".crt.old"), &none, &err), -EINVAL);
	assert_int_equal(lm_repo_keys_read_pair(file(".none"), file(".crt"), &none, &err), -ENOENT);
	assert_int_equal(lm_repo_keys_read_pair(file(".crt"), file(".crt"), &none, &err), -EPERM); /* 0644 */
	assert_int_equal(lm_repo_keys_read_pair(file(".masterkey"), file(".key"), &none, &err), -EPROTO);
	assert_null(none.key);
	assert_null(none.cert);
}

static void test_refused(void **state)
{
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys keys = {0}, found = {0};
	struct lm_err err = LM_ERR_INIT;
	make(&keys);
	static const char *const private[] = {".key", ".masterkey"};
	for (size_t i = 0; i < ARRAY_LEN(private); i++) {
		assert_int_equal(chmod(file(private[i]), 0604), 0);
		assert_int_equal(lm_repo_keys_load(dir, FQRN, &found, &err), -EPERM);
		assert_non_null(strstr(err.msg, private[i]));
		assert_int_equal(chmod(file(private[i]), 0400), 0);
		load(&found);
		lm_repo_keys_done(&found);
	}
	CLEANUP(lm_freep) char *large = calloc(1, LM_PEM_MAX + 1);
	assert_int_equal(lm_file_replace(AT_FDCWD, file(".crt"), large, LM_PEM_MAX + 1, 0644, 0, &err), 0);
	assert_int_equal(lm_repo_keys_load(dir, FQRN, &found, &err), -EMSGSIZE);
	assert_int_equal(lm_file_replace(AT_FDCWD, file(".crt"), "", 0, 0644, 0, &err), 0);
	assert_int_equal(lm_repo_keys_load(dir, FQRN, &found, &err), -EPROTO);
	assert_int_equal(lm_repo_keys_stage("/absent", FQRN, &found, &err), -ENOENT);
	assert_int_equal(lm_repo_keys_install(dir, "../x", &err), -EINVAL);
}

/* Keys as older and newer OpenSSL write them, PKCS#1 and PKCS#8, and one with a password. */
static void test_openssl(void **state)
{
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys keys = {0}, found = {0};
	struct lm_err err = LM_ERR_INIT;
	if (run((const char *const[]){"openssl", "version", NULL}) != 0) {
		printf("skipped: no openssl program\n");
		skip();
	}
	assert_int_equal(
		run((const char *const[]){"openssl", "genrsa", "-traditional", "-out", file(".key"), "2048", NULL}), 0);
	assert_int_equal(run((const char *const[]){"openssl", "req", "-new", "-x509", "-key", file(".key"), "-subj",
				 "/CN=" FQRN, "-days", "1", "-out", file(".crt"), NULL}),
		0);
	assert_int_equal(run((const char *const[]){"openssl", "genrsa", "-out", file(".masterkey"), "2048", NULL}), 0);
	CLEANUP(lm_buf_done) struct lm_buf one = {0}, eight = {0};
	read_whole(file(".key"), &one);
	read_whole(file(".masterkey"), &eight);
	assert_true(lm_str_starts(lm_buf_cstr(&one), "-----BEGIN RSA PRIVATE KEY"));
	assert_true(lm_str_starts(lm_buf_cstr(&eight), "-----BEGIN PRIVATE KEY"));
	load(&keys);
	assert_non_null(keys.master);
	assert_ok(lm_repo_keys_read_pair(file(".key"), file(".crt"), &found, &err), &err);
	assert_true(same_key(&keys, &found));

	assert_int_equal(run((const char *const[]){"openssl", "rsa", "-in", file(".key"), "-aes128", "-passout",
				 "pass:secret", "-out", file(".locked"), NULL}),
		0);
	struct lm_repo_keys none = {0};
	assert_int_equal(lm_repo_keys_read_pair(file(".locked"), file(".crt"), &none, &err), -EPROTO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_change),
		TEST(test_interrupted),
		TEST(test_given_pair),
		TEST(test_refused),
		TEST(test_openssl),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
