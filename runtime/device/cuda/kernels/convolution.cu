// Convolutions without a library: products of matrices whose elements are gathered from images and filters
// while they are read, in tiles that a block of threads keeps in shared memory. They are for shapes that
// cuDNN has no plan for, so they are plain: elements are read one by one, and sums are F32 on all types.
#include "slices.cuh"

namespace
{

constexpr int TILE = 64, DEPTH = 16, SIDE = 4, ACROSS = TILE / SIDE; // SIDE: of a thread's part of a tile

struct Extent {
    unsigned rows, height, width, high, wide, in, out, kernel, stride, padding;

    __host__ __device__ unsigned places() const // of the result
    {
        return rows * high * wide;
    }

    __host__ __device__ unsigned window() const
    {
        return kernel * kernel;
    }
};

// The numbers of rows, columns and terms of a product are 32 bits wide.
bool extent_of(const LsConvolutionShape *shape, Extent *out)
{
    const LsImageWindow &window = shape->window;
    size_t high = ls_image_places(&window, window.height), wide = ls_image_places(&window, window.width);
    size_t channels = shape->in > shape->out ? shape->in : shape->out;
    *out = {(unsigned)window.rows, (unsigned)window.height, (unsigned)window.width, (unsigned)high,
        (unsigned)wide, (unsigned)shape->in, (unsigned)shape->out, (unsigned)window.kernel,
        (unsigned)window.stride, (unsigned)window.padding};
    return window.rows * window.height * window.width <= INT32_MAX &&
           window.rows * high * wide <= INT32_MAX && channels * window.kernel * window.kernel <= INT32_MAX;
}

template <typename T> __device__ __forceinline__ T round_one(float value)
{
    return from_bits<T>(round_word(value, value, T()));
}

// A place of an image, taken apart.
struct Place {
    unsigned row, y, x;

    __device__ Place(unsigned place, unsigned height, unsigned width)
        : row(place / width / height), y(place / width % height), x(place % width)
    {
    }
};

// An element of a window, with its channel.
struct Tap {
    unsigned i, j, channel;

