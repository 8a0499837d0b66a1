// collectives.bucket_mb: auto. Before a run's memory is allocated, all ranks rehearse a microbatch of zeros
// with buckets of some sizes, and take the fastest.
//
// What is measured is what depends on the size: weights that are gathered while forward runs, and gradients
// that leave while backward runs, until all are reduced. Sizes take turns, so that what disturbs the machine
// for a while disturbs each of them. Weights, gradients and the reduction's memory are those of a step; they
// go away before the run's own are allocated, and nothing else of the run is touched.

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "trainer_state.h"

enum {
    TURNS = 3,  // of each size
    PASSES = 3, // of a turn; the first one is not counted: its memory is new
    SAMPLES = TURNS * (PASSES - 1),
};

typedef struct Rehearsal {
    LsBatch batch;
    void *zeros;     // the host's, which the batch was copied from
    LsMarker *done;  // behind a pass
    double *seconds; // [sizes][SAMPLES]
} Rehearsal;

// With one rank nothing is sent, and where gradients are not kept their window is as large as two buckets:
// measuring must not decide how much memory a run takes.
static bool measures(const LsTrainer *t)
{
    return t->config->collectives.bucket_mb == 0 && ls_comm_size(t->comm) > 1 && t->rounds.rounds == 0;
}

static LsStatus upload_zeros(LsTrainer *t, Rehearsal *r)
{
    size_t columns = ls_device_batch_columns(t->info, &t->shape);
    LS_TRY(ls_memory_allocate(t->microbatch * columns * sizeof(float), &r->zeros));
    LS_TRY(ls_device_batch_upload(t->batch, r->zeros, r->zeros, r->zeros, t->microbatch, &r->batch));
    return t->device->ops->synchronize(t->device);
}

static LsStatus prepare(LsTrainer *t, Rehearsal *r)
{
    size_t samples = t->bucket_sizes * SAMPLES;
    LS_TRY(ls_memory_allocate(samples * sizeof *r->seconds, (void **)&r->seconds));
    LS_TRY(t->device->ops->marker_create(t->device, &r->done));
    return upload_zeros(t, r);
}

// One pass. Nobody begins it before all have done with the one before, whose gradients it overwrites.
static LsStatus pass(LsTrainer *t, Rehearsal *r, double *seconds)
{
    ls_trainer_at(t, LS_PHASE_START);
    LS_TRY(ls_comm_barrier(t->comm));
    double start = ls_clock_seconds();
    ls_trainer_require(t, ls_trainer_gather(t));
    ls_trainer_require(t, ls_trainer_rehearse(t, &r->batch));
    ls_trainer_require(t, ls_reducer_finish(t->reducer));
    ls_trainer_require(t, t->device->ops->marker_record(t->device, r->done));
    ls_trainer_require(t, ls_comm_wait_marker(t->comm, r->done, "the device to finish a rehearsal"));
    *seconds = ls_clock_seconds() - start;
    if (t->failed != LS_OK)
        ls_status_adopt(t->failed, t->failure);
    return ls_comm_agree(t->comm, t->failed);
}

static LsStatus cut(LsTrainer *t, size_t size)
{
    size_t bytes = ls_bucket_bytes(t->bucket_time[size].mebibytes);
    return ls_comm_agree(t->comm, ls_buckets_create(t->model->parameters.blocks, bytes, &t->buckets));
}

// One turn of one size.
static LsStatus measure_turn(LsTrainer *t, Rehearsal *r, size_t size, size_t turn)
{
    LS_TRY(cut(t, size));
    LsStatus status = ls_comm_agree(t->comm, ls_trainer_create_reducer(t));
    double *samples = r->seconds + size * SAMPLES + turn * (PASSES - 1), unused;
    for (size_t i = 0; i < PASSES && status == LS_OK; i++)
        status = pass(t, r, i > 0 ? &samples[i - 1] : &unused);
    ls_reducer_destroy(t->reducer);
    t->reducer = NULL;
    ls_buckets_free(&t->buckets);
    return status;
}

static LsStatus measure(LsTrainer *t, Rehearsal *r)
{
    LsStatus status = cut(t, 0);
    if (status == LS_OK) // neither weights nor gradients depend on the buckets
        status = ls_arenas_create_working(t->config, t->comm, t->model,
            &(LsCut){&t->plan, &t->buckets, &t->window, &t->rounds}, &t->arenas);
    status = ls_comm_agree(t->comm, status);
    ls_buckets_free(&t->buckets);
    for (size_t turn = 0; turn < TURNS && status == LS_OK; turn++)
        for (size_t size = 0; size < t->bucket_sizes && status == LS_OK; size++)
            status = measure_turn(t, r, size, turn);
    ls_arenas_destroy(&t->arenas);
    return status;
}

// All ranks see the times of all, so they choose alike.
static LsStatus choose(LsTrainer *t, const double *mine)
{
    size_t ranks = (size_t)ls_comm_size(t->comm), bytes = t->bucket_sizes * SAMPLES * sizeof *mine;
    double *all = NULL;
    size_t *sizes = NULL;
    LsStatus status = ls_memory_allocate(ranks * (bytes + sizeof *sizes), (void **)&all);
    LS_TRY(ls_comm_agree(t->comm, status));
    sizes = (size_t *)(all + ranks * t->bucket_sizes * SAMPLES);
    for (size_t r = 0; r < ranks; r++)
        sizes[r] = bytes;
    status = ls_comm_all_gather(t->comm, mine, all, sizes);
    if (status == LS_OK) {
        size_t chosen = ls_bucket_size_choose(all, ranks, t->bucket_sizes, SAMPLES, t->bucket_time);
        t->bucket_mb = t->bucket_time[chosen].mebibytes;
    }
    free(all);
    return status;
}

LsStatus ls_trainer_size_buckets(LsTrainer *t)
{
    double wanted = t->config->collectives.bucket_mb;
    t->bucket_mb = wanted > 0 ? wanted : LS_BUCKET_MB;
    if (!measures(t))
        return LS_OK;
    LS_TRY(ls_comm_agree(
        t->comm, ls_bucket_sizes(t->model->parameters.blocks, t->bucket_time, &t->bucket_sizes)));
    if (t->bucket_sizes < 2) {
        t->bucket_sizes = 0;
        return LS_OK;
    }
    Rehearsal r = {0};
    LsStatus status = ls_comm_agree(t->comm, prepare(t, &r));
    if (status == LS_OK)
        status = measure(t, &r);
    if (status == LS_OK)
        status = choose(t, r.seconds);
    t->device->ops->marker_destroy(t->device, r.done);
    free(r.zeros);
    free(r.seconds);
    return status;
}

LsStatus ls_trainer_report_buckets(LsTrainer *t)
{
    if (!t->metrics || t->bucket_sizes == 0)
        return LS_OK;
    char line[256] = "";
    json_t *measured = json_array();
    for (size_t s = 0; s < t->bucket_sizes; s++) {
        const LsBucketTime *time = &t->bucket_time[s];
        size_t used = strlen(line);
        snprintf(line + used, sizeof line - used, "%s%g MiB %.3g ms", s ? ", " : "", time->mebibytes,
            1e3 * time->seconds);
        json_array_append_new(measured, json_pack("{s:f, s:f, s:f}", "bucket_mb", time->mebibytes, "seconds",
                                            time->seconds, "spread", time->spread));
    }
    ls_info("buckets of %g MiB; a microbatch took with %s", t->bucket_mb, line);
    return ls_metrics_event(t->metrics, "buckets", t->state.control.step,
        json_pack("{s:f, s:o}", "bucket_mb", t->bucket_mb, "measured", measured));
}
