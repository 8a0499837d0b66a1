// What the backends share of the operations of image models: checks of arguments, sizes of scratch memory.
#include "backend.h"

static LsStatus require_window(const char *op, const LsImageWindow *window)
{
    size_t reach = 2 * window->padding;
    if (window->rows == 0 || window->kernel == 0 || window->stride == 0 ||
        window->padding >= window->kernel || window->height + reach < window->kernel ||
        window->width + reach < window->kernel)
        return LS_FAIL(LS_INTERNAL,
            "%s: a window of side %zu, stride %zu and padding %zu does not fit on %zu images of %zu x %zu",
            op, window->kernel, window->stride, window->padding, window->rows, window->height, window->width);
    return LS_OK;
}

LsStatus ls_require_convolution(const char *op, const LsConvolutionShape *shape, LsDtype type)
{
    LS_TRY(ls_require_float_type(op, type));
    LS_TRY(require_window(op, &shape->window));
    if (shape->in == 0 || shape->out == 0)
        return LS_FAIL(LS_INTERNAL, "%s: from %zu to %zu channels", op, shape->in, shape->out);
    return LS_OK;
}

LsStatus ls_require_batch_norm(
    const char *op, size_t places, size_t channels, LsActivation activation, LsDtype type)
{
    LS_TRY(ls_require_float_type(op, type));
    if (places == 0 || channels == 0)
        return LS_FAIL(LS_INTERNAL, "%s: %zu places of %zu channels", op, places, channels);
    if (activation != LS_IDENTITY && activation != LS_RELU)
        return LS_FAIL(LS_UNSUPPORTED, "%s has no kernel for any activation but ReLU", op);
    return LS_OK;
}

LsStatus ls_require_max_pool(const char *op, const LsImageWindow *window, LsDtype type)
{
    enum { LARGEST = 16 }; // side whose places a byte can tell apart
    LS_TRY(ls_require_float_type(op, type));
    LS_TRY(require_window(op, window));
    if (window->kernel > LARGEST)
        return LS_FAIL(LS_UNSUPPORTED, "%s has no kernel for windows of side %zu, at most %d are possible",
            op, window->kernel, LARGEST);
    return LS_OK;
}

LsStatus ls_require_average_pool(const char *op, size_t places, LsDtype type)
{
    LS_TRY(ls_require_float_type(op, type));
    if (places == 0)
        return LS_FAIL(LS_INTERNAL, "%s: images without places", op);
    return LS_OK;
}

size_t ls_convolution_scratch(const LsConvolutionShape *shape)
{
    return shape->out * shape->window.kernel * shape->window.kernel * shape->in * sizeof(float);
}

// A workspace, or sums of slices of places in its place; and the gradient of filters before it is added.
size_t ls_convolution_library_bytes(const LsConvolutionShape *shape)
{
    return LS_CONVOLUTION_WORKSPACE + ls_convolution_scratch(shape);
}

// Two sums of each channel, of each slice of places that a GPU works on by itself; a host needs two slices.
size_t ls_batch_norm_scratch(size_t places, size_t channels)
{
    size_t slices = places < LS_BATCH_NORM_SLICES ? places : LS_BATCH_NORM_SLICES;
    return (slices > 4 ? slices : 4) * 2 * channels * sizeof(float);
}
