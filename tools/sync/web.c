#include "sync/web.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/listen.h"
#include "base/str.h"
#include "common.h"
#include "net/answer.h"
#include "net/exposition.h"
#include "oci/digest.h"
#include "oci/json.h"
#include "oci/secret.h"
#include "sync/events.h"
#include "sync/metrics.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

enum { CONNECTION_MEMORY = 32 << 10 };
static const struct lm_answer_header no_header;

struct lm_sync_web {
	struct lm_syncer *syncer;
	struct lm_inbox *inbox;
	const struct lm_sync_state *state;
	const char *secret_file; /* NULL: none */
	struct lm_listen socket;
	char *where;
	struct MHD_Daemon *daemon;

	struct lm_lock lock;
	/* under lock */
	char secret[LM_DIGEST_MAX]; /* its SHA-256 */

	/* daemon's thread only */
	struct lm_notify_counters counters;
	int64_t tokens_ms; /* what may still come: 1000 / LM_SYNC_PER_S for each */
	int64_t refilled_ms;
};

/* A request with a body. */
struct request {
	bool refused; /* answered already */
	bool too_large;
	struct lm_buf body;
};

/* --- the secret --- */

static int read_secret(const char *path, char ret[LM_DIGEST_MAX], struct lm_err *err)
{
	CLEANUP(lm_secret_buf_done) struct lm_buf text = LM_BUF(LM_SYNC_SECRET_MAX + 2);
	int r = lm_buf_reserve(&text, LM_SYNC_SECRET_MAX + 2) < 0 ? lm_err_oom(err) : 0;
	if (r == 0)
		r = lm_file_read(AT_FDCWD, path, &text, err);
	if (r == -EMSGSIZE)
		return lm_err_set(err, -EINVAL, "%s: more than %d characters", path, LM_SYNC_SECRET_MAX);
	if (r < 0)
		return r;
	size_t len = strcspn(lm_buf_cstr(&text), "\r\n");
	if (len < LM_SYNC_SECRET_MIN || strlen(lm_buf_cstr(&text)) != text.len)
		return lm_err_set(err, -EINVAL, "%s: a text of at least %d characters is wanted in its first line",
			path, LM_SYNC_SECRET_MIN);
	return lm_digest_data(text.data, len, ret, err);
}

/* Of digests, so that not even the length can be told by the time it takes. */
static bool secret_fits(struct lm_sync_web *web, const char *header)
{
	char given[LM_DIGEST_MAX], bare[LM_DIGEST_MAX];
	if (!header || strlen(header) > LM_SYNC_SECRET_MAX + strlen("Bearer "))
		return false;
	const char *after =
		strncasecmp(header, "Bearer ", strlen("Bearer ")) == 0 ? header + strlen("Bearer ") : header;
	if (lm_digest_data(after, strlen(after), given, NULL) < 0 ||
		lm_digest_data(header, strlen(header), bare, NULL) < 0)
		return false;
	LM_LOCKED(&web->lock);
	const size_t len = strlen(web->secret);
	const int after_differs = CRYPTO_memcmp(given, web->secret, len);
	const int whole_differs = CRYPTO_memcmp(bare, web->secret, len);
	return !after_differs || !whole_differs;
}

/* Whether one more may come. */
static bool spend(struct lm_sync_web *web)
{
	const int64_t price = 1000 / LM_SYNC_PER_S, now = lm_now_ms();
	web->tokens_ms = LM_MIN(web->tokens_ms + now - web->refilled_ms, price * LM_SYNC_BURST);
	web->refilled_ms = now;
	if (web->tokens_ms < price)
		return false;
	web->tokens_ms -= price;
	return true;
}

/* --- pages --- */

static int metrics_page(struct lm_sync_web *web, struct lm_buf *body, unsigned *ret_code)
{
	LM_LOCKED(lm_syncer_lock(web->syncer));
	return lm_sync_metrics(lm_syncer_counters(web->syncer), &web->counters, web->state, body);
}

static json_t *problems_json(struct lm_sync_web *web, size_t *ret_failing)
{
	json_t *problems = json_array();
	LM_LOCKED(lm_syncer_lock(web->syncer));
	if (lm_syncer_counters(web->syncer)->list_wrong)
		json_array_append_new(problems, json_string("the wish list is wrong: the one read before is in force"));
	for (size_t i = 0; i < lm_sync_repo_count(web->state); i++) {
		const struct lm_sync_repo *repo = lm_sync_repo_at(web->state, i);
		CLEANUP(lm_freep)
		char *text = repo->error_s ? lm_str_printf("%s: %s", repo->name, repo->error ? repo->error : "failed")
					   : NULL;
		if (text)
			json_array_append_new(problems, lm_cli_text_json(text));
	}
	*ret_failing = 0;
	for (size_t i = 0; i < lm_sync_count(web->state); i++)
		*ret_failing += lm_sync_at(web->state, i)->error_s != 0;
	return problems;
}

