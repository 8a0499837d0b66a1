// The schema of a data set: JSON text, distrusted until its hash and every value are checked.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "dataset_format.h"
#include "partitions.h"

static LsStatus fail(const char *name, const char *what)
{
    return LS_FAIL(LS_BAD_DATA, "%s: the schema %s; import the data again", name, what);
}

LsStatus ls_schema_hash(const json_t *schema, LsHash128 *out)
{
    json_t *copy = json_copy((json_t *)schema);
    char *text = NULL;
    if (copy != NULL) {
        json_object_del(copy, "root_hash");
        text = ls_json_canonical(copy);
        json_decref(copy);
    }
    if (text == NULL)
        return LS_FAIL(LS_INTERNAL, "cannot hash the schema: out of memory, or not JSON");
    *out = ls_hash128(text, strlen(text));
    free(text);
    return LS_OK;
}

static bool read_hash(const json_t *object, const char *key, LsHash128 *out)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL && ls_hash128_parse(text, out);
}

// A whole number in [minimum, maximum].
static bool read_count(const json_t *value, uint64_t minimum, uint64_t maximum, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return *out >= minimum && *out <= maximum;
}

// Text, root hash, and that the text is the canonical one: every flipped byte is seen.
static LsStatus read_text(const char *text, size_t size, const char *name, LsDataset *dataset)
{
    json_error_t error;
    json_t *schema = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (schema == NULL)
        return LS_FAIL(LS_BAD_DATA,
            "%s: the schema is no JSON object (line %d, column %d: %s); import the data again", name,
            error.line, error.column, error.text);
    dataset->schema = schema;
    LsHash128 hash;
    const char *stored = json_string_value(json_object_get(schema, "root_hash"));
    if (stored == NULL)
        return fail(name, "has no root hash");
    LS_TRY(ls_schema_hash(schema, &hash));
    ls_hash128_text(hash, dataset->info.root_hash);
    if (strcmp(stored, dataset->info.root_hash) != 0)
        return fail(name, "does not match its hash: it was changed or damaged");
    char *canonical = ls_json_canonical(schema);
    bool same = canonical != NULL && strlen(canonical) == size && memcmp(canonical, text, size) == 0;
    free(canonical);
    if (!same)
        return fail(name, "is not in canonical form: it was changed or damaged");
    return LS_OK;
}

static LsStatus check_format(const char *name, const json_t *schema)
{
    uint64_t number;
    if (!read_count(json_object_get(schema, "format"), 1, UINT32_MAX, &number))
        return fail(name, "has no format number");
    if (number != LS_DATASET_FORMAT)
        return LS_FAIL(LS_BAD_DATA,
            "%s has data set format %llu, this program reads format %d; import the data again", name,
            (unsigned long long)number, LS_DATASET_FORMAT);
    return LS_OK;
}

static LsStatus read_features(const char *name, const json_t *schema, LsDatasetInfo *info)
{
    uint64_t number;
    const char *type = json_string_value(json_object_get(schema, "feature_type"));
    if (type == NULL || (strcmp(type, "u8") != 0 && strcmp(type, "f32") != 0))
        return fail(name, "has no feature_type \"u8\" or \"f32\"");
    info->feature_type = strcmp(type, "u8") == 0 ? LS_COLUMN_U8 : LS_COLUMN_F32;
    const json_t *shape = json_object_get(schema, "feature_shape");
    if (!json_is_array(shape) || json_array_size(shape) < 1 || json_array_size(shape) > 4)
        return fail(name, "has no feature_shape of one to four dimensions");
    info->feature_dimensions = (int)json_array_size(shape);
    info->features = 1;
    for (int i = 0; i < info->feature_dimensions; i++) {
        if (!read_count(json_array_get(shape, i), 1, LS_ROW_BYTES_LIMIT, &number) ||
            !ls_size_multiply(info->features, number, &info->features) ||
            info->features > LS_ROW_BYTES_LIMIT / sizeof(float))
            return fail(name, "has an impossible feature_shape");
        info->feature_shape[i] = number;
    }
    return LS_OK;
}

static LsStatus read_outputs(const char *name, const json_t *schema, LsDatasetInfo *info)
{
    uint64_t outputs;
    if (!read_count(json_object_get(schema, "outputs"), 1, LS_OUTPUTS_LIMIT, &outputs))
        return fail(name, "has impossible outputs");
    info->outputs = outputs;
    const json_t *classes = json_object_get(schema, "classes");
    info->classes = classes != NULL;
    if (classes == NULL)
        return LS_OK;
    if (!json_is_array(classes) || json_array_size(classes) != outputs)
        return fail(name, "does not name every class");
    for (size_t i = 0; i < outputs; i++)
        if (!json_is_string(json_array_get(classes, i)))
            return fail(name, "has a class without a name");
    return LS_OK;
}

