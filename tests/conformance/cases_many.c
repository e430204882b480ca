/* Many clients at once: each gets what it would get alone, and of those who want the same thing one gets it. */
#include "conformance.h"

#include "base/str.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

struct client {
	struct lab lab;
	unsigned number;
	int (*run)(struct client *client);
	pthread_barrier_t *start;
	int result;
	enum lm_rpc_code code; /* of the call that is raced */
	char key[64];	       /* what it wants */
};

static void *client_thread(void *arg)
{
	struct client *client = arg;
	pthread_barrier_wait(client->start);
	client->result = client->run(client);
	return NULL;
}

static void clients_freep(struct client **clients)
{
	free(*clients);
}

/* All at once, on one connection, as containerd's calls are. */
static int run_clients(struct lab *lab, unsigned count, int (*run)(struct client *client), struct client **ret)
{
	CLEANUP(clients_freep) struct client *clients = calloc(count, sizeof(*clients));
	CLEANUP(lm_freep) pthread_t *threads = calloc(count, sizeof(*threads));
	pthread_barrier_t start;
	if (!clients || !threads)
		return lm_err_oom(&lab->err);
	pthread_barrier_init(&start, NULL, count);
	for (unsigned i = 0; i < count; i++) {
		clients[i] = (struct client){.lab = *lab, .number = i, .run = run, .start = &start};
		if (pthread_create(&threads[i], NULL, client_thread, &clients[i]) != 0)
			abort(); /* the others wait for it */
	}
	for (unsigned i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&start);
	for (unsigned i = 0; i < count; i++) {
		if (clients[i].result < 0) {
			lab->err = clients[i].lab.err;
			return lm_err_prefix(&lab->err, clients[i].result, "client %u", i);
		}
	}
	*ret = STEAL(clients);
	return 0;
}

static unsigned how_many(const struct client *clients, unsigned count, enum lm_rpc_code code)
{
	unsigned n = 0;
	for (unsigned i = 0; i < count; i++)
		n += clients[i].code == code;
	return n;
}

/* Exactly one of the clients won, and the others heard one of these. */
static int check_one_winner(struct lab *lab, const struct client *clients, unsigned count, unsigned others)
{
	CHECK(lab, how_many(clients, count, LM_RPC_OK) == 1, "%u of %u won", how_many(clients, count, LM_RPC_OK),
		count);
	for (unsigned i = 0; i < count; i++)
		CHECK(lab, clients[i].code == LM_RPC_OK || others & 1U << clients[i].code, "client %u: %s", i,
			lm_err_text(&clients[i].lab.remote.err));
	return 0;
}

/* A chain of its own, with everything that one can do with it. */
static int own_chain(struct client *client)
{
	struct lab *lab = &client->lab;
	char parent[64] = "", key[64], name[64], content[64];
	int64_t bytes, inodes;
	for (unsigned layer = 0; layer < 3; layer++) {
		snprintf(key, sizeof(key), "%u active %u", client->number, layer);
		snprintf(name, sizeof(name), "%u layer %u", client->number, layer);
		snprintf(content, sizeof(content), "file-%u", layer);
		TRY(lab_write(lab, key, parent,
			(const struct step[]){
				{FILE_OF, content, name, .mode = 0644}, {FILE_OF, "last", name, .mode = 0644}, {END}}));
		EXPECT(lab, LM_RPC_OK, remote_usage(&lab->remote, key, &bytes, &inodes));
		EXPECT(lab, LM_RPC_OK, commit(lab, name, key));
		TRY(check_info(lab, name, CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__COMMITTED, parent));
		snprintf(parent, sizeof(parent), "%s", name);
	}
	snprintf(key, sizeof(key), "%u view", client->number);
	EXPECT(lab, LM_RPC_OK, view(lab, key, parent));
	EXPECT(lab, LM_RPC_OK, remote_update(&lab->remote, key, "", LABELS("client", key), NULL, NULL));
	CLEANUP(listing_done) struct listing listing = {0};
	CLEANUP(lm_freep) char *filter = lm_str_printf("labels.client==\"%s\"", key);
	EXPECT(lab, LM_RPC_OK, remote_list(&lab->remote, TEXTS(filter), &listing));
	CHECK(lab, listing.count == 1, "found %zu", listing.count);
	EXPECT(lab, LM_RPC_FAILED_PRECONDITION, remote_remove(&lab->remote, parent));
	EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, key));
	for (unsigned layer = 3; layer-- > 0;) {
		snprintf(name, sizeof(name), "%u layer %u", client->number, layer);
		EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, name));
	}
	return 0;
}

