// Reference pooling: maxima of windows, means of images.
#include <math.h>

#include "ref.h"

// The largest value of channel c in the window of image r at place (h, w).
static float largest_in(const LsMaxPool *args, size_t r, size_t h, size_t w, size_t c, uint8_t *place)
{
    const LsImageWindow *window = &args->window;
    bool found = false;
    float largest = 0;
    for (size_t i = 0; i < window->kernel; i++)
        for (size_t j = 0; j < window->kernel; j++) {
            size_t y = h * window->stride + i - window->padding, x = w * window->stride + j - window->padding;
            if (y >= window->height || x >= window->width) // on the padding, where a difference wraps around
                continue;
            size_t at = ((r * window->height + y) * window->width + x) * args->channels + c;
            float value = ls_ref_load(args->x, args->type, at);
            if (found && !(value > largest) && !(isnan(value) && !isnan(largest)))
                continue;
            found = true;
            largest = value;
            *place = (uint8_t)(i * window->kernel + j);
        }
    return largest;
}

LsStatus ls_ref_max_pool(LsDevice *device, const LsMaxPool *args)
{
    (void)device;
    LS_TRY(ls_require_max_pool("max_pool", &args->window, args->type));
    size_t high = ls_image_places(&args->window, args->window.height);
    size_t wide = ls_image_places(&args->window, args->window.width), n = 0;
    for (size_t r = 0; r < args->window.rows; r++)
        for (size_t h = 0; h < high; h++)
            for (size_t w = 0; w < wide; w++)
                for (size_t c = 0; c < args->channels; c++, n++) {
                    uint8_t place = 0;
                    ls_ref_store(args->y, args->type, n, largest_in(args, r, h, w, c, &place));
                    if (args->place)
                        args->place[n] = place;
                }
    return LS_OK;
}

// Sum of dy of the windows of image r whose maximum is at (y, x).
static double pooled_gradient(
    const LsMaxPoolBackward *args, size_t high, size_t wide, size_t r, size_t y, size_t x, size_t c)
{
    const LsImageWindow *window = &args->window;
    double sum = 0;
    for (size_t h = 0; h < high; h++)
        for (size_t w = 0; w < wide; w++) {
            size_t i = y + window->padding - h * window->stride;
            size_t j = x + window->padding - w * window->stride;
            size_t at = ((r * high + h) * wide + w) * args->channels + c;
            if (i < window->kernel && j < window->kernel && args->place[at] == i * window->kernel + j)
                sum += ls_ref_load(args->dy, args->type, at);
        }
    return sum;
}

LsStatus ls_ref_max_pool_backward(LsDevice *device, const LsMaxPoolBackward *args)
{
    (void)device;
    LS_TRY(ls_require_max_pool("max_pool_backward", &args->window, args->type));
    size_t high = ls_image_places(&args->window, args->window.height);
    size_t wide = ls_image_places(&args->window, args->window.width), n = 0;
    for (size_t r = 0; r < args->window.rows; r++)
        for (size_t y = 0; y < args->window.height; y++)
            for (size_t x = 0; x < args->window.width; x++)
                for (size_t c = 0; c < args->channels; c++)
                    ls_ref_store(
                        args->dx, args->type, n++, (float)pooled_gradient(args, high, wide, r, y, x, c));
    return LS_OK;
}

LsStatus ls_ref_average_pool(LsDevice *device, const LsAveragePool *args)
{
    (void)device;
    LS_TRY(ls_require_average_pool("average_pool", args->places, args->type));
    for (size_t r = 0; r < args->rows; r++)
        for (size_t c = 0; c < args->channels; c++) {
            double sum = 0;
            for (size_t p = 0; p < args->places; p++)
                sum += ls_ref_load(args->x, args->type, (r * args->places + p) * args->channels + c);
            ls_ref_store(args->y, args->type, r * args->channels + c, (float)(sum / (double)args->places));
        }
    return LS_OK;
}

LsStatus ls_ref_average_pool_backward(LsDevice *device, const LsAveragePoolBackward *args)
{
    (void)device;
    LS_TRY(ls_require_average_pool("average_pool_backward", args->places, args->type));
    for (size_t r = 0; r < args->rows; r++)
        for (size_t p = 0; p < args->places; p++)
            for (size_t c = 0; c < args->channels; c++) {
                double dy = ls_ref_load(args->dy, args->type, r * args->channels + c);
                ls_ref_store(args->dx, args->type, (r * args->places + p) * args->channels + c,
                    (float)(dy / (double)args->places));
            }
    return LS_OK;
}
