#include "repo/storage.h"
#include "repo_test.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define OBJECT "data/ab/cdef0123456789abcdef0123456789abcdef01"

/* Stands before the C library's openat(2), to be a file system that has no nameless files. */
static _Atomic(bool) no_tmpfile;

int openat(int dirfd, const char *path, int flags, ...)
{
	va_list args;
	va_start(args, flags);
	unsigned mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, unsigned) : 0;
	va_end(args);
	if (no_tmpfile && (flags & O_TMPFILE) == O_TMPFILE) {
		errno = EOPNOTSUPP;
		return -1;
	}
	return (int)syscall(SYS_openat, dirfd, path, flags, mode);
}

struct place {
	char *dir;
	struct lm_storage *storage;
};

static void place_init(struct place *place)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *base = temp_dir();
	place->dir = lm_str_printf("%s/deep/a.example.org", base);
	place->storage = NULL;
	assert_ok(lm_storage_dir_open(place->dir, true, &place->storage, &err), &err);
}

static void place_done(struct place *place)
{
	lm_storage_free(place->storage);
	*strstr(place->dir, "/deep/") = '\0';
	temp_dir_remove(&place->dir);
}

static mode_t mode_of(const struct place *place, const char *path)
{
	struct stat st;
	CLEANUP(lm_freep) char *full = lm_str_printf("%s/%s", place->dir, path);
	return stat(full, &st) < 0 ? 0 : st.st_mode & 07777;
}

static int put(struct place *place, const char *path, const char *text)
{
	return place->storage->ops->put(place->storage, path, text, strlen(text), NULL);
}

static void assert_content(struct place *place, const char *path, const char *text)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(1 << 20);
	assert_ok(place->storage->ops->get(place->storage, path, &buf, &err), &err);
	assert_string_equal(lm_buf_cstr(&buf), text);
}

static unsigned entries(const struct place *place, const char *path)
{
	CLEANUP(lm_freep) char *full = lm_str_printf("%s/%s", place->dir, path);
	DIR *dir = opendir(full);
	assert_non_null(dir);
	unsigned count = 0;
	for (struct dirent *entry; (entry = readdir(dir));)
		count += entry->d_name[0] != '.' || strlen(entry->d_name) > 2;
	closedir(dir);
	return count;
}

/* Everything can be read by a web server of another user, whatever the umask. */
static void test_layout(void **state)
{
	mode_t before = umask(077);
	CLEANUP(place_done) struct place place;
	place_init(&place);
	assert_int_equal(mode_of(&place, ""), 0755);
	assert_int_equal(mode_of(&place, "data"), 0755);
	assert_int_equal(mode_of(&place, "data/00"), 0755);
	assert_int_equal(mode_of(&place, "data/ff"), 0755);
	assert_int_equal(mode_of(&place, "data/txn"), 0755);
	assert_int_equal(entries(&place, "data"), 257);
	assert_int_equal(put(&place, OBJECT, "x"), 0);
	assert_int_equal(put(&place, ".cvmfspublished", "x"), 0);
	assert_int_equal(mode_of(&place, OBJECT), 0644);
	assert_int_equal(mode_of(&place, ".cvmfspublished"), 0644);
	umask(before);
	const char *scratch = place.storage->ops->scratch(place.storage);
	assert_true(scratch[0] == '/' && lm_str_ends(scratch, "/data/txn") && access(scratch, W_OK) == 0);
}

static void test_open(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	place_init(&place);
	CLEANUP(lm_storage_freep) struct lm_storage *again = NULL;
	assert_ok(lm_storage_dir_open(place.dir, true, &again, &err), &err);
	CLEANUP(lm_freep) char *absent = lm_str_printf("%s/absent", place.dir);
	struct lm_storage *none = NULL;
	assert_int_equal(lm_storage_dir_open(absent, false, &none, &err), -ENOENT);
	assert_non_null(strstr(err.msg, absent));
	assert_int_equal(put(&place, ".file", "x"), 0);
	CLEANUP(lm_freep) char *file = lm_str_printf("%s/.file", place.dir);
	assert_int_equal(lm_storage_dir_open(file, true, &none, &err), -ENOTDIR);
	assert_null(none);
}

