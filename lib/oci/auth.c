#include "oci/auth.h"

#include "base/clock.h"
#include "base/str.h"
#include "oci/json.h"
#include "oci/reference.h"
#include "oci/secret.h"

#include <openssl/evp.h>
#include <string.h>
#include <strings.h>

enum {
	TOKEN_MAX = 32 << 10,
	ANSWER_MAX = 64 << 10,
	URL_MAX = 8 << 10,
	LIFETIME_S = 60,
	LIFETIME_MAX_S = 24 * 3600,
};

void lm_auth_challenge_done(struct lm_auth_challenge *challenge)
{
	free(challenge->scheme);
	free(challenge->realm);
	free(challenge->service);
	free(challenge->scope);
	*challenge = (struct lm_auth_challenge){0};
}

static const char *skip_blanks(const char *at)
{
	return at + strspn(at, " \t");
}

/* RFC 9110: token characters, and the slash and more that realms come with when somebody forgot the quotes. */
static size_t token_length(const char *at)
{
	size_t n = 0;
	while (at[n] > ' ' && at[n] < 0x7f && !strchr("\",=", at[n]))
		n++;
	return n;
}

/* "quoted", with \-escapes, or a token. Advances *at. */
static int parse_value(const char **at, struct lm_buf *ret, struct lm_err *err)
{
	const char *c = *at;
	int r = 0;
	if (*c != '"') {
		size_t n = token_length(c);
		*at = c + n;
		r = lm_buf_append(ret, c, n);
		return r < 0 ? lm_err_oom(err) : 0;
	}
	for (c++; *c && *c != '"' && r == 0; c++) {
		if (*c == '\\' && c[1])
			c++;
		r = lm_buf_append(ret, c, 1);
	}
	if (r < 0)
		return lm_err_oom(err);
	if (*c != '"')
		return lm_err_set(err, -EPROTO, "challenge: closing quote missing");
	*at = c + 1;
	return 0;
}

static int set_parameter(struct lm_auth_challenge *c, const char *name, size_t len, struct lm_buf *value)
{
	const struct {
		const char *name;
		char **target;
	} known[] = {{"realm", &c->realm}, {"service", &c->service}, {"scope", &c->scope}};
	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		if (strlen(known[i].name) != len || strncasecmp(known[i].name, name, len) != 0)
			continue;
		free(*known[i].target);
		*known[i].target = strdup(lm_buf_cstr(value));
		return *known[i].target ? 0 : -ENOMEM;
	}
	return 0;
}

/* name=value, name=value … up to the next scheme or the end. */
static int parse_parameters(const char **at, struct lm_auth_challenge *c, struct lm_err *err)
{
	for (;;) {
		*at += strspn(*at, " \t,");
		const char *name = *at;
		size_t len = token_length(name);
		const char *after = skip_blanks(name + len);
		if (len == 0 || *after != '=')
			return 0;
		CLEANUP(lm_buf_done) struct lm_buf value = LM_BUF(LM_AUTH_CHALLENGE_MAX);
		*at = skip_blanks(after + 1);
		int r = parse_value(at, &value, err);
		if (r < 0)
			return r;
		if (set_parameter(c, name, len, &value) < 0)
			return lm_err_oom(err);
	}
}

static bool is_bearer(const struct lm_auth_challenge *c)
{
	return c->scheme && strcasecmp(c->scheme, "bearer") == 0;
}

int lm_auth_challenge_parse(const char *value, struct lm_auth_challenge *ret, struct lm_err *err)
{
	CLEANUP(lm_auth_challenge_done) struct lm_auth_challenge best = {0};
	const char *at = value;
	if (strlen(value) > LM_AUTH_CHALLENGE_MAX)
		return lm_err_set(err, -EPROTO, "challenge: too long");
	while (*(at += strspn(at, " \t,")) && !is_bearer(&best)) {
		CLEANUP(lm_auth_challenge_done) struct lm_auth_challenge c = {0};
		size_t len = token_length(at);
		if (len == 0)
			return lm_err_set(err, -EPROTO, "challenge: \"%.100s\" is not understood", at);
		c.scheme = lm_str_ndup(at, len);
		if (!c.scheme)
			return lm_err_oom(err);
		at += len;
		int r = parse_parameters(&at, &c, err);
		if (r < 0)
			return r;
		if (best.scheme && !is_bearer(&c))
			continue;
		lm_auth_challenge_done(&best);
		best = c;
		c = (struct lm_auth_challenge){0};
	}
	if (!best.scheme)
		return lm_err_set(err, -EPROTO, "challenge: empty");
	*ret = best;
	best = (struct lm_auth_challenge){0};
	return 0;
}

