#include "snapshotter/snapshots.h"

#include "base/file.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"
#include "base/work.h"
#include "snapshotter/layout.h"
#include "snapshotter/mapped.h"
#include "snapshotter/rebuild.h"
#include "snapshotter/record.h"
#include "snapshotter/trees.h"
#include "snapshotter/usage.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

struct lm_snapshots {
	/* constant */
	int lock_fd;
	struct lm_store *store;
	struct lm_layout *layout;
	struct lm_policy *policy;
	struct lm_work *changes; /* to records */
	struct lm_mount_options mount_options;
	enum lm_on_miss on_miss;
	bool mounts;		  /* layers come from mounts of others (places.h) */
	struct lm_err no_trees;	  /* code not 0: why merged trees are not used at all */
	struct lm_err no_mapping; /* code not 0: why owners can't be mapped */
	/* held while directories are deleted: two clean-ups would trip over each other */
	struct lm_lock cleaning;
	_Atomic(uint64_t) counters[LM_COUNTERS];

	struct lm_lock lock;
	/* under lock */
	struct lm_err tree_failure; /* why one could not be used last; code 0: that never was */
};

static void count(struct lm_snapshots *s, enum lm_counter counter)
{
	atomic_fetch_add_explicit(&s->counters[counter], 1, memory_order_relaxed);
}

struct lm_store *lm_snapshots_store(struct lm_snapshots *s)
{
	return s->store;
}

uint64_t lm_snapshots_count(const struct lm_snapshots *s, enum lm_counter counter)
{
	return atomic_load_explicit(&s->counters[counter], memory_order_relaxed);
}

/*
 * Numbers of the kernel's are no answers about snapshots: to a client, "already exists" is a layer that it need not
 * download, and "not found" a parent that is gone.
 */
static int of_disk(int r)
{
	return r >= 0 || r == -ENOSPC || r == -ENOMEM ? r : -EIO;
}

/* A snapshot's directory can't be read: because it was removed meanwhile? */
static int not_readable(
	struct lm_snapshots *s, const struct lm_snapshot *snapshot, int r, const struct lm_err *why, struct lm_err *err)
{
	CLEANUP(lm_snapshot_unrefp)
	const struct lm_snapshot *now = lm_store_get(s->store, snapshot->plugin, snapshot->key);
	return now && now->id == snapshot->id
		       ? lm_err_set(err, of_disk(r), "%s", lm_err_text(why))
		       : lm_err_set(err, -ENOENT, "snapshot %s does not exist any more", snapshot->key);
}

/* Opening. */

static int lock_root(struct lm_snapshots *s, const char *root, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/lock", root);
	if (!path)
		return lm_err_oom(err);
	s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->lock_fd < 0)
		return lm_err_sys(err, -errno, "open %s", path);
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK
			       ? lm_err_set(err, -EBUSY, "%s: another process is using this directory", root)
			       : lm_err_sys(err, -errno, "lock %s", path);
	return 0;
}

/* A directory's record that is to be written, since its snapshot has changed. */
struct change {
	struct lm_snapshots *s;
	int64_t id;
	struct lm_buf record;
};

static void change_freep(struct change **change)
{
	if (*change)
		lm_buf_done(&(*change)->record);
	free(*change);
}

static void changes_not_written(int64_t id, const struct lm_err *err)
{
	lm_log(LM_LOG_WARN, "record of a snapshot not written, the next start tries again", LM_KV("id", "%" PRId64, id),
		LM_KV("reason", "%s", lm_err_text(err)));
}

static void write_change(void *arg)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(change_freep) struct change *change = arg;
	int r = lm_layout_put_record(change->s->layout, change->id, &change->record, &err);
	if (r < 0 && r != -ENOENT) /* it may be removed by now */
		changes_not_written(change->id, &err);
}

/*
 * Not in the way of the call: the store knows the change already, and the file system may let nobody change anything
 * for as long as it takes to bring others' changes to the disk. One thread writes all, so the last change is written
 * last.
 */
static void note_change(void *arg, const struct lm_snapshot *snapshot)
{
	struct lm_snapshots *s = arg;
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(change_freep) struct change *change = calloc(1, sizeof(*change));
	int r = change ? 0 : lm_err_oom(&err);
	if (r == 0) {
		*change = (struct change){.s = s, .id = snapshot->id, .record = LM_BUF(LM_RECORD_MAX_BYTES)};
		r = lm_record_format(snapshot, &snapshot->labels, &change->record, &err);
	}
	if (r == 0 && (r = lm_work_post(s->changes, write_change, change)) == 0)
		STEAL(change);
	if (r < 0)
		changes_not_written(snapshot->id, &err);
}

static int open_store(struct lm_snapshots *s, const char *root, struct lm_err *err)
{
	struct lm_rebuilt what;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/store.db", root);
	if (!path)
		return lm_err_oom(err);
	int r = lm_rebuild_open(path, s->layout, &s->store, &what, err);
	if (r == 0)
		r = lm_work_new("records", 1, 1, &s->changes, err);
	if (r < 0)
		return r;
	lm_store_set_note(s->store, note_change, s);
	atomic_store(&s->counters[LM_COUNT_SNAPSHOTS_REBUILT], what.damaged ? what.snapshots : 0);
	atomic_store(&s->counters[LM_COUNT_DIRECTORIES_KEPT], what.kept);
	return 0;
}

