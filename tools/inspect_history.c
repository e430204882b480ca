/* `lamella inspect history`, `reflog` and `metainfo`. */
#include "base/file.h"
#include "inspect.h"
#include "repo/object_store.h"
#include "repo/reflog.h"

#include <jansson.h>
#include <string.h>

enum { METAINFO_MAX = 1 << 20 };

/* --- history --- */

static int show_tag(void *arg, const struct lm_tag *tag)
{
	struct lm_out *out = arg;
	lm_out_item(out);
	lm_out_text(out, "name", tag->name, strlen(tag->name));
	lm_out_number(out, "revision", tag->revision);
	lm_out_time(out, "time", tag->time_s);
	lm_out_hash(out, "root_catalog", &tag->hash);
	lm_out_number(out, "root_catalog_bytes", tag->size);
	lm_out_text(out, "branch", tag->branch, strlen(tag->branch));
	lm_out_text(out, "description", tag->description, strlen(tag->description));
	lm_out_close(out);
	return 0;
}

int lm_inspect_show_history(struct lm_inspect *i, struct lm_err *err)
{
	CLEANUP(lm_repo_source_dropp) char *path = NULL;
	struct lm_manifest m;
	int r = lm_inspect_manifest(i, &m, err);
	if (r < 0)
		return r;
	if (!m.history.set)
		return lm_err_set(err, -ENOENT, "the manifest names no history");
	lm_out_hash(&i->out, "history", &m.history);
	r = lm_repo_source_database(&i->source, &m.history, LM_OBJECT_HISTORY, &path, err);
	if (r < 0)
		return r;
	lm_out_list(&i->out, "tags", "tag");
	r = lm_history_each(path, show_tag, &i->out, err);
	lm_out_close(&i->out);
	return r;
}

/* --- reflog --- */

static int show_ref(void *arg, const struct lm_ref *ref)
{
	static const char *const types[] = {"catalog", "certificate", "history", "metainfo"};
	struct lm_out *out = arg;
	lm_out_item(out);
	lm_out_word(out, "type", "%s", types[ref->type]);
	lm_out_hash(out, "hash", &ref->hash);
	lm_out_time(out, "time", ref->time_s);
	lm_out_close(out);
	return 0;
}

/* The reflog is stored as it is, so a temporary file of its own is all that is needed. */
static int fetch_reflog(
	struct lm_inspect *i, enum lm_hash_algo algo, char **ret_path, struct lm_hash *ret_hash, struct lm_err *err)
{
	CLEANUP(lm_repo_source_dropp) char *path = NULL;
	CLEANUP(lm_closep) int fd = lm_tmp_named(&path, err);
	if (fd < 0)
		return fd;
	int r = i->source.storage->ops->get_file(i->source.storage, LM_REFLOG_NAME, fd, err);
	if (r == 0)
		r = lm_hash_fd(algo, fd, ret_hash, err);
	if (r == 0)
		*ret_path = STEAL(path);
	return r;
}

int lm_inspect_show_reflog(struct lm_inspect *i, struct lm_err *err)
{
	CLEANUP(lm_repo_source_dropp) char *path = NULL;
	struct lm_manifest m;
	struct lm_hash hash;
	int r = lm_inspect_manifest(i, &m, err);
	if (r == 0)
		r = fetch_reflog(i, m.reflog.set ? m.reflog.algo : m.catalog.algo, &path, &hash, err);
	if (r < 0)
		return r;
	lm_out_hash(&i->out, "reflog", &hash);
	lm_out_hash(&i->out, "named_by_manifest", &m.reflog);
	if (m.reflog.set)
		lm_out_flag(&i->out, "is_that_one", lm_hash_equal(&m.reflog, &hash));
	lm_out_list(&i->out, "references", "reference");
	r = lm_reflog_each(path, show_ref, &i->out, err);
	lm_out_close(&i->out);
	return r;
}

/* --- metainfo --- */

int lm_inspect_show_metainfo(struct lm_inspect *i, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(METAINFO_MAX);
	struct lm_manifest m;
	json_error_t why;
	int r = lm_inspect_manifest(i, &m, err);
	if (r < 0)
		return r;
	if (!m.metainfo.set)
		return lm_err_set(err, -ENOENT, "the manifest names no metainfo");
	lm_out_hash(&i->out, "metainfo", &m.metainfo);
	r = lm_object_load(i->source.storage, &m.metainfo, LM_OBJECT_METAINFO, LM_COMPRESSION_ZLIB, &text, err);
	if (r < 0)
		return r;
	json_t *json = json_loadb(lm_buf_cstr(&text), text.len, 0, &why);
	if (!json)
		return lm_err_set(err, -EPROTO, "metainfo, line %d: %s", why.line, why.text);
	CLEANUP(lm_freep) char *shown = json_dumps(json, JSON_INDENT(2) | JSON_ENSURE_ASCII);
	json_decref(json);
	if (!shown)
		return lm_err_oom(err);
	lm_out_raw(&i->out, "content", shown);
	return 0;
}
