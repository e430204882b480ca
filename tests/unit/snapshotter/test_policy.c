/* Which layer is wanted, and what the fetcher's answers, late answers and silences become. */
#include "base/clock.h"
#include "base/file.h"
#include "base/listen.h"
#include "snapshotter/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fake_fetcher.h"

struct fixture {
	char dir[32];
	struct fake_fetcher fetcher;
	struct lm_policy *policy;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->dir, "/tmp/lm-policy.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	fake_init(&f->fetcher, f->dir);
	assert_int_equal(lm_policy_new(f->fetcher.socket, "the fetcher", 3000, &f->policy, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_policy_free(f->policy);
	fake_done(&f->fetcher);
	assert_int_equal(lm_remove_tree(AT_FDCWD, f->dir, NULL), 0);
	free(f);
	return 0;
}

static void words(void **state)
{
	enum lm_on_miss on_miss = LM_ON_MISS_PULL;
	assert_true(lm_on_miss_parse("fail", &on_miss));
	assert_int_equal(on_miss, LM_ON_MISS_FAIL);
	assert_true(lm_on_miss_parse("warn", &on_miss));
	assert_true(lm_on_miss_parse("pull", &on_miss));
	assert_false(lm_on_miss_parse("", &on_miss));
	assert_false(lm_on_miss_parse("Fail", &on_miss));
}

static void wanted(void **state)
{
	CLEANUP(lm_labels_done) struct lm_labels labels = {0};
	assert_null(lm_policy_wanted(&labels));
	assert_int_equal(lm_labels_set(&labels, LM_LABEL_STARGZ_LAYER, fake_digest(2)), 0);
	assert_string_equal(lm_policy_wanted(&labels), fake_digest(2));
	assert_int_equal(lm_labels_set(&labels, LM_LABEL_CRI_LAYER, fake_digest(1)), 0);
	assert_string_equal(lm_policy_wanted(&labels), fake_digest(1));
	static const char *const broken[] = {"", "sha256:", "md5:0", "sha256:00", "../../etc",
		"sha256:000000000000000000000000000000000000000000000000000000000000000G",
		"sha256:00000000000000000000000000000000000000000000000000000000000000000",
		"sha512:0000000000000000000000000000000000000000000000000000000000000000"};
	for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
		assert_int_equal(lm_labels_set(&labels, LM_LABEL_CRI_LAYER, broken[i]), 0);
		assert_string_equal(lm_policy_wanted(&labels), fake_digest(2));
	}
	lm_labels_unset(&labels, LM_LABEL_STARGZ_LAYER);
	assert_null(lm_policy_wanted(&labels));
	assert_int_equal(lm_labels_set(&labels, LM_LABEL_DIFF_ID, fake_digest(4)), 0);
	assert_string_equal(lm_policy_wanted(&labels), fake_digest(4));
	assert_int_equal(lm_labels_set(&labels, LM_LABEL_REF, fake_digest(3)), 0);
	assert_string_equal(lm_policy_wanted(&labels), fake_digest(3));
	assert_int_equal(lm_labels_set(&labels, LM_LABEL_CRI_LAYER, fake_digest(1)), 0);
	assert_string_equal(lm_policy_wanted(&labels), fake_digest(1));
}

static int find(struct fixture *f, unsigned number, const char *layers, struct lm_layer *layer, struct lm_err *err)
{
	CLEANUP(lm_labels_done) struct lm_labels labels = {0};
	*layer = (struct lm_layer){0};
	assert_int_equal(lm_labels_set(&labels, LM_LABEL_CRI_LAYER, fake_digest(number)), 0);
	if (layers)
		assert_int_equal(lm_labels_set(&labels, LM_LABEL_CRI_LAYERS, layers), 0);
	return lm_policy_find(f->policy, &labels, 10000, layer, err);
}

static void answers(void **state)
{
	struct fixture *f = *state;
	struct lm_layer layer;
	struct lm_err err = LM_ERR_INIT;
	char path[128];
	assert_int_equal(find(f, 101, NULL, &layer, &err), 0);
	snprintf(path, sizeof(path), "%s/101", f->fetcher.prefix);
	assert_string_equal(layer.path, path);
	assert_null(layer.note);
	lm_layer_done(&layer);
	assert_int_equal(find(f, 201, NULL, &layer, &err), 0);
	assert_string_equal(layer.note, "owners dropped");
	lm_layer_done(&layer);
	assert_int_equal(find(f, 301, NULL, &layer, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "not published"));
	assert_int_equal(find(f, 401, NULL, &layer, &err), -EAGAIN);
	assert_non_null(strstr(err.msg, "route"));
	CLEANUP(lm_labels_done) struct lm_labels none = {0};
	assert_int_equal(lm_policy_find(f->policy, &none, 1000, &layer, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "does not name"));
	assert_null(layer.path);
}

/* None is no failure; one that can't be told or used is. */
static void trees(void **state)
{
	static const struct {
		Lamella__Fetcher__V1__LayerState state;
		const char *image, *data;
		int expected;
	} cases[] = {
		{1, "/image", "/data", 0},
		{3, "", "", -ENOENT},
		{4, "", "", -EAGAIN},
		{0, "", "", -ENOENT},
		{1, "image", "/data", -EAGAIN},
		{1, "/image", "data", -EAGAIN},
		{1, "/image", "", -EAGAIN},
		{1, "/image", "/data,upperdir=/etc", -EAGAIN},
		{1, "/image", "/data:/etc", -EAGAIN},
	};
	struct fixture *f = *state;
	const char *const digests[] = {fake_digest(101), fake_digest(102)};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_chain_tree_done) struct lm_chain_tree tree = {0};
		fake_set_tree(&f->fetcher, cases[i].state, cases[i].image, cases[i].data);
		assert_int_equal(lm_policy_tree(f->policy, digests, 2, &tree, NULL), cases[i].expected);
		assert_int_equal(tree.image != NULL, cases[i].expected == 0);
	}
	fake_stop(&f->fetcher);
	CLEANUP(lm_chain_tree_done) struct lm_chain_tree tree = {0};
	assert_int_equal(lm_policy_tree(f->policy, digests, 2, &tree, NULL), -EAGAIN);
}

