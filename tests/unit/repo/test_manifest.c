#include "repo/manifest.h"
#include "repo_test.h"

#include <dirent.h>

#define HASH_A "c39b376cee68a9221393f25c7a5fb46a56ec2947"
#define HASH_B "737ce714609efef2a5e882e2f94a670648b464aa"
#define MINIMAL "C" HASH_A "\nRd41d8cd98f00b204e9800998ecf8427e\nD240\nS3\n"
#define END "--\n" HASH_B "\nsignature"

static int parse(const char *text, struct lm_manifest *ret, struct lm_err *err)
{
	return lm_manifest_parse(text, strlen(text), ret, err);
}

static void test_minimal(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest m;
	assert_ok(parse(MINIMAL END, &m, &err), &err);
	assert_string_equal(lm_hash_text(&m.catalog).s, HASH_A);
	assert_int_equal(m.ttl_s, 240);
	assert_int_equal(m.revision, 3);
	assert_string_equal(m.fqrn, "");
	assert_false(m.certificate.set || m.history.set || m.metainfo.set || m.reflog.set);
	assert_false(m.garbage_collectable || m.alternative_catalogs);
	assert_int_equal(m.published_s, 0);
}

static void test_order_duplicates_unknown(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest m;
	assert_ok(parse("S1\nZreserved\n\nQ\nD5\nGyes\nNa.example.org\n" MINIMAL
			"S18446744073709551615\nGno\nAyes\nX" HASH_B "-rmd160\nT1795304801\n-x\nL\n" END,
			  &m, &err),
		&err);
	assert_true(m.revision == UINT64_MAX);
	assert_int_equal(m.ttl_s, 240);
	assert_false(m.garbage_collectable);
	assert_true(m.alternative_catalogs);
	assert_string_equal(m.fqrn, "a.example.org");
	assert_int_equal(m.certificate.algo, LM_HASH_RMD160);
	assert_int_equal(m.published_s, 1795304801);
}

static void test_refused(void **state)
{
	static const struct {
		const char *text, *message;
	} cases[] = {
		{"", "cut short"},
		{MINIMAL, "cut short"},
		{MINIMAL "-", "cut short"},
		{MINIMAL "--", "cut short"},
		{MINIMAL "--\n" HASH_B, "cut short"},
		{MINIMAL "--x\n", "cut short"},
		{END, "field C is missing"},
		{"C" HASH_A "\nD240\nS3\n" END, "field R is missing"},
		{"C" HASH_A "\nRd41d8cd98f00b204e9800998ecf8427e\nS3\n" END, "field D is missing"},
		{"C" HASH_A "\nRd41d8cd98f00b204e9800998ecf8427e\nD240\n" END, "field S is missing"},
		{MINIMAL "C\n" END, "field C"},
		{MINIMAL "C" HASH_A "C\n" END, "field C"},
		{MINIMAL "Rd41d8cd98f00b204e9800998ecf8427\n" END, "field R"},
		{MINIMAL "RD41d8cd98f00b204e9800998ecf8427e\n" END, "field R"},
		{MINIMAL "S18446744073709551616\n" END, "field S"},
		{MINIMAL "S-1\n" END, "field S"},
		{MINIMAL "S\n" END, "field S"},
		{MINIMAL "S3 \n" END, "field S"},
		{MINIMAL "D0x10\n" END, "field D"},
		{MINIMAL "D99999999999\n" END, "field D: 99999999999 exceeds"},
		{MINIMAL "B1e3\n" END, "field B"},
		{MINIMAL "T9223372036854775808\n" END, "field T"},
		{MINIMAL "Gmaybe\n" END, "field G"},
		{MINIMAL "Ayess\n" END, "field A"},
		{MINIMAL "N../../etc\n" END, "field N"},
		{MINIMAL "N\n" END, "field N"},
		{MINIMAL "X" HASH_A "X\n" END, "field X"},
		{MINIMAL "Hnone\n" END, "field H"},
		{MINIMAL "M0\n" END, "field M"},
		{MINIMAL "Y\n" END, "field Y"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_err err = LM_ERR_INIT;
		struct lm_manifest m = {.revision = 77};
		assert_int_equal(parse(cases[i].text, &m, &err), -EPROTO);
		assert_non_null(strstr(err.msg, cases[i].message));
		assert_int_equal(m.revision, 77);
	}
}

static void test_size_and_nul(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest m;
	static char text[LM_MANIFEST_MAX + 1];
	memset(text, 's', sizeof(text));
	memcpy(text, MINIMAL END, strlen(MINIMAL END));
	assert_ok(lm_manifest_parse(text, LM_MANIFEST_MAX, &m, &err), &err);
	assert_int_equal(lm_manifest_parse(text, LM_MANIFEST_MAX + 1, &m, &err), -EPROTO);
	/* NUL bytes may stand in the signature only. */
	static const char after[] = MINIMAL END "\0\0", before[] = MINIMAL "Q\0\n" END;
	assert_ok(lm_manifest_parse(after, sizeof(after) - 1, &m, &err), &err);
	assert_int_equal(lm_manifest_parse(before, sizeof(before) - 1, &m, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "NUL"));
}

static void test_split(void **state)
{
	static const char text[] = "Sa\n-- \n--\nhash\n--\nsig\n\0nature";
	struct lm_signed_text split;
	assert_int_equal(lm_signed_text_split(text, sizeof(text) - 1, &split, NULL), 0);
	assert_int_equal(split.body_len, 7);
	assert_int_equal(split.hash_text_len, 4);
	assert_memory_equal(split.hash_text, "hash", 4);
	assert_int_equal(split.signature_len, 14);
	assert_memory_equal(split.signature, "--\nsig\n\0nature", 14);
	assert_int_equal(lm_signed_text_split("--\n\n", 4, &split, NULL), 0);
	assert_int_equal(split.body_len, 0);
	assert_int_equal(split.signature_len, 0);
}

static void assert_same(const struct lm_manifest *a, const struct lm_manifest *b)
{
	assert_true(lm_hash_equal(&a->catalog, &b->catalog));
	assert_true(lm_hash_equal(&a->certificate, &b->certificate));
	assert_true(lm_hash_equal(&a->history, &b->history));
	assert_true(lm_hash_equal(&a->metainfo, &b->metainfo));
	assert_true(lm_hash_equal(&a->reflog, &b->reflog));
	assert_int_equal(a->catalog_size, b->catalog_size);
	assert_int_equal(a->ttl_s, b->ttl_s);
	assert_int_equal(a->revision, b->revision);
	assert_int_equal(a->published_s, b->published_s);
	assert_int_equal(a->garbage_collectable, b->garbage_collectable);
	assert_int_equal(a->alternative_catalogs, b->alternative_catalogs);
	assert_string_equal(a->fqrn, b->fqrn);
	assert_string_equal(a->root_path, b->root_path);
}

/* A manifest of the stock tools: written by us from its parsed form, it is the same to the byte up to the signature. */
static void check_stock(const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest m, again;
	struct lm_signed_text split;
	CLEANUP(lm_buf_done) struct lm_buf text = {0}, written = LM_BUF(LM_MANIFEST_MAX);
	read_whole(path, &text);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, &m, &err), &err);
	assert_ok(lm_signed_text_split(lm_buf_cstr(&text), text.len, &split, &err), &err);
	assert_ok(lm_manifest_format(&m, &written, &err), &err);
	assert_int_equal(written.len + split.signature_len, text.len);
	assert_memory_equal(written.data, text.data, written.len);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&written), written.len, &again, &err), &err);
	assert_same(&m, &again);
}

