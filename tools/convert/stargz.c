#include "convert/stargz.h"

#include <string.h>
#include <sys/stat.h>

enum {
	GZIP_HEADER = 10,
	FLAGS_AT = 3,
	FLAG_EXTRA = 4,
	OFFSET_DIGITS = 16,
	END_BYTES = 13, /* an empty stored block, checksum and size of nothing */
};
#define MARK "STARGZ"

void lm_stargz_note(struct lm_stargz_tail *tail, const void *data, size_t len)
{
	const uint8_t *bytes = data;
	size_t fresh = LM_MIN(len, sizeof(tail->bytes));
	size_t kept = LM_MIN(tail->len, sizeof(tail->bytes) - fresh);
	memmove(tail->bytes, tail->bytes + tail->len - kept, kept);
	memcpy(tail->bytes + kept, bytes + len - fresh, fresh);
	tail->len = kept + fresh;
}

static bool is_offset(const uint8_t *digits)
{
	for (size_t i = 0; i < OFFSET_DIGITS; i++)
		if (!memchr("0123456789abcdef", digits[i], 16))
			return false;
	return true;
}

/* A gzip member whose extra field is subfield (of that many bytes) and then the offset and the mark. */
static bool is_footer(const uint8_t *at, size_t len, const void *subfield, size_t subfield_len)
{
	static const uint8_t magic[] = {0x1f, 0x8b, 8}, end[END_BYTES] = {1, 0, 0, 0xff, 0xff};
	size_t extra = subfield_len + OFFSET_DIGITS + strlen(MARK);
	const uint8_t *field = at + GZIP_HEADER + 2, *offset = field + subfield_len;
	return len == GZIP_HEADER + 2 + extra + END_BYTES && memcmp(at, magic, sizeof(magic)) == 0 &&
	       at[FLAGS_AT] == FLAG_EXTRA && at[GZIP_HEADER] == extra && at[GZIP_HEADER + 1] == 0 &&
	       memcmp(field, subfield, subfield_len) == 0 && is_offset(offset) &&
	       memcmp(offset + OFFSET_DIGITS, MARK, strlen(MARK)) == 0 &&
	       memcmp(at + len - END_BYTES, end, END_BYTES) == 0;
}

bool lm_stargz_footer(const struct lm_stargz_tail *tail)
{
	static const uint8_t subfield[] = {'S', 'G', OFFSET_DIGITS + sizeof(MARK) - 1, 0};
	size_t before = sizeof(tail->bytes) - LM_STARGZ_OLD_FOOTER_BYTES;
	if (tail->len < sizeof(tail->bytes))
		return false;
	return is_footer(tail->bytes, sizeof(tail->bytes), subfield, sizeof(subfield)) ||
	       is_footer(tail->bytes + before, LM_STARGZ_OLD_FOOTER_BYTES, "", 0);
}

void lm_stargz_hide(struct lm_layer_tree *tree)
{
	static const char *const paths[] = {"/stargz.index.json", "/.prefetch.landmark", "/.no.prefetch.landmark"};
	for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
		struct lm_layer_node *node = lm_layer_tree_find(tree, paths[i]);
		if (node && S_ISREG(node->inode->mode))
			lm_layer_tree_remove(tree, node);
	}
}
