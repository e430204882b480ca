#include "oci/image.h"

#include "base/str.h"
#include "oci/digest.h"
#include "oci/json.h"
#include "oci/reference.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>
#include <sys/utsname.h>

enum { INDEX_ITEMS_MAX = 4096, TEXT_MAX = 512 };

#define OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define OCI_INDEX "application/vnd.oci.image.index.v1+json"
#define DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define DOCKER_LIST "application/vnd.docker.distribution.manifest.list.v2+json"
#define OCI_CONFIG "application/vnd.oci.image.config.v1+json"
#define STARGZ_TOC "containerd.io/snapshot/stargz/toc.digest"
#define DOCKER_CONFIG "application/vnd.docker.container.image.v1+json"

enum kind { KIND_UNKNOWN, KIND_IMAGE, KIND_INDEX, KIND_SCHEMA1 };

static const struct {
	const char *media_type;
	enum kind kind;
} kinds[] = {
	{OCI_MANIFEST, KIND_IMAGE},
	{DOCKER_MANIFEST, KIND_IMAGE},
	{OCI_INDEX, KIND_INDEX},
	{DOCKER_LIST, KIND_INDEX},
	{"application/vnd.docker.distribution.manifest.v1+json", KIND_SCHEMA1},
	{"application/vnd.docker.distribution.manifest.v1+prettyjws", KIND_SCHEMA1},
};

static const struct {
	const char *media_type;
	enum lm_layer_compression compression;
} layer_types[] = {
	{"application/vnd.oci.image.layer.v1.tar", LM_LAYER_NONE},
	{"application/vnd.oci.image.layer.v1.tar+gzip", LM_LAYER_GZIP},
	{"application/vnd.oci.image.layer.v1.tar+zstd", LM_LAYER_ZSTD},
	{"application/vnd.docker.image.rootfs.diff.tar", LM_LAYER_NONE},
	{"application/vnd.docker.image.rootfs.diff.tar.gzip", LM_LAYER_GZIP},
	{"application/vnd.docker.image.rootfs.diff.tar.zstd", LM_LAYER_ZSTD},
};

void lm_image_done(struct lm_image *image)
{
	for (size_t i = 0; i < image->layer_count; i++)
		free(image->layers[i].media_type);
	free(image->layers);
	lm_buf_done(&image->manifest);
	lm_buf_done(&image->config);
	lm_buf_done(&image->index);
	free(image->manifest_type);
	free(image->config_type);
	free(image->created);
	free(image->os);
	free(image->architecture);
	free(image->variant);
	*image = (struct lm_image){0};
}

void lm_index_done(struct lm_index *index)
{
	for (size_t i = 0; i < index->count; i++) {
		struct lm_descriptor *d = &index->items[i];
		free(d->media_type);
		free(d->ref_name);
		free(d->os);
		free(d->architecture);
		free(d->variant);
	}
	free(index->items);
	*index = (struct lm_index){0};
}

/* A Content-Type may have parameters after the type. */
static enum kind kind_of(const char *media_type)
{
	size_t len = strcspn(media_type, "; \t");
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
		if (strlen(kinds[i].media_type) == len && strncasecmp(kinds[i].media_type, media_type, len) == 0)
			return kinds[i].kind;
	return KIND_UNKNOWN;
}

/* What the document calls itself, else what its shape says. */
static int kind_inside(const json_t *root, enum kind *ret, struct lm_err *err)
{
	const char *media_type;
	int r = lm_json_string("manifest", root, "mediaType", LM_JSON_OPTIONAL, &media_type, err);
	if (r < 0)
		return r;
	bool index = json_object_get(root, "manifests");
	bool image = json_object_get(root, "layers") || json_object_get(root, "config");
	if (index && image)
		return lm_err_set(err, -EPROTO, "manifest: could be read both as an image and as an index");
	if (json_object_get(root, "fsLayers"))
		*ret = KIND_SCHEMA1;
	else if (media_type)
		*ret = kind_of(media_type);
	else
		*ret = index ? KIND_INDEX : image ? KIND_IMAGE : KIND_UNKNOWN;
	if (*ret == KIND_UNKNOWN)
		return lm_err_set(
			err, -EPROTO, "manifest: type \"%s\" is not understood", media_type ? media_type : "");
	return 0;
}

