// Evaluation: block b of `batch` samples belongs to rank b mod W. Every rank computes its blocks in the same
// shape, reduces each sample to an LsPrediction, and after one gather all ranks compute the same metrics in
// the order of the samples.
#include "train/evaluate.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "train/batch.h"

struct LsEvaluator {
    LsEvaluatorOptions options;
    const LsDatasetInfo *info;
    LsDeviceBatch *batch;
    void *row_loss; // device: float [batch]
    // Host memory of one block: uint64_t [batch], samples and labels, float [batch][outputs], float [batch].
    void *index, *x, *y, *outputs, *losses;
    void *answers, *answer_sizes; // of all ranks to LsEvaluateStop: uint32_t [ranks], size_t [ranks]
};

// What a rank answers that cannot go on.
static const uint32_t FAILED = UINT32_MAX;

// One evaluation.
typedef struct Run {
    LsEvaluator *evaluator;
    const LsEvaluateOptions *options;
    size_t samples, blocks, ranks;
    LsReader *reader;
    void *mine;     // LsPrediction [own blocks][batch]
    void *gathered; // LsPrediction [blocks][batch], rank after rank
    void *ordered;  // LsPrediction [samples]
    void *sizes;    // size_t [2][ranks]
} Run;

// Allocates rows × columns elements of host memory; product sizes come from files and options.
static LsStatus host(size_t rows, size_t columns, size_t element, void **out)
{
    size_t bytes;
    if (!ls_size_multiply(rows, columns, &bytes) || !ls_size_multiply(bytes, element, &bytes))
        return LS_FAIL(
            LS_CONFIG, "evaluation of %zu × %zu values is too large; lower eval.batch", rows, columns);
    return ls_memory_allocate(bytes, out);
}

// ---- What all evaluations share -------------------------------------------------------------------------

static LsStatus check_shapes(const LsEvaluatorOptions *options, const LsDatasetInfo *info)
{
    const LsDataShape *shape = &options->model->shape;
    const char *path = ls_dataset_path(options->dataset);
    if (options->batch == 0 || options->batch > options->model->max_rows)
        return LS_FAIL(LS_INTERNAL, "evaluation in blocks of %zu rows, the model was made for %zu",
            options->batch, options->model->max_rows);
    if (info->vocabulary != shape->vocabulary || info->window != shape->window)
        return LS_FAIL(LS_BAD_DATA, "%s has windows of %zu tokens of %zu, the model was made for %zu of %zu",
            path, info->window, info->vocabulary, shape->window, shape->vocabulary);
    if (shape->window > 0)
        return LS_OK;
    size_t outputs = info->classes && !shape->classes ? 1 : info->outputs;
    if (info->features != shape->features || outputs != shape->outputs)
        return LS_FAIL(LS_BAD_DATA, "%s has %zu features and %zu outputs, the model was made for %zu and %zu",
            path, info->features, info->outputs, shape->features, shape->outputs);
    return LS_OK;
}

static LsStatus reserve(LsEvaluator *e)
{
    const LsEvaluatorOptions *o = &e->options;
    const LsDatasetInfo *info = e->info;
    const LsDataShape *shape = &o->model->shape;
    size_t batch = o->batch, window = shape->window;
    size_t element = info->feature_type == LS_COLUMN_U8 ? 1 : sizeof(float);
    LS_TRY(check_shapes(o, info));
    LS_TRY(ls_device_batch_create(o->device, info, shape, batch, 1, &e->batch));
    LS_TRY(o->device->ops->allocate(o->device, batch * sizeof(float), &e->row_loss));
    LS_TRY(host(batch, 1, sizeof(uint64_t), &e->index));
    LS_TRY(host(batch, window ? window : info->features, window ? sizeof(int32_t) : element, &e->x));
    LS_TRY(host(batch, window ? window : info->classes ? 1 : info->outputs, sizeof(float), &e->y));
    LS_TRY(host(batch, shape->outputs, sizeof(float), &e->outputs));
    LS_TRY(host(batch, 1, sizeof(float), &e->losses));
    size_t ranks = (size_t)ls_comm_size(o->comm);
    LS_TRY(host(ranks, 1, sizeof(uint32_t), &e->answers));
    LS_TRY(host(ranks, 1, sizeof(size_t), &e->answer_sizes));
    for (size_t r = 0; r < ranks; r++)
        ((size_t *)e->answer_sizes)[r] = sizeof(uint32_t);
    return LS_OK;
}

