/*
 * listing: a tree as repo/listing.h has it, read from a file system.
 *
 *   listing DIR      on standard output; exit code 0, or 1 when something could not be read (said, and listed as far
 *                    as it goes)
 *
 * Numbers of hlgroup are given out in the order of the walk. The format has no room for errors: a file that can't be
 * read has sha256 `error`.
 */
#include "repo/listing.h"
#include "base/str.h"

#include <dirent.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

enum { PATH_BYTES_MAX = 64 << 10, TEXT_MAX = 64 << 20, XATTRS_MAX = 1024 };

struct walk {
	struct lm_buf path; /* as seen from the root of the tree; "" is the root */
	size_t root_len;
	void *inodes; /* tsearch tree of struct inode */
	unsigned groups;
	bool failed;
};

struct inode {
	ino_t ino;
	unsigned group;
};

static void complain(struct walk *walk, const char *what)
{
	fprintf(stderr, "listing: %s %s: %s\n", what, lm_buf_cstr(&walk->path), strerror(errno));
	walk->failed = true;
}

static void must(int r)
{
	if (r < 0) {
		fputs("listing: out of memory or path too long\n", stderr);
		exit(2);
	}
}

static int cmp_inode(const void *a, const void *b)
{
	ino_t x = ((const struct inode *)a)->ino, y = ((const struct inode *)b)->ino;
	return (x > y) - (x < y);
}

static unsigned group_of(struct walk *walk, ino_t ino)
{
	struct inode *fresh = malloc(sizeof(*fresh));
	must(fresh ? 0 : -ENOMEM);
	*fresh = (struct inode){.ino = ino, .group = walk->groups + 1};
	struct inode **at = tsearch(fresh, &walk->inodes, cmp_inode);
	must(at ? 0 : -ENOMEM);
	if (*at == fresh)
		walk->groups++;
	else
		free(fresh);
	return (*at)->group;
}

/* 64 digits, or "error". */
static const char *content_hash(struct walk *walk)
{
	static uint8_t block[256 << 10];
	static char hex[2 * EVP_MAX_MD_SIZE + 1];
	uint8_t digest[EVP_MAX_MD_SIZE];
	unsigned len;
	CLEANUP(lm_closep) int fd = open(lm_buf_cstr(&walk->path), O_RDONLY | O_CLOEXEC);
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	must(context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) ? 0 : -ENOMEM);
	ssize_t n = -1;
	while (fd >= 0 && (n = read(fd, block, sizeof(block))) > 0)
		EVP_DigestUpdate(context, block, (size_t)n);
	if (n < 0)
		complain(walk, "read");
	EVP_DigestFinal_ex(context, digest, &len);
	EVP_MD_CTX_free(context);
	lm_hex_format(digest, len, hex);
	return n < 0 ? "error" : hex;
}

static const char *link_target(struct walk *walk)
{
	static char target[PATH_BYTES_MAX];
	ssize_t len = readlink(lm_buf_cstr(&walk->path), target, sizeof(target) - 1);
	if (len < 0)
		complain(walk, "readlink");
	target[LM_MAX(len, 0)] = '\0';
	return target;
}

/* The values stand one after the other in *values; keys point into memory that lasts to the next call. */
static size_t read_xattrs(struct walk *walk, struct lm_xattr *ret, size_t max, struct lm_buf *values)
{
	static char names[64 << 10];
	static uint8_t value[64 << 10];
	size_t count = 0, at = 0;
	const char *path = lm_buf_cstr(&walk->path);
	ssize_t len = llistxattr(path, names, sizeof(names));
	if (len < 0)
		complain(walk, "listxattr");
	for (char *name = names; len > 0 && name < names + len && count < max; name += strlen(name) + 1) {
		ssize_t n = lgetxattr(path, name, value, sizeof(value));
		if (n < 0)
			complain(walk, "getxattr");
		must(lm_buf_append(values, value, (size_t)LM_MAX(n, 0)));
		ret[count++] =
			(struct lm_xattr){.key = name, .key_len = strlen(name), .value_len = (size_t)LM_MAX(n, 0)};
	}
	for (size_t i = 0; i < count; at += ret[i++].value_len)
		ret[i].value = values->data + at;
	return count;
}

static void list_file(struct walk *walk, const struct stat *st)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(TEXT_MAX);
	CLEANUP(lm_buf_done) struct lm_buf values = LM_BUF(TEXT_MAX);
	struct lm_xattr xattrs[XATTRS_MAX];
	bool linked = !S_ISDIR(st->st_mode) && st->st_nlink > 1;
	struct lm_listing_line line = {
		.mode = st->st_mode,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.size = (uint64_t)st->st_size,
		.mtime_s = st->st_mtim.tv_sec,
		.mtime_ns = (uint32_t)st->st_mtim.tv_nsec,
		.nlink = st->st_nlink,
		.group = linked ? group_of(walk, st->st_ino) : 0,
		.rdev = st->st_rdev,
		.sha256 = S_ISREG(st->st_mode) ? content_hash(walk) : NULL,
		.target = S_ISLNK(st->st_mode) ? link_target(walk) : NULL,
		.xattrs = xattrs,
		.xattr_count = read_xattrs(walk, xattrs, XATTRS_MAX, &values),
		.path = lm_buf_cstr(&walk->path) + walk->root_len,
	};
	must(lm_listing_append(&text, &line));
	fwrite(text.data, 1, text.len, stdout);
}

/* By bytes, not by the locale's idea of order. */
static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void list_tree(struct walk *walk)
{
	struct stat st;
	if (lstat(lm_buf_cstr(&walk->path), &st) < 0) {
		complain(walk, "stat");
		return;
	}
	list_file(walk, &st);
	if (!S_ISDIR(st.st_mode))
		return;
	struct dirent **entries;
	int count = scandir(lm_buf_cstr(&walk->path), &entries, NULL, by_bytes);
	if (count < 0) {
		complain(walk, "list");
		return;
	}
	size_t len = walk->path.len;
	for (int i = 0; i < count; i++) {
		const char *name = entries[i]->d_name;
		if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
			must(lm_buf_printf(&walk->path, "/%s", name));
			list_tree(walk);
			walk->path.len = len;
			walk->path.data[len] = '\0';
		}
		free(entries[i]);
	}
	free(entries);
}

int main(int argc, char **argv)
{
	struct walk walk = {.path = LM_BUF(PATH_BYTES_MAX)};
	if (argc != 2) {
		fputs("usage: listing DIR\n", stderr);
		return 2;
	}
	must(lm_buf_str(&walk.path, argv[1]));
	walk.root_len = walk.path.len;
	list_tree(&walk);
	tdestroy(walk.inodes, free);
	lm_buf_done(&walk.path);
	return fflush(stdout) != 0 || walk.failed;
}
