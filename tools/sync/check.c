#include "sync/check.h"

#include "base/lock.h"
#include "base/work.h"

#include <search.h>
#include <string.h>

enum { THREADS = 8, QUEUE_MAX = 64, FAILURES_MAX = 3 };

/* One registry. */
struct gate {
	const char *host;
	bool plain;
	/* under lock */
	struct lm_lock lock;
	unsigned failures; /* in a row */
	int code;	   /* not 0: it is not asked any more */
	struct lm_err why;
};

/* One name in a registry. */
struct client {
	const char *registry, *repository;
	bool plain;
	struct gate *gate;
	struct lm_tags *tags; /* NULL: it can't be asked */
	int code;
	struct lm_err why;
};

struct checking {
	struct lm_access access, plain_access;
	const atomic_bool *stop;
	void *clients, *gates; /* trees of tsearch(3) */
};

struct job {
	struct checking *checking;
	struct client *client;
	struct lm_check *check;
};

void lm_check_done(struct lm_check *check)
{
	lm_texts_done(&check->tags);
	free(check->error);
	*check = (struct lm_check){0};
}

/* --- registries and names --- */

static int compare_gates(const void *a, const void *b)
{
	const struct gate *x = a, *y = b;
	return x->plain != y->plain ? x->plain - y->plain : strcmp(x->host, y->host);
}

static int compare_clients(const void *a, const void *b)
{
	const struct client *x = a, *y = b;
	int order = x->plain != y->plain ? x->plain - y->plain : strcmp(x->registry, y->registry);
	return order ? order : strcmp(x->repository, y->repository);
}

static void free_gate(void *arg)
{
	struct gate *gate = arg;
	lm_lock_done(&gate->lock);
	free(gate);
}

static void free_client(void *arg)
{
	struct client *client = arg;
	lm_tags_free(client->tags);
	free(client);
}

static void checking_done(struct checking *c)
{
	tdestroy(c->clients, free_client);
	tdestroy(c->gates, free_gate);
}

static struct gate *get_gate(struct checking *c, const struct lm_wish *wish, bool plain)
{
	const struct gate key = {.host = wish->registry, .plain = plain};
	struct gate **found = tfind(&key, &c->gates, compare_gates);
	if (found)
		return *found;
	struct gate *gate = calloc(1, sizeof(*gate));
	if (!gate)
		return NULL;
	gate->host = wish->registry;
	gate->plain = plain;
	lm_lock_init(&gate->lock);
	if (tsearch(gate, &c->gates, compare_gates))
		return gate;
	free_gate(gate);
	return NULL;
}

/* NULL: no memory. */
static struct client *get_client(struct checking *c, const struct lm_wish *wish)
{
	bool plain = strcmp(wish->scheme, "http") == 0;
	const struct client key = {.registry = wish->registry, .repository = wish->repository, .plain = plain};
	struct client **found = tfind(&key, &c->clients, compare_clients);
	if (found)
		return *found;
	struct client *client = calloc(1, sizeof(*client));
	if (!client)
		return NULL;
	*client = key;
	client->gate = get_gate(c, wish, plain);
	client->code = lm_tags_open(
		wish->registry, wish->repository, plain ? &c->plain_access : &c->access, &client->tags, &client->why);
	if (client->gate && tsearch(client, &c->clients, compare_clients))
		return client;
	free_client(client);
	return NULL;
}

/* --- answers --- */

static bool is_transient(int code)
{
	return code == -EAGAIN || code == -EIO || code == -ETIMEDOUT || code == -ECANCELED;
}

static void fail(struct lm_check *check, int code, const char *why, bool transient)
{
	check->code = code;
	check->error = strdup(why);
	check->transient = transient;
}

/* Whether the registry may be asked; what it would say else. */
static bool pass(struct gate *gate, struct lm_check *check)
{
	LM_LOCKED(&gate->lock);
	if (gate->code == 0)
		return true;
	fail(check, gate->code, gate->why.msg, true);
	return false;
}

static void learn(struct gate *gate, int code, const struct lm_err *why)
{
	LM_LOCKED(&gate->lock);
	gate->failures = is_transient(code) ? gate->failures + 1 : 0;
	if (gate->code == 0 && (code == -EAGAIN || gate->failures >= FAILURES_MAX)) {
		gate->code = code;
		gate->why = *why;
		lm_err_prefix(&gate->why, code, "not asked again in this round");
	}
}

static int ask(struct client *client, struct lm_check *check, struct lm_err *err)
{
	const struct lm_wish *wish = check->wish;
	return check->tag ? lm_tags_digest(client->tags, check->tag, check->digest, err)
			  : lm_tags_list(client->tags, wish->tag, &check->tags, err);
}

static void run_check(void *arg)
{
	const struct job *job = arg;
	struct client *client = job->client;
	struct lm_check *check = job->check;
	struct lm_err err = LM_ERR_INIT;
	if (*job->checking->stop) {
		fail(check, -ECANCELED, "stopped", true);
	} else if (client->code < 0) {
		fail(check, client->code, lm_err_text(&client->why), false);
	} else if (pass(client->gate, check)) {
		int r = ask(client, check, &err);
		learn(client->gate, r, &err);
		if (r < 0)
			fail(check, r, lm_err_text(&err), is_transient(r));
	}
}

int lm_check_all(const struct lm_access *access, struct lm_check *checks, size_t count, const atomic_bool *stop,
	struct lm_err *err)
{
	struct checking c = {.access = *access, .plain_access = *access, .stop = stop};
	c.plain_access.plain_http = true;
	CLEANUP(lm_freep) struct job *jobs = calloc(LM_MAX(count, (size_t)1), sizeof(*jobs));
	CLEANUP(lm_work_freep) struct lm_work *work = NULL;
	int r = jobs ? 0 : lm_err_oom(err);
	for (size_t i = 0; r == 0 && i < count; i++) {
		jobs[i] = (struct job){&c, get_client(&c, checks[i].wish), &checks[i]};
		if (!jobs[i].client)
			r = lm_err_oom(err);
	}
	if (r == 0)
		r = lm_work_new("check", (unsigned)LM_MIN(count, (size_t)THREADS), QUEUE_MAX, &work, err);
	for (size_t i = 0; r == 0 && i < count; i++)
		lm_work_submit(work, run_check, &jobs[i]);
	lm_work_freep(&work); /* waits */
	checking_done(&c);
	return r;
}
