/*
 * Calls to one bucket: signed (AWS Signature Version 4, with the SHA-256 of what is sent, so that a server stores no
 * damaged body), repeated with growing pauses when a server is busy, broken or silent, and told apart by their errors.
 */
#ifndef LM_TOOLS_S3_CLIENT_H
#define LM_TOOLS_S3_CLIENT_H

#include "net/http.h"
#include "s3/answer.h"
#include "s3/config.h"

enum { LM_S3_URL_MAX = 8192, LM_S3_ETAG_MAX = 128, LM_S3_HEADERS_MAX = 4, LM_S3_REPLY_MAX = 16 << 10 };
/* A single PUT takes no more. */
#define LM_S3_OBJECT_MAX ((uint64_t)5 << 30)

struct lm_s3;
/* config: the caller's, for as long. */
int lm_s3_new(const struct lm_s3_config *config, struct lm_s3 **ret, struct lm_err *err) MUST_CHECK;
/* Calls under way end with -ECANCELED. */
void lm_s3_free(struct lm_s3 *s3);
struct lm_http *lm_s3_http(struct lm_s3 *s3); /* for lm_http_call() */

/*
 * One call. Filled in by its owner, who keeps it and what it points to until on_done, the last thing that happens to
 * it.
 *
 * code: 0; -ENOENT (no such object); -ENXIO (no such bucket); -EEXIST (a condition did not hold); -EACCES (refused);
 * -ENOSYS (the server does not know the request); -EMSGSIZE and the like of where the body goes; else -EIO or
 * -ETIMEDOUT after the last try.
 */
struct lm_s3_call {
	const char *method;
	const char *key;			/* below the prefix; NULL: the bucket itself, with a query */
	const char *query;			/* canonical; NULL: none */
	const char *headers[LM_S3_HEADERS_MAX]; /* further ones, NULL-terminated unless full */
	struct lm_http_upload upload;		/* of a PUT, hashed by lm_s3_hash() */
	char sha256[65];
	struct lm_buf *body; /* where the answer's body goes; NULL: to fd, or nowhere when that is -1 */
	int fd;
	enum lm_http_priority priority;
	bool hurried;				  /* given up after the second try */
	void (*on_done)(struct lm_s3_call *call); /* on the engine's thread: must not block */
	void *arg;

	/* the answer */
	int code;
	struct lm_err err;
	unsigned tries, status;
	char etag[LM_S3_ETAG_MAX];  /* "" when none came; with its quotes */
	int64_t date_s, modified_s; /* Date and Last-Modified by the server's clock; 0: none came */
	struct lm_s3_error said;

	/* the client's */
	struct lm_s3 *s3;
	size_t body_start;
	off_t fd_start;
	uint64_t received;
	struct lm_buf reply;
};
/* A GET without an answer's place. */
#define LM_S3_CALL(m, k) ((struct lm_s3_call){.method = (m), .key = (k), .fd = -1, .upload.fd = -1})

/* Of what is sent. */
int lm_s3_hash(struct lm_s3_call *call, struct lm_err *err) MUST_CHECK;
/* on_done follows only after 0. */
int lm_s3_start(struct lm_s3 *s3, struct lm_s3_call *call, struct lm_err *err) MUST_CHECK;
/* Waits for it; on_done and arg are used for that. Not on the engine's thread. */
int lm_s3_run(struct lm_s3 *s3, struct lm_s3_call *call, struct lm_err *err) MUST_CHECK;

/* For unit tests: pauses between tries are this many times shorter. */
void lm_s3_hurry(struct lm_s3 *s3, unsigned factor);

#endif
