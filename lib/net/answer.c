#include "net/answer.h"

enum MHD_Result lm_answer(struct MHD_Connection *connection, unsigned code, const char *type, struct lm_buf *body,
	struct lm_answer_header header)
{
	size_t len;
	void *data = lm_buf_steal(body, &len);
	struct MHD_Response *response = data ? MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE) : NULL;
	if (!response) {
		free(data);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	if (header.name)
		MHD_add_response_header(response, header.name, header.value);
	enum MHD_Result r = MHD_queue_response(connection, code, response);
	MHD_destroy_response(response);
	return r;
}

enum MHD_Result lm_answer_plain(struct MHD_Connection *connection, unsigned code, struct lm_answer_header header)
{
	CLEANUP(lm_buf_done) struct lm_buf body = LM_BUF(256);
	if (lm_buf_printf(&body, "%u %s\n", code, MHD_get_reason_phrase_for(code)) < 0)
		return MHD_NO;
	return lm_answer(connection, code, "text/plain", &body, header);
}
