#include "s3/lease.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/str.h"
#include "common.h"
#include "repo/holder.h"

#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

enum {
	LEASE_S = 300,
	RENEW_S = 60,
	MARGIN_S = 30, /* what a request may take between the check and its effect */
	ID_BYTES = 16,
	TEXT_MAX = 1024,
	TRIES = 4, /* of taking it, while others come and go */
	RELEASE_WAIT_MS = 3000,
	LOOK_MS = 5000, /* for a holder elsewhere to be done */
};

struct text { /* the object's content */
	char s[TEXT_MAX];
};

struct lm_s3_lease {
	/* constant once it is taken */
	struct lm_s3 *s3;
	int fd; /* the file, locked */
	char id[2 * ID_BYTES + 1];
	struct lm_holder self;
	bool conditional;

	/* the renewal's: one at a time */
	struct lm_s3_call call;
	struct text text;
	struct lm_buf seen;
	char condition[LM_S3_ETAG_MAX + 16];
	int64_t asked_s;
	unsigned renewals;

	/* under lock */
	struct lm_lock lock;
	struct lm_cond idle;
	char etag[LM_S3_ETAG_MAX];
	int64_t renewed_s; /* when the last renewal was asked for, on a clock that counts while suspended */
	bool busy, stopping, lost;
};

static int64_t boot_s(void)
{
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec;
}

bool lm_s3_lease_conditional(const struct lm_s3_lease *lease)
{
	return lease->conditional;
}

/* --- the file on this machine --- */

/* The file names who has it. */
static int lock_file(int fd, const char *path, const struct lm_storage_wait *wait, struct lm_err *err)
{
	char text[TEXT_MAX] = "";
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno != EWOULDBLOCK)
		return lm_err_sys(err, -errno, "lock %s", path);
	ssize_t len = pread(fd, text, sizeof(text) - 1, 0);
	const struct lm_holder holder = lm_holder_parse(len > 0 ? text : "");
	const struct lm_holder_text who = lm_holder_describe(&holder);
	if (!wait)
		return lm_err_set(err, -EBUSY, "%s", who.s);
	wait->waiting(wait->arg, who.s);
	return TEMP_FAILURE_RETRY(flock(fd, LOCK_EX)) < 0 ? lm_err_sys(err, -errno, "lock %s", path) : 0;
}

static int new_id(char ret[2 * ID_BYTES + 1], struct lm_err *err)
{
	uint8_t random[ID_BYTES];
	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return lm_err_sys(err, -errno, "getrandom");
	lm_hex_format(random, sizeof(random), ret);
	return 0;
}

/* The identity, and who has it: the identity of an earlier run is kept. */
static int take_file(struct lm_s3_lease *l, const char *path, const struct lm_storage_wait *wait, struct lm_err *err)
{
	char text[TEXT_MAX] = "";
	uint8_t id[ID_BYTES];
	l->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (l->fd < 0)
		return lm_err_sys(err, -errno, "open %s", path);
	int r = lock_file(l->fd, path, wait, err);
	if (r < 0)
		return r;
	ssize_t len = pread(l->fd, text, sizeof(text) - 1, 0);
	if (len < 0)
		return lm_err_sys(err, -errno, "read %s", path);
	if (len >= 2 * ID_BYTES && lm_hex_parse(text, id, ID_BYTES) == 0)
		lm_hex_format(id, ID_BYTES, l->id);
	r = l->id[0] ? 0 : new_id(l->id, err);
	if (r < 0)
		return r;
	l->self = lm_holder_self();
	int n = snprintf(text, sizeof(text), "%s\n%s", l->id, lm_holder_format(&l->self).s);
	if (ftruncate(l->fd, 0) < 0)
		return lm_err_sys(err, -errno, "truncate %s", path);
	return lm_pwrite_all(l->fd, text, (size_t)n, 0, err);
}

/* --- the object --- */

static void write_text(struct lm_s3_lease *l)
{
	snprintf(l->text.s, sizeof(l->text.s), "id=%s\n%srenewals=%u\n", l->id, lm_holder_format(&l->self).s,
		l->renewals++);
}

/* The value of a line, "" where there is none. */
static void find_line(const char *text, const char *name, char *ret, size_t size)
{
	const char *line = strstr(text, name);
	line = line ? line + strlen(name) : "";
	snprintf(ret, size, "%.*s", (int)strcspn(line, "\n"), line);
}

static bool is_ours(const struct lm_s3_lease *l, const char *text)
{
	char id[2 * ID_BYTES + 2];
	find_line(text, "id=", id, sizeof(id));
	return strcmp(id, l->id) == 0;
}

