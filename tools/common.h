/*
 * What the subcommands of `lamella` share: how they speak, and the record of repositories made on this machine.
 *
 * SPEAKING. Results go to standard output, all else to standard error. On a terminal long work shows one status line
 * that is rewritten in place; elsewhere only the lines of lm_cli_say() appear. Any thread may speak; lines do not mix.
 *
 * RECORDS. `lamella repo init` writes CONFIG/repositories.d/NAME.conf, so that later commands need only the name:
 *
 *   LAMELLA_STORAGE=DIR   a web root: the repository itself is DIR/cvmfs/NAME, so that any web server with this root
 *                         gives http://HOST/cvmfs/NAME
 *                         It may be a bucket as well, s3://BUCKET/PREFIX (s3/config.h)
 *   LAMELLA_KEYS=DIR      NAME.key, NAME.crt, NAME.masterkey, NAME.pub
 *   LAMELLA_S3_CONFIG=FILE   how the bucket is reached, where that is not the environment's to say
 *
 * CONFIG is $LAMELLA_CONFIG_DIR, else /etc/lamella for root, else ${XDG_CONFIG_HOME:-~/.config}/lamella.
 */
#ifndef LM_TOOLS_COMMON_H
#define LM_TOOLS_COMMON_H

#include "base/err.h"

#include <stdbool.h>

enum { LM_EXIT_OK = 0, LM_EXIT_FAILED = 1, LM_EXIT_USAGE = 2 };

/* What is no UTF-8 and what a terminal would obey (control characters, turns of the direction of writing) becomes "?".
 */
void lm_cli_defuse(char *text);
/* "lamella: " and the message on a line of its own; it is defused, as all that follow are. */
void lm_cli_error(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* The same for an error; returns LM_EXIT_FAILED, or LM_EXIT_USAGE where the user's words were wrong (-EINVAL). */
int lm_cli_fail(const struct lm_err *err);
/* Points to --help after getopt_long() or the command itself has said what is wrong; returns LM_EXIT_USAGE. */
int lm_cli_usage(const char *command);

/* A line that stays. */
void lm_cli_say(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* The status line; shown at most ten times a second, cut to the terminal's width, gone with the next line that stays.
 * Nothing where lm_cli_live() is not. */
void lm_cli_status(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* Standard error is a terminal on which lines can be taken back. */
bool lm_cli_live(void);
/* And color is wanted. */
bool lm_cli_color(void);
struct lm_cli_window { /* of standard error: what fits without wrapping; 79 by 24 where it does not say */
	unsigned columns, rows;
};
struct lm_cli_window lm_cli_window(void);
/* Several lines in place of the status line, separated by newlines, none at the end; they must fit, and be without
 * foreign control characters. "": nothing. Only where lm_cli_live(). */
void lm_cli_panel(const char *text);

/* Flushes standard output: code, or LM_EXIT_FAILED (said) when something could not be written. */
int lm_cli_flush(int code);

/* "1.4 GB" and the like (powers of 1000). */
struct lm_cli_size_text {
	char s[16];
};
struct lm_cli_size_text lm_cli_size(uint64_t bytes);

/* "2026-11-22T05:30:00Z"; "unknown" for 0. */
struct lm_cli_time_text {
	char s[32];
};
struct lm_cli_time_text lm_cli_time(int64_t seconds);

/* A variable of the environment, where it is set and not empty. */
const char *lm_cli_environment(const char *variable, const char *otherwise);

/* Before a daemon is called: -EAGAIN where its socket is not there, with what that means ("containerd is not running").
 */
int lm_cli_socket_check(const char *path, const char *meaning, struct lm_err *err) MUST_CHECK;

/* Text of any origin for JSON, which insists on UTF-8: other text comes quoted as lm_str_quote() does. NULL: no memory.
 */
struct json_t *lm_cli_text_json(const char *text);
/* A report for programs, on standard output. Takes the object; NULL: it could not be made. Returns LM_EXIT_OK, or
 * LM_EXIT_FAILED (said). */
int lm_cli_print_json(struct json_t *report);

/*
 * OPTIONS. A command lists its options in one table, from which they are parsed and the help is printed:
 *
 *   struct lm_cli_option options[] = {
 *           {"keys", "DIR", "where the keys are", .text = &o.keys},
 *           {"ttl", "SECONDS", "time to live", .number = &o.ttl_s, .max = 86400},
 *           {"json", NULL, "for programs", .flag = &o.json},
 *           {0},
 *   };
 *
 * Exactly one of text, number, flag and parse says where it goes; help may have several lines.
 */
struct lm_cli_option {
	const char *name;
	const char *arg; /* what the help calls the value; NULL with flag */
	const char *help;
	char letter; /* -x is understood, too; 0: none */
	const char **text;
	uint64_t *number;
	uint64_t min, max; /* of number; max 0: any */
	bool *flag;
	int (*parse)(void *arg, const char *value, struct lm_err *err); /* any other value; may come more than once */
	void *parse_arg;
};
struct lm_cli_syntax {
	const char *synopsis; /* "NAME [OPTION]...", after the command */
	const char *about;    /* sentences that follow it */
	const struct lm_cli_option *options;
	int min_words, max_words; /* what is no option; max -1: any number */
	const char *words;	  /* "one NAME is wanted": said when there are fewer or more */
};
/* The words are then argv[ret..argc). -1: the command is over (help was printed, or the mistake said); *ret_code is its
 * exit code. --help is understood always; words and options may be mixed. */
int lm_cli_parse(int argc, char **argv, const struct lm_cli_syntax *syntax, int *ret_code) MUST_CHECK;

/* A moment in UTC: 2026-01-31, 2026-01-31T23:59:59Z (the Z may be missing), or @SECONDS since the epoch. -EINVAL. */
int lm_cli_time_parse(const char *text, int64_t *ret_s, struct lm_err *err) MUST_CHECK;
struct lm_repo_record { /* strings owned; directories are absolute */
	char *name;
	char *storage;	 /* the web root */
	char *dir;	 /* STORAGE/cvmfs/NAME: the directory of .cvmfspublished */
	char *keys;	 /* NULL when neither recorded nor given */
	char *s3_config; /* recorded, for a storage that is; NULL: none */
};
void lm_repo_record_done(struct lm_repo_record *record);

/*
 * The repository that --repo NAME [--storage DIR] [--keys DIR] means: what is recorded, with what is given put in its
 * place (NULL: not given). -EINVAL: no repository name; -ENOENT: no storage given and none recorded.
 */
int lm_repo_record_load(const char *name, const char *storage, const char *keys, struct lm_repo_record *ret,
	struct lm_err *err) MUST_CHECK;
/* In a bucket, not in a directory. */
bool lm_repo_record_remote(const struct lm_repo_record *record);
/* Writes the record, replacing an older one; keys must be there. */
int lm_repo_record_save(const struct lm_repo_record *record, struct lm_err *err) MUST_CHECK;
/* Where what is remembered from run to run is kept, and could be lost: $LAMELLA_STATE_DIR, else
 * $LAMELLA_CONFIG_DIR/state, else /var/lib/lamella for root, else ${XDG_STATE_HOME:-~/.local/state}/lamella. It need
 * not be there. The caller frees *ret. */
int lm_state_dir(char **ret, struct lm_err *err) MUST_CHECK;
/* Where the record of that name is (or would be). The caller frees *ret. */
int lm_repo_record_path(const char *name, char **ret, struct lm_err *err) MUST_CHECK;

#endif
