/*
 * Publishing: what comes out is read back as a client and as the checker would, also when publishers fail at every step
 * or are killed at any time.
 */
#include "repo_faulty.h"
#include "repo_publish.h"

#include <dirent.h>
#include <signal.h>

static void test_create(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct lm_manifest made, found;
	CLEANUP(lm_buf_done) struct lm_buf listing = LM_BUF(1 << 16);
	create(&place, &made);
	check(&place, &found, &listing);
	assert_int_equal(found.revision, 1);
	assert_int_equal(found.ttl_s, 300);
	assert_string_equal(found.fqrn, FQRN);
	assert_true(found.history.set);
	assert_true(lm_hash_equal(&found.catalog, &made.catalog));
	assert_true(lm_str_starts(lm_buf_cstr(&listing), "d 0755 0 0 4096 "));
	assert_true(lm_str_ends(lm_buf_cstr(&listing), " 2 - - - - - /\n"));
	assert_int_equal(place.storage->ops->has(place.storage, ".cvmfs_master_replica", &err), 1);

	assert_int_equal(lm_repo_create(place.storage, &keys, FQRN, 30, 300, NULL, &made, &err), -EEXIST);
	struct lm_repo_keys no_master = {.key = keys.key, .cert = keys.cert};
	assert_int_equal(lm_repo_create(place.storage, &no_master, FQRN, 30, 300, NULL, &made, &err), -EINVAL);
}

