/* Time. Durations and deadlines use the monotonic clock; only what is written down uses wall-clock time. */
#ifndef LM_BASE_CLOCK_H
#define LM_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

int64_t lm_now_ms(void);		      /* monotonic milliseconds */
int64_t lm_now_ns(void);		      /* monotonic nanoseconds */
int64_t lm_now_us(void);		      /* monotonic microseconds */
int64_t lm_wall_s(void);		      /* seconds since the epoch */
struct timespec lm_mono_after_ms(int64_t ms); /* now + ms on CLOCK_MONOTONIC, for timed waits */

#endif
