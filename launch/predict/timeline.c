// The time-line: one thread of computing and one queue of communication, each in a fixed order, each waiting
// for the other where it has to.
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "costs.h"
#include "device/tensor.h"

enum { NOTHING = -1 };

typedef struct Segment {
    double seconds;
    ptrdiff_t needs; // the job that comes before it, or NOTHING
    LsSpan span;
} Segment;

typedef struct Job {
    double seconds;
    ptrdiff_t after; // the segment that comes before it, or NOTHING
    LsSpan span;
} Job;

typedef struct Schedule {
    size_t segments, jobs;
    Segment *segment;
    Job *job;
    size_t reduces, exchange, gathers; // the first of them among the jobs
    size_t backwards, optimizer;       // and among the segments
} Schedule;

// ---- What is to be done ---------------------------------------------------------------------------------

static void add_segment(Schedule *s, double seconds, ptrdiff_t needs)
{
    s->segment[s->segments++] = (Segment){.seconds = seconds, .needs = needs};
}

static void add_job(Schedule *s, double seconds, ptrdiff_t after)
{
    s->job[s->jobs++] = (Job){.seconds = seconds, .after = after};
}

// Forward uses the weights in the opposite order of the buckets, and so they are gathered where they overlap.
static void add_forward(Schedule *s, const LsWork *work, const LsCosts *costs, double slowdown)
{
    for (size_t b = work->count; b-- > 0;) {
        ptrdiff_t needs = NOTHING;
        if (work->gather_overlaps) {
            needs = (ptrdiff_t)s->jobs;
            add_job(s, ls_costs_gather(costs, work->bucket[b].blocks, work->weight_bytes), NOTHING);
        }
        add_segment(s, slowdown * work->bucket[b].forward, needs);
    }
}

static void add_backward(Schedule *s, const LsWork *work, const LsCosts *costs, double slowdown)
{
    double done = 0, reduce = 0;
    s->backwards = s->segments;
    s->reduces = s->jobs;
    for (size_t b = 0; b < work->count; b++) {
        if (b == 0 || work->bucket[b].blocks != work->bucket[b - 1].blocks) // most are of one size
            reduce = ls_costs_reduce(costs, work->bucket[b].blocks, work->gradient_bytes);
        add_segment(s, slowdown * (work->bucket[b].ready - done), NOTHING);
        add_job(s, reduce, (ptrdiff_t)s->segments - 1);
        done = work->bucket[b].ready;
    }
    add_segment(s, slowdown * (work->backward - done), NOTHING); // what no gradient waits for
}

// The busiest rank's part of the optimizer pass.
static double shard_share(const LsWork *work, double ranks)
{
    double mine = 0, all = 0;
    for (size_t b = 0; b < work->count; b++) {
        mine += ceil((double)work->bucket[b].blocks / ranks);
        all += (double)work->bucket[b].blocks;
    }
    return mine / all;
}

static void add_update(Schedule *s, const LsWork *work, const LsCosts *costs, double slowdown)
{
    s->exchange = s->jobs;
    add_job(s, ls_costs_exchange(costs, work->exchange_bytes), (ptrdiff_t)s->segments - 1);
    s->optimizer = s->segments;
    add_segment(s, slowdown * work->optimizer * shard_share(work, costs->ranks), (ptrdiff_t)s->exchange);
    s->gathers = work->gather_overlaps ? 0 : s->jobs;
    for (size_t b = 0; !work->gather_overlaps && b < work->count; b++)
        add_job(
            s, ls_costs_gather(costs, work->bucket[b].blocks, work->weight_bytes), (ptrdiff_t)s->optimizer);
}

// ---- When it is done ------------------------------------------------------------------------------------

