// What ends a step: the decision, the optimizer pass, and the fingerprint that decisions use.
#include "pieces.cuh"

namespace
{

// ---- The decision ---------------------------------------------------------------------------------------

constexpr int DECIDE_THREADS = 1024;
constexpr int GATHERS = 8;                                    // words whose loads are in flight together
constexpr float LEAST_SCALE = 1.0f, MOST_SCALE = 16777216.0f; // 2^24

// In the order that the count alone fixes: thread t adds words t, t + 1024, …, and the threads' sums are
// added as a tree.
__device__ double gathered_sum(const float *words, const uint32_t *index, size_t count)
{
    double sum = 0;
    for (size_t first = threadIdx.x; first < count; first += GATHERS * DECIDE_THREADS) {
        float value[GATHERS];
#pragma unroll
        for (int k = 0; k < GATHERS; k++) {
            size_t i = first + (size_t)k * DECIDE_THREADS;
            value[k] = i < count ? words[index[i]] : 0.0f;
        }
#pragma unroll
        for (int k = 0; k < GATHERS; k++)
            sum += (double)value[k];
    }
    return block_sum<DECIDE_THREADS>(sum);
}

__device__ uint32_t largest_vote(const LsDecideStep &args, unsigned vote)
{
    uint32_t largest = 0;
    for (size_t rank = 0; rank < args.ranks; rank++) {
        uint32_t one = ls_f32_to_bits(args.words[rank * args.rank_words + vote]);
        largest = one > largest ? one : largest;
    }
    return largest;
}

// By squaring, as the reference does it.
__device__ double power(double base, int64_t exponent)
{
    double result = 1;
    for (; exponent > 0; exponent >>= 1, base *= base)
        if (exponent & 1)
            result *= base;
    return result;
}

__device__ void skip_step(const LsDecideStep &args, LsStepControl *control)
{
    control->skipped_in_row += 1;
    control->good_steps = 0;
    if (args.growth_interval > 0)
        control->loss_scale = fmaxf(control->loss_scale * 0.5f, LEAST_SCALE);
}

__device__ void accept_step(const LsDecideStep &args, LsStepControl *control, double norm)
{
    double clip = args.clip_norm > 0 && norm > args.clip_norm ? args.clip_norm / norm : 1.0;
    control->gradient_factor = (float)(clip / control->loss_scale);
    control->updates += 1;
    control->skipped_in_row = 0;
    control->bias_correction1 = (float)(1.0 - power(args.beta1, control->updates));
    control->bias_correction2 = (float)(1.0 - power(args.beta2, control->updates));
    control->good_steps += 1;
    if (args.growth_interval > 0 && control->good_steps >= args.growth_interval) {
        control->loss_scale = fminf(control->loss_scale * 2.0f, MOST_SCALE);
        control->good_steps = 0;
    }
}

// ---- Spikes: operations on values and their order are the reference's ------------------------------------

struct Scale {
    double median, unit; // what is measured from, and in
};

// Of at most as many values as there are threads, which have written theirs before. Each thread finds the
// place of its value in their order; those in the middle are the same values however they got there.
__device__ double median(const double *values, int n)
{
    __shared__ double middle[2];
    int i = threadIdx.x, place = 0;
    __syncthreads();
    for (int j = 0; i < n && j < n; j++)
        place += values[j] < values[i] || (values[j] == values[i] && j < i);
    if (i < n && place == (n - 1) / 2)
        middle[0] = values[i];
    if (i < n && place == n / 2)
        middle[1] = values[i];
    __syncthreads();
    return (middle[0] + middle[1]) * 0.5;
}

__device__ Scale scale_of(const LsDecideStep &args, const float *ring)
{
    __shared__ double values[LS_SPIKE_WINDOW_MAX];
    int n = args.window, next = args.outcome->window.next, i = threadIdx.x;
    __syncthreads(); // the last use of the array is over
    if (i < n)
        values[i] = (double)ring[(next + LS_SPIKE_WINDOW_MAX - 1 - i) % LS_SPIKE_WINDOW_MAX];
    double middle = median(values, n);
    if (i < n)
        values[i] = fabs(values[i] - middle);
    double unit = median(values, n) * 1.4826;
    return Scale{middle, fmax(unit, fmax(fabs(middle) * 0.01, 1e-6))};
}

// The first thread scores the step, whose loss and norm control has.
__device__ bool is_spike(
    const LsDecideStep &args, const LsStepControl &control, const Scale &loss, const Scale &norm)
{
    LsStepOutcome *outcome = args.outcome;
    outcome->loss_score = outcome->gradient_norm_score = 0.0f;
    if (outcome->window.held < args.window)
        return false;
    outcome->loss_score = (float)((control.loss - loss.median) / loss.unit);
    outcome->gradient_norm_score = (float)((control.gradient_norm - norm.median) / norm.unit);
    return outcome->loss_score > args.spike || outcome->gradient_norm_score > args.spike;
}

__device__ void remember_step(const LsDecideStep &args, const LsStepControl &control)
{
    LsSpikeWindow *window = &args.outcome->window;
    window->loss[window->next] = control.loss;
    window->gradient_norm[window->next] = control.gradient_norm;
    window->next = (window->next + 1) % LS_SPIKE_WINDOW_MAX;
    window->held += window->held < LS_SPIKE_WINDOW_MAX;
}

// ---- The decision ---------------------------------------------------------------------------------------

struct Found {
    double loss, squares; // exchanged sums
    Scale loss_scale, norm_scale;
    bool failed; // a rank
};

__device__ bool lane_differs(const LsDecideStep &args)
{
    bool differs = false;
    for (size_t i = 0; i < args.check_words; i++)
        differs = differs || ls_f32_to_bits(args.words[args.first_check + i]) !=
                                 ls_f32_to_bits(args.words[args.second_check + i]);
    return differs;
}

__device__ void decide(const LsDecideStep &args, const Found &found)
{
    LsStepControl control = args.outcome->control;
    double norm = sqrt(found.squares) / control.loss_scale;
    control.loss = (float)(found.loss / args.samples);
    control.gradient_norm = (float)norm;
    control.learning_rate = args.learning_rate;
    control.step += 1;
    bool finite = isfinite(control.loss) && isfinite(control.gradient_norm);
    bool spike = args.spike > 0 && !found.failed && finite &&
                 is_spike(args, control, found.loss_scale, found.norm_scale);
    control.skip = found.failed || !finite ? LS_SKIP_NOT_FINITE : spike ? LS_SKIP_SPIKE : LS_SKIP_NONE;
    if (control.skip)
        control.gradient_factor = 0.0f;
    if (control.skip == LS_SKIP_NONE) {
        accept_step(args, &control, norm);
        if (args.spike > 0)
            remember_step(args, control);
    } else if (spike) { // says nothing about the loss scale
        control.skipped_in_row += 1;
    } else if (!found.failed) { // a failure says nothing about the gradients
        skip_step(args, &control);
    }
    args.outcome->control = control;
}

__global__ __launch_bounds__(DECIDE_THREADS) void decide_kernel(LsDecideStep args)
{
    __shared__ uint32_t votes[LS_VOTE_WORDS];
    if (threadIdx.x < LS_VOTE_WORDS)
        votes[threadIdx.x] = largest_vote(args, threadIdx.x);
    Found found = {};
    found.loss = gathered_sum(args.words, args.lane_index, args.lanes);
    found.squares = gathered_sum(args.words, args.block_index, args.blocks);
    if (args.spike > 0 && args.outcome->window.held >= args.window) {
        found.loss_scale = scale_of(args, args.outcome->window.loss);
        found.norm_scale = scale_of(args, args.outcome->window.gradient_norm);
    }
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    args.outcome->votes = LsVotes{votes[0], votes[1], votes[2], votes[3], {votes[4], votes[5]}};
    found.failed = votes[1] != 0;
    if (!found.failed && lane_differs(args))
        args.outcome->control.skip = LS_SKIP_WRONG;
    else
        decide(args, found);
}

// ---- Trust ratios: a block of threads for each tensor ---------------------------------------------------

__device__ double tensor_norm(const LsTrustRatios &args, const uint32_t *index, uint32_t first, uint32_t end)
{
    double sum = 0;
    for (uint32_t block = first + threadIdx.x; block < end; block += THREADS)
        sum += (double)args.words[index[block]];
    return sqrt(block_sum<THREADS>(sum));
}

__global__ __launch_bounds__(THREADS) void trust_kernel(LsTrustRatios args)
{
    uint32_t first = args.first[blockIdx.x], end = args.first[blockIdx.x + 1];
    if (args.control->skip)
        return;
    double weight = tensor_norm(args, args.weight_index, first, end);
    double gradient =
        tensor_norm(args, args.gradient_index, first, end) * (double)args.control->gradient_factor;
    float ratio = 1.0f;
    if (args.adapts[blockIdx.x] && weight != 0 && gradient != 0)
        ratio = (float)((double)args.trust * weight /
                        (gradient + (double)args.weight_decay * weight + (double)args.epsilon));
    for (uint32_t block = first + threadIdx.x; block < end; block += THREADS)
        args.ratio[block] = ratio;
}

// ---- The optimizer pass ---------------------------------------------------------------------------------

typedef Pieces<LsOptimizerPiece, 50> OptimizerPieces;

struct Optimizer {
    float momentum, beta1, beta2, epsilon, weight_decay;
    bool nesterov;
    float statistics_rate, average_rate;
    const LsStepControl *control;
};

constexpr int N = group_size<float>();
constexpr int UPDATE_STEPS = 2; // groups of a thread whose loads are in flight together

// Pieces are whole blocks, so no group lies outside.
template <bool VECTOR, typename T>
__device__ __forceinline__ Group<T, N> load_whole(const T *from, size_t first)
{
    return VECTOR ? load_aligned<N>(from + first) : load_group<false, N>(from + first, 0, N);
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void store_whole(T *to, size_t first, const Group<T, N> &group)
{
    if (VECTOR)
        store_aligned(to + first, group);
    else
        store_group<false>(to + first, 0, N, group);
}

// What one thread updates: N elements.
struct Update {
    float master[N], gradient[N], moment1[N], moment2[N];
};

template <bool VECTOR, bool ADAMW>
__device__ __forceinline__ void load_update(const LsOptimizerPiece &piece, size_t first, Update *update)
{
    load_whole<VECTOR>(piece.master, first).unpack(update->master);
    load_whole<VECTOR>(piece.gradient, first).unpack(update->gradient);
    if (piece.moment1)
        load_whole<VECTOR>(piece.moment1, first).unpack(update->moment1);
    if (ADAMW)
        load_whole<VECTOR>(piece.moment2, first).unpack(update->moment2);
}

template <bool VECTOR, bool ADAMW, typename T>
__device__ __forceinline__ void store_update(
    const LsOptimizerPiece &piece, size_t first, const Update &update)
{
    store_whole<VECTOR>(piece.master, first, round_group<float>(update.master));
    if (piece.moment1)
        store_whole<VECTOR>(piece.moment1, first, round_group<float>(update.moment1));
    if (ADAMW)
        store_whole<VECTOR>(piece.moment2, first, round_group<float>(update.moment2));
    if (piece.weights)
        store_whole<VECTOR>((T *)piece.weights, first, round_group<T>(update.master));
}

// Operations and their order are the reference's, so both give the same bits.
__device__ __forceinline__ void sgd_element(const Optimizer &args, const LsStepControl &control, float decay,
    float ratio, bool momentum, int j, Update *u)
{
    float step = ratio * (u->gradient[j] * control.gradient_factor + decay * u->master[j]);
    if (momentum) {
        float moment = args.momentum * u->moment1[j] + step;
        u->moment1[j] = moment;
        step = args.nesterov ? step + args.momentum * moment : moment;
    }
    u->master[j] -= control.learning_rate * step;
}

__device__ __forceinline__ void adamw_element(
    const Optimizer &args, const LsStepControl &control, float decay, int j, Update *u)
{
    float gradient = u->gradient[j] * control.gradient_factor;
    float m = args.beta1 * u->moment1[j] + (1.0f - args.beta1) * gradient;
    float v = args.beta2 * u->moment2[j] + (1.0f - args.beta2) * (gradient * gradient);
    float kept = u->master[j] - (control.learning_rate * decay) * u->master[j];
    float direction = (m / control.bias_correction1) / (sqrtf(v / control.bias_correction2) + args.epsilon);
    u->moment1[j] = m;
    u->moment2[j] = v;
    u->master[j] = kept - control.learning_rate * direction;
}

// The average of N elements that were just updated to `master`.
template <bool VECTOR>
__device__ __forceinline__ void update_average(
    const LsOptimizerPiece &piece, const Optimizer &args, size_t first, const float (&master)[N])
{
    float average[N];
    if (!piece.average)
        return;
    load_whole<VECTOR>(piece.average, first).unpack(average);
#pragma unroll
    for (int j = 0; j < N; j++)
        average[j] += args.average_rate * (master[j] - average[j]);
    store_whole<VECTOR>(piece.average, first, round_group<float>(average));
}

// N elements, which are pairs of mean and variance.
template <bool VECTOR, typename T>
__device__ __forceinline__ void update_statistics(
    const LsOptimizerPiece &piece, const Optimizer &args, size_t first)
{
    static_assert(N % 2 == 0, "pairs are whole");
    float rate = args.statistics_rate, kept = 1.0f - rate, master[N], gradient[N], read[N];
    load_whole<VECTOR>(piece.master, first).unpack(master);
    load_whole<VECTOR>(piece.gradient, first).unpack(gradient);
    if (piece.weights)
        load_whole<VECTOR>((const T *)piece.weights, first).unpack(read);
    else
        load_whole<VECTOR>(piece.master, first).unpack(read);
#pragma unroll
    for (int j = 0; j < N; j += 2) {
        float variance = fmaxf(0.0f, gradient[j + 1] - gradient[j] * gradient[j]);
        master[j] = kept * master[j] + rate * (read[j] + gradient[j]);
        master[j + 1] = kept * master[j + 1] + rate * variance;
    }
    store_whole<VECTOR>(piece.master, first, round_group<float>(master));
    if (piece.weights)
        store_whole<VECTOR>((T *)piece.weights, first, round_group<T>(master));
    update_average<VECTOR>(piece, args, first, master);
}

template <bool VECTOR, bool ADAMW, typename T>
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void optimizer_kernel(
    const __grid_constant__ OptimizerPieces pieces, Optimizer args)
{
    const LsStepControl control = *args.control;
    if (control.skip)
        return;
    size_t block;
    const LsOptimizerPiece &piece = pieces.find(blockIdx.x, &block);
    unsigned kind = piece.block_kind[block];
    float decay = kind == LS_KIND_DECAYED ? args.weight_decay : 0.0f;
    float ratio = piece.block_ratio ? piece.block_ratio[block] : 1.0f;
    size_t first = block * LS_BLOCK + threadIdx.x * N;
    if (kind == LS_KIND_STATISTICS) {
        for (int begin = 0; begin < LS_BLOCK; begin += THREADS * N)
            update_statistics<VECTOR, T>(piece, args, first + begin);
        return;
    }
    for (int begin = 0; begin < LS_BLOCK; begin += UPDATE_STEPS * THREADS * N) {
        Update update[UPDATE_STEPS];
#pragma unroll
        for (int s = 0; s < UPDATE_STEPS; s++)
            load_update<VECTOR, ADAMW>(piece, first + begin + s * THREADS * N, &update[s]);
#pragma unroll
        for (int s = 0; s < UPDATE_STEPS; s++) {
#pragma unroll
            for (int j = 0; j < N; j++)
                if (ADAMW)
                    adamw_element(args, control, decay, j, &update[s]);
                else
                    sgd_element(args, control, decay, ratio, piece.moment1, j, &update[s]);
            size_t place = first + begin + s * THREADS * N;
            store_update<VECTOR, ADAMW, T>(piece, place, update[s]);
            update_average<VECTOR>(piece, args, place, update[s].master);
        }
    }
}

bool pieces_are_aligned(const LsOptimizerStep *args)
{
    bool aligned = true;
    for (size_t i = 0; i < args->count; i++) {
        const LsOptimizerPiece *piece = &args->piece[i];
        aligned = aligned && is_aligned(piece->master, VECTOR_BYTES) &&
                  is_aligned(piece->gradient, VECTOR_BYTES) && is_aligned(piece->moment1, VECTOR_BYTES) &&
                  is_aligned(piece->moment2, VECTOR_BYTES) && is_aligned(piece->average, VECTOR_BYTES) &&
                  is_aligned(piece->weights, N * ls_dtype_size(args->type));
    }
    return aligned;
}

template <bool VECTOR, bool ADAMW, typename T>
cudaError_t optimizer_step(cudaStream_t stream, const LsOptimizerStep *args)
{
    Optimizer optimizer = {args->momentum, args->beta1, args->beta2, args->epsilon, args->weight_decay,
        args->nesterov, args->statistics_rate, args->average_rate, args->control};
    return each_chunk<OptimizerPieces>(
        args->count, [&](size_t i) { return args->piece[i]; },
        [&](const OptimizerPieces &pieces) {
            return launch(
                stream, pieces.blocks(), THREADS, 0, optimizer_kernel<VECTOR, ADAMW, T>, pieces, optimizer);
        });
}

// ---- Fingerprints ---------------------------------------------------------------------------------------

constexpr size_t FINGERPRINT_BLOCKS = 1024; // some for every multiprocessor of any GPU

// Sums of integers are the same in any order.
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void fingerprint_kernel(LsFingerprint args)
{
    unsigned long long sum = 0;
    size_t stride = (size_t)gridDim.x * THREADS;
#pragma unroll 4
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < args.n; i += stride)
        sum += ls_mix_bits(args.first + i, ls_f32_to_bits(args.x[i]));
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0)
        atomicAdd((unsigned long long *)args.sum, sum);
}

} // namespace

