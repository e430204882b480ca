#include "fetcher/repository.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"
#include "repo/history.h"
#include "repo/object.h"
#include "repo/trust.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>

enum { CERTIFICATE_MAX = 2 * LM_PEM_MAX, TTL_MIN_S = 5, FIRST_RETRY_S = 5, FIRST_HOPE_S = 2 };

struct wish { /* somebody wants to know when the next look has ended */
	void (*fn)(void *arg);
	void *arg;
	STAILQ_ENTRY(wish) entry;
};
STAILQ_HEAD(wishes, wish);

struct lm_repository {
	struct lm_repository_config config; /* constant after new; strings owned */
	const struct lm_pin *pinned;	    /* by the first settings, as long as the repository */
	struct lm_origin *origin;
	struct lm_fetch *fetch;
	struct lm_catalogs *catalogs;
	struct lm_tree *tree;
	char *pin;		/* text; "": the root is not fixed */
	char *record;		/* path of the breadcrumb: of the newest root, or of the newest history */
	char *other_record;	/* that of the other way to mount */
	char *kept_certificate; /* path */
	pthread_t thread;
	bool started;

	/* repository's thread only */
	struct lm_manifest known;     /* newest manifest ever accepted; known.catalog unset: none */
	struct lm_manifest recorded;  /* that in `record`, whose catalog or history we had; the same */
	struct lm_settings *in_force; /* counted */
	const struct lm_repository_settings *settings;
	struct lm_buf certificate; /* the object, as stored, that was asked for last */
	struct wishes current;	   /* to be told of the look under way: they came before it began */
	uint64_t retry_s;	   /* without a root: until the next look */
	uint64_t hope_s;	   /* between two looks that something which could be fetched gave rise to */

	struct lm_lock lock;
	struct lm_cond changed;
	/* under lock */
	bool stop, first_ended, look_now, past_caches;
	bool hope;		  /* something could be fetched since the last look began */
	struct lm_settings *next; /* for the thread to take; NULL: none */
	struct wishes wishes;
	struct lm_repository_status status;

	_Atomic(bool) hopes;	/* whether that is of interest: not online */
	_Atomic(uint64_t) node; /* of the root announced last */
};

static bool is_pinned(const struct lm_repository *repository)
{
	return repository->pinned->kind != LM_PIN_NONE;
}

/* A fixed root is there, and its last look succeeded: there is nothing more to look for. Lock held, or the
 * repository's thread, which alone writes what is looked at here. */
static bool is_settled(const struct lm_repository *repository)
{
	return is_pinned(repository) && repository->status.root.set && !repository->status.offline;
}

/* On the engine's thread: -EBADMSG when another server may have a better copy. */
struct answer;
typedef int check_fn(const struct answer *answer, struct lm_err *err);

/*
 * Waiting for a request with a way out: the thread gives up when the repository is stopped, the request ends later and
 * finds its answer abandoned. Whoever of the two is last frees it.
 */
struct answer {
	struct lm_repository *repository;
	check_fn *check;	 /* of a complete body */
	struct lm_hash expected; /* its hash, where that is known */
	struct lm_buf body;
	int fd;
	int code;
	struct lm_err err;
	bool done, abandoned; /* under repository->lock */
};

static void answer_free(struct answer *answer)
{
	lm_buf_done(&answer->body);
	lm_closep(&answer->fd);
	free(answer);
}

static struct answer *answer_new(struct lm_repository *repository, size_t body_max)
{
	struct answer *answer = calloc(1, sizeof(*answer));
	if (!answer)
		return NULL;
	answer->repository = repository;
	answer->body = LM_BUF(body_max);
	answer->fd = -1;
	return answer;
}

/* Gives the answer back when it is there (0), or leaves it to the request (-ECANCELED). */
static int answer_wait(struct answer *answer)
{
	struct lm_repository *repository = answer->repository;
	LM_LOCKED(&repository->lock);
	while (!answer->done && !repository->stop)
		lm_cond_wait(&repository->changed, &repository->lock);
	answer->abandoned = !answer->done;
	return answer->done ? 0 : -ECANCELED;
}

static void answer_end(struct answer *answer, int code, const struct lm_err *err)
{
	struct lm_repository *repository = answer->repository;
	answer->code = code;
	if (code < 0 && err)
		answer->err = *err;
	lm_lock_take(&repository->lock);
	answer->done = true;
	bool abandoned = answer->abandoned;
	lm_cond_broadcast(&repository->changed);
	lm_lock_release(&repository->lock);
	if (abandoned)
		answer_free(answer);
}

static int body_begin(void *arg, struct lm_err *err)
{
	struct answer *answer = arg;
	lm_buf_clear(&answer->body);
	return 0;
}

static int body_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct answer *answer = arg;
	int r = lm_buf_append(&answer->body, data, len);
	return r < 0 ? lm_err_set(err, r == -EMSGSIZE ? -EBADMSG : r, "more than %zu bytes", answer->body.max) : 0;
}

