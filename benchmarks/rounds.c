#include "rounds.h"

#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

void rounds_sort(double *values, unsigned count)
{
	qsort(values, count, sizeof(double), by_value);
}

double rounds_median(const double *values, const double *others, unsigned count)
{
	double sorted[ROUNDS_MAX];
	for (unsigned i = 0; i < count; i++)
		sorted[i] = others ? values[i] / others[i] : values[i];
	rounds_sort(sorted, count);
	return sorted[count / 2];
}