cudaError_t ls_kernel_fingerprint_bits(cudaStream_t stream, const LsFingerprint *args)
{
    size_t blocks = divide_up(args->n, (size_t)THREADS);
    if (blocks == 0)
        return cudaSuccess;
    return launch(stream, (unsigned)(blocks < FINGERPRINT_BLOCKS ? blocks : FINGERPRINT_BLOCKS), THREADS, 0,
        fingerprint_kernel, *args);
}

cudaError_t ls_kernel_decide_step(cudaStream_t stream, const LsDecideStep *args)
{
    return launch(stream, 1, DECIDE_THREADS, 0, decide_kernel, *args);
}

cudaError_t ls_kernel_trust_ratios(cudaStream_t stream, const LsTrustRatios *args)
{
    if (args->tensors == 0)
        return cudaSuccess;
    return launch(stream, (unsigned)args->tensors, THREADS, 0, trust_kernel, *args);
}

cudaError_t ls_kernel_optimizer_step(cudaStream_t stream, const LsOptimizerStep *args)
{
    return with_type(args->type, [&](auto type) {
        return with_bool(pieces_are_aligned(args), [&](auto vector) {
            return with_bool(args->kind == LS_OPTIMIZER_ADAMW, [&](auto adamw) {
                return optimizer_step<decltype(vector)::value, decltype(adamw)::value, decltype(type)>(
                    stream, args);
            });
        });
    });
}
