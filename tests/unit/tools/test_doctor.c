/* What doctor can judge without a node: versions, clocks, containerd's configuration as it prints it; and that the man
 * page has its table. */
#include "base/file.h"
#include "base/str.h"
#include "doctor/containerd_config.h"
#include "doctor/toml.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void versions(void **state)
{
	assert_int_equal(lm_doctor_version("6.1.0-18-amd64"), 6001);
	assert_int_equal(lm_doctor_version("6.18.44-fc-v669"), 6018);
	assert_int_equal(lm_doctor_version("1.6.20~ds1"), 1006);
	assert_int_equal(lm_doctor_version("2.1"), 2001);
	assert_int_equal(lm_doctor_version(""), 0);
	assert_int_equal(lm_doctor_version("6"), 0);
	assert_int_equal(lm_doctor_version("x.y"), 0);
}

static void clocks(void **state)
{
	static const struct {
		int64_t ahead_s[3];
		size_t count;
		int64_t behind_s;
	} cases[] = {
		{{0}, 0, 0},
		{{5, -3}, 2, 0},
		{{3600}, 1, 3600},
		{{3600, 1}, 2, 0}, /* one of them is wrong by itself */
		{{-7200, -3600, -86400}, 3, -3600},
		{{LM_DOCTOR_CLOCK_S}, 1, LM_DOCTOR_CLOCK_S},
		{{LM_DOCTOR_CLOCK_S - 1}, 1, 0},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		assert_int_equal(lm_doctor_clock_behind(cases[i].ahead_s, cases[i].count), cases[i].behind_s);
}

static void directories(void **state)
{
	static const struct {
		const char *path, *there;
	} cases[] = {
		{"/", "/"},
		{".", "."},
		{"/proc/self", "/proc/self"},
		{"/proc/self/none/at/all", "/proc/self"},
		{"/nonexistent", "/"},
		{"/nonexistent//a/", "/"},
		{"nonexistent", "."},
		{"nonexistent/a", "."},
	};
	char there[PATH_MAX], too_long[PATH_MAX + 1] = "";
	struct lm_err err = LM_ERR_INIT;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(lm_doctor_existing(cases[i].path, there, NULL), 0);
		assert_string_equal(there, cases[i].there);
	}
	memset(too_long, 'a', sizeof(too_long) - 1);
	assert_int_equal(lm_doctor_existing(too_long, there, &err), -ENAMETOOLONG);
}

/* --- apart --- */

static void count(void *arg)
{
	++*(int *)arg;
}

static void die(void *arg)
{
	count(arg);
	(void)raise(SIGKILL);
}