/* The record says where a layer is; its link follows, should the two ever differ. */
static int repair_links(struct lm_snapshots *s, struct lm_err *err)
{
	CLEANUP(lm_snapshot_list_done) struct lm_snapshot_list list = {0};
	int r = lm_store_list(s->store, NULL, &list, err);
	for (size_t i = 0; i < list.count && r == 0; i++)
		if (list.items[i]->layer_path)
			r = lm_layout_relink(s->layout, list.items[i]->id, list.items[i]->layer_path, err);
	return r;
}

/* Without trees everything works, only slower. */
static void probe_trees(struct lm_snapshots *s, const struct lm_service_options *options)
{
	struct lm_err *why = &s->no_trees;
	int r = !options->trees		      ? lm_err_set(why, -ENOTSUP, "turned off by LAMELLA_TREES")
		: s->mounts		      ? lm_err_set(why, -ENOTSUP, "layers come from mounts of others")
		: s->mount_options.user_xattr ? lm_err_set(why, -ENOTSUP, "not the host's user namespace")
					      : lm_trees_probe(options->root, why);
	if (r < 0)
		lm_log(r == -ENOTSUP ? LM_LOG_INFO : LM_LOG_WARN, "merged trees of layers are not used",
			LM_KV("reason", "%s", lm_err_text(why)));
}

static void probe_mapping(struct lm_snapshots *s, const struct lm_service_options *options)
{
	if (lm_mapped_probe(options->root, &s->no_mapping) < 0)
		lm_log(LM_LOG_INFO, "no containers in user namespaces",
			LM_KV("reason", "%s", lm_err_text(&s->no_mapping)));
}

struct lm_policy *lm_snapshots_policy(struct lm_snapshots *s)
{
	return s->policy;
}

void lm_snapshots_state(struct lm_snapshots *s, struct lm_snapshots_state *ret)
{
	LM_LOCKED(&s->lock);
	*ret = (struct lm_snapshots_state){.on_miss = s->on_miss,
		.mount_options = s->mount_options,
		.no_trees = s->no_trees,
		.no_mapping = s->no_mapping,
		.tree_failure = s->tree_failure};
}

void lm_snapshots_log_trees(struct lm_snapshots *s)
{
	struct lm_snapshots_state state;
	lm_snapshots_state(s, &state);
	lm_log(LM_LOG_INFO, "merged trees", LM_KV("used", "%s", state.no_trees.code ? "no" : "yes"),
		LM_KV("reason", "%s", state.no_trees.code ? lm_err_text(&state.no_trees) : ""),
		LM_KV("last_failure", "%s", state.tree_failure.code ? lm_err_text(&state.tree_failure) : ""));
}

int lm_snapshots_open(const struct lm_service_options *options, struct lm_snapshots **ret, struct lm_err *err)
{
	CLEANUP(lm_snapshots_closep) struct lm_snapshots *s = calloc(1, sizeof(*s));
	if (!s)
		return lm_err_oom(err);
	lm_lock_init(&s->cleaning);
	lm_lock_init(&s->lock);
	s->lock_fd = -1;
	s->on_miss = options->on_miss;
	s->mounts = options->source != NULL;
	s->mount_options = lm_overlay_probe();
	int r = lm_layout_open(options->root, &s->layout, err);
	if (r == 0)
		r = lock_root(s, options->root, err);
	if (r == 0)
		r = open_store(s, options->root, err);
	if (r == 0)
		r = repair_links(s, err);
	if (r == 0) {
		probe_trees(s, options);
		probe_mapping(s, options);
	}
	if (r == 0)
		r = lm_policy_new(options->fetcher, s->mounts ? "the process that looks into mounts" : "the fetcher",
			options->resolve_timeout_ms, &s->policy, err);
	if (r < 0)
		return r;
	*ret = STEAL(s);
	return 0;
}

void lm_snapshots_close(struct lm_snapshots *s)
{
	if (!s)
		return;
	lm_policy_free(s->policy);
	lm_work_free(s->changes);
	lm_store_close(s->store);
	lm_layout_close(s->layout);
	lm_closep(&s->lock_fd);
	lm_lock_done(&s->cleaning);
	lm_lock_done(&s->lock);
	free(s);
}

/* Labels of ours. */

static int add_label(struct lm_labels *labels, const char *key, const char *value, struct lm_err *err)
{
	int r = lm_labels_set(labels, key, value);
	return r < 0 ? lm_err_sys(err, r, "label %s", key) : 0;
}

/* Text of the fetcher's and ours, cut wherever it was too long. A label that is not UTF-8 would break a Go client's
 * List. */
