/*
 * `lamella serve DIR`: the files below a directory over HTTP, as a CVMFS web server gives them, for trials and tests.
 *
 * libmicrohttpd's threads wait with epoll and send with sendfile(2). A request is looked at twice: its URI when it
 * arrives (kept for the access log), then its answer, once all of the request was read. That nothing outside of DIR is
 * reached is the kernel's business (RESOLVE_BENEATH), whatever links there are.
 */
#include "base/buf.h"
#include "base/file.h"
#include "base/listen.h"
#include "base/str.h"
#include "base/work.h"
#include "commands.h"
#include "common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <microhttpd.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

enum {
	THREADS_MIN = 2, /* a pool of one is none */
	THREADS_MAX = 16,
	CONNECTIONS_MAX = 4096,
	IDLE_TIMEOUT_S = 120,
	LOG_LINE_MAX = 16 << 10,
};

struct server { /* constant while it runs */
	const char *dir;
	int dir_fd;
	int log_fd; /* -1: none */
};

struct request {
	char *uri; /* as sent */
	char method[16], version[16];
	bool complete; /* the headers were seen before, now the body too */
	unsigned status;
	uint64_t body_bytes;
};

struct range {
	uint64_t first, count;
};

static void request_free(struct request *request)
{
	if (!request)
		return;
	free(request->uri);
	free(request);
}
LM_DEFINE_CLEANUP(struct request, request_free, request_freep)
LM_DEFINE_CLEANUP(struct MHD_Response, MHD_destroy_response, response_freep)

static bool has_dot_dot(const char *path)
{
	for (const char *part = path; part; part = strchr(part, '/')) {
		part += strspn(part, "/");
		if (strcspn(part, "/") == 2 && part[0] == '.' && part[1] == '.')
			return true;
	}
	return false;
}

static unsigned status_of_errno(int code)
{
	switch (code) {
	case -ENOENT:
	case -ENOTDIR:
	case -ENAMETOOLONG:
		return MHD_HTTP_NOT_FOUND;
	case -EACCES:
	case -EPERM:
	case -ELOOP:
	case -EXDEV: /* leaves DIR */
	case -ENXIO: /* a socket */
		return MHD_HTTP_FORBIDDEN;
	case -EMFILE:
	case -ENFILE:
	case -ENOMEM:
	case -EAGAIN:
		return MHD_HTTP_SERVICE_UNAVAILABLE;
	default:
		return MHD_HTTP_INTERNAL_SERVER_ERROR;
	}
}

/* Opens what a URL means: 200, or the status that says why not. *path is decoded in place. */
static unsigned open_url(
	const struct server *server, char *url, const char **ret_path, int *ret_fd, struct stat *ret_st)
{
	if (url[0] != '/' || !lm_str_unescape(url))
		return MHD_HTTP_BAD_REQUEST;
	const char *path = url + strspn(url, "/");
	if (has_dot_dot(path))
		return MHD_HTTP_FORBIDDEN;
	CLEANUP(lm_closep) int fd = lm_open_beneath(server->dir_fd, *path ? path : ".", O_NONBLOCK);
	if (fd < 0)
		return status_of_errno(fd);
	if (fstat(fd, ret_st) < 0)
		return MHD_HTTP_INTERNAL_SERVER_ERROR;
	if (!S_ISREG(ret_st->st_mode))
		return MHD_HTTP_FORBIDDEN;
	*ret_path = path;
	*ret_fd = STEAL_FD(fd);
	return MHD_HTTP_OK;
}

/* The digits at *text as a number that stops at UINT64_MAX; false when there are none. */
static bool scan_number(const char **text, uint64_t *ret)
{
	size_t len = strspn(*text, "0123456789");
	if (len == 0)
		return false;
	if (lm_str_u64(*text, len, ret) < 0)
		*ret = UINT64_MAX;
	*text += len;
	return true;
}

/*
 * One range of bytes: "bytes=FIRST-LAST", "bytes=FIRST-" or "bytes=-COUNT". 206 with *range, 416 where none of the
 * bytes exist, and 200 for all else: whoever does not understand a range, or several, sends everything.
 */
