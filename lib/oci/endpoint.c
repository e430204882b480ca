#include "oci/endpoint.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/str.h"
#include "oci/auth.h"
#include "oci/secret.h"

#include <stdatomic.h>
#include <stdio.h>
#include <strings.h>
#include <time.h>

enum {
	STALL_MS = 30000,
	BLOB_WINDOW = 4 << 20,
	TRIES_MAX = 4,	/* after refusals that may pass */
	BREAKS_MAX = 3, /* tries when connections break */
	BACKOFF_MS = 250,
	RETRY_AFTER_MAX_S = 120,
};

static const char accept_manifests[] = "Accept: application/vnd.oci.image.index.v1+json, "
				       "application/vnd.oci.image.manifest.v1+json, "
				       "application/vnd.docker.distribution.manifest.list.v2+json, "
				       "application/vnd.docker.distribution.manifest.v2+json";

struct lm_endpoint {
	atomic_uint refs;
	/* constant after new */
	const struct lm_access *access;
	char *host;	  /* as certificates and credentials are kept for it */
	char *base;	  /* http[s]://HOST[:PORT] of the machine that answers */
	char *repository; /* as it is called there */
	struct lm_trust trust;
	bool plain, mirror;

	/* under lock */
	struct lm_lock lock;
	struct lm_authorization authorization; /* header NULL: none so far */
	unsigned generation;		       /* of the authorization */
	char *challenge;		       /* that it answers */
};

/* --- endpoints --- */

int lm_mirror_check(const struct lm_mirror *mirror, struct lm_err *err)
{
	const char *url = mirror->url;
	size_t scheme = lm_str_starts(url, "https://") ? 8 : lm_str_starts(url, "http://") ? 7 : 0;
	if (scheme == 0 || strpbrk(url, "@?#\\ ") || strcspn(url + scheme, "/") == 0 || !*mirror->registry)
		return lm_err_set(err, -EINVAL, "a mirror is HOST[:PORT]=http[s]://HOST[:PORT][/PREFIX], not %s=%s",
			mirror->registry, url);
	return 0;
}

static int set_mirror(struct lm_endpoint *e, const struct lm_mirror *mirror, const char *repository, struct lm_err *err)
{
	int r = lm_mirror_check(mirror, err);
	if (r < 0)
		return r;
	e->plain = lm_str_starts(mirror->url, "http://");
	const char *host = mirror->url + (e->plain ? 7 : 8);
	size_t host_len = strcspn(host, "/"), prefix_len;
	const char *prefix = host + host_len + strspn(host + host_len, "/");
	prefix_len = strlen(prefix);
	while (prefix_len && prefix[prefix_len - 1] == '/')
		prefix_len--;
	e->mirror = true;
	e->host = lm_str_ndup(host, host_len);
	e->base = lm_str_ndup(mirror->url, (size_t)(host - mirror->url) + host_len);
	e->repository = lm_str_printf("%.*s%s%s", (int)prefix_len, prefix, prefix_len ? "/" : "", repository);
	return 0;
}

static void set_registry(struct lm_endpoint *e, const char *registry, const char *repository)
{
	/* The name people use is not that of the machine which answers. */
	const char *machine = strcmp(registry, "docker.io") == 0 ? "registry-1.docker.io" : registry;
	e->plain = e->access->plain_http || (lm_host_is_loopback(registry) && !e->trust.ca_pem);
	e->host = strdup(registry);
	e->base = lm_str_printf("http%s://%s", e->plain ? "" : "s", machine);
	e->repository = strdup(repository);
}

/* A mirror's certificates stand under the mirror's own name. */
static int load_trust(struct lm_endpoint *e, const char *registry, const struct lm_mirror *mirror, struct lm_err *err)
{
	if (!mirror)
		return lm_trust_load(e->access->cert_dir, registry, &e->trust, err);
	const char *host = strstr(mirror->url, "://");
	CLEANUP(lm_freep) char *name = host ? lm_str_ndup(host + 3, strcspn(host + 3, "/")) : NULL;
	return name ? lm_trust_load(e->access->cert_dir, name, &e->trust, err) : lm_err_oom(err);
}