static void test_put_get(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	place_init(&place);
	const struct lm_storage_ops *ops = place.storage->ops;
	assert_int_equal(ops->has(place.storage, OBJECT, &err), 0);
	assert_int_equal(put(&place, OBJECT, "content"), 0);
	assert_int_equal(ops->has(place.storage, OBJECT, &err), 1);
	assert_content(&place, OBJECT, "content");
	assert_ok(ops->sync(place.storage, &err), &err);

	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(5);
	assert_int_equal(lm_buf_str(&buf, "be"), 0);
	assert_int_equal(ops->get(place.storage, "data/ab/none", &buf, &err), -ENOENT);
	assert_int_equal(ops->get(place.storage, OBJECT, &buf, &err), -EMSGSIZE);
	assert_string_equal(lm_buf_cstr(&buf), "be");
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, place.dir, &err);
	assert_int_equal(ops->get_file(place.storage, "data/ab/none", fd, &err), -ENOENT);
}

/* An object's name says what it holds: a second put leaves it alone. Other names are replaced. */
static void check_idempotent(void)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	place_init(&place);
	assert_int_equal(put(&place, OBJECT, "first"), 0);
	assert_int_equal(put(&place, OBJECT, "second"), 0);
	assert_content(&place, OBJECT, "first");
	assert_int_equal(put(&place, ".cvmfspublished", "first"), 0);
	assert_int_equal(put(&place, ".cvmfspublished", "second"), 0);
	assert_content(&place, ".cvmfspublished", "second");
	assert_int_equal(put(&place, "sub/dir/file", "made on the way"), 0);
	assert_content(&place, "sub/dir/file", "made on the way");
	assert_int_equal(place.storage->ops->put_file(place.storage, "data/ab/bad", INT32_MAX, &err), -EBADF);
	assert_int_equal(put(&place, "data/ab", "a folder is in the way"), 0);
	assert_int_equal(put(&place, "sub/dir", "a folder is in the way"), -EISDIR);
	assert_int_equal(entries(&place, "data/txn"), 0);
	assert_int_equal(entries(&place, "data/ab"), 1);
	assert_int_equal(mode_of(&place, OBJECT), 0644);
}

static void test_idempotent(void **state)
{
	check_idempotent();
}

static void test_without_nameless_files(void **state)
{
	no_tmpfile = true;
	check_idempotent();
	no_tmpfile = false;
}

static void test_files(void **state)
{
	enum { SIZE = 3 << 20 };
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	place_init(&place);
	CLEANUP(lm_freep) uint8_t *content = malloc(SIZE);
	CLEANUP(lm_freep) uint8_t *back = malloc(SIZE + 4);
	for (size_t i = 0; i < SIZE; i++)
		content[i] = (uint8_t)(i * i >> 8);
	CLEANUP(lm_closep) int in = lm_file_tmp(AT_FDCWD, place.dir, &err);
	CLEANUP(lm_closep) int out = lm_file_tmp(AT_FDCWD, place.dir, &err);
	assert_ok(lm_write_all(in, content, SIZE, &err), &err);
	assert_ok(lm_write_all(out, "head", 4, &err), &err);
	/* The source's position does not matter, the target's does. */
	assert_ok(place.storage->ops->put_file(place.storage, OBJECT, in, &err), &err);
	assert_ok(place.storage->ops->get_file(place.storage, OBJECT, out, &err), &err);
	assert_int_equal(lseek(out, 0, SEEK_END), SIZE + 4);
	assert_ok(lm_pread_all(out, back, SIZE + 4, 0, &err), &err);
	assert_memory_equal(back, "head", 4);
	assert_memory_equal(back + 4, content, SIZE);
	/* From a file system to which nothing can be copied inside the kernel. */
	CLEANUP(lm_closep) int proc = open("/proc/self/status", O_RDONLY);
	assert_ok(place.storage->ops->put_file(place.storage, "status", proc, &err), &err);
	CLEANUP(lm_buf_done) struct lm_buf status = LM_BUF(1 << 20);
	assert_ok(place.storage->ops->get(place.storage, "status", &status, &err), &err);
	assert_non_null(strstr(lm_buf_cstr(&status), "Name:"));
	assert_int_equal(place.storage->ops->put_file(place.storage, "bad", INT32_MAX, &err), -EBADF);
	assert_int_equal(place.storage->ops->has(place.storage, "bad", &err), 0);
}

