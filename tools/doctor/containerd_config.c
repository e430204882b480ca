#include "doctor/containerd_config.h"

#include "base/str.h"
#include "doctor/toml.h"

#include <string.h>

enum { VERSION_1_7 = 1007, VERSION_2 = 2000 };
#define CRI_1 "plugins", "io.containerd.grpc.v1.cri", "containerd"
#define CRI_2 "plugins", "io.containerd.cri.v1.images"
#define IS(value, ...)                                        \
	lm_toml_is(value, (const char *const[]){__VA_ARGS__}, \
		sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* --- reading --- */

void lm_containerd_config_done(struct lm_containerd_config *config)
{
	free(config->root);
	free(config->snapshotter);
	for (size_t i = 0; i < config->of_runtime_count; i++)
		free(config->of_runtimes[i]);
	for (size_t i = 0; i < config->unpack_count; i++)
		free(config->unpacks[i]);
	for (size_t i = 0; i < config->plugin_count; i++) {
		struct lm_containerd_plugin *p = &config->plugins[i];
		free(p->name);
		free(p->type);
		free(p->address);
		free(p->root);
	}
	*config = (struct lm_containerd_config){0};
}

static int put(char **to, const char *text)
{
	free(*to);
	*to = strdup(text);
	return *to ? 0 : -ENOMEM;
}

/* More than there is room for are not looked at: they are never so many. */
static int add_word(char **words, size_t *count, const char *text)
{
	if (!*text || *count == LM_CONTAINERD_WORDS_MAX)
		return 0;
	return put(&words[(*count)++], text);
}

static struct lm_containerd_plugin *plugin_named(struct lm_containerd_config *config, const char *name)
{
	for (size_t i = 0; i < config->plugin_count; i++)
		if (strcmp(config->plugins[i].name, name) == 0)
			return &config->plugins[i];
	if (config->plugin_count == LM_CONTAINERD_PLUGINS_MAX)
		return NULL;
	struct lm_containerd_plugin *p = &config->plugins[config->plugin_count];
	if (put(&p->name, name) < 0)
		return NULL;
	config->plugin_count++;
	return p;
}

static int take_plugin(struct lm_containerd_config *config, const struct lm_toml_value *v)
{
	struct lm_containerd_plugin *p = plugin_named(config, v->path[1]);
	const char *key = v->path[v->depth - 1];
	if (!p)
		return config->plugin_count == LM_CONTAINERD_PLUGINS_MAX ? 0 : -ENOMEM;
	if (v->depth == 4)
		return strcmp(v->path[2], "exports") == 0 && strcmp(key, "root") == 0 ? put(&p->root, v->text) : 0;
	if (v->depth != 3)
		return 0;
	if (v->in_array && strcmp(key, "capabilities") == 0) {
		p->remap_ids |= strcmp(v->text, "remap-ids") == 0;
		p->rebase |= strcmp(v->text, "rebase") == 0;
		return 0;
	}
	return strcmp(key, "type") == 0	     ? put(&p->type, v->text)
	       : strcmp(key, "address") == 0 ? put(&p->address, v->text)
					     : 0;
}

static bool is_true(const struct lm_toml_value *v)
{
	return v->bare && strcmp(v->text, "true") == 0;
}

static int take(void *arg, const struct lm_toml_value *v)
{
	struct lm_containerd_config *config = arg;
	if (v->depth >= 3 && strcmp(v->path[0], "proxy_plugins") == 0)
		return take_plugin(config, v);
	if (IS(v, "root"))
		return put(&config->root, v->text);
	if (IS(v, CRI_1, "snapshotter") || IS(v, CRI_2, "snapshotter"))
		return put(&config->snapshotter, v->text);
	if (IS(v, CRI_1, "disable_snapshot_annotations") || IS(v, CRI_2, "disable_snapshot_annotations"))
		config->annotations_off = is_true(v);
	else if (IS(v, CRI_1, "discard_unpacked_layers") || IS(v, CRI_2, "discard_unpacked_layers"))
		config->discards = is_true(v);
	else if (IS(v, CRI_1, "runtimes", NULL, "snapshotter") ||
		 IS(v, CRI_2, "runtime_platforms", NULL, "snapshotter"))
		return add_word(config->of_runtimes, &config->of_runtime_count, v->text);
	else if (IS(v, "plugins", "io.containerd.transfer.v1.local", "unpack_config", "snapshotter"))
		return add_word(config->unpacks, &config->unpack_count, v->text);
	return 0;
}

int lm_containerd_config_parse(const char *dump, size_t len, struct lm_containerd_config *ret, struct lm_err *err)
{
	CLEANUP(lm_containerd_config_done) struct lm_containerd_config config = {0};
	int r = lm_toml_read(dump, len, take, &config, err);
	if (r == -ENOMEM)
		return lm_err_oom(err);
	if (r < 0)
		return r;
	*ret = config;
	config = (struct lm_containerd_config){0};
	return 0;
}

/* --- judging --- */

static bool same(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

static bool has(char *const *words, size_t count, const char *word)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(words[i], word) == 0)
			return true;
	return false;
}

