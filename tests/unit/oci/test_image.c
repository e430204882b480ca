#include "base/str.h"
#include "oci/digest.h"
#include "oci/image.h"

#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define D(c) "sha256:" c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c
#define DA D("aa")
#define DB D("bb")
#define DC D("cc")

#define OCI_CONFIG "{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"" DC "\",\"size\":100}"
#define LAYER(type, digest, size) "{\"mediaType\":\"" type "\",\"digest\":\"" digest "\",\"size\":" size "}"
#define OCI_GZIP "application/vnd.oci.image.layer.v1.tar+gzip"
#define MANIFEST(layers) "{\"schemaVersion\":2,\"config\":" OCI_CONFIG ",\"layers\":[" layers "]}"

static int parse(const char *json, struct lm_image *image, struct lm_err *err)
{
	return lm_image_parse_manifest(json, strlen(json), image, err);
}

static void manifest(void **state)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(parse(MANIFEST(LAYER(OCI_GZIP, DA, "12") "," LAYER(OCI_GZIP, DA, "0")), &image, &err), 0);
	assert_int_equal(image.layer_count, 2);
	assert_string_equal(image.layers[0].digest, DA);
	assert_int_equal(image.layers[0].size, 12);
	assert_int_equal(image.layers[0].compression, LM_LAYER_GZIP);
	assert_string_equal(image.config_digest, DC);
	assert_int_equal(image.config_size, 100);
	assert_string_equal(image.manifest_type, "application/vnd.oci.image.manifest.v1+json");
	assert_string_equal(image.digest, "");
}

static void docker_manifest(void **state)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	assert_int_equal(
		parse("{\"schemaVersion\":2,"
		      "\"mediaType\":\"application/vnd.docker.distribution.manifest.v2+json\","
		      "\"config\":{\"mediaType\":\"application/vnd.docker.container.image.v1+json\",\"size\":7,"
		      "\"digest\":\"" DC "\"},\"layers\":[" LAYER(
			      "application/vnd.docker.image.rootfs.diff.tar.gzip", DA, "9000000000000") "]}",
			&image, NULL),
		0);
	assert_string_equal(image.manifest_type, "application/vnd.docker.distribution.manifest.v2+json");
	assert_int_equal(image.layers[0].compression, LM_LAYER_GZIP);
	assert_true(image.layers[0].size == 9000000000000);
}

static void compressions(void **state)
{
	static const struct {
		const char *type;
		int compression; /* -1: refused */
	} cases[] = {
		{"application/vnd.oci.image.layer.v1.tar", LM_LAYER_NONE},
		{"application/vnd.oci.image.layer.v1.tar+gzip", LM_LAYER_GZIP},
		{"application/vnd.oci.image.layer.v1.tar+zstd", LM_LAYER_ZSTD},
		{"application/vnd.docker.image.rootfs.diff.tar", LM_LAYER_NONE},
		{"application/vnd.docker.image.rootfs.diff.tar.gzip", LM_LAYER_GZIP},
		{"application/vnd.docker.image.rootfs.diff.tar.zstd", LM_LAYER_ZSTD},
		{"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", -1},
		{"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", -1},
		{"application/vnd.oci.image.layer.v1.tar+gzip+encrypted", -1},
		{"application/vnd.oci.image.layer.v1.tar+xz", -1},
		{"application/octet-stream", -1},
		{"", -1},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_image_done) struct lm_image image = {0};
		CLEANUP(lm_freep) char *json = lm_str_printf(MANIFEST(LAYER("%s", DA, "1")), cases[i].type);
		struct lm_err err = LM_ERR_INIT;
		int r = parse(json, &image, &err);
		assert_int_equal(r, cases[i].compression < 0 ? -EPROTO : 0);
		if (r == 0)
			assert_int_equal(image.layers[0].compression, cases[i].compression);
	}
	struct lm_err err = LM_ERR_INIT;
	struct lm_image image;
	(void)!parse(
		MANIFEST(LAYER("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", DA, "1")), &image, &err);
	assert_non_null(strstr(err.msg, "layer 0: "));
	assert_non_null(strstr(err.msg, "foreign layer"));
}

