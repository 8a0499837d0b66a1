// Stands in for cuDNN behind runtime/device/cuda/cudnn_attention.h: plain arithmetic on the emulated GPU's
// memory, done when the stream gets there. As with the library, the bits are not those of our own kernels:
// weights are rounded after they are divided by their sum forward, before it backward, and sums are taken in
// float64. What it has is cudnn_library.c's to say.
#include "cudnn_attention.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cudnn.h"
#include "emulator.h"

enum { TILE = 128, OWN_BYTES = 256, GROUP = 8, LARGEST = 128 };

struct LsCudnnPlan {
    LsAttentionKind kind;
};

// The gradients of scores of the deterministic backward pass, and the sums of rows.
size_t ls_cudnn_workspace(const LsCudnnPlan *plan)
{
    const LsAttentionKind *kind = &plan->kind;
    size_t heads = kind->windows * kind->heads, keys = ls_round_up(kind->window, TILE);
    return kind->backward
               ? OWN_BYTES + heads * keys * keys * sizeof(uint16_t) + heads * kind->window * sizeof(float)
               : OWN_BYTES;
}

LsStatus ls_cudnn_plan(
    LsCudnn *library, const LsAttentionKind *kind, size_t most_workspace, LsCudnnPlan **out)
{
    (void)library;
    LsCudnnPlan plan = {*kind};
    *out = NULL;
    if (ls_emulated_cudnn_is("none") || (ls_emulated_cudnn_is("forward") && kind->backward) ||
        kind->size % GROUP || kind->size > LARGEST || ls_cudnn_workspace(&plan) > most_workspace)
        return LS_OK;
    LS_TRY(ls_memory_allocate(sizeof **out, (void **)out));
    **out = plan;
    return LS_OK;
}

void ls_cudnn_forget(LsCudnnPlan *plan)
{
    free(plan);
}

void ls_cudnn_describe(const LsCudnnPlan *plan, char *text, size_t size)
{
    snprintf(text, size, "emulated engine %d", plan->kind.backward ? 2 : 1);
}

// ---- Arithmetic -----------------------------------------------------------------------------------------

typedef struct Work {
    LsAttentionKind kind;
    LsAttentionBuffers buffers;
    size_t workspace_bytes;
} Work;

// One head of a window.
typedef struct Head {
    const Work *work;
    size_t window, head, tokens, size, width;
    double scale;
    double *weights; // [tokens] of one query
    double *sums;    // [3][tokens][size]: of dq, dk and dv
} Head;

static double load(LsDtype type, const void *numbers, size_t i)
{
    uint16_t bits = ((const uint16_t *)numbers)[i];
    return (double)(type == LS_BF16 ? ls_bf16_to_f32(bits) : ls_f16_to_f32(bits));
}

static void store(LsDtype type, void *numbers, size_t i, double value)
{
    float rounded = (float)value;
    ((uint16_t *)numbers)[i] = type == LS_BF16 ? ls_f32_to_bf16(rounded) : ls_f32_to_f16(rounded);
}

static double rounded(LsDtype type, double value)
{
    uint16_t bits;
    store(type, &bits, 0, value);
    return load(type, &bits, 0);
}

static LsDtype type_of(const Head *h)
{
    return (LsDtype)h->work->kind.type;
}

// The place of number i of a token in out and dout, and in part 0, 1 or 2 of qkv and dqkv.
static size_t in_out(const Head *h, size_t token, size_t i)
{
    return (h->window * h->tokens + token) * h->width + h->head * h->size + i;
}

static size_t in_packed(const Head *h, size_t token, size_t part, size_t i)
{
    return ((h->window * h->tokens + token) * 3 + part) * h->width + h->head * h->size + i;
}

static double packed(const Head *h, size_t token, size_t part, size_t i)
{
    return load(type_of(h), h->work->buffers.qkv, in_packed(h, token, part, i));
}

static float *log_sum_of(const Head *h, size_t token)
{
    return &h->work->buffers.log_sum[(h->window * h->work->kind.heads + h->head) * h->tokens + token];
}

// Scores of a query go to h->weights; their largest is returned.
static double score_row(const Head *h, size_t query)
{
    double most = -INFINITY;
    for (size_t key = 0; key <= query; key++) {
        double sum = 0;
        for (size_t i = 0; i < h->size; i++)
            sum += packed(h, query, 0, i) * packed(h, key, 1, i);
        h->weights[key] = sum * h->scale;
        most = isnan(h->weights[key]) || h->weights[key] > most ? h->weights[key] : most;
    }
    return most;
}

static void forward_row(const Head *h, size_t query)
{
    double most = score_row(h, query), sum = 0;
    for (size_t key = 0; key <= query; key++)
        sum += h->weights[key] = exp(h->weights[key] - most);
    for (size_t key = 0; key <= query; key++)
        h->weights[key] = rounded(type_of(h), h->weights[key] / sum);
    for (size_t i = 0; i < h->size; i++) {
        double out = 0;
        for (size_t key = 0; key <= query; key++)
            out += h->weights[key] * packed(h, key, 2, i);
        store(type_of(h), h->work->buffers.out, in_out(h, query, i), out);
    }
    *log_sum_of(h, query) = (float)(most + log(sum));
}

