#include "snapshotter/looker.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"

#include "lamella/fetcher.pb-c.h"

#include <limits.h>
#include <search.h>
#include <string.h>
#include <sys/queue.h>

enum {
	ANSWER_MARGIN_MS = 200,
	LEAVE_MS = 1000,
	STACK_BYTES = 256 << 10,
	TEXT_MAX = 4096,
};

typedef Lamella__Fetcher__V1__LayerAnswer LayerAnswer;
typedef Lamella__Fetcher__V1__ResolveRequest ResolveRequest;
typedef Lamella__Fetcher__V1__ResolveResponse ResolveResponse;
#define STATE(name) LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_##name

const struct lm_looker_ways lm_looker_ways = {.find = lm_place_find, .marks = lm_place_marks, .now_ms = lm_now_ms};

/* What a place says of a layer. */
struct finding {
	enum {
		WAITING,
		FOUND,
		ABSENT,
		UNUSABLE,
		UNKNOWN,
		BROKEN
	} state; /* UNKNOWN: of this layer; BROKEN: the place */
	struct lm_place_layer layer;
	struct lm_err why;
};

/* A call. Jobs that were not begun when it is answered are dropped; what others find goes nowhere. */
struct question {
	unsigned refs; /* the call, each job */
	bool answered;
	bool trying[LM_PLACES_MAX]; /* a place that hangs */
	int64_t asked_ms;
	size_t layers;
	struct lm_place_names *names; /* constant */
	struct finding *findings;     /* of each layer, of each place */
};

struct job {
	TAILQ_ENTRY(job) entry;
	struct question *question;
	size_t layer;
};

struct place {
	struct lm_looker *looker;
	const char *directory;
	TAILQ_HEAD(, job) queue;
	unsigned threads, hired;		 /* hired: of them, have not begun yet */
	int64_t begun_ms[LM_LOOKER_THREADS_MAX]; /* what each thread is at; 0: there is none */
	int64_t awaited_ms;			 /* since when something is awaited of it; 0: something came since */
	int64_t came_ms;			 /* when something came last; 0: never */
	int64_t tried_ms;			 /* when it was asked last though it hangs */
	bool hangs;				 /* as it was said in the log */
};

/* Whether a layer of stock tools marks deletions. */
struct known {
	char *path;
	enum { UNLOOKED, LOOKING, CLEAN, MARKED } state;
	char *mark; /* MARKED: the first one */
};

struct lm_looker {
	const struct lm_looker_ways *ways; /* constant */
	struct lm_lock lock;
	/* all below, and questions and jobs, under lock */
	struct lm_cond changed;
	bool stopping;
	void *known; /* tree by path */
	size_t known_count;
	size_t count;
	struct place places[LM_PLACES_MAX];
};

/* --- how a place does; lock held --- */

static bool hangs(const struct place *place)
{
	return place->awaited_ms && place->looker->ways->now_ms() - place->awaited_ms >= LM_LOOKER_PATIENCE_MS;
}

static void something_came(struct place *place)
{
	if (place->hangs)
		lm_log(LM_LOG_INFO, "mount answers again", LM_KV("directory", "%s", place->directory));
	place->hangs = false;
	place->awaited_ms = 0;
	place->came_ms = place->looker->ways->now_ms();
}

static void say_hangs(struct place *place, struct lm_err *ret)
{
	int64_t ms = place->looker->ways->now_ms() - place->awaited_ms;
	if (!place->hangs)
		lm_log(LM_LOG_WARN, "mount does not answer", LM_KV("directory", "%s", place->directory),
			LM_KV("for_ms", "%lld", (long long)ms));
	place->hangs = true;
	(void)lm_err_set(ret, -ETIMEDOUT, "%s does not answer: nothing has come from that mount for %lld s",
		place->directory, (long long)ms / 1000);
}

/* Threads that work on something that was begun lately. */
static unsigned working(const struct place *place)
{
	int64_t now_ms = place->looker->ways->now_ms();
	unsigned count = 0;
	for (size_t i = 0; i < LM_LOOKER_THREADS_MAX; i++)
		count += place->begun_ms[i] && now_ms - place->begun_ms[i] < LM_LOOKER_PATIENCE_MS;
	return count;
}