/* By the annotation of its descriptor. */
static void stargz(void **state)
{
	static const struct {
		const char *annotations;
		int stargz; /* -1: refused */
	} cases[] = {
		{"", 0},
		{",\"annotations\":null", 0},
		{",\"annotations\":{}", 0},
		{",\"annotations\":{\"containerd.io/snapshot/stargz/toc.digest\":\"" DB "\"}", 1},
		{",\"annotations\":{\"io.github.containers.zstd-chunked.manifest-checksum\":\"" DB "\"}", 0},
		{",\"annotations\":{\"containerd.io/snapshot/stargz/toc.digest\":1}", -1},
		{",\"annotations\":[]", -1},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_image_done) struct lm_image image = {0};
		CLEANUP(lm_freep)
		char *json = lm_str_printf(MANIFEST("{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\","
						    "\"digest\":\"" DA "\",\"size\":1%s}"),
			cases[i].annotations);
		int r = parse(json, &image, NULL);
		assert_int_equal(r, cases[i].stargz < 0 ? -EPROTO : 0);
		if (r == 0)
			assert_int_equal(image.layers[0].stargz, cases[i].stargz);
	}
}

static void forged_manifests(void **state)
{
	static const char *const cases[] = {
		"",
		" ",
		"null",
		"[]",
		"1",
		"\"x\"",
		"{",
		"{}",
		"{\"schemaVersion\":2}",
		"\xff\xfe{}",
		MANIFEST("") "x", /* something behind */
		"{\"schemaVersion\":1,\"config\":" OCI_CONFIG ",\"layers\":[]}",
		"{\"schemaVersion\":\"2\",\"config\":" OCI_CONFIG ",\"layers\":[]}",
		"{\"config\":" OCI_CONFIG ",\"layers\":[]}",
		"{\"schemaVersion\":2,\"layers\":[]}",
		"{\"schemaVersion\":2,\"config\":[],\"layers\":[]}",
		"{\"schemaVersion\":2,\"config\":" OCI_CONFIG "}",
		"{\"schemaVersion\":2,\"config\":" OCI_CONFIG ",\"layers\":{}}",
		"{\"schemaVersion\":2,\"config\":" OCI_CONFIG ",\"layers\":[],\"manifests\":[]}",
		"{\"schemaVersion\":2,\"config\":" OCI_CONFIG ",\"layers\":[],\"layers\":[]}", /* which one? */
		"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"config\":" OCI_CONFIG
		",\"layers\":[]}",
		"{\"schemaVersion\":2,\"mediaType\":7,\"config\":" OCI_CONFIG ",\"layers\":[]}",
		"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/"
		"vnd.cncf.helm.config.v1+json\",\"digest\":\"" DC "\",\"size\":1},\"layers\":[]}",
		"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/"
		"vnd.oci.image.config.v1+json\",\"digest\":\"" DC "\",\"size\":99999999},\"layers\":[]}",
		"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/"
		"vnd.oci.image.config.v1+json\",\"digest\":\"x\","
		"\"size\":1},\"layers\":[]}",
		MANIFEST("7"),
		MANIFEST("null"),
		MANIFEST("[]"),
		MANIFEST("{}"),
		MANIFEST(LAYER(OCI_GZIP, "sha256:../../../../etc/passwd", "1")),
		MANIFEST(LAYER(OCI_GZIP,
			"sha512:"
			"aa",
			"1")),
		MANIFEST(LAYER(OCI_GZIP, DA "a", "1")),
		MANIFEST(LAYER(OCI_GZIP, D("AA"), "1")),
		MANIFEST(LAYER(OCI_GZIP, DA, "-1")),
		MANIFEST(LAYER(OCI_GZIP, DA, "1.5")),
		MANIFEST(LAYER(OCI_GZIP, DA, "1e3")),
		MANIFEST(LAYER(OCI_GZIP, DA, "\"1\"")),
		MANIFEST(LAYER(OCI_GZIP, DA, "99999999999999999999999999")),
		MANIFEST("{\"digest\":\"" DA "\",\"size\":1}"),
		MANIFEST("{\"mediaType\":\"" OCI_GZIP "\",\"size\":1}"),
		MANIFEST("{\"mediaType\":\"" OCI_GZIP "\",\"digest\":\"" DA "\"}"),
		MANIFEST("{\"mediaType\":\"a\\u0000b\",\"digest\":\"" DA "\",\"size\":1}"),
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_image image = {.layer_count = 77};
		struct lm_err err = LM_ERR_INIT;
		if (parse(cases[i], &image, &err) != -EPROTO)
			fail_msg("accepted: %s", cases[i]);
		assert_int_equal(image.layer_count, 77);
		assert_true(err.msg[0] != '\0');
	}
}

