/* An OCI image layout: oci-layout, index.json, blobs/sha256/DIGITS; in a directory or in an archive. */
#include "base/str.h"
#include "oci/json.h"
#include "oci/members.h"

#include <stdio.h>
#include <string.h>

struct layout {
	struct lm_source source;
	struct lm_members *members;
	char *tag; /* NULL when not given */
};

static void layout_free(struct lm_source *source)
{
	struct layout *layout = (struct layout *)source;
	lm_members_free(layout->members);
	free(layout->tag);
	free(layout);
}

static const char *path_of(const struct layout *layout)
{
	return lm_members_path(layout->members);
}

static int layout_blob(
	struct lm_source *source, const char *digest, uint64_t size, struct lm_blob **ret, struct lm_err *err)
{
	const struct layout *layout = (struct layout *)source;
	CLEANUP(lm_blob_closep) struct lm_blob *blob = NULL;
	char name[128];
	uint64_t there;
	snprintf(name, sizeof(name), "blobs/sha256/%s", strchr(digest, ':') + 1);
	int r = lm_members_open(layout->members, name, &blob, &there, err);
	if (r < 0)
		return r;
	if (there != size)
		return lm_err_set(err, -EBADMSG, "%s/%s has %llu bytes, not %llu", path_of(layout), name,
			(unsigned long long)there, (unsigned long long)size);
	*ret = STEAL(blob);
	return 0;
}

static bool is_tagged(const struct lm_descriptor *d, const char *tag)
{
	return d->ref_name && strcmp(d->ref_name, tag) == 0;
}

static int no_tag(const struct layout *layout, const struct lm_index *index, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf list = LM_BUF(400);
	for (size_t i = 0; i < index->count; i++)
		if (index->items[i].ref_name &&
			lm_buf_printf(&list, "%s%s", list.len ? ", " : "", index->items[i].ref_name) < 0)
			break; /* a message may be incomplete */
	const char *tags = list.len ? lm_buf_cstr(&list) : "none";
	if (layout->tag)
		return lm_err_set(err, -ENOENT, "%s has no tag \"%s\" (tags: %s)", path_of(layout), layout->tag, tags);
	return lm_err_set(err, -ENOENT, "%s holds %zu images: say which by its tag (tags: %s)", path_of(layout),
		index->count, tags);
}

/* The tagged descriptor; of several with the tag, that of the platform. */
static int choose_tagged(const struct layout *layout, const struct lm_index *index, const char *tag,
	const struct lm_platform *platform, const struct lm_descriptor **ret, struct lm_err *err)
{
	/* Borrows the strings of index. */
	CLEANUP(lm_freep) struct lm_descriptor *items = calloc(index->count + 1, sizeof(*items));
	struct lm_index tagged = {.items = items};
	const struct lm_descriptor *chosen;
	size_t last = 0;
	if (!items)
		return lm_err_oom(err);
	for (size_t i = 0; i < index->count; i++)
		if (is_tagged(&index->items[i], tag)) {
			items[tagged.count++] = index->items[i];
			last = i;
		}
	if (tagged.count == 0)
		return no_tag(layout, index, err);
	if (tagged.count == 1) {
		*ret = &index->items[last];
		return 0;
	}
	int r = lm_index_choose(&tagged, platform, &chosen, err);
	for (size_t i = 0; r == 0 && i < index->count; i++)
		if (strcmp(index->items[i].digest, chosen->digest) == 0)
			*ret = &index->items[i];
	return r;
}

static int choose(const struct layout *layout, const struct lm_index *index, const struct lm_platform *platform,
	const struct lm_descriptor **ret, struct lm_err *err)
{
	if (layout->tag || index->count != 1)
		return choose_tagged(layout, index, layout->tag ? layout->tag : "latest", platform, ret, err);
	*ret = &index->items[0];
	return 0;
}

static int read_file(const struct layout *layout, const char *name, struct lm_buf *ret, struct lm_err *err)
{
	int r = lm_members_read(layout->members, name, ret, err);
	return r == -ENOENT ? lm_err_set(err, r, "%s is no OCI image layout: it has no file %s", path_of(layout), name)
			    : r;
}

static int layout_resolve(struct lm_source *source, const struct lm_platform *platform, struct lm_document *ret,
	char ret_digest[LM_DIGEST_MAX], uint64_t *ret_size, struct lm_err *err)
{
	const struct layout *layout = (struct layout *)source;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_JSON_MAX);
	CLEANUP(lm_index_done) struct lm_index index = {0};
	const struct lm_descriptor *chosen = NULL;
	int r = read_file(layout, "index.json", &text, err);
	if (r < 0)
		return r;
	r = lm_index_parse(lm_buf_cstr(&text), text.len, &index, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s/index.json", path_of(layout));
	r = choose(layout, &index, platform, &chosen, err);
	if (r < 0)
		return r;
	memcpy(ret_digest, chosen->digest, LM_DIGEST_MAX);
	*ret_size = chosen->size;
	return 0;
}

static const struct lm_source_ops layout_ops = {
	.resolve = layout_resolve,
	.blob = layout_blob,
	.free = layout_free,
};

static int check_version(const struct layout *layout, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(64 << 10);
	CLEANUP(lm_json_freep) json_t *root = NULL;
	const char *version;
	int r = read_file(layout, "oci-layout", &text, err);
	if (r == 0)
		r = lm_json_load("oci-layout", lm_buf_cstr(&text), text.len, &root, err);
	if (r == 0)
		r = lm_json_string("oci-layout", root, "imageLayoutVersion", LM_JSON_REQUIRED, &version, err);
	if (r == 0 && !lm_str_starts(version, "1."))
		return lm_err_set(
			err, -EPROTO, "%s: layout version \"%.20s\" is not understood", path_of(layout), version);
	return r;
}

static void layout_freep(struct layout **layout)
{
	if (*layout)
		layout_free(&(*layout)->source);
}

int lm_layout_open(const struct lm_reference *reference, const struct lm_access *access, struct lm_source **ret,
	struct lm_err *err)
{
	CLEANUP(layout_freep) struct layout *layout = calloc(1, sizeof(*layout));
	if (!layout)
		return lm_err_oom(err);
	layout->source.ops = &layout_ops;
	layout->tag = reference->tag ? strdup(reference->tag) : NULL;
	if (reference->tag && !layout->tag)
		return lm_err_oom(err);
	int r = reference->transport == LM_TRANSPORT_OCI
			? lm_members_dir(reference->path, &layout->members, err)
			: lm_members_archive(reference->path, access, &layout->members, err);
	if (r == 0)
		r = check_version(layout, err);
	if (r < 0)
		return r;
	*ret = &STEAL(layout)->source;
	return 0;
}
