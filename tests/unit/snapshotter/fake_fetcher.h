/* A fetcher for tests: answers Resolve out of a table, and can be slow, wrong or away. */
#ifndef FAKE_FETCHER_H
#define FAKE_FETCHER_H

#include "base/lock.h"
#include "rpc/rpc.h"

#include "lamella/fetcher.pb-c.h"

#include <stdio.h>
#include <string.h>

enum fake_mode { FAKE_RIGHT, FAKE_STALLS, FAKE_TOO_FEW, FAKE_OTHER_LAYER, FAKE_BAD_PATH, FAKE_FAILS };

struct fake_fetcher {
	char socket[80];
	struct lm_rpc_server *server;
	/* under lock */
	struct lm_lock lock;
	struct lm_cond changed;
	enum fake_mode mode;
	char prefix[64];		       /* of the paths answered */
	Lamella__Fetcher__V1__LayerState tree; /* of every chain; 0: not answered, as by older ones */
	char tree_image[96], tree_data[96];
	unsigned held[2]; /* calls that ask for one of these numbers wait until it is another; 0: none */
	unsigned calls, asked, waiting;
};

/* Digests are numbers here; the number decides: 1xx faithful, 2xx lossy, 3xx absent, 4xx unavailable. A layer is found
 * by its digest, or else as the chain id or diff id says: its digest then has that number. */
static inline char *fake_digest(unsigned number)
{
	static _Thread_local char texts[8][80];
	static _Thread_local unsigned next;
	char *text = texts[next++ % 8];
	snprintf(text, 80, "sha256:%064u", number);
	return text;
}

static inline unsigned fake_number(const char *digest)
{
	return *digest ? (unsigned)strtoul(digest + strlen(digest) - 8, NULL, 10) : 0;
}

static inline void fake_answer(struct fake_fetcher *f, const Lamella__Fetcher__V1__LayerQuery *query, char *path,
	size_t size, Lamella__Fetcher__V1__LayerAnswer *answer)
{
	static const Lamella__Fetcher__V1__LayerAnswer init = LAMELLA__FETCHER__V1__LAYER_ANSWER__INIT;
	const char *const names[] = {query->digest, query->chain_id, query->diff_id};
	unsigned number = 300;
	*answer = init;
	answer->digest = query->digest;
	for (size_t i = 0; i < 3 && number / 100 == 3; i++) {
		number = *names[i] ? fake_number(names[i]) : number;
		if (number / 100 == 1 || number / 100 == 2)
			answer->digest = (char *)names[i];
	}
	snprintf(path, size, "%s/%u", f->mode == FAKE_BAD_PATH ? "relative" : f->prefix, number);
	if (number / 100 == 1 || number / 100 == 2)
		answer->path = path;
	answer->state = (Lamella__Fetcher__V1__LayerState)(number / 100);
	answer->reason = (char *)(number / 100 == 2   ? "owners dropped"
				  : number / 100 == 3 ? "not published"
				  : number / 100 == 4 ? "no \xe2\x82\xac route"
						      : "");
	if (f->mode == FAKE_OTHER_LAYER)
		answer->digest = (char *)"sha256:0";
}

/* lock held */
static inline bool fake_holds(const struct fake_fetcher *f, const Lamella__Fetcher__V1__ResolveRequest *request)
{
	for (size_t i = 0; i < request->n_layers; i++)
		for (size_t k = 0; k < ARRAY_LEN(f->held); k++)
			if (f->held[k] && fake_number(request->layers[i]->digest) == f->held[k])
				return true;
	return false;
}

