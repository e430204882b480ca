/*
 * lamella-cri: drives containerd through the Container Runtime Interface, as kubelet does.
 *
 *   lamella-cri [-s SOCKET] [-t SECONDS] COMMAND ...
 *
 *   status                        is the runtime ready?
 *   pull REF                      pull an image, print its id
 *   run [OPTION...] REF [CMD...]    pull, start a container, print its output; its exit code is ours
 *   start [OPTION...] REF [CMD...]  the same, but print the container's id and leave it running
 *   exec ID CMD...                run a command in a container
 *   pid ID                        print the process id of a container
 *   list                          print id, state and name of each container
 *   stop ID                       stop a container, at once, and leave it there
 *   rm ID                         stop and remove a container with its pod
 *   rmi REF                       remove an image
 *   image REF                     print id and size of an image; exit code 1 where it is not there
 *   fsinfo                        print bytes, inodes and directory of each file system of images
 *   clear                         stop and remove all pods
 *
 *   --name NAME         of the pod and the container (default: made of the time)
 *   --log-dir DIR       where the runtime writes the output (default: a temporary directory)
 *   --cgroup-parent G   control group for the pod
 *   --no-pull           the image is there
 *   --users FIRST       the pod has a user namespace (hostUsers: false), whose 65536 users are those from FIRST on, and
 * a network of its own
 *   --timing FILE       append a line of milliseconds: sandbox pull create start output total; the pod's sandbox comes
 * first and is not in the total, output is from the start to the first line
 *   --expect REGEX      output is to the first line that is this (extended) expression, and there must be one
 *
 * Else a pod has the host's network, so no network plugin is needed. -t bounds each call (default 300 s); a container
 * that runs longer than that is an error for `run`, too. Exit code 1: the runtime said no; 2: wrong usage.
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "cri/runtime.pb-c.h"
#include "rpc/rpc.h"

#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>

#define RUNTIME "/runtime.v1.RuntimeService/"
#define IMAGES "/runtime.v1.ImageService/"
#define STATUS_FIRST_MS 10 /* the interface has no wait: the state is asked for at growing intervals */
#define STATUS_LAST_MS 200

struct options {
	const char *name;
	const char *log_dir;
	const char *cgroup_parent;
	const char *timing;
	const char *expect;
	bool no_pull;
	uint64_t users; /* the first on the host; 0: the host's own */
};
enum { POD_USERS = 65536, USERS_MAX = 1 << 30 };

struct cri {
	struct lm_rpc_client *client;
	unsigned timeout_ms;
	struct lm_err err;
};

static void message_freep(ProtobufCMessage **message)
{
	if (*message)
		protobuf_c_message_free_unpacked(*message, NULL);
	*message = NULL;
}

/* A call whose answer is wanted; it is valid until the scope ends. */
#define ANSWER(type, variable)                                \
	CLEANUP(message_freep) ProtobufCMessage *raw_ = NULL; \
	const type *variable = NULL

static int call(struct cri *cri, const char *path, const void *request, const ProtobufCMessageDescriptor *type,
	ProtobufCMessage **ret)
{
	int r = lm_rpc_invoke(cri->client, path, request, type, cri->timeout_ms, true, ret, NULL, &cri->err);
	return r < 0 ? lm_err_prefix(&cri->err, r, "%s", strrchr(path, '/') + 1) : 0;
}

static int call_plain(struct cri *cri, const char *path, const void *request, const ProtobufCMessageDescriptor *type)
{
	CLEANUP(message_freep) ProtobufCMessage *answer = NULL;
	return call(cri, path, request, type, &answer);
}

/* --- images
 * ----------------------------------------------------------------------------------------------------------- */

