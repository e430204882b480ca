#include "erofs/erofs_internal.h"

#include "base/str.h"

#include <string.h>
#include <sys/stat.h>

enum { PATH_SHOWN_MAX = 512 };

struct state {
	struct lm_erofs *erofs;
	struct lm_erofs_layout layout;
	uint64_t blocks;		      /* after the inodes, so far */
	uint64_t content_blocks;	      /* after these */
	const struct lm_erofs_entry **sorted; /* names of the directory that is at hand */
	size_t sorted_cap;
	uint32_t *pending; /* directories with a place of which the content has none, the next one last */
	uint32_t pending_count;
};

static void state_done(struct state *state)
{
	lm_erofs_layout_done(&state->layout);
	free(state->sorted);
	free(state->pending);
}

void lm_erofs_layout_done(struct lm_erofs_layout *layout)
{
	free(layout->order);
	layout->order = NULL;
}

/*
 * Directories
 */

static int cmp_entries(const void *a, const void *b)
{
	const struct lm_erofs_entry *x = *(const struct lm_erofs_entry *const *)a;
	const struct lm_erofs_entry *y = *(const struct lm_erofs_entry *const *)b;
	int c = memcmp(x->name, y->name, LM_MIN(x->name_len, y->name_len));
	return c != 0 ? c : (x->name_len > y->name_len) - (x->name_len < y->name_len);
}

/* For messages: what fits of the directory's path, from the root on. */
static char *path_of(const struct lm_erofs *erofs, uint32_t directory, const char *name)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("/%s", name);
	for (uint32_t at = directory; path && at != 0 && strlen(path) < PATH_SHOWN_MAX;) {
		const struct lm_erofs_entry *entry = &erofs->entries[erofs->inodes[at].parent];
		CLEANUP(lm_freep) char *below = STEAL(path);
		path = lm_str_printf("/%s%s", entry->name, below);
		for (at = erofs->inodes[at].entries; strcmp(erofs->entries[at].name, "..") != 0;)
			at = erofs->entries[at].next;
		at = erofs->entries[at].inode;
	}
	return STEAL(path);
}

/* The names of a directory as state->sorted, and its list in their order. */
static int sort_directory(struct state *state, uint32_t directory, struct lm_err *err)
{
	struct lm_erofs *erofs = state->erofs;
	size_t count = 0;
	for (uint32_t i = erofs->inodes[directory].entries; i != NO_ENTRY; i = erofs->entries[i].next) {
		if (count == state->sorted_cap) {
			size_t cap = LM_MAX(state->sorted_cap * 2, (size_t)256);
			void *grown = reallocarray(state->sorted, cap, sizeof(*state->sorted));
			if (!grown)
				return lm_err_oom(err);
			state->sorted = grown;
			state->sorted_cap = cap;
		}
		state->sorted[count++] = &erofs->entries[i];
	}
	qsort(state->sorted, count, sizeof(*state->sorted), cmp_entries);

	uint32_t next = NO_ENTRY;
	for (size_t i = count; i-- > 0;) {
		struct lm_erofs_entry *entry = &erofs->entries[state->sorted[i] - erofs->entries];
		entry->next = next;
		next = (uint32_t)(entry - erofs->entries);
	}
	erofs->inodes[directory].entries = next;
	for (size_t i = 1; i < count; i++) {
		if (cmp_entries(&state->sorted[i - 1], &state->sorted[i]) != 0)
			continue;
		CLEANUP(lm_freep) char *path = path_of(erofs, directory, state->sorted[i]->name);
		return lm_err_set(err, -EEXIST, "%s is there twice", path ? path : state->sorted[i]->name);
	}
	return 0;
}

uint32_t lm_erofs_directory_block(const struct lm_erofs *erofs, uint32_t *entry, size_t *ret_used)
{
	size_t used = 0;
	uint32_t count = 0;
	while (*entry != NO_ENTRY) {
		const struct lm_erofs_entry *at = &erofs->entries[*entry];
		if (used + DIRENT_SIZE + at->name_len > BLOCK)
			break;
		used += DIRENT_SIZE + at->name_len;
		count++;
		*entry = at->next;
	}
	*ret_used = used;
	return count;
}

/* All blocks but the last are whole: the length of a directory is that many blocks and what the last one uses. */
static uint64_t directory_size(const struct lm_erofs *erofs, const struct lm_erofs_inode *inode)
{
	uint64_t size = 0;
	for (uint32_t entry = inode->entries; entry != NO_ENTRY;) {
		size_t used;
		lm_erofs_directory_block(erofs, &entry, &used);
		size += entry == NO_ENTRY ? used : BLOCK;
	}
	return size;
}

/*
 * Places
 */

unsigned lm_erofs_chunk_bits(uint64_t size)
{
	unsigned bits = 0;
	while (bits < CHUNK_BITS_MAX && size > (uint64_t)BLOCK << bits)
		bits++;
	return bits;
}

uint32_t lm_erofs_chunks(uint64_t size)
{
	uint64_t chunk = (uint64_t)BLOCK << lm_erofs_chunk_bits(size);
	return (uint32_t)((size + chunk - 1) / chunk);
}

/*
 * Whether head bytes and the tail that follows them can lie in one block. No tail may cross the end of a block; that of
 * a link must be in the same one as the inode, where Linux looks for it.
 */
static bool is_inline(size_t head, uint64_t tail)
{
	return tail > 0 && head + tail <= BLOCK;
}

