/*
 * bench-relay --rtt-ms N [--window BYTES] LISTEN=TARGET...
 *
 * A long line, where the kernel has no netem: connections to LISTEN (ADDRESS:PORT) go on to TARGET (the same), and each
 * byte, and each end, arrives half of N milliseconds after it was sent. A connection that is made costs a round trip:
 * the client's kernel has it at once, so what the client says before that trip is over counts as said at its end.
 *
 * At most BYTES (8 MiB) are under way each way of a connection, then the sender has to wait, as with TCP's window;
 * there is no slow start. One thread sleeps in epoll until a byte comes, may go on, or is due. Ends by a signal.
 */
#include "base/clock.h"
#include "base/listen.h"
#include "base/str.h"

#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

enum { READ_MAX = 64 << 10, EVENTS_MAX = 64, WINDOW_DEFAULT = 8 << 20 };

enum kind { LISTENER, TIMER, END };

struct listener {
	enum kind kind;
	int fd;
	struct sockaddr_storage target;
	socklen_t target_len;
};

/* Bytes under way; none: the end of what one side has to say. */
struct piece {
	struct piece *next;
	int64_t due_ns;
	size_t len, sent;
	unsigned char data[];
};

/* One side of a connection, and what came from it and is on the way to the other. */
struct end {
	enum kind kind;
	int fd;
	bool readable, writable; /* until a call says otherwise: epoll tells of changes only */
	bool ended;		 /* nothing more comes from here */
	int64_t not_before_ns;	 /* what comes earlier counts as said then */
	struct piece *first, **last;
	size_t held; /* memory of the pieces */
};

struct connection {
	struct connection *next;
	struct end ends[2]; /* who called, and whom */
	unsigned told;	    /* ends that know that nothing more comes */
	bool broken;
};

struct relay {
	int epoll, timer;
	int64_t delay_ns;
	size_t window;
	struct connection *connections;
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "bench-relay: %s: %s\n", what, why);
	exit(2);
}

