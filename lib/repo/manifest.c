#include "repo/manifest.h"

#include "base/str.h"

#include <stdio.h>

/* Takes one line off text[*at..len): without its newline, *ret_len bytes. False at the end. */
static bool next_line(const char *text, size_t len, size_t *at, const char **ret, size_t *ret_len)
{
	if (*at >= len)
		return false;
	const char *line = text + *at, *end = memchr(line, '\n', len - *at);
	*ret = line;
	*ret_len = end ? (size_t)(end - line) : len - *at;
	*at += *ret_len + (end ? 1 : 0);
	return true;
}

int lm_signed_text_split(const char *text, size_t len, struct lm_signed_text *ret, struct lm_err *err)
{
	struct lm_signed_text split = {0};
	const char *line = NULL;
	size_t at = 0, line_len = 0;
	do {
		split.body_len = at;
		if (!next_line(text, len, &at, &line, &line_len))
			return lm_err_set(err, -EPROTO, "no line \"--\" before the signature: cut short?");
	} while (line_len != 2 || memcmp(line, "--", 2) != 0);
	if (memchr(text, '\0', split.body_len))
		return lm_err_set(err, -EPROTO, "a NUL byte in the text");
	if (!next_line(text, len, &at, &split.hash_text, &split.hash_text_len) || text[at - 1] != '\n')
		return lm_err_set(err, -EPROTO, "no line with the hash after \"--\": cut short?");
	split.signature = (const uint8_t *)text + at;
	split.signature_len = len - at;
	*ret = split;
	return 0;
}

int lm_signed_text_close(struct lm_buf *text, enum lm_hash_algo algo, struct lm_err *err)
{
	struct lm_hash hash;
	int r = lm_hash_data(algo, text->data, text->len, &hash, err);
	if (r < 0)
		return r;
	r = lm_buf_printf(text, "--\n%s\n", lm_hash_text(&hash).s);
	return r < 0 ? lm_err_sys(err, r, "hash line") : 0;
}

bool lm_fqrn_valid(const char *fqrn)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
	size_t len = strlen(fqrn);
	return len > 0 && len <= LM_FQRN_MAX && fqrn[0] != '.' && fqrn[0] != '-' && strspn(fqrn, allowed) == len;
}

static int parse_yes_no(const char *value, size_t len, bool *ret, struct lm_err *err)
{
	if (len == 3 && memcmp(value, "yes", 3) == 0)
		*ret = true;
	else if (len == 2 && memcmp(value, "no", 2) == 0)
		*ret = false;
	else
		return lm_err_set(err, -EPROTO, "neither yes nor no");
	return 0;
}

static int parse_number(const char *value, size_t len, uint64_t max, uint64_t *ret, struct lm_err *err)
{
	uint64_t number;
	if (lm_str_u64(value, len, &number) < 0)
		return lm_err_set(err, -EPROTO, "not a number of 64 bits");
	if (number > max)
		return lm_err_set(
			err, -EPROTO, "%llu exceeds %llu", (unsigned long long)number, (unsigned long long)max);
	*ret = number;
	return 0;
}

static int parse_root_path(const char *value, size_t len, char ret[33], struct lm_err *err)
{
	uint8_t bytes[16];
	if (len != 2 * sizeof(bytes) || lm_hex_parse(value, bytes, sizeof(bytes)) < 0)
		return lm_err_set(err, -EPROTO, "not an md5 hash");
	lm_hex_format(bytes, sizeof(bytes), ret);
	return 0;
}

static int parse_fqrn(const char *value, size_t len, char ret[LM_FQRN_MAX + 1], struct lm_err *err)
{
	char fqrn[LM_FQRN_MAX + 1] = "";
	if (len <= LM_FQRN_MAX)
		memcpy(fqrn, value, len);
	if (!lm_fqrn_valid(fqrn))
		return lm_err_set(err, -EPROTO, "not a repository name");
	memcpy(ret, fqrn, sizeof(fqrn));
	return 0;
}

static int parse_published(const char *value, size_t len, int64_t *ret, struct lm_err *err)
{
	uint64_t seconds = 0;
	int r = parse_number(value, len, INT64_MAX, &seconds, err);
	if (r == 0)
		*ret = (int64_t)seconds;
	return r;
}

