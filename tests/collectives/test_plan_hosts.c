// Plans of two levels, inside hosts and between them: they compute the tree however the ranks are divided,
// and send between hosts what the header says.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "base/rng.h"
#include "plan_interpreter.h"

enum { LANES = 64, RANDOM = 4 };

// ---- Divisions ------------------------------------------------------------------------------------------

// Hosts of `size` ranks, the last one of what is left.
static LsHostMap equal_hosts(uint32_t ranks, uint32_t size)
{
    LsHostMap hosts = {.first = calloc(ranks + 1, sizeof *hosts.first)};
    assert_non_null(hosts.first);
    for (uint32_t r = 0; r < ranks; r += size)
        hosts.first[hosts.count++] = r;
    hosts.first[hosts.count] = ranks;
    return hosts;
}

// Each rank but the first begins a host of its own in one of `about` cases.
static LsHostMap random_hosts(uint32_t ranks, uint32_t about, uint32_t seed)
{
    LsHostMap hosts = {.first = calloc(ranks + 1, sizeof *hosts.first)};
    assert_non_null(hosts.first);
    for (uint32_t r = 0; r < ranks; r++)
        if (r == 0 || ls_rng_u32(ls_rng_key(seed, ranks), about, r) % about == 0)
            hosts.first[hosts.count++] = r;
    hosts.first[hosts.count] = ranks;
    return hosts;
}

// ---- The tree -------------------------------------------------------------------------------------------

static void compile_all(uint32_t lanes, uint32_t ranks, const LsHostMap *hosts, LsPlan *plan)
{
    for (uint32_t r = 0; r < ranks; r++)
        assert_int_equal(ls_plan_compile_hosts(lanes, ranks, r, hosts, &plan[r]), LS_OK);
}

static void free_all(LsPlan *plan, uint32_t ranks)
{
    for (uint32_t r = 0; r < ranks; r++)
        ls_plan_free(&plan[r]);
}

// Takes the hosts.
static void check_tree(uint32_t lanes, uint32_t ranks, LsHostMap hosts)
{
    LsPlan plan[LANES];
    compile_all(lanes, ranks, &hosts, plan);
    if (!plans_compute_tree(plan, ranks)) {
        for (uint32_t h = 0; h < hosts.count; h++)
            print_message("host %u: ranks %u to %u\n", h, hosts.first[h], hosts.first[h + 1] - 1);
        fail_msg("L = %u, W = %u: %s", lanes, ranks, plans_wrong());
    }
    free_all(plan, ranks);
    free(hosts.first);
}

static void test_every_division_computes_the_tree(void **state)
{
    (void)state;
    for (uint32_t lanes = 1; lanes <= LANES; lanes *= 2)
        for (uint32_t ranks = 1; ranks <= lanes; ranks++) {
            for (uint32_t size = 1; size <= ranks; size += lanes == LANES && size > 4 ? 7 : 1)
                check_tree(lanes, ranks, equal_hosts(ranks, size));
            for (uint32_t seed = 0; seed < RANDOM; seed++)
                check_tree(lanes, ranks, random_hosts(ranks, 2 + 2 * seed, seed));
        }
}

static void test_a_broken_plan_is_detected(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        LsPlan plan[8];
        LsHostMap hosts = equal_hosts(8, 3);
        compile_all(16, 8, &hosts, plan);
        LsPlan *broken = &plan[1];
        assert_true(plans_compute_tree(plan, 8));
        if (kind == 0)
            broken->transfer[0].peer_slot++;
        else if (kind == 1)
            broken->phase[1].transfers--;
        else if (kind == 2)
            broken->phase[0].adds--;
        else
            broken->host.count--; // rank 2 is of the same host
        assert_false(plans_compute_tree(plan, 8));
        free_all(plan, 8);
        free(hosts.first);
    }
}

// ---- Bytes ----------------------------------------------------------------------------------------------

typedef struct Sent {
    size_t between, direct; // pieces that the busiest host sends to others, by two levels and by one
    double ratio;           // of the busiest rank, in all
} Sent;

static Sent count_sent(uint32_t lanes, uint32_t ranks, const LsHostMap *hosts)
{
    Sent sent = {0};
    for (uint32_t h = 0; h < hosts->count; h++) {
        size_t between = 0, direct = 0;
        for (uint32_t r = hosts->first[h]; r < hosts->first[h + 1]; r++) {
            LsPlan two, one;
            assert_int_equal(ls_plan_compile_hosts(lanes, ranks, r, hosts, &two), LS_OK);
            assert_int_equal(ls_plan_compile(lanes, ranks, r, &one), LS_OK);
            between += ls_plan_pieces_between(&two, hosts);
            direct += ls_plan_pieces_between(&one, hosts);
            double ratio = ls_plan_send_ratio(&two);
            sent.ratio = ratio > sent.ratio ? ratio : sent.ratio;
            ls_plan_free(&two);
            ls_plan_free(&one);
        }
        assert_true(between <= direct);
        sent.between = between > sent.between ? between : sent.between;
        sent.direct = direct > sent.direct ? direct : sent.direct;
    }
    return sent;
}

