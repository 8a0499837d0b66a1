// Ranks that are slower than the others: every rank waits for the slowest one, so the time of a step does not
// tell which it is. What tells is the time of a rank's own lanes.

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "guard.h"

enum { SILENCE = 10 }; // comparisons after which a rank that is still slow is named again

// Small models take twenty steps in the time for which a busy machine takes a processor away. So a rank is
// slow only when it has been for this much of its own time, in comparisons without a break.
static const double LEAST_SECONDS = 1;

static bool compares(const LsTrainer *t)
{
    return t->config->guard.slow_ratio > 0 && ls_comm_size(t->comm) > 1;
}

LsStatus ls_pace_create(LsTrainer *t)
{
    LsPace *pace = &t->pace;
    size_t ranks = (size_t)ls_comm_size(t->comm);
    if (!compares(t))
        return LS_OK;
    LS_TRY(ls_memory_allocate(ranks * sizeof *pace->all, (void **)&pace->all));
    LS_TRY(ls_memory_allocate(ranks * sizeof *pace->sorted, (void **)&pace->sorted));
    LS_TRY(ls_memory_allocate(ranks * sizeof *pace->sizes, (void **)&pace->sizes));
    LS_TRY(ls_memory_allocate(ranks * sizeof *pace->slow, (void **)&pace->slow));
    for (size_t r = 0; r < ranks; r++) {
        pace->sizes[r] = sizeof *pace->all;
        pace->slow[r] = (LsSlowness){0};
    }
    return t->device->ops->marker_create(t->device, &pace->done);
}

void ls_pace_destroy(LsTrainer *t)
{
    LsPace *pace = &t->pace;
    t->device->ops->marker_destroy(t->device, pace->done);
    free(pace->slow);
    free(pace->sizes);
    free(pace->sorted);
    free(pace->all);
    *pace = (LsPace){0};
}

// ---- Samples --------------------------------------------------------------------------------------------

// Steps whose mean time is one of those of which the least counts.
static int64_t quarter_of(const LsTrainer *t)
{
    int64_t quarter = t->config->guard.slow_steps / 4;
    return quarter > 0 ? quarter : 1;
}

// A device that works behind the host's back is waited for to take its time: once in a quarter. A step in
// which a rank may compute another's lane is none to compare by. Waiting for other ranks is no work.
static bool takes_time(const LsTrainer *t)
{
    int64_t every = t->device->discrete ? quarter_of(t) : 1;
    return compares(t) && (t->pace.steps + 1) % every == 0 && !ls_check_due(t, t->issued + 1);
}

LsStatus ls_pace_begin(LsTrainer *t, double *start)
{
    *start = 0;
    if (!takes_time(t))
        return LS_OK;
    size_t slot = (size_t)t->issued % LS_STEPS_IN_FLIGHT;
    if (t->device->discrete) {
        LS_TRY(ls_comm_wait_marker(t->comm, t->outcomes.arrived[slot], "the device to finish a step"));
        LS_TRY(ls_comm_drain(t->comm));
    }
    *start = ls_clock_seconds() - t->times.comm;
    return LS_OK;
}

LsStatus ls_pace_end(LsTrainer *t, double start)
{
    LsPace *pace = &t->pace;
    if (start == 0)
        return LS_OK;
    if (t->device->discrete) {
        LS_TRY(t->device->ops->marker_record(t->device, pace->done));
        LS_TRY(ls_comm_wait_marker(t->comm, pace->done, "the device to finish its lanes"));
    }
    pace->seconds += ls_clock_seconds() - t->times.comm - start;
    pace->samples++;
    return LS_OK;
}

// What disturbs a rank for a moment is in one or two quarters; what makes it slow is in all.
static void end_quarter(LsPace *pace)
{
    double mean = pace->samples > 0 ? pace->seconds / (double)pace->samples : 0;
    if (mean > 0 && (pace->fastest == 0 || mean < pace->fastest))
        pace->fastest = mean;
    pace->seconds = 0;
    pace->samples = 0;
}

// ---- Comparison -----------------------------------------------------------------------------------------

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The lower one of two in the middle: of two ranks, the faster one is what the other is compared with.
static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, compare_doubles);
    return count > 0 ? values[(count - 1) / 2] : 0;
}

static LsStatus say_who_is_slow(LsTrainer *t, int rank, double ratio)
{
    char host[256] = "";
    snprintf(host, sizeof host, "%s", ls_comm_host(t->comm));
    LS_TRY(ls_comm_broadcast(t->comm, host, sizeof host, rank));
    LsStatus status = LS_OK;
    if (ls_comm_rank(t->comm) == 0) {
        ls_warn("rank %d on host %s is %.1f times slower than the median of the ranks", rank, host, ratio);
        status = ls_metrics_event(t->metrics, "slow", t->issued,
            json_pack("{s:i, s:s, s:f, s:I}", "rank", rank, "host", host, "ratio", ratio, "steps",
                (json_int_t)t->config->guard.slow_steps));
    }
    return ls_comm_agree(t->comm, status);
}

// Whether a rank is named: when it has been slow for long enough, and after that rarely.
static bool is_to_be_named(const LsTrainer *t, LsSlowness *slow, double seconds_per_lane)
{
    double lanes = (double)t->config->train.lanes / ls_comm_size(t->comm);
    slow->seconds += seconds_per_lane * lanes * (double)t->config->guard.slow_steps;
    slow->silent -= slow->silent > 0;
    if (slow->silent > 0 || slow->seconds < LEAST_SECONDS)
        return false;
    *slow = (LsSlowness){.silent = SILENCE, .seconds = -(SILENCE - 1) * LEAST_SECONDS};
    return true;
}

// All ranks have the same numbers, and so take part in the same messages.
static LsStatus look_for_slow_ranks(LsTrainer *t)
{
    LsPace *pace = &t->pace;
    size_t ranks = (size_t)ls_comm_size(t->comm);
    memcpy(pace->sorted, pace->all, ranks * sizeof *pace->all);
    double middle = median(pace->sorted, ranks);
    pace->slowest_ratio = 0;
    for (size_t r = 0; r < ranks && middle > 0; r++) {
        double ratio = pace->all[r] / middle;
        if (ratio > pace->slowest_ratio) {
            pace->slowest = (int)r;
            pace->slowest_ratio = ratio;
        }
        if (ratio < t->config->guard.slow_ratio)
            pace->slow[r] = (LsSlowness){0};
        else if (is_to_be_named(t, &pace->slow[r], pace->all[r]))
            LS_TRY(say_who_is_slow(t, (int)r, ratio));
    }
    return LS_OK;
}

LsStatus ls_pace_compare(LsTrainer *t)
{
    LsPace *pace = &t->pace;
    if (!compares(t))
        return LS_OK;
    if (++pace->steps % quarter_of(t) == 0)
        end_quarter(pace);
    if (pace->steps < t->config->guard.slow_steps)
        return LS_OK;
    double mine = pace->fastest / (double)t->plan.share.count;
    pace->steps = 0;
    pace->fastest = 0;
    LS_TRY(ls_comm_all_gather(t->comm, &mine, pace->all, pace->sizes));
    return look_for_slow_ranks(t);
}