static void test_paths_outside(void **state)
{
	static const char *const bad[] = {"", "/etc/x", "../x", "data/../../x", "data/", "data/ab/.."};
	CLEANUP(place_done) struct place place;
	place_init(&place);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(10);
		assert_int_equal(put(&place, bad[i], "x"), -EINVAL);
		assert_int_equal(place.storage->ops->has(place.storage, bad[i], NULL), -EINVAL);
		assert_int_equal(place.storage->ops->get(place.storage, bad[i], &buf, NULL), -EINVAL);
		assert_int_equal(place.storage->ops->get_file(place.storage, bad[i], 1, NULL), -EINVAL);
	}
}

/* A repository that other tools made may lack data/txn and folders of objects. */
static void test_missing_folders(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	place_init(&place);
	CLEANUP(lm_freep) char *data = lm_str_printf("%s/data", place.dir);
	assert_ok(lm_remove_tree(AT_FDCWD, data, &err), &err);
	assert_int_equal(place.storage->ops->has(place.storage, OBJECT, &err), 0);
	assert_int_equal(put(&place, OBJECT, "x"), 0);
	assert_content(&place, OBJECT, "x");
	assert_ok(lm_remove_tree(AT_FDCWD, data, &err), &err);
	assert_ok(place.storage->ops->lock(place.storage, NULL, &err), &err);
	assert_int_equal(access(place.storage->ops->scratch(place.storage), W_OK), 0);
}

