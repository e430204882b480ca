/* lamella repo sign: a new whitelist, a new certificate. */
#include "repo/sign.h"

#include "base/str.h"
#include "common.h"
#include "public_keys.h"
#include "repo.h"
#include "source.h"

#include <stdio.h>
#include <string.h>

enum { TRUSTED_MAX = 16 };

struct options {
	const char *storage, *s3_config, *keys, *key, *certificate;
	uint64_t days;
	bool new_certificate, only_ours, manifest;
	struct lm_key *trusted[TRUSTED_MAX];
	size_t trusted_count;
	struct lm_hash add[LM_FINGERPRINTS_MAX], remove[LM_FINGERPRINTS_MAX];
	size_t add_count, remove_count;
};

static void options_freep(struct options **o)
{
	for (size_t i = 0; *o && i < (*o)->trusted_count; i++)
		lm_key_free((*o)->trusted[i]);
	free(*o);
}

static int parse_trusted(void *arg, const char *value, struct lm_err *err)
{
	struct options *o = arg;
	if (o->trusted_count == TRUSTED_MAX)
		return lm_err_set(err, -EINVAL, "--trusted-by: at most %d keys", TRUSTED_MAX);
	int r = lm_public_key_read(value, &o->trusted[o->trusted_count], err);
	if (r == 0)
		o->trusted_count++;
	return r;
}

static int parse_fingerprint(
	const char *option, const char *value, struct lm_hash *list, size_t *count, struct lm_err *err)
{
	if (*count == LM_FINGERPRINTS_MAX)
		return lm_err_set(err, -EINVAL, "%s: at most %d fingerprints", option, LM_FINGERPRINTS_MAX);
	if (lm_fingerprint_parse(value, strlen(value), &list[*count]) <= 0)
		return lm_err_set(
			err, -EINVAL, "%s %s: a fingerprint is wanted, AB:CD:... as in the whitelist", option, value);
	++*count;
	return 0;
}

static int parse_add(void *arg, const char *value, struct lm_err *err)
{
	struct options *o = arg;
	return parse_fingerprint("--add", value, o->add, &o->add_count, err);
}

static int parse_remove(void *arg, const char *value, struct lm_err *err)
{
	struct options *o = arg;
	return parse_fingerprint("--remove", value, o->remove, &o->remove_count, err);
}

/* Clients verify with NAME.pub: a whitelist signed by another key would lock them all out. */
static int check_public_key(const struct lm_repo_record *record, const struct lm_repo_keys *keys, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s.pub", record->keys, record->name);
	CLEANUP(lm_key_freep) struct lm_key *key = NULL;
	CLEANUP(lm_buf_done) struct lm_buf have = LM_BUF(LM_PEM_MAX), want = LM_BUF(LM_PEM_MAX);
	struct lm_err why = LM_ERR_INIT;
	if (!path)
		return lm_err_oom(err);
	int r = lm_public_key_read(path, &key, &why);
	if (r == -ENOENT)
		return 0; /* clients have it from elsewhere */
	if (r == 0)
		r = lm_key_format_public(key, &have, &why);
	if (r == 0)
		r = lm_key_format_public(keys->master, &want, &why);
	if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	if (strcmp(lm_buf_cstr(&have), lm_buf_cstr(&want)) != 0)
		return lm_err_set(err, -EINVAL, "%s is not the public half of %s.masterkey", path, record->name);
	return 0;
}

static bool changes_certificate(const struct options *o)
{
	return o->new_certificate || o->certificate;
}

static int load_keys(
	const struct options *o, const struct lm_repo_record *record, struct lm_repo_keys *ret, struct lm_err *err)
{
	int r = o->certificate ? lm_repo_keys_read_pair(o->key, o->certificate, ret, err) : 0;
	if (r == 0)
		r = changes_certificate(o) ? lm_repo_keys_stage(record->keys, record->name, ret, err)
					   : lm_repo_keys_load(record->keys, record->name, ret, err);
	if (r == 0 && !ret->master)
		r = lm_err_set(
			err, -ENOENT, "%s/%s.masterkey is wanted to sign the whitelist", record->keys, record->name);
	return r < 0 ? r : check_public_key(record, ret, err);
}

