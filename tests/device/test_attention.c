// Attention on every device: the first query that is asked for, what may influence what, where NaN goes, and
// recording in a graph. What it computes is tested with the op cases, its gradient with finite differences.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device_group.h"

#define REQUIRE(call) require((call), #call, __LINE__)
static void require(LsStatus status, const char *call, int line)
{
    if (status != LS_OK)
        fail_msg("line %d: %s: %s", line, call, ls_status_message());
}

// ---- A call and its memory ------------------------------------------------------------------------------

typedef struct Shape {
    size_t windows, window, heads, size;
    LsDtype type;
} Shape;

enum { QKV, OUT, DOUT, DQKV, LOG_SUM, SCRATCH, BUFFERS };

// Buffers of both passes in the device's memory, and what the host last wrote or read.
typedef struct Call {
    LsDevice *device;
    Shape shape;
    size_t bytes[BUFFERS];
    void *memory[BUFFERS], *host[BUFFERS];
} Call;

static size_t rows_of(const Shape *shape)
{
    return shape->windows * shape->window;
}

static size_t width_of(const Shape *shape)
{
    return shape->heads * shape->size;
}

static void put(const Call *call, int buffer, size_t i, float value)
{
    if (call->shape.type == LS_F32)
        ((float *)call->host[buffer])[i] = value;
    else
        ((uint16_t *)call->host[buffer])[i] =
            call->shape.type == LS_BF16 ? ls_f32_to_bf16(value) : ls_f32_to_f16(value);
}

static float get(const Call *call, int buffer, size_t i)
{
    if (call->shape.type == LS_F32)
        return ((float *)call->host[buffer])[i];
    uint16_t bits = ((uint16_t *)call->host[buffer])[i];
    return call->shape.type == LS_BF16 ? ls_bf16_to_f32(bits) : ls_f16_to_f32(bits);
}

static void fill(const Call *call, int buffer, size_t n)
{
    LsRngKey key = ls_rng_key(21, (uint32_t)buffer + 1);
    for (size_t i = 0; i < n; i++)
        put(call, buffer, i, ls_rng_normal(key, 0, i));
}

static void open_call(LsDevice *device, Shape shape, Call *call)
{
    size_t plain = rows_of(&shape) * width_of(&shape), element = ls_dtype_size(shape.type);
    *call = (Call){.device = device,
        .shape = shape,
        .bytes = {3 * plain * element, plain * element, plain * element, 3 * plain * element,
            rows_of(&shape) * shape.heads * sizeof(float),
            ls_attention_scratch(shape.windows, shape.window, shape.heads, shape.size)}};
    for (int i = 0; i < BUFFERS; i++) {
        REQUIRE(device->ops->allocate(device, call->bytes[i], &call->memory[i]));
        call->host[i] = calloc(1, call->bytes[i]);
        assert_non_null(call->host[i]);
    }
    fill(call, QKV, 3 * plain);
    fill(call, DOUT, plain);
}

static void close_call(Call *call)
{
    for (int i = 0; i < BUFFERS; i++) {
        call->device->ops->release(call->device, call->memory[i]);
        free(call->host[i]);
    }
}

static void copy_in(const Call *call)
{
    for (int i = 0; i < BUFFERS; i++)
        REQUIRE(call->device->ops->copy_in(call->device, call->memory[i], call->host[i], call->bytes[i]));
}

static void copy_out(const Call *call)
{
    for (int i = 0; i < BUFFERS; i++)
        REQUIRE(call->device->ops->copy_out(call->device, call->host[i], call->memory[i], call->bytes[i]));
    REQUIRE(call->device->ops->synchronize(call->device));
}

static LsStatus forward(const Call *call, size_t first)
{
    const Shape *shape = &call->shape;
    LsAttention args = {.windows = shape->windows,
        .window = shape->window,
        .heads = shape->heads,
        .size = shape->size,
        .first = first,
        .qkv = call->memory[QKV],
        .out = call->memory[OUT],
        .log_sum = call->memory[LOG_SUM],
        .type = shape->type};
    return call->device->ops->attention(call->device, &args);
}