static int body_end(void *arg, struct lm_err *err)
{
	struct answer *answer = arg;
	return answer->check(answer, err);
}

static void body_done(void *arg, int code, const struct lm_err *err)
{
	answer_end(arg, code, err);
}

static int check_hash(const struct lm_buf *data, const struct lm_hash *hash, struct lm_err *err)
{
	struct lm_hash actual;
	int r = lm_hash_data(hash->algo, data->data, data->len, &actual, err);
	if (r == 0 && !lm_hash_equal(&actual, hash))
		r = lm_err_set(err, -EBADMSG, "wrong bytes, their hash is %s", lm_hash_text(&actual).s);
	return r;
}

/* A manifest prints the hash of its text. */
static int check_printed_hash(const struct lm_buf *text, struct lm_err *err)
{
	struct lm_signed_text parts;
	struct lm_hash printed, computed;
	int r = lm_signed_text_split(lm_buf_cstr(text), text->len, &parts, err);
	if (r == 0)
		r = lm_hash_parse(parts.hash_text, parts.hash_text_len, &printed, err);
	if (r == 0)
		r = lm_hash_data(printed.algo, text->data, parts.body_len, &computed, err);
	if (r == 0 && !lm_hash_equal(&printed, &computed))
		r = lm_err_set(err, -EBADMSG, "its hash does not fit");
	return r == -EPROTO ? -EBADMSG : r;
}

static int check_certificate(const struct answer *answer, struct lm_err *err)
{
	return check_hash(&answer->body, &answer->expected, err);
}

/* The signature is judged later, with the certificate. */
static int check_manifest(const struct answer *answer, struct lm_err *err)
{
	return check_printed_hash(&answer->body, err);
}

static struct lm_trust trust_of(const struct lm_repository *repository);

/* All that a whitelist says for itself; a replica that was not renewed is passed over, too. */
static int check_whitelist(const struct answer *answer, struct lm_err *err)
{
	const struct lm_trust trust = trust_of(answer->repository);
	struct lm_whitelist whitelist;
	int r = lm_trust_whitelist(&trust, lm_buf_cstr(&answer->body), answer->body.len, &whitelist, err);
	return r < 0 && r != -ENOMEM ? -EBADMSG : r;
}

/* A small file of the repository, appended to body. One that fails its check is asked for past caches and elsewhere. */
static int get_file(struct lm_repository *repository, const char *path, bool past_caches, check_fn *check,
	const struct lm_hash *expected, struct lm_buf *body, struct lm_err *err)
{
	struct answer *answer = answer_new(repository, body->max);
	if (!answer)
		return lm_err_oom(err);
	answer->check = check;
	if (expected)
		answer->expected = *expected;
	const struct lm_origin_consumer consumer = {
		.begin = body_begin, .data = body_data, .end = body_end, .done = body_done, .arg = answer};
	int r = lm_origin_get(repository->origin, path, LM_HTTP_BLOCKED_READ, past_caches, &consumer, err);
	if (r == 0 && answer_wait(answer) < 0)
		return lm_err_set(err, -ECANCELED, "%s: stopped", path);
	if (r == 0 && (r = answer->code) < 0 && err)
		*err = answer->err;
	if (r == 0)
		r = lm_buf_append(body, answer->body.data, answer->body.len) < 0 ? lm_err_oom(err) : 0;
	answer_free(answer);
	return r;
}

static void object_done(void *arg, int code, int fd, const struct lm_err *err)
{
	answer_end(arg, code, err);
}

/* Also what has to be verified first, since the machine ended uncleanly. */
static bool is_cached(struct lm_repository *repository, const struct lm_object_ref *ref)
{
	CLEANUP(lm_closep) int fd = lm_cache_open(repository->config.cache, ref);
	if (fd == -ENOENT && lm_cache_has_suspects(repository->config.cache))
		fd = lm_cache_recover(repository->config.cache, ref);
	return fd >= 0;
}

static int fetch_object(struct lm_repository *repository, const struct lm_object_ref *ref, struct lm_err *err)
{
	struct answer *answer = answer_new(repository, 0);
	if (!answer)
		return lm_err_oom(err);
	int r = lm_fetch_object(repository->fetch, ref, LM_HTTP_BLOCKED_READ, object_done, answer, &answer->fd, err);
	if (r == LM_FETCH_LATER) {
		if (answer_wait(answer) < 0)
			return lm_err_set(err, -ECANCELED, "stopped");
		r = answer->code;
		if (r < 0 && err)
			*err = answer->err;
	}
	answer_free(answer);
	return r;
}

/*
 * Objects that a manifest names may have an alternative name, and then data/ be closed to strangers; but a replica need
 * not have copied those names. Without a manifest nothing tells which to try first.
 */
enum names { ONLY_DATA, ALTERNATIVE_FIRST, DATA_FIRST };

