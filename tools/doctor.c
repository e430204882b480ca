/* `lamella doctor`: what is wrong with this node, and what to do about it. */
#include "doctor/doctor.h"
#include "commands.h"
#include "common.h"
#include "pull/containerd.h"

#include <stdio.h>
#include <string.h>

static int take_config(void *arg, const char *value, struct lm_err *err)
{
	struct lm_doctor_options *o = arg;
	if (o->config_count == ARRAY_LEN(o->config))
		return lm_err_set(err, -EINVAL, "more than %zu --config options", ARRAY_LEN(o->config));
	o->config[o->config_count++] = value;
	return 0;
}

/* The areas that are named, or all; -EINVAL. */
static int choose(char **words, int count, bool ret[LM_DOCTOR_AREAS], struct lm_err *err)
{
	for (int i = 0; i < LM_DOCTOR_AREAS; i++)
		ret[i] = count == 0;
	for (int w = 0; w < count; w++) {
		int i = 0;
		while (i < LM_DOCTOR_AREAS && strcmp(lm_doctor_area_names[i], words[w]) != 0)
			i++;
		if (i == LM_DOCTOR_AREAS)
			return lm_err_set(err, -EINVAL, "there is no area \"%s\"; --help names them", words[w]);
		ret[i] = true;
	}
	return 0;
}

static int examine(const struct lm_doctor_options *options, const bool areas[LM_DOCTOR_AREAS], bool json)
{
	CLEANUP(lm_doctor_done) struct lm_doctor doctor = {0};
	struct lm_err err = LM_ERR_INIT;
	if (lm_doctor_init(&doctor, options, &err) < 0)
		return lm_cli_fail(&err);
	lm_doctor_gather(&doctor);
	for (int i = 0; i < LM_DOCTOR_AREAS; i++)
		if (areas[i])
			lm_doctor_look(&doctor, (enum lm_doctor_area)i);
	if (!json)
		lm_doctor_print(&doctor);
	else if (lm_doctor_print_json(&doctor) != LM_EXIT_OK)
		return LM_EXIT_FAILED;
	if (doctor.incomplete)
		return lm_cli_fail((lm_err_oom(&err), &err));
	return doctor.levels[LM_DOCTOR_PROBLEM] + doctor.levels[LM_DOCTOR_WARNING] ? LM_EXIT_FAILED : LM_EXIT_OK;
}

int lm_cmd_doctor(int argc, char **argv)
{
	struct lm_doctor_options o = {0};
	bool areas[LM_DOCTOR_AREAS], json = false, list = false;
	struct lm_err err = LM_ERR_INIT;
	const struct lm_cli_option options[] = {
		{"config", "FILE", "settings of lamella-fetcher, as its own --config; may be repeated",
			.parse = take_config, .parse_arg = &o},
		{"socket", "PATH",
			"control socket of lamella-fetcher; default: $LAMELLA_SOCKET, or as the settings say",
			.text = &o.socket},
		{"snapshotter", "PATH", LM_SNAPSHOTTER_SOCKET_HELP, .text = &o.snapshotter},
		{"address", "SOCKET", "containerd's; default: $CONTAINERD_ADDRESS, or\n" LM_CONTAINERD_SOCKET,
			.text = &o.containerd},
		{"json", NULL, "for programs", .flag = &json},
		{"list", NULL, "only list what can be found: name, level, area, what is wrong, what to do",
			.flag = &list},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "[AREA]... [OPTION]...",
		.about = "Looks at what this node needs for starting containers lazily, says what is wrong, and what "
			 "to do\n"
			 "about it. Changes nothing. Best run as root.\n"
			 "AREA is kernel, settings, network, fetcher, snapshotter, containerd or disk; default: all.\n"
			 "Exit code 0: all is well, but perhaps for notes; 1: there are problems or warnings.",
		.options = options,
		.max_words = -1,
		.words = "AREAs are wanted",
	};
	int code, at = lm_cli_parse(argc, argv, &syntax, &code);
	if (at < 0)
		return code;
	if (list) {
		lm_doctor_list();
		return LM_EXIT_OK;
	}
	if (choose(argv + at, argc - at, areas, &err) < 0)
		return lm_cli_fail(&err);
	return examine(&o, areas, json);
}