static int parse_field(struct lm_manifest *m, char letter, const char *value, size_t len, struct lm_err *err)
{
	switch (letter) {
	case 'C':
		return lm_hash_parse(value, len, &m->catalog, err);
	case 'B':
		return parse_number(value, len, UINT64_MAX, &m->catalog_size, err);
	case 'R':
		return parse_root_path(value, len, m->root_path, err);
	case 'D':
		return parse_number(value, len, LM_TTL_MAX_S, &m->ttl_s, err);
	case 'S':
		return parse_number(value, len, UINT64_MAX, &m->revision, err);
	case 'G':
		return parse_yes_no(value, len, &m->garbage_collectable, err);
	case 'A':
		return parse_yes_no(value, len, &m->alternative_catalogs, err);
	case 'N':
		return parse_fqrn(value, len, m->fqrn, err);
	case 'X':
		return lm_hash_parse(value, len, &m->certificate, err);
	case 'H':
		return lm_hash_parse(value, len, &m->history, err);
	case 'T':
		return parse_published(value, len, &m->published_s, err);
	case 'M':
		return lm_hash_parse(value, len, &m->metainfo, err);
	case 'Y':
		return lm_hash_parse(value, len, &m->reflog, err);
	default:
		return 0;
	}
}

int lm_manifest_parse(const char *text, size_t len, struct lm_manifest *ret, struct lm_err *err)
{
	if (len > LM_MANIFEST_MAX)
		return lm_err_set(err, -EPROTO, "manifest of %zu bytes, at most %d are read", len, LM_MANIFEST_MAX);
	struct lm_signed_text split;
	int r = lm_signed_text_split(text, len, &split, err);
	if (r < 0)
		return lm_err_prefix(err, r, "manifest");

	struct lm_manifest manifest = {0};
	bool seen[256] = {0};
	const char *line;
	for (size_t at = 0, line_len; next_line(text, split.body_len, &at, &line, &line_len);) {
		if (line_len == 0)
			continue;
		r = parse_field(&manifest, line[0], line + 1, line_len - 1, err);
		if (r < 0)
			return lm_err_prefix(err, r, "manifest: field %c", line[0]);
		seen[(uint8_t)line[0]] = true;
	}
	for (const char *required = "CRDS"; *required; required++)
		if (!seen[(uint8_t)*required])
			return lm_err_set(err, -EPROTO, "manifest: field %c is missing", *required);
	*ret = manifest;
	return 0;
}

static int append_hash(struct lm_buf *out, char letter, const struct lm_hash *hash)
{
	return hash->set ? lm_buf_printf(out, "%c%s\n", letter, lm_hash_text(hash).s) : 0;
}

static int append_number(struct lm_buf *out, char letter, uint64_t number)
{
	return number ? lm_buf_printf(out, "%c%llu\n", letter, (unsigned long long)number) : 0;
}

/* The order of the stock tools. */
static int append_body(const struct lm_manifest *m, struct lm_buf *out)
{
	const char *root_path = m->root_path[0] ? m->root_path : LM_MANIFEST_ROOT_PATH;
	int r = append_hash(out, 'C', &m->catalog);
	if (r == 0)
		r = append_number(out, 'B', m->catalog_size);
	if (r == 0)
		r = lm_buf_printf(out, "R%s\nD%llu\nS%llu\nG%s\nA%s\n", root_path, (unsigned long long)m->ttl_s,
			(unsigned long long)m->revision, m->garbage_collectable ? "yes" : "no",
			m->alternative_catalogs ? "yes" : "no");
	if (r == 0 && m->fqrn[0])
		r = lm_buf_printf(out, "N%s\n", m->fqrn);
	if (r == 0)
		r = append_hash(out, 'X', &m->certificate);
	if (r == 0)
		r = append_hash(out, 'H', &m->history);
	if (r == 0)
		r = append_number(out, 'T', (uint64_t)m->published_s);
	if (r == 0)
		r = append_hash(out, 'M', &m->metainfo);
	if (r == 0)
		r = append_hash(out, 'Y', &m->reflog);
	return r;
}

int lm_manifest_format(const struct lm_manifest *manifest, struct lm_buf *ret, struct lm_err *err)
{
	if (!manifest->catalog.set)
		return lm_err_set(err, -EINVAL, "manifest without a root catalog");
	if (manifest->fqrn[0] && !lm_fqrn_valid(manifest->fqrn))
		return lm_err_set(err, -EINVAL, "manifest: not a repository name");
	if (manifest->ttl_s > LM_TTL_MAX_S || manifest->published_s < 0)
		return lm_err_set(err, -EINVAL, "manifest: time to live or time of publication out of range");
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	int r = append_body(manifest, &text);
	if (r < 0)
		return lm_err_sys(err, r, "manifest");
	r = lm_signed_text_close(&text, manifest->catalog.algo, err);
	if (r < 0)
		return lm_err_prefix(err, r, "manifest");
	r = lm_buf_append(ret, text.data, text.len);
	return r < 0 ? lm_err_sys(err, r, "manifest") : 0;
}
