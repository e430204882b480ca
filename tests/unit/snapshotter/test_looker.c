/* Who looks into mounts: order, mounts that hang, fail, or are looked through, and that an answer always comes in time.
 */
#include "snapshotter/looker.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/str.h"

#include "lamella/fetcher.pb-c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

typedef Lamella__Fetcher__V1__ResolveResponse Response;
#define STATE(name) LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_##name

/* Two places: a layer's number says who has it. 1x: /first; 2x: /second; 3x: both; 4x: none; 5x: both, by stock tools.
 * Of x, 8 marks deletions. */
static struct {
	struct lm_lock lock;
	struct lm_cond changed;
	/* under lock */
	bool first_hangs, first_fails, looking_hangs;
	bool held;	 /* those that hang */
	unsigned inside; /* how many */
	unsigned looks;	 /* into layers of the first */
} world;
static _Atomic(int64_t) skipped_ms;

static int64_t fake_now(void)
{
	return lm_now_ms() + skipped_ms;
}

static void hang_if(bool hangs)
{
	if (!hangs)
		return;
	world.inside++;
	lm_cond_broadcast(&world.changed);
	while (world.held)
		lm_cond_wait(&world.changed, &world.lock);
	world.inside--;
}

static int fake_find(
	const char *directory, const struct lm_place_names *names, struct lm_place_layer *ret, struct lm_err *err)
{
	bool first = strcmp(directory, "/first") == 0;
	unsigned number = (unsigned)strtoul(names->by[LM_PLACE_BY_DIGEST].s + sizeof("sha256:") + 60, NULL, 10);
	lm_lock_take(&world.lock);
	hang_if(first && world.first_hangs);
	bool fails = first && world.first_fails;
	lm_lock_release(&world.lock);
	if (fails)
		return lm_err_set(err, -ENOTCONN, "%s: not connected", directory);
	if (number / 10 == 4 || number / 10 == (first ? 2 : 1))
		return lm_err_set(err, -ENOENT, "%s revision 7", directory);
	*ret = (struct lm_place_layer){.digest = names->by[LM_PLACE_BY_DIGEST],
		.path = lm_str_printf("%s/%u", directory, number),
		.marks = number / 10 == 5,
		.note = number / 10 == 5 ? strdup("stock") : NULL};
	return 0;
}

static int fake_marks(const char *path, lm_place_alive_fn *alive, void *arg, char **ret, struct lm_err *err)
{
	lm_lock_take(&world.lock);
	world.looks += lm_str_starts(path, "/first/");
	hang_if(world.looking_hangs);
	lm_lock_release(&world.lock);
	if (!alive(arg))
		return lm_err_set(err, -ECANCELED, "cancelled");
	if (!lm_str_ends(path, "8"))
		return 0;
	*ret = strdup("/etc/.wh.gone");
	return 1;
}

static const struct lm_looker_ways fake_ways = {.find = fake_find, .marks = fake_marks, .now_ms = fake_now};

struct fixture {
	char dir[40], socket[64];
	struct lm_places places;
	struct lm_looker *looker;
	struct lm_rpc_server *server;
	struct lm_rpc_client *client;
};

static void on_resolve(struct lm_rpc_call *call, void *arg)
{
	lm_looker_handle(arg, call);
}

static int setup(void **state)
{
	static const struct lm_rpc_method methods[] = {{"/lamella.fetcher.v1.Fetcher/Resolve",
		&lamella__fetcher__v1__resolve_request__descriptor, on_resolve, 0}};
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->dir, "/tmp/lm-looker.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->socket, sizeof(f->socket), "%s/socket", f->dir);
	world.first_hangs = world.first_fails = world.looking_hangs = false;
	world.held = true;
	world.inside = world.looks = 0;
	lm_lock_init(&world.lock);
	lm_cond_init(&world.changed);
	assert_int_equal(lm_places_parse("path:/first,path:/second", &f->places, NULL), 0);
	assert_int_equal(lm_looker_new(&f->places, &fake_ways, &f->looker, NULL), 0);
	assert_int_equal(lm_rpc_server_new(f->socket, methods, 1, f->looker, 16, &f->server, NULL), 0);
	assert_int_equal(lm_rpc_client_new(f->socket, &f->client, NULL), 0);
	*state = f;
	return 0;
}

static void set(bool *condition, bool value)
{
	LM_LOCKED(&world.lock);
	*condition = value;
	lm_cond_broadcast(&world.changed);
}

static unsigned looks(void)
{
	LM_LOCKED(&world.lock);
	return world.looks;
}

