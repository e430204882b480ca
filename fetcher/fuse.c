#include "fetcher/fuse.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"
#include "fetcher/caller.h"
#include "fetcher/fuse_internal.h"
#include "fetcher/mountpoint.h"
#include "fetcher/read.h"
#include "fetcher/session.h"
#include "fetcher/trim.h"

#include <stdio.h>
#include <string.h>
#include <sys/queue.h>

enum {
	TRIES_MAX = 64,	 /* objects one request may turn out to lack, one after the other */
	LOG_SLOTS = 256, /* the same failure is logged once per interval; so many are told apart */
	LOG_INTERVAL_MS = 10000,
	LOG_BURST = 100, /* different failures in one interval that are logged each */
	XATTR_VALUE_MAX = 64 << 10,
	MAX_BACKGROUND = 128,
	FAMINE_PAUSE_MS = 10, /* the first; each is twice as long as the one before */
	FAMINE_PAUSE_MAX_MS = 640,
	FAMINE_MAX_MS = 30 * 1000, /* then it is an error */
};
static const double FOREVER_S = 1e9; /* the kernel cuts it to what it can count */

struct change { /* of the root catalog, for the notifying thread */
	uint32_t from, to;
	STAILQ_ENTRY(change) entry;
};

struct log_slot {
	_Atomic(uint64_t) key; /* of the failure seen last */
	struct lm_log_limit limit;
};

struct counter {
	_Atomic(uint64_t) received, answered, failed, ns;
};

struct lm_fuse {
	struct lm_fuse_config config; /* constant after new, strings owned */
	struct lm_session *session;
	pthread_t notifier;
	bool notifier_runs;
	bool open_needed, opendir_needed; /* constant after INIT: the kernel can't do without these calls */

	_Atomic(bool) stopping;
	_Atomic(uint64_t) root_ttl_s;
	struct log_slot log_slots[LOG_SLOTS];
	_Atomic(int64_t) burst_end_ms;
	_Atomic(unsigned) burst;
	struct counter counters[LM_REQUEST_KINDS];
	_Atomic(uint64_t) interrupted, parked_count, famine_count;
	struct lm_log_limit famine_log;
	struct lm_reader *reader;

	struct lm_lock lock;
	struct lm_cond wake; /* changes, told or stopping is another */
	/* under lock */
	STAILQ_HEAD(, change) changes;
	uint64_t changed, told; /* changes so far; those that the kernel was told of */
};

static struct lm_fuse *fuse_of(fuse_req_t req)
{
	return lm_session_user(req);
}

/* The one place where codes become the kernel's error numbers. Whatever is not an answer to the question is EIO. */
static int kernel_errno(int code)
{
	switch (code) {
	case -ENOENT:
	case -ENOTDIR:
	case -EISDIR:
	case -EINVAL:
	case -ENODATA:
	case -ENAMETOOLONG:
	case -ERANGE:
	case -EINTR:
	case -ENOMEM:
		return -code;
	default:
		return EIO;
	}
}

static void append_path(struct lm_op *op, struct lm_buf *path)
{
	lm_tree_path(op->fuse->config.tree, op->ino, path);
	if (op->name)
		(void)!lm_buf_printf(path, "%s%s", lm_str_ends(lm_buf_cstr(path), "/") ? "" : "/", op->name);
}

static uint64_t mix(uint64_t key, const void *data, size_t len)
{
	const uint8_t *at = data;
	for (size_t i = 0; i < len; i++)
		key = (key ^ at[i]) * 0x100000001b3u;
	return key;
}

static bool burst_left(struct lm_fuse *fuse)
{
	int64_t now = lm_now_ms(), end = atomic_load(&fuse->burst_end_ms);
	if (now >= end && atomic_compare_exchange_strong(&fuse->burst_end_ms, &end, now + LOG_INTERVAL_MS))
		atomic_store(&fuse->burst, 0);
	return atomic_fetch_add(&fuse->burst, 1) < LOG_BURST;
}

