#include "oci/shelf.h"

#include "base/file.h"
#include "base/lock.h"
#include "base/str.h"
#include "oci/source_internal.h"

#include <dirent.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define METADATA LM_SHELF_METADATA
enum { HINTS = 1024, PLACES_MAX = 1024, DEPTH_MAX = 64 };

static const char *const hub_names[] = {
	"docker.io", "registry-1.docker.io", "index.docker.io", "registry.hub.docker.com"};

/* Where something was found: looked at first the next time, and hashed like everything else. */
struct hint {
	char digest[LM_DIGEST_MAX];
	size_t repository;
	char *dir;
};

struct lm_shelf {
	/* constant */
	char **mounts; /* paths, whose last components are the repositories' names */
	size_t count;
	bool any_directory;

	struct lm_lock lock;
	/* under lock */
	struct hint hints[HINTS];
};

static int add_mount(struct lm_shelf *shelf, const char *base, const char *repository, struct lm_err *err)
{
	const char *slash = base ? NULL : strrchr(repository, '/'), *name = slash ? slash + 1 : repository;
	if (*name == '\0' || *name == '.' || strchr(name, '/') || (!base && !slash))
		return lm_err_set(err, -EINVAL, "\"%s\" is no name of a repository", repository);
	char *path = base ? lm_str_printf("%s/%s", base, repository) : strdup(repository);
	if (!path)
		return lm_err_oom(err);
	shelf->mounts[shelf->count++] = path;
	return 0;
}

int lm_shelf_new(const struct lm_shelf_options *options, struct lm_shelf **ret, struct lm_err *err)
{
	if (options->count == 0 || options->count > LM_SHELF_REPOSITORIES_MAX)
		return lm_err_set(err, -EINVAL, "between 1 and %d repositories are wanted", LM_SHELF_REPOSITORIES_MAX);
	struct lm_shelf *made = calloc(1, sizeof(*made));
	if (!made)
		return lm_err_oom(err);
	lm_lock_init(&made->lock);
	CLEANUP(lm_shelf_freep) struct lm_shelf *shelf = made;
	shelf->any_directory = options->any_directory;
	shelf->mounts = calloc(options->count, sizeof(*shelf->mounts));
	if (!shelf->mounts)
		return lm_err_oom(err);
	for (size_t i = 0; i < options->count; i++) {
		int r = add_mount(shelf, options->base, options->repositories[i], err);
		if (r < 0)
			return r;
	}
	*ret = STEAL(shelf);
	return 0;
}

void lm_shelf_free(struct lm_shelf *shelf)
{
	if (!shelf)
		return;
	for (size_t i = 0; i < HINTS; i++)
		free(shelf->hints[i].dir);
	for (size_t i = 0; i < shelf->count; i++)
		free(shelf->mounts[i]);
	free(shelf->mounts);
	lm_lock_done(&shelf->lock);
	free(shelf);
}

void lm_shelf_item_done(struct lm_shelf_item *item)
{
	lm_buf_done(&item->text);
	free(item->media_type);
	*item = (struct lm_shelf_item){0};
}

/* --- a mount --- */

static const char *name_of_mount(const struct lm_shelf *shelf, size_t index)
{
	return strrchr(shelf->mounts[index], '/') + 1;
}

/* Opened anew for each look: the mount that was there before may be gone. */
static int open_repository(struct lm_shelf *shelf, size_t index, struct lm_err *err)
{
	const char *path = shelf->mounts[index], *name = name_of_mount(shelf, index);
	struct statfs st;
	CLEANUP(lm_closep) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return lm_err_set(err, -ENOTCONN, "repository %s is not mounted: there is no %s", name, path);
	if (fd < 0 || fstatfs(fd, &st) < 0)
		return lm_err_sys(err, -errno, "repository %s: %s", name, path);
	if (!shelf->any_directory && st.f_type != FUSE_SUPER_MAGIC)
		return lm_err_set(err, -ENOTCONN, "repository %s is not mounted at %s", name, path);
	return STEAL_FD(fd);
}

static int open_dir(int root_fd, const char *path, DIR **ret)
{
	int fd = lm_open_beneath(root_fd, path, O_DIRECTORY);
	*ret = fd >= 0 ? fdopendir(fd) : NULL;
	if (*ret)
		return 0;
	int r = fd < 0 ? fd : -errno;
	lm_closep(&fd);
	return r == -ENOTDIR || r == -ENAMETOOLONG ? -ENOENT : r;
}

