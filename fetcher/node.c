#include "fetcher/node.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"
#include "fetcher/control.h"
#include "fetcher/fuse.h"
#include "fetcher/layers.h"
#include "fetcher/mountpoint.h"
#include "fetcher/pins.h"
#include "fetcher/repository.h"
#include "fetcher/session.h"
#include "fetcher/web.h"
#include "net/pages.h"

#include <string.h>
#include <sys/eventfd.h>

enum { FUSE_THREADS = 4, WORKERS_MIN = 4, QUEUE_MAX = 4096, ROOTLESS_TTL_S = 5, TELL_MS = 5000 };

enum { WHOLE, LEAN, FACES };

struct mount { /* one repository of the node */
	struct lm_node *node;
	struct lm_repository *repository;
	struct face {
		struct mount *mount;
		char *mountpoint; /* NULL: it has no such face */
		/* under mount->lock */
		struct lm_fuse *fuse; /* NULL: not mounted yet */
		bool ended;	      /* taken away from outside */
	} faces[FACES];

	struct lm_lock lock;
	/* under lock */
	bool stopping;
	struct lm_err err; /* why it could not be mounted */
};

struct lm_node {
	struct lm_settings *settings; /* by which it was started; counted */
	struct lm_settings *latest;   /* main thread only; counted */
	struct lm_http *http;
	struct lm_cache *cache;
	struct lm_pins *pins;
	struct lm_work *work;
	struct lm_control *control;
	struct lm_web *web;
	struct lm_layers *layers;
	struct lm_repository **repositories; /* of the mounts */
	struct lm_control_config control_config;
	struct lm_keeper *keeper;
	bool started;
	unsigned engine_asked; /* main thread only */
	_Atomic(unsigned) engine_answered;
	int idle_fd;
	_Atomic(unsigned) living; /* mounts */
	size_t count;
	struct mount mounts[];
};

/* On a thread of the mount. */
static void on_end(void *arg)
{
	struct face *face = arg;
	struct mount *m = face->mount;
	lm_lock_take(&m->lock);
	face->ended = true;
	lm_lock_release(&m->lock);
	lm_log(LM_LOG_INFO, "unmounted from outside", LM_KV("repository", "%s", lm_repository_fqrn(m->repository)),
		LM_KV("mountpoint", "%s", face->mountpoint));
	if (face == &m->faces[WHOLE] && atomic_fetch_sub(&m->node->living, 1) == 1)
		(void)!eventfd_write(m->node->idle_fd, 1);
}

static int mount_face(struct face *face, uint64_t ttl_s, struct lm_err *err)
{
	struct mount *m = face->mount;
	struct lm_node *node = m->node;
	const struct lm_fuse_config config = {
		.fqrn = lm_repository_fqrn(m->repository),
		.mountpoint = face->mountpoint,
		.lean = face == &m->faces[LEAN],
		.tree = lm_repository_tree(m->repository),
		.fetch = lm_repository_fetch(m->repository),
		.cache = node->cache,
		.work = node->work,
		.keeper = node->keeper,
		.threads = FUSE_THREADS,
		.root_ttl_s = ttl_s,
		.on_end = on_end,
		.arg = face,
	};
	return lm_fuse_new(&config, &face->fuse, err);
}

/* Lock held. Without its lean face a repository serves all the same. */
static int mount_it(struct mount *m, uint64_t ttl_s, struct lm_err *err)
{
	struct face *lean = &m->faces[LEAN];
	struct lm_err why = LM_ERR_INIT;
	atomic_fetch_add(&m->node->living, 1);
	int r = mount_face(&m->faces[WHOLE], ttl_s, err);
	if (r < 0)
		atomic_fetch_sub(&m->node->living, 1);
	else if (lean->mountpoint && mount_face(lean, ttl_s, &why) < 0)
		lm_log(LM_LOG_WARN, "no mount without extended attributes",
			LM_KV("repository", "%s", lm_repository_fqrn(m->repository)),
			LM_KV("cause", "%s", lm_err_text(&why)));
	return r;
}

static void log_ready(const struct mount *m, const struct lm_repository_root *root)
{
	struct lm_repository_status status;
	lm_repository_status(m->repository, &status);
	lm_log(LM_LOG_INFO, "ready", LM_KV("repository", "%s", lm_repository_fqrn(m->repository)),
		LM_KV("mountpoint", "%s", m->faces[WHOLE].mountpoint),
		LM_KV("revision", "%llu", (unsigned long long)root->revision),
		LM_KV("root", "%s", lm_hash_text(&root->hash).s),
		LM_KV("fixed", "%s", status.pin[0] ? status.pin : "no"));
}

