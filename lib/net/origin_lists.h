/*
 * Lists of servers and proxies as an administrator writes them, and the words of the Geo API about their order. Pure.
 *
 *   servers:  URL {; or , URL}      @fqrn@ is the repository's name, @org@ its first component
 *   proxies:  group {; group}       group: proxy {| proxy}      proxy: DIRECT or URL, "http://" may be left out
 *
 * Fallback proxies are groups after the others. Where there are any, DIRECT is left out everywhere.
 */
#ifndef LM_NET_ORIGIN_LISTS_H
#define LM_NET_ORIGIN_LISTS_H

#include "base/buf.h"

enum { LM_ORIGIN_SERVERS_MAX = 64, LM_ORIGIN_PROXIES_MAX = 64 };

struct lm_origin_proxy {
	char *url;   /* NULL: DIRECT */
	char *shown; /* without user and password */
	char *host;  /* a name whose every address counts as a proxy; NULL: an address, https:// or DIRECT */
	unsigned group;
};

struct lm_origin_lists {
	char *servers[LM_ORIGIN_SERVERS_MAX]; /* no slash at the end */
	unsigned n_servers;
	struct lm_origin_proxy proxies[LM_ORIGIN_PROXIES_MAX]; /* the members of a group side by side */
	unsigned n_proxies, n_groups;
	unsigned first_fallback; /* group; n_groups: there are none */
	bool direct_dropped;	 /* DIRECT was written in the list of proxies, and left out */
};

/* -EINVAL names the entry that is wrong, without user and password. NULL is an empty list. */
int lm_origin_lists_parse(const char *servers, const char *proxies, const char *fallback, const char *fqrn,
	struct lm_origin_lists **ret, struct lm_err *err) MUST_CHECK;
void lm_origin_lists_free(struct lm_origin_lists *lists);
LM_DEFINE_CLEANUP(struct lm_origin_lists, lm_origin_lists_free, lm_origin_lists_freep)

/* The URL with an address in its name's place. NULL when memory is short; the caller frees. */
char *lm_origin_proxy_at(const char *url, const char *address, bool v6);

/* An order: indices of servers; of fallback groups, counted from the first of them. */
struct lm_origin_order {
	uint8_t servers[LM_ORIGIN_SERVERS_MAX], fallback[LM_ORIGIN_PROXIES_MAX];
};
void lm_origin_order_init(struct lm_origin_order *order); /* as written */

/*
 * The question "api/v1.0/geo/WHO/HOST,HOST…[,+PXYSEP+,PROXY…]", about the servers and the first proxy of each fallback
 * group; its answer "2,1,3\n" is all numbers from 1 on, the nearest first. who: the name by which the server may know
 * where we are: a proxy's host, or some word. NULL when memory is short; the caller frees.
 */
char *lm_geo_question(const struct lm_origin_lists *lists, const char *who);
/* -EPROTO for anything but such an answer; ret is then as before. */
int lm_geo_answer(
	const struct lm_origin_lists *lists, const char *text, size_t len, struct lm_origin_order *ret) MUST_CHECK;
char *lm_url_host(const char *url); /* "" for a URL without; NULL when memory is short; the caller frees */

#endif
