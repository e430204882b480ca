#include "sync/state.h"

#include "base/file.h"
#include "base/str.h"
#include "common.h"
#include "oci/json.h"
#include "oci/reference.h"

#include <dirent.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

enum { BACKOFF_FIRST_S = 60, BACKOFF_MAX_S = 3600, FORMAT = 1 };

struct lm_sync_state {
	char *path, *list;
	int lock_fd; /* -1: not locked */
	struct lm_sync_image **images;
	size_t count, room;
	struct lm_sync_repo **repos;
	size_t repo_count;
};

static void image_free(struct lm_sync_image *image)
{
	if (!image)
		return;
	free(image->repo);
	free(image->name);
	free(image->source);
	free(image->terms);
	free(image->error);
	for (size_t i = 0; i < image->name_count; i++)
		free(image->names[i]);
	free(image->names);
	free(image);
}
LM_DEFINE_CLEANUP(struct lm_sync_image, image_free, image_freep)

void lm_sync_close(struct lm_sync_state *state)
{
	if (!state)
		return;
	for (size_t i = 0; i < state->count; i++)
		image_free(state->images[i]);
	for (size_t i = 0; i < state->repo_count; i++) {
		free(state->repos[i]->name);
		free(state->repos[i]->error);
		free(state->repos[i]);
	}
	free(state->images);
	free(state->repos);
	free(state->path);
	free(state->list);
	lm_closep(&state->lock_fd);
	free(state);
}

struct lm_sync_state *lm_sync_new(const char *list)
{
	CLEANUP(lm_sync_closep) struct lm_sync_state *state = calloc(1, sizeof(*state));
	if (!state)
		return NULL;
	state->lock_fd = -1;
	state->list = strdup(list);
	return state->list ? STEAL(state) : NULL;
}

/* --- the table --- */

