#include "base/texts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 64 };

void lm_texts_done(struct lm_texts *list)
{
	for (size_t i = 0; i < list->count; i++)
		free(list->items[i]);
	free(list->items);
	*list = (struct lm_texts){0};
}

int lm_texts_add(struct lm_texts *list, const char *text)
{
	if (list->count == list->room) {
		size_t room = LM_MAX(2 * list->room, (size_t)FIRST_ROOM);
		char **longer = reallocarray(list->items, room, sizeof(*longer));
		if (!longer)
			return -ENOMEM;
		list->items = longer;
		list->room = room;
	}
	char *copy = strdup(text);
	if (!copy)
		return -ENOMEM;
	list->items[list->count++] = copy;
	return 0;
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

void lm_texts_sort(struct lm_texts *list)
{
	size_t kept = 0;
	if (list->count > 1)
		qsort(list->items, list->count, sizeof(*list->items), compare);
	for (size_t i = 0; i < list->count; i++) {
		if (kept > 0 && strcmp(list->items[kept - 1], list->items[i]) == 0)
			free(list->items[i]);
		else
			list->items[kept++] = list->items[i];
	}
	list->count = kept;
}
