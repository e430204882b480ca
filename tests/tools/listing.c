/*
 * listing: a tree in the format of the CVMFS fixtures, one line per file in the order of a sorted walk:
 *
 *   type mode uid gid size mtime nlink hlgroup rdev sha256 target xattrs path
 *
 *   listing DIR      on standard output; exit code 0, or 1 when something could not be read (said, and listed as far
 *                    as it goes)
 *
 * Files of one inode share a number in hlgroup, given out in the order of the walk. Bytes outside 0x21..0x7e, and '%',
 * ',' and '=', are written as %xx. The format has no room for errors: a file that can't be read has sha256 `error`.
 */
#include "base/str.h"

#include <dirent.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

enum { PATH_BYTES_MAX = 64 << 10, TEXT_MAX = 8 << 20 };

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

static void append_escaped(struct lm_buf *out, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c > 0x20 && c < 0x7f && c != '%' && c != ',' && c != '=')
			must(lm_buf_append(out, &c, 1));
		else
			must(lm_buf_printf(out, "%%%02x", c));
	}
	if (len == 0)
		must(lm_buf_str(out, "-"));
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

static char type_letter(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return 'f';
	case S_IFDIR:
		return 'd';
	case S_IFLNK:
		return 'l';
	case S_IFIFO:
		return 'p';
	case S_IFCHR:
		return 'c';
	case S_IFBLK:
		return 'b';
	default:
		return 's';
	}
}

static void append_content_hash(struct walk *walk, struct lm_buf *out)
{
	static uint8_t block[256 << 10];
	uint8_t digest[EVP_MAX_MD_SIZE];
	char hex[2 * EVP_MAX_MD_SIZE + 1];
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
	must(lm_buf_str(out, n < 0 ? "error" : hex));
}

static void append_target(struct walk *walk, struct lm_buf *out)
{
	char target[PATH_BYTES_MAX];
	ssize_t len = readlink(lm_buf_cstr(&walk->path), target, sizeof(target));
	if (len < 0)
		complain(walk, "readlink");
	append_escaped(out, target, (size_t)LM_MAX(len, 0));
}

static int cmp_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void append_xattrs(struct walk *walk, struct lm_buf *out)
{
	static char names[64 << 10];
	static uint8_t value[64 << 10];
	static char hex[2 * sizeof(value) + 1];
	char *sorted[1024];
	size_t count = 0;
	const char *path = lm_buf_cstr(&walk->path);
	ssize_t len = llistxattr(path, names, sizeof(names));
	if (len < 0)
		complain(walk, "listxattr");
	for (char *name = names; len > 0 && name < names + len && count < ARRAY_LEN(sorted); name += strlen(name) + 1)
		sorted[count++] = name;
	qsort(sorted, count, sizeof(*sorted), cmp_name);
	for (size_t i = 0; i < count; i++) {
		ssize_t n = lgetxattr(path, sorted[i], value, sizeof(value));
		if (n < 0)
			complain(walk, "getxattr");
		lm_hex_format(value, (size_t)LM_MAX(n, 0), hex);
		must(lm_buf_str(out, i ? "," : ""));
		append_escaped(out, sorted[i], strlen(sorted[i]));
		must(lm_buf_printf(out, "=%s", hex));
	}
	if (count == 0)
		must(lm_buf_str(out, "-"));
}

static void list_file(struct walk *walk, const struct stat *st)
{
	struct lm_buf line = LM_BUF(TEXT_MAX);
	bool device = S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode);
	must(lm_buf_printf(&line, "%c %04o %u %u %lld %lld.%09ld %lu ", type_letter(st->st_mode), st->st_mode & 07777,
		st->st_uid, st->st_gid, (long long)st->st_size, (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec,
		(unsigned long)st->st_nlink));
	if (!S_ISDIR(st->st_mode) && st->st_nlink > 1)
		must(lm_buf_printf(&line, "%u ", group_of(walk, st->st_ino)));
	else
		must(lm_buf_str(&line, "- "));
	if (device)
		must(lm_buf_printf(&line, "%u:%u ", major(st->st_rdev), minor(st->st_rdev)));
	else
		must(lm_buf_str(&line, "- "));
	if (S_ISREG(st->st_mode))
		append_content_hash(walk, &line);
	else
		must(lm_buf_str(&line, "-"));
	must(lm_buf_str(&line, " "));
	if (S_ISLNK(st->st_mode))
		append_target(walk, &line);
	else
		must(lm_buf_str(&line, "-"));
	must(lm_buf_str(&line, " "));
	append_xattrs(walk, &line);
	must(lm_buf_str(&line, " "));
	const char *shown = lm_buf_cstr(&walk->path) + walk->root_len;
	append_escaped(&line, *shown ? shown : "/", *shown ? strlen(shown) : 1);
	puts(lm_buf_cstr(&line));
	lm_buf_done(&line);
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