static void test_keys(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys loaded = {0};
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/keys", base);
	CLEANUP(lm_freep) char *master = lm_str_printf("%s/" FQRN ".masterkey", dir);
	CLEANUP(lm_freep) char *key = lm_str_printf("%s/" FQRN ".key", dir);
	struct stat st;
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(stat(master, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(stat(key, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(lm_repo_keys_make(dir, FQRN, &loaded, &err), -EEXIST);

	assert_int_equal(chmod(key, 0640), 0);
	assert_int_equal(lm_repo_keys_load(dir, FQRN, &loaded, &err), -EPERM);
	assert_int_equal(chmod(key, 0600), 0);
	assert_ok(lm_repo_keys_load(dir, FQRN, &loaded, &err), &err);
	assert_non_null(loaded.master);
	lm_repo_keys_done(&loaded);

	CLEANUP(lm_freep) char *away = lm_str_printf("%s.away", master);
	assert_int_equal(rename(master, away), 0);
	assert_ok(lm_repo_keys_load(dir, FQRN, &loaded, &err), &err);
	assert_null(loaded.master);
	assert_int_equal(rename(away, master), 0);
	lm_repo_keys_done(&loaded);

	assert_int_equal(lm_repo_keys_load(dir, "no.example.org", &loaded, &err), -ENOENT);
	assert_int_equal(lm_repo_keys_load(dir, "../escape", &loaded, &err), -EINVAL);
}

static void assert_content(struct lm_txn *txn, const char *path, const char *expected)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(1 << 16);
	assert_ok(lm_txn_read(txn, path, &content, &err), &err);
	assert_string_equal(lm_buf_cstr(&content), expected);
}

static void test_tree(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	struct lm_manifest first, second, found;
	struct lm_row row;
	create(&place, &first);
	begin(&place, &txn);
	mkdirs(txn, "/a/b", false);
	mkdirs(txn, "/n", true);
	mkdirs(txn, "/n/deep/er", true);
	put(txn, "/a/b/file", "one");
	put(txn, "/n/file", "two");
	put(txn, "/n/deep/er/file", "three");
	assert_ok(lm_txn_put_symlink(txn, "/n/deep/link", "er/file", &err), &err);
	assert_content(txn, "/n/deep/er/file", "three"); /* before commit, too */
	commit(&txn, &second);
	assert_int_equal(second.revision, 2);
	assert_true(second.published_s > first.published_s);
	check(&place, &found, NULL);

	begin(&place, &txn);
	assert_int_equal(lm_txn_base(txn)->revision, 2);
	assert_content(txn, "/a/b/file", "one");
	assert_content(txn, "/n/deep/er/file", "three");
	assert_ok(lm_txn_lookup(txn, "/n/deep/link", &row, &err), &err);
	assert_string_equal(row.symlink, "er/file");
	lm_row_done(&row);
	assert_ok(lm_txn_lookup(txn, "/n/deep/er", &row, &err), &err);
	assert_true(row.flags & LM_ROW_MOUNTPOINT);
	lm_row_done(&row);
	assert_int_equal(lm_txn_lookup(txn, "/n/no", &row, &err), -ENOENT);
	assert_int_equal(lm_txn_lookup(txn, "/no/no", &row, &err), -ENOENT);

	/* Into a nested catalog below an unchanged one, and a nested one taken away. */
	put(txn, "/n/deep/er/file", "four");
	mkdirs(txn, "/n/deep/er/x/y", false);
	commit(&txn, &second);
	check(&place, &found, NULL);
	begin(&place, &txn);
	assert_content(txn, "/n/deep/er/file", "four");
	assert_content(txn, "/n/file", "two");
	assert_ok(lm_txn_remove(txn, "/n/deep", &err), &err);
	assert_ok(lm_txn_remove(txn, "/n/deep", &err), &err);
	commit(&txn, &second);
	check(&place, &found, NULL);
	begin(&place, &txn);
	assert_int_equal(lm_txn_lookup(txn, "/n/deep/er/file", &row, &err), -ENOENT);
	assert_ok(lm_txn_remove(txn, "/n", &err), &err);
	mkdirs(txn, "/n/now/plain", false);
	commit(&txn, &second);
	check(&place, &found, NULL);
	assert_int_equal(found.revision, 5);
}

/* What is there already in the same form is no change. */
static void test_nothing_changed(void **state)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest first, second;
	CLEANUP(lm_buf_done) struct lm_buf before = {0};
	CLEANUP(lm_buf_done) struct lm_buf after = {0};
	create(&place, &first);
	begin(&place, &txn);
	mkdirs(txn, "/d", true);
	put(txn, "/d/f", "same");
	assert_ok(lm_txn_put_symlink(txn, "/l", "d/f", &err), &err);
	commit(&txn, &first);
	read_manifest(place.storage, &before);
	begin(&place, &txn);
	mkdirs(txn, "/d", true);
	put(txn, "/d/f", "same");
	assert_ok(lm_txn_put_symlink(txn, "/l", "d/f", &err), &err);
	assert_ok(lm_txn_remove(txn, "/d/absent", &err), &err);
	commit(&txn, &second);
	assert_true(lm_hash_equal(&first.catalog, &second.catalog));
	assert_int_equal(second.revision, 2);
	read_manifest(place.storage, &after);
	assert_int_equal(before.len, after.len);
	assert_memory_equal(before.data, after.data, after.len);
	begin(&place, &txn);
	put(txn, "/d/f", "more");
	lm_txn_freep(&txn); /* and an abandoned one neither */
	lm_buf_done(&after);
	read_manifest(place.storage, &after);
	assert_memory_equal(before.data, after.data, after.len);
}

static void test_refused(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_buf_done) struct lm_buf small = LM_BUF(2);
	struct lm_manifest manifest;
	create(&place, &manifest);
	begin(&place, &txn);
	mkdirs(txn, "/d", false);
	put(txn, "/d/f", "text");
	assert_int_equal(lm_txn_put_data(txn, "/no/f", "", 0, &err), -ENOENT);
	assert_int_equal(lm_txn_put_data(txn, "/d/f/f", "", 0, &err), -ENOTDIR);
	assert_int_equal(lm_txn_put_data(txn, "/d", "", 0, &err), -EISDIR);
	assert_int_equal(lm_txn_put_data(txn, "/d/.cvmfscatalog", "", 0, &err), -EINVAL);
	assert_int_equal(lm_txn_put_data(txn, "d/f", "", 0, &err), -EINVAL);
	assert_int_equal(lm_txn_put_data(txn, "/d/..", "", 0, &err), -EINVAL);
	assert_int_equal(lm_txn_put_data(txn, "/d/", "", 0, &err), -EINVAL);
	assert_int_equal(lm_txn_put_symlink(txn, "/d/l", "", &err), -EINVAL);
	assert_int_equal(lm_txn_mkdirs(txn, "/d/f/g", false, &err), -ENOTDIR);
	assert_int_equal(lm_txn_mkdirs(txn, "/./d", false, &err), -EINVAL);
	assert_int_equal(lm_txn_remove(txn, "", &err), -EINVAL);
	assert_int_equal(lm_txn_read(txn, "/d", &small, &err), -EISDIR);
	assert_int_equal(lm_txn_read(txn, "/d/f", &small, &err), -EMSGSIZE);
	assert_int_equal(lm_txn_read(txn, "/d/none", &small, &err), -ENOENT);
	commit(&txn, &manifest); /* the refusals left no trace */
	check(&place, &manifest, NULL);

	/* A second publisher; a stranger's key; nothing there. */
	CLEANUP(lm_storage_freep) struct lm_storage *other = NULL;
	assert_ok(lm_storage_dir_open(place.dir, false, &other, &err), &err);
	assert_int_equal(lm_txn_begin(other, &keys, FQRN, &txn, &err), -EBUSY);
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys stranger = {0};
	assert_ok(lm_key_generate(2048, &stranger.key, &err), &err);
	assert_ok(lm_cert_make(stranger.key, FQRN, &stranger.cert, &err), &err);
	assert_int_equal(lm_txn_begin(place.storage, &stranger, FQRN, &txn, &err), -EBADMSG);
	assert_int_equal(lm_txn_begin(place.storage, &keys, "other.example.org", &txn, &err), -EINVAL);
	CLEANUP(place_done) struct place empty;
	place_init(&empty);
	assert_int_equal(lm_txn_begin(empty.storage, &keys, FQRN, &txn, &err), -ENOENT);
}

/* A catalog as a converter makes it: files, a link group over two directories, attributes. */
static char *make_layer(struct place *place, const char *mountpoint, bool marker, unsigned files)
{
	static unsigned count;
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	CLEANUP(lm_packer_freep) struct lm_packer *packer = NULL;
	struct lm_row dir = {.mode = S_IFDIR | 0755, .size = 4096, .mtime_s = 1000};
	struct lm_row file = {
		.mode = S_IFREG | 04755, .size = 5, .mtime_s = -5, .mtime_ns = 999999999, .link_group = 1};
	struct lm_row empty = {.mode = S_IFREG | 0644};
	struct lm_counters self, subtree;
	char *path = lm_str_printf("%s/layer.%u", base, count++);
	char name[256];
	assert_ok(lm_packer_new(LM_HASH_SHA1, &packer, &err), &err);
	assert_ok(lm_object_store(place->storage, packer, LM_OBJECT_FILE, "layer", 5, &file.hash, &err), &err);
	assert_ok(lm_object_store(place->storage, packer, LM_OBJECT_FILE, "", 0, &empty.hash, &err), &err);
	assert_ok(lm_catalog_create(path, mountpoint, &dir, &w, &err), &err);
	snprintf(name, sizeof(name), "%s/.cvmfscatalog", mountpoint);
	if (marker)
		assert_ok(lm_catalog_insert(w, name, &empty, NULL, 0, &err), &err);
	snprintf(name, sizeof(name), "%s/sub", mountpoint);
	assert_ok(lm_catalog_insert(w, name, &dir, NULL, 0, &err), &err);
	for (unsigned i = 0; i < files; i++) {
		snprintf(name, sizeof(name), "%s%s/%u", mountpoint, i % 2 ? "/sub" : "", i);
		assert_ok(lm_catalog_insert(w, name, &file, NULL, 0, &err), &err);
	}
	struct lm_catalog_props props = {.revision = 1, .last_modified_s = 2000};
	assert_ok(lm_catalog_writer_finish(w, &props, &self, &subtree, &err), &err);
	assert_int_equal(self.regular, files + marker);
	return path;
}

static void test_graft(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	struct lm_manifest manifest;
	create(&place, &manifest);
	begin(&place, &txn);
	mkdirs(txn, "/.layers/ab", true);
	CLEANUP(lm_freep) char *layer = make_layer(&place, "/.layers/ab/abcd", true, 4);
	CLEANUP(lm_freep) char *bare = make_layer(&place, "/.layers/ab/bare", false, 2);
	assert_int_equal(lm_txn_graft(txn, "/.layers/ab/bare", bare, &err), -EINVAL);
	assert_int_equal(lm_txn_graft(txn, "/.layers/ab/other", layer, &err), -EPROTO);
	assert_int_equal(lm_txn_graft(txn, "/.layers/no/abcd", layer, &err), -ENOENT);
	assert_ok(lm_txn_graft(txn, "/.layers/ab/abcd", layer, &err), &err);
	assert_content(txn, "/.layers/ab/abcd/sub/1", "layer");
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);

	/* Replaced by another one, once in the same transaction and once in the next, then changed inside, then
	 * removed. */
	CLEANUP(lm_freep) char *second = make_layer(&place, "/.layers/ab/abcd", true, 7);
	begin(&place, &txn);
	assert_content(txn, "/.layers/ab/abcd/0", "layer");
	assert_ok(lm_txn_graft(txn, "/.layers/ab/abcd", second, &err), &err);
	assert_ok(lm_txn_graft(txn, "/.layers/ab/abcd", layer, &err), &err);
	assert_ok(lm_txn_graft(txn, "/.layers/ab/abcd", second, &err), &err);
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
	begin(&place, &txn);
	put(txn, "/.layers/ab/abcd/sub/1", "changed"); /* leaves its link group */
	assert_ok(lm_txn_remove(txn, "/.layers/ab/abcd/3", &err), &err);
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
	begin(&place, &txn);
	assert_content(txn, "/.layers/ab/abcd/sub/1", "changed");
	assert_content(txn, "/.layers/ab/abcd/sub/5", "layer");
	assert_ok(lm_txn_graft(txn, "/.layers/ab/abcd", layer, &err), &err);
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
	begin(&place, &txn);
	assert_ok(lm_txn_remove(txn, "/.layers/ab/abcd", &err), &err);
	put(txn, "/.layers/ab/abcd", "now a file");
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
	begin(&place, &txn);
	assert_ok(lm_txn_graft(txn, "/.layers/ab/abcd", layer, &err), &err); /* in place of the file */
	mkdirs(txn, "/.layers/cd", true);
	CLEANUP(lm_freep) char *over = make_layer(&place, "/.layers/cd", true, 3);
	assert_ok(lm_txn_graft(txn, "/.layers/cd", over, &err), &err); /* in place of one just made */
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
}

