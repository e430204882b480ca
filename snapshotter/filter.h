/*
 * Filters of a List: containerd's grammar.
 *
 *   filter    := selector ("," selector)*            all must hold; the empty filter always holds
 *   selector  := fieldpath [op value]                without operator: the field is there
 *   fieldpath := field ("." field)*                  field: letters, digits and _, or quoted
 *   op        := "==" | "!=" | "~="                  ~= finds a regular expression in the value
 *   value     := quoted | anything but comma and blank that begins with none of = ! ~ . / |
 *   quoted    := a Go string in double quotes; with ~= also between slashes or bars
 *
 * Blanks are skipped before fields, operators and values, and refused before commas, dots and the end, as containerd
 * does. Fields of a snapshot: kind (active, view, committed), name, parent and labels.KEY, where KEY is the rest of the
 * path, its parts joined by dots. Other fields are absent. An absent field is "" to the operators, but == never holds
 * for it.
 *
 * Regular expressions are RE2's, as Go has them: regex.h.
 */
#ifndef LM_SNAPSHOTTER_FILTER_H
#define LM_SNAPSHOTTER_FILTER_H

#include "snapshotter/store.h"

#define LM_FILTER_MAX_BYTES 65536

struct lm_filter;

/* -EINVAL: syntax; the message says where. */
int lm_filter_parse(const char *text, struct lm_filter **ret, struct lm_err *err) MUST_CHECK;
void lm_filter_free(struct lm_filter *filter);
LM_DEFINE_CLEANUP(struct lm_filter, lm_filter_free, lm_filter_freep)

/* 1 or 0; -E2BIG: a regular expression would take too long; -EINVAL: it meets text that is not UTF-8; -ENOMEM. */
int lm_filter_match(const struct lm_filter *filter, const struct lm_snapshot *snapshot, struct lm_err *err) MUST_CHECK;

#endif