/* A failure is told by the object that is missing, or else by node and name. */
static bool may_log(struct lm_op *op, const struct lm_object_ref *object, unsigned *ret_missed)
{
	struct lm_fuse *fuse = op->fuse;
	uint64_t key = object ? mix((uint64_t)object->kind, object->hash.bytes, sizeof(object->hash.bytes))
			      : mix(UINT64_MAX, &op->ino, sizeof(op->ino));
	if (!object && op->name)
		key = mix(key, op->name, strlen(op->name));
	struct log_slot *slot = &fuse->log_slots[(key * 0x9e3779b97f4a7c15ULL >> 32) % LOG_SLOTS];
	bool other = atomic_exchange(&slot->key, key) != key;
	return lm_log_limit_pass(&slot->limit, LOG_INTERVAL_MS, ret_missed) || (other && burst_left(fuse));
}

/* object: what could not be had, or NULL when the catalog itself is at fault. */
static void log_failure(struct lm_op *op, const struct lm_object_ref *object, int code, const struct lm_err *err)
{
	struct lm_fuse *fuse = op->fuse;
	unsigned missed = 0;
	if (!may_log(op, object, &missed))
		return;
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(LM_REPO_PATH_MAX + LM_NAME_MAX);
	char name[LM_OBJECT_PATH_MAX];
	append_path(op, &path);
	lm_log(LM_LOG_ERROR, "read failed", LM_KV("repository", "%s", fuse->config.fqrn),
		LM_KV("object", "%s", object ? lm_object_path(&object->hash, object->kind, name) : "-"),
		LM_KV("path", "%s", lm_buf_cstr(&path)), LM_KV("error", "%s", strerrorname_np(-code)),
		LM_KV("cause", "%s", err && err->msg[0] ? err->msg : strerror(-code)),
		LM_KV("not_shown", "%u", missed));
}

static void count(_Atomic(uint64_t) *counter, uint64_t more)
{
	atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

void lm_op_done(const struct lm_op *op)
{
	struct counter *counter = &op->fuse->counters[op->kind];
	count(&counter->ns, (uint64_t)(lm_now_ns() - op->begin_ns));
	count(&counter->answered, 1);
}

/* Before the answer, which may be the last that keeps the mount from being torn down. */
static void done_badly(const struct lm_op *op)
{
	count(&op->fuse->counters[op->kind].failed, 1);
	lm_op_done(op);
}

static bool wait_for_descriptors(struct lm_op *op, int code);

void lm_op_fail(struct lm_op *op, int code, const struct lm_err *err)
{
	int error = kernel_errno(code);
	if (wait_for_descriptors(op, code))
		return;
	if (error == EIO)
		log_failure(op, NULL, code, err);
	if (error == EIO || error == ENOMEM)
		done_badly(op);
	else
		lm_op_done(op);
	fuse_reply_err(op->req, error);
}

void lm_op_fail_object(struct lm_op *op, const struct lm_object_ref *object, int code, const struct lm_err *err)
{
	if (wait_for_descriptors(op, code))
		return;
	log_failure(op, object, code, err);
	done_badly(op);
	fuse_reply_err(op->req, code == -ENOMEM ? ENOMEM : EIO);
}

/*
 * Parked requests. Two parties may answer one: the completion of its download, and an interrupt; `answered` decides.
 * Only the completion frees it.
 */
struct parked {
	struct lm_op op;
	struct lm_object_ref need;
	struct lm_wait wait;
	unsigned tries;
	char name[];
};

static void on_interrupt(fuse_req_t req, void *arg)
{
	struct lm_wait *wait = arg;
	if (!lm_caller_is_ending(fuse_req_ctx(req)->pid))
		return; /* the session has the kernel say it again */
	wait->leave(wait->arg);
	if (atomic_exchange(&wait->answered, true))
		return;
	count(&fuse_of(req)->interrupted, 1);
	fuse_reply_err(req, EINTR);
}

void lm_op_offer_interrupt(fuse_req_t req, struct lm_wait *wait)
{
	atomic_store(&wait->answered, false);
	fuse_req_interrupt_func(req, on_interrupt, wait);
}

/* libfuse calls the function with the request's lock held, and taking it back waits for that lock: none comes later. */
bool lm_op_claim(fuse_req_t req, struct lm_wait *wait)
{
	if (atomic_exchange(&wait->answered, true))
		return false;
	fuse_req_interrupt_func(req, NULL, NULL);
	return true;
}

static void leave(void *arg)
{
	struct parked *parked = arg;
	lm_fetch_leave(parked->op.fuse->config.fetch, &parked->need, parked);
}

static void go_on(struct parked *parked);

static void on_need_fetched(void *arg, int code, int fd, const struct lm_err *err)
{
	struct parked *parked = arg;
	if (code == 0) {
		go_on(parked);
		return;
	}
	if (lm_op_claim(parked->op.req, &parked->wait))
		lm_op_fail_object(&parked->op, &parked->need, code, err);
	free(parked);
}

/* Waits for parked->need. The parked request is not ours any more when this returns LM_FETCH_LATER. */
static int order(struct parked *parked)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_closep) int fd = -1;
	lm_op_offer_interrupt(parked->op.req, &parked->wait);
	int r = lm_fetch_object(
		parked->op.fuse->config.fetch, &parked->need, LM_HTTP_BLOCKED_READ, on_need_fetched, parked, &fd, &err);
	if (r < 0) {
		on_need_fetched(parked, r, -1, &err);
		r = LM_FETCH_LATER;
	}
	return r;
}

