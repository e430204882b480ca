/* `lamella cache`: what the fetcher of this machine has cached; pins; clearing, verifying. */
#include "base/str.h"
#include "commands.h"
#include "common.h"
#include "fetcher.h"
#include "repo/images.h"
#include "rpc/rpc.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef Lamella__Fetcher__V1__CacheStatus CacheStatus;
typedef Lamella__Fetcher__V1__PinRequest PinRequest;
typedef Lamella__Fetcher__V1__PinStatus PinStatus;
typedef Lamella__Fetcher__V1__PinsResponse PinsResponse;
typedef Lamella__Fetcher__V1__VerifyCacheProgress Progress;

enum { CALL_MS = 10000, LONG_CALL_MS = 24 * 3600 * 1000 };

struct options {
	const char *socket;
	bool json, all;
};

/* --- show --- */

static void print_limits(const CacheStatus *c)
{
	printf("  quota     ");
	if (c->quota)
		printf("%s", lm_cli_size(c->quota).s);
	else
		printf("none");
	printf("; %s of the file system are to be left free, %s are\n", lm_cli_size(c->reserve).s,
		lm_cli_size(c->free).s);
}

static void print_cache(const CacheStatus *c)
{
	printf("%s: %s%s%s%s\n", c->directory, c->state, *c->state_cause ? " (" : "", c->state_cause,
		*c->state_cause ? ")" : "");
	printf("  cached    %s in %" PRIu64 " objects%s\n", lm_cli_size(c->bytes).s, c->objects,
		c->counting ? " (still counting)" : "");
	print_limits(c);
	printf("  pinned    %s by pins; %" PRIu64 " objects in use by the fetcher, %" PRIu64 " layers by containers\n",
		lm_cli_size(c->kept_bytes).s, c->pinned, c->layers_in_use);
	printf("  looked up %" PRIu64 " times, found %" PRIu64 "\n", c->hits + c->misses, c->hits);
	printf("  evicted   %" PRIu64 " objects, %s; %" PRIu64 " of them were fetched again within an hour%s\n",
		c->evicted, lm_cli_size(c->evicted_bytes).s, c->refetched,
		c->thrashing ? ": the cache is too small" : "");
	if (c->uncached || c->memory)
		printf("  uncached  %" PRIu64 " objects that the disk did not take; %s are in memory\n", c->uncached,
			lm_cli_size(c->memory).s);
	if (c->unclean || c->verified || c->damaged)
		printf("  verified  %" PRIu64 " objects, %" PRIu64 " were damaged%s\n", c->verified, c->damaged,
			c->unclean ? "; others are verified when they are used, since the machine ended uncleanly"
				   : "");
}

static int show(const struct options *o, struct lm_rpc_client *client, char **words, struct lm_err *err)
{
	CLEANUP(lm_fetcher_status_freep) Lamella__Fetcher__V1__StatusResponse *status = NULL;
	int r = lm_fetcher_status(client, false, &status, err);
	if (r < 0 || !status->cache)
		return r;
	if (o->json)
		return lm_fetcher_print_json(&status->cache->base);
	print_cache(status->cache);
	return 0;
}

/* --- pins --- */

/* "sha256:DIGEST" is the layer; another word the repository, and the one after it a path in it; or only a path. */
static int parse_pin(char **words, PinRequest *ret, char **ret_path, struct lm_err *err)
{
	static const char digest[] = "sha256:";
	if (strncmp(words[0], digest, strlen(digest)) == 0 && !words[1]) {
		const char *hex = words[0] + strlen(digest);
		if (!lm_images_digest_parse(words[0], NULL))
			return lm_err_set(err, -EINVAL, "\"%s\" is no digest", words[0]);
		ret->path = *ret_path = lm_str_printf("/" LM_IMAGES_LAYERS "/%.2s/%s", hex, hex);
		return *ret_path ? 0 : lm_err_oom(err);
	}
	if (words[0][0] == '/' && !words[1]) {
		ret->path = words[0];
		return 0;
	}
	if (!words[1] || words[1][0] != '/')
		return lm_err_set(err, -EINVAL, "REPOSITORY /PATH, /PATH or sha256:DIGEST is wanted");
	ret->repository = words[0];
	ret->path = words[1];
	return 0;
}

