#include "fetcher/resolve.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/str.h"
#include "fetcher/control.h"
#include "fetcher/layers.h"
#include "repo/images.h"

#include <stdio.h>
#include <string.h>
#include <sys/queue.h>

#define LAYER_OPAQUE "opaque" /* in the same place: whiteouts where the layer has opaque directories */

enum { ANSWER_MARGIN_MS = 200 };

typedef Lamella__Fetcher__V1__LayerAnswer LayerAnswer;
typedef Lamella__Fetcher__V1__TreeAnswer TreeAnswer;
#define STATE(name) LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_##name

struct lm_resolver {
	const struct lm_control_config *config;
	struct lm_lock lock;
	/* under lock */
	LIST_HEAD(, resolve) running;
	bool stopping;
};

/* Whether a layer can be used without extended attributes. */
enum leanness {
	NOT_LEAN,
	LEAN,	     /* it has none */
	LEAN_OPAQUE, /* it has none but those of opaque directories, and a tree that does the same */
};

/* Ways to a layer, in the order in which they are tried in each repository. */
enum way { BY_DIGEST, BY_CHAIN_ID, BY_DIFF_ID, WAYS };

/* Or the tree of all; under the resolve's lock. */
struct layer {
	struct lm_images_digest
		names[WAYS];		/* constant: as asked for, "" what was not said; of the tree: its chain's */
	struct lm_images_digest digest; /* of the one that is there; else as asked for, maybe "" */
	Lamella__Fetcher__V1__LayerState state;
	size_t repository;
	uint64_t revision; /* where one repository was asked also of an absent one */
	enum leanness lean;
	char *reason; /* when not faithful */
};

struct resolve {
	struct lm_resolver *resolver;
	/* under resolver->lock */
	LIST_ENTRY(resolve) entry;
	bool listed;
	unsigned refs; /* the call, the deadline, each thing waited for */

	_Atomic(unsigned) waiting; /* look-ups of this round, or repositories looking for a new revision */
	unsigned round;

	struct lm_lock lock;
	struct lm_rpc_call *call; /* under lock; NULL: answered */
	size_t layer_count;
	bool tree; /* asked for: one more than the layers */
	struct layer layers[];
};

/* The way to one layer in one repository after the other. */
struct walk {
	struct resolve *resolve;
	size_t layer, repository;
	enum way way;
	bool indexed;			/* still on the way through the index */
	struct lm_images_digest digest; /* of the layer it goes to, once that is known */
	unsigned step;
	enum leanness lean;
	uint64_t node, folder; /* where it is; the layer's own directory, once it was there */
	struct lm_object_ref need;
	char *unavailable; /* why an earlier repository could not say */
};

static void unref(struct resolve *resolve)
{
	struct lm_resolver *resolver = resolve->resolver;
	lm_lock_take(&resolver->lock);
	bool last = --resolve->refs == 0;
	if (last && resolve->listed)
		LIST_REMOVE(resolve, entry);
	lm_lock_release(&resolver->lock);
	if (!last)
		return;
	for (size_t i = 0; i < resolve->layer_count + resolve->tree; i++)
		free(resolve->layers[i].reason);
	lm_lock_done(&resolve->lock);
	free(resolve);
}

static void ref(struct resolve *resolve)
{
	LM_LOCKED(&resolve->resolver->lock);
	resolve->refs++;
}

/* NULL with *ret_why: the repository was unmounted meanwhile, or memory is short. */
static char *layer_path(const struct lm_resolver *resolver, const struct layer *layer, bool lean, const char *below,
	const char **ret_why)
{
	const struct lm_control_config *config = resolver->config;
	const char *hex = layer->digest.s + strlen("sha256:");
	const char *mountpoint = config->mounted_at(config->arg, layer->repository, lean);
	*ret_why = mountpoint ? "out of memory" : "it is not mounted any more";
	/* What stock tools wrote needs the view in which its deletions are those of overlayfs. */
	return mountpoint ? lm_str_printf("%s/%s/%.2s/%s/%s", mountpoint,
				    layer->state == STATE(LOSSY) ? LM_TREE_LAYERS : LM_IMAGES_LAYERS, hex, hex, below)
			  : NULL;
}

static bool is_served(const struct layer *layer)
{
	return layer->state == STATE(FAITHFUL) || layer->state == STATE(LOSSY);
}

