#include "base/clock.h"
#include "base/notify.h"
#include "base/str.h"
#include "commands.h"
#include "common.h"
#include "convert/access.h"
#include "net/http.h"
#include "source.h"
#include "sync/syncer.h"
#include "sync/web.h"

#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

enum { LOOP_MAX_S = 30 * 86400 };

struct options {
	const char *list, *state, *storage, *keys, *s3_config, *listen, *secret;
	uint64_t loop_s; /* 0: one round */
	struct lm_access_options access;
	bool prune, status, json;
};

struct program {
	const struct options *o;
	char *list_path, *state_path; /* absolute */
	struct lm_sync_state *state;
	struct lm_inbox *inbox;
	struct lm_http *http;
	struct lm_access access;
	struct lm_syncer *syncer;
	struct lm_sync_web *web;     /* NULL: none */
	struct lm_wishlist *list;    /* in force */
	int signal_fd, end_fd;	     /* what the thread of signals waits for */
	atomic_bool stop, read_list; /* that a signal asks for */
};

/* --- options --- */

static int parse_options(int argc, char **argv, struct options *o, int *ret_code)
{
	const struct lm_cli_option options[] = {
		{"loop", "SECONDS", "go on for ever, and look at all registries that often", .number = &o->loop_s,
			.min = 1, .max = LOOP_MAX_S},
		{"listen", "ADDRESS", "HOST:PORT or unix:PATH for /metrics, /healthz and registries' notifications",
			.text = &o->listen},
		{"secret", "FILE", "what notifications must bring; without it none are taken", .text = &o->secret},
		{"prune", NULL, "take away what the list does not name any more, after its grace period",
			.flag = &o->prune},
		{"status", NULL, "only show what is known of the list's images", .flag = &o->status},
		{"json", NULL, "with --status: as JSON", .flag = &o->json},
		{"state", "FILE", "where that is kept (default: sync.d/LIST.json beside the repositories' records)",
			.text = &o->state},
		{"storage", "DIR", "the repositories' web root, if `lamella repo init` was run elsewhere",
			.text = &o->storage},
		LM_S3_CONFIG_OPTION(&o->s3_config),
		{"keys", "DIR", "their keys, likewise", .text = &o->keys},
		LM_ACCESS_OPTIONS(&o->access),
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "WISHLIST.yaml [OPTION]...",
		.about = "Keeps repositories as a wish list wants them: new images and changed tags are converted, all "
			 "of one\n"
			 "repository in one new revision; what is unchanged costs one request. An image that fails "
			 "keeps what\n"
			 "it had, and stops no other one. DUCC's recipes are wish lists, see lamella-sync(1).\n"
			 "HUP: read the list again. TERM: publish what is complete, and end.",
		.options = options,
		.min_words = 1,
		.max_words = 1,
		.words = "one WISHLIST.yaml is wanted",
	};
	int at = lm_cli_parse(argc, argv, &syntax, ret_code);
	if (at < 0)
		return -1;
	o->list = argv[at];
	const char *wrong = o->json && !o->status     ? "--json goes with --status"
			    : o->secret && !o->listen ? "--secret goes with --listen"
						      : NULL;
	if (!wrong)
		return 0;
	lm_cli_error("%s", wrong);
	*ret_code = lm_cli_usage(argv[0]);
	return -1;
}

static void access_done(struct options **options)
{
	lm_access_options_done(&(*options)->access);
}

/* --- the state, shown --- */

static const char *state_word(const struct lm_sync_image *image)
{
	return image->error_s	    ? "failing"
	       : image->unwished_s  ? "unwished"
	       : image->published_s ? "published"
				    : "waiting";
}

