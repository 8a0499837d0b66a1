// Batch normalisation, forward and backward (Ioffe and Szegedy, ICML 2015).
//
// An image is a matrix of places by channels. What is summed over places is summed in two passes: a block of
// threads has a slice of places and some channels, and a second kernel joins the slices of a channel. The
// shape alone decides how places are cut. A third kernel then goes over all elements (rows.cuh).
#include "rows.cuh"

namespace
{

// ---- Slices ---------------------------------------------------------------------------------------------

constexpr int CHUNK = 8;                     // places that a thread holds at a time
constexpr size_t LEAST_PLACES_OF_THREAD = 4; // so that slices are worth joining
constexpr int JOINING_HEIGHT = 8;            // warps that share the slices of 32 channels

// Each thread has a group of channels; blocks are `width` groups wide and THREADS / width places high.
struct BatchSlices {
    size_t all, places, channels; // places: of a slice
    unsigned width, across, count;

    __host__ __device__ size_t places_of(unsigned slice) const
    {
        size_t left = all - slice * places;
        return left < places ? left : places;
    }
};

BatchSlices cut_places(size_t places, size_t channels, int group)
{
    BatchSlices slices = {places, 0, channels, 0, 0, 0};
    size_t groups = divide_up(channels, (size_t)group);
    slices.width = power_of_two_from(groups, THREADS);
    slices.across = (unsigned)divide_up(groups, slices.width);
    size_t possible = divide_up(places, LEAST_PLACES_OF_THREAD * (THREADS / slices.width));
    size_t most = LS_BATCH_NORM_SLICES;
    slices.places = divide_up(places, possible < most ? possible : most);
    slices.count = (unsigned)divide_up(places, slices.places);
    return slices;
}

// What a block works on: places begin … begin + count, of which a thread takes every blockDim.y-th.
struct SliceOfBlock {
    size_t begin, channel;
    unsigned count;

    __device__ SliceOfBlock(const BatchSlices &slices, int group)
        : begin(blockIdx.y * slices.places),
          channel(((size_t)blockIdx.x * blockDim.x + threadIdx.x) * (unsigned)group),
          count((unsigned)slices.places_of(blockIdx.y))
    {
    }
};

// Joins the values of a block's threads of the same channels, pairwise; the first row of threads gets the
// result. join(values, others, half): `values` are of the places threadIdx.y modulo 2 × half, `others` of
// those half behind.
template <int K, typename Join> __device__ __forceinline__ void join_rows(float (&values)[K], Join join)
{
    __shared__ float part[K][THREADS];
    unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads(); // what was there has been read
        if (threadIdx.y >= half && threadIdx.y < 2 * half)
#pragma unroll
            for (int k = 0; k < K; k++)
                part[k][thread] = values[k];
        __syncthreads();
        if (threadIdx.y >= half)
            continue;
        float others[K];
#pragma unroll
        for (int k = 0; k < K; k++)
            others[k] = part[k][thread + half * blockDim.x];
        join(values, others, half);
    }
}

// Writes two numbers of each channel of a slice: [slices][2][channels].
template <bool VECTOR, int N>
__device__ __forceinline__ void store_slice(
    float *scratch, const BatchSlices &slices, const SliceOfBlock &own, const float (&values)[2 * N])
{
    if (threadIdx.y != 0)
        return;
    float first[N], second[N];
#pragma unroll
    for (int j = 0; j < N; j++)
        first[j] = values[j], second[j] = values[N + j];
    float *to = scratch + (size_t)blockIdx.y * 2 * slices.channels;
    store_floats<VECTOR>(to, own.channel, slices.channels, first);
    store_floats<VECTOR>(to + slices.channels, own.channel, slices.channels, second);
}

// Sum over a block's rows of threads, in every thread.
__device__ __forceinline__ double sum_of_column(double value)
{
    __shared__ double part[JOINING_HEIGHT][WARP];
    __syncthreads(); // what was there has been read
    part[threadIdx.y][threadIdx.x] = value;
    __syncthreads();
    double sum = part[0][threadIdx.x];
#pragma unroll
    for (int y = 1; y < JOINING_HEIGHT; y++)
        sum += part[y][threadIdx.x];
    return sum;
}

