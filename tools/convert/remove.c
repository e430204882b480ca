#include "convert/remove.h"

#include "base/clock.h"
#include "base/str.h"
#include "convert/chain_tree.h"
#include "convert/flat.h"
#include "convert/layer_index.h"
#include "convert/metadata.h"
#include "repo/catalog_schema.h" /* lm_grown() */

#include <stdio.h>
#include <string.h>

/* Texts of others, looked up when all are there. */
struct set {
	const char **items;
	size_t count, cap;
};

struct chain {
	struct lm_chain_hex name;
	bool stays; /* an image has it that does not go now */
};

struct planning {
	const struct lm_view *view;
	int64_t grace_s, now_s;
	struct lm_inventory inventory;
	struct lm_schedule schedule;
	struct lm_schedule_item *items; /* of the schedule, as it was */
	size_t item_count;
	bool *goes; /* by image of the inventory: loses its name */

	struct set alive;      /* configs that have a name left */
	struct set due;	       /* configs whose content goes now */
	struct set used;       /* layers that others than those have */
	struct set candidates; /* layers of those */
	struct set kept;       /* of these, the ones that stay */
	struct chain *chains;  /* of all images; one that several have several times */
	size_t chain_count;
	struct lm_removal *ret; /* being made */
};

/* --- sets --- */

static int cmp_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int add(struct set *set, const char *text, struct lm_err *err)
{
	const char **grown = lm_grown(set->items, set->count, &set->cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	set->items = grown;
	set->items[set->count++] = text;
	return 0;
}

/* Sorted, each once. */
static void complete(struct set *set)
{
	size_t count = 0;
	if (set->count > 0)
		qsort(set->items, set->count, sizeof(*set->items), cmp_text);
	for (size_t i = 0; i < set->count; i++)
		if (count == 0 || strcmp(set->items[count - 1], set->items[i]) != 0)
			set->items[count++] = set->items[i];
	set->count = count;
}

static bool has(const struct set *set, const char *text)
{
	return set->count > 0 && bsearch(&text, set->items, set->count, sizeof(*set->items), cmp_text);
}

static int add_layers(struct set *set, const struct lm_image_parts *parts, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < parts->layer_count && r == 0; i++)
		r = add(set, parts->layers[i].digest, err);
	return r;
}

/* --- the plan --- */

static void planning_done(struct planning *p)
{
	lm_inventory_done(&p->inventory);
	for (size_t i = 0; i < p->item_count; i++)
		lm_schedule_item_done(&p->items[i]);
	free(p->items);
	lm_schedule_done(&p->schedule);
	free(p->goes);
	free(p->alive.items);
	free(p->due.items);
	free(p->used.items);
	free(p->candidates.items);
	free(p->kept.items);
	free(p->chains);
}

void lm_removal_done(struct lm_removal *removal)
{
	for (size_t i = 0; i < removal->name_count; i++)
		free(removal->names[i]);
	for (size_t i = 0; i < removal->image_count; i++)
		free(removal->images[i].name);
	free(removal->names);
	free(removal->images);
	free(removal->layers);
	free(removal->flats);
	free(removal->trees);
	*removal = (struct lm_removal){0};
}

static int read_all(struct planning *p, struct lm_err *err)
{
	int r = lm_inventory_read(p->view, &p->inventory, err);
	if (r == 0)
		r = lm_schedule_read(p->view, &p->schedule, err);
	if (r < 0)
		return r;
	size_t count = lm_schedule_count(&p->schedule);
	p->items = calloc(count + 1, sizeof(*p->items));
	p->goes = calloc(p->inventory.count + 1, sizeof(*p->goes));
	if (!p->items || !p->goes)
		return lm_err_oom(err);
	for (size_t i = 0; i < count && r == 0; i++) {
		r = lm_schedule_item(&p->schedule, i, &p->items[i], err);
		p->item_count += r == 0;
	}
	return r;
}