static void test_stock_manifests(void **state)
{
	if (!fixtures_present())
		skip();
	CLEANUP(lm_freep) char *dir_path = fixture_path("published");
	DIR *dir = opendir(dir_path);
	assert_non_null(dir);
	unsigned count = 0;
	for (struct dirent *entry; (entry = readdir(dir));) {
		if (entry->d_name[0] == '.')
			continue;
		CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir_path, entry->d_name);
		check_stock(path);
		count++;
	}
	closedir(dir);
	assert_true(count >= 9);
}

static void test_format_refused(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(LM_MANIFEST_MAX);
	struct lm_manifest m = {.ttl_s = 240};
	assert_int_equal(lm_manifest_format(&m, &out, &err), -EINVAL);
	assert_int_equal(lm_hash_parse(HASH_A, 40, &m.catalog, NULL), 0);
	assert_ok(lm_manifest_format(&m, &out, &err), &err);
	assert_non_null(strstr(lm_buf_cstr(&out), "\nR" LM_MANIFEST_ROOT_PATH "\n"));
	size_t before = out.len;
	strcpy(m.fqrn, "a\nS9");
	assert_int_equal(lm_manifest_format(&m, &out, &err), -EINVAL);
	strcpy(m.fqrn, "a");
	m.ttl_s = (uint64_t)LM_TTL_MAX_S + 1;
	assert_int_equal(lm_manifest_format(&m, &out, &err), -EINVAL);
	m.ttl_s = 1;
	m.published_s = -1;
	assert_int_equal(lm_manifest_format(&m, &out, &err), -EINVAL);
	assert_int_equal(out.len, before);
	m.published_s = 1;
	CLEANUP(lm_buf_done) struct lm_buf small = LM_BUF(50);
	assert_int_equal(lm_manifest_format(&m, &small, &err), -EMSGSIZE);
	assert_int_equal(small.len, 0);
}

static void test_fqrn(void **state)
{
	static const char *const good[] = {"a", "fixture.cern.ch", "A-1_b.c", "0"};
	static const char *const bad[] = {"", ".", "..", ".hidden", "-x", "a/b", "a b", "a\n", "caf\xc3\xa9", "a:b"};
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_true(lm_fqrn_valid(good[i]));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(lm_fqrn_valid(bad[i]));
	char longest[LM_FQRN_MAX + 2];
	memset(longest, 'x', sizeof(longest));
	longest[LM_FQRN_MAX + 1] = '\0';
	assert_false(lm_fqrn_valid(longest));
	longest[LM_FQRN_MAX] = '\0';
	assert_true(lm_fqrn_valid(longest));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_minimal),
		cmocka_unit_test(test_order_duplicates_unknown),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_size_and_nul),
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_stock_manifests),
		cmocka_unit_test(test_format_refused),
		cmocka_unit_test(test_fqrn),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