static void layers_are_limited(void **state)
{
	for (int extra = 0; extra < 2; extra++) {
		CLEANUP(lm_buf_done) struct lm_buf json = LM_BUF(1 << 20);
		CLEANUP(lm_image_done) struct lm_image image = {0};
		assert_int_equal(lm_buf_str(&json, "{\"schemaVersion\":2,\"config\":" OCI_CONFIG ",\"layers\":["), 0);
		for (int i = 0; i < LM_IMAGE_LAYERS_MAX + extra; i++)
			assert_int_equal(lm_buf_printf(&json, "%s" LAYER(OCI_GZIP, DA, "1"), i ? "," : ""), 0);
		assert_int_equal(lm_buf_str(&json, "]}"), 0);
		assert_int_equal(parse(lm_buf_cstr(&json), &image, NULL), extra ? -EPROTO : 0);
	}
}

static void nesting_and_size_are_limited(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf json = LM_BUF(LM_MANIFEST_JSON_MAX + 100);
	struct lm_image image;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_buf_str(&json, "{\"x\":"), 0);
	for (int i = 0; i < 100; i++)
		assert_int_equal(lm_buf_str(&json, "["), 0);
	assert_int_equal(parse(lm_buf_cstr(&json), &image, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "levels"));

	lm_buf_clear(&json);
	assert_int_equal(lm_buf_str(&json, "{\"x\":[1"), 0);
	for (int i = 0; i < 300000; i++)
		assert_int_equal(lm_buf_str(&json, ",1"), 0);
	assert_int_equal(parse(lm_buf_cstr(&json), &image, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "values"));

	/* What stands in strings is no structure. */
	lm_buf_clear(&json);
	assert_int_equal(
		lm_buf_str(&json, "{\"schemaVersion\":2,\"config\":" OCI_CONFIG ",\"layers\":[],\"x\":\"\\\""), 0);
	for (int i = 0; i < 300000; i++)
		assert_int_equal(lm_buf_str(&json, "[,"), 0);
	assert_int_equal(lm_buf_str(&json, "\"}"), 0);
	assert_int_equal(parse(lm_buf_cstr(&json), &image, &err), 0);
	lm_image_done(&image);

	while (json.len <= LM_MANIFEST_JSON_MAX)
		assert_int_equal(lm_buf_str(&json, "                    "), 0);
	assert_int_equal(parse(lm_buf_cstr(&json), &image, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "larger"));
}

static void kinds(void **state)
{
	static const char image[] = MANIFEST("");
	static const char index[] = "{\"schemaVersion\":2,\"manifests\":[]}";
	static const char named_index[] =
		"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}";
	static const char schema1[] = "{\"schemaVersion\":1,\"fsLayers\":[],\"history\":[]}";
	static const struct {
		const char *json, *media_type;
		int r;
		bool is_index;
	} cases[] = {
		{image, NULL, 0, false},
		{image, "application/vnd.oci.image.manifest.v1+json", 0, false},
		{image, "application/vnd.oci.image.manifest.v1+json; charset=utf-8", 0, false},
		{image, "application/json", 0, false},
		{image, "text/plain; charset=utf-8", 0, false},
		{image, "application/vnd.oci.image.index.v1+json", -EPROTO, false},
		{image, "application/vnd.docker.distribution.manifest.v1+prettyjws", -EPROTO, false},
		{index, NULL, 0, true},
		{index, "Application/VND.docker.distribution.manifest.list.v2+JSON", 0, true},
		{index, "application/vnd.docker.distribution.manifest.v2+json", -EPROTO, false},
		{named_index, NULL, 0, true},
		{named_index, "application/vnd.oci.image.manifest.v1+json", -EPROTO, false},
		{schema1, "application/vnd.docker.distribution.manifest.v1+prettyjws", -EPROTO, false},
		{schema1, NULL, -EPROTO, false},
		{"{}", NULL, -EPROTO, false},
		{"{}", "application/vnd.oci.image.manifest.v1+json", -EPROTO, false},
		{"{\"mediaType\":\"application/x\",\"layers\":[]}", NULL, -EPROTO, false},
		{"{\"manifests\":[],\"layers\":[]}", NULL, -EPROTO, false},
		{"{\"manifests\":[],\"config\":{}}", "application/vnd.oci.image.index.v1+json", -EPROTO, false},
		{"nonsense", NULL, -EPROTO, false},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		bool is_index = !cases[i].is_index;
		int r = lm_manifest_kind(cases[i].json, strlen(cases[i].json), cases[i].media_type, &is_index, NULL);
		if (r != cases[i].r || (r == 0 && is_index != cases[i].is_index))
			fail_msg("case %zu: %d, %d", i, r, is_index);
	}
}