static int add_text_label(struct lm_labels *labels, const char *key, const char *text, struct lm_err *err)
{
	CLEANUP(lm_freep) char *plain = strdup(text);
	if (!plain)
		return lm_err_oom(err);
	for (char *c = plain; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	return add_label(labels, key, plain, err);
}

/* Mounts. */

/* The different remote layers of a chain. */
struct remote_layers {
	const char *digests[LM_POLICY_ASK_MAX];
	struct lm_layer found[LM_POLICY_ASK_MAX];
	size_t count;
};

static void remote_layers_freep(struct remote_layers **layers)
{
	for (size_t i = 0; *layers && i < (*layers)->count; i++)
		lm_layer_done(&(*layers)->found[i]);
	free(*layers);
}

static size_t index_of(const struct remote_layers *layers, const char *digest)
{
	size_t i = 0;
	while (i < layers->count && strcmp(layers->digests[i], digest) != 0)
		i++;
	return i;
}

static int collect_remote(const struct lm_snapshot *top, struct remote_layers *layers, struct lm_err *err)
{
	for (const struct lm_snapshot *at = top; at; at = at->parent) {
		if (!at->layer_digest || index_of(layers, at->layer_digest) < layers->count)
			continue;
		if (layers->count == LM_POLICY_ASK_MAX)
			return lm_err_set(err, -EINVAL, "more than %d remote layers", LM_POLICY_ASK_MAX);
		layers->digests[layers->count++] = at->layer_digest;
	}
	return 0;
}

static int set_source(const struct lm_labels *old, void *arg, struct lm_labels *ret, struct lm_err *err)
{
	int r = lm_labels_copy(old, ret);
	return r < 0 ? lm_err_sys(err, r, "labels") : add_text_label(ret, LM_LABEL_SOURCE, arg, err);
}

/*
 * Follows layers that are served from another directory than before; mounts that exist keep the old one. The link is
 * looked at each time: two calls that follow at once may leave it where the record does not say.
 */
static int follow_moves(
	struct lm_snapshots *s, const struct lm_snapshot *top, const struct remote_layers *layers, struct lm_err *err)
{
	for (const struct lm_snapshot *at = top; at; at = at->parent) {
		if (!at->layer_digest)
			continue;
		CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *now = lm_store_get(s->store, at->plugin, at->key);
		const char *path = layers->found[index_of(layers, at->layer_digest)].path;
		char *source = layers->found[index_of(layers, at->layer_digest)].source;
		if (!now || now->id != at->id)
			continue;
		bool moved = strcmp(now->layer_path, path) != 0;
		int r = moved ? lm_store_set_layer_path(s->store, at, path, err) : 0;
		if (r == 0)
			r = of_disk(lm_layout_relink(s->layout, at->id, path, err));
		if (r == 0 && moved && source)
			r = lm_store_update(s->store, at->plugin, at->key, set_source, source, NULL, err);
		if (r < 0)
			return r;
		if (moved)
			lm_log(LM_LOG_INFO, "layer moved", LM_KV("layer", "%s", at->layer_digest),
				LM_KV("path", "%s", path));
	}
	return 0;
}

static bool all_lean(const struct remote_layers *layers)
{
	for (size_t i = 0; i < layers->count; i++)
		if (!layers->found[i].lean)
			return false;
	return true;
}

/* *ret_lean: each remote layer has its lean link now, and what belongs below it. */
static int link_lean(struct lm_snapshots *s, const struct lm_snapshot *top, const struct remote_layers *layers,
	bool *ret_lean, struct lm_err *err)
{
	for (const struct lm_snapshot *at = top; at; at = at->parent) {
		if (!at->layer_digest)
			continue;
		struct lm_err why = LM_ERR_INIT;
		const struct lm_layer *layer = &layers->found[index_of(layers, at->layer_digest)];
		int r = of_disk(lm_layout_relink_lean(s->layout, at->id, layer->lean, err));
		if (r < 0)
			return r;
		if (layer->opaque && at->parent)
			r = lm_layout_copy_opaque(s->layout, at->id, layer->opaque, &why);
		if (r < 0) {
			lm_log(LM_LOG_WARN, "layers are used with their attributes",
				LM_KV("layer", "%s", at->layer_digest), LM_KV("reason", "%s", lm_err_text(&why)));
			return 0;
		}
	}
	*ret_lean = true;
	return 0;
}

/* What a mount is to take for its layers, and the texts of it. */
struct below {
	bool fresh; /* nothing has been written above: the quickest ways to show the layers are open */
	struct lm_lower lower;
	struct lm_err no_tree; /* code not 0: why that is not used */
	struct lm_chain_tree chain;
	char *mountpoint;
};

static void below_done(struct below *below)
{
	lm_chain_tree_done(&below->chain);
	free(below->mountpoint);
}

/* The digests of all layers, the lowest first; -ENOENT: some are not remote, or too many. */
static int collect_chain(const struct lm_snapshot *top, const char **digests, size_t *ret_count, struct lm_err *err)
{
	size_t count = 0;
	for (const struct lm_snapshot *at = top; at; at = at->parent)
		if (!at->layer_digest || ++count > LM_POLICY_ASK_MAX)
			return lm_err_set(err, -ENOENT, "not all layers are served");
	*ret_count = count;
	for (const struct lm_snapshot *at = top; at; at = at->parent)
		digests[--count] = at->layer_digest;
	return 0;
}

/* 0; -ENOENT: the chain has no tree. */
static int mount_tree(struct lm_snapshots *s, const struct lm_snapshot *top, struct below *ret, struct lm_err *err)
{
	const char *digests[LM_POLICY_ASK_MAX];
	size_t count = 0;
	int r = collect_chain(top, digests, &count, err);
	if (r < 0)
		return r;
	CLEANUP(lm_freep) char *dir = lm_layout_directory(s->layout, top->id);
	if (!dir)
		return lm_err_oom(err);
	r = lm_policy_tree(s->policy, digests, count, &ret->chain, err);
	if (r < 0)
		return r;
	r = lm_trees_note(dir, ret->chain.image, digests, count, err);
	if (r == 0)
		r = lm_trees_mount(dir, ret->chain.image, &ret->mountpoint, err);
	/* A file or device that is missing now is a failure, not a chain without a tree. */
	return r == -ENOENT ? -ENODEV : r;
}

static void note_tree_failure(struct lm_snapshots *s, const struct lm_snapshot *top, const struct lm_err *why)
{
	count(s, LM_COUNT_TREES_FAILED);
	lm_log(LM_LOG_WARN, "layers are used without their merged tree", LM_KV("snapshot", "%s", top->key),
		LM_KV("reason", "%s", lm_err_text(why)));
	LM_LOCKED(&s->lock);
	s->tree_failure = *why;
}

/* Where that fails, the layers themselves will do. */
static void use_tree(struct lm_snapshots *s, const struct lm_snapshot *top, struct below *below)
{
	if (s->no_trees.code) {
		(void)lm_err_set(&below->no_tree, -ENOTSUP, "%s", lm_err_text(&s->no_trees));
		return;
	}
	int r = mount_tree(s, top, below, &below->no_tree);
	if (r == 0) {
		count(s, LM_COUNT_TREES_USED);
		below->lower = (struct lm_lower){.tree = below->mountpoint, .data = below->chain.data};
	} else if (r == -ENOENT) {
		count(s, LM_COUNT_TREES_ABSENT);
	} else {
		note_tree_failure(s, top, &below->no_tree);
	}
}

/*
 * A client that compares a snapshot with its parent takes "no attributes here" for an error, so the ways without are
 * for what will be a container's root: not for views, nor for what one has written to. But where owners are mapped
 * there is no other way.
 */
static struct below below_for(enum lm_kind kind, const struct lm_labels *labels, bool written)
{
	return (struct below){.fresh = kind == LM_ACTIVE && (!written || lm_labels_get(labels, LM_LABEL_UIDMAP))};
}

/*
 * Everything below must be served before a mount of it is handed out: a container that only gets EIO is worse than
 * none. Finds out what the mount is to take.
 */
static int check_served(struct lm_snapshots *s, const struct lm_snapshot *top, unsigned timeout_ms, struct below *below,
	struct lm_err *err)
{
	CLEANUP(remote_layers_freep) struct remote_layers *layers = calloc(1, sizeof(*layers));
	if (!layers)
		return lm_err_oom(err);
	int r = collect_remote(top, layers, err);
	if (r < 0 || layers->count == 0)
		return r;
	struct lm_err reason = LM_ERR_INIT;
	r = lm_policy_check(s->policy, layers->digests, layers->count, timeout_ms, layers->found, &reason);
	if (r == 0) {
		r = follow_moves(s, top, layers, err);
		below->lower.padded = s->mounts;
		if (r == 0 && below->fresh)
			use_tree(s, top, below);
		bool lean = below->fresh && !below->lower.tree && all_lean(layers);
		return r == 0 && lean ? link_lean(s, top, layers, &below->lower.lean, err) : r;
	}
	count(s, LM_COUNT_STARTS_REFUSED);
	lm_log(LM_LOG_WARN, "mount refused", LM_KV("snapshot", "%s", top->key),
		LM_KV("reason", "%s", lm_err_text(&reason)));
	return lm_err_set(err, r, "a layer is not being served: %s", lm_err_text(&reason));
}

static bool has_remote_layers(const struct lm_snapshot *top)
{
	const struct lm_snapshot *at = top;
	while (at && !at->layer_digest)
		at = at->parent;
	return at != NULL;
}

/* Of a container in a user namespace; a client says so where the plugin is declared to map ids (remap-ids). */
struct id_maps {
	struct lm_mapped_ranges uids, gids;
};

/* *ret_wanted: the labels say something. */
static int read_id_maps(const struct lm_labels *labels, struct id_maps *ret, bool *ret_wanted, struct lm_err *err)
{
	const char *uids = lm_labels_get(labels, LM_LABEL_UIDMAP), *gids = lm_labels_get(labels, LM_LABEL_GIDMAP);
	*ret_wanted = uids || gids;
	if (!*ret_wanted)
		return 0;
	if (!uids || !gids)
		return lm_err_set(err, -EINVAL, "the label %s is missing", uids ? LM_LABEL_GIDMAP : LM_LABEL_UIDMAP);
	int r = lm_mapped_parse(uids, &ret->uids, err);
	return r < 0 ? r : lm_mapped_parse(gids, &ret->gids, err);
}

static int map_lowers(struct lm_snapshots *s, const struct lm_snapshot *snapshot, const struct lm_lower *lower,
	const struct id_maps *maps, struct lm_err *err)
{
	if (s->no_mapping.code)
		return lm_err_set(err, -EBUSY, "user namespaces: %s", lm_err_text(&s->no_mapping));
	/* Here and now they would be looked at, and might hang. */
	if (s->mounts && has_remote_layers(snapshot->parent))
		return lm_err_set(err, -EBUSY, "user namespaces: owners in mounts of others can't be mapped");
	CLEANUP(lm_lowers_done) struct lm_lowers lowers = {0};
	CLEANUP(lm_freep) char *dir = lm_layout_directory(s->layout, snapshot->id);
	int r = dir ? lm_overlay_lowers(lm_layout_prefix(s->layout), snapshot, lower, &lowers, err) : lm_err_oom(err);
	return r < 0 ? r
		     : lm_mapped_mount(
			       dir, (const char *const *)lowers.paths, lowers.count, &maps->uids, &maps->gids, err);
}

/* The directory of the snapshot is there. */
static int show(struct lm_snapshots *s, const struct lm_snapshot *snapshot, struct lm_lower *lower,
	struct lm_mount *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) struct id_maps *maps = malloc(sizeof(*maps));
	int r = maps ? read_id_maps(&snapshot->labels, maps, &lower->mapped, err) : lm_err_oom(err);
	if (r == 0 && lower->mapped && snapshot->parent)
		r = map_lowers(s, snapshot, lower, maps, err);
	return r < 0 ? r : lm_overlay_mount(lm_layout_prefix(s->layout), &s->mount_options, snapshot, lower, ret, err);
}

