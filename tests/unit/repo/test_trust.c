#include "repo/object.h"
#include "repo/trust.h"
#include "repo_test.h"

/*
 * First the stock fixtures: every verdict of VERDICTS.txt. Then a repository made here, for what no fixture shows.
 */

enum { NOW = 1795400000, KEY_BITS = 2048 };
#define FQRN "fixture.cern.ch"

/* Where certificate object and whitelist come from in a test. */
struct server {
	struct lm_buf whitelist, certificate;
	int certificate_code, whitelist_code;
	unsigned calls;
};

static int fetch(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err)
{
	struct server *server = arg;
	server->calls++;
	int code = certificate->set ? server->certificate_code : server->whitelist_code;
	const struct lm_buf *from = certificate->set ? &server->certificate : &server->whitelist;
	if (code < 0)
		return lm_err_set(err, code, "the server is away");
	int r = lm_buf_append(ret, from->data, from->len);
	return r < 0 ? lm_err_sys(err, r, "fetch") : 0;
}

static void server_done(struct server *server)
{
	lm_buf_done(&server->whitelist);
	lm_buf_done(&server->certificate);
}

static char *dir; /* with unpacked fixtures */

static void parse_public_fixture(const char *name, struct lm_key **ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf pem = {0};
	read_fixture(name, &pem);
	assert_ok(lm_key_parse_public(lm_buf_cstr(&pem), pem.len, ret, &err), &err);
}

/* The unpacked repository's own whitelist and certificate. */
static void serve_repository(struct server *server, const char *fqrn, const struct lm_hash *certificate)
{
	char object[LM_OBJECT_PATH_MAX];
	CLEANUP(lm_freep) char *whitelist = lm_str_printf("%s/%s/" LM_WHITELIST_NAME, dir, fqrn);
	CLEANUP(lm_freep)
	char *path = lm_str_printf("%s/%s/%s", dir, fqrn, lm_object_path(certificate, LM_OBJECT_CERTIFICATE, object));
	server_done(server);
	read_whole(whitelist, &server->whitelist);
	read_whole(path, &server->certificate);
}

static void read_manifest(const char *fqrn, struct lm_buf *ret)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s/" LM_MANIFEST_NAME, dir, fqrn);
	read_whole(path, ret);
}

static void check_repository(const char *fqrn)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest m, trusted;
	CLEANUP(server_done) struct server server = {0};
	CLEANUP(lm_key_freep) struct lm_key *key = NULL;
	CLEANUP(lm_freep) char *key_name = lm_str_printf("keys/%s.pub", fqrn);
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	unpack_fixture(fqrn, dir);
	parse_public_fixture(key_name, &key);
	read_manifest(fqrn, &text);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, &m, &err), &err);
	serve_repository(&server, fqrn, &m.certificate);
	struct lm_trust trust = {.fqrn = fqrn, .keys = &key, .key_count = 1, .now_s = NOW};
	assert_ok(lm_trust_manifest(&trust, lm_buf_cstr(&text), text.len, fetch, &server, &trusted, &err), &err);
	assert_string_equal(trusted.fqrn, fqrn);
	assert_int_equal(server.calls, 2);

	/* Any bit of the manifest changed, and it is trusted no more. */
	for (size_t at = 0; at < text.len; at += 7) {
		text.data[at] ^= 1;
		assert_true(
			lm_trust_manifest(&trust, lm_buf_cstr(&text), text.len, fetch, &server, &trusted, &err) < 0);
		text.data[at] ^= 1;
	}
	/* The same for the whitelist, and for the certificate. */
	struct lm_buf *others[] = {&server.whitelist, &server.certificate};
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		/* Also where nothing is looked at, as in the creation date: all of it is signed. */
		for (size_t at = 0; at < others[i]->len; at += 5) {
			others[i]->data[at] ^= 1;
			assert_true(lm_trust_manifest(
					    &trust, lm_buf_cstr(&text), text.len, fetch, &server, &trusted, &err) < 0);
			others[i]->data[at] ^= 1;
		}
	}
	assert_ok(lm_trust_manifest(&trust, lm_buf_cstr(&text), text.len, fetch, &server, &trusted, &err), &err);
}

