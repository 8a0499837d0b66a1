// Activations of the GPT: what each block keeps for the backward pass, and what all share.
#include "gpt.h"

#include "base/memory.h"

// count × columns elements; without a device their size only.
static LsStatus reserve_elements(LsGpt *gpt, size_t count, size_t columns, size_t element, void *out)
{
    LsModel *model = &gpt->base;
    size_t bytes, total;
    if (!ls_size_multiply(count, columns, &bytes) || !ls_size_multiply(bytes, element, &bytes) ||
        !ls_size_add(model->activation_bytes, bytes, &total))
        return LS_FAIL(
            LS_CONFIG, "activations of %zu × %zu values are too large; use a smaller batch", count, columns);
    void *memory = NULL;
    if (model->device)
        LS_TRY(model->device->ops->allocate(model->device, bytes, &memory));
    *(void **)out = memory;
    model->activation_bytes = total;
    return LS_OK;
}

static LsStatus count_tokens(const LsGpt *gpt, size_t *out)
{
    if (!ls_size_multiply(gpt->base.max_rows, gpt->window, out))
        return LS_FAIL(LS_CONFIG, "%zu windows of %zu tokens are too many", gpt->base.max_rows, gpt->window);
    return LS_OK;
}

// [tokens][columns] of the compute type.
static LsStatus reserve(LsGpt *gpt, size_t columns, void *out)
{
    size_t tokens;
    LS_TRY(count_tokens(gpt, &tokens));
    return reserve_elements(gpt, tokens, columns, ls_dtype_size(gpt->type), out);
}

// [tokens][columns] of F32.
static LsStatus reserve_floats(LsGpt *gpt, size_t columns, float **out)
{
    size_t tokens;
    LS_TRY(count_tokens(gpt, &tokens));
    return reserve_elements(gpt, tokens, columns, sizeof(float), out);
}

static LsStatus reserve_norm(LsGpt *gpt, const LsGptNorm *shared, bool share_output, LsGptNorm *norm)
{
    if (share_output)
        norm->output = shared->output;
    else
        LS_TRY(reserve(gpt, gpt->width, &norm->output));
    LS_TRY(reserve_floats(gpt, 1, &norm->mean));
    return reserve_floats(gpt, 1, &norm->rstd);
}

// What attention leaves behind, and the stream behind it.
static LsStatus reserve_attention(LsGpt *gpt, LsGptBlock *block)
{
    LS_TRY(reserve(gpt, 3 * gpt->width, &block->projected));
    LS_TRY(reserve(gpt, gpt->width, &block->attended));
    LS_TRY(reserve_floats(gpt, gpt->heads, &block->log_sum));
    return reserve(gpt, gpt->width, &block->middle);
}

static LsStatus reserve_hidden(LsGpt *gpt, LsGptBlock *block)
{
    LS_TRY(reserve(gpt, 4 * gpt->width, &block->before));
    return reserve(gpt, 4 * gpt->width, &block->hidden);
}

static void share_attention(const LsGptBlock *from, LsGptBlock *to)
{
    to->projected = from->projected;
    to->attended = from->attended;
    to->log_sum = from->log_sum;
    to->middle = from->middle;
}

// The first block owns what is shared.
static LsStatus reserve_block(LsGpt *gpt, size_t l)
{
    LsGptBlock *block = &gpt->block[l];
    const LsGptBlock *shared = &gpt->block[0];
    bool cheap = l > 0 && gpt->recompute != LS_RECOMPUTE_NONE;
    bool all = l > 0 && gpt->recompute == LS_RECOMPUTE_BLOCK;
    LS_TRY(reserve(gpt, gpt->width, &block->input));
    LS_TRY(reserve_norm(gpt, &shared->norm1, cheap, &block->norm1));
    LS_TRY(reserve_norm(gpt, &shared->norm2, cheap, &block->norm2));
    if (all)
        share_attention(shared, block);
    else
        LS_TRY(reserve_attention(gpt, block));
    if (!cheap)
        return reserve_hidden(gpt, block);
    block->before = shared->before;
    block->hidden = shared->hidden;
    return LS_OK;
}

static size_t largest(size_t a, size_t b, size_t c)
{
    size_t larger = a > b ? a : b;
    return larger > c ? larger : c;
}

