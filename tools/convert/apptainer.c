#include "convert/apptainer.h"

#include "oci/json.h"

#include <ctype.h>
#include <string.h>
#include <sys/stat.h>

enum { SCRIPT_MAX = 4 << 20, LIST_MAX = 65536 };
#define DIR ".singularity.d"

/* Every action begins so. */
#define ENVIRONMENT                                         \
	"#!/bin/sh\n"                                       \
	"for script in /.singularity.d/env/*.sh; do\n"      \
	"\tif [ -f \"$script\" ]; then . \"$script\"; fi\n" \
	"done\n"

/* Applications of the Scientific Filesystem are chosen by SINGULARITY_APPNAME. */
#define APP_DIR "/scif/apps/${SINGULARITY_APPNAME:-}"
#define APP_SCRIPT(name, text, otherwise)                   \
	"if [ -n \"${SINGULARITY_APPNAME:-}\" ]; then\n"    \
	"\tif [ -x \"" APP_DIR "/scif/" name "\" ]; then\n" \
	"\t\texec \"" APP_DIR "/scif/" name "\" \"$@\"\n"   \
	"\tfi\n"                                            \
	"\techo \"" text " $SINGULARITY_APPNAME\" >&2\n" otherwise "fi\n"

static const struct script {
	const char *path, *text;
} scripts[] = {
	{DIR "/actions/exec", ENVIRONMENT "exec \"$@\"\n"},
	{DIR "/actions/run", ENVIRONMENT APP_SCRIPT("runscript", "no runscript of the application",
				     "\texit 1\n") "if [ -x /.singularity.d/runscript ]; then exec "
						   "/.singularity.d/runscript \"$@\"; fi\n"
						   "echo \"no runscript, running /bin/sh\" >&2\n"
						   "exec /bin/sh \"$@\"\n"},
	{DIR "/actions/shell",
		ENVIRONMENT "if [ -n \"${SINGULARITY_SHELL:-}\" ] && [ -x \"$SINGULARITY_SHELL\" ]; then\n"
			    "\texec \"$SINGULARITY_SHELL\" \"$@\"\n"
			    "elif [ -x /bin/bash ]; then\n"
			    "\tSHELL=/bin/bash PS1=\"Singularity ${SINGULARITY_NAME:-}:\\\\w> \"\n"
			    "\texport SHELL PS1\n"
			    "\texec /bin/bash --norc \"$@\"\n"
			    "elif [ -x /bin/sh ]; then\n"
			    "\tSHELL=/bin/sh\n"
			    "\texport SHELL\n"
			    "\texec /bin/sh \"$@\"\n"
			    "fi\n"
			    "echo \"the container has no /bin/sh\" >&2\n"
			    "exit 1\n"},
	/* The first process of an instance waits to be told to go on. */
	{DIR "/actions/start",
		"#!/bin/sh\n"
		"kill -CONT 1\n"
		"for script in /.singularity.d/env/*.sh; do\n"
		"\tif [ -f \"$script\" ]; then . \"$script\"; fi\n"
		"done\n"
		"if [ -x /.singularity.d/startscript ]; then exec /.singularity.d/startscript \"$@\"; fi\n"},
	{DIR "/actions/test",
		ENVIRONMENT APP_SCRIPT("test", "no tests of the application",
			"\texit 0\n") "if [ -x /.singularity.d/test ]; then exec /.singularity.d/test \"$@\"; fi\n"
				      "exec /bin/sh -c true\n"},
	{DIR "/env/01-base.sh", "#!/bin/sh\n"},
	{DIR "/env/90-environment.sh", "#!/bin/sh\n"},
	{DIR "/env/95-apps.sh", "#!/bin/sh\n"
				"if [ -n \"${SINGULARITY_APPNAME:-}\" ]; then\n"
				"\tif ! [ -d \"" APP_DIR "\" ]; then\n"
				"\t\techo \"no application $SINGULARITY_APPNAME in the container\" >&2\n"
				"\t\texit 1\n"
				"\tfi\n"
				"\tSCIF_APPS=/scif/apps\n"
				"\tSCIF_APPROOT=\"" APP_DIR "\"\n"
				"\texport SINGULARITY_APPNAME SCIF_APPS SCIF_APPROOT\n"
				"\tPATH=\"$SCIF_APPROOT:$PATH\"\n"
				"\tif [ -d \"$SCIF_APPROOT/bin\" ]; then PATH=\"$SCIF_APPROOT/bin:$PATH\"; fi\n"
				"\tif [ -d \"$SCIF_APPROOT/lib\" ]; then\n"
				"\t\tLD_LIBRARY_PATH=\"$SCIF_APPROOT/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\"\n"
				"\t\texport LD_LIBRARY_PATH\n"
				"\tfi\n"
				"\tfor script in \"$SCIF_APPROOT\"/scif/env/01-base.sh "
				"\"$SCIF_APPROOT\"/scif/env/90-environment.sh; do\n"
				"\t\tif [ -f \"$script\" ]; then . \"$script\"; fi\n"
				"\tdone\n"
				"\texport PATH\n"
				"fi\n"},
	/* Libraries of the host (a graphics driver's) are mounted in libs. */
	{DIR "/env/99-base.sh", "#!/bin/sh\n"
				"LD_LIBRARY_PATH=\"${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs\"\n"
				"PS1=\"Singularity> \"\n"
				"export LD_LIBRARY_PATH PS1\n"},
	{DIR "/env/99-runtimevars.sh",
		"#!/bin/sh\n"
		"PATH=\"${SING_USER_DEFINED_PREPEND_PATH:+$SING_USER_DEFINED_PREPEND_PATH:}$PATH\"\n"
		"PATH=\"$PATH${SING_USER_DEFINED_APPEND_PATH:+:$SING_USER_DEFINED_APPEND_PATH}\"\n"
		"PATH=\"${SING_USER_DEFINED_PATH:-$PATH}\"\n"
		"unset SING_USER_DEFINED_PREPEND_PATH SING_USER_DEFINED_APPEND_PATH SING_USER_DEFINED_PATH\n"
		"export PATH\n"},
	{DIR "/startscript", "#!/bin/sh\n"},
};

