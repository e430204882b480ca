/* A tag database from anywhere: listed, asked for its tags by name and date; where it checks out, changed as publishers
 * do and read again. */
#include "repo/history.h"

#include "base/file.h"
#include "base/str.h"
#include "fuzz_file.h"

#include <sys/stat.h>

enum { SIZE_MAX_BYTES = 1 << 20, LISTED_MAX = 32, NAME_KEPT = 40 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct tag {
	char name[NAME_KEPT + 1]; /* "" where it is longer */
	struct lm_history_root root;
};

struct listed {
	struct tag tags[LISTED_MAX];
	size_t count;
	bool whole; /* no tag is left out */
	bool have_main;
	struct lm_history_root newest; /* of the main branch */
	uint64_t last_revision;
};

static int keep(void *arg, const struct lm_tag *tag)
{
	struct listed *listed = arg;
	if (!*tag->name || !tag->description || !tag->branch || !tag->hash.set)
		abort();
	if ((int64_t)tag->revision > (int64_t)listed->last_revision)
		abort(); /* newest first, as SQLite orders numbers */
	listed->last_revision = tag->revision;
	struct lm_history_root root = {tag->hash, tag->revision, tag->time_s, tag->size};
	if (!*tag->branch && !listed->have_main) {
		listed->have_main = true;
		listed->newest = root;
	}
	if (listed->count == LISTED_MAX) {
		listed->whole = false;
		return 0;
	}
	struct tag *kept = &listed->tags[listed->count++];
	kept->root = root;
	if (strlen(tag->name) <= NAME_KEPT)
		memcpy(kept->name, tag->name, strlen(tag->name) + 1);
	return 0;
}

static bool same(const struct lm_history_root *a, const struct lm_history_root *b)
{
	return lm_hash_equal(&a->hash, &b->hash) && a->revision == b->revision && a->modified_s == b->modified_s &&
	       a->size == b->size;
}

/* Every refusal has its sentence. */
static int checked(int r, struct lm_err *err)
{
	if (r < 0 && err->msg[0] == '\0')
		abort();
	err->msg[0] = '\0';
	return r;
}

static int list(struct listed *ret)
{
	struct lm_err err = LM_ERR_INIT;
	*ret = (struct listed){.whole = true, .last_revision = INT64_MAX};
	return checked(lm_history_each(fuzz_file, keep, ret, &err), &err);
}

/* sound: the database checks out, so that index and rows agree. */
static void ask(const struct listed *listed, bool sound)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_history_root found;
	for (size_t i = 0; i < listed->count; i++) {
		int r = checked(lm_history_find(fuzz_file, listed->tags[i].name, &found, &err), &err);
		if (sound && listed->tags[i].name[0] && (r < 0 || !same(&found, &listed->tags[i].root)))
			abort();
	}
	int r = checked(lm_history_at(fuzz_file, INT64_MAX, &found, &err), &err);
	if (sound && listed->have_main && (r < 0 || found.revision != listed->newest.revision))
		abort();
	r = checked(lm_history_at(fuzz_file, listed->newest.modified_s, &found, &err), &err);
	if (r == 0 && found.modified_s > listed->newest.modified_s)
		abort();
}

static void change(const struct listed *before)
{
	const struct lm_history_root root = {{.bytes = {1, 2, 3}, .set = true}, INT64_MAX, 12345, 678};
	const struct lm_tag tag = {.name = "a new one", .hash = root.hash, .revision = 5, .time_s = 6};
	struct lm_err err = LM_ERR_INIT;
	struct lm_history_root found;
	static struct listed after;
	if (checked(lm_history_advance(fuzz_file, &root, &root.hash, &err), &err) < 0)
		return;
	if (lm_history_find(fuzz_file, LM_TAG_TRUNK, &found, NULL) < 0 || !same(&found, &root))
		abort();
	if (checked(lm_history_set(fuzz_file, &tag, &root.hash, &err), &err) == 0 &&
		checked(lm_history_remove(fuzz_file, tag.name, &root.hash, &err), &err) < 0)
		abort();
	if (lm_history_check(fuzz_file, NULL, NULL) < 0 || list(&after) < 0)
		abort();
	for (size_t i = 0; i < before->count; i++) {
		const struct tag *old = &before->tags[i];
		if (!old->name[0] || lm_str_starts(old->name, LM_TAG_TRUNK))
			continue;
		if (lm_history_find(fuzz_file, old->name, &found, NULL) < 0 || !same(&found, &old->root))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct listed listed;
	struct lm_err err = LM_ERR_INIT;
	if (size > SIZE_MAX_BYTES)
		return 0;
	fuzz_file_write(data, size);
	int r = list(&listed);
	bool sound = checked(lm_history_check(fuzz_file, NULL, &err), &err) == 0;
	if (sound && r < 0)
		abort();
	ask(&listed, sound && listed.whole);
	if (sound)
		change(&listed);
	return 0;
}
