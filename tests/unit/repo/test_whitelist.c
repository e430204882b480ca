#include "repo/whitelist.h"
#include "repo_test.h"

#include <dirent.h>

#define PAIRS "A7:80:49:9F:8E:7D:36:2A:AE:F6:BA:2D:20:E9:66:62:D1:21:A4:59"
#define DIGITS "a780499f8e7d362aaef6ba2d20e96662d121a459"
#define HEAD "20240101000000\nE21260101000000\nNfixture.cern.ch\n"
#define END "--\n" DIGITS "\nsignature"

static int parse(const char *text, struct lm_whitelist *ret, struct lm_err *err)
{
	return lm_whitelist_parse(text, strlen(text), ret, err);
}

static void test_fields(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_whitelist w;
	assert_ok(
		parse(HEAD PAIRS " # now\n" PAIRS "-RMD160\n\n# comment\n" PAIRS "-SHAKE128\tx\n" END, &w, &err), &err);
	assert_int_equal(w.created_s, 1704067200);
	assert_int_equal(w.expires_s, 4922899200);
	assert_string_equal(w.fqrn, "fixture.cern.ch");
	assert_int_equal(w.count, 3);
	assert_string_equal(lm_hash_text(&w.fingerprints[0]).s, DIGITS);
	assert_string_equal(lm_hash_text(&w.fingerprints[1]).s, DIGITS "-rmd160");
	assert_string_equal(lm_hash_text(&w.fingerprints[2]).s, DIGITS "-shake128");
	/* A creation "date" only needs its length; lines that are no fingerprint allow nothing. */
	assert_ok(parse("99999999999999\nE21260101000000\nNa\nA7:80\nnonsense\n" PAIRS "-MD4\n" END, &w, &err), &err);
	assert_int_equal(w.created_s, 0);
	assert_int_equal(w.count, 0);
}

static void test_refused(void **state)
{
	static const struct {
		const char *text, *message;
	} cases[] = {
		{"", "cut short"},
		{HEAD PAIRS, "cut short"},
		{END, "first line"},
		{"2024010100000\nE21260101000000\nNa\n" END, "first line"},
		{"202401010000000\nE21260101000000\nNa\n" END, "first line"},
		{"20240101000000\n" END, "second line"},
		{"20240101000000\n21260101000000\nNa\n" END, "second line"},
		{"20240101000000\nX21260101000000\nNa\n" END, "second line"},
		{"20240101000000\nE2126010100000\nNa\n" END, "second line"},
		{"20240101000000\nE21261301000000\nNa\n" END, "second line"},
		{"20240101000000\nE21260100000000\nNa\n" END, "second line"},
		{"20240101000000\nE21260101240000\nNa\n" END, "second line"},
		{"20240101000000\nE2126010100-100\nNa\n" END, "second line"},
		{"20240101000000\nE19690101000000\nNa\n" END, "second line"},
		{"20240101000000\nE21260101000000\n" END, "third line"},
		{"20240101000000\nE21260101000000\nN\n" END, "third line"},
		{"20240101000000\nE21260101000000\nN..\n" END, "third line"},
		{"20240101000000\nE21260101000000\n" PAIRS "\n" END, "third line"},
		{HEAD "Vpkcs7\n" PAIRS "\n" END, "PKCS#7"},
		{HEAD PAIRS "\nWcachain\n" END, "CA chain"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_err err = LM_ERR_INIT;
		struct lm_whitelist w = {.count = 77};
		assert_int_equal(parse(cases[i].text, &w, &err), -EPROTO);
		assert_non_null(strstr(err.msg, cases[i].message));
		assert_int_equal(w.count, 77);
	}
}

static void test_limits(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_whitelist w;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX + 1);
	assert_int_equal(lm_buf_str(&text, HEAD), 0);
	for (int i = 0; i < LM_FINGERPRINTS_MAX; i++)
		assert_int_equal(lm_buf_str(&text, PAIRS "\n"), 0);
	size_t body = text.len;
	assert_int_equal(lm_buf_str(&text, END), 0);
	assert_ok(parse(lm_buf_cstr(&text), &w, &err), &err);
	assert_int_equal(w.count, LM_FINGERPRINTS_MAX);
	text.len = body;
	assert_int_equal(lm_buf_str(&text, PAIRS "\n" END), 0);
	assert_int_equal(parse(lm_buf_cstr(&text), &w, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "fingerprints"));
	while (text.len <= LM_WHITELIST_MAX)
		assert_int_equal(lm_buf_str(&text, "#"), 0);
	assert_int_equal(parse(lm_buf_cstr(&text), &w, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "at most"));
	static const char nul[] = HEAD "#\0\n" END;
	assert_int_equal(lm_whitelist_parse(nul, sizeof(nul) - 1, &w, &err), -EPROTO);
}

