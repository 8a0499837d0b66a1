// Attention as graphs of cuDNN's operations. The library knows the graphs of attention by their form and has
// kernels for them; the forms are those that NVIDIA's open front end (cudnn-frontend, its nodes of scaled dot
// product attention) gives to cuDNN 9.18 and newer.
#include "cudnn_attention.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cudnn_search.h"

struct LsCudnnPlan {
    LsAttentionKind kind;
    LsCudnnSearch search; // whose workspace sums of rows are behind
    float scale, masked, one;
};

// ---- The graphs -----------------------------------------------------------------------------------------

// What is in memory.
enum {
    ID_QUERIES = 1,
    ID_KEYS,
    ID_VALUES,
    ID_OUT,
    ID_LOG_SUM,
    ID_SCALE,
    ID_MASKED, // -infinity
    ID_ONE,
    ID_DOUT,
    ID_DQUERIES,
    ID_DKEYS,
    ID_DVALUES,
    ID_ROW_SUMS,
    IDS
};

// A graph while it is written down, and the layouts in it: T tokens, D numbers of a head.
typedef struct Form {
    LsCudnnGraph *graph;
    cudnnDataType_t type;
    LsCudnnLayout packed, out;      // [T][D], rows of qkv and of out
    LsCudnnLayout scores, by_key;   // [T queries][T keys], and its transpose
    LsCudnnLayout rows, contiguous; // [T][1] of log_sum, and [T][D] in F32 between operations
} Form;

static LsCudnnLayout transposed(LsCudnnLayout layout)
{
    LsCudnnLayout swapped = layout;
    swapped.sizes[2] = layout.sizes[3], swapped.sizes[3] = layout.sizes[2];
    swapped.strides[2] = layout.strides[3], swapped.strides[3] = layout.strides[2];
    return swapped;
}

static Form form_of(const LsAttentionKind *kind, LsCudnnGraph *graph)
{
    int64_t windows = (int64_t)kind->windows, tokens = (int64_t)kind->window, heads = (int64_t)kind->heads;
    int64_t size = (int64_t)kind->size, width = heads * size;
    Form f = {.graph = graph,
        .type = kind->type == LS_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF,
        .packed = {{windows, heads, tokens, size}, {tokens * 3 * width, size, 3 * width, 1}},
        .out = {{windows, heads, tokens, size}, {tokens * width, size, width, 1}},
        .scores = {{windows, heads, tokens, tokens}, {heads * tokens * tokens, tokens * tokens, tokens, 1}},
        .rows = {{windows, heads, tokens, 1}, {heads * tokens, tokens, 1, 1}},
        .contiguous = {{windows, heads, tokens, size}, {heads * tokens * size, tokens * size, size, 1}}};
    f.by_key = f.scores; // [T keys][T queries]: sizes are the same
    f.by_key.strides[2] = 1, f.by_key.strides[3] = tokens;
    return f;
}

// In memory, 16-bit.
static LsCudnnDescriptor numbers(const Form *f, int64_t id, LsCudnnLayout layout)
{
    return ls_cudnn_tensor(f->graph, id, f->type, &layout, LS_CUDNN_ALIGNMENT);
}

static LsCudnnDescriptor row_values(const Form *f, int64_t id)
{
    return ls_cudnn_tensor(f->graph, id, CUDNN_DATA_FLOAT, &f->rows, sizeof(float));
}

static LsCudnnDescriptor new_scores(const Form *f)
{
    return ls_cudnn_between(f->graph, CUDNN_DATA_FLOAT, &f->scores);
}

static LsCudnnDescriptor new_rows(const Form *f)
{
    return ls_cudnn_between(f->graph, CUDNN_DATA_FLOAT, &f->rows);
}

// f(a, b) for each score; b may be a row's value or a scalar, or NULL.
static LsCudnnDescriptor each_score(
    const Form *f, cudnnPointwiseMode_t mode, LsCudnnDescriptor a, LsCudnnDescriptor b)
{
    return ls_cudnn_pointwise(f->graph, mode, a, b, new_scores(f));
}

// -infinity where the key comes after the query.
static LsCudnnDescriptor causal(const Form *f, LsCudnnDescriptor scores)
{
    LsCudnnDescriptor masked = ls_cudnn_scalar(f->graph, ID_MASKED);
    LsCudnnDescriptor query = ls_cudnn_between(f->graph, CUDNN_DATA_INT32, &f->scores);
    LsCudnnDescriptor key = ls_cudnn_between(f->graph, CUDNN_DATA_INT32, &f->scores);
    LsCudnnDescriptor seen = ls_cudnn_between(f->graph, CUDNN_DATA_BOOLEAN, &f->scores);
    ls_cudnn_index(f->graph, 2, scores, query);
    ls_cudnn_index(f->graph, 3, scores, key);
    ls_cudnn_pointwise(f->graph, CUDNN_POINTWISE_CMP_GE, query, key, seen);
    return ls_cudnn_select(f->graph, seen, scores, masked, new_scores(f));
}