struct asking {
	struct lm_storage *storage;
	unsigned catalogs, others;
};

static int ask_stored(void *arg, const struct lm_hash *hash, enum lm_object_kind kind, struct lm_err *err)
{
	struct asking *asking = arg;
	char path[LM_OBJECT_PATH_MAX];
	*(kind == LM_OBJECT_CATALOG ? &asking->catalogs : &asking->others) += 1;
	return asking->storage->ops->has(asking->storage, lm_object_path(hash, kind, path), err);
}

static void nested_done(struct lm_nested *nested)
{
	free(nested->path);
}

/* "/big" with "/big/sub/inner" below it, stored by a transaction that was given up. */
static void leave_behind(struct place *place, struct lm_nested *ret, struct lm_hash *ret_inner)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	CLEANUP(lm_finished_done) struct lm_finished inner = {0};
	CLEANUP(lm_freep) char *outer_path = make_layer(place, "/big", true, 3);
	CLEANUP(lm_freep) char *inner_path = make_layer(place, "/big/sub/inner", true, 5);
	struct lm_catalog_props props = {.revision = 1, .last_modified_s = 1};
	struct lm_counters other;
	begin(place, &txn);
	assert_ok(lm_txn_store_nested(txn, "/big/sub/inner", inner_path, &inner, &err), &err);
	assert_ok(lm_catalog_edit(outer_path, "/big", &w, &err), &err);
	assert_ok(lm_catalog_set_nested(
			  w, "/big/sub/inner", &inner.hash, inner.size, &inner.root, &inner.self, &inner.subtree, &err),
		&err);
	assert_ok(lm_catalog_writer_finish(w, &props, &other, &other, &err), &err);
	assert_ok(lm_txn_graft(txn, "/big", outer_path, &err), &err);
	assert_ok(lm_txn_nested(txn, "/big", ret, &err), &err);
	*ret_inner = inner.hash;
}

