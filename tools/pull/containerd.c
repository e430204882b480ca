#include "pull/containerd.h"

#include "base/clock.h"
#include "base/str.h"
#include "base/texts.h"
#include "common.h"
#include "rpc/rpc.h"

#include "containerd/content.pb-c.h"
#include "containerd/diff.pb-c.h"
#include "containerd/images.pb-c.h"
#include "containerd/leases.pb-c.h"
#include "containerd/snapshots.pb-c.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define CONTENT "/containerd.services.content.v1.Content/"
#define DIFF "/containerd.services.diff.v1.Diff/"
#define IMAGES "/containerd.services.images.v1.Images/"
#define LEASES "/containerd.services.leases.v1.Leases/"
#define SNAPSHOTS "/containerd.services.snapshots.v1.Snapshots/"

/* A call waits for containerd's collection of garbage, unpacking for the disk. */
enum {
	TIMEOUT_MS = 120000,
	UNPACK_TIMEOUT_MS = 3600000,
	LOCKED_PAUSE_US = 200000,
	PIECE = 1 << 20,
	PUT_MAX = 8 << 20,
};

struct lm_containerd {
	char *snapshotter, *lease; /* lease NULL: none */
	struct lm_rpc_client *client;
};

struct lm_containerd_mounts {
	Containerd__Services__Snapshots__V1__PrepareSnapshotResponse *response;
};

static void free_message(ProtobufCMessage **message)
{
	if (*message)
		protobuf_c_message_free_unpacked(*message, NULL);
}

int lm_containerd_new(const struct lm_containerd_options *options, struct lm_containerd **ret, struct lm_err *err)
{
	CLEANUP(lm_containerd_freep) struct lm_containerd *containerd = calloc(1, sizeof(*containerd));
	if (!containerd || !(containerd->snapshotter = strdup(options->snapshotter)))
		return lm_err_oom(err);
	int r = lm_cli_socket_check(options->socket, "containerd is not running", err);
	if (r == 0)
		r = lm_rpc_client_new(options->socket, &containerd->client, err);
	if (r == 0)
		r = lm_rpc_client_set_header(containerd->client, "containerd-namespace", options->namespace, err);
	if (r < 0)
		return r;
	*ret = STEAL(containerd);
	return 0;
}

void lm_containerd_free(struct lm_containerd *containerd)
{
	if (!containerd)
		return;
	lm_rpc_client_free(containerd->client);
	free(containerd->snapshotter);
	free(containerd->lease);
	free(containerd);
}

/* What containerd refuses is no mistake in the words of a command (-EINVAL). */
static int prefix(int r, struct lm_err *err)
{
	return lm_err_prefix(err, r == -EINVAL ? -EPROTO : r, "containerd");
}

/* ret NULL: the answer says nothing. */
static int call(struct lm_containerd *containerd, const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, ProtobufCMessage **ret, struct lm_err *err)
{
	CLEANUP(free_message) ProtobufCMessage *message = NULL;
	int r = lm_rpc_invoke(containerd->client, path, request, response, TIMEOUT_MS, false, &message, NULL, err);
	if (r < 0)
		return prefix(r, err);
	if (ret)
		*ret = STEAL(message);
	return 0;
}

/* --- labels: map entries have one layout in all messages --- */

struct entry {
	ProtobufCMessage base;
	char *key, *value;
};
_Static_assert(sizeof(struct entry) == sizeof(Containerd__Services__Content__V1__Info__LabelsEntry), "map entry");
_Static_assert(offsetof(struct entry, value) == offsetof(Containerd__Services__Content__V1__Info__LabelsEntry, value),
	"map entry");

