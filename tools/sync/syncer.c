#include "sync/syncer.h"

#include "base/clock.h"
#include "base/str.h"
#include "common.h"
#include "convert/image.h"
#include "convert/ledger.h"
#include "oci/digest.h"
#include "oci/shelf.h"
#include "source.h"
#include "sync/check.h"

#include <stdio.h>
#include <string.h>

enum { PUBLISH_AFTER_MS = 600 * 1000 };

struct lm_syncer {
	struct lm_syncer_config config;
	struct lm_access access; /* plain_http as the image that is converted wants it */
	atomic_bool stop;
	struct lm_lock lock;
	/* under lock; config.state, too: this thread reads it without */
	struct lm_sync_counters counters;
	struct lm_converter *converting; /* NULL: none */
};

/* An image of the list, in one round. */
struct task {
	size_t repo; /* of the list */
	const struct lm_wish *wish;
	char *tag;		      /* NULL: by digest alone */
	struct lm_pushed_tag *pushed; /* what made us look; NULL: nothing */
	char *source, *name;
	char digest[LM_DIGEST_MAX]; /* what the source has now */
	bool failed;		    /* it can't be asked, or it was converted in vain */
	bool known;		    /* published as the source has it, as far as we know */
	bool put_off;		    /* failed lately */
	bool converted;		    /* not published yet */
	struct lm_image_report *reports;
	size_t report_count;
};

struct round {
	struct lm_syncer *syncer;
	const struct lm_wishlist *list;
	struct lm_pushed *pushed; /* NULL: everything */
	struct task *tasks;	  /* sorted by repository and name */
	size_t count, room;
	bool *incomplete; /* for each repository: some names of it are not known */
	struct lm_round_report report;
};

/* A repository while it is worked on. */
struct work {
	struct round *round;
	const struct lm_wish_repo *repo;
	struct task *tasks; /* its part of the round's */
	size_t count;
	struct lm_sync_repo *state;
	struct lm_repo_record record;
	struct lm_repo_keys keys;
	struct lm_storage *storage;
	char *ledger; /* NULL: none */
	struct lm_converter *converter;
	int64_t begun_ms;		/* when the converter was made */
	bool sure;			/* what is not among the tasks is not wished for */
	struct lm_sync_image **retired; /* by this converter; not published yet */
	size_t retired_count;
};

static void task_done(struct task *task)
{
	for (size_t i = 0; i < task->report_count; i++)
		lm_image_report_done(&task->reports[i]);
	free(task->reports);
	free(task->tag);
	free(task->source);
	free(task->name);
	*task = (struct task){0};
}

static void round_done(struct round *round)
{
	for (size_t i = 0; i < round->count; i++)
		task_done(&round->tasks[i]);
	free(round->tasks);
	free(round->incomplete);
}

int lm_syncer_new(const struct lm_syncer_config *config, struct lm_syncer **ret, struct lm_err *err)
{
	struct lm_syncer *syncer = calloc(1, sizeof(*syncer));
	if (!syncer)
		return lm_err_oom(err);
	syncer->config = *config;
	syncer->access = *config->access;
	lm_lock_init(&syncer->lock);
	syncer->counters.started_s = lm_wall_s();
	*ret = syncer;
	return 0;
}

void lm_syncer_free(struct lm_syncer *syncer)
{
	if (!syncer)
		return;
	lm_lock_done(&syncer->lock);
	free(syncer);
}

struct lm_lock *lm_syncer_lock(struct lm_syncer *syncer)
{
	return &syncer->lock;
}

struct lm_sync_counters *lm_syncer_counters(struct lm_syncer *syncer)
{
	return &syncer->counters;
}

void lm_syncer_stop(struct lm_syncer *syncer)
{
	syncer->stop = true;
	LM_LOCKED(&syncer->lock);
	if (syncer->converting)
		lm_converter_cancel(syncer->converting);
}

static int save(struct lm_syncer *s, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_SYNC_FILE_MAX);
	int r = lm_sync_format(s->config.state, &text, err);
	return r < 0 ? r : lm_sync_save(s->config.state, &text, err);
}

/* --- what became of an image --- */

static void set_failed(
	struct round *round, const char *repo, const char *name, const char *source, const char *why, bool transient)
{
	struct lm_syncer *s = round->syncer;
	struct lm_sync_image *image = NULL;
	why = why ? why : "out of memory";
	lm_cli_error("%s: %s: %s", repo, name, why);
	round->report.failed++;
	LM_LOCKED(&s->lock);
	s->counters.failed_images++;
	if (lm_sync_add(s->config.state, repo, name, &image, NULL) < 0)
		return; /* out of memory, and said already what it was about */
	if (!image->source)
		image->source = strdup(source);
	lm_sync_failed(image, lm_wall_s(), why, transient);
}