static void apart(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	int n = 1;
	assert_int_equal(lm_doctor_apart(count, &n, sizeof(n), &err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(lm_doctor_apart(die, &n, sizeof(n), &err), -EIO);
	assert_int_equal(n, 2);
}

/* --- results --- */

static void texts(void **state)
{
	CLEANUP(lm_doctor_done) struct lm_doctor doctor = {0};
	const struct lm_doctor_options options = {0};
	const struct lm_err no = {.code = -ENOENT, .msg = "nobody"};
	assert_int_equal(lm_doctor_init(&doctor, &options, NULL), 0);
	lm_doctor_saw(&doctor, LM_DOCTOR_DISK, "%s", "one\ntwo \033[1m \302\233 \377 \342\200\256 \303\251");
	lm_doctor_no_answer(&doctor, LM_DOCTOR_CONTAINERD_DOWN, &no);
	const json_t *saw = json_array_get(doctor.saw, 0), *found = json_array_get(doctor.findings, 0);
	assert_string_equal(lm_doctor_text_of(saw, "text"), "one two ?[1m ?? ? ??? \303\251");
	assert_string_equal(lm_doctor_text_of(found, "name"), "containerd-down");
	assert_string_equal(lm_doctor_text_of(found, "text"), "nobody");
	assert_string_equal(lm_doctor_text_of(found, "nothing"), "");
	assert_int_equal(doctor.levels[LM_DOCTOR_PROBLEM], 1);
	assert_false(doctor.incomplete);
}

/* --- TOML --- */

static int append(void *arg, const struct lm_toml_value *v)
{
	struct lm_buf *out = arg;
	int r = 0;
	for (size_t i = 0; i < v->depth && r == 0; i++)
		r = lm_buf_printf(out, "%s%s", i ? "|" : "", v->path[i]);
	if (r == 0)
		r = lm_buf_printf(
			out, "%s%s%s%s\n", v->in_array ? " +" : "=", v->bare ? "" : "\"", v->text, v->bare ? "" : "\"");
	return r;
}

static void values(void **state)
{
	static const struct {
		const char *text, *wanted; /* NULL: refused */
	} cases[] = {
		{"", ""},
		{"a = 1\n", "a=1\n"},
		{"a = 1", "a=1\n"},
		{"# c\n\na = true # c\r\nb='x\\y'\n", "a=true\nb=\"x\\y\"\n"},
		{"s = \"a\\\"b\\\\c\\u00e9\\tz\"", "s=\"a\"b\\c\303\251\tz\"\n"},
		{"[plugins.\"io.x/y\".'z']\n  k = \"v\"\n[b]\nk=1", "plugins|io.x/y|z|k=\"v\"\nb|k=1\n"},
		{"a.b.'c d' = 'x'\n", "a|b|c d=\"x\"\n"},
		{"[[l]]\nx=1\n[[l]]\nx=2\n", "l|x=1\nl|x=2\n"},
		{"a = [\"x\", 'y', 3]\nb = []\n", "a +\"x\"\na +\"y\"\na +3\n"},
		{"a = [\n  \"x\", # c\n  [1, [2]],\n  {k = 'v'},\n]\nb = 1", "a +\"x\"\nb=1\n"},
		{"a = {x = 1, y = {z = \"}\"}}\nb = 1", "b=1\n"},
		{"a = '''\none\ntwo'''\nb = \"\"\"x\ny\"\"\"", "a=\"one\ntwo\"\nb=\"x\ny\"\n"},
		{"t = 1979-05-27T07:32:00Z", "t=1979-05-27T07:32:00Z\n"},
		{"a", NULL},
		{"a =", NULL},
		{"a = 1 b = 2", NULL},
		{"a = \"x", NULL},
		{"a = 'x\ny'", NULL},
		{"a = [1", NULL},
		{"a = {", NULL},
		{"[a", NULL},
		{"[[a]", NULL},
		{"[a] b", NULL},
		{"= 1", NULL},
		{"this is no TOML", NULL},
		{"a = \"\\q\"", NULL},
		{"a = \"\\ud800\"", NULL},
		{"a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q = 1", NULL},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(4096);
		struct lm_err err = LM_ERR_INIT;
		int r = lm_toml_read(cases[i].text, strlen(cases[i].text), append, &out, &err);
		if (cases[i].wanted ? r != 0 || strcmp(lm_buf_cstr(&out), cases[i].wanted) != 0
				    : r != -EPROTO || err.code != -EPROTO)
			fail_msg("%s: %d, %s, %s", cases[i].text, r, lm_buf_cstr(&out), lm_err_text(&err));
	}
}

static int refuse(void *arg, const struct lm_toml_value *v)
{
	return -ENOMEM;
}

static void lines(void **state)
{
	static const char text[] = "a = 1\n\n[b]\nc = 'x\n";
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(4096);
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_toml_read(text, strlen(text), append, &out, &err), -EPROTO);
	assert_non_null(strstr(lm_err_text(&err), "line 4"));
	assert_int_equal(lm_toml_read("a=1", 3, refuse, NULL, NULL), -ENOMEM);
}

/* --- containerd's configuration --- */

#define ADDRESS "/run/lamella/snapshotter.sock"
#define ROOT "/var/lib/lamella/snapshotter"
#define PLUGIN_1 "[proxy_plugins]\n  [proxy_plugins.lamella]\n    address = \"" ADDRESS "\"\n    type = \"snapshot\"\n"
#define PLUGIN_2                                                                                                \
	"[proxy_plugins]\n  [proxy_plugins.lamella]\n    type = 'snapshot'\n    address = '" ADDRESS            \
	"'\n    capabilities = ['remap-ids']\n\n    [proxy_plugins.lamella.exports]\n      address = '" ADDRESS \
	"'\n      root = '" ROOT "'\n"
#define CRI_1(more)                                                                       \
	"root = \"/nonexistent\"\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n" \
	"    [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n" more
#define CRI_2(more) "version = 3\n[plugins]\n  [plugins.'io.containerd.cri.v1.images']\n" more
#define UNPACK                                                                                                \
	"[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n  platform = 'linux'\n  snapshotter = " \
	"'overlayfs'\n"                                                                                       \
	"[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n  platform = 'linux'\n  snapshotter = " \
	"'lamella'\n"

static void judgements(void **state)
{
	static const struct {
		const char *dump;
		unsigned version;
		const char *found; /* names, each with a blank behind it */
	} cases[] = {
		{CRI_1("snapshotter = \"lamella\"\n") PLUGIN_1, 1006, "image-filesystem "},
		{CRI_1("snapshotter = \"lamella\"\n") PLUGIN_1, 1007, "remap image-filesystem "},
		{CRI_2("snapshotter = 'lamella'\ndisable_snapshot_annotations = false\n") UNPACK PLUGIN_2, 2001, ""},
		{CRI_2("snapshotter = 'lamella'\n") PLUGIN_2, 2001, "unpack-config "},
		{CRI_2("snapshotter = 'overlayfs'\n") UNPACK PLUGIN_2, 2001, "cri-snapshotter "},
		{CRI_2("snapshotter = 'overlayfs'\n[plugins.'io.containerd.cri.v1.images'.runtime_platforms.lazy]\n"
		       "snapshotter = 'lamella'\n") UNPACK PLUGIN_2,
			2001, ""},
		{CRI_1("snapshotter = \"overlayfs\"\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.lazy]\n"
		       "snapshotter = \"lamella\"\n") PLUGIN_2,
			1007, "image-filesystem "},
		{CRI_2("snapshotter = 'lamella'\ndisable_snapshot_annotations = true\ndiscard_unpacked_layers = true\n")
				UNPACK PLUGIN_2,
			2002, "annotations discarded "},
		{CRI_2("snapshotter = 'lamella'\n") UNPACK
			"[proxy_plugins.lamella]\ntype = 'snapshot'\naddress = '/else'\n"
			"capabilities = ['rebase']\nexports.root = '" ROOT "'\n",
			2002, "plugin-address rebase remap "},
		{CRI_2("snapshotter = 'other'\n") "[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]"
						  "\nsnapshotter = "
						  "'other'\n[proxy_plugins.other]\ntype = 'snapshot'\naddress = "
						  "'" ADDRESS "'\ncapabilities = ['remap-ids']\n",
			2002, "image-filesystem "},
		{CRI_2("snapshotter = 'lamella'\n") "[proxy_plugins.lamella]\ntype = 'content'\naddress = '" ADDRESS
						    "'\n",
			2002, "plugin-absent "},
		{"", 1006, "plugin-absent "}, {PLUGIN_2 UNPACK, 2001, ""}, /* without the CRI */
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_containerd_config_done) struct lm_containerd_config config = {0};
		CLEANUP(lm_doctor_done) struct lm_doctor doctor = {0};
		CLEANUP(lm_buf_done) struct lm_buf names = LM_BUF(4096);
		const struct lm_doctor_options options = {0};
		assert_int_equal(lm_doctor_init(&doctor, &options, NULL), 0);
		assert_int_equal(lm_containerd_config_parse(cases[i].dump, strlen(cases[i].dump), &config, NULL), 0);
		lm_containerd_config_judge(&doctor, &config, cases[i].version, ADDRESS, ROOT);
		for (size_t k = 0; k < json_array_size(doctor.findings); k++)
			assert_int_equal(
				lm_buf_printf(&names, "%s ",
					json_string_value(json_object_get(json_array_get(doctor.findings, k), "name"))),
				0);
		if (strcmp(lm_buf_cstr(&names), cases[i].found) != 0)
			fail_msg("%zu: found %s, not %s", i, lm_buf_cstr(&names), cases[i].found);
		assert_false(doctor.incomplete);
	}
}

