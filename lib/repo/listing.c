#include "repo/listing.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

int lm_listing_escape(struct lm_buf *out, const char *text, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	if (len == 0)
		return lm_buf_str(out, "-");
	int r = 0;
	for (size_t i = 0; i < len && r == 0; i++) {
		unsigned char c = (unsigned char)text[i];
		char code[3] = {'%', digits[c >> 4], digits[c & 15]};
		bool plain = c > 0x20 && c < 0x7f && c != '%' && c != ',' && c != '=';
		r = plain ? lm_buf_append(out, &c, 1) : lm_buf_append(out, code, sizeof(code));
	}
	return r;
}

char lm_listing_type(uint32_t mode)
{
	static const char types[] = "?pc?d?b?f?l?s???";
	return types[(mode & S_IFMT) >> 12];
}

static int append_numbers(struct lm_buf *out, const struct lm_listing_line *l)
{
	int r = lm_buf_printf(out, "%c %04o %" PRIu32 " %" PRIu32 " %" PRIu64 " %" PRId64 ".%09" PRIu32 " %" PRIu64 " ",
		lm_listing_type(l->mode), l->mode & 07777, l->uid, l->gid, l->size, l->mtime_s, l->mtime_ns, l->nlink);
	if (r == 0)
		r = l->group ? lm_buf_printf(out, "%u ", l->group) : lm_buf_str(out, "- ");
	if (r == 0)
		r = S_ISCHR(l->mode) || S_ISBLK(l->mode) ? lm_buf_printf(out, "%u:%u ", major(l->rdev), minor(l->rdev))
							 : lm_buf_str(out, "- ");
	return r;
}

static int by_key(const void *a, const void *b)
{
	const struct lm_xattr *x = a, *y = b;
	int order = memcmp(x->key, y->key, LM_MIN(x->key_len, y->key_len));
	return order ? order : (x->key_len > y->key_len) - (x->key_len < y->key_len);
}

static int append_xattr(struct lm_buf *out, const struct lm_xattr *attr)
{
	int r = lm_listing_escape(out, attr->key, attr->key_len);
	if (r == 0)
		r = lm_buf_str(out, "=");
	for (size_t i = 0; r == 0 && i < attr->value_len; i++)
		r = lm_buf_printf(out, "%02x", ((const uint8_t *)attr->value)[i]);
	return r;
}

static int append_xattrs(struct lm_buf *out, struct lm_xattr *attrs, size_t count)
{
	if (count == 0)
		return lm_buf_str(out, "-");
	qsort(attrs, count, sizeof(*attrs), by_key);
	int r = 0;
	for (size_t i = 0; r == 0 && i < count; i++) {
		r = lm_buf_str(out, i ? "," : "");
		if (r == 0)
			r = append_xattr(out, &attrs[i]);
	}
	return r;
}

int lm_listing_append(struct lm_buf *out, const struct lm_listing_line *line)
{
	const char *target = line->target ? line->target : "", *path = *line->path ? line->path : "/";
	int r = append_numbers(out, line);
	if (r == 0)
		r = lm_buf_printf(out, "%s ", S_ISREG(line->mode) && line->sha256 ? line->sha256 : "-");
	if (r == 0)
		r = lm_listing_escape(out, target, strlen(target));
	if (r == 0)
		r = lm_buf_str(out, " ");
	if (r == 0)
		r = append_xattrs(out, line->xattrs, line->xattr_count);
	if (r == 0)
		r = lm_buf_str(out, " ");
	if (r == 0)
		r = lm_listing_escape(out, path, strlen(path));
	return r < 0 ? r : lm_buf_str(out, "\n");
}
