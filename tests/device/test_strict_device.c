// The strict device catches what a GPU would not forgive.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "strict_device.h"

enum { ELEMENTS = 1000 };

static LsDevice *device;
static float *memory; // ELEMENTS floats on the device

static int open_device(void **unused)
{
    (void)unused;
    assert_int_equal(ls_strict_device_open(LS_PRECISION_FP32, &device), LS_OK);
    return device->ops->allocate(device, ELEMENTS * sizeof *memory, (void **)&memory) != LS_OK;
}

static int close_device(void **unused)
{
    (void)unused;
    ls_device_close(device);
    return 0;
}

// Runs `touch` in a child and says whether it died of a memory fault.
static bool faults(void (*touch)(void))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGSEGV, SIG_DFL); // sanitizers and cmocka catch it otherwise
        signal(SIGBUS, SIG_DFL);
        touch();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

static void host_read(void)
{
    volatile float value = memory[0];
    (void)value;
}

static void host_write(void)
{
    ((volatile float *)memory)[ELEMENTS - 1] = 1.0f;
}

static void read_behind(void)
{
    volatile float value = memory[ELEMENTS + 16]; // past the end and the rest of its last cache line
    (void)value;
}

static void use_after_free(void)
{
    device->ops->release(device, memory);
    host_read();
}

static void nothing(void)
{
}

static void host_access_faults(void **unused)
{
    (void)unused;
    assert_false(faults(nothing));
    assert_true(faults(host_read));
    assert_true(faults(host_write));
    assert_true(faults(read_behind));
    assert_true(faults(use_after_free));
}

static LsStatus scale(float *y)
{
    return device->ops->add(
        device, &(LsAdd){.n = ELEMENTS, .a = memory, .b = memory, .y = y, .type = LS_F32});
}

// Memory is closed again after an op, and after one that was refused.
static void memory_is_closed_after_an_op(void **unused)
{
    (void)unused;
    assert_int_equal(scale(memory), LS_OK);
    assert_true(faults(host_read));
    assert_int_equal(device->ops->zero(device, memory, 16), LS_OK);
    assert_true(faults(host_read));
    assert_int_equal(
        device->ops->cast(
            device, &(LsCast){.n = 1, .from = memory, .from_type = LS_U8, .to = memory, .to_type = LS_F32}),
        LS_UNSUPPORTED);
    assert_true(faults(host_read));
}

