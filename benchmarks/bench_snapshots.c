/*
 * bench-snapshots --rounds N --calls N --sizes N,N... [--json FILE] [--bound R] NAME,SOCKET,SNAPSHOTTER[,NAMESPACE]...
 *
 * What the calls of the snapshots service cost, in microseconds, with so many snapshots there, at each of the services;
 * the first one is what the others are compared with. In each round every kind of call is made at all services in turn,
 * so many times (List once for 1000 snapshots and more), on one connection, one after the other. SOCKET is
 * containerd's, then with a NAMESPACE, or a proxy plugin's. What is there are views of one committed snapshot.
 *
 * Exit code 1: a call takes more than R times as long at another service than at the first, at the median of the
 * rounds' ratios; of services through containerd only calls that change something count, since those that only ask are
 * answered in less time than it takes containerd to ask another process, which is what any proxy plugin is. Where these
 * are beyond R, it is said.
 */
#include "base/clock.h"
#include "base/macros.h"
#include "base/str.h"
#include "client.h"
#include "rounds.h"

#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { SERVICES_MAX = 4, SIZES_MAX = 4, FILLERS = 8, LIST_OFTEN_BELOW = 1000, PAUSE_MS = 1500 };
enum call { PREPARE_CALL, MOUNTS_CALL, STAT_CALL, LIST_CALL, COMMIT_CALL, REMOVE_CALL, CALLS };
static const bool changes[CALLS] = {[PREPARE_CALL] = true, [COMMIT_CALL] = true, [REMOVE_CALL] = true};
static const char *const call_names[CALLS] = {"Prepare", "Mounts", "Stat", "List", "Commit", "Remove"};

#define LABELS ((const char *const[]){"containerd.io/gc.root", "benchmark", NULL})

struct service {
	char *name, *socket, *snapshotter, *namespace;
	struct remote remote;
	double us[CALLS][ROUNDS_MAX];
};

struct bench {
	struct service services[SERVICES_MAX];
	unsigned n_services, rounds, calls, n_sizes, sizes[SIZES_MAX];
	double bound;
	FILE *json;
	bool exceeded;
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "bench-snapshots: %s: %s\n", what, why);
	exit(2);
}

static void must(struct service *service, const char *what, enum lm_rpc_code code)
{
	if (code != LM_RPC_OK) {
		fprintf(stderr, "bench-snapshots: %s at %s: ", what, service->name);
		die("refused", lm_err_text(&service->remote.err));
	}
}

/* Filling and emptying, by several threads. */

struct filler {
	struct service service; /* a copy */
	_Atomic(unsigned) *next;
	unsigned count;
	void (*work)(struct service *service, unsigned number);
};

static void make_view(struct service *service, unsigned number)
{
	char key[32];
	snprintf(key, sizeof(key), "there-%u", number);
	must(service, "View", remote_make(&service->remote, VIEW, key, "base", LABELS, NULL));
}

static void remove_view(struct service *service, unsigned number)
{
	char key[32];
	snprintf(key, sizeof(key), "there-%u", number);
	must(service, "Remove", remote_remove(&service->remote, key));
}

static void *fill_thread(void *arg)
{
	struct filler *filler = arg;
	for (unsigned number; (number = atomic_fetch_add(filler->next, 1)) < filler->count;)
		filler->work(&filler->service, number);
	return NULL;
}

static void for_each(struct service *service, unsigned count, void (*work)(struct service *service, unsigned number))
{
	_Atomic(unsigned) next = 0;
	struct filler fillers[FILLERS];
	pthread_t threads[FILLERS];
	for (unsigned i = 0; i < FILLERS; i++) {
		fillers[i] = (struct filler){*service, &next, count, work};
		if (pthread_create(&threads[i], NULL, fill_thread, &fillers[i]) != 0)
			die("a thread", "not to be had");
	}
	for (unsigned i = 0; i < FILLERS; i++)
		pthread_join(threads[i], NULL);
}

