/* `lamella repo gc` from the outside. What it keeps and sweeps is tested with lib/repo. */
#include "repo/publish.h"

#include "repo_cli.h"

#include <jansson.h>

/* Publications of one second are dated ahead, so "now" is too early. */
#define NOTHING_SINCE "--keep-since=2100-01-31"

static void publish(const char *content)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_storage_freep) struct lm_storage *opened = NULL;
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys own = {0};
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	int r = lm_repo_keys_load(keys, NAME, &own, &err);
	if (r == 0)
		r = lm_storage_dir_open(below("www/cvmfs/" NAME), false, &opened, &err);
	if (r == 0)
		r = lm_txn_begin(opened, &own, NAME, &txn, &err);
	if (r == 0)
		r = lm_txn_put_data(txn, "/file", content, strlen(content), &err);
	if (r == 0)
		r = lm_txn_commit(txn, NULL, &err);
	if (r < 0)
		fail_msg("%s", err.msg);
}

static void make_past(void)
{
	assert_int_equal(init(), 0);
	publish("one");
	publish("two");
	publish("three");
	publish("four");
}

static json_int_t number(const json_t *root, const char *a, const char *b, const char *c)
{
	const json_t *value = json_object_get(json_object_get(root, a), b);
	value = c ? json_object_get(value, c) : value;
	assert_true(json_is_integer(value));
	return json_integer_value(value);
}

static void assert_collected(bool dry_run, json_int_t kept, json_int_t dropped, json_int_t content)
{
	json_t *root = json_loads(output, 0, NULL);
	assert_non_null(root);
	assert_int_equal(json_is_true(json_object_get(root, "dry_run")), dry_run);
	assert_int_equal(number(root, "revisions", "kept", NULL), kept);
	assert_int_equal(number(root, "revisions", "dropped", NULL), dropped);
	assert_int_equal(number(root, "swept", "content", "objects"), content);
	assert_int_equal(number(root, "swept", "catalogs", "objects"), dropped);
	assert_int_equal(json_is_true(json_object_get(root, "resigned")), dropped > 0);
	json_decref(root);
}

static void collects(void **state)
{
	make_past();
	assert_int_equal(RUN("gc", NAME), 0); /* all of it is of the last three days */
	assert_said("revisions                 5");
	assert_int_equal(RUN("gc", NAME, "--json", "--dry-run", NOTHING_SINCE), 0);
	assert_collected(true, 2, 3, 2);
	assert_int_equal(RUN("gc", NAME, "--json", "--dry-run", NOTHING_SINCE, "--keep-revisions=4"), 0);
	assert_collected(true, 4, 1, 0);
	assert_int_equal(RUN("gc", NAME, "--json", "--dry-run", "--keep-days", "36500"), 0);
	assert_collected(true, 5, 0, 0);
	assert_int_equal(RUN("gc", NAME, "--json", "--dry-run", "--keep-since", "2100-01-31T23:59:59Z"), 0);
	assert_collected(true, 2, 3, 2);
	assert_int_equal(RUN("gc", NAME, "--json", "--keep-since", "2001-01-31"), 0);
	assert_collected(false, 5, 0, 0);
	assert_int_equal(RUN("gc", NAME, "--dry-run", "--verbose", NOTHING_SINCE), 0);
	assert_said("to be swept");
	assert_said("Nothing was changed.");
	assert_said(": dropped");
	assert_said("has tag \"trunk-previous\"");
	assert_int_equal(RUN("gc", NAME, "--json", NOTHING_SINCE), 0);
	assert_collected(false, 2, 3, 2);
	assert_int_equal(RUN("gc", NAME, "--json", NOTHING_SINCE), 0);
	assert_collected(false, 2, 0, 0);
	assert_int_equal(RUN("info", NAME), 0);
	assert_said("signatures   valid");
}

static void refuses(void **state)
{
	make_past();
	assert_int_equal(RUN("gc"), 2);
	assert_said("one NAME is wanted");
	assert_int_equal(RUN("gc", NAME, "more"), 2);
	assert_int_equal(RUN("gc", NAME, "--keep-days", "-1"), 2);
	assert_int_equal(RUN("gc", NAME, "--keep-days", "40000"), 2);
	assert_int_equal(RUN("gc", NAME, "--keep-revisions", "many"), 2);
	static const char *const dates[] = {
		"yesterday", "2026-13-01", "2026-01-01T", "2026-01-01T10:00", "2026-01-01 x", ""};
	for (size_t i = 0; i < ARRAY_LEN(dates); i++) {
		assert_int_equal(RUN("gc", NAME, "--keep-since", dates[i]), 2);
		assert_said("a date is wanted");
	}
	assert_int_equal(RUN("gc", "unknown.example.org"), 1);
	CLEANUP(lm_freep) char *key = strdup(below("keys/" NAME ".key"));
	assert_int_equal(unlink(key), 0);
	assert_int_equal(RUN("gc", NAME), 1);
	assert_said(NAME ".key");
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(collects), TEST(refuses)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
