#include "snapshotter/overlay.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"
#include "snapshotter/mapped.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LOWERDIR_MAX (1 << 20) /* far beyond what any kernel takes */

struct lm_mount_options lm_overlay_probe(void)
{
	struct lm_mount_options options = {.index_off = access("/sys/module/overlay/parameters/index", F_OK) == 0,
		.xino_on = access("/sys/module/overlay/parameters/xino_auto", F_OK) == 0};
	CLEANUP(lm_buf_done) struct lm_buf map = LM_BUF(4096);
	/* The initial namespace maps everything to itself in one line. */
	unsigned long long inside, outside, length;
	if (lm_file_read(AT_FDCWD, "/proc/self/uid_map", &map, NULL) == 0 &&
		sscanf(lm_buf_cstr(&map), "%llu %llu %llu", &inside, &outside, &length) == 3)
		options.user_xattr = inside != 0 || outside != 0 || length != UINT32_MAX;
	return options;
}

void lm_mount_done(struct lm_mount *mount)
{
	free(mount->source);
	for (size_t i = 0; i < mount->n_options; i++)
		free(mount->options[i]);
	*mount = (struct lm_mount){0};
}

static int add_option(struct lm_mount *mount, const char *name, const char *value, struct lm_err *err)
{
	char *option = NULL;
	if (mount->n_options == LM_MOUNT_OPTIONS_MAX || asprintf(&option, "%s%s", name, value) < 0)
		return lm_err_oom(err);
	mount->options[mount->n_options++] = option;
	return 0;
}

static char *path_of(const char *prefix, const struct lm_snapshot *snapshot, const char *below)
{
	return lm_str_printf("%s/%" PRId64 "/%s", prefix, snapshot->id, below);
}

/* --- what lies below --- */

void lm_lowers_done(struct lm_lowers *lowers)
{
	for (size_t i = 0; i < lowers->count; i++)
		free(lowers->paths[i]);
	free(lowers->paths);
	*lowers = (struct lm_lowers){0};
}

/* Takes the path. */
static int add_path(struct lm_lowers *lowers, char *path)
{
	char **paths = path ? reallocarray(lowers->paths, lowers->count + 1, sizeof(*paths)) : NULL;
	if (!paths) {
		free(path);
		return -ENOMEM;
	}
	lowers->paths = paths;
	lowers->paths[lowers->count++] = path;
	return 0;
}

/* What belongs below a lean layer is there if it is needed (layout.h). */
static int add_lean(struct lm_lowers *lowers, const char *prefix, const struct lm_snapshot *at)
{
	CLEANUP(lm_freep) char *opaque = path_of(prefix, at, "opaque");
	int r = opaque ? add_path(lowers, path_of(prefix, at, "lean")) : -ENOMEM;
	if (r < 0 || !at->parent)
		return r;
	if (access(opaque, F_OK) < 0)
		return errno == ENOENT ? 0 : -errno;
	return add_path(lowers, STEAL(opaque));
}

int lm_overlay_lowers(const char *prefix, const struct lm_snapshot *snapshot, const struct lm_lower *lower,
	struct lm_lowers *ret, struct lm_err *err)
{
	int r = lower->tree ? add_path(ret, strdup(lower->tree)) : 0;
	for (const struct lm_snapshot *at = snapshot->parent; at && !lower->tree && r == 0; at = at->parent) {
		bool has_lean = lower->lean && at->layer_path;
		r = has_lean ? add_lean(ret, prefix, at) : add_path(ret, path_of(prefix, at, "fs"));
	}
	if (r == 0)
		return 0;
	lm_lowers_done(ret);
	return lm_err_sys(err, r, "list of lower directories");
}

/* The clone of the i-th of them. */
static char *clone_of(const char *prefix, const struct lm_snapshot *snapshot, size_t i)
{
	return lm_str_printf("%s/%" PRId64 "/" LM_MAPPED_PREFIX "%zu", prefix, snapshot->id, i);
}

static int print_lowers(struct lm_buf *list, const char *prefix, const struct lm_snapshot *snapshot,
	const struct lm_lowers *lowers, bool mapped)
{
	int r = 0;
	for (size_t i = 0; i < lowers->count && r == 0; i++) {
		CLEANUP(lm_freep) char *clone = mapped ? clone_of(prefix, snapshot, i) : NULL;
		r = mapped && !clone ? -ENOMEM
				     : lm_buf_printf(list, "%s%s", i ? ":" : "", mapped ? clone : lowers->paths[i]);
	}
	return r;
}

