// The stand-in for NCCL (tests/emulator/nccl*.c) by itself, on as many ranks as the program is started with,
// each with an emulated GPU of its own: it moves and adds what it should, and refuses what the library does.
// Every rank runs the same tests in the same order and computes by itself what all must end with.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>
#include <math.h>
#include <mpi.h>
#include <nccl.h>
#include <stdlib.h>
#include <string.h>

enum { N = 1000, PATIENCE = 100000000 };

static int rank, ranks;
static cudaStream_t stream;
static ncclComm_t nccl;

// ---- Device memory --------------------------------------------------------------------------------------

static float *device_floats(size_t n)
{
    void *memory;
    assert_int_equal(cudaMalloc(&memory, n * sizeof(float)), cudaSuccess);
    return memory;
}

// Number i of what rank r contributes: of widely differing size, so that the order of additions shows.
static float value(int r, size_t i)
{
    uint32_t bits = ((uint32_t)i + 1) * 2654435761u ^ ((uint32_t)r + 1) * 2246822519u;
    bits ^= bits >> 15;
    bits *= 2654435761u;
    return ldexpf((float)(bits >> 8) * 0x1p-23f - 1.0f, (int)(bits & 15u));
}

static float *device_values(int r, size_t n)
{
    float *host = malloc(n * sizeof *host), *memory = device_floats(n);
    assert_non_null(host);
    for (size_t i = 0; i < n; i++)
        host[i] = value(r, i);
    assert_int_equal(
        cudaMemcpyAsync(memory, host, n * sizeof *host, cudaMemcpyHostToDevice, stream), cudaSuccess);
    free(host);
    return memory;
}

// Waits for the stream.
static float *download(const float *memory, size_t n)
{
    float *host = malloc(n * sizeof *host);
    assert_non_null(host);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    assert_int_equal(cudaMemcpy(host, memory, n * sizeof *host, cudaMemcpyDeviceToHost), cudaSuccess);
    return host;
}

static void assert_values(const float *memory, int from, size_t n)
{
    float *host = download(memory, n);
    for (size_t i = 0; i < n; i++)
        assert_true(host[i] == value(from, i));
    free(host);
}

// ---- Communicators --------------------------------------------------------------------------------------

static ncclResult_t settle(ncclComm_t comm)
{
    ncclResult_t state = ncclInProgress;
    for (int polls = 0; state == ncclInProgress && polls < PATIENCE; polls++)
        assert_int_equal(ncclCommGetAsyncError(comm, &state), ncclSuccess);
    return state;
}

static ncclResult_t begin_to_join(ncclComm_t *comm)
{
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    if (rank == 0)
        assert_int_equal(ncclGetUniqueId(&id), ncclSuccess);
    MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
    return ncclCommInitRankConfig(comm, ranks, id, rank, &config);
}

static void leave(ncclComm_t comm)
{
    assert_int_equal(ncclCommFinalize(comm), ncclInProgress);
    assert_int_equal(settle(comm), ncclSuccess);
    assert_int_equal(ncclCommDestroy(comm), ncclInProgress);
}

static void test_joining_takes_polls(void **state)
{
    (void)state;
    ncclComm_t comm;
    ncclResult_t found;
    float *memory = device_floats(1);
    assert_int_equal(begin_to_join(&comm), ncclInProgress);
    assert_int_equal(ncclAllGather(memory, memory, 0, ncclFloat, comm, stream), ncclInvalidArgument);
    assert_int_equal(ncclCommGetAsyncError(comm, &found), ncclSuccess);
    assert_int_equal(found, ncclInProgress);
    assert_int_equal(settle(comm), ncclSuccess);
    leave(comm);
    cudaFree(memory);
}

static void test_one_gpu_for_two_ranks_is_refused(void **state)
{
    (void)state;
    ncclComm_t comm;
    assert_int_equal(cudaSetDevice(0), cudaSuccess);
    assert_int_equal(begin_to_join(&comm), ncclInProgress);
    assert_int_equal(settle(comm), ranks == 1 ? ncclSuccess : ncclInvalidUsage);
    assert_int_equal(cudaSetDevice(rank), cudaSuccess);
    if (ranks > 1)
        assert_non_null(strstr(ncclGetLastError(comm), "one CUDA device"));
    assert_int_equal(ncclCommAbort(comm), ncclSuccess);
}

static void test_blocking_communicators_are_refused(void **state)
{
    (void)state;
    ncclComm_t comm = NULL;
    ncclUniqueId id = {{0}};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    assert_int_equal(ncclCommInitRankConfig(&comm, ranks, id, rank, &config), ncclInvalidArgument);
    assert_null(comm);
}

