// Embedding of tokens and positions, and the gradient of the table of tokens.
//
// The gradient's rows are sorted by token, and the sorted list is cut into chunks of LS_EMBEDDING_CHUNK rows
// that are summed in order by themselves, so that a token that comes often is as fast as many that come
// seldom. A token whose rows lie within one chunk is added to the table there; of others the chunks leave
// partial sums, which a second kernel adds in the order of chunks.
#include "common.cuh"

namespace
{

__device__ __forceinline__ bool is_token(int32_t token, size_t vocabulary)
{
    return token >= 0 && (size_t)token < vocabulary;
}

// ---- Forward --------------------------------------------------------------------------------------------

// A thread has one group of one row.
template <typename T, bool VECTOR>
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void embedding_kernel(LsEmbedding args)
{
    constexpr int N = group_size<T>();
    size_t row = (size_t)blockIdx.x * blockDim.y + threadIdx.y, columns = args.columns;
    ptrdiff_t column = (ptrdiff_t)(((size_t)blockIdx.y * blockDim.x + threadIdx.x) * N);
    if (row >= args.rows || (size_t)column >= columns)
        return;
    int32_t token = args.tokens[row];
    bool known = is_token(token, args.vocabulary);
    const T *position = (const T *)args.positions + row % args.window * columns;
    Group<T, N> b = load_group<VECTOR, N>(position, column, columns), a = b;
    if (known)
        a = load_group<VECTOR, N>((const T *)args.table + (size_t)token * columns, column, columns);
    float y[N];
#pragma unroll
    for (int j = 0; j < N; j++)
        y[j] = known ? a[j] + b[j] : not_a_number();
    store_group<VECTOR, N>((T *)args.y + row * columns, column, columns, round_group<T>(y));
}

// ---- Rows by token --------------------------------------------------------------------------------------

// A radix sort from the lowest digit up, in one block of threads: about half a nanosecond a row, for which a
// GPU computes a thousand times as long. A warp has a share of the list that lies together; within it, rows
// keep their order.
constexpr int SORT_THREADS = 1024, SORT_WARPS = SORT_THREADS / WARP;
constexpr unsigned MOST_BITS = 8; // of a digit
constexpr int DIGITS = 1 << MOST_BITS;
constexpr int SORT_STEPS = 8; // elements of a list that a thread has in flight

// Keys are tokens, or `beyond` for what is none, and sorted ascending.
struct SortedRows {
    uint32_t *key, *row;
};

struct TokenSort {
    size_t rows, share;
    const int32_t *tokens;
    size_t vocabulary;
    uint32_t beyond;
    SortedRows list[2];    // by turns read and written
    unsigned passes, bits; // bits: of a pass's digit
    float *dpositions;
};

struct SortElement {
    uint32_t key, row;
};

__device__ __forceinline__ SortElement read_element(const TokenSort &sort, unsigned pass, size_t i)
{
    if (pass > 0)
        return {sort.list[(pass - 1) % 2].key[i], sort.list[(pass - 1) % 2].row[i]};
    int32_t token = sort.tokens[i];
    return {is_token(token, sort.vocabulary) ? (uint32_t)token : sort.beyond, (uint32_t)i};
}

__device__ __forceinline__ unsigned digit_of(const TokenSort &sort, unsigned pass, uint32_t key)
{
    return key >> (pass * sort.bits) & ((1u << sort.bits) - 1);
}

typedef uint32_t DigitCounts[SORT_WARPS][DIGITS]; // of each warp's share

__device__ void count_digits(
    const TokenSort &sort, unsigned pass, size_t begin, size_t end, uint32_t (&count)[DIGITS])
{
    for (unsigned d = threadIdx.x % WARP; d < DIGITS; d += WARP)
        count[d] = 0;
    __syncwarp();
#pragma unroll 4
    for (size_t i = begin + threadIdx.x % WARP; i < end; i += WARP)
        atomicAdd(&count[digit_of(sort, pass, read_element(sort, pass, i).key)], 1u);
}

// Turns counts into the places where each warp's elements of each digit begin.
__device__ void place_digits(DigitCounts &count)
{
    __shared__ uint32_t of_warp[SORT_WARPS];
    unsigned digit = threadIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint32_t total = 0;
    for (int w = 0; digit < DIGITS && w < SORT_WARPS; w++)
        total += count[w][digit];
    uint32_t through = total; // of this digit and those before it within the warp
    for (unsigned offset = 1; offset < WARP; offset *= 2) {
        uint32_t before = __shfl_up_sync(0xffffffffu, through, offset);
        through += lane >= offset ? before : 0;
    }
    if (lane == WARP - 1)
        of_warp[warp] = through;
    __syncthreads();
    uint32_t place = through - total;
    for (unsigned w = 0; w < warp; w++)
        place += of_warp[w];
    for (int w = 0; digit < DIGITS && w < SORT_WARPS; w++) {
        uint32_t next = place + count[w][digit];
        count[w][digit] = place;
        place = next;
    }
}

// The lanes of a warp that have the same digit, of those that have an element.
__device__ __forceinline__ uint32_t lanes_alike(bool has, unsigned digit, unsigned bits)
{
    uint32_t lanes = __ballot_sync(0xffffffffu, has);
    for (unsigned b = 0; b < bits; b++) {
        uint32_t set = __ballot_sync(0xffffffffu, digit >> b & 1);
        lanes &= digit >> b & 1 ? set : ~set;
    }
    return lanes;
}

__device__ void move_elements(
    const TokenSort &sort, unsigned pass, size_t begin, size_t end, uint32_t (&place)[DIGITS])
{
    const SortedRows &to = sort.list[pass % 2];
    unsigned lane = threadIdx.x % WARP;
    for (size_t first = begin; first < end; first += SORT_STEPS * WARP) {
        SortElement held[SORT_STEPS] = {};
#pragma unroll
        for (int s = 0; s < SORT_STEPS; s++)
            if (first + s * WARP + lane < end)
                held[s] = read_element(sort, pass, first + s * WARP + lane);
#pragma unroll
        for (int s = 0; s < SORT_STEPS; s++) {
            bool has = first + s * WARP + lane < end;
            unsigned digit = digit_of(sort, pass, held[s].key);
            uint32_t alike = lanes_alike(has, digit, sort.bits);
            unsigned rank = (unsigned)__popc(alike & ((1u << lane) - 1));
            uint32_t at = place[digit] + rank;
            __syncwarp();
            if (has && rank == 0)
                place[digit] += (uint32_t)__popc(alike);
            __syncwarp();
            if (has) {
                to.key[at] = held[s].key;
                to.row[at] = held[s].row;
            }
        }
    }
}

__global__ __launch_bounds__(SORT_THREADS) void sort_kernel(const __grid_constant__ TokenSort sort)
{
    __shared__ DigitCounts count;
    unsigned warp = threadIdx.x / WARP;
    size_t begin = warp * sort.share, end = begin + sort.share;
    end = end < sort.rows ? end : sort.rows;
    for (unsigned pass = 0; pass < sort.passes; pass++) {
        count_digits(sort, pass, begin, end, count[warp]);
        __syncthreads();
        place_digits(count);
        __syncthreads();
        move_elements(sort, pass, begin, end, count[warp]);
        __syncthreads();
    }
    // A token that is none has no row in the table. That it was there must not be lost.
    if (threadIdx.x == 0 && sort.list[(sort.passes - 1) % 2].key[sort.rows - 1] == sort.beyond)
        *sort.dpositions = not_a_number();
}

// ---- Sums of chunks -------------------------------------------------------------------------------------

constexpr unsigned NO_KEY = 0xffffffffu; // beyond all keys
constexpr int SUM_STEPS = 4;             // rows whose loads are in flight together
constexpr size_t CHUNK = LS_EMBEDDING_CHUNK;
static_assert(CHUNK == WARP, "a lane has a row of its warp's chunk");

struct TableSums {
    size_t rows, columns, chunks;
    const void *dy;
    SortedRows sorted;
    uint32_t beyond;
    float *dtable;
    float *partial; // [chunks][2][columns]: of a token that began in an earlier chunk, of one that goes on
};

// What a lane knows of the row at its place in the chunk. Masks have a bit for each place.
struct ChunkRows {
    int count;
    uint32_t key, row;
    uint32_t last;           // places at which a token's rows end
    bool continued, goes_on; // the first token began in an earlier chunk; the last one has rows in the next

