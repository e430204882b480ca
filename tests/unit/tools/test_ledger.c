#include "base/file.h"
#include "base/str.h"
#include "convert/ledger.h"
#include "convert/packing.h"
#include "convert_test.h"

#include <pthread.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <time.h>

#define FQRN "test.example.org"

static struct lm_key *key, *other_key;

struct fixture {
	char dir[64], path[96], damaged[112];
	struct lm_storage *storage;
	struct lm_ledger_owner owner;
	struct lm_ledger *ledger;
	struct lm_ledger_reader *reader;
};

static int setup_keys(void **state)
{
	(void)state;
	return lm_key_generate(2048, &key, NULL) < 0 || lm_key_generate(2048, &other_key, NULL) < 0;
}

static int teardown_keys(void **state)
{
	(void)state;
	lm_key_free(key);
	lm_key_free(other_key);
	return 0;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	*state = f;
	strcpy(f->dir, "/tmp/lamella-test-XXXXXX");
	if (!mkdtemp(f->dir) || lm_storage_dir_open(f->dir, true, &f->storage, NULL) < 0)
		return -1;
	snprintf(f->path, sizeof(f->path), "%s/state/ledger/x.db", f->dir);
	snprintf(f->damaged, sizeof(f->damaged), "%s.damaged", f->path);
	f->owner = (struct lm_ledger_owner){f->storage, false, key, FQRN, LM_HASH_SHAKE128};
	return 0;
}

static void close_ledger(struct fixture *f)
{
	lm_ledger_reader_freep(&f->reader);
	lm_ledger_freep(&f->ledger);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	close_ledger(f);
	lm_storage_free(f->storage);
	int r = lm_remove_tree(AT_FDCWD, f->dir, NULL);
	free(f);
	return r;
}

static void open_ledger(struct fixture *f)
{
	struct lm_err err = LM_ERR_INIT;
	close_ledger(f);
	if (lm_ledger_open(f->path, &f->owner, &f->ledger, &err) < 0 ||
		lm_ledger_reader_new(f->ledger, &f->reader, &err) < 0)
		fail_msg("%s", lm_err_text(&err));
}

static bool exists(const char *path)
{
	return access(path, F_OK) == 0;
}

/* --- contents and the objects they become: any will do --- */

static void make(unsigned number, struct lm_content *content, struct lm_hash *hash)
{
	char text[32];
	snprintf(text, sizeof(text), "content %u", number);
	assert_int_equal(lm_content_of(text, strlen(text), content, NULL), 0);
	assert_int_equal(lm_hash_data(LM_HASH_SHAKE128, text, strlen(text), hash, NULL), 0);
}

static void store(struct fixture *f, const struct lm_hash *hash, enum lm_object_kind kind)
{
	char path[LM_OBJECT_PATH_MAX];
	assert_int_equal(f->storage->ops->put(f->storage, lm_object_path(hash, kind, path), "x", 1, NULL), 0);
}

static void sweep(struct fixture *f, const struct lm_hash *hash)
{
	char path[LM_OBJECT_PATH_MAX];
	assert_int_equal(f->storage->ops->remove(f->storage, lm_object_path(hash, LM_OBJECT_FILE, path), NULL), 0);
}

static void add(struct fixture *f, unsigned number)
{
	struct lm_content content;
	struct lm_hash hash;
	make(number, &content, &hash);
	store(f, &hash, LM_OBJECT_FILE);
	lm_ledger_add(f->ledger, &content, LM_OBJECT_FILE, &hash, number);
}

/* What is found is right. */
static bool found(struct fixture *f, unsigned number)
{
	struct lm_content content;
	struct lm_hash hash, there;
	uint64_t packed;
	make(number, &content, &hash);
	if (!lm_ledger_find(f->reader, &content, LM_OBJECT_FILE, &there, &packed))
		return false;
	assert_true(lm_hash_equal(&hash, &there));
	assert_int_equal(packed, number);
	return true;
}

/* --- tests --- */