#define ENTRY(digest, platform)                                                                                       \
	"{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"" digest "\",\"size\":5" platform \
	"}"
#define PLATFORM(os, arch, more) ",\"platform\":{\"os\":\"" os "\",\"architecture\":\"" arch "\"" more "}"
#define INDEX(entries) "{\"schemaVersion\":2,\"manifests\":[" entries "]}"

static const char *choose(const char *json, const char *arch, const char *variant, struct lm_err *err)
{
	static char digest[LM_DIGEST_MAX];
	CLEANUP(lm_index_done) struct lm_index index = {0};
	const struct lm_platform platform = {"linux", arch, variant};
	const struct lm_descriptor *chosen;
	assert_int_equal(lm_index_parse(json, strlen(json), &index, err), 0);
	int r = lm_index_choose(&index, &platform, &chosen, err);
	if (r < 0) {
		assert_int_equal(r, -ENOENT);
		return "none";
	}
	strcpy(digest, chosen->digest);
	return digest;
}

static void platforms(void **state)
{
	static const char index[] = INDEX(ENTRY(DA, PLATFORM("linux", "amd64", "")) "," ENTRY(
		DB, PLATFORM("linux", "arm", ",\"variant\":\"v7\"")) "," ENTRY(DC, PLATFORM("unknown", "unknown", "")));
	struct lm_err err = LM_ERR_INIT;
	assert_string_equal(choose(index, "amd64", NULL, &err), DA);
	assert_string_equal(choose(index, "arm", NULL, &err), DB);
	assert_string_equal(choose(index, "arm", "v7", &err), DB);
	assert_string_equal(choose(index, "arm", "v6", &err), "none");
	assert_string_equal(choose(index, "arm64", NULL, &err), DB); /* which runs it, too */
	assert_string_equal(choose(index, "s390x", NULL, &err), "none");
	assert_string_equal(
		err.msg, "no image for platform linux/s390x (there are: linux/amd64, linux/arm/v7, unknown/unknown)");
	assert_string_equal(choose(INDEX(ENTRY(DA, "")), "arm64", NULL, &err), DA);
	assert_string_equal(choose(INDEX(ENTRY(DA, "") "," ENTRY(DB, "")), "arm64", NULL, &err), "none");
	assert_string_equal(choose(INDEX(""), "arm64", NULL, &err), "none");
	assert_string_equal(choose(INDEX(ENTRY(DA, PLATFORM("windows", "amd64", ""))), "amd64", NULL, &err), "none");
}

static int rank(const char *wanted, const char *offered)
{
	char text[2][64];
	struct lm_platform p[2];
	snprintf(text[0], sizeof(text[0]), "%s", wanted);
	snprintf(text[1], sizeof(text[1]), "%s", offered);
	for (size_t i = 0; i < 2; i++) {
		char *rest = text[i];
		p[i].os = "linux";
		p[i].architecture = strsep(&rest, "/");
		p[i].variant = rest;
	}
	return lm_platform_rank(&p[0], &p[1]);
}

