// lockstep import
#include "command.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "data/dataset.h"
#include "data/tokenizer.h"
#include "models/model.h"
#include "train/batch.h"
#include "train/weights.h"

typedef struct ImportArguments {
    const char *input, *output, *tokenizer;
    int64_t heads; // 0: not given
} ImportArguments;

typedef struct Import {
    LsComm *comm; // lent
    LsWeights *weights;
    LsConfig config;
    json_t *schema; // what the data would look like
    LsModel *model; // without a device: the table of parameters
    float *values;  // all of them, flat
} Import;

static LsStatus read_arguments(LsInvocation *invocation, ImportArguments *a)
{
    const LsFlag flags[] = {
        {"output", 'o', LS_FLAG_TEXT, &a->output, "RUN",
            "Run directory to make, with a checkpoint of step 0.", 0, NULL},
        {"heads", 0, LS_FLAG_COUNT, &a->heads, "N",
            "Attention heads, where neither config.json nor the file says (default: width / 64).", 1, NULL},
        {"tokenizer", 't', LS_FLAG_TEXT, &a->tokenizer, "T",
            "Tokenizer file (of Lockstep, GPT-2 or tiktoken), or bytes; default: merges.txt beside the file.",
            0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 1, 1));
    if (!invocation->helped && !a->output)
        return LS_FAIL(LS_USAGE, "-o RUN is missing; see lockstep import --help");
    a->input = invocation->inputs ? invocation->inputs[0] : NULL;
    return LS_OK;
}

static const char *file_of(const Import *import)
{
    return ls_safetensors_path(ls_weights_file(import->weights));
}

// ---- GPT-2 ----------------------------------------------------------------------------------------------

static LsStatus choose_heads(const Import *import, const ImportArguments *a, LsGptSizes *sizes)
{
    if (a->heads > 0 && sizes->heads > 0 && (size_t)a->heads != sizes->heads)
        return LS_FAIL(LS_CHECKPOINT, "%s is of a model with %zu heads, not %lld", file_of(import),
            sizes->heads, (long long)a->heads);
    if (a->heads > 0)
        sizes->heads = (size_t)a->heads;
    if (sizes->heads > 0)
        return LS_OK;
    sizes->heads = sizes->width / 64 > 0 ? sizes->width / 64 : 1;
    ls_warn("%s does not say how many attention heads the model has: %zu are taken, of 64 values as in "
            "GPT-2; --heads N sets another number",
        file_of(import), sizes->heads);
    return LS_OK;
}

// What the file has is checked as what a user writes would be.
static LsStatus set_size(Import *import, const char *option, size_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%zu", value);
    LsStatus status = ls_config_set(&import->config, option, text, file_of(import));
    return status == LS_CONFIG ? ls_status_adopt(LS_CHECKPOINT, ls_status_message()) : status;
}

static LsStatus configure_gpt(Import *import, const LsGptSizes *sizes)
{
    LsConfig *config = &import->config;
    config->model.kind = LS_MODEL_GPT;
    LS_TRY(set_size(import, "model.layers", sizes->layers));
    LS_TRY(set_size(import, "model.heads", sizes->heads));
    LS_TRY(set_size(import, "model.width", sizes->width));
    LS_TRY(set_size(import, "model.context", sizes->positions));
    if (config->model.width % config->model.heads != 0)
        return LS_FAIL(LS_CHECKPOINT, "%s: %lld heads do not divide the width, %lld; set --heads N",
            file_of(import), (long long)config->model.heads, (long long)config->model.width);
    config->train.batch = config->train.lanes; // evaluation then needs memory for one window
    return LS_OK;
}

// The tokenizer that was named, or that the weights come with; NULL if none.
static LsStatus find_tokenizer(const Import *import, const char *named, LsTokenizer **out)
{
    if (!named)
        return ls_weights_tokenizer(import->weights, out);
    return strcmp(named, "bytes") == 0 ? ls_tokenizer_bytes(out) : ls_tokenizer_open(named, out);
}

static LsStatus describe_tokens(Import *import, const LsTokenizer *tokenizer, size_t rows)
{
    size_t vocabulary = tokenizer ? ls_tokenizer_vocabulary(tokenizer) : rows;
    if (!ls_weights_vocabulary_fits(rows, vocabulary))
        return LS_FAIL(LS_CHECKPOINT,
            "%s has %zu tokens and the tokenizer %zu: it is another model's; --tokenizer T names the right "
            "one",
            file_of(import), rows, vocabulary);
    if (!tokenizer)
        ls_warn(
            "%s comes without a tokenizer: generate will need one; --tokenizer T adds it", file_of(import));
    return ls_dataset_describe_tokens(vocabulary, tokenizer, &import->schema);
}

static LsStatus describe_gpt(Import *import, const ImportArguments *a)
{
    LsGptSizes sizes;
    LsTokenizer *tokenizer = NULL;
    LS_TRY(ls_weights_gpt_sizes(import->weights, &sizes));
    LS_TRY(choose_heads(import, a, &sizes));
    LS_TRY(configure_gpt(import, &sizes));
    LsStatus status = find_tokenizer(import, a->tokenizer, &tokenizer);
    if (status == LS_OK)
        status = describe_tokens(import, tokenizer, sizes.vocabulary);
    ls_tokenizer_free(tokenizer);
    return status;
}

