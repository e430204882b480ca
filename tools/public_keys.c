#include "public_keys.h"

#include "base/file.h"
#include "base/str.h"

#include <glob.h>

int lm_public_key_read(const char *path, struct lm_key **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX);
	int r = lm_file_read(AT_FDCWD, path, &pem, err);
	if (r < 0)
		return r;
	r = lm_key_parse_public(lm_buf_cstr(&pem), pem.len, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "%s", path) : 0;
}

int lm_public_keys_add(struct lm_public_keys *keys, const char *path, struct lm_err *err)
{
	if (keys->count == ARRAY_LEN(keys->keys))
		return lm_err_set(err, -E2BIG, "more than %zu public keys", ARRAY_LEN(keys->keys));
	int r = lm_public_key_read(path, &keys->keys[keys->count], err);
	keys->count += r == 0;
	return r;
}

int lm_public_keys_add_dir(struct lm_public_keys *keys, const char *dir, struct lm_err *err)
{
	CLEANUP(globfree) glob_t found = {0};
	CLEANUP(lm_freep) char *pattern = lm_str_printf("%s/*.pub", dir);
	if (!pattern)
		return lm_err_oom(err);
	int r = glob(pattern, 0, NULL, &found);
	if (r == GLOB_NOMATCH)
		return lm_err_set(err, -ENOENT, "%s: no public key (*.pub) is there", dir);
	if (r != 0)
		return lm_err_set(err, r == GLOB_NOSPACE ? -ENOMEM : -EIO, "%s can't be listed", dir);
	for (size_t i = 0; r == 0 && i < found.gl_pathc; i++)
		r = lm_public_keys_add(keys, found.gl_pathv[i], err);
	return r;
}

void lm_public_keys_done(struct lm_public_keys *keys)
{
	for (size_t i = 0; i < keys->count; i++)
		lm_key_free(keys->keys[i]);
	*keys = (struct lm_public_keys){0};
}