/* What a transaction that came to nothing has stored is hung into the next one's tree, if all of it is there. */
static void test_graft_stored(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(nested_done) struct lm_nested big = {0};
	CLEANUP(lm_row_done) struct lm_row file = {0}, none = {0};
	struct lm_manifest manifest;
	struct lm_hash inner;
	create(&place, &manifest);
	leave_behind(&place, &big, &inner);
	struct asking asking = {.storage = place.storage};
	const struct lm_stored stored = {ask_stored, &asking};
	begin(&place, &txn);
	assert_int_equal(lm_txn_graft_stored(txn, "/no/big", &big.hash, big.size, &stored, &err), -ENOENT);
	assert_int_equal(lm_txn_graft_stored(txn, "/other", &big.hash, big.size, &stored, &err), -EPROTO);
	assert_ok(lm_txn_graft_stored(txn, "/big", &big.hash, big.size, &stored, &err), &err);
	assert_content(txn, "/big/sub/inner/sub/1", "layer");
	assert_int_equal(asking.catalogs, 3);
	assert_true(asking.others >= 8);
	assert_ok(lm_txn_lookup(txn, "/big/0", &file, &err), &err);
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);

	begin(&place, &txn);
	take_away(txn, "/big");
	commit(&txn, &manifest);
	const struct {
		const struct lm_hash *hash;
		enum lm_object_kind kind;
	} parts[] = {{&file.hash, LM_OBJECT_FILE}, {&inner, LM_OBJECT_CATALOG}, {&big.hash, LM_OBJECT_CATALOG}};
	begin(&place, &txn);
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		CLEANUP(lm_buf_done) struct lm_buf bytes = LM_BUF(1 << 20);
		char path[LM_OBJECT_PATH_MAX];
		lm_object_path(parts[i].hash, parts[i].kind, path);
		assert_ok(place.storage->ops->get(place.storage, path, &bytes, &err), &err);
		assert_ok(place.storage->ops->remove(place.storage, path, &err), &err);
		assert_int_equal(lm_txn_graft_stored(txn, "/big", &big.hash, big.size, &stored, &err), -ENOENT);
		if (parts[i].kind == LM_OBJECT_CATALOG) {
			assert_ok(place.storage->ops->put(place.storage, path, "damage", 6, &err), &err);
			assert_int_equal(
				lm_txn_graft_stored(txn, "/big", &big.hash, big.size, &stored, &err), -EBADMSG);
			assert_ok(place.storage->ops->remove(place.storage, path, &err), &err);
		}
		assert_ok(place.storage->ops->put(place.storage, path, bytes.data, bytes.len, &err), &err);
		assert_int_equal(lm_txn_lookup(txn, "/big", &none, &err), -ENOENT);
	}
	assert_ok(lm_txn_graft_stored(txn, "/big", &big.hash, big.size, &stored, &err), &err);
	put(txn, "/big/sub/inner/new", "changed at once");
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
}

/* A grafted catalog may name others only if they are stored. */
static void test_graft_with_nested(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	CLEANUP(lm_catalog_closep) struct lm_catalog *inner = NULL;
	CLEANUP(lm_row_done) struct lm_row root = {0};
	struct lm_manifest manifest;
	struct lm_counters self, subtree, other;
	struct lm_hash hash = {.algo = LM_HASH_SHA1, .set = true};
	uint64_t size = 0;
	create(&place, &manifest);
	CLEANUP(lm_freep) char *outer_path = make_layer(&place, "/big", true, 3);
	CLEANUP(lm_freep) char *inner_path = make_layer(&place, "/big/sub/inner", true, 5);
	assert_ok(lm_catalog_open(inner_path, "/big/sub/inner", &inner, &err), &err);
	assert_ok(lm_catalog_row(inner, 1, &root, &err), &err);
	assert_ok(lm_catalog_counters(inner, &self, &subtree, &err), &err);
	struct lm_catalog_props props = {.revision = 1, .last_modified_s = 1};

	for (int stored = 0; stored < 2; stored++) {
		if (stored)
			assert_ok(lm_object_store_file(place.storage, LM_HASH_SHA1, LM_OBJECT_CATALOG, inner_path,
					  &hash, &size, &err),
				&err);
		assert_ok(lm_catalog_edit(outer_path, "/big", &w, &err), &err);
		if (stored)
			/* The entry of the first round can't be accounted for without its catalog. */
			assert_int_equal(
				lm_catalog_set_nested(w, "/big/sub/inner", &hash, size, &root, &self, &subtree, &err),
				-EINVAL);
		if (stored) {
			lm_catalog_writer_freep(&w);
			free(outer_path);
			outer_path = make_layer(&place, "/big", true, 3);
			assert_ok(lm_catalog_edit(outer_path, "/big", &w, &err), &err);
		}
		assert_ok(lm_catalog_set_nested(w, "/big/sub/inner", &hash, size, &root, &self, &subtree, &err), &err);
		assert_ok(lm_catalog_writer_finish(w, &props, &other, &other, &err), &err);
		lm_catalog_writer_freep(&w);
		begin(&place, &txn);
		assert_int_equal(lm_txn_graft(txn, "/big", outer_path, &err), stored ? 0 : -EINVAL);
		if (stored)
			assert_content(txn, "/big/sub/inner/sub/1", "layer");
		commit(&txn, &manifest);
		check(&place, &manifest, NULL);
	}
	/* The counters of what is removed with it have to be fetched. */
	begin(&place, &txn);
	assert_ok(lm_txn_remove(txn, "/big/sub", &err), &err);
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
	begin(&place, &txn);
	assert_ok(lm_txn_remove(txn, "/big", &err), &err);
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
}

