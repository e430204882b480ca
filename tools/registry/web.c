#include "registry/web.h"

#include "base/listen.h"
#include "base/log.h"
#include "base/str.h"
#include "net/answer.h"
#include "oci/json.h"
#include "registry/request.h"

#include <stdio.h>
#include <string.h>

enum { CONNECTION_MEMORY = 32 << 10, STACK = 512 << 10, LIST_MAX = 4 << 20, NUMBER_MAX = 20 };
static const struct lm_answer_header no_header;

struct lm_registry_web {
	struct lm_shelf *shelf;
	char *where;
	struct MHD_Daemon *daemon;
};

/* One request, once all of it was read. */
struct asked {
	struct lm_registry_web *web;
	struct MHD_Connection *connection;
	struct lm_registry_request request;
};

static const char *header_of(const struct asked *asked, const char *name)
{
	return MHD_lookup_connection_value(asked->connection, MHD_HEADER_KIND, name);
}

/* Takes the object; NULL: there was no memory for it. */
static enum MHD_Result answer_json(
	struct MHD_Connection *connection, unsigned status, json_t *object, struct lm_answer_header header)
{
	CLEANUP(lm_buf_done) struct lm_buf body = LM_BUF(LIST_MAX);
	CLEANUP(lm_json_freep) json_t *json = object;
	if (lm_json_write(json, JSON_COMPACT, &body) < 0 || lm_buf_str(&body, "\n") < 0)
		return lm_answer_plain(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, no_header);
	return lm_answer(connection, status, "application/json", &body, header);
}

/* --- failures --- */

static enum MHD_Result answer_error(struct MHD_Connection *connection, unsigned status, const char *code,
	const char *message, struct lm_answer_header header)
{
	return answer_json(
		connection, status, json_pack("{s:[{s:s, s:s}]}", "errors", "code", code, "message", message), header);
}

static enum MHD_Result answer_failure(const struct asked *asked, int r, const char *unknown, const struct lm_err *err)
{
	if (r == -ENOENT)
		return answer_error(asked->connection, MHD_HTTP_NOT_FOUND, unknown, lm_err_text(err), no_header);
	static struct lm_log_limit limit;
	if (lm_log_limit_pass(&limit, 1000, NULL))
		lm_log(LM_LOG_WARN, "request can't be answered", LM_KV("name", "%s", asked->request.name),
			LM_KV("ns", "%s", asked->request.ns), LM_KV("reference", "%s", asked->request.reference),
			LM_KV("reason", "%s", lm_err_text(err)));
	if (r == -EPROTO || r == -EBADMSG || r == -E2BIG)
		return answer_error(
			asked->connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "UNKNOWN", lm_err_text(err), no_header);
	return answer_error(asked->connection, MHD_HTTP_SERVICE_UNAVAILABLE, "UNAVAILABLE", lm_err_text(err),
		(struct lm_answer_header){MHD_HTTP_HEADER_RETRY_AFTER, "5"});
}

/* --- manifests and configs --- */

static bool is_known(const struct asked *asked, const char *etag)
{
	const char *known = header_of(asked, MHD_HTTP_HEADER_IF_NONE_MATCH);
	return known && (strstr(known, etag) || strcmp(known, "*") == 0);
}

static enum MHD_Result answer_item(const struct asked *asked, struct lm_shelf_item *item, const char *type)
{
	char etag[LM_DIGEST_MAX + 2];
	snprintf(etag, sizeof(etag), "\"%s\"", item->digest);
	const struct lm_answer_header headers[] = {
		{"Docker-Content-Digest", item->digest},
		{MHD_HTTP_HEADER_ETAG, etag},
		/* What a digest names stays; what a tag means is asked again. */
		{MHD_HTTP_HEADER_CACHE_CONTROL,
			strchr(asked->request.reference, ':') ? "max-age=31536000" : "no-cache"},
		{"X-Content-Type-Options", "nosniff"},
	};
	unsigned status = MHD_HTTP_OK;
	if (is_known(asked, etag)) {
		lm_buf_done(&item->text);
		status = MHD_HTTP_NOT_MODIFIED;
	}
	return lm_answer_with(asked->connection, status, type, &item->text, headers, ARRAY_LEN(headers));
}

static struct lm_shelf_name name_of(const struct asked *asked)
{
	return (struct lm_shelf_name){*asked->request.ns ? asked->request.ns : NULL, asked->request.name};
}

