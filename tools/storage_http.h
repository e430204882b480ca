/*
 * A repository on web servers as a struct lm_storage that can only be read: has, get and get_file; the rest is -EROFS,
 * list -ENOTSUP, since web servers do not tell what they hold. Servers, proxies and retries are net/origin.h's.
 *
 * Objects (data/…) are hashed as they arrive: a damaged copy is asked for once more past the caches, then from the next
 * server, and is -EBADMSG when it is damaged everywhere. All else is whatever the server says; its reader verifies it.
 * A file is at most LM_STORAGE_HTTP_MAX bytes (-EMSGSIZE). Calls may come from several threads at once, and block.
 */
#ifndef LM_TOOLS_STORAGE_HTTP_H
#define LM_TOOLS_STORAGE_HTTP_H

#include "repo/storage.h"

#define LM_STORAGE_HTTP_MAX ((uint64_t)64 << 30)

/*
 * servers: base URLs of one repository, separated by ";" (@fqrn@ stands for its name); proxies as in CVMFS_HTTP_PROXY,
 * NULL: DIRECT. Nothing is asked for yet. -EINVAL: the lists are wrong.
 */
int lm_storage_http_open(const char *servers, const char *proxies, const char *fqrn, struct lm_storage **ret,
	struct lm_err *err) MUST_CHECK;

#endif