static void test_all_fixtures(void **state)
{
	static const char *const names[] = {"fixture.cern.ch", "rmd160.fixture.cern.ch", "shake128.fixture.cern.ch",
		"plain.fixture.cern.ch", "options.fixture.cern.ch", "unpacked.fixture.cern.ch"};
	if (!dir)
		skip();
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		check_repository(names[i]);
}

/* How each alternate file ends here; 0 is trusted. */
static const struct verdict {
	const char *file;
	int code;
	const char *message;
} verdicts[] = {
	{"whitelist.good", 0, ""},
	{"whitelist.expires-2100", 0, ""},
	{"whitelist.two-fingerprints", 0, ""},
	{"whitelist.expired", -EKEYEXPIRED, "whitelist: expired"},
	{"whitelist.other-name", -EPROTO, "whitelist: it is of repository"},
	{"whitelist.other-fingerprint", -EKEYREJECTED, "certificate: its fingerprint is not on the whitelist"},
	{"whitelist.wrong-master-key", -EBADMSG, "whitelist: the signature"},
	{"whitelist.bad-signature", -EBADMSG, "whitelist: the signature"},
	{"whitelist.bad-hash", -EBADMSG, "whitelist: the printed hash"},
	{"published.resigned-good", 0, ""},
	{"published.unknown-fields", 0, ""},
	{"published.newer-timestamp-older-revision", 0, ""},
	{"published.bad-signature", -EBADMSG, "manifest: the signature"},
	{"published.signed-by-other-key", -EBADMSG, "manifest: the signature"},
	{"published.tampered", -EBADMSG, "manifest: the printed hash"},
	{"published.truncated", -EPROTO, "manifest: "},
	{"published.other-name", -EPROTO, "manifest: it is of repository other.cern.ch"},
	{"published.wrong-root-path", -EPROTO, "manifest: root path"},
	{"published.missing-catalog-hash", -EPROTO, "manifest: field C is missing"},
	{"other.pub", -EBADMSG, "none of 1 master keys"},
};

static const struct verdict *verdict_of(const char *file)
{
	for (size_t i = 0; i < ARRAY_LEN(verdicts); i++)
		if (strcmp(verdicts[i].file, file) == 0)
			return &verdicts[i];
	fail_msg("no verdict for %s", file);
	return NULL;
}

/* Puts the alternate file in place of the repository's own and asks. */
static void check_verdict(const struct verdict *want)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest own, trusted = {.revision = 77};
	CLEANUP(server_done) struct server server = {0};
	CLEANUP(lm_key_freep) struct lm_key *key = NULL;
	CLEANUP(lm_freep) char *name = lm_str_printf("alternates/%s", want->file);
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	bool is_key = lm_str_ends(want->file, ".pub");
	parse_public_fixture(is_key ? name : "keys/" FQRN ".pub", &key);
	read_manifest(FQRN, &text);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, &own, &err), &err);
	serve_repository(&server, FQRN, &own.certificate);
	if (lm_str_starts(want->file, "published.") || lm_str_starts(want->file, "whitelist.")) {
		struct lm_buf *place = want->file[0] == 'p' ? &text : &server.whitelist;
		lm_buf_done(place);
		read_fixture(name, place);
	}
	struct lm_trust trust = {.fqrn = FQRN, .keys = &key, .key_count = 1, .now_s = NOW};
	int r = lm_trust_manifest(&trust, lm_buf_cstr(&text), text.len, fetch, &server, &trusted, &err);
	if (r != want->code)
		fail_msg("%s: %d (%s), not %d", want->file, r, r < 0 ? err.msg : "trusted", want->code);
	if (r == 0)
		return;
	assert_non_null(strstr(err.msg, want->message));
	assert_non_null(strstr(err.msg, FQRN));
	assert_int_equal(trusted.revision, 77);
}