/* NULL: the end, or *ret_failed says why it can't be told what follows. */
static struct dirent *next_entry(DIR *dir, int *ret_failed)
{
	errno = 0;
	struct dirent *entry = readdir(dir);
	*ret_failed = entry ? 0 : -errno;
	return entry;
}

/* The words say what is missing here; "no such file" would not. */
static int absent(const struct lm_shelf_name *name, const char *what, struct lm_err *err)
{
	return lm_err_set(err, -ENOENT, "no repository here has %s of %s%s%s", what,
		name->registry ? name->registry : "", name->registry ? "/" : "", name->repository);
}

static int read_file(int root_fd, const char *dir, const char *file, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, file);
	struct stat st;
	if (!path)
		return lm_err_oom(err);
	CLEANUP(lm_closep) int fd = lm_open_beneath(root_fd, path, O_NONBLOCK);
	if (fd < 0)
		return lm_err_sys(err, fd == -ENOTDIR || fd == -ENAMETOOLONG ? -ENOENT : fd, "%s", path);
	if (fstat(fd, &st) < 0)
		return lm_err_sys(err, -errno, "%s", path);
	if (!S_ISREG(st.st_mode) || st.st_size > LM_MANIFEST_JSON_MAX)
		return lm_err_set(err, -EPROTO, "%s: no file, or larger than %d bytes", path, LM_MANIFEST_JSON_MAX);
	lm_buf_clear(ret);
	int r = lm_buf_reserve(ret, (size_t)st.st_size) < 0 ? lm_err_oom(err) : 0;
	if (r == 0)
		r = lm_pread_all(fd, ret->data, (size_t)st.st_size, 0, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", path);
	ret->len = (size_t)st.st_size;
	ret->data[ret->len] = '\0';
	return 0;
}

/* --- places: the directories that may have an image --- */

/* A call for each, until one returns something other than -ENOENT. */
typedef int place_fn(void *arg, int root_fd, size_t repository, const char *dir, struct lm_err *err);

struct search {
	struct lm_shelf *shelf;
	const struct lm_shelf_name *name;
	place_fn *fn;
	void *arg;
	struct lm_err failed; /* the first failure on the way: of no concern once something is found */
};

/* What failed at one place is noted, and the next one is tried. */
static int note(struct lm_err *failed, int r, const struct lm_err *why)
{
	if (r < 0 && r != -ENOENT && failed->code == 0)
		lm_err_set(failed, r, "%s", lm_err_text(why));
	return r < 0 ? -ENOENT : r;
}

/* After the last place. */
static int not_found(const struct lm_err *failed, struct lm_err *err)
{
	return failed->code ? lm_err_set(err, failed->code, "%s", failed->msg) : -ENOENT;
}

static int try_place(struct search *s, int root_fd, size_t repository, const char *dir)
{
	struct lm_err why = LM_ERR_INIT;
	return note(&s->failed, s->fn(s->arg, root_fd, repository, dir, &why), &why);
}

/* Of DIR/NAME... the names, with the slash: they are what a directory of images is called, up to its tag. */
static int in_registry(struct search *s, int root_fd, size_t repository, const char *registry)
{
	CLEANUP(lm_freep)
	char *dir = lm_str_printf(METADATA "%s%s/%s", *registry ? "/" : "", registry, s->name->repository);
	struct lm_err why = LM_ERR_INIT;
	if (!dir)
		return note(&s->failed, lm_err_oom(&why), &why);
	return try_place(s, root_fd, repository, dir);
}

static int in_all_registries(struct search *s, int root_fd, size_t repository)
{
	int r = strchr(s->name->repository, '/') ? in_registry(s, root_fd, repository, "") : -ENOENT;
	if (r != -ENOENT)
		return r;
	DIR *dir = NULL;
	struct lm_err why = LM_ERR_INIT;
	int opened = open_dir(root_fd, METADATA, &dir);
	if (opened < 0)
		return note(&s->failed, opened == -ENOENT ? opened : lm_err_sys(&why, opened, METADATA), &why);
	size_t seen = 0;
	int failed = 0;
	for (struct dirent *entry; r == -ENOENT && seen < PLACES_MAX && (entry = next_entry(dir, &failed)); seen++)
		if (entry->d_name[0] != '.')
			r = in_registry(s, root_fd, repository, entry->d_name);
	closedir(dir);
	return failed < 0 ? note(&s->failed, lm_err_sys(&why, failed, METADATA), &why) : r;
}