// Runs both to their end. During communication computing advances at the rate `overlap`. Returns the time.
static double run(Schedule *s, double overlap)
{
    double now = 0, computed = 0, sent = 0; // of the segment and the job under way
    size_t i = 0, j = 0;
    while (i < s->segments || j < s->jobs) {
        Segment *segment = &s->segment[i];
        Job *job = &s->job[j];
        bool sends = j < s->jobs && job->after < (ptrdiff_t)i;
        bool computes = i < s->segments && segment->needs < (ptrdiff_t)j;
        double rate = !computes ? 0 : sends ? overlap : 1;
        if (sends && sent == 0)
            job->span.begin = now;
        if (computes && computed == 0)
            segment->span.begin = now;
        double job_left = sends ? job->seconds - sent : INFINITY;
        double segment_left = computes ? segment->seconds - computed : INFINITY;
        double until_segment = segment_left <= 0 ? 0 : rate > 0 ? segment_left / rate : INFINITY;
        double step = fmin(job_left, until_segment);
        now += step;
        if (until_segment <= step) {
            segment->span.end = now;
            computed = 0;
            i++;
        } else
            computed += step * rate;
        if (job_left <= step) {
            job->span.end = now;
            sent = 0;
            j++;
        } else if (sends)
            sent += step;
    }
    return now;
}

// ---- What it looked like --------------------------------------------------------------------------------

static void describe(const Schedule *s, const LsWork *work, LsTimeline *t)
{
    for (size_t b = 0; b < work->count; b++) {
        size_t gather = s->gathers + (work->gather_overlaps ? work->count - 1 - b : b);
        t->bucket[b] = (LsTimelineBucket){
            .ready = s->segment[s->backwards + b].span.end,
            .reduce = s->job[s->reduces + b].span,
            .gather = s->job[gather].span,
        };
    }
    t->forward = (LsSpan){s->segment[0].span.begin, s->segment[s->backwards - 1].span.end};
    t->backward = (LsSpan){s->segment[s->backwards].span.begin, s->segment[s->optimizer - 1].span.end};
    t->exchange = s->job[s->exchange].span;
    t->optimizer = s->segment[s->optimizer].span;
    for (size_t i = 0; i < s->segments; i++)
        t->computing += s->segment[i].seconds;
    for (size_t j = 0; j < s->jobs; j++)
        t->busy += s->job[j].seconds;
    t->exposed = t->step - t->computing;
}

static LsStatus allocate(size_t buckets, Schedule *s, LsTimeline *t)
{
    size_t most;
    if (buckets == 0 || !ls_size_multiply(buckets + 1, 2 * sizeof(Segment), &most))
        return LS_FAIL(LS_INTERNAL, "a step of %zu buckets", buckets);
    LS_TRY(ls_memory_allocate((2 * buckets + 2) * sizeof *s->segment, (void **)&s->segment));
    LS_TRY(ls_memory_allocate((2 * buckets + 2) * sizeof *s->job, (void **)&s->job));
    return ls_memory_allocate(buckets * sizeof *t->bucket, (void **)&t->bucket);
}

static LsStatus schedule_step(
    const LsWork *work, const LsCosts *costs, double slowdown, Schedule *s, LsTimeline *t)
{
    LS_TRY(allocate(work->count, s, t));
    t->count = work->count;
    add_forward(s, work, costs, slowdown);
    add_backward(s, work, costs, slowdown);
    add_update(s, work, costs, slowdown);
    t->step = run(s, work->overlap);
    describe(s, work, t);
    return LS_OK;
}

LsStatus ls_predict_step(
    const LsWork *work, const LsCluster *cluster, LsAlgorithm algorithm, double slowdown, LsTimeline *out)
{
    LsCosts costs;
    Schedule schedule = {0};
    LsTimeline timeline = {0};
    LS_TRY(ls_costs_create(cluster, algorithm, work->lanes, &costs));
    LsStatus status = schedule_step(work, &costs, slowdown, &schedule, &timeline);
    free(schedule.segment);
    free(schedule.job);
    ls_costs_free(&costs);
    if (status != LS_OK) {
        ls_timeline_free(&timeline);
        return status;
    }
    *out = timeline;
    return LS_OK;
}

void ls_timeline_free(LsTimeline *timeline)
{
    if (!timeline)
        return;
    free(timeline->bucket);
    *timeline = (LsTimeline){0};
}
