/* One transfer: its request checked and copied, curl told about it, the answer judged. */
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "net/http_internal.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
	TIMEOUT_DEFAULT_MS = 10000,
	SLOW_DEFAULT = 1024, /* bytes/s */
	REDIRECTS_MAX = 8,
	HEADERS_MAX = 128 << 10,  /* of all answers of a transfer */
	DROPPED_MAX = 16 << 10,	  /* of a refusal's body; a longer one costs the connection */
	RECEIVE_BYTES = 64 << 10, /* at a time */
	SEND_BYTES = 256 << 10,
};

LM_DEFINE_CLEANUP(CURLU, curl_url_cleanup, urlp)

static int copy_string(const char *from, char **ret, struct lm_err *err)
{
	if (from && !(*ret = strdup(from)))
		return lm_err_oom(err);
	return 0;
}

static int url_part(CURLU *url, CURLUPart part, unsigned flags, char **ret, struct lm_err *err)
{
	char *text;
	CURLUcode code = curl_url_get(url, part, &text, flags);
	if (code == CURLUE_OUT_OF_MEMORY)
		return lm_err_oom(err);
	if (code)
		return lm_err_set(err, -EINVAL, "%s", curl_url_strerror(code));
	int r = copy_string(text, ret, err);
	curl_free(text);
	return r;
}

void lm_http_show_url(const char *url, char *ret, size_t size)
{
	const char *host = strstr(url, "://");
	host = host ? host + 3 : url;
	size_t authority = strcspn(host, "/?#"), at = authority;
	while (at && host[at - 1] != '@')
		at--;
	snprintf(ret, size, "%.*s%s", (int)(host - url), url, host + at);
}

/* Who is connected to, and the URL as it may be shown: without a password. */
static int parse_url(const char *text, bool *https, char **peer, char **shown, struct lm_err *err)
{
	CLEANUP(urlp) CURLU *url = curl_url();
	CLEANUP(lm_freep) char *scheme = NULL, *host = NULL, *port = NULL;
	if (!url)
		return lm_err_oom(err);
	CURLUcode code = curl_url_set(url, CURLUPART_URL, text, 0);
	if (code == CURLUE_OUT_OF_MEMORY)
		return lm_err_oom(err);
	if (code)
		return lm_err_set(err, -EINVAL, "%s", curl_url_strerror(code));
	int r = url_part(url, CURLUPART_SCHEME, 0, &scheme, err);
	if (r == 0)
		r = url_part(url, CURLUPART_HOST, 0, &host, err);
	if (r == 0)
		r = url_part(url, CURLUPART_PORT, CURLU_DEFAULT_PORT, &port, err);
	if (r < 0)
		return r;
	*https = strcasecmp(scheme, "https") == 0;
	if (!*https && strcasecmp(scheme, "http") != 0)
		return lm_err_set(err, -EINVAL, "neither http nor https");
	curl_url_set(url, CURLUPART_USER, NULL, 0);
	curl_url_set(url, CURLUPART_PASSWORD, NULL, 0);
	r = url_part(url, CURLUPART_URL, 0, shown, err);
	if (r == 0 && !(*peer = lm_str_printf("%s:%s", host, port)))
		return lm_err_oom(err);
	return r;
}

static int add_header(struct lm_http_transfer *t, const char *line, struct lm_err *err)
{
	for (const char *c = line; *c; c++)
		if ((unsigned char)*c < ' ' && *c != '\t')
			return lm_err_set(err, -EINVAL, "%s: control character in a request header", t->where);
	struct curl_slist *longer = curl_slist_append(t->headers, line);
	if (!longer)
		return lm_err_oom(err);
	t->headers = longer;
	return 0;
}

static int copy_headers(struct lm_http_transfer *t, const struct lm_http_request *request, struct lm_err *err)
{
	int r = 0;
	if (request->no_cache) {
		r = add_header(t, "Cache-Control: no-cache", err);
		if (r == 0)
			r = add_header(t, "Pragma: no-cache", err);
	}
	for (const char *const *line = request->headers; r == 0 && line && *line; line++)
		r = add_header(t, *line, err);
	return r;
}

