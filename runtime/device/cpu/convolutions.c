// Convolutions by oneDNN, those of FP16 as FP32: operands are widened, which is exact, and results rounded
// once. Where windows of one element pass elements over, what they meet is gathered first: the library would
// do that as well, but for channels that are not whole registers it writes beyond its scratchpad (2.6.3,
// AVX2).
#include "convolutions.h"

#include <string.h>

#include "base/memory.h"

// Values of the images that a convolution reads, of those that it writes, and of its filters.
typedef struct Sizes {
    size_t x, y, filters;
} Sizes;

static Sizes sizes_of(const LsConvolutionShape *shape)
{
    const LsImageWindow *window = &shape->window;
    size_t high = ls_image_places(window, window->height), wide = ls_image_places(window, window->width);
    return (Sizes){
        .x = window->rows * window->height * window->width * shape->in,
        .y = window->rows * high * wide * shape->out,
        .filters = shape->out * window->kernel * window->kernel * shape->in,
    };
}

// Up to the next boundary of LS_ALIGNMENT.
static size_t place_of(size_t floats)
{
    return ls_round_up(floats, LS_ALIGNMENT / sizeof(float));
}

static LsStatus convert(const LsCpuMultiplier *multiplier, size_t n, const void *from, LsDtype from_type,
    void *to, LsDtype to_type)
{
    const LsCast cast = {.n = n, .from = from, .from_type = from_type, .to = to, .to_type = to_type};
    return multiplier->loops->cast(NULL, &cast);
}

// Room for all three in FP32.
static LsStatus make_room(LsCpuMultiplier *multiplier, const Sizes *n, float **x, float **filters, float **y)
{
    size_t floats = place_of(n->x) + place_of(n->filters) + n->y;
    LS_TRY(ls_cpu_memory_grow(&multiplier->widened, floats * sizeof(float)));
    *x = (float *)multiplier->widened.memory;
    *filters = *x + place_of(n->x);
    *y = *filters + place_of(n->filters);
    return LS_OK;
}

// ---- Windows of one element -----------------------------------------------------------------------------

static bool skips(const LsConvolutionShape *shape)
{
    return shape->window.kernel == 1 && shape->window.stride > 1;
}

// The same convolution of the elements that windows meet.
static LsConvolutionShape met_by(const LsConvolutionShape *shape)
{
    const LsImageWindow *window = &shape->window;
    return (LsConvolutionShape){
        .window = {window->rows, ls_image_places(window, window->height),
            ls_image_places(window, window->width), 1, 1, 0},
        .in = shape->in,
        .out = shape->out,
    };
}

// Copies the channels of each element that windows meet, from the images or, with `back`, to them.
static void copy_met(const LsConvolutionShape *shape, LsDtype type, char *images, char *met, bool back)
{
    const LsImageWindow *window = &shape->window;
    const LsImageWindow dense = met_by(shape).window;
    size_t bytes = shape->in * ls_dtype_size(type);
    for (size_t r = 0; r < window->rows; r++)
        for (size_t h = 0; h < dense.height; h++)
            for (size_t w = 0; w < dense.width; w++, met += bytes) {
                size_t place = (r * window->height + h * window->stride) * window->width + w * window->stride;
                char *image = images + place * bytes;
                memcpy(back ? image : met, back ? met : image, bytes);
            }
}

static LsStatus make_room_for_met(LsCpuMultiplier *multiplier, const LsConvolutionShape *dense, LsDtype type)
{
    return ls_cpu_memory_grow(&multiplier->met, sizes_of(dense).x * ls_dtype_size(type));
}

static LsStatus gather(
    LsCpuMultiplier *multiplier, const LsConvolutionShape *shape, LsDtype type, const void *x)
{
    const LsConvolutionShape dense = met_by(shape);
    LS_TRY(make_room_for_met(multiplier, &dense, type));
    copy_met(shape, type, (char *)x, multiplier->met.memory, false);
    return LS_OK;
}

// ---- Any windows ----------------------------------------------------------------------------------------

static LsStatus convolve(LsCpuMultiplier *multiplier, const LsConvolution *args)
{
    if (args->type != LS_F16)
        return ls_onednn_convolve(multiplier->onednn, LS_CONVOLVE_FORWARD, &args->shape, args->type, args->x,
            args->weight, args->y);
    const Sizes n = sizes_of(&args->shape);
    float *x, *filters, *y;
    LS_TRY(make_room(multiplier, &n, &x, &filters, &y));
    LS_TRY(convert(multiplier, n.x, args->x, LS_F16, x, LS_F32));
    LS_TRY(convert(multiplier, n.filters, args->weight, LS_F16, filters, LS_F32));
    LS_TRY(ls_onednn_convolve(multiplier->onednn, LS_CONVOLVE_FORWARD, &args->shape, LS_F32, x, filters, y));
    return convert(multiplier, n.y, y, LS_F32, args->y, LS_F16);
}

