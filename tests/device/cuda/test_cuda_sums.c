// CUDA kernels that add, and the optimizer pass, called directly with what ops on a device do not reach:
// random lists of additions, more pieces than one launch holds, every way of slicing columns.
#include "kernel_arrays.h"

#include <math.h>

// ---- Additions ------------------------------------------------------------------------------------------

typedef struct Additions {
    size_t count, adds, result;
    uint16_t pairs[512][2];
} Additions;

static void add_pair(Additions *list, size_t into, size_t from)
{
    list->pairs[list->adds][0] = (uint16_t)into;
    list->pairs[list->adds][1] = (uint16_t)from;
    list->adds++;
}

static void check_additions_of(const Additions *list, size_t n)
{
    const void *host[LS_TREE_INPUTS], *device[LS_TREE_INPUTS];
    bool rounded = draw(2);
    LsDtype type = rounded && draw(2) ? LS_BF16 : LS_F32, output_type = rounded && draw(2) ? LS_BF16 : LS_F32;
    size_t into = draw(list->count + 1), shift = draw(2) ? draw(4) : 4;
    Array *output = NULL;
    for (size_t i = 0; i < list->count; i++) {
        Array *input = array_of(type, n);
        if (shift < 4) // all alike
            shift_array(input, shift);
        host[i] = input->host;
        device[i] = input->device;
        if (i == into && type == output_type)
            output = input;
    }
    if (!output) {
        output = array_of(output_type, n);
        if (shift < 4)
            shift_array(output, shift);
    }
    LsTreeAdd args = {.n = n,
        .count = list->count,
        .inputs = device,
        .adds = list->adds,
        .pairs = list->pairs,
        .result = list->result,
        .output = output->device,
        .type = type,
        .output_type = output_type,
        .rounded = rounded};
    REQUIRE(ls_kernel_tree_add(0, &args));
    args.inputs = host;
    args.output = output->host;
    require_ref(ls_ref_tree_add(NULL, &args));
    expect_bits("sum", output);
    release_arrays(NULL);
}

static void check_additions(const Additions *list)
{
    check_additions_of(list, 1 + draw(3000));
}

// Level by level, a tree of 256 keeps 128 sums at a time.
static void trees_level_by_level(void **unused)
{
    (void)unused;
    for (size_t count = 1; count <= LS_TREE_INPUTS; count *= 2) {
        Additions list = {.count = count};
        for (size_t step = 1; step < count; step *= 2)
            for (size_t i = 0; i < count; i += 2 * step)
                add_pair(&list, i, i + step);
        check_additions(&list);
    }
}

static void balance(Additions *list, size_t first, size_t end)
{
    if (end - first < 2)
        return;
    size_t middle = first + (end - first + 1) / 2;
    balance(list, first, middle);
    balance(list, middle, end);
    add_pair(list, first, middle);
}

static void trees_depth_first(void **unused)
{
    (void)unused;
    static const size_t counts[] = {2, 3, 4, 5, 8, 13, 100, LS_TREE_INPUTS};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        Additions list = {.count = counts[c]};
        balance(&list, 0, list.count);
        check_additions(&list);
    }
}

static void chains(void **unused)
{
    (void)unused;
    for (size_t count = 1; count <= 7; count++) {
        Additions left = {.count = count}, right = {.count = count};
        for (size_t i = 1; i < count; i++) {
            add_pair(&left, 0, i);
            add_pair(&right, count - i - 1, count - i);
        }
        check_additions(&left);
        check_additions(&right);
    }
}

// Lists that are no trees: values used twice, added to themselves, or never, and any of them the result.
static void any_list_of_additions(void **unused)
{
    (void)unused;
    for (int repeat = 0; repeat < 12; repeat++) {
        Additions list = {.count = 1 + draw(repeat < 8 ? 6 : 40)};
        list.result = draw(list.count);
        for (size_t adds = draw(repeat < 8 ? 9 : 480); adds > 0; adds--)
            add_pair(&list, draw(list.count), draw(list.count));
        check_additions(&list);
    }
}

// Vectors that fill the GPU: a thread takes several groups, at both ends of a buffer one by one.
static void long_vectors(void **unused)
{
    (void)unused;
    for (int inputs = 1; inputs <= 2; inputs++) {
        Additions list = {.count = (size_t)inputs};
        if (inputs == 2)
            add_pair(&list, 0, 1);
        check_additions_of(&list, elements_that_fill_gpu() + draw(100000));
    }
}

