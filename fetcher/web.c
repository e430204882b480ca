#include "fetcher/web.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/listen.h"
#include "base/log.h"
#include "base/str.h"
#include "fetcher/metrics.h"
#include "fetcher/status.h"
#include "net/answer.h"
#include "rpc/json.h"

#include <libgen.h>
#include <string.h>

typedef Lamella__Fetcher__V1__StatusResponse StatusResponse;
typedef Lamella__Fetcher__V1__Health Health;

enum { CONNECTION_MEMORY = 16 << 10 };
static const struct lm_answer_header no_header;

struct lm_web {
	const struct lm_control_config *status;
	struct lm_listen socket;
	struct MHD_Daemon *on_socket, *on_address; /* NULL: none */
};

/* Pages: each fills the body and says with which status it goes out. */

static int metrics_page(const StatusResponse *status, struct lm_buf *body, unsigned *ret_code)
{
	return lm_metrics_print(status, body);
}

static int status_page(const StatusResponse *status, struct lm_buf *body, unsigned *ret_code)
{
	int r = lm_rpc_json(&status->base, body);
	return r < 0 ? r : lm_buf_str(body, "\n");
}

static int health_page(const StatusResponse *status, struct lm_buf *body, unsigned *ret_code)
{
	Health health = LAMELLA__FETCHER__V1__HEALTH__INIT;
	health.healthy = lm_status_is_healthy(status);
	health.n_problems = status->n_problems;
	health.problems = status->problems;
	if (!health.healthy)
		*ret_code = MHD_HTTP_SERVICE_UNAVAILABLE;
	int r = lm_rpc_json(&health.base, body);
	return r < 0 ? r : lm_buf_str(body, "\n");
}

static const struct page {
	const char *path, *type;
	int (*fill)(const StatusResponse *status, struct lm_buf *body, unsigned *ret_code);
} pages[] = {
	{"/metrics", LM_METRICS_CONTENT_TYPE, metrics_page},
	{"/healthz", "application/json", health_page},
	{"/status", "application/json", status_page},
};

static const struct page *page_at(const char *url)
{
	for (size_t i = 0; i < ARRAY_LEN(pages); i++)
		if (strcmp(url, pages[i].path) == 0)
			return &pages[i];
	return NULL;
}

/* Called for a request's head, for each part of its body, and once more at its end: that is when it is answered. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
	const char *version, const char *upload, size_t *upload_len, void **context)
{
	static char seen;
	const struct lm_web *web = arg;
	if (!*context || *upload_len > 0) {
		*context = &seen;
		*upload_len = 0;
		return MHD_YES;
	}
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return lm_answer_plain(connection, MHD_HTTP_METHOD_NOT_ALLOWED,
			(struct lm_answer_header){MHD_HTTP_HEADER_ALLOW, "GET, HEAD"});
	const struct page *page = page_at(url);
	if (!page)
		return lm_answer_plain(connection, MHD_HTTP_NOT_FOUND, no_header);
	CLEANUP(lm_status_freep) StatusResponse *status = lm_status_new(web->status, page->fill == status_page);
	CLEANUP(lm_buf_done) struct lm_buf body = LM_BUF(LM_METRICS_MAX);
	unsigned code = MHD_HTTP_OK;
	if (!status || page->fill(status, &body, &code) < 0)
		return lm_answer_plain(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, no_header);
	return lm_answer(connection, code, page->type, &body, no_header);
}

static int start(struct lm_web *web, int fd, struct MHD_Daemon **ret, struct lm_err *err)
{
	*ret = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC, 0, NULL, NULL, on_request, web,
		MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)LM_WEB_CONNECTIONS,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)LM_WEB_IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)CONNECTION_MEMORY, MHD_OPTION_END);
	return *ret ? 0 : lm_err_set(err, -EIO, "the web server for metrics can't be started");
}

static int listen_on_socket(struct lm_web *web, const char *path, struct lm_err *err)
{
	CLEANUP(lm_freep) char *copy = strdup(path);
	int r = copy ? lm_mkdir_p(AT_FDCWD, dirname(copy), 0700, err) : lm_err_oom(err);
	if (r == 0)
		r = lm_listen_unix(path, &web->socket, err);
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int fd = dup(web->socket.fd); /* the daemon closes its own */
	r = fd < 0 ? lm_err_sys(err, -errno, "dup") : start(web, fd, &web->on_socket, err);
	if (r == 0)
		fd = -1;
	return r;
}

static int listen_on_address(struct lm_web *web, const char *address, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = lm_listen_tcp(address, err);
	int r = fd < 0 ? fd : start(web, fd, &web->on_address, err);
	if (r == 0)
		fd = -1;
	return r;
}

int lm_web_new(const char *socket, const char *address, const struct lm_control_config *status, struct lm_web **ret,
	struct lm_err *err)
{
	CLEANUP(lm_web_freep) struct lm_web *web = calloc(1, sizeof(*web));
	if (!web)
		return lm_err_oom(err);
	web->status = status;
	web->socket = (struct lm_listen)LM_LISTEN_INIT;
	int r = socket && *socket ? listen_on_socket(web, socket, err) : 0;
	if (r == 0 && address && *address)
		r = listen_on_address(web, address, err);
	if (r < 0)
		return lm_err_prefix(err, r, "metrics");
	*ret = STEAL(web);
	return 0;
}

void lm_web_free(struct lm_web *web)
{
	if (!web)
		return;
	if (web->on_socket)
		MHD_stop_daemon(web->on_socket);
	if (web->on_address)
		MHD_stop_daemon(web->on_address);
	lm_listen_done(&web->socket);
	free(web);
}

char *lm_web_socket_beside(const char *control_socket)
{
	size_t len = strlen(control_socket);
	if (lm_str_ends(control_socket, ".sock"))
		len -= strlen(".sock");
	return lm_str_printf("%.*s-metrics.sock", (int)len, control_socket);
}
