#include "s3/config.h"

#include "base/conf.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define SCHEME "s3://"

enum {
	CONNECTIONS = 32,
	CONNECTIONS_MAX = 1024,
	RETRIES = 20,
	RETRIES_MAX = 100,
	TIMEOUT_S = 60,
	TIMEOUT_MAX_S = 3600
};

/* What needs no escaping in a URL, and so signs as it is. */
#define UNRESERVED "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"

bool lm_s3_is_url(const char *text)
{
	return lm_str_starts(text, SCHEME);
}

static void forget(char *secret)
{
	if (secret)
		explicit_bzero(secret, strlen(secret));
	free(secret);
}

void lm_s3_config_done(struct lm_s3_config *c)
{
	free(c->bucket);
	free(c->prefix);
	free(c->base_url);
	free(c->region);
	free(c->access_key);
	forget(c->secret_key);
	forget(c->session_token);
	free(c->acl);
	free(c->proxy);
	free(c->ca_file);
	*c = (struct lm_s3_config){0};
}

/* NULL or a copy of text that is not empty. */
static int copy(const char *text, char **ret, struct lm_err *err)
{
	if (text && *text && !(*ret = strdup(text)))
		return lm_err_oom(err);
	return 0;
}

static const char *env(const char *name)
{
	const char *value = getenv(name);
	return value && *value ? value : NULL;
}

static const char *either(const char *a, const char *b)
{
	return a && *a ? a : b;
}

static int parse_url(const char *url, struct lm_s3_config *c, struct lm_err *err)
{
	const char *bucket = lm_s3_is_url(url) ? url + strlen(SCHEME) : "";
	size_t len = strspn(bucket, UNRESERVED);
	const char *prefix = bucket + len;
	if (len == 0 || (*prefix && *prefix != '/'))
		return lm_err_set(err, -EINVAL, "\"%s\": s3://BUCKET/PREFIX is wanted", url);
	prefix += strspn(prefix, "/");
	size_t prefix_len = strlen(prefix);
	while (prefix_len > 0 && prefix[prefix_len - 1] == '/')
		prefix_len--;
	c->bucket = lm_str_ndup(bucket, len);
	c->prefix = lm_str_ndup(prefix, prefix_len);
	if (!c->bucket || !c->prefix)
		return lm_err_oom(err);
	if (c->prefix[strspn(c->prefix, UNRESERVED "/")] || strstr(c->prefix, "//") || strstr(c->prefix, ".."))
		return lm_err_set(err, -EINVAL, "\"%s\": letters, digits, - . _ ~ and single slashes are wanted", url);
	return 0;
}

static int check_private(const char *file, struct lm_err *err)
{
	struct stat st;
	if (stat(file, &st) < 0)
		return lm_err_sys(err, -errno, "%s", file);
	if (st.st_mode & S_IROTH)
		return lm_err_set(err, -EPERM, "%s holds secrets, yet everybody can read it: chmod o-r", file);
	return 0;
}

static int read_file(const char *file, struct lm_conf **ret, struct lm_err *err)
{
	CLEANUP(lm_conf_freep) struct lm_conf *conf = NULL;
	int r = lm_conf_new(&conf, err);
	if (r == 0 && file)
		r = check_private(file, err);
	if (r == 0 && file)
		r = lm_conf_read(conf, file, err);
	if (r == 0)
		*ret = STEAL(conf);
	return r;
}

static int load_numbers(const struct lm_conf *conf, struct lm_s3_config *c, struct lm_err *err)
{
	uint64_t connections, retries, timeout_s;
	int r = lm_conf_u64(
		conf, "CVMFS_S3_MAX_NUMBER_OF_PARALLEL_CONNECTIONS", CONNECTIONS, CONNECTIONS_MAX, &connections, err);
	if (r == 0)
		r = lm_conf_u64(conf, "CVMFS_S3_MAX_RETRIES", RETRIES, RETRIES_MAX, &retries, err);
	if (r == 0)
		r = lm_conf_u64(conf, "CVMFS_S3_TIMEOUT", TIMEOUT_S, TIMEOUT_MAX_S, &timeout_s, err);
	if (r == 0)
		r = lm_conf_bool(conf, "CVMFS_S3_PEEK_BEFORE_PUT", true, &c->peek, err);
	if (r < 0)
		return r;
	c->connections = LM_MAX((unsigned)connections, 1u);
	c->retries = (unsigned)retries;
	c->timeout_s = LM_MAX((unsigned)timeout_s, 1u);
	return 0;
}

/* All of them from one place: a token belongs to its key. */
static int load_keys(const struct lm_conf *conf, struct lm_s3_config *c, struct lm_err *err)
{
	const char *access = lm_conf_get(conf, "CVMFS_S3_ACCESS_KEY"),
		   *secret = lm_conf_get(conf, "CVMFS_S3_SECRET_KEY");
	const char *token = NULL;
	if (!access && !secret) {
		access = env("AWS_ACCESS_KEY_ID");
		secret = env("AWS_SECRET_ACCESS_KEY");
		token = env("AWS_SESSION_TOKEN");
	}
	if (!access || !*access || !secret || !*secret)
		return lm_err_set(err, -EINVAL,
			"no keys for bucket %s: CVMFS_S3_ACCESS_KEY and CVMFS_S3_SECRET_KEY in the file of "
			"--s3-config, "
			"or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
			c->bucket);
	int r = copy(access, &c->access_key, err);
	if (r == 0)
		r = copy(secret, &c->secret_key, err);
	return r < 0 ? r : copy(token, &c->session_token, err);
}