/* One block of memory, freed by the caller: pointers, and what they point to. */
static int make_entries(const ProtobufCMessageDescriptor *type, const struct lm_containerd_labels *labels,
	struct entry ***ret, struct lm_err *err)
{
	struct entry **pointers = calloc(labels->count + 1, sizeof(*pointers) + sizeof(**pointers));
	if (!pointers)
		return lm_err_oom(err);
	struct entry *entries = (struct entry *)(pointers + labels->count);
	for (size_t i = 0; i < labels->count; i++) {
		protobuf_c_message_init(type, &entries[i].base);
		entries[i].key = (char *)labels->items[i].key;
		entries[i].value = (char *)labels->items[i].value;
		pointers[i] = &entries[i];
	}
	*ret = pointers;
	return 0;
}

/* Which of an object's labels an update is about. */
static int label_paths(const struct lm_containerd_labels *labels, struct lm_texts *ret, struct lm_err *err)
{
	for (size_t i = 0; i < labels->count; i++) {
		CLEANUP(lm_freep) char *path = lm_str_printf("labels.%s", labels->items[i].key);
		if (!path || lm_texts_add(ret, path) < 0)
			return lm_err_oom(err);
	}
	return 0;
}

/* --- leases --- */

int lm_containerd_lease(struct lm_containerd *containerd, const char *id, uint64_t seconds, struct lm_err *err)
{
	Containerd__Services__Leases__V1__CreateRequest request =
		CONTAINERD__SERVICES__LEASES__V1__CREATE_REQUEST__INIT;
	const struct lm_cli_time_text end = lm_cli_time(time(NULL) + (int64_t)seconds);
	const struct lm_containerd_label label = {"containerd.io/gc.expire", end.s};
	const struct lm_containerd_labels labels = {&label, 1};
	CLEANUP(lm_freep) struct entry **entries = NULL;
	int r = make_entries(
		&containerd__services__leases__v1__create_request__labels_entry__descriptor, &labels, &entries, err);
	if (r < 0)
		return r;
	request.id = (char *)id;
	request.n_labels = 1;
	request.labels = (void *)entries;
	r = call(containerd, LEASES "Create", &request.base,
		&containerd__services__leases__v1__create_response__descriptor, NULL, err);
	if (r == 0 && !(containerd->lease = strdup(id)))
		r = lm_err_oom(err);
	return r < 0 ? r : lm_rpc_client_set_header(containerd->client, "containerd-lease", id, err);
}

int lm_containerd_release(struct lm_containerd *containerd, bool wait, struct lm_err *err)
{
	Containerd__Services__Leases__V1__DeleteRequest request =
		CONTAINERD__SERVICES__LEASES__V1__DELETE_REQUEST__INIT;
	CLEANUP(lm_freep) char *id = STEAL(containerd->lease);
	if (!id)
		return 0;
	request.id = id;
	request.sync = wait;
	return call(containerd, LEASES "Delete", &request.base, &containerd__services__leases__v1__empty__descriptor,
		NULL, err);
}

int lm_containerd_hold(struct lm_containerd *containerd, const char *snapshot, struct lm_err *err)
{
	Containerd__Services__Leases__V1__AddResourceRequest request =
		CONTAINERD__SERVICES__LEASES__V1__ADD_RESOURCE_REQUEST__INIT;
	Containerd__Services__Leases__V1__Resource resource = CONTAINERD__SERVICES__LEASES__V1__RESOURCE__INIT;
	CLEANUP(lm_freep) char *type = lm_str_printf("snapshots/%s", containerd->snapshotter);
	if (!type)
		return lm_err_oom(err);
	resource.id = (char *)snapshot;
	resource.type = type;
	request.id = containerd->lease;
	request.resource = &resource;
	return call(containerd, LEASES "AddResource", &request.base,
		&containerd__services__leases__v1__empty__descriptor, NULL, err);
}

/* --- content --- */