static int fd_count(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static void test_lock(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	place_init(&place);
	CLEANUP(lm_storage_freep) struct lm_storage *second = NULL;
	assert_ok(lm_storage_dir_open(place.dir, false, &second, &err), &err);
	assert_ok(place.storage->ops->lock(place.storage, NULL, &err), &err);
	assert_ok(place.storage->ops->lock(place.storage, NULL, &err), &err); /* held already */
	int before = fd_count();
	assert_int_equal(second->ops->lock(second, NULL, &err), -EBUSY);
	CLEANUP(lm_freep) char *who = lm_str_printf("process %d is publishing", (int)getpid());
	assert_non_null(strstr(err.msg, who));
	assert_int_equal(fd_count(), before);
	lm_storage_free(place.storage);
	place.storage = NULL;
	assert_ok(second->ops->lock(second, NULL, &err), &err);
}

/* The child takes the lock, says so, and waits to be killed. */
static pid_t start_holder(const char *dir)
{
	int ready[2];
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct lm_storage *storage = NULL;
		bool ok = lm_storage_dir_open(dir, false, &storage, NULL) == 0 &&
			  storage->ops->lock(storage, NULL, NULL) == 0;
		if (ok && write(ready[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	close(ready[1]);
	char byte;
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void test_lock_between_processes(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	place_init(&place);
	pid_t holder = start_holder(place.dir);
	int r = place.storage->ops->lock(place.storage, NULL, &err);
	kill(holder, SIGKILL);
	assert_int_equal(waitpid(holder, NULL, 0), holder);
	assert_int_equal(r, -EBUSY);
	CLEANUP(lm_freep) char *who = lm_str_printf("process %d is publishing", (int)holder);
	assert_non_null(strstr(err.msg, who));
	/* However it died, the lock died with it. */
	assert_ok(place.storage->ops->lock(place.storage, NULL, &err), &err);
}

static void note_holder(void *arg, const char *holder)
{
	int fd = *(int *)arg;
	assert_int_equal(write(fd, holder, strlen(holder)), (ssize_t)strlen(holder));
}

/* Who waits says for whom, gets the lock when that one dies, and is the holder then. */
static void test_lock_is_waited_for(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	place_init(&place);
	pid_t holder = start_holder(place.dir);
	int told[2], status;
	assert_int_equal(pipe(told), 0);
	pid_t waiter = fork();
	assert_true(waiter >= 0);
	if (waiter == 0) {
		const struct lm_storage_wait wait = {note_holder, &told[1]};
		_exit(place.storage->ops->lock(place.storage, &wait, NULL) == 0 ? 0 : 1);
	}
	char text[512] = "";
	assert_true(read(told[0], text, sizeof(text) - 1) > 0);
	CLEANUP(lm_freep) char *who = lm_str_printf("process %d is publishing to this repository (", (int)holder);
	assert_ptr_equal(strstr(text, who), text);
	assert_int_equal(waitpid(waiter, &status, WNOHANG), 0);
	kill(holder, SIGKILL);
	assert_int_equal(waitpid(holder, NULL, 0), holder);
	assert_int_equal(waitpid(waiter, &status, 0), waiter);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	close(told[0]);
	close(told[1]);
	assert_ok(place.storage->ops->lock(place.storage, NULL, &err), &err);
}

enum { SWAP_LEN = 100000, SWAPS = 60, OBJECTS = 100 };

static void *swap_manifests(void *arg)
{
	struct lm_storage *storage = arg;
	static char text[SWAP_LEN];
	for (int i = 0; i < SWAPS; i++) {
		memset(text, 'a' + i % 26, sizeof(text));
		if (storage->ops->put(storage, "manifest", text, sizeof(text), NULL) < 0)
			return (void *)-1;
	}
	return NULL;
}

/* A reader at any time sees one whole manifest, never a mixture, a part or none. */
static void test_atomic_replacement(void **state)
{
	CLEANUP(place_done) struct place place;
	place_init(&place);
	assert_int_equal(put(&place, "manifest", ""), 0);
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, swap_manifests, place.storage), 0);
	for (char last = 0; last != 'a' + (SWAPS - 1) % 26;) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(SWAP_LEN);
		assert_ok(place.storage->ops->get(place.storage, "manifest", &buf, &err), &err);
		if (buf.len == 0)
			continue;
		assert_int_equal(buf.len, SWAP_LEN);
		for (size_t i = 1; i < SWAP_LEN; i++)
			assert_true(buf.data[i] == buf.data[0]);
		last = (char)buf.data[0];
	}
	void *failed = NULL;
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
}

static void *put_objects(void *arg)
{
	struct lm_storage *storage = arg;
	for (int i = 0; i < OBJECTS; i++) {
		char path[64], text[16];
		snprintf(path, sizeof(path), "data/%02x/%038d", i % 3, i);
		snprintf(text, sizeof(text), "%d", i);
		if (storage->ops->put(storage, path, text, strlen(text), NULL) < 0)
			return (void *)-1;
	}
	return NULL;
}

static void test_same_objects_at_once(void **state)
{
	CLEANUP(place_done) struct place place;
	place_init(&place);
	pthread_t threads[4];
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, put_objects, place.storage), 0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
		void *failed = NULL;
		assert_int_equal(pthread_join(threads[i], &failed), 0);
		assert_null(failed);
	}
	assert_int_equal(entries(&place, "data/00") + entries(&place, "data/01") + entries(&place, "data/02"), OBJECTS);
	assert_int_equal(entries(&place, "data/txn"), 0);
}

struct listed {
	unsigned count, aliases, stop_after;
	uint64_t bytes;
	struct place *place; /* removes what is listed there; NULL: does not */
};