// A ring passes ranks - 1 pieces from host to host.
static void test_equal_powers_of_two_send_less_than_a_ring(void **state)
{
    (void)state;
    for (uint32_t ranks = 2; ranks <= 64; ranks *= 2)
        for (uint32_t size = 1; size < ranks; size *= 2) {
            LsHostMap hosts = equal_hosts(ranks, size);
            Sent sent = count_sent(64, ranks, &hosts);
            assert_int_equal(sent.between, ranks - size);
            assert_int_equal(sent.direct, size * (ranks - size));
            assert_true(sent.ratio == 1.0);
            free(hosts.first);
        }
}

static void test_bytes_of_other_hosts(void **state)
{
    (void)state;
    static const uint32_t some[][3] = {
        {8, 6, 2}, {8, 6, 3}, {8, 3, 2}, {16, 12, 4}, {32, 24, 8}, {64, 24, 8}};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        uint32_t lanes = some[i][0], ranks = some[i][1];
        LsHostMap hosts = equal_hosts(ranks, some[i][2]);
        Sent sent = count_sent(lanes, ranks, &hosts);
        double ring = ranks - 1;
        print_message(
            "L = %u, W = %u, %u hosts: between hosts %.2f of a ring's bytes (direct %.2f), in all %.2f\n",
            lanes, ranks, hosts.count, (double)sent.between / ring, (double)sent.direct / ring, sent.ratio);
        assert_true(sent.between < sent.direct || hosts.count == ranks);
        assert_true(sent.ratio <= 2 * LS_SUBTREES_MAX);
        free(hosts.first);
    }
}

// Every rank of a host has its part of what leaves the host.
static void test_ranks_of_a_host_share_the_work(void **state)
{
    (void)state;
    LsHostMap hosts = equal_hosts(32, 8);
    for (uint32_t r = 0; r < 32; r++) {
        LsPlan plan;
        assert_int_equal(ls_plan_compile_hosts(64, 32, r, &hosts, &plan), LS_OK);
        assert_int_equal(ls_plan_pieces_between(&plan, &hosts), 3);
        assert_int_equal(plan.phases, 2);
        assert_true(ls_plan_messages(&plan) <= 2 * 7 + 7 + 3); // two spans, once cut by the host's own
        ls_plan_free(&plan);
    }
    free(hosts.first);
}

// ---- The choice -----------------------------------------------------------------------------------------

static void test_choice(void **state)
{
    (void)state;
    static const struct {
        uint32_t ranks, size, phases;
    } cases[] = {{8, 4, 2}, {8, 1, 1}, {8, 8, 1}, {64, 1, 6}, {64, 2, 2}, {64, 64, 6}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        LsPlan plan;
        LsHostMap hosts = equal_hosts(cases[i].ranks, cases[i].size);
        assert_int_equal(ls_plan_choose_hosts(64, cases[i].ranks, 3, &hosts, &plan), LS_OK);
        assert_int_equal(plan.phases, cases[i].phases);
        ls_plan_free(&plan);
        free(hosts.first);
    }
    LsPlan plan;
    assert_int_equal(ls_plan_choose_hosts(64, 8, 3, NULL, &plan), LS_OK);
    assert_int_equal(plan.phases, 1);
    ls_plan_free(&plan);
}

static void test_hosts_of_other_ranks_are_refused(void **state)
{
    (void)state;
    LsPlan plan;
    LsHostMap hosts = equal_hosts(6, 3);
    assert_int_equal(ls_plan_compile_hosts(8, 7, 0, &hosts, &plan), LS_INTERNAL);
    hosts.first[1] = 6;
    assert_int_equal(ls_plan_compile_hosts(8, 6, 0, &hosts, &plan), LS_INTERNAL);
    assert_int_equal(ls_plan_compile_hosts(6, 6, 0, &hosts, &plan), LS_CONFIG);
    free(hosts.first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_division_computes_the_tree),
        cmocka_unit_test(test_a_broken_plan_is_detected),
        cmocka_unit_test(test_equal_powers_of_two_send_less_than_a_ring),
        cmocka_unit_test(test_bytes_of_other_hosts),
        cmocka_unit_test(test_ranks_of_a_host_share_the_work),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_hosts_of_other_ranks_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