static int pull(struct cri *cri, const char *ref, char **ret_id)
{
	Runtime__V1__ImageSpec image = RUNTIME__V1__IMAGE_SPEC__INIT;
	Runtime__V1__PullImageRequest request = RUNTIME__V1__PULL_IMAGE_REQUEST__INIT;
	image.image = (char *)ref;
	request.image = &image;
	ANSWER(Runtime__V1__PullImageResponse, answer);
	int r = call(cri, IMAGES "PullImage", &request, &runtime__v1__pull_image_response__descriptor, &raw_);
	if (r < 0)
		return r;
	answer = (void *)raw_;
	*ret_id = strdup(answer->image_ref);
	return *ret_id ? 0 : lm_err_oom(&cri->err);
}

static int cmd_pull(struct cri *cri, const struct options *o, char **args)
{
	CLEANUP(lm_freep) char *id = NULL;
	int r = pull(cri, args[0], &id);
	if (r == 0)
		puts(id);
	return r;
}

static int cmd_rmi(struct cri *cri, const struct options *o, char **args)
{
	Runtime__V1__ImageSpec image = RUNTIME__V1__IMAGE_SPEC__INIT;
	Runtime__V1__RemoveImageRequest request = RUNTIME__V1__REMOVE_IMAGE_REQUEST__INIT;
	image.image = args[0];
	request.image = &image;
	return call_plain(cri, IMAGES "RemoveImage", &request, &runtime__v1__remove_image_response__descriptor);
}

static int cmd_image(struct cri *cri, const struct options *o, char **args)
{
	Runtime__V1__ImageSpec image = RUNTIME__V1__IMAGE_SPEC__INIT;
	Runtime__V1__ImageStatusRequest request = RUNTIME__V1__IMAGE_STATUS_REQUEST__INIT;
	image.image = args[0];
	request.image = &image;
	ANSWER(Runtime__V1__ImageStatusResponse, answer);
	int r = call(cri, IMAGES "ImageStatus", &request, &runtime__v1__image_status_response__descriptor, &raw_);
	if (r < 0)
		return r;
	answer = (void *)raw_;
	if (!answer->image)
		return lm_err_set(&cri->err, -ENOENT, "no image %s", args[0]);
	printf("%s %llu\n", answer->image->id, (unsigned long long)answer->image->size);
	return 0;
}

static unsigned long long value_of(const Runtime__V1__UInt64Value *v)
{
	return v ? v->value : 0;
}

static int cmd_fsinfo(struct cri *cri, const struct options *o, char **args)
{
	Runtime__V1__ImageFsInfoRequest request = RUNTIME__V1__IMAGE_FS_INFO_REQUEST__INIT;
	ANSWER(Runtime__V1__ImageFsInfoResponse, answer);
	int r = call(cri, IMAGES "ImageFsInfo", &request, &runtime__v1__image_fs_info_response__descriptor, &raw_);
	answer = (void *)raw_;
	for (size_t i = 0; r == 0 && i < answer->n_image_filesystems; i++) {
		const Runtime__V1__FilesystemUsage *u = answer->image_filesystems[i];
		printf("%llu %llu %s\n", value_of(u->used_bytes), value_of(u->inodes_used),
			u->fs_id ? u->fs_id->mountpoint : "");
	}
	return r;
}

/* --- pods and containers
 * ---------------------------------------------------------------------------------------------- */

/* The configuration of a pod with one container; points into itself, so it is made in place. */
struct pod {
	Runtime__V1__PodSandboxMetadata metadata;
	Runtime__V1__NamespaceOption namespaces;
	Runtime__V1__IDMapping ids, *all_ids;
	Runtime__V1__UserNamespace users;
	Runtime__V1__LinuxSandboxSecurityContext security;
	Runtime__V1__LinuxPodSandboxConfig linux_config;
	Runtime__V1__PodSandboxConfig config;
	Runtime__V1__ContainerMetadata container_metadata;
	Runtime__V1__LinuxContainerSecurityContext container_security;
	Runtime__V1__LinuxContainerConfig container_linux;
	Runtime__V1__ImageSpec image;
	Runtime__V1__ContainerConfig container;
};

