/*
 * A database from anywhere in each role that a repository has for one: root catalog, history and reflog in one check,
 * then as a nested catalog. Whatever it is, the check ends and says something.
 */
#include "repo/check_internal.h"

#include "base/file.h"
#include "repo/reflog.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 1 << 20 };

/* A storage in memory: a manifest, and the input under every name that the manifest has for it. */
struct memory {
	struct lm_storage storage;
	struct lm_buf manifest, packed;
	const uint8_t *data;
	size_t size;
	char catalog[LM_OBJECT_PATH_MAX], history[LM_OBJECT_PATH_MAX];
};

static int find(struct lm_storage *storage, const char *path, const void **ret, size_t *ret_size)
{
	struct memory *m = (struct memory *)storage;
	if (strcmp(path, LM_MANIFEST_NAME) == 0) {
		*ret = m->manifest.data;
		*ret_size = m->manifest.len;
	} else if (strcmp(path, m->catalog) == 0 || strcmp(path, m->history) == 0) {
		*ret = m->packed.data;
		*ret_size = m->packed.len;
	} else if (strcmp(path, LM_REFLOG_NAME) == 0) {
		*ret = m->data;
		*ret_size = m->size;
	} else {
		return -ENOENT;
	}
	return 0;
}

/* Files of catalogs are there, so that the walk goes on with what it finds. */
static int memory_has(struct lm_storage *storage, const char *path, struct lm_err *err)
{
	return 1;
}

static int memory_get(struct lm_storage *storage, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	const void *at;
	size_t size;
	int r = find(storage, path, &at, &size);
	return r < 0 ? r : lm_buf_append(ret, at, size);
}

static int memory_get_file(struct lm_storage *storage, const char *path, int fd, struct lm_err *err)
{
	const void *at;
	size_t size;
	int r = find(storage, path, &at, &size);
	return r < 0 ? r : lm_write_all(fd, at, size, err);
}

static const struct lm_storage_ops ops = {.has = memory_has, .get = memory_get, .get_file = memory_get_file};

static void pack(struct memory *m, struct lm_manifest *manifest)
{
	static struct lm_packer *packer;
	struct lm_err err = LM_ERR_INIT;
	struct lm_hash hash;
	if ((!packer && lm_packer_new(LM_HASH_SHA1, &packer, &err) < 0) ||
		lm_pack(packer, LM_COMPRESSION_ZLIB, m->data, m->size, &m->packed, &hash, &err) < 0)
		abort();
	lm_object_path(&hash, LM_OBJECT_CATALOG, m->catalog);
	lm_object_path(&hash, LM_OBJECT_HISTORY, m->history);
	*manifest = (struct lm_manifest){
		.catalog = hash, .history = hash, .reflog = hash, .ttl_s = 240, .revision = 1, .fqrn = "f.example.org"};
	if (lm_manifest_format(manifest, &m->manifest, &err) < 0)
		abort();
}

struct seen {
	uint64_t findings;
};

static void found(void *arg, const struct lm_finding *finding)
{
	struct seen *seen = arg;
	if (strlen(finding->text) == 0 || !lm_check_kinds[finding->kind].advice)
		abort();
	seen->findings++;
}

/* The same database where a nested catalog is expected. */
static void check_nested(struct lm_check *check, const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	char mountpoint[] = "/d";
	const struct lm_check_ref ref = {.depth = 1, .path = mountpoint, .revision = UINT64_MAX};
	struct lm_check_facts facts;
	if (lm_check_tree_new(check, &check->tree, &err) < 0 || lm_check_objects_new(check, &check->objects, &err) < 0)
		abort();
	if (lm_check_catalog(check, &ref, path, &facts, &err) < 0 || lm_check_objects_drain(check->objects, &err) < 0)
		abort();
	lm_check_objects_free(check->objects);
	lm_check_tree_free(check->tree);
}

static char dir[] = "/tmp/fuzz-check-XXXXXX";

static void remove_dir(void)
{
	(void)!lm_remove_tree(AT_FDCWD, dir, NULL);
}

static void make_dir(void)
{
	static bool made;
	if (!made && (!mkdtemp(dir) || atexit(remove_dir) != 0))
		abort();
	made = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest manifest;
	struct lm_check_result result;
	struct seen seen = {0};
	struct memory m = {.storage = {&ops},
		.manifest = LM_BUF(LM_MANIFEST_MAX),
		.packed = LM_BUF(2 * INPUT_MAX),
		.data = data,
		.size = size};
	if (size > INPUT_MAX)
		return 0;
	make_dir();
	pack(&m, &manifest);
	const struct lm_check_options options = {.tags = true, .scratch = dir};
	if (lm_repo_check(&m.storage, &options, found, &seen, &result, &err) < 0 || seen.findings == 0)
		abort();

	char path[64];
	snprintf(path, sizeof(path), "%s/nested", dir);
	if (lm_file_replace(AT_FDCWD, path, data, size, 0600, 0, &err) < 0)
		abort();
	struct lm_check check = {.storage = &m.storage,
		.options = &options,
		.fn = found,
		.fn_arg = &seen,
		.dir = dir,
		.manifest = manifest};
	lm_lock_init(&check.lock);
	check_nested(&check, path);
	lm_lock_done(&check.lock);
	unlink(path);
	lm_buf_done(&m.manifest);
	lm_buf_done(&m.packed);
	return 0;
}