// log_sum = max + log(sum of exp(score - max)), the natural logarithm of the sum of exponentials of the
// scaled scores that may be seen: what LsAttention asks for.
static void describe_forward(const Form *f)
{
    LsCudnnGraph *graph = f->graph;
    LsCudnnDescriptor queries = numbers(f, ID_QUERIES, f->packed);
    LsCudnnDescriptor keys = numbers(f, ID_KEYS, transposed(f->packed)); // [D][T]
    LsCudnnDescriptor values = numbers(f, ID_VALUES, f->packed), out = numbers(f, ID_OUT, f->out);
    LsCudnnDescriptor log_sum = row_values(f, ID_LOG_SUM), scale = ls_cudnn_scalar(graph, ID_SCALE);

    LsCudnnDescriptor scores = ls_cudnn_matmul(graph, queries, keys, new_scores(f));
    scores = causal(f, each_score(f, CUDNN_POINTWISE_MUL, scores, scale));
    LsCudnnDescriptor most = ls_cudnn_reduce(graph, CUDNN_REDUCE_TENSOR_MAX, scores, new_rows(f));
    LsCudnnDescriptor less = each_score(f, CUDNN_POINTWISE_SUB, scores, most);
    LsCudnnDescriptor weights = each_score(f, CUDNN_POINTWISE_EXP, less, NULL);
    LsCudnnDescriptor sum = ls_cudnn_reduce(graph, CUDNN_REDUCE_TENSOR_ADD, weights, new_rows(f));
    LsCudnnDescriptor log = ls_cudnn_pointwise(graph, CUDNN_POINTWISE_LOG, sum, NULL, new_rows(f));
    ls_cudnn_pointwise(graph, CUDNN_POINTWISE_ADD, most, log, log_sum);
    LsCudnnDescriptor rounded = ls_cudnn_between(graph, f->type, &f->scores);
    ls_cudnn_pointwise(graph, CUDNN_POINTWISE_DIV, weights, sum, rounded);
    ls_cudnn_matmul(graph, rounded, values, out);
}

// Row sums of out · dout, kept in the workspace: the library has no form without them.
static LsCudnnDescriptor describe_row_sums(const Form *f, LsCudnnDescriptor out, LsCudnnDescriptor dout)
{
    LsCudnnDescriptor sums = row_values(f, ID_ROW_SUMS), one = ls_cudnn_scalar(f->graph, ID_ONE);
    LsCudnnDescriptor products = ls_cudnn_between(f->graph, CUDNN_DATA_FLOAT, &f->contiguous);
    ls_cudnn_pointwise(f->graph, CUDNN_POINTWISE_MUL, dout, out, products);
    LsCudnnDescriptor sum = ls_cudnn_reduce(f->graph, CUDNN_REDUCE_TENSOR_ADD, products, new_rows(f));
    return ls_cudnn_pointwise(f->graph, CUDNN_POINTWISE_MUL, sum, one, sums);
}

// Scores, or gradients of scores, rounded and with a row for each key.
static LsCudnnDescriptor by_key(const Form *f, LsCudnnDescriptor scores)
{
    return ls_cudnn_reshape(f->graph, scores, ls_cudnn_between(f->graph, f->type, &f->by_key));
}

// What makes it deterministic is the last product, which goes to dqueries itself: with a tensor in F32
// between the two, blocks of keys add to it atomically. The library then keeps the gradients of scores in the
// workspace, windows × heads × T × T numbers of the type, T rounded up to 128, and sums over keys afterwards.
// The machine code that cuDNN 9.19 compiles of this form for compute capability 8.0 and 9.0 has no atomic
// addition of floats; that of the other form has.
static void describe_backward(const Form *f)
{
    LsCudnnGraph *graph = f->graph;
    LsCudnnDescriptor queries = numbers(f, ID_QUERIES, f->packed);
    LsCudnnDescriptor keys = numbers(f, ID_KEYS, transposed(f->packed));
    LsCudnnDescriptor values = numbers(f, ID_VALUES, transposed(f->packed));
    LsCudnnDescriptor out = numbers(f, ID_OUT, f->out), dout = numbers(f, ID_DOUT, f->out);
    LsCudnnDescriptor dqueries = numbers(f, ID_DQUERIES, f->packed), dkeys = numbers(f, ID_DKEYS, f->packed);
    LsCudnnDescriptor dvalues = numbers(f, ID_DVALUES, f->packed);
    LsCudnnDescriptor log_sum = row_values(f, ID_LOG_SUM), scale = ls_cudnn_scalar(graph, ID_SCALE);

    LsCudnnDescriptor row_sums = describe_row_sums(f, out, dout);
    LsCudnnDescriptor scores = ls_cudnn_matmul(graph, queries, keys, new_scores(f));
    scores = each_score(f, CUDNN_POINTWISE_MUL, scores, scale);
    scores = causal(f, each_score(f, CUDNN_POINTWISE_SUB, scores, log_sum));
    LsCudnnDescriptor weights = each_score(f, CUDNN_POINTWISE_EXP, scores, NULL);
    ls_cudnn_matmul(graph, by_key(f, weights), dout, dvalues);

    LsCudnnDescriptor dweights = ls_cudnn_matmul(graph, dout, values, new_scores(f));
    LsCudnnDescriptor less = each_score(f, CUDNN_POINTWISE_SUB, dweights, row_sums);
    LsCudnnDescriptor dscores = each_score(f, CUDNN_POINTWISE_MUL, less, weights);
    dscores = each_score(f, CUDNN_POINTWISE_MUL, dscores, scale);
    ls_cudnn_matmul(graph, by_key(f, dscores), queries, dkeys);
    LsCudnnDescriptor keys_in_rows = ls_cudnn_between(graph, f->type, &f->packed);
    ls_cudnn_reshape(graph, keys, keys_in_rows);
    ls_cudnn_matmul(graph, dscores, keys_in_rows, dqueries);
}