static void watch(const struct relay *relay, int fd, void *source, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = source};
	if (epoll_ctl(relay->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		die("epoll", strerror(errno));
}

/* --- connections
 * ------------------------------------------------------------------------------------------------------ */

static void end_init(const struct relay *relay, struct end *end, int fd)
{
	*end = (struct end){.kind = END, .fd = fd};
	end->last = &end->first;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	watch(relay, fd, end, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

static void connection_open(struct relay *relay, const struct listener *listener, int client)
{
	struct connection *c = calloc(1, sizeof(*c));
	int fd = socket(listener->target.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (!c || fd < 0)
		die("a connection", strerror(errno));
	c->broken = connect(fd, (const struct sockaddr *)&listener->target, listener->target_len) < 0 &&
		    errno != EINPROGRESS;
	end_init(relay, &c->ends[0], client);
	end_init(relay, &c->ends[1], fd);
	c->ends[0].not_before_ns = lm_now_ns() + 2 * relay->delay_ns;
	c->next = relay->connections;
	relay->connections = c;
}

static void accept_all(struct relay *relay, const struct listener *listener)
{
	for (int fd; (fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;)
		connection_open(relay, listener, fd);
}

static void connection_free(struct connection *c)
{
	for (unsigned i = 0; i < ARRAY_LEN(c->ends); i++) {
		struct end *end = &c->ends[i];
		if (c->broken) /* said by a reset, as it was heard */
			(void)setsockopt(
				end->fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
		close(end->fd);
		for (struct piece *piece; (piece = end->first);) {
			end->first = piece->next;
			free(piece);
		}
	}
	free(c);
}

/* --- bytes
 * ------------------------------------------------------------------------------------------------------------ */

static void take_in(const struct relay *relay, struct connection *c, struct end *from, int64_t now_ns)
{
	static unsigned char buffer[READ_MAX];
	while (from->readable && !from->ended && !c->broken && from->held < relay->window) {
		ssize_t n = recv(from->fd, buffer, sizeof(buffer), 0);
		if (n < 0) {
			from->readable = errno == EINTR;
			c->broken = errno != EINTR && errno != EAGAIN;
			continue;
		}
		struct piece *piece = malloc(sizeof(*piece) + (size_t)n);
		if (!piece)
			die("memory", "short");
		*piece = (struct piece){
			.due_ns = LM_MAX(now_ns, from->not_before_ns) + relay->delay_ns, .len = (size_t)n};
		memcpy(piece->data, buffer, (size_t)n);
		*from->last = piece;
		from->last = &piece->next;
		from->held += sizeof(*piece) + (size_t)n;
		from->ended = n == 0;
	}
}

static void give_out(struct connection *c, struct end *from, struct end *to, int64_t now_ns)
{
	for (struct piece *piece; (piece = from->first) && piece->due_ns <= now_ns && to->writable && !c->broken;) {
		if (piece->len == 0) {
			c->broken = shutdown(to->fd, SHUT_WR) < 0;
			c->told++;
		} else {
			ssize_t n = send(to->fd, piece->data + piece->sent, piece->len - piece->sent, MSG_NOSIGNAL);
			if (n < 0) {
				to->writable = errno == EINTR;
				c->broken = errno != EINTR && errno != EAGAIN;
				continue;
			}
			piece->sent += (size_t)n;
		}
		if (piece->sent < piece->len)
			continue;
		from->first = piece->next;
		if (!from->first)
			from->last = &from->first;
		from->held -= sizeof(*piece) + piece->len;
		free(piece);
	}
}

/* Until nothing goes on without a new event. */
static void carry(const struct relay *relay, struct connection *c, unsigned which, int64_t now_ns)
{
	struct end *from = &c->ends[which], *to = &c->ends[!which];
	size_t before;
	do {
		take_in(relay, c, from, now_ns);
		before = from->held;
		give_out(c, from, to, now_ns);
	} while (from->held < before && from->readable && !from->ended && !c->broken);
}

/* When this connection has to be looked at again though nothing happens, or INT64_MAX. */
static int64_t next_due(const struct connection *c)
{
	int64_t due_ns = INT64_MAX;
	for (unsigned i = 0; i < ARRAY_LEN(c->ends); i++)
		if (c->ends[i].first && c->ends[!i].writable)
			due_ns = LM_MIN(due_ns, c->ends[i].first->due_ns);
	return due_ns;
}

static void carry_all(struct relay *relay)
{
	int64_t now_ns = lm_now_ns(), due_ns = INT64_MAX;
	for (struct connection **at = &relay->connections, *c; (c = *at);) {
		carry(relay, c, 0, now_ns);
		carry(relay, c, 1, now_ns);
		if (c->broken || c->told == ARRAY_LEN(c->ends)) {
			*at = c->next;
			connection_free(c);
			continue;
		}
		due_ns = LM_MIN(due_ns, next_due(c));
		at = &c->next;
	}
	struct itimerspec when = {{0}, {0}}; /* not at all */
	if (due_ns != INT64_MAX)
		when.it_value = (struct timespec){due_ns / 1000000000, due_ns % 1000000000};
	if (timerfd_settime(relay->timer, TFD_TIMER_ABSTIME, &when, NULL) < 0)
		die("timer", strerror(errno));
}

static void note(struct relay *relay, const struct epoll_event *event)
{
	uint64_t ticks;
	struct end *end = event->data.ptr;
	switch (*(const enum kind *)event->data.ptr) {
	case LISTENER:
		accept_all(relay, event->data.ptr);
		break;
	case TIMER:
		(void)!read(relay->timer, &ticks, sizeof(ticks));
		break;
	case END: /* an error is what the next call says */
		end->readable = end->readable || (event->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR));
		end->writable = end->writable || (event->events & (EPOLLOUT | EPOLLERR));
		break;
	}
}

static void serve(struct relay *relay)
{
	for (;;) {
		struct epoll_event events[EVENTS_MAX];
		int n = epoll_wait(relay->epoll, events, EVENTS_MAX, -1);
		if (n < 0 && errno != EINTR)
			die("epoll", strerror(errno));
		for (int i = 0; i < n; i++)
			note(relay, &events[i]);
		carry_all(relay); /* frees connections: after the events that name them */
	}
}

/* --- options
 * ---------------------------------------------------------------------------------------------------------- */

static void parse_target(char *text, struct listener *ret)
{
	const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found = NULL;
	char *colon = strrchr(text, ':');
	if (!colon)
		die(text, "not ADDRESS:PORT");
	*colon = '\0';
	int r = getaddrinfo(text, colon + 1, &hints, &found);
	if (r != 0)
		die(text, gai_strerror(r));
	memcpy(&ret->target, found->ai_addr, found->ai_addrlen);
	ret->target_len = found->ai_addrlen;
	freeaddrinfo(found);
}

static void listen_at(const struct relay *relay, char *text)
{
	struct lm_err err = LM_ERR_INIT;
	struct listener *listener = calloc(1, sizeof(*listener));
	char *equals = strchr(text, '=');
	if (!listener || !equals)
		die(text, "not LISTEN=TARGET");
	*equals = '\0';
	parse_target(equals + 1, listener);
	listener->fd = lm_listen_tcp(text, &err);
	if (listener->fd < 0)
		die(text, lm_err_text(&err));
	watch(relay, listener->fd, listener, EPOLLIN);
}

static uint64_t number(const char *text, uint64_t max)
{
	uint64_t value = 0;
	if (lm_str_u64(text, strlen(text), &value) < 0 || value > max)
		die(text, "not a number, or too large");
	return value;
}

int main(int argc, char **argv)
{
	static const struct option table[] = {
		{"rtt-ms", required_argument, NULL, 'r'}, {"window", required_argument, NULL, 'w'}, {0}};
	struct relay relay = {.window = WINDOW_DEFAULT, .delay_ns = -1};
	for (int option; (option = getopt_long(argc, argv, "", table, NULL)) != -1;) {
		if (option == 'r')
			relay.delay_ns = (int64_t)number(optarg, 60000) * 1000000 / 2;
		else if (option == 'w')
			relay.window = (size_t)number(optarg, 1 << 30);
		else
			return 2;
	}
	if (relay.delay_ns < 0 || relay.window == 0 || optind == argc)
		die("usage", "bench-relay --rtt-ms N [--window BYTES] LISTEN=TARGET...");
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	static const enum kind timer = TIMER;
	relay.epoll = epoll_create1(EPOLL_CLOEXEC);
	relay.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (relay.epoll < 0 || relay.timer < 0)
		die("epoll, timerfd", strerror(errno));
	watch(&relay, relay.timer, (void *)&timer, EPOLLIN);
	while (optind < argc)
		listen_at(&relay, argv[optind++]);
	serve(&relay);
}
