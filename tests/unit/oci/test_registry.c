/* Against Debian's docker-registry, filled by skopeo from the fixture. */
#include "fixture.h"

#include <arpa/inet.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { START_MS = 15000 };

static struct {
	struct fixture fixture;
	struct lm_http *http;
	pid_t pid;
	unsigned port;
	char text[200];
} r;

static pid_t start(const char *const *argv, const char *output)
{
	extern char **environ;
	posix_spawn_file_actions_t actions;
	pid_t pid;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_APPEND, 0644);
	posix_spawn_file_actions_adddup2(&actions, 1, 2);
	int e = posix_spawnp(&pid, argv[0], &actions, NULL, (char **)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return e ? -1 : pid;
}

static bool have_program(const char *name)
{
	CLEANUP(lm_freep) char *command = lm_str_printf("command -v %s >/dev/null", name);
	return system(command) == 0;
}

static struct sockaddr_in loopback(unsigned port)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static unsigned free_port(void)
{
	CLEANUP(lm_closep) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = loopback(0);
	socklen_t len = sizeof(address);
	if (bind(fd, (struct sockaddr *)&address, len) < 0 || getsockname(fd, (struct sockaddr *)&address, &len) < 0)
		return 0;
	return ntohs(address.sin_port);
}

static bool listens(unsigned port)
{
	CLEANUP(lm_closep) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = loopback(port);
	return connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
}

static int start_registry(void)
{
	r.port = free_port();
	CLEANUP(lm_freep)
	char *config = lm_str_printf("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s/registry\n"
				     "http:\n  addr: 127.0.0.1:%u\n",
		r.fixture.dir, r.port);
	fixture_write(&r.fixture, "registry.yml", config, strlen(config));
	CLEANUP(lm_freep) char *file = lm_str_printf("%s/registry.yml", r.fixture.dir);
	CLEANUP(lm_freep) char *log = lm_str_printf("%s/registry.log", r.fixture.dir);
	const char *argv[] = {"docker-registry", "serve", file, NULL};
	r.pid = start(argv, log);
	for (int ms = 0; r.pid > 0 && ms < START_MS; ms += 20) {
		if (listens(r.port))
			return 0;
		usleep(20000);
	}
	return -1;
}

static int push(const char *tag, const char *options)
{
	CLEANUP(lm_freep)
	char *command =
		lm_str_printf("skopeo copy --insecure-policy --preserve-digests --dest-tls-verify=false %s oci:%s:%s "
			      "docker://127.0.0.1:%u/group/image:%s >>%s/skopeo.log 2>&1",
			options, r.fixture.dir, tag, r.port, tag, r.fixture.dir);
	return system(command) == 0 ? 0 : -1;
}

static int set_up(void **state)
{
	fixture_make(&r.fixture);
	if (start_registry() < 0 || push("one", "") < 0 || push("multi", "--all") < 0)
		return -1;
	return lm_http_new(NULL, &r.http, NULL);
}

static int tear_down(void **state)
{
	lm_http_free(r.http);
	if (r.pid > 0) {
		kill(r.pid, SIGTERM);
		waitpid(r.pid, NULL, 0);
	}
	fixture_drop(&r.fixture);
	return 0;
}

static const char *named(const char *rest)
{
	snprintf(r.text, sizeof(r.text), "docker://127.0.0.1:%u/%s", r.port, rest);
	return r.text;
}

static void by_tag(void **state)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	struct lm_err err = LM_ERR_INIT;
	if (fixture_get(r.http, named("group/image:one"), NULL, &image, &source, &err) < 0)
		fail_msg("%s", err.msg);
	fixture_check(&r.fixture, 0, &image);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(
			fixture_read(source, image.layers[i].digest, image.layers[i].size, &err), FIXTURE_LAYER_BYTES);
	assert_int_equal(fixture_read(source, image.layers[0].digest, FIXTURE_LAYER_BYTES - 1, &err), -EBADMSG);
	assert_int_equal(fixture_read(source, image.layers[0].digest, FIXTURE_LAYER_BYTES + 1, &err), -EBADMSG);
}

static void through_an_index(void **state)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	struct lm_err err = LM_ERR_INIT;
	if (fixture_get(r.http, named("group/image:multi"), &fixture_arm64, &image, NULL, &err) < 0)
		fail_msg("%s", err.msg);
	fixture_check(&r.fixture, 1, &image);
}

static void by_digest(void **state)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *digest = lm_str_printf("group/image@%s", r.fixture.images[1].manifest);
	CLEANUP(lm_freep) char *tag_too = lm_str_printf("group/image:ignored@%s", r.fixture.index);
	assert_int_equal(fixture_get(r.http, named(digest), NULL, &image, NULL, &err), 0);
	fixture_check(&r.fixture, 1, &image);
	lm_image_done(&image);
	assert_int_equal(fixture_get(r.http, named(tag_too), &fixture_amd64, &image, NULL, &err), 0);
	fixture_check(&r.fixture, 0, &image);
}

static void absent(void **state)
{
	struct lm_image image;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(fixture_get(r.http, named("group/image:none"), NULL, &image, NULL, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "group/image:none"));
	assert_int_equal(fixture_get(r.http, named("nobody"), NULL, &image, NULL, &err), -ENOENT);
	CLEANUP(lm_freep) char *digest = lm_str_printf("group/image@sha256:%064d", 0);
	assert_int_equal(fixture_get(r.http, named(digest), NULL, &image, NULL, &err), -ENOENT);
}

static void damaged_blob(void **state)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	CLEANUP(lm_freep) char *zeros = calloc(1, FIXTURE_LAYER_BYTES);
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(fixture_get(r.http, named("group/image:one"), NULL, &image, &source, &err), 0);
	const char *digits = image.layers[1].digest + strlen("sha256:");
	CLEANUP(lm_freep)
	char *path = lm_str_printf(
		"%s/registry/docker/registry/v2/blobs/sha256/%.2s/%s/data", r.fixture.dir, digits, digits);
	assert_int_equal(lm_file_replace(AT_FDCWD, path, zeros, FIXTURE_LAYER_BYTES, 0644, 0, &err), 0);
	assert_int_equal(fixture_read(source, image.layers[1].digest, FIXTURE_LAYER_BYTES, &err), -EBADMSG);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(fixture_read(source, image.layers[1].digest, FIXTURE_LAYER_BYTES, &err), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(by_tag),
		cmocka_unit_test(through_an_index),
		cmocka_unit_test(by_digest),
		cmocka_unit_test(absent),
		cmocka_unit_test(damaged_blob),
	};
	if (!have_program("docker-registry") || !have_program("skopeo")) {
		printf("skipped: docker-registry and skopeo are wanted\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
