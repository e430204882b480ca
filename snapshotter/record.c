#include "snapshotter/record.h"

#include "base/str.h"

#include <inttypes.h>
#include <string.h>
#include <zlib.h>

static const char magic[] = "lamella snapshot 1";

enum { CRC_BYTES = sizeof("01234567") };

static uint32_t checksum(const void *data, size_t len)
{
	return (uint32_t)crc32_z(0, data, len);
}

static int add_text(struct lm_buf *out, const char *text)
{
	return lm_buf_append(out, text ? text : "", text ? strlen(text) + 1 : 1);
}

static int add_number(struct lm_buf *out, int64_t number)
{
	int r = lm_buf_printf(out, "%" PRId64, number);
	return r < 0 ? r : add_text(out, NULL);
}

static int add_fields(struct lm_buf *out, const struct lm_snapshot *s, const struct lm_labels *labels)
{
	const int64_t numbers[] = {s->kind, s->parent ? s->parent->id : 0, s->created_ns, s->updated_ns,
		s->usage.size_bytes, s->usage.inodes};
	const char *const texts[] = {s->layer_digest, s->layer_path, s->layer_ref};
	int r = add_text(out, magic);
	if (r == 0)
		r = add_number(out, s->id);
	if (r == 0)
		r = add_text(out, s->plugin);
	if (r == 0)
		r = add_text(out, s->key);
	for (size_t i = 0; i < ARRAY_LEN(numbers) && r == 0; i++)
		r = add_number(out, numbers[i]);
	for (size_t i = 0; i < ARRAY_LEN(texts) && r == 0; i++)
		r = add_text(out, texts[i]);
	for (size_t i = 0; i < labels->count && r == 0; i++) {
		r = add_text(out, labels->items[i].key);
		if (r == 0)
			r = add_text(out, labels->items[i].value);
	}
	return r;
}

int lm_record_format(
	const struct lm_snapshot *snapshot, const struct lm_labels *labels, struct lm_buf *ret, struct lm_err *err)
{
	size_t before = ret->len;
	int r = add_fields(ret, snapshot, labels);
	if (r == 0)
		r = lm_buf_printf(ret, "%08" PRIx32, checksum(ret->data + before, ret->len - before));
	if (r == 0)
		r = add_text(ret, NULL);
	if (r < 0)
		ret->len = before;
	return r < 0 ? lm_err_sys(err, r, "the record of snapshot %" PRId64, snapshot->id) : 0;
}

/* What is still to be parsed; it ends in a NUL. */
struct rest {
	const char *at, *end;
	bool bad; /* something was missing or not as it should be */
};

static const char *next_text(struct rest *rest)
{
	const char *text = rest->at;
	if (rest->bad || text == rest->end) {
		rest->bad = true;
		return "";
	}
	rest->at += strlen(text) + 1;
	return text;
}

static int64_t next_number(struct rest *rest, int64_t min, int64_t max)
{
	int64_t number = 0;
	const char *text = next_text(rest);
	if (rest->bad || lm_str_i64(text, strlen(text), &number) < 0 || number < min || number > max)
		rest->bad = true;
	return number;
}

/* Empty: none. */
static int take_text(struct rest *rest, char **ret)
{
	const char *text = next_text(rest);
	*ret = *text ? strdup(text) : NULL;
	return *text && !*ret ? -ENOMEM : 0;
}

static bool plausible(const struct lm_record *record)
{
	const struct lm_snapshot *s = &record->snapshot;
	bool remote = s->layer_digest && s->layer_path && s->layer_ref;
	return s->plugin && s->key && record->parent != s->id &&
	       (remote ? s->kind == LM_COMMITTED : !s->layer_digest && !s->layer_path && !s->layer_ref);
}

static int parse_labels(struct rest *rest, struct lm_labels *ret)
{
	int r = 0;
	while (r == 0 && !rest->bad && rest->at < rest->end) {
		const char *key = next_text(rest), *value = next_text(rest);
		if (!rest->bad)
			r = lm_labels_set(ret, key, value);
	}
	return r;
}

static int parse_fields(struct rest *rest, struct lm_record *record)
{
	struct lm_snapshot *s = &record->snapshot;
	s->id = next_number(rest, 1, INT64_MAX);
	/* A plugin without a name is one of a client that gives none. */
	const char *plugin = next_text(rest);
	if (!(s->plugin = strdup(plugin)))
		return -ENOMEM;
	int r = take_text(rest, &s->key);
	s->kind = (enum lm_kind)next_number(rest, LM_VIEW, LM_COMMITTED);
	record->parent = next_number(rest, 0, INT64_MAX);
	s->created_ns = next_number(rest, INT64_MIN, INT64_MAX);
	s->updated_ns = next_number(rest, INT64_MIN, INT64_MAX);
	s->usage.size_bytes = next_number(rest, 0, INT64_MAX);
	s->usage.inodes = next_number(rest, 0, INT64_MAX);
	if (r == 0)
		r = take_text(rest, &s->layer_digest);
	if (r == 0)
		r = take_text(rest, &s->layer_path);
	if (r == 0)
		r = take_text(rest, &s->layer_ref);
	return r < 0 ? r : parse_labels(rest, &s->labels);
}

void lm_record_done(struct lm_record *record)
{
	struct lm_snapshot *s = &record->snapshot;
	char *const texts[] = {s->plugin, s->key, s->layer_digest, s->layer_path, s->layer_ref};
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		free(texts[i]);
	lm_labels_done(&s->labels);
	*record = (struct lm_record){0};
}

static int check_sum(const char *text, size_t len, struct lm_err *err)
{
	uint8_t bytes[4];
	if (len < sizeof(magic) + CRC_BYTES || text[len - 1] != '\0' ||
		lm_hex_parse(text + len - CRC_BYTES, bytes, sizeof(bytes)) < 0)
		return lm_err_set(err, -EPROTO, "record: cut short");
	uint32_t said = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
	return said == checksum(text, len - CRC_BYTES) ? 0 : lm_err_set(err, -EPROTO, "record: wrong checksum");
}

int lm_record_parse(const void *data, size_t len, struct lm_record *ret, struct lm_err *err)
{
	int r = check_sum(data, len, err);
	if (r < 0)
		return r;
	if (strncmp(data, magic, len) != 0)
		return lm_err_set(err, -EPROTO, "record: of another version than this program's");
	struct rest rest = {.at = data, .end = (const char *)data + len - CRC_BYTES};
	if (rest.end == rest.at || rest.end[-1] != '\0')
		return lm_err_set(err, -EPROTO, "record: no strings");
	(void)next_text(&rest);
	CLEANUP(lm_record_done) struct lm_record record = {0};
	r = parse_fields(&rest, &record);
	if (r == -ENOMEM)
		return lm_err_oom(err);
	if (r < 0 || rest.bad || !plausible(&record))
		return lm_err_set(err, -EPROTO, "record: its fields make no sense");
	*ret = record;
	record = (struct lm_record){0};
	return 0;
}