static unsigned parse_range(const char *text, uint64_t size, struct range *range)
{
	uint64_t first = 0, last = UINT64_MAX;
	if (!text || strncasecmp(text, "bytes=", 6) != 0)
		return MHD_HTTP_OK;
	text += 6;
	bool has_first = scan_number(&text, &first);
	if (*text++ != '-')
		return MHD_HTTP_OK;
	bool has_last = scan_number(&text, &last);
	if (*text || (!has_first && !has_last) || (has_first && last < first))
		return MHD_HTTP_OK;
	if (!has_first) { /* the last ones */
		first = last < size ? size - last : 0;
		if (last == 0)
			return MHD_HTTP_RANGE_NOT_SATISFIABLE;
		last = UINT64_MAX;
	}
	if (first >= size)
		return MHD_HTTP_RANGE_NOT_SATISFIABLE;
	*range = (struct range){first, LM_MIN(last, size - 1) - first + 1};
	return MHD_HTTP_PARTIAL_CONTENT;
}

/* Objects are named by their content; what names the current revision is replaced in place. */
static const char *cache_control(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	if (strcmp(name, ".cvmfspublished") == 0 || strcmp(name, ".cvmfswhitelist") == 0)
		return "max-age=61";
	const char *data = lm_str_starts(path, "data/") ? path : strstr(path, "/data/");
	return data ? "max-age=31536000, immutable" : NULL;
}

static void add_file_headers(struct MHD_Response *response, const char *path, const struct stat *st, const char *etag)
{
	char date[64];
	struct tm tm;
	gmtime_r(&st->st_mtime, &tm);
	strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", &tm); /* the C locale: nobody calls setlocale() */
	MHD_add_response_header(response, MHD_HTTP_HEADER_LAST_MODIFIED, date);
	MHD_add_response_header(response, MHD_HTTP_HEADER_ETAG, etag);
	MHD_add_response_header(response, MHD_HTTP_HEADER_ACCEPT_RANGES, "bytes");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/octet-stream");
	const char *cache = cache_control(path);
	if (cache)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, cache);
}

static enum MHD_Result queue(struct MHD_Connection *connection, struct request *request, unsigned status,
	struct MHD_Response *response, uint64_t body_bytes)
{
	if (!response)
		return MHD_NO;
	request->status = status;
	request->body_bytes = strcmp(request->method, "HEAD") == 0 ? 0 : body_bytes;
	return MHD_queue_response(connection, status, response);
}

static enum MHD_Result answer_status(
	struct MHD_Connection *connection, struct request *request, unsigned status, const char *content_range)
{
	char text[64];
	int len = snprintf(text, sizeof(text), "%u %s\n", status, MHD_get_reason_phrase_for(status));
	CLEANUP(response_freep)
	struct MHD_Response *response = MHD_create_response_from_buffer((size_t)len, text, MHD_RESPMEM_MUST_COPY);
	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	if (content_range)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_RANGE, content_range);
	return queue(connection, request, status, response, (uint64_t)len);
}

static enum MHD_Result answer_unchanged(struct MHD_Connection *connection, struct request *request, const char *path,
	const struct stat *st, const char *etag)
{
	CLEANUP(response_freep)
	struct MHD_Response *response = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
	if (response)
		add_file_headers(response, path, st, etag);
	return queue(connection, request, MHD_HTTP_NOT_MODIFIED, response, 0);
}