int lm_snapshots_mount(struct lm_snapshots *s, const char *plugin, const char *key, unsigned timeout_ms,
	struct lm_mount *ret, struct lm_err *err)
{
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *snapshot = lm_store_get(s->store, plugin, key);
	if (!snapshot)
		return lm_err_set(err, -ENOENT, "snapshot %s does not exist", key);
	if (snapshot->kind == LM_COMMITTED)
		return lm_err_set(err, -EBUSY, "snapshot %s is committed", key);
	/* Over ordinary layers there is but one way to show them. */
	bool ordinary = !has_remote_layers(snapshot->parent);
	CLEANUP(below_done)
	struct below below = below_for(
		snapshot->kind, &snapshot->labels, ordinary || !lm_layout_is_unwritten(s->layout, snapshot->id));
	int r = ordinary ? 0 : check_served(s, snapshot->parent, timeout_ms, &below, err);
	return r < 0 ? r : show(s, snapshot, &below.lower, ret, err);
}

/* Making: an id, a directory for it, a record. */

struct making {
	struct lm_snapshots *s;
	int64_t id;
	bool keep;
};

static int making_begin(struct making *m, struct lm_snapshots *s, struct lm_err *err)
{
	int r = lm_store_reserve(s->store, &m->id, err);
	if (r == 0)
		m->s = s;
	return r;
}