/* What is to be told of a new root: each is there to the end, once it is there. */
struct told {
	struct lm_fuse *fuses[FACES];
	size_t count;
	bool mounted; /* just now */
};

static void tell(struct face *face, uint32_t from, const struct lm_repository_root *root, struct told *told)
{
	if (!face->fuse || face->ended)
		return;
	lm_fuse_root_changed(face->fuse, from, root->catalog, root->ttl_s);
	told->fuses[told->count++] = face->fuse;
}

/* Lock held. */
static void mount_and_tell(struct mount *m, const struct lm_repository_root *root, struct told *told)
{
	if (mount_it(m, root->ttl_s, &m->err) < 0) {
		lm_log(LM_LOG_ERROR, "can't be mounted", LM_KV("repository", "%s", lm_repository_fqrn(m->repository)),
			LM_KV("cause", "%s", lm_err_text(&m->err)));
		return;
	}
	log_ready(m, root);
	told->mounted = true;
	/* What the kernel knows by the last process is of the recorded root, or of one that can't be compared. */
	for (struct face *face = m->faces; face < m->faces + FACES && !root->recorded; face++)
		if (face->fuse && lm_fuse_resumed(face->fuse))
			tell(face, 0, root, told);
}

/* Mounts where that was not done yet. */
static struct told begin_telling(struct mount *m, uint32_t from, const struct lm_repository_root *root)
{
	struct told told = {0};
	LM_LOCKED(&m->lock);
	if (m->stopping || m->faces[WHOLE].ended)
		return told;
	if (!m->faces[WHOLE].fuse) {
		mount_and_tell(m, root, &told);
		return told;
	}
	for (struct face *face = m->faces; face < m->faces + FACES; face++)
		tell(face, from, root, &told);
	return told;
}

/* On the repository's thread: the revision is announced when this returns, and then is to be seen in the mounts. */
static void on_root(void *arg, uint32_t from, const struct lm_repository_root *root)
{
	struct mount *m = arg;
	lm_pins_root_changed(m->node->pins, lm_repository_fqrn(m->repository));
	struct told told = begin_telling(m, from, root);
	int64_t end = lm_now_ms() + TELL_MS;
	for (size_t i = 0; i < told.count; i++)
		if (lm_fuse_wait_told(told.fuses[i], LM_MAX(end - lm_now_ms(), 0)) == -ETIMEDOUT)
			lm_log(LM_LOG_WARN, "the kernel does not take note of a new revision yet",
				LM_KV("repository", "%s", lm_repository_fqrn(m->repository)),
				LM_KV("waited_s", "%d", TELL_MS / 1000));
	if (told.count && !told.mounted)
		lm_log(LM_LOG_INFO, "new revision", LM_KV("repository", "%s", lm_repository_fqrn(m->repository)),
			LM_KV("revision", "%llu", (unsigned long long)root->revision),
			LM_KV("root", "%s", lm_hash_text(&root->hash).s));
}

/* A session that was kept has users waiting: without a root they get answers, too, though most are errors. */
static void resume_without_root(struct mount *m)
{
	LM_LOCKED(&m->lock);
	if (!m->faces[WHOLE].fuse && lm_keeper_has(m->node->keeper, m->faces[WHOLE].mountpoint) &&
		mount_it(m, ROOTLESS_TTL_S, &m->err) == 0)
		log_ready(m, &(struct lm_repository_root){0});
}

static const char *mounted_at(void *arg, size_t index, bool lean)
{
	struct mount *m = &((struct lm_node *)arg)->mounts[index];
	const struct face *face = &m->faces[lean ? LEAN : WHOLE];
	LM_LOCKED(&m->lock);
	return face->fuse && !face->ended ? face->mountpoint : NULL;
}