static void remove_object(struct place *place, const struct lm_hash *hash, enum lm_object_kind kind)
{
	char object[LM_OBJECT_PATH_MAX];
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", place->dir, lm_object_path(hash, kind, object));
	assert_int_equal(unlink(path), 0);
}

/* A damaged storage is not taken for a repository without the file. */
static void test_missing_objects(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(100);
	CLEANUP(lm_catalog_closep) struct lm_catalog *root = NULL;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/damaged", base);
	struct lm_manifest manifest;
	struct lm_nested nested;
	struct lm_row row;
	create(&place, &manifest);
	begin(&place, &txn);
	mkdirs(txn, "/n", true);
	put(txn, "/f", "content");
	commit(&txn, &manifest);
	assert_ok(lm_object_load_file(place.storage, &manifest.catalog, LM_OBJECT_CATALOG, 1 << 20, path, &err), &err);
	assert_ok(lm_catalog_open(path, "", &root, &err), &err);
	assert_ok(lm_catalog_lookup(root, lm_path_hash("/f", 2), &row, &err), &err);
	assert_ok(lm_catalog_nested(root, "/n", &nested, &err), &err);
	remove_object(&place, &row.hash, LM_OBJECT_FILE);
	remove_object(&place, &nested.hash, LM_OBJECT_CATALOG);
	lm_row_done(&row);
	free(nested.path);

	begin(&place, &txn);
	assert_int_equal(lm_txn_read(txn, "/f", &content, &err), -EIO);
	assert_int_equal(lm_txn_lookup(txn, "/n/x", &row, &err), -EIO);
	assert_int_equal(lm_txn_remove(txn, "/n/x", &err), -EIO);
	assert_int_equal(lm_txn_mkdirs(txn, "/n/x", false, &err), -EIO);
	assert_int_equal(lm_txn_put_data(txn, "/n/x", "", 0, &err), -EIO);
	lm_txn_freep(&txn);
	remove_object(&place, &manifest.catalog, LM_OBJECT_CATALOG);
	assert_int_equal(lm_txn_begin(place.storage, &keys, FQRN, &txn, &err), -EIO);
	assert_non_null(strstr(err.msg, "is missing"));
}

static void assert_tag(const char *db_path, const char *name, uint64_t revision)
{
	char sql[128];
	snprintf(sql, sizeof(sql), "SELECT revision FROM tags WHERE name = '%s'", name);
	assert_int_equal(tree_sql(db_path, sql), revision);
}

static void test_history(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/history", base);
	struct lm_manifest manifest;
	create(&place, &manifest);
	for (unsigned i = 2; i < 5; i++) {
		char content[16];
		snprintf(content, sizeof(content), "%u", i);
		begin(&place, &txn);
		put(txn, "/f", content);
		commit(&txn, &manifest);
	}
	assert_ok(lm_object_load_file(place.storage, &manifest.history, LM_OBJECT_HISTORY, 1 << 20, path, &err), &err);
	assert_tag(path, "trunk", 4);
	assert_tag(path, "trunk-previous", 3);
	assert_int_equal(tree_sql(path, "SELECT count(*) FROM tags"), 2);
	assert_int_equal(tree_sql(path, "SELECT count(*) FROM branches WHERE branch = ''"), 1);
	assert_int_equal(tree_sql(path, "SELECT count(*) FROM recycle_bin"), 0);
	CLEANUP(lm_freep)
	char *sql = lm_str_printf("SELECT count(*) FROM tags WHERE name = 'trunk' AND hash = '%s' AND size = %llu",
		lm_hash_text(&manifest.catalog).s, (unsigned long long)manifest.catalog_size);
	assert_int_equal(tree_sql(path, sql), 1);
}

/*
 * Random changes against a model: a list of paths.
 */

enum { MODEL_MAX = 400, MODEL_STEPS = 25, MODEL_COMMITS = 12 };

struct model_entry {
	char path[256];
	char type; /* d, n (nested), f, l */
	char content[32];
};

struct model {
	struct model_entry entries[MODEL_MAX];
	size_t count;
	unsigned serial;
};

static struct model_entry *model_pick(struct model *model, const char *types)
{
	for (unsigned tries = 0; model->count && tries < 50; tries++) {
		struct model_entry *entry = &model->entries[(size_t)rand() % model->count];
		if (strchr(types, entry->type))
			return entry;
	}
	return NULL;
}

static void model_add(struct model *model, char type, const char *path, const char *content)
{
	struct model_entry *entry = &model->entries[model->count++];
	snprintf(entry->path, sizeof(entry->path), "%s", path);
	snprintf(entry->content, sizeof(entry->content), "%s", content);
	entry->type = type;
}

