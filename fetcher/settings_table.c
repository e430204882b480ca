/* Every setting there is. */
#include "fetcher/settings.h"

#include <string.h>

enum {
	SECONDS_MAX = 86400,
	MINUTES_MAX = 525600,
	MEBIBYTES_MAX = 1 << 30,
	CATALOG_MIB_MAX = 1 << 20,
};

#define OF_NODE(field) LM_SCOPE_NODE, offsetof(struct lm_settings, field)
#define OF_REPOSITORY(field) LM_SCOPE_REPOSITORY, offsetof(struct lm_repository_settings, field)
#define TEXT LM_SETTING_TEXT
#define PATH LM_SETTING_PATH
#define YES_NO LM_SETTING_BOOL
#define COUNT(least, most) LM_SETTING_UNSIGNED, .scale = 1, .min = (least), .max = (most)
#define SECONDS LM_SETTING_UNSIGNED, .unit = "s", .scale = 1000, .max = SECONDS_MAX
#define MINUTES LM_SETTING_U64, .unit = "min", .scale = 60, .max = MINUTES_MAX
#define MEBIBYTES(most) LM_SETTING_U64, .unit = "MiB", .scale = 1 << 20, .max = (most)
#define LIVE .reload = LM_RELOAD_LIVE
#define AT_START .reload = LM_RELOAD_START

