/* RE2's syntax by table: what is found, what is refused, and that nothing takes long. */
#include "base/clock.h"
#include "base/str.h"
#include "snapshotter/regex.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct {
	const char *regex, *subject;
	int found;
} cases[] = {
	{"", "", 1},
	{"", "x", 1},
	{"b", "abc", 1},
	{"^b", "abc", 0},
	{"c$", "abc", 1},
	{"c$", "abc\n", 0}, /* the end is the end */
	{"(?m)c$", "abc\nd", 1},
	{"(?m)c(x|$)", "abc\nd", 1},
	{"(?m:x|y)|c$", "abc\nd", 0},
	{"(?m-i)((?-m)x)*c$", "abc\nd", 1},
	{"(?m)(?-m:c$)", "abc\nd", 0},
	{"(?i-ms)c$", "abc\n", 0},
	{"^((?m)x|y)*c$", "c\n", 0},
	{"(?m)^d", "abc\nd", 1},
	{"^d", "abc\nd", 0},
	{"[$]\\$$", "$$", 1},
	{"a.c", "a\nc", 0},
	{"(?s)a.c", "a\nc", 1},
	{"a.c", "a\rc", 1}, /* only a line feed ends a line */
	{"a|b$", "xb", 1},
	{"a)|(b", "b", -EINVAL},
	{"(?i)ABC", "xabcx", 1},
	{"(?i:A)b", "aB", 0},
	{"(?i)\xc3\x84", "\xc3\xa4", 1},
	{"(?-i)A", "a", 0},
	{"(?U)a+$", "aaa", 1},
	{"a+?b", "aab", 1},
	{"a{2,3}?b", "aab", 1},
	{"^a{2}$", "aaa", 0},
	{"^a{2,}$", "aaa", 1},
	{"a{,2}", "a{,2}", 1}, /* a brace that counts nothing is itself */
	{"a{,2}", "aa", 0},
	{"{", "{", 1},
	{"x{a}", "x{a}", 1},
	{"\\d+\\s\\w", "12 a", 1},
	{"^\\D\\S\\W$", "ab-", 1},
	{"\\bb\\b", "a b c", 1},
	{"\\Bb", "ab", 1},
	{"\\Aa\\z", "a", 1},
	{"\\pN\\p{Greek}\\PL", "1\xce\xb1-", 1},
	{"\\p{^Greek}", "\xce\xb1", 0},
	{"[[:alpha:]_]+[[:^digit:]]", "a_b", 1},
	{"[[:x]", ":", 1},
	{"[]a]", "]", 1},
	{"[^]a]", "]", 0},
	{"[a\\-z]", "-", 1},
	{"[\\d\\pL]", "5", 1},
	{"[a(*?+{]", "{", 1},
	{"(?P<name>a)(?:b)", "ab", 1},
	{"(?<name>a)", "a", 1},
	{"\\x41\\x{e4}\\012", "A\xc3\xa4\n", 1},
	{"\\v", "\x0b", 1},
	{"\\v", "\n", 0},
	{"[\\v]", "\n", 0},
	{"\\Q(a*\\E+", "(a***", 1},
	{"\\Qa)", "a)", 1},
	{"\\Qa(", "a", 0},
	{"\\.\\_\\/\\-", "._/-", 1},
	{"^[^\xc3\xa4]$", "\xe2\x82\xac", 1},
	{"()", "", 1},
	{"(a|)*b", "aab", 1},
	{"^(a|b)*[[:alnum:]_-]{2,5}$", "abababab", 1},
};

static const char *const refused[] = {
	"(",
	")",
	"())",
	"a)",
	"[",
	"[a",
	"[]",
	"[^]",
	"*",
	"+a",
	"?",
	"(*",
	"(*UTF)",
	"a|*",
	"(+)",
	"{2}",
	"a**",
	"a*+",
	"a++",
	"a?+",
	"a??*",
	"a{2}{3}",
	"a{2}+",
	"a{1001}",
	"a{1,1001}",
	"a{99999999999999999999}",
	"a{3,2}",
	"\\",
	"a\\",
	"(a)\\1",
	"\\12",
	"\\8",
	"[\\1]",
	"\\g1",
	"\\k<a>",
	"(?P=a)",
	"(?P>a)",
	"(?=a)",
	"(?!a)",
	"(?<=a)",
	"(?<!a)",
	"(?>a)",
	"(?|a)",
	"(?R)",
	"(?1)",
	"(?&a)",
	"(?(1)a)",
	"(?C)",
	"(?#a)",
	"(?x)a",
	"(?J)",
	"[[:](?=a):]]",
	"(?i--m)",
	"(?i",
	"(?'a'b)",
	"(?<a",
	"(?P<a",
	"(?P<>a)",
	"\\C",
	"\\K",
	"\\G",
	"\\R",
	"\\X",
	"\\Z",
	"\\N",
	"\\h",
	"\\H",
	"\\V",
	"\\e",
	"\\cA",
	"\\E",
	"\\o{12}",
	"\\u0041",
	"\\L",
	"\\\xc3\xa4",
	"\\x",
	"\\x4",
	"\\x{",
	"\\x{}",
	"\\x{41",
	"\\x{110000}",
	"\\p",
	"\\p{",
	"\\p{Nothing}",
	"[\\b]",
	"[\\A]",
	"[\\Q]",
	"[z-a]",
	"[[:nothing:]]",
	"\xff",
	"(?P<a>b)(?P<a>b)",
	"(((a{1000}){1000}){1000})",
};