static LsStatus backward(const Call *call)
{
    const Shape *shape = &call->shape;
    LsAttentionBackward args = {.windows = shape->windows,
        .window = shape->window,
        .heads = shape->heads,
        .size = shape->size,
        .qkv = call->memory[QKV],
        .out = call->memory[OUT],
        .dout = call->memory[DOUT],
        .log_sum = call->memory[LOG_SUM],
        .dqkv = call->memory[DQKV],
        .type = shape->type,
        .scratch = call->memory[SCRATCH]};
    return call->device->ops->attention_backward(call->device, &args);
}

static void run(const Call *call)
{
    copy_in(call);
    REQUIRE(forward(call, 0));
    REQUIRE(backward(call));
    copy_out(call);
}

// The cpu device has no products in BF16 without AVX-512.
static bool has_products(LsDevice *device, LsDtype type)
{
    Call call;
    open_call(device, (Shape){1, 1, 1, 1, type}, &call);
    copy_in(&call);
    LsStatus status = forward(&call, 0);
    REQUIRE(device->ops->synchronize(device));
    close_call(&call);
    assert_true(status == LS_OK || status == LS_UNSUPPORTED);
    return status == LS_OK;
}

// Element i of a head's row in out (parts 1) or in one part of qkv (parts 3).
static size_t place(const Shape *shape, size_t parts, size_t part, size_t row, size_t head, size_t i)
{
    return ((row * parts + part) * shape->heads + head) * shape->size + i;
}

// ---- The first query ------------------------------------------------------------------------------------

enum { UNTOUCHED = 77 };

static void put_untouched(const Call *call)
{
    for (size_t i = 0; i < rows_of(&call->shape) * width_of(&call->shape); i++)
        put(call, OUT, i, UNTOUCHED);
    for (size_t i = 0; i < rows_of(&call->shape) * call->shape.heads; i++)
        ((float *)call->host[LOG_SUM])[i] = UNTOUCHED;
}

static void assert_near(float got, float wanted, float tolerance)
{
    if (!(fabsf(got - wanted) <= tolerance * (1 + fabsf(wanted))))
        fail_msg("%.9g is not within %.3g of %.9g", got, tolerance, wanted);
}

static void check_first(const Call *part, const Call *whole, size_t first)
{
    const Shape *shape = &part->shape;
    // Rounded weights and results; F32: sums of up to 150 terms, a few units each.
    float tolerance = shape->type == LS_F32 ? 1e-5f : shape->type == LS_BF16 ? 0x1p-7f : 0x1p-10f;
    // The cpu device computes a few rows by other loops.
    if (strcmp(part->device->ops->name, "cpu") != 0)
        tolerance = 0;
    for (size_t i = 0; i < rows_of(shape) * width_of(shape); i++)
        if (i / width_of(shape) % shape->window < first)
            assert_true(get(part, OUT, i) == UNTOUCHED);
        else
            assert_near(get(part, OUT, i), get(whole, OUT, i), tolerance);
    for (size_t i = 0; i < rows_of(shape) * shape->heads; i++)
        if (i % shape->window < first)
            assert_true(((float *)part->host[LOG_SUM])[i] == UNTOUCHED);
        else
            assert_near(((float *)part->host[LOG_SUM])[i], ((float *)whole->host[LOG_SUM])[i],
                shape->type == LS_F32 ? tolerance : tolerance / 16);
}

static void rows_before_the_first_are_left_alone(void **unused)
{
    (void)unused;
    static const LsDtype types[] = {LS_F32, LS_BF16, LS_F16};
    static const size_t firsts[] = {0, 1, 63, 64, 100, 131, 145, 149, 150};
    for (int d = 0; d < device_count; d++)
        for (size_t t = 0; t < 3; t++) {
            Call whole, part;
            Shape shape = {2, 150, 2, 37, types[t]};
            if (!has_products(devices[d], shape.type))
                continue;
            open_call(devices[d], shape, &whole);
            open_call(devices[d], shape, &part);
            copy_in(&whole);
            REQUIRE(forward(&whole, 0));
            copy_out(&whole);
            for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {
                put_untouched(&part);
                copy_in(&part);
                REQUIRE(forward(&part, firsts[i]));
                copy_out(&part);
                check_first(&part, &whole, firsts[i]);
            }
            close_call(&whole);
            close_call(&part);
        }
}

// ---- Who influences whom --------------------------------------------------------------------------------

static const Shape shapes[] = {{3, 70, 2, 20, LS_F32}, {3, 131, 2, 64, LS_BF16}, {3, 70, 2, 130, LS_F16}};