static int list_one(void *arg, const char *name, uint64_t size)
{
	struct listed *listed = arg;
	listed->count++;
	listed->bytes += size;
	listed->aliases += lm_str_starts(name, ".cvmfsalt-");
	if (listed->place) {
		struct lm_storage *storage = listed->place->storage;
		CLEANUP(lm_freep) char *path = lm_str_printf("data/ab/%s", name);
		assert_int_equal(storage->ops->remove(storage, path, NULL), 0);
	}
	return listed->stop_after && listed->count == listed->stop_after ? -ECANCELED : 0;
}

static void test_list_and_remove(void **state)
{
	enum { LISTED = 500 };
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct listed listed = {0};
	place_init(&place);
	const struct lm_storage_ops *ops = place.storage->ops;
	assert_ok(ops->list(place.storage, "data/ab", list_one, &listed, &err), &err);
	assert_int_equal(listed.count, 0);
	for (unsigned i = 0; i < LISTED; i++) {
		char path[64];
		snprintf(path, sizeof(path), "data/ab/%038u", i);
		assert_int_equal(put(&place, path, "12345"), 0);
	}
	assert_ok(ops->list(place.storage, "data", list_one, &listed, &err), &err);
	assert_int_equal(listed.count, 0); /* directories are not listed */
	assert_ok(ops->list(place.storage, "data/absent", list_one, &listed, &err), &err);
	assert_int_equal(listed.count, 0);
	assert_ok(ops->list(place.storage, "data/ab", list_one, &listed, &err), &err);
	assert_int_equal(listed.count, LISTED);
	assert_int_equal(listed.bytes, 5 * LISTED);
	listed = (struct listed){.stop_after = 3};
	assert_int_equal(ops->list(place.storage, "data/ab", list_one, &listed, &err), -ECANCELED);
	assert_int_equal(listed.count, 3);
	listed = (struct listed){.place = &place};
	assert_ok(ops->list(place.storage, "data/ab", list_one, &listed, &err), &err);
	assert_int_equal(listed.count, LISTED);
	assert_int_equal(entries(&place, "data/ab"), 0);

	assert_ok(ops->remove(place.storage, "data/ab/absent", &err), &err);
	assert_ok(ops->remove(place.storage, "no/such/directory", &err), &err);
	assert_true(ops->remove(place.storage, "data/ab", &err) < 0);
	assert_int_equal(ops->remove(place.storage, "../outside", &err), -EINVAL);
	assert_int_equal(ops->list(place.storage, "/", list_one, &listed, &err), -EINVAL);
	assert_int_equal(ops->list(place.storage, "data/..", list_one, &listed, &err), -EINVAL);
	assert_int_equal(put(&place, ".file", "x"), 0);
	assert_int_equal(ops->list(place.storage, ".file", list_one, &listed, &err), -ENOTDIR);
}

static void test_alias(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	place_init(&place);
	const struct lm_storage_ops *ops = place.storage->ops;
	assert_int_equal(put(&place, OBJECT, "content"), 0);
	assert_int_equal(put(&place, "data/cd/other", "other"), 0);
	assert_ok(ops->alias(place.storage, ".cvmfsalt-1", OBJECT, &err), &err);
	assert_content(&place, ".cvmfsalt-1", "content");
	assert_ok(ops->alias(place.storage, ".cvmfsalt-1", OBJECT, &err), &err);
	assert_ok(ops->alias(place.storage, ".cvmfsalt-1", "data/cd/other", &err), &err);
	assert_content(&place, ".cvmfsalt-1", "other");
	assert_int_equal(entries(&place, "data/txn"), 0);

	struct listed listed = {0};
	assert_ok(ops->list(place.storage, "", list_one, &listed, &err), &err);
	assert_int_equal(listed.aliases, 1);
	assert_ok(ops->remove(place.storage, ".cvmfsalt-1", &err), &err);
	assert_int_equal(ops->has(place.storage, ".cvmfsalt-1", &err), 0);
	assert_content(&place, "data/cd/other", "other");

	assert_int_equal(ops->alias(place.storage, "data/ab/alias", OBJECT, &err), -EINVAL);
	assert_int_equal(ops->alias(place.storage, ".cvmfsalt-1", "../outside", &err), -EINVAL);
	assert_int_equal(ops->alias(place.storage, ".cvmfsalt-1", "/etc/passwd", &err), -EINVAL);
}

