/* The record of a snapshot: what goes in comes out, and nothing that is damaged is believed. */
#include "snapshotter/record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct lm_snapshot parent = {.id = 3};

static struct lm_snapshot layer(void)
{
	return (struct lm_snapshot){.id = 7,
		.plugin = (char *)"lamella",
		.key = (char *)"k8s.io/5/extract-1 sha256:\n\xc3\xa4",
		.kind = LM_COMMITTED,
		.parent = &parent,
		.created_ns = 1700000000000000000,
		.updated_ns = 1700000000000000001,
		.usage = {4096, 2},
		.layer_digest = (char *)"sha256:d",
		.layer_path = (char *)"/layers/d",
		.layer_ref = (char *)"sha256:c"};
}

static void both_ways(void **state)
{
	struct lm_snapshot s = layer();
	struct lm_record read;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_RECORD_MAX_BYTES);
	CLEANUP(lm_labels_done) struct lm_labels labels = {0};
	assert_int_equal(lm_labels_set(&labels, "a", "b"), 0);
	assert_int_equal(lm_labels_set(&labels, "", "nameless"), 0);
	assert_int_equal(lm_record_format(&s, &labels, &text, NULL), 0);
	assert_int_equal(lm_record_parse(text.data, text.len, &read, NULL), 0);
	assert_int_equal(read.parent, 3);
	assert_int_equal(read.snapshot.id, 7);
	assert_int_equal(read.snapshot.kind, LM_COMMITTED);
	assert_string_equal(read.snapshot.plugin, s.plugin);
	assert_string_equal(read.snapshot.key, s.key);
	assert_int_equal(read.snapshot.created_ns, s.created_ns);
	assert_int_equal(read.snapshot.updated_ns, s.updated_ns);
	assert_int_equal(read.snapshot.usage.size_bytes, 4096);
	assert_int_equal(read.snapshot.usage.inodes, 2);
	assert_string_equal(read.snapshot.layer_digest, s.layer_digest);
	assert_string_equal(read.snapshot.layer_path, s.layer_path);
	assert_string_equal(read.snapshot.layer_ref, s.layer_ref);
	assert_int_equal(read.snapshot.labels.count, 2);
	assert_string_equal(lm_labels_get(&read.snapshot.labels, "a"), "b");
	assert_string_equal(lm_labels_get(&read.snapshot.labels, ""), "nameless");
	lm_record_done(&read);
	/* The simplest. */
	s = (struct lm_snapshot){.id = 1, .plugin = (char *)"", .key = (char *)"k", .kind = LM_ACTIVE};
	lm_buf_clear(&text);
	assert_int_equal(lm_record_format(&s, &s.labels, &text, NULL), 0);
	assert_int_equal(lm_record_parse(text.data, text.len, &read, NULL), 0);
	assert_null(read.snapshot.layer_digest);
	assert_int_equal(read.parent, 0);
	assert_string_equal(read.snapshot.plugin, "");
	lm_record_done(&read);
}

/* Each bit, and each length. */
static void damages(void **state)
{
	struct lm_snapshot s = layer();
	struct lm_record read;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_RECORD_MAX_BYTES);
	assert_int_equal(lm_record_format(&s, &s.labels, &text, NULL), 0);
	for (size_t i = 0; i < text.len * 8; i++) {
		text.data[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_int_equal(lm_record_parse(text.data, text.len, &read, NULL), -EPROTO);
		text.data[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (size_t len = 0; len < text.len; len++)
		assert_int_equal(lm_record_parse(text.data, len, &read, NULL), -EPROTO);
	assert_int_equal(lm_record_parse(text.data, text.len, &read, NULL), 0);
	lm_record_done(&read);
}

static void refused(struct lm_snapshot s)
{
	struct lm_record read;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_RECORD_MAX_BYTES);
	assert_int_equal(lm_record_format(&s, &s.labels, &text, NULL), 0);
	assert_int_equal(lm_record_parse(text.data, text.len, &read, NULL), -EPROTO);
}

/* With the right checksum, but impossible. */
static void nonsense(void **state)
{
	struct lm_snapshot s = layer();
	s.id = 0;
	refused(s);
	s = layer();
	s.id = 3; /* its own parent */
	refused(s);
	s = layer();
	s.kind = (enum lm_kind)4;
	refused(s);
	s = layer();
	s.kind = LM_ACTIVE; /* a remote layer is committed */
	refused(s);
	s = layer();
	s.layer_path = NULL;
	refused(s);
	s = layer();
	s.key = (char *)"";
	refused(s);
	s = layer();
	s.usage.inodes = -1;
	refused(s);
}

static void too_long(void **state)
{
	struct lm_snapshot s = layer();
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(100);
	assert_int_equal(lm_buf_str(&text, "before"), 0);
	assert_int_equal(lm_record_format(&s, &s.labels, &text, NULL), -EMSGSIZE);
	assert_int_equal(text.len, 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_ways),
		cmocka_unit_test(damages),
		cmocka_unit_test(nonsense),
		cmocka_unit_test(too_long),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
