#include "phases.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { PHASES_MAX = 16 };
static const size_t TRACE_LIMIT = (size_t)1 << 30;

typedef struct Phases {
    size_t windows, count;
    const char *name[PHASES_MAX]; // the trace's
    double *seconds[PHASES_MAX];  // [windows] of one step
} Phases;

static LsStatus broken(const char *path)
{
    return LS_FAIL(LS_INTERNAL, "%s: not a trace of the trainer's phases", path);
}

static LsStatus phase_of(Phases *phases, const char *name, double **out)
{
    size_t i = 0;
    while (i < phases->count && strcmp(phases->name[i], name) != 0)
        i++;
    if (i == PHASES_MAX)
        return LS_FAIL(LS_INTERNAL, "more than %d phases in a step", PHASES_MAX);
    if (i == phases->count) {
        LS_TRY(ls_memory_allocate(phases->windows * sizeof(double), (void **)&phases->seconds[i]));
        phases->name[phases->count++] = name;
    }
    *out = phases->seconds[i];
    return LS_OK;
}

// Spans come in the order in which they began: a step, and then its phases, which do not nest.
static LsStatus add_spans(Phases *phases, const json_t *spans, int64_t warm_up, int64_t every)
{
    size_t i;
    const json_t *span;
    int64_t step = 0;
    double *other = NULL;
    json_array_foreach(spans, i, span)
    {
        const char *name = json_string_value(json_object_get(span, "name"));
        double seconds = json_number_value(json_object_get(span, "dur")) * 1e-6 / (double)every;
        bool whole = name && strcmp(name, "step") == 0;
        step += whole;
        size_t window = step > warm_up ? (size_t)((step - warm_up - 1) / every) : 0;
        if (!name || step <= warm_up || window >= phases->windows)
            continue;
        double *phase;
        LS_TRY(phase_of(phases, "other", &other));
        if (whole) {
            other[window] += seconds;
            continue;
        }
        LS_TRY(phase_of(phases, name, &phase));
        phase[window] += seconds;
        other[window] -= seconds;
    }
    return LS_OK;
}

static LsStatus describe(const Phases *phases, const LsRehearsal *rehearsal, json_t *out)
{
    bool *disturbed;
    LS_TRY(ls_memory_allocate(phases->windows * sizeof *disturbed, (void **)&disturbed));
    for (size_t w = 0; w < phases->windows; w++)
        disturbed[w] = rehearsal->window[w].disturbed;
    LsStatus status = LS_OK;
    for (size_t i = 1; status == LS_OK && i <= phases->count; i++) { // "other" was the first
        LsSpread spread;
        size_t phase = i % phases->count;
        status = ls_bench_spread(phases->seconds[phase], disturbed, phases->windows, &spread);
        if (status == LS_OK)
            json_array_append_new(out, json_pack("{s:s, s:o}", "name", phases->name[phase], "seconds",
                                           ls_bench_spread_json(&spread, 1)));
    }
    free(disturbed);
    return status;
}

LsStatus ls_phases_read(const LsRehearsal *rehearsal, int64_t warm_up, int64_t every, json_t **out)
{
    char path[LS_PATH_MAX];
    json_t *trace = NULL, *list = json_array();
    Phases phases = {.windows = rehearsal->windows};
    LS_TRY(ls_path_join(path, rehearsal->run_dir, "profile/rank-0000.json"));
    LsStatus status = ls_json_read(path, TRACE_LIMIT, LS_INTERNAL, &trace);
    const json_t *spans = json_object_get(trace, "traceEvents");
    if (status == LS_OK && !json_is_array(spans))
        status = broken(path);
    if (status == LS_OK)
        status = add_spans(&phases, spans, warm_up, every);
    if (status == LS_OK)
        status = phases.count > 0 ? describe(&phases, rehearsal, list) : broken(path);
    for (size_t i = 0; i < phases.count; i++)
        free(phases.seconds[i]);
    json_decref(trace);
    if (status != LS_OK) {
        json_decref(list);
        return status;
    }
    *out = list;
    return LS_OK;
}