static enum names names_of(const struct lm_manifest *manifest)
{
	return manifest->alternative_catalogs ? ALTERNATIVE_FIRST : ONLY_DATA;
}

static bool may_have_another_name(int code)
{
	return code == -ENOENT || code == -EIO; /* what servers say of what is not there, or not for everyone */
}

/* Sees that an object is in the cache. When neither name leads to it, the first one's failure is told. */
static int get_object(
	struct lm_repository *repository, const struct lm_object_ref *ref, enum names names, struct lm_err *err)
{
	struct lm_object_ref named = *ref;
	named.alternative = names == ALTERNATIVE_FIRST;
	int r = fetch_object(repository, &named, err);
	if (!may_have_another_name(r) || names == ONLY_DATA)
		return r;
	named.alternative = !named.alternative;
	return fetch_object(repository, &named, NULL) == 0 ? 0 : r;
}

/* The breadcrumb. */

static int parse_breadcrumb(const struct lm_buf *text, struct lm_manifest *ret, struct lm_err *err)
{
	struct lm_manifest manifest;
	int r = check_printed_hash(text, err);
	if (r == 0)
		r = lm_manifest_parse(lm_buf_cstr(text), text->len, &manifest, err);
	if (r == 0)
		*ret = manifest;
	return r;
}

/* Without a breadcrumb the repository starts anew; a damaged one is as good as none, but worth a word. */
static struct lm_manifest load_record(struct lm_repository *repository, const char *path)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest manifest = {0};
	int r = lm_file_read(AT_FDCWD, path, &text, &err);
	if (r == -ENOENT)
		return manifest;
	if (r == 0)
		r = parse_breadcrumb(&text, &manifest, &err);
	if (r == 0 && strcmp(manifest.fqrn, repository->config.fqrn) != 0) {
		manifest = (struct lm_manifest){0};
		r = lm_err_set(&err, -EPROTO, "it is of another repository");
	}
	if (r < 0)
		lm_log(LM_LOG_WARN, "record of the newest root is of no use",
			LM_KV("repository", "%s", repository->config.fqrn), LM_KV("file", "%s", path),
			LM_KV("cause", "%s", lm_err_text(&err)));
	return manifest;
}

static void load_records(struct lm_repository *repository)
{
	repository->recorded = load_record(repository, repository->record);
	repository->known = load_record(repository, repository->other_record);
	if (!repository->known.catalog.set || repository->recorded.revision >= repository->known.revision)
		repository->known = repository->recorded;
	(void)!lm_file_read(AT_FDCWD, repository->kept_certificate, &repository->certificate, NULL);
}

static void save_file(struct lm_repository *repository, const char *path, const struct lm_buf *data)
{
	struct lm_err err = LM_ERR_INIT;
	int r = lm_file_replace(AT_FDCWD, path, data->data, data->len, 0600, LM_FILE_SYNC, &err);
	if (r < 0)
		lm_log(LM_LOG_WARN, "newest root can't be recorded", LM_KV("repository", "%s", repository->config.fqrn),
			LM_KV("cause", "%s", lm_err_text(&err)));
}

/* Everything that the manifest's text leads to is here. */
static void record(struct lm_repository *repository, const struct lm_manifest *manifest, const struct lm_buf *text)
{
	bool is_new = !lm_hash_equal(&manifest->catalog, &repository->recorded.catalog) ||
		      (is_pinned(repository) && !lm_hash_equal(&manifest->history, &repository->recorded.history));
	repository->known = repository->recorded = *manifest;
	if (!is_new)
		return;
	if (repository->certificate.len > 0)
		save_file(repository, repository->kept_certificate, &repository->certificate);
	save_file(repository, repository->record, text);
}

/* A look. */

struct trusting { /* one manifest on its way to be trusted */
	struct lm_repository *repository;
	enum names names;
	bool past_caches;
};

static int get_certificate(const struct trusting *trusting, const struct lm_hash *hash, struct lm_err *err)
{
	struct lm_repository *repository = trusting->repository;
	char path[LM_OBJECT_PATH_MAX];
	if (check_hash(&repository->certificate, hash, NULL) == 0)
		return 0;
	lm_buf_clear(&repository->certificate);
	int r = -ENOENT;
	if (trusting->names == ALTERNATIVE_FIRST)
		r = get_file(repository, lm_object_alternative_path(hash, LM_OBJECT_CERTIFICATE, path),
			trusting->past_caches, check_certificate, hash, &repository->certificate, NULL);
	if (may_have_another_name(r))
		r = get_file(repository, lm_object_path(hash, LM_OBJECT_CERTIFICATE, path), trusting->past_caches,
			check_certificate, hash, &repository->certificate, err);
	return r;
}

