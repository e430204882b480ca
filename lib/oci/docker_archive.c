/*
 * What `docker save`, `podman save` and skopeo's docker-archive: write: a tar with manifest.json,
 *
 *   [{"Config": NAME, "RepoTags": ["REPOSITORY:TAG", …], "Layers": [NAME, …]}, …]
 *
 * whose names are members: HEX.json and HEX/layer.tar (before Docker 25, beside VERSION, json and repositories, with
 * links in the place of layers that are there twice), HEX.tar, or blobs/sha256/HEX (since then). There is no manifest
 * of the image, so a Docker schema 2 one is made. Layers are what they are in the archive, mostly not compressed: their
 * digests are then the diff ids of the config, else they are computed.
 */
#include "base/str.h"
#include "oci/json.h"
#include "oci/members.h"

#include <stdio.h>
#include <string.h>

enum { IMAGES_MAX = 4096, TAGS_MAX = 1024, PIECE = 256 << 10 };

/* Where the bytes of a digest are. */
struct entry {
	char digest[LM_DIGEST_MAX];
	char *member; /* name in the archive */
	uint64_t size;
};

struct docker_archive {
	struct lm_source source;
	struct lm_members *members;
	char *tag;	       /* REGISTRY/REPOSITORY:TAG that is wanted, NULL: none named */
	char *index;	       /* number that is wanted, NULL: none given */
	char *name;	       /* of the image that was found, NULL: it has none */
	struct entry *entries; /* config and layers of that image */
	size_t count;
};

static void forget_entries(struct docker_archive *a)
{
	for (size_t i = 0; i < a->count; i++)
		free(a->entries[i].member);
	free(a->entries);
	a->entries = NULL;
	a->count = 0;
}

static void archive_free(struct lm_source *source)
{
	struct docker_archive *a = (struct docker_archive *)source;
	forget_entries(a);
	lm_members_free(a->members);
	free(a->tag);
	free(a->index);
	free(a->name);
	free(a);
}

static int archive_blob(
	struct lm_source *source, const char *digest, uint64_t size, struct lm_blob **ret, struct lm_err *err)
{
	const struct docker_archive *a = (struct docker_archive *)source;
	uint64_t there;
	for (size_t i = 0; i < a->count; i++)
		if (strcmp(a->entries[i].digest, digest) == 0)
			return lm_members_open(a->members, a->entries[i].member, ret, &there, err);
	return lm_err_set(err, -ENOENT, "%s: no blob %s", lm_members_path(a->members), digest);
}

/* --- which image --- */

static int full_name(const struct lm_reference *ref, char **ret, struct lm_err *err)
{
	*ret = lm_str_printf("%s/%s:%s", ref->registry, ref->repository, ref->tag);
	return *ret ? 0 : lm_err_oom(err);
}

/* "tiny" or "host/group/tiny:1" as it is compared; not a name: NULL. */
static int normal_tag(const char *tag, char **ret, struct lm_err *err)
{
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	CLEANUP(lm_freep) char *text = lm_str_printf("docker://%s", tag);
	if (!text)
		return lm_err_oom(err);
	*ret = NULL;
	int r = lm_reference_parse(text, &ref, NULL);
	return r < 0 || !ref.tag ? (r == -ENOMEM ? lm_err_oom(err) : 0) : full_name(&ref, ret, err);
}

static int get_tags(const json_t *image, json_t **ret, struct lm_err *err)
{
	if (!json_is_object(image))
		return lm_err_set(err, -EPROTO, "manifest.json: an entry is no object");
	return lm_json_array("manifest.json", image, "RepoTags", TAGS_MAX, LM_JSON_OPTIONAL, ret, err);
}

