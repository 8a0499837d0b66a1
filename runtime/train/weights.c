#include "train/weights.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "checkpoint_file.h"
#include "models/huggingface.h"
#include "weights_layout.h"

enum { CONFIG_LIMIT = 1 << 20, COMPARED = 1 << 14 };

// Where a parameter comes from.
typedef struct Source {
    const LsFileTensor *tensor;
    const LsFileTensor *variance; // of statistics, whose mean is in `tensor`; NULL: of no statistics
    bool transposed;
} Source;

struct LsWeights {
    LsSafetensors *file;
    char config[LS_PATH_MAX], merges[LS_PATH_MAX]; // config.json and merges.txt beside it, if they are there
    const LsParameters *parameters;
    Source *source; // [parameters->count]
    size_t held;    // the parameter whose transposed weights are in `turned`
    float *turned;  // NULL: none
};

// ---- Opening --------------------------------------------------------------------------------------------

static bool is_directory(const char *path)
{
    struct stat information;
    return stat(path, &information) == 0 && S_ISDIR(information.st_mode);
}

bool ls_weights_named(const char *named)
{
    char path[LS_PATH_MAX];
    struct stat information;
    if (stat(named, &information) == 0 && !S_ISDIR(information.st_mode))
        return true;
    if (ls_path_join(path, named, LS_WEIGHTS_NAME) == LS_OK && ls_file_exists(path))
        return true;
    return ls_path_join(path, named, LS_WEIGHTS_NAME ".index.json") == LS_OK && ls_file_exists(path);
}

// The file that `named` means, and the folder that it is in.
static LsStatus find_file(const char *named, char file[LS_PATH_MAX], char folder[LS_PATH_MAX])
{
    if (is_directory(named)) {
        LS_TRY(ls_path_join(file, named, LS_WEIGHTS_NAME ".index.json"));
        if (ls_file_exists(file))
            return LS_FAIL(LS_CHECKPOINT,
                "%s: the weights are in several files, which are not read; save them as one", named);
        LS_TRY(ls_path_join(file, named, LS_WEIGHTS_NAME));
        strcpy(folder, named); // shorter than the file's path
        return LS_OK;
    }
    if (strlen(named) >= LS_PATH_MAX)
        return LS_FAIL(LS_NO_INPUT, "%.64s…: the path is too long", named);
    strcpy(file, named);
    const char *slash = strrchr(named, '/');
    if (slash)
        snprintf(folder, LS_PATH_MAX, "%.*s", slash == named ? 1 : (int)(slash - named), named);
    else
        strcpy(folder, ".");
    return LS_OK;
}

LsStatus ls_weights_open(const char *named, LsWeights **out)
{
    char path[LS_PATH_MAX], folder[LS_PATH_MAX];
    LsWeights *weights = NULL;
    LS_TRY(ls_memory_allocate(sizeof *weights, (void **)&weights));
    LsStatus status = find_file(named, path, folder);
    if (status == LS_OK)
        status = ls_path_join(weights->config, folder, LS_WEIGHTS_CONFIG);
    if (status == LS_OK)
        status = ls_path_join(weights->merges, folder, "merges.txt");
    if (status == LS_OK)
        status = ls_safetensors_open(path, &weights->file);
    if (status != LS_OK) {
        ls_weights_close(weights);
        return status;
    }
    *out = weights;
    return LS_OK;
}

void ls_weights_close(LsWeights *weights)
{
    if (!weights)
        return;
    free(weights->turned);
    free(weights->source);
    ls_safetensors_close(weights->file);
    free(weights);
}

const LsSafetensors *ls_weights_file(const LsWeights *weights)
{
    return weights->file;
}

// ---- Names ----------------------------------------------------------------------------------------------

#define PREFIX "transformer."

// The file's name without its prefix.
static const char *bare(const char *name)
{
    return strncmp(name, PREFIX, sizeof PREFIX - 1) == 0 ? name + sizeof PREFIX - 1 : name;
}

// The tensor of that name, or NULL; a file that has it with and without the prefix means two things.
static LsStatus find_tensor(const LsWeights *weights, const char *name, const LsFileTensor **out)
{
    char prefixed[sizeof PREFIX + LS_NAME_MAX + 8];
    snprintf(prefixed, sizeof prefixed, PREFIX "%s", name);
    const LsFileTensor *plain = ls_safetensors_find(weights->file, name);
    *out = ls_safetensors_find(weights->file, prefixed);
    if (plain && *out)
        return LS_FAIL(LS_CHECKPOINT, "%s: tensor %s is there twice, as %s too",
            ls_safetensors_path(weights->file), name, prefixed);
    *out = plain ? plain : *out;
    return LS_OK;
}

