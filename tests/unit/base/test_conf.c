#include "base/conf.h"
#include "base/file.h"

#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static int parse(struct lm_conf *conf, const char *text, struct lm_err *err)
{
	return lm_conf_parse(conf, "test.conf", text, strlen(text), err);
}

static int new_conf(void **state)
{
	struct lm_conf *conf;
	if (lm_conf_new(&conf, NULL) < 0)
		return -1;
	*state = conf;
	return 0;
}

static int free_conf(void **state)
{
	lm_conf_free(*state);
	return 0;
}

static void reads_what_a_shell_would(void **state)
{
	static const struct {
		const char *line, *value;
	} cases[] = {
		{"K=v", "v"},
		{"K=", ""},
		{"K=  # nothing", ""},
		{"  K=v  ", "v"},
		{"K=v # comment", "v"},
		{"K=v#no-comment", "v#no-comment"},
		{"export K=v", "v"},
		{"readonly\tK=v", "v"},
		{"export readonly K=v", "v"},
		{"K='a b'", "a b"},
		{"K=\"a b\"", "a b"},
		{"K='a'\"b\"c", "abc"},
		{"K=\"it's\"", "it's"},
		{"K='a\"b'", "a\"b"},
		{"K='$A \\'", "$A \\"},
		{"K=\"a\\\"b\\\\c\\$d\\`\"", "a\"b\\c$d`"},
		{"K=\"a\\nb\"", "a\\nb"},
		{"K=a\\ b\\;c", "a b;c"},
		{"K=http://h:80/x?y=1", "http://h:80/x?y=1"},
		{"K='p1|p2;DIRECT'", "p1|p2;DIRECT"},
		{"K=v\r", "v"},
		{"A=1\nK=$A$A", "11"},
		{"A=1\nK=${A}x", "1x"},
		{"A='b c'\nK=\"$A-$A\"", "b c-b c"},
		{"A='b c'\nK=$A", "b c"},
		{"K=$UNSET", ""},
		{"K=1\nK=${K}2", "12"},
		{"\n\n# x\n\nK=v", "v"},
		{"K==", "="},
		{"export=5\nK=$export", "5"},
		{"K=${A:-b}", "b"},
		{"K=${A-b}", "b"},
		{"A=\nK=${A:-b}", "b"},
		{"A=\nK=${A-b}", ""},
		{"A=1\nK=${A:-b}", "1"},
		{"K=${A:=b}$A", "bb"},
		{"K=${K:=b}", "b"},
		{"A=1\nK=${A:=b}", "1"},
		{"A=1\nK=x${A:+b c}x", "xb cx"},
		{"K=x${A:+b}", "x"},
		{"K=${A:-}", ""},
		{"K=${A:-${B:-${C:-d}}}", "d"},
		{"B=2\nK=\"${A:-\"b $B\" 'c'}\"", "b 2 'c'"},
		{"K=${A:-'}'\\}\"}\"}", "}}}"},
		{"K='a;'\\\nb", "a;b"},
		{"K=a\\\n\\\nb\\\\", "ab\\"},
		{"# \\\nK=v", "v"},
		{"K=v;", "v"},
		{"K=v\nexport K", "v"},
		{":\nK=v", "v"},
		{"if [ \"x$A\" = \"x\" ]; then\n  K=1\nfi", "1"},
		{"A=1\nif [ \"x$A\" = x ]; then\n  K=1\nelse\n  K=2\nfi # end", "2"},
		{"if [ -z \"$A\" ]\nthen\nK=1\nfi", "1"},
		{"if [ -z \"$A\" ];\n # why\n\n then # now\n:\nK=1\nfi;", "1"},
		{"K=0\nif [ -n \"$A\" ] ; then\nK=$(date)\nfi", "0"},
		{"K=0\nif [ a == a ] && [ a != b ] && ! [ a = b ]; then\nK=1\nfi", "1"},
		{"if [ a = b ] || [ \"a;b\" = 'a;b' ]; then\nK=1\nfi", "1"},
		{"if [ ! a = b ]; then\nK=1\nfi", "1"},
		{"if [ a ] && [ ! \"\" ]; then\nK=1\nfi", "1"},
		{"if [ a = b ]; then\nK=1\nelif [ a = a ]; then\nK=2\nelif [ a = a ]; then\nK=3\nelse\nK=4\nfi", "2"},
		{"if [ a = b ]; then\nwhile true; do\n if [ whatever; then\n else\n K=1\n fi\nelse\nK=5\nfi", "5"},
		{"if [ a = a ]; then\nif [ a = b ]; then\nK=1\nelse\nK=2\nfi\nelse\nK=3\nfi", "2"},
		{"if [ -d / ] && [ -e /dev/null ] && [ ! -f / ]; then\nK=1\nfi", "1"},
		{"if [ -f /proc/version ] && grep -q \"Linu[x]\\|none\" /proc/version;\nthen\n :\nK=1\nfi", "1"},
		{"K=0\nif grep -q x /nonexistent; then\nK=1\nfi", "0"},
		{"K=0\nif grep -q x /dev/zero; then\nK=1\nfi", "0"},
		{"if=1\nK=$if", "1"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_conf_freep) struct lm_conf *conf = NULL;
		struct lm_err err = LM_ERR_INIT;
		assert_int_equal(lm_conf_new(&conf, &err), 0);
		if (parse(conf, cases[i].line, &err) < 0)
			fail_msg("%s: %s", cases[i].line, err.msg);
		if (strcmp(lm_conf_get(conf, "K"), cases[i].value) != 0)
			fail_msg("%s: %s", cases[i].line, lm_conf_get(conf, "K"));
	}
}

