#include "models/model.h"

#include "models.h"

// The loss that train.loss means for targets of this shape.
static LsStatus resolve_loss(int requested, const LsDataShape *shape, LsLossKind *out)
{
    LsLossKind kind = (LsLossKind)requested;
    if (kind == LS_LOSS_AUTO)
        kind = shape->classes || shape->window ? LS_LOSS_CROSS_ENTROPY : LS_LOSS_MSE;
    if (shape->window && kind != LS_LOSS_CROSS_ENTROPY)
        return LS_FAIL(LS_CONFIG, "train.loss: the data's targets are tokens, which need cross-entropy");
    if (shape->classes && kind != LS_LOSS_CROSS_ENTROPY)
        return LS_FAIL(LS_CONFIG, "train.loss: the data's targets are %zu classes, which need cross-entropy",
            shape->outputs);
    if (!shape->classes && !shape->window && kind == LS_LOSS_CROSS_ENTROPY)
        return LS_FAIL(LS_CONFIG, "train.loss: cross-entropy needs class labels, the data's targets are "
                                  "numbers; use mse or binary_cross_entropy");
    *out = kind;
    return LS_OK;
}

// Windows of tokens are for language models, and they for nothing else.
static LsStatus check_kind(const LsConfig *config, const LsModel *base)
{
    bool language = config->model.kind == LS_MODEL_GPT;
    if (language && base->shape.window == 0)
        return LS_FAIL(LS_CONFIG,
            "model.kind gpt needs a data set of tokens, as lockstep data import text writes it; this one has "
            "samples of %zu features",
            base->shape.features);
    if (!language && base->shape.window > 0)
        return LS_FAIL(LS_CONFIG, "the data set holds tokens, for which model.kind must be gpt");
    return LS_OK;
}

static LsStatus check(const LsConfig *config, const LsModel *base)
{
    LS_TRY(check_kind(config, base));
    if (base->shape.window > 0 && base->max_rows > 0)
        return LS_OK;
    if (base->shape.features == 0 || base->shape.outputs == 0 || base->max_rows == 0)
        return LS_FAIL(LS_INTERNAL, "a model needs features, outputs and rows, it got %zu, %zu and %zu",
            base->shape.features, base->shape.outputs, base->max_rows);
    if (base->loss_kind == LS_LOSS_CROSS_ENTROPY && base->shape.outputs < 2)
        return LS_FAIL(
            LS_CONFIG, "cross-entropy needs at least 2 classes, the data has %zu", base->shape.outputs);
    if (base->loss_kind != LS_LOSS_CROSS_ENTROPY && config->train.label_smoothing > 0)
        return LS_FAIL(LS_CONFIG, "train.label_smoothing: only cross-entropy smooths labels; set it to 0");
    return LS_OK;
}

static LsStatus construct(const LsConfig *config, const LsModel *base, LsModel **out)
{
    switch ((LsModelKind)config->model.kind) {
    case LS_MODEL_MLP:
        return ls_mlp_create(config, base, out);
    case LS_MODEL_GPT:
        return ls_gpt_create(config, base, out);
    case LS_MODEL_RESNET:
        return ls_resnet_create(config, base, out);
    }
    return LS_FAIL(LS_INTERNAL, "model.kind has no constructor for value %d", config->model.kind);
}

LsStatus ls_model_create(
    const LsConfig *config, const LsDataShape *shape, LsDevice *device, size_t max_rows, LsModel **out)
{
    LsModel base = {.device = device, .shape = *shape, .max_rows = max_rows};
    LS_TRY(resolve_loss(config->train.loss, shape, &base.loss_kind));
    LS_TRY(check(config, &base));
    LsModel *model = NULL;
    LS_TRY(construct(config, &base, &model));
    if (config->optimizer.decay_biases)
        ls_parameters_decay_all(&model->parameters);
    LsStatus status = ls_parameters_freeze(&model->parameters, config->train.freeze);
    if (status != LS_OK) {
        ls_model_destroy(model);
        return status;
    }
    *out = model;
    return LS_OK;
}

void ls_model_destroy(LsModel *model)
{
    if (model)
        model->ops->destroy(model);
}

LsStatus ls_model_need(const LsModel *model, size_t end)
{
    return model->need ? model->need(model->need_context, end) : LS_OK;
}

float *ls_model_gradient(const LsModel *model, float *gradients, size_t offset)
{
    const LsGradientPlaces *places = model->places;
    if (!places)
        return gradients + offset;
    size_t i = 0;
    while (places->part[i].first > offset) // the last part begins at 0
        i++;
    return gradients + places->part[i].place + (offset - places->part[i].first);
}