int lm_manifest_kind(const char *json, size_t len, const char *media_type, bool *ret_is_index, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *root = NULL;
	enum kind inside = KIND_UNKNOWN, outside = media_type ? kind_of(media_type) : KIND_UNKNOWN;
	int r = lm_json_load("manifest", json, len, &root, err);
	if (r == 0)
		r = kind_inside(root, &inside, err);
	if (r < 0)
		return r;
	if (inside == KIND_SCHEMA1)
		return lm_err_set(err, -EPROTO, "manifest: Docker schema 1 is not understood: push the image anew");
	if (outside != KIND_UNKNOWN && outside != inside)
		return lm_err_set(err, -EPROTO, "manifest: announced as %s, which it is not", media_type);
	*ret_is_index = inside == KIND_INDEX;
	return 0;
}

static int check_schema(const char *what, const json_t *root, struct lm_err *err)
{
	uint64_t version = 0;
	int r = lm_json_u64(what, root, "schemaVersion", &version, err);
	if (r == 0 && version != 2)
		return lm_err_set(
			err, -EPROTO, "%s: schema version %llu is not understood", what, (unsigned long long)version);
	return r;
}

static int get_digest(const char *what, const json_t *object, char ret[LM_DIGEST_MAX], struct lm_err *err)
{
	const char *digest;
	int r = lm_json_string(what, object, "digest", LM_JSON_REQUIRED, &digest, err);
	if (r < 0)
		return r;
	if (!lm_digest_valid(digest))
		return lm_err_set(err, -EPROTO, "%s: \"%.100s\" is no SHA-256 digest", what, digest);
	memcpy(ret, digest, strlen(digest) + 1);
	return 0;
}

/* A short text without control characters, copied; absent: NULL. */
static int dup_string(
	const char *what, const json_t *object, const char *key, enum lm_json_need need, char **ret, struct lm_err *err)
{
	const char *text;
	int r = lm_json_string(what, object, key, need, &text, err);
	if (r < 0 || !text)
		return r;
	size_t len = 0;
	while (len <= TEXT_MAX && (unsigned char)text[len] >= ' ' && text[len] != 0x7f)
		len++;
	if (text[len] != '\0')
		return lm_err_set(err, -EPROTO, "%s: \"%s\" is too long or has control characters", what, key);
	*ret = strdup(text);
	return *ret ? 0 : lm_err_oom(err);
}

static int dup_platform(
	const char *what, const json_t *object, char **os, char **architecture, char **variant, struct lm_err *err)
{
	int r = dup_string(what, object, "os", LM_JSON_OPTIONAL, os, err);
	if (r == 0)
		r = dup_string(what, object, "architecture", LM_JSON_OPTIONAL, architecture, err);
	return r < 0 ? r : dup_string(what, object, "variant", LM_JSON_OPTIONAL, variant, err);
}

static int parse_descriptor(const json_t *item, struct lm_descriptor *d, struct lm_err *err)
{
	static const char what[] = "index";
	json_t *platform = NULL, *annotations = NULL;
	int r = dup_string(what, item, "mediaType", LM_JSON_OPTIONAL, &d->media_type, err);
	if (r == 0)
		r = get_digest(what, item, d->digest, err);
	if (r == 0)
		r = lm_json_u64(what, item, "size", &d->size, err);
	if (r == 0)
		r = lm_json_object(what, item, "platform", LM_JSON_OPTIONAL, &platform, err);
	if (r == 0 && platform)
		r = dup_platform(what, platform, &d->os, &d->architecture, &d->variant, err);
	if (r == 0)
		r = lm_json_object(what, item, "annotations", LM_JSON_OPTIONAL, &annotations, err);
	if (r == 0 && annotations)
		r = dup_string(
			what, annotations, "org.opencontainers.image.ref.name", LM_JSON_OPTIONAL, &d->ref_name, err);
	return r;
}

int lm_index_parse(const char *json, size_t len, struct lm_index *ret, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *root = NULL;
	CLEANUP(lm_index_done) struct lm_index index = {0};
	json_t *items, *item;
	size_t i;
	int r = lm_json_load("index", json, len, &root, err);
	if (r == 0)
		r = check_schema("index", root, err);
	if (r == 0)
		r = lm_json_array("index", root, "manifests", INDEX_ITEMS_MAX, LM_JSON_REQUIRED, &items, err);
	if (r < 0)
		return r;
	index.items = calloc(json_array_size(items) + 1, sizeof(*index.items));
	if (!index.items)
		return lm_err_oom(err);
	json_array_foreach(items, i, item) {
		if (!json_is_object(item))
			return lm_err_set(err, -EPROTO, "index: entry %zu is no object", i);
		index.count = i + 1;
		r = parse_descriptor(item, &index.items[i], err);
		if (r < 0)
			return lm_err_prefix(err, r, "entry %zu", i);
	}
	*ret = index;
	index = (struct lm_index){0};
	return 0;
}