static bool is_hub(const char *registry)
{
	for (size_t i = 0; i < ARRAY_LEN(hub_names); i++)
		if (strcmp(registry, hub_names[i]) == 0)
			return true;
	return false;
}

static int in_repository(struct search *s, int root_fd, size_t repository)
{
	if (!s->name->registry)
		return in_all_registries(s, root_fd, repository);
	if (!is_hub(s->name->registry))
		return in_registry(s, root_fd, repository, s->name->registry);
	int r = -ENOENT;
	for (size_t i = 0; i < ARRAY_LEN(hub_names) && r == -ENOENT; i++)
		r = in_registry(s, root_fd, repository, hub_names[i]);
	return r;
}

/* fn is given METADATA/REGISTRY/REPOSITORY, as it may be. */
static int search(struct lm_shelf *shelf, const struct lm_shelf_name *name, place_fn *fn, void *arg, struct lm_err *err)
{
	struct search s = {.shelf = shelf, .name = name, .fn = fn, .arg = arg};
	for (size_t i = 0; i < shelf->count; i++) {
		struct lm_err why = LM_ERR_INIT;
		CLEANUP(lm_closep) int fd = open_repository(shelf, i, &why);
		int r = fd < 0 ? note(&s.failed, fd, &why) : in_repository(&s, fd, i);
		if (r != -ENOENT)
			return r;
	}
	return not_found(&s.failed, err);
}

/* --- hints --- */

static struct hint *hint_of(struct lm_shelf *shelf, const char *digest)
{
	uint8_t bytes[2] = {0};
	(void)!lm_hex_parse(digest + strlen("sha256:"), bytes, sizeof(bytes));
	return &shelf->hints[(bytes[0] << 8 | bytes[1]) % HINTS];
}

static void remember(struct lm_shelf *shelf, const char *digest, size_t repository, const char *dir)
{
	char *copy = strdup(dir);
	if (!copy)
		return; /* it will be looked for */
	LM_LOCKED(&shelf->lock);
	struct hint *hint = hint_of(shelf, digest);
	free(hint->dir);
	*hint = (struct hint){.repository = repository, .dir = copy};
	snprintf(hint->digest, sizeof(hint->digest), "%s", digest);
}

/* Of a manifest also its config: both are asked for next. */
static void remember_manifest(
	struct lm_shelf *shelf, const struct lm_buf *text, const char *digest, size_t repository, const char *dir)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	remember(shelf, digest, repository, dir);
	if (lm_image_parse_manifest(lm_buf_cstr(text), text->len, &image, NULL) == 0)
		remember(shelf, image.config_digest, repository, dir);
}

static char *recall(struct lm_shelf *shelf, const char *digest, size_t *ret_repository)
{
	LM_LOCKED(&shelf->lock);
	const struct hint *hint = hint_of(shelf, digest);
	if (!hint->dir || strcmp(hint->digest, digest) != 0)
		return NULL;
	*ret_repository = hint->repository;
	return strdup(hint->dir);
}

/* --- one image --- */

static void take(struct lm_buf *text, const char *digest, struct lm_shelf_item *ret)
{
	lm_buf_done(&ret->text);
	ret->text = *text;
	*text = LM_BUF(LM_MANIFEST_JSON_MAX);
	snprintf(ret->digest, sizeof(ret->digest), "%s", digest);
}

/* The first of the files that has the digest. */
static int read_by_digest(int root_fd, const char *dir, const char *const *files, const char *digest,
	struct lm_shelf_item *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_JSON_MAX);
	for (; *files; files++) {
		char seen[LM_DIGEST_MAX];
		int r = read_file(root_fd, dir, *files, &text, err);
		if (r == -ENOENT)
			continue;
		if (r == 0)
			r = lm_digest_data(text.data, text.len, seen, err);
		if (r < 0)
			return r;
		if (strcmp(seen, digest) == 0) {
			take(&text, digest, ret);
			return 0;
		}
	}
	return -ENOENT;
}