static void test_verdicts(void **state)
{
	if (!dir)
		skip();
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	read_fixture("alternates/VERDICTS.txt", &text);
	unsigned count = 0;
	char *rest = NULL;
	for (char *line = strtok_r((char *)text.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		if (line[0] == '#')
			continue;
		size_t len = strcspn(line, " ");
		bool mounts = strstr(line + len, "mounts");
		line[len] = '\0';
		const struct verdict *want = verdict_of(line);
		assert_int_equal(mounts, want->code == 0);
		check_verdict(want);
		count++;
	}
	assert_int_equal(count, ARRAY_LEN(verdicts));
}

static int trust_fixture(const char *name, const struct lm_manifest *known, struct lm_manifest *ret,
	unsigned *ret_calls, struct lm_err *err)
{
	struct lm_manifest m;
	CLEANUP(server_done) struct server server = {0};
	CLEANUP(lm_key_freep) struct lm_key *key = NULL;
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	parse_public_fixture("keys/" FQRN ".pub", &key);
	read_fixture(name, &text);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, &m, err), err);
	serve_repository(&server, FQRN, &m.certificate);
	struct lm_trust trust = {.fqrn = FQRN, .keys = &key, .key_count = 1, .now_s = NOW, .known = known};
	int r = lm_trust_manifest(&trust, lm_buf_cstr(&text), text.len, fetch, &server, ret, err);
	*ret_calls = server.calls;
	return r;
}

static void test_never_back(void **state)
{
	if (!dir)
		skip();
	static const char *const revisions[] = {"published/" FQRN ".cvmfspublished.rev1",
		"published/" FQRN ".cvmfspublished.rev2", "published/" FQRN ".cvmfspublished.rev3"};
	struct lm_manifest known[3], got;
	unsigned calls;
	/* Cold, each of them is taken; warm, only a newer one or the same. */
	for (unsigned i = 0; i < 3; i++) {
		struct lm_err err = LM_ERR_INIT;
		assert_ok(trust_fixture(revisions[i], NULL, &known[i], &calls, &err), &err);
		assert_int_equal(known[i].revision, i + 1);
		assert_int_equal(calls, 2);
	}
	for (unsigned have = 0; have < 3; have++) {
		for (unsigned offered = 0; offered < 3; offered++) {
			struct lm_err err = LM_ERR_INIT;
			int r = trust_fixture(revisions[offered], &known[have], &got, &calls, &err);
			assert_int_equal(r, offered < have ? -ESTALE : 0);
			assert_int_equal(calls, offered > have ? 2 : 0);
			if (r == 0)
				assert_int_equal(got.revision, offered + 1);
		}
	}
	struct lm_err err = LM_ERR_INIT;
	/* The known catalog under a newer time and an older revision: what is known stays. */
	const char *sly = "alternates/published.newer-timestamp-older-revision";
	assert_ok(trust_fixture(sly, &known[2], &got, &calls, &err), &err);
	assert_int_equal(calls, 0);
	assert_int_equal(got.revision, 3);
	assert_int_equal(got.published_s, known[2].published_s);
	/* With no more than a breadcrumb known, signatures are checked, and then the revision. */
	struct lm_manifest breadcrumb = {
		.catalog = known[2].catalog, .published_s = known[2].published_s, .revision = known[2].revision};
	assert_int_equal(trust_fixture(sly, &breadcrumb, &got, &calls, &err), -ESTALE);
	assert_int_equal(calls, 2);
	assert_non_null(strstr(err.msg, "revision 1 is not above the known 3"));
	assert_ok(trust_fixture(revisions[2], &breadcrumb, &got, &calls, &err), &err);
	assert_int_equal(calls, 2);
	assert_int_equal(got.ttl_s, 240);
}

/*
 * A repository made here.
 */
static struct lm_key *repo_key, *master, *stranger;
static struct lm_cert *repo_cert;

struct made {
	struct lm_manifest manifest;
	struct lm_whitelist whitelist;
	struct server server;
	struct lm_buf text;
	struct lm_trust trust;
	struct lm_key *keys[2];
};

static void made_done(struct made *made)
{
	server_done(&made->server);
	lm_buf_done(&made->text);
}

static void pack(const void *content, size_t len, enum lm_hash_algo algo, struct lm_buf *stored, struct lm_hash *ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_packer_freep) struct lm_packer *packer = NULL;
	assert_ok(lm_packer_new(algo, &packer, &err), &err);
	assert_ok(lm_pack(packer, LM_COMPRESSION_ZLIB, content, len, stored, ret, &err), &err);
}

