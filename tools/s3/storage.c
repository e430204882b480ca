#include "s3/storage.h"

#include "base/file.h"
#include "base/lock.h"
#include "base/str.h"
#include "repo/manifest.h"
#include "s3/client.h"
#include "s3/lease.h"
#include "source.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/stat.h>

#define BEHIND_BYTES_MAX ((uint64_t)64 << 20)

enum {
	SMALL_MAX = 8 << 20, /* larger ones are sent while the caller waits */
	PAGE_MAX = 8 << 20,  /* a thousand keys, escaped */
	ABSENT_COUNT = 128,  /* of objects asked for last, and not there */
	QUERY_MAX = 3 * (LM_S3_KEY_MAX + LM_S3_TOKEN_MAX) + 128,
};

/* Objects never change; the signed files do at every revision. As cvmfs_server has them. */
static const char keep_long[] = "Cache-Control: max-age=259200", keep_short[] = "Cache-Control: max-age=61";

/* An object on its way in or out, behind the caller's back. */
struct job {
	TAILQ_ENTRY(job) entry;
	struct s3_storage *storage;
	struct lm_s3_call call;
	char *path;
	void *data;
	size_t len;
	bool peeking;
};
TAILQ_HEAD(jobs, job);

struct s3_storage {
	struct lm_storage storage;
	/* constant after open */
	struct lm_s3_config config;
	struct lm_s3 *s3;
	char *scratch, *lock_path;
	char acl[128]; /* header, or "" */
	/* the publisher's thread only */
	struct lm_s3_lease *lease;
	/* under lock */
	struct lm_lock lock;
	struct lm_cond progress;
	struct jobs jobs;
	unsigned job_count;
	uint64_t job_bytes;
	struct lm_err failure; /* of a job, until sync() */
	char *absent[ABSENT_COUNT];
	unsigned absent_at;
	bool manifest_known; /* and then its tag, "" for none */
	char manifest_etag[LM_S3_ETAG_MAX];
};

static struct s3_storage *of(struct lm_storage *storage)
{
	return (struct s3_storage *)storage;
}

static bool content_addressed(const char *path)
{
	return lm_str_starts(path, "data/");
}