static void print_status(const struct lm_sync_state *state)
{
	size_t failing = 0;
	for (size_t i = 0; i < lm_sync_repo_count(state); i++) {
		const struct lm_sync_repo *repo = lm_sync_repo_at(state, i);
		printf("%s: revision %llu, published %s\n", repo->name, (unsigned long long)repo->revision,
			repo->published_s ? lm_cli_time(repo->published_s).s : "never by us");
		if (repo->error_s)
			printf("  since %s: %s\n", lm_cli_time(repo->error_s).s, repo->error ? repo->error : "failed");
	}
	for (size_t i = 0; i < lm_sync_count(state); i++) {
		const struct lm_sync_image *image = lm_sync_at(state, i);
		failing += image->error_s != 0;
		printf("%-9s  %-20s  %s/%s\n", state_word(image),
			image->checked_s ? lm_cli_time(image->checked_s).s : "never", image->repo, image->name);
		if (!image->error_s)
			continue;
		printf("  %s, attempt %u: %s\n", lm_cli_time(image->error_s).s, image->failures,
			image->error ? image->error : "out of memory");
		if (image->next_s)
			printf("  next attempt not before %s\n", lm_cli_time(image->next_s).s);
	}
	printf("%zu images, %zu failing\n", lm_sync_count(state), failing);
}

static int show_status(const struct program *p, struct lm_err *err)
{
	CLEANUP(lm_sync_closep) struct lm_sync_state *state = NULL;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_SYNC_FILE_MAX);
	int r = lm_sync_open(p->state_path, p->list_path, false, &state, err);
	if (r < 0)
		return r;
	if (!p->o->json) {
		print_status(state);
		return 0;
	}
	r = lm_sync_format(state, &text, err);
	if (r == 0)
		fputs(lm_buf_cstr(&text), stdout);
	return r;
}

/* --- the list --- */

static void say_note(void *arg, const char *text)
{
	const struct program *p = arg;
	lm_cli_error("%s:%s", p->o->list, text);
}

/* A list that is wrong leaves the one in force as it is. */
static int read_list(struct program *p, struct lm_err *err)
{
	CLEANUP(lm_wishlist_freep) struct lm_wishlist *list = NULL;
	int r = lm_wishlist_read(p->o->list, say_note, p, &list, err);
	if (r == 0)
		r = lm_inbox_watch(p->inbox, list, err);
	lm_lock_take(lm_syncer_lock(p->syncer));
	struct lm_sync_counters *counters = lm_syncer_counters(p->syncer);
	counters->list_reads++;
	counters->failed_list_reads += r < 0;
	counters->list_wrong = r < 0;
	if (r == 0)
		counters->bad_wishes = list->bad;
	lm_lock_release(lm_syncer_lock(p->syncer));
	if (r < 0)
		return r;
	lm_wishlist_free(p->list);
	p->list = STEAL(list);
	return 0;
}

static void tell_manager(const char *state)
{
	struct lm_err err = LM_ERR_INIT;
	if (lm_notify(state, &err) < 0)
		lm_cli_error("%s", lm_err_text(&err));
}

static void read_list_again(struct program *p)
{
	struct lm_err err = LM_ERR_INIT;
	char state[64];
	(void)snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)lm_now_us());
	tell_manager(state);
	if (read_list(p, &err) < 0)
		lm_cli_error("%s; the list read before stays in force", lm_err_text(&err));
	else
		lm_cli_say("%s: read again", p->o->list);
	if (p->web && lm_sync_web_reload(p->web, &err) < 0)
		lm_cli_error("%s; the secret stays what it was", lm_err_text(&err));
	tell_manager("READY=1");
}

/* --- signals: a thread of their own, since the main one converts --- */

static void *wait_for_signals(void *arg)
{
	struct program *p = arg;
	struct pollfd fds[] = {{.fd = p->signal_fd, .events = POLLIN}, {.fd = p->end_fd, .events = POLLIN}};
	struct signalfd_siginfo info;
	for (;;) {
		if (poll(fds, ARRAY_LEN(fds), -1) < 0)
			continue;
		if (fds[1].revents)
			return NULL;
		if (read(p->signal_fd, &info, sizeof(info)) != sizeof(info))
			continue;
		if (info.ssi_signo == SIGHUP) {
			p->read_list = true;
		} else {
			if (p->stop)
				_exit(128 + (int)info.ssi_signo); /* whenever that is, the repository is whole */
			p->stop = true;
			lm_syncer_stop(p->syncer);
			lm_http_stop(p->http);
		}
		lm_inbox_wake(p->inbox);
	}
}