static void fail_task(struct round *round, struct task *task, const char *why, bool transient)
{
	task->failed = true;
	set_failed(round, round->list->repos[task->repo].name, task->name, task->source, why, transient);
}

static void fail_repo(struct work *work, const struct lm_err *why)
{
	struct lm_syncer *s = work->round->syncer;
	lm_cli_error("%s: %s", work->repo->name, lm_err_text(why));
	work->round->report.repos_failed++;
	LM_LOCKED(&s->lock);
	lm_sync_repo_failed(work->state, lm_wall_s(), lm_err_text(why));
}

static struct lm_sync_image *remembered(const struct round *round, const struct task *task)
{
	return lm_sync_find(round->syncer->config.state, round->list->repos[task->repo].name, task->name);
}

/* --- 1: which images --- */

static int add_task(struct round *round, size_t repo, const struct lm_wish *wish, const char *tag, struct lm_err *err)
{
	if (round->count == round->room) {
		size_t room = LM_MAX(2 * round->room, (size_t)64);
		struct task *tasks = realloc(round->tasks, room * sizeof(*tasks));
		if (!tasks)
			return lm_err_oom(err);
		round->tasks = tasks;
		round->room = room;
	}
	struct task *task = &round->tasks[round->count];
	*task = (struct task){.repo = repo, .wish = wish};
	round->count++;
	task->tag = tag ? strdup(tag) : NULL;
	if (tag && !task->tag)
		return lm_err_oom(err);
	return lm_wish_names(wish, tag, &task->source, &task->name, err);
}

static int add_pushed(struct round *round, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < round->list->count; i++) {
		const struct lm_wish_repo *repo = &round->list->repos[i];
		for (size_t w = 0; w < repo->count; w++)
			for (size_t k = 0; r == 0 && k < round->pushed->count; k++) {
				struct lm_pushed_tag *pushed = &round->pushed->items[k];
				const struct lm_wish *wish = &repo->wishes[w];
				if (!wish->digest && strcmp(wish->repository, pushed->repository) == 0 &&
					lm_wish_wants(wish, pushed->tag))
					r = add_task(round, i, wish, pushed->tag, err);
				else
					continue;
				if (r == 0)
					round->tasks[round->count - 1].pushed = pushed;
			}
	}
	return r;
}

static void forget(struct round *round, const char *repo, const char *name)
{
	struct lm_syncer *s = round->syncer;
	struct lm_sync_image *image = lm_sync_find(s->config.state, repo, name);
	LM_LOCKED(&s->lock);
	if (image)
		lm_sync_drop(s->config.state, image);
}

/* What a list of tags makes of a wish. A list that can't be had is noted under the wish's own words. */
static int add_listed(struct round *round, size_t repo, const struct lm_check *check, struct lm_err *err)
{
	const struct lm_wish *wish = check->wish;
	const char *repo_name = round->list->repos[repo].name;
	int r = 0;
	if (check->code < 0) {
		round->incomplete[repo] = true;
		if (check->code != -ECANCELED)
			set_failed(round, repo_name, wish->text, wish->text, check->error, true);
		return 0;
	}
	forget(round, repo_name, wish->text);
	for (size_t i = 0; r == 0 && i < check->tags.count; i++)
		if (lm_wish_wants(wish, check->tags.items[i]))
			r = add_task(round, repo, wish, check->tags.items[i], err);
	return r;
}

static void free_checks(struct lm_check *checks, size_t count)
{
	for (size_t i = 0; i < count; i++)
		lm_check_done(&checks[i]);
	free(checks);
}

static void count_checks(struct lm_syncer *s, const struct lm_check *checks, size_t count, bool lists)
{
	LM_LOCKED(&s->lock);
	*(lists ? &s->counters.lists : &s->counters.checks) += count;
	for (size_t i = 0; i < count; i++)
		s->counters.failed_checks += checks[i].code < 0;
}