/* After run, when it needs nothing: a read is answered, and counted, in its own time. */
static void conclude(struct lm_op *op, int code, const struct lm_err *err)
{
	if (code < 0)
		lm_op_fail(op, code, err);
	else if (op->kind != LM_REQUEST_READ)
		lm_op_done(op);
}

/* Runs a parked request whose need is there, to its answer or its next need. */
static void go_on(struct parked *parked)
{
	int r;
	do {
		struct lm_err err = LM_ERR_INIT;
		if (!lm_op_claim(parked->op.req, &parked->wait)) {
			free(parked);
			return;
		}
		r = parked->op.run(&parked->op, &parked->need, &err);
		if (r == LM_NEED && ++parked->tries == TRIES_MAX)
			r = lm_err_set(&err, -EIO, "an object that was fetched is gone again and again");
		if (r != LM_NEED) {
			conclude(&parked->op, r, &err);
			free(parked);
			return;
		}
		r = order(parked);
	} while (r == 0);
}

static struct parked *parked_new(const struct lm_op *op, void (*on_leave)(void *arg))
{
	size_t name_len = op->name ? strlen(op->name) : 0;
	struct parked *parked = calloc(1, sizeof(*parked) + name_len + 1);
	if (!parked)
		return NULL;
	parked->op = *op;
	parked->wait = (struct lm_wait){.leave = on_leave, .arg = parked};
	if (op->name)
		parked->op.name = memcpy(parked->name, op->name, name_len);
	return parked;
}

static void park(struct lm_op *op, const struct lm_object_ref *need)
{
	count(&op->fuse->parked_count, 1);
	struct parked *parked = parked_new(op, leave);
	if (!parked) {
		lm_op_fail(op, -ENOMEM, NULL);
		return;
	}
	parked->need = *need;
	if (order(parked) == 0)
		go_on(parked);
}

static void leave_nothing(void *arg)
{
}

/* A job. */
static void try_again(void *arg)
{
	struct parked *parked = arg;
	parked->wait.leave = leave;
	go_on(parked);
}

static bool was_long_enough(const struct lm_op *op)
{
	return lm_now_ns() - op->begin_ns > (int64_t)FAMINE_MAX_MS * 1000000;
}

/*
 * Descriptors ran out, ours or the machine's. Nothing announces free ones, so the request is tried again after longer
 * and longer pauses, until its time is over. False: it is, and the request is still the caller's.
 */
