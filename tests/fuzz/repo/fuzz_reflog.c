/* A reflog from anywhere: read; then changed as publishers and garbage collection do, and read again. */
#include "base/file.h"
#include "fuzz_file.h"
#include "repo/reflog.h"

#include <sys/stat.h>

enum { SIZE_MAX_BYTES = 1 << 20, LISTED_MAX = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct listed {
	struct lm_hash hashes[LISTED_MAX];
	size_t count;
};

static int keep(void *arg, const struct lm_ref *ref)
{
	struct listed *listed = arg;
	if (!ref->hash.set || ref->type > LM_REF_METAINFO)
		abort();
	listed->hashes[listed->count++] = ref->hash;
	return listed->count == LISTED_MAX;
}

static void check(int r, const struct lm_err *err)
{
	if (r < 0 && err->msg[0] == '\0')
		abort(); /* every refusal has its sentence */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct lm_ref ref = {.hash = {.bytes = {1, 2, 3}, .set = true}, .type = LM_REF_CATALOG, .time_s = 1};
	struct listed before = {.count = 0}, after = {.count = 0};
	struct lm_err err = LM_ERR_INIT;
	if (size > SIZE_MAX_BYTES)
		return 0;
	fuzz_file_write(data, size);
	int r = lm_reflog_each(fuzz_file, keep, &before, &err);
	check(r, &err);
	if (r < 0)
		return 0;
	err.msg[0] = '\0';
	r = lm_reflog_add(fuzz_file, &ref, 1, &err);
	check(r, &err);
	if (r == 0) {
		r = lm_reflog_remove(fuzz_file, before.hashes, before.count / 2, &err);
		check(r, &err);
	}
	if (r == 0)
		check(lm_reflog_each(fuzz_file, keep, &after, &err), &err);
	return 0;
}
