/* Where repositories are read from, and by which keys. */
#include "source.h"

#include "repo_cli.h"

#include <dirent.h>
#include <sys/stat.h>

static struct lm_repo_source source;
static struct lm_err err;

static int open_with(const char *where, struct lm_repo_source_options options)
{
	lm_repo_source_done(&source);
	err = (struct lm_err)LM_ERR_INIT;
	return lm_repo_source_open(where, &options, &source, &err);
}
#define OPEN(where, ...) open_with(where, (struct lm_repo_source_options){__VA_ARGS__})

static enum lm_verdict verdict(void)
{
	struct lm_repo_source_manifest m = {0};
	assert_int_equal(lm_repo_source_manifest(&source, &m, &err), 0);
	assert_string_equal(m.manifest.fqrn, NAME);
	assert_true(m.verdict == LM_VALID || m.reason.msg[0]);
	return m.verdict;
}

static int make_repository(void **state)
{
	return make_dir(state) < 0 || init() != 0 ? -1 : 0;
}

static int drop_repository(void **state)
{
	lm_repo_source_done(&source);
	return drop_dir(state);
}

static void test_names(void **state)
{
	assert_int_equal(OPEN(NAME), 0);
	assert_string_equal(source.fqrn, NAME);
	assert_string_equal(source.where, below("www/cvmfs/" NAME));
	assert_false(source.remote);
	assert_int_equal(verdict(), LM_VALID);
	assert_int_equal(OPEN(NAME, .storage = storage), 0);
	assert_int_equal(OPEN("other.example.org"), -ENOENT);
	assert_int_equal(OPEN("other.example.org", .storage = storage), -ENOENT);
	assert_int_equal(OPEN("no name"), -EINVAL);
	assert_int_equal(OPEN(""), -EINVAL);
	assert_int_equal(OPEN(NAME, .name = NAME), -EINVAL);
}

static void test_directories(void **state)
{
	char path[512];
	snprintf(path, sizeof(path), "%s", below("www/cvmfs/" NAME "//"));
	assert_int_equal(OPEN(path), 0);
	assert_string_equal(source.fqrn, NAME);
	assert_int_equal(verdict(), LM_VALID); /* by the recorded keys */
	assert_int_equal(chdir(below("www/cvmfs/" NAME)), 0);
	assert_int_equal(OPEN("."), 0);
	assert_string_equal(source.fqrn, NAME);
	assert_int_equal(OPEN("../" NAME), 0);
	assert_int_equal(chdir("/"), 0);
	assert_int_equal(OPEN("./absent"), -ENOENT);
	assert_int_equal(OPEN(path, .storage = storage), -EINVAL);

	/* Under another name only with --name. */
	snprintf(path, sizeof(path), "%s", below("elsewhere"));
	assert_int_equal(rename(below("www/cvmfs/" NAME), path), 0);
	assert_int_equal(OPEN(path, .keys = keys), 0);
	assert_string_equal(source.fqrn, "elsewhere");
	assert_int_equal(verdict(), LM_INVALID);
	assert_int_equal(OPEN(path, .name = NAME), 0);
	assert_int_equal(verdict(), LM_VALID);
	assert_int_equal(OPEN(path, .name = "a/b"), -EINVAL);
}

static void test_urls(void **state)
{
	assert_int_equal(OPEN("http://127.0.0.1:1/cvmfs/" NAME "/;http://127.0.0.1:2/cvmfs/other"), 0);
	assert_string_equal(source.fqrn, NAME);
	assert_true(source.remote);
	assert_int_equal(source.keys.count, 1);
	assert_int_equal(OPEN("https://127.0.0.1/cvmfs/" NAME, .proxy = "nonsense://"), -EINVAL);
	assert_int_equal(OPEN("http://127.0.0.1/@fqrn@"), -EINVAL);
	assert_int_equal(OPEN("http://127.0.0.1/@fqrn@", .name = NAME), 0);
	assert_int_equal(OPEN("http://127.0.0.1/"), 0);
	assert_string_equal(source.fqrn, "127.0.0.1");
}

