#include "convert/display.h"

#include "common.h"

#include <stdio.h>
#include <string.h>

enum { LINE_BYTES = 512, BAR_WIDTH = 12, PARTS_MAX = 8, DIGEST_SHOWN = 19 };
#define DONE_ON "\033[32m"
#define TOTAL_ON "\033[1m"
#define OFF "\033[0m"

/* A line is made of parts; when it is too long, those of the highest number go first. Part 0 always stays. */
struct part {
	char s[160];
	unsigned weight;
};
struct line {
	struct part parts[PARTS_MAX];
	size_t count;
};

static char *add(struct line *line, unsigned weight)
{
	struct part *part = &line->parts[line->count++];
	part->weight = weight;
	return part->s;
}
#define ADD(line, weight, ...) snprintf(add(line, weight), sizeof((line)->parts[0].s), __VA_ARGS__)

static size_t length(const struct line *line)
{
	size_t len = 0;
	for (size_t i = 0; i < line->count; i++)
		len += strlen(line->parts[i].s) + (i > 0 ? 2 : 0);
	return len;
}

static void shorten(struct line *line, size_t columns)
{
	while (line->count > 1 && length(line) > columns) {
		size_t least = 1;
		for (size_t i = 1; i < line->count; i++)
			if (line->parts[i].weight > line->parts[least].weight)
				least = i;
		memmove(&line->parts[least], &line->parts[least + 1], (--line->count - least) * sizeof(line->parts[0]));
	}
}

/* What a registry or a directory is called may be anything. */
static void make_printable(char *text)
{
	for (; *text; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
}

static int append_line(struct lm_buf *ret, struct line *line, unsigned columns)
{
	char text[LINE_BYTES] = "";
	size_t len = 0;
	shorten(line, columns);
	for (size_t i = 0; i < line->count && len < sizeof(text); i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", i > 0 ? "  " : "", line->parts[i].s);
	make_printable(text);
	return lm_buf_append(ret, text, LM_MIN(strlen(text), (size_t)columns));
}

static double fraction(uint64_t part, uint64_t whole)
{
	return whole > 0 ? LM_MIN((double)part / (double)whole, 1.0) : 1.0;
}

/* "[#####.....]" */
static void format_bar(char *ret, double part)
{
	int done = (int)(part * BAR_WIDTH);
	ret[0] = '[';
	memset(ret + 1, '#', (size_t)done);
	memset(ret + 1 + done, '.', (size_t)(BAR_WIDTH - done));
	strcpy(ret + 1 + BAR_WIDTH, "]");
}

/* The bar that was appended, from byte `from` on, gets its color. */
static int color_bar(struct lm_buf *ret, size_t from)
{
	char tail[LINE_BYTES];
	const char *line = (const char *)ret->data + from;
	const char *bar = strchr(line, '[');
	size_t done = bar ? strspn(bar + 1, "#") : 0;
	if (done == 0)
		return 0;
	size_t head = (size_t)(bar + 1 - line);
	int len = snprintf(tail, sizeof(tail), DONE_ON "%.*s" OFF "%s", (int)done, bar + 1, bar + 1 + done);
	ret->len = from + head;
	return lm_buf_append(ret, tail, (size_t)len);
}

static int append_layer(struct lm_buf *ret, const struct lm_display_layer *layer, unsigned columns, bool color)
{
	struct line line = {.count = 0};
	size_t from = ret->len;
	ADD(&line, 0, "layer %zu/%zu", layer->number, layer->count);
	ADD(&line, 4, "%.*s", DIGEST_SHOWN, layer->digest);
	format_bar(add(&line, 3), fraction(layer->fetched_bytes, layer->size_bytes));
	ADD(&line, 1, "%s of %s", lm_cli_size(layer->fetched_bytes).s, lm_cli_size(layer->size_bytes).s);
	ADD(&line, 5, "%s/s", lm_cli_size((uint64_t)layer->rate).s);
	ADD(&line, 6, "%llu files", (unsigned long long)layer->files);
	ADD(&line, 2, "%s", layer->stage);
	ADD(&line, 7, "%.100s", layer->image);
	int r = append_line(ret, &line, columns);
	return r == 0 && color ? color_bar(ret, from) : r;
}

static void format_left(char *ret, size_t size, uint64_t bytes, double rate)
{
	double left_s = rate > 0 ? (double)bytes / rate : -1;
	if (bytes == 0 || left_s < 0 || left_s > 99 * 3600.0)
		*ret = '\0';
	else if (left_s < 3600)
		snprintf(ret, size, "%d:%02d left", (int)left_s / 60, (int)left_s % 60);
	else
		snprintf(ret, size, "%d:%02d h left", (int)left_s / 3600, (int)left_s / 60 % 60);
}

static int append_total(struct lm_buf *ret, const struct lm_display *d, unsigned columns, bool color)
{
	struct line line = {.count = 0};
	char left[32];
	uint64_t missing = d->total_bytes > d->fetched_bytes ? d->total_bytes - d->fetched_bytes : 0;
	format_left(left, sizeof(left), missing, d->rate);
	ADD(&line, 0, "%s of %s", lm_cli_size(d->fetched_bytes).s, lm_cli_size(d->total_bytes).s);
	ADD(&line, 2, "%s/s", lm_cli_size((uint64_t)d->rate).s);
	if (*left)
		ADD(&line, 1, "%s", left);
	ADD(&line, 3, "%zu of %zu layers", d->layers_done, d->layers_total);
	ADD(&line, 4, "%s stored", lm_cli_size(d->stored_bytes).s);
	int r = color ? lm_buf_str(ret, TOTAL_ON) : 0;
	if (r == 0)
		r = append_line(ret, &line, columns);
	return r == 0 && color ? lm_buf_str(ret, OFF) : r;
}

int lm_display_format(const struct lm_display *display, unsigned columns, unsigned rows, bool color, struct lm_buf *ret)
{
	size_t room = rows > 1 ? rows - 1 : 0;
	for (size_t i = 0; i < LM_MIN(display->layer_count, room); i++) {
		int r = append_layer(ret, &display->layers[i], columns, color);
		if (r == 0)
			r = lm_buf_str(ret, "\n");
		if (r < 0)
			return r;
	}
	return append_total(ret, display, columns, color);
}
