/*
 * Garbage collection: what is left is exactly what kept revisions name (found here by SQL of the tests' own), and kept
 * revisions read as before; also in repositories made by stock tools, and in little memory.
 */
#include "repo/gc_internal.h"
#include "repo_gc.h"
#include "repo_sanitizer.h"

/* After revisions and tags at random. */
static void random_round(unsigned revisions, uint64_t keep_revisions)
{
	CLEANUP(past_done) struct past past;
	struct lm_err err = LM_ERR_INIT;
	bool kept[REVISIONS_MAX] = {false};
	char *listings[REVISIONS_MAX] = {NULL};
	create_past(&past);
	while (past.revision < revisions) {
		publish_random(&past);
		char name[16];
		snprintf(name, sizeof(name), "tag-%u", past.revision);
		if (rand() % 4 == 0) {
			unsigned revision = 1 + (unsigned)rand() % past.revision;
			tag(&past, name, revision);
			kept[revision] = true;
		}
	}
	kept[revisions] = kept[revisions - 1] = true;
	for (unsigned i = 0; i < keep_revisions && i < revisions; i++)
		kept[revisions - i] = true;

	CLEANUP(names_done) struct names expected = {0};
	CLEANUP(names_done) struct names roots = {0};
	unsigned kept_count = 0;
	for (unsigned i = 1; i <= revisions; i++) {
		if (!kept[i])
			continue;
		kept_count++;
		listings[i] = list_tree(past.p.storage, &past.roots[i], past.sizes[i]);
		add_tree(past.p.storage, &past.roots[i], &expected);
		add_object(&roots, &past.roots[i], LM_OBJECT_CATALOG);
	}
	struct lm_manifest m;
	current_manifest(past.p.storage, &m);
	add_object(&expected, &m.certificate, LM_OBJECT_CERTIFICATE);
	add_object(&expected, &m.metainfo, LM_OBJECT_METAINFO);
	add_object(&expected, &m.history, LM_OBJECT_HISTORY);

	CLEANUP(lm_freep) char *before = snapshot(&past);
	struct lm_gc_result dry, real, again;
	assert_ok(collect(&past, NOTHING_SINCE, keep_revisions, true, &dry, &err), &err);
	CLEANUP(lm_freep) char *after = snapshot(&past);
	assert_string_equal(before, after);
	assert_ok(collect(&past, NOTHING_SINCE, keep_revisions, false, &real, &err), &err);
	assert_memory_equal(&dry, &real, sizeof(dry));
	assert_int_equal(real.roots_kept, kept_count);
	assert_int_equal(real.roots_kept + real.roots_dropped, revisions);
	assert_int_equal(real.resigned, real.roots_dropped > 0 || real.swept[LM_GC_HISTORY].objects > 0);
	assert_true(total(real.swept) > 0);

	CLEANUP(names_done) struct names found = {0};
	list_stored(past.p.storage, &found);
	assert_int_equal(total(real.kept), found.count);
	if (keep_revisions > 0) {
		/* Histories of kept revisions are tested by themselves. */
		size_t histories = 0;
		for (size_t i = 0; i < found.count; i++) {
			if (!lm_str_ends(found.items[i], "H"))
				continue;
			histories++;
			names_add(&expected, found.items[i]);
		}
		assert_true(histories >= keep_revisions);
	}
	names_sort(&expected);
	names_sort(&roots);
	assert_names(&found, &expected);
	assert_reflog(past.p.storage, &roots);
	for (unsigned i = 1; i <= revisions; i++) {
		if (!kept[i])
			continue;
		CLEANUP(lm_freep) char *listing = list_tree(past.p.storage, &past.roots[i], past.sizes[i]);
		assert_string_equal(listing, listings[i]);
		free(listings[i]);
	}

	assert_ok(collect(&past, NOTHING_SINCE, keep_revisions, false, &again, &err), &err);
	assert_int_equal(total(again.swept), 0);
	assert_int_equal(again.roots_dropped, 0);
	assert_int_equal(again.roots_kept, kept_count);
	assert_false(again.resigned);
	check(&past.p, &m, NULL);
	/* Life goes on, with old and with new content. */
	publish_random(&past);
	free(list_tree(past.p.storage, &past.roots[past.revision], past.sizes[past.revision]));
}

