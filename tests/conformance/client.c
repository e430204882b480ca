#include "client.h"

#include "base/buf.h"

#include <string.h>

#define SERVICE "/containerd.services.snapshots.v1.Snapshots/"
#define DESCRIPTOR(name) (&containerd__services__snapshots__v1__##name##__descriptor)
#define LABELS_MAX 64

int remote_connect(const char *socket, const char *namespace, struct lm_rpc_client **ret, struct lm_err *err)
{
	CLEANUP(lm_rpc_client_freep) struct lm_rpc_client *client = NULL;
	int r = lm_rpc_client_new(socket, &client, err);
	if (r == 0 && namespace)
		r = lm_rpc_client_set_header(client, "containerd-namespace", namespace, err);
	if (r == 0)
		*ret = STEAL(client);
	return r;
}

/* *ret is NULL after a failure. */
static enum lm_rpc_code call(struct remote *remote, const char *method, const void *request,
	const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret)
{
	enum lm_rpc_code code = LM_RPC_INTERNAL;
	*ret = NULL;
	remote->err = (struct lm_err)LM_ERR_INIT;
	int r = lm_rpc_invoke(
		remote->client, method, request, type, remote->timeout_ms, false, ret, &code, &remote->err);
	return r < 0 && code == LM_RPC_OK ? LM_RPC_INTERNAL : code;
}

static void free_answer(void *message)
{
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
}

static enum lm_rpc_code call_empty(struct remote *remote, const char *method, const void *request)
{
	ProtobufCMessage *answer;
	enum lm_rpc_code code = call(remote, method, request, DESCRIPTOR(empty), &answer);
	free_answer(answer);
	return code;
}

/* All maps of labels have entries of one shape; their types are told apart by their descriptors only. */
struct label_entries {
	V1(PrepareSnapshotRequest__LabelsEntry) entries[LABELS_MAX];
	void *pointers[LABELS_MAX];
	size_t count;
};

static void fill_labels(struct label_entries *ret, label_list labels, const ProtobufCMessageDescriptor *type)
{
	ret->count = 0;
	for (; labels && labels[0] && ret->count < LABELS_MAX; labels += 2, ret->count++) {
		V1(PrepareSnapshotRequest__LabelsEntry) *entry = &ret->entries[ret->count];
		protobuf_c_message_init(type, entry);
		entry->key = (char *)labels[0];
		entry->value = (char *)labels[1];
		ret->pointers[ret->count] = entry;
	}
}

void mounts_done(struct mounts *mounts)
{
	free_answer(mounts->answer);
	mounts->answer = NULL;
}

static void take_mounts(ProtobufCMessage *answer, struct mounts *ret)
{
	if (ret)
		ret->answer = (void *)answer;
	else
		free_answer(answer);
}

/* Requests and answers of Prepare and View are one type twice, and an answer of Mounts is the same. */
enum lm_rpc_code remote_make(struct remote *remote, enum make how, const char *key, const char *parent,
	label_list labels, struct mounts *ret)
{
	V1(PrepareSnapshotRequest) request = CONTAINERD__SERVICES__SNAPSHOTS__V1__PREPARE_SNAPSHOT_REQUEST__INIT;
	struct label_entries entries;
	ProtobufCMessage *answer;
	fill_labels(&entries, labels, DESCRIPTOR(prepare_snapshot_request__labels_entry));
	request.snapshotter = (char *)remote->snapshotter;
	request.key = (char *)key;
	request.parent = (char *)parent;
	request.n_labels = entries.count;
	request.labels = (void *)entries.pointers;
	enum lm_rpc_code code = call(remote, how == PREPARE ? SERVICE "Prepare" : SERVICE "View", &request,
		DESCRIPTOR(mounts_response), &answer);
	take_mounts(answer, ret);
	return code;
}

enum lm_rpc_code remote_mounts(struct remote *remote, const char *key, struct mounts *ret)
{
	V1(MountsRequest) request = CONTAINERD__SERVICES__SNAPSHOTS__V1__MOUNTS_REQUEST__INIT;
	ProtobufCMessage *answer;
	request.snapshotter = (char *)remote->snapshotter;
	request.key = (char *)key;
	enum lm_rpc_code code = call(remote, SERVICE "Mounts", &request, DESCRIPTOR(mounts_response), &answer);
	take_mounts(answer, ret);
	return code;
}

