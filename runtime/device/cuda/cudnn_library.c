// Opening cuDNN, and its search for a plan: the library proposes, the first that will do is taken.
#include "cudnn_search.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

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

// Whether the engine has none of the notes.
static bool is_without(LsCudnnGraph *process, LsCudnnDescriptor engine, uint32_t refused)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t count = 0;
    get(process, engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
        CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, notes);
    for (int64_t i = 0; i < count && process->status == CUDNN_STATUS_SUCCESS; i++)
        if (refused >> notes[i] & 1)
            return false;
    return process->status == CUDNN_STATUS_SUCCESS;
}

// Makes a plan of a proposal and sets search->plan if it will do. search->process.status says what went
// wrong.
static void try_proposal(LsCudnnSearch *search, LsCudnnDescriptor proposal, const LsCudnnLimits *limits)
{
    LsCudnnGraph *process = &search->process;
    LsCudnnDescriptor engine = ls_cudnn_create(process, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    int64_t count = 0, bytes = 0;
    get(process, proposal, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &engine);
    get(process, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count, &search->engine);
    if (!is_without(process, engine, limits->notes | 1u << CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC))
        return;
    LsCudnnDescriptor made = ls_cudnn_create(process, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    ls_cudnn_set_descriptor(process, made, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, proposal);
    ls_cudnn_finalize(process, made);
    get(process, made, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count, &bytes);
    if (process->status != CUDNN_STATUS_SUCCESS)
        return;
    search->bytes = ls_round_up((size_t)bytes, WORKSPACE_ALIGNMENT);
    if (search->bytes <= limits->workspace)
        search->plan = made;
}

enum { MOST_PROPOSALS = 16 };

// What the heuristics propose in one of their modes, the best first.
static int64_t propose(LsCudnn *library, LsCudnnDescriptor graph, cudnnBackendHeurMode_t mode,
    LsCudnnGraph *process, LsCudnnDescriptor *proposals)
{
    int64_t count = 0;
    LsCudnnDescriptor heuristics = ls_cudnn_create(process, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    ls_cudnn_set_descriptor(process, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    ls_cudnn_set(process, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (library->gpu)
        ls_cudnn_set_descriptor(process, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, library->gpu);
    ls_cudnn_finalize(process, heuristics);
    for (int i = 0; i < MOST_PROPOSALS; i++)
        proposals[i] = ls_cudnn_create(process, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    get(process, heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, MOST_PROPOSALS,
        &count, proposals);
    return process->status != CUDNN_STATUS_SUCCESS ? 0 : count < MOST_PROPOSALS ? count : MOST_PROPOSALS;
}

// The heuristics are a function of the graph, the GPU and the library's version, and nothing is measured:
// every rank, and every resume with the same fingerprint, gets the same.
static LsStatus search_graph(
    LsCudnn *library, LsCudnnSearch *search, LsCudnnDescriptor graph, const LsCudnnLimits *limits)
{
    static const cudnnBackendHeurMode_t modes[] = {
        CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B, CUDNN_HEUR_MODE_FALLBACK};
    LsCudnnDescriptor proposals[MOST_PROPOSALS];
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        int64_t count = propose(library, graph, modes[m], &search->process, proposals);
        for (int64_t i = 0; i < count && !search->plan; i++) {
            try_proposal(search, proposals[i], limits);
            if (is_refusal(search->process.status))
                search->process.status = CUDNN_STATUS_SUCCESS;
        }
        if (search->plan)
            return LS_OK;
        if (!is_refusal(search->process.status))
            LS_TRY(ls_cudnn_check(search->process.status, limits->what));
        ls_cudnn_graph_release(&search->process);
        search->process = (LsCudnnGraph){.status = CUDNN_STATUS_SUCCESS};
    }
    return LS_OK;
}

LsStatus ls_cudnn_search(LsCudnn *library, LsCudnnSearch *search, const LsCudnnLimits *limits)
{
    LsCudnnGraph *graph = &search->graph;
    LsCudnnDescriptor whole = ls_cudnn_create(graph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    ls_cudnn_set(graph, whole, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
        (int64_t)graph->operation_count, graph->operations);
    if (library->handle)
        ls_cudnn_set(graph, whole, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &library->handle);
    ls_cudnn_finalize(graph, whole);
    if (is_refusal(graph->status))
        return LS_OK;
    LS_TRY(ls_cudnn_check(graph->status, limits->what));
    return search_graph(library, search, whole, limits);
}

void ls_cudnn_search_release(LsCudnnSearch *search)
{
    ls_cudnn_graph_release(&search->process);
    ls_cudnn_graph_release(&search->graph);
}

// ---- Running --------------------------------------------------------------------------------------------

enum { MOST_PLACES = 32 };

LsStatus ls_cudnn_execute(LsCudnn *library, const LsCudnnSearch *search, int64_t count, void *const places[],
    void *workspace, const char *what)
{
    LsCudnnGraph pack = {.status = count > MOST_PLACES ? CUDNN_STATUS_BAD_PARAM : CUDNN_STATUS_SUCCESS};
    int64_t ids[MOST_PLACES];
    for (int64_t i = 0; i < count && i < MOST_PLACES; i++)
        ids[i] = i + 1;
    LsCudnnDescriptor memory = ls_cudnn_create(&pack, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    ls_cudnn_set(&pack, memory, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids);
    ls_cudnn_set(&pack, memory, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, places);
    ls_cudnn_set(&pack, memory, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    ls_cudnn_finalize(&pack, memory);
    if (pack.status == CUDNN_STATUS_SUCCESS)
        pack.status = ls_cudnn.BackendExecute(library->handle, search->plan, memory);
    LsStatus status = ls_cudnn_check(pack.status, what);
    ls_cudnn_graph_release(&pack);
    return status;
}
