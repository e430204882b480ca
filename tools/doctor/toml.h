/*
 * Reads TOML as `containerd config dump` prints it, value by value.
 *
 * Understood: tables and arrays of tables, bare, 'literal' and "basic" keys with dots between them; strings of one line
 * and of several, arrays (of strings and bare words; what is nested deeper is passed over), bare words (numbers, dates,
 * true and false, which are not looked into). Inline tables are passed over. Anything else is -EPROTO, with its line.
 * Pure.
 */
#ifndef LM_TOOLS_DOCTOR_TOML_H
#define LM_TOOLS_DOCTOR_TOML_H

#include "base/err.h"

#include <stdbool.h>

enum { LM_TOML_DEPTH_MAX = 16, LM_TOML_MAX = 4 << 20 };

struct lm_toml_value {		 /* strings are valid during the call */
	const char *const *path; /* the names of tables, then the key */
	size_t depth;		 /* of path */
	const char *text;	 /* of a string, or the bare word */
	bool bare;
	bool in_array;
};
typedef int lm_toml_fn(void *arg, const struct lm_toml_value *value);

/* fn's result, where it is negative, ends it. */
int lm_toml_read(const char *text, size_t len, lm_toml_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;

/* Whether the path is these names; NULL stands for any one name. */
bool lm_toml_is(const struct lm_toml_value *value, const char *const *names, size_t count);

#endif
