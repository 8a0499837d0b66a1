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

// What cuDNN is asked about: 16-bit types, and heads whose rows are whole groups of 16 bytes. Its backward
// pass is wrong for windows of one token, by its release notes.
static bool may_be_library(const LsAttentionKind *kind)
{
    enum { GROUP = 8, LARGEST = 128 };
    return (kind->type == LS_BF16 || kind->type == LS_F16) && kind->windows > 0 && kind->window > 1 &&
           kind->size % GROUP == 0 && kind->size <= LARGEST;
}

// Of the workspace of one window, what it grows with; see describe_backward in cudnn_attention.c.
static uint64_t window_bytes(const LsAttentionKind *kind)
{
    enum { TILE = 128 };
    uint64_t keys = ls_round_up(kind->window, TILE);
    return kind->backward ? kind->heads * (keys * keys * sizeof(uint16_t) + kind->window * sizeof(float)) : 0;
}

// The most windows that divide into all of them and leave room for the rest of the workspace, 0 for none.
static uint64_t windows_at_once(const LsAttentionKind *kind)
{
    enum { REST = 1 << 20 };
    uint64_t at_once = kind->windows;
    while (at_once > 0 &&
           (kind->windows % at_once != 0 || window_bytes(kind) > (LS_ATTENTION_WORKSPACE - REST) / at_once))
        at_once--;
    return at_once;
}

static LsStatus make_plan(LsAttentionPlans *plans, Entry *entry)
{
    LsAttentionKind part = entry->kind;
    part.windows = entry->at_once = windows_at_once(&entry->kind);
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

// Our models' buffers all are, so that the shape alone decides for them.
static bool are_aligned(const LsAttentionBuffers *buffers)
{
    uintptr_t all = (uintptr_t)buffers->qkv | (uintptr_t)buffers->out | (uintptr_t)buffers->dout |
                    (uintptr_t)buffers->dqkv;
    return all % LS_CUDNN_ALIGNMENT == 0;
}

// The buffers from window `first` on.
static LsAttentionBuffers part_of(
    const LsAttentionKind *kind, const LsAttentionBuffers *buffers, uint64_t first, void *workspace)
{
    size_t rows = first * kind->window, bytes = rows * kind->heads * kind->size * sizeof(uint16_t);
    LsAttentionBuffers part = {.qkv = (const char *)buffers->qkv + 3 * bytes,
        .out = (char *)buffers->out + bytes,
        .log_sum = buffers->log_sum + rows * kind->heads,
        .workspace = workspace};
    if (kind->backward) {
        part.dout = (const char *)buffers->dout + bytes;
        part.dqkv = (char *)buffers->dqkv + 3 * bytes;
    }
    return part;
}

LsStatus ls_attention_by_library(
    LsAttentionPlans *plans, const LsAttentionKind *kind, const LsAttentionBuffers *buffers, bool *done)
{
    Entry *entry;
    void *workspace;
    *done = false;
    if (plans->forbidden || !may_be_library(kind) || !are_aligned(buffers))
        return LS_OK;
    LS_TRY(ls_cuda_require_compute(plans->cuda, "attention"));
    LS_TRY(find_entry(plans, kind, &entry));
    if (!entry->plan)
        return LS_OK;
    LS_TRY(ls_cuda_scratch(plans->cuda, ls_cudnn_workspace(entry->plan), &workspace));
    for (uint64_t first = 0; first < kind->windows; first += entry->at_once) {
        LsAttentionBuffers part = part_of(kind, buffers, first, workspace);
        LS_TRY(ls_cudnn_run(plans->library, entry->plan, &part));
    }
    *done = true;
    return LS_OK;
}
