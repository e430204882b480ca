/* Wish lists: whatever comes, a list or one sentence of what is wrong; and names of images that are names. */
#include "oci/reference.h"
#include "sync/wishlist.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_note(void *arg, const char *text)
{
	assert(*text && strchr(text, ':'));
}

/* Two dots inside of a tag lead nowhere. */
static bool leads_out(const char *name)
{
	for (const char *part = name; part; part = strchr(part, '/') ? strchr(part, '/') + 1 : NULL)
		if (*part == '/' || *part == '\0' || strcspn(part, "/") == strspn(part, "."))
			return true;
	return false;
}

static void check_wish(const struct lm_wish *wish)
{
	CLEANUP(lm_freep) char *source = NULL, *name = NULL;
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	assert(wish->registry && wish->repository && wish->scheme && wish->text && (wish->tag || wish->digest));
	const char *tag = wish->wildcard ? "tag" : wish->tag;
	assert(wish->wildcard == (wish->tag && strchr(wish->tag, '*')));
	assert(lm_wish_names(wish, tag, &source, &name, NULL) == 0);
	assert(lm_reference_parse(source, &ref, NULL) == 0 && ref.transport == LM_TRANSPORT_DOCKER);
	assert(strcmp(ref.repository, wish->repository) == 0 && !leads_out(name));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_wishlist_freep) struct lm_wishlist *list = NULL;
	struct lm_err err = LM_ERR_INIT;
	int r = lm_wishlist_parse((const char *)data, size, on_note, NULL, &list, &err);
	assert(r == 0 ? list && list->count > 0 : r == -EINVAL && err.msg[0]);
	for (size_t i = 0; list && i < list->count; i++)
		for (size_t k = 0; k < list->repos[i].count; k++)
			check_wish(&list->repos[i].wishes[k]);
	return 0;
}
