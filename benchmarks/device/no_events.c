#include "events.h"

LsStatus events_open(void *stream, size_t count, Events **out)
{
    (void)stream, (void)count, (void)out;
    return LS_FAIL(LS_UNAVAILABLE, "this build has no GPU to time");
}

void events_close(Events *events)
{
    (void)events;
}

LsStatus events_record(Events *events, size_t i)
{
    (void)events, (void)i;
    return LS_FAIL(LS_UNAVAILABLE, "this build has no GPU to time");
}

LsStatus events_elapsed(const Events *events, size_t from, size_t to, double *seconds)
{
    (void)events, (void)from, (void)to, (void)seconds;
    return LS_FAIL(LS_UNAVAILABLE, "this build has no GPU to time");
}
