/* The control service's calls about the cache: Pin, Unpin, Pins, ClearCache, VerifyCache. */
#ifndef LM_FETCHER_CACHE_CONTROL_H
#define LM_FETCHER_CACHE_CONTROL_H

#include "fetcher/pins.h"
#include "rpc/rpc.h"

void lm_control_pin(struct lm_rpc_call *call, struct lm_pins *pins); /* waits */
void lm_control_unpin(struct lm_rpc_call *call, struct lm_pins *pins);
void lm_control_pins(struct lm_rpc_call *call, struct lm_pins *pins, struct lm_cache *cache);
void lm_control_clear(struct lm_rpc_call *call, struct lm_cache *cache);  /* waits */
void lm_control_verify(struct lm_rpc_call *call, struct lm_cache *cache); /* waits */

#endif
