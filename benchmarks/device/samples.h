// Repeated measurements of one thing.
#ifndef LOCKSTEP_BENCH_SAMPLES_H
#define LOCKSTEP_BENCH_SAMPLES_H

enum { MOST_SAMPLES = 100, FEWEST_SAMPLES = 3 };

typedef struct Spread {
    double median, low, high; // the 10th and the 90th percentile
} Spread;

Spread spread_of(double *values, int count); // sorts them

#endif