/* 1: the image has the tag. */
static int has_tag(const json_t *image, const char *wanted, struct lm_err *err)
{
	json_t *tags, *tag;
	size_t i;
	int r = get_tags(image, &tags, err);
	json_array_foreach(r == 0 ? tags : NULL, i, tag) {
		CLEANUP(lm_freep) char *name = NULL;
		if (!json_is_string(tag))
			return lm_err_set(err, -EPROTO, "manifest.json: a tag is no string");
		r = normal_tag(json_string_value(tag), &name, err);
		if (r < 0)
			return r;
		if (name && strcmp(name, wanted) == 0)
			return 1;
	}
	return r;
}

static int cannot_choose(const struct docker_archive *a, const json_t *images, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf list = LM_BUF(400);
	size_t i, k;
	json_t *image, *tag;
	json_array_foreach(images, i, image)
		json_array_foreach(json_object_get(image, "RepoTags"), k, tag)
			if (json_is_string(tag) &&
				lm_buf_printf(&list, "%s%s", list.len ? ", " : "", json_string_value(tag)) < 0)
				break; /* a message may be incomplete */
	const char *tags = list.len ? lm_buf_cstr(&list) : "none";
	const char *path = lm_members_path(a->members);
	if (a->tag)
		return lm_err_set(err, -ENOENT, "%s has no image %s (tags: %s)", path, a->tag, tags);
	if (a->index)
		return lm_err_set(err, -ENOENT, "%s has no image @%s (there are %zu, from @0 on)", path, a->index,
			json_array_size(images));
	return lm_err_set(err, -ENOENT, "%s holds %zu images: say which by its name or by @NUMBER (tags: %s)", path,
		json_array_size(images), tags);
}

static int choose(const struct docker_archive *a, const json_t *images, const json_t **ret, struct lm_err *err)
{
	size_t i;
	json_t *image;
	uint64_t number = 0;
	*ret = NULL;
	if (a->index && lm_str_u64(a->index, strlen(a->index), &number) == 0 && number < json_array_size(images))
		*ret = json_array_get(images, number);
	else if (!a->index && !a->tag && json_array_size(images) == 1)
		*ret = json_array_get(images, 0);
	json_array_foreach(a->tag ? images : NULL, i, image) {
		int r = has_tag(image, a->tag, err);
		if (r < 0)
			return r;
		if (r > 0 && !*ret)
			*ret = image;
	}
	return *ret ? 0 : cannot_choose(a, images, err);
}

static int set_name(struct docker_archive *a, const json_t *image, struct lm_err *err)
{
	json_t *tags;
	int r = get_tags(image, &tags, err);
	const char *first = r == 0 ? json_string_value(json_array_get(tags, 0)) : NULL;
	free(STEAL(a->name));
	if (r < 0)
		return r;
	if (!a->tag)
		return first ? normal_tag(first, &a->name, err) : 0;
	a->name = strdup(a->tag);
	return a->name ? 0 : lm_err_oom(err);
}

/* --- the manifest that is made --- */

static int hash_member(const struct docker_archive *a, const char *member, char ret[LM_DIGEST_MAX], struct lm_err *err)
{
	CLEANUP(lm_blob_closep) struct lm_blob *blob = NULL;
	CLEANUP(lm_digester_freep) struct lm_digester *digester = NULL;
	CLEANUP(lm_freep) void *piece = malloc(PIECE);
	uint64_t size;
	if (!piece)
		return lm_err_oom(err);
	int r = lm_members_open(a->members, member, &blob, &size, err);
	if (r == 0)
		r = lm_digester_new(&digester, err);
	for (ssize_t n = 1; r == 0 && n > 0;) {
		n = blob->ops->read(blob, piece, PIECE, err);
		r = n < 0 ? (int)n : lm_digester_update(digester, piece, (size_t)n, err);
	}
	return r < 0 ? r : lm_digester_finish(digester, ret, err);
}