static int begin_signals(struct program *p, struct lm_err *err)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	p->end_fd = eventfd(0, EFD_CLOEXEC);
	if (p->signal_fd < 0 || p->end_fd < 0)
		return lm_err_sys(err, -errno, "signalfd");
	return 0;
}

/* --- rounds --- */

static void say_round(const struct lm_round_report *report, int64_t ms)
{
	char state[160];
	snprintf(state, sizeof(state), "%zu images looked at in %.1f s: %zu new, %zu failed", report->images,
		(double)ms / 1000, report->published, report->failed);
	lm_cli_say("%s", state);
	char text[200];
	snprintf(text, sizeof(text), "STATUS=%s", state);
	tell_manager(text);
}

static int run_round(struct program *p, bool *ret_failed, struct lm_err *err)
{
	struct lm_round_report report = {0};
	int64_t start_ms = lm_now_ms();
	int r = lm_syncer_round(p->syncer, p->list, &report, err);
	if (r < 0)
		return r;
	say_round(&report, lm_now_ms() - start_ms);
	*ret_failed = report.failed > 0 || report.repos_failed > 0 || p->list->bad > 0;
	return 0;
}

static int run_pushed(struct program *p, struct lm_err *err)
{
	CLEANUP(lm_pushed_done) struct lm_pushed pushed = {0};
	struct lm_round_report report = {0};
	lm_inbox_take(p->inbox, &pushed);
	if (pushed.count == 0)
		return 0;
	int r = lm_syncer_pushed(p->syncer, p->list, &pushed, &report, err);
	lm_inbox_later(p->inbox, &pushed);
	return r;
}

/* Until the time has come, or something else wants to be done. */
static void wait_until(const struct program *p, int64_t until_ms)
{
	struct pollfd fd = {.fd = lm_inbox_fd(p->inbox), .events = POLLIN};
	int64_t due_ms;
	if (p->stop || p->read_list || !lm_inbox_empty(p->inbox, &due_ms))
		return;
	if (due_ms >= 0)
		until_ms = until_ms < 0 ? due_ms : LM_MIN(until_ms, due_ms);
	int64_t left = until_ms < 0 ? -1 : LM_MAX(until_ms - lm_now_ms(), (int64_t)0);
	(void)poll(&fd, 1, left > 1 << 30 ? 1 << 30 : (int)left);
}

/* What fails for reasons of this machine (memory, disk) is tried again with the next round. */
static void survive(int r, struct lm_err *err)
{
	if (r < 0 && r != -ECANCELED)
		lm_cli_error("%s; the next round tries again", lm_err_text(err));
	*err = (struct lm_err)LM_ERR_INIT;
}

static void go_on(struct program *p, struct lm_err *err)
{
	bool ignored;
	int64_t next_ms = p->o->loop_s ? lm_now_ms() + (int64_t)p->o->loop_s * 1000 : -1;
	while (!p->stop) {
		wait_until(p, next_ms);
		bool again = p->read_list;
		if (again) {
			p->read_list = false;
			read_list_again(p);
		}
		if (!p->stop)
			survive(run_pushed(p, err), err);
		if (p->stop || (!again && (next_ms < 0 || lm_now_ms() < next_ms)))
			continue;
		survive(run_round(p, &ignored, err), err);
		next_ms = p->o->loop_s ? lm_now_ms() + (int64_t)p->o->loop_s * 1000 : -1;
	}
}