struct paths { /* of an answer */
	char *whole, *lean, *opaque;
};

static void paths_free(struct paths *paths, size_t count)
{
	for (size_t i = 0; paths && i < count; i++) {
		free(paths[i].whole);
		free(paths[i].lean);
		free(paths[i].opaque);
	}
	free(paths);
}

static void fill_answer(
	const struct lm_resolver *resolver, const struct layer *layer, LayerAnswer *ret, struct paths *ret_paths)
{
	lamella__fetcher__v1__layer_answer__init(ret);
	ret->digest = (char *)layer->digest.s;
	ret->state = layer->state;
	if (layer->state == STATE(UNSPECIFIED)) {
		ret->state = STATE(UNAVAILABLE);
		ret->reason = (char *)"its catalogs were still being fetched when the time was over";
	} else if (layer->reason) {
		ret->reason = layer->reason;
	}
	ret->revision = layer->revision;
	if (!is_served(layer))
		return;
	ret->repository = (char *)lm_repository_fqrn(resolver->config->repositories[layer->repository]);
	const char *why, *no_lean;
	ret_paths->whole = layer_path(resolver, layer, false, LM_IMAGES_LAYER_ROOT, &why);
	if (!ret_paths->whole) {
		ret->state = STATE(UNAVAILABLE);
		ret->reason = (char *)why;
		return;
	}
	ret->path = ret_paths->whole;
	if (layer->lean != NOT_LEAN)
		ret_paths->lean = layer_path(resolver, layer, true, LM_IMAGES_LAYER_ROOT, &no_lean);
	if (ret_paths->lean && layer->lean == LEAN_OPAQUE)
		ret_paths->opaque = layer_path(resolver, layer, true, LAYER_OPAQUE, &no_lean);
	if (ret_paths->lean && (ret_paths->opaque || layer->lean != LEAN_OPAQUE))
		ret->lean_path = ret_paths->lean;
	if (ret_paths->lean && ret_paths->opaque)
		ret->opaque_path = ret_paths->opaque;
}

struct tree_paths {
	char *image, *data;
};

static void tree_paths_done(struct tree_paths *paths)
{
	free(paths->image);
	free(paths->data);
}

/* The content by the lean mount where there is one: all attributes are the image's. */
static void fill_tree(
	const struct lm_resolver *resolver, const struct layer *tree, TreeAnswer *ret, struct tree_paths *ret_paths)
{
	const struct lm_control_config *config = resolver->config;
	const char *hex = tree->digest.s + strlen("sha256:");
	ret->state = tree->state == STATE(UNSPECIFIED) ? STATE(UNAVAILABLE) : tree->state;
	if (!is_served(tree)) {
		ret->reason = tree->reason ? tree->reason : (char *)"it was not found in time";
		return;
	}
	const char *whole = config->mounted_at(config->arg, tree->repository, false);
	const char *lean = config->mounted_at(config->arg, tree->repository, true);
	if (whole) {
		ret_paths->image = lm_str_printf(
			"%s/" LM_IMAGES_OURS "/" LM_IMAGES_TREES "/%.2s/%s/" LM_IMAGES_TREE, whole, hex, hex);
		ret_paths->data = lm_str_printf("%s/" LM_IMAGES_LAYERS, lean ? lean : whole);
	}
	if (!ret_paths->image || !ret_paths->data) {
		ret->state = STATE(UNAVAILABLE);
		ret->reason = (char *)(whole ? "out of memory" : "it is not mounted any more");
		return;
	}
	ret->image = ret_paths->image;
	ret->data = ret_paths->data;
	ret->repository = (char *)lm_repository_fqrn(config->repositories[tree->repository]);
}

/* For people: what is not there is called as it was asked for. */
static void note_answer(const struct lm_resolver *resolver, const struct layer *layer, LayerAnswer answer)
{
	for (int way = 0; way < WAYS && !*answer.digest; way++)
		answer.digest = (char *)layer->names[way].s;
	lm_layers_note(resolver->config->layers, &answer);
}