static void refuses_the_rest_of_shell(void **state)
{
	static const char *const cases[] = {
		"K",
		"=v",
		"1K=v",
		"K =v",
		"K= v",
		"K=a b",
		"K='a",
		"K=\"a",
		"K=\"a\\\"",
		"K=$(date)",
		"K=`date`",
		"K=\"`date`\"",
		"K=${A",
		"K=${A:-b",
		"K=${A:?b}",
		"K=${A:}",
		"K=${A%b}",
		"K=${A:-$(date)}",
		"K=${A:-\"b}",
		"K=$((1 + 1))",
		"if [ a = a ]; then",
		"if [ a = a ]; then; fi",
		"if [ a = a ]; then K=1; fi",
		"if [ a = ]; then\nfi",
		"if [ a -eq a ]; then\nfi",
		"if [ -q a ]; then\nfi",
		"if [ a = a b ]; then\nfi",
		"if [ a = a; then\nfi",
		"if [ a = a ] & then\nfi",
		"if [ a = a ] &&; then\nfi",
		"if [ \"$(date)\" ]; then\nfi",
		"if test a = a; then\nfi",
		"if grep x /proc/version; then\nfi",
		"if grep -q '[' /proc/version; then\nfi",
		"if grep -q 'a\\{9\\}' /proc/version; then\nfi",
		"if grep -q x; then\nfi",
		"if",
		"fi",
		"else",
		"then",
		". /nonexistent.conf",
		".",
		"while true; do",
		"unset K",
		"[ a = a ] && K=1",
		"K=$",
		"K=$1",
		"K=a;b",
		"K=a|b",
		"K=a>b",
		"K=a&",
		"K=(a)",
		"if true",
		"K=a\\",
		"K-L=v",
		"export",
		". other.conf",
		"K='a'; L=b",
		"\xc3\xa4=v",
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_conf_freep) struct lm_conf *conf = NULL;
		struct lm_err err = LM_ERR_INIT;
		assert_int_equal(lm_conf_new(&conf, &err), 0);
		if (parse(conf, cases[i], &err) != -EPROTO)
			fail_msg("%s was accepted", cases[i]);
		assert_memory_equal(err.msg, "test.conf:1: ", 13);
		assert_null(lm_conf_get(conf, "K"));
	}
}

static void names_the_line(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(parse(*state, "A=1\n\n# c\nB=$(x)\nC=1\n", &err), -EPROTO);
	assert_memory_equal(err.msg, "test.conf:4: ", 13);
	assert_string_equal(lm_conf_get(*state, "A"), "1");
	assert_null(lm_conf_get(*state, "C"));
}

static void nul_is_refused(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_conf_parse(*state, "x", "A=1\0B=2", 7, &err), -EPROTO);
	assert_null(lm_conf_get(*state, "A"));
	assert_int_equal(lm_conf_parse(*state, "x", "", 0, &err), 0);
}

static void remembers_where_from(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_conf_parse(*state, "first", "A=1\nB=2\n", 8, &err), 0);
	assert_int_equal(lm_conf_parse(*state, "second", "\nA=3\n", 5, &err), 0);
	assert_int_equal(lm_conf_set(*state, "C", "4", "command line", &err), 0);
	const struct lm_conf_entry *a = lm_conf_at(*state, 0);
	assert_string_equal(a->key, "A");
	assert_string_equal(a->value, "3");
	assert_string_equal(a->file, "second");
	assert_int_equal(a->line, 2);
	assert_string_equal(lm_conf_at(*state, 1)->key, "B");
	assert_string_equal(lm_conf_entry(*state, "C")->file, "command line");
	assert_null(lm_conf_at(*state, 3));
	assert_null(lm_conf_entry(*state, "D"));
}

