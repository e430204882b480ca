/* The settings of the fetcher, as it reads them itself. */
#include "doctor/doctor.h"

static void tell_remark(struct lm_doctor *doctor, const json_t *remark)
{
	const json_t *from = json_object_get(remark, "from");
	const char *repository = lm_doctor_text_of(remark, "repository");
	json_int_t line = json_integer_value(json_object_get(from, "line"));
	if (!json_is_true(json_object_get(remark, "warning")))
		return;
	lm_doctor_found(doctor, LM_DOCTOR_SETTINGS_DOUBTFUL, "%s:%lld: %s%s%s: %s", lm_doctor_text_of(from, "file"),
		(long long)line, lm_doctor_text_of(remark, "key"), *repository ? " of " : "", repository,
		lm_doctor_text_of(remark, "text"));
}

static void tell_repository(struct lm_doctor *doctor, const json_t *repository)
{
	json_int_t keys = json_integer_value(json_object_get(repository, "keys"));
	lm_doctor_saw(doctor, LM_DOCTOR_SETTINGS, "%s is to be mounted at %s, trusting %lld key%s",
		lm_doctor_text_of(repository, "name"), lm_doctor_text_of(repository, "mountpoint"), (long long)keys,
		keys == 1 ? "" : "s");
}

void lm_doctor_settings(struct lm_doctor *doctor)
{
	const struct lm_doctor_gathered *g = &doctor->gathered;
	if (!g->settings && lm_doctor_without_fetcher(doctor)) {
		lm_doctor_saw(doctor, LM_DOCTOR_SETTINGS, "there are none for a fetcher, and none is needed");
		return;
	}
	if (!g->settings) {
		lm_doctor_found(doctor, g->settings_refused ? LM_DOCTOR_SETTINGS_WRONG : LM_DOCTOR_FETCHER_MISSING,
			"%s", lm_err_text(&g->no_settings));
		return;
	}
	const json_t *repositories = json_object_get(g->settings, "repositories");
	const json_t *remarks = json_object_get(g->settings, "remarks");
	for (size_t i = 0; i < json_array_size(repositories); i++)
		tell_repository(doctor, json_array_get(repositories, i));
	for (size_t i = 0; i < json_array_size(remarks); i++)
		tell_remark(doctor, json_array_get(remarks, i));
}