static inline void fake_resolve(struct lm_rpc_call *call, void *arg)
{
	struct fake_fetcher *f = arg;
	const Lamella__Fetcher__V1__ResolveRequest *request =
		(const Lamella__Fetcher__V1__ResolveRequest *)lm_rpc_request(call);
	Lamella__Fetcher__V1__LayerAnswer answers[600], *pointers[600];
	static _Thread_local char paths[600][96];
	lm_lock_take(&f->lock);
	f->calls++;
	f->asked += (unsigned)request->n_layers;
	f->waiting++;
	lm_cond_broadcast(&f->changed);
	while ((f->mode == FAKE_STALLS || fake_holds(f, request)) && !lm_rpc_cancelled(call))
		(void)lm_cond_wait_ms(&f->changed, &f->lock, 10);
	f->waiting--;
	enum fake_mode mode = f->mode;
	for (size_t i = 0; i < request->n_layers && i < ARRAY_LEN(answers); i++) {
		fake_answer(f, request->layers[i], paths[i], sizeof(paths[i]), &answers[i]);
		pointers[i] = &answers[i];
	}
	Lamella__Fetcher__V1__TreeAnswer tree = LAMELLA__FETCHER__V1__TREE_ANSWER__INIT;
	tree.state = f->tree;
	tree.image = f->tree_image;
	tree.data = f->tree_data;
	tree.reason = (char *)"why not";
	lm_lock_release(&f->lock);
	Lamella__Fetcher__V1__ResolveResponse response = LAMELLA__FETCHER__V1__RESOLVE_RESPONSE__INIT;
	response.tree = request->tree && tree.state ? &tree : NULL;
	response.n_layers = request->n_layers - (mode == FAKE_TOO_FEW);
	response.layers = pointers;
	if (mode == FAKE_FAILS)
		lm_rpc_fail(call, LM_RPC_INTERNAL, "broken");
	else
		lm_rpc_reply(call, &response.base);
}

static inline void fake_start(struct fake_fetcher *f)
{
	static struct lm_rpc_method methods[1];
	methods[0] = (struct lm_rpc_method){"/lamella.fetcher.v1.Fetcher/Resolve",
		&lamella__fetcher__v1__resolve_request__descriptor, fake_resolve, 0};
	assert_int_equal(lm_rpc_server_new(f->socket, methods, 1, f, 0, &f->server, NULL), 0);
}

static inline void fake_init(struct fake_fetcher *f, const char *dir)
{
	lm_lock_init(&f->lock);
	lm_cond_init(&f->changed);
	snprintf(f->socket, sizeof(f->socket), "%s/fetcher.sock", dir);
	snprintf(f->prefix, sizeof(f->prefix), "%s/layers", dir);
	fake_start(f);
}

static inline void fake_stop(struct fake_fetcher *f)
{
	lm_rpc_server_free(STEAL(f->server));
}

static inline void fake_done(struct fake_fetcher *f)
{
	fake_stop(f);
	lm_cond_done(&f->changed);
	lm_lock_done(&f->lock);
}

static inline void fake_set_mode(struct fake_fetcher *f, enum fake_mode mode)
{
	LM_LOCKED(&f->lock);
	f->mode = mode;
	lm_cond_broadcast(&f->changed);
}

static inline void fake_hold(struct fake_fetcher *f, unsigned one, unsigned other)
{
	LM_LOCKED(&f->lock);
	f->held[0] = one;
	f->held[1] = other;
	lm_cond_broadcast(&f->changed);
}

static inline void fake_set_prefix(struct fake_fetcher *f, const char *prefix)
{
	LM_LOCKED(&f->lock);
	snprintf(f->prefix, sizeof(f->prefix), "%s", prefix);
}

static inline void fake_set_tree(
	struct fake_fetcher *f, Lamella__Fetcher__V1__LayerState state, const char *image, const char *data)
{
	LM_LOCKED(&f->lock);
	f->tree = state;
	snprintf(f->tree_image, sizeof(f->tree_image), "%s", image);
	snprintf(f->tree_data, sizeof(f->tree_data), "%s", data);
}

static inline unsigned fake_calls(struct fake_fetcher *f)
{
	LM_LOCKED(&f->lock);
	return f->calls;
}

static inline unsigned fake_waiting(struct fake_fetcher *f)
{
	LM_LOCKED(&f->lock);
	return f->waiting;
}

static inline unsigned fake_asked(struct fake_fetcher *f)
{
	LM_LOCKED(&f->lock);
	return f->asked;
}

#endif
