/* Registries that lie, stall the conversation, ask for tokens, or send elsewhere. */
#include "fixture.h"
#include "liar.h"
#include "oci/auth.h"

#include <signal.h>

enum lie {
	HONEST,
	WRONG_MANIFEST,
	FALSE_DIGEST_HEADER,
	FALSE_TYPE,
	NO_TYPE,
	HUGE_MANIFEST,
	SHORT_BLOB,
	LONG_BLOB,
	WRONG_BLOB,
	CUT_OFF,
	CUT_ONCE,
	CUT_AGAIN_AND_AGAIN,
	CUT_WITH_OTHER_REST,
	CUT_BEGINS_ANEW,
	CUT_AT_ONCE,
	SERVER_ERROR,
	FORBIDDEN,
	BASIC_ONLY,
	SILENT_401,
	TOKEN,
	TOKEN_REFUSED,
	TOKEN_EVIL,
	TOKEN_EXPIRES,
	REALM_ELSEWHERE,
	REDIRECT,
};

static struct {
	struct fixture fixture;
	struct lm_http *http;
	char text[200];
	_Atomic(int) lie; /* enum lie */
	/* the server's thread; read after an answer came */
	_Atomic(unsigned) requests, parts, tokens_given, leaks;
	_Atomic(bool) first_expired;
} t;

#define TOKEN_TEXT "abc.def-ghi_123~+/="

static void say_file(int fd, const char *head, const char *digest, size_t cut_by, size_t add)
{
	char name[96];
	CLEANUP(lm_buf_done) struct lm_buf body = LM_BUF(1 << 20);
	fixture_blob_path(digest, name);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", t.fixture.dir, name);
	if (lm_file_read(AT_FDCWD, path, &body, NULL) < 0) {
		liar_say(fd, "404 Not Found", "", 0);
		return;
	}
	for (size_t i = 0; i < add; i++)
		(void)!lm_buf_append(&body, "", 1);
	liar_say(fd, head, body.data, body.len - cut_by);
}

static void say_manifest(int fd)
{
	static char huge[LM_MANIFEST_JSON_MAX + 1];
	const char *digest = t.fixture.images[0].manifest;
	switch ((int)t.lie) {
	case WRONG_MANIFEST:
		say_file(fd, "200 OK", t.fixture.images[1].manifest, 0, 0);
		return;
	case FALSE_DIGEST_HEADER:
		say_file(fd, "200 OK\r\nDocker-Content-Digest: sha256:0000", digest, 0, 0);
		return;
	case FALSE_TYPE:
		say_file(fd, "200 OK\r\nContent-Type: " FIXTURE_INDEX_TYPE, digest, 0, 0);
		return;
	case HUGE_MANIFEST:
		memset(huge, ' ', sizeof(huge));
		liar_say(fd, "200 OK", huge, sizeof(huge));
		return;
	case NO_TYPE:
		say_file(fd, "200 OK", digest, 0, 0);
		return;
	default:
		say_file(fd, "200 OK\r\nContent-Type: " FIXTURE_MANIFEST_TYPE "; charset=utf-8", digest, 0, 0);
	}
}

/* From where the range begins: half of the blob, a byte, or all that is left but shifted; then silence. Or the range is
 * not looked at, and the first answer is cut in the middle, or before the first byte. */
