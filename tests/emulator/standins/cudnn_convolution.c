// Stands in for cuDNN behind runtime/device/cuda/cudnn_convolution.h: the reference's arithmetic on the
// emulated GPU's memory, done when the stream gets there. What it has is cudnn_library.c's to say.
#include "cudnn_convolution.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../ref/ref.h"
#include "base/memory.h"
#include "cudnn.h"
#include "emulator.h"

enum { WORKSPACE = 512 };

struct LsCudnnConvolutionPlan {
    LsConvolutionKind kind;
};

LsStatus ls_cudnn_convolution_plan(
    LsCudnn *library, const LsConvolutionKind *kind, size_t most_workspace, LsCudnnConvolutionPlan **out)
{
    (void)library;
    *out = NULL;
    if (ls_emulated_cudnn_is("none") ||
        (ls_emulated_cudnn_is("forward") && kind->pass != LS_CONVOLUTION_FORWARD) ||
        most_workspace < WORKSPACE)
        return LS_OK;
    LS_TRY(ls_memory_allocate(sizeof **out, (void **)out));
    (*out)->kind = *kind;
    return LS_OK;
}

void ls_cudnn_convolution_forget(LsCudnnConvolutionPlan *plan)
{
    free(plan);
}

size_t ls_cudnn_convolution_workspace(const LsCudnnConvolutionPlan *plan)
{
    (void)plan;
    return WORKSPACE;
}

void ls_cudnn_convolution_describe(const LsCudnnConvolutionPlan *plan, char *text, size_t size)
{
    snprintf(text, size, "emulated engine %d", 10 + (int)plan->kind.pass);
}

// ---- Running --------------------------------------------------------------------------------------------

typedef struct Work {
    LsConvolutionKind kind;
    LsConvolutionBuffers buffers;
} Work;

static LsConvolutionShape shape_of(const LsConvolutionKind *kind)
{
    return (LsConvolutionShape){.window = {.rows = kind->rows,
                                    .height = kind->height,
                                    .width = kind->width,
                                    .kernel = kind->kernel,
                                    .stride = kind->stride,
                                    .padding = kind->padding},
        .in = kind->in,
        .out = kind->out};
}

static void require_buffers(const Work *work, const LsConvolutionShape *shape)
{
    const LsImageWindow *window = &shape->window;
    size_t element = ls_dtype_size((LsDtype)work->kind.type);
    size_t places = ls_image_places(window, window->height) * ls_image_places(window, window->width);
    ls_emulated_cudnn_require("x", work->buffers.x,
        window->rows * window->height * window->width * shape->in * element, LS_CUDNN_ALIGNMENT);
    ls_emulated_cudnn_require("filters", work->buffers.weight,
        ls_convolution_scratch(shape) / sizeof(float) * element, LS_CUDNN_ALIGNMENT);
    ls_emulated_cudnn_require(
        "y", work->buffers.y, window->rows * places * shape->out * element, LS_CUDNN_ALIGNMENT);
    ls_emulated_cudnn_require("workspace", work->buffers.workspace, WORKSPACE, LS_CUDNN_ALIGNMENT);
}

// The gradient of filters in F32, rounded to the type that the library works in.
static LsStatus gradient_of_filters(const Work *work, const LsConvolutionShape *shape, LsDtype type)
{
    float *sums;
    size_t bytes = ls_convolution_scratch(shape);
    LS_TRY(ls_memory_allocate(bytes, (void **)&sums));
    LsStatus status = ls_ref_convolution_backward_weights(NULL,
        &(LsConvolutionBackwardWeights){
            .shape = *shape, .x = work->buffers.x, .dy = work->buffers.y, .type = type, .dweight = sums});
    for (size_t i = 0; status == LS_OK && i < bytes / sizeof *sums; i++)
        ls_ref_store(work->buffers.weight, type, i, sums[i]);
    free(sums);
    return status;
}

static LsStatus compute(const Work *work)
{
    const LsConvolutionBuffers *b = &work->buffers;
    LsConvolutionShape shape = shape_of(&work->kind);
    LsDtype type = (LsDtype)work->kind.type;
    require_buffers(work, &shape);
    switch (work->kind.pass) {
    case LS_CONVOLUTION_FORWARD:
        return ls_ref_convolution(
            NULL, &(LsConvolution){.shape = shape, .x = b->x, .weight = b->weight, .y = b->y, .type = type});
    case LS_CONVOLUTION_DATA:
        return ls_ref_convolution_backward_data(
            NULL, &(LsConvolutionBackwardData){
                      .shape = shape, .dy = b->y, .weight = b->weight, .dx = b->x, .type = type});
    default:
        return gradient_of_filters(work, &shape, type);
    }
}

static bool convolve(void *context)
{
    const Work *work = context;
    if (compute(work) != LS_OK)
        ls_emulator_fault("cuDNN's convolution: %s", ls_status_message());
    memset(work->buffers.workspace, 0xff, WORKSPACE); // nobody else's numbers outlive it
    return true;
}

LsStatus ls_cudnn_convolution_run(
    LsCudnn *library, LsCudnnConvolutionPlan *plan, const LsConvolutionBuffers *buffers)
{
    Work *work;
    LS_TRY(ls_memory_allocate(sizeof *work, (void **)&work));
    *work = (Work){plan->kind, *buffers};
    cudaError_t error = ls_emulator_enqueue(library->stream,
        &(LsEmulatedWork){.name = "convolution", .advance = convolve, .release = free, .context = work});
    if (error != cudaSuccess)
        return LS_FAIL(LS_UNAVAILABLE, "emulated cuDNN: a convolution failed: %s", cudaGetErrorName(error));
    return LS_OK;
}