static int on_pin(void *arg, ProtobufCMessage *message)
{
	bool *complete = arg;
	const PinStatus *pin = (const PinStatus *)message;
	*complete = pin->complete;
	lm_cli_status("%s: %" PRIu64 " objects, %s", pin->path, pin->objects, lm_cli_size(pin->bytes).s);
	if (pin->complete)
		lm_cli_say("%s %s is pinned: %" PRIu64 " objects, %s", pin->repository, pin->path, pin->objects,
			lm_cli_size(pin->bytes).s);
	protobuf_c_message_free_unpacked(message, NULL);
	return 0;
}

static int pin(const struct options *o, struct lm_rpc_client *client, char **words, struct lm_err *err)
{
	PinRequest request = LAMELLA__FETCHER__V1__PIN_REQUEST__INIT;
	CLEANUP(lm_freep) char *path = NULL;
	bool complete = false;
	int r = parse_pin(words, &request, &path, err);
	if (r == 0)
		r = lm_rpc_invoke_stream(client, "/lamella.fetcher.v1.Fetcher/Pin", &request.base,
			&lamella__fetcher__v1__pin_status__descriptor, LONG_CALL_MS, on_pin, &complete, NULL, err);
	return r < 0 || complete ? r : lm_err_set(err, -EIO, "the fetcher ended before all was there");
}

static int unpin(const struct options *o, struct lm_rpc_client *client, char **words, struct lm_err *err)
{
	PinRequest request = LAMELLA__FETCHER__V1__PIN_REQUEST__INIT;
	CLEANUP(lm_freep) char *path = NULL;
	CLEANUP(lm_fetcher_freep) ProtobufCMessage *response = NULL;
	int r = parse_pin(words, &request, &path, err);
	if (r == 0)
		r = lm_fetcher_call(client, "Unpin", &request.base, &lamella__fetcher__v1__unpin_response__descriptor,
			CALL_MS, &response, err);
	if (r == 0)
		lm_cli_say("%s is not pinned any more: %s can be evicted", request.path,
			lm_cli_size(((Lamella__Fetcher__V1__UnpinResponse *)response)->bytes).s);
	return r;
}

static int list_pins(const struct options *o, struct lm_rpc_client *client, char **words, struct lm_err *err)
{
	const Lamella__Fetcher__V1__PinsRequest request = LAMELLA__FETCHER__V1__PINS_REQUEST__INIT;
	CLEANUP(lm_fetcher_freep) ProtobufCMessage *response = NULL;
	int r = lm_fetcher_call(client, "Pins", &request.base, &lamella__fetcher__v1__pins_response__descriptor,
		CALL_MS, &response, err);
	if (r < 0)
		return r;
	if (o->json)
		return lm_fetcher_print_json(response);
	const PinsResponse *pins = (const PinsResponse *)response;
	for (size_t i = 0; i < pins->n_pins; i++) {
		const PinStatus *p = pins->pins[i];
		printf("%s %s: %s in %" PRIu64 " objects, %s\n", p->repository, p->path, lm_cli_size(p->bytes).s,
			p->objects,
			p->complete ? "complete"
			: *p->error ? p->error
				    : "under way");
	}
	return 0;
}

/* --- clear, verify --- */

static int clear(const struct options *o, struct lm_rpc_client *client, char **words, struct lm_err *err)
{
	Lamella__Fetcher__V1__ClearCacheRequest request = LAMELLA__FETCHER__V1__CLEAR_CACHE_REQUEST__INIT;
	CLEANUP(lm_fetcher_freep) ProtobufCMessage *response = NULL;
	request.all = o->all;
	int r = lm_fetcher_call(client, "ClearCache", &request.base,
		&lamella__fetcher__v1__clear_cache_response__descriptor, LONG_CALL_MS, &response, err);
	if (r == 0) {
		const Lamella__Fetcher__V1__ClearCacheResponse *done = (void *)response;
		lm_cli_say("deleted %" PRIu64 " objects, %s", done->objects, lm_cli_size(done->bytes).s);
	}
	return r;
}

