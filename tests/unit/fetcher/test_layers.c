#include "fetcher_test.h"

#include "fetcher/layers.h"

typedef Lamella__Fetcher__V1__LayerAnswer LayerAnswer;
typedef Lamella__Fetcher__V1__StatusResponse StatusResponse;
#define STATE(name) LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_##name

static void note(struct lm_layers *layers, unsigned number, Lamella__Fetcher__V1__LayerState state, const char *reason)
{
	char digest[sizeof("sha256:") + 64];
	LayerAnswer answer = LAMELLA__FETCHER__V1__LAYER_ANSWER__INIT;
	snprintf(digest, sizeof(digest), "sha256:%064x", number);
	answer.digest = digest;
	answer.state = state;
	answer.reason = (char *)reason;
	answer.repository = (char *)"r.example.org";
	answer.revision = number;
	lm_layers_note(layers, &answer);
}

static StatusResponse *describe(struct lm_layers *layers, bool list)
{
	struct lm_message_builder b = {0};
	StatusResponse *s = lm_message_new(&b, &lamella__fetcher__v1__status_response__descriptor);
	lm_layers_describe(layers, list, &b, s);
	assert_false(b.failed);
	return s;
}

static uint64_t count_in(Lamella__Fetcher__V1__Count *const *counts, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(counts[i]->name, name) == 0)
			return counts[i]->count;
	fail_msg("no count of %s", name);
	return 0;
}

static uint64_t count_of(const StatusResponse *s, const char *name)
{
	return count_in(s->layer_answers, s->n_layer_answers, name);
}

static void test_answers(void **state)
{
	CLEANUP(lm_layers_freep) struct lm_layers *layers = NULL;
	assert_int_equal(lm_layers_new(&layers, NULL), 0);
	note(layers, 1, STATE(ABSENT), "no configured repository has it");
	note(layers, 2, STATE(FAITHFUL), "");
	note(layers, 1, STATE(LOSSY), "owners \xff dropped");
	CLEANUP(lm_status_freep) StatusResponse *s = describe(layers, true);
	assert_int_equal(count_of(s, "faithful"), 1);
	assert_int_equal(count_of(s, "lossy"), 1);
	assert_int_equal(count_of(s, "absent"), 1);
	assert_int_equal(count_of(s, "unavailable"), 0);
	assert_int_equal(s->n_layers, 2);
	assert_int_equal(s->layers[0]->revision, 1);
	assert_int_equal(s->layers[0]->state, STATE(LOSSY));
	assert_int_equal(s->layers[0]->asked, 2);
	assert_string_equal(s->layers[0]->reason, "owners \\xff dropped");
	assert_string_equal(s->layers[1]->reason, "");
	CLEANUP(lm_status_freep) StatusResponse *without = describe(layers, false);
	assert_int_equal(without->n_layers, 0);
	assert_int_equal(without->n_layer_answers, s->n_layer_answers);
}

static void test_trees(void **state)
{
	CLEANUP(lm_layers_freep) struct lm_layers *layers = NULL;
	assert_int_equal(lm_layers_new(&layers, NULL), 0);
	lm_layers_note_tree(layers, STATE(FAITHFUL));
	lm_layers_note_tree(layers, STATE(ABSENT));
	lm_layers_note_tree(layers, STATE(ABSENT));
	CLEANUP(lm_status_freep) StatusResponse *s = describe(layers, true);
	assert_int_equal(count_in(s->tree_answers, s->n_tree_answers, "faithful"), 1);
	assert_int_equal(count_in(s->tree_answers, s->n_tree_answers, "absent"), 2);
	assert_int_equal(count_in(s->tree_answers, s->n_tree_answers, "unavailable"), 0);
	assert_int_equal(s->n_tree_answers, 3);
	assert_int_equal(count_of(s, "absent"), 0);
}

static void test_bound(void **state)
{
	CLEANUP(lm_layers_freep) struct lm_layers *layers = NULL;
	assert_int_equal(lm_layers_new(&layers, NULL), 0);
	char longer[3 * LM_LAYERS_REASON_MAX];
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	for (unsigned i = 0; i < 3 * LM_LAYERS_KEPT; i++) {
		note(layers, i, STATE(UNAVAILABLE), longer);
		note(layers, 0, STATE(FAITHFUL), ""); /* asked for again and again: it stays */
	}
	CLEANUP(lm_status_freep) StatusResponse *s = describe(layers, true);
	assert_int_equal(s->n_layers, LM_LAYERS_KEPT);
	assert_int_equal(s->layers[0]->revision, 0);
	for (unsigned i = 1; i < LM_LAYERS_KEPT; i++)
		assert_int_equal(s->layers[i]->revision, 3 * LM_LAYERS_KEPT - i);
	assert_int_equal(strlen(s->layers[1]->reason), LM_LAYERS_REASON_MAX - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers),
		cmocka_unit_test(test_trees),
		cmocka_unit_test(test_bound),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
