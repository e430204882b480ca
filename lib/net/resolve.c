#include "net/resolve.h"

#include "base/clock.h"
#include "net/http_internal.h"

#include <ares.h>
#include <arpa/inet.h>
#include <assert.h>
#include <poll.h>
#include <string.h>

enum {
	TIMEOUT_DEFAULT_MS = 3000,
	PATIENCE = 2, /* a look-up ends after that many times what its questions may take, whatever c-ares does */
};

struct lm_lookup {
	TAILQ_ENTRY(lm_lookup) entry;
	ares_channel channel; /* NULL until it is started */
	char *name, *server;
	unsigned timeout_ms, retries;
	int64_t deadline_ms;
	void (*done)(void *arg, int code, const struct lm_addresses *addresses);
	void *arg;
	bool ended;
	int code;
	struct lm_addresses addresses;
};

static void lookup_free(struct lm_lookup *lookup)
{
	if (!lookup)
		return;
	if (lookup->channel)
		ares_destroy(lookup->channel);
	free(lookup->name);
	free(lookup->server);
	free(lookup);
}

static int error_of(int status)
{
	switch (status) {
	case ARES_SUCCESS:
		return 0;
	case ARES_ENOTFOUND:
	case ARES_ENODATA:
	case ARES_ENONAME:
	case ARES_EBADNAME:
		return -ENOENT;
	case ARES_ETIMEOUT:
	case ARES_ECANCELLED:
		return -ETIMEDOUT;
	case ARES_ENOMEM:
		return -ENOMEM;
	case ARES_EDESTRUCTION:
		return -ECANCELED;
	default:
		return -EIO;
	}
}

static void add_address(struct lm_addresses *all, const struct ares_addrinfo_node *node)
{
	struct lm_address *address = &all->list[all->count];
	const void *bytes = NULL;
	if (node->ai_family == AF_INET)
		bytes = &((const struct sockaddr_in *)(const void *)node->ai_addr)->sin_addr;
	else if (node->ai_family == AF_INET6)
		bytes = &((const struct sockaddr_in6 *)(const void *)node->ai_addr)->sin6_addr;
	if (!bytes || !inet_ntop(node->ai_family, bytes, address->text, sizeof(address->text)))
		return;
	address->v6 = node->ai_family == AF_INET6;
	for (unsigned i = 0; i < all->count; i++)
		if (strcmp(all->list[i].text, address->text) == 0)
			return;
	unsigned ttl_s = node->ai_ttl > 0 ? (unsigned)node->ai_ttl : 0;
	all->ttl_s = all->count ? LM_MIN(all->ttl_s, ttl_s) : ttl_s;
	all->count++;
}

/* Also from within ares_getaddrinfo() and ares_process_fd(): nothing is released here. */
static void on_answer(void *arg, int status, int timeouts, struct ares_addrinfo *info)
{
	struct lm_lookup *lookup = arg;
	lookup->ended = true;
	lookup->code = error_of(status);
	const struct ares_addrinfo_node *node = info ? info->nodes : NULL;
	for (; node && lookup->addresses.count < LM_RESOLVE_MAX; node = node->ai_next)
		add_address(&lookup->addresses, node);
	if (lookup->code == 0 && lookup->addresses.count == 0)
		lookup->code = -ENOENT;
	ares_freeaddrinfo(info);
}

static int open_channel(const struct lm_resolve_rules *rules, ares_channel *ret)
{
	struct ares_options options = {
		.timeout = (int)(rules->timeout_ms ? rules->timeout_ms : TIMEOUT_DEFAULT_MS),
		.tries = (int)rules->retries + 1,
	};
	ares_channel channel;
	int status = ares_init_options(&channel, &options, ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES);
	if (status == ARES_SUCCESS && rules->server &&
		(status = ares_set_servers_ports_csv(channel, rules->server)) != ARES_SUCCESS)
		ares_destroy(channel);
	if (status == ARES_SUCCESS)
		*ret = channel;
	return status;
}

static pthread_once_t library_once = PTHREAD_ONCE_INIT;

static void init_library(void)
{
	(void)ares_library_init(ARES_LIB_INIT_ALL);
}

int lm_resolve_check(const struct lm_resolve_rules *rules, struct lm_err *err)
{
	ares_channel channel;
	pthread_once(&library_once, init_library);
	int status = open_channel(rules, &channel);
	if (status == ARES_ENOMEM)
		return lm_err_oom(err);
	if (status != ARES_SUCCESS)
		return lm_err_set(err, -EINVAL, "DNS server \"%s\": %s", rules->server ? rules->server : "",
			ares_strerror(status));
	ares_destroy(channel);
	return 0;
}

static void start_lookup(struct lm_lookup *lookup)
{
	/* Addresses of both families, in the order in which they came: nothing is connected to find a better one. */
	static const struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_flags = ARES_AI_NOSORT};
	const struct lm_resolve_rules rules = {lookup->server, lookup->timeout_ms, lookup->retries};
	pthread_once(&library_once, init_library);
	int status = open_channel(&rules, &lookup->channel);
	lookup->deadline_ms = lm_now_ms() + (int64_t)PATIENCE * lookup->timeout_ms * (lookup->retries + 1);
	if (status == ARES_SUCCESS)
		ares_getaddrinfo(lookup->channel, lookup->name, NULL, &hints, on_answer, lookup);
	else
		on_answer(lookup, status, 0, NULL);
}

