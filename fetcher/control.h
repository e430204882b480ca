/* The control service (proto/lamella/fetcher.proto) on a Unix socket. */
#ifndef LM_FETCHER_CONTROL_H
#define LM_FETCHER_CONTROL_H

#include "fetcher/repository.h"

enum { LM_CONTROL_DEADLINE_MS = 10000, LM_CONTROL_FRESH_MS = 3000, LM_CONTROL_LAYERS_MAX = 1024 };

struct lm_fuse_stats;
struct lm_keeper;
struct lm_layers;
struct lm_pins;
struct lm_session_stats;

struct lm_control_config { /* everything must outlive the service */
	const char *socket;
	struct lm_repository *const *repositories;
	size_t repository_count;
	struct lm_cache *cache;
	struct lm_pins *pins;
	struct lm_layers *layers;
	struct lm_http *http;	  /* for its timer */
	int64_t started_ms;	  /* monotonic */
	struct lm_keeper *keeper; /* or NULL */
	/* Where the repository is mounted now, whole or lean (node.h); NULL: it is not. */
	const char *(*mounted_at)(void *arg, size_t repository, bool lean);
	/* Zeroed where it is not. */
	void (*fuse_stats)(void *arg, size_t repository, struct lm_fuse_stats *ret, struct lm_session_stats *session);
	void *arg;
};

struct lm_control;

/* The socket's directory is made (0700) where missing. */
int lm_control_new(const struct lm_control_config *config, struct lm_control **ret, struct lm_err *err) MUST_CHECK;

/* Answers what is waiting, closes the socket. Stop the repositories before: they end what waits for them. */
void lm_control_stop(struct lm_control *control);
/* After stop, and after all downloads and timers ended. */
void lm_control_free(struct lm_control *control);
LM_DEFINE_CLEANUP(struct lm_control, lm_control_free, lm_control_freep)

#endif