static void pod_init(struct pod *pod, const struct options *o, char **command)
{
	*pod = (struct pod){RUNTIME__V1__POD_SANDBOX_METADATA__INIT, RUNTIME__V1__NAMESPACE_OPTION__INIT,
		RUNTIME__V1__IDMAPPING__INIT, &pod->ids, RUNTIME__V1__USER_NAMESPACE__INIT,
		RUNTIME__V1__LINUX_SANDBOX_SECURITY_CONTEXT__INIT, RUNTIME__V1__LINUX_POD_SANDBOX_CONFIG__INIT,
		RUNTIME__V1__POD_SANDBOX_CONFIG__INIT, RUNTIME__V1__CONTAINER_METADATA__INIT,
		RUNTIME__V1__LINUX_CONTAINER_SECURITY_CONTEXT__INIT, RUNTIME__V1__LINUX_CONTAINER_CONFIG__INIT,
		RUNTIME__V1__IMAGE_SPEC__INIT, RUNTIME__V1__CONTAINER_CONFIG__INIT};
	pod->metadata.name = pod->metadata.uid = pod->container_metadata.name = (char *)o->name;
	pod->metadata.namespace_ = (char *)"default";
	pod->namespaces.network = RUNTIME__V1__NAMESPACE_MODE__NODE;
	pod->namespaces.pid = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;
	if (o->users) {
		pod->ids.host_id = (uint32_t)o->users;
		pod->ids.length = POD_USERS;
		pod->users.mode = RUNTIME__V1__NAMESPACE_MODE__POD;
		pod->users.n_uids = pod->users.n_gids = 1;
		pod->users.uids = pod->users.gids = &pod->all_ids;
		pod->namespaces.userns_options = &pod->users;
		pod->namespaces.network = RUNTIME__V1__NAMESPACE_MODE__POD;
	}
	pod->security.namespace_options = pod->container_security.namespace_options = &pod->namespaces;
	pod->linux_config.security_context = &pod->security;
	if (o->cgroup_parent)
		pod->linux_config.cgroup_parent = (char *)o->cgroup_parent;
	pod->config.metadata = &pod->metadata;
	pod->config.log_directory = (char *)o->log_dir;
	pod->config.linux_config = &pod->linux_config;
	pod->container_linux.security_context = &pod->container_security;
	pod->container.metadata = &pod->container_metadata;
	pod->container.image = &pod->image;
	pod->container.linux_config = &pod->container_linux;
	pod->container.log_path = (char *)"container.log";
	pod->container.command = command;
	while (command[pod->container.n_command])
		pod->container.n_command++;
}

static int run_sandbox(struct cri *cri, struct pod *pod, char **ret_id)
{
	Runtime__V1__RunPodSandboxRequest request = RUNTIME__V1__RUN_POD_SANDBOX_REQUEST__INIT;
	request.config = &pod->config;
	ANSWER(Runtime__V1__RunPodSandboxResponse, answer);
	int r = call(cri, RUNTIME "RunPodSandbox", &request, &runtime__v1__run_pod_sandbox_response__descriptor, &raw_);
	if (r < 0)
		return r;
	answer = (void *)raw_;
	*ret_id = strdup(answer->pod_sandbox_id);
	return *ret_id ? 0 : lm_err_oom(&cri->err);
}

static int create_container(struct cri *cri, struct pod *pod, char *sandbox, char **ret_id)
{
	Runtime__V1__CreateContainerRequest request = RUNTIME__V1__CREATE_CONTAINER_REQUEST__INIT;
	request.pod_sandbox_id = sandbox;
	request.config = &pod->container;
	request.sandbox_config = &pod->config;
	ANSWER(Runtime__V1__CreateContainerResponse, answer);
	int r = call(
		cri, RUNTIME "CreateContainer", &request, &runtime__v1__create_container_response__descriptor, &raw_);
	if (r < 0)
		return r;
	answer = (void *)raw_;
	*ret_id = strdup(answer->container_id);
	return *ret_id ? 0 : lm_err_oom(&cri->err);
}

