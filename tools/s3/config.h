/*
 * Where a bucket is and who we are there: s3://BUCKET[/PREFIX], a configuration file, the environment.
 *
 * The file is what cvmfs_server takes (KEY=VALUE, base/conf.h); secrets are nowhere else but there and in the
 * environment:
 *
 *   CVMFS_S3_HOST, CVMFS_S3_PORT (80, 443 with https), CVMFS_S3_USE_HTTPS (no), CVMFS_S3_DNS_BUCKETS (yes: the bucket
 * is the first label of the host's name; no: the first component of the path) CVMFS_S3_BUCKET      must be BUCKET where
 * it is set CVMFS_S3_REGION      (us-east-1), CVMFS_S3_ACCESS_KEY, CVMFS_S3_SECRET_KEY
 *   CVMFS_S3_MAX_NUMBER_OF_PARALLEL_CONNECTIONS (32), CVMFS_S3_MAX_RETRIES (20), CVMFS_S3_TIMEOUT (60: seconds without
 *   progress), CVMFS_S3_PEEK_BEFORE_PUT (yes: what is there is not sent again), CVMFS_S3_PROXY
 *   CVMFS_S3_X_AMZ_ACL   a canned access list for every object, public-read for instance; not set: the bucket's policy
 *   CVMFS_S3_FLAVOR      awsv4 or not set; others are refused
 *
 * What the file does not say: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (all of them, or none),
 * AWS_REGION or AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL (the bucket in the path), AWS_CA_BUNDLE. No
 * host at all: Amazon's of the region.
 */
#ifndef LM_TOOLS_S3_CONFIG_H
#define LM_TOOLS_S3_CONFIG_H

#include "base/err.h"

#include <stdbool.h>

struct lm_s3_config { /* strings owned */
	char *bucket;
	char *prefix;	/* "" or "a/b" */
	char *base_url; /* of the bucket: "http://host:80/bucket", "https://bucket.host:443" */
	char *region, *access_key, *secret_key;
	char *session_token, *acl, *proxy, *ca_file; /* NULL: none */
	unsigned connections, retries, timeout_s;
	bool peek;
};
void lm_s3_config_done(struct lm_s3_config *config); /* for CLEANUP */

/* file may be NULL. -EINVAL: what is wrong where; -EPERM: everybody can read the file's secrets. */
int lm_s3_config_load(const char *url, const char *file, struct lm_s3_config *ret, struct lm_err *err) MUST_CHECK;

bool lm_s3_is_url(const char *text); /* s3://... */

#endif
