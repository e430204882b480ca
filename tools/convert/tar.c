#include "convert/tar.h"

#include "base/buf.h"
#include "base/str.h"

#include <limits.h>
#include <stdbool.h>
#include <string.h>

enum {
	BLOCK = 512,
	SPECIAL_MAX = 1 << 20, /* a pax header, a GNU long name, a sparse map: Go's limit, too */
	SPARSE_MAX = SPECIAL_MAX / 4,
};

/* Where the fields of a header block are. The first seven are in every format. */
struct field {
	unsigned at, len;
};
static const struct field F_NAME = {0, 100}, F_MODE = {100, 8}, F_UID = {108, 8}, F_GID = {116, 8}, F_SIZE = {124, 12},
			  F_MTIME = {136, 12}, F_CHECKSUM = {148, 8}, F_LINK = {157, 100}, F_MAJOR = {329, 8},
			  F_MINOR = {337, 8}, F_PREFIX = {345, 155}, F_STAR_PREFIX = {345, 131},
			  F_GNU_ATIME = {345, 12}, F_GNU_CTIME = {357, 12}, F_GNU_REALSIZE = {483, 12};
enum { AT_TYPE = 156, AT_MAGIC = 257, AT_STAR_TRAILER = 508 };
enum { GNU_SPARSE_AT = 386, GNU_SPARSE_ENTRIES = 4, GNU_SPARSE_EXT_ENTRIES = 21 };

enum format { FORMAT_UNKNOWN, FORMAT_V7, FORMAT_USTAR, FORMAT_STAR, FORMAT_GNU };

struct record { /* of a pax header; both strings end in NUL, the value may hold others */
	const char *key, *value;
	size_t value_len;
};

struct extent {
	uint64_t offset, len;
};

struct lm_tar {
	lm_tar_input_fn *input;
	void *arg;
	const uint8_t *span; /* what is left of the current stretch */
	size_t span_len;
	uint64_t offset; /* in the stream, for messages */
	bool ended;
	uint8_t block[BLOCK];

	/* the current entry */
	uint64_t body_left; /* bytes of it still in the stream */
	unsigned padding;   /* after the body */
	bool sparse;
	struct extent *extents; /* of data, ascending */
	size_t extent_count, extent_cap, extent_at;
	uint64_t size, position; /* of the content */
	char name[155 + 1 + 100 + 1], link[100 + 1];
	struct lm_buf pax, long_name, long_link;
	struct record *records;
	size_t record_count, record_cap;
	struct lm_tar_xattr *xattrs;
	size_t xattr_cap;
};

static const uint8_t zeros[BLOCK];

int lm_tar_new(lm_tar_input_fn *input, void *arg, struct lm_tar **ret, struct lm_err *err)
{
	struct lm_tar *tar = calloc(1, sizeof(*tar));
	if (!tar)
		return lm_err_oom(err);
	tar->input = input;
	tar->arg = arg;
	tar->pax = tar->long_name = tar->long_link = LM_BUF(SPECIAL_MAX);
	*ret = tar;
	return 0;
}

void lm_tar_free(struct lm_tar *tar)
{
	if (!tar)
		return;
	lm_buf_done(&tar->pax);
	lm_buf_done(&tar->long_name);
	lm_buf_done(&tar->long_link);
	free(tar->records);
	free(tar->xattrs);
	free(tar->extents);
	free(tar);
}

static int malformed(struct lm_tar *tar, const char *what, struct lm_err *err)
{
	return lm_err_set(err, -EPROTO, "tar: %s before byte %llu", what, (unsigned long long)tar->offset);
}

static int cut_short(struct lm_tar *tar, struct lm_err *err)
{
	return lm_err_set(err, -EPROTO, "tar is cut short: it ends after %llu bytes, inside an entry",
		(unsigned long long)tar->offset);
}

/* Makes *array hold at least one more than count. */
static int grow(void **array, size_t *cap, size_t count, size_t item, struct lm_err *err)
{
	if (count < *cap)
		return 0;
	size_t more = *cap ? *cap * 2 : 16;
	void *p = reallocarray(*array, more, item);
	if (!p)
		return lm_err_oom(err);
	*array = p;
	*cap = more;
	return 0;
}

