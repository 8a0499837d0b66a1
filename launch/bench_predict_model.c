// The work of a step, from a configuration or a number of parameters.
#include <math.h>
#include <string.h>

#include "bench_predict.h"
#include "device/step_control.h"
#include "device/tensor.h"
#include "models/model.h"
#include "train/batch.h"

static LsStatus open_data(const LsConfig *config, LsDataset **out)
{
    if (config->data.path[0] == '\0')
        return LS_FAIL(LS_CONFIG, "data.path is not set; without a data set give --parameters instead of -c");
    LS_TRY(ls_dataset_open(config->data.path, out));
    LS_TRY(ls_dataset_select(*out, config->data.where));
    return ls_dataset_info(*out)->vocabulary ? ls_dataset_set_window(*out, (size_t)config->model.context)
                                             : LS_OK;
}

static LsStatus read_model(const LsConfig *config, LsDataset *dataset, LsPredictModel *model, size_t *blocks)
{
    LsDataShape shape;
    LsModel *made = NULL;
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    LS_TRY(ls_data_shape(config, info, &shape));
    LS_TRY(ls_model_create(config, &shape, NULL, 1, &made));
    model->parameters = ls_parameters_elements(&made->parameters);
    *blocks = made->parameters.blocks;
    snprintf(model->name, sizeof model->name, "%s", made->ops->name);
    if (model->epoch_samples == 0)
        model->epoch_samples = (double)info->samples[LS_TRAIN];
    ls_model_destroy(made);
    return LS_OK;
}

static LsStatus find_model(const LsConfig *config, bool file, int64_t parameters, LsPredictModel *model)
{
    size_t blocks = 0;
    if (parameters > 0) {
        model->parameters = (size_t)parameters;
        blocks = (model->parameters + LS_BLOCK - 1) / LS_BLOCK;
        snprintf(model->name, sizeof model->name, "model");
    } else if (!file)
        return LS_FAIL(LS_USAGE, "nothing to predict: give -c FILE or --parameters N");
    else {
        LsDataset *dataset = NULL;
        LsStatus status = open_data(config, &dataset);
        if (status == LS_OK)
            status = read_model(config, dataset, model, &blocks);
        ls_dataset_close(dataset);
        LS_TRY(status);
    }
    return ls_buckets_create(blocks, ls_bucket_bytes(config->collectives.bucket_mb), &model->buckets);
}

LsStatus ls_predict_model_open(
    const char *file, const LsTextList *settings, int64_t parameters, LsPredictModel *model)
{
    LsConfig config;
    LS_TRY(ls_launch_configure(file, settings, &config));
    if (file)
        LS_TRY(ls_config_validate(&config));
    LS_TRY(find_model(&config, file, parameters, model));
    model->lanes = config.train.lanes;
    model->accumulation = config.train.accumulation;
    if (model->samples == 0 && model->strong)
        model->samples = config.train.batch;
    else if (model->samples == 0)
        model->samples = config.train.batch > model->base_ranks ? config.train.batch / model->base_ranks : 1;
    if (model->gradient_bytes == 0)
        model->gradient_bytes = config.collectives.wire == LS_WIRE_BF16 ? 2 : 4;
    if (model->weight_bytes == 0)
        model->weight_bytes = config.runtime.precision == LS_PRECISION_FP32 ? 4 : 2;
    return LS_OK;
}

void ls_predict_model_free(LsPredictModel *model)
{
    ls_buckets_free(&model->buckets);
}

// Lanes of a step: as configured; in a weak sweep as many more as there are more ranks, one for each at
// least.
static uint32_t lanes_for(const LsPredictModel *model, uint32_t ranks)
{
    int64_t lanes = model->lanes;
    while (!model->strong && lanes < LS_LANES_MAX &&
           (lanes < ranks || lanes * model->base_ranks < model->lanes * ranks))
        lanes *= 2;
    return (uint32_t)lanes;
}

// Only the last microbatch's backward hands out gradients; what comes before it counts as backward too, so
// that forward is what waits for weights. A layer's part of both is its share of the parameters.
static void divide(
    const LsPredictModel *model, double seconds, double microbatches, LsWorkBucket *bucket, LsWork *work)
{
    double forward = seconds / microbatches * model->forward_share;
    double last = seconds / microbatches * (1 - model->forward_share), done = 0;
    work->backward = seconds - forward;
    for (size_t b = 0; b < model->buckets.count; b++) {
        double share = (double)model->buckets.bucket[b].blocks / (double)model->buckets.blocks;
        done += share;
        bucket[b] = (LsWorkBucket){
            .blocks = model->buckets.bucket[b].blocks,
            .forward = forward * share,
            .ready = fmin(work->backward - last + last * done, work->backward),
        };
    }
}

static double exchange_bytes(const LsPredictModel *model, double lanes, double ranks)
{
    double words = LS_VOTE_WORDS + ceil(lanes / ranks);
    for (size_t b = 0; b < model->buckets.count; b++)
        words += ceil((double)model->buckets.bucket[b].blocks / ranks);
    return words * sizeof(float);
}

LsStatus ls_predict_model_work(const LsPredictModel *model, uint32_t ranks, double overlap,
    bool gather_overlaps, LsWorkBucket *bucket, LsWork *work, double *samples)
{
    uint32_t lanes = lanes_for(model, ranks);
    LsLaneShare busiest = {.count = 1};
    if (ranks <= lanes)
        LS_TRY(ls_lane_share(lanes, ranks, 0, &busiest));
    else if (model->strong)
        return LS_FAIL(LS_CONFIG, "%u ranks cannot share %u lanes", ranks, lanes);
    double mine = (double)model->samples;
    *samples = mine * ranks;
    if (model->strong) {
        mine *= (double)busiest.count / lanes;
        *samples = (double)model->samples;
    }
    *work = (LsWork){
        .count = model->buckets.count,
        .bucket = bucket,
        .optimizer = model->optimizer,
        .gradient_bytes = model->gradient_bytes,
        .weight_bytes = model->weight_bytes,
        .exchange_bytes = exchange_bytes(model, lanes, ranks),
        .overlap = overlap,
        .gather_overlaps = gather_overlaps,
        .lanes = lanes,
    };
    divide(model, mine * model->sample_seconds, (double)busiest.count * (double)model->accumulation, bucket,
        work);
    return LS_OK;
}
