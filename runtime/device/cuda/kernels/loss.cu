// Losses and their gradients. A row belongs to a team of threads (teams.cuh).
#include "activation.cuh"
#include "teams.cuh"

namespace
{

__device__ __forceinline__ float gradient_factor(const LsLossArgs &args)
{
    return args.gradient_scale * (args.loss_scale ? *args.loss_scale : 1.0f);
}

__device__ __forceinline__ float minus_infinity()
{
    return ls_bits_to_f32(0xff800000u);
}

// ---- Cross-entropy --------------------------------------------------------------------------------------

constexpr int HELD = 16; // elements of a row that a thread keeps in registers

// A row's label and the output of the label's class.
struct Label {
    bool valid;
    size_t column;
    float output;
};

template <typename T> __device__ __forceinline__ Label read_label(const LsLossArgs &args, size_t row)
{
    Label label = {};
    if (row >= args.rows)
        return label;
    int32_t number = args.labels[row];
    label.valid = number >= 0 && (size_t)number < args.columns;
    label.column = label.valid ? (size_t)number : 0;
    const T *outputs = (const T *)args.outputs + row * args.columns;
    label.output = label.valid ? to_float(outputs[label.column]) : not_a_number();
    return label;
}

// What the outputs of a row come to, relative to the largest: differences is the sum of x - largest,
// exponentials that of exp(x - largest).
struct RowSums {
    float largest, differences, exponentials;
};

// All is relative to the row's largest output, so that a small loss is not the difference of large numbers.
__device__ __forceinline__ float row_loss(const LsLossArgs &args, const Label &label, const RowSums &sums)
{
    float loss = logf(sums.exponentials) - (1.0f - args.smoothing) * (label.output - sums.largest);
    if (args.smoothing > 0.0f)
        loss -= args.smoothing / (float)args.columns * sums.differences;
    return loss;
}

// Makes outputs their gradient: (softmax - wanted) × factor.
struct RowGradient {
    float largest, inverse, spread, certain, factor;
    size_t label;

    __device__ RowGradient(const LsLossArgs &args, const Label &of, const RowSums &sums)
    {
        largest = sums.largest;
        inverse = 1.0f / sums.exponentials;
        spread = args.smoothing / (float)args.columns;
        certain = 1.0f - args.smoothing;
        factor = of.valid ? gradient_factor(args) : not_a_number();
        label = of.column;
    }

    template <typename T, int N> __device__ Group<T, N> operator()(const Group<T, N> &x, size_t first) const
    {
        float gradient[N];
#pragma unroll
        for (int j = 0; j < N; j++) {
            float wanted = first + j == label ? spread + certain : spread;
            gradient[j] = (expf(x[j] - largest) * inverse - wanted) * factor;
        }
        return round_group<T>(gradient);
    }
};

// A row that its team keeps in registers is read once.
template <typename T, bool VECTOR, int BLOCK>
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void short_rows_kernel(
    LsLossArgs args, unsigned threads_per_row)
{
    constexpr int N = group_size<T>(), GROUPS = HELD / N;
    Team<BLOCK> team(threads_per_row);
    size_t columns = team.row < args.rows ? args.columns : 0;
    const T *outputs = (const T *)args.outputs + team.row * args.columns;
    Group<T, N> held[GROUPS];
#pragma unroll
    for (int h = 0; h < GROUPS; h++)
        held[h] = load_group<VECTOR, N>(outputs, (ptrdiff_t)(h * team.size + team.rank) * N, columns);
    Label label = read_label<T>(args, team.row);
    RowSums sums = {minus_infinity(), 0.0f, 0.0f};
#pragma unroll
    for (int h = 0; h < GROUPS; h++)
#pragma unroll
        for (int j = 0; j < N; j++)
            if (is_inside<VECTOR>((ptrdiff_t)(h * team.size + team.rank) * N, j, columns))
                sums.largest = fmaxf(sums.largest, held[h][j]);
    sums.largest = team.max(sums.largest);
#pragma unroll
    for (int h = 0; h < GROUPS; h++)
#pragma unroll
        for (int j = 0; j < N; j++)
            if (is_inside<VECTOR>((ptrdiff_t)(h * team.size + team.rank) * N, j, columns)) {
                float difference = held[h][j] - sums.largest;
                sums.differences += difference;
                sums.exponentials += expf(difference);
            }
    sums.differences = team.sum(sums.differences);
    sums.exponentials = team.sum(sums.exponentials);
    if (team.rank == 0 && columns > 0)
        args.row_loss[team.row] = row_loss(args, label, sums);
    if (!args.gradient)
        return;
    team.synchronize(); // the label's output was read
    RowGradient gradient(args, label, sums);
    T *to = (T *)args.gradient + team.row * args.columns;
#pragma unroll
    for (int h = 0; h < GROUPS; h++) {
        size_t first = (size_t)(h * team.size + team.rank) * N;
        store_group<VECTOR, N>(to, (ptrdiff_t)first, columns, gradient(held[h], first));
    }
}

// Online softmax: a thread's sums relative to the largest output it has seen, moved when a larger one comes.
// `seen` counts the outputs, each of whose differences moves by as much.
struct OnlineSums {
    float largest, differences, exponentials, seen;