static int describe(struct lm_http_transfer *t, const char *url, const char *proxy, struct lm_err *err)
{
	t->where = proxy ? lm_str_printf("%s through proxy %s", url, proxy) : strdup(url);
	return t->where ? 0 : lm_err_oom(err);
}

static int copy_addresses(struct lm_http_transfer *t, const struct lm_http_request *request, struct lm_err *err)
{
	bool ignored;
	CLEANUP(lm_freep) char *server = NULL, *proxy = NULL, *url_shown = NULL, *proxy_shown = NULL;
	int r = parse_url(request->url, &t->https, &server, &url_shown, err);
	if (r < 0) {
		char shown[256];
		lm_http_show_url(request->url, shown, sizeof(shown));
		return lm_err_prefix(err, r, "URL %s", shown);
	}
	if (request->proxy)
		r = parse_url(request->proxy, &ignored, &proxy, &proxy_shown, err);
	if (r < 0)
		return lm_err_prefix(err, r, "proxy for %s", url_shown);
	t->peer = proxy ? STEAL(proxy) : STEAL(server);
	r = describe(t, url_shown, proxy_shown, err);
	if (r == 0)
		r = copy_string(request->url, &t->url, err);
	if (r == 0)
		r = copy_string(request->proxy, &t->proxy, err);
	if (r == 0)
		r = copy_string(request->ca_file, &t->ca_file, err);
	if (r == 0)
		r = copy_string(request->ca_path, &t->ca_path, err);
	if (r == 0)
		r = copy_string(request->ca_pem, &t->ca_pem, err);
	if (r == 0)
		r = copy_string(request->cert_file, &t->cert_file, err);
	if (r == 0)
		r = copy_string(request->key_file, &t->key_file, err);
	return r;
}

static int copy_signer(struct lm_http_transfer *t, const struct lm_http_signer *signer, struct lm_err *err)
{
	if (!signer)
		return 0;
	t->sigv4 = lm_str_printf("aws:amz:%s:%s", signer->region, signer->service);
	int r = t->sigv4 ? copy_string(signer->access_key, &t->access_key, err) : lm_err_oom(err);
	return r < 0 ? r : copy_string(signer->secret_key, &t->secret_key, err);
}

static int check_method(struct lm_http_transfer *t, const struct lm_http_request *request, struct lm_err *err)
{
	const char *method = request->method ? request->method : "GET";
	bool post = strcmp(method, "POST") == 0;
	t->head = strcmp(method, "HEAD") == 0;
	t->put = strcmp(method, "PUT") == 0;
	t->delete = strcmp(method, "DELETE") == 0;
	if (!t->head && !t->put && !t->delete &&!post && strcmp(method, "GET") != 0)
		return lm_err_set(err, -EINVAL, "%s: method %s is none of GET, HEAD, PUT, POST and DELETE",
			request->url, request->method);
	if (t->put != (request->upload != NULL) || (t->put && request->follow_redirects))
		return lm_err_set(err, -EINVAL, "%s: a PUT has an upload and follows no redirects", request->url);
	if (t->put)
		t->upload = *request->upload;
	if (post != (request->body != NULL) || (post && request->follow_redirects))
		return lm_err_set(err, -EINVAL, "%s: a POST has a body and follows no redirects", request->url);
	return copy_string(request->body, &t->body, err);
}

int lm_http_transfer_new(const struct lm_http_request *request, struct lm_http_transfer **ret, struct lm_err *err)
{
	CLEANUP(lm_http_transfer_freep) struct lm_http_transfer *t = calloc(1, sizeof(*t));
	if (!t)
		return lm_err_oom(err);
	t->answer = LM_BUF(HEADERS_MAX);
	if ((unsigned)request->priority >= LM_HTTP_PRIORITIES)
		return lm_err_set(err, -EINVAL, "%s: no such priority", request->url);
	int r = check_method(t, request, err);
	if (r == 0)
		r = copy_addresses(t, request, err);
	if (r == 0)
		r = copy_headers(t, request, err);
	if (r == 0)
		r = copy_signer(t, request->signer, err);
	if (r < 0)
		return r;
	t->request = *request;
	t->request.url = t->url;
	t->request.proxy = t->proxy;
	t->request.ca_file = t->ca_file;
	t->request.ca_path = t->ca_path;
	t->request.ca_pem = t->ca_pem;
	t->request.cert_file = t->cert_file;
	t->request.key_file = t->key_file;
	t->request.body = t->body;
	t->request.upload = NULL;
	t->request.signer = NULL;
	t->request.method = NULL;
	t->request.headers = NULL;
	if (!t->request.connect_timeout_ms)
		t->request.connect_timeout_ms = TIMEOUT_DEFAULT_MS;
	if (!t->request.stall_timeout_ms)
		t->request.stall_timeout_ms = TIMEOUT_DEFAULT_MS;
	if (!t->request.slow_bytes_per_s)
		t->request.slow_bytes_per_s = SLOW_DEFAULT;
	t->started_us = lm_now_us();
	*ret = STEAL(t);
	return 0;
}