static bool wait_for_descriptors(struct lm_op *op, int code)
{
	struct lm_fuse *fuse = op->fuse;
	if ((code != -EMFILE && code != -ENFILE) || atomic_load(&fuse->stopping) || was_long_enough(op))
		return false;
	struct parked *parked = parked_new(op, leave_nothing);
	if (!parked)
		return false;
	unsigned missed, pause_ms = LM_MIN((unsigned)FAMINE_PAUSE_MS << op->famines, (unsigned)FAMINE_PAUSE_MAX_MS);
	parked->op.famines = (uint8_t)LM_MIN(op->famines + 1, 16);
	count(&fuse->famine_count, op->famines == 0);
	if (lm_log_limit_pass(&fuse->famine_log, LOG_INTERVAL_MS, &missed))
		lm_log(LM_LOG_WARN, "file descriptors ran out: requests wait",
			LM_KV("repository", "%s", fuse->config.fqrn), LM_KV("error", "%s", strerrorname_np(-code)),
			LM_KV("not_shown", "%u", missed));
	lm_op_offer_interrupt(op->req, &parked->wait);
	if (lm_fetch_later(fuse->config.fetch, pause_ms, try_again, parked) == 0)
		return true;
	bool claimed = lm_op_claim(op->req, &parked->wait);
	free(parked);
	return !claimed; /* else it was interrupted, and answered */
}

/* Answers a request that is on the caller's stack, now or later. */
static void submit(struct lm_op op)
{
	struct lm_object_ref need;
	struct lm_err err = LM_ERR_INIT;
	op.request = lm_session_request();
	op.begin_ns = lm_now_ns();
	count(&op.fuse->counters[op.kind].received, 1);
	lm_trim_soon(op.fuse->config.fetch);
	int r = op.run(&op, &need, &err);
	if (r == LM_NEED)
		park(&op, &need);
	else
		conclude(&op, r, &err);
}

/* Entries and attributes. */

static double entry_timeout(struct lm_fuse *fuse, fuse_ino_t parent)
{
	return parent == LM_NODE_ROOT ? (double)atomic_load(&fuse->root_ttl_s) : FOREVER_S;
}

static struct fuse_entry_param entry_param(struct lm_fuse *fuse, fuse_ino_t parent, const struct lm_entry *entry)
{
	return (struct fuse_entry_param){
		.ino = entry->node,
		.attr = entry->attr,
		.attr_timeout = FOREVER_S,
		.entry_timeout = entry_timeout(fuse, parent),
	};
}

static int run_lookup(struct lm_op *op, struct lm_object_ref *ret_need, struct lm_err *err)
{
	struct lm_entry entry;
	int r = lm_tree_lookup(op->fuse->config.tree, op->ino, op->name, &entry, ret_need, err);
	if (r == -ENOENT)
		entry = (struct lm_entry){.node = 0}; /* "not there" is kept by the kernel like any entry */
	else if (r != 0)
		return r;
	const struct fuse_entry_param param = entry_param(op->fuse, op->ino, &entry);
	fuse_reply_entry(op->req, &param);
	return 0;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	submit((struct lm_op){.fuse = fuse_of(req),
		.req = req,
		.kind = LM_REQUEST_LOOKUP,
		.run = run_lookup,
		.ino = parent,
		.name = name});
}

static int run_getattr(struct lm_op *op, struct lm_object_ref *ret_need, struct lm_err *err)
{
	struct stat attr;
	int r = lm_tree_getattr(op->fuse->config.tree, op->ino, &attr, ret_need, err);
	if (r != 0)
		return r;
	fuse_reply_attr(op->req, &attr, op->ino == LM_NODE_ROOT ? entry_timeout(op->fuse, op->ino) : FOREVER_S);
	return 0;
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
	submit((struct lm_op){
		.fuse = fuse_of(req), .req = req, .kind = LM_REQUEST_GETATTR, .run = run_getattr, .ino = ino});
}

static int run_readlink(struct lm_op *op, struct lm_object_ref *ret_need, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf target = LM_BUF(LM_SYMLINK_MAX);
	int r = lm_tree_readlink(op->fuse->config.tree, op->ino, &target, ret_need, err);
	if (r != 0)
		return r;
	fuse_reply_readlink(op->req, lm_buf_cstr(&target));
	return 0;
}

