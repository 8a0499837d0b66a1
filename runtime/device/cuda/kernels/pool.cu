// Pooling: maxima of windows with their places, means of images, and their gradients. A thread has one group
// of channels of one place of what it writes, and reads all that is needed for it, so that no two threads
// write to one place.
#include "common.cuh"

namespace
{

// Threads over places × groups of channels: a block is `width` groups wide and THREADS / width places high.
struct PlaceGrid {
    unsigned width, across, down;
};

cudaError_t place_grid(size_t places, size_t channels, int group, PlaceGrid *out)
{
    size_t groups = divide_up(channels, (size_t)group);
    out->width = power_of_two_from(groups, THREADS);
    size_t down = divide_up(places, THREADS / out->width);
    if (places > UINT32_MAX || down > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    out->across = (unsigned)divide_up(groups, out->width);
    out->down = (unsigned)down;
    return cudaSuccess;
}

template <typename Kernel, typename... Arguments>
cudaError_t launch_places(cudaStream_t stream, size_t places, size_t channels, int group, Kernel kernel,
    const Arguments &...arguments)
{
    PlaceGrid grid;
    cudaError_t error =
        places == 0 || channels == 0 ? cudaSuccess : place_grid(places, channels, group, &grid);
    if (places == 0 || channels == 0 || error != cudaSuccess)
        return error;
    return launch(stream, dim3(grid.down, grid.across), dim3(grid.width, THREADS / grid.width), 0, kernel,
        arguments...);
}

// The place and the channel of a thread.
struct PlaceOfThread {
    unsigned place;
    size_t channel;

    __device__ explicit PlaceOfThread(int group)
        : place(blockIdx.x * blockDim.y + threadIdx.y),
          channel(((size_t)blockIdx.y * blockDim.x + threadIdx.x) * (unsigned)group)
    {
    }
};

// Sizes of a window's way over images, for the GPU.
struct PoolExtent {
    unsigned rows, height, width, high, wide, kernel, stride, padding;
    size_t channels;
};

PoolExtent extent_of(const LsImageWindow *window, size_t channels)
{
    return {(unsigned)window->rows, (unsigned)window->height, (unsigned)window->width,
        (unsigned)ls_image_places(window, window->height), (unsigned)ls_image_places(window, window->width),
        (unsigned)window->kernel, (unsigned)window->stride, (unsigned)window->padding, channels};
}

size_t places_in(const LsImageWindow *window)
{
    return window->rows * window->height * window->width;
}

size_t places_out(const LsImageWindow *window)
{
    return window->rows * ls_image_places(window, window->height) * ls_image_places(window, window->width);
}

// Of NaN and a number NaN is the larger; of equals the first stays.
__device__ __forceinline__ bool is_larger(float value, float than)
{
    return value > than || (isnan(value) && !isnan(than));
}

// ---- Maxima ---------------------------------------------------------------------------------------------

// Window elements along a side that lie on the image: begin … end.
struct Reach {
    unsigned begin, end;

    __device__ Reach(const PoolExtent &e, unsigned at, unsigned side)
    {
        unsigned start = at * e.stride; // on the padded side
        begin = start < e.padding ? e.padding - start : 0;
        end = side + e.padding - start < e.kernel ? side + e.padding - start : e.kernel;
    }
};

template <typename T, bool VECTOR>
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void max_pool_kernel(
    PoolExtent e, const T *x, T *y, uint8_t *place)
{
    constexpr int N = group_size<T>();
    PlaceOfThread own(N);
    if (own.place >= e.rows * e.high * e.wide || own.channel >= e.channels)
        return;
    unsigned w = own.place % e.wide, h = own.place / e.wide % e.high, r = own.place / e.wide / e.high;
    Reach down(e, h, e.height), along(e, w, e.width);
    ptrdiff_t first = (ptrdiff_t)own.channel;
    float largest[N];
    unsigned at[N];
    bool found = false;
    for (unsigned i = down.begin; i < down.end; i++)
#pragma unroll 4
        for (unsigned j = along.begin; j < along.end; j++) {
            size_t row = (size_t)r * e.height + h * e.stride + i - e.padding;
            size_t from = (row * e.width + w * e.stride + j - e.padding) * e.channels;
            Group<T, N> values = load_group<VECTOR, N>(x + from, first, e.channels);
#pragma unroll
            for (int n = 0; n < N; n++)
                if (!found || is_larger(values[n], largest[n]))
                    largest[n] = values[n], at[n] = i * e.kernel + j;
            found = true;
        }
    size_t to = (size_t)own.place * e.channels;
    store_group<VECTOR, N>(y + to, first, e.channels, round_group<T>(largest));
    if (!place)
        return;
    Group<uint8_t, N> places = {};
#pragma unroll
    for (int n = 0; n < N; n++)
        places.word[n / 4] |= at[n] << (n % 4 * 8);
    store_group<VECTOR, N>(place + to, first, e.channels, places);
}

// Windows along a side that reach `at`: begin … end.
struct Windows {
    unsigned begin, end;

    __device__ Windows(const PoolExtent &e, unsigned at, unsigned places)
    {
        unsigned padded = at + e.padding;
        begin = padded < e.kernel ? 0 : (padded - e.kernel) / e.stride + 1;
        end = padded / e.stride + 1 < places ? padded / e.stride + 1 : places;
    }
};

template <typename T, bool VECTOR>
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void max_pool_backward_kernel(
    PoolExtent e, const T *dy, const uint8_t *place, T *dx)
{
    constexpr int N = group_size<T>();
    PlaceOfThread own(N);
    if (own.place >= e.rows * e.height * e.width || own.channel >= e.channels)
        return;
    unsigned x = own.place % e.width, y = own.place / e.width % e.height, r = own.place / e.width / e.height;
    Windows down(e, y, e.high), along(e, x, e.wide);
    ptrdiff_t first = (ptrdiff_t)own.channel;
    float sum[N] = {};
    for (unsigned h = down.begin; h < down.end; h++)
#pragma unroll 2
        for (unsigned w = along.begin; w < along.end; w++) {
            size_t from = (((size_t)r * e.high + h) * e.wide + w) * e.channels;
            unsigned here = (y + e.padding - h * e.stride) * e.kernel + x + e.padding - w * e.stride;
            Group<uint8_t, N> places = load_group<VECTOR, N>(place + from, first, e.channels);
            Group<T, N> gradient = load_group<VECTOR, N>(dy + from, first, e.channels);
#pragma unroll
            for (int n = 0; n < N; n++)
                if (places.element(n) == here)
                    sum[n] += gradient[n];
        }
    store_group<VECTOR, N>(dx + (size_t)own.place * e.channels, first, e.channels, round_group<T>(sum));
}

// ---- Means ----------------------------------------------------------------------------------------------

template <typename T, bool VECTOR>
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void average_pool_kernel(LsAveragePool args)
{
    constexpr int N = group_size<T>();
    PlaceOfThread own(N); // its place is an image
    if (own.place >= args.rows || own.channel >= args.channels)
        return;
    ptrdiff_t first = (ptrdiff_t)own.channel;
    const T *x = (const T *)args.x + own.place * args.places * args.channels;
    float sum[N] = {};
#pragma unroll 8
    for (size_t p = 0; p < args.places; p++) {
        Group<T, N> values = load_group<VECTOR, N>(x + p * args.channels, first, args.channels);
#pragma unroll
        for (int n = 0; n < N; n++)
            sum[n] += values[n];
    }
#pragma unroll
    for (int n = 0; n < N; n++)
        sum[n] /= (float)args.places;
    store_group<VECTOR, N>(
        (T *)args.y + own.place * args.channels, first, args.channels, round_group<T>(sum));
}

template <typename T, bool VECTOR>
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void average_pool_backward_kernel(
    LsAveragePoolBackward args, unsigned places)
{
    constexpr int N = group_size<T>();
    PlaceOfThread own(N);
    if (own.place / places >= args.rows || own.channel >= args.channels)
        return;
    ptrdiff_t first = (ptrdiff_t)own.channel;
    const T *dy = (const T *)args.dy + own.place / places * args.channels;
    Group<T, N> gradient = load_group<VECTOR, N>(dy, first, args.channels);
    float dx[N];
#pragma unroll
    for (int n = 0; n < N; n++)
        dx[n] = gradient[n] / (float)places;
    store_group<VECTOR, N>(
        (T *)args.dx + own.place * args.channels, first, args.channels, round_group<T>(dx));
}

// Whether groups of N elements are aligned in all of the buffers.
template <typename T> bool are_aligned(size_t channels, const void *x, const void *y, const void *place)
{
    constexpr size_t N = group_size<T>();
    return channels % N == 0 && is_aligned(x, VECTOR_BYTES) && is_aligned(y, VECTOR_BYTES) &&
           is_aligned(place, N);
}

} // namespace

cudaError_t ls_kernel_max_pool(cudaStream_t stream, const LsMaxPool *args)
{
    PoolExtent extent = extent_of(&args->window, args->channels);
    return with_type(args->type, [&](auto type) {
        typedef decltype(type) T;
        return with_bool(are_aligned<T>(args->channels, args->x, args->y, args->place), [&](auto vector) {
            return launch_places(stream, places_out(&args->window), args->channels, group_size<T>(),
                max_pool_kernel<T, decltype(vector)::value>, extent, (const T *)args->x, (T *)args->y,
                args->place);
        });
    });
}

cudaError_t ls_kernel_max_pool_backward(cudaStream_t stream, const LsMaxPoolBackward *args)
{
    PoolExtent extent = extent_of(&args->window, args->channels);
    if (places_out(&args->window) > UINT32_MAX)
        return cudaErrorInvalidConfiguration;
    return with_type(args->type, [&](auto type) {
        typedef decltype(type) T;
        return with_bool(are_aligned<T>(args->channels, args->dy, args->dx, args->place), [&](auto vector) {
            return launch_places(stream, places_in(&args->window), args->channels, group_size<T>(),
                max_pool_backward_kernel<T, decltype(vector)::value>, extent, (const T *)args->dy,
                args->place, (T *)args->dx);
        });
    });
}

cudaError_t ls_kernel_average_pool(cudaStream_t stream, const LsAveragePool *args)
{
    return with_type(args->type, [&](auto type) {
        typedef decltype(type) T;
        return with_bool(are_aligned<T>(args->channels, args->x, args->y, NULL), [&](auto vector) {
            return launch_places(stream, args->rows, args->channels, group_size<T>(),
                average_pool_kernel<T, decltype(vector)::value>, *args);
        });
    });
}

cudaError_t ls_kernel_average_pool_backward(cudaStream_t stream, const LsAveragePoolBackward *args)
{
    return with_type(args->type, [&](auto type) {
        typedef decltype(type) T;
        return with_bool(are_aligned<T>(args->channels, args->dy, args->dx, NULL), [&](auto vector) {
            return launch_places(stream, args->rows * args->places, args->channels, group_size<T>(),
                average_pool_backward_kernel<T, decltype(vector)::value>, *args, (unsigned)args->places);
        });
    });
}
