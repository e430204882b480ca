/* What is not kept, and files that are no objects. */
#include "repo/gc_internal.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "repo/catalog_schema.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

enum { LEFTOVER_AGE_S = 86400 };

struct alias {
	struct lm_hash hash;
	enum lm_object_kind kind;
};

struct sweep {
	struct lm_gc *gc;
	unsigned part;
	uint64_t swept_bytes;
	struct alias *aliases; /* by digest */
	size_t alias_count, alias_cap, alias_at;
	struct lm_err *err;
};

static void sweep_done(struct sweep *sweep)
{
	free(sweep->aliases);
}

static enum lm_gc_kind kind_of(enum lm_object_kind kind)
{
	switch (kind) {
	case LM_OBJECT_FILE:
		return LM_GC_CONTENT;
	case LM_OBJECT_CHUNK:
		return LM_GC_CHUNK;
	case LM_OBJECT_CATALOG:
		return LM_GC_CATALOG;
	case LM_OBJECT_CERTIFICATE:
		return LM_GC_CERTIFICATE;
	case LM_OBJECT_HISTORY:
		return LM_GC_HISTORY;
	case LM_OBJECT_METAINFO:
		break;
	}
	return LM_GC_METAINFO;
}

static void count(struct lm_gc_count *count, uint64_t bytes)
{
	count->objects++;
	count->bytes += bytes;
}

static void show_progress(const struct sweep *sweep)
{
	const struct lm_gc_options *options = sweep->gc->options;
	if (options->progress)
		options->progress(options->arg, &(struct lm_gc_progress){.sweeping = true,
							.done = sweep->part,
							.total = LM_GC_PARTS,
							.swept_bytes = sweep->swept_bytes});
}

static int remove_file(struct sweep *sweep, const char *path)
{
	struct lm_storage *storage = sweep->gc->txn->storage;
	lm_gc_note(sweep->gc, true, "%s: swept", path);
	return sweep->gc->options->dry_run ? 0 : storage->ops->remove(storage, path, sweep->err);
}

static int sweep_object(void *arg, const char *name, uint64_t size)
{
	struct sweep *sweep = arg;
	struct lm_gc_result *result = sweep->gc->result;
	char path[NAME_MAX + 16];
	struct lm_hash hash;
	enum lm_object_kind kind;
	snprintf(path, sizeof(path), "data/%02x/%s", sweep->part, name);
	if (lm_object_path_parse(path, &hash, &kind) < 0) {
		count(&result->unknown, size);
		lm_gc_note(sweep->gc, true, "%s: no object of a known kind, left alone", path);
		return 0;
	}
	if (lm_marks_has(sweep->gc->marks, kind, hash.bytes)) {
		count(&result->kept[kind_of(kind)], size);
		return 0;
	}
	count(&result->swept[kind_of(kind)], size);
	sweep->swept_bytes += size;
	show_progress(sweep);
	return remove_file(sweep, path);
}

/*
 * Second names, ".cvmfsalt-HASHSUFFIX" in the top directory, go before what they lead to
 */

static int collect_alias(void *arg, const char *name, uint64_t size)
{
	struct sweep *sweep = arg;
	struct alias alias;
	size_t skip = strlen(LM_ALTERNATIVE_PREFIX);
	(void)size;
	if (!lm_str_starts(name, LM_ALTERNATIVE_PREFIX) ||
		lm_object_name_parse(name + skip, strlen(name) - skip, &alias.hash, &alias.kind) < 0)
		return 0;
	struct alias *grown = lm_grown(sweep->aliases, sweep->alias_count, &sweep->alias_cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(sweep->err);
	sweep->aliases = grown;
	sweep->aliases[sweep->alias_count++] = alias;
	return 0;
}

static int alias_cmp(const void *a, const void *b)
{
	const struct alias *x = a, *y = b;
	return memcmp(x->hash.bytes, y->hash.bytes, sizeof(x->hash.bytes));
}

static int collect_aliases(struct sweep *sweep)
{
	struct lm_storage *storage = sweep->gc->txn->storage;
	int r = storage->ops->list(storage, "", collect_alias, sweep, sweep->err);
	if (r == 0 && sweep->alias_count > 0)
		qsort(sweep->aliases, sweep->alias_count, sizeof(*sweep->aliases), alias_cmp);
	return r;
}

static int sweep_aliases(struct sweep *sweep)
{
	int r = 0;
	for (; r == 0 && sweep->alias_at < sweep->alias_count; sweep->alias_at++) {
		const struct alias *alias = &sweep->aliases[sweep->alias_at];
		char path[LM_OBJECT_PATH_MAX];
		if (alias->hash.bytes[0] != sweep->part)
			break;
		if (lm_marks_has(sweep->gc->marks, alias->kind, alias->hash.bytes))
			continue;
		sweep->gc->result->aliases++;
		r = remove_file(sweep, lm_object_alternative_path(&alias->hash, alias->kind, path));
	}
	return r;
}

/*
 * Temporary files. Our own writers, living or dead, are known by their locks; of others only the time tells.
 */

static bool is_leftover(int dirfd, const char *name, int64_t now_s, struct stat *ret)
{
	return fstatat(dirfd, name, ret, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(ret->st_mode) &&
	       ret->st_mtime < now_s - LEFTOVER_AGE_S;
}

static int sweep_leftovers(struct sweep *sweep)
{
	struct lm_storage *storage = sweep->gc->txn->storage;
	const char *path = storage->ops->scratch(storage);
	CLEANUP(lm_closedirp) DIR *dir = opendir(path);
	if (!dir)
		return lm_err_sys(sweep->err, -errno, "%s", path);
	int64_t now_s = lm_wall_s();
	for (const struct dirent *entry; errno = 0, (entry = readdir(dir));) {
		struct stat st;
		if (!is_leftover(dirfd(dir), entry->d_name, now_s, &st))
			continue;
		count(&sweep->gc->result->leftovers, (uint64_t)st.st_size);
		lm_gc_note(sweep->gc, true, "temporary file %s: swept", entry->d_name);
		if (!sweep->gc->options->dry_run && unlinkat(dirfd(dir), entry->d_name, 0) < 0 && errno != ENOENT)
			return lm_err_sys(sweep->err, -errno, "remove %s/%s", path, entry->d_name);
	}
	return errno ? lm_err_sys(sweep->err, -errno, "list %s", path) : 0;
}

static int sweep_part(struct sweep *sweep)
{
	struct lm_storage *storage = sweep->gc->txn->storage;
	char dir[16];
	snprintf(dir, sizeof(dir), "data/%02x", sweep->part);
	show_progress(sweep);
	int r = lm_marks_load(sweep->gc->marks, sweep->part, sweep->err);
	if (r == 0)
		r = sweep_aliases(sweep);
	return r < 0 ? r : storage->ops->list(storage, dir, sweep_object, sweep, sweep->err);
}

int lm_gc_sweep(struct lm_gc *gc, struct lm_err *err)
{
	CLEANUP(sweep_done) struct sweep sweep = {.gc = gc, .err = err};
	int r = collect_aliases(&sweep);
	for (; r == 0 && sweep.part < LM_GC_PARTS; sweep.part++)
		r = sweep_part(&sweep);
	if (r == 0 && !gc->options->dry_run)
		r = gc->txn->storage->ops->sync(gc->txn->storage, err); /* removals may be under way */
	return r < 0 ? r : sweep_leftovers(&sweep);
}
