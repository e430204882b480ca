#include "oci/tags.h"

#include "base/str.h"
#include "oci/endpoint.h"
#include "oci/json.h"
#include "oci/reference.h"

#include <string.h>

enum { PAGES_MAX = 10000 };

struct lm_tags {
	struct lm_endpoint **endpoints; /* mirrors, then the registry itself; constant after open */
	size_t count;
};

void lm_tags_free(struct lm_tags *tags)
{
	if (!tags)
		return;
	for (size_t i = 0; i < tags->count; i++)
		lm_endpoint_unref(tags->endpoints[i]);
	free(tags->endpoints);
	free(tags);
}

static int add_endpoint(struct lm_tags *tags, const char *registry, const char *repository,
	const struct lm_access *access, const struct lm_mirror *mirror, struct lm_err *err)
{
	int r = lm_endpoint_new(access, registry, repository, mirror, &tags->endpoints[tags->count], err);
	tags->count += r == 0;
	return r;
}

int lm_tags_open(const char *registry, const char *repository, const struct lm_access *access, struct lm_tags **ret,
	struct lm_err *err)
{
	CLEANUP(lm_tags_freep) struct lm_tags *tags = calloc(1, sizeof(*tags));
	if (!tags || !(tags->endpoints = calloc(access->mirror_count + 1, sizeof(struct lm_endpoint *))))
		return lm_err_oom(err);
	int r = 0;
	for (size_t i = 0; r == 0 && i < access->mirror_count; i++)
		if (strcmp(access->mirrors[i].registry, registry) == 0)
			r = add_endpoint(tags, registry, repository, access, &access->mirrors[i], err);
	if (r == 0)
		r = add_endpoint(tags, registry, repository, access, NULL, err);
	if (r < 0)
		return r;
	*ret = STEAL(tags);
	return 0;
}

/* --- lists --- */

bool lm_tag_matches(const char *pattern, const char *tag)
{
	const char *star = NULL, *retry = NULL;
	while (*tag) {
		if (*pattern == '*') {
			star = ++pattern;
			retry = tag;
		} else if (*pattern == *tag) {
			pattern++;
			tag++;
		} else if (star) {
			/* What the last star stands for gets longer; an earlier one never needs to. */
			pattern = star;
			tag = ++retry;
		} else {
			return false;
		}
	}
	return pattern[strspn(pattern, "*")] == '\0';
}

static int add_tag(struct lm_texts *list, const char *tag, struct lm_err *err)
{
	if (list->count == LM_TAGS_MAX)
		return lm_err_set(err, -EPROTO, "more than %d tags", LM_TAGS_MAX);
	return lm_texts_add(list, tag) < 0 ? lm_err_oom(err) : 0;
}

int lm_tags_parse(
	const char *json, size_t len, const char *pattern, struct lm_texts *list, size_t *ret_count, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *page = NULL;
	json_t *tags = NULL;
	int r = lm_json_load("list of tags", json, len, &page, err);
	if (r == 0)
		r = lm_json_array("list of tags", page, "tags", LM_TAGS_MAX, LM_JSON_OPTIONAL, &tags, err);
	size_t count = json_array_size(tags);
	for (size_t i = 0; r == 0 && i < count; i++) {
		const char *tag = json_string_value(json_array_get(tags, i));
		if (!tag)
			r = lm_err_set(err, -EPROTO, "list of tags: a tag is no text");
		else if (lm_tag_valid(tag) && lm_tag_matches(pattern, tag))
			r = add_tag(list, tag, err);
	}
	if (r == 0)
		*ret_count = count;
	return r;
}

/* A server that sends the same pages for ever is stopped by their number, whatever they hold. */
static int list_at(struct lm_endpoint *e, const char *pattern, struct lm_texts *list, struct lm_err *err)
{
	CLEANUP(lm_freep) char *page = NULL;
	size_t seen = 0;
	for (unsigned pages = 0; pages < PAGES_MAX && seen <= LM_TAGS_MAX; pages++) {
		CLEANUP(lm_buf_done) struct lm_buf json = LM_BUF(LM_MANIFEST_JSON_MAX);
		CLEANUP(lm_freep) char *next = NULL;
		size_t count = 0;
		int r = lm_endpoint_tags(e, page, LM_TAGS_PAGE, &json, &next, err);
		if (r == 0)
			r = lm_tags_parse(lm_buf_cstr(&json), json.len, pattern, list, &count, err);
		if (r < 0 || !next)
			return r;
		if (page && strcmp(page, next) == 0)
			return lm_err_set(err, -EPROTO, "%s: the list of tags has no end", lm_endpoint_host(e));
		seen += count;
		free(page);
		page = STEAL(next);
	}
	return lm_err_set(err, -EPROTO, "%s: more than %d tags, or %d pages of them", lm_endpoint_host(e), LM_TAGS_MAX,
		PAGES_MAX);
}

int lm_tags_list(struct lm_tags *tags, const char *pattern, struct lm_texts *ret, struct lm_err *err)
{
	CLEANUP(lm_texts_done) struct lm_texts list = {0};
	int r = -ENOENT;
	for (size_t i = 0; r < 0 && i < tags->count; i++) {
		lm_texts_done(&list);
		r = list_at(tags->endpoints[i], pattern, &list, err);
	}
	if (r < 0)
		return r;
	lm_texts_sort(&list);
	*ret = list;
	list = (struct lm_texts){0};
	return 0;
}

/* --- digests --- */

static int read_digest(struct lm_endpoint *e, const char *reference, char ret[LM_DIGEST_MAX], struct lm_err *err)
{
	CLEANUP(lm_document_done) struct lm_document document = {.text = LM_BUF(LM_MANIFEST_JSON_MAX)};
	int r = lm_endpoint_manifest(e, reference, &document, err);
	return r < 0 ? r : lm_digest_data(document.text.data, document.text.len, ret, err);
}

int lm_tags_digest(struct lm_tags *tags, const char *reference, char ret[LM_DIGEST_MAX], struct lm_err *err)
{
	int r = -ENOENT;
	for (size_t i = 0; r < 0 && i < tags->count; i++) {
		r = lm_endpoint_digest(tags->endpoints[i], reference, ret, err);
		if (r == 0 && !ret[0])
			r = read_digest(tags->endpoints[i], reference, ret, err);
	}
	return r;
}
