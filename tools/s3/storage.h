/*
 * A repository in an S3 bucket as a struct lm_storage, at s3://BUCKET/PREFIX (config.h says how it is reached).
 *
 * OBJECTS. One PUT each, so they appear whole or not at all; 5 GiB at most (-EFBIG). What is content-addressed and
 * small is sent behind the caller's back, as many at once as there may be connections and 64 MiB at most: put() returns
 * when the bytes are copied, sync() when all are stored. A failure is told by whatever is called next and by sync().
 * Removals go the same way. Everything else (manifest, whitelist, reflog, aliases, lists) waits for what is under way
 * first; questions about one object wait for that object. Aliases are copies, made by the server.
 *
 * CACHES. Objects say that they may be kept for three days, what changes for a minute, as cvmfs_server's do.
 *
 * ONE PUBLISHER. lock() takes a lease in the bucket (lease.h). Nothing but content-addressed objects is written, and
 * nothing removed, once it is lost (-ESTALE). The manifest is further put on the condition that it is still the one
 * that was read (If-Match, or If-None-Match: * where there was none): -EBUSY when another publisher was faster.
 */
#ifndef LM_TOOLS_S3_STORAGE_H
#define LM_TOOLS_S3_STORAGE_H

#include "repo/storage.h"

/* Nothing is asked for yet. config_file as in lm_s3_config_load(). */
int lm_storage_s3_open(
	const char *url, const char *config_file, struct lm_storage **ret, struct lm_err *err) MUST_CHECK;

/* For unit tests: pauses between tries are this many times shorter. */
void lm_storage_s3_hurry(struct lm_storage *storage, unsigned factor);

#endif
