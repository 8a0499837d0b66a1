// What a prediction says: to people, and as JSON.
#include <math.h>

#include "bench_predict.h"
#include "predict/links.h"

static const double HOUR = 3600, MILLI = 1e3;
static const char *const jitter_names[] = {[LS_JITTER_NONE] = "none",
    [LS_JITTER_NORMAL] = "normal",
    [LS_JITTER_LOGNORMAL] = "lognormal",
    [LS_JITTER_EXPONENTIAL] = "exponential"};

// ---- For people -----------------------------------------------------------------------------------------

static void print_path(const char *name, const LsPath *path, FILE *out)
{
    char reduce[80], gather[80];
    ls_link_print(&path->reduce, reduce, sizeof reduce);
    ls_link_print(&path->gather, gather, sizeof gather);
    fprintf(out, "%-12s %s", name, reduce);
    if (path->reduce.bandwidth != path->gather.bandwidth || path->reduce.latency != path->gather.latency)
        fprintf(out, "; gathers %s", gather);
    fputc('\n', out);
}

static void print_risk(const LsPredictReport *report, FILE *out)
{
    const LsRisk *risk = &report->risk;
    fprintf(out, "stragglers   %s", jitter_names[report->jitter.kind]);
    if (report->jitter.kind != LS_JITTER_NONE)
        fprintf(out, ", %g of the time that a rank computes", report->jitter.size);
    fputc('\n', out);
    if (risk->node_failures > 0)
        fprintf(out,
            "failures     of a node every %.4g hours, a checkpoint holds up %g s, a restart takes %g s\n",
            1 / risk->node_failures / HOUR, risk->save, risk->restart);
    if (risk->preemptions > 0)
        fprintf(out, "preemptions  %g of a spot node and hour, with notice\n", risk->preemptions * HOUR);
}

static void print_assumptions(const LsPredictReport *report, FILE *out)
{
    const LsPredictModel *m = report->model;
    fprintf(out, "predicted, not measured: the figures below are what a model says of these assumptions\n\n");
    fprintf(out, "model        %s, %zu parameters, %zu buckets; %g bytes a gradient, %g a weight\n", m->name,
        m->parameters, m->buckets.count, m->gradient_bytes, m->weight_bytes);
    fprintf(out, "step         %lld samples %s, %.4g ms each", (long long)m->samples,
        m->strong ? "of all ranks (strong)" : "of each rank (weak)", MILLI * m->sample_seconds);
    if (m->optimizer > 0)
        fprintf(out, ", optimizer %.4g ms / ranks", MILLI * m->optimizer);
    fputc('\n', out);
    if (report->cluster->ranks_per_node > 1)
        print_path("inside", &report->cluster->inside, out);
    print_path("between", &report->cluster->between, out);
    fprintf(out, "overlap      computing at %g of its speed during communication; weights gathered %s\n",
        report->overlap, report->gather_overlaps ? "during the next forward" : "behind the step");
    print_risk(report, out);
}

static void print_price(double value, bool known, FILE *out)
{
    if (known)
        fprintf(out, " %10.4g", value);
    else
        fprintf(out, " %10s", "-");
}

static void print_row(const LsPredictReport *report, const LsPrediction *p, FILE *out)
{
    fprintf(out, "%5u %7u  %-13s", p->nodes, p->ranks, ls_algorithm_names[p->algorithm]);
    if (p->impossible[0]) {
        fprintf(out, " %s\n", p->impossible);
        return;
    }
    bool epoch = report->model->epoch_samples > 0;
    fprintf(out, "%10.3f %10.3f %9.1f%% %12.4g %8.1f%%", MILLI * p->timeline.step,
        MILLI * p->timeline.exposed, 100 * p->efficiency, p->rate, 100 * p->goodput.on_demand);
    print_price(p->epoch_hours[0], epoch, out);
    for (int i = 0; i < 2; i++)
        print_price(p->epoch_cost[i], epoch && report->price[i] > 0, out);
    fputc('\n', out);
}

static void print_span(LsSpan span, FILE *out)
{
    fprintf(out, "  %10.3f - %10.3f", MILLI * span.begin, MILLI * span.end);
}

static void print_timeline(const LsPrediction *p, FILE *out)
{
    const LsTimeline *t = &p->timeline;
    fprintf(out, "\ntime-line of %u nodes, %s, in ms\nbucket       final  %-23s  %-23s\n", p->nodes,
        ls_algorithm_names[p->algorithm], "reduced", "gathered");
    for (size_t b = 0; b < t->count; b++) {
        fprintf(out, "%6zu  %10.3f", b, MILLI * t->bucket[b].ready);
        print_span(t->bucket[b].reduce, out);
        print_span(t->bucket[b].gather, out);
        fputc('\n', out);
    }
    const struct {
        const char *name;
        LsSpan span;
    } parts[] = {{"forward", t->forward}, {"backward", t->backward}, {"exchange", t->exchange},
        {"optimizer", t->optimizer}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        fprintf(out, "%-18s", parts[i].name);
        print_span(parts[i].span, out);
        fputc('\n', out);
    }
}

void ls_predict_print(const LsPredictReport *report, FILE *out)
{
    print_assumptions(report, out);
    fprintf(out, "\n%5s %7s  %-13s%10s %10s %10s %12s %9s %10s %10s %10s\n", "nodes", "ranks", "algorithm",
        "step ms", "exposed ms", "efficiency", "samples/s", "goodput", "epoch h", "on demand", "spot");
    for (size_t i = 0; i < report->count; i++)
        print_row(report, &report->prediction[i], out);
    for (size_t i = 0; i < report->count; i++)
        if (report->prediction[i].nodes == report->timeline && !report->prediction[i].impossible[0])
            print_timeline(&report->prediction[i], out);
}

