// The lane tree's additions. Chains of up to four inputs and balanced trees of two, four and eight are
// straight-line code on registers; any other list is compiled, on the host, to a short program that every
// thread runs on its own four elements.
#include <string.h>

#include "flat.cuh"

namespace
{

// ---- Common trees ---------------------------------------------------------------------------------------

struct Copy {
    __device__ float operator()(const float (&x)[1]) const
    {
        return x[0];
    }
};

// x[0] + (x[1] + (x[2] + …)): what a rank's stack of lanes collapses with.
template <int COUNT> struct Chain {
    __device__ float operator()(const float (&x)[COUNT]) const
    {
        float sum = x[COUNT - 1];
#pragma unroll
        for (int i = COUNT - 2; i >= 0; i--)
            sum = x[i] + sum;
        return sum;
    }
};

// (x[0] + x[1]) + (x[2] + x[3]) …
template <int COUNT> struct Balanced {
    __device__ float operator()(const float (&x)[COUNT]) const
    {
        float sum[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            sum[i] = x[i];
#pragma unroll
        for (int step = 1; step < COUNT; step *= 2)
#pragma unroll
            for (int i = 0; i < COUNT; i += 2 * step)
                sum[i] += sum[i + step];
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

template <int COUNT, typename Op>
cudaError_t add_all(cudaStream_t stream, const LsTreeAdd *args, const Op &op)
{
    FlatBuffers<float, float, COUNT> buffers;
    for (int i = 0; i < COUNT; i++)
        buffers.in[i] = args->inputs[i];
    buffers.out = args->output;
    return map(stream, args->n, buffers, op);
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
    const float *input[LS_TREE_INPUTS];
    float *output;
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

template <bool VECTOR, int N> struct Machine {
    const Program &program;
    float *slots; // [used][blockDim.x][N]
    ptrdiff_t first;

    __device__ float *slot(unsigned number) const
    {
        return slots + (number * blockDim.x + threadIdx.x) * N;
    }

    __device__ Group<float, N> value(bool is_slot, unsigned number) const
    {
        return is_slot ? load_aligned<N>(slot(number))
                       : load_ragged<VECTOR, N>(program.input[number], first, program.n);
    }
};

template <bool VECTOR, int N>
__global__ __launch_bounds__(THREADS) void program_kernel(const __grid_constant__ Program program)
{
    LS_DYNAMIC_SHARED(float, shared);
    Machine<VECTOR, N> machine = {
        program, shared, (ptrdiff_t)(((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N)};
    for (unsigned i = 0; i < program.adds; i++) {
        Instruction add = program.add[i];
        Group<float, N> left = machine.value(add.left_is_slot, add.left);
        Group<float, N> right = machine.value(add.right_is_slot, add.right);
        float sum[N];
#pragma unroll
        for (int j = 0; j < N; j++)
            sum[j] = left[j] + right[j];
        float *slot = machine.slot(add.into);
#pragma unroll
        for (int j = 0; j < N; j++)
            slot[j] = sum[j];
    }
    store_ragged<VECTOR, N>(
        program.output, machine.first, program.n, machine.value(program.result_is_slot, program.result));
}

template <bool VECTOR, int N>
cudaError_t run_program(cudaStream_t stream, const Program &program, unsigned threads, size_t slots)
{
    unsigned blocks = (unsigned)divide_up(program.n, (size_t)threads * N);
    return launch(
        stream, blocks, threads, slots * threads * N * sizeof(float), program_kernel<VECTOR, N>, program);
}

// As many threads in a block as have their slots in 48 KB of shared memory, which every GPU gives.
cudaError_t add_listed(cudaStream_t stream, const LsTreeAdd *args)
{
    if (args->adds > PROGRAM_ADDS || args->count > LS_TREE_INPUTS)
        return cudaErrorInvalidValue;
    Program program;
    memset((void *)&program, 0, sizeof program);
    size_t slots = compile(args, &program), limit = 48 * 1024 / sizeof(float);
    bool aligned = is_aligned(args->output, VECTOR_BYTES);
    for (size_t i = 0; i < args->count; i++)
        aligned = aligned && is_aligned(args->inputs[i], VECTOR_BYTES);
    constexpr int N = group_size<float>();
    if (slots * WARP * N > limit) // one element each
        return run_program<true, 1>(stream, program, WARP, slots);
    unsigned threads = THREADS;
    while (slots * threads * N > limit)
        threads /= 2;
    return with_bool(aligned, [&](auto vector) {
        return run_program<decltype(vector)::value, N>(stream, program, threads, slots);
    });
}

} // namespace

cudaError_t ls_kernel_tree_add(cudaStream_t stream, const LsTreeAdd *args)
{
    if (args->n == 0)
        return cudaSuccess;
    if (is_chain(args) && args->count == 1)
        return add_all<1>(stream, args, Copy());
    if (is_chain(args) && args->count == 2)
        return add_all<2>(stream, args, Chain<2>());
    if (is_chain(args) && args->count == 3)
        return add_all<3>(stream, args, Chain<3>());
    if (is_chain(args) && args->count == 4)
        return add_all<4>(stream, args, Chain<4>());
    if (is_balanced(args) && args->count == 4)
        return add_all<4>(stream, args, Balanced<4>());
    if (is_balanced(args) && args->count == 8)
        return add_all<8>(stream, args, Balanced<8>());
    return add_listed(stream, args);
}
