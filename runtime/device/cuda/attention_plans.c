// The table of cuDNN's plans for attention.
#include "attention_plans.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"

typedef struct Entry {
    LsAttentionKind kind;
    LsCudnnPlan *plan; // NULL: our own kernels
    uint64_t at_once;  // windows that the plan is for
} Entry;

struct LsAttentionPlans {
    LsCudaDevice *cuda;
    LsCudnn *library; // NULL until it is needed
    bool forbidden;
    Entry *entries;
    size_t count, capacity;
};

LsStatus ls_attention_plans_open(LsCudaDevice *cuda, LsAttentionPlans **out)
{
    LS_TRY(ls_memory_allocate(sizeof **out, (void **)out));
    (*out)->cuda = cuda;
    return LS_OK;
}

void ls_attention_plans_close(LsAttentionPlans *plans)
{
    if (!plans)
        return;
    for (size_t i = 0; i < plans->count; i++)
        ls_cudnn_forget(plans->entries[i].plan);
    ls_cudnn_close(plans->library);
    free(plans->entries);
    free(plans);
}

void ls_attention_plans_allow(LsAttentionPlans *plans, bool library)
{
    plans->forbidden = !library;
}

// ---- Making plans ---------------------------------------------------------------------------------------

static LsStatus make_plan(LsAttentionPlans *plans, Entry *entry)
{
    LsAttentionKind part = entry->kind;
    part.windows = entry->at_once =
        part.backward ? ls_attention_windows_at_once(part.windows, part.window, part.heads) : part.windows;
    if (part.windows == 0 || !ls_cudnn_is_there())
        return LS_OK;
    if (!plans->library)
        LS_TRY(ls_cudnn_open(plans->cuda->streams[LS_STREAM_COMPUTE], &plans->library));
    return ls_cudnn_plan(plans->library, &part, LS_ATTENTION_WORKSPACE, &entry->plan);
}

static void log_route(const Entry *entry)
{
    const LsAttentionKind *kind = &entry->kind;
    char route[96] = "our kernels", engine[32];
    if (entry->plan) {
        ls_cudnn_describe(entry->plan, engine, sizeof engine);
        snprintf(route, sizeof route, "cuDNN (%s, %zu windows at once, %.1f MiB of workspace)", engine,
            (size_t)entry->at_once, (double)ls_cudnn_workspace(entry->plan) / (1 << 20));
    }
    ls_debug("attention%s of %zux%zu tokens in %zu heads of %zu, %s: %s", kind->backward ? "_backward" : "",
        (size_t)kind->windows, (size_t)kind->window, (size_t)kind->heads, (size_t)kind->size,
        ls_dtype_name((LsDtype)kind->type), route);
}

static LsStatus add_entry(LsAttentionPlans *plans, const LsAttentionKind *kind, Entry **out)
{
    if (plans->count == plans->capacity) {
        size_t capacity = plans->capacity ? 2 * plans->capacity : 8;
        Entry *entries;
        LS_TRY(ls_memory_allocate(capacity * sizeof *entries, (void **)&entries));
        if (plans->count)
            memcpy(entries, plans->entries, plans->count * sizeof *entries);
        free(plans->entries);
        plans->entries = entries;
        plans->capacity = capacity;
    }
    Entry entry = {.kind = *kind};
    LS_TRY(ls_cuda_require_no_capture(plans->cuda, "attention of a shape that comes for the first time"));
    LS_TRY(make_plan(plans, &entry));
    log_route(&entry);
    plans->entries[plans->count] = entry;
    *out = &plans->entries[plans->count++];
    return LS_OK;
}

static LsStatus find_entry(LsAttentionPlans *plans, const LsAttentionKind *kind, Entry **out)
{
    for (size_t i = 0; i < plans->count; i++)
        if (memcmp(&plans->entries[i].kind, kind, sizeof *kind) == 0) {
            *out = &plans->entries[i];
            return LS_OK;
        }
    return add_entry(plans, kind, out);
}

// ---- Running --------------------------------------------------------------------------------------------

// What is made of groups of 16 bytes. The library relies on its alignment; what is less aligned, which is
// nothing of our models, is moved through scratch memory, so that the shape alone decides who computes.
enum { QKV, OUT, DOUT, DQKV, PIECES };
typedef struct Piece {
    void *memory; // NULL: none
    size_t bytes;
    bool read;   // by the library; else written
    void *place; // where the library finds it
} Piece;

