#include "repo/signature.h"
#include "repo_test.h"

#include <time.h>

#define HASH_TEXT "cdb2ab44327310dc70e4ab2f6eef3761e9aec18f"

enum { BITS = 2048 };

static struct lm_key *key, *other;
static struct lm_cert *cert;
static char *dir;

static int setup(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	dir = temp_dir();
	assert_ok(lm_key_generate(BITS, &key, &err), &err);
	assert_ok(lm_key_generate(BITS, &other, &err), &err);
	assert_ok(lm_cert_make(key, "a.example.org", &cert, &err), &err);
	return 0;
}

static int teardown(void **state)
{
	lm_key_free(key);
	lm_key_free(other);
	lm_cert_free(cert);
	temp_dir_remove(&dir);
	return 0;
}

static void test_key_round_trip(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf private_pem = LM_BUF(LM_PEM_MAX), public_pem = LM_BUF(LM_PEM_MAX);
	assert_ok(lm_key_format_private(key, &private_pem, &err), &err);
	assert_ok(lm_key_format_public(key, &public_pem, &err), &err);
	assert_true(lm_str_starts(lm_buf_cstr(&private_pem), "-----BEGIN PRIVATE KEY-----\n"));
	assert_true(lm_str_starts(lm_buf_cstr(&public_pem), "-----BEGIN PUBLIC KEY-----\n"));

	CLEANUP(lm_key_freep) struct lm_key *private = NULL, *public = NULL;
	assert_ok(lm_key_parse_private(lm_buf_cstr(&private_pem), private_pem.len, &private, &err), &err);
	assert_ok(lm_key_parse_public(lm_buf_cstr(&public_pem), public_pem.len, &public, &err), &err);
	assert_true(lm_cert_matches_key(cert, private));
	assert_true(lm_cert_matches_key(cert, public));
	assert_false(lm_cert_matches_key(cert, other));

	CLEANUP(lm_buf_done) struct lm_buf a = LM_BUF(LM_SIGNATURE_MAX), b = LM_BUF(LM_SIGNATURE_MAX);
	assert_ok(lm_sign_whitelist(key, HASH_TEXT, 40, &a, &err), &err);
	assert_ok(lm_sign_whitelist(private, HASH_TEXT, 40, &b, &err), &err);
	assert_int_equal(a.len, BITS / 8);
	assert_int_equal(b.len, a.len);
	assert_memory_equal(a.data, b.data, a.len);
	assert_ok(lm_verify_whitelist(public, HASH_TEXT, 40, a.data, a.len, &err), &err);
	/* A public key is no private one. */
	CLEANUP(lm_key_freep) struct lm_key *none = NULL;
	assert_int_equal(lm_key_parse_private(lm_buf_cstr(&public_pem), public_pem.len, &none, &err), -EPROTO);
	assert_int_equal(lm_key_parse_public(lm_buf_cstr(&private_pem), private_pem.len, &none, &err), -EPROTO);
	assert_null(none);
}

static void test_public_key_cannot_sign(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX), signature = LM_BUF(2 * LM_SIGNATURE_MAX);
	CLEANUP(lm_key_freep) struct lm_key *public = NULL;
	assert_ok(lm_key_format_public(key, &pem, &err), &err);
	assert_ok(lm_key_parse_public(lm_buf_cstr(&pem), pem.len, &public, &err), &err);
	assert_int_equal(lm_sign_whitelist(public, HASH_TEXT, 40, &signature, &err), -EIO);
	assert_int_equal(lm_sign_manifest(public, HASH_TEXT, 40, &signature, &err), -EIO);
	assert_int_equal(lm_key_format_private(public, &signature, &err), -EINVAL);
	assert_int_equal(signature.len, 0);
}

static void test_cert_round_trip(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX);
	CLEANUP(lm_cert_freep) struct lm_cert *again = NULL;
	assert_ok(lm_cert_format(cert, &pem, &err), &err);
	assert_ok(lm_cert_parse(lm_buf_cstr(&pem), pem.len, &again, &err), &err);
	for (unsigned algo = 0; algo < 3; algo++) {
		struct lm_hash a, b;
		assert_ok(lm_cert_fingerprint(cert, algo, &a, &err), &err);
		assert_ok(lm_cert_fingerprint(again, algo, &b, &err), &err);
		assert_true(lm_hash_equal(&a, &b));
	}
	assert_true(lm_cert_matches_key(again, key));
	struct lm_cert_info info;
	assert_ok(lm_cert_info(again, &info, &err), &err);
	assert_string_equal(info.subject, "CN=a.example.org CernVM-FS Release Managers");
	assert_string_equal(info.issuer, info.subject);
	assert_in_range(info.key_bits, LM_KEY_BITS_MIN, LM_KEY_BITS_MAX);
	assert_in_range(time(NULL) - info.not_before_s, 0, 86400);
	assert_in_range(info.not_after_s - info.not_before_s, 3649 * 86400, 3651 * 86400);
	/* Names longer than X.520 likes. */
	char fqrn[256];
	memset(fqrn, 'n', sizeof(fqrn));
	fqrn[255] = '\0';
	CLEANUP(lm_cert_freep) struct lm_cert *longest = NULL;
	assert_ok(lm_cert_make(key, fqrn, &longest, &err), &err);
	assert_ok(lm_cert_info(longest, &info, &err), &err);
	assert_non_null(strstr(info.subject, fqrn));
}