    __device__ ChunkRows(const TableSums &sums, size_t chunk)
    {
        size_t begin = chunk * CHUNK, left = begin < sums.rows ? sums.rows - begin : 0;
        unsigned lane = threadIdx.x % WARP;
        count = (int)(left < CHUNK ? left : CHUNK);
        key = (int)lane < count ? sums.sorted.key[begin + lane] : NO_KEY;
        row = (int)lane < count ? sums.sorted.row[begin + lane] : 0;
        uint32_t before = begin > 0 && count > 0 ? sums.sorted.key[begin - 1] : NO_KEY;
        uint32_t after = left > CHUNK ? sums.sorted.key[begin + CHUNK] : NO_KEY;
        uint32_t next = __shfl_down_sync(0xffffffffu, key, 1);
        last = __ballot_sync(0xffffffffu, (int)lane < count && ((int)lane == count - 1 || next != key));
        continued = count > 0 && __shfl_sync(0xffffffffu, key, 0) == before;
        goes_on = after != NO_KEY && __shfl_sync(0xffffffffu, key, WARP - 1) == after;
    }
};

// Where the sum of the token goes that ends at place i: to the table, or to a partial sum, of which nothing
// is there yet; NULL for what is no token.
__device__ __forceinline__ float *sum_place(
    const TableSums &sums, const ChunkRows &rows, size_t chunk, int i, uint32_t key, bool *fresh)
{
    bool continued = rows.continued && (rows.last & ((1u << i) - 1)) == 0;
    bool goes_on = rows.goes_on && i == rows.count - 1;
    *fresh = continued || goes_on;
    if (key == sums.beyond)
        return NULL;
    if (!*fresh)
        return sums.dtable + key * sums.columns;
    return sums.partial + (2 * chunk + (continued ? 0 : 1)) * sums.columns;
}

// A warp has a chunk and 32 groups of columns.
template <typename T, bool VECTOR>
__global__ __launch_bounds__(THREADS, 2) void sum_chunks_kernel(TableSums sums)
{
    constexpr int N = group_size<T>();
    size_t chunk = (size_t)blockIdx.x * blockDim.y + threadIdx.y;
    size_t column = ((size_t)blockIdx.y * WARP + threadIdx.x) * N;
    ChunkRows rows(sums, chunk);
    float sum[N] = {};
    for (int first = 0; first < rows.count; first += SUM_STEPS) {
        Group<T, N> held[SUM_STEPS] = {};
        float before[SUM_STEPS][N] = {}, *to[SUM_STEPS];
#pragma unroll
        for (int s = 0; s < SUM_STEPS; s++) {
            int i = first + s;
            bool fresh, ends = rows.last >> i & 1;
            size_t row = __shfl_sync(0xffffffffu, rows.row, i);
            to[s] = sum_place(sums, rows, chunk, i, __shfl_sync(0xffffffffu, rows.key, i), &fresh);
            if (i < rows.count)
                held[s] = load_group<VECTOR, N>(
                    (const T *)sums.dy + row * sums.columns, (ptrdiff_t)column, sums.columns);
            if (ends && to[s] && !fresh)
                load_floats<VECTOR>(to[s], column, sums.columns, before[s]);
        }
#pragma unroll
        for (int s = 0; s < SUM_STEPS; s++) {
            bool ends = rows.last >> (first + s) & 1;
#pragma unroll
            for (int j = 0; j < N; j++) {
                sum[j] += held[s][j];
                before[s][j] += sum[j];
                sum[j] = ends ? 0.0f : sum[j];
            }
            if (ends && to[s])
                store_floats<VECTOR>(to[s], column, sums.columns, before[s]);
        }
    }
}

// ---- Tokens of several chunks ---------------------------------------------------------------------------

constexpr int JOIN_WIDTH = 64, JOIN_HEIGHT = THREADS / JOIN_WIDTH;

// How many chunks the token has that goes on behind this chunk, from the one that it begins in: this one, or
// 0.
__device__ size_t chunks_of_token(const TableSums &sums, size_t chunk, uint32_t *token)
{
    const uint32_t *key = sums.sorted.key;
    size_t begin = chunk * CHUNK, next = begin + CHUNK;
    *token = key[next - 1];
    bool continued = begin > 0 && key[begin - 1] == *token; // sorted, so the whole chunk is this token's
    if (key[next] != *token || continued || *token == sums.beyond)
        return 0;
    unsigned thread = threadIdx.y * JOIN_WIDTH + threadIdx.x;
    size_t count = 1;
    for (int more = THREADS; more == THREADS; count += (size_t)more) {
        size_t at = chunk + count + thread;
        more = __syncthreads_count(at < sums.chunks && key[at * CHUNK] == *token);
    }
    return count;
}

// Of the partial sums, row y of threads adds numbers y, y + JOIN_HEIGHT, …; then their sums are added.
template <bool VECTOR> __global__ __launch_bounds__(THREADS) void join_chunks_kernel(TableSums sums)
{
    constexpr int N = group_size<float>();
    __shared__ float part[JOIN_HEIGHT][N][JOIN_WIDTH];
    uint32_t token;
    size_t count = chunks_of_token(sums, blockIdx.x, &token);
    if (count == 0)
        return;
    size_t column = ((size_t)blockIdx.y * JOIN_WIDTH + threadIdx.x) * N;
    float sum[N] = {};
#pragma unroll 4
    for (size_t p = threadIdx.y; p < count; p += JOIN_HEIGHT) {
        // The first chunk's token goes on, that of the others began before.
        size_t place = 2 * (blockIdx.x + p) + (p == 0 ? 1 : 0);
        Group<float, N> held =
            load_group<VECTOR, N>(sums.partial + place * sums.columns, (ptrdiff_t)column, sums.columns);
#pragma unroll
        for (int j = 0; j < N; j++)
            sum[j] += held[j];
    }
#pragma unroll
    for (int j = 0; j < N; j++)
        part[threadIdx.y][j][threadIdx.x] = sum[j];
    __syncthreads();
    if (threadIdx.y != 0)
        return;
    float total[N];
    load_floats<VECTOR>(sums.dtable + token * sums.columns, column, sums.columns, total);
#pragma unroll
    for (int j = 0; j < N; j++) {
        for (int y = 1; y < JOIN_HEIGHT; y++)
            sum[j] += part[y][j][threadIdx.x];
        total[j] += sum[j];
    }
    store_floats<VECTOR>(sums.dtable + token * sums.columns, column, sums.columns, total);
}

// ---- Launches -------------------------------------------------------------------------------------------

TokenSort plan_sort(const LsEmbeddingGradient *args)
{
    TokenSort sort = {};
    uint32_t *words = (uint32_t *)args->scratch;
    sort.rows = args->rows;
    sort.share = divide_up(args->rows, SORT_THREADS) * WARP;
    sort.tokens = args->tokens;
    sort.vocabulary = args->vocabulary;
    sort.beyond = args->vocabulary < 0x80000000u ? (uint32_t)args->vocabulary : 0x80000000u;
    for (int i = 0; i < 2; i++)
        sort.list[i] = {words + 2 * i * args->rows, words + (2 * i + 1) * args->rows};
    unsigned bits = 1;
    while (sort.beyond >> bits > 0)
        bits++;
    sort.passes = (unsigned)divide_up(bits, MOST_BITS);
    sort.bits = (unsigned)divide_up(bits, sort.passes);
    sort.dpositions = args->dpositions;
    return sort;
}

template <typename T>
cudaError_t sum_chunks(cudaStream_t stream, const LsEmbeddingGradient *args, const TableSums &sums)
{
    bool table = args->columns % group_size<float>() == 0 && is_aligned(sums.dtable, VECTOR_BYTES) &&
                 is_aligned(sums.partial, VECTOR_BYTES);
    bool all = table && args->columns % group_size<T>() == 0 && is_aligned(args->dy, VECTOR_BYTES);
    size_t groups = divide_up(args->columns, group_size<T>()), height = THREADS / WARP;
    dim3 grid((unsigned)divide_up(sums.chunks, height), (unsigned)divide_up(groups, WARP));
    cudaError_t error = with_bool(all, [&](auto vector) {
        return launch(stream, grid, dim3(WARP, (unsigned)height), 0,
            sum_chunks_kernel<T, decltype(vector)::value>, sums);
    });
    if (error != cudaSuccess || sums.chunks == 1)
        return error;
    grid = dim3((unsigned)sums.chunks - 1,
        (unsigned)divide_up(args->columns, (size_t)JOIN_WIDTH * group_size<float>()));
    return with_bool(table, [&](auto vector) {
        return launch(stream, grid, dim3(JOIN_WIDTH, JOIN_HEIGHT), 0,
            join_chunks_kernel<decltype(vector)::value>, sums);
    });
}

} // namespace

