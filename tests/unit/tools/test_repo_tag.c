/* `lamella repo tag` from the outside, each change followed by `lamella repo check`. */
#include "repo_cli.h"

#include <jansson.h>

static void check(void)
{
	assert_int_equal(RUN("check", NAME), 0);
	assert_said(" 0 problems");
}

/* Tags of the repository as JSON; the caller drops the reference. */
static json_t *list(void)
{
	assert_int_equal(RUN("tag", "list", NAME, "--json"), 0);
	json_t *root = json_loads(output, 0, NULL);
	assert_non_null(root);
	assert_string_equal(json_string_value(json_object_get(root, "signatures")), "valid");
	assert_string_equal(json_string_value(json_object_get(root, "repository")), NAME);
	return root;
}

static size_t tag_count(void)
{
	json_t *root = list();
	size_t count = json_array_size(json_object_get(root, "tags"));
	json_decref(root);
	return count;
}

/* The field of a tag as text; NULL where there is no such tag. Valid until the next call. */
static const char *tag_field(const char *name, const char *field)
{
	static char text[256];
	json_t *root = list(), *item;
	size_t i;
	bool found = false;
	json_array_foreach(json_object_get(root, "tags"), i, item) {
		if (strcmp(json_string_value(json_object_get(item, "name")), name) != 0)
			continue;
		json_t *value = json_object_get(item, field);
		if (json_is_integer(value))
			snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(value));
		else
			snprintf(text, sizeof(text), "%s", json_string_value(value));
		found = true;
	}
	json_decref(root);
	return found ? text : NULL;
}

static void adds_lists_removes(void **state)
{
	char root[64];
	assert_int_equal(init(), 0);
	assert_int_equal(RUN("tag", "add", NAME, "v1", "--description", "the first of \"all\""), 0);
	assert_said("Tag v1: revision 1, root ");
	check();
	assert_string_equal(tag_field("v1", "description"), "the first of \"all\"");
	assert_string_equal(tag_field("v1", "revision"), "1");
	assert_string_equal(tag_field("v1", "branch"), "");
	snprintf(root, sizeof(root), "%s", tag_field("v1", "root_hash"));
	assert_int_equal(RUN("tag", "add", NAME, "v1b", "--root", root), 0);
	assert_int_equal(RUN("tag", "add", NAME, "v1c", "--revision", "1"), 0);
	assert_string_equal(tag_field("v1c", "root_hash"), root);
	assert_int_equal(tag_count(), 4);
	assert_int_equal(RUN("tag", "list", NAME), 0);
	assert_said("\"v1\"  \"the first of \\\"all\\\"\"\n");
	assert_said(root);
	assert_int_equal(RUN("tag", "remove", NAME, "v1", "v1c"), 0);
	assert_int_equal(tag_count(), 2);
	assert_null(tag_field("v1", "revision"));
	check();
}

static void goes_back(void **state)
{
	char first[64];
	assert_int_equal(init(), 0);
	assert_int_equal(RUN("tag", "rollback", NAME), 1);
	assert_said("there is no tag trunk-previous");
	assert_int_equal(RUN("tag", "add", NAME, "empty"), 0);
	snprintf(first, sizeof(first), "%s", tag_field("empty", "root_hash"));
	assert_int_equal(RUN("tag", "rollback", NAME, "empty"), 0); /* no change */
	assert_said("Revision 1, root ");
	assert_said(first);
	assert_int_equal(RUN("tag", "rollback", NAME, "absent"), 1);
	assert_said("there is no tag absent");
	check();
}

static void mistakes_are_said(void **state)
{
	assert_int_equal(init(), 0);
	assert_int_equal(RUN("tag"), 2);
	assert_int_equal(RUN("tag", "nonsense"), 2);
	assert_said("none of its parts");
	assert_int_equal(RUN("tag", "--help"), 0);
	assert_said("rollback");
	static const char *const parts[] = {"add", "list", "remove", "rollback"};
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		assert_int_equal(RUN("tag", parts[i]), 2);
		assert_int_equal(RUN("tag", parts[i], "--help"), 0);
		assert_int_equal(RUN("tag", parts[i], "absent.example.org", "a"), i == 1 ? 2 : 1);
	}
	assert_int_equal(RUN("tag", "add", NAME), 2);
	assert_int_equal(RUN("tag", "add", NAME, "a", "b"), 2);
	assert_int_equal(RUN("tag", "add", NAME, "a b"), 2);
	assert_said("without blanks");
	assert_int_equal(RUN("tag", "add", NAME, "trunk"), 2);
	assert_int_equal(RUN("tag", "add", NAME, "a", "--root", "12"), 2);
	assert_int_equal(RUN("tag", "add", NAME, "a", "--revision", "x"), 2);
	assert_int_equal(RUN("tag", "add", NAME, "a", "--revision", "2"), 1);
	assert_said("there is no revision 2");
	assert_int_equal(RUN("tag", "add", NAME, "a"), 0);
	assert_int_equal(RUN("tag", "add", NAME, "a"), 1);
	assert_said("already");
	assert_int_equal(RUN("tag", "remove", NAME), 2);
	assert_int_equal(RUN("tag", "remove", NAME, "a", "b"), 1);
	assert_said("there is no tag b");
	assert_int_equal(RUN("tag", "remove", NAME, "trunk"), 2);
	assert_int_equal(tag_count(), 2);
}

static void keys_are_wanted(void **state)
{
	assert_int_equal(init(), 0);
	assert_int_equal(lm_remove_tree(AT_FDCWD, below("conf"), NULL), 0);
	assert_int_equal(RUN("tag", "add", NAME, "a", "--storage", storage), 2);
	assert_said("--keys");
	assert_int_equal(RUN("tag", "add", NAME, "a", "--storage", storage, "--keys", keys), 0);
	/* Looking takes no private key. */
	assert_int_equal(RUN("tag", "list", NAME, "--storage", storage), 0);
	assert_said("signatures unchecked");
	assert_said("\"a\"");
	CLEANUP(lm_freep) char *pub = lm_str_printf("%s/%s.pub", keys, NAME);
	assert_int_equal(RUN("tag", "list", NAME, "--storage", storage, "--key", pub), 0);
	assert_null(strstr(output, "signatures"));
}

/* A manifest that is not validly signed is shown, but told from one that is. */
static void forged(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(10000);
	assert_int_equal(init(), 0);
	assert_int_equal(lm_file_read(AT_FDCWD, below("www/cvmfs/" NAME "/.cvmfspublished"), &text, NULL), 0);
	text.data[text.len - 1] ^= 1;
	assert_int_equal(lm_file_replace(AT_FDCWD, below("www/cvmfs/" NAME "/.cvmfspublished"), text.data, text.len,
				 0644, 0, NULL),
		0);
	assert_int_equal(RUN("tag", "list", NAME), 1);
	assert_said("signatures invalid");
	assert_int_equal(RUN("tag", "add", NAME, "a"), 1);
	assert_int_equal(RUN("tag", "rollback", NAME, "trunk"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(adds_lists_removes),
		TEST(goes_back),
		TEST(mistakes_are_said),
		TEST(keys_are_wanted),
		TEST(forged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
