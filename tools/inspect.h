/*
 * The parts of `lamella inspect`: one function each, which parses the command line, looks, prints and returns the exit
 * code. 0: what was asked for is there and in order; 1: it is not, or a signature is not valid; 2: wrong usage.
 *
 * Nothing that is looked at is believed: damage is named, and what can be shown besides is shown.
 */
#ifndef LM_TOOLS_INSPECT_H
#define LM_TOOLS_INSPECT_H

#include "inspect_out.h"
#include "repo/history.h"
#include "source.h"

struct lm_inspect;
typedef int lm_inspect_fn(struct lm_inspect *i, struct lm_err *err);

struct lm_inspect {
	/* from the command line */
	struct lm_repo_source_options where;
	const char *tag, *date, *root;
	bool json;
	char **words; /* after WHERE */
	int word_count;

	struct lm_repo_source source;
	struct lm_out out;
	lm_inspect_fn *show;
	bool bad; /* something was found that makes the exit code 1 */
};

#define LM_INSPECT_OPTIONS(i)                                                                       \
	LM_REPO_SOURCE_OPTIONS(&(i)->where),                                                        \
		{"manifest", "FILE", "look at this manifest instead of the repository's own",       \
			.text = &(i)->where.manifest},                                              \
		{"whitelist", "FILE", "the same for the whitelist", .text = &(i)->where.whitelist}, \
	{                                                                                           \
		"json", NULL, "for programs", .flag = &(i)->json                                    \
	}
/* For the parts that start from a root catalog. */
#define LM_INSPECT_ROOT_OPTIONS(i)                                                                                \
	{"tag", "NAME", "the revision that this tag names", .text = &(i)->tag},                                   \
		{"date", "DATE",                                                                                  \
			"the newest tagged revision of that time: 2026-01-31, 2026-01-31T23:59:59Z, @SECONDS",    \
			.text = &(i)->date},                                                                      \
	{                                                                                                         \
		"root", "HASH", "the root catalog with this hash, whatever the manifest says", .text = &(i)->root \
	}

/* A part from its command line to its exit code: parses, opens the source, calls fn, ends the output. fn begins the
 * output (lm_out_begin), unless it prints what is no record; i may be the first member of what fn wants to know. */
int lm_inspect_run(struct lm_inspect *i, int argc, char **argv, const struct lm_cli_syntax *syntax, lm_inspect_fn *fn);

/* Prints the repository's name and place, and the verdict. */
void lm_inspect_show_source(struct lm_inspect *i);
void lm_inspect_show_verdict(struct lm_inspect *i, enum lm_verdict verdict, const struct lm_err *reason);
/* Reads the manifest and prints the above. */
int lm_inspect_manifest(struct lm_inspect *i, struct lm_manifest *ret, struct lm_err *err) MUST_CHECK;
/* The root catalog that the options mean. show: prints the above and which one it is. quiet about it otherwise: the
 * verdict, where it is not "valid", is said on standard error. */
int lm_inspect_root(struct lm_inspect *i, bool show, struct lm_hash *ret, struct lm_err *err) MUST_CHECK;

/* Something is damaged: said on standard error, and the exit code is 1. Work goes on. */
void lm_inspect_complain(struct lm_inspect *i, const char *fmt, ...) PRINTF_LIKE(2, 3);

/*
 * An object's stored bytes in a temporary file, unverified, with their number: -ENOENT, transport's errors. The caller
 * closes *ret_fd.
 */
int lm_inspect_fetch(struct lm_inspect *i, const struct lm_hash *hash, enum lm_object_kind kind, int *ret_fd,
	uint64_t *ret_size, struct lm_err *err) MUST_CHECK;

/* The parts without options of their own; these find the output begun. */
lm_inspect_fn lm_inspect_show_manifest, lm_inspect_show_whitelist, lm_inspect_show_certificate;
lm_inspect_fn lm_inspect_show_history, lm_inspect_show_reflog, lm_inspect_show_metainfo;

int lm_cmd_inspect_catalog(int argc, char **argv);
int lm_cmd_inspect_object(int argc, char **argv);
int lm_cmd_inspect_tree(int argc, char **argv);

#endif
