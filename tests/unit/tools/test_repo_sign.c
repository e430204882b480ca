/* `lamella repo sign` from the outside: whitelists, certificates, and the files of the key directory. */
#include "repo_cli.h"

#include <sys/stat.h>

#define WHITELIST "www/cvmfs/" NAME "/.cvmfswhitelist"

static void check(unsigned certificates)
{
	unsigned count = 0;
	assert_int_equal(RUN("info", NAME), 0);
	assert_said("signatures   valid\n");
	for (const char *at = output; (at = strstr(at, "\ncertificate")); at++)
		count++;
	assert_int_equal(count, certificates);
	assert_int_equal(RUN("check", NAME), 0);
	assert_said(" 0 problems");
}

static void assert_mode(const char *path, mode_t mode)
{
	struct stat st;
	assert_int_equal(stat(below(path), &st), 0);
	assert_int_equal(st.st_mode & 07777, mode);
}

static void read_text(const char *path, struct lm_buf *ret)
{
	*ret = LM_BUF(100000);
	assert_int_equal(lm_file_read(AT_FDCWD, below(path), ret, NULL), 0);
}

static void assert_same(const char *path, const struct lm_buf *before)
{
	CLEANUP(lm_buf_done) struct lm_buf now = {0};
	read_text(path, &now);
	assert_true(now.len == before->len && memcmp(now.data, before->data, now.len) == 0);
}

static void renews(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf key = {0}, manifest = {0};
	assert_int_equal(init(), 0);
	read_text("keys/" NAME ".key", &key);
	read_text("www/cvmfs/" NAME "/.cvmfspublished", &manifest);
	assert_int_equal(RUN("sign", NAME, "--days", "400"), 0);
	assert_said("valid until ");
	assert_said("1 certificate\n");
	assert_null(strstr(output, "manifest"));
	check(1);
	assert_same("keys/" NAME ".key", &key);
	assert_same("www/cvmfs/" NAME "/.cvmfspublished", &manifest);
	assert_false(there("keys/" NAME ".key.old"));
	assert_int_equal(RUN("sign", NAME, "--manifest"), 0);
	assert_said("signed anew, revision 1");
	check(1);
}

static void makes_a_certificate(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf key = {0};
	assert_int_equal(init(), 0);
	read_text("keys/" NAME ".key", &key);
	mode_t mask = umask(0);
	assert_int_equal(RUN("sign", NAME, "--new-certificate"), 0);
	umask(mask);
	assert_said("2 certificates\n");
	assert_said("certificate  changed");
	assert_same("keys/" NAME ".key.old", &key);
	assert_mode("keys/" NAME ".key", 0600);
	assert_mode("keys/" NAME ".key.old", 0600);
	assert_false(there("keys/" NAME ".key.new"));
	check(2);
	assert_int_equal(RUN("tag", "add", NAME, "works"), 0); /* with what is in use now */
	check(2);
	assert_int_equal(RUN("sign", NAME, "--only-ours"), 0);
	check(1);
	/* In one go. */
	assert_int_equal(RUN("sign", NAME, "--new-certificate", "--only-ours"), 0);
	assert_said("1 certificate\n");
	check(1);
}

/* The repository is signed by the new pair before that is in use; if signing fails, nothing is changed but what is
 * staged, and the next try goes on with that. */
static void fails_in_between(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf key = {0}, staged = {0}, whitelist = {0};
	assert_int_equal(init(), 0);
	read_text("keys/" NAME ".key", &key);
	read_text(WHITELIST, &whitelist);
	assert_int_equal(unlink(below(WHITELIST)), 0);
	assert_int_equal(RUN("sign", NAME, "--new-certificate"), 1);
	assert_said("not validly signed");
	assert_same("keys/" NAME ".key", &key);
	assert_mode("keys/" NAME ".key.new", 0600);
	read_text("keys/" NAME ".key.new", &staged);
	assert_int_equal(lm_file_replace(AT_FDCWD, below(WHITELIST), whitelist.data, whitelist.len, 0644, 0, NULL), 0);
	assert_int_equal(RUN("sign", NAME), 0); /* still with the old one */
	check(1);
	assert_int_equal(RUN("sign", NAME, "--new-certificate"), 0);
	assert_same("keys/" NAME ".key", &staged);
	check(2);
}