// ---- Groups ---------------------------------------------------------------------------------------------

static void test_what_the_library_refuses(void **state)
{
    (void)state;
    float host[1], *memory = device_floats(2);
    void *handle;
    assert_int_equal(ncclSend(host, 1, ncclFloat, 0, nccl, stream), ncclInvalidArgument);
    assert_int_equal(ncclRecv(memory + 1, 2, ncclFloat, 0, nccl, stream), ncclInvalidArgument);
    assert_int_equal(ncclRecv(memory, 1, ncclFloat, ranks, nccl, stream), ncclInvalidArgument);
    assert_int_equal(ncclRecv(memory, 1, ncclNumTypes, 0, nccl, stream), ncclInvalidArgument);
    assert_int_equal(ncclSend(memory, 1, ncclFloat, 0, NULL, stream), ncclInvalidArgument);
    assert_int_equal(ncclCommRegister(nccl, host, sizeof host, &handle), ncclInvalidArgument);
    assert_int_equal(ncclGroupEnd(), ncclInvalidUsage);
    cudaFree(memory);
}

// An open group of the caller leaves the group by itself alone, so the state of the communicator shows it.
static void test_nothing_starts_before_the_caller_has_polled(void **state)
{
    (void)state;
    float *mine = device_values(rank, N), *all = device_values(99, N * (size_t)ranks);
    assert_int_equal(ncclAllGather(mine, all, N, ncclFloat, nccl, stream), ncclInProgress);
    assert_int_equal(ncclAllGather(mine, all, N, ncclFloat, nccl, stream), ncclInvalidArgument);
    assert_values(all, 99, N * (size_t)ranks); // although the stream was waited for
    assert_int_equal(settle(nccl), ncclSuccess);
    for (int r = 0; r < ranks; r++)
        assert_values(all + (size_t)r * N, r, N);
    cudaFree(all);
    cudaFree(mine);
}

// Two messages to each rank, itself included, and all of them in flight at once.
static void test_messages_of_two_ranks_match_in_order(void **state)
{
    (void)state;
    size_t each = 2 * N;
    float *from = device_values(rank, each), *to = device_values(99, each * (size_t)ranks);
    assert_int_equal(ncclGroupStart(), ncclSuccess);
    for (int r = 0; r < ranks; r++) {
        float *place = to + (size_t)r * each;
        assert_int_equal(ncclRecv(place, N, ncclFloat, r, nccl, stream), ncclSuccess);
        assert_int_equal(ncclSend(from, N, ncclFloat, r, nccl, stream), ncclSuccess);
        assert_int_equal(ncclRecv(place + N, N, ncclFloat, r, nccl, stream), ncclSuccess);
        assert_int_equal(ncclSend(from + N, N, ncclFloat, r, nccl, stream), ncclSuccess);
    }
    assert_int_equal(ncclGroupEnd(), ncclInProgress);
    assert_int_equal(settle(nccl), ncclSuccess);
    for (int r = 0; r < ranks; r++)
        assert_values(to + (size_t)r * each, r, each);
    cudaFree(to);
    cudaFree(from);
}

static void test_broadcasts_of_all_in_one_group(void **state)
{
    (void)state;
    float *flat = device_values(99, N * (size_t)ranks), *mine = device_values(rank, N);
    assert_int_equal(
        cudaMemcpyAsync(flat + (size_t)rank * N, mine, N * sizeof(float), cudaMemcpyDeviceToDevice, stream),
        cudaSuccess);
    assert_int_equal(ncclGroupStart(), ncclSuccess);
    for (int r = 0; r < ranks; r++) {
        float *place = flat + (size_t)r * N;
        assert_int_equal(
            ncclBroadcast(place, place, N * sizeof(float), ncclUint8, r, nccl, stream), ncclSuccess);
    }
    assert_int_equal(ncclGroupEnd(), ncclInProgress);
    assert_int_equal(settle(nccl), ncclSuccess);
    for (int r = 0; r < ranks; r++)
        assert_values(flat + (size_t)r * N, r, N);
    cudaFree(mine);
    cudaFree(flat);
}

// ---- Sums -----------------------------------------------------------------------------------------------

// Around the ring, from the owner's right neighbour to the owner.
static float ring_sum(int owner, size_t i)
{
    float sum = value((owner + 1) % ranks, i);
    for (int step = 2; step <= ranks; step++)
        sum += value((owner + step) % ranks, i);
    return sum;
}