static int fetch_for_trust(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err)
{
	const struct trusting *trusting = arg;
	struct lm_repository *repository = trusting->repository;
	if (!certificate->set)
		return get_file(repository, LM_WHITELIST_NAME, trusting->past_caches, check_whitelist, NULL, ret, err);
	int r = get_certificate(trusting, certificate, err);
	if (r < 0)
		return r;
	r = lm_buf_append(ret, repository->certificate.data, repository->certificate.len);
	return r == -EMSGSIZE ? lm_err_set(err, -EPROTO, "more than %zu bytes", ret->max) : r < 0 ? lm_err_oom(err) : 0;
}

static struct lm_trust trust_of(const struct lm_repository *repository)
{
	const struct lm_repository_settings *settings = repository->settings;
	return (struct lm_trust){
		.fqrn = repository->config.fqrn,
		.keys = settings->keys,
		.key_count = settings->key_count,
		.now_s = lm_wall_s(),
		.blacklist = settings->blacklist,
	};
}

static int get_trusted_manifest(struct lm_repository *repository, bool past_caches, struct lm_buf *text,
	struct lm_manifest *ret, struct lm_err *err)
{
	struct lm_trust trust = trust_of(repository);
	struct lm_manifest known = repository->known, claimed;
	if (known.catalog.set)
		trust.known = &known;
	/* A manifest with the catalog that is known already is not verified again, unless its text is to be recorded or
	 * its history used. */
	if (is_pinned(repository) || !lm_hash_equal(&known.catalog, &repository->recorded.catalog))
		known.certificate = (struct lm_hash){0};
	lm_buf_clear(text);
	int r = get_file(repository, LM_MANIFEST_NAME, past_caches, check_manifest, NULL, text, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s: manifest", repository->config.fqrn);
	struct trusting trusting = {.repository = repository, .names = ONLY_DATA, .past_caches = past_caches};
	if (lm_manifest_parse(lm_buf_cstr(text), text->len, &claimed, NULL) == 0)
		trusting.names = names_of(&claimed);
	return lm_trust_manifest(&trust, lm_buf_cstr(text), text->len, fetch_for_trust, &trusting, ret, err);
}

/* What a cache on the way may be to blame for: it holds damaged files, or old ones, or such as do not belong together.
 */
static bool is_distrust(int code)
{
	return code == -EBADMSG || code == -EPROTO || code == -ESTALE || code == -EKEYEXPIRED || code == -EKEYREJECTED;
}

struct root {
	struct lm_hash catalog;
	uint64_t revision; /* 0: what the catalog says */
	enum names names;
	bool recorded;
};

static int open_root(struct lm_repository *repository, const struct root *root, uint32_t *ret_number,
	struct lm_open_catalog **ret, struct lm_err *err)
{
	struct lm_object_ref need;
	int r = lm_catalogs_number(repository->catalogs, &root->catalog, "", 0, LM_VIEW_PLAIN, ret_number, err);
	if (r < 0)
		return r;
	r = lm_catalogs_get(repository->catalogs, *ret_number, ret, &need, err);
	if (r != LM_NEED)
		return r;
	r = get_object(repository, &need, root->names, err);
	if (r == 0)
		r = lm_catalogs_get(repository->catalogs, *ret_number, ret, &need, err);
	return r == LM_NEED ? lm_err_set(err, -EIO, "it is gone from the cache at once") : r;
}

/* Makes it the tree's. */
static int adopt_root(struct lm_repository *repository, const struct root *root, struct lm_err *err)
{
	const struct lm_trust trust = trust_of(repository);
	struct lm_open_catalog *open;
	uint32_t number;
	int r = open_root(repository, root, &number, &open, err);
	if (r < 0)
		return lm_err_prefix(
			err, r, "%s: root catalog %s", repository->config.fqrn, lm_hash_text(&root->catalog).s);
	struct lm_repository_root new = {
		.catalog = number,
		.hash = root->catalog,
		.revision = root->revision ? root->revision : lm_catalog_revision(open->catalog),
		.ttl_s = LM_MAX(lm_catalog_ttl(open->catalog), (uint64_t)TTL_MIN_S),
		.recorded = root->recorded,
	};
	lm_catalogs_put(repository->catalogs, open);
	if (repository->settings->max_ttl_s)
		new.ttl_s = LM_MIN(new.ttl_s, repository->settings->max_ttl_s);
	r = lm_trust_revision(&trust, new.revision, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", repository->config.fqrn);

	uint32_t before = lm_tree_root(repository->tree);
	lm_tree_set_root(repository->tree, number);
	if (before != number)
		repository->config.on_root(repository->config.arg, before, &new);
	atomic_store(&repository->node, lm_tree_node(number, 1));
	LM_LOCKED(&repository->lock);
	repository->status.root = new.hash;
	repository->status.revision = new.revision;
	repository->status.ttl_s = new.ttl_s;
	return 0;
}

/* The history that a manifest names, as a reference; unset hash: it names none. */
static struct lm_object_ref history_ref(const struct lm_manifest *manifest)
{
	return (struct lm_object_ref){.hash = manifest->history, .kind = LM_OBJECT_HISTORY, .size = LM_SIZE_UNKNOWN};
}

/* What the tag or date leads to, by a history that is in the cache. */
static int find_tag(
	struct lm_repository *repository, const struct lm_object_ref *history, struct root *ret, struct lm_err *err)
{
	const struct lm_pin *pin = repository->pinned;
	struct lm_history_root found;
	CLEANUP(lm_freep) char *path = lm_cache_path(repository->config.cache, history);
	if (!path)
		return lm_err_oom(err);
	int r = pin->kind == LM_PIN_TAG ? lm_history_find(path, pin->tag, &found, err)
					: lm_history_at(path, pin->date_s, &found, err);
	if (r == -ENOENT)
		r = lm_err_set(err, r, "no revision for %s", repository->pin);
	if (r < 0)
		return lm_err_prefix(err, r, "%s: history %s", repository->config.fqrn, lm_hash_text(&history->hash).s);
	*ret = (struct root){.catalog = found.hash, .revision = found.revision, .names = ret->names};
	return 0;
}

/* The root that a trusted manifest leads to. */
static int find_root(
	struct lm_repository *repository, const struct lm_manifest *manifest, struct root *ret, struct lm_err *err)
{
	*ret = (struct root){.catalog = manifest->catalog, .revision = manifest->revision, .names = names_of(manifest)};
	if (!is_pinned(repository))
		return 0;
	const struct lm_object_ref history = history_ref(manifest);
	if (!history.hash.set)
		return lm_err_set(err, -ENOENT, "%s: %s is asked for, but the repository has no tags",
			repository->config.fqrn, repository->pin);
	int r = get_object(repository, &history, ret->names, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s: history %s", repository->config.fqrn, lm_hash_text(&history.hash).s);
	return find_tag(repository, &history, ret, err);
}

/* A fixed root stays, whatever is found later. */
static void note_moved(struct lm_repository *repository, const struct root *found)
{
	if (!lm_hash_equal(&found->catalog, &repository->status.root))
		lm_log(LM_LOG_WARN, "fixed root has moved; what is mounted stays until the next start",
			LM_KV("repository", "%s", repository->config.fqrn), LM_KV("fixed", "%s", repository->pin),
			LM_KV("revision", "%llu", (unsigned long long)found->revision),
			LM_KV("root", "%s", lm_hash_text(&found->catalog).s));
}

static int look_by_manifest(struct lm_repository *repository, bool past_caches, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	struct lm_manifest manifest;
	struct root root;
	int r = get_trusted_manifest(repository, past_caches, &text, &manifest, err);
	if (is_distrust(r) && !past_caches) /* a proxy may have kept a damaged or mixed copy */
		r = get_trusted_manifest(repository, true, &text, &manifest, err);
	if (r == 0)
		r = find_root(repository, &manifest, &root, err);
	if (r < 0)
		return r;
	if (is_pinned(repository) && lm_tree_root(repository->tree))
		note_moved(repository, &root);
	else
		r = adopt_root(repository, &root, err);
	if (r == 0)
		record(repository, &manifest, &text);
	return r;
}

static int look(struct lm_repository *repository, bool past_caches, struct lm_err *err)
{
	const struct lm_pin *pin = repository->pinned;
	if (is_settled(repository))
		return 0;
	if (pin->kind == LM_PIN_HASH)
		return adopt_root(repository, &(struct root){.catalog = pin->hash, .names = DATA_FIRST}, err);
	return look_by_manifest(repository, past_caches, err);
}

/* Seconds until the next look. Lock held. */
static uint64_t pause_of(const struct lm_repository *repository)
{
	const struct lm_repository_status *status = &repository->status;
	switch (status->state) {
	case LM_REPOSITORY_ONLINE:
		return LM_MAX(status->ttl_s, (uint64_t)1);
	case LM_REPOSITORY_OFFLINE:
		return LM_MIN(status->ttl_s, (uint64_t)LM_REPOSITORY_RETRY_S);
	case LM_REPOSITORY_STARTING:
	case LM_REPOSITORY_RECORDED:
	case LM_REPOSITORY_FAILED:
		break;
	}
	return repository->retry_s;
}

static void grant(struct wishes *wishes)
{
	struct wish *wish;
	while ((wish = STAILQ_FIRST(wishes))) {
		STAILQ_REMOVE_HEAD(wishes, entry);
		wish->fn(wish->arg);
		free(wish);
	}
}

/* Lock held. */
static void enter_state(struct lm_repository *repository, enum lm_repository_state state)
{
	struct lm_repository_status *status = &repository->status;
	if (status->state == state)
		return;
	status->state = state;
	status->state_since_ms = lm_now_ms();
}

static void end_look(struct lm_repository *repository, int code, const struct lm_err *err)
{
	lm_lock_take(&repository->lock);
	struct lm_repository_status *status = &repository->status;
	bool was_offline = status->offline;
	status->offline = code < 0;
	status->last_error = code < 0 ? *err : (struct lm_err){0};
	status->looked_ms = lm_now_ms();
	status->looks++;
	status->failed_looks += code < 0;
	atomic_store(&repository->hopes, code < 0);
	if (code == 0)
		repository->hope_s = 0;
	enter_state(repository, code == 0	   ? LM_REPOSITORY_ONLINE
				: status->root.set ? LM_REPOSITORY_OFFLINE
						   : LM_REPOSITORY_FAILED);
	if (status->state == LM_REPOSITORY_FAILED)
		repository->retry_s = LM_MIN(
			LM_MAX(2 * repository->retry_s, (uint64_t)FIRST_RETRY_S), (uint64_t)LM_REPOSITORY_RETRY_S);
	uint64_t pause_s = pause_of(repository);
	uint64_t revision = status->revision;
	repository->first_ended = true;
	lm_cond_broadcast(&repository->changed);
	lm_lock_release(&repository->lock);

	if (code < 0 && code != -ECANCELED)
		lm_log(LM_LOG_ERROR, lm_tree_root(repository->tree) ? "offline" : "no trusted root",
			LM_KV("repository", "%s", repository->config.fqrn), LM_KV("cause", "%s", lm_err_text(err)),
			LM_KV("revision", "%llu", (unsigned long long)revision),
			LM_KV("retry_s", "%llu", (unsigned long long)pause_s));
	else if (code == 0 && was_offline)
		lm_log(LM_LOG_INFO, "online again", LM_KV("repository", "%s", repository->config.fqrn),
			LM_KV("revision", "%llu", (unsigned long long)revision));
	if (code == 0 && was_offline)
		lm_fetch_recover(repository->fetch);
	grant(&repository->current);
}

/* Without network: what the newest manifest ever accepted leads to, if all of it is here. */
static int use_recorded(struct lm_repository *repository, struct lm_err *err)
{
	const struct lm_manifest *manifest = &repository->recorded;
	const struct lm_trust trust = trust_of(repository);
	struct trusting trusting = {.repository = repository, .names = names_of(manifest)};
	struct root root = {.catalog = manifest->catalog, .revision = manifest->revision, .names = trusting.names};
	const struct lm_object_ref history = history_ref(manifest);
	if (is_pinned(repository) && !is_cached(repository, &history))
		return -ENOENT;
	int r = lm_trust_again(&trust, manifest, fetch_for_trust, &trusting, err);
	if (r == 0 && is_pinned(repository))
		r = find_tag(repository, &history, &root, err);
	if (r < 0)
		return r;
	root.recorded = true;
	const struct lm_object_ref catalog = {.hash = root.catalog, .kind = LM_OBJECT_CATALOG, .size = LM_SIZE_UNKNOWN};
	return is_cached(repository, &catalog) ? adopt_root(repository, &root, err) : -ENOENT;
}

static void fall_back(struct lm_repository *repository)
{
	struct lm_err err = LM_ERR_INIT;
	if (!repository->recorded.catalog.set || lm_tree_root(repository->tree) ||
		repository->pinned->kind == LM_PIN_HASH)
		return;
	int r = use_recorded(repository, &err);
	if (r < 0 && err.msg[0])
		lm_log(LM_LOG_WARN, "recorded root can't be used", LM_KV("repository", "%s", repository->config.fqrn),
			LM_KV("cause", "%s", lm_err_text(&err)));
}

/* Lock held. */
static void take_settings(struct lm_repository *repository)
{
	if (!repository->next)
		return;
	lm_settings_unref(repository->in_force);
	repository->in_force = STEAL(repository->next);
	repository->settings = lm_settings_find(repository->in_force, repository->config.fqrn);
	repository->known.certificate = (struct lm_hash){0}; /* other keys may judge it otherwise: verified again */
}

/* On the engine's thread, for whatever was fetched. */
static void on_success(void *arg)
{
	struct lm_repository *repository = arg;
	if (!atomic_load_explicit(&repository->hopes, memory_order_relaxed))
		return;
	LM_LOCKED(&repository->lock);
	if (repository->hope)
		return;
	repository->hope = true;
	lm_cond_broadcast(&repository->changed);
}

/* Milliseconds until a look is due; 0: now. Lock held. */
static int64_t left_ms(const struct lm_repository *repository, int64_t due_ms)
{
	if (repository->look_now)
		return 0;
	if (repository->hope && repository->status.offline)
		due_ms = LM_MIN(due_ms, repository->status.looked_ms + (int64_t)repository->hope_s * 1000);
	return LM_MAX(due_ms - lm_now_ms(), 0);
}

/* Waits until it is time for a look: false when there will be no more. */
static bool wait_for_time(struct lm_repository *repository, bool *ret_past_caches)
{
	LM_LOCKED(&repository->lock);
	int64_t due_ms = lm_now_ms() + (int64_t)pause_of(repository) * 1000, left;
	while (!repository->stop && !repository->look_now && is_settled(repository))
		lm_cond_wait(&repository->changed, &repository->lock);
	repository->hope_s =
		LM_MIN(LM_MAX(repository->hope_s, (uint64_t)FIRST_HOPE_S), (uint64_t)LM_REPOSITORY_RETRY_S);
	while (!repository->stop && (left = left_ms(repository, due_ms)) > 0) {
		repository->status.next_look_ms = lm_now_ms() + left;
		lm_cond_wait_ms(&repository->changed, &repository->lock, left);
	}
	repository->hope_s = repository->hope && !repository->look_now ? 2 * repository->hope_s : 0;
	*ret_past_caches = repository->past_caches;
	repository->look_now = repository->past_caches = repository->hope = false;
	repository->status.next_look_ms = 0;
	STAILQ_CONCAT(&repository->current, &repository->wishes);
	if (!repository->stop) /* answers that were given up may be judged by the old ones still */
		take_settings(repository);
	return !repository->stop;
}

/* Those who use it have waited long enough: whether there is a newer root comes second. */
static void resume(struct lm_repository *repository)
{
	fall_back(repository);
	LM_LOCKED(&repository->lock);
	if (!repository->status.root.set)
		return;
	enter_state(repository, LM_REPOSITORY_RECORDED);
	repository->first_ended = true;
	lm_cond_broadcast(&repository->changed);
}

static void *run(void *arg)
{
	struct lm_repository *repository = arg;
	bool past_caches = false;
	load_records(repository);
	if (repository->config.resume)
		resume(repository);
	do {
		struct lm_err err = LM_ERR_INIT;
		int r = look(repository, past_caches, &err);
		if (r < 0)
			fall_back(repository);
		end_look(repository, r, &err);
	} while (wait_for_time(repository, &past_caches));
	return NULL;
}

/* Making and unmaking. */

static int open_parts(struct lm_repository *repository, struct lm_err *err)
{
	const struct lm_repository_config *config = &repository->config;
	const struct lm_repository_settings *s = repository->settings;
	struct lm_origin_config origin;
	bool by_history = s->pin.kind == LM_PIN_TAG || s->pin.kind == LM_PIN_DATE;
	CLEANUP(lm_freep) char *table = lm_str_printf("%s/catalogs", config->dir);
	repository->record = lm_str_printf("%s/%s", config->dir, by_history ? "history" : "root");
	repository->other_record = lm_str_printf("%s/%s", config->dir, by_history ? "root" : "history");
	repository->kept_certificate = lm_str_printf("%s/certificate", config->dir);
	if (!table || !repository->record || !repository->other_record || !repository->kept_certificate ||
		!(repository->pin = lm_pin_text(&s->pin)))
		return lm_err_oom(err);
	lm_settings_origin(s, &origin);
	int r = lm_mkdir_p(AT_FDCWD, config->dir, 0700, err);
	if (r == 0)
		r = lm_origin_new(config->http, &origin, &repository->origin, err);
	if (r == 0)
		lm_origin_on_success(repository->origin, on_success, repository);
	if (r == 0)
		r = lm_fetch_new(
			config->cache, repository->origin, config->work, s->catalog_max, &repository->fetch, err);
	if (r == 0)
		lm_fetch_set_timeout(repository->fetch, s->read_timeout_ms);
	if (r == 0)
		r = lm_catalogs_new(config->cache, table, LM_REPOSITORY_OPEN_CATALOGS, &repository->catalogs, err);
	if (r == 0)
		r = lm_tree_new(repository->catalogs, &repository->tree, err);
	return r;
}

int lm_repository_new(const struct lm_repository_config *config, struct lm_repository **ret, struct lm_err *err)
{
	CLEANUP(lm_repository_freep) struct lm_repository *repository = calloc(1, sizeof(*repository));
	if (!repository)
		return lm_err_oom(err);
	lm_lock_init(&repository->lock);
	lm_cond_init(&repository->changed);
	STAILQ_INIT(&repository->wishes);
	STAILQ_INIT(&repository->current);
	repository->status.state_since_ms = lm_now_ms();
	atomic_store(&repository->node, LM_NODE_ROOT);
	repository->certificate = LM_BUF(CERTIFICATE_MAX);
	repository->config = *config;
	repository->config.settings = lm_settings_ref(config->settings);
	repository->in_force = lm_settings_ref(config->settings);
	repository->settings = lm_settings_find(config->settings, config->fqrn);
	repository->config.fqrn = strdup(config->fqrn);
	repository->config.dir = strdup(config->dir);
	if (!repository->config.fqrn || !repository->config.dir)
		return lm_err_oom(err);
	if (!repository->settings)
		return lm_err_set(err, -EINVAL, "%s: no settings", config->fqrn);
	repository->pinned = &repository->settings->pin;
	int r = open_parts(repository, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", config->fqrn);
	*ret = STEAL(repository);
	return 0;
}

int lm_repository_start(struct lm_repository *repository, struct lm_err *err)
{
	int r = -pthread_create(&repository->thread, NULL, run, repository);
	if (r < 0)
		return lm_err_sys(err, r, "%s: thread", repository->config.fqrn);
	repository->started = true;
	pthread_setname_np(repository->thread, "repository");
	return 0;
}

int lm_repository_wait(struct lm_repository *repository, struct lm_err *err)
{
	LM_LOCKED(&repository->lock);
	while (!repository->first_ended && !repository->stop)
		lm_cond_wait(&repository->changed, &repository->lock);
	const struct lm_repository_status *status = &repository->status;
	if (status->root.set)
		return 0;
	if (repository->stop)
		return lm_err_set(err, -ECANCELED, "%s: stopped", repository->config.fqrn);
	if (err)
		*err = status->last_error; /* names the repository */
	return status->last_error.code;
}

void lm_repository_stop(struct lm_repository *repository)
{
	lm_lock_take(&repository->lock);
	repository->stop = true;
	lm_cond_broadcast(&repository->changed);
	lm_lock_release(&repository->lock);
	if (repository->started)
		pthread_join(repository->thread, NULL);
	repository->started = false;
	/* Wishes that came too late for the last look; no more can come. */
	STAILQ_CONCAT(&repository->current, &repository->wishes);
	grant(&repository->current);
}

void lm_repository_free(struct lm_repository *repository)
{
	if (!repository)
		return;
	lm_tree_free(repository->tree);
	lm_catalogs_free(repository->catalogs);
	lm_fetch_free(repository->fetch);
	lm_origin_free(repository->origin);
	lm_cond_done(&repository->changed);
	lm_lock_done(&repository->lock);
	free(repository->record);
	free(repository->other_record);
	free(repository->kept_certificate);
	lm_buf_done(&repository->certificate);
	free(repository->pin);
	free((char *)repository->config.fqrn);
	free((char *)repository->config.dir);
	lm_settings_unref(repository->config.settings);
	lm_settings_unref(repository->in_force);
	lm_settings_unref(repository->next);
	free(repository);
}

int lm_repository_look(struct lm_repository *repository, bool past_caches, void (*fn)(void *arg), void *arg)
{
	CLEANUP(lm_freep) struct wish *wish = malloc(sizeof(*wish));
	if (!wish)
		return -ENOMEM;
	*wish = (struct wish){.fn = fn, .arg = arg};
	lm_lock_take(&repository->lock);
	bool stop = repository->stop;
	if (!stop) {
		repository->look_now = true;
		repository->past_caches |= past_caches;
		if (fn) {
			STAILQ_INSERT_TAIL(&repository->wishes, wish, entry);
			wish = NULL; /* the macro names its argument more than once: no STEAL there */
		}
		lm_cond_broadcast(&repository->changed);
	}
	lm_lock_release(&repository->lock);
	if (stop && fn)
		fn(arg);
	return 0;
}

int lm_repository_reconfigure(struct lm_repository *repository, struct lm_settings *settings, struct lm_err *err)
{
	const struct lm_repository_settings *s = lm_settings_find(settings, repository->config.fqrn);
	struct lm_origin_config origin;
	if (!s)
		return lm_err_set(err, -EINVAL, "%s: no settings", repository->config.fqrn);
	lm_settings_origin(s, &origin);
	int r = lm_origin_reconfigure(repository->origin, &origin, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", repository->config.fqrn);
	lm_fetch_set_timeout(repository->fetch, s->read_timeout_ms);
	LM_LOCKED(&repository->lock);
	lm_settings_unref(repository->next);
	repository->next = lm_settings_ref(settings);
	repository->look_now = true;
	lm_cond_broadcast(&repository->changed);
	return 0;
}

uint64_t lm_repository_node(const struct lm_repository *repository)
{
	return atomic_load(&repository->node);
}

const char *lm_repository_fqrn(const struct lm_repository *repository)
{
	return repository->config.fqrn;
}

struct lm_tree *lm_repository_tree(struct lm_repository *repository)
{
	return repository->tree;
}

struct lm_fetch *lm_repository_fetch(struct lm_repository *repository)
{
	return repository->fetch;
}

struct lm_catalogs *lm_repository_catalogs(struct lm_repository *repository)
{
	return repository->catalogs;
}

struct lm_origin *lm_repository_origin(struct lm_repository *repository)
{
	return repository->origin;
}

void lm_repository_status(struct lm_repository *repository, struct lm_repository_status *ret)
{
	lm_lock_take(&repository->lock);
	*ret = repository->status;
	lm_lock_release(&repository->lock);
	ret->pin = repository->pin;
	lm_origin_stats(repository->origin, &ret->origin);
	lm_fetch_stats(repository->fetch, &ret->fetch);
}