/* Answers the call with what is known. Later calls of this do nothing. */
static void answer(struct resolve *resolve)
{
	LM_LOCKED(&resolve->lock);
	struct lm_rpc_call *call = STEAL(resolve->call);
	size_t count = resolve->layer_count;
	if (!call)
		return;
	Lamella__Fetcher__V1__ResolveResponse response = LAMELLA__FETCHER__V1__RESOLVE_RESPONSE__INIT;
	CLEANUP(lm_freep) LayerAnswer *answers = calloc(count + 1, sizeof(*answers));
	CLEANUP(lm_freep) LayerAnswer **pointers = calloc(count + 1, sizeof(LayerAnswer *));
	struct paths *paths = calloc(count + 1, sizeof(*paths));
	if (!answers || !pointers || !paths) {
		lm_rpc_fail(call, LM_RPC_RESOURCE_EXHAUSTED, "out of memory");
		paths_free(paths, count);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		fill_answer(resolve->resolver, &resolve->layers[i], &answers[i], &paths[i]);
		pointers[i] = &answers[i];
		note_answer(resolve->resolver, &resolve->layers[i], answers[i]);
	}
	response.n_layers = count;
	response.layers = pointers;
	CLEANUP(tree_paths_done) struct tree_paths tree_paths = {0};
	TreeAnswer tree = LAMELLA__FETCHER__V1__TREE_ANSWER__INIT;
	if (resolve->tree) {
		fill_tree(resolve->resolver, &resolve->layers[count], &tree, &tree_paths);
		response.tree = &tree;
		lm_layers_note_tree(resolve->resolver->config->layers, tree.state);
	}
	lm_rpc_reply(call, &response.base);
	paths_free(paths, count);
}

static void on_deadline(void *arg)
{
	struct resolve *resolve = arg;
	answer(resolve);
	unref(resolve);
}

static void next_round(struct resolve *resolve);

static void waited_for(struct resolve *resolve)
{
	if (atomic_fetch_sub(&resolve->waiting, 1) == 1)
		next_round(resolve);
	unref(resolve);
}

/* A walk's end. reason (may be NULL) is taken over. */
static void settle(struct walk *walk, Lamella__Fetcher__V1__LayerState state, uint64_t revision, char *reason)
{
	struct resolve *resolve = walk->resolve;
	struct layer *layer = &resolve->layers[walk->layer];
	lm_lock_take(&resolve->lock);
	free(layer->reason);
	layer->state = state;
	layer->repository = walk->repository;
	layer->revision = revision;
	layer->lean = walk->lean;
	layer->reason = reason;
	layer->digest = is_served(layer) ? walk->digest : layer->names[BY_DIGEST];
	lm_lock_release(&resolve->lock);
	free(walk->unavailable);
	free(walk);
	waited_for(resolve);
}

static struct lm_repository *repository_of(const struct walk *walk)
{
	return walk->resolve->resolver->config->repositories[walk->repository];
}

/* The repository at hand can't say; others may. */
static void note_unavailable(struct walk *walk, const char *reason)
{
	if (!walk->unavailable)
		walk->unavailable = lm_str_printf("%s: %s", lm_repository_fqrn(repository_of(walk)), reason);
}

/* From the repository's root. */
static void start_at_root(struct walk *walk)
{
	walk->step = 0;
	walk->lean = NOT_LEAN;
	walk->node = lm_repository_node(repository_of(walk));
}

/* Begins with this way, or the next one that was asked for: false when there is none left. */
static bool enter_way(struct walk *walk, enum way way)
{
	const struct layer *layer = &walk->resolve->layers[walk->layer];
	while (way < WAYS && !*layer->names[way].s)
		way++;
	if (way == WAYS)
		return false;
	walk->way = way;
	walk->indexed = way != BY_DIGEST;
	walk->digest = layer->names[way];
	start_at_root(walk);
	return true;
}

/* Begins with the next repository that can be asked: false when there is none left. */
static bool enter_repository(struct walk *walk)
{
	const struct lm_resolver *resolver = walk->resolve->resolver;
	for (; walk->repository < resolver->config->repository_count; walk->repository++) {
		(void)enter_way(walk, BY_DIGEST); /* parse_query() saw that there is one */
		if (resolver->config->mounted_at(resolver->config->arg, walk->repository, false))
			return true;
		struct lm_repository_status status;
		lm_repository_status(repository_of(walk), &status);
		note_unavailable(walk, status.last_error.msg[0] ? status.last_error.msg : "it is not mounted");
	}
	return false;
}

