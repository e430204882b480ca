/*
 * What matters to us in containerd's configuration, as `containerd config dump` prints it: defaults, files and imports
 * together, in the version of the format that this containerd has. Pure, but for one look whether a directory is there.
 */
#ifndef LM_TOOLS_DOCTOR_CONTAINERD_CONFIG_H
#define LM_TOOLS_DOCTOR_CONTAINERD_CONFIG_H

#include "doctor/doctor.h"

enum { LM_CONTAINERD_PLUGINS_MAX = 16, LM_CONTAINERD_WORDS_MAX = 32 };
#define LM_CONTAINERD_PLUGIN "lamella"

struct lm_containerd_plugin { /* one of proxy_plugins; strings are NULL where there is none */
	char *name, *type, *address, *root /* exports.root */;
	bool remap_ids, rebase;
};

struct lm_containerd_config {
	char *root;	   /* of containerd */
	char *snapshotter; /* of the CRI */
	char *of_runtimes[LM_CONTAINERD_WORDS_MAX];
	size_t of_runtime_count; /* snapshotters that single runtime classes have */
	char *unpacks[LM_CONTAINERD_WORDS_MAX];
	size_t unpack_count; /* snapshotters of the transfer service */
	bool annotations_off, discards;
	struct lm_containerd_plugin plugins[LM_CONTAINERD_PLUGINS_MAX];
	size_t plugin_count;
};

int lm_containerd_config_parse(
	const char *dump, size_t len, struct lm_containerd_config *ret, struct lm_err *err) MUST_CHECK;
void lm_containerd_config_done(struct lm_containerd_config *config);

/* The proxy plugin that is ours: by its name, else by the address where the snapshotter listens (NULL: not known).
 * NULL: there is none. */
const struct lm_containerd_plugin *lm_containerd_config_plugin(
	const struct lm_containerd_config *config, const char *address);

/* Says what is found. version: as of lm_doctor_version(). address, root: of the snapshotter that runs, or NULL. */
void lm_containerd_config_judge(struct lm_doctor *doctor, const struct lm_containerd_config *config, unsigned version,
	const char *address, const char *root);

#endif