static void test_random(void **state)
{
	unsigned seed = (unsigned)lm_now_us();
	printf("seed %u\n", seed);
	srand(seed);
	for (unsigned i = 0; i < 8; i++)
		random_round(8 + (unsigned)rand() % 16, i % 2 ? 0 : (uint64_t)rand() % 6);
}

static void assert_revisions(struct past *past, const char *expected)
{
	char found[REVISIONS_MAX + 1] = "";
	for (unsigned i = 1; i <= past->revision; i++)
		strcat(found, is_stored(past->p.storage, &past->roots[i], LM_OBJECT_CATALOG) ? "x" : ".");
	assert_string_equal(found, expected);
}

/* Runs SQL on the stored reflog, as others might have changed it: the manifest then names another one. */
static void change_reflog(struct past *past, const char *sql)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = copy_out(past->p.storage, LM_REFLOG_NAME);
	struct lm_db db = {0};
	assert_ok(lm_db_open_edit(path, &db, &err), &err);
	assert_ok(lm_db_exec(&db, sql, &err), &err);
	lm_db_close(&db);
	CLEANUP(lm_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_ok(past->p.storage->ops->put_file(past->p.storage, LM_REFLOG_NAME, fd, &err), &err);
	assert_int_equal(unlink(path), 0);
}

/* In the reflog, revision N was published at FUTURE + 10 N: after what the catalogs themselves say. */
static void set_times(struct past *past, int64_t future)
{
	for (unsigned i = 1; i <= past->revision; i++) {
		CLEANUP(lm_freep)
		char *sql = lm_str_printf("UPDATE refs SET timestamp = %" PRId64 " WHERE hash = '%s'", future + 10 * i,
			lm_hash_text(&past->roots[i]).s);
		change_reflog(past, sql);
	}
}

/* What counts is when a revision was replaced, not when it was published. */
static void test_retention(void **state)
{
	static const struct {
		int64_t since; /* after the time of "revision 0" */
		uint64_t revisions;
		const char *expected;
	} cases[] = {
		{45, 0, "...xxx"}, /* 4 was current until 50 */
		{40, 0, "..xxxx"}, /* and 3 until 40 */
		{60, 0, "....xx"},
		{61, 0, "....xx"}, /* the one before the current stays in any case */
		{1000, 0, "....xx"},
		{1000, 1, "....xx"},
		{1000, 3, "...xxx"},
		{1000, 5, ".xxxxx"},
		{55, 4, "..xxxx"},
		{1000, 99, "xxxxxx"},
		{20, 0, "xxxxxx"},
		{5, 0, "xxxxxx"},
		{-1000000, 0, "xxxxxx"},
	};
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(past_done) struct past all;
	struct lm_gc_result result;
	int64_t future = lm_wall_s() + 1000;
	create_past(&all);
	publish_some(&all, 6);
	set_times(&all, future);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(past_done) struct past past;
		copy(&all, &past);
		assert_ok(collect(&past, future + cases[i].since, cases[i].revisions, false, &result, &err), &err);
		assert_revisions(&past, cases[i].expected);
		assert_true(result.resigned); /* the manifest named another reflog */
		assert_int_equal(result.roots_absent, 0);
	}
}

/* Without a reflog the roots themselves tell which ones were before them. */
static void test_no_reflog(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(past_done) struct past past;
	struct lm_gc_result result;
	create_past(&past);
	publish_some(&past, 7);
	tag(&past, "old", 2);
	assert_ok(past.p.storage->ops->remove(past.p.storage, LM_REFLOG_NAME, &err), &err);
	assert_ok(collect(&past, 0, 0, false, &result, &err), &err);
	assert_revisions(&past, "xxxxxxx");
	assert_int_equal(result.roots_kept, 7);
	assert_ok(past.p.storage->ops->remove(past.p.storage, LM_REFLOG_NAME, &err), &err);
	assert_ok(collect(&past, NOTHING_SINCE, 4, false, &result, &err), &err);
	assert_revisions(&past, ".x.xxxx");
	assert_ok(past.p.storage->ops->remove(past.p.storage, LM_REFLOG_NAME, &err), &err);
	assert_ok(collect(&past, NOTHING_SINCE, 0, false, &result, &err), &err);
	assert_revisions(&past, ".x...xx");
	/* The line of predecessors ends where another collector was. */
	assert_ok(collect(&past, 0, 0, false, &result, &err), &err);
	assert_revisions(&past, ".x...xx");
	publish_random(&past);
}