__device__ __forceinline__ float rstd_of(float variance)
{
    return 1.0f / sqrtf(variance + LS_BATCH_NORM_EPSILON);
}

// ---- Mean and variance ----------------------------------------------------------------------------------

// Of the places from `place` on, every step-th, that lie before `end`, up to CHUNK: means, then sums of
// squares of distances from them. Gives their number.
template <typename T, bool VECTOR, int N>
__device__ __forceinline__ float chunk_moments(const T *x, const BatchSlices &slices, const SliceOfBlock &own,
    unsigned place, unsigned step, float (&moments)[2 * N])
{
    Group<T, N> held[CHUNK] = {};
    int count = 0;
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        if (place + i * step < own.count) {
            const T *row = x + (own.begin + place + i * step) * slices.channels;
            held[i] = load_group<VECTOR, N>(row, (ptrdiff_t)own.channel, slices.channels);
            count = i + 1;
        }
    float number = (float)count;
#pragma unroll
    for (int j = 0; j < N; j++) {
        float sum = 0, squares = 0;
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            sum += held[i][j]; // zeros outside
        moments[j] = sum / number;
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            float distance = i < count ? held[i][j] - moments[j] : 0.0f;
            squares = fmaf(distance, distance, squares);
        }
        moments[N + j] = squares;
    }
    return number;
}

// Joins moments of `count` places with those of `more` others (Chan, Golub and LeVeque 1983): nothing
// cancels, as it would between sums of squares and squares of sums.
template <int N>
__device__ __forceinline__ void join_moments(
    float (&moments)[2 * N], float count, const float (&others)[2 * N], float more)
{
    if (more == 0)
        return;
    float share = more / (count + more);
#pragma unroll
    for (int j = 0; j < N; j++) {
        float distance = others[j] - moments[j];
        moments[j] = fmaf(distance, share, moments[j]);
        moments[N + j] += fmaf(distance * distance, count * share, others[N + j]);
    }
}

// How many of the numbers below `count` leave `rest` when divided by `by`.
__device__ __forceinline__ float count_of(unsigned count, unsigned rest, unsigned by)
{
    return rest < count ? (float)((count - rest - 1) / by + 1) : 0.0f;
}

template <typename T, bool VECTOR>
__global__ __launch_bounds__(THREADS, 2) void moments_kernel(const T *x, BatchSlices slices, float *scratch)
{
    constexpr int N = group_size<T>();
    SliceOfBlock own(slices, N);
    float moments[2 * N] = {}, count = 0;
    for (unsigned place = threadIdx.y; place < own.count; place += CHUNK * blockDim.y) {
        float chunk[2 * N];
        float more = chunk_moments<T, VECTOR, N>(x, slices, own, place, blockDim.y, chunk);
        join_moments<N>(moments, count, chunk, more);
        count += more;
    }
    join_rows(moments, [&](float(&values)[2 * N], const float(&others)[2 * N], unsigned half) {
        join_moments<N>(values, count_of(own.count, threadIdx.y, 2 * half), others,
            count_of(own.count, threadIdx.y + half, 2 * half));
    });
    store_slice<VECTOR, N>(scratch, slices, own, moments);
}

__global__ __launch_bounds__(WARP *JOINING_HEIGHT) void join_moments_kernel(
    const float *scratch, BatchSlices slices, float *mean, float *variance)
{
    size_t channel = (size_t)blockIdx.x * WARP + threadIdx.x, row = 2 * slices.channels;
    const float *means = scratch + channel, *squares = means + slices.channels;
    double sum = 0, all = 0;
    bool inside = channel < slices.channels;
    for (unsigned s = threadIdx.y; inside && s < slices.count; s += JOINING_HEIGHT)
        sum += (double)slices.places_of(s) * (double)means[s * row];
    double middle = sum_of_column(sum) / (double)slices.all;
    for (unsigned s = threadIdx.y; inside && s < slices.count; s += JOINING_HEIGHT) {
        double distance = (double)means[s * row] - middle;
        all += (double)squares[s * row] + (double)slices.places_of(s) * distance * distance;
    }
    all = sum_of_column(all);
    if (threadIdx.y != 0 || !inside)
        return;
    mean[channel] = (float)middle;
    variance[channel] = (float)(all / (double)slices.all);
}

