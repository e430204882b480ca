/*
 * How a registry is convinced: from its challenge to the header that answers it.
 *
 * Bearer: a token is asked for at the realm, anonymously. Basic wants a user's password, which is not given here.
 */
#ifndef LM_OCI_AUTH_H
#define LM_OCI_AUTH_H

#include "net/http.h"

enum { LM_AUTH_CHALLENGE_MAX = 8 << 10 };

/* The parts of a WWW-Authenticate value that matter; NULL where not given. */
struct lm_auth_challenge { /* strings owned */
	char *scheme;	   /* of the challenge chosen: Bearer before others */
	char *realm, *service, *scope;
};
void lm_auth_challenge_done(struct lm_auth_challenge *challenge);
/* Several challenges may stand in one value. -EPROTO. */
int lm_auth_challenge_parse(const char *value, struct lm_auth_challenge *ret, struct lm_err *err) MUST_CHECK;

/*
 * Answers a challenge for pulling from a repository: *ret_header is an "Authorization: …" line that the caller frees.
 * -EACCES: it can't be answered, and why. insecure: plain http is good enough for the realm.
 */
int lm_auth_answer(struct lm_http *http, const char *challenge, const char *repository, bool insecure,
	char **ret_header, struct lm_err *err) MUST_CHECK;

#endif