/* Fields and signature parts as they should be; a test changes some and calls sign(). */
static void made_init(struct made *made, enum lm_hash_algo algo)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX);
	memset(made, 0, sizeof(*made));
	made->server.certificate = LM_BUF(LM_PEM_MAX);
	assert_ok(lm_cert_format(repo_cert, &pem, &err), &err);
	pack(pem.data, pem.len, algo, &made->server.certificate, &made->manifest.certificate);
	assert_ok(lm_hash_data(algo, "root", 4, &made->manifest.catalog, &err), &err);
	strcpy(made->manifest.fqrn, "a.example.org");
	made->manifest.revision = 5;
	made->manifest.ttl_s = 60;
	made->manifest.published_s = NOW - 100;
	strcpy(made->whitelist.fqrn, "a.example.org");
	made->whitelist.created_s = NOW - 200;
	made->whitelist.expires_s = NOW + 7200;
	made->whitelist.count = 1;
	assert_ok(lm_cert_fingerprint(repo_cert, algo, &made->whitelist.fingerprints[0], &err), &err);
	made->keys[0] = stranger;
	made->keys[1] = master;
	made->trust = (struct lm_trust){.fqrn = "a.example.org", .keys = made->keys, .key_count = 2, .now_s = NOW};
}

typedef int sign_fn(const struct lm_key *key, const char *text, size_t len, struct lm_buf *ret, struct lm_err *err);

static void append_signature(struct lm_buf *text, sign_fn *sign, const struct lm_key *key)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_signed_text split;
	assert_ok(lm_signed_text_split(lm_buf_cstr(text), text->len, &split, &err), &err);
	CLEANUP(lm_buf_done) struct lm_buf signature = LM_BUF(LM_SIGNATURE_MAX);
	assert_ok(sign(key, split.hash_text, split.hash_text_len, &signature, &err), &err);
	assert_int_equal(lm_buf_append(text, signature.data, signature.len), 0);
}

static void made_sign(struct made *made)
{
	struct lm_err err = LM_ERR_INIT;
	lm_buf_done(&made->text);
	lm_buf_done(&made->server.whitelist);
	made->text = LM_BUF(LM_MANIFEST_MAX);
	made->server.whitelist = LM_BUF(LM_WHITELIST_MAX);
	assert_ok(lm_manifest_format(&made->manifest, &made->text, &err), &err);
	assert_ok(lm_whitelist_format(&made->whitelist, &made->server.whitelist, &err), &err);
	append_signature(&made->text, lm_sign_manifest, repo_key);
	append_signature(&made->server.whitelist, lm_sign_whitelist, master);
}

static int made_ask(struct made *made, struct lm_manifest *ret, struct lm_err *err)
{
	made->server.calls = 0;
	return lm_trust_manifest(
		&made->trust, lm_buf_cstr(&made->text), made->text.len, fetch, &made->server, ret, err);
}

static void assert_ask(struct made *made, int code, const char *message)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest ret = {.revision = 77};
	int r = made_ask(made, &ret, &err);
	if (r != code)
		fail_msg("%d (%s), not %d", r, r < 0 ? err.msg : "trusted", code);
	assert_int_equal(ret.revision, r < 0 ? 77 : made->manifest.revision);
	if (r < 0 && !strstr(err.msg, message))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, message);
}

static void test_made_here(void **state)
{
	for (unsigned algo = 0; algo < 3; algo++) {
		CLEANUP(made_done) struct made made;
		made_init(&made, algo);
		made_sign(&made);
		assert_ask(&made, 0, "");
		made.trust.key_count = 1;
		assert_ask(&made, -EBADMSG, "none of 1 master keys");
		made.trust.key_count = 0;
		assert_ask(&made, -EBADMSG, "none of 0 master keys");
	}
}

/* Fingerprint, certificate object, manifest and printed hash each have their own algorithm. */
static void test_mixed_algorithms(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(made_done) struct made made;
	made_init(&made, LM_HASH_SHA1);
	assert_ok(lm_cert_fingerprint(repo_cert, LM_HASH_SHAKE128, &made.whitelist.fingerprints[0], &err), &err);
	assert_ok(lm_hash_data(LM_HASH_RMD160, "root", 4, &made.manifest.catalog, &err), &err);
	made_sign(&made);
	assert_ask(&made, 0, "");
	/* The digits of one algorithm under the name of another. */
	made.whitelist.fingerprints[0].algo = LM_HASH_SHA1;
	made_sign(&made);
	assert_ask(&made, -EKEYREJECTED, "not on the whitelist");
}

