/* The two forms in which `lamella inspect` prints, and the options of commands. */
#include "inspect_out.h"

#include "common.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static char printed[16 << 10];
static int saved_out = -1, saved_err = -1;
static FILE *file;

/* What is printed between these two, on standard output and on standard error, is in `printed`. */
static void capture(void)
{
	fflush(stdout);
	file = tmpfile();
	assert_non_null(file);
	saved_out = dup(STDOUT_FILENO);
	saved_err = dup(STDERR_FILENO);
	dup2(fileno(file), STDOUT_FILENO);
	dup2(fileno(file), STDERR_FILENO);
}

static const char *captured(void)
{
	fflush(stdout);
	dup2(saved_out, STDOUT_FILENO);
	dup2(saved_err, STDERR_FILENO);
	close(saved_out);
	close(saved_err);
	rewind(file);
	printed[fread(printed, 1, sizeof(printed) - 1, file)] = '\0';
	fclose(file);
	return printed;
}

/* --- output --- */

static void print_all(struct lm_out *out)
{
	struct lm_hash hash = {.set = true, .algo = LM_HASH_SHAKE128}, none = {0};
	lm_out_number(out, "number", UINT64_MAX);
	lm_out_flag(out, "flag", true);
	lm_out_hash(out, "hash", &hash);
	lm_out_hash(out, "no_hash", &none);
	lm_out_time(out, "time", 1767225600);
	lm_out_time(out, "no_time", 0);
	lm_out_text(out, "text", "a b%", 4);
	lm_out_text(out, "empty", "", 0);
	lm_out_sentence(out, "sentence", "what \"he\" said\033[2J");
	lm_out_object(out, "outer");
	lm_out_object(out, "inner");
	lm_out_number(out, "x", 1);
	lm_out_close(out);
	lm_out_flag(out, "y", false);
	lm_out_close(out);
	lm_out_list(out, "rows", "row");
	for (unsigned i = 0; i < 2; i++) {
		lm_out_item(out);
		lm_out_number(out, "id", i);
		lm_out_sentence(out, "error", "no \"good\"");
		lm_out_list(out, "chunks", "chunk");
		for (unsigned k = 0; k < i * 2; k++) {
			lm_out_item(out);
			lm_out_word(out, "at", "%u", k);
			lm_out_close(out);
		}
		lm_out_close(out);
		lm_out_close(out);
	}
	lm_out_close(out);
	lm_out_list(out, "nothing", "thing");
	lm_out_close(out);
	lm_out_number(out, "last", 2);
}

static void test_text(void **state)
{
	struct lm_out out;
	capture();
	lm_out_begin(&out, false);
	print_all(&out);
	lm_out_end(&out, NULL);
	assert_string_equal(captured(),
		"number                      18446744073709551615\n"
		"flag                        yes\n"
		"hash                        0000000000000000000000000000000000000000-shake128\n"
		"time                        2026-01-01T00:00:00Z\n"
		"text                        a%20b%25\n"
		"empty                       -\n"
		"sentence                    what \"he\" said?[2J\n"
		"outer.inner.x               1\n"
		"outer.y                     no\n"
		"row id=0 error=\"no \\\"good\\\"\"\n"
		"row id=1 error=\"no \\\"good\\\"\"\n"
		"  chunk at=0\n"
		"  chunk at=1\n"
		"last                        2\n");
}

