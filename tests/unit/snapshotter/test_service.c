/*
 * The whole service over its socket, against a fetcher that is made up: what containerd does, what it must be told, and
 * what is left on disk.
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "snapshotter/service.h"
#include "snapshotter/store.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <cmocka.h>

#include "containerd/snapshots.pb-c.h"
#include "fake_fetcher.h"
#include "lamella/snapshotter.pb-c.h"

#define V1(name) Containerd__Services__Snapshots__V1__##name
#define V1_INIT(name) CONTAINERD__SERVICES__SNAPSHOTS__V1__##name##__INIT
#define V1_DESCRIPTOR(name) containerd__services__snapshots__v1__##name##__descriptor

typedef V1(Info) wire_info;
typedef V1(Info__LabelsEntry) wire_label;
typedef V1(MountsResponse) wire_mounts;
typedef Lamella__Snapshotter__V1__StatusResponse StatusResponse;
typedef Lamella__Snapshotter__V1__Image Image;
typedef Lamella__Snapshotter__V1__Layer Layer;

struct fixture {
	char dir[40], root[64], socket[64], status[64], metrics[64];
	struct fake_fetcher fetcher;
	struct lm_service *service;
	struct lm_rpc_client *client;
	enum lm_on_miss on_miss;
	unsigned timeout_ms;
	_Atomic(unsigned) refused; /* pulls */
};

static void start(struct fixture *f)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_service_options options = {.root = f->root,
		.address = f->socket,
		.fetcher = f->fetcher.socket,
		.status = f->status,
		.metrics = f->metrics,
		.on_miss = f->on_miss,
		.resolve_timeout_ms = f->timeout_ms};
	if (lm_service_start(&options, &f->service, &err) < 0)
		fail_msg("%s", lm_err_text(&err));
	assert_int_equal(lm_rpc_client_new(f->socket, &f->client, NULL), 0);
}

static void stop(struct fixture *f)
{
	lm_rpc_client_free(STEAL(f->client));
	lm_service_stop(STEAL(f->service));
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->dir, "/tmp/lm-service.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->root, sizeof(f->root), "%s/root", f->dir);
	snprintf(f->socket, sizeof(f->socket), "%s/run/s.sock", f->dir);
	snprintf(f->status, sizeof(f->status), "%s/run/s-status.sock", f->dir);
	snprintf(f->metrics, sizeof(f->metrics), "%s/run/s-metrics.sock", f->dir);
	f->timeout_ms = 1000;
	fake_init(&f->fetcher, f->dir);
	start(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	stop(f);
	fake_done(&f->fetcher);
	assert_int_equal(lm_remove_tree(AT_FDCWD, f->dir, NULL), 0);
	free(f);
	return 0;
}

/* Calls. Labels are given as "key", "value", ..., NULL. */

struct labels {
	wire_label entries[LM_LABELS_MAX_COUNT + 1], *pointers[LM_LABELS_MAX_COUNT + 1];
	size_t count;
};

static void *label_entries(struct labels *labels, const char *const *pairs)
{
	for (labels->count = 0; pairs && pairs[2 * labels->count]; labels->count++) {
		wire_label *entry = &labels->entries[labels->count];
		*entry = (wire_label)V1_INIT(INFO__LABELS_ENTRY);
		entry->key = (char *)pairs[2 * labels->count];
		entry->value = (char *)pairs[2 * labels->count + 1];
		labels->pointers[labels->count] = entry;
	}
	return labels->pointers;
}
#define LABELS(...) ((const char *const[]){__VA_ARGS__, NULL})

static enum lm_rpc_code call(struct fixture *f, const char *method, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, ProtobufCMessage **ret)
{
	char path[128];
	enum lm_rpc_code code = LM_RPC_OK;
	struct lm_err err = LM_ERR_INIT;
	ProtobufCMessage *answer = NULL;
	snprintf(path, sizeof(path), "/containerd.services.snapshots.v1.Snapshots/%s", method);
	if (lm_rpc_invoke(f->client, path, request, response, 20000, true, &answer, &code, &err) < 0)
		print_message("  %s: %s\n", method, lm_err_text(&err));
	if (ret && answer)
		*ret = answer;
	else if (answer)
		protobuf_c_message_free_unpacked(answer, NULL);
	return code;
}

static enum lm_rpc_code prepare(
	struct fixture *f, const char *key, const char *parent, const char *const *labels, wire_mounts **ret)
{
	struct labels own;
	V1(PrepareSnapshotRequest) request = V1_INIT(PREPARE_SNAPSHOT_REQUEST);
	request.snapshotter = (char *)"lamella";
	request.key = (char *)key;
	request.parent = (char *)parent;
	request.labels = label_entries(&own, labels);
	request.n_labels = own.count;
	return call(f, "Prepare", &request.base, &V1_DESCRIPTOR(mounts_response), (ProtobufCMessage **)ret);
}

static enum lm_rpc_code view(struct fixture *f, const char *key, const char *parent, wire_mounts **ret)
{
	V1(ViewSnapshotRequest) request = V1_INIT(VIEW_SNAPSHOT_REQUEST);
	request.snapshotter = (char *)"lamella";
	request.key = (char *)key;
	request.parent = (char *)parent;
	return call(f, "View", &request.base, &V1_DESCRIPTOR(mounts_response), (ProtobufCMessage **)ret);
}

static enum lm_rpc_code mounts(struct fixture *f, const char *key, wire_mounts **ret)
{
	V1(MountsRequest) request = V1_INIT(MOUNTS_REQUEST);
	request.snapshotter = (char *)"lamella";
	request.key = (char *)key;
	return call(f, "Mounts", &request.base, &V1_DESCRIPTOR(mounts_response), (ProtobufCMessage **)ret);
}

static enum lm_rpc_code commit_on(
	struct fixture *f, const char *name, const char *key, const char *parent, const char *const *labels)
{
	struct labels own;
	V1(CommitSnapshotRequest) request = V1_INIT(COMMIT_SNAPSHOT_REQUEST);
	request.snapshotter = (char *)"lamella";
	request.name = (char *)name;
	request.key = (char *)key;
	request.parent = (char *)parent;
	request.labels = label_entries(&own, labels);
	request.n_labels = own.count;
	return call(f, "Commit", &request.base, &V1_DESCRIPTOR(empty), NULL);
}

static enum lm_rpc_code commit(struct fixture *f, const char *name, const char *key, const char *const *labels)
{
	return commit_on(f, name, key, "", labels);
}

static enum lm_rpc_code remove_key(struct fixture *f, const char *key)
{
	V1(RemoveSnapshotRequest) request = V1_INIT(REMOVE_SNAPSHOT_REQUEST);
	request.snapshotter = (char *)"lamella";
	request.key = (char *)key;
	return call(f, "Remove", &request.base, &V1_DESCRIPTOR(empty), NULL);
}

static enum lm_rpc_code cleanup(struct fixture *f)
{
	V1(CleanupRequest) request = V1_INIT(CLEANUP_REQUEST);
	request.snapshotter = (char *)"lamella";
	return call(f, "Cleanup", &request.base, &V1_DESCRIPTOR(empty), NULL);
}

static enum lm_rpc_code stat_as(struct fixture *f, const char *plugin, const char *key, V1(StatSnapshotResponse) * *ret)
{
	V1(StatSnapshotRequest) request = V1_INIT(STAT_SNAPSHOT_REQUEST);
	request.snapshotter = (char *)plugin;
	request.key = (char *)key;
	return call(f, "Stat", &request.base, &V1_DESCRIPTOR(stat_snapshot_response), (ProtobufCMessage **)ret);
}

static V1(StatSnapshotResponse) * stat_ok(struct fixture *f, const char *key)
{
	V1(StatSnapshotResponse) *response = NULL;
	assert_int_equal(stat_as(f, "lamella", key, &response), LM_RPC_OK);
	assert_string_equal(response->info->name, key);
	return response;
}

static const char *label_of(const wire_info *info, const char *key)
{
	for (size_t i = 0; i < info->n_labels; i++)
		if (strcmp(info->labels[i]->key, key) == 0)
			return info->labels[i]->value;
	return NULL;
}

static enum lm_rpc_code usage(struct fixture *f, const char *key, int64_t *size, int64_t *inodes)
{
	V1(UsageRequest) request = V1_INIT(USAGE_REQUEST);
	V1(UsageResponse) *response = NULL;
	request.snapshotter = (char *)"lamella";
	request.key = (char *)key;
	enum lm_rpc_code code =
		call(f, "Usage", &request.base, &V1_DESCRIPTOR(usage_response), (ProtobufCMessage **)&response);
	if (code == LM_RPC_OK) {
		*size = response->size;
		*inodes = response->inodes;
		protobuf_c_message_free_unpacked(&response->base, NULL);
	}
	return code;
}

static enum lm_rpc_code update(struct fixture *f, const char *key, const char *const *labels, const char *const *paths,
	V1(UpdateSnapshotResponse) * *ret)
{
	struct labels own;
	V1(UpdateSnapshotRequest) request = V1_INIT(UPDATE_SNAPSHOT_REQUEST);
	V1(Info) info = V1_INIT(INFO);
	V1(FieldMask) mask = V1_INIT(FIELD_MASK);
	request.snapshotter = (char *)"lamella";
	request.info = &info;
	info.name = (char *)key;
	info.labels = label_entries(&own, labels);
	info.n_labels = own.count;
	mask.paths = (char **)paths;
	while (paths && paths[mask.n_paths])
		mask.n_paths++;
	request.update_mask = paths ? &mask : NULL;
	return call(f, "Update", &request.base, &V1_DESCRIPTOR(update_snapshot_response), (ProtobufCMessage **)ret);
}

struct listed {
	unsigned count, messages;
	char first[256], parent[256];
};

static int take_list(void *arg, ProtobufCMessage *message)
{
	struct listed *listed = arg;
	V1(ListSnapshotsResponse) *response = (void *)message;
	assert_in_range(response->n_info, 1, 100);
	if (listed->count == 0) {
		snprintf(listed->first, sizeof(listed->first), "%s", response->info[0]->name);
		snprintf(listed->parent, sizeof(listed->parent), "%s", response->info[0]->parent);
	}
	listed->count += (unsigned)response->n_info;
	listed->messages++;
	protobuf_c_message_free_unpacked(message, NULL);
	return 0;
}

static enum lm_rpc_code list(struct fixture *f, const char *const *filters, struct listed *ret)
{
	V1(ListSnapshotsRequest) request = V1_INIT(LIST_SNAPSHOTS_REQUEST);
	enum lm_rpc_code code = LM_RPC_OK;
	*ret = (struct listed){0};
	request.snapshotter = (char *)"lamella";
	request.filters = (char **)filters;
	while (filters && filters[request.n_filters])
		request.n_filters++;
	(void)!lm_rpc_invoke_stream(f->client, "/containerd.services.snapshots.v1.Snapshots/List", &request.base,
		&V1_DESCRIPTOR(list_snapshots_response), 20000, take_list, ret, &code, NULL);
	return code;
}

static StatusResponse *status_of(struct fixture *f)
{
	CLEANUP(lm_rpc_client_freep) struct lm_rpc_client *client = NULL;
	Lamella__Snapshotter__V1__StatusRequest request = LAMELLA__SNAPSHOTTER__V1__STATUS_REQUEST__INIT;
	ProtobufCMessage *answer = NULL;
	struct lm_err err = LM_ERR_INIT;
	request.images = true;
	assert_int_equal(lm_rpc_client_new(f->status, &client, NULL), 0);
	if (lm_rpc_invoke(client, "/lamella.snapshotter.v1.Snapshotter/Status", &request.base,
		    &lamella__snapshotter__v1__status_response__descriptor, 20000, true, &answer, NULL, &err) < 0)
		fail_msg("%s", lm_err_text(&err));
	return (StatusResponse *)answer;
}

static unsigned directories(struct fixture *f)
{
	char command[128];
	unsigned n = 0;
	snprintf(command, sizeof(command), "ls %s/snapshots | wc -l", f->root);
	FILE *pipe = popen(command, "r");
	assert_int_equal(fscanf(pipe, "%u", &n), 1);
	pclose(pipe);
	return n;
}

static void response_free(void *response)
{
	protobuf_c_message_free_unpacked(response, NULL);
}

static const char *option_of(const wire_mounts *response, const char *name)
{
	for (size_t i = 0; i < response->mounts[0]->n_options; i++)
		if (lm_str_starts(response->mounts[0]->options[i], name))
			return response->mounts[0]->options[i] + strlen(name);
	return NULL;
}

/* Ordinary snapshots. */

static void basic(void **state)
{
	struct fixture *f = *state;
	wire_mounts *m = NULL;
	int64_t size, inodes;
	assert_int_equal(prepare(f, "ns/1/a b:c", "", LABELS("containerd.io/snapshot/x", "y"), &m), LM_RPC_OK);
	assert_int_equal(m->n_mounts, 1);
	assert_string_equal(m->mounts[0]->type, "bind");
	assert_string_equal(m->mounts[0]->target, "");
	struct stat st;
	assert_int_equal(stat(m->mounts[0]->source, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	CLEANUP(lm_freep) char *file = lm_str_printf("%s/file", m->mounts[0]->source);
	assert_int_equal(lm_file_replace(AT_FDCWD, file, "12345", 5, 0600, 0, NULL), 0);
	assert_int_equal(usage(f, "ns/1/a b:c", &size, &inodes), LM_RPC_OK);
	assert_int_equal(inodes, 2);
	response_free(m);

	V1(StatSnapshotResponse) *s = stat_ok(f, "ns/1/a b:c");
	assert_int_equal(s->info->kind, 2);
	assert_string_equal(s->info->parent, "");
	assert_int_equal(s->info->n_labels, 1);
	assert_string_equal(label_of(s->info, "containerd.io/snapshot/x"), "y");
	assert_true(s->info->created_at->seconds > 1600000000);
	response_free(s);

	assert_int_equal(commit(f, "ns/2/c1", "ns/1/a b:c", LABELS("containerd.io/snapshot/z", "1")), LM_RPC_OK);
	assert_int_equal(stat_as(f, "lamella", "ns/1/a b:c", NULL), LM_RPC_NOT_FOUND);
	s = stat_ok(f, "ns/2/c1");
	assert_int_equal(s->info->kind, 3);
	assert_null(label_of(s->info, "containerd.io/snapshot/x"));
	assert_string_equal(label_of(s->info, "containerd.io/snapshot/z"), "1");
	response_free(s);
	int64_t committed_size;
	assert_int_equal(usage(f, "ns/2/c1", &committed_size, &inodes), LM_RPC_OK);
	assert_int_equal(committed_size, size);
	assert_int_equal(inodes, 2);
	/* Removing: the record at once, the directory with the next clean-up. */
	assert_int_equal(remove_key(f, "ns/2/c1"), LM_RPC_OK);
	assert_int_equal(directories(f), 1);
	assert_int_equal(cleanup(f), LM_RPC_OK);
	assert_int_equal(directories(f), 0);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_REMOVED), 1);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_DIRECTORIES_DROPPED), 1);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_FALLBACK_UNNAMED), 0);
}

