#include "snapshotter/policy.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/str.h"
#include "rpc/rpc.h"

#include "lamella/fetcher.pb-c.h"

#include <limits.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define DIGEST_PREFIX "sha256:"
#define DIGEST_LEN (sizeof(DIGEST_PREFIX) - 1 + 64)
#define RESTART_MS 2000 /* how long a fetcher that is away is waited for */
#define REASON_MAX 512	/* bytes of the fetcher's words that are passed on */

enum state { NONE, SERVED, ABSENT, UNAVAILABLE };

/* What a layer is called in a question. "": not said; all bytes behind an end are 0. */
struct names {
	char digest[DIGEST_LEN + 1], chain_id[DIGEST_LEN + 1], diff_id[DIGEST_LEN + 1];
};

/*
 * What is known of one layer, by all that was said of it: one that is absent by its digest may be there by its chain
 * id. Entries are pinned while a thread works with them.
 */
struct known {
	struct names names;
	char digest[DIGEST_LEN + 1]; /* of the one that is served */
	enum state state;
	bool asking; /* some thread is asking */
	unsigned pins;
	int64_t answered_ms;
	int code; /* why it is UNAVAILABLE */
	char *path, *lean, *opaque, *note, *source, *reason;
};

struct lm_policy {
	/* constant */
	struct lm_rpc_client *client;
	unsigned timeout_ms;
	char *socket;
	const char *who;
	/* under lock */
	struct lm_lock lock;
	struct lm_fetcher_seen seen;
	struct lm_cond answered;
	void *entries; /* tree by names */
	size_t count;
	int64_t silent_ms;     /* when the last question ended without an answer; 0: it had one */
	struct lm_err silence; /* why */
};

/* For how long an answer of each state will do. */
struct freshness {
	int64_t served_ms, absent_ms, unavailable_ms;
};
static const struct freshness for_pull = {LM_POLICY_SERVED_MS, LM_POLICY_ABSENT_MS, LM_POLICY_UNAVAILABLE_MS};
static const struct freshness for_start = {LM_POLICY_CHECK_MS, LM_POLICY_CHECK_FAILED_MS, LM_POLICY_CHECK_FAILED_MS};

static const char *const on_miss_names[] = {
	[LM_ON_MISS_PULL] = "pull", [LM_ON_MISS_WARN] = "warn", [LM_ON_MISS_FAIL] = "fail"};

const char *lm_on_miss_name(enum lm_on_miss on_miss)
{
	return on_miss_names[on_miss];
}

bool lm_on_miss_parse(const char *text, enum lm_on_miss *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(on_miss_names); i++) {
		if (strcmp(text, on_miss_names[i]) == 0) {
			*ret = (enum lm_on_miss)i;
			return true;
		}
	}
	return false;
}

/* Labels. */

static bool is_digest(const char *text, size_t len)
{
	uint8_t bytes[32];
	return len == DIGEST_LEN && strncmp(text, DIGEST_PREFIX, sizeof(DIGEST_PREFIX) - 1) == 0 &&
	       lm_hex_parse(text + sizeof(DIGEST_PREFIX) - 1, bytes, sizeof(bytes)) == 0;
}

/* NULL: not there, or of another form. */
static const char *digest_label(const struct lm_labels *labels, const char *name)
{
	const char *value = lm_labels_get(labels, name);
	return value && is_digest(value, strlen(value)) ? value : NULL;
}

static void take_name(char ret[DIGEST_LEN + 1], const char *value)
{
	if (value)
		memcpy(ret, value, DIGEST_LEN + 1);
}

const char *lm_policy_digest(const struct lm_labels *labels)
{
	const char *digest = digest_label(labels, LM_LABEL_CRI_LAYER);
	return digest ? digest : digest_label(labels, LM_LABEL_STARGZ_LAYER);
}

static struct names names_in(const struct lm_labels *labels)
{
	struct names names = {0};
	take_name(names.digest, lm_policy_digest(labels));
	take_name(names.chain_id, digest_label(labels, LM_LABEL_REF));
	take_name(names.diff_id, digest_label(labels, LM_LABEL_DIFF_ID));
	return names;
}

