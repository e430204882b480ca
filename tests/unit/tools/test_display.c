#include "base/macros.h"
#include "convert/display.h"
#include "convert/stages.h"

#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define DIGEST "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static const struct lm_display_layer layer = {
	.image = "registry.example.org/group/image:1.0",
	.digest = DIGEST,
	.number = 3,
	.count = 19,
	.fetched_bytes = 25000000,
	.size_bytes = 100000000,
	.files = 1234,
	.rate = 12500000,
	.stage = "fetch",
};

static const char *format(const struct lm_display *display, unsigned columns, unsigned rows, bool color)
{
	static char text[8192];
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(sizeof(text) - 1);
	assert_int_equal(lm_display_format(display, columns, rows, color, &buf), 0);
	snprintf(text, sizeof(text), "%s", lm_buf_cstr(&buf));
	return text;
}

static struct lm_display one_layer(const struct lm_display_layer *l)
{
	return (struct lm_display){
		.layers = l,
		.layer_count = 1,
		.fetched_bytes = 125000000,
		.total_bytes = 1000000000,
		.stored_bytes = 90000000,
		.layers_done = 2,
		.layers_total = 19,
		.rate = 12500000,
	};
}

static void test_wide(void **state)
{
	const struct lm_display display = one_layer(&layer);
	assert_string_equal(format(&display, 200, 24, false),
		"layer 3/19  sha256:0123456789ab  [###.........]  25.0 MB of 100.0 MB  12.5 MB/s  1234 files  fetch  "
		"registry.example.org/group/image:1.0\n"
		"125.0 MB of 1.0 GB  12.5 MB/s  1:10 left  2 of 19 layers  90.0 MB stored");
}

/* What matters less goes first, and no line is ever too long. */
static void test_narrow(void **state)
{
	const struct lm_display display = one_layer(&layer);
	assert_string_equal(format(&display, 60, 24, false),
		"layer 3/19  [###.........]  25.0 MB of 100.0 MB  fetch\n"
		"125.0 MB of 1.0 GB  12.5 MB/s  1:10 left  2 of 19 layers");
	assert_string_equal(format(&display, 40, 24, false), "layer 3/19  25.0 MB of 100.0 MB  fetch\n"
							     "125.0 MB of 1.0 GB  12.5 MB/s  1:10 left");
	for (unsigned columns = 1; columns < 220; columns++)
		for (char *line = (char *)format(&display, columns, 24, false), *next; line; line = next) {
			next = strchr(line, '\n');
			if (next)
				*next++ = '\0';
			assert_in_range(strlen(line), 1, columns);
		}
}

static void test_rows(void **state)
{
	struct lm_display_layer layers[8];
	for (size_t i = 0; i < ARRAY_LEN(layers); i++)
		layers[i] = layer;
	struct lm_display display = one_layer(layers);
	display.layer_count = ARRAY_LEN(layers);
	for (unsigned rows = 1; rows < 12; rows++) {
		unsigned lines = 1;
		for (const char *c = format(&display, 80, rows, true); *c; c++)
			lines += *c == '\n';
		assert_int_equal(lines, LM_MIN(rows, 9U));
	}
}

/* Colors are all that a line has besides, and they end with it. */
static void test_color(void **state)
{
	const struct lm_display display = one_layer(&layer);
	assert_string_equal(format(&display, 60, 24, true),
		"layer 3/19  [\033[32m###\033[0m.........]  25.0 MB of 100.0 MB  fetch\n"
		"\033[1m125.0 MB of 1.0 GB  12.5 MB/s  1:10 left  2 of 19 layers\033[0m");
}

static void test_hostile_names(void **state)
{
	struct lm_display_layer odd = layer;
	odd.image = "a\033[2Jb\xc2\x9b\n\r\x7f";
	odd.digest = "\t\v";
	const struct lm_display display = one_layer(&odd);
	const char *text = format(&display, 200, 24, false);
	assert_null(strpbrk(text, "\033\r\t\v\x7f\x9b"));
	assert_non_null(strstr(text, "a?[2Jb"));
	assert_ptr_equal(strchr(text, '\n'), strrchr(text, '\n'));
}

static void test_odd_numbers(void **state)
{
	struct lm_display_layer full = layer;
	full.fetched_bytes = 2 * full.size_bytes;
	struct lm_display display = one_layer(&full);
	display.rate = 0;
	assert_null(strstr(format(&display, 200, 24, false), "left"));
	assert_non_null(strstr(format(&display, 200, 24, false), "[############]"));
	full.size_bytes = full.fetched_bytes = 0;
	display.fetched_bytes = display.total_bytes = UINT64_MAX;
	display.rate = 1e18;
	assert_non_null(strstr(format(&display, 200, 24, false), "0 B of 0 B"));
	display.fetched_bytes = 0;
	display.total_bytes = 36000000000;
	display.rate = 1e6;
	assert_non_null(strstr(format(&display, 200, 24, false), "10:00 h left"));
}

/* Waiting counts for what was waited for. */
static void test_bottleneck(void **state)
{
	struct lm_stage_times held_up, times = {{0}};
	times.ns[LM_STAGE_FETCH] = 30;
	times.ns[LM_STAGE_INFLATE] = 10;
	times.ns[LM_STAGE_STARVED] = 20;
	times.ns[LM_STAGE_TAR] = 12;
	times.ns[LM_STAGE_COMPRESS] = 1000; /* on all cores, but never waited for */
	assert_int_equal(lm_stage_bottleneck(&times, &held_up), LM_STAGE_FETCH);
	assert_int_equal(held_up.ns[LM_STAGE_FETCH], 15);
	assert_int_equal(held_up.ns[LM_STAGE_INFLATE], 5);
	assert_int_equal(held_up.ns[LM_STAGE_COMPRESS], 0);
	times.ns[LM_STAGE_BLOCKED] = 100;
	times.ns[LM_STAGE_STORE] = 3000;
	assert_int_equal(lm_stage_bottleneck(&times, &held_up), LM_STAGE_STORE);
	assert_int_equal(held_up.ns[LM_STAGE_COMPRESS] + held_up.ns[LM_STAGE_STORE], 100);
	times.ns[LM_STAGE_CATALOGS] = 1000;
	assert_int_equal(lm_stage_bottleneck(&times, &held_up), LM_STAGE_CATALOGS);
	assert_string_equal(lm_stage_name(LM_STAGE_CATALOGS), "catalogs");
}

static void test_clock(void **state)
{
	struct lm_stage_clock clock = {0};
	struct lm_stage_times sum = {{0}};
	lm_stage_enter(&clock, LM_STAGE_TAR);
	int64_t begin_ns = lm_now_ns();
	while (lm_now_ns() - begin_ns < 2000000)
		;
	lm_stage_enter(&clock, LM_STAGE_IDLE);
	lm_stage_empty(&clock, &sum);
	assert_true(sum.ns[LM_STAGE_TAR] >= 2000000);
	assert_int_equal(sum.ns[LM_STAGE_FETCH], 0);
	assert_int_equal(clock.times.ns[LM_STAGE_TAR], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wide),
		cmocka_unit_test(test_narrow),
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_color),
		cmocka_unit_test(test_hostile_names),
		cmocka_unit_test(test_odd_numbers),
		cmocka_unit_test(test_bottleneck),
		cmocka_unit_test(test_clock),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
