#include "oci/trust.h"

#include "base/file.h"
#include "base/str.h"

#include <dirent.h>
#include <string.h>

enum { PEM_MAX = 4 << 20 };

static void close_folder(DIR *folder)
{
	if (folder)
		closedir(folder);
}
LM_DEFINE_CLEANUP(DIR, close_folder, closedirp)

void lm_trust_done(struct lm_trust *trust)
{
	free(trust->ca_pem);
	free(trust->cert_file);
	free(trust->key_file);
	*trust = (struct lm_trust){0};
}

void lm_trust_apply(const struct lm_trust *trust, struct lm_http_request *request)
{
	if (!trust)
		return;
	request->ca_pem = trust->ca_pem;
	request->cert_file = trust->cert_file;
	request->key_file = trust->key_file;
}

/* The first pair by name, so that the order of the folder does not matter. */
static int note_pair(const char *dir, const char *name, struct lm_trust *trust, struct lm_err *err)
{
	CLEANUP(lm_freep) char *cert = lm_str_printf("%s/%s", dir, name);
	CLEANUP(lm_freep) char *key = lm_str_printf("%s/%.*s.key", dir, (int)(strlen(name) - strlen(".cert")), name);
	if (!cert || !key)
		return lm_err_oom(err);
	if (access(key, R_OK) < 0)
		return lm_err_sys(err, -errno, "%s, the key of %s", key, name);
	if (trust->cert_file && strcmp(trust->cert_file, cert) < 0)
		return 0;
	free(trust->cert_file);
	free(trust->key_file);
	trust->cert_file = STEAL(cert);
	trust->key_file = STEAL(key);
	return 0;
}

static int read_folder(DIR *folder, const char *dir, struct lm_trust *trust, struct lm_buf *pem, struct lm_err *err)
{
	int r = 0;
	for (struct dirent *entry; r == 0 && (entry = readdir(folder));) {
		if (lm_str_ends(entry->d_name, ".crt")) {
			r = lm_file_read(dirfd(folder), entry->d_name, pem, err);
			if (r == 0 && lm_buf_str(pem, "\n") < 0)
				r = lm_err_set(err, -EMSGSIZE, "more than %d bytes of certificates", PEM_MAX);
		} else if (lm_str_ends(entry->d_name, ".cert")) {
			r = note_pair(dir, entry->d_name, trust, err);
		}
	}
	return r;
}

/* 1 loaded, 0 there is no such folder. */
static int load_folder(const char *dir, struct lm_trust *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(PEM_MAX);
	CLEANUP(lm_trust_done) struct lm_trust trust = {0};
	CLEANUP(closedirp) DIR *folder = opendir(dir);
	if (!folder)
		return errno == ENOENT || errno == ENOTDIR ? 0 : lm_err_sys(err, -errno, "%s", dir);
	int r = read_folder(folder, dir, &trust, &pem, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", dir);
	trust.ca_pem = (char *)lm_buf_steal(&pem, NULL);
	*ret = trust;
	trust = (struct lm_trust){0};
	return 1;
}

int lm_trust_load(const char *dir, const char *registry, struct lm_trust *ret, struct lm_err *err)
{
	static const char *const usual[] = {"/etc/containers/certs.d", "/etc/docker/certs.d"};
	const char *home = getenv("HOME");
	int r = 0;
	if (dir) {
		r = load_folder(dir, ret, err);
		return r == 0 ? lm_err_set(err, -ENOENT, "%s: no such folder of certificates", dir) : LM_MIN(r, 0);
	}
	if (home && *home) {
		CLEANUP(lm_freep) char *own = lm_str_printf("%s/.config/containers/certs.d/%s", home, registry);
		r = own ? load_folder(own, ret, err) : lm_err_oom(err);
	}
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(usual); i++) {
		CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", usual[i], registry);
		r = path ? load_folder(path, ret, err) : lm_err_oom(err);
	}
	return LM_MIN(r, 0);
}