static void making_done(struct making *m)
{
	if (!m->s)
		return;
	struct lm_err err = LM_ERR_INIT;
	if (!m->keep && lm_layout_remove(m->s->layout, m->id, &err) < 0)
		lm_log(LM_LOG_WARN, "left for the next clean-up", LM_KV("reason", "%s", lm_err_text(&err)));
	lm_store_release(m->s->store, m->id);
}

/*
 * The new upper directory is the container's /: it gets owner and mode of the topmost parent's. A remote layer is not
 * looked at, because a stat of it can take as long as a network; its root is taken for 0755 and root's, as images have
 * it.
 */
static int root_attributes(struct lm_snapshots *s, const struct lm_snapshot *parent, const struct lm_labels *labels,
	struct lm_root_attributes *ret, struct lm_err *err)
{
	*ret = LM_ROOT_ATTRIBUTES_DEFAULT;
	CLEANUP(lm_freep) struct id_maps *maps = malloc(sizeof(*maps));
	bool mapped = false;
	int r = maps ? read_id_maps(labels, maps, &mapped, err) : lm_err_oom(err);
	if (r < 0)
		return r;
	if (mapped)
		return lm_mapped_host(&maps->uids, 0, &ret->uid) && lm_mapped_host(&maps->gids, 0, &ret->gid)
			       ? 0
			       : lm_err_set(err, -EINVAL, "the labels map no root: nobody would own the container's /");
	if (!parent || parent->layer_path)
		return 0;
	struct lm_err why = LM_ERR_INIT;
	r = lm_layout_root_attributes(s->layout, parent->id, ret, &why);
	return r < 0 ? not_readable(s, parent, r, &why, err) : 0;
}

/* What the row of a snapshot that is being made will say. */
static struct lm_snapshot preview_of(
	const struct making *making, const struct lm_make_request *request, const struct lm_snapshot *parent)
{
	int64_t now = lm_store_now_ns();
	return (struct lm_snapshot){.id = making->id,
		.plugin = (char *)request->plugin,
		.key = (char *)request->key,
		.kind = request->kind,
		.parent = parent,
		.created_ns = now,
		.updated_ns = now};
}

static int make_ordinary(struct lm_snapshots *s, const struct lm_make_request *request,
	const struct lm_snapshot *parent, struct lm_lower *lower, struct lm_mount *ret, struct lm_err *err)
{
	struct lm_root_attributes attributes;
	CLEANUP(making_done) struct making making = {0};
	int r = root_attributes(s, parent, request->labels, &attributes, err);
	if (r == 0)
		r = making_begin(&making, s, err);
	if (r < 0)
		return r;
	CLEANUP(lm_buf_done) struct lm_buf record = LM_BUF(LM_RECORD_MAX_BYTES);
	struct lm_snapshot preview = preview_of(&making, request, parent);
	r = lm_record_format(&preview, request->labels, &record, err);
	if (r == 0)
		r = of_disk(lm_layout_make(s->layout, making.id, &attributes, &record, err));
	if (r < 0)
		return r;
	/* The mount is put together before there is a row, so that nothing can fail after. */
	CLEANUP(lm_mount_done) struct lm_mount mount = {0};
	preview.labels = *request->labels;
	r = show(s, &preview, lower, &mount, err);
	if (r < 0)
		return r;
	struct lm_store_new new = {.id = making.id,
		.plugin = request->plugin,
		.key = request->key,
		.parent = request->parent,
		.parent_id = parent ? parent->id : 0,
		.created_ns = preview.created_ns,
		.kind = request->kind,
		.labels = request->labels};
	r = lm_store_create(s->store, &new, NULL, err);
	if (r < 0)
		return r;
	making.keep = true;
	count(s, LM_COUNT_SNAPSHOTS_MADE);
	*ret = mount;
	mount = (struct lm_mount){0};
	return 0;
}

