/* A catalog database from anywhere: opened, listed, looked up, walked up, its groups, chunks and nested catalogs read.
 */
#include "repo/catalog.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LISTED_MAX = 200 };

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
	if (S_ISDIR(row->mode) && visit->listed++ < LISTED_MAX) {
		int r = lm_catalog_list(visit->catalog, row->path, 0, visit_row, visit, &err);
		(void)r;
	}
	lm_buf_done(&path);
	return visit->listed++ < LISTED_MAX ? 0 : 1;
}

static int visit_nested(void *arg, const struct lm_nested *nested)
{
	return nested->path[0] == '/' ? 0 : -EPROTO;
}

static void use(struct lm_catalog *catalog)
{
	struct lm_err err = LM_ERR_INIT;
	struct visit visit = {.catalog = catalog};
	struct lm_counters self, subtree;
	struct lm_row row;
	int r = lm_catalog_counters(catalog, &self, &subtree, &err);
	r = lm_catalog_nested_each(catalog, visit_nested, NULL, &err);
	for (uint64_t rowid = 0; rowid < 20; rowid++) {
		r = lm_catalog_row(catalog, rowid, &row, &err);
		if (r < 0)
			continue;
		r = visit_row(&visit, &row);
		lm_row_done(&row);
	}
	(void)r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const mountpoints[] = {"", "/d"};
	struct lm_err err = LM_ERR_INIT;
	char path[32];
	int fd = memfd_create("catalog", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	for (size_t i = 0; i < ARRAY_LEN(mountpoints); i++) {
		struct lm_catalog *catalog = NULL;
		if (lm_catalog_open(path, mountpoints[i], &catalog, &err) == 0)
			use(catalog);
		lm_catalog_close(catalog);
	}
	close(fd);
	return 0;
}