static void test_signatures(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf manifest = LM_BUF(LM_SIGNATURE_MAX), whitelist = LM_BUF(LM_SIGNATURE_MAX);
	CLEANUP(lm_cert_freep) struct lm_cert *other_cert = NULL;
	assert_ok(lm_cert_make(other, "a.example.org", &other_cert, &err), &err);
	assert_ok(lm_sign_manifest(key, HASH_TEXT, 40, &manifest, &err), &err);
	assert_ok(lm_sign_whitelist(key, HASH_TEXT, 40, &whitelist, &err), &err);
	assert_ok(lm_verify_manifest(cert, HASH_TEXT, 40, manifest.data, manifest.len, &err), &err);
	assert_ok(lm_verify_whitelist(key, HASH_TEXT, 40, whitelist.data, whitelist.len, &err), &err);
	/* Another text, another key, the other kind of signature, cut, longer, empty. */
	assert_int_equal(lm_verify_manifest(cert, HASH_TEXT, 39, manifest.data, manifest.len, &err), -EBADMSG);
	assert_int_equal(lm_verify_whitelist(key, HASH_TEXT, 39, whitelist.data, whitelist.len, &err), -EBADMSG);
	assert_int_equal(lm_verify_whitelist(key, HASH_TEXT "x", 41, whitelist.data, whitelist.len, &err), -EBADMSG);
	assert_int_equal(lm_verify_manifest(other_cert, HASH_TEXT, 40, manifest.data, manifest.len, &err), -EBADMSG);
	assert_int_equal(lm_verify_whitelist(other, HASH_TEXT, 40, whitelist.data, whitelist.len, &err), -EBADMSG);
	assert_int_equal(lm_verify_manifest(cert, HASH_TEXT, 40, whitelist.data, whitelist.len, &err), -EBADMSG);
	assert_int_equal(lm_verify_whitelist(key, HASH_TEXT, 40, manifest.data, manifest.len, &err), -EBADMSG);
	assert_int_equal(lm_verify_manifest(cert, HASH_TEXT, 40, manifest.data, manifest.len - 1, &err), -EBADMSG);
	assert_int_equal(lm_verify_whitelist(key, HASH_TEXT, 40, whitelist.data, whitelist.len - 1, &err), -EBADMSG);
	assert_int_equal(lm_verify_manifest(cert, HASH_TEXT, 40, "", 0, &err), -EBADMSG);
	assert_int_equal(lm_verify_whitelist(key, HASH_TEXT, 40, "", 0, &err), -EBADMSG);
	uint8_t longer[LM_SIGNATURE_MAX + 1] = {0};
	assert_int_equal(lm_verify_manifest(cert, HASH_TEXT, 40, longer, sizeof(longer), &err), -EBADMSG);
	assert_int_equal(lm_verify_whitelist(key, HASH_TEXT, 40, longer, sizeof(longer), &err), -EBADMSG);
	for (size_t bit = 0; bit < manifest.len * 8; bit += 97) {
		manifest.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		whitelist.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(lm_verify_manifest(cert, HASH_TEXT, 40, manifest.data, manifest.len, &err), -EBADMSG);
		assert_int_equal(
			lm_verify_whitelist(key, HASH_TEXT, 40, whitelist.data, whitelist.len, &err), -EBADMSG);
		manifest.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		whitelist.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_ok(lm_verify_whitelist(key, HASH_TEXT, 40, whitelist.data, whitelist.len, &err), &err);
}

static void write_file(const char *name, const void *data, size_t len)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, name);
	assert_ok(lm_file_replace(AT_FDCWD, path, data, len, 0600, 0, &err), &err);
}

/* Runs a shell line in dir. */
static void shell(const char *line)
{
	CLEANUP(lm_freep) char *command = lm_str_printf("cd '%s' && %s", dir, line);
	if (run((const char *const[]){"sh", "-c", command, NULL}) != 0)
		fail_msg("failed: %s", line);
}

static void read_result(const char *name, struct lm_buf *ret)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, name);
	read_whole(path, ret);
}