/* --- the stream --- */

/* 1: something in span; 0: the stream is over. */
static int fill(struct lm_tar *tar, struct lm_err *err)
{
	if (tar->span_len > 0)
		return 1;
	if (tar->ended)
		return 0;
	ssize_t n = tar->input(tar->arg, &tar->span, err);
	if (n < 0)
		return (int)n;
	tar->span_len = (size_t)n;
	tar->ended = n == 0;
	return n > 0;
}

static void take(struct lm_tar *tar, size_t len)
{
	tar->span += len;
	tar->span_len -= len;
	tar->offset += len;
}

/* Copies up to len bytes (ret may be NULL: skips them); fewer only at the stream's end. Returns the number or an
 * error. */
static int64_t read_up_to(struct lm_tar *tar, uint8_t *ret, uint64_t len, struct lm_err *err)
{
	uint64_t done = 0;
	while (done < len) {
		int r = fill(tar, err);
		if (r < 0)
			return r;
		if (r == 0)
			break;
		size_t n = (size_t)LM_MIN(len - done, tar->span_len);
		if (ret)
			memcpy(ret + done, tar->span, n);
		take(tar, n);
		done += n;
	}
	return (int64_t)done;
}

/* 1: a whole block; 0: the stream ended exactly here. */
static int read_block(struct lm_tar *tar, struct lm_err *err)
{
	int64_t n = read_up_to(tar, tar->block, BLOCK, err);
	if (n <= 0)
		return (int)n;
	return n == BLOCK ? 1 : cut_short(tar, err);
}

/* The same out of the entry's body, where an end is always too early. */
static int read_body_block(struct lm_tar *tar, struct lm_err *err)
{
	if (tar->body_left < BLOCK)
		return malformed(tar, "sparse map larger than its entry", err);
	int r = read_block(tar, err);
	if (r == 0)
		return cut_short(tar, err);
	if (r > 0)
		tar->body_left -= BLOCK;
	return r;
}

/* Goes past what is left of the last entry. 1, or 0 when the stream ends in the padding: a tar may be cut there. */
static int skip_body(struct lm_tar *tar, struct lm_err *err)
{
	int64_t n = read_up_to(tar, NULL, tar->body_left, err);
	if (n < 0)
		return (int)n;
	if ((uint64_t)n < tar->body_left)
		return cut_short(tar, err);
	tar->body_left = 0;
	n = read_up_to(tar, NULL, tar->padding, err);
	if (n < 0)
		return (int)n;
	bool whole = (uint64_t)n == tar->padding;
	tar->padding = 0;
	return whole;
}

/* --- numbers --- */

static bool parse_octal(const uint8_t *text, size_t len, int64_t *ret)
{
	while (len > 0 && (text[0] == ' ' || text[0] == '\0')) {
		text++;
		len--;
	}
	while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\0'))
		len--;
	uint64_t x = 0;
	for (size_t i = 0; i < len && text[i] != '\0'; i++) {
		if (text[i] < '0' || text[i] > '7' || x >> 61)
			return false;
		x = x << 3 | (uint64_t)(text[i] - '0');
	}
	*ret = (int64_t)x;
	return true;
}

/* Octal digits; or, with the top bit set, a big-endian two's complement number in the rest of the field. */
static bool parse_number(const uint8_t *text, size_t len, int64_t *ret)
{
	if (!(text[0] & 0x80))
		return parse_octal(text, len, ret);
	uint8_t invert = text[0] & 0x40 ? 0xff : 0;
	uint64_t x = 0;
	for (size_t i = 0; i < len; i++) {
		uint8_t c = text[i] ^ invert;
		if (i == 0)
			c &= 0x7f;
		if (x >> 56)
			return false;
		x = x << 8 | c;
	}
	if (x >> 63)
		return false;
	*ret = (int64_t)(invert ? ~x : x);
	return true;
}

static bool field_number(const struct lm_tar *tar, struct field f, int64_t *ret)
{
	return parse_number(tar->block + f.at, f.len, ret);
}

/* Decimal, with a sign, as Go's ParseInt(s, 10, 64) takes it. */
static bool parse_decimal(const char *text, size_t len, int64_t *ret)
{
	if (len > 0 && text[0] == '+') {
		text++;
		len--;
		if (len > 0 && text[0] == '-')
			return false;
	}
	return lm_str_i64(text, len, ret) == 0;
}

