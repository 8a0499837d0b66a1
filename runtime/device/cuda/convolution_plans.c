// The list of cuDNN's plans for convolutions.
#include "convolution_plans.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "kernels.h"
#include "library.h"

typedef struct Entry {
    struct Entry *next;
    LsConvolutionKind kind;
    LsCudnnConvolutionPlan *plan; // NULL: our own kernels
} Entry;

struct LsConvolutionPlans {
    LsCudaDevice *cuda;
    bool forbidden;
    Entry *first;
};

LsStatus ls_convolution_plans_open(LsCudaDevice *cuda, LsConvolutionPlans **out)
{
    LS_TRY(ls_memory_allocate(sizeof **out, (void **)out));
    (*out)->cuda = cuda;
    return LS_OK;
}

static void release_entry(Entry *entry)
{
    ls_cudnn_convolution_forget(entry->plan);
    free(entry);
}

void ls_convolution_plans_close(LsConvolutionPlans *plans)
{
    if (!plans)
        return;
    while (plans->first) {
        Entry *entry = plans->first;
        plans->first = entry->next;
        release_entry(entry);
    }
    free(plans);
}

void ls_convolution_plans_allow(LsConvolutionPlans *plans, bool library)
{
    plans->forbidden = !library;
}

// ---- Making plans ---------------------------------------------------------------------------------------

static const char *const pass_names[] = {[LS_CONVOLUTION_FORWARD] = "convolution",
    [LS_CONVOLUTION_DATA] = "convolution_backward_data",
    [LS_CONVOLUTION_WEIGHTS] = "convolution_backward_weights"};

static void log_route(const Entry *entry)
{
    const LsConvolutionKind *kind = &entry->kind;
    char route[96] = "our kernels", engine[32];
    if (entry->plan) {
        ls_cudnn_convolution_describe(entry->plan, engine, sizeof engine);
        snprintf(route, sizeof route, "cuDNN (%s, %.1f MiB of workspace)", engine,
            (double)ls_cudnn_convolution_workspace(entry->plan) / (1 << 20));
    }
    ls_debug("%s of %zu images of %zux%zu, %zu to %zu channels, window %zu, stride %zu, %s: %s",
        pass_names[kind->pass], (size_t)kind->rows, (size_t)kind->height, (size_t)kind->width,
        (size_t)kind->in, (size_t)kind->out, (size_t)kind->kernel, (size_t)kind->stride,
        ls_dtype_name((LsDtype)kind->type), route);
}

static LsStatus make_plan(LsConvolutionPlans *plans, Entry *entry)
{
    LsCudnn *library;
    LS_TRY(ls_cuda_library(plans->cuda, &library));
    if (!library)
        return LS_OK;
    return ls_cudnn_convolution_plan(library, &entry->kind, LS_CONVOLUTION_WORKSPACE, &entry->plan);
}

static LsStatus add_entry(LsConvolutionPlans *plans, const LsConvolutionKind *kind, Entry **out)
{
    Entry *entry;
    LS_TRY(ls_cuda_require_no_capture(plans->cuda, "a convolution of a shape that comes for the first time"));
    LS_TRY(ls_memory_allocate(sizeof *entry, (void **)&entry));
    entry->kind = *kind;
    LsStatus status = make_plan(plans, entry);
    if (status != LS_OK) {
        release_entry(entry);
        return status;
    }
    log_route(entry);
    entry->next = plans->first;
    *out = plans->first = entry;
    return LS_OK;
}

static LsStatus find_entry(LsConvolutionPlans *plans, const LsConvolutionKind *kind, Entry **out)
{
    for (Entry *entry = plans->first; entry; entry = entry->next)
        if (memcmp(&entry->kind, kind, sizeof *kind) == 0) {
            *out = entry;
            return LS_OK;
        }
    return add_entry(plans, kind, out);
}

// ---- Running --------------------------------------------------------------------------------------------

enum { X, WEIGHT, Y, OPERANDS };

static void list_operands(
    const LsConvolutionKind *kind, const LsConvolutionOperands *operands, LsOperand list[OPERANDS])
{
    const LsImageWindow window = {.kernel = kind->kernel, .stride = kind->stride, .padding = kind->padding};
    size_t element = ls_dtype_size((LsDtype)kind->type);
    size_t places = ls_image_places(&window, kind->height) * ls_image_places(&window, kind->width);
    list[X] = (LsOperand){.memory = operands->x,
        .bytes = kind->rows * kind->height * kind->width * kind->in * element,
        .read = kind->pass != LS_CONVOLUTION_DATA};
    list[WEIGHT] = (LsOperand){.memory = operands->weight,
        .bytes = kind->out * kind->kernel * kind->kernel * kind->in * element,
        .read = true};
    list[Y] = (LsOperand){.memory = operands->y,
        .bytes = kind->rows * places * kind->out * element,
        .read = kind->pass != LS_CONVOLUTION_FORWARD};
}

// The library leaves the gradient of filters in the type that it works in, behind its workspace, and a kernel
// of ours brings it to where it belongs.
static LsStatus run(LsCudaDevice *cuda, const Entry *entry, const LsConvolutionOperands *operands)
{
    bool weights = entry->kind.pass == LS_CONVOLUTION_WEIGHTS;
    LsOperand list[OPERANDS];
    LsConvolutionBuffers buffers;
    list_operands(&entry->kind, operands, list);
    size_t gradient_bytes = list[WEIGHT].bytes;
    size_t workspace_bytes = ls_round_up(ls_cudnn_convolution_workspace(entry->plan), LS_ALIGNMENT);
    if (weights)
        list[WEIGHT].memory = NULL;
    LS_TRY(ls_operands_place(
        cuda, workspace_bytes + (weights ? gradient_bytes : 0), list, OPERANDS, &buffers.workspace));
    buffers.x = list[X].place, buffers.y = list[Y].place;
    buffers.weight = weights ? (char *)buffers.workspace + workspace_bytes : list[WEIGHT].place;
    LS_TRY(ls_cudnn_convolution_run(cuda->library, entry->plan, &buffers));
    if (!weights)
        return ls_operands_return(cuda, list, OPERANDS);
    const LsWiden widen = {.n = gradient_bytes / ls_dtype_size((LsDtype)entry->kind.type),
        .from = buffers.weight,
        .type = (LsDtype)entry->kind.type,
        .to = operands->weight,
        .accumulate = operands->accumulate};
    return ls_cuda_check(cuda, ls_kernel_widen(ls_cuda_stream(cuda), &widen), pass_names[entry->kind.pass]);
}

LsStatus ls_convolution_by_library(LsConvolutionPlans *plans, const LsConvolutionKind *kind,
    const LsConvolutionOperands *operands, bool *done)
{
    Entry *entry;
    *done = false;
    LS_TRY(ls_cuda_require_compute(plans->cuda, "a convolution"));
    if (plans->forbidden)
        return LS_OK;
    LS_TRY(find_entry(plans, kind, &entry));
    if (!entry->plan)
        return LS_OK;
    LS_TRY(run(plans->cuda, entry, operands));
    *done = true;
    return LS_OK;
}