const struct lm_setting lm_settings_table[] = {
	{"CVMFS_REPOSITORIES", OF_NODE(names), TEXT, .fallback = "", .required = true,
		.help = "repositories to mount, separated by commas"},
	{"CVMFS_DEFAULT_DOMAIN", OF_NODE(default_domain), TEXT, .fallback = "",
		.help = "completes names of repositories that have no dot"},

	{"CVMFS_SERVER_URL", OF_REPOSITORY(servers), TEXT, LIVE, .fallback = "", .required = true,
		.help = "servers, separated by \";\", tried in order; @fqrn@ stands for the repository's name, @org@ "
			"for its first part"},
	{"CVMFS_HTTP_PROXY", OF_REPOSITORY(proxies), TEXT, LIVE, .fallback = "", .required = true,
		.help = "groups of proxies, separated by \";\", inside a group by \"|\"; DIRECT is none: there is no "
			"silent direct connection"},
	{"CVMFS_FALLBACK_PROXY", OF_REPOSITORY(fallback_proxies), TEXT, LIVE, .fallback = "",
		.help = "groups of proxies that follow when all of CVMFS_HTTP_PROXY fail"},
	{"CVMFS_PROXY_SHARD", OF_REPOSITORY(proxy_shard), YES_NO, LIVE, .fallback = "no",
		.help = "each object has its proxy in the group, instead of one proxy for all that is chosen at "
			"random"},
	{"CVMFS_MAX_IPADDR_PER_PROXY", OF_REPOSITORY(max_addresses), COUNT(0, 1000), LIVE, .fallback = "0",
		.help = "addresses of one proxy name that are tried; 0: all"},
	{"CVMFS_IPFAMILY_PREFER", OF_REPOSITORY(address_family), COUNT(4, 6), LIVE, .fallback = "4",
		.help = "4 or 6: which addresses of proxies are tried first"},
	{"CVMFS_DNS_SERVER", OF_REPOSITORY(dns_server), TEXT, LIVE, .fallback = "",
		.help = "address of the server that is asked for names of proxies; default: the system's"},
	{"CVMFS_DNS_TIMEOUT", OF_REPOSITORY(dns_timeout_ms), SECONDS, .min = 1, LIVE, .fallback = "3",
		.help = "of one question for a name"},
	{"CVMFS_DNS_RETRIES", OF_REPOSITORY(dns_retries), COUNT(0, 100), LIVE, .fallback = "1",
		.help = "of a question for a name"},
	{"CVMFS_DNS_MIN_TTL", OF_REPOSITORY(dns_min_ttl_s), COUNT(1, SECONDS_MAX), .unit = "s", LIVE, .fallback = "60",
		.help = "for which an answer is used at least"},
	{"CVMFS_DNS_MAX_TTL", OF_REPOSITORY(dns_max_ttl_s), COUNT(1, SECONDS_MAX), .unit = "s", LIVE,
		.fallback = "86400", .help = "for which an answer is used at most"},
	{"CVMFS_MAX_SERVERS", OF_REPOSITORY(max_servers), COUNT(0, 1000), LIVE, .fallback = "0",
		.help = "servers of the list that are used; 0: all"},
	{"CVMFS_USE_GEOAPI", OF_REPOSITORY(use_geoapi), YES_NO, LIVE, .fallback = "no",
		.help = "have a server sort the servers by distance"},
	{"CVMFS_TIMEOUT", OF_REPOSITORY(timeout_ms), SECONDS, .min = 1, LIVE, .fallback = "5",
		.help = "to connect, and of standstill, through proxies"},
	{"CVMFS_TIMEOUT_DIRECT", OF_REPOSITORY(timeout_direct_ms), SECONDS, .min = 1, LIVE, .fallback = "10",
		.help = "the same without proxy"},
	{"CVMFS_LOW_SPEED_LIMIT", OF_REPOSITORY(low_speed_limit), COUNT(0, 1 << 30), .unit = "B/s", LIVE,
		.fallback = "1024", .help = "slower for a time-out's time counts as standstill"},
	{"CVMFS_MAX_RETRIES", OF_REPOSITORY(max_retries), COUNT(0, 100), LIVE, .fallback = "1",
		.help = "of a request on the same way, after errors of transfer"},
	{"CVMFS_BACKOFF_INIT", OF_REPOSITORY(backoff_init_ms), SECONDS, LIVE, .fallback = "2",
		.help = "pause before the first retry, at most"},
	{"CVMFS_BACKOFF_MAX", OF_REPOSITORY(backoff_max_ms), SECONDS, LIVE, .fallback = "10",
		.help = "pause before a retry, at most"},
	{"CVMFS_PROXY_RESET_AFTER", OF_REPOSITORY(proxy_reset_ms), SECONDS, LIVE, .fallback = "300",
		.help = "after which the first group of proxies is tried again; 0: never"},
	{"CVMFS_HOST_RESET_AFTER", OF_REPOSITORY(host_reset_ms), SECONDS, LIVE, .fallback = "1800",
		.help = "after which the first server is tried again; 0: never"},
	{"CVMFS_FOLLOW_REDIRECTS", OF_REPOSITORY(follow_redirects), YES_NO, LIVE, .fallback = "no",
		.help = "go where a server's redirection leads, eight times at most; no: it is a failure of the "
			"server"},
	{"CVMFS_SEND_INFO_HEADER", OF_REPOSITORY(send_info_header), YES_NO, LIVE, .fallback = "no",
		.help = "tell servers and proxies which path is read"},
	{"X509_CERT_DIR", OF_REPOSITORY(ca_dir), PATH, LIVE, .fallback = "",
		.help = "directory of authorities for https, by hashed names"},
	{"LAMELLA_CA_FILE", OF_REPOSITORY(ca_file), PATH, LIVE, .fallback = "",
		.help = "file of authorities for https"},
	{"CVMFS_USE_SSL_SYSTEM_CA", OF_REPOSITORY(use_system_ca), YES_NO, LIVE, .fallback = "no",
		.help = "trust the system's authorities for https also where X509_CERT_DIR or LAMELLA_CA_FILE is set"},

	{"CVMFS_KEYS_DIR", OF_REPOSITORY(keys_dir), PATH, LIVE, .fallback = "",
		.help = "directory whose *.pub files are master public keys; or"},
	{"CVMFS_PUBLIC_KEY", OF_REPOSITORY(public_key), TEXT, LIVE, .fallback = "",
		.help = "their files, separated by \":\"; where both are set, CVMFS_KEYS_DIR counts, unless this is in "
			"a file that is read later"},
	{"CVMFS_BLACKLIST", OF_REPOSITORY(blacklist_path), PATH, LIVE, .fallback = "",
		.help = "file of forbidden certificates and revisions; default: /etc/cvmfs/blacklist where it exists"},
	{"CVMFS_MAX_TTL", OF_REPOSITORY(max_ttl_s), MINUTES, LIVE, .fallback = "0",
		.help = "after which a new revision is looked for at the latest; 0: as the repository says"},
	{"CVMFS_ROOT_HASH", OF_REPOSITORY(root_hash), TEXT, AT_START, .fallback = "",
		.help = "mount this root catalog and no other; one repository only"},
	{"CVMFS_REPOSITORY_TAG", OF_REPOSITORY(tag), TEXT, AT_START, .fallback = "",
		.help = "mount the revision with this tag and no other"},
	{"CVMFS_REPOSITORY_DATE", OF_REPOSITORY(date), TEXT, AT_START, .fallback = "",
		.help = "mount the newest tagged revision of this time, YYYY-MM-DDThh:mm:ssZ, and no other"},

	{"CVMFS_CACHE_BASE", OF_NODE(cache_base), PATH, AT_START, .fallback = "/var/lib/cvmfs",
		.help = "the cache is the folder \"lamella\" in it"},
	{"CVMFS_QUOTA_LIMIT", OF_NODE(quota), MEBIBYTES(MEBIBYTES_MAX), .minus_one = true, LIVE, .fallback = "4000",
		.help = "size of the cache; 0 or -1: no limit"},
	{"LAMELLA_CACHE_RESERVE", OF_NODE(cache_reserve), COUNT(0, 90), .unit = "%", LIVE, .fallback = "5",
		.help = "share of the cache's file system that is left free"},
	{"LAMELLA_CATALOG_MAX", OF_REPOSITORY(catalog_max), MEBIBYTES(CATALOG_MIB_MAX), .min = 1, .fallback = "1024",
		.help = "a catalog or tag database that inflates to more is refused"},
	{"LAMELLA_READ_TIMEOUT", OF_REPOSITORY(read_timeout_ms), SECONDS, .min = 1, LIVE, .fallback = "600",
		.help = "for which a read waits for the network at most; then it fails, its download goes on"},

	{"LAMELLA_MOUNT_BASE", OF_NODE(mount_base), PATH, .fallback = "",
		.help = "repository NAME is mounted at BASE/NAME; default: CVMFS_MOUNT_DIR"},
	{"CVMFS_MOUNT_DIR", OF_NODE(stock_mount_dir), PATH, .fallback = "/cvmfs",
		.help = "the same, where LAMELLA_MOUNT_BASE is not set"},
	{"LAMELLA_MOUNTPOINT", OF_REPOSITORY(wanted_mountpoint), PATH, .fallback = "",
		.help = "the directory itself; one repository only"},
	{"LAMELLA_LEAN_MOUNTS", OF_NODE(lean_mounts), YES_NO, .fallback = "yes",
		.help = "mount repositories at BASE/.lean/NAME, too, where images without extended attributes cost "
			"half the requests; as root, with LAMELLA_SOCKET"},
	{"LAMELLA_SOCKET", OF_NODE(socket), PATH, .fallback = "/run/lamella/fetcher.sock",
		.help = "of the control service; empty: none"},
	{"LAMELLA_METRICS", OF_NODE(metrics), TEXT, .fallback = "",
		.help = "ADDRESS:PORT where metrics are served, beside their socket; empty: nowhere else"},
	{"CVMFS_NFILES", OF_NODE(descriptors), COUNT(256, 1 << 30), .fallback = "131072",
		.help = "descriptors that the process may have, where the system allows it"},
	{"LAMELLA_LOG_LEVEL", OF_NODE(log_level), LM_SETTING_CHOICE, LIVE, .words = "error warn info debug",
		.fallback = "info", .help = "what is logged"},
	{0},
};

const struct lm_setting *lm_setting_find(const char *key)
{
	for (const struct lm_setting *s = lm_settings_table; s->key; s++)
		if (strcmp(s->key, key) == 0)
			return s;
	return NULL;
}