static void committed(struct fixture *f, const char *name, const char *parent)
{
	CLEANUP(lm_freep) char *key = lm_str_printf("%s-extract", name);
	assert_int_equal(prepare(f, key, parent, NULL, NULL), LM_RPC_OK);
	assert_int_equal(commit(f, name, key, NULL), LM_RPC_OK);
}

static void chains(void **state)
{
	struct fixture *f = *state;
	wire_mounts *m = NULL, *again = NULL;
	committed(f, "c1", "");
	committed(f, "c2", "c1");
	assert_int_equal(prepare(f, "k", "c2", NULL, &m), LM_RPC_OK);
	assert_string_equal(m->mounts[0]->type, "overlay");
	assert_string_equal(m->mounts[0]->source, "overlay");
	assert_true(lm_str_ends(option_of(m, "upperdir="), "/3/fs"));
	assert_true(lm_str_ends(option_of(m, "workdir="), "/3/work"));
	CLEANUP(lm_freep) char *lower = lm_str_printf("%s/snapshots/2/fs:%s/snapshots/1/fs", f->root, f->root);
	assert_string_equal(option_of(m, "lowerdir="), lower);
	assert_int_equal(mounts(f, "k", &again), LM_RPC_OK);
	assert_int_equal(again->mounts[0]->n_options, m->mounts[0]->n_options);
	for (size_t i = 0; i < m->mounts[0]->n_options; i++)
		assert_string_equal(again->mounts[0]->options[i], m->mounts[0]->options[i]);
	response_free(again);
	response_free(m);

	assert_int_equal(view(f, "v2", "c2", &m), LM_RPC_OK);
	assert_string_equal(option_of(m, "lowerdir="), lower);
	assert_null(option_of(m, "upperdir="));
	response_free(m);
	assert_int_equal(view(f, "v1", "c1", &m), LM_RPC_OK);
	assert_string_equal(m->mounts[0]->type, "bind");
	assert_true(lm_str_ends(m->mounts[0]->source, "/1/fs"));
	assert_non_null(option_of(m, "ro"));
	response_free(m);
	assert_int_equal(view(f, "v0", "", &m), LM_RPC_OK);
	assert_string_equal(m->mounts[0]->type, "bind");
	response_free(m);
	int64_t size, inodes;
	assert_int_equal(usage(f, "v1", &size, &inodes), LM_RPC_OK);
	assert_int_equal(size + inodes, 0);
	assert_int_equal(fake_calls(&f->fetcher), 0); /* nothing here is the fetcher's business */
}