enum lm_rpc_code remote_commit(struct remote *remote, const char *name, const char *key, label_list labels)
{
	V1(CommitSnapshotRequest) request = CONTAINERD__SERVICES__SNAPSHOTS__V1__COMMIT_SNAPSHOT_REQUEST__INIT;
	struct label_entries entries;
	fill_labels(&entries, labels, DESCRIPTOR(commit_snapshot_request__labels_entry));
	request.snapshotter = (char *)remote->snapshotter;
	request.name = (char *)name;
	request.key = (char *)key;
	request.n_labels = entries.count;
	request.labels = (void *)entries.pointers;
	return call_empty(remote, SERVICE "Commit", &request);
}

enum lm_rpc_code remote_remove(struct remote *remote, const char *key)
{
	V1(RemoveSnapshotRequest) request = CONTAINERD__SERVICES__SNAPSHOTS__V1__REMOVE_SNAPSHOT_REQUEST__INIT;
	request.snapshotter = (char *)remote->snapshotter;
	request.key = (char *)key;
	return call_empty(remote, SERVICE "Remove", &request);
}

enum lm_rpc_code remote_cleanup(struct remote *remote)
{
	V1(CleanupRequest) request = CONTAINERD__SERVICES__SNAPSHOTS__V1__CLEANUP_REQUEST__INIT;
	request.snapshotter = (char *)remote->snapshotter;
	return call_empty(remote, SERVICE "Cleanup", &request);
}

enum lm_rpc_code remote_usage(struct remote *remote, const char *key, int64_t *ret_bytes, int64_t *ret_inodes)
{
	V1(UsageRequest) request = CONTAINERD__SERVICES__SNAPSHOTS__V1__USAGE_REQUEST__INIT;
	ProtobufCMessage *answer;
	request.snapshotter = (char *)remote->snapshotter;
	request.key = (char *)key;
	enum lm_rpc_code code = call(remote, SERVICE "Usage", &request, DESCRIPTOR(usage_response), &answer);
	if (answer) {
		const V1(UsageResponse) *usage = (void *)answer;
		*ret_bytes = usage->size;
		*ret_inodes = usage->inodes;
	}
	free_answer(answer);
	return code;
}

void info_done(struct info *info)
{
	free_answer(info->answer);
	*info = (struct info){0};
}

const char *info_label(const V1(Info) * info, const char *key)
{
	for (size_t i = 0; i < info->n_labels; i++)
		if (strcmp(info->labels[i]->key, key) == 0)
			return info->labels[i]->value;
	return NULL;
}

int64_t time_ns(const V1(Timestamp) * time)
{
	return time ? time->seconds * 1000000000 + time->nanos : 0;
}

static enum lm_rpc_code take_info(
	struct remote *remote, enum lm_rpc_code code, ProtobufCMessage *answer, struct info *ret)
{
	struct info info = {.answer = (void *)answer};
	if (!answer)
		return code;
	info.info = info.answer->info;
	if (!info.info) {
		info_done(&info);
		(void)lm_err_set(&remote->err, -EPROTO, "an answer without an info");
		return LM_RPC_INTERNAL;
	}
	if (ret)
		*ret = info;
	else
		info_done(&info);
	return code;
}

enum lm_rpc_code remote_stat(struct remote *remote, const char *key, struct info *ret)
{
	V1(StatSnapshotRequest) request = CONTAINERD__SERVICES__SNAPSHOTS__V1__STAT_SNAPSHOT_REQUEST__INIT;
	ProtobufCMessage *answer;
	request.snapshotter = (char *)remote->snapshotter;
	request.key = (char *)key;
	enum lm_rpc_code code = call(remote, SERVICE "Stat", &request, DESCRIPTOR(stat_snapshot_response), &answer);
	return take_info(remote, code, answer, ret);
}