static int health_page(struct lm_sync_web *web, struct lm_buf *body, unsigned *ret_code)
{
	size_t failing = 0;
	json_t *problems = problems_json(web, &failing);
	bool healthy = json_array_size(problems) == 0;
	json_t *page = json_pack(
		"{s:b, s:o, s:I}", "healthy", healthy, "problems", problems, "images_failing", (json_int_t)failing);
	int r = lm_json_write(page, JSON_COMPACT, body);
	if (r == 0)
		r = lm_buf_str(body, "\n");
	json_decref(page);
	if (!healthy)
		*ret_code = MHD_HTTP_SERVICE_UNAVAILABLE;
	return r;
}

static const struct page {
	const char *path, *type;
	int (*fill)(struct lm_sync_web *web, struct lm_buf *body, unsigned *ret_code);
} pages[] = {
	{"/metrics", LM_EXPOSITION_TYPE, metrics_page},
	{"/healthz", "application/json", health_page},
};

static enum MHD_Result show(struct lm_sync_web *web, struct MHD_Connection *connection, const char *url)
{
	CLEANUP(lm_buf_done) struct lm_buf body = LM_BUF(LM_SYNC_METRICS_MAX);
	unsigned code = MHD_HTTP_OK;
	for (size_t i = 0; i < ARRAY_LEN(pages); i++)
		if (strcmp(url, pages[i].path) == 0) {
			if (pages[i].fill(web, &body, &code) < 0)
				return lm_answer_plain(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, no_header);
			return lm_answer(connection, code, pages[i].type, &body, no_header);
		}
	return lm_answer_plain(connection, MHD_HTTP_NOT_FOUND, no_header);
}

/* --- notifications --- */

static int on_event(void *arg, const char *repository, const char *tag, const char *digest)
{
	struct lm_sync_web *web = arg;
	int r = lm_inbox_put(web->inbox, repository, tag, digest);
	if (r < 0)
		return r;
	*(r > 0 ? &web->counters.events : &web->counters.unwished) += 1;
	return 0;
}

static enum MHD_Result take(struct lm_sync_web *web, struct MHD_Connection *connection, const struct request *request)
{
	size_t others = 0;
	if (request->too_large) {
		web->counters.limited++;
		return lm_answer_plain(connection, MHD_HTTP_CONTENT_TOO_LARGE, no_header);
	}
	int r = lm_events_parse(lm_buf_cstr(&request->body), request->body.len, on_event, web, &others, NULL);
	if (r == -EPROTO) {
		web->counters.malformed++;
		return lm_answer_plain(connection, MHD_HTTP_BAD_REQUEST, no_header);
	}
	if (r < 0) { /* the registry sends it again */
		web->counters.limited++;
		return lm_answer_plain(connection, MHD_HTTP_SERVICE_UNAVAILABLE,
			(struct lm_answer_header){MHD_HTTP_HEADER_RETRY_AFTER, "5"});
	}
	web->counters.received++;
	web->counters.others += others;
	return lm_answer_plain(connection, MHD_HTTP_ACCEPTED, no_header);
}

