/* `lamella inspect manifest`, `whitelist` and `certificate`: what a client believes a repository by. */
#include "base/clock.h"
#include "base/str.h"
#include "inspect.h"
#include "repo/object_store.h"

#include <string.h>

/* --- manifest --- */

/* The letters that a manifest may have beyond those we know, or all of a text that can't be understood. */
static void show_lines(struct lm_inspect *i, const char *key, const struct lm_buf *text, const char *skip)
{
	const char *at = lm_buf_cstr(text), *end = at + text->len;
	lm_out_list(&i->out, key, "field");
	while (at < end && !(end - at >= 2 && memcmp(at, "--", 2) == 0)) {
		const char *line_end = memchr(at, '\n', (size_t)(end - at));
		line_end = line_end ? line_end : end;
		if (at < line_end && !(*at && strchr(skip, *at))) {
			lm_out_item(&i->out);
			lm_out_text(&i->out, "letter", at, 1);
			lm_out_text(&i->out, "value", at + 1, (size_t)(line_end - at - 1));
			lm_out_close(&i->out);
		}
		at = LM_MIN(line_end + 1, end);
	}
	lm_out_close(&i->out);
}

static void show_signed_text(struct lm_inspect *i, const struct lm_buf *text)
{
	struct lm_signed_text split;
	if (lm_signed_text_split(lm_buf_cstr(text), text->len, &split, NULL) < 0)
		return;
	lm_out_text(&i->out, "printed_hash", split.hash_text, split.hash_text_len);
	lm_out_number(&i->out, "signature_bytes", split.signature_len);
}

static void show_manifest(struct lm_inspect *i, const struct lm_manifest *m)
{
	struct lm_out *out = &i->out;
	lm_out_text(out, "name", m->fqrn, strlen(m->fqrn));
	lm_out_number(out, "revision", m->revision);
	lm_out_time(out, "published", m->published_s);
	lm_out_number(out, "ttl_s", m->ttl_s);
	lm_out_hash(out, "root_catalog", &m->catalog);
	lm_out_number(out, "root_catalog_bytes", m->catalog_size);
	lm_out_text(out, "root_path", m->root_path, strlen(m->root_path));
	lm_out_hash(out, "certificate", &m->certificate);
	lm_out_hash(out, "history", &m->history);
	lm_out_hash(out, "metainfo", &m->metainfo);
	lm_out_hash(out, "reflog", &m->reflog);
	lm_out_flag(out, "garbage_collectable", m->garbage_collectable);
	lm_out_flag(out, "alternative_paths", m->alternative_catalogs);
}

int lm_inspect_show_manifest(struct lm_inspect *i, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	struct lm_repo_source_manifest m = {0};
	int r = lm_repo_source_manifest_text(&i->source, &text, err);
	if (r < 0)
		return r;
	r = lm_repo_source_judge(&i->source, &text, &m, NULL);
	lm_inspect_show_source(i);
	lm_inspect_show_verdict(i, m.verdict, &m.reason);
	if (r == 0)
		show_manifest(i, &m.manifest);
	show_signed_text(i, &text);
	/* L is known, and has no meaning. */
	show_lines(i, r == 0 ? "other_fields" : "fields", &text, r == 0 ? "CBRDSGANXHTMY" : "");
	return 0;
}

/* --- whitelist --- */

static void show_whitelist(struct lm_inspect *i, const struct lm_whitelist *w)
{
	lm_out_text(&i->out, "name", w->fqrn, strlen(w->fqrn));
	lm_out_time(&i->out, "created", w->created_s);
	lm_out_time(&i->out, "expires", w->expires_s);
	lm_out_flag(&i->out, "expired", lm_whitelist_expired(w, lm_wall_s()));
}

static void show_fingerprints(struct lm_inspect *i, const struct lm_whitelist *w)
{
	lm_out_list(&i->out, "certificates", "certificate");
	for (size_t k = 0; k < w->count; k++) {
		lm_out_item(&i->out);
		lm_out_hash(&i->out, "fingerprint", &w->fingerprints[k]);
		lm_out_close(&i->out);
	}
	lm_out_close(&i->out);
}

/* Needs no key. */
static bool printed_hash_fits(const struct lm_buf *text)
{
	struct lm_signed_text split;
	struct lm_hash printed, actual;
	return lm_signed_text_split(lm_buf_cstr(text), text->len, &split, NULL) == 0 &&
	       lm_hash_parse(split.hash_text, split.hash_text_len, &printed, NULL) == 0 &&
	       lm_hash_data(printed.algo, text->data, split.body_len, &actual, NULL) == 0 &&
	       lm_hash_equal(&printed, &actual);
}

