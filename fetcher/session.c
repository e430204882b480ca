#include "fetcher/session.h"

#include "base/log.h"
#include "fetcher/journal.h"
#include "fetcher/mountpoint.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { THREADS_MAX = 64, CACHE_LINE = 64, LEAST_WRITE = 4096, NOT_KEPT = 1, SPARE_DESCRIPTORS = 64, REMIND_MS = 1000 };
#define WAKE_SIGNAL SIGUSR1

/* Newer than Debian 12's headers. */
enum { NOTIFY_RESEND = 7 };
static const uint32_t HAS_RESEND_2 = 1U << (39 - 32);  /* in flags2 */
static const uint32_t ALLOW_IDMAP_2 = 1U << (40 - 32); /* so is this */

/* Of the INIT request when it is processed again: no number that the kernel gives out. */
static const uint64_t SAVED_INIT = 0x7ffffffffffffff0;

struct thread {
	struct lm_session *session;
	pthread_t id;
	/* Counts up at the beginning and at the end of each request: odd while there is one in hand. */
	_Atomic(uint64_t) beat;
	uint64_t seen; /* lm_session_progress() only */
} __attribute__((aligned(CACHE_LINE)));

struct lm_session {
	struct lm_session_config config; /* constant after open; the string is owned */
	struct fuse_session *fuse;
	struct lm_journal *journal;
	int fd; /* fuse's */
	bool resumed;
	unsigned thread_count; /* started */
	_Atomic(unsigned) serving;
	_Atomic(bool) stopping;
	_Atomic(bool) left; /* answers are the next process's */
	_Atomic(uint64_t) replayed, given_up;
	struct thread threads[THREADS_MAX];
};

/* What this thread is working on. */
static _Thread_local struct {
	uint64_t unique; /* 0: nothing */
	uint32_t opcode;
	int slot;
} current;

/* The answer that this thread is splicing, whose header nobody sees. */
static _Thread_local uint64_t spliced;
static _Thread_local lm_session_unreadable_fn *on_unreadable;
static _Thread_local void *unreadable_arg;

static struct lm_session *session_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

void *lm_session_user(fuse_req_t req)
{
	return session_of(req)->config.user;
}

void *lm_session_user_of_init(void *userdata)
{
	return ((struct lm_session *)userdata)->config.user;
}

struct fuse_session *lm_session_fuse(const struct lm_session *session)
{
	return session->fuse;
}

bool lm_session_resumed(const struct lm_session *session)
{
	return session->resumed;
}

uint64_t lm_session_request(void)
{
	return current.unique;
}

/*
 * The lowest free number is the one given out, so one near the limit says that few are left. A thread keeps the pipe of
 * its first splice for good, and those of all threads would leave nothing to fetch with.
 */
static bool descriptors_are_scarce(const struct fuse_bufvec *data)
{
	struct rlimit limit;
	int highest = 0;
	for (size_t i = 0; i < data->count; i++)
		highest = LM_MAX(highest, data->buf[i].fd);
	return getrlimit(RLIMIT_NOFILE, &limit) == 0 && (rlim_t)highest + SPARE_DESCRIPTORS >= limit.rlim_cur;
}

void lm_session_reply_data(
	fuse_req_t req, uint64_t request, struct fuse_bufvec *data, lm_session_unreadable_fn *fn, void *arg)
{
	spliced = request;
	on_unreadable = fn;
	unreadable_arg = arg;
	fuse_reply_data(req, data, descriptors_are_scarce(data) ? FUSE_BUF_NO_SPLICE : 0);
	spliced = 0;
}

/* libfuse's ways to /dev/fuse. */

static void answered(struct lm_session *session, uint64_t unique)
{
	int code = errno;
	if (unique)
		lm_journal_answered(session->journal, unique, current.unique == unique ? current.slot : -1);
	errno = code;
}

static bool offers(const void *init, size_t len, uint32_t flag_2)
{
	const struct fuse_init_in *in = (const void *)((const uint8_t *)init + sizeof(struct fuse_in_header));
	return len >= sizeof(struct fuse_in_header) + offsetof(struct fuse_init_in, unused) &&
	       (in->flags & FUSE_INIT_EXT) && (in->flags2 & flag_2);
}

/*
 * What libfuse has no word for. Reads may be as big as it negotiated; but nothing is ever written, and a request shall
 * fit into a slot. Where owners may be mapped, the kernel insists on checking permissions itself
 * (default_permissions).
 */
