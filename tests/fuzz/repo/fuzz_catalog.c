/* A catalog database from anywhere: opened, listed, looked up, walked up, its groups, chunks, nested catalogs, bind
 * mountpoints and objects read. */
#include "fuzz_file.h"
#include "repo/catalog.h"

#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LISTED_MAX = 30 };

struct visit {
	struct lm_catalog *catalog;
	unsigned listed;
};

static int visit_row(void *arg, struct lm_row *row)
{
	struct visit *visit = arg;
	struct lm_err err = LM_ERR_INIT;
	struct lm_buf path = LM_BUF(LM_REPO_PATH_MAX);
	struct lm_chunk *chunks = NULL;
	size_t count;
	uint64_t first;
	uint32_t members;
	struct lm_nested nested;
	struct lm_row again;

	if (strchr(row->name, '/') || strlen(row->name) > LM_NAME_MAX)
		abort();
	if (lm_catalog_path_of(visit->catalog, row->rowid, &path, &err) == 0) {
		if (!lm_path_hash_equal(lm_path_hash(lm_buf_cstr(&path), path.len), row->path))
			abort();
		if (lm_catalog_nested(visit->catalog, lm_buf_cstr(&path), &nested, &err) == 0)
			free(nested.path);
	}
	if (lm_catalog_chunks(visit->catalog, row, row->size / 2, row->size, &chunks, &count, &err) == 0)
		free(chunks);
	if (lm_catalog_group(visit->catalog, row->link_group, &first, &members, &err) == 0 && members == 0)
		abort();
	if (lm_catalog_lookup(visit->catalog, row->path, &again, &err) == 0)
		lm_row_done(&again);
	if (lm_catalog_lookup_half(visit->catalog, row->path.a, &again, &err) == 0) {
		if (again.path.a != row->path.a)
			abort();
		lm_row_done(&again);
	}
	lm_buf_done(&path);
	return visit->listed++ < LISTED_MAX ? 0 : 1;
}

static int visit_nested(void *arg, const struct lm_nested *nested)
{
	return nested->path[0] == '/' ? 0 : -EPROTO;
}

static int visit_object(void *arg, enum lm_object_kind kind, const uint8_t digest[LM_HASH_BYTES])
{
	return kind == LM_OBJECT_FILE || kind == LM_OBJECT_CHUNK ? 0 : -EPROTO;
}

static void use(struct lm_catalog *catalog)
{
	struct lm_err err = LM_ERR_INIT;
	struct visit visit = {.catalog = catalog};
	struct lm_counters self, subtree;
	struct lm_row row;
	int r = lm_catalog_counters(catalog, &self, &subtree, &err);
	struct lm_hash previous;
	int64_t modified_s;
	r = lm_catalog_nested_each(catalog, visit_nested, NULL, &err);
	r = lm_catalog_binds_each(catalog, visit_nested, NULL, &err);
	r = lm_catalog_objects_each(catalog, visit_object, NULL, &err);
	r = lm_catalog_origin(catalog, &modified_s, &previous, &err);
	for (uint64_t rowid = 0; rowid < 20; rowid++) {
		r = lm_catalog_row(catalog, rowid, &row, &err);
		if (r < 0)
			continue;
		visit.listed = 0;
		r = visit_row(&visit, &row);
		if (S_ISDIR(row.mode))
			r = lm_catalog_list(catalog, row.path, 0, visit_row, &visit, &err);
		lm_row_done(&row);
	}
	(void)r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const mountpoints[] = {"", "/d"};
	struct lm_err err = LM_ERR_INIT;
	fuzz_file_write(data, size);
	for (size_t i = 0; i < ARRAY_LEN(mountpoints); i++) {
		struct lm_catalog *catalog = NULL;
		if (lm_catalog_open(fuzz_file, mountpoints[i], &catalog, &err) == 0)
			use(catalog);
		lm_catalog_close(catalog);
	}
	return 0;
}
