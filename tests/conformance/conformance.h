/*
 * snapshotter-conformance: is this a snapshotter as containerd knows them?
 *
 *   snapshotter-conformance --socket SOCKET --target TARGET --snapshotter NAME --treediff PROGRAM --work DIR
 *                           [--case REGEX] [--clients N] [--layer DIGEST --chain DIGEST]
 *   snapshotter-conformance --list
 *
 * TARGET is how the snapshotter is reached, which decides where an answer may legitimately differ (expectations.c has
 * the table, with the reasons):
 *
 *   direct      our snapshotter's own socket: what containerd says to a proxy plugin
 *   proxy       our snapshotter as a proxy plugin, through containerd's API
 *   overlayfs   containerd's own snapshotter, through the same API: the reference
 *
 * One line for each case, "ok NAME" or "FAILED NAME: why"; exit code 0: all well, 1: a case failed, 2: wrong usage.
 * --case: only those whose name has the regular expression in it. --clients: how many call at once where several do
 * (100). --layer: digest of a layer that our snapshotter's fetcher serves, and its chain id, for the race of equal
 * references; without them all answers are those of a layer that nobody serves. DIR has to be on a file system that
 * overlayfs takes as an upper one, and NAME configured in containerd. Needs root.
 *
 * Every case works in a namespace of its own (direct: under a plugin name of its own), and at its end removes all that
 * is there, and finds it empty. Snapshots have the label containerd.io/gc.root, or containerd's garbage collection
 * would take those that nothing refers to. Answers are mounted, written to and compared with a plain directory that
 * went through the same steps.
 *
 * A case is a function in one of the files cases_*.c, named in the table at its end. It returns 0, or fails by CHECK,
 * EXPECT and TRY; what it leaves mounted or made is cleaned up behind it.
 */
#ifndef LM_CONFORMANCE_CONFORMANCE_H
#define LM_CONFORMANCE_CONFORMANCE_H

#include "client.h"
#include "mounting.h"
#include "trees.h"

enum target { DIRECT, PROXY, OVERLAYFS, TARGETS };

struct options {
	const char *socket, *snapshotter, *treediff, *work, *layer, *chain;
	enum target target;
	unsigned clients;
};

/* What a case has. A thread of a case has a copy of its own. */
struct lab {
	const struct options *options;
	struct remote remote;
	const char *dir;   /* empty in the beginning */
	struct lm_err err; /* why the case failed */
};

struct test {
	const char *name;
	int (*run)(struct lab *lab);
};
extern const struct test cases_state[], cases_labels[], cases_trees[], cases_limits[], cases_many[];

#define TRY(call)                    \
	do {                         \
		int try_ = (call);   \
		if (try_ < 0)        \
			return try_; \
	} while (0)

/* The test fails with these words, unless it holds. */
#define CHECK(lab, holds, ...)                                                   \
	do {                                                                     \
		if (!(holds))                                                    \
			return lab_fail((lab), __func__, __LINE__, __VA_ARGS__); \
	} while (0)
int lab_fail(struct lab *lab, const char *where, int line, const char *fmt, ...) PRINTF_LIKE(4, 5);

/* The call has to end with this status, or as expectations.c has it for this target under that name. */
#define EXPECT(lab, code, call) TRY(lab_expect((lab), 1U << (code), (call), #call, __func__, __LINE__))
#define EXPECT_AS(lab, what, call) TRY(lab_expect((lab), lab_codes((lab), (what)), (call), #call, __func__, __LINE__))
int lab_expect(struct lab *lab, unsigned codes, enum lm_rpc_code code, const char *call, const char *where, int line);
/* A set of status codes, as bits. */
unsigned lab_codes(struct lab *lab, const char *what);
/* A number that differs by target, in the same table. */
long lab_value(struct lab *lab, const char *what);

#define GC_ROOT "containerd.io/gc.root"
#define ROOTED ((const char *const[]){GC_ROOT, "conformance", NULL})
#define LABELS(...) ((const char *const[]){GC_ROOT, "conformance", __VA_ARGS__, NULL})
#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Short forms, with the label that they all need. */
enum lm_rpc_code prepare(struct lab *lab, const char *key, const char *parent);
enum lm_rpc_code view(struct lab *lab, const char *key, const char *parent);
enum lm_rpc_code commit(struct lab *lab, const char *name, const char *key);
int committed(struct lab *lab, const char *name, const char *parent) MUST_CHECK; /* Prepare and Commit, nothing in it */
int check_info(struct lab *lab, const char *key, V1(Kind) kind, const char *parent) MUST_CHECK;

/* A directory of the case, made; the caller frees. NULL: not made, and the reason in lab. */
char *lab_directory(struct lab *lab, const char *name);
/* Makes a snapshot, mounts it at lab_directory(key), takes the steps in it, unmounts. */
int lab_write(struct lab *lab, const char *key, const char *parent, const struct step *steps) MUST_CHECK;
/* The tree of a snapshot that is active or a view. */
int lab_compare(struct lab *lab, const char *key, const char *expected) MUST_CHECK;

/* Removes everything, children first, and checks that nothing is left. */
int lab_empty(struct lab *lab) MUST_CHECK;

#endif
