// Memory of the communicator, gathers of shards and words, and the library's own calls, on every device and
// transport.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "device/tensor.h"
#include "platforms.h"

enum { ROUNDS = 3 };

static void test_attaching_twice_is_refused(void **state)
{
    (void)state;
    const char *alone = ls_comm_launched() ? "mpi" : "self";
    assert_string_equal(ls_comm_name(comm), ranks > 1 && platform->expected ? platform->expected : alone);
    assert_int_equal(ls_comm_attach(comm, device, LS_COMM_MPI), LS_INTERNAL);
}

static void test_new_memory_is_zero(void **state)
{
    (void)state;
    enum { BYTES = 70001 };
    char *memory = allocate_on_device(BYTES), *zeros = allocate(BYTES);
    assert_on_device(memory, zeros, BYTES);
    free(zeros);
    ls_comm_release(comm, memory);
    ls_comm_release(comm, NULL);
}

static uint8_t shard_byte(size_t i, size_t block, int round)
{
    return (uint8_t)(i / block * 3 + i % 11 + (size_t)round * 101);
}

// The start of `flat` is used while the rest may be on its way.
static void use_what_is_there(const uint8_t *flat, const uint8_t *expected, size_t blocks, size_t block)
{
    for (size_t end = 0; end < blocks; end += 7) {
        assert_int_equal(ls_comm_gather_upto(comm, end * LS_BLOCK), LS_OK);
        assert_on_device(flat, expected, end * block);
    }
    assert_int_equal(ls_comm_gather_end(comm), LS_OK);
    assert_false(ls_comm_gathers(comm));
    assert_int_equal(ls_comm_gather_upto(comm, 1), LS_OK); // of none
}

// One byte pattern for each block and byte of an element. goes_on: it is not waited for as a whole.
static void gather_elements(size_t element, bool goes_on)
{
    LsBuckets buckets;
    size_t blocks = 41, block = LS_BLOCK * element, bytes = blocks * block;
    uint8_t *mine = allocate(bytes), *expected = allocate(bytes), *flat = allocate_on_device(bytes);
    assert_int_equal(ls_buckets_create(blocks, 6 * LS_BLOCK * sizeof(float), &buckets), LS_OK);
    for (int round = 0; round < ROUNDS; round++) {
        memset(mine, 0xee, bytes);
        for (size_t i = 0; i < bytes; i++)
            expected[i] = shard_byte(i, block, round);
        for (size_t b = 0; b < buckets.count; b++) {
            LsBlockRange piece = ls_bucket_piece(&buckets, b, ranks, rank);
            memcpy(mine + piece.first * block, expected + piece.first * block, piece.count * block);
        }
        upload(flat, mine, bytes);
        if (goes_on) {
            assert_int_equal(ls_comm_gather_begin(comm, &buckets, flat, element), LS_OK);
            if (ls_comm_gathers(comm)) // one at a time
                assert_int_equal(ls_comm_gather_begin(comm, &buckets, flat, element), LS_INTERNAL);
            if (round % 2)
                use_what_is_there(flat, expected, blocks, block);
            else
                assert_int_equal(ls_comm_drain(comm), LS_OK);
        } else {
            assert_int_equal(ls_comm_gather_shards(comm, &buckets, flat, element), LS_OK);
        }
        if (round > 0) // the first time the next upload comes without the host having waited
            assert_on_device(flat, expected, bytes);
    }
    ls_buckets_free(&buckets);
    ls_comm_release(comm, flat);
    free(expected);
    free(mine);
}

static void test_gather_shards(void **state)
{
    (void)state;
    gather_elements(2, false);
    gather_elements(4, false);
    gather_elements(1, false);
    gather_elements(8, false);
}

static void test_gather_goes_on(void **state)
{
    (void)state;
    gather_elements(2, true);
    gather_elements(4, true);
}

