#include "repo/images.h"

#include "base/str.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SHA256 "sha256:"
#define TARGET_TOP "../../../" LM_IMAGES_LAYERS "/"

enum { HEX = 64 };

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

struct lm_images_file lm_images_file(struct lm_path_hash path)
{
	struct lm_images_file name;
	snprintf(name.s, sizeof(name.s), LM_IMAGES_FILE "%016" PRIx64, (uint64_t)path.a);
	return name;
}

bool lm_images_file_parse(const char *name, int64_t *ret)
{
	uint8_t bytes[sizeof(uint64_t)];
	uint64_t half = 0;
	if (!lm_str_starts(name, LM_IMAGES_FILE) || strlen(name) != sizeof(struct lm_images_file) - 1 ||
		lm_hex_parse(name + strlen(LM_IMAGES_FILE), bytes, sizeof(bytes)) < 0)
		return false;
	for (size_t i = 0; i < sizeof(bytes); i++)
		half = half << 8 | bytes[i];
	*ret = (int64_t)half;
	return true;
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