static void test_certificate_object(void **state)
{
	CLEANUP(made_done) struct made made;
	made_init(&made, LM_HASH_SHA1);
	struct lm_hash right = made.manifest.certificate;
	made.manifest.certificate = (struct lm_hash){0};
	made_sign(&made);
	assert_ask(&made, -EPROTO, "certificate: the manifest names none");
	assert_int_equal(made.server.calls, 0);

	made.manifest.certificate = right;
	made_sign(&made);
	made.server.certificate_code = -EIO;
	assert_ask(&made, -EIO, "certificate: the server is away");
	made.server.certificate_code = 0;
	made.server.whitelist_code = -ETIMEDOUT;
	assert_ask(&made, -ETIMEDOUT, "whitelist: the server is away");
	made.server.whitelist_code = 0;
	made.server.certificate.data[20] ^= 1;
	assert_ask(&made, -EBADMSG, "certificate: object");

	lm_buf_clear(&made.server.certificate);
	pack("no certificate", 14, LM_HASH_SHA1, &made.server.certificate, &made.manifest.certificate);
	made_sign(&made);
	assert_ask(&made, -EPROTO, "certificate: not a certificate");
	static const char zeros[LM_PEM_MAX + 1];
	lm_buf_clear(&made.server.certificate);
	pack(zeros, sizeof(zeros), LM_HASH_SHA1, &made.server.certificate, &made.manifest.certificate);
	made_sign(&made);
	assert_ask(&made, -EPROTO, "more content");
}

/* The classic error: each signature made the way of the other. */
static void test_signatures_mixed_up(void **state)
{
	CLEANUP(made_done) struct made made;
	made_init(&made, LM_HASH_SHA1);
	made_sign(&made);
	size_t signature = KEY_BITS / 8;
	made.text.len -= signature;
	append_signature(&made.text, lm_sign_whitelist, repo_key);
	assert_ask(&made, -EBADMSG, "manifest: the signature");
	made_sign(&made);
	made.server.whitelist.len -= signature;
	append_signature(&made.server.whitelist, lm_sign_manifest, master);
	assert_ask(&made, -EBADMSG, "whitelist: the signature");
	made_sign(&made);
	made.server.whitelist.len -= signature;
	append_signature(&made.server.whitelist, lm_sign_whitelist, repo_key);
	assert_ask(&made, -EBADMSG, "whitelist: the signature");
	made_sign(&made);
	made.text.len -= signature;
	assert_ask(&made, -EBADMSG, "manifest: the signature");
}

static void test_expiry(void **state)
{
	CLEANUP(made_done) struct made made;
	made_init(&made, LM_HASH_SHA1);
	made_sign(&made);
	int64_t hour = made.whitelist.expires_s - made.whitelist.expires_s % 3600;
	made.trust.now_s = hour - 1;
	assert_ask(&made, 0, "");
	made.trust.now_s = hour;
	assert_ask(&made, -EKEYEXPIRED, "whitelist: expired");
}

static void test_revisions(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(made_done) struct made made;
	made_init(&made, LM_HASH_SHA1);
	made_sign(&made);
	struct lm_manifest known = made.manifest;
	assert_ok(lm_hash_data(LM_HASH_SHA1, "other", 5, &known.catalog, &err), &err);
	made.trust.known = &known;
	assert_ask(&made, -ESTALE, "revision 5 is not above the known 5");
	known.revision = 6;
	assert_ask(&made, -ESTALE, "revision 5 is not above the known 6");
	known.revision = 4;
	assert_ask(&made, 0, "");
	known.published_s++;
	assert_ask(&made, -ESTALE, "before the known root");
	assert_int_equal(made.server.calls, 0);
	known.published_s--;
	/* Revision 0 on both sides: a repository that does not count. */
	made.manifest.revision = known.revision = 0;
	made_sign(&made);
	assert_ask(&made, 0, "");
	/* A bad signature is found before the revision is looked at. */
	known.revision = 9;
	made.text.data[made.text.len - 1] ^= 1;
	assert_ask(&made, -EBADMSG, "manifest: the signature");
}

static void assert_blacklist(struct made *made, const char *text, int code, const char *message)
{
	made->trust.blacklist = text;
	assert_ask(made, code, message);
}

