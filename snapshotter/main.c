/* lamella-snapshotter: the program. Options, signals, and the service between them. */
#include "base/conf.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/version.h"
#include "net/pages.h"
#include "snapshotter/looker_process.h"
#include "snapshotter/places.h"
#include "snapshotter/service.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define DEFAULT_CONFIG "/etc/lamella/lamella.conf"
#define DEFAULT_TIMEOUT_S 10
#define TIMEOUT_MAX_S 600

static const char usage_text[] =
	"usage: lamella-snapshotter [OPTION]...\n"
	"A containerd snapshotter whose layers are served by lamella-fetcher.\n"
	"\n"
	"  --root DIR          state and writable layers (default /var/lib/lamella/snapshotter)\n"
	"  --address SOCKET    where containerd connects (default /run/lamella/snapshotter.sock)\n"
	"  --status SOCKET     where it tells what it does, to `lamella status` and `lamella images --node` (default\n"
	"                      that of --address with -status before its end), and metrics in Prometheus' form\n"
	"                      (the same with -metrics)\n"
	"  --fetcher SOCKET    where lamella-fetcher listens (default /run/lamella/fetcher.sock)\n"
	"  --config FILE       read LAMELLA_... settings from FILE (default " DEFAULT_CONFIG ", if it exists)\n"
	"  --on-miss ACTION    a layer that can't be served: pull (download it; default), warn (and say so\n"
	"                      loudly), fail (refuse the image)\n"
	"  --log-level LEVEL   error, warn, info (default) or debug\n"
	"  --look SOURCE       serve no snapshots, but look for layers in the directories of SOURCE, a "
	"LAMELLA_SOURCE:\n"
	"                      asked at --address, until standard input ends; it starts one such itself\n"
	"  --version, --help\n"
	"\n"
	"Settings: LAMELLA_ON_MISS, LAMELLA_RESOLVE_TIMEOUT (seconds for the fetcher's answer, default 10), "
	"LAMELLA_SOURCE\n"
	"(fetcher, the default, or path:DIR[,path:DIR]...: mounts that are there already, in order), LAMELLA_TREES\n"
	"(yes, the default: use the merged trees of images that have them, where the kernel can; or no),\n"
	"LAMELLA_SNAPSHOTTER_METRICS (ADDRESS:PORT where metrics are served, beside their socket).\n"
	"Signals: TERM and INT stop, USR1 logs the counters.\n";

struct options {
	struct lm_service_options service;
	const char *config;
	const char *on_miss;			  /* of the command line, which goes before the configuration */
	const char *look;			  /* instead of serving */
	char *source, *looker;			  /* LAMELLA_SOURCE, where it is not the fetcher; who looks into it */
	char *status, *metrics, *metrics_address; /* where they are not the command line's */
	enum lm_log_level log_level;
	bool done; /* --help, --version */
};

enum {
	OPT_ROOT = 256,
	OPT_ADDRESS,
	OPT_STATUS,
	OPT_FETCHER,
	OPT_CONFIG,
	OPT_ON_MISS,
	OPT_LOG_LEVEL,
	OPT_LOOK,
	OPT_VERSION,
	OPT_HELP
};

static const struct option long_options[] = {
	{"root", required_argument, NULL, OPT_ROOT},
	{"address", required_argument, NULL, OPT_ADDRESS},
	{"status", required_argument, NULL, OPT_STATUS},
	{"fetcher", required_argument, NULL, OPT_FETCHER},
	{"config", required_argument, NULL, OPT_CONFIG},
	{"on-miss", required_argument, NULL, OPT_ON_MISS},
	{"log-level", required_argument, NULL, OPT_LOG_LEVEL},
	{"look", required_argument, NULL, OPT_LOOK},
	{"version", no_argument, NULL, OPT_VERSION},
	{"help", no_argument, NULL, OPT_HELP},
	{NULL, 0, NULL, 0},
};

static int parse_option(int option, struct options *o)
{
	switch (option) {
	case OPT_ROOT:
		o->service.root = optarg;
		return 0;
	case OPT_ADDRESS:
		o->service.address = optarg;
		return 0;
	case OPT_STATUS:
		o->service.status = optarg;
		return 0;
	case OPT_FETCHER:
		o->service.fetcher = optarg;
		return 0;
	case OPT_CONFIG:
		o->config = optarg;
		return 0;
	case OPT_ON_MISS:
		o->on_miss = optarg;
		return 0;
	case OPT_LOG_LEVEL:
		if (lm_log_level_parse(optarg, &o->log_level))
			return 0;
		fprintf(stderr, "lamella-snapshotter: unknown log level %s\n", optarg);
		return -EINVAL;
	case OPT_LOOK:
		o->look = optarg;
		return 0;
	case OPT_VERSION:
		printf("lamella-snapshotter %s\n", LM_VERSION);
		o->done = true;
		return 0;
	case OPT_HELP:
		fputs(usage_text, stdout);
		o->done = true;
		return 0;
	default:
		return -EINVAL;
	}
}