static void test_content(void **state)
{
	struct fixture *f = *state;
	struct lm_content content;
	struct lm_hash hash;
	uint64_t packed;
	open_ledger(f);
	assert_false(found(f, 1));
	add(f, 1);
	assert_true(found(f, 1)); /* before it is written */
	assert_false(found(f, 2));
	open_ledger(f);
	assert_true(found(f, 1)); /* and after that */
	make(1, &content, &hash);
	assert_false(lm_ledger_find(f->reader, &content, LM_OBJECT_CHUNK, &hash, &packed)); /* not stored as one */
	store(f, &hash, LM_OBJECT_CHUNK);
	assert_true(lm_ledger_find(f->reader, &content, LM_OBJECT_CHUNK, &hash, &packed));
	content.size++;
	assert_false(lm_ledger_find(f->reader, &content, LM_OBJECT_FILE, &hash, &packed));
	assert_false(exists(f->damaged));
}

static void test_swept(void **state)
{
	struct fixture *f = *state;
	struct lm_content content;
	struct lm_hash hash;
	open_ledger(f);
	for (unsigned i = 0; i < 3; i++)
		add(f, i);
	make(1, &content, &hash);
	sweep(f, &hash);
	assert_true(found(f, 0));
	assert_false(found(f, 1));
	open_ledger(f);
	assert_false(found(f, 1));
	assert_true(found(f, 2));
	add(f, 1);
	open_ledger(f);
	assert_true(found(f, 1));
}

static void change(const struct fixture *f, const char *sql)
{
	sqlite3 *db = NULL;
	char *why = NULL;
	assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
	if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
		fail_msg("%s", why);
	assert_true(sqlite3_total_changes(db) > 0);
	sqlite3_close(db);
}

static const struct lm_ledger_layer layer = {.size = 4096, .tar_bytes = 1, .files = 2, .file_bytes = 3, .losses = 4};

static struct lm_ledger_layer make_layer(void)
{
	struct lm_ledger_layer made = layer;
	struct lm_content content;
	make(100, &content, &made.root);
	return made;
}

/* Another object is there, and the row names it: but who wrote that did not have the key. */
static void test_wrong_rows(void **state)
{
	static const char *const changes[] = {
		"UPDATE content SET hash = (SELECT hash FROM content c WHERE c.packed = 2) WHERE packed = 1",
		("UPDATE content SET code = (SELECT code FROM content c WHERE c.packed = 2), "
		 "hash = (SELECT hash FROM content c WHERE c.packed = 2), packed = 2 WHERE packed = 1"),
		"UPDATE content SET size = size + 1 WHERE packed = 1",
		"UPDATE content SET run = run + 1 WHERE packed = 1",
		"UPDATE content SET code = zeroblob(16) WHERE packed = 1",
		"UPDATE content SET code = x'00' WHERE packed = 1",
		"UPDATE content SET hash = 'text' WHERE packed = 1",
		"UPDATE content SET algo = 0 WHERE packed = 1",
	};
	struct fixture *f = *state;
	for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
		open_ledger(f);
		add(f, 1);
		add(f, 2);
		close_ledger(f);
		change(f, changes[i]);
		open_ledger(f);
		assert_false(found(f, 1));
		assert_true(found(f, 2));
	}
}

static void test_layers(void **state)
{
	struct fixture *f = *state;
	const struct lm_ledger_layer made = make_layer();
	struct lm_ledger_layer there;
	open_ledger(f);
	assert_false(lm_ledger_layer(f->ledger, "one", &there));
	lm_ledger_add_layer(f->ledger, "one", &made);
	lm_ledger_add_layer(f->ledger, "two", &made);
	open_ledger(f);
	assert_true(lm_ledger_layer(f->ledger, "one", &there));
	assert_true(lm_hash_equal(&there.root, &made.root));
	assert_int_equal(there.size, 4096);
	assert_int_equal(there.tar_bytes, 1);
	assert_int_equal(there.files, 2);
	assert_int_equal(there.file_bytes, 3);
	assert_int_equal(there.losses, 4);
	assert_false(lm_ledger_layer(f->ledger, "on", &there));
	lm_ledger_drop_layer(f->ledger, "one");
	assert_false(lm_ledger_layer(f->ledger, "one", &there));
	close_ledger(f);
	change(f, "UPDATE layers SET value = replace(value, '4096', '4097')");
	open_ledger(f);
	assert_false(lm_ledger_layer(f->ledger, "two", &there));
	f->owner.algo = LM_HASH_SHA1; /* the repository has changed its mind */
	open_ledger(f);
	lm_ledger_add_layer(f->ledger, "two", &made);
	assert_false(lm_ledger_layer(f->ledger, "two", &there));
}

