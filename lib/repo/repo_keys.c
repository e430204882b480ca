#include "repo/repo_keys.h"

#include "base/file.h"
#include "base/str.h"
#include "repo/manifest.h"

#include <stdio.h>
#include <sys/stat.h>

/* What stock servers make. Both kinds of signatures depend on the key's length in no way. */
enum { KEY_BITS = 2048 };

enum key_file { FILE_KEY, FILE_CERT, FILE_MASTER, FILE_PUBLIC, FILE_COUNT, FILE_NEW_KEY = FILE_COUNT, FILE_NEW_CERT };

static const struct {
	const char *suffix;
	mode_t mode;
} key_files[] = {
	[FILE_KEY] = {".key", 0600},
	[FILE_CERT] = {".crt", 0644},
	[FILE_MASTER] = {".masterkey", 0600},
	[FILE_PUBLIC] = {".pub", 0644},
	[FILE_NEW_KEY] = {".key.new", 0600},
	[FILE_NEW_CERT] = {".crt.new", 0644},
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
	case FILE_NEW_KEY:
		return lm_key_format_private(keys->key, ret, err);
	case FILE_CERT:
	case FILE_NEW_CERT:
		return lm_cert_format(keys->cert, ret, err);
	case FILE_MASTER:
		return lm_key_format_private(keys->master, ret, err);
	default:
		return lm_key_format_public(keys->master, ret, err);
	}
}

/* flags: LM_FILE_EXCLUSIVE or 0. */
static int write_file(int dirfd, const char *fqrn, const struct lm_repo_keys *keys, enum key_file file, unsigned flags,
	struct lm_err *err)
{
	char name[NAME_MAX_BYTES];
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_PEM_MAX);
	file_name(fqrn, file, name);
	int r = format(keys, file, &text, err);
	if (r == 0)
		r = lm_file_replace(dirfd, name, text.data, text.len, key_files[file].mode, LM_FILE_SYNC | flags, err);
	if (text.data)
		explicit_bzero(text.data, text.len);
	return r;
}

