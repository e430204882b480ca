/*
 * A name server on a loopback port of its own, for the tests: it knows one name, with addresses that can be changed.
 * Every other name does not exist. While silent it says nothing at all.
 */
#ifndef LM_TEST_NAMER_H
#define LM_TEST_NAMER_H

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define NAMER_NAME "proxies.example"

struct namer {
	int fd, stop[2];
	char address[32]; /* "127.0.0.1:PORT" */
	pthread_t thread;
	pthread_mutex_t lock;
	char addresses[512]; /* separated by blanks */
	unsigned ttl_s;
	_Atomic(bool) silent;
	_Atomic(unsigned) questions;
};

static void namer_say(struct namer *namer, const char *addresses, unsigned ttl_s)
{
	pthread_mutex_lock(&namer->lock);
	snprintf(namer->addresses, sizeof(namer->addresses), "%s", addresses);
	namer->ttl_s = ttl_s;
	pthread_mutex_unlock(&namer->lock);
}

/* The name at a question in dots; its length with the last NUL. 0 for nonsense. */
static size_t namer_name(const uint8_t *at, size_t len, char *ret, size_t size)
{
	size_t used = 0, out = 0;
	while (used < len && at[used]) {
		size_t label = at[used];
		if (used + 1 + label >= len || out + label + 2 > size)
			return 0;
		if (out)
			ret[out++] = '.';
		memcpy(ret + out, at + used + 1, label);
		out += label;
		used += label + 1;
	}
	ret[out] = '\0';
	return used < len ? used + 1 : 0;
}

static size_t namer_records(struct namer *namer, unsigned type, uint8_t *out, unsigned *ret_count)
{
	size_t len = 0;
	char copy[512], *save;
	pthread_mutex_lock(&namer->lock);
	snprintf(copy, sizeof(copy), "%s", namer->addresses);
	uint32_t ttl = htonl(namer->ttl_s);
	pthread_mutex_unlock(&namer->lock);
	for (char *item = strtok_r(copy, " ", &save); item; item = strtok_r(NULL, " ", &save)) {
		bool v6 = strchr(item, ':');
		uint8_t address[16];
		if (type != (v6 ? 28 : 1) || inet_pton(v6 ? AF_INET6 : AF_INET, item, address) != 1)
			continue;
		uint8_t head[] = {0xc0, 12, 0, (uint8_t)type, 0, 1, 0, 0, 0, 0, 0, v6 ? 16 : 4};
		memcpy(head + 6, &ttl, sizeof(ttl));
		memcpy(out + len, head, sizeof(head));
		memcpy(out + len + sizeof(head), address, v6 ? 16 : 4);
		len += sizeof(head) + (v6 ? 16 : 4);
		++*ret_count;
	}
	return len;
}

static void namer_answer(struct namer *namer, const uint8_t *query, size_t len, const struct sockaddr_in *to)
{
	uint8_t out[2048] = {0};
	char name[256];
	size_t name_len = len > 12 ? namer_name(query + 12, len - 12, name, sizeof(name)) : 0;
	if (!name_len || 12 + name_len + 4 > len)
		return;
	size_t at = 12 + name_len + 4;
	unsigned type = query[12 + name_len + 1], count = 0;
	bool known = strcasecmp(name, NAMER_NAME) == 0;
	memcpy(out, query, at);
	if (known)
		at += namer_records(namer, type, out + at, &count);
	out[2] = 0x85;
	out[3] = known ? 0x80 : 0x83;
	memset(out + 4, 0, 8);
	out[5] = 1;
	out[7] = (uint8_t)count;
	(void)!sendto(namer->fd, out, at, 0, (const struct sockaddr *)to, sizeof(*to));
}

static void *namer_serve(void *arg)
{
	struct namer *namer = arg;
	for (;;) {
		struct pollfd fds[] = {{.fd = namer->stop[0], .events = POLLIN}, {.fd = namer->fd, .events = POLLIN}};
		if (poll(fds, 2, -1) < 0 || fds[0].revents)
			return NULL;
		uint8_t query[512];
		struct sockaddr_in from;
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(namer->fd, query, sizeof(query), 0, (struct sockaddr *)&from, &from_len);
		if (n <= 0)
			continue;
		atomic_fetch_add(&namer->questions, 1);
		if (!namer->silent)
			namer_answer(namer, query, (size_t)n, &from);
	}
}

static struct namer *namer_start(void)
{
	struct namer *namer = calloc(1, sizeof(*namer));
	assert(namer);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(address);
	pthread_mutex_init(&namer->lock, NULL);
	namer->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (namer->fd < 0 || bind(namer->fd, (struct sockaddr *)&address, len) < 0 ||
		getsockname(namer->fd, (struct sockaddr *)&address, &len) < 0 || pipe(namer->stop) < 0 ||
		pthread_create(&namer->thread, NULL, namer_serve, namer) != 0)
		abort();
	snprintf(namer->address, sizeof(namer->address), "127.0.0.1:%u", ntohs(address.sin_port));
	return namer;
}

static void namer_stop(struct namer *namer)
{
	if (write(namer->stop[1], "", 1) != 1)
		abort();
	pthread_join(namer->thread, NULL);
	close(namer->fd);
	close(namer->stop[0]);
	close(namer->stop[1]);
	pthread_mutex_destroy(&namer->lock);
	free(namer);
}

#endif