/* Of all faces together. */
static void fuse_stats(void *arg, size_t index, struct lm_fuse_stats *ret, struct lm_session_stats *session)
{
	struct mount *m = &((struct lm_node *)arg)->mounts[index];
	*ret = (struct lm_fuse_stats){0};
	*session = (struct lm_session_stats){0};
	for (size_t i = 0; i < FACES; i++) {
		lm_lock_take(&m->lock);
		struct lm_fuse *fuse = m->faces[i].fuse; /* once there, it is there to the end */
		lm_lock_release(&m->lock);
		if (fuse) {
			lm_fuse_stats_add(fuse, ret);
			lm_fuse_session_stats_add(fuse, session);
		}
	}
}

static int open_mount(struct lm_node *node, const struct lm_repository_settings *settings, struct lm_err *err)
{
	struct mount *m = &node->mounts[node->count];
	lm_lock_init(&m->lock);
	node->count++;
	m->node = node;
	for (size_t i = 0; i < FACES; i++)
		m->faces[i].mount = m;
	m->faces[WHOLE].mountpoint = strdup(settings->mountpoint);
	bool lean = *settings->lean_mountpoint && geteuid() == 0;
	m->faces[LEAN].mountpoint = lean ? strdup(settings->lean_mountpoint) : NULL;
	CLEANUP(lm_freep)
	char *dir = lm_str_printf("%s/lamella/repositories/%s", node->settings->cache_base, settings->fqrn);
	if (!m->faces[WHOLE].mountpoint || (lean && !m->faces[LEAN].mountpoint) || !dir)
		return lm_err_oom(err);
	const struct lm_repository_config config = {
		.fqrn = settings->fqrn,
		.settings = node->settings,
		.http = node->http,
		.cache = node->cache,
		.work = node->work,
		.dir = dir,
		.resume = lm_keeper_has(node->keeper, m->faces[WHOLE].mountpoint),
		.on_root = on_root,
		.arg = m,
	};
	return lm_repository_new(&config, &m->repository, err);
}

static void limit_cache(struct lm_node *node, const struct lm_settings *settings)
{
	const struct lm_cache_limits limits = {
		.quota = settings->quota == LM_SETTINGS_UNLIMITED ? 0 : settings->quota,
		.reserve_percent = settings->cache_reserve,
	};
	lm_cache_reconfigure(node->cache, &limits);
}

static int open_pins(struct lm_node *node, const char *dir, struct lm_err *err)
{
	node->repositories = calloc(node->count + 1, sizeof(struct lm_repository *));
	if (!node->repositories)
		return lm_err_oom(err);
	for (size_t i = 0; i < node->count; i++)
		node->repositories[i] = node->mounts[i].repository;
	const struct lm_pins_config config = {
		.cache = node->cache, .dir = dir, .repositories = node->repositories, .repository_count = node->count};
	return lm_pins_new(&config, &node->pins, err);
}

static int open_parts(struct lm_node *node, struct lm_err *err)
{
	const struct lm_settings *settings = node->settings;
	const struct lm_http_limits limits = {0};
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/lamella", settings->cache_base);
	if (!dir)
		return lm_err_oom(err);
	node->idle_fd = eventfd(0, EFD_CLOEXEC);
	if (node->idle_fd < 0)
		return lm_err_sys(err, -errno, "eventfd");
	int r = lm_layers_new(&node->layers, err);
	if (r == 0)
		r = lm_cache_new(dir, &node->cache, err);
	if (r == 0)
		limit_cache(node, settings);
	if (r == 0)
		r = lm_work_new(
			"fetch work", LM_MAX(lm_work_cores(), (unsigned)WORKERS_MIN), QUEUE_MAX, &node->work, err);
	if (r == 0)
		r = lm_http_new(&limits, &node->http, err);
	for (size_t i = 0; i < settings->repository_count && r == 0; i++)
		r = open_mount(node, &settings->repositories[i], err);
	if (r == 0)
		r = open_pins(node, dir, err);
	return r;
}

/* Waits for the first look of each repository: the first reason why one is not mounted, all of which are logged. */
static int wait_for_mounts(struct lm_node *node, struct lm_err *err)
{
	int first = 0;
	for (size_t i = 0; i < node->count; i++) {
		struct mount *m = &node->mounts[i];
		struct lm_err why = LM_ERR_INIT;
		int r = lm_repository_wait(m->repository, &why);
		if (r == 0) {
			LM_LOCKED(&m->lock);
			why = m->err;
			r = why.code;
		}
		if (r < 0)
			resume_without_root(m);
		if (r < 0 && first == 0) {
			first = r;
			*err = why;
		}
	}
	return first;
}

