// Marks in a device's compute stream, and the time between them: of a clock of the host where ops happen in
// their call, of events of the GPU where they happen later, also within a recorded graph.
#ifndef LOCKSTEP_BENCH_STOPWATCH_H
#define LOCKSTEP_BENCH_STOPWATCH_H

#include "device/device.h"

typedef struct Stopwatch Stopwatch;

// processor_time, of the calling thread: what other programs take of a busy host does not count, but neither
// does what other threads of this one do.
LsStatus stopwatch_open(LsDevice *device, size_t marks, bool processor_time, Stopwatch **out);
void stopwatch_close(Stopwatch *watch); // NULL is fine

// Puts mark `i` at this place of the stream, or of the graph that is being recorded in it.
LsStatus stopwatch_mark(Stopwatch *watch, size_t i);

// seconds[i] from mark i to mark i + 1, of the newest pass: [marks - 1]. The device has done it.
LsStatus stopwatch_read(const Stopwatch *watch, double *seconds);

#endif
