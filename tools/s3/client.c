#include "s3/client.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/str.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum {
	PAUSE_FIRST_MS = 250,
	PAUSE_MAX_MS = 10000,
	RETRY_AFTER_MAX_S = 60,
	SLOW_BYTES_PER_S = 1,
	HASH_PIECE = 256 << 10,
};

static const char empty_sha256[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

struct lm_s3 {
	const struct lm_s3_config *config;
	struct lm_http *http;
	unsigned hurry;
};

int lm_s3_new(const struct lm_s3_config *config, struct lm_s3 **ret, struct lm_err *err)
{
	const struct lm_http_limits limits = {
		.max_connections = config->connections, .max_per_host = config->connections};
	struct lm_s3 *s3 = calloc(1, sizeof(*s3));
	if (!s3)
		return lm_err_oom(err);
	s3->config = config;
	s3->hurry = 1;
	int r = lm_http_new(&limits, &s3->http, err);
	if (r < 0) {
		free(s3);
		return r;
	}
	*ret = s3;
	return 0;
}

void lm_s3_free(struct lm_s3 *s3)
{
	if (s3)
		lm_http_free(s3->http);
	free(s3);
}

struct lm_http *lm_s3_http(struct lm_s3 *s3)
{
	return s3->http;
}

void lm_s3_hurry(struct lm_s3 *s3, unsigned factor)
{
	s3->hurry = factor;
}

/* --- what is sent --- */

static int hash_file(EVP_MD_CTX *md, int fd, uint64_t len, struct lm_err *err)
{
	CLEANUP(lm_freep) uint8_t *piece = malloc(HASH_PIECE);
	if (!piece)
		return lm_err_oom(err);
	for (uint64_t at = 0; at < len;) {
		size_t n = (size_t)LM_MIN(len - at, (uint64_t)HASH_PIECE);
		int r = lm_pread_all(fd, piece, n, (off_t)at, err);
		if (r < 0)
			return r;
		EVP_DigestUpdate(md, piece, n);
		at += n;
	}
	return 0;
}

LM_DEFINE_CLEANUP(EVP_MD_CTX, EVP_MD_CTX_free, mdp)

int lm_s3_hash(struct lm_s3_call *call, struct lm_err *err)
{
	CLEANUP(mdp) EVP_MD_CTX *md = EVP_MD_CTX_new();
	uint8_t digest[EVP_MAX_MD_SIZE];
	int r = 0;
	if (!md || !EVP_DigestInit_ex(md, EVP_sha256(), NULL))
		return lm_err_oom(err);
	if (call->upload.fd >= 0)
		r = hash_file(md, call->upload.fd, call->upload.len, err);
	else
		EVP_DigestUpdate(md, call->upload.data, call->upload.len);
	if (r < 0)
		return r;
	if (!EVP_DigestFinal_ex(md, digest, NULL))
		return lm_err_set(err, -EIO, "SHA-256 could not be computed");
	lm_hex_format(digest, 32, call->sha256);
	return 0;
}

/* --- what comes --- */

static bool keeps_reply(const struct lm_s3_call *call)
{
	return !call->body && call->fd < 0;
}

static void on_refusal(void *arg, const void *data, size_t len)
{
	struct lm_s3_call *call = arg;
	/* Cut, or lost for want of memory: the status says enough. */
	if (lm_buf_append(&call->reply, data, LM_MIN(len, call->reply.max - call->reply.len)) < 0)
		return;
}

static int on_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct lm_s3_call *call = arg;
	call->received += len;
	if (keeps_reply(call)) {
		on_refusal(arg, data, len);
		return 0;
	}
	if (!call->body)
		return lm_write_all(call->fd, data, len, err);
	int r = lm_buf_append(call->body, data, len);
	if (r == -EMSGSIZE)
		return lm_err_set(err, r, "more than %zu bytes", call->body->max - call->body_start);
	return r < 0 ? lm_err_oom(err) : 0;
}

static int64_t parse_date(const char *text)
{
	struct tm tm = {0};
	const char *end = strptime(text, "%a, %d %b %Y %H:%M:%S GMT", &tm);
	return end && !*end ? timegm(&tm) : 0;
}

static void on_header(void *arg, const char *name, const char *value)
{
	struct lm_s3_call *call = arg;
	if (strcmp(name, "etag") == 0 && strlen(value) < sizeof(call->etag))
		memcpy(call->etag, value, strlen(value) + 1);
	else if (strcmp(name, "date") == 0)
		call->date_s = parse_date(value);
	else if (strcmp(name, "last-modified") == 0)
		call->modified_s = parse_date(value);
}

static void forget_body(struct lm_s3_call *call)
{
	if (!call->body)
		return;
	call->body->len = call->body_start;
	if (call->body->data)
		call->body->data[call->body_start] = '\0';
}