static int chains_at_once(struct lab *lab)
{
	CLEANUP(clients_freep) struct client *clients = NULL;
	CLEANUP(listing_done) struct listing left = {0};
	TRY(run_clients(lab, lab->options->clients, own_chain, &clients));
	EXPECT(lab, LM_RPC_OK, remote_list(&lab->remote, NULL, &left));
	CHECK(lab, left.count == 0, "%zu are left", left.count);
	EXPECT_AS(lab, "cleanup", remote_cleanup(&lab->remote));
	return 0;
}

static int same_key(struct client *client)
{
	client->code =
		client->number % 2 ? view(&client->lab, "wanted", "base") : prepare(&client->lab, "wanted", "base");
	return 0;
}

static int one_gets_the_key(struct lab *lab)
{
	CLEANUP(clients_freep) struct client *clients = NULL;
	TRY(committed(lab, "base", ""));
	TRY(run_clients(lab, lab->options->clients, same_key, &clients));
	TRY(check_one_winner(lab, clients, lab->options->clients, 1U << LM_RPC_ALREADY_EXISTS));
	EXPECT(lab, LM_RPC_OK, remote_stat(&lab->remote, "wanted", NULL));
	return 0;
}

static int commit_one(struct client *client)
{
	char name[32];
	snprintf(name, sizeof(name), "name %u", client->number);
	client->code = commit(&client->lab, name, "active");
	return 0;
}

static int one_commits_it(struct lab *lab)
{
	CLEANUP(clients_freep) struct client *clients = NULL;
	CLEANUP(listing_done) struct listing listing = {0};
	EXPECT(lab, LM_RPC_OK, prepare(lab, "active", ""));
	TRY(run_clients(lab, lab->options->clients, commit_one, &clients));
	TRY(check_one_winner(lab, clients, lab->options->clients, 1U << LM_RPC_NOT_FOUND));
	EXPECT(lab, LM_RPC_OK, remote_list(&lab->remote, NULL, &listing));
	CHECK(lab, listing.count == 1, "%zu came of one", listing.count);
	return 0;
}

static int commit_as_one(struct client *client)
{
	char key[32];
	snprintf(key, sizeof(key), "active %u", client->number);
	EXPECT(&client->lab, LM_RPC_OK, prepare(&client->lab, key, ""));
	client->code = commit(&client->lab, "wanted", key);
	return 0;
}

static int one_gets_the_name(struct lab *lab)
{
	CLEANUP(clients_freep) struct client *clients = NULL;
	CLEANUP(listing_done) struct listing listing = {0};
	unsigned count = lab->options->clients;
	TRY(run_clients(lab, count, commit_as_one, &clients));
	TRY(check_one_winner(lab, clients, count, 1U << LM_RPC_ALREADY_EXISTS));
	EXPECT(lab, LM_RPC_OK, remote_list(&lab->remote, NULL, &listing));
	CHECK(lab, listing.count == count, "%zu are left of %u", listing.count, count);
	return 0;
}

static int remove_it(struct client *client)
{
	client->code = remote_remove(&client->lab.remote, "there");
	return 0;
}