static int add_lower(const char *prefix, const struct lm_snapshot *snapshot, const struct lm_lower *lower,
	struct lm_mount *mount, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf list = LM_BUF(LOWERDIR_MAX);
	CLEANUP(lm_lowers_done) struct lm_lowers lowers = {0};
	int r = lm_overlay_lowers(prefix, snapshot, lower, &lowers, err);
	if (r < 0)
		return r;
	r = print_lowers(&list, prefix, snapshot, &lowers, lower->mapped);
	if (r == 0 && lower->padded && snapshot->kind == LM_VIEW)
		r = lm_buf_printf(&list, ":%s/%" PRId64 "/fs", prefix, snapshot->id);
	if (r == 0 && lower->tree)
		r = lm_buf_printf(&list, "::%s", lower->data);
	return r < 0 ? lm_err_sys(err, r, "list of lower directories")
		     : add_option(mount, "lowerdir=", lm_buf_cstr(&list), err);
}

/* --- the mount --- */

/* Takes the source. */
static int bind_mount(char *source, bool writable, struct lm_mount *mount, struct lm_err *err)
{
	mount->type = "bind";
	mount->source = source;
	if (!mount->source)
		return lm_err_oom(err);
	int r = add_option(mount, "", writable ? "rw" : "ro", err);
	return r < 0 ? r : add_option(mount, "", "rbind", err);
}

static int add_upper(const char *prefix, const struct lm_snapshot *snapshot, struct lm_mount *mount, struct lm_err *err)
{
	CLEANUP(lm_freep) char *work = path_of(prefix, snapshot, "work");
	CLEANUP(lm_freep) char *fs = path_of(prefix, snapshot, "fs");
	if (!work || !fs)
		return lm_err_oom(err);
	int r = add_option(mount, "workdir=", work, err);
	return r < 0 ? r : add_option(mount, "upperdir=", fs, err);
}

size_t lm_overlay_words(const struct lm_mount_options *options, const char **ret)
{
	size_t count = 0;
	if (options->index_off)
		ret[count++] = "index=off";
	if (options->xino_on)
		ret[count++] = "xino=on";
	if (options->user_xattr)
		ret[count++] = "userxattr";
	return count;
}

static int overlay_mount(const char *prefix, const struct lm_mount_options *options, const struct lm_snapshot *snapshot,
	const struct lm_lower *lower, struct lm_mount *mount, struct lm_err *err)
{
	mount->type = "overlay";
	mount->source = strdup("overlay");
	if (!mount->source)
		return lm_err_oom(err);
	const char *words[LM_MOUNT_OPTIONS_MAX];
	size_t count = lm_overlay_words(options, words);
	int r = 0;
	for (size_t i = 0; i < count && r == 0; i++)
		r = add_option(mount, "", words[i], err);
	if (r == 0 && snapshot->kind == LM_ACTIVE)
		r = add_upper(prefix, snapshot, mount, err);
	return r < 0 ? r : add_lower(prefix, snapshot, lower, mount, err);
}

int lm_overlay_mount(const char *prefix, const struct lm_mount_options *options, const struct lm_snapshot *snapshot,
	const struct lm_lower *lower, struct lm_mount *ret, struct lm_err *err)
{
	if (snapshot->kind == LM_COMMITTED)
		return lm_err_set(err, -EINVAL, "a committed snapshot has no mounts");
	CLEANUP(lm_mount_done) struct lm_mount mount = {0};
	int r;
	if (!snapshot->parent)
		r = bind_mount(path_of(prefix, snapshot, "fs"), snapshot->kind == LM_ACTIVE, &mount, err);
	else if (snapshot->kind == LM_VIEW && !snapshot->parent->parent)
		r = bind_mount(lower->mapped ? clone_of(prefix, snapshot, 0) : path_of(prefix, snapshot->parent, "fs"),
			false, &mount, err);
	else
		r = overlay_mount(prefix, options, snapshot, lower, &mount, err);
	if (r < 0)
		return r;
	*ret = mount;
	mount = (struct lm_mount){0};
	return 0;
}