static void wait_for_hanging(unsigned count)
{
	LM_LOCKED(&world.lock);
	while (world.inside < count)
		assert_true(lm_cond_wait_ms(&world.changed, &world.lock, 20000));
	assert_int_equal(world.inside, count);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	set(&world.held, false);
	lm_rpc_client_free(f->client);
	lm_rpc_server_free(f->server);
	lm_looker_free(f->looker);
	lm_places_done(&f->places);
	assert_int_equal(lm_remove_tree(AT_FDCWD, f->dir, NULL), 0);
	lm_cond_done(&world.changed);
	lm_lock_done(&world.lock);
	free(f);
	return 0;
}

/* Freed by the caller. */
static Response *ask(struct fixture *f, unsigned timeout_ms, size_t count, ...)
{
	Lamella__Fetcher__V1__LayerQuery queries[16], *pointers[16];
	char digests[16][80];
	Response *response = NULL;
	struct lm_err err = LM_ERR_INIT;
	va_list args;
	va_start(args, count);
	for (size_t i = 0; i < count; i++) {
		queries[i] = (Lamella__Fetcher__V1__LayerQuery)LAMELLA__FETCHER__V1__LAYER_QUERY__INIT;
		snprintf(digests[i], sizeof(digests[i]), "sha256:%064u", va_arg(args, unsigned));
		queries[i].digest = digests[i];
		pointers[i] = &queries[i];
	}
	va_end(args);
	Lamella__Fetcher__V1__ResolveRequest request = LAMELLA__FETCHER__V1__RESOLVE_REQUEST__INIT;
	request.n_layers = count;
	request.layers = pointers;
	if (lm_rpc_invoke(f->client, "/lamella.fetcher.v1.Fetcher/Resolve", &request.base,
		    &lamella__fetcher__v1__resolve_response__descriptor, timeout_ms, false,
		    (ProtobufCMessage **)&response, NULL, &err) < 0)
		fail_msg("%s", lm_err_text(&err));
	assert_int_equal(response->n_layers, count);
	return response;
}

static void done(Response *response)
{
	lamella__fetcher__v1__resolve_response__free_unpacked(response, NULL);
}

static void assert_path(const Response *response, size_t i, const char *directory, unsigned number)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/%u", directory, number);
	assert_string_equal(response->layers[i]->path, path);
	assert_string_equal(response->layers[i]->repository, directory);
}

static void order(void **state)
{
	struct fixture *f = *state;
	Response *r = ask(f, 5000, 5, 30, 11, 21, 41, 31);
	assert_path(r, 0, "/first", 30);
	assert_path(r, 1, "/first", 11);
	assert_path(r, 2, "/second", 21);
	assert_path(r, 4, "/first", 31);
	assert_int_equal(r->layers[0]->state, STATE(FAITHFUL));
	assert_int_equal(r->layers[3]->state, STATE(ABSENT));
	assert_string_equal(r->layers[3]->reason, "no mount has it: /first revision 7, /second revision 7");
	assert_string_equal(r->problem, "");
	done(r);
}

static void failing(void **state)
{
	struct fixture *f = *state;
	set(&world.first_fails, true);
	Response *r = ask(f, 5000, 3, 30, 11, 41);
	assert_path(r, 0, "/second", 30);
	assert_int_equal(r->layers[1]->state, STATE(UNAVAILABLE));
	assert_string_equal(r->layers[1]->reason, "/first: not connected");
	assert_int_equal(r->layers[2]->state, STATE(UNAVAILABLE));
	assert_string_equal(r->problem, "/first: not connected");
	done(r);
	set(&world.first_fails, false);
	r = ask(f, 5000, 1, 30);
	assert_path(r, 0, "/first", 30);
	assert_string_equal(r->problem, "");
	done(r);
}

static void stock(void **state)
{
	struct fixture *f = *state;
	Response *r = ask(f, 5000, 2, 51, 58);
	assert_path(r, 0, "/first", 51);
	assert_int_equal(r->layers[0]->state, STATE(LOSSY));
	assert_string_equal(r->layers[0]->reason, "stock");
	assert_int_equal(r->layers[1]->state, STATE(ABSENT));
	assert_non_null(strstr(r->layers[1]->reason, "/first/58 marks deletions by names (etc/.wh.gone)"));
	done(r);
	assert_int_equal(looks(), 2);
	done(ask(f, 5000, 2, 51, 58));
	assert_int_equal(looks(), 2);
}