static void do_readlink(fuse_req_t req, fuse_ino_t ino)
{
	submit((struct lm_op){
		.fuse = fuse_of(req), .req = req, .kind = LM_REQUEST_READLINK, .run = run_readlink, .ino = ino});
}

static void do_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct lm_cache_stats stats;
	lm_cache_stats(fuse_of(req)->config.cache, &stats);
	const struct statvfs st = {
		.f_bsize = 4096,
		.f_frsize = 4096,
		.f_blocks = stats.bytes / 4096,
		.f_files = stats.objects,
		.f_namemax = LM_NAME_MAX, /* overlayfs refuses longer names than its layers' largest */
	};
	fuse_reply_statfs(req, &st);
}

/* Attributes, extended. */

static void reply_sized(struct lm_op *op, const struct lm_buf *data)
{
	if (op->size == 0)
		fuse_reply_xattr(op->req, data->len);
	else if (data->len > op->size)
		fuse_reply_err(op->req, ERANGE);
	else
		fuse_reply_buf(op->req, (const char *)data->data, data->len);
}

static int run_getxattr(struct lm_op *op, struct lm_object_ref *ret_need, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf value = LM_BUF(XATTR_VALUE_MAX);
	int r = lm_tree_getxattr(op->fuse->config.tree, op->ino, op->name, &value, ret_need, err);
	if (r == 0)
		reply_sized(op, &value);
	return r;
}

static void do_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	if (fuse_of(req)->config.lean) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	submit((struct lm_op){.fuse = fuse_of(req),
		.req = req,
		.kind = LM_REQUEST_GETXATTR,
		.run = run_getxattr,
		.ino = ino,
		.name = name,
		.size = size});
}

static int run_listxattr(struct lm_op *op, struct lm_object_ref *ret_need, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf names = LM_BUF(XATTR_VALUE_MAX);
	bool trusted = fuse_req_ctx(op->req)->uid == 0;
	int r = lm_tree_listxattr(op->fuse->config.tree, op->ino, trusted, &names, ret_need, err);
	if (r == 0)
		reply_sized(op, &names);
	return r;
}

static void do_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	submit((struct lm_op){.fuse = fuse_of(req),
		.req = req,
		.kind = LM_REQUEST_LISTXATTR,
		.run = run_listxattr,
		.ino = ino,
		.size = size});
}

/* Directories. */

struct page {
	struct lm_op *op;
	char *data;
	size_t len;
};

static int add_dirent(void *arg, const char *name, const struct lm_entry *entry, uint64_t next)
{
	struct page *page = arg;
	struct lm_op *op = page->op;
	size_t room = op->size - page->len, len;
	if (op->plus) {
		struct fuse_entry_param param = entry_param(op->fuse, op->ino, entry);
		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
			param.ino = 0; /* only names and types: the kernel looks these up by itself */
		len = fuse_add_direntry_plus(op->req, page->data + page->len, room, name, &param, (off_t)next);
	} else {
		len = fuse_add_direntry(op->req, page->data + page->len, room, name, &entry->attr, (off_t)next);
	}
	if (len > room)
		return 1;
	page->len += len;
	return 0;
}

static int run_readdir(struct lm_op *op, struct lm_object_ref *ret_need, struct lm_err *err)
{
	CLEANUP(lm_freep) char *data = malloc(op->size);
	struct page page = {.op = op, .data = data};
	if (!data)
		return lm_err_oom(err);
	int r = lm_tree_readdir(op->fuse->config.tree, op->ino, (uint64_t)op->offset, add_dirent, &page, ret_need, err);
	if (r == -EPROTO && (page.len > 0 || op->offset > 0)) { /* what makes sense is listed all the same */
		log_failure(op, NULL, r, err);
		r = 0;
	}
	if (r == 0)
		fuse_reply_buf(op->req, page.data, page.len);
	return r;
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *info)
{
	submit((struct lm_op){.fuse = fuse_of(req),
		.req = req,
		.kind = LM_REQUEST_READDIR,
		.run = run_readdir,
		.ino = ino,
		.size = size,
		.offset = offset});
}