static const char *header(struct MHD_Connection *connection, const char *name)
{
	return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

/* Takes over *fd. */
static enum MHD_Result answer_file(
	struct MHD_Connection *connection, struct request *request, const char *path, int *fd, const struct stat *st)
{
	uint64_t size = (uint64_t)st->st_size;
	struct range range = {0, size};
	char etag[64], content_range[80];
	snprintf(etag, sizeof(etag), "\"%llx-%llx-%lx\"", (unsigned long long)size,
		(unsigned long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	const char *known = header(connection, MHD_HTTP_HEADER_IF_NONE_MATCH);
	if (known && (strstr(known, etag) || strcmp(known, "*") == 0))
		return answer_unchanged(connection, request, path, st, etag);

	const char *if_range = header(connection, MHD_HTTP_HEADER_IF_RANGE);
	unsigned status = MHD_HTTP_OK;
	if (!if_range || strcmp(if_range, etag) == 0)
		status = parse_range(header(connection, MHD_HTTP_HEADER_RANGE), size, &range);
	if (status == MHD_HTTP_RANGE_NOT_SATISFIABLE) {
		snprintf(content_range, sizeof(content_range), "bytes */%llu", (unsigned long long)size);
		return answer_status(connection, request, status, content_range);
	}
	CLEANUP(response_freep)
	struct MHD_Response *response = MHD_create_response_from_fd_at_offset64(range.count, *fd, range.first);
	if (!response)
		return MHD_NO;
	*fd = -1;
	add_file_headers(response, path, st, etag);
	if (status == MHD_HTTP_PARTIAL_CONTENT) {
		snprintf(content_range, sizeof(content_range), "bytes %llu-%llu/%llu", (unsigned long long)range.first,
			(unsigned long long)(range.first + range.count - 1), (unsigned long long)size);
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_RANGE, content_range);
	}
	return queue(connection, request, status, response, range.count);
}

static enum MHD_Result answer(
	const struct server *server, struct MHD_Connection *connection, struct request *request, const char *url)
{
	CLEANUP(lm_closep) int fd = -1;
	CLEANUP(lm_freep) char *decoded = strdup(url);
	const char *path;
	struct stat st;
	if (!decoded)
		return MHD_NO;
	if (strcmp(request->method, "GET") != 0 && strcmp(request->method, "HEAD") != 0)
		return answer_status(connection, request, MHD_HTTP_METHOD_NOT_ALLOWED, NULL);
	unsigned status = open_url(server, decoded, &path, &fd, &st);
	if (status != MHD_HTTP_OK)
		return answer_status(connection, request, status, NULL);
	return answer_file(connection, request, path, &fd, &st);
}

static void *on_uri(void *arg, const char *uri, struct MHD_Connection *connection)
{
	CLEANUP(request_freep) struct request *request = calloc(1, sizeof(*request));
	if (!request || !(request->uri = strdup(uri)))
		return NULL;
	return STEAL(request);
}

/* Called for the headers, for each piece of a body, which is dropped, and at the end. An answer given before the end
 * would cost the connection. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
	const char *version, const char *upload, size_t *upload_size, void **context)
{
	struct request *request = *context;
	if (!request)
		return MHD_NO; /* out of memory */
	if (!request->complete) {
		request->complete = true;
		snprintf(request->method, sizeof(request->method), "%s", method);
		snprintf(request->version, sizeof(request->version), "%s", version);
		return MHD_YES;
	}
	if (*upload_size) {
		*upload_size = 0;
		return MHD_YES;
	}
	return answer(arg, connection, request, url);
}

static void format_peer(struct MHD_Connection *connection, char *ret, size_t size)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	socklen_t len = info && info->client_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
									 : sizeof(struct sockaddr_in);
	if (!info || getnameinfo(info->client_addr, len, ret, (socklen_t)size, NULL, 0, NI_NUMERICHOST) != 0)
		snprintf(ret, size, "-");
}

/* Common log format. One write: lines of several threads do not mix. */
static int log_request(const struct server *server, struct MHD_Connection *connection, const struct request *request)
{
	CLEANUP(lm_buf_done) struct lm_buf line = LM_BUF(LOG_LINE_MAX);
	CLEANUP(lm_freep) char *first = lm_str_printf("%s %s %s", request->method, request->uri, request->version);
	char peer[NI_MAXHOST], date[64];
	struct tm tm;
	time_t now = time(NULL);
	localtime_r(&now, &tm);
	strftime(date, sizeof(date), "%d/%b/%Y:%H:%M:%S %z", &tm);
	format_peer(connection, peer, sizeof(peer));
	int r = first ? lm_buf_printf(&line, "%s - - [%s] ", peer, date) : -ENOMEM;
	if (r == 0)
		r = lm_str_quote(&line, first, strlen(first));
	if (r == 0)
		r = lm_buf_printf(&line, " %u %llu\n", request->status, (unsigned long long)request->body_bytes);
	if (r == 0 && write(server->log_fd, line.data, line.len) < 0)
		r = -errno;
	return r;
}

static void on_completed(
	void *arg, struct MHD_Connection *connection, void **context, enum MHD_RequestTerminationCode code)
{
	const struct server *server = arg;
	struct request *request = *context;
	if (request && request->status && server->log_fd >= 0)
		(void)log_request(server, connection, request); /* a log that can't be written stops nothing */
	request_free(request);
	*context = NULL;
}