// Runs the check on each device for each shape.
static void on_shapes(void (*check)(LsDevice *device, Shape shape))
{
    for (int d = 0; d < device_count; d++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            if (has_products(devices[d], shapes[i].type))
                check(devices[d], shapes[i]);
}

static void check_windows(LsDevice *device, Shape shape)
{
    Call all, one;
    Shape alone = shape;
    alone.windows = 1;
    open_call(device, shape, &all);
    open_call(device, alone, &one);
    run(&all);
    for (size_t w = 0; w < shape.windows; w++) {
        memcpy(one.host[QKV], (char *)all.host[QKV] + w * one.bytes[QKV], one.bytes[QKV]);
        memcpy(one.host[DOUT], (char *)all.host[DOUT] + w * one.bytes[DOUT], one.bytes[DOUT]);
        run(&one);
        for (int i = OUT; i < SCRATCH; i++)
            assert_memory_equal(one.host[i], (char *)all.host[i] + w * one.bytes[i], one.bytes[i]);
    }
    close_call(&all);
    close_call(&one);
}

static void windows_are_independent(void **unused)
{
    (void)unused;
    on_shapes(check_windows);
}

static void check_past(LsDevice *device, Shape shape)
{
    Call one, other;
    size_t row = width_of(&shape) * ls_dtype_size(shape.type), token = shape.window / 2;
    open_call(device, shape, &one);
    open_call(device, shape, &other);
    for (size_t i = 0; i < 3 * width_of(&shape); i++)
        put(&other, QKV, 3 * token * width_of(&shape) + i, 5);
    run(&one);
    run(&other);
    assert_memory_equal(one.host[OUT], other.host[OUT], token * row);
    const char *a = one.host[OUT], *b = other.host[OUT];
    for (size_t t = token; t < shape.window; t++)
        assert_memory_not_equal(a + t * row, b + t * row, row);
    assert_memory_equal(
        a + shape.window * row, b + shape.window * row, (shape.windows - 1) * shape.window * row);
    close_call(&one);
    close_call(&other);
}

static void a_token_sees_nothing_behind_it(void **unused)
{
    (void)unused;
    on_shapes(check_past);
}

// ---- NaN ------------------------------------------------------------------------------------------------

enum { TILE = 64 }; // the largest number of rows within which NaN may spread to those that do not see it

typedef struct Reach {
    int buffer;
    size_t parts, part;
    size_t begin, end; // rows of the first window that are NaN in all, or in one, of a head's columns
    bool all_columns;
} Reach;

static void assert_nan(const Call *call, const Reach *reach, size_t head, size_t column)
{
    for (size_t row = reach->begin; row < reach->end; row++)
        for (size_t i = 0; i < call->shape.size; i++)
            if (reach->all_columns || i == column)
                assert_true(isnan(
                    get(call, reach->buffer, place(&call->shape, reach->parts, reach->part, row, head, i))));
}

// Nothing of other heads and windows is NaN.
static void assert_contained(const Call *call, const Reach *reach, size_t head)
{
    for (size_t row = 0; row < rows_of(&call->shape); row++)
        for (size_t h = 0; h < call->shape.heads; h++)
            for (size_t i = 0; i < call->shape.size && (row >= call->shape.window || h != head); i++)
                assert_false(isnan(
                    get(call, reach->buffer, place(&call->shape, reach->parts, reach->part, row, h, i))));
}

static void check_reach(const Call *call, const Reach *reach, size_t count, size_t head, size_t column)
{
    run(call);
    for (size_t i = 0; i < count; i++) {
        assert_nan(call, &reach[i], head, column);
        assert_contained(call, &reach[i], head);
    }
}

// One NaN at a time, in a row of the last tile.
static void check_nan(LsDevice *device, Shape shape)
{
    size_t token = shape.window - 3, head = 1, column = shape.size - 1, end = shape.window;
    const Reach of_q[] = {{OUT, 1, 0, token, token + 1, true}, {DQKV, 3, 0, token, token + 1, true},
        {DQKV, 3, 1, 0, token + 1, true}, {DQKV, 3, 2, 0, token + 1, true}};
    const Reach of_k[] = {{OUT, 1, 0, token, end, true}, {DQKV, 3, 0, token, end, true},
        {DQKV, 3, 1, token, token + 1, true}, {DQKV, 3, 2, token, token + 1, true}};
    const Reach of_v[] = {
        {OUT, 1, 0, token, end, false}, {DQKV, 3, 0, token, end, true}, {DQKV, 3, 1, token, token + 1, true}};
    const Reach of_dout[] = {{DQKV, 3, 0, token, token + 1, true}, {DQKV, 3, 1, 0, token + 1, true},
        {DQKV, 3, 2, 0, token + 1, false}};
    const Reach *reach[] = {of_q, of_k, of_v, of_dout};
    static const size_t counts[] = {4, 4, 3, 3};
    for (size_t part = 0; part < 4; part++) {
        Call call;
        open_call(device, shape, &call);
        if (part < 3)
            put(&call, QKV, place(&shape, 3, part, token, head, column), NAN);
        else
            put(&call, DOUT, place(&shape, 1, 0, token, head, column), NAN);
        check_reach(&call, reach[part], counts[part], head, column);
        for (size_t i = 0; i < token / TILE * TILE * width_of(&shape); i++)
            assert_false(isnan(get(&call, OUT, i)));
        close_call(&call);
    }
}

static void nan_reaches_what_sees_it(void **unused)
{
    (void)unused;
    on_shapes(check_nan);
}

// ---- Graphs ---------------------------------------------------------------------------------------------

// Shapes whose tiles need more shared memory than a kernel has without asking are among them.
static void a_graph_gives_the_same_bits(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes && devices[d]->discrete; i++) {
            LsDevice *device = devices[d];
            LsGraph *graph;
            Call plain, recorded;
            open_call(device, shapes[i], &plain);
            open_call(device, shapes[i], &recorded);
            run(&plain);
            copy_in(&recorded);
            REQUIRE(device->ops->synchronize(device));
            REQUIRE(device->ops->capture_begin(device));
            REQUIRE(forward(&recorded, 0));
            REQUIRE(backward(&recorded));
            REQUIRE(device->ops->capture_end(device, &graph));
            REQUIRE(device->ops->graph_launch(device, graph));
            copy_out(&recorded);
            for (int b = OUT; b < SCRATCH; b++)
                assert_memory_equal(plain.host[b], recorded.host[b], plain.bytes[b]);
            device->ops->graph_destroy(device, graph);
            close_call(&plain);
            close_call(&recorded);
        }
}