static int no_platform(const struct lm_index *index, const struct lm_platform *p, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf list = LM_BUF(256);
	for (size_t i = 0; i < index->count; i++) {
		const struct lm_descriptor *d = &index->items[i];
		if (d->os && d->architecture &&
			lm_buf_printf(&list, "%s%s/%s%s%s", list.len ? ", " : "", d->os, d->architecture,
				d->variant ? "/" : "", d->variant ? d->variant : "") < 0)
			break; /* a message may be incomplete */
	}
	return lm_err_set(err, -ENOENT, "no image for platform %s/%s%s%s (there are: %s)", p->os, p->architecture,
		p->variant ? "/" : "", p->variant ? p->variant : "", list.len ? lm_buf_cstr(&list) : "none");
}

bool lm_index_names(const char *json, size_t len, const char *digest)
{
	CLEANUP(lm_index_done) struct lm_index index = {0};
	if (lm_index_parse(json, len, &index, NULL) < 0)
		return false;
	for (size_t i = 0; i < index.count; i++)
		if (strcmp(index.items[i].digest, digest) == 0)
			return true;
	return false;
}

int lm_index_type(const char *json, size_t len, char **ret, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *root = NULL;
	char *type = NULL;
	int r = lm_json_load("index", json, len, &root, err);
	if (r == 0)
		r = dup_string("index", root, "mediaType", LM_JSON_OPTIONAL, &type, err);
	if (r == 0 && !type && !(type = strdup(OCI_INDEX)))
		r = lm_err_oom(err);
	if (r == 0)
		*ret = type;
	return r;
}

int lm_index_choose(const struct lm_index *index, const struct lm_platform *platform, const struct lm_descriptor **ret,
	struct lm_err *err)
{
	int best = -1;
	for (size_t i = 0; i < index->count; i++) {
		const struct lm_descriptor *d = &index->items[i];
		if (!d->os || !d->architecture)
			continue;
		int rank = lm_platform_rank(platform, &(struct lm_platform){d->os, d->architecture, d->variant});
		if (rank >= 0 && (best < 0 || rank < best)) {
			best = rank;
			*ret = d;
		}
	}
	if (best >= 0)
		return 0;
	if (index->count != 1 || index->items[0].os || index->items[0].architecture)
		return no_platform(index, platform, err);
	*ret = &index->items[0];
	return 0;
}

static int layer_compression(const char *media_type, enum lm_layer_compression *ret, struct lm_err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(layer_types); i++)
		if (strcmp(layer_types[i].media_type, media_type) == 0) {
			*ret = layer_types[i].compression;
			return 0;
		}
	if (strstr(media_type, ".nondistributable.") || strstr(media_type, ".foreign."))
		return lm_err_set(err, -EPROTO, "%s: a foreign layer, which the registry does not hold", media_type);
	if (lm_str_ends(media_type, "+encrypted"))
		return lm_err_set(err, -EPROTO, "%s: encrypted layers cannot be read", media_type);
	return lm_err_set(err, -EPROTO, "%s: no layer of files that is understood", media_type);
}

static int parse_annotations(const json_t *item, struct lm_layer *layer, struct lm_err *err)
{
	json_t *annotations;
	const char *toc = NULL;
	int r = lm_json_object("manifest", item, "annotations", LM_JSON_OPTIONAL, &annotations, err);
	if (r == 0 && annotations)
		r = lm_json_string("manifest", annotations, STARGZ_TOC, LM_JSON_OPTIONAL, &toc, err);
	layer->stargz = toc != NULL;
	return r;
}

static int parse_layer(const json_t *item, struct lm_layer *layer, struct lm_err *err)
{
	int r = dup_string("manifest", item, "mediaType", LM_JSON_REQUIRED, &layer->media_type, err);
	if (r == 0)
		r = layer_compression(layer->media_type, &layer->compression, err);
	if (r == 0)
		r = get_digest("manifest", item, layer->digest, err);
	if (r == 0)
		r = parse_annotations(item, layer, err);
	return r < 0 ? r : lm_json_u64("manifest", item, "size", &layer->size, err);
}