static void prefixes_of_keys_are_other_keys(void **state)
{
	assert_int_equal(parse(*state, "LONGER=1\n", NULL), 0);
	assert_null(lm_conf_get(*state, "LONG"));
	assert_int_equal(parse(*state, "LONG=2\n", NULL), 0);
	assert_string_equal(lm_conf_get(*state, "LONGER"), "1");
}

static void set_checks_the_key(void **state)
{
	assert_int_equal(lm_conf_set(*state, "", "v", "x", NULL), -EINVAL);
	assert_int_equal(lm_conf_set(*state, "a b", "v", "x", NULL), -EINVAL);
	assert_int_equal(lm_conf_set(*state, "1a", "v", "x", NULL), -EINVAL);
	assert_int_equal(lm_conf_set(*state, "a", "any thing $x", "x", NULL), 0);
	assert_string_equal(lm_conf_get(*state, "a"), "any thing $x");
}

/* Nothing is put in for anything: it was done there. */
static void put_keeps_all(void **state)
{
	const struct lm_conf_entry entry = {.key = "A", .value = "$B @C@", .file = "/f", .line = 7, .source = 9};
	const struct lm_conf_entry wrong = {.key = "a b", .value = "", .file = "/f"};
	assert_int_equal(lm_conf_put(*state, &wrong, NULL), -EINVAL);
	assert_int_equal(lm_conf_put(*state, &entry, NULL), 0);
	const struct lm_conf_entry *e = lm_conf_entry(*state, "A");
	assert_string_equal(e->value, "$B @C@");
	assert_string_equal(e->file, "/f");
	assert_int_equal(e->line, 7);
	assert_int_equal(e->source, 9);
}

static void numbers(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	uint64_t value = 99;
	assert_int_equal(parse(*state, "A=42\nB=x\nC=-1\nD=18446744073709551616\n", &err), 0);
	assert_int_equal(lm_conf_u64(*state, "NONE", 7, 100, &value, &err), 0);
	assert_int_equal(value, 7);
	assert_int_equal(lm_conf_u64(*state, "A", 7, 42, &value, &err), 0);
	assert_int_equal(value, 42);
	assert_int_equal(lm_conf_u64(*state, "A", 7, 41, &value, &err), -EINVAL);
	assert_int_equal(lm_conf_u64(*state, "B", 7, 41, &value, &err), -EINVAL);
	assert_string_equal(err.msg, "test.conf:2: B=x is not a number from 0 to 41");
	assert_int_equal(lm_conf_u64(*state, "C", 7, UINT64_MAX, &value, &err), -EINVAL);
	assert_int_equal(lm_conf_u64(*state, "D", 7, UINT64_MAX, &value, &err), -EINVAL);
	assert_int_equal(value, 42);
}

static void booleans(void **state)
{
	bool value = false;
	struct lm_err err = LM_ERR_INIT;
	static const char *const words[] = {"yes", "no", "ON", "Off", "1", "0", "True", "false"};
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		assert_int_equal(lm_conf_set(*state, "A", words[i], "x", &err), 0);
		assert_int_equal(lm_conf_bool(*state, "A", i % 2, &value, &err), 0);
		assert_int_equal(value, i % 2 == 0);
	}
	assert_int_equal(lm_conf_bool(*state, "NONE", true, &value, &err), 0);
	assert_true(value);
	assert_int_equal(lm_conf_set(*state, "A", "maybe", "x", &err), 0);
	assert_int_equal(lm_conf_bool(*state, "A", true, &value, &err), -EINVAL);
	assert_int_equal(lm_conf_set(*state, "A", "", "x", &err), 0);
	assert_int_equal(lm_conf_bool(*state, "A", true, &value, &err), -EINVAL);
}

static void values_cannot_explode(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(1 << 20);
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_buf_str(&text, "A=0123456789\n"), 0);
	for (int i = 0; i < 30; i++)
		assert_int_equal(lm_buf_str(&text, "A=$A$A\n"), 0);
	assert_int_equal(parse(*state, lm_buf_cstr(&text), &err), -EPROTO);
	assert_non_null(strstr(err.msg, "too long"));
}

static void entries_are_limited(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(1 << 20);
	struct lm_err err = LM_ERR_INIT;
	for (int i = 0; i < 5000; i++)
		assert_int_equal(lm_buf_printf(&text, "K%d=\n", i), 0);
	assert_int_equal(parse(*state, lm_buf_cstr(&text), &err), -EPROTO);
	assert_non_null(strstr(err.msg, "settings"));
	assert_non_null(lm_conf_get(*state, "K4095"));
	assert_int_equal(parse(*state, "K0=still\n", &err), 0);
}

