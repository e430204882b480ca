#include "repo/hash.h"

#include "base/str.h"

#include <openssl/evp.h>

static const struct {
	const char *name; /* as OpenSSL knows it */
	const char *tag;
} algos[] = {
	[LM_HASH_SHA1] = {"SHA1", ""},
	[LM_HASH_RMD160] = {"RIPEMD160", "-rmd160"},
	[LM_HASH_SHAKE128] = {"SHAKE128", "-shake128"},
};

enum { HEX_LEN = 2 * LM_HASH_BYTES, READ_PIECE = 64 << 10 };

static const char *tag_of(unsigned algo)
{
	return algo < ARRAY_LEN(algos) ? algos[algo].tag : "-unknown";
}

int lm_hash_parse(const char *text, size_t len, struct lm_hash *ret, struct lm_err *err)
{
	struct lm_hash hash = {.set = true};
	if (len < HEX_LEN || lm_hex_parse(text, hash.bytes, LM_HASH_BYTES) < 0)
		return lm_err_set(err, -EPROTO, "not a hash: no %d lower-case hexadecimal digits", HEX_LEN);
	for (unsigned i = 0; i < ARRAY_LEN(algos); i++) {
		const char *tag = algos[i].tag;
		if (strlen(tag) != len - HEX_LEN || memcmp(text + HEX_LEN, tag, strlen(tag)) != 0)
			continue;
		hash.algo = (uint8_t)i;
		*ret = hash;
		return 0;
	}
	return lm_err_set(err, -EPROTO, "not a hash: unknown algorithm tag after %d digits", HEX_LEN);
}

const char *lm_hash_format(const struct lm_hash *hash, char ret[LM_HASH_TEXT_MAX])
{
	lm_hex_format(hash->bytes, LM_HASH_BYTES, ret);
	strcpy(ret + HEX_LEN, tag_of(hash->algo));
	return ret;
}

struct lm_hash_text lm_hash_text(const struct lm_hash *hash)
{
	struct lm_hash_text text;
	lm_hash_format(hash, text.s);
	return text;
}

int lm_hash_cmp(const struct lm_hash *a, const struct lm_hash *b)
{
	if (a->set != b->set)
		return a->set ? 1 : -1;
	if (a->algo != b->algo)
		return a->algo < b->algo ? -1 : 1;
	return memcmp(a->bytes, b->bytes, LM_HASH_BYTES);
}

bool lm_hash_equal(const struct lm_hash *a, const struct lm_hash *b)
{
	return lm_hash_cmp(a, b) == 0;
}

struct lm_hasher {
	EVP_MD *md;
	EVP_MD_CTX *ctx;
	uint8_t algo;
	bool failed; /* no hash comes out: an unset one, which equals no object's */
};

int lm_hasher_new(enum lm_hash_algo algo, struct lm_hasher **ret, struct lm_err *err)
{
	if ((unsigned)algo >= ARRAY_LEN(algos))
		return lm_err_set(err, -EPROTO, "unknown hash algorithm %u", (unsigned)algo);
	CLEANUP(lm_hasher_freep) struct lm_hasher *hasher = calloc(1, sizeof(*hasher));
	if (!hasher)
		return lm_err_oom(err);
	hasher->algo = (uint8_t)algo;
	hasher->md = EVP_MD_fetch(NULL, algos[algo].name, NULL);
	if (!hasher->md)
		return lm_err_set(err, -EOPNOTSUPP, "this OpenSSL offers no %s", algos[algo].name);
	hasher->ctx = EVP_MD_CTX_new();
	if (!hasher->ctx || !EVP_DigestInit_ex2(hasher->ctx, hasher->md, NULL))
		return lm_err_oom(err);
	*ret = STEAL(hasher);
	return 0;
}

void lm_hasher_free(struct lm_hasher *hasher)
{
	if (!hasher)
		return;
	EVP_MD_CTX_free(hasher->ctx);
	EVP_MD_free(hasher->md);
	free(hasher);
}

void lm_hasher_restart(struct lm_hasher *hasher)
{
	hasher->failed = !EVP_DigestInit_ex2(hasher->ctx, NULL, NULL);
}

void lm_hasher_update(struct lm_hasher *hasher, const void *data, size_t len)
{
	/* OpenSSL 3.0 crashes where its own restart failed for want of memory. */
	hasher->failed = hasher->failed || !EVP_DigestUpdate(hasher->ctx, data, len);
}

void lm_hasher_finish(struct lm_hasher *hasher, struct lm_hash *ret)
{
	struct lm_hash hash = {.algo = hasher->algo, .set = true};
	if (!hasher->failed)
		hasher->failed = hasher->algo == LM_HASH_SHAKE128
					 ? !EVP_DigestFinalXOF(hasher->ctx, hash.bytes, LM_HASH_BYTES)
					 : !EVP_DigestFinal_ex(hasher->ctx, hash.bytes, NULL);
	*ret = hasher->failed ? (struct lm_hash){0} : hash;
}

int lm_hash_data(enum lm_hash_algo algo, const void *data, size_t len, struct lm_hash *ret, struct lm_err *err)
{
	CLEANUP(lm_hasher_freep) struct lm_hasher *hasher = NULL;
	int r = lm_hasher_new(algo, &hasher, err);
	if (r < 0)
		return r;
	struct lm_hash hash;
	lm_hasher_update(hasher, data, len);
	lm_hasher_finish(hasher, &hash);
	if (!hash.set)
		return lm_err_set(err, -EIO, "the cryptographic library failed to hash");
	*ret = hash;
	return 0;
}

int lm_hash_fd(enum lm_hash_algo algo, int fd, struct lm_hash *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) uint8_t *piece = malloc(READ_PIECE);
	CLEANUP(lm_hasher_freep) struct lm_hasher *hasher = NULL;
	int r = piece ? lm_hasher_new(algo, &hasher, err) : lm_err_oom(err);
	if (r < 0)
		return r;
	off_t at = 0;
	ssize_t n;
	while ((n = TEMP_FAILURE_RETRY(pread(fd, piece, READ_PIECE, at))) > 0) {
		lm_hasher_update(hasher, piece, (size_t)n);
		at += n;
	}
	if (n < 0)
		return lm_err_sys(err, -errno, "read");
	struct lm_hash hash;
	lm_hasher_finish(hasher, &hash);
	if (!hash.set)
		return lm_err_set(err, -EIO, "the cryptographic library failed to hash");
	*ret = hash;
	return 0;
}