static void model_remove(struct model *model, const char *path)
{
	size_t kept = 0, len = strlen(path);
	for (size_t i = 0; i < model->count; i++) {
		const char *at = model->entries[i].path;
		if (strncmp(at, path, len) != 0 || (at[len] && at[len] != '/'))
			model->entries[kept++] = model->entries[i];
	}
	model->count = kept;
}

static void model_step(struct model *model, struct lm_txn *txn)
{
	struct lm_err err = LM_ERR_INIT;
	char path[256], content[32];
	const struct model_entry *dir = rand() % 4 ? model_pick(model, "dn") : NULL;
	unsigned dice = (unsigned)rand() % 10;
	if ((dir && strlen(dir->path) > 200) || model->count > MODEL_MAX - 4)
		return;
	snprintf(path, sizeof(path), "%s/%u", dir ? dir->path : "", model->serial++);
	snprintf(content, sizeof(content), "content %u", (unsigned)rand() % 1000);
	if (dice < 3) {
		bool nested = rand() % 2;
		assert_ok(lm_txn_mkdirs(txn, path, nested, &err), &err);
		model_add(model, nested ? 'n' : 'd', path, "");
	} else if (dice < 6) {
		put(txn, path, content);
		model_add(model, 'f', path, content);
	} else if (dice < 7) {
		assert_ok(lm_txn_put_symlink(txn, path, content, &err), &err);
		model_add(model, 'l', path, content);
	} else if (dice < 9) {
		struct model_entry *entry = model_pick(model, "fl");
		if (!entry)
			return;
		put(txn, entry->path, content);
		entry->type = 'f';
		snprintf(entry->content, sizeof(entry->content), "%s", content);
	} else {
		const struct model_entry *entry = model_pick(model, "dnfl");
		if (!entry)
			return;
		snprintf(path, sizeof(path), "%s", entry->path);
		assert_ok(lm_txn_remove(txn, path, &err), &err);
		model_remove(model, path);
	}
}

static size_t count_lines(const struct lm_buf *text)
{
	size_t lines = 0;
	for (size_t i = 0; i < text->len; i++)
		lines += text->data[i] == '\n';
	return lines;
}

static void model_check(struct model *model, struct place *place)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_buf_done) struct lm_buf listing = LM_BUF(1 << 20);
	struct lm_manifest manifest;
	size_t lines = 1; /* the root */
	check(place, &manifest, &listing);
	begin(place, &txn);
	for (size_t i = 0; i < model->count; i++) {
		const struct model_entry *entry = &model->entries[i];
		struct lm_row row;
		assert_ok(lm_txn_lookup(txn, entry->path, &row, &err), &err);
		assert_int_equal(S_ISDIR(row.mode), entry->type == 'd' || entry->type == 'n');
		assert_int_equal(!!(row.flags & LM_ROW_MOUNTPOINT), entry->type == 'n');
		assert_int_equal(S_ISLNK(row.mode), entry->type == 'l');
		if (entry->type == 'l')
			assert_string_equal(row.symlink, entry->content);
		if (entry->type == 'f')
			assert_content(txn, entry->path, entry->content);
		lines += entry->type == 'n' ? 2 : 1; /* with its marker */
		lm_row_done(&row);
	}
	assert_int_equal(count_lines(&listing), lines);
}

static void test_random(void **state)
{
	static struct model model;
	CLEANUP(place_done) struct place place;
	struct lm_manifest manifest;
	unsigned seed = (unsigned)lm_now_us();
	printf("seed %u\n", seed);
	srand(seed);
	create(&place, &manifest);
	for (unsigned i = 0; i < MODEL_COMMITS; i++) {
		CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
		begin(&place, &txn);
		for (unsigned k = 0; k < MODEL_STEPS; k++)
			model_step(&model, txn);
		commit(&txn, &manifest);
		model_check(&model, &place);
	}
}

/*
 * The reflog in every state it may be found in
 */

static void put_reflog(struct place *place, const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf data = {0};
	read_whole(path, &data);
	assert_ok(place->storage->ops->put(place->storage, LM_REFLOG_NAME, data.data, data.len, &err), &err);
}

static unsigned count_refs(struct place *place)
{
	CLEANUP(lm_freep) char *path = copy_out(place->storage, LM_REFLOG_NAME);
	return (unsigned)tree_sql(path, "SELECT count(*) FROM refs");
}

static void publish_one(struct place *place, const char *content, struct lm_manifest *ret)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	begin(place, &txn);
	put(txn, "/f", content);
	commit(&txn, ret);
	check(place, ret, NULL);
}