int lm_endpoint_new(const struct lm_access *access, const char *registry, const char *repository,
	const struct lm_mirror *mirror, struct lm_endpoint **ret, struct lm_err *err)
{
	struct lm_endpoint *e = calloc(1, sizeof(*e));
	if (!e)
		return lm_err_oom(err);
	CLEANUP(lm_endpoint_unrefp) struct lm_endpoint *guard = e;
	lm_lock_init(&e->lock);
	e->refs = 1;
	e->access = access;
	int r = mirror ? set_mirror(e, mirror, repository, err) : 0;
	if (r == 0)
		r = load_trust(e, registry, mirror, err);
	if (r < 0)
		return r;
	if (!mirror)
		set_registry(e, registry, repository);
	if (!e->host || !e->base || !e->repository)
		return lm_err_oom(err);
	*ret = STEAL(guard);
	return 0;
}

struct lm_endpoint *lm_endpoint_ref(struct lm_endpoint *e)
{
	e->refs++;
	return e;
}

void lm_endpoint_unref(struct lm_endpoint *e)
{
	if (!e || --e->refs > 0)
		return;
	lm_authorization_done(&e->authorization);
	lm_trust_done(&e->trust);
	lm_lock_done(&e->lock);
	free(e->challenge);
	free(e->host);
	free(e->base);
	free(e->repository);
	free(e);
}

const char *lm_endpoint_host(const struct lm_endpoint *e)
{
	return e->host;
}

/* --- authorization --- */