static void take_name(struct planning *p, const char *name)
{
	const struct lm_inventory_image *image = lm_inventory_find(&p->inventory, name);
	if (image)
		p->goes[image - p->inventory.images] = true;
}

static int take_names(struct planning *p, const char *const *names, size_t count, struct lm_err *err)
{
	for (size_t i = 0; i < count; i++) {
		const struct lm_inventory_image *image = lm_inventory_find(&p->inventory, names[i]);
		if (!image)
			return lm_err_set(err, -ENOENT, "no image %s is published", names[i]);
		take_name(p, names[i]);
		for (size_t k = 0; k < image->platform_count; k++)
			take_name(p, image->platforms[k]);
	}
	p->ret->names = calloc(p->inventory.count + 1, sizeof(*p->ret->names));
	if (!p->ret->names)
		return lm_err_oom(err);
	for (size_t i = 0; i < p->inventory.count; i++) {
		if (!p->goes[i])
			continue;
		if (!(p->ret->names[p->ret->name_count] = strdup(p->inventory.images[i].name)))
			return lm_err_oom(err);
		p->ret->name_count++;
	}
	return 0;
}

static int find_alive(struct planning *p, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < p->inventory.count && r == 0; i++)
		if (!p->goes[i])
			r = add(&p->alive, p->inventory.images[i].parts.config, err);
	complete(&p->alive);
	return r;
}

static int note_image(struct planning *p, const char *config, const char *name, int64_t after_s, struct lm_err *err)
{
	struct lm_removal *ret = p->ret;
	for (size_t i = 0; i < ret->image_count; i++)
		if (strcmp(ret->images[i].config, config) == 0)
			return 0;
	struct lm_removed *image = &ret->images[ret->image_count];
	image->after_s = after_s;
	image->name = name ? strdup(name) : NULL;
	if (name && !image->name)
		return lm_err_oom(err);
	memcpy(image->config, config, strlen(config) + 1);
	ret->image_count++;
	return 0;
}

/* Whose content goes when: images that lose their last name first, what the schedule said of them does not count. */
static int find_due(struct planning *p, struct lm_err *err)
{
	int r = 0;
	p->ret->images = calloc(p->inventory.count + p->item_count + 1, sizeof(*p->ret->images));
	if (!p->ret->images)
		return lm_err_oom(err);
	for (size_t i = 0; i < p->inventory.count && r == 0; i++) {
		const struct lm_inventory_image *image = &p->inventory.images[i];
		if (p->goes[i] && *image->parts.config && !has(&p->alive, image->parts.config))
			r = note_image(
				p, image->parts.config, image->name, p->grace_s ? p->now_s + p->grace_s : 0, err);
	}
	for (size_t i = 0; i < p->item_count && r == 0; i++) {
		const struct lm_schedule_item *item = &p->items[i];
		if (item->after_s <= p->now_s && !has(&p->alive, item->parts.config))
			r = note_image(p, item->parts.config, item->name, 0, err);
	}
	for (size_t i = 0; i < p->ret->image_count && r == 0; i++)
		if (p->ret->images[i].after_s == 0)
			r = add(&p->due, p->ret->images[i].config, err);
	complete(&p->due);
	return r;
}

/* What images have and which of their layers may go. */
static int sort_layers(struct planning *p, const struct lm_image_parts *parts, struct lm_err *err)
{
	return add_layers(has(&p->due, parts->config) ? &p->candidates : &p->used, parts, err);
}

static int find_candidates(struct planning *p, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < p->inventory.count && r == 0; i++) {
		const struct lm_inventory_image *image = &p->inventory.images[i];
		if (image->why.code && !p->goes[i])
			return lm_err_set(
				err, -EPROTO, "no layer can go: %s: %s", image->name, lm_err_text(&image->why));
		r = sort_layers(p, &image->parts, err);
	}
	for (size_t i = 0; i < p->item_count && r == 0; i++)
		r = sort_layers(p, &p->items[i].parts, err);
	complete(&p->candidates);
	complete(&p->used);
	return r;
}

