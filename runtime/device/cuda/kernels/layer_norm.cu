// Layer normalisation, forward and backward (Ba, Kiros and Hinton 2016).
//
// Forward, a row belongs to a team of threads (teams.cuh) that keeps it in registers: mean and variance are
// taken in two passes over these. Backward, a block of threads has a slice of rows, and each thread columns
// of its own, for which it keeps the sums over rows; slices.cuh adds the slices.
#include "slices.cuh"
#include "teams.cuh"

namespace
{

// ---- Forward --------------------------------------------------------------------------------------------

// The row that a thread works on, in groups of N elements.
template <typename T, bool VECTOR> struct NormRow {
    static constexpr int N = group_size<T>();
    typedef Group<T, N> Elements;
    const LsLayerNorm &args;
    size_t start, columns; // columns: 0 for a team without a row

    __device__ NormRow(const LsLayerNorm &args, size_t row)
        : args(args), start(row * args.columns), columns(row < args.rows ? args.columns : 0)
    {
    }

    __device__ Elements load(const void *from, size_t first) const
    {
        return load_group<VECTOR, N>((const T *)from + start, (ptrdiff_t)first, columns);
    }

    // x with its branch. The sum is what was rounded: it is normalised as it will be read.
    __device__ Elements keep_sum(const Elements &x, const Elements &branch, size_t first) const
    {
        float sum[N];
#pragma unroll
        for (int j = 0; j < N; j++)
            sum[j] = x[j] + branch[j];
        Elements rounded = round_group<T>(sum);
        store_group<VECTOR, N>((T *)args.sum + start, (ptrdiff_t)first, columns, rounded);
        return rounded;
    }

    __device__ float add(const Elements &x, float total) const
    {
#pragma unroll
        for (int j = 0; j < N; j++)
            total += x[j]; // zeros outside
        return total;
    }

    __device__ float add_squares(const Elements &x, size_t first, float mean, float total) const
    {
#pragma unroll
        for (int j = 0; j < N; j++)
            if (is_inside<VECTOR>((ptrdiff_t)first, j, columns)) {
                float distance = x[j] - mean;
                total = fmaf(distance, distance, total);
            }
        return total;
    }

    // Of the weight or the bias.
    __device__ Elements parameters(const void *from, size_t first) const
    {
        return load_group<VECTOR, N>((const T *)from, (ptrdiff_t)first, columns);
    }

    __device__ void write(const Elements &x, const Elements &weight, const Elements &bias, size_t first,
        float mean, float rstd) const
    {
        float y[N];
#pragma unroll
        for (int j = 0; j < N; j++)
            y[j] = fmaf((x[j] - mean) * rstd, weight[j], bias[j]);
        store_group<VECTOR, N>((T *)args.y + start, (ptrdiff_t)first, columns, round_group<T>(y));
    }
};

__device__ __forceinline__ float inverse_deviation(float squares, size_t columns)
{
    return 1.0f / sqrtf(squares / (float)columns + LS_LAYER_NORM_EPSILON);
}

template <typename Row>
__device__ __forceinline__ void keep_statistics(const Row &row, size_t number, float mean, float rstd)
{
    if (row.columns == 0)
        return;
    row.args.mean[number] = mean;
    row.args.rstd[number] = rstd;
}

constexpr int FEW = 4, MANY = 8; // groups that a thread holds

// A row that its team keeps in registers, GROUPS groups a thread, is read once.
template <typename T, bool VECTOR, int BLOCK, int GROUPS>
__global__ __launch_bounds__(THREADS, VECTOR ? GROUPS == FEW ? 3 : 2 : 1) void held_rows_kernel(
    LsLayerNorm args, unsigned threads_per_row)
{
    typedef typename NormRow<T, VECTOR>::Elements Elements;
    Team<BLOCK> team(threads_per_row);
    NormRow<T, VECTOR> row(args, team.row);
    Elements held[GROUPS], other[GROUPS]; // reads come before writes, so that many are on their way
    size_t first = team.rank * row.N, step = team.size * row.N;
#pragma unroll
    for (int h = 0; h < GROUPS; h++) {
        held[h] = row.load(args.x, first + h * step);
        other[h] = args.branch ? row.load(args.branch, first + h * step) : Elements();
    }
    if (args.branch)
#pragma unroll
        for (int h = 0; h < GROUPS; h++)
            held[h] = row.keep_sum(held[h], other[h], first + h * step);
    float total = 0, squares = 0;
#pragma unroll
    for (int h = 0; h < GROUPS; h++)
        total = row.add(held[h], total);
    float mean = team.sum(total) / (float)args.columns;
#pragma unroll
    for (int h = 0; h < GROUPS; h++)
        squares = row.add_squares(held[h], first + h * step, mean, squares);
    float rstd = inverse_deviation(team.sum(squares), args.columns);
    if (team.rank == 0)
        keep_statistics(row, team.row, mean, rstd);
#pragma unroll
    for (int few = 0; few < GROUPS; few += FEW) {
        Elements weight[FEW], bias[FEW];
#pragma unroll
        for (int h = 0; h < FEW; h++) {
            weight[h] = row.parameters(args.weight, first + (few + h) * step);
            bias[h] = row.parameters(args.bias, first + (few + h) * step);
        }
#pragma unroll
        for (int h = 0; h < FEW; h++)
            row.write(held[few + h], weight[h], bias[h], first + (few + h) * step, mean, rstd);
    }
}

// A longer row is read three times, the second and third time mostly from the L2 cache.
template <typename T, bool VECTOR>
__global__ __launch_bounds__(LONG_THREADS, 2) void long_rows_kernel(
    LsLayerNorm args, unsigned threads_per_row)
{
    typedef typename NormRow<T, VECTOR>::Elements Elements;
    Team<LONG_THREADS> team(threads_per_row);
    NormRow<T, VECTOR> row(args, team.row);
    size_t begin = team.rank * row.N, step = LONG_THREADS * row.N;
    const void *sum = args.branch ? args.sum : args.x; // of which a thread reads what it has written
    float total = 0, squares = 0;
#pragma unroll 4
    for (size_t first = begin; first < args.columns; first += step) {
        Elements x = row.load(args.x, first);
        if (args.branch)
            x = row.keep_sum(x, row.load(args.branch, first), first);
        total = row.add(x, total);
    }
    float mean = team.sum(total) / (float)args.columns;
#pragma unroll 4
    for (size_t first = begin; first < args.columns; first += step)
        squares = row.add_squares(row.load(sum, first), first, mean, squares);
    float rstd = inverse_deviation(team.sum(squares), args.columns);
    if (team.rank == 0)
        keep_statistics(row, team.row, mean, rstd);
#pragma unroll 4
    for (size_t first = begin; first < args.columns; first += step)
        row.write(row.load(sum, first), row.parameters(args.weight, first), row.parameters(args.bias, first),
            first, mean, rstd);
}

template <typename T, bool VECTOR> cudaError_t layer_norm(cudaStream_t stream, const LsLayerNorm *args)
{
    size_t groups = divide_up(args->columns, group_size<T>());
    if (groups <= FEW * WARP) {
        unsigned size = power_of_two_from(divide_up(groups, FEW), WARP);
        return launch_teams<0>(stream, args->rows, size, held_rows_kernel<T, VECTOR, 0, FEW>, *args);
    }
    if (groups <= MANY * WARP)
        return launch_teams<0>(stream, args->rows, WARP, held_rows_kernel<T, VECTOR, 0, MANY>, *args);
    if (groups <= FEW * THREADS)
        return launch_teams<THREADS>(
            stream, args->rows, THREADS, held_rows_kernel<T, VECTOR, THREADS, FEW>, *args);
    return launch_teams<LONG_THREADS>(stream, args->rows, LONG_THREADS, long_rows_kernel<T, VECTOR>, *args);
}

// ---- Backward -------------------------------------------------------------------------------------------

constexpr int MOST_GROUPS = 3; // that a thread holds of a row: registers for two blocks on a multiprocessor
constexpr size_t ROWS_OF_TEAM = 4; // that a team has at least, so that slices are worth adding

// How rows are cut, which the shape alone decides: `team` threads share a row and have `groups` groups each,
// or a block of LONG_THREADS has all of it where groups is 0; a block has a slice of `rows` rows.
struct NormSlices {
    unsigned team, groups, count;
    float inverse_columns;
    size_t rows;
};

NormSlices cut_rows(const LsLayerNormBackward *args, int group)
{
    NormSlices slices;
    size_t groups = divide_up(args->columns, (size_t)group);
    slices.team = power_of_two_from(divide_up(groups, MOST_GROUPS), THREADS);
    slices.groups = (unsigned)divide_up(groups, slices.team);
    size_t least = ROWS_OF_TEAM * (THREADS / slices.team);
    if (slices.groups > MOST_GROUPS)
        slices.groups = 0, least = ROWS_OF_TEAM;
    size_t possible = divide_up(args->rows, least), most = LS_LAYER_NORM_SLICES;
    slices.rows = divide_up(args->rows, possible < most ? possible : most);
    slices.count = (unsigned)divide_up(args->rows, slices.rows);
    slices.inverse_columns = 1.0f / (float)args->columns;
    return slices;
}

// A row's statistics, and what its gradient loses: sums, then means, of g = dy · weight and of g × normal.
template <typename T, bool VECTOR> struct GradientRow {
    static constexpr int N = group_size<T>();
    typedef Group<T, N> Elements;
    const LsLayerNormBackward &args;
    size_t start;
    bool inside; // the slice
    float mean, rstd, sum, along;

    __device__ GradientRow(const LsLayerNormBackward &args, size_t row, bool inside)
        : args(args), start(row * args.columns), inside(inside), mean(inside ? args.mean[row] : 0.0f),
          rstd(inside ? args.rstd[row] : 0.0f), sum(0), along(0)
    {
    }

    __device__ size_t columns() const
    {
        return inside ? args.columns : 0;
    }

    __device__ Elements load(const void *from, size_t first) const
    {
        return load_group<VECTOR, N>((const T *)from + start, (ptrdiff_t)first, columns());
    }

    __device__ Elements read_residual(size_t first) const
    {
        return args.residual ? load(args.residual, first) : Elements();
    }

    __device__ float normal(float x) const
    {
        return (x - mean) * rstd;
    }

    // Calls `function` with each element of the group that is in the row.
    template <typename Function> __device__ void each(size_t first, Function function) const
    {
#pragma unroll
        for (int j = 0; j < N; j++)
            if (is_inside<VECTOR>((ptrdiff_t)first, j, columns()))
                function(j);
    }

    __device__ void add(float x, float dy, float weight)
    {
        float g = dy * weight;
        sum += g;
        along = fmaf(g, normal(x), along);
    }

    // Adds an element to the sums of its column.
    __device__ void add_to(float x, float dy, float &dweight, float &dbias) const
    {
        dweight = fmaf(dy, normal(x), dweight);
        dbias += dy;
    }

    // Makes sums means.
    __device__ void divide(float inverse_columns)
    {
        sum *= inverse_columns;
        along *= inverse_columns;
    }

    // d(loss)/d(x) = rstd (g - mean of g - normal × mean of g × normal).
    __device__ void write(const Elements &x, const Elements &dy, const Elements &weight,
        const Elements &residual, size_t first) const
    {
        float dx[N];
#pragma unroll
        for (int j = 0; j < N; j++) {
            float g = dy[j] * weight[j] - sum - normal(x[j]) * along;
            dx[j] = fmaf(g, rstd, residual[j]);
        }
        store_group<VECTOR, N>((T *)args.dx + start, (ptrdiff_t)first, columns(), round_group<T>(dx));
    }
};

// Sums of two numbers over the teams of a block, in every thread. `turn` alternates between calls, so that
// one barrier is enough: what one call reads, the next one does not write.
__device__ __forceinline__ void team_sums(unsigned team, unsigned turn, float &a, float &b)
{
    __shared__ float of_warp[2][THREADS / WARP][2];
    unsigned within = team < WARP ? team : WARP;
    a = warp_sum(a, (int)within);
    b = warp_sum(b, (int)within);
    if (team <= WARP)
        return;
    unsigned warp = threadIdx.x / WARP, warps = team / WARP, leader = warp / warps * warps;
    if (threadIdx.x % WARP == 0) {
        of_warp[turn][warp][0] = a;
        of_warp[turn][warp][1] = b;
    }
    __syncthreads();
    a = of_warp[turn][leader][0];
    b = of_warp[turn][leader][1];
    for (unsigned w = leader + 1; w < leader + warps; w++) {
        a += of_warp[turn][w][0];
        b += of_warp[turn][w][1];
    }
}

// Adds what a block's teams have summed for their columns, in the order of teams, and writes it.
template <int GROUPS, int N>
__device__ __forceinline__ void store_slice(
    const float (&sum)[GROUPS][N], unsigned team, float *to, size_t columns)
{
    constexpr int SPREAD = WARP / N; // keeps a warp's accesses in different banks
    __shared__ float part[N][THREADS + SPREAD];
#pragma unroll
    for (int h = 0; h < GROUPS; h++) {
        __syncthreads(); // what was there has been read
#pragma unroll
        for (int j = 0; j < N; j++)
            part[j][threadIdx.x] = sum[h][j];
        __syncthreads();
        for (unsigned c = threadIdx.x; c < team * N; c += THREADS) {
            size_t column = (size_t)h * team * N + c;
            float total = 0;
            for (unsigned of = c / N; of < THREADS; of += team)
                total += part[c % N][of];
            if (column < columns)
                to[column] = total;
        }
    }
}

template <typename T, bool VECTOR, int GROUPS>
__global__ __launch_bounds__(THREADS, VECTOR ? 2 : 1) void backward_kernel(
    LsLayerNormBackward args, NormSlices slices)
{
    typedef GradientRow<T, VECTOR> Row;
    constexpr int N = Row::N;
    size_t begin = blockIdx.x * slices.rows, left = args.rows - begin;
    unsigned rows = (unsigned)(left < slices.rows ? left : slices.rows);
    unsigned first = threadIdx.x % slices.team * N, step = slices.team * N;
    typename Row::Elements weight[GROUPS];
    float dweight[GROUPS][N] = {}, dbias[GROUPS][N] = {};
#pragma unroll
    for (int h = 0; h < GROUPS; h++)
        weight[h] = load_group<VECTOR, N>((const T *)args.weight, first + h * step, args.columns);
    unsigned turn = 0, teams = THREADS / slices.team;
    for (unsigned top = 0; top < rows; top += teams, turn ^= 1) {
        unsigned r = top + threadIdx.x / slices.team;
        Row row(args, begin + r, r < rows);
        typename Row::Elements x[GROUPS], dy[GROUPS], residual[GROUPS];
#pragma unroll
        for (int h = 0; h < GROUPS; h++) {
            x[h] = row.load(args.x, first + h * step);
            dy[h] = row.load(args.dy, first + h * step);
        }
#pragma unroll
        for (int h = 0; h < GROUPS; h++)
            row.each(first + h * step, [&](int j) {
                row.add(x[h][j], dy[h][j], weight[h][j]);
                row.add_to(x[h][j], dy[h][j], dweight[h][j], dbias[h][j]);
            });
        team_sums(slices.team, turn, row.sum, row.along);
        row.divide(slices.inverse_columns);
#pragma unroll
        for (int h = 0; h < GROUPS; h++)
            residual[h] = row.read_residual(first + h * step);
#pragma unroll
        for (int h = 0; h < GROUPS; h++)
            row.write(x[h], dy[h], weight[h], residual[h], first + h * step);
    }
    float *to = (float *)args.scratch + (size_t)blockIdx.x * 2 * args.columns;
    store_slice(dweight, slices.team, to, args.columns);
    store_slice(dbias, slices.team, to + args.columns, args.columns);
}

// Rows that are too long for registers are read twice. The sums of their columns live in the slice, which is
// read and written once for a few rows.
constexpr int LONG_ROWS = 4;

template <typename T, bool VECTOR>
__device__ __forceinline__ void long_rows(const LsLayerNormBackward &args, float inverse_columns, size_t top,
    size_t end, bool fresh, float *dweight, float *dbias)
{
    typedef GradientRow<T, VECTOR> Row;
    constexpr int N = Row::N;
    __shared__ float sums[LONG_ROWS][2]; // of the rows
    for (int r = 0; r < LONG_ROWS; r++) {
        Row row(args, top + r, top + r < end);
        for (size_t c = threadIdx.x * N; c < args.columns; c += LONG_THREADS * N) {
            typename Row::Elements x = row.load(args.x, c), dy = row.load(args.dy, c);
            typename Row::Elements weight = load_group<VECTOR, N>((const T *)args.weight, c, args.columns);
            row.each(c, [&](int j) { row.add(x[j], dy[j], weight[j]); });
        }
        row.sum = block_sum<LONG_THREADS>(row.sum);
        row.along = block_sum<LONG_THREADS>(row.along);
        if (threadIdx.x == 0)
            sums[r][0] = row.sum, sums[r][1] = row.along;
    }
    __syncthreads();
    for (size_t c = threadIdx.x * N; c < args.columns; c += LONG_THREADS * N) {
        float weight_sums[N] = {}, bias_sums[N] = {};
        if (!fresh) {
            load_floats<VECTOR>(dweight, c, args.columns, weight_sums);
            load_floats<VECTOR>(dbias, c, args.columns, bias_sums);
        }
        typename Row::Elements weight = load_group<VECTOR, N>((const T *)args.weight, c, args.columns);
#pragma unroll
        for (int r = 0; r < LONG_ROWS; r++) {
            Row row(args, top + r, top + r < end);
            row.sum = sums[r][0], row.along = sums[r][1];
            row.divide(inverse_columns);
            typename Row::Elements x = row.load(args.x, c), dy = row.load(args.dy, c);
            row.each(c, [&](int j) { row.add_to(x[j], dy[j], weight_sums[j], bias_sums[j]); });
            row.write(x, dy, weight, row.read_residual(c), c);
        }
        store_floats<VECTOR>(dweight, c, args.columns, weight_sums);
        store_floats<VECTOR>(dbias, c, args.columns, bias_sums);
    }
}

template <typename T, bool VECTOR>
__global__ __launch_bounds__(LONG_THREADS, 1) void long_backward_kernel(
    LsLayerNormBackward args, NormSlices slices)
{
    size_t begin = blockIdx.x * slices.rows, end = begin + slices.rows;
    end = end < args.rows ? end : args.rows;
    float *dweight = (float *)args.scratch + (size_t)blockIdx.x * 2 * args.columns;
    for (size_t top = begin; top < end; top += LONG_ROWS)
        long_rows<T, VECTOR>(
            args, slices.inverse_columns, top, end, top == begin, dweight, dweight + args.columns);
}

template <typename T, bool VECTOR>
cudaError_t gradients(cudaStream_t stream, const LsLayerNormBackward *args, const NormSlices &slices)
{
    switch (slices.groups) {
    case 1:
        return launch(stream, slices.count, THREADS, 0, backward_kernel<T, VECTOR, 1>, *args, slices);
    case 2:
        return launch(stream, slices.count, THREADS, 0, backward_kernel<T, VECTOR, 2>, *args, slices);
    case MOST_GROUPS:
        return launch(
            stream, slices.count, THREADS, 0, backward_kernel<T, VECTOR, MOST_GROUPS>, *args, slices);
    default:
        return launch(stream, slices.count, LONG_THREADS, 0, long_backward_kernel<T, VECTOR>, *args, slices);
    }
}

template <typename T> bool are_aligned(size_t columns, std::initializer_list<const void *> buffers)
{
    bool aligned = columns % group_size<T>() == 0;
    for (const void *buffer : buffers)
        aligned = aligned && is_aligned(buffer, VECTOR_BYTES); // so is NULL
    return aligned;
}

} // namespace

