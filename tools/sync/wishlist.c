#include "sync/wishlist.h"

#include "base/file.h"
#include "base/str.h"
#include "oci/reference.h"
#include "oci/tags.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

enum { GRACE_MAX_S = 10 * 366 * 86400 };

struct parser {
	yaml_document_t *doc;
	struct lm_wishlist *list;
	size_t wishes;
	lm_wish_note_fn *note;
	void *arg;
	struct lm_err *err;
};

/* What a wish has unless it says otherwise. Borrowed from the document. */
struct defaults {
	const char *platform, *name;
	int64_t grace_s;
	bool flat, trees;
};

static void wish_done(struct lm_wish *wish)
{
	free(wish->text);
	free(wish->scheme);
	free(wish->registry);
	free(wish->repository);
	free(wish->tag);
	free(wish->digest);
	for (size_t i = 0; i < wish->exclude_count; i++)
		free(wish->excludes[i]);
	free(wish->excludes);
	free(wish->platform);
	free(wish->name);
	*wish = (struct lm_wish){0};
}

void lm_wishlist_free(struct lm_wishlist *list)
{
	if (!list)
		return;
	for (size_t i = 0; i < list->count; i++) {
		for (size_t k = 0; k < list->repos[i].count; k++)
			wish_done(&list->repos[i].wishes[k]);
		free(list->repos[i].wishes);
		free(list->repos[i].name);
	}
	free(list->repos);
	free(list);
}

/* --- nodes --- */

static int refuse(struct parser *p, const yaml_node_t *node, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int refuse(struct parser *p, const yaml_node_t *node, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	int r = lm_err_vset(p->err, -EINVAL, fmt, args);
	va_end(args);
	return lm_err_prefix(p->err, r, "%zu:%zu", node->start_mark.line + 1, node->start_mark.column + 1);
}

static void note(struct parser *p, const yaml_node_t *node, const char *text)
{
	char line[LM_ERR_MAX + 48];
	snprintf(line, sizeof(line), "%zu:%zu: %s", node->start_mark.line + 1, node->start_mark.column + 1, text);
	p->note(p->arg, line);
}

static const yaml_node_t *node_at(const struct parser *p, int id)
{
	return yaml_document_get_node(p->doc, id);
}

static bool is_null(const yaml_node_t *node)
{
	if (node->type != YAML_SCALAR_NODE || node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	const char *text = (const char *)node->data.scalar.value;
	return *text == '\0' || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0;
}

static int get_text(struct parser *p, const yaml_node_t *node, const char *what, const char **ret)
{
	if (node->type != YAML_SCALAR_NODE)
		return refuse(p, node, "%s: a text is wanted", what);
	const char *text = (const char *)node->data.scalar.value;
	size_t len = node->data.scalar.length;
	if (len == 0 || len > LM_WISH_TEXT_MAX)
		return refuse(p, node, "%s: a text of 1 to %d bytes is wanted", what, LM_WISH_TEXT_MAX);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			return refuse(p, node, "%s: no control characters are wanted", what);
	*ret = text;
	return 0;
}

static int get_flag(struct parser *p, const yaml_node_t *node, const char *what, bool *ret)
{
	const char *text;
	int r = get_text(p, node, what, &text);
	if (r < 0)
		return r;
	bool yes = strcasecmp(text, "true") == 0 || strcasecmp(text, "yes") == 0 || strcasecmp(text, "on") == 0;
	bool no = strcasecmp(text, "false") == 0 || strcasecmp(text, "no") == 0 || strcasecmp(text, "off") == 0;
	if (!yes && !no)
		return refuse(p, node, "%s: true or false is wanted", what);
	*ret = yes;
	return 0;
}

/* NUMBER, with s, m, h, d or w after it; seconds without. */
static int get_grace(struct parser *p, const yaml_node_t *node, const char *what, int64_t *ret)
{
	static const struct {
		char letter;
		uint64_t seconds;
	} units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 7 * 86400}};
	const char *text;
	uint64_t number, unit = 0;
	int r = get_text(p, node, what, &text);
	if (r < 0)
		return r;
	size_t len = strlen(text);
	for (size_t i = 0; i < ARRAY_LEN(units); i++)
		if (text[len - 1] == units[i].letter)
			unit = units[i].seconds;
	bool has_unit = text[len - 1] < '0' || text[len - 1] > '9';
	if (!has_unit)
		unit = 1;
	if (unit == 0 || lm_str_u64(text, len - has_unit, &number) < 0 || number > GRACE_MAX_S / unit)
		return refuse(p, node, "%s: a time such as 90s, 30m, 12h, 7d or 4w is wanted, ten years at most", what);
	*ret = number ? (int64_t)(number * unit) : -1;
	return 0;
}

