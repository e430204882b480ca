#include "net/answer.h"

enum MHD_Result lm_answer_with(struct MHD_Connection *connection, unsigned code, const char *type, struct lm_buf *body,
	const struct lm_answer_header *headers, size_t count)
{
	size_t len = 0;
	void *data = lm_buf_steal(body, &len);
	struct MHD_Response *response = data ? MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE)
					     : MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
	if (!response) {
		free(data);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	for (size_t i = 0; i < count; i++)
		MHD_add_response_header(response, headers[i].name, headers[i].value);
	enum MHD_Result r = MHD_queue_response(connection, code, response);
	MHD_destroy_response(response);
	return r;
}

enum MHD_Result lm_answer(struct MHD_Connection *connection, unsigned code, const char *type, struct lm_buf *body,
	struct lm_answer_header header)
{
	const struct lm_answer_header headers[] = {{MHD_HTTP_HEADER_CACHE_CONTROL, "no-store"}, header};
	return lm_answer_with(connection, code, type, body, headers, header.name ? 2 : 1);
}

enum MHD_Result lm_answer_plain(struct MHD_Connection *connection, unsigned code, struct lm_answer_header header)
{
	CLEANUP(lm_buf_done) struct lm_buf body = LM_BUF(256);
	if (lm_buf_printf(&body, "%u %s\n", code, MHD_get_reason_phrase_for(code)) < 0)
		return MHD_NO;
	return lm_answer(connection, code, "text/plain", &body, header);
}