/* --- looking --- */

static const char *const manifests[] = {LM_SHELF_MANIFEST, LM_SHELF_INDEX, NULL};
static const char *const configs[] = {LM_SHELF_CONFIG, NULL};

struct look {
	struct lm_shelf *shelf;
	const char *reference;
	const char *const *files; /* by digest: of these */
	struct lm_shelf_item *ret;
};

/* What a directory's tag stands for. */
static int read_tagged(struct look *look, int root_fd, size_t repository, const char *dir, struct lm_err *err)
{
	CLEANUP(lm_buf_done)
	struct lm_buf manifest = LM_BUF(LM_MANIFEST_JSON_MAX), index = LM_BUF(LM_MANIFEST_JSON_MAX);
	char digest[LM_DIGEST_MAX], of_index[LM_DIGEST_MAX];
	int r = read_file(root_fd, dir, LM_SHELF_MANIFEST, &manifest, err);
	if (r == 0)
		r = lm_digest_data(manifest.data, manifest.len, digest, err);
	if (r < 0)
		return r;
	remember_manifest(look->shelf, &manifest, digest, repository, dir);
	r = read_file(root_fd, dir, LM_SHELF_INDEX, &index, err);
	/* One that an older converter left behind names other images. */
	if (r == -ENOENT || (r == 0 && !lm_index_names(lm_buf_cstr(&index), index.len, digest))) {
		take(&manifest, digest, look->ret);
		return 0;
	}
	if (r == 0)
		r = lm_digest_data(index.data, index.len, of_index, err);
	if (r < 0)
		return r;
	remember(look->shelf, of_index, repository, dir);
	take(&index, of_index, look->ret);
	return 0;
}

static int look_by_tag(void *arg, int root_fd, size_t repository, const char *place, struct lm_err *err)
{
	struct look *look = arg;
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s:%s", place, look->reference);
	int r = dir ? read_tagged(look, root_fd, repository, dir, err) : lm_err_oom(err);
	if (r == 0)
		look->ret->repository = name_of_mount(look->shelf, repository);
	return r;
}

/* PLACE (an image without a tag) and PLACE:TAG for every tag, as for places. */
static int each_tag(int root_fd, size_t repository, const char *place, place_fn *fn, void *arg, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT, failed = LM_ERR_INIT;
	const char *name = strrchr(place, '/') + 1;
	CLEANUP(lm_freep) char *parent = lm_str_ndup(place, (size_t)(name - 1 - place));
	DIR *dir = NULL;
	size_t tags = 0;
	int unread = 0, r = parent ? open_dir(root_fd, parent, &dir) : -ENOMEM;
	if (r < 0)
		return r == -ENOENT ? r : lm_err_sys(err, r, "%s", place);
	r = note(&failed, fn(arg, root_fd, repository, place, &why), &why);
	for (struct dirent *entry; r == -ENOENT && (entry = next_entry(dir, &unread));) {
		if (!lm_str_starts(entry->d_name, name) || entry->d_name[strlen(name)] != ':')
			continue;
		if (++tags > LM_SHELF_TAGS_MAX) {
			(void)note(&failed, lm_err_set(&why, -E2BIG, "%s: more than %d tags", place, LM_SHELF_TAGS_MAX),
				&why);
			break;
		}
		CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", parent, entry->d_name);
		r = note(&failed, path ? fn(arg, root_fd, repository, path, &why) : lm_err_oom(&why), &why);
	}
	closedir(dir);
	if (unread < 0)
		(void)note(&failed, lm_err_sys(&why, unread, "%s", parent), &why);
	return r == -ENOENT ? not_found(&failed, err) : r;
}

static int look_at_digest(void *arg, int root_fd, size_t repository, const char *dir, struct lm_err *err)
{
	struct look *look = arg;
	int r = read_by_digest(root_fd, dir, look->files, look->reference, look->ret, err);
	if (r < 0)
		return r;
	look->ret->repository = name_of_mount(look->shelf, repository);
	remember_manifest(look->shelf, &look->ret->text, look->reference, repository, dir);
	return 0;
}