/* The sockets that c-ares waits for. */
static unsigned sockets_of(const struct lm_lookup *lookup, struct pollfd *ret)
{
	ares_socket_t sockets[ARES_GETSOCK_MAXNUM];
	/* Readable ones below, writable ones above; the library's own macros shift a one into the sign. */
	unsigned bits = (unsigned)ares_getsock(lookup->channel, sockets, ARES_GETSOCK_MAXNUM);
	unsigned n = 0;
	for (unsigned i = 0; i < ARES_GETSOCK_MAXNUM; i++) {
		short events =
			(short)((bits >> i & 1 ? POLLIN : 0) | (bits >> (i + ARES_GETSOCK_MAXNUM) & 1 ? POLLOUT : 0));
		if (events)
			ret[n++] = (struct pollfd){.fd = sockets[i], .events = events};
	}
	return n;
}

static void step_lookup(struct lm_lookup *lookup)
{
	struct pollfd fds[ARES_GETSOCK_MAXNUM];
	unsigned n = sockets_of(lookup, fds);
	(void)poll(fds, n, 0);
	for (unsigned i = 0; i < n; i++)
		if (fds[i].revents)
			ares_process_fd(lookup->channel, fds[i].revents & ~POLLOUT ? fds[i].fd : ARES_SOCKET_BAD,
				fds[i].revents & POLLOUT ? fds[i].fd : ARES_SOCKET_BAD);
	ares_process_fd(lookup->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD); /* what is late */
	if (!lookup->ended && lm_now_ms() >= lookup->deadline_ms)
		ares_cancel(lookup->channel);
}

static void step_all(struct lm_lookups *lookups, bool stopping)
{
	unsigned running = 0;
	for (struct lm_lookup *lookup = TAILQ_FIRST(lookups); lookup; lookup = TAILQ_NEXT(lookup, entry)) {
		if (stopping && !lookup->ended) {
			lookup->ended = true;
			lookup->code = -ECANCELED;
		} else if (!lookup->channel && running < LM_LOOKUPS_RUNNING) {
			start_lookup(lookup);
		} else if (lookup->channel) {
			step_lookup(lookup);
		}
		running += lookup->channel && !lookup->ended;
	}
}

static struct lm_lookup *first_ended(struct lm_lookups *lookups)
{
	struct lm_lookup *lookup = TAILQ_FIRST(lookups);
	while (lookup && !lookup->ended)
		lookup = TAILQ_NEXT(lookup, entry);
	return lookup;
}

bool lm_lookups_step(struct lm_lookups *lookups, bool stopping)
{
	bool any = false;
	step_all(lookups, stopping);
	for (struct lm_lookup *lookup; (lookup = first_ended(lookups)); any = true) {
		TAILQ_REMOVE(lookups, lookup, entry);
		lookup->done(lookup->arg, lookup->code, &lookup->addresses);
		lookup_free(lookup);
	}
	return any;
}

unsigned lm_lookups_wait(struct lm_lookups *lookups, struct curl_waitfd *ret, int64_t *wait_ms)
{
	unsigned n = 0;
	for (struct lm_lookup *lookup = TAILQ_FIRST(lookups); lookup; lookup = TAILQ_NEXT(lookup, entry)) {
		struct pollfd fds[ARES_GETSOCK_MAXNUM];
		struct timeval room, *left;
		if (!lookup->channel)
			continue;
		unsigned count = sockets_of(lookup, fds);
		for (unsigned i = 0; i < count && n < LM_LOOKUPS_SOCKETS; i++)
			ret[n++] = (struct curl_waitfd){
				.fd = fds[i].fd,
				.events = (short)((fds[i].events & POLLIN ? CURL_WAIT_POLLIN : 0) |
						  (fds[i].events & POLLOUT ? CURL_WAIT_POLLOUT : 0)),
			};
		left = ares_timeout(lookup->channel, NULL, &room);
		if (left)
			*wait_ms = LM_MIN(*wait_ms, (int64_t)left->tv_sec * 1000 + left->tv_usec / 1000 + 1);
		*wait_ms = LM_MIN(*wait_ms, LM_MAX(lookup->deadline_ms - lm_now_ms(), (int64_t)0));
	}
	return n;
}

static void end_without_memory(void (*done)(void *arg, int code, const struct lm_addresses *addresses), void *arg)
{
	static const struct lm_addresses none;
	done(arg, -ENOMEM, &none);
}

void lm_resolve(struct lm_http *http, const char *name, const struct lm_resolve_rules *rules,
	void (*done)(void *arg, int code, const struct lm_addresses *addresses), void *arg)
{
	assert(lm_http_on_engine(http));
	struct lm_lookup *lookup = calloc(1, sizeof(*lookup));
	if (lookup)
		lookup->name = strdup(name);
	if (lookup && rules->server)
		lookup->server = strdup(rules->server);
	if (!lookup || !lookup->name || (rules->server && !lookup->server)) {
		lookup_free(lookup);
		end_without_memory(done, arg);
		return;
	}
	lookup->timeout_ms = rules->timeout_ms ? rules->timeout_ms : TIMEOUT_DEFAULT_MS;
	lookup->retries = rules->retries;
	lookup->done = done;
	lookup->arg = arg;
	TAILQ_INSERT_TAIL(lm_http_lookups(http), lookup, entry);
}