const char *lm_policy_wanted(const struct lm_labels *labels)
{
	const char *value = lm_policy_digest(labels);
	if (!value)
		value = digest_label(labels, LM_LABEL_REF);
	return value ? value : digest_label(labels, LM_LABEL_DIFF_ID);
}

static const char *name_of(const struct names *names)
{
	return *names->digest ? names->digest : *names->chain_id ? names->chain_id : names->diff_id;
}

static bool only_digest(const struct names *names)
{
	return !*names->chain_id && !*names->diff_id;
}

/* The layers to ask for: the wanted one first, then those above it in the image. */
struct questions {
	struct names *items;
	size_t count;
};

static void questions_done(struct questions *questions)
{
	free(questions->items);
}

static void add_digest(struct questions *questions, const char *text, size_t len)
{
	if (!is_digest(text, len) || questions->count == LM_POLICY_ASK_MAX)
		return;
	for (size_t i = 0; i < questions->count; i++)
		if (memcmp(questions->items[i].digest, text, len) == 0)
			return;
	memcpy(questions->items[questions->count++].digest, text, len);
}

static int questions_alloc(struct questions *questions, struct lm_err *err)
{
	questions->items = calloc(LM_POLICY_ASK_MAX, sizeof(*questions->items));
	return questions->items ? 0 : lm_err_oom(err);
}

static void add_image_layers(struct questions *questions, const struct lm_labels *labels)
{
	const char *list = lm_labels_get(labels, LM_LABEL_CRI_LAYERS);
	if (!list)
		list = lm_labels_get(labels, LM_LABEL_STARGZ_LAYERS);
	while (list && *list) {
		size_t len = strcspn(list, ",");
		add_digest(questions, list, len);
		list += len + (list[len] == ',');
	}
}

/* The table of answers. */

static int compare_entries(const void *a, const void *b)
{
	return memcmp(&((const struct known *)a)->names, &((const struct known *)b)->names, sizeof(struct names));
}

static void entry_free(void *p)
{
	struct known *entry = p;
	if (!entry)
		return;
	free(entry->path);
	free(entry->lean);
	free(entry->opaque);
	free(entry->note);
	free(entry->source);
	free(entry->reason);
	free(entry);
}

struct oldest {
	struct known *entry;
};

static void find_oldest(const void *tree, VISIT visit, void *arg)
{
	struct oldest *oldest = arg;
	struct known *entry = *(struct known *const *)tree;
	if (visit != postorder && visit != leaf)
		return;
	if (entry->pins == 0 && (!oldest->entry || entry->answered_ms < oldest->entry->answered_ms))
		oldest->entry = entry;
}

/* lock held */
static void make_room(struct lm_policy *policy)
{
	struct oldest oldest = {0};
	if (policy->count < LM_POLICY_CACHE_MAX)
		return;
	twalk_r(policy->entries, find_oldest, &oldest);
	if (!oldest.entry)
		return; /* all in use by threads, whose number is limited */
	tdelete(oldest.entry, &policy->entries, compare_entries);
	entry_free(oldest.entry);
	policy->count--;
}

/* lock held; the entry is pinned. NULL: no memory */
static struct known *pin(struct lm_policy *policy, const struct names *names)
{
	const struct known probe = {.names = *names};
	struct known **found = tfind(&probe, &policy->entries, compare_entries);
	if (!found) {
		make_room(policy);
		struct known *entry = calloc(1, sizeof(*entry));
		if (!entry)
			return NULL;
		entry->names = *names;
		found = tsearch(entry, &policy->entries, compare_entries);
		if (!found) {
			entry_free(entry);
			return NULL;
		}
		policy->count++;
	}
	(*found)->pins++;
	return *found;
}