/* What an earlier try left is taken back. */
static int start_over(struct lm_s3_call *call)
{
	forget_body(call);
	if (call->fd >= 0 && call->received > 0) {
		if (call->fd_start < 0)
			return lm_err_set(
				&call->err, -EIO, "a transfer broke off, and what it wrote can't be taken back");
		if (ftruncate(call->fd, call->fd_start) < 0 || lseek(call->fd, call->fd_start, SEEK_SET) < 0)
			return lm_err_sys(&call->err, -errno, "starting over");
	}
	lm_buf_clear(&call->reply);
	call->received = 0;
	call->status = 0;
	call->etag[0] = '\0';
	call->date_s = call->modified_s = 0;
	call->said = (struct lm_s3_error){0};
	return 0;
}

/* --- tries --- */

static void done(struct lm_s3_call *call)
{
	if (call->code < 0)
		forget_body(call);
	lm_buf_done(&call->reply);
	call->on_done(call);
}

static int try(struct lm_s3_call *call);

static void try_again(void *arg)
{
	struct lm_s3_call *call = arg;
	call->err = (struct lm_err)LM_ERR_INIT;
	call->code = start_over(call);
	if (call->code == 0)
		call->code = try(call);
	if (call->code < 0)
		done(call);
}

static bool said(const struct lm_s3_call *call, const char *code)
{
	return strcmp(call->said.code, code) == 0;
}

/* The server, or the way to it, may do better in a moment. */
static bool is_passing(const struct lm_s3_call *call)
{
	unsigned status = call->status;
	if (status == 0 || call->code == -ETIMEDOUT)
		return call->code == -EIO || call->code == -ETIMEDOUT;
	if (status / 100 == 2) /* cut off in the body, or an error in the body of a success */
		return call->code == -EIO;
	return status == 429 || status == 500 || status == 502 || status == 503 || status == 504 || status == 409 ||
	       said(call, "RequestTimeout") || said(call, "XAmzContentSHA256Mismatch") || said(call, "BadDigest") ||
	       said(call, "IncompleteBody");
}

/* Doubled each time; not all at the same moment. */
static unsigned pause_ms(const struct lm_s3_call *call, unsigned retry_after_s)
{
	unsigned step = LM_MIN((unsigned)PAUSE_MAX_MS, (unsigned)PAUSE_FIRST_MS << LM_MIN(call->tries - 1, 6u));
	uint16_t noise = 0;
	if (getrandom(&noise, sizeof(noise), GRND_NONBLOCK) < 0)
		noise = 0;
	unsigned ms = step / 2 + step * noise / UINT16_MAX / 2;
	return LM_MAX(ms, LM_MIN(retry_after_s, (unsigned)RETRY_AFTER_MAX_S) * 1000) / call->s3->hurry;
}

static int code_of(const struct lm_s3_call *call)
{
	if (said(call, "NoSuchBucket"))
		return -ENXIO;
	switch (call->status) {
	case 404:
		return -ENOENT;
	case 412:
		return -EEXIST;
	case 401:
	case 403:
		return -EACCES;
	case 501:
		return -ENOSYS;
	default:
		return -EIO;
	}
}

/* The server's own words, and what they mean where they do not say it. */
static void explain(struct lm_s3_call *call)
{
	const struct lm_s3_config *c = call->s3->config;
	char skew[96] = "";
	char tries[48] = "";
	long long ahead_s = call->date_s ? (long long)(lm_wall_s() - call->date_s) : 0;
	if (said(call, "RequestTimeTooSkewed") || (call->status == 403 && llabs(ahead_s) > 300))
		snprintf(skew, sizeof(skew), "; the clock of this machine is %lld s %s the server's", llabs(ahead_s),
			ahead_s < 0 ? "behind" : "ahead of");
	if (call->tries > 1)
		snprintf(tries, sizeof(tries), ", tried %u times", call->tries);
	lm_err_set(&call->err, call->code, "s3://%s%s%s%s%s: %s%s%s%sHTTP status %u%s%s", c->bucket,
		*c->prefix ? "/" : "", c->prefix, call->key ? "/" : "", call->key ? call->key : "", call->said.code,
		call->said.code[0] ? ": " : "", call->said.message, call->said.code[0] ? ", " : "", call->status, skew,
		tries);
}

/* A copy that fails half-way says so in the body of a success. */
static void judge(struct lm_s3_call *call, const struct lm_http_result *result)
{
	bool success = result->status / 100 == 2;
	call->status = result->status;
	call->code = result->code;
	if (result->code < 0) {
		call->err = result->err;
		return;
	}
	bool error = (!success || keeps_reply(call)) && call->reply.len > 0 &&
		     lm_s3_error_parse(lm_buf_cstr(&call->reply), call->reply.len, &call->said) == 0;
	if (success && !error)
		return;
	call->code = success ? -EIO : code_of(call);
	explain(call);
}

