#include "convert/flat.h"

#include "base/clock.h"
#include "base/str.h"
#include "common.h"
#include "convert/apptainer.h"
#include "convert/layer_catalog.h"
#include "convert/merge.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FLAT "/.flat"

struct lm_layer_path lm_flat_path(const char *config_digest)
{
	const char *hex = strchr(config_digest, ':') + 1;
	struct lm_layer_path path;
	snprintf(path.s, sizeof(path.s), FLAT "/%.2s/%s", hex, hex);
	return path;
}

/* --- the tree --- */

static void say_loss(void *arg, const char *path, const char *what)
{
	const struct lm_flat_job *job = arg;
	lm_cli_error("flat tree of %.19s: %s: %s", job->image->config_digest, path, what);
}

static int store_nested(
	void *arg, const char *mountpoint, const char *db_path, struct lm_finished *ret, struct lm_err *err)
{
	const struct lm_flat_job *job = arg;
	return lm_txn_store_nested(job->txn, mountpoint, db_path, ret, err);
}

static int write_catalogs(const struct lm_flat_job *job, struct lm_layer_tree *tree, const char *db_path,
	struct lm_counters *ret, struct lm_err *err)
{
	const struct lm_layer_path mountpoint = lm_flat_path(job->image->config_digest);
	const struct lm_layer_store store = {store_nested, (void *)job};
	const struct lm_layer_loss loss = {say_loss, (void *)job};
	struct lm_layer_content content = {
		.mountpoint = mountpoint.s, .flat = true, .tree = tree, .time_s = lm_wall_s()};
	int r = lm_packing_data(job->packing, "", 0, &content.nothing, err);
	if (r == 0)
		r = lm_apptainer_add(tree, job->image, job->packing, content.time_s, &loss, err);
	return r < 0 ? r : lm_layer_catalog_write(db_path, &content, &lm_layer_limits, &store, &loss, ret, err);
}

static int graft(const struct lm_flat_job *job, struct lm_layer_tree *tree, struct lm_counters *ret, struct lm_err *err)
{
	const struct lm_layer_path path = lm_flat_path(job->image->config_digest);
	char parent[LM_LAYER_PATH_TEXT_MAX];
	snprintf(parent, sizeof(parent), "%.*s", (int)strlen(FLAT "/xx"), path.s);
	CLEANUP(lm_freep)
	char *db_path = lm_str_printf("%s/flat-%s", lm_txn_scratch(job->txn), job->image->config_digest + 7);
	if (!db_path)
		return lm_err_oom(err);
	int r = write_catalogs(job, tree, db_path, ret, err);
	if (r == 0)
		r = lm_txn_mkdirs(job->txn, FLAT, true, err);
	if (r == 0)
		r = lm_txn_mkdirs(job->txn, parent, false, err);
	if (r == 0)
		r = lm_txn_graft(job->txn, path.s, db_path, err);
	(void)unlink(db_path);
	return r;
}

static int make(const struct lm_flat_job *job, struct lm_counters *ret, struct lm_err *err)
{
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = NULL;
	int r = lm_merge_image(job->txn, job->storage, job->image, LM_MERGE_FLAT, &tree, err);
	return r < 0 ? r : graft(job, tree, ret, err);
}

int lm_flat_make(const struct lm_flat_job *job, struct lm_flat_report *ret, struct lm_err *err)
{
	struct lm_counters counters;
	int64_t start_ms = lm_now_ms();
	int r = lm_txn_has(job->txn, lm_flat_path(job->image->config_digest).s, err);
	if (r > 0)
		*ret = (struct lm_flat_report){0};
	if (r != 0)
		return r < 0 ? r : 0;
	r = make(job, &counters, err);
	if (r < 0)
		return lm_err_prefix(err, r, "flat tree");
	*ret = (struct lm_flat_report){
		.made = true,
		.entries = counters.regular + counters.dir + counters.symlink + counters.special,
		.ms = lm_now_ms() - start_ms,
	};
	return 0;
}