/* Seconds with an optional fraction, of which nine digits count. */
static bool parse_time(const char *text, size_t len, int64_t *ret_s, uint32_t *ret_ns)
{
	const char *dot = memchr(text, '.', len);
	int64_t seconds;
	if (!parse_decimal(text, dot ? (size_t)(dot - text) : len, &seconds))
		return false;
	uint32_t ns = 0, scale = 100000000;
	for (const char *at = dot ? dot + 1 : text + len; at < text + len; at++) {
		if (*at < '0' || *at > '9')
			return false;
		ns += (uint32_t)(*at - '0') * scale;
		scale /= 10;
	}
	/* -1.25 is 1.25 s before the epoch: -2 s and 0.75 s. */
	if (text[0] == '-' && ns > 0) {
		if (seconds == INT64_MIN)
			return false;
		seconds--;
		ns = 1000000000 - ns;
	}
	*ret_s = seconds;
	*ret_ns = ns;
	return true;
}

/* --- header blocks --- */

static enum format format_of(const uint8_t *block)
{
	int64_t want;
	if (!parse_octal(block + F_CHECKSUM.at, F_CHECKSUM.len, &want))
		return FORMAT_UNKNOWN;
	int64_t sum = 0, signed_sum = 0; /* some old writers summed signed bytes */
	for (unsigned i = 0; i < BLOCK; i++) {
		bool own = i >= F_CHECKSUM.at && i < F_CHECKSUM.at + F_CHECKSUM.len;
		sum += own ? ' ' : block[i];
		signed_sum += own ? ' ' : (int8_t)block[i];
	}
	if (want != sum && want != signed_sum)
		return FORMAT_UNKNOWN;
	if (memcmp(block + AT_MAGIC, "ustar", 6) == 0)
		return memcmp(block + AT_STAR_TRAILER, "tar", 4) == 0 ? FORMAT_STAR : FORMAT_USTAR;
	return memcmp(block + AT_MAGIC, "ustar  ", 8) == 0 ? FORMAT_GNU : FORMAT_V7;
}

static void field_text(const struct lm_tar *tar, struct field f, char *ret)
{
	size_t len = strnlen((const char *)tar->block + f.at, f.len);
	memcpy(ret, tar->block + f.at, len);
	ret[len] = '\0';
}

static bool is_ascii(const char *s)
{
	for (; *s; s++)
		if ((uint8_t)*s >= 0x80)
			return false;
	return true;
}

/*
 * The GNU format has times where ustar has the prefix. Go's writer before 1.8 did put a prefix there, and layers made
 * by it are still around: where the fields are no times but ASCII text, they are a prefix.
 */
static bool gnu_has_prefix(const struct lm_tar *tar)
{
	int64_t ignored;
	const struct field times[] = {F_GNU_ATIME, F_GNU_CTIME};
	for (size_t i = 0; i < ARRAY_LEN(times); i++)
		if (tar->block[times[i].at] != '\0' && !field_number(tar, times[i], &ignored)) {
			char text[156];
			field_text(tar, F_PREFIX, text);
			return is_ascii(text);
		}
	return false;
}

static void header_name(struct lm_tar *tar, enum format format)
{
	char prefix[156] = "", name[101];
	if (format == FORMAT_USTAR || (format == FORMAT_GNU && gnu_has_prefix(tar)))
		field_text(tar, F_PREFIX, prefix);
	else if (format == FORMAT_STAR)
		field_text(tar, F_STAR_PREFIX, prefix);
	field_text(tar, F_NAME, name);
	size_t len = strlen(prefix);
	memcpy(tar->name, prefix, len);
	if (len > 0)
		tar->name[len++] = '/';
	memcpy(tar->name + len, name, strlen(name) + 1);
}

static bool is_header_only(char type)
{
	return type != '\0' && strchr("123456", type);
}

