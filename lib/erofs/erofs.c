#include "erofs/erofs_internal.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum {
	ARENA_CHUNK = 256 << 10,
	MAJOR_MAX = 0xfff, /* the kernel's dev_t */
	MINOR_MAX = 0xfffff,
	NS_PER_S = 1000000000,
};

struct lm_erofs_arena {
	struct lm_erofs_arena *next;
	size_t used, size;
	uint8_t bytes[];
};

void *lm_erofs_keep(struct lm_erofs *erofs, size_t len)
{
	struct lm_erofs_arena *chunk = erofs->arena;
	if (!chunk || chunk->size - chunk->used < len) {
		size_t size = LM_MAX(len, (size_t)ARENA_CHUNK);
		chunk = malloc(sizeof(*chunk) + size);
		if (!chunk)
			return NULL;
		chunk->used = 0;
		chunk->size = size;
		chunk->next = erofs->arena;
		erofs->arena = chunk;
	}
	void *at = chunk->bytes + chunk->used;
	chunk->used += len;
	return at;
}

static const char *keep_string(struct lm_erofs *erofs, const char *s, size_t len)
{
	char *kept = lm_erofs_keep(erofs, len + 1);
	if (kept) {
		memcpy(kept, s, len);
		kept[len] = '\0';
	}
	return kept;
}

/* Room for count + 1 members; false when memory is short. */
static bool grow(void **array, size_t *cap, size_t count, size_t size)
{
	if (count < *cap)
		return true;
	size_t wanted = LM_MAX(*cap * 2, (size_t)256);
	void *grown = reallocarray(*array, wanted, size);
	if (!grown)
		return false;
	*array = grown;
	*cap = wanted;
	return true;
}

int lm_erofs_new(struct lm_erofs **ret, struct lm_err *err)
{
	struct lm_erofs *erofs = calloc(1, sizeof(*erofs));
	if (!erofs)
		return lm_err_oom(err);
	*ret = erofs;
	return 0;
}

void lm_erofs_free(struct lm_erofs *erofs)
{
	if (!erofs)
		return;
	for (struct lm_erofs_arena *chunk = erofs->arena, *next; chunk; chunk = next) {
		next = chunk->next;
		free(chunk);
	}
	free(erofs->inodes);
	free(erofs->entries);
	free(erofs);
}

/* Puts a name before the others of its directory; lm_erofs_lay_out() sorts them. */
static int add_entry(
	struct lm_erofs *erofs, uint32_t directory, const char *name, size_t len, uint32_t inode, struct lm_err *err)
{
	if (erofs->entry_count == NO_ENTRY)
		return lm_err_set(err, -EFBIG, "more than %u names", NO_ENTRY);
	if (!grow((void **)&erofs->entries, &erofs->entry_cap, erofs->entry_count, sizeof(*erofs->entries)))
		return lm_err_oom(err);
	struct lm_erofs_inode *parent = &erofs->inodes[directory];
	erofs->entries[erofs->entry_count] = (struct lm_erofs_entry){name, inode, parent->entries, (uint8_t)len};
	parent->entries = erofs->entry_count++;
	return 0;
}

/*
 * Inodes
 */

static int check_string(const char *what, const char *text, bool wanted, struct lm_err *err)
{
	if (!wanted)
		return text ? lm_err_set(err, -EINVAL, "a %s for what can have none", what) : 0;
	if (!text || !*text)
		return lm_err_set(err, -EINVAL, "no %s", what);
	if (strnlen(text, LM_EROFS_TARGET_MAX + 1) > LM_EROFS_TARGET_MAX)
		return lm_err_set(err, -EINVAL, "%s of more than %d bytes: %.64s...", what, LM_EROFS_TARGET_MAX, text);
	return 0;
}

/* As overlayfs takes them: absolute, and no component is empty. */
static int check_redirect(const char *redirect, struct lm_err *err)
{
	if (redirect[0] != '/' || redirect[strlen(redirect) - 1] == '/' || strstr(redirect, "//"))
		return lm_err_set(err, -EINVAL, "redirect that is not absolute or has empty parts: %s", redirect);
	return 0;
}