static enum MHD_Result give_manifest(const struct asked *asked)
{
	CLEANUP(lm_shelf_item_done) struct lm_shelf_item item = {0};
	struct lm_err err = LM_ERR_INIT;
	const struct lm_shelf_name name = name_of(asked);
	int r = lm_shelf_manifest(asked->web->shelf, &name, asked->request.reference, &item, &err);
	return r < 0 ? answer_failure(asked, r, "MANIFEST_UNKNOWN", &err) : answer_item(asked, &item, item.media_type);
}

static enum MHD_Result give_blob(const struct asked *asked)
{
	CLEANUP(lm_shelf_item_done) struct lm_shelf_item item = {0};
	struct lm_err err = LM_ERR_INIT;
	const struct lm_shelf_name name = name_of(asked);
	const char *digest = asked->request.reference;
	int r = lm_shelf_config(asked->web->shelf, &name, digest, &item, &err);
	if (r == -ENOENT && lm_shelf_has_layer(asked->web->shelf, digest))
		r = lm_err_set(&err, -ENOENT,
			"layer %s is provided by lamella-snapshotter, file by file; there is no blob of it here: pull "
			"with that snapshotter, or from the registry itself",
			digest);
	return r < 0 ? answer_failure(asked, r, "BLOB_UNKNOWN", &err)
		     : answer_item(asked, &item, "application/octet-stream");
}

/* --- lists --- */

struct page {
	size_t first, count;
	char *next; /* the Link header; NULL: it was the last */
};

static const char *argument(const struct asked *asked, const char *name)
{
	return MHD_lookup_connection_value(asked->connection, MHD_GET_ARGUMENT_KIND, name);
}

/* ?n=COUNT&last=ITEM. Nothing of what the client sent comes back in the header; names and tags need no %HH in it. */
static int find_page(const struct asked *asked, const struct lm_texts *list, const char *path, struct page *ret)
{
	const char *n = argument(asked, "n"), *last = argument(asked, "last");
	uint64_t count = LM_REGISTRY_PAGE;
	char after[LM_REGISTRY_PATH_MAX] = "";
	if (n && (lm_str_u64(n, strnlen(n, NUMBER_MAX), &count) < 0 || strlen(n) >= NUMBER_MAX))
		return -EINVAL;
	if (last && strlen(last) >= sizeof(after))
		return -EINVAL;
	if (last)
		strcpy(after, last);
	if (!lm_str_unescape(after))
		return -EINVAL;
	while (ret->first < list->count && strcmp(list->items[ret->first], after) <= 0)
		ret->first++;
	ret->count = LM_MIN(LM_MIN(count, (uint64_t)LM_REGISTRY_PAGE), (uint64_t)(list->count - ret->first));
	if (ret->count == 0 || ret->first + ret->count == list->count)
		return 0;
	ret->next = lm_str_printf(
		"<%s?n=%zu&last=%s>; rel=\"next\"", path, ret->count, list->items[ret->first + ret->count - 1]);
	return ret->next ? 0 : -ENOMEM;
}

static json_t *items_json(const struct lm_texts *list, const struct page *page)
{
	CLEANUP(lm_json_freep) json_t *items = json_array();
	for (size_t i = 0; i < page->count; i++)
		if (json_array_append_new(items, json_string(list->items[page->first + i])) < 0)
			return NULL;
	return STEAL(items);
}

static enum MHD_Result give_page(const struct asked *asked, const struct lm_texts *list, const char *path)
{
	struct page page = {0};
	int r = find_page(asked, list, path, &page);
	CLEANUP(lm_freep) char *next = page.next;
	if (r == -EINVAL)
		return answer_error(asked->connection, MHD_HTTP_BAD_REQUEST, "PAGINATION_NUMBER_INVALID",
			"n: a number is wanted, last: a name or tag", no_header);
	json_t *items = r < 0 ? NULL : items_json(list, &page);
	json_t *json = !items ? NULL
		       : asked->request.kind == LM_REGISTRY_TAGS
			       ? json_pack("{s:s, s:o}", "name", asked->request.name, "tags", items)
			       : json_pack("{s:o}", "repositories", items);
	return answer_json(asked->connection, MHD_HTTP_OK, json,
		next ? (struct lm_answer_header){MHD_HTTP_HEADER_LINK, next} : no_header);
}

