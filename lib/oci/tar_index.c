#include "oci/tar_index.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"

#include <string.h>
#include <sys/stat.h>

enum {
	BLOCK = 512,
	MEMBERS_MAX = 100000,
	NAMES_MAX = 16 << 20,
	EXTENSION_MAX = 1 << 20, /* a long name or a pax header */
	PATH_TEXT_MAX = 4096,
	LINKS_MAX = 8,
};

enum kind { KIND_FILE, KIND_LINK, KIND_SYMLINK, KIND_OTHER };

struct member {
	char *name, *target; /* target: of links */
	enum kind kind;
	uint64_t offset, size;
	size_t order;
};

struct lm_tar_index {
	struct member *members; /* by name, then by order */
	size_t count, cap, names_bytes;
};

struct header { /* as ustar has it */
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[8];
	char uname[32], gname[32], major[8], minor[8], prefix[155], rest[12];
};

/* The pass. Names that extension headers gave hold for the next member only. */
struct scan {
	int fd;
	uint64_t at, end;
	char *path, *link; /* owned; NULL: as the header says */
	bool has_size;
	uint64_t size;
	struct lm_tar_index *index;
};

static void scan_forget(struct scan *scan)
{
	free(scan->path);
	free(scan->link);
	scan->path = scan->link = NULL;
	scan->has_size = false;
}

void lm_tar_index_free(struct lm_tar_index *index)
{
	if (!index)
		return;
	for (size_t i = 0; i < index->count; i++) {
		free(index->members[i].name);
		free(index->members[i].target);
	}
	free(index->members);
	free(index);
}

static int damaged(const struct scan *scan, const char *what, struct lm_err *err)
{
	return lm_err_set(err, -EPROTO, "a damaged tar: %s at byte %llu", what, (unsigned long long)scan->at);
}

/* Octal digits after blanks and before a blank or NUL; or, with the top bit set, the number itself (GNU). */
static int parse_number(const char *field, size_t len, uint64_t *ret)
{
	uint64_t value = 0;
	size_t i = 0;
	if ((unsigned char)field[0] == 0x80) {
		for (i = 1; i < len; i++) {
			if (value >> 55)
				return -EPROTO;
			value = value << 8 | (unsigned char)field[i];
		}
		*ret = value;
		return 0;
	}
	while (i < len && field[i] == ' ')
		i++;
	for (; i < len && field[i] >= '0' && field[i] <= '7'; i++)
		value = value << 3 | (uint64_t)(field[i] - '0'); /* 12 digits at most: 36 bits */
	if (i < len && field[i] != ' ' && field[i] != '\0')
		return -EPROTO;
	*ret = value;
	return 0;
}

static bool checksum_fits(const struct header *h)
{
	const unsigned char *bytes = (const unsigned char *)h;
	const size_t at = offsetof(struct header, checksum);
	uint64_t said, sum = 0;
	for (size_t i = 0; i < sizeof(*h); i++)
		sum += i >= at && i < at + sizeof(h->checksum) ? ' ' : bytes[i];
	return parse_number(h->checksum, sizeof(h->checksum), &said) == 0 && said == sum;
}

/* Without empty parts and "."; a ".." takes back a part, but never leaves the tar. NULL: no memory. */
static char *clean_name(const char *dir, size_t dir_len, const char *name)
{
	CLEANUP(lm_freep) char *text = lm_str_printf("%.*s/%s", (int)dir_len, dir, name);
	char *out = text;
	if (!text)
		return NULL;
	for (char *rest = text, *part; (part = strsep(&rest, "/"));) {
		size_t len = strlen(part);
		if (len == 0 || (len == 1 && part[0] == '.'))
			continue;
		if (len == 2 && part[0] == '.' && part[1] == '.') {
			while (out > text && *--out != '/')
				;
			continue;
		}
		if (out > text)
			*out++ = '/';
		memmove(out, part, len);
		out += len;
	}
	return lm_str_ndup(text, (size_t)(out - text));
}

static int add_member(struct scan *scan, struct member *member, struct lm_err *err)
{
	struct lm_tar_index *index = scan->index;
	index->names_bytes += strlen(member->name) + (member->target ? strlen(member->target) : 0);
	if (index->count == MEMBERS_MAX || index->names_bytes > NAMES_MAX)
		return lm_err_set(
			err, -EPROTO, "a tar of more than %d members or %d bytes of names", MEMBERS_MAX, NAMES_MAX);
	if (index->count == index->cap) {
		size_t cap = index->cap ? 2 * index->cap : 64;
		struct member *grown = reallocarray(index->members, cap, sizeof(*grown));
		if (!grown)
			return lm_err_oom(err);
		index->members = grown;
		index->cap = cap;
	}
	member->order = index->count;
	index->members[index->count++] = *member;
	return 0;
}

