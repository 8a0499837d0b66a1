// Pooling, channels side by side.
#include "parts.h"
#include "vectors.h"

typedef uint8_t ByteLanes __attribute__((vector_size(16)));

ALWAYS_INLINE IntegerLanes load_bytes(const uint8_t *from, size_t count)
{
    ByteLanes bytes = {0};
    if (count >= LANES)
        memcpy(&bytes, from, sizeof bytes);
    else
        memcpy(&bytes, from, count);
    return __builtin_convertvector(bytes, IntegerLanes);
}

ALWAYS_INLINE void store_bytes(uint8_t *to, size_t count, IntegerLanes value)
{
    ByteLanes bytes = __builtin_convertvector(value, ByteLanes);
    memcpy(to, &bytes, count < LANES ? count : LANES);
}

// Elements of a window's side that lie on the image: from `begin` to `end`.
typedef struct Reach {
    size_t begin, end;
} Reach;

ALWAYS_INLINE Reach reach_of(const LsImageWindow *window, size_t at, size_t side)
{
    size_t from = at * window->stride, limit = side + window->padding;
    return (Reach){from < window->padding ? window->padding - from : 0,
        from + window->kernel < limit ? window->kernel : limit - from};
}

// The largest values of LANES channels in the window at (h, w), and where they are.
ALWAYS_INLINE void pool_window(
    const LsMaxPool *args, size_t r, size_t h, size_t w, size_t c, size_t out, LsDtype type)
{
    const LsImageWindow *window = &args->window;
    Reach rows = reach_of(window, h, window->height), columns = reach_of(window, w, window->width);
    size_t lanes = args->channels - c;
    FloatLanes largest = {0};
    IntegerLanes place = {0};
    for (size_t i = rows.begin; i < rows.end; i++)
        for (size_t j = columns.begin; j < columns.end; j++) {
            size_t y = h * window->stride + i - window->padding, x = w * window->stride + j - window->padding;
            FloatLanes value = load_some(
                args->x, type, ((r * window->height + y) * window->width + x) * args->channels + c, lanes, 0);
            bool first = i == rows.begin && j == columns.begin;
            // A NaN is taken unless there is one already, behind which nothing is larger.
            IntegerLanes take = (value > largest) | ((value != value) & (largest == largest));
            take |= first ? (IntegerLanes){0} - 1 : (IntegerLanes){0};
            largest = choose(take, value, largest);
            int number = (int)(i * window->kernel + j);
            place = (place & ~take) | (((IntegerLanes){0} + number) & take);
        }
    store_some(args->y, type, out, lanes, largest);
    if (args->place)
        store_bytes(args->place + out, lanes, place);
}

ALWAYS_INLINE void pool_all(const LsMaxPool *given, LsDtype type)
{
    const LsMaxPool args = *given;
    size_t high = ls_image_places(&args.window, args.window.height);
    size_t wide = ls_image_places(&args.window, args.window.width);
    for (size_t r = 0; r < args.window.rows; r++)
        for (size_t h = 0; h < high; h++)
            for (size_t w = 0; w < wide; w++)
                for (size_t c = 0; c < args.channels; c += LANES)
                    pool_window(&args, r, h, w, c, ((r * high + h) * wide + w) * args.channels + c, type);
}

LsStatus LOOPS(max_pool)(LsDevice *device, const LsMaxPool *args)
{
    (void)device;
    LS_TRY(ls_require_max_pool("max_pool", &args->window, args->type));
    WITH_TYPE(args->type, pool_all(args, TYPE));
    return LS_OK;
}

// Windows of one side in which `at` is: from `begin` to `end`.
ALWAYS_INLINE Reach windows_of(const LsImageWindow *window, size_t at, size_t places)
{
    size_t padded = at + window->padding, last = padded / window->stride + 1;
    size_t before = padded + 1 > window->kernel ? padded + 1 - window->kernel : 0;
    return (Reach){(before + window->stride - 1) / window->stride, last < places ? last : places};
}

ALWAYS_INLINE void pool_gradient(
    const LsMaxPoolBackward *args, size_t high, size_t wide, size_t r, size_t y, size_t x, LsDtype type)
{
    const LsImageWindow *window = &args->window;
    Reach rows = windows_of(window, y, high), columns = windows_of(window, x, wide);
    for (size_t c = 0; c < args->channels; c += LANES) {
        size_t lanes = args->channels - c;
        FloatLanes sum = {0};
        for (size_t h = rows.begin; h < rows.end; h++)
            for (size_t w = columns.begin; w < columns.end; w++) {
                size_t i = y + window->padding - h * window->stride;
                size_t j = x + window->padding - w * window->stride;
                size_t at = ((r * high + h) * wide + w) * args->channels + c;
                IntegerLanes here = load_bytes(args->place + at, lanes) == (int)(i * window->kernel + j);
                sum += choose(here, load_some(args->dy, type, at, lanes, 0), (FloatLanes){0});
            }
        store_some(
            args->dx, type, ((r * window->height + y) * window->width + x) * args->channels + c, lanes, sum);
    }
}

ALWAYS_INLINE void pool_gradients(const LsMaxPoolBackward *given, LsDtype type)
{
    const LsMaxPoolBackward args = *given;
    size_t high = ls_image_places(&args.window, args.window.height);
    size_t wide = ls_image_places(&args.window, args.window.width);
    for (size_t r = 0; r < args.window.rows; r++)
        for (size_t y = 0; y < args.window.height; y++)
            for (size_t x = 0; x < args.window.width; x++)
                pool_gradient(&args, high, wide, r, y, x, type);
}

LsStatus LOOPS(max_pool_backward)(LsDevice *device, const LsMaxPoolBackward *args)
{
    (void)device;
    LS_TRY(ls_require_max_pool("max_pool_backward", &args->window, args->type));
    WITH_TYPE(args->type, pool_gradients(args, TYPE));
    return LS_OK;
}

ALWAYS_INLINE void average_all(const LsAveragePool *args, LsDtype type)
{
    for (size_t r = 0; r < args->rows; r++)
        for (size_t c = 0; c < args->channels; c += LANES) {
            size_t lanes = args->channels - c;
            FloatLanes sum = {0};
            for (size_t p = 0; p < args->places; p++)
                sum += load_some(args->x, type, (r * args->places + p) * args->channels + c, lanes, 0);
            store_some(args->y, type, r * args->channels + c, lanes, sum / (float)args->places);
        }
}

LsStatus LOOPS(average_pool)(LsDevice *device, const LsAveragePool *args)
{
    (void)device;
    LS_TRY(ls_require_average_pool("average_pool", args->places, args->type));
    WITH_TYPE(args->type, average_all(args, TYPE));
    return LS_OK;
}

ALWAYS_INLINE void spread_all(const LsAveragePoolBackward *args, LsDtype type)
{
    for (size_t r = 0; r < args->rows; r++)
        for (size_t c = 0; c < args->channels; c += LANES) {
            size_t lanes = args->channels - c;
            FloatLanes dx = load_some(args->dy, type, r * args->channels + c, lanes, 0) / (float)args->places;
            for (size_t p = 0; p < args->places; p++)
                store_some(args->dx, type, (r * args->places + p) * args->channels + c, lanes, dx);
        }
}

LsStatus LOOPS(average_pool_backward)(LsDevice *device, const LsAveragePoolBackward *args)
{
    (void)device;
    LS_TRY(ls_require_average_pool("average_pool_backward", args->places, args->type));
    WITH_TYPE(args->type, spread_all(args, TYPE));
    return LS_OK;
}
