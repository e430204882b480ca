#include "repo/images.h"

#include "base/str.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SHA256 "sha256:"
#define TARGET_TOP "../../../" LM_IMAGES_LAYERS "/"

enum { HEX = 64, HALF = 16 };

static int update(EVP_MD_CTX *ctx, const char *digest)
{
	return EVP_DigestUpdate(ctx, digest, strlen(digest)) && EVP_DigestUpdate(ctx, "\n", 1);
}

int lm_images_chain(const char *const *digests, size_t count, struct lm_chain_hex *ret, struct lm_err *err)
{
	uint8_t bytes[EVP_MAX_MD_SIZE];
	unsigned len = 0;
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	if (!ctx)
		return lm_err_oom(err);
	int good = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);
	for (size_t i = 0; i < count && good; i++)
		good = update(ctx, digests[i]);
	good = good && EVP_DigestFinal_ex(ctx, bytes, &len);
	EVP_MD_CTX_free(ctx);
	if (!good || 2 * len >= sizeof(ret->s))
		return lm_err_set(err, -ENOMEM, "OpenSSL's SHA-256 failed");
	lm_hex_format(bytes, len, ret->s);
	return 0;
}

static_assert(sizeof(LM_IMAGES_ROW) + LM_IMAGES_ROW_MAX * (HALF + 1) <= sizeof(struct lm_images_row), "does not fit");

struct lm_images_row lm_images_row(const int64_t *halves, size_t count)
{
	struct lm_images_row name = {LM_IMAGES_ROW};
	char *at = name.s + strlen(LM_IMAGES_ROW);
	for (size_t i = 0; i < count; i++)
		at += sprintf(at, "%s%016" PRIx64, i ? "." : "", (uint64_t)halves[i]);
	return name;
}

static int half_parse(const char *digits, int64_t *ret)
{
	uint8_t bytes[HALF / 2];
	uint64_t half = 0;
	if (strnlen(digits, HALF) < HALF || lm_hex_parse(digits, bytes, sizeof(bytes)) < 0)
		return -EINVAL;
	for (size_t i = 0; i < sizeof(bytes); i++)
		half = half << 8 | bytes[i];
	*ret = (int64_t)half;
	return 0;
}

size_t lm_images_row_parse(const char *name, int64_t ret[LM_IMAGES_ROW_MAX])
{
	const char *at = name + strlen(LM_IMAGES_ROW);
	if (!lm_str_starts(name, LM_IMAGES_ROW))
		return 0;
	for (size_t count = 0; count < LM_IMAGES_ROW_MAX; at++) {
		if (half_parse(at, &ret[count++]) < 0)
			return 0;
		at += HALF;
		if (*at != '.')
			return *at ? 0 : count;
	}
	return 0;
}

bool lm_images_digest_parse(const char *text, struct lm_images_digest *ret)
{
	uint8_t bytes[HEX / 2];
	if (strnlen(text, sizeof(ret->s)) != sizeof(ret->s) - 1 || !lm_str_starts(text, SHA256) ||
		lm_hex_parse(text + strlen(SHA256), bytes, sizeof(bytes)) < 0)
		return false;
	if (ret)
		memcpy(ret->s, text, sizeof(ret->s));
	return true;
}

struct lm_images_path lm_images_entry(enum lm_images_index index, const char *id)
{
	const char *hex = id + strlen(SHA256);
	struct lm_images_path path;
	snprintf(path.s, sizeof(path.s), "/" LM_IMAGES_OURS "/%s/%.2s/%.64s",
		index == LM_IMAGES_BY_CHAIN ? LM_IMAGES_CHAINS : LM_IMAGES_DIFFS, hex, hex);
	return path;
}

struct lm_images_path lm_images_entry_target(const char *layer)
{
	const char *hex = layer + strlen(SHA256);
	struct lm_images_path target;
	snprintf(target.s, sizeof(target.s), TARGET_TOP "%.2s/%.64s", hex, hex);
	return target;
}

int lm_images_entry_parse(const char *target, struct lm_images_digest *ret, struct lm_err *err)
{
	struct lm_images_digest layer;
	if (lm_str_starts(target, TARGET_TOP)) {
		const char *folder = target + strlen(TARGET_TOP);
		snprintf(layer.s, sizeof(layer.s), SHA256 "%s", strnlen(folder, 3) == 3 ? folder + 3 : "");
		/* Only what is written as we write it. */
		if (lm_images_digest_parse(layer.s, NULL) && strcmp(lm_images_entry_target(layer.s).s, target) == 0) {
			*ret = layer;
			return 0;
		}
	}
	return lm_err_set(err, -EPROTO, "'%.200s' is no link to a layer", target);
}