static void member_done(struct member *member)
{
	free(member->name);
	free(member->target);
}

static char *header_name(const struct header *h)
{
	int len = (int)strnlen(h->name, sizeof(h->name));
	/* GNU's headers have other things where ustar has the prefix. */
	if (memcmp(h->magic, "ustar\0", 6) == 0 && h->prefix[0])
		return lm_str_printf("%.*s/%.*s", (int)sizeof(h->prefix), h->prefix, len, h->name);
	return lm_str_ndup(h->name, (size_t)len);
}

static enum kind kind_of(char type)
{
	switch (type) {
	case '0':
	case '\0':
	case '7':
		return KIND_FILE;
	case '1':
		return KIND_LINK;
	case '2':
		return KIND_SYMLINK;
	default:
		return KIND_OTHER;
	}
}

/* The target of a link as a name in the tar: a symbolic one begins in its own directory. */
static int set_target(const struct scan *scan, const struct header *h, struct member *m, struct lm_err *err)
{
	CLEANUP(lm_freep) char *text = scan->link ? strdup(scan->link) : lm_str_ndup(h->link, strnlen(h->link, 100));
	const char *slash = strrchr(m->name, '/');
	if (!text)
		return lm_err_oom(err);
	bool inside = m->kind == KIND_SYMLINK && slash && text[0] != '/';
	m->target = clean_name(m->name, inside ? (size_t)(slash - m->name) : 0, text);
	return m->target ? 0 : lm_err_oom(err);
}

static int note_member(struct scan *scan, const struct header *h, uint64_t size, struct lm_err *err)
{
	CLEANUP(member_done) struct member m = {.kind = kind_of(h->type), .offset = scan->at, .size = size};
	CLEANUP(lm_freep) char *name = scan->path ? strdup(scan->path) : header_name(h);
	m.name = name ? clean_name("", 0, name) : NULL;
	if (!m.name)
		return lm_err_oom(err);
	int r = m.kind == KIND_LINK || m.kind == KIND_SYMLINK ? set_target(scan, h, &m, err) : 0;
	if (r == 0)
		r = add_member(scan, &m, err);
	if (r == 0)
		m = (struct member){0};
	return r;
}

/* --- extension headers --- */

static int set_text(char **target, const char *text, size_t len, const struct scan *scan, struct lm_err *err)
{
	len = strnlen(text, len);
	if (len > PATH_TEXT_MAX)
		return damaged(scan, "a name of more than 4096 bytes", err);
	free(*target);
	*target = lm_str_ndup(text, len);
	return *target ? 0 : lm_err_oom(err);
}

static int apply_pax(
	struct scan *scan, const char *key, size_t key_len, const char *value, size_t len, struct lm_err *err)
{
	if (key_len == 4 && memcmp(key, "path", 4) == 0)
		return set_text(&scan->path, value, len, scan, err);
	if (key_len == 8 && memcmp(key, "linkpath", 8) == 0)
		return set_text(&scan->link, value, len, scan, err);
	if (key_len != 4 || memcmp(key, "size", 4) != 0)
		return 0;
	scan->has_size = true;
	return lm_str_u64(value, len, &scan->size) < 0 ? damaged(scan, "a size that is no number", err) : 0;
}

/* Records "LENGTH KEY=VALUE\n"; LENGTH counts all of it. */
static int parse_pax(struct scan *scan, const char *text, size_t len, struct lm_err *err)
{
	static const char what[] = "a pax header that can't be read";
	while (len > 0) {
		const char *blank = memchr(text, ' ', LM_MIN(len, (size_t)20));
		uint64_t record;
		if (!blank || lm_str_u64(text, (size_t)(blank - text), &record) < 0 || record > len ||
			record < (size_t)(blank - text) + 3 || text[record - 1] != '\n')
			return damaged(scan, what, err);
		const char *key = blank + 1, *end = text + record - 1;
		const char *equals = memchr(key, '=', (size_t)(end - key));
		if (!equals)
			return damaged(scan, what, err);
		int r = apply_pax(scan, key, (size_t)(equals - key), equals + 1, (size_t)(end - equals) - 1, err);
		if (r < 0)
			return r;
		text += record;
		len -= record;
	}
	return 0;
}