static int start_container(struct cri *cri, char *id)
{
	Runtime__V1__StartContainerRequest request = RUNTIME__V1__START_CONTAINER_REQUEST__INIT;
	request.container_id = id;
	return call_plain(cri, RUNTIME "StartContainer", &request, &runtime__v1__start_container_response__descriptor);
}

static int remove_sandbox(struct cri *cri, char *id)
{
	Runtime__V1__StopPodSandboxRequest stop = RUNTIME__V1__STOP_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__RemovePodSandboxRequest rm = RUNTIME__V1__REMOVE_POD_SANDBOX_REQUEST__INIT;
	stop.pod_sandbox_id = rm.pod_sandbox_id = id;
	int r = call_plain(cri, RUNTIME "StopPodSandbox", &stop, &runtime__v1__stop_pod_sandbox_response__descriptor);
	return r < 0 ? r
		     : call_plain(cri, RUNTIME "RemovePodSandbox", &rm,
			       &runtime__v1__remove_pod_sandbox_response__descriptor);
}

/* The same where an error may be on its way already: said at once. */
static void drop_sandbox(const struct cri *cri, char *id)
{
	struct cri removal = {.client = cri->client, .timeout_ms = cri->timeout_ms};
	if (remove_sandbox(&removal, id) < 0)
		fprintf(stderr, "lamella-cri: %s\n", lm_err_text(&removal.err));
}

static int container_status(struct cri *cri, char *id, bool verbose, ProtobufCMessage **ret)
{
	Runtime__V1__ContainerStatusRequest request = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
	request.container_id = id;
	request.verbose = verbose;
	int r = call(
		cri, RUNTIME "ContainerStatus", &request, &runtime__v1__container_status_response__descriptor, ret);
	if (r == 0 && !((Runtime__V1__ContainerStatusResponse *)*ret)->status)
		r = lm_err_set(&cri->err, -EPROTO, "ContainerStatus: an answer without a status");
	return r;
}

/* --- the output of a container
 * ---------------------------------------------------------------------------------------- */

struct output {
	int fd;	     /* the log, or -1 while it is not there */
	int inotify; /* on its directory */
	char path[PATH_MAX];
	struct lm_buf pending; /* an unfinished line of the log */
	int64_t first_ms;      /* when the first line was seen, of those that are wanted */
	regex_t wanted;
	bool has_wanted;
};

static void output_done(struct output *out)
{
	lm_closep(&out->fd);
	lm_closep(&out->inotify);
	lm_buf_done(&out->pending);
	if (out->has_wanted)
		regfree(&out->wanted);
}

static int output_init(struct output *out, const char *dir, const char *expect, struct lm_err *err)
{
	*out = (struct output){
		.fd = -1, .inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), .pending = LM_BUF(1 << 20)};
	snprintf(out->path, sizeof(out->path), "%s/container.log", dir);
	if (out->inotify < 0 || inotify_add_watch(out->inotify, dir, IN_CREATE | IN_MODIFY) < 0)
		return lm_err_sys(err, -errno, "%s", dir);
	if (!expect)
		return 0;
	CLEANUP(lm_freep) char *whole = lm_str_printf("^(%s)$", expect);
	if (!whole)
		return lm_err_oom(err);
	if (regcomp(&out->wanted, whole, REG_EXTENDED | REG_NOSUB) != 0)
		return lm_err_set(err, -EINVAL, "not a regular expression: %s", expect);
	out->has_wanted = true;
	return 0;
}

