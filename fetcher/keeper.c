#include "fetcher/keeper.h"

#include "base/file.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/notify.h"
#include "fetcher/keeper_message.h"
#include "fetcher/keeper_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/stat.h>

struct held { /* a session that nobody has claimed */
	struct lm_kept kept;
	SLIST_ENTRY(held) entry;
	char mountpoint[];
};

struct lm_keeper {
	int socket;
	int interval_ms; /* constant after start, as are the facts */
	struct lm_keeper_facts facts;
	enum lm_kept_settings settings; /* main thread only, as all here */
	int settings_fd;
	char unwanted[LM_MESSAGE_TEXT_MAX + 1];
	struct lm_lock lock;
	SLIST_HEAD(, held) held; /* under lock */
};

static void held_free(struct held *held)
{
	if (!held)
		return;
	lm_closep(&held->kept.fuse_fd);
	lm_closep(&held->kept.journal_fd);
	free(held);
}

/* The environment says "SOCKET:KEEPER'S PID"; it is meant for this process alone. */
static bool parse_environment(int *ret_socket, int *ret_parent)
{
	const char *text = getenv(LM_KEEPER_ENV);
	bool is_worker = text && sscanf(text, "%d:%d", ret_socket, ret_parent) == 2;
	unsetenv(LM_KEEPER_ENV);
	return is_worker;
}

/* They are on their way before this process starts; a keeper of an older version sends none. */
static int receive_settings(struct lm_keeper *keeper, struct lm_err *err)
{
	struct pollfd pollfd = {.fd = keeper->socket, .events = POLLIN};
	struct lm_message message;
	int fds[2];
	if (poll(&pollfd, 1, 0) <= 0)
		return 0;
	int r = lm_message_receive(keeper->socket, &message, fds, err);
	if (r == 0 || (r == 1 && message.kind == LM_MESSAGE_LEAVE))
		return lm_err_set(err, -ECANCELED, "not needed any more");
	if (r == 1 && message.kind == LM_MESSAGE_SETTINGS && fds[0] >= 0) {
		keeper->settings_fd = STEAL_FD(fds[0]);
		keeper->settings = message.numbers[0] == LM_KEPT_IN_FORCE ? LM_KEPT_IN_FORCE : LM_KEPT_SPARE;
	}
	lm_closep(&fds[0]);
	lm_closep(&fds[1]);
	return LM_MIN(r, 0);
}

