#include "oci/json.h"

#include "oci/image.h"

enum { DEPTH_MAX = 32, VALUES_MAX = 200000 };

/*
 * Jansson takes up to a hundred bytes of memory for two bytes of text, and recurses. So brackets and separators are
 * counted first; whether the text is JSON at all is the parser's to say.
 */
static int check_shape(const char *what, const char *text, size_t len, struct lm_err *err)
{
	size_t depth = 0, values = 0;
	bool in_string = false;
	for (size_t i = 0; i < len; i++) {
		char c = text[i];
		if (in_string && c == '\\')
			i++;
		else if (c == '"')
			in_string = !in_string;
		else if (!in_string && (c == '{' || c == '['))
			depth++, values++;
		else if (!in_string && (c == '}' || c == ']'))
			depth -= depth > 0;
		else if (!in_string && (c == ',' || c == ':'))
			values++;
		if (depth > DEPTH_MAX || values > VALUES_MAX)
			return lm_err_set(
				err, -EPROTO, "%s: more than %d levels or %d values", what, DEPTH_MAX, VALUES_MAX);
	}
	return 0;
}

int lm_json_load(const char *what, const char *text, size_t len, json_t **ret, struct lm_err *err)
{
	json_error_t error;
	if (len > LM_MANIFEST_JSON_MAX)
		return lm_err_set(err, -EPROTO, "%s: larger than %d bytes", what, LM_MANIFEST_JSON_MAX);
	int r = check_shape(what, text, len, err);
	if (r < 0)
		return r;
	CLEANUP(lm_json_freep) json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	if (!root && json_error_code(&error) == json_error_out_of_memory)
		return lm_err_oom(err);
	if (!root)
		return lm_err_set(err, -EPROTO, "%s: no JSON: line %d, column %d: %s", what, error.line, error.column,
			error.text);
	if (!json_is_object(root))
		return lm_err_set(err, -EPROTO, "%s: no JSON object", what);
	*ret = STEAL(root);
	return 0;
}

/* 1 with *ret set, 0 absent (where that is allowed). */
static int get(const char *what, const json_t *object, const char *key, enum lm_json_need need, json_type type,
	json_t **ret, struct lm_err *err)
{
	static const char *const names[] = {
		[JSON_OBJECT] = "an object",
		[JSON_ARRAY] = "an array",
		[JSON_STRING] = "a string",
		[JSON_INTEGER] = "a whole number",
	};
	json_t *value = json_object_get(object, key);
	if (!value || json_is_null(value))
		return need == LM_JSON_OPTIONAL ? 0 : lm_err_set(err, -EPROTO, "%s: \"%s\" is missing", what, key);
	if (json_typeof(value) != type)
		return lm_err_set(err, -EPROTO, "%s: \"%s\" is not %s", what, key, names[type]);
	*ret = value;
	return 1;
}

int lm_json_string(const char *what, const json_t *object, const char *key, enum lm_json_need need, const char **ret,
	struct lm_err *err)
{
	json_t *value = NULL;
	int r = get(what, object, key, need, JSON_STRING, &value, err);
	if (r < 0)
		return r;
	*ret = r ? json_string_value(value) : NULL;
	return 0;
}

int lm_json_array(const char *what, const json_t *object, const char *key, size_t max, enum lm_json_need need,
	json_t **ret, struct lm_err *err)
{
	json_t *value = NULL;
	int r = get(what, object, key, need, JSON_ARRAY, &value, err);
	if (r < 0)
		return r;
	if (r && json_array_size(value) > max)
		return lm_err_set(err, -EPROTO, "%s: \"%s\" has more than %zu entries", what, key, max);
	*ret = value;
	return 0;
}

int lm_json_object(const char *what, const json_t *object, const char *key, enum lm_json_need need, json_t **ret,
	struct lm_err *err)
{
	json_t *value = NULL;
	int r = get(what, object, key, need, JSON_OBJECT, &value, err);
	if (r < 0)
		return r;
	*ret = value;
	return 0;
}

int lm_json_u64(const char *what, const json_t *object, const char *key, uint64_t *ret, struct lm_err *err)
{
	json_t *value = NULL;
	int r = get(what, object, key, LM_JSON_REQUIRED, JSON_INTEGER, &value, err);
	if (r < 0)
		return r;
	if (json_integer_value(value) < 0)
		return lm_err_set(err, -EPROTO, "%s: \"%s\" is negative", what, key);
	*ret = (uint64_t)json_integer_value(value);
	return 0;
}

static int append(const char *text, size_t len, void *arg)
{
	return lm_buf_append(arg, text, len) < 0 ? -1 : 0;
}

int lm_json_write(const json_t *json, size_t flags, struct lm_buf *ret)
{
	return json && json_dump_callback(json, append, ret, flags) == 0 ? 0 : -ENOMEM;
}
