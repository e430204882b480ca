#include "fetcher/failures.h"

enum { MEMORY_MS = 60 * 1000 }; /* failures further apart are not in a row */

static bool is_same(const struct lm_object_ref *a, const struct lm_object_ref *b)
{
	return a->kind == b->kind && a->compression == b->compression && a->size == b->size &&
	       a->alternative == b->alternative && lm_hash_cmp(&a->hash, &b->hash) == 0;
}

static size_t slot_of(const struct lm_object_ref *ref)
{
	return (ref->hash.bytes[0] | (size_t)ref->hash.bytes[1] << 8) % LM_FAILURES_MAX;
}

static bool is_of_network(int code)
{
	return code == -EIO || code == -ETIMEDOUT;
}

static bool is_worth_it(int code)
{
	return is_of_network(code) || code == -ENOENT || code == -EBADMSG || code == -EPROTO;
}

static void empty(struct lm_failures *failures, struct lm_failure *slot)
{
	failures->count -= slot->code != 0;
	slot->code = 0;
}

void lm_failures_add(struct lm_failures *failures, const struct lm_object_ref *ref, int code, const struct lm_err *err,
	int64_t now_ms)
{
	struct lm_failure *slot = &failures->slots[slot_of(ref)];
	if (!is_worth_it(code))
		return;
	bool again = slot->code && is_same(&slot->ref, ref) && now_ms - slot->at_ms < MEMORY_MS;
	unsigned in_a_row = again ? slot->in_a_row + 1 : 1;
	int64_t pause_ms = LM_FAILURES_PAUSE_MS;
	for (unsigned i = 1; i < in_a_row && pause_ms < LM_FAILURES_PAUSE_MAX_MS; i++)
		pause_ms *= 2;
	failures->count += slot->code == 0;
	*slot = (struct lm_failure){
		.ref = *ref,
		.code = code,
		.in_a_row = in_a_row,
		.at_ms = now_ms,
		.until_ms = now_ms + LM_MIN(pause_ms, (int64_t)LM_FAILURES_PAUSE_MAX_MS),
	};
	if (err)
		slot->err = *err;
}

const struct lm_failure *lm_failures_find(
	const struct lm_failures *failures, const struct lm_object_ref *ref, int64_t now_ms)
{
	if (failures->count == 0)
		return NULL;
	const struct lm_failure *slot = &failures->slots[slot_of(ref)];
	return slot->code && now_ms < slot->until_ms && is_same(&slot->ref, ref) ? slot : NULL;
}

void lm_failures_recover(struct lm_failures *failures, const struct lm_object_ref *ref)
{
	if (failures->count == 0)
		return;
	for (size_t i = 0; i < LM_FAILURES_MAX; i++) {
		struct lm_failure *slot = &failures->slots[i];
		if (is_of_network(slot->code) || (slot->code && is_same(&slot->ref, ref)))
			empty(failures, slot);
	}
}

void lm_failures_clear(struct lm_failures *failures)
{
	for (size_t i = 0; i < LM_FAILURES_MAX; i++)
		empty(failures, &failures->slots[i]);
}