const struct lm_containerd_plugin *lm_containerd_config_plugin(
	const struct lm_containerd_config *config, const char *address)
{
	for (size_t i = 0; i < config->plugin_count; i++)
		if (same(config->plugins[i].type, "snapshot") && same(config->plugins[i].name, LM_CONTAINERD_PLUGIN))
			return &config->plugins[i];
	for (size_t i = 0; i < config->plugin_count; i++)
		if (same(config->plugins[i].type, "snapshot") && same(config->plugins[i].address, address))
			return &config->plugins[i];
	return NULL;
}

static void judge_plugin(
	struct lm_doctor *doctor, const struct lm_containerd_plugin *p, unsigned version, const char *address)
{
	if (address && !same(p->address, address))
		lm_doctor_found(doctor, LM_DOCTOR_PLUGIN_ADDRESS,
			"proxy plugin %s has address %s, lamella-snapshotter listens at %s", p->name,
			p->address ? p->address : "\"\"", address);
	if (p->rebase)
		lm_doctor_found(doctor, LM_DOCTOR_REBASE, "proxy plugin %s", p->name);
	if (version >= VERSION_1_7 && !p->remap_ids)
		lm_doctor_found(doctor, LM_DOCTOR_REMAP, "proxy plugin %s", p->name);
}

/* Where kubelet is sent to see how full the file system of images is. */
static void judge_image_filesystem(struct lm_doctor *doctor, const struct lm_containerd_config *config,
	const struct lm_containerd_plugin *p, unsigned version, const char *root)
{
	CLEANUP(lm_freep) char *dir = NULL;
	if (version >= VERSION_2) {
		if (root && !same(p->root, root))
			lm_doctor_found(doctor, LM_DOCTOR_IMAGE_FILESYSTEM,
				"exports.root of proxy plugin %s is %s, the snapshotter's directory %s", p->name,
				p->root ? p->root : "not set", root);
		return;
	}
	dir = config->root ? lm_str_printf("%s/io.containerd.snapshotter.v1.%s", config->root, p->name) : NULL;
	if (dir && access(dir, F_OK) < 0 && errno == ENOENT)
		lm_doctor_found(doctor, LM_DOCTOR_IMAGE_FILESYSTEM, "%s is not there", dir);
}

static void judge_cri(struct lm_doctor *doctor, const struct lm_containerd_config *config, const char *name)
{
	if (!config->snapshotter)
		return; /* a containerd without the CRI */
	if (!same(config->snapshotter, name) && !has(config->of_runtimes, config->of_runtime_count, name))
		lm_doctor_found(doctor, LM_DOCTOR_CRI_SNAPSHOTTER, "the CRI uses %s", config->snapshotter);
	if (config->annotations_off)
		lm_doctor_found(doctor, LM_DOCTOR_ANNOTATIONS, "disable_snapshot_annotations is true");
	if (config->discards)
		lm_doctor_found(doctor, LM_DOCTOR_DISCARDED, "discard_unpacked_layers is true");
}

void lm_containerd_config_judge(struct lm_doctor *doctor, const struct lm_containerd_config *config, unsigned version,
	const char *address, const char *root)
{
	const struct lm_containerd_plugin *p = lm_containerd_config_plugin(config, address);
	if (!p) {
		lm_doctor_found(doctor, LM_DOCTOR_PLUGIN_ABSENT, "none of %zu proxy plugins is a snapshotter named %s",
			config->plugin_count, LM_CONTAINERD_PLUGIN);
		return;
	}
	judge_plugin(doctor, p, version, address);
	judge_image_filesystem(doctor, config, p, version, root);
	judge_cri(doctor, config, p->name);
	if (version >= VERSION_2 && !has(config->unpacks, config->unpack_count, p->name))
		lm_doctor_found(doctor, LM_DOCTOR_UNPACK_CONFIG, "unpack_config does not name %s", p->name);
	lm_doctor_saw(doctor, LM_DOCTOR_CONTAINERD, "proxy plugin %s at %s; the CRI uses %s", p->name,
		p->address ? p->address : "\"\"", config->snapshotter ? config->snapshotter : "none");
}