static void on_done(void *arg, const struct lm_http_result *result)
{
	struct lm_s3_call *call = arg;
	judge(call, result);
	unsigned retries = call->hurried ? LM_MIN(call->s3->config->retries, 1u) : call->s3->config->retries;
	if (call->code < 0 && is_passing(call) && call->tries <= retries &&
		lm_http_call(call->s3->http, pause_ms(call, result->retry_after_s), try_again, call) == 0)
		return;
	if (call->code < 0 && result->code < 0 && call->tries > 1) {
		struct lm_err last = call->err;
		lm_err_set(&call->err, call->code, "%s, tried %u times", last.msg, call->tries);
	}
	done(call);
}

static int make_url(const struct lm_s3_call *call, char *ret, size_t size)
{
	const struct lm_s3_config *c = call->s3->config;
	int len = call->key ? snprintf(ret, size, "%s%s%s/%s", c->base_url, *c->prefix ? "/" : "", c->prefix, call->key)
			    : snprintf(ret, size, "%s/", c->base_url);
	if (len >= 0 && (size_t)len < size && call->query)
		len += snprintf(ret + len, size - (size_t)len, "?%s", call->query);
	return len < 0 || (size_t)len >= size ? -ENAMETOOLONG : 0;
}

static int try(struct lm_s3_call *call)
{
	const struct lm_s3_config *c = call->s3->config;
	char url[LM_S3_URL_MAX], hash[96], token[4096];
	const char *headers[LM_S3_HEADERS_MAX + 3] = {hash};
	size_t count = 1;
	if (make_url(call, url, sizeof(url)) < 0)
		return lm_err_set(&call->err, -ENAMETOOLONG, "%s: too long", call->key ? call->key : c->prefix);
	bool put = strcmp(call->method, "PUT") == 0;
	snprintf(hash, sizeof(hash), "x-amz-content-sha256: %s", put ? call->sha256 : empty_sha256);
	if (c->session_token) {
		if ((size_t)snprintf(token, sizeof(token), "x-amz-security-token: %s", c->session_token) >=
			sizeof(token))
			return lm_err_set(&call->err, -EINVAL, "AWS_SESSION_TOKEN is too long");
		headers[count++] = token;
	}
	for (size_t i = 0; i < LM_S3_HEADERS_MAX && call->headers[i]; i++)
		headers[count++] = call->headers[i];
	const struct lm_http_signer signer = {c->region, "s3", c->access_key, c->secret_key};
	const struct lm_http_request request = {
		.url = url,
		.proxy = c->proxy,
		.method = call->method,
		.upload = put ? &call->upload : NULL,
		.signer = &signer,
		.headers = headers,
		.priority = call->priority,
		.stall_timeout_ms = c->timeout_s * 1000,
		.slow_bytes_per_s = SLOW_BYTES_PER_S,
		.ca_file = c->ca_file,
		.on_data = on_data,
		.on_refusal = on_refusal,
		.on_header = on_header,
		.on_done = on_done,
		.arg = call,
	};
	call->tries++;
	int r = lm_http_start(call->s3->http, &request, NULL, &call->err);
	explicit_bzero(token, sizeof(token));
	return r;
}

int lm_s3_start(struct lm_s3 *s3, struct lm_s3_call *call, struct lm_err *err)
{
	call->s3 = s3;
	call->code = 0;
	call->err = (struct lm_err)LM_ERR_INIT;
	call->tries = 0;
	call->reply = LM_BUF(LM_S3_REPLY_MAX);
	call->body_start = call->body ? call->body->len : 0;
	call->fd_start = call->fd >= 0 ? lseek(call->fd, 0, SEEK_CUR) : -1;
	call->received = 0;
	call->etag[0] = '\0';
	call->date_s = call->modified_s = 0;
	int r = try(call);
	if (r < 0 && err)
		*err = call->err;
	return r;
}

/* --- waiting --- */

struct waiter {
	struct lm_lock lock;
	struct lm_cond cond;
	bool done; /* under lock */
};

static void wake(struct lm_s3_call *call)
{
	struct waiter *waiter = call->arg;
	LM_LOCKED(&waiter->lock);
	waiter->done = true;
	lm_cond_signal(&waiter->cond);
}

static void wait_for(struct waiter *waiter)
{
	LM_LOCKED(&waiter->lock);
	while (!waiter->done)
		lm_cond_wait(&waiter->cond, &waiter->lock);
}

int lm_s3_run(struct lm_s3 *s3, struct lm_s3_call *call, struct lm_err *err)
{
	struct waiter waiter = {.done = false};
	lm_lock_init(&waiter.lock);
	lm_cond_init(&waiter.cond);
	call->on_done = wake;
	call->arg = &waiter;
	int r = lm_s3_start(s3, call, err);
	if (r == 0) {
		wait_for(&waiter);
		r = call->code;
		if (r < 0 && err)
			*err = call->err;
	}
	lm_cond_done(&waiter.cond);
	lm_lock_done(&waiter.lock);
	return r;
}