static int check_content(const struct lm_erofs_attr *attr, struct lm_err *err)
{
	if (!attr->content)
		return 0;
	if (!S_ISREG(attr->mode) || attr->size == 0)
		return lm_err_set(err, -EINVAL, "content of what can have none");
	if (attr->content_at % BLOCK != 0)
		return lm_err_set(err, -EINVAL, "content that does not begin with a block");
	if (attr->content_at > LM_EROFS_IMAGE_MAX || attr->size > LM_EROFS_IMAGE_MAX - attr->content_at)
		return lm_err_set(err, -EFBIG, "more than 16 TiB of content");
	return 0;
}

static int check_file(const struct lm_erofs_attr *attr, struct lm_err *err)
{
	if (attr->size > LM_EROFS_SIZE_MAX)
		return lm_err_set(err, -EFBIG, "file of %llu bytes, at most %llu are possible",
			(unsigned long long)attr->size, (unsigned long long)LM_EROFS_SIZE_MAX);
	int r = check_string("redirect", attr->redirect, attr->size > 0 && !attr->content, err);
	if (r < 0 || !attr->redirect)
		return r;
	return check_redirect(attr->redirect, err);
}

static int check_attr(const struct lm_erofs *erofs, const struct lm_erofs_attr *attr, struct lm_err *err)
{
	uint32_t type = attr->mode & S_IFMT;
	if (attr->mode > UINT16_MAX)
		return lm_err_set(err, -EINVAL, "mode %o", attr->mode);
	if (attr->mtime_ns >= NS_PER_S)
		return lm_err_set(err, -EINVAL, "modified at %u nanoseconds of a second", attr->mtime_ns);
	if (erofs->inode_count == 0 && !S_ISDIR(type))
		return lm_err_set(err, -EINVAL, "the root is no directory");
	int r = check_string("target", attr->target, S_ISLNK(type), err);
	if (r == 0)
		r = check_content(attr, err);
	if (r < 0)
		return r;
	if (S_ISREG(type))
		return check_file(attr, err);
	if (S_ISCHR(type) || S_ISBLK(type)) {
		if (major(attr->rdev) > MAJOR_MAX || minor(attr->rdev) > MINOR_MAX)
			return lm_err_set(err, -EINVAL, "device %u:%u", major(attr->rdev), minor(attr->rdev));
	} else if (!S_ISDIR(type) && !S_ISLNK(type) && !S_ISFIFO(type) && !S_ISSOCK(type)) {
		return lm_err_set(err, -EINVAL, "mode %o: no type of a file", attr->mode);
	}
	return check_string("redirect", attr->redirect, false, err);
}

/* The kernel's new_encode_dev(). */
static uint32_t encode_device(uint64_t rdev)
{
	uint32_t low = minor(rdev) & 0xff, high = minor(rdev) & ~0xffU;
	return low | major(rdev) << 8 | high << 12;
}

static int fill_inode(
	struct lm_erofs *erofs, const struct lm_erofs_attr *attr, struct lm_erofs_inode *ret, struct lm_err *err)
{
	struct lm_erofs_inode inode = {
		.mode = attr->mode,
		.uid = attr->uid,
		.gid = attr->gid,
		.shown_links = attr->links,
		.mtime_s = attr->mtime_s,
		.mtime_ns = attr->mtime_ns,
		.at = NOT_PLACED,
		.entries = NO_ENTRY,
		.parent = NO_ENTRY,
	};
	if (S_ISREG(attr->mode))
		inode.size = attr->size;
	inode.content = attr->content;
	inode.block = attr->content ? (uint32_t)(attr->content_at / BLOCK) : 0;
	if (S_ISCHR(attr->mode) || S_ISBLK(attr->mode))
		inode.rdev = encode_device(attr->rdev);
	if (S_ISLNK(attr->mode)) {
		inode.size = strlen(attr->target);
		inode.target = keep_string(erofs, attr->target, inode.size);
		if (!inode.target)
			return lm_err_oom(err);
	}
	int r = lm_erofs_attributes(erofs, attr, &inode, err);
	if (r < 0)
		return r;
	*ret = inode;
	return 0;
}