static int get_copy(struct parser *p, const char *text, char **ret)
{
	if (!text)
		return 0;
	*ret = strdup(text);
	return *ret ? 0 : lm_err_oom(p->err);
}

/* --- mappings: each key has a function --- */

struct key {
	const char *name;
	int (*take)(struct parser *p, const yaml_node_t *value, void *arg);
};

static int unknown_key(struct parser *p, const yaml_node_t *node, const char *key, const struct key *keys, bool is_note)
{
	CLEANUP(lm_buf_done) struct lm_buf known = LM_BUF(512);
	int r = 0;
	for (const struct key *k = keys; k->name && r == 0; k++)
		r = lm_buf_printf(&known, "%s%s", k == keys ? "" : ", ", k->name);
	if (r < 0)
		return lm_err_oom(p->err);
	r = refuse(p, node, "unknown key \"%.80s\"; known here are %s", key, lm_buf_cstr(&known));
	if (!is_note)
		return r;
	p->note(p->arg, p->err->msg);
	return 0;
}

static bool seen_before(struct parser *p, const yaml_node_t *map, const yaml_node_pair_t *pair, const char *key)
{
	for (const yaml_node_pair_t *before = map->data.mapping.pairs.start; before < pair; before++) {
		const yaml_node_t *other = node_at(p, before->key);
		if (other->type == YAML_SCALAR_NODE && strcmp((const char *)other->data.scalar.value, key) == 0)
			return true;
	}
	return false;
}

/* Keys in the order of the table, so that what others depend on comes first. */
static int take_mapping(
	struct parser *p, const yaml_node_t *map, const char *what, const struct key *keys, bool lenient, void *arg)
{
	enum { KEYS_MAX = 64 };
	if (map->type != YAML_MAPPING_NODE)
		return refuse(p, map, "%s: keys with values are wanted", what);
	const yaml_node_pair_t *start = map->data.mapping.pairs.start, *end = map->data.mapping.pairs.top;
	if (end - start > KEYS_MAX)
		return refuse(p, map, "%s: more than %d keys", what, KEYS_MAX);
	for (const yaml_node_pair_t *pair = start; pair < end; pair++) {
		const char *text;
		const struct key *k = keys;
		int r = get_text(p, node_at(p, pair->key), "a key", &text);
		if (r < 0)
			return r;
		while (k->name && strcmp(k->name, text) != 0)
			k++;
		if (!k->name)
			r = unknown_key(p, node_at(p, pair->key), text, keys, lenient);
		else if (seen_before(p, map, pair, text))
			r = refuse(p, node_at(p, pair->key), "key \"%s\" a second time", text);
		if (r < 0)
			return r;
	}
	for (const struct key *k = keys; k->name; k++)
		for (const yaml_node_pair_t *pair = start; pair < end; pair++) {
			const yaml_node_t *value = node_at(p, pair->value);
			if (strcmp((const char *)node_at(p, pair->key)->data.scalar.value, k->name) != 0 ||
				is_null(value))
				continue;
			int r = k->take(p, value, arg);
			if (r < 0)
				return r;
		}
	return 0;
}

