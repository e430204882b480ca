/* How sources are reached, the same for all of a program. Zeroed but for http is what most want. */
#ifndef LM_OCI_ACCESS_H
#define LM_OCI_ACCESS_H

#include "oci/credentials.h"

#include <stddef.h>
#include <stdint.h>

struct lm_http;

struct lm_mirror {	      /* asked before the registry itself; strings borrowed */
	const char *registry; /* HOST[:PORT] as references name it */
	const char *url;      /* http[s]://HOST[:PORT][/PREFIX]: names are below PREFIX */
};

struct lm_access {	      /* borrowed: outlives sources and their blobs, and does not change meanwhile */
	struct lm_http *http; /* NULL does where there is no docker:// */
	struct lm_credentials credentials;
	bool anonymous;	      /* credentials are not looked for */
	const char *cert_dir; /* instead of the usual folders of certificates; NULL: those */
	bool plain_http;      /* registries are spoken to by plain HTTP, wherever they are, secrets included */
	const struct lm_mirror *mirrors;
	size_t mirror_count;
	unsigned backoff_ms; /* before the second try, doubled for each further one; 0: 250 */
	/* Archives that are compressed as a whole are unpacked to a file without a name. */
	const char *spool_dir;	  /* NULL: $TMPDIR, else /var/tmp */
	uint64_t spool_max_bytes; /* 0: 64 GiB */
	/* What people may want to know: waiting for a registry, unpacking. May be NULL. By the thread that uses the
	 * source or blob. */
	void (*note)(void *arg, const char *text);
	void *note_arg;
};

/* -EINVAL: no mirror that can be used. */
int lm_mirror_check(const struct lm_mirror *mirror, struct lm_err *err) MUST_CHECK;

#endif
