#include "pull/puller.h"

#include "base/clock.h"
#include "base/str.h"
#include "oci/digest.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define MANAGED "io.cri-containerd.image"
#define NO_REASON "it does not say why"
enum { LABEL_MAX = 4096 /* key and value */, KEY_MAX = 192 };

struct pull {
	const struct lm_puller *puller;
	struct lm_pull_layer *layers;
	char index_digest[LM_DIGEST_MAX]; /* "": no index */
	char *index_type;
	char *distribution; /* key of the label that says where content comes from */
};

static void pull_done(struct pull *p)
{
	free(p->index_type);
	free(p->distribution);
}

const char *lm_pull_state_name(enum lm_pull_state state)
{
	static const char *const names[] = {
		[LM_PULL_LAZY] = "lazy", [LM_PULL_PRESENT] = "present", [LM_PULL_FETCHED] = "fetched"};
	return names[state];
}

/* --- content --- */

static struct lm_containerd_content manifest_of(const struct lm_image *image)
{
	return (struct lm_containerd_content){image->manifest_type, image->digest, image->manifest.len};
}

static struct lm_containerd_content layer_content(const struct lm_layer *layer)
{
	return (struct lm_containerd_content){layer->media_type, layer->digest, layer->size};
}

/* What the image's name stands for. */
static struct lm_containerd_content target_of(const struct pull *p)
{
	const struct lm_image *image = p->puller->image;
	return *p->index_digest ? (struct lm_containerd_content){p->index_type, p->index_digest, image->index.len}
				: manifest_of(image);
}

static struct lm_containerd_label source_label(const struct pull *p)
{
	return (struct lm_containerd_label){p->distribution, p->puller->reference->repository};
}

static int put_index(const struct pull *p, struct lm_err *err)
{
	const struct lm_puller *puller = p->puller;
	const struct lm_containerd_content content = target_of(p);
	const struct lm_containerd_label items[] = {
		source_label(p), {"containerd.io/gc.ref.content.m.0", puller->image->digest}};
	const struct lm_containerd_labels labels = {items, ARRAY_LEN(items)};
	return *p->index_digest
		       ? lm_containerd_put(puller->containerd, &content, puller->image->index.data, &labels, err)
		       : 0;
}

/* Keeps the config, and what is there of the layers' blobs. */
static int put_manifest(const struct pull *p, struct lm_err *err)
{
	const struct lm_image *image = p->puller->image;
	const struct lm_containerd_content content = manifest_of(image);
	const size_t count = image->layer_count + 2;
	CLEANUP(lm_freep) struct lm_containerd_label *items = calloc(count, sizeof(*items));
	CLEANUP(lm_freep) char(*keys)[KEY_MAX] = calloc(count, sizeof(*keys));
	if (!items || !keys)
		return lm_err_oom(err);
	items[0] = source_label(p);
	items[1] = (struct lm_containerd_label){"containerd.io/gc.ref.content.config", image->config_digest};
	for (size_t i = 0; i < image->layer_count; i++) {
		snprintf(keys[i], sizeof(keys[i]), "containerd.io/gc.ref.content.l.%zu", i);
		items[i + 2] = (struct lm_containerd_label){keys[i], image->layers[i].digest};
	}
	const struct lm_containerd_labels labels = {items, count};
	return lm_containerd_put(p->puller->containerd, &content, image->manifest.data, &labels, err);
}

static int put_config(const struct pull *p, struct lm_err *err)
{
	const struct lm_image *image = p->puller->image;
	const struct lm_containerd_content content = {image->config_type, image->config_digest, image->config.len};
	const struct lm_containerd_label item = source_label(p);
	const struct lm_containerd_labels labels = {&item, 1};
	return lm_containerd_put(p->puller->containerd, &content, image->config.data, &labels, err);
}

/* --- layers --- */

