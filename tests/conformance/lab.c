#include "conformance.h"

#include "base/file.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int lab_fail(struct lab *lab, const char *where, int line, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	(void)lm_err_vset(&lab->err, -EBUSY, fmt, args);
	va_end(args);
	return lm_err_prefix(&lab->err, -EBUSY, "%s:%d", where, line);
}

int lab_expect(struct lab *lab, unsigned codes, enum lm_rpc_code code, const char *call, const char *where, int line)
{
	if (codes & 1U << code)
		return 0;
	char wanted[80] = "";
	for (unsigned i = 0; i < 32; i++)
		if (codes & 1U << i)
			snprintf(wanted + strlen(wanted), sizeof(wanted) - strlen(wanted), " %u", i);
	return lab_fail(lab, where, line, "%s: status %u instead of%s: %s", call, (unsigned)code, wanted,
		code == LM_RPC_OK ? "no error" : lm_err_text(&lab->remote.err));
}

enum lm_rpc_code prepare(struct lab *lab, const char *key, const char *parent)
{
	return remote_make(&lab->remote, PREPARE, key, parent, ROOTED, NULL);
}

enum lm_rpc_code view(struct lab *lab, const char *key, const char *parent)
{
	return remote_make(&lab->remote, VIEW, key, parent, ROOTED, NULL);
}

enum lm_rpc_code commit(struct lab *lab, const char *name, const char *key)
{
	return remote_commit(&lab->remote, name, key, ROOTED);
}

int committed(struct lab *lab, const char *name, const char *parent)
{
	CLEANUP(lm_freep) char *key = lm_str_printf("%s-active", name);
	if (!key)
		return lm_err_oom(&lab->err);
	EXPECT(lab, LM_RPC_OK, prepare(lab, key, parent));
	EXPECT(lab, LM_RPC_OK, commit(lab, name, key));
	return 0;
}

int check_info(struct lab *lab, const char *key, V1(Kind) kind, const char *parent)
{
	CLEANUP(info_done) struct info info = {0};
	EXPECT(lab, LM_RPC_OK, remote_stat(&lab->remote, key, &info));
	CHECK(lab, strcmp(info.info->name, key) == 0, "%s calls itself %s", key, info.info->name);
	CHECK(lab, info.info->kind == kind, "%s is of kind %d, not %d", key, (int)info.info->kind, (int)kind);
	CHECK(lab, strcmp(info.info->parent, parent) == 0, "%s has parent \"%s\", not \"%s\"", key, info.info->parent,
		parent);
	return 0;
}

char *lab_directory(struct lab *lab, const char *name)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", lab->dir, name);
	if (!path) {
		(void)lm_err_oom(&lab->err);
		return NULL;
	}
	if (mkdir(path, 0755) < 0 && errno != EEXIST) {
		(void)lm_err_sys(&lab->err, -errno, "make %s", path);
		return NULL;
	}
	return STEAL(path);
}

int lab_write(struct lab *lab, const char *key, const char *parent, const struct step *steps)
{
	CLEANUP(mounts_done) struct mounts mounts = {0};
	CLEANUP(lm_freep) char *dir = lab_directory(lab, key);
	if (!dir)
		return lab->err.code;
	EXPECT(lab, LM_RPC_OK, remote_make(&lab->remote, PREPARE, key, parent, ROOTED, &mounts));
	TRY(mount_all(&mounts, dir, &lab->err));
	int r = trees_apply(dir, steps, &lab->err);
	TRY(unmount(dir, r < 0 ? NULL : &lab->err));
	return r;
}

int lab_compare(struct lab *lab, const char *key, const char *expected)
{
	CLEANUP(mounts_done) struct mounts mounts = {0};
	CLEANUP(lm_freep) char *dir = lab_directory(lab, key);
	CLEANUP(lm_freep) char *scratch = lm_str_printf("%s/differences", lab->dir);
	if (!dir || !scratch)
		return lm_err_oom(&lab->err);
	EXPECT(lab, LM_RPC_OK, remote_mounts(&lab->remote, key, &mounts));
	TRY(mount_all(&mounts, dir, &lab->err));
	int r = trees_compare(lab->options->treediff, expected, dir, scratch, &lab->err);
	if (r < 0)
		(void)lm_err_prefix(&lab->err, r, "%s", key);
	TRY(unmount(dir, r < 0 ? NULL : &lab->err));
	return r;
}

/* One pass: what has children stays. */
static int remove_some(struct lab *lab, size_t *ret_left, size_t *ret_removed)
{
	CLEANUP(listing_done) struct listing listing = {0};
	EXPECT(lab, LM_RPC_OK, remote_list(&lab->remote, NULL, &listing));
	*ret_left = listing.count;
	*ret_removed = 0;
	for (size_t i = 0; i < listing.count; i++) {
		enum lm_rpc_code code = remote_remove(&lab->remote, listing.infos[i]->name);
		CHECK(lab, code == LM_RPC_OK || code == LM_RPC_FAILED_PRECONDITION, "remove %s: %s",
			listing.infos[i]->name, lm_err_text(&lab->remote.err));
		*ret_removed += code == LM_RPC_OK;
	}
	return 0;
}

int lab_empty(struct lab *lab)
{
	size_t left = 1, removed = 1;
	while (left > 0) {
		TRY(remove_some(lab, &left, &removed));
		CHECK(lab, left == 0 || removed > 0, "%zu snapshots can't be removed", left);
	}
	return 0;
}