    __device__ Tap(unsigned index, unsigned kernel, unsigned channels)
        : i(index / channels / kernel), j(index / channels % kernel), channel(index % channels)
    {
    }
};

// The input at a tap of the window of an output's place; zero on the padding.
template <typename T>
__device__ __forceinline__ float input_at(const Extent &e, const T *x, const Place &place, const Tap &tap)
{
    unsigned y = place.y * e.stride + tap.i - e.padding, w = place.x * e.stride + tap.j - e.padding;
    if (y >= e.height || w >= e.width) // a negative number is a large one
        return 0;
    return to_float(x[(((size_t)place.row * e.height + y) * e.width + w) * e.in + tap.channel]);
}

// A product has rows, columns and terms; a(row, term) and b(term, column) are its factors' elements, and of
// those that lie together in memory, A_BY_TERM and B_BY_TERM say whether they belong to one row and column.

template <typename T> struct Forward {
    static constexpr bool A_BY_TERM = true, B_BY_TERM = true;
    Extent e;
    const T *x, *weight;
    T *y;
    unsigned rows, columns, terms;

    explicit Forward(const Extent &e, const LsConvolution *args)
        : e(e), x((const T *)args->x), weight((const T *)args->weight), y((T *)args->y), rows(e.places()),
          columns(e.out), terms(e.window() * e.in)
    {
    }

    __device__ float a(unsigned row, unsigned term) const
    {
        return input_at(e, x, Place(row, e.high, e.wide), Tap(term, e.kernel, e.in));
    }

    __device__ float b(unsigned term, unsigned column) const
    {
        return to_float(weight[(size_t)column * terms + term]);
    }

    __device__ void store(unsigned row, unsigned column, float value) const
    {
        y[(size_t)row * columns + column] = round_one<T>(value);
    }
};

template <typename T> struct BackwardData {
    static constexpr bool A_BY_TERM = true, B_BY_TERM = false;
    Extent e;
    const T *dy, *weight;
    T *dx;
    unsigned rows, columns, terms;

    explicit BackwardData(const Extent &e, const LsConvolutionBackwardData *args)
        : e(e), dy((const T *)args->dy), weight((const T *)args->weight), dx((T *)args->dx),
          rows(e.rows * e.height * e.width), columns(e.in), terms(e.window() * e.out)
    {
    }

    // dy where the window's tap lies on the row's place; zero where no window has it there.
    __device__ float a(unsigned row, unsigned term) const
    {
        Place place(row, e.height, e.width);
        Tap tap(term, e.kernel, e.out);
        unsigned y = place.y + e.padding - tap.i, x = place.x + e.padding - tap.j;
        if (y % e.stride || x % e.stride || y / e.stride >= e.high || x / e.stride >= e.wide)
            return 0;
        size_t at = ((size_t)place.row * e.high + y / e.stride) * e.wide + x / e.stride;
        return to_float(dy[at * e.out + tap.channel]);
    }

    __device__ float b(unsigned term, unsigned column) const
    {
        Tap tap(term, e.kernel, e.out);
        size_t filter = ((size_t)tap.channel * e.kernel + tap.i) * e.kernel + tap.j;
        return to_float(weight[filter * e.in + column]);
    }

    __device__ void store(unsigned row, unsigned column, float value) const
    {
        dx[(size_t)row * columns + column] = round_one<T>(value);
    }
};

// Its terms are places; each slice of them writes sums of its own.
template <typename T> struct BackwardWeights {
    static constexpr bool A_BY_TERM = false, B_BY_TERM = false;
    Extent e;
    const T *x, *dy;
    float *sums; // [slices][out][kernel][kernel][in]
    unsigned rows, columns, terms;

    explicit BackwardWeights(const Extent &e, const LsConvolutionBackwardWeights *args, void *scratch)
        : e(e), x((const T *)args->x), dy((const T *)args->dy), sums((float *)scratch), rows(e.out),
          columns(e.window() * e.in), terms(e.places())
    {
    }

    __device__ float a(unsigned row, unsigned term) const
    {
        return to_float(dy[(size_t)term * e.out + row]);
    }

    __device__ float b(unsigned term, unsigned column) const
    {
        return input_at(e, x, Place(term, e.high, e.wide), Tap(column, e.kernel, e.in));
    }

    __device__ void store(unsigned row, unsigned column, float value) const
    {
        sums[((size_t)blockIdx.z * rows + row) * columns + column] = value;
    }
};

// Which element of a tile's side and which term a thread reads, in turn `i`.
template <bool BY_TERM> __device__ __forceinline__ void element_of_turn(int i, int &side, int &term)
{
    int index = (int)threadIdx.x + i * THREADS;
    side = BY_TERM ? index / DEPTH : index % TILE;
    term = BY_TERM ? index % DEPTH : index / TILE;
}

// Slice blockIdx.z of the terms.
template <typename Product>
__global__ __launch_bounds__(THREADS, 2) void product_kernel(Product product, unsigned terms_of_slice)
{
    __shared__ float a[DEPTH][TILE + 1], b[DEPTH][TILE + 1]; // one more: banks differ along the terms too
    unsigned top = blockIdx.x * TILE, left = blockIdx.y * TILE, begin = blockIdx.z * terms_of_slice;
    unsigned rest = product.terms - begin, end = begin + (rest < terms_of_slice ? rest : terms_of_slice);
    int down = (int)threadIdx.x / ACROSS, across = (int)threadIdx.x % ACROSS;
    float sum[SIDE][SIDE] = {};
    for (unsigned first = begin; first < end; first += DEPTH) {
        for (int i = 0; i < TILE * DEPTH / THREADS; i++) {
            int side, term;
            element_of_turn<Product::A_BY_TERM>(i, side, term);
            bool inside = top + side < product.rows && first + term < end;
            a[term][side] = inside ? product.a(top + side, first + term) : 0;
            element_of_turn<Product::B_BY_TERM>(i, side, term);
            inside = left + side < product.columns && first + term < end;
            b[term][side] = inside ? product.b(first + term, left + side) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int term = 0; term < DEPTH; term++)
#pragma unroll
            for (int i = 0; i < SIDE; i++)
#pragma unroll
                for (int j = 0; j < SIDE; j++)
                    sum[i][j] = fmaf(a[term][down + i * ACROSS], b[term][across + j * ACROSS], sum[i][j]);
        __syncthreads(); // what was read may be overwritten
    }
#pragma unroll
    for (int i = 0; i < SIDE; i++)
#pragma unroll
        for (int j = 0; j < SIDE; j++) {
            unsigned row = top + down + i * ACROSS, column = left + across + j * ACROSS;
            if (row < product.rows && column < product.columns)
                product.store(row, column, sum[i][j]);
        }
}

template <typename Product>
cudaError_t multiply(cudaStream_t stream, const Product &product, unsigned slices, unsigned terms_of_slice)
{
    dim3 grid((unsigned)divide_up(product.rows, TILE), (unsigned)divide_up(product.columns, TILE), slices);
    return launch(stream, grid, THREADS, 0, product_kernel<Product>, product, terms_of_slice);
}

// How places are cut for the gradient of filters, which the shape alone decides: enough slices for a large
// GPU, each worth its writing, and no more than scratch memory is meant for.
struct TermSlices {
    unsigned count, terms;
};

TermSlices cut_terms(const LsConvolutionShape *shape)
{
    constexpr size_t BLOCKS = 512, LEAST_TERMS = 128;
    size_t rows = shape->out, columns = shape->window.kernel * shape->window.kernel * shape->in;
    size_t terms = shape->window.rows * ls_image_places(&shape->window, shape->window.height) *
                   ls_image_places(&shape->window, shape->window.width);
    size_t count = divide_up(BLOCKS, divide_up(rows, TILE) * divide_up(columns, TILE));
    size_t worth = divide_up(terms, LEAST_TERMS), room = LS_CONVOLUTION_WORKSPACE / (rows * columns * 4);
    count = count < worth ? count : worth;
    count = count < room ? count : room > 0 ? room : 1;
    size_t of_slice = divide_up(terms, count);
    return {(unsigned)divide_up(terms, of_slice), (unsigned)of_slice};
}

// ---- Widening -------------------------------------------------------------------------------------------

template <typename T, bool VECTOR>
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void widen_kernel(LsWiden args)
{
    constexpr int N = group_size<T>();
    size_t first = ((size_t)blockIdx.x * THREADS + threadIdx.x) * N;
    Group<T, N> from = load_group<VECTOR, N>((const T *)args.from, (ptrdiff_t)first, args.n);
    float values[N] = {};
    if (args.accumulate)
        load_floats<VECTOR>(args.to, first, args.n, values);
#pragma unroll
    for (int j = 0; j < N; j++)
        values[j] += from[j];
    store_floats<VECTOR>(args.to, first, args.n, values);
}

} // namespace

