/* `lamella repo check` from the outside; what it finds in all ways is in tests/unit/repo/test_check*.c. */
#include "repo/publish.h"

#include "repo_cli.h"

#include <dirent.h>
#include <jansson.h>
#include <sys/stat.h>

#define REPO "www/cvmfs/" NAME

/* A repository with some files: /many0 and so on, and a name that is no text. */
static void publish(unsigned count)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_storage_freep) struct lm_storage *www = NULL;
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys pair = {0};
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	assert_int_equal(init(), 0);
	assert_int_equal(lm_storage_dir_open(below(REPO), false, &www, &err), 0);
	assert_int_equal(lm_repo_keys_load(keys, NAME, &pair, &err), 0);
	assert_int_equal(lm_txn_begin(www, &pair, NAME, &txn, &err), 0);
	for (unsigned i = 0; i < count; i++) {
		char path[32];
		int len = snprintf(path, sizeof(path), "/many%u", i);
		assert_int_equal(lm_txn_put_data(txn, path, path, (size_t)len, &err), 0);
	}
	assert_int_equal(lm_txn_put_data(txn, "/odd\033[2J\377", "odd", 3, &err), 0);
	assert_int_equal(lm_txn_commit(txn, NULL, &err), 0);
}

/* Removes every object that is a file's content. */
static void drop_files(void)
{
	for (unsigned i = 0; i < 256; i++) {
		char name[64];
		snprintf(name, sizeof(name), REPO "/data/%02x", i);
		DIR *list = opendir(below(name));
		for (struct dirent *entry; list && (entry = readdir(list));)
			if (strlen(entry->d_name) == 38)
				assert_int_equal(unlinkat(dirfd(list), entry->d_name, 0), 0);
		if (list)
			closedir(list);
	}
}

static void clean(void **state)
{
	publish(3);
	assert_int_equal(RUN("check", NAME), 0);
	assert_said("checked 1 revisions, 1 catalogs, 5 rows, 0 chunks, ");
	assert_said("0 problems, 0 warnings, 0 notes\n");
	assert_int_equal(RUN("check", NAME, "--objects", "--tags"), 0);
	assert_said("checked 2 revisions, 2 catalogs, ");
	assert_int_equal(setenv("LAMELLA_CONFIG_DIR", below("absent"), 1), 0); /* no keys are recorded */
	assert_int_equal(RUN("check", below(REPO)), 0);
	assert_said("note unverified: .cvmfswhitelist: no public key was given");
	CLEANUP(lm_freep) char *key = strdup(below("keys/" NAME ".pub"));
	assert_int_equal(RUN("check", below(REPO), "--key", key), 0);
	assert_said(" 0 notes\n");
}

static void problems(void **state)
{
	publish(30);
	drop_files();
	assert_int_equal(RUN("check", NAME), 1);
	assert_said("problem object-missing: \"/many0\", data/");
	assert_said(": it is not in the storage\n");
	assert_said("31 object-missing (not all are shown). Copy the file from a backup");
	assert_said("31 problems");
	size_t shown = 0;
	for (const char *at = output; (at = strstr(at, "problem object-missing: ")); at++)
		shown++;
	assert_int_equal(shown, 20);
	assert_null(strchr(output, '\033'));
}

static void foreign_bytes(void **state)
{
	publish(0);
	drop_files();
	assert_int_equal(RUN("check", NAME, "-q"), 1);
	assert_said("\"/odd\\x1b[2J\\xff\"");
	assert_null(strchr(output, '\033'));
}

static void json(void **state)
{
	publish(1);
	drop_files();
	assert_int_equal(RUN("check", NAME, "--json"), 1);
	json_t *root = json_loads(output, 0, NULL);
	assert_non_null(root);
	assert_string_equal(json_string_value(json_object_get(root, "repository")), NAME);
	assert_int_equal(json_integer_value(json_object_get(root, "problems")), 2);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "kinds"), "object-missing")), 2);
	json_t *findings = json_object_get(root, "findings");
	assert_int_equal(json_array_size(findings), 2);
	json_t *first = json_array_get(findings, 0);
	assert_string_equal(json_string_value(json_object_get(first, "level")), "problem");
	assert_string_equal(json_string_value(json_object_get(first, "kind")), "object-missing");
	assert_string_equal(json_string_value(json_object_get(first, "catalog")), "");
	assert_string_equal(json_string_value(json_object_get(first, "path")), "/many0");
	assert_non_null(json_object_get(first, "advice"));
	json_decref(root);
}

static void one_tree(void **state)
{
	char manifest[1024] = "";
	publish(3);
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(10000);
	assert_int_equal(lm_file_read(AT_FDCWD, below(REPO "/.cvmfspublished"), &text, NULL), 0);
	assert_int_equal(sscanf(lm_buf_cstr(&text), "C%40s", manifest), 1);
	assert_int_equal(RUN("check", NAME, "--root", manifest), 0);
	assert_said("checked 1 revisions, 1 catalogs, 5 rows");
	assert_int_equal(RUN("check", NAME, "--tag", "trunk-previous"), 0);
	assert_said("checked 1 revisions, 1 catalogs, 1 rows");
	assert_int_equal(RUN("check", NAME, "--tag", "none"), 1);
	assert_said("no tag 'none'");
}

static void wrong_usage(void **state)
{
	assert_int_equal(RUN("check"), 2);
	assert_int_equal(RUN("check", "a b"), 2);
	assert_int_equal(RUN("check", NAME, "extra"), 2);
	assert_int_equal(RUN("check", NAME, "--nonsense"), 2);
	assert_int_equal(RUN("check", NAME, "--root", "xyz"), 2);
	assert_int_equal(RUN("check", NAME, "--root", "0123456789012345678901234567890123456789", "--tag", "trunk"), 2);
	assert_int_equal(RUN("check", "--help"), 0);
	assert_said("--objects");
	assert_int_equal(RUN("check", NAME), 1); /* no such repository */
	assert_int_equal(RUN("check", below("absent/" NAME)), 1);
}

/* Whatever is in its way, nothing of it stays behind. */
static void scratch(void **state)
{
	publish(1);
	CLEANUP(lm_freep) char *tmp = strdup(below("tmp"));
	const char *before = getenv("TMPDIR");
	CLEANUP(lm_freep) char *saved = before ? strdup(before) : NULL;
	assert_int_equal(mkdir(tmp, 0700), 0);
	assert_int_equal(setenv("TMPDIR", tmp, 1), 0);
	assert_int_equal(RUN("check", NAME, "--objects"), 0);
	assert_int_equal(rmdir(tmp), 0); /* it is empty */
	assert_int_equal(RUN("check", NAME), 1);
	assert_said("scratch directory in ");
	if (saved)
		setenv("TMPDIR", saved, 1);
	else
		unsetenv("TMPDIR");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(clean),
		TEST(problems),
		TEST(foreign_bytes),
		TEST(json),
		TEST(one_tree),
		TEST(wrong_usage),
		TEST(scratch),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