// Longer lists than kernel parameters hold are refused, not cut.
static void too_long_a_list_is_refused(void **unused)
{
    (void)unused;
    Additions list = {.count = 2};
    for (int i = 0; i < 481; i++)
        add_pair(&list, 0, 1);
    Array *a = array_of(LS_F32, 10);
    const void *inputs[2] = {a->device, a->device};
    LsTreeAdd args = {
        .n = 10, .count = 2, .inputs = inputs, .adds = list.adds, .pairs = list.pairs, .output = a->device};
    assert_int_equal(ls_kernel_tree_add(0, &args), cudaErrorInvalidValue);
    expect_bits("input", a);
}

// What is not rounded is no BF16 number.
static void unrounded_halves_are_refused(void **unused)
{
    (void)unused;
    Array *a = array_of(LS_F32, 10);
    const void *inputs[1] = {a->device};
    LsTreeAdd args = {.n = 10, .count = 1, .inputs = inputs, .output = a->device, .output_type = LS_BF16};
    assert_int_equal(ls_kernel_tree_add(0, &args), cudaErrorInvalidValue);
    expect_bits("input", a);
}

// ---- Pieces ---------------------------------------------------------------------------------------------

enum { PIECES = 300 };

// More pieces than a launch holds, some of them empty.
static void squares_of_many_pieces(void **unused)
{
    (void)unused;
    LsSquaresPiece piece[PIECES];
    Array *x[PIECES], *sums[PIECES];
    for (size_t p = 0; p < PIECES; p++) {
        x[p] = array_of(LS_F32, draw(4) ? draw(60) : draw(2) ? 0 : draw(2 * LS_BLOCK + 3));
        sums[p] = array_of(LS_F32, (x[p]->count + LS_BLOCK - 1) / LS_BLOCK);
        piece[p] = (LsSquaresPiece){.n = x[p]->count, .x = x[p]->device, .sums = sums[p]->device};
    }
    REQUIRE(ls_kernel_block_squares(0, &(LsBlockSquares){PIECES, piece}));
    for (size_t p = 0; p < PIECES; p++) {
        fetch(sums[p]);
        for (size_t b = 0; b < sums[p]->count; b++) {
            double sum = 0;
            for (size_t i = b * LS_BLOCK; i < x[p]->count && i < (b + 1) * LS_BLOCK; i++)
                sum += (double)host_number(x[p], i) * host_number(x[p], i);
            // In float64 and then rounded once: half a unit in the last place, a little more where a tie is
            // near.
            expect_near("sum of squares", result_number(sums[p], b), sum, sum * 0x1.01p-24);
        }
    }
}

static void step_pieces(int kind, bool momentum, bool nesterov, LsDtype type)
{
    enum { MOST = 130 };
    LsOptimizerPiece device[MOST], host[MOST];
    enum { ARRAYS = 6 }; // master, gradient, moments, weights, average
    Array *array[MOST][ARRAYS];
    Array *kind_of = array_of(LS_U8, MOST), *ratio = array_of(LS_F32, MOST);
    for (size_t p = 0; p < MOST; p++)
        ((uint8_t *)kind_of->host)[p] = (uint8_t)draw(3); // LsBlockKind
    send(kind_of);
    size_t count = kind == LS_OPTIMIZER_ADAMW ? MOST : 3;
    LsStepControl control = {
        .learning_rate = 0.01f, .gradient_factor = 0.3f, .bias_correction1 = 0.4f, .bias_correction2 = 0.1f};
    void *on_device;
    REQUIRE(cudaMalloc(&on_device, sizeof control));
    REQUIRE(cudaMemcpy(on_device, &control, sizeof control, cudaMemcpyHostToDevice));
    for (size_t p = 0; p < count; p++) {
        size_t n = p % 3 ? LS_BLOCK * draw(2) : 0;
        bool has[ARRAYS] = {true, true, momentum, kind == LS_OPTIMIZER_ADAMW, draw(3) > 0, draw(2) > 0};
        for (int i = 0; i < ARRAYS; i++)
            array[p][i] = has[i] ? array_of(i == 4 ? type : LS_F32, n) : NULL;
        for (size_t i = 0; array[p][3] && i < n; i++) // second moments are not negative
            ((float *)array[p][3]->host)[i] = fabsf(host_number(array[p][3], i));
        if (array[p][3])
            send(array[p][3]);
#define PLACES(where)                                                                                        \
    {n, array[p][0]->where, array[p][1]->where, array[p][2] ? array[p][2]->where : NULL,                     \
        array[p][3] ? array[p][3]->where : NULL, array[p][4] ? array[p][4]->where : NULL,                    \
        (const uint8_t *)kind_of->where + p, array[p][5] ? array[p][5]->where : NULL,                        \
        kind == LS_OPTIMIZER_LARS ? (const float *)ratio->where + p : NULL}
        device[p] = (LsOptimizerPiece)PLACES(device);
        host[p] = (LsOptimizerPiece)PLACES(host);
#undef PLACES
    }
    LsOptimizerStep args = {.count = count,
        .piece = device,
        .kind = kind,
        .type = type,
        .momentum = 0.9f,
        .beta1 = 0.9f,
        .beta2 = 0.99f,
        .epsilon = 1e-6f,
        .weight_decay = 0.05f,
        .nesterov = nesterov,
        .statistics_rate = 0.1f,
        .average_rate = 0.01f,
        .control = on_device};
    REQUIRE(ls_kernel_optimizer_step(0, &args));
    args.piece = host;
    args.control = &control;
    require_ref(ls_ref_optimizer_step(NULL, &args));
    for (size_t p = 0; p < count; p++)
        for (int i = 0; i < ARRAYS; i++)
            if (array[p][i])
                expect_bits("optimizer's array", array[p][i]);
    REQUIRE(cudaFree(on_device));
    release_arrays(NULL);
}

