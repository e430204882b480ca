/*
 * Keys that mean something to others and not to lamella-fetcher: to the stock client (2.12), and to the snapshotter,
 * which reads the same files.
 */
#include "fetcher/settings.h"

#include "base/str.h"

#include <string.h>
#include <strings.h>

const struct lm_setting_elsewhere lm_settings_elsewhere[] = {
	{"LAMELLA_ON_MISS", "read by lamella-snapshotter"},
	{"LAMELLA_RESOLVE_TIMEOUT", "read by lamella-snapshotter"},
	{"LAMELLA_SNAPSHOTTER_METRICS", "read by lamella-snapshotter"},
	{"LAMELLA_SOURCE", "read by lamella-snapshotter"},
	{"LAMELLA_TREES", "read by lamella-snapshotter"},

	{"CVMFS_BASE_ENV", "used by configuration files only"},
	{"CVMFS_CLIENT_PROFILE", "used by configuration files only"},
	{"CVMFS_CONFIG_REPO_DEFAULT_ENV", "used by configuration files only"},
	{"CVMFS_FQRN", "used by configuration files only: the repository whose settings are read"},
	{"CVMFS_USE_CDN", "used by configuration files only"},
	{"CVMFS_CONFIG_REPOSITORY",
		"not read through its mount: settings would depend on what is mounted; see --config-repository"},
	{"CVMFS_CONFIG_REPO_REQUIRED",
		"the configuration repository is not read through its mount; see --config-repository", .missed = true},

	{"CVMFS_ALIEN_CACHE", "a cache shared with stock clients is not supported", .missed = true},
	{"CVMFS_CACHE_DIR", "the cache is always CVMFS_CACHE_BASE/lamella", .missed = true},
	{"CVMFS_CACHE_PRIMARY", "there is one kind of cache, on disk", .missed = true},
	{"CVMFS_CACHE_REFCOUNT", "descriptors are always shared"},
	{"CVMFS_CATALOG_WATERMARK", "catalogs in use are counted and closed by age"},
	{"CVMFS_MEMCACHE_SIZE", "the kernel keeps metadata, we keep none"},
	{"CVMFS_SERVER_CACHE_MODE", "for publishers of the stock server", .missed = true},
	{"CVMFS_SHARED_CACHE", "all repositories always share one cache"},
	{"CVMFS_STREAMING_CACHE", "what is read is always cached; LAMELLA_CACHE_RESERVE and CVMFS_QUOTA_LIMIT bound it",
		.missed = true},
	{"CVMFS_WORKSPACE", "small files are always beside the cache"},

	{"CVMFS_CACHE_SYMLINKS", "symbolic links are always cached by the kernel"},
	{"CVMFS_CHECK_PERMISSIONS", "the kernel always checks permissions as catalogs say them"},
	{"CVMFS_CLAIM_OWNERSHIP", "always no: owners are those that catalogs say, as layers of images need"},
	{"CVMFS_UID_MAP", "owners are those that catalogs say", .missed = true},
	{"CVMFS_GID_MAP", "owners are those that catalogs say", .missed = true},
	{"CVMFS_ENFORCE_ACLS", "access lists are not enforced", .missed = true},
	{"CVMFS_FUSE3_IDLE_THREADS", "threads do not wait for downloads: their number is fixed"},
	{"CVMFS_FUSE3_MAX_THREADS", "threads do not wait for downloads: their number is fixed"},
	{"CVMFS_FUSE_NOTIFY_INVALIDATION", "what changed is always invalidated, and nothing else"},
	{"CVMFS_HIDE_MAGIC_XATTRS", "not supported: the attributes are shown when asked for by name"},
	{"CVMFS_MAGIC_XATTRS_VISIBILITY", "not supported: the attributes are shown when asked for by name"},
	{"CVMFS_XATTR_PRIVILEGED_GIDS", "not supported: the attributes tell nothing that is secret"},
	{"CVMFS_XATTR_PROTECTED_XATTRS", "not supported: the attributes tell nothing that is secret"},
	{"CVMFS_INITIAL_GENERATION", "for tests of the stock client"},
	{"CVMFS_KCACHE_TIMEOUT", "the kernel keeps everything until a new revision changes it"},
	{"CVMFS_MOUNT_RW", "mounts are always read-only", .missed = true},
	{"CVMFS_NFS_INTERLEAVED_INODES", "node numbers are always stable over restarts", .missed = true},
	{"CVMFS_NFS_SHARED", "node numbers are always stable over restarts", .missed = true},
	{"CVMFS_NFS_SOURCE", "export by NFS is not supported", .missed = true},
	{"CVMFS_STATFS_CACHE_TIMEOUT", "statfs costs nothing"},
	{"CVMFS_SUID", "mounts are always nosuid, nodev", .missed = true},
	{"CVMFS_WORLD_READABLE", "permissions are those that catalogs say", .missed = true},

	{"CVMFS_AUTHZ_HELPER", "repositories that need a membership are not supported", .missed = true},
	{"CVMFS_AUTHZ_SEARCH_PATH", "repositories that need a membership are not supported"},
	{"CVMFS_IGNORE_SIGNATURE", "signatures are always verified", .missed = true},
	{"CVMFS_TRUSTED_CERTS", "whitelists that ask for a certificate authority are refused", .missed = true},
	{"CVMFS_ALT_ROOT_PATH", "alternative names are found out"},
	{"CVMFS_AUTO_UPDATE", "new revisions always appear; CVMFS_REPOSITORY_TAG or CVMFS_ROOT_HASH fix one",
		.missed = true},
	{"CVMFS_NOTIFICATION_SERVER", "revisions are looked for after the TTL, or by \"lamella update\"",
		.missed = true},

	{"CVMFS_DNS_ROAMING", "the system's resolver configuration is read anew when it changes"},
	{"CVMFS_EXTERNAL_FALLBACK_PROXY", "external files are read from the repository's servers only", .missed = true},
	{"CVMFS_EXTERNAL_HTTP_PROXY", "external files are read from the repository's servers only", .missed = true},
	{"CVMFS_EXTERNAL_MAX_SERVERS", "external files are read from the repository's servers only"},
	{"CVMFS_EXTERNAL_SERVER_URL", "external files are read from the repository's servers only", .missed = true},
	{"CVMFS_EXTERNAL_TIMEOUT", "external files are read from the repository's servers only"},
	{"CVMFS_EXTERNAL_TIMEOUT_DIRECT", "external files are read from the repository's servers only"},
	{"CVMFS_EXTERNAL_URL", "external files are read from the repository's servers only", .missed = true},
	{"CVMFS_MAX_EXTERNAL_SERVERS", "external files are read from the repository's servers only"},
	{"CVMFS_FAILOVER_INDEFINITELY", "requests always end in bounded time", .missed = true},
	{"CVMFS_HTTP_TRACING", "not supported: requests tell nothing of users and processes", .missed = true},
	{"CVMFS_HTTP_TRACING_HEADERS", "not supported: requests tell nothing of users and processes", .missed = true},
	{"CVMFS_INFO_HEADER", "not supported", .missed = true},
	{"CVMFS_IPV4_ONLY", "see CVMFS_IPFAMILY_PREFER", .missed = true},
	{"CVMFS_PAC_URLS",
		"proxy auto-configuration files are programs, which are not run: name proxies in CVMFS_HTTP_PROXY"},
	{"CVMFS_PROXY_SHARDING_POLICY", "see CVMFS_PROXY_SHARD", .missed = true},
	{"CVMFS_PROXY_TEMPLATE", "for tests of the stock client", .missed = true},
	{"CVMFS_SERVER_PROXY", "for the stock server"},

	{"CVMFS_CPU_AFFINITY", "see CPUAffinity= of systemd.exec(5)", .missed = true},
	{"CVMFS_OOM_SCORE_ADJ", "see OOMScoreAdjust= of systemd.exec(5)", .missed = true},
	{"CVMFS_LIBRARY_PATH", "there is no library to load"},
	{"CVMFS_RELOAD_SOCKETS", "the socket is LAMELLA_SOCKET"},
	{"CVMFS_STRICT_MOUNT", "always: what CVMFS_REPOSITORIES lists is mounted, and nothing else"},
	{"CVMFS_SYSTEMD_NOKILL", "the service is started by systemd in the first place"},
	{"CVMFS_TALK_OWNER", "the socket is root's", .missed = true},
	{"CVMFS_TALK_SOCKET", "the socket is LAMELLA_SOCKET", .missed = true},
	{"CVMFS_USER", "the service runs as who starts it"},

	{"CVMFS_DEBUGLOG", "see LAMELLA_LOG_LEVEL; the log goes to standard error", .missed = true},
	{"CVMFS_SYSLOG_FACILITY", "the log goes to standard error, from there to the journal", .missed = true},
	{"CVMFS_SYSLOG_LEVEL", "see LAMELLA_LOG_LEVEL", .missed = true},
	{"CVMFS_SYSLOG_PREFIX", "the log goes to standard error, from there to the journal", .missed = true},
	{"CVMFS_USYSLOG", "the log goes to standard error, from there to the journal", .missed = true},
	{"CVMFS_INSTRUMENT_FUSE", "requests are always counted, see LAMELLA_METRICS"},
	{"CVMFS_INFLUX_EXTRA_FIELDS", "see LAMELLA_METRICS", .missed = true},
	{"CVMFS_INFLUX_EXTRA_TAGS", "see LAMELLA_METRICS", .missed = true},
	{"CVMFS_INFLUX_HOST", "see LAMELLA_METRICS", .missed = true},
	{"CVMFS_INFLUX_METRIC_NAME", "see LAMELLA_METRICS", .missed = true},
	{"CVMFS_INFLUX_PORT", "see LAMELLA_METRICS", .missed = true},
	{"CVMFS_TELEMETRY_RATE", "see LAMELLA_METRICS"},
	{"CVMFS_TELEMETRY_SEND", "see LAMELLA_METRICS", .missed = true},
	{"CVMFS_TRACEBUFFER", "requests are not traced"},
	{"CVMFS_TRACEBUFFER_THRESHOLD", "requests are not traced"},
	{"CVMFS_TRACEFILE", "requests are not traced", .missed = true},
	{0},
};

/* The stock client's plug-ins and combined caches have a family of keys for each name that a site gives. */
static const char family[] = "CVMFS_CACHE_";
static const struct lm_setting_elsewhere member = {family, "there is one kind of cache, on disk", .missed = true};

const struct lm_setting_elsewhere *lm_setting_find_elsewhere(const char *key)
{
	for (const struct lm_setting_elsewhere *s = lm_settings_elsewhere; s->key; s++)
		if (strcmp(s->key, key) == 0)
			return s;
	return lm_str_starts(key, family) && !lm_setting_find(key) ? &member : NULL;
}

bool lm_setting_is_missed(const struct lm_setting_elsewhere *setting, const char *value)
{
	static const char *const nothing[] = {"", "no", "off", "0", "false"};
	for (size_t i = 0; i < ARRAY_LEN(nothing); i++)
		if (strcasecmp(value, nothing[i]) == 0)
			return false;
	return setting->missed;
}
