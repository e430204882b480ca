#include "convert/stages.h"

#include "base/macros.h"

const char *lm_stage_name(enum lm_stage stage)
{
	static const char *const names[LM_STAGE_WORK] = {
		[LM_STAGE_FETCH] = "fetch",
		[LM_STAGE_INFLATE] = "inflate",
		[LM_STAGE_TAR] = "tar",
		[LM_STAGE_COMPRESS] = "compress",
		[LM_STAGE_STORE] = "store",
		[LM_STAGE_CATALOGS] = "catalogs",
		[LM_STAGE_PUBLISH] = "publish",
	};
	return names[stage];
}

/* What was waited for shares the waiting as it shares the work. */
static void share(const struct lm_stage_times *times, enum lm_stage waiting, enum lm_stage a, enum lm_stage b,
	struct lm_stage_times *ret)
{
	double total = (double)times->ns[a] + (double)times->ns[b];
	double part = total > 0 ? (double)times->ns[a] / total : 0;
	ret->ns[a] = (int64_t)(part * (double)times->ns[waiting]);
	ret->ns[b] = times->ns[waiting] - ret->ns[a];
}

enum lm_stage lm_stage_bottleneck(const struct lm_stage_times *times, struct lm_stage_times *ret)
{
	*ret = (struct lm_stage_times){0};
	share(times, LM_STAGE_STARVED, LM_STAGE_FETCH, LM_STAGE_INFLATE, ret);
	share(times, LM_STAGE_BLOCKED, LM_STAGE_COMPRESS, LM_STAGE_STORE, ret);
	ret->ns[LM_STAGE_TAR] = times->ns[LM_STAGE_TAR];
	ret->ns[LM_STAGE_CATALOGS] = times->ns[LM_STAGE_CATALOGS];
	ret->ns[LM_STAGE_PUBLISH] = times->ns[LM_STAGE_PUBLISH];
	enum lm_stage worst = LM_STAGE_FETCH;
	for (unsigned i = 0; i < LM_STAGE_WORK; i++)
		if (ret->ns[i] > ret->ns[worst])
			worst = (enum lm_stage)i;
	return worst;
}