/* We decode by ourselves: a NUL byte would cut the path here. */
static size_t keep_escapes(void *arg, struct MHD_Connection *connection, char *text)
{
	return strlen(text);
}

static int listen_on(const char *text, struct lm_err *err)
{
	int fd = lm_listen_tcp(text, err);
	return fd < 0 ? lm_err_prefix(err, fd, "--listen") : fd;
}

static int print_address(int fd)
{
	CLEANUP(lm_freep) char *url = lm_listen_url(fd);
	if (!url) {
		lm_cli_error("the address that is listened on can't be told");
		return LM_EXIT_FAILED;
	}
	printf("listening on %s\n", url);
	return lm_cli_flush(LM_EXIT_OK);
}

/* Serves until SIGTERM or SIGINT; takes over listen_fd. */
static int serve(struct server *server, int listen_fd)
{
	sigset_t ends, before;
	int signal_number;
	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	pthread_sigmask(SIG_BLOCK, &ends, &before); /* the threads inherit it */
	unsigned threads = LM_MIN(LM_MAX(lm_work_cores(), (unsigned)THREADS_MIN), (unsigned)THREADS_MAX);
	struct MHD_Daemon *daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC, 0, NULL, NULL,
		on_request, server, MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_THREAD_POOL_SIZE, threads,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned)IDLE_TIMEOUT_S, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL, MHD_OPTION_URI_LOG_CALLBACK,
		on_uri, server, MHD_OPTION_NOTIFY_COMPLETED, on_completed, server, MHD_OPTION_END);
	int code = daemon ? print_address(listen_fd) : LM_EXIT_FAILED;
	if (!daemon)
		lm_cli_error("the web server could not be started");
	if (code == LM_EXIT_OK)
		sigwait(&ends, &signal_number);
	if (daemon)
		MHD_stop_daemon(daemon);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return code;
}

static int open_log(const char *name, int *ret, struct lm_err *err)
{
	if (!name)
		return 0;
	*ret = strcmp(name, "-") == 0 ? dup(STDOUT_FILENO)
				      : open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	return *ret < 0 ? lm_err_sys(err, -errno, "access log %s", name) : 0;
}

static int open_dir(struct server *server, struct lm_err *err)
{
	server->dir_fd = open(server->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (server->dir_fd < 0)
		return lm_err_sys(err, -errno, "%s", server->dir);
	int fd = lm_open_beneath(server->dir_fd, ".", 0);
	if (fd < 0)
		return lm_err_sys(err, fd, "%s: openat2 (Linux 5.6 or newer is needed)", server->dir);
	close(fd);
	return 0;
}

static int run(const char *dir, const char *address, const char *log_name)
{
	struct lm_err err = LM_ERR_INIT;
	struct server server = {.dir = dir, .dir_fd = -1, .log_fd = -1};
	int code = LM_EXIT_FAILED;
	int r = open_dir(&server, &err);
	if (r == 0)
		r = open_log(log_name, &server.log_fd, &err);
	if (r == 0)
		r = listen_on(address, &err);
	code = r < 0 ? lm_cli_fail(&err) : serve(&server, r);
	lm_closep(&server.log_fd);
	lm_closep(&server.dir_fd);
	return code;
}

int lm_cmd_serve(int argc, char **argv)
{
	const char *address = "127.0.0.1:8000", *log_name = NULL;
	const struct lm_cli_option options[] = {
		{"listen", "ADDRESS:PORT", "default 127.0.0.1:8000; port 0 takes a free one; [V6]:PORT",
			.text = &address},
		{"access-log", "FILE", "append a line per request in common log format; - is standard output",
			.text = &log_name},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "DIR [OPTION]...",
		.about = "Serves the files below DIR over HTTP until it is ended by SIGTERM or SIGINT. A repository "
			 "lies in\n"
			 "DIR/cvmfs/NAME, so its URL is http://ADDRESS:PORT/cvmfs/NAME. For trials and tests: no TLS, "
			 "no limits.\n"
			 "When it is ready it prints one line: listening on http://ADDRESS:PORT",
		.options = options,
		.min_words = 1,
		.max_words = 1,
		.words = "one DIR is wanted",
	};
	int code, at = lm_cli_parse(argc, argv, &syntax, &code);
	return at < 0 ? code : run(argv[at], address, log_name);
}