static void files(void **state)
{
	char dir[] = "/tmp/lamella-conf.XXXXXX", path[64];
	struct lm_err err = LM_ERR_INIT;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/a.conf", dir);
	assert_int_equal(lm_conf_read(*state, path, &err), -ENOENT);
	assert_int_equal(lm_file_replace(AT_FDCWD, path, "A=1", 3, 0600, 0, &err), 0);
	assert_int_equal(lm_conf_read(*state, path, &err), 0);
	assert_string_equal(lm_conf_entry(*state, "A")->file, path);
	assert_int_equal(lm_file_replace(AT_FDCWD, path, "", 0, 0600, 0, &err), 0);
	assert_int_equal(lm_conf_read(*state, path, &err), 0);
	assert_true(lm_conf_read(*state, dir, &err) < 0);
	assert_int_equal(lm_remove_tree(AT_FDCWD, dir, &err), 0);
}

/* Each file reads the next; the eighth is one too many. */
static void files_of_files(void **state)
{
	char dir[] = "/tmp/lamella-conf.XXXXXX", path[64], text[64];
	struct lm_err err = LM_ERR_INIT;
	assert_non_null(mkdtemp(dir));
	for (int i = 0; i < 9; i++) {
		snprintf(path, sizeof(path), "%s/%d.conf", dir, i);
		snprintf(text, sizeof(text), "A%d=1\n%s ./%d.conf\nB=%d", i, i % 2 ? "." : "source", i + 1, i);
		assert_int_equal(lm_file_replace(AT_FDCWD, path, text, strlen(text), 0600, 0, &err), 0);
	}
	snprintf(path, sizeof(path), "%s/1.conf", dir);
	assert_int_equal(lm_conf_read(*state, path, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "8.conf:2: too many"));
	snprintf(path, sizeof(path), "%s/6.conf", dir);
	assert_int_equal(lm_conf_read(*state, path, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "8.conf:2: the file to be read is not there"));
	snprintf(path, sizeof(path), "%s/9.conf", dir);
	assert_int_equal(lm_file_replace(AT_FDCWD, path, "A9=9", 4, 0600, 0, &err), 0);
	snprintf(path, sizeof(path), "%s/6.conf", dir);
	err = (struct lm_err){0};
	assert_int_equal(lm_conf_read(*state, path, &err), 0);
	assert_string_equal(lm_conf_get(*state, "B"), "6");
	assert_string_equal(strrchr(lm_conf_entry(*state, "A9")->file, '/'), "/9.conf");
	assert_true(lm_conf_entry(*state, "B")->source >= lm_conf_entry(*state, "A9")->source);
	assert_int_equal(lm_remove_tree(AT_FDCWD, dir, &err), 0);
}

static void templates(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_conf_template(*state, "fqrn", "a.example.org", &err), 0);
	assert_int_equal(lm_conf_template(*state, "org", "a", &err), 0);
	assert_int_equal(parse(*state, "K='http://s/@fqrn@;@org@@org@@orgs@'\nL=\"$K@\"", &err), 0);
	assert_string_equal(lm_conf_get(*state, "K"), "http://s/a.example.org;aa@orgs@");
	assert_string_equal(lm_conf_get(*state, "L"), "http://s/a.example.org;aa@orgs@@");
}

/* Messages name the line where it went wrong, also behind lines that were joined or left out. */
static void lines_are_counted(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(parse(*state, "A=1\\\n2\\\n3\nif [ a ]; then\n:\nelse\nx\nfi\nB=1\nC=$(x)", &err), -EPROTO);
	assert_memory_equal(err.msg, "test.conf:10: ", 14);
	assert_int_equal(lm_conf_entry(*state, "B")->line, 9);
	assert_int_equal(parse(*state, "A=1\nif [ a ]; then\nif [ b ]; then\nfi\n", &err), -EPROTO);
	assert_memory_equal(err.msg, "test.conf:2: ", 13);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_what_a_shell_would),
		cmocka_unit_test(refuses_the_rest_of_shell),
		cmocka_unit_test_setup_teardown(names_the_line, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(nul_is_refused, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(remembers_where_from, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(prefixes_of_keys_are_other_keys, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(set_checks_the_key, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(put_keeps_all, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(numbers, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(booleans, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(values_cannot_explode, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(entries_are_limited, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(files, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(files_of_files, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(templates, new_conf, free_conf),
		cmocka_unit_test_setup_teardown(lines_are_counted, new_conf, free_conf),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