/* One that hangs is tried by one question now and then. */
static bool may_ask(struct place *place, bool *ret_trying)
{
	int64_t now_ms = place->looker->ways->now_ms();
	*ret_trying = hangs(place);
	if (!*ret_trying)
		return true;
	int64_t last_ms = LM_MAX(place->tried_ms, place->awaited_ms + LM_LOOKER_PATIENCE_MS);
	if (now_ms - last_ms < LM_LOOKER_RETRY_MS || place->threads == LM_LOOKER_THREADS_MAX)
		return false;
	place->tried_ms = now_ms;
	return true;
}

/* --- questions; lock held --- */

static void question_unref(struct lm_looker *looker, struct question *question)
{
	if (--question->refs > 0)
		return;
	for (size_t i = 0; i < question->layers * looker->count; i++)
		lm_place_layer_done(&question->findings[i].layer);
	free(question->findings);
	free(question->names);
	free(question);
}

static struct finding *finding_of(struct question *question, const struct place *place, size_t layer)
{
	const struct lm_looker *looker = place->looker;
	return &question->findings[layer * looker->count + (size_t)(place - looker->places)];
}

/* Takes the layer; only the first word counts. */
static void settle(struct question *question, struct finding *finding, struct finding found)
{
	if (question->answered || finding->state != WAITING) {
		lm_place_layer_done(&found.layer);
		return;
	}
	*finding = found;
}

/* Jobs that nobody has begun; question NULL: of all. */
static void drop_jobs(struct place *place, const struct question *question)
{
	for (struct job *job = TAILQ_FIRST(&place->queue), *next; job; job = next) {
		next = TAILQ_NEXT(job, entry);
		if (question && job->question != question)
			continue;
		TAILQ_REMOVE(&place->queue, job, entry);
		question_unref(place->looker, job->question);
		free(job);
	}
}

/* --- deletions in stock layers --- */

static int compare_known(const void *a, const void *b)
{
	return strcmp(((const struct known *)a)->path, ((const struct known *)b)->path);
}

static void known_free(void *p)
{
	struct known *known = p;
	free(known->path);
	free(known->mark);
	free(known);
}

static void find_idle(const void *tree, VISIT visit, void *arg)
{
	struct known *known = *(struct known *const *)tree;
	if ((visit == postorder || visit == leaf) && known->state != LOOKING)
		*(struct known **)arg = known;
}

/* lock held; NULL: no memory */
static struct known *know(struct lm_looker *looker, const char *path)
{
	const struct known probe = {.path = (char *)path};
	struct known **found = tfind(&probe, &looker->known, compare_known);
	if (found)
		return *found;
	struct known *victim = NULL;
	if (looker->known_count >= LM_LOOKER_KNOWN_MAX)
		twalk_r(looker->known, find_idle, &victim);
	if (victim) {
		tdelete(victim, &looker->known, compare_known);
		known_free(victim);
		looker->known_count--;
	}
	CLEANUP(lm_freep) struct known *known = calloc(1, sizeof(*known));
	char *own = known ? strdup(path) : NULL;
	if (!own)
		return NULL;
	known->path = own;
	if (!tsearch(known, &looker->known, compare_known)) {
		free(own);
		return NULL;
	}
	looker->known_count++;
	return STEAL(known);
}

static void forget(struct lm_looker *looker, struct known *known)
{
	tdelete(known, &looker->known, compare_known);
	known_free(known);
	looker->known_count--;
}

static bool still_wanted(void *arg)
{
	struct place *place = arg;
	LM_LOCKED(&place->looker->lock);
	something_came(place);
	return !place->looker->stopping;
}

/* lock held. 0: it has none, or *ret is the caller's to find out; -EOPNOTSUPP: it has; -EAGAIN: another thread is at
 * it. */
static int what_is_known(struct lm_looker *looker, const char *path, struct known **ret, struct lm_err *err)
{
	struct known *known = know(looker, path);
	if (!known)
		return lm_err_oom(err);
	switch (known->state) {
	case CLEAN:
		return 0;
	case MARKED:
		return lm_err_set(err, -EOPNOTSUPP, "%s marks deletions by names (%s)", path, known->mark + 1);
	case LOOKING:
		return lm_err_set(err, -EAGAIN, "%s is still being looked through for deletions", path);
	case UNLOOKED:
		break;
	}
	known->state = LOOKING;
	*ret = known;
	return 0;
}

