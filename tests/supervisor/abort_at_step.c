// An LD_PRELOAD library: the process that is about to log step ABORT_AT_STEP aborts, in every attempt.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#pragma GCC visibility push(default) // what is defined here takes the place of the C library's

int fputs(const char *restrict text, FILE *restrict file)
{
    static int (*next)(const char *restrict, FILE *restrict);
    const char *step = getenv("ABORT_AT_STEP");
    char start[64];
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "fputs");
    snprintf(start, sizeof start, "{\"step\": %s,", step ? step : "none");
    if (strncmp(text, start, strlen(start)) == 0)
        abort();
    return next(text, file);
}