/* By its first bytes; the suffix of its media type. */
static int sniff(const struct docker_archive *a, struct entry *e, const char **ret_suffix, struct lm_err *err)
{
	CLEANUP(lm_blob_closep) struct lm_blob *blob = NULL;
	uint8_t head[4] = {0};
	int r = lm_members_open(a->members, e->member, &blob, &e->size, err);
	ssize_t n = r == 0 ? blob->ops->read(blob, head, sizeof(head), err) : 0;
	if (r < 0 || n < 0)
		return r < 0 ? r : (int)n;
	*ret_suffix = head[0] == 0x1f && head[1] == 0x8b	 ? ".gzip"
		      : memcmp(head, "\x28\xb5\x2f\xfd", 4) == 0 ? ".zstd"
								 : "";
	return 0;
}

/* blobs/sha256/HEX says itself what it is; reading verifies that. */
static bool named_by_digest(const char *member, char ret[LM_DIGEST_MAX])
{
	static const char folder[] = "blobs/sha256/";
	if (!lm_str_starts(member, folder) || strlen(member) != strlen(folder) + 64)
		return false;
	snprintf(ret, LM_DIGEST_MAX, "sha256:%.64s", member + strlen(folder));
	return lm_digest_valid(ret);
}

static int set_member(struct entry *e, const json_t *name, struct lm_err *err)
{
	const char *text = json_string_value(name);
	if (!text || !*text)
		return lm_err_set(err, -EPROTO, "manifest.json: a name of a member is missing or no string");
	e->member = strdup(text);
	return e->member ? 0 : lm_err_oom(err);
}

static int describe_layer(struct docker_archive *a, struct entry *e, const json_t *name, const json_t *diff_id,
	json_t *layers, struct lm_err *err)
{
	const char *suffix = "", *id = json_string_value(diff_id);
	int r = set_member(e, name, err);
	if (r == 0)
		r = sniff(a, e, &suffix, err);
	if (r < 0)
		return r;
	if (!id || !lm_digest_valid(id))
		return lm_err_set(err, -EPROTO, "the config: a diff id is no SHA-256 digest");
	if (!*suffix)
		memcpy(e->digest, id, LM_DIGEST_MAX);
	else if (!named_by_digest(e->member, e->digest))
		r = hash_member(a, e->member, e->digest, err);
	if (r < 0)
		return r;
	char type[80];
	snprintf(type, sizeof(type), "application/vnd.docker.image.rootfs.diff.tar%s", suffix);
	json_t *layer =
		json_pack("{s:s, s:I, s:s}", "mediaType", type, "size", (json_int_t)e->size, "digest", e->digest);
	return json_array_append_new(layers, layer) < 0 ? lm_err_oom(err) : 0;
}

static int describe_layers(
	struct docker_archive *a, const json_t *names, const json_t *diff_ids, json_t *layers, struct lm_err *err)
{
	size_t i;
	json_t *name;
	if (json_array_size(names) != json_array_size(diff_ids))
		return lm_err_set(err, -EPROTO, "manifest.json names %zu layers, the config %zu",
			json_array_size(names), json_array_size(diff_ids));
	json_array_foreach(names, i, name) {
		struct entry *e = &a->entries[a->count++];
		int r = describe_layer(a, e, name, json_array_get(diff_ids, i), layers, err);
		if (r < 0)
			return lm_err_prefix(err, r, "layer %zu", i);
	}
	return 0;
}

/* The config's digest and size, and its diff ids (borrowed from *ret_config). */
static int read_config(
	struct docker_archive *a, struct entry *e, json_t **ret_config, json_t **ret_ids, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_JSON_MAX);
	json_t *rootfs;
	int r = lm_members_read(a->members, e->member, &text, err);
	if (r == 0)
		r = lm_digest_data(text.data, text.len, e->digest, err);
	if (r == 0)
		r = lm_json_load("config", lm_buf_cstr(&text), text.len, ret_config, err);
	if (r == 0)
		r = lm_json_object("config", *ret_config, "rootfs", LM_JSON_REQUIRED, &rootfs, err);
	if (r == 0)
		r = lm_json_array("config", rootfs, "diff_ids", LM_IMAGE_LAYERS_MAX, LM_JSON_REQUIRED, ret_ids, err);
	e->size = text.len;
	return r;
}