/* Prepares for the body that follows the header. */
static int begin_body(struct lm_tar *tar, char type, int64_t size, struct lm_err *err)
{
	if (is_header_only(type))
		size = 0;
	if (size < 0)
		return malformed(tar, "negative size", err);
	tar->body_left = tar->size = (uint64_t)size;
	tar->padding = (unsigned)(-(uint64_t)size % BLOCK);
	tar->position = 0;
	tar->sparse = false;
	return 0;
}

/* The header in tar->block. 1, or an error. */
static int parse_header(struct lm_tar *tar, struct lm_tar_entry *ret, enum format *ret_format, struct lm_err *err)
{
	enum format format = format_of(tar->block);
	if (format == FORMAT_UNKNOWN)
		return malformed(tar, "header with a wrong checksum", err);
	int64_t size, star_times[2];
	bool ok = field_number(tar, F_SIZE, &size) && field_number(tar, F_MODE, &ret->mode) &&
		  field_number(tar, F_UID, &ret->uid) && field_number(tar, F_GID, &ret->gid) &&
		  field_number(tar, F_MTIME, &ret->mtime_s);
	if (format > FORMAT_V7)
		ok = ok && field_number(tar, F_MAJOR, &ret->dev_major) && field_number(tar, F_MINOR, &ret->dev_minor);
	if (format == FORMAT_STAR)
		ok = ok && field_number(tar, (struct field){476, 12}, &star_times[0]) &&
		     field_number(tar, (struct field){488, 12}, &star_times[1]);
	if (!ok)
		return malformed(tar, "header with a malformed number", err);
	header_name(tar, format);
	field_text(tar, F_LINK, tar->link);
	ret->type = (char)tar->block[AT_TYPE];
	ret->name = tar->name;
	ret->link = tar->link;
	*ret_format = format;
	return begin_body(tar, ret->type, size, err);
}

/* 1: a header in ret; 0: the end of the archive. */
static int read_header(struct lm_tar *tar, struct lm_tar_entry *ret, enum format *ret_format, struct lm_err *err)
{
	int r = read_block(tar, err);
	if (r <= 0)
		return r;
	if (memcmp(tar->block, zeros, BLOCK) == 0) {
		r = read_block(tar, err);
		if (r <= 0)
			return r;
		return memcmp(tar->block, zeros, BLOCK) == 0 ? 0 : malformed(tar, "a single zero block", err);
	}
	*ret = (struct lm_tar_entry){0};
	r = parse_header(tar, ret, ret_format, err);
	return r < 0 ? r : 1;
}

/* --- pax --- */

static int read_special(struct lm_tar *tar, struct lm_buf *out, struct lm_err *err)
{
	lm_buf_clear(out);
	if (tar->body_left > SPECIAL_MAX)
		return malformed(tar, "extension header of over 1 MiB", err);
	int r = lm_buf_reserve(out, (size_t)tar->body_left);
	if (r < 0)
		return lm_err_oom(err);
	while (tar->body_left > 0) {
		r = fill(tar, err);
		if (r < 0)
			return r;
		if (r == 0)
			return cut_short(tar, err);
		size_t n = (size_t)LM_MIN(tar->body_left, tar->span_len);
		if (lm_buf_append(out, tar->span, n) < 0)
			return lm_err_oom(err);
		take(tar, n);
		tar->body_left -= n;
	}
	return 0;
}

static bool may_hold_nul(const char *key)
{
	return strcmp(key, "path") != 0 && strcmp(key, "linkpath") != 0 && strcmp(key, "uname") != 0 &&
	       strcmp(key, "gname") != 0;
}

/* One record "LENGTH KEY=VALUE\n" at text, of which left bytes are there. Cuts it into strings in place. Returns its
 * length, or 0 when malformed. */
static size_t parse_record(char *text, size_t left, struct record *ret)
{
	char *space = memchr(text, ' ', left);
	int64_t len;
	if (!space || !parse_decimal(text, (size_t)(space - text), &len) || len < 5 || (uint64_t)len > left)
		return 0;
	char *end = text + len - 1; /* the newline */
	if (end <= space || *end != '\n')
		return 0;
	char *key = space + 1, *equals = memchr(key, '=', (size_t)(end - key));
	if (!equals || equals == key || memchr(key, '\0', (size_t)(equals - key)))
		return 0;
	*equals = *end = '\0';
	*ret = (struct record){key, equals + 1, (size_t)(end - equals - 1)};
	if (!may_hold_nul(key) && strlen(ret->value) != ret->value_len)
		return 0;
	return (size_t)len;
}

