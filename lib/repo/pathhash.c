#include "repo/pathhash.h"

#include <string.h>

/*
 * MD5 (RFC 1321) is written out here, not taken from OpenSSL: a path hash is computed for every look-up and cannot
 * fail, while EVP allocates, may run without memory, and has no MD5 at all under a FIPS provider. It names rows;
 * nothing of it is trusted.
 */

struct md5 {
	uint32_t a, b, c, d;
};

enum { BLOCK = 64, LENGTH_AT = 56 };

static const uint32_t sines[64] = {0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613,
	0xfd469501, 0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
	0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8, 0x21e1cde6,
	0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a, 0xfffa3942, 0x8771f681,
	0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70, 0x289b7ec6, 0xeaa127fa, 0xd4ef3085,
	0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665, 0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039,
	0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1, 0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82,
	0xbd3af235, 0x2ad7d2bb, 0xeb86d391};

static uint32_t load32(const uint8_t *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* The functions of the four rounds. */
static inline uint32_t f1(uint32_t x, uint32_t y, uint32_t z)
{
	return z ^ (x & (y ^ z));
}
static inline uint32_t f2(uint32_t x, uint32_t y, uint32_t z)
{
	return y ^ (z & (x ^ y));
}
static inline uint32_t f3(uint32_t x, uint32_t y, uint32_t z)
{
	return x ^ y ^ z;
}
static inline uint32_t f4(uint32_t x, uint32_t y, uint32_t z)
{
	return y ^ (x | ~z);
}

static inline uint32_t step(uint32_t a, uint32_t b, uint32_t f, uint32_t word, unsigned i, unsigned turn)
{
	uint32_t sum = a + f + word + sines[i];
	return b + (sum << turn | sum >> (32 - turn));
}

/* Sixteen steps from number `first`, which take the block's words in strides; four per turn, after which a, b, c, d are
 * in their places again. */
#define ROUND(f, first, word_first, stride, turn1, turn2, turn3, turn4)                             \
	for (unsigned i = (first), w = (word_first); i < (first) + 16; i += 4, w += 4 * (stride)) { \
		a = step(a, b, f(b, c, d), words[w % 16], i, turn1);                                \
		d = step(d, a, f(a, b, c), words[(w + (stride)) % 16], i + 1, turn2);               \
		c = step(c, d, f(d, a, b), words[(w + 2 * (stride)) % 16], i + 2, turn3);           \
		b = step(b, c, f(c, d, a), words[(w + 3 * (stride)) % 16], i + 3, turn4);           \
	}

static void md5_block(struct md5 *state, const uint8_t *block)
{
	uint32_t a = state->a, b = state->b, c = state->c, d = state->d;
	uint32_t words[BLOCK / 4];
	for (unsigned i = 0; i < BLOCK / 4; i++)
		words[i] = load32(block + 4 * i);
	ROUND(f1, 0, 0, 1, 7, 12, 17, 22);
	ROUND(f2, 16, 1, 5, 5, 9, 14, 20);
	ROUND(f3, 32, 5, 3, 4, 11, 16, 23);
	ROUND(f4, 48, 0, 7, 6, 10, 15, 21);
	state->a += a;
	state->b += b;
	state->c += c;
	state->d += d;
}

static int64_t half(uint32_t low, uint32_t high)
{
	return (int64_t)((uint64_t)high << 32 | low);
}

struct lm_path_hash lm_path_hash(const char *path, size_t len)
{
	struct md5 state = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
	const uint8_t *at = (const uint8_t *)path;
	size_t left = len;
	for (; left >= BLOCK; at += BLOCK, left -= BLOCK)
		md5_block(&state, at);

	/* The tail: what is left, one set bit, zeros, the length in bits. */
	uint8_t tail[2 * BLOCK] = {0};
	if (left > 0)
		memcpy(tail, at, left);
	tail[left] = 0x80;
	size_t end = left < LENGTH_AT ? BLOCK : 2 * BLOCK;
	for (unsigned i = 0; i < 8; i++)
		tail[end - 8 + i] = (uint8_t)((uint64_t)len * 8 >> 8 * i);
	for (size_t done = 0; done < end; done += BLOCK)
		md5_block(&state, tail + done);
	return (struct lm_path_hash){half(state.a, state.b), half(state.c, state.d)};
}
