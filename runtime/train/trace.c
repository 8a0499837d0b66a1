#include "trace.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "device/device.h"

enum { SPANS_PER_STEP = 4096, DEPTH = 16 };

typedef struct Span {
    const char *name;
    double start, seconds;
} Span;

struct LsTrace {
    int rank, steps_left;
    double origin;
    size_t count, capacity, depth;
    size_t open[DEPTH]; // spans that have begun and not ended
    Span span[];
};

LsStatus ls_trace_create(int rank, int steps, LsTrace **out)
{
    size_t capacity = 0, bytes = 0;
    if (steps <= 0 || !ls_size_multiply((size_t)steps, SPANS_PER_STEP, &capacity) ||
        !ls_size_multiply(capacity, sizeof(Span), &bytes))
        return LS_FAIL(LS_USAGE, "--profile takes a number of steps above 0");
    LsTrace *trace = NULL;
    LS_TRY(ls_memory_allocate(sizeof *trace + bytes, (void **)&trace));
    trace->rank = rank;
    trace->steps_left = steps;
    trace->capacity = capacity;
    trace->origin = ls_clock_seconds();
    *out = trace;
    return LS_OK;
}

void ls_trace_destroy(LsTrace *trace)
{
    free(trace);
}

void ls_trace_begin(LsTrace *trace, const char *name)
{
    if (!trace || trace->depth == DEPTH)
        return;
    ls_device_range_begin(name);
    size_t index = trace->count < trace->capacity && trace->steps_left > 0 ? trace->count++ : trace->capacity;
    trace->open[trace->depth++] = index;
    if (index < trace->capacity)
        trace->span[index] = (Span){.name = name, .start = ls_clock_seconds() - trace->origin};
}

void ls_trace_end(LsTrace *trace)
{
    if (!trace || trace->depth == 0)
        return;
    ls_device_range_end();
    size_t index = trace->open[--trace->depth];
    if (index < trace->capacity)
        trace->span[index].seconds = ls_clock_seconds() - trace->origin - trace->span[index].start;
}

bool ls_trace_step(LsTrace *trace)
{
    return trace && trace->steps_left > 0 && --trace->steps_left == 0;
}

bool ls_trace_open(const LsTrace *trace)
{
    return trace && trace->steps_left > 0;
}

LsStatus ls_trace_write(const LsTrace *trace, const char *directory)
{
    char name[64], path[LS_PATH_MAX];
    snprintf(name, sizeof name, "rank-%04d.json", trace->rank);
    LS_TRY(ls_directory_create(directory));
    LS_TRY(ls_path_join(path, directory, name));
    FILE *file = fopen(path, "w");
    if (!file)
        return ls_file_fail("write", path);
    fputs("{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n", file);
    for (size_t i = 0; i < trace->count; i++)
        fprintf(file,
            "%s{\"name\": \"%s\", \"ph\": \"X\", \"pid\": %d, \"tid\": 0, \"ts\": %.3f, \"dur\": %.3f}",
            i ? ",\n" : "", trace->span[i].name, trace->rank, trace->span[i].start * 1e6,
            trace->span[i].seconds * 1e6);
    fputs("\n]}\n", file);
    bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed)
        return ls_file_fail("write", path);
    return LS_OK;
}
