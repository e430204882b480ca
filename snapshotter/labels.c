#include "snapshotter/labels.h"

#include <string.h>

void lm_labels_done(struct lm_labels *labels)
{
	for (size_t i = 0; i < labels->count; i++) {
		free(labels->items[i].key);
		free(labels->items[i].value);
	}
	free(labels->items);
	*labels = (struct lm_labels){0};
}

/* Where key is, or where it belongs. */
static size_t position(const struct lm_labels *labels, const char *key, bool *ret_found)
{
	size_t low = 0, high = labels->count;
	*ret_found = false;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(labels->items[middle].key, key);
		if (order == 0) {
			*ret_found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int insert(struct lm_labels *labels, size_t at, const char *key, char *value)
{
	CLEANUP(lm_freep) char *own_key = strdup(key);
	struct lm_label *items = own_key ? reallocarray(labels->items, labels->count + 1, sizeof(*items)) : NULL;
	if (!items)
		return -ENOMEM;
	memmove(items + at + 1, items + at, (labels->count - at) * sizeof(*items));
	items[at] = (struct lm_label){STEAL(own_key), value};
	labels->items = items;
	labels->count++;
	labels->bytes += strlen(key) + strlen(value);
	return 0;
}

int lm_labels_set(struct lm_labels *labels, const char *key, const char *value)
{
	bool found;
	size_t at = position(labels, key, &found);
	if (!*value) {
		lm_labels_unset(labels, key);
		return 0;
	}
	if (labels->bytes + strlen(key) + strlen(value) > LM_LABELS_MAX_BYTES)
		return -EMSGSIZE;
	CLEANUP(lm_freep) char *own_value = strdup(value);
	if (!own_value)
		return -ENOMEM;
	if (!found) {
		int r = insert(labels, at, key, own_value);
		if (r == 0)
			own_value = NULL;
		return r;
	}
	labels->bytes += strlen(value) - strlen(labels->items[at].value);
	free(labels->items[at].value);
	labels->items[at].value = STEAL(own_value);
	return 0;
}

void lm_labels_unset(struct lm_labels *labels, const char *key)
{
	bool found;
	size_t at = position(labels, key, &found);
	if (!found)
		return;
	labels->bytes -= strlen(labels->items[at].key) + strlen(labels->items[at].value);
	free(labels->items[at].key);
	free(labels->items[at].value);
	labels->count--;
	memmove(labels->items + at, labels->items + at + 1, (labels->count - at) * sizeof(*labels->items));
}

const char *lm_labels_get(const struct lm_labels *labels, const char *key)
{
	bool found;
	size_t at = position(labels, key, &found);
	return found ? labels->items[at].value : NULL;
}

int lm_labels_copy(const struct lm_labels *labels, struct lm_labels *ret)
{
	CLEANUP(lm_labels_done) struct lm_labels copy = {0};
	for (size_t i = 0; i < labels->count; i++) {
		int r = lm_labels_set(&copy, labels->items[i].key, labels->items[i].value);
		if (r < 0)
			return r;
	}
	*ret = copy;
	copy = (struct lm_labels){0};
	return 0;
}