/* Layers from this one up, as many as one label holds. */
static int layers_from(const struct lm_image *image, size_t number, struct lm_buf *ret, struct lm_err *err)
{
	for (size_t i = number; i < image->layer_count; i++) {
		if (ret->len + LM_DIGEST_MAX + strlen("containerd.io/snapshot/cri.image-layers") > LABEL_MAX)
			break;
		if (lm_buf_printf(ret, "%s%s", i > number ? "," : "", image->layers[i].digest) < 0)
			return lm_err_oom(err);
	}
	return 0;
}

/* Nobody else's, and told apart from those of pulls that were killed. */
static int make_key(const char *chain, char ret[KEY_MAX], struct lm_err *err)
{
	uint32_t random;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return lm_err_sys(err, -errno, "getrandom");
	snprintf(ret, KEY_MAX, "extract-%lld-%08x %s", (long long)lm_now_us(), random, chain);
	return 0;
}

static int fetch_blob(const struct pull *p, const struct lm_layer *layer, struct lm_err *err)
{
	const struct lm_puller *puller = p->puller;
	const struct lm_containerd_content content = layer_content(layer);
	const struct lm_containerd_label item = source_label(p);
	const struct lm_containerd_labels labels = {&item, 1};
	CLEANUP(lm_blob_closep) struct lm_blob *blob = NULL;
	int r = lm_source_blob(puller->source, layer->digest, layer->size, &blob, err);
	return r < 0 ? r
		     : lm_containerd_put_blob(
			       puller->containerd, &content, blob, &labels, puller->wanted, puller->arg, err);
}

static int commit(const struct pull *p, const struct lm_layer *layer, const char *key, struct lm_err *err)
{
	const struct lm_containerd_label item = {"containerd.io/snapshot.ref", layer->chain_id};
	const struct lm_containerd_labels labels = {&item, 1};
	int r = lm_containerd_commit(p->puller->containerd, key, layer->chain_id, &labels, err);
	return r == -EEXIST ? lm_containerd_remove(p->puller->containerd, key, err) : r; /* another pull was first */
}

static int unpack(const struct pull *p, const struct lm_layer *layer, const char *key,
	const struct lm_containerd_mounts *mounts, struct lm_err *err)
{
	const struct lm_containerd_content content = layer_content(layer);
	int r = fetch_blob(p, layer, err);
	if (r == 0)
		r = lm_containerd_apply(p->puller->containerd, &content, mounts, layer->diff_id, err);
	return r < 0 ? r : commit(p, layer, key, err);
}

/* The snapshotter does not have it, and has said why, or not. */
static int fetch_layer(const struct pull *p, struct lm_pull_layer *ret, const char *key,
	const struct lm_containerd_mounts *mounts, struct lm_err *err)
{
	const struct lm_puller *puller = p->puller;
	const struct lm_layer *layer = ret->layer;
	struct lm_containerd_snapshot made = {0};
	int r = lm_containerd_stat(puller->containerd, key, &made, err);
	if (r < 0)
		return r;
	snprintf(ret->reason, sizeof(ret->reason), "%s", *made.reason ? made.reason : NO_REASON);
	ret->state = LM_PULL_FETCHED;
	if (puller->only_lazy || !puller->source)
		return lm_err_set(err, -ENOENT,
			"layer %s is not provided by snapshotter %s (%s), and %s; put the image into a repository of "
			"this "
			"node by `lamella convert`, or pull it from its registry",
			layer->digest, puller->snapshotter, ret->reason,
			puller->only_lazy ? "--lazy-only is given" : puller->no_source);
	return unpack(p, layer, key, mounts, err);
}

