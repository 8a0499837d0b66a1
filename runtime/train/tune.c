// runtime.autotune: rank 0 alone measures the library's deterministic algorithms for the products of this
// run, and all ranks take its choice, which the run and its checkpoints keep.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "trainer_state.h"

// What an earlier attempt of this run chose. Rank 0.
static LsStatus read_earlier(LsTrainer *t, const char *path)
{
    enum { LIMIT = 1 << 24 };
    if (t->algorithms || !ls_file_exists(path))
        return LS_OK;
    size_t size = 0;
    return ls_file_read(path, LIMIT, &t->algorithms, &size);
}

// One pass over a batch of zeros with labels of class 0: only shapes matter to what is measured.
static LsStatus rehearse(LsTrainer *t, LsDeviceBatch *scratch, const void *zeros, size_t rows, bool train)
{
    const LsModelOps *model = t->model->ops;
    const float *loss_scale = &t->outcomes.device->control.loss_scale;
    LsBatch batch;
    LS_TRY(ls_device_batch_upload(scratch, zeros, zeros, zeros, rows, &batch));
    LS_TRY(model->forward(t->model, t->arenas.weights, &batch, train));
    if (!train)
        return model->loss(t->model, &batch, 0, NULL, NULL, NULL);
    LS_TRY(model->loss(t->model, &batch, 1.0f / (float)rows, loss_scale, NULL, NULL));
    // Every lane begins by overwriting its slot, so nothing is left of these gradients. Adding to them is
    // another product.
    bool adds = t->config->train.accumulation > 1 || t->config->collectives.reduction == LS_REDUCTION_FAST;
    for (int accumulate = 0; accumulate <= adds; accumulate++)
        LS_TRY(model->backward(
            t->model, t->arenas.weights, &batch, t->arenas.gradient[0], accumulate != 0, NULL, NULL));
    return LS_OK;
}

// A training microbatch and a block of an evaluation.
static LsStatus rehearse_both(LsTrainer *t)
{
    const LsDataShape *shape = &t->model->shape;
    size_t block = ls_evaluation_rows(t->config, shape), rows = block > t->microbatch ? block : t->microbatch;
    size_t columns = ls_device_batch_columns(t->info, shape);
    LsDeviceBatch *scratch = NULL;
    void *zeros = NULL;
    LsStatus status = ls_memory_allocate(rows * columns * sizeof(float), &zeros);
    if (status == LS_OK)
        status = ls_device_batch_create(t->device, t->info, &t->model->shape, rows, 1, &scratch);
    if (status == LS_OK)
        status = rehearse(t, scratch, zeros, t->microbatch, true);
    if (status == LS_OK)
        status = rehearse(t, scratch, zeros, block, false);
    LsStatus done = t->device->ops->synchronize(t->device);
    ls_device_batch_destroy(scratch);
    free(zeros);
    return status == LS_OK ? done : status;
}

// Also without any: what measured the device's peak, or sizes of buckets, are no choices of the run.
static LsStatus choose(LsTrainer *t)
{
    return t->device->ops->choose(t->device, t->algorithms ? t->algorithms : "");
}

// Rank 0. What was chosen before: the checkpoint's, or else an earlier attempt's.
static LsStatus take_earlier(LsTrainer *t, const char *path)
{
    bool checkpoint = t->algorithms != NULL;
    LS_TRY(read_earlier(t, path));
    LsStatus status = choose(t);
    if (status != LS_BAD_DATA)
        return status;
    char why[LS_PATH_MAX];
    snprintf(why, sizeof why, "%s", ls_status_message());
    return checkpoint ? LS_FAIL(LS_CHECKPOINT,
                            "the checkpoint's algorithms cannot be used: %s; resume another one", why)
                      : LS_FAIL(LS_BAD_DATA, "%s: %s; remove the file to measure anew", path, why);
}

// Rank 0. Measures what has no choice yet.
static LsStatus measure(LsTrainer *t, const char *path)
{
    const LsDeviceOps *ops = t->device->ops;
    LS_TRY(take_earlier(t, path));
    ops->tune(t->device, true);
    LsStatus status = rehearse_both(t);
    ops->tune(t->device, false);
    LS_TRY(status);
    char *chosen = NULL;
    LS_TRY(ops->choices(t->device, &chosen));
    bool changed = strcmp(chosen, t->algorithms ? t->algorithms : "") != 0;
    free(t->algorithms);
    t->algorithms = chosen;
    if (*chosen) // a CPU has nothing to choose
        LS_TRY(ls_file_replace(path, chosen, strlen(chosen)));
    return changed ? ls_metrics_event(t->metrics, "autotune", t->state.control.step, NULL) : LS_OK;
}

static LsStatus share_choices(LsTrainer *t)
{
    uint64_t size = t->algorithms ? strlen(t->algorithms) + 1 : 0;
    LS_TRY(ls_comm_broadcast(t->comm, &size, sizeof size, 0));
    LsStatus status = LS_OK;
    if (ls_comm_rank(t->comm) != 0) {
        free(t->algorithms);
        t->algorithms = NULL;
        if (size > 0)
            status = ls_memory_allocate(size, (void **)&t->algorithms);
    }
    LS_TRY(ls_comm_agree(t->comm, status));
    if (size > 0)
        LS_TRY(ls_comm_broadcast(t->comm, t->algorithms, size, 0));
    return ls_comm_agree(t->comm, choose(t));
}

LsStatus ls_trainer_tune(LsTrainer *t)
{
    if (!t->config->runtime.autotune) {
        free(t->algorithms);
        t->algorithms = NULL;
        return LS_OK;
    }
    char path[LS_PATH_MAX];
    LsStatus status = ls_path_join(path, t->run.path, "algorithms.txt");
    if (status == LS_OK && ls_comm_rank(t->comm) == 0)
        status = measure(t, path);
    LS_TRY(ls_comm_agree(t->comm, status));
    return share_choices(t);
}