static int peek(struct fixture *f, struct lm_ledger **ret)
{
	*ret = NULL;
	return lm_ledger_peek(f->path, &f->owner, ret, NULL);
}

static bool peek_finds(struct fixture *f, const char *name)
{
	CLEANUP(lm_ledger_freep) struct lm_ledger *ledger = NULL;
	struct lm_ledger_layer there;
	assert_int_equal(peek(f, &ledger), 0);
	return lm_ledger_layer(ledger, name, &there);
}

/* Beside the one who has it open, and without; what it can't believe it leaves where it is. */
static void test_peek(void **state)
{
	struct fixture *f = *state;
	const struct lm_ledger_layer made = make_layer();
	CLEANUP(lm_ledger_freep) struct lm_ledger *ledger = NULL;
	assert_int_equal(peek(f, &ledger), -ENOENT);
	assert_false(exists(f->path));
	open_ledger(f);
	lm_ledger_add_layer(f->ledger, "one", &made);
	assert_true(peek_finds(f, "one"));
	assert_false(peek_finds(f, "two"));
	lm_ledger_add_layer(f->ledger, "two", &made);
	assert_true(peek_finds(f, "two"));
	close_ledger(f);
	assert_true(peek_finds(f, "two"));
	change(f, "UPDATE runs SET boot = 'another'");
	assert_false(peek_finds(f, "two"));
	f->owner.key = other_key;
	assert_int_equal(peek(f, &ledger), -EPERM);
	assert_int_equal(truncate(f->path, 5000), 0);
	assert_int_equal(peek(f, &ledger), -EPERM);
	assert_int_equal(truncate(f->path, 0), 0);
	assert_int_equal(peek(f, &ledger), -EPERM);
	assert_true(exists(f->path));
	assert_false(exists(f->damaged));
}

/* What a killed process had written stays; a restart of the machine may have emptied what was not made durable. */
static void test_restart(void **state)
{
	struct fixture *f = *state;
	const struct lm_ledger_layer made = make_layer();
	struct lm_ledger_layer there;
	open_ledger(f);
	add(f, 1);
	lm_ledger_add_layer(f->ledger, "one", &made);
	lm_ledger_published(f->ledger);
	open_ledger(f);
	add(f, 2);
	lm_ledger_add_layer(f->ledger, "two", &made);
	open_ledger(f);
	assert_true(found(f, 2));
	close_ledger(f);
	change(f, "UPDATE runs SET boot = 'another'");
	open_ledger(f);
	assert_true(found(f, 1));
	assert_true(lm_ledger_layer(f->ledger, "one", &there));
	assert_false(found(f, 2));
	assert_false(lm_ledger_layer(f->ledger, "two", &there));
}

static void test_others(void **state)
{
	struct fixture *f = *state;
	struct lm_err err = LM_ERR_INIT;
	open_ledger(f);
	add(f, 1);
	struct lm_ledger *second = NULL;
	assert_int_equal(lm_ledger_open(f->path, &f->owner, &second, &err), -EBUSY);
	f->owner.key = other_key;
	open_ledger(f);
	assert_false(found(f, 1));
	assert_true(exists(f->damaged));
	add(f, 1);
	f->owner.fqrn = "other.example.org";
	open_ledger(f);
	assert_false(found(f, 1));
	close_ledger(f);
	change(f, "PRAGMA user_version = 2; CREATE TABLE more (x); INSERT INTO more VALUES (1)");
	unlink(f->damaged);
	open_ledger(f);
	assert_true(exists(f->damaged));
	close_ledger(f);
	assert_int_equal(truncate(f->path, (off_t)LM_LEDGER_BYTES_MAX + 1), 0);
	unlink(f->damaged);
	open_ledger(f);
	assert_false(exists(f->damaged));
	add(f, 1);
	assert_true(found(f, 1));
}