/* Remote layers. */

static int add_reason(struct lm_labels *labels, const char *text, struct lm_err *err)
{
	return add_text_label(labels, LM_LABEL_REASON, text, err);
}

/* Said of what is to be a container's root, above layers that are served. */
static int add_tree_label(struct lm_labels *labels, const struct below *below, struct lm_err *err)
{
	char text[sizeof(below->no_tree.msg) + sizeof("not used: ")];
	if (!below->lower.tree && !below->no_tree.code)
		return 0;
	snprintf(text, sizeof(text), "%s%s",
		below->lower.tree ? "used" : "not used: ", below->lower.tree ? "" : lm_err_text(&below->no_tree));
	return add_text_label(labels, LM_LABEL_TREE, text, err);
}

/* "@" can't begin a namespace, and all of containerd's names begin with one. -EEXIST: somebody else has just made it.
 */
static int record_layer(struct lm_snapshots *s, const struct lm_make_request *request, const struct lm_snapshot *parent,
	const char *ref, const struct lm_layer *layer, struct lm_err *err)
{
	CLEANUP(making_done) struct making making = {0};
	CLEANUP(lm_labels_done) struct lm_labels labels = {0};
	int r = lm_labels_copy(request->labels, &labels);
	if (r < 0)
		return lm_err_sys(err, r, "labels");
	r = add_label(&labels, LM_LABEL_LAYER, "lazy", err);
	if (r == 0 && layer->source)
		r = add_text_label(&labels, LM_LABEL_SOURCE, layer->source, err);
	if (r == 0 && layer->note)
		r = add_reason(&labels, layer->note, err);
	if (r == 0)
		r = making_begin(&making, s, err);
	if (r < 0)
		return r;
	CLEANUP(lm_freep) char *name = lm_str_printf("@lamella/%" PRId64 "/%s", making.id, ref);
	if (!name)
		return lm_err_oom(err);
	CLEANUP(lm_buf_done) struct lm_buf record = LM_BUF(LM_RECORD_MAX_BYTES);
	struct lm_snapshot preview = preview_of(&making, request, parent);
	preview.key = name;
	preview.kind = LM_COMMITTED;
	preview.layer_digest = (char *)layer->digest;
	preview.layer_path = layer->path;
	preview.layer_ref = (char *)ref;
	r = lm_record_format(&preview, &labels, &record, err);
	if (r == 0)
		r = of_disk(lm_layout_make_link(s->layout, making.id, layer->path, &record, err));
	if (r < 0)
		return r;
	struct lm_store_new new = {.id = making.id,
		.plugin = request->plugin,
		.key = name,
		.parent = request->parent,
		.parent_id = parent ? parent->id : 0,
		.created_ns = preview.created_ns,
		.kind = LM_COMMITTED,
		.labels = &labels,
		.layer_digest = preview.layer_digest,
		.layer_path = layer->path,
		.layer_ref = ref};
	r = lm_store_create(s->store, &new, NULL, err);
	making.keep = r == 0;
	return r;
}

static bool layer_exists(struct lm_snapshots *s, const struct lm_make_request *request, const char *ref)
{
	CLEANUP(lm_snapshot_unrefp)
	const struct lm_snapshot *layer = lm_store_get_layer(s->store, request->plugin, ref, request->parent);
	return layer != NULL;
}

static int provided(struct lm_snapshots *s, const struct lm_make_request *request, const struct lm_layer *layer,
	bool *ret_provided, struct lm_err *err)
{
	const char *wanted = lm_policy_wanted(request->labels);
	const char *named = wanted ? wanted : lm_labels_get(request->labels, LM_LABEL_REF);
	count(s, LM_COUNT_LAYERS_LAZY);
	if (!layer)
		count(s, LM_COUNT_LAYERS_SHARED);
	if (layer && layer->note)
		count(s, LM_COUNT_LAYERS_LOSSY);
	lm_log(layer && layer->note ? LM_LOG_WARN : LM_LOG_INFO, "layer served lazily",
		LM_KV("layer", "%s", layer ? layer->digest : named),
		LM_KV("chain", "%s", lm_labels_get(request->labels, LM_LABEL_REF)),
		LM_KV("source", "%s", layer && layer->source ? layer->source : "known"),
		LM_KV("lost", "%s", layer && layer->note ? layer->note : "nothing"));
	*ret_provided = true;
	return lm_err_set(err, -EEXIST, "layer %s is there already", lm_labels_get(request->labels, LM_LABEL_REF));
}

/* The kinds of reasons. */
struct cause {
	int code; /* of lm_policy_find() */
	const char *name;
	enum lm_counter counter;
	bool may_pass; /* so that trying again makes sense */
};