static int look_by_digest(void *arg, int root_fd, size_t repository, const char *place, struct lm_err *err)
{
	return each_tag(root_fd, repository, place, look_at_digest, arg, err);
}

struct at_hint {
	struct look *look;
	const char *dir;
	size_t repository;
};

/* Only where it belongs to the name that is asked for. */
static int look_at_hint(void *arg, int root_fd, size_t repository, const char *place, struct lm_err *err)
{
	const struct at_hint *hint = arg;
	size_t len = strlen(place);
	if (repository != hint->repository || strncmp(hint->dir, place, len) != 0 ||
		(hint->dir[len] != '\0' && hint->dir[len] != ':'))
		return -ENOENT;
	return look_at_digest(hint->look, root_fd, repository, hint->dir, err);
}

static int find_digest(struct lm_shelf *shelf, const struct lm_shelf_name *name, struct look *look, struct lm_err *err)
{
	struct at_hint hint = {.look = look};
	CLEANUP(lm_freep) char *dir = recall(shelf, look->reference, &hint.repository);
	hint.dir = dir;
	if (dir && search(shelf, name, look_at_hint, &hint, NULL) == 0)
		return 0;
	return search(shelf, name, look_by_digest, look, err);
}

/* The type is what the document says; some say nothing. */
static int fill_type(struct lm_shelf_item *item, struct lm_err *err)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	const char *text = lm_buf_cstr(&item->text);
	bool index = false;
	int r = lm_manifest_kind(text, item->text.len, NULL, &index, err);
	if (r == 0 && index)
		return lm_index_type(text, item->text.len, &item->media_type, err);
	if (r == 0)
		r = lm_image_parse_manifest(text, item->text.len, &image, err);
	if (r == 0)
		item->media_type = STEAL(image.manifest_type);
	return r;
}

int lm_shelf_manifest(struct lm_shelf *shelf, const struct lm_shelf_name *name, const char *reference,
	struct lm_shelf_item *ret, struct lm_err *err)
{
	CLEANUP(lm_shelf_item_done) struct lm_shelf_item item = {.text = LM_BUF(LM_MANIFEST_JSON_MAX)};
	struct look look = {shelf, reference, manifests, &item};
	struct lm_err why = LM_ERR_INIT;
	int r = lm_digest_valid(reference) ? find_digest(shelf, name, &look, &why)
					   : search(shelf, name, look_by_tag, &look, &why);
	if (r == -ENOENT)
		return absent(name, reference, err);
	if (r == 0)
		r = fill_type(&item, &why);
	if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	*ret = item;
	item = (struct lm_shelf_item){0};
	return 0;
}

int lm_shelf_config(struct lm_shelf *shelf, const struct lm_shelf_name *name, const char *digest,
	struct lm_shelf_item *ret, struct lm_err *err)
{
	CLEANUP(lm_shelf_item_done) struct lm_shelf_item item = {.text = LM_BUF(LM_MANIFEST_JSON_MAX)};
	struct look look = {shelf, digest, configs, &item};
	struct lm_err why = LM_ERR_INIT;
	int r = find_digest(shelf, name, &look, &why);
	if (r == -ENOENT)
		return absent(name, digest, err);
	if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	*ret = item;
	item = (struct lm_shelf_item){0};
	return 0;
}

bool lm_shelf_has_layer(struct lm_shelf *shelf, const char *digest)
{
	const char *hex = digest + strlen("sha256:");
	CLEANUP(lm_freep) char *path = lm_str_printf(".layers/%.2s/%s/layerfs", hex, hex);
	for (size_t i = 0; path && i < shelf->count; i++) {
		CLEANUP(lm_closep) int root_fd = open_repository(shelf, i, NULL);
		CLEANUP(lm_closep) int fd = root_fd < 0 ? -1 : lm_open_beneath(root_fd, path, O_PATH);
		if (fd >= 0)
			return true;
	}
	return false;
}

/* --- lists --- */

static int add(struct lm_texts *list, size_t max, const char *text, struct lm_err *err)
{
	if (list->count == max)
		return lm_err_set(err, -E2BIG, "more than %zu in one list", max);
	return lm_texts_add(list, text) < 0 ? lm_err_oom(err) : 0;
}

