// Attention as graphs of cuDNN's operations. The library knows the graphs of attention by their form and has
// kernels for them; the forms are those that NVIDIA's open front end (cudnn-frontend, its nodes of scaled dot
// product attention) gives to cuDNN 9.18 and newer.
#include "cudnn_attention.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cudnn_operations.h"

struct LsCudnn {
    cudnnHandle_t handle;   // NULL: the GPU is described
    LsCudnnGraph described; // holds `gpu`
    LsCudnnDescriptor gpu;
};

struct LsCudnnPlan {
    LsAttentionKind kind;
    LsCudnnGraph graph;  // tensors and operations
    LsCudnnGraph search; // heuristics, their proposals, and the plan
    LsCudnnDescriptor plan;
    size_t library_bytes; // of the workspace; sums of rows are behind it
    int64_t engine;
    float scale, masked, one;
};

enum { WORKSPACE_ALIGNMENT = 256 };

// ---- Opening --------------------------------------------------------------------------------------------

bool ls_cudnn_is_there(void)
{
    return ls_cudnn_load() == LS_OK;
}

void ls_cudnn_version(char *text, size_t size)
{
    if (ls_cudnn_load() != LS_OK) {
        snprintf(text, size, "no cuDNN (%s)", ls_status_message());
        return;
    }
    size_t version = ls_cudnn.GetVersion();
    snprintf(text, size, "cuDNN %zu.%zu.%zu (NVRTC %d.%d)", version / 10000, version / 100 % 100,
        version % 100, ls_cudnn_nvrtc[0], ls_cudnn_nvrtc[1]);
}

LsStatus ls_cudnn_open(cudaStream_t stream, LsCudnn **out)
{
    LsCudnn *library;
    LS_TRY(ls_cudnn_load());
    LS_TRY(ls_memory_allocate(sizeof *library, (void **)&library));
    LsStatus status = ls_cudnn_check(ls_cudnn.Create(&library->handle), "opening it");
    if (status == LS_OK)
        status = ls_cudnn_check(ls_cudnn.SetStream(library->handle, stream), "giving it a stream");
    if (status != LS_OK) {
        ls_cudnn_close(library);
        return status;
    }
    *out = library;
    return LS_OK;
}

LsStatus ls_cudnn_open_described(const char *gpu, LsCudnn **out)
{
    LsCudnn *library;
    LS_TRY(ls_cudnn_load());
    LS_TRY(ls_memory_allocate(sizeof *library, (void **)&library));
    LsCudnnGraph *graph = &library->described;
    library->gpu = ls_cudnn_create(graph, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    ls_cudnn_set(graph, library->gpu, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
        (int64_t)strlen(gpu), gpu);
    ls_cudnn_finalize(graph, library->gpu);
    LsStatus status = ls_cudnn_check(graph->status, "reading the description of a GPU");
    if (status != LS_OK) {
        ls_cudnn_close(library);
        return status;
    }
    *out = library;
    return LS_OK;
}

void ls_cudnn_close(LsCudnn *library)
{
    if (!library)
        return;
    ls_cudnn_graph_release(&library->described);
    if (library->handle)
        ls_cudnn.Destroy(library->handle);
    free(library);
}

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

// The library, not we, decides what it has a kernel for; that its compiler fails on one is such an answer as
// well.
static bool is_refusal(cudnnStatus_t status)
{
    return status / 1000 == CUDNN_STATUS_NOT_SUPPORTED / 1000 ||
           status == CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED;
}

static void get(LsCudnnGraph *graph, LsCudnnDescriptor from, cudnnBackendAttributeName_t attribute,
    cudnnBackendAttributeType_t type, int64_t most, int64_t *count, void *values)
{
    if (graph->status == CUDNN_STATUS_SUCCESS)
        graph->status = ls_cudnn.BackendGetAttribute(from, attribute, type, most, count, values);
}

// No graph of ours should be given a kernel with this note; see describe_backward for what it does not cover.
static bool is_deterministic(LsCudnnGraph *search, LsCudnnDescriptor engine)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t count = 0;
    get(search, engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
        CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, notes);
    for (int64_t i = 0; i < count && search->status == CUDNN_STATUS_SUCCESS; i++)
        if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)
            return false;
    return search->status == CUDNN_STATUS_SUCCESS;
}