/* "https://HOST[:PORT]" and the bucket in its path. */
static int place_at_endpoint(const char *endpoint, struct lm_s3_config *c, struct lm_err *err)
{
	size_t len = strlen(endpoint);
	while (len > 0 && endpoint[len - 1] == '/')
		len--;
	if (!lm_str_starts(endpoint, "http://") && !lm_str_starts(endpoint, "https://"))
		return lm_err_set(err, -EINVAL, "AWS_ENDPOINT_URL=%s is no http:// or https:// address", endpoint);
	c->base_url = lm_str_printf("%.*s/%s", (int)len, endpoint, c->bucket);
	return c->base_url ? 0 : lm_err_oom(err);
}

static int place_at_host(const struct lm_conf *conf, const char *host, struct lm_s3_config *c, struct lm_err *err)
{
	bool https, dns;
	uint64_t port = 0;
	int r = lm_conf_bool(conf, "CVMFS_S3_USE_HTTPS", false, &https, err);
	if (r == 0)
		r = lm_conf_bool(conf, "CVMFS_S3_DNS_BUCKETS", true, &dns, err);
	if (r == 0)
		r = lm_conf_u64(conf, "CVMFS_S3_PORT", https ? 443 : 80, 65535, &port, err);
	if (r < 0)
		return r;
	if (host[strspn(host, UNRESERVED ":[]")])
		return lm_err_set(err, -EINVAL, "CVMFS_S3_HOST=%s is no name of a host", host);
	c->base_url = lm_str_printf("%s://%s%s%s:%llu%s%s", https ? "https" : "http", dns ? c->bucket : "",
		dns ? "." : "", host, (unsigned long long)port, dns ? "" : "/", dns ? "" : c->bucket);
	return c->base_url ? 0 : lm_err_oom(err);
}

static int load_place(const struct lm_conf *conf, struct lm_s3_config *c, struct lm_err *err)
{
	const char *host = lm_conf_get(conf, "CVMFS_S3_HOST"), *bucket = lm_conf_get(conf, "CVMFS_S3_BUCKET");
	const char *endpoint = either(env("AWS_ENDPOINT_URL_S3"), env("AWS_ENDPOINT_URL"));
	const char *region =
		either(lm_conf_get(conf, "CVMFS_S3_REGION"), either(env("AWS_REGION"), env("AWS_DEFAULT_REGION")));
	if (bucket && *bucket && strcmp(bucket, c->bucket) != 0)
		return lm_err_set(err, -EINVAL, "CVMFS_S3_BUCKET=%s is not the bucket of s3://%s", bucket, c->bucket);
	int r = copy(either(region, "us-east-1"), &c->region, err);
	if (r < 0)
		return r;
	if (c->region[strspn(c->region, UNRESERVED)])
		return lm_err_set(err, -EINVAL, "\"%s\" is no name of a region", c->region);
	if (host && *host)
		return place_at_host(conf, host, c, err);
	if (endpoint)
		return place_at_endpoint(endpoint, c, err);
	c->base_url = lm_str_printf("https://%s.s3.%s.amazonaws.com", c->bucket, c->region);
	return c->base_url ? 0 : lm_err_oom(err);
}

static int load_rest(const struct lm_conf *conf, struct lm_s3_config *c, struct lm_err *err)
{
	const char *flavor = lm_conf_get(conf, "CVMFS_S3_FLAVOR");
	if (flavor && *flavor && strcmp(flavor, "awsv4") != 0)
		return lm_err_set(err, -EINVAL, "CVMFS_S3_FLAVOR=%s: only awsv4 is known", flavor);
	int r = copy(lm_conf_get(conf, "CVMFS_S3_X_AMZ_ACL"), &c->acl, err);
	if (r == 0 && c->acl && c->acl[strspn(c->acl, UNRESERVED)])
		r = lm_err_set(err, -EINVAL, "CVMFS_S3_X_AMZ_ACL=%s is no canned access list", c->acl);
	if (r == 0)
		r = copy(lm_conf_get(conf, "CVMFS_S3_PROXY"), &c->proxy, err);
	return r < 0 ? r : copy(env("AWS_CA_BUNDLE"), &c->ca_file, err);
}

int lm_s3_config_load(const char *url, const char *file, struct lm_s3_config *ret, struct lm_err *err)
{
	CLEANUP(lm_s3_config_done) struct lm_s3_config c = {0};
	CLEANUP(lm_conf_freep) struct lm_conf *conf = NULL;
	int r = parse_url(url, &c, err);
	if (r == 0)
		r = read_file(file, &conf, err);
	if (r == 0)
		r = load_numbers(conf, &c, err);
	if (r == 0)
		r = load_keys(conf, &c, err);
	if (r == 0)
		r = load_place(conf, &c, err);
	if (r == 0)
		r = load_rest(conf, &c, err);
	if (r < 0)
		return r;
	*ret = c;
	c = (struct lm_s3_config){0};
	return 0;
}