struct notes {
	struct lm_buf text;
};

static void take_note(void *arg, bool detail, const char *text)
{
	struct notes *notes = arg;
	if (!detail)
		assert_int_equal(lm_buf_printf(&notes->text, "%s\n", text), 0);
}

static void remove_object(struct past *past, const struct lm_hash *hash, enum lm_object_kind kind)
{
	struct lm_err err = LM_ERR_INIT;
	char path[LM_OBJECT_PATH_MAX];
	assert_ok(past->p.storage->ops->remove(past->p.storage, lm_object_path(hash, kind, path), &err), &err);
}

static int first_nested(void *arg, const struct lm_nested *nested)
{
	*(struct lm_hash *)arg = nested->hash;
	return 1;
}

static struct lm_hash nested_of(struct past *past, unsigned revision)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/opened", base);
	struct lm_hash hash = {0};
	assert_ok(lm_object_load_file(past->p.storage, &past->roots[revision], LM_OBJECT_CATALOG, 1 << 20, path, &err),
		&err);
	assert_ok(lm_catalog_open(path, "", &catalog, &err), &err);
	assert_int_equal(lm_catalog_nested_each(catalog, first_nested, &hash, &err), 1);
	assert_int_equal(unlink(path), 0);
	return hash;
}

/* A file in its past whose bytes are others. */
static void damage(struct past *past, const struct lm_hash *hash, enum lm_object_kind kind)
{
	char object[LM_OBJECT_PATH_MAX];
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", past->p.dir, lm_object_path(hash, kind, object));
	CLEANUP(lm_closep) int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "x", 1, 20), 1);
}

static void expect_refusal(struct past *past, int64_t since_s, int code, const char *words)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *before = snapshot(past);
	assert_int_equal(collect(past, since_s, 0, false, NULL, &err), code);
	if (!strstr(err.msg, words))
		fail_msg("'%s' is not in: %s", words, err.msg);
	CLEANUP(lm_freep) char *after = snapshot(past);
	assert_string_equal(before, after);
}

static void publish_nested(struct past *past, unsigned n)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	char content[16];
	snprintf(content, sizeof(content), "%u", n);
	begin(&past->p, &txn);
	mkdirs(txn, "/nested", true);
	put(txn, "/nested/file", content);
	commit_past(past, &txn);
}

/* What is kept and can't be read ends it before anything changes; what others have swept does not. */
static void test_damage(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(past_done) struct past all;
	create_past(&all);
	for (unsigned i = 0; i < 5; i++)
		publish_nested(&all, i);
	struct lm_hash nested = nested_of(&all, 3);
	char object[LM_OBJECT_PATH_MAX];
	lm_object_path(&nested, LM_OBJECT_CATALOG, object);
	{
		CLEANUP(past_done) struct past past;
		copy(&all, &past);
		remove_object(&past, &nested, LM_OBJECT_CATALOG);
		expect_refusal(&past, 0, -EIO, object);
		expect_refusal(&past, 0, -EIO, "'/nested'");
		assert_ok(collect(&past, NOTHING_SINCE, 0, false, NULL, &err), &err); /* 3 is not kept then */
		assert_revisions(&past, "....xx");
	}
	{
		CLEANUP(past_done) struct past past;
		copy(&all, &past);
		damage(&past, &nested, LM_OBJECT_CATALOG);
		expect_refusal(&past, 0, -EBADMSG, object);
		damage(&past, &all.roots[2], LM_OBJECT_CATALOG);
		expect_refusal(&past, 0, -EBADMSG, object + 8);
	}
}

/* Only its successor still tells of a revision that a collector dropped and, interrupted, has not swept all of. */
static void test_half_swept(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(past_done) struct past past;
	CLEANUP(lm_freep) char *sql = NULL;
	struct lm_gc_result result;
	create_past(&past);
	for (unsigned i = 0; i < 5; i++)
		publish_nested(&past, i);
	sql = lm_str_printf("DELETE FROM refs WHERE hash = '%s'", lm_hash_text(&past.roots[3]).s);
	change_reflog(&past, sql);
	struct lm_hash nested = nested_of(&past, 3);
	remove_object(&past, &nested, LM_OBJECT_CATALOG);
	assert_ok(collect(&past, 0, 0, false, &result, &err), &err);
	assert_revisions(&past, "xxxxxx");
	assert_int_equal(result.roots_kept, 6);
	assert_ok(collect(&past, NOTHING_SINCE, 0, false, &result, &err), &err);
	assert_revisions(&past, "....xx");
}

