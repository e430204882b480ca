/*
 * What `lamella sync` remembers of a wish list's images: what was published, and what went wrong.
 *
 * In memory a sorted table, in a file as JSON, which is replaced atomically by lm_sync_save(). Only one process at a
 * time has a state open for writing; anybody may read the file.
 *
 * An image is known by repository and published name. Entries stay while they are published, whether or not they are
 * wished for any more: it is by them that --prune knows what is ours to retire.
 *
 * Not thread safe: sync.c keeps its own lock around it, for the web server's thread.
 */
#ifndef LM_TOOLS_SYNC_STATE_H
#define LM_TOOLS_SYNC_STATE_H

#include "oci/image.h"

enum { LM_SYNC_IMAGES_MAX = 1000000, LM_SYNC_FILE_MAX = 1 << 30 };

struct lm_sync_image { /* strings owned; times in seconds since the epoch, 0: never */
	char *repo, *name;
	char *source;		    /* where it comes from */
	char digest[LM_DIGEST_MAX]; /* that the source's tag stood for when it was published; "": never */
	char image[LM_DIGEST_MAX];  /* digest of the image published under this name; "": none is */
	char *terms;		    /* what of it the list asked for when it was published; NULL: not known */
	char **names;		    /* further names it has in the repository, of its platforms */
	size_t name_count;
	int64_t checked_s;   /* the last look that found it as published, or made it so */
	int64_t published_s; /* when what is published last changed */
	char *error;	     /* of the last attempt; NULL: it succeeded */
	int64_t error_s;
	unsigned failures;  /* attempts in a row */
	int64_t next_s;	    /* not tried again before */
	int64_t unwished_s; /* since when the list does not name it; 0: it does */
};

struct lm_sync_repo {
	char *name;	   /* owned */
	char root[80];	   /* hash of the root catalog when we last left it, as text; "": unknown */
	uint64_t revision; /* of then */
	int64_t published_s;
	char *error; /* why nothing could be published or looked at, NULL: it could; owned */
	int64_t error_s;
};

struct lm_sync_state;

/* list: the path of the wish list, by which the file knows whose state it is; NULL: any. lock: to be written; -EBUSY:
 * another process has it. A file that is not there is an empty state; -EEXIST: it is of another list; -EPROTO: damaged.
 */
int lm_sync_open(
	const char *path, const char *list, bool lock, struct lm_sync_state **ret, struct lm_err *err) MUST_CHECK;
void lm_sync_close(struct lm_sync_state *state);
LM_DEFINE_CLEANUP(struct lm_sync_state, lm_sync_close, lm_sync_closep)

/* The file that is meant where none is named: sync.d/LIST.json beside the records of repositories. The caller frees. */
int lm_sync_path(const char *list, char **ret, struct lm_err *err) MUST_CHECK;

/* fn with each state that lies where lm_sync_path() names its file, in their order; with state NULL and why not, where
 * one can't be read. Its first negative result ends this. */
typedef int lm_sync_each_fn(void *arg, const struct lm_sync_state *state, const struct lm_err *why);
int lm_sync_each(lm_sync_each_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;
/* The wish list that it is of. */
const char *lm_sync_list(const struct lm_sync_state *state);

/* Appends the file's text: done apart, so that no lock is held while it is written. */
int lm_sync_format(const struct lm_sync_state *state, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;
int lm_sync_save(const struct lm_sync_state *state, const struct lm_buf *text, struct lm_err *err) MUST_CHECK;
/* Reads what lm_sync_format() wrote into an empty state. -EPROTO; -EEXIST as above. */
int lm_sync_parse(
	const char *text, size_t len, const char *list, struct lm_sync_state *state, struct lm_err *err) MUST_CHECK;
/* An empty one without a file. NULL: no memory. */
struct lm_sync_state *lm_sync_new(const char *list);

/* Pointers are valid until the state is closed or the image dropped. find: NULL when there is none. */
struct lm_sync_image *lm_sync_find(struct lm_sync_state *state, const char *repo, const char *name);
int lm_sync_add(struct lm_sync_state *state, const char *repo, const char *name, struct lm_sync_image **ret,
	struct lm_err *err) MUST_CHECK;
void lm_sync_drop(struct lm_sync_state *state, struct lm_sync_image *image);
/* Sorted by repository and name. */
size_t lm_sync_count(const struct lm_sync_state *state);
struct lm_sync_image *lm_sync_at(const struct lm_sync_state *state, size_t index);

size_t lm_sync_repo_count(const struct lm_sync_state *state);
struct lm_sync_repo *lm_sync_repo_at(const struct lm_sync_state *state, size_t index);
/* Made where it is not there. */
int lm_sync_repo(
	struct lm_sync_state *state, const char *name, struct lm_sync_repo **ret, struct lm_err *err) MUST_CHECK;

/* Notes an attempt that failed: the next one is due after a minute, then two, four ... up to an hour; at once where it
 * was for reasons that pass (transient), a registry that is down for all. Where memory is short the message is lost. */
void lm_sync_failed(struct lm_sync_image *image, int64_t now_s, const char *error, bool transient);
/* The same for a repository; error NULL: it can be reached again. */
void lm_sync_repo_failed(struct lm_sync_repo *repo, int64_t now_s, const char *error);
/* Notes that the image is in the repository as its source has it. */
void lm_sync_succeeded(struct lm_sync_image *image, int64_t now_s);

#endif