/* One question for a whole image; broken entries of the list are passed over. */
static void whole_image(void **state)
{
	struct fixture *f = *state;
	struct lm_layer layer;
	char list[600];
	snprintf(list, sizeof(list), "%s,%s,,nonsense,%s,%s,sha256:cut", fake_digest(101), fake_digest(102),
		fake_digest(102), fake_digest(303));
	assert_int_equal(find(f, 101, list, &layer, NULL), 0);
	lm_layer_done(&layer);
	assert_int_equal(find(f, 102, NULL, &layer, NULL), 0);
	lm_layer_done(&layer);
	assert_int_equal(find(f, 303, NULL, &layer, NULL), -ENOENT);
	assert_int_equal(fake_calls(&f->fetcher), 1);
	assert_int_equal(fake_asked(&f->fetcher), 3);
}

/* digest 0: the client sends no annotations. */
static int find_by_chain(struct fixture *f, unsigned digest, unsigned chain, const char *layers, struct lm_layer *layer,
	struct lm_err *err)
{
	CLEANUP(lm_labels_done) struct lm_labels labels = {0};
	*layer = (struct lm_layer){0};
	assert_int_equal(lm_labels_set(&labels, LM_LABEL_REF, fake_digest(chain)), 0);
	if (digest)
		assert_int_equal(lm_labels_set(&labels, LM_LABEL_CRI_LAYER, fake_digest(digest)), 0);
	if (layers)
		assert_int_equal(lm_labels_set(&labels, LM_LABEL_CRI_LAYERS, layers), 0);
	return lm_policy_find(f->policy, &labels, 10000, layer, err);
}

static void expect_by_chain(
	struct fixture *f, unsigned digest, unsigned chain, const char *layers, unsigned expected, unsigned calls)
{
	struct lm_layer layer;
	struct lm_err err = LM_ERR_INIT;
	if (find_by_chain(f, digest, chain, layers, &layer, &err) < 0)
		fail_msg("%u, %u: %s", digest, chain, err.msg);
	assert_string_equal(layer.digest, fake_digest(expected));
	lm_layer_done(&layer);
	assert_int_equal(fake_calls(&f->fetcher), calls);
}

