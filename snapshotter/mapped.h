/*
 * Directories whose owners are mapped, for containers in user namespaces: clones of mounts (mount_setattr(2),
 * MOUNT_ATTR_IDMAP) at DIR/mapped.0, DIR/mapped.1 and so on, DIR being the snapshot's directory (layout.h). Nothing is
 * copied, and nothing's owner changed.
 *
 * containerd could make such clones itself, of the options uidmap= and gidmap=; but newer versions make one of the
 * directory that all lower directories have in common, and our links lead out of that.
 *
 * Where a file system can't be mapped (FUSE: before Linux 6.12, or a mount with extended attributes) the answer is
 * -EBUSY with words. Any thread may call.
 */
#ifndef LM_SNAPSHOTTER_MAPPED_H
#define LM_SNAPSHOTTER_MAPPED_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LM_MAPPED_PREFIX "mapped."
#define LM_MAPPED_RANGES_MAX 340 /* what the kernel takes */

struct lm_mapped_range {
	uint32_t inside, host, length;
};
struct lm_mapped_ranges {
	struct lm_mapped_range items[LM_MAPPED_RANGES_MAX];
	size_t count;
};

/* "INSIDE:HOST:LENGTH[,...]", as clients write it in labels. -EINVAL: it says something else, or nothing. */
int lm_mapped_parse(const char *text, struct lm_mapped_ranges *ret, struct lm_err *err) MUST_CHECK;

/* The host's id for an id inside; false: there is none. */
bool lm_mapped_host(const struct lm_mapped_ranges *ranges, uint32_t inside, uint32_t *ret);

/* Can directories on this directory's file system be mapped here? -EBUSY: no; other errors: can't be said. */
int lm_mapped_probe(const char *dir, struct lm_err *err) MUST_CHECK;

/*
 * Mounts each source at its number in dir, unless that is there already. Callers that name the same dir wait for each
 * other. What of another source was there before is detached; what uses it keeps it.
 */
int lm_mapped_mount(const char *dir, const char *const *sources, size_t count, const struct lm_mapped_ranges *uids,
	const struct lm_mapped_ranges *gids, struct lm_err *err) MUST_CHECK;

#endif
