#include "snapshotter/service.h"

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "base/work.h"
#include "rpc/rpc.h"
#include "snapshotter/filter.h"
#include "snapshotter/snapshots.h"
#include "snapshotter/watch.h"

#include "containerd/snapshots.pb-c.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#define WORKERS 16		   /* of each lane, and for calls that ask the fetcher */
#define ASKING_MAX 256		   /* of those calls at once: fewer than the server holds, or no others would get in */
#define LIST_BATCH 100		   /* infos of one message of a List */
#define LIST_BATCH_BYTES (4 << 20) /* unless they are large: labels can take LM_LABELS_MAX_BYTES each */
#define FILTERS_MAX 64

enum lane { RECORDS, LOCAL_DISK, MAKING };

struct lm_service {
	struct lm_snapshots *snapshots;
	struct lm_work *background; /* deletes what the last process left */
	struct lm_work *asking;	    /* runs what has to ask the fetcher */
	_Atomic(unsigned) asked;    /* calls that are with it */
	struct lm_rpc_server *server;
	struct lm_watch *watch; /* NULL: none */
};

/* containerd's long names, shortened. */
#define V1(name) Containerd__Services__Snapshots__V1__##name
typedef V1(Info) wire_info;
typedef V1(Info__LabelsEntry) wire_label;
typedef V1(Timestamp) wire_time;
typedef V1(Mount) wire_mount;

/* The one place where our codes become gRPC's: containerd behaves by these. */
static void fail(struct lm_rpc_call *call, int r, const struct lm_err *err)
{
	enum lm_rpc_code code;
	switch (r) {
	case -ENOENT:
		code = LM_RPC_NOT_FOUND;
		break;
	case -EEXIST:
		code = LM_RPC_ALREADY_EXISTS;
		break;
	case -EINVAL:
	case -E2BIG: /* of a filter */
		code = LM_RPC_INVALID_ARGUMENT;
		break;
	case -EBUSY:
		code = LM_RPC_FAILED_PRECONDITION;
		break;
	case -EAGAIN:
		code = LM_RPC_UNAVAILABLE;
		break;
	case -ENOSPC:
	case -ENOMEM:
	case -EMSGSIZE:
		code = LM_RPC_RESOURCE_EXHAUSTED;
		break;
	default:
		code = LM_RPC_INTERNAL;
		break;
	}
	if (code == LM_RPC_INTERNAL || code == LM_RPC_RESOURCE_EXHAUSTED)
		lm_log(LM_LOG_ERROR, "call failed", LM_KV("reason", "%s", lm_err_text(err)));
	lm_rpc_fail(call, code, "%s", lm_err_text(err));
}

static void reply_empty(struct lm_rpc_call *call)
{
	V1(Empty) empty = CONTAINERD__SERVICES__SNAPSHOTS__V1__EMPTY__INIT;
	lm_rpc_reply(call, &empty.base);
}

/* Labels. Each request has an entry type of its own for its map, all of one shape. */