static void list_pieces(const LsAttentionKind *kind, const LsAttentionBuffers *buffers, Piece pieces[PIECES])
{
    bool backward = kind->backward;
    size_t bytes = kind->windows * kind->window * kind->heads * kind->size * sizeof(uint16_t);
    pieces[QKV] = (Piece){(void *)buffers->qkv, 3 * bytes, true, (void *)buffers->qkv};
    pieces[OUT] = (Piece){buffers->out, bytes, backward, buffers->out};
    pieces[DOUT] = (Piece){(void *)buffers->dout, bytes, true, (void *)buffers->dout};
    pieces[DQKV] = (Piece){buffers->dqkv, 3 * bytes, false, buffers->dqkv};
}

static bool is_moved(const Piece *piece)
{
    return (uintptr_t)piece->memory % LS_CUDNN_ALIGNMENT != 0;
}

// Places for what is moved, behind the workspace.
static LsStatus place_pieces(
    LsCudaDevice *cuda, size_t workspace_bytes, Piece pieces[PIECES], void **workspace)
{
    size_t bytes = ls_round_up(workspace_bytes, LS_ALIGNMENT);
    for (int i = 0; i < PIECES; i++)
        bytes += is_moved(&pieces[i]) ? ls_round_up(pieces[i].bytes, LS_ALIGNMENT) : 0;
    LS_TRY(ls_cuda_scratch(cuda, bytes, workspace));
    char *next = (char *)*workspace + ls_round_up(workspace_bytes, LS_ALIGNMENT);
    for (int i = 0; i < PIECES; i++)
        if (is_moved(&pieces[i])) {
            pieces[i].place = next;
            next += ls_round_up(pieces[i].bytes, LS_ALIGNMENT);
            if (pieces[i].read)
                LS_TRY(ls_cuda_copy(&cuda->base, pieces[i].place, pieces[i].memory, pieces[i].bytes));
        }
    return LS_OK;
}

static LsStatus return_pieces(LsCudaDevice *cuda, const Piece pieces[PIECES])
{
    for (int i = 0; i < PIECES; i++)
        if (is_moved(&pieces[i]) && !pieces[i].read)
            LS_TRY(ls_cuda_copy(&cuda->base, pieces[i].memory, pieces[i].place, pieces[i].bytes));
    return LS_OK;
}

// One piece's bytes from window `first` of `windows` on.
static void *from_window(const Piece *piece, uint64_t first, uint64_t windows)
{
    return piece->place ? (char *)piece->place + piece->bytes / windows * first : NULL;
}

static LsStatus run_parts(const LsAttentionPlans *plans, const Entry *entry, const Piece pieces[PIECES],
    float *log_sum, void *workspace)
{
    const LsAttentionKind *kind = &entry->kind;
    for (uint64_t first = 0; first < kind->windows; first += entry->at_once) {
        LsAttentionBuffers part = {.qkv = from_window(&pieces[QKV], first, kind->windows),
            .out = from_window(&pieces[OUT], first, kind->windows),
            .log_sum = log_sum + first * kind->heads * kind->window,
            .dout = from_window(&pieces[DOUT], first, kind->windows),
            .dqkv = from_window(&pieces[DQKV], first, kind->windows),
            .workspace = workspace};
        LS_TRY(ls_cudnn_run(plans->library, entry->plan, &part));
    }
    return LS_OK;
}

LsStatus ls_attention_by_library(
    LsAttentionPlans *plans, const LsAttentionKind *kind, const LsAttentionBuffers *buffers, bool *done)
{
    Entry *entry;
    Piece pieces[PIECES];
    void *workspace;
    *done = false;
    if (plans->forbidden || kind->windows == 0 ||
        !ls_attention_asks_library(kind->window, kind->size, (LsDtype)kind->type))
        return LS_OK;
    LS_TRY(ls_cuda_require_compute(plans->cuda, "attention"));
    LS_TRY(find_entry(plans, kind, &entry));
    if (!entry->plan)
        return LS_OK;
    list_pieces(kind, buffers, pieces);
    LS_TRY(place_pieces(plans->cuda, ls_cudnn_workspace(entry->plan), pieces, &workspace));
    LS_TRY(run_parts(plans, entry, pieces, buffers->log_sum, workspace));
    LS_TRY(return_pieces(plans->cuda, pieces));
    *done = true;
    return LS_OK;
}
