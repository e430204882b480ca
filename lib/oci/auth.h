/*
 * How a registry is convinced: from its challenge to the header that answers it.
 *
 * Bearer: a token is asked for at the realm: anonymously, with a user's password, or in exchange for an identity token.
 * Basic: the password itself. Secrets are looked up when they are wanted (credentials.h) and not kept.
 */
#ifndef LM_OCI_AUTH_H
#define LM_OCI_AUTH_H

#include "oci/credentials.h"
#include "oci/trust.h"

enum { LM_AUTH_CHALLENGE_MAX = 8 << 10 };

/* The parts of a WWW-Authenticate value that matter; NULL where not given. */
struct lm_auth_challenge { /* strings owned */
	char *scheme;	   /* of the challenge chosen: Bearer before others */
	char *realm, *service, *scope;
};
void lm_auth_challenge_done(struct lm_auth_challenge *challenge);
/* Several challenges may stand in one value. -EPROTO. */
int lm_auth_challenge_parse(const char *value, struct lm_auth_challenge *ret, struct lm_err *err) MUST_CHECK;

/* Who answers, to whom. Strings borrowed. */
struct lm_auth_client {
	struct lm_http *http;
	const char *registry;			  /* HOST[:PORT], as credentials and certificates are kept for it */
	const char *repository;			  /* what is going to be pulled */
	const struct lm_credentials *credentials; /* NULL: anonymous */
	const struct lm_trust *trust;		  /* for the realm, too; NULL: the system's */
	bool plain_registry;			  /* it is spoken to by plain HTTP */
	bool plain_http;			  /* plain HTTP is good enough for secrets, wherever they go */
};

struct lm_authorization {
	char *header;	    /* "Authorization: …" */
	int64_t expires_ms; /* monotonic: when to ask for another; 0: it does not expire */
};
void lm_authorization_done(struct lm_authorization *authorization); /* overwrites it, too */

/* Answers a challenge. -EACCES: it can't be answered, or the credentials are refused, and why. */
int lm_auth_answer(const struct lm_auth_client *client, const char *challenge, struct lm_authorization *ret,
	struct lm_err *err) MUST_CHECK;

#endif