static int is_foreign_origin(void *arg, const char *config)
{
	return !has(arg, config);
}

/* 1: the layer's own list names an image that stays. */
static int has_other_origin(struct planning *p, const char *layer, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_LAYER_JSON_MAX);
	char path[LM_LAYER_PATH_TEXT_MAX + 32];
	snprintf(path, sizeof(path), "%s/" LM_LAYER_ORIGIN, lm_layer_path(layer).s);
	int r = lm_view_has(p->view, path, NULL, err);
	if (r > 0)
		r = p->view->read(p->view->arg, path, &text, err);
	if (r == 0 && text.len > 0)
		r = lm_origin_json_each(&text, is_foreign_origin, &p->due, err);
	return r;
}

static uint64_t size_in(const struct lm_image_parts *parts, const char *layer)
{
	for (size_t i = 0; i < parts->layer_count; i++)
		if (strcmp(parts->layers[i].digest, layer) == 0)
			return parts->layers[i].size;
	return 0;
}

static uint64_t layer_size(const struct planning *p, const char *layer)
{
	uint64_t size = 0;
	for (size_t i = 0; i < p->inventory.count && size == 0; i++)
		size = size_in(&p->inventory.images[i].parts, layer);
	for (size_t i = 0; i < p->item_count && size == 0; i++)
		size = size_in(&p->items[i].parts, layer);
	return size;
}

static int judge_layer(struct planning *p, const char *layer, struct lm_err *err)
{
	int r = lm_view_has(p->view, lm_layer_path(layer).s, NULL, err);
	if (r <= 0)
		return r;
	r = has(&p->used, layer) ? 1 : has_other_origin(p, layer, err);
	if (r != 0)
		return r < 0 ? r : add(&p->kept, layer, err);
	struct lm_image_part *goes = &p->ret->layers[p->ret->layer_count++];
	memcpy(goes->digest, layer, strlen(layer) + 1);
	goes->size = layer_size(p, layer);
	return 0;
}

static int judge_layers(struct planning *p, struct lm_err *err)
{
	int r = find_candidates(p, err);
	p->ret->layers = calloc(p->candidates.count + 1, sizeof(*p->ret->layers));
	if (r == 0 && !p->ret->layers)
		r = lm_err_oom(err);
	for (size_t i = 0; i < p->candidates.count && r == 0; i++)
		r = judge_layer(p, p->candidates.items[i], err);
	return r;
}

static int judge_flats(struct planning *p, struct lm_err *err)
{
	struct lm_removal *ret = p->ret;
	ret->flats = calloc(p->due.count + 1, sizeof(*ret->flats));
	if (!ret->flats)
		return lm_err_oom(err);
	for (size_t i = 0; i < p->due.count; i++) {
		int r = lm_view_has(p->view, lm_flat_path(p->due.items[i]).s, NULL, err);
		if (r < 0)
			return r;
		if (r > 0)
			memcpy(ret->flats[ret->flat_count++], p->due.items[i], strlen(p->due.items[i]) + 1);
	}
	return 0;
}

static int take_chain(struct planning *p, const struct lm_image_parts *parts, struct lm_err *err)
{
	struct chain *chain = &p->chains[p->chain_count];
	chain->stays = !has(&p->due, parts->config);
	int r = lm_image_parts_chain(parts, &chain->name, err);
	p->chain_count += r == 0;
	return r;
}

/* Of one chain first those that stay. */
static int cmp_chain(const void *a, const void *b)
{
	const struct chain *x = a, *y = b;
	int order = strcmp(x->name.s, y->name.s);
	return order ? order : y->stays - x->stays;
}

