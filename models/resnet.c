// ResNet (He et al., "Deep residual learning for image recognition", CVPR 2016) in the version called 1.5,
// where a bottleneck's 3 x 3 convolution has the stride: a stem, four stages of blocks, the mean over places,
// and one linear layer to the outputs.
//
// Tensors have torchvision's names; filters are [out][kernel][kernel][in]. Filters start normal with
// deviation sqrt(2 / (out · kernel²)) (He et al., ICCV 2015, by fan-out: keeps the variance of gradients),
// the output layer uniform in ±1 / sqrt(in). Filters and the output layer's weights decay, biases and
// normalisations do not. Running mean and variance of a normalisation are one tensor of pairs.
//
// A block's shortcut comes before its units, since backward comes to it last.
#include "resnet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"

enum { STAGES = 4, FIRST_CHANNELS = 64, EXPANSION = 4 };

// The field's sizes of each depth.
typedef struct Depth {
    size_t blocks[STAGES];
    bool bottleneck;
} Depth;

static const Depth depths[] = {
    [LS_RESNET_18] = {{2, 2, 2, 2}, false},
    [LS_RESNET_34] = {{3, 4, 6, 3}, false},
    [LS_RESNET_50] = {{3, 4, 6, 3}, true},
};

// ---- Parameters -----------------------------------------------------------------------------------------

static LsStatus add_parameter(LsResnet *resnet, const LsParameter *parameter, size_t *offset)
{
    LsParameters *table = &resnet->base.parameters;
    LS_TRY(ls_parameters_add(table, parameter));
    *offset = table->list[table->count - 1].offset;
    return LS_OK;
}

static LsStatus add_filters(LsResnet *resnet, const char *name, LsResnetUnit *unit)
{
    size_t kernel = unit->shape.window.kernel, out = unit->shape.out;
    LsParameter weight = {
        .dimensions = 4,
        .shape = {out, kernel, kernel, unit->shape.in},
        .decay = true,
        .stage = true,
        .init = LS_INIT_NORMAL,
        .init_scale = (float)sqrt(2.0 / ((double)out * (double)(kernel * kernel))),
    };
    snprintf(weight.name, sizeof weight.name, "%s.weight", name);
    return add_parameter(resnet, &weight, &unit->weight);
}

static LsStatus add_norm(LsResnet *resnet, const char *name, LsInit gamma_init, LsResnetUnit *unit)
{
    size_t channels = unit->shape.out;
    LsParameter gamma = {.dimensions = 1, .shape = {channels}, .init = gamma_init};
    LsParameter beta = {.dimensions = 1, .shape = {channels}, .init = LS_INIT_ZERO};
    LsParameter running = {
        .dimensions = 2, .shape = {channels, 2}, .statistics = true, .init = LS_INIT_STATISTICS};
    snprintf(gamma.name, sizeof gamma.name, "%s.weight", name);
    snprintf(beta.name, sizeof beta.name, "%s.bias", name);
    snprintf(running.name, sizeof running.name, "%s.running", name);
    LS_TRY(add_parameter(resnet, &gamma, &unit->gamma));
    LS_TRY(add_parameter(resnet, &beta, &unit->beta));
    LS_TRY(add_parameter(resnet, &running, &unit->running));
    unit->end = resnet->base.parameters.blocks * LS_BLOCK;
    return LS_OK;
}

// ---- Layers ---------------------------------------------------------------------------------------------

// What flows from layer to layer, while they are laid out.
typedef struct Flow {
    size_t height, width, channels;
} Flow;

// Names of a unit's tensors, torchvision's.
typedef struct Names {
    char convolution[LS_NAME_MAX / 2], norm[LS_NAME_MAX / 2];
} Names;

static LsStatus add_unit(LsResnet *resnet, const Names *names, size_t out, size_t kernel, size_t stride,
    LsInit gamma, Flow *flow, LsResnetUnit *unit)
{
    unit->shape = (LsConvolutionShape){
        .window = {resnet->base.max_rows, flow->height, flow->width, kernel, stride, (kernel - 1) / 2},
        .in = flow->channels,
        .out = out,
    };
    unit->high = ls_image_places(&unit->shape.window, flow->height);
    unit->wide = ls_image_places(&unit->shape.window, flow->width);
    double passes = unit == &resnet->stem ? 2 : 3; // nobody needs the gradient of the images
    resnet->base.flops_per_sample += 2 * passes * (double)(unit->high * unit->wide) *
                                     (double)(kernel * kernel) * (double)flow->channels * (double)out;
    *flow = (Flow){unit->high, unit->wide, out};
    LS_TRY(add_filters(resnet, names->convolution, unit));
    return add_norm(resnet, names->norm, gamma, unit);
}

