/*
 * Merged trees of whole chains of layers: EROFS images of names and attributes, mounted at DIR/tree.DEVICE.INODE, DIR
 * being the directory of the chain's uppermost snapshot (layout.h), DEVICE and INODE those of the image's file.
 *
 * An overlay over such a mount and a data-only layer (the kernel's Documentation/filesystems/overlayfs.rst) finds names
 * and attributes in the kernel, and only the content of files where the layers are served.
 *
 * Mounts outlive this process, and are what they were after its next start. Where the images' file system is another
 * one than before, its device number is, too, so that the old mount is not taken for the new. The loop devices vanish
 * with their mounts. Any thread may call.
 */
#ifndef LM_SNAPSHOTTER_TREES_H
#define LM_SNAPSHOTTER_TREES_H

#include "base/err.h"

#include <stddef.h>

/*
 * Bytes that the kernel reads ahead in files of a tree, and around a page that a mapping misses. Without a word a loop
 * device has 128 KiB, or in Linux 6.18 what an earlier user of it has set; with more than 256 KiB page faults fetch too
 * many pieces that nobody wants. Figures are in benchmarks/README.md.
 */
enum { LM_TREES_AHEAD = 256 << 10 };

#define LM_TREES_PREFIX "tree."

/* Do overlays over a tree and a data-only layer work here, without options that change what is written to an upper
 * directory? Asked by a small one made in `dir`. -ENOTSUP: no; other errors: can't be said. */
int lm_trees_probe(const char *dir, struct lm_err *err) MUST_CHECK;

/*
 * Mounts the image, unless it is mounted; *ret its mountpoint. Reads of the image, which its file system may have to
 * fetch: waits as long as that does. Callers that name the same directory wait for each other.
 */
int lm_trees_mount(const char *dir, const char *image, char **ret, struct lm_err *err) MUST_CHECK;

/*
 * Writes down, in DIR/layers, what the tree of that directory is of: a line with the path of its image, then one with
 * the digest of each layer. An overlay over a tree does not name its layers, and the fetcher, which keeps what running
 * containers use, looks there (fetcher/cache_layers.h).
 */
int lm_trees_note(
	const char *dir, const char *image, const char *const *digests, size_t count, struct lm_err *err) MUST_CHECK;

#endif