static int add_wildcards(struct round *round, struct lm_err *err)
{
	struct lm_syncer *s = round->syncer;
	size_t count = 0, at = 0;
	for (size_t i = 0; i < round->list->count; i++)
		for (size_t w = 0; w < round->list->repos[i].count; w++)
			count += round->list->repos[i].wishes[w].wildcard;
	if (count == 0)
		return 0;
	struct lm_check *checks = calloc(count, sizeof(*checks));
	CLEANUP(lm_freep) size_t *repos = calloc(count, sizeof(*repos));
	int r = checks && repos ? 0 : lm_err_oom(err);
	for (size_t i = 0; r == 0 && i < round->list->count; i++)
		for (size_t w = 0; w < round->list->repos[i].count; w++)
			if (round->list->repos[i].wishes[w].wildcard) {
				repos[at] = i;
				checks[at++].wish = &round->list->repos[i].wishes[w];
			}
	if (r == 0)
		r = lm_check_all(s->config.access, checks, count, &s->stop, err);
	if (r == 0)
		count_checks(s, checks, count, true);
	for (size_t i = 0; r == 0 && i < count; i++)
		r = add_listed(round, repos[i], &checks[i], err);
	if (checks)
		free_checks(checks, count);
	return r;
}

static int add_plain(struct round *round, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < round->list->count; i++)
		for (size_t w = 0; r == 0 && w < round->list->repos[i].count; w++) {
			const struct lm_wish *wish = &round->list->repos[i].wishes[w];
			if (!wish->wildcard)
				r = add_task(round, i, wish, wish->tag, err);
		}
	return r;
}

/* Of equals the one that stands first in the list comes first, an image with its tag written out before wildcards. */
static int compare_tasks(const void *a, const void *b)
{
	const struct task *x = a, *y = b;
	if (x->repo != y->repo)
		return x->repo < y->repo ? -1 : 1;
	int order = strcmp(x->name, y->name);
	if (order == 0)
		order = x->wish->wildcard - y->wish->wildcard;
	return order ? order : (x->wish > y->wish) - (x->wish < y->wish);
}

static void sort_tasks(struct round *round)
{
	size_t kept = 0;
	if (round->count > 1)
		qsort(round->tasks, round->count, sizeof(*round->tasks), compare_tasks);
	for (size_t i = 0; i < round->count; i++) {
		struct task *last = kept > 0 ? &round->tasks[kept - 1] : NULL;
		if (last && last->repo == round->tasks[i].repo && strcmp(last->name, round->tasks[i].name) == 0)
			task_done(&round->tasks[i]);
		else
			round->tasks[kept++] = round->tasks[i];
	}
	round->count = kept;
}

static int gather(struct round *round, struct lm_err *err)
{
	round->incomplete = calloc(round->list->count, sizeof(*round->incomplete));
	int r = round->incomplete ? 0 : lm_err_oom(err);
	if (r == 0)
		r = round->pushed ? add_pushed(round, err) : add_plain(round, err);
	if (r == 0 && !round->pushed)
		r = add_wildcards(round, err);
	if (r < 0)
		return r;
	sort_tasks(round);
	round->report.images = round->count;
	return 0;
}

/* --- 2: what is new --- */

static bool wait_longer(const struct round *round, const struct lm_sync_image *image)
{
	return round->syncer->config.patient && !round->pushed && image && image->next_s > lm_wall_s();
}

/* What of an image the list asks for, and what else it gets, as the state remembers it: images that were published
 * before there was an index of layers are published once more. */
struct terms {
	char s[LM_WISH_TEXT_MAX + 32];
};

static struct terms terms_of(const struct lm_wish *wish)
{
	struct terms terms;
	snprintf(terms.s, sizeof(terms.s), "%s%s%s, index", wish->platform ? wish->platform : "host",
		wish->flat ? ", flat" : "", wish->trees ? ", tree" : "");
	return terms;
}

static bool is_as_wished(const struct task *task, const struct lm_sync_image *image)
{
	return image && strcmp(image->digest, task->digest) == 0 && image->terms &&
	       strcmp(image->terms, terms_of(task->wish).s) == 0;
}

static void take_check(struct round *round, struct task *task, const struct lm_check *check)
{
	const struct lm_sync_image *image = remembered(round, task);
	struct lm_pushed_tag *pushed = task->pushed;
	bool other = pushed && pushed->digest[0] && check->code == 0 && strcmp(pushed->digest, check->digest) != 0;
	if (pushed && (other || check->code == -ENOENT))
		pushed->early = true;
	if (check->code == -ECANCELED || (check->code == -ENOENT && pushed && pushed->looks + 1 < LM_INBOX_LOOKS_MAX)) {
		task->put_off = true;
	} else if (check->code < 0) {
		fail_task(round, task, check->error, check->transient);
	} else {
		memcpy(task->digest, check->digest, sizeof(task->digest));
		task->known = is_as_wished(task, image);
	}
}