static int parse_pax(struct lm_tar *tar, struct lm_err *err)
{
	int r = read_special(tar, &tar->pax, err);
	if (r < 0)
		return r;
	tar->record_count = 0;
	for (size_t at = 0; at < tar->pax.len;) {
		struct record record;
		size_t len = parse_record((char *)tar->pax.data + at, tar->pax.len - at, &record);
		if (len == 0)
			return malformed(tar, "malformed pax record", err);
		r = grow((void **)&tar->records, &tar->record_cap, tar->record_count, sizeof(record), err);
		if (r < 0)
			return r;
		tar->records[tar->record_count++] = record;
		at += len;
	}
	return 0;
}

/* The record in force for a key; NULL when there is none or its value is empty. */
static const struct record *pax_record(const struct lm_tar *tar, const char *key)
{
	for (size_t i = tar->record_count; i-- > 0;)
		if (strcmp(tar->records[i].key, key) == 0)
			return tar->records[i].value_len > 0 ? &tar->records[i] : NULL;
	return NULL;
}

static bool pax_number(const struct lm_tar *tar, const char *key, int64_t *ret)
{
	const struct record *record = pax_record(tar, key);
	return !record || parse_decimal(record->value, record->value_len, ret);
}

static bool pax_time(const struct lm_tar *tar, const char *key, int64_t *ret_s, uint32_t *ret_ns)
{
	const struct record *record = pax_record(tar, key);
	return !record || parse_time(record->value, record->value_len, ret_s, ret_ns);
}

static int pax_xattrs(struct lm_tar *tar, struct lm_tar_entry *ret, struct lm_err *err)
{
	static const char prefix[] = "SCHILY.xattr.";
	size_t count = 0;
	for (size_t i = 0; i < tar->record_count; i++) {
		const struct record *record = &tar->records[i];
		if (!lm_str_starts(record->key, prefix))
			continue;
		int r = grow((void **)&tar->xattrs, &tar->xattr_cap, count, sizeof(*tar->xattrs), err);
		if (r < 0)
			return r;
		tar->xattrs[count++] =
			(struct lm_tar_xattr){record->key + sizeof(prefix) - 1, record->value, record->value_len};
	}
	ret->xattrs = tar->xattrs;
	ret->xattr_count = count;
	return 0;
}

/* What the pax header says over what the header block says. */
static int merge_pax(struct lm_tar *tar, struct lm_tar_entry *ret, int64_t *size, struct lm_err *err)
{
	if (tar->record_count == 0)
		return 0;
	const struct record *path = pax_record(tar, "path"), *link = pax_record(tar, "linkpath");
	if (path)
		ret->name = path->value;
	if (link)
		ret->link = link->value;
	int64_t ignored_s;
	uint32_t ignored_ns;
	if (!pax_number(tar, "uid", &ret->uid) || !pax_number(tar, "gid", &ret->gid) ||
		!pax_number(tar, "size", size) || !pax_time(tar, "mtime", &ret->mtime_s, &ret->mtime_ns) ||
		!pax_time(tar, "atime", &ignored_s, &ignored_ns) || !pax_time(tar, "ctime", &ignored_s, &ignored_ns))
		return malformed(tar, "malformed number in a pax header", err);
	return pax_xattrs(tar, ret, err);
}

/* --- sparse files --- */

static int add_extent(struct lm_tar *tar, int64_t offset, int64_t len, struct lm_err *err)
{
	const struct extent *last = tar->extent_count > 0 ? &tar->extents[tar->extent_count - 1] : NULL;
	if (offset < 0 || len < 0 || offset > INT64_MAX - len || tar->extent_count >= SPARSE_MAX ||
		(last && last->offset + last->len > (uint64_t)offset))
		return malformed(tar, "malformed sparse map", err);
	int r = grow((void **)&tar->extents, &tar->extent_cap, tar->extent_count, sizeof(*tar->extents), err);
	if (r < 0)
		return r;
	tar->extents[tar->extent_count++] = (struct extent){(uint64_t)offset, (uint64_t)len};
	return 0;
}