/* The layer that is found has a digest of its own, by which it is known from then on. */
static void by_chain(void **state)
{
	struct fixture *f = *state;
	struct lm_layer layer, layers[2] = {0};
	struct lm_err err = LM_ERR_INIT;
	expect_by_chain(f, 0, 101, NULL, 101, 1);
	expect_by_chain(f, 0, 101, NULL, 101, 1);
	expect_by_chain(f, 0, 202, NULL, 202, 2);
	const char *found[] = {fake_digest(101), fake_digest(202)};
	assert_int_equal(lm_policy_check(f->policy, found, 2, 5000, layers, &err), 0);
	assert_string_equal(layers[1].digest, fake_digest(202));
	assert_string_equal(layers[1].note, "owners dropped");
	lm_layer_done(&layers[0]);
	lm_layer_done(&layers[1]);
	assert_int_equal(fake_calls(&f->fetcher), 2);
	assert_int_equal(find_by_chain(f, 0, 301, NULL, &layer, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "not published"));
	assert_int_equal(find_by_chain(f, 0, 401, NULL, &layer, &err), -EAGAIN);
	/* A diff id will do, too. */
	CLEANUP(lm_labels_done) struct lm_labels labels = {0};
	assert_int_equal(lm_labels_set(&labels, LM_LABEL_REF, fake_digest(302)), 0);
	assert_int_equal(lm_labels_set(&labels, LM_LABEL_DIFF_ID, fake_digest(107)), 0);
	assert_int_equal(lm_policy_find(f->policy, &labels, 5000, &layer, &err), 0);
	assert_string_equal(layer.digest, fake_digest(107));
	lm_layer_done(&layer);
}

/* An image of which another compression was published: absent by digest, which says nothing of its chain ids. */
static void other_compression(void **state)
{
	struct fixture *f = *state;
	char list[400];
	snprintf(list, sizeof(list), "%s,%s,%s", fake_digest(301), fake_digest(302), fake_digest(303));
	expect_by_chain(f, 301, 101, list, 101, 1);
	assert_int_equal(fake_asked(&f->fetcher), 3);
	expect_by_chain(f, 302, 102, NULL, 102, 2);
	expect_by_chain(f, 302, 102, NULL, 102, 2);
	struct lm_layer layer;
	assert_int_equal(find_by_chain(f, 303, 304, NULL, &layer, NULL), -ENOENT);
	/* The same digest in an image with other layers below. */
	expect_by_chain(f, 303, 103, NULL, 103, 4);
}

/* What the first question found by digest is not asked for again by chain id. */
static void known_by_digest(void **state)
{
	struct fixture *f = *state;
	char list[400];
	snprintf(list, sizeof(list), "%s,%s,%s", fake_digest(101), fake_digest(102), fake_digest(203));
	expect_by_chain(f, 101, 901, list, 101, 1);
	expect_by_chain(f, 102, 902, NULL, 102, 1);
	expect_by_chain(f, 203, 903, NULL, 203, 1);
	expect_by_chain(f, 101, 999, NULL, 101, 1);
}

static void nonsense(void **state)
{
	struct fixture *f = *state;
	static const struct {
		enum fake_mode mode;
		const char *words;
	} cases[] = {{FAKE_TOO_FEW, "0 answers to 1"}, {FAKE_OTHER_LAYER, "another layer"},
		{FAKE_BAD_PATH, "no usable path"}, {FAKE_FAILS, "broken"}};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_err err = LM_ERR_INIT;
		struct lm_layer layer;
		fake_set_mode(&f->fetcher, cases[i].mode);
		assert_int_equal(find(f, 101 + i, NULL, &layer, &err), -EAGAIN);
		if (!strstr(err.msg, cases[i].words))
			fail_msg("%s: %s is missing", err.msg, cases[i].words);
	}
	/* Not even by its chain id is a layer something that has no digest. */
	struct lm_err err = LM_ERR_INIT;
	struct lm_layer layer;
	fake_set_mode(&f->fetcher, FAKE_OTHER_LAYER);
	assert_int_equal(find(f, 111, NULL, &layer, &err), -EAGAIN);
	assert_int_equal(find_by_chain(f, 112, 113, NULL, &layer, &err), -EAGAIN);
	assert_int_equal(find_by_chain(f, 0, 114, NULL, &layer, &err), -EAGAIN);
	assert_non_null(strstr(err.msg, "another layer"));
}

