#include "snapshotter/store.h"

#include "base/lock.h"
#include "base/str.h"
#include "snapshotter/rows.h"

#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* A place in the mirror. Changes put another record into it; a commit, which changes the key, makes a new place. */
struct node {
	struct lm_snapshot *record;
	struct node *parent;
	unsigned children;
};

struct lm_store {
	/* under writer: the database, and the right to change the mirror */
	struct lm_lock writer;
	struct lm_rows *rows;
	/* constant once there are threads; called under writer */
	lm_store_note_fn *note;
	void *note_arg;
	/* read under mirror; changed under writer and mirror, so whoever has writer may read without mirror */
	struct lm_lock mirror;
	void *by_key;	/* of struct node */
	void *by_layer; /* of struct node with a remote layer */
	size_t count;
	/* under mirror */
	int64_t next_id;
	int64_t *reserved;
	size_t n_reserved;
};

/* Records. */

void lm_snapshot_unref(const struct lm_snapshot *snapshot)
{
	while (snapshot) {
		struct lm_snapshot *s = (struct lm_snapshot *)snapshot;
		if (atomic_fetch_sub(&s->references, 1) > 1)
			return;
		snapshot = s->parent; /* a loop, because chains are long */
		lm_labels_done(&s->labels);
		free(s->plugin);
		free(s->key);
		free(s->layer_digest);
		free(s->layer_path);
		free(s->layer_ref);
		free(s);
	}
}

static void snapshot_freep(struct lm_snapshot **snapshot)
{
	lm_snapshot_unref(*snapshot);
}

static const struct lm_snapshot *snapshot_ref(const struct lm_snapshot *snapshot)
{
	if (snapshot)
		atomic_fetch_add(&((struct lm_snapshot *)snapshot)->references, 1);
	return snapshot;
}

static int copy_text(char **ret, const char *text)
{
	*ret = text ? strdup(text) : NULL;
	return text && !*ret ? -ENOMEM : 0;
}

/* What snapshot_new() takes, to be changed before. The counter is not copied: readers change it at any time. */
static struct lm_snapshot model_of(const struct lm_snapshot *s)
{
	return (struct lm_snapshot){
		.id = s->id,
		.plugin = s->plugin,
		.key = s->key,
		.kind = s->kind,
		.parent = s->parent,
		.created_ns = s->created_ns,
		.updated_ns = s->updated_ns,
		.usage = s->usage,
		.layer_digest = s->layer_digest,
		.layer_path = s->layer_path,
		.layer_ref = s->layer_ref,
	};
}

/* All but the labels. */
static struct lm_snapshot *snapshot_new(const struct lm_snapshot *model)
{
	CLEANUP(snapshot_freep) struct lm_snapshot *s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->references = 1;
	s->id = model->id;
	s->kind = model->kind;
	s->created_ns = model->created_ns;
	s->updated_ns = model->updated_ns;
	s->usage = model->usage;
	s->parent = snapshot_ref(model->parent);
	if (copy_text(&s->plugin, model->plugin) < 0 || copy_text(&s->key, model->key) < 0 ||
		copy_text(&s->layer_digest, model->layer_digest) < 0 ||
		copy_text(&s->layer_path, model->layer_path) < 0 || copy_text(&s->layer_ref, model->layer_ref) < 0)
		return NULL;
	return STEAL(s);
}

static struct lm_snapshot *snapshot_new_labelled(const struct lm_snapshot *model, const struct lm_labels *labels)
{
	CLEANUP(snapshot_freep) struct lm_snapshot *s = snapshot_new(model);
	if (!s || lm_labels_copy(labels, &s->labels) < 0)
		return NULL;
	return STEAL(s);
}

int64_t lm_store_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Later than the last change, whatever the clock says: by this an older row or record is told from a newer one. */
static int64_t change_ns(const struct lm_snapshot *before)
{
	int64_t now = lm_store_now_ns();
	return now > before->updated_ns || before->updated_ns == INT64_MAX ? now : before->updated_ns + 1;
}

/* The mirror. */

static int compare_keys(const void *a, const void *b)
{
	const struct lm_snapshot *x = ((const struct node *)a)->record, *y = ((const struct node *)b)->record;
	int order = strcmp(x->plugin, y->plugin);
	return order ? order : strcmp(x->key, y->key);
}

static int64_t parent_id(const struct lm_snapshot *snapshot)
{
	return snapshot->parent ? snapshot->parent->id : 0;
}