static void say_part(int fd, const struct liar_request *request, const char *digest)
{
	char name[96];
	size_t from = 0;
	const char *range = strstr(request->head, "Range: bytes=");
	CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(1 << 20);
	fixture_blob_path(digest, name);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", t.fixture.dir, name);
	if (lm_file_read(AT_FDCWD, path, &blob, NULL) < 0 || (range && sscanf(range, "Range: bytes=%zu-", &from) != 1))
		return;
	bool again = t.parts++ > 0;
	if (t.lie == CUT_BEGINS_ANEW || t.lie == CUT_AT_ONCE) {
		dprintf(fd, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", blob.len);
		(void)!lm_write_all(fd, blob.data, again ? blob.len : t.lie == CUT_AT_ONCE ? 0 : blob.len / 2, NULL);
		return;
	}
	size_t left = blob.len - from, give = t.lie == CUT_AGAIN_AND_AGAIN && range ? 1 : range ? left : left / 2;
	size_t at = t.lie == CUT_WITH_OTHER_REST && range ? 0 : from;
	dprintf(fd, "HTTP/1.1 %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", range ? "206 Partial" : "200 OK",
		left);
	(void)!lm_write_all(fd, blob.data + at, give, NULL);
}

static void say_layer(const struct liar *liar, int fd, const struct liar_request *request, const char *digest)
{
	char head[1200];
	switch ((int)t.lie) {
	case SHORT_BLOB:
		say_file(fd, "200 OK", digest, 1, 0);
		return;
	case LONG_BLOB:
		say_file(fd, "200 OK", digest, 0, 1);
		return;
	case WRONG_BLOB:
		say_file(fd, "200 OK", t.fixture.images[1].layers[1], 0, 0);
		return;
	case CUT_OFF:
		dprintf(fd, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nbeginning", FIXTURE_LAYER_BYTES);
		return;
	case CUT_ONCE:
	case CUT_AGAIN_AND_AGAIN:
	case CUT_WITH_OTHER_REST:
	case CUT_BEGINS_ANEW:
	case CUT_AT_ONCE:
		say_part(fd, request, digest);
		return;
	case REDIRECT:
		if (request->elsewhere) {
			t.leaks += strstr(request->head, "Authorization:") != NULL;
			say_file(fd, "200 OK", digest, 0, 0);
			return;
		}
		snprintf(head, sizeof(head), "307 Temporary Redirect\r\nLocation: http://127.0.0.2:%u%s", liar->port,
			request->path);
		liar_say(fd, head, "", 0);
		return;
	default:
		say_file(fd, "200 OK", digest, 0, 0);
	}
}

static bool wants_token(void)
{
	return t.lie >= TOKEN && t.lie <= REDIRECT;
}

static void say_challenge(const struct liar *liar, int fd)
{
	char head[400];
	if (t.lie == SILENT_401) {
		liar_say(fd, "401 Unauthorized", "", 0);
		return;
	}
	if (t.lie == BASIC_ONLY) {
		liar_say(fd, "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"private\"", "", 0);
		return;
	}
	snprintf(head, sizeof(head),
		"401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n"
		"WWW-Authenticate: Bearer realm=\"%s:%u/token\",service=\"a registry\",scope=\"repository:x/y:pull\"",
		t.lie == REALM_ELSEWHERE ? "file:///etc/passwd" : "http://127.0.0.1", liar->port);
	liar_say(fd, head, "", 0);
}

static void say_token(int fd, const struct liar_request *request)
{
	static const char good[] = "{\"token\":\"" TOKEN_TEXT "\",\"expires_in\":60}";
	static const char evil[] = "{\"access_token\":\"abc\\r\\nX-Evil: yes\"}";
	if (!strstr(request->path, "scope=repository%3Ax%2Fy%3Apull") ||
		!strstr(request->path, "service=a%20registry")) {
		liar_say(fd, "400 Bad Request", "", 0);
		return;
	}
	t.tokens_given++;
	if (t.lie == TOKEN_EVIL)
		liar_say(fd, "200 OK", evil, strlen(evil));
	else
		liar_say(fd, "200 OK", good, strlen(good));
}

/* One kind of first token dies when the layer is asked for. */
static bool token_holds(const struct liar_request *request)
{
	bool given = strstr(request->head, "Authorization: Bearer " TOKEN_TEXT "\r\n");
	if (t.lie == TOKEN_REFUSED)
		return false;
	if (t.lie == TOKEN_EXPIRES && strstr(request->path, t.fixture.images[0].layers[0]))
		t.first_expired = true;
	if (t.first_expired && t.tokens_given < 2)
		return false;
	return given;
}

static void handle(struct liar *liar, const struct liar_request *request, int fd)
{
	const char *digest = strstr(request->path, "sha256:");
	t.requests++;
	if (t.lie == SERVER_ERROR)
		liar_say(fd, "500 Oh no", "", 0);
	else if (t.lie == FORBIDDEN)
		liar_say(fd, "403 Forbidden", "", 0);
	else if (strncmp(request->path, "/token", 6) == 0)
		say_token(fd, request);
	else if (t.lie == BASIC_ONLY || t.lie == SILENT_401 ||
		 (wants_token() && !request->elsewhere && !token_holds(request)))
		say_challenge(liar, fd);
	else if (strstr(request->path, "/v2/x/y/manifests/"))
		say_manifest(fd);
	else if (digest && strncmp(digest, t.fixture.images[0].config, LM_DIGEST_MAX - 1) == 0)
		say_file(fd, "200 OK", digest, 0, 0);
	else if (digest && strstr(request->path, "/v2/x/y/blobs/"))
		say_layer(liar, fd, request, digest);
	else
		liar_say(fd, "404 Not Found", "", 0);
}

static struct liar liar = {.handler = handle};

static int set_up(void **state)
{
	signal(SIGPIPE, SIG_IGN);
	fixture_make(&t.fixture);
	return liar_start(&liar) < 0 ? -1 : lm_http_new(NULL, &t.http, NULL);
}

static int tear_down(void **state)
{
	lm_http_free(t.http);
	liar_stop(&liar);
	fixture_drop(&t.fixture);
	return 0;
}

static int get(enum lie lie, const char *digest, struct lm_image *image, struct lm_source **source, struct lm_err *err)
{
	t.lie = lie;
	t.requests = t.tokens_given = t.leaks = 0;
	t.first_expired = false;
	snprintf(t.text, sizeof(t.text), "docker://127.0.0.1:%u/x/y%s%s", liar.port, digest ? "@" : "",
		digest ? digest : "");
	return fixture_get(t.http, t.text, NULL, image, source, err);
}

static int try(enum lie lie, const char *digest, struct lm_err *err)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	return get(lie, digest, &image, NULL, err);
}

static ssize_t try_layer(enum lie lie, struct lm_err *err)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	int r = get(lie, NULL, &image, &source, err);
	return r < 0 ? r : fixture_read(source, image.layers[0].digest, image.layers[0].size, err);
}