/* A fetcher that does not answer costs its time-out once, not once for each layer. */
static void stalls(void **state)
{
	struct fixture *f = *state;
	struct lm_layer layer;
	char list[300];
	fake_set_mode(&f->fetcher, FAKE_STALLS);
	lm_policy_free(STEAL(f->policy));
	assert_int_equal(lm_policy_new(f->fetcher.socket, "the fetcher", 500, &f->policy, NULL), 0);
	snprintf(list, sizeof(list), "%s,%s", fake_digest(101), fake_digest(102));
	int64_t start_ms = lm_now_ms();
	assert_int_equal(find(f, 101, list, &layer, NULL), -ETIMEDOUT);
	assert_in_range(lm_now_ms() - start_ms, 400, 2500);
	start_ms = lm_now_ms();
	assert_int_equal(find(f, 102, NULL, &layer, NULL), -ETIMEDOUT);
	assert_int_equal(find_by_chain(f, 102, 902, NULL, &layer, NULL), -ETIMEDOUT);
	assert_in_range(lm_now_ms() - start_ms, 0, 300);
}

static void stalls_by_chain(void **state)
{
	struct fixture *f = *state;
	struct lm_layer layer;
	struct lm_err err = LM_ERR_INIT;
	fake_set_mode(&f->fetcher, FAKE_STALLS);
	lm_policy_free(STEAL(f->policy));
	assert_int_equal(lm_policy_new(f->fetcher.socket, "the fetcher", 500, &f->policy, NULL), 0);
	int64_t start_ms = lm_now_ms();
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(find_by_chain(f, 0, 101 + i, NULL, &layer, &err), -ETIMEDOUT);
	assert_in_range(lm_now_ms() - start_ms, 400, 2500);
	assert_non_null(strstr(err.msg, "the fetcher does not answer"));
	/* Whoever hears from it ends that. */
	fake_set_mode(&f->fetcher, FAKE_RIGHT);
	assert_int_equal(find(f, 105, NULL, &layer, NULL), 0);
	lm_layer_done(&layer);
	assert_int_equal(find_by_chain(f, 0, 130, NULL, &layer, NULL), 0);
	lm_layer_done(&layer);
}

/* A process that takes connections and says nothing, as one does that is stopped or runs in circles. */
static void silent(void **state)
{
	struct fixture *f = *state;
	struct lm_layer layer;
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_listen_done) struct lm_listen deaf = LM_LISTEN_INIT;
	fake_stop(&f->fetcher);
	assert_int_equal(lm_listen_unix(f->fetcher.socket, &deaf, &err), 0);
	lm_policy_free(STEAL(f->policy));
	assert_int_equal(lm_policy_new(f->fetcher.socket, "the fetcher", 500, &f->policy, NULL), 0);
	assert_int_equal(lm_policy_listens(f->policy, &err), 0);
	assert_int_equal(lm_policy_seen(f->policy).state, LM_FETCHER_UNASKED);
	int64_t start_ms = lm_now_ms();
	assert_int_equal(find(f, 101, NULL, &layer, &err), -ETIMEDOUT);
	assert_in_range(lm_now_ms() - start_ms, 400, 2500);
	assert_non_null(strstr(err.msg, "nothing came from"));
	assert_int_equal(lm_policy_seen(f->policy).state, LM_FETCHER_SILENT);
	assert_int_equal(lm_policy_seen(f->policy).failures, 1);
	/* A file that nobody listens at any more is something else. */
	close(STEAL_FD(deaf.fd));
	assert_int_equal(lm_policy_listens(f->policy, &err), -ECONNREFUSED);
	assert_non_null(strstr(err.msg, "nobody listens at"));
	assert_int_equal(find(f, 102, NULL, &layer, &err), -ECONNREFUSED);
	assert_int_equal(lm_policy_seen(f->policy).state, LM_FETCHER_UNREACHABLE);
	fake_start(&f->fetcher);
}

/* Away, and back in time: the layer is served. Away for good: soon said. */
static void away(void **state)
{
	struct fixture *f = *state;
	struct lm_layer layer;
	struct lm_err err = LM_ERR_INIT;
	fake_stop(&f->fetcher);
	int64_t start_ms = lm_now_ms();
	assert_int_equal(find(f, 101, NULL, &layer, &err), -ECONNREFUSED);
	assert_non_null(strstr(err.msg, "the fetcher does not answer"));
	assert_in_range(lm_now_ms() - start_ms, 0, 4000);
	fake_start(&f->fetcher);
	assert_int_equal(find(f, 102, NULL, &layer, NULL), 0);
	lm_layer_done(&layer);
}

