// A data set known by its schema alone, as a checkpoint keeps it.
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/tokenizer.h"
#include "dataset_format.h"

LsStatus ls_dataset_describe(const json_t *schema, const char *name, LsDataset **out)
{
    char *text = ls_json_canonical(schema);
    if (text == NULL)
        return LS_FAIL(LS_BAD_DATA, "%s: the schema is no JSON object", name);
    LsDataset *dataset = NULL;
    LsStatus status = ls_memory_allocate(sizeof *dataset, (void **)&dataset);
    if (status == LS_OK) {
        dataset->fd = -1;
        dataset->path = strdup(name);
        status = dataset->path == NULL ? LS_FAIL(LS_INTERNAL, "%s: out of memory", name)
                                       : ls_schema_read(text, strlen(text), name, dataset);
    }
    free(text);
    if (status != LS_OK) {
        ls_dataset_close(dataset);
        return status;
    }
    *out = dataset;
    return LS_OK;
}

LsStatus ls_dataset_describe_tokens(size_t vocabulary, const LsTokenizer *tokenizer, json_t **out)
{
    LsHash128 hash;
    char text[LS_HASH128_TEXT];
    json_t *schema =
        json_pack("{s:i, s:s, s:s, s:I, s:{}}", "format", LS_DATASET_FORMAT, "kind", "tokens", "token_type",
            vocabulary <= UINT16_MAX + 1 ? "u16" : "u32", "vocabulary", (json_int_t)vocabulary, "splits");
    if (schema && tokenizer)
        json_object_set_new(schema, "tokenizer", ls_tokenizer_json(tokenizer));
    if (!schema || (tokenizer && !json_object_get(schema, "tokenizer"))) {
        json_decref(schema);
        return LS_FAIL(LS_INTERNAL, "out of memory describing %zu tokens", vocabulary);
    }
    LsStatus status = ls_schema_hash(schema, &hash);
    if (status != LS_OK) {
        json_decref(schema);
        return status;
    }
    ls_hash128_text(hash, text);
    json_object_set_new(schema, "root_hash", json_string(text));
    *out = schema;
    return LS_OK;
}

// Files of several formats make the same tokens, which are what counts; bytes have no list of them.
bool ls_dataset_same_tokens(const json_t *schema, const json_t *other)
{
    const json_t *ours = json_object_get(schema, "tokenizer"), *theirs = json_object_get(other, "tokenizer");
    if (!json_is_object(ours) || !json_is_object(theirs))
        return true;
    const json_t *tokens = json_object_get(ours, "tokens"), *others = json_object_get(theirs, "tokens");
    return tokens && others ? json_equal(tokens, others) : json_equal(ours, theirs);
}