/* A line is `TIME stdout|stderr F|P TEXT`; P: the text goes on in the next line. */
static void print_line(struct output *out, const char *line)
{
	const char *stream = strchr(line, ' ');
	const char *tag = stream ? strchr(stream + 1, ' ') : NULL;
	const char *text = tag ? strchr(tag + 1, ' ') : NULL;
	if (!text)
		return;
	if (!out->first_ms && (!out->has_wanted || regexec(&out->wanted, text + 1, 0, NULL, 0) == 0))
		out->first_ms = lm_now_ms();
	FILE *to = lm_str_starts(stream + 1, "stderr ") ? stderr : stdout;
	fputs(text + 1, to);
	if (tag[1] != 'P')
		fputc('\n', to);
	fflush(to);
}

static int output_print(struct output *out, struct lm_err *err)
{
	char events[4096], text[65536];
	while (read(out->inotify, events, sizeof(events)) > 0)
		;
	if (out->fd < 0)
		out->fd = open(out->path, O_RDONLY | O_CLOEXEC);
	for (ssize_t n; out->fd >= 0 && (n = read(out->fd, text, sizeof(text))) > 0;) {
		int r = lm_buf_append(&out->pending, text, (size_t)n);
		if (r < 0)
			return lm_err_set(err, r, "a line of the log is too long");
		char *rest = (char *)out->pending.data;
		for (char *end; (end = strchr(rest, '\n')); rest = end + 1) {
			*end = '\0';
			print_line(out, rest);
		}
		out->pending.len -= (size_t)(rest - (char *)out->pending.data);
		memmove(out->pending.data, rest, out->pending.len + 1);
	}
	return 0;
}

/* Prints what the container writes until it has ended. */
static int follow(struct cri *cri, char *id, struct output *out, int *ret_exit_code)
{
	int64_t deadline_ms = lm_now_ms() + cri->timeout_ms;
	int interval_ms = STATUS_FIRST_MS;
	for (;;) {
		ANSWER(Runtime__V1__ContainerStatusResponse, answer);
		int r = container_status(cri, id, false, &raw_);
		if (r == 0)
			r = output_print(out, &cri->err);
		if (r < 0)
			return r;
		answer = (void *)raw_;
		if (answer->status->state == RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED) {
			*ret_exit_code = answer->status->exit_code;
			return output_print(out, &cri->err);
		}
		if (lm_now_ms() > deadline_ms)
			return lm_err_set(
				&cri->err, -ETIMEDOUT, "the container runs for more than %u s", cri->timeout_ms / 1000);
		struct pollfd fd = {.fd = out->inotify, .events = POLLIN};
		if (poll(&fd, 1, interval_ms) == 0)
			interval_ms = LM_MIN(2 * interval_ms, STATUS_LAST_MS);
	}
}

/* --- run and start
 * ---------------------------------------------------------------------------------------------------- */

struct timing {
	int64_t begin, sandbox, pulled, created, started;
};

static int write_timing(const char *file, const struct timing *t, int64_t first_output, struct lm_err *err)
{
	FILE *f = fopen(file, "ae");
	if (!f)
		return lm_err_sys(err, -errno, "%s", file);
	int64_t end = first_output ? first_output : t->started;
	fprintf(f, "sandbox=%lld pull=%lld create=%lld start=%lld output=%lld total=%lld\n",
		(long long)(t->sandbox - t->begin), (long long)(t->pulled - t->sandbox),
		(long long)(t->created - t->pulled), (long long)(t->started - t->created),
		(long long)(end - t->started), (long long)(end - t->sandbox));
	return fclose(f) == 0 ? 0 : lm_err_sys(err, -errno, "%s", file);
}

/* Everything up to a running container; *ret_sandbox is set as soon as there is something to remove. */
static int launch(
	struct cri *cri, const struct options *o, char **args, struct timing *t, char **ret_sandbox, char **ret_id)
{
	struct pod pod;
	CLEANUP(lm_freep) char *image = NULL, *id = NULL;
	pod_init(&pod, o, args + 1);
	t->begin = lm_now_ms();
	int r = run_sandbox(cri, &pod, ret_sandbox);
	if (r < 0)
		return r;
	t->sandbox = lm_now_ms();
	r = o->no_pull ? 0 : pull(cri, args[0], &image);
	if (r < 0)
		return r;
	t->pulled = lm_now_ms();
	pod.image.image = image ? image : args[0];
	r = create_container(cri, &pod, *ret_sandbox, &id);
	if (r < 0)
		return r;
	t->created = lm_now_ms();
	r = start_container(cri, id);
	if (r < 0)
		return r;
	t->started = lm_now_ms();
	*ret_id = STEAL(id);
	return 0;
}

