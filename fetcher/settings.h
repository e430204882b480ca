/*
 * What lamella-fetcher is told: files of KEY=VALUE lines (base/conf.h) and --set options, checked as a whole.
 *
 * Keys are the stock client's where it has them. LAMELLA_ keys are ours; one that nobody knows is an error, since a
 * misspelt key would otherwise be silently without effect. Other unknown keys are left alone: a site's files hold
 * settings for other programs, too.
 *
 *   CVMFS_REPOSITORIES      names, separated by commas (required)
 *   CVMFS_SERVER_URL        servers, separated by ";", @fqrn@ and @org@ are put in (required)
 *   CVMFS_HTTP_PROXY        proxy groups, or DIRECT (required: there is no silent direct connection)
 *   CVMFS_PUBLIC_KEY        master public keys, separated by ":"; or
 *   CVMFS_KEYS_DIR          a directory whose *.pub files are the keys (one of the two is required)
 *   CVMFS_CACHE_BASE        /var/lib/cvmfs; ours is the folder "lamella" in it
 *   CVMFS_TIMEOUT, CVMFS_TIMEOUT_DIRECT, CVMFS_MAX_RETRIES, CVMFS_BACKOFF_INIT, CVMFS_BACKOFF_MAX    (seconds)
 *   CVMFS_PROXY_RESET_AFTER, CVMFS_HOST_RESET_AFTER                                                (seconds)
 *   CVMFS_MAX_TTL           minutes; 0 or unset: the repository's own
 *   CVMFS_BLACKLIST         /etc/cvmfs/blacklist, read where it exists
 *   CVMFS_ROOT_HASH         mount this root catalog (one repository only), or
 *   CVMFS_REPOSITORY_TAG    the one that a tag names, or
 *   CVMFS_REPOSITORY_DATE   that of the newest tag of this time, YYYY-MM-DDThh:mm:ssZ: the first of the three that is
 *                           set; such a root is never replaced by a newer one
 *   LAMELLA_CATALOG_MAX     MiB; 0 or unset: 1024; a catalog or tag database that inflates to more is refused
 *   LAMELLA_MOUNT_BASE      /cvmfs: repository NAME is mounted at BASE/NAME
 *   LAMELLA_MOUNTPOINT      the directory itself; for one repository only
 *   LAMELLA_SOCKET          /run/lamella/fetcher.sock; empty: no control socket
 *
 * Constant once loaded; any thread may read.
 */
#ifndef LM_FETCHER_SETTINGS_H
#define LM_FETCHER_SETTINGS_H

#include "base/conf.h"
#include "base/log.h"
#include "repo/signature.h"

enum { LM_SETTINGS_REPOSITORIES_MAX = 64, LM_SETTINGS_KEYS_MAX = 64 };
/* A root that is fixed by the settings. */
struct lm_pin {
	enum lm_pin_kind { LM_PIN_NONE, LM_PIN_HASH, LM_PIN_TAG, LM_PIN_DATE } kind;
	struct lm_hash hash;
	const char *tag;
	int64_t date_s;
};

#define LM_SETTINGS_DEFAULT_FILE "/etc/lamella/lamella.conf"

struct lm_settings {
	struct lm_conf *conf;				  /* owns the strings below that are not said to be owned */
	char *repositories[LM_SETTINGS_REPOSITORIES_MAX]; /* owned */
	size_t repository_count;
	const char *servers, *proxies;
	struct lm_key *keys[LM_SETTINGS_KEYS_MAX]; /* owned */
	size_t key_count;
	const char *cache_base;
	unsigned timeout_ms, timeout_direct_ms, max_retries, backoff_init_ms, backoff_max_ms;
	unsigned proxy_reset_ms, host_reset_ms;
	uint64_t max_ttl_s;   /* 0: no limit */
	uint64_t catalog_max; /* bytes */
	char *blacklist;      /* text, owned; NULL: none */
	struct lm_pin pin;
	const char *mount_base, *mountpoint /* or NULL */, *socket /* "": none */;
	enum lm_log_level log_level;
	bool check_only, require_mounts;
};

/*
 * Reads options and the files they name; the default file is read, where it exists, when no --config is given.
 * Returns 0; 1 when --help or --version was answered on standard output; -EINVAL and others with the message.
 */
int lm_settings_load(int argc, char **argv, struct lm_settings *ret, struct lm_err *err) MUST_CHECK;
void lm_settings_done(struct lm_settings *settings);

/* "tag v1", "date 2026-11-01T00:00:00Z", "root 4cf1..."; "" for none. The caller frees. NULL when out of memory. */
char *lm_pin_text(const struct lm_pin *pin);

/* Where a repository is to be mounted; the caller frees. NULL when out of memory. */
char *lm_settings_mountpoint(const struct lm_settings *settings, const char *fqrn);

#endif
