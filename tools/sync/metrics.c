#include "sync/metrics.h"

#include "base/version.h"
#include "net/exposition.h"

#include <inttypes.h>
#include <string.h>

#define PREFIX "lamella_sync"

/* What a metric is about: the struct its value stands in, and its labels. */
enum scope { INFO, PROCESS, NOTIFY, REPO, IMAGE };

struct metric {
	const char *name;
	enum lm_exposition_kind kind;
	enum scope scope;
	const char *help;
	enum form { ONE, NUMBER, FLAG, MS, FAILING, UNWISHED } form;
	size_t offset;
};

#define COUNTED(field) offsetof(struct lm_sync_counters, field)
#define NOTIFIED(field) offsetof(struct lm_notify_counters, field)
static const struct metric metrics[] = {
	{"info", LM_GAUGE, INFO, "Always 1; the version is a label.", ONE, 0},
	{"start_time_seconds", LM_GAUGE, PROCESS, "When the program started, in seconds since the epoch.", NUMBER,
		COUNTED(started_s)},
	{"wish_list_valid", LM_GAUGE, PROCESS, "1 when the wish list's file is the list in force, 0 when it is wrong.",
		FLAG, COUNTED(list_wrong)},
	{"wish_list_bad_lines", LM_GAUGE, PROCESS, "Images of the list in force that can't be understood.", NUMBER,
		COUNTED(bad_wishes)},
	{"wish_list_reads_total", LM_COUNTER, PROCESS, "Times the wish list was read.", NUMBER, COUNTED(list_reads)},
	{"wish_list_failed_reads_total", LM_COUNTER, PROCESS, "Times the wish list was wrong or could not be read.",
		NUMBER, COUNTED(failed_list_reads)},
	{"rounds_total", LM_COUNTER, PROCESS, "Rounds over the whole list.", NUMBER, COUNTED(rounds)},
	{"last_round_time_seconds", LM_GAUGE, PROCESS,
		"When the last round, or what a notification had begun, was over, in seconds since the epoch.", NUMBER,
		COUNTED(round_end_s)},
	{"last_round_seconds", LM_GAUGE, PROCESS, "How long it took.", MS, COUNTED(round_ms)},
	{"converting", LM_GAUGE, PROCESS, "1 while an image is converted, else 0.", NUMBER, COUNTED(converting)},
	{"checks_total", LM_COUNTER, PROCESS, "Questions to registries for what a tag stands for.", NUMBER,
		COUNTED(checks)},
	{"tag_lists_total", LM_COUNTER, PROCESS, "Questions to registries for lists of tags.", NUMBER, COUNTED(lists)},
	{"failed_checks_total", LM_COUNTER, PROCESS, "Questions to registries that were not answered.", NUMBER,
		COUNTED(failed_checks)},
	{"images_published_total", LM_COUNTER, PROCESS, "Images published, new or changed.", NUMBER,
		COUNTED(images_published)},
	{"failed_images_total", LM_COUNTER, PROCESS, "Images that failed, each attempt counted.", NUMBER,
		COUNTED(failed_images)},
	{"images_retired_total", LM_COUNTER, PROCESS, "Images taken away, since nobody wishes for them.", NUMBER,
		COUNTED(images_retired)},
	{"revisions_total", LM_COUNTER, PROCESS, "Revisions published.", NUMBER, COUNTED(revisions)},
	{"layers_converted_total", LM_COUNTER, PROCESS, "Layers of published images that were new.", NUMBER,
		COUNTED(layers_converted)},
	{"layers_present_total", LM_COUNTER, PROCESS, "Layers of published images that were there.", NUMBER,
		COUNTED(layers_present)},
	{"fetched_bytes_total", LM_COUNTER, PROCESS, "Bytes of layers fetched for published images.", NUMBER,
		COUNTED(fetched_bytes)},
	{"stored_bytes_total", LM_COUNTER, PROCESS, "Bytes stored for published images.", NUMBER,
		COUNTED(stored_bytes)},

	{"notifications_total", LM_COUNTER, NOTIFY, "Notifications that were taken.", NUMBER, NOTIFIED(received)},
	{"notified_events_total", LM_COUNTER, NOTIFY, "Pushed tags in them that the list wishes for.", NUMBER,
		NOTIFIED(events)},
	{"notified_unwished_total", LM_COUNTER, NOTIFY, "Pushed tags in them that the list does not wish for.", NUMBER,
		NOTIFIED(unwished)},
	{"notified_others_total", LM_COUNTER, NOTIFY, "Events in them that push no tag.", NUMBER, NOTIFIED(others)},
	{"notifications_refused_total", LM_COUNTER, NOTIFY, "Notifications without the secret.", NUMBER,
		NOTIFIED(refused)},
	{"notifications_limited_total", LM_COUNTER, NOTIFY, "Notifications that came too fast, or were too large.",
		NUMBER, NOTIFIED(limited)},
	{"notifications_malformed_total", LM_COUNTER, NOTIFY, "Notifications that could not be understood.", NUMBER,
		NOTIFIED(malformed)},

	{"repository_revision", LM_GAUGE, REPO, "The revision seen last.", NUMBER,
		offsetof(struct lm_sync_repo, revision)},
	{"repository_published_time_seconds", LM_GAUGE, REPO,
		"When a revision was published last, in seconds since the epoch; 0: never.", NUMBER,
		offsetof(struct lm_sync_repo, published_s)},
	{"repository_failed_time_seconds", LM_GAUGE, REPO,
		"Since when the repository can't be looked at or published into, in seconds since the epoch; 0: it "
		"can.",
		NUMBER, offsetof(struct lm_sync_repo, error_s)},

	{"image_failing", LM_GAUGE, IMAGE, "1 when the last attempt failed, else 0.", FAILING, 0},
	{"image_unwished", LM_GAUGE, IMAGE, "1 when the list does not name the image any more, else 0.", UNWISHED, 0},
	{"image_checked_time_seconds", LM_GAUGE, IMAGE,
		"When the image was known to be as its source has it, in seconds since the epoch; 0: never.", NUMBER,
		offsetof(struct lm_sync_image, checked_s)},
	{"image_published_time_seconds", LM_GAUGE, IMAGE,
		"When what is published last changed, in seconds since the epoch; 0: never.", NUMBER,
		offsetof(struct lm_sync_image, published_s)},
};

