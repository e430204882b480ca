/*
 * treediff: are two directory trees the same, in everything that a file system can tell about them?
 *
 *   treediff [OPTION...] A B      A and B are directories, or listings made earlier
 *   treediff [OPTION...] --list DIR      write the listing of DIR to standard output
 *   treediff [OPTION...] --against LISTING DIR      the same as treediff LISTING DIR
 *
 *   --exclude PATH      leave out PATH (as seen from the root of the tree) and what is below; may be repeated
 *   --ignore PATH:WHAT  do not compare WHAT of this one path, for what a run-time environment has touched
 *   --no-dir-nlink      do not compare the link counts of directories
 *
 * Each difference is one line, `PATH: WHAT: A | B`. Exit code: 0 equal, 1 different, 2 no answer (said on standard
 * error).
 *
 * A tree is turned into a list of entries, each a line of text: the path, then `what=value` fields. Comparing is
 * comparing fields, so a listing in a file is as good as a tree, and what is listed is what is compared:
 *
 *   type        f d l c b p s, or `mount` for the root of another mount, of which nothing more is said
 *   mode uid gid nlink mtime      mode with setuid, setgid and sticky bit, mtime with nanoseconds
 *   device      `other` where st_dev is not that of the root: find -xdev, tar --one-file-system and the like go by it
 *   size sha256      of regular files
 *   rdev        of devices
 *   target      of symbolic links
 *   links-with  of all but directories with more than one link: the first path of the same file in this tree
 *   xattr:NAME  every extended attribute
 *
 * Bytes that are not printable ASCII, blanks and backslashes are written as \xHH, so a field never holds a blank.
 * The walk stays on the mount of the root (mounts, not devices: overlayfs shows several devices in one tree).
 */
#include "base/file.h"
#include "base/str.h"

#include <dirent.h>
#include <getopt.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define PATH_BYTES_MAX (1 << 20)
#define LINE_BYTES_MAX (8 << 20) /* attributes can hold 64 KiB each, and escaping makes four bytes of one */
#define LISTING_BYTES_MAX ((size_t)4 << 30)

static const char header[] = "treediff listing 1";

struct entry {
	char *line; /* PATH what=value what=value ... */
	size_t path_len;
	uint64_t dev, ino; /* of a file with several links; else 0 */
};

struct scratch { /* too large for the stack of a recursive walk */
	uint8_t block[1 << 20];
	uint8_t value[XATTR_SIZE_MAX];
	char names[XATTR_LIST_MAX];
	char *sorted[XATTR_LIST_MAX / 2];
};

struct tree {
	const char *source;
	struct entry *entries;
	size_t count, cap;

	/* while walking */
	struct lm_buf path;
	uint64_t mount, device;
	struct scratch *scratch;
	EVP_MD_CTX *digest;

	int result;
	struct lm_err err;
};

struct pattern {
	const char *path; /* escaped */
	size_t len;
	const char *what; /* NULL: the whole subtree */
};

static struct pattern patterns[1000]; /* constant once the options are read */
static size_t pattern_count;
static bool no_dir_nlink;

/* --- text
 * ------------------------------------------------------------------------------------------------------------- */

static int put_escaped(struct lm_buf *out, const void *data, size_t len)
{
	const uint8_t *bytes = data;
	int r = 0;
	for (size_t i = 0; i < len && r == 0; i++) {
		if (bytes[i] > ' ' && bytes[i] < 0x7f && bytes[i] != '\\')
			r = lm_buf_append(out, &bytes[i], 1);
		else
			r = lm_buf_printf(out, "\\x%02x", bytes[i]);
	}
	return r;
}

static bool excluded(const char *path, size_t len)
{
	for (size_t i = 0; i < pattern_count; i++) {
		const struct pattern *p = &patterns[i];
		if (!p->what && len >= p->len && memcmp(path, p->path, p->len) == 0 &&
			(len == p->len || path[p->len] == '/'))
			return true;
	}
	return false;
}