// ---- JSON -----------------------------------------------------------------------------------------------

static json_t *link_json(const LsLink *link)
{
    return json_pack("{s:o, s:o, s:o}", "latency", ls_json_number(link->latency), "message",
        ls_json_number(link->message), "bandwidth", ls_json_number(link->bandwidth));
}

static json_t *path_json(const LsPath *path)
{
    return json_pack("{s:o, s:o}", "reduce", link_json(&path->reduce), "gather", link_json(&path->gather));
}

static json_t *assumptions_json(const LsPredictReport *report)
{
    const LsPredictModel *m = report->model;
    const LsRisk *risk = &report->risk;
    json_t *blocks = json_array();
    for (size_t b = 0; b < m->buckets.count; b++)
        json_array_append_new(blocks, json_integer((json_int_t)m->buckets.bucket[b].blocks));
    return json_pack(
        "{s:s, s:I, s:o, s:o, s:o, s:I, s:b, s:o, s:o, s:o, s:o, s:i, s:o, s:o, s:o, s:b, s:s, s:o, s:o, "
        "s:o, s:o, s:o, s:o, s:o}",
        "model", m->name, "parameters", (json_int_t)m->parameters, "bucket_blocks", blocks, "gradient_bytes",
        ls_json_number(m->gradient_bytes), "weight_bytes", ls_json_number(m->weight_bytes), "samples",
        (json_int_t)m->samples, "strong", m->strong, "sample_seconds", ls_json_number(m->sample_seconds),
        "forward_share", ls_json_number(m->forward_share), "optimizer_seconds", ls_json_number(m->optimizer),
        "epoch_samples", ls_json_number(m->epoch_samples), "ranks_per_node",
        (int)report->cluster->ranks_per_node, "inside", path_json(&report->cluster->inside), "between",
        path_json(&report->cluster->between), "overlap", ls_json_number(report->overlap), "gather_overlaps",
        report->gather_overlaps, "stragglers", jitter_names[report->jitter.kind], "straggler_size",
        ls_json_number(report->jitter.size), "node_failures_per_second", ls_json_number(risk->node_failures),
        "save_seconds", ls_json_number(risk->save), "restart_seconds", ls_json_number(risk->restart),
        "preemptions_per_second", ls_json_number(risk->preemptions), "on_demand_price",
        ls_json_number(report->price[0]), "spot_price", ls_json_number(report->price[1]));
}

static json_t *span_json(LsSpan span)
{
    return json_pack("[o, o]", ls_json_number(span.begin), ls_json_number(span.end));
}

static json_t *timeline_json(const LsTimeline *t)
{
    json_t *buckets = json_array();
    for (size_t b = 0; b < t->count; b++)
        json_array_append_new(
            buckets, json_pack("{s:o, s:o, s:o}", "ready", ls_json_number(t->bucket[b].ready), "reduce",
                         span_json(t->bucket[b].reduce), "gather", span_json(t->bucket[b].gather)));
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "forward", span_json(t->forward), "backward",
        span_json(t->backward), "exchange", span_json(t->exchange), "optimizer", span_json(t->optimizer),
        "buckets", buckets);
}

static json_t *prediction_json(const LsPrediction *p)
{
    json_t *row = json_pack("{s:I, s:I, s:s}", "nodes", (json_int_t)p->nodes, "ranks", (json_int_t)p->ranks,
        "algorithm", ls_algorithm_names[p->algorithm]);
    if (p->impossible[0]) {
        json_object_set_new(row, "impossible", json_string(p->impossible));
        return row;
    }
    json_t *more = json_pack(
        "{s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:[o, o], s:[o, o], s:o}", "lanes",
        (json_int_t)p->lanes, "exchange_bytes", ls_json_number(p->exchange_bytes), "step_seconds",
        ls_json_number(p->timeline.step), "computing_seconds", ls_json_number(p->timeline.computing),
        "exposed_seconds", ls_json_number(p->timeline.exposed), "communication_seconds",
        ls_json_number(p->timeline.busy), "slowdown", ls_json_number(p->slowdown), "samples_per_second",
        ls_json_number(p->rate), "efficiency", ls_json_number(p->efficiency), "checkpoint_interval_seconds",
        ls_json_number(p->goodput.interval), "goodput", ls_json_number(p->goodput.on_demand), "goodput_spot",
        ls_json_number(p->goodput.spot), "epoch_hours", ls_json_number(p->epoch_hours[0]),
        ls_json_number(p->epoch_hours[1]), "epoch_cost", ls_json_number(p->epoch_cost[0]),
        ls_json_number(p->epoch_cost[1]), "timeline", timeline_json(&p->timeline));
    if (json_object_update(row, more) != 0) {
        json_decref(row);
        row = NULL;
    }
    json_decref(more);
    return row;
}

LsStatus ls_predict_write(const LsPredictReport *report, const char *path)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < report->count; i++)
        json_array_append_new(rows, prediction_json(&report->prediction[i]));
    bool whole = json_array_size(rows) == report->count;
    json_t *object = json_pack("{s:s, s:s, s:o, s:o}", "benchmark", "scaling-predicted", "version",
        LOCKSTEP_VERSION, "assumptions", assumptions_json(report), "rows", rows);
    LsStatus status =
        object && whole ? ls_json_write(path, object) : LS_FAIL(LS_INTERNAL, "no memory for the report");
    json_decref(object);
    return status;
}