static void takes_a_certificate(void **state)
{
	assert_int_equal(init(), 0);
	assert_int_equal(RUN("init", "other.example.org", "--storage", below("www2"), "--keys", keys), 0);
	CLEANUP(lm_freep) char *key = strdup(below("keys/other.example.org.key"));
	CLEANUP(lm_freep) char *cert = strdup(below("keys/other.example.org.crt"));
	CLEANUP(lm_freep) char *own = strdup(below("keys/" NAME ".crt"));
	assert_int_equal(RUN("sign", NAME, "--key", key), 2);
	assert_int_equal(RUN("sign", NAME, "--certificate", cert), 2);
	assert_int_equal(RUN("sign", NAME, "--certificate", cert, "--key", key, "--new-certificate"), 2);
	assert_int_equal(RUN("sign", NAME, "--certificate", own, "--key", key), 2);
	assert_said("belongs to another key");
	assert_false(there("keys/" NAME ".key.new"));
	assert_int_equal(chmod(key, 0640), 0);
	assert_int_equal(RUN("sign", NAME, "--certificate", cert, "--key", key), 1);
	assert_said("others have access");
	assert_int_equal(chmod(key, 0600), 0);
	assert_int_equal(RUN("sign", NAME, "--certificate", cert, "--key", key), 0);
	check(2);
	assert_mode("keys/" NAME ".key", 0600);
}

/* The n-th line of the whitelist. Valid until the next call. */
static const char *whitelist_line(unsigned n)
{
	static char line[256];
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	read_text(WHITELIST, &text);
	const char *at = lm_buf_cstr(&text);
	while (n-- > 0)
		at = strchr(at, '\n') + 1;
	snprintf(line, sizeof(line), "%.*s", (int)strcspn(at, "\n"), at);
	return line;
}

static void fingerprints(void **state)
{
	static const char other[] = "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33";
	assert_int_equal(init(), 0);
	CLEANUP(lm_freep) char *own = strdup(whitelist_line(3));
	assert_int_equal(RUN("sign", NAME, "--add", other), 0);
	assert_string_equal(whitelist_line(3), own);
	assert_string_equal(whitelist_line(4), other);
	assert_int_equal(RUN("sign", NAME), 0); /* stays */
	check(2);
	assert_int_equal(RUN("sign", NAME, "--remove", own), 2);
	assert_said("certificate in use");
	assert_int_equal(RUN("sign", NAME, "--remove", other), 0);
	check(1);
	assert_int_equal(RUN("sign", NAME, "--remove", other), 1);
	assert_said("not on the whitelist");
	assert_int_equal(RUN("sign", NAME, "--add", "00:11"), 2);
	assert_int_equal(RUN("sign", NAME, "--add", ""), 2);
}

static void another_master_key(void **state)
{
	assert_int_equal(init(), 0);
	CLEANUP(lm_freep) char *old = strdup(below("keys/old.pub"));
	assert_int_equal(rename(below("keys/" NAME ".pub"), old), 0);
	assert_int_equal(RUN("init", "other.example.org", "--storage", below("www2"), "--keys", keys), 0);
	CLEANUP(lm_freep) char *master = strdup(below("keys/other.example.org.masterkey"));
	CLEANUP(lm_freep) char *public = strdup(below("keys/other.example.org.pub"));
	assert_int_equal(rename(master, below("keys/" NAME ".masterkey")), 0);
	assert_int_equal(RUN("sign", NAME), 1);
	assert_said("by none of 1 master keys");
	CLEANUP(lm_freep) char *wrong = lm_str_printf("%s/" NAME ".pub", keys);
	assert_int_equal(link(old, wrong), 0);
	assert_int_equal(RUN("sign", NAME, "--trusted-by", old), 2); /* clients would be locked out */
	assert_said("is not the public half");
	assert_int_equal(rename(public, wrong), 0);
	assert_int_equal(RUN("sign", NAME, "--trusted-by", old), 0);
	check(1);
	assert_int_equal(RUN("sign", NAME, "--trusted-by", "/absent"), 2);
	assert_int_equal(RUN("sign", NAME), 0);
	check(1);
}

static void wrong_usage(void **state)
{
	assert_int_equal(RUN("sign"), 2);
	assert_int_equal(RUN("sign", "--help"), 0);
	assert_said("--trusted-by");
	assert_int_equal(RUN("sign", "absent.example.org"), 1);
	assert_int_equal(init(), 0);
	assert_int_equal(RUN("sign", NAME, NAME), 2);
	assert_int_equal(RUN("sign", NAME, "--days", "0"), 2);
	assert_int_equal(RUN("sign", NAME, "--days", "36501"), 2);
	assert_int_equal(unlink(below("keys/" NAME ".masterkey")), 0);
	assert_int_equal(RUN("sign", NAME), 1);
	assert_said("masterkey is wanted");
	assert_int_equal(RUN("sign", NAME, "--new-certificate"), 1);
	check(1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(renews),
		TEST(makes_a_certificate),
		TEST(fails_in_between),
		TEST(takes_a_certificate),
		TEST(fingerprints),
		TEST(another_master_key),
		TEST(wrong_usage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