/* Where the image is, or would be. */
static size_t place(const struct lm_sync_state *state, const char *repo, const char *name, bool *ret_there)
{
	size_t low = 0, high = state->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct lm_sync_image *image = state->images[middle];
		int order = strcmp(image->repo, repo);
		if (order == 0)
			order = strcmp(image->name, name);
		if (order == 0) {
			*ret_there = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	*ret_there = false;
	return low;
}

struct lm_sync_image *lm_sync_find(struct lm_sync_state *state, const char *repo, const char *name)
{
	bool there;
	size_t at = place(state, repo, name, &there);
	return there ? state->images[at] : NULL;
}

int lm_sync_add(
	struct lm_sync_state *state, const char *repo, const char *name, struct lm_sync_image **ret, struct lm_err *err)
{
	bool there;
	size_t at = place(state, repo, name, &there);
	if (there) {
		*ret = state->images[at];
		return 0;
	}
	if (state->count == LM_SYNC_IMAGES_MAX)
		return lm_err_set(err, -EMSGSIZE, "more than %d images", LM_SYNC_IMAGES_MAX);
	if (state->count == state->room) {
		size_t room = LM_MAX(2 * state->room, (size_t)64);
		struct lm_sync_image **images = realloc(state->images, room * sizeof(*images));
		if (!images)
			return lm_err_oom(err);
		state->images = images;
		state->room = room;
	}
	CLEANUP(image_freep) struct lm_sync_image *image = calloc(1, sizeof(*image));
	if (!image || !(image->repo = strdup(repo)) || !(image->name = strdup(name)))
		return lm_err_oom(err);
	memmove(&state->images[at + 1], &state->images[at], (state->count - at) * sizeof(*state->images));
	state->count++;
	*ret = state->images[at] = STEAL(image);
	return 0;
}

void lm_sync_drop(struct lm_sync_state *state, struct lm_sync_image *image)
{
	bool there;
	size_t at = place(state, image->repo, image->name, &there);
	if (!there)
		return;
	state->count--;
	memmove(&state->images[at], &state->images[at + 1], (state->count - at) * sizeof(*state->images));
	image_free(image);
}

size_t lm_sync_count(const struct lm_sync_state *state)
{
	return state->count;
}

struct lm_sync_image *lm_sync_at(const struct lm_sync_state *state, size_t index)
{
	return state->images[index];
}

size_t lm_sync_repo_count(const struct lm_sync_state *state)
{
	return state->repo_count;
}

struct lm_sync_repo *lm_sync_repo_at(const struct lm_sync_state *state, size_t index)
{
	return state->repos[index];
}

int lm_sync_repo(struct lm_sync_state *state, const char *name, struct lm_sync_repo **ret, struct lm_err *err)
{
	for (size_t i = 0; i < state->repo_count; i++)
		if (strcmp(state->repos[i]->name, name) == 0) {
			*ret = state->repos[i];
			return 0;
		}
	struct lm_sync_repo **repos = realloc(state->repos, (state->repo_count + 1) * sizeof(*repos));
	if (!repos)
		return lm_err_oom(err);
	state->repos = repos;
	CLEANUP(lm_freep) char *copy = strdup(name);
	struct lm_sync_repo *repo = calloc(1, sizeof(*repo));
	if (!copy || !repo) {
		free(repo);
		return lm_err_oom(err);
	}
	repo->name = STEAL(copy);
	*ret = state->repos[state->repo_count++] = repo;
	return 0;
}

void lm_sync_failed(struct lm_sync_image *image, int64_t now_s, const char *error, bool transient)
{
	free(image->error);
	image->error = strdup(error);
	image->error_s = now_s;
	unsigned doublings = LM_MIN(image->failures, 16U);
	image->failures++;
	image->next_s = transient ? 0 : now_s + LM_MIN((int64_t)BACKOFF_FIRST_S << doublings, (int64_t)BACKOFF_MAX_S);
}

void lm_sync_repo_failed(struct lm_sync_repo *repo, int64_t now_s, const char *error)
{
	free(repo->error);
	repo->error = error ? strdup(error) : NULL;
	repo->error_s = error ? now_s : 0;
}

void lm_sync_succeeded(struct lm_sync_image *image, int64_t now_s)
{
	free(image->error);
	image->error = NULL;
	image->error_s = 0;
	image->failures = 0;
	image->next_s = 0;
	image->checked_s = now_s;
}

/* --- the file --- */

static int get_text(const json_t *object, const char *key, enum lm_json_need need, char **ret, struct lm_err *err)
{
	const char *text = NULL;
	int r = lm_json_string("state", object, key, need, &text, err);
	if (r < 0 || !text)
		return r;
	*ret = strdup(text);
	return *ret ? 0 : lm_err_oom(err);
}

static int get_time(const json_t *object, const char *key, int64_t *ret, struct lm_err *err)
{
	uint64_t value = 0;
	int r = json_object_get(object, key) ? lm_json_u64("state", object, key, &value, err) : 0;
	if (r == 0 && value > INT64_MAX / 2)
		r = lm_err_set(err, -EPROTO, "state: %s is too large", key);
	if (r == 0)
		*ret = (int64_t)value;
	return r;
}

static int get_names(const json_t *object, struct lm_sync_image *image, struct lm_err *err)
{
	json_t *names = NULL;
	enum { NAMES_MAX = 1024 };
	int r = lm_json_array("state", object, "names", NAMES_MAX, LM_JSON_OPTIONAL, &names, err);
	size_t count = json_array_size(names);
	if (r < 0 || count == 0)
		return r;
	image->names = calloc(count, sizeof(*image->names));
	if (!image->names)
		return lm_err_oom(err);
	for (size_t i = 0; i < count; i++) {
		const char *name = json_string_value(json_array_get(names, i));
		if (!name)
			return lm_err_set(err, -EPROTO, "state: a name is no text");
		image->names[i] = strdup(name);
		if (!image->names[i])
			return lm_err_oom(err);
		image->name_count++;
	}
	return 0;
}

static int get_image(struct lm_sync_state *state, const json_t *object, struct lm_err *err)
{
	const char *repo = NULL, *name = NULL, *digest = NULL, *own = NULL;
	struct lm_sync_image *image;
	uint64_t failures = 0;
	if (!json_is_object(object))
		return lm_err_set(err, -EPROTO, "state: an image is no object");
	int r = lm_json_string("state", object, "repository", LM_JSON_REQUIRED, &repo, err);
	if (r == 0)
		r = lm_json_string("state", object, "name", LM_JSON_REQUIRED, &name, err);
	if (r == 0)
		r = lm_json_string("state", object, "digest", LM_JSON_OPTIONAL, &digest, err);
	if (r == 0)
		r = lm_json_string("state", object, "image", LM_JSON_OPTIONAL, &own, err);
	if (r == 0 && ((digest && !lm_digest_valid(digest)) || (own && !lm_digest_valid(own))))
		r = lm_err_set(err, -EPROTO, "state: %.200s has no valid digest", name);
	if (r == 0 && lm_sync_find(state, repo, name))
		r = lm_err_set(err, -EPROTO, "state: %.200s twice", name);
	if (r == 0)
		r = lm_sync_add(state, repo, name, &image, err);
	if (r < 0)
		return r;
	snprintf(image->digest, sizeof(image->digest), "%s", digest ? digest : "");
	snprintf(image->image, sizeof(image->image), "%s", own ? own : "");
	r = get_text(object, "source", LM_JSON_REQUIRED, &image->source, err);
	if (r == 0)
		r = get_text(object, "terms", LM_JSON_OPTIONAL, &image->terms, err);
	if (r == 0)
		r = get_text(object, "error", LM_JSON_OPTIONAL, &image->error, err);
	if (r == 0)
		r = get_names(object, image, err);
	const struct {
		const char *key;
		int64_t *at;
	} times[] = {{"checked", &image->checked_s}, {"published", &image->published_s}, {"failed", &image->error_s},
		{"next", &image->next_s}, {"unwished", &image->unwished_s}};
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(times); i++)
		r = get_time(object, times[i].key, times[i].at, err);
	if (r == 0 && json_object_get(object, "failures"))
		r = lm_json_u64("state", object, "failures", &failures, err);
	if (r == 0)
		image->failures = (unsigned)LM_MIN(failures, (uint64_t)INT_MAX);
	return r;
}

