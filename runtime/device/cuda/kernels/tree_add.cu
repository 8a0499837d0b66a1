// The lane tree's additions. Chains of up to four inputs and balanced trees of two, four and eight are
// straight-line code on registers; any other list is compiled, on the host, to a short program that every
// thread runs on its own four elements.
#include <string.h>

#include "flat.cuh"

namespace
{

// ---- Numbers --------------------------------------------------------------------------------------------

// What inputs and output are, and whether values that are read and sums become the nearest BF16 numbers.
template <typename InputType, typename OutputType, bool ROUNDED> struct Numbers {
    typedef InputType Input;
    typedef OutputType Output;

    static __device__ __forceinline__ float round(float x)
    {
        return ROUNDED ? to_float(__float2bfloat16_rn(x)) : x;
    }

    static __device__ __forceinline__ float read(float x)
    {
        return sizeof(Input) == sizeof(float) ? round(x) : x;
    }
};

// ---- Common trees ---------------------------------------------------------------------------------------

// x[0] + (x[1] + (x[2] + …)): what a rank's stack of lanes collapses with.
template <typename N, int COUNT> struct Chain {
    __device__ float operator()(const float (&x)[COUNT]) const
    {
        float sum = N::read(x[COUNT - 1]);
#pragma unroll
        for (int i = COUNT - 2; i >= 0; i--)
            sum = N::round(N::read(x[i]) + sum);
        return sum;
    }
};

// (x[0] + x[1]) + (x[2] + x[3]) …
template <typename N, int COUNT> struct Balanced {
    __device__ float operator()(const float (&x)[COUNT]) const
    {
        float sum[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            sum[i] = N::read(x[i]);
#pragma unroll
        for (int step = 1; step < COUNT; step *= 2)
#pragma unroll
            for (int i = 0; i < COUNT; i += 2 * step)
                sum[i] = N::round(sum[i] + sum[i + step]);
        return sum[0];
    }
};

bool is_chain(const LsTreeAdd *args)
{
    if (args->adds + 1 != args->count || args->result != 0)
        return false;
    for (size_t i = 0; i < args->adds; i++)
        if (args->pairs[i][0] != args->adds - i - 1 || args->pairs[i][1] != args->adds - i)
            return false;
    return true;
}

// Whether the sum is the balanced tree over all inputs, in whatever order its additions are listed. `length`
// is how many inputs, from its own on, a value is the balanced sum of; 0 once it was added to another.
bool is_balanced(const LsTreeAdd *args)
{
    uint16_t length[LS_TREE_INPUTS];
    if (args->adds + 1 != args->count || args->result != 0)
        return false;
    for (size_t i = 0; i < args->count; i++)
        length[i] = 1;
    for (size_t i = 0; i < args->adds; i++) {
        size_t into = args->pairs[i][0], from = args->pairs[i][1];
        if (length[into] == 0 || length[from] != length[into] || from != into + length[into])
            return false;
        length[into] = (uint16_t)(2 * length[into]);
        length[from] = 0;
    }
    return length[0] == args->count;
}

template <typename N, int COUNT, template <typename, int> class Op>
cudaError_t add_all(cudaStream_t stream, const LsTreeAdd *args)
{
    FlatBuffers<typename N::Input, typename N::Output, COUNT> buffers;
    for (int i = 0; i < COUNT; i++)
        buffers.in[i] = (const typename N::Input *)args->inputs[i];
    buffers.out = (typename N::Output *)args->output;
    return map(stream, args->n, buffers, Op<N, COUNT>());
}

// ---- Any list -------------------------------------------------------------------------------------------

constexpr size_t PROGRAM_ADDS = 480; // kernel parameters, 4 KB, have room for these

// slot[into] = left + right. An operand is an input, read when it is first needed, or a slot of the thread's
// own shared memory.
struct Instruction {
    uint32_t into : 8, left_is_slot : 1, left : 8, right_is_slot : 1, right : 8;
};

struct Program {
    size_t n;
    const void *input[LS_TREE_INPUTS];
    void *output;
    uint16_t adds;
    bool result_is_slot;
    uint8_t result;
    Instruction add[PROGRAM_ADDS];
};
static_assert(sizeof(Program) <= 4096, "kernel parameters");

// Which slots hold which values; a slot is used again once its value is no longer needed.
struct Slots {
    bool held[LS_TREE_INPUTS];
    uint8_t slot_of[LS_TREE_INPUTS], idle[LS_TREE_INPUTS];
    size_t idle_count, used;
    size_t last_use[LS_TREE_INPUTS]; // the addition that reads or writes the value last
};

void plan_uses(const LsTreeAdd *args, Slots *slots)
{
    *slots = {};
    for (size_t i = 0; i < args->adds; i++)
        slots->last_use[args->pairs[i][0]] = slots->last_use[args->pairs[i][1]] = i;
    slots->last_use[args->result] = args->adds;
}

void hold(Slots *slots, size_t value)
{
    if (slots->held[value])
        return;
    slots->held[value] = true;
    slots->slot_of[value] = slots->idle_count > 0 ? slots->idle[--slots->idle_count] : (uint8_t)slots->used++;
}

void release_after(Slots *slots, size_t add, size_t value)
{
    if (!slots->held[value] || slots->last_use[value] > add)
        return;
    slots->held[value] = false;
    slots->idle[slots->idle_count++] = slots->slot_of[value];
}

// Returns how many slots the program needs: for a tree whose additions are listed depth first, its depth.
size_t compile(const LsTreeAdd *args, Program *program)
{
    Slots slots;
    plan_uses(args, &slots);
    program->n = args->n;
    program->output = args->output;
    program->adds = (uint16_t)args->adds;
    for (size_t i = 0; i < args->count; i++)
        program->input[i] = args->inputs[i];
    for (size_t i = 0; i < args->adds; i++) {
        size_t into = args->pairs[i][0], from = args->pairs[i][1];
        Instruction *add = &program->add[i];
        add->left_is_slot = slots.held[into];
        add->left = slots.held[into] ? slots.slot_of[into] : (uint8_t)into;
        add->right_is_slot = slots.held[from];
        add->right = slots.held[from] ? slots.slot_of[from] : (uint8_t)from;
        hold(&slots, into);
        add->into = slots.slot_of[into];
        release_after(&slots, i, from);
        release_after(&slots, i, into);
    }
    program->result_is_slot = slots.held[args->result];
    program->result = program->result_is_slot ? slots.slot_of[args->result] : (uint8_t)args->result;
    return slots.used;
}

// One number alone fills no word of a group of BF16.
template <bool VECTOR, int N, typename T>
__device__ __forceinline__ void load_numbers(const T *from, ptrdiff_t first, size_t n, float (&values)[N])
{
    if constexpr (N == 1)
        values[0] = (size_t)first < n ? to_float(from[first]) : 0.0f;
    else
        load_ragged<VECTOR, N>(from, first, n).unpack(values);
}

template <bool VECTOR, int N, typename T>
__device__ __forceinline__ void store_numbers(T *to, ptrdiff_t first, size_t n, const float (&values)[N])
{
    if constexpr (N > 1)
        store_ragged<VECTOR, N>(to, first, n, round_group<T>(values));
    else if ((size_t)first < n)
        to[first] = from_bits<T>(round_word(values[0], values[0], T()));
}

template <typename Numbers, bool VECTOR, int N> struct Machine {
    const Program &program;
    float *slots; // [used][blockDim.x][N]
    ptrdiff_t first;

    __device__ float *slot(unsigned number) const
    {
        return slots + (number * blockDim.x + threadIdx.x) * N;
    }

    __device__ void load(bool is_slot, unsigned number, float (&values)[N]) const
    {
        if (is_slot) {
            load_aligned<N>(slot(number)).unpack(values);
            return;
        }
        load_numbers<VECTOR>(
            (const typename Numbers::Input *)program.input[number], first, program.n, values);
#pragma unroll
        for (int j = 0; j < N; j++)
            values[j] = Numbers::read(values[j]);
    }
};

template <typename Numbers, bool VECTOR, int N>
__global__ __launch_bounds__(THREADS) void program_kernel(const __grid_constant__ Program program)
{
    LS_DYNAMIC_SHARED(float, shared);
    Machine<Numbers, VECTOR, N> machine = {
        program, shared, (ptrdiff_t)(((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N)};
    float left[N], right[N];
    for (unsigned i = 0; i < program.adds; i++) {
        Instruction add = program.add[i];
        machine.load(add.left_is_slot, add.left, left);
        machine.load(add.right_is_slot, add.right, right);
        float *slot = machine.slot(add.into);
#pragma unroll
        for (int j = 0; j < N; j++)
            slot[j] = Numbers::round(left[j] + right[j]);
    }
    machine.load(program.result_is_slot, program.result, left);
    store_numbers<VECTOR>((typename Numbers::Output *)program.output, machine.first, program.n, left);
}

template <typename Numbers, bool VECTOR, int N>
cudaError_t run_program(cudaStream_t stream, const Program &program, unsigned threads, size_t slots)
{
    unsigned blocks = (unsigned)divide_up(program.n, (size_t)threads * N);
    return launch(stream, blocks, threads, slots * threads * N * sizeof(float),
        program_kernel<Numbers, VECTOR, N>, program);
}

// As many threads in a block as have their slots in 48 KB of shared memory, which every GPU gives.
template <typename Numbers> cudaError_t add_listed(cudaStream_t stream, const LsTreeAdd *args)
{
    if (args->adds > PROGRAM_ADDS || args->count > LS_TREE_INPUTS)
        return cudaErrorInvalidValue;
    constexpr int N = group_size<float>(); // of either type: slots are F32
    Program program;
    memset((void *)&program, 0, sizeof program);
    size_t slots = compile(args, &program), limit = 48 * 1024 / sizeof(float);
    bool aligned = is_aligned(args->output, N * sizeof(typename Numbers::Output));
    for (size_t i = 0; i < args->count; i++)
        aligned = aligned && is_aligned(args->inputs[i], N * sizeof(typename Numbers::Input));
    if (slots * WARP * N > limit) // one element each
        return run_program<Numbers, true, 1>(stream, program, WARP, slots);
    unsigned threads = THREADS;
    while (slots * threads * N > limit)
        threads /= 2;
    return with_bool(aligned, [&](auto vector) {
        return run_program<Numbers, decltype(vector)::value, N>(stream, program, threads, slots);
    });
}

template <typename Numbers> cudaError_t add(cudaStream_t stream, const LsTreeAdd *args)
{
    bool chain = is_chain(args), balanced = is_balanced(args);
    if (chain && args->count == 1)
        return add_all<Numbers, 1, Chain>(stream, args);
    if (chain && args->count == 2)
        return add_all<Numbers, 2, Chain>(stream, args);
    if (chain && args->count == 3)
        return add_all<Numbers, 3, Chain>(stream, args);
    if (chain && args->count == 4)
        return add_all<Numbers, 4, Chain>(stream, args);
    if (balanced && args->count == 4)
        return add_all<Numbers, 4, Balanced>(stream, args);
    if (balanced && args->count == 8)
        return add_all<Numbers, 8, Balanced>(stream, args);
    return add_listed<Numbers>(stream, args);
}

} // namespace

cudaError_t ls_kernel_tree_add(cudaStream_t stream, const LsTreeAdd *args)
{
    bool halves = args->type == LS_BF16, packs = args->output_type == LS_BF16;
    if (args->n == 0)
        return cudaSuccess;
    if (!args->rounded)
        return halves || packs ? cudaErrorInvalidValue : add<Numbers<float, float, false>>(stream, args);
    if (halves)
        return packs ? add<Numbers<__nv_bfloat16, __nv_bfloat16, true>>(stream, args)
                     : add<Numbers<__nv_bfloat16, float, true>>(stream, args);
    return packs ? add<Numbers<float, __nv_bfloat16, true>>(stream, args)
                 : add<Numbers<float, float, true>>(stream, args);
}
