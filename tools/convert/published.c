#include "convert/published.h"

#include "base/str.h"
#include "repo/object_store.h"

#include <string.h>
#include <sys/stat.h>

enum {
	OPEN_MAX_CATALOGS = 32,
	NESTING_MAX = 256, /* catalogs on the way to a path */
};

struct opened {
	struct lm_published_top top;
	struct lm_catalog *catalog; /* NULL: free */
	uint64_t used;		    /* by the clock of uses */
};

struct lm_published {
	struct lm_repo_source *source;
	struct opened opened[OPEN_MAX_CATALOGS];
	uint64_t clock;
};

void lm_published_top_done(struct lm_published_top *top)
{
	free(top->path);
	*top = (struct lm_published_top){0};
}

int lm_published_new(struct lm_repo_source *source, struct lm_published **ret, struct lm_err *err)
{
	struct lm_published *published = calloc(1, sizeof(*published));
	if (!published)
		return lm_err_oom(err);
	published->source = source;
	*ret = published;
	return 0;
}

static void close_one(struct opened *opened)
{
	lm_catalog_close(opened->catalog);
	lm_published_top_done(&opened->top);
	*opened = (struct opened){0};
}

void lm_published_free(struct lm_published *published)
{
	for (size_t i = 0; published && i < OPEN_MAX_CATALOGS; i++)
		close_one(&published->opened[i]);
	free(published);
}

/* The catalog, open until OPEN_MAX_CATALOGS others have been asked for. */
static int open_catalog(
	struct lm_published *p, const struct lm_published_top *top, struct lm_catalog **ret, struct lm_err *err)
{
	struct opened *oldest = &p->opened[0];
	for (size_t i = 0; i < OPEN_MAX_CATALOGS; i++) {
		struct opened *o = &p->opened[i];
		if (o->catalog && lm_hash_equal(&o->top.hash, &top->hash) && strcmp(o->top.path, top->path) == 0) {
			o->used = ++p->clock;
			*ret = o->catalog;
			return 0;
		}
		if (o->used < oldest->used)
			oldest = o;
	}
	struct opened fresh = {.top = {strdup(top->path), top->hash}, .used = ++p->clock};
	int r = fresh.top.path ? lm_repo_source_catalog(p->source, &top->hash, top->path, &fresh.catalog, err)
			       : lm_err_oom(err);
	if (r < 0) {
		close_one(&fresh);
		return r;
	}
	close_one(oldest);
	*oldest = fresh;
	*ret = fresh.catalog;
	return 0;
}

/* 1: a nested catalog begins on the way from the mountpoint of `at` to path; *at is now that one. 0: none does. */
static int step(struct lm_catalog *catalog, struct lm_published_top *at, const char *path, struct lm_err *err)
{
	for (const char *end = path + strlen(at->path); *end == '/';) {
		struct lm_nested nested = {0};
		struct lm_err failure = LM_ERR_INIT; /* absence is no failure */
		end = strchrnul(end + 1, '/');
		CLEANUP(lm_freep) char *prefix = lm_str_ndup(path, (size_t)(end - path));
		int r = prefix ? lm_catalog_nested(catalog, prefix, &nested, &failure) : -ENOMEM;
		if (r == 0) {
			lm_published_top_done(at);
			*at = (struct lm_published_top){nested.path, nested.hash};
			return 1;
		}
		if (r != -ENOENT)
			return lm_err_set(err, r, "%s", lm_err_text(&failure));
	}
	return 0;
}

/* The catalog that has the row at path. *ret_top (may be NULL) says which one it is. */
static int descend(struct lm_published *p, const struct lm_published_top *top, const char *path,
	struct lm_catalog **ret, struct lm_published_top *ret_top, struct lm_err *err)
{
	CLEANUP(lm_published_top_done) struct lm_published_top at = {strdup(top->path), top->hash};
	int r = at.path ? 1 : lm_err_oom(err);
	for (unsigned depth = 0; r > 0; depth++) {
		if (depth == NESTING_MAX)
			return lm_err_set(err, -EPROTO, "%s: catalogs nested deeper than %d", path, NESTING_MAX);
		r = open_catalog(p, &at, ret, err);
		if (r == 0)
			r = step(*ret, &at, path, err);
	}
	if (r < 0)
		return r;
	if (ret_top) {
		*ret_top = at;
		at = (struct lm_published_top){0};
	}
	return 0;
}

int lm_published_row(struct lm_published *published, const struct lm_published_top *top, const char *path,
	struct lm_row *ret, struct lm_err *err)
{
	struct lm_catalog *catalog;
	int r = descend(published, top, path, &catalog, NULL, err);
	return r < 0 ? r : lm_catalog_lookup(catalog, lm_path_hash(path, strlen(path)), ret, err);
}

int lm_published_list(struct lm_published *published, const struct lm_published_top *top, const char *dir,
	lm_catalog_row_fn *fn, void *arg, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_catalog *catalog;
	struct lm_path_hash path = lm_path_hash(dir, strlen(dir));
	int r = descend(published, top, dir, &catalog, NULL, err);
	if (r == 0)
		r = lm_catalog_lookup(catalog, path, &row, err);
	return r < 0 ? r : lm_catalog_list(catalog, path, 0, fn, arg, err);
}

int lm_published_nested(struct lm_published *published, const struct lm_published_top *top, const char *path,
	struct lm_published_top *ret, struct lm_err *err)
{
	CLEANUP(lm_published_top_done) struct lm_published_top at = {0};
	struct lm_catalog *catalog;
	int r = descend(published, top, path, &catalog, &at, err);
	if (r < 0)
		return r;
	if (strcmp(at.path, path) != 0)
		return lm_err_set(err, -ENOENT, "no catalog begins at %s", path);
	*ret = at;
	at = (struct lm_published_top){0};
	return 0;
}

static int read_chunks(struct lm_published *p, struct lm_catalog *catalog, const struct lm_row *row, struct lm_buf *ret,
	struct lm_err *err)
{
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	size_t count = 0;
	int r = lm_catalog_chunks(catalog, row, 0, UINT64_MAX, &chunks, &count, err);
	for (size_t i = 0; r == 0 && i < count; i++)
		r = lm_object_load(p->source->storage, &chunks[i].hash, LM_OBJECT_CHUNK, row->compression, ret, err);
	return r;
}

int lm_published_read(struct lm_published *published, const struct lm_published_top *top, const char *path,
	struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_catalog *catalog;
	size_t before = ret->len;
	int r = descend(published, top, path, &catalog, NULL, err);
	if (r == 0)
		r = lm_catalog_lookup(catalog, lm_path_hash(path, strlen(path)), &row, err);
	if (r < 0)
		return r;
	if (!S_ISREG(row.mode) || row.size > ret->max - before)
		return lm_err_set(err, -EPROTO, "%s: no file of at most %zu bytes", path, ret->max - before);
	r = row.flags & LM_ROW_CHUNKED
		    ? read_chunks(published, catalog, &row, ret, err)
		    : lm_object_load(published->source->storage, &row.hash, LM_OBJECT_FILE, row.compression, ret, err);
	if (r == 0 && ret->len - before != row.size)
		r = lm_err_set(err, -EPROTO, "%s: content of another size than its catalog says", path);
	return r;
}