static void test_absent(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(past_done) struct past past;
	CLEANUP(names_done) struct names roots = {0};
	create_past(&past);
	publish_some(&past, 6);
	tag(&past, "kept", 3);
	remove_object(&past, &past.roots[2], LM_OBJECT_CATALOG);
	struct notes notes = {LM_BUF(1 << 16)};
	struct lm_gc_options options = {.keep_since_s = 0, .note = take_note, .arg = &notes};
	struct lm_gc_result result;
	assert_ok(lm_repo_gc(past.p.storage, &keys, FQRN, &options, &result, &err), &err);
	assert_int_equal(result.roots_absent, 1);
	assert_int_equal(result.roots_dropped, 0);
	assert_non_null(strstr(lm_buf_cstr(&notes.text), lm_hash_text(&past.roots[2]).s));
	assert_revisions(&past, "x.xxxx");
	for (unsigned i = 1; i <= 6; i++)
		if (i != 2)
			add_object(&roots, &past.roots[i], LM_OBJECT_CATALOG);
	names_sort(&roots);
	assert_reflog(past.p.storage, &roots);
	lm_buf_done(&notes.text);

	remove_object(&past, &past.roots[3], LM_OBJECT_CATALOG);
	expect_refusal(&past, NOTHING_SINCE, -EIO, "\"kept\"");
	remove_object(&past, &past.roots[6], LM_OBJECT_CATALOG);
	assert_int_equal(collect(&past, 0, 0, false, NULL, &err), -EIO);
}

/* What is bound into a kept catalog is kept as far as it is there: other collectors do not look at it. */
static void test_binds(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(past_done) struct past past;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(names_done) struct names bound = {0};
	CLEANUP(names_done) struct names found = {0};
	struct lm_gc_result result;
	create_past(&past);
	publish_nested(&past, 0);
	publish_nested(&past, 1);
	publish_nested(&past, 2);
	publish_some(&past, 5);
	CLEANUP(lm_freep)
	char *sql = lm_str_printf("INSERT INTO bind_mountpoints VALUES ('/big/two', '%s', 4096), ('/big/three', '%s', "
				  "4096), ('/big/none', '%040d', 0)",
		lm_hash_text(&past.roots[2]).s, lm_hash_text(&past.roots[3]).s, 7);
	begin(&past.p, &txn);
	graft_chunked(&past, txn, 9, sql);
	commit_past(&past, &txn);
	add_tree(past.p.storage, &past.roots[2], &bound);
	struct lm_hash nested = nested_of(&past, 3);
	remove_object(&past, &nested, LM_OBJECT_CATALOG);

	{
		CLEANUP(past_done) struct past other;
		copy(&past, &other);
		tag(&other, "three", 3); /* then it is another matter */
		expect_refusal(&other, NOTHING_SINCE, -EIO, "\"three\"");
	}
	assert_ok(collect(&past, NOTHING_SINCE, 0, false, &result, &err), &err);
	assert_revisions(&past, ".xx.xx");
	assert_int_equal(result.roots_kept, 4);
	list_stored(past.p.storage, &found);
	names_sort(&bound);
	for (size_t i = 0; i < bound.count; i++)
		assert_non_null(bsearch(&bound.items[i], found.items, found.count, sizeof(*found.items), name_cmp));
}

static void write_file(struct past *past, const char *name, const char *content)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", past->p.dir, name);
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_file_replace(AT_FDCWD, path, content, strlen(content), 0644, 0, &err), &err);
}

static bool there(struct past *past, const char *name)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", past->p.dir, name);
	return faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* What killed publishers leave, and what is none of ours. */