// ---- GPT-2's sizes --------------------------------------------------------------------------------------

static LsStatus find_matrix(const LsWeights *weights, const char *name, const LsFileTensor **out)
{
    LS_TRY(find_tensor(weights, name, out));
    if (!*out || (*out)->dimensions != 2 || (*out)->elements == 0)
        return LS_FAIL(LS_CHECKPOINT, "%s: tensor %s, a matrix in GPT-2, is missing or none",
            ls_safetensors_path(weights->file), name);
    return LS_OK;
}

bool ls_weights_of_gpt(const LsWeights *weights)
{
    const LsFileTensor *table = NULL;
    return find_tensor(weights, "wte.weight", &table) != LS_OK || table;
}

static LsStatus count_layers(const LsWeights *weights, size_t *layers)
{
    const LsFileTensor *tensor;
    char name[LS_NAME_MAX];
    for (*layers = 0;; ++*layers) {
        snprintf(name, sizeof name, "h.%zu.ln_1.weight", *layers);
        LS_TRY(find_tensor(weights, name, &tensor));
        if (!tensor)
            return LS_OK;
    }
}

// The number of heads that our own files carry; what is no number is no answer.
static size_t stored_heads(const LsWeights *weights)
{
    const char *text = ls_safetensors_metadata(weights->file, LS_WEIGHTS_HEADS);
    char *end = NULL;
    unsigned long heads = text ? strtoul(text, &end, 10) : 0;
    return text && *end == '\0' ? heads : 0;
}

LsStatus ls_weights_gpt_sizes(const LsWeights *weights, LsGptSizes *out)
{
    const LsFileTensor *tokens, *positions;
    LsGptSizes sizes = {.heads = stored_heads(weights)};
    LS_TRY(find_matrix(weights, "wte.weight", &tokens));
    LS_TRY(find_matrix(weights, "wpe.weight", &positions));
    LS_TRY(count_layers(weights, &sizes.layers));
    sizes.vocabulary = tokens->shape[0];
    sizes.width = tokens->shape[1];
    sizes.positions = positions->shape[0];
    if (ls_file_exists(weights->config)) {
        json_t *config = NULL;
        LS_TRY(ls_json_read(weights->config, CONFIG_LIMIT, LS_CHECKPOINT, &config));
        LsStatus status = ls_weights_check_config(config, weights->config, &sizes);
        json_decref(config);
        LS_TRY(status);
    }
    *out = sizes;
    return LS_OK;
}

LsStatus ls_weights_tokenizer(const LsWeights *weights, LsTokenizer **out)
{
    const char *stored = ls_safetensors_metadata(weights->file, LS_WEIGHTS_TOKENIZER);
    if (ls_file_exists(weights->merges))
        return ls_tokenizer_open(weights->merges, out);
    if (stored && strcmp(stored, "bytes") == 0)
        return ls_tokenizer_bytes(out);
    *out = NULL;
    return LS_OK;
}

bool ls_weights_vocabulary_fits(size_t rows, size_t vocabulary)
{
    return rows == vocabulary || rows == ls_round_up(vocabulary, 64) || rows == ls_round_up(vocabulary, 128);
}

// ---- Matching -------------------------------------------------------------------------------------------

static void shape_text(const size_t *shape, int dimensions, char text[128])
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < dimensions && used < 128; i++)
        used += (size_t)snprintf(text + used, 128 - used, "%s%zu", i ? " x " : "", shape[i]);
}

// Whether more rows than the model's may be there, and are: the first ones count.
static bool has_more_rows(const LsFileTensor *tensor, const char *name, const size_t *shape)
{
    if (tensor->dimensions != 2 || tensor->shape[1] != shape[1] || tensor->shape[0] <= shape[0])
        return false;
    if (strcmp(name, "wpe") == 0)
        return true;
    return strcmp(name, "wte") == 0 && ls_weights_vocabulary_fits(tensor->shape[0], shape[0]);
}