// A launch for each pass over the slices.
dim3 slice_grid(const BatchSlices &slices)
{
    return dim3(slices.across, slices.count);
}

dim3 slice_block(const BatchSlices &slices)
{
    return dim3(slices.width, THREADS / slices.width);
}

template <typename T> cudaError_t measure(cudaStream_t stream, const LsBatchNorm *args)
{
    constexpr int N = group_size<T>();
    BatchSlices slices = cut_places(args->places, args->channels, N);
    float *scratch = (float *)args->scratch;
    bool aligned = args->channels % N == 0 && is_aligned(args->x, VECTOR_BYTES) &&
                   is_aligned(args->scratch, VECTOR_BYTES);
    cudaError_t error = with_bool(aligned, [&](auto vector) {
        return launch(stream, slice_grid(slices), slice_block(slices), 0,
            moments_kernel<T, decltype(vector)::value>, (const T *)args->x, slices, scratch);
    });
    if (error != cudaSuccess)
        return error;
    return launch(stream, (unsigned)divide_up(args->channels, WARP), dim3(WARP, JOINING_HEIGHT), 0,
        join_moments_kernel, (const float *)scratch, slices, args->mean, args->variance);
}

// ---- Normalisation --------------------------------------------------------------------------------------

// y = activation((x - mean) · factor + beta + residual).
template <typename T> struct Normalization {
    typedef T Input;
    static constexpr int N = group_size<T>(), STEPS = 2;
    LsBatchNorm args;
    const T *x;

    struct Column {
        float mean[N], factor[N], beta[N];
    };

    __device__ Column column(size_t first, size_t columns) const
    {
        Column column = {};
#pragma unroll
        for (int j = 0; j < N; j++) {
            size_t c = first + j;
            if (c >= columns)
                continue;
            const T *running = (const T *)args.running;
            float variance = running ? ls_running_variance(to_float(running[2 * c + 1])) : args.variance[c];
            column.mean[j] = running ? to_float(running[2 * c]) : args.mean[c];
            column.factor[j] = rstd_of(variance) * to_float(((const T *)args.gamma)[c]);
            column.beta[j] = to_float(((const T *)args.beta)[c]);
        }
        return column;
    }

    template <bool VECTOR>
    __device__ void finish(const RowPlace &place, const Group<T, N> &x, const Column &column) const
    {
        ptrdiff_t first = (ptrdiff_t)place.column;
        Group<T, N> residual = {};
        if (args.residual)
            residual = load_group<VECTOR, N>((const T *)args.residual + place.start(), first, place.columns);
        float y[N];
#pragma unroll
        for (int j = 0; j < N; j++) {
            y[j] = fmaf(x[j] - column.mean[j], column.factor[j], column.beta[j]) + residual[j];
            if (args.activation == LS_RELU && y[j] < 0)
                y[j] = 0;
        }
        store_group<VECTOR, N>((T *)args.y + place.start(), first, place.columns, round_group<T>(y));
    }

    bool aligned(size_t columns) const
    {
        return columns % N == 0 && is_aligned(args.x, VECTOR_BYTES) && is_aligned(args.y, VECTOR_BYTES) &&
               is_aligned(args.residual, VECTOR_BYTES); // so is NULL
    }
};

// ---- Backward -------------------------------------------------------------------------------------------

// The gradient of what is before the activation, of one group.
template <typename T, int N> struct IncomingGradient {
    Group<T, N> dy, other, y;

    template <bool VECTOR>
    __device__ __forceinline__ void load(const LsBatchNormBackward &args, size_t start, ptrdiff_t first)
    {
        dy = load_group<VECTOR, N>((const T *)args.dy + start, first, args.channels);
        other = {}, y = {};
        if (args.other)
            other = load_group<VECTOR, N>((const T *)args.other + start, first, args.channels);
        if (args.activation == LS_RELU)
            y = load_group<VECTOR, N>((const T *)args.y + start, first, args.channels);
    }

    __device__ __forceinline__ float at(int j, bool relu) const
    {
        return relu && y[j] <= 0 ? 0.0f : dy[j] + other[j];
    }
};