/* lock held */
static bool is_fresh(const struct known *entry, const struct freshness *fresh)
{
	int64_t age_ms = lm_now_ms() - entry->answered_ms;
	switch (entry->state) {
	case SERVED:
		return age_ms < fresh->served_ms;
	case ABSENT:
		return age_ms < fresh->absent_ms;
	case UNAVAILABLE:
		return age_ms < fresh->unavailable_ms;
	case NONE:
		break;
	}
	return false;
}

/* lock held. Without memory for the words, the state still counts. */
static void set_answer(struct known *entry, enum state state, const char *path, const char *note, const char *reason)
{
	free(entry->path);
	free(entry->lean);
	free(entry->opaque);
	free(entry->note);
	free(entry->source);
	free(entry->reason);
	entry->path = path ? strdup(path) : NULL;
	entry->lean = NULL;
	entry->opaque = NULL;
	entry->source = NULL;
	entry->note = note && *note ? lm_str_printf("%.*s", REASON_MAX, note) : NULL;
	entry->reason = reason && *reason ? lm_str_printf("%.*s", REASON_MAX, reason) : NULL;
	entry->state = state == SERVED && !entry->path ? UNAVAILABLE : state;
	entry->code = -EAGAIN;
	entry->answered_ms = lm_now_ms();
	entry->asking = false;
}

/* Asking. */

static bool is_usable(const char *path)
{
	return path[0] == '/' && strlen(path) < PATH_MAX;
}

/* lock held; if memory is short, the other path will do */
static void take_lean(struct known *entry, const Lamella__Fetcher__V1__LayerAnswer *answer)
{
	bool opaque = *answer->opaque_path;
	if (!is_usable(answer->lean_path) || (opaque && !is_usable(answer->opaque_path)))
		return;
	entry->opaque = opaque ? strdup(answer->opaque_path) : NULL;
	entry->lean = !opaque || entry->opaque ? strdup(answer->lean_path) : NULL;
}

/* lock held */
static void set_refusal(const struct lm_policy *policy, struct known *entry, const char *what)
{
	struct lm_err why = LM_ERR_INIT;
	(void)lm_err_set(&why, -EAGAIN, "%s %s", policy->who, what);
	set_answer(entry, UNAVAILABLE, NULL, NULL, lm_err_text(&why));
}

/* lock held */
static void take_answer(
	const struct lm_policy *policy, struct known *entry, const Lamella__Fetcher__V1__LayerAnswer *answer)
{
	bool served = answer->state == LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_FAITHFUL ||
		      answer->state == LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_LOSSY;
	/* By its chain id a layer may be found that has another digest. */
	bool other = strcmp(answer->digest, entry->names.digest) != 0;
	bool may_be_other = served && !only_digest(&entry->names) && is_digest(answer->digest, strlen(answer->digest));
	if (other && !may_be_other) {
		set_refusal(policy, entry, "answered for another layer");
		return;
	}
	if (served)
		memcpy(entry->digest, answer->digest, DIGEST_LEN + 1);
	switch (answer->state) {
	case LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_FAITHFUL:
	case LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_LOSSY:
		if (!is_usable(answer->path))
			set_refusal(policy, entry, "named no usable path");
		else if (answer->state == LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_FAITHFUL)
			set_answer(entry, SERVED, answer->path, NULL, NULL);
		else
			set_answer(entry, SERVED, answer->path, *answer->reason ? answer->reason : "lossy", NULL);
		if (entry->state == SERVED) {
			take_lean(entry, answer);
			entry->source = lm_str_printf("%.*s", REASON_MAX, answer->repository);
		}
		break;
	case LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_ABSENT:
		set_answer(entry, ABSENT, NULL, NULL, *answer->reason ? answer->reason : "in no configured repository");
		break;
	default:
		set_answer(entry, UNAVAILABLE, NULL, NULL, answer->reason);
		break;
	}
}