/* Two threads that meet the same refusal both ask; the later answer stays. */
static int answer_challenge(struct lm_endpoint *e, const char *challenge, struct lm_err *err)
{
	const struct lm_auth_client client = {
		.http = e->access->http,
		.registry = e->host,
		.repository = e->repository,
		.credentials = e->access->anonymous ? NULL : &e->access->credentials,
		.trust = &e->trust,
		.plain_registry = e->plain,
		.plain_http = e->access->plain_http,
	};
	struct lm_authorization authorization = {0};
	CLEANUP(lm_freep) char *copy = strdup(challenge);
	int r = copy ? lm_auth_answer(&client, challenge, &authorization, err) : lm_err_oom(err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s wants to know who asks", e->host);
	LM_LOCKED(&e->lock);
	lm_authorization_done(&e->authorization);
	e->authorization = authorization;
	e->generation++;
	free(e->challenge);
	e->challenge = STEAL(copy);
	return 0;
}

/* A copy of the header in use (NULL: none), and of the challenge where it is too old. */
static int take_authorization(
	struct lm_endpoint *e, char **ret_header, unsigned *ret_generation, char **ret_stale, struct lm_err *err)
{
	LM_LOCKED(&e->lock);
	const struct lm_authorization *a = &e->authorization;
	*ret_generation = e->generation;
	*ret_header = a->header ? strdup(a->header) : NULL;
	bool stale = a->expires_ms && lm_now_ms() >= a->expires_ms;
	*ret_stale = stale ? strdup(e->challenge) : NULL;
	return (a->header && !*ret_header) || (stale && !*ret_stale) ? lm_err_oom(err) : 0;
}

/* As above, but fresh. */
static int get_authorization(struct lm_endpoint *e, char **ret_header, unsigned *ret_generation, struct lm_err *err)
{
	CLEANUP(lm_freep) char *stale = NULL, *ignored = NULL;
	int r = take_authorization(e, ret_header, ret_generation, &stale, err);
	if (r < 0 || !stale)
		return r;
	lm_secret_freep(ret_header);
	r = answer_challenge(e, stale, err);
	return r < 0 ? r : take_authorization(e, ret_header, ret_generation, &ignored, err);
}

/* After a 401: another thread may have renewed it already. */
static int renew_authorization(struct lm_endpoint *e, unsigned generation, const char *challenge, struct lm_err *err)
{
	lm_lock_take(&e->lock);
	bool renewed = e->generation != generation;
	lm_lock_release(&e->lock);
	return renewed ? 0 : answer_challenge(e, challenge, err);
}

/* --- requests --- */

/* What is kept of an answer's head. Written by the engine's thread until the request is over. */
struct answer {
	unsigned status, retry_after_s;
	char *media_type, *challenge, *digest, *link; /* owned; NULL when not said */
};

static void answer_done(struct answer *answer)
{
	free(answer->media_type);
	free(answer->challenge);
	free(answer->digest);
	free(answer->link);
}

static void note_status(void *arg, unsigned status)
{
	((struct answer *)arg)->status = status;
}

/* Seconds or a date. */
static unsigned parse_retry_after(const char *value)
{
	uint64_t seconds = 0;
	struct tm tm = {0};
	if (lm_str_u64(value, strlen(value), &seconds) == 0)
		return (unsigned)LM_MIN(seconds, (uint64_t)UINT32_MAX);
	if (!strptime(value, "%a, %d %b %Y %H:%M:%S GMT", &tm))
		return 0;
	int64_t left = timegm(&tm) - lm_wall_s();
	return left > 0 ? (unsigned)LM_MIN(left, (int64_t)UINT32_MAX) : 0;
}

static void note_header(void *arg, const char *name, const char *value)
{
	struct answer *answer = arg;
	char **kept = strcmp(name, "content-type") == 0		   ? &answer->media_type
		      : strcmp(name, "docker-content-digest") == 0 ? &answer->digest
		      : strcmp(name, "link") == 0		   ? &answer->link
								   : NULL;
	if (kept) {
		free(*kept);
		*kept = strdup(value);
	} else if (strcmp(name, "www-authenticate") == 0) {
		/* Several lines are one list. */
		char *list = answer->challenge ? lm_str_printf("%s, %s", answer->challenge, value) : strdup(value);
		free(answer->challenge);
		answer->challenge = list;
	} else if (strcmp(name, "retry-after") == 0) {
		answer->retry_after_s = parse_retry_after(value);
	}
}

static void say(const struct lm_endpoint *e, const char *text)
{
	if (e->access->note)
		e->access->note(e->access->note_arg, text);
}

struct pause {
	struct lm_lock lock;
	struct lm_cond over;
	bool done; /* under lock */
};

static void end_pause(void *arg)
{
	struct pause *pause = arg;
	LM_LOCKED(&pause->lock);
	pause->done = true;
	lm_cond_signal(&pause->over);
}

/* The engine ends the wait, at once when it is stopped. */
static void sleep_ms(struct lm_http *http, int64_t ms)
{
	struct pause pause = {.done = false};
	lm_lock_init(&pause.lock);
	lm_cond_init(&pause.over);
	if (lm_http_call(http, (unsigned)LM_MIN(ms, (int64_t)INT32_MAX), end_pause, &pause) == 0) {
		LM_LOCKED(&pause.lock);
		while (!pause.done)
			lm_cond_wait(&pause.over, &pause.lock);
	}
	lm_cond_done(&pause.over);
	lm_lock_done(&pause.lock);
}

static void wait_ms(const struct lm_endpoint *e, int64_t ms, const struct answer *answer)
{
	char text[256];
	if (ms >= 1000) {
		snprintf(text, sizeof(text), "%.100s answers %u, asking again in %lld s", e->host, answer->status,
			(long long)(ms / 1000));
		say(e, text);
	}
	sleep_ms(e->access->http, ms);
}

/* Whether another try may go better; if so, it is time for it when this returns. */
static bool try_again(const struct lm_endpoint *e, int code, const struct answer *answer, unsigned tries)
{
	unsigned backoff_ms = e->access->backoff_ms ? e->access->backoff_ms : BACKOFF_MS;
	unsigned status = answer->status;
	bool refused = code == -EIO && (status == 429 || (status >= 500 && status != 501 && status != 505));
	bool broken = (code == -EIO || code == -ETIMEDOUT) && !refused && (status == 0 || status / 100 == 2);
	/* For whatever a mirror does not give, there is the next. */
	if (e->mirror || !(refused || broken) || tries >= (refused ? TRIES_MAX : BREAKS_MAX) ||
		answer->retry_after_s > RETRY_AFTER_MAX_S)
		return false;
	wait_ms(e, LM_MAX((int64_t)answer->retry_after_s * 1000, (int64_t)backoff_ms << (tries - 1)), answer);
	return true;
}

/* One request: sends authorization (NULL: none), leaves what came in arg and answer. */
typedef int attempt_fn(
	struct lm_endpoint *e, const char *authorization, void *arg, struct answer *answer, struct lm_err *err);

static int explain(const struct lm_endpoint *e, int code, const struct answer *answer, struct lm_err *err)
{
	if (answer->status == 429)
		return lm_err_set(err, -EAGAIN, "%s limits how much may be asked%s (HTTP status 429)", e->host,
			answer->retry_after_s > RETRY_AFTER_MAX_S ? ", and wants a long pause" : "");
	return code;
}

static int persist(struct lm_endpoint *e, attempt_fn *attempt, void *arg, struct answer *answer, struct lm_err *err)
{
	bool answered = false;
	for (unsigned tries = 1;;) {
		CLEANUP(lm_secret_freep) char *authorization = NULL;
		unsigned generation;
		int r = get_authorization(e, &authorization, &generation, err);
		if (r < 0)
			return r;
		answer_done(answer);
		*answer = (struct answer){0};
		r = attempt(e, authorization, arg, answer, err);
		if (r == 0)
			return 0;
		if (answer->status == 401 && answer->challenge && !answered) {
			answered = true;
			r = renew_authorization(e, generation, answer->challenge, err);
			if (r < 0)
				return r;
		} else if (!try_again(e, r, answer, tries++)) {
			return explain(e, r, answer, err);
		}
	}
}

static void fill_request(const struct lm_endpoint *e, struct answer *answer, struct lm_http_request *request)
{
	request->stall_timeout_ms = STALL_MS;
	request->follow_redirects = true;
	request->on_answer = note_status;
	request->on_header = note_header;
	request->arg = answer;
	lm_trust_apply(&e->trust, request);
}

static char *url_of(const struct lm_endpoint *e, const char *kind, const char *reference)
{
	return lm_str_printf("%s/v2/%s/%s/%s", e->base, e->repository, kind, reference);
}

struct get {
	const char *url, *method; /* NULL: GET */
	struct lm_buf *body;
};

static int attempt_get(
	struct lm_endpoint *e, const char *authorization, void *arg, struct answer *answer, struct lm_err *err)
{
	struct get *get = arg;
	const char *lines[] = {accept_manifests, authorization, NULL};
	struct lm_http_request request = {.url = get->url, .method = get->method, .headers = lines};
	fill_request(e, answer, &request);
	return lm_http_get(e->access->http, &request, get->body, NULL, err);
}

int lm_endpoint_manifest(struct lm_endpoint *e, const char *reference, struct lm_document *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *url = url_of(e, "manifests", reference);
	CLEANUP(answer_done) struct answer answer = {0};
	if (!url)
		return lm_err_oom(err);
	struct get get = {.url = url, .body = &ret->text};
	int r = persist(e, attempt_get, &get, &answer, err);
	if (r == -ENOENT)
		return lm_err_set(err, r, "%s has no %s:%s", e->host, e->repository, reference);
	if (r == 0) {
		free(ret->media_type);
		ret->media_type = STEAL(answer.media_type);
	}
	return r;
}

int lm_endpoint_digest(struct lm_endpoint *e, const char *reference, char ret[LM_DIGEST_MAX], struct lm_err *err)
{
	CLEANUP(lm_freep) char *url = url_of(e, "manifests", reference);
	CLEANUP(answer_done) struct answer answer = {0};
	CLEANUP(lm_buf_done) struct lm_buf nothing = LM_BUF(0);
	if (!url)
		return lm_err_oom(err);
	struct get get = {.url = url, .method = "HEAD", .body = &nothing};
	int r = persist(e, attempt_get, &get, &answer, err);
	if (r == -ENOENT)
		return lm_err_set(err, r, "%s has no %s:%s", e->host, e->repository, reference);
	if (r < 0)
		return r;
	bool said = answer.digest && lm_digest_valid(answer.digest);
	snprintf(ret, LM_DIGEST_MAX, "%s", said ? answer.digest : "");
	return 0;
}

/*
 * The Link header of a page (RFC 8288): <TARGET>; rel="next". A registry behind a proxy may not know by which scheme it
 * is spoken to, so of a whole URL only the host is compared; the credentials stay with the server they are for.
 */
static int next_page(const struct lm_endpoint *e, const char *link, char **ret, struct lm_err *err)
{
	const char *end = link[0] == '<' ? strchr(link, '>') : NULL;
	if (!end || !strstr(end, "next"))
		return 0;
	const char *at = link + 1, *host = strstr(e->base, "://") + 3;
	size_t scheme = lm_str_starts(at, "https://") ? 8 : lm_str_starts(at, "http://") ? 7 : 0;
	if (scheme) {
		at += scheme;
		size_t len = strcspn(at, "/>");
		if (len != strlen(host) || strncasecmp(at, host, len) != 0)
			return lm_err_set(err, -EPROTO, "%s: the list of tags goes on elsewhere, at %.*s", e->host,
				(int)LM_MIN(len, (size_t)200), at);
		at += len;
	}
	if (*at != '/' && *at != '?')
		return lm_err_set(err, -EPROTO, "%s: the list of tags goes on nowhere", e->host);
	*ret = *at == '?' ? lm_str_printf("/v2/%s/tags/list%.*s", e->repository, (int)(end - at), at)
			  : lm_str_ndup(at, (size_t)(end - at));
	return *ret ? 0 : lm_err_oom(err);
}

int lm_endpoint_tags(struct lm_endpoint *e, const char *page, unsigned page_max, struct lm_buf *ret, char **ret_next,
	struct lm_err *err)
{
	CLEANUP(answer_done) struct answer answer = {0};
	CLEANUP(lm_freep)
	char *url = page ? lm_str_printf("%s%s", e->base, page)
			 : lm_str_printf("%s/v2/%s/tags/list?n=%u", e->base, e->repository, page_max);
	if (!url)
		return lm_err_oom(err);
	*ret_next = NULL;
	struct get get = {.url = url, .body = ret};
	int r = persist(e, attempt_get, &get, &answer, err);
	if (r == -ENOENT)
		return lm_err_set(err, r, "%s has no %s", e->host, e->repository);
	return r < 0 || !answer.link ? r : next_page(e, answer.link, ret_next, err);
}

/* Headers are told while the body is read, so there is a place for them as long as the stream lives. */
struct lm_endpoint_stream {
	struct lm_endpoint *endpoint;
	char *url;
	uint64_t offset;
	struct lm_http_stream *stream;
	struct answer answer;
};

static int attempt_stream(
	struct lm_endpoint *e, const char *authorization, void *arg, struct answer *answer, struct lm_err *err)
{
	struct lm_endpoint_stream *s = arg;
	char range[48];
	const char *lines[3] = {0};
	size_t count = 0;
	if (authorization)
		lines[count++] = authorization;
	if (s->offset > 0) {
		snprintf(range, sizeof(range), "Range: bytes=%llu-", (unsigned long long)s->offset);
		lines[count++] = range;
	}
	struct lm_http_request request = {.url = s->url, .headers = lines};
	fill_request(e, answer, &request);
	return lm_http_stream_open(e->access->http, &request, BLOB_WINDOW, &s->stream, err);
}

int lm_endpoint_blob(struct lm_endpoint *e, const char *digest, uint64_t offset, struct lm_endpoint_stream **ret,
	bool *ret_partial, struct lm_err *err)
{
	struct lm_endpoint_stream *s = calloc(1, sizeof(*s));
	if (!s)
		return lm_err_oom(err);
	CLEANUP(lm_endpoint_closep) struct lm_endpoint_stream *guard = s;
	s->endpoint = lm_endpoint_ref(e);
	s->offset = offset;
	s->url = url_of(e, "blobs", digest);
	if (!s->url)
		return lm_err_oom(err);
	int r = persist(e, attempt_stream, s, &s->answer, err);
	if (r == -ENOENT)
		return lm_err_set(err, r, "%s has no blob %s of %s", e->host, digest, e->repository);
	if (r < 0)
		return r;
	*ret_partial = s->answer.status == 206;
	*ret = STEAL(guard);
	return 0;
}

ssize_t lm_endpoint_read(struct lm_endpoint_stream *s, void *ret, size_t len, struct lm_err *err)
{
	return lm_http_stream_read(s->stream, ret, len, err);
}

void lm_endpoint_close(struct lm_endpoint_stream *s)
{
	if (!s)
		return;
	lm_http_stream_close(s->stream);
	answer_done(&s->answer);
	lm_endpoint_unref(s->endpoint);
	free(s->url);
	free(s);
}