static void new_memory_is_nan(void **unused)
{
    (void)unused;
    float *fresh, host[8], *pinned;
    assert_int_equal(device->ops->allocate(device, sizeof host, (void **)&fresh), LS_OK);
    assert_int_equal(device->ops->copy_out(device, host, fresh, sizeof host), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
    for (int i = 0; i < 8; i++)
        assert_true(isnan(host[i]));
    assert_int_equal(device->ops->allocate_host(device, sizeof host, (void **)&pinned), LS_OK);
    for (int i = 0; i < 8; i++)
        assert_true(isnan(pinned[i]));
    device->ops->release_host(device, pinned);
    device->ops->release(device, fresh);
}

#define REFUSED(call, part)                                                                                  \
    do {                                                                                                     \
        assert_int_equal((call), LS_INTERNAL);                                                               \
        assert_non_null(strstr(ls_status_message(), part));                                                  \
    } while (0)

static void wrong_pointers_are_refused(void **unused)
{
    (void)unused;
    float host[ELEMENTS] = {0};
    float *gone, *small;
    assert_int_equal(device->ops->allocate(device, sizeof host, (void **)&gone), LS_OK);
    assert_int_equal(device->ops->allocate(device, sizeof host - 4, (void **)&small), LS_OK);
    device->ops->release(device, gone);
    REFUSED(scale(host), "y is not device memory");
    REFUSED(scale(gone), "y was released");
    REFUSED(scale(small), "y needs 4000 bytes and leaves its allocation of 3996");
    REFUSED(scale(memory + 1), "y needs");
    REFUSED(device->ops->copy_in(device, memory, small, 4), "the source is device memory");
    REFUSED(device->ops->copy_in(device, host, host, 4), "the destination is not device memory");
    REFUSED(device->ops->copy_out(device, memory, memory, 4), "the destination is device memory");
    REFUSED(device->ops->copy_out(device, host, host, 4), "the source is not device memory");
    REFUSED(device->ops->copy(device, memory, host, 4), "the source is not device memory");
    REFUSED(device->ops->zero(device, host, 4), "the destination is not device memory");
    device->ops->release(device, small);
}

static void index_beyond_the_words_is_refused(void **unused)
{
    (void)unused;
    uint32_t *index;
    LsStepOutcome *outcome;
    uint32_t host[2] = {0, ELEMENTS};
    assert_int_equal(device->ops->allocate(device, sizeof host, (void **)&index), LS_OK);
    assert_int_equal(device->ops->allocate(device, sizeof *outcome, (void **)&outcome), LS_OK);
    assert_int_equal(device->ops->copy_in(device, index, host, sizeof host), LS_OK);
    LsDecideStep args = {.lanes = 1,
        .blocks = 2,
        .words = memory,
        .lane_index = index,
        .block_index = index,
        .samples = 1,
        .outcome = outcome};
    REFUSED(device->ops->decide_step(device, &args), "words needs 4004 bytes");
    args.blocks = 1;
    args.ranks = 3;
    args.rank_words = ELEMENTS / 2;
    REFUSED(device->ops->decide_step(device, &args), "words needs 4024 bytes"); // the last rank's votes
    device->ops->release(device, index);
    device->ops->release(device, outcome);
}

// Results of a copy are not there before the device is synchronized.
static void copies_arrive_at_synchronize(void **unused)
{
    (void)unused;
    float host[4] = {1, 2, 3, 4}, back[4];
    assert_int_equal(device->ops->copy_in(device, memory, host, sizeof host), LS_OK);
    assert_int_equal(device->ops->copy_out(device, back, memory, sizeof back), LS_OK);
    assert_true(isnan(back[0]));
    assert_int_equal(device->ops->synchronize(device), LS_OK);
    assert_memory_equal(back, host, sizeof host);
}

static LsMarker *new_marker(void)
{
    LsMarker *marker;
    assert_int_equal(device->ops->marker_create(device, &marker), LS_OK);
    return marker;
}

static void start_copy_out(float *back)
{
    float four = 4;
    assert_int_equal(device->ops->copy_in(device, memory, &four, sizeof four), LS_OK);
    assert_int_equal(device->ops->copy_out(device, back, memory, sizeof four), LS_OK);
}

// A marker tells of copies before it in its stream, not of later ones.
static void copies_arrive_at_a_later_marker(void **unused)
{
    (void)unused;
    const LsDeviceOps *ops = device->ops;
    LsMarker *before = new_marker(), *after = new_marker();
    float back, second;
    assert_int_equal(ops->marker_record(device, before), LS_OK);
    start_copy_out(&back);
    assert_int_equal(ops->marker_record(device, after), LS_OK);
    start_copy_out(&second);
    assert_int_equal(ops->marker_synchronize(device, before), LS_OK);
    assert_true(isnan(back));
    assert_int_equal(ops->marker_synchronize(device, after), LS_OK);
    assert_true(back == 4 && isnan(second));
    assert_int_equal(ops->marker_record(device, after), LS_OK); // the newest place counts
    assert_int_equal(ops->marker_synchronize(device, after), LS_OK);
    assert_true(second == 4);
    ops->marker_destroy(device, before);
    ops->marker_destroy(device, after);
}

// Another stream's marker tells of a copy when that stream waited for it.
static void streams_order_themselves_by_markers(void **unused)
{
    (void)unused;
    const LsDeviceOps *ops = device->ops;
    LsMarker *copied = new_marker(), *computed = new_marker();
    float back;
    ops->select_stream(device, LS_STREAM_COPY);
    start_copy_out(&back);
    assert_int_equal(ops->marker_record(device, copied), LS_OK);
    ops->select_stream(device, LS_STREAM_COMPUTE);
    assert_int_equal(ops->marker_record(device, computed), LS_OK);
    assert_int_equal(ops->marker_synchronize(device, computed), LS_OK);
    assert_true(isnan(back));
    assert_int_equal(ops->marker_wait(device, copied), LS_OK);
    assert_int_equal(ops->marker_synchronize(device, computed), LS_OK);
    assert_true(isnan(back)); // the place recorded is before the wait
    assert_int_equal(ops->marker_record(device, computed), LS_OK);
    assert_int_equal(ops->marker_synchronize(device, computed), LS_OK);
    assert_true(back == 4);
    ops->marker_destroy(device, copied);
    ops->marker_destroy(device, computed);
}

static void a_marker_is_reached_when_asked_again(void **unused)
{
    (void)unused;
    const LsDeviceOps *ops = device->ops;
    LsMarker *marker = new_marker();
    bool reached = false;
    float back;
    assert_int_equal(ops->marker_reached(device, marker, &reached), LS_OK);
    assert_true(reached); // never recorded
    start_copy_out(&back);
    assert_int_equal(ops->marker_record(device, marker), LS_OK);
    assert_int_equal(ops->marker_reached(device, marker, &reached), LS_OK);
    assert_true(!reached && isnan(back));
    assert_int_equal(ops->marker_reached(device, marker, &reached), LS_OK);
    assert_true(reached && back == 4);
    ops->marker_destroy(device, marker);
    REFUSED(ops->marker_record(device, marker), "a marker is used that does not exist");
    ops->marker_destroy(device, NULL);
}

// A stream may write into pinned memory that its earlier copies have read; the host may not.
static void a_stream_orders_its_own_copies(void **unused)
{
    (void)unused;
    const LsDeviceOps *ops = device->ops;
    float *pinned;
    assert_int_equal(ops->allocate_host(device, 16, (void **)&pinned), LS_OK);
    pinned[0] = 1;
    assert_int_equal(ops->copy_in(device, memory, pinned, 16), LS_OK);
    assert_int_equal(ops->copy_out(device, pinned, memory, 16), LS_OK);
    assert_int_equal(ops->synchronize(device), LS_OK);
    assert_true(pinned[0] == 1);
    assert_int_equal(ops->copy_in(device, memory, pinned, 16), LS_OK);
    ops->select_stream(device, LS_STREAM_COPY); // knows nothing of the other stream's copy
    assert_int_equal(ops->copy_out(device, pinned, memory, 16), LS_OK);
    ops->select_stream(device, LS_STREAM_COMPUTE);
    REFUSED(ops->synchronize(device), "pinned host memory changed");
    ops->release_host(device, pinned);
}

static void changed_pinned_memory_is_refused(void **unused)
{
    (void)unused;
    float *pinned;
    assert_int_equal(device->ops->allocate_host(device, 16, (void **)&pinned), LS_OK);
    pinned[0] = 1;
    assert_int_equal(device->ops->copy_in(device, memory, pinned, 16), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
    assert_int_equal(device->ops->copy_in(device, memory, pinned, 16), LS_OK);
    pinned[0] = 2;
    REFUSED(device->ops->synchronize(device), "pinned host memory changed");
    device->ops->release_host(device, pinned);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_access_faults),
        cmocka_unit_test(memory_is_closed_after_an_op),
        cmocka_unit_test(new_memory_is_nan),
        cmocka_unit_test(wrong_pointers_are_refused),
        cmocka_unit_test(index_beyond_the_words_is_refused),
        cmocka_unit_test(copies_arrive_at_synchronize),
        cmocka_unit_test(copies_arrive_at_a_later_marker),
        cmocka_unit_test(streams_order_themselves_by_markers),
        cmocka_unit_test(a_marker_is_reached_when_asked_again),
        cmocka_unit_test(a_stream_orders_its_own_copies),
        cmocka_unit_test(changed_pinned_memory_is_refused),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