static void put_bytes(const char *path, off_t at, const void *data, size_t len)
{
	CLEANUP(lm_closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(lm_pwrite_all(fd, data, len, at, NULL), 0);
}

/* Wherever it is hit: what is found is right, nothing fails, and the next run remembers again. */
static void test_damage(void **state)
{
	enum { CONTENTS = 2000, ROUNDS = 60, ASKED = 200 };
	struct fixture *f = *state;
	const char *text = getenv("LM_SEED");
	unsigned seed = text ? (unsigned)strtoul(text, NULL, 10) : (unsigned)time(NULL), aside = 0;
	print_message("LM_SEED=%u\n", seed);
	open_ledger(f);
	for (unsigned i = 0; i < CONTENTS; i++)
		add(f, i);
	close_ledger(f);
	CLEANUP(lm_buf_done) struct lm_buf good = LM_BUF(16 << 20);
	assert_int_equal(lm_file_read(AT_FDCWD, f->path, &good, NULL), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		uint8_t noise[3000];
		assert_int_equal(lm_file_replace(AT_FDCWD, f->path, good.data, good.len, 0600, 0, NULL), 0);
		for (size_t i = 0; i < sizeof(noise); i++)
			noise[i] = (uint8_t)rand_r(&seed);
		if (round % 4 == 0)
			assert_int_equal(truncate(f->path, (off_t)((unsigned)rand_r(&seed) % good.len)), 0);
		else
			put_bytes(f->path, round == 1 ? 0 : (off_t)((unsigned)rand_r(&seed) % good.len), noise,
				sizeof(noise));
		open_ledger(f);
		for (unsigned i = 0; i < ASKED; i++)
			(void)found(f, (unsigned)rand_r(&seed) % CONTENTS);
		add(f, CONTENTS + round);
		assert_true(found(f, CONTENTS + round));
		open_ledger(f);
		close_ledger(f);
		aside += exists(f->damaged);
		unlink(f->damaged);
		open_ledger(f);
		add(f, CONTENTS + round);
		assert_true(found(f, CONTENTS + round));
		close_ledger(f);
	}
	assert_true(aside > ROUNDS / 8);
}

/* A directory that can't be written: an error once, no more. */
static void test_no_place(void **state)
{
	struct fixture *f = *state;
	struct lm_ledger *ledger = NULL;
	assert_true(lm_ledger_open("/proc/none/ledger/x.db", &f->owner, &ledger, NULL) < 0);
	assert_null(ledger);
}

/* --- many threads --- */

struct worker {
	struct fixture *f;
	unsigned seed, hits;
};

static void *work(void *arg)
{
	enum { TURNS = 4000, CONTENTS = 3000 };
	struct worker *w = arg;
	struct fixture mine = *w->f;
	mine.reader = NULL;
	assert_int_equal(lm_ledger_reader_new(mine.ledger, &mine.reader, NULL), 0);
	for (unsigned i = 0; i < TURNS; i++) {
		unsigned number = (unsigned)rand_r(&w->seed) % CONTENTS;
		if (found(&mine, number))
			w->hits++;
		else
			add(&mine, number);
	}
	lm_ledger_reader_free(mine.reader);
	return NULL;
}

static void test_threads(void **state)
{
	enum { THREADS = 4 };
	struct fixture *f = *state;
	struct worker workers[THREADS];
	pthread_t threads[THREADS];
	const struct lm_ledger_layer made = make_layer();
	struct lm_ledger_layer there;
	open_ledger(f);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){f, i + 1, 0};
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < 50; i++) {
		char name[16];
		snprintf(name, sizeof(name), "layer %u", i);
		lm_ledger_add_layer(f->ledger, name, &made);
		assert_true(lm_ledger_layer(f->ledger, name, &there));
	}
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_true(workers[0].hits > 1000);
	open_ledger(f);
	unsigned known = 0;
	for (unsigned i = 0; i < 3000; i++)
		known += found(f, i);
	assert_true(known > 2900);
}

/* --- packing --- */

static struct lm_packing_stats pack(struct fixture *f, const char *text, struct lm_hash *ret)
{
	CLEANUP(lm_packing_freep) struct lm_packing *packing = NULL;
	struct lm_packing_stats stats;
	assert_int_equal(lm_packing_new(f->storage, LM_HASH_SHAKE128, 2, 1 << 20, &packing, NULL), 0);
	assert_int_equal(lm_packing_use(packing, f->ledger, NULL), 0);
	assert_int_equal(lm_packing_data(packing, text, strlen(text), ret, NULL), 0);
	lm_packing_stats(packing, &stats);
	return stats;
}