static void backward_row(const Head *h, size_t query)
{
    const LsAttentionBuffers *b = &h->work->buffers;
    LsDtype type = type_of(h);
    double most = score_row(h, query), sum = exp(*log_sum_of(h, query) - most), row = 0;
    double *dq = h->sums, *dk = dq + h->tokens * h->size, *dv = dk + h->tokens * h->size;
    for (size_t i = 0; i < h->size; i++)
        row += load(type, b->dout, in_out(h, query, i)) * load(type, b->out, in_out(h, query, i));
    for (size_t key = 0; key <= query; key++) {
        double weight = exp(h->weights[key] - most), dweight = 0;
        for (size_t i = 0; i < h->size; i++)
            dweight += load(type, b->dout, in_out(h, query, i)) * packed(h, key, 2, i);
        double dscore = rounded(type, weight * (dweight - row)) / sum * h->scale;
        weight = rounded(type, weight) / sum;
        for (size_t i = 0; i < h->size; i++) {
            dq[query * h->size + i] += dscore * packed(h, key, 1, i);
            dk[key * h->size + i] += dscore * packed(h, query, 0, i);
            dv[key * h->size + i] += weight * load(type, b->dout, in_out(h, query, i));
        }
    }
}

static void compute_head(const Head *h)
{
    bool backward = h->work->kind.backward;
    memset(h->sums, 0, 3 * h->tokens * h->size * sizeof *h->sums);
    for (size_t query = 0; query < h->tokens; query++)
        (backward ? backward_row : forward_row)(h, query);
    for (size_t part = 0; part < 3 && backward; part++)
        for (size_t token = 0; token < h->tokens; token++)
            for (size_t i = 0; i < h->size; i++)
                store(type_of(h), h->work->buffers.dqkv, in_packed(h, token, part, i),
                    h->sums[(part * h->tokens + token) * h->size + i]);
}

// ---- Running --------------------------------------------------------------------------------------------

static void require_buffers(const Work *work)
{
    const LsAttentionKind *kind = &work->kind;
    const LsAttentionBuffers *b = &work->buffers;
    size_t rows = kind->windows * kind->window, bytes = rows * kind->heads * kind->size * sizeof(uint16_t);
    ls_emulated_cudnn_require("qkv", b->qkv, 3 * bytes, LS_CUDNN_ALIGNMENT);
    ls_emulated_cudnn_require("out", b->out, bytes, LS_CUDNN_ALIGNMENT);
    ls_emulated_cudnn_require("log_sum", b->log_sum, rows * kind->heads * sizeof(float), sizeof(float));
    ls_emulated_cudnn_require("workspace", b->workspace, work->workspace_bytes, LS_CUDNN_ALIGNMENT);
    if (kind->backward) {
        ls_emulated_cudnn_require("dout", b->dout, bytes, LS_CUDNN_ALIGNMENT);
        ls_emulated_cudnn_require("dqkv", b->dqkv, 3 * bytes, LS_CUDNN_ALIGNMENT);
    }
}

static bool attend(void *context)
{
    const Work *work = context;
    const LsAttentionKind *kind = &work->kind;
    require_buffers(work);
    double *numbers = calloc(3 * kind->window * kind->size + kind->window, sizeof *numbers);
    if (!numbers)
        ls_emulator_fault("no memory for attention over %zu tokens", (size_t)kind->window);
    for (size_t window = 0; window < kind->windows; window++)
        for (size_t head = 0; head < kind->heads; head++)
            compute_head(&(Head){.work = work,
                .window = window,
                .head = head,
                .tokens = kind->window,
                .size = kind->size,
                .width = kind->heads * kind->size,
                .scale = 1 / sqrt((double)kind->size),
                .sums = numbers,
                .weights = numbers + 3 * kind->window * kind->size});
    // Nobody else's numbers outlive it in the workspace.
    memset(work->buffers.workspace, 0xff, work->workspace_bytes < 4096 ? work->workspace_bytes : 4096);
    free(numbers);
    return true;
}

LsStatus ls_cudnn_run(LsCudnn *library, LsCudnnPlan *plan, const LsAttentionBuffers *buffers)
{
    Work *work;
    LS_TRY(ls_memory_allocate(sizeof *work, (void **)&work));
    *work = (Work){plan->kind, *buffers, ls_cudnn_workspace(plan)};
    cudaError_t error = ls_emulator_enqueue(library->stream,
        &(LsEmulatedWork){.name = "attention", .advance = attend, .release = free, .context = work});
    if (error != cudaSuccess)
        return LS_FAIL(LS_UNAVAILABLE, "emulated cuDNN: attention failed: %s", cudaGetErrorName(error));
    return LS_OK;
}
