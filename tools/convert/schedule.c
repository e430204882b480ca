#include "base/str.h"
#include "common.h"
#include "convert/inventory.h"
#include "oci/json.h"
#include "oci/shelf.h"

#include <string.h>

#define SCHEDULE "/" LM_SHELF_METADATA "/remove-schedule.json"
enum { SCHEDULE_MAX = 64 << 20 };

void lm_schedule_done(struct lm_schedule *schedule)
{
	json_decref(schedule->list);
	*schedule = (struct lm_schedule){0};
}

void lm_schedule_item_done(struct lm_schedule_item *item)
{
	lm_image_parts_done(&item->parts);
}

int lm_schedule_read(const struct lm_view *view, struct lm_schedule *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(SCHEDULE_MAX);
	struct lm_schedule schedule = {0};
	int r = lm_view_has(view, SCHEDULE, NULL, err);
	if (r > 0)
		r = view->read(view->arg, SCHEDULE, &text, err);
	if (r < 0)
		return r;
	/* DUCC writes null where there is nothing. */
	schedule.list = text.len > 0 ? json_loadb(lm_buf_cstr(&text), text.len, JSON_DECODE_ANY, NULL) : json_array();
	if (json_is_null(schedule.list)) {
		json_decref(schedule.list);
		schedule.list = json_array();
	}
	if (!json_is_array(schedule.list)) {
		lm_schedule_done(&schedule);
		return lm_err_set(err, -EPROTO, SCHEDULE ": no list");
	}
	*ret = schedule;
	return 0;
}

size_t lm_schedule_count(const struct lm_schedule *schedule)
{
	return json_array_size(schedule->list);
}

int lm_schedule_item(const struct lm_schedule *schedule, size_t i, struct lm_schedule_item *ret, struct lm_err *err)
{
	const json_t *json = json_array_get(schedule->list, i);
	const char *after = json_string_value(json_object_get(json, "RemoveAfter"));
	struct lm_schedule_item item = {
		.name = json_string_value(json_object_get(json, "Name")),
		.after_s = INT64_MAX,
	};
	int r = after ? lm_cli_time_parse(after, &item.after_s, err) : 0;
	if (r == 0)
		r = lm_image_parts_read(json, &item.parts, err);
	if (r < 0)
		return lm_err_prefix(err, -EPROTO, SCHEDULE);
	*ret = item;
	return 0;
}

static const char *config_of(const json_t *manifest)
{
	const char *config = json_string_value(json_object_get(json_object_get(manifest, "Config"), "Digest"));
	return config ? config : "";
}

void lm_schedule_drop(struct lm_schedule *schedule, const char *config)
{
	for (size_t i = json_array_size(schedule->list); i > 0; i--)
		if (strcmp(config_of(json_array_get(schedule->list, i - 1)), config) == 0) {
			json_array_remove(schedule->list, i - 1);
			schedule->changed = true;
		}
}

static int set_after(json_t *item, int64_t after_s, struct lm_err *err)
{
	return json_object_set_new(item, "RemoveAfter", json_string(lm_cli_time(after_s).s)) < 0 ? lm_err_oom(err) : 0;
}

int lm_schedule_add(struct lm_schedule *schedule, const struct lm_buf *manifest, const char *name, int64_t after_s,
	struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *json = NULL;
	int r = lm_json_load("manifest.json", lm_buf_cstr(manifest), manifest->len, &json, err);
	if (r < 0)
		return r;
	lm_schedule_drop(schedule, config_of(json));
	r = set_after(json, after_s, err);
	if (r == 0 && json_object_set_new(json, "Name", json_string(name)) < 0)
		r = lm_err_set(err, -EPROTO, "%s: a name that JSON can't hold", name);
	if (r == 0 && json_array_append(schedule->list, json) < 0)
		r = lm_err_oom(err);
	if (r == 0)
		schedule->changed = true;
	return r;
}

int lm_schedule_date(struct lm_schedule *schedule, int64_t after_s, struct lm_err *err)
{
	size_t i;
	json_t *item;
	int r = 0;
	json_array_foreach(schedule->list, i, item) {
		if (r < 0 || json_object_get(item, "RemoveAfter"))
			continue;
		schedule->changed = true;
		r = set_after(item, after_s, err);
	}
	return r;
}

int lm_schedule_write(struct lm_schedule *schedule, struct lm_txn *txn, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(SCHEDULE_MAX);
	if (!schedule->changed)
		return 0;
	if (lm_json_write(schedule->list, JSON_COMPACT, &text) < 0)
		return lm_err_oom(err);
	int r = lm_txn_mkdirs(txn, "/" LM_SHELF_METADATA, false, err);
	if (r == 0)
		r = lm_txn_put_data(txn, SCHEDULE, text.data, text.len, err);
	if (r == 0)
		schedule->changed = false;
	return r;
}
