// Activations of the ResNet: what each unit keeps for the backward pass, and what all share.
#include "resnet.h"

#include "base/memory.h"

// rows × columns elements; without a device their size only.
static LsStatus reserve_elements(LsResnet *resnet, size_t rows, size_t columns, size_t element, void *out)
{
    LsModel *model = &resnet->base;
    size_t bytes, total;
    if (!ls_size_multiply(rows, columns, &bytes) || !ls_size_multiply(bytes, element, &bytes) ||
        !ls_size_add(model->activation_bytes, bytes, &total))
        return LS_FAIL(LS_CONFIG,
            "activations of %zu images of %zu values are too large; use a smaller batch", rows, columns);
    void *memory = NULL;
    if (model->device)
        LS_TRY(model->device->ops->allocate(model->device, bytes, &memory));
    *(void **)out = memory;
    model->activation_bytes = total;
    return LS_OK;
}

// [max_rows][columns] of a type.
static LsStatus reserve(LsResnet *resnet, size_t columns, LsDtype type, void *out)
{
    return reserve_elements(resnet, resnet->base.max_rows, columns, ls_dtype_size(type), out);
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

// Values of an image that go into a unit and come out of it.
static size_t values_in(const LsResnetUnit *unit)
{
    return unit->shape.window.height * unit->shape.window.width * unit->shape.in;
}

static size_t values_out(const LsResnetUnit *unit)
{
    return unit->high * unit->wide * unit->shape.out;
}

// output: where it goes, NULL: to memory of its own.
static LsStatus reserve_unit(LsResnet *resnet, const void *input, void *output, LsResnetUnit *unit)
{
    unit->input = input;
    unit->output = output;
    LS_TRY(reserve(resnet, values_out(unit), resnet->type, &unit->convolved));
    if (!output)
        LS_TRY(reserve(resnet, values_out(unit), resnet->type, &unit->output));
    LS_TRY(reserve_elements(resnet, 1, unit->shape.out, sizeof(float), &unit->mean));
    return reserve_elements(resnet, 1, unit->shape.out, sizeof(float), &unit->variance);
}

static LsStatus reserve_block(LsResnet *resnet, const void *input, LsResnetBlock *block)
{
    const void *from = input;
    for (size_t u = 0; u < block->units; u++) {
        LS_TRY(reserve_unit(resnet, from, NULL, &block->unit[u]));
        from = block->unit[u].output;
    }
    if (!block->projects)
        return LS_OK;
    return reserve_unit(resnet, input, ls_resnet_last(block)->output, &block->shortcut);
}

static LsStatus reserve_pool(LsResnet *resnet)
{
    size_t values = resnet->pooled_places * resnet->stem.shape.out;
    LS_TRY(reserve(resnet, values, resnet->type, &resnet->pooled));
    return reserve(resnet, values, LS_U8, &resnet->pool_place);
}

// What units need of the shared memory.
typedef struct Shared {
    size_t gradient; // values of an image
    size_t scratch;  // bytes
    size_t library;  // bytes, of a GPU's own
} Shared;

static void count_unit(const LsResnet *resnet, const LsResnetUnit *unit, Shared *shared)
{
    size_t places = resnet->base.max_rows * unit->high * unit->wide;
    size_t input = unit == &resnet->stem ? 0 : values_in(unit);
    shared->gradient = larger(shared->gradient, larger(input, values_out(unit)));
    shared->scratch = larger(shared->scratch, ls_convolution_scratch(&unit->shape));
    shared->scratch = larger(shared->scratch, ls_batch_norm_scratch(places, unit->shape.out));
    shared->library = larger(shared->library, ls_convolution_library_bytes(&unit->shape));
}

static LsStatus reserve_shared(LsResnet *resnet)
{
    Shared shared = {0};
    count_unit(resnet, &resnet->stem, &shared);
    for (size_t b = 0; b < resnet->blocks; b++) {
        const LsResnetBlock *block = &resnet->block[b];
        for (size_t u = 0; u < block->units; u++)
            count_unit(resnet, &block->unit[u], &shared);
        if (block->projects)
            count_unit(resnet, &block->shortcut, &shared);
    }
    resnet->base.library_bytes = shared.library;
    for (size_t g = 0; g < LS_RESNET_GRADIENTS; g++)
        LS_TRY(reserve(resnet, shared.gradient, resnet->type, &resnet->gradient[g]));
    return reserve_elements(resnet, 1, shared.scratch, 1, &resnet->scratch);
}

static LsStatus reserve_output(LsResnet *resnet)
{
    size_t outputs = resnet->base.shape.outputs;
    LS_TRY(reserve(resnet, resnet->features, resnet->type, &resnet->averaged));
    LS_TRY(reserve(resnet, resnet->features, resnet->type, &resnet->averaged_gradient));
    LS_TRY(reserve(resnet, outputs, LS_F32, &resnet->outputs));
    LS_TRY(reserve(resnet, outputs, LS_F32, &resnet->output_gradient));
    resnet->output_rounded = resnet->output_gradient;
    if (resnet->type != LS_F32)
        LS_TRY(reserve(resnet, outputs, resnet->type, &resnet->output_rounded));
    return reserve(resnet, 1, LS_F32, &resnet->row_loss);
}

LsStatus ls_resnet_reserve(LsResnet *resnet)
{
    LS_TRY(reserve_unit(resnet, NULL, NULL, &resnet->stem));
    const void *from = resnet->stem.output;
    if (resnet->pools) {
        LS_TRY(reserve_pool(resnet));
        from = resnet->pooled;
    }
    for (size_t b = 0; b < resnet->blocks; b++) {
        LS_TRY(reserve_block(resnet, from, &resnet->block[b]));
        from = ls_resnet_last(&resnet->block[b])->output;
    }
    LS_TRY(reserve_shared(resnet));
    return reserve_output(resnet);
}

// ---- Release --------------------------------------------------------------------------------------------

static void release(LsResnet *resnet, void *memory)
{
    resnet->base.device->ops->release(resnet->base.device, memory);
}

static void release_unit(LsResnet *resnet, LsResnetUnit *unit, bool owns_output)
{
    release(resnet, unit->variance);
    release(resnet, unit->mean);
    if (owns_output)
        release(resnet, unit->output);
    release(resnet, unit->convolved);
}

void ls_resnet_release(LsResnet *resnet)
{
    release(resnet, resnet->row_loss);
    if (resnet->output_rounded != resnet->output_gradient)
        release(resnet, resnet->output_rounded);
    void *memory[] = {resnet->output_gradient, resnet->outputs, resnet->averaged_gradient, resnet->averaged,
        resnet->scratch};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        release(resnet, memory[i]);
    for (size_t g = LS_RESNET_GRADIENTS; g-- > 0;)
        release(resnet, resnet->gradient[g]);
    for (size_t b = resnet->blocks; b-- > 0;) {
        LsResnetBlock *block = &resnet->block[b];
        release_unit(resnet, &block->shortcut, false);
        for (size_t u = LS_RESNET_UNITS; u-- > 0;)
            release_unit(resnet, &block->unit[u], true);
    }
    release(resnet, resnet->pool_place);
    release(resnet, resnet->pooled);
    release_unit(resnet, &resnet->stem, true);
}
