// Causal attention, backward: scores are computed again from the inputs and the rows' log-sums. One kernel
// with two faces: a block of 64 queries goes over keys and sums up dQ, a block of 64 keys goes over queries
// and sums up dK and dV. Each sum is one block's, along ascending rows of the other side, so that no sum
// depends on the order of blocks. That takes 7 products where a kernel that adds to dQ from all blocks takes
// 5, but needs no atomics.
//
// With S = Q Kᵀ scale and P = exp(S - log_sum): dV = Pᵀ dO, dP = dO Vᵀ, dS = P (dP - delta) scale,
// dQ = dS K, dK = dSᵀ Q, where delta = sum of dO out over a row's values.
//
// Tiles of the other side are loaded one ahead where memory allows it. Occupancy, in blocks of 4 warps on a
// multiprocessor: short heads take 96 registers for queries and up to 151 for keys (F32: 128, 168) and 37 KiB
// of shared memory (F32: 69), so 5 and 3 fit (A100 with F32: 2); long heads up to 188 and 252 registers and
// 69 KiB (F32: 83), so 2 do (A100 with F32: 1).
#include "attention.cuh"

namespace
{

struct Backward {
    HeadShape shape;
    const void *qkv, *dout;
    const float *log_sum, *delta;
    void *dqkv;
};

// ---- delta ----------------------------------------------------------------------------------------------

// delta[window][head][t] = sum of out[row][head][i] dout[row][head][i] over i, by some neighbours of a warp.
template <typename T, bool VECTOR>
__global__ __launch_bounds__(THREADS) void delta_kernel(
    HeadShape shape, const T *out, const T *dout, float *delta, size_t rows, unsigned threads_per_row)
{
    constexpr int N = group_size<T>();
    size_t row =
        (size_t)blockIdx.x * (THREADS / threads_per_row) + threadIdx.x / threads_per_row; // of a head
    size_t columns = row < rows ? shape.size : 0, start = row * shape.size;
    float sum = 0;
    for (size_t i = threadIdx.x % threads_per_row * N; i < columns; i += threads_per_row * N) {
        Group<T, N> x = load_group<VECTOR, N>(out + start, (ptrdiff_t)i, columns);
        Group<T, N> dx = load_group<VECTOR, N>(dout + start, (ptrdiff_t)i, columns);
#pragma unroll
        for (int j = 0; j < N; j++)
            sum = fmaf(x[j], dx[j], sum);
    }
    sum = warp_sum(sum, (int)threads_per_row);
    size_t token = row / shape.heads, head = row % shape.heads;
    if (columns > 0 && threadIdx.x % threads_per_row == 0)
        delta[(token / shape.window * shape.heads + head) * shape.window + token % shape.window] = sum;
}

template <typename T>
cudaError_t launch_delta(cudaStream_t stream, const HeadShape &shape, const LsAttentionBackward *args)
{
    size_t rows = args->windows * args->window * args->heads;
    unsigned threads = power_of_two_from(divide_up(shape.size, group_size<T>()), WARP);
    size_t blocks = divide_up(rows, THREADS / threads);
    if (blocks > INT_MAX)
        return cudaErrorInvalidConfiguration;
    return with_bool(shape.vector, [&](auto vector) {
        return launch(stream, (unsigned)blocks, THREADS, 0, delta_kernel<T, decltype(vector)::value>, shape,
            (const T *)args->out, (const T *)args->dout, (float *)args->scratch, rows, threads);
    });
}

// ---- Gradients ------------------------------------------------------------------------------------------

// How a kernel is built: OTHERS rows of the other side in a tile, STAGES tiles in memory. Long rows of floats
// leave room for short tiles only.
template <typename T, int WIDTH> struct Plan {
    static constexpr bool LONG_FLOATS = sizeof(T) == 4 && WIDTH == LONG;
    static constexpr int OTHERS = LONG_FLOATS ? 16 : 32, STAGES = LONG_FLOATS ? 1 : 2;
    static constexpr int STRIDE = TILE_STRIDE<T, WIDTH>, TILE = OTHERS * STRIDE;
    static constexpr size_t BYTES =
        (2 * TILE_ROWS * STRIDE + 2 * STAGES * TILE) * sizeof(T) + 2 * STAGES * OTHERS * sizeof(float);
};

// What queries bring along, by row of the block or by row of a tile.
struct QuerySums {
    float log_sum, delta;
};

// One side of a head: the rows whose products are scores (queries or keys), and those whose products are
// slopes (dout or values).
template <typename T> struct Side {
    Matrix<const T> scores, slopes;

    template <int HEIGHT, int WIDTH>
    __device__ __forceinline__ void load(
        T *score_tile, T *slope_tile, unsigned row, unsigned column, int width) const
    {
        load_tile<HEIGHT, WIDTH>(score_tile, scores, row, column, width);
        load_tile<HEIGHT, WIDTH>(slope_tile, slopes, row, column, width);
    }
};

template <typename T> __device__ __forceinline__ Side<T> query_side(const Backward &args, const Block &block)
{
    return {head_matrix((const T *)args.qkv, args.shape, block, PIECES, QUERIES),
        head_matrix((const T *)args.dout, args.shape, block, 1, 0)};
}

template <typename T> __device__ __forceinline__ Side<T> key_side(const Backward &args, const Block &block)
{
    return {head_matrix((const T *)args.qkv, args.shape, block, PIECES, KEYS),
        head_matrix((const T *)args.qkv, args.shape, block, PIECES, VALUES)};
}

// Makes scores weights, and slopes the gradients of scores. Pairs that do not see each other have neither:
// `hidden` says which, unless a whole tile is seen.
template <typename T, int TILES, typename Sums, typename Hidden>
__device__ __forceinline__ void differentiate(float (&scores)[TILES][4], float (&slopes)[TILES][4],
    float scale, Sums sums_of, bool all_seen, Hidden hidden)
{
    typedef Layout<T> Of;
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            QuerySums sums = sums_of(j, e);
            float weight = power_of_two(fmaf(scores[j][e], scale, -sums.log_sum) * LOG2_E);
            float gradient = weight * (slopes[j][e] - sums.delta) * scale;
            bool none = !all_seen && hidden(Of::row(Of::of_row(e)), Of::column(j, e));
            scores[j][e] = none ? 0.0f : weight;
            slopes[j][e] = none ? 0.0f : gradient;
        }
}

