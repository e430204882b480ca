/*
 * The publisher's lock of a repository in a bucket: an object that is only written on conditions, and that expires.
 *
 * The object (LM_S3_LOCK_NAME) tells who holds it. It is made with If-None-Match: *, renewed every minute and taken
 * over with If-Match, so that the server decides between two who try at once. One that was not renewed for five
 * minutes, by the server's clock (Date against Last-Modified), is taken over. A file on this machine, locked with
 * flock(2), stands for it here: it gives the publisher an identity that outlives the process, so whoever has the file
 * locked and finds its own identity in the bucket knows that the holder died, and need not wait.
 *
 * A holder that could not renew in time does not hold it any more (lm_s3_lease_check()), however it got there: network,
 * suspend, a debugger. What is left then is the condition on the manifest itself (storage.h).
 *
 * Servers that ignore conditions are found out when the lock is taken, and a warning is said: then two machines must
 * not publish at once; two processes on one machine still exclude each other.
 */
#ifndef LM_TOOLS_S3_LEASE_H
#define LM_TOOLS_S3_LEASE_H

#include "repo/storage.h"
#include "s3/client.h"

#define LM_S3_LOCK_NAME ".lamella-publish.lock"

struct lm_s3_lease;

/* path: the file on this machine. wait NULL: -EBUSY names the holder. Waiting for a process on this machine is the
 * kernel's; for another machine the object is looked at every few seconds, since a bucket tells nobody. */
int lm_s3_lease_take(struct lm_s3 *s3, const char *path, const struct lm_storage_wait *wait, struct lm_s3_lease **ret,
	struct lm_err *err) MUST_CHECK;
/* -ESTALE: it is not held any more. From any thread. */
int lm_s3_lease_check(struct lm_s3_lease *lease, struct lm_err *err) MUST_CHECK;
/* The server honours conditions. */
bool lm_s3_lease_conditional(const struct lm_s3_lease *lease);

/* Removes the object where it is still ours; the client is needed for that. */
void lm_s3_lease_release(struct lm_s3_lease *lease);
/* After the client is gone, whose engine may call until then. */
void lm_s3_lease_free(struct lm_s3_lease *lease);

#endif