static bool ignored(const struct entry *e, const char *what, size_t len)
{
	if (no_dir_nlink && len == 5 && memcmp(what, "nlink", 5) == 0 &&
		lm_str_starts(e->line + e->path_len, " type=d "))
		return true;
	for (size_t i = 0; i < pattern_count; i++) {
		const struct pattern *p = &patterns[i];
		if (p->what && p->len == e->path_len && memcmp(p->path, e->line, p->len) == 0 &&
			strlen(p->what) == len && memcmp(p->what, what, len) == 0)
			return true;
	}
	return false;
}

static int add_entry(struct tree *t, struct lm_buf *line, size_t path_len, uint64_t dev, uint64_t ino)
{
	if (t->count == t->cap) {
		size_t cap = t->cap ? 2 * t->cap : 4096;
		struct entry *more = reallocarray(t->entries, cap, sizeof(*more));
		if (!more)
			return lm_err_oom(&t->err);
		t->entries = more;
		t->cap = cap;
	}
	char *copy = strndup(lm_buf_cstr(line), line->len);
	if (!copy)
		return lm_err_oom(&t->err);
	t->entries[t->count++] = (struct entry){.line = copy, .path_len = path_len, .dev = dev, .ino = ino};
	return 0;
}

/* --- reading a tree
 * --------------------------------------------------------------------------------------------------- */

static int put_content(struct tree *t, struct lm_buf *line, int dirfd, const char *name)
{
	CLEANUP(lm_closep) int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return lm_err_sys(&t->err, -errno, "open");
	if (EVP_DigestInit_ex(t->digest, EVP_sha256(), NULL) != 1)
		return lm_err_set(&t->err, -EIO, "no SHA-256");
	for (;;) {
		ssize_t n = read(fd, t->scratch->block, sizeof(t->scratch->block));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return lm_err_sys(&t->err, -errno, "read");
		if (n == 0)
			break;
		if (EVP_DigestUpdate(t->digest, t->scratch->block, (size_t)n) != 1)
			return lm_err_set(&t->err, -EIO, "SHA-256 failed");
	}
	uint8_t sum[EVP_MAX_MD_SIZE];
	unsigned len;
	char text[2 * EVP_MAX_MD_SIZE + 1];
	if (EVP_DigestFinal_ex(t->digest, sum, &len) != 1)
		return lm_err_set(&t->err, -EIO, "SHA-256 failed");
	lm_hex_format(sum, len, text);
	return lm_buf_printf(line, " sha256=%s", text);
}

static int put_target(struct tree *t, struct lm_buf *line, int dirfd, const char *name)
{
	char target[PATH_MAX + 1];
	ssize_t n = readlinkat(dirfd, name, target, sizeof(target));
	if (n < 0)
		return lm_err_sys(&t->err, -errno, "readlink");
	int r = lm_buf_str(line, " target=");
	return r < 0 ? r : put_escaped(line, target, (size_t)n);
}

static int by_string(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int put_xattr(struct tree *t, struct lm_buf *line, const char *file, const char *name)
{
	ssize_t n = lgetxattr(file, name, t->scratch->value, sizeof(t->scratch->value));
	if (n < 0)
		return lm_err_sys(&t->err, -errno, "attribute %s", name);
	int r = lm_buf_str(line, " xattr:");
	for (const char *c = name; *c && r == 0; c++) /* an = in the name would end it */
		r = *c == '=' ? lm_buf_str(line, "\\x3d") : put_escaped(line, c, 1);
	if (r == 0)
		r = lm_buf_str(line, "=");
	return r < 0 ? r : put_escaped(line, t->scratch->value, (size_t)n);
}

/* There is no listxattrat(2): the directory is named by its descriptor, so that paths of any length work. */
static int put_xattrs(struct tree *t, struct lm_buf *line, int dirfd, const char *name)
{
	char file[64 + NAME_MAX];
	char *names = t->scratch->names, **sorted = t->scratch->sorted;
	size_t count = 0;
	snprintf(file, sizeof(file), "/proc/self/fd/%d/%s", dirfd, name);
	ssize_t n = llistxattr(file, names, sizeof(t->scratch->names));
	if (n < 0 && errno == ENOTSUP)
		return 0;
	if (n < 0)
		return lm_err_sys(&t->err, -errno, "list of attributes");
	for (char *s = names; s < names + n; s += strlen(s) + 1)
		sorted[count++] = s;
	qsort(sorted, count, sizeof(*sorted), by_string);
	int r = 0;
	for (size_t i = 0; i < count && r == 0; i++)
		r = put_xattr(t, line, file, sorted[i]);
	return r;
}

static char type_letter(unsigned mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return 'f';
	case S_IFDIR:
		return 'd';
	case S_IFLNK:
		return 'l';
	case S_IFCHR:
		return 'c';
	case S_IFBLK:
		return 'b';
	case S_IFIFO:
		return 'p';
	case S_IFSOCK:
		return 's';
	}
	return '?';
}

