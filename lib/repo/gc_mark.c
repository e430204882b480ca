/* What is kept: roots, and all that they lead to. */
#include "repo/gc_internal.h"

#include "base/str.h"
#include "repo/catalog_schema.h"
#include "repo/history.h"
#include "repo/object_store.h"
#include "repo/reflog.h"

#include <stdio.h>

static const uint64_t catalog_max = (uint64_t)4 << 30;

/*
 * The tree of one root
 */

enum need {
	NEED_ALL,
	MAY_LACK_IT,   /* but not what it leads to, if it is there */
	MAY_LACK_MORE, /* nor what it leads to */
};

struct pending {
	struct lm_hash hash;
	char *mountpoint;
	enum need need;
};

struct walk {
	struct lm_gc *gc;
	struct pending *pending;
	size_t count, cap;
	struct lm_catalog *at; /* the catalog that is read */
	enum need need;	       /* of what it leads to */
	struct lm_err *err;
};

static void walk_done(struct walk *walk)
{
	for (size_t i = 0; i < walk->count; i++)
		free(walk->pending[i].mountpoint);
	free(walk->pending);
}

static int push(struct walk *walk, const struct lm_hash *hash, const char *mountpoint, enum need need)
{
	if (lm_digests_has(&walk->gc->catalogs, hash->bytes))
		return 0;
	struct pending *grown = lm_grown(walk->pending, walk->count, &walk->cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(walk->err);
	walk->pending = grown;
	char *copy = strdup(mountpoint);
	if (!copy)
		return lm_err_oom(walk->err);
	walk->pending[walk->count++] = (struct pending){*hash, copy, need};
	return 0;
}

static int mark_object(void *arg, enum lm_object_kind kind, const uint8_t digest[LM_HASH_BYTES])
{
	struct walk *walk = arg;
	return lm_marks_add(walk->gc->marks, kind, digest, walk->err);
}

static int push_nested(void *arg, const struct lm_nested *nested)
{
	struct walk *walk = arg;
	return push(walk, &nested->hash, nested->path, walk->need);
}

/* A bind mountpoint leads to a root catalog. It has its turn after all others: there it may lack what it must not lack
 * where it is kept for other reasons, too. */
static int note_bound(void *arg, const struct lm_nested *nested)
{
	struct walk *walk = arg;
	struct lm_gc *gc = walk->gc;
	int r = lm_digests_add(&gc->bound, nested->hash.bytes, walk->err);
	if (r <= 0)
		return r;
	struct lm_hash *grown = lm_grown(gc->binds, gc->bind_count, &gc->bind_cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(walk->err);
	gc->binds = grown;
	gc->binds[gc->bind_count++] = nested->hash;
	return 0;
}

static int note_root(struct lm_gc *gc, const struct pending *item, struct lm_catalog *catalog, struct lm_err *err)
{
	if (*item->mountpoint)
		return 0;
	struct lm_gc_root *grown = lm_grown(gc->roots, gc->root_count, &gc->root_cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	gc->roots = grown;
	struct lm_gc_root *root = &gc->roots[gc->root_count];
	root->hash = item->hash;
	int r = lm_catalog_origin(catalog, &root->modified_s, &root->previous, err);
	gc->root_count += r == 0;
	return r;
}

static int mark_catalog(struct walk *walk, const struct pending *item, const char *path, struct lm_err *err)
{
	struct lm_gc *gc = walk->gc;
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	int r = lm_catalog_open(path, item->mountpoint, &catalog, err);
	if (r == 0)
		r = note_root(gc, item, catalog, err);
	if (r == 0)
		r = lm_marks_add(gc->marks, LM_OBJECT_CATALOG, item->hash.bytes, err);
	if (r == 0)
		r = lm_catalog_objects_each(catalog, mark_object, walk, err);
	walk->need = item->need == MAY_LACK_MORE ? MAY_LACK_MORE : NEED_ALL;
	if (r == 0)
		r = lm_catalog_nested_each(catalog, push_nested, walk, err);
	return r < 0 ? r : lm_catalog_binds_each(catalog, note_bound, walk, err);
}

static int load_catalog(struct walk *walk, const struct pending *item, const char *path, struct lm_err *err)
{
	struct lm_storage *storage = walk->gc->txn->storage;
	int r = lm_object_load_file(storage, &item->hash, LM_OBJECT_CATALOG, catalog_max, path, err);
	if (r == 0)
		r = mark_catalog(walk, item, path, err);
	(void)unlink(path); /* else it goes with the transaction */
	return r;
}

/* 1 read, 0 known already, or absent where it may be. */
static int visit(struct walk *walk, const struct pending *item, struct lm_err *err)
{
	struct lm_gc *gc = walk->gc;
	struct lm_storage *storage = gc->txn->storage;
	char object[LM_OBJECT_PATH_MAX];
	if (lm_digests_has(&gc->catalogs, item->hash.bytes))
		return 0;
	lm_object_path(&item->hash, LM_OBJECT_CATALOG, object);
	int r = item->need == NEED_ALL ? 1 : storage->ops->has(storage, object, err);
	if (r == 0)
		lm_gc_note(gc, true, "the catalog of '%s' in %s is gone: passed over", item->mountpoint, object);
	if (r <= 0)
		return r;
	CLEANUP(lm_freep) char *path = NULL;
	r = lm_txn_scratch_path(gc->txn, "kept", &path, err);
	if (r == 0)
		r = load_catalog(walk, item, path, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s, catalog of '%s'", object, item->mountpoint);
	r = lm_digests_add(&gc->catalogs, item->hash.bytes, err);
	gc->result->catalogs++;
	return r;
}

static void show_progress(const struct walk *walk)
{
	const struct lm_gc_options *options = walk->gc->options;
	uint64_t done = walk->gc->result->catalogs;
	if (options->progress)
		options->progress(options->arg, &(struct lm_gc_progress){.done = done, .total = done + walk->count});
}

/* 1 kept, 0 kept already, or absent where it may be. */
static int keep_root(struct lm_gc *gc, const struct lm_hash *hash, enum need need, const char *why, struct lm_err *err)
{
	CLEANUP(walk_done) struct walk walk = {.gc = gc, .err = err};
	struct pending root = {*hash, (char *)"", need};
	int kept = visit(&walk, &root, err), r = kept;
	while (r >= 0 && walk.count > 0) {
		struct pending item = walk.pending[--walk.count];
		show_progress(&walk);
		r = visit(&walk, &item, err);
		free(item.mountpoint);
	}
	if (kept > 0)
		lm_gc_note(gc, true, "root %s: kept, %s", lm_hash_text(hash).s, why);
	return r < 0 ? r : kept;
}

/*
 * Which roots
 */

struct tags {
	struct lm_gc *gc;
	struct lm_err *err;
};

static int keep_tag(void *arg, const struct lm_tag *tag)
{
	const struct tags *tags = arg;
	CLEANUP(lm_buf_done) struct lm_buf name = LM_BUF(1 << 10);
	const char *shown = lm_str_quote(&name, tag->name, strlen(tag->name)) < 0 ? "a tag" : lm_buf_cstr(&name);
	int r = keep_root(tags->gc, &tag->hash, NEED_ALL, "it has a tag", tags->err);
	if (r < 0)
		return lm_err_prefix(tags->err, r, "what tag %s names", shown);
	lm_gc_note(tags->gc, true, "root %s: has tag %s", lm_hash_text(&tag->hash).s, shown);
	return 0;
}

static int keep_tags(struct lm_gc *gc, struct lm_err *err)
{
	const char *history;
	struct tags tags = {gc, err};
	int r = lm_txn_history(gc->txn, &history, err);
	return r < 0 ? r : lm_history_each(history, keep_tag, &tags, err);
}

static int root_cmp(const void *a, const void *b)
{
	return lm_hash_cmp(&((const struct lm_gc_root *)a)->hash, &((const struct lm_gc_root *)b)->hash);
}

/*
 * A root and those before it: `least` of them, and as many more as were replaced at keep_since_s or later. The line
 * ends at a root that is kept already (it has a line of its own) or absent. The first `known` ones of gc->roots are
 * sorted.
 */
static int keep_line(struct lm_gc *gc, const struct lm_hash *newest, uint64_t least, size_t known, struct lm_err *err)
{
	struct lm_gc_root root = {.hash = *newest};
	for (uint64_t n = 1; root.hash.set; n++) {
		int r = keep_root(gc, &root.hash, MAY_LACK_MORE, "a kept one names it as its predecessor", err);
		if (r < 0 || (r == 0 && n >= least))
			return r;
		const struct lm_gc_root *found = r > 0 ? &gc->roots[gc->root_count - 1]
						       : bsearch(&root, gc->roots, known, sizeof(*gc->roots), root_cmp);
		if (!found)
			return 0;
		root.hash = n < least || found->modified_s >= gc->options->keep_since_s ? found->previous
											: (struct lm_hash){0};
	}
	return 0;
}

/*
 * What the reflog does not know, because it is younger than the repository or was lost. Or because another collector,
 * interrupted or with less to keep, dropped it: so these may lack anything.
 */
static int keep_lines(struct lm_gc *gc, struct lm_err *err)
{
	size_t known = gc->root_count;
	qsort(gc->roots, known, sizeof(*gc->roots), root_cmp);
	int r = keep_line(gc, &gc->txn->base.catalog, LM_MAX(gc->options->keep_revisions, 2u), known, err);
	for (size_t i = 0; i < known && r == 0; i++) {
		struct lm_gc_root root = gc->roots[i];
		if (root.modified_s >= gc->options->keep_since_s)
			r = keep_line(gc, &root.previous, 1, known, err);
	}
	return r;
}

/* The list grows meanwhile. */
static int keep_bound(struct lm_gc *gc, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; r >= 0 && i < gc->bind_count; i++) {
		struct lm_hash hash = gc->binds[i];
		r = keep_root(gc, &hash, MAY_LACK_MORE, "a bind mountpoint leads to it", err);
	}
	return r < 0 ? r : 0;
}

static const struct {
	enum lm_object_kind object;
	const char *name;
} ref_types[] = {
	[LM_REF_CATALOG] = {LM_OBJECT_CATALOG, "root"},
	[LM_REF_CERTIFICATE] = {LM_OBJECT_CERTIFICATE, "certificate"},
	[LM_REF_HISTORY] = {LM_OBJECT_HISTORY, "history"},
	[LM_REF_METAINFO] = {LM_OBJECT_METAINFO, "metainfo"},
};

static int mark_manifest(struct lm_gc *gc, const struct lm_manifest *m, struct lm_err *err)
{
	int r = 0;
	if (m->certificate.set)
		r = lm_marks_add(gc->marks, LM_OBJECT_CERTIFICATE, m->certificate.bytes, err);
	if (r == 0 && m->history.set)
		r = lm_marks_add(gc->marks, LM_OBJECT_HISTORY, m->history.bytes, err);
	if (r == 0 && m->metainfo.set)
		r = lm_marks_add(gc->marks, LM_OBJECT_METAINFO, m->metainfo.bytes, err);
	return r;
}

struct refs {
	struct lm_ref *items;
	size_t count, cap;
	struct lm_err *err;
};

static void refs_done(struct refs *refs)
{
	free(refs->items);
}

static int collect_ref(void *arg, const struct lm_ref *ref)
{
	struct refs *refs = arg;
	struct lm_ref *grown = lm_grown(refs->items, refs->count, &refs->cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(refs->err);
	refs->items = grown;
	refs->items[refs->count++] = *ref;
	return 0;
}

/* By type, the newest first. */
static int ref_cmp(const void *a, const void *b)
{
	const struct lm_ref *x = a, *y = b;
	if (x->type != y->type)
		return x->type < y->type ? -1 : 1;
	return x->time_s > y->time_s ? -1 : x->time_s < y->time_s;
}

static int drop(struct lm_gc *gc, const struct lm_ref *ref, struct lm_err *err)
{
	struct lm_hash *grown = lm_grown(gc->dropped, gc->dropped_count, &gc->dropped_cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	gc->dropped = grown;
	gc->dropped[gc->dropped_count++] = ref->hash;
	lm_gc_note(gc, true, "%s %s: dropped", ref_types[ref->type].name, lm_hash_text(&ref->hash).s);
	return 0;
}

/*
 * The references of one type that were current at time since_s or later: those added then, and the newest one older
 * than that.
 */
static size_t current_since(const struct lm_ref *refs, size_t count, int64_t since_s)
{
	size_t n = 0;
	while (n < count && refs[n].time_s >= since_s)
		n++;
	for (int64_t last = n < count ? refs[n].time_s : 0; n < count && refs[n].time_s == last;)
		n++;
	return n;
}

/* Returns how many of them, the newest ones, are kept. */
static int keep_reflog_roots(
	struct lm_gc *gc, const struct lm_ref *refs, size_t count, size_t *ret_kept, struct lm_err *err)
{
	size_t kept = current_since(refs, count, gc->options->keep_since_s);
	kept = LM_MAX(kept, LM_MIN(gc->options->keep_revisions, (uint64_t)count));
	for (size_t i = 0; i < kept; i++) {
		int r = keep_root(gc, &refs[i].hash, MAY_LACK_IT, "it was current of late", err);
		if (r < 0)
			return r;
	}
	*ret_kept = kept;
	return 0;
}

/* After all roots are kept that any rule keeps. */
static int drop_reflog_roots(struct lm_gc *gc, const struct lm_ref *refs, size_t count, size_t kept, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < count && r == 0; i++) {
		if (lm_digests_has(&gc->catalogs, refs[i].hash.bytes))
			continue;
		if (i < kept)
			lm_gc_note(gc, false, "root %s of the reflog is gone: it leaves the reflog",
				lm_hash_text(&refs[i].hash).s);
		gc->result->roots_absent += i < kept;
		gc->result->roots_dropped += i >= kept;
		r = drop(gc, &refs[i], err);
	}
	return r;
}

static bool manifest_names(const struct lm_manifest *m, const struct lm_hash *hash)
{
	return lm_hash_equal(&m->certificate, hash) || lm_hash_equal(&m->history, hash) ||
	       lm_hash_equal(&m->metainfo, hash);
}

static int sort_out_refs(struct lm_gc *gc, const struct lm_ref *refs, size_t count, int64_t since_s, struct lm_err *err)
{
	size_t kept = current_since(refs, count, since_s);
	int r = 0;
	for (size_t i = 0; i < count && r == 0; i++) {
		if (i < kept)
			r = lm_marks_add(gc->marks, ref_types[refs[i].type].object, refs[i].hash.bytes, err);
		else if (!manifest_names(&gc->txn->base, &refs[i].hash))
			r = drop(gc, &refs[i], err);
	}
	return r;
}

static size_t count_type(const struct refs *refs, size_t from)
{
	size_t n = from;
	while (n < refs->count && refs->items[n].type == refs->items[from].type)
		n++;
	return n - from;
}

static int read_reflog(struct lm_gc *gc, struct refs *ret, struct lm_err *err)
{
	const char *path;
	ret->err = err;
	int r = lm_txn_reflog(gc->txn, &path, err);
	if (r == 0)
		r = lm_reflog_each(path, collect_ref, ret, err);
	if (r == 0 && ret->count > 0)
		qsort(ret->items, ret->count, sizeof(*ret->items), ref_cmp);
	return r;
}

/* Each catalog is read once: what must be complete comes before what may lack something. */
static int keep_all(struct lm_gc *gc, const struct refs *refs, struct lm_err *err)
{
	const struct lm_ref *items = refs->items;
	int64_t since_s = gc->options->keep_since_s;
	size_t roots = refs->count > 0 && items[0].type == LM_REF_CATALOG ? count_type(refs, 0) : 0, kept = 0;
	int r = keep_root(gc, &gc->txn->base.catalog, NEED_ALL, "it is the current one", err);
	if (r > 0)
		r = keep_reflog_roots(gc, items, roots, &kept, err);
	if (r == 0)
		r = keep_tags(gc, err);
	if (r == 0)
		r = keep_lines(gc, err);
	if (r == 0)
		r = keep_bound(gc, err);
	gc->result->roots_kept = gc->root_count;
	if (r == 0)
		r = drop_reflog_roots(gc, items, roots, kept, err);
	/* Certificates and the like of all these revisions. */
	if (roots > 0 && gc->options->keep_revisions > 0)
		since_s = LM_MIN(since_s, items[LM_MIN(gc->options->keep_revisions, (uint64_t)roots) - 1].time_s);
	for (size_t i = roots, n; i < refs->count && r == 0; i += n) {
		n = count_type(refs, i);
		r = sort_out_refs(gc, items + i, n, since_s, err);
	}
	return r;
}

int lm_gc_mark(struct lm_gc *gc, struct lm_err *err)
{
	CLEANUP(refs_done) struct refs refs = {0};
	int r = mark_manifest(gc, &gc->txn->base, err);
	if (r == 0)
		r = read_reflog(gc, &refs, err);
	return r < 0 ? r : keep_all(gc, &refs, err);
}
