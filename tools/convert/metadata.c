#include "convert/metadata.h"

#include "base/clock.h"
#include "base/str.h"
#include "convert/flat.h"
#include "convert/layer.h"
#include "oci/json.h"
#include "oci/shelf.h"

#include <string.h>
#include <sys/stat.h>

static const char *const files[] = {
	"manifest.json", LM_SHELF_MANIFEST, LM_SHELF_CONFIG, LM_SHELF_INDEX, "platforms.json"};

/* What uname(1) calls them. */
static const struct {
	const char *name;
	struct lm_platform platform;
} machines[] = {
	{"x86_64", {"linux", "amd64", NULL}},
	{"aarch64", {"linux", "arm64", NULL}},
	{"ppc64le", {"linux", "ppc64le", NULL}},
	{"s390x", {"linux", "s390x", NULL}},
	{"riscv64", {"linux", "riscv64", NULL}},
	{"loongarch64", {"linux", "loong64", NULL}},
	{"mips64", {"linux", "mips64le", NULL}},
	{"i686", {"linux", "386", NULL}},
	{"armv7l", {"linux", "arm", "v7"}},
	{"armv6l", {"linux", "arm", "v6"}},
};

bool lm_name_tagged(const char *name)
{
	const char *slash = strrchr(name, '/');
	return strchr(slash ? slash : name, ':') != NULL;
}

/* --- files --- */

static int put_file(
	struct lm_txn *txn, const char *dir, const char *name, const struct lm_buf *content, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, name);
	return path ? lm_txn_put_data(txn, path, lm_buf_cstr(content), content->len, err) : lm_err_oom(err);
}

static int remove_file(struct lm_txn *txn, const char *dir, const char *name, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, name);
	return path ? lm_txn_remove(txn, path, err) : lm_err_oom(err);
}

/* The manifest.json that is in dir; ret stays empty where there is none. */
static int read_old(struct lm_txn *txn, const char *dir, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/manifest.json", dir);
	int r = path ? lm_txn_has(txn, path, err) : lm_err_oom(err);
	return r > 0 ? lm_txn_read(txn, path, ret, err) : r;
}

/* old: the manifest.json that NAME had. One that makes no sense names nothing that could be removed. */
static int reschedule(struct lm_txn *txn, const char *name, const struct lm_buf *old, const char *config,
	int64_t grace_s, struct lm_err *err)
{
	CLEANUP(lm_schedule_done) struct lm_schedule schedule = {0};
	CLEANUP(lm_image_parts_done) struct lm_image_parts parts = {0};
	const struct lm_view view = lm_txn_view(txn);
	int r = lm_schedule_read(&view, &schedule, err);
	if (r < 0)
		return r;
	CLEANUP(json_decrefp) json_t *json = old->len > 0 ? json_loadb(lm_buf_cstr(old), old->len, 0, NULL) : NULL;
	if (json && lm_image_parts_read(json, &parts, NULL) == 0 && strcmp(parts.config, config) != 0)
		r = lm_schedule_add(&schedule, old, name, lm_wall_s() + grace_s, err);
	lm_schedule_drop(&schedule, config);
	return r < 0 ? r : lm_schedule_write(&schedule, txn, err);
}

int lm_metadata_put(
	struct lm_txn *txn, const struct lm_image *image, const char *name, int64_t grace_s, struct lm_err *err)
{
	CLEANUP(lm_freep) char *dir = lm_str_printf("/" LM_SHELF_METADATA "/%s", name);
	CLEANUP(lm_buf_done) struct lm_buf json = LM_BUF(LM_MANIFEST_JSON_MAX), old = LM_BUF(LM_MANIFEST_JSON_MAX);
	if (!dir)
		return lm_err_oom(err);
	int r = lm_manifest_json(image, &json, err);
	if (r == 0)
		r = read_old(txn, dir, &old, err);
	if (r == 0)
		r = reschedule(txn, name, &old, image->config_digest, grace_s, err);
	if (r == 0)
		r = lm_txn_mkdirs(txn, dir, false, err);
	if (r == 0)
		r = put_file(txn, dir, "manifest.json", &json, err);
	if (r == 0)
		r = put_file(txn, dir, LM_SHELF_MANIFEST, &image->manifest, err);
	if (r == 0)
		r = put_file(txn, dir, LM_SHELF_CONFIG, &image->config, err);
	if (r == 0 && image->index.len > 0)
		return put_file(txn, dir, LM_SHELF_INDEX, &image->index, err);
	return r < 0 ? r : remove_file(txn, dir, LM_SHELF_INDEX, err); /* of what had that name before */
}