static void test_json(void **state)
{
	struct lm_out out;
	json_error_t why;
	capture();
	lm_out_begin(&out, true);
	print_all(&out);
	lm_out_end(&out, NULL);
	assert_string_equal(captured(), "{\n"
					"  \"number\": 18446744073709551615,\n"
					"  \"flag\": true,\n"
					"  \"hash\": \"0000000000000000000000000000000000000000-shake128\",\n"
					"  \"time\": \"2026-01-01T00:00:00Z\",\n"
					"  \"text\": \"a b%25\",\n"
					"  \"empty\": \"\",\n"
					"  \"sentence\": \"what \\\"he\\\" said\\u001b[2J\",\n"
					"  \"outer\": {\n"
					"    \"inner\": {\n"
					"      \"x\": 1\n"
					"    },\n"
					"    \"y\": false\n"
					"  },\n"
					"  \"rows\": [\n"
					"    {\"id\": 0, \"error\": \"no \\\"good\\\"\", \"chunks\": []},\n"
					"    {\"id\": 1, \"error\": \"no \\\"good\\\"\", \"chunks\": [\n"
					"        {\"at\": \"0\"},\n"
					"        {\"at\": \"1\"}\n"
					"      ]}\n"
					"  ],\n"
					"  \"nothing\": [],\n"
					"  \"last\": 2\n"
					"}\n");
	/* The largest number is beyond what this parser takes. */
	char *number = strstr(printed, "18446744073709551615");
	memcpy(number, "                   1", 20);
	json_t *json = json_loads(printed, 0, &why);
	assert_non_null(json);
	json_decref(json);
}

static void test_error_closes_all(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_out out;
	lm_err_set(&err, -EPROTO, "broken");
	capture();
	lm_out_begin(&out, true);
	lm_out_list(&out, "rows", "row");
	lm_out_item(&out);
	lm_out_number(&out, "id", 1);
	lm_out_list(&out, "chunks", "chunk");
	lm_out_end(&out, &err);
	json_t *json = json_loads(captured(), 0, NULL);
	assert_non_null(json);
	assert_string_equal(json_string_value(json_object_get(json, "error")), "broken");
	assert_int_equal(json_array_size(json_object_get(json, "rows")), 1);
	json_decref(json);

	capture();
	lm_out_begin(&out, false);
	lm_out_list(&out, "rows", "row");
	lm_out_item(&out);
	lm_out_number(&out, "id", 1);
	lm_out_end(&out, &err);
	assert_string_equal(captured(), "row id=1\n");

	capture();
	lm_out_begin(&out, true);
	lm_out_end(&out, NULL);
	assert_string_equal(captured(), "{}\n");
}