static void adjust_init(struct lm_session *session, const struct iovec *reply)
{
	struct fuse_init_out *out = reply->iov_base;
	size_t len;
	const void *init = lm_journal_init(session->journal, &len);
	if (reply->iov_len < offsetof(struct fuse_init_out, flags2) + sizeof(out->flags2))
		return; /* an error, or a protocol of long ago */
	out->max_write = LEAST_WRITE;
	if (!session->config.map_owners || !init || !offers(init, len, ALLOW_IDMAP_2))
		return;
	out->flags |= FUSE_INIT_EXT;
	out->flags2 |= ALLOW_IDMAP_2;
}

static ssize_t send_reply(int fd, struct iovec *iov, int count, void *userdata)
{
	struct lm_session *session = userdata;
	const struct fuse_out_header *out = iov[0].iov_base;
	const uint64_t unique = out->unique;
	if (spliced && unique == spliced && out->error < 0) /* libfuse gives up the data and says why */
		on_unreadable(unreadable_arg);
	if (unique == SAVED_INIT || (unique && atomic_load(&session->left)))
		return out->len;
	if (unique && current.unique == unique && current.opcode == FUSE_INIT && count > 1)
		adjust_init(session, &iov[1]);
	ssize_t n = writev(fd, iov, count);
	answered(session, unique);
	return n;
}

static ssize_t splice_reply(
	int from, off_t *from_offset, int to, off_t *to_offset, size_t len, unsigned flags, void *userdata)
{
	ssize_t n = splice(from, from_offset, to, to_offset, len, flags);
	answered(userdata, spliced);
	return n;
}

/* Never called: requests are read by serve() itself. libfuse wants it all the same. */
static ssize_t read_request(int fd, void *buf, size_t len, void *userdata)
{
	return read(fd, buf, len);
}

/* Processing. */

static bool has_answer(uint32_t opcode)
{
	return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT &&
	       opcode != FUSE_NOTIFY_REPLY;
}

static void process(struct lm_session *session, int slot)
{
	struct fuse_in_header *request = lm_journal_buffer(session->journal, slot);
	const uint64_t unique = request->unique;
	const uint32_t opcode = request->opcode;
	const struct fuse_buf buf = {.mem = request, .size = request->len};
	current.unique = unique;
	current.opcode = opcode;
	current.slot = slot;
	fuse_session_process_buf(session->fuse, &buf);
	if (!has_answer(opcode))
		lm_journal_answered(session->journal, unique, slot);
	current.unique = 0;
}

/*
 * Interrupts. The kernel says one per request, at the first signal of its caller, who may go on waiting; then a later
 * signal may be the one that ends it. Answered with EAGAIN, the kernel says an interrupt again.
 */

struct reminder {
	struct lm_session *session;
	uint64_t unique;
};

/* A job. Nothing comes of it when the request was answered meanwhile. */
static void remind(void *arg)
{
	CLEANUP(lm_freep) struct reminder *reminder = arg;
	const struct fuse_out_header out = {.len = sizeof(out), .error = -EAGAIN, .unique = reminder->unique};
	(void)!write(reminder->session->fd, &out, sizeof(out));
}

/* unique: the interrupt's. Without memory, a caller that is killed has to wait to the end. */
static void remind_later(struct lm_session *session, uint64_t unique)
{
	CLEANUP(lm_freep) struct reminder *reminder = malloc(sizeof(*reminder));
	if (!reminder)
		return;
	*reminder = (struct reminder){.session = session, .unique = unique};
	if (session->config.later(session->config.user, REMIND_MS, remind, reminder) == 0)
		(void)STEAL(reminder);
}

/* A request that was just read. */
static void handle(struct lm_session *session, int slot)
{
	const struct fuse_in_header *request = lm_journal_buffer(session->journal, slot);
	if (request->opcode == FUSE_INTERRUPT) /* has no place of its own: it is a note at another request */
		lm_journal_interrupted(session->journal, ((const struct fuse_interrupt_in *)(request + 1))->unique);
	else
		lm_journal_taken(session->journal, slot);
	if (request->opcode == FUSE_INIT)
		lm_journal_save_init(session->journal, request, request->len);
	const bool interrupt = request->opcode == FUSE_INTERRUPT;
	const uint64_t unique = request->unique;
	process(session, slot);
	if (interrupt)
		remind_later(session, unique);
}

/* Taking over. */