static int take_chains(struct planning *p, struct lm_err *err)
{
	int r = 0;
	p->chains = calloc(p->inventory.count + p->item_count + 1, sizeof(*p->chains));
	if (!p->chains)
		return lm_err_oom(err);
	for (size_t i = 0; i < p->inventory.count && r == 0; i++)
		if (!p->inventory.images[i].why.code)
			r = take_chain(p, &p->inventory.images[i].parts, err);
	for (size_t i = 0; i < p->item_count && r == 0; i++)
		r = take_chain(p, &p->items[i].parts, err);
	qsort(p->chains, p->chain_count, sizeof(*p->chains), cmp_chain);
	return r;
}

static int judge_tree(struct planning *p, const struct lm_chain_hex *chain, struct lm_err *err)
{
	int r = lm_view_has(p->view, lm_chain_path(chain->s).s, NULL, err);
	if (r > 0)
		p->ret->trees[p->ret->tree_count++] = *chain;
	return LM_MIN(r, 0);
}

static int judge_trees(struct planning *p, struct lm_err *err)
{
	int r = take_chains(p, err);
	p->ret->trees = calloc(p->chain_count + 1, sizeof(*p->ret->trees));
	if (r == 0 && !p->ret->trees)
		r = lm_err_oom(err);
	for (size_t i = 0; i < p->chain_count && r == 0; i++) {
		bool first = i == 0 || strcmp(p->chains[i].name.s, p->chains[i - 1].name.s) != 0;
		if (first && !p->chains[i].stays)
			r = judge_tree(p, &p->chains[i].name, err);
	}
	return r;
}

static int plan(struct planning *p, const char *const *names, size_t count, struct lm_err *err)
{
	int r = read_all(p, err);
	if (r == 0)
		r = take_names(p, names, count, err);
	if (r == 0)
		r = find_alive(p, err);
	if (r == 0)
		r = find_due(p, err);
	if (r == 0 && p->due.count > 0)
		r = judge_layers(p, err);
	if (r == 0 && p->due.count > 0)
		r = judge_trees(p, err);
	return r < 0 ? r : judge_flats(p, err);
}

int lm_removal_plan(const struct lm_view *view, const char *const *names, size_t count, int64_t grace_s, int64_t now_s,
	struct lm_removal *ret, struct lm_err *err)
{
	CLEANUP(lm_removal_done) struct lm_removal removal = {0};
	CLEANUP(planning_done)
	struct planning p = {.view = view, .grace_s = grace_s, .now_s = now_s, .ret = &removal};
	int r = plan(&p, names, count, err);
	if (r < 0)
		return r;
	*ret = removal;
	removal = (struct lm_removal){0};
	return 0;
}

/* --- its execution --- */

static int remove_names(struct planning *p, struct lm_txn *txn, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < p->inventory.count && r == 0; i++)
		if (p->goes[i])
			r = lm_metadata_remove(txn, &p->inventory.images[i], err);
	return r;
}

static int update_schedule(struct planning *p, struct lm_txn *txn, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < p->alive.count; i++)
		lm_schedule_drop(&p->schedule, p->alive.items[i]);
	for (size_t i = 0; i < p->due.count; i++)
		lm_schedule_drop(&p->schedule, p->due.items[i]);
	for (size_t i = 0; i < p->ret->image_count && r == 0; i++) {
		const struct lm_removed *removed = &p->ret->images[i];
		const struct lm_inventory_image *image =
			removed->after_s ? lm_inventory_find(&p->inventory, removed->name) : NULL;
		if (image)
			r = lm_schedule_add(&p->schedule, &image->text, image->name, removed->after_s, err);
	}
	if (r == 0)
		r = lm_schedule_date(&p->schedule, p->now_s + p->grace_s, err);
	return r < 0 ? r : lm_schedule_write(&p->schedule, txn, err);
}

