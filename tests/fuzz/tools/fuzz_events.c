/* Notifications of registries: what comes out of them is a repository's name and a tag, or nothing. */
#include "oci/reference.h"
#include "sync/events.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int on_event(void *arg, const char *repository, const char *tag, const char *digest)
{
	static const char names[] = "abcdefghijklmnopqrstuvwxyz0123456789._-/";
	static const char tags[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	assert(*repository && repository[strspn(repository, names)] == '\0' && !strstr(repository, ".."));
	assert(*tag && tag[strspn(tag, tags)] == '\0' && *tag != '.' && *tag != '-');
	assert(!*digest || lm_digest_valid(digest));
	++*(size_t *)arg;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lm_err err = LM_ERR_INIT;
	size_t others = 0, events = 0;
	int r = lm_events_parse((const char *)data, size, on_event, &events, &others, &err);
	assert(r == 0 || (r == -EPROTO && err.msg[0]));
	assert(events + others <= LM_EVENTS_MAX);
	return 0;
}