// Makes a plan of a proposal and sets plan->plan if it will do. search->status says what went wrong.
static void try_proposal(LsCudnnPlan *plan, LsCudnnDescriptor proposal, size_t most_workspace)
{
    LsCudnnGraph *search = &plan->search;
    LsCudnnDescriptor engine = ls_cudnn_create(search, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    int64_t count = 0, bytes = 0;
    get(search, proposal, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &engine);
    get(search, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count, &plan->engine);
    if (!is_deterministic(search, engine))
        return;
    LsCudnnDescriptor made = ls_cudnn_create(search, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    ls_cudnn_set_descriptor(search, made, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, proposal);
    ls_cudnn_finalize(search, made);
    get(search, made, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count, &bytes);
    if (search->status != CUDNN_STATUS_SUCCESS)
        return;
    plan->library_bytes = ls_round_up((size_t)bytes, WORKSPACE_ALIGNMENT);
    if (ls_cudnn_workspace(plan) <= most_workspace)
        plan->plan = made;
}

enum { MOST_PROPOSALS = 16 };

// What the heuristics propose in one of their modes, the best first.
static int64_t propose(LsCudnn *library, LsCudnnDescriptor graph, cudnnBackendHeurMode_t mode,
    LsCudnnGraph *search, LsCudnnDescriptor *proposals)
{
    int64_t count = 0;
    LsCudnnDescriptor heuristics = ls_cudnn_create(search, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    ls_cudnn_set_descriptor(search, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    ls_cudnn_set(search, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (library->gpu)
        ls_cudnn_set_descriptor(search, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, library->gpu);
    ls_cudnn_finalize(search, heuristics);
    for (int i = 0; i < MOST_PROPOSALS; i++)
        proposals[i] = ls_cudnn_create(search, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    get(search, heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, MOST_PROPOSALS,
        &count, proposals);
    return search->status != CUDNN_STATUS_SUCCESS ? 0 : count < MOST_PROPOSALS ? count : MOST_PROPOSALS;
}

// The first proposal that will do. The heuristics are a function of the graph, the GPU and the library's
// version, and nothing is measured: every rank, and every resume with the same fingerprint, gets the same.
static LsStatus search_plan(
    LsCudnn *library, LsCudnnPlan *plan, LsCudnnDescriptor graph, size_t most_workspace)
{
    static const cudnnBackendHeurMode_t modes[] = {
        CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B, CUDNN_HEUR_MODE_FALLBACK};
    LsCudnnDescriptor proposals[MOST_PROPOSALS];
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        int64_t count = propose(library, graph, modes[m], &plan->search, proposals);
        for (int64_t i = 0; i < count && !plan->plan; i++) {
            try_proposal(plan, proposals[i], most_workspace);
            if (is_refusal(plan->search.status))
                plan->search.status = CUDNN_STATUS_SUCCESS;
        }
        if (plan->plan)
            return LS_OK;
        if (!is_refusal(plan->search.status))
            LS_TRY(ls_cudnn_check(plan->search.status, "planning attention"));
        ls_cudnn_graph_release(&plan->search);
        plan->search = (LsCudnnGraph){.status = CUDNN_STATUS_SUCCESS};
    }
    return LS_OK;
}

static LsStatus make_plan(LsCudnn *library, LsCudnnPlan *plan, size_t most_workspace)
{
    LsCudnnGraph *graph = &plan->graph;
    Form form = form_of(&plan->kind, graph);
    if (plan->kind.backward)
        describe_backward(&form);
    else
        describe_forward(&form);
    LsCudnnDescriptor whole = ls_cudnn_create(graph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    ls_cudnn_set(graph, whole, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
        (int64_t)graph->operation_count, graph->operations);
    if (library->handle)
        ls_cudnn_set(graph, whole, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &library->handle);
    ls_cudnn_finalize(graph, whole);
    if (is_refusal(graph->status))
        return LS_OK;
    LS_TRY(ls_cudnn_check(graph->status, "describing attention"));
    return search_plan(library, plan, whole, most_workspace);
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
    if (status == LS_OK && plan->plan)
        *out = plan;
    else
        ls_cudnn_forget(plan);
    return status;
}

void ls_cudnn_forget(LsCudnnPlan *plan)
{
    if (!plan)
        return;
    ls_cudnn_graph_release(&plan->search);
    ls_cudnn_graph_release(&plan->graph);
    free(plan);
}

size_t ls_cudnn_workspace(const LsCudnnPlan *plan)
{
    const LsAttentionKind *kind = &plan->kind;
    size_t sums = kind->backward ? kind->windows * kind->heads * kind->window * sizeof(float) : 0;
    return plan->library_bytes + sums;
}

void ls_cudnn_describe(const LsCudnnPlan *plan, char *text, size_t size)
{
    snprintf(text, size, "engine %d", (int)plan->engine);
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
        all[ID_ROW_SUMS] = (char *)buffers->workspace + plan->library_bytes;
    }
    memcpy(places, all + 1, (IDS - 1) * sizeof *places);
    return plan->kind.backward ? IDS - 1 : ID_MASKED;
}

LsStatus ls_cudnn_run(LsCudnn *library, LsCudnnPlan *plan, const LsAttentionBuffers *buffers)
{
    LsCudnnGraph pack = {.status = CUDNN_STATUS_SUCCESS};
    int64_t ids[IDS];
    void *places[IDS];
    int64_t count = find_places(plan, buffers, places);
    for (int64_t i = 0; i < count; i++)
        ids[i] = i + 1;
    LsCudnnDescriptor memory = ls_cudnn_create(&pack, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    ls_cudnn_set(&pack, memory, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids);
    ls_cudnn_set(&pack, memory, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, places);
    ls_cudnn_set(
        &pack, memory, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &buffers->workspace);
    ls_cudnn_finalize(&pack, memory);
    if (pack.status == CUDNN_STATUS_SUCCESS)
        pack.status = ls_cudnn.BackendExecute(library->handle, plan->plan, memory);
    LsStatus status = ls_cudnn_check(pack.status, plan->kind.backward ? "attention_backward" : "attention");
    ls_cudnn_graph_release(&pack);
    return status;
}
