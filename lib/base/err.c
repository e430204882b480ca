#include "base/err.h"

#include <stdio.h>
#include <string.h>

int lm_err_vset(struct lm_err *err, int code, const char *fmt, va_list args)
{
	if (err) {
		/* Formatted aside first: an argument may be err->msg itself. */
		char text[LM_ERR_MAX];
		vsnprintf(text, sizeof(text), fmt, args);
		memcpy(err->msg, text, strlen(text) + 1);
		err->code = code;
	}
	return code;
}

int lm_err_set(struct lm_err *err, int code, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	lm_err_vset(err, code, fmt, args);
	va_end(args);
	return code;
}

int lm_err_sys(struct lm_err *err, int code, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	lm_err_vset(err, code, fmt, args);
	va_end(args);
	if (err) {
		char reason[128];
		size_t used = strlen(err->msg);
		snprintf(err->msg + used, sizeof(err->msg) - used, ": %s", strerror_r(-code, reason, sizeof(reason)));
	}
	return code;
}

int lm_err_prefix(struct lm_err *err, int code, const char *fmt, ...)
{
	if (err) {
		char prefix[LM_ERR_MAX];
		va_list args;
		va_start(args, fmt);
		vsnprintf(prefix, sizeof(prefix), fmt, args);
		va_end(args);
		lm_err_set(err, code, "%s: %s", prefix, lm_err_text(err));
	}
	return code;
}

int lm_err_oom(struct lm_err *err)
{
	return lm_err_set(err, -ENOMEM, "out of memory");
}

const char *lm_err_text(const struct lm_err *err)
{
	if (!err)
		return "unknown error";
	if (err->msg[0] == '\0')
		return strerror(-err->code);
	return err->msg;
}