/* Headers may hold what others should not read in a core dump. */
static void forget_headers(struct lm_http_transfer *t)
{
	for (struct curl_slist *line = t->headers; line; line = line->next)
		explicit_bzero(line->data, strlen(line->data));
	curl_slist_free_all(t->headers);
}

void lm_http_transfer_free(struct lm_http_transfer *t)
{
	if (!t)
		return;
	lm_buf_done(&t->answer);
	forget_headers(t);
	if (t->body)
		explicit_bzero(t->body, strlen(t->body));
	free(t->body);
	free(t->sigv4);
	free(t->access_key);
	if (t->secret_key)
		explicit_bzero(t->secret_key, strlen(t->secret_key));
	free(t->secret_key);
	free(t->url);
	free(t->where);
	free(t->proxy);
	free(t->ca_file);
	free(t->ca_path);
	free(t->ca_pem);
	free(t->cert_file);
	free(t->key_file);
	free(t->peer);
	free(t);
}

/*
 * Stalling is measured here and not by curl's low-speed option, which counts whole seconds and averages over five of
 * them: half a window without enough bytes is noticed, two in a row end the transfer. Connecting is curl's to limit.
 */
static unsigned tick_ms(const struct lm_http_transfer *t)
{
	return LM_MAX(t->request.stall_timeout_ms / 2, 1u);
}

static void on_tick(void *arg)
{
	struct lm_http_transfer *t = arg;
	uint64_t enough = (uint64_t)t->request.slow_bytes_per_s * tick_ms(t) / 1000;
	bool slow = t->moved - t->moved_at_tick < LM_MAX(enough, (uint64_t)1);
	t->moved_at_tick = t->moved;
	t->slow_ticks = slow && !t->paused ? t->slow_ticks + 1 : 0;
	if (t->slow_ticks == 2)
		lm_http_end(t, -ETIMEDOUT, "slower than %u bytes/s for %u ms, %llu bytes went through",
			t->request.slow_bytes_per_s, t->request.stall_timeout_ms, (unsigned long long)t->moved);
	else
		lm_http_watch(t, tick_ms(t));
}

/* Connected, the request goes out now. Comes again after a redirect and when a kept connection turned out dead. */
static int on_request(void *arg, char *peer_ip, char *local_ip, int peer_port, int local_port)
{
	struct lm_http_transfer *t = arg;
	if (t->state == TRANSFER_ENDED)
		return CURL_PREREQFUNC_ABORT;
	t->sent_us = lm_now_us();
	if (!t->connected) {
		t->connected = true;
		lm_http_watch(t, tick_ms(t));
	}
	return CURL_PREREQFUNC_OK;
}

static bool is_success(const struct lm_http_transfer *t)
{
	return t->result.status >= 200 && t->result.status < 300;
}

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
	struct lm_http_transfer *t = arg;
	size_t len = size * count;
	if (t->state == TRANSFER_ENDED)
		return CURL_WRITEFUNC_ERROR;
	if (!is_success(t)) {
		t->moved += len;
		t->dropped += len;
		if (t->dropped > DROPPED_MAX)
			return CURL_WRITEFUNC_ERROR;
		if (t->request.on_refusal)
			t->request.on_refusal(t->request.arg, data, len);
		return len;
	}
	int r = t->request.on_data ? t->request.on_data(t->request.arg, data, len, &t->result.err) : 0;
	if (r == LM_HTTP_PAUSE) {
		t->paused = true;
		return CURL_WRITEFUNC_PAUSE;
	}
	t->moved += len;
	if (r < 0)
		lm_http_end(t, r, "the receiver refused the body");
	if (t->state == TRANSFER_ENDED)
		return CURL_WRITEFUNC_ERROR;
	t->result.body_bytes += len;
	return len;
}

