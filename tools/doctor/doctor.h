/*
 * `lamella doctor`: looks at everything that a node needs for starting containers lazily, and says what is wrong and
 * what to do about it.
 *
 * Whatever can be found is a row of lm_doctor_rows, by whose name programs, the man page and the tests know it. What
 * was looked at and is fine is said, too ("saw"), so that silence can't be taken for health. Nothing on the node is
 * changed: what has to be tried is tried in a name space of its own, or by files without a name.
 *
 * Order: lm_doctor_gather() asks the programs; then areas are looked at one by one, in any order, and each may use what
 * was gathered. Then the results are printed. One thread calls all of it, and nothing of it takes for ever: programs
 * and servers are waited for for a time, and directories, which may be on anything, are looked at by lm_doctor_apart().
 * Mountpoints of repositories are not touched. Where memory is short, that is noted in the results, which are then
 * incomplete.
 */
#ifndef LM_TOOLS_DOCTOR_H
#define LM_TOOLS_DOCTOR_H

#include "base/buf.h"
#include "fetcher.h"
#include "snapshotter.h"

#include <jansson.h>
#include <limits.h>

enum lm_doctor_area {
	LM_DOCTOR_KERNEL,
	LM_DOCTOR_SETTINGS,
	LM_DOCTOR_NETWORK,
	LM_DOCTOR_FETCHER,
	LM_DOCTOR_SNAPSHOTTER,
	LM_DOCTOR_CONTAINERD,
	LM_DOCTOR_DISK,
	LM_DOCTOR_AREAS
};
extern const char *const lm_doctor_area_names[LM_DOCTOR_AREAS]; /* "kernel" */

/* A problem keeps images from being lazy, or from being served; a warning will be one, or costs much; a note says what
 * this node does without. */
enum lm_doctor_level { LM_DOCTOR_PROBLEM, LM_DOCTOR_WARNING, LM_DOCTOR_NOTE, LM_DOCTOR_LEVELS };
extern const char *const lm_doctor_level_names[LM_DOCTOR_LEVELS]; /* "problem" */

enum lm_doctor_kind {
	LM_DOCTOR_NOT_ROOT,
	LM_DOCTOR_KERNEL_OLD,
	LM_DOCTOR_KERNEL_FEATURES,
	LM_DOCTOR_FUSE,
	LM_DOCTOR_OVERLAY,
	LM_DOCTOR_EROFS,
	LM_DOCTOR_LOOP,
	LM_DOCTOR_FETCHER_MISSING,
	LM_DOCTOR_SETTINGS_WRONG,
	LM_DOCTOR_SETTINGS_DOUBTFUL,
	LM_DOCTOR_UNREACHABLE,
	LM_DOCTOR_SERVER_FAILS,
	LM_DOCTOR_PROXY_FAILS,
	LM_DOCTOR_PROXY_PASSWORD,
	LM_DOCTOR_SERVER_BEHIND,
	LM_DOCTOR_UNTRUSTED,
	LM_DOCTOR_WHITELIST_EXPIRED,
	LM_DOCTOR_WHITELIST_EXPIRES,
	LM_DOCTOR_CLOCK,
	LM_DOCTOR_FETCHER_DOWN,
	LM_DOCTOR_FETCHER_PROBLEM,
	LM_DOCTOR_FETCHER_DEGRADED,
	LM_DOCTOR_FETCHER_CRASHES,
	LM_DOCTOR_FETCHER_VERSION,
	LM_DOCTOR_FETCHER_SOCKET,
	LM_DOCTOR_SNAPSHOTTER_DOWN,
	LM_DOCTOR_SNAPSHOTTER_PROBLEM,
	LM_DOCTOR_SNAPSHOTTER_DEGRADED,
	LM_DOCTOR_SNAPSHOTTER_FETCHER,
	LM_DOCTOR_SNAPSHOTTER_VERSION,
	LM_DOCTOR_SNAPSHOTTER_SOCKET,
	LM_DOCTOR_TREES,
	LM_DOCTOR_OWNERS,
	LM_DOCTOR_CONTAINERD_DOWN,
	LM_DOCTOR_CONTAINERD_OLD,
	LM_DOCTOR_CONTAINERD_CONFIG,
	LM_DOCTOR_PLUGIN_ABSENT,
	LM_DOCTOR_PLUGIN_ADDRESS,
	LM_DOCTOR_PLUGIN_NOT_LOADED,
	LM_DOCTOR_CRI_SNAPSHOTTER,
	LM_DOCTOR_ANNOTATIONS,
	LM_DOCTOR_DISCARDED,
	LM_DOCTOR_REBASE,
	LM_DOCTOR_REMAP,
	LM_DOCTOR_IMAGE_FILESYSTEM,
	LM_DOCTOR_UNPACK_CONFIG,
	LM_DOCTOR_UNWRITABLE,
	LM_DOCTOR_DISK_LOW,
	LM_DOCTOR_INODES_LOW,
	LM_DOCTOR_QUOTA,
	LM_DOCTOR_VOLATILE,
	LM_DOCTOR_KINDS
};