static int append_escaped(struct lm_buf *url, const char *text)
{
	int r = 0;
	for (; *text && r == 0; text++) {
		bool plain = (*text >= '0' && *text <= '9') || (*text >= 'a' && *text <= 'z') ||
			     (*text >= 'A' && *text <= 'Z') || strchr("-._~", *text);
		r = plain ? lm_buf_append(url, text, 1) : lm_buf_printf(url, "%%%02X", (unsigned char)*text);
	}
	return r;
}

static int append_scope(struct lm_buf *out, const struct lm_auth_challenge *c, const char *repository)
{
	CLEANUP(lm_freep) char *scope = c->scope ? strdup(c->scope) : lm_str_printf("repository:%s:pull", repository);
	if (!scope)
		return -ENOMEM;
	int r = lm_buf_str(out, "scope=");
	if (r == 0)
		r = append_escaped(out, scope);
	if (r == 0 && c->service)
		r = lm_buf_str(out, "&service=");
	return r == 0 && c->service ? append_escaped(out, c->service) : r;
}

static int token_url(const struct lm_auth_challenge *c, const char *repository, const char *user, struct lm_buf *url)
{
	int r = lm_buf_printf(url, "%s%c", c->realm, strchr(c->realm, '?') ? '&' : '?');
	if (r == 0)
		r = append_scope(url, c, repository);
	if (r == 0 && user)
		r = lm_buf_str(url, "&account=");
	return r == 0 && user ? append_escaped(url, user) : r;
}

/* Nothing that could end the header line. */
static bool token_valid(const char *token)
{
	size_t len = 0;
	while (token[len] > ' ' && token[len] < 0x7f)
		len++;
	return len > 0 && len <= TOKEN_MAX && token[len] == '\0';
}

/* A token that does not say how long it lives is good for a minute. */
static int parse_lifetime(const json_t *root, struct lm_authorization *ret, struct lm_err *err)
{
	uint64_t seconds = 0;
	int r = json_object_get(root, "expires_in") ? lm_json_u64("token", root, "expires_in", &seconds, err) : 0;
	if (r < 0)
		return r;
	seconds = seconds == 0 ? LIFETIME_S : LM_MIN(seconds, (uint64_t)LIFETIME_MAX_S);
	/* Asked for anew a little before, lest it dies on the way. */
	ret->expires_ms = lm_now_ms() + (int64_t)(seconds * 1000 - LM_MIN(seconds * 250, (uint64_t)10000));
	return 0;
}

static int parse_token(const struct lm_buf *answer, struct lm_authorization *ret, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *root = NULL;
	const char *token = NULL;
	int r = lm_json_load("token", lm_buf_cstr(answer), answer->len, &root, NULL);
	if (r < 0) /* the parser's message would show a piece of the text */
		return lm_err_set(err, r, "token: no JSON object");
	r = lm_json_string("token", root, "token", LM_JSON_OPTIONAL, &token, err);
	if (r == 0 && !token)
		r = lm_json_string("token", root, "access_token", LM_JSON_REQUIRED, &token, err);
	if (r == 0)
		r = parse_lifetime(root, ret, err);
	if (r < 0)
		return r;
	if (!token_valid(token))
		return lm_err_set(err, -EPROTO, "token: too long or with characters that no token has");
	ret->header = lm_str_printf("Authorization: Bearer %s", token);
	return ret->header ? 0 : lm_err_oom(err);
}

static int basic_header(const struct lm_credential *credential, char **ret, struct lm_err *err)
{
	static const char name[] = "Authorization: Basic ";
	if (strchr(credential->user, ':'))
		return lm_err_set(err, -EACCES, "a user's name with a colon can't be sent");
	CLEANUP(lm_secret_freep) char *plain = lm_str_printf("%s:%s", credential->user, credential->password);
	if (!plain)
		return lm_err_oom(err);
	size_t len = strlen(plain);
	if (len > TOKEN_MAX)
		return lm_err_set(err, -EACCES, "user and password are longer than %d bytes", TOKEN_MAX);
	char *header = malloc(sizeof(name) + (len + 2) / 3 * 4);
	if (!header)
		return lm_err_oom(err);
	memcpy(header, name, sizeof(name));
	EVP_EncodeBlock((unsigned char *)header + sizeof(name) - 1, (const unsigned char *)plain, (int)len);
	*ret = header;
	return 0;
}