static int compare_layers(const void *a, const void *b)
{
	const struct lm_snapshot *x = ((const struct node *)a)->record, *y = ((const struct node *)b)->record;
	int order = strcmp(x->plugin, y->plugin);
	if (order == 0)
		order = strcmp(x->layer_ref, y->layer_ref);
	if (order == 0)
		order = parent_id(x) < parent_id(y) ? -1 : parent_id(x) > parent_id(y);
	return order;
}

/* writer or mirror held */
static struct node *find(struct lm_store *store, const char *plugin, const char *key)
{
	struct lm_snapshot wanted = {.plugin = (char *)plugin, .key = (char *)key};
	struct node probe = {.record = &wanted};
	struct node **found = tfind(&probe, &store->by_key, compare_keys);
	return found ? *found : NULL;
}

/* writer or mirror held */
static struct node *find_layer(
	struct lm_store *store, const char *plugin, const char *ref, const struct lm_snapshot *parent)
{
	struct lm_snapshot wanted = {.plugin = (char *)plugin, .layer_ref = (char *)ref, .parent = parent};
	struct node probe = {.record = &wanted};
	struct node **found = tfind(&probe, &store->by_layer, compare_layers);
	return found ? *found : NULL;
}

/* Both locks held; the node's keys are new. tsearch() needs memory, so this may fail: nothing changed then. */
static int mirror_insert(struct lm_store *store, struct node *node)
{
	if (!tsearch(node, &store->by_key, compare_keys))
		return -ENOMEM;
	if (node->record->layer_ref && !tsearch(node, &store->by_layer, compare_layers)) {
		tdelete(node, &store->by_key, compare_keys);
		return -ENOMEM;
	}
	if (node->parent)
		node->parent->children++;
	store->count++;
	return 0;
}

/* Both locks held. */
static void mirror_delete(struct lm_store *store, struct node *node)
{
	tdelete(node, &store->by_key, compare_keys);
	if (node->record->layer_ref)
		tdelete(node, &store->by_layer, compare_layers);
	if (node->parent)
		node->parent->children--;
	store->count--;
}

static void node_free(void *p)
{
	struct node *node = p;
	if (node)
		lm_snapshot_unref(node->record);
	free(node);
}

/* Of a tree whose nodes are another tree's too. */
static void node_keep(void *p)
{
	(void)p;
}

static void node_freep(struct node **node)
{
	node_free(*node);
}

/* Loading: all rows by id, then parents by looking ids up, then labels. */

struct loading {
	struct node **nodes;
	int64_t *parents;
	size_t count, cap;
};

static void loading_done(struct loading *loading)
{
	for (size_t i = 0; i < loading->count; i++)
		node_free(loading->nodes[i]);
	free(loading->nodes);
	free(loading->parents);
}

static int loading_grow(struct loading *loading)
{
	if (loading->count < loading->cap)
		return 0;
	size_t cap = loading->cap ? 2 * loading->cap : 1024;
	struct node **nodes = reallocarray(loading->nodes, cap, sizeof(*nodes));
	if (nodes)
		loading->nodes = nodes;
	int64_t *parents = reallocarray(loading->parents, cap, sizeof(*parents));
	if (parents)
		loading->parents = parents;
	if (!nodes || !parents)
		return -ENOMEM;
	loading->cap = cap;
	return 0;
}

static int load_row(void *arg, const struct lm_snapshot *row, int64_t parent, struct lm_err *err)
{
	struct loading *loading = arg;
	CLEANUP(node_freep) struct node *node = calloc(1, sizeof(*node));
	if (!node || loading_grow(loading) < 0 || !(node->record = snapshot_new(row)))
		return lm_err_oom(err);
	loading->parents[loading->count] = parent;
	loading->nodes[loading->count++] = STEAL(node);
	return 0;
}