int lm_containerd_label(struct lm_containerd *containerd, const char *digest, const struct lm_containerd_labels *labels,
	struct lm_err *err)
{
	Containerd__Services__Content__V1__UpdateRequest request =
		CONTAINERD__SERVICES__CONTENT__V1__UPDATE_REQUEST__INIT;
	Containerd__Services__Content__V1__Info info = CONTAINERD__SERVICES__CONTENT__V1__INFO__INIT;
	Containerd__Services__Content__V1__FieldMask mask = CONTAINERD__SERVICES__CONTENT__V1__FIELD_MASK__INIT;
	CLEANUP(lm_freep) struct entry **entries = NULL;
	CLEANUP(lm_texts_done) struct lm_texts paths = {0};
	int r = make_entries(&containerd__services__content__v1__info__labels_entry__descriptor, labels, &entries, err);
	if (r == 0)
		r = label_paths(labels, &paths, err);
	if (r < 0)
		return r;
	mask.n_paths = paths.count;
	mask.paths = paths.items;
	info.digest = (char *)digest;
	info.n_labels = labels->count;
	info.labels = (void *)entries;
	request.info = &info;
	request.update_mask = &mask;
	return call(containerd, CONTENT "Update", &request.base,
		&containerd__services__content__v1__update_response__descriptor, NULL, err);
}

/* A piece of what is written; the last one commits it. */
static int write_piece(struct lm_rpc_stream *stream, Containerd__Services__Content__V1__WriteContentRequest *request,
	const void *data, size_t len, struct lm_err *err)
{
	CLEANUP(free_message) ProtobufCMessage *message = NULL;
	request->data = (ProtobufCBinaryData){len, (uint8_t *)data};
	int r = lm_rpc_stream_ask(stream, &request->base, TIMEOUT_MS, &message, NULL, err);
	request->offset += (int64_t)len;
	return r < 0 && r != -EEXIST ? prefix(r, err) : r;
}

/* 0, or -EEXIST: it was there. request is filled but for offset and data. */
static int write_blob(struct lm_rpc_stream *stream, Containerd__Services__Content__V1__WriteContentRequest *request,
	struct lm_blob *blob, int (*wanted)(void *arg, struct lm_err *err), void *arg, struct lm_err *err)
{
	CLEANUP(lm_freep) uint8_t *piece = malloc(PIECE);
	if (!piece)
		return lm_err_oom(err);
	request->action = CONTAINERD__SERVICES__CONTENT__V1__WRITE_ACTION__STAT;
	int r = write_piece(stream, request, NULL, 0, err);
	request->action = CONTAINERD__SERVICES__CONTENT__V1__WRITE_ACTION__WRITE;
	for (size_t len = 1; r == 0 && len > 0;) {
		len = 0;
		for (ssize_t n = 1; r == 0 && n > 0 && len<PIECE; len += n> 0 ? (size_t)n : 0) {
			n = lm_blob_read(blob, piece + len, PIECE - len, err);
			r = n < 0 ? (int)n : 0;
		}
		if (r == 0 && wanted)
			r = wanted(arg, err);
		if (r == 0 && len > 0)
			r = write_piece(stream, request, piece, len, err);
	}
	if (r < 0)
		return r;
	/* All of it was read and is what its digest says. */
	request->action = CONTAINERD__SERVICES__CONTENT__V1__WRITE_ACTION__COMMIT;
	return write_piece(stream, request, NULL, 0, err);
}

static int write_content(struct lm_containerd *containerd, const struct lm_containerd_content *content,
	const void *data, struct lm_blob *blob, const struct lm_containerd_labels *labels,
	int (*wanted)(void *arg, struct lm_err *err), void *arg, struct lm_err *err)
{
	Containerd__Services__Content__V1__WriteContentRequest request =
		CONTAINERD__SERVICES__CONTENT__V1__WRITE_CONTENT_REQUEST__INIT;
	CLEANUP(lm_rpc_stream_freep) struct lm_rpc_stream *stream = NULL;
	CLEANUP(lm_freep) struct entry **entries = NULL;
	CLEANUP(lm_freep) char *ref = lm_str_printf("lamella-%s", content->digest);
	int r = ref ? make_entries(&containerd__services__content__v1__write_content_request__labels_entry__descriptor,
			      labels, &entries, err)
		    : lm_err_oom(err);
	if (r == 0)
		r = lm_rpc_stream_new(containerd->client, CONTENT "Write",
			&containerd__services__content__v1__write_content_response__descriptor, &stream, err);
	if (r < 0)
		return r;
	request.ref = ref;
	request.total = (int64_t)content->size;
	request.expected = (char *)content->digest;
	request.n_labels = labels->count;
	request.labels = (void *)entries;
	if (blob)
		return write_blob(stream, &request, blob, wanted, arg, err);
	request.action = CONTAINERD__SERVICES__CONTENT__V1__WRITE_ACTION__COMMIT;
	return write_piece(stream, &request, data, content->size, err);
}