/* The map of GNU's own format: four extents in the header, 21 more in each extension block. */
static int sparse_gnu(struct lm_tar *tar, int64_t *size, struct lm_err *err)
{
	if (!field_number(tar, F_GNU_REALSIZE, size))
		return malformed(tar, "malformed sparse size", err);
	const uint8_t *at = tar->block + GNU_SPARSE_AT;
	for (unsigned entries = GNU_SPARSE_ENTRIES;; entries = GNU_SPARSE_EXT_ENTRIES, at = tar->block) {
		for (unsigned i = 0; i < entries && at[i * 24] != '\0'; i++) {
			int64_t offset, len;
			if (!parse_number(at + i * 24, 12, &offset) || !parse_number(at + i * 24 + 12, 12, &len))
				return malformed(tar, "malformed sparse map", err);
			int r = add_extent(tar, offset, len, err);
			if (r < 0)
				return r;
		}
		if (at[entries * 24] == '\0') /* "more follows" */
			return 0;
		int r = read_block(tar, err);
		if (r <= 0)
			return r < 0 ? r : cut_short(tar, err);
	}
}

/* "OFFSET,LENGTH,OFFSET,LENGTH,…" in a record (0.1). */
static int sparse_map_record(struct lm_tar *tar, struct lm_err *err)
{
	int64_t numbers[2];
	const struct record *map = pax_record(tar, "GNU.sparse.map");
	unsigned have = 0;
	const char *at = map ? map->value : "", *end = at + (map ? map->value_len : 0);
	while (at < end) {
		const char *comma = memchr(at, ',', (size_t)(end - at));
		const char *stop = comma ? comma : end;
		if (!parse_decimal(at, (size_t)(stop - at), &numbers[have++]) || (comma && comma + 1 == end))
			return malformed(tar, "malformed sparse map", err);
		if (have == 2) {
			int r = add_extent(tar, numbers[0], numbers[1], err);
			if (r < 0)
				return r;
			have = 0;
		}
		at = comma ? comma + 1 : end;
	}
	return have == 0 ? 0 : malformed(tar, "malformed sparse map", err);
}

/* Both 0.x formats say in a record how many extents there are. */
static int sparse_check_count(struct lm_tar *tar, struct lm_err *err)
{
	int64_t count = -1;
	if (!pax_number(tar, "GNU.sparse.numblocks", &count) || count < 0 || tar->extent_count != (uint64_t)count)
		return malformed(tar, "malformed sparse map", err);
	return 0;
}

/* Alternating GNU.sparse.offset and GNU.sparse.numbytes records (0.0). *ret_found: there were some. */
static int sparse_map_repeated(struct lm_tar *tar, bool *ret_found, struct lm_err *err)
{
	int64_t offset = 0, value;
	bool want_len = false, found = false;
	for (size_t i = 0; i < tar->record_count; i++) {
		const struct record *record = &tar->records[i];
		bool is_len = strcmp(record->key, "GNU.sparse.numbytes") == 0;
		if (!is_len && strcmp(record->key, "GNU.sparse.offset") != 0)
			continue;
		if (is_len != want_len || !parse_decimal(record->value, record->value_len, &value))
			return malformed(tar, "malformed sparse map", err);
		if (is_len) {
			int r = add_extent(tar, offset, value, err);
			if (r < 0)
				return r;
		}
		offset = value;
		want_len = !want_len;
		found = true;
	}
	*ret_found = found;
	return want_len ? malformed(tar, "malformed sparse map", err) : 0;
}

/* Lines of decimal numbers at the beginning of the body, padded to a block (1.0): a reader of single lines. */
struct line_reader {
	struct lm_tar *tar;
	size_t at; /* in tar->block */
	size_t bytes;
};

static int next_line(struct line_reader *reader, int64_t *ret, struct lm_err *err)
{
	struct lm_tar *tar = reader->tar;
	char text[32];
	for (size_t len = 0;;) {
		if (reader->at == BLOCK) {
			int r = read_body_block(tar, err);
			if (r < 0)
				return r;
			reader->at = 0;
		}
		char c = (char)tar->block[reader->at++];
		if (++reader->bytes > SPECIAL_MAX)
			return malformed(tar, "sparse map of over 1 MiB", err);
		if (c == '\n')
			return parse_decimal(text, len, ret) ? 0 : malformed(tar, "malformed sparse map", err);
		if (len == sizeof(text))
			return malformed(tar, "malformed sparse map", err);
		text[len++] = c;
	}
}

