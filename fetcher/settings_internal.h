/* Shared by settings.c (reading) and settings_check.c (explaining). */
#ifndef LM_FETCHER_SETTINGS_INTERNAL_H
#define LM_FETCHER_SETTINGS_INTERNAL_H

#include "fetcher/settings.h"

enum { LM_SETTINGS_FILES_MAX = 16, LM_SETTINGS_SETS_MAX = 64, LM_SETTINGS_KEY_FILE_MAX = 64 << 10 };

struct lm_settings_options {
	const char *files[LM_SETTINGS_FILES_MAX], *sets[LM_SETTINGS_SETS_MAX];
	size_t file_count, set_count;
	const char *config_dir, *repository_dir, *log_level; /* NULL: not given */
	bool check, json, require_mounts;
};

/* As lm_settings_load(), in two steps. */
int lm_settings_parse_options(int argc, char **argv, struct lm_settings_options *ret, struct lm_err *err) MUST_CHECK;
int lm_settings_read(
	const struct lm_settings_options *options, struct lm_settings **ret, struct lm_err *err) MUST_CHECK;

/* Where settings come from: files, or an earlier process (settings_packed.c). */
struct lm_settings_source {
	void *arg;
	bool require_mounts;
	/* Everything that is set for a repository, or for the node (NULL); called for the node first, then in the order
	 * of CVMFS_REPOSITORIES, each followed by trust: keys and blacklist. */
	int (*conf)(void *arg, const char *fqrn, struct lm_conf **ret, struct lm_err *err);
	int (*trust)(void *arg, struct lm_repository_settings *s, struct lm_err *err);
};
int lm_settings_build(const struct lm_settings_source *source, struct lm_settings **ret, struct lm_err *err) MUST_CHECK;

/* Whether keys are those of CVMFS_PUBLIC_KEY, else those of CVMFS_KEYS_DIR. */
bool lm_settings_keys_by_list(const struct lm_repository_settings *s);

/* --check-config: prints and returns the exit code. */
int lm_settings_check(const struct lm_settings_options *options);

#endif
