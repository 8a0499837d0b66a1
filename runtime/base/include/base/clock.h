// Time: one monotonic clock for durations, one wall clock for what people read.
#ifndef LOCKSTEP_BASE_CLOCK_H
#define LOCKSTEP_BASE_CLOCK_H

#include <stddef.h>

// Seconds on a clock that never jumps; only differences mean anything.
double ls_clock_seconds(void);

// UTC as "2026-01-31T12:34:56.789Z". `size` must be at least 25.
void ls_clock_utc(char *text, size_t size);

#endif