static void test_keys(void **state)
{
	char path[512], pub[512], empty[512], bad[512];
	snprintf(path, sizeof(path), "%s", below("www/cvmfs/" NAME));
	snprintf(pub, sizeof(pub), "%s", below("keys/" NAME ".pub"));
	snprintf(empty, sizeof(empty), "%s", below("empty"));
	snprintf(bad, sizeof(bad), "%s", below("bad.pub"));
	assert_int_equal(OPEN(path, .key = pub), 0);
	assert_int_equal(verdict(), LM_VALID);
	assert_int_equal(OPEN(path, .key = pub, .keys = keys), -EINVAL);
	assert_int_equal(OPEN(path, .key = bad), -ENOENT);
	assert_int_equal(lm_file_replace(AT_FDCWD, bad, "no key", 6, 0644, 0, NULL), 0);
	assert_int_equal(OPEN(path, .key = bad), -EPROTO);
	assert_non_null(strstr(err.msg, bad));
	assert_int_equal(mkdir(empty, 0755), 0);
	assert_int_equal(OPEN(path, .keys = empty), -ENOENT);

	/* Any *.pub of the directory, where none has the repository's name. */
	assert_int_equal(rename(pub, below("keys/a.pub")), 0);
	assert_int_equal(RUN("init", "second.example.org", "--storage", below("www2"), "--keys", keys), 0);
	assert_int_equal(OPEN(path, .keys = keys), 0);
	assert_int_equal(source.keys.count, 2);
	assert_int_equal(verdict(), LM_VALID);
	assert_int_equal(unlink(below("keys/a.pub")), 0);
	assert_int_equal(OPEN(path, .keys = keys), 0);
	assert_int_equal(verdict(), LM_INVALID);

	/* Recorded keys that are gone leave the signatures unchecked. */
	assert_int_equal(unlink(below("keys/second.example.org.pub")), 0);
	assert_int_equal(OPEN(path), 0);
	assert_int_equal(source.keys.count, 0);
	assert_int_equal(verdict(), LM_UNCHECKED);
	assert_int_equal(OPEN(path, .keys = keys), -ENOENT);
}

static void test_stand_ins(void **state)
{
	struct lm_repo_source_manifest m = {0};
	char file[512];
	snprintf(file, sizeof(file), "%s", below("file"));
	assert_int_equal(OPEN(NAME, .manifest = file), 0);
	assert_int_equal(lm_repo_source_manifest(&source, &m, &err), -ENOENT);
	assert_int_equal(lm_file_replace(AT_FDCWD, file, "nonsense", 8, 0644, 0, NULL), 0);
	assert_int_equal(lm_repo_source_manifest(&source, &m, &err), -EPROTO);
	assert_int_equal(m.verdict, LM_INVALID);
	assert_int_equal(OPEN(NAME, .whitelist = file), 0);
	assert_int_equal(lm_repo_source_manifest(&source, &m, &err), 0);
	assert_int_equal(m.verdict, LM_INVALID);
	assert_non_null(strstr(m.reason.msg, "whitelist"));
}

static unsigned files_in(const char *path)
{
	struct dirent **entries = NULL;
	int n = scandir(path, &entries, NULL, NULL);
	for (int i = 0; i < n; i++)
		free(entries[i]);
	free(entries);
	return (unsigned)n - 2; /* . and .. */
}

static void test_databases(void **state)
{
	CLEANUP(lm_repo_source_dropp) char *path = NULL;
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	struct lm_repo_source_manifest m = {0};
	char tmp[512];
	snprintf(tmp, sizeof(tmp), "%s", below("tmp"));
	assert_int_equal(mkdir(tmp, 0700), 0);
	setenv("TMPDIR", tmp, 1);
	assert_int_equal(OPEN(NAME), 0);
	assert_int_equal(lm_repo_source_manifest(&source, &m, &err), 0);
	assert_int_equal(lm_repo_source_catalog(&source, &m.manifest.catalog, "", &catalog, &err), 0);
	assert_int_equal(files_in(tmp), 0); /* while it is open */
	assert_int_equal(lm_catalog_revision(catalog), m.manifest.revision);
	struct lm_hash absent = {.set = true};
	assert_int_equal(lm_repo_source_database(&source, &absent, LM_OBJECT_CATALOG, &path, &err), -ENOENT);
	assert_int_equal(files_in(tmp), 0);
	lm_catalog_closep(&catalog);
	assert_int_equal(lm_repo_source_catalog(&source, &m.manifest.catalog, "/elsewhere", &catalog, &err), -EPROTO);
	assert_null(catalog);
	assert_int_equal(lm_repo_source_catalog(&source, &m.manifest.catalog, NULL, &catalog, &err), 0);
	assert_string_equal(lm_catalog_mountpoint(catalog), "");
	unsetenv("TMPDIR");
}

#define TEST_WITH_REPOSITORY(name) cmocka_unit_test_setup_teardown(name, make_repository, drop_repository)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_WITH_REPOSITORY(test_names),
		TEST_WITH_REPOSITORY(test_directories),
		TEST_WITH_REPOSITORY(test_urls),
		TEST_WITH_REPOSITORY(test_keys),
		TEST_WITH_REPOSITORY(test_stand_ins),
		TEST_WITH_REPOSITORY(test_databases),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
