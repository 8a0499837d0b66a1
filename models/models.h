// Private to the layer: the constructor of each kind of model.
#ifndef LOCKSTEP_MODELS_MODELS_H
#define LOCKSTEP_MODELS_MODELS_H

#include "models/model.h"

// Each fills its own part of a model whose device, shape, loss_kind and max_rows are given in `base`.
LsStatus ls_mlp_create(const LsConfig *config, const LsModel *base, LsModel **out);
LsStatus ls_gpt_create(const LsConfig *config, const LsModel *base, LsModel **out);
LsStatus ls_resnet_create(const LsConfig *config, const LsModel *base, LsModel **out);

// Outputs of a model that computes them all, and where what the loss makes of them goes.
typedef struct LsOutputLoss {
    const void *outputs; // [rows][outputs] F32
    float smoothing;
    void *gradient; // [rows][outputs] F32
    void *rounded;  // [rows][outputs] of `type`: the same as an operand of products; of F32 it is `gradient`
    LsDtype type;
    float *row_loss; // [rows]
} LsOutputLoss;

// See LsModelOps.loss.
LsStatus ls_model_loss(const LsModel *model, const LsOutputLoss *outputs, const LsBatch *batch,
    float gradient_scale, const float *loss_scale, float *loss_sum);

#endif