static int run_in(struct cri *cri, const struct options *o, char **args, int *ret_exit_code)
{
	CLEANUP(lm_freep) char *sandbox = NULL, *id = NULL;
	CLEANUP(output_done) struct output out;
	struct timing t;
	int r = output_init(&out, o->log_dir, o->expect, &cri->err);
	if (r == 0)
		r = launch(cri, o, args, &t, &sandbox, &id);
	if (r == 0)
		r = follow(cri, id, &out, ret_exit_code);
	if (r == 0 && o->expect && !out.first_ms)
		r = lm_err_set(
			&cri->err, -ENOENT, "no line of the output is %s (exit code %d)", o->expect, *ret_exit_code);
	if (r == 0 && o->timing)
		r = write_timing(o->timing, &t, out.first_ms, &cri->err);
	if (sandbox)
		drop_sandbox(cri, sandbox);
	return r;
}

static int cmd_run(struct cri *cri, const struct options *o, char **args)
{
	struct options with_dir = *o;
	char dir[PATH_MAX] = "";
	int exit_code = 0;
	if (!o->log_dir) {
		const char *tmp = getenv("TMPDIR");
		snprintf(dir, sizeof(dir), "%s/lamella-cri.XXXXXX", tmp ? tmp : "/tmp");
		if (!mkdtemp(dir))
			return lm_err_sys(&cri->err, -errno, "%s", dir);
		with_dir.log_dir = dir;
	}
	int r = run_in(cri, &with_dir, args, &exit_code);
	int removed = dir[0] ? lm_remove_tree(AT_FDCWD, dir, r < 0 ? NULL : &cri->err) : 0;
	return r < 0 ? r : removed < 0 ? removed : exit_code;
}

static int cmd_start(struct cri *cri, const struct options *o, char **args)
{
	CLEANUP(lm_freep) char *sandbox = NULL, *id = NULL;
	struct timing t;
	if (!o->log_dir)
		return lm_err_set(&cri->err, -EINVAL, "start needs --log-dir");
	int r = launch(cri, o, args, &t, &sandbox, &id);
	if (r == 0 && o->timing)
		r = write_timing(o->timing, &t, 0, &cri->err);
	if (r < 0 && sandbox)
		drop_sandbox(cri, sandbox);
	if (r == 0)
		puts(id);
	return r;
}

/* --- the other commands
 * ----------------------------------------------------------------------------------------------- */

static int cmd_status(struct cri *cri, const struct options *o, char **args)
{
	Runtime__V1__StatusRequest request = RUNTIME__V1__STATUS_REQUEST__INIT;
	ANSWER(Runtime__V1__StatusResponse, answer);
	int r = call(cri, RUNTIME "Status", &request, &runtime__v1__status_response__descriptor, &raw_);
	answer = (void *)raw_;
	for (size_t i = 0; r == 0 && answer->status && i < answer->status->n_conditions; i++) {
		const Runtime__V1__RuntimeCondition *c = answer->status->conditions[i];
		printf("%s %s %s\n", c->type, c->status ? "yes" : "no", c->message);
		if (strcmp(c->type, "RuntimeReady") == 0 && !c->status)
			r = lm_err_set(&cri->err, -EAGAIN, "the runtime is not ready: %s", c->message);
	}
	return r;
}

static int list_containers(struct cri *cri, ProtobufCMessage **ret)
{
	Runtime__V1__ListContainersRequest request = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
	return call(cri, RUNTIME "ListContainers", &request, &runtime__v1__list_containers_response__descriptor, ret);
}