static int put_fields(struct tree *t, struct lm_buf *line, int dirfd, const char *name, const struct statx *st)
{
	int r = lm_buf_printf(line, " type=%c mode=%04o uid=%u gid=%u nlink=%u mtime=%lld.%09u",
		type_letter(st->stx_mode), st->stx_mode & 07777u, st->stx_uid, st->stx_gid, st->stx_nlink,
		(long long)st->stx_mtime.tv_sec, st->stx_mtime.tv_nsec);
	if (r == 0 && makedev(st->stx_dev_major, st->stx_dev_minor) != t->device)
		r = lm_buf_str(line, " device=other");
	if (r == 0 && (S_ISCHR(st->stx_mode) || S_ISBLK(st->stx_mode)))
		r = lm_buf_printf(line, " rdev=%u:%u", st->stx_rdev_major, st->stx_rdev_minor);
	if (r == 0 && S_ISLNK(st->stx_mode))
		r = put_target(t, line, dirfd, name);
	if (r == 0 && S_ISREG(st->stx_mode)) {
		r = lm_buf_printf(line, " size=%llu", (unsigned long long)st->stx_size);
		if (r == 0)
			r = put_content(t, line, dirfd, name);
	}
	return r < 0 ? r : put_xattrs(t, line, dirfd, name);
}

static int walk(struct tree *t, int dirfd, const char *name);

static int walk_children(struct tree *t, int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return lm_err_sys(&t->err, -errno, "open");
	DIR *dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return lm_err_oom(&t->err);
	}
	size_t path_len = t->path.len;
	int r = 0;
	while (r == 0) {
		errno = 0;
		const struct dirent *d = readdir(dir);
		if (!d) {
			if (errno)
				r = lm_err_sys(&t->err, -errno, "list of names");
			break;
		}
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		/* path is "/" for the root, without a slash at the end for all others */
		if (path_len > 1)
			r = lm_buf_str(&t->path, "/");
		if (r == 0)
			r = put_escaped(&t->path, d->d_name, strlen(d->d_name));
		if (r == 0)
			r = walk(t, fd, d->d_name);
		if (r == 0) { /* after a failure the path is wanted for the message */
			t->path.len = path_len;
			t->path.data[path_len] = '\0';
		}
	}
	closedir(dir);
	return r;
}

/* Lists the file `name` in dirfd, whose escaped path is t->path, and all below it. */
static int walk(struct tree *t, int dirfd, const char *name)
{
	if (excluded(lm_buf_cstr(&t->path), t->path.len))
		return 0;
	struct statx st;
	if (statx(dirfd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS | STATX_MNT_ID, &st) < 0)
		return lm_err_sys(&t->err, -errno, "stat");
	bool foreign = st.stx_mnt_id != t->mount;
	bool linked = !S_ISDIR(st.stx_mode) && st.stx_nlink > 1;
	CLEANUP(lm_buf_done) struct lm_buf line = LM_BUF(LINE_BYTES_MAX);
	int r = lm_buf_append(&line, t->path.data, t->path.len);
	if (r == 0)
		r = foreign ? lm_buf_str(&line, " type=mount") : put_fields(t, &line, dirfd, name, &st);
	if (r == 0)
		r = add_entry(t, &line, t->path.len,
			linked && !foreign ? (uint64_t)makedev(st.stx_dev_major, st.stx_dev_minor) : 0,
			linked && !foreign ? st.stx_ino : 0);
	if (r == 0 && S_ISDIR(st.stx_mode) && !foreign)
		r = walk_children(t, dirfd, name);
	return r;
}