static int invoke_resolve(struct lm_policy *policy, const Lamella__Fetcher__V1__ResolveRequest *request,
	unsigned timeout_ms, bool wait_ready, Lamella__Fetcher__V1__ResolveResponse **ret, struct lm_err *err)
{
	return lm_rpc_invoke(policy->client, "/lamella.fetcher.v1.Fetcher/Resolve", &request->base,
		&lamella__fetcher__v1__resolve_response__descriptor, timeout_ms, wait_ready, (ProtobufCMessage **)ret,
		NULL, err);
}

static int try_fetcher(struct lm_policy *policy, const struct names *const *names, size_t count, bool tree,
	Lamella__Fetcher__V1__ResolveResponse **ret, struct lm_err *err)
{
	CLEANUP(lm_freep) Lamella__Fetcher__V1__LayerQuery *queries = calloc(count, sizeof(*queries));
	CLEANUP(lm_freep) Lamella__Fetcher__V1__LayerQuery **pointers = calloc(count, sizeof(*pointers));
	if (!queries || !pointers)
		return lm_err_oom(err);
	for (size_t i = 0; i < count; i++) {
		queries[i] = (Lamella__Fetcher__V1__LayerQuery)LAMELLA__FETCHER__V1__LAYER_QUERY__INIT;
		queries[i].digest = (char *)names[i]->digest;
		queries[i].chain_id = (char *)names[i]->chain_id;
		queries[i].diff_id = (char *)names[i]->diff_id;
		pointers[i] = &queries[i];
	}
	Lamella__Fetcher__V1__ResolveRequest request = LAMELLA__FETCHER__V1__RESOLVE_REQUEST__INIT;
	request.layers = pointers;
	request.n_layers = count;
	request.tree = tree;
	int64_t until_ms = lm_now_ms() + policy->timeout_ms;
	int r = invoke_resolve(policy, &request, policy->timeout_ms, false, ret, err);
	int64_t left_ms = until_ms - lm_now_ms();
	if (r != -EAGAIN || left_ms <= 0)
		return r;
	/* Away: it may just be starting again, which must not cost the download of an image. */
	return invoke_resolve(policy, &request, (unsigned)LM_MIN(left_ms, RESTART_MS), true, ret, err);
}

int lm_policy_listens(struct lm_policy *policy, struct lm_err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(policy->socket) >= sizeof(address.sun_path))
		return lm_err_set(err, -ECONNREFUSED, "%s is too long for a socket", policy->socket);
	strcpy(address.sun_path, policy->socket);
	CLEANUP(lm_closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return lm_err_sys(err, -errno, "make a socket");
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return 0;
	if (errno == EAGAIN)
		return lm_err_set(err, -ETIMEDOUT, "%s takes no connections", policy->socket);
	return lm_err_set(err, -ECONNREFUSED, errno == ENOENT ? "%s is not there%s%s" : "nobody listens at %s%s%s",
		policy->socket, errno == ENOENT || errno == ECONNREFUSED ? "" : ": ",
		errno == ENOENT || errno == ECONNREFUSED ? "" : strerror(errno));
}

/* What grpc says of a server that is away or silent is much the same; what the socket says differs. One that is there
 * and "unavailable" at once has said so itself. */
static int explain(struct lm_policy *policy, int r, int64_t took_ms, struct lm_err *err)
{
	if (r != -EAGAIN && r != -ETIMEDOUT)
		return r;
	struct lm_err why = LM_ERR_INIT;
	if (lm_policy_listens(policy, &why) == -ECONNREFUSED)
		return lm_err_set(err, -ECONNREFUSED, "%s does not answer: %s", policy->who, lm_err_text(&why));
	if (r == -EAGAIN && took_ms < RESTART_MS)
		return r;
	return lm_err_set(err, -ETIMEDOUT, "%s does not answer: nothing came from %s in %lld.%03lld s", policy->who,
		policy->socket, (long long)took_ms / 1000, (long long)took_ms % 1000);
}

