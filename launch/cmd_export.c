// lockstep export
#include "command.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "data/tokenizer.h"
#include "inference.h"
#include "train/weights.h"

typedef struct ExportArguments {
    const char *checkpoint, *output;
    LsTextList settings;
    int format, type;
} ExportArguments;

typedef struct Export {
    LsInference inference;
    LsModel *model;         // without a device: the table of parameters
    LsTokenizer *tokenizer; // NULL: the checkpoint has none
    LsGptSizes sizes;
    bool gpt, bytes;
    json_t *metadata;
    LsDtype type;
} Export;

static LsStatus read_arguments(LsInvocation *invocation, ExportArguments *a)
{
    static const char *const formats[] = {"safetensors", NULL};
    static const char *const types[] = {[LS_F32] = "f32", [LS_BF16] = "bf16", [LS_F16] = "f16", NULL};
    const LsFlag flags[] = {
        {"checkpoint", 0, LS_FLAG_TEXT, &a->checkpoint, "DIR",
            "A checkpoint, or a run: then its newest checkpoint.", 0, NULL},
        {"to", 0, LS_FLAG_CHOICE, &a->format, "FORMAT", "safetensors (default).", 0, formats},
        {"output", 'o', LS_FLAG_TEXT, &a->output, "OUT",
            "A file when it ends in .safetensors; else a directory with all that transformers load.", 0,
            NULL},
        {"type", 0, LS_FLAG_CHOICE, &a->type, "TYPE",
            "f32 (default: nothing is lost), f16 or bf16, to which the weights are rounded.", 0, types},
        {"set", 0, LS_FLAG_LIST, &a->settings, "A.B=V",
            "Sets an option over the checkpoint's configuration: eval.average=false writes the newest "
            "weights where "
            "there are averaged ones; may be repeated.",
            0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, 0));
    if (!invocation->helped && (!a->checkpoint || !a->output))
        return LS_FAIL(LS_USAGE, "%s is missing; see lockstep export --help",
            a->checkpoint ? "-o OUT" : "--checkpoint DIR");
    return LS_OK;
}

// ---- What is exported -----------------------------------------------------------------------------------

static LsStatus open_tokenizer(Export *export)
{
    const json_t *json = json_object_get(ls_dataset_info(export->inference.described)->schema, "tokenizer");
    if (!json)
        return LS_OK;
    const char *kind = json_string_value(json_object_get(json, "kind"));
    export->bytes = kind && strcmp(kind, "bytes") == 0;
    return ls_dataset_tokenizer(export->inference.described, &export->tokenizer);
}

static LsStatus open_checkpoint(Export *export, const ExportArguments *a)
{
    LsInference *inference = &export->inference;
    LS_TRY(ls_inference_open(a->checkpoint, &a->settings, inference));
    const LsConfig *config = &inference->config;
    LS_TRY(ls_model_create(config, &inference->shape, NULL, 1, &export->model));
    LS_TRY(ls_checkpoint_matches(inference->checkpoint, &export->model->parameters));
    export->gpt = config->model.kind == LS_MODEL_GPT;
    export->sizes = (LsGptSizes){.layers = (size_t)config->model.layers,
        .heads = (size_t)config->model.heads,
        .width = (size_t)config->model.width,
        .positions = inference->shape.window,
        .vocabulary = inference->shape.vocabulary};
    return export->gpt ? open_tokenizer(export) : LS_OK;
}

// ---- Metadata -------------------------------------------------------------------------------------------

// Transformers want to be told the framework that the layout is of; heads and tokenizer are for ourselves,
// where the file travels alone.
static LsStatus describe_gpt(Export *export)
{
    char heads[32];
    snprintf(heads, sizeof heads, "%zu", export->sizes.heads);
    export->metadata = json_pack("{s:s, s:s}", "format", "pt", LS_WEIGHTS_HEADS, heads);
    if (export->bytes)
        json_object_set_new(export->metadata, LS_WEIGHTS_TOKENIZER, json_string("bytes"));
    return export->metadata ? LS_OK : LS_FAIL(LS_INTERNAL, "no memory for the file's metadata");
}