struct asker {
	struct fixture *f;
	int result;
	pthread_t thread;
};

static void *ask_one(void *arg)
{
	struct asker *asker = arg;
	struct lm_layer layer;
	asker->result = find(asker->f, 105, NULL, &layer, NULL);
	lm_layer_done(&layer);
	return NULL;
}

static void shared_question(void **state)
{
	struct fixture *f = *state;
	struct asker askers[16];
	fake_set_mode(&f->fetcher, FAKE_STALLS);
	for (unsigned i = 0; i < ARRAY_LEN(askers); i++) {
		askers[i] = (struct asker){.f = f, .result = -1};
		assert_int_equal(pthread_create(&askers[i].thread, NULL, ask_one, &askers[i]), 0);
	}
	lm_lock_take(&f->fetcher.lock);
	while (f->fetcher.waiting == 0)
		lm_cond_wait(&f->fetcher.changed, &f->fetcher.lock);
	lm_lock_release(&f->fetcher.lock);
	fake_set_mode(&f->fetcher, FAKE_RIGHT);
	for (unsigned i = 0; i < ARRAY_LEN(askers); i++) {
		pthread_join(askers[i].thread, NULL);
		assert_int_equal(askers[i].result, 0);
	}
	assert_int_equal(fake_calls(&f->fetcher), 1);
}

static void checks(void **state)
{
	struct fixture *f = *state;
	struct lm_err err = LM_ERR_INIT;
	struct lm_layer layers[3] = {0};
	const char *good[] = {fake_digest(101), fake_digest(202)};
	assert_int_equal(lm_policy_check(f->policy, good, 2, 5000, layers, &err), 0);
	assert_non_null(strstr(layers[1].path, "/202"));
	lm_layer_done(&layers[0]);
	lm_layer_done(&layers[1]);
	assert_int_equal(lm_policy_check(f->policy, good, 2, 5000, layers, &err), 0);
	assert_int_equal(fake_calls(&f->fetcher), 1);
	lm_layer_done(&layers[0]);
	lm_layer_done(&layers[1]);
	const char *bad[] = {fake_digest(101), fake_digest(301), fake_digest(102)};
	assert_int_equal(lm_policy_check(f->policy, bad, 3, 5000, layers, &err), -EAGAIN);
	assert_non_null(strstr(err.msg, fake_digest(301)));
	for (unsigned i = 0; i < 3; i++)
		assert_null(layers[i].path);
	const char *foreign[] = {"sha512:1"};
	assert_int_equal(lm_policy_check(f->policy, foreign, 1, 5000, layers, &err), -EAGAIN);
}

/* For everybody the fetcher is asked as long as it may take: one caller without time does not make it a silent one. */
static void *ask_in_a_hurry(void *arg)
{
	struct asker *asker = arg;
	CLEANUP(lm_labels_done) struct lm_labels labels = {0};
	struct lm_layer layer = {0};
	assert_int_equal(lm_labels_set(&labels, LM_LABEL_CRI_LAYER, fake_digest(106)), 0);
	asker->result = lm_policy_find(asker->f->policy, &labels, 50, &layer, NULL);
	lm_layer_done(&layer);
	return NULL;
}

static void in_a_hurry(void **state)
{
	struct fixture *f = *state;
	struct asker asker = {.f = f, .result = -1};
	struct lm_layer layer;
	fake_hold(&f->fetcher, 106, 0);
	assert_int_equal(pthread_create(&asker.thread, NULL, ask_in_a_hurry, &asker), 0);
	while (fake_waiting(&f->fetcher) == 0)
		usleep(1000);
	usleep(200000);
	fake_hold(&f->fetcher, 0, 0);
	pthread_join(asker.thread, NULL);
	assert_int_equal(asker.result, 0);
	assert_int_equal(lm_policy_seen(f->policy).state, LM_FETCHER_ANSWERS);
	assert_int_equal(find(f, 106, NULL, &layer, NULL), 0);
	lm_layer_done(&layer);
}

struct checker {
	struct fixture *f;
	unsigned numbers[2];
	struct lm_err err;
	pthread_t thread;
};