static int check_marks(struct place *place, const char *path, struct lm_err *err)
{
	struct lm_looker *looker = place->looker;
	struct known *known = NULL;
	lm_lock_take(&looker->lock);
	int r = what_is_known(looker, path, &known, err);
	lm_lock_release(&looker->lock);
	if (r < 0 || !known)
		return r;
	char *mark = NULL;
	r = looker->ways->marks(path, still_wanted, place, &mark, err);
	LM_LOCKED(&looker->lock);
	if (r < 0) {
		forget(looker, known);
		return r;
	}
	known->state = mark ? MARKED : CLEAN;
	known->mark = mark;
	struct known *nothing = NULL;
	return what_is_known(looker, path, &nothing, err);
}

/* --- threads --- */

static struct finding look(struct place *place, const struct lm_place_names *names)
{
	struct finding found = {.why = LM_ERR_INIT};
	int r = place->looker->ways->find(place->directory, names, &found.layer, &found.why);
	if (r == 0 && found.layer.marks)
		r = check_marks(place, found.layer.path, &found.why);
	if (r < 0)
		lm_place_layer_done(&found.layer);
	found.state = r == 0						? FOUND
		      : r == -ENOENT					? ABSENT
		      : r == -EOPNOTSUPP				? UNUSABLE
		      : r == -EAGAIN || r == -ENOMEM || r == -ECANCELED ? UNKNOWN
									: BROKEN;
	return found;
}

/* lock held; released while it looks */
static void run(struct place *place, size_t slot, struct job *job)
{
	struct lm_looker *looker = place->looker;
	struct question *question = job->question;
	struct lm_place_names names = question->names[job->layer];
	place->begun_ms[slot] = looker->ways->now_ms();
	if (!place->awaited_ms)
		place->awaited_ms = place->begun_ms[slot];
	lm_lock_release(&looker->lock);
	struct finding found = look(place, &names);
	lm_lock_take(&looker->lock);
	something_came(place);
	settle(question, finding_of(question, place, job->layer), found);
	question_unref(looker, question);
	free(job);
	lm_cond_broadcast(&looker->changed);
}

static void *work(void *arg)
{
	struct place *place = arg;
	struct lm_looker *looker = place->looker;
	size_t slot = 0;
	lm_lock_take(&looker->lock);
	place->hired--;
	while (place->begun_ms[slot])
		slot++;
	for (struct job *job; (job = TAILQ_FIRST(&place->queue));) {
		TAILQ_REMOVE(&place->queue, job, entry);
		run(place, slot, job);
	}
	place->begun_ms[slot] = 0;
	place->threads--;
	lm_cond_broadcast(&looker->changed);
	lm_lock_release(&looker->lock);
	return NULL;
}

static int start_thread(struct place *place)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int r = pthread_attr_init(&attributes);
	if (r != 0)
		return -r;
	(void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
	(void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attributes, work, place);
	pthread_attr_destroy(&attributes);
	return -r;
}

/* lock held. As many threads as there is to do, or the few that may be. */
static void hire(struct place *place)
{
	unsigned wanted = 0, busy = working(place) + place->hired;
	unsigned most = hangs(place) ? busy + 1 : LM_LOOKER_THREADS;
	const struct job *job;
	TAILQ_FOREACH(job, &place->queue, entry)
	wanted++;
	/* Idle threads are gone: whoever is busy takes the next job afterwards. */
	for (; busy < most && wanted > place->hired && place->threads < LM_LOOKER_THREADS_MAX; busy++) {
		if (start_thread(place) < 0)
			return; /* what nobody takes is not answered in time */
		place->threads++;
		place->hired++;
	}
}

/* --- asking; lock held --- */

static void add_job(struct place *place, struct question *question, size_t layer)
{
	struct job *job = malloc(sizeof(*job));
	if (!job) {
		struct finding *finding = finding_of(question, place, layer);
		finding->state = UNKNOWN;
		(void)lm_err_oom(&finding->why);
		return;
	}
	*job = (struct job){.question = question, .layer = layer};
	question->refs++;
	TAILQ_INSERT_TAIL(&place->queue, job, entry);
}

