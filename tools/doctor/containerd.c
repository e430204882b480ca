/* containerd: the one that runs, and the configuration in its files. */
#include "pull/containerd.h"
#include "base/file.h"
#include "base/program.h"
#include "base/str.h"
#include "common.h"
#include "doctor/containerd_config.h"
#include "doctor/toml.h"
#include "rpc/rpc.h"

#include "containerd/introspection.pb-c.h"
#include "containerd/version.pb-c.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

typedef Containerd__Services__Version__V1__VersionResponse VersionResponse;
typedef Containerd__Services__Introspection__V1__PluginsResponse PluginsResponse;
typedef Containerd__Services__Introspection__V1__Plugin Plugin;

enum { TIMEOUT_MS = 10000, DUMP_LIMIT_MS = 30000, LEAST = 1006, CMDLINE_MAX = 64 << 10 };

struct containerd {
	const char *socket;
	pid_t pid; /* 0: not known, or in another name space of processes */
	VersionResponse *version;
	PluginsResponse *plugins;
};

static void containerd_done(struct containerd *c)
{
	lm_fetcher_freep((ProtobufCMessage **)&c->version);
	lm_fetcher_freep((ProtobufCMessage **)&c->plugins);
}

/* --- the one that runs --- */

/* Who listens there. Of one that accepts nothing any more, the queue may be full: then connecting waits. */
static int find_process(struct containerd *c, struct lm_err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const struct timeval limit = {.tv_sec = TIMEOUT_MS / 1000};
	struct ucred peer;
	socklen_t len = sizeof(peer);
	if (strlen(c->socket) >= sizeof(address.sun_path))
		return lm_err_set(err, -ENAMETOOLONG, "%s is too long for a socket", c->socket);
	strcpy(address.sun_path, c->socket);
	CLEANUP(lm_closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
		connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return lm_err_sys(err, errno == EAGAIN ? -ETIMEDOUT : -errno, "%s", c->socket);
	c->pid = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 ? peer.pid : 0;
	return 0;
}

static int ask(struct containerd *c, struct lm_err *err)
{
	Containerd__Services__Version__V1__Empty empty = CONTAINERD__SERVICES__VERSION__V1__EMPTY__INIT;
	Containerd__Services__Introspection__V1__PluginsRequest request =
		CONTAINERD__SERVICES__INTROSPECTION__V1__PLUGINS_REQUEST__INIT;
	char filter[] = "type==io.containerd.snapshotter.v1", *filters[] = {filter};
	CLEANUP(lm_rpc_client_freep) struct lm_rpc_client *client = NULL;
	int r = find_process(c, err);
	if (r == 0)
		r = lm_rpc_client_new(c->socket, &client, err);
	if (r == 0)
		r = lm_rpc_invoke(client, "/containerd.services.version.v1.Version/Version", &empty.base,
			&containerd__services__version__v1__version_response__descriptor, TIMEOUT_MS, false,
			(ProtobufCMessage **)&c->version, NULL, err);
	if (r < 0)
		return r;
	request.n_filters = 1;
	request.filters = filters;
	return lm_rpc_invoke(client, "/containerd.services.introspection.v1.Introspection/Plugins", &request.base,
		&containerd__services__introspection__v1__plugins_response__descriptor, TIMEOUT_MS, false,
		(ProtobufCMessage **)&c->plugins, NULL, err);
}

/* --- its configuration --- */

/* 0: the names of its files are ours, too. In a container of its own they are not, or in ours. */
static int check_root(const struct containerd *c, struct lm_err *err)
{
	char path[64];
	struct stat its, ours;
	if (c->pid <= 0)
		return lm_err_set(err, -ESRCH, "its process is not to be seen from here");
	snprintf(path, sizeof(path), "/proc/%d/root", c->pid);
	if (stat(path, &its) < 0 || stat("/", &ours) < 0)
		return lm_err_sys(err, -errno, "%s", path);
	if (its.st_dev != ours.st_dev || its.st_ino != ours.st_ino)
		return lm_err_set(err, -EXDEV, "it has another root directory than this program");
	return 0;
}

/* The file that it was started with, for a --config of our own; NULL: its default. */
static char *config_file(pid_t pid)
{
	char path[64];
	CLEANUP(lm_buf_done) struct lm_buf words = LM_BUF(CMDLINE_MAX);
	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	if (lm_file_read(AT_FDCWD, path, &words, NULL) < 0)
		return NULL;
	const char *end = (const char *)words.data + words.len, *found = NULL;
	for (const char *word = lm_buf_cstr(&words); word < end; word += strlen(word) + 1) {
		const char *equals = strchr(word, '=');
		size_t len = equals ? (size_t)(equals - word) : strlen(word);
		bool named = (len == 8 && memcmp(word, "--config", len) == 0) ||
			     (len == 7 && memcmp(word, "-config", len) == 0) ||
			     (len == 2 && memcmp(word, "-c", len) == 0);
		if (named)
			found = equals ? equals + 1 : word + len + 1;
	}
	if (!found || found >= end)
		return NULL;
	return *found == '/' ? strdup(found) : lm_str_printf("/proc/%d/cwd/%s", pid, found);
}

/* By the program that runs, which need not be the one that PATH finds. */
static int dump_config(const struct containerd *c, struct lm_buf *dump, struct lm_err *err)
{
	CLEANUP(lm_freep) char *file = config_file(c->pid);
	CLEANUP(lm_buf_done) struct lm_buf errors = LM_BUF(LM_ERR_MAX / 2);
	const char *argv[] = {"containerd", "config", "dump", NULL, NULL, NULL};
	const char *with_file[] = {"containerd", "--config", file, "config", "dump", NULL};
	char path[64];
	int status = 0;
	snprintf(path, sizeof(path), "/proc/%d/exe", c->pid);
	const struct lm_program program = {
		.argv = file ? with_file : argv, .path = path, .limit_ms = DUMP_LIMIT_MS, .errors = &errors};
	int r = lm_program_run(&program, dump, &status, err);
	if (r < 0)
		return lm_err_prefix(err, r, "containerd config dump");
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return lm_err_set(err, -EPROTO, "%s: %s", file ? file : "containerd config dump", lm_buf_cstr(&errors));
	return 0;
}

/* --- both --- */

static const Plugin *loaded(const struct containerd *c, const char *name)
{
	for (size_t i = 0; i < c->plugins->n_plugins; i++)
		if (strcmp(c->plugins->plugins[i]->id, name) == 0)
			return c->plugins->plugins[i];
	return NULL;
}

/* The file says one thing, containerd goes by what it said at the start. */
static void compare(struct lm_doctor *doctor, const struct containerd *c, const struct lm_containerd_plugin *p)
{
	const Plugin *running = loaded(c, p->name);
	if (!running) {
		lm_doctor_found(doctor, LM_DOCTOR_PLUGIN_NOT_LOADED,
			"its files name proxy plugin %s, which it has not loaded", p->name);
		return;
	}
	if (running->init_err && running->init_err->code)
		lm_doctor_found(doctor, LM_DOCTOR_PLUGIN_NOT_LOADED, "%s: %s", p->name, running->init_err->message);
	for (size_t i = 0; i < running->n_exports; i++)
		if (strcmp(running->exports[i]->key, "address") == 0 && p->address &&
			strcmp(running->exports[i]->value, p->address) != 0)
			lm_doctor_found(doctor, LM_DOCTOR_PLUGIN_NOT_LOADED,
				"proxy plugin %s has address %s, in its files %s", p->name, running->exports[i]->value,
				p->address);
}

/* "v2.1.4" and "1.6.20~ds1" */
static unsigned version_of(const struct containerd *c)
{
	const char *text = c->version->version;
	return lm_doctor_version(*text == 'v' ? text + 1 : text);
}

static void look_at_config(struct lm_doctor *doctor, const struct containerd *c)
{
	const Lamella__Snapshotter__V1__StatusResponse *snapshotter = doctor->gathered.snapshotter;
	const char *address = snapshotter ? snapshotter->address : NULL;
	CLEANUP(lm_containerd_config_done) struct lm_containerd_config config = {0};
	CLEANUP(lm_buf_done) struct lm_buf dump = LM_BUF(LM_TOML_MAX);
	struct lm_err err = LM_ERR_INIT;
	if (check_root(c, &err) < 0) {
		lm_doctor_saw(
			doctor, LM_DOCTOR_CONTAINERD, "its configuration was not looked at: %s", lm_err_text(&err));
		return;
	}
	int r = dump_config(c, &dump, &err);
	if (r == 0)
		r = lm_containerd_config_parse(lm_buf_cstr(&dump), dump.len, &config, &err);
	if (r < 0) {
		lm_doctor_found(doctor, LM_DOCTOR_CONTAINERD_CONFIG, "%s", lm_err_text(&err));
		return;
	}
	lm_containerd_config_judge(doctor, &config, version_of(c), address, snapshotter ? snapshotter->root : NULL);
	const struct lm_containerd_plugin *p = lm_containerd_config_plugin(&config, address);
	if (p)
		compare(doctor, c, p);
}

void lm_doctor_containerd(struct lm_doctor *doctor)
{
	CLEANUP(containerd_done) struct containerd c = {.socket = doctor->options.containerd};
	struct lm_err err = LM_ERR_INIT;
	if (!c.socket)
		c.socket = lm_cli_environment("CONTAINERD_ADDRESS", LM_CONTAINERD_SOCKET);
	if (ask(&c, &err) < 0) {
		lm_doctor_no_answer(doctor, LM_DOCTOR_CONTAINERD_DOWN, &err);
		return;
	}
	lm_doctor_saw(doctor, LM_DOCTOR_CONTAINERD, "containerd %s answers at %s", c.version->version, c.socket);
	if (version_of(&c) < LEAST)
		lm_doctor_found(doctor, LM_DOCTOR_CONTAINERD_OLD, "it is %s", c.version->version);
	else
		look_at_config(doctor, &c);
}
