/*
 * Figures of several rounds. What disturbs the machine disturbs all that is measured in one round, so two things are
 * compared by the ratios of their rounds, not by the ratio of their medians.
 */
#ifndef LM_BENCHMARKS_ROUNDS_H
#define LM_BENCHMARKS_ROUNDS_H

enum { ROUNDS_MAX = 100 };

void rounds_sort(double *values, unsigned count);
/* Of the values, or (others not NULL) of what they are of others; in no order, at most ROUNDS_MAX. */
double rounds_median(const double *values, const double *others, unsigned count);

#endif
