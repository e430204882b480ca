/* containerd's filter grammar, by table: what holds, what does not, what is refused. */
#include "snapshotter/filter.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
	struct lm_snapshot parent, snapshot;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	static const char *const labels[][2] = {
		{"containerd.io/snapshot.ref", "sha256:abc"},
		{"a.b.c", "dotted"},
		{"plain", "with, comma and \"quotes\""},
		{"uml\xc3\xa4ut", "\xe2\x82\xac"},
		{"_under9", "x"},
	};
	f->parent = (struct lm_snapshot){.id = 1, .key = (char *)"k8s.io/1/below", .kind = LM_COMMITTED};
	f->snapshot = (struct lm_snapshot){
		.id = 2, .key = (char *)"k8s.io/2/sha256:abc def", .kind = LM_COMMITTED, .parent = &f->parent};
	for (size_t i = 0; i < ARRAY_LEN(labels); i++)
		assert_int_equal(lm_labels_set(&f->snapshot.labels, labels[i][0], labels[i][1]), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_labels_done(&f->snapshot.labels);
	free(f);
	return 0;
}

static const struct {
	const char *text;
	bool holds;
} cases[] = {
	{"", true},
	{"kind==committed", true},
	{"kind==active", false},
	{"kind!=active", true},
	{"kind", true},
	{"name==\"k8s.io/2/sha256:abc def\"", true},
	{"name==k8s.io/2/sha256:abc", false},
	{"parent==\"k8s.io/1/below\"", true},
	{"parent==k8s.io/1/below", true},
	{"parent==\"\"", false},
	/* The one that containerd sends. */
	{"labels.\"containerd.io/snapshot.ref\"==sha256:abc,parent==\"k8s.io/1/below\"", true},
	{"labels.\"containerd.io/snapshot.ref\"==sha256:abd,parent==\"k8s.io/1/below\"", false},
	{"labels.\"containerd.io/snapshot.ref\"==sha256:abc,parent==\"\"", false},
	/* Paths. */
	{"labels.a.b.c==dotted", true},
	{"labels.\"a.b\".c==dotted", true},
	{"labels.\"a.b.c\"", true},
	{"labels.a.b", false},
	{"labels._under9==x", true},
	{"labels.\"uml\xc3\xa4ut\"==\"\xe2\x82\xac\"", true},
	{"labels.\"uml\\u00e4ut\"==\"\\xe2\\x82\\xac\"", true},
	{"labels.\"uml\\303\\244ut\"==\"\\U000020ac\"", true},
	{"labels", false},
	{"name.anything==\"k8s.io/2/sha256:abc def\"", true},
	{"size", false},
	{"size==3", false},
	{"size!=3", true},
	/* Absent and empty. */
	{"labels.missing", false},
	{"labels.missing==x", false},
	{"labels.missing==\"\"", false},
	{"labels.missing!=x", true},
	{"labels.missing!=\"\"", false},
	{"labels.missing~=^$", true},
	/* Blanks and conjunction. */
	{"  kind  ==  committed,  labels. plain", true},
	{"kind==committed,name", true},
	{"kind==committed,kind==active", false},
	{"\tkind\n==\rcommitted", true},
	/* Quoting. */
	{"labels.plain==\"with, comma and \\\"quotes\\\"\"", true},
	{"labels.plain~=/with, .* \"quotes\"/", true},
	{"labels.plain~=|comma|", true},
	{"labels.plain~=/a\\/b|comma/", true},
	{"\"kind\"==\"committed\"", true},
	{"kind==\"\\x63ommitted\"", true},
	{"kind!=\"\\a\\b\\f\\n\\r\\t\\v\\\\\"", true},
	/* Regular expressions. */
	{"name~=^k8s", true},
	{"name~=\"sha256:[a-f]{3} d\"", true},
	{"name~=x$", false},
	{"name~=(a|b)c", true},
	{"labels.a.b.c~=d.t+ed?", true},
	{"name~=\"^[a-z0-9]+[.][a-z]+/[0-9]+/[a-z0-9]+:[a-f]+ [a-z]+$\"", true},
	{"name~=\"([a-z0-9.]+/)+\"", true},
	{"name~=\"(?i)K8S[.]IO/\\\\d+/\"", true},
	{"name~=/\\\\d+?\\/sha256:\\\\w{3}\\\\b/", true},
};