static LsStatus check_shape(
    const LsWeights *weights, const LsParameter *parameter, const LsFileTensor *tensor, bool transposed)
{
    const char *path = ls_safetensors_path(weights->file);
    size_t shape[LS_DIMENSIONS_MAX] = {0}; // has_more_rows looks at two sizes of any
    bool same = tensor->dimensions == parameter->dimensions;
    for (int i = 0; i < parameter->dimensions; i++) {
        shape[i] = parameter->shape[transposed ? parameter->dimensions - 1 - i : i];
        same = same && tensor->shape[i] == shape[i];
    }
    if (same)
        return LS_OK;
    if (has_more_rows(tensor, parameter->name, shape)) {
        ls_info("%s: tensor %s has %zu rows, of which the model takes the first %zu", path, tensor->name,
            tensor->shape[0], shape[0]);
        return LS_OK;
    }
    char theirs[128], ours[128];
    shape_text(tensor->shape, tensor->dimensions, theirs);
    shape_text(shape, parameter->dimensions, ours);
    return LS_FAIL(LS_CHECKPOINT,
        "%s: tensor %s is %s and the model's is %s: they are weights of another model%s", path, tensor->name,
        theirs, ours, strcmp(parameter->name, "wte") == 0 ? ", or another vocabulary" : "");
}

static LsStatus match_tensor(const LsWeights *weights, const char *name, const LsParameter *parameter,
    bool transposed, const LsFileTensor **out)
{
    LS_TRY(find_tensor(weights, name, out));
    if (!*out)
        return LS_FAIL(LS_CHECKPOINT, "%s has no tensor %s: they are weights of another model",
            ls_safetensors_path(weights->file), name);
    return check_shape(weights, parameter, *out, transposed);
}

static LsStatus match_parameter(const LsWeights *weights, const LsParameter *parameter, Source *source)
{
    char name[LS_NAME_MAX], part[LS_NAME_MAX + 8];
    ls_huggingface_name(parameter->name, name, &source->transposed);
    if (!parameter->statistics)
        return match_tensor(weights, name, parameter, source->transposed, &source->tensor);
    LsParameter half = *parameter;
    half.dimensions = 1;
    snprintf(part, sizeof part, "%s" LS_HUGGINGFACE_MEAN, name);
    LS_TRY(match_tensor(weights, part, &half, false, &source->tensor));
    snprintf(part, sizeof part, "%s" LS_HUGGINGFACE_VARIANCE, name);
    return match_tensor(weights, part, &half, false, &source->variance);
}

// An output head of its own is what the model does not have.
static LsStatus check_head(const LsWeights *weights, const LsFileTensor *head)
{
    const LsFileTensor *table = NULL;
    float *values = NULL;
    LS_TRY(find_tensor(weights, "wte.weight", &table));
    bool same = table && head->elements == table->elements;
    LS_TRY(ls_memory_allocate(2 * (size_t)COMPARED * sizeof *values, (void **)&values));
    LsStatus status = LS_OK;
    for (size_t first = 0; same && status == LS_OK && first < head->elements; first += COMPARED) {
        size_t count = head->elements - first < COMPARED ? head->elements - first : COMPARED;
        status = ls_safetensors_read(weights->file, head, first, count, values);
        if (status == LS_OK)
            status = ls_safetensors_read(weights->file, table, first, count, values + COMPARED);
        same = status == LS_OK && memcmp(values, values + COMPARED, count * sizeof *values) == 0;
    }
    free(values);
    if (status == LS_OK && !same)
        status = LS_FAIL(LS_CHECKPOINT,
            "%s: tensor %s is not wte.weight: the model's output head is its token table",
            ls_safetensors_path(weights->file), head->name);
    return status;
}

static bool is_source(const LsWeights *weights, const LsFileTensor *tensor)
{
    for (size_t i = 0; i < weights->parameters->count; i++)
        if (weights->source[i].tensor == tensor || weights->source[i].variance == tensor)
            return true;
    return false;
}

static LsStatus check_others(const LsWeights *weights)
{
    size_t count;
    char quote[LS_QUOTE_SIZE];
    const LsFileTensor *list = ls_safetensors_list(weights->file, &count);
    for (size_t i = 0; i < count; i++) {
        if (is_source(weights, &list[i]))
            continue;
        if (strcmp(list[i].name, "lm_head.weight") == 0)
            LS_TRY(check_head(weights, &list[i]));
        else if (!ls_huggingface_constant(bare(list[i].name)))
            return LS_FAIL(LS_CHECKPOINT,
                "%s: tensor %s is none of the model's: they are weights of another model",
                ls_safetensors_path(weights->file), ls_text_quote(quote, list[i].name));
    }
    return LS_OK;
}