// Reads shift or scale; a scale of zero would lose a feature.
static bool read_numbers(const json_t *array, size_t count, bool zero_allowed, float *out)
{
    if (!json_is_array(array) || json_array_size(array) != count)
        return false;
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_array_get(array, i);
        if (!json_is_number(value))
            return false;
        out[i] = (float)json_number_value(value);
        if (!isfinite(out[i]) || (!zero_allowed && out[i] == 0.0f))
            return false;
    }
    return true;
}

static LsStatus read_normalization(const char *name, const json_t *schema, LsDataset *dataset)
{
    LsDatasetInfo *info = &dataset->info;
    const json_t *uniform = json_object_get(schema, "uniform");
    if (!json_is_boolean(uniform))
        return fail(name, "has no uniform");
    // The arrays' lengths come first: memory is taken for what is there, not for what the shape says.
    size_t count = json_array_size(json_object_get(schema, "shift"));
    size_t channels = info->feature_shape[info->feature_dimensions - 1];
    bool fits = json_is_true(uniform) ? count == 1 : count == info->features || count == channels;
    if (!fits)
        return fail(name, "has no shift for every feature or channel");
    info->period = count;
    dataset->normalize = malloc(2 * count * sizeof(float));
    if (dataset->normalize == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", name);
    if (!read_numbers(json_object_get(schema, "shift"), count, true, dataset->normalize) ||
        !read_numbers(json_object_get(schema, "scale"), count, false, dataset->normalize + count))
        return fail(name, "has an impossible shift or scale");
    info->shift = dataset->normalize;
    info->scale = dataset->normalize + count;
    return LS_OK;
}

static LsStatus read_counts(const char *name, const json_t *counts, LsSplit split, LsDataset *dataset)
{
    size_t outputs = dataset->info.outputs;
    if (!json_is_array(counts) || json_array_size(counts) != outputs)
        return fail(name, "does not count every class");
    dataset->counts[split] = calloc(outputs, sizeof(uint64_t));
    if (dataset->counts[split] == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", name);
    uint64_t left = dataset->info.samples[split];
    for (size_t i = 0; i < outputs; i++) {
        if (!read_count(json_array_get(counts, i), 0, left, &dataset->counts[split][i]))
            return fail(name, "has impossible counts of classes");
        left -= dataset->counts[split][i];
    }
    if (left != 0)
        return fail(name, "has counts of classes that do not add up");
    return LS_OK;
}

// Images that are kept encoded: the shape says how they are decoded.
static LsStatus read_encoded(const char *name, const json_t *schema, LsDatasetInfo *info)
{
    const json_t *encoded = json_object_get(schema, "encoded");
    if (encoded == NULL)
        return LS_OK;
    if (!json_is_true(encoded) || !ls_dataset_encodable(info))
        return fail(name, "has an impossible encoded");
    info->encoded = true;
    return LS_OK;
}

// The hashes of a split's values.
static bool read_hashes(const json_t *entry, LsSplit split, LsDataset *dataset)
{
    bool files = read_hash(entry, "files_hash", &dataset->files[split].hashes_hash);
    dataset->files[split].row_bytes = files ? sizeof(LsHash128) : 0;
    if (!read_hash(entry, "y_hash", &dataset->y[split].hashes_hash))
        return false;
    if (!dataset->info.encoded)
        return read_hash(entry, "x_hash", &dataset->x[split].hashes_hash);
    return files && read_hash(entry, "encoded_hash", &dataset->x[split].hashes_hash) &&
           read_hash(entry, "offsets_hash", &dataset->offsets[split].hashes_hash);
}

static LsStatus read_splits(const char *name, const json_t *schema, LsDataset *dataset)
{
    const json_t *splits = json_object_get(schema, "splits");
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        const json_t *entry = json_object_get(splits, ls_split_name(split));
        if (entry == NULL)
            continue;
        uint64_t samples;
        if (!read_count(json_object_get(entry, "samples"), 1, (uint64_t)1 << 48, &samples))
            return fail(name, "has an impossible number of samples");
        if (!read_hashes(entry, split, dataset))
            return fail(name, "lacks the hash of a split");
        if (dataset->info.encoded && !read_count(json_object_get(entry, "encoded_bytes"), samples,
                                         (uint64_t)1 << 60, &dataset->x[split].rows))
            return fail(name, "has an impossible number of encoded bytes");
        dataset->info.samples[split] = samples;
        if (dataset->info.classes)
            LS_TRY(read_counts(name, json_object_get(entry, "counts"), split, dataset));
    }
    if (dataset->info.samples[LS_TRAIN] == 0)
        return fail(name, "has no training samples");
    return LS_OK;
}

static LsStatus read_token_splits(const char *name, const json_t *schema, LsDataset *dataset)
{
    LsDatasetInfo *info = &dataset->info;
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        const json_t *entry = json_object_get(json_object_get(schema, "splits"), ls_split_name(split));
        uint64_t tokens, bytes;
        if (entry == NULL)
            continue;
        if (!read_count(json_object_get(entry, "tokens"), 1, (uint64_t)1 << 48, &tokens))
            return fail(name, "has an impossible number of tokens");
        if (!read_hash(entry, "tokens_hash", &dataset->x[split].hashes_hash))
            return fail(name, "lacks the hash of a split");
        info->token_counts[split] = tokens;
        const json_t *text_bytes =
            json_object_get(json_object_get(schema, "text_bytes"), ls_split_name(split));
        if (text_bytes == NULL)
            continue; // not known
        if (!read_count(text_bytes, 0, (uint64_t)1 << 52, &bytes))
            return fail(name, "has an impossible number of bytes");
        info->bytes_per_token[split] = (double)bytes / (double)tokens;
    }
    // A model that came without its data is described by tokens alone: ls_dataset_describe_tokens.
    bool none = json_object_size(json_object_get(schema, "splits")) == 0;
    return info->token_counts[LS_TRAIN] == 0 && !none ? fail(name, "has no training tokens") : LS_OK;
}

