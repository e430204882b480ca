#include "erofs/erofs_internal.h"

#include "repo/xattr.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#define METACOPY "trusted.overlay.metacopy"
#define REDIRECT "trusted.overlay.redirect"

/* Names are stored without their prefix. Values are as getxattr() returns them, those of ACLs, too. */
static const struct prefix {
	const char *text;
	uint8_t index;
	bool whole; /* is the name */
} prefixes[] = {
	{"user.", ATTR_USER, false},
	{"trusted.", ATTR_TRUSTED, false},
	{"security.", ATTR_SECURITY, false},
	{"system.posix_acl_access", ATTR_ACL_ACCESS, true},
	{"system.posix_acl_default", ATTR_ACL_DEFAULT, true},
};

static const struct prefix *prefix_of(const struct lm_xattr *attr)
{
	for (size_t i = 0; i < ARRAY_LEN(prefixes); i++) {
		size_t len = strlen(prefixes[i].text);
		bool fits = prefixes[i].whole ? attr->key_len == len : attr->key_len > len;
		if (fits && memcmp(attr->key, prefixes[i].text, len) == 0)
			return &prefixes[i];
	}
	return NULL;
}

static size_t entry_size(const struct lm_xattr *attr)
{
	size_t size = ATTR_HEADER + attr->key_len - strlen(prefix_of(attr)->text) + attr->value_len;
	return (size + ATTR_ALIGN - 1) / ATTR_ALIGN * ATTR_ALIGN;
}

/* An entry: length of the name, index of its prefix, length of the value, name, value, zeros. */
static uint8_t *put_entry(uint8_t *at, const struct lm_xattr *attr)
{
	const struct prefix *prefix = prefix_of(attr);
	size_t skipped = strlen(prefix->text), size = entry_size(attr);
	uint16_t value_len = htole16((uint16_t)attr->value_len);
	memset(at + size - ATTR_ALIGN, 0, ATTR_ALIGN);
	at[0] = (uint8_t)(attr->key_len - skipped);
	at[1] = prefix->index;
	memcpy(at + 2, &value_len, sizeof(value_len));
	memcpy(at + ATTR_HEADER, attr->key + skipped, attr->key_len - skipped);
	if (attr->value_len > 0)
		memcpy(at + ATTR_HEADER + attr->key_len - skipped, attr->value, attr->value_len);
	return at + size;
}

size_t lm_erofs_shared_attribute(uint8_t ret[BLOCK - SHARED_AT])
{
	const struct lm_xattr metacopy = {METACOPY, strlen(METACOPY), NULL, 0};
	return (size_t)(put_entry(ret, &metacopy) - ret);
}

size_t lm_erofs_attrs_size(const struct lm_erofs_inode *inode)
{
	/* A header alone is an error to the kernel. */
	if (inode->attrs_len == 0)
		return 0;
	return ATTRS_HEADER + (inode->redirected ? sizeof(uint32_t) : 0) + inode->attrs_len;
}

static bool is_named(const struct lm_xattr *attr, const char *name)
{
	return attr->key_len == strlen(name) && memcmp(attr->key, name, attr->key_len) == 0;
}

/* attrs: those before this one. */
static int check(
	const struct lm_xattr *attrs, size_t count, const struct lm_xattr *attr, bool redirected, struct lm_err *err)
{
	int len = (int)attr->key_len;
	if (!prefix_of(attr))
		return lm_err_set(err, -EINVAL, "extended attribute %.*s can't be stored", len, attr->key);
	if (redirected && (is_named(attr, METACOPY) || is_named(attr, REDIRECT)))
		return lm_err_set(err, -EINVAL, "extended attribute %.*s is in the way", len, attr->key);
	for (size_t i = 0; i < count; i++)
		if (attrs[i].key_len == attr->key_len && memcmp(attrs[i].key, attr->key, attr->key_len) == 0)
			return lm_err_set(err, -EINVAL, "extended attribute %.*s is there twice", len, attr->key);
	return 0;
}

/* The number of attributes in the blob; all can be stored. */
static int parse(const struct lm_erofs_attr *attr, struct lm_xattr ret[LM_XATTR_COUNT_MAX], struct lm_err *err)
{
	size_t at = 0;
	int count = 0, r;
	if (!attr->xattr)
		return 0;
	while ((r = lm_xattr_next(attr->xattr, attr->xattr_len, &at, &ret[count])) > 0) {
		r = check(ret, (size_t)count, &ret[count], attr->redirect, err);
		if (r < 0)
			return r;
		if (++count == LM_XATTR_COUNT_MAX)
			return count;
	}
	return r < 0 ? lm_err_set(err, -EINVAL, "malformed extended attributes") : count;
}

int lm_erofs_attributes(
	struct lm_erofs *erofs, const struct lm_erofs_attr *attr, struct lm_erofs_inode *ret, struct lm_err *err)
{
	/* The redirect is the first: overlayfs wants it, and the kernel's search ends there. */
	struct lm_xattr attrs[1 + LM_XATTR_COUNT_MAX];
	size_t count = 0, size = 0;
	if (attr->redirect)
		attrs[count++] = (struct lm_xattr){REDIRECT, strlen(REDIRECT), attr->redirect, strlen(attr->redirect)};
	int r = parse(attr, attrs + count, err);
	if (r < 0)
		return r;
	count += (size_t)r;
	ret->redirected = attr->redirect;
	if (count == 0)
		return 0;

	for (size_t i = 0; i < count; i++)
		size += entry_size(&attrs[i]);
	assert(ATTRS_HEADER + sizeof(uint32_t) + size <= ATTRS_MAX); /* 255 of 516 bytes, and the redirect */
	uint8_t *entries = lm_erofs_keep(erofs, size), *at = entries;
	if (!entries)
		return lm_err_oom(err);
	for (size_t i = 0; i < count; i++)
		at = put_entry(at, &attrs[i]);
	ret->attrs = entries;
	ret->attrs_len = (uint32_t)size;
	return 0;
}