static int check_tasks(struct round *round, struct lm_err *err)
{
	struct lm_syncer *s = round->syncer;
	size_t count = 0;
	struct lm_check *checks = calloc(LM_MAX(round->count, (size_t)1), sizeof(*checks));
	CLEANUP(lm_freep) struct task **asked = calloc(LM_MAX(round->count, (size_t)1), sizeof(*asked));
	int r = checks && asked ? 0 : lm_err_oom(err);
	for (size_t i = 0; r == 0 && i < round->count; i++) {
		struct task *task = &round->tasks[i];
		const struct lm_sync_image *image = remembered(round, task);
		if (wait_longer(round, image)) {
			task->put_off = true;
		} else if (task->wish->digest) {
			snprintf(task->digest, sizeof(task->digest), "%s", task->wish->digest);
			task->known = is_as_wished(task, image);
		} else {
			asked[count] = task;
			checks[count++] = (struct lm_check){.wish = task->wish, .tag = task->tag};
		}
	}
	if (r == 0 && count > 0)
		r = lm_check_all(s->config.access, checks, count, &s->stop, err);
	if (r == 0)
		count_checks(s, checks, count, false);
	for (size_t i = 0; r == 0 && i < count; i++)
		take_check(round, asked[i], &checks[i]);
	if (checks)
		free_checks(checks, count);
	return r;
}

/* --- 3: what is new is published --- */

static void work_done(struct work *work)
{
	lm_converter_free(work->converter);
	lm_storage_free(work->storage);
	lm_repo_keys_done(&work->keys);
	lm_repo_record_done(&work->record);
	free(work->ledger);
	free(work->retired);
}

static int open_repo(struct work *work, struct lm_err *err)
{
	const struct lm_syncer_config *c = &work->round->syncer->config;
	int r = lm_repo_record_load(work->repo->name, c->storage, c->keys, &work->record, err);
	if (r == 0 && !work->record.keys)
		r = lm_err_set(err, -EINVAL, "its keys are neither recorded nor given by --keys DIR");
	if (r == 0)
		r = lm_repo_keys_load(work->record.keys, work->record.name, &work->keys, err);
	if (r == 0)
		r = lm_repo_record_open(&work->record, c->s3_config, false, &work->storage, err);
	if (r == 0)
		r = lm_ledger_path(work->record.name, work->record.dir, &work->ledger, err);
	return r;
}

static int read_root(struct work *work, struct lm_manifest *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	int r = work->storage->ops->get(work->storage, LM_MANIFEST_NAME, &text, err);
	if (r == 0)
		r = lm_manifest_parse(lm_buf_cstr(&text), text.len, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "manifest") : 0;
}

/* Whether the repository has the image that we remember; somebody else has published. */
static int still_there(struct work *work, struct lm_txn *txn, struct task *task, struct lm_err *err)
{
	const struct lm_sync_image *image = remembered(work->round, task);
	CLEANUP(lm_freep) char *path = lm_str_printf("/" LM_SHELF_METADATA "/%s/" LM_SHELF_MANIFEST, task->name);
	CLEANUP(lm_buf_done) struct lm_buf manifest = LM_BUF(LM_MANIFEST_JSON_MAX);
	char digest[LM_DIGEST_MAX];
	if (!path)
		return lm_err_oom(err);
	int r = lm_txn_read(txn, path, &manifest, err);
	if (r == 0)
		r = lm_digest_data(lm_buf_cstr(&manifest), manifest.len, digest, err);
	task->known = r == 0 && image && strcmp(digest, image->image) == 0;
	return r == -ENOENT || r == -EISDIR || r == -EINVAL || r == -EMSGSIZE ? 0 : r;
}

static void say_waiting(void *arg, const char *holder)
{
	const struct work *work = arg;
	lm_cli_say("%s: waiting for %s", work->repo->name, holder);
}

static int look_again(struct work *work, struct lm_err *err)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	const struct lm_storage_wait wait = {say_waiting, work};
	int r = work->storage->ops->lock(work->storage, &wait, err);
	if (r == 0)
		r = lm_txn_begin(work->storage, &work->keys, work->record.name, &txn, err);
	for (size_t i = 0; r == 0 && i < work->count; i++)
		if (work->tasks[i].known)
			r = still_there(work, txn, &work->tasks[i], err);
	return r;
}