struct lm_doctor_row {
	const char *name; /* stable, for programs: "clock" */
	enum lm_doctor_area area;
	enum lm_doctor_level level;
	const char *sentence; /* what is wrong */
	const char *advice;   /* what to do about it */
};
extern const struct lm_doctor_row lm_doctor_rows[LM_DOCTOR_KINDS];

struct lm_doctor_options {	/* NULL: not given */
	const char *config[16]; /* files for lamella-fetcher --config, which takes as many */
	size_t config_count;
	const char *socket, *snapshotter, *containerd;
};

/* What programs say. Of one that does not answer there is nothing, and why. */
struct lm_doctor_gathered {
	json_t *settings;      /* lamella-fetcher --check-config --json; NULL: none */
	bool settings_refused; /* by the program, which says why */
	struct lm_err no_settings;
	const char *socket; /* of the fetcher: as given, or as the settings say; "": they say that there is none */
	Lamella__Fetcher__V1__StatusResponse *fetcher;
	struct lm_err no_fetcher;
	const char *snapshotter_socket;
	Lamella__Snapshotter__V1__StatusResponse *snapshotter;
	struct lm_err no_snapshotter;
};

struct lm_doctor {
	struct lm_doctor_options options;
	struct lm_doctor_gathered gathered;
	json_t *saw, *findings; /* arrays of objects, in order */
	size_t levels[LM_DOCTOR_LEVELS];
	bool incomplete; /* for want of memory */
};

int lm_doctor_init(struct lm_doctor *doctor, const struct lm_doctor_options *options, struct lm_err *err) MUST_CHECK;
void lm_doctor_done(struct lm_doctor *doctor);
void lm_doctor_gather(struct lm_doctor *doctor);
void lm_doctor_look(struct lm_doctor *doctor, enum lm_doctor_area area);

/* For the areas. The text says where and what exactly; it may hold foreign bytes. */
void lm_doctor_found(struct lm_doctor *doctor, enum lm_doctor_kind kind, const char *fmt, ...) PRINTF_LIKE(3, 4);
void lm_doctor_saw(struct lm_doctor *doctor, enum lm_doctor_area area, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Who should have answered has not: found, or, where that is only since the socket is root's, "not looked at". */
void lm_doctor_no_answer(struct lm_doctor *doctor, enum lm_doctor_kind kind, const struct lm_err *why);

void lm_doctor_kernel(struct lm_doctor *doctor);
void lm_doctor_settings(struct lm_doctor *doctor);
void lm_doctor_network(struct lm_doctor *doctor);
void lm_doctor_fetcher(struct lm_doctor *doctor);
void lm_doctor_snapshotter(struct lm_doctor *doctor);
void lm_doctor_containerd(struct lm_doctor *doctor);
void lm_doctor_disk(struct lm_doctor *doctor);

/* The value of a setting of the node, or of a repository (a member of "repositories"), "" where it has none; NULL where
 * there are no settings. */
const char *lm_doctor_setting(const struct lm_doctor *doctor, const char *key);
const char *lm_doctor_setting_of(const json_t *repository, const char *key);
/* Of a number: 0 where it is none. */
uint64_t lm_doctor_number_of(const json_t *repository, const char *key);

/* A text of an object, "" where there is none. */
const char *lm_doctor_text_of(const json_t *object, const char *key);

/* The snapshotter says that layers come from mounts of others: there may be no fetcher, nor settings for one. */
bool lm_doctor_without_fetcher(const struct lm_doctor *doctor);

/* The snapshotter's directory: as it says, or the default. */
const char *lm_doctor_root(const struct lm_doctor *doctor);
/* path, or the lowest directory above it that is there. */
int lm_doctor_existing(const char *path, char ret[PATH_MAX], struct lm_err *err) MUST_CHECK;

/*
 * Runs fn in a process of its own, which has no descriptors and hears no signals, on a copy of the arg (of that size),
 * which then takes the place of ours. -ETIMEDOUT: it does not come to its end, as happens to who touches a file system
 * whose server is gone. It is left behind then, since such a process can't be waited for; arg is as it was. Others: for
 * want of memory or processes.
 */
int lm_doctor_apart(void (*fn)(void *arg), void *arg, size_t size, struct lm_err *err) MUST_CHECK;

/* What is pure, for tests too. */

/* The first two numbers of a release: "6.1.0-18-amd64" is 6 * 1000 + 1. 0: that is none. */
unsigned lm_doctor_version(const char *release);

/* The clocks of servers, in seconds ahead of ours: how far ours is behind, by the nearest of them; 0 where that is less
 * than what counts. */
int64_t lm_doctor_clock_behind(const int64_t *ahead_s, size_t count);

enum { LM_DOCTOR_CLOCK_S = 120, LM_DOCTOR_EXPIRY_S = 7 * 86400 };

/* Printing. */
void lm_doctor_print(const struct lm_doctor *doctor);
int lm_doctor_print_json(const struct lm_doctor *doctor); /* returns the exit code: LM_EXIT_OK, or it was said */
void lm_doctor_list(void);

#endif
