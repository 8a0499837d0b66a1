#include "train/batch.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "train/evaluate.h"

// What is copied from the host.
typedef struct Set {
    void *raw, *y;       // device
    uint64_t *positions; // device
    float *targets;      // pinned: converted labels
} Set;

struct LsDeviceBatch {
    LsDevice *device; // lent
    LsDataShape shape;
    LsDtype raw_type; // of x
    size_t period;    // of shift and scale
    bool convert;     // labels of two classes become targets
    size_t classes;   // 0: the data has none
    size_t max_rows;
    float *shift, *scale; // device
    void *inputs;         // device
    size_t sets;
    Set set[];
};

// Early stopping by a metric that the data has not would take every evaluation for no better than the last.
static LsStatus check_metric(const LsConfig *config, const LsDatasetInfo *info)
{
    LsEvalMetric metric = (LsEvalMetric)config->eval.metric;
    if (metric != LS_METRIC_LOSS && info->vocabulary > 0)
        return LS_FAIL(LS_CONFIG, "eval.metric: a model of tokens is judged by its loss; use loss");
    if (metric != LS_METRIC_LOSS && !info->classes)
        return LS_FAIL(
            LS_CONFIG, "eval.metric: the data's targets are numbers and have no classes to count; use loss");
    if (metric == LS_METRIC_ROC_AUC && info->outputs != 2)
        return LS_FAIL(LS_CONFIG,
            "eval.metric: roc_auc needs data of 2 classes, it has %zu; use accuracy, macro_f1 or loss",
            info->outputs);
    if (metric == LS_METRIC_TOP5_ACCURACY && info->outputs <= LS_TOP)
        return LS_FAIL(LS_CONFIG,
            "eval.metric: top5_accuracy needs data of more than %d classes, it has %zu; use accuracy, "
            "macro_f1 or "
            "loss",
            LS_TOP, info->outputs);
    return LS_OK;
}

// Samples of two dimensions are images of one channel.
static void take_image(const LsDatasetInfo *info, LsDataShape *shape)
{
    if (info->feature_dimensions != 2 && info->feature_dimensions != 3)
        return;
    shape->height = info->feature_shape[0];
    shape->width = info->feature_shape[1];
    shape->channels = info->feature_dimensions == 3 ? info->feature_shape[2] : 1;
}

LsStatus ls_data_shape(const LsConfig *config, const LsDatasetInfo *info, LsDataShape *out)
{
    LsDataShape shape = {.features = info->features, .outputs = info->outputs, .classes = info->classes};
    take_image(info, &shape);
    if (info->vocabulary > 0)
        shape = (LsDataShape){.window = (size_t)config->model.context, .vocabulary = info->vocabulary};
    if (info->classes && config->train.loss == LS_LOSS_BINARY_CROSS_ENTROPY) {
        if (info->outputs != 2)
            return LS_FAIL(LS_CONFIG,
                "train.loss: binary_cross_entropy needs data of 2 classes, it has %zu; use cross_entropy",
                info->outputs);
        shape.outputs = 1;
        shape.classes = false;
    }
    LS_TRY(check_metric(config, info));
    *out = shape;
    return LS_OK;
}

size_t ls_evaluation_rows(const LsConfig *config, const LsDataShape *shape)
{
    int64_t microbatch = config->train.batch / (config->train.lanes * config->train.accumulation);
    int64_t rows = config->eval.batch;
    bool large = shape->window > 0 || config->model.kind == LS_MODEL_RESNET;
    return (size_t)(large && microbatch < rows ? microbatch : rows);
}

static LsDtype raw_type(const LsDatasetInfo *info, const LsDataShape *shape)
{
    if (shape->window > 0)
        return LS_I32;
    return info->feature_type == LS_COLUMN_U8 ? LS_U8 : LS_F32;
}

static size_t input_columns(const LsDataShape *shape)
{
    return shape->window > 0 ? shape->window : shape->features;
}

// Targets or labels of a row; int32 and float are equally wide.
static size_t target_columns(const LsDataShape *shape)
{
    if (shape->window > 0)
        return shape->window;
    return shape->classes ? 1 : shape->outputs;
}

// Allocates rows × columns elements on the device.
static LsStatus reserve(LsDeviceBatch *batch, size_t rows, size_t columns, size_t element, void **out)
{
    size_t bytes;
    if (!ls_size_multiply(rows, columns, &bytes) || !ls_size_multiply(bytes, element, &bytes))
        return LS_FAIL(
            LS_CONFIG, "a batch of %zu rows × %zu columns is too large; use a smaller batch", rows, columns);
    return batch->device->ops->allocate(batch->device, bytes, out);
}

// Values for the channels of an image are repeated to a row of it, so that loops over a period are long.
static size_t uploaded_period(const LsDatasetInfo *info)
{
    bool channels = info->period > 1 && info->period < info->features;
    return channels ? info->period * info->feature_shape[info->feature_dimensions - 2] : info->period;
}

