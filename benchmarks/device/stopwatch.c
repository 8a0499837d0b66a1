#include "stopwatch.h"

#include <stdlib.h>
#include <time.h>

#include "base/memory.h"
#include "events.h"

struct Stopwatch {
    Events *events; // NULL: the clock
    clockid_t clock;
    size_t marks;
    double time[]; // of each mark, without events
};

LsStatus stopwatch_open(LsDevice *device, size_t marks, bool processor_time, Stopwatch **out)
{
    Stopwatch *watch;
    LS_TRY(ls_memory_allocate(sizeof *watch + marks * sizeof *watch->time, (void **)&watch));
    watch->marks = marks;
    watch->clock = processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    if (device->discrete) {
        void *stream = device->ops->native_stream(device, LS_STREAM_COMPUTE);
        LsStatus status = events_open(stream, marks, &watch->events);
        if (status != LS_OK) {
            free(watch);
            return status;
        }
    }
    *out = watch;
    return LS_OK;
}

void stopwatch_close(Stopwatch *watch)
{
    if (watch)
        events_close(watch->events);
    free(watch);
}

LsStatus stopwatch_mark(Stopwatch *watch, size_t i)
{
    if (watch->events)
        return events_record(watch->events, i);
    struct timespec now;
    clock_gettime(watch->clock, &now);
    watch->time[i] = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    return LS_OK;
}

LsStatus stopwatch_read(const Stopwatch *watch, double *seconds)
{
    for (size_t i = 0; i + 1 < watch->marks; i++)
        if (watch->events)
            LS_TRY(events_elapsed(watch->events, i, i + 1, &seconds[i]));
        else
            seconds[i] = watch->time[i + 1] - watch->time[i];
    return LS_OK;
}