/* What is not there in one way may be there in another, and then in another repository: false when none is left. */
static bool leave(struct walk *walk)
{
	if (enter_way(walk, walk->way + 1))
		return true;
	/* Offline, "not there" is only what was true at the last look. */
	struct lm_repository_status status;
	lm_repository_status(repository_of(walk), &status);
	if (status.offline)
		note_unavailable(walk, status.last_error.msg);
	walk->repository++;
	return enter_repository(walk);
}

/* 0; LM_NEED; or an error: then it is served as one that has attributes. */
static int look_for_attributes(struct walk *walk, struct lm_err *err)
{
	struct lm_tree *tree = lm_repository_tree(repository_of(walk));
	struct lm_entry opaque;
	bool lean = false;
	int r = lm_tree_is_lean(tree, walk->node, &lean, &walk->need, err);
	if (r == 0 && !lean)
		r = lm_tree_lookup(tree, walk->folder, LAYER_OPAQUE, &opaque, &walk->need, err);
	if (r == 0)
		walk->lean = lean ? LEAN : S_ISDIR(opaque.attr.st_mode) ? LEAN_OPAQUE : NOT_LEAN;
	return r;
}

enum { STEPS_TO_FOLDER = 3, STEPS_TO_LAYER = 4, STEPS_TO_MARKER = 5, STEPS_TO_TREE = 5, STEPS_TO_ENTRY = 4 };

static bool is_tree(const struct walk *walk)
{
	return walk->layer == walk->resolve->layer_count;
}

/* The same as take_step(), towards a tree. */
static int step_to_tree(struct walk *walk, const char *folder, const char *hex, struct lm_err *err)
{
	const char *const names[STEPS_TO_TREE] = {LM_IMAGES_OURS, LM_IMAGES_TREES, folder, hex, LM_IMAGES_TREE};
	struct lm_entry entry;
	struct lm_tree *tree = lm_repository_tree(repository_of(walk));
	int r = lm_tree_lookup(tree, walk->node, names[walk->step], &entry, &walk->need, err);
	if (r != 0)
		return r;
	walk->node = entry.node;
	walk->step++;
	bool last = walk->step == STEPS_TO_TREE;
	if (last ? !S_ISREG(entry.attr.st_mode) : !S_ISDIR(entry.attr.st_mode))
		return lm_err_set(err, -ENOTDIR, "%s is of another type than it should be", names[walk->step - 1]);
	return 0;
}

static const char *const way_names[WAYS] = {"digest", "chain id", "diff id"};

/* What a layer is called in the index is a link to it, and to nothing else: it is read here, the kernel never follows
 * it. */
static int follow_entry(struct walk *walk, const struct lm_entry *entry, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf target = LM_BUF(LM_REPO_PATH_MAX);
	int r = S_ISLNK(entry->attr.st_mode) ? lm_tree_readlink(lm_repository_tree(repository_of(walk)), entry->node,
						       &target, &walk->need, err)
					     : lm_err_set(err, -EPROTO, "it is no link");
	if (r == 0)
		r = lm_images_entry_parse(lm_buf_cstr(&target), &walk->digest, err);
	if (r < 0)
		return lm_err_prefix(err, r, "the index's entry of %s %s", way_names[walk->way], walk->digest.s);
	if (r == 0) {
		walk->indexed = false;
		start_at_root(walk);
	}
	return r;
}

/* The same through the index. */
static int step_to_entry(struct walk *walk, const char *folder, const char *hex, struct lm_err *err)
{
	const char *const names[STEPS_TO_ENTRY] = {
		LM_IMAGES_OURS, walk->way == BY_CHAIN_ID ? LM_IMAGES_CHAINS : LM_IMAGES_DIFFS, folder, hex};
	struct lm_entry entry;
	int r = lm_tree_lookup(
		lm_repository_tree(repository_of(walk)), walk->node, names[walk->step], &entry, &walk->need, err);
	if (r != 0)
		return r;
	if (walk->step == STEPS_TO_ENTRY - 1)
		return follow_entry(walk, &entry, err);
	if (!S_ISDIR(entry.attr.st_mode))
		return lm_err_set(err, -EPROTO, "the index's %s is no directory", names[walk->step]);
	walk->node = entry.node;
	walk->step++;
	return 0;
}

