#include "snapshotter/places.h"

#include "base/buf.h"
#include "base/str.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define PATH_PREFIX "path:"
#define TRANSLATED ".lamella-layers" /* where our fetcher shows deletions in stock tools' layers as overlayfs's */
#define MARKER ".cvmfscatalog"	     /* in the root of a layer: stock tools wrote it */
#define MARK_PREFIX ".wh."
#define MAGIC_REVISION "user.revision"

enum { NAMES_MAX = 5000000, REVISION_MAX = 32 };

/* --- the setting --- */

void lm_places_done(struct lm_places *places)
{
	for (size_t i = 0; i < places->count; i++)
		free(places->directories[i]);
	*places = (struct lm_places){0};
}

static int add_directory(struct lm_places *places, const char *text, size_t len, struct lm_err *err)
{
	while (len > 1 && text[len - 1] == '/')
		len--;
	if (len == 0 || *text != '/')
		return lm_err_set(err, -EINVAL, "\"%.*s\" is no absolute path", (int)len, text);
	if (len >= PATH_MAX / 2)
		return lm_err_set(err, -EINVAL, "a path of %zu bytes", len);
	if (places->count == LM_PLACES_MAX)
		return lm_err_set(err, -EINVAL, "more than %d directories", LM_PLACES_MAX);
	char *directory = lm_str_ndup(text, len);
	if (!directory)
		return lm_err_oom(err);
	for (size_t i = 0; i < places->count; i++) {
		if (strcmp(places->directories[i], directory) != 0)
			continue;
		int r = lm_err_set(err, -EINVAL, "%s is there twice", directory);
		free(directory);
		return r;
	}
	places->directories[places->count++] = directory;
	return 0;
}

int lm_places_parse(const char *text, struct lm_places *ret, struct lm_err *err)
{
	CLEANUP(lm_places_done) struct lm_places places = {0};
	bool last = strcmp(text, "fetcher") == 0;
	for (const char *at = text; !last;) {
		size_t len = strcspn(at, ",");
		if (!lm_str_starts(at, PATH_PREFIX))
			return lm_err_set(err, -EINVAL, "\"%.*s\" is neither fetcher alone nor " PATH_PREFIX "DIR",
				(int)LM_MIN(len, (size_t)100), at);
		int r = add_directory(&places, at + strlen(PATH_PREFIX), len - strlen(PATH_PREFIX), err);
		if (r < 0)
			return r;
		last = at[len] == '\0';
		at += len + 1;
	}
	*ret = places;
	places = (struct lm_places){0};
	return 0;
}

/* --- finding --- */

void lm_place_layer_done(struct lm_place_layer *layer)
{
	free(layer->path);
	free(layer->note);
	*layer = (struct lm_place_layer){0};
}

/* Goes one directory further: takes fd, returns the next one. */
static int descend(int fd, const char *name)
{
	int next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r = next < 0 ? -errno : next;
	close(fd);
	return r;
}

static bool is_absence(int r)
{
	return r == -ENOENT || r == -ENOTDIR || r == -ELOOP;
}

/* Errors that are the place's; others are the layer's. */
static int blame(int r)
{
	return r == -EIO || r == -ENOTCONN || r == -ECONNABORTED ? r : -EAGAIN;
}

static int open_place(const char *directory, struct lm_err *err)
{
	struct statfs st;
	CLEANUP(lm_closep) int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* No kernel keeps the answer to statfs. */
	if (fd < 0 || fstatfs(fd, &st) < 0) {
		int r = -errno;
		bool misleading = r == -ENOENT || r == -EAGAIN; /* as codes, not as words */
		return lm_err_set(err, misleading ? -ENODEV : r, "%s: %s", directory, strerror(-r));
	}
	return STEAL_FD(fd);
}

/* "DIR", or "DIR revision N" where the mount tells. */
static int say_absent(const char *directory, int place, struct lm_err *err)
{
	char revision[REVISION_MAX] = "";
	ssize_t len = fgetxattr(place, MAGIC_REVISION, revision, sizeof(revision) - 1);
	bool told = len > 0 && strspn(revision, "0123456789") == (size_t)len;
	return lm_err_set(err, -ENOENT, "%s%s%s", directory, told ? " revision " : "", told ? revision : "");
}

/* The directory at place/top/xx/HEX/layerfs. */
static int open_layer(int place, const char *top, const char *digest)
{
	const char *hex = strchr(digest, ':') + 1;
	const char folder[3] = {hex[0], hex[1], '\0'};
	const char *const names[] = {top, folder, hex, LM_IMAGES_LAYER_ROOT};
	int fd = fcntl(place, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_LEN(names) && fd >= 0; i++)
		fd = descend(fd, names[i]);
	return fd;
}