static void error_classes(void **state)
{
	struct fixture *f = *state;
	int64_t n;
	committed(f, "c", "");
	assert_int_equal(prepare(f, "a", "c", NULL, NULL), LM_RPC_OK);
	assert_int_equal(view(f, "v", "c", NULL), LM_RPC_OK);
	assert_int_equal(prepare(f, "a", "", NULL, NULL), LM_RPC_ALREADY_EXISTS);
	assert_int_equal(prepare(f, "c", "", NULL, NULL), LM_RPC_ALREADY_EXISTS);
	assert_int_equal(view(f, "a", "", NULL), LM_RPC_ALREADY_EXISTS);
	assert_int_equal(prepare(f, "", "", NULL, NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(prepare(f, "b", "none", NULL, NULL), LM_RPC_NOT_FOUND);
	assert_int_equal(view(f, "b", "none", NULL), LM_RPC_NOT_FOUND);
	assert_int_equal(prepare(f, "b", "a", NULL, NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(prepare(f, "b", "v", NULL, NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(view(f, "b", "a", NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(mounts(f, "none", NULL), LM_RPC_NOT_FOUND);
	assert_int_equal(mounts(f, "c", NULL), LM_RPC_FAILED_PRECONDITION);
	assert_int_equal(commit(f, "d", "none", NULL), LM_RPC_NOT_FOUND);
	assert_int_equal(commit(f, "c", "a", NULL), LM_RPC_ALREADY_EXISTS);
	assert_int_equal(commit(f, "c", "none", NULL), LM_RPC_ALREADY_EXISTS);
	assert_int_equal(commit(f, "c", "v", NULL), LM_RPC_ALREADY_EXISTS);
	assert_int_equal(commit(f, "d", "v", NULL), LM_RPC_FAILED_PRECONDITION);
	assert_int_equal(commit(f, "d", "c", NULL), LM_RPC_FAILED_PRECONDITION);
	assert_int_equal(commit(f, "", "a", NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(remove_key(f, "none"), LM_RPC_NOT_FOUND);
	assert_int_equal(remove_key(f, "c"), LM_RPC_FAILED_PRECONDITION);
	assert_int_equal(usage(f, "none", &n, &n), LM_RPC_NOT_FOUND);
	assert_int_equal(stat_as(f, "lamella", "none", NULL), LM_RPC_NOT_FOUND);
	assert_int_equal(stat_as(f, "other", "c", NULL), LM_RPC_NOT_FOUND);
	assert_int_equal(update(f, "none", NULL, NULL, NULL), LM_RPC_NOT_FOUND);
	assert_int_equal(
		call(f, "Nothing", &(V1(Empty))V1_INIT(EMPTY).base, &V1_DESCRIPTOR(empty), NULL), LM_RPC_UNIMPLEMENTED);
	/* None of the refused left a directory. */
	assert_int_equal(directories(f), 3);
	assert_int_equal(remove_key(f, "a"), LM_RPC_OK);
	assert_int_equal(remove_key(f, "a"), LM_RPC_NOT_FOUND);
}

static void long_names(void **state)
{
	struct fixture *f = *state;
	char *name = malloc(LM_KEY_MAX_BYTES + 2);
	memset(name, 'n', LM_KEY_MAX_BYTES + 1);
	name[LM_KEY_MAX_BYTES + 1] = '\0';
	assert_int_equal(prepare(f, name, "", NULL, NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(view(f, name, "", NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(prepare(f, "a", "", NULL, NULL), LM_RPC_OK);
	assert_int_equal(commit(f, name, "a", NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(prepare(f, "b", name, NULL, NULL), LM_RPC_NOT_FOUND);
	assert_int_equal(remove_key(f, name), LM_RPC_NOT_FOUND);
	assert_int_equal(directories(f), 1);
	name[LM_KEY_MAX_BYTES] = '\0';
	assert_int_equal(commit(f, name, "a", NULL), LM_RPC_OK);
	assert_int_equal(prepare(f, "b", name, NULL, NULL), LM_RPC_OK);
	free(name);
}

/* In a store of containerd's own a label without a value is none. */
static void empty_labels(void **state)
{
	struct fixture *f = *state;
	V1(UpdateSnapshotResponse) *u = NULL;
	assert_int_equal(prepare(f, "a", "", LABELS("one", "", "two", "2", "three", "3"), NULL), LM_RPC_OK);
	V1(StatSnapshotResponse) *s = stat_ok(f, "a");
	assert_int_equal(s->info->n_labels, 2);
	assert_null(label_of(s->info, "one"));
	response_free(s);
	assert_int_equal(update(f, "a", LABELS("two", ""), LABELS("labels.two"), &u), LM_RPC_OK);
	assert_int_equal(u->info->n_labels, 1);
	assert_string_equal(label_of(u->info, "three"), "3");
	response_free(u);
	assert_int_equal(commit(f, "c", "a", LABELS("one", "", "two", "")), LM_RPC_OK);
	s = stat_ok(f, "c");
	assert_int_equal(s->info->n_labels, 0);
	response_free(s);
}

/* What is in the way of one directory keeps no other from being deleted. */
static void obstacles(void **state)
{
	struct fixture *f = *state;
	char path[2][128], key[8];
	for (unsigned i = 1; i <= 16; i++) {
		snprintf(key, sizeof(key), "k%u", i);
		assert_int_equal(prepare(f, key, "", NULL, NULL), LM_RPC_OK);
		assert_int_equal(remove_key(f, key), LM_RPC_OK);
	}
	for (unsigned i = 0; i < 2; i++) { /* nothing is mounted there, and it is no directory */
		snprintf(path[i], sizeof(path[i]), "%s/snapshots/%u/tree.x", f->root, 5 + i);
		assert_int_equal(lm_file_replace(AT_FDCWD, path[i], "", 0, 0600, 0, NULL), 0);
	}
	assert_int_equal(cleanup(f), LM_RPC_INTERNAL);
	assert_int_equal(directories(f), 2);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(unlink(path[i]), 0);
	assert_int_equal(cleanup(f), LM_RPC_OK);
	assert_int_equal(directories(f), 0);
}

/* What the disk says is no answer about snapshots. */
static void damaged_directories(void **state)
{
	struct fixture *f = *state;
	int64_t size, inodes;
	char path[128];
	committed(f, "c", "");
	assert_int_equal(prepare(f, "a", "c", NULL, NULL), LM_RPC_OK);
	for (unsigned i = 1; i <= 2; i++) {
		snprintf(path, sizeof(path), "%s/snapshots/%u/fs", f->root, i);
		assert_int_equal(rmdir(path), 0);
	}
	assert_int_equal(usage(f, "a", &size, &inodes), LM_RPC_INTERNAL);
	assert_int_equal(commit(f, "d", "a", NULL), LM_RPC_INTERNAL);
	assert_int_equal(prepare(f, "b", "c", NULL, NULL), LM_RPC_INTERNAL);
	/* A directory of somebody else's at the place of the next one is not a layer that is there. */
	snprintf(path, sizeof(path), "%s/snapshots/3", f->root);
	assert_int_equal(mkdir(path, 0700), 0);
	const char *const *layer = LABELS(LM_LABEL_REF, "chain", LM_LABEL_CRI_LAYER, fake_digest(301));
	assert_int_equal(prepare(f, "e", "", layer, NULL), LM_RPC_INTERNAL);
	assert_int_equal(prepare(f, "e", "", layer, NULL), LM_RPC_OK);
}

/* A parent that comes only with the commit, as containerd 2.2 may send it. */
static void commit_with_parent(void **state)
{
	struct fixture *f = *state;
	committed(f, "c1", "");
	committed(f, "c2", "");
	assert_int_equal(prepare(f, "a", "", NULL, NULL), LM_RPC_OK);
	assert_int_equal(prepare(f, "b", "c1", NULL, NULL), LM_RPC_OK);
	assert_int_equal(commit_on(f, "ca", "a", "none", NULL), LM_RPC_NOT_FOUND);
	assert_int_equal(commit_on(f, "ca", "a", "b", NULL), LM_RPC_FAILED_PRECONDITION);
	assert_int_equal(commit_on(f, "cb", "b", "c2", NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(commit_on(f, "cb", "b", "c1", NULL), LM_RPC_OK);
	assert_int_equal(commit_on(f, "ca", "a", "cb", NULL), LM_RPC_OK);
	V1(StatSnapshotResponse) *s = stat_ok(f, "ca");
	assert_string_equal(s->info->parent, "cb");
	response_free(s);
}

static void update_masks(void **state)
{
	struct fixture *f = *state;
	V1(UpdateSnapshotResponse) *u = NULL;
	assert_int_equal(prepare(f, "a", "", LABELS("one", "1", "t.w/o", "2"), NULL), LM_RPC_OK);
	assert_int_equal(update(f, "a", LABELS("t.w/o", "3", "no", "0"), LABELS("labels.t.w/o"), &u), LM_RPC_OK);
	assert_string_equal(label_of(u->info, "one"), "1");
	assert_string_equal(label_of(u->info, "t.w/o"), "3");
	assert_int_equal(u->info->n_labels, 2);
	assert_true(u->info->updated_at->seconds > u->info->created_at->seconds ||
		    u->info->updated_at->nanos > u->info->created_at->nanos);
	response_free(u);
	assert_int_equal(update(f, "a", NULL, LABELS("labels.one", "labels.never"), &u), LM_RPC_OK);
	assert_null(label_of(u->info, "one"));
	response_free(u);
	assert_int_equal(update(f, "a", LABELS("x", "y"), LABELS("labels"), &u), LM_RPC_OK);
	assert_int_equal(u->info->n_labels, 1);
	response_free(u);
	assert_int_equal(update(f, "a", LABELS("p", "q"), NULL, &u), LM_RPC_OK);
	assert_int_equal(u->info->n_labels, 1);
	assert_string_equal(label_of(u->info, "p"), "q");
	response_free(u);
	assert_int_equal(update(f, "a", NULL, LABELS("parent"), NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(update(f, "a", NULL, LABELS("labels.p", "kind"), NULL), LM_RPC_INVALID_ARGUMENT);
	V1(StatSnapshotResponse) *s = stat_ok(f, "a");
	assert_string_equal(label_of(s->info, "p"), "q");
	response_free(s);
	V1(UpdateSnapshotRequest) empty = V1_INIT(UPDATE_SNAPSHOT_REQUEST);
	assert_int_equal(call(f, "Update", &empty.base, &V1_DESCRIPTOR(update_snapshot_response), NULL),
		LM_RPC_INVALID_ARGUMENT);
}

static void lists(void **state)
{
	struct fixture *f = *state;
	struct listed l;
	assert_int_equal(list(f, NULL, &l), LM_RPC_OK);
	assert_int_equal(l.count + l.messages, 0);
	committed(f, "base", "");
	for (unsigned i = 0; i < 249; i++) {
		char key[32];
		snprintf(key, sizeof(key), "k%03u", i);
		assert_int_equal(
			prepare(f, key, i % 2 ? "base" : "", LABELS("n", i % 10 ? "x" : "y"), NULL), LM_RPC_OK);
	}
	assert_int_equal(list(f, NULL, &l), LM_RPC_OK);
	assert_int_equal(l.count, 250);
	assert_int_equal(l.messages, 3);
	assert_int_equal(list(f, LABELS("parent==base"), &l), LM_RPC_OK);
	assert_int_equal(l.count, 124);
	assert_int_equal(list(f, LABELS("labels.n==y", "kind==committed"), &l), LM_RPC_OK);
	assert_int_equal(l.count, 26);
	assert_int_equal(list(f, LABELS("name==k007,parent==base"), &l), LM_RPC_OK);
	assert_int_equal(l.count, 1);
	assert_string_equal(l.first, "k007");
	assert_int_equal(list(f, LABELS("name==none"), &l), LM_RPC_OK);
	assert_int_equal(l.count, 0);
	assert_int_equal(list(f, LABELS("kind==active", "kind=="), &l), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(l.count, 0);
}

static void many_layers(void **state)
{
	struct fixture *f = *state;
	char parent[16] = "", name[16];
	wire_mounts *m = NULL;
	for (unsigned i = 0; i < 128; i++) {
		snprintf(name, sizeof(name), "c%u", i);
		committed(f, name, parent);
		strcpy(parent, name);
	}
	assert_int_equal(prepare(f, "k", parent, NULL, &m), LM_RPC_OK);
	unsigned lower = 1;
	for (const char *c = option_of(m, "lowerdir="); *c; c++)
		lower += *c == ':';
	assert_int_equal(lower, 128);
	response_free(m);
	for (unsigned i = 0; i < 127; i++) {
		snprintf(name, sizeof(name), "c%u", i);
		assert_int_equal(remove_key(f, name), LM_RPC_FAILED_PRECONDITION);
	}
}

/* Owner and mode of / come from the layer below. */
static void root_attributes(void **state)
{
	struct fixture *f = *state;
	wire_mounts *m = NULL;
	struct stat st;
	assert_int_equal(prepare(f, "a", "", NULL, &m), LM_RPC_OK);
	assert_int_equal(chmod(m->mounts[0]->source, 01511), 0);
	bool root = geteuid() == 0;
	if (root)
		assert_int_equal(chown(m->mounts[0]->source, 12, 34), 0);
	response_free(m);
	assert_int_equal(commit(f, "c", "a", NULL), LM_RPC_OK);
	assert_int_equal(prepare(f, "b", "c", NULL, &m), LM_RPC_OK);
	assert_int_equal(stat(option_of(m, "upperdir="), &st), 0);
	assert_int_equal(st.st_mode & 07777, 01511);
	assert_int_equal(st.st_uid, root ? 12 : geteuid());
	assert_int_equal(st.st_gid, root ? 34 : getegid());
	response_free(m);
	if (!root)
		return;
	/* A container in a user namespace gets a / of its own root, over directories with mapped owners. */
	const char *const *map = LABELS(LM_LABEL_UIDMAP, "5:7:1,0:1000:5", LM_LABEL_GIDMAP, "0:2000:10");
	assert_int_equal(prepare(f, "half", "c", LABELS(LM_LABEL_UIDMAP, "0:1000:10"), NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(
		prepare(f, "rootless", "c", LABELS(LM_LABEL_UIDMAP, "1:1000:10", LM_LABEL_GIDMAP, "0:2000:10"), NULL),
		LM_RPC_INVALID_ARGUMENT);
	enum lm_rpc_code code = prepare(f, "mapped", "c", map, &m);
	if (code == LM_RPC_FAILED_PRECONDITION) { /* the kernel or the file system can't */
		print_message("ids can't be mapped here\n");
		return;
	}
	assert_int_equal(code, LM_RPC_OK);
	assert_int_equal(stat(option_of(m, "upperdir="), &st), 0);
	assert_int_equal(st.st_uid, 1000);
	assert_int_equal(st.st_gid, 2000);
	assert_null(option_of(m, "uidmap="));
	assert_int_equal(stat(option_of(m, "lowerdir="), &st), 0);
	assert_int_equal(st.st_uid, 65534); /* 12 is not mapped */
	assert_int_equal(st.st_gid, 65534);
	assert_int_equal(remove_key(f, "mapped"), LM_RPC_OK);
	assert_int_equal(cleanup(f), LM_RPC_OK); /* what is mounted in its directory, too */
	response_free(m);
}

/* Where owners can't be mapped, as on a ramfs, that is said at the start, and to whoever needs it; others are served.
 */
static void no_mapping(void **state)
{
	struct fixture *f = *state;
	const char *const *map = LABELS(LM_LABEL_UIDMAP, "0:1000:10", LM_LABEL_GIDMAP, "0:1000:10");
	if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		print_message("skipped: needs the right to mount\n");
		skip();
	}
	stop(f);
	assert_int_equal(mount("ramfs", f->root, "ramfs", 0, NULL), 0);
	start(f);
	committed(f, "c", "");
	assert_int_equal(prepare(f, "plain", "c", NULL, NULL), LM_RPC_OK);
	assert_int_equal(prepare(f, "mapped", "c", map, NULL), LM_RPC_FAILED_PRECONDITION);
	assert_int_equal(directories(f), 2);
	StatusResponse *status = status_of(f);
	assert_non_null(strstr(status->no_mapping, "can't have its ids mapped"));
	response_free(status);
	stop(f);
	assert_int_equal(umount(f->root), 0);
	start(f);
}

/* count labels with that long values, as LABELS() has them. */
struct many {
	char keys[LM_LABELS_MAX_COUNT + 1][8], *value;
	const char *pairs[2 * LM_LABELS_MAX_COUNT + 3];
};

static struct many *many_new(size_t count, size_t value_len)
{
	struct many *many = calloc(1, sizeof(*many));
	many->value = calloc(1, value_len + 1);
	memset(many->value, 'x', value_len);
	for (size_t i = 0; i < count; i++) {
		snprintf(many->keys[i], sizeof(many->keys[i]), "%zu", i);
		many->pairs[2 * i] = many->keys[i];
		many->pairs[2 * i + 1] = many->value;
	}
	return many;
}

static void many_freep(struct many **many)
{
	free((*many)->value);
	free(*many);
}

static void strange_messages(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(prepare(f, "bad \xff", "", NULL, NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(prepare(f, "a", "", LABELS("k", "\xc3"), NULL), LM_RPC_INVALID_ARGUMENT);
	CLEANUP(many_freep) struct many *large = many_new(250, 4000);
	for (unsigned i = 0; i < 6; i++) {
		char key[8];
		snprintf(key, sizeof(key), "l%u", i);
		assert_int_equal(prepare(f, key, "", large->pairs, NULL), LM_RPC_OK);
	}
	struct listed l;
	assert_int_equal(list(f, NULL, &l), LM_RPC_OK); /* in more than one message */
	assert_int_equal(l.count, 6);
	assert_true(l.messages > 1);
}

/* Whatever is too large is refused, by name, and leaves nothing. */
static void bounds(void **state)
{
	struct fixture *f = *state;
	CLEANUP(many_freep) struct many *longest = many_new(1, LM_LABEL_MAX_BYTES - 1);
	CLEANUP(many_freep) struct many *longer = many_new(1, LM_LABEL_MAX_BYTES);
	CLEANUP(many_freep) struct many *most = many_new(LM_LABELS_MAX_COUNT, 10);
	CLEANUP(many_freep) struct many *more = many_new(LM_LABELS_MAX_COUNT + 1, 10);
	CLEANUP(many_freep) struct many *heavy = many_new(300, 4000);
	assert_int_equal(prepare(f, "longest", "", longest->pairs, NULL), LM_RPC_OK);
	assert_int_equal(prepare(f, "longer", "", longer->pairs, NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(prepare(f, "most", "", most->pairs, NULL), LM_RPC_OK);
	assert_int_equal(prepare(f, "more", "", more->pairs, NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(prepare(f, "heavy", "", heavy->pairs, NULL), LM_RPC_INVALID_ARGUMENT);
	const char *const path[] = {"labels.one-more", NULL};
	assert_int_equal(update(f, "most", LABELS("one-more", "1"), path, NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(commit(f, "c", "most", more->pairs), LM_RPC_INVALID_ARGUMENT);
	CLEANUP(lm_freep) char *key = calloc(1, 32770); /* 32768 are allowed */
	memset(key, 'k', 32769);
	assert_int_equal(prepare(f, key, "", NULL, NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(commit(f, key, "most", NULL), LM_RPC_INVALID_ARGUMENT);
	key[32768] = '\0';
	assert_int_equal(prepare(f, key, "", NULL, NULL), LM_RPC_OK);
	assert_int_equal(commit(f, "", "most", NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(directories(f), 3);
}

static unsigned outside(struct fixture *f)
{
	char command[160];
	unsigned n = 0;
	snprintf(command, sizeof(command), "find %s -mindepth 1 -not -path '%s/*' | wc -l", f->dir, f->root);
	FILE *pipe = popen(command, "r");
	assert_int_equal(fscanf(pipe, "%u", &n), 1);
	pclose(pipe);
	return n;
}

/* Names and labels are text and nothing else: no path is made of them, no mount option, no line of a log. */
static void hostile_names(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = {"../../x", "/etc/passwd", "..", ".", "a/../../b", "snapshots/1/fs", "1",
		"a,b:c\\d", "line\nfeed", "\x01\x1b[2J", "' OR 1=1 --", "%s%n%s", "@lamella/1/x", "\xf0\x9f\x90\xb3"};
	unsigned before = outside(f);
	wire_mounts *m = NULL;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		const char *const *labels = LABELS(names[i], names[i], LM_LABEL_REF, names[i], LM_LABEL_CRI_LAYER,
			names[i], LM_LABEL_CRI_LAYERS, "../../x,,\n,sha256:0", LM_LABEL_CRI_IMAGE, names[i]);
		assert_int_equal(prepare(f, names[i], "", labels, &m), LM_RPC_OK);
		assert_true(lm_str_starts(m->mounts[0]->source, f->root));
		assert_null(strstr(m->mounts[0]->source, ".."));
		response_free(m);
		CLEANUP(lm_freep) char *name = lm_str_printf("%s (committed)", names[i]);
		assert_int_equal(commit(f, name, names[i], labels), LM_RPC_OK);
		assert_int_equal(prepare(f, names[i], name, NULL, &m), LM_RPC_OK);
		CLEANUP(lm_freep) char *lower = lm_str_printf("%s/snapshots/%zu/fs", f->root, 2 * i + 1);
		assert_string_equal(option_of(m, "lowerdir="), lower);
		response_free(m);
		assert_int_equal(remove_key(f, names[i]), LM_RPC_OK);
		assert_int_equal(remove_key(f, name), LM_RPC_OK);
	}
	/* A layer of a name that is no chain id, served all the same: its record has a name of ours. */
	assert_int_equal(
		prepare(f, "x", "", LABELS(LM_LABEL_REF, "../../../etc", LM_LABEL_CRI_LAYER, fake_digest(101)), NULL),
		LM_RPC_ALREADY_EXISTS);
	/* Maps of ids are maps and nothing else. */
	const char *const *map = LABELS(LM_LABEL_UIDMAP, "0:1000:10,upperdir=/etc", LM_LABEL_GIDMAP, "0:1000:10");
	committed(f, "c", "");
	assert_int_equal(prepare(f, "mapped", "c", map, NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(prepare(f, "mapped", "c", NULL, NULL), LM_RPC_OK);
	assert_int_equal(update(f, "mapped", map, NULL, NULL), LM_RPC_OK);
	assert_int_equal(mounts(f, "mapped", NULL), LM_RPC_INVALID_ARGUMENT);
	assert_int_equal(cleanup(f), LM_RPC_OK);
	assert_int_equal(directories(f), 3);
	assert_int_equal(outside(f), before);
	/* The sockets are root's alone. */
	const char *const sockets[] = {f->socket, f->status, f->metrics};
	for (size_t i = 0; i < ARRAY_LEN(sockets); i++) {
		struct stat st;
		assert_int_equal(stat(sockets[i], &st), 0);
		assert_int_equal(st.st_mode & 07777, 0600);
	}
	CLEANUP(lm_freep) char *run = lm_str_printf("%s/run", f->dir);
	struct stat st;
	assert_int_equal(stat(run, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
}

/* Layers from the fetcher. */

static enum lm_rpc_code offer(struct fixture *f, const char *key, const char *parent, unsigned digest, const char *ref)
{
	return prepare(f, key, parent, LABELS(LM_LABEL_REF, ref, LM_LABEL_CRI_LAYER, fake_digest(digest)), NULL);
}

/* What containerd asks after ALREADY_EXISTS. */
static void lookup_layer(struct fixture *f, const char *ref, const char *parent, char ret_name[256])
{
	struct listed l;
	CLEANUP(lm_freep)
	char *filter = lm_str_printf("labels.\"containerd.io/snapshot.ref\"==%s,parent==\"%s\"", ref, parent);
	assert_int_equal(list(f, LABELS(filter), &l), LM_RPC_OK);
	assert_int_equal(l.count, 1);
	assert_string_equal(l.parent, parent);
	strcpy(ret_name, l.first);
}

static void lazy_image(void **state)
{
	struct fixture *f = *state;
	char one[256], two[256];
	int64_t size, inodes;
	assert_int_equal(offer(f, "x1", "", 101, "chain1"), LM_RPC_ALREADY_EXISTS);
	lookup_layer(f, "chain1", "", one);
	assert_int_equal(stat_as(f, "lamella", "x1", NULL), LM_RPC_NOT_FOUND);
	V1(StatSnapshotResponse) *s = stat_ok(f, one);
	assert_int_equal(s->info->kind, 3);
	assert_string_equal(label_of(s->info, LM_LABEL_REF), "chain1");
	assert_string_equal(label_of(s->info, LM_LABEL_CRI_LAYER), fake_digest(101));
	assert_string_equal(label_of(s->info, LM_LABEL_LAYER), "lazy");
	response_free(s);
	assert_int_equal(usage(f, one, &size, &inodes), LM_RPC_OK);
	assert_int_equal(size + inodes, 0);
	assert_int_equal(offer(f, "x2", one, 202, "chain2"), LM_RPC_ALREADY_EXISTS);
	lookup_layer(f, "chain2", one, two);
	s = stat_ok(f, two);
	assert_string_equal(label_of(s->info, LM_LABEL_REASON), "owners dropped");
	response_free(s);

	wire_mounts *m = NULL;
	assert_int_equal(prepare(f, "container", two, NULL, &m), LM_RPC_OK);
	CLEANUP(lm_freep) char *lower = lm_str_printf("%s/snapshots/2/fs:%s/snapshots/1/fs", f->root, f->root);
	assert_string_equal(option_of(m, "lowerdir="), lower);
	CLEANUP(lm_freep) char *link = lm_str_printf("%s/snapshots/2/fs", f->root);
	CLEANUP(lm_freep) char *expected = lm_str_printf("%s/202", f->fetcher.prefix);
	char target[256] = "";
	assert_true(readlink(link, target, sizeof(target) - 1) > 0);
	assert_string_equal(target, expected);
	struct stat st;
	assert_int_equal(stat(option_of(m, "upperdir="), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	response_free(m);
	s = stat_ok(f, "container");
	assert_string_equal(label_of(s->info, LM_LABEL_TREE), "not used: turned off by LAMELLA_TREES");
	response_free(s);
	/* A link that leads elsewhere is set right before anything is mounted over it. */
	assert_int_equal(unlink(link), 0);
	assert_int_equal(symlink("/elsewhere", link), 0);
	assert_int_equal(mounts(f, "container", NULL), LM_RPC_OK);
	memset(target, 0, sizeof(target));
	assert_true(readlink(link, target, sizeof(target) - 1) > 0);
	assert_string_equal(target, expected);

	/* Asked for again: from another namespace, or after a crash. Always the one record. */
	assert_int_equal(offer(f, "y1", "", 101, "chain1"), LM_RPC_ALREADY_EXISTS);
	lookup_layer(f, "chain1", "", two);
	assert_string_equal(one, two);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_LAYERS_LAZY), 3);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_LAYERS_SHARED), 1);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_LAYERS_LOSSY), 1);

	/* Committed on top of a lazy layer, and removed from the leaf down. */
	assert_int_equal(commit(f, "top", "container", NULL), LM_RPC_OK);
	s = stat_ok(f, "top");
	assert_null(label_of(s->info, LM_LABEL_TREE));
	response_free(s);
	assert_int_equal(remove_key(f, one), LM_RPC_FAILED_PRECONDITION);
	assert_int_equal(remove_key(f, "top"), LM_RPC_OK);
	lookup_layer(f, "chain2", one, two);
	assert_int_equal(remove_key(f, two), LM_RPC_OK);
	assert_int_equal(remove_key(f, one), LM_RPC_OK);
	assert_int_equal(cleanup(f), LM_RPC_OK);
	assert_int_equal(directories(f), 0);
	assert_int_equal(offer(f, "x1", "", 101, "chain1"), LM_RPC_ALREADY_EXISTS);
}

/* By the chain id alone, and of another compression than the image that was asked for: it is what was found that is
 * remembered, and asked for when a container starts. */
static void lazy_by_chain(void **state)
{
	struct fixture *f = *state;
	char one[256], two[256];
	assert_int_equal(prepare(f, "x1", "", LABELS(LM_LABEL_REF, fake_digest(101)), NULL), LM_RPC_ALREADY_EXISTS);
	lookup_layer(f, fake_digest(101), "", one);
	assert_int_equal(offer(f, "x2", one, 302, fake_digest(102)), LM_RPC_ALREADY_EXISTS);
	lookup_layer(f, fake_digest(102), one, two);
	assert_int_equal(fake_calls(&f->fetcher), 2);
	/* Whatever was heard by chain ids is too old now. */
	stop(f);
	start(f);
	wire_mounts *m = NULL;
	assert_int_equal(prepare(f, "container", two, NULL, &m), LM_RPC_OK);
	CLEANUP(lm_freep) char *lower = lm_str_printf("%s/snapshots/2/fs:%s/snapshots/1/fs", f->root, f->root);
	assert_string_equal(option_of(m, "lowerdir="), lower);
	response_free(m);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_STARTS_REFUSED), 0);
	/* Absent is another reason than unnamed. */
	assert_int_equal(prepare(f, "x3", two, LABELS(LM_LABEL_REF, fake_digest(303)), NULL), LM_RPC_OK);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_FALLBACK_ABSENT), 1);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_FALLBACK_UNNAMED), 0);
}

static void expect_ordinary(struct fixture *f, const char *key, const char *reason)
{
	V1(StatSnapshotResponse) *s = stat_ok(f, key);
	assert_int_equal(s->info->kind, 2);
	assert_string_equal(label_of(s->info, LM_LABEL_LAYER), "ordinary");
	if (!strstr(label_of(s->info, LM_LABEL_REASON), reason))
		fail_msg("%s: %s is missing", label_of(s->info, LM_LABEL_REASON), reason);
	response_free(s);
}

static void fallbacks(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(offer(f, "absent", "", 301, "c1"), LM_RPC_OK);
	expect_ordinary(f, "absent", "not published");
	assert_int_equal(offer(f, "unavailable", "", 401, "c2"), LM_RPC_OK);
	expect_ordinary(f, "unavailable", "no ??? route"); /* labels stay plain text */
	assert_int_equal(prepare(f, "unnamed", "", LABELS(LM_LABEL_REF, "c3"), NULL), LM_RPC_OK);
	expect_ordinary(f, "unnamed", "does not name");
	/* A container's own snapshot is none of this. */
	assert_int_equal(prepare(f, "plain", "", NULL, NULL), LM_RPC_OK);
	V1(StatSnapshotResponse) *s = stat_ok(f, "plain");
	assert_int_equal(s->info->n_labels, 0);
	response_free(s);
	/* The reason stays with the layer; other labels are the commit's. */
	assert_int_equal(commit(f, "layer", "absent", LABELS("other", "1")), LM_RPC_OK);
	s = stat_ok(f, "layer");
	assert_string_equal(label_of(s->info, LM_LABEL_LAYER), "ordinary");
	assert_null(label_of(s->info, LM_LABEL_CRI_LAYER));
	response_free(s);
	/* Mixed: a lazy layer on an ordinary one. */
	assert_int_equal(offer(f, "x", "layer", 101, "c4"), LM_RPC_ALREADY_EXISTS);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_FALLBACK_ABSENT), 1);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_FALLBACK_UNAVAILABLE), 1);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_FALLBACK_UNNAMED), 1);
}

/* What only we can know, no client says: nor an image, whose annotations come as labels. */
static void our_labels(void **state)
{
	struct fixture *f = *state;
	const char *const *lies =
		LABELS(LM_LABEL_LAYER, "lazy", LM_LABEL_REASON, "none", LM_LABEL_TREE, "used", "x", "1");
	assert_int_equal(prepare(f, "plain", "", lies, NULL), LM_RPC_OK);
	assert_int_equal(offer(f, "absent", "", 301, "c1"), LM_RPC_OK);
	assert_int_equal(commit(f, "layer", "absent", lies), LM_RPC_OK);
	assert_int_equal(update(f, "layer", lies, NULL, NULL), LM_RPC_OK);
	assert_int_equal(update(f, "layer", LABELS("y", "2"), NULL, NULL), LM_RPC_OK);
	const char *const path[] = {"labels." LM_LABEL_REASON, NULL};
	assert_int_equal(update(f, "layer", lies, path, NULL), LM_RPC_OK);
	V1(StatSnapshotResponse) *s = stat_ok(f, "plain");
	assert_int_equal(s->info->n_labels, 1);
	response_free(s);
	s = stat_ok(f, "layer");
	assert_string_equal(label_of(s->info, LM_LABEL_LAYER), "ordinary");
	assert_string_equal(label_of(s->info, LM_LABEL_CAUSE), "absent");
	assert_string_equal(label_of(s->info, LM_LABEL_REASON), "not published");
	assert_null(label_of(s->info, LM_LABEL_TREE));
	assert_string_equal(label_of(s->info, "y"), "2");
	response_free(s);
}

static void on_miss_fail(void **state)
{
	struct fixture *f = *state;
	stop(f);
	f->on_miss = LM_ON_MISS_FAIL;
	start(f);
	assert_int_equal(offer(f, "a", "", 301, "c1"), LM_RPC_FAILED_PRECONDITION);
	assert_int_equal(offer(f, "b", "", 401, "c2"), LM_RPC_UNAVAILABLE);
	assert_int_equal(offer(f, "c", "", 101, "c3"), LM_RPC_ALREADY_EXISTS);
	assert_int_equal(prepare(f, "plain", "", NULL, NULL), LM_RPC_OK);
	assert_int_equal(directories(f), 2);
}

/* The fetcher goes away under images that are there. */
static void fetcher_away(void **state)
{
	struct fixture *f = *state;
	char one[256];
	int64_t n;
	struct listed l;
	wire_mounts *m = NULL;
	assert_int_equal(offer(f, "x1", "", 101, "chain1"), LM_RPC_ALREADY_EXISTS);
	lookup_layer(f, "chain1", "", one);
	assert_int_equal(prepare(f, "early", one, NULL, NULL), LM_RPC_OK);
	stop(f); /* and with it what it remembered of the fetcher */
	fake_stop(&f->fetcher);
	start(f);
	int64_t start_ms = lm_now_ms();
	assert_int_equal(stat_as(f, "lamella", one, NULL), LM_RPC_OK);
	assert_int_equal(usage(f, one, &n, &n), LM_RPC_OK);
	assert_int_equal(usage(f, "early", &n, &n), LM_RPC_OK);
	assert_int_equal(list(f, NULL, &l), LM_RPC_OK);
	assert_int_equal(l.count, 2);
	assert_int_equal(commit(f, "early-committed", "early", NULL), LM_RPC_OK);
	assert_int_equal(remove_key(f, "early-committed"), LM_RPC_OK);
	assert_int_equal(cleanup(f), LM_RPC_OK);
	assert_int_equal(prepare(f, "ordinary", "", NULL, NULL), LM_RPC_OK);
	assert_true(lm_now_ms() - start_ms < 2000);
	/* A container on it must not start, and must not leave anything. */
	assert_int_equal(prepare(f, "late", one, NULL, NULL), LM_RPC_UNAVAILABLE);
	assert_int_equal(view(f, "late", one, NULL), LM_RPC_UNAVAILABLE);
	assert_int_equal(stat_as(f, "lamella", "late", NULL), LM_RPC_NOT_FOUND);
	assert_int_equal(directories(f), 2);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_STARTS_REFUSED), 2);
	/* The record of the layer stays, and the same layer is still answered. */
	assert_int_equal(offer(f, "x1", "", 101, "chain1"), LM_RPC_ALREADY_EXISTS);
	/* Back, at another place: containers start again, on the new place. */
	stop(f);
	CLEANUP(lm_freep) char *elsewhere = lm_str_printf("%s/elsewhere", f->dir);
	fake_set_prefix(&f->fetcher, elsewhere);
	fake_start(&f->fetcher);
	start(f);
	assert_int_equal(prepare(f, "late", one, NULL, &m), LM_RPC_OK);
	response_free(m);
	CLEANUP(lm_freep) char *link = lm_str_printf("%s/snapshots/1/fs", f->root);
	CLEANUP(lm_freep) char *expected = lm_str_printf("%s/101", elsewhere);
	char target[256] = "";
	assert_true(readlink(link, target, sizeof(target) - 1) > 0);
	assert_string_equal(target, expected);
}

/* While the fetcher keeps a pull waiting, nothing else waits; and the pull goes on the ordinary way. */
struct pull {
	struct fixture *f;
	unsigned number;
	enum lm_rpc_code code;
	pthread_t thread;
};

static void *pull_layer(void *arg)
{
	struct pull *p = arg;
	char key[32];
	snprintf(key, sizeof(key), "pull-%u", p->number);
	p->code = offer(p->f, key, "", 101, "chain1");
	return NULL;
}

static void fetcher_stalls(void **state)
{
	struct fixture *f = *state;
	struct pull pulls[20];
	int64_t n;
	struct listed l;
	assert_int_equal(prepare(f, "a", "", NULL, NULL), LM_RPC_OK);
	fake_set_mode(&f->fetcher, FAKE_STALLS);
	for (unsigned i = 0; i < ARRAY_LEN(pulls); i++) {
		pulls[i] = (struct pull){.f = f, .number = i};
		assert_int_equal(pthread_create(&pulls[i].thread, NULL, pull_layer, &pulls[i]), 0);
	}
	lm_lock_take(&f->fetcher.lock);
	while (f->fetcher.waiting == 0)
		lm_cond_wait(&f->fetcher.changed, &f->fetcher.lock);
	lm_lock_release(&f->fetcher.lock);
	int64_t start_ms = lm_now_ms();
	for (unsigned i = 0; i < 5; i++) { /* few: sanitizers on a busy machine take 10 ms for each call */
		assert_int_equal(stat_as(f, "lamella", "a", NULL), LM_RPC_OK);
		assert_int_equal(usage(f, "a", &n, &n), LM_RPC_OK);
		assert_int_equal(list(f, NULL, &l), LM_RPC_OK);
		assert_int_equal(cleanup(f), LM_RPC_OK);
	}
	assert_true(lm_now_ms() - start_ms < 900);
	for (unsigned i = 0; i < ARRAY_LEN(pulls); i++) {
		pthread_join(pulls[i].thread, NULL);
		assert_int_equal(pulls[i].code, LM_RPC_OK);
	}
	expect_ordinary(f, "pull-7", "the fetcher does not answer");
	fake_set_mode(&f->fetcher, FAKE_RIGHT);
}

static void *pull_another(void *arg)
{
	struct pull *p = arg;
	char key[32], chain[32];
	snprintf(key, sizeof(key), "pull-%u", p->number);
	snprintf(chain, sizeof(chain), "chain%u", p->number);
	p->code = offer(p->f, key, "", 120 + p->number, chain);
	return NULL;
}

/* More calls wait for the fetcher than there are threads for such; ordinary snapshots are made as if there were none.
 */
static void ordinary_beside(void **state)
{
	struct fixture *f = *state;
	struct pull pulls[40];
	stop(f);
	f->timeout_ms = 2500;
	start(f);
	char lazy[256];
	assert_int_equal(offer(f, "x", "", 101, "lazy"), LM_RPC_ALREADY_EXISTS);
	lookup_layer(f, "lazy", "", lazy);
	committed(f, "base", "");
	fake_set_mode(&f->fetcher, FAKE_STALLS);
	for (unsigned i = 0; i < ARRAY_LEN(pulls); i++) {
		pulls[i] = (struct pull){.f = f, .number = i};
		assert_int_equal(pthread_create(&pulls[i].thread, NULL, pull_another, &pulls[i]), 0);
	}
	while (fake_waiting(&f->fetcher) < 8)
		usleep(1000);
	int64_t start_ms = lm_now_ms(), size, inodes;
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(prepare(f, "ordinary", "base", NULL, NULL), LM_RPC_OK);
		assert_int_equal(mounts(f, "ordinary", NULL), LM_RPC_OK);
		assert_int_equal(view(f, "shown", "base", NULL), LM_RPC_OK);
		assert_int_equal(usage(f, "ordinary", &size, &inodes), LM_RPC_OK);
		assert_int_equal(commit(f, "committed", "ordinary", NULL), LM_RPC_OK);
		assert_int_equal(remove_key(f, "committed"), LM_RPC_OK);
		assert_int_equal(remove_key(f, "shown"), LM_RPC_OK);
		/* And a layer that is there already: asking would not change the answer. */
		assert_int_equal(offer(f, "x", "", 101, "lazy"), LM_RPC_ALREADY_EXISTS);
	}
	assert_true(lm_now_ms() - start_ms < 2000);
	assert_true(fake_waiting(&f->fetcher) > 0); /* all the while */
	fake_set_mode(&f->fetcher, FAKE_RIGHT);
	for (unsigned i = 0; i < ARRAY_LEN(pulls); i++) {
		pthread_join(pulls[i].thread, NULL);
		assert_true(pulls[i].code == LM_RPC_OK || pulls[i].code == LM_RPC_ALREADY_EXISTS);
	}
}

static void *pull_and_count(void *arg)
{
	struct pull *p = arg;
	pull_another(p);
	if (p->code == LM_RPC_UNAVAILABLE)
		atomic_fetch_add(&p->f->refused, 1);
	return NULL;
}

/* Calls that wait for the fetcher are counted, and what is too many is refused at once: so the server has room for all
 * others. */
static void too_many_wait(void **state)
{
	struct fixture *f = *state;
	enum { MANY = 300, MAX = 256 };
	static struct pull pulls[MANY];
	unsigned there = 0;
	stop(f);
	f->timeout_ms = 15000;
	start(f);
	committed(f, "base", "");
	fake_set_mode(&f->fetcher, FAKE_STALLS);
	for (unsigned i = 0; i < MANY; i++) {
		pulls[i] = (struct pull){.f = f, .number = i};
		assert_int_equal(pthread_create(&pulls[i].thread, NULL, pull_and_count, &pulls[i]), 0);
	}
	int64_t until_ms = lm_now_ms() + 10000;
	while (atomic_load(&f->refused) < MANY - MAX && lm_now_ms() < until_ms)
		usleep(1000);
	assert_int_equal(stat_as(f, "lamella", "base", NULL), LM_RPC_OK);
	assert_int_equal(prepare(f, "ordinary", "base", NULL, NULL), LM_RPC_OK);
	assert_int_equal(atomic_load(&f->refused), MANY - MAX);
	fake_set_mode(&f->fetcher, FAKE_RIGHT);
	for (unsigned i = 0; i < MANY; i++) {
		pthread_join(pulls[i].thread, NULL);
		there += pulls[i].code == LM_RPC_ALREADY_EXISTS || pulls[i].code == LM_RPC_OK;
	}
	assert_int_equal(there, MAX);
	assert_int_equal(offer(f, "again", "", 101, "again"), LM_RPC_ALREADY_EXISTS); /* there is room again */
}

/* A layer that is converted after it was pulled: used by whoever asks next, though the pulled one is still there. */
static void appears_later(void **state)
{
	struct fixture *f = *state;
	struct listed l;
	assert_int_equal(offer(f, "one/1/extract", "", 301, "chain"), LM_RPC_OK);
	assert_int_equal(commit(f, "one/2/chain", "one/1/extract", LABELS(LM_LABEL_REF, "chain")), LM_RPC_OK);
	/* The same chain with a digest that is served by now; the parent that is ordinary is no hindrance. */
	assert_int_equal(offer(f, "two/3/extract", "", 101, "chain"), LM_RPC_ALREADY_EXISTS);
	assert_int_equal(list(f, LABELS("labels.\"containerd.io/snapshot.ref\"==chain,parent==\"\""), &l), LM_RPC_OK);
	assert_int_equal(l.count, 2);
	assert_int_equal(offer(f, "one/4/extract", "one/2/chain", 102, "above"), LM_RPC_ALREADY_EXISTS);
	wire_mounts *m = NULL;
	assert_int_equal(prepare(f, "one/5/container", "one/2/chain", NULL, &m), LM_RPC_OK);
	response_free(m);
}

/* What those see who watch. */

static const Layer *layer_of(const StatusResponse *status, const char *chain)
{
	for (size_t i = 0; i < status->n_layers; i++)
		if (strcmp(status->layers[i]->chain, chain) == 0)
			return status->layers[i];
	fail_msg("no layer %s", chain);
	return NULL;
}

static uint64_t counted(const StatusResponse *status, const char *name)
{
	for (size_t i = 0; i < status->n_counters; i++)
		if (strcmp(status->counters[i]->name, name) == 0)
			return status->counters[i]->count;
	fail_msg("no counter %s", name);
	return 0;
}

/* A pull as containerd's CRI does it; what could not be served is committed by the chain's name. */
static void pull_of(
	struct fixture *f, const char *image, const char *layers, char parent[256], unsigned digest, const char *chain)
{
	const char *const *labels = LABELS(LM_LABEL_REF, chain, LM_LABEL_CRI_LAYER, fake_digest(digest),
		LM_LABEL_CRI_LAYERS, layers, LM_LABEL_CRI_IMAGE, image);
	char key[64];
	snprintf(key, sizeof(key), "k8s.io/1/extract %s", chain);
	if (prepare(f, key, parent, labels, NULL) == LM_RPC_ALREADY_EXISTS) {
		lookup_layer(f, chain, parent, parent);
		return;
	}
	snprintf(parent, 256, "k8s.io/2/%s", chain);
	assert_int_equal(commit(f, parent, key, labels), LM_RPC_OK);
}

static void watched_images(void **state)
{
	struct fixture *f = *state;
	StatusResponse *status = status_of(f);
	assert_int_equal(status->n_images + status->n_layers + status->n_problems, 0);
	assert_string_equal(status->root, f->root);
	assert_string_equal(status->on_miss, "pull");
	assert_int_equal(status->fetcher->state, LAMELLA__SNAPSHOTTER__V1__FETCHER_STATE__FETCHER_UNASKED);
	assert_int_equal(status->n_counters, LM_COUNTERS);
	response_free(status);

	char top[256] = "", base[256] = "", other[256] = "";
	char two[200], one[100];
	snprintf(two, sizeof(two), "%s,%s,%s", fake_digest(101), fake_digest(202), fake_digest(303));
	pull_of(f, "host/mixed:1", two, base, 101, "sha256:m1");
	strcpy(top, base);
	pull_of(f, "host/mixed:1", strchr(two, ',') + 1, top, 202, "sha256:m2");
	pull_of(f, "host/mixed:1", strrchr(two, ',') + 1, top, 303, "sha256:m3");
	strcpy(other, base); /* another image on the same base */
	snprintf(one, sizeof(one), "%s", fake_digest(104));
	pull_of(f, "host/another", one, other, 104, "sha256:a2");
	committed(f, "k8s.io/9/sha256:unasked", "");
	assert_int_equal(prepare(f, "k8s.io/3/c1", top, NULL, NULL), LM_RPC_OK);
	assert_int_equal(prepare(f, "k8s.io/3/c2", top, NULL, NULL), LM_RPC_OK);
	assert_int_equal(prepare(f, "k8s.io/3/c3", other, NULL, NULL), LM_RPC_OK);

	status = status_of(f);
	assert_int_equal(status->n_layers, 5);
	assert_int_equal(status->lazy_layers, 2);
	assert_int_equal(status->lossy_layers, 1);
	assert_int_equal(status->fallen_back_layers, 1);
	assert_int_equal(status->ordinary_layers, 1);
	assert_int_equal(status->containers, 3);
	assert_int_equal(status->snapshots, 8);
	assert_int_equal(layer_of(status, "sha256:m1")->containers, 3);
	assert_int_equal(layer_of(status, "sha256:m1")->bytes, 0);
	assert_int_equal(layer_of(status, "sha256:m3")->containers, 2);
	assert_true(layer_of(status, "sha256:m3")->inodes > 0);
	assert_string_equal(layer_of(status, "sha256:m3")->cause, "absent");
	assert_string_equal(layer_of(status, "sha256:m3")->reason, "not published");
	assert_string_equal(layer_of(status, "sha256:m3")->digest, fake_digest(303));
	assert_string_equal(layer_of(status, "sha256:m2")->reason, "owners dropped");
	assert_int_equal(status->n_images, 3);
	const Image *image = status->images[0];
	assert_string_equal(image->reference, "host/another");
	assert_int_equal(image->lazy, 2);
	assert_int_equal(image->containers, 1);
	assert_int_equal(image->n_layers, 2);
	image = status->images[1];
	assert_string_equal(image->reference, "host/mixed:1");
	assert_string_equal(image->chain, "sha256:m3");
	assert_int_equal(image->lazy, 1);
	assert_int_equal(image->lossy, 1);
	assert_int_equal(image->fallen_back, 1);
	assert_int_equal(image->containers, 2);
	assert_int_equal(image->n_layers, 3);
	assert_int_equal(image->layers[0], layer_of(status, "sha256:m1")->id);
	assert_int_equal(image->layers[2], layer_of(status, "sha256:m3")->id);
	assert_string_equal(image->reason, "owners dropped");
	image = status->images[2];
	assert_string_equal(image->reference, "");
	assert_string_equal(image->chain, "sha256:unasked");
	assert_int_equal(image->ordinary, 1);
	assert_int_equal(counted(status, "layers_lazy"), 3); /* with the lossy one */
	assert_int_equal(counted(status, "fallback_absent"), 1);
	assert_int_equal(status->fetcher->state, LAMELLA__SNAPSHOTTER__V1__FETCHER_STATE__FETCHER_ANSWERS);
	response_free(status);

	/* The base that an image leaves behind is none itself. */
	assert_int_equal(remove_key(f, "k8s.io/3/c3"), LM_RPC_OK);
	assert_int_equal(remove_key(f, other), LM_RPC_OK);
	assert_int_equal(remove_key(f, "k8s.io/3/c1"), LM_RPC_OK);
	assert_int_equal(remove_key(f, "k8s.io/3/c2"), LM_RPC_OK);
	assert_int_equal(remove_key(f, top), LM_RPC_OK);
	status = status_of(f);
	assert_int_equal(status->n_layers, 3);
	assert_int_equal(status->n_images, 1);
	response_free(status);
}

/* A client without annotations says nothing of blobs; a chain id is not the digest of one. */
static void watched_chain(void **state)
{
	struct fixture *f = *state;
	const char *const *labels = LABELS(LM_LABEL_REF, fake_digest(305));
	assert_int_equal(prepare(f, "x", "", labels, NULL), LM_RPC_OK);
	assert_int_equal(commit(f, "k8s.io/1/layer", "x", labels), LM_RPC_OK);
	StatusResponse *status = status_of(f);
	assert_int_equal(status->n_layers, 1);
	assert_string_equal(status->layers[0]->chain, fake_digest(305));
	assert_string_equal(status->layers[0]->digest, "");
	assert_string_equal(status->layers[0]->cause, "absent");
	response_free(status);
}

/* The status is there whatever the fetcher does, and says what. */
static void watched_fetcher(void **state)
{
	struct fixture *f = *state;
	fake_stop(&f->fetcher);
	assert_int_equal(offer(f, "away", "", 101, "c1"), LM_RPC_OK);
	expect_ordinary(f, "away", "fetcher.sock is not there");
	StatusResponse *status = status_of(f);
	assert_int_equal(status->fetcher->state, LAMELLA__SNAPSHOTTER__V1__FETCHER_STATE__FETCHER_UNREACHABLE);
	assert_false(status->fetcher->listens);
	assert_int_equal(status->n_problems, 1);
	assert_non_null(strstr(status->problems[0]->what, "is not there"));
	assert_int_equal(counted(status, "fallback_unreachable"), 1);
	response_free(status);
	fake_start(&f->fetcher);
	fake_set_mode(&f->fetcher, FAKE_STALLS);
	assert_int_equal(offer(f, "slow", "", 102, "c2"), LM_RPC_OK);
	expect_ordinary(f, "slow", "nothing came from");
	status = status_of(f);
	assert_int_equal(status->fetcher->state, LAMELLA__SNAPSHOTTER__V1__FETCHER_STATE__FETCHER_SILENT);
	assert_true(status->fetcher->listens);
	assert_int_equal(status->n_problems, 1);
	assert_int_equal(counted(status, "fallback_timed_out"), 1);
	assert_int_equal(status->fetcher->failed_questions, 2);
	response_free(status);
	fake_set_mode(&f->fetcher, FAKE_RIGHT);
	assert_int_equal(offer(f, "well", "", 103, "c3"), LM_RPC_ALREADY_EXISTS);
	status = status_of(f);
	assert_int_equal(status->n_problems, 0);
	response_free(status);
}

/* Many clients want one layer at once: one record, and all are told that it is there. */
static void handshake_race(void **state)
{
	struct fixture *f = *state;
	struct pull pulls[32];
	char one[256];
	for (unsigned round = 0; round < 5; round++) {
		for (unsigned i = 0; i < ARRAY_LEN(pulls); i++) {
			pulls[i] = (struct pull){.f = f, .number = i};
			assert_int_equal(pthread_create(&pulls[i].thread, NULL, pull_layer, &pulls[i]), 0);
		}
		for (unsigned i = 0; i < ARRAY_LEN(pulls); i++) {
			pthread_join(pulls[i].thread, NULL);
			assert_int_equal(pulls[i].code, LM_RPC_ALREADY_EXISTS);
		}
		lookup_layer(f, "chain1", "", one);
		assert_int_equal(directories(f), 1);
		assert_int_equal(remove_key(f, one), LM_RPC_OK);
		assert_int_equal(cleanup(f), LM_RPC_OK);
	}
}

/* Several workers make, commit and remove while another cleans up. */
static void *churn(void *arg)
{
	struct pull *p = arg;
	for (unsigned i = 0; i < 15; i++) {
		char key[32], name[32];
		wire_mounts *m = NULL;
		snprintf(key, sizeof(key), "k%u-%u", p->number, i);
		snprintf(name, sizeof(name), "c%u-%u", p->number, i);
		assert_int_equal(prepare(p->f, key, "base", NULL, &m), LM_RPC_OK);
		assert_int_equal(access(option_of(m, "upperdir="), F_OK), 0);
		assert_int_equal(access(option_of(m, "workdir="), F_OK), 0);
		response_free(m);
		assert_int_equal(commit(p->f, name, key, NULL), LM_RPC_OK);
		assert_int_equal(remove_key(p->f, name), LM_RPC_OK);
	}
	return NULL;
}

static void concurrency(void **state)
{
	struct fixture *f = *state;
	struct pull workers[8];
	committed(f, "base", "");
	for (unsigned i = 0; i < ARRAY_LEN(workers); i++) {
		workers[i] = (struct pull){.f = f, .number = i};
		assert_int_equal(pthread_create(&workers[i].thread, NULL, churn, &workers[i]), 0);
	}
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(cleanup(f), LM_RPC_OK);
	for (unsigned i = 0; i < ARRAY_LEN(workers); i++)
		pthread_join(workers[i].thread, NULL);
	assert_int_equal(cleanup(f), LM_RPC_OK);
	assert_int_equal(directories(f), 1);
}

/* Starting. */

static int try_start(struct fixture *f, struct lm_err *err)
{
	struct lm_service *second = NULL;
	struct lm_service_options options = {
		.root = f->root, .address = f->socket, .fetcher = f->fetcher.socket, .resolve_timeout_ms = 1000};
	int r = lm_service_start(&options, &second, err);
	lm_service_stop(second);
	return r;
}

static void restart(void **state)
{
	struct fixture *f = *state;
	char one[256];
	wire_mounts *m = NULL, *again = NULL;
	assert_int_equal(offer(f, "x1", "", 101, "chain1"), LM_RPC_ALREADY_EXISTS);
	lookup_layer(f, "chain1", "", one);
	assert_int_equal(prepare(f, "container", one, LABELS("l", "1"), &m), LM_RPC_OK);
	CLEANUP(lm_freep) char *file = lm_str_printf("%s/user-data", option_of(m, "upperdir="));
	assert_int_equal(lm_file_replace(AT_FDCWD, file, "x", 1, 0600, 0, NULL), 0);
	stop(f);
	assert_int_equal(access(f->socket, F_OK), -1);
	/* What a kill can leave: a directory without a record (half-made, or removed), a link that was lost. */
	CLEANUP(lm_freep) char *half = lm_str_printf("%s/snapshots/77/fs", f->root);
	CLEANUP(lm_freep) char *other = lm_str_printf("%s/snapshots/lost+found", f->root);
	CLEANUP(lm_freep) char *link = lm_str_printf("%s/snapshots/1/fs", f->root);
	assert_int_equal(lm_mkdir_p(AT_FDCWD, half, 0700, NULL), 0);
	assert_int_equal(mkdir(other, 0700), 0);
	assert_int_equal(unlink(link), 0);
	start(f);
	assert_int_equal(cleanup(f), LM_RPC_OK); /* after that of the start, which it waits for */
	assert_int_equal(access(half, F_OK), -1);
	assert_int_equal(access(other, F_OK), 0); /* not ours */
	assert_int_equal(access(file, F_OK), 0);
	struct stat st;
	assert_int_equal(lstat(link, &st), 0);
	assert_int_equal(mounts(f, "container", &again), LM_RPC_OK);
	assert_string_equal(option_of(again, "upperdir="), option_of(m, "upperdir="));
	response_free(again);
	response_free(m);
	/* The left-over's number is not used again. */
	assert_int_equal(prepare(f, "next", "", NULL, &m), LM_RPC_OK);
	assert_true(lm_str_ends(m->mounts[0]->source, "/78/fs"));
	response_free(m);
}

static void refused_starts(void **state)
{
	struct fixture *f = *state;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(prepare(f, "a", "", NULL, NULL), LM_RPC_OK);
	assert_int_equal(try_start(f, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "another process"));
	/* Paths that a mount's options could not carry. */
	struct fixture odd = *f;
	snprintf(odd.root, sizeof(odd.root), "%s/a,b", f->dir);
	assert_int_equal(try_start(&odd, &err), -EINVAL);
	snprintf(odd.root, sizeof(odd.root), "relative");
	assert_int_equal(try_start(&odd, &err), -EINVAL);
}

/* A store that is lost in every way, under a container that goes on: what a client knew is there. */
static void damaged_store(void **state)
{
	struct fixture *f = *state;
	char one[256];
	wire_mounts *m = NULL, *again = NULL;
	CLEANUP(lm_freep) char *db = lm_str_printf("%s/store.db", f->root);
	assert_int_equal(offer(f, "x1", "", 101, "chain1"), LM_RPC_ALREADY_EXISTS);
	lookup_layer(f, "chain1", "", one);
	assert_int_equal(prepare(f, "unpack", one, NULL, NULL), LM_RPC_OK);
	assert_int_equal(commit(f, "top", "unpack", LABELS("c", "2")), LM_RPC_OK);
	assert_int_equal(prepare(f, "container", "top", LABELS("l", "1"), &m), LM_RPC_OK);
	CLEANUP(lm_freep) char *file = lm_str_printf("%s/user-data", option_of(m, "upperdir="));
	assert_int_equal(lm_file_replace(AT_FDCWD, file, "x", 1, 0600, 0, NULL), 0);
	for (unsigned i = 0; i < 3; i++) {
		stop(f);
		if (i == 0)
			assert_int_equal(unlink(db), 0);
		else
			assert_int_equal(
				lm_file_replace(AT_FDCWD, db, "not a database", i == 1 ? 14 : 0, 0600, 0, NULL), 0);
		start(f);
		assert_int_equal(lm_service_count(f->service, LM_COUNT_SNAPSHOTS_REBUILT), 3);
		assert_int_equal(cleanup(f), LM_RPC_OK);
		assert_int_equal(access(file, F_OK), 0);
		assert_int_equal(stat_as(f, "lamella", "top", NULL), LM_RPC_OK);
		assert_int_equal(stat_as(f, "lamella", "unpack", NULL), LM_RPC_NOT_FOUND);
		assert_int_equal(mounts(f, "container", &again), LM_RPC_OK);
		assert_string_equal(option_of(again, "upperdir="), option_of(m, "upperdir="));
		response_free(again);
		lookup_layer(f, "chain1", "", one);
		assert_int_equal(offer(f, "x2", "", 101, "chain1"), LM_RPC_ALREADY_EXISTS);
		assert_int_equal(prepare(f, "next", "top", NULL, NULL), LM_RPC_OK);
		assert_int_equal(remove_key(f, "next"), LM_RPC_OK);
		assert_int_equal(cleanup(f), LM_RPC_OK);
	}
	/* What nobody can say anything about is kept, also by later clean-ups. */
	CLEANUP(lm_freep) char *strange = lm_str_printf("%s/snapshots/77/fs/data", f->root);
	stop(f);
	assert_int_equal(lm_mkdir_p(AT_FDCWD, strange, 0700, NULL), 0);
	assert_int_equal(unlink(db), 0);
	start(f);
	assert_int_equal(lm_service_count(f->service, LM_COUNT_DIRECTORIES_KEPT), 1);
	assert_int_equal(cleanup(f), LM_RPC_OK);
	assert_int_equal(access(strange, F_OK), 0);
	assert_int_equal(prepare(f, "after", "top", NULL, &again), LM_RPC_OK);
	assert_true(lm_str_ends(option_of(again, "upperdir="), "/78/fs"));
	response_free(again);
	response_free(m);
	assert_int_equal(remove_key(f, "after"), LM_RPC_OK);
	assert_int_equal(remove_key(f, "container"), LM_RPC_OK);
	assert_int_equal(remove_key(f, "top"), LM_RPC_OK);
	assert_int_equal(remove_key(f, one), LM_RPC_OK);
	assert_int_equal(cleanup(f), LM_RPC_OK);
	assert_int_equal(directories(f), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(basic, setup, teardown),
		cmocka_unit_test_setup_teardown(chains, setup, teardown),
		cmocka_unit_test_setup_teardown(error_classes, setup, teardown),
		cmocka_unit_test_setup_teardown(long_names, setup, teardown),
		cmocka_unit_test_setup_teardown(empty_labels, setup, teardown),
		cmocka_unit_test_setup_teardown(obstacles, setup, teardown),
		cmocka_unit_test_setup_teardown(damaged_directories, setup, teardown),
		cmocka_unit_test_setup_teardown(commit_with_parent, setup, teardown),
		cmocka_unit_test_setup_teardown(update_masks, setup, teardown),
		cmocka_unit_test_setup_teardown(lists, setup, teardown),
		cmocka_unit_test_setup_teardown(many_layers, setup, teardown),
		cmocka_unit_test_setup_teardown(root_attributes, setup, teardown),
		cmocka_unit_test_setup_teardown(no_mapping, setup, teardown),
		cmocka_unit_test_setup_teardown(strange_messages, setup, teardown),
		cmocka_unit_test_setup_teardown(bounds, setup, teardown),
		cmocka_unit_test_setup_teardown(hostile_names, setup, teardown),
		cmocka_unit_test_setup_teardown(lazy_image, setup, teardown),
		cmocka_unit_test_setup_teardown(lazy_by_chain, setup, teardown),
		cmocka_unit_test_setup_teardown(fallbacks, setup, teardown),
		cmocka_unit_test_setup_teardown(our_labels, setup, teardown),
		cmocka_unit_test_setup_teardown(on_miss_fail, setup, teardown),
		cmocka_unit_test_setup_teardown(fetcher_away, setup, teardown),
		cmocka_unit_test_setup_teardown(fetcher_stalls, setup, teardown),
		cmocka_unit_test_setup_teardown(ordinary_beside, setup, teardown),
		cmocka_unit_test_setup_teardown(too_many_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(appears_later, setup, teardown),
		cmocka_unit_test_setup_teardown(watched_images, setup, teardown),
		cmocka_unit_test_setup_teardown(watched_chain, setup, teardown),
		cmocka_unit_test_setup_teardown(watched_fetcher, setup, teardown),
		cmocka_unit_test_setup_teardown(handshake_race, setup, teardown),
		cmocka_unit_test_setup_teardown(concurrency, setup, teardown),
		cmocka_unit_test_setup_teardown(restart, setup, teardown),
		cmocka_unit_test_setup_teardown(refused_starts, setup, teardown),
		cmocka_unit_test_setup_teardown(damaged_store, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