static size_t on_send(char *ret, size_t size, size_t count, void *arg)
{
	struct lm_http_transfer *t = arg;
	size_t len = (size_t)LM_MIN((uint64_t)(size * count), t->upload.len - t->sent);
	if (t->state == TRANSFER_ENDED)
		return CURL_READFUNC_ABORT;
	int r = 0;
	if (t->upload.data)
		memcpy(ret, (const char *)t->upload.data + t->sent, len);
	else
		r = lm_pread_all(t->upload.fd, ret, len, (off_t)t->sent, &t->result.err);
	if (r < 0) {
		lm_http_end(t, r, "%s", "");
		return CURL_READFUNC_ABORT;
	}
	t->sent += len;
	t->moved += len;
	return len;
}

/* For a kept connection that turned out dead: all is sent again. */
static int on_rewind(void *arg, curl_off_t offset, int origin)
{
	struct lm_http_transfer *t = arg;
	if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > t->upload.len)
		return CURL_SEEKFUNC_FAIL;
	t->sent = (uint64_t)offset;
	return CURL_SEEKFUNC_OK;
}

static void note_length(struct lm_http_transfer *t, const char *value)
{
	uint64_t length = 0;
	if (lm_str_u64(value, strlen(value), &length) < 0)
		t->misframed = "Content-Length is not a number";
	else if (t->has_length && length != t->length)
		t->misframed = "two different Content-Lengths";
	t->has_length = true;
	t->length = length;
}

static void note_header(struct lm_http_transfer *t, const char *name, const char *value)
{
	if (strcmp(name, "content-length") == 0) {
		note_length(t, value);
	} else if (strcmp(name, "transfer-encoding") == 0) {
		t->chunked = strcasecmp(value, "chunked") == 0;
		/* curl would inflate others without having been asked. */
		if (!t->chunked && strcasecmp(value, "identity") != 0)
			t->misframed = "a Transfer-Encoding other than chunked";
	} else if (strcmp(name, "location") == 0) {
		t->has_location = true;
	} else if (strcmp(name, "x-squid-error") == 0) {
		t->result.proxy_error = true;
	} else if (strcmp(name, "proxy-status") == 0) {
		if (strstr(value, "error="))
			t->result.proxy_error = true;
	}
}

