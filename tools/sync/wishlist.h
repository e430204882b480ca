/*
 * Wish lists: which images a repository is to have, in YAML.
 *
 * Version 1 is DUCC's recipe:
 *
 *   version: 1
 *   user: somebody                                 # read, without effect: nothing is pushed to a registry
 *   cvmfs_repo: unpacked.example.org
 *   output_format: '$(scheme)://…/$(image)'        # checked, likewise without effect
 *   input:
 *     - 'https://registry.hub.docker.com/library/debian:stable'
 *     - 'registry.example.org/group/name:v*'       # any tag that fits
 *
 * Version 2 is ours:
 *
 *   version: 2
 *   grace: 7d                                      # defaults of all repositories: grace, platform, flat, trees, name
 *   repositories:
 *     - repository: unpacked.example.org
 *       platform: all                              # or linux/arm64/v8; of this machine, if not said
 *       flat: false                                # trees of whole images, for Apptainer (default true)
 *       trees: false                               # those for the kernels of nodes (default true)
 *       grace: 12h                                 # content that has lost its name stays that long
 *       images:
 *         - docker.io/library/debian:stable
 *         - image: docker://registry.example.org/group/name:v*
 *           exclude: ['*-dev', '*-rc*']
 *           platform: linux/amd64
 *           name: 'example.org/mirror/$(repository):$(tag)'    # published under this name
 *
 * An image is [SCHEME://]HOST[:PORT]/NAME[:TAG][@DIGEST]; SCHEME docker or https, or http, which means plain HTTP. Each
 * * in the tag stands for any number of characters. In `name` and `output_format` $(scheme), $(registry),
 * $(repository),
 * $(tag), $(digest), $(reference) (":TAG", "@DIGEST" or both) and $(image) ($(repository)$(reference)) are replaced.
 *
 * What is wrong with the list as a whole makes it -EINVAL, with line and column. A line with an image that can't be
 * understood, a second wish for the same, and in version 1 keys that DUCC does not know, are told as notes; the rest of
 * the list holds.
 */
#ifndef LM_TOOLS_WISHLIST_H
#define LM_TOOLS_WISHLIST_H

#include "oci/image.h"

enum {
	LM_WISHLIST_MAX = 4 << 20, /* bytes */
	LM_WISHES_MAX = 20000,	   /* of all repositories */
	LM_WISHLIST_REPOS_MAX = 64,
	LM_WISH_EXCLUDES_MAX = 64,
	LM_WISH_TEXT_MAX = 1024, /* a scalar */
};

struct lm_wish {    /* strings owned, NULL where not given */
	char *text; /* as it is written */
	char *scheme, *registry, *repository, *tag, *digest;
	bool wildcard; /* the tag is a pattern */
	char **excludes;
	size_t exclude_count;
	char *platform; /* OS/ARCH[/VARIANT], "all"; NULL: this machine's */
	char *name;	/* template; NULL: REGISTRY/REPOSITORY[:TAG] */
	bool flat, trees;
};

struct lm_wish_repo {
	char *name;
	int64_t grace_s; /* as a converter has it: 0 not given, negative none */
	struct lm_wish *wishes;
	size_t count;
};

struct lm_wishlist {
	unsigned version;
	struct lm_wish_repo *repos;
	size_t count;
	size_t bad; /* lines with images that could not be understood */
};

/* text: "LINE:COLUMN: what is wrong". */
typedef void lm_wish_note_fn(void *arg, const char *text);

int lm_wishlist_parse(const char *text, size_t len, lm_wish_note_fn *note, void *arg, struct lm_wishlist **ret,
	struct lm_err *err) MUST_CHECK;
/* The same from a file; messages name it. */
int lm_wishlist_read(
	const char *path, lm_wish_note_fn *note, void *arg, struct lm_wishlist **ret, struct lm_err *err) MUST_CHECK;
void lm_wishlist_free(struct lm_wishlist *list);
LM_DEFINE_CLEANUP(struct lm_wishlist, lm_wishlist_free, lm_wishlist_freep)

/* Whether the wish means this tag of its repository. */
bool lm_wish_wants(const struct lm_wish *wish, const char *tag);

/* For one tag (NULL: the wish has none, but a digest): where the image comes from, docker://…, and the name it is
 * published under. The caller frees both. -EINVAL: the name is none. */
int lm_wish_names(
	const struct lm_wish *wish, const char *tag, char **ret_source, char **ret_name, struct lm_err *err) MUST_CHECK;

/* OS/ARCH[/VARIANT] cut into *ret, which points into text; "all" is not for here. -EINVAL. */
int lm_platform_parse(char *text, struct lm_platform *ret, struct lm_err *err) MUST_CHECK;

#endif
