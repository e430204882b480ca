/*
 * Foreign JSON is read: bounded before it is parsed, duplicate keys refused, every look-up checked for its type. Our
 * own is written.
 *
 * For reading, `what` names the document for messages. -EPROTO says what is wrong.
 */
#ifndef LM_OCI_JSON_H
#define LM_OCI_JSON_H

#include "base/buf.h"

#include <jansson.h>
#include <stdbool.h>

LM_DEFINE_CLEANUP(json_t, json_decref, lm_json_freep)

/* The document must be an object, of bounded size, depth and number of values. */
int lm_json_load(const char *what, const char *text, size_t len, json_t **ret, struct lm_err *err) MUST_CHECK;

enum lm_json_need { LM_JSON_OPTIONAL, LM_JSON_REQUIRED };

/* A member of an object, borrowed. Absent or null and optional: 0 with NULL. */
int lm_json_string(const char *what, const json_t *object, const char *key, enum lm_json_need need, const char **ret,
	struct lm_err *err) MUST_CHECK;
int lm_json_array(const char *what, const json_t *object, const char *key, size_t max, enum lm_json_need need,
	json_t **ret, struct lm_err *err) MUST_CHECK;
int lm_json_object(const char *what, const json_t *object, const char *key, enum lm_json_need need, json_t **ret,
	struct lm_err *err) MUST_CHECK;
/* A whole number that is not negative; required. */
int lm_json_u64(const char *what, const json_t *object, const char *key, uint64_t *ret, struct lm_err *err) MUST_CHECK;

/* Appends the document. flags: jansson's. -ENOMEM, also for a document that is NULL since there was none for it. */
int lm_json_write(const json_t *json, size_t flags, struct lm_buf *ret) MUST_CHECK;

#endif