static int cmd_list(struct cri *cri, const struct options *o, char **args)
{
	static const char *const states[] = {"created", "running", "exited", "unknown"};
	ANSWER(Runtime__V1__ListContainersResponse, answer);
	int r = list_containers(cri, &raw_);
	answer = (void *)raw_;
	for (size_t i = 0; r == 0 && i < answer->n_containers; i++) {
		const Runtime__V1__Container *c = answer->containers[i];
		printf("%s %s %s\n", c->id, states[LM_MIN((unsigned)c->state, 3u)],
			c->metadata ? c->metadata->name : "");
	}
	return r;
}

static int cmd_rm(struct cri *cri, const struct options *o, char **args)
{
	ANSWER(Runtime__V1__ListContainersResponse, answer);
	int r = list_containers(cri, &raw_);
	if (r < 0)
		return r;
	answer = (void *)raw_;
	for (size_t i = 0; i < answer->n_containers; i++)
		if (lm_str_starts(answer->containers[i]->id, args[0]))
			return remove_sandbox(cri, answer->containers[i]->pod_sandbox_id);
	return lm_err_set(&cri->err, -ENOENT, "no container %s", args[0]);
}

static int cmd_stop(struct cri *cri, const struct options *o, char **args)
{
	Runtime__V1__StopContainerRequest request = RUNTIME__V1__STOP_CONTAINER_REQUEST__INIT;
	request.container_id = args[0];
	return call_plain(cri, RUNTIME "StopContainer", &request, &runtime__v1__stop_container_response__descriptor);
}

static int cmd_clear(struct cri *cri, const struct options *o, char **args)
{
	Runtime__V1__ListPodSandboxRequest request = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
	ANSWER(Runtime__V1__ListPodSandboxResponse, answer);
	int r = call(
		cri, RUNTIME "ListPodSandbox", &request, &runtime__v1__list_pod_sandbox_response__descriptor, &raw_);
	answer = (void *)raw_;
	for (size_t i = 0; r == 0 && i < answer->n_items; i++)
		r = remove_sandbox(cri, answer->items[i]->id);
	return r;
}

static int cmd_pid(struct cri *cri, const struct options *o, char **args)
{
	ANSWER(Runtime__V1__ContainerStatusResponse, answer);
	int r = container_status(cri, args[0], true, &raw_);
	if (r < 0)
		return r;
	answer = (void *)raw_;
	for (size_t i = 0; i < answer->n_info; i++) {
		const char *pid = strstr(answer->info[i]->value, "\"pid\":");
		if (strcmp(answer->info[i]->key, "info") == 0 && pid) {
			printf("%ld\n", strtol(pid + 6, NULL, 10));
			return 0;
		}
	}
	return lm_err_set(&cri->err, -ENOENT, "no process id of %s", args[0]);
}

static int cmd_exec(struct cri *cri, const struct options *o, char **args)
{
	Runtime__V1__ExecSyncRequest request = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
	request.container_id = args[0];
	request.cmd = args + 1;
	while (request.cmd[request.n_cmd])
		request.n_cmd++;
	ANSWER(Runtime__V1__ExecSyncResponse, answer);
	int r = call(cri, RUNTIME "ExecSync", &request, &runtime__v1__exec_sync_response__descriptor, &raw_);
	if (r < 0)
		return r;
	answer = (void *)raw_;
	if (answer->stdout.len)
		fwrite(answer->stdout.data, 1, answer->stdout.len, stdout);
	if (answer->stderr.len)
		fwrite(answer->stderr.data, 1, answer->stderr.len, stderr);
	return answer->exit_code;
}

/* --- the program
 * ------------------------------------------------------------------------------------------------------ */