/* Sets the layout; the length of what follows the inode's attributes. */
static size_t choose_layout(struct lm_erofs_inode *inode, size_t head)
{
	inode->layout = FLAT_PLAIN;
	if (inode->content)
		return 0;
	if (S_ISREG(inode->mode) && inode->size > 0) {
		inode->layout = CHUNK_BASED;
		return (size_t)lm_erofs_chunks(inode->size) * CHUNK_ENTRY;
	}
	if (!is_inline(head, inode->size % BLOCK))
		return 0;
	inode->layout = FLAT_INLINE;
	return inode->size % BLOCK;
}

static uint64_t in_blocks(uint64_t size)
{
	return (size + BLOCK - 1) / BLOCK;
}

/* How many blocks of a directory or symbolic link are outside of the inode. */
static uint64_t blocks_outside(const struct lm_erofs_inode *inode)
{
	if (inode->content)
		return 0;
	switch (inode->layout) {
	case FLAT_PLAIN:
		return in_blocks(inode->size);
	case FLAT_INLINE:
		return inode->size / BLOCK;
	default:
		return 0;
	}
}

/* Puts an inode behind the others. What is inline must lie in one block, the 64 bytes of the inode better do. */
static int place(struct state *state, uint32_t number, struct lm_err *err)
{
	struct lm_erofs_inode *inode = &state->erofs->inodes[number];
	struct lm_erofs_layout *layout = &state->layout;
	if (S_ISDIR(inode->mode)) {
		int r = sort_directory(state, number, err);
		if (r < 0)
			return r;
		inode->size = directory_size(state->erofs, inode);
	}
	size_t head = INODE_SIZE + lm_erofs_attrs_size(inode);
	size_t tail = choose_layout(inode, head);
	size_t together = inode->layout == FLAT_INLINE ? head + tail : INODE_SIZE;
	uint64_t at = (layout->inodes_end + SLOT - 1) / SLOT * SLOT;
	if (at % BLOCK + together > BLOCK)
		at = (at / BLOCK + 1) * BLOCK;
	inode->at = at;
	if (inode->content)
		state->content_blocks = LM_MAX(state->content_blocks, inode->block + in_blocks(inode->size));
	else
		inode->block = (uint32_t)state->blocks;
	state->blocks += blocks_outside(inode);
	layout->inodes_end = at + head + tail;
	layout->order[layout->count++] = number;
	if (layout->inodes_end / BLOCK + 1 + state->blocks + state->content_blocks > UINT32_MAX)
		return lm_err_set(err, -EFBIG, "more than 16 TiB");
	return 0;
}

/* Gives the inodes that a directory names their places, and queues directories so that the first one is next. */
static int place_content(struct state *state, uint32_t directory, struct lm_err *err)
{
	struct lm_erofs *erofs = state->erofs;
	uint32_t first = state->pending_count;
	for (uint32_t i = erofs->inodes[directory].entries; i != NO_ENTRY; i = erofs->entries[i].next) {
		const struct lm_erofs_entry *entry = &erofs->entries[i];
		struct lm_erofs_inode *inode = &erofs->inodes[entry->inode];
		inode->links++; /* with those by "." and "..": 2 and one for each directory inside */
		if (inode->at != NOT_PLACED)
			continue;
		int r = place(state, entry->inode, err);
		if (r < 0)
			return r;
		if (S_ISDIR(inode->mode))
			state->pending[state->pending_count++] = entry->inode;
	}
	for (uint32_t last = state->pending_count; first + 1 < last; first++) {
		uint32_t swapped = state->pending[first];
		state->pending[first] = state->pending[--last];
		state->pending[last] = swapped;
	}
	return 0;
}

/* The blocks begin where the inodes end, contents where the blocks do. */
static void place_blocks(struct lm_erofs *erofs, const struct lm_erofs_layout *layout, uint32_t first)
{
	for (uint32_t i = 0; i < layout->count; i++) {
		struct lm_erofs_inode *inode = &erofs->inodes[layout->order[i]];
		if (inode->content)
			inode->block += layout->blocks;
		else
			inode->block = blocks_outside(inode) > 0 ? inode->block + first : 0;
	}
}

int lm_erofs_lay_out(struct lm_erofs *erofs, struct lm_erofs_layout *ret, struct lm_err *err)
{
	CLEANUP(state_done) struct state state = {.erofs = erofs, .layout.inodes_end = INODES_AT};
	if (erofs->inode_count == 0)
		return lm_err_set(err, -EINVAL, "no root");
	state.layout.order = calloc(erofs->inode_count, sizeof(*state.layout.order));
	state.pending = calloc(erofs->directories, sizeof(*state.pending));
	if (!state.layout.order || !state.pending)
		return lm_err_oom(err);

	int r = place(&state, 0, err);
	state.pending[state.pending_count++] = 0;
	erofs->inodes[0].links = 0;
	while (r == 0 && state.pending_count > 0)
		r = place_content(&state, state.pending[--state.pending_count], err);
	if (r < 0)
		return r;
	uint32_t first_block = (uint32_t)in_blocks(state.layout.inodes_end);
	state.layout.blocks = first_block + (uint32_t)state.blocks;
	state.layout.all_blocks = state.layout.blocks + (uint32_t)state.content_blocks;
	place_blocks(erofs, &state.layout, first_block);
	*ret = state.layout;
	state.layout.order = NULL;
	return 0;
}
