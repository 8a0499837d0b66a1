// From a checkpoint to a safetensors file, tensor by tensor.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "models/huggingface.h"
#include "train/weights.h"
#include "weights_layout.h"

// What a tensor of the file is made from.
typedef struct Origin {
    size_t parameter;
    bool transposed;
    size_t part;                // of statistics: 0 the mean, 1 the variance
    char name[LS_NAME_MAX + 8]; // with the end that a part has
} Origin;

typedef struct Export {
    const LsWeightsExport *options;
    size_t count;
    LsFileTensor *tensor; // [count]
    Origin *origin;       // [count]
    float *blocks;        // one parameter as the checkpoint has it, in whole blocks
} Export;

// Reads one parameter and brings it into the file's layout.
static LsStatus read_values(void *context, size_t index, float *out)
{
    const Export *export = context;
    const LsParameters *parameters = export->options->parameters;
    const Origin *origin = &export->origin[index];
    const LsParameter *parameter = &parameters->list[origin->parameter];
    size_t blocks = ls_round_up(parameter->elements, LS_BLOCK) / LS_BLOCK;
    const LsCheckpoint *checkpoint = export->options->checkpoint;
    const char *group = ls_checkpoint_model_group(checkpoint, export->options->averaged);
    LS_TRY(ls_checkpoint_read(
        checkpoint, parameters, group, parameter->offset / LS_BLOCK, blocks, export->blocks));
    if (parameter->statistics)
        for (size_t c = 0; c < parameter->shape[0]; c++)
            out[c] = export->blocks[2 * c + origin->part];
    else if (origin->transposed)
        ls_weights_transpose(export->blocks, parameter->shape[0], parameter->shape[1], out);
    else
        memcpy(out, export->blocks, parameter->elements * sizeof *out);
    return LS_OK;
}

// Parameter `index` as it is in the file; part: of statistics.
static void describe(Export *export, size_t index, size_t part)
{
    static const char *const ends[] = {LS_HUGGINGFACE_MEAN, LS_HUGGINGFACE_VARIANCE};
    const LsParameter *parameter = &export->options->parameters->list[index];
    LsFileTensor *tensor = &export->tensor[export->count];
    Origin *origin = &export->origin[export->count++];
    char name[LS_NAME_MAX];
    ls_huggingface_name(parameter->name, name, &origin->transposed);
    snprintf(origin->name, sizeof origin->name, "%s%s", name, parameter->statistics ? ends[part] : "");
    origin->parameter = index;
    origin->part = part;
    tensor->name = origin->name;
    tensor->dimensions = parameter->statistics ? 1 : parameter->dimensions;
    for (int d = 0; d < tensor->dimensions; d++)
        tensor->shape[d] = parameter->shape[origin->transposed ? parameter->dimensions - 1 - d : d];
}

static LsStatus prepare(Export *export)
{
    const LsParameters *parameters = export->options->parameters;
    size_t largest = 0, most = 2 * parameters->count;
    LS_TRY(ls_memory_allocate(most * sizeof *export->tensor, (void **)&export->tensor));
    LS_TRY(ls_memory_allocate(most * sizeof *export->origin, (void **)&export->origin));
    for (size_t i = 0; i < parameters->count; i++) {
        for (size_t part = 0; part < (parameters->list[i].statistics ? 2 : 1); part++)
            describe(export, i, part);
        size_t elements = parameters->list[i].elements;
        largest = elements > largest ? elements : largest;
    }
    return ls_memory_allocate(ls_round_up(largest, LS_BLOCK) * sizeof(float), (void **)&export->blocks);
}

LsStatus ls_weights_export(const LsWeightsExport *options, const char *path)
{
    Export export = {.options = options};
    LsStatus status = prepare(&export);
    if (status == LS_OK)
        status = ls_safetensors_write(path, &(LsSafetensorsContent){.type = options->type,
                                                .count = export.count,
                                                .tensor = export.tensor,
                                                .metadata = options->metadata,
                                                .values = read_values,
                                                .context = &export});
    free(export.blocks);
    free(export.origin);
    free(export.tensor);
    return status;
}