cudaError_t ls_kernel_convolution(cudaStream_t stream, const LsConvolution *args)
{
    Extent extent;
    if (!extent_of(&args->shape, &extent))
        return cudaErrorInvalidConfiguration;
    return with_type(args->type, [&](auto type) {
        Forward<decltype(type)> product(extent, args);
        return multiply(stream, product, 1, product.terms);
    });
}

cudaError_t ls_kernel_convolution_backward_data(cudaStream_t stream, const LsConvolutionBackwardData *args)
{
    Extent extent;
    if (!extent_of(&args->shape, &extent))
        return cudaErrorInvalidConfiguration;
    return with_type(args->type, [&](auto type) {
        BackwardData<decltype(type)> product(extent, args);
        return multiply(stream, product, 1, product.terms);
    });
}

size_t ls_kernel_convolution_scratch(const LsConvolutionShape *shape)
{
    return cut_terms(shape).count * ls_convolution_scratch(shape);
}

cudaError_t ls_kernel_convolution_backward_weights(
    cudaStream_t stream, const LsConvolutionBackwardWeights *args, void *scratch)
{
    Extent extent;
    if (!extent_of(&args->shape, &extent))
        return cudaErrorInvalidConfiguration;
    TermSlices slices = cut_terms(&args->shape);
    cudaError_t error = with_type(args->type, [&](auto type) {
        BackwardWeights<decltype(type)> product(extent, args, scratch);
        return multiply(stream, product, slices.count, slices.terms);
    });
    if (error != cudaSuccess)
        return error;
    size_t columns = ls_convolution_scratch(&args->shape) / sizeof(float);
    const SliceSums sums = {
        (const float *)scratch, slices.count, columns, {args->dweight, NULL}, args->accumulate};
    return add_slices(stream, sums, 1);
}

cudaError_t ls_kernel_widen(cudaStream_t stream, const LsWiden *args)
{
    if (args->n == 0)
        return cudaSuccess;
    return with_type(args->type, [&](auto type) {
        typedef decltype(type) T;
        constexpr int N = group_size<T>();
        bool aligned =
            args->n % N == 0 && is_aligned(args->from, VECTOR_BYTES) && is_aligned(args->to, VECTOR_BYTES);
        unsigned blocks = (unsigned)divide_up(args->n, (size_t)N * THREADS);
        return with_bool(aligned, [&](auto vector) {
            return launch(stream, blocks, THREADS, 0, widen_kernel<T, decltype(vector)::value>, *args);
        });
    });
}
