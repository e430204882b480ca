/* A cache with a table of catalog numbers, and a provider that takes objects from an unpacked repository. */
#ifndef LM_TESTS_TREE_TEST_H
#define LM_TESTS_TREE_TEST_H

#include "fetcher_test.h"

#include "fetcher/tree.h"

struct tree_rig {
	char *dir; /* DIR/FQRN is the repository, DIR/cache, DIR/catalogs */
	char *fqrn;
	struct lm_cache *cache;
	struct lm_catalogs *catalogs;
	struct lm_tree *tree;
	unsigned provided; /* objects */
};

static inline void tree_rig_reopen(struct tree_rig *rig, size_t open_max)
{
	struct lm_err err = LM_ERR_INIT;
	lm_tree_free(STEAL(rig->tree));
	lm_catalogs_free(STEAL(rig->catalogs));
	CLEANUP(lm_freep) char *table = lm_str_printf("%s/catalogs", rig->dir);
	assert_ok(lm_catalogs_new(rig->cache, table, open_max, &rig->catalogs, &err), &err);
	assert_ok(lm_tree_new(rig->catalogs, &rig->tree, &err), &err);
}

/* fqrn: a fixture to unpack, or NULL for an empty rig. */
static inline void tree_rig_open(struct tree_rig *rig, const char *fqrn)
{
	struct lm_err err = LM_ERR_INIT;
	*rig = (struct tree_rig){.dir = temp_dir(), .fqrn = strdup(fqrn ? fqrn : "")};
	CLEANUP(lm_freep) char *cache = lm_str_printf("%s/cache", rig->dir);
	if (fqrn)
		unpack_fixture(fqrn, rig->dir);
	assert_ok(lm_cache_new(cache, &rig->cache, &err), &err);
	tree_rig_reopen(rig, 16);
}

static inline void tree_rig_close(struct tree_rig *rig)
{
	lm_tree_free(rig->tree);
	lm_catalogs_free(rig->catalogs);
	lm_cache_free(rig->cache);
	temp_dir_remove(&rig->dir);
	free(rig->fqrn);
}

static inline int provide_sink(void *arg, const void *data, size_t len, struct lm_err *err)
{
	return lm_cache_write(arg, data, len, err);
}

/* From the unpacked repository into the cache. */
static inline void provide(struct tree_rig *rig, const struct lm_object_ref *ref)
{
	struct lm_err err = LM_ERR_INIT;
	char name[LM_OBJECT_PATH_MAX];
	CLEANUP(lm_freep)
	char *path = lm_str_printf("%s/%s/%s", rig->dir, rig->fqrn, lm_object_path(&ref->hash, ref->kind, name));
	CLEANUP(lm_buf_done) struct lm_buf stored = LM_BUF(64 << 20);
	CLEANUP(lm_cache_txn_freep) struct lm_cache_txn *txn = NULL;
	CLEANUP(lm_unpack_freep) struct lm_unpack *unpack = NULL;
	uint64_t size;
	assert_ok(lm_file_read(AT_FDCWD, path, &stored, &err), &err);
	assert_ok(lm_cache_begin(rig->cache, &txn, &err), &err);
	assert_ok(lm_unpack_new(&ref->hash, ref->compression, 64 << 20, provide_sink, txn, &unpack, &err), &err);
	assert_ok(lm_unpack_feed(unpack, stored.data, stored.len, &err), &err);
	assert_ok(lm_unpack_finish(unpack, &size, &err), &err);
	assert_ok(lm_cache_commit(txn, ref, &err), &err);
	rig->provided++;
}

/* Calls an operation until it needs nothing any more: `need` and `err` are in scope. */
#define PROVIDED(rig, call)                               \
	({                                                \
		int provided_r_;                          \
		while ((provided_r_ = (call)) == LM_NEED) \
			provide((rig), &need);            \
		provided_r_;                              \
	})

#endif
