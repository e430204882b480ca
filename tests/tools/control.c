/*
 * control: asks lamella-fetcher's control service.
 *
 *   control SOCKET status | update [NAME] | resolve LAYER... | lean LAYER... | tree DIGEST...
 *
 * LAYER: DIGEST, chain=ID, diff=ID, or several of them with commas.
 *
 * Prints a line per repository (`NAME MOUNTPOINT REVISION online|offline files=N catalogs=N bytes=N requests=N
 * [fixed=WHAT]`) or per layer (`DIGEST STATE PATH REASON`, "-" for what is empty; of lean only the lean path and what
 * belongs below it; of tree, which takes a whole chain, only the merged tree's image, its data-only layer and a
 * reason). Exit code: 0, 1 when the call failed (said).
 */
#include "base/macros.h"
#include "lamella/fetcher.pb-c.h"
#include "rpc/rpc.h"

#include <stdio.h>
#include <string.h>

enum { TIMEOUT_MS = 60000 };
#define SERVICE "/lamella.fetcher.v1.Fetcher/"

static const char *or_dash(const char *text)
{
	return *text ? text : "-";
}

static void print_repositories(Lamella__Fetcher__V1__RepositoryStatus **repositories, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const Lamella__Fetcher__V1__RepositoryStatus *r = repositories[i];
		printf("%s %s %llu %s files=%llu catalogs=%llu bytes=%llu requests=%llu%s%s\n", r->fqrn,
			or_dash(r->mountpoint), (unsigned long long)r->revision, r->offline ? "offline" : "online",
			(unsigned long long)r->files_fetched, (unsigned long long)r->catalogs_fetched,
			(unsigned long long)r->bytes_fetched, (unsigned long long)r->requests,
			*r->fixed ? " fixed=" : "", r->fixed);
	}
}

static void print_layers(const Lamella__Fetcher__V1__ResolveResponse *response)
{
	for (size_t i = 0; i < response->n_layers; i++) {
		const Lamella__Fetcher__V1__LayerAnswer *a = response->layers[i];
		const ProtobufCEnumValue *state =
			protobuf_c_enum_descriptor_get_value(&lamella__fetcher__v1__layer_state__descriptor, a->state);
		printf("%s %s %s %s\n", or_dash(a->digest), state ? state->name : "?", or_dash(a->path),
			or_dash(a->reason));
	}
}

static void print_lean_paths(const Lamella__Fetcher__V1__ResolveResponse *response)
{
	for (size_t i = 0; i < response->n_layers; i++)
		printf("%s %s\n", or_dash(response->layers[i]->lean_path), or_dash(response->layers[i]->opaque_path));
}

static void print_tree(const Lamella__Fetcher__V1__ResolveResponse *response)
{
	const Lamella__Fetcher__V1__TreeAnswer *tree = response->tree;
	if (tree)
		printf("%s %s %s\n", or_dash(tree->image), or_dash(tree->data), or_dash(tree->reason));
}

static ProtobufCMessage *call(struct lm_rpc_client *client, const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response)
{
	struct lm_err err = LM_ERR_INIT;
	ProtobufCMessage *ret = NULL;
	if (lm_rpc_invoke(client, path, request, response, TIMEOUT_MS, true, &ret, NULL, &err) < 0)
		fprintf(stderr, "control: %s\n", lm_err_text(&err));
	return ret;
}

static ProtobufCMessage *do_status(struct lm_rpc_client *client)
{
	const Lamella__Fetcher__V1__StatusRequest request = LAMELLA__FETCHER__V1__STATUS_REQUEST__INIT;
	ProtobufCMessage *message =
		call(client, SERVICE "Status", &request.base, &lamella__fetcher__v1__status_response__descriptor);
	const Lamella__Fetcher__V1__StatusResponse *response = (void *)message;
	if (response)
		print_repositories(response->repositories, response->n_repositories);
	return message;
}

static ProtobufCMessage *do_update(struct lm_rpc_client *client, char *name)
{
	Lamella__Fetcher__V1__UpdateRequest request = LAMELLA__FETCHER__V1__UPDATE_REQUEST__INIT;
	if (name)
		request.fqrn = name;
	ProtobufCMessage *message =
		call(client, SERVICE "Update", &request.base, &lamella__fetcher__v1__update_response__descriptor);
	const Lamella__Fetcher__V1__UpdateResponse *response = (void *)message;
	if (response)
		print_repositories(response->repositories, response->n_repositories);
	return message;
}

/* Cuts the text in pieces, which the query then has. */
static void fill_query(char *text, Lamella__Fetcher__V1__LayerQuery *query)
{
	for (char *item; (item = strsep(&text, ","));) {
		if (strncmp(item, "chain=", 6) == 0)
			query->chain_id = item + 6;
		else if (strncmp(item, "diff=", 5) == 0)
			query->diff_id = item + 5;
		else
			query->digest = item;
	}
}

static ProtobufCMessage *do_resolve(struct lm_rpc_client *client, char **layers, size_t count,
	void (*print)(const Lamella__Fetcher__V1__ResolveResponse *response))
{
	Lamella__Fetcher__V1__ResolveRequest request = LAMELLA__FETCHER__V1__RESOLVE_REQUEST__INIT;
	CLEANUP(lm_freep) Lamella__Fetcher__V1__LayerQuery *queries = calloc(count + 1, sizeof(*queries));
	CLEANUP(lm_freep) Lamella__Fetcher__V1__LayerQuery **pointers = calloc(count + 1, sizeof(*pointers));
	if (!queries || !pointers)
		return NULL;
	for (size_t i = 0; i < count; i++) {
		lamella__fetcher__v1__layer_query__init(&queries[i]);
		fill_query(layers[i], &queries[i]);
		pointers[i] = &queries[i];
	}
	request.n_layers = count;
	request.layers = pointers;
	request.tree = print == print_tree;
	ProtobufCMessage *message =
		call(client, SERVICE "Resolve", &request.base, &lamella__fetcher__v1__resolve_response__descriptor);
	if (message)
		print((const void *)message);
	return message;
}

int main(int argc, char **argv)
{
	CLEANUP(lm_rpc_client_freep) struct lm_rpc_client *client = NULL;
	struct lm_err err = LM_ERR_INIT;
	const char *verb = argc > 2 ? argv[2] : "";
	ProtobufCMessage *response = NULL;
	if (argc > 2 && lm_rpc_client_new(argv[1], &client, &err) < 0) {
		fprintf(stderr, "control: %s\n", lm_err_text(&err));
		return 1;
	}
	if (strcmp(verb, "status") == 0) {
		response = do_status(client);
	} else if (strcmp(verb, "update") == 0) {
		response = do_update(client, argc > 3 ? argv[3] : NULL);
	} else if (strcmp(verb, "resolve") == 0) {
		response = do_resolve(client, argv + 3, (size_t)argc - 3, print_layers);
	} else if (strcmp(verb, "lean") == 0) {
		response = do_resolve(client, argv + 3, (size_t)argc - 3, print_lean_paths);
	} else if (strcmp(verb, "tree") == 0) {
		response = do_resolve(client, argv + 3, (size_t)argc - 3, print_tree);
	} else {
		fprintf(stderr, "usage: control SOCKET status | update [NAME] | resolve LAYER... | lean LAYER... | "
				"tree DIGEST...\n");
		return 2;
	}
	if (!response)
		return 1;
	protobuf_c_message_free_unpacked(response, NULL);
	return 0;
}