static LsStatus upload_statistic(
    LsDeviceBatch *batch, const LsDatasetInfo *info, const float *values, float **out)
{
    size_t bytes = batch->period * sizeof *values;
    void *memory, *repeated = NULL;
    LS_TRY(reserve(batch, batch->period, 1, sizeof *values, &memory));
    *out = memory;
    LS_TRY(ls_memory_allocate(bytes, &repeated));
    for (size_t i = 0; i < batch->period; i++)
        ((float *)repeated)[i] = values[i % info->period];
    LsStatus status = batch->device->ops->copy_in(batch->device, memory, repeated, bytes);
    if (status == LS_OK) // which has read them then
        status = batch->device->ops->synchronize(batch->device);
    free(repeated);
    return status;
}

static LsStatus reserve_set(LsDeviceBatch *batch, Set *set)
{
    LsDevice *device = batch->device;
    size_t rows = batch->max_rows;
    void *positions = NULL, *targets = NULL;
    LS_TRY(reserve(batch, rows, input_columns(&batch->shape), ls_dtype_size(batch->raw_type), &set->raw));
    LS_TRY(reserve(batch, rows, target_columns(&batch->shape), sizeof(float), &set->y));
    LS_TRY(reserve(batch, rows, 1, sizeof(uint64_t), &positions));
    set->positions = positions;
    if (batch->convert)
        LS_TRY(device->ops->allocate_host(device, rows * sizeof(float), &targets));
    set->targets = targets;
    return LS_OK;
}

static LsStatus reserve_all(LsDeviceBatch *batch, const LsDatasetInfo *info)
{
    size_t input = ls_dtype_size(ls_device_compute_type(batch->device));
    for (size_t s = 0; s < batch->sets; s++)
        LS_TRY(reserve_set(batch, &batch->set[s]));
    if (batch->shape.window > 0) // tokens go to the model as they are
        return LS_OK;
    LS_TRY(upload_statistic(batch, info, info->shift, &batch->shift));
    LS_TRY(upload_statistic(batch, info, info->scale, &batch->scale));
    return reserve(batch, batch->max_rows, batch->shape.features, input, &batch->inputs);
}

LsStatus ls_device_batch_create(LsDevice *device, const LsDatasetInfo *info, const LsDataShape *shape,
    size_t max_rows, size_t sets, LsDeviceBatch **out)
{
    bool fits = shape->window > 0 || (info->features > 0 && shape->features == info->features);
    if (max_rows == 0 || sets == 0 || !fits)
        return LS_FAIL(LS_INTERNAL, "a batch of %zu rows of %zu features does not fit a model of %zu",
            max_rows, info->features, shape->features);
    LsDeviceBatch *batch = calloc(1, sizeof *batch + sets * sizeof(Set));
    if (!batch)
        return LS_FAIL(LS_INTERNAL, "no memory for a batch");
    batch->device = device;
    batch->shape = *shape;
    batch->raw_type = raw_type(info, shape);
    batch->period = shape->window > 0 ? 0 : uploaded_period(info);
    batch->convert = info->classes && !shape->classes;
    batch->classes = info->classes ? info->outputs : 0;
    batch->max_rows = max_rows;
    batch->sets = sets;
    LsStatus status = reserve_all(batch, info);
    if (status != LS_OK) {
        ls_device_batch_destroy(batch);
        return status;
    }
    *out = batch;
    return LS_OK;
}

void ls_device_batch_destroy(LsDeviceBatch *batch)
{
    if (!batch)
        return;
    LsDevice *device = batch->device;
    for (size_t s = batch->sets; s-- > 0;) {
        Set *set = &batch->set[s];
        if (set->targets)
            device->ops->release_host(device, set->targets);
        device->ops->release(device, set->positions);
        device->ops->release(device, set->y);
        device->ops->release(device, set->raw);
    }
    device->ops->release(device, batch->inputs);
    device->ops->release(device, batch->scale);
    device->ops->release(device, batch->shift);
    free(batch);
}

// Checked here for every device, since a GPU could not say which row it was.
static LsStatus check_labels(
    const LsDeviceBatch *batch, const int32_t *labels, const uint64_t *positions, size_t rows)
{
    for (size_t r = 0; r < rows; r++) {
        if (labels[r] >= 0 && (size_t)labels[r] < batch->classes)
            continue;
        char place[64] = "";
        if (positions)
            snprintf(place, sizeof place, ", position %llu of the stream", (unsigned long long)positions[r]);
        return LS_FAIL(LS_BAD_DATA,
            "row %zu of a batch of %zu%s: label %d is not one of the %zu classes 0 … %zu; check the file "
            "with lockstep data verify",
            r, rows, place, labels[r], batch->classes, batch->classes - 1);
    }
    return LS_OK;
}