static const char *const directories[] = {DIR "/libs", "dev", "proc", "sys", "tmp", "var/tmp", "home", "root", "etc"};

static const struct {
	const char *path, *target;
} links[] = {
	{"singularity", DIR "/runscript"},
	{".run", DIR "/actions/run"},
	{".exec", DIR "/actions/exec"},
	{".test", DIR "/actions/test"},
	{".shell", DIR "/actions/shell"},
	{"environment", DIR "/env/90-environment.sh"},
};

struct adding {
	struct lm_layer_tree *tree;
	struct lm_packing *packing;
	int64_t time_s;
	const struct lm_layer_loss *loss;
};

/* --- names in the tree --- */

/* *ret: the file's inode; NULL where there is no place for it. */
static int apply(
	const struct adding *a, const struct lm_tar_entry *entry, struct lm_layer_inode **ret, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	int r = lm_layer_tree_apply(a->tree, entry, ret, &why);
	if (r == -EPROTO) {
		a->loss->fn(a->loss->arg, entry->name, lm_err_text(&why));
		return 0;
	}
	return r < 0 ? lm_err_set(err, r, "%s", lm_err_text(&why)) : 0;
}

static int add_file(
	const struct adding *a, const char *path, uint32_t mode, const char *text, size_t len, struct lm_err *err)
{
	const struct lm_tar_entry entry = {
		.type = LM_TAR_FILE, .name = path, .size = len, .mode = mode, .mtime_s = a->time_s};
	struct lm_layer_inode *file = NULL;
	int r = apply(a, &entry, &file, err);
	return r < 0 || !file ? r : lm_packing_data(a->packing, text, len, &file->hash, err);
}

static int add_directory(const struct adding *a, const char *path, struct lm_err *err)
{
	const struct lm_tar_entry entry = {.type = LM_TAR_DIR, .name = path, .mode = 0755, .mtime_s = a->time_s};
	struct lm_layer_inode *none = NULL;
	return lm_layer_tree_leads(a->tree, path) ? 0 : apply(a, &entry, &none, err);
}

static int add_link(const struct adding *a, const char *path, const char *target, struct lm_err *err)
{
	const struct lm_tar_entry entry = {
		.type = LM_TAR_SYMLINK, .name = path, .link = target, .mode = 0777, .mtime_s = a->time_s};
	struct lm_layer_inode *none = NULL;
	if (lm_layer_tree_child(a->tree, lm_layer_tree_root(a->tree), path))
		return 0;
	return apply(a, &entry, &none, err);
}

/* --- scripts from the config --- */

/* A word that a shell takes as it is. */
static int quote(struct lm_buf *script, const char *word)
{
	int r = lm_buf_str(script, "'");
	for (const char *apostrophe; r == 0 && (apostrophe = strchr(word, '\'')); word = apostrophe + 1) {
		r = lm_buf_append(script, word, (size_t)(apostrophe - word));
		if (r == 0)
			r = lm_buf_str(script, "'\\''");
	}
	if (r == 0)
		r = lm_buf_str(script, word);
	return r < 0 ? r : lm_buf_str(script, "'");
}

static bool is_variable(const char *name, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!(isalpha((unsigned char)name[i]) || name[i] == '_' || (i > 0 && isdigit((unsigned char)name[i]))))
			return false;
	return len > 0;
}

/* "NAME=VALUE", or "NAME" alone, which only exports it. */
static int export_variable(struct lm_buf *script, const char *text)
{
	const char *equals = strchr(text, '=');
	int len = (int)(equals ? (size_t)(equals - text) : strlen(text));
	if (!is_variable(text, (size_t)len))
		return 0;
	bool path = len == 4 && memcmp(text, "PATH", 4) == 0;
	int r = 0;
	if (equals && !path)
		r = lm_buf_printf(script, "[ -n \"${%.*s:-}\" ] || ", len, text);
	if (r == 0 && equals)
		r = lm_buf_printf(script, "%.*s=", len, text);
	if (r == 0 && equals)
		r = quote(script, equals + 1);
	return r < 0 ? r : lm_buf_printf(script, "%sexport %.*s\n", equals ? "\n" : "", len, text);
}

