/*
 * Configuration: files of KEY=VALUE lines, as CVMFS has them in /etc/cvmfs, read without a shell.
 *
 * Accepted per line: blanks, a # comment, optional `export` or `readonly`, KEY=VALUE where VALUE is bare,
 * 'single' or "double" quoted (in pieces, as a shell would join them); $NAME and ${NAME} of keys set earlier are put in
 * outside single quotes, also ${NAME:-WORD}, ${NAME:=WORD} and ${NAME:+WORD}; a line goes on after a backslash at its
 * end. `if CONDITION; then`, `elif`, `else`, `fi` stand alone on their lines (`then` may have one of its own); a
 * CONDITION is made of [ -z W ], -n, -e, -f, -d, [ W = W ], ==, != and grep -q PATTERN FILE, with !, && and ||. Lines
 * of a branch that is not taken may be anything. `. FILE` reads another file. `:` does nothing. That is what the files
 * use that come with CVMFS. Anything else of shell grammar (command substitution, loops, ...) is an error that
 * names file and line. Files are read in the order given; a later value replaces an earlier one, and each value knows
 * where it came from. A conf is built by one thread and may then be read by many.
 */
#ifndef LM_BASE_CONF_H
#define LM_BASE_CONF_H

#include "base/err.h"

#include <stdbool.h>

struct lm_conf;

struct lm_conf_entry {
	const char *key;
	const char *value;
	const char *file; /* where the value in force was set; "command line" and the like for lm_conf_set() */
	unsigned line;
	unsigned source; /* counts files and single settings: the greater one was read later */
};

int lm_conf_new(struct lm_conf **ret, struct lm_err *err) MUST_CHECK;
void lm_conf_free(struct lm_conf *conf);
LM_DEFINE_CLEANUP(struct lm_conf, lm_conf_free, lm_conf_freep)

/* -ENOENT when the file is not there (callers that do not need it go on); -EPROTO names file and line. */
int lm_conf_read(struct lm_conf *conf, const char *path, struct lm_err *err) MUST_CHECK;

/* The same for text in memory; name stands for the file in messages. */
int lm_conf_parse(struct lm_conf *conf, const char *name, const char *text, size_t len, struct lm_err *err) MUST_CHECK;

int lm_conf_set(
	struct lm_conf *conf, const char *key, const char *value, const char *origin, struct lm_err *err) MUST_CHECK;

/* An entry as it was in another conf, with where it came from; its strings are copied. */
int lm_conf_put(struct lm_conf *conf, const struct lm_conf_entry *entry, struct lm_err *err) MUST_CHECK;

/* From now on @NAME@ in any value stands for text. */
int lm_conf_template(struct lm_conf *conf, const char *name, const char *text, struct lm_err *err) MUST_CHECK;

const char *lm_conf_get(
	const struct lm_conf *conf, const char *key); /* NULL when not set; valid while conf is not changed */
const struct lm_conf_entry *lm_conf_entry(const struct lm_conf *conf, const char *key);
const struct lm_conf_entry *lm_conf_at(
	const struct lm_conf *conf, size_t index); /* in the order first set; NULL at the end */

/* With a default when the key is not set; -EINVAL names key, value, file and line. "yes/on/1/true" and
 * "no/off/0/false". */
int lm_conf_u64(const struct lm_conf *conf, const char *key, uint64_t fallback, uint64_t max, uint64_t *ret,
	struct lm_err *err) MUST_CHECK;
int lm_conf_bool(const struct lm_conf *conf, const char *key, bool fallback, bool *ret, struct lm_err *err) MUST_CHECK;

#endif