static void test_foreign_text(void **state)
{
	static const struct {
		const char *bytes, *json;
	} cases[] = {
		{"plain", "plain"}, {"a\"b\\c\n\t\001\177", "a\\\"b\\\\c\\u000a\\u0009\\u0001\\u007f"},
		{"100%", "100%25"}, {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\\u00e9\\u20ac\\ud83d\\ude00"},
		{"\xff\xfe", "%ff%fe"}, {"a\xc3", "a%c3"},			     /* cut short */
		{"\xc3(", "%c3("},						     /* no continuation */
		{"\xc0\x80\xe0\x80\x80", "%c0%80%e0%80%80"},			     /* longer than need be */
		{"\xf0\x80\x80\x80", "%f0%80%80%80"}, {"\xed\xa0\x80", "%ed%a0%80"}, /* half of a pair */
		{"\xf4\x90\x80\x80\xf5", "%f4%90%80%80%f5"},			     /* beyond the last character */
		{"\xf4\x8f\xbf\xbf\xef\xbf\xbf", "\\udbff\\udfff\\uffff"},	     /* the last one */
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char expected[256];
		struct lm_out out;
		snprintf(expected, sizeof(expected), "{\n  \"t\": \"%s\"\n}\n", cases[i].json);
		capture();
		lm_out_begin(&out, true);
		lm_out_text(&out, "t", cases[i].bytes, strlen(cases[i].bytes));
		lm_out_end(&out, NULL);
		assert_string_equal(captured(), expected);
	}
}

/* --- options --- */

struct options {
	const char *dir;
	uint64_t count;
	bool all;
	unsigned many;
};

static int parse_many(void *arg, const char *value, struct lm_err *err)
{
	struct options *o = arg;
	o->many++;
	return strcmp(value, "bad") == 0 ? lm_err_set(err, -EINVAL, "--many: bad it is") : 0;
}

static int code; /* of the last parse */

static int parse(struct options *o, const char *const *args)
{
	const struct lm_cli_option options[] = {
		{"dir", "DIR", "where it is,\nand more", .text = &o->dir, .letter = 'd'},
		{"count", "N", "how many", .number = &o->count, .min = 1, .max = 9},
		{"all", NULL, "all of them", .flag = &o->all, .letter = 'a'},
		{"many-of-these-things", "SOMETHING", "a long one", .parse = parse_many, .parse_arg = o},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		"WORD... [OPTION]...", "What it does.", options, 1, 2, "one or two wanted"};
	char *argv[20] = {(char *)"lamella test"};
	int argc = 1;
	*o = (struct options){0};
	for (; args[argc - 1]; argc++)
		argv[argc] = (char *)args[argc - 1];
	optind = 0;
	capture();
	int at = lm_cli_parse(argc, argv, &syntax, &code);
	captured();
	return at < 0 ? at : argc - at;
}
#define PARSE(...) parse(&o, (const char *const[]){__VA_ARGS__, NULL})

static void test_options(void **state)
{
	struct options o;
	assert_int_equal(PARSE("word"), 1);
	assert_int_equal(PARSE("word", "--dir", "x", "--count=9", "--all", "more"), 2);
	assert_string_equal(o.dir, "x");
	assert_int_equal(o.count, 9);
	assert_true(o.all);
	assert_int_equal(PARSE("-ady", "word", "--many-of-these-things", "1", "--many-of-these-things", "2"), 1);
	assert_string_equal(o.dir, "y");
	assert_true(o.all);
	assert_int_equal(o.many, 2);
	assert_int_equal(PARSE("--", "--all"), 1);
	assert_false(o.all);
	assert_string_equal(printed, "");
}

static void assert_refused(int at, const char *said)
{
	assert_int_equal(at, -1);
	assert_int_equal(code, LM_EXIT_USAGE);
	assert_non_null(strstr(printed, said));
	assert_non_null(strstr(printed, "see `lamella test --help`"));
}

static void test_wrong_options(void **state)
{
	struct options o;
	assert_refused(PARSE("--all"), "one or two wanted");
	assert_refused(PARSE("1", "2", "3"), "one or two wanted");
	assert_refused(PARSE("word", "--nonsense"), "nonsense");
	assert_refused(PARSE("word", "--dir"), "argument");
	assert_refused(PARSE("word", "--all=1"), "argument");
	assert_refused(PARSE("word", "--count", "0"), "--count: a number from 1 to 9 is wanted, not \"0\"");
	assert_refused(PARSE("word", "--count", "10"), "--count");
	assert_refused(PARSE("word", "--count", "1x"), "--count");
	assert_refused(PARSE("word", "--many-of-these-things", "bad"), "bad it is");
}

static void test_help(void **state)
{
	struct options o;
	assert_int_equal(PARSE("--help"), -1);
	assert_int_equal(code, LM_EXIT_OK);
	assert_string_equal(printed, "Usage: lamella test WORD... [OPTION]...\n"
				     "What it does.\n"
				     "\n"
				     "  -d, --dir DIR  where it is,\n"
				     "                 and more\n"
				     "  --count N      how many\n"
				     "  -a, --all      all of them\n"
				     "  --many-of-these-things SOMETHING\n"
				     "                 a long one\n");
	assert_int_equal(PARSE("-h"), -1);
	assert_int_equal(code, LM_EXIT_OK);
}

static void test_dates(void **state)
{
	static const struct {
		const char *text;
		int64_t s; /* -1: none */
	} cases[] = {
		{"2026-01-01", 1767225600},
		{"2026-01-01T00:00:01Z", 1767225601},
		{"2026-01-01T00:00:01", 1767225601},
		{"@17", 17},
		{"@", -1},
		{"@1x", -1},
		{"", -1},
		{"2026", -1},
		{"2026-13-01", -1},
		{"2026-01-01T", -1},
		{"2026-01-01Zx", -1},
		{"yesterday", -1},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_err err = LM_ERR_INIT;
		int64_t s = -1;
		int r = lm_cli_time_parse(cases[i].text, &s, &err);
		assert_int_equal(r, cases[i].s < 0 ? -EINVAL : 0);
		assert_int_equal(s, cases[i].s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_error_closes_all),
		cmocka_unit_test(test_foreign_text),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_wrong_options),
		cmocka_unit_test(test_help),
		cmocka_unit_test(test_dates),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