// Tokens: the tokenizer itself is read by whoever needs it.
static LsStatus read_tokens(const char *name, const json_t *schema, LsDataset *dataset)
{
    uint64_t vocabulary;
    const char *type = json_string_value(json_object_get(schema, "token_type"));
    const json_t *tokenizer = json_object_get(schema, "tokenizer");
    if (!read_count(json_object_get(schema, "vocabulary"), 1, INT32_MAX, &vocabulary))
        return fail(name, "has an impossible vocabulary");
    if (type == NULL || (strcmp(type, "u16") != 0 && strcmp(type, "u32") != 0))
        return fail(name, "has no token_type \"u16\" or \"u32\"");
    if (tokenizer != NULL && !json_is_object(tokenizer))
        return fail(name, "has a tokenizer that is none");
    dataset->info.feature_type = strcmp(type, "u16") == 0 ? LS_COLUMN_U16 : LS_COLUMN_U32;
    dataset->info.vocabulary = vocabulary;
    return read_token_splits(name, schema, dataset);
}

static bool is_tokens(const json_t *schema)
{
    const char *kind = json_string_value(json_object_get(schema, "kind"));
    return kind != NULL && strcmp(kind, "tokens") == 0;
}

LsStatus ls_schema_read(const char *text, size_t size, const char *name, LsDataset *dataset)
{
    LS_TRY(read_text(text, size, name, dataset));
    LS_TRY(check_format(name, dataset->schema));
    dataset->info.schema = dataset->schema;
    if (is_tokens(dataset->schema))
        return read_tokens(name, dataset->schema, dataset);
    LS_TRY(read_features(name, dataset->schema, &dataset->info));
    LS_TRY(read_encoded(name, dataset->schema, &dataset->info));
    LS_TRY(read_outputs(name, dataset->schema, &dataset->info));
    LS_TRY(read_normalization(name, dataset->schema, dataset));
    LS_TRY(read_splits(name, dataset->schema, dataset));
    if (!ls_partitions_sound(dataset->schema, dataset->info.samples))
        return fail(name, "has partitions that are not those of its samples");
    return LS_OK;
}

void ls_schema_release(LsDataset *dataset)
{
    json_decref(dataset->schema);
    free(dataset->normalize);
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        free(dataset->counts[split]);
}

// ---- Writing --------------------------------------------------------------------------------------------

static void describe_rows(const LsDatasetInfo *info, json_t *schema)
{
    json_t *shape = json_array();
    for (int i = 0; i < info->feature_dimensions; i++)
        json_array_append_new(shape, json_integer((json_int_t)info->feature_shape[i]));
    json_object_set_new(
        schema, "feature_type", json_string(info->feature_type == LS_COLUMN_U8 ? "u8" : "f32"));
    json_object_set_new(schema, "feature_shape", shape);
    if (info->encoded)
        json_object_set_new(schema, "encoded", json_true());
    json_object_set_new(schema, "outputs", json_integer((json_int_t)info->outputs));
}

static void describe_tokens(const LsDatasetInfo *info, json_t *schema)
{
    const char *type = info->feature_type == LS_COLUMN_U16 ? "u16" : "u32";
    json_object_set_new(schema, "kind", json_string("tokens"));
    json_object_set_new(schema, "token_type", json_string(type));
    json_object_set_new(schema, "vocabulary", json_integer((json_int_t)info->vocabulary));
}

void ls_schema_describe(const LsDatasetInfo *info, json_t *schema)
{
    if (ls_dataset_tokens(info))
        describe_tokens(info, schema);
    else
        describe_rows(info, schema);
}
