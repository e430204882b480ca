#include "oci/reference.h"

#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define DIGEST "sha256:" HEX64

static void expect(const char *what, const char *got, const char *wanted)
{
	if (got ? !wanted || strcmp(got, wanted) != 0 : wanted != NULL)
		fail_msg("%s: %s, not %s", what, got ? got : "(null)", wanted ? wanted : "(null)");
}

static void registries(void **state)
{
	static const struct {
		const char *text, *registry, *repository, *tag, *digest;
	} cases[] = {
		{"docker://debian", "docker.io", "library/debian", "latest", NULL},
		{"docker://debian:12", "docker.io", "library/debian", "12", NULL},
		{"docker://atlas/athena", "docker.io", "atlas/athena", "latest", NULL},
		{"docker://docker.io/debian", "docker.io", "library/debian", "latest", NULL},
		{"docker://docker.io/a/b", "docker.io", "a/b", "latest", NULL},
		{"docker://localhost/x", "localhost", "x", "latest", NULL},
		{"docker://localhost:5000/x:t", "localhost:5000", "x", "t", NULL},
		{"docker://127.0.0.1:5000/a/b/c:v1.2-rc_3", "127.0.0.1:5000", "a/b/c", "v1.2-rc_3", NULL},
		{"docker://[::1]:5000/x", "[::1]:5000", "x", "latest", NULL},
		{"docker://[::1]/x", "[::1]", "x", "latest", NULL},
		{"docker://reg.example.org/x@" DIGEST, "reg.example.org", "x", NULL, DIGEST},
		{"docker://reg.example.org/x:t@" DIGEST, "reg.example.org", "x", "t", DIGEST},
		{"docker://reg.example.org:443/a.b/c__d/e---f", "reg.example.org:443", "a.b/c__d/e---f", "latest",
			NULL},
		{"docker://host:5000/x", "host:5000", "x", "latest", NULL},
		{"docker://Reg.example.org/x", "Reg.example.org", "x", "latest", NULL},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_reference_done) struct lm_reference ref = {0};
		struct lm_err err = LM_ERR_INIT;
		if (lm_reference_parse(cases[i].text, &ref, &err) < 0)
			fail_msg("%s", err.msg);
		assert_int_equal(ref.transport, LM_TRANSPORT_DOCKER);
		expect(cases[i].text, ref.registry, cases[i].registry);
		expect(cases[i].text, ref.repository, cases[i].repository);
		expect(cases[i].text, ref.tag, cases[i].tag);
		expect(cases[i].text, ref.digest, cases[i].digest);
		assert_null(ref.path);
	}
}

static void layouts(void **state)
{
	static const struct {
		const char *text, *path, *tag;
	} cases[] = {
		{"oci:dir", "dir", NULL},
		{"oci:/a/b c", "/a/b c", NULL},
		{"oci:/a/b:latest", "/a/b", "latest"},
		{"oci:../x:reg.example.org:5000/y:z", "../x", "reg.example.org:5000/y:z"},
		{"oci:@", "@", NULL},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_reference_done) struct lm_reference ref = {0};
		assert_int_equal(lm_reference_parse(cases[i].text, &ref, NULL), 0);
		assert_int_equal(ref.transport, LM_TRANSPORT_OCI);
		expect(cases[i].text, ref.path, cases[i].path);
		expect(cases[i].text, ref.tag, cases[i].tag);
		assert_null(ref.registry);
		assert_null(ref.digest);
	}
}

static void refuses(void **state)
{
	static const char *const cases[] = {
		"",
		"debian",
		"docker:",
		"docker:debian",
		"docker:/debian",
		"oci",
		"oci:",
		"oci::tag",
		"oci:dir:",
		"OCI:dir",
		"docker://",
		"docker:///",
		"docker:///x",
		"docker://x/",
		"docker:///x/y",
		"docker://a//b",
		"docker://X",
		"docker://a/B",
		"docker://-a",
		"docker://a-",
		"docker://a..b/c",
		"docker://a/b..c",
		"docker://a/b___c",
		"docker://a/.b",
		"docker://a/b.",
		"docker://a/_b",
		"docker://a:",
		"docker://a:-t",
		"docker://a:.t",
		"docker://a:t!",
		"docker://a:t:u",
		"docker://a@",
		"docker://a@sha256:12",
		"docker://a@" HEX64,
		"docker://a@sha512:" HEX64,
		"docker://a@sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef",
		"docker://a@" DIGEST "0",
		"docker://a@" DIGEST "@" DIGEST,
		"docker://host:0/x",
		"docker://host:65536/x",
		"docker://host:x/y",
		"docker://host:/y",
		"docker://h:1:2/y",
		"docker://.org/x",
		"docker://a.-b/x",
		"docker://user@h.org/x",
		"docker://h.org/x/../y",
		"docker://h.org/x?y",
		"docker://h.org/x#y",
		"docker://h.org/a%2fb",
		"docker://[::1/x",
		"docker://[]/x",
		"docker://[::1]5000/x",
		"docker://[::1]:/x",
		"docker://[zz]/x",
		"docker://h.org\r\nX: y/x",
		"oci:a\nb",
		"docker://h.org/a b",
		"docker://h.org/a:\x7f",
		"docker://h_x.org/a",
		"http://h.org/x",
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_reference ref = {.tag = (char *)"untouched"};
		struct lm_err err = LM_ERR_INIT;
		if (lm_reference_parse(cases[i], &ref, &err) != -EINVAL)
			fail_msg("\"%s\" was accepted", cases[i]);
		assert_string_equal(ref.tag, "untouched");
		assert_true(err.msg[0] != '\0');
	}
}

static void lengths_are_limited(void **state)
{
	char text[6000];
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	memset(text, 'a', sizeof(text));
	memcpy(text, "oci:", 4);
	text[4096] = '\0';
	assert_int_equal(lm_reference_parse(text, &ref, NULL), 0);
	lm_reference_done(&ref);
	text[4096] = 'a';
	text[4097] = '\0';
	assert_int_equal(lm_reference_parse(text, &ref, NULL), -EINVAL);
	snprintf(text, sizeof(text), "docker://h.org/%0255d:%0128d", 1, 1);
	assert_int_equal(lm_reference_parse(text, &ref, NULL), 0);
	lm_reference_done(&ref);
	snprintf(text, sizeof(text), "docker://h.org/%0256d:%0128d", 1, 1);
	assert_int_equal(lm_reference_parse(text, &ref, NULL), -EINVAL);
	snprintf(text, sizeof(text), "docker://h.org/%0255d:%0129d", 1, 1);
	assert_int_equal(lm_reference_parse(text, &ref, NULL), -EINVAL);
}

static void digests(void **state)
{
	assert_true(lm_digest_valid(DIGEST));
	assert_false(lm_digest_valid(""));
	assert_false(lm_digest_valid(HEX64));
	assert_false(lm_digest_valid(DIGEST "0"));
	assert_false(lm_digest_valid("sha256:" HEX64 "\n"));
	assert_false(lm_digest_valid("SHA256:" HEX64));
	assert_false(lm_digest_valid("sha256:../3456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registries),
		cmocka_unit_test(layouts),
		cmocka_unit_test(refuses),
		cmocka_unit_test(lengths_are_limited),
		cmocka_unit_test(digests),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