static void test_leftovers(void **state)
{
	static const char *const swept[] = {
		"data/00/0000000000000000000000000000000000000a",
		"data/00/0000000000000000000000000000000000000a-rmd160",
		"data/00/0000000000000000000000000000000000000bP",
		"data/00/0000000000000000000000000000000000000b-shake128C",
		"data/ff/ffffffffffffffffffffffffffffffffffffffX",
		"data/ff/ffffffffffffffffffffffffffffffffffffffH",
		"data/ff/ffffffffffffffffffffffffffffffffffffffM",
		"data/txn/old",
	};
	static const char *const left[] = {
		"data/00/0000000000000000000000000000000000000aL",
		"data/00/0000000000000000000000000000000000000aT",
		"data/00/0000000000000000000000000000000000000A",
		"data/00/000000000000000000000000000000000000",
		"data/00/0000000000000000000000000000000000000a-md5",
		"data/00/README",
		"data/elsewhere",
		"data/txn/new",
		"file",
	};
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(past_done) struct past past;
	struct lm_gc_result dry, result;
	create_past(&past);
	publish_some(&past, 3);
	assert_ok(
		collect(&past, 0, 0, false, &result, &err), &err); /* what was put and removed again in one revision */
	for (size_t i = 0; i < ARRAY_LEN(swept); i++)
		write_file(&past, swept[i], "swept");
	for (size_t i = 0; i < ARRAY_LEN(left); i++)
		write_file(&past, left[i], "left");
	CLEANUP(lm_freep) char *old = lm_str_printf("%s/data/txn/old", past.p.dir);
	struct timespec times[2] = {{.tv_sec = lm_wall_s() - 90000}, {.tv_sec = lm_wall_s() - 90000}};
	assert_int_equal(utimensat(AT_FDCWD, old, times, 0), 0);
	assert_ok(collect(&past, 0, 0, true, &dry, &err), &err);
	assert_true(there(&past, "data/txn/old"));
	assert_ok(collect(&past, 0, 0, false, &result, &err), &err);
	assert_memory_equal(&dry, &result, sizeof(dry));
	assert_int_equal(result.swept[LM_GC_CONTENT].objects, 2);
	assert_int_equal(result.swept[LM_GC_CHUNK].bytes, 5);
	assert_int_equal(result.swept[LM_GC_CATALOG].objects, 1);
	assert_int_equal(result.swept[LM_GC_CERTIFICATE].objects, 1);
	assert_int_equal(result.swept[LM_GC_HISTORY].objects, 1);
	assert_int_equal(result.swept[LM_GC_METAINFO].objects, 1);
	assert_int_equal(result.leftovers.objects, 1);
	assert_int_equal(result.unknown.objects, 6);
	assert_int_equal(result.unknown.bytes, 6 * 4);
	for (size_t i = 0; i < ARRAY_LEN(swept); i++)
		assert_false(there(&past, swept[i]));
	for (size_t i = 0; i < ARRAY_LEN(left); i++)
		assert_true(there(&past, left[i]));
}

/* One publisher's lock for all; a stranger's key; nothing there. */
static void test_refused(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(past_done) struct past past;
	CLEANUP(lm_storage_freep) struct lm_storage *other = NULL;
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys stranger = {0};
	struct lm_gc_options options = {0};
	create_past(&past); /* and has its lock */
	assert_ok(lm_storage_dir_open(past.p.dir, false, &other, &err), &err);
	assert_int_equal(lm_repo_gc(other, &keys, FQRN, &options, NULL, &err), -EBUSY);
	assert_ok(lm_key_generate(2048, &stranger.key, &err), &err);
	assert_ok(lm_cert_make(stranger.key, FQRN, &stranger.cert, &err), &err);
	assert_int_equal(lm_repo_gc(past.p.storage, &stranger, FQRN, &options, NULL, &err), -EBADMSG);
	assert_int_equal(lm_repo_gc(past.p.storage, &keys, "other.example.org", &options, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "other.example.org"));
}

/*
 * Repositories that stock tools made, with a manifest of ours, since their keys are not here
 */

struct stock {
	struct past *past;
	struct lm_hash roots[64];
	char *listings[64];
	size_t count;
	struct names objects;
};

static int add_stock_root(void *arg, const struct lm_tag *t)
{
	struct stock *stock = arg;
	assert_true(stock->count < ARRAY_LEN(stock->roots));
	stock->roots[stock->count] = t->hash;
	stock->listings[stock->count++] = list_tree(stock->past->p.storage, &t->hash, 0);
	add_tree(stock->past->p.storage, &t->hash, &stock->objects);
	return 0;
}

