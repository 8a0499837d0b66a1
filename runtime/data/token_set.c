#include "token_set.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/file.h"

LsStatus ls_token_set_tokenizer(const char *named, LsTokenizer **out)
{
    return strcmp(named, "bytes") == 0 ? ls_tokenizer_bytes(out) : ls_tokenizer_open(named, out);
}

json_t *ls_token_set_identity(const LsTokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return json_null();
    json_t *json = ls_tokenizer_json(tokenizer);
    char hash[LS_HASH128_TEXT], *text = json == NULL ? NULL : ls_json_canonical(json);
    json_decref(json);
    if (text == NULL)
        return NULL;
    ls_hash128_text(ls_hash128(text, strlen(text)), hash);
    free(text);
    return json_string(hash);
}

LsStatus ls_token_set_part(
    const char *output, double fraction, uint64_t total, uint64_t least, const char *what, uint64_t *part)
{
    uint64_t wanted = fraction > 0.0 ? (uint64_t)llround(fraction * (double)total) : 0;
    if (fraction > 0.0 && wanted < least)
        wanted = least;
    if (total < least || total - least < wanted)
        return LS_FAIL(LS_BAD_DATA, "%s: too few %s for %s: %llu; give more text", output, what,
            fraction > 0.0 ? "training and validation" : "training", (unsigned long long)total);
    *part = wanted;
    return LS_OK;
}

LsStatus ls_token_set_begin(const LsImportOptions *options, LsTokenSet *set)
{
    LsWriterShape shape = {.feature_type = set->vocabulary <= UINT16_MAX + 1 ? LS_COLUMN_U16 : LS_COLUMN_U32,
        .vocabulary = set->vocabulary,
        .compress = options->compress};
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        if (set->tokens[split] == 1)
            return LS_FAIL(LS_BAD_DATA, "%s: the %s split has a single token; give more text",
                options->output, ls_split_name(split));
        shape.samples[split] = set->tokens[split];
    }
    return ls_writer_begin(options->output, &shape, &set->writer);
}

static LsStatus count_bytes(LsTokenSet *set, LsSplit split, const uint32_t *tokens, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *bytes;
        size_t length;
        LS_TRY(ls_tokenizer_decode(set->tokenizer, tokens[i], &bytes, &length));
        set->text_bytes[split] += length;
    }
    return LS_OK;
}

LsStatus ls_token_set_append(LsTokenSet *set, LsSplit split, const uint32_t *tokens, size_t count)
{
    if (set->tokenizer != NULL)
        LS_TRY(count_bytes(set, split, tokens, count));
    if (set->vocabulary > UINT16_MAX + 1)
        return ls_writer_append(set->writer, split, tokens, NULL, count);
    for (size_t done = 0, part; done < count; done += part) {
        part = count - done < LS_TOKENS_AT_ONCE ? count - done : LS_TOKENS_AT_ONCE;
        for (size_t i = 0; i < part; i++)
            set->narrow[i] = (uint16_t)tokens[done + i];
        LS_TRY(ls_writer_append(set->writer, split, set->narrow, NULL, part));
    }
    return LS_OK;
}

LsStatus ls_token_set_commit(LsTokenSet *set, json_t *import, uint64_t documents)
{
    json_t *schema = json_pack("{s:O}", "import", import), *bytes = json_object();
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        if (set->tokens[split] > 0)
            json_object_set_new(
                bytes, ls_split_name(split), json_integer((json_int_t)set->text_bytes[split]));
    if (set->tokenizer != NULL) {
        json_object_set(schema, "text_bytes", bytes);
        json_object_set_new(schema, "tokenizer", ls_tokenizer_json(set->tokenizer));
    }
    if (documents > 0)
        json_object_set_new(schema, "documents", json_integer((json_int_t)documents));
    LsStatus status = schema == NULL ? LS_FAIL(LS_INTERNAL, "data import: out of memory")
                                     : ls_writer_commit(set->writer, schema);
    json_decref(bytes);
    json_decref(schema);
    return status;
}

// ---- Spool ----

// The name lasts as long as it takes to remove it; should the process die in between, the next import of the
// output removes it as it does every leftover.
LsStatus ls_spool_open(const char *beside, LsSpool *out)
{
    char name[LS_PATH_MAX];
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random ||
        snprintf(name, sizeof name, "%s.tmp-%016llx", beside, (unsigned long long)random) >= (int)sizeof name)
        return LS_FAIL(LS_IO, "cannot make a temporary file beside %s", beside);
    LsSpool spool = {.beside = beside};
    spool.fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (spool.fd < 0)
        return LS_FAIL(LS_IO, "cannot create %s: %s", name, strerror(errno));
    unlink(name);
    spool.buffer = malloc(LS_TOKENS_AT_ONCE * sizeof *spool.buffer);
    if (spool.buffer == NULL) {
        close(spool.fd);
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", beside);
    }
    *out = spool;
    return LS_OK;
}

static LsStatus flush(LsSpool *spool)
{
    uint64_t written = (spool->count - spool->filled) * sizeof(uint32_t);
    LS_TRY(
        ls_file_write_at(spool->fd, spool->beside, spool->buffer, spool->filled * sizeof(uint32_t), written));
    spool->filled = 0;
    return LS_OK;
}

LsStatus ls_spool_add(LsSpool *spool, const uint32_t *tokens, size_t count)
{
    for (size_t done = 0, part; done < count; done += part) {
        if (spool->filled == LS_TOKENS_AT_ONCE)
            LS_TRY(flush(spool));
        size_t room = LS_TOKENS_AT_ONCE - spool->filled;
        part = count - done < room ? count - done : room;
        memcpy(spool->buffer + spool->filled, tokens + done, part * sizeof *tokens);
        spool->filled += part;
        spool->count += part;
    }
    return LS_OK;
}

LsStatus ls_spool_read(LsSpool *spool, uint64_t first, size_t count, uint32_t *out)
{
    if (spool->filled > 0)
        LS_TRY(flush(spool));
    return ls_file_read_at(spool->fd, spool->beside, out, count * sizeof *out, first * sizeof *out);
}

void ls_spool_close(LsSpool *spool)
{
    if (spool->buffer == NULL)
        return;
    close(spool->fd);
    free(spool->buffer);
    *spool = (LsSpool){0};
}
