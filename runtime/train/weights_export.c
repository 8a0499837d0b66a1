// From a checkpoint to a safetensors file, tensor by tensor.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "models/huggingface.h"
#include "train/weights.h"
#include "weights_layout.h"

typedef struct Export {
    const LsWeightsExport *options;
    LsFileTensor *tensor;      // [parameters->count]
    char (*name)[LS_NAME_MAX]; // of them
    bool *transposed;
    float *blocks; // one parameter as the checkpoint has it, in whole blocks
} Export;

// Reads one parameter and brings it into the file's layout.
static LsStatus read_values(void *context, size_t index, float *out)
{
    const Export *export = context;
    const LsParameters *parameters = export->options->parameters;
    const LsParameter *parameter = &parameters->list[index];
    size_t blocks = ls_round_up(parameter->elements, LS_BLOCK) / LS_BLOCK;
    const LsCheckpoint *checkpoint = export->options->checkpoint;
    const char *group = ls_checkpoint_model_group(checkpoint, export->options->averaged);
    LS_TRY(ls_checkpoint_read(
        checkpoint, parameters, group, parameter->offset / LS_BLOCK, blocks, export->blocks));
    if (export->transposed[index])
        ls_weights_transpose(export->blocks, parameter->shape[0], parameter->shape[1], out);
    else
        memcpy(out, export->blocks, parameter->elements * sizeof *out);
    return LS_OK;
}

static void describe(Export *export, size_t index)
{
    const LsParameter *parameter = &export->options->parameters->list[index];
    LsFileTensor *tensor = &export->tensor[index];
    ls_huggingface_name(parameter->name, export->name[index], &export->transposed[index]);
    tensor->name = export->name[index];
    tensor->dimensions = parameter->dimensions;
    for (int d = 0; d < parameter->dimensions; d++)
        tensor->shape[d] = parameter->shape[export->transposed[index] ? parameter->dimensions - 1 - d : d];
}

static LsStatus prepare(Export *export)
{
    const LsParameters *parameters = export->options->parameters;
    size_t largest = 0, count = parameters->count;
    LS_TRY(ls_memory_allocate(count * sizeof *export->tensor, (void **)&export->tensor));
    LS_TRY(ls_memory_allocate(count * sizeof *export->name, (void **)&export->name));
    LS_TRY(ls_memory_allocate(count * sizeof *export->transposed, (void **)&export->transposed));
    for (size_t i = 0; i < count; i++) {
        describe(export, i);
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
                                                .count = options->parameters->count,
                                                .tensor = export.tensor,
                                                .metadata = options->metadata,
                                                .values = read_values,
                                                .context = &export});
    free(export.blocks);
    free(export.transposed);
    free(export.name);
    free(export.tensor);
    return status;
}