static int read_extension(struct scan *scan, char type, uint64_t size, struct lm_err *err)
{
	if (size > EXTENSION_MAX)
		return damaged(scan, "an extension header of more than 1 MiB", err);
	CLEANUP(lm_freep) char *text = malloc(size + 1);
	if (!text)
		return lm_err_oom(err);
	int r = lm_pread_all(scan->fd, text, size, (off_t)scan->at, err);
	if (r < 0)
		return r;
	if (type == 'L')
		return set_text(&scan->path, text, size, scan, err);
	if (type == 'K')
		return set_text(&scan->link, text, size, scan, err);
	return parse_pax(scan, text, size, err);
}

/* --- the pass --- */

static bool is_zero(const struct header *h)
{
	const char *bytes = (const char *)h;
	return bytes[0] == '\0' && memcmp(bytes, bytes + 1, sizeof(*h) - 1) == 0;
}

static int step(struct scan *scan, const struct header *h, struct lm_err *err)
{
	uint64_t size;
	if (!checksum_fits(h))
		return damaged(scan, "no header", err);
	if (parse_number(h->size, sizeof(h->size), &size) < 0)
		return damaged(scan, "a size that is no number", err);
	bool extension = h->type == 'L' || h->type == 'K' || h->type == 'x';
	if (!extension && h->type != 'g' && scan->has_size)
		size = scan->size;
	/* Links have none, whatever they say. */
	if (h->type == '1' || h->type == '2')
		size = 0;
	if (size > scan->end - scan->at - BLOCK)
		return damaged(scan, "the file ends in the middle of the member", err);
	scan->at += BLOCK;
	int r = 0;
	if (extension)
		r = read_extension(scan, h->type, size, err);
	else if (h->type != 'g')
		r = note_member(scan, h, size, err);
	if (r == 0 && !extension && h->type != 'g')
		scan_forget(scan);
	scan->at += LM_MIN((size + BLOCK - 1) / BLOCK * BLOCK, scan->end - scan->at);
	return r;
}

/* To the first block of zeros; a tar without them that ends after a member is taken, too. */
static int run(struct scan *scan, struct lm_err *err)
{
	int r = 0;
	while (r == 0 && scan->end - scan->at >= BLOCK) {
		struct header h;
		r = lm_pread_all(scan->fd, &h, sizeof(h), (off_t)scan->at, err);
		if (r == 0 && is_zero(&h))
			return 0;
		if (r == 0)
			r = step(scan, &h, err);
	}
	if (r == 0 && scan->at < scan->end)
		return damaged(scan, "the file ends in the middle of a header", err);
	return r;
}

static int by_name(const void *a, const void *b)
{
	const struct member *x = a, *y = b;
	int order = strcmp(x->name, y->name);
	return order ? order : (x->order > y->order) - (x->order < y->order);
}

int lm_tar_index_read(int fd, struct lm_tar_index **ret, struct lm_err *err)
{
	_Static_assert(sizeof(struct header) == BLOCK, "a header is a block");
	struct stat st;
	CLEANUP(lm_tar_index_freep) struct lm_tar_index *index = calloc(1, sizeof(*index));
	if (!index)
		return lm_err_oom(err);
	if (fstat(fd, &st) < 0)
		return lm_err_sys(err, -errno, "stat");
	if (!S_ISREG(st.st_mode))
		return lm_err_set(err, -EPROTO, "no regular file");
	struct scan scan = {.fd = fd, .end = (uint64_t)st.st_size, .index = index};
	int r = run(&scan, err);
	scan_forget(&scan);
	if (r < 0)
		return r;
	if (index->count)
		qsort(index->members, index->count, sizeof(*index->members), by_name);
	*ret = STEAL(index);
	return 0;
}

/* The last of that name. */
static const struct member *look_up(const struct lm_tar_index *index, const char *name)
{
	size_t low = 0, high = index->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(index->members[middle].name, name) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low > 0 && strcmp(index->members[low - 1].name, name) == 0 ? &index->members[low - 1] : NULL;
}

int lm_tar_index_find(const struct lm_tar_index *index, const char *name, struct lm_tar_place *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *clean = clean_name("", 0, name);
	if (!clean)
		return lm_err_oom(err);
	const struct member *m = look_up(index, clean);
	for (unsigned links = 0; m && m->target; links++) {
		if (links == LINKS_MAX)
			return lm_err_set(err, -EPROTO, "%s: links to links, more than %d", name, LINKS_MAX);
		m = look_up(index, m->target);
	}
	if (!m)
		return lm_err_set(err, -ENOENT, "there is no %s", name);
	if (m->kind != KIND_FILE)
		return lm_err_set(err, -EPROTO, "%s is no regular file", name);
	*ret = (struct lm_tar_place){m->offset, m->size};
	return 0;
}