static void describe_for_control(struct lm_node *node)
{
	node->control_config = (struct lm_control_config){
		.socket = node->settings->socket,
		.repositories = node->repositories,
		.repository_count = node->count,
		.cache = node->cache,
		.pins = node->pins,
		.layers = node->layers,
		.http = node->http,
		.started_ms = lm_now_ms(),
		.keeper = node->keeper,
		.mounted_at = mounted_at,
		.fuse_stats = fuse_stats,
		.arg = node,
	};
}

/* Open from the beginning, so that one sees what a start is waiting for. A node without metrics does its work, too. */
static int open_web(struct lm_node *node, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	const char *control = node->settings->socket;
	CLEANUP(lm_freep) char *socket = *control ? lm_pages_socket_beside(control, "metrics") : strdup("");
	if (!socket)
		return lm_err_oom(err);
	if (lm_web_new(socket, node->settings->metrics, &node->control_config, &node->web, &why) < 0)
		lm_log(LM_LOG_ERROR, "no metrics", LM_KV("cause", "%s", lm_err_text(&why)));
	return 0;
}

static int open_control(struct lm_node *node, struct lm_err *err)
{
	return *node->settings->socket ? lm_control_new(&node->control_config, &node->control, err) : 0;
}

static bool is_wanted(void *arg, const char *mountpoint)
{
	struct lm_node *node = arg;
	for (size_t i = 0; i < node->count * FACES; i++) {
		const char *ours = node->mounts[i / FACES].faces[i % FACES].mountpoint;
		if (ours && strcmp(ours, mountpoint) == 0)
			return true;
	}
	return false;
}

/* Mounts of earlier settings. */
static void end_unwanted(struct lm_node *node)
{
	const char *mountpoint;
	while ((mountpoint = lm_keeper_unwanted(node->keeper, is_wanted, node))) {
		lm_log(LM_LOG_INFO, "no longer configured", LM_KV("mountpoint", "%s", mountpoint));
		(void)lm_mountpoint_unmount(mountpoint);
		lm_keeper_drop(node->keeper, mountpoint);
	}
}

int lm_node_start(struct lm_settings *settings, struct lm_keeper *keeper, struct lm_node **ret, struct lm_err *err)
{
	CLEANUP(lm_node_stopp)
	struct lm_node *node = calloc(1, sizeof(*node) + settings->repository_count * sizeof(struct mount));
	if (!node)
		return lm_err_oom(err);
	node->settings = lm_settings_ref(settings);
	node->latest = lm_settings_ref(settings);
	node->keeper = keeper;
	node->idle_fd = -1;
	int r = open_parts(node, err);
	if (r == 0) {
		describe_for_control(node);
		r = open_web(node, err);
	}
	if (r == 0)
		end_unwanted(node);
	for (size_t i = 0; i < node->count && r == 0; i++)
		r = lm_repository_start(node->mounts[i].repository, err);
	struct lm_err why = LM_ERR_INIT;
	if (r == 0 && wait_for_mounts(node, &why) < 0 && settings->require_mounts) {
		r = why.code;
		if (err)
			*err = why;
	}
	if (r == 0)
		r = open_control(node, err);
	if (r < 0)
		return r;
	node->started = true;
	*ret = STEAL(node);
	return 0;
}

/* Reloading. */

static void on_change(void *arg, const struct lm_settings_change *change)
{
	static const char *const when[] = {"with another worker", "now", "with the next start of the program"};
	bool *needs_worker = arg;
	*needs_worker |= change->setting->reload == LM_RELOAD_WORKER;
	lm_log(change->setting->reload == LM_RELOAD_START ? LM_LOG_WARN : LM_LOG_INFO, "setting changed",
		LM_KV("key", "%s", change->setting->key), LM_KV("repository", "%s", change->fqrn),
		LM_KV("from", "%s", change->from), LM_KV("to", "%s", change->to),
		LM_KV("takes_effect", "%s", when[change->setting->reload]));
}