/* 0: node and step are one further, or -ENOENT; LM_NEED; or an error. */
static int take_step(struct walk *walk, struct lm_err *err)
{
	const char *hex = walk->digest.s + strlen("sha256:");
	const char folder[3] = {hex[0], hex[1], '\0'};
	if (is_tree(walk))
		return step_to_tree(walk, folder, hex, err);
	if (walk->indexed)
		return step_to_entry(walk, folder, hex, err);
	const char *const names[] = {LM_IMAGES_LAYERS, folder, hex, LM_IMAGES_LAYER_ROOT, ".cvmfscatalog"};
	struct lm_tree *tree = lm_repository_tree(repository_of(walk));
	struct lm_entry entry;
	int r = lm_tree_lookup(tree, walk->node, names[walk->step], &entry, &walk->need, err);
	if (r == -ENOENT && walk->step == STEPS_TO_LAYER) {
		struct lm_err unknown = LM_ERR_INIT;
		return look_for_attributes(walk, &unknown) == LM_NEED ? LM_NEED : r;
	}
	if (r != 0)
		return r;
	if (walk->step < STEPS_TO_LAYER && !S_ISDIR(entry.attr.st_mode))
		return lm_err_set(err, -ENOTDIR, "%s is not a directory", names[walk->step]);
	walk->node = entry.node;
	walk->step++;
	if (walk->step == STEPS_TO_FOLDER)
		walk->folder = walk->node;
	return 0;
}

static uint64_t current_revision(const struct walk *walk)
{
	struct lm_repository_status status;
	lm_repository_status(repository_of(walk), &status);
	return status.revision;
}

/* In none of them, each at the revision that is said. */
static void settle_absent(struct walk *walk)
{
	const struct lm_control_config *config = walk->resolve->resolver->config;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(4096);
	const struct layer *layer = &walk->resolve->layers[walk->layer];
	uint64_t revision = 0;
	int r = lm_buf_str(&text, *layer->names[BY_DIGEST].s	 ? "no configured repository has it"
				  : *layer->names[BY_CHAIN_ID].s ? "no configured repository knows its chain id"
								 : "no configured repository knows its diff id");
	for (size_t i = 0; i < config->repository_count && r == 0; i++) {
		struct lm_repository_status status;
		lm_repository_status(config->repositories[i], &status);
		revision = status.revision;
		r = lm_buf_printf(&text, "%s %s revision %llu", i == 0 ? ":" : ",",
			lm_repository_fqrn(config->repositories[i]), (unsigned long long)revision);
	}
	settle(walk, STATE(ABSENT), config->repository_count == 1 ? revision : 0, strdup(lm_buf_cstr(&text)));
}

static void walk_on(struct walk *walk);

static void on_catalog(void *arg, int code, int fd, const struct lm_err *err)
{
	struct walk *walk = arg;
	if (code < 0) {
		note_unavailable(walk, lm_err_text(err));
		if (!leave(walk)) {
			settle(walk, STATE(UNAVAILABLE), 0, STEAL(walk->unavailable));
			return;
		}
	}
	walk_on(walk);
}

/* Whether the walk can go on at once; else it is not the caller's any more. */
static bool fetch_need(struct walk *walk)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_closep) int fd = -1;
	int r = lm_fetch_object(lm_repository_fetch(repository_of(walk)), &walk->need, LM_HTTP_BLOCKED_READ, on_catalog,
		walk, &fd, &err);
	if (r < 0)
		on_catalog(walk, r, -1, &err);
	return r == 0;
}

static void walk_on(struct walk *walk)
{
	bool more = walk->repository < walk->resolve->resolver->config->repository_count;
	while (more) {
		struct lm_err err = LM_ERR_INIT;
		int r = take_step(walk, &err);
		if (r == LM_NEED) {
			if (!fetch_need(walk))
				return;
			continue;
		}
		if (r == 0 && walk->indexed)
			continue;
		if (r == 0 && is_tree(walk) && walk->step == STEPS_TO_TREE) {
			settle(walk, STATE(FAITHFUL), current_revision(walk), NULL);
			return;
		}
		if (r == 0 && walk->step == STEPS_TO_MARKER && !is_tree(walk)) {
			settle(walk, STATE(LOSSY), current_revision(walk),
				strdup("written by stock tools, which drop owners, extended attributes and hard "
				       "links"));
			return;
		}
		if (r == -ENOENT && walk->step == STEPS_TO_LAYER && !is_tree(walk)) {
			settle(walk, STATE(FAITHFUL), current_revision(walk), NULL);
			return;
		}
		if (r < 0) {
			if (r != -ENOENT && r != -ENOTDIR)
				note_unavailable(walk, lm_err_text(&err));
			more = leave(walk);
		}
	}
	if (walk->unavailable)
		settle(walk, STATE(UNAVAILABLE), 0, STEAL(walk->unavailable));
	else
		settle_absent(walk);
}