static int is_image(int root_fd, const char *dir)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/" LM_SHELF_MANIFEST, dir);
	CLEANUP(lm_closep) int fd = path ? lm_open_beneath(root_fd, path, O_PATH) : -ENOMEM;
	return fd >= 0 ? 1 : fd == -ENOMEM ? fd : 0;
}

static int add_tag(void *arg, int root_fd, size_t repository, const char *dir, struct lm_err *err)
{
	const char *colon = strrchr(dir, ':'), *slash = strrchr(dir, '/');
	int r = colon && slash && colon > slash ? is_image(root_fd, dir) : 0;
	if (r > 0 && lm_tag_valid(colon + 1))
		r = add(arg, LM_SHELF_TAGS_MAX, colon + 1, err);
	return r < 0 ? r : -ENOENT; /* the next one */
}

static int add_tags(void *arg, int root_fd, size_t repository, const char *place, struct lm_err *err)
{
	return each_tag(root_fd, repository, place, add_tag, arg, err);
}

/* What failed while the list was made: the list is what could be read, unless that is nothing. */
static int give_list(struct lm_texts *list, const struct lm_err *failed, struct lm_texts *ret, struct lm_err *err)
{
	if (failed->code && (list->count == 0 || failed->code == -ENOMEM || failed->code == -E2BIG))
		return lm_err_set(err, failed->code, "%s", failed->msg);
	lm_texts_sort(list);
	*ret = *list;
	*list = (struct lm_texts){0};
	return 0;
}

int lm_shelf_tags(struct lm_shelf *shelf, const struct lm_shelf_name *name, struct lm_texts *ret, struct lm_err *err)
{
	CLEANUP(lm_texts_done) struct lm_texts list = {0};
	struct lm_err failed = LM_ERR_INIT;
	(void)!search(shelf, name, add_tags, &list, &failed); /* add_tag() never has enough */
	return list.count == 0 && !failed.code ? absent(name, "any tag", err) : give_list(&list, &failed, ret, err);
}

/* REGISTRY/REPOSITORY as clients may ask for it: the directory's name may be anything. */
static bool is_name(char *text)
{
	char *slash = strchr(text, '/');
	*slash = '\0';
	bool valid = lm_registry_valid(text) && lm_repository_valid(slash + 1);
	*slash = '/';
	return valid;
}

/* A directory below path. */
static int walk_name(int root_fd, const char *path, const struct dirent *entry, unsigned depth, struct lm_texts *list,
	struct lm_err *err);

/* Directories below .metadata: those with a colon behind the registry's name are images, and have none below. */
static int walk_names(int root_fd, const char *path, unsigned depth, struct lm_texts *list, struct lm_err *err)
{
	DIR *dir = NULL;
	int failed = 0, r = open_dir(root_fd, path, &dir);
	if (r < 0)
		return r == -ENOENT ? 0 : lm_err_sys(err, r, "%s", path);
	for (struct dirent *entry; r == 0 && (entry = next_entry(dir, &failed));)
		if (entry->d_name[0] != '.' && (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN))
			r = walk_name(root_fd, path, entry, depth, list, err);
	closedir(dir);
	return failed < 0 ? lm_err_sys(err, failed, "%s", path) : r;
}

static int walk_name(int root_fd, const char *path, const struct dirent *entry, unsigned depth, struct lm_texts *list,
	struct lm_err *err)
{
	CLEANUP(lm_freep) char *child = lm_str_printf("%s/%s", path, entry->d_name);
	if (!child)
		return lm_err_oom(err);
	if (depth == 0 || !strchr(entry->d_name, ':'))
		return depth < DEPTH_MAX ? walk_names(root_fd, child, depth + 1, list, err) : 0;
	*strrchr(child, ':') = '\0';
	char *name = child + strlen(METADATA "/");
	return is_name(name) ? add(list, LM_SHELF_NAMES_MAX, name, err) : 0;
}

int lm_shelf_names(struct lm_shelf *shelf, struct lm_texts *ret, struct lm_err *err)
{
	CLEANUP(lm_texts_done) struct lm_texts list = {0};
	struct lm_err failed = LM_ERR_INIT;
	for (size_t i = 0; i < shelf->count; i++) {
		struct lm_err why = LM_ERR_INIT;
		CLEANUP(lm_closep) int root_fd = open_repository(shelf, i, &why);
		(void)note(&failed, root_fd < 0 ? root_fd : walk_names(root_fd, METADATA, 0, &list, &why), &why);
	}
	return give_list(&list, &failed, ret, err);
}

