#include "repo/whitelist.h"

#include "base/str.h"

#include <stdio.h>
#include <time.h>

enum { DATE_LEN = 14, HOUR_S = 3600, PAIRS_LEN = 3 * LM_HASH_BYTES - 1 };

/* Tags of fingerprints are in capitals, unlike those of hash texts. */
static const char *const tags[] = {
	[LM_HASH_SHA1] = "",
	[LM_HASH_RMD160] = "-RMD160",
	[LM_HASH_SHAKE128] = "-SHAKE128",
};

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

static int parse_pairs(const char *text, size_t len, uint8_t ret[LM_HASH_BYTES])
{
	if (len < PAIRS_LEN)
		return -EPROTO;
	for (size_t i = 0; i < LM_HASH_BYTES; i++) {
		int high = hex_digit(text[3 * i]), low = hex_digit(text[3 * i + 1]);
		if (high < 0 || low < 0 || (i + 1 < LM_HASH_BYTES && text[3 * i + 2] != ':'))
			return -EPROTO;
		ret[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}

int lm_fingerprint_parse(const char *line, size_t len, struct lm_hash *ret)
{
	size_t word = 0;
	while (word < len && !strchr(" \t#\r", line[word]))
		word++;
	if (word == 0)
		return 0;
	struct lm_hash hash = {.set = true};
	if (parse_pairs(line, word, hash.bytes) < 0)
		return -EPROTO;
	for (unsigned i = 0; i < ARRAY_LEN(tags); i++) {
		if (strlen(tags[i]) != word - PAIRS_LEN || memcmp(line + PAIRS_LEN, tags[i], strlen(tags[i])) != 0)
			continue;
		hash.algo = (uint8_t)i;
		*ret = hash;
		return 1;
	}
	return -EPROTO;
}

static int parse_digits(const char *text, size_t len)
{
	int number = 0;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -1;
		number = number * 10 + (text[i] - '0');
	}
	return number;
}

static int parse_date(const char *text, int64_t *ret)
{
	int year = parse_digits(text, 4), month = parse_digits(text + 4, 2), day = parse_digits(text + 6, 2),
	    hour = parse_digits(text + 8, 2), minute = parse_digits(text + 10, 2), second = parse_digits(text + 12, 2);
	if (year < 1970 || month < 1 || month > 12 || day < 1 || day > 31 || hour < 0 || hour > 23 || minute < 0 ||
		minute > 59 || second < 0 || second > 59)
		return -EPROTO;
	struct tm tm = {.tm_year = year - 1900,
		.tm_mon = month - 1,
		.tm_mday = day,
		.tm_hour = hour,
		.tm_min = minute,
		.tm_sec = second};
	*ret = timegm(&tm);
	return 0;
}

struct lines {
	const char *at, *end;
	const char *line;
	size_t len;
};

/* The next line of the body, empty at its end (a body ends with a newline). */
static bool next_line(struct lines *lines)
{
	lines->line = lines->at;
	const char *newline = lines->at < lines->end ? memchr(lines->at, '\n', (size_t)(lines->end - lines->at)) : NULL;
	lines->len = newline ? (size_t)(newline - lines->at) : 0;
	if (newline)
		lines->at = newline + 1;
	return newline;
}

static int parse_header(struct lm_whitelist *w, struct lines *lines, struct lm_err *err)
{
	if (!next_line(lines) || lines->len != DATE_LEN)
		return lm_err_set(err, -EPROTO, "the first line is no date of %d digits", DATE_LEN);
	if (parse_date(lines->line, &w->created_s) < 0)
		w->created_s = 0;
	if (!next_line(lines) || lines->len != DATE_LEN + 1 || lines->line[0] != 'E' ||
		parse_date(lines->line + 1, &w->expires_s) < 0)
		return lm_err_set(err, -EPROTO, "the second line is no expiry date");
	if (!next_line(lines) || lines->len < 2 || lines->len > LM_FQRN_MAX || lines->line[0] != 'N')
		return lm_err_set(err, -EPROTO, "the third line is no repository name");
	memcpy(w->fqrn, lines->line + 1, lines->len - 1);
	w->fqrn[lines->len - 1] = '\0';
	if (!lm_fqrn_valid(w->fqrn))
		return lm_err_set(err, -EPROTO, "the third line is no repository name");
	return 0;
}

static int parse_fingerprints(struct lm_whitelist *w, struct lines *lines, struct lm_err *err)
{
	while (next_line(lines)) {
		if (lines->len > 0 && (lines->line[0] == 'V' || lines->line[0] == 'W'))
			return lm_err_set(err, -EPROTO, "asks for a verification by %s, which is not supported",
				lines->line[0] == 'V' ? "PKCS#7 signature" : "CA chain");
		struct lm_hash hash;
		if (lm_fingerprint_parse(lines->line, lines->len, &hash) <= 0)
			continue;
		if (w->count == LM_FINGERPRINTS_MAX)
			return lm_err_set(err, -EPROTO, "more than %d fingerprints", LM_FINGERPRINTS_MAX);
		w->fingerprints[w->count++] = hash;
	}
	return 0;
}

int lm_whitelist_parse(const char *text, size_t len, struct lm_whitelist *ret, struct lm_err *err)
{
	if (len > LM_WHITELIST_MAX)
		return lm_err_set(err, -EPROTO, "whitelist of %zu bytes, at most %d are read", len, LM_WHITELIST_MAX);
	struct lm_signed_text split;
	struct lm_whitelist whitelist = {0};
	int r = lm_signed_text_split(text, len, &split, err);
	if (r == 0) {
		struct lines lines = {.at = text, .end = text + split.body_len};
		r = parse_header(&whitelist, &lines, err);
		if (r == 0)
			r = parse_fingerprints(&whitelist, &lines, err);
	}
	if (r < 0)
		return lm_err_prefix(err, r, "whitelist");
	*ret = whitelist;
	return 0;
}

static int append_date(struct lm_buf *out, const char *prefix, int64_t seconds)
{
	time_t time = seconds;
	struct tm tm;
	if (seconds < 0 || !gmtime_r(&time, &tm) || tm.tm_year > 9999 - 1900)
		return -EINVAL;
	return lm_buf_printf(out, "%s%04d%02d%02d%02d%02d%02d\n", prefix, tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
		tm.tm_hour, tm.tm_min, tm.tm_sec);
}

static int append_fingerprint(struct lm_buf *out, const struct lm_hash *hash)
{
	char pairs[3 * LM_HASH_BYTES + 1];
	if (!hash->set || hash->algo >= ARRAY_LEN(tags))
		return -EINVAL;
	for (size_t i = 0; i < LM_HASH_BYTES; i++)
		snprintf(pairs + 3 * i, 4, "%02X:", hash->bytes[i]);
	return lm_buf_printf(out, "%.*s%s\n", PAIRS_LEN, pairs, tags[hash->algo]);
}

int lm_whitelist_format(const struct lm_whitelist *whitelist, struct lm_buf *ret, struct lm_err *err)
{
	if (!lm_fqrn_valid(whitelist->fqrn))
		return lm_err_set(err, -EINVAL, "whitelist: not a repository name");
	if (whitelist->count > LM_FINGERPRINTS_MAX)
		return lm_err_set(err, -EINVAL, "whitelist: more than %d fingerprints", LM_FINGERPRINTS_MAX);
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	int r = append_date(&text, "", whitelist->created_s);
	if (r == 0)
		r = append_date(&text, "E", whitelist->expires_s);
	if (r == 0)
		r = lm_buf_printf(&text, "N%s\n", whitelist->fqrn);
	for (size_t i = 0; r == 0 && i < whitelist->count; i++)
		r = append_fingerprint(&text, &whitelist->fingerprints[i]);
	if (r < 0)
		return lm_err_sys(err, r, "whitelist");
	r = lm_signed_text_close(&text, whitelist->count ? whitelist->fingerprints[0].algo : LM_HASH_SHA1, err);
	if (r < 0)
		return lm_err_prefix(err, r, "whitelist");
	r = lm_buf_append(ret, text.data, text.len);
	return r < 0 ? lm_err_sys(err, r, "whitelist") : 0;
}

bool lm_whitelist_expired(const struct lm_whitelist *whitelist, int64_t now_s)
{
	return now_s >= whitelist->expires_s - whitelist->expires_s % HOUR_S;
}