static int sparse_map_body(struct lm_tar *tar, struct lm_err *err)
{
	struct line_reader reader = {.tar = tar, .at = BLOCK};
	int64_t count;
	int r = next_line(&reader, &count, err);
	if (r == 0 && (count < 0 || count > SPARSE_MAX))
		r = malformed(tar, "malformed sparse map", err);
	while (r == 0 && count-- > 0) {
		int64_t offset, len;
		r = next_line(&reader, &offset, err);
		if (r == 0)
			r = next_line(&reader, &len, err);
		if (r == 0)
			r = add_extent(tar, offset, len, err);
	}
	return r;
}

static bool pax_is(const struct lm_tar *tar, const char *key, const char *value)
{
	const struct record *record = pax_record(tar, key);
	return strcmp(record ? record->value : "", value) == 0;
}

/* 1: a sparse file, its map read; 0: none. */
static int sparse_pax(struct lm_tar *tar, struct lm_tar_entry *ret, int64_t *size, struct lm_err *err)
{
	bool by_body = pax_is(tar, "GNU.sparse.major", "1") && pax_is(tar, "GNU.sparse.minor", "0");
	bool by_record = pax_is(tar, "GNU.sparse.major", "0") &&
			 (pax_is(tar, "GNU.sparse.minor", "0") || pax_is(tar, "GNU.sparse.minor", "1"));
	bool unversioned = pax_is(tar, "GNU.sparse.major", "") && pax_is(tar, "GNU.sparse.minor", "");
	bool repeated = false;
	int r = sparse_map_repeated(tar, &repeated, err);
	if (r < 0)
		return r;
	if (!by_body && !by_record && !(unversioned && (repeated || pax_record(tar, "GNU.sparse.map"))))
		return 0;
	const struct record *name = pax_record(tar, "GNU.sparse.name");
	if (name)
		ret->name = name->value;
	const char *size_key = pax_record(tar, "GNU.sparse.size") ? "GNU.sparse.size" : "GNU.sparse.realsize";
	if (!pax_number(tar, size_key, size))
		return malformed(tar, "malformed sparse size", err);
	if (by_body) {
		tar->extent_count = 0;
		r = sparse_map_body(tar, err);
	} else {
		r = repeated ? 0 : sparse_map_record(tar, err);
		if (r == 0)
			r = sparse_check_count(tar, err);
	}
	return r < 0 ? r : 1;
}

static int begin_sparse(
	struct lm_tar *tar, struct lm_tar_entry *ret, enum format format, int64_t size, struct lm_err *err)
{
	tar->extent_count = tar->extent_at = 0;
	int r;
	if (ret->type == LM_TAR_GNU_SPARSE)
		r = format == FORMAT_GNU ? sparse_gnu(tar, &size, err) : malformed(tar, "foreign sparse format", err);
	else if (tar->record_count > 0)
		r = sparse_pax(tar, ret, &size, err);
	else
		return 0;
	if (r < 0 || (r == 0 && ret->type != LM_TAR_GNU_SPARSE))
		return r;
	const struct extent *last = tar->extent_count > 0 ? &tar->extents[tar->extent_count - 1] : NULL;
	if (is_header_only(ret->type) || size < 0 || (last && last->offset + last->len > (uint64_t)size))
		return malformed(tar, "malformed sparse map", err);
	uint64_t data = 0; /* no overflow: the extents lie apart, below INT64_MAX */
	for (size_t i = 0; i < tar->extent_count; i++)
		data += tar->extents[i].len;
	if (data != tar->body_left)
		return malformed(tar, "sparse map that does not fit its data", err);
	tar->sparse = true;
	tar->size = (uint64_t)size;
	return 0;
}

/* --- entries --- */

