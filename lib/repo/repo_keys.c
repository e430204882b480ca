#include "repo/publish.h"

#include "base/file.h"
#include "base/str.h"

#include <stdio.h>
#include <sys/stat.h>

/* What stock servers make. Both kinds of signatures depend on the key's length in no way. */
enum { KEY_BITS = 2048 };

enum key_file { FILE_KEY, FILE_CERT, FILE_MASTER, FILE_PUBLIC, FILE_COUNT };

static const struct {
	const char *suffix;
	mode_t mode;
} key_files[FILE_COUNT] = {
	[FILE_KEY] = {".key", 0600},
	[FILE_CERT] = {".crt", 0644},
	[FILE_MASTER] = {".masterkey", 0600},
	[FILE_PUBLIC] = {".pub", 0644},
};

enum { NAME_MAX_BYTES = LM_FQRN_MAX + 16 };

void lm_repo_keys_done(struct lm_repo_keys *keys)
{
	lm_key_free(keys->key);
	lm_cert_free(keys->cert);
	lm_key_free(keys->master);
	*keys = (struct lm_repo_keys){0};
}

static void file_name(const char *fqrn, enum key_file file, char ret[NAME_MAX_BYTES])
{
	snprintf(ret, NAME_MAX_BYTES, "%s%s", fqrn, key_files[file].suffix);
}

static int generate(const char *fqrn, struct lm_repo_keys *ret, struct lm_err *err)
{
	int r = lm_key_generate(KEY_BITS, &ret->key, err);
	if (r == 0)
		r = lm_cert_make(ret->key, fqrn, &ret->cert, err);
	return r < 0 ? r : lm_key_generate(KEY_BITS, &ret->master, err);
}

static int format(const struct lm_repo_keys *keys, enum key_file file, struct lm_buf *ret, struct lm_err *err)
{
	switch (file) {
	case FILE_KEY:
		return lm_key_format_private(keys->key, ret, err);
	case FILE_CERT:
		return lm_cert_format(keys->cert, ret, err);
	case FILE_MASTER:
		return lm_key_format_private(keys->master, ret, err);
	default:
		return lm_key_format_public(keys->master, ret, err);
	}
}

static int write_file(
	int dirfd, const char *fqrn, const struct lm_repo_keys *keys, enum key_file file, struct lm_err *err)
{
	char name[NAME_MAX_BYTES];
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_PEM_MAX);
	file_name(fqrn, file, name);
	int r = format(keys, file, &text, err);
	if (r == 0)
		r = lm_file_replace(
			dirfd, name, text.data, text.len, key_files[file].mode, LM_FILE_SYNC | LM_FILE_EXCLUSIVE, err);
	if (text.data)
		explicit_bzero(text.data, text.len);
	return r;
}

/* All files or none: what was written before a failure goes again. */
static int write_files(int dirfd, const char *fqrn, const struct lm_repo_keys *keys, struct lm_err *err)
{
	for (unsigned i = 0; i < FILE_COUNT; i++) {
		int r = write_file(dirfd, fqrn, keys, i, err);
		if (r == 0)
			continue;
		while (i-- > 0) {
			char name[NAME_MAX_BYTES];
			file_name(fqrn, i, name);
			unlinkat(dirfd, name, 0);
		}
		return r;
	}
	return 0;
}

static int check_none_there(int dirfd, const char *dir, const char *fqrn, struct lm_err *err)
{
	for (unsigned i = 0; i < FILE_COUNT; i++) {
		char name[NAME_MAX_BYTES];
		file_name(fqrn, i, name);
		if (faccessat(dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			return lm_err_set(err, -EEXIST, "%s/%s is there already", dir, name);
	}
	return 0;
}

int lm_repo_keys_make(const char *dir, const char *fqrn, struct lm_repo_keys *ret, struct lm_err *err)
{
	if (!lm_fqrn_valid(fqrn))
		return lm_err_set(err, -EINVAL, "'%s' is no name for a repository", fqrn);
	int r = lm_mkdir_p(AT_FDCWD, dir, 0700, err);
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return lm_err_sys(err, -errno, "%s", dir);
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys keys = {0};
	r = check_none_there(dirfd, dir, fqrn, err);
	if (r == 0)
		r = generate(fqrn, &keys, err);
	if (r == 0)
		r = write_files(dirfd, fqrn, &keys, err);
	if (r < 0)
		return lm_err_prefix(err, r, "keys of %s", fqrn);
	*ret = keys;
	keys = (struct lm_repo_keys){0};
	return 0;
}

static int read_file(int dirfd, const char *fqrn, enum key_file file, struct lm_buf *ret, struct lm_err *err)
{
	char name[NAME_MAX_BYTES];
	file_name(fqrn, file, name);
	CLEANUP(lm_closep) int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return lm_err_sys(err, -errno, "%s", name);
	if (key_files[file].mode == 0600 && st.st_mode & 077)
		return lm_err_set(err, -EPERM, "%s: others have access to it (mode 0%o)", name, st.st_mode & 0777u);
	if (st.st_size > LM_PEM_MAX)
		return lm_err_set(err, -EMSGSIZE, "%s: larger than any key", name);
	int r = lm_buf_reserve(ret, (size_t)st.st_size);
	if (r == 0)
		r = lm_pread_all(fd, ret->data, (size_t)st.st_size, 0, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", name);
	ret->len = (size_t)st.st_size;
	if (ret->data)
		ret->data[ret->len] = '\0';
	return 0;
}

static int read_key(int dirfd, const char *fqrn, enum key_file file, struct lm_key **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_PEM_MAX);
	int r = read_file(dirfd, fqrn, file, &text, err);
	if (r == 0)
		r = lm_key_parse_private(lm_buf_cstr(&text), text.len, ret, err);
	if (text.data)
		explicit_bzero(text.data, text.len);
	return r;
}

static int read_cert(int dirfd, const char *fqrn, struct lm_cert **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_PEM_MAX);
	int r = read_file(dirfd, fqrn, FILE_CERT, &text, err);
	return r < 0 ? r : lm_cert_parse(lm_buf_cstr(&text), text.len, ret, err);
}

int lm_repo_keys_load(const char *dir, const char *fqrn, struct lm_repo_keys *ret, struct lm_err *err)
{
	if (!lm_fqrn_valid(fqrn))
		return lm_err_set(err, -EINVAL, "'%s' is no name for a repository", fqrn);
	CLEANUP(lm_closep) int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return lm_err_sys(err, -errno, "keys of %s: %s", fqrn, dir);
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys keys = {0};
	struct lm_err why = LM_ERR_INIT;
	int r = read_key(dirfd, fqrn, FILE_KEY, &keys.key, &why);
	if (r == 0)
		r = read_cert(dirfd, fqrn, &keys.cert, &why);
	if (r == 0 && !lm_cert_matches_key(keys.cert, keys.key))
		r = lm_err_set(&why, -EINVAL, "the certificate belongs to another key");
	if (r == 0) {
		r = read_key(dirfd, fqrn, FILE_MASTER, &keys.master, &why);
		if (r == -ENOENT)
			r = 0; /* kept elsewhere: whitelists are signed there */
	}
	if (r < 0)
		return lm_err_set(err, r, "keys of %s in %s: %s", fqrn, dir, lm_err_text(&why));
	*ret = keys;
	keys = (struct lm_repo_keys){0};
	return 0;
}