static void *check_some(void *arg)
{
	struct checker *c = arg;
	size_t count = c->numbers[1] ? 2 : 1;
	struct lm_layer layers[2] = {0};
	const char *digests[] = {fake_digest(c->numbers[0]), fake_digest(c->numbers[1])};
	assert_int_equal(lm_policy_check(c->f->policy, digests, count, 10000, layers, &c->err), -EAGAIN);
	return NULL;
}

static void start_check(struct checker *c, struct fixture *f, unsigned one, unsigned other)
{
	*c = (struct checker){.f = f, .numbers = {one, other}};
	assert_int_equal(pthread_create(&c->thread, NULL, check_some, c), 0);
}

static void wait_for_calls(struct fixture *f, unsigned calls)
{
	while (fake_calls(&f->fetcher) < calls)
		usleep(1000);
}

/* Whoever had an answer to one of its questions, and waits for another, has no say in what others ask meanwhile. */
static void asked_again(void **state)
{
	struct fixture *f = *state;
	struct checker slow, waiting, again, with_it;
	lm_policy_free(STEAL(f->policy));
	assert_int_equal(lm_policy_new(f->fetcher.socket, "the fetcher", 1500, &f->policy, NULL), 0);
	fake_hold(&f->fetcher, 177, 0);
	start_check(&slow, f, 177, 0);
	wait_for_calls(f, 1);
	start_check(&waiting, f, 301, 177);
	wait_for_calls(f, 2);
	usleep((LM_POLICY_CHECK_FAILED_MS + 100) * 1000); /* that 301 is absent is old by now */
	fake_hold(&f->fetcher, 177, 301);
	start_check(&again, f, 301, 0);
	wait_for_calls(f, 3);
	start_check(&with_it, f, 301, 0);
	pthread_join(slow.thread, NULL);
	pthread_join(waiting.thread, NULL);
	usleep(50000);
	fake_hold(&f->fetcher, 0, 0);
	pthread_join(again.thread, NULL);
	pthread_join(with_it.thread, NULL);
	if (!strstr(again.err.msg, "not published") || !strstr(with_it.err.msg, "not published"))
		fail_msg("%s; %s", again.err.msg, with_it.err.msg);
}

/* More layers than are remembered. */
static void bounded(void **state)
{
	struct fixture *f = *state;
	for (unsigned i = 0; i < LM_POLICY_CACHE_MAX + 100; i += 400) {
		CLEANUP(lm_labels_done) struct lm_labels labels = {0};
		char *list = calloc(1, 400 * 80 + 1), *at = list;
		struct lm_layer layer;
		for (unsigned k = 0; k < 400; k++)
			at += sprintf(at, "%ssha256:%056u%08u", k ? "," : "", i + k + 1, 101);
		assert_int_equal(lm_labels_set(&labels, LM_LABEL_CRI_LAYER, fake_digest(101)), 0);
		assert_int_equal(lm_labels_set(&labels, LM_LABEL_CRI_LAYERS, list), 0);
		assert_int_equal(lm_policy_find(f->policy, &labels, 5000, &layer, NULL), 0);
		lm_layer_done(&layer);
		free(list);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words),
		cmocka_unit_test(wanted),
		cmocka_unit_test_setup_teardown(answers, setup, teardown),
		cmocka_unit_test_setup_teardown(trees, setup, teardown),
		cmocka_unit_test_setup_teardown(whole_image, setup, teardown),
		cmocka_unit_test_setup_teardown(by_chain, setup, teardown),
		cmocka_unit_test_setup_teardown(other_compression, setup, teardown),
		cmocka_unit_test_setup_teardown(known_by_digest, setup, teardown),
		cmocka_unit_test_setup_teardown(nonsense, setup, teardown),
		cmocka_unit_test_setup_teardown(stalls, setup, teardown),
		cmocka_unit_test_setup_teardown(stalls_by_chain, setup, teardown),
		cmocka_unit_test_setup_teardown(silent, setup, teardown),
		cmocka_unit_test_setup_teardown(away, setup, teardown),
		cmocka_unit_test_setup_teardown(shared_question, setup, teardown),
		cmocka_unit_test_setup_teardown(checks, setup, teardown),
		cmocka_unit_test_setup_teardown(in_a_hurry, setup, teardown),
		cmocka_unit_test_setup_teardown(asked_again, setup, teardown),
		cmocka_unit_test_setup_teardown(bounded, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