#define SAME_SHAPE(type)                                                                                \
	_Static_assert(sizeof(V1(type##__LabelsEntry)) == sizeof(wire_label) &&                         \
			       offsetof(V1(type##__LabelsEntry), key) == offsetof(wire_label, key) &&   \
			       offsetof(V1(type##__LabelsEntry), value) == offsetof(wire_label, value), \
		"label entries differ")
SAME_SHAPE(PrepareSnapshotRequest);
SAME_SHAPE(ViewSnapshotRequest);
SAME_SHAPE(CommitSnapshotRequest);

/* containerd holds its clients to the same size. */
static int check_label(const wire_label *label, struct lm_err *err)
{
	size_t bytes = strlen(label->key) + strlen(label->value);
	return bytes <= LM_LABEL_MAX_BYTES ? 0
					   : lm_err_set(err, -EINVAL, "label %.64s: %zu bytes, of %d at most",
						     label->key, bytes, LM_LABEL_MAX_BYTES);
}

static int read_labels(size_t count, void *entries, struct lm_labels *ret, struct lm_err *err)
{
	wire_label **labels = entries;
	if (count > LM_LABELS_MAX_COUNT)
		return lm_err_set(err, -EINVAL, "%zu labels, of %d at most", count, LM_LABELS_MAX_COUNT);
	for (size_t i = 0; i < count; i++) {
		int r = check_label(labels[i], err);
		if (r < 0)
			return r;
		if (lm_str_starts(labels[i]->key, LM_LABEL_OURS))
			continue;
		r = lm_labels_set(ret, labels[i]->key, labels[i]->value);
		if (r == -EMSGSIZE)
			return lm_err_set(err, -EINVAL, "labels of more than %d bytes", LM_LABELS_MAX_BYTES);
		if (r < 0)
			return lm_err_oom(err);
	}
	return 0;
}

/* An Info and all that it points to but the texts, which are the record's. */
struct info {
	wire_info wire;
	wire_time created, updated;
	wire_label *labels;
	wire_label **label_pointers;
};

static void info_done(struct info *info)
{
	free(info->labels);
	free(info->label_pointers);
}

static wire_time wire_time_of(int64_t ns)
{
	wire_time time = CONTAINERD__SERVICES__SNAPSHOTS__V1__TIMESTAMP__INIT;
	time.seconds = ns / 1000000000;
	time.nanos = (int32_t)(ns % 1000000000);
	return time;
}

/* info must not move afterwards. */
static int fill_info(struct info *info, const struct lm_snapshot *s)
{
	*info = (struct info){.wire = CONTAINERD__SERVICES__SNAPSHOTS__V1__INFO__INIT,
		.created = wire_time_of(s->created_ns),
		.updated = wire_time_of(s->updated_ns)};
	info->wire.name = s->key;
	info->wire.parent = s->parent ? s->parent->key : (char *)"";
	info->wire.kind = (V1(Kind))s->kind;
	info->wire.created_at = &info->created;
	info->wire.updated_at = &info->updated;
	info->labels = calloc(s->labels.count + 1, sizeof(*info->labels));
	info->label_pointers = calloc(s->labels.count + 1, sizeof(wire_label *));
	if (!info->labels || !info->label_pointers)
		return -ENOMEM;
	for (size_t i = 0; i < s->labels.count; i++) {
		info->labels[i] = (wire_label)CONTAINERD__SERVICES__SNAPSHOTS__V1__INFO__LABELS_ENTRY__INIT;
		info->labels[i].key = s->labels.items[i].key;
		info->labels[i].value = s->labels.items[i].value;
		info->label_pointers[i] = &info->labels[i];
	}
	info->wire.n_labels = s->labels.count;
	info->wire.labels = info->label_pointers;
	return 0;
}

/* Prepare, View, Mounts. Their responses are one type three times. */

static void reply_mount(struct lm_rpc_call *call, struct lm_mount *mount)
{
	wire_mount wire = CONTAINERD__SERVICES__SNAPSHOTS__V1__MOUNT__INIT;
	wire_mount *pointer = &wire;
	V1(MountsResponse) response = CONTAINERD__SERVICES__SNAPSHOTS__V1__MOUNTS_RESPONSE__INIT;
	wire.type = (char *)mount->type;
	wire.source = mount->source;
	wire.n_options = mount->n_options;
	wire.options = mount->options;
	response.n_mounts = 1;
	response.mounts = &pointer;
	lm_rpc_reply(call, &response.base);
	lm_mount_done(mount);
}

static void make(struct lm_rpc_call *call, struct lm_service *service, struct lm_make_request *request, size_t n_labels,
	void *labels)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_mount mount = {0};
	CLEANUP(lm_labels_done) struct lm_labels own = {0};
	bool provided = false;
	int r = read_labels(n_labels, labels, &own, &err);
	request->labels = &own;
	request->timeout_ms = lm_rpc_time_left_ms(call);
	if (r == 0)
		r = lm_snapshots_make(service->snapshots, request, &mount, &provided, &err);
	if (r < 0)
		fail(call, r, &err);
	else
		reply_mount(call, &mount);
}

static void prepare(struct lm_rpc_call *call, struct lm_service *service)
{
	const V1(PrepareSnapshotRequest) *wire = (const void *)lm_rpc_request(call);
	struct lm_make_request request = {
		.plugin = wire->snapshotter, .key = wire->key, .parent = wire->parent, .kind = LM_ACTIVE};
	make(call, service, &request, wire->n_labels, wire->labels);
}

static void view(struct lm_rpc_call *call, struct lm_service *service)
{
	const V1(ViewSnapshotRequest) *wire = (const void *)lm_rpc_request(call);
	struct lm_make_request request = {
		.plugin = wire->snapshotter, .key = wire->key, .parent = wire->parent, .kind = LM_VIEW};
	make(call, service, &request, wire->n_labels, wire->labels);
}

static void mounts(struct lm_rpc_call *call, struct lm_service *service)
{
	const V1(MountsRequest) *wire = (const void *)lm_rpc_request(call);
	struct lm_err err = LM_ERR_INIT;
	struct lm_mount mount = {0};
	int r = lm_snapshots_mount(
		service->snapshots, wire->snapshotter, wire->key, lm_rpc_time_left_ms(call), &mount, &err);
	if (r < 0)
		fail(call, r, &err);
	else
		reply_mount(call, &mount);
}

/*
 * These three begin in a lane of their own, and what turns out to need the fetcher's word goes on in another pool: as
 * many calls as may wait for a fetcher that is slow or dead, ordinary snapshots never stand behind them.
 */

struct asking {
	struct lm_service *service;
	struct lm_rpc_call *call;
	void (*handle)(struct lm_rpc_call *call, struct lm_service *service);
};

static void ask(void *arg)
{
	CLEANUP(lm_freep) struct asking *asking = arg;
	struct lm_service *service = asking->service;
	if (lm_rpc_cancelled(asking->call)) /* nobody would take away what is made now */
		lm_rpc_fail(asking->call, LM_RPC_CANCELLED, "the caller went away");
	else
		asking->handle(asking->call, service);
	atomic_fetch_sub(&service->asked, 1);
}

static void hand_over(struct lm_rpc_call *call, struct lm_service *service,
	void (*handle)(struct lm_rpc_call *call, struct lm_service *service))
{
	if (atomic_fetch_add(&service->asked, 1) >= ASKING_MAX) {
		atomic_fetch_sub(&service->asked, 1);
		lm_rpc_fail(
			call, LM_RPC_UNAVAILABLE, "%d calls are waiting for the fetcher: try again later", ASKING_MAX);
		return;
	}
	struct asking *asking = malloc(sizeof(*asking));
	if (asking)
		*asking = (struct asking){service, call, handle};
	if (asking && lm_work_post(service->asking, ask, asking) == 0)
		return;
	free(asking);
	atomic_fetch_sub(&service->asked, 1);
	lm_rpc_fail(call, LM_RPC_RESOURCE_EXHAUSTED, "out of memory");
}

static const char *wanted_ref(size_t count, void *entries)
{
	wire_label **labels = entries;
	const char *ref = NULL;
	for (size_t i = 0; i < count; i++)
		if (strcmp(labels[i]->key, LM_LABEL_REF) == 0)
			ref = labels[i]->value;
	return ref;
}

static void on_prepare(struct lm_rpc_call *call, void *arg)
{
	struct lm_service *service = arg;
	const V1(PrepareSnapshotRequest) *wire = (const void *)lm_rpc_request(call);
	if (lm_snapshots_make_asks(
		    service->snapshots, wire->snapshotter, wire->parent, wanted_ref(wire->n_labels, wire->labels)))
		hand_over(call, service, prepare);
	else
		prepare(call, service);
}

static void on_view(struct lm_rpc_call *call, void *arg)
{
	struct lm_service *service = arg;
	const V1(ViewSnapshotRequest) *wire = (const void *)lm_rpc_request(call);
	if (lm_snapshots_make_asks(service->snapshots, wire->snapshotter, wire->parent, NULL))
		hand_over(call, service, view);
	else
		view(call, service);
}

/* Asked at least twice for each start of a container; answered from memory where only ordinary layers lie below. */
static void on_mounts(struct lm_rpc_call *call, void *arg)
{
	struct lm_service *service = arg;
	const V1(MountsRequest) *wire = (const void *)lm_rpc_request(call);
	if (lm_snapshots_mount_asks(service->snapshots, wire->snapshotter, wire->key))
		hand_over(call, service, mounts);
	else
		mounts(call, service);
}

/* Commit, Remove, Cleanup, Usage. */

static void commit(struct lm_rpc_call *call, void *arg)
{
	struct lm_service *service = arg;
	const V1(CommitSnapshotRequest) *wire = (const void *)lm_rpc_request(call);
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_labels_done) struct lm_labels labels = {0};
	int r = read_labels(wire->n_labels, wire->labels, &labels, &err);
	if (r == 0)
		r = lm_snapshots_commit(
			service->snapshots, wire->snapshotter, wire->key, wire->name, wire->parent, &labels, &err);
	if (r < 0)
		fail(call, r, &err);
	else
		reply_empty(call);
}

static void remove_snapshot(struct lm_rpc_call *call, void *arg)
{
	struct lm_service *service = arg;
	const V1(RemoveSnapshotRequest) *wire = (const void *)lm_rpc_request(call);
	struct lm_err err = LM_ERR_INIT;
	int r = lm_snapshots_remove(service->snapshots, wire->snapshotter, wire->key, &err);
	if (r < 0)
		fail(call, r, &err);
	else
		reply_empty(call);
}

static void cleanup(struct lm_rpc_call *call, void *arg)
{
	struct lm_service *service = arg;
	struct lm_err err = LM_ERR_INIT;
	int r = lm_snapshots_cleanup(service->snapshots, &err);
	if (r < 0)
		fail(call, r, &err);
	else
		reply_empty(call);
}

static void usage(struct lm_rpc_call *call, void *arg)
{
	struct lm_service *service = arg;
	const V1(UsageRequest) *wire = (const void *)lm_rpc_request(call);
	struct lm_err err = LM_ERR_INIT;
	struct lm_usage counted;
	int r = lm_snapshots_usage(service->snapshots, wire->snapshotter, wire->key, &counted, &err);
	if (r < 0) {
		fail(call, r, &err);
		return;
	}
	V1(UsageResponse) response = CONTAINERD__SERVICES__SNAPSHOTS__V1__USAGE_RESPONSE__INIT;
	response.size = counted.size_bytes;
	response.inodes = counted.inodes;
	lm_rpc_reply(call, &response.base);
}

/* Stat, Update. Their responses are one type twice. */

static void reply_info(struct lm_rpc_call *call, const struct lm_snapshot *snapshot)
{
	CLEANUP(info_done) struct info info;
	V1(StatSnapshotResponse) response = CONTAINERD__SERVICES__SNAPSHOTS__V1__STAT_SNAPSHOT_RESPONSE__INIT;
	if (fill_info(&info, snapshot) < 0) {
		fail(call, -ENOMEM, &(struct lm_err){.code = -ENOMEM});
		return;
	}
	response.info = &info.wire;
	lm_rpc_reply(call, &response.base);
}

static void stat_snapshot(struct lm_rpc_call *call, void *arg)
{
	struct lm_service *service = arg;
	const V1(StatSnapshotRequest) *wire = (const void *)lm_rpc_request(call);
	CLEANUP(lm_snapshot_unrefp)
	const struct lm_snapshot *snapshot =
		lm_store_get(lm_snapshots_store(service->snapshots), wire->snapshotter, wire->key);
	if (snapshot)
		reply_info(call, snapshot);
	else
		lm_rpc_fail(call, LM_RPC_NOT_FOUND, "snapshot %s does not exist", wire->key);
}

struct edit {
	const V1(FieldMask) * mask; /* NULL or empty: everything */
	struct lm_labels given;
};

static int edit_label(const struct edit *edit, const char *key, struct lm_labels *ret, struct lm_err *err)
{
	const char *value = lm_labels_get(&edit->given, key);
	if (!value) {
		lm_labels_unset(ret, key);
		return 0;
	}
	int r = lm_labels_set(ret, key, value);
	return r == -EMSGSIZE ? lm_err_set(err, -EINVAL, "labels of more than %d bytes", LM_LABELS_MAX_BYTES)
	       : r < 0	      ? lm_err_oom(err)
			      : 0;
}

static int keep_ours(const struct lm_labels *old, struct lm_labels *ret, struct lm_err *err)
{
	for (size_t i = 0; i < old->count; i++)
		if (lm_str_starts(old->items[i].key, LM_LABEL_OURS) &&
			lm_labels_set(ret, old->items[i].key, old->items[i].value) < 0)
			return lm_err_oom(err);
	return 0;
}

/* "labels" replaces all; "labels.KEY" sets or removes one, KEY being all that follows, dots included. */
static int edit_labels(const struct lm_labels *old, void *arg, struct lm_labels *ret, struct lm_err *err)
{
	const struct edit *edit = arg;
	size_t n_paths = edit->mask ? edit->mask->n_paths : 0;
	bool all = n_paths == 0;
	for (size_t i = 0; i < n_paths; i++) {
		const char *path = edit->mask->paths[i];
		if (strcmp(path, "labels") == 0)
			all = true;
		else if (strncmp(path, "labels.", 7) != 0)
			return lm_err_set(err, -EINVAL, "cannot update %s: only labels can change", path);
	}
	int r = lm_labels_copy(all ? &edit->given : old, ret);
	if (r < 0)
		return lm_err_oom(err);
	for (size_t i = 0; i < n_paths && !all && r == 0; i++)
		r = edit_label(edit, edit->mask->paths[i] + 7, ret, err);
	if (r == 0)
		r = keep_ours(old, ret, err);
	if (r == 0 && ret->count > LM_LABELS_MAX_COUNT)
		r = lm_err_set(err, -EINVAL, "%zu labels, of %d at most", ret->count, LM_LABELS_MAX_COUNT);
	return r;
}

static void edit_done(struct edit *edit)
{
	lm_labels_done(&edit->given);
}

static void update(struct lm_rpc_call *call, void *arg)
{
	struct lm_service *service = arg;
	const V1(UpdateSnapshotRequest) *wire = (const void *)lm_rpc_request(call);
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(edit_done) struct edit edit = {.mask = wire->update_mask};
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *updated = NULL;
	int r = wire->info ? read_labels(wire->info->n_labels, wire->info->labels, &edit.given, &err)
			   : lm_err_set(&err, -EINVAL, "no info to update");
	if (r == 0)
		r = lm_store_update(lm_snapshots_store(service->snapshots), wire->snapshotter, wire->info->name,
			edit_labels, &edit, &updated, &err);
	if (r < 0)
		fail(call, r, &err);
	else
		reply_info(call, updated);
}

/* List. */

struct filters {
	struct lm_filter *items[FILTERS_MAX];
	size_t count;
};

static void filters_done(struct filters *filters)
{
	for (size_t i = 0; i < filters->count; i++)
		lm_filter_free(filters->items[i]);
}

static int parse_filters(size_t count, char **texts, struct filters *ret, struct lm_err *err)
{
	if (count > FILTERS_MAX)
		return lm_err_set(err, -EINVAL, "more than %d filters", FILTERS_MAX);
	for (size_t i = 0; i < count; i++) {
		int r = lm_filter_parse(texts[i], &ret->items[ret->count], err);
		if (r < 0)
			return r;
		ret->count++;
	}
	return 0;
}

static int passes(const struct filters *filters, const struct lm_snapshot *snapshot, struct lm_err *err)
{
	int r = filters->count == 0;
	for (size_t i = 0; i < filters->count && r == 0; i++)
		r = lm_filter_match(filters->items[i], snapshot, err);
	return r;
}

struct batch {
	struct info infos[LIST_BATCH];
	wire_info *pointers[LIST_BATCH];
	size_t count, bytes;
};

static int send_batch(struct lm_rpc_call *call, struct batch *batch)
{
	V1(ListSnapshotsResponse) response = CONTAINERD__SERVICES__SNAPSHOTS__V1__LIST_SNAPSHOTS_RESPONSE__INIT;
	response.n_info = batch->count;
	response.info = batch->pointers;
	int r = batch->count ? lm_rpc_send(call, &response.base) : 0;
	for (size_t i = 0; i < batch->count; i++)
		info_done(&batch->infos[i]);
	batch->count = batch->bytes = 0;
	return r;
}

static void batch_freep(struct batch **batch)
{
	for (size_t i = 0; *batch && i < (*batch)->count; i++)
		info_done(&(*batch)->infos[i]);
	free(*batch);
}

static int send_all(struct lm_rpc_call *call, const struct lm_snapshot_list *list, const struct filters *filters,
	struct lm_err *err)
{
	CLEANUP(batch_freep) struct batch *batch = calloc(1, sizeof(*batch));
	if (!batch)
		return lm_err_oom(err);
	for (size_t i = 0; i < list->count; i++) {
		int r = passes(filters, list->items[i], err);
		if (r == 0 && filters->count > 0 && lm_rpc_cancelled(call)) /* filters can take their time */
			return -EPIPE;
		if (r == 0)
			continue;
		if (r < 0)
			return r;
		batch->pointers[batch->count] = &batch->infos[batch->count].wire;
		r = fill_info(&batch->infos[batch->count++], list->items[i]);
		if (r < 0)
			return lm_err_oom(err);
		batch->bytes += list->items[i]->labels.bytes;
		if (batch->count == LIST_BATCH || batch->bytes > LIST_BATCH_BYTES)
			r = send_batch(call, batch);
		if (r < 0)
			return r;
	}
	return send_batch(call, batch);
}

static void list(struct lm_rpc_call *call, void *arg)
{
	struct lm_service *service = arg;
	const V1(ListSnapshotsRequest) *wire = (const void *)lm_rpc_request(call);
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(filters_done) struct filters filters = {0};
	CLEANUP(lm_snapshot_list_done) struct lm_snapshot_list all = {0};
	int r = parse_filters(wire->n_filters, wire->filters, &filters, &err);
	if (r == 0)
		r = lm_store_list(lm_snapshots_store(service->snapshots), wire->snapshotter, &all, &err);
	if (r == 0)
		r = send_all(call, &all, &filters, &err);
	if (r < 0 && r != -EPIPE)
		fail(call, r, &err);
	else
		lm_rpc_finish(call);
}

/* The whole. */

#define METHOD(name, type, handler, lane)                                                         \
	{                                                                                         \
		"/containerd.services.snapshots.v1.Snapshots/" name,                              \
			&containerd__services__snapshots__v1__##type##__descriptor, handler, lane \
	}
static const struct lm_rpc_method methods[] = {
	METHOD("Prepare", prepare_snapshot_request, on_prepare, MAKING),
	METHOD("View", view_snapshot_request, on_view, MAKING),
	METHOD("Mounts", mounts_request, on_mounts, LM_RPC_AT_ONCE),
	METHOD("Commit", commit_snapshot_request, commit, LOCAL_DISK),
	METHOD("Usage", usage_request, usage, LOCAL_DISK),
	METHOD("Cleanup", cleanup_request, cleanup, LOCAL_DISK),
	METHOD("Remove", remove_snapshot_request, remove_snapshot, RECORDS),
	METHOD("Stat", stat_snapshot_request, stat_snapshot, LM_RPC_AT_ONCE),
	METHOD("Update", update_snapshot_request, update, RECORDS),
	METHOD("List", list_snapshots_request, list, RECORDS),
};

/* What a process that was killed left behind; may take long, so nobody waits for it. */
static void drop_leftovers(void *arg)
{
	struct lm_service *service = arg;
	struct lm_err err = LM_ERR_INIT;
	if (lm_snapshots_cleanup(service->snapshots, &err) < 0)
		lm_log(LM_LOG_WARN, "left-overs stay until the next clean-up",
			LM_KV("reason", "%s", lm_err_text(&err)));
}

/* A node works without being watched. */
static void start_watch(struct lm_service *service, const struct lm_service_options *options)
{
	struct lm_err err = LM_ERR_INIT;
	if (lm_watch_new(options, service->snapshots, &service->watch, &err) < 0)
		lm_log(LM_LOG_ERROR, "no status, no metrics", LM_KV("reason", "%s", lm_err_text(&err)));
}

int lm_service_start(const struct lm_service_options *options, struct lm_service **ret, struct lm_err *err)
{
	CLEANUP(lm_service_stopp) struct lm_service *service = calloc(1, sizeof(*service));
	if (!service)
		return lm_err_oom(err);
	int r = lm_snapshots_open(options, &service->snapshots, err);
	if (r == 0)
		r = lm_work_new("cleanup", 1, 1, &service->background, err);
	if (r == 0)
		r = lm_work_new("asking", WORKERS, ASKING_MAX, &service->asking, err);
	if (r == 0)
		r = lm_mkdir_above(AT_FDCWD, options->address, 0700, err);
	if (r == 0)
		r = lm_rpc_server_new(
			options->address, methods, ARRAY_LEN(methods), service, WORKERS, &service->server, err);
	if (r < 0)
		return r;
	lm_work_submit(service->background, drop_leftovers, service);
	start_watch(service, options);
	*ret = STEAL(service);
	return 0;
}

void lm_service_stop(struct lm_service *service)
{
	if (!service)
		return;
	lm_watch_free(service->watch);
	lm_rpc_server_free(service->server);
	lm_work_free(service->asking);
	lm_work_free(service->background);
	lm_snapshots_close(service->snapshots);
	free(service);
}

/* Counters. */

static const struct {
	const char *name, *help;
} counters[LM_COUNTERS] = {
	[LM_COUNT_LAYERS_LAZY] = {"layers_lazy", "Layers answered as there already: nothing was downloaded."},
	[LM_COUNT_LAYERS_SHARED] = {"layers_shared", "Of these, had been provided before, for another client."},
	[LM_COUNT_LAYERS_LOSSY] = {"layers_lossy", "Of these, the publisher had dropped owners or attributes."},
	[LM_COUNT_FALLBACK_UNNAMED] = {"fallback_unnamed",
		"Layers pulled the ordinary way because the client did not say which they are."},
	[LM_COUNT_FALLBACK_ABSENT] = {"fallback_absent",
		"Layers pulled the ordinary way because no repository has them."},
	[LM_COUNT_FALLBACK_UNAVAILABLE] = {"fallback_unavailable",
		"Layers pulled the ordinary way because the fetcher said that it can't say or serve them now."},
	[LM_COUNT_FALLBACK_UNREACHABLE] = {"fallback_unreachable",
		"Layers pulled the ordinary way because nobody listened at the fetcher's socket."},
	[LM_COUNT_FALLBACK_TIMED_OUT] = {"fallback_timed_out",
		"Layers pulled the ordinary way because the fetcher did not answer in time."},
	[LM_COUNT_FALLBACK_LOCAL] = {"fallback_local",
		"Layers pulled the ordinary way because of a failure of the snapshotter."},
	[LM_COUNT_PULLS_REFUSED] = {"pulls_refused", "Of these, refused instead, by LAMELLA_ON_MISS=fail."},
	[LM_COUNT_STARTS_REFUSED] = {"starts_refused", "Mounts refused because a layer was not being served."},
	[LM_COUNT_TREES_USED] = {"trees_used", "Mounts handed out over the merged tree of their layers."},
	[LM_COUNT_TREES_ABSENT] = {"trees_absent",
		"Mounts over the layers themselves, of which no repository has a merged tree."},
	[LM_COUNT_TREES_FAILED] = {"trees_failed",
		"Mounts over the layers themselves, because their merged tree could not be used."},
	[LM_COUNT_SNAPSHOTS_MADE] = {"snapshots_made", "Active snapshots and views that were made."},
	[LM_COUNT_REMOVED] = {"removed", "Snapshots removed."},
	[LM_COUNT_DIRECTORIES_DROPPED] = {"directories_dropped", "Directories deleted that no record named."},
	[LM_COUNT_SNAPSHOTS_REBUILT] = {"snapshots_rebuilt",
		"Snapshots whose rows were made again of their directories' records."},
	[LM_COUNT_DIRECTORIES_KEPT] = {"directories_kept",
		"Directories without a row that are kept, since they may hold what a container wrote."},
};

const char *lm_counter_name(enum lm_counter counter)
{
	return counters[counter].name;
}

const char *lm_counter_help(enum lm_counter counter)
{
	return counters[counter].help;
}

uint64_t lm_service_count(const struct lm_service *service, enum lm_counter counter)
{
	return lm_snapshots_count(service->snapshots, counter);
}

void lm_service_log_counters(const struct lm_service *service)
{
	struct lm_kv pairs[LM_COUNTERS];
	if (!lm_log_enabled(LM_LOG_INFO))
		return;
	for (unsigned i = 0; i < LM_COUNTERS; i++)
		pairs[i] = lm_kv(counters[i].name, "%" PRIu64, lm_service_count(service, (enum lm_counter)i));
	lm_log_line(LM_LOG_INFO, "counters", pairs, LM_COUNTERS);
	lm_snapshots_log_trees(service->snapshots);
}