static char *path_of_layer(const char *directory, const char *top, const char *digest)
{
	const char *hex = strchr(digest, ':') + 1;
	return lm_str_printf(
		"%s/%s/%.2s/%s/" LM_IMAGES_LAYER_ROOT, strcmp(directory, "/") == 0 ? "" : directory, top, hex, hex);
}

/* What the index calls a layer is a link to it, and to nothing else: it is read, and not followed. */
static int read_entry(int place, enum lm_place_way way, const struct lm_images_digest *id, struct lm_images_digest *ret,
	struct lm_err *err)
{
	enum lm_images_index index = way == LM_PLACE_BY_CHAIN_ID ? LM_IMAGES_BY_CHAIN : LM_IMAGES_BY_DIFF;
	struct lm_images_path path = lm_images_entry(index, id->s), target = {""};
	CLEANUP(lm_closep) int fd = fcntl(place, F_DUPFD_CLOEXEC, 0);
	char *last = strrchr(path.s, '/');
	*last++ = '\0';
	if (fd < 0)
		return lm_err_sys(err, -errno, "open the index");
	for (char *save = NULL, *name = strtok_r(path.s, "/", &save); name && fd >= 0;
		name = strtok_r(NULL, "/", &save))
		fd = descend(fd, name);
	ssize_t len = fd < 0 ? fd : readlinkat(fd, last, target.s, sizeof(target.s) - 1);
	int r = fd < 0 ? fd : len < 0 ? -errno : 0;
	if (r < 0 && is_absence(r))
		return -ENOENT;
	if (r == 0)
		r = lm_images_entry_parse(target.s, ret, err);
	else
		r = lm_err_sys(err, r, "read it");
	return r < 0 ? lm_err_prefix(err, r, "the index's entry of %s", id->s) : 0;
}

/*
 * Stock clients show all files as their own user's unless told not to. What our converter writes belongs to root above
 * the layer's own tree.
 */
static int note_claimed(int layer, struct lm_place_layer *ret, struct lm_err *err)
{
	struct stat st;
	if (fstatat(layer, "..", &st, AT_SYMLINK_NOFOLLOW) < 0)
		return lm_err_sys(err, -errno, "stat of the layer's directory");
	if (st.st_uid == 0)
		return 0;
	ret->note = lm_str_printf(
		"mounted with CVMFS_CLAIM_OWNERSHIP, which shows user %u as the owner of all files", st.st_uid);
	return ret->note ? 0 : lm_err_oom(err);
}