/* Paths are signed and listed as they are. */
static int check_path(const char *path, struct lm_err *err)
{
	size_t len = strlen(path);
	size_t good = strspn(path, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/");
	if (len == 0 || good != len || path[0] == '/' || path[len - 1] == '/' || strstr(path, "..") ||
		strstr(path, "//") || len > LM_S3_KEY_MAX / 2)
		return lm_err_set(err, -EINVAL, "storage: not a path inside a repository: %s", path);
	return 0;
}

/* --- jobs --- */

static void job_free(struct job *job)
{
	if (!job)
		return;
	free(job->path);
	free(job->data);
	free(job);
}
LM_DEFINE_CLEANUP(struct job, job_free, job_freep)

/* lock held */
static struct job *find_job(struct s3_storage *s, const char *path)
{
	lm_lock_assert(&s->lock);
	struct job *job;
	TAILQ_FOREACH(job, &s->jobs, entry)
	if (strcmp(job->path, path) == 0)
		break;
	return job;
}

static void await_path(struct s3_storage *s, const char *path)
{
	LM_LOCKED(&s->lock);
	while (find_job(s, path))
		lm_cond_wait(&s->progress, &s->lock);
}

/* lock held */
static int failure(const struct s3_storage *s, struct lm_err *err)
{
	return s->failure.code < 0 ? lm_err_set(err, s->failure.code, "%s", s->failure.msg) : 0;
}

static int settle(struct s3_storage *s, struct lm_err *err)
{
	LM_LOCKED(&s->lock);
	while (s->job_count > 0)
		lm_cond_wait(&s->progress, &s->lock);
	return failure(s, err);
}

static void finish(struct job *job)
{
	struct s3_storage *s = job->storage;
	lm_lock_take(&s->lock);
	TAILQ_REMOVE(&s->jobs, job, entry);
	s->job_count--;
	s->job_bytes -= job->len;
	if (job->call.code < 0 && s->failure.code == 0)
		lm_err_set(&s->failure, job->call.code, "%s", lm_err_text(&job->call.err));
	lm_cond_broadcast(&s->progress);
	lm_lock_release(&s->lock);
	job_free(job);
}

static void on_job(struct lm_s3_call *call);

static void start_job(struct job *job, const char *method)
{
	job->call.method = method;
	job->call.on_done = on_job;
	job->call.arg = job;
	int r = lm_s3_start(job->storage->s3, &job->call, NULL);
	if (r < 0) {
		job->call.code = r;
		finish(job);
	}
}

static void on_job(struct lm_s3_call *call)
{
	struct job *job = call->arg;
	bool was_peek = job->peeking;
	job->peeking = false;
	if (was_peek && call->code == -ENOENT)
		start_job(job, "PUT");
	else
		finish(job);
}

/* True: the job waits for its turn no longer, it is among the others. False: there is one for that path already. */
static int admit(struct s3_storage *s, struct job *job, bool *ret_known, struct lm_err *err)
{
	LM_LOCKED(&s->lock);
	for (;;) {
		int r = failure(s, err);
		if (r < 0)
			return r;
		const struct job *other = find_job(s, job->path);
		*ret_known = other && other->data && job->data;
		if (*ret_known)
			return 0;
		if (!other && (s->job_count == 0 || (s->job_count < 2 * s->config.connections &&
							    s->job_bytes + job->len <= BEHIND_BYTES_MAX)))
			break;
		lm_cond_wait(&s->progress, &s->lock);
	}
	TAILQ_INSERT_TAIL(&s->jobs, job, entry);
	s->job_count++;
	s->job_bytes += job->len;
	return 0;
}

static void remember_absent(struct s3_storage *s, const char *path)
{
	char *copy = strdup(path);
	LM_LOCKED(&s->lock);
	free(s->absent[s->absent_at]);
	s->absent[s->absent_at] = copy;
	s->absent_at = (s->absent_at + 1) % ABSENT_COUNT;
}

static bool known_absent(struct s3_storage *s, const char *path)
{
	LM_LOCKED(&s->lock);
	for (unsigned i = 0; i < ABSENT_COUNT; i++)
		if (s->absent[i] && strcmp(s->absent[i], path) == 0) {
			free(STEAL(s->absent[i]));
			return true;
		}
	return false;
}

static struct job *job_new(struct s3_storage *s, const char *path)
{
	struct job *job = calloc(1, sizeof(*job));
	if (!job)
		return NULL;
	job->storage = s;
	job->path = strdup(path);
	job->call = LM_S3_CALL(NULL, job->path);
	job->call.priority = LM_HTTP_PREFETCH;
	if (!job->path)
		job_freep(&job);
	return job;
}

/* Headers of an object; returns how many. */
static size_t set_headers(const struct s3_storage *s, const char *path, struct lm_s3_call *call)
{
	size_t count = 0;
	call->headers[count++] = content_addressed(path) ? keep_long : keep_short;
	if (s->acl[0])
		call->headers[count++] = s->acl;
	return count;
}

/* Takes data over, in any case. */
static int put_behind(struct s3_storage *s, const char *path, void *data, size_t len, struct lm_err *err)
{
	CLEANUP(job_freep) struct job *job = job_new(s, path);
	bool known;
	if (!job) {
		free(data);
		return lm_err_oom(err);
	}
	job->data = data;
	job->len = len;
	job->call.upload = (struct lm_http_upload){data, len, -1};
	set_headers(s, path, &job->call);
	int r = lm_s3_hash(&job->call, err);
	if (r == 0)
		r = admit(s, job, &known, err);
	if (r < 0 || known)
		return r;
	job->peeking = s->config.peek && !known_absent(s, path);
	bool peek = job->peeking;
	start_job(STEAL(job), peek ? "HEAD" : "PUT");
	return 0;
}

/* --- questions --- */

static void note_manifest(struct s3_storage *s, const char *path, const char *etag)
{
	if (strcmp(path, LM_MANIFEST_NAME) != 0)
		return;
	LM_LOCKED(&s->lock);
	s->manifest_known = true;
	snprintf(s->manifest_etag, sizeof(s->manifest_etag), "%s", etag);
}

static void note_absent(struct s3_storage *s, const char *path)
{
	note_manifest(s, path, "");
	if (content_addressed(path))
		remember_absent(s, path);
}

static int s3_get_to(struct s3_storage *s, const char *path, struct lm_s3_call *call, struct lm_err *err)
{
	int r = check_path(path, err);
	if (r < 0)
		return r;
	await_path(s, path);
	r = lm_s3_run(s->s3, call, err);
	if (r == 0)
		note_manifest(s, path, call->etag);
	else if (r == -ENOENT)
		note_manifest(s, path, "");
	return r;
}

static int s3_get(struct lm_storage *storage, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	struct lm_s3_call call = LM_S3_CALL("GET", path);
	call.body = ret;
	return s3_get_to(of(storage), path, &call, err);
}

static int s3_get_file(struct lm_storage *storage, const char *path, int fd, struct lm_err *err)
{
	struct lm_s3_call call = LM_S3_CALL("GET", path);
	call.fd = fd;
	return s3_get_to(of(storage), path, &call, err);
}

/* The answer to HEAD has no body that could say why: it is asked for once more. */
static int ask_why(struct s3_storage *s, const char *path, int code, struct lm_err *err)
{
	struct lm_s3_call call = LM_S3_CALL("GET", path);
	struct lm_err why = LM_ERR_INIT;
	call.headers[0] = "Range: bytes=0-0";
	int r = lm_s3_run(s->s3, &call, &why);
	return r < 0 ? lm_err_set(err, code, "%s", why.msg) : code;
}

static int s3_has(struct lm_storage *storage, const char *path, struct lm_err *err)
{
	struct s3_storage *s = of(storage);
	struct lm_s3_call call = LM_S3_CALL("HEAD", path);
	int r = check_path(path, err);
	if (r < 0)
		return r;
	await_path(s, path);
	r = lm_s3_run(s->s3, &call, err);
	if (r == -ENOENT) {
		note_absent(s, path);
		return 0;
	}
	if (r < 0)
		return call.status / 100 == 4 ? ask_why(s, path, r, err) : r;
	note_manifest(s, path, call.etag);
	return 1;
}

/* --- putting --- */

static int check_lease(struct s3_storage *s, struct lm_err *err)
{
	return s->lease ? lm_s3_lease_check(s->lease, err) : 0;
}

static bool conditional(const struct s3_storage *s)
{
	return !s->lease || lm_s3_lease_conditional(s->lease);
}

/* The answer to an earlier try may have been lost: then what is there is ours. */
static bool is_there(struct s3_storage *s, const char *path, const struct lm_http_upload *upload)
{
	CLEANUP(lm_buf_done) struct lm_buf there = LM_BUF(LM_MANIFEST_MAX);
	struct lm_s3_call call = LM_S3_CALL("GET", path);
	call.body = &there;
	if (!upload->data || lm_s3_run(s->s3, &call, NULL) < 0 || there.len != upload->len ||
		memcmp(there.data, upload->data, there.len) != 0)
		return false;
	note_manifest(s, path, call.etag);
	return true;
}

static int put_manifest(struct s3_storage *s, struct lm_s3_call *call, size_t headers, struct lm_err *err)
{
	char condition[LM_S3_ETAG_MAX + 16] = "If-None-Match: *";
	lm_lock_take(&s->lock);
	bool known = s->manifest_known;
	if (s->manifest_etag[0])
		snprintf(condition, sizeof(condition), "If-Match: %s", s->manifest_etag);
	lm_lock_release(&s->lock);
	if (known && conditional(s))
		call->headers[headers] = condition;
	int r = lm_s3_run(s->s3, call, err);
	if (r == -ENOSYS && call->headers[headers]) {
		call->headers[headers] = NULL;
		r = lm_s3_run(s->s3, call, err);
	}
	if (r == 0)
		note_manifest(s, call->key, call->etag);
	if ((r == -EEXIST || (r == -ENOENT && call->headers[headers])) && is_there(s, call->key, &call->upload))
		return 0;
	return r == -EEXIST ? lm_err_set(err, -EBUSY,
				      "another publisher was faster: the manifest has changed since "
				      "it was read")
			    : r;
}

/* While the caller waits. */
static int put_now(struct s3_storage *s, const char *path, const struct lm_http_upload *upload, struct lm_err *err)
{
	struct lm_s3_call call = LM_S3_CALL("PUT", path);
	bool object = content_addressed(path);
	if (upload->len > LM_S3_OBJECT_MAX)
		return lm_err_set(err, -EFBIG, "%s: S3 takes no more than 5 GiB at once", path);
	call.upload = *upload;
	size_t headers = set_headers(s, path, &call);
	int r = object ? 0 : settle(s, err);
	if (r == 0 && !object)
		r = check_lease(s, err);
	if (r == 0 && object && s->config.peek && !known_absent(s, path))
		r = s3_has(&s->storage, path, err);
	if (r == 0)
		r = lm_s3_hash(&call, err);
	else
		return LM_MIN(r, 0);
	if (r < 0)
		return r;
	return strcmp(path, LM_MANIFEST_NAME) == 0 ? put_manifest(s, &call, headers, err)
						   : lm_s3_run(s->s3, &call, err);
}

static int s3_put(struct lm_storage *storage, const char *path, const void *data, size_t len, struct lm_err *err)
{
	int r = check_path(path, err);
	if (r < 0)
		return r;
	if (!content_addressed(path) || len > SMALL_MAX)
		return put_now(of(storage), path, &(struct lm_http_upload){data, len, -1}, err);
	void *copy = malloc(LM_MAX(len, (size_t)1));
	if (!copy)
		return lm_err_oom(err);
	if (len > 0)
		memcpy(copy, data, len);
	return put_behind(of(storage), path, copy, len, err);
}

static int s3_put_file(struct lm_storage *storage, const char *path, int fd, struct lm_err *err)
{
	struct stat st;
	int r = check_path(path, err);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return lm_err_sys(err, -errno, "%s", path);
	size_t len = (size_t)st.st_size;
	if (!content_addressed(path) || len > SMALL_MAX)
		return put_now(of(storage), path, &(struct lm_http_upload){NULL, len, fd}, err);
	CLEANUP(lm_freep) void *copy = malloc(LM_MAX(len, (size_t)1));
	if (!copy)
		return lm_err_oom(err);
	r = lm_pread_all(fd, copy, len, 0, err);
	return r < 0 ? lm_err_prefix(err, r, "%s", path) : put_behind(of(storage), path, STEAL(copy), len, err);
}

/* --- lists --- */

static int append_escaped(struct lm_buf *query, const char *text)
{
	int r = 0;
	for (const unsigned char *c = (const unsigned char *)text; *c && r == 0; c++)
		r = (*c | 32) >= 'a' && (*c | 32) <= 'z' && *c < 128 ? lm_buf_append(query, c, 1)
		    : strchr("0123456789-._~", *c)		     ? lm_buf_append(query, c, 1)
								     : lm_buf_printf(query, "%%%02X", *c);
	return r;
}

struct lister {
	size_t skip; /* of each key: the prefix */
	const char *prefix;
	lm_storage_list_fn *fn;
	void *arg;
};

static int list_object(void *arg, const char *key, uint64_t size)
{
	const struct lister *l = arg;
	if (strncmp(key, l->prefix, l->skip) != 0)
		return 0;
	const char *name = key + l->skip;
	return *name && !strchr(name, '/') ? l->fn(l->arg, name, size) : 0;
}

static int list_page(struct s3_storage *s, const struct lister *l, struct lm_s3_page *page, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf query = LM_BUF(QUERY_MAX);
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(PAGE_MAX);
	struct lm_s3_call call = LM_S3_CALL("GET", NULL);
	int r = page->more ? lm_buf_str(&query, "continuation-token=") : 0;
	if (r == 0 && page->more)
		r = append_escaped(&query, page->token);
	if (r == 0)
		r = lm_buf_printf(&query, "%sdelimiter=%%2F&list-type=2&prefix=", page->more ? "&" : "");
	if (r == 0)
		r = append_escaped(&query, l->prefix);
	if (r < 0)
		return lm_err_set(err, r, "listing %s", l->prefix);
	call.query = lm_buf_cstr(&query);
	call.body = &text;
	r = lm_s3_run(s->s3, &call, err);
	if (r == 0)
		r = lm_s3_page_parse(lm_buf_cstr(&text), text.len, list_object, (void *)l, page, err);
	return r < 0 ? lm_err_prefix(err, r, "listing s3://%s/%s", s->config.bucket, l->prefix) : r;
}

static int s3_list(struct lm_storage *storage, const char *dir, lm_storage_list_fn *fn, void *arg, struct lm_err *err)
{
	struct s3_storage *s = of(storage);
	struct lm_s3_page page = {0};
	int r = *dir ? check_path(dir, err) : 0;
	if (r == 0)
		r = settle(s, err);
	if (r < 0)
		return r;
	CLEANUP(lm_freep)
	char *prefix = lm_str_printf("%s%s%s%s", s->config.prefix, *s->config.prefix ? "/" : "", dir, *dir ? "/" : "");
	if (!prefix)
		return lm_err_oom(err);
	const struct lister lister = {strlen(prefix), prefix, fn, arg};
	do
		r = list_page(s, &lister, &page, err);
	while (r == 0 && page.more);
	return r;
}

/* --- removing, second names --- */

static int s3_remove(struct lm_storage *storage, const char *path, struct lm_err *err)
{
	struct s3_storage *s = of(storage);
	bool known;
	int r = check_path(path, err);
	if (r == 0)
		r = check_lease(s, err);
	if (r < 0)
		return r;
	if (strcmp(path, LM_MANIFEST_NAME) == 0)
		note_manifest(s, path, "");
	if (!content_addressed(path)) {
		struct lm_s3_call call = LM_S3_CALL("DELETE", path);
		r = settle(s, err);
		if (r == 0)
			r = lm_s3_run(s->s3, &call, err);
		return r == -ENOENT ? 0 : r;
	}
	CLEANUP(job_freep) struct job *job = job_new(s, path);
	if (!job)
		return lm_err_oom(err);
	r = admit(s, job, &known, err);
	if (r == 0)
		start_job(STEAL(job), "DELETE");
	return r;
}

static int s3_alias(struct lm_storage *storage, const char *path, const char *target, struct lm_err *err)
{
	struct s3_storage *s = of(storage);
	struct lm_s3_call call = LM_S3_CALL("PUT", path);
	char source[LM_S3_URL_MAX];
	int r = check_path(path, err);
	if (r == 0)
		r = check_path(target, err);
	if (r == 0 && strchr(path, '/'))
		r = lm_err_set(err, -EINVAL, "storage: alias %s is not in the top directory", path);
	if (r == 0)
		r = settle(s, err);
	if (r == 0)
		r = check_lease(s, err);
	if (r < 0)
		return r;
	snprintf(source, sizeof(source), "x-amz-copy-source: /%s%s%s/%s", s->config.bucket,
		*s->config.prefix ? "/" : "", s->config.prefix, target);
	call.upload = (struct lm_http_upload){"", 0, -1};
	call.headers[set_headers(s, path, &call)] = source;
	r = lm_s3_hash(&call, err);
	return r < 0 ? r : lm_s3_run(s->s3, &call, err);
}

static int s3_sync(struct lm_storage *storage, struct lm_err *err)
{
	struct s3_storage *s = of(storage);
	int r = settle(s, err);
	LM_LOCKED(&s->lock);
	s->failure = (struct lm_err)LM_ERR_INIT;
	return r;
}

/* --- publisher, life --- */

static const char *s3_scratch(struct lm_storage *storage)
{
	return of(storage)->scratch;
}

static int s3_lock(struct lm_storage *storage, const struct lm_storage_wait *wait, struct lm_err *err)
{
	struct s3_storage *s = of(storage);
	if (s->lease)
		return 0;
	int r = lm_s3_lease_take(s->s3, s->lock_path, wait, &s->lease, err);
	if (r < 0)
		return lm_err_prefix(err, r, "lock of s3://%s/%s", s->config.bucket, s->config.prefix);
	LM_LOCKED(&s->lock);
	s->manifest_known = false; /* what was read before may have changed */
	return 0;
}

static void s3_free(struct lm_storage *storage)
{
	struct s3_storage *s = of(storage);
	if (s->lease)
		lm_s3_lease_release(s->lease);
	lm_s3_free(s->s3); /* ends the jobs */
	lm_s3_lease_free(s->lease);
	for (unsigned i = 0; i < ABSENT_COUNT; i++)
		free(s->absent[i]);
	free(s->scratch);
	free(s->lock_path);
	lm_cond_done(&s->progress);
	lm_lock_done(&s->lock);
	lm_s3_config_done(&s->config);
	free(s);
}

static const struct lm_storage_ops s3_ops = {
	.has = s3_has,
	.get = s3_get,
	.get_file = s3_get_file,
	.put = s3_put,
	.put_file = s3_put_file,
	.list = s3_list,
	.remove = s3_remove,
	.alias = s3_alias,
	.sync = s3_sync,
	.scratch = s3_scratch,
	.lock = s3_lock,
	.free = s3_free,
};

/* A directory that is ours alone, whoever else may write where it is. */
static int make_private(const char *path, struct lm_err *err)
{
	struct stat st;
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return lm_err_sys(err, -errno, "mkdir %s", path);
	if (lstat(path, &st) < 0)
		return lm_err_sys(err, -errno, "%s", path);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
		return lm_err_set(err, -EPERM, "%s is not a directory of this user's alone", path);
	return 0;
}

/* TMP/lamella-UID/HASH for temporary files, HASH.lock beside it; both by the repository's address. */
static int make_scratch(struct s3_storage *s, struct lm_err *err)
{
	CLEANUP(lm_freep) char *address = lm_str_printf("%s/%s", s->config.base_url, s->config.prefix);
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/lamella-%u", lm_tmp_dir(), (unsigned)geteuid());
	struct lm_hash hash;
	if (!address || !dir)
		return lm_err_oom(err);
	int r = lm_hash_data(LM_HASH_SHA1, address, strlen(address), &hash, err);
	if (r == 0)
		r = make_private(dir, err);
	if (r < 0)
		return r;
	s->scratch = lm_str_printf("%s/s3-%s", dir, lm_hash_text(&hash).s);
	s->lock_path = lm_str_printf("%s/s3-%s.lock", dir, lm_hash_text(&hash).s);
	return s->scratch && s->lock_path ? make_private(s->scratch, err) : lm_err_oom(err);
}

int lm_storage_s3_open(const char *url, const char *config_file, struct lm_storage **ret, struct lm_err *err)
{
	struct s3_storage *s = calloc(1, sizeof(*s));
	if (!s)
		return lm_err_oom(err);
	s->storage.ops = &s3_ops;
	TAILQ_INIT(&s->jobs);
	lm_lock_init(&s->lock);
	lm_cond_init(&s->progress);
	CLEANUP(lm_storage_freep) struct lm_storage *storage = &s->storage;
	int r = lm_s3_config_load(url, config_file, &s->config, err);
	if (r == 0)
		r = make_scratch(s, err);
	if (r == 0)
		r = lm_s3_new(&s->config, &s->s3, err);
	if (r < 0)
		return r;
	if (s->config.acl)
		snprintf(s->acl, sizeof(s->acl), "x-amz-acl: %s", s->config.acl);
	*ret = STEAL(storage);
	return 0;
}

void lm_storage_s3_hurry(struct lm_storage *storage, unsigned factor)
{
	lm_s3_hurry(of(storage)->s3, factor);
}