// Tokens and those that follow them, likewise.
static LsStatus check_tokens(
    const LsDeviceBatch *batch, const int32_t *tokens, const uint64_t *positions, size_t rows)
{
    size_t window = batch->shape.window;
    for (size_t i = 0; i < rows * window; i++) {
        if (tokens[i] >= 0 && (size_t)tokens[i] < batch->shape.vocabulary)
            continue;
        char place[64] = "";
        if (positions)
            snprintf(place, sizeof place, ", position %llu of the stream",
                (unsigned long long)positions[i / window]);
        return LS_FAIL(LS_BAD_DATA,
            "window %zu of a batch of %zu%s: token %d is not one of the vocabulary's 0 … %zu; check the file "
            "with lockstep data verify",
            i / window, rows, place, tokens[i], batch->shape.vocabulary - 1);
    }
    return LS_OK;
}

static LsStatus check_values(
    const LsDeviceBatch *batch, const void *x, const void *y, const uint64_t *positions, size_t rows)
{
    if (batch->shape.window > 0) {
        LS_TRY(check_tokens(batch, x, positions, rows));
        return y ? check_tokens(batch, y, positions, rows) : LS_OK;
    }
    return y && batch->classes ? check_labels(batch, y, positions, rows) : LS_OK;
}

static LsStatus copy_targets(LsDeviceBatch *batch, Set *set, const void *y, size_t rows)
{
    const int32_t *labels = y;
    for (size_t r = 0; r < rows && batch->convert; r++)
        set->targets[r] = (float)labels[r];
    const void *from = batch->convert ? set->targets : y;
    return batch->device->ops->copy_in(
        batch->device, set->y, from, rows * target_columns(&batch->shape) * sizeof(float));
}

LsStatus ls_device_batch_copy(
    LsDeviceBatch *batch, size_t index, const void *x, const void *y, const uint64_t *positions, size_t rows)
{
    LsDevice *device = batch->device;
    Set *set = &batch->set[index];
    if (rows == 0 || rows > batch->max_rows)
        return LS_FAIL(LS_INTERNAL, "a batch of %zu rows was given, up to %zu fit", rows, batch->max_rows);
    LS_TRY(check_values(batch, x, y, positions, rows));
    size_t row_bytes = input_columns(&batch->shape) * ls_dtype_size(batch->raw_type);
    LS_TRY(device->ops->copy_in(device, set->raw, x, rows * row_bytes));
    if (y)
        LS_TRY(copy_targets(batch, set, y, rows));
    if (!positions)
        return LS_OK;
    return device->ops->copy_in(device, set->positions, positions, rows * sizeof *positions);
}

LsStatus ls_device_batch_normalize(LsDeviceBatch *batch, size_t index, size_t rows, LsBatch *out)
{
    const Set *set = &batch->set[index];
    if (batch->shape.window > 0) {
        *out = (LsBatch){.rows = rows, .inputs = set->raw, .labels = set->y, .positions = set->positions};
        return LS_OK;
    }
    LsNormalize args = {
        .rows = rows,
        .columns = batch->shape.features,
        .x = set->raw,
        .x_type = batch->raw_type,
        .shift = batch->shift,
        .scale = batch->scale,
        .period = batch->period,
        .y = batch->inputs,
        .y_type = ls_device_compute_type(batch->device),
    };
    LS_TRY(batch->device->ops->normalize(batch->device, &args));
    *out = (LsBatch){
        .rows = rows,
        .inputs = batch->inputs,
        .labels = batch->shape.classes ? set->y : NULL,
        .targets = batch->shape.classes ? NULL : set->y,
        .positions = set->positions,
    };
    return LS_OK;
}

LsStatus ls_device_batch_upload(
    LsDeviceBatch *batch, const void *x, const void *y, const uint64_t *positions, size_t rows, LsBatch *out)
{
    LS_TRY(ls_device_batch_copy(batch, 0, x, y, positions, rows));
    return ls_device_batch_normalize(batch, 0, rows, out);
}

size_t ls_device_batch_columns(const LsDatasetInfo *info, const LsDataShape *shape)
{
    return info->features + shape->outputs + shape->window + sizeof(uint64_t) / sizeof(float);
}

size_t ls_device_batch_bytes(
    const LsDatasetInfo *info, const LsDataShape *shape, LsDtype type, size_t max_rows, size_t sets)
{
    size_t raw = input_columns(shape) * ls_dtype_size(raw_type(info, shape)) +
                 target_columns(shape) * sizeof(float) + sizeof(uint64_t);
    if (shape->window > 0)
        return max_rows * sets * raw;
    size_t statistics = 2 * uploaded_period(info) * sizeof(float);
    return max_rows * (sets * raw + shape->features * ls_dtype_size(type)) + statistics;
}