// A block's side and the other, and where their tiles are.
template <typename T, int WIDTH, bool OF_KEYS> struct Work {
    typedef Plan<T, WIDTH> P;
    const Backward &args;
    Block block;
    Side<T> own, other;
    unsigned row, begin, end; // of the block; of the others that it goes over
    T *tiles;                 // scores' and slopes' rows of the block, then both of each stage
    float *sums;              // of the queries of each stage: [2][OTHERS]

    __device__ __forceinline__ Work(const Backward &arguments, char *shared)
        : args(arguments), block(arguments.shape), own(query_side<T>(arguments, block)), other(own),
          tiles((T *)shared), sums((float *)(tiles + 2 * TILE_ROWS * P::STRIDE + 2 * P::STAGES * P::TILE))
    {
        const HeadShape &shape = args.shape;
        (OF_KEYS ? own : other) = key_side<T>(args, block);
        // Early keys are seen by more queries, late queries see more keys: those blocks begin first.
        row = (OF_KEYS ? block.tile : shape.tiles - 1 - block.tile) * TILE_ROWS;
        begin = OF_KEYS ? row : 0;
        end = OF_KEYS || row + TILE_ROWS > shape.window ? shape.window : row + TILE_ROWS;
    }

    __device__ __forceinline__ T *own_tile(int which) const
    {
        return tiles + which * TILE_ROWS * P::STRIDE;
    }

    __device__ __forceinline__ T *other_tile(unsigned stage, int which) const
    {
        return tiles + 2 * TILE_ROWS * P::STRIDE + (2 * stage + which) * P::TILE;
    }

    __device__ __forceinline__ float *stage_sums(unsigned stage) const
    {
        return sums + 2 * stage * P::OTHERS;
    }

    __device__ __forceinline__ int width(unsigned part) const
    {
        return part_width<WIDTH>(args.shape, part);
    }

    __device__ __forceinline__ void load_own(unsigned part) const
    {
        own.template load<TILE_ROWS, WIDTH>(own_tile(0), own_tile(1), row, part * WIDTH, width(part));
    }

    __device__ __forceinline__ void load_other(unsigned stage, unsigned first, unsigned part) const
    {
        other.template load<P::OTHERS, WIDTH>(
            other_tile(stage, 0), other_tile(stage, 1), first, part * WIDTH, width(part));
        if (!OF_KEYS || threadIdx.x >= 2 * P::OTHERS)
            return;
        unsigned query = first + threadIdx.x % P::OTHERS;
        const float *from = (threadIdx.x < P::OTHERS ? args.log_sum : args.delta) + block.sums(args.shape);
        bool inside = query < args.shape.window;
        copy_async<4>(stage_sums(stage) + threadIdx.x, from + (inside ? query : 0), inside ? 4 : 0);
    }

    // Scores and slopes of the rows and a tile of others, part by part. Loads the next tile meanwhile if it
    // has a place of its own.
    template <int TILES>
    __device__ __forceinline__ void multiply_tiles(
        float (&scores)[TILES][4], float (&slopes)[TILES][4], unsigned stage, unsigned first) const
    {
        const unsigned parts = parts_of<WIDTH>(args.shape);
        for (unsigned part = 0; part < parts; part++) {
            await_copies();
            if (P::STAGES == 2 && parts == 1 && first + P::OTHERS < end)
                load_other(stage ^ 1, first + P::OTHERS, 0);
            add_products<WIDTH>(
                scores, own_tile(0) + warp_row() * P::STRIDE, other_tile(stage, 0), width(part));
            add_products<WIDTH>(
                slopes, own_tile(1) + warp_row() * P::STRIDE, other_tile(stage, 1), width(part));
            if (part + 1 == parts)
                continue;
            __syncthreads();
            load_own(part + 1);
            load_other(stage, first, part + 1);
        }
        if (parts > 1) {
            __syncthreads();
            load_other(stage, first, block.part);
            await_copies();
        }
    }

    // What follows a tile: the other stage, or a load into this one. Returns the stage of the next tile.
    __device__ __forceinline__ unsigned advance(unsigned stage, unsigned next) const
    {
        if (P::STAGES == 2 && parts_of<WIDTH>(args.shape) == 1)
            return stage ^ 1;
        if (next < end) {
            __syncthreads();
            if (parts_of<WIDTH>(args.shape) > 1)
                load_own(0);
            load_other(stage, next, 0);
        }
        return stage;
    }

    __device__ __forceinline__ void store(const float (&sum)[WIDTH / 8][4], Piece piece) const
    {
        store_sums<WIDTH>(sum, own_tile(0) + warp_row() * P::STRIDE,
            head_matrix((T *)args.dqkv, args.shape, block, PIECES, piece), row + warp_row(),
            block.part * WIDTH, 0);
    }
};