/* PKCS#1 v1.5 signatures are deterministic: ours are those of the openssl tool. */
static void test_openssl_signs_the_same(void **state)
{
	if (run((const char *const[]){"sh", "-c", "command -v openssl >/dev/null", NULL}) != 0) {
		printf("skipped: no openssl command\n");
		skip();
	}
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX), theirs = {0}, ours = LM_BUF(LM_SIGNATURE_MAX);
	assert_ok(lm_key_format_private(key, &pem, &err), &err);
	write_file("key", pem.data, pem.len);
	write_file("text", HASH_TEXT, 40);

	shell("openssl dgst -sha1 -sign key -out manifest.sig text");
	read_result("manifest.sig", &theirs);
	assert_ok(lm_sign_manifest(key, HASH_TEXT, 40, &ours, &err), &err);
	assert_int_equal(ours.len, theirs.len);
	assert_memory_equal(ours.data, theirs.data, ours.len);

	lm_buf_clear(&ours);
	lm_buf_done(&theirs);
	shell("openssl pkeyutl -sign -inkey key -in text -out whitelist.sig");
	read_result("whitelist.sig", &theirs);
	assert_ok(lm_sign_whitelist(key, HASH_TEXT, 40, &ours, &err), &err);
	assert_int_equal(ours.len, theirs.len);
	assert_memory_equal(ours.data, theirs.data, ours.len);
}

static void test_openssl_reads_the_same(void **state)
{
	if (run((const char *const[]){"sh", "-c", "command -v openssl >/dev/null", NULL}) != 0) {
		printf("skipped: no openssl command\n");
		skip();
	}
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX), printed = {0};
	assert_ok(lm_cert_format(cert, &pem, &err), &err);
	write_file("cert", pem.data, pem.len);
	shell("openssl x509 -in cert -noout -fingerprint -sha1 | sed 's/.*=//; s/://g' | tr A-F a-f | tr -d '\\n' > "
	      "print");
	read_result("print", &printed);
	struct lm_hash fingerprint;
	assert_ok(lm_cert_fingerprint(cert, LM_HASH_SHA1, &fingerprint, &err), &err);
	assert_string_equal(lm_hash_text(&fingerprint).s, lm_buf_cstr(&printed));
	shell("openssl x509 -in cert -noout -subject | grep -q 'CN = a.example.org CernVM-FS Release Managers'");
	shell("openssl verify -CAfile cert cert >/dev/null");

	/* Keys in the older form of the tool, and what must not be accepted. */
	CLEANUP(lm_key_freep) struct lm_key *parsed = NULL;
	shell("openssl genrsa -traditional -out old 2048 2>/dev/null");
	lm_buf_done(&printed);
	read_result("old", &printed);
	assert_true(lm_str_starts(lm_buf_cstr(&printed), "-----BEGIN RSA PRIVATE KEY"));
	assert_ok(lm_key_parse_private(lm_buf_cstr(&printed), printed.len, &parsed, &err), &err);
	static const char *const bad[] = {
		"openssl genrsa -out bad 512 2>/dev/null",
		"openssl ecparam -name prime256v1 -genkey -noout -out bad",
		"openssl genrsa -aes128 -passout pass:secret -out bad 2048 2>/dev/null",
		"echo hello >bad",
		": >bad",
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		CLEANUP(lm_key_freep) struct lm_key *none = NULL;
		CLEANUP(lm_buf_done) struct lm_buf text = {0};
		shell(bad[i]);
		read_result("bad", &text);
		assert_int_equal(lm_key_parse_private(lm_buf_cstr(&text), text.len, &none, &err), -EPROTO);
		assert_null(none);
	}
}

static void test_bad_certificates(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(2 * LM_PEM_MAX);
	struct lm_cert *none = NULL;
	assert_ok(lm_cert_format(cert, &pem, &err), &err);
	size_t whole = pem.len;
	for (size_t len = 0; len + 30 < whole; len += 50)
		assert_int_equal(lm_cert_parse(lm_buf_cstr(&pem), len, &none, &err), -EPROTO);
	pem.data[whole / 2] ^= 0x40;
	struct lm_cert *damaged = NULL;
	/* Refused, or another certificate; never this one. */
	if (lm_cert_parse(lm_buf_cstr(&pem), pem.len, &damaged, &err) == 0) {
		struct lm_hash a, b;
		assert_ok(lm_cert_fingerprint(cert, LM_HASH_SHA1, &a, &err), &err);
		assert_ok(lm_cert_fingerprint(damaged, LM_HASH_SHA1, &b, &err), &err);
		assert_false(lm_hash_equal(&a, &b));
	}
	lm_cert_free(damaged);
	while (pem.len <= LM_PEM_MAX)
		assert_int_equal(lm_buf_str(&pem, "\n"), 0);
	assert_int_equal(lm_cert_parse(lm_buf_cstr(&pem), pem.len, &none, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "at most"));
	assert_null(none);
}

static void test_key_sizes(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_key *none = NULL;
	assert_int_equal(lm_key_generate(512, &none, &err), -EINVAL);
	assert_int_equal(lm_key_generate(1 << 20, &none, &err), -EINVAL);
	assert_null(none);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_key_round_trip),
		cmocka_unit_test(test_public_key_cannot_sign),
		cmocka_unit_test(test_cert_round_trip),
		cmocka_unit_test(test_signatures),
		cmocka_unit_test(test_openssl_signs_the_same),
		cmocka_unit_test(test_openssl_reads_the_same),
		cmocka_unit_test(test_bad_certificates),
		cmocka_unit_test(test_key_sizes),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
