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

// Rows of an evaluation's blocks: eval.batch, but for models of tokens and images, whose activations are
// large, at most a microbatch of training.
size_t ls_evaluation_rows(const LsConfig *config, const LsDataShape *shape);

// Device memory for microbatches: one or more sets of raw samples, labels or targets and positions, so that
// one can be filled while another is in use, and the normalised inputs of the one in use.
typedef struct LsDeviceBatch LsDeviceBatch;

// Of `info`, features, feature_type, classes, outputs, period, shift and scale count, and only during this
// call; so an `info` that was filled from a checkpoint's schema serves as well.
LsStatus ls_device_batch_create(LsDevice *device, const LsDatasetInfo *info, const LsDataShape *shape,
    size_t max_rows, size_t sets, LsDeviceBatch **out);
void ls_device_batch_destroy(LsDeviceBatch *batch);

// Enqueues copies of host memory (x [rows][features] of the file's type, y [rows] int32 or [rows][outputs]
// float32, or both int32 tokens [rows][window], as LsHostBatch and ls_reader_read have them) into a set, on
// the selected stream. x, y and positions must not change until the device has done the copies, and the set's
// former copies must be done; y may be NULL (prediction), positions too (then they are undefined: nothing
// random may be drawn). LS_BAD_DATA: a label that is none of the classes, or a token beyond the vocabulary,
// named.
LsStatus ls_device_batch_copy(
    LsDeviceBatch *batch, size_t set, const void *x, const void *y, const uint64_t *positions, size_t rows);

// Enqueues the normalisation of the set's rows; tokens need none. *out is valid until the next one.
LsStatus ls_device_batch_normalize(LsDeviceBatch *batch, size_t set, size_t rows, LsBatch *out);

// Both, in the first set.
LsStatus ls_device_batch_upload(
    LsDeviceBatch *batch, const void *x, const void *y, const uint64_t *positions, size_t rows, LsBatch *out);

// Columns of 4 bytes with which host memory of [rows][columns] is enough to be x, y and positions at once:
// for rehearsals, which take zeros for each.
size_t ls_device_batch_columns(const LsDatasetInfo *info, const LsDataShape *shape);

// Device memory that a batch in this compute type holds.
size_t ls_device_batch_bytes(
    const LsDatasetInfo *info, const LsDataShape *shape, LsDtype type, size_t max_rows, size_t sets);

#endif