// A block of queries has its sums in registers.
template <typename T>
__device__ __forceinline__ void load_row_sums(
    const Backward &args, const Block &block, unsigned row, QuerySums (&sums)[Layout<T>::ROWS])
{
#pragma unroll
    for (int r = 0; r < Layout<T>::ROWS; r++) {
        unsigned query = row + Layout<T>::row(r);
        size_t at = block.sums(args.shape) + query;
        sums[r] = query < args.shape.window ? QuerySums{args.log_sum[at], args.delta[at]} : QuerySums{0, 0};
    }
}

template <typename T, int WIDTH>
__global__ __launch_bounds__(TILE_THREADS, WIDTH == LONG ? 2 : 3) void query_gradient_kernel(
    const __grid_constant__ Backward args)
{
    constexpr int OTHERS = Plan<T, WIDTH>::OTHERS;
    LS_DYNAMIC_SHARED(char, shared);
    const Work<T, WIDTH, false> work(args, shared);
    unsigned row = work.row + warp_row();
    int width = work.width(work.block.part);
    float dq[WIDTH / 8][4] = {};
    QuerySums sums[Layout<T>::ROWS];
    load_row_sums<T>(args, work.block, row, sums);
    work.load_own(0);
    work.load_other(0, work.begin, 0);
    unsigned stage = 0;
    for (unsigned key = work.begin; key < work.end; key += OTHERS) {
        float scores[OTHERS / 8][4] = {}, slopes[OTHERS / 8][4] = {};
        work.multiply_tiles(scores, slopes, stage, key);
        int ahead = (int)key - (int)row;
        differentiate<T>(
            scores, slopes, args.shape.scale, [&](int, int e) { return sums[Layout<T>::of_row(e)]; },
            ahead + OTHERS <= 1, [&](int r, int c) { return ahead + c > r; });
        weigh_rows<WIDTH>(dq, slopes, work.other_tile(stage, 0), width);
        stage = work.advance(stage, key + OTHERS);
    }
    work.store(dq, QUERIES);
}

