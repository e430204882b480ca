#include "oci/credentials.h"

#include "base/file.h"
#include "base/str.h"
#include "oci/json.h"
#include "oci/secret.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <strings.h>

enum { FILE_MAX = 1 << 20, SECRET_MAX = 32 << 10, HELPER_MS = 30000 };

static const char hub[] = "docker.io", hub_server[] = "https://index.docker.io/v1/", token_user[] = "<token>";

void lm_credential_done(struct lm_credential *credential)
{
	lm_secret_free(credential->user);
	lm_secret_free(credential->password);
	lm_secret_free(credential->identity_token);
	*credential = (struct lm_credential){0};
}

void lm_credential_helper_done(struct lm_credential_helper *helper)
{
	free(helper->name);
	free(helper->server);
	*helper = (struct lm_credential_helper){0};
}

static int set_credential(struct lm_credential *c, const char *user, size_t user_len, const char *password,
	const char *identity_token, struct lm_err *err)
{
	c->user = lm_str_ndup(user, user_len);
	c->password = strdup(password ? password : "");
	c->identity_token = identity_token ? strdup(identity_token) : NULL;
	if (c->user && c->password && (c->identity_token || !identity_token))
		return 1;
	lm_credential_done(c);
	return lm_err_oom(err);
}

/* --- one file --- */

/* The host of a key as people and programs have written it. A path is part of it only where no scheme is. */
static bool is_host(const char *key, const char *registry)
{
	size_t scheme = lm_str_starts(key, "https://") ? 8 : lm_str_starts(key, "http://") ? 7 : 0;
	const char *host = key + scheme;
	size_t len = scheme ? strcspn(host, "/") : strlen(host);
	if (strcmp(registry, hub) == 0 && ((len == 15 && strncasecmp(host, "index.docker.io", len) == 0) ||
						  (len == 20 && strncasecmp(host, "registry-1.docker.io", len) == 0)))
		return true;
	return len == strlen(registry) && strncasecmp(host, registry, len) == 0;
}

/* The longest of HOST/A/B/C, HOST/A/B, HOST/A and HOST that has an entry; then other spellings of HOST. */
static json_t *find_entry(const json_t *auths, const char *registry, const char *repository, struct lm_err *err)
{
	CLEANUP(lm_freep) char *key = lm_str_printf("%s/%s", registry, repository);
	if (!key) {
		(void)lm_err_oom(err);
		return NULL;
	}
	for (char *end = key + strlen(key); end; end = strrchr(key, '/')) {
		*end = '\0';
		json_t *entry = json_object_get(auths, key);
		if (json_is_object(entry) && json_object_size(entry) > 0)
			return entry;
	}
	const char *name;
	json_t *entry;
	json_object_foreach((json_t *)auths, name, entry)
		if (is_host(name, registry) && json_is_object(entry) && json_object_size(entry) > 0)
			return entry;
	return NULL;
}

/* base64 of USER:PASSWORD; docker pads the text with NULs. */
static int decode(const char *text, const char *identity_token, struct lm_credential *ret, struct lm_err *err)
{
	size_t len = strlen(text);
	if (len == 0 || len % 4 != 0 || len > SECRET_MAX)
		return lm_err_set(err, -EPROTO, "an \"auth\" is no base64 of USER:PASSWORD");
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(SECRET_MAX);
	if (lm_buf_reserve(&out, len) < 0)
		return lm_err_oom(err);
	int n = EVP_DecodeBlock(out.data, (const unsigned char *)text, (int)len);
	int r = -EPROTO;
	if (n > 0) {
		out.data[n] = '\0'; /* there is room: n <= len / 4 * 3 */
		char *colon = strchr((char *)out.data, ':');
		if (colon)
			r = set_credential(ret, (char *)out.data, (size_t)(colon - (char *)out.data), colon + 1,
				identity_token, err);
	}
	explicit_bzero(out.data, out.cap);
	return r == -EPROTO ? lm_err_set(err, r, "an \"auth\" is no base64 of USER:PASSWORD") : r;
}

static int parse_entry(const json_t *entry, struct lm_credential *ret, struct lm_err *err)
{
	const char *auth, *identity, *user = NULL, *password = NULL;
	int r = lm_json_string("auths", entry, "auth", LM_JSON_OPTIONAL, &auth, err);
	if (r == 0)
		r = lm_json_string("auths", entry, "identitytoken", LM_JSON_OPTIONAL, &identity, err);
	if (r == 0)
		r = lm_json_string("auths", entry, "username", LM_JSON_OPTIONAL, &user, err);
	if (r == 0)
		r = lm_json_string("auths", entry, "password", LM_JSON_OPTIONAL, &password, err);
	if (r < 0)
		return r;
	if (identity && !*identity)
		identity = NULL;
	if (auth && *auth)
		return decode(auth, identity, ret, err);
	if (!identity && (!user || !*user))
		return 0;
	user = user && *user ? user : token_user;
	return set_credential(ret, user, strlen(user), password, identity, err);
}

static int name_helper(const char *name, const char *server, struct lm_credential_helper *ret, struct lm_err *err)
{
	size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");
	if (len == 0 || name[len] || len > 64)
		return lm_err_set(
			err, -EPROTO, "a credential helper's name has letters, digits, '-', '_' and '.' only");
	ret->name = strdup(name);
	ret->server = strdup(server);
	return ret->name && ret->server ? 0 : lm_err_oom(err);
}