static struct node *loaded(const struct loading *loading, int64_t id)
{
	size_t low = 0, high = loading->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (loading->nodes[middle]->record->id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < loading->count && loading->nodes[low]->record->id == id ? loading->nodes[low] : NULL;
}

/* References upwards must end: records that lead round in a circle would have us follow them for ever. */
static int link_parents(struct loading *loading, struct lm_err *err)
{
	for (size_t i = 0; i < loading->count; i++) {
		struct node *node = loading->nodes[i];
		if (loading->parents[i] == 0)
			continue;
		node->parent = loaded(loading, loading->parents[i]);
		if (!node->parent || node->parent->record->kind != LM_COMMITTED)
			return lm_err_set(
				err, -EUCLEAN, "store: record %" PRId64 " has no committed parent", node->record->id);
	}
	for (size_t i = 0; i < loading->count; i++) {
		size_t steps = 0;
		for (struct node *at = loading->nodes[i]; at; at = at->parent)
			if (steps++ > loading->count)
				return lm_err_set(err, -EUCLEAN, "store: record %" PRId64 " is its own ancestor",
					loading->nodes[i]->record->id);
	}
	for (size_t i = 0; i < loading->count; i++)
		if (loading->nodes[i]->parent)
			loading->nodes[i]->record->parent = snapshot_ref(loading->nodes[i]->parent->record);
	return 0;
}

static int load_label(void *arg, int64_t snapshot, const char *key, const char *value, struct lm_err *err)
{
	struct node *node = loaded(arg, snapshot);
	if (!node)
		return lm_err_set(err, -EUCLEAN, "store: a label of nothing");
	int r = lm_labels_set(&node->record->labels, key, value);
	return r < 0 ? lm_err_sys(err, r == -EMSGSIZE ? -EUCLEAN : r, "store: labels of record %" PRId64, snapshot) : 0;
}

static int load(struct lm_store *store, struct lm_err *err)
{
	CLEANUP(loading_done) struct loading loading = {0};
	int64_t last_id = 0;
	int r = lm_rows_last_id(store->rows, &last_id, err);
	if (r == 0)
		r = lm_rows_each(store->rows, load_row, &loading, err);
	if (r == 0)
		r = link_parents(&loading, err);
	if (r == 0)
		r = lm_rows_each_label(store->rows, load_label, &loading, err);
	if (r == 0)
		lm_store_reserve_from(store, last_id + 1);
	/* From the end, so that what is not yet in the mirror stays loading's. */
	while (r == 0 && loading.count > 0) {
		if (mirror_insert(store, loading.nodes[loading.count - 1]) < 0)
			r = lm_err_oom(err);
		else
			loading.count--;
	}
	return r;
}

static int store_new(struct lm_store **ret, struct lm_err *err)
{
	struct lm_store *store = calloc(1, sizeof(*store));
	if (!store)
		return lm_err_oom(err);
	lm_lock_init(&store->writer);
	lm_lock_init(&store->mirror);
	store->next_id = 1;
	*ret = store;
	return 0;
}

int lm_store_open(const char *path, bool may_be_new, struct lm_store **ret, struct lm_err *err)
{
	CLEANUP(lm_store_closep) struct lm_store *store = NULL;
	int r = store_new(&store, err);
	if (r < 0)
		return r;
	r = lm_rows_open(path, may_be_new, &store->rows, err);
	if (r == 0)
		r = load(store, err);
	if (r < 0)
		return r;
	*ret = STEAL(store);
	return 0;
}

int lm_store_make(const char *path, const struct lm_record *const *records, size_t count, struct lm_err *err)
{
	CLEANUP(lm_store_closep) struct lm_store *store = NULL;
	int r = store_new(&store, err);
	if (r == 0)
		r = lm_rows_open(path, true, &store->rows, err);
	if (r == 0)
		r = lm_rows_insert_all(store->rows, records, count, err);
	if (r == 0)
		r = load(store, err); /* what this finds wrong, it would find at each start */
	return r < 0 ? r : lm_rows_to_one_file(store->rows, err);
}

static int free_name(const char *path, char **ret, struct lm_err *err)
{
	int64_t now_s = lm_store_now_ns() / 1000000000;
	for (;; now_s++) {
		CLEANUP(lm_freep) char *name = lm_str_printf("%s.corrupt-%" PRId64, path, now_s);
		CLEANUP(lm_freep) char *log = lm_str_printf("%s.corrupt-%" PRId64 "-wal", path, now_s);
		if (!name || !log)
			return lm_err_oom(err);
		if (access(name, F_OK) < 0 && access(log, F_OK) < 0) {
			*ret = STEAL(name);
			return 0;
		}
	}
}

/* The database before its log: without that it would be taken for an older state of itself. */
int lm_store_move_aside(const char *path, char **ret, struct lm_err *err)
{
	static const char *const suffixes[] = {"", "-wal", "-shm"};
	CLEANUP(lm_freep) char *kept = NULL;
	bool moved = false;
	int r = free_name(path, &kept, err);
	for (unsigned i = 0; i < ARRAY_LEN(suffixes) && r == 0; i++) {
		CLEANUP(lm_freep) char *from = lm_str_printf("%s%s", path, suffixes[i]);
		CLEANUP(lm_freep) char *to = lm_str_printf("%s%s", kept, suffixes[i]);
		if (!from || !to)
			r = lm_err_oom(err);
		else if (rename(from, to) == 0)
			moved = true;
		else if (errno != ENOENT)
			r = lm_err_sys(err, -errno, "move %s aside", from);
	}
	if (r == 0)
		*ret = moved ? STEAL(kept) : NULL;
	return r;
}

void lm_store_set_note(struct lm_store *store, lm_store_note_fn *note, void *arg)
{
	store->note = note;
	store->note_arg = arg;
}

/* writer held */
static void note(struct lm_store *store, const struct lm_snapshot *snapshot)
{
	if (store->note)
		store->note(store->note_arg, snapshot);
}

void lm_store_close(struct lm_store *store)
{
	if (!store)
		return;
	lm_rows_close(store->rows);
	tdestroy(store->by_layer, node_keep);
	tdestroy(store->by_key, node_free);
	lm_lock_done(&store->mirror);
	lm_lock_done(&store->writer);
	free(store->reserved);
	free(store);
}

/* Reading. */

const struct lm_snapshot *lm_store_get(struct lm_store *store, const char *plugin, const char *key)
{
	LM_LOCKED(&store->mirror);
	struct node *node = find(store, plugin, key);
	return node ? snapshot_ref(node->record) : NULL;
}

const struct lm_snapshot *lm_store_get_layer(
	struct lm_store *store, const char *plugin, const char *ref, const char *parent)
{
	LM_LOCKED(&store->mirror);
	struct node *below = *parent ? find(store, plugin, parent) : NULL;
	if (*parent && !below)
		return NULL;
	struct node *node = find_layer(store, plugin, ref, below ? below->record : NULL);
	return node ? snapshot_ref(node->record) : NULL;
}

void lm_snapshot_list_done(struct lm_snapshot_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		lm_snapshot_unref(list->items[i]);
	free(list->items);
	*list = (struct lm_snapshot_list){0};
}

struct listing {
	struct lm_snapshot_list list;
	const char *plugin;
};

static void list_node(const void *tree, VISIT visit, void *arg)
{
	struct listing *listing = arg;
	const struct lm_snapshot *record = (*(struct node *const *)tree)->record;
	if ((visit == postorder || visit == leaf) && (!listing->plugin || strcmp(listing->plugin, record->plugin) == 0))
		listing->list.items[listing->list.count++] = snapshot_ref(record);
}

int lm_store_list(struct lm_store *store, const char *plugin, struct lm_snapshot_list *ret, struct lm_err *err)
{
	struct listing listing = {.plugin = plugin};
	LM_LOCKED(&store->mirror);
	listing.list.items = calloc(store->count + 1, sizeof(*listing.list.items));
	if (!listing.list.items)
		return lm_err_oom(err);
	twalk_r(store->by_key, list_node, &listing);
	*ret = listing.list;
	return 0;
}

/* Ids. */

int lm_store_reserve(struct lm_store *store, int64_t *ret, struct lm_err *err)
{
	LM_LOCKED(&store->mirror);
	int64_t *reserved = reallocarray(store->reserved, store->n_reserved + 1, sizeof(*reserved));
	if (!reserved)
		return lm_err_oom(err);
	store->reserved = reserved;
	*ret = reserved[store->n_reserved++] = store->next_id++;
	return 0;
}

void lm_store_release(struct lm_store *store, int64_t id)
{
	LM_LOCKED(&store->mirror);
	for (size_t i = 0; i < store->n_reserved; i++)
		if (store->reserved[i] == id)
			store->reserved[i--] = store->reserved[--store->n_reserved];
}

void lm_store_reserve_from(struct lm_store *store, int64_t id)
{
	LM_LOCKED(&store->mirror);
	store->next_id = LM_MAX(store->next_id, id);
}

int64_t lm_store_last_id(struct lm_store *store)
{
	LM_LOCKED(&store->mirror);
	return store->next_id - 1;
}

struct id_list {
	int64_t *items;
	size_t count;
};

static void list_id(const void *tree, VISIT visit, void *arg)
{
	struct id_list *ids = arg;
	if (visit == postorder || visit == leaf)
		ids->items[ids->count++] = (*(struct node *const *)tree)->record->id;
}

static int compare_ids(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return x < y ? -1 : x > y;
}

int lm_store_ids(struct lm_store *store, int64_t **ret, size_t *ret_count, struct lm_err *err)
{
	struct id_list ids = {0};
	lm_lock_take(&store->mirror);
	ids.items = calloc(store->count + store->n_reserved + 1, sizeof(*ids.items));
	if (ids.items) {
		twalk_r(store->by_key, list_id, &ids);
		for (size_t i = 0; i < store->n_reserved; i++)
			ids.items[ids.count++] = store->reserved[i];
	}
	lm_lock_release(&store->mirror);
	if (!ids.items)
		return lm_err_oom(err);
	qsort(ids.items, ids.count, sizeof(*ids.items), compare_ids);
	*ret = ids.items;
	*ret_count = ids.count;
	return 0;
}

/* Changing. */

static void hand_out(const struct lm_snapshot **ret, const struct lm_snapshot *record)
{
	if (ret)
		*ret = snapshot_ref(record);
}

/* writer held. The place of a parent that may become one: -ENOENT, or not_committed. */
static int find_parent(struct lm_store *store, const char *plugin, const char *key, int not_committed,
	struct node **ret, struct lm_err *err)
{
	*ret = find(store, plugin, key);
	if (!*ret)
		return lm_err_set(err, -ENOENT, "parent snapshot %s does not exist", key);
	if ((*ret)->record->kind != LM_COMMITTED)
		return lm_err_set(err, not_committed, "parent snapshot %s is not committed", key);
	return 0;
}

/* writer held. Durable first; then without memory for the mirror it has to go again. */
static int insert_record(struct lm_store *store, struct node *node, struct lm_err *err)
{
	lm_lock_assert(&store->writer);
	int r = lm_rows_insert(store->rows, node->record, err);
	if (r < 0)
		return r;
	lm_lock_take(&store->mirror);
	r = mirror_insert(store, node);
	lm_lock_release(&store->mirror);
	if (r == 0)
		return 0;
	(void)!lm_rows_delete(store->rows, node->record, NULL);
	return lm_err_oom(err);
}

int lm_store_create(
	struct lm_store *store, const struct lm_store_new *new, const struct lm_snapshot **ret, struct lm_err *err)
{
	LM_LOCKED(&store->writer);
	CLEANUP(node_freep) struct node *node = calloc(1, sizeof(*node));
	if (!node)
		return lm_err_oom(err);
	if (find(store, new->plugin, new->key))
		return lm_err_set(err, -EEXIST, "snapshot %s already exists", new->key);
	int r = *new->parent ? find_parent(store, new->plugin, new->parent, -EINVAL, &node->parent, err) : 0;
	if (r < 0)
		return r;
	if (new->parent_id && (!node->parent || node->parent->record->id != new->parent_id))
		return lm_err_set(err, -ENOENT, "parent snapshot %s was removed", new->parent);
	int64_t now = new->created_ns ? new->created_ns : lm_store_now_ns();
	struct lm_snapshot model = {
		.id = new->id,
		.plugin = (char *)new->plugin,
		.key = (char *)new->key,
		.kind = new->kind,
		.parent = node->parent ? node->parent->record : NULL,
		.created_ns = now,
		.updated_ns = now,
		.layer_digest = (char *)new->layer_digest,
		.layer_path = (char *)new->layer_path,
		.layer_ref = (char *)new->layer_ref,
	};
	if (new->layer_ref && find_layer(store, new->plugin, new->layer_ref, model.parent))
		return lm_err_set(err, -EEXIST, "layer %s already exists", new->layer_ref);
	node->record = snapshot_new_labelled(&model, new->labels);
	if (!node->record)
		return lm_err_oom(err);
	r = insert_record(store, node, err);
	if (r < 0)
		return r;
	hand_out(ret, STEAL(node)->record);
	return 0;
}

/* writer held. Puts a new record into its place. */
static void replace_record(struct lm_store *store, struct node *node, struct lm_snapshot *record)
{
	lm_lock_take(&store->mirror);
	struct lm_snapshot *old = node->record;
	node->record = record;
	lm_lock_release(&store->mirror);
	lm_snapshot_unref(old);
}

/* writer held. The new parent of a snapshot that is being committed. */
static int commit_parent(struct lm_store *store, const struct node *node, const struct lm_store_commit *commit,
	struct node **ret, struct lm_err *err)
{
	*ret = node->parent;
	if (!*commit->parent)
		return 0;
	struct node *parent;
	int r = find_parent(store, commit->plugin, commit->parent, -EBUSY, &parent, err);
	if (r < 0)
		return r;
	if (node->parent && node->parent != parent)
		return lm_err_set(err, -EINVAL, "snapshot %s has parent %s, not %s", commit->key,
			node->parent->record->key, commit->parent);
	*ret = parent;
	return 0;
}

/* writer held. The key changes, so the place changes too: out of the tree and in again. */
static int move_record(struct lm_store *store, struct node *old, struct node *new)
{
	LM_LOCKED(&store->mirror);
	int r = mirror_insert(store, new);
	if (r == 0)
		mirror_delete(store, old);
	return r;
}

int lm_store_commit(struct lm_store *store, const struct lm_store_commit *commit, struct lm_err *err)
{
	LM_LOCKED(&store->writer);
	if (find(store, commit->plugin, commit->name))
		return lm_err_set(err, -EEXIST, "snapshot %s already exists", commit->name);
	struct node *old = find(store, commit->plugin, commit->key);
	if (!old || old->record->id != commit->id)
		return lm_err_set(err, -ENOENT, "snapshot %s does not exist", commit->key);
	if (old->record->kind != LM_ACTIVE)
		return lm_err_set(err, -EBUSY, "snapshot %s is not active", commit->key);
	CLEANUP(node_freep) struct node *new = calloc(1, sizeof(*new));
	if (!new)
		return lm_err_oom(err);
	int r = commit_parent(store, old, commit, &new->parent, err);
	if (r < 0)
		return r;
	struct lm_snapshot model = model_of(old->record);
	model.key = (char *)commit->name;
	model.kind = LM_COMMITTED;
	model.parent = new->parent ? new->parent->record : NULL;
	model.created_ns = model.updated_ns = change_ns(old->record);
	model.usage = commit->usage;
	new->record = snapshot_new_labelled(&model, commit->labels);
	if (!new->record)
		return lm_err_oom(err);
	/* An active snapshot has no children, so nothing points at the old place. */
	r = lm_rows_commit(store->rows, new->record, err);
	if (r < 0)
		return r;
	if (move_record(store, old, new) < 0) {
		(void)!lm_rows_commit(store->rows, old->record, NULL);
		return lm_err_oom(err);
	}
	note(store, new->record);
	STEAL(new);
	node_free(old);
	return 0;
}

int lm_store_update(struct lm_store *store, const char *plugin, const char *key, lm_store_edit_fn *edit, void *arg,
	const struct lm_snapshot **ret, struct lm_err *err)
{
	LM_LOCKED(&store->writer);
	struct node *node = find(store, plugin, key);
	if (!node)
		return lm_err_set(err, -ENOENT, "snapshot %s does not exist", key);
	CLEANUP(snapshot_freep) struct lm_snapshot *record = snapshot_new(node->record);
	if (!record)
		return lm_err_oom(err);
	record->updated_ns = change_ns(node->record);
	int r = edit(&node->record->labels, arg, &record->labels, err);
	if (r == 0)
		r = lm_rows_update(store->rows, record, err);
	if (r < 0)
		return r;
	note(store, record);
	hand_out(ret, record);
	replace_record(store, node, STEAL(record));
	return 0;
}

int lm_store_set_layer_path(
	struct lm_store *store, const struct lm_snapshot *snapshot, const char *path, struct lm_err *err)
{
	LM_LOCKED(&store->writer);
	struct node *node = find(store, snapshot->plugin, snapshot->key);
	if (!node || node->record->id != snapshot->id)
		return lm_err_set(err, -ENOENT, "snapshot %s does not exist", snapshot->key);
	struct lm_snapshot model = model_of(node->record);
	model.layer_path = (char *)path;
	CLEANUP(snapshot_freep) struct lm_snapshot *record = snapshot_new_labelled(&model, &node->record->labels);
	if (!record)
		return lm_err_oom(err);
	int r = lm_rows_set_layer_path(store->rows, record, err);
	if (r < 0)
		return r;
	note(store, record);
	replace_record(store, node, STEAL(record));
	return 0;
}

int lm_store_remove(struct lm_store *store, const char *plugin, const char *key, struct lm_err *err)
{
	LM_LOCKED(&store->writer);
	struct node *node = find(store, plugin, key);
	if (!node)
		return lm_err_set(err, -ENOENT, "snapshot %s does not exist", key);
	if (node->children > 0)
		return lm_err_set(err, -EBUSY, "snapshot %s has %u children", key, node->children);
	int r = lm_rows_delete(store->rows, node->record, err);
	if (r < 0)
		return r;
	lm_lock_take(&store->mirror);
	mirror_delete(store, node);
	lm_lock_release(&store->mirror);
	node_free(node);
	return 0;
}