static LsStatus add_stem(LsResnet *resnet, const LsConfig *config, size_t channels, Flow *flow)
{
    const Names names = {"conv1", "bn1"};
    bool small = config->model.stem == LS_STEM_SMALL;
    LS_TRY(
        add_unit(resnet, &names, channels, small ? 3 : 7, small ? 1 : 2, LS_INIT_ONE, flow, &resnet->stem));
    resnet->stem.activation = LS_RELU;
    resnet->pools = !small;
    if (small)
        return LS_OK;
    resnet->pool = (LsImageWindow){resnet->base.max_rows, flow->height, flow->width, 3, 2, 1};
    flow->height = ls_image_places(&resnet->pool, flow->height);
    flow->width = ls_image_places(&resnet->pool, flow->width);
    resnet->pooled_places = flow->height * flow->width;
    return LS_OK;
}

// Kernel, stride and channels of a block's units.
typedef struct Plan {
    size_t units;
    size_t kernel[LS_RESNET_UNITS], stride[LS_RESNET_UNITS], out[LS_RESNET_UNITS];
} Plan;

static Plan plan_block(bool bottleneck, size_t channels, size_t stride)
{
    if (bottleneck)
        return (Plan){3, {1, 3, 1}, {1, stride, 1}, {channels, channels, EXPANSION * channels}};
    return (Plan){2, {3, 3}, {stride, 1}, {channels, channels}};
}

static LsStatus add_shortcut(LsResnet *resnet, const char *name, const Plan *plan, size_t stride,
    const Flow *from, LsResnetBlock *block)
{
    size_t out = plan->out[plan->units - 1];
    Flow flow = *from;
    Names names;
    block->projects = stride != 1 || from->channels != out;
    if (!block->projects)
        return LS_OK;
    snprintf(names.convolution, sizeof names.convolution, "%s.downsample.0", name);
    snprintf(names.norm, sizeof names.norm, "%s.downsample.1", name);
    return add_unit(resnet, &names, out, 1, stride, LS_INIT_ONE, &flow, &block->shortcut);
}

static LsStatus add_block(LsResnet *resnet, const char *name, const Plan *plan, size_t stride,
    bool zero_gamma, Flow *flow, LsResnetBlock *block)
{
    LS_TRY(add_shortcut(resnet, name, plan, stride, flow, block));
    block->units = plan->units;
    for (size_t u = 0; u < plan->units; u++) {
        Names names;
        bool last = u + 1 == plan->units;
        snprintf(names.convolution, sizeof names.convolution, "%s.conv%zu", name, u + 1);
        snprintf(names.norm, sizeof names.norm, "%s.bn%zu", name, u + 1);
        LS_TRY(add_unit(resnet, &names, plan->out[u], plan->kernel[u], plan->stride[u],
            last && zero_gamma ? LS_INIT_ZERO : LS_INIT_ONE, flow, &block->unit[u]));
        block->unit[u].activation = LS_RELU;
    }
    return LS_OK;
}

static LsStatus add_blocks(LsResnet *resnet, const LsConfig *config, size_t channels, Flow *flow)
{
    const Depth *depth = &depths[config->model.depth];
    LsResnetBlock *block = resnet->block;
    for (size_t s = 0; s < STAGES; s++)
        for (size_t b = 0; b < depth->blocks[s]; b++, block++) {
            char name[LS_NAME_MAX / 4];
            size_t stride = s > 0 && b == 0 ? 2 : 1;
            const Plan plan = plan_block(depth->bottleneck, channels << s, stride);
            snprintf(name, sizeof name, "layer%zu.%zu", s + 1, b);
            LS_TRY(add_block(resnet, name, &plan, stride, config->model.zero_gamma, flow, block));
        }
    return LS_OK;
}

static LsStatus add_output(LsResnet *resnet, const Flow *flow)
{
    size_t outputs = resnet->base.shape.outputs;
    LsParameter weight = {
        .name = "fc.weight",
        .dimensions = 2,
        .shape = {outputs, flow->channels},
        .decay = true,
        .stage = true,
        .init = LS_INIT_UNIFORM,
        .init_scale = (float)(1.0 / sqrt((double)flow->channels)),
    };
    LsParameter bias = {.name = "fc.bias", .dimensions = 1, .shape = {outputs}, .init = LS_INIT_ZERO};
    resnet->features = flow->channels;
    resnet->places = flow->height * flow->width;
    resnet->base.flops_per_sample += 2 * 3 * (double)flow->channels * (double)outputs;
    LS_TRY(add_parameter(resnet, &weight, &resnet->weight));
    return add_parameter(resnet, &bias, &resnet->bias);
}