static void fill(struct service *service, unsigned size)
{
	int64_t begin = lm_now_ms();
	must(service, "Prepare", remote_make(&service->remote, PREPARE, "base-active", "", LABELS, NULL));
	must(service, "Commit", remote_commit(&service->remote, "base", "base-active", LABELS));
	for_each(service, size - 1, make_view);
	printf("%s: %u snapshots made in %.1f s\n", service->name, size, (double)(lm_now_ms() - begin) / 1000);
	fflush(stdout);
}

static void empty(struct service *service, unsigned size)
{
	for_each(service, size - 1, remove_view);
	must(service, "Remove", remote_remove(&service->remote, "base"));
}

/* Measuring. */

static void one_list(struct service *service, unsigned expected)
{
	CLEANUP(listing_done) struct listing listing = {0};
	must(service, "List", remote_list(&service->remote, NULL, &listing));
	if (listing.count != expected)
		die(service->name, "lists another number of snapshots than there are");
}

static void one_call(struct service *service, enum call call, unsigned number, unsigned listed)
{
	char key[32], name[32];
	struct remote *remote = &service->remote;
	snprintf(key, sizeof(key), "key-%u", number);
	snprintf(name, sizeof(name), "name-%u", number);
	switch (call) {
	case PREPARE_CALL:
		must(service, "Prepare", remote_make(remote, PREPARE, key, "base", LABELS, NULL));
		break;
	case MOUNTS_CALL:
		must(service, "Mounts", remote_mounts(remote, key, NULL));
		break;
	case STAT_CALL:
		must(service, "Stat", remote_stat(remote, key, NULL));
		break;
	case LIST_CALL:
		one_list(service, listed);
		break;
	case COMMIT_CALL:
		must(service, "Commit", remote_commit(remote, name, key, LABELS));
		break;
	case REMOVE_CALL:
		must(service, "Remove", remote_remove(remote, name));
		break;
	case CALLS:
		break;
	}
}

static double measure(const struct bench *b, struct service *service, enum call call, unsigned size)
{
	unsigned times = call == LIST_CALL && size >= LIST_OFTEN_BELOW ? 1 : b->calls;
	int64_t begin = lm_now_ns();
	for (unsigned i = 0; i < times; i++)
		one_call(service, call, i, size + b->calls);
	return (double)(lm_now_ns() - begin) / 1000 / times;
}

static void measure_size(struct bench *b, unsigned size)
{
	for (unsigned n = 0; n < b->n_services; n++)
		fill(&b->services[n], size);
	for (unsigned round = 0; round < b->rounds; round++) {
		for (unsigned call = 0; call < CALLS; call++)
			for (unsigned n = 0; n < b->n_services; n++)
				b->services[n].us[call][round] = measure(b, &b->services[n], (enum call)call, size);
		/* containerd collects its garbage after removals: not while the next round is measured. */
		nanosleep(&(struct timespec){PAUSE_MS / 1000, PAUSE_MS % 1000 * 1000000}, NULL);
	}
}

/* Telling. */

static void print_json(
	struct bench *b, const struct service *s, unsigned call, unsigned size, const double *sorted, double ratio)
{
	if (b->json)
		fprintf(b->json,
			"{\"benchmark\": \"snapshots\", \"service\": \"%s\", \"call\": \"%s\", \"snapshots\": %u, "
			"\"unit\": \"us\", \"rounds\": %u, \"min\": %.1f, \"median\": %.1f, \"max\": %.1f, \"ratio\": "
			"%.3f}\n",
			s->name, call_names[call], size, b->rounds, sorted[0], sorted[b->rounds / 2],
			sorted[b->rounds - 1], ratio);
}

