// LARS in a step: each tensor's rate, from squares of weights and gradients that the exchange has brought.
#include <stdlib.h>

#include "base/memory.h"
#include "trainer_state.h"

// Where tensors begin, and which of them adapt: all but biases, normalisations and their statistics, whatever
// decays.
static void describe(const LsParameters *parameters, uint32_t *first, uint8_t *adapts)
{
    for (size_t i = 0; i < parameters->count; i++) {
        first[i] = (uint32_t)(parameters->list[i].offset / LS_BLOCK);
        const LsParameter *parameter = &parameters->list[i];
        adapts[i] = parameter->dimensions > 1 && !parameter->statistics;
    }
    first[parameters->count] = (uint32_t)parameters->blocks;
}

static LsStatus upload(LsDevice *device, const void *host, size_t bytes, void **out)
{
    LS_TRY(device->ops->allocate(device, bytes, out));
    LS_TRY(device->ops->copy_in(device, *out, host, bytes));
    return device->ops->synchronize(device);
}

LsStatus ls_trust_create(LsTrainer *t)
{
    const LsParameters *parameters = &t->model->parameters;
    size_t firsts = (parameters->count + 1) * sizeof *t->trust.first;
    uint32_t *first = NULL;
    if (t->config->optimizer.kind != LS_OPTIMIZER_LARS)
        return LS_OK;
    LS_TRY(ls_memory_allocate(firsts + parameters->count, (void **)&first));
    uint8_t *adapts = (uint8_t *)first + firsts;
    describe(parameters, first, adapts);
    void *memory = NULL;
    LsStatus status = upload(t->device, first, firsts, &memory);
    t->trust.first = memory;
    if (status == LS_OK) {
        memory = NULL;
        status = upload(t->device, adapts, parameters->count, &memory);
        t->trust.adapts = memory;
    }
    free(first);
    LS_TRY(status);
    LS_TRY(ls_device_allocate_zeroed(t->device, parameters->blocks * sizeof *t->trust.ratio, &memory));
    t->trust.ratio = memory;
    return LS_OK;
}

void ls_trust_destroy(LsTrainer *t)
{
    t->device->ops->release(t->device, t->trust.ratio);
    t->device->ops->release(t->device, t->trust.adapts);
    t->device->ops->release(t->device, t->trust.first);
    t->trust = (LsTrust){0};
}

LsStatus ls_trust_decide(LsTrainer *t)
{
    const LsConfig *config = t->config;
    if (!t->trust.ratio)
        return LS_OK;
    return t->device->ops->trust_ratios(t->device, &(LsTrustRatios){.tensors = t->model->parameters.count,
                                                       .first = t->trust.first,
                                                       .adapts = t->trust.adapts,
                                                       .words = t->exchange.words,
                                                       .gradient_index = t->exchange.block_index,
                                                       .weight_index = t->exchange.weight_index,
                                                       .trust = (float)config->optimizer.trust,
                                                       .weight_decay = (float)config->optimizer.weight_decay,
                                                       .epsilon = (float)config->optimizer.epsilon,
                                                       .control = &t->outcomes.device->control,
                                                       .ratio = t->trust.ratio});
}