static void set_root(struct work *work, const struct lm_manifest *manifest)
{
	struct lm_syncer *s = work->round->syncer;
	LM_LOCKED(&s->lock);
	snprintf(work->state->root, sizeof(work->state->root), "%s", lm_hash_text(&manifest->catalog).s);
	work->state->revision = manifest->revision;
	lm_sync_repo_failed(work->state, 0, NULL);
}

/* What is as it should be is noted before anything is converted, which may take long. */
static void note_known(struct work *work)
{
	struct lm_syncer *s = work->round->syncer;
	int64_t now_s = lm_wall_s();
	LM_LOCKED(&s->lock);
	for (size_t i = 0; i < work->count; i++)
		if (work->tasks[i].known && !work->tasks[i].put_off)
			lm_sync_succeeded(remembered(work->round, &work->tasks[i]), now_s);
}

static int begin_converter(struct work *work, struct lm_err *err)
{
	struct lm_syncer *s = work->round->syncer;
	if (work->converter)
		return 0;
	const struct lm_converter_config config = {
		.storage = work->storage,
		.keys = &work->keys,
		.fqrn = work->record.name,
		.access = &s->access,
		.platform = lm_platform_host(),
		.ledger = work->ledger,
		.remote = lm_repo_record_remote(&work->record),
		.grace_s = work->repo->grace_s,
	};
	struct lm_converter *converter = NULL;
	int r = lm_converter_new(&config, &converter, err);
	if (r < 0)
		return r;
	work->converter = converter;
	work->begun_ms = lm_now_ms();
	LM_LOCKED(&s->lock);
	s->converting = converter;
	return 0;
}

static void end_converter(struct work *work)
{
	struct lm_syncer *s = work->round->syncer;
	lm_lock_take(&s->lock);
	s->converting = NULL;
	lm_lock_release(&s->lock);
	lm_converter_free(STEAL(work->converter));
}

/* The digest that was seen is what is fetched: what is noted is what is published, whatever is pushed meanwhile. */
static char *exact_source(const struct task *task)
{
	return task->wish->digest ? strdup(task->source) : lm_str_printf("%s@%s", task->source, task->digest);
}

static int convert_task(struct work *work, struct task *task, struct lm_err *err)
{
	struct lm_syncer *s = work->round->syncer;
	const struct lm_wish *wish = task->wish;
	bool all = wish->platform && strcmp(wish->platform, "all") == 0;
	struct lm_platform platform = lm_platform_host();
	size_t max = all ? LM_IMAGES_MAX : 1, count = 1;
	CLEANUP(lm_freep) char *copy = wish->platform && !all ? strdup(wish->platform) : NULL;
	CLEANUP(lm_freep) char *source = exact_source(task);
	struct lm_image_report *reports = calloc(max, sizeof(*reports));
	if (!source || !reports || (wish->platform && !all && !copy)) {
		free(reports);
		return lm_err_oom(err);
	}
	int r = copy ? lm_platform_parse(copy, &platform, err) : 0;
	s->access.plain_http = s->config.access->plain_http || strcmp(wish->scheme, "http") == 0;
	lm_converter_choose(work->converter, &platform, !wish->flat, !wish->trees);
	if (r == 0)
		r = all ? lm_converter_images(work->converter, source, task->name, reports, max, &count, err)
			: lm_converter_image(work->converter, source, task->name, reports, err);
	if (r < 0) {
		free(reports);
		return r;
	}
	task->reports = reports;
	task->report_count = count;
	task->converted = true;
	return 0;
}

/* --- what is published --- */

/* The names of a task's images but for its own: those of platforms. */
static int platform_names(const struct task *task, char ***ret, size_t *ret_count, struct lm_err *err)
{
	bool all = task->wish->platform && strcmp(task->wish->platform, "all") == 0;
	*ret = NULL;
	*ret_count = 0;
	if (!all)
		return 0;
	char **names = calloc(task->report_count, sizeof(*names));
	if (!names)
		return lm_err_oom(err);
	for (size_t i = 0; i < task->report_count; i++) {
		const char *platform = task->reports[i].platform ? task->reports[i].platform : "";
		char *name = lm_str_printf("%s%s%s", task->name, task->tag ? "-" : ":", platform);
		if (!name) {
			while (i > 0)
				free(names[--i]);
			free(names);
			return lm_err_oom(err);
		}
		for (char *c = name + strlen(task->name); *c; c++)
			*c = *c == '/' ? '-' : *c;
		names[i] = name;
	}
	*ret = names;
	*ret_count = task->report_count;
	return 0;
}