static void see(struct lm_policy *policy, int r, const struct lm_err *err)
{
	enum lm_fetcher_state state = r == 0		   ? LM_FETCHER_ANSWERS
				      : r == -ECONNREFUSED ? LM_FETCHER_UNREACHABLE
				      : r == -ETIMEDOUT	   ? LM_FETCHER_SILENT
							   : LM_FETCHER_FAILS;
	LM_LOCKED(&policy->lock);
	struct lm_fetcher_seen *seen = &policy->seen;
	int64_t now_ms = lm_now_ms();
	seen->waiting--;
	seen->questions++;
	if (state != seen->state)
		seen->since_ms = now_ms;
	seen->state = state;
	if (r == 0) {
		seen->answered_ms = now_ms;
		return;
	}
	seen->failures++;
	seen->failed_ms = now_ms;
	seen->failure = *err;
}

static int call_fetcher(struct lm_policy *policy, const struct names *const *names, size_t count, bool tree,
	Lamella__Fetcher__V1__ResolveResponse **ret, struct lm_err *err)
{
	int64_t began_ms = lm_now_ms();
	lm_lock_take(&policy->lock);
	policy->seen.waiting++;
	lm_lock_release(&policy->lock);
	int r = try_fetcher(policy, names, count, tree, ret, err);
	if (r == 0 && (*ret)->n_layers != count) {
		r = lm_err_set(err, -EPROTO, "%zu answers to %zu questions", (*ret)->n_layers, count);
		lamella__fetcher__v1__resolve_response__free_unpacked(STEAL(*ret), NULL);
	}
	if (r < 0)
		r = explain(policy, r, lm_now_ms() - began_ms, err);
	if (r < 0 && r != -ECONNREFUSED && r != -ETIMEDOUT)
		(void)lm_err_prefix(err, r, "%s does not answer", policy->who);
	struct lm_err problem = LM_ERR_INIT;
	if (r == 0 && *(*ret)->problem)
		see(policy, lm_err_set(&problem, -EIO, "%s", (*ret)->problem), &problem);
	else
		see(policy, r, err);
	return r;
}

struct lm_fetcher_seen lm_policy_seen(struct lm_policy *policy)
{
	LM_LOCKED(&policy->lock);
	return policy->seen;
}

/* lock held. What was found is known by its digest alone, too: that is what containers' starts ask for. */
static void share_answer(struct lm_policy *policy, const struct known *from)
{
	struct names names = {0};
	if (from->state != SERVED || only_digest(&from->names))
		return;
	memcpy(names.digest, from->digest, sizeof(names.digest));
	struct known *entry = pin(policy, &names);
	if (!entry)
		return; /* it will be asked for */
	if (!entry->asking) {
		set_answer(entry, SERVED, from->path, from->note, NULL);
		memcpy(entry->digest, from->digest, sizeof(entry->digest));
		entry->opaque = from->opaque ? strdup(from->opaque) : NULL;
		entry->lean = from->lean && (!from->opaque || entry->opaque) ? strdup(from->lean) : NULL;
		entry->source = from->source ? strdup(from->source) : NULL;
	}
	entry->pins--;
}

/*
 * The entries are ours to ask for (pinned, asking). Each has an answer afterwards, if only that there is none. All hear
 * it, so how long our own caller has left does not matter: a fetcher that did not answer in that time is not silent.
 */
static void ask(struct lm_policy *policy, struct known **entries, size_t count)
{
	struct lm_err err = LM_ERR_INIT;
	Lamella__Fetcher__V1__ResolveResponse *response = NULL;
	CLEANUP(lm_freep) const struct names **names = calloc(count, sizeof(*names));
	for (size_t i = 0; i < count && names; i++)
		names[i] = &entries[i]->names;
	int r = names ? call_fetcher(policy, names, count, false, &response, &err) : lm_err_oom(&err);
	lm_lock_take(&policy->lock);
	policy->silent_ms = r < 0 ? lm_now_ms() : 0;
	if (r < 0) {
		policy->silence = err;
		policy->silence.code = r == -ECONNREFUSED || r == -ETIMEDOUT ? r : -EAGAIN;
	}
	for (size_t i = 0; i < count; i++) {
		if (r < 0) {
			set_answer(entries[i], UNAVAILABLE, NULL, NULL, lm_err_text(&err));
			entries[i]->code = policy->silence.code;
		} else {
			take_answer(policy, entries[i], response->layers[i]);
			share_answer(policy, entries[i]);
		}
	}
	lm_cond_broadcast(&policy->answered);
	lm_lock_release(&policy->lock);
	if (response)
		lamella__fetcher__v1__resolve_response__free_unpacked(response, NULL);
}