static void give_up(struct place *place, struct question *question)
{
	for (size_t i = 0; i < question->layers; i++) {
		struct finding broken = {.state = BROKEN, .why = LM_ERR_INIT};
		say_hangs(place, &broken.why);
		settle(question, finding_of(question, place, i), broken);
	}
	drop_jobs(place, question);
}

static void ask(struct lm_looker *looker, struct question *question)
{
	for (size_t i = 0; i < looker->count; i++) {
		struct place *place = &looker->places[i];
		if (!may_ask(place, &question->trying[i])) {
			give_up(place, question);
			continue;
		}
		for (size_t k = 0; k < question->layers; k++)
			add_job(place, question, k);
		hire(place);
	}
}

/* The first place that has it, unless one before it has not answered yet; NULL: that is so, or none has it. */
static struct finding *first_found(struct lm_looker *looker, struct question *question, size_t layer, bool *ret_open)
{
	for (size_t i = 0; i < looker->count; i++) {
		struct finding *finding = finding_of(question, &looker->places[i], layer);
		*ret_open = finding->state == WAITING;
		if (*ret_open || finding->state == FOUND)
			return *ret_open ? NULL : finding;
	}
	return NULL;
}

static bool is_open(struct lm_looker *looker, struct question *question)
{
	bool open = false;
	for (size_t i = 0; i < question->layers && !open; i++)
		(void)first_found(looker, question, i, &open);
	return open;
}

/* Until all is known, or the time is over. */
static void wait_for_findings(struct lm_looker *looker, struct question *question, int64_t until_ms)
{
	while (is_open(looker, question)) {
		int64_t now_ms = looker->ways->now_ms(), wake_ms = until_ms;
		if (now_ms >= until_ms)
			return;
		bool gave_up = false;
		for (size_t i = 0; i < looker->count; i++) {
			struct place *place = &looker->places[i];
			if (question->trying[i] || !place->awaited_ms)
				continue;
			if (hangs(place)) {
				give_up(place, question);
				question->trying[i] = gave_up = true; /* once */
			} else {
				wake_ms = LM_MIN(wake_ms, place->awaited_ms + LM_LOOKER_PATIENCE_MS);
			}
		}
		if (!gave_up)
			(void)lm_cond_wait_ms(&looker->changed, &looker->lock, wake_ms - now_ms);
	}
}

/* --- answering; the question is answered, so nobody changes it --- */

struct texts {
	char *items[LM_LOOKER_LAYERS_MAX + 1];
	size_t count;
};

static void texts_freep(struct texts **texts)
{
	for (size_t i = 0; *texts && i < (*texts)->count; i++)
		free((*texts)->items[i]);
	free(*texts);
}

/* NULL, where memory is short, is no text. Lives as long as texts does. */
static char *keep(struct texts *texts, const char *text)
{
	static char none[] = "";
	char *copy = strdup(text);
	if (!copy)
		return none;
	texts->items[texts->count++] = copy;
	return copy;
}

/* Not served: why, as the fetcher would say it. */
static void explain(
	struct lm_looker *looker, struct question *question, size_t layer, struct texts *texts, LayerAnswer *answer)
{
	const struct lm_place_names *names = &question->names[layer];
	const struct finding *unusable = NULL, *unknown = NULL;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(TEXT_MAX);
	int r = lm_buf_printf(&text, "no mount %s",
		*names->by[LM_PLACE_BY_DIGEST].s     ? "has it"
		: *names->by[LM_PLACE_BY_CHAIN_ID].s ? "knows its chain id"
						     : "knows its diff id");
	for (size_t i = 0; i < looker->count; i++) {
		const struct finding *finding = finding_of(question, &looker->places[i], layer);
		if (r == 0)
			r = lm_buf_printf(&text, "%s %s", i ? "," : ":", lm_err_text(&finding->why));
		if (finding->state == UNUSABLE && !unusable)
			unusable = finding;
		if ((finding->state == UNKNOWN || finding->state == BROKEN) && !unknown)
			unknown = finding;
	}
	answer->state = unknown ? STATE(UNAVAILABLE) : STATE(ABSENT);
	if (unusable && !unknown) {
		lm_buf_clear(&text);
		r = lm_buf_printf(&text, "it can't be used from a mount that shows no deletions: %s",
			lm_err_text(&unusable->why));
	}
	answer->reason = keep(texts, unknown ? lm_err_text(&unknown->why) : lm_buf_cstr(&text));
}

