#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/rng.h"
#include "platforms.h"
#include "strict_device.h"

enum { PURPOSE = 999, TIMEOUT_SECONDS = 60 };

int __real_gethostname(char *name, size_t size);
int __wrap_gethostname(char *name, size_t size);

int __wrap_gethostname(char *name, size_t size)
{
    const char *each = getenv("RANKS_PER_HOST"), *number = getenv("OMPI_COMM_WORLD_RANK");
    if (!each || !number)
        return __real_gethostname(name, size);
    snprintf(name, size, "host-%ld", atol(number) / atol(each));
    return 0;
}

const Platform *platform;
LsComm *comm;
LsDevice *device;
uint32_t rank, ranks;

static LsMarker *seen; // in the compute stream

// ---- Host and device ------------------------------------------------------------------------------------

void *allocate(size_t bytes)
{
    void *memory;
    assert_int_equal(ls_memory_allocate(bytes, &memory), LS_OK);
    return memory;
}

void *allocate_on_device(size_t bytes)
{
    void *memory;
    assert_int_equal(ls_comm_allocate(comm, bytes, &memory), LS_OK);
    return memory;
}

void upload(void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        assert_int_equal(device->ops->copy_in(device, to, from, bytes), LS_OK);
}

void download(void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        assert_int_equal(device->ops->copy_out(device, to, from, bytes), LS_OK);
    assert_int_equal(device->ops->marker_record(device, seen), LS_OK);
    assert_int_equal(ls_comm_wait_marker(comm, seen, "a copy"), LS_OK);
}

void assert_on_device(const void *memory, const void *expected, size_t bytes)
{
    void *found = allocate(bytes);
    download(found, memory, bytes);
    assert_memory_equal(found, expected, bytes);
    free(found);
}

// ---- Devices --------------------------------------------------------------------------------------------

static LsStatus open_ref(LsDevice **out)
{
    LsDeviceOptions options = {.kind = LS_DEVICE_REF, .precision = LS_PRECISION_FP32, .threads = 1};
    return ls_device_open(&options, out);
}

static LsStatus open_cpu(LsDevice **out)
{
    LsDeviceOptions options = {.kind = LS_DEVICE_CPU, .precision = LS_PRECISION_FP32, .threads = 1};
    return ls_device_open(&options, out);
}

static const LsDeviceOps *strict_ops;

// Devices get ahead of each other: each rank has another pattern of places reached and not reached yet.
static LsStatus reached_at_last(LsDevice *on, LsMarker *marker, bool *reached)
{
    static uint64_t asked;
    *reached = false;
    if (ls_rng_u32(ls_rng_key(43, PURPOSE), rank, asked++) % 4 > 0)
        return LS_OK;
    return strict_ops->marker_reached(on, marker, reached);
}

static LsStatus open_strict(LsDevice **out)
{
    static LsDeviceOps ops;
    LS_TRY(ls_strict_device_open(LS_PRECISION_FP32, out));
    strict_ops = (*out)->ops;
    ops = *strict_ops;
    ops.marker_reached = reached_at_last;
    (*out)->ops = &ops;
    return LS_OK;
}

static LsStatus open_cuda(LsDevice **out)
{
    LsDeviceOptions options = {.kind = LS_DEVICE_CUDA,
        .precision = LS_PRECISION_FP32,
        .threads = 1,
        .local_rank = ls_comm_local_rank(comm)};
    return ls_device_open(&options, out);
}

static int attach(void **state)
{
    (void)state;
    if (platform->open(&device) != LS_OK || ls_comm_attach(comm, device, platform->transport) != LS_OK ||
        device->ops->marker_create(device, &seen) != LS_OK) {
        print_error("%s: %s\n", platform->name, ls_status_message());
        return 1;
    }
    return 0;
}

static int detach(void **state)
{
    (void)state;
    device->ops->marker_destroy(device, seen);
    ls_comm_detach(comm);
    ls_device_close(device);
    return 0;
}

// ---- The program ----------------------------------------------------------------------------------------

int run_on_platforms(int argc, char **argv, const struct CMUnitTest *tests, size_t count)
{
    LsCommOptions options = {.kind = LS_COMM_AUTO, .timeout = TIMEOUT_SECONDS};
    if (ls_comm_open(&options, &comm) != LS_OK) {
        print_error("%s\n", ls_status_message());
        return 1;
    }
    rank = (uint32_t)ls_comm_rank(comm);
    ranks = (uint32_t)ls_comm_size(comm);

    char text[512];
    int gpus;
    ls_device_gpus(text, sizeof text, &gpus);
    const char *shared = ls_comm_local_size(comm) < (int)ranks ? "shared+mpi" : "shared";
    // The first one's transport is the plainest: what the others' results are compared to.
    const Platform platforms[] = {
        {.name = "ref", .open = open_ref, .transport = LS_COMM_MPI},
        {.name = "strict", .open = open_strict, .transport = LS_COMM_MPI, .progress = true},
        {.name = "shared", .open = open_ref, .transport = LS_COMM_SHARED, .expected = shared},
        {.name = "auto", .open = open_cpu, .transport = LS_COMM_AUTO, .expected = shared, .progress = true},
        {.name = "cuda", .open = open_cuda, .transport = LS_COMM_MPI},
        {.name = "nccl", .open = open_cuda, .transport = LS_COMM_NCCL, .expected = "nccl"},
    };
    bool nccl = ls_comm_nccl_version()[0] != '\0' && gpus > 0 && (uint32_t)gpus >= ranks;
    int failed = 0;
    bool tested = false;
    for (int p = 0; p < (nccl ? 6 : gpus > 0 ? 5 : 4); p++) {
        platform = &platforms[p];
        if (argc > 1 && strcmp(argv[1], platform->name) != 0)
            continue;
        tested = true;
        failed += _cmocka_run_group_tests(platform->name, tests, count, attach, detach);
    }
    ls_comm_close(comm);
    return tested ? failed : 77; // skipped
}
