#include "fetcher/whiteout.h"

#include "base/str.h"

#include <string.h>
#include <sys/stat.h>

enum lm_whiteout lm_whiteout_kind(const char *name, uint32_t mode, const char **ret_deleted)
{
	if (name[0] != '.' || S_ISDIR(mode))
		return LM_WHITEOUT_NONE;
	if (strcmp(name, ".cvmfscatalog") == 0 || strcmp(name, ".cvmfsautocatalog") == 0)
		return LM_WHITEOUT_MARKER;
	if (!lm_str_starts(name, LM_WHITEOUT_PREFIX))
		return LM_WHITEOUT_NONE;
	if (strcmp(name, LM_WHITEOUT_OPAQUE) == 0)
		return LM_WHITEOUT_ALL;
	const char *deleted = name + strlen(LM_WHITEOUT_PREFIX);
	if (lm_str_starts(deleted, LM_WHITEOUT_PREFIX))
		return LM_WHITEOUT_MARKER;
	if (deleted[0] == '\0' || strcmp(deleted, ".") == 0 || strcmp(deleted, "..") == 0)
		return LM_WHITEOUT_NONE;
	*ret_deleted = deleted;
	return LM_WHITEOUT_NAME;
}