static bool is_among(const char *name, char *const *names, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(names[i], name) == 0)
			return true;
	return false;
}

/* A platform that an image has no more is remembered by itself, as a name that nobody wishes for. */
static int part_with(
	struct work *work, struct lm_sync_image *image, char *const *names, size_t count, struct lm_err *err)
{
	struct lm_sync_state *state = work->round->syncer->config.state;
	for (size_t i = 0; i < image->name_count; i++) {
		struct lm_sync_image *left;
		if (is_among(image->names[i], names, count))
			continue;
		int r = lm_sync_add(state, work->repo->name, image->names[i], &left, err);
		if (r < 0)
			return r;
		if (!left->source)
			left->source = strdup(image->source);
		memcpy(left->image, image->image, sizeof(left->image));
		left->published_s = image->published_s;
		left->unwished_s = lm_wall_s();
	}
	return 0;
}

static int note_published(struct work *work, struct task *task, struct lm_err *err)
{
	struct lm_syncer *s = work->round->syncer;
	struct lm_sync_image *image = NULL;
	char **names;
	size_t count;
	int r = platform_names(task, &names, &count, err);
	if (r < 0)
		return r;
	CLEANUP(lm_freep) char *source = strdup(task->source);
	CLEANUP(lm_freep) char *terms = strdup(terms_of(task->wish).s);
	int64_t now_s = lm_wall_s();
	LM_LOCKED(&s->lock);
	r = source && terms ? lm_sync_add(s->config.state, work->repo->name, task->name, &image, err) : lm_err_oom(err);
	if (r == 0)
		r = part_with(work, image, names, count, err);
	if (r < 0) {
		for (size_t i = 0; i < count; i++)
			free(names[i]);
		free(names);
		return r;
	}
	free(image->source);
	image->source = STEAL(source);
	free(image->terms);
	image->terms = STEAL(terms);
	for (size_t i = 0; i < image->name_count; i++)
		free(image->names[i]);
	free(image->names);
	image->names = names;
	image->name_count = count;
	if (strcmp(image->digest, task->digest) != 0)
		image->published_s = now_s;
	memcpy(image->digest, task->digest, sizeof(image->digest));
	image->image[0] = '\0';
	for (size_t i = 0; i < task->report_count; i++) {
		const struct lm_image_report *report = &task->reports[i];
		if (strcmp(report->name, task->name) == 0)
			memcpy(image->image, report->digest, sizeof(image->image));
		for (size_t k = 0; k < report->layer_count; k++) {
			const struct lm_layer_report *layer = &report->layers[k];
			*(layer->converted ? &s->counters.layers_converted : &s->counters.layers_present) += 1;
			s->counters.fetched_bytes += layer->converted && !layer->kept ? layer->blob_bytes : 0;
			s->counters.stored_bytes += layer->stored_bytes;
		}
	}
	lm_sync_succeeded(image, now_s);
	s->counters.images_published++;
	return 0;
}

static void forget_retired(struct work *work)
{
	struct lm_syncer *s = work->round->syncer;
	work->round->report.retired += work->retired_count;
	LM_LOCKED(&s->lock);
	s->counters.images_retired += work->retired_count;
	while (work->retired_count > 0)
		lm_sync_drop(s->config.state, work->retired[--work->retired_count]);
}

/* Ends the converter; what it has converted is published, or has failed together. */
static int publish(struct work *work, struct lm_err *err)
{
	struct lm_syncer *s = work->round->syncer;
	struct lm_manifest before, after;
	const size_t retired = work->retired_count;
	size_t images = 0;
	int r = 0;
	if (!work->converter)
		return 0;
	for (size_t i = 0; i < work->count; i++)
		images += work->tasks[i].converted;
	before = after = *lm_converter_base(work->converter);
	if (images > 0 || work->retired_count > 0)
		r = lm_converter_publish(work->converter, &after, err);
	end_converter(work);
	if (r == 0)
		set_root(work, &after);
	for (size_t i = 0; i < work->count; i++) {
		struct task *task = &work->tasks[i];
		if (task->converted && r == 0)
			r = note_published(work, task, err);
		task->converted = false;
	}
	if (r < 0)
		return r;
	work->round->report.published += images;
	forget_retired(work);
	if (after.revision != before.revision) {
		lm_cli_say("%s: revision %llu published: %zu image%s new, %zu retired", work->repo->name,
			(unsigned long long)after.revision, images, images == 1 ? "" : "s", retired);
		work->round->report.revisions++;
		LM_LOCKED(&s->lock);
		s->counters.revisions++;
		work->state->published_s = lm_wall_s();
	}
	return save(s, err);
}

