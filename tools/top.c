/*
 * `lamella top`: what lamella-fetcher is doing, again and again: on a terminal a view that is drawn anew, elsewhere a
 * line per repository and interval. Rates are differences of the counters of two statuses; a counter that went back
 * began anew, with another worker.
 */
#include "base/clock.h"
#include "commands.h"
#include "common.h"
#include "fetcher.h"
#include "rpc/rpc.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

typedef Lamella__Fetcher__V1__StatusResponse StatusResponse;
typedef Lamella__Fetcher__V1__RepositoryStatus RepositoryStatus;

enum { LISTED_MAX = 8 };

struct top {
	const char *socket;
	uint64_t count, interval_s;
	bool terminal;
	struct lm_rpc_client *client;
	StatusResponse *before, *now;
	int64_t before_ms, now_ms;
	char failure[LM_ERR_MAX]; /* why there is no newer status; "" */
};

/* What is shown of a repository: columns, in order. */
static uint64_t requests(const RepositoryStatus *r)
{
	return r->requests;
}
static uint64_t bytes(const RepositoryStatus *r)
{
	return r->bytes_fetched;
}
static uint64_t files(const RepositoryStatus *r)
{
	return r->files_fetched + r->catalogs_fetched;
}
static uint64_t kernel(const RepositoryStatus *r)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < r->n_kernel_requests; i++)
		sum += r->kernel_requests[i]->answered;
	return sum;
}
static uint64_t failed(const RepositoryStatus *r)
{
	return r->failed_requests;
}
static const struct column {
	const char *title;
	uint64_t (*counter)(const RepositoryStatus *r);
	bool is_size;
} columns[] = {
	{"KERNEL/s", kernel, false},
	{"HTTP/s", requests, false},
	{"BYTES/s", bytes, true},
	{"OBJECTS/s", files, false},
	{"FAILED/s", failed, false},
};

static const RepositoryStatus *find(const StatusResponse *status, const char *fqrn)
{
	for (size_t i = 0; status && i < status->n_repositories; i++)
		if (strcmp(status->repositories[i]->fqrn, fqrn) == 0)
			return status->repositories[i];
	return NULL;
}

static double rate(const struct top *top, uint64_t before, uint64_t now)
{
	double s = (double)(top->now_ms - top->before_ms) / 1000;
	return s > 0 ? (double)(now >= before ? now - before : now) / s : 0;
}

static void print_header(void)
{
	printf("%-8s %-30s %-8s %10s", "TIME", "REPOSITORY", "STATE", "REVISION");
	for (size_t i = 0; i < ARRAY_LEN(columns); i++)
		printf(" %10s", columns[i].title);
	printf(" %8s %8s\n", "WAITING", "FETCHING");
}

static void print_repository(const struct top *top, const RepositoryStatus *r)
{
	const RepositoryStatus *before = find(top->before, r->fqrn);
	char clock[16] = "";
	time_t wall = time(NULL);
	struct tm tm;
	if (localtime_r(&wall, &tm))
		strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	printf("%-8s %-30s %-8s %10" PRIu64, clock, r->fqrn, lm_fetcher_state_name(r->state), r->revision);
	for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
		double value = before ? rate(top, columns[i].counter(before), columns[i].counter(r)) : 0;
		if (columns[i].is_size)
			printf(" %10s", lm_cli_size((uint64_t)value).s);
		else
			printf(" %10.1f", value);
	}
	printf(" %8" PRIu64 " %8zu\n", r->kernel_waiting, r->n_downloads);
}

static void print_lines(const struct top *top)
{
	for (size_t i = 0; top->now && !*top->failure && i < top->now->n_repositories; i++)
		print_repository(top, top->now->repositories[i]);
	if (*top->failure)
		lm_cli_error("%s", top->failure);
	fflush(stdout);
}

/* The view of a terminal. */

static volatile sig_atomic_t ended;

static void on_signal(int number)
{
	ended = 1;
}

static struct termios open_screen(void)
{
	struct termios before, raw;
	const struct sigaction action = {.sa_handler = on_signal};
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	if (tcgetattr(STDIN_FILENO, &before) < 0)
		return (struct termios){0};
	raw = before;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	fputs("\033[?1049h\033[?25l\033[?7l", stdout); /* other screen, no cursor, long lines are cut */
	return before;
}