static int one_removes_it(struct lab *lab)
{
	CLEANUP(clients_freep) struct client *clients = NULL;
	TRY(committed(lab, "there", ""));
	TRY(run_clients(lab, lab->options->clients, remove_it, &clients));
	return check_one_winner(lab, clients, lab->options->clients, 1U << LM_RPC_NOT_FOUND);
}

/* One client takes the parent away that all others want. */
static int build_on(struct client *client)
{
	char key[32];
	snprintf(key, sizeof(key), "child %u", client->number);
	client->code =
		client->number == 0 ? remote_remove(&client->lab.remote, "base") : prepare(&client->lab, key, "base");
	return 0;
}

static int parent_goes_or_stays(struct lab *lab)
{
	unsigned count = lab->options->clients;
	for (unsigned round = 0; round < 5; round++) {
		CLEANUP(clients_freep) struct client *clients = NULL;
		TRY(committed(lab, "base", ""));
		TRY(run_clients(lab, count, build_on, &clients));
		unsigned children = how_many(clients + 1, count - 1, LM_RPC_OK);
		unsigned orphans = how_many(clients + 1, count - 1, LM_RPC_NOT_FOUND);
		CHECK(lab, children + orphans == count - 1, "%u children, %u refused of %u", children, orphans,
			count - 1);
		CHECK(lab, clients[0].code == (children ? LM_RPC_FAILED_PRECONDITION : LM_RPC_OK),
			"the parent of %u was removed with status %d", children, clients[0].code);
		TRY(lab_empty(lab));
	}
	return 0;
}

/* A layer that is wanted by all: it is there once, and all hear of it. */
static int want_layer(struct client *client)
{
	const struct options *o = client->lab.options;
	const char *layer =
		o->layer ? o->layer : "sha256:0000000000000000000000000000000000000000000000000000000000000000";
	const char *chain =
		o->chain ? o->chain : "sha256:1111111111111111111111111111111111111111111111111111111111111111";
	snprintf(client->key, sizeof(client->key), "extract-%u", client->number);
	client->code = remote_make(&client->lab.remote, PREPARE, client->key, "",
		LABELS("containerd.io/snapshot.ref", chain, "containerd.io/snapshot/cri.layer-digest", layer), NULL);
	return 0;
}

static int one_layer_for_all(struct lab *lab)
{
	CLEANUP(clients_freep) struct client *clients = NULL;
	CLEANUP(listing_done) struct listing listing = {0};
	unsigned count = lab->options->clients;
	bool served = lab->options->layer && lab->options->target != OVERLAYFS;
	TRY(run_clients(lab, count, want_layer, &clients));
	unsigned there = how_many(clients, count, LM_RPC_ALREADY_EXISTS), made = how_many(clients, count, LM_RPC_OK);
	CHECK(lab, served ? there == count : made == count, "%u of %u were told that it is there, %u got an empty one",
		there, count, made);
	EXPECT(lab, LM_RPC_OK, remote_list(&lab->remote, NULL, &listing));
	CHECK(lab, listing.count == (served ? 1 : count), "%zu snapshots of it", listing.count);
	if (!served)
		return 0;
	CHECK(lab, listing.infos[0]->kind == CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__COMMITTED, "not committed");
	const char *ref = info_label(listing.infos[0], "containerd.io/snapshot.ref");
	CHECK(lab, ref && strcmp(ref, lab->options->chain) == 0, "it is not labelled");
	for (unsigned i = 0; i < count; i++)
		EXPECT(lab, LM_RPC_NOT_FOUND, remote_stat(&lab->remote, clients[i].key, NULL));
	return 0;
}

const struct test cases_many[] = {
	{"chains-at-once", chains_at_once},
	{"one-gets-the-key", one_gets_the_key},
	{"one-commits-it", one_commits_it},
	{"one-gets-the-name", one_gets_the_name},
	{"one-removes-it", one_removes_it},
	{"parent-goes-or-stays", parent_goes_or_stays},
	{"one-layer-for-all", one_layer_for_all},
	{0},
};
