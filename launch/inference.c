#include "inference.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "train/batch.h"

// An option that makes another model of it cannot be set here.
static LsStatus check_identity(const LsConfig *before, const LsConfig *after)
{
    size_t count = 0;
    const LsOption *options = ls_options(&count);
    for (size_t i = 0; i < count; i++) {
        char old_value[LS_CONFIG_TEXT], new_value[LS_CONFIG_TEXT];
        ls_option_text(before, &options[i], old_value, sizeof old_value);
        ls_option_text(after, &options[i], new_value, sizeof new_value);
        if (strncmp(options[i].name, "model.", 6) == 0 && options[i].class_ == LS_CLASS_IDENTITY &&
            strcmp(old_value, new_value) != 0)
            return LS_FAIL(LS_CHECKPOINT, "%s is %s in the checkpoint and cannot be %s", options[i].name,
                old_value, new_value);
    }
    return LS_OK;
}

static LsStatus read_config(LsInference *inference, const LsTextList *settings)
{
    LS_TRY(ls_checkpoint_config(inference->checkpoint, &inference->config));
    LsConfig *before = NULL;
    LS_TRY(ls_memory_allocate(sizeof *before, (void **)&before));
    *before = inference->config;
    LsStatus status = ls_launch_override(settings, &inference->config);
    if (status == LS_OK)
        status = check_identity(before, &inference->config);
    free(before);
    return status;
}

static LsStatus describe_data(LsInference *inference, const char *directory)
{
    const json_t *schema = ls_checkpoint_data_schema(inference->checkpoint);
    if (!json_is_object(schema))
        return LS_FAIL(LS_CHECKPOINT, "%s stores no description of its data", directory);
    LS_TRY(ls_dataset_describe(schema, directory, &inference->described));
    LS_TRY(ls_data_shape(&inference->config, ls_dataset_info(inference->described), &inference->shape));
    inference->rows = ls_evaluation_rows(&inference->config, &inference->shape);
    return LS_OK;
}

// The products that training chose, so that the same outputs come out; on another device they say nothing.
static LsStatus open_device(LsInference *inference, int local_rank)
{
    LS_TRY(ls_device_open_configured(&inference->config, local_rank, 0, &inference->device));
    if (!inference->config.runtime.autotune)
        return LS_OK;
    LsDevice *device = inference->device;
    LsStatus status = device->ops->choose(device, ls_checkpoint_algorithms(inference->checkpoint));
    return status == LS_BAD_DATA ? ls_status_adopt(LS_CHECKPOINT, ls_status_message()) : status;
}

static LsStatus build_model(LsInference *inference)
{
    const LsConfig *config = &inference->config;
    LS_TRY(ls_model_create(config, &inference->shape, inference->device, inference->rows, &inference->model));
    return ls_checkpoint_matches(inference->checkpoint, &inference->model->parameters);
}

// Reads the F32 master weights and rounds them to the type of the products.
static LsStatus upload_weights(LsInference *inference, float *host, float *master)
{
    LsDevice *device = inference->device;
    const LsParameters *parameters = &inference->model->parameters;
    size_t elements = parameters->blocks * LS_BLOCK;
    const char *group = ls_checkpoint_model_group(inference->checkpoint, inference->config.eval.average);
    LS_TRY(ls_checkpoint_read(inference->checkpoint, parameters, group, 0, parameters->blocks, host));
    LS_TRY(device->ops->copy_in(device, master, host, elements * sizeof(float)));
    LS_TRY(device->ops->cast(device, &(LsCast){.n = elements,
                                         .from = master,
                                         .from_type = LS_F32,
                                         .to = inference->weights,
                                         .to_type = ls_device_compute_type(device)}));
    return device->ops->synchronize(device);
}

static LsStatus load_weights(LsInference *inference)
{
    LsDevice *device = inference->device;
    size_t elements = inference->model->parameters.blocks * LS_BLOCK;
    void *host = NULL, *master = NULL;
    size_t element = ls_dtype_size(ls_device_compute_type(device));
    LS_TRY(device->ops->allocate(device, elements * element, &inference->weights));
    LsStatus status = device->ops->allocate_host(device, elements * sizeof(float), &host);
    if (status == LS_OK)
        status = device->ops->allocate(device, elements * sizeof(float), &master);
    if (status == LS_OK)
        status = upload_weights(inference, host, master);
    if (master)
        device->ops->release(device, master);
    if (host)
        device->ops->release_host(device, host);
    return status;
}

LsStatus ls_inference_open(const char *named, const LsTextList *settings, LsInference *out)
{
    char directory[LS_PATH_MAX];
    memset(out, 0, sizeof *out);
    LS_TRY(ls_checkpoint_find(named, directory));
    LS_TRY(ls_checkpoint_open(directory, &out->checkpoint));
    LS_TRY(read_config(out, settings));
    return describe_data(out, directory);
}

LsStatus ls_inference_load(LsInference *inference, int local_rank)
{
    LS_TRY(open_device(inference, local_rank));
    LS_TRY(build_model(inference));
    return load_weights(inference);
}

void ls_inference_close(LsInference *inference)
{
    if (inference->weights)
        inference->device->ops->release(inference->device, inference->weights);
    ls_model_destroy(inference->model);
    ls_device_close(inference->device);
    ls_dataset_close(inference->described);
    ls_checkpoint_close(inference->checkpoint);
    memset(inference, 0, sizeof *inference);
}