static int get_repo(struct lm_sync_state *state, const json_t *object, struct lm_err *err)
{
	const char *name = NULL, *root = NULL;
	struct lm_sync_repo *repo;
	if (!json_is_object(object))
		return lm_err_set(err, -EPROTO, "state: a repository is no object");
	int r = lm_json_string("state", object, "repository", LM_JSON_REQUIRED, &name, err);
	if (r == 0)
		r = lm_json_string("state", object, "root", LM_JSON_REQUIRED, &root, err);
	if (r == 0)
		r = lm_sync_repo(state, name, &repo, err);
	if (r < 0)
		return r;
	snprintf(repo->root, sizeof(repo->root), "%s", root);
	r = lm_json_u64("state", object, "revision", &repo->revision, err);
	if (r == 0)
		r = get_time(object, "published", &repo->published_s, err);
	if (r == 0)
		r = get_time(object, "failed", &repo->error_s, err);
	return r < 0 ? r : get_text(object, "error", LM_JSON_OPTIONAL, &repo->error, err);
}

/* A file of ours may be larger than what lm_json_load() takes from strangers. */
static int load(const char *text, size_t len, json_t **ret, struct lm_err *err)
{
	json_error_t error;
	*ret = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	if (!*ret && json_error_code(&error) == json_error_out_of_memory)
		return lm_err_oom(err);
	if (!json_is_object(*ret))
		return lm_err_set(err, -EPROTO, "state: line %d: %s", error.line, *ret ? "no object" : error.text);
	return 0;
}