static void give_up(struct lm_session *session, int slot)
{
	const struct fuse_in_header *request = lm_journal_buffer(session->journal, slot);
	lm_log(LM_LOG_ERROR, "request given up: it was in hand each time the program crashed",
		LM_KV("mountpoint", "%s", session->config.mountpoint), LM_KV("opcode", "%u", request->opcode),
		LM_KV("node", "%llu", (unsigned long long)request->nodeid), LM_KV("pid", "%u", request->pid),
		LM_KV("crashes", "%u", lm_journal_deaths(session->journal, slot)));
	const struct fuse_out_header out = {.len = sizeof(out), .error = -EIO, .unique = request->unique};
	(void)!write(session->fd, &out, sizeof(out));
	atomic_fetch_add(&session->given_up, 1);
	lm_journal_answered(session->journal, out.unique, slot);
	lm_journal_release(session->journal, slot);
}

static void say_interrupt(struct lm_session *session, uint64_t unique)
{
	struct {
		struct fuse_in_header head;
		struct fuse_interrupt_in in;
	} request = {
		.head = {.len = sizeof(request), .opcode = FUSE_INTERRUPT, .unique = unique | 1},
		.in = {.unique = unique},
	};
	const struct fuse_buf buf = {.mem = &request, .size = sizeof(request)};
	fuse_session_process_buf(session->fuse, &buf);
	remind_later(session, request.head.unique);
}

static void replay(struct lm_session *session, int slot)
{
	const struct fuse_in_header *request = lm_journal_buffer(session->journal, slot);
	const uint64_t unique = request->unique;
	bool interrupted = lm_journal_was_interrupted(session->journal, slot);
	atomic_fetch_add(&session->replayed, 1);
	if (lm_journal_deaths(session->journal, slot) >= LM_JOURNAL_DEATHS_MAX) {
		give_up(session, slot);
		return;
	}
	process(session, slot);
	if (interrupted)
		say_interrupt(session, unique);
	lm_journal_release(session->journal, slot);
}

static void process_saved_init(struct lm_session *session)
{
	union {
		struct fuse_in_header head;
		uint8_t bytes[LM_JOURNAL_INIT_MAX];
	} copy;
	size_t len;
	const void *init = lm_journal_init(session->journal, &len);
	if (!init)
		return; /* it is still to come */
	memcpy(copy.bytes, init, len);
	copy.head.unique = SAVED_INIT;
	const struct fuse_buf buf = {.mem = &copy, .size = len};
	fuse_session_process_buf(session->fuse, &buf);
}

static int ask_to_resend(struct lm_session *session, struct lm_err *err)
{
	const struct fuse_out_header out = {.len = sizeof(out), .error = NOTIFY_RESEND};
	lm_journal_clear(session->journal);
	return write(session->fd, &out, sizeof(out)) < 0 ? lm_err_sys(err, -errno, "the kernel won't send again") : 0;
}

/* A journal of this version, for the INIT request of that in kept; replaces it. */
static int convert_journal(struct lm_session *session, struct lm_kept *kept, struct lm_err *err)
{
	struct lm_keeper_facts facts;
	uint8_t init[LM_JOURNAL_INIT_MAX];
	int len = lm_journal_read_init(kept->journal_fd, init, err);
	if (len < 0)
		return len;
	if (!offers(init, (size_t)len, HAS_RESEND_2))
		return lm_err_set(err, -EOPNOTSUPP,
			"requests are kept in another version's way, and the kernel sends none again");
	CLEANUP(lm_closep) int fd = lm_journal_create(err);
	if (fd < 0)
		return fd;
	lm_keeper_facts(session->config.keeper, &facts);
	int r = lm_journal_open(fd, facts.worker, &session->journal, err);
	if (r < 0)
		return r;
	lm_journal_save_init(session->journal, init, (size_t)len);
	close(kept->journal_fd);
	kept->journal_fd = STEAL_FD(fd);
	return lm_keeper_store(session->config.keeper, session->config.mountpoint, kept, err);
}

/* Tests choose the way that is otherwise rarely taken. */
static bool resend_is_wanted(const struct lm_session *session)
{
	const char *way = getenv("LAMELLA_RESUME");
	size_t len;
	const void *init = lm_journal_init(session->journal, &len);
	return way && strcmp(way, "resend") == 0 && init && offers(init, len, HAS_RESEND_2);
}

static int resume(struct lm_session *session, struct lm_kept *kept, struct lm_err *err)
{
	struct lm_keeper_facts facts;
	lm_keeper_facts(session->config.keeper, &facts);
	int r = lm_journal_open(kept->journal_fd, facts.worker, &session->journal, err);
	bool resend = r == -EOPNOTSUPP;
	if (resend)
		r = convert_journal(session, kept, err);
	if (r < 0)
		return r;
	/* The last process may have died while it was leaving. */
	(void)fcntl(session->fd, F_SETFL, fcntl(session->fd, F_GETFL) & ~O_NONBLOCK);
	process_saved_init(session);
	if (resend || resend_is_wanted(session))
		return ask_to_resend(session, err);
	lm_journal_recover(session->journal, facts.crashed);
	return 0;
}