static int parse_layers(const json_t *root, struct lm_image *image, struct lm_err *err)
{
	json_t *items, *item;
	size_t i;
	int r = lm_json_array("manifest", root, "layers", LM_IMAGE_LAYERS_MAX, LM_JSON_REQUIRED, &items, err);
	if (r < 0)
		return r;
	image->layers = calloc(json_array_size(items) + 1, sizeof(*image->layers));
	if (!image->layers)
		return lm_err_oom(err);
	json_array_foreach(items, i, item) {
		if (!json_is_object(item))
			return lm_err_set(err, -EPROTO, "manifest: layer %zu is no object", i);
		image->layer_count = i + 1;
		r = parse_layer(item, &image->layers[i], err);
		if (r < 0)
			return lm_err_prefix(err, r, "layer %zu", i);
	}
	return 0;
}

static int parse_config_descriptor(const json_t *root, struct lm_image *image, struct lm_err *err)
{
	json_t *config;
	int r = lm_json_object("manifest", root, "config", LM_JSON_REQUIRED, &config, err);
	if (r == 0)
		r = dup_string("manifest", config, "mediaType", LM_JSON_REQUIRED, &image->config_type, err);
	if (r < 0)
		return r;
	if (strcmp(image->config_type, OCI_CONFIG) != 0 && strcmp(image->config_type, DOCKER_CONFIG) != 0)
		return lm_err_set(err, -EPROTO, "manifest: no container image (config of type %s)", image->config_type);
	r = get_digest("manifest", config, image->config_digest, err);
	if (r == 0)
		r = lm_json_u64("manifest", config, "size", &image->config_size, err);
	if (r == 0 && image->config_size > LM_MANIFEST_JSON_MAX)
		return lm_err_set(err, -EPROTO, "manifest: a config of %llu bytes (%d are allowed)",
			(unsigned long long)image->config_size, LM_MANIFEST_JSON_MAX);
	return r;
}

/* OCI manifests need not name their type; the config then tells nothing against OCI. */
static int set_manifest_type(const json_t *root, struct lm_image *image, struct lm_err *err)
{
	int r = dup_string("manifest", root, "mediaType", LM_JSON_OPTIONAL, &image->manifest_type, err);
	if (r < 0 || image->manifest_type)
		return r;
	image->manifest_type = strdup(OCI_MANIFEST);
	return image->manifest_type ? 0 : lm_err_oom(err);
}

int lm_image_parse_manifest(const char *json, size_t len, struct lm_image *ret, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *root = NULL;
	CLEANUP(lm_image_done) struct lm_image image = {0};
	enum kind kind = KIND_UNKNOWN;
	int r = lm_json_load("manifest", json, len, &root, err);
	if (r == 0)
		r = check_schema("manifest", root, err);
	if (r == 0)
		r = kind_inside(root, &kind, err);
	if (r == 0 && kind != KIND_IMAGE)
		r = lm_err_set(err, -EPROTO, "manifest: not that of an image");
	if (r == 0)
		r = set_manifest_type(root, &image, err);
	if (r == 0)
		r = parse_config_descriptor(root, &image, err);
	if (r == 0)
		r = parse_layers(root, &image, err);
	if (r < 0)
		return r;
	*ret = image;
	image = (struct lm_image){0};
	return 0;
}

/* "2024-01-02T03:04:05.678Z" or with an offset: d stands for a digit. */
static bool rfc3339_valid(const char *text)
{
	static const char date[] = "dddd-dd-ddTdd:dd:dd", offset[] = "dd:dd";
	const char *at = text;
	for (const char *p = date; *p; p++, at++)
		if (*p == 'd' ? !isdigit((unsigned char)*at) : *at != *p)
			return false;
	if (*at == '.') {
		at++;
		if (!isdigit((unsigned char)*at))
			return false;
		at += strspn(at, "0123456789");
	}
	if (*at == 'Z')
		return at[1] == '\0';
	if (*at != '+' && *at != '-')
		return false;
	at++;
	for (const char *p = offset; *p; p++, at++)
		if (*p == 'd' ? !isdigit((unsigned char)*at) : *at != *p)
			return false;
	return *at == '\0';
}