/* As containerd's platforms.Only() orders them. */
static void ranks(void **state)
{
	static const struct {
		const char *wanted;
		const char *order[10]; /* the best first */
		const char *none[6];
	} cases[] = {
		{"amd64", {"amd64", "386"}, {"amd64/v2", "arm64", "arm"}},
		{"x86_64", {"amd64/v1", "i386"}, {"amd64/v3"}},
		{"amd64/v3", {"amd64/v3", "amd64/v2", "amd64", "386"}, {"amd64/v4", "amd64/vx"}},
		{"arm", {"arm/v7", "arm/v6", "arm/v5"}, {"arm/v8", "arm64", "arm/v4"}},
		{"arm/6", {"armel", "arm/v5"}, {"arm/v7", "arm"}},
		{"armhf", {"arm", "arm/v6"}, {"arm/v8"}},
		{"arm64", {"arm64/v8", "arm/v8", "arm/v7", "arm/v6", "arm/v5"}, {"arm64/v9", "amd64"}},
		{"aarch64/v9", {"arm64/v9", "arm64", "arm/v8", "arm"}, {"386"}},
		{"386", {"i386"}, {"amd64"}},
		{"riscv64", {"riscv64"}, {"riscv64/x", "amd64"}},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		int last = -1;
		for (size_t k = 0; cases[i].order[k]; k++) {
			int r = rank(cases[i].wanted, cases[i].order[k]);
			if (r <= last || (k == 0 && r != 0))
				fail_msg("%s for %s: %d after %d", cases[i].order[k], cases[i].wanted, r, last);
			last = r;
		}
		for (size_t k = 0; cases[i].none[k]; k++)
			if (rank(cases[i].wanted, cases[i].none[k]) >= 0)
				fail_msg("%s does not run %s", cases[i].wanted, cases[i].none[k]);
	}
	const struct lm_platform linux_ = {"linux", "amd64", NULL}, windows = {"windows", "amd64", NULL};
	assert_int_equal(lm_platform_rank(&linux_, &windows), -1);
}

static void index_fields(void **state)
{
	CLEANUP(lm_index_done) struct lm_index index = {0};
	static const char json[] =
		INDEX(ENTRY(DA, ",\"annotations\":{\"org.opencontainers.image.ref.name\":\"latest\",\"other\":\"x\"}"));
	assert_int_equal(lm_index_parse(json, strlen(json), &index, NULL), 0);
	assert_int_equal(index.count, 1);
	assert_string_equal(index.items[0].ref_name, "latest");
	assert_string_equal(index.items[0].digest, DA);
	assert_int_equal(index.items[0].size, 5);
	assert_null(index.items[0].os);
}

static void forged_indexes(void **state)
{
	static const char *const cases[] = {
		"{}",
		"{\"schemaVersion\":2}",
		"{\"schemaVersion\":3,\"manifests\":[]}",
		"{\"schemaVersion\":2,\"manifests\":null}",
		INDEX("7"),
		INDEX("{}"),
		INDEX(ENTRY("sha256:aa", "")),
		INDEX(ENTRY(DA, ",\"size\":6")),
		INDEX(ENTRY(DA, ",\"platform\":7")),
		INDEX(ENTRY(DA, ",\"platform\":{\"os\":7}")),
		INDEX(ENTRY(DA, PLATFORM("li\\nnux", "amd64", ""))),
		INDEX(ENTRY(DA, ",\"annotations\":[]")),
		INDEX(ENTRY(DA, ",\"annotations\":{\"org.opencontainers.image.ref.name\":{}}")),
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_index index = {.count = 77};
		if (lm_index_parse(cases[i], strlen(cases[i]), &index, NULL) != -EPROTO)
			fail_msg("accepted: %s", cases[i]);
		assert_int_equal(index.count, 77);
	}
}

#define CONFIG(ids)                                                                                         \
	"{\"created\":\"2024-01-02T03:04:05.678901234+01:00\",\"os\":\"linux\",\"architecture\":\"arm64\"," \
	"\"variant\":\"v8\","                                                                               \
	"\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[" ids "]},\"config\":{\"Env\":[\"A=b\"]}}"

static void two_layers(struct lm_image *image)
{
	assert_int_equal(parse(MANIFEST(LAYER(OCI_GZIP, DA, "1") "," LAYER(OCI_GZIP, DB, "2")), image, NULL), 0);
}

static void config(void **state)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	static const char json[] = CONFIG("\"" DA "\",\"" DB "\"");
	char chain[LM_DIGEST_MAX];
	two_layers(&image);
	assert_int_equal(lm_image_parse_config(&image, json, strlen(json), NULL), 0);
	assert_string_equal(image.created, "2024-01-02T03:04:05.678901234+01:00");
	assert_string_equal(image.os, "linux");
	assert_string_equal(image.architecture, "arm64");
	assert_string_equal(image.variant, "v8");
	assert_string_equal(image.layers[0].diff_id, DA);
	assert_string_equal(image.layers[1].diff_id, DB);
	assert_string_equal(image.layers[0].chain_id, DA);
	assert_int_equal(lm_digest_data(DA " " DB, strlen(DA " " DB), chain, NULL), 0);
	assert_string_equal(image.layers[1].chain_id, chain);
}

