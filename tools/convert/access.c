#include "convert/access.h"

#include "base/str.h"
#include "common.h"

#include <string.h>

void lm_access_options_done(struct lm_access_options *options)
{
	for (size_t i = 0; i < options->access.mirror_count; i++)
		free(options->registries[i]);
	*options = (struct lm_access_options){0};
}

int lm_access_add_mirror(void *arg, const char *value, struct lm_err *err)
{
	struct lm_access_options *o = arg;
	const char *equals = strchr(value, '=');
	if (!equals)
		return lm_err_set(err, -EINVAL, "HOST[:PORT]=URL is wanted, not \"%s\"", value);
	if (o->access.mirror_count == LM_MIRRORS_MAX)
		return lm_err_set(err, -EINVAL, "more than %d mirrors", LM_MIRRORS_MAX);
	CLEANUP(lm_freep) char *registry = lm_str_ndup(value, (size_t)(equals - value));
	if (!registry)
		return lm_err_oom(err);
	const struct lm_mirror mirror = {registry, equals + 1};
	int r = lm_mirror_check(&mirror, err);
	if (r < 0)
		return r;
	size_t i = o->access.mirror_count++;
	o->registries[i] = STEAL(registry);
	o->mirrors[i] = mirror;
	o->access.mirrors = o->mirrors;
	return 0;
}

int lm_platform_option(const char *text, char **ret_words, struct lm_platform *ret, struct lm_err *err)
{
	if (!text) {
		*ret = lm_platform_host();
		return 0;
	}
	CLEANUP(lm_freep) char *words = strdup(text);
	if (!words)
		return lm_err_oom(err);
	char *rest = words;
	const char *os = strsep(&rest, "/"), *architecture = strsep(&rest, "/"), *variant = rest;
	if (*os == '\0' || !architecture || *architecture == '\0' ||
		(variant && (*variant == '\0' || strchr(variant, '/'))))
		return lm_err_set(err, -EINVAL, "--platform: OS/ARCH or OS/ARCH/VARIANT is wanted");
	*ret = (struct lm_platform){os, architecture, variant};
	*ret_words = STEAL(words);
	return 0;
}

static void say(void *arg, const char *text)
{
	lm_cli_say("%s", text);
}

void lm_access_speak(struct lm_access_options *options)
{
	options->access.note = say;
}