/* Those that the node has and that are still configured. */
static int reload_repositories(struct lm_node *node, struct lm_settings *settings, struct lm_err *err)
{
	for (size_t i = 0; i < node->count; i++) {
		struct lm_repository *repository = node->mounts[i].repository;
		if (!lm_settings_find(settings, lm_repository_fqrn(repository)))
			continue;
		int r = lm_repository_reconfigure(repository, settings, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int lm_node_reload(struct lm_node *node, struct lm_settings *settings, bool *ret_worker, struct lm_err *err)
{
	bool needs_worker = false;
	int r = lm_settings_diff(node->latest, settings, on_change, &needs_worker, err);
	if (r == 0)
		r = reload_repositories(node, settings, err);
	if (r < 0)
		return r;
	limit_cache(node, settings);
	lm_log_set_level((enum lm_log_level)settings->log_level);
	lm_settings_unref(node->latest);
	node->latest = lm_settings_ref(settings);
	*ret_worker = needs_worker;
	return 0;
}

static void stop_mount(struct mount *m, bool leave)
{
	lm_lock_take(&m->lock);
	m->stopping = true;
	lm_lock_release(&m->lock);
	for (size_t i = 0; i < FACES; i++) {
		struct lm_fuse *fuse = m->faces[i].fuse; /* nobody mounts any more */
		/* A start that failed is tried again: what others have in use lives on. */
		if (leave || (fuse && !m->node->started && lm_fuse_resumed(fuse)))
			lm_fuse_leave(fuse);
		else
			lm_fuse_stop(fuse);
	}
}

void lm_node_leave(struct lm_node *node)
{
	for (size_t i = 0; i < node->count; i++)
		stop_mount(&node->mounts[i], true);
}

/* On the engine's thread. */
static void on_engine(void *arg)
{
	struct lm_node *node = arg;
	atomic_fetch_add(&node->engine_answered, 1);
}

/* Whether the kernel has requests without an answer. */
static bool is_waited_for(struct lm_node *node)
{
	uint64_t waiting = 0;
	for (size_t i = 0; i < node->count && waiting == 0; i++) {
		struct lm_fuse_stats stats;
		struct lm_session_stats session;
		fuse_stats(node, i, &stats, &session);
		waiting = stats.waiting;
	}
	return waiting > 0;
}

bool lm_node_progress(struct lm_node *node)
{
	bool progress = atomic_load(&node->engine_answered) == node->engine_asked;
	/* An idle engine is left asleep. */
	if (progress && is_waited_for(node) && lm_http_call(node->http, 0, on_engine, node) == 0)
		node->engine_asked++;
	for (size_t i = 0; i < node->count; i++) {
		struct mount *m = &node->mounts[i];
		LM_LOCKED(&m->lock);
		for (const struct face *face = m->faces; face < m->faces + FACES; face++)
			if (face->fuse && !face->ended)
				progress &= lm_fuse_progress(face->fuse);
	}
	return progress;
}

/* The engine's callbacks queue jobs, and jobs call upon the engine: until neither has anything from the other. */
static void quiesce(struct lm_node *node)
{
	uint64_t taken;
	do {
		taken = lm_work_taken(node->work);
		lm_work_drain(node->work);
		lm_http_stop(node->http);
	} while (lm_work_taken(node->work) != taken);
}

/*
 * Order: no new requests (mounts), nobody who starts any (repositories, control), then the engine ends what runs, the
 * queue runs the last completions, and only then goes what these refer to.
 */
void lm_node_stop(struct lm_node *node)
{
	if (!node)
		return;
	lm_web_free(node->web);
	for (size_t i = 0; i < node->count; i++)
		stop_mount(&node->mounts[i], false);
	for (size_t i = 0; i < node->count; i++)
		if (node->mounts[i].repository)
			lm_repository_stop(node->mounts[i].repository);
	lm_pins_stop(node->pins);
	lm_control_stop(node->control);
	if (node->http && node->work)
		quiesce(node);
	lm_http_free(node->http);
	lm_work_free(node->work);
	lm_pins_free(node->pins);
	lm_control_free(node->control);
	for (size_t i = 0; i < node->count; i++) {
		struct mount *m = &node->mounts[i];
		for (struct face *face = m->faces; face < m->faces + FACES; face++) {
			lm_fuse_free(face->fuse);
			free(face->mountpoint);
		}
		lm_repository_free(m->repository);
		lm_lock_done(&m->lock);
	}
	lm_cache_free(node->cache);
	lm_closep(&node->idle_fd);
	lm_layers_free(node->layers);
	free(node->repositories);
	lm_settings_unref(node->settings);
	lm_settings_unref(node->latest);
	free(node);
}

int lm_node_idle_fd(const struct lm_node *node)
{
	return node->idle_fd;
}
