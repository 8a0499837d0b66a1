// The loss of models that compute all their outputs in the forward pass.
#include "models.h"

static LsStatus call_loss(const LsModel *model, const LsLossArgs *args)
{
    const LsDeviceOps *ops = model->device->ops;
    switch (model->loss_kind) {
    case LS_LOSS_CROSS_ENTROPY:
        return ops->cross_entropy(model->device, args);
    case LS_LOSS_BINARY_CROSS_ENTROPY:
        return ops->binary_cross_entropy(model->device, args);
    case LS_LOSS_MSE:
        return ops->mean_squared_error(model->device, args);
    case LS_LOSS_AUTO:
        break;
    }
    return LS_FAIL(LS_INTERNAL, "the model has no loss");
}

LsStatus ls_model_loss(const LsModel *model, const LsOutputLoss *outputs, const LsBatch *batch,
    float gradient_scale, const float *loss_scale, float *loss_sum)
{
    const LsDeviceOps *ops = model->device->ops;
    LsLossArgs args = {
        .rows = batch->rows,
        .columns = model->shape.outputs,
        .outputs = outputs->outputs,
        .type = LS_F32,
        .labels = batch->labels,
        .targets = batch->targets,
        .smoothing = outputs->smoothing,
        .gradient_scale = gradient_scale,
        .loss_scale = loss_scale,
        .row_loss = outputs->row_loss,
        .gradient = gradient_scale != 0 ? outputs->gradient : NULL,
    };
    LS_TRY(call_loss(model, &args));
    if (loss_sum) {
        LsSum sum = {.n = batch->rows, .x = outputs->row_loss, .y = loss_sum, .accumulate = true};
        LS_TRY(ops->sum(model->device, &sum));
    }
    if (gradient_scale == 0 || outputs->type == LS_F32)
        return LS_OK;
    LsCast cast = {
        .n = batch->rows * model->shape.outputs,
        .from = outputs->gradient,
        .from_type = LS_F32,
        .to = outputs->rounded,
        .to_type = outputs->type,
    };
    return ops->cast(model->device, &cast);
}