/* Another pull is writing it: UNAVAILABLE as if containerd were away, but for its words (1.6 to 2). Nothing was read or
 * written then. */
static bool is_locked(int r, const struct lm_err *why)
{
	return r == -EAGAIN && strstr(why->msg, " locked");
}

static int put(struct lm_containerd *containerd, const struct lm_containerd_content *content, const void *data,
	struct lm_blob *blob, const struct lm_containerd_labels *labels, int (*wanted)(void *arg, struct lm_err *err),
	void *arg, struct lm_err *err)
{
	const int64_t give_up_ms = wanted ? INT64_MAX : lm_now_ms() + TIMEOUT_MS;
	struct lm_err why = LM_ERR_INIT;
	int r = write_content(containerd, content, data, blob, labels, wanted, arg, &why);
	while (is_locked(r, &why) && lm_now_ms() < give_up_ms) {
		int stop = wanted ? wanted(arg, err) : 0;
		if (stop < 0)
			return stop;
		usleep(LOCKED_PAUSE_US);
		r = write_content(containerd, content, data, blob, labels, wanted, arg, &why);
	}
	if (r == -EEXIST)
		r = lm_containerd_label(containerd, content->digest, labels, &why);
	return r < 0 ? lm_err_set(err, r, "content %s: %s", content->digest, lm_err_text(&why)) : 0;
}

int lm_containerd_put(struct lm_containerd *containerd, const struct lm_containerd_content *content, const void *data,
	const struct lm_containerd_labels *labels, struct lm_err *err)
{
	if (content->size > PUT_MAX)
		return lm_err_set(err, -EMSGSIZE, "content %s is too large", content->digest);
	return put(containerd, content, data, NULL, labels, NULL, NULL, err);
}

int lm_containerd_put_blob(struct lm_containerd *containerd, const struct lm_containerd_content *content,
	struct lm_blob *blob, const struct lm_containerd_labels *labels, int (*wanted)(void *arg, struct lm_err *err),
	void *arg, struct lm_err *err)
{
	return put(containerd, content, NULL, blob, labels, wanted, arg, err);
}

/* --- snapshots --- */

int lm_containerd_stat(
	struct lm_containerd *containerd, const char *snapshot, struct lm_containerd_snapshot *ret, struct lm_err *err)
{
	Containerd__Services__Snapshots__V1__StatSnapshotRequest request =
		CONTAINERD__SERVICES__SNAPSHOTS__V1__STAT_SNAPSHOT_REQUEST__INIT;
	CLEANUP(free_message) ProtobufCMessage *message = NULL;
	request.snapshotter = containerd->snapshotter;
	request.key = (char *)snapshot;
	int r = call(containerd, SNAPSHOTS "Stat", &request.base,
		&containerd__services__snapshots__v1__stat_snapshot_response__descriptor, &message, err);
	if (r < 0)
		return r;
	const Containerd__Services__Snapshots__V1__StatSnapshotResponse *response = (void *)message;
	*ret = (struct lm_containerd_snapshot){0};
	for (size_t i = 0; response->info && i < response->info->n_labels; i++) {
		const char *key = response->info->labels[i]->key, *value = response->info->labels[i]->value;
		if (strcmp(key, "containerd.io/snapshot/lamella.layer") == 0)
			snprintf(ret->layer, sizeof(ret->layer), "%s", value);
		else if (strcmp(key, "containerd.io/snapshot/lamella.reason") == 0)
			snprintf(ret->reason, sizeof(ret->reason), "%s", value);
	}
	return 0;
}

