#include "train/batch.h"

#include <stdlib.h>

#include "base/memory.h"

struct LsDeviceBatch {
    LsDevice *device; // lent
    LsDataShape shape;
    LsDtype raw_type; // of x
    bool uniform;     // one shift and scale for all features
    bool convert;     // labels of two classes become targets
    size_t max_rows, bytes;
    float *shift, *scale;   // device
    void *raw, *inputs, *y; // device
    uint64_t *positions;    // device
    float *targets;         // host: converted labels
};

// Early stopping by a metric that the data has not would take every evaluation for no better than the last.
static LsStatus check_metric(const LsConfig *config, const LsDatasetInfo *info)
{
    LsEvalMetric metric = (LsEvalMetric)config->eval.metric;
    if (metric != LS_METRIC_LOSS && !info->classes)
        return LS_FAIL(
            LS_CONFIG, "eval.metric: the data's targets are numbers and have no classes to count; use loss");
    if (metric == LS_METRIC_ROC_AUC && info->outputs != 2)
        return LS_FAIL(LS_CONFIG,
            "eval.metric: roc_auc needs data of 2 classes, it has %zu; use accuracy, macro_f1 or loss",
            info->outputs);
    return LS_OK;
}

LsStatus ls_data_shape(const LsConfig *config, const LsDatasetInfo *info, LsDataShape *out)
{
    LsDataShape shape = {.features = info->features, .outputs = info->outputs, .classes = info->classes};
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

// Allocates rows × columns elements on the device.
static LsStatus reserve(LsDeviceBatch *batch, size_t rows, size_t columns, size_t element, void **out)
{
    size_t bytes;
    if (!ls_size_multiply(rows, columns, &bytes) || !ls_size_multiply(bytes, element, &bytes))
        return LS_FAIL(
            LS_CONFIG, "a batch of %zu rows × %zu columns is too large; use a smaller batch", rows, columns);
    LS_TRY(batch->device->ops->allocate(batch->device, bytes, out));
    batch->bytes += bytes;
    return LS_OK;
}

static LsStatus upload_statistic(LsDeviceBatch *batch, const float *values, float **out)
{
    size_t count = batch->uniform ? 1 : batch->shape.features;
    void *memory;
    LS_TRY(reserve(batch, count, 1, sizeof *values, &memory));
    *out = memory;
    return batch->device->ops->copy_in(batch->device, memory, values, count * sizeof *values);
}

static LsStatus reserve_all(LsDeviceBatch *batch, const LsDatasetInfo *info)
{
    size_t rows = batch->max_rows, features = batch->shape.features;
    size_t y_columns = batch->shape.classes ? 1 : batch->shape.outputs; // int32 and float are equally wide
    void *positions, *targets;
    LS_TRY(upload_statistic(batch, info->shift, &batch->shift));
    LS_TRY(upload_statistic(batch, info->scale, &batch->scale));
    LS_TRY(reserve(batch, rows, features, ls_dtype_size(batch->raw_type), &batch->raw));
    LS_TRY(
        reserve(batch, rows, features, ls_dtype_size(ls_device_compute_type(batch->device)), &batch->inputs));
    LS_TRY(reserve(batch, rows, y_columns, sizeof(float), &batch->y));
    LS_TRY(reserve(batch, rows, 1, sizeof(uint64_t), &positions));
    batch->positions = positions;
    if (batch->convert) {
        LS_TRY(ls_memory_allocate(rows * sizeof(float), &targets));
        batch->targets = targets;
    }
    // The statistics are the caller's memory, which may go away after this call.
    return batch->device->ops->synchronize(batch->device);
}

LsStatus ls_device_batch_create(LsDevice *device, const LsDatasetInfo *info, const LsDataShape *shape,
    size_t max_rows, LsDeviceBatch **out)
{
    if (max_rows == 0 || info->features == 0 || shape->features != info->features)
        return LS_FAIL(LS_INTERNAL, "a batch of %zu rows of %zu features does not fit a model of %zu",
            max_rows, info->features, shape->features);
    LsDeviceBatch *batch = calloc(1, sizeof *batch);
    if (!batch)
        return LS_FAIL(LS_INTERNAL, "no memory for a batch");
    batch->device = device;
    batch->shape = *shape;
    batch->raw_type = info->feature_type == LS_COLUMN_U8 ? LS_U8 : LS_F32;
    batch->uniform = info->uniform;
    batch->convert = info->classes && !shape->classes;
    batch->max_rows = max_rows;
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
    const LsDeviceOps *ops = batch->device->ops;
    free(batch->targets);
    ops->release(batch->device, batch->positions);
    ops->release(batch->device, batch->y);
    ops->release(batch->device, batch->inputs);
    ops->release(batch->device, batch->raw);
    ops->release(batch->device, batch->scale);
    ops->release(batch->device, batch->shift);
    free(batch);
}

// The converted labels are in ordinary (not pinned) host memory, which a device reads before the copy call
// returns; so the one buffer can be filled again by the next upload.
static const void *convert_labels(LsDeviceBatch *batch, const int32_t *labels, size_t rows)
{
    for (size_t r = 0; r < rows; r++)
        batch->targets[r] = (float)labels[r];
    return batch->targets;
}

static LsStatus upload_targets(LsDeviceBatch *batch, const void *y, size_t rows, LsBatch *out)
{
    size_t columns = batch->shape.classes ? 1 : batch->shape.outputs;
    const void *from = batch->convert ? convert_labels(batch, y, rows) : y;
    LS_TRY(batch->device->ops->copy_in(batch->device, batch->y, from, rows * columns * sizeof(float)));
    if (batch->shape.classes)
        out->labels = batch->y;
    else
        out->targets = batch->y;
    return LS_OK;
}

LsStatus ls_device_batch_upload(
    LsDeviceBatch *batch, const void *x, const void *y, const uint64_t *positions, size_t rows, LsBatch *out)
{
    const LsDeviceOps *ops = batch->device->ops;
    if (rows == 0 || rows > batch->max_rows)
        return LS_FAIL(LS_INTERNAL, "a batch of %zu rows was given, up to %zu fit", rows, batch->max_rows);
    LsBatch uploaded = {.rows = rows, .inputs = batch->inputs, .positions = batch->positions};
    size_t row_bytes = batch->shape.features * ls_dtype_size(batch->raw_type);
    LS_TRY(ops->copy_in(batch->device, batch->raw, x, rows * row_bytes));
    if (y)
        LS_TRY(upload_targets(batch, y, rows, &uploaded));
    if (positions)
        LS_TRY(ops->copy_in(batch->device, batch->positions, positions, rows * sizeof *positions));
    LsNormalize args = {
        .rows = rows,
        .columns = batch->shape.features,
        .x = batch->raw,
        .x_type = batch->raw_type,
        .shift = batch->shift,
        .scale = batch->scale,
        .uniform = batch->uniform,
        .y = batch->inputs,
        .y_type = ls_device_compute_type(batch->device),
    };
    LS_TRY(ops->normalize(batch->device, &args));
    *out = uploaded;
    return LS_OK;
}

size_t ls_device_batch_bytes(const LsDeviceBatch *batch)
{
    return batch->bytes;
}