static void forged_configs(void **state)
{
	static const char *const cases[] = {
		"",
		"{}",
		"{\"rootfs\":{}}",
		"{\"rootfs\":{\"type\":\"layers\"}}",
		"{\"rootfs\":{\"type\":\"other\",\"diff_ids\":[\"" DA "\",\"" DB "\"]}}",
		"{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" DA "\",\"" DB "\"]},\"created\":\"yesterday\"}",
		"{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" DA "\",\"" DB "\"]},\"created\":5}",
		"{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" DA "\",\"" DB "\"]},\"os\":[]}",
		CONFIG(""),
		CONFIG("\"" DA "\""),
		CONFIG("\"" DA "\",\"" DB "\",\"" DC "\""),
		CONFIG("\"" DA "\",7"),
		CONFIG("\"" DA "\",\"md5:aa\""),
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_image_done) struct lm_image image = {0};
		two_layers(&image);
		if (lm_image_parse_config(&image, cases[i], strlen(cases[i]), NULL) != -EPROTO)
			fail_msg("accepted: %s", cases[i]);
		assert_string_equal(image.layers[0].diff_id, "");
		assert_null(image.os);
	}
}

static void times(void **state)
{
	static const struct {
		const char *text;
		bool good;
	} cases[] = {
		{"2024-01-02T03:04:05Z", true},
		{"0001-01-01T00:00:00Z", true},
		{"2024-01-02T03:04:05.1Z", true},
		{"2024-01-02T03:04:05-11:30", true},
		{"2024-01-02T03:04:05", false},
		{"2024-01-02T03:04:05.Z", false},
		{"2024-01-02 03:04:05Z", false},
		{"2024-01-02T03:04:05Zx", false},
		{"2024-01-02T03:04:05+1:00", false},
		{"2024-01-02T03:04:05+01:00x", false},
		{"", false},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_image_done) struct lm_image image = {0};
		CLEANUP(lm_freep)
		char *json = lm_str_printf(
			"{\"created\":\"%s\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}", cases[i].text);
		assert_int_equal(parse(MANIFEST(""), &image, NULL), 0);
		if (lm_image_parse_config(&image, json, strlen(json), NULL) != (cases[i].good ? 0 : -EPROTO))
			fail_msg("%s", cases[i].text);
	}
}

/* FIPS 180-2: the digest of "abc" and of a million times "a". */
static void sha256_vectors(void **state)
{
	CLEANUP(lm_digester_freep) struct lm_digester *digester = NULL;
	char digest[LM_DIGEST_MAX];
	assert_int_equal(lm_digest_data("abc", 3, digest, NULL), 0);
	assert_string_equal(digest, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_int_equal(lm_digest_data(NULL, 0, digest, NULL), 0);
	assert_string_equal(digest, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	assert_int_equal(lm_digester_new(&digester, NULL), 0);
	for (int i = 0; i < 100000; i++)
		assert_int_equal(lm_digester_update(digester, "aaaaaaaaaa", 10, NULL), 0);
	assert_int_equal(lm_digester_finish(digester, digest, NULL), 0);
	assert_string_equal(digest, "sha256:cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void host_platform(void **state)
{
	struct lm_platform platform = lm_platform_host();
	assert_string_equal(platform.os, "linux");
	assert_string_not_equal(platform.architecture, "unknown");
	assert_null(platform.variant);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(manifest),
		cmocka_unit_test(docker_manifest),
		cmocka_unit_test(compressions),
		cmocka_unit_test(stargz),
		cmocka_unit_test(forged_manifests),
		cmocka_unit_test(layers_are_limited),
		cmocka_unit_test(nesting_and_size_are_limited),
		cmocka_unit_test(kinds),
		cmocka_unit_test(platforms),
		cmocka_unit_test(ranks),
		cmocka_unit_test(index_fields),
		cmocka_unit_test(forged_indexes),
		cmocka_unit_test(config),
		cmocka_unit_test(forged_configs),
		cmocka_unit_test(times),
		cmocka_unit_test(sha256_vectors),
		cmocka_unit_test(host_platform),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
