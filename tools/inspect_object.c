/* `lamella inspect object`: one object of data/, whatever it is. */
#include "base/file.h"
#include "inspect.h"

#include <string.h>

enum { HEAD_BYTES = 512, PIECE = 64 << 10 };
#define CONTENT_MAX ((uint64_t)1 << 44)

struct look {
	struct lm_inspect i; /* first */
	bool cat, stored;

	struct lm_hash hash;
	enum lm_object_kind kind;
	int fd; /* the stored bytes, -1 before */
	uint64_t stored_bytes, content_bytes;
	enum lm_compression compression;
	uint8_t head[HEAD_BYTES]; /* of the content */
	size_t head_len;
};

/* --- which one --- */

/* A hash without a suffix may be any kind of object: the first that is there. */
static int find_kind(struct look *look, bool *ret_present, struct lm_err *err)
{
	static const enum lm_object_kind kinds[] = {LM_OBJECT_FILE, LM_OBJECT_CHUNK, LM_OBJECT_CATALOG,
		LM_OBJECT_CERTIFICATE, LM_OBJECT_HISTORY, LM_OBJECT_METAINFO};
	struct lm_storage *storage = look->i.source.storage;
	char path[LM_OBJECT_PATH_MAX];
	size_t count = look->kind == LM_OBJECT_FILE ? ARRAY_LEN(kinds) : 1;
	int r = 0;
	for (size_t k = 0; k < count && r == 0; k++) {
		enum lm_object_kind kind = count == 1 ? look->kind : kinds[k];
		r = storage->ops->has(storage, lm_object_path(&look->hash, kind, path), err);
		if (r > 0)
			look->kind = kind;
	}
	*ret_present = r > 0;
	return LM_MIN(r, 0);
}

static int find(struct look *look, bool *ret_present, struct lm_err *err)
{
	const char *word = look->i.words[0];
	if (lm_object_name_parse(word, strlen(word), &look->hash, &look->kind) < 0 &&
		lm_object_path_parse(word, &look->hash, &look->kind) < 0)
		return lm_err_set(err, -EINVAL,
			"\"%s\" is no object: HASH, HASH and a letter of CPXHM, or data/XX/... is wanted", word);
	return find_kind(look, ret_present, err);
}

/* --- what it is --- */

static int keep_head(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct look *look = arg;
	size_t take = LM_MIN(len, HEAD_BYTES - look->head_len);
	memcpy(look->head + look->head_len, data, take);
	look->head_len += take;
	return 0;
}

static int write_out(void *arg, const void *data, size_t len, struct lm_err *err)
{
	return lm_write_all(STDOUT_FILENO, data, len, err);
}

/* Fetches and verifies. Files and chunks that are no zlib stream are taken for plain ones: only a catalog knows. */
static int examine(struct look *look, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	bool may_be_plain = look->kind == LM_OBJECT_FILE || look->kind == LM_OBJECT_CHUNK;
	int r = lm_inspect_fetch(&look->i, &look->hash, look->kind, &look->fd, &look->stored_bytes, err);
	if (r < 0)
		return r;
	look->compression = LM_COMPRESSION_ZLIB;
	r = lm_unpack_fd(
		&look->hash, LM_COMPRESSION_ZLIB, look->fd, CONTENT_MAX, keep_head, look, &look->content_bytes, &why);
	if (r == -EPROTO && may_be_plain) {
		look->compression = LM_COMPRESSION_NONE;
		look->head_len = 0;
		r = lm_unpack_fd(&look->hash, LM_COMPRESSION_NONE, look->fd, CONTENT_MAX, keep_head, look,
			&look->content_bytes, &why);
	}
	return r < 0 ? lm_err_set(err, r, "%s", why.msg) : 0;
}

static bool begins(const struct look *look, const char *magic, size_t len)
{
	return look->head_len >= len && memcmp(look->head, magic, len) == 0;
}

static bool is_text(const struct look *look)
{
	for (size_t k = 0; k < look->head_len; k++)
		if (look->head[k] < 0x20 && !memchr("\t\n\v\f\r\033", look->head[k], 6))
			return false;
	return true;
}