/* etag: what must be there; NULL: nothing; "": anything. */
static int prepare_put(struct lm_s3_lease *l, struct lm_s3_call *call, const char *etag, struct lm_err *err)
{
	write_text(l);
	*call = LM_S3_CALL("PUT", LM_S3_LOCK_NAME);
	call->upload = (struct lm_http_upload){l->text.s, strlen(l->text.s), -1};
	if (!etag)
		snprintf(l->condition, sizeof(l->condition), "If-None-Match: *");
	else
		snprintf(l->condition, sizeof(l->condition), "If-Match: %s", etag);
	call->headers[0] = etag && !*etag ? NULL : l->condition;
	return lm_s3_hash(call, err);
}

static int put(struct lm_s3_lease *l, const char *etag, struct lm_err *err)
{
	int r = prepare_put(l, &l->call, etag, err);
	l->asked_s = boot_s();
	if (r == 0)
		r = lm_s3_run(l->s3, &l->call, err);
	if (r < 0)
		return r;
	snprintf(l->etag, sizeof(l->etag), "%s", l->call.etag);
	l->renewed_s = l->asked_s;
	return 0;
}

static int busy_there(const struct lm_s3_call *seen, const char *text, struct lm_err *err)
{
	const struct lm_holder holder = lm_holder_parse(text);
	long long age_s = LM_MAX(seen->date_s - seen->modified_s, (int64_t)0);
	return lm_err_set(err, -EBUSY, "%s; seen %lld s ago, given up %d s after it was seen last",
		lm_holder_describe(&holder).s, age_s, LEASE_S);
}

static bool has_expired(const struct lm_s3_call *seen)
{
	return seen->date_s > 0 && seen->modified_s > 0 && seen->date_s - seen->modified_s > LEASE_S;
}

/* A server that knows conditions refuses to make what is there. */
static int probe(struct lm_s3_lease *l, struct lm_err *err)
{
	int r = put(l, NULL, err);
	if (r == -EEXIST)
		return 0;
	if (r < 0)
		return r;
	l->conditional = false;
	return 0;
}

/* -EAGAIN: others were faster, look again. */
static int take_object(struct lm_s3_lease *l, struct lm_err *err)
{
	struct lm_s3_call seen = LM_S3_CALL("GET", LM_S3_LOCK_NAME);
	lm_buf_clear(&l->seen);
	seen.body = &l->seen;
	int r = lm_s3_run(l->s3, &seen, err);
	if (r < 0 && r != -ENOENT)
		return r;
	bool there = r == 0;
	if (there && !is_ours(l, lm_buf_cstr(&l->seen)) && !has_expired(&seen))
		return busy_there(&seen, lm_buf_cstr(&l->seen), err);
	r = put(l, !l->conditional ? "" : there ? seen.etag : NULL, err);
	if (r == -EEXIST || r == -ENOENT)
		return -EAGAIN;
	if (r == -ENOSYS && l->conditional) {
		l->conditional = false;
		return -EAGAIN;
	}
	return r < 0 || !l->conditional ? r : probe(l, err);
}

/* Without conditions the last writer has it. */
static int confirm(struct lm_s3_lease *l, struct lm_err *err)
{
	struct lm_s3_call seen = LM_S3_CALL("GET", LM_S3_LOCK_NAME);
	lm_buf_clear(&l->seen);
	seen.body = &l->seen;
	int r = lm_s3_run(l->s3, &seen, err);
	if (r < 0)
		return r;
	if (!is_ours(l, lm_buf_cstr(&l->seen)))
		return busy_there(&seen, lm_buf_cstr(&l->seen), err);
	lm_cli_say("this S3 server ignores conditions on writing: do not publish into the repository from two machines "
		   "at once");
	return 0;
}

/* --- renewal, on the engine's thread --- */

static void renew(void *arg);

static void renewal_ended(struct lm_s3_lease *l, bool lost)
{
	LM_LOCKED(&l->lock);
	l->busy = false;
	l->lost |= lost;
	lm_cond_signal(&l->idle);
	if (!l->lost && !l->stopping)
		l->lost = lm_http_call(lm_s3_http(l->s3), RENEW_S * 1000, renew, l) < 0;
}

static void set_renewed(struct lm_s3_lease *l, const char *etag)
{
	LM_LOCKED(&l->lock);
	snprintf(l->etag, sizeof(l->etag), "%s", etag);
	l->renewed_s = l->asked_s;
}

static void looked(struct lm_s3_call *call)
{
	struct lm_s3_lease *l = call->arg;
	bool ours = call->code == 0 && is_ours(l, lm_buf_cstr(&l->seen));
	if (ours)
		set_renewed(l, call->etag);
	renewal_ended(l, call->code == -ENOENT || (call->code == 0 && !ours));
}

