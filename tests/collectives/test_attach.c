// What ls_comm_attach chooses, and refuses, on however many ranks the program is started with.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "collectives/comm.h"

enum { LANES = 8, TIMEOUT_SECONDS = 60 };

static LsComm *comm;
static uint32_t rank, ranks;

static LsDevice *open_device(LsDeviceKind kind)
{
    LsDevice *device;
    LsDeviceOptions options = {
        .kind = kind, .precision = LS_PRECISION_FP32, .threads = 1, .local_rank = ls_comm_local_rank(comm)};
    assert_int_equal(ls_device_open(&options, &device), LS_OK);
    return device;
}

// A single rank needs no transport, so it asks for nothing that is not there.
static void test_nccl_needs_a_gpu(void **state)
{
    (void)state;
    LsDevice *host = open_device(LS_DEVICE_REF);
    assert_int_equal(ls_comm_attach(comm, host, LS_COMM_NCCL), ranks == 1 ? LS_OK : LS_UNAVAILABLE);
    if (ranks > 1)
        assert_non_null(strstr(ls_status_message(), "collectives.backend"));
    ls_comm_detach(comm);
    ls_device_close(host);
}

// Ranks of one machine share memory unless told to do otherwise.
static void test_ranks_of_one_host(void **state)
{
    (void)state;
    const char *alone = ls_comm_launched() ? "mpi" : "self";
    const struct {
        LsCommKind kind;
        const char *name;
    } cases[] = {{LS_COMM_AUTO, "shared"}, {LS_COMM_SHARED, "shared"}, {LS_COMM_MPI, "mpi"}};
    LsDevice *host = open_device(LS_DEVICE_REF);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(ls_comm_attach(comm, host, (int)cases[i].kind), LS_OK);
        assert_string_equal(ls_comm_name(comm), ranks > 1 ? cases[i].name : alone);
        ls_comm_detach(comm);
    }
    ls_device_close(host);
}

static void test_nothing_works_without_a_device(void **state)
{
    (void)state;
    char memory[8];
    void *other;
    LsBuckets buckets = {0};
    LsPlan plan;
    LsReducer *reducer;
    assert_int_equal(ls_comm_allocate(comm, 8, &other), LS_INTERNAL);
    assert_int_equal(ls_comm_gather_device(comm, memory, memory, 8), LS_INTERNAL);
    assert_int_equal(ls_comm_gather_shards(comm, &buckets, memory, 4), LS_INTERNAL);
    assert_int_equal(ls_plan_compile(LANES, ranks, rank, &plan), LS_OK);
    assert_int_equal(ls_reducer_create(comm, &(LsReducerOptions){.plan = &plan}, &reducer), LS_INTERNAL);
    ls_plan_free(&plan);
    ls_comm_detach(comm); // nothing to do
}

// More ranks than GPUs share them, which NCCL does not take; `auto` then uses MPI.
static void test_ranks_that_share_a_gpu(void **state)
{
    (void)state;
    char text[512];
    int gpus;
    ls_device_gpus(text, sizeof text, &gpus);
    if (gpus < 1 || (uint32_t)gpus >= ranks || ls_comm_nccl_version()[0] == '\0')
        skip();
    LsDevice *gpu = open_device(LS_DEVICE_CUDA);
    snprintf(text, sizeof text, "ranks 0 and %d on %s share ", gpus, ls_comm_host(comm));
    assert_int_equal(ls_comm_attach(comm, gpu, LS_COMM_NCCL), LS_CONFIG);
    assert_non_null(strstr(ls_status_message(), text));
    assert_non_null(strstr(ls_status_message(), "set collectives.backend to mpi"));
    assert_int_equal(ls_comm_attach(comm, gpu, LS_COMM_AUTO), LS_OK);
    assert_string_equal(ls_comm_name(comm), "mpi");
    ls_comm_detach(comm);
    ls_device_close(gpu);
}

static int open_comm(void **state)
{
    (void)state;
    LsCommOptions options = {.kind = LS_COMM_AUTO, .timeout = TIMEOUT_SECONDS};
    if (ls_comm_open(&options, &comm) != LS_OK) {
        print_error("%s\n", ls_status_message());
        return 1;
    }
    rank = (uint32_t)ls_comm_rank(comm);
    ranks = (uint32_t)ls_comm_size(comm);
    return 0;
}

static int close_comm(void **state)
{
    (void)state;
    ls_comm_close(comm);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nccl_needs_a_gpu),
        cmocka_unit_test(test_ranks_of_one_host),
        cmocka_unit_test(test_nothing_works_without_a_device),
        cmocka_unit_test(test_ranks_that_share_a_gpu),
    };
    return cmocka_run_group_tests(tests, open_comm, close_comm);
}