int lm_keeper_connect(struct lm_keeper **ret, struct lm_err *err)
{
	int fd, parent;
	*ret = NULL;
	if (!parse_environment(&fd, &parent))
		return 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		return lm_err_set(err, -ECANCELED, "the keeper has gone");
	CLEANUP(lm_keeper_freep) struct lm_keeper *keeper = calloc(1, sizeof(*keeper));
	if (!keeper)
		return lm_err_oom(err);
	lm_lock_init(&keeper->lock);
	SLIST_INIT(&keeper->held);
	keeper->socket = fd;
	keeper->settings_fd = -1;
	keeper->interval_ms = -1;
	(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	int r = receive_settings(keeper, err);
	if (r == 0)
		*ret = STEAL(keeper);
	return r;
}

void lm_keeper_free(struct lm_keeper *keeper)
{
	if (!keeper)
		return;
	struct held *held;
	while ((held = SLIST_FIRST(&keeper->held))) {
		SLIST_REMOVE_HEAD(&keeper->held, entry);
		held_free(held);
	}
	lm_closep(&keeper->settings_fd);
	lm_closep(&keeper->socket);
	lm_lock_done(&keeper->lock);
	free(keeper);
}

static int say(
	struct lm_keeper *keeper, enum lm_message_kind kind, const char *text, const int fds[2], struct lm_err *err)
{
	struct lm_message message = {.kind = kind};
	if (strlen(text) > LM_MESSAGE_TEXT_MAX)
		return lm_err_set(err, -ENAMETOOLONG, "the keeper can't be told: too long");
	strcpy(message.text, text);
	return lm_message_send(keeper->socket, &message, fds, err);
}

static int hold(struct lm_keeper *keeper, const char *mountpoint, int fds[2], struct lm_err *err)
{
	struct held *held = malloc(sizeof(*held) + strlen(mountpoint) + 1);
	if (!held)
		return lm_err_oom(err);
	strcpy(held->mountpoint, mountpoint);
	held->kept = (struct lm_kept){.fuse_fd = STEAL_FD(fds[0]), .journal_fd = STEAL_FD(fds[1])};
	LM_LOCKED(&keeper->lock);
	SLIST_INSERT_HEAD(&keeper->held, held, entry);
	return 0;
}

static void start(struct lm_keeper *keeper, const struct lm_message *message)
{
	keeper->facts = (struct lm_keeper_facts){
		.worker = message->numbers[0],
		.crashed = message->numbers[1],
		.keeper_start_s = (int64_t)message->numbers[2],
		.restarts = message->numbers[3],
	};
	if (message->numbers[4] > 0 && message->numbers[4] < INT32_MAX)
		keeper->interval_ms = (int)message->numbers[4];
	snprintf(keeper->facts.last_end, sizeof(keeper->facts.last_end), "%s", message->text);
}

int lm_keeper_settings(
	struct lm_keeper *keeper, enum lm_kept_settings *ret_kind, struct lm_buf *ret, struct lm_err *err)
{
	struct stat st;
	*ret_kind = LM_KEPT_NONE;
	if (!keeper || keeper->settings == LM_KEPT_NONE)
		return 0;
	if (fstat(keeper->settings_fd, &st) < 0)
		return lm_err_sys(err, -errno, "kept settings");
	int r = lm_buf_reserve(ret, (size_t)st.st_size);
	if (r < 0)
		return lm_err_set(err, r, "kept settings are too long");
	r = lm_pread_all(keeper->settings_fd, ret->data + ret->len, (size_t)st.st_size, 0, err);
	if (r < 0)
		return r;
	ret->len += (size_t)st.st_size;
	*ret_kind = keeper->settings;
	return 0;
}

int lm_keeper_keep_settings(struct lm_keeper *keeper, const struct lm_buf *packed, struct lm_err *err)
{
	const struct lm_message message = {.kind = LM_MESSAGE_KEEP_SETTINGS};
	if (!keeper)
		return 0;
	CLEANUP(lm_closep) int fd = memfd_create("lamella-settings", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return lm_err_sys(err, -errno, "memory for settings");
	int r = lm_write_all(fd, packed->data, packed->len, err);
	if (r == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		r = lm_err_sys(err, -errno, "memory for settings");
	return r == 0 ? lm_message_send(keeper->socket, &message, (const int[2]){fd, -1}, err) : r;
}

int lm_keeper_wait_for_start(struct lm_keeper *keeper, struct lm_err *err)
{
	if (!keeper)
		return 0;
	int r = say(keeper, LM_MESSAGE_HELLO, "", NULL, err);
	while (r == 0) {
		struct lm_message message;
		int fds[2];
		r = lm_message_receive(keeper->socket, &message, fds, err);
		if (r == 0 || (r == 1 && message.kind == LM_MESSAGE_LEAVE))
			return lm_err_set(err, -ECANCELED, "not needed any more");
		if (r < 0)
			break;
		r = message.kind == LM_MESSAGE_SESSION ? hold(keeper, message.text, fds, err) : 0;
		lm_closep(&fds[0]);
		lm_closep(&fds[1]);
		if (message.kind == LM_MESSAGE_START) {
			start(keeper, &message);
			return 0;
		}
	}
	return r;
}

static struct held *find(struct lm_keeper *keeper, const char *mountpoint)
{
	struct held *held;
	lm_lock_assert(&keeper->lock);
	SLIST_FOREACH(held, &keeper->held, entry)
	if (strcmp(held->mountpoint, mountpoint) == 0)
		return held;
	return NULL;
}

bool lm_keeper_has(struct lm_keeper *keeper, const char *mountpoint)
{
	if (!keeper)
		return false;
	LM_LOCKED(&keeper->lock);
	return find(keeper, mountpoint) != NULL;
}

bool lm_keeper_claim(struct lm_keeper *keeper, const char *mountpoint, struct lm_kept *ret)
{
	if (!keeper)
		return false;
	LM_LOCKED(&keeper->lock);
	struct held *held = find(keeper, mountpoint);
	if (!held)
		return false;
	SLIST_REMOVE(&keeper->held, held, held, entry);
	*ret = held->kept;
	free(held);
	return true;
}

const char *lm_keeper_unwanted(struct lm_keeper *keeper, bool (*wanted)(void *arg, const char *mountpoint), void *arg)
{
	struct held *held;
	if (!keeper)
		return NULL;
	LM_LOCKED(&keeper->lock);
	SLIST_FOREACH(held, &keeper->held, entry)
	{
		if (wanted(arg, held->mountpoint))
			continue;
		SLIST_REMOVE(&keeper->held, held, held, entry);
		snprintf(keeper->unwanted, sizeof(keeper->unwanted), "%s", held->mountpoint);
		held_free(held);
		return keeper->unwanted;
	}
	return NULL;
}

int lm_keeper_store(struct lm_keeper *keeper, const char *mountpoint, const struct lm_kept *kept, struct lm_err *err)
{
	return keeper ? say(keeper, LM_MESSAGE_STORE, mountpoint, (const int[2]){kept->fuse_fd, kept->journal_fd}, err)
		      : 0;
}

/* A keeper that can't be told any more has died, and this process with it. */
static void tell(struct lm_keeper *keeper, enum lm_message_kind kind, const char *text)
{
	if (keeper)
		(void)!say(keeper, kind, text, NULL, NULL);
}

void lm_keeper_drop(struct lm_keeper *keeper, const char *mountpoint)
{
	tell(keeper, LM_MESSAGE_DROP, mountpoint);
}

void lm_keeper_notify(struct lm_keeper *keeper, const char *state)
{
	struct lm_err err = LM_ERR_INIT;
	if (keeper)
		tell(keeper, LM_MESSAGE_NOTIFY, state);
	else if (lm_notify(state, &err) < 0)
		lm_log(LM_LOG_WARN, "service manager can't be told", LM_KV("cause", "%s", err.msg));
}

int lm_keeper_interval_ms(const struct lm_keeper *keeper)
{
	return keeper ? keeper->interval_ms : -1;
}

void lm_keeper_alive(struct lm_keeper *keeper)
{
	tell(keeper, LM_MESSAGE_ALIVE, "");
}

int lm_keeper_fd(const struct lm_keeper *keeper)
{
	return keeper ? keeper->socket : -1;
}

bool lm_keeper_wants_leave(struct lm_keeper *keeper)
{
	struct lm_message message;
	int fds[2];
	int r = lm_message_receive(keeper->socket, &message, fds, NULL);
	if (r == 1) {
		lm_closep(&fds[0]);
		lm_closep(&fds[1]);
	}
	return r == 0 || (r == 1 && message.kind == LM_MESSAGE_LEAVE);
}

int lm_keeper_replace(struct lm_keeper *keeper, struct lm_err *err)
{
	if (!keeper)
		return lm_err_set(err, -EINVAL, "what needs another worker needs a restart: there is no keeper");
	/* The parent is the keeper: this process ends with it. */
	return kill(getppid(), SIGUSR2) < 0 ? lm_err_sys(err, -errno, "keeper") : 0;
}

void lm_keeper_end(struct lm_keeper *keeper)
{
	tell(keeper, LM_MESSAGE_END, "");
}

void lm_keeper_facts(const struct lm_keeper *keeper, struct lm_keeper_facts *ret)
{
	*ret = keeper ? keeper->facts : (struct lm_keeper_facts){0};
}