static void finding(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_regex_freep) struct lm_regex *regex = NULL;
		int r = lm_regex_compile(cases[i].regex, &regex, &err);
		if (r == 0)
			r = lm_regex_find(regex, cases[i].subject, &err);
		if (r != cases[i].found)
			fail_msg("%s in \"%s\": %d %s", cases[i].regex, cases[i].subject, r, lm_err_text(&err));
	}
}

static void refusing(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_regex_freep) struct lm_regex *regex = NULL;
		if (lm_regex_compile(refused[i], &regex, &err) != -EINVAL)
			fail_msg("not refused: %s", refused[i]);
		assert_memory_equal(err.msg, "regular expression", 18);
	}
	char large[LM_REGEX_MAX_BYTES + 2];
	memset(large, 'a', sizeof(large));
	large[LM_REGEX_MAX_BYTES + 1] = '\0';
	CLEANUP(lm_regex_freep) struct lm_regex *regex = NULL;
	assert_int_equal(lm_regex_compile(large, &regex, NULL), -EINVAL);
	large[LM_REGEX_MAX_BYTES] = '\0';
	assert_int_equal(lm_regex_compile(large, &regex, NULL), 0);
}

/* What takes a backtracking matcher for ever, or one that copies repetitions much memory. */
static const char *const slow[] = {
	"(a*)*b",
	"(a+)+$",
	"(a|a)*b",
	"(a|aa)+$",
	"((((((((((((a*)*)*)*)*)*)*)*)*)*)*)*)b",
	"((((((((((a)+)+)+)+)+)+)+)+)+)+b",
	"(x+x+)+y|(a+a+)+b",
	"(.*)*(.*)*(.*)*(.*)*b",
	"(((a{30}){30}){30})b",
	"(a?){300}a{300}b",
	"(.*a){40}b",
	".*.*.*.*.*.*.*.*.*.*b",
};

static void in_bounded_time(void **state)
{
	static const size_t lengths[] = {40, 4000, 32000, 1 << 20};
	unsigned long answers = 0, questions = 0;
	for (size_t i = 0; i < ARRAY_LEN(slow); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_regex_freep) struct lm_regex *regex = NULL;
		if (lm_regex_compile(slow[i], &regex, &err) < 0) {
			assert_int_equal(err.code, -EINVAL);
			continue;
		}
		for (size_t k = 0; k < ARRAY_LEN(lengths); k++) {
			CLEANUP(lm_freep) char *subject = malloc(lengths[k] + 1);
			memset(subject, 'a', lengths[k]);
			subject[lengths[k] - 1] = '!';
			subject[lengths[k]] = '\0';
			int64_t begin = lm_now_ms();
			int r = lm_regex_find(regex, subject, &err);
			if (r != 0 && r != -E2BIG)
				fail_msg("%s in %zu bytes: %d %s", slow[i], lengths[k], r, lm_err_text(&err));
			/* Generous, for sanitizers and machines that are busy: without a bound it is years. */
			if (lm_now_ms() - begin > 30000)
				fail_msg("%s in %zu bytes: %d ms", slow[i], lengths[k], (int)(lm_now_ms() - begin));
			questions++;
			answers += r == 0;
		}
	}
	printf("%lu of %lu with an answer\n", answers, questions);
	assert_true(answers * 2 > questions);
}

static void not_text(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_regex_freep) struct lm_regex *regex = NULL;
	assert_int_equal(lm_regex_compile("a", &regex, NULL), 0);
	assert_int_equal(lm_regex_find(regex, "\xff", &err), -EINVAL);
	assert_non_null(strstr(err.msg, "UTF-8"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finding),
		cmocka_unit_test(refusing),
		cmocka_unit_test(in_bounded_time),
		cmocka_unit_test(not_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