static int by_path(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;
	int r = memcmp(x->line, y->line, LM_MIN(x->path_len, y->path_len));
	return r ? r : (x->path_len > y->path_len) - (x->path_len < y->path_len);
}

static int by_inode(const void *a, const void *b)
{
	const struct entry *x = *(struct entry *const *)a, *y = *(struct entry *const *)b;
	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return x < y ? -1 : x > y;
}

/* Two trees with the same paths have the same groups of hard links when each path has the same first path of its group.
 */
static int name_link_groups(struct tree *t)
{
	CLEANUP(lm_freep) struct entry **linked = calloc(t->count + 1, sizeof(*linked));
	size_t count = 0;
	if (!linked)
		return lm_err_oom(&t->err);
	for (size_t i = 0; i < t->count; i++)
		if (t->entries[i].ino)
			linked[count++] = &t->entries[i];
	qsort(linked, count, sizeof(*linked), by_inode);
	const struct entry *first = NULL;
	size_t first_len = 0;
	for (size_t i = 0; i < count; i++) {
		struct entry *e = linked[i];
		if (!first || first->dev != e->dev || first->ino != e->ino) {
			first = e;
			first_len = e->path_len;
		}
		char *line = lm_str_printf("%s links-with=%.*s", e->line, (int)first_len, first->line);
		if (!line)
			return lm_err_oom(&t->err);
		free(e->line);
		e->line = line;
	}
	return 0;
}

static int read_directory(struct tree *t)
{
	CLEANUP(lm_closep) int fd = open(t->source, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return lm_err_sys(&t->err, -errno, "%s", t->source);
	struct statx st;
	if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0)
		return lm_err_sys(&t->err, -errno, "%s", t->source);
	if (!(st.stx_mask & STATX_MNT_ID))
		return lm_err_set(&t->err, -ENOSYS, "this kernel does not number its mounts (Linux 5.8 does)");
	t->mount = st.stx_mnt_id;
	t->device = makedev(st.stx_dev_major, st.stx_dev_minor);
	t->path = LM_BUF(PATH_BYTES_MAX);
	CLEANUP(lm_freep) struct scratch *scratch = t->scratch = malloc(sizeof(*scratch));
	t->digest = EVP_MD_CTX_new();
	int r = scratch && t->digest ? lm_buf_str(&t->path, "/") : lm_err_oom(&t->err);
	if (r == 0) {
		r = walk(t, fd, ".");
		if (r < 0)
			r = t->err.code ? lm_err_prefix(&t->err, r, "%s in %s", lm_buf_cstr(&t->path), t->source)
					: lm_err_sys(&t->err, r, "%s in %s", lm_buf_cstr(&t->path), t->source);
	}
	EVP_MD_CTX_free(t->digest);
	lm_buf_done(&t->path);
	if (r < 0)
		return r;
	qsort(t->entries, t->count, sizeof(*t->entries), by_path);
	return name_link_groups(t);
}

/* --- reading a listing
 * ------------------------------------------------------------------------------------------------ */

static int read_listing_line(struct tree *t, char *text, size_t len)
{
	const char *blank = memchr(text, ' ', len);
	if (text[0] != '/' || !blank || !lm_str_starts(blank, " type="))
		return lm_err_set(&t->err, -EPROTO, "%s: not an entry: %.60s", t->source, text);
	size_t path_len = (size_t)(blank - text);
	if (excluded(text, path_len))
		return 0;
	struct lm_buf line = {.data = (uint8_t *)text, .len = len, .cap = len, .max = len};
	return add_entry(t, &line, path_len, 0, 0);
}