/* Notifications between two images: what was pushed goes first. */
static int let_others_in(struct work *work, struct lm_err *err)
{
	struct round *round = work->round;
	struct lm_syncer *s = round->syncer;
	CLEANUP(lm_pushed_done) struct lm_pushed pushed = {0};
	struct lm_round_report report;
	if (round->pushed || !s->config.inbox || lm_inbox_empty(s->config.inbox, NULL))
		return 0;
	int r = publish(work, err);
	if (r < 0)
		return r;
	lm_storage_free(STEAL(work->storage)); /* and with it the publisher's lock */
	lm_inbox_take(s->config.inbox, &pushed);
	r = lm_syncer_pushed(s, round->list, &pushed, &report, err);
	lm_inbox_later(s->config.inbox, &pushed);
	if (r == 0)
		r = lm_repo_record_open(&work->record, s->config.s3_config, false, &work->storage, err);
	round->report.failed += report.failed;
	round->report.published += report.published;
	round->report.revisions += report.revisions;
	return r;
}

static void set_converting(struct lm_syncer *s, bool converting)
{
	LM_LOCKED(&s->lock);
	s->counters.converting = converting;
}

/* Failures of the image are noted; what is returned is that the repository can't go on. */
static int work_on(struct work *work, struct task *task, struct lm_err *err)
{
	struct lm_syncer *s = work->round->syncer;
	struct lm_err why = LM_ERR_INIT;
	int r = let_others_in(work, err);
	if (r == 0 && work->converter && lm_now_ms() - work->begun_ms > PUBLISH_AFTER_MS)
		r = publish(work, err);
	if (r == 0)
		r = begin_converter(work, err);
	if (r < 0)
		return r;
	if (s->stop)
		return 0;
	set_converting(s, true);
	r = convert_task(work, task, &why);
	set_converting(s, false);
	if (r == -ECANCELED || s->stop)
		return 0;
	if (r < 0)
		fail_task(work->round, task, lm_err_text(&why), false);
	return 0;
}

/* --- 4: what nobody wishes for --- */

/* An image goes with the names of all its platforms; one that only has such names by those. */
static int remove_one(struct work *work, struct lm_sync_image *image, struct lm_err *err)
{
	const char *const name = image->name;
	if (image->image[0] || image->name_count == 0)
		return lm_converter_remove(work->converter, &name, 1, NULL, err);
	return lm_converter_remove(work->converter, (const char *const *)image->names, image->name_count, NULL, err);
}

/* Together, since each time all manifests are looked at. -ENOENT: somebody has removed one of them already. */
static int remove_together(struct work *work, struct lm_err *err)
{
	CLEANUP(lm_freep) const char **names = calloc(work->retired_count, sizeof(*names));
	if (!names)
		return lm_err_oom(err);
	for (size_t i = 0; i < work->retired_count; i++) {
		if (!work->retired[i]->image[0])
			return -ENOENT;
		names[i] = work->retired[i]->name;
	}
	return lm_converter_remove(work->converter, names, work->retired_count, NULL, err);
}

static int retire(struct work *work, struct lm_err *err)
{
	const struct lm_syncer *s = work->round->syncer;
	const struct lm_sync_state *state = s->config.state;
	size_t count = lm_sync_count(state);
	if (!s->config.prune || !work->sure || s->stop)
		return 0;
	work->retired = calloc(LM_MAX(count, (size_t)1), sizeof(struct lm_sync_image *));
	if (!work->retired)
		return lm_err_oom(err);
	for (size_t i = 0; i < count; i++) {
		struct lm_sync_image *image = lm_sync_at(state, i);
		if (image->unwished_s && strcmp(image->repo, work->repo->name) == 0)
			work->retired[work->retired_count++] = image;
	}
	if (work->retired_count == 0)
		return 0;
	int r = begin_converter(work, err);
	struct lm_err why = LM_ERR_INIT;
	if (r == 0)
		r = remove_together(work, &why);
	for (size_t i = 0; r == -ENOENT && i < work->retired_count; i++) {
		int one = remove_one(work, work->retired[i], &why);
		if (one < 0 && one != -ENOENT)
			r = one;
	}
	if (r < 0 && r != -ENOENT)
		return why.code ? lm_err_set(err, r, "retiring: %s", why.msg) : r;
	for (size_t i = 0; i < work->retired_count; i++)
		lm_cli_say("%s: %s: not wished for any more", work->repo->name, work->retired[i]->name);
	return 0;
}

