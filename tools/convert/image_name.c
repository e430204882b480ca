#include "convert/image_name.h"

#include "base/str.h"

#include <string.h>

static char *docker_name(const struct lm_reference *ref)
{
	return ref->tag ? lm_str_printf("%s/%s:%s", ref->registry, ref->repository, ref->tag)
			: lm_str_printf("%s/%s", ref->registry, ref->repository);
}

/* tiny.tar.gz is "tiny". */
static void cut_suffixes(char *name)
{
	static const char *const suffixes[] = {".gz", ".tgz", ".zst", ".bz2", ".xz", ".tar", ".oci"};
	for (size_t i = 0; i < ARRAY_LEN(suffixes); i++)
		if (lm_str_ends(name, suffixes[i]) && strlen(name) > strlen(suffixes[i]))
			name[strlen(name) - strlen(suffixes[i])] = '\0';
}

/* A layout has no name of its own: localhost/DIRECTORY:TAG, or localhost/FILE:TAG of an archive. */
static int layout_name(const struct lm_reference *ref, char **ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = realpath(ref->path, NULL);
	if (!path)
		return lm_err_sys(err, -errno, "%s", ref->path);
	if (ref->transport != LM_TRANSPORT_OCI)
		cut_suffixes(strrchr(path, '/') + 1);
	*ret = lm_str_printf("localhost/%s:%s", strrchr(path, '/') + 1, ref->tag ? ref->tag : "latest");
	return *ret ? 0 : lm_err_oom(err);
}

int lm_image_name(const struct lm_reference *ref, const char *name, const char *own, char **ret, struct lm_err *err)
{
	if (!name && !own && ref->transport != LM_TRANSPORT_DOCKER)
		return layout_name(ref, ret, err);
	if (!name) {
		*ret = own ? strdup(own) : docker_name(ref);
		return *ret ? 0 : lm_err_oom(err);
	}
	CLEANUP(lm_reference_done) struct lm_reference wanted = {0};
	CLEANUP(lm_freep) char *text = lm_str_printf("docker://%s", name);
	if (!text)
		return lm_err_oom(err);
	int r = lm_reference_parse(text, &wanted, err);
	if (r < 0)
		return lm_err_prefix(err, r, "--name");
	*ret = docker_name(&wanted);
	return *ret ? 0 : lm_err_oom(err);
}
