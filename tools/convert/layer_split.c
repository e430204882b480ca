#include "convert/layer_split.h"

#include "repo/catalog_schema.h" /* lm_grown() */

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const struct lm_layer_limits lm_layer_limits = {.whole = 2000, .least = 500, .joined = 1500};

/* A directory. They are numbered breadth first, so `up` is always the smaller number. */
struct dir {
	struct lm_layer_node *node;
	uint64_t entries; /* in the catalog that lists it, from here on down; of a part that begins here: all of it */
	uint32_t up, part;
	bool whole;  /* no catalog can begin here */
	bool begins; /* one does */
	bool passed; /* others begin further down */
};

struct splitting {
	struct dir *dirs;
	size_t count, cap;
	uint32_t *groups; /* by number - 1: the directory nearest to all members that is above them */
	size_t group_count, group_cap;
};

static void splitting_done(struct splitting *s)
{
	free(s->dirs);
	free(s->groups);
}

static int add_dir(struct splitting *s, struct lm_layer_node *node, uint32_t up, struct lm_err *err)
{
	struct dir *grown = s->count < UINT32_MAX ? lm_grown(s->dirs, s->count, &s->cap, sizeof(*grown)) : NULL;
	if (!grown)
		return lm_err_oom(err);
	s->dirs = grown;
	s->dirs[s->count++] = (struct dir){.node = node, .up = up};
	return 0;
}

static uint32_t common_dir(const struct splitting *s, uint32_t a, uint32_t b)
{
	while (a != b) {
		if (a > b)
			a = s->dirs[a].up;
		else
			b = s->dirs[b].up;
	}
	return a;
}

static bool is_linked(const struct lm_layer_inode *inode)
{
	return !S_ISDIR(inode->mode) && inode->names > 1;
}

static int note_link(struct splitting *s, struct lm_layer_inode *inode, uint32_t dir, struct lm_err *err)
{
	if (inode->group) {
		s->groups[inode->group - 1] = common_dir(s, s->groups[inode->group - 1], dir);
		return 0;
	}
	uint32_t *grown = lm_grown(s->groups, s->group_count, &s->group_cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	s->groups = grown;
	s->groups[s->group_count++] = dir;
	inode->group = (uint32_t)s->group_count;
	return 0;
}

static int gather(struct splitting *s, uint32_t dir, struct lm_err *err)
{
	uint64_t entries = 0;
	bool marked = false;
	int r = 0;
	for (struct lm_layer_node *child = s->dirs[dir].node->children; child && r == 0; child = child->next) {
		entries++;
		for (const struct lm_layer_chunks *c = child->inode->chunks; c; c = c->next)
			entries += c->count;
		marked |= strcmp(child->name, LM_LAYER_MARKER) == 0;
		if (S_ISDIR(child->inode->mode))
			r = add_dir(s, child, dir, err);
		else if (is_linked(child->inode))
			r = note_link(s, child->inode, dir, err);
	}
	s->dirs[dir].entries = entries;
	s->dirs[dir].whole = marked || dir == 0;
	return r;
}

/* No catalog begins between a member and what is above the whole group. */
static void keep_groups(struct splitting *s)
{
	for (uint32_t dir = 0; dir < s->count; dir++)
		for (const struct lm_layer_node *child = s->dirs[dir].node->children; child; child = child->next)
			if (is_linked(child->inode))
				for (uint32_t at = dir; at != s->groups[child->inode->group - 1]; at = s->dirs[at].up)
					s->dirs[at].whole = true;
}

static void cut_upwards(struct splitting *s, const struct lm_layer_limits *limits)
{
	for (size_t i = s->count - 1; i > 0; i--) {
		struct dir *dir = &s->dirs[i], *up = &s->dirs[dir->up];
		dir->begins = !dir->whole && dir->entries >= limits->least;
		up->passed |= dir->begins || dir->passed;
		if (!dir->begins)
			up->entries += dir->entries;
	}
}

/* Joins, and says of each directory in which part it is: the directory where that begins. */
static void join_downwards(struct splitting *s, const struct lm_layer_limits *limits)
{
	for (size_t i = 1; i < s->count; i++) {
		struct dir *dir = &s->dirs[i], *above = &s->dirs[s->dirs[dir->up].part];
		if (dir->begins && dir->passed && above->entries + dir->entries <= limits->joined) {
			above->entries += dir->entries;
			dir->begins = false;
		}
		dir->part = dir->begins ? (uint32_t)i : s->dirs[dir->up].part;
	}
}

/* From directories where parts begin to numbers of parts; the directories of each one together. */
static int collect(struct splitting *s, struct lm_layer_split *ret, struct lm_err *err)
{
	size_t count = 1;
	for (size_t i = 0; i < s->count; i++)
		s->dirs[i].node->inode->group = s->dirs[i].begins ? (uint32_t)count++ : 0;
	CLEANUP(lm_layer_split_done) struct lm_layer_split split = {.count = count};
	split.parts = calloc(count, sizeof(*split.parts));
	split.dirs = calloc(s->count, sizeof(struct lm_layer_node *));
	if (!split.parts || !split.dirs)
		return lm_err_oom(err);
	for (size_t i = 0; i < s->count; i++)
		split.parts[s->dirs[s->dirs[i].part].node->inode->group].count++;
	struct lm_layer_node **at = split.dirs;
	for (size_t i = 0; i < count; at += split.parts[i++].count)
		split.parts[i].dirs = at;
	for (size_t i = 0; i < count; i++)
		split.parts[i].count = 0;
	for (size_t i = 0; i < s->count; i++) {
		struct lm_layer_part *part = &split.parts[s->dirs[s->dirs[i].part].node->inode->group];
		part->dirs[part->count++] = s->dirs[i].node;
	}
	*ret = split;
	split = (struct lm_layer_split){0};
	return 0;
}

int lm_layer_split(struct lm_layer_tree *tree, const struct lm_layer_limits *limits, struct lm_layer_split *ret,
	struct lm_err *err)
{
	CLEANUP(splitting_done) struct splitting s = {0};
	uint64_t entries = 0;
	int r = add_dir(&s, lm_layer_tree_root(tree), 0, err);
	for (size_t i = 0; i < s.count && r == 0; i++) {
		r = gather(&s, (uint32_t)i, err);
		entries += s.dirs[i].entries;
	}
	if (r < 0)
		return r;
	keep_groups(&s);
	if (entries > limits->whole)
		cut_upwards(&s, limits);
	join_downwards(&s, limits);
	return collect(&s, ret, err);
}

void lm_layer_split_done(struct lm_layer_split *split)
{
	free(split->parts);
	free(split->dirs);
	*split = (struct lm_layer_split){0};
}
