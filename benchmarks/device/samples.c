#include "samples.h"

#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

Spread spread_of(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return (Spread){
        .median = values[count / 2], .low = values[count / 10], .high = values[(count - 1) * 9 / 10]};
}