static const struct cause *cause_of(const char *digest, int code)
{
	static const struct cause unnamed = {0, "unnamed", LM_COUNT_FALLBACK_UNNAMED, false};
	static const struct cause local = {0, "local", LM_COUNT_FALLBACK_LOCAL, false};
	static const struct cause causes[] = {
		{-ENOENT, "absent", LM_COUNT_FALLBACK_ABSENT, false},
		{-EAGAIN, "unavailable", LM_COUNT_FALLBACK_UNAVAILABLE, true},
		{-ECONNREFUSED, "unreachable", LM_COUNT_FALLBACK_UNREACHABLE, true},
		{-ETIMEDOUT, "timed-out", LM_COUNT_FALLBACK_TIMED_OUT, true},
	};
	for (size_t i = 0; i < ARRAY_LEN(causes) && digest; i++)
		if (causes[i].code == code)
			return &causes[i];
	return digest ? &local : &unnamed;
}

/* Why a layer has to be had the ordinary way: said once in the log, on the snapshot and in a counter. */
static int fall_back(
	struct lm_snapshots *s, struct lm_make_request *request, int reason, const char *text, struct lm_err *err)
{
	const char *digest = lm_policy_wanted(request->labels);
	const struct cause *cause = cause_of(digest, reason);
	const char *image = lm_labels_get(request->labels, LM_LABEL_CRI_IMAGE);
	count(s, cause->counter);
	lm_log(s->on_miss == LM_ON_MISS_PULL ? LM_LOG_INFO : LM_LOG_WARN,
		s->on_miss == LM_ON_MISS_FAIL ? "layer not served, pull refused" : "layer not served, pulling it",
		LM_KV("layer", "%s", digest ? digest : "unnamed"),
		LM_KV("chain", "%s", lm_labels_get(request->labels, LM_LABEL_REF)),
		LM_KV("image", "%s", image ? image : "unnamed"), LM_KV("cause", "%s", cause->name),
		LM_KV("reason", "%s", text));
	if (s->on_miss == LM_ON_MISS_FAIL) {
		count(s, LM_COUNT_PULLS_REFUSED);
		return lm_err_set(err, cause->may_pass ? -EAGAIN : -EBUSY,
			"layer %s is not served lazily, and LAMELLA_ON_MISS=fail: %s",
			digest ? digest : lm_labels_get(request->labels, LM_LABEL_REF), text);
	}
	int r = add_label(request->labels, LM_LABEL_LAYER, "ordinary", err);
	if (r == 0)
		r = add_label(request->labels, LM_LABEL_CAUSE, cause->name, err);
	return r < 0 ? r : add_reason(request->labels, text, err);
}

/*
 * The handshake: 0 means the ordinary way (the labels say why), -EEXIST with *ret_provided that the layer is there.
 * Requests for one layer may run at once. Whoever records it first wins, and the others look again before they give up,
 * so that all of them see the one record.
 */
static int offer_layer(struct lm_snapshots *s, struct lm_make_request *request, const struct lm_snapshot *parent,
	const char *ref, bool *ret_provided, struct lm_err *err)
{
	if (layer_exists(s, request, ref))
		return provided(s, request, NULL, ret_provided, err);
	CLEANUP(lm_layer_done) struct lm_layer layer = {0};
	struct lm_err reason = LM_ERR_INIT;
	int r = lm_policy_find(s->policy, request->labels, request->timeout_ms, &layer, &reason);
	if (r == 0) {
		r = record_layer(s, request, parent, ref, &layer, &reason);
		if (r == 0)
			return provided(s, request, &layer, ret_provided, err);
		if (r == -ENOENT || r == -EINVAL) /* the parent went away meanwhile */
			return lm_err_set(err, r, "%s", lm_err_text(&reason));
	}
	if (layer_exists(s, request, ref))
		return provided(s, request, NULL, ret_provided, err);
	return fall_back(s, request, r, lm_err_text(&reason), err);
}

static int find_parent(struct lm_snapshots *s, const struct lm_make_request *request, const struct lm_snapshot **ret,
	struct lm_err *err)
{
	if (!*request->parent)
		return 0;
	*ret = lm_store_get(s->store, request->plugin, request->parent);
	if (!*ret)
		return lm_err_set(err, -ENOENT, "parent snapshot %s does not exist", request->parent);
	if ((*ret)->kind != LM_COMMITTED)
		return lm_err_set(err, -EINVAL, "parent snapshot %s is not committed", request->parent);
	return 0;
}

static int check_name(const char *plugin, const char *name, struct lm_err *err)
{
	if (!*name)
		return lm_err_set(err, -EINVAL, "a snapshot needs a name");
	if (strlen(plugin) > LM_PLUGIN_MAX_BYTES)
		return lm_err_set(err, -EINVAL, "the snapshotter's name has %zu bytes, of %d at most", strlen(plugin),
			LM_PLUGIN_MAX_BYTES);
	if (strlen(name) > LM_KEY_MAX_BYTES)
		return lm_err_set(err, -EINVAL, "snapshot %.64s...: a name of %zu bytes, of %d at most", name,
			strlen(name), LM_KEY_MAX_BYTES);
	return 0;
}

bool lm_snapshots_make_asks(struct lm_snapshots *s, const char *plugin, const char *parent, const char *ref)
{
	if (ref && *ref) {
		CLEANUP(lm_snapshot_unrefp)
		const struct lm_snapshot *layer = lm_store_get_layer(s->store, plugin, ref, parent);
		return !layer;
	}
	CLEANUP(lm_snapshot_unrefp)
	const struct lm_snapshot *top = *parent ? lm_store_get(s->store, plugin, parent) : NULL;
	return has_remote_layers(top);
}

