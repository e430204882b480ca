#include "repo/xattr.h"

#include <string.h>

enum { VERSION = 1, HEADER = 2, ENTRY_HEADER = 2 };

/* Reads the attribute at *offset and moves behind it. */
static int read_entry(const uint8_t *blob, size_t len, size_t *offset, struct lm_xattr *ret)
{
	if (len - *offset < ENTRY_HEADER)
		return -EPROTO;
	const uint8_t *entry = blob + *offset;
	size_t key_len = entry[0], value_len = entry[1];
	if (len - *offset - ENTRY_HEADER < key_len + value_len)
		return -EPROTO;
	const uint8_t *key = entry + ENTRY_HEADER;
	if (key_len == 0 || memchr(key, '\0', key_len))
		return -EPROTO;
	*ret = (struct lm_xattr){(const char *)key, key_len, key + key_len, value_len};
	*offset += ENTRY_HEADER + key_len + value_len;
	return 0;
}

static int check(const uint8_t *blob, size_t len)
{
	if (len < HEADER || blob[0] != VERSION)
		return -EPROTO;
	size_t offset = HEADER;
	for (unsigned i = 0; i < blob[1]; i++) {
		struct lm_xattr attr;
		int r = read_entry(blob, len, &offset, &attr);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The position is the offset of the next attribute above its number (8 bits); 0 comes before the check. */
int lm_xattr_next(const void *blob, size_t len, size_t *at, struct lm_xattr *ret)
{
	const uint8_t *bytes = blob;
	if (len == 0)
		return 0;
	if (*at == 0) {
		int r = check(bytes, len);
		if (r < 0)
			return r;
		*at = (size_t)HEADER << 8;
	}
	size_t offset = *at >> 8, number = *at & 0xff;
	if (number == bytes[1])
		return 0;
	int r = read_entry(bytes, len, &offset, ret);
	if (r < 0)
		return r;
	*at = offset << 8 | (number + 1);
	return 1;
}

int lm_xattr_find(const void *blob, size_t len, const char *key, struct lm_xattr *ret)
{
	size_t key_len = strlen(key), at = 0;
	struct lm_xattr attr;
	int r;
	while ((r = lm_xattr_next(blob, len, &at, &attr)) > 0) {
		if (attr.key_len != key_len || memcmp(attr.key, key, key_len) != 0)
			continue;
		*ret = attr;
		return 0;
	}
	return r < 0 ? r : -ENODATA;
}

static int cmp_keys(const void *a, const void *b)
{
	const struct lm_xattr *x = a, *y = b;
	int c = memcmp(x->key, y->key, LM_MIN(x->key_len, y->key_len));
	return c != 0 ? c : (x->key_len > y->key_len) - (x->key_len < y->key_len);
}

static int check_attrs(const struct lm_xattr *attrs, size_t count, struct lm_err *err)
{
	for (size_t i = 0; i < count; i++) {
		const struct lm_xattr *attr = &attrs[i];
		int shown = (int)LM_MIN(attr->key_len, (size_t)LM_XATTR_KEY_MAX);
		if (attr->key_len == 0 || memchr(attr->key, '\0', attr->key_len))
			return lm_err_set(err, -EINVAL, "extended attribute with an empty name or a NUL in it");
		if (attr->key_len > LM_XATTR_KEY_MAX)
			return lm_err_set(err, -E2BIG, "extended attribute %.*s...: name of %zu bytes, at most %d fit",
				shown, attr->key, attr->key_len, LM_XATTR_KEY_MAX);
		if (attr->value_len > LM_XATTR_VALUE_MAX)
			return lm_err_set(err, -E2BIG, "extended attribute %.*s: value of %zu bytes, at most %d fit",
				shown, attr->key, attr->value_len, LM_XATTR_VALUE_MAX);
		if (i > 0 && cmp_keys(attr - 1, attr) == 0)
			return lm_err_set(err, -EEXIST, "extended attribute %.*s is there twice", shown, attr->key);
	}
	if (count > LM_XATTR_COUNT_MAX)
		return lm_err_set(err, -E2BIG, "extended attribute %.*s: number %d of %zu, at most %d fit",
			(int)attrs[LM_XATTR_COUNT_MAX].key_len, attrs[LM_XATTR_COUNT_MAX].key, LM_XATTR_COUNT_MAX + 1,
			count, LM_XATTR_COUNT_MAX);
	return 0;
}

int lm_xattr_encode(struct lm_xattr *attrs, size_t count, struct lm_buf *ret, struct lm_err *err)
{
	if (count == 0)
		return 0;
	qsort(attrs, count, sizeof(*attrs), cmp_keys);
	int r = check_attrs(attrs, count, err);
	if (r < 0)
		return r;
	size_t size = HEADER;
	for (size_t i = 0; i < count; i++)
		size += ENTRY_HEADER + attrs[i].key_len + attrs[i].value_len;
	r = lm_buf_reserve(ret, size);
	if (r < 0)
		return lm_err_sys(err, r, "extended attributes of %zu bytes", size);

	uint8_t *at = ret->data + ret->len;
	*at++ = VERSION;
	*at++ = (uint8_t)count;
	for (size_t i = 0; i < count; i++) {
		*at++ = (uint8_t)attrs[i].key_len;
		*at++ = (uint8_t)attrs[i].value_len;
		at = mempcpy(at, attrs[i].key, attrs[i].key_len);
		if (attrs[i].value_len > 0)
			at = mempcpy(at, attrs[i].value, attrs[i].value_len);
	}
	*at = '\0';
	ret->len += size;
	return 0;
}