LsStatus ls_evaluator_create(const LsEvaluatorOptions *options, LsEvaluator **out)
{
    LsEvaluator *e;
    LS_TRY(ls_memory_allocate(sizeof *e, (void **)&e));
    e->options = *options;
    e->info = ls_dataset_info(options->dataset);
    LsStatus status = reserve(e);
    if (status != LS_OK) {
        ls_evaluator_destroy(e);
        return status;
    }
    *out = e;
    return LS_OK;
}

void ls_evaluator_destroy(LsEvaluator *e)
{
    if (!e)
        return;
    LsDevice *device = e->options.device;
    free(e->answer_sizes);
    free(e->answers);
    free(e->losses);
    free(e->outputs);
    free(e->y);
    free(e->x);
    free(e->index);
    device->ops->release(device, e->row_loss);
    ls_device_batch_destroy(e->batch);
    free(e);
}

// ---- One evaluation -------------------------------------------------------------------------------------

static size_t own_blocks(const Run *run, size_t rank)
{
    return (run->blocks + run->ranks - 1 - rank) / run->ranks;
}

static size_t block_rows(const Run *run, size_t block)
{
    size_t batch = run->evaluator->options.batch, left = run->samples - block * batch;
    return left < batch ? left : batch;
}

static LsStatus open_run(Run *run)
{
    const LsEvaluatorOptions *o = &run->evaluator->options;
    size_t rank = (size_t)ls_comm_rank(o->comm);
    LS_TRY(ls_reader_create(o->dataset, run->options->split, &run->reader));
    LS_TRY(host(own_blocks(run, rank), o->batch, sizeof(LsPrediction), &run->mine));
    LS_TRY(host(run->blocks, o->batch, sizeof(LsPrediction), &run->gathered));
    LS_TRY(host(run->samples, 1, sizeof(LsPrediction), &run->ordered));
    return host(2, run->ranks, sizeof(size_t), &run->sizes);
}

static void close_run(Run *run)
{
    free(run->sizes);
    free(run->ordered);
    free(run->gathered);
    free(run->mine);
    ls_reader_destroy(run->reader);
}

// A block's samples; the last block is filled up with its last sample, so that all have one shape.
static LsStatus read_block(Run *run, size_t block)
{
    LsEvaluator *e = run->evaluator;
    const uint64_t *indexes = run->options->indexes;
    size_t rows = block_rows(run, block), batch = e->options.batch;
    uint64_t *index = e->index;
    for (size_t r = 0; r < batch; r++) {
        uint64_t i = block * batch + (r < rows ? r : rows - 1);
        index[r] = indexes ? indexes[i] : i;
    }
    return ls_reader_read(run->reader, index, batch, e->x, e->y);
}

static LsStatus compute_block(Run *run, size_t block, LsPrediction *predictions)
{
    LsEvaluator *e = run->evaluator;
    LsModel *model = e->options.model;
    LsDevice *device = e->options.device;
    const LsDeviceOps *ops = device->ops;
    size_t columns = model->shape.outputs, rows = e->options.batch;
    LsBatch batch;
    LS_TRY(read_block(run, block));
    LS_TRY(ls_device_batch_upload(e->batch, e->x, e->y, NULL, rows, &batch));
    LS_TRY(model->ops->forward(model, run->options->weights, &batch, false));
    LS_TRY(model->ops->loss(model, &batch, 0, NULL, NULL, e->row_loss));
    if (columns > 0)
        LS_TRY(ops->copy_out(device, e->outputs, model->ops->outputs(model), rows * columns * sizeof(float)));
    LS_TRY(ops->copy_out(device, e->losses, e->row_loss, rows * sizeof(float)));
    LS_TRY(ops->synchronize(device));
    const float *outputs = e->outputs, *losses = e->losses;
    const int32_t *labels = e->y;
    ls_pulse_at(e->options.pulse, LS_PHASE_EVALUATE);
    for (size_t r = 0; r < rows; r++) {
        LsPrediction p = {.loss = losses[r]};
        if (e->info->classes) {
            p.label = labels[r];
            ls_predict_class(outputs + r * columns, columns, &p);
        }
        predictions[r] = p;
    }
    return LS_OK;
}