/* Looks up, all at once, the layers that are not found yet, and the tree once. */
static void start_round(struct resolve *resolve)
{
	/* One more than there are walks, so that the round does not end while it is being started. */
	atomic_store(&resolve->waiting, 1);
	ref(resolve);
	size_t count = resolve->layer_count + (resolve->tree && resolve->round == 0);
	for (size_t i = 0; i < count; i++) {
		lm_lock_take(&resolve->lock);
		bool skip = is_served(&resolve->layers[i]);
		lm_lock_release(&resolve->lock);
		struct walk *walk = skip ? NULL : calloc(1, sizeof(*walk));
		if (!walk)
			continue; /* without memory the layer's state stays what it was */
		walk->resolve = resolve;
		walk->layer = i;
		atomic_fetch_add(&resolve->waiting, 1);
		ref(resolve);
		(void)enter_repository(walk);
		walk_on(walk);
	}
	waited_for(resolve);
}

static void on_looked(void *arg)
{
	waited_for(arg);
}

/* Has repositories look for a new revision that did not do so just now; false: there are none. */
static bool look_for_news(struct resolve *resolve)
{
	const struct lm_control_config *config = resolve->resolver->config;
	bool any = false;
	atomic_store(&resolve->waiting, 1);
	ref(resolve);
	for (size_t i = 0; i < config->repository_count; i++) {
		struct lm_repository_status status;
		struct lm_repository *repository = config->repositories[i];
		lm_repository_status(repository, &status);
		if (lm_now_ms() - status.looked_ms < LM_CONTROL_FRESH_MS)
			continue;
		any = true;
		atomic_fetch_add(&resolve->waiting, 1);
		ref(resolve);
		if (lm_repository_look(repository, false, on_looked, resolve) < 0)
			waited_for(resolve);
	}
	if (any)
		waited_for(resolve);
	else
		unref(resolve);
	return any;
}

/* Rounds: 0 look-ups, 1 looks for new revisions, 2 look-ups of what was missing, then the answer. */
static void next_round(struct resolve *resolve)
{
	bool all = true;
	lm_lock_take(&resolve->lock);
	for (size_t i = 0; i < resolve->layer_count; i++)
		all &= is_served(&resolve->layers[i]);
	bool answered = !resolve->call;
	lm_lock_release(&resolve->lock);
	resolve->round++;
	if (!all && !answered && resolve->round == 1 && look_for_news(resolve))
		return;
	if (!all && !answered && resolve->round == 2) {
		start_round(resolve);
		return;
	}
	answer(resolve);
}

static int parse_query(const Lamella__Fetcher__V1__LayerQuery *query, struct layer *ret, struct lm_err *err)
{
	const char *const texts[WAYS] = {query->digest, query->chain_id, query->diff_id};
	bool any = false;
	for (int way = 0; way < WAYS; way++) {
		if (!*texts[way])
			continue;
		if (!lm_images_digest_parse(texts[way], &ret->names[way]))
			return lm_err_set(
				err, -EINVAL, "%s \"%.100s\" is no sha256 digest", way_names[way], texts[way]);
		any = true;
	}
	ret->digest = ret->names[BY_DIGEST];
	return any ? 0 : lm_err_set(err, -EINVAL, "a layer without digest, chain id or diff id");
}

/* The tree is known by the chain of layers. */
static int name_tree(struct resolve *resolve, struct lm_err *err)
{
	const char *digests[LM_CONTROL_LAYERS_MAX];
	struct lm_chain_hex chain;
	struct layer *tree = &resolve->layers[resolve->layer_count];
	for (size_t i = 0; i < resolve->layer_count; i++) {
		digests[i] = resolve->layers[i].names[BY_DIGEST].s;
		if (!*digests[i])
			return lm_err_set(err, -EINVAL, "a tree is known by its layers' digests, and one is not said");
	}
	int r = lm_images_chain(digests, resolve->layer_count, &chain, err);
	if (r < 0)
		return r;
	snprintf(tree->digest.s, sizeof(tree->digest.s), "sha256:%s", chain.s);
	tree->names[BY_DIGEST] = tree->digest;
	return 0;
}