/* "." and ".." are names like others, which have their place in the order; lm_erofs_link() sets what ".." is. */
static int add_dots(struct lm_erofs *erofs, uint32_t directory, struct lm_err *err)
{
	int r = add_entry(erofs, directory, ".", 1, directory, err);
	return r < 0 ? r : add_entry(erofs, directory, "..", 2, directory, err);
}

static struct lm_erofs_entry *dot_dot(struct lm_erofs *erofs, uint32_t directory)
{
	uint32_t i = erofs->inodes[directory].entries;
	while (strcmp(erofs->entries[i].name, "..") != 0)
		i = erofs->entries[i].next;
	return &erofs->entries[i];
}

int lm_erofs_inode(struct lm_erofs *erofs, const struct lm_erofs_attr *attr, uint32_t *ret, struct lm_err *err)
{
	uint32_t number = erofs->inode_count;
	if (erofs->written)
		return lm_err_set(err, -EINVAL, "the image is written");
	if (number == UINT32_MAX)
		return lm_err_set(err, -EFBIG, "more than %u files", UINT32_MAX);
	int r = check_attr(erofs, attr, err);
	if (r < 0)
		return r;
	if (!grow((void **)&erofs->inodes, &erofs->inode_cap, number, sizeof(*erofs->inodes)))
		return lm_err_oom(err);
	r = fill_inode(erofs, attr, &erofs->inodes[number], err);
	if (r == 0 && S_ISDIR(attr->mode))
		r = add_dots(erofs, number, err);
	if (r < 0)
		return r;
	erofs->inode_count++;
	erofs->directories += S_ISDIR(attr->mode);
	*ret = number;
	return 0;
}

/*
 * Names
 */

static int check_name(const char *name, size_t len, struct lm_err *err)
{
	if (len == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strchr(name, '/'))
		return lm_err_set(err, -EINVAL, "\"%.*s\" can't be a name", LM_EROFS_NAME_MAX, name);
	if (len > LM_EROFS_NAME_MAX)
		return lm_err_set(err, -EINVAL, "name of more than %d bytes: %.64s...", LM_EROFS_NAME_MAX, name);
	return 0;
}

static int check_link(
	const struct lm_erofs *erofs, uint32_t directory, const char *name, uint32_t inode, struct lm_err *err)
{
	if (erofs->written)
		return lm_err_set(err, -EINVAL, "%s: the image is written", name);
	if (directory >= erofs->inode_count || inode >= erofs->inode_count)
		return lm_err_set(err, -EINVAL, "%s: no inode %u", name, LM_MAX(directory, inode));
	if (!S_ISDIR(erofs->inodes[directory].mode))
		return lm_err_set(err, -EINVAL, "%s: its parent is no directory", name);
	const struct lm_erofs_inode *named = &erofs->inodes[inode];
	if (S_ISDIR(named->mode) && inode == 0)
		return lm_err_set(err, -EINVAL, "%s: the root can't have a name", name);
	if (S_ISDIR(named->mode) && named->parent != NO_ENTRY)
		return lm_err_set(
			err, -EINVAL, "%s: a directory that is %s already", name, erofs->entries[named->parent].name);
	return 0;
}

int lm_erofs_link(struct lm_erofs *erofs, uint32_t directory, const char *name, uint32_t inode, struct lm_err *err)
{
	size_t len = strnlen(name, LM_EROFS_NAME_MAX + 1);
	int r = check_name(name, len, err);
	if (r == 0)
		r = check_link(erofs, directory, name, inode, err);
	if (r < 0)
		return r;
	const char *kept = keep_string(erofs, name, len);
	if (!kept)
		return lm_err_oom(err);
	r = add_entry(erofs, directory, kept, len, inode, err);
	if (r < 0)
		return r;
	if (S_ISDIR(erofs->inodes[inode].mode)) {
		erofs->inodes[inode].parent = erofs->inodes[directory].entries;
		dot_dot(erofs, inode)->inode = directory;
	}
	return 0;
}