static void fill(
	struct lm_looker *looker, struct question *question, size_t layer, struct texts *texts, LayerAnswer *answer)
{
	bool open;
	struct finding *found = first_found(looker, question, layer, &open);
	lamella__fetcher__v1__layer_answer__init(answer);
	answer->digest = question->names[layer].by[LM_PLACE_BY_DIGEST].s;
	if (!found) {
		explain(looker, question, layer, texts, answer);
		return;
	}
	size_t place = (size_t)(found - question->findings) % looker->count;
	answer->digest = found->layer.digest.s;
	answer->path = found->layer.path;
	answer->repository = (char *)looker->places[place].directory;
	answer->state = found->layer.note ? STATE(LOSSY) : STATE(FAITHFUL);
	if (found->layer.note)
		answer->reason = found->layer.note;
}

/* What keeps places from answering at all. */
static char *problem_of(struct lm_looker *looker, struct question *question, struct texts *texts)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(TEXT_MAX);
	int r = 0;
	for (size_t i = 0; i < looker->count && r == 0; i++) {
		const struct finding *broken = NULL;
		for (size_t k = 0; k < question->layers && !broken; k++) {
			broken = finding_of(question, &looker->places[i], k);
			broken = broken->state == BROKEN ? broken : NULL;
		}
		if (broken)
			r = lm_buf_printf(&text, "%s%s", text.len ? "; " : "", lm_err_text(&broken->why));
	}
	return keep(texts, lm_buf_cstr(&text));
}

/* A place that has said nothing in all the time that there was does not work; else it is only slow. */
static struct finding late_finding(const struct place *place, const struct question *question, bool in_time)
{
	bool broken = !in_time && place->came_ms < question->asked_ms;
	struct finding late = {.state = broken ? BROKEN : UNKNOWN, .why = LM_ERR_INIT};
	(void)lm_err_set(&late.why, -ETIMEDOUT,
		broken ? "%s did not answer in time" : "%s has not told in time whether it has the layer",
		place->directory);
	return late;
}

/* lock held */
static void close_question(struct lm_looker *looker, struct question *question)
{
	bool in_time = !is_open(looker, question); /* what is not known yet does not matter */
	for (size_t i = 0; i < looker->count; i++) {
		struct place *place = &looker->places[i];
		drop_jobs(place, question);
		for (size_t k = 0; k < question->layers; k++)
			settle(question, finding_of(question, place, k), late_finding(place, question, in_time));
	}
	question->answered = true;
}

static int reply(struct lm_looker *looker, struct question *question, struct lm_rpc_call *call)
{
	CLEANUP(texts_freep) struct texts *texts = calloc(1, sizeof(*texts));
	CLEANUP(lm_freep) LayerAnswer *answers = calloc(question->layers + 1, sizeof(*answers));
	CLEANUP(lm_freep) LayerAnswer **pointers = calloc(question->layers + 1, sizeof(LayerAnswer *));
	if (!texts || !answers || !pointers)
		return -ENOMEM;
	ResolveResponse response = LAMELLA__FETCHER__V1__RESOLVE_RESPONSE__INIT;
	for (size_t i = 0; i < question->layers; i++) {
		fill(looker, question, i, texts, &answers[i]);
		pointers[i] = &answers[i];
	}
	response.n_layers = question->layers;
	response.layers = pointers;
	response.problem = problem_of(looker, question, texts);
	lm_rpc_reply(call, &response.base);
	return 0;
}

static int read_names(const ResolveRequest *request, struct lm_place_names *ret, struct lm_err *err)
{
	for (size_t i = 0; i < request->n_layers; i++) {
		const Lamella__Fetcher__V1__LayerQuery *query = request->layers[i];
		const char *const texts[LM_PLACE_WAYS] = {query->digest, query->chain_id, query->diff_id};
		bool any = false;
		for (int way = 0; way < LM_PLACE_WAYS; way++) {
			if (*texts[way] && !lm_images_digest_parse(texts[way], &ret[i].by[way]))
				return lm_err_set(err, -EINVAL, "\"%.100s\" is no sha256 digest", texts[way]);
			any |= *texts[way] != '\0';
		}
		if (!any)
			return lm_err_set(err, -EINVAL, "a layer without digest, chain id or diff id");
	}
	return 0;
}

