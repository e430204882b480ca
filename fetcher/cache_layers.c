#include "fetcher/cache_layers.h"

#include "base/lock.h"
#include "base/str.h"
#include "fetcher/cache_index.h"
#include "repo/images.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { DIGEST_HEX = 64, NUMBERS = LM_INDEX_LAYER_MAX + 1, FILL_MAX = NUMBERS / 8 * 7 };

struct layer {
	_Atomic(uint64_t) id; /* 0: free; never changes again */
	_Atomic(unsigned) seen;
};

struct lm_used_layers {
	struct lm_lock lock; /* adding, and refreshing as a whole */
	unsigned count;	     /* under lock */
	_Atomic(unsigned) round, used;
	struct layer table[NUMBERS]; /* [0] stays free */
};

struct lm_used_layers *lm_used_layers_new(void)
{
	struct lm_used_layers *layers = calloc(1, sizeof(*layers));
	if (layers)
		lm_lock_init(&layers->lock);
	return layers;
}

void lm_used_layers_free(struct lm_used_layers *layers)
{
	if (!layers)
		return;
	lm_lock_done(&layers->lock);
	free(layers);
}

/* 0: hex does not begin with a digest. */
static uint64_t id_of_digest(const char *hex)
{
	uint8_t digest[DIGEST_HEX / 2];
	uint64_t id;
	if (strnlen(hex, DIGEST_HEX) < DIGEST_HEX || lm_hex_parse(hex, digest, sizeof(digest)) < 0)
		return 0;
	memcpy(&id, digest, sizeof(id));
	return id ? id : 1;
}

/* Of a path that has marker, as a whole component, before XX/DIGEST. */
static uint64_t id_behind(const char *path, const char *marker)
{
	for (const char *at = path; (at = strstr(at, marker)); at += strlen(marker)) {
		const char *hex = at + strlen(marker) + strlen("xx/");
		if ((at > path && at[-1] != '/') || strnlen(at, strlen(marker) + 3) < strlen(marker) + 3)
			continue;
		uint64_t id = id_of_digest(hex);
		if (id && hex[-1] == '/' && memcmp(hex - 3, hex, 2) == 0 &&
			(hex[DIGEST_HEX] == '/' || hex[DIGEST_HEX] == '\0'))
			return id;
	}
	return 0;
}

uint64_t lm_layer_of_path(const char *path)
{
	uint64_t id = id_behind(path, LM_IMAGES_LAYERS "/");
	return id ? id : id_behind(path, LM_IMAGES_OURS "/" LM_IMAGES_TREES "/");
}

uint16_t lm_used_layers_number(struct lm_used_layers *layers, uint64_t layer)
{
	if (layer == 0)
		return 0;
	LM_LOCKED(&layers->lock);
	uint32_t at = (uint32_t)(layer * 0x9e3779b97f4a7c15U >> 52);
	for (;; at = (at + 1) % NUMBERS) {
		uint64_t id = atomic_load(&layers->table[at].id);
		if (at == 0 || (id && id != layer))
			continue;
		if (id == 0 && layers->count == FILL_MAX)
			return 0;
		layers->count += id == 0;
		atomic_store(&layers->table[at].id, layer);
		return (uint16_t)at;
	}
}

uint64_t lm_used_layers_id(const struct lm_used_layers *layers, uint16_t number)
{
	return number < NUMBERS ? atomic_load(&layers->table[number].id) : 0;
}

bool lm_used_layers_in_use(const struct lm_used_layers *layers, uint16_t number)
{
	unsigned round = atomic_load(&layers->round);
	return number > 0 && number < NUMBERS && round && atomic_load(&layers->table[number].seen) == round;
}

unsigned lm_used_layers_used(const struct lm_used_layers *layers)
{
	return atomic_load(&layers->used);
}

static void note_id(struct lm_used_layers *layers, unsigned round, uint64_t id, unsigned *used)
{
	uint16_t number = lm_used_layers_number(layers, id);
	if (number && atomic_exchange(&layers->table[number].seen, round) != round)
		++*used;
}

static void note(struct lm_used_layers *layers, unsigned round, const char *path, unsigned *used)
{
	note_id(layers, round, lm_layer_of_path(path), used);
}

