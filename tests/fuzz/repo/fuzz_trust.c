/*
 * A manifest, the certificate object and the whitelist that a server gives for it, and a blacklist: parts of the input,
 * between lines "====", in this order. Nothing is signed by the key that is asked for, so nothing may be trusted.
 */
#include "repo/trust.h"

#include "base/str.h"

#include <assert.h>

static const char fqrn[] = "fixture.cern.ch";
static struct lm_key *master;

struct part {
	const char *text;
	size_t len;
};
enum { MANIFEST, CERTIFICATE, WHITELIST, BLACKLIST, PARTS };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void make_key(void)
{
	if (!master && lm_key_generate(LM_KEY_BITS_MIN, &master, NULL) < 0)
		abort();
}

static void split(const uint8_t *data, size_t size, struct part parts[PARTS])
{
	static const char line[] = "====\n";
	for (size_t i = 0; i < PARTS; i++) {
		const uint8_t *end = size && i < PARTS - 1 ? memmem(data, size, line, sizeof(line) - 1) : NULL;
		size_t len = end ? (size_t)(end - data) : size;
		parts[i] = (struct part){.text = (const char *)data, .len = len};
		size_t skip = end ? len + sizeof(line) - 1 : len;
		data += skip;
		size -= skip;
	}
}

static int fetch(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err)
{
	const struct part *part = (const struct part *)arg + (certificate->set ? CERTIFICATE : WHITELIST);
	int r = lm_buf_append(ret, part->text, part->len);
	return r < 0 ? lm_err_set(err, -EPROTO, "too long") : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct part parts[PARTS];
	struct lm_manifest manifest;
	struct lm_err err = LM_ERR_INIT;
	if (size == 0)
		return 0;
	make_key();
	split(data, size, parts);
	CLEANUP(lm_freep) char *blacklist = lm_str_ndup(parts[BLACKLIST].text, parts[BLACKLIST].len);
	if (!blacklist)
		abort();
	struct lm_manifest known = {.certificate = {.bytes = {1}, .set = true}, .revision = 2};
	struct lm_trust trust = {
		.fqrn = fqrn, .keys = &master, .key_count = 1, .now_s = 1800000000, .blacklist = blacklist};
	int r = lm_trust_manifest(&trust, parts[MANIFEST].text, parts[MANIFEST].len, fetch, parts, &manifest, &err);
	assert(r < 0 && err.msg[0]);
	r = lm_trust_revision(&trust, known.revision, &err);
	assert(r == 0 || r == -EKEYREJECTED || r == -EPROTO);
	if (lm_manifest_parse(parts[MANIFEST].text, parts[MANIFEST].len, &known, NULL) < 0)
		return 0;
	trust.known = &known;
	r = lm_trust_again(&trust, &known, fetch, parts, &err);
	int again = lm_trust_manifest(&trust, parts[MANIFEST].text, parts[MANIFEST].len, fetch, parts, &manifest, &err);
	/* The known catalog is taken without its signatures, if the blacklist lets it. */
	assert(again < 0 || (known.certificate.set && r == 0));
	return 0;
}
