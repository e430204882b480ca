#include "fetcher/cache_index.h"

#include "base/lock.h"

#include <endian.h>
#include <string.h>
#include <sys/mman.h>

struct slot {
	uint64_t rest; /* 0: free */
	uint64_t used_ms : 40, layer : 12, flags : 12;
	uint32_t blocks;
} __attribute__((packed, aligned(4)));
_Static_assert(sizeof(struct slot) == 20, "compact");

struct table {
	struct lm_lock lock;
	struct slot *slots; /* under lock, as all below */
	uint32_t room, count;
};

struct lm_index {
	size_t objects_max;
	_Atomic(uint64_t) objects, blocks;
	struct table tables[LM_INDEX_FOLDERS];
};

enum { ROOM_MIN = 16, PAGE = 4096 };

struct lm_index_key lm_index_key(const struct lm_hash *hash, enum lm_object_kind kind)
{
	uint64_t rest;
	memcpy(&rest, hash->bytes + 1, sizeof(rest));
	rest = be64toh(rest) ^ ((uint64_t)kind << 8 | hash->algo);
	return (struct lm_index_key){.folder = hash->bytes[0], .rest = rest ? rest : 1};
}

static size_t slots_bytes(uint32_t room)
{
	return room * sizeof(struct slot);
}

/* What is larger than a page is a mapping: the tables grow alike, so that the heap would keep what each leaves behind
 * without a use for it. */