static int check_sequence(struct parser *p, const yaml_node_t *node, const char *what, size_t max, size_t *ret_count)
{
	if (node->type != YAML_SEQUENCE_NODE)
		return refuse(p, node, "%s: a list is wanted", what);
	size_t count = (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
	if (count > max)
		return refuse(p, node, "%s: more than %zu", what, max);
	*ret_count = count;
	return 0;
}

/* --- platforms and names --- */

int lm_platform_parse(char *text, struct lm_platform *ret, struct lm_err *err)
{
	char *rest = text;
	const char *os = strsep(&rest, "/"), *architecture = strsep(&rest, "/"), *variant = rest;
	if (*os == '\0' || !architecture || *architecture == '\0' ||
		(variant && (*variant == '\0' || strchr(variant, '/'))))
		return lm_err_set(err, -EINVAL, "OS/ARCH, OS/ARCH/VARIANT or all is wanted");
	*ret = (struct lm_platform){os, architecture, variant};
	return 0;
}

static int get_platform(struct parser *p, const yaml_node_t *node, const char **ret)
{
	struct lm_platform platform;
	struct lm_err why = LM_ERR_INIT;
	const char *text;
	int r = get_text(p, node, "platform", &text);
	if (r < 0)
		return r;
	CLEANUP(lm_freep) char *copy = strdup(text);
	if (!copy)
		return lm_err_oom(p->err);
	if (strcmp(text, "all") != 0 && lm_platform_parse(copy, &platform, &why) < 0)
		return refuse(p, node, "platform: %s", why.msg);
	*ret = text;
	return 0;
}

/* What stands for each variable. */
struct values {
	const char *scheme, *registry, *repository, *tag, *digest;
};

static int put_reference(struct lm_buf *out, const struct values *v)
{
	int r = *v->tag ? lm_buf_printf(out, ":%s", v->tag) : 0;
	return r == 0 && *v->digest ? lm_buf_printf(out, "@%s", v->digest) : r;
}

/* One variable, "scheme" of "$(scheme)". -ENOENT: there is none of that name. */
static int put_variable(struct lm_buf *out, const char *name, size_t len, const struct values *v)
{
	const struct {
		const char *name, *value;
	} simple[] = {{"scheme", v->scheme}, {"registry", v->registry}, {"repository", v->repository}, {"tag", v->tag},
		{"digest", v->digest}};
	for (size_t i = 0; i < ARRAY_LEN(simple); i++)
		if (len == strlen(simple[i].name) && memcmp(name, simple[i].name, len) == 0)
			return lm_buf_str(out, simple[i].value);
	if (len == strlen("reference") && memcmp(name, "reference", len) == 0)
		return put_reference(out, v);
	if (len != strlen("image") || memcmp(name, "image", len) != 0)
		return -ENOENT;
	int r = lm_buf_str(out, v->repository);
	return r < 0 ? r : put_reference(out, v);
}

static int expand(const char *template, const struct values *v, struct lm_buf *out, struct lm_err *err)
{
	while (*template) {
		size_t plain = strcspn(template, "$");
		int r = lm_buf_append(out, template, plain);
		template += plain;
		if (r == 0 && *template) {
			const char *end = template[1] == '(' ? strchr(template, ')') : NULL;
			r = end ? put_variable(out, template + 2, (size_t)(end - template) - 2, v) : -ENOENT;
			if (r == -ENOENT)
				return lm_err_set(err, -EINVAL,
					"\"%.40s\": variables are $(scheme), $(registry), $(repository), $(tag), "
					"$(digest), $(reference) and $(image)",
					template);
			template = end ? end + 1 : template;
		}
		if (r < 0)
			return r == -EMSGSIZE ? lm_err_set(err, -EINVAL, "a name of more than %zu bytes", out->max)
					      : lm_err_oom(err);
	}
	return 0;
}

static int get_template(struct parser *p, const yaml_node_t *node, const char *what, const char **ret)
{
	const struct values values = {"docker", "localhost", "name", "tag", ""};
	CLEANUP(lm_buf_done) struct lm_buf expanded = LM_BUF(PATH_MAX);
	struct lm_err why = LM_ERR_INIT;
	int r = get_text(p, node, what, ret);
	if (r < 0)
		return r;
	r = expand(*ret, &values, &expanded, &why);
	return r < 0 ? refuse(p, node, "%s: %s", what, lm_err_text(&why)) : 0;
}

bool lm_wish_wants(const struct lm_wish *wish, const char *tag)
{
	if (!wish->tag || (wish->wildcard ? !lm_tag_matches(wish->tag, tag) : strcmp(wish->tag, tag) != 0))
		return false;
	for (size_t i = 0; i < wish->exclude_count; i++)
		if (lm_tag_matches(wish->excludes[i], tag))
			return false;
	return true;
}

int lm_wish_names(const struct lm_wish *wish, const char *tag, char **ret_source, char **ret_name, struct lm_err *err)
{
	const struct values values = {
		.scheme = wish->scheme,
		.registry = wish->registry,
		.repository = wish->repository,
		.tag = tag ? tag : "",
		.digest = wish->digest ? wish->digest : "",
	};
	const char *usual = tag ? "$(registry)/$(repository):$(tag)" : "$(registry)/$(repository)";
	CLEANUP(lm_buf_done) struct lm_buf source = LM_BUF(PATH_MAX), name = LM_BUF(PATH_MAX);
	CLEANUP(lm_reference_done) struct lm_reference checked = {0};
	int r = expand("docker://$(registry)/$(image)", &values, &source, err);
	if (r == 0)
		r = expand("docker://", &values, &name, err);
	if (r == 0)
		r = expand(wish->name ? wish->name : usual, &values, &name, err);
	if (r == 0)
		r = lm_reference_parse(lm_buf_cstr(&name), &checked, err);
	if (r == 0 && checked.digest)
		r = lm_err_set(
			err, -EINVAL, "%s: images are published by name and tag, not by digest", lm_buf_cstr(&name));
	if (r < 0)
		return r;
	CLEANUP(lm_freep) char *published = strdup(lm_buf_cstr(&name) + strlen("docker://"));
	if (!published)
		return lm_err_oom(err);
	*ret_source = (char *)lm_buf_steal(&source, NULL);
	*ret_name = STEAL(published);
	return 0;
}

/* --- images --- */

/* The tag may have wildcards, which no reference has: it is looked at with other letters in their place. */
static int parse_image(const char *text, struct lm_wish *wish, struct lm_err *err)
{
	static const char *const schemes[] = {"https", "http", "docker"};
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	const char *scheme = "docker", *rest = text;
	for (size_t i = 0; i < ARRAY_LEN(schemes); i++) {
		size_t len = strlen(schemes[i]);
		if (strncmp(text, schemes[i], len) == 0 && lm_str_starts(text + len, "://")) {
			scheme = schemes[i];
			rest = text + len + 3;
		}
	}
	if (rest == text && strstr(text, "://"))
		return lm_err_set(err, -EINVAL, "\"%s\": docker://, https:// or http:// is wanted", text);
	CLEANUP(lm_freep) char *plain = lm_str_printf("docker://%s", rest);
	if (!plain)
		return lm_err_oom(err);
	char *slash = strrchr(plain, '/'), *colon = slash ? strchr(slash, ':') : NULL;
	char *pattern = colon && !memchr(slash, '@', (size_t)(colon - slash)) ? colon + 1 : NULL;
	CLEANUP(lm_freep) char *tag = pattern ? lm_str_ndup(pattern, strcspn(pattern, "@")) : NULL;
	bool wildcard = tag && strchr(tag, '*');
	for (char *c = pattern; wildcard && *c && *c != '@'; c++)
		*c = *c == '*' ? '_' : *c;
	int r = lm_reference_parse(plain, &ref, err);
	if (r < 0)
		return r;
	if (wildcard && ref.digest)
		return lm_err_set(err, -EINVAL, "%s: a digest is one image, * are many", text);
	wish->wildcard = wildcard;
	wish->registry = STEAL(ref.registry);
	wish->repository = STEAL(ref.repository);
	wish->tag = wildcard ? STEAL(tag) : STEAL(ref.tag);
	wish->digest = STEAL(ref.digest);
	wish->scheme = strdup(scheme);
	wish->text = strdup(text);
	return wish->scheme && wish->text ? 0 : lm_err_oom(err);
}

/* The name for a tag in place of others: what can be wrong with it is found here, and not in the middle of the night.
 */
static int check_names(const struct lm_wish *wish, struct lm_err *err)
{
	CLEANUP(lm_freep) char *source = NULL, *name = NULL;
	return lm_wish_names(wish, wish->wildcard ? "tag" : wish->tag, &source, &name, err);
}

struct repo_parser {
	struct lm_wish_repo *repo;
	struct defaults defaults;
};

struct image_parser {
	const char *image, *platform, *name;
	const yaml_node_t *image_node, *excludes;
	bool flat, trees;
};

static bool same(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static bool wished_before(const struct lm_wish_repo *repo, const struct lm_wish *wish)
{
	for (size_t i = 0; i < repo->count; i++) {
		const struct lm_wish *w = &repo->wishes[i];
		if (same(w->repository, wish->repository) && same(w->tag, wish->tag) && same(w->digest, wish->digest) &&
			same(w->registry, wish->registry) && same(w->name, wish->name))
			return true;
	}
	return false;
}

static int take_excludes(struct parser *p, const yaml_node_t *node, struct lm_wish *wish)
{
	size_t count = 0;
	int r = node ? check_sequence(p, node, "exclude", LM_WISH_EXCLUDES_MAX, &count) : 0;
	if (r < 0 || count == 0)
		return r;
	wish->excludes = calloc(count, sizeof(*wish->excludes));
	if (!wish->excludes)
		return lm_err_oom(p->err);
	for (size_t i = 0; r == 0 && i < count; i++) {
		const char *text;
		r = get_text(p, node_at(p, node->data.sequence.items.start[i]), "exclude", &text);
		if (r == 0)
			r = get_copy(p, text, &wish->excludes[i]);
		wish->exclude_count += r == 0;
	}
	return r;
}

static int add_wish(struct parser *p, struct repo_parser *rp, const struct image_parser *image)
{
	CLEANUP(wish_done) struct lm_wish wish = {.flat = image->flat, .trees = image->trees};
	struct lm_err why = LM_ERR_INIT;
	int r = get_copy(p, image->platform, &wish.platform);
	if (r == 0)
		r = get_copy(p, image->name, &wish.name);
	if (r == 0)
		r = take_excludes(p, image->excludes, &wish);
	if (r < 0)
		return r;
	r = parse_image(image->image, &wish, &why);
	if (r == 0)
		r = check_names(&wish, &why);
	if (r == -ENOMEM)
		return lm_err_oom(p->err);
	if (r < 0) {
		note(p, image->image_node, lm_err_text(&why));
		p->list->bad++;
		return 0;
	}
	if (wished_before(rp->repo, &wish)) {
		note(p, image->image_node, "the same image as before");
		return 0;
	}
	rp->repo->wishes[rp->repo->count++] = wish;
	wish = (struct lm_wish){0};
	return 0;
}

static int take_image(struct parser *p, const yaml_node_t *value, void *arg)
{
	struct image_parser *image = arg;
	image->image_node = value;
	return get_text(p, value, "image", &image->image);
}
static int take_image_platform(struct parser *p, const yaml_node_t *value, void *arg)
{
	return get_platform(p, value, &((struct image_parser *)arg)->platform);
}
static int take_image_name(struct parser *p, const yaml_node_t *value, void *arg)
{
	return get_template(p, value, "name", &((struct image_parser *)arg)->name);
}
static int take_image_flat(struct parser *p, const yaml_node_t *value, void *arg)
{
	return get_flag(p, value, "flat", &((struct image_parser *)arg)->flat);
}
static int take_image_trees(struct parser *p, const yaml_node_t *value, void *arg)
{
	return get_flag(p, value, "trees", &((struct image_parser *)arg)->trees);
}
static int take_image_exclude(struct parser *p, const yaml_node_t *value, void *arg)
{
	((struct image_parser *)arg)->excludes = value;
	return 0;
}

static const struct key image_keys[] = {
	{"image", take_image},
	{"platform", take_image_platform},
	{"name", take_image_name},
	{"flat", take_image_flat},
	{"trees", take_image_trees},
	{"exclude", take_image_exclude},
	{0},
};

static int take_wish(struct parser *p, const yaml_node_t *node, struct repo_parser *rp, bool plain)
{
	struct image_parser image = {
		.platform = rp->defaults.platform,
		.name = rp->defaults.name,
		.flat = rp->defaults.flat,
		.trees = rp->defaults.trees,
	};
	int r = plain || node->type == YAML_SCALAR_NODE ? take_image(p, node, &image)
							: take_mapping(p, node, "image", image_keys, false, &image);
	if (r == 0 && !image.image)
		r = refuse(p, node, "key \"image\" is missing");
	return r < 0 ? r : add_wish(p, rp, &image);
}

static int take_wishes(struct parser *p, const yaml_node_t *node, const char *what, struct repo_parser *rp, bool plain)
{
	size_t count = 0;
	int r = check_sequence(p, node, what, LM_WISHES_MAX - p->wishes, &count);
	if (r < 0)
		return r;
	p->wishes += count;
	rp->repo->wishes = calloc(LM_MAX(count, (size_t)1), sizeof(*rp->repo->wishes));
	if (!rp->repo->wishes)
		return lm_err_oom(p->err);
	for (size_t i = 0; r == 0 && i < count; i++)
		r = take_wish(p, node_at(p, node->data.sequence.items.start[i]), rp, plain);
	return r;
}

/* --- repositories --- */

static int take_repo_name(struct parser *p, const yaml_node_t *value, void *arg)
{
	const char *text;
	int r = get_text(p, value, "repository", &text);
	for (size_t i = 0; r == 0 && i < p->list->count; i++)
		if (same(p->list->repos[i].name, text))
			return refuse(p, value, "repository %s a second time", text);
	return r < 0 ? r : get_copy(p, text, &((struct repo_parser *)arg)->repo->name);
}
static int take_platform(struct parser *p, const yaml_node_t *value, void *arg)
{
	return get_platform(p, value, &((struct repo_parser *)arg)->defaults.platform);
}
static int take_name(struct parser *p, const yaml_node_t *value, void *arg)
{
	return get_template(p, value, "name", &((struct repo_parser *)arg)->defaults.name);
}
static int take_grace(struct parser *p, const yaml_node_t *value, void *arg)
{
	return get_grace(p, value, "grace", &((struct repo_parser *)arg)->defaults.grace_s);
}
static int take_flat(struct parser *p, const yaml_node_t *value, void *arg)
{
	return get_flag(p, value, "flat", &((struct repo_parser *)arg)->defaults.flat);
}
static int take_trees(struct parser *p, const yaml_node_t *value, void *arg)
{
	return get_flag(p, value, "trees", &((struct repo_parser *)arg)->defaults.trees);
}
static int take_images(struct parser *p, const yaml_node_t *value, void *arg)
{
	return take_wishes(p, value, "images", arg, false);
}
static int take_input(struct parser *p, const yaml_node_t *value, void *arg)
{
	return take_wishes(p, value, "input", arg, true);
}
static int take_output_format(struct parser *p, const yaml_node_t *value, void *arg)
{
	const char *ignored;
	return get_template(p, value, "output_format", &ignored);
}
static int take_user(struct parser *p, const yaml_node_t *value, void *arg)
{
	const char *ignored;
	return get_text(p, value, "user", &ignored);
}
static int take_nothing(struct parser *p, const yaml_node_t *value, void *arg)
{
	return 0;
}

static const struct key repo_keys[] = {
	{"repository", take_repo_name},
	{"platform", take_platform},
	{"name", take_name},
	{"grace", take_grace},
	{"flat", take_flat},
	{"trees", take_trees},
	{"images", take_images},
	{0},
};

static const struct key recipe_keys[] = {
	{"version", take_nothing},
	{"user", take_user},
	{"cvmfs_repo", take_repo_name},
	{"output_format", take_output_format},
	{"input", take_input},
	{0},
};

static int take_repo(
	struct parser *p, const yaml_node_t *node, const struct key *keys, const struct defaults *defaults, bool recipe)
{
	struct repo_parser rp = {.repo = &p->list->repos[p->list->count], .defaults = *defaults};
	int r = take_mapping(p, node, recipe ? "the recipe" : "a repository", keys, recipe, &rp);
	rp.repo->grace_s = rp.defaults.grace_s;
	p->list->count++;
	if (r == 0 && !rp.repo->name)
		r = refuse(p, node, "key \"%s\" is missing", recipe ? "cvmfs_repo" : "repository");
	if (r == 0 && !rp.repo->wishes)
		r = refuse(p, node, "key \"%s\" is missing", recipe ? "input" : "images");
	return r;
}

static int take_repositories(struct parser *p, const yaml_node_t *value, void *arg)
{
	const struct repo_parser *defaults = arg;
	size_t count = 0;
	int r = check_sequence(p, value, "repositories", LM_WISHLIST_REPOS_MAX, &count);
	for (size_t i = 0; r == 0 && i < count; i++)
		r = take_repo(
			p, node_at(p, value->data.sequence.items.start[i]), repo_keys, &defaults->defaults, false);
	return r;
}

static const struct key list_keys[] = {
	{"version", take_nothing},
	{"platform", take_platform},
	{"name", take_name},
	{"grace", take_grace},
	{"flat", take_flat},
	{"trees", take_trees},
	{"repositories", take_repositories},
	{0},
};

/* --- the list --- */

static int get_version(struct parser *p, const yaml_node_t *root, unsigned *ret)
{
	if (root->type != YAML_MAPPING_NODE)
		return refuse(p, root, "a wish list is wanted: version: 1, cvmfs_repo: ..., input: ...");
	for (yaml_node_pair_t *pair = root->data.mapping.pairs.start; pair < root->data.mapping.pairs.top; pair++) {
		const yaml_node_t *key = node_at(p, pair->key), *value = node_at(p, pair->value);
		if (key->type != YAML_SCALAR_NODE || strcmp((const char *)key->data.scalar.value, "version") != 0)
			continue;
		const char *text = value->type == YAML_SCALAR_NODE ? (const char *)value->data.scalar.value : "";
		if (strcmp(text, "1") != 0 && strcmp(text, "2") != 0)
			return refuse(p, value, "version: 1 (DUCC's) and 2 are understood");
		*ret = text[0] == '1' ? 1 : 2;
		return 0;
	}
	return refuse(p, root, "key \"version\" is missing");
}

static int take_list(struct parser *p, const yaml_node_t *root)
{
	const struct defaults defaults = {.flat = true, .trees = true};
	struct repo_parser top = {.defaults = defaults};
	p->list->repos = calloc(LM_WISHLIST_REPOS_MAX, sizeof(*p->list->repos));
	if (!p->list->repos)
		return lm_err_oom(p->err);
	int r = get_version(p, root, &p->list->version);
	if (r < 0)
		return r;
	if (p->list->version == 1)
		return take_repo(p, root, recipe_keys, &defaults, true);
	r = take_mapping(p, root, "the wish list", list_keys, false, &top);
	if (r == 0 && p->list->count == 0)
		r = refuse(p, root, "key \"repositories\" is missing, or names none");
	return r;
}

static int yaml_failed(const yaml_parser_t *yaml, struct lm_err *err)
{
	if (yaml->error == YAML_MEMORY_ERROR)
		return lm_err_oom(err);
	if (yaml->error == YAML_READER_ERROR)
		return lm_err_set(err, -EINVAL, "byte %zu: %s", yaml->problem_offset, yaml->problem);
	return lm_err_set(err, -EINVAL, "%zu:%zu: %s%s%s", yaml->problem_mark.line + 1, yaml->problem_mark.column + 1,
		yaml->context ? yaml->context : "", yaml->context ? ": " : "", yaml->problem);
}

/* A second document would be silently ignored otherwise. */
static int check_end(yaml_parser_t *yaml, struct lm_err *err)
{
	yaml_document_t more;
	if (!yaml_parser_load(yaml, &more))
		return yaml_failed(yaml, err);
	const yaml_node_t *root = yaml_document_get_root_node(&more);
	int r = root ? lm_err_set(err, -EINVAL, "%zu:1: a second document", root->start_mark.line + 1) : 0;
	yaml_document_delete(&more);
	return r;
}

static int parse(struct parser *p, yaml_parser_t *yaml)
{
	yaml_document_t doc;
	if (!yaml_parser_load(yaml, &doc))
		return yaml_failed(yaml, p->err);
	p->doc = &doc;
	const yaml_node_t *root = yaml_document_get_root_node(&doc);
	int r = root ? take_list(p, root) : lm_err_set(p->err, -EINVAL, "1:1: the wish list is empty");
	yaml_document_delete(&doc);
	return r == 0 ? check_end(yaml, p->err) : r;
}

static void note_nothing(void *arg, const char *text)
{
}

int lm_wishlist_parse(
	const char *text, size_t len, lm_wish_note_fn *note_fn, void *arg, struct lm_wishlist **ret, struct lm_err *err)
{
	yaml_parser_t yaml;
	struct lm_err why = LM_ERR_INIT;
	CLEANUP(lm_wishlist_freep) struct lm_wishlist *list = calloc(1, sizeof(*list));
	if (len > LM_WISHLIST_MAX)
		return lm_err_set(err, -EINVAL, "a wish list of more than %d bytes", LM_WISHLIST_MAX);
	if (!list || !yaml_parser_initialize(&yaml))
		return lm_err_oom(err);
	yaml_parser_set_input_string(&yaml, (const unsigned char *)text, len);
	struct parser p = {.list = list, .note = note_fn ? note_fn : note_nothing, .arg = arg, .err = &why};
	int r = parse(&p, &yaml);
	yaml_parser_delete(&yaml);
	if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	*ret = STEAL(list);
	return 0;
}

int lm_wishlist_read(
	const char *path, lm_wish_note_fn *note_fn, void *arg, struct lm_wishlist **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WISHLIST_MAX);
	int r = lm_file_read(AT_FDCWD, path, &text, err);
	if (r < 0)
		return r;
	r = lm_wishlist_parse(lm_buf_cstr(&text), text.len, note_fn, arg, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "%s", path) : 0;
}
