#include "repo/hash.h"
#include "repo/pathhash.h"
#include "repo_test.h"

#include <stdint.h>

/* FIPS 180 and 202 examples, the RIPEMD-160 authors' page; SHAKE128 cut to 160 bits. */
static const struct {
	enum lm_hash_algo algo;
	const char *data, *text;
} vectors[] = {
	{LM_HASH_SHA1, "", "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
	{LM_HASH_SHA1, "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"},
	{LM_HASH_SHA1, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
		"84983e441c3bd26ebaae4aa1f95129e5e54670f1"},
	{LM_HASH_RMD160, "", "9c1185a5c5e9fc54612808977ee8f548b2258d31-rmd160"},
	{LM_HASH_RMD160, "abc", "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc-rmd160"},
	{LM_HASH_RMD160, "message digest", "5d0689ef49d2fae572b881b123a85ffa21595f36-rmd160"},
	{LM_HASH_SHAKE128, "", "7f9c2ba4e88f827d616045507605853ed73b8093-shake128"},
	{LM_HASH_SHAKE128, "abc", "5881092dd818bf5cf8a3ddb793fbcba74097d5c5-shake128"},
};

static void test_vectors(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(vectors); i++) {
		struct lm_err err = LM_ERR_INIT;
		struct lm_hash hash;
		assert_ok(lm_hash_data(vectors[i].algo, vectors[i].data, strlen(vectors[i].data), &hash, &err), &err);
		assert_string_equal(lm_hash_text(&hash).s, vectors[i].text);
	}
}

static void test_streaming(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(vectors); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_hasher_freep) struct lm_hasher *hasher = NULL;
		assert_ok(lm_hasher_new(vectors[i].algo, &hasher, &err), &err);
		for (unsigned again = 0; again < 3; again++) {
			struct lm_hash hash;
			for (const char *at = vectors[i].data; *at; at++)
				lm_hasher_update(hasher, at, 1);
			lm_hasher_finish(hasher, &hash);
			assert_string_equal(lm_hash_text(&hash).s, vectors[i].text);
			lm_hasher_restart(hasher);
		}
	}
}

static void test_unknown_algorithm(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_hash hash;
	assert_int_equal(lm_hash_data(3, "", 0, &hash, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "algorithm 3"));
}

static void test_text_round_trip(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(vectors); i++) {
		struct lm_hash hash, other = {0};
		assert_int_equal(lm_hash_parse(vectors[i].text, strlen(vectors[i].text), &hash, NULL), 0);
		assert_true(hash.set);
		assert_int_equal(hash.algo, vectors[i].algo);
		assert_string_equal(lm_hash_text(&hash).s, vectors[i].text);
		assert_true(lm_hash_equal(&hash, &hash));
		assert_false(lm_hash_equal(&hash, &other));
		assert_true(lm_hash_equal(&other, &(struct lm_hash){0}));
		other = hash;
		other.algo ^= 1;
		assert_false(lm_hash_equal(&hash, &other));
		assert_int_equal(lm_hash_cmp(&hash, &other), -lm_hash_cmp(&other, &hash));
	}
}

static void test_text_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"da39a3ee5e6b4b0d3255bfef95601890afd8070",
		"da39a3ee5e6b4b0d3255bfef95601890afd807090",
		"DA39A3EE5E6B4B0D3255BFEF95601890AFD80709",
		"da39a3ee5e6b4b0d3255bfef95601890afd8070g",
		"da39a3ee5e6b4b0d3255bfef95601890afd80709C",
		"da39a3ee5e6b4b0d3255bfef95601890afd80709-",
		"da39a3ee5e6b4b0d3255bfef95601890afd80709-rmd16",
		"da39a3ee5e6b4b0d3255bfef95601890afd80709-RMD160",
		"da39a3ee5e6b4b0d3255bfef95601890afd80709-shake128P",
		"d41d8cd98f00b204e9800998ecf8427e",
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct lm_err err = LM_ERR_INIT;
		struct lm_hash hash = {.algo = 77};
		assert_int_equal(lm_hash_parse(bad[i], strlen(bad[i]), &hash, &err), -EPROTO);
		assert_int_equal(hash.algo, 77);
		assert_string_not_equal(err.msg, "");
	}
}

static void assert_path_hash(const char *path, size_t len, const char *hex)
{
	struct lm_path_hash hash = lm_path_hash(path, len);
	uint8_t bytes[16];
	char text[33];
	for (unsigned i = 0; i < 8; i++) {
		bytes[i] = (uint8_t)((uint64_t)hash.a >> 8 * i);
		bytes[8 + i] = (uint8_t)((uint64_t)hash.b >> 8 * i);
	}
	lm_hex_format(bytes, sizeof(bytes), text);
	assert_string_equal(text, hex);
}

/* The test suite of RFC 1321, and lengths around the ends of blocks. */
static void test_path_hash(void **state)
{
	static const char *const rfc[][2] = {
		{"", "d41d8cd98f00b204e9800998ecf8427e"},
		{"a", "0cc175b9c0f1b6a831c399e269772661"},
		{"abc", "900150983cd24fb0d6963f7d28e17f72"},
		{"message digest", "f96b697d7cb7938d525a2f31aaf161d0"},
		{"abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"},
		{"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", "d174ab98d277d9f5a5611c2c9f419d9f"},
		{"12345678901234567890123456789012345678901234567890123456789012345678901234567890",
			"57edf4a22be3c955ac49da2e2107b67a"},
	};
	for (size_t i = 0; i < ARRAY_LEN(rfc); i++)
		assert_path_hash(rfc[i][0], strlen(rfc[i][0]), rfc[i][1]);
	static const struct {
		size_t len;
		const char *hex;
	} lengths[] = {
		{55, "ef1772b6dff9a122358552954ad0df65"},
		{56, "3b0c8ac703f828b04c6c197006d17218"},
		{57, "652b906d60af96844ebd21b674f35e93"},
		{63, "b06521f39153d618550606be297466d5"},
		{64, "014842d480b571495a4a0363793f7367"},
		{65, "c743a45e0d2e6a95cb859adae0248435"},
		{119, "8a7bd0732ed6a28ce75f6dabc90e1613"},
		{120, "5f61c0ccad4cac44c75ff505e1f1e537"},
		{1000, "cabe45dcc9ae5b66ba86600cca6b8ba8"},
	};
	char many[1000];
	memset(many, 'a', sizeof(many));
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++)
		assert_path_hash(many, lengths[i].len, lengths[i].hex);
	struct lm_path_hash root = lm_path_hash("", 0);
	assert_true(lm_path_hash_equal(root, (struct lm_path_hash){338333539836370388, 9098107892288553193}));
	assert_false(lm_path_hash_equal(root, lm_path_hash("/", 1)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_streaming),
		cmocka_unit_test(test_unknown_algorithm),
		cmocka_unit_test(test_text_round_trip),
		cmocka_unit_test(test_text_refused),
		cmocka_unit_test(test_path_hash),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