    // While all are -infinity, exponentials are taken relative to 0, which leaves them 0 and not NaN.
    __device__ static float origin(float largest)
    {
        return largest == minus_infinity() ? 0.0f : largest;
    }

    __device__ void move_to(float larger)
    {
        if (larger == largest)
            return;
        differences += seen * (origin(largest) - larger);
        exponentials *= expf(origin(largest) - larger);
        largest = larger;
    }

    template <bool WHOLE, typename T, int N>
    __device__ void add(const Group<T, N> &x, ptrdiff_t first, size_t columns)
    {
        float larger = largest;
#pragma unroll
        for (int j = 0; j < N; j++)
            if (is_inside<WHOLE>(first, j, columns))
                larger = fmaxf(larger, x[j]);
        move_to(larger);
#pragma unroll
        for (int j = 0; j < N; j++)
            if (is_inside<WHOLE>(first, j, columns)) {
                float difference = x[j] - origin(largest);
                differences += difference;
                exponentials += expf(difference);
                seen += 1.0f;
            }
    }
};

// A long row is read twice, the second time mostly from the L2 cache.
template <typename T, bool VECTOR>
__global__ __launch_bounds__(LONG_THREADS, 2) void long_rows_kernel(LsLossArgs args, unsigned threads_per_row)
{
    constexpr int N = group_size<T>();
    Team<LONG_THREADS> team(threads_per_row);
    const T *outputs = (const T *)args.outputs + team.row * args.columns;
    Label label = read_label<T>(args, team.row);
    OnlineSums online = {minus_infinity(), 0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (size_t first = team.rank * N; first < args.columns; first += LONG_THREADS * N)
        online.add<VECTOR>(
            load_group<VECTOR, N>(outputs, (ptrdiff_t)first, args.columns), first, args.columns);
    float largest = team.max(online.largest);
    online.move_to(largest);
    RowSums sums = {largest, team.sum(online.differences), team.sum(online.exponentials)};
    if (team.rank == 0)
        args.row_loss[team.row] = row_loss(args, label, sums);
    if (!args.gradient)
        return;
    team.synchronize(); // the label's output was read
    RowGradient gradient(args, label, sums);
    T *to = (T *)args.gradient + team.row * args.columns;
#pragma unroll 4
    for (size_t first = team.rank * N; first < args.columns; first += LONG_THREADS * N) {
        Group<T, N> x = load_group<VECTOR, N>(outputs, (ptrdiff_t)first, args.columns);
        store_group<VECTOR, N>(to, (ptrdiff_t)first, args.columns, gradient(x, first));
    }
}

template <typename T, bool VECTOR> cudaError_t cross_entropy(cudaStream_t stream, const LsLossArgs *args)
{
    size_t groups = divide_up(args->columns, group_size<T>());
    if (args->columns <= WARP * HELD)
        return launch_teams<0>(
            stream, args->rows, power_of_two_from(groups, WARP), short_rows_kernel<T, VECTOR, 0>, *args);
    if (args->columns <= THREADS * HELD)
        return launch_teams<THREADS>(
            stream, args->rows, THREADS, short_rows_kernel<T, VECTOR, THREADS>, *args);
    return launch_teams<LONG_THREADS>(stream, args->rows, LONG_THREADS, long_rows_kernel<T, VECTOR>, *args);
}

// ---- Means over columns ---------------------------------------------------------------------------------

// On logits; log(1 + e^x) - target x, written so that nothing overflows.
struct BinaryCrossEntropy {
    __device__ static float loss(float x, float target)
    {
        float above = x < 0.0f ? 0.0f : x;
        return above - x * target + log1pf(expf(-fabsf(x)));
    }

    __device__ static float gradient(float x, float target)
    {
        return sigmoid(x) - target;
    }
};

struct SquaredError {
    __device__ static float loss(float x, float target)
    {
        return (x - target) * (x - target);
    }

    __device__ static float gradient(float x, float target)
    {
        return 2.0f * (x - target);
    }
};

template <typename Loss, typename T, bool VECTOR, int BLOCK>
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void column_loss_kernel(
    LsLossArgs args, unsigned threads_per_row)
{
    constexpr int N = group_size<T, float>();
    Team<BLOCK> team(threads_per_row);
    size_t columns = team.row < args.rows ? args.columns : 0, start = team.row * args.columns;
    const T *outputs = (const T *)args.outputs + start;
    const float *targets = args.targets + start;
    float factor = gradient_factor(args) / (float)args.columns, loss = 0;
#pragma unroll 2
    for (size_t first = team.rank * N; first < columns; first += team.size * N) {
        Group<T, N> x = load_group<VECTOR, N>(outputs, (ptrdiff_t)first, columns);
        Group<float, N> target = load_group<VECTOR, N>(targets, (ptrdiff_t)first, columns);
        float gradient[N];
#pragma unroll
        for (int j = 0; j < N; j++) {
            loss += is_inside<VECTOR>((ptrdiff_t)first, j, columns) ? Loss::loss(x[j], target[j]) : 0.0f;
            gradient[j] = Loss::gradient(x[j], target[j]) * factor;
        }
        if (args.gradient)
            store_group<VECTOR, N>(
                (T *)args.gradient + start, (ptrdiff_t)first, columns, round_group<T>(gradient));
    }
    loss = team.sum(loss);
    if (team.rank == 0 && columns > 0)
        args.row_loss[team.row] = loss / (float)args.columns;
}

constexpr size_t WARP_GROUPS = 16 * WARP; // of a row; more are for a block

template <typename Loss, typename T, bool VECTOR>
cudaError_t column_loss(cudaStream_t stream, const LsLossArgs *args)
{
    size_t groups = divide_up(args->columns, group_size<T, float>());
    if (groups > WARP_GROUPS)
        return launch_teams<THREADS>(
            stream, args->rows, THREADS, column_loss_kernel<Loss, T, VECTOR, THREADS>, *args);
    return launch_teams<0>(
        stream, args->rows, power_of_two_from(groups, WARP), column_loss_kernel<Loss, T, VECTOR, 0>, *args);
}

bool rows_are_aligned(const LsLossArgs *args, size_t bytes)
{
    return args->columns * ls_dtype_size(args->type) % bytes == 0 && is_aligned(args->outputs, bytes) &&
           is_aligned(args->gradient, bytes);
}

template <typename Loss> cudaError_t column_loss(cudaStream_t stream, const LsLossArgs *args)
{
    if (args->rows == 0 || args->columns == 0)
        return cudaSuccess;
    return with_type(args->type, [&](auto type) {
        typedef decltype(type) T;
        bool aligned = rows_are_aligned(args, group_size<T, float>() * sizeof(T)) &&
                       is_aligned(args->targets, VECTOR_BYTES);
        return with_bool(aligned,
            [&](auto vector) { return column_loss<Loss, T, decltype(vector)::value>(stream, args); });
    });
}

} // namespace

cudaError_t ls_kernel_cross_entropy(cudaStream_t stream, const LsLossArgs *args)
{
    if (args->rows == 0 || args->columns == 0)
        return cudaSuccess;
    return with_type(args->type, [&](auto type) {
        return with_bool(rows_are_aligned(args, VECTOR_BYTES), [&](auto vector) {
            return cross_entropy<decltype(type), decltype(vector)::value>(stream, args);
        });
    });
}

cudaError_t ls_kernel_binary_cross_entropy(cudaStream_t stream, const LsLossArgs *args)
{
    return column_loss<BinaryCrossEntropy>(stream, args);
}

cudaError_t ls_kernel_mean_squared_error(cudaStream_t stream, const LsLossArgs *args)
{
    return column_loss<SquaredError>(stream, args);
}
