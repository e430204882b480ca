/* How `lamella convert` and its like reach image sources: their options in common, and what becomes of them. */
#ifndef LM_TOOLS_ACCESS_H
#define LM_TOOLS_ACCESS_H

#include "oci/access.h"
#include "oci/image.h"

enum { LM_MIRRORS_MAX = 32 };

/* Zeroed first. Borrows from argv, and itself: it stays where it is. */
struct lm_access_options {
	struct lm_access access; /* http is the program's to set */
	struct lm_mirror mirrors[LM_MIRRORS_MAX];
	char *registries[LM_MIRRORS_MAX]; /* owned */
};
void lm_access_options_done(struct lm_access_options *options);

/* HOST[:PORT]=URL; adds to options (the arg). */
int lm_access_add_mirror(void *arg, const char *value, struct lm_err *err);

/* What --platform says, OS/ARCH[/VARIANT]; NULL: this machine's. *ret points into *ret_words, which the caller frees
 * (untouched without text). -EINVAL. */
int lm_platform_option(const char *text, char **ret_words, struct lm_platform *ret, struct lm_err *err) MUST_CHECK;

/* Has waiting and unpacking said by lm_cli_say(). */
void lm_access_speak(struct lm_access_options *options);

/* For a table of lm_cli_option; o: struct lm_access_options *. */
#define LM_ACCESS_OPTIONS(o)                                                                            \
	{"authfile", "FILE", "credentials for registries, instead of those of docker and podman login", \
		.text = &(o)->access.credentials.authfile},                                             \
		{"creds-file", "FILE", "USER:PASSWORD for the registries, on one line",                 \
			.text = &(o)->access.credentials.creds_file},                                   \
		{"cert-dir", "DIR",                                                                     \
			"*.crt to trust, *.cert and *.key to show to registries, instead of\n"          \
			"those in certs.d/HOST[:PORT] of containers and docker",                        \
			.text = &(o)->access.cert_dir},                                                 \
		{"mirror", "HOST=URL", "ask there before registry HOST; may be given several times",    \
			.parse = lm_access_add_mirror, .parse_arg = (o)},                               \
	{                                                                                               \
		"plain-http", NULL, "speak plain HTTP to registries, passwords included",               \
			.flag = &(o)->access.plain_http                                                 \
	}

#endif
