// Reference convolutions and their gradients: each result by itself, from its definition.
#include "ref.h"

// Sizes of one convolution.
typedef struct Extent {
    size_t rows, height, width, high, wide, in, out, kernel, stride, padding;
} Extent;

static Extent extent_of(const LsConvolutionShape *shape)
{
    const LsImageWindow *window = &shape->window;
    return (Extent){
        .rows = window->rows,
        .height = window->height,
        .width = window->width,
        .high = ls_image_places(window, window->height),
        .wide = ls_image_places(window, window->width),
        .in = shape->in,
        .out = shape->out,
        .kernel = window->kernel,
        .stride = window->stride,
        .padding = window->padding,
    };
}

// Where element i of a window's side, the window at place `at`, lies on a side; false: on the padding.
static bool reaches(const Extent *e, size_t at, size_t i, size_t side, size_t *out)
{
    size_t padded = at * e->stride + i;
    *out = padded - e->padding;
    return padded >= e->padding && *out < side;
}

// The place at which element i of a window lies on `at`; false: there is none.
static bool reached(const Extent *e, size_t at, size_t i, size_t places, size_t *out)
{
    size_t padded = at + e->padding;
    if (padded < i || (padded - i) % e->stride != 0)
        return false;
    *out = (padded - i) / e->stride;
    return *out < places;
}

// Sum over channels of products of one place of x and one of the filter `o`.
static double along_channels(
    const Extent *e, const LsConvolution *args, size_t place, size_t o, size_t i, size_t j)
{
    size_t x = place * e->in, weight = ((o * e->kernel + i) * e->kernel + j) * e->in;
    double sum = 0;
    for (size_t c = 0; c < e->in; c++)
        sum += (double)ls_ref_load(args->x, args->type, x + c) *
               ls_ref_load(args->weight, args->type, weight + c);
    return sum;
}

static double convolved_at(const Extent *e, const LsConvolution *args, size_t r, size_t h, size_t w, size_t o)
{
    double sum = 0;
    for (size_t i = 0; i < e->kernel; i++)
        for (size_t j = 0; j < e->kernel; j++) {
            size_t y, x;
            if (reaches(e, h, i, e->height, &y) && reaches(e, w, j, e->width, &x))
                sum += along_channels(e, args, (r * e->height + y) * e->width + x, o, i, j);
        }
    return sum;
}

LsStatus ls_ref_convolution(LsDevice *device, const LsConvolution *args)
{
    (void)device;
    LS_TRY(ls_require_convolution("convolution", &args->shape, args->type));
    const Extent e = extent_of(&args->shape);
    size_t n = 0;
    for (size_t r = 0; r < e.rows; r++)
        for (size_t h = 0; h < e.high; h++)
            for (size_t w = 0; w < e.wide; w++)
                for (size_t o = 0; o < e.out; o++)
                    ls_ref_store(args->y, args->type, n++, (float)convolved_at(&e, args, r, h, w, o));
    return LS_OK;
}

// ---- Gradient of the input ------------------------------------------------------------------------------

// Sum over output channels of products of dy at one place and the filters' element (i, j, c).
static double along_filters(
    const Extent *e, const LsConvolutionBackwardData *args, size_t place, size_t i, size_t j, size_t c)
{
    double sum = 0;
    for (size_t o = 0; o < e->out; o++) {
        size_t weight = ((o * e->kernel + i) * e->kernel + j) * e->in + c;
        sum += (double)ls_ref_load(args->dy, args->type, place * e->out + o) *
               ls_ref_load(args->weight, args->type, weight);
    }
    return sum;
}

static double data_gradient_at(
    const Extent *e, const LsConvolutionBackwardData *args, size_t r, size_t h, size_t w, size_t c)
{
    double sum = 0;
    for (size_t i = 0; i < e->kernel; i++)
        for (size_t j = 0; j < e->kernel; j++) {
            size_t y, x;
            if (reached(e, h, i, e->high, &y) && reached(e, w, j, e->wide, &x))
                sum += along_filters(e, args, (r * e->high + y) * e->wide + x, i, j, c);
        }
    return sum;
}

LsStatus ls_ref_convolution_backward_data(LsDevice *device, const LsConvolutionBackwardData *args)
{
    (void)device;
    LS_TRY(ls_require_convolution("convolution_backward_data", &args->shape, args->type));
    const Extent e = extent_of(&args->shape);
    size_t n = 0;
    for (size_t r = 0; r < e.rows; r++)
        for (size_t h = 0; h < e.height; h++)
            for (size_t w = 0; w < e.width; w++)
                for (size_t c = 0; c < e.in; c++)
                    ls_ref_store(args->dx, args->type, n++, (float)data_gradient_at(&e, args, r, h, w, c));
    return LS_OK;
}

// ---- Gradient of the filters ----------------------------------------------------------------------------

// Of one image: element (i, j, c) of filter o.
static double weight_gradient_in(const Extent *e, const LsConvolutionBackwardWeights *args, size_t r,
    size_t o, size_t i, size_t j, size_t c)
{
    double sum = 0;
    for (size_t h = 0; h < e->high; h++)
        for (size_t w = 0; w < e->wide; w++) {
            size_t y, x;
            if (!reaches(e, h, i, e->height, &y) || !reaches(e, w, j, e->width, &x))
                continue;
            size_t from = ((r * e->height + y) * e->width + x) * e->in + c;
            size_t to = ((r * e->high + h) * e->wide + w) * e->out + o;
            sum += (double)ls_ref_load(args->x, args->type, from) * ls_ref_load(args->dy, args->type, to);
        }
    return sum;
}

LsStatus ls_ref_convolution_backward_weights(LsDevice *device, const LsConvolutionBackwardWeights *args)
{
    (void)device;
    LS_TRY(ls_require_convolution("convolution_backward_weights", &args->shape, args->type));
    const Extent e = extent_of(&args->shape);
    float *dweight = args->dweight;
    for (size_t o = 0; o < e.out; o++)
        for (size_t i = 0; i < e.kernel; i++)
            for (size_t j = 0; j < e.kernel; j++)
                for (size_t c = 0; c < e.in; c++, dweight++) {
                    double sum = args->accumulate ? *dweight : 0;
                    for (size_t r = 0; r < e.rows; r++)
                        sum += weight_gradient_in(&e, args, r, o, i, j, c);
                    *dweight = (float)sum;
                }
    return LS_OK;
}
