#include "net/pages.h"

#include "base/file.h"
#include "base/listen.h"
#include "base/str.h"
#include "net/answer.h"

#include <string.h>

enum { CONNECTION_MEMORY = 16 << 10 };
static const struct lm_answer_header no_header;

struct lm_pages {
	/* constant */
	const struct lm_page *pages;
	void *arg;
	struct lm_listen socket;
	struct MHD_Daemon *on_socket, *on_address; /* NULL: none */
};

static const struct lm_page *page_at(const struct lm_page *pages, const char *url)
{
	for (; pages->path; pages++)
		if (strcmp(url, pages->path) == 0)
			return pages;
	return NULL;
}

/* Called for a request's head, for each part of its body, and once more at its end: that is when it is answered. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
	const char *version, const char *upload, size_t *upload_len, void **context)
{
	static char seen;
	const struct lm_pages *all = arg;
	if (!*context || *upload_len > 0) {
		*context = &seen;
		*upload_len = 0;
		return MHD_YES;
	}
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return lm_answer_plain(connection, MHD_HTTP_METHOD_NOT_ALLOWED,
			(struct lm_answer_header){MHD_HTTP_HEADER_ALLOW, "GET, HEAD"});
	const struct lm_page *page = page_at(all->pages, url);
	if (!page)
		return lm_answer_plain(connection, MHD_HTTP_NOT_FOUND, no_header);
	CLEANUP(lm_buf_done) struct lm_buf body = LM_BUF(LM_PAGES_MAX);
	unsigned code = MHD_HTTP_OK;
	if (page->fill(all->arg, &body, &code) < 0)
		return lm_answer_plain(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, no_header);
	return lm_answer(connection, code, page->type, &body, no_header);
}

static int start(struct lm_pages *pages, int fd, struct MHD_Daemon **ret, struct lm_err *err)
{
	*ret = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC, 0, NULL, NULL, on_request, pages,
		MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)LM_PAGES_CONNECTIONS,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)LM_PAGES_IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)CONNECTION_MEMORY, MHD_OPTION_END);
	return *ret ? 0 : lm_err_set(err, -EIO, "its web server can't be started");
}

static int listen_on_socket(struct lm_pages *pages, const char *path, struct lm_err *err)
{
	int r = lm_mkdir_above(AT_FDCWD, path, 0700, err);
	if (r == 0)
		r = lm_listen_unix(path, &pages->socket, err);
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int fd = dup(pages->socket.fd); /* the daemon closes its own */
	r = fd < 0 ? lm_err_sys(err, -errno, "dup") : start(pages, fd, &pages->on_socket, err);
	if (r == 0)
		fd = -1;
	return r;
}

static int listen_on_address(struct lm_pages *pages, const char *address, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = lm_listen_tcp(address, err);
	int r = fd < 0 ? fd : start(pages, fd, &pages->on_address, err);
	if (r == 0)
		fd = -1;
	return r;
}

int lm_pages_new(const char *socket, const char *address, const struct lm_page *pages, void *arg, struct lm_pages **ret,
	struct lm_err *err)
{
	CLEANUP(lm_pages_freep) struct lm_pages *all = calloc(1, sizeof(*all));
	if (!all)
		return lm_err_oom(err);
	all->pages = pages;
	all->arg = arg;
	all->socket = (struct lm_listen)LM_LISTEN_INIT;
	int r = socket && *socket ? listen_on_socket(all, socket, err) : 0;
	if (r == 0 && address && *address)
		r = listen_on_address(all, address, err);
	if (r < 0)
		return lm_err_prefix(err, r, "metrics");
	*ret = STEAL(all);
	return 0;
}

void lm_pages_free(struct lm_pages *pages)
{
	if (!pages)
		return;
	if (pages->on_socket)
		MHD_stop_daemon(pages->on_socket);
	if (pages->on_address)
		MHD_stop_daemon(pages->on_address);
	lm_listen_done(&pages->socket);
	free(pages);
}

char *lm_pages_socket_beside(const char *socket, const char *suffix)
{
	size_t len = strlen(socket);
	if (lm_str_ends(socket, ".sock"))
		len -= strlen(".sock");
	return lm_str_printf("%.*s-%s.sock", (int)len, socket, suffix);
}