static void honest(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(try_layer(HONEST, &err), FIXTURE_LAYER_BYTES);
	assert_int_equal(try(HONEST, t.fixture.images[0].manifest, &err), 0);
	assert_int_equal(try(NO_TYPE, NULL, &err), 0);
	assert_int_equal(t.requests, 2); /* manifest and config */
}

static void manifests(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(try(WRONG_MANIFEST, t.fixture.images[0].manifest, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, t.fixture.images[0].manifest));
	assert_int_equal(try(FALSE_DIGEST_HEADER, NULL, &err), 0);
	assert_int_equal(try(FALSE_TYPE, NULL, &err), -EPROTO);
	assert_int_equal(try(HUGE_MANIFEST, NULL, &err), -EMSGSIZE);
}

static void blobs(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(try_layer(SHORT_BLOB, &err), -EBADMSG);
	assert_int_equal(try_layer(LONG_BLOB, &err), -EBADMSG);
	assert_int_equal(try_layer(WRONG_BLOB, &err), -EBADMSG);
	assert_int_equal(try_layer(CUT_OFF, &err), -EIO);
}

static void broken_connections(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	if (try_layer(CUT_ONCE, &err) != FIXTURE_LAYER_BYTES)
		fail_msg("%s", err.msg);
	assert_int_equal(t.requests, 4); /* manifest, config, the layer in two */
	assert_int_equal(try_layer(CUT_AGAIN_AND_AGAIN, &err), -EIO);
	assert_int_equal(t.requests, 6);
	assert_int_equal(try_layer(CUT_WITH_OTHER_REST, &err), -EBADMSG);
	assert_int_equal(try_layer(CUT_OFF, &err), -EIO); /* the same beginning, however often */
	assert_int_equal(t.requests, 6);
	for (int lie = CUT_BEGINS_ANEW; lie <= CUT_AT_ONCE; lie++) {
		t.parts = 0;
		if (try_layer(lie, &err) != FIXTURE_LAYER_BYTES)
			fail_msg("%s", err.msg);
		assert_int_equal(t.requests, 4);
	}
}

static void refusals(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(try(SERVER_ERROR, NULL, &err), -EIO);
	assert_int_equal(try(FORBIDDEN, NULL, &err), -EACCES);
	assert_int_equal(t.requests, 1);
	assert_int_equal(try(SILENT_401, NULL, &err), -EACCES);
	assert_int_equal(t.requests, 1);
	assert_int_equal(try(BASIC_ONLY, NULL, &err), -EACCES);
	assert_non_null(strstr(err.msg, "a user and a password are wanted"));
	assert_int_equal(t.requests, 1);
}

static void tokens(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(try_layer(TOKEN, &err), FIXTURE_LAYER_BYTES);
	assert_int_equal(t.tokens_given, 1);
	assert_int_equal(t.requests, 5); /* refused, token, manifest, config, layer */
	assert_int_equal(try(TOKEN_REFUSED, NULL, &err), -EACCES);
	assert_int_equal(t.requests, 3);
	assert_int_equal(try(TOKEN_EVIL, NULL, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "characters that no token has"));
	assert_int_equal(try(REALM_ELSEWHERE, NULL, &err), -EACCES);
	assert_non_null(strstr(err.msg, "no safe address"));
	assert_int_equal(t.tokens_given, 0);
}