int lm_sync_parse(const char *text, size_t len, const char *list, struct lm_sync_state *state, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *root = NULL;
	json_t *images = NULL, *repos = NULL;
	const char *own = NULL;
	uint64_t format = 0;
	int r = load(text, len, &root, err);
	if (r == 0)
		r = lm_json_u64("state", root, "format", &format, err);
	if (r == 0 && format != FORMAT)
		r = lm_err_set(err, -EPROTO, "state: format %llu is not known here", (unsigned long long)format);
	if (r == 0)
		r = lm_json_string("state", root, "list", LM_JSON_REQUIRED, &own, err);
	if (r == 0 && !list) {
		free(state->list);
		state->list = strdup(own);
		r = state->list ? 0 : lm_err_oom(err);
	}
	if (r == 0 && list && strcmp(own, list) != 0)
		return lm_err_set(err, -EEXIST, "it is the state of %.300s: name another file by --state", own);
	if (r == 0)
		r = lm_json_array("state", root, "images", LM_SYNC_IMAGES_MAX, LM_JSON_REQUIRED, &images, err);
	if (r == 0)
		r = lm_json_array("state", root, "repositories", LM_SYNC_IMAGES_MAX, LM_JSON_REQUIRED, &repos, err);
	for (size_t i = 0; r == 0 && i < json_array_size(images); i++)
		r = get_image(state, json_array_get(images, i), err);
	for (size_t i = 0; r == 0 && i < json_array_size(repos); i++)
		r = get_repo(state, json_array_get(repos, i), err);
	return r;
}

/* Where states lie. */
static int state_dir(char **ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *record = NULL;
	int r = lm_repo_record_path("x", &record, err);
	if (r < 0)
		return r;
	*ret = lm_str_printf("%s/sync.d", dirname(dirname(record)));
	return *ret ? 0 : lm_err_oom(err);
}

int lm_sync_path(const char *list, char **ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *dir = NULL, *copy = strdup(list);
	if (!copy)
		return lm_err_oom(err);
	int r = state_dir(&dir, err);
	if (r < 0)
		return r;
	const char *name = basename(copy);
	const char *suffix = lm_str_ends(name, ".yaml") ? ".yaml" : lm_str_ends(name, ".yml") ? ".yml" : "";
	*ret = lm_str_printf("%s/%.*s.json", dir, (int)(strlen(name) - strlen(suffix)), name);
	return *ret ? 0 : lm_err_oom(err);
}

static int is_state(const struct dirent *entry)
{
	return lm_str_ends(entry->d_name, ".json");
}

static void names_free(struct dirent **names, int count)
{
	for (int i = 0; i < count; i++)
		free(names[i]);
	free(names);
}

static int tell(const char *dir, const char *name, lm_sync_each_fn *fn, void *arg, struct lm_err *err)
{
	CLEANUP(lm_sync_closep) struct lm_sync_state *state = NULL;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, name);
	struct lm_err why = LM_ERR_INIT;
	if (!path)
		return lm_err_oom(err);
	return lm_sync_open(path, NULL, false, &state, &why) < 0 ? fn(arg, NULL, &why) : fn(arg, state, NULL);
}

int lm_sync_each(lm_sync_each_fn *fn, void *arg, struct lm_err *err)
{
	CLEANUP(lm_freep) char *dir = NULL;
	struct dirent **names = NULL;
	int r = state_dir(&dir, err);
	if (r < 0)
		return r;
	int count = scandir(dir, &names, is_state, alphasort);
	if (count < 0)
		return errno == ENOENT ? 0 : lm_err_sys(err, -errno, "%s", dir);
	for (int i = 0; i < count && r == 0; i++)
		r = tell(dir, names[i]->d_name, fn, arg, err);
	names_free(names, count);
	return r;
}

const char *lm_sync_list(const struct lm_sync_state *state)
{
	return state->list;
}