/* Whoever gets the lock removes what dead writers left, and nothing that anybody still writes. */
static void test_sweep(void **state)
{
	static const char *const left[] = {"put.1.0", "swap.1.1", "put."}, *const others[] = {
										   "else", "publish.x", "pu"};
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	place_init(&place);
	for (size_t i = 0; i < ARRAY_LEN(left); i++) {
		CLEANUP(lm_freep) char *a = lm_str_printf("%s/data/txn/%s", place.dir, left[i]);
		CLEANUP(lm_freep) char *b = lm_str_printf("%s/data/txn/%s", place.dir, others[i]);
		assert_ok(lm_file_replace(AT_FDCWD, a, "x", 1, 0600, 0, &err), &err);
		assert_ok(lm_file_replace(AT_FDCWD, b, "x", 1, 0600, 0, &err), &err);
	}
	CLEANUP(lm_freep) char *link = lm_str_printf("%s/data/txn/swap.1.2", place.dir);
	assert_int_equal(symlink("/nowhere", link), 0);
	CLEANUP(lm_freep) char *held = lm_str_printf("%s/data/txn/put.1.3", place.dir);
	CLEANUP(lm_closep) int fd = open(held, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_ok(place.storage->ops->lock(place.storage, NULL, &err), &err);
	assert_int_equal(entries(&place, "data/txn"), ARRAY_LEN(others) + 1);
	assert_int_equal(access(held, F_OK), 0);
}

static _Atomic(bool) stop_locking;

static void *lock_all_the_time(void *arg)
{
	const struct place *place = arg;
	while (!stop_locking) {
		struct lm_storage *storage = NULL;
		if (lm_storage_dir_open(place->dir, false, &storage, NULL) < 0 ||
			storage->ops->lock(storage, NULL, NULL) < 0)
			return arg;
		lm_storage_free(storage);
	}
	return NULL;
}

/* Writers need no lock, and the sweep does not get in their way. */
static void test_sweep_beside_writers(void **state)
{
	CLEANUP(place_done) struct place place;
	place_init(&place);
	pthread_t thread;
	void *failed = NULL;
	stop_locking = false;
	assert_int_equal(pthread_create(&thread, NULL, lock_all_the_time, &place), 0);
	unsigned failures = 0;
	for (unsigned i = 0; i < 300; i++) {
		char path[64];
		no_tmpfile = i % 2;
		snprintf(path, sizeof(path), "data/ab/%038u", i);
		failures += put(&place, path, "content") < 0;
		failures += put(&place, ".file", "content") < 0;
	}
	no_tmpfile = false;
	stop_locking = true;
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
	assert_int_equal(failures, 0);
	assert_int_equal(entries(&place, "data/ab"), 300);
	assert_int_equal(entries(&place, "data/txn"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_open),
		cmocka_unit_test(test_put_get),
		cmocka_unit_test(test_idempotent),
		cmocka_unit_test(test_without_nameless_files),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_paths_outside),
		cmocka_unit_test(test_missing_folders),
		cmocka_unit_test(test_lock),
		cmocka_unit_test(test_lock_between_processes),
		cmocka_unit_test(test_lock_is_waited_for),
		cmocka_unit_test(test_atomic_replacement),
		cmocka_unit_test(test_same_objects_at_once),
		cmocka_unit_test(test_list_and_remove),
		cmocka_unit_test(test_alias),
		cmocka_unit_test(test_sweep),
		cmocka_unit_test(test_sweep_beside_writers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
