/* What was found, and how it is shown. */
#include "common.h"
#include "doctor/doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int lm_doctor_init(struct lm_doctor *doctor, const struct lm_doctor_options *options, struct lm_err *err)
{
	*doctor = (struct lm_doctor){.options = *options, .saw = json_array(), .findings = json_array()};
	return doctor->saw && doctor->findings ? 0 : lm_err_oom(err);
}

void lm_doctor_done(struct lm_doctor *doctor)
{
	struct lm_doctor_gathered *g = &doctor->gathered;
	json_decref(doctor->saw);
	json_decref(doctor->findings);
	json_decref(g->settings);
	lm_fetcher_status_freep(&g->fetcher);
	lm_snapshotter_status_freep(&g->snapshotter);
}

/* On one line, and nothing in it that a terminal obeys. */
static json_t *PRINTF_LIKE(1, 0) text_of(const char *fmt, va_list args)
{
	char *text = NULL;
	if (vasprintf(&text, fmt, args) < 0)
		return NULL;
	for (char *at = text; (at = strchr(at, '\n'));)
		*at = ' ';
	lm_cli_defuse(text);
	json_t *json = json_string(text);
	free(text);
	return json;
}

void lm_doctor_found(struct lm_doctor *doctor, enum lm_doctor_kind kind, const char *fmt, ...)
{
	const struct lm_doctor_row *row = &lm_doctor_rows[kind];
	va_list args;
	va_start(args, fmt);
	json_t *text = text_of(fmt, args);
	va_end(args);
	json_t *finding = json_pack("{s:s, s:s, s:s, s:s, s:o, s:s}", "name", row->name, "level",
		lm_doctor_level_names[row->level], "area", lm_doctor_area_names[row->area], "sentence", row->sentence,
		"text", text, "advice", row->advice);
	doctor->levels[row->level]++;
	if (json_array_append_new(doctor->findings, finding) < 0)
		doctor->incomplete = true;
}

void lm_doctor_saw(struct lm_doctor *doctor, enum lm_doctor_area area, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	json_t *text = text_of(fmt, args);
	va_end(args);
	json_t *seen = json_pack("{s:s, s:o}", "area", lm_doctor_area_names[area], "text", text);
	if (json_array_append_new(doctor->saw, seen) < 0)
		doctor->incomplete = true;
}

void lm_doctor_no_answer(struct lm_doctor *doctor, enum lm_doctor_kind kind, const struct lm_err *why)
{
	if (why->code == -EACCES && geteuid() != 0)
		lm_doctor_saw(doctor, lm_doctor_rows[kind].area, "not looked at: %s", lm_err_text(why));
	else
		lm_doctor_found(doctor, kind, "%s", lm_err_text(why));
}

/* --- text --- */

const char *lm_doctor_text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	return text ? text : "";
}

/* The lines of one area, its name before the first. */
static void print_area(const struct lm_doctor *doctor, const char *area)
{
	const char *name = area;
	for (size_t i = 0; i < json_array_size(doctor->saw); i++) {
		const json_t *item = json_array_get(doctor->saw, i);
		if (strcmp(lm_doctor_text_of(item, "area"), area) != 0)
			continue;
		printf("%-12s %s\n", name, lm_doctor_text_of(item, "text"));
		name = "";
	}
	for (size_t i = 0; i < json_array_size(doctor->findings); i++) {
		const json_t *item = json_array_get(doctor->findings, i);
		if (strcmp(lm_doctor_text_of(item, "area"), area) != 0)
			continue;
		printf("%-12s %s %s: %s: %s\n", name, lm_doctor_text_of(item, "level"), lm_doctor_text_of(item, "name"),
			lm_doctor_text_of(item, "sentence"), lm_doctor_text_of(item, "text"));
		printf("%-12s     %s\n", "", lm_doctor_text_of(item, "advice"));
		name = "";
	}
}

void lm_doctor_print(const struct lm_doctor *doctor)
{
	for (size_t i = 0; i < LM_DOCTOR_AREAS; i++)
		print_area(doctor, lm_doctor_area_names[i]);
	for (size_t i = 0; i < LM_DOCTOR_LEVELS; i++)
		printf("%s%zu %s%s", i ? ", " : "", doctor->levels[i], lm_doctor_level_names[i],
			doctor->levels[i] == 1 ? "" : "s");
	putchar('\n');
}

/* --- JSON --- */

int lm_doctor_print_json(const struct lm_doctor *doctor)
{
	return lm_cli_print_json(json_pack("{s:b, s:I, s:I, s:I, s:O, s:O}", "healthy",
		doctor->levels[LM_DOCTOR_PROBLEM] + doctor->levels[LM_DOCTOR_WARNING] == 0, "problems",
		(json_int_t)doctor->levels[LM_DOCTOR_PROBLEM], "warnings",
		(json_int_t)doctor->levels[LM_DOCTOR_WARNING], "notes", (json_int_t)doctor->levels[LM_DOCTOR_NOTE],
		"saw", doctor->saw, "findings", doctor->findings));
}

/* --- the table --- */

void lm_doctor_list(void)
{
	for (size_t i = 0; i < LM_DOCTOR_KINDS; i++) {
		const struct lm_doctor_row *row = &lm_doctor_rows[i];
		printf("%s\t%s\t%s\t%s\t%s\n", row->name, lm_doctor_level_names[row->level],
			lm_doctor_area_names[row->area], row->sentence, row->advice);
	}
}