static const struct command {
	const char *name;
	int min_args;
	int (*run)(struct cri *cri, const struct options *o, char **args); /* exit code, or negative with cri->err */
} commands[] = {
	{"status", 0, cmd_status},
	{"pull", 1, cmd_pull},
	{"run", 1, cmd_run},
	{"start", 1, cmd_start},
	{"exec", 2, cmd_exec},
	{"pid", 1, cmd_pid},
	{"list", 0, cmd_list},
	{"stop", 1, cmd_stop},
	{"rm", 1, cmd_rm},
	{"rmi", 1, cmd_rmi},
	{"image", 1, cmd_image},
	{"fsinfo", 0, cmd_fsinfo},
	{"clear", 0, cmd_clear},
};

static int usage(void)
{
	fputs("usage: lamella-cri [-s SOCKET] [-t SECONDS] status|list|clear|fsinfo|pull REF|image REF|rmi REF|stop "
	      "ID|rm "
	      "ID|pid ID\n"
	      "       lamella-cri [-s SOCKET] [-t SECONDS] exec ID CMD...\n"
	      "       lamella-cri [-s SOCKET] [-t SECONDS] run|start [--name NAME] [--log-dir DIR] [--cgroup-parent "
	      "GROUP]\n"
	      "                   [--no-pull] [--timing FILE] [--users FIRST] [--expect REGEX] REF\n"
	      "                   [CMD...]\n",
		stderr);
	return 2;
}

/* Options of a command; getopt goes on where it was told to stop. */
static bool parse_options(int argc, char **argv, struct options *o)
{
	enum { NAME = 256, LOG_DIR, CGROUP_PARENT, TIMING, EXPECT, NO_PULL, USERS };
	static const struct option table[] = {{"name", required_argument, NULL, NAME},
		{"log-dir", required_argument, NULL, LOG_DIR},
		{"cgroup-parent", required_argument, NULL, CGROUP_PARENT}, {"timing", required_argument, NULL, TIMING},
		{"expect", required_argument, NULL, EXPECT}, {"no-pull", no_argument, NULL, NO_PULL},
		{"users", required_argument, NULL, USERS}, {NULL, 0, NULL, 0}};
	for (int c; (c = getopt_long(argc, argv, "+", table, NULL)) != -1;) {
		if (c == NAME)
			o->name = optarg;
		else if (c == LOG_DIR)
			o->log_dir = optarg;
		else if (c == CGROUP_PARENT)
			o->cgroup_parent = optarg;
		else if (c == TIMING)
			o->timing = optarg;
		else if (c == EXPECT)
			o->expect = optarg;
		else if (c == NO_PULL)
			o->no_pull = true;
		else if (c == USERS && lm_str_u64(optarg, strlen(optarg), &o->users) == 0 && o->users <= USERS_MAX)
			continue;
		else
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	const char *socket = "/run/containerd/containerd.sock";
	uint64_t timeout_s = 300;
	for (int c; (c = getopt(argc, argv, "+s:t:")) != -1;) {
		if (c == 's')
			socket = optarg;
		else if (c != 't' || lm_str_u64(optarg, strlen(optarg), &timeout_s) < 0 || timeout_s > 100000)
			return usage();
	}
	const struct command *command = NULL;
	for (size_t i = 0; optind < argc && i < ARRAY_LEN(commands); i++)
		if (strcmp(argv[optind], commands[i].name) == 0)
			command = &commands[i];
	char name[64];
	snprintf(name, sizeof(name), "pod-%lld", (long long)lm_now_us());
	struct options options = {.name = name};
	optind++;
	if (!command || !parse_options(argc, argv, &options) || argc - optind < command->min_args)
		return usage();

	struct cri cri = {.timeout_ms = (unsigned)timeout_s * 1000};
	int r = lm_rpc_client_new(socket, &cri.client, &cri.err);
	if (r == 0)
		r = command->run(&cri, &options, argv + optind);
	lm_rpc_client_free(cri.client);
	if (r < 0) {
		fprintf(stderr, "lamella-cri: %s\n", lm_err_text(&cri.err));
		return 1;
	}
	return r;
}