/* The list writes blank, tab, newline and backslash as \ooo. In place. */
static void unescape(char *text)
{
	char *to = text;
	for (const char *at = text; *at; to++) {
		bool octal = at[0] == '\\' && at[1] >= '0' && at[1] <= '3' && at[2] >= '0' && at[2] <= '7' &&
			     at[3] >= '0' && at[3] <= '7';
		*to = octal ? (char)((at[1] - '0') << 6 | (at[2] - '0') << 3 | (at[3] - '0')) : *at;
		at += octal ? 4 : 1;
	}
	*to = '\0';
}

/* True: path is that of a merged tree's mount. Whatever is not as the snapshotter writes it is passed over. */
static bool note_tree(struct lm_used_layers *layers, unsigned round, const char *path, unsigned *used)
{
	static const char digest[] = "sha256:";
	const char *name = strrchr(path, '/');
	if (!name || !lm_str_starts(name, "/tree."))
		return false;
	CLEANUP(lm_freep) char *notes = lm_str_printf("%.*s/layers", (int)(name - path), path);
	CLEANUP(lm_freep) char *line = NULL;
	FILE *file = notes ? fopen(notes, "re") : NULL;
	size_t room = 0;
	if (!file)
		return true;
	while (getline(&line, &room, file) > 0) {
		line[strcspn(line, "\n")] = '\0';
		note_id(layers, round,
			lm_str_starts(line, digest) ? id_of_digest(line + strlen(digest)) : lm_layer_of_path(line),
			used);
	}
	fclose(file);
	return true;
}

/* Never follows the path into a mount, ours least of all: the last component is read as a link, and no more. */
static void note_lower(struct lm_used_layers *layers, unsigned round, char *path, unsigned *used)
{
	unescape(path);
	if (lm_layer_of_path(path)) {
		note(layers, round, path, used);
		return;
	}
	if (note_tree(layers, round, path, used))
		return;
	char target[PATH_MAX];
	ssize_t len = *path == '/' ? readlink(path, target, sizeof(target) - 1) : -1;
	if (len > 0) {
		target[len] = '\0';
		note(layers, round, target, used);
	}
}

/* lowerdir=A:B:C, or lowerdir+=A several times. */
static void note_overlay(struct lm_used_layers *layers, unsigned round, char *options, unsigned *used)
{
	char *more, *more_paths;
	for (char *option = strtok_r(options, ",", &more); option; option = strtok_r(NULL, ",", &more)) {
		if (!lm_str_starts(option, "lowerdir"))
			continue;
		char *value = strchr(option, '=');
		if (!value)
			continue;
		for (char *path = strtok_r(value + 1, ":", &more_paths); path; path = strtok_r(NULL, ":", &more_paths))
			note_lower(layers, round, path, used);
	}
}

/* ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS [FIELD...] - TYPE SOURCE SUPEROPTIONS */
static void note_mount(struct lm_used_layers *layers, unsigned round, char *line, unsigned *used)
{
	char *more, *rest = strstr(line, " - ");
	line[strcspn(line, "\n")] = '\0';
	if (!rest)
		return;
	*rest = '\0';
	char *field = strtok_r(line, " ", &more);
	for (unsigned i = 0; i < 3 && field; i++)
		field = strtok_r(NULL, " ", &more);
	if (field)
		note(layers, round, field, used);
	char *type = strtok_r(rest + 3, " ", &more);
	(void)strtok_r(NULL, " ", &more);
	char *options = strtok_r(NULL, " ", &more);
	if (type && options && strcmp(type, "overlay") == 0)
		note_overlay(layers, round, options, used);
}

int lm_used_layers_refresh(struct lm_used_layers *layers, const char *mountinfo, struct lm_err *err)
{
	FILE *file = fopen(mountinfo, "re");
	if (!file)
		return lm_err_sys(err, -errno, "open %s", mountinfo);
	CLEANUP(lm_freep) char *line = NULL;
	size_t room = 0;
	unsigned round = atomic_load(&layers->round) + 1, used = 0;
	if (round == 0)
		round = 1;
	while (getline(&line, &room, file) > 0)
		note_mount(layers, round, line, &used);
	int r = ferror(file) ? -EIO : 0;
	fclose(file);
	if (r < 0)
		return lm_err_set(err, r, "read %s", mountinfo);
	atomic_store(&layers->round, round);
	atomic_store(&layers->used, used);
	return 0;
}
