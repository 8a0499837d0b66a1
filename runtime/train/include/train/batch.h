// Raw rows in host memory to a microbatch in device memory: what the trainer, evaluation and prediction have
// in common.
#ifndef LOCKSTEP_TRAIN_BATCH_H
#define LOCKSTEP_TRAIN_BATCH_H

#include "data/dataset.h"
#include "models/model.h"

// What a model is to be made for: the data set as train.loss sees it. With binary cross-entropy, the labels 0
// and 1 of two classes become targets of one output (outputs = 1, classes = false); otherwise it is the data
// set's own shape. LS_CONFIG when the loss or eval.metric does not fit the data.
LsStatus ls_data_shape(const LsConfig *config, const LsDatasetInfo *info, LsDataShape *out);

// Device memory for one microbatch: raw samples, normalised inputs, labels or targets, positions.
typedef struct LsDeviceBatch LsDeviceBatch;

// Of `info`, features, feature_type, classes, outputs, uniform, shift and scale count, and only during this
// call; so an `info` that was filled from a checkpoint's schema serves as well.
LsStatus ls_device_batch_create(LsDevice *device, const LsDatasetInfo *info, const LsDataShape *shape,
    size_t max_rows, LsDeviceBatch **out);
void ls_device_batch_destroy(LsDeviceBatch *batch);

// Enqueues copies of host memory (x [rows][features] of the file's type, y [rows] int32 or [rows][outputs]
// float32, as LsHostBatch and ls_reader_read have them) and the normalisation. x and positions must not
// change until the device has done the copies; y may be NULL (prediction), positions too (then they are
// undefined: nothing random may be drawn). *out is valid until the next upload.
LsStatus ls_device_batch_upload(
    LsDeviceBatch *batch, const void *x, const void *y, const uint64_t *positions, size_t rows, LsBatch *out);

// Device memory held.
size_t ls_device_batch_bytes(const LsDeviceBatch *batch);

#endif