/* --- links --- */

static int put_link(struct lm_txn *txn, const char *path, const char *target, struct lm_err *err)
{
	CLEANUP(lm_freep) char *dir = lm_str_ndup(path, (size_t)(strrchr(path, '/') - path));
	int r = dir ? lm_txn_mkdirs(txn, dir, false, err) : lm_err_oom(err);
	return r < 0 ? r : lm_txn_put_symlink(txn, path, target, err);
}

/* From "/a/b/c" to "/.flat/…" it is "../../.flat/…". */
static int put_flat_link(struct lm_txn *txn, const char *path, const char *config, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf target = LM_BUF(LM_SYMLINK_MAX);
	int r = 0;
	for (const char *slash = path; r == 0 && (slash = strchr(slash + 1, '/'));)
		r = lm_buf_str(&target, "../");
	if (r == 0)
		r = lm_buf_str(&target, lm_flat_path(config).s + 1);
	return r < 0 ? lm_err_sys(err, r, "link %s", path) : put_link(txn, path, lm_buf_cstr(&target), err);
}

/* Only links are removed, whatever else has that name. */
static int remove_link(struct lm_txn *txn, const char *path, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	const struct lm_view view = lm_txn_view(txn);
	int r = lm_view_has(&view, path, &row, err);
	return r > 0 && S_ISLNK(row.mode) ? lm_txn_remove(txn, path, err) : r < 0 ? r : 0;
}

static char *machine_path(const char *name, size_t machine)
{
	return lm_str_printf("/%s-linux-%s", name, machines[machine].name);
}

static int remove_machines(struct lm_txn *txn, const char *name, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < ARRAY_LEN(machines) && r == 0; i++) {
		CLEANUP(lm_freep) char *path = machine_path(name, i);
		r = path ? remove_link(txn, path, err) : lm_err_oom(err);
	}
	return r;
}

/* The name no longer stands for several platforms. */
static int forget_platforms(struct lm_txn *txn, const char *name, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("/" LM_SHELF_METADATA "/%s/platforms.json", name);
	int r = path ? lm_txn_has(txn, path, err) : lm_err_oom(err);
	if (r <= 0)
		return r;
	r = lm_txn_remove(txn, path, err);
	return r < 0 ? r : remove_machines(txn, name, err);
}

int lm_metadata_link(struct lm_txn *txn, const struct lm_image *image, const char *name, struct lm_err *err)
{
	CLEANUP(lm_freep)
	char *path = lm_name_tagged(name) ? lm_str_printf("/%s", name) : lm_str_printf("/%s:%s", name, image->digest);
	int r = path ? forget_platforms(txn, name, err) : lm_err_oom(err);
	if (r == 0)
		r = lm_txn_has(txn, lm_flat_path(image->config_digest).s, err);
	if (r < 0)
		return r;
	return r > 0 ? put_flat_link(txn, path, image->config_digest, err) : remove_link(txn, path, err);
}

/* --- platforms --- */

size_t lm_image_best(const struct lm_platform *platform, const struct lm_image *images, size_t count)
{
	size_t best = count;
	int best_rank = -1;
	for (size_t i = 0; i < count; i++) {
		if (!images[i].os || !images[i].architecture)
			continue;
		const struct lm_platform offered = {images[i].os, images[i].architecture, images[i].variant};
		int rank = lm_platform_rank(platform, &offered);
		if (rank >= 0 && (best_rank < 0 || rank < best_rank)) {
			best_rank = rank;
			best = i;
		}
	}
	return best;
}

