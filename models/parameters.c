#include "models/parameters.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "device/operations.h"
#include "device/tensor.h"

static LsStatus reserve_one(LsParameters *table)
{
    if (table->count < table->capacity)
        return LS_OK;
    size_t capacity = table->capacity ? 2 * table->capacity : 16;
    LsParameter *list = realloc(table->list, capacity * sizeof *list);
    if (!list)
        return LS_FAIL(LS_INTERNAL, "no memory for a table of %zu parameters", capacity);
    table->list = list;
    table->capacity = capacity;
    return LS_OK;
}

static LsStatus count_elements(const LsParameter *parameter, size_t *elements)
{
    if (parameter->dimensions < 1 || parameter->dimensions > LS_DIMENSIONS_MAX)
        return LS_FAIL(LS_INTERNAL, "parameter %s has %d dimensions, 1 to %d are possible", parameter->name,
            parameter->dimensions, LS_DIMENSIONS_MAX);
    size_t product = 1;
    for (int d = 0; d < parameter->dimensions; d++)
        if (parameter->shape[d] == 0 || !ls_size_multiply(product, parameter->shape[d], &product))
            return LS_FAIL(LS_CONFIG, "parameter %s is empty or too large: dimension %d is %zu",
                parameter->name, d, parameter->shape[d]);
    *elements = product;
    return LS_OK;
}

LsStatus ls_parameters_add(LsParameters *table, const LsParameter *parameter)
{
    size_t elements = 0, end;
    LS_TRY(count_elements(parameter, &elements));
    size_t reserved = parameter->reserved > elements ? parameter->reserved : elements;
    // The flat buffer is addressed in bytes of F32, so that, too, has to fit.
    size_t offset = table->blocks * LS_BLOCK;
    if (!ls_size_add(offset, reserved, &end) || end > SIZE_MAX / sizeof(float) - LS_BLOCK)
        return LS_FAIL(
            LS_CONFIG, "parameter %s of %zu elements makes the model too large", parameter->name, reserved);
    if (ls_parameters_find(table, parameter->name))
        return LS_FAIL(LS_INTERNAL, "two parameters are called %s", parameter->name);
    LS_TRY(reserve_one(table));
    LsParameter *added = &table->list[table->count++];
    *added = *parameter;
    added->elements = elements;
    added->reserved = reserved;
    added->offset = offset;
    table->blocks = ls_round_up(end, LS_BLOCK) / LS_BLOCK;
    return LS_OK;
}

void ls_parameters_free(LsParameters *table)
{
    free(table->list);
    *table = (LsParameters){0};
}

const LsParameter *ls_parameters_find(const LsParameters *table, const char *name)
{
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->list[i].name, name) == 0)
            return &table->list[i];
    return NULL;
}

size_t ls_parameters_elements(const LsParameters *table)
{
    size_t elements = 0;
    for (size_t i = 0; i < table->count; i++)
        elements += table->list[i].elements;
    return elements;
}

static LsBlockKind kind_of(const LsParameter *parameter)
{
    if (parameter->statistics)
        return LS_KIND_STATISTICS;
    return parameter->decay ? LS_KIND_DECAYED : LS_KIND_PLAIN;
}

void ls_parameters_block_kinds(const LsParameters *table, uint8_t *kind)
{
    for (size_t i = 0; i < table->count; i++) {
        const LsParameter *p = &table->list[i];
        size_t first = p->offset / LS_BLOCK;
        size_t blocks = ls_round_up(p->reserved, LS_BLOCK) / LS_BLOCK;
        memset(kind + first, kind_of(p), blocks);
    }
}

void ls_parameters_decay_all(LsParameters *table)
{
    for (size_t i = 0; i < table->count; i++)
        table->list[i].decay = !table->list[i].statistics;
}

static float initial_value(const LsParameter *parameter, LsRngKey key, uint64_t index, uint64_t element)
{
    switch (parameter->init) {
    case LS_INIT_ONE:
        return 1;
    case LS_INIT_NORMAL:
        return parameter->init_scale * ls_rng_normal(key, index, element);
    case LS_INIT_UNIFORM:
        return parameter->init_scale * (2 * ls_rng_uniform(key, index, element) - 1);
    case LS_INIT_STATISTICS:
        return element % 2 ? 1 : 0;
    case LS_INIT_ZERO:
        break;
    }
    return 0;
}

void ls_parameters_initialize(
    const LsParameters *table, uint64_t seed, size_t first, size_t count, float *out)
{
    LsRngKey key = ls_rng_key(seed, LS_RNG_INITIALIZE);
    memset(out, 0, count * sizeof *out);
    for (size_t t = 0; t < table->count; t++) {
        const LsParameter *p = &table->list[t];
        size_t begin = p->offset > first ? p->offset : first;
        size_t end = p->offset + p->elements < first + count ? p->offset + p->elements : first + count;
        for (size_t i = begin; i < end; i++)
            out[i - first] = initial_value(p, key, t, i - p->offset);
    }
}