/* The helper of exactly this registry; it is asked by the name under which it stands there. */
static int find_helper(
	const json_t *helpers, const char *registry, struct lm_credential_helper *ret, struct lm_err *err)
{
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)helpers, key, value) {
		if (!is_host(key, registry) || !json_is_string(value) || !*json_string_value(value))
			continue;
		return name_helper(json_string_value(value), key, ret, err);
	}
	return 0;
}

static int parse_root(const json_t *root, const char *registry, const char *repository, struct lm_credential *ret,
	struct lm_credential_helper *ret_helper, struct lm_err *err)
{
	json_t *helpers, *auths;
	const char *store;
	int r = lm_json_object("credentials", root, "credHelpers", LM_JSON_OPTIONAL, &helpers, err);
	if (r == 0)
		r = lm_json_object("credentials", root, "auths", LM_JSON_OPTIONAL, &auths, err);
	if (r == 0)
		r = lm_json_string("credentials", root, "credsStore", LM_JSON_OPTIONAL, &store, err);
	if (r == 0 && helpers)
		r = find_helper(helpers, registry, ret_helper, err);
	if (r < 0 || ret_helper->name)
		return r;
	json_t *entry = auths ? find_entry(auths, registry, repository, err) : NULL;
	if (entry)
		r = parse_entry(entry, ret, err);
	if (r == 0 && store && *store)
		r = name_helper(store, strcmp(registry, hub) == 0 ? hub_server : registry, ret_helper, err);
	return r;
}

int lm_credentials_parse(const char *json, size_t len, const char *registry, const char *repository,
	struct lm_credential *ret, struct lm_credential_helper *ret_helper, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *root = NULL;
	CLEANUP(lm_credential_helper_done) struct lm_credential_helper helper = {0};
	int r = lm_json_load("credentials", json, len, &root, NULL);
	if (r < 0) /* the parser's message would show a piece of the text */
		return lm_err_set(err, r, "it is no JSON object");
	r = parse_root(root, registry, repository, ret, &helper, err);
	if (r < 0)
		return r;
	*ret_helper = helper;
	helper = (struct lm_credential_helper){0};
	return r;
}

/* --- the files --- */

/* A file that may be missing: 0 with nothing read. */
static int read_secret(const char *path, bool must, struct lm_buf *ret, struct lm_err *err)
{
	if (lm_buf_reserve(ret, ret->max) < 0)
		return lm_err_oom(err);
	int r = lm_file_read(AT_FDCWD, path, ret, err);
	return !must && (r == -ENOENT || r == -ENOTDIR) ? 0 : r;
}

static int find_in_file(const struct lm_credentials *where, const char *path, bool must, const char *registry,
	const char *repository, struct lm_credential *ret, struct lm_err *err)
{
	CLEANUP(lm_secret_buf_done) struct lm_buf text = LM_BUF(FILE_MAX);
	CLEANUP(lm_credential_helper_done) struct lm_credential_helper helper = {0};
	int r = read_secret(path, must, &text, err);
	if (r < 0 || text.len == 0)
		return r;
	r = lm_credentials_parse((const char *)text.data, text.len, registry, repository, ret, &helper, err);
	if (r == 0 && helper.name)
		r = lm_credential_helper_ask(&helper, where->helper_ms ? where->helper_ms : HELPER_MS, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "%s", path) : r;
}

static int find_in_creds_file(const char *path, struct lm_credential *ret, struct lm_err *err)
{
	CLEANUP(lm_secret_buf_done) struct lm_buf text = LM_BUF(SECRET_MAX);
	int r = read_secret(path, true, &text, err);
	if (r < 0)
		return r;
	char *line = (char *)text.data;
	line[strcspn(line, "\r\n")] = '\0';
	char *colon = strchr(line, ':');
	if (!colon || colon == line)
		return lm_err_set(err, -EPROTO, "%s: USER:PASSWORD is wanted on the first line", path);
	return set_credential(ret, line, (size_t)(colon - line), colon + 1, NULL, err);
}

static const char *variable(const char *name)
{
	const char *value = getenv(name);
	return value && *value ? value : NULL;
}

/* The usual places; the caller frees them, NULL where a place can't be named. */
static void usual_places(char *ret[3])
{
	const char *home = variable("HOME"), *runtime = variable("XDG_RUNTIME_DIR");
	const char *config = variable("XDG_CONFIG_HOME"), *docker = variable("DOCKER_CONFIG");
	ret[0] = runtime ? lm_str_printf("%s/containers/auth.json", runtime)
			 : lm_str_printf("/run/containers/%u/auth.json", (unsigned)getuid());
	ret[1] = config ? lm_str_printf("%s/containers/auth.json", config)
		 : home ? lm_str_printf("%s/.config/containers/auth.json", home)
			: NULL;
	ret[2] = docker ? lm_str_printf("%s/config.json", docker)
		 : home ? lm_str_printf("%s/.docker/config.json", home)
			: NULL;
}

int lm_credentials_find(const struct lm_credentials *where, const char *registry, const char *repository,
	struct lm_credential *ret, struct lm_err *err)
{
	const char *named = variable("REGISTRY_AUTH_FILE");
	if (where->creds_file)
		return find_in_creds_file(where->creds_file, ret, err);
	if (where->authfile || named)
		return find_in_file(where, where->authfile ? where->authfile : named, where->authfile, registry,
			repository, ret, err);
	char *places[3];
	int r = 0;
	usual_places(places);
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		CLEANUP(lm_freep) char *path = places[i];
		if (r == 0 && path)
			r = find_in_file(where, path, false, registry, repository, ret, err);
	}
	return r;
}