/* --- the table --- */

static void table(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf page = LM_BUF(1 << 20);
	CLEANUP(lm_freep)
	char *path = lm_str_printf("%s/deploy/man/lamella-doctor.1", getenv("LM_SOURCE_ROOT"));
	size_t rows = 0;
	assert_int_equal(lm_file_read(AT_FDCWD, path, &page, NULL), 0);
	for (size_t i = 0; i < LM_DOCTOR_KINDS; i++) {
		const struct lm_doctor_row *row = &lm_doctor_rows[i];
		CLEANUP(lm_freep)
		char *text = lm_str_printf(".It Li %s Pq %s , %s\n%s.\n%s\n", row->name,
			lm_doctor_level_names[row->level], lm_doctor_area_names[row->area], row->sentence, row->advice);
		assert_non_null(row->name);
		assert_true(i == 0 || row->area >= row[-1].area);
		if (!strstr(lm_buf_cstr(&page), text))
			fail_msg("%s has not: %s", path, text);
	}
	for (const char *at = lm_buf_cstr(&page); (at = strstr(at, " Pq ")); at++)
		rows += at[4] == 'p' || at[4] == 'w' || at[4] == 'n';
	assert_int_equal(rows, LM_DOCTOR_KINDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(versions), cmocka_unit_test(clocks),
		cmocka_unit_test(directories), cmocka_unit_test(apart), cmocka_unit_test(texts),
		cmocka_unit_test(values), cmocka_unit_test(lines), cmocka_unit_test(judgements),
		cmocka_unit_test(table)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
