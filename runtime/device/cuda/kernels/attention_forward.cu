// Causal attention, forward: FlashAttention-2's loop (Dao, 2023). A block has 64 queries and goes over the
// keys that they may see in ascending order, with a running maximum and sum of each row (online softmax).
//
// While scores are computed the tile of values is on its way, and while values are weighed the next tile of
// keys. Occupancy, in blocks of 4 warps on a multiprocessor: short heads take 128 registers and 27 KiB of
// shared memory (F32: 51), so 4 of them fit; long heads 168 registers and 51 KiB (F32: 66), so 3 do (A100
// with F32: 2).
#include "attention.cuh"

namespace
{

struct Forward {
    HeadShape shape;
    unsigned first; // query that is asked for
    const void *qkv;
    void *out;
    float *log_sum;
};

// Keys of a tile; fewer where long rows of floats need the memory.
template <typename T, int WIDTH> constexpr int KEYS_OF_TILE = sizeof(T) == 4 && WIDTH == LONG ? 32 : 64;

template <typename T, int WIDTH> constexpr size_t forward_bytes()
{
    return (TILE_ROWS + 2 * KEYS_OF_TILE<T, WIDTH>)*TILE_STRIDE<T, WIDTH> * sizeof(T);
}

// Each row's largest score so far, scaled to powers of two, and this thread's part of its sum of weights.
template <typename T> struct RowSums {
    float largest[Layout<T>::ROWS], total[Layout<T>::ROWS];
};

// Scores of keys behind a query count as -infinity. `ahead` is the number of the tile's first key less that
// of the warp's first query.
template <typename T, int TILES>
__device__ __forceinline__ void hide_unseen(float (&scores)[TILES][4], int ahead)
{
    typedef Layout<T> Of;
    if (ahead + 8 * TILES <= 1)
        return;
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (ahead + Of::column(j, e) > Of::row(Of::of_row(e)))
                scores[j][e] = minus_infinity();
}

// Makes scores weights relative to the largest score so far, and what has been summed relative to it as well.
// While all are -infinity, weights are taken relative to 0, which leaves them 0 and not NaN. NaN is no
// maximum, and makes its weight, and the row's sum, NaN.
template <typename T, int TILES, int VALUES_TILES>
__device__ __forceinline__ void weigh(
    float (&scores)[TILES][4], float (&values)[VALUES_TILES][4], RowSums<T> &sums, float scale)
{
    typedef Layout<T> Of;
    float here[Of::ROWS], shift[Of::ROWS], factor[Of::ROWS];
#pragma unroll
    for (int r = 0; r < Of::ROWS; r++)
        here[r] = minus_infinity();
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            here[Of::of_row(e)] = fmaxf(here[Of::of_row(e)], scores[j][e]);
#pragma unroll
    for (int r = 0; r < Of::ROWS; r++) {
        float largest = fmaxf(sums.largest[r], warp_max(here[r], Of::SHARERS) * scale);
        shift[r] = largest == minus_infinity() ? 0.0f : largest;
        factor[r] = power_of_two(sums.largest[r] - shift[r]);
        sums.largest[r] = largest;
        sums.total[r] *= factor[r];
    }
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int r = Of::of_row(e);
            scores[j][e] = power_of_two(fmaf(scores[j][e], scale, -shift[r]));
            sums.total[r] += scores[j][e];
        }
#pragma unroll
    for (int j = 0; j < VALUES_TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            values[j][e] *= factor[Of::of_row(e)];
}

// Divides by the sums of weights, which come from all that share a row.
template <typename T, int VALUES_TILES>
__device__ __forceinline__ void finish(float (&values)[VALUES_TILES][4], RowSums<T> &sums)
{
    typedef Layout<T> Of;
    float inverse[Of::ROWS];
#pragma unroll
    for (int r = 0; r < Of::ROWS; r++) {
        sums.total[r] = warp_sum(sums.total[r], Of::SHARERS);
        inverse[r] = 1.0f / sums.total[r];
    }
#pragma unroll
    for (int j = 0; j < VALUES_TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            values[j][e] *= inverse[Of::of_row(e)];
}

template <typename T>
__device__ __forceinline__ void store_log_sums(
    const Forward &args, const Block &block, const RowSums<T> &sums, unsigned row)
{
    typedef Layout<T> Of;
    if (block.part != 0 || lane_index() % Of::SHARERS != 0)
        return;
    float *to = args.log_sum + block.sums(args.shape);
#pragma unroll
    for (int r = 0; r < Of::ROWS; r++) {
        unsigned query = row + Of::row(r);
        if (query >= args.first && query < args.shape.window)
            to[query] = fmaf(sums.largest[r], LN_2, logf(sums.total[r]));
    }
}

template <typename T, int WIDTH>
__global__ __launch_bounds__(TILE_THREADS) void forward_kernel(const __grid_constant__ Forward args)
{
    constexpr int KEY_ROWS = KEYS_OF_TILE<T, WIDTH>, STRIDE = TILE_STRIDE<T, WIDTH>;
    LS_DYNAMIC_SHARED(char, shared);
    T *query_tile = (T *)shared, *key_tile = query_tile + TILE_ROWS * STRIDE;
    T *value_tile = key_tile + KEY_ROWS * STRIDE;
    const HeadShape &shape = args.shape;
    const Block block(shape);
    const unsigned parts = parts_of<WIDTH>(shape);
    const Matrix<const T> q = head_matrix((const T *)args.qkv, shape, block, PIECES, QUERIES);
    const Matrix<const T> k = head_matrix((const T *)args.qkv, shape, block, PIECES, KEYS);
    const Matrix<const T> v = head_matrix((const T *)args.qkv, shape, block, PIECES, VALUES);
    // Later queries see more keys: those blocks begin first.
    unsigned query = (args.first / TILE_ROWS + shape.tiles - 1 - block.tile) * TILE_ROWS;
    unsigned end = query + TILE_ROWS < shape.window ? query + TILE_ROWS : shape.window,
             column = block.part * WIDTH;
    int width = part_width<WIDTH>(shape, block.part);

    float values[WIDTH / 8][4] = {}, scale = shape.scale * LOG2_E;
    RowSums<T> sums;
#pragma unroll
    for (int r = 0; r < Layout<T>::ROWS; r++)
        sums.largest[r] = minus_infinity(), sums.total[r] = 0;
    load_tile<TILE_ROWS, WIDTH>(query_tile, q, query, 0, part_width<WIDTH>(shape, 0));
    load_tile<KEY_ROWS, WIDTH>(key_tile, k, 0, 0, part_width<WIDTH>(shape, 0));
    for (unsigned key = 0; key < end; key += KEY_ROWS) {
        float scores[KEY_ROWS / 8][4] = {};
        for (unsigned part = 0; part < parts; part++) {
            await_copies();
            if (part + 1 == parts)
                load_tile<KEY_ROWS, WIDTH>(value_tile, v, key, column, width);
            add_products<WIDTH>(
                scores, query_tile + warp_row() * STRIDE, key_tile, part_width<WIDTH>(shape, part));
            if (part + 1 == parts)
                continue;
            __syncthreads();
            load_tile<TILE_ROWS, WIDTH>(
                query_tile, q, query, (part + 1) * WIDTH, part_width<WIDTH>(shape, part + 1));
            load_tile<KEY_ROWS, WIDTH>(
                key_tile, k, key, (part + 1) * WIDTH, part_width<WIDTH>(shape, part + 1));
        }
        hide_unseen<T>(scores, (int)key - (int)(query + warp_row()));
        weigh(scores, values, sums, scale);
        await_copies();
        if (key + KEY_ROWS < end) {
            load_tile<KEY_ROWS, WIDTH>(key_tile, k, key + KEY_ROWS, 0, part_width<WIDTH>(shape, 0));
            if (parts > 1)
                load_tile<TILE_ROWS, WIDTH>(query_tile, q, query, 0, WIDTH);
        }
        weigh_rows<WIDTH>(values, scores, value_tile, width);
    }
    finish(values, sums);
    store_log_sums(args, block, sums, query + warp_row());
    store_sums<WIDTH>(values, query_tile + warp_row() * STRIDE,
        head_matrix((T *)args.out, shape, block, 1, 0), query + warp_row(), column, args.first);
}

bool is_vector(const LsAttention *args)
{
    return args->size * ls_dtype_size(args->type) % VECTOR_BYTES == 0 &&
           is_aligned(args->qkv, VECTOR_BYTES) && is_aligned(args->out, VECTOR_BYTES);
}

} // namespace

cudaError_t ls_kernel_attention(cudaStream_t stream, const LsAttention *args)
{
    if (args->windows == 0 || args->first >= args->window)
        return cudaSuccess;
    if (!are_countable(args->window, args->heads, args->size))
        return cudaErrorInvalidConfiguration;
    return with_type(args->type, [&](auto type) {
        return with_width(args->size, [&](auto width) {
            typedef decltype(type) T;
            constexpr int WIDTH = decltype(width)::value;
            HeadShape shape = head_shape(args->window, args->heads, args->size, WIDTH, args->first);
            shape.vector = is_vector(args);
            Forward forward = {shape, (unsigned)args->first, args->qkv, args->out, args->log_sum};
            return launch_tiles(stream, grid_of(shape, args->windows), forward_bytes<T, WIDTH>(),
                forward_kernel<T, WIDTH>, forward);
        });
    });
}