static void test_reflog(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct lm_manifest first, second, third;
	create(&place, &first);
	check(&place, &first, NULL);
	assert_int_equal(count_refs(&place), 4);
	publish_one(&place, "two", &second);
	assert_int_equal(count_refs(&place), 6); /* certificate and metainfo are the same */
	CLEANUP(lm_freep) char *older = copy_out(place.storage, LM_REFLOG_NAME);
	publish_one(&place, "three", &third);
	assert_int_equal(count_refs(&place), 8);

	/* Behind the manifest: what that names is put in again. */
	put_reflog(&place, older);
	publish_one(&place, "four", &third);
	assert_int_equal(count_refs(&place), 10);

	/* Rewritten by garbage collection: what went stays away. */
	CLEANUP(lm_freep) char *swept = copy_out(place.storage, LM_REFLOG_NAME);
	assert_ok(lm_reflog_remove(swept, &first.catalog, 1, &err), &err);
	put_reflog(&place, swept);
	publish_one(&place, "five", &third);
	CLEANUP(lm_freep) char *after = copy_out(place.storage, LM_REFLOG_NAME);
	assert_false(reflog_names(after, &first.catalog, LM_REF_CATALOG));

	/* Lost or damaged: made anew from the manifest and the tags. */
	struct lm_hash previous = third.catalog;
	assert_ok(place.storage->ops->remove(place.storage, LM_REFLOG_NAME, &err), &err);
	publish_one(&place, "six", &third);
	assert_int_equal(
		count_refs(&place), 6); /* this one and the one before, their histories, certificate, metainfo */
	CLEANUP(lm_freep) char *rebuilt = copy_out(place.storage, LM_REFLOG_NAME);
	assert_true(reflog_names(rebuilt, &previous, LM_REF_CATALOG));
	assert_ok(place.storage->ops->put(place.storage, LM_REFLOG_NAME, "no database", 11, &err), &err);
	publish_one(&place, "seven", &third);
	assert_int_equal(count_refs(&place), 6);
}

/* A repository that has none of what is not required. */
static void test_bare(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct lm_manifest manifest;
	create(&place, &manifest);
	manifest.history = manifest.reflog = manifest.metainfo = (struct lm_hash){0};
	assert_ok(place.storage->ops->remove(place.storage, LM_REFLOG_NAME, &err), &err);
	sign_and_put(&place, &manifest);
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	begin(&place, &txn);
	put(txn, "/f", "text");
	commit(&txn, &manifest);
	assert_true(manifest.history.set && manifest.reflog.set && !manifest.metainfo.set);
	assert_int_equal(count_refs(&place), 4); /* both roots, certificate, history */
}

static void test_metainfo(void **state)
{
	static const char text[] = "{\"description\": \"mine\"}";
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_buf_done) struct lm_buf found = LM_BUF(LM_METAINFO_MAX);
	struct lm_manifest manifest, next;
	place_init(&place);
	assert_ok(lm_repo_create(place.storage, &keys, FQRN, 1, 300, text, &manifest, &err), &err);
	assert_true(manifest.garbage_collectable);
	publish_one(&place, "text", &next);
	assert_true(lm_hash_equal(&manifest.metainfo, &next.metainfo));
	assert_ok(lm_object_load(place.storage, &next.metainfo, LM_OBJECT_METAINFO, LM_COMPRESSION_ZLIB, &found, &err),
		&err);
	assert_string_equal(lm_buf_cstr(&found), text);

	CLEANUP(lm_freep) char *long_text = malloc(LM_METAINFO_MAX + 2);
	memset(long_text, ' ', LM_METAINFO_MAX + 1);
	long_text[LM_METAINFO_MAX + 1] = '\0';
	CLEANUP(place_done) struct place other;
	place_init(&other);
	assert_int_equal(lm_repo_create(other.storage, &keys, FQRN, 1, 300, long_text, NULL, &err), -EMSGSIZE);
}

/*
 * Publishing that fails, or is killed, at every call of the storage
 */

/* One of everything. */
static int change_and_commit(struct lm_storage *storage, const char *layer, unsigned n, struct lm_err *err)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(1 << 16);
	char text[32];
	snprintf(text, sizeof(text), "%u", n);
	int r = lm_txn_begin(storage, &keys, FQRN, &txn, err);
	if (r == 0)
		r = lm_txn_read(txn, "/old/deep/file", &content, err);
	if (r == 0)
		r = lm_txn_mkdirs(txn, "/new/deep", true, err);
	if (r == 0)
		r = lm_txn_put_data(txn, "/old/deep/file", text, strlen(text), err);
	if (r == 0)
		r = lm_txn_put_data(txn, "/new/deep/file", text, strlen(text), err);
	if (r == 0)
		r = lm_txn_graft(txn, "/old/layer", layer, err);
	if (r == 0)
		r = lm_txn_remove(txn, "/gone", err);
	return r < 0 ? r : lm_txn_commit(txn, NULL, err);
}

static void make_old(struct place *place, struct lm_manifest *ret)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	create(place, ret);
	begin(place, &txn);
	mkdirs(txn, "/old/deep", true);
	mkdirs(txn, "/gone/with", true);
	put(txn, "/old/deep/file", "old");
	put(txn, "/gone/with/file", "old");
	commit(&txn, ret);
}

static void test_faults(void **state)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_buf_done) struct lm_buf before = {0};
	struct lm_manifest old, found;
	make_old(&place, &old);
	CLEANUP(lm_freep) char *layer = make_layer(&place, "/old/layer", true, 3);
	read_manifest(place.storage, &before);
	unsigned failures = 0, ahead = 0;
	for (int n = 0;; n++) {
		struct lm_err err = LM_ERR_INIT;
		struct faulty faulty = {.storage.ops = &faulty_ops, .inner = place.storage, .fail_at = (unsigned)n};
		int r = change_and_commit(&faulty.storage, layer, 7, &err);
		if (r == 0)
			break;
		failures++;
		assert_int_equal(r, -EIO);
		assert_non_null(strstr(err.msg, "injected"));
		CLEANUP(lm_buf_done) struct lm_buf after = {0};
		read_manifest(place.storage, &after);
		assert_int_equal(before.len, after.len);
		assert_memory_equal(before.data, after.data, after.len);
		ahead += !check_killed(&place, &found, NULL);
	}
	assert_true(ahead > 0 && ahead < failures);
	assert_true(failures > 15);
	check(&place, &found, NULL);
	assert_int_equal(found.revision, old.revision + 1);
}