static int read_listing(struct tree *t)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LISTING_BYTES_MAX);
	int r = lm_file_read(AT_FDCWD, t->source, &text, &t->err);
	if (r < 0)
		return r;
	char *next = (char *)text.data;
	char *line = strsep(&next, "\n");
	if (!line || strcmp(line, header) != 0)
		return lm_err_set(&t->err, -EPROTO, "%s is neither a directory nor a listing", t->source);
	size_t lines = 0;
	while ((line = strsep(&next, "\n")) && line[0] && line[0] != '=') {
		r = read_listing_line(t, line, strlen(line));
		if (r < 0)
			return r;
		lines++;
	}
	uint64_t expected;
	if (!line || line[0] != '=' || lm_str_u64(line + 1, strlen(line + 1), &expected) < 0 || expected != lines)
		return lm_err_set(&t->err, -EPROTO, "%s: the listing is cut short", t->source);
	qsort(t->entries, t->count, sizeof(*t->entries), by_path);
	return 0;
}

static void *read_tree(void *arg)
{
	struct tree *t = arg;
	struct stat st;
	if (stat(t->source, &st) < 0)
		t->result = lm_err_sys(&t->err, -errno, "%s", t->source);
	else
		t->result = S_ISDIR(st.st_mode) ? read_directory(t) : read_listing(t);
	return NULL;
}

static void tree_done(struct tree *t)
{
	for (size_t i = 0; i < t->count; i++)
		free(t->entries[i].line);
	free(t->entries);
}

/* --- comparing
 * -------------------------------------------------------------------------------------------------------- */

static size_t differences;

static void report(const struct entry *e, const char *what, size_t what_len, const char *a, size_t a_len, const char *b,
	size_t b_len)
{
	if (ignored(e, what, what_len))
		return;
	printf("%.*s: %.*s: %.*s | %.*s\n", (int)e->path_len, e->line, (int)what_len, what, (int)a_len, a, (int)b_len,
		b);
	differences++;
}

struct field {
	const char *what, *value;
	size_t what_len, value_len;
};

/* The field at *pos (at the blank before it), moving *pos behind it. */
static bool next_field(const char **pos, struct field *ret)
{
	if (**pos != ' ')
		return false;
	ret->what = *pos + 1;
	ret->what_len = strcspn(ret->what, "= ");
	ret->value = ret->what + ret->what_len + (ret->what[ret->what_len] == '=');
	ret->value_len = strcspn(ret->value, " ");
	*pos = ret->value + ret->value_len;
	return true;
}

static bool find_field(const struct entry *e, const struct field *like, struct field *ret)
{
	const char *pos = e->line + e->path_len;
	while (next_field(&pos, ret))
		if (ret->what_len == like->what_len && memcmp(ret->what, like->what, like->what_len) == 0)
			return true;
	return false;
}

static void compare_entries(const struct entry *a, const struct entry *b)
{
	static const char none[] = "none";
	struct field fa, fb;
	if (strcmp(a->line, b->line) == 0)
		return;
	for (const char *pos = a->line + a->path_len; next_field(&pos, &fa);) {
		if (!find_field(b, &fa, &fb))
			report(a, fa.what, fa.what_len, fa.value, fa.value_len, none, 4);
		else if (fa.value_len != fb.value_len || memcmp(fa.value, fb.value, fa.value_len) != 0)
			report(a, fa.what, fa.what_len, fa.value, fa.value_len, fb.value, fb.value_len);
	}
	for (const char *pos = b->line + b->path_len; next_field(&pos, &fb);)
		if (!find_field(a, &fb, &fa))
			report(b, fb.what, fb.what_len, none, 4, fb.value, fb.value_len);
}

static void compare_trees(const struct tree *a, const struct tree *b)
{
	size_t i = 0, j = 0;
	while (i < a->count || j < b->count) {
		int order = i == a->count ? 1 : j == b->count ? -1 : by_path(&a->entries[i], &b->entries[j]);
		if (order < 0)
			report(&a->entries[i++], "entry", 5, "present", 7, "absent", 6);
		else if (order > 0)
			report(&b->entries[j++], "entry", 5, "absent", 6, "present", 7);
		else
			compare_entries(&a->entries[i++], &b->entries[j++]);
	}
}

