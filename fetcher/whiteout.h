/*
 * Deletions in layers as archives spell them, and so as stock tools store them: files with special names. overlayfs
 * knows character devices 0:0 and an attribute of directories instead.
 *
 *   .wh.NAME           NAME of the layers below is deleted; where the same directory has a NAME of its own, that counts
 *   .wh..wh..opq       everything in this directory of the layers below is deleted
 *   .wh..wh.*          other marks of old archives, which mean nothing
 *   .cvmfscatalog, .cvmfsautocatalog   markers of the publisher
 *
 * Directories never are any of these, nor is a name that says to delete "", "." or "..".
 */
#ifndef LM_FETCHER_WHITEOUT_H
#define LM_FETCHER_WHITEOUT_H

#include <stdint.h>

#define LM_WHITEOUT_PREFIX ".wh."
#define LM_WHITEOUT_OPAQUE ".wh..wh..opq"
#define LM_OPAQUE_XATTR "trusted.overlay.opaque"

enum lm_whiteout {
	LM_WHITEOUT_NONE,   /* shown as it is */
	LM_WHITEOUT_NAME,   /* deletes *ret_deleted, which points into name */
	LM_WHITEOUT_ALL,    /* makes its directory opaque; not shown */
	LM_WHITEOUT_MARKER, /* not shown */
};

enum lm_whiteout lm_whiteout_kind(const char *name, uint32_t mode, const char **ret_deleted);

#endif