static int put_value(const struct metric *metric, const void *from, struct lm_buf *out)
{
	const char *at = (const char *)from + metric->offset;
	const struct lm_sync_image *image = from; /* where the form says so */
	uint64_t value = 1;
	if (metric->form == NUMBER || metric->form == MS)
		memcpy(&value, at, sizeof(value));
	if (metric->form == MS)
		return lm_buf_printf(out, " %" PRIu64 ".%03" PRIu64 "\n", value / 1000, value % 1000);
	if (metric->form == FLAG)
		value = !*(const bool *)at;
	if (metric->form == FAILING)
		value = image->error_s != 0;
	if (metric->form == UNWISHED)
		value = image->unwished_s != 0;
	return lm_buf_printf(out, " %" PRIu64 "\n", value);
}

/* NAME VALUE, or NAME{LABELS} VALUE. first: the version or a repository; NULL: no label. */
static int put(const struct metric *metric, const void *from, const char *first, const char *image, struct lm_buf *out)
{
	const char *label = metric->scope == INFO ? "version" : "repository";
	int r = lm_exposition_name(
		out, PREFIX, metric->name, first ? label : NULL, first, image ? "image" : NULL, image);
	return r < 0 ? r : put_value(metric, from, out);
}

static int put_all(const struct metric *metric, const struct lm_sync_counters *counters,
	const struct lm_notify_counters *notify, const struct lm_sync_state *state, struct lm_buf *out)
{
	int r = 0;
	switch (metric->scope) {
	case INFO:
		return put(metric, counters, LM_VERSION, NULL, out);
	case PROCESS:
		return put(metric, counters, NULL, NULL, out);
	case NOTIFY:
		return put(metric, notify, NULL, NULL, out);
	case REPO:
		for (size_t i = 0; r == 0 && i < lm_sync_repo_count(state); i++) {
			const struct lm_sync_repo *repo = lm_sync_repo_at(state, i);
			r = put(metric, repo, repo->name, NULL, out);
		}
		return r;
	case IMAGE:
		for (size_t i = 0; r == 0 && i < lm_sync_count(state); i++) {
			const struct lm_sync_image *image = lm_sync_at(state, i);
			r = put(metric, image, image->repo, image->name, out);
		}
		return r;
	}
	return -EINVAL;
}

int lm_sync_metrics(const struct lm_sync_counters *counters, const struct lm_notify_counters *notify,
	const struct lm_sync_state *state, struct lm_buf *out)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(metrics); i++) {
		const struct metric *metric = &metrics[i];
		r = lm_exposition_head(out, PREFIX, metric->name, metric->kind, metric->help);
		if (r == 0)
			r = put_all(metric, counters, notify, state, out);
	}
	return r;
}