/* "Name: value CR LF" to lower-case name and trimmed value in t->answer. */
static int store_header(struct lm_http_transfer *t, const char *line, size_t len)
{
	const char *colon = memchr(line, ':', len);
	if (!colon || colon == line || isblank((unsigned char)line[0]))
		return 0; /* folded lines are not used by anything we read */
	size_t name_len = (size_t)(colon - line), at = t->answer.len;
	const char *value = colon + 1, *end = line + len;
	while (value < end && isblank((unsigned char)*value))
		value++;
	while (end > value && isspace((unsigned char)end[-1]))
		end--;
	size_t value_len = strnlen(value, (size_t)(end - value)); /* curl 7.88 refuses NUL bytes; older ones don't */
	int r = lm_buf_reserve(&t->answer, name_len + value_len + 2);
	if (r == 0)
		r = lm_buf_append(&t->answer, line, name_len);
	if (r == 0)
		r = lm_buf_append(&t->answer, "", 1);
	if (r == 0)
		r = lm_buf_append(&t->answer, value, value_len);
	if (r == 0)
		r = lm_buf_append(&t->answer, "", 1);
	if (r < 0)
		return r;
	char *name = (char *)t->answer.data + at;
	for (char *c = name; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	note_header(t, name, name + name_len + 1);
	return 0;
}

static void start_answer(struct lm_http_transfer *t)
{
	lm_buf_clear(&t->answer);
	t->chunked = t->has_length = t->has_location = t->result.proxy_error = false;
	t->misframed = NULL;
}

static void tell_answer(struct lm_http_transfer *t)
{
	const struct lm_http_request *request = &t->request;
	if (request->on_answer)
		request->on_answer(request->arg, t->result.status);
	const char *name = lm_buf_cstr(&t->answer), *end = name + t->answer.len, *value;
	for (; request->on_header && name < end && t->state != TRANSFER_ENDED; name = value + strlen(value) + 1) {
		value = name + strlen(name) + 1;
		request->on_header(request->arg, name, value);
	}
}

static void end_headers(struct lm_http_transfer *t)
{
	long status = 0;
	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
	bool redirect = status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
	if (status < 200 || (redirect && t->has_location && t->request.follow_redirects))
		return;
	curl_off_t retry_after = 0;
	t->answered = true;
	t->result.status = (unsigned)status;
	t->result.answer_us = LM_MAX(lm_now_us() - t->sent_us, (int64_t)1);
	if (curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &retry_after) == CURLE_OK && retry_after > 0)
		t->result.retry_after_s = (unsigned)LM_MIN(retry_after, (curl_off_t)UINT_MAX);
	if (is_success(t) && !t->misframed && !t->head && status != 204 && !t->chunked && !t->has_length)
		t->misframed = "neither a Content-Length nor chunks tell where the body ends";
	if (is_success(t) && t->misframed)
		lm_http_end(t, -EIO, "%s", t->misframed);
	else
		tell_answer(t);
}

static size_t on_header_line(char *line, size_t size, size_t count, void *arg)
{
	struct lm_http_transfer *t = arg;
	size_t len = size * count;
	if (t->state == TRANSFER_ENDED)
		return 0;
	t->moved += len;
	t->result.wire_bytes += len;
	if (t->result.wire_bytes > HEADERS_MAX)
		lm_http_end(t, -EIO, "more than %d bytes of headers", HEADERS_MAX);
	else if (t->answered)
		return len; /* trailers of a chunked body */
	else if (len >= 5 && memcmp(line, "HTTP/", 5) == 0)
		start_answer(t);
	else if (len <= 2 && (line[0] == '\r' || line[0] == '\n'))
		end_headers(t);
	else if (store_header(t, line, len) < 0)
		lm_http_end(t, -ENOMEM, "out of memory");
	return t->state == TRANSFER_ENDED ? 0 : len;
}