static void say_signed(const struct lm_repo_record *record, const struct options *o, const struct lm_sign_result *s)
{
	printf("whitelist    valid until %s, %zu certificate%s\n", lm_cli_time(s->whitelist.expires_s).s,
		s->whitelist.count, s->whitelist.count == 1 ? "" : "s");
	if (s->manifest_signed)
		printf("manifest     signed anew, revision %llu\n", (unsigned long long)s->manifest.revision);
	if (changes_certificate(o))
		printf("certificate  changed: %s/%s.crt and .key, those before are kept as .crt.old and .key.old\n",
			record->keys, record->name);
}

static int sign(const char *name, const struct options *o, struct lm_err *err)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record record = {0};
	CLEANUP(lm_storage_freep) struct lm_storage *storage = NULL;
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys keys = {0};
	CLEANUP(lm_freep) struct lm_sign_result *result = calloc(1, sizeof(*result));
	const struct lm_sign_request request = {
		.days = (unsigned)o->days,
		.trusted = o->trusted,
		.trusted_count = o->trusted_count,
		.add = o->add,
		.add_count = o->add_count,
		.remove = o->remove,
		.remove_count = o->remove_count,
		.only_ours = o->only_ours,
		.manifest = o->manifest,
	};
	if (!result)
		return lm_err_oom(err);
	int r = lm_repo_record_load(name, o->storage, o->keys, &record, err);
	if (r == 0 && !record.keys)
		r = lm_err_set(err, -EINVAL, "give --keys DIR with %s.key, .crt and .masterkey", name);
	if (r == 0)
		r = lm_repo_record_open(&record, o->s3_config, false, &storage, err);
	if (r == 0)
		r = load_keys(o, &record, &keys, err);
	if (r == 0)
		r = lm_repo_sign(storage, &keys, record.name, &request, result, err);
	if (r == 0 && changes_certificate(o))
		r = lm_repo_keys_install(record.keys, record.name, err);
	if (r == 0)
		say_signed(&record, o, result);
	return r;
}

static int check_options(const struct options *o, struct lm_err *err)
{
	if (!o->key != !o->certificate)
		return lm_err_set(err, -EINVAL, "--certificate and --key go together");
	if (o->certificate && o->new_certificate)
		return lm_err_set(err, -EINVAL, "either --new-certificate or --certificate FILE --key FILE");
	return 0;
}

int lm_cmd_repo_sign(int argc, char **argv)
{
	CLEANUP(options_freep) struct options *o = calloc(1, sizeof(*o));
	struct lm_err err = LM_ERR_INIT;
	int code;
	if (!o) {
		lm_err_oom(&err);
		return lm_cli_fail(&err);
	}
	o->days = 30;
	const struct lm_cli_option options[] = {
		{"days", "N", "how long the whitelist is valid from now on (default 30)", .number = &o->days, .min = 1,
			.max = LM_WHITELIST_DAYS_MAX},
		{"new-certificate", NULL, "make a new key and certificate and sign with them from now on",
			.flag = &o->new_certificate},
		{"certificate", "FILE", "the same with a certificate made elsewhere, PEM", .text = &o->certificate},
		{"key", "FILE", "its private key, PEM", .text = &o->key},
		{"trusted-by", "FILE", "the public half of the master key that signed until now, where it was changed",
			.parse = parse_trusted, .parse_arg = o},
		{"add", "FINGERPRINT", "allow one more certificate", .parse = parse_add, .parse_arg = o},
		{"remove", "FINGERPRINT", "allow one less", .parse = parse_remove, .parse_arg = o},
		{"only-ours", NULL, "allow no certificate but the one in use; also where the whitelist is damaged",
			.flag = &o->only_ours},
		{"manifest", NULL, "sign the manifest anew, too", .flag = &o->manifest},
		{"storage", "DIR", "the repository is DIR/cvmfs/NAME (default: as recorded by `lamella repo init`)",
			.text = &o->storage},
		LM_S3_CONFIG_OPTION(&o->s3_config),
		{"keys", "DIR", "where NAME.key, NAME.crt and NAME.masterkey are (default: as recorded)",
			.text = &o->keys},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "NAME [OPTION]...",
		.about = "Renews the whitelist; its other certificates stay allowed. Where the manifest is not signed "
			 "by\n"
			 "NAME.key yet, that is done, too. What is there now must be validly signed, if expired.",
		.options = options,
		.min_words = 1,
		.max_words = 1,
		.words = "one NAME is wanted",
	};
	int at = lm_cli_parse(argc, argv, &syntax, &code);
	if (at < 0)
		return code;
	int r = check_options(o, &err);
	if (r == 0)
		r = sign(argv[at], o, &err);
	return r < 0 ? lm_cli_fail(&err) : LM_EXIT_OK;
}