// What plans for GPUs count: as many windows at once as divide into all of them and fit into 255 of the 256
// MiB, and nothing where our own kernels work. It takes no time, however many windows there are.
static void the_librarys_memory_is_known_beforehand(void **unused)
{
    (void)unused;
    const size_t window = 12 * (1024 * 1024 * 2 + 1024 * 4), rest = 1 << 20;
    static const struct {
        size_t windows, at_once;
    } cases[] = {{1, 1}, {10, 10}, {11, 1}, {12, 6}, {64, 8}, {SIZE_MAX / 10 * 10, 10}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(ls_attention_library_bytes(cases[i].windows, 1024, 12, 64, LS_BF16),
            cases[i].at_once * window + rest);
    // A window of 130 tokens takes the scores of 256.
    assert_int_equal(ls_attention_library_bytes(1, 130, 1, 8, LS_F16), 256 * 256 * 2 + 130 * 4 + rest);
    assert_int_equal(ls_attention_library_bytes(64, 1024, 12, 64, LS_F32), 0);
    assert_int_equal(ls_attention_library_bytes(64, 1024, 12, 65, LS_BF16), 0);
    assert_int_equal(ls_attention_library_bytes(64, 1024, 12, 136, LS_BF16), 0);
    assert_int_equal(ls_attention_library_bytes(64, 1, 12, 64, LS_BF16), 0);
    assert_int_equal(ls_attention_library_bytes(64, 4096, 12, 64, LS_BF16), 0); // 384 MiB a window
    assert_int_equal(ls_attention_library_bytes(64, SIZE_MAX / 4, 12, 64, LS_BF16), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_before_the_first_are_left_alone),
        cmocka_unit_test(windows_are_independent),
        cmocka_unit_test(a_token_sees_nothing_behind_it),
        cmocka_unit_test(nan_reaches_what_sees_it),
        cmocka_unit_test(a_graph_gives_the_same_bits),
        cmocka_unit_test(the_librarys_memory_is_known_beforehand),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