static int offer_layer(const struct pull *p, size_t number, const char *key, struct lm_containerd_mounts **ret_mounts,
	struct lm_err *err)
{
	const struct lm_image *image = p->puller->image;
	const struct lm_reference *ref = p->puller->reference;
	CLEANUP(lm_buf_done) struct lm_buf above = LM_BUF(LABEL_MAX);
	CLEANUP(lm_freep)
	char *name = lm_str_printf("%s/%s%s%s", ref->registry, ref->repository, ref->digest ? "@" : ":",
		ref->digest ? ref->digest : ref->tag);
	int r = name ? layers_from(image, number, &above, err) : lm_err_oom(err);
	if (r < 0)
		return r;
	const struct lm_containerd_label items[] = {
		{"containerd.io/snapshot.ref", image->layers[number].chain_id},
		{"containerd.io/snapshot/cri.image-ref", name},
		{"containerd.io/snapshot/cri.manifest-digest", image->digest},
		{"containerd.io/snapshot/cri.layer-digest", image->layers[number].digest},
		{"containerd.io/snapshot/cri.image-layers", lm_buf_cstr(&above)},
	};
	const struct lm_containerd_labels labels = {items, ARRAY_LEN(items)};
	const char *parent = number > 0 ? image->layers[number - 1].chain_id : "";
	return lm_containerd_prepare(p->puller->containerd, key, parent, &labels, ret_mounts, err);
}

/* Held before it is looked for: between the two it could be collected. 1: it is there, in that state where its labels
 * don't say otherwise. */
static int look_for_layer(const struct pull *p, enum lm_pull_state state, struct lm_pull_layer *ret, struct lm_err *err)
{
	struct lm_containerd_snapshot there;
	struct lm_err why = LM_ERR_INIT;
	int r = lm_containerd_hold(p->puller->containerd, ret->layer->chain_id, err);
	if (r < 0)
		return r;
	r = lm_containerd_stat(p->puller->containerd, ret->layer->chain_id, &there, &why);
	if (r < 0)
		return r == -ENOENT ? 0 : lm_err_set(err, r, "%s", lm_err_text(&why));
	ret->state = strcmp(there.layer, "lazy") == 0 ? LM_PULL_LAZY : *there.layer ? LM_PULL_PRESENT : state;
	snprintf(ret->reason, sizeof(ret->reason), "%s", there.reason);
	if (p->puller->only_lazy && *there.layer && ret->state != LM_PULL_LAZY)
		return lm_err_set(err, -EEXIST, "layer %s was unpacked here before (%s), and --lazy-only is given",
			ret->layer->digest, *ret->reason ? ret->reason : NO_REASON);
	return 1;
}

static int make_layer(const struct pull *p, size_t number, struct lm_pull_layer *ret, struct lm_err *err)
{
	char key[KEY_MAX];
	CLEANUP(lm_containerd_mounts_freep) struct lm_containerd_mounts *mounts = NULL;
	int r = make_key(ret->layer->chain_id, key, err);
	if (r == 0)
		r = offer_layer(p, number, key, &mounts, err);
	if (r < 0)
		return r;
	if (mounts) {
		r = fetch_layer(p, ret, key, mounts, err);
		if (r < 0)
			(void)!lm_containerd_remove(p->puller->containerd, key, NULL); /* it goes with the lease, too */
		return r;
	}
	r = look_for_layer(p, LM_PULL_LAZY, ret, err);
	return r == 0 ? lm_err_set(err, -ENOENT, "layer %s: snapshotter %s said it has it, but it is gone",
				ret->layer->digest, p->puller->snapshotter)
		      : r;
}

static int do_layer(const struct pull *p, size_t number, struct lm_err *err)
{
	const struct lm_puller *puller = p->puller;
	struct lm_pull_layer *layer = &p->layers[number];
	*layer = (struct lm_pull_layer){.layer = &puller->image->layers[number]};
	int r = puller->wanted ? puller->wanted(puller->arg, err) : 0;
	if (r == 0)
		r = look_for_layer(p, LM_PULL_PRESENT, layer, err);
	if (r == 0)
		r = make_layer(p, number, layer, err);
	return r < 0 || !puller->on_layer ? r : puller->on_layer(puller->arg, layer, number, err);
}

/* --- names --- */