/* What one thread is resolving: entries pinned in the order of its questions, and those among them that it asks for. */
struct resolution {
	struct lm_policy *policy;
	struct known **entries, **to_ask;
	size_t count, n_to_ask;
};

static int resolution_begin(struct resolution *r, struct lm_policy *policy, const struct questions *questions,
	const struct freshness *fresh, struct lm_err *err)
{
	r->policy = policy;
	r->entries = calloc(questions->count + 1, sizeof(*r->entries));
	r->to_ask = calloc(questions->count + 1, sizeof(*r->to_ask));
	if (!r->entries || !r->to_ask)
		return lm_err_oom(err);
	LM_LOCKED(&policy->lock);
	for (; r->count < questions->count; r->count++) {
		struct known *entry = pin(policy, &questions->items[r->count]);
		if (!entry)
			return lm_err_oom(err);
		r->entries[r->count] = entry;
		if (entry->asking || is_fresh(entry, fresh))
			continue;
		entry->asking = true;
		r->to_ask[r->n_to_ask++] = entry;
	}
	return 0;
}

static void resolution_done(struct resolution *r)
{
	if (r->policy) {
		LM_LOCKED(&r->policy->lock);
		for (size_t i = 0; i < r->count; i++)
			r->entries[i]->pins--;
		/* Only after a failure half-way: nobody will answer these. */
		for (size_t i = 0; i < r->n_to_ask; i++)
			if (r->to_ask[i]->asking)
				set_answer(r->to_ask[i], UNAVAILABLE, NULL, NULL, "out of memory");
		lm_cond_broadcast(&r->policy->answered);
	}
	free(r->entries);
	free(r->to_ask);
}

/* Others' questions end by their own deadlines; ours is not put off by them. */
static void wait_for_others(struct lm_policy *policy, struct known **entries, size_t count, unsigned timeout_ms)
{
	int64_t until_ms = lm_now_ms() + timeout_ms;
	LM_LOCKED(&policy->lock);
	for (size_t i = 0; i < count; i++)
		for (int64_t left; entries[i]->asking && (left = until_ms - lm_now_ms()) > 0;)
			(void)lm_cond_wait_ms(&policy->answered, &policy->lock, left);
}

/* lock held */
static int read_answer(
	const struct lm_policy *policy, const struct known *entry, struct lm_layer *ret, struct lm_err *err)
{
	if (entry->asking || entry->state == NONE)
		return lm_err_set(err, -ETIMEDOUT,
			"%s does not answer: it was asked by another call, and nothing came in time", policy->who);
	if (entry->state == SERVED) {
		memcpy(ret->digest, entry->digest, sizeof(entry->digest));
		ret->path = strdup(entry->path);
		ret->opaque = entry->opaque ? strdup(entry->opaque) : NULL;
		ret->lean = entry->lean && (ret->opaque || !entry->opaque) ? strdup(entry->lean) : NULL;
		ret->note = entry->note ? strdup(entry->note) : NULL;
		ret->source = entry->source ? strdup(entry->source) : NULL;
		return ret->path && (ret->note || !entry->note) ? 0 : lm_err_oom(err);
	}
	return lm_err_set(err, entry->state == ABSENT ? -ENOENT : entry->code, "%s",
		entry->reason ? entry->reason : "no reason given");
}