static int on_progress(void *arg, ProtobufCMessage *message)
{
	Progress *last = arg;
	const Progress *now = (const Progress *)message;
	last->objects = now->objects;
	last->bytes = now->bytes;
	last->damaged = now->damaged;
	last->unknown = now->unknown;
	last->complete = now->complete;
	lm_cli_status("verified %" PRIu64 " objects, %s", now->objects, lm_cli_size(now->bytes).s);
	protobuf_c_message_free_unpacked(message, NULL);
	return 0;
}

static int verify(const struct options *o, struct lm_rpc_client *client, char **words, struct lm_err *err)
{
	const Lamella__Fetcher__V1__VerifyCacheRequest request = LAMELLA__FETCHER__V1__VERIFY_CACHE_REQUEST__INIT;
	Progress last = LAMELLA__FETCHER__V1__VERIFY_CACHE_PROGRESS__INIT;
	int r = lm_rpc_invoke_stream(client, "/lamella.fetcher.v1.Fetcher/VerifyCache", &request.base,
		&lamella__fetcher__v1__verify_cache_progress__descriptor, LONG_CALL_MS, on_progress, &last, NULL, err);
	if (r < 0)
		return r;
	if (!last.complete)
		return lm_err_set(err, -EIO, "the fetcher ended before all was verified");
	lm_cli_say("verified %" PRIu64 " objects, %s: %" PRIu64 " were damaged and deleted, %" PRIu64
		   " had no checksum",
		last.objects, lm_cli_size(last.bytes).s, last.damaged, last.unknown);
	return 0;
}

static const struct action {
	const char *name;
	int (*run)(const struct options *o, struct lm_rpc_client *client, char **words, struct lm_err *err);
	int min_words, max_words;
} actions[] = {
	{"show", show, 0, 0},
	{"pin", pin, 1, 2},
	{"unpin", unpin, 1, 2},
	{"pins", list_pins, 0, 0},
	{"clear", clear, 0, 0},
	{"verify", verify, 0, 0},
};

static const struct action *find_action(const char *name, int words)
{
	for (size_t i = 0; i < ARRAY_LEN(actions); i++)
		if (strcmp(actions[i].name, name) == 0 && words >= actions[i].min_words &&
			words <= actions[i].max_words)
			return &actions[i];
	return NULL;
}

int lm_cmd_cache(int argc, char **argv)
{
	struct options o = {0};
	const struct lm_cli_option options[] = {
		{"all", NULL, "with clear: also what pins hold", .flag = &o.all},
		{"json", NULL, "with show, pins: for programs (proto/lamella/fetcher.proto)", .flag = &o.json},
		{"socket", "PATH", LM_FETCHER_SOCKET_HELP, .text = &o.socket},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "[show | pins | pin WHAT | unpin WHAT | clear | verify] [OPTION]...",
		.about = "The cache of the fetcher of this machine: what it is like (show), which subtrees stay in it "
			 "(pins),\n"
			 "fetching one that is to stay (pin) or giving that up (unpin), deleting what is not pinned "
			 "(clear),\n"
			 "reading all of it against its checksums (verify).\n\n"
			 "WHAT is REPOSITORY /PATH, or only /PATH, or the digest of an image's layer, sha256:HEX.",
		.options = options,
		.max_words = 3,
		.words = "at most an action, a repository and a path are wanted",
	};
	int code, first = lm_cli_parse(argc, argv, &syntax, &code);
	if (first < 0)
		return code;
	char *show_only[] = {(char *)"show", NULL};
	char **words = first < argc ? argv + first : show_only;
	const struct action *action = find_action(words[0], first < argc ? argc - first - 1 : 0);
	if (!action) {
		lm_cli_error("no such action: %s, with %d words", words[0], first < argc ? argc - first - 1 : 0);
		return lm_cli_usage(argv[0]);
	}
	CLEANUP(lm_rpc_client_freep) struct lm_rpc_client *client = NULL;
	struct lm_err err = LM_ERR_INIT;
	int r = lm_fetcher_open(o.socket, &client, &err);
	if (r == 0)
		r = action->run(&o, client, words + 1, &err);
	return r < 0 ? lm_cli_fail(&err) : r;
}