static void test_expiry_by_the_hour(void **state)
{
	struct lm_whitelist w = {.expires_s = 1800003599}; /* xx:59:59 */
	assert_int_equal(w.expires_s % 3600, 3599);
	assert_false(lm_whitelist_expired(&w, 1800000000 - 1));
	assert_true(lm_whitelist_expired(&w, 1800000000));
	assert_true(lm_whitelist_expired(&w, 1800003599));
}

static void test_format_round_trip(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_whitelist w = {
		.created_s = 1795304801, .expires_s = 253402300799, .fqrn = "a.example.org", .count = 3};
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(lm_hash_data((enum lm_hash_algo)(2 - i), &i, sizeof(i), &w.fingerprints[i], NULL), 0);
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	assert_ok(lm_whitelist_format(&w, &text, &err), &err);
	struct lm_whitelist again;
	assert_ok(lm_whitelist_parse(lm_buf_cstr(&text), text.len, &again, &err), &err);
	assert_int_equal(again.created_s, w.created_s);
	assert_int_equal(again.expires_s, w.expires_s);
	assert_string_equal(again.fqrn, w.fqrn);
	assert_int_equal(again.count, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_true(lm_hash_equal(&w.fingerprints[i], &again.fingerprints[i]));
	assert_true(lm_str_ends(lm_buf_cstr(&text), "-shake128\n"));

	w.expires_s++; /* the year 10000 */
	assert_int_equal(lm_whitelist_format(&w, &text, &err), -EINVAL);
	w.expires_s = -1;
	assert_int_equal(lm_whitelist_format(&w, &text, &err), -EINVAL);
	w.expires_s = 0;
	w.count = LM_FINGERPRINTS_MAX + 1;
	assert_int_equal(lm_whitelist_format(&w, &text, &err), -EINVAL);
	w.count = 4;
	assert_int_equal(lm_whitelist_format(&w, &text, &err), -EINVAL);
	w.count = 3;
	strcpy(w.fqrn, "a\nb");
	assert_int_equal(lm_whitelist_format(&w, &text, &err), -EINVAL);
}

/* Written again by us, a whitelist of the stock tools is the same to the byte up to the signature. */
static void test_stock_whitelists(void **state)
{
	if (!fixtures_present())
		skip();
	static const char *const names[] = {"whitelist.good", "whitelist.expires-2100", "whitelist.expired",
		"whitelist.other-name", "whitelist.other-fingerprint", "whitelist.wrong-master-key"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct lm_err err = LM_ERR_INIT;
		struct lm_whitelist w;
		struct lm_signed_text split;
		CLEANUP(lm_freep) char *name = lm_str_printf("alternates/%s", names[i]);
		CLEANUP(lm_buf_done) struct lm_buf text = {0}, written = LM_BUF(LM_WHITELIST_MAX);
		read_fixture(name, &text);
		assert_ok(lm_whitelist_parse(lm_buf_cstr(&text), text.len, &w, &err), &err);
		assert_ok(lm_signed_text_split(lm_buf_cstr(&text), text.len, &split, &err), &err);
		assert_int_equal(w.count, 1);
		assert_ok(lm_whitelist_format(&w, &written, &err), &err);
		assert_int_equal(written.len + split.signature_len, text.len);
		assert_memory_equal(written.data, text.data, written.len);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fields),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_expiry_by_the_hour),
		cmocka_unit_test(test_format_round_trip),
		cmocka_unit_test(test_stock_whitelists),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
