#include "sync/events.h"

#include "base/str.h"
#include "oci/json.h"
#include "oci/reference.h"

#include <string.h>

struct reader {
	lm_event_fn *fn;
	void *arg;
	size_t others;
	struct lm_err *err;
};

/* Foreign text becomes a reference or nothing. */
static int push(struct reader *reader, const char *repository, const char *tag, const char *digest)
{
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	/* A host of our own: a repository's name must not be taken for one. */
	CLEANUP(lm_freep) char *text = lm_str_printf("docker://host.invalid/%s:%s", repository, tag);
	if (!text)
		return lm_err_oom(reader->err);
	int r = lm_reference_parse(text, &ref, NULL);
	if (r == -ENOMEM)
		return lm_err_oom(reader->err);
	if (r < 0 || !ref.tag || ref.digest || strcmp(ref.repository, repository) != 0) {
		reader->others++;
		return 0;
	}
	return reader->fn(reader->arg, repository, tag, digest && lm_digest_valid(digest) ? digest : "");
}

static int read_distribution_event(struct reader *reader, const json_t *event)
{
	const char *what = "notification", *action = NULL, *repository = NULL, *tag = NULL, *digest = NULL;
	json_t *target = NULL;
	if (!json_is_object(event))
		return lm_err_set(reader->err, -EPROTO, "%s: an event is no object", what);
	int r = lm_json_string(what, event, "action", LM_JSON_REQUIRED, &action, reader->err);
	if (r == 0)
		r = lm_json_object(what, event, "target", LM_JSON_OPTIONAL, &target, reader->err);
	if (r == 0 && target)
		r = lm_json_string(what, target, "repository", LM_JSON_OPTIONAL, &repository, reader->err);
	if (r == 0 && target)
		r = lm_json_string(what, target, "tag", LM_JSON_OPTIONAL, &tag, reader->err);
	if (r == 0 && target)
		r = lm_json_string(what, target, "digest", LM_JSON_OPTIONAL, &digest, reader->err);
	if (r < 0)
		return r;
	if (strcmp(action, "push") == 0 && repository && tag)
		return push(reader, repository, tag, digest);
	reader->others++;
	return 0;
}

static int read_harbor_resource(struct reader *reader, const char *repository, const json_t *resource)
{
	const char *what = "notification", *tag = NULL, *digest = NULL;
	if (!json_is_object(resource))
		return lm_err_set(reader->err, -EPROTO, "%s: a resource is no object", what);
	int r = lm_json_string(what, resource, "tag", LM_JSON_OPTIONAL, &tag, reader->err);
	if (r == 0)
		r = lm_json_string(what, resource, "digest", LM_JSON_OPTIONAL, &digest, reader->err);
	if (r < 0)
		return r;
	if (tag)
		return push(reader, repository, tag, digest);
	reader->others++;
	return 0;
}

static int read_harbor(struct reader *reader, const json_t *message, const char *type)
{
	const char *what = "notification", *repository = NULL;
	json_t *data = NULL, *about = NULL, *resources = NULL;
	if (strcmp(type, "PUSH_ARTIFACT") != 0) {
		reader->others++;
		return 0;
	}
	int r = lm_json_object(what, message, "event_data", LM_JSON_REQUIRED, &data, reader->err);
	if (r == 0)
		r = lm_json_object(what, data, "repository", LM_JSON_REQUIRED, &about, reader->err);
	if (r == 0)
		r = lm_json_string(what, about, "repo_full_name", LM_JSON_REQUIRED, &repository, reader->err);
	if (r == 0)
		r = lm_json_array(what, data, "resources", LM_EVENTS_MAX, LM_JSON_REQUIRED, &resources, reader->err);
	for (size_t i = 0; r == 0 && i < json_array_size(resources); i++)
		r = read_harbor_resource(reader, repository, json_array_get(resources, i));
	return r;
}

int lm_events_parse(const char *json, size_t len, lm_event_fn *fn, void *arg, size_t *ret_others, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *message = NULL;
	struct reader reader = {.fn = fn, .arg = arg, .err = err};
	const char *type = NULL;
	json_t *events = NULL;
	if (len > LM_EVENTS_TEXT_MAX)
		return lm_err_set(err, -EPROTO, "notification: more than %d bytes", LM_EVENTS_TEXT_MAX);
	int r = lm_json_load("notification", json, len, &message, err);
	if (r == 0)
		r = lm_json_array("notification", message, "events", LM_EVENTS_MAX, LM_JSON_OPTIONAL, &events, err);
	if (r == 0 && !events)
		r = lm_json_string("notification", message, "type", LM_JSON_OPTIONAL, &type, err);
	if (r < 0)
		return r;
	if (!events && !type)
		return lm_err_set(err, -EPROTO, "notification: neither distribution's nor Harbor's");
	if (type)
		r = read_harbor(&reader, message, type);
	for (size_t i = 0; r == 0 && i < json_array_size(events); i++)
		r = read_distribution_event(&reader, json_array_get(events, i));
	*ret_others = reader.others;
	return r;
}
