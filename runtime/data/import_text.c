// Text to a token data set. The tokens wait in a temporary file beside the output until their number, and
// with it the split, is known: memory does not grow with the text.
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "import_common.h"
#include "text_files.h"
#include "token_set.h"
#include "tokenizer_table.h"

typedef struct Work {
    const LsImportOptions *options;
    LsTokenizer *tokenizer;
    LsTextFiles files;
    LsSpool spool;
    uint64_t *ends; // of the documents, in tokens
    size_t documents, room;
    uint8_t *held_out; // [documents] whether one is for validation
    LsTokenSet *set;
} Work;

static const char *separator(const LsImportOptions *options)
{
    return options->separator == NULL ? LS_END_OF_TEXT : options->separator;
}

static LsStatus take_text(void *context, const char *text, size_t bytes)
{
    Work *work = context;
    uint32_t *tokens = NULL;
    size_t count = 0;
    LS_TRY(ls_tokenizer_encode(work->tokenizer, text, bytes, &tokens, &count));
    LsStatus status = ls_spool_add(&work->spool, tokens, count);
    free(tokens);
    return status;
}

static LsStatus end_document(void *context)
{
    Work *work = context;
    LS_TRY(ls_spool_add(&work->spool, &(uint32_t){ls_tokenizer_end_of_text(work->tokenizer)}, 1));
    if (work->documents == work->room) {
        size_t room = 2 * work->room + 1024;
        uint64_t *larger = realloc(work->ends, room * sizeof *larger);
        if (larger == NULL)
            return LS_FAIL(LS_INTERNAL, "data import: out of memory for %zu documents", room);
        work->ends = larger;
        work->room = room;
    }
    work->ends[work->documents++] = work->spool.count;
    return LS_OK;
}

static LsStatus copy(Work *work, uint64_t first, uint64_t end, LsSplit split)
{
    uint32_t *tokens = malloc(LS_TOKENS_AT_ONCE * sizeof *tokens);
    LsStatus status = tokens == NULL ? LS_FAIL(LS_INTERNAL, "data import: out of memory") : LS_OK;
    for (size_t count; status == LS_OK && first < end; first += count) {
        count = end - first < LS_TOKENS_AT_ONCE ? end - first : LS_TOKENS_AT_ONCE;
        status = ls_spool_read(&work->spool, first, count, tokens);
        if (status == LS_OK)
            status = ls_token_set_append(work->set, split, tokens, count);
    }
    free(tokens);
    return status;
}

static LsStatus write_tail(Work *work)
{
    uint64_t tail, total = work->spool.count;
    LS_TRY(ls_token_set_part(
        work->options->output, work->options->validation, total, 2, "tokens of text", &tail));
    work->set->tokens[LS_TRAIN] = total - tail;
    work->set->tokens[LS_VALIDATION] = tail;
    LS_TRY(ls_token_set_begin(work->options, work->set));
    LS_TRY(copy(work, 0, total - tail, LS_TRAIN));
    return copy(work, total - tail, total, LS_VALIDATION);
}

// Draws the documents held out: the first ones of a permutation of all.
static LsStatus draw(Work *work)
{
    uint64_t part;
    LS_TRY(ls_token_set_part(
        work->options->output, work->options->validation, work->documents, 1, "documents", &part));
    work->held_out = calloc(work->documents, 1);
    if (work->held_out == NULL)
        return LS_FAIL(LS_INTERNAL, "data import: out of memory");
    for (uint64_t i = 0; i < part; i++)
        work->held_out[ls_rng_permute(work->options->seed, 0, work->documents, i)] = 1;
    return LS_OK;
}

static LsStatus write_documents(Work *work)
{
    LS_TRY(draw(work));
    for (size_t i = 0; i < work->documents; i++)
        work->set->tokens[work->held_out[i] ? LS_VALIDATION : LS_TRAIN] +=
            work->ends[i] - (i == 0 ? 0 : work->ends[i - 1]);
    LS_TRY(ls_token_set_begin(work->options, work->set));
    for (size_t i = 0; i < work->documents; i++)
        LS_TRY(copy(work, i == 0 ? 0 : work->ends[i - 1], work->ends[i],
            work->held_out[i] ? LS_VALIDATION : LS_TRAIN));
    return LS_OK;
}

static LsStatus import_files(Work *work, json_t *import)
{
    LsTextSink sink = {.context = work, .text = take_text, .end = end_document};
    LS_TRY(ls_spool_open(work->options->output, &work->spool));
    for (size_t i = 0; i < work->files.count; i++)
        LS_TRY(ls_text_file_read(work->files.path[i], separator(work->options), &sink));
    if (work->documents == 0)
        return LS_FAIL(LS_BAD_DATA, "%s: the inputs hold nothing but separators", work->files.path[0]);
    LS_TRY(ls_memory_allocate(sizeof *work->set, (void **)&work->set));
    work->set->tokenizer = work->tokenizer;
    work->set->vocabulary = ls_tokenizer_vocabulary(work->tokenizer);
    LS_TRY(work->options->by_document ? write_documents(work) : write_tail(work));
    return ls_token_set_commit(work->set, import, work->documents);
}

static LsStatus describe(const Work *work, json_t **import)
{
    const LsImportOptions *options = work->options;
    json_t *named = json_pack("{s:o, s:f, s:s, s:s}", "tokenizer", ls_token_set_identity(work->tokenizer),
        "validation", options->validation, "split", options->by_document ? "document" : "tail", "separator",
        separator(options));
    if (named == NULL)
        return LS_FAIL(LS_BAD_DATA, "data import: the separator is not UTF-8");
    if (options->by_document)
        json_object_set_new(named, "seed", json_sprintf("%llu", (unsigned long long)options->seed));
    return ls_import_source("text", (const char *const *)work->files.path, work->files.count, named, import);
}

static LsStatus import_work(Work *work, const char *const *inputs, size_t count, bool *unchanged)
{
    const LsImportOptions *options = work->options;
    json_t *import = NULL;
    LS_TRY(ls_text_files_find(inputs, count, &work->files));
    LS_TRY(ls_import_check(options, (const char *const *)work->files.path, work->files.count));
    LS_TRY(
        ls_token_set_tokenizer(options->tokenizer == NULL ? "bytes" : options->tokenizer, &work->tokenizer));
    LS_TRY(describe(work, &import));
    *unchanged = ls_import_unchanged(options, import);
    LsStatus status = *unchanged ? LS_OK : import_files(work, import);
    json_decref(import);
    return status;
}

LsStatus ls_import_text(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged)
{
    Work work = {.options = options};
    LS_TRY(ls_import_check(options, inputs, count));
    LsStatus status = import_work(&work, inputs, count, unchanged);
    if (work.set != NULL)
        ls_writer_destroy(work.set->writer);
    free(work.set);
    free(work.held_out);
    free(work.ends);
    ls_spool_close(&work.spool);
    ls_text_files_free(&work.files);
    ls_tokenizer_free(work.tokenizer);
    return status;
}