// Whether all ranks end here, because one of them has failed or wants to stop.
static LsStatus ask_all(const Run *run, LsStatus mine, bool *ends)
{
    const LsEvaluator *e = run->evaluator;
    LsEvaluateStop *stop = run->options->stop;
    if (!stop) {
        *ends = mine != LS_OK;
        return LS_OK;
    }
    uint32_t answer = mine != LS_OK ? FAILED : stop->ask(stop->context), largest = 0;
    LS_TRY(ls_comm_all_gather(e->options.comm, &answer, e->answers, e->answer_sizes));
    for (size_t r = 0; r < run->ranks; r++) {
        answer = ((const uint32_t *)e->answers)[r];
        largest = answer > largest ? answer : largest;
    }
    stop->reason = largest == FAILED ? 0 : largest;
    *ends = largest != 0;
    return LS_OK;
}

// In rounds, a block of each rank: in the last one some ranks have none.
static LsStatus compute(Run *run)
{
    size_t rank = (size_t)ls_comm_rank(run->evaluator->options.comm);
    size_t rounds = own_blocks(run, 0), batch = run->evaluator->options.batch;
    bool ends = false;
    LsStatus status = open_run(run);
    for (size_t round = 0; round < rounds && !ends; round++) {
        size_t block = round * run->ranks + rank;
        if (status == LS_OK && block < run->blocks)
            status = compute_block(run, block, (LsPrediction *)run->mine + round * batch);
        LS_TRY(ask_all(run, status, &ends));
    }
    return status;
}

// Brings the ranks' blocks together and into order.
static LsStatus gather(Run *run)
{
    size_t batch = run->evaluator->options.batch, total = 0;
    size_t *sizes = run->sizes, *first = sizes + run->ranks; // bytes of each rank, its first block's place
    for (size_t r = 0; r < run->ranks; r++) {
        sizes[r] = own_blocks(run, r) * batch * sizeof(LsPrediction);
        first[r] = total;
        total += own_blocks(run, r);
    }
    LS_TRY(ls_comm_all_gather(run->evaluator->options.comm, run->mine, run->gathered, sizes));
    const LsPrediction *gathered = run->gathered;
    LsPrediction *ordered = run->ordered;
    for (size_t b = 0; b < run->blocks; b++) {
        const LsPrediction *from = gathered + (first[b % run->ranks] + b / run->ranks) * batch;
        for (size_t r = 0; r < block_rows(run, b); r++)
            ordered[b * batch + r] = from[r];
    }
    return LS_OK;
}

// What a loss per token means for the text. The split's mean of bytes per token serves for any part of it.
static void describe_text(const LsEvaluator *e, LsEvaluation *out)
{
    double bytes_per_token = e->info->bytes_per_token[out->split];
    out->window = e->options.model->shape.window;
    if (out->window == 0)
        return;
    out->perplexity = exp(out->loss);
    if (bytes_per_token > 0)
        out->bits_per_byte = out->loss / log(2.0) / bytes_per_token;
}

static LsStatus summarize(const Run *run, LsEvaluation *out)
{
    const LsDatasetInfo *info = run->evaluator->info;
    const LsPrediction *ordered = run->ordered;
    LsEvaluation result = {.split = run->options->split, .samples = run->samples};
    for (size_t i = 0; i < run->samples; i++)
        result.loss += (double)ordered[i].loss;
    result.loss /= (double)run->samples;
    if (info->classes)
        LS_TRY(ls_metrics_classification(ordered, run->samples, info->outputs, &result));
    describe_text(run->evaluator, &result);
    *out = result;
    return LS_OK;
}

LsStatus ls_evaluate(LsEvaluator *evaluator, const LsEvaluateOptions *options, LsEvaluation *out)
{
    const LsEvaluatorOptions *shared = &evaluator->options;
    size_t samples = options->indexes ? options->count : evaluator->info->samples[options->split];
    if (samples == 0) // which all ranks know alike: it needs no agreement
        return LS_FAIL(LS_BAD_DATA, "%s has no samples in its %s split to evaluate on",
            ls_dataset_path(shared->dataset), ls_split_name(options->split));
    Run run = {
        .evaluator = evaluator,
        .options = options,
        .samples = samples,
        .blocks = (samples - 1) / shared->batch + 1,
        .ranks = (size_t)ls_comm_size(shared->comm),
    };
    // A rank whose part failed tells the others, which would wait for it in the gather.
    if (options->stop)
        options->stop->reason = 0;
    LsStatus status = ls_comm_agree(shared->comm, compute(&run));
    bool whole = !options->stop || options->stop->reason == 0;
    if (status == LS_OK && whole)
        status = gather(&run);
    if (status == LS_OK && whole)
        status = summarize(&run, out);
    close_run(&run);
    return status;
}