/* --- the program
 * ------------------------------------------------------------------------------------------------------ */

static int trouble(const struct lm_err *err)
{
	fprintf(stderr, "treediff: %s\n", lm_err_text(err));
	return 2;
}

static int usage(void)
{
	fputs("usage: treediff [--exclude PATH]... [--ignore PATH:WHAT]... [--no-dir-nlink] A B\n"
	      "       treediff [--exclude PATH]... --list DIR\n"
	      "       treediff [--exclude PATH]... [--ignore PATH:WHAT]... [--no-dir-nlink] --against LISTING DIR\n",
		stderr);
	return 2;
}

static int list(const char *source)
{
	struct tree t = {.source = source};
	int code = 0;
	read_tree(&t);
	if (t.result < 0) {
		code = trouble(&t.err);
	} else {
		puts(header);
		for (size_t i = 0; i < t.count; i++)
			puts(t.entries[i].line);
		printf("=%zu\n", t.count);
		if (fflush(stdout) != 0 || ferror(stdout)) {
			perror("treediff: write");
			code = 2;
		}
	}
	tree_done(&t);
	return code;
}

static int compare(const char *first, const char *second)
{
	struct tree a = {.source = first}, b = {.source = second};
	pthread_t thread;
	int code = 2;
	if (pthread_create(&thread, NULL, read_tree, &a) != 0) {
		perror("treediff: thread");
		return 2;
	}
	read_tree(&b);
	pthread_join(thread, NULL);
	if (a.result < 0) {
		trouble(&a.err);
	} else if (b.result < 0) {
		trouble(&b.err);
	} else {
		compare_trees(&a, &b);
		code = fflush(stdout) != 0 ? 2 : differences > 0;
	}
	tree_done(&a);
	tree_done(&b);
	return code;
}

/* Takes PATH or PATH:WHAT; the path is escaped as in a listing, without a slash at its end. */
static int add_pattern(const char *text, bool with_what)
{
	const char *colon = with_what ? strrchr(text, ':') : NULL;
	size_t len = colon ? (size_t)(colon - text) : strlen(text);
	while (len > 1 && text[len - 1] == '/')
		len--;
	if (text[0] != '/' || (with_what && !colon) || pattern_count == ARRAY_LEN(patterns))
		return -EINVAL;
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(PATH_BYTES_MAX);
	int r = put_escaped(&path, text, len);
	if (r < 0)
		return r;
	struct pattern *p = &patterns[pattern_count++];
	p->path = (char *)lm_buf_steal(&path, &p->len);
	p->what = colon ? colon + 1 : NULL;
	return 0;
}

int main(int argc, char **argv)
{
	enum { EXCLUDE = 256, IGNORE, NO_DIR_NLINK, LIST, AGAINST };
	static const struct option options[] = {{"exclude", required_argument, NULL, EXCLUDE},
		{"ignore", required_argument, NULL, IGNORE}, {"no-dir-nlink", no_argument, NULL, NO_DIR_NLINK},
		{"list", no_argument, NULL, LIST}, {"against", required_argument, NULL, AGAINST}, {NULL, 0, NULL, 0}};
	const char *against = NULL;
	bool listing = false;
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (c == EXCLUDE || c == IGNORE) {
			if (add_pattern(optarg, c == IGNORE) < 0)
				return usage();
		} else if (c == NO_DIR_NLINK) {
			no_dir_nlink = true;
		} else if (c == LIST) {
			listing = true;
		} else if (c == AGAINST) {
			against = optarg;
		} else {
			return usage();
		}
	}
	int operands = argc - optind;
	if (operands != (listing || against ? 1 : 2) || (listing && against))
		return usage();
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) { /* one descriptor for each level of directories */
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	if (listing)
		return list(argv[optind]);
	return against ? compare(against, argv[optind]) : compare(argv[optind], argv[optind + 1]);
}