/* No second name leads nowhere. */
static int follow_alias(void *arg, const char *name, uint64_t size)
{
	struct past *past = arg;
	struct lm_err err = LM_ERR_INIT;
	(void)size;
	if (lm_str_starts(name, LM_ALTERNATIVE_PREFIX))
		assert_int_equal(past->p.storage->ops->has(past->p.storage, name, &err), 1);
	return 0;
}

static void collect_stock(const char *fqrn)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(past_done) struct past past = {0};
	CLEANUP(lm_freep) char *history = lm_str_printf("%s/history", base);
	struct lm_manifest m;
	struct lm_gc_result dry, result;
	struct stock stock = {.past = &past};
	adopt(&past.p, fqrn, &m);
	m.published_s++; /* the certificate comes after theirs */
	sign_and_put(&past.p, &m);
	change_reflog(&past, "UPDATE refs SET timestamp = rowid"); /* some are of the same second */
	current_manifest(past.p.storage, &m);
	assert_ok(lm_object_load_file(past.p.storage, &m.history, LM_OBJECT_HISTORY, 1 << 30, history, &err), &err);
	assert_ok(lm_history_each(history, add_stock_root, &stock, &err), &err);
	assert_true(stock.count > 0);
	assert_ok(collect(&past, NOTHING_SINCE, 0, true, &dry, &err), &err);
	assert_ok(collect(&past, NOTHING_SINCE, 0, false, &result, &err), &err);
	assert_memory_equal(&dry, &result, sizeof(dry));
	assert_true(result.resigned);
	printf("%s: %llu revisions kept, %llu dropped; objects: %llu kept, %llu swept\n", fqrn,
		(unsigned long long)result.roots_kept, (unsigned long long)result.roots_dropped,
		(unsigned long long)total(result.kept), (unsigned long long)total(result.swept));
	for (size_t i = 0; i < stock.count; i++) {
		CLEANUP(lm_freep) char *listing = list_tree(past.p.storage, &stock.roots[i], 0);
		assert_string_equal(listing, stock.listings[i]);
		free(stock.listings[i]);
	}
	assert_ok(past.p.storage->ops->list(past.p.storage, "", follow_alias, &past, &err), &err);
	assert_int_equal(result.aliases > 0, m.alternative_catalogs);
	CLEANUP(names_done) struct names found = {0};
	current_manifest(past.p.storage, &m);
	add_object(&stock.objects, &m.certificate, LM_OBJECT_CERTIFICATE);
	add_object(&stock.objects, &m.metainfo, LM_OBJECT_METAINFO);
	add_object(&stock.objects, &m.history, LM_OBJECT_HISTORY);
	names_sort(&stock.objects);
	list_stored(past.p.storage, &found);
	assert_names(&found, &stock.objects);
	names_done(&stock.objects);
	assert_int_equal(unlink(history), 0);
}

static void test_fixtures(void **state)
{
	static const char *const names[] = {"fixture.cern.ch", "rmd160.fixture.cern.ch", "shake128.fixture.cern.ch",
		"plain.fixture.cern.ch", "options.fixture.cern.ch", "unpacked.fixture.cern.ch"};
	if (!fixtures_present())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		collect_stock(names[i]);
}

/*
 * Memory
 */

enum { DIGESTS = 2000000, PEAK_MAX_KIB = 12 << 10 };

static void make_digest(uint64_t n, uint8_t ret[LM_HASH_BYTES])
{
	/* splitmix64: as random as a digest, and repeatable */
	for (size_t i = 0; i < LM_HASH_BYTES; i += 4) {
		uint64_t z = (n * 5 + i / 4 + 1) * 0x9e3779b97f4a7c15u;
		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
		z = (z ^ z >> 27) * 0x94d049bb133111ebu;
		memcpy(ret + i, &z, 4);
	}
}

static long peak_kib(void)
{
	CLEANUP(lm_buf_done) struct lm_buf status = LM_BUF(64 << 10);
	assert_int_equal(lm_file_read(AT_FDCWD, "/proc/self/status", &status, NULL), 0);
	return strtol(strstr(lm_buf_cstr(&status), "VmHWM:") + 6, NULL, 10);
}