/* All files or none: what was written before a failure goes again. */
static int write_files(int dirfd, const char *fqrn, const struct lm_repo_keys *keys, struct lm_err *err)
{
	for (unsigned i = 0; i < FILE_COUNT; i++) {
		int r = write_file(dirfd, fqrn, keys, i, LM_FILE_EXCLUSIVE, err);
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

static bool is_there(int dirfd, const char *fqrn, enum key_file file)
{
	char name[NAME_MAX_BYTES];
	file_name(fqrn, file, name);
	return faccessat(dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int check_none_there(int dirfd, const char *dir, const char *fqrn, struct lm_err *err)
{
	for (unsigned i = 0; i < FILE_COUNT; i++) {
		if (is_there(dirfd, fqrn, i))
			return lm_err_set(err, -EEXIST, "%s/%s%s is there already", dir, fqrn, key_files[i].suffix);
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

static int read_pem(int dirfd, const char *name, bool private, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return lm_err_sys(err, -errno, "%s", name);
	if (private && st.st_mode & 077)
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

static int read_private(int dirfd, const char *name, struct lm_key **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_PEM_MAX);
	int r = read_pem(dirfd, name, true, &text, err);
	if (r < 0)
		return r;
	r = lm_key_parse_private(lm_buf_cstr(&text), text.len, ret, err);
	if (text.data)
		explicit_bzero(text.data, text.len);
	return r < 0 ? lm_err_prefix(err, r, "%s", name) : 0;
}

static int read_cert(int dirfd, const char *name, struct lm_cert **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_PEM_MAX);
	int r = read_pem(dirfd, name, false, &text, err);
	if (r < 0)
		return r;
	r = lm_cert_parse(lm_buf_cstr(&text), text.len, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "%s", name) : 0;
}

static int check_pair(const struct lm_repo_keys *keys, struct lm_err *err)
{
	return lm_cert_matches_key(keys->cert, keys->key)
		       ? 0
		       : lm_err_set(err, -EINVAL, "the certificate belongs to another key");
}

static int read_pair(
	int dirfd, const char *key_name, const char *cert_name, struct lm_repo_keys *ret, struct lm_err *err)
{
	int r = read_private(dirfd, key_name, &ret->key, err);
	if (r == 0)
		r = read_cert(dirfd, cert_name, &ret->cert, err);
	return r < 0 ? r : check_pair(ret, err);
}

static int read_master(int dirfd, const char *fqrn, struct lm_repo_keys *keys, struct lm_err *err)
{
	char name[NAME_MAX_BYTES];
	struct lm_err why = LM_ERR_INIT;
	file_name(fqrn, FILE_MASTER, name);
	int r = keys->master ? 0 : read_private(dirfd, name, &keys->master, &why);
	if (r == -ENOENT)
		return 0; /* kept elsewhere: whitelists are signed there */
	return r < 0 ? lm_err_set(err, r, "%s", lm_err_text(&why)) : 0;
}

static int open_dir(const char *dir, const char *fqrn, struct lm_err *err)
{
	if (!lm_fqrn_valid(fqrn))
		return lm_err_set(err, -EINVAL, "'%s' is no name for a repository", fqrn);
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? lm_err_sys(err, -errno, "keys of %s: %s", fqrn, dir) : fd;
}

int lm_repo_keys_load(const char *dir, const char *fqrn, struct lm_repo_keys *ret, struct lm_err *err)
{
	CLEANUP(lm_closep) int dirfd = open_dir(dir, fqrn, err);
	if (dirfd < 0)
		return dirfd;
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys keys = {0};
	char key_name[NAME_MAX_BYTES], cert_name[NAME_MAX_BYTES];
	struct lm_err why = LM_ERR_INIT;
	file_name(fqrn, FILE_KEY, key_name);
	file_name(fqrn, FILE_CERT, cert_name);
	int r = read_pair(dirfd, key_name, cert_name, &keys, &why);
	if (r == -EINVAL && is_there(dirfd, fqrn, FILE_NEW_KEY))
		r = lm_err_set(&why, r, "a change of the certificate was interrupted (%s.key.new is there)", fqrn);
	if (r == 0)
		r = read_master(dirfd, fqrn, &keys, &why);
	if (r < 0)
		return lm_err_set(err, r, "keys of %s in %s: %s", fqrn, dir, lm_err_text(&why));
	*ret = keys;
	keys = (struct lm_repo_keys){0};
	return 0;
}

/*
 * Changing key and certificate
 */

int lm_repo_keys_read_pair(const char *key_path, const char *cert_path, struct lm_repo_keys *ret, struct lm_err *err)
{
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys keys = {0};
	int r = read_pair(AT_FDCWD, key_path, cert_path, &keys, err);
	if (r < 0)
		return r;
	ret->key = STEAL(keys.key);
	ret->cert = STEAL(keys.cert);
	return 0;
}

/* The certificate of a staged key is staged, or installed already, or was not yet made. */
static int find_staged_cert(int dirfd, const char *fqrn, struct lm_repo_keys *keys, struct lm_err *err)
{
	static const enum key_file files[] = {FILE_NEW_CERT, FILE_CERT};
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		char name[NAME_MAX_BYTES];
		CLEANUP(lm_cert_freep) struct lm_cert *cert = NULL;
		file_name(fqrn, files[i], name);
		if (read_cert(dirfd, name, &cert, NULL) == 0 && lm_cert_matches_key(cert, keys->key)) {
			keys->cert = STEAL(cert);
			return 0;
		}
	}
	int r = lm_cert_make(keys->key, fqrn, &keys->cert, err);
	return r < 0 ? r : write_file(dirfd, fqrn, keys, FILE_NEW_CERT, 0, err);
}

/* The key first: a certificate alone is worth nothing. */
static int write_staged(int dirfd, const char *fqrn, const struct lm_repo_keys *keys, struct lm_err *err)
{
	int r = check_pair(keys, err);
	if (r == 0)
		r = write_file(dirfd, fqrn, keys, FILE_NEW_KEY, 0, err);
	return r < 0 ? r : write_file(dirfd, fqrn, keys, FILE_NEW_CERT, 0, err);
}

static int make_staged(int dirfd, const char *fqrn, struct lm_repo_keys *keys, struct lm_err *err)
{
	int r = lm_key_generate(KEY_BITS, &keys->key, err);
	if (r == 0)
		r = lm_cert_make(keys->key, fqrn, &keys->cert, err);
	return r < 0 ? r : write_staged(dirfd, fqrn, keys, err);
}

static int stage(int dirfd, const char *fqrn, struct lm_repo_keys *keys, struct lm_err *err)
{
	char name[NAME_MAX_BYTES];
	if (keys->key && keys->cert)
		return write_staged(dirfd, fqrn, keys, err);
	if (!is_there(dirfd, fqrn, FILE_NEW_KEY))
		return make_staged(dirfd, fqrn, keys, err);
	file_name(fqrn, FILE_NEW_KEY, name);
	int r = read_private(dirfd, name, &keys->key, err);
	return r < 0 ? r : find_staged_cert(dirfd, fqrn, keys, err);
}

int lm_repo_keys_stage(const char *dir, const char *fqrn, struct lm_repo_keys *keys, struct lm_err *err)
{
	CLEANUP(lm_closep) int dirfd = open_dir(dir, fqrn, err);
	if (dirfd < 0)
		return dirfd;
	int r = stage(dirfd, fqrn, keys, err);
	if (r == 0)
		r = read_master(dirfd, fqrn, keys, err);
	return r < 0 ? lm_err_prefix(err, r, "keys of %s in %s", fqrn, dir) : 0;
}

/* The staged file takes the place of the one in use, which gets the name NAME.xxx.old. At no time is there none. */
static int install(int dirfd, const char *fqrn, enum key_file from, enum key_file to, struct lm_err *err)
{
	char staged[NAME_MAX_BYTES], used[NAME_MAX_BYTES], old[NAME_MAX_BYTES + 4];
	file_name(fqrn, from, staged);
	file_name(fqrn, to, used);
	snprintf(old, sizeof(old), "%s.old", used);
	if (!is_there(dirfd, fqrn, from))
		return 0;
	if (unlinkat(dirfd, old, 0) < 0 && errno != ENOENT)
		return lm_err_sys(err, -errno, "remove %s", old);
	if (linkat(dirfd, used, dirfd, old, 0) < 0 && errno != ENOENT)
		return lm_err_sys(err, -errno, "keep %s as %s", used, old);
	if (renameat(dirfd, staged, dirfd, used) < 0)
		return lm_err_sys(err, -errno, "rename %s to %s", staged, used);
	return 0;
}

int lm_repo_keys_install(const char *dir, const char *fqrn, struct lm_err *err)
{
	CLEANUP(lm_closep) int dirfd = open_dir(dir, fqrn, err);
	if (dirfd < 0)
		return dirfd;
	/* The key last: while it is staged, a change that was interrupted is known to be unfinished. */
	int r = install(dirfd, fqrn, FILE_NEW_CERT, FILE_CERT, err);
	if (r == 0)
		r = install(dirfd, fqrn, FILE_NEW_KEY, FILE_KEY, err);
	if (r == 0)
		r = lm_dir_sync(dirfd, ".", err);
	return r < 0 ? lm_err_prefix(err, r, "keys of %s in %s", fqrn, dir) : 0;
}