// ---- Plans ----------------------------------------------------------------------------------------------

static size_t row_sum_bytes(const LsAttentionKind *kind)
{
    return kind->backward ? kind->windows * kind->heads * kind->window * sizeof(float) : 0;
}

static LsStatus make_plan(LsCudnn *library, LsCudnnPlan *plan, size_t most_workspace)
{
    size_t sums = row_sum_bytes(&plan->kind);
    if (sums > most_workspace)
        return LS_OK;
    Form form = form_of(&plan->kind, &plan->search.graph);
    if (plan->kind.backward)
        describe_backward(&form);
    else
        describe_forward(&form);
    // No graph of ours should be given a kernel that is noted as nondeterministic; see describe_backward for
    // what the note does not cover.
    return ls_cudnn_search(library, &plan->search,
        &(LsCudnnLimits){.workspace = most_workspace - sums, .what = "planning attention"});
}

LsStatus ls_cudnn_plan(
    LsCudnn *library, const LsAttentionKind *kind, size_t most_workspace, LsCudnnPlan **out)
{
    LsCudnnPlan *plan;
    *out = NULL;
    LS_TRY(ls_memory_allocate(sizeof *plan, (void **)&plan));
    plan->kind = *kind;
    plan->scale = 1.0f / sqrtf((float)kind->size);
    plan->masked = -INFINITY;
    plan->one = 1;
    LsStatus status = make_plan(library, plan, most_workspace);
    if (status == LS_OK && plan->search.plan)
        *out = plan;
    else
        ls_cudnn_forget(plan);
    return status;
}

void ls_cudnn_forget(LsCudnnPlan *plan)
{
    if (!plan)
        return;
    ls_cudnn_search_release(&plan->search);
    free(plan);
}

size_t ls_cudnn_workspace(const LsCudnnPlan *plan)
{
    return plan->search.bytes + row_sum_bytes(&plan->kind);
}

void ls_cudnn_describe(const LsCudnnPlan *plan, char *text, size_t size)
{
    snprintf(text, size, "engine %d", (int)plan->search.engine);
}

// ---- Running --------------------------------------------------------------------------------------------

// Where what has an id is, in ascending order of id from 1 on.
static int64_t find_places(const LsCudnnPlan *plan, const LsAttentionBuffers *buffers, void *places[IDS])
{
    size_t width = plan->kind.heads * plan->kind.size * sizeof(uint16_t);
    char *qkv = (char *)buffers->qkv, *dqkv = buffers->dqkv;
    void *all[IDS] = {[ID_QUERIES] = qkv,
        [ID_KEYS] = qkv + width,
        [ID_VALUES] = qkv + 2 * width,
        [ID_OUT] = buffers->out,
        [ID_LOG_SUM] = buffers->log_sum,
        [ID_SCALE] = (void *)&plan->scale,
        [ID_MASKED] = (void *)&plan->masked};
    if (plan->kind.backward) {
        all[ID_ONE] = (void *)&plan->one;
        all[ID_DOUT] = (void *)buffers->dout;
        all[ID_DQUERIES] = dqkv;
        all[ID_DKEYS] = dqkv + width;
        all[ID_DVALUES] = dqkv + 2 * width;
        all[ID_ROW_SUMS] = (char *)buffers->workspace + plan->search.bytes;
    }
    memcpy(places, all + 1, (IDS - 1) * sizeof *places);
    return plan->kind.backward ? IDS - 1 : ID_MASKED;
}

LsStatus ls_cudnn_run(LsCudnn *library, LsCudnnPlan *plan, const LsAttentionBuffers *buffers)
{
    void *places[IDS];
    int64_t count = find_places(plan, buffers, places);
    return ls_cudnn_execute(library, &plan->search, count, places, buffers->workspace,
        plan->kind.backward ? "attention_backward" : "attention");
}