// What is normalised over a single value becomes zero, and nothing before it would ever learn.
static LsStatus check_places(const LsConfig *config, const Flow *flow)
{
    if (config->train.batch != config->train.lanes * config->train.accumulation ||
        flow->height * flow->width > 1)
        return LS_OK;
    return LS_FAIL(LS_CONFIG,
        "the last stage of model.kind resnet has one place of each of these images, and a microbatch has one "
        "image: nothing to normalise over; make train.batch larger, train.lanes or train.accumulation "
        "smaller, "
        "or set model.stem to small");
}

static LsStatus lay_out(LsResnet *resnet, const LsConfig *config)
{
    const LsDataShape *shape = &resnet->base.shape;
    Flow flow = {shape->height, shape->width, shape->channels};
    size_t channels = (size_t)lround(FIRST_CHANNELS * config->model.width_multiplier);
    LS_TRY(add_stem(resnet, config, channels, &flow));
    LS_TRY(add_blocks(resnet, config, channels, &flow));
    LS_TRY(check_places(config, &flow));
    return add_output(resnet, &flow);
}

// ---- Creation -------------------------------------------------------------------------------------------

static const void *outputs(const LsModel *model)
{
    return ((const LsResnet *)model)->outputs;
}

static LsStatus loss(LsModel *model, const LsBatch *batch, float gradient_scale, const float *loss_scale,
    float *loss_sum, float *row_loss)
{
    LsResnet *resnet = (LsResnet *)model;
    const LsOutputLoss outputs = {
        .outputs = resnet->outputs,
        .smoothing = resnet->smoothing,
        .gradient = resnet->output_gradient,
        .rounded = resnet->output_rounded,
        .type = resnet->type,
        .row_loss = row_loss ? row_loss : resnet->row_loss,
    };
    resnet->statistics_weight = (float)batch->rows * gradient_scale;
    return ls_model_loss(model, &outputs, batch, gradient_scale, loss_scale, loss_sum);
}

static void destroy(LsModel *model)
{
    LsResnet *resnet = (LsResnet *)model;
    if (model->device)
        ls_resnet_release(resnet);
    free(resnet->block);
    ls_parameters_free(&model->parameters);
    free(resnet);
}

static const LsModelOps resnet_ops = {
    .name = "resnet",
    .forward = ls_resnet_forward,
    .loss = loss,
    .backward = ls_resnet_backward,
    .outputs = outputs,
    .destroy = destroy,
};

static LsStatus check(const LsConfig *config, const LsModel *base)
{
    if (base->shape.height == 0 || base->shape.width == 0 || base->shape.channels == 0)
        return LS_FAIL(LS_CONFIG,
            "model.kind resnet needs images, samples of height x width or height x width x channels; the "
            "data "
            "set has %zu features that are none; use mlp",
            base->shape.features);
    if (lround(FIRST_CHANNELS * config->model.width_multiplier) < 1)
        return LS_FAIL(
            LS_CONFIG, "model.width_multiplier %g leaves no channel", config->model.width_multiplier);
    if (base->device && !base->device->ops->convolution)
        return LS_FAIL(LS_UNSUPPORTED, "the %s device has no convolutions; set runtime.device to cpu",
            base->device->ops->name);
    return LS_OK;
}

static size_t count_blocks(const Depth *depth)
{
    size_t blocks = 0;
    for (size_t s = 0; s < STAGES; s++)
        blocks += depth->blocks[s];
    return blocks;
}

LsStatus ls_resnet_create(const LsConfig *config, const LsModel *base, LsModel **out)
{
    LS_TRY(check(config, base));
    size_t blocks = count_blocks(&depths[config->model.depth]);
    LsResnet *resnet = calloc(1, sizeof *resnet);
    LsResnetBlock *block = calloc(blocks, sizeof *block);
    if (!resnet || !block) {
        free(block);
        free(resnet);
        return LS_FAIL(LS_INTERNAL, "no memory for the model's description");
    }
    resnet->base = *base;
    resnet->base.ops = &resnet_ops;
    resnet->type = base->device ? ls_device_compute_type(base->device)
                                : ls_precision_type((LsPrecision)config->runtime.precision);
    resnet->smoothing = (float)config->train.label_smoothing;
    resnet->blocks = blocks;
    resnet->block = block;
    LsStatus status = lay_out(resnet, config);
    if (status == LS_OK)
        status = ls_resnet_reserve(resnet);
    if (status != LS_OK) {
        destroy(&resnet->base);
        return status;
    }
    *out = &resnet->base;
    return LS_OK;
}