template <typename T, int WIDTH>
__global__ __launch_bounds__(TILE_THREADS) void key_gradient_kernel(const __grid_constant__ Backward args)
{
    constexpr int OTHERS = Plan<T, WIDTH>::OTHERS;
    LS_DYNAMIC_SHARED(char, shared);
    const Work<T, WIDTH, true> work(args, shared);
    unsigned row = work.row + warp_row();
    int width = work.width(work.block.part);
    float dk[WIDTH / 8][4] = {}, dv[WIDTH / 8][4] = {};
    work.load_own(0);
    work.load_other(0, work.begin, 0);
    unsigned stage = 0;
    for (unsigned query = work.begin; query < work.end; query += OTHERS) {
        float scores[OTHERS / 8][4] = {}, slopes[OTHERS / 8][4] = {};
        work.multiply_tiles(scores, slopes, stage, query);
        const float *sums = work.stage_sums(stage);
        int ahead = (int)query - (int)row, left = (int)(args.shape.window - query);
        differentiate<T>(
            scores, slopes, args.shape.scale,
            [&](int j, int e) {
                int c = Layout<T>::column(j, e);
                return QuerySums{sums[c], sums[OTHERS + c]};
            },
            ahead + 1 >= WARP_ROWS && left >= OTHERS,
            [&](int r, int c) { return r > ahead + c || c >= left; });
        weigh_rows<WIDTH>(dv, scores, work.other_tile(stage, 1), width);
        weigh_rows<WIDTH>(dk, slopes, work.other_tile(stage, 0), width);
        stage = work.advance(stage, query + OTHERS);
    }
    work.store(dk, KEYS);
    work.store(dv, VALUES);
}

bool is_vector(const LsAttentionBackward *args)
{
    return args->size * ls_dtype_size(args->type) % VECTOR_BYTES == 0 &&
           is_aligned(args->qkv, VECTOR_BYTES) && is_aligned(args->out, VECTOR_BYTES) &&
           is_aligned(args->dout, VECTOR_BYTES) && is_aligned(args->dqkv, VECTOR_BYTES);
}

template <typename T, int WIDTH>
cudaError_t attention_backward(cudaStream_t stream, const LsAttentionBackward *args)
{
    HeadShape shape = head_shape(args->window, args->heads, args->size, WIDTH, 0);
    shape.vector = is_vector(args);
    Backward backward = {
        shape, args->qkv, args->dout, args->log_sum, (const float *)args->scratch, args->dqkv};
    unsigned blocks = grid_of(shape, args->windows);
    size_t bytes = Plan<T, WIDTH>::BYTES;
    cudaError_t error = launch_delta<T>(stream, shape, args);
    if (error == cudaSuccess)
        error = launch_tiles(stream, blocks, bytes, key_gradient_kernel<T, WIDTH>, backward);
    if (error == cudaSuccess)
        error = launch_tiles(stream, blocks, bytes, query_gradient_kernel<T, WIDTH>, backward);
    return error;
}

} // namespace

cudaError_t ls_kernel_attention_backward(cudaStream_t stream, const LsAttentionBackward *args)
{
    if (args->windows == 0)
        return cudaSuccess;
    if (!are_countable(args->window, args->heads, args->size))
        return cudaErrorInvalidConfiguration;
    return with_type(args->type, [&](auto type) {
        return with_width(args->size, [&](auto width) {
            return attention_backward<decltype(type), decltype(width)::value>(stream, args);
        });
    });
}