static void test_blacklist(void **state)
{
	static const char hex[] = "0123456789ABCDEF";
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(made_done) struct made made;
	made_init(&made, LM_HASH_SHA1);
	made_sign(&made);
	char ours[128], line[256];
	struct lm_hash fingerprint;
	for (unsigned algo = 0; algo < 3; algo++) {
		static const char *const tags[] = {"", "-RMD160", "-SHAKE128"};
		assert_ok(lm_cert_fingerprint(repo_cert, algo, &fingerprint, &err), &err);
		for (unsigned i = 0; i < LM_HASH_BYTES; i++)
			snprintf(ours + 3 * i, 4, "%c%c:", hex[fingerprint.bytes[i] >> 4],
				hex[fingerprint.bytes[i] & 15]);
		snprintf(line, sizeof(line), "# bad ones\n\n%.59s%s # lost its key\n", ours, tags[algo]);
		assert_blacklist(&made, line, -EKEYREJECTED, "certificate: its fingerprint is blacklisted");
		ours[0] = ours[0] == '0' ? '1' : '0';
		snprintf(line, sizeof(line), "%.59s%s", ours, tags[algo]);
		assert_blacklist(&made, line, 0, "");
	}
	assert_blacklist(&made, "", 0, "");
	assert_blacklist(&made, "<a.example.org 5", 0, "");
	assert_blacklist(&made, "<a.example.org 6\n", -EKEYREJECTED, "revision 5 is blacklisted");
	assert_blacklist(&made, "<a.example.org 6 \r\n", -EKEYREJECTED, "revision 5 is blacklisted");
	assert_blacklist(&made, "<b.example.org 6\n<a.example.org 1\n", 0, "");
	/* A line that cannot be understood was meant to forbid something. */
	assert_blacklist(&made, "<a.example.org\n", -EPROTO, "blacklist: neither");
	assert_blacklist(&made, "< 6\n", -EPROTO, "blacklist: neither");
	assert_blacklist(&made, "<a.example.org six\n", -EPROTO, "blacklist: neither");
	assert_blacklist(&made, "12:34\n", -EPROTO, "revision: 12:34");

	/* The known root falls under it, too. */
	struct lm_manifest known = made.manifest;
	made.trust.known = &known;
	assert_blacklist(&made, "", 0, "");
	assert_int_equal(made.server.calls, 0);
	assert_blacklist(&made, "<a.example.org 6\n", -EKEYREJECTED, "revision 5 is blacklisted");
	assert_int_equal(made.server.calls, 0);
	ours[0] = hex[fingerprint.bytes[0] >> 4];
	snprintf(line, sizeof(line), "%.59s-SHAKE128\n", ours);
	assert_blacklist(&made, line, -EKEYREJECTED, "certificate: its fingerprint is blacklisted");
	assert_int_equal(made.server.calls, 1); /* the certificate */
	assert_int_equal(lm_trust_again(&made.trust, &known, fetch, &made.server, &err), -EKEYREJECTED);
	/* Who can't look at the certificate can't say that it is allowed. */
	made.server.certificate_code = -EIO;
	assert_int_equal(lm_trust_again(&made.trust, &known, fetch, &made.server, &err), -EIO);
	made.trust.blacklist = "<a.example.org 5";
	assert_ok(lm_trust_again(&made.trust, &known, fetch, &made.server, &err), &err);
	assert_ok(lm_trust_revision(&made.trust, 5, &err), &err);
	assert_int_equal(lm_trust_revision(&made.trust, 4, &err), -EKEYREJECTED);
}

static int setup(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_key_generate(KEY_BITS, &repo_key, &err), &err);
	assert_ok(lm_key_generate(KEY_BITS, &master, &err), &err);
	assert_ok(lm_key_generate(KEY_BITS, &stranger, &err), &err);
	assert_ok(lm_cert_make(repo_key, "a.example.org", &repo_cert, &err), &err);
	if (fixtures_present())
		dir = temp_dir();
	return 0;
}

static int teardown(void **state)
{
	temp_dir_remove(&dir);
	lm_key_free(repo_key);
	lm_key_free(master);
	lm_key_free(stranger);
	lm_cert_free(repo_cert);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_fixtures),
		cmocka_unit_test(test_verdicts),
		cmocka_unit_test(test_never_back),
		cmocka_unit_test(test_made_here),
		cmocka_unit_test(test_mixed_algorithms),
		cmocka_unit_test(test_certificate_object),
		cmocka_unit_test(test_signatures_mixed_up),
		cmocka_unit_test(test_expiry),
		cmocka_unit_test(test_revisions),
		cmocka_unit_test(test_blacklist),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