/* The last header before the content: extensions are merged in. 1 or an error. */
static int finish_entry(struct lm_tar *tar, struct lm_tar_entry *ret, enum format format, struct lm_err *err)
{
	int64_t size = (int64_t)tar->size;
	int r = merge_pax(tar, ret, &size, err);
	if (r < 0)
		return r;
	if (tar->long_name.len > 0 && tar->long_name.data[0] != '\0')
		ret->name = lm_buf_cstr(&tar->long_name);
	if (tar->long_link.len > 0 && tar->long_link.data[0] != '\0')
		ret->link = lm_buf_cstr(&tar->long_link);
	if (ret->type == '\0') /* v7 marks a directory by the slash at its end only */
		ret->type = lm_str_ends(ret->name, "/") ? LM_TAR_DIR : LM_TAR_FILE;
	r = begin_body(tar, ret->type, size, err);
	if (r == 0)
		r = begin_sparse(tar, ret, format, size, err);
	if (r < 0)
		return r;
	ret->size = tar->size;
	return 1;
}

/* A global header's records change nothing but the name under which it is known. */
static int finish_global(struct lm_tar *tar, struct lm_tar_entry *ret, struct lm_err *err)
{
	const char *name = ret->name;
	int r = parse_pax(tar, err);
	if (r < 0)
		return r;
	const struct record *path = pax_record(tar, "path");
	*ret = (struct lm_tar_entry){.type = LM_TAR_GLOBAL, .name = path ? path->value : name, .link = ""};
	tar->size = 0;
	return 1;
}

int lm_tar_next(struct lm_tar *tar, struct lm_tar_entry *ret, struct lm_err *err)
{
	tar->record_count = 0;
	lm_buf_clear(&tar->long_name);
	lm_buf_clear(&tar->long_link);
	for (;;) {
		enum format format = FORMAT_UNKNOWN;
		int r = skip_body(tar, err);
		if (r > 0)
			r = read_header(tar, ret, &format, err);
		if (r <= 0)
			return r;
		switch (ret->type) {
		case 'g':
			return finish_global(tar, ret, err);
		case 'x':
			r = parse_pax(tar, err);
			break;
		case 'L':
			r = read_special(tar, &tar->long_name, err);
			break;
		case 'K':
			r = read_special(tar, &tar->long_link, err);
			break;
		default:
			return finish_entry(tar, ret, format, err);
		}
		if (r < 0)
			return r;
	}
}

/* Data straight out of the stream. */
static ssize_t read_stream(struct lm_tar *tar, void *ret, size_t len, struct lm_err *err)
{
	int r = fill(tar, err);
	if (r < 0)
		return r;
	if (r == 0)
		return cut_short(tar, err);
	size_t n = LM_MIN(len, tar->span_len);
	memcpy(ret, tar->span, n);
	take(tar, n);
	tar->body_left -= n;
	return (ssize_t)n;
}

/* How far it is from the position to the end of the hole or the data there. */
static uint64_t run_length(struct lm_tar *tar, bool *ret_hole)
{
	*ret_hole = false;
	if (!tar->sparse)
		return tar->size - tar->position;
	const struct extent *extent = tar->extents + tar->extent_at;
	for (; tar->extent_at < tar->extent_count; tar->extent_at++, extent++)
		if (tar->position < extent->offset + extent->len)
			break;
	*ret_hole = tar->extent_at == tar->extent_count || tar->position < extent->offset;
	uint64_t end = tar->extent_at == tar->extent_count ? tar->size
		       : *ret_hole			   ? extent->offset
							   : extent->offset + extent->len;
	return end - tar->position;
}

ssize_t lm_tar_read(struct lm_tar *tar, void *ret, size_t len, struct lm_err *err)
{
	bool hole;
	uint64_t run = run_length(tar, &hole);
	ssize_t n = (ssize_t)LM_MIN(run, (uint64_t)LM_MIN(len, (size_t)SSIZE_MAX));
	if (n == 0)
		return 0;
	if (hole)
		memset(ret, 0, (size_t)n);
	else
		n = read_stream(tar, ret, (size_t)n, err);
	if (n > 0)
		tar->position += (uint64_t)n;
	return n;
}

int lm_tar_drain(struct lm_tar *tar, struct lm_err *err)
{
	int64_t n = read_up_to(tar, NULL, UINT64_MAX, err);
	return n < 0 ? (int)n : 0;
}