static const char *seems(const struct look *look)
{
	static const struct {
		const char *magic;
		size_t len;
		const char *name;
	} known[] = {
		{"SQLite format 3", 16, "sqlite-database"},
		{"-----BEGIN CERTIFICATE-----", 27, "pem-certificate"},
		{"\177ELF", 4, "elf"},
		{"\037\213", 2, "gzip"},
		{"\050\265\057\375", 4, "zstd"},
		{"\375"
		 "7zXZ",
			6, "xz"},
		{"PK\003\004", 4, "zip"},
		{"!<arch>\n", 8, "ar"},
		{"#!", 2, "script"},
	};
	if (look->head_len == 0)
		return "empty";
	for (size_t k = 0; k < ARRAY_LEN(known); k++)
		if (begins(look, known[k].magic, known[k].len))
			return known[k].name;
	if (look->kind == LM_OBJECT_METAINFO)
		return "json";
	return is_text(look) ? "text" : "data";
}

static const char *kind_name(enum lm_object_kind kind)
{
	switch (kind) {
	case LM_OBJECT_CATALOG:
		return "catalog";
	case LM_OBJECT_CHUNK:
		return "chunk";
	case LM_OBJECT_CERTIFICATE:
		return "certificate";
	case LM_OBJECT_HISTORY:
		return "history";
	case LM_OBJECT_METAINFO:
		return "metainfo";
	default:
		return "file";
	}
}

static int show(struct look *look, struct lm_err *err)
{
	struct lm_out *out = &look->i.out;
	struct lm_err why = LM_ERR_INIT;
	char path[LM_OBJECT_PATH_MAX];
	bool present;
	lm_out_begin(out, look->i.json);
	int r = find(look, &present, err);
	if (r < 0)
		return r;
	lm_inspect_show_source(&look->i);
	lm_out_word(out, "object", "%s", lm_object_path(&look->hash, look->kind, path));
	lm_out_word(out, "kind", "%s", kind_name(look->kind));
	lm_out_flag(out, "present", present);
	look->i.bad |= !present;
	if (!present)
		return 0;
	r = examine(look, &why);
	if (look->fd >= 0)
		lm_out_number(out, "stored_bytes", look->stored_bytes);
	if (r < 0 && r != -EBADMSG && r != -EPROTO)
		return lm_err_set(err, r, "%s", why.msg);
	lm_out_word(out, "hash", "%s", r == -EBADMSG ? "wrong" : "right");
	if (r < 0) {
		lm_out_sentence(out, "damage", why.msg);
		lm_inspect_complain(&look->i, "%s", why.msg);
		return 0;
	}
	lm_out_word(out, "compression", "%s", look->compression == LM_COMPRESSION_ZLIB ? "zlib" : "none");
	lm_out_number(out, "content_bytes", look->content_bytes);
	lm_out_word(out, "seems", "%s", seems(look));
	return 0;
}

/* Nothing leaves before all of it was verified. */
static int cat(struct look *look, struct lm_err *err)
{
	char path[LM_OBJECT_PATH_MAX];
	bool present;
	uint64_t size;
	int r = find(look, &present, err);
	if (r == 0 && !present)
		r = lm_err_set(err, -ENOENT, "%s is not there", lm_object_path(&look->hash, look->kind, path));
	if (r == 0)
		r = examine(look, err);
	if (r < 0)
		return r;
	return lm_unpack_fd(&look->hash, look->stored ? LM_COMPRESSION_NONE : look->compression, look->fd, CONTENT_MAX,
		write_out, NULL, &size, err);
}

static int show_object(struct lm_inspect *i, struct lm_err *err)
{
	struct look *look = (struct look *)i;
	if (look->stored && !look->cat)
		return lm_err_set(err, -EINVAL, "--stored goes with --cat");
	if (look->cat && i->json)
		return lm_err_set(err, -EINVAL, "--cat and --json exclude each other");
	return look->cat ? cat(look, err) : show(look, err);
}

int lm_cmd_inspect_object(int argc, char **argv)
{
	struct look look = {.fd = -1};
	const struct lm_cli_option options[] = {
		{"cat", NULL, "write the content to standard output, and nothing else", .flag = &look.cat},
		{"stored", NULL, "with --cat: the bytes as they are stored", .flag = &look.stored},
		LM_INSPECT_OPTIONS(&look.i),
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "WHERE HASH[SUFFIX] [OPTION]...",
		.about =
			"Shows an object: whether it is there, its size, whether its hash is right, what it seems to "
			"be.\n"
			"SUFFIX is C (catalog), P (chunk), X (certificate), H (history) or M (metainfo); without one "
			"the\n"
			"first that is there of a file and those. Signatures do not matter here: the hash says it all.",
		.options = options,
		.min_words = 2,
		.max_words = 2,
		.words = "WHERE and HASH are wanted",
	};
	int code = lm_inspect_run(&look.i, argc, argv, &syntax, show_object);
	lm_closep(&look.fd);
	return code;
}