static void do_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *info)
{
	submit((struct lm_op){.fuse = fuse_of(req),
		.req = req,
		.kind = LM_REQUEST_READDIR,
		.run = run_readdir,
		.ino = ino,
		.size = size,
		.offset = offset,
		.plus = true});
}

/* Opening: there is nothing to remember, and a kernel that is told so once does not ask again. */

static void reply_open(fuse_req_t req, bool needed)
{
	const struct fuse_file_info info = {.keep_cache = 1, .cache_readdir = 1};
	if (needed)
		fuse_reply_open(req, &info);
	else
		fuse_reply_err(req, ENOSYS);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
	reply_open(req, fuse_of(req)->open_needed);
}

static void do_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
	reply_open(req, fuse_of(req)->opendir_needed);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *info)
{
	submit((struct lm_op){.fuse = fuse_of(req),
		.req = req,
		.kind = LM_REQUEST_READ,
		.run = lm_read_run,
		.ino = ino,
		.size = size,
		.offset = offset,
		.reader = fuse_of(req)->reader});
}

/* The session. */

static void want(struct fuse_conn_info *conn, unsigned flag, bool on)
{
	if (on)
		conn->want |= conn->capable & flag;
	else
		conn->want &= ~flag;
}

static void do_init(void *userdata, struct fuse_conn_info *conn)
{
	struct lm_fuse *fuse = lm_session_user_of_init(userdata);
	want(conn, FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_SPLICE_WRITE,
		true);
	/* A node's content never changes: nothing to look for by time stamps. */
	want(conn, FUSE_CAP_AUTO_INVAL_DATA, false);
	fuse->open_needed = !(conn->capable & FUSE_CAP_NO_OPEN_SUPPORT);
	fuse->opendir_needed = !(conn->capable & FUSE_CAP_NO_OPENDIR_SUPPORT);
	/* Parked reads hold no thread, so many may be under way. */
	conn->max_background = MAX_BACKGROUND;
	conn->congestion_threshold = MAX_BACKGROUND * 3 / 4;
}

static const struct fuse_lowlevel_ops operations = {
	.init = do_init,
	.lookup = do_lookup,
	.getattr = do_getattr,
	.readlink = do_readlink,
	.open = do_open,
	.read = do_read,
	.opendir = do_opendir,
	.readdir = do_readdir,
	.readdirplus = do_readdirplus,
	.statfs = do_statfs,
	.getxattr = do_getxattr,
	.listxattr = do_listxattr,
};

/* On a thread of the session. */
static void on_end(void *user)
{
	struct lm_fuse *fuse = user;
	fuse->config.on_end(fuse->config.arg);
}

/* The notifying thread: the kernel may hold it up until a look-up in the same directory was answered. */

static void forget_name(void *arg, const char *name)
{
	struct lm_fuse *fuse = arg;
	(void)fuse_lowlevel_notify_inval_entry(lm_session_fuse(fuse->session), LM_NODE_ROOT, name, strlen(name));
}

static void forget_changes(struct lm_fuse *fuse, const struct change *change)
{
	struct lm_object_ref need;
	struct lm_err err = LM_ERR_INIT;
	int r = lm_tree_root_changes(fuse->config.tree, change->from, change->to, forget_name, fuse, &need, &err);
	if (r != 0) /* what was not named follows by the entries' time-out */
		lm_log(LM_LOG_WARN, "entries of an old revision stay until their time-out",
			LM_KV("repository", "%s", fuse->config.fqrn),
			LM_KV("cause", "%s", r == LM_NEED ? "its root catalog is no more in the cache" : err.msg));
	(void)fuse_lowlevel_notify_inval_inode(lm_session_fuse(fuse->session), LM_NODE_ROOT, 0, 0);
}