static void print_size(struct bench *b, unsigned size)
{
	printf("\n%-9s %-8s", "snapshots", "call");
	for (unsigned n = 0; n < b->n_services; n++)
		printf(" %26s, us%s", b->services[n].name, n ? "   ratio" : "");
	puts("");
	for (unsigned call = 0; call < CALLS; call++) {
		printf("%-9u %-8s", size, call_names[call]);
		for (unsigned n = 0; n < b->n_services; n++) {
			struct service *s = &b->services[n];
			double ratio = rounds_median(s->us[call], b->services[0].us[call], b->rounds);
			double sorted[ROUNDS_MAX];
			memcpy(sorted, s->us[call], sizeof(sorted));
			rounds_sort(sorted, b->rounds);
			printf(" %9.0f %9.0f %9.0f", sorted[0], sorted[b->rounds / 2], sorted[b->rounds - 1]);
			if (n > 0)
				printf(" %7.2f", ratio);
			bool counts = n > 0 && (changes[call] || !s->namespace);
			b->exceeded = b->exceeded || (counts && ratio > b->bound);
			if (n > 0 && ratio > b->bound)
				printf("  over %.1f", b->bound);
			print_json(b, s, call, size, sorted, ratio);
		}
		puts("");
	}
	fflush(stdout);
}

/* Options. */

static void connect_service(struct service *s, char *text)
{
	struct lm_err err = LM_ERR_INIT;
	char *snapshotter = NULL;
	s->name = strsep(&text, ",");
	s->socket = strsep(&text, ",");
	snapshotter = strsep(&text, ",");
	s->namespace = text;
	if (!snapshotter)
		die(s->name, "NAME,SOCKET,SNAPSHOTTER[,NAMESPACE]");
	s->remote = (struct remote){.snapshotter = snapshotter, .timeout_ms = 600000};
	if (remote_connect(s->socket, s->namespace, &s->remote.client, &err) < 0)
		die(s->name, lm_err_text(&err));
}

static void parse_sizes(struct bench *b, char *text)
{
	while (text && b->n_sizes < SIZES_MAX)
		b->sizes[b->n_sizes++] = (unsigned)strtoul(strsep(&text, ","), NULL, 10);
}

static void parse_options(struct bench *b, int argc, char **argv)
{
	static const struct option table[] = {{"rounds", required_argument, NULL, 'r'},
		{"calls", required_argument, NULL, 'c'}, {"sizes", required_argument, NULL, 's'},
		{"json", required_argument, NULL, 'j'}, {"bound", required_argument, NULL, 'b'}, {0}};
	for (int option; (option = getopt_long(argc, argv, "", table, NULL)) != -1;) {
		if (option == 'r')
			b->rounds = (unsigned)strtoul(optarg, NULL, 10);
		else if (option == 'c')
			b->calls = (unsigned)strtoul(optarg, NULL, 10);
		else if (option == 's')
			parse_sizes(b, optarg);
		else if (option == 'b')
			b->bound = strtod(optarg, NULL);
		else if (option != 'j' || !(b->json = fopen(optarg, "ae")))
			die("usage", "see the head of bench_snapshots.c");
	}
	while (optind < argc && b->n_services < SERVICES_MAX)
		connect_service(&b->services[b->n_services++], argv[optind++]);
	if (b->n_services == 0 || b->n_sizes == 0 || b->sizes[0] < 1 || b->rounds < 1 || b->rounds > ROUNDS_MAX ||
		b->calls < 1)
		die("usage", "see the head of bench_snapshots.c");
}

int main(int argc, char **argv)
{
	static struct bench b = {.rounds = 5, .calls = 50, .bound = 1e9};
	parse_options(&b, argc, argv);
	for (unsigned i = 0; i < b.n_sizes; i++) {
		measure_size(&b, b.sizes[i]);
		print_size(&b, b.sizes[i]);
		if (i + 1 < b.n_sizes) /* the last ones stay, so that somebody can look at them */
			for (unsigned n = 0; n < b.n_services; n++)
				empty(&b.services[n], b.sizes[i]);
	}
	for (unsigned n = 0; n < b.n_services; n++)
		lm_rpc_client_free(b.services[n].remote.client);
	if (b.json && fclose(b.json) != 0)
		die("json", "can't be written");
	return b.exceeded;
}
