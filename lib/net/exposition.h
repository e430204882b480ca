/*
 * Metrics in Prometheus' text format, version 0.0.4: what all programs' pages have in common.
 *
 * A metric is lm_exposition_head() and one sample for each of its instances: lm_exposition_name(), then a blank, the
 * value and a line end, which the caller appends. Names are PREFIX_NAME. All return 0, -ENOMEM or -EMSGSIZE.
 */
#ifndef LM_NET_EXPOSITION_H
#define LM_NET_EXPOSITION_H

#include "base/buf.h"

#define LM_EXPOSITION_TYPE "text/plain; version=0.0.4; charset=utf-8"

enum lm_exposition_kind { LM_COUNTER, LM_GAUGE, LM_HISTOGRAM };

int lm_exposition_head(struct lm_buf *out, const char *prefix, const char *name, enum lm_exposition_kind kind,
	const char *help) MUST_CHECK;

/* NAME="VALUE", escaped. */
int lm_exposition_label(struct lm_buf *out, const char *name, const char *value) MUST_CHECK;

/* PREFIX_NAME{LABEL="VALUE",LABEL2="VALUE2"}; label and label2 may be NULL. */
int lm_exposition_name(struct lm_buf *out, const char *prefix, const char *name, const char *label, const char *value,
	const char *label2, const char *value2) MUST_CHECK;

#endif