// ---- Other models, which the file describes itself ------------------------------------------------------

static LsStatus fail_undescribed(const Import *import)
{
    return LS_FAIL(LS_CHECKPOINT,
        "%s is neither a GPT-2 (it has no tensor wte.weight) nor a file of lockstep export", file_of(import));
}

// Options that make the model, which are what export writes; a file decides about nothing else.
static LsStatus read_config(Import *import, const json_t *config)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)config, name, value)
    {
        const char *text = json_string_value(value);
        const LsOption *option = ls_option_find(name);
        if (!text || !option || option->class_ != LS_CLASS_IDENTITY)
            return fail_undescribed(import);
        if (ls_config_set(&import->config, name, text, file_of(import)) != LS_OK)
            return ls_status_adopt(LS_CHECKPOINT, ls_status_message());
    }
    return LS_OK;
}

static LsStatus describe_model(Import *import, const ImportArguments *a)
{
    if (a->heads > 0 || a->tokenizer)
        return LS_FAIL(LS_USAGE, "--%s is for language models, and %s is none",
            a->tokenizer ? "tokenizer" : "heads", file_of(import));
    const char *text = ls_safetensors_metadata(ls_weights_file(import->weights), LS_WEIGHTS_MODEL);
    json_t *model = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    const json_t *config = json_object_get(model, "config");
    json_t *schema = json_object_get(model, "data");
    LsStatus status = LS_OK;
    if (json_is_object(config) && json_is_object(schema)) {
        import->schema = json_incref(schema);
        status = read_config(import, config);
    } else {
        status = fail_undescribed(import);
    }
    json_decref(model);
    return status;
}

// ---- The model ------------------------------------------------------------------------------------------

static LsStatus shape_model(Import *import, LsDataShape *shape)
{
    LsDataset *described = NULL;
    LsStatus status = ls_dataset_describe(import->schema, file_of(import), &described);
    if (status == LS_OK)
        status = ls_data_shape(&import->config, ls_dataset_info(described), shape);
    ls_dataset_close(described);
    return status == LS_OK ? LS_OK : ls_status_adopt(LS_CHECKPOINT, ls_status_message());
}

static LsStatus read_weights(Import *import)
{
    LsDataShape shape;
    LS_TRY(shape_model(import, &shape));
    LsStatus status = ls_model_create(&import->config, &shape, NULL, 1, &import->model);
    if (status != LS_OK)
        return ls_status_adopt(LS_CHECKPOINT, ls_status_message());
    const LsParameters *parameters = &import->model->parameters;
    LS_TRY(ls_weights_match(import->weights, parameters));
    LS_TRY(ls_memory_allocate(parameters->blocks * LS_BLOCK * sizeof(float), (void **)&import->values));
    return ls_weights_read(import->weights, 0, parameters->blocks, import->values);
}

static LsStatus open_weights(Import *import, const ImportArguments *a)
{
    ls_config_defaults(&import->config);
    LS_TRY(ls_weights_open(a->input, &import->weights));
    LS_TRY(ls_weights_of_gpt(import->weights) ? describe_gpt(import, a) : describe_model(import, a));
    return read_weights(import);
}

// ---- The run --------------------------------------------------------------------------------------------

static LsStatus make_run(Import *import, const char *output)
{
    char path[LS_PATH_MAX];
    const LsWeightsRun run = {.parameters = &import->model->parameters,
        .values = import->values,
        .config = &import->config,
        .schema = import->schema};
    LS_TRY(ls_weights_make_run(&run, output, import->comm, path));
    printf("%s: %zu tensors, %zu parameters\n", path, run.parameters->count,
        ls_parameters_elements(run.parameters));
    return LS_OK;
}

static LsStatus run(LsInvocation *invocation)
{
    ImportArguments arguments = {0};
    LS_TRY(read_arguments(invocation, &arguments));
    if (invocation->helped)
        return LS_OK;
    if (!invocation->comm)
        LS_TRY(ls_invocation_join(invocation, LS_OK, NULL));
    Import *import = NULL;
    LS_TRY(ls_memory_allocate(sizeof *import, (void **)&import));
    import->comm = invocation->comm;
    LsStatus status = open_weights(import, &arguments);
    if (status == LS_OK)
        status = make_run(import, arguments.output);
    free(import->values);
    ls_model_destroy(import->model);
    json_decref(import->schema);
    ls_weights_close(import->weights);
    free(import);
    return status;
}

const LsCommand ls_command_import = {
    .name = "import",
    .arguments = "FILE|DIR -o RUN [--heads N] [--tokenizer T]",
    .summary = "makes a run of weights from another program",
    .about =
        "Reads safetensors: a GPT-2 in Hugging Face's layout (a file, or a directory as transformers save "
        "it), or\n"
        "what lockstep export wrote. The run's checkpoint serves generate, eval, export and "
        "train.init_from.",
    .run = run,
};