static void assert_ring_sums(const float *memory, int owner, size_t first)
{
    float *host = download(memory, N);
    for (size_t i = 0; i < N; i++)
        assert_true(host[i] == ring_sum(owner, first + i));
    free(host);
}

static void test_sums(void **state)
{
    (void)state;
    float *from = device_values(rank, N * (size_t)ranks), *piece = device_floats(N);
    assert_int_equal(ncclReduceScatter(from, piece, N, ncclFloat, ncclSum, nccl, stream), ncclInProgress);
    assert_int_equal(settle(nccl), ncclSuccess);
    assert_ring_sums(piece, rank, (size_t)rank * N);

    assert_int_equal(ncclGroupStart(), ncclSuccess);
    for (int r = 0; r < ranks; r++)
        assert_int_equal(ncclReduce(from + (size_t)r * N, r == rank ? piece : NULL, N, ncclFloat, ncclSum, r,
                             nccl, stream),
            ncclSuccess);
    assert_int_equal(ncclGroupEnd(), ncclInProgress);
    assert_int_equal(settle(nccl), ncclSuccess);
    assert_ring_sums(piece, rank, (size_t)rank * N);
    assert_int_equal(ncclAllReduce(from, from, N, ncclFloat, ncclSum, nccl, stream), ncclInProgress);
    assert_int_equal(settle(nccl), ncclSuccess);
    assert_ring_sums(from, 0, 0);
    assert_int_equal(
        ncclReduceScatter(from, piece, N, ncclBfloat16, ncclSum, nccl, stream), ncclInvalidArgument);
    cudaFree(piece);
    cudaFree(from);
}

// The ring's order is not that of the lane tree, so `fast` shows as other bits from three ranks on.
static void test_the_order_of_sums_shows(void **state)
{
    (void)state;
    int found = 0;
    for (size_t i = 0; i < N && ranks == 4; i++)
        found += ring_sum(0, i) != (value(0, i) + value(1, i)) + (value(2, i) + value(3, i));
    if (ranks == 4)
        assert_true(found > N / 10);
}

// ---- Leaving --------------------------------------------------------------------------------------------

// A receive that nobody sends to holds the stream up until the communicator is aborted.
static void test_abort_ends_what_is_under_way(void **state)
{
    (void)state;
    ncclComm_t comm;
    float *memory = device_values(99, N);
    assert_int_equal(begin_to_join(&comm), ncclInProgress);
    assert_int_equal(settle(comm), ncclSuccess);
    assert_int_equal(ncclRecv(memory, N, ncclFloat, (rank + 1) % ranks, comm, stream), ncclInProgress);
    assert_int_equal(settle(comm), ncclSuccess);
    assert_int_equal(cudaStreamQuery(stream), cudaErrorNotReady);
    assert_int_equal(cudaStreamQuery(stream), cudaErrorNotReady);
    assert_int_equal(ncclCommAbort(comm), ncclSuccess);
    assert_values(memory, 99, N);
    cudaFree(memory);
}

static void test_registered_memory(void **state)
{
    (void)state;
    void *handle = NULL;
    float *memory = device_floats(N);
    assert_int_equal(ncclCommRegister(nccl, memory, N * sizeof(float), &handle), ncclSuccess);
    assert_int_equal(ncclCommDeregister(nccl, handle), ncclSuccess);
    assert_int_equal(ncclCommDeregister(nccl, NULL), ncclSuccess);
    cudaFree(memory);
}

static int join(void **state)
{
    (void)state;
    return cudaSetDevice(rank) != cudaSuccess ||
           cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess ||
           begin_to_join(&nccl) != ncclInProgress || settle(nccl) != ncclSuccess;
}

static int leave_all(void **state)
{
    (void)state;
    leave(nccl);
    return cudaStreamDestroy(stream) != cudaSuccess;
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_joining_takes_polls),
        cmocka_unit_test(test_one_gpu_for_two_ranks_is_refused),
        cmocka_unit_test(test_blocking_communicators_are_refused),
        cmocka_unit_test(test_what_the_library_refuses),
        cmocka_unit_test(test_nothing_starts_before_the_caller_has_polled),
        cmocka_unit_test(test_messages_of_two_ranks_match_in_order),
        cmocka_unit_test(test_broadcasts_of_all_in_one_group),
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_the_order_of_sums_shows),
        cmocka_unit_test(test_registered_memory),
        cmocka_unit_test(test_abort_ends_what_is_under_way),
    };
    int failed = cmocka_run_group_tests(tests, join, leave_all);
    MPI_Finalize();
    return failed;
}
