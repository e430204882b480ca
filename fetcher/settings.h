/*
 * What lamella-fetcher is told: files of KEY=VALUE lines (base/conf.h) and --set options, checked as a whole.
 *
 * Keys are the stock client's where it has them; each key is one line of lm_settings_table, from which also
 * --check-config, --help-settings and reloading work. Some settings are the node's, the others a repository's: these
 * may differ from one to the next. Files, later ones win:
 *
 *   CONFIG/default.conf, CONFIG/default.d/ *.conf by name, [REPO/default.conf,] CONFIG/default.local
 *   for a repository also
 *   [REPO/domain.d/DOMAIN.conf,] CONFIG/domain.d/DOMAIN.conf, CONFIG/domain.d/DOMAIN.local
 *   [REPO/config.d/FQRN.conf,] CONFIG/config.d/FQRN.conf, CONFIG/config.d/FQRN.local
 *   then
 *   /etc/lamella/lamella.conf, /etc/lamella/lamella.conf.d/ *.conf, for a repository /etc/lamella/config.d/FQRN.conf
 *   --set options
 *
 * CONFIG is /etc/cvmfs, or what --config-dir says; REPO what --config-repository says: a copy, since a configuration
 * repository is never read through a mount; what the settings are may not depend on what is mounted already. --config
 * FILE takes the place of /etc/lamella, and, without --config-dir, of CONFIG, too: only what is named is read. None of
 * the files has to exist, but the one named by --config. No environment variable is looked at.
 *
 * A LAMELLA_ key that nobody knows is an error, since a misspelt key would otherwise be silently without effect. About
 * CVMFS_ keys that are unknown, or known and not used here, lm_settings_remarks() tells. Others are left alone: a
 * site's files hold settings for other programs, too.
 *
 * Settings are constant once loaded and counted; any thread may read, ref and unref them.
 */
#ifndef LM_FETCHER_SETTINGS_H
#define LM_FETCHER_SETTINGS_H

#include "base/buf.h"
#include "base/conf.h"
#include "base/log.h"
#include "repo/signature.h"

struct lm_origin_config;

enum { LM_SETTINGS_REPOSITORIES_MAX = 64, LM_SETTINGS_KEYS_MAX = 64 };
#define LM_SETTINGS_DEFAULT_FILE "/etc/lamella/lamella.conf"
#define LM_SETTINGS_UNLIMITED UINT64_MAX

/* A root that is fixed by the settings. */
struct lm_pin {
	enum lm_pin_kind { LM_PIN_NONE, LM_PIN_HASH, LM_PIN_TAG, LM_PIN_DATE } kind;
	struct lm_hash hash;
	const char *tag;
	int64_t date_s;
};

/* Of one repository. Texts are never NULL: "" is "not set". */
struct lm_repository_settings {
	const char *fqrn;
	struct lm_conf *conf; /* where each value comes from */

	/* as the table says */
	const char *servers, *proxies, *fallback_proxies, *dns_server;
	const char *public_key, *keys_dir, *blacklist_path, *ca_dir, *ca_file;
	const char *root_hash, *tag, *date, *wanted_mountpoint;
	unsigned timeout_ms, timeout_direct_ms, max_retries, backoff_init_ms, backoff_max_ms;
	unsigned proxy_reset_ms, host_reset_ms; /* 0: never */
	unsigned low_speed_limit;		/* bytes/s */
	unsigned max_addresses, max_servers;	/* per proxy; 0: all */
	unsigned address_family;		/* which is preferred: 4, 6 */
	unsigned dns_timeout_ms, dns_retries, dns_min_ttl_s, dns_max_ttl_s;
	bool proxy_shard, use_geoapi, follow_redirects, send_info_header, use_system_ca;
	uint64_t max_ttl_s;   /* 0: no limit */
	uint64_t catalog_max; /* bytes */
	unsigned read_timeout_ms;

	/* made of these */
	struct lm_key *keys[LM_SETTINGS_KEYS_MAX];
	size_t key_count;
	char *blacklist; /* text; NULL: none */
	struct lm_pin pin;
	char *mountpoint;
	char *lean_mountpoint; /* of its mount without extended attributes, see node.h; "": none */
};

/* Of the node. */
struct lm_settings {
	struct lm_conf *conf;
	struct lm_repository_settings *repositories;
	size_t repository_count;

	/* as the table says */
	const char *names, *default_domain, *cache_base, *stock_mount_dir, *mount_base, *socket /* "": none */;
	const char *metrics;	/* "": none */
	uint64_t quota;		/* bytes, or LM_SETTINGS_UNLIMITED */
	unsigned cache_reserve; /* percent of the file system to be left free */
	unsigned descriptors;
	bool lean_mounts;
	unsigned log_level; /* enum lm_log_level */

	/* options */
	bool require_mounts;

	_Atomic(unsigned) refs;
};

