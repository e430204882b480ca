#include "fetcher/trim.h"

#include <malloc.h>
#include <stdatomic.h>

static _Atomic(bool) armed; /* heaps are the process's, whatever repository the request is for */

static void trim(void *arg)
{
	atomic_store(&armed, false);
	(void)malloc_trim(0);
}

void lm_trim_soon(struct lm_fetch *fetch)
{
	if (atomic_load_explicit(&armed, memory_order_relaxed) || atomic_exchange(&armed, true))
		return;
	if (lm_fetch_later(fetch, LM_TRIM_AFTER_MS, trim, NULL) < 0)
		atomic_store(&armed, false);
}
