#include "base/conf.h"
#include "base/file.h"
#include "base/str.h"
#include "common.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static char dir[64];

static int make_dir(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/lamella-common.XXXXXX");
	return mkdtemp(dir) ? setenv("LAMELLA_CONFIG_DIR", dir, 1) : -1;
}

static int drop_dir(void **state)
{
	return lm_remove_tree(AT_FDCWD, dir, NULL);
}

static void records_come_back(void **state)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record made = {0}, back = {0};
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_repo_record_load("a.org", "/a b/it's $HOME \\ \"x\"//", "/k#1", &made, &err), 0);
	assert_string_equal(made.storage, "/a b/it's $HOME \\ \"x\"");
	assert_string_equal(made.dir, "/a b/it's $HOME \\ \"x\"/cvmfs/a.org");
	assert_int_equal(lm_repo_record_save(&made, &err), 0);
	assert_int_equal(lm_repo_record_load("a.org", NULL, NULL, &back, &err), 0);
	assert_string_equal(back.name, "a.org");
	assert_string_equal(back.storage, made.storage);
	assert_string_equal(back.keys, "/k#1");
}

static void what_is_given_wins(void **state)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record made = {0}, back = {0};
	assert_int_equal(lm_repo_record_load("a.org", "/s", "/k", &made, NULL), 0);
	assert_int_equal(lm_repo_record_save(&made, NULL), 0);
	assert_int_equal(lm_repo_record_load("a.org", "/other", NULL, &back, NULL), 0);
	assert_string_equal(back.dir, "/other/cvmfs/a.org");
	assert_string_equal(back.keys, "/k");
	lm_repo_record_done(&back);
	assert_int_equal(lm_repo_record_load("a.org", NULL, "/other", &back, NULL), 0);
	assert_string_equal(back.dir, "/s/cvmfs/a.org");
	assert_string_equal(back.keys, "/other");
}

static void relative_directories_become_absolute(void **state)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record record = {0};
	CLEANUP(lm_freep) char *cwd = getcwd(NULL, 0);
	CLEANUP(lm_freep) char *wanted = lm_str_printf("%s/www", cwd);
	assert_int_equal(lm_repo_record_load("a.org", "www/", NULL, &record, NULL), 0);
	assert_string_equal(record.storage, wanted);
	assert_null(record.keys);
}

static void refuses(void **state)
{
	static const char *const names[] = {"", ".", "..", ".hidden", "-x", "a/b", "a b", "a\nb", "\xc3\xa4"};
	struct lm_repo_record record;
	struct lm_err err = LM_ERR_INIT;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		assert_int_equal(lm_repo_record_load(names[i], "/s", "/k", &record, &err), -EINVAL);
	assert_int_equal(lm_repo_record_load(NULL, "/s", "/k", &record, &err), -EINVAL);
	assert_int_equal(lm_repo_record_load("a.org", "", "/k", &record, &err), -EINVAL);
	assert_int_equal(lm_repo_record_load("a.org", NULL, "/k", &record, &err), -ENOENT);
	assert_int_equal(lm_repo_record_load("a.org", "/a\nb", "/k", &record, &err), 0);
	assert_int_equal(lm_repo_record_save(&record, &err), -EINVAL);
	lm_repo_record_done(&record);
}

static void broken_records_are_said(void **state)
{
	CLEANUP(lm_freep) char *path = NULL;
	struct lm_repo_record record;
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *parent = lm_str_printf("%s/repositories.d", dir);
	assert_int_equal(lm_repo_record_path("a.org", &path, &err), 0);
	assert_int_equal(lm_mkdir_p(AT_FDCWD, parent, 0755, &err), 0);
	assert_int_equal(lm_file_replace(AT_FDCWD, path, "LAMELLA_STORAGE=$(x)", 20, 0644, 0, &err), 0);
	assert_int_equal(lm_repo_record_load("a.org", NULL, NULL, &record, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "a.org.conf:1"));
}

static void sizes(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{0, "0 B"},
		{999, "999 B"},
		{1000, "1.0 kB"},
		{1499, "1.5 kB"},
		{999949, "999.9 kB"},
		{999950, "1.0 MB"},
		{1400000000, "1.4 GB"},
		{UINT64_MAX, "18.4 EB"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		assert_string_equal(lm_cli_size(cases[i].bytes).s, cases[i].text);
}

static void lines_are_defused(void **state)
{
	char text[200] = "";
	FILE *file = tmpfile();
	int saved = dup(STDERR_FILENO);
	dup2(fileno(file), STDERR_FILENO);
	lm_cli_error("bad \x1b[2J name\n%s", "x\ry");
	lm_cli_status("never seen without a terminal");
	lm_cli_say("done");
	dup2(saved, STDERR_FILENO);
	close(saved);
	rewind(file);
	assert_true(fread(text, 1, sizeof(text) - 1, file) > 0);
	fclose(file);
	assert_string_equal(text, "lamella: bad ?[2J name?x?y\ndone\n");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_dir, drop_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(records_come_back),
		TEST(what_is_given_wins),
		TEST(relative_directories_become_absolute),
		TEST(refuses),
		TEST(broken_records_are_said),
		cmocka_unit_test(sizes),
		cmocka_unit_test(lines_are_defused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