enum lm_rpc_code remote_update(struct remote *remote, const char *key, const char *parent, label_list labels,
	const char *const *paths, struct info *ret)
{
	V1(UpdateSnapshotRequest) request = CONTAINERD__SERVICES__SNAPSHOTS__V1__UPDATE_SNAPSHOT_REQUEST__INIT;
	V1(Info) info = CONTAINERD__SERVICES__SNAPSHOTS__V1__INFO__INIT;
	V1(FieldMask) mask = CONTAINERD__SERVICES__SNAPSHOTS__V1__FIELD_MASK__INIT;
	struct label_entries entries;
	ProtobufCMessage *answer;
	fill_labels(&entries, labels, DESCRIPTOR(info__labels_entry));
	info.name = (char *)key;
	info.parent = (char *)parent;
	info.n_labels = entries.count;
	info.labels = (void *)entries.pointers;
	request.snapshotter = (char *)remote->snapshotter;
	request.info = &info;
	while (paths && paths[mask.n_paths])
		mask.n_paths++;
	mask.paths = (char **)paths;
	if (paths)
		request.update_mask = &mask;
	enum lm_rpc_code code = call(remote, SERVICE "Update", &request, DESCRIPTOR(update_snapshot_response), &answer);
	return take_info(remote, code, answer, ret);
}

/* List. */

void listing_done(struct listing *listing)
{
	for (size_t i = 0; i < listing->n_answers; i++)
		free_answer(listing->answers[i]);
	free(listing->answers);
	free(listing->infos);
	*listing = (struct listing){0};
}

const V1(Info) * listing_find(const struct listing *listing, const char *name)
{
	for (size_t i = 0; i < listing->count; i++)
		if (strcmp(listing->infos[i]->name, name) == 0)
			return listing->infos[i];
	return NULL;
}

static int take_answer(void *arg, ProtobufCMessage *message)
{
	struct listing *listing = arg;
	V1(ListSnapshotsResponse) *answer = (void *)message;
	void *answers = reallocarray(listing->answers, listing->n_answers + 1, sizeof(*listing->answers));
	if (answers) {
		listing->answers = answers;
		listing->answers[listing->n_answers++] = answer;
	} else {
		free_answer(answer);
		return -ENOMEM;
	}
	void *infos = reallocarray(listing->infos, listing->count + answer->n_info + 1, sizeof(*listing->infos));
	if (!infos)
		return -ENOMEM;
	listing->infos = infos;
	for (size_t i = 0; i < answer->n_info; i++)
		listing->infos[listing->count++] = answer->info[i];
	return 0;
}

enum lm_rpc_code remote_list(struct remote *remote, const char *const *filters, struct listing *ret)
{
	V1(ListSnapshotsRequest) request = CONTAINERD__SERVICES__SNAPSHOTS__V1__LIST_SNAPSHOTS_REQUEST__INIT;
	CLEANUP(listing_done) struct listing listing = {0};
	enum lm_rpc_code code = LM_RPC_INTERNAL;
	request.snapshotter = (char *)remote->snapshotter;
	while (filters && filters[request.n_filters])
		request.n_filters++;
	request.filters = (char **)filters;
	remote->err = (struct lm_err)LM_ERR_INIT;
	int r = lm_rpc_invoke_stream(remote->client, SERVICE "List", &request.base, DESCRIPTOR(list_snapshots_response),
		remote->timeout_ms, take_answer, &listing, &code, &remote->err);
	if (r == 0 && ret) {
		*ret = listing;
		listing = (struct listing){0};
	}
	return r < 0 && code == LM_RPC_OK ? LM_RPC_INTERNAL : code;
}

/* Raw bytes. */

static int append_length(struct lm_buf *out, size_t len)
{
	int r = 0;
	for (; r == 0 && len >= 0x80; len >>= 7)
		r = lm_buf_append(out, &(uint8_t){(uint8_t)(len | 0x80)}, 1);
	return r < 0 ? r : lm_buf_append(out, &(uint8_t){(uint8_t)len}, 1);
}

enum lm_rpc_code remote_raw(struct remote *remote, const char *method, unsigned number, const void *bytes, size_t len)
{
	CLEANUP(lm_buf_done) struct lm_buf data = LM_BUF(16 << 20);
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(256);
	if (append_length(&data, len) < 0 || lm_buf_append(&data, bytes, len) < 0 ||
		lm_buf_printf(&path, "%s%s", SERVICE, method) < 0)
		return LM_RPC_INTERNAL;
	ProtobufCMessageUnknownField field = {
		.tag = number, .wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, .len = data.len, .data = data.data};
	V1(CleanupRequest) request = CONTAINERD__SERVICES__SNAPSHOTS__V1__CLEANUP_REQUEST__INIT;
	request.snapshotter = (char *)remote->snapshotter;
	request.base.n_unknown_fields = 1;
	request.base.unknown_fields = &field;
	return call_empty(remote, lm_buf_cstr(&path), &request);
}