static enum MHD_Result give_tags(const struct asked *asked)
{
	CLEANUP(lm_texts_done) struct lm_texts list = {0};
	CLEANUP(lm_freep) char *path = lm_str_printf("/v2/%s/tags/list", asked->request.name);
	struct lm_err err = LM_ERR_INIT;
	const struct lm_shelf_name name = name_of(asked);
	int r = path ? lm_shelf_tags(asked->web->shelf, &name, &list, &err) : lm_err_oom(&err);
	return r < 0 ? answer_failure(asked, r, "NAME_UNKNOWN", &err) : give_page(asked, &list, path);
}

static enum MHD_Result give_catalog(const struct asked *asked)
{
	CLEANUP(lm_texts_done) struct lm_texts list = {0};
	struct lm_err err = LM_ERR_INIT;
	int r = lm_shelf_names(asked->web->shelf, &list, &err);
	return r < 0 ? answer_failure(asked, r, "NAME_UNKNOWN", &err) : give_page(asked, &list, "/v2/_catalog");
}

/* --- requests --- */

static enum MHD_Result give(const struct asked *asked)
{
	switch (asked->request.kind) {
	case LM_REGISTRY_ROOT:
		return answer_json(asked->connection, MHD_HTTP_OK, json_object(),
			(struct lm_answer_header){"Docker-Distribution-API-Version", "registry/2.0"});
	case LM_REGISTRY_CATALOG:
		return give_catalog(asked);
	case LM_REGISTRY_TAGS:
		return give_tags(asked);
	case LM_REGISTRY_MANIFEST:
		return give_manifest(asked);
	case LM_REGISTRY_BLOB:
		return give_blob(asked);
	}
	return MHD_NO;
}

/* Called for the head, for each piece of a body, which is dropped, and at the end. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
	const char *version, const char *upload, size_t *upload_len, void **context)
{
	static char seen;
	struct asked asked = {.web = arg, .connection = connection};
	struct lm_err err = LM_ERR_INIT;
	const char *code = NULL;
	if (*context != &seen) {
		*context = &seen;
		return MHD_YES;
	}
	if (*upload_len > 0) {
		*upload_len = 0;
		return MHD_YES;
	}
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return answer_error(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "UNSUPPORTED",
			"images are read here, not written: `lamella convert` publishes them",
			(struct lm_answer_header){MHD_HTTP_HEADER_ALLOW, "GET, HEAD"});
	int r = lm_registry_request_parse(url, argument(&asked, "ns"), &asked.request, &code, &err);
	if (r < 0)
		return answer_error(connection, r == -ENOENT ? MHD_HTTP_NOT_FOUND : MHD_HTTP_BAD_REQUEST, code,
			lm_err_text(&err), no_header);
	return give(&asked);
}

/* The parser does that: a zero byte would cut the path here. */
static size_t keep_escapes(void *arg, struct MHD_Connection *connection, char *text)
{
	return strlen(text);
}

int lm_registry_web_new(const char *address, struct lm_shelf *shelf, struct lm_registry_web **ret, struct lm_err *err)
{
	CLEANUP(lm_registry_web_freep) struct lm_registry_web *web = calloc(1, sizeof(*web));
	if (!web)
		return lm_err_oom(err);
	web->shelf = shelf;
	CLEANUP(lm_closep) int fd = lm_listen_tcp(address, err);
	if (fd < 0)
		return lm_err_prefix(err, fd, "--listen");
	web->where = lm_listen_url(fd);
	if (!web->where)
		return lm_err_oom(err);
	web->daemon = MHD_start_daemon(
		MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ITC, 0, NULL,
		NULL, on_request, web, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
		(unsigned)LM_REGISTRY_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)LM_REGISTRY_IDLE_S,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_THREAD_STACK_SIZE,
		(size_t)STACK, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL, MHD_OPTION_END);
	if (!web->daemon)
		return lm_err_set(err, -EIO, "the web server can't be started");
	fd = -1;
	*ret = STEAL(web);
	return 0;
}

void lm_registry_web_free(struct lm_registry_web *web)
{
	if (!web)
		return;
	if (web->daemon)
		MHD_stop_daemon(web->daemon);
	free(web->where);
	free(web);
}

const char *lm_registry_web_where(const struct lm_registry_web *web)
{
	return web->where;
}
