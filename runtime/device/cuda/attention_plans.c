// The table of cuDNN's plans for attention.
#include "attention_plans.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "library.h"

typedef struct Entry {
    LsAttentionKind kind;
    LsCudnnPlan *plan; // NULL: our own kernels
    uint64_t at_once;  // windows that the plan is for
} Entry;

struct LsAttentionPlans {
    LsCudaDevice *cuda;
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
    LsCudnn *library;
    LS_TRY(ls_cuda_library(plans->cuda, &library));
    if (part.windows == 0 || !library)
        return LS_OK;
    return ls_cudnn_plan(library, &part, LS_ATTENTION_WORKSPACE, &entry->plan);
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

enum { QKV, OUT, DOUT, DQKV, OPERANDS };

static void list_operands(
    const LsAttentionKind *kind, const LsAttentionBuffers *buffers, LsOperand operands[OPERANDS])
{
    bool backward = kind->backward;
    size_t bytes = kind->windows * kind->window * kind->heads * kind->size * sizeof(uint16_t);
    operands[QKV] = (LsOperand){.memory = (void *)buffers->qkv, .bytes = 3 * bytes, .read = true};
    operands[OUT] = (LsOperand){.memory = buffers->out, .bytes = bytes, .read = backward};
    operands[DOUT] = (LsOperand){.memory = (void *)buffers->dout, .bytes = bytes, .read = true};
    operands[DQKV] = (LsOperand){.memory = buffers->dqkv, .bytes = 3 * bytes};
}

// An operand from window `first` of `windows` on.
static void *from_window(const LsOperand *operand, uint64_t first, uint64_t windows)
{
    return operand->place ? (char *)operand->place + operand->bytes / windows * first : NULL;
}

static LsStatus run_parts(const LsAttentionPlans *plans, const Entry *entry,
    const LsOperand operands[OPERANDS], float *log_sum, void *workspace)
{
    const LsAttentionKind *kind = &entry->kind;
    for (uint64_t first = 0; first < kind->windows; first += entry->at_once) {
        LsAttentionBuffers part = {.qkv = from_window(&operands[QKV], first, kind->windows),
            .out = from_window(&operands[OUT], first, kind->windows),
            .log_sum = log_sum + first * kind->heads * kind->window,
            .dout = from_window(&operands[DOUT], first, kind->windows),
            .dqkv = from_window(&operands[DQKV], first, kind->windows),
            .workspace = workspace};
        LS_TRY(ls_cudnn_run(plans->cuda->library, entry->plan, &part));
    }
    return LS_OK;
}

LsStatus ls_attention_by_library(
    LsAttentionPlans *plans, const LsAttentionKind *kind, const LsAttentionBuffers *buffers, bool *done)
{
    Entry *entry;
    LsOperand operands[OPERANDS];
    void *workspace;
    *done = false;
    if (plans->forbidden || kind->windows == 0 ||
        !ls_attention_asks_library(kind->window, kind->size, (LsDtype)kind->type))
        return LS_OK;
    LS_TRY(ls_cuda_require_compute(plans->cuda, "attention"));
    LS_TRY(find_entry(plans, kind, &entry));
    if (!entry->plan)
        return LS_OK;
    list_operands(kind, buffers, operands);
    LS_TRY(ls_operands_place(plans->cuda, ls_cudnn_workspace(entry->plan), operands, OPERANDS, &workspace));
    LS_TRY(run_parts(plans, entry, operands, buffers->log_sum, workspace));
    LS_TRY(ls_operands_return(plans->cuda, operands, OPERANDS));
    *done = true;
    return LS_OK;
}