static void use_marks(const char *dir)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_marks_freep) struct lm_marks *marks = NULL;
	uint8_t digest[LM_HASH_BYTES];
	long start = peak_kib();
	assert_ok(lm_marks_new(dir, &marks, &err), &err);
	for (unsigned round = 0; round < 3; round++)
		for (uint64_t n = 0; n < DIGESTS; n++) {
			make_digest(n, digest);
			assert_ok(lm_marks_add(marks, n % 2 ? LM_OBJECT_CHUNK : LM_OBJECT_FILE, digest, &err), &err);
		}
	size_t found = 0;
	for (unsigned part = 0; part < LM_GC_PARTS; part++) {
		assert_ok(lm_marks_load(marks, part, &err), &err);
		for (uint64_t n = part; n < DIGESTS + 10000; n += 97) {
			make_digest(n, digest);
			bool has = lm_marks_has(marks, n % 2 ? LM_OBJECT_CHUNK : LM_OBJECT_FILE, digest);
			assert_int_equal(has, n < DIGESTS && digest[0] == part);
			assert_false(lm_marks_has(marks, n % 2 ? LM_OBJECT_FILE : LM_OBJECT_CHUNK, digest));
			found += has;
		}
	}
	assert_true(found > 0);
	printf("3 times %d digests: peak memory %ld KiB more than before; all of them: %d KiB\n", DIGESTS,
		peak_kib() - start, DIGESTS / 1024 * 21);
	assert_true(SANITIZED || peak_kib() - start < PEAK_MAX_KIB);
}

static void test_memory(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	fflush(stdout);
	pid_t pid = fork(); /* the peak is a process' own */
	assert_true(pid >= 0);
	if (pid == 0) {
		CLEANUP(lm_closep) int fd = open("/proc/self/clear_refs", O_WRONLY);
		if (fd >= 0 && write(fd, "5", 1) != 1)
			printf("the peak includes what was before\n");
		use_marks(dir);
		fflush(stdout);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Names that come again and again, revision by revision, do not fill the disk. */
static void test_repeated(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_marks_freep) struct lm_marks *marks = NULL;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/marks.2a", dir);
	uint8_t digest[LM_HASH_BYTES];
	off_t largest = 0;
	assert_ok(lm_marks_new(dir, &marks, &err), &err);
	for (unsigned round = 0; round < 1000; round++) {
		struct stat st;
		for (uint64_t n = 0; n < 1000; n++) {
			make_digest(n, digest);
			digest[0] = 0x2a;
			assert_ok(lm_marks_add(marks, LM_OBJECT_FILE, digest, &err), &err);
		}
		assert_int_equal(stat(path, &st), 0);
		largest = LM_MAX(largest, st.st_size);
	}
	assert_in_range(largest, 1 << 20, 5 << 20); /* of 21 MB */
	assert_ok(lm_marks_load(marks, 0x2a, &err), &err);
	for (uint64_t n = 0; n < 2000; n++) {
		make_digest(n, digest);
		digest[0] = 0x2a;
		assert_int_equal(lm_marks_has(marks, LM_OBJECT_FILE, digest), n < 1000);
	}
}

static void test_digests(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_digests_done) struct lm_digests set = {0};
	uint8_t digest[LM_HASH_BYTES] = {0};
	assert_false(lm_digests_has(&set, digest));
	for (uint64_t n = 0; n < 100000; n++) {
		make_digest(n, digest);
		assert_false(lm_digests_has(&set, digest));
		assert_int_equal(lm_digests_add(&set, digest, &err), 1);
		assert_int_equal(lm_digests_add(&set, digest, &err), 0);
	}
	for (uint64_t n = 0; n < 200000; n++) {
		make_digest(n, digest);
		assert_int_equal(lm_digests_has(&set, digest), n < 100000);
	}
}

/* [PATTERN]: only the tests of such names */
int main(int argc, char **argv)
{
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory), /* first, while memory is not full of holes */
		cmocka_unit_test(test_repeated),
		cmocka_unit_test(test_digests),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_retention),
		cmocka_unit_test(test_no_reflog),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_half_swept),
		cmocka_unit_test(test_absent),
		cmocka_unit_test(test_binds),
		cmocka_unit_test(test_leftovers),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_fixtures),
	};
	return cmocka_run_group_tests(tests, gc_setup, publish_teardown);
}