/* The head of a POST: what is wrong already is answered before the body comes. */
static enum MHD_Result begin_post(
	struct lm_sync_web *web, struct MHD_Connection *connection, const char *url, struct request *request)
{
	const char *secret = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
	const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
	uint64_t bytes = 0;
	request->refused = true;
	if (strcmp(url, "/notify") != 0 || !web->secret_file)
		return lm_answer_plain(connection, MHD_HTTP_NOT_FOUND, no_header);
	if (!secret_fits(web, secret)) {
		web->counters.refused++;
		return lm_answer_plain(connection, MHD_HTTP_UNAUTHORIZED,
			(struct lm_answer_header){MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer"});
	}
	if (!spend(web)) {
		web->counters.limited++;
		return lm_answer_plain(connection, MHD_HTTP_TOO_MANY_REQUESTS,
			(struct lm_answer_header){MHD_HTTP_HEADER_RETRY_AFTER, "1"});
	}
	if (length && (lm_str_u64(length, strlen(length), &bytes) < 0 || bytes > LM_EVENTS_TEXT_MAX)) {
		web->counters.limited++;
		return lm_answer_plain(connection, MHD_HTTP_CONTENT_TOO_LARGE, no_header);
	}
	request->refused = false;
	return MHD_YES;
}

/* Called for a request's head, for each part of its body, and once more at its end. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
	const char *version, const char *upload, size_t *upload_len, void **context)
{
	struct lm_sync_web *web = arg;
	struct request *request = *context;
	bool is_post = strcmp(method, MHD_HTTP_METHOD_POST) == 0;
	if (!request) {
		*context = request = calloc(1, sizeof(*request));
		if (!request)
			return MHD_NO;
		request->body = LM_BUF(LM_EVENTS_TEXT_MAX);
		return is_post ? begin_post(web, connection, url, request) : MHD_YES;
	}
	if (*upload_len > 0) {
		if (is_post && !request->refused && lm_buf_append(&request->body, upload, *upload_len) < 0)
			request->too_large = true;
		*upload_len = 0;
		return MHD_YES;
	}
	if (request->refused)
		return MHD_YES;
	if (is_post)
		return take(web, connection, request);
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return lm_answer_plain(connection, MHD_HTTP_METHOD_NOT_ALLOWED,
			(struct lm_answer_header){MHD_HTTP_HEADER_ALLOW, "GET, HEAD, POST"});
	return show(web, connection, url);
}

static void on_completed(
	void *arg, struct MHD_Connection *connection, void **context, enum MHD_RequestTerminationCode code)
{
	struct request *request = *context;
	if (request)
		lm_buf_done(&request->body);
	free(request);
	*context = NULL;
}

/* --- the server --- */

static int listen_at(struct lm_sync_web *web, const char *address, struct lm_err *err)
{
	int fd;
	if (lm_str_starts(address, "unix:")) {
		int r = lm_listen_unix(address + strlen("unix:"), &web->socket, err);
		if (r < 0)
			return r;
		fd = dup(web->socket.fd); /* the daemon closes its own */
		web->where = strdup(address);
		return fd < 0 ? lm_err_sys(err, -errno, "dup") : fd;
	}
	fd = lm_listen_tcp(address, err);
	if (fd >= 0)
		web->where = lm_listen_url(fd);
	return fd;
}

int lm_sync_web_new(const char *address, const char *secret, struct lm_syncer *syncer, struct lm_inbox *inbox,
	const struct lm_sync_state *state, struct lm_sync_web **ret, struct lm_err *err)
{
	struct lm_sync_web *web = calloc(1, sizeof(*web));
	if (!web)
		return lm_err_oom(err);
	CLEANUP(lm_sync_web_freep) struct lm_sync_web *guard = web;
	web->syncer = syncer;
	web->inbox = inbox;
	web->state = state;
	web->secret_file = secret;
	web->socket = (struct lm_listen)LM_LISTEN_INIT;
	web->refilled_ms = lm_now_ms();
	web->tokens_ms = 1000 / LM_SYNC_PER_S * LM_SYNC_BURST;
	lm_lock_init(&web->lock);
	int r = secret ? read_secret(secret, web->secret, err) : 0;
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int fd = listen_at(web, address, err);
	if (fd < 0)
		return lm_err_prefix(err, fd, "--listen");
	if (!web->where)
		return lm_err_oom(err);
	web->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC, 0, NULL, NULL, on_request, web,
		MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)LM_SYNC_CONNECTIONS,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)LM_SYNC_IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)CONNECTION_MEMORY, MHD_OPTION_NOTIFY_COMPLETED, on_completed, web, MHD_OPTION_END);
	if (!web->daemon)
		return lm_err_set(err, -EIO, "the web server can't be started");
	fd = -1;
	*ret = STEAL(guard);
	return 0;
}

void lm_sync_web_free(struct lm_sync_web *web)
{
	if (!web)
		return;
	if (web->daemon)
		MHD_stop_daemon(web->daemon);
	lm_listen_done(&web->socket);
	lm_lock_done(&web->lock);
	free(web->where);
	free(web);
}

int lm_sync_web_reload(struct lm_sync_web *web, struct lm_err *err)
{
	char secret[LM_DIGEST_MAX];
	if (!web->secret_file)
		return 0;
	int r = read_secret(web->secret_file, secret, err);
	if (r < 0)
		return r;
	LM_LOCKED(&web->lock);
	memcpy(web->secret, secret, sizeof(secret));
	return 0;
}

const char *lm_sync_web_where(const struct lm_sync_web *web)
{
	return web->where;
}