/* A layer that stays is no longer theirs. */
static int forget_origins(struct planning *p, struct lm_txn *txn, const char *layer, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_LAYER_JSON_MAX);
	char path[LM_LAYER_PATH_TEXT_MAX + 32];
	bool changed = false;
	size_t left;
	snprintf(path, sizeof(path), "%s/" LM_LAYER_ORIGIN, lm_layer_path(layer).s);
	int r = lm_txn_has(txn, path, err);
	if (r <= 0)
		return r;
	r = lm_txn_read(txn, path, &text, err);
	if (r == 0)
		r = lm_origin_json_remove(&text, p->due.items, p->due.count, &changed, &left, err);
	return r < 0 || !changed ? r : lm_txn_put_data(txn, path, text.data, text.len, err);
}

/* The layers that go, which are sorted, are out of the transaction. */
static int forget_entries(struct planning *p, struct lm_txn *txn, struct lm_err *err)
{
	const struct lm_removal *removal = p->ret;
	CLEANUP(lm_freep) const char **gone = calloc(removal->layer_count + 1, sizeof(*gone));
	if (!gone)
		return lm_err_oom(err);
	for (size_t i = 0; i < removal->layer_count; i++)
		gone[i] = removal->layers[i].digest;
	return lm_layer_index_forget(txn, &p->inventory, gone, removal->layer_count, err);
}

static int execute(struct planning *p, struct lm_txn *txn, struct lm_err *err)
{
	const struct lm_removal *removal = p->ret;
	int r = remove_names(p, txn, err);
	if (r == 0)
		r = update_schedule(p, txn, err);
	for (size_t i = 0; i < p->kept.count && r == 0; i++)
		r = forget_origins(p, txn, p->kept.items[i], err);
	for (size_t i = 0; i < removal->layer_count && r == 0; i++)
		r = lm_txn_remove(txn, lm_layer_path(removal->layers[i].digest).s, err);
	if (r == 0)
		r = forget_entries(p, txn, err);
	for (size_t i = 0; i < removal->flat_count && r == 0; i++)
		r = lm_txn_remove(txn, lm_flat_path(removal->flats[i]).s, err);
	for (size_t i = 0; i < removal->tree_count && r == 0; i++)
		r = lm_txn_remove(txn, lm_chain_path(removal->trees[i].s).s, err);
	return r;
}

int lm_remove_images(struct lm_txn *txn, const char *const *names, size_t count, int64_t grace_s,
	struct lm_removal *ret, struct lm_err *err)
{
	CLEANUP(lm_removal_done) struct lm_removal removal = {0};
	const struct lm_view view = lm_txn_view(txn);
	CLEANUP(planning_done)
	struct planning p = {.view = &view, .grace_s = grace_s, .now_s = lm_wall_s(), .ret = &removal};
	int r = plan(&p, names, count, err);
	if (r == 0)
		r = execute(&p, txn, err);
	if (r < 0)
		return lm_err_prefix(err, r, "removal");
	if (ret) {
		*ret = removal;
		removal = (struct lm_removal){0};
	}
	return 0;
}

/* 1: there is something for now; 0: nothing. */
static int is_due(struct lm_txn *txn, struct lm_err *err)
{
	CLEANUP(lm_schedule_done) struct lm_schedule schedule = {0};
	const struct lm_view view = lm_txn_view(txn);
	int r = lm_schedule_read(&view, &schedule, err);
	for (size_t i = 0; r == 0 && i < lm_schedule_count(&schedule); i++) {
		CLEANUP(lm_schedule_item_done) struct lm_schedule_item item = {0};
		r = lm_schedule_item(&schedule, i, &item, err);
		if (r == 0)
			r = item.after_s <= lm_wall_s();
	}
	return r;
}

int lm_remove_due(struct lm_txn *txn, struct lm_removal *ret, struct lm_err *err)
{
	int r = is_due(txn, err);
	if (r == 0 && ret)
		*ret = (struct lm_removal){0};
	return r <= 0 ? r : lm_remove_images(txn, NULL, 0, LM_GRACE_S, ret, err);
}
