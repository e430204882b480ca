/*
 * What is done to a tree of files, as a list of steps, and the comparison of two trees, by treediff, in everything that
 * a file system tells about them. Each step gives what it touches and the directory above times of its own, so that two
 * trees with the same steps are the same to the nanosecond.
 */
#ifndef LM_CONFORMANCE_TREES_H
#define LM_CONFORMANCE_TREES_H

#include "base/err.h"

#include <sys/types.h>

enum act { END, FILE_OF, DIRECTORY, REMOVE, RENAME, LINK, SYMLINK, OWNER, MODE, ATTRIBUTE, DEVICE, PIPE, APPEND };

struct step {
	enum act act;
	const char *path; /* relative */
	const char *text; /* content, new path, target of a link, NAME=VALUE of an attribute */
	unsigned mode;
	uid_t uid;
	gid_t gid;
};

int trees_apply(const char *root, const struct step *steps, struct lm_err *err) MUST_CHECK;

/* -EBUSY with the first differences in err. treediff: the program; scratch: a file that may be written. */
int trees_compare(const char *treediff, const char *expected, const char *found, const char *scratch,
	struct lm_err *err) MUST_CHECK;

#endif