static int make_question(
	const struct lm_looker *looker, const ResolveRequest *request, struct question **ret, struct lm_err *err)
{
	size_t count = request->n_layers;
	if (count > LM_LOOKER_LAYERS_MAX)
		return lm_err_set(err, -EINVAL, "%zu layers; %d at most", count, LM_LOOKER_LAYERS_MAX);
	CLEANUP(lm_freep) struct question *question = calloc(1, sizeof(*question));
	CLEANUP(lm_freep) struct lm_place_names *names = calloc(count + 1, sizeof(*names));
	CLEANUP(lm_freep) struct finding *findings = calloc(count * looker->count + 1, sizeof(*findings));
	if (!question || !names || !findings)
		return lm_err_oom(err);
	int r = read_names(request, names, err);
	if (r < 0)
		return r;
	*question = (struct question){.refs = 1, .layers = count, .names = STEAL(names), .findings = STEAL(findings)};
	*ret = STEAL(question);
	return 0;
}

void lm_looker_handle(struct lm_looker *looker, struct lm_rpc_call *call)
{
	struct lm_err err = LM_ERR_INIT;
	struct question *question = NULL;
	unsigned left_ms = LM_MIN(lm_rpc_time_left_ms(call), (unsigned)INT_MAX);
	int64_t until_ms = looker->ways->now_ms() + left_ms - (left_ms > ANSWER_MARGIN_MS ? ANSWER_MARGIN_MS : 0);
	int r = make_question(looker, (const ResolveRequest *)lm_rpc_request(call), &question, &err);
	if (r < 0) {
		lm_rpc_fail(call, r == -EINVAL ? LM_RPC_INVALID_ARGUMENT : LM_RPC_RESOURCE_EXHAUSTED, "%s",
			lm_err_text(&err));
		return;
	}
	lm_lock_take(&looker->lock);
	question->asked_ms = looker->ways->now_ms();
	ask(looker, question);
	wait_for_findings(looker, question, until_ms);
	close_question(looker, question);
	lm_lock_release(&looker->lock);
	if (reply(looker, question, call) < 0)
		lm_rpc_fail(call, LM_RPC_RESOURCE_EXHAUSTED, "out of memory");
	LM_LOCKED(&looker->lock);
	question_unref(looker, question);
}

/* --- the looker --- */

int lm_looker_new(
	const struct lm_places *places, const struct lm_looker_ways *ways, struct lm_looker **ret, struct lm_err *err)
{
	struct lm_looker *looker = calloc(1, sizeof(*looker));
	if (!looker)
		return lm_err_oom(err);
	lm_lock_init(&looker->lock);
	lm_cond_init(&looker->changed);
	looker->ways = ways;
	looker->count = places->count;
	for (size_t i = 0; i < places->count; i++) {
		looker->places[i].looker = looker;
		looker->places[i].directory = places->directories[i];
		TAILQ_INIT(&looker->places[i].queue);
	}
	*ret = looker;
	return 0;
}

static bool is_left(const struct lm_looker *looker)
{
	unsigned threads = 0;
	for (size_t i = 0; i < looker->count; i++)
		threads += looker->places[i].threads;
	return threads == 0;
}

void lm_looker_free(struct lm_looker *looker)
{
	if (!looker)
		return;
	int64_t until_ms = lm_now_ms() + LEAVE_MS;
	lm_lock_take(&looker->lock);
	looker->stopping = true;
	for (size_t i = 0; i < looker->count; i++)
		drop_jobs(&looker->places[i], NULL);
	for (int64_t left; !is_left(looker) && (left = until_ms - lm_now_ms()) > 0;)
		(void)lm_cond_wait_ms(&looker->changed, &looker->lock, left);
	bool left = is_left(looker);
	lm_lock_release(&looker->lock);
	if (!left)
		return;
	tdestroy(looker->known, known_free);
	lm_cond_done(&looker->changed);
	lm_lock_done(&looker->lock);
	free(looker);
}