/* The verdict here is of the whitelist alone. */
static enum lm_verdict judge_whitelist(
	struct lm_inspect *i, const struct lm_buf *text, struct lm_whitelist *ret, struct lm_err *reason)
{
	struct lm_trust trust = lm_repo_source_trust(&i->source);
	int r = lm_trust_whitelist(&trust, lm_buf_cstr(text), text->len, ret, reason);
	if (r == 0)
		return LM_VALID;
	if (r != -EBADMSG || trust.key_count > 0 || !printed_hash_fits(text))
		return LM_INVALID;
	*reason = i->source.keys_err;
	return LM_UNCHECKED;
}

int lm_inspect_show_whitelist(struct lm_inspect *i, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	struct lm_err reason = LM_ERR_INIT;
	struct lm_whitelist w = {0};
	int r = lm_repo_source_whitelist_text(&i->source, &text, err);
	if (r < 0)
		return r;
	enum lm_verdict verdict = judge_whitelist(i, &text, &w, &reason);
	lm_inspect_show_source(i);
	lm_inspect_show_verdict(i, verdict, &reason);
	bool readable = w.fqrn[0];
	if (readable)
		show_whitelist(i, &w);
	show_signed_text(i, &text);
	if (readable)
		show_fingerprints(i, &w);
	return 0;
}

/* --- certificate --- */

/* Whether the whitelist allows it; what is wrong with the whitelist itself is `inspect whitelist`'s to say. */
static int on_whitelist(struct lm_inspect *i, const struct lm_cert *cert, bool *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	struct lm_whitelist w;
	struct lm_hash fingerprint;
	int r = lm_repo_source_whitelist_text(&i->source, &text, err);
	if (r == 0)
		r = lm_whitelist_parse(lm_buf_cstr(&text), text.len, &w, err);
	*ret = false;
	for (size_t k = 0; r == 0 && k < w.count && !*ret; k++) {
		r = lm_cert_fingerprint(cert, w.fingerprints[k].algo, &fingerprint, err);
		*ret = r == 0 && lm_hash_equal(&fingerprint, &w.fingerprints[k]);
	}
	return r;
}

static int show_certificate(struct lm_inspect *i, const struct lm_buf *pem, struct lm_err *err)
{
	CLEANUP(lm_cert_freep) struct lm_cert *cert = NULL;
	struct lm_err why = LM_ERR_INIT;
	struct lm_cert_info info;
	bool allowed;
	int r = lm_cert_parse(lm_buf_cstr(pem), pem->len, &cert, err);
	if (r == 0)
		r = lm_cert_info(cert, &info, err);
	if (r < 0)
		return r;
	lm_out_sentence(&i->out, "subject", info.subject);
	lm_out_sentence(&i->out, "issuer", info.issuer);
	lm_out_time(&i->out, "not_before", info.not_before_s);
	lm_out_time(&i->out, "not_after", info.not_after_s);
	lm_out_number(&i->out, "key_bits", info.key_bits);
	lm_out_object(&i->out, "fingerprint");
	static const char *const algos[] = {"sha1", "rmd160", "shake128"};
	for (size_t algo = 0; algo < ARRAY_LEN(algos); algo++) {
		struct lm_hash fingerprint;
		if (lm_cert_fingerprint(cert, (enum lm_hash_algo)algo, &fingerprint, NULL) == 0)
			lm_out_hash(&i->out, algos[algo], &fingerprint);
	}
	lm_out_close(&i->out);
	if (on_whitelist(i, cert, &allowed, &why) == 0)
		lm_out_flag(&i->out, "on_whitelist", allowed);
	else
		lm_inspect_complain(i, "whitelist: %s", lm_err_text(&why));
	return 0;
}

int lm_inspect_show_certificate(struct lm_inspect *i, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX);
	struct lm_manifest m;
	int r = lm_inspect_manifest(i, &m, err);
	if (r < 0)
		return r;
	if (!m.certificate.set)
		return lm_err_set(err, -ENOENT, "the manifest names no certificate");
	lm_out_hash(&i->out, "certificate", &m.certificate);
	r = lm_object_load(i->source.storage, &m.certificate, LM_OBJECT_CERTIFICATE, LM_COMPRESSION_ZLIB, &pem, err);
	return r < 0 ? r : show_certificate(i, &pem, err);
}
