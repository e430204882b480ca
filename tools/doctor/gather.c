/* Asks the programs for what they know; the areas then say what it means. */
#include "base/program.h"
#include "base/str.h"
#include "common.h"
#include "doctor/doctor.h"
#include "oci/image.h"
#include "oci/json.h"
#include "rpc/rpc.h"

#include <stdio.h>
#include <string.h>

#define SNAPSHOTTER_ROOT "/var/lib/lamella/snapshotter"
enum { SETTINGS_MAX = LM_MANIFEST_JSON_MAX /* what lm_json_load() takes */, SETTINGS_LIMIT_MS = 20000 };

/* --- settings --- */

const char *lm_doctor_setting_of(const json_t *repository, const char *key)
{
	const json_t *settings = json_object_get(repository, "settings");
	for (size_t i = 0; i < json_array_size(settings); i++) {
		const json_t *setting = json_array_get(settings, i);
		const char *name = json_string_value(json_object_get(setting, "key"));
		const char *value = json_string_value(json_object_get(setting, "value"));
		if (name && value && strcmp(name, key) == 0)
			return value;
	}
	return repository ? "" : NULL;
}

const char *lm_doctor_setting(const struct lm_doctor *doctor, const char *key)
{
	return lm_doctor_setting_of(doctor->gathered.settings, key);
}

uint64_t lm_doctor_number_of(const json_t *repository, const char *key)
{
	const char *text = lm_doctor_setting_of(repository, key);
	uint64_t number;
	return text && lm_str_u64(text, strlen(text), &number) == 0 ? number : 0;
}

static int take_settings(struct lm_doctor_gathered *g, const struct lm_buf *text, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *settings = NULL;
	const char *error;
	int r = lm_json_load(LM_FETCHER_NAME, lm_buf_cstr(text), text->len, &settings, err);
	if (r < 0)
		return r;
	error = json_string_value(json_object_get(settings, "error"));
	g->settings_refused = error != NULL;
	if (error)
		return lm_err_set(err, -EINVAL, "%s", error);
	g->settings = STEAL(settings);
	return 0;
}

static int ask_settings(struct lm_doctor *doctor, struct lm_err *err)
{
	const char *argv[4 + 2 * ARRAY_LEN(doctor->options.config)] = {LM_FETCHER_NAME, "--check-config", "--json"};
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(SETTINGS_MAX), errors = LM_BUF(LM_ERR_MAX);
	CLEANUP(lm_freep) char *path = lm_fetcher_program();
	const struct lm_program program = {
		.argv = argv, .path = path, .limit_ms = SETTINGS_LIMIT_MS, .errors = &errors};
	int status;
	if (!path)
		return lm_err_oom(err);
	for (size_t i = 0, n = 3; i < doctor->options.config_count; i++) {
		argv[n++] = "--config";
		argv[n++] = doctor->options.config[i];
	}
	int r = lm_program_run(&program, &text, &status, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", path);
	if (text.len == 0)
		return lm_err_set(err, -EPROTO, "%s: %s", path, errors.len ? lm_buf_cstr(&errors) : "it said nothing");
	return take_settings(&doctor->gathered, &text, err);
}

/* --- the daemons --- */

/* Root's socket says nothing to others, which is not its fault. */
static int may_ask(const char *socket, struct lm_err *err)
{
	if (geteuid() != 0 && access(socket, R_OK | W_OK) < 0 && errno == EACCES)
		return lm_err_sys(err, -EACCES, "%s", socket);
	return 0;
}

static int ask_fetcher(struct lm_doctor_gathered *g, struct lm_err *err)
{
	CLEANUP(lm_rpc_client_freep) struct lm_rpc_client *client = NULL;
	int r = *g->socket ? may_ask(g->socket, err)
			   : lm_err_set(err, -ENOENT, "it has no control service: LAMELLA_SOCKET is set to nothing");
	if (r == 0)
		r = lm_fetcher_open(g->socket, &client, err);
	if (r == 0)
		r = lm_fetcher_status(client, false, &g->fetcher, err);
	return r;
}

static int ask_snapshotter(struct lm_doctor_gathered *g, struct lm_err *err)
{
	int r = may_ask(g->snapshotter_socket, err);
	return r < 0 ? r : lm_snapshotter_status(g->snapshotter_socket, false, &g->snapshotter, err);
}

void lm_doctor_gather(struct lm_doctor *doctor)
{
	struct lm_doctor_gathered *g = &doctor->gathered;
	const struct lm_doctor_options *o = &doctor->options;
	(void)!ask_settings(doctor, &g->no_settings);
	const char *set = lm_doctor_setting(doctor, "LAMELLA_SOCKET");
	g->socket = o->socket ? o->socket : lm_cli_environment("LAMELLA_SOCKET", set ? set : LM_FETCHER_SOCKET);
	g->snapshotter_socket = o->snapshotter
					? o->snapshotter
					: lm_cli_environment("LAMELLA_SNAPSHOTTER_SOCKET", LM_SNAPSHOTTER_SOCKET);
	(void)!ask_fetcher(g, &g->no_fetcher);
	(void)!ask_snapshotter(g, &g->no_snapshotter);
}

bool lm_doctor_without_fetcher(const struct lm_doctor *doctor)
{
	return doctor->gathered.snapshotter && lm_snapshotter_has_mounts(doctor->gathered.snapshotter);
}

const char *lm_doctor_root(const struct lm_doctor *doctor)
{
	const Lamella__Snapshotter__V1__StatusResponse *status = doctor->gathered.snapshotter;
	return status && *status->root ? status->root : SNAPSHOTTER_ROOT;
}

/* --- areas --- */

void lm_doctor_look(struct lm_doctor *doctor, enum lm_doctor_area area)
{
	static void (*const looks[LM_DOCTOR_AREAS])(struct lm_doctor * doctor) = {
		[LM_DOCTOR_KERNEL] = lm_doctor_kernel,
		[LM_DOCTOR_SETTINGS] = lm_doctor_settings,
		[LM_DOCTOR_NETWORK] = lm_doctor_network,
		[LM_DOCTOR_FETCHER] = lm_doctor_fetcher,
		[LM_DOCTOR_SNAPSHOTTER] = lm_doctor_snapshotter,
		[LM_DOCTOR_CONTAINERD] = lm_doctor_containerd,
		[LM_DOCTOR_DISK] = lm_doctor_disk,
	};
	looks[area](doctor);
}
