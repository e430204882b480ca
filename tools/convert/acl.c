#include "convert/acl.h"

#include <errno.h>
#include <string.h>

enum { HEADER_BYTES = 4, ENTRY_BYTES = 8, VERSION = 2, PERMISSIONS = 7 };
enum { USER_OBJ = 1, USER = 2, GROUP_OBJ = 4, GROUP = 8, MASK = 16, OTHER = 32 };

struct entry {
	unsigned tag, permissions;
};

static size_t entry_count(size_t len)
{
	return len < HEADER_BYTES ? 0 : (len - HEADER_BYTES) / ENTRY_BYTES;
}

static struct entry entry_at(const uint8_t *value, size_t i)
{
	const uint8_t *at = value + HEADER_BYTES + i * ENTRY_BYTES;
	return (struct entry){at[0] | at[1] << 8U, at[2] | at[3] << 8U};
}

/* Owner, named users, group, named groups, mask (wanted where somebody is named), others: in this order. */
static bool in_order(const uint8_t *value, size_t count)
{
	unsigned seen = 0; /* tags, so far */
	for (size_t i = 0; i < count; i++) {
		struct entry e = entry_at(value, i);
		bool named = e.tag == USER || e.tag == GROUP;
		unsigned wanted = e.tag == USER_OBJ ? 0 : e.tag <= GROUP_OBJ ? USER_OBJ : USER_OBJ | GROUP_OBJ;
		if (e.tag == 0 || e.tag > OTHER || (e.tag & (e.tag - 1)) || e.permissions & ~(unsigned)PERMISSIONS)
			return false;
		if ((seen & wanted) != wanted || seen >= (named ? e.tag << 1U : e.tag))
			return false;
		if (e.tag == OTHER && seen & (USER | GROUP) && !(seen & MASK))
			return false;
		seen |= e.tag;
	}
	return seen & OTHER;
}

int lm_acl_judge(const void *value, size_t len)
{
	const uint8_t *bytes = value;
	if (len < HEADER_BYTES)
		return -EPROTO;
	if (bytes[0] != VERSION || bytes[1] || bytes[2] || bytes[3])
		return 0;
	if ((len - HEADER_BYTES) % ENTRY_BYTES)
		return -EPROTO;
	if (len == HEADER_BYTES)
		return 0;
	return in_order(bytes, entry_count(len)) ? 1 : -EPROTO;
}

bool lm_acl_minimal(const void *value, size_t len)
{
	for (size_t i = 0; i < entry_count(len); i++)
		if (entry_at(value, i).tag & (USER | GROUP | MASK))
			return false;
	return true;
}

static bool has_mask(const void *value, size_t len)
{
	for (size_t i = 0; i < entry_count(len); i++)
		if (entry_at(value, i).tag == MASK)
			return true;
	return false;
}

void lm_acl_chmod(void *value, size_t len, unsigned mode)
{
	unsigned group = has_mask(value, len) ? MASK : GROUP_OBJ;
	for (size_t i = 0; i < entry_count(len); i++) {
		uint8_t *permissions = (uint8_t *)value + HEADER_BYTES + i * ENTRY_BYTES + 2;
		unsigned tag = entry_at(value, i).tag;
		if (tag == USER_OBJ)
			*permissions = mode >> 6U & PERMISSIONS;
		else if (tag == group)
			*permissions = mode >> 3U & PERMISSIONS;
		else if (tag == OTHER)
			*permissions = mode & PERMISSIONS;
	}
}