static int make_manifest(struct docker_archive *a, const json_t *image, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *config = NULL, *layers = json_array();
	json_t *names, *ids;
	int r = lm_json_array("manifest.json", image, "Layers", LM_IMAGE_LAYERS_MAX, LM_JSON_REQUIRED, &names, err);
	if (r < 0)
		return r;
	a->entries = calloc(json_array_size(names) + 1, sizeof(*a->entries));
	if (!a->entries || !layers)
		return lm_err_oom(err);
	struct entry *e = &a->entries[a->count++];
	r = set_member(e, json_object_get(image, "Config"), err);
	if (r == 0)
		r = read_config(a, e, &config, &ids, err);
	if (r == 0)
		r = describe_layers(a, names, ids, layers, err);
	if (r < 0)
		return r;
	CLEANUP(lm_json_freep)
	json_t *manifest = json_pack("{s:i, s:s, s:{s:s, s:I, s:s}, s:O}", "schemaVersion", 2, "mediaType",
		"application/vnd.docker.distribution.manifest.v2+json", "config", "mediaType",
		"application/vnd.docker.container.image.v1+json", "size", (json_int_t)e->size, "digest", e->digest,
		"layers", layers);
	return lm_json_write(manifest, JSON_COMPACT, ret) < 0 ? lm_err_oom(err) : 0;
}

/* manifest.json is a list; what reads JSON here wants an object. */
static int load_list(const struct docker_archive *a, json_t **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_JSON_MAX);
	static const char before[] = "{\"images\":", after[] = "}";
	int r = lm_buf_str(&text, before);
	if (r == 0)
		r = lm_members_read(a->members, "manifest.json", &text, err);
	if (r == -ENOENT)
		return lm_err_set(err, r,
			"%s has no manifest.json: it is no docker-archive, or from before Docker 1.10 (an OCI layout "
			"in a tar is an oci-archive)",
			lm_members_path(a->members));
	if (r == 0 && lm_buf_str(&text, after) < 0)
		r = lm_err_oom(err);
	return r < 0 ? r : lm_json_load("manifest.json", lm_buf_cstr(&text), text.len, ret, err);
}

static int archive_resolve(struct lm_source *source, const struct lm_platform *platform, struct lm_document *ret,
	char ret_digest[LM_DIGEST_MAX], uint64_t *ret_size, struct lm_err *err)
{
	struct docker_archive *a = (struct docker_archive *)source;
	CLEANUP(lm_json_freep) json_t *root = NULL;
	const json_t *image;
	json_t *images;
	forget_entries(a);
	int r = load_list(a, &root, err);
	if (r == 0)
		r = lm_json_array("manifest.json", root, "images", IMAGES_MAX, LM_JSON_REQUIRED, &images, err);
	if (r == 0)
		r = choose(a, images, &image, err);
	if (r == 0)
		r = set_name(a, image, err);
	if (r == 0)
		r = make_manifest(a, image, &ret->text, err);
	return r;
}

static const char *archive_name(const struct lm_source *source)
{
	return ((const struct docker_archive *)source)->name;
}

static const struct lm_source_ops archive_ops = {
	.resolve = archive_resolve,
	.blob = archive_blob,
	.name = archive_name,
	.free = archive_free,
};

int lm_docker_archive_open(const struct lm_reference *reference, const struct lm_access *access, struct lm_source **ret,
	struct lm_err *err)
{
	struct docker_archive *a = calloc(1, sizeof(*a));
	if (!a)
		return lm_err_oom(err);
	CLEANUP(lm_source_freep) struct lm_source *source = &a->source;
	source->ops = &archive_ops;
	int r = lm_members_archive(reference->path, access, &a->members, err);
	if (r == 0 && reference->repository)
		r = full_name(reference, &a->tag, err);
	if (r < 0)
		return r;
	a->index = reference->index ? strdup(reference->index) : NULL;
	if (reference->index && !a->index)
		return lm_err_oom(err);
	*ret = STEAL(source);
	return 0;
}