/* The condition may have failed because of our own renewal, whose answer was lost. */
static void look(struct lm_s3_lease *l)
{
	l->call = LM_S3_CALL("GET", LM_S3_LOCK_NAME);
	lm_buf_clear(&l->seen);
	l->call.body = &l->seen;
	l->call.on_done = looked;
	l->call.arg = l;
	if (lm_s3_start(l->s3, &l->call, NULL) < 0)
		renewal_ended(l, false);
}

static void renewed(struct lm_s3_call *call)
{
	struct lm_s3_lease *l = call->arg;
	if (call->code == -EEXIST && call->tries > 1) {
		look(l);
		return;
	}
	if (call->code == 0)
		set_renewed(l, call->etag);
	renewal_ended(l, call->code == -EEXIST || call->code == -ENOENT);
}

static void renew(void *arg)
{
	struct lm_s3_lease *l = arg;
	lm_lock_take(&l->lock);
	bool stopping = l->stopping;
	l->busy = !stopping;
	lm_lock_release(&l->lock);
	if (stopping)
		return;
	int r = prepare_put(l, &l->call, l->conditional ? l->etag : "", NULL);
	l->call.on_done = renewed;
	l->call.arg = l;
	l->asked_s = boot_s();
	if (r < 0 || lm_s3_start(l->s3, &l->call, NULL) < 0)
		renewal_ended(l, false);
}

/* --- life --- */

int lm_s3_lease_check(struct lm_s3_lease *l, struct lm_err *err)
{
	LM_LOCKED(&l->lock);
	if (!l->lost && boot_s() - l->renewed_s < LEASE_S - MARGIN_S)
		return 0;
	return lm_err_set(err, -ESTALE, "the lock on the repository %s: somebody else may be publishing by now",
		l->lost ? "was taken over" : "could not be renewed in time");
}

static void pause_ms(int64_t ms)
{
	struct timespec until = lm_mono_after_ms(ms);
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

static int take_object_soon(struct lm_s3_lease *l, struct lm_err *err)
{
	int r = -EAGAIN;
	for (unsigned i = 0; i < TRIES && r == -EAGAIN; i++)
		r = take_object(l, err);
	if (r == -EAGAIN)
		return lm_err_set(err, -EBUSY, "others are taking the lock of this repository");
	return r;
}

static int take(struct lm_s3_lease *l, const char *path, const struct lm_storage_wait *wait, struct lm_err *err)
{
	struct lm_err busy = LM_ERR_INIT;
	int r = take_file(l, path, wait, err);
	if (r < 0)
		return r;
	r = take_object_soon(l, &busy);
	if (r == -EBUSY && wait)
		wait->waiting(wait->arg, busy.msg);
	while (r == -EBUSY && wait) {
		pause_ms(LOOK_MS);
		r = take_object_soon(l, &busy);
	}
	if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&busy));
	if (r == 0 && !l->conditional)
		r = confirm(l, err);
	if (r == 0 && lm_http_call(lm_s3_http(l->s3), RENEW_S * 1000, renew, l) < 0)
		r = lm_err_oom(err);
	return r;
}

int lm_s3_lease_take(struct lm_s3 *s3, const char *path, const struct lm_storage_wait *wait, struct lm_s3_lease **ret,
	struct lm_err *err)
{
	struct lm_s3_lease *l = calloc(1, sizeof(*l));
	if (!l)
		return lm_err_oom(err);
	l->s3 = s3;
	l->fd = -1;
	l->conditional = true;
	l->seen = LM_BUF(TEXT_MAX);
	lm_lock_init(&l->lock);
	lm_cond_init(&l->idle);
	int r = take(l, path, wait, err);
	if (r < 0) {
		lm_s3_lease_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

/* A renewal that hangs is left to the end of the client, and the object to its expiry. */
static bool stop_renewing(struct lm_s3_lease *l)
{
	LM_LOCKED(&l->lock);
	l->stopping = true;
	if (l->busy)
		(void)lm_cond_wait_ms(&l->idle, &l->lock, RELEASE_WAIT_MS);
	return !l->busy && !l->lost;
}

void lm_s3_lease_release(struct lm_s3_lease *l)
{
	if (!stop_renewing(l) || lm_s3_lease_check(l, NULL) < 0)
		return;
	struct lm_s3_call call = LM_S3_CALL("DELETE", LM_S3_LOCK_NAME);
	call.hurried = true;
	if (lm_s3_run(l->s3, &call, NULL) < 0)
		return; /* it expires */
}

void lm_s3_lease_free(struct lm_s3_lease *l)
{
	if (!l)
		return;
	lm_closep(&l->fd);
	lm_buf_done(&l->seen);
	lm_cond_done(&l->idle);
	lm_lock_done(&l->lock);
	free(l);
}
