#include "fetcher/readahead.h"

#include "base/lock.h"

enum { SETS = 64, WAYS = 16 /* all large files of a merged tree are one node */ };

struct set {
	struct lm_lock lock;
	uint64_t clock; /* under lock, as is the rest */
	struct lm_stream streams[WAYS];
};

struct lm_streams {
	struct set sets[SETS];
};

bool lm_stream_follows(const struct lm_stream *stream, uint64_t node, uint64_t offset)
{
	return stream->node == node && offset + LM_AHEAD_SLACK >= stream->end && offset <= stream->end + LM_AHEAD_SLACK;
}

void lm_stream_read(struct lm_stream *stream, uint64_t offset, uint64_t len, struct lm_span *ret)
{
	uint64_t end = LM_MAX(stream->end, offset + len);
	stream->length += end - stream->end;
	stream->end = end;
	*ret = (struct lm_span){0, 0};
	if (stream->length < LM_AHEAD_MIN || end <= stream->stop)
		return;
	ret->from = LM_MAX(stream->ahead, end);
	ret->to = LM_MAX(ret->from, end + LM_MIN(stream->length, (uint64_t)LM_AHEAD_MAX));
	stream->ahead = ret->to;
}

int lm_streams_new(struct lm_streams **ret, struct lm_err *err)
{
	struct lm_streams *streams = calloc(1, sizeof(*streams));
	if (!streams)
		return lm_err_oom(err);
	for (size_t i = 0; i < SETS; i++)
		lm_lock_init(&streams->sets[i].lock);
	*ret = streams;
	return 0;
}

void lm_streams_free(struct lm_streams *streams)
{
	if (!streams)
		return;
	for (size_t i = 0; i < SETS; i++)
		lm_lock_done(&streams->sets[i].lock);
	free(streams);
}

static struct lm_stream *find_stream(struct set *set, uint64_t node, uint64_t offset)
{
	struct lm_stream *oldest = &set->streams[0];
	for (size_t i = 0; i < WAYS; i++) {
		struct lm_stream *stream = &set->streams[i];
		if (lm_stream_follows(stream, node, offset))
			return stream;
		if (stream->used < oldest->used)
			oldest = stream;
	}
	*oldest = (struct lm_stream){.node = node, .end = offset};
	return oldest;
}

static struct set *set_of(struct lm_streams *streams, uint64_t node)
{
	return &streams->sets[node * 0x9e3779b97f4a7c15ULL >> 58];
}

void lm_streams_stop(struct lm_streams *streams, uint64_t node, uint64_t offset, uint64_t stop)
{
	struct set *set = set_of(streams, node);
	LM_LOCKED(&set->lock);
	struct lm_stream *stream = find_stream(set, node, offset);
	stream->ahead = stream->stop = stop;
}

void lm_streams_read(struct lm_streams *streams, uint64_t node, uint64_t offset, uint64_t len, struct lm_span *ret)
{
	struct set *set = set_of(streams, node);
	LM_LOCKED(&set->lock);
	struct lm_stream *stream = find_stream(set, node, offset);
	stream->used = ++set->clock;
	lm_stream_read(stream, offset, len, ret);
}