bool lm_snapshots_mount_asks(struct lm_snapshots *s, const char *plugin, const char *key)
{
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *snapshot = lm_store_get(s->store, plugin, key);
	return snapshot && (has_remote_layers(snapshot->parent) || lm_labels_get(&snapshot->labels, LM_LABEL_UIDMAP));
}

int lm_snapshots_make(struct lm_snapshots *s, struct lm_make_request *request, struct lm_mount *ret, bool *ret_provided,
	struct lm_err *err)
{
	*ret_provided = false;
	int r = check_name(request->plugin, request->key, err);
	if (r < 0)
		return r;
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *parent = NULL;
	CLEANUP(lm_snapshot_unrefp)
	const struct lm_snapshot *taken = lm_store_get(s->store, request->plugin, request->key);
	if (taken)
		return lm_err_set(err, -EEXIST, "snapshot %s already exists", request->key);
	r = find_parent(s, request, &parent, err);
	if (r < 0)
		return r;
	const char *ref = request->kind == LM_ACTIVE ? lm_labels_get(request->labels, LM_LABEL_REF) : NULL;
	if (ref && *ref)
		r = offer_layer(s, request, parent, ref, ret_provided, err);
	CLEANUP(below_done) struct below below = below_for(request->kind, request->labels, false);
	if (r == 0)
		r = check_served(s, parent, request->timeout_ms, &below, err);
	if (r == 0)
		r = add_tree_label(request->labels, &below, err);
	return r < 0 ? r : make_ordinary(s, request, parent, &below.lower, ret, err);
}

/* The rest. */

static int count_fs(
	struct lm_snapshots *s, const struct lm_snapshot *snapshot, struct lm_usage *ret, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	CLEANUP(lm_closep) int fd = lm_layout_open_fs(s->layout, snapshot->id, &why);
	int r = fd < 0 ? fd : lm_usage_count(fd, ret, &why);
	return r < 0 ? not_readable(s, snapshot, r, &why, err) : 0;
}

/* What Prepare found out about the layer stays with it; all other labels are the commit's own. */
static int keep_our_labels(const struct lm_snapshot *active, struct lm_labels *labels, struct lm_err *err)
{
	static const char *const ours[] = {LM_LABEL_LAYER, LM_LABEL_CAUSE, LM_LABEL_REASON};
	for (size_t i = 0; i < ARRAY_LEN(ours); i++) {
		const char *value = lm_labels_get(&active->labels, ours[i]);
		int r = value ? add_label(labels, ours[i], value, err) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

int lm_snapshots_commit(struct lm_snapshots *s, const char *plugin, const char *key, const char *name,
	const char *parent, struct lm_labels *labels, struct lm_err *err)
{
	int r = check_name(plugin, name, err);
	if (r < 0)
		return r;
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *taken = lm_store_get(s->store, plugin, name);
	if (taken)
		return lm_err_set(err, -EEXIST, "snapshot %s already exists", name);
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *active = lm_store_get(s->store, plugin, key);
	if (!active)
		return lm_err_set(err, -ENOENT, "snapshot %s does not exist", key);
	if (active->kind != LM_ACTIVE)
		return lm_err_set(err, -EBUSY, "snapshot %s is not active", key);
	struct lm_store_commit commit = {
		.id = active->id, .plugin = plugin, .key = key, .name = name, .parent = parent, .labels = labels};
	r = keep_our_labels(active, labels, err);
	if (r == 0)
		r = count_fs(s, active, &commit.usage, err);
	return r < 0 ? r : lm_store_commit(s->store, &commit, err);
}

int lm_snapshots_usage(
	struct lm_snapshots *s, const char *plugin, const char *key, struct lm_usage *ret, struct lm_err *err)
{
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *snapshot = lm_store_get(s->store, plugin, key);
	if (!snapshot)
		return lm_err_set(err, -ENOENT, "snapshot %s does not exist", key);
	if (snapshot->kind == LM_ACTIVE)
		return count_fs(s, snapshot, ret, err);
	*ret = snapshot->usage;
	return 0;
}

int lm_snapshots_remove(struct lm_snapshots *s, const char *plugin, const char *key, struct lm_err *err)
{
	int r = lm_store_remove(s->store, plugin, key, err);
	if (r == 0)
		count(s, LM_COUNT_REMOVED);
	return r;
}

static int compare_ids(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return x < y ? -1 : x > y;
}

int lm_snapshots_cleanup(struct lm_snapshots *s, struct lm_err *err)
{
	LM_LOCKED(&s->cleaning);
	CLEANUP(lm_freep) int64_t *found = NULL;
	CLEANUP(lm_freep) int64_t *used = NULL;
	size_t n_found = 0, n_used = 0;
	/* In this order: a directory that is seen now had its id reserved before, and is in the second list, or was
	 * given up. */
	int r = lm_layout_ids(s->layout, &found, &n_found, err);
	if (r == 0)
		r = lm_store_ids(s->store, &used, &n_used, err);
	size_t failed = 0;
	for (size_t i = 0; r == 0 && i < n_found; i++) {
		if (bsearch(&found[i], used, n_used, sizeof(*used), compare_ids) ||
			lm_layout_is_kept(s->layout, found[i]))
			continue;
		if (lm_layout_remove(s->layout, found[i], failed == 0 ? err : NULL) < 0)
			failed++; /* what is in the way of one keeps no other */
		else
			count(s, LM_COUNT_DIRECTORIES_DROPPED);
	}
	return failed ? lm_err_prefix(err, -EIO, "%zu directories can't be deleted", failed) : r;
}
