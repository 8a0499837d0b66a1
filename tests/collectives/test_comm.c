// The communicator and host memory on however many ranks the program is started with (alone: backend `self`).
// Every rank runs the same tests in the same order and computes by itself what all must end with.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/comm.h"

enum { MOST_RANKS = 8, TIMEOUT_SECONDS = 60 };

static LsComm *comm;
static uint32_t rank, ranks;

// ---- What all ranks tell each other ---------------------------------------------------------------------

static void test_identity(void **state)
{
    (void)state;
    assert_in_range(rank, 0, ranks - 1);
    assert_string_equal(ls_comm_name(comm), ls_comm_launched() ? "mpi" : "self");
    assert_true(ls_comm_host(comm)[0] != '\0');
    // mpirun starts all ranks of these tests on this machine.
    assert_int_equal(ls_comm_local_size(comm), ranks);
    assert_int_equal(ls_comm_local_rank(comm), rank);
}

static void test_barrier(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++)
        assert_int_equal(ls_comm_barrier(comm), LS_OK);
}

static void test_broadcast(void **state)
{
    (void)state;
    static const size_t lengths[] = {0, 1, 7, 4096, 1 << 20};
    uint8_t *data = malloc(1 << 20);
    assert_non_null(data);
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
        for (uint32_t root = 0; root < ranks; root++) {
            for (size_t i = 0; i < lengths[l]; i++)
                data[i] = rank == root ? (uint8_t)(i * 7 + root) : 0xee;
            assert_int_equal(ls_comm_broadcast(comm, data, lengths[l], (int)root), LS_OK);
            for (size_t i = 0; i < lengths[l]; i++)
                assert_int_equal(data[i], (uint8_t)(i * 7 + root));
        }
    free(data);
}

// Rank r contributes some bytes, every third rank none.
static size_t uneven_size(uint32_t r, size_t scale)
{
    return r % 3 == 1 ? 0 : (r + 1) * scale + r;
}

static uint8_t uneven_byte(uint32_t r, size_t i)
{
    return (uint8_t)(i * 13 + r * 31 + (i >> 8));
}

static void gather_uneven(size_t scale, bool in_place)
{
    size_t sizes[MOST_RANKS], total = 0, before = 0;
    for (uint32_t r = 0; r < ranks; r++) {
        sizes[r] = uneven_size(r, scale);
        before += r < rank ? sizes[r] : 0;
        total += sizes[r];
    }
    uint8_t *all = malloc(total + 1), *apart = malloc(sizes[rank] + 1);
    assert_true(all && apart);
    memset(all, 0xee, total + 1);
    uint8_t *mine = in_place ? all + before : apart;
    for (size_t i = 0; i < sizes[rank]; i++)
        mine[i] = uneven_byte(rank, i);
    assert_int_equal(ls_comm_all_gather(comm, mine, all, sizes), LS_OK);
    const uint8_t *next = all;
    for (uint32_t r = 0; r < ranks; r++)
        for (size_t i = 0; i < sizes[r]; i++)
            assert_int_equal(*next++, uneven_byte(r, i));
    assert_int_equal(all[total], 0xee); // nothing is written behind the end
    free(apart);
    free(all);
}

static void test_all_gather(void **state)
{
    (void)state;
    static const size_t scales[] = {0, 1, 100, 50000};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        gather_uneven(scales[i], false);
        gather_uneven(scales[i], true);
    }
}

// Bit r of `failing` makes rank r fail, each with a status and a sentence of its own.
static void agree_on(unsigned failing)
{
    static const LsStatus status_of[] = {LS_BAD_DATA, LS_IO, LS_CONFIG};
    char expected[64];
    LsStatus mine = LS_OK;
    ls_status_adopt(LS_INTERNAL, "an old sentence");
    if (failing & 1u << rank)
        mine = LS_FAIL(status_of[rank % 3], "sentence of %u", rank);
    LsStatus agreed = ls_comm_agree(comm, mine);
    if (failing == 0) {
        assert_int_equal(agreed, LS_OK);
        assert_string_equal(ls_status_message(), "an old sentence");
        return;
    }
    uint32_t lowest = (uint32_t)__builtin_ctz(failing);
    assert_int_equal(agreed, status_of[lowest % 3]);
    if (failing == (1u << ranks) - 1)
        snprintf(expected, sizeof expected, "sentence of %u", lowest);
    else
        snprintf(expected, sizeof expected, "rank %u: sentence of %u", lowest, lowest);
    assert_string_equal(ls_status_message(), expected);
}

static void test_agree_in_all_patterns(void **state)
{
    (void)state;
    for (unsigned failing = 0; failing < 1u << ranks; failing++)
        agree_on(failing);
}

// ---- Opening --------------------------------------------------------------------------------------------

static void test_refusals(void **state)
{
    (void)state;
    LsComm *other;
    assert_int_equal(ls_comm_open(&(LsCommOptions){LS_COMM_AUTO, 0}, &other), LS_CONFIG);
    ls_comm_close(NULL);
}

static int open_all(void **state)
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

static int close_all(void **state)
{
    (void)state;
    ls_comm_close(comm);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_broadcast),
        cmocka_unit_test(test_all_gather),
        cmocka_unit_test(test_agree_in_all_patterns),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