/* The first `wanted` of the questions are waited for and answered. */
static int resolve(struct lm_policy *policy, const struct questions *questions, size_t wanted,
	const struct freshness *fresh, unsigned timeout_ms, struct lm_layer *ret, struct lm_err *err)
{
	CLEANUP(resolution_done) struct resolution resolution = {0};
	int r = resolution_begin(&resolution, policy, questions, fresh, err);
	if (r < 0)
		return r;
	if (resolution.n_to_ask > 0)
		ask(policy, resolution.to_ask, resolution.n_to_ask);
	resolution.n_to_ask = 0; /* answered: who asks for them from now on is somebody else */
	wait_for_others(policy, resolution.entries, wanted, LM_MIN(timeout_ms, policy->timeout_ms));
	LM_LOCKED(&policy->lock);
	for (size_t i = 0; i < wanted && r == 0; i++) {
		r = read_answer(policy, resolution.entries[i], &ret[i], err);
		if (r < 0 && wanted > 1)
			(void)lm_err_prefix(err, r, "%s", name_of(&resolution.entries[i]->names));
	}
	for (size_t i = 0; i < wanted && r < 0; i++)
		lm_layer_done(&ret[i]);
	return r;
}

void lm_layer_done(struct lm_layer *layer)
{
	free(layer->path);
	free(layer->lean);
	free(layer->opaque);
	free(layer->note);
	free(layer->source);
	*layer = (struct lm_layer){0};
}

/*
 * The layers above the first one were asked for by their digests alone, as the list has them. Whether that is the
 * answer: one that is served, or that the fetcher says nothing, which is not waited for again for each layer. A
 * question that is under way is waited for.
 */
static bool is_settled(struct lm_policy *policy, const struct names *names, unsigned timeout_ms)
{
	const struct known probe = {.names = *names};
	int64_t until_ms = lm_now_ms() + LM_MIN(timeout_ms, policy->timeout_ms);
	LM_LOCKED(&policy->lock);
	struct known **found = tfind(&probe, &policy->entries, compare_entries);
	if (!found)
		return false;
	struct known *entry = *found;
	entry->pins++;
	for (int64_t left; entry->asking && (left = until_ms - lm_now_ms()) > 0;)
		(void)lm_cond_wait_ms(&policy->answered, &policy->lock, left);
	entry->pins--;
	bool silent = entry->state == UNAVAILABLE && policy->silent_ms;
	return entry->asking || (is_fresh(entry, &for_pull) && (entry->state == SERVED || silent));
}

/* A client that does not say which layers an image has asks for each of them: one time-out is enough for all. */
static int check_silence(struct lm_policy *policy, const struct names *wanted, struct lm_err *err)
{
	LM_LOCKED(&policy->lock);
	bool silent = policy->silent_ms && lm_now_ms() - policy->silent_ms < LM_POLICY_UNAVAILABLE_MS;
	return silent && !*wanted->digest ? lm_err_set(err, policy->silence.code, "%s", lm_err_text(&policy->silence))
					  : 0;
}

int lm_policy_find(struct lm_policy *policy, const struct lm_labels *labels, unsigned timeout_ms, struct lm_layer *ret,
	struct lm_err *err)
{
	CLEANUP(questions_done) struct questions questions = {0};
	struct names wanted = names_in(labels), by_digest = {0};
	const int64_t until_ms = lm_now_ms() + timeout_ms;
	if (!*name_of(&wanted))
		return lm_err_set(err, -ENOENT, "the client does not name the layer by digest, chain id or diff id");
	int r = check_silence(policy, &wanted, err);
	if (r == 0)
		r = questions_alloc(&questions, err);
	if (r < 0)
		return r;
	memcpy(by_digest.digest, wanted.digest, sizeof(by_digest.digest));
	bool settled = *wanted.digest && !only_digest(&wanted) && is_settled(policy, &by_digest, timeout_ms);
	questions.items[questions.count++] = settled ? by_digest : wanted;
	add_image_layers(&questions, labels);
	int64_t left_ms = LM_MAX(until_ms - lm_now_ms(), (int64_t)0);
	return resolve(policy, &questions, 1, &for_pull, (unsigned)left_ms, ret, err);
}