/* The config keeps the topmost snapshot, and that all those below. */
static int tie_snapshots(const struct pull *p, struct lm_err *err)
{
	const struct lm_image *image = p->puller->image;
	char key[KEY_MAX];
	if (image->layer_count == 0)
		return 0;
	snprintf(key, sizeof(key), "containerd.io/gc.ref.snapshot.%s", p->puller->snapshotter);
	const struct lm_containerd_label item = {key, image->layers[image->layer_count - 1].chain_id};
	const struct lm_containerd_labels labels = {&item, 1};
	return lm_containerd_label(p->puller->containerd, image->config_digest, &labels, err);
}

static int name_it(const struct pull *p, const char *name, struct lm_err *err)
{
	static const struct lm_containerd_label managed = {MANAGED, "managed"};
	const struct lm_containerd_labels labels = {&managed, p->puller->kubernetes ? 1 : 0};
	const struct lm_containerd_content target = target_of(p);
	return lm_containerd_name(p->puller->containerd, name, &target, &labels, err);
}

/* CRI knows an image by its config's digest, too, and by that of what its tag stood for; in its order. */
static int name_image(const struct pull *p, char **ret_name, struct lm_err *err)
{
	const struct lm_reference *ref = p->puller->reference;
	const struct lm_containerd_content target = target_of(p);
	CLEANUP(lm_freep) char *by_digest = lm_str_printf("%s/%s@%s", ref->registry, ref->repository, target.digest);
	CLEANUP(lm_freep)
	char *name = lm_str_printf("%s/%s%s%s", ref->registry, ref->repository, ref->digest ? "@" : ":",
		ref->digest ? ref->digest : ref->tag);
	int r = by_digest && name ? 0 : lm_err_oom(err);
	if (r == 0 && p->puller->kubernetes)
		r = name_it(p, p->puller->image->config_digest, err);
	if (r == 0)
		r = name_it(p, name, err);
	if (r == 0 && p->puller->kubernetes && strcmp(name, by_digest) != 0)
		r = name_it(p, by_digest, err);
	if (r == 0)
		*ret_name = STEAL(name);
	return r;
}

/* --- all of it --- */

static int run(const struct pull *p, char **ret_name, struct lm_err *err)
{
	int r = put_index(p, err);
	if (r == 0)
		r = put_manifest(p, err);
	if (r == 0)
		r = put_config(p, err);
	for (size_t i = 0; r >= 0 && i < p->puller->image->layer_count; i++)
		r = do_layer(p, i, err);
	if (r >= 0)
		r = tie_snapshots(p, err);
	return r < 0 ? r : name_image(p, ret_name, err);
}

static int begin(struct pull *p, struct lm_err *err)
{
	const struct lm_image *image = p->puller->image;
	char id[64];
	uint64_t random;
	p->distribution = lm_str_printf("containerd.io/distribution.source.%s", p->puller->reference->registry);
	int r = p->distribution ? 0 : lm_err_oom(err);
	if (r == 0 && image->index.len > 0)
		r = lm_index_type(lm_buf_cstr(&image->index), image->index.len, &p->index_type, err);
	if (r == 0 && image->index.len > 0)
		r = lm_digest_data(image->index.data, image->index.len, p->index_digest, err);
	if (r < 0)
		return r;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return lm_err_sys(err, -errno, "getrandom");
	snprintf(id, sizeof(id), "lamella-pull-%016llx", (unsigned long long)random);
	return lm_containerd_lease(p->puller->containerd, id, p->puller->lease_s, err);
}

int lm_pull(const struct lm_puller *puller, struct lm_pull_layer *layers, char **ret_name, struct lm_err *err)
{
	CLEANUP(pull_done) struct pull p = {.puller = puller, .layers = layers};
	CLEANUP(lm_freep) char *name = NULL;
	int r = begin(&p, err);
	if (r == 0)
		r = run(&p, &name, err);
	int released = lm_containerd_release(puller->containerd, false, r < 0 ? NULL : err);
	if (r < 0 || released < 0)
		return r < 0 ? r : released;
	*ret_name = STEAL(name);
	return 0;
}