cudaError_t ls_kernel_layer_norm(cudaStream_t stream, const LsLayerNorm *args)
{
    if (args->rows == 0 || args->columns == 0)
        return cudaSuccess;
    return with_type(args->type, [&](auto type) {
        typedef decltype(type) T;
        bool aligned = are_aligned<T>(args->columns,
            {args->x, args->branch, args->branch ? args->sum : NULL, args->weight, args->bias, args->y});
        return with_bool(
            aligned, [&](auto vector) { return layer_norm<T, decltype(vector)::value>(stream, args); });
    });
}

cudaError_t ls_kernel_layer_norm_backward(cudaStream_t stream, const LsLayerNormBackward *args)
{
    if (args->columns == 0)
        return cudaSuccess;
    NormSlices slices = {};
    cudaError_t error = args->rows == 0 ? cudaSuccess : with_type(args->type, [&](auto type) {
        typedef decltype(type) T;
        bool aligned = are_aligned<T>(
            args->columns, {args->x, args->dy, args->weight, args->residual, args->dx, args->scratch});
        slices = cut_rows(args, group_size<T>());
        return with_bool(aligned,
            [&](auto vector) { return gradients<T, decltype(vector)::value>(stream, args, slices); });
    });
    if (error != cudaSuccess)
        return error;
    const SliceSums sums = {(const float *)args->scratch, slices.count, args->columns,
        {args->dweight, args->dbias}, args->accumulate};
    return add_slices(stream, sums, 2); // of no rows, zeros
}