static int bring_up_to_date(struct work *work, struct lm_err *err)
{
	struct lm_syncer *s = work->round->syncer;
	struct lm_manifest manifest;
	int r = open_repo(work, err);
	if (r == 0)
		r = read_root(work, &manifest, err);
	if (r == 0 && strcmp(work->state->root, lm_hash_text(&manifest.catalog).s) != 0)
		r = look_again(work, err);
	if (r < 0)
		return r;
	set_root(work, &manifest);
	note_known(work);
	for (size_t i = 0; r == 0 && i < work->count && !s->stop; i++) {
		struct task *task = &work->tasks[i];
		if (!task->known && !task->failed && !task->put_off)
			r = work_on(work, task, err);
	}
	if (r == 0)
		r = retire(work, err);
	/* What is complete is published, also when we are to stop. */
	return r < 0 ? r : publish(work, err);
}

static const struct task *find_task(const struct work *work, const char *name)
{
	size_t low = 0, high = work->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(work->tasks[middle].name, name);
		if (order == 0)
			return &work->tasks[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* What can't be understood of the list, or was not listed by its registry, may be what seems to be missing. */
static void note_unwished(struct work *work)
{
	struct round *round = work->round;
	struct lm_syncer *s = round->syncer;
	struct lm_sync_state *state = s->config.state;
	const bool sure = work->sure = !round->pushed && !s->stop && round->list->bad == 0 &&
				       !round->incomplete[work->repo - round->list->repos];
	LM_LOCKED(&s->lock);
	for (size_t i = lm_sync_count(state); i-- > 0;) {
		struct lm_sync_image *image = lm_sync_at(state, i);
		if (strcmp(image->repo, work->repo->name) != 0)
			continue;
		if (find_task(work, image->name))
			image->unwished_s = 0;
		else if (sure && !image->image[0] && image->name_count == 0)
			lm_sync_drop(state, image);
		else if (sure && image->unwished_s == 0)
			image->unwished_s = lm_wall_s();
	}
}

/* --- rounds --- */

static int run_repo(struct round *round, size_t index, size_t *at, struct lm_err *err)
{
	struct lm_syncer *s = round->syncer;
	struct lm_err why = LM_ERR_INIT;
	CLEANUP(work_done)
	struct work work = {
		.round = round,
		.repo = &round->list->repos[index],
		.tasks = round->tasks ? round->tasks + *at : NULL,
	};
	while (*at < round->count && round->tasks[*at].repo == index) {
		(*at)++;
		work.count++;
	}
	if (work.count == 0 && round->pushed)
		return 0;
	lm_lock_take(&s->lock);
	int r = lm_sync_repo(s->config.state, work.repo->name, &work.state, err);
	lm_lock_release(&s->lock);
	if (r < 0)
		return r;
	note_unwished(&work);
	r = bring_up_to_date(&work, &why);
	if (work.converter)
		end_converter(&work);
	if (r < 0)
		fail_repo(&work, &why);
	return 0;
}

static int run(struct round *round, struct lm_err *err)
{
	struct lm_syncer *s = round->syncer;
	int64_t start_ms = lm_now_ms();
	size_t at = 0;
	int r = gather(round, err);
	if (r == 0)
		r = check_tasks(round, err);
	for (size_t i = 0; r == 0 && i < round->list->count && !s->stop; i++)
		r = run_repo(round, i, &at, err);
	if (r == 0)
		r = save(s, err);
	if (r == 0 && s->stop)
		r = lm_err_set(err, -ECANCELED, "stopped");
	LM_LOCKED(&s->lock);
	s->counters.rounds += !round->pushed;
	s->counters.round_end_s = lm_wall_s();
	s->counters.round_ms = lm_now_ms() - start_ms;
	return r;
}

int lm_syncer_round(
	struct lm_syncer *syncer, const struct lm_wishlist *list, struct lm_round_report *ret, struct lm_err *err)
{
	CLEANUP(round_done) struct round round = {.syncer = syncer, .list = list};
	int r = run(&round, err);
	*ret = round.report;
	return r;
}

int lm_syncer_pushed(struct lm_syncer *syncer, const struct lm_wishlist *list, struct lm_pushed *pushed,
	struct lm_round_report *ret, struct lm_err *err)
{
	CLEANUP(round_done) struct round round = {.syncer = syncer, .list = list, .pushed = pushed};
	int r = run(&round, err);
	*ret = round.report;
	return r;
}