/* The index-th of a list of strings. */
static int text_at(const json_t *list, size_t index, const char *what, const char **ret, struct lm_err *err)
{
	*ret = json_string_value(json_array_get(list, index));
	return *ret ? 0 : lm_err_set(err, -EPROTO, "config: %s is no list of texts", what);
}

static int environment_script(const json_t *env, struct lm_buf *script, struct lm_err *err)
{
	int r = lm_buf_str(script, "#!/bin/sh\n");
	for (size_t i = 0; i < json_array_size(env) && r == 0; i++) {
		const char *text;
		r = text_at(env, i, "Env", &text, err);
		if (r < 0)
			return r;
		r = export_variable(script, text);
	}
	return r < 0 ? lm_err_sys(err, r, "config: Env") : 0;
}

static int append_words(const json_t *words, const char *what, struct lm_buf *script, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < json_array_size(words) && r == 0; i++) {
		const char *word;
		r = text_at(words, i, what, &word, err);
		if (r < 0)
			return r;
		r = lm_buf_str(script, " ");
		if (r == 0)
			r = quote(script, word);
	}
	return r < 0 ? lm_err_sys(err, r, "config: %s", what) : 0;
}

static int run_script(const json_t *entrypoint, const json_t *cmd, struct lm_buf *script, struct lm_err *err)
{
	int r = lm_buf_str(script, "#!/bin/sh\n");
	if (json_array_size(cmd) > 0) {
		if (r == 0)
			r = lm_buf_str(script, "[ $# -gt 0 ] || set --");
		if (r == 0)
			r = append_words(cmd, "Cmd", script, err);
		if (r == 0)
			r = lm_buf_str(script, "\n");
	}
	if (json_array_size(entrypoint) > 0) {
		if (r == 0)
			r = lm_buf_str(script, "set --");
		if (r == 0)
			r = append_words(entrypoint, "Entrypoint", script, err);
		if (r == 0)
			r = lm_buf_str(script, " \"$@\"\n");
	}
	if (r == 0)
		r = lm_buf_str(script, "[ $# -gt 0 ] || set -- /bin/sh\nexec \"$@\"\n");
	return r < 0 ? lm_err_sys(err, r, "runscript") : 0;
}

static int add_config(const struct adding *a, const struct lm_image *image, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *json = NULL;
	CLEANUP(lm_buf_done) struct lm_buf run = LM_BUF(SCRIPT_MAX), environment = LM_BUF(SCRIPT_MAX);
	json_t *config = NULL, *entrypoint = NULL, *cmd = NULL, *env = NULL;
	int r = lm_json_load("config", lm_buf_cstr(&image->config), image->config.len, &json, err);
	if (r == 0)
		r = lm_json_object("config", json, "config", LM_JSON_OPTIONAL, &config, err);
	if (r == 0 && config) {
		r = lm_json_array("config", config, "Entrypoint", LIST_MAX, LM_JSON_OPTIONAL, &entrypoint, err);
		if (r == 0)
			r = lm_json_array("config", config, "Cmd", LIST_MAX, LM_JSON_OPTIONAL, &cmd, err);
		if (r == 0)
			r = lm_json_array("config", config, "Env", LIST_MAX, LM_JSON_OPTIONAL, &env, err);
	}
	if (r == 0)
		r = run_script(entrypoint, cmd, &run, err);
	if (r == 0)
		r = environment_script(env, &environment, err);
	if (r == 0)
		r = add_file(a, DIR "/runscript", 0755, lm_buf_cstr(&run), run.len, err);
	if (r == 0)
		r = add_file(
			a, DIR "/env/10-docker2singularity.sh", 0755, lm_buf_cstr(&environment), environment.len, err);
	return r;
}

int lm_apptainer_add(struct lm_layer_tree *tree, const struct lm_image *image, struct lm_packing *packing,
	int64_t time_s, const struct lm_layer_loss *loss, struct lm_err *err)
{
	const struct adding a = {tree, packing, time_s, loss};
	int r = 0;
	for (size_t i = 0; i < ARRAY_LEN(directories) && r == 0; i++)
		r = add_directory(&a, directories[i], err);
	for (size_t i = 0; i < ARRAY_LEN(links) && r == 0; i++)
		r = add_link(&a, links[i].path, links[i].target, err);
	if (r == 0)
		r = add_file(&a, "etc/hosts", 0644, "", 0, err);
	if (r == 0)
		r = add_file(&a, "etc/resolv.conf", 0644, "", 0, err);
	for (size_t i = 0; i < ARRAY_LEN(scripts) && r == 0; i++)
		r = add_file(&a, scripts[i].path, 0755, scripts[i].text, strlen(scripts[i].text), err);
	return r < 0 ? r : add_config(&a, image, err);
}
