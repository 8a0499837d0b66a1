// What other benchmarks have measured, for a prediction: reports of `lockstep bench step` say how long a rank
// computes, those of reduce_scatter and all_gather what links carry.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_predict.h"
#include "predict/links.h"

enum { POINTS_MAX = 256, REPORT_BYTES = 1 << 24 };

static double number(const json_t *object, const char *name, const char *member)
{
    const json_t *value = json_object_get(object, name);
    return json_number_value(member ? json_object_get(value, member) : value);
}

static const char *text(const json_t *object, const char *name)
{
    const char *value = json_string_value(json_object_get(object, name));
    return value ? value : "";
}

// ---- A step ---------------------------------------------------------------------------------------------

static double phase_seconds(const json_t *report, const char *name)
{
    size_t i;
    const json_t *phase;
    json_array_foreach(json_object_get(report, "phases"), i, phase)
    {
        if (strcmp(text(phase, "name"), name) == 0)
            return number(phase, "seconds", "median");
    }
    return 0;
}

// One rank's step is all computing: what is neither optimizer pass nor communication with itself.
static LsStatus read_step(const char *path, const json_t *report, LsPredictModel *model)
{
    double ranks = number(json_object_get(report, "machine"), "ranks", NULL);
    double step = number(report, "step_seconds", "median");
    double batch = strtod(text(json_object_get(report, "config"), "train.batch"), NULL);
    if (ranks != 1)
        return LS_FAIL(LS_BAD_DATA,
            "%s: a step of %.0f ranks; measure one rank alone, whose step is all its own", path, ranks);
    double forward = phase_seconds(report, "forward"), backward = phase_seconds(report, "backward");
    double optimizer = phase_seconds(report, "optimizer"), comm = number(report, "comm_seconds", "median");
    double computing = step - optimizer - comm;
    if (!(computing > 0) || !(batch > 0))
        return LS_FAIL(LS_BAD_DATA, "%s has no step to predict from", path);
    if (model->sample_seconds == 0)
        model->sample_seconds = computing / batch;
    if (model->optimizer == 0)
        model->optimizer = optimizer;
    if (model->forward_share == 0 && forward > 0 && backward > 0)
        model->forward_share = forward / (forward + backward);
    return LS_OK;
}

// ---- A link ---------------------------------------------------------------------------------------------

typedef struct Points {
    size_t count;
    double bytes[POINTS_MAX], seconds[POINTS_MAX];
} Points;

// What each rank sent and how long that took: of sizes that were disturbed all the time the shortest, and
// they count only where there are hardly any others. The bus bandwidth is that of FP32 messages, whatever
// they are on the wire.
static void read_points(const json_t *report, bool disturbed, Points *points)
{
    size_t i;
    const json_t *row;
    double narrow = strcmp(text(report, "wire"), "bfloat16") == 0 ? 0.5 : 1;
    points->count = 0;
    json_array_foreach(json_object_get(report, "rows"), i, row)
    {
        const json_t *seconds = json_object_get(row, "seconds");
        bool ours = strcmp(text(row, "by"), "exact") == 0 && strcmp(text(row, "memory"), "communicator") == 0;
        bool clean = !json_is_true(json_object_get(seconds, "disturbed"));
        if (!ours || !(clean || disturbed) || points->count == POINTS_MAX)
            continue;
        double median = number(seconds, "median", NULL);
        points->bytes[points->count] = narrow * number(row, "busbw", NULL) * 1e9 * median;
        points->seconds[points->count++] = clean ? median : number(seconds, "lowest", NULL);
    }
}

static LsStatus read_link(const char *path, const json_t *report, bool gathers, LsCluster *cluster)
{
    Points points;
    LsLink link;
    const json_t *machine = json_object_get(report, "machine");
    double ranks = number(machine, "ranks", NULL), local = number(machine, "ranks_of_host", NULL);
    if (ranks < 2 || (local != ranks && local != 1))
        return LS_FAIL(LS_BAD_DATA,
            "%s: %.0f ranks, %.0f of them on one host; a link is measured by two ranks or more, all on one "
            "host "
            "or each on its own",
            path, ranks, local);
    read_points(report, false, &points);
    if (points.count < 3)
        read_points(report, true, &points);
    LsStatus status = ls_link_fit(points.bytes, points.seconds, points.count, &link);
    if (status != LS_OK)
        return LS_FAIL(status, "%s: %s", path, ls_status_message());
    if (gathers)
        link.latency /= ceil(log2(ranks)); // of each round
    LsPath *measured = local == ranks ? &cluster->inside : &cluster->between;
    *(gathers ? &measured->gather : &measured->reduce) = link;
    return LS_OK;
}

// ---- All ------------------------------------------------------------------------------------------------

static LsStatus take(const char *path, const json_t *report, LsPredictModel *model, LsCluster *cluster)
{
    const char *benchmark = text(report, "benchmark");
    if (strcmp(benchmark, "step") == 0)
        return read_step(path, report, model);
    bool gathers = strcmp(benchmark, "all_gather") == 0;
    if (gathers || strcmp(benchmark, "reduce_scatter") == 0)
        return read_link(path, report, gathers, cluster);
    return LS_FAIL(LS_BAD_DATA,
        "%s: expected a report of lockstep bench step, reduce_scatter or all_gather (--json)", path);
}

LsStatus ls_predict_read_measured(const LsTextList *paths, LsPredictModel *model, LsCluster *cluster)
{
    for (size_t i = 0; i < paths->count; i++) {
        json_t *report;
        LS_TRY(ls_json_read(paths->text[i], REPORT_BYTES, LS_BAD_DATA, &report));
        LsStatus status = take(paths->text[i], report, model, cluster);
        json_decref(report);
        LS_TRY(status);
    }
    return LS_OK;
}
