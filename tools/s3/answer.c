#include "s3/answer.h"

#include "base/str.h"

#include <expat.h>
#include <stdio.h>
#include <string.h>

enum { DEPTH_MAX = 8, PATH_MAX_BYTES = 256 };

LM_DEFINE_CLEANUP(struct XML_ParserStruct, XML_ParserFree, parserp)

/* The element that is open, as "ListBucketResult/Contents/Key", and the text in it so far. */
struct reader {
	XML_Parser parser;
	void (*on_text)(struct reader *reader, const char *path, const char *text);
	void *arg;
	char path[PATH_MAX_BYTES];
	size_t depth, starts[DEPTH_MAX]; /* of the names in path */
	char text[LM_S3_TOKEN_MAX];
	size_t text_len;
	bool cut;
	int code; /* not 0: it ended early */
	struct lm_err *err;
};

static int stop(struct reader *r, int code)
{
	if (r->code == 0)
		r->code = code;
	XML_StopParser(r->parser, XML_FALSE);
	return code;
}

static void refuse(struct reader *r, const char *why)
{
	if (r->code == 0)
		stop(r, lm_err_set(r->err, -EPROTO, "the server's XML %s", why));
}

static const char *local_name(const char *name)
{
	const char *colon = strrchr(name, ':');
	return colon ? colon + 1 : name;
}

static void on_start(void *arg, const char *name, const char **attributes)
{
	struct reader *r = arg;
	size_t at = strlen(r->path);
	name = local_name(name);
	if (r->code)
		return;
	if (r->depth == DEPTH_MAX || at + strlen(name) + 2 > sizeof(r->path)) {
		refuse(r, "is nested too deeply");
		return;
	}
	r->starts[r->depth++] = at;
	snprintf(r->path + at, sizeof(r->path) - at, "%s%s", at ? "/" : "", name);
	r->text_len = 0;
	r->cut = false;
}

static void on_chars(void *arg, const char *text, int len)
{
	struct reader *r = arg;
	size_t fits = LM_MIN((size_t)len, sizeof(r->text) - 1 - r->text_len);
	r->cut |= fits < (size_t)len;
	memcpy(r->text + r->text_len, text, fits);
	r->text_len += fits;
}

static void on_end(void *arg, const char *name)
{
	struct reader *r = arg;
	if (r->code || r->depth == 0)
		return;
	r->text[r->text_len] = '\0';
	r->on_text(r, r->path, r->text);
	r->path[r->starts[--r->depth]] = '\0';
	r->text_len = 0;
	r->cut = false;
}

static void on_doctype(void *arg, const char *name, const char *system, const char *public, int has_subset)
{
	refuse(arg, "has a document type");
}

static int read_xml(struct reader *r, const char *text, size_t len)
{
	CLEANUP(parserp) XML_Parser parser = XML_ParserCreate(NULL);
	if (!parser)
		return lm_err_oom(r->err);
	r->parser = parser;
	XML_SetUserData(parser, r);
	XML_SetElementHandler(parser, on_start, on_end);
	XML_SetCharacterDataHandler(parser, on_chars);
	XML_SetStartDoctypeDeclHandler(parser, on_doctype);
	if (len > INT32_MAX)
		return lm_err_set(r->err, -EPROTO, "the server's XML is too long");
	enum XML_Status status = XML_Parse(parser, text, (int)len, 1);
	if (r->code)
		return r->code;
	if (status != XML_STATUS_OK)
		return lm_err_set(r->err, -EPROTO, "the server's XML: %s", XML_ErrorString(XML_GetErrorCode(parser)));
	return 0;
}

/* --- errors --- */

static void take_error(struct reader *r, const char *path, const char *text)
{
	struct lm_s3_error *error = r->arg;
	if (strcmp(path, "Error/Code") == 0)
		snprintf(error->code, sizeof(error->code), "%s", text);
	else if (strcmp(path, "Error/Message") == 0)
		snprintf(error->message, sizeof(error->message), "%s", text);
}

int lm_s3_error_parse(const char *text, size_t len, struct lm_s3_error *ret)
{
	struct lm_s3_error error = {0};
	struct reader r = {.on_text = take_error, .arg = &error};
	/* One that is cut off in the middle still says what it said. */
	if ((read_xml(&r, text, len) < 0 && !error.code[0]) || !error.code[0])
		return -ENOENT;
	*ret = error;
	return 0;
}

/* --- listings --- */

struct listing {
	lm_s3_object_fn *fn;
	void *arg;
	struct lm_s3_page *page;
	char key[LM_S3_KEY_MAX + 1];
	bool has_key, has_size, is_listing;
	uint64_t size;
};

static void take_key(struct reader *r, struct listing *l, const char *text)
{
	size_t len = strlen(text);
	if (r->cut || len == 0 || len > LM_S3_KEY_MAX || l->has_key) {
		refuse(r, "has a key of a wrong length, or two");
		return;
	}
	memcpy(l->key, text, len + 1);
	l->has_key = true;
}

static void take_object(struct reader *r, struct listing *l)
{
	if (!l->has_key || !l->has_size) {
		refuse(r, "lists an object without key or size");
		return;
	}
	l->has_key = l->has_size = false;
	int code = l->fn(l->arg, l->key, l->size);
	if (code != 0)
		stop(r, code);
}

static void take_listing(struct reader *r, const char *path, const char *text)
{
	struct listing *l = r->arg;
	if (strcmp(path, "ListBucketResult/Contents/Key") == 0) {
		take_key(r, l, text);
	} else if (strcmp(path, "ListBucketResult/Contents/Size") == 0) {
		if (lm_str_u64(text, strlen(text), &l->size) < 0)
			refuse(r, "has a size that is no number");
		l->has_size = true;
	} else if (strcmp(path, "ListBucketResult/Contents") == 0) {
		take_object(r, l);
	} else if (strcmp(path, "ListBucketResult/IsTruncated") == 0) {
		l->page->more = strcmp(text, "true") == 0;
	} else if (strcmp(path, "ListBucketResult/NextContinuationToken") == 0) {
		if (r->cut)
			refuse(r, "has a continuation token that is too long");
		else
			snprintf(l->page->token, sizeof(l->page->token), "%s", text);
	} else if (strcmp(path, "ListBucketResult") == 0) {
		l->is_listing = true;
	}
}

int lm_s3_page_parse(
	const char *text, size_t len, lm_s3_object_fn *fn, void *arg, struct lm_s3_page *ret, struct lm_err *err)
{
	struct lm_s3_page page = {0};
	struct listing l = {.fn = fn, .arg = arg, .page = &page};
	struct reader r = {.on_text = take_listing, .arg = &l, .err = err};
	int code = read_xml(&r, text, len);
	if (code != 0)
		return code;
	if (!l.is_listing)
		return lm_err_set(err, -EPROTO, "the server's answer is no listing");
	if (page.more && !page.token[0])
		return lm_err_set(err, -EPROTO, "the server's listing goes on, yet has no continuation token");
	*ret = page;
	return 0;
}
