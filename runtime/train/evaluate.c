// Evaluation: block b of `batch` samples belongs to rank b mod W. Every rank computes its blocks in the same
// shape, reduces each sample to an LsPrediction, and after one gather all ranks compute the same metrics in
// the order of the samples.
#include "train/evaluate.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "train/batch.h"

typedef struct Evaluator {
    const LsEvaluateOptions *options;
    const LsDatasetInfo *info;
    size_t samples, blocks, ranks;
    LsReader *reader;
    LsDeviceBatch *batch;
    void *row_loss; // device: float [batch]
    // Host memory of one block: uint64_t [batch], samples and labels, float [batch][outputs], float [batch].
    void *index, *x, *y, *outputs, *losses;
    void *mine;     // LsPrediction [own blocks][batch]
    void *gathered; // LsPrediction [blocks][batch], rank after rank
    void *ordered;  // LsPrediction [samples]
    void *sizes;    // size_t [2][ranks]
} Evaluator;

static size_t own_blocks(const Evaluator *e, size_t rank)
{
    return (e->blocks + e->ranks - 1 - rank) / e->ranks;
}

static size_t block_rows(const Evaluator *e, size_t block)
{
    size_t batch = e->options->batch, left = e->samples - block * batch;
    return left < batch ? left : batch;
}

// Allocates rows × columns elements of host memory; product sizes come from files and options.
static LsStatus host(size_t rows, size_t columns, size_t element, void **out)
{
    size_t bytes;
    if (!ls_size_multiply(rows, columns, &bytes) || !ls_size_multiply(bytes, element, &bytes))
        return LS_FAIL(
            LS_CONFIG, "evaluation of %zu × %zu values is too large; lower eval.batch", rows, columns);
    return ls_memory_allocate(bytes, out);
}

static void close_evaluator(Evaluator *e)
{
    LsDevice *device = e->options->device;
    free(e->sizes);
    free(e->ordered);
    free(e->gathered);
    free(e->mine);
    free(e->losses);
    free(e->outputs);
    free(e->y);
    free(e->x);
    free(e->index);
    device->ops->release(device, e->row_loss);
    ls_device_batch_destroy(e->batch);
    ls_reader_destroy(e->reader);
}

static LsStatus open_evaluator(Evaluator *e)
{
    const LsEvaluateOptions *o = e->options;
    const LsDatasetInfo *info = e->info;
    size_t batch = o->batch, outputs = o->model->shape.outputs;
    size_t rank = (size_t)ls_comm_rank(o->comm);
    size_t element = info->feature_type == LS_COLUMN_U8 ? 1 : sizeof(float);
    LS_TRY(ls_reader_create(o->dataset, o->split, &e->reader));
    LS_TRY(ls_device_batch_create(o->device, info, &o->model->shape, batch, 1, &e->batch));
    LS_TRY(o->device->ops->allocate(o->device, batch * sizeof(float), &e->row_loss));
    LS_TRY(host(batch, 1, sizeof(uint64_t), &e->index));
    size_t window = o->model->shape.window;
    LS_TRY(host(batch, window ? window : info->features, window ? sizeof(int32_t) : element, &e->x));
    LS_TRY(host(batch, window ? window : info->classes ? 1 : info->outputs, sizeof(float), &e->y));
    LS_TRY(host(batch, outputs, sizeof(float), &e->outputs));
    LS_TRY(host(batch, 1, sizeof(float), &e->losses));
    LS_TRY(host(own_blocks(e, rank), batch, sizeof(LsPrediction), &e->mine));
    LS_TRY(host(e->blocks, batch, sizeof(LsPrediction), &e->gathered));
    LS_TRY(host(e->samples, 1, sizeof(LsPrediction), &e->ordered));
    return host(2, e->ranks, sizeof(size_t), &e->sizes);
}

// A block's samples; the last block is filled up with its last sample, so that all have one shape.
static LsStatus read_block(Evaluator *e, size_t block)
{
    const LsEvaluateOptions *o = e->options;
    size_t rows = block_rows(e, block);
    uint64_t *index = e->index;
    for (size_t r = 0; r < o->batch; r++) {
        uint64_t i = block * o->batch + (r < rows ? r : rows - 1);
        index[r] = o->indexes ? o->indexes[i] : i;
    }
    return ls_reader_read(e->reader, index, o->batch, e->x, e->y);
}

static LsStatus compute_block(Evaluator *e, size_t block, LsPrediction *predictions)
{
    const LsEvaluateOptions *o = e->options;
    const LsDeviceOps *ops = o->device->ops;
    LsModel *model = o->model;
    size_t columns = model->shape.outputs;
    LsBatch batch;
    LS_TRY(read_block(e, block));
    LS_TRY(ls_device_batch_upload(e->batch, e->x, e->y, NULL, o->batch, &batch));
    LS_TRY(model->ops->forward(model, o->weights, &batch, false));
    LS_TRY(model->ops->loss(model, &batch, 0, NULL, NULL, e->row_loss));
    if (columns > 0)
        LS_TRY(ops->copy_out(
            o->device, e->outputs, model->ops->outputs(model), o->batch * columns * sizeof(float)));
    LS_TRY(ops->copy_out(o->device, e->losses, e->row_loss, o->batch * sizeof(float)));
    LS_TRY(ops->synchronize(o->device));
    const float *outputs = e->outputs, *losses = e->losses;
    const int32_t *labels = e->y;
    for (size_t r = 0; r < o->batch; r++) {
        LsPrediction p = {.loss = losses[r]};
        if (e->info->classes) {
            p.label = labels[r];
            ls_predict_class(outputs + r * columns, columns, &p);
        }
        predictions[r] = p;
    }
    return LS_OK;
}