static int work(struct program *p, bool *ret_failed, struct lm_err *err)
{
	bool stays = p->o->loop_s || p->o->listen;
	tell_manager("READY=1");
	int r = run_round(p, ret_failed, err);
	if (r < 0 && !(stays && r != -ECANCELED))
		return r;
	survive(r, err);
	if (stays) {
		go_on(p, err);
		tell_manager("STOPPING=1");
		*ret_failed = false;
	}
	return 0;
}

static int with_signals(struct program *p, bool *ret_failed, struct lm_err *err)
{
	pthread_t thread;
	int r = -pthread_create(&thread, NULL, wait_for_signals, p);
	if (r < 0)
		return lm_err_sys(err, r, "pthread_create");
	r = work(p, ret_failed, err);
	(void)eventfd_write(p->end_fd, 1);
	pthread_join(thread, NULL);
	return r == -ECANCELED && p->stop && (p->o->loop_s || p->o->listen) ? 0 : r;
}

static int open_all(struct program *p, struct lm_err *err)
{
	const struct options *o = p->o;
	int r = lm_sync_open(p->state_path, p->list_path, true, &p->state, err);
	if (r == 0)
		r = lm_inbox_new(&p->inbox, err);
	if (r == 0)
		r = lm_http_new(&(struct lm_http_limits){0}, &p->http, err);
	if (r < 0)
		return r;
	p->access = o->access.access;
	p->access.http = p->http;
	const struct lm_syncer_config config = {
		.access = &p->access,
		.storage = o->storage,
		.keys = o->keys,
		.s3_config = o->s3_config,
		.state = p->state,
		.inbox = p->inbox,
		.prune = o->prune,
		.patient = o->loop_s > 0,
	};
	r = lm_syncer_new(&config, &p->syncer, err);
	if (r == 0)
		r = read_list(p, err);
	if (r == 0 && o->listen)
		r = lm_sync_web_new(o->listen, o->secret, p->syncer, p->inbox, p->state, &p->web, err);
	if (r == 0 && o->listen)
		lm_cli_say("listening on %s", lm_sync_web_where(p->web));
	return r;
}

static int find_files(struct program *p, struct lm_err *err)
{
	p->list_path = realpath(p->o->list, NULL);
	if (!p->list_path)
		return lm_err_sys(err, -errno, "%s", p->o->list);
	if (!p->o->state)
		return lm_sync_path(p->list_path, &p->state_path, err);
	p->state_path = strdup(p->o->state);
	return p->state_path ? 0 : lm_err_oom(err);
}

static void program_done(struct program *p)
{
	lm_sync_web_free(p->web);
	lm_syncer_free(p->syncer);
	lm_http_free(p->http);
	lm_inbox_free(p->inbox);
	lm_wishlist_free(p->list);
	lm_sync_close(p->state);
	lm_closep(&p->signal_fd);
	lm_closep(&p->end_fd);
	free(p->list_path);
	free(p->state_path);
}

static int run(const struct options *o, bool *ret_failed, struct lm_err *err)
{
	CLEANUP(program_done) struct program p = {.o = o, .signal_fd = -1, .end_fd = -1};
	int r = find_files(&p, err);
	if (r == 0 && o->status)
		return show_status(&p, err);
	if (r == 0)
		r = begin_signals(&p, err); /* before the first thread, which inherits what is blocked */
	if (r == 0)
		r = open_all(&p, err);
	return r < 0 ? r : with_signals(&p, ret_failed, err);
}

int lm_cmd_sync(int argc, char **argv)
{
	struct options options = {0};
	int code;
	CLEANUP(access_done) struct options *in_use = &options;
	if (parse_options(argc, argv, in_use, &code) < 0)
		return code;
	lm_access_speak(&options.access);
	struct lm_err err = LM_ERR_INIT;
	bool failed = false;
	if (run(&options, &failed, &err) < 0)
		return lm_cli_fail(&err);
	return lm_cli_flush(failed ? LM_EXIT_FAILED : LM_EXIT_OK);
}