/* Stops at the first option that curl refuses. */
#define SET(option, value)                                                            \
	do {                                                                          \
		if (curl_easy_setopt(t->easy, CURLOPT_##option, (value)) != CURLE_OK) \
			return -ENOMEM;                                               \
	} while (0)

static int set_callbacks(struct lm_http_transfer *t)
{
	SET(PRIVATE, t);
	SET(WRITEFUNCTION, on_body);
	SET(WRITEDATA, t);
	SET(HEADERFUNCTION, on_header_line);
	SET(HEADERDATA, t);
	SET(PREREQFUNCTION, on_request);
	SET(PREREQDATA, t);
	SET(ERRORBUFFER, t->curl_text);
	return 0;
}

/* curl trusts a bundle and a folder at once, both the system's unless replaced; for https:// proxies the same ones. */
static int set_trust(struct lm_http_transfer *t)
{
	if (t->ca_file || t->request.no_system_ca) {
		SET(CAINFO, t->ca_file);
		SET(PROXY_CAINFO, t->ca_file);
	}
	if (t->ca_path || t->request.no_system_ca) {
		SET(CAPATH, t->ca_path);
		SET(PROXY_CAPATH, t->ca_path);
	}
	if (t->ca_pem) {
		struct curl_blob pem = {t->ca_pem, strlen(t->ca_pem), CURL_BLOB_NOCOPY};
		SET(CAINFO_BLOB, &pem);
	}
	if (t->cert_file)
		SET(SSLCERT, t->cert_file);
	if (t->key_file)
		SET(SSLKEY, t->key_file);
	return 0;
}

static int set_route(struct lm_http_transfer *t)
{
	SET(URL, t->url);
	SET(PROTOCOLS_STR, "http,https");
	SET(PROXY, t->proxy ? t->proxy : "");
	SET(NOPROXY, ""); /* neither this nor the proxy is taken from the environment */
	SET(SUPPRESS_CONNECT_HEADERS, 1L);
	SET(FOLLOWLOCATION, t->request.follow_redirects ? 1L : 0L);
	SET(MAXREDIRS, (long)REDIRECTS_MAX);
	SET(REDIR_PROTOCOLS_STR, t->https ? "https" : "http,https");
	return t->https || t->proxy || t->ca_pem ? set_trust(t) : 0;
}

static int set_method(struct lm_http_transfer *t)
{
	SET(NOBODY, t->head ? 1L : 0L);
	if (t->body)
		SET(POSTFIELDS, t->body);
	if (t->delete)
		SET(CUSTOMREQUEST, "DELETE");
	if (!t->put)
		return 0;
	SET(UPLOAD, 1L);
	SET(READFUNCTION, on_send);
	SET(READDATA, t);
	SET(SEEKFUNCTION, on_rewind);
	SET(SEEKDATA, t);
	SET(INFILESIZE_LARGE, (curl_off_t)t->upload.len);
	SET(UPLOAD_BUFFERSIZE, (long)SEND_BYTES);
	return 0;
}

static int set_signer(struct lm_http_transfer *t)
{
	if (!t->sigv4)
		return 0;
	SET(AWS_SIGV4, t->sigv4);
	SET(USERNAME, t->access_key);
	SET(PASSWORD, t->secret_key);
	return 0;
}

int lm_http_transfer_setup(struct lm_http_transfer *t, const char *user_agent)
{
	SET(NOSIGNAL, 1L);
	SET(QUICK_EXIT, 1L); /* a name server that does not answer holds up its transfer, not the engine */
	SET(HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	SET(BUFFERSIZE, (long)RECEIVE_BYTES);
	SET(USERAGENT, user_agent);
	SET(HTTPHEADER, t->headers);
	SET(CONNECTTIMEOUT_MS, (long)t->request.connect_timeout_ms);
	t->stall.fn = on_tick;
	t->stall.arg = t;
	int r = set_route(t);
	if (r == 0)
		r = set_method(t);
	if (r == 0)
		r = set_signer(t);
	return r < 0 ? r : set_callbacks(t);
}

void lm_http_transfer_complete(struct lm_http_transfer *t, CURLcode code)
{
	t->curl_ok = code == CURLE_OK;
	/* What becomes of a refusal's body is nobody's business. */
	if (t->answered && !is_success(t))
		lm_http_end(t, 0, "%s", "");
	else if (code == CURLE_OPERATION_TIMEDOUT)
		lm_http_end(t, -ETIMEDOUT, "%s", t->curl_text[0] ? t->curl_text : "timed out");
	else if (code != CURLE_OK) /* curl says "out of memory" for a header line that is too long, too */
		lm_http_end(t, -EIO, "%s", t->curl_text[0] ? t->curl_text : curl_easy_strerror(code));
	else if (!t->answered)
		lm_http_end(t, -EIO, "no answer");
	else if (!t->head && !t->chunked && t->has_length && t->result.body_bytes != t->length)
		lm_http_end(t, -EIO, "%llu bytes of %llu came", (unsigned long long)t->result.body_bytes,
			(unsigned long long)t->length);
	else
		lm_http_end(t, 0, "%s", "");
}

void lm_http_resume(struct lm_http_transfer *t)
{
	if (!t->paused || t->state != TRANSFER_RUNNING)
		return;
	t->paused = false;
	t->slow_ticks = 0;
	/* May call on_body with what curl holds. After a failure curl would go on with the bytes behind a gap. */
	CURLcode code = curl_easy_pause(t->easy, CURLPAUSE_CONT);
	if (code != CURLE_OK)
		lm_http_end(t, -EIO, "%s", curl_easy_strerror(code));
}

int lm_http_status_error(unsigned status, const char *url, struct lm_err *err)
{
	if (status >= 200 && status < 300)
		return 0;
	int code = status == 404 ? -ENOENT : status == 401 || status == 403 ? -EACCES : -EIO;
	return lm_err_set(err, code, "%s: HTTP status %u", url, status);
}