static int parse_options(int argc, char **argv, struct options *o)
{
	int option, r = 0;
	while (r == 0 && !o->done && (option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		r = parse_option(option, o);
	if (r == 0 && optind < argc && !o->done) {
		fprintf(stderr, "lamella-snapshotter: unexpected argument %s\n", argv[optind]);
		r = -EINVAL;
	}
	return r;
}

static int read_source(struct options *o, const struct lm_conf *conf, struct lm_err *err)
{
	CLEANUP(lm_places_done) struct lm_places places = {0};
	const char *source = lm_conf_get(conf, "LAMELLA_SOURCE");
	int r = source && *source ? lm_places_parse(source, &places, err) : 0;
	if (r < 0)
		return lm_err_prefix(err, r, "LAMELLA_SOURCE");
	if (places.count > 0 && !(o->source = strdup(source)))
		return lm_err_oom(err);
	o->service.source = o->source;
	return 0;
}

static int read_settings(struct options *o, struct lm_err *err)
{
	CLEANUP(lm_conf_freep) struct lm_conf *conf = NULL;
	int r = lm_conf_new(&conf, err);
	if (r < 0)
		return r;
	r = lm_conf_read(conf, o->config ? o->config : DEFAULT_CONFIG, err);
	if (r < 0 && (r != -ENOENT || o->config))
		return r;
	uint64_t timeout_s;
	r = lm_conf_u64(conf, "LAMELLA_RESOLVE_TIMEOUT", DEFAULT_TIMEOUT_S, TIMEOUT_MAX_S, &timeout_s, err);
	if (r < 0)
		return r;
	if (timeout_s == 0)
		return lm_err_set(err, -EINVAL, "LAMELLA_RESOLVE_TIMEOUT is 0: nothing could be served in no time");
	o->service.resolve_timeout_ms = (unsigned)timeout_s * 1000;
	const char *address = lm_conf_get(conf, "LAMELLA_SNAPSHOTTER_METRICS");
	if (address && !(o->metrics_address = strdup(address)))
		return lm_err_oom(err);
	o->service.metrics_address = o->metrics_address;
	r = lm_conf_bool(conf, "LAMELLA_TREES", true, &o->service.trees, err);
	if (r == 0)
		r = read_source(o, conf, err);
	if (r < 0)
		return r;
	const char *on_miss = o->on_miss ? o->on_miss : lm_conf_get(conf, "LAMELLA_ON_MISS");
	if (on_miss && !lm_on_miss_parse(on_miss, &o->service.on_miss))
		return lm_err_set(err, -EINVAL, "LAMELLA_ON_MISS or --on-miss is %s: not pull, warn or fail", on_miss);
	return 0;
}

/* The sockets of the service's own lie beside that of containerd. */
static int name_sockets(struct options *o, struct lm_err *err)
{
	o->status = lm_pages_socket_beside(o->service.address, "status");
	o->metrics = lm_pages_socket_beside(o->service.address, "metrics");
	o->looker = lm_pages_socket_beside(o->service.address, "looker");
	if (!o->status || !o->metrics || !o->looker)
		return lm_err_oom(err);
	if (o->source)
		o->service.fetcher = o->looker;
	o->service.metrics = o->metrics;
	if (!o->service.status)
		o->service.status = o->status;
	return 0;
}

/* Counting and deleting deep trees takes a descriptor for each level. */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static void notify(const char *state)
{
	struct lm_err err = LM_ERR_INIT;
	if (lm_notify(state, &err) < 0)
		lm_log(LM_LOG_WARN, "service manager not told", LM_KV("reason", "%s", lm_err_text(&err)));
}

/* Every thread inherits the blocked signals, so only this loop sees them. */
static void wait_for_end(struct lm_service *service, const sigset_t *signals)
{
	for (;;) {
		int signal;
		if (sigwait(signals, &signal) != 0)
			continue;
		if (signal == SIGTERM || signal == SIGINT)
			return;
		if (signal == SIGUSR1)
			lm_service_log_counters(service);
	}
}

static int serve(struct options *o)
{
	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGUSR1);
	sigaddset(&signals, SIGHUP);
	sigaddset(&signals, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	raise_descriptor_limit();
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_looker_process_stopp) struct lm_looker_process *looker = NULL; /* ends after the service */
	CLEANUP(lm_service_stopp) struct lm_service *service = NULL;
	int r = read_settings(o, &err);
	if (r == 0)
		r = name_sockets(o, &err);
	if (r == 0)
		r = lm_service_start(&o->service, &service, &err);
	/* Now that the socket's name is known to be ours. */
	if (r == 0 && o->source)
		r = lm_looker_process_start(o->looker, o->source, o->log_level, &looker, &err);
	if (r < 0) {
		lm_log(LM_LOG_ERROR, "not started", LM_KV("reason", "%s", lm_err_text(&err)));
		return 1;
	}
	lm_log(LM_LOG_INFO, "serving", LM_KV("version", "%s", LM_VERSION), LM_KV("address", "%s", o->service.address),
		LM_KV("root", "%s", o->service.root), LM_KV("source", "%s", o->source ? o->source : "fetcher"),
		LM_KV("fetcher", "%s", o->service.fetcher));
	notify("READY=1");
	wait_for_end(service, &signals);
	notify("STOPPING=1");
	lm_service_log_counters(service);
	return 0;
}

int main(int argc, char **argv)
{
	struct options options = {
		.service = {.root = "/var/lib/lamella/snapshotter",
			.address = "/run/lamella/snapshotter.sock",
			.fetcher = "/run/lamella/fetcher.sock",
			.on_miss = LM_ON_MISS_PULL},
		.log_level = LM_LOG_INFO,
	};
	if (parse_options(argc, argv, &options) < 0) {
		fputs("Try lamella-snapshotter --help.\n", stderr);
		return 2;
	}
	if (options.done)
		return 0;
	lm_log_init("lamella-snapshotter", options.log_level);
	int code = options.look ? lm_looker_process_run(options.service.address, options.look) : serve(&options);
	free(options.source);
	free(options.looker);
	free(options.status);
	free(options.metrics);
	free(options.metrics_address);
	return code;
}
