/* `lamella repo` from the outside: what it prints, what it returns, what it leaves behind. */
#include "repo_cli.h"

#include "repo/object.h"

#include <dirent.h>
#include <jansson.h>
#include <sys/stat.h>

static void flip_byte(const char *path, off_t at)
{
	CLEANUP(lm_closep) int fd = open(below(path), O_RDWR);
	uint8_t byte;
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

static void makes_and_shows(void **state)
{
	struct stat st;
	assert_int_equal(init(), 0);
	assert_said("Repository " NAME ", revision 1");
	assert_said("copy ");
	assert_true(there("www/cvmfs/" NAME "/.cvmfspublished"));
	assert_int_equal(stat(below("keys/" NAME ".key"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(stat(below("keys/" NAME ".masterkey"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(stat(keys, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(RUN("info", NAME), 0);
	assert_said("signatures   valid\n");
	assert_said("revision     1, ");
	assert_said("ttl          240 s\n");
	assert_said("1 entries: 0 files, 1 directories");
	assert_said("\"trunk\" revision 1");
}

static void options_arrive(void **state)
{
	assert_int_equal(
		RUN("init", "--ttl", "61", "--whitelist-days=2", NAME, "--storage", storage, "--keys", keys), 0);
	assert_said("valid for 2 days");
	assert_int_equal(RUN("info", "--json", NAME), 0);
	json_t *root = json_loads(output, 0, NULL);
	assert_non_null(root);
	assert_int_equal(json_integer_value(json_object_get(root, "ttl_s")), 61);
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(root, "signatures"), "verdict")), "valid");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "tags"), "count")), 1);
	json_decref(root);
}

static void metainfo_arrives(void **state)
{
	static const char text[] = "{\"administrator\": \"somebody\"}";
	char hash[41] = "";
	assert_int_equal(lm_file_replace(AT_FDCWD, below("meta.json"), text, strlen(text), 0644, 0, NULL), 0);
	CLEANUP(lm_freep) char *meta = strdup(below("meta.json"));
	assert_int_equal(RUN("init", NAME, "--storage", storage, "--keys", keys, "--meta", meta), 0);
	CLEANUP(lm_buf_done) struct lm_buf manifest = LM_BUF(10000), object = LM_BUF(10000);
	assert_int_equal(lm_file_read(AT_FDCWD, below("www/cvmfs/" NAME "/.cvmfspublished"), &manifest, NULL), 0);
	assert_int_equal(sscanf(strstr(lm_buf_cstr(&manifest), "\nM"), "\nM%40s", hash), 1);
	CLEANUP(lm_freep) char *path = lm_str_printf("www/cvmfs/" NAME "/data/%.2s/%sM", hash, hash + 2);
	assert_int_equal(lm_file_read(AT_FDCWD, below(path), &object, NULL), 0);
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(10000);
	struct lm_hash parsed;
	assert_int_equal(lm_hash_parse(hash, 40, &parsed, NULL), 0);
	assert_int_equal(lm_unpack_buf(&parsed, LM_COMPRESSION_ZLIB, object.data, object.len, &content, NULL), 0);
	assert_string_equal(lm_buf_cstr(&content), text);
}

static void wrong_metainfo(void **state)
{
	static const char *const texts[] = {"", "{", "[]", "{} x", "3"};
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		assert_int_equal(lm_file_replace(AT_FDCWD, below("m"), texts[i], strlen(texts[i]), 0644, 0, NULL), 0);
		CLEANUP(lm_freep) char *meta = strdup(below("m"));
		assert_int_equal(RUN("init", NAME, "--storage", storage, "--keys", keys, "--meta", meta), 2);
		assert_said(meta);
	}
	assert_int_equal(RUN("init", NAME, "--storage", storage, "--keys", keys, "--meta", "/absent"), 1);
	assert_false(there("www"));
	assert_false(there("keys"));
}

static void wrong_usage(void **state)
{
	assert_int_equal(RUN("init"), 2);
	assert_int_equal(RUN("init", NAME), 2);
	assert_int_equal(RUN("init", NAME, "--storage", storage), 2);
	assert_int_equal(RUN("init", NAME, "extra", "--storage", storage, "--keys", keys), 2);
	assert_int_equal(RUN("init", NAME, "--storage", storage, "--keys", keys, "--ttl", "0"), 2);
	assert_int_equal(RUN("init", NAME, "--storage", storage, "--keys", keys, "--ttl", "5m"), 2);
	assert_int_equal(RUN("init", NAME, "--storage", storage, "--keys", keys, "--whitelist-days", "-1"), 2);
	assert_int_equal(RUN("init", NAME, "--storage", storage, "--keys", keys, "--nonsense"), 2);
	assert_int_equal(RUN("init", "../x", "--storage", storage, "--keys", keys), 2);
	assert_int_equal(RUN("init", "a/b", "--storage", storage, "--keys", keys), 2);
	assert_int_equal(RUN("init", NAME, "--storage", "", "--keys", keys), 2);
	assert_int_equal(RUN("info"), 2);
	assert_int_equal(RUN("info", "a b"), 2);
	assert_int_equal(RUN("info", "../x"), 1); /* a directory that is not there */
	assert_int_equal(RUN("nonsense"), 2);
	assert_int_equal(run((const char *const[]){NULL}), 2);
	assert_int_equal(RUN("--help"), 0);
	assert_int_equal(RUN("init", "--help"), 0);
	assert_int_equal(RUN("info", "--help"), 0);
	assert_false(there("www"));
	assert_false(there("keys"));
}

static void does_not_overwrite(void **state)
{
	assert_int_equal(init(), 0);
	assert_int_equal(init(), 1);
	assert_said("holds a repository already");
	assert_int_equal(RUN("init", NAME, "--storage", below("www2"), "--keys", keys), 1);
	assert_said("is recorded already");
	assert_false(there("www2"));
	assert_int_equal(RUN("info", NAME), 0);
	assert_said("valid");
}

static void foreign_files_are_left_alone(void **state)
{
	assert_int_equal(lm_mkdir_p(AT_FDCWD, below("www/cvmfs/" NAME), 0755, NULL), 0);
	assert_int_equal(lm_file_replace(AT_FDCWD, below("www/cvmfs/" NAME "/mine"), "x", 1, 0644, 0, NULL), 0);
	assert_int_equal(init(), 1);
	assert_said("is not empty");
	assert_true(there("www/cvmfs/" NAME "/mine"));
	assert_false(there("keys"));
}

static void keys_that_are_there_are_used(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf before = LM_BUF(10000), after = LM_BUF(10000);
	assert_int_equal(init(), 0);
	assert_int_equal(lm_file_read(AT_FDCWD, below("keys/" NAME ".pub"), &before, NULL), 0);
	assert_int_equal(lm_remove_tree(AT_FDCWD, storage, NULL), 0);
	assert_int_equal(init(), 0);
	assert_said("those that were there");
	assert_int_equal(lm_file_read(AT_FDCWD, below("keys/" NAME ".pub"), &after, NULL), 0);
	assert_string_equal(lm_buf_cstr(&before), lm_buf_cstr(&after));
	assert_int_equal(lm_remove_tree(AT_FDCWD, storage, NULL), 0);
	assert_int_equal(unlink(below("keys/" NAME ".masterkey")), 0);
	assert_int_equal(init(), 1);
	assert_said("masterkey");
	assert_false(there("www"));
	assert_true(there("keys/" NAME ".key"));
}

static void keys_stay_out_of_the_storage(void **state)
{
	assert_int_equal(RUN("init", NAME, "--storage", storage, "--keys", below("www/keys")), 1);
	assert_said("would be served to everybody");
	assert_false(there("www"));
	assert_int_equal(RUN("init", NAME, "--storage", storage, "--keys", storage), 1);
	assert_false(there("www"));
	assert_int_equal(symlink(dir, below("link")), 0);
	assert_int_equal(RUN("init", NAME, "--storage", storage, "--keys", below("link/www/k")), 1);
	assert_false(there("www"));
}

/* The record can't be written: all that was made before is taken back, what others had made stays. */
static void failure_leaves_nothing(void **state)
{
	assert_int_equal(lm_file_replace(AT_FDCWD, below("conf"), "", 0, 0644, 0, NULL), 0);
	assert_int_equal(lm_mkdir_p(AT_FDCWD, keys, 0700, NULL), 0);
	assert_int_equal(lm_file_replace(AT_FDCWD, below("keys/other"), "x", 1, 0644, 0, NULL), 0);
	assert_int_equal(init(), 1);
	assert_false(there("www"));
	assert_false(there("keys/" NAME ".key"));
	assert_false(there("keys/" NAME ".pub"));
	assert_true(there("keys/other"));
}

static void unknown_repository(void **state)
{
	assert_int_equal(RUN("info", NAME), 1);
	assert_said("say where it is with --storage DIR");
	assert_int_equal(RUN("info", NAME, "--storage", storage), 1);
	assert_said(NAME);
}

static void without_keys(void **state)
{
	assert_int_equal(init(), 0);
	assert_int_equal(lm_remove_tree(AT_FDCWD, below("conf"), NULL), 0);
	assert_int_equal(RUN("info", NAME, "--storage", storage), 0);
	assert_said("signatures   unchecked: ");
	assert_int_equal(RUN("info", NAME, "--storage", storage, "--keys", keys), 0);
	assert_said("signatures   valid");
}

static void wrong_key(void **state)
{
	assert_int_equal(init(), 0);
	assert_int_equal(RUN("init", "other.example.org", "--storage", storage, "--keys", keys), 0);
	CLEANUP(lm_freep) char *other = strdup(below("keys/other.example.org.pub"));
	assert_int_equal(rename(other, below("keys/" NAME ".pub")), 0);
	assert_int_equal(RUN("info", NAME), 1);
	assert_said("signatures   invalid: ");
}

static void damage_is_said(void **state)
{
	assert_int_equal(init(), 0);
	flip_byte("www/cvmfs/" NAME "/.cvmfspublished", 400); /* in the signature */
	assert_int_equal(RUN("info", NAME), 1);
	assert_said("signatures   invalid: ");
	flip_byte("www/cvmfs/" NAME "/.cvmfspublished", 400);
	assert_int_equal(RUN("info", NAME), 0);
	flip_byte("www/cvmfs/" NAME "/.cvmfswhitelist", 300);
	assert_int_equal(RUN("info", "--json", NAME), 1);
	assert_said("\"verdict\": \"invalid\"");
	flip_byte("www/cvmfs/" NAME "/.cvmfswhitelist", 300);
	assert_int_equal(unlink(below("www/cvmfs/" NAME "/.cvmfswhitelist")), 0);
	assert_int_equal(RUN("info", NAME), 1);
	assert_said("whitelist    not readable: ");
}

static void damaged_catalog(void **state)
{
	char hash[41];
	assert_int_equal(init(), 0);
	assert_int_equal(RUN("info", NAME), 0);
	assert_int_equal(sscanf(strstr(output, "root hash"), "root hash %40s", hash), 1);
	CLEANUP(lm_freep) char *object = lm_str_printf("www/cvmfs/" NAME "/data/%.2s/%sC", hash, hash + 2);
	flip_byte(object, 20);
	assert_int_equal(RUN("info", NAME), 1);
	assert_said("signatures   valid");
	assert_said("content      not readable: ");
	assert_said("root hash");
	assert_int_equal(unlink(below(object)), 0);
	assert_int_equal(RUN("info", NAME), 1);
	assert_said("content      not readable: ");
}

static void no_temporary_files_stay(void **state)
{
	unsigned entries = 0;
	assert_int_equal(init(), 0);
	assert_int_equal(mkdir(below("tmp"), 0700), 0);
	setenv("TMPDIR", below("tmp"), 1);
	assert_int_equal(RUN("info", NAME), 0);
	unsetenv("TMPDIR");
	DIR *list = opendir(below("tmp"));
	for (struct dirent *entry; (entry = readdir(list));)
		entries += entry->d_name[0] != '.';
	closedir(list);
	assert_int_equal(entries, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(makes_and_shows),
		TEST(options_arrive),
		TEST(metainfo_arrives),
		TEST(wrong_metainfo),
		TEST(wrong_usage),
		TEST(does_not_overwrite),
		TEST(foreign_files_are_left_alone),
		TEST(keys_that_are_there_are_used),
		TEST(keys_stay_out_of_the_storage),
		TEST(failure_leaves_nothing),
		TEST(unknown_repository),
		TEST(without_keys),
		TEST(wrong_key),
		TEST(damage_is_said),
		TEST(damaged_catalog),
		TEST(no_temporary_files_stay),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
