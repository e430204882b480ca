/*
 * What the files behind fuse.h share: a request, and who may answer it.
 */
#ifndef LM_FETCHER_FUSE_INTERNAL_H
#define LM_FETCHER_FUSE_INTERNAL_H

#define FUSE_USE_VERSION 314

#include "fetcher/fuse.h"

#include <fuse_lowlevel.h>
#include <stdatomic.h>

struct lm_reader;

/* A request. run answers it and returns 0, or returns LM_NEED or an error without having answered. */
struct lm_op {
	struct lm_fuse *fuse;
	fuse_req_t req;
	uint64_t request; /* lm_session_request() */
	int (*run)(struct lm_op *op, struct lm_object_ref *ret_need, struct lm_err *err);
	enum lm_request_kind kind;
	int64_t begin_ns;
	fuse_ino_t ino;
	const char *name; /* or NULL */
	size_t size;
	off_t offset;
	bool plus;		  /* readdirplus */
	uint8_t famines;	  /* how often it waited for descriptors */
	struct lm_reader *reader; /* of a read */
};

/* Counts the request as answered, now; to be called by whoever answers without the two below. */
void lm_op_done(const struct lm_op *op);

/* Both answer the request and log, within limits, what is EIO; for want of descriptors it is run again later. */
void lm_op_fail(struct lm_op *op, int code, const struct lm_err *err);
/* An object that can't be had is EIO whatever the reason, "not there" included: the file exists. */
void lm_op_fail_object(struct lm_op *op, const struct lm_object_ref *object, int code, const struct lm_err *err);

/*
 * Who waits offers the request to an interrupt, and claims it back before answering: false when it was answered
 * meanwhile, with EINTR, since its caller is about to end (caller.h). After true, no interrupt touches it any more. The
 * wait must live until the claim. leave is called by the interrupt, before it answers, possibly more than once.
 */
struct lm_wait {
	void (*leave)(void *arg);
	void *arg;
	_Atomic(bool) answered;
};
void lm_op_offer_interrupt(fuse_req_t req, struct lm_wait *wait);
bool lm_op_claim(fuse_req_t req, struct lm_wait *wait);

#endif