constexpr int GRADIENT_PLACES = 2; // whose loads are in flight together

// Sums of g and of g (x - mean) over a slice; keeps g where it is wanted.
template <typename T, bool VECTOR>
__global__ __launch_bounds__(THREADS, 2) void gradient_sums_kernel(
    LsBatchNormBackward args, BatchSlices slices)
{
    constexpr int N = group_size<T>();
    SliceOfBlock own(slices, N);
    ptrdiff_t first = (ptrdiff_t)own.channel;
    bool relu = args.activation == LS_RELU;
    float sums[2 * N] = {}, mean[N];
    load_floats<false>(args.mean, own.channel, args.channels, mean);
    for (unsigned place = threadIdx.y; place < own.count; place += GRADIENT_PLACES * blockDim.y) {
        IncomingGradient<T, N> incoming[GRADIENT_PLACES];
        Group<T, N> x[GRADIENT_PLACES];
#pragma unroll
        for (int i = 0; i < GRADIENT_PLACES; i++) {
            size_t start = (own.begin + place + i * blockDim.y) * args.channels;
            if (place + i * blockDim.y >= own.count)
                continue;
            x[i] = load_group<VECTOR, N>((const T *)args.x + start, first, args.channels);
            incoming[i].template load<VECTOR>(args, start, first);
        }
#pragma unroll
        for (int i = 0; i < GRADIENT_PLACES; i++) {
            size_t start = (own.begin + place + i * blockDim.y) * args.channels;
            if (place + i * blockDim.y >= own.count)
                continue;
            float g[N];
#pragma unroll
            for (int j = 0; j < N; j++) {
                g[j] = incoming[i].at(j, relu);
                sums[j] += g[j];
                sums[N + j] = fmaf(g[j], x[i][j] - mean[j], sums[N + j]);
            }
            if (args.dresidual)
                store_group<VECTOR, N>((T *)args.dresidual + start, first, args.channels, round_group<T>(g));
        }
    }
    join_rows(sums, [](float(&values)[2 * N], const float(&others)[2 * N], unsigned) {
#pragma unroll
        for (int k = 0; k < 2 * N; k++)
            values[k] += others[k];
    });
    store_slice<VECTOR, N>((float *)args.scratch, slices, own, sums);
}

__device__ __forceinline__ void add_to(float *to, float value, bool accumulate)
{
    *to = (accumulate ? *to : 0.0f) + value;
}

// Joins the slices, adds the channel's gradients and statistics, and leaves mean of g and rstd × mean of g ×
// normal where the first slice's sums were.
template <typename T>
__global__ __launch_bounds__(WARP *JOINING_HEIGHT) void join_gradients_kernel(
    LsBatchNormBackward args, BatchSlices slices)
{
    size_t channel = (size_t)blockIdx.x * WARP + threadIdx.x, row = 2 * slices.channels;
    float *sums = (float *)args.scratch + channel, *alongs = sums + slices.channels;
    bool inside = channel < slices.channels;
    double sum = 0, along = 0;
    for (unsigned s = threadIdx.y; inside && s < slices.count; s += JOINING_HEIGHT) {
        sum += (double)sums[s * row];
        along += (double)alongs[s * row];
    }
    sum = sum_of_column(sum);
    along = sum_of_column(along);
    if (threadIdx.y != 0 || !inside)
        return;
    float rstd = rstd_of(args.variance[channel]), along_normal = (float)along * rstd;
    add_to(args.dgamma + channel, along_normal, args.accumulate);
    add_to(args.dbeta + channel, (float)sum, args.accumulate);
    *sums = (float)(sum / (double)slices.all);
    *alongs = rstd * (along_normal / (float)slices.all);
    if (!args.statistics)
        return;
    float distance = args.mean[channel] - to_float(((const T *)args.running)[2 * channel]);
    float square = fmaf(distance, distance, args.variance[channel]), weight = args.statistics_weight;
    add_to(args.statistics + 2 * channel, weight * distance, args.accumulate);
    add_to(args.statistics + 2 * channel + 1, weight * square, args.accumulate);
}

