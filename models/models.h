// Private to the layer: the constructor of each kind of model.
#ifndef LOCKSTEP_MODELS_MODELS_H
#define LOCKSTEP_MODELS_MODELS_H

#include "models/model.h"

// Each fills its own part of a model whose device, shape, loss_kind and max_rows are given in `base`.
LsStatus ls_mlp_create(const LsConfig *config, const LsModel *base, LsModel **out);
LsStatus ls_gpt_create(const LsConfig *config, const LsModel *base, LsModel **out);

#endif
