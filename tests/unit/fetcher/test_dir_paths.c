#include "fetcher_test.h"

#include "fetcher/dir_paths.h"

#include <pthread.h>

static int set_up(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_dir_paths *paths;
	assert_ok(lm_dir_paths_new(&paths, &err), &err);
	*state = paths;
	return 0;
}

static int tear_down(void **state)
{
	lm_dir_paths_free(*state);
	return 0;
}

static bool is_known(struct lm_dir_paths *paths, uint64_t node, const char *path)
{
	CLEANUP(lm_buf_done) struct lm_buf known = LM_BUF(1000);
	int r = lm_dir_paths_get(paths, node, &known);
	if (r == 0)
		assert_string_equal(lm_buf_cstr(&known), path);
	else
		assert_int_equal(r, -ENOENT);
	return r == 0;
}

static void test_known(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(10);
	assert_false(is_known(*state, 7, NULL));
	assert_false(is_known(*state, 0, NULL));
	lm_dir_paths_put(*state, 7, "/usr/lib");
	lm_dir_paths_put(*state, 0, "");
	assert_true(is_known(*state, 7, "/usr/lib"));
	assert_true(is_known(*state, 0, ""));
	lm_dir_paths_put(*state, 7, "/usr/lib");
	assert_true(is_known(*state, 7, "/usr/lib"));
	assert_ok(lm_buf_str(&buf, "123"), NULL);
	assert_int_equal(lm_dir_paths_get(*state, 7, &buf), -EMSGSIZE);
	assert_string_equal(lm_buf_cstr(&buf), "123");
}

static void test_long(void **state)
{
	char path[LM_DIR_PATH_MAX + 2];
	memset(path, 'x', sizeof(path) - 1);
	path[LM_DIR_PATH_MAX + 1] = '\0';
	lm_dir_paths_put(*state, 7, path);
	assert_false(is_known(*state, 7, path));
	path[LM_DIR_PATH_MAX] = '\0';
	lm_dir_paths_put(*state, 7, path);
	assert_true(is_known(*state, 7, path));
}

/* As many as there is room for are known nearly all; of more, those that are used stay. */
static void test_room(void **state)
{
	static const char path[] = "/some/where/that/is/not/far";
	const unsigned fitting = LM_DIR_PATHS_BYTES / 2 / (sizeof(path) + 8);
	unsigned known = 0;
	for (uint64_t node = 1; node <= fitting; node++)
		lm_dir_paths_put(*state, node << 40 | node, path);
	for (uint64_t node = 1; node <= fitting; node++)
		known += is_known(*state, node << 40 | node, path);
	assert_in_range(known, fitting / 10 * 9, fitting);

	lm_dir_paths_put(*state, 7, "/often");
	for (uint64_t node = 1; node <= 8 * fitting; node++) {
		lm_dir_paths_put(*state, node << 20, "/once");
		assert_true(is_known(*state, 7, "/often"));
	}
}

/* A path of a length of its own for each node. */
static const char *path_of(uint64_t node, char path[LM_DIR_PATH_MAX + 1])
{
	size_t len = node * 7919 % LM_DIR_PATH_MAX;
	memset(path, 'a' + (int)(node % 26), len);
	path[len] = '\0';
	return path;
}

/* Those that share a block push each other out, and what is known is always the right one. */
static void test_lengths(void **state)
{
	char path[LM_DIR_PATH_MAX + 1];
	unsigned known = 0;
	for (uint64_t i = 0; i < 200000; i++) {
		uint64_t node = i * i % 20011;
		if (is_known(*state, node, path_of(node, path)))
			known++;
		else
			lm_dir_paths_put(*state, node, path);
		assert_true(is_known(*state, node, path));
	}
	assert_in_range(known, 1000, 199000);
}

static void *use(void *arg)
{
	char path[LM_DIR_PATH_MAX + 1];
	for (uint64_t i = 0; i < 20000; i++) {
		uint64_t node = i * 7919 % 32768;
		if (!is_known(arg, node, path_of(node, path)))
			lm_dir_paths_put(arg, node, path);
	}
	return NULL;
}

static void test_threads(void **state)
{
	pthread_t threads[4];
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, use, *state), 0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_known, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_long, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_room, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_lengths, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_threads, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