static LsStatus compute(Evaluator *e)
{
    LS_TRY(open_evaluator(e));
    LsPrediction *predictions = e->mine;
    for (size_t b = (size_t)ls_comm_rank(e->options->comm); b < e->blocks; b += e->ranks) {
        LS_TRY(compute_block(e, b, predictions));
        predictions += e->options->batch;
    }
    return LS_OK;
}

// Brings the ranks' blocks together and into order.
static LsStatus gather(Evaluator *e)
{
    size_t batch = e->options->batch, total = 0;
    size_t *sizes = e->sizes, *first = sizes + e->ranks; // bytes of each rank, its first block's place
    for (size_t r = 0; r < e->ranks; r++) {
        sizes[r] = own_blocks(e, r) * batch * sizeof(LsPrediction);
        first[r] = total;
        total += own_blocks(e, r);
    }
    LS_TRY(ls_comm_all_gather(e->options->comm, e->mine, e->gathered, sizes));
    const LsPrediction *gathered = e->gathered;
    LsPrediction *ordered = e->ordered;
    for (size_t b = 0; b < e->blocks; b++) {
        const LsPrediction *from = gathered + (first[b % e->ranks] + b / e->ranks) * batch;
        for (size_t r = 0; r < block_rows(e, b); r++)
            ordered[b * batch + r] = from[r];
    }
    return LS_OK;
}

// What a loss per token means for the text. The split's mean of bytes per token serves for any part of it.
static void describe_text(const Evaluator *e, LsEvaluation *out)
{
    double bytes_per_token = e->info->bytes_per_token[e->options->split];
    out->window = e->options->model->shape.window;
    if (out->window == 0)
        return;
    out->perplexity = exp(out->loss);
    if (bytes_per_token > 0)
        out->bits_per_byte = out->loss / log(2.0) / bytes_per_token;
}

static LsStatus summarize(const Evaluator *e, LsEvaluation *out)
{
    const LsPrediction *ordered = e->ordered;
    LsEvaluation result = {.split = e->options->split, .samples = e->samples};
    for (size_t i = 0; i < e->samples; i++)
        result.loss += (double)ordered[i].loss;
    result.loss /= (double)e->samples;
    if (e->info->classes)
        LS_TRY(ls_metrics_classification(ordered, e->samples, e->info->outputs, &result));
    describe_text(e, &result);
    *out = result;
    return LS_OK;
}

// What all ranks know alike needs no agreement.
static LsStatus check(const LsEvaluateOptions *options, const LsDatasetInfo *info, size_t samples)
{
    if (samples == 0)
        return LS_FAIL(LS_BAD_DATA, "%s has no samples in its %s split to evaluate on",
            ls_dataset_path(options->dataset), ls_split_name(options->split));
    if (options->batch == 0 || options->batch > options->model->max_rows)
        return LS_FAIL(LS_INTERNAL, "evaluation in blocks of %zu rows, the model was made for %zu",
            options->batch, options->model->max_rows);
    const LsDataShape *shape = &options->model->shape;
    if (info->vocabulary != shape->vocabulary || info->window != shape->window)
        return LS_FAIL(LS_BAD_DATA, "%s has windows of %zu tokens of %zu, the model was made for %zu of %zu",
            ls_dataset_path(options->dataset), info->window, info->vocabulary, shape->window,
            shape->vocabulary);
    if (shape->window > 0)
        return LS_OK;
    size_t outputs = info->classes && !options->model->shape.classes ? 1 : info->outputs;
    if (info->features != options->model->shape.features || outputs != options->model->shape.outputs)
        return LS_FAIL(LS_BAD_DATA, "%s has %zu features and %zu outputs, the model was made for %zu and %zu",
            ls_dataset_path(options->dataset), info->features, info->outputs, options->model->shape.features,
            options->model->shape.outputs);
    return LS_OK;
}

LsStatus ls_evaluate(const LsEvaluateOptions *options, LsEvaluation *out)
{
    const LsDatasetInfo *info = ls_dataset_info(options->dataset);
    size_t samples = options->indexes ? options->count : info->samples[options->split];
    LS_TRY(check(options, info, samples));
    Evaluator e = {
        .options = options,
        .info = info,
        .samples = samples,
        .blocks = (samples - 1) / options->batch + 1,
        .ranks = (size_t)ls_comm_size(options->comm),
    };
    // A rank whose part failed tells the others, which would wait for it in the gather.
    LsStatus status = ls_comm_agree(options->comm, compute(&e));
    if (status == LS_OK)
        status = gather(&e);
    if (status == LS_OK)
        status = summarize(&e, out);
    close_evaluator(&e);
    return status;
}
