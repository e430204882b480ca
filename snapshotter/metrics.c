#include "snapshotter/metrics.h"

#include "base/str.h"
#include "net/exposition.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#define PREFIX "lamella_snapshotter"
#define FETCHER_STATE(name) LAMELLA__SNAPSHOTTER__V1__FETCHER_STATE__FETCHER_##name

typedef Lamella__Snapshotter__V1__StatusResponse StatusResponse;
typedef Lamella__Snapshotter__V1__Fetcher Fetcher;

struct metric {
	const char *name;
	enum lm_exposition_kind kind;
	const char *help;
	enum form {
		NUMBER,
		VERSION,
		FETCHER_NUMBER,
		FETCHER_ANSWERS,
		TREES_USED,
		LAYERS,
		SOURCES
	} form; /* of the value */
	size_t offset;
};

#define AT(message, field) offsetof(message, field)
static const struct metric metrics[] = {
	{"info", LM_GAUGE, "Always 1; the version is a label.", VERSION, 0},
	{"start_time_seconds", LM_GAUGE, "When the process started, in seconds since the epoch.", NUMBER,
		AT(StatusResponse, started_s)},
	{"layers", LM_GAUGE,
		"Layers on this node by state: lazy, lossy (lazy, but owners or attributes are missing), fallen_back "
		"(pulled, since they could not be served), ordinary (pulled, since nobody asked).",
		LAYERS, 0},
	{"layers_served", LM_GAUGE,
		"Layers that are served, by source: the repository, or the directory of a mount of others.", SOURCES,
		0},
	{"containers", LM_GAUGE, "Snapshots of containers.", NUMBER, AT(StatusResponse, containers)},
	{"snapshots", LM_GAUGE, "Snapshots of all kinds.", NUMBER, AT(StatusResponse, snapshots)},
	{"layers_bytes", LM_GAUGE, "Bytes of disk that unpacked layers take; those that are served take none.", NUMBER,
		AT(StatusResponse, bytes)},
	{"merged_trees", LM_GAUGE, "1 when containers are started over merged trees of their layers, else 0.",
		TREES_USED, 0},
	{"fetcher_answers", LM_GAUGE,
		"1 when the fetcher answered the last question, or there was none yet; 0 when it did not.",
		FETCHER_ANSWERS, 0},
	{"fetcher_questions_total", LM_COUNTER, "Questions to the fetcher that were answered or failed.",
		FETCHER_NUMBER, AT(Fetcher, questions)},
	{"fetcher_failed_questions_total", LM_COUNTER, "Questions to the fetcher that it did not answer.",
		FETCHER_NUMBER, AT(Fetcher, failed_questions)},
	{"fetcher_waiting_questions", LM_GAUGE, "Questions to the fetcher that are under way.", FETCHER_NUMBER,
		AT(Fetcher, waiting_questions)},
};

static int put_sample(struct lm_buf *out, const char *name, const char *label, const char *value, uint64_t number)
{
	int r = lm_exposition_name(out, PREFIX, name, label, value, NULL, NULL);
	return r < 0 ? r : lm_buf_printf(out, " %" PRIu64 "\n", number);
}

static int put_layers(const struct metric *metric, const StatusResponse *report, struct lm_buf *out)
{
	const struct {
		const char *state;
		uint64_t count;
	} states[] = {{"lazy", report->lazy_layers}, {"lossy", report->lossy_layers},
		{"fallen_back", report->fallen_back_layers}, {"ordinary", report->ordinary_layers}};
	int r = 0;
	for (size_t i = 0; i < ARRAY_LEN(states) && r == 0; i++)
		r = put_sample(out, metric->name, "state", states[i].state, states[i].count);
	return r;
}

static int put_sources(const struct metric *metric, const StatusResponse *report, struct lm_buf *out)
{
	int r = 0;
	for (size_t i = 0; i < report->n_sources && r == 0; i++)
		r = put_sample(out, metric->name, "source", report->sources[i]->name, report->sources[i]->layers);
	return r;
}

static int put(const struct metric *metric, const StatusResponse *report, struct lm_buf *out)
{
	const char *name = metric->name;
	bool answers =
		report->fetcher->state == FETCHER_STATE(UNASKED) || report->fetcher->state == FETCHER_STATE(ANSWERS);
	switch (metric->form) {
	case VERSION:
		return put_sample(out, name, "version", report->version, 1);
	case LAYERS:
		return put_layers(metric, report, out);
	case SOURCES:
		return put_sources(metric, report, out);
	case TREES_USED:
		return put_sample(out, name, NULL, NULL, report->trees->used);
	case FETCHER_ANSWERS:
		return put_sample(out, name, NULL, NULL, answers);
	case FETCHER_NUMBER:
		return put_sample(
			out, name, NULL, NULL, *(const uint64_t *)((const char *)report->fetcher + metric->offset));
	case NUMBER:
		break;
	}
	return put_sample(out, name, NULL, NULL, *(const uint64_t *)((const char *)report + metric->offset));
}

static int put_counter(const Lamella__Snapshotter__V1__Count *count, struct lm_buf *out)
{
	char name[64];
	snprintf(name, sizeof(name), "%s_total", count->name);
	int r = lm_exposition_head(out, PREFIX, name, LM_COUNTER, count->help);
	return r < 0 ? r : put_sample(out, name, NULL, NULL, count->count);
}

int lm_report_print_metrics(const StatusResponse *report, struct lm_buf *out)
{
	int r = 0;
	for (size_t i = 0; i < ARRAY_LEN(metrics) && r == 0; i++) {
		r = lm_exposition_head(out, PREFIX, metrics[i].name, metrics[i].kind, metrics[i].help);
		if (r == 0)
			r = put(&metrics[i], report, out);
	}
	for (size_t i = 0; i < report->n_counters && r == 0; i++)
		r = put_counter(report->counters[i], out);
	return r;
}