static LsStatus convolve_data(LsCpuMultiplier *multiplier, const LsConvolutionBackwardData *args)
{
    if (args->type != LS_F16)
        return ls_onednn_convolve(
            multiplier->onednn, LS_CONVOLVE_DATA, &args->shape, args->type, args->dx, args->weight, args->dy);
    const Sizes n = sizes_of(&args->shape);
    float *x, *filters, *y;
    LS_TRY(make_room(multiplier, &n, &x, &filters, &y));
    LS_TRY(convert(multiplier, n.y, args->dy, LS_F16, y, LS_F32));
    LS_TRY(convert(multiplier, n.filters, args->weight, LS_F16, filters, LS_F32));
    LS_TRY(ls_onednn_convolve(multiplier->onednn, LS_CONVOLVE_DATA, &args->shape, LS_F32, x, filters, y));
    return convert(multiplier, n.x, x, LS_F32, args->dx, LS_F16);
}

// The library overwrites: what is to be added goes to the scratch memory first.
static LsStatus convolve_weights(LsCpuMultiplier *multiplier, const LsConvolutionBackwardWeights *args)
{
    const Sizes n = sizes_of(&args->shape);
    const void *x = args->x, *y = args->dy;
    LsDtype type = args->type;
    if (type == LS_F16) {
        float *wide_x, *filters, *wide_y;
        LS_TRY(make_room(multiplier, &n, &wide_x, &filters, &wide_y));
        LS_TRY(convert(multiplier, n.x, x, LS_F16, wide_x, LS_F32));
        LS_TRY(convert(multiplier, n.y, y, LS_F16, wide_y, LS_F32));
        x = wide_x;
        y = wide_y;
        type = LS_F32;
    }
    float *to = args->accumulate ? args->scratch : args->dweight;
    LS_TRY(ls_onednn_convolve(multiplier->onednn, LS_CONVOLVE_WEIGHTS, &args->shape, type, x, to, y));
    if (!args->accumulate)
        return LS_OK;
    const LsAdd add = {.n = n.filters, .a = args->dweight, .b = to, .y = args->dweight, .type = LS_F32};
    return multiplier->loops->add(NULL, &add);
}

// ---- Operations -----------------------------------------------------------------------------------------

LsStatus ls_cpu_convolution(LsCpuMultiplier *multiplier, const LsConvolution *args)
{
    LS_TRY(ls_require_convolution("convolution", &args->shape, args->type));
    LsConvolution dense = *args;
    if (skips(&args->shape)) {
        LS_TRY(gather(multiplier, &args->shape, args->type, args->x));
        dense.shape = met_by(&args->shape);
        dense.x = multiplier->met.memory;
    }
    return convolve(multiplier, &dense);
}

LsStatus ls_cpu_convolution_backward_data(LsCpuMultiplier *multiplier, const LsConvolutionBackwardData *args)
{
    LS_TRY(ls_require_convolution("convolution_backward_data", &args->shape, args->type));
    if (!skips(&args->shape))
        return convolve_data(multiplier, args);
    LsConvolutionBackwardData dense = *args;
    dense.shape = met_by(&args->shape);
    LS_TRY(make_room_for_met(multiplier, &dense.shape, args->type));
    dense.dx = multiplier->met.memory;
    LS_TRY(convolve_data(multiplier, &dense));
    memset(args->dx, 0, sizes_of(&args->shape).x * ls_dtype_size(args->type));
    copy_met(&args->shape, args->type, args->dx, dense.dx, true);
    return LS_OK;
}

LsStatus ls_cpu_convolution_backward_weights(
    LsCpuMultiplier *multiplier, const LsConvolutionBackwardWeights *args)
{
    LS_TRY(ls_require_convolution("convolution_backward_weights", &args->shape, args->type));
    LsConvolutionBackwardWeights dense = *args;
    if (skips(&args->shape)) {
        LS_TRY(gather(multiplier, &args->shape, args->type, args->x));
        dense.shape = met_by(&args->shape);
        dense.x = multiplier->met.memory;
    }
    return convolve_weights(multiplier, &dense);
}