static void close_screen(const struct termios *before)
{
	fputs("\033[?7h\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, before);
}

/* Of all wishes since the last status, those whose object was cached. */
static void draw_cache(const struct top *top)
{
	const Lamella__Fetcher__V1__CacheStatus *now = top->now->cache,
						*before = top->before ? top->before->cache : NULL;
	if (!now)
		return;
	printf("cache %s in %" PRIu64 " objects", lm_cli_size(now->bytes).s, now->objects);
	if (before) {
		double hits = rate(top, before->hits, now->hits), misses = rate(top, before->misses, now->misses);
		printf(", %.1f wishes/s, %.0f%% there", hits + misses,
			hits + misses > 0 ? 100 * hits / (hits + misses) : 100);
		printf(", %.1f evicted/s", rate(top, before->evicted, now->evicted));
	}
	putchar('\n');
}

static void draw_objects(const RepositoryStatus *r)
{
	for (size_t i = 0; i < r->n_downloads && i < LISTED_MAX; i++)
		printf("fetching %s for %s, %s so far, %" PRIu64 " wait\n", r->downloads[i]->object,
			lm_fetcher_duration(r->downloads[i]->age_ms).s, lm_cli_size(r->downloads[i]->bytes).s,
			r->downloads[i]->waiters);
	for (size_t i = 0; i < r->n_slowest && i < LISTED_MAX; i++)
		printf("slowest  %s took %s%s, %s ago\n", r->slowest[i]->object,
			lm_fetcher_duration(r->slowest[i]->took_ms).s, r->slowest[i]->failed ? " and failed" : "",
			lm_fetcher_duration(r->slowest[i]->age_ms).s);
}

static void draw(const struct top *top)
{
	const StatusResponse *s = top->now;
	fputs("\033[H\033[2J", stdout);
	printf("lamella-fetcher %s, up %s", s->version, lm_fetcher_duration(s->uptime_ms).s);
	printf("   (q ends)\n");
	draw_cache(top);
	putchar('\n');
	print_header();
	for (size_t i = 0; i < s->n_repositories; i++)
		print_repository(top, s->repositories[i]);
	for (size_t i = 0; i < s->n_repositories; i++)
		draw_objects(s->repositories[i]);
	for (size_t i = 0; i < s->n_problems; i++)
		printf("%s%s%s%s\n", i == 0 ? "\n" : "", s->problems[i]->repository,
			*s->problems[i]->repository ? ": " : "", s->problems[i]->what);
	if (*top->failure)
		printf("\n%s\n", top->failure);
	fflush(stdout);
}

/* False when somebody wants it to end. */
static bool wait_for_next(const struct top *top)
{
	struct pollfd keys = {.fd = top->terminal ? STDIN_FILENO : -1, .events = POLLIN};
	int64_t until = lm_now_ms() + (int64_t)top->interval_s * 1000, left;
	while (!ended && (left = until - lm_now_ms()) > 0) {
		int r = poll(&keys, 1, (int)left);
		char key;
		if (r > 0 && (read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q'))
			return false;
	}
	return !ended;
}

/* A newer status takes the older one's place; without one, all stays and says why. */
static void refresh(struct top *top)
{
	struct lm_err err = LM_ERR_INIT;
	StatusResponse *next = NULL;
	int r = lm_fetcher_status(top->client, false, &next, &err);
	snprintf(top->failure, sizeof(top->failure), "%s", r < 0 ? lm_err_text(&err) : "");
	if (r < 0)
		return;
	lm_fetcher_status_freep(&top->before);
	top->before = top->now;
	top->before_ms = top->now_ms;
	top->now = next;
	top->now_ms = lm_now_ms();
}

static void watch(struct top *top)
{
	if (!top->terminal)
		print_header();
	for (uint64_t i = 0; top->count == 0 || i < top->count; i++) {
		if (top->terminal)
			draw(top);
		if (!wait_for_next(top))
			break;
		refresh(top);
		if (!top->terminal)
			print_lines(top);
	}
}

static int run(struct top *top)
{
	struct lm_err err = LM_ERR_INIT;
	int r = lm_fetcher_open(top->socket, &top->client, &err);
	if (r == 0)
		r = lm_fetcher_status(top->client, false, &top->now, &err);
	if (r < 0)
		return lm_cli_fail(&err);
	top->now_ms = lm_now_ms();
	top->terminal = isatty(STDOUT_FILENO) && isatty(STDIN_FILENO);
	struct termios before;
	if (top->terminal)
		before = open_screen();
	watch(top);
	if (top->terminal)
		close_screen(&before);
	return LM_EXIT_OK;
}

int lm_cmd_top(int argc, char **argv)
{
	struct top top = {.interval_s = 2};
	const struct lm_cli_option options[] = {
		{"count", "N", "end after so many intervals; default: go on", .letter = 'n', .number = &top.count,
			.min = 1},
		{"delay", "SECONDS", "length of an interval; default: 2", .letter = 'd', .number = &top.interval_s,
			.min = 1, .max = 3600},
		{"socket", "PATH", LM_FETCHER_SOCKET_HELP, .text = &top.socket},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "[OPTION]...",
		.about = "Shows what the lamella-fetcher of this machine is doing, per second: on a terminal in a view "
			 "that is\n"
			 "drawn anew (q ends it), elsewhere as a line per repository and interval.",
		.options = options,
		.words = "no words are expected",
	};
	int code;
	if (lm_cli_parse(argc, argv, &syntax, &code) < 0)
		return code;
	code = run(&top);
	lm_fetcher_status_freep(&top.before);
	lm_fetcher_status_freep(&top.now);
	lm_rpc_client_free(top.client);
	return code;
}
