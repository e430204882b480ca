#include "net/exposition.h"

int lm_exposition_head(
	struct lm_buf *out, const char *prefix, const char *name, enum lm_exposition_kind kind, const char *help)
{
	static const char *const kinds[] = {
		[LM_COUNTER] = "counter", [LM_GAUGE] = "gauge", [LM_HISTOGRAM] = "histogram"};
	return lm_buf_printf(out, "# HELP %s_%s %s\n# TYPE %s_%s %s\n", prefix, name, help, prefix, name, kinds[kind]);
}

/* Backslashes, quotes and line ends are escaped. */
int lm_exposition_label(struct lm_buf *out, const char *name, const char *value)
{
	int r = lm_buf_printf(out, "%s=\"", name);
	for (; *value && r == 0; value++) {
		if (*value == '\\' || *value == '"')
			r = lm_buf_printf(out, "\\%c", *value);
		else if (*value == '\n')
			r = lm_buf_str(out, "\\n");
		else
			r = lm_buf_append(out, value, 1);
	}
	return r < 0 ? r : lm_buf_str(out, "\"");
}

int lm_exposition_name(struct lm_buf *out, const char *prefix, const char *name, const char *label, const char *value,
	const char *label2, const char *value2)
{
	int r = lm_buf_printf(out, "%s_%s", prefix, name);
	if (!label || r < 0)
		return r;
	r = lm_buf_str(out, "{");
	if (r == 0)
		r = lm_exposition_label(out, label, value);
	if (r == 0 && label2)
		r = lm_buf_str(out, ",");
	if (r == 0 && label2)
		r = lm_exposition_label(out, label2, value2);
	return r < 0 ? r : lm_buf_str(out, "}");
}