cudaError_t ls_kernel_embedding(cudaStream_t stream, const LsEmbedding *args)
{
    if (args->rows == 0 || args->columns == 0)
        return cudaSuccess;
    return with_type(args->type, [&](auto type) {
        typedef decltype(type) T;
        size_t groups = divide_up(args->columns, group_size<T>());
        unsigned width = power_of_two_from(groups, WARP), height = THREADS / width;
        dim3 grid((unsigned)divide_up(args->rows, height), (unsigned)divide_up(groups, width));
        bool aligned = args->columns % group_size<T>() == 0 && is_aligned(args->table, VECTOR_BYTES) &&
                       is_aligned(args->positions, VECTOR_BYTES) && is_aligned(args->y, VECTOR_BYTES);
        return with_bool(aligned, [&](auto vector) {
            return launch(
                stream, grid, dim3(width, height), 0, embedding_kernel<T, decltype(vector)::value>, *args);
        });
    });
}

cudaError_t ls_kernel_table_gradient(cudaStream_t stream, const LsEmbeddingGradient *args)
{
    if (args->rows == 0 || args->columns == 0)
        return cudaSuccess;
    TokenSort sort = plan_sort(args);
    cudaError_t error = launch(stream, 1, SORT_THREADS, 0, sort_kernel, sort);
    if (error != cudaSuccess)
        return error;
    TableSums sums = {args->rows, args->columns, divide_up(args->rows, CHUNK), args->dy,
        sort.list[(sort.passes - 1) % 2], sort.beyond, args->dtable,
        (float *)((uint32_t *)args->scratch + 4 * args->rows)};
    return with_type(args->type, [&](auto type) { return sum_chunks<decltype(type)>(stream, args, sums); });
}
