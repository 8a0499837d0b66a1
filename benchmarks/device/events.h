// Events of a GPU's stream: events_cuda.c, or no_events.c in a build without a GPU.
#ifndef LOCKSTEP_BENCH_EVENTS_H
#define LOCKSTEP_BENCH_EVENTS_H

#include "base/status.h"

#include <stddef.h>

typedef struct Events Events;

LsStatus events_open(void *stream, size_t count, Events **out);
void events_close(Events *events); // NULL is fine
LsStatus events_record(Events *events, size_t i);
LsStatus events_elapsed(const Events *events, size_t from, size_t to, double *seconds);

#endif