/* What a config says, beside the image until all of it is known to be good. */
struct config {
	char *created, *os, *architecture, *variant;
	struct lm_layer *layers; /* only diff_id and chain_id */
};

static void config_done(struct config *c)
{
	free(c->created);
	free(c->os);
	free(c->architecture);
	free(c->variant);
	free(c->layers);
}

/* ChainID(0) is the first diff id; ChainID(n) the digest of "ChainID(n-1) DIFFID(n)". */
static int set_chain_id(struct lm_layer *layers, size_t i, struct lm_err *err)
{
	char pair[2 * LM_DIGEST_MAX];
	if (i == 0) {
		memcpy(layers[0].chain_id, layers[0].diff_id, LM_DIGEST_MAX);
		return 0;
	}
	int len = snprintf(pair, sizeof(pair), "%s %s", layers[i - 1].chain_id, layers[i].diff_id);
	return lm_digest_data(pair, (size_t)len, layers[i].chain_id, err);
}

static int parse_rootfs(const json_t *root, size_t layer_count, struct config *c, struct lm_err *err)
{
	json_t *rootfs, *ids, *id;
	const char *type;
	size_t i;
	int r = lm_json_object("config", root, "rootfs", LM_JSON_REQUIRED, &rootfs, err);
	if (r == 0)
		r = lm_json_string("config", rootfs, "type", LM_JSON_REQUIRED, &type, err);
	if (r == 0 && strcmp(type, "layers") != 0)
		r = lm_err_set(err, -EPROTO, "config: a root file system of type \"%.50s\"", type);
	if (r == 0)
		r = lm_json_array("config", rootfs, "diff_ids", LM_IMAGE_LAYERS_MAX, LM_JSON_REQUIRED, &ids, err);
	if (r < 0)
		return r;
	if (json_array_size(ids) != layer_count)
		return lm_err_set(
			err, -EPROTO, "config: %zu layers, but %zu in the manifest", json_array_size(ids), layer_count);
	c->layers = calloc(layer_count + 1, sizeof(*c->layers));
	if (!c->layers)
		return lm_err_oom(err);
	json_array_foreach(ids, i, id) {
		const char *text = json_string_value(id);
		if (!text || !lm_digest_valid(text))
			return lm_err_set(err, -EPROTO, "config: diff id %zu is no SHA-256 digest", i);
		memcpy(c->layers[i].diff_id, text, LM_DIGEST_MAX);
		r = set_chain_id(c->layers, i, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int lm_image_parse_config(struct lm_image *image, const char *json, size_t len, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *root = NULL;
	CLEANUP(config_done) struct config c = {0};
	int r = lm_json_load("config", json, len, &root, err);
	if (r == 0)
		r = dup_platform("config", root, &c.os, &c.architecture, &c.variant, err);
	if (r == 0)
		r = dup_string("config", root, "created", LM_JSON_OPTIONAL, &c.created, err);
	if (r == 0 && c.created && !rfc3339_valid(c.created))
		r = lm_err_set(err, -EPROTO, "config: \"created\" is no RFC 3339 time");
	if (r == 0)
		r = parse_rootfs(root, image->layer_count, &c, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < image->layer_count; i++) {
		memcpy(image->layers[i].diff_id, c.layers[i].diff_id, LM_DIGEST_MAX);
		memcpy(image->layers[i].chain_id, c.layers[i].chain_id, LM_DIGEST_MAX);
	}
	image->created = STEAL(c.created);
	image->os = STEAL(c.os);
	image->architecture = STEAL(c.architecture);
	image->variant = STEAL(c.variant);
	return 0;
}

struct lm_platform lm_platform_host(void)
{
	static const struct {
		const char *machine, *go;
	} names[] = {
		{"x86_64", "amd64"},
		{"aarch64", "arm64"},
		{"armv7l", "arm"},
		{"armv6l", "arm"},
		{"i686", "386"},
		{"i386", "386"},
		{"ppc64le", "ppc64le"},
		{"s390x", "s390x"},
		{"riscv64", "riscv64"},
		{"loongarch64", "loong64"},
	};
	struct utsname system;
	struct lm_platform platform = {.os = "linux", .architecture = "unknown"};
	if (uname(&system) == 0)
		for (size_t i = 0; i < ARRAY_LEN(names); i++)
			if (strcmp(names[i].machine, system.machine) == 0)
				platform.architecture = names[i].go;
	return platform;
}
