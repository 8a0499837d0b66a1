// Token shards to a token data set.
#include "import_tokens.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "import_common.h"
#include "token_set.h"

enum { MAGIC = 20240520, VERSION = 1, GPT2_VOCABULARY = 50257 };

static uint32_t word(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

LsStatus ls_shard_count(const char *path, const uint8_t *header, uint64_t file_bytes, uint64_t *tokens)
{
    if (file_bytes < LS_SHARD_HEADER)
        return LS_FAIL(LS_BAD_DATA, "%s: %llu bytes are no token shard, whose header alone has %d", path,
            (unsigned long long)file_bytes, LS_SHARD_HEADER);
    if (word(header) != MAGIC)
        return LS_FAIL(LS_BAD_DATA, "%s: offset 0: the magic number is %u, a token shard's is %d", path,
            word(header), MAGIC);
    if (word(header + 4) != VERSION)
        return LS_FAIL(
            LS_BAD_DATA, "%s: offset 4: version %u of token shards is not known", path, word(header + 4));
    uint64_t count = word(header + 8), there = file_bytes - LS_SHARD_HEADER;
    if (there != count * sizeof(uint16_t))
        return LS_FAIL(LS_BAD_DATA,
            "%s: offset 8: the header says %llu tokens, but %llu bytes of them are there", path,
            (unsigned long long)count, (unsigned long long)there);
    if (count == 0)
        return LS_FAIL(LS_BAD_DATA, "%s: the shard has no tokens", path);
    *tokens = count;
    return LS_OK;
}

typedef struct Shard {
    const char *path;
    int fd; // -1: not open
    uint64_t tokens;
    bool validation;
} Shard;

typedef struct Work {
    const LsImportOptions *options;
    const char **path; // of all shards, those of validation last
    size_t count;
    LsTokenizer *tokenizer;
    LsTokenSet *set;
} Work;

static LsStatus open_shard(const Work *work, size_t number, Shard *out)
{
    struct stat information;
    uint8_t header[LS_SHARD_HEADER];
    Shard shard = {.path = work->path[number], .fd = -1};
    shard.validation = number >= work->count - work->options->validation_count;
    shard.fd = open(shard.path, O_RDONLY | O_CLOEXEC);
    if (shard.fd < 0)
        return ls_file_fail("open", shard.path);
    LsStatus status = fstat(shard.fd, &information) != 0 ? ls_file_fail("examine", shard.path) : LS_OK;
    if (status == LS_OK && information.st_size >= LS_SHARD_HEADER)
        status = ls_file_read_at(shard.fd, shard.path, header, sizeof header, 0);
    if (status == LS_OK)
        status = ls_shard_count(shard.path, header, (uint64_t)information.st_size, &shard.tokens);
    if (status != LS_OK) {
        close(shard.fd);
        return status;
    }
    *out = shard;
    return LS_OK;
}

static LsStatus widen(const Work *work, const Shard *shard, uint64_t first, uint32_t *tokens, size_t count)
{
    uint8_t bytes[2 * 4096];
    for (size_t done = 0, part; done < count; done += part) {
        part = count - done < sizeof bytes / 2 ? count - done : sizeof bytes / 2;
        uint64_t offset = LS_SHARD_HEADER + 2 * (first + done);
        LS_TRY(ls_file_read_at(shard->fd, shard->path, bytes, 2 * part, offset));
        for (size_t i = 0; i < part; i++) {
            uint32_t token = bytes[2 * i] | (uint32_t)bytes[2 * i + 1] << 8;
            if (token >= work->set->vocabulary)
                return LS_FAIL(LS_BAD_DATA, "%s: offset %llu: token %u is not below the vocabulary of %zu",
                    shard->path, (unsigned long long)(offset + 2 * i), token, work->set->vocabulary);
            tokens[done + i] = token;
        }
    }
    return LS_OK;
}

// Appends a shard's tokens: of those, `training` more belong to the training split, unless it is all
// validation.
static LsStatus append_shard(const Work *work, const Shard *shard, uint32_t *tokens, uint64_t *training)
{
    uint64_t count;
    for (uint64_t first = 0; first < shard->tokens; first += count) {
        LsSplit split = shard->validation || *training == 0 ? LS_VALIDATION : LS_TRAIN;
        count = shard->tokens - first < LS_TOKENS_AT_ONCE ? shard->tokens - first : LS_TOKENS_AT_ONCE;
        if (split == LS_TRAIN && count > *training)
            count = *training;
        LS_TRY(widen(work, shard, first, tokens, count));
        LS_TRY(ls_token_set_append(work->set, split, tokens, count));
        *training -= split == LS_TRAIN ? count : 0;
    }
    return LS_OK;
}

static LsStatus append_all(const Work *work)
{
    uint64_t training = work->set->tokens[LS_TRAIN];
    uint32_t *tokens = malloc(LS_TOKENS_AT_ONCE * sizeof *tokens);
    LsStatus status = tokens == NULL ? LS_FAIL(LS_INTERNAL, "data import: out of memory") : LS_OK;
    for (size_t i = 0; status == LS_OK && i < work->count; i++) {
        Shard shard;
        status = open_shard(work, i, &shard);
        if (status != LS_OK)
            break;
        status = append_shard(work, &shard, tokens, &training);
        close(shard.fd);
    }
    free(tokens);
    return status;
}

static LsStatus count_tokens(const Work *work)
{
    for (size_t i = 0; i < work->count; i++) {
        Shard shard;
        LS_TRY(open_shard(work, i, &shard));
        close(shard.fd);
        work->set->tokens[shard.validation ? LS_VALIDATION : LS_TRAIN] += shard.tokens;
    }
    uint64_t tail, total = work->set->tokens[LS_TRAIN];
    LS_TRY(ls_token_set_part(work->options->output, work->options->validation, total, 2, "tokens", &tail));
    work->set->tokens[LS_TRAIN] -= tail;
    work->set->tokens[LS_VALIDATION] += tail;
    return LS_OK;
}

static LsStatus import_shards(Work *work, json_t *import)
{
    LS_TRY(count_tokens(work));
    LS_TRY(ls_token_set_begin(work->options, work->set));
    LS_TRY(append_all(work));
    return ls_token_set_commit(work->set, import, 0);
}

static LsStatus prepare(Work *work, const char *const *inputs, size_t count)
{
    const LsImportOptions *options = work->options;
    if (options->validation > 0.0 && options->validation_count > 0)
        return LS_FAIL(LS_USAGE, "data import: give validation shards or a part for validation, not both");
    if (options->tokenizer != NULL && options->vocabulary > 0)
        return LS_FAIL(LS_USAGE, "data import: the tokenizer has its vocabulary; leave out --vocab");
    if (options->vocabulary > LS_SHARD_VOCABULARY)
        return LS_FAIL(LS_USAGE, "data import: --vocab %zu is more than the %d tokens that shards can name",
            options->vocabulary, LS_SHARD_VOCABULARY);
    work->count = count + options->validation_count;
    LS_TRY(ls_memory_allocate(work->count * sizeof *work->path, (void **)&work->path));
    memcpy(work->path, inputs, count * sizeof *inputs);
    if (options->validation_count > 0)
        memcpy(work->path + count, options->validation_inputs, options->validation_count * sizeof *inputs);
    LS_TRY(ls_import_check(options, work->path, work->count));
    if (options->tokenizer != NULL)
        LS_TRY(ls_token_set_tokenizer(options->tokenizer, &work->tokenizer));
    LS_TRY(ls_memory_allocate(sizeof *work->set, (void **)&work->set));
    work->set->tokenizer = work->tokenizer;
    work->set->vocabulary = work->tokenizer != NULL   ? ls_tokenizer_vocabulary(work->tokenizer)
                            : options->vocabulary > 0 ? options->vocabulary
                                                      : GPT2_VOCABULARY;
    return LS_OK;
}

static LsStatus import_work(Work *work, const char *const *inputs, size_t count, bool *unchanged)
{
    json_t *import = NULL;
    LS_TRY(prepare(work, inputs, count));
    json_t *named = json_pack("{s:o, s:f, s:I, s:I}", "tokenizer", ls_token_set_identity(work->tokenizer),
        "validation", work->options->validation, "validation_shards",
        (json_int_t)work->options->validation_count, "vocabulary", (json_int_t)work->set->vocabulary);
    LS_TRY(ls_import_source("tokens", work->path, work->count, named, &import));
    *unchanged = ls_import_unchanged(work->options, import);
    LsStatus status = *unchanged ? LS_OK : import_shards(work, import);
    json_decref(import);
    return status;
}

LsStatus ls_import_tokens(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged)
{
    Work work = {.options = options};
    LsStatus status = import_work(&work, inputs, count, unchanged);
    if (work.set != NULL)
        ls_writer_destroy(work.set->writer);
    free(work.set);
    free(work.path);
    ls_tokenizer_free(work.tokenizer);
    return status;
}
