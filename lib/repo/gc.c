#include "repo/gc_internal.h"

#include "base/file.h"
#include "repo/reflog.h"

#include <stdio.h>

const char *const lm_gc_kind_names[LM_GC_KINDS] = {
	[LM_GC_CONTENT] = "content",
	[LM_GC_CHUNK] = "chunks",
	[LM_GC_CATALOG] = "catalogs",
	[LM_GC_CERTIFICATE] = "certificates",
	[LM_GC_HISTORY] = "histories",
	[LM_GC_METAINFO] = "metainfo",
};

void lm_gc_note(const struct lm_gc *gc, bool detail, const char *fmt, ...)
{
	char text[LM_ERR_MAX];
	va_list args;
	if (!gc->options->note)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	gc->options->note(gc->options->arg, detail, text);
}

static void gc_done(struct lm_gc *gc)
{
	lm_marks_free(gc->marks);
	lm_digests_done(&gc->catalogs);
	lm_digests_done(&gc->bound);
	free(gc->roots);
	free(gc->binds);
	free(gc->dropped);
	lm_txn_free(gc->txn);
}

/* 1: the reflog is the one that the manifest names. */
static int reflog_fits(struct lm_gc *gc, struct lm_err *err)
{
	struct lm_storage *storage = gc->txn->storage;
	const struct lm_hash *named = &gc->txn->base.reflog;
	struct lm_hash found;
	int r = storage->ops->has(storage, LM_REFLOG_NAME, err);
	if (r <= 0 || !named->set)
		return r < 0 ? r : r == 0 && !named->set;
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, storage->ops->scratch(storage), err);
	if (fd < 0)
		return fd;
	r = storage->ops->get_file(storage, LM_REFLOG_NAME, fd, err);
	if (r == 0)
		r = lm_hash_fd(named->algo, fd, &found, err);
	return r < 0 ? r : lm_hash_equal(&found, named);
}

/* From here on nobody is told of what is going to be swept. */
static int forget(struct lm_gc *gc, struct lm_err *err)
{
	struct lm_manifest manifest = gc->txn->base;
	const char *reflog;
	int r = reflog_fits(gc, err);
	if (r < 0 || (r > 0 && gc->dropped_count == 0))
		return r < 0 ? r : 0;
	gc->result->resigned = true;
	if (gc->options->dry_run)
		return 0;
	r = lm_txn_reflog(gc->txn, &reflog, err);
	if (r == 0)
		r = lm_reflog_remove(reflog, gc->dropped, gc->dropped_count, err);
	if (r == 0)
		r = lm_txn_swap_manifest(gc->txn, &manifest, err);
	/* The certificate may have been stored anew. */
	return r < 0 ? r : lm_marks_add(gc->marks, LM_OBJECT_CERTIFICATE, manifest.certificate.bytes, err);
}

static int collect(struct lm_gc *gc, struct lm_err *err)
{
	int r = lm_marks_new(gc->txn->scratch, &gc->marks, err);
	if (r == 0)
		r = lm_gc_mark(gc, err);
	if (r == 0)
		r = forget(gc, err);
	return r < 0 ? r : lm_gc_sweep(gc, err);
}

int lm_repo_gc(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const struct lm_gc_options *options, struct lm_gc_result *ret, struct lm_err *err)
{
	struct lm_gc_result result = {0};
	CLEANUP(gc_done) struct lm_gc gc = {.options = options, .result = &result};
	int r = lm_txn_begin(storage, keys, fqrn, &gc.txn, err);
	if (r == 0)
		r = collect(&gc, err);
	if (r < 0)
		return lm_err_prefix(err, r, "garbage collection of %s", fqrn);
	if (ret)
		*ret = result;
	return 0;
}