/* --- as a source --- */

struct shelf_source {
	struct lm_source source;
	struct lm_shelf *shelf;
	char *registry, *repository, *reference;
};

struct shelf_blob {
	struct lm_blob blob;
	struct lm_buf text;
	size_t at;
};

static void shelf_source_free(struct lm_source *source)
{
	struct shelf_source *s = (struct shelf_source *)source;
	free(s->registry);
	free(s->repository);
	free(s->reference);
	free(s);
}

static struct lm_shelf_name name_of(const struct shelf_source *s)
{
	return (struct lm_shelf_name){s->registry, s->repository};
}

static int shelf_manifest(
	struct lm_source *source, const char *digest, uint64_t size, struct lm_document *ret, struct lm_err *err)
{
	struct shelf_source *s = (struct shelf_source *)source;
	CLEANUP(lm_shelf_item_done) struct lm_shelf_item item = {0};
	const struct lm_shelf_name name = name_of(s);
	int r = lm_shelf_manifest(s->shelf, &name, digest, &item, err);
	if (r < 0)
		return r;
	lm_document_done(ret);
	ret->text = item.text;
	item.text = LM_BUF(0);
	ret->media_type = STEAL(item.media_type);
	return 0;
}

static int shelf_resolve(struct lm_source *source, const struct lm_platform *platform, struct lm_document *ret,
	char ret_digest[LM_DIGEST_MAX], uint64_t *ret_size, struct lm_err *err)
{
	return shelf_manifest(source, ((struct shelf_source *)source)->reference, 0, ret, err);
}

static ssize_t shelf_blob_read(struct lm_blob *blob, void *ret, size_t len, struct lm_err *err)
{
	struct shelf_blob *b = (struct shelf_blob *)blob;
	size_t n = LM_MIN(len, b->text.len - b->at);
	memcpy(ret, b->text.data + b->at, n);
	b->at += n;
	return (ssize_t)n;
}

static void shelf_blob_close(struct lm_blob *blob)
{
	struct shelf_blob *b = (struct shelf_blob *)blob;
	lm_buf_done(&b->text);
	free(b);
}

static const struct lm_blob_ops blob_ops = {shelf_blob_read, shelf_blob_close};

static int shelf_blob(
	struct lm_source *source, const char *digest, uint64_t size, struct lm_blob **ret, struct lm_err *err)
{
	struct shelf_source *s = (struct shelf_source *)source;
	CLEANUP(lm_shelf_item_done) struct lm_shelf_item item = {0};
	const struct lm_shelf_name name = name_of(s);
	int r = lm_shelf_config(s->shelf, &name, digest, &item, err);
	struct shelf_blob *blob = r == 0 ? calloc(1, sizeof(*blob)) : NULL;
	if (r == 0 && !blob)
		r = lm_err_oom(err);
	if (r < 0)
		return r;
	blob->blob.ops = &blob_ops;
	blob->text = item.text;
	item.text = LM_BUF(0);
	*ret = &blob->blob;
	return 0;
}

static const struct lm_source_ops source_ops = {
	.resolve = shelf_resolve,
	.manifest = shelf_manifest,
	.blob = shelf_blob,
	.free = shelf_source_free,
};

int lm_shelf_source(
	struct lm_shelf *shelf, const struct lm_reference *reference, struct lm_source **ret, struct lm_err *err)
{
	if (reference->transport != LM_TRANSPORT_DOCKER)
		return lm_err_set(err, -EINVAL, "an image of a registry is wanted");
	struct shelf_source *s = calloc(1, sizeof(*s));
	if (!s)
		return lm_err_oom(err);
	CLEANUP(lm_source_freep) struct lm_source *source = &s->source;
	source->ops = &source_ops;
	s->shelf = shelf;
	s->registry = strdup(reference->registry);
	s->repository = strdup(reference->repository);
	s->reference = strdup(reference->digest ? reference->digest : reference->tag);
	if (!s->registry || !s->repository || !s->reference)
		return lm_err_oom(err);
	*ret = STEAL(source);
	return 0;
}