// dx = factor (g - sum - (x - mean) · along), with what the sums have left in scratch memory.
template <typename T> struct InputGradient {
    typedef T Input;
    static constexpr int N = group_size<T>(), STEPS = 1;
    LsBatchNormBackward args;
    const T *x;

    struct Column {
        float mean[N], factor[N], sum[N], along[N];
    };

    __device__ Column column(size_t first, size_t columns) const
    {
        const float *sums = (const float *)args.scratch;
        Column column = {};
#pragma unroll
        for (int j = 0; j < N; j++) {
            size_t c = first + j;
            if (c >= columns)
                continue;
            column.mean[j] = args.mean[c];
            column.factor[j] = rstd_of(args.variance[c]) * to_float(((const T *)args.gamma)[c]);
            column.sum[j] = sums[c];
            column.along[j] = sums[columns + c];
        }
        return column;
    }

    template <bool VECTOR>
    __device__ void finish(const RowPlace &place, const Group<T, N> &x, const Column &column) const
    {
        ptrdiff_t first = (ptrdiff_t)place.column;
        IncomingGradient<T, N> incoming;
        bool relu = !args.dresidual && args.activation == LS_RELU;
        if (args.dresidual) { // g lies there, and dy or other may not be what they were
            incoming.dy =
                load_group<VECTOR, N>((const T *)args.dresidual + place.start(), first, place.columns);
            incoming.other = {}, incoming.y = {};
        } else {
            incoming.template load<VECTOR>(args, place.start(), first);
        }
        float dx[N];
#pragma unroll
        for (int j = 0; j < N; j++) {
            float g = incoming.at(j, relu) - column.sum[j];
            dx[j] = column.factor[j] * fmaf(column.mean[j] - x[j], column.along[j], g);
        }
        store_group<VECTOR, N>((T *)args.dx + place.start(), first, place.columns, round_group<T>(dx));
    }

    bool aligned(size_t columns) const
    {
        bool aligned = columns % N == 0;
        for (const void *buffer : {args.x, args.activation == LS_RELU ? args.y : NULL, args.dy, args.other,
                 (const void *)args.dresidual, (const void *)args.dx})
            aligned = aligned && is_aligned(buffer, VECTOR_BYTES);
        return aligned;
    }
};

template <typename T> cudaError_t backward(cudaStream_t stream, const LsBatchNormBackward *args)
{
    constexpr int N = group_size<T>();
    BatchSlices slices = cut_places(args->places, args->channels, N);
    InputGradient<T> gradient = {*args, (const T *)args->x};
    bool aligned = gradient.aligned(args->channels) && is_aligned(args->scratch, VECTOR_BYTES);
    cudaError_t error = with_bool(aligned, [&](auto vector) {
        return launch(stream, slice_grid(slices), slice_block(slices), 0,
            gradient_sums_kernel<T, decltype(vector)::value>, *args, slices);
    });
    if (error != cudaSuccess)
        return error;
    error = launch(stream, (unsigned)divide_up(args->channels, WARP), dim3(WARP, JOINING_HEIGHT), 0,
        join_gradients_kernel<T>, *args, slices);
    return error == cudaSuccess ? each_row(stream, args->places, args->channels, gradient) : error;
}

} // namespace

cudaError_t ls_kernel_batch_norm(cudaStream_t stream, const LsBatchNorm *args)
{
    return with_type(args->type, [&](auto type) {
        typedef decltype(type) T;
        cudaError_t error = args->running ? cudaSuccess : measure<T>(stream, args);
        if (error != cudaSuccess)
            return error;
        const Normalization<T> normalization = {*args, (const T *)args->x};
        return each_row(stream, args->places, args->channels, normalization);
    });
}

cudaError_t ls_kernel_batch_norm_backward(cudaStream_t stream, const LsBatchNormBackward *args)
{
    return with_type(args->type, [&](auto type) { return backward<decltype(type)>(stream, args); });
}