static void test_packing(void **state)
{
	struct fixture *f = *state;
	struct lm_hash first, again;
	char path[LM_OBJECT_PATH_MAX];
	open_ledger(f);
	struct lm_packing_stats stats = pack(f, "some text", &first);
	assert_int_equal(stats.spared_bytes, 0);
	assert_int_equal(stats.objects, 1);
	open_ledger(f);
	stats = pack(f, "some text", &again);
	assert_int_equal(stats.spared_bytes, 9);
	assert_int_equal(stats.known_bytes, 9);
	assert_int_equal(stats.objects, 0);
	assert_true(lm_hash_equal(&first, &again));
	sweep(f, &first);
	stats = pack(f, "some text", &again);
	assert_int_equal(stats.spared_bytes, 0);
	assert_int_equal(stats.objects, 1);
	assert_true(lm_hash_equal(&first, &again));
	assert_int_equal(f->storage->ops->has(f->storage, lm_object_path(&first, LM_OBJECT_FILE, path), NULL), 1);
}

/* --- presence --- */

struct far { /* a storage to which each question is a request */
	struct lm_storage storage;
	unsigned asked, listed;
	bool broken;
};

static int far_has(struct lm_storage *storage, const char *path, struct lm_err *err)
{
	struct far *far = (struct far *)storage;
	(void)err;
	far->asked++;
	return strstr(path, "00") != NULL;
}

static int far_list(struct lm_storage *storage, const char *dir, lm_storage_list_fn *fn, void *arg, struct lm_err *err)
{
	struct far *far = (struct far *)storage;
	char name[64];
	far->listed++;
	assert_string_equal(dir, "data/ab");
	if (far->broken)
		return lm_err_set(err, -EIO, "no");
	for (int i = 90; i >= 0; i -= 10) { /* in no order */
		snprintf(name, sizeof(name), "%038d-shake128%s", i, i >= 50 ? "P" : "");
		int r = fn(arg, name, 1);
		if (r != 0)
			return r;
	}
	return fn(arg, "noise", 1);
}

static struct lm_hash far_hash(unsigned number)
{
	char text[64];
	struct lm_hash hash;
	snprintf(text, sizeof(text), "ab%038u-shake128", number);
	assert_int_equal(lm_hash_parse(text, strlen(text), &hash, NULL), 0);
	return hash;
}

static void test_presence(void **state)
{
	static const struct lm_storage_ops ops = {.has = far_has, .list = far_list};
	(void)state;
	for (int broken = 0; broken < 2; broken++) {
		struct far far = {.storage.ops = &ops, .broken = broken};
		CLEANUP(lm_presence_freep) struct lm_presence *presence = NULL;
		assert_int_equal(lm_presence_new(&far.storage, true, &presence, NULL), 0);
		for (unsigned i = 0; i < 100; i++) {
			const struct lm_hash hash = far_hash(i);
			int r = lm_presence_ask(presence, &hash, LM_OBJECT_FILE, NULL);
			if (!broken && i >= 4)
				assert_int_equal(r, i % 10 == 0 && i < 50);
			if (!broken && i >= 4)
				assert_int_equal(lm_presence_ask(presence, &hash, LM_OBJECT_CHUNK, NULL),
					i % 10 == 0 && i >= 50);
		}
		assert_int_equal(far.listed, 1);
		assert_int_equal(far.asked, broken ? 100 : 4);
		const struct lm_hash hash = far_hash(11);
		if (broken)
			continue;
		lm_presence_note(presence, &hash, LM_OBJECT_FILE);
		lm_presence_note(presence, &hash, LM_OBJECT_FILE);
		assert_int_equal(lm_presence_ask(presence, &hash, LM_OBJECT_FILE, NULL), 1);
		assert_int_equal(lm_presence_ask(presence, &hash, LM_OBJECT_CHUNK, NULL), 0);
		assert_int_equal(far.asked, 4);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_content, setup, teardown),
		cmocka_unit_test_setup_teardown(test_swept, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_rows, setup, teardown),
		cmocka_unit_test_setup_teardown(test_layers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_peek, setup, teardown),
		cmocka_unit_test_setup_teardown(test_restart, setup, teardown),
		cmocka_unit_test_setup_teardown(test_others, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damage, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_place, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
		cmocka_unit_test_setup_teardown(test_packing, setup, teardown),
		cmocka_unit_test(test_presence),
	};
	return cmocka_run_group_tests(tests, setup_keys, teardown_keys);
}