static void optimizer_of_many_pieces(void **unused)
{
    (void)unused;
    step_pieces(LS_OPTIMIZER_ADAMW, true, false, draw_type());
    step_pieces(LS_OPTIMIZER_SGD, false, false, draw_type());
    step_pieces(LS_OPTIMIZER_SGD, true, false, draw_type());
    step_pieces(LS_OPTIMIZER_SGD, true, true, draw_type());
    step_pieces(LS_OPTIMIZER_LARS, true, false, draw_type());
}

// ---- Columns --------------------------------------------------------------------------------------------

static void check_bias_gradient(size_t rows, size_t columns)
{
    Array *dy = array_of(draw_type(), rows * columns), *db = array_of(LS_F32, columns);
    LsBiasGradient args = {rows, columns, dy->device, dy->type, db->device, draw(2)};
    Array *scratch = array_of(LS_F32, ls_kernel_bias_gradient_scratch(&args) / sizeof(float));
    shift_array(scratch, 0); // as memory from the device is
    REQUIRE(ls_kernel_bias_gradient(0, &args, scratch->device));
    fetch(db);
    fetch(scratch); // its guards
    for (size_t c = 0; c < columns; c++) {
        double sum = args.accumulate ? host_number(db, c) : 0, size = fabs(sum);
        for (size_t r = 0; r < rows; r++) {
            sum += host_number(dy, r * columns + c);
            size += fabs(host_number(dy, r * columns + c));
        }
        // Any order of `rows` additions in F32 is this near.
        expect_near("bias gradient", result_number(db, c), sum, (double)(rows + 1) * 0x1p-24 * size);
    }
    release_arrays(NULL);
}

static void bias_gradients_in_slices(void **unused)
{
    (void)unused;
    static const size_t shapes[][2] = {
        {0, 5}, {1, 1}, {5000, 1}, {700, 10}, {40, 64}, {600, 64}, {33, 1000}, {200, 257}, {3, 2500}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_bias_gradient(shapes[i][0], shapes[i][1]);
    for (int repeat = 0; repeat < 6; repeat++)
        check_bias_gradient(1 + draw(500), 1 + draw(120));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(trees_level_by_level, release_arrays),
        cmocka_unit_test_teardown(trees_depth_first, release_arrays),
        cmocka_unit_test_teardown(chains, release_arrays),
        cmocka_unit_test_teardown(any_list_of_additions, release_arrays),
        cmocka_unit_test_teardown(long_vectors, release_arrays),
        cmocka_unit_test_teardown(too_long_a_list_is_refused, release_arrays),
        cmocka_unit_test_teardown(unrounded_halves_are_refused, release_arrays),
        cmocka_unit_test_teardown(squares_of_many_pieces, release_arrays),
        cmocka_unit_test_teardown(optimizer_of_many_pieces, release_arrays),
        cmocka_unit_test_teardown(bias_gradients_in_slices, release_arrays),
    };
    return RUN_ON_GPU(tests);
}
