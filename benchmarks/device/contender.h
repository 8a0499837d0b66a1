// What a measurement compares: an op on a device, or a copy within it, timed in turn with others.
#ifndef LOCKSTEP_BENCH_CONTENDER_H
#define LOCKSTEP_BENCH_CONTENDER_H

#include "op_cases.h"
#include "samples.h"

typedef struct Contender {
    LsDevice *device;
    const LsOpRun *run; // NULL: a copy
    void *to, *from;
    size_t bytes;   // of the copy
    LsGraph *graph; // of `recorded` calls, so that launching from the host is not measured; NULL: none
    int recorded;
    int launches; // that make a sample
} Contender;

// Runs it once, which builds kernels and chooses algorithms, and decides how many calls make a sample: on a
// discrete device as many as take several milliseconds, elsewhere one.
LsStatus contender_open(Contender *contender);
void contender_close(Contender *contender);

// Samples of all in turn, A B A B ..., for `seconds` in total; seconds[c] has those of contender c.
LsStatus contenders_measure(Contender *const contenders[], size_t count, double seconds,
    double (*samples)[MOST_SAMPLES], int *sampled);

#endif