static void matching(void **state)
{
	struct fixture *f = *state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_filter_freep) struct lm_filter *filter = NULL;
		if (lm_filter_parse(cases[i].text, &filter, &err) < 0)
			fail_msg("%s: %s", cases[i].text, lm_err_text(&err));
		int r = lm_filter_match(filter, &f->snapshot, &err);
		if (r < 0)
			fail_msg("%s: %s", cases[i].text, lm_err_text(&err));
		if (r != cases[i].holds)
			fail_msg("%s: should %s", cases[i].text, cases[i].holds ? "hold" : "not hold");
	}
}

static const char *const refused[] = {
	",",
	"kind,",
	",kind",
	"kind=committed",
	"kind=",
	"kind==",
	"kind== ",
	"kind==,name",
	"kind<>x",
	"kind!",
	"kind~",
	"kind committed",
	"kind==/committed/",
	"kind==|committed|",
	"kind===committed",
	"kind== ~committed",
	"kind==.committed",
	"kind ",
	"kind ,name",
	"kind==committed ,name",
	"kind==committed ",
	"labels .plain",
	"kind==a b",
	".kind",
	"kind.",
	"labels..a",
	"labels.a-b",
	"\"kind",
	"kind==\"x",
	"kind==\"x\\",
	"kind==\"\\q\"",
	"kind==\"\\x6\"",
	"kind==\"\\xzz\"",
	"kind==\"\\u12\"",
	"kind==\"\\ud800\"",
	"kind==\"\\U00110000\"",
	"kind==\"\\400\"",
	"kind==\"\\000\"",
	"kind==\"\\x00\"",
	"kind==\"a\nb\"",
	"kind~=/x",
	"kind~=(",
	"kind~=[a",
	"kind~=\"*{\"(",
	"name==x\"y\"z,",
	"kind~=a{2000}",
	"kind~=a++++++++++++",
	"kind~=\"(a)\\\\1\"",
	"-",
	"==x",
	"kind==/x y/",
};

static void refusing(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_filter_freep) struct lm_filter *filter = NULL;
		if (lm_filter_parse(refused[i], &filter, &err) != -EINVAL)
			fail_msg("not refused: %s", refused[i]);
		assert_non_null(strstr(err.msg, "filter"));
	}
	char *large = malloc(LM_FILTER_MAX_BYTES + 2);
	memset(large, 'a', LM_FILTER_MAX_BYTES + 1);
	large[LM_FILTER_MAX_BYTES + 1] = '\0';
	CLEANUP(lm_filter_freep) struct lm_filter *filter = NULL;
	assert_int_equal(lm_filter_parse(large, &filter, NULL), -EINVAL);
	free(large);
}

static void kinds(void **state)
{
	struct lm_snapshot active = {.key = (char *)"a", .kind = LM_ACTIVE},
			   view = {.key = (char *)"v", .kind = LM_VIEW};
	CLEANUP(lm_filter_freep) struct lm_filter *filter = NULL;
	assert_int_equal(lm_filter_parse("kind==active,parent==\"\"", &filter, NULL), 0);
	assert_int_equal(lm_filter_match(filter, &active, NULL), 1);
	assert_int_equal(lm_filter_match(filter, &view, NULL), 0);
	lm_filter_free(STEAL(filter));
	assert_int_equal(lm_filter_parse("kind==view", &filter, NULL), 0);
	assert_int_equal(lm_filter_match(filter, &view, NULL), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(matching, setup, teardown),
		cmocka_unit_test(refusing),
		cmocka_unit_test(kinds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