static int take_lock(struct lm_sync_state *state, struct lm_err *err)
{
	CLEANUP(lm_freep) char *lock = lm_str_printf("%s.lock", state->path);
	if (!lock)
		return lm_err_oom(err);
	int r = lm_mkdir_above(AT_FDCWD, state->path, 0755, err);
	if (r < 0)
		return r;
	state->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (state->lock_fd < 0)
		return lm_err_sys(err, -errno, "%s", lock);
	if (flock(state->lock_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	return errno == EWOULDBLOCK ? lm_err_set(err, -EBUSY, "another `lamella sync` has this list")
				    : lm_err_sys(err, -errno, "%s", lock);
}

int lm_sync_open(const char *path, const char *list, bool lock, struct lm_sync_state **ret, struct lm_err *err)
{
	CLEANUP(lm_sync_closep) struct lm_sync_state *state = lm_sync_new(list ? list : "");
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_SYNC_FILE_MAX);
	struct lm_err why = LM_ERR_INIT;
	if (!state || !(state->path = strdup(path)))
		return lm_err_oom(err);
	int r = lock ? take_lock(state, err) : 0;
	if (r < 0)
		return r;
	r = lm_file_read(AT_FDCWD, path, &text, &why);
	if (r == 0)
		r = lm_sync_parse(lm_buf_cstr(&text), text.len, list, state, &why);
	else if (r == -ENOENT)
		r = 0;
	if (r < 0) {
		lm_err_set(err, r, "%s", lm_err_text(&why));
		return lm_err_prefix(err, r, "%s", path);
	}
	*ret = STEAL(state);
	return 0;
}

static int put_time(json_t *object, const char *key, int64_t value)
{
	return value ? json_object_set_new(object, key, json_integer(value)) : 0;
}

static int put_text(json_t *object, const char *key, const char *text)
{
	return text && *text ? json_object_set_new(object, key, lm_cli_text_json(text)) : 0;
}

static json_t *names_json(const struct lm_sync_image *image)
{
	json_t *names = json_array();
	for (size_t i = 0; names && i < image->name_count; i++)
		if (json_array_append_new(names, json_string(image->names[i])) < 0) {
			json_decref(names);
			return NULL;
		}
	return names;
}

/* Anything but 0: memory is short. */
static int put_image(json_t *images, const struct lm_sync_image *image)
{
	json_t *object = json_object();
	int r = json_array_append_new(images, object);
	if (r == 0)
		r = put_text(object, "repository", image->repo);
	if (r == 0)
		r = put_text(object, "name", image->name);
	if (r == 0)
		r = put_text(object, "source", image->source);
	if (r == 0)
		r = put_text(object, "digest", image->digest);
	if (r == 0)
		r = put_text(object, "image", image->image);
	if (r == 0)
		r = put_text(object, "terms", image->terms);
	if (r == 0 && image->name_count)
		r = json_object_set_new(object, "names", names_json(image));
	if (r == 0)
		r = put_text(object, "error", image->error);
	if (r == 0)
		r = put_time(object, "checked", image->checked_s);
	if (r == 0)
		r = put_time(object, "published", image->published_s);
	if (r == 0)
		r = put_time(object, "failed", image->error_s);
	if (r == 0)
		r = put_time(object, "failures", image->failures);
	if (r == 0)
		r = put_time(object, "next", image->next_s);
	return r < 0 ? r : put_time(object, "unwished", image->unwished_s);
}

static int put_repo(json_t *repos, const struct lm_sync_repo *repo)
{
	json_t *object = json_object();
	int r = json_array_append_new(repos, object);
	if (r == 0)
		r = put_text(object, "repository", repo->name);
	if (r == 0)
		r = json_object_set_new(object, "root", json_string(repo->root));
	if (r == 0)
		r = json_object_set_new(object, "revision", json_integer((json_int_t)repo->revision));
	if (r == 0)
		r = put_time(object, "published", repo->published_s);
	if (r == 0)
		r = put_text(object, "error", repo->error);
	return r < 0 ? r : put_time(object, "failed", repo->error_s);
}

int lm_sync_format(const struct lm_sync_state *state, struct lm_buf *ret, struct lm_err *err)
{
	json_t *images = json_array(), *repos = json_array();
	CLEANUP(lm_json_freep)
	json_t *root = json_pack("{s:i, s:o, s:o, s:o}", "format", FORMAT, "list", lm_cli_text_json(state->list),
		"repositories", repos, "images", images);
	int r = root ? 0 : -1;
	for (size_t i = 0; r == 0 && i < state->repo_count; i++)
		r = put_repo(repos, state->repos[i]);
	for (size_t i = 0; r == 0 && i < state->count; i++)
		r = put_image(images, state->images[i]);
	if (r == 0)
		r = lm_json_write(root, JSON_INDENT(1), ret);
	if (r == 0)
		r = lm_buf_str(ret, "\n");
	return r < 0 ? lm_err_oom(err) : 0;
}

int lm_sync_save(const struct lm_sync_state *state, const struct lm_buf *text, struct lm_err *err)
{
	return lm_file_replace(AT_FDCWD, state->path, text->data, text->len, 0644, LM_FILE_SYNC, err);
}
