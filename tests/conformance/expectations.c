/*
 * Where the answers of targets may differ, and why. What stands here is expected, not permitted: another answer fails.
 * "direct" is our own word; through containerd's API ("proxy", "overlayfs") much is answered by its metadata store
 * before any snapshotter is asked.
 */
#include "conformance.h"

#include <string.h>

#define OK (1U << LM_RPC_OK)
#define UNKNOWN (1U << LM_RPC_UNKNOWN)
#define INVALID (1U << LM_RPC_INVALID_ARGUMENT)
#define NOT_FOUND (1U << LM_RPC_NOT_FOUND)
#define EXISTS (1U << LM_RPC_ALREADY_EXISTS)
#define PRECONDITION (1U << LM_RPC_FAILED_PRECONDITION)
#define UNIMPLEMENTED (1U << LM_RPC_UNIMPLEMENTED)
#define INTERNAL (1U << LM_RPC_INTERNAL)

static const struct {
	const char *what;
	unsigned codes[TARGETS]; /* direct, proxy, overlayfs */
} codes[] = {
	/* The metadata store's database has no words for it, and gives it no class. We do. */
	{"an empty key", {INVALID, UNKNOWN, UNKNOWN}},
	{"an empty key to look for", {NOT_FOUND, NOT_FOUND, NOT_FOUND}},
	{"an empty key to update", {NOT_FOUND, INVALID, INVALID}},
	/* Nothing bounds a key there, but pages of the database have an end: such calls end in one way or another. We
	 * bound it, before anything is made. */
	{"a key of 64 KiB", {INVALID, INVALID, OK | UNKNOWN | INTERNAL}},
	{"a name of 64 KiB", {INVALID, INVALID, EXISTS | OK | UNKNOWN | INTERNAL}},
	{"a key of 64 KiB, afterwards", {NOT_FOUND, NOT_FOUND | INTERNAL, OK | NOT_FOUND | INTERNAL}},
	{"a parent of 4 MiB", {NOT_FOUND, NOT_FOUND | INTERNAL, NOT_FOUND | INTERNAL}},
	/* A NUL is a character like others in Go. In C it would cut the text, so we refuse it. */
	{"a key with a NUL", {INVALID, NOT_FOUND, NOT_FOUND}},
	{"a parent with a NUL", {INVALID, NOT_FOUND | UNKNOWN, NOT_FOUND | UNKNOWN}},
	/* In 1.6 no library looks at it; later ones have Go's, for which it is an internal error. */
	{"text that is not UTF-8", {INVALID, NOT_FOUND | INTERNAL, NOT_FOUND | INTERNAL}},
	{"a message that is none", {INVALID, INTERNAL, INTERNAL}},
	{"mounts of a committed one", {PRECONDITION, PRECONDITION, PRECONDITION}},
	/* Nobody forwards it through the API; containerd calls it after its garbage collection. */
	{"cleanup", {OK, UNIMPLEMENTED, UNIMPLEMENTED}},
	/* The API's List has no class for an error, though the words say invalid argument. */
	{"a bad filter", {INVALID, INVALID | UNKNOWN, INVALID | UNKNOWN}},
	/* containerd compiles an expression when it meets the first text, and takes one that does not compile for one
	 * that matches nothing. We refuse it, whether there is anything to compare it with or not. */
	{"a bad expression", {INVALID, OK, OK}},
};

static const struct {
	const char *what;
	long values[TARGETS];
} values[] = {
	/* An Update without an info is the end of containerd 1.7 and 2.1: a nil pointer. */
	{"updates of nothing can be sent", {1, 0, 0}},
	/* Nobody asks for redirect_dir: the kernel's own setting decides, and its default is no. */
	{"rename of a lower directory", {-EXDEV, -EXDEV, -EXDEV}},
	/* containerd's own copies the owner of the parent's root directory, and makes its mode 0755. A container's / is
	 * that of its image with us. */
	{"mode of / above a 0711 one", {0711, 0711, 0755}},
};

unsigned lab_codes(struct lab *lab, const char *what)
{
	for (size_t i = 0; i < ARRAY_LEN(codes); i++)
		if (strcmp(codes[i].what, what) == 0)
			return codes[i].codes[lab->options->target];
	abort(); /* a mistake in the suite */
}

long lab_value(struct lab *lab, const char *what)
{
	for (size_t i = 0; i < ARRAY_LEN(values); i++)
		if (strcmp(values[i].what, what) == 0)
			return values[i].values[lab->options->target];
	abort(); /* a mistake in the suite */
}