/* Opening. */

static int make_fuse(struct lm_session *session, int fd, struct lm_err *err)
{
	static const struct fuse_custom_io io = {
		.read = read_request, .writev = send_reply, .splice_send = splice_reply};
	char name[] = "lamella-fetcher", *argv[] = {name, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	session->fuse =
		fuse_session_new(&args, session->config.operations, sizeof(*session->config.operations), session);
	fuse_opt_free_args(&args);
	if (!session->fuse || fuse_session_custom_io(session->fuse, &io, fd) != 0)
		return lm_err_set(err, -EINVAL, "libfuse refuses to make a session");
	session->fd = fd; /* libfuse's now */
	return 0;
}

static int open_kept(struct lm_session *session, struct lm_err *err)
{
	struct lm_kept kept;
	if (!lm_keeper_claim(session->config.keeper, session->config.mountpoint, &kept))
		return NOT_KEPT;
	int r = make_fuse(session, kept.fuse_fd, err);
	if (r == 0)
		r = resume(session, &kept, err);
	if (session->fd != kept.fuse_fd)
		close(kept.fuse_fd);
	close(kept.journal_fd);
	session->resumed = r == 0;
	return r;
}

static int open_new(struct lm_session *session, struct lm_err *err)
{
	const char *mountpoint = session->config.mountpoint;
	struct lm_keeper_facts facts;
	int r = lm_mountpoint_prepare(mountpoint, err);
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int journal_fd = lm_journal_create(err);
	if (journal_fd < 0)
		return journal_fd;
	lm_keeper_facts(session->config.keeper, &facts);
	r = lm_journal_open(journal_fd, facts.worker, &session->journal, err);
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int fd = lm_mountpoint_mount(mountpoint, session->config.source, err);
	if (fd < 0)
		return fd;
	const struct lm_kept kept = {.fuse_fd = fd, .journal_fd = journal_fd};
	r = make_fuse(session, fd, err);
	if (r == 0) {
		fd = -1;
		r = lm_keeper_store(session->config.keeper, mountpoint, &kept, err);
	}
	if (r < 0)
		lm_mountpoint_unmount(mountpoint);
	return r;
}

static struct lm_session *new_session(const struct lm_session_config *config)
{
	struct lm_session *session = aligned_alloc(CACHE_LINE, sizeof(*session));
	if (!session)
		return NULL;
	memset(session, 0, sizeof(*session));
	session->config = *config;
	session->fd = -1;
	session->config.mountpoint = strdup(config->mountpoint);
	if (session->config.mountpoint)
		return session;
	free(session);
	return NULL;
}

/* What can't be resumed would leave its users waiting for ever: they are cut off, and whoever comes next finds a new
 * mount. */
static void end_kept(const struct lm_session_config *config, const struct lm_err *why)
{
	lm_log(LM_LOG_ERROR, "session can't be resumed: mounted anew", LM_KV("mountpoint", "%s", config->mountpoint),
		LM_KV("cause", "%s", lm_err_text(why)));
	lm_mountpoint_unmount(config->mountpoint);
	lm_keeper_drop(config->keeper, config->mountpoint);
}

int lm_session_open(const struct lm_session_config *config, struct lm_session **ret, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	CLEANUP(lm_session_freep) struct lm_session *session = new_session(config);
	if (!session)
		return lm_err_oom(err);
	int r = open_kept(session, &why);
	if (r != 0) {
		if (r != NOT_KEPT)
			end_kept(config, &why);
		lm_session_free(session);
		session = new_session(config);
		r = session ? open_new(session, err) : lm_err_oom(err);
	}
	if (r == 0)
		*ret = STEAL(session);
	return r;
}

/* Threads. */

static void beat(struct thread *thread)
{
	atomic_store_explicit(
		&thread->beat, atomic_load_explicit(&thread->beat, memory_order_relaxed) + 1, memory_order_relaxed);
}

static bool may_go_on(struct lm_session *session, ssize_t n)
{
	if (n >= 0)
		return true;
	if (errno == EINTR || errno == EAGAIN || errno == ENOENT) /* ENOENT: its caller gave up while it was read */
		return true;
	if (errno != ENODEV)
		lm_log(LM_LOG_ERROR, "no more requests can be read",
			LM_KV("mountpoint", "%s", session->config.mountpoint), LM_KV("cause", "%m"));
	return false;
}

static void receive(struct thread *thread)
{
	struct lm_session *session = thread->session;
	int slot = lm_journal_take(session->journal);
	while (slot >= 0 && !atomic_load_explicit(&session->stopping, memory_order_relaxed)) {
		ssize_t n = read(session->fd, lm_journal_buffer(session->journal, slot), LM_JOURNAL_SLOT_BYTES);
		if (!may_go_on(session, n))
			break;
		if (n >= (ssize_t)sizeof(struct fuse_in_header)) {
			beat(thread);
			handle(session, slot);
			beat(thread);
		}
		slot = lm_journal_next(session->journal, slot);
	}
	lm_journal_release(session->journal, slot);
}

static void *serve(void *arg)
{
	struct thread *thread = arg;
	struct lm_session *session = thread->session;
	int slot;
	while (!atomic_load(&session->stopping) && (slot = lm_journal_left(session->journal)) >= 0) {
		beat(thread);
		replay(session, slot);
		beat(thread);
	}
	receive(thread);
	if (atomic_fetch_sub(&session->serving, 1) != 1 || atomic_load(&session->stopping))
		return NULL;
	fuse_session_exit(session->fuse); /* late answers have nobody to go to, which is no error */
	lm_keeper_drop(session->config.keeper, session->config.mountpoint);
	session->config.on_end(session->config.user);
	return NULL;
}

static void woken(int signal_number)
{
	(void)signal_number; /* the interrupted system call is the message */
}

int lm_session_start(struct lm_session *session, struct lm_err *err)
{
	unsigned count = LM_MIN(LM_MAX(session->config.threads, 1U), (unsigned)THREADS_MAX);
	sigaction(WAKE_SIGNAL, &(struct sigaction){.sa_handler = woken}, NULL);
	atomic_store(&session->serving, count);
	for (unsigned i = 0; i < count; i++) {
		struct thread *thread = &session->threads[i];
		thread->session = session;
		int r = -pthread_create(&thread->id, NULL, serve, thread);
		if (r < 0)
			return lm_err_sys(err, r, "threads for %s", session->config.mountpoint);
		session->thread_count++;
		pthread_setname_np(thread->id, "fuse");
	}
	return 0;
}

bool lm_session_progress(struct lm_session *session)
{
	bool any = session->thread_count == 0;
	for (unsigned i = 0; i < session->thread_count; i++) {
		struct thread *thread = &session->threads[i];
		uint64_t now = atomic_load_explicit(&thread->beat, memory_order_relaxed);
		any |= now % 2 == 0 || now != thread->seen;
		thread->seen = now;
	}
	return any;
}

/*
 * Ends the threads also where the connection outlives the unmounting, because files are still open. Whoever has not
 * begun to read will not wait in there, whoever waits is woken.
 */
static void join_threads(struct lm_session *session)
{
	int flags = fcntl(session->fd, F_GETFL);
	(void)fcntl(session->fd, F_SETFL, flags | O_NONBLOCK);
	lm_journal_stop(session->journal);
	for (unsigned i = 0; i < session->thread_count; i++)
		pthread_kill(session->threads[i].id, WAKE_SIGNAL);
	for (unsigned i = 0; i < session->thread_count; i++)
		pthread_join(session->threads[i].id, NULL);
	(void)fcntl(session->fd, F_SETFL, flags); /* it is the keeper's, too */
}

void lm_session_stop(struct lm_session *session)
{
	if (!session || atomic_exchange(&session->stopping, true))
		return;
	/* If all threads left before, the name may belong to another mount by now. */
	if (session->thread_count == 0 || atomic_load(&session->serving) > 0) {
		if (lm_mountpoint_unmount(session->config.mountpoint))
			lm_log(LM_LOG_WARN, "unmounted while in use",
				LM_KV("mountpoint", "%s", session->config.mountpoint));
		lm_keeper_drop(session->config.keeper, session->config.mountpoint);
	}
	join_threads(session);
}

void lm_session_leave(struct lm_session *session)
{
	if (!session || atomic_exchange(&session->stopping, true))
		return;
	atomic_store(&session->left, true);
	join_threads(session);
}

void lm_session_free(struct lm_session *session)
{
	if (!session)
		return;
	if (session->fuse)
		fuse_session_destroy(session->fuse);
	lm_journal_free(session->journal);
	free((char *)session->config.mountpoint);
	free(session);
}

void lm_session_stats_add(struct lm_session *session, struct lm_session_stats *sum)
{
	struct lm_journal_stats journal;
	lm_journal_stats(session->journal, &journal);
	sum->resumed |= session->resumed;
	sum->waiting += journal.waiting;
	sum->replayed += atomic_load(&session->replayed);
	sum->given_up += atomic_load(&session->given_up);
}