/* The same for making a repository: it is there with the last call only. */
static void test_create_faults(void **state)
{
	CLEANUP(place_done) struct place place;
	struct lm_manifest manifest;
	place_init(&place);
	for (int n = 0;; n++) {
		struct lm_err err = LM_ERR_INIT;
		struct faulty faulty = {.storage.ops = &faulty_ops, .inner = place.storage, .fail_at = (unsigned)n};
		int r = lm_repo_create(&faulty.storage, &keys, FQRN, 1, 240, NULL, &manifest, &err);
		assert_int_equal(place.storage->ops->has(place.storage, LM_MANIFEST_NAME, &err), r == 0);
		if (r == 0)
			break;
		assert_int_equal(r, -EIO);
	}
	check(&place, &manifest, NULL);
}

/* A publisher that dies before its n-th call of the storage: whether it came to its end. */
static bool die_at(struct place *place, const char *layer, int n)
{
	struct lm_err err = LM_ERR_INIT;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct faulty faulty = {.storage.ops = &faulty_ops, .fail_at = (unsigned)n, .kill = true};
		int r = lm_storage_dir_open(place->dir, false, &faulty.inner, &err);
		if (r == 0)
			r = change_and_commit(&faulty.storage, layer, (unsigned)n, &err);
		_exit(r == 0 ? 0 : 1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
	return !WIFSIGNALED(status);
}

static unsigned scratch_files(const struct place *place)
{
	unsigned count = 0;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/data/txn", place->dir);
	DIR *dir = opendir(path);
	assert_non_null(dir);
	for (const struct dirent *entry; (entry = readdir(dir));)
		count += entry->d_name[0] != '.';
	closedir(dir);
	return count;
}

static void test_killed_at_each_step(void **state)
{
	CLEANUP(place_done) struct place place;
	struct lm_manifest last, found;
	make_old(&place, &last);
	CLEANUP(lm_freep) char *layer = make_layer(&place, "/old/layer", true, 3);
	unsigned deaths = 0, ahead = 0;
	for (bool done = false; !done; deaths++) {
		struct lm_err err = LM_ERR_INIT;
		lm_storage_freep(&place.storage); /* the lock is the child's */
		done = die_at(&place, layer, (int)deaths);
		assert_ok(lm_storage_dir_open(place.dir, false, &place.storage, &err), &err);
		ahead += !check_killed(&place, &found, NULL);
		assert_int_equal(found.revision, last.revision + done);
		assert_ok(change_and_commit(place.storage, layer, 1000 + deaths, &err), &err);
		check(&place, &last, NULL);
		assert_int_equal(last.revision, found.revision + 1);
		assert_int_equal(scratch_files(&place), 0);
	}
	printf("killed before each of %u calls, %u times with the reflog ahead\n", deaths - 1, ahead);
	assert_int_equal(ahead, 1);
}

static void kill_one(struct place *place, const char *layer, unsigned n)
{
	struct lm_err err = LM_ERR_INIT;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct lm_storage *storage = NULL;
		int r = lm_storage_dir_open(place->dir, false, &storage, &err);
		for (unsigned i = 0; r == 0; i++)
			r = change_and_commit(storage, layer, n * 1000 + i, &err);
		_exit(1);
	}
	usleep((useconds_t)(rand() % 150000));
	assert_int_equal(kill(pid, SIGKILL), 0);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status)); /* it did not fail by itself */
}

static void test_killed(void **state)
{
	enum { KILLS = 12 };
	CLEANUP(place_done) struct place place;
	struct lm_manifest last, found;
	make_old(&place, &last);
	CLEANUP(lm_freep) char *layer = make_layer(&place, "/old/layer", true, 3);
	/* The lock is the child's from here on. */
	lm_storage_freep(&place.storage);
	unsigned published = 0, ahead = 0;
	for (unsigned n = 0; n < KILLS; n++) {
		struct lm_err err = LM_ERR_INIT;
		kill_one(&place, layer, n);
		assert_ok(lm_storage_dir_open(place.dir, false, &place.storage, &err), &err);
		ahead += !check_killed(&place, &found, NULL);
		assert_true(found.revision >= last.revision);
		published += found.revision > last.revision;
		assert_ok(change_and_commit(place.storage, layer, 1000000 + n, &err), &err);
		check(&place, &last, NULL);
		assert_int_equal(last.revision, found.revision + 1);
		lm_storage_freep(&place.storage);
	}
	printf("killed %u times, %u of them after a new revision, %u with the reflog ahead\n", KILLS, published, ahead);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create),
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_tree),
		cmocka_unit_test(test_nothing_changed),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_graft),
		cmocka_unit_test(test_graft_stored),
		cmocka_unit_test(test_graft_with_nested),
		cmocka_unit_test(test_missing_objects),
		cmocka_unit_test(test_history),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_reflog),
		cmocka_unit_test(test_bare),
		cmocka_unit_test(test_metainfo),
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_create_faults),
		cmocka_unit_test(test_killed_at_each_step),
		cmocka_unit_test(test_killed),
	};
	return cmocka_run_group_tests(tests, publish_setup, publish_teardown);
}