/* It goes on without whoever asked, and only once. */
static void looked_through(void **state)
{
	struct fixture *f = *state;
	set(&world.looking_hangs, true);
	Response *r = ask(f, 500, 1, 51);
	assert_int_equal(r->layers[0]->state, STATE(UNAVAILABLE));
	done(r);
	r = ask(f, 5000, 1, 51);
	assert_int_equal(r->layers[0]->state, STATE(UNAVAILABLE));
	assert_non_null(strstr(r->layers[0]->reason, "/first/51 is still being looked through"));
	assert_string_equal(r->problem, "");
	done(r);
	assert_int_equal(looks(), 1);
	set(&world.held, false);
	for (bool served = false; !served;) {
		r = ask(f, 5000, 1, 51);
		served = r->layers[0]->state == STATE(LOSSY);
		done(r);
	}
	assert_int_equal(looks(), 1);
}

static int64_t took(int64_t since_ms)
{
	return lm_now_ms() - since_ms;
}

static void hanging(void **state)
{
	struct fixture *f = *state;
	set(&world.first_hangs, true);
	int64_t began_ms = lm_now_ms();
	Response *r = ask(f, 700, 2, 11, 21);
	assert_true(took(began_ms) < 700);
	assert_int_equal(r->layers[0]->state, STATE(UNAVAILABLE));
	assert_string_equal(r->layers[0]->reason, "/first did not answer in time");
	assert_path(r, 1, "/second", 21); /* the first may have it, but who knows */
	assert_string_equal(r->problem, "/first did not answer in time");
	done(r);
	skipped_ms += LM_LOOKER_PATIENCE_MS;
	/* From now on nobody waits. */
	for (int i = 0; i < 50; i++) {
		began_ms = lm_now_ms();
		r = ask(f, 20000, 2, 11, 30);
		assert_true(took(began_ms) < 10000);
		assert_non_null(strstr(r->layers[0]->reason, "/first does not answer: nothing has come"));
		assert_path(r, 1, "/second", 30);
		done(r);
	}
	wait_for_hanging(2);
	/* Asked now and then, and never by more threads than there may be. */
	for (int i = 0; i < LM_LOOKER_THREADS_MAX + 8; i++) {
		skipped_ms += LM_LOOKER_RETRY_MS;
		done(ask(f, 250, 1, 11));
	}
	wait_for_hanging(LM_LOOKER_THREADS_MAX);
	/* It answers again. */
	set(&world.first_hangs, false);
	set(&world.held, false);
	for (bool served = false; !served;) {
		r = ask(f, 5000, 1, 11);
		served = r->layers[0]->state == STATE(FAITHFUL);
		done(r);
	}
}

/* A mount that is replaced is found by the next try, though those that have asked the old one never come back. */
static void replaced(void **state)
{
	struct fixture *f = *state;
	set(&world.first_hangs, true);
	done(ask(f, 400, 1, 11));
	wait_for_hanging(1);
	set(&world.first_hangs, false);
	skipped_ms += LM_LOOKER_PATIENCE_MS + LM_LOOKER_RETRY_MS;
	Response *r = ask(f, 20000, 3, 11, 12, 13);
	for (unsigned i = 0; i < 3; i++)
		assert_path(r, i, "/first", 11 + i);
	assert_string_equal(r->problem, "");
	done(r);
	wait_for_hanging(1);
	skipped_ms += LM_LOOKER_PATIENCE_MS;
	r = ask(f, 20000, 1, 11);
	assert_path(r, 0, "/first", 11);
	done(r);
}

static void nonsense(void **state)
{
	struct fixture *f = *state;
	static const char *const bad[] = {"", "sha256:12", "../../etc"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		Lamella__Fetcher__V1__LayerQuery query = LAMELLA__FETCHER__V1__LAYER_QUERY__INIT, *pointer = &query;
		Lamella__Fetcher__V1__ResolveRequest request = LAMELLA__FETCHER__V1__RESOLVE_REQUEST__INIT;
		Response *response = NULL;
		query.digest = (char *)bad[i];
		request.n_layers = 1;
		request.layers = &pointer;
		assert_int_equal(lm_rpc_invoke(f->client, "/lamella.fetcher.v1.Fetcher/Resolve", &request.base,
					 &lamella__fetcher__v1__resolve_response__descriptor, 5000, false,
					 (ProtobufCMessage **)&response, NULL, NULL),
			-EINVAL);
	}
	done(ask(f, 5000, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(order, setup, teardown),
		cmocka_unit_test_setup_teardown(failing, setup, teardown),
		cmocka_unit_test_setup_teardown(stock, setup, teardown),
		cmocka_unit_test_setup_teardown(looked_through, setup, teardown),
		cmocka_unit_test_setup_teardown(hanging, setup, teardown),
		cmocka_unit_test_setup_teardown(replaced, setup, teardown),
		cmocka_unit_test_setup_teardown(nonsense, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