// What makes this model and no other: options that a resume may not change, and what the data look like.
static LsStatus describe_model(Export *export)
{
    size_t count = 0;
    const LsOption *options = ls_options(&count);
    const json_t *schema = ls_checkpoint_data_schema(export->inference.checkpoint);
    json_t *config = json_object();
    for (size_t i = 0; i < count; i++) {
        char value[LS_CONFIG_TEXT];
        ls_option_text(&export->inference.config, &options[i], value, sizeof value);
        if (options[i].class_ == LS_CLASS_IDENTITY)
            json_object_set_new(config, options[i].name, json_string(value));
    }
    json_t *model = json_pack("{s:o, s:O}", "config", config, "data", schema);
    char *text = model ? ls_json_canonical(model) : NULL;
    json_decref(model);
    export->metadata = text ? json_pack("{s:s}", LS_WEIGHTS_MODEL, text) : NULL;
    free(text);
    return export->metadata ? LS_OK : LS_FAIL(LS_INTERNAL, "no memory for the file's metadata");
}

// ---- Files ----------------------------------------------------------------------------------------------

static LsStatus write_weights(const Export *export, const char *path)
{
    return ls_weights_export(&(LsWeightsExport){.checkpoint = export->inference.checkpoint,
                                 .parameters = &export->model->parameters,
                                 .type = export->type,
                                 .averaged = export->inference.config.eval.average,
                                 .metadata = export->metadata},
        path);
}

static LsStatus write_config(const Export *export, const char *directory)
{
    char path[LS_PATH_MAX];
    size_t last = export->sizes.vocabulary - 1;
    uint32_t end = export->tokenizer ? ls_tokenizer_end_of_text(export->tokenizer) : (uint32_t)last;
    LS_TRY(ls_path_join(path, directory, LS_WEIGHTS_CONFIG));
    json_t *config = ls_weights_config(&export->sizes, export->type, end);
    LsStatus status = config ? ls_json_write(path, config) : LS_FAIL(LS_INTERNAL, "%s: out of memory", path);
    json_decref(config);
    return status;
}

// The configuration comes last: without it nobody takes the directory for a model.
static LsStatus write_directory(const Export *export, const char *directory)
{
    char path[LS_PATH_MAX];
    LS_TRY(ls_directory_create(directory));
    LS_TRY(ls_path_join(path, directory, LS_WEIGHTS_NAME));
    LS_TRY(write_weights(export, path));
    if (export->tokenizer && !export->bytes)
        LS_TRY(ls_tokenizer_write(export->tokenizer, "huggingface", directory));
    return export->gpt ? write_config(export, directory) : LS_OK;
}

static bool is_file_name(const char *output)
{
    static const char suffix[] = ".safetensors";
    size_t length = strlen(output), end = sizeof suffix - 1;
    return length >= end && strcmp(output + length - end, suffix) == 0;
}

static LsStatus export_all(Export *export, const ExportArguments *a)
{
    LS_TRY(open_checkpoint(export, a));
    LS_TRY(export->gpt ? describe_gpt(export) : describe_model(export));
    LS_TRY(is_file_name(a->output) ? write_weights(export, a->output) : write_directory(export, a->output));
    printf("%s: %zu tensors, step %lld\n", a->output, export->model->parameters.count,
        (long long)ls_checkpoint_step(export->inference.checkpoint));
    return LS_OK;
}

static LsStatus run(LsInvocation *invocation)
{
    ExportArguments arguments = {.type = LS_F32};
    LS_TRY(read_arguments(invocation, &arguments));
    if (invocation->helped)
        return LS_OK;
    Export export = {.type = (LsDtype)arguments.type};
    LsStatus status = export_all(&export, &arguments);
    json_decref(export.metadata);
    ls_tokenizer_free(export.tokenizer);
    ls_model_destroy(export.model);
    ls_inference_close(&export.inference);
    return status;
}

const LsCommand ls_command_export = {
    .name = "export",
    .arguments = "--checkpoint DIR -o OUT [--type f32|f16|bf16] [--set A.B=V]...",
    .summary = "writes a checkpoint's weights for other programs",
    .about = "Writes weights as safetensors: a language model in the layout of Hugging Face's GPT-2, which "
             "transformers\n"
             "load, any other model under its own names. lockstep import brings them back.",
    .run = run,
};