int lm_containerd_prepare(struct lm_containerd *containerd, const char *key, const char *parent,
	const struct lm_containerd_labels *labels, struct lm_containerd_mounts **ret_mounts, struct lm_err *err)
{
	Containerd__Services__Snapshots__V1__PrepareSnapshotRequest request =
		CONTAINERD__SERVICES__SNAPSHOTS__V1__PREPARE_SNAPSHOT_REQUEST__INIT;
	CLEANUP(lm_freep) struct entry **entries = NULL;
	CLEANUP(lm_containerd_mounts_freep) struct lm_containerd_mounts *mounts = calloc(1, sizeof(*mounts));
	int r = mounts ? make_entries(
				 &containerd__services__snapshots__v1__prepare_snapshot_request__labels_entry__descriptor,
				 labels, &entries, err)
		       : lm_err_oom(err);
	if (r < 0)
		return r;
	request.snapshotter = containerd->snapshotter;
	request.key = (char *)key;
	request.parent = (char *)parent;
	request.n_labels = labels->count;
	request.labels = (void *)entries;
	r = call(containerd, SNAPSHOTS "Prepare", &request.base,
		&containerd__services__snapshots__v1__prepare_snapshot_response__descriptor,
		(ProtobufCMessage **)&mounts->response, err);
	if (r == 0)
		*ret_mounts = STEAL(mounts);
	return r == -EEXIST ? 1 : r;
}

void lm_containerd_mounts_free(struct lm_containerd_mounts *mounts)
{
	if (mounts)
		free_message((ProtobufCMessage **)&mounts->response);
	free(mounts);
}

int lm_containerd_apply(struct lm_containerd *containerd, const struct lm_containerd_content *content,
	const struct lm_containerd_mounts *mounts, const char *diff_id, struct lm_err *err)
{
	Containerd__Services__Diff__V1__ApplyRequest request = CONTAINERD__SERVICES__DIFF__V1__APPLY_REQUEST__INIT;
	Containerd__Services__Diff__V1__Descriptor diff = CONTAINERD__SERVICES__DIFF__V1__DESCRIPTOR__INIT;
	CLEANUP(free_message) ProtobufCMessage *message = NULL;
	const size_t count = mounts->response->n_mounts;
	CLEANUP(lm_freep) Containerd__Services__Diff__V1__Mount *copies = calloc(count + 1, sizeof(*copies));
	CLEANUP(lm_freep) Containerd__Services__Diff__V1__Mount **pointers = calloc(count + 1, sizeof(*pointers));
	if (!copies || !pointers)
		return lm_err_oom(err);
	for (size_t i = 0; i < count; i++) { /* the same message in another package */
		const Containerd__Services__Snapshots__V1__Mount *mount = mounts->response->mounts[i];
		containerd__services__diff__v1__mount__init(&copies[i]);
		copies[i].type = mount->type;
		copies[i].source = mount->source;
		copies[i].target = mount->target;
		copies[i].n_options = mount->n_options;
		copies[i].options = mount->options;
		pointers[i] = &copies[i];
	}
	diff.media_type = (char *)content->media_type;
	diff.digest = (char *)content->digest;
	diff.size = (int64_t)content->size;
	request.diff = &diff;
	request.n_mounts = count;
	request.mounts = pointers;
	int r = lm_rpc_invoke(containerd->client, DIFF "Apply", &request.base,
		&containerd__services__diff__v1__apply_response__descriptor, UNPACK_TIMEOUT_MS, false, &message, NULL,
		err);
	if (r < 0)
		return prefix(r, err);
	const Containerd__Services__Diff__V1__ApplyResponse *response = (void *)message;
	const char *applied = response->applied ? response->applied->digest : "nothing";
	return strcmp(applied, diff_id) == 0 ? 0
					     : lm_err_set(err, -EBADMSG, "layer %s: %.80s came out, not %s",
						       content->digest, applied, diff_id);
}