static struct slot *slots_new(uint32_t room)
{
	if (slots_bytes(room) <= PAGE)
		return calloc(room, sizeof(struct slot));
	void *slots = mmap(NULL, slots_bytes(room), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return slots == MAP_FAILED ? NULL : slots;
}

static void slots_free(struct slot *slots, uint32_t room)
{
	if (slots_bytes(room) <= PAGE)
		free(slots);
	else
		munmap(slots, slots_bytes(room));
}

struct lm_index *lm_index_new(size_t objects_max)
{
	struct lm_index *index = calloc(1, sizeof(*index));
	if (!index)
		return NULL;
	index->objects_max = objects_max;
	for (size_t i = 0; i < LM_INDEX_FOLDERS; i++)
		lm_lock_init(&index->tables[i].lock);
	return index;
}

void lm_index_free(struct lm_index *index)
{
	if (!index)
		return;
	for (size_t i = 0; i < LM_INDEX_FOLDERS; i++) {
		slots_free(index->tables[i].slots, index->tables[i].room);
		lm_lock_done(&index->tables[i].lock);
	}
	free(index);
}

/* Digests are spread evenly, so the key's place is its share of the table. */
static uint32_t home(const struct table *table, uint64_t rest)
{
	return (uint32_t)((rest >> 32) * table->room >> 32);
}

/* Where the key is, or the free slot where it would be. There always is one. */
static struct slot *probe(const struct table *table, uint64_t rest)
{
	uint32_t at = home(table, rest);
	while (table->slots[at].rest && table->slots[at].rest != rest)
		at = at + 1 == table->room ? 0 : at + 1;
	return &table->slots[at];
}

static struct slot *find(struct table *table, uint64_t rest)
{
	lm_lock_assert(&table->lock);
	struct slot *slot = table->room ? probe(table, rest) : NULL;
	return slot && slot->rest ? slot : NULL;
}

static bool resize(struct table *table, uint32_t room)
{
	if (slots_bytes(room) > PAGE) /* whole pages */
		room = (uint32_t)((slots_bytes(room) + PAGE - 1) / PAGE * PAGE / sizeof(struct slot));
	struct table next = {.slots = slots_new(room), .room = room};
	if (!next.slots)
		return false;
	for (uint32_t i = 0; i < table->room; i++)
		if (table->slots[i].rest)
			*probe(&next, table->slots[i].rest) = table->slots[i];
	slots_free(table->slots, table->room);
	table->slots = next.slots;
	table->room = room;
	return true;
}

/* A slot for a new key, with the table at most seven eighths full. NULL: no memory. */
static struct slot *add(struct table *table, uint64_t rest)
{
	if (table->count + 1 > table->room - table->room / 8 &&
		!resize(table, table->room ? table->room + table->room / 4 + 1 : ROOM_MIN))
		return NULL;
	struct slot *slot = probe(table, rest);
	*slot = (struct slot){.rest = rest};
	table->count++;
	return slot;
}

/* Closes the gap, so that no probe stops short: what follows moves up as far as its home allows. */
static void drop(struct lm_index *index, struct table *table, uint32_t at)
{
	atomic_fetch_sub(&index->objects, 1);
	atomic_fetch_sub(&index->blocks, table->slots[at].blocks);
	table->count--;
	for (uint32_t next = at;;) {
		next = next + 1 == table->room ? 0 : next + 1;
		if (!table->slots[next].rest)
			break;
		uint32_t want = home(table, table->slots[next].rest);
		bool between = at <= next ? at < want && want <= next : at < want || want <= next;
		if (between)
			continue;
		table->slots[at] = table->slots[next];
		at = next;
	}
	table->slots[at] = (struct slot){0};
	if (table->room > ROOM_MIN && table->count < table->room / 4)
		(void)resize(table, LM_MAX(table->room / 2, (uint32_t)ROOM_MIN)); /* else it stays large */
}

static void forget(struct lm_index *index, struct table *table)
{
	for (uint32_t i = 0; i < table->room; i++)
		if (table->slots[i].rest) {
			atomic_fetch_sub(&index->objects, 1);
			atomic_fetch_sub(&index->blocks, table->slots[i].blocks);
		}
	memset(table->slots, 0, table->room * sizeof(struct slot));
	table->count = 0;
}

static struct lm_index_item item_of(const struct slot *slot)
{
	return (struct lm_index_item){.used_ms = slot->used_ms,
		.blocks = slot->blocks,
		.layer = (uint16_t)slot->layer,
		.flags = (uint16_t)slot->flags};
}

bool lm_index_use(struct lm_index *index, struct lm_index_key key, uint64_t now_ms, uint16_t layer,
	bool (*keep_layer)(void *arg, uint16_t layer), void *arg, struct lm_index_item *ret)
{
	struct table *table = &index->tables[key.folder];
	LM_LOCKED(&table->lock);
	struct slot *slot = find(table, key.rest);
	if (!slot)
		return false;
	slot->used_ms = LM_MAX((uint64_t)slot->used_ms, now_ms);
	if (layer && layer != slot->layer && !(slot->layer && keep_layer(arg, (uint16_t)slot->layer)))
		slot->layer = layer;
	*ret = item_of(slot);
	return true;
}

bool lm_index_get(struct lm_index *index, struct lm_index_key key, struct lm_index_item *ret)
{
	struct table *table = &index->tables[key.folder];
	LM_LOCKED(&table->lock);
	struct slot *slot = find(table, key.rest);
	if (slot)
		*ret = item_of(slot);
	return slot;
}

void lm_index_put(struct lm_index *index, struct lm_index_key key, const struct lm_index_item *item)
{
	struct table *table = &index->tables[key.folder];
	LM_LOCKED(&table->lock);
	struct slot *slot = find(table, key.rest);
	if (!slot) {
		if (atomic_load(&index->objects) >= index->objects_max || !(slot = add(table, key.rest)))
			return;
		atomic_fetch_add(&index->objects, 1);
	}
	atomic_fetch_add(&index->blocks, (uint64_t)item->blocks - slot->blocks);
	slot->used_ms = item->used_ms;
	slot->layer = item->layer & LM_INDEX_LAYER_MAX;
	slot->flags = item->flags & 0xfff;
	slot->blocks = item->blocks;
}

void lm_index_flag(struct lm_index *index, struct lm_index_key key, unsigned set, unsigned clear)
{
	struct table *table = &index->tables[key.folder];
	LM_LOCKED(&table->lock);
	struct slot *slot = find(table, key.rest);
	if (slot)
		slot->flags = ((slot->flags & ~clear) | set) & 0xfff;
}

void lm_index_set_layer(struct lm_index *index, struct lm_index_key key, uint16_t layer)
{
	struct table *table = &index->tables[key.folder];
	LM_LOCKED(&table->lock);
	struct slot *slot = find(table, key.rest);
	if (slot)
		slot->layer = layer & LM_INDEX_LAYER_MAX;
}

bool lm_index_remove(struct lm_index *index, struct lm_index_key key, uint64_t upto_ms)
{
	struct table *table = &index->tables[key.folder];
	LM_LOCKED(&table->lock);
	struct slot *slot = find(table, key.rest);
	if (!slot || slot->used_ms > upto_ms)
		return false;
	drop(index, table, (uint32_t)(slot - table->slots));
	return true;
}

void lm_index_each(struct lm_index *index, uint8_t folder, lm_index_fn *fn, void *arg)
{
	struct table *table = &index->tables[folder];
	LM_LOCKED(&table->lock);
	for (uint32_t i = 0; i < table->room; i++) {
		if (!table->slots[i].rest)
			continue;
		struct lm_index_item item = item_of(&table->slots[i]);
		fn(arg, &item);
		table->slots[i].flags = item.flags & 0xfff;
	}
}

void lm_index_prune(struct lm_index *index, uint8_t folder, unsigned flag)
{
	struct table *table = &index->tables[folder];
	LM_LOCKED(&table->lock);
	uint32_t kept = 0;
	for (uint32_t i = 0; i < table->room; i++) {
		struct slot *slot = &table->slots[i];
		if (slot->rest && !(slot->flags & flag)) {
			atomic_fetch_sub(&index->objects, 1);
			atomic_fetch_sub(&index->blocks, slot->blocks);
			slot->rest = 0;
		}
		kept += slot->rest != 0;
		slot->flags &= ~flag & 0xfff;
	}
	if (kept == table->count)
		return;
	/* Gaps break the runs: all find their places anew. Without memory for that they are learned anew. */
	table->count = kept;
	if (!resize(table, LM_MAX(kept + kept / 4, (uint32_t)ROOM_MIN)))
		forget(index, table);
}

struct lm_index_sums lm_index_sums(const struct lm_index *index)
{
	return (struct lm_index_sums){.objects = atomic_load(&index->objects), .blocks = atomic_load(&index->blocks)};
}

size_t lm_index_memory(struct lm_index *index)
{
	size_t bytes = sizeof(*index);
	for (size_t i = 0; i < LM_INDEX_FOLDERS; i++) {
		LM_LOCKED(&index->tables[i].lock);
		bytes += (size_t)index->tables[i].room * sizeof(struct slot);
	}
	return bytes;
}