/* *ret_default: the machine whose image is the best one. */
static int link_machines(struct lm_txn *txn, const struct lm_image *images, size_t count, size_t best, const char *name,
	const char **ret_default, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < ARRAY_LEN(machines) && r == 0; i++) {
		CLEANUP(lm_freep) char *path = machine_path(name, i);
		size_t image = lm_image_best(&machines[i].platform, images, count);
		if (!path)
			return lm_err_oom(err);
		r = image < count ? lm_txn_has(txn, lm_flat_path(images[image].config_digest).s, err) : 0;
		if (r > 0 && image == best && !*ret_default)
			*ret_default = machines[i].name;
		if (r >= 0)
			r = r > 0 ? put_flat_link(txn, path, images[image].config_digest, err)
				  : remove_link(txn, path, err);
	}
	return r;
}

static int put_platforms(struct lm_txn *txn, char *const *names, size_t count, const char *name, struct lm_err *err)
{
	CLEANUP(lm_freep) char *dir = lm_str_printf("/" LM_SHELF_METADATA "/%s", name);
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_LAYER_JSON_MAX);
	CLEANUP(json_decrefp) json_t *list = json_array();
	for (size_t i = 0; i < count; i++)
		if (json_array_append_new(list, json_string(names[i])) < 0)
			return lm_err_oom(err);
	if (!dir || lm_json_write(list, JSON_COMPACT, &text) < 0)
		return lm_err_oom(err);
	int r = lm_txn_mkdirs(txn, dir, false, err);
	return r < 0 ? r : put_file(txn, dir, "platforms.json", &text, err);
}

int lm_metadata_platforms(struct lm_txn *txn, const struct lm_image *images, char *const *names, size_t count,
	size_t best, const char *name, struct lm_err *err)
{
	const char *machine = NULL;
	int r = put_platforms(txn, names, count, name, err);
	if (r == 0)
		r = link_machines(txn, images, count, best, name, &machine, err);
	CLEANUP(lm_freep) char *path = lm_str_printf("/%s", name);
	if (r == 0 && !path)
		r = lm_err_oom(err);
	if (r < 0 || !machine)
		return r < 0 ? r : remove_link(txn, path, err);
	CLEANUP(lm_freep)
	char *target = lm_str_printf("%s-linux-$(CVMFS_ARCH:-%s)", strrchr(path, '/') + 1, machine);
	return target ? put_link(txn, path, target, err) : lm_err_oom(err);
}

/* --- removal --- */

static int stop_listing(void *arg, struct lm_row *row)
{
	return 1;
}

/* The directories above path that have nothing in them any more, up to but not including the one at keep. */
static int prune(struct lm_txn *txn, const char *path, const char *keep, struct lm_err *err)
{
	CLEANUP(lm_freep) char *dir = strdup(path);
	if (!dir)
		return lm_err_oom(err);
	for (char *slash; (slash = strrchr(dir, '/')) && slash != dir;) {
		*slash = '\0';
		if (strcmp(dir, keep) == 0)
			return 0;
		struct lm_err why = LM_ERR_INIT;
		int r = lm_txn_list(txn, dir, stop_listing, NULL, &why);
		if (r == -ENOENT)
			continue;
		if (r != 0)
			return r < 0 ? lm_err_set(err, r, "%s", lm_err_text(&why)) : 0;
		r = lm_txn_remove(txn, dir, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int remove_links(struct lm_txn *txn, const struct lm_inventory_image *image, struct lm_err *err)
{
	int r = image->link ? remove_link(txn, image->link, err) : 0;
	if (r == 0 && image->platform_count > 0)
		r = remove_machines(txn, image->name, err);
	return r < 0 || !image->link ? r : prune(txn, image->link, "", err);
}

int lm_metadata_remove(struct lm_txn *txn, const struct lm_inventory_image *image, struct lm_err *err)
{
	CLEANUP(lm_freep) char *dir = lm_str_printf("/" LM_SHELF_METADATA "/%s", image->name);
	int r = dir ? 0 : lm_err_oom(err);
	for (size_t i = 0; i < ARRAY_LEN(files) && r == 0; i++)
		r = remove_file(txn, dir, files[i], err);
	if (r == 0) {
		CLEANUP(lm_freep) char *last = lm_str_printf("%s/x", dir);
		r = last ? prune(txn, last, "/" LM_SHELF_METADATA, err) : lm_err_oom(err);
	}
	return r < 0 ? r : remove_links(txn, image, err);
}