static struct change *next_change(struct lm_fuse *fuse)
{
	LM_LOCKED(&fuse->lock);
	while (STAILQ_EMPTY(&fuse->changes) && !atomic_load(&fuse->stopping))
		lm_cond_wait(&fuse->wake, &fuse->lock);
	struct change *change = STAILQ_FIRST(&fuse->changes);
	if (change)
		STAILQ_REMOVE_HEAD(&fuse->changes, entry);
	return change;
}

static void *notify(void *arg)
{
	struct lm_fuse *fuse = arg;
	struct change *change;
	while ((change = next_change(fuse))) {
		if (!atomic_load(&fuse->stopping))
			forget_changes(fuse, change);
		free(change);
		LM_LOCKED(&fuse->lock);
		fuse->told++;
		lm_cond_broadcast(&fuse->wake);
	}
	return NULL;
}

void lm_fuse_root_changed(struct lm_fuse *fuse, uint32_t from, uint32_t to, uint64_t root_ttl_s)
{
	atomic_store(&fuse->root_ttl_s, root_ttl_s);
	struct change *change = malloc(sizeof(*change));
	if (!change)
		return; /* then entries follow by their time-out */
	*change = (struct change){.from = from, .to = to};
	LM_LOCKED(&fuse->lock);
	STAILQ_INSERT_TAIL(&fuse->changes, change, entry);
	fuse->changed++;
	lm_cond_broadcast(&fuse->wake);
}

int lm_fuse_wait_told(struct lm_fuse *fuse, int64_t ms)
{
	int64_t end = lm_now_ms() + ms, left;
	LM_LOCKED(&fuse->lock);
	uint64_t changed = fuse->changed;
	while (fuse->told < changed && !atomic_load(&fuse->stopping) && (left = end - lm_now_ms()) > 0)
		lm_cond_wait_ms(&fuse->wake, &fuse->lock, left);
	return fuse->told >= changed ? 0 : atomic_load(&fuse->stopping) ? -ECANCELED : -ETIMEDOUT;
}

static void log_libfuse(enum fuse_log_level level, const char *fmt, va_list args)
{
	char text[256];
	vsnprintf(text, sizeof(text), fmt, args);
	text[strcspn(text, "\n")] = '\0';
	lm_log(level <= FUSE_LOG_ERR ? LM_LOG_ERROR : LM_LOG_DEBUG, "libfuse", LM_KV("message", "%s", text));
}

static int start_notifier(struct lm_fuse *fuse, struct lm_err *err)
{
	int r = -pthread_create(&fuse->notifier, NULL, notify, fuse);
	fuse->notifier_runs = r == 0;
	if (r < 0)
		return lm_err_sys(err, r, "threads for %s", fuse->config.mountpoint);
	pthread_setname_np(fuse->notifier, "fuse notify");
	return 0;
}

static int later(void *user, unsigned delay_ms, lm_work_fn *fn, void *arg)
{
	struct lm_fuse *fuse = user;
	return lm_fetch_later(fuse->config.fetch, delay_ms, fn, arg);
}

static int mount_and_serve(struct lm_fuse *fuse, struct lm_err *err)
{
	const struct lm_session_config config = {
		.mountpoint = fuse->config.mountpoint,
		.source = fuse->config.lean ? LM_MOUNT_SOURCE_LEAN : LM_MOUNT_SOURCE,
		.operations = &operations,
		.user = fuse,
		.keeper = fuse->config.keeper,
		.threads = fuse->config.threads,
		/* Others have trusted attributes, which are not listed to everybody. */
		.map_owners = fuse->config.lean,
		.later = later,
		.on_end = on_end,
	};
	int r = lm_session_open(&config, &fuse->session, err);
	if (r == 0)
		r = start_notifier(fuse, err);
	if (r == 0)
		r = lm_session_start(fuse->session, err);
	if (r < 0)
		lm_fuse_stop(fuse);
	return r;
}