static void tokens_expire(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	if (try_layer(TOKEN_EXPIRES, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(t.tokens_given, 2);
}

static void redirects_do_not_leak(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(try_layer(REDIRECT, &err), FIXTURE_LAYER_BYTES);
	assert_int_equal(t.tokens_given, 1);
	assert_int_equal(t.leaks, 0);
}

static void nobody_there(void **state)
{
	struct lm_image image;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(fixture_get(t.http, "docker://127.0.0.1:1/x", NULL, &image, NULL, &err), -EIO);
}

static void challenges(void **state)
{
	static const struct {
		const char *value, *scheme, *realm, *service, *scope;
	} cases[] = {
		{"Bearer realm=\"https://a/t\",service=\"s\",scope=\"x\"", "Bearer", "https://a/t", "s", "x"},
		{"bearer realm=https://a/t", "bearer", "https://a/t", NULL, NULL},
		{"Bearer  realm = \"a\\\"b\" , other=\"1,2\", SERVICE=s", "Bearer", "a\"b", "s", NULL},
		{"Basic realm=\"r\"", "Basic", "r", NULL, NULL},
		{"Basic", "Basic", NULL, NULL, NULL},
		{"Negotiate, Basic realm=\"r\", Bearer realm=\"b\"", "Bearer", "b", NULL, NULL},
		{"Bearer realm=\"b\", Basic realm=\"r\"", "Bearer", "b", NULL, NULL},
		{"Bearer realm=\"1\",realm=\"2\"", "Bearer", "2", NULL, NULL},
		{",, Basic realm=\"\"", "Basic", "", NULL, NULL},
	};
	static const char *const bad[] = {"", " , ", "Bearer realm=\"open", "\"quoted\"", "=x", "Bearer realm=\"x\\"};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_auth_challenge_done) struct lm_auth_challenge c = {0};
		struct lm_err err = LM_ERR_INIT;
		if (lm_auth_challenge_parse(cases[i].value, &c, &err) < 0)
			fail_msg("%s: %s", cases[i].value, err.msg);
		const char *const got[] = {c.scheme, c.realm, c.service, c.scope};
		const char *const wanted[] = {cases[i].scheme, cases[i].realm, cases[i].service, cases[i].scope};
		for (size_t k = 0; k < ARRAY_LEN(got); k++)
			if (wanted[k] ? !got[k] || strcmp(got[k], wanted[k]) != 0 : got[k] != NULL)
				fail_msg("%s: part %zu is %s", cases[i].value, k, got[k] ? got[k] : "(null)");
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct lm_auth_challenge c;
		if (lm_auth_challenge_parse(bad[i], &c, NULL) != -EPROTO)
			fail_msg("accepted: %s", bad[i]);
	}
}

static void realms_are_safe(void **state)
{
	CLEANUP(lm_authorization_done) struct lm_authorization authorization = {0};
	struct lm_err err = LM_ERR_INIT;
	static const char *const unsafe[] = {
		"Bearer realm=\"http://127.0.0.1.example.org/token\"",
		"Bearer realm=\"http://127.0.0.1@example.org/token\"",
		"Bearer realm=\"http://example.org\\\\@127.0.0.1/token\"",
		"Bearer realm=\"file:///etc/passwd\"",
		"Bearer service=\"s\"",
	};
	CLEANUP(lm_freep) char *challenge = lm_str_printf("Bearer realm=\"http://127.0.0.1:%u/token\"", liar.port);
	struct lm_auth_client client = {.http = t.http, .registry = "registry.example.org", .repository = "x/y"};
	assert_int_equal(lm_auth_answer(&client, challenge, &authorization, &err), -EACCES);
	client.registry = "localhost:5000";
	for (size_t i = 0; i < ARRAY_LEN(unsafe); i++)
		if (lm_auth_answer(&client, unsafe[i], &authorization, &err) != -EACCES)
			fail_msg("answered: %s", unsafe[i]);
	assert_null(authorization.header);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(honest),
		cmocka_unit_test(manifests),
		cmocka_unit_test(blobs),
		cmocka_unit_test(broken_connections),
		cmocka_unit_test(refusals),
		cmocka_unit_test(tokens),
		cmocka_unit_test(tokens_expire),
		cmocka_unit_test(redirects_do_not_leak),
		cmocka_unit_test(nobody_there),
		cmocka_unit_test(challenges),
		cmocka_unit_test(realms_are_safe),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