static LsStatus reserve_scratch(LsGpt *gpt, size_t tokens)
{
    size_t bytes = largest(ls_embedding_scratch(tokens, gpt->base.shape.vocabulary, gpt->width),
        ls_layer_norm_scratch(tokens, gpt->width),
        ls_attention_scratch(gpt->base.max_rows, gpt->window, gpt->heads, gpt->width / gpt->heads));
    return reserve_elements(gpt, bytes, 1, 1, &gpt->scratch);
}

// Gradients of the widest activations and logits take turns in one buffer.
static LsStatus reserve_wide(LsGpt *gpt, size_t tokens)
{
    size_t chunk = tokens < gpt->chunk ? tokens : gpt->chunk, logits, activations;
    if (!ls_size_multiply(chunk, gpt->vocabulary, &logits) ||
        !ls_size_multiply(tokens, 4 * gpt->width, &activations))
        return LS_FAIL(LS_CONFIG, "%zu tokens in a microbatch are too many", tokens);
    size_t one = 2 * gpt->vocabulary; // a token's logits in F32 where the compute type is half as wide
    return reserve_elements(gpt, largest(logits, activations, one), 1, ls_dtype_size(gpt->type), &gpt->wide);
}

LsStatus ls_gpt_reserve(LsGpt *gpt)
{
    size_t tokens;
    LS_TRY(count_tokens(gpt, &tokens));
    gpt->base.library_bytes = ls_attention_library_bytes(
        gpt->base.max_rows, gpt->window, gpt->heads, gpt->width / gpt->heads, gpt->type);
    for (size_t l = 0; l < gpt->blocks; l++)
        LS_TRY(reserve_block(gpt, l));
    LS_TRY(reserve(gpt, gpt->width, &gpt->stream));
    LS_TRY(reserve_norm(gpt, NULL, false, &gpt->norm));
    LS_TRY(reserve(gpt, gpt->width, &gpt->branch));
    LS_TRY(reserve(gpt, gpt->width, &gpt->dstream));
    LS_TRY(reserve(gpt, gpt->width, &gpt->dother));
    LS_TRY(reserve_wide(gpt, tokens));
    LS_TRY(reserve_scratch(gpt, tokens));
    LS_TRY(reserve_floats(gpt, 1, &gpt->token_loss));
    LS_TRY(reserve_elements(gpt, gpt->base.max_rows, 2, sizeof(float), &gpt->window_loss));
    LS_TRY(reserve_elements(gpt, 2, 1, sizeof(float), &gpt->share));
    if (gpt->vocabulary == gpt->base.shape.vocabulary)
        return LS_OK;
    return reserve_elements(gpt, gpt->vocabulary, 1, ls_dtype_size(gpt->type), &gpt->padding);
}

// ---- Release --------------------------------------------------------------------------------------------

// Unless the first block owns it.
static void release(LsGpt *gpt, void *memory, const void *shared)
{
    if (memory != shared)
        gpt->base.device->ops->release(gpt->base.device, memory);
}

static void release_norm(LsGpt *gpt, LsGptNorm *norm, const LsGptNorm *shared)
{
    release(gpt, norm->rstd, NULL);
    release(gpt, norm->mean, NULL);
    release(gpt, norm->output, shared ? shared->output : NULL);
}

static void release_block(LsGpt *gpt, LsGptBlock *block, const LsGptBlock *shared)
{
    release(gpt, block->hidden, shared ? shared->hidden : NULL);
    release(gpt, block->before, shared ? shared->before : NULL);
    release(gpt, block->middle, shared ? shared->middle : NULL);
    release(gpt, block->log_sum, shared ? shared->log_sum : NULL);
    release(gpt, block->attended, shared ? shared->attended : NULL);
    release(gpt, block->projected, shared ? shared->projected : NULL);
    release_norm(gpt, &block->norm2, shared ? &shared->norm2 : NULL);
    release_norm(gpt, &block->norm1, shared ? &shared->norm1 : NULL);
    release(gpt, block->input, NULL);
}

void ls_gpt_release(LsGpt *gpt)
{
    void *memory[] = {gpt->padding, gpt->share, gpt->window_loss, gpt->token_loss, gpt->scratch, gpt->wide,
        gpt->dother, gpt->dstream, gpt->branch};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        release(gpt, memory[i], NULL);
    release_norm(gpt, &gpt->norm, NULL);
    release(gpt, gpt->stream, NULL);
    for (size_t l = gpt->blocks; l-- > 0;)
        release_block(gpt, &gpt->block[l], l > 0 ? &gpt->block[0] : NULL);
}
