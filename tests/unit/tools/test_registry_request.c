#include "registry/request.h"

#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define DIGEST "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void accepted(void **state)
{
	static const struct {
		const char *path, *ns;
		struct lm_registry_request wanted;
	} cases[] = {
		{"/v2/", NULL, {LM_REGISTRY_ROOT, "", "", ""}},
		{"/v2", NULL, {LM_REGISTRY_ROOT, "", "", ""}},
		{"/v2/_catalog", NULL, {LM_REGISTRY_CATALOG, "", "", ""}},
		{"/v2/a/tags/list", NULL, {LM_REGISTRY_TAGS, "", "a", ""}},
		{"/v2/a/b/c/manifests/v1", "docker.io", {LM_REGISTRY_MANIFEST, "docker.io", "a/b/c", "v1"}},
		{"/v2/a/manifests/" DIGEST, "h:5000", {LM_REGISTRY_MANIFEST, "h:5000", "a", DIGEST}},
		{"/v2/a/manifests/sha256%3A0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			"h%3a5000", {LM_REGISTRY_MANIFEST, "h:5000", "a", DIGEST}},
		{"/v2/manifests/manifests/manifests", "[::1]:5000",
			{LM_REGISTRY_MANIFEST, "[::1]:5000", "manifests", "manifests"}},
		{"/v2/a/blobs/" DIGEST, "", {LM_REGISTRY_BLOB, "", "a", DIGEST}},
		{"/v2/tags/tags/list", NULL, {LM_REGISTRY_TAGS, "", "tags", ""}},
		{"/v2/a/manifests/list", NULL, {LM_REGISTRY_MANIFEST, "", "a", "list"}},
		{"/v2/a%2Fb/manifests/v1", NULL, {LM_REGISTRY_MANIFEST, "", "a/b", "v1"}},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct lm_registry_request got = {0};
		const char *code;
		assert_int_equal(lm_registry_request_parse(cases[i].path, cases[i].ns, &got, &code, NULL), 0);
		assert_int_equal(got.kind, cases[i].wanted.kind);
		assert_string_equal(got.ns, cases[i].wanted.ns);
		assert_string_equal(got.name, cases[i].wanted.name);
		assert_string_equal(got.reference, cases[i].wanted.reference);
	}
}

static void refused(void **state)
{
	static char long_name[2000], long_path[4000];
	memset(long_name, 'a', sizeof(long_name) - 1);
	memset(long_path, '/', sizeof(long_path) - 1);
	static const struct {
		const char *path, *ns;
		int r;
		const char *code;
	} cases[] = {
		{"", NULL, -ENOENT, "UNSUPPORTED"},
		{"/", NULL, -ENOENT, "UNSUPPORTED"},
		{"/v1/", NULL, -ENOENT, "UNSUPPORTED"},
		{"/v20/a/manifests/v1", NULL, -ENOENT, "UNSUPPORTED"},
		{"/v2/a", NULL, -ENOENT, "UNSUPPORTED"},
		{"/v2/manifests/v1", NULL, -ENOENT, "UNSUPPORTED"},
		{"/v2/a/tags/other", NULL, -ENOENT, "UNSUPPORTED"},
		{"/v2/a/blobs/uploads/", NULL, -ENOENT, "UNSUPPORTED"},
		{"/v2/../manifests/v1", NULL, -EINVAL, "NAME_INVALID"},
		{"/v2/a/../../etc/manifests/v1", NULL, -EINVAL, "NAME_INVALID"},
		{"/v2/%2e%2e/manifests/v1", NULL, -EINVAL, "NAME_INVALID"},
		{"/v2//manifests/v1", NULL, -EINVAL, "NAME_INVALID"},
		{"/v2/a//b/manifests/v1", NULL, -EINVAL, "NAME_INVALID"},
		{"/v2/.metadata/manifests/v1", NULL, -EINVAL, "NAME_INVALID"},
		{"/v2/A/manifests/v1", NULL, -EINVAL, "NAME_INVALID"},
		{"/v2/a:b/manifests/v1", NULL, -EINVAL, "NAME_INVALID"},
		{"/v2/a/manifests/", NULL, -EINVAL, "TAG_INVALID"},
		{"/v2/a/manifests/..", NULL, -EINVAL, "TAG_INVALID"},
		{"/v2/a/manifests/-x", NULL, -EINVAL, "TAG_INVALID"},
		{"/v2/a/manifests/a%00b", NULL, -EINVAL, "UNSUPPORTED"},
		{"/v2/a/manifests/a%0", NULL, -EINVAL, "UNSUPPORTED"},
		{"/v2/a/manifests/md5:00", NULL, -EINVAL, "DIGEST_INVALID"},
		{"/v2/a/blobs/v1", NULL, -EINVAL, "DIGEST_INVALID"},
		{"/v2/a/blobs/sha256:..", NULL, -EINVAL, "DIGEST_INVALID"},
		{"/v2/a/manifests/v1", "..", -EINVAL, "NAME_INVALID"},
		{"/v2/a/manifests/v1", "a/b", -EINVAL, "NAME_INVALID"},
		{"/v2/a/manifests/v1", "a%2fb", -EINVAL, "NAME_INVALID"},
		{"/v2/a/manifests/v1", "a:b", -EINVAL, "NAME_INVALID"},
		{"/v2/a/manifests/v1", "%", -EINVAL, "NAME_INVALID"},
		{"/v2/a/manifests/v1", long_name, -EINVAL, "NAME_INVALID"},
		{long_path, NULL, -EINVAL, "UNSUPPORTED"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct lm_registry_request got = {0};
		struct lm_err err = LM_ERR_INIT;
		const char *code = NULL;
		assert_int_equal(lm_registry_request_parse(cases[i].path, cases[i].ns, &got, &code, &err), cases[i].r);
		assert_string_equal(code, cases[i].code);
		assert_true(err.code == cases[i].r && *err.msg);
	}
}

/* The longest there are. */
static void bounds(void **state)
{
	char path[LM_REGISTRY_PATH_MAX], name[257];
	struct lm_registry_request got;
	const char *code;
	memset(name, 'a', sizeof(name) - 1);
	for (int len = 255; len < 257; len++) {
		snprintf(path, sizeof(path), "/v2/%.*s/manifests/%.128s", len, name, name);
		assert_int_equal(lm_registry_request_parse(path, NULL, &got, &code, NULL), len == 255 ? 0 : -EINVAL);
	}
	snprintf(path, sizeof(path), "/v2/a/manifests/%.129s", name);
	assert_int_equal(lm_registry_request_parse(path, NULL, &got, &code, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepted),
		cmocka_unit_test(refused),
		cmocka_unit_test(bounds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
