// Convolutions as graphs of one operation of cuDNN's.
#include "cudnn_convolution.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "cudnn_search.h"

struct LsCudnnConvolutionPlan {
    LsConvolutionKind kind;
    LsCudnnSearch search;
};

enum { ID_X = 1, ID_WEIGHT, ID_Y, IDS };

// ---- Plans ----------------------------------------------------------------------------------------------

// The library names sizes in the order images, channels, height, width; channels lie together in memory.
static LsCudnnLayout channels_last(uint64_t images, uint64_t channels, uint64_t height, uint64_t width)
{
    int64_t c = (int64_t)channels, h = (int64_t)height, w = (int64_t)width;
    return (LsCudnnLayout){{(int64_t)images, c, h, w}, {h * w * c, 1, w * c, c}};
}

static cudnnDataType_t type_of(const LsConvolutionKind *kind)
{
    return kind->type == LS_BF16  ? CUDNN_DATA_BFLOAT16
           : kind->type == LS_F16 ? CUDNN_DATA_HALF
                                  : CUDNN_DATA_FLOAT;
}

static void describe(const LsConvolutionKind *kind, LsCudnnGraph *graph)
{
    static const LsCudnnConvolution directions[] = {[LS_CONVOLUTION_FORWARD] = LS_CUDNN_CONVOLUTION,
        [LS_CONVOLUTION_DATA] = LS_CUDNN_BACKWARD_DATA,
        [LS_CONVOLUTION_WEIGHTS] = LS_CUDNN_BACKWARD_WEIGHTS};
    const LsImageWindow window = {.kernel = kind->kernel, .stride = kind->stride, .padding = kind->padding};
    uint64_t high = ls_image_places(&window, kind->height), wide = ls_image_places(&window, kind->width);
    LsCudnnLayout x = channels_last(kind->rows, kind->in, kind->height, kind->width);
    LsCudnnLayout weight = channels_last(kind->out, kind->in, kind->kernel, kind->kernel);
    LsCudnnLayout y = channels_last(kind->rows, kind->out, high, wide);
    cudnnDataType_t type = type_of(kind);
    ls_cudnn_convolve(
        graph, &(LsCudnnFilter){.direction = directions[kind->pass],
                   .stride = (int64_t)kind->stride,
                   .padding = (int64_t)kind->padding,
                   .x = ls_cudnn_tensor(graph, ID_X, type, &x, LS_CUDNN_ALIGNMENT),
                   .weight = ls_cudnn_tensor(graph, ID_WEIGHT, type, &weight, LS_CUDNN_ALIGNMENT),
                   .y = ls_cudnn_tensor(graph, ID_Y, type, &y, LS_CUDNN_ALIGNMENT)});
}

// Transforms have rounding errors of their own, far from those of a sum of products; narrower sums lose what
// F32 sums are for. Of FP32 tensors, a tensor core reads TF32.
static uint32_t refused_notes(const LsConvolutionKind *kind)
{
    uint32_t notes = 1u << CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION | 1u << CUDNN_NUMERICAL_NOTE_FFT |
                     1u << CUDNN_NUMERICAL_NOTE_WINOGRAD | 1u << CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4 |
                     1u << CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6 |
                     1u << CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13;
    if (kind->type == LS_F32 && !kind->tf32)
        notes |= 1u << CUDNN_NUMERICAL_NOTE_TENSOR_CORE | 1u << CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS;
    return notes;
}

LsStatus ls_cudnn_convolution_plan(
    LsCudnn *library, const LsConvolutionKind *kind, size_t most_workspace, LsCudnnConvolutionPlan **out)
{
    LsCudnnConvolutionPlan *plan;
    *out = NULL;
    LS_TRY(ls_memory_allocate(sizeof *plan, (void **)&plan));
    plan->kind = *kind;
    describe(kind, &plan->search.graph);
    LsStatus status = ls_cudnn_search(library, &plan->search,
        &(LsCudnnLimits){
            .notes = refused_notes(kind), .workspace = most_workspace, .what = "planning a convolution"});
    if (status == LS_OK && plan->search.plan)
        *out = plan;
    else
        ls_cudnn_convolution_forget(plan);
    return status;
}

void ls_cudnn_convolution_forget(LsCudnnConvolutionPlan *plan)
{
    if (!plan)
        return;
    ls_cudnn_search_release(&plan->search);
    free(plan);
}

size_t ls_cudnn_convolution_workspace(const LsCudnnConvolutionPlan *plan)
{
    return plan->search.bytes;
}

void ls_cudnn_convolution_describe(const LsCudnnConvolutionPlan *plan, char *text, size_t size)
{
    snprintf(text, size, "engine %d", (int)plan->search.engine);
}

// ---- Running --------------------------------------------------------------------------------------------

LsStatus ls_cudnn_convolution_run(
    LsCudnn *library, LsCudnnConvolutionPlan *plan, const LsConvolutionBuffers *buffers)
{
    static const char *const names[] = {[LS_CONVOLUTION_FORWARD] = "convolution",
        [LS_CONVOLUTION_DATA] = "convolution_backward_data",
        [LS_CONVOLUTION_WEIGHTS] = "convolution_backward_weights"};
    void *const places[IDS - 1] = {buffers->x, buffers->weight, buffers->y};
    return ls_cudnn_execute(
        library, &plan->search, IDS - 1, places, buffers->workspace, names[plan->kind.pass]);
}