static int parse_request(const Lamella__Fetcher__V1__ResolveRequest *request, struct resolve **ret, struct lm_err *err)
{
	size_t count = request->n_layers;
	if (count > LM_CONTROL_LAYERS_MAX)
		return lm_err_set(err, -EINVAL, "%zu layers; %d at most", count, LM_CONTROL_LAYERS_MAX);
	CLEANUP(lm_freep) struct resolve *resolve = calloc(1, sizeof(*resolve) + (count + 1) * sizeof(struct layer));
	if (!resolve)
		return lm_err_oom(err);
	int r = 0;
	for (size_t i = 0; i < count && r == 0; i++)
		r = parse_query(request->layers[i], &resolve->layers[i], err);
	resolve->layer_count = count;
	resolve->tree = request->tree;
	if (r == 0 && resolve->tree)
		r = name_tree(resolve, err);
	if (r < 0)
		return r;
	*ret = STEAL(resolve);
	return 0;
}

/* False when the service is being stopped. */
static bool enlist(struct lm_resolver *resolver, struct resolve *resolve)
{
	LM_LOCKED(&resolver->lock);
	if (resolver->stopping)
		return false;
	LIST_INSERT_HEAD(&resolver->running, resolve, entry);
	resolve->listed = true;
	resolve->refs = 2; /* the handler's and the deadline's */
	return true;
}

void lm_resolver_handle(struct lm_resolver *resolver, struct lm_rpc_call *call)
{
	struct lm_err err = LM_ERR_INIT;
	struct resolve *resolve = NULL;
	int r = parse_request((const Lamella__Fetcher__V1__ResolveRequest *)lm_rpc_request(call), &resolve, &err);
	if (r < 0) {
		lm_rpc_fail(call, r == -EINVAL ? LM_RPC_INVALID_ARGUMENT : LM_RPC_RESOURCE_EXHAUSTED, "%s", err.msg);
		return;
	}
	unsigned left_ms = lm_rpc_time_left_ms(call);
	unsigned deadline_ms = left_ms > ANSWER_MARGIN_MS ? left_ms - ANSWER_MARGIN_MS : left_ms;
	lm_lock_init(&resolve->lock);
	resolve->resolver = resolver;
	resolve->call = call;
	if (!enlist(resolver, resolve)) {
		lm_rpc_fail(call, LM_RPC_UNAVAILABLE, "the fetcher is being stopped");
		lm_lock_done(&resolve->lock);
		free(resolve);
		return;
	}
	if (lm_http_call(resolver->config->http, LM_MIN(deadline_ms, (unsigned)LM_CONTROL_DEADLINE_MS), on_deadline,
		    resolve) < 0)
		on_deadline(resolve); /* without a clock no promise can be made */
	start_round(resolve);
	unref(resolve);
}

/* The resolver. */

int lm_resolver_new(const struct lm_control_config *config, struct lm_resolver **ret, struct lm_err *err)
{
	struct lm_resolver *resolver = calloc(1, sizeof(*resolver));
	if (!resolver)
		return lm_err_oom(err);
	resolver->config = config;
	lm_lock_init(&resolver->lock);
	LIST_INIT(&resolver->running);
	*ret = resolver;
	return 0;
}

/* A running call that is still unanswered, with a reference on it; NULL: none. */
static struct resolve *next_unanswered(struct lm_resolver *resolver)
{
	LM_LOCKED(&resolver->lock);
	struct resolve *resolve = LIST_FIRST(&resolver->running);
	if (resolve) {
		LIST_REMOVE(resolve, entry);
		resolve->listed = false;
		resolve->refs++;
	}
	return resolve;
}

void lm_resolver_stop(struct lm_resolver *resolver)
{
	lm_lock_take(&resolver->lock);
	resolver->stopping = true;
	lm_lock_release(&resolver->lock);
	struct resolve *resolve;
	while ((resolve = next_unanswered(resolver))) {
		answer(resolve);
		unref(resolve);
	}
}

void lm_resolver_free(struct lm_resolver *resolver)
{
	if (!resolver)
		return;
	lm_lock_done(&resolver->lock);
	free(resolver);
}