LsStatus ls_weights_match(LsWeights *weights, const LsParameters *parameters)
{
    free(weights->source);
    weights->source = NULL;
    weights->parameters = parameters;
    LS_TRY(ls_memory_allocate((parameters->count + 1) * sizeof *weights->source, (void **)&weights->source));
    for (size_t i = 0; i < parameters->count; i++)
        LS_TRY(match_parameter(weights, &parameters->list[i], &weights->source[i]));
    return check_others(weights);
}

// ---- Reading --------------------------------------------------------------------------------------------

void ls_weights_transpose(const float *from, size_t rows, size_t columns, float *to)
{
    enum { TILE = 32 }; // two tiles fit the first cache
    for (size_t r0 = 0; r0 < rows; r0 += TILE)
        for (size_t c0 = 0; c0 < columns; c0 += TILE)
            for (size_t r = r0; r < rows && r < r0 + TILE; r++)
                for (size_t c = c0; c < columns && c < c0 + TILE; c++)
                    to[c * rows + r] = from[r * columns + c];
}

// Brings the weights of one linear layer as [out][in]. Pieces of the flat buffer that lie beside each other
// often have parts of the same layer, so one is held.
static LsStatus turn(LsWeights *weights, size_t index)
{
    if (weights->turned && weights->held == index)
        return LS_OK;
    const LsFileTensor *tensor = weights->source[index].tensor;
    size_t bytes = tensor->elements * sizeof(float); // it is a parameter's shape, which fits
    float *stored = NULL;
    free(weights->turned);
    weights->turned = NULL;
    weights->held = index;
    LS_TRY(ls_memory_allocate(bytes, (void **)&stored));
    LsStatus status = ls_safetensors_read(weights->file, tensor, 0, tensor->elements, stored);
    if (status == LS_OK)
        status = ls_memory_allocate(bytes, (void **)&weights->turned);
    if (status == LS_OK)
        ls_weights_transpose(stored, tensor->shape[0], tensor->shape[1], weights->turned);
    free(stored);
    return status;
}

// Means and variances, in pairs from an even element on.
static LsStatus read_statistics(
    LsWeights *weights, const Source *source, size_t first, size_t count, float *out)
{
    enum { PAIRS = 1024 };
    float mean[PAIRS], variance[PAIRS];
    for (size_t pair = first / 2, end = (first + count) / 2, portion; pair < end; pair += portion) {
        portion = end - pair < PAIRS ? end - pair : PAIRS;
        LS_TRY(ls_safetensors_read(weights->file, source->tensor, pair, portion, mean));
        LS_TRY(ls_safetensors_read(weights->file, source->variance, pair, portion, variance));
        for (size_t i = 0; i < portion; i++) {
            *out++ = mean[i];
            *out++ = variance[i];
        }
    }
    return LS_OK;
}

static LsStatus read_elements(LsWeights *weights, size_t index, size_t first, size_t count, float *out)
{
    const Source *source = &weights->source[index];
    if (source->variance)
        return read_statistics(weights, source, first, count, out);
    if (!source->transposed)
        return ls_safetensors_read(weights->file, source->tensor, first, count, out);
    LS_TRY(turn(weights, index));
    memcpy(out, weights->turned + first, count * sizeof *out);
    return LS_OK;
}

LsStatus ls_weights_read(LsWeights *weights, size_t first, size_t count, float *out)
{
    for (size_t block = first, end = first + count; block < end;) {
        LsBlockRun run = ls_block_run(weights->parameters, block, end);
        const LsParameter *parameter = &weights->parameters->list[run.index];
        size_t valid = run.stored ? ls_block_elements(parameter->elements, run.first, run.stored) : 0;
        if (valid > 0)
            LS_TRY(read_elements(weights, run.index, run.first * LS_BLOCK, valid, out));
        memset(out + valid, 0, (run.count * LS_BLOCK - valid) * sizeof *out);
        out += run.count * LS_BLOCK;
        block += run.count;
    }
    return LS_OK;
}