/* By GET, anonymously or with a password. */
static int get_token(const struct lm_auth_client *client, const struct lm_auth_challenge *c,
	const struct lm_credential *credential, struct lm_buf *answer, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf url = LM_BUF(URL_MAX);
	CLEANUP(lm_secret_freep) char *basic = NULL;
	int r = token_url(c, client->repository, credential->user, &url);
	if (r < 0)
		return lm_err_set(err, r, "no address for a token can be made of the registry's challenge");
	r = credential->user ? basic_header(credential, &basic, err) : 0;
	if (r < 0)
		return r;
	const char *lines[] = {basic, NULL};
	struct lm_http_request request = {.url = lm_buf_cstr(&url), .headers = lines, .follow_redirects = true};
	lm_trust_apply(client->trust, &request);
	return lm_http_get(client->http, &request, answer, NULL, err);
}

/* By OAuth 2: what a login has left is exchanged for a token. */
static int exchange_token(const struct lm_auth_client *client, const struct lm_auth_challenge *c,
	const struct lm_credential *credential, struct lm_buf *answer, struct lm_err *err)
{
	CLEANUP(lm_secret_buf_done) struct lm_buf form = LM_BUF(2 * URL_MAX + 3 * TOKEN_MAX);
	static const char *const lines[] = {"Content-Type: application/x-www-form-urlencoded", NULL};
	int r = lm_buf_reserve(&form, form.max);
	if (r == 0)
		r = lm_buf_str(&form, "grant_type=refresh_token&client_id=lamella&");
	if (r == 0)
		r = append_scope(&form, c, client->repository);
	if (r == 0)
		r = lm_buf_str(&form, "&refresh_token=");
	if (r == 0)
		r = append_escaped(&form, credential->identity_token);
	if (r < 0)
		return lm_err_set(err, r, "no request for a token can be made of the registry's challenge");
	struct lm_http_request request = {
		.url = c->realm, .method = "POST", .body = lm_buf_cstr(&form), .headers = lines};
	lm_trust_apply(client->trust, &request);
	return lm_http_get(client->http, &request, answer, NULL, err);
}

static int fetch_token(const struct lm_auth_client *client, const struct lm_auth_challenge *c,
	const struct lm_credential *credential, struct lm_authorization *ret, struct lm_err *err)
{
	CLEANUP(lm_secret_buf_done) struct lm_buf answer = LM_BUF(ANSWER_MAX);
	if (lm_buf_reserve(&answer, ANSWER_MAX) < 0)
		return lm_err_oom(err);
	int r = credential->identity_token ? exchange_token(client, c, credential, &answer, err)
					   : get_token(client, c, credential, &answer, err);
	if (r == -EACCES && (credential->user || credential->identity_token))
		return lm_err_prefix(err, r, "the credentials for %s are refused", client->registry);
	if (r == 0)
		r = parse_token(&answer, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "token from %s", c->realm) : 0;
}

/* https, or plain HTTP where that does not leave this machine or was asked for. */
static bool realm_is_safe(const struct lm_auth_client *client, const char *realm)
{
	if (strncasecmp(realm, "https://", 8) == 0)
		return true;
	if (strncasecmp(realm, "http://", 7) != 0)
		return false;
	size_t len = strcspn(realm + 7, "/?#");
	CLEANUP(lm_freep) char *host = lm_str_ndup(realm + 7, len);
	return host && !strpbrk(host, "@\\") &&
	       (client->plain_http || (lm_host_is_loopback(client->registry) && lm_host_is_loopback(host)));
}

void lm_authorization_done(struct lm_authorization *authorization)
{
	lm_secret_free(authorization->header);
	*authorization = (struct lm_authorization){0};
}

int lm_auth_answer(
	const struct lm_auth_client *client, const char *challenge, struct lm_authorization *ret, struct lm_err *err)
{
	CLEANUP(lm_auth_challenge_done) struct lm_auth_challenge c = {0};
	CLEANUP(lm_credential_done) struct lm_credential credential = {0};
	int r = lm_auth_challenge_parse(challenge, &c, err);
	if (r == 0 && client->credentials)
		r = lm_credentials_find(client->credentials, client->registry, client->repository, &credential, err);
	if (r < 0)
		return r;
	if (is_bearer(&c)) {
		if (c.realm && realm_is_safe(client, c.realm))
			return fetch_token(client, &c, &credential, ret, err);
		return lm_err_set(err, -EACCES, "tokens are offered at \"%.200s\", which is no safe address",
			c.realm ? c.realm : "");
	}
	if (strcasecmp(c.scheme, "basic") != 0 || !credential.user || credential.identity_token)
		return lm_err_set(err, -EACCES, "a user and a password are wanted (%.50s)", c.scheme);
	if (client->plain_registry && !client->plain_http && !lm_host_is_loopback(client->registry))
		return lm_err_set(err, -EACCES, "a password is not sent over plain HTTP");
	return basic_header(&credential, &ret->header, err);
}