/*
 * Reads options and files. Returns 0; -EINVAL and others with the message; when --help, --version, --help-settings or
 * --check-config was answered on standard output, the program's exit code + 1. May be called again with the same
 * arguments, to read the files anew.
 */
int lm_settings_load(int argc, char **argv, struct lm_settings **ret, struct lm_err *err) MUST_CHECK;

/*
 * Settings in force, as bytes from which a later process (of another version, perhaps) makes them again without any
 * file: keys and blacklists are in there, and passwords. The bytes are private to the machine and its versions.
 *
 * started, or NULL: what needs a start of the program is as it is there, for repositories that are in both.
 * unpack: -EPROTO or -EINVAL where the bytes are not for this version.
 */
enum { LM_SETTINGS_PACKED_MAX = 64 << 20 };
int lm_settings_pack(const struct lm_settings *settings, const struct lm_settings *started, struct lm_buf *ret,
	struct lm_err *err) MUST_CHECK;
int lm_settings_unpack(const struct lm_buf *packed, struct lm_settings **ret, struct lm_err *err) MUST_CHECK;

struct lm_settings *lm_settings_ref(struct lm_settings *settings);
void lm_settings_unref(struct lm_settings *settings); /* NULL is fine */
LM_DEFINE_CLEANUP(struct lm_settings, lm_settings_unref, lm_settings_unrefp)

/* Points into s. */
void lm_settings_origin(const struct lm_repository_settings *s, struct lm_origin_config *ret);

/* NULL when there is none of that name. */
const struct lm_repository_settings *lm_settings_find(const struct lm_settings *settings, const char *fqrn);

/* "tag v1", "date 2026-11-01T00:00:00Z", "root 4cf1..."; "" for none. The caller frees. NULL when out of memory. */
char *lm_pin_text(const struct lm_pin *pin);

/* The table. */

struct lm_setting {
	const char *key;
	enum lm_setting_scope { LM_SCOPE_NODE, LM_SCOPE_REPOSITORY } scope;
	size_t offset; /* of its field in the struct of its scope */
	enum lm_setting_kind {
		LM_SETTING_TEXT,     /* const char * */
		LM_SETTING_PATH,     /* const char *; absolute, or empty */
		LM_SETTING_BOOL,     /* bool */
		LM_SETTING_UNSIGNED, /* unsigned */
		LM_SETTING_U64,	     /* uint64_t */
		LM_SETTING_CHOICE,   /* unsigned: which of words */
	} kind;
	const char *unit;	  /* of the number in the file; NULL: none */
	uint64_t scale;		  /* the field is the number times this */
	uint64_t min, max;	  /* of the number in the file */
	bool minus_one;		  /* -1 stands for LM_SETTINGS_UNLIMITED */
	const char *words;	  /* separated by blanks */
	const char *fallback;	  /* as in a file; "": not set, or what help says */
	bool required;		  /* must be set, and not to "" */
	enum lm_setting_reload {  /* what a change needs */
		LM_RELOAD_WORKER, /* another worker, which goes on with the mounts that stay */
		LM_RELOAD_LIVE,	  /* nothing more: the running parts take it */
		LM_RELOAD_START,  /* a start of the program */
	} reload;
	const char *help;
};
extern const struct lm_setting lm_settings_table[]; /* ends with key NULL */

/* Keys of the stock client that have no effect here, and the snapshotter's. */
struct lm_setting_elsewhere {
	const char *key, *why;
	bool missed; /* whoever set it, and not to "no", may miss what it does */
};
extern const struct lm_setting_elsewhere lm_settings_elsewhere[]; /* ends with key NULL */

/* NULL when there is none. */
const struct lm_setting *lm_setting_find(const char *key);
const struct lm_setting_elsewhere *lm_setting_find_elsewhere(const char *key);
bool lm_setting_is_missed(const struct lm_setting_elsewhere *setting, const char *value);

/* The value in force, as in a file, passwords in URLs replaced by ***. The caller frees. NULL when out of memory. */
char *lm_setting_shown(const struct lm_conf *conf, const struct lm_setting *setting);

/* What is different in newer settings. */

struct lm_settings_change {
	const struct lm_setting *setting;
	const char *fqrn;      /* "": of the node */
	const char *from, *to; /* as lm_setting_shown() */
};
int lm_settings_diff(const struct lm_settings *older, const struct lm_settings *newer,
	void (*fn)(void *arg, const struct lm_settings_change *change), void *arg, struct lm_err *err) MUST_CHECK;

/* What there is to say about settings that can be used. */

struct lm_settings_remark {
	bool warning;	  /* something may not be as it was meant; else all is well */
	const char *fqrn; /* "": about the node */
	const struct lm_conf_entry *entry;
	const char *text;
};
void lm_settings_remarks(
	const struct lm_settings *settings, void (*fn)(void *arg, const struct lm_settings_remark *remark), void *arg);

/* The known key that is most like this one; NULL: none is. */
const char *lm_setting_nearest(const char *key);

/* Logs the warnings. */
void lm_settings_log(const struct lm_settings *settings);

#endif