/* What there is to say of the layer that is there. */
static int judge(const char *directory, int place, int layer, struct lm_place_layer *ret, struct lm_err *err)
{
	struct stat st;
	const char *top = LM_IMAGES_LAYERS;
	if (fstatat(layer, MARKER, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		CLEANUP(lm_closep) int translated = open_layer(place, TRANSLATED, ret->digest.s);
		ret->marks = translated < 0;
		top = ret->marks ? top : TRANSLATED;
		ret->note = strdup("written by stock tools, which drop owners, extended attributes and hard links");
		if (!ret->note)
			return lm_err_oom(err);
	} else if (errno != ENOENT) {
		return lm_err_sys(err, -errno, "%s", MARKER);
	} else {
		int r = note_claimed(layer, ret, err);
		if (r < 0)
			return r;
	}
	ret->path = path_of_layer(directory, top, ret->digest.s);
	return ret->path ? 0 : lm_err_oom(err);
}

/* By one name: -ENOENT, without words, or -EAGAIN. */
static int find_by(const char *directory, int place, const struct lm_place_names *names, enum lm_place_way way,
	struct lm_place_layer *ret, struct lm_err *err)
{
	struct lm_images_digest digest = names->by[way];
	struct lm_err why = LM_ERR_INIT;
	int r = way == LM_PLACE_BY_DIGEST ? 0 : read_entry(place, way, &names->by[way], &digest, &why);
	if (r == -ENOENT)
		return r;
	CLEANUP(lm_closep) int layer = r < 0 ? -1 : open_layer(place, LM_IMAGES_LAYERS, digest.s);
	if (r == 0 && is_absence(layer))
		return -ENOENT;
	if (r == 0 && layer < 0)
		r = lm_err_sys(&why, layer, "layer %s", digest.s);
	CLEANUP(lm_place_layer_done) struct lm_place_layer found = {.digest = digest};
	if (r == 0)
		r = judge(directory, place, layer, &found, &why);
	if (r < 0)
		return lm_err_set(err, blame(r), "%s: %s", directory, lm_err_text(&why));
	*ret = found;
	found = (struct lm_place_layer){0};
	return 0;
}

int lm_place_find(
	const char *directory, const struct lm_place_names *names, struct lm_place_layer *ret, struct lm_err *err)
{
	struct stat st;
	struct lm_err why = LM_ERR_INIT, doubt = LM_ERR_INIT;
	CLEANUP(lm_closep) int place = open_place(directory, err);
	if (place < 0)
		return place;
	if (fstatat(place, LM_IMAGES_LAYERS, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? lm_err_set(err, -ENODEV,
						 "%s has no " LM_IMAGES_LAYERS ": no repository with images is there",
						 directory)
				       : lm_err_sys(err, errno == EAGAIN ? -EIO : -errno, "%s", directory);
	for (int way = 0; way < LM_PLACE_WAYS; way++) {
		int r = *names->by[way].s ? find_by(directory, place, names, way, ret, &why) : -ENOENT;
		if (r == 0)
			return 0;
		if (r == -EAGAIN && !doubt.code) /* another name may lead to it */
			doubt = why;
		else if (r != -ENOENT && r != -EAGAIN)
			return lm_err_set(err, r, "%s", lm_err_text(&why));
	}
	return doubt.code ? lm_err_set(err, -EAGAIN, "%s", lm_err_text(&doubt)) : say_absent(directory, place, err);
}

/* --- deletions --- */

struct search {
	int root;
	char **waiting; /* directories that are to be listed, by their paths in the layer */
	size_t count, room, names;
	char *mark; /* the first one's path */
};

static void search_done(struct search *search)
{
	for (size_t i = 0; i < search->count; i++)
		free(search->waiting[i]);
	free(search->waiting);
	free(search->mark);
	if (search->root >= 0)
		close(search->root);
}

/* Takes the path. */
static int wait_for_listing(struct search *search, char *path)
{
	if (path && search->count == search->room) {
		size_t room = search->room ? 2 * search->room : 256;
		char **grown = reallocarray(search->waiting, room, sizeof(*grown));
		if (grown) {
			search->waiting = grown;
			search->room = room;
		}
	}
	if (!path || search->count == search->room) {
		free(path);
		return -ENOMEM;
	}
	search->waiting[search->count++] = path;
	return 0;
}

static bool is_directory(int dir, const struct dirent *entry)
{
	struct stat st;
	if (entry->d_type != DT_UNKNOWN)
		return entry->d_type == DT_DIR;
	return fstatat(dir, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

static int take_name(struct search *search, const char *path, int dir, const struct dirent *entry)
{
	const char *name = entry->d_name;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return 0;
	if (++search->names > NAMES_MAX)
		return -E2BIG;
	bool marks = lm_str_starts(name, MARK_PREFIX);
	if (marks && !is_directory(dir, entry)) {
		search->mark = lm_str_printf("%s/%s", path, name);
		return search->mark ? 0 : -ENOMEM;
	}
	return is_directory(dir, entry) ? wait_for_listing(search, lm_str_printf("%s/%s", path, name)) : 0;
}

static int list(struct search *search, const char *path)
{
	int fd = openat(search->root, *path ? path + 1 : ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		int r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	const struct dirent *entry;
	int r = 0;
	while (r == 0 && !search->mark && (errno = 0, entry = readdir(dir)))
		r = take_name(search, path, dirfd(dir), entry);
	if (r == 0 && !search->mark)
		r = -errno;
	closedir(dir);
	return r;
}

int lm_place_marks(const char *path, lm_place_alive_fn *alive, void *arg, char **ret, struct lm_err *err)
{
	CLEANUP(search_done)
	struct search search = {.root = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
	int r = search.root < 0 ? -errno : wait_for_listing(&search, strdup(""));
	while (r == 0 && search.count > 0 && !search.mark) {
		CLEANUP(lm_freep) char *next = search.waiting[--search.count];
		r = list(&search, next);
		if (r == 0 && !alive(arg))
			r = -ECANCELED;
	}
	if (r < 0)
		return lm_err_set(
			err, r == -ECANCELED ? r : blame(r), "look for deletions in %s: %s", path, strerror(-r));
	if (search.mark)
		*ret = STEAL(search.mark);
	return *ret != NULL;
}