int lm_policy_check(struct lm_policy *policy, const char *const *digests, size_t count, unsigned timeout_ms,
	struct lm_layer *ret, struct lm_err *err)
{
	CLEANUP(questions_done) struct questions list = {0};
	int r = questions_alloc(&list, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++)
		add_digest(&list, digests[i], strlen(digests[i]));
	if (list.count != count)
		return lm_err_set(err, -EAGAIN, "not %zu different layers that could be asked for", count);
	r = resolve(policy, &list, count, &for_start, timeout_ms, ret, err);
	return r == -ENOENT || r == -ECONNREFUSED || r == -ETIMEDOUT ? -EAGAIN : r;
}

int lm_policy_new(const char *socket, const char *who, unsigned timeout_ms, struct lm_policy **ret, struct lm_err *err)
{
	CLEANUP(lm_policy_freep) struct lm_policy *policy = calloc(1, sizeof(*policy));
	if (!policy)
		return lm_err_oom(err);
	lm_lock_init(&policy->lock);
	lm_cond_init(&policy->answered);
	policy->timeout_ms = timeout_ms;
	policy->seen.since_ms = lm_now_ms();
	policy->who = who;
	policy->socket = strdup(socket);
	if (!policy->socket)
		return lm_err_oom(err);
	int r = lm_rpc_client_new(socket, &policy->client, err);
	if (r < 0)
		return r;
	*ret = STEAL(policy);
	return 0;
}

void lm_policy_free(struct lm_policy *policy)
{
	if (!policy)
		return;
	lm_rpc_client_free(policy->client);
	tdestroy(policy->entries, entry_free);
	free(policy->socket);
	lm_cond_done(&policy->answered);
	lm_lock_done(&policy->lock);
	free(policy);
}

void lm_chain_tree_done(struct lm_chain_tree *tree)
{
	free(tree->image);
	free(tree->data);
	*tree = (struct lm_chain_tree){0};
}

/* A comma ends a mount's option, a colon a directory of its list, a backslash goes before either. */
static bool is_option_safe(const char *path)
{
	return !strpbrk(path, ",:\\");
}

static int take_tree(const Lamella__Fetcher__V1__TreeAnswer *answer, struct lm_chain_tree *ret, struct lm_err *err)
{
	if (!answer)
		return lm_err_set(err, -ENOENT, "the fetcher knows no trees");
	if (answer->state != LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_FAITHFUL) {
		bool absent = answer->state == LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_ABSENT;
		return lm_err_set(err, absent ? -ENOENT : -EAGAIN, "%.*s", REASON_MAX, answer->reason);
	}
	if (!is_usable(answer->image) || !is_usable(answer->data) || !is_option_safe(answer->data))
		return lm_err_set(err, -EAGAIN, "the fetcher named no usable path");
	CLEANUP(lm_chain_tree_done) struct lm_chain_tree tree = {strdup(answer->image), strdup(answer->data)};
	if (!tree.image || !tree.data)
		return lm_err_oom(err);
	*ret = tree;
	tree = (struct lm_chain_tree){0};
	return 0;
}

int lm_policy_tree(struct lm_policy *policy, const char *const *digests, size_t count, struct lm_chain_tree *ret,
	struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	Lamella__Fetcher__V1__ResolveResponse *response = NULL;
	CLEANUP(lm_freep) struct names *names = calloc(count + 1, sizeof(*names));
	CLEANUP(lm_freep) const struct names **pointers = calloc(count + 1, sizeof(*pointers));
	if (!names || !pointers)
		return lm_err_oom(err);
	for (size_t i = 0; i < count; i++) {
		snprintf(names[i].digest, sizeof(names[i].digest), "%s", digests[i]);
		pointers[i] = &names[i];
	}
	int r = call_fetcher(policy, pointers, count, true, &response, &why);
	if (r < 0)
		return lm_err_set(err, -EAGAIN, "%s", lm_err_text(&why));
	r = take_tree(response->tree, ret, err);
	lamella__fetcher__v1__resolve_response__free_unpacked(response, NULL);
	return r;
}