// Each rank writes nothing but its shard, into what may be one memory for all.
static void test_gather_shards_of_common_memory(void **state)
{
    (void)state;
    LsBuckets buckets;
    size_t blocks = 41, elements = blocks * LS_BLOCK;
    float *expected = allocate(elements * sizeof *expected);
    void *memory = NULL;
    assert_int_equal(ls_comm_allocate_common(comm, elements * sizeof(float), &memory), LS_OK);
    float *flat = memory;
    assert_on_device(flat, expected, elements * sizeof(float)); // zeros
    assert_int_equal(ls_buckets_create(blocks, 6 * LS_BLOCK * sizeof(float), &buckets), LS_OK);
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < elements; i++)
            expected[i] = (float)(i * 7 + (size_t)round);
        assert_int_equal(ls_comm_barrier(comm), LS_OK);
        for (size_t b = 0; b < buckets.count; b++) {
            LsBlockRange piece = ls_bucket_piece(&buckets, b, ranks, rank);
            size_t first = piece.first * LS_BLOCK;
            upload(flat + first, expected + first, piece.count * LS_BLOCK * sizeof(float));
        }
        if (round % 2) {
            assert_int_equal(ls_comm_gather_begin(comm, &buckets, flat, sizeof(float)), LS_OK);
            assert_int_equal(ls_comm_gather_upto(comm, 1), LS_OK);
            assert_on_device(flat, expected, sizeof(float));
            assert_int_equal(ls_comm_gather_end(comm), LS_OK);
        } else {
            assert_int_equal(ls_comm_gather_shards(comm, &buckets, flat, sizeof(float)), LS_OK);
        }
        assert_on_device(flat, expected, elements * sizeof(float));
    }
    ls_buckets_free(&buckets);
    ls_comm_release(comm, flat);
    free(expected);
}

static void gather_bytes(size_t bytes, bool in_place)
{
    size_t total = bytes * ranks;
    uint8_t *expected = allocate(total), *all = allocate_on_device(total), *apart = allocate_on_device(bytes);
    uint8_t *mine = in_place ? all + bytes * rank : apart;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < total; i++)
            expected[i] = (uint8_t)(i * 13 + (i >> 8) + i / bytes * 31 + round * 7);
        upload(mine, expected + bytes * rank, bytes);
        assert_int_equal(ls_comm_gather_device(comm, mine, all, bytes), LS_OK);
        if (round > 0)
            assert_on_device(all, expected, total);
    }
    ls_comm_release(comm, apart);
    ls_comm_release(comm, all);
    free(expected);
}

static void test_gather_device(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 100, 70001, 3};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        gather_bytes(sizes[i], false);
        gather_bytes(sizes[i], true);
    }
    char *memory = allocate_on_device(1);
    assert_int_equal(ls_comm_gather_device(comm, memory, memory, 0), LS_OK);
    ls_comm_release(comm, memory);
}
// ---- The library's own ----------------------------------------------------------------------------------

// Small whole numbers: their sums are the same in any order.
static void test_library_calls(void **state)
{
    (void)state;
    size_t n = 1000 * ranks, bytes = n * sizeof(float);
    float *host = allocate(bytes * ranks), *from = allocate_on_device(bytes);
    float *to = allocate_on_device(bytes * ranks);
    for (size_t i = 0; i < n; i++)
        host[i] = (float)(i % 50 + rank);
    upload(from, host, bytes);
    for (size_t i = 0; i < n * ranks; i++)
        host[i] = (float)(i % n % 50 + i / n);
    assert_int_equal(ls_comm_library(comm, LS_LIBRARY_ALL_GATHER, from, to, n), LS_OK);
    assert_on_device(to, host, bytes * ranks);
    for (size_t i = 0; i < n; i++)
        host[i] = (float)(i % 50 * ranks + ranks * (ranks - 1) / 2);
    assert_int_equal(ls_comm_library(comm, LS_LIBRARY_REDUCE_SCATTER, from, to, n), LS_OK);
    assert_on_device(to, host + rank * 1000, 1000 * sizeof(float));
    assert_int_equal(ls_comm_library(comm, LS_LIBRARY_ALL_REDUCE, from, to, n), LS_OK);
    assert_on_device(to, host, bytes);
    assert_int_equal(ls_comm_library(comm, LS_LIBRARY_ALL_REDUCE, from, from, n), LS_OK);
    assert_on_device(from, host, bytes);
    assert_int_equal(
        ls_comm_library(comm, LS_LIBRARY_REDUCE_SCATTER, from, to, 1), ranks == 1 ? LS_OK : LS_CONFIG);
    ls_comm_release(comm, to);
    ls_comm_release(comm, from);
    free(host);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_attaching_twice_is_refused),
    cmocka_unit_test(test_new_memory_is_zero),
    cmocka_unit_test(test_gather_shards),
    cmocka_unit_test(test_gather_goes_on),
    cmocka_unit_test(test_gather_shards_of_common_memory),
    cmocka_unit_test(test_gather_device),
    cmocka_unit_test(test_library_calls),
};

int main(int argc, char **argv)
{
    return run_on_platforms(argc, argv, tests, sizeof tests / sizeof *tests);
}