int lm_containerd_commit(struct lm_containerd *containerd, const char *key, const char *name,
	const struct lm_containerd_labels *labels, struct lm_err *err)
{
	Containerd__Services__Snapshots__V1__CommitSnapshotRequest request =
		CONTAINERD__SERVICES__SNAPSHOTS__V1__COMMIT_SNAPSHOT_REQUEST__INIT;
	CLEANUP(lm_freep) struct entry **entries = NULL;
	int r = make_entries(&containerd__services__snapshots__v1__commit_snapshot_request__labels_entry__descriptor,
		labels, &entries, err);
	if (r < 0)
		return r;
	request.snapshotter = containerd->snapshotter;
	request.key = (char *)key;
	request.name = (char *)name;
	request.n_labels = labels->count;
	request.labels = (void *)entries;
	return call(containerd, SNAPSHOTS "Commit", &request.base,
		&containerd__services__snapshots__v1__empty__descriptor, NULL, err);
}

int lm_containerd_remove(struct lm_containerd *containerd, const char *key, struct lm_err *err)
{
	Containerd__Services__Snapshots__V1__RemoveSnapshotRequest request =
		CONTAINERD__SERVICES__SNAPSHOTS__V1__REMOVE_SNAPSHOT_REQUEST__INIT;
	request.snapshotter = containerd->snapshotter;
	request.key = (char *)key;
	return call(containerd, SNAPSHOTS "Remove", &request.base,
		&containerd__services__snapshots__v1__empty__descriptor, NULL, err);
}

/* --- names --- */

static int update_image(struct lm_containerd *containerd, Containerd__Services__Images__V1__Image *image,
	const struct lm_containerd_labels *labels, struct lm_err *err)
{
	Containerd__Services__Images__V1__UpdateImageRequest request =
		CONTAINERD__SERVICES__IMAGES__V1__UPDATE_IMAGE_REQUEST__INIT;
	Containerd__Services__Images__V1__FieldMask mask = CONTAINERD__SERVICES__IMAGES__V1__FIELD_MASK__INIT;
	CLEANUP(lm_texts_done) struct lm_texts paths = {0};
	int r = lm_texts_add(&paths, "target") < 0 ? lm_err_oom(err) : label_paths(labels, &paths, err);
	if (r < 0)
		return r;
	mask.n_paths = paths.count;
	mask.paths = paths.items;
	request.image = image;
	request.update_mask = &mask;
	return call(containerd, IMAGES "Update", &request.base,
		&containerd__services__images__v1__update_image_response__descriptor, NULL, err);
}

int lm_containerd_name(struct lm_containerd *containerd, const char *name, const struct lm_containerd_content *target,
	const struct lm_containerd_labels *labels, struct lm_err *err)
{
	Containerd__Services__Images__V1__CreateImageRequest request =
		CONTAINERD__SERVICES__IMAGES__V1__CREATE_IMAGE_REQUEST__INIT;
	Containerd__Services__Images__V1__Image image = CONTAINERD__SERVICES__IMAGES__V1__IMAGE__INIT;
	Containerd__Services__Images__V1__Descriptor descriptor = CONTAINERD__SERVICES__IMAGES__V1__DESCRIPTOR__INIT;
	CLEANUP(lm_freep) struct entry **entries = NULL;
	int r = make_entries(&containerd__services__images__v1__image__labels_entry__descriptor, labels, &entries, err);
	if (r < 0)
		return r;
	descriptor.media_type = (char *)target->media_type;
	descriptor.digest = (char *)target->digest;
	descriptor.size = (int64_t)target->size;
	image.name = (char *)name;
	image.target = &descriptor;
	image.n_labels = labels->count;
	image.labels = (void *)entries;
	request.image = &image;
	r = call(containerd, IMAGES "Create", &request.base,
		&containerd__services__images__v1__create_image_response__descriptor, NULL, err);
	return r == -EEXIST ? update_image(containerd, &image, labels, err) : r;
}