int lm_fuse_new(const struct lm_fuse_config *config, struct lm_fuse **ret, struct lm_err *err)
{
	CLEANUP(lm_fuse_freep) struct lm_fuse *fuse = calloc(1, sizeof(*fuse));
	if (!fuse)
		return lm_err_oom(err);
	lm_lock_init(&fuse->lock);
	lm_cond_init(&fuse->wake);
	STAILQ_INIT(&fuse->changes);
	atomic_store(&fuse->root_ttl_s, config->root_ttl_s);
	fuse->config = *config;
	fuse->config.fqrn = strdup(config->fqrn);
	fuse->config.mountpoint = strdup(config->mountpoint);
	if (!fuse->config.fqrn || !fuse->config.mountpoint)
		return lm_err_oom(err);
	int r = lm_reader_new(config->tree, config->fetch, config->cache, &fuse->reader, err);
	if (r < 0)
		return r;
	fuse_set_log_func(log_libfuse);
	r = mount_and_serve(fuse, err);
	if (r < 0)
		return r;
	*ret = STEAL(fuse);
	return 0;
}

/* False when that was said before. */
static bool begin_stop(struct lm_fuse *fuse)
{
	LM_LOCKED(&fuse->lock);
	lm_cond_broadcast(&fuse->wake);
	return !atomic_exchange(&fuse->stopping, true);
}

void lm_fuse_stop(struct lm_fuse *fuse)
{
	if (fuse && begin_stop(fuse))
		lm_session_stop(fuse->session);
}

void lm_fuse_leave(struct lm_fuse *fuse)
{
	if (fuse && begin_stop(fuse))
		lm_session_leave(fuse->session);
}

const char *lm_request_name(enum lm_request_kind kind)
{
	static const char *const names[LM_REQUEST_KINDS] = {
		[LM_REQUEST_LOOKUP] = "lookup",
		[LM_REQUEST_GETATTR] = "getattr",
		[LM_REQUEST_READLINK] = "readlink",
		[LM_REQUEST_GETXATTR] = "getxattr",
		[LM_REQUEST_LISTXATTR] = "listxattr",
		[LM_REQUEST_READDIR] = "readdir",
		[LM_REQUEST_READ] = "read",
	};
	return names[kind];
}

void lm_fuse_stats_add(struct lm_fuse *fuse, struct lm_fuse_stats *sum)
{
	uint64_t received = 0, answered = atomic_load(&fuse->interrupted);
	sum->interrupted += answered;
	sum->parked += atomic_load(&fuse->parked_count);
	sum->famines += atomic_load(&fuse->famine_count);
	for (int i = 0; i < LM_REQUEST_KINDS; i++) {
		struct counter *counter = &fuse->counters[i];
		uint64_t n = atomic_load(&counter->answered); /* before `received`: never more than it */
		sum->requests[i].answered += n;
		sum->requests[i].failed += atomic_load(&counter->failed);
		sum->requests[i].ns += atomic_load(&counter->ns);
		answered += n;
		received += atomic_load(&counter->received);
	}
	sum->waiting += received > answered ? received - answered : 0;
}

bool lm_fuse_resumed(const struct lm_fuse *fuse)
{
	return lm_session_resumed(fuse->session);
}

bool lm_fuse_progress(struct lm_fuse *fuse)
{
	return lm_session_progress(fuse->session);
}

void lm_fuse_session_stats_add(struct lm_fuse *fuse, struct lm_session_stats *sum)
{
	lm_session_stats_add(fuse->session, sum);
}

/* The kernel may hold the notifying thread up until a parked look-up is answered: not before downloads have ended. */
static void join_notifier(struct lm_fuse *fuse)
{
	if (fuse->notifier_runs)
		pthread_join(fuse->notifier, NULL);
}

void lm_fuse_free(struct lm_fuse *fuse)
{
	if (!fuse)
		return;
	(void)begin_stop(fuse);
	join_notifier(fuse);
	lm_session_free(fuse->session);
	lm_reader_free(fuse->reader);
	lm_cond_done(&fuse->wake);
	lm_lock_done(&fuse->lock);
	free((char *)fuse->config.fqrn);
	free((char *)fuse->config.mountpoint);
	free(fuse);
}
