// Proves lane plans (plan_interpreter.h) for every L up to 64 and every W up to L.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "plan_interpreter.h"

enum { LANES = 64 };

// ---- Tests ----------------------------------------------------------------------------------------------

typedef LsStatus (*Compile)(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out);

static void compile_all(Compile compile, uint32_t lanes, uint32_t ranks, LsPlan *plan)
{
    for (uint32_t r = 0; r < ranks; r++)
        assert_int_equal(compile(lanes, ranks, r, &plan[r]), LS_OK);
}

static void free_all(LsPlan *plan, uint32_t ranks)
{
    for (uint32_t r = 0; r < ranks; r++)
        ls_plan_free(&plan[r]);
}

static void every_plan_computes_the_tree(Compile compile)
{
    LsPlan plan[LANES];
    for (uint32_t lanes = 1; lanes <= LANES; lanes *= 2)
        for (uint32_t ranks = 1; ranks <= lanes; ranks++) {
            compile_all(compile, lanes, ranks, plan);
            if (!plans_compute_tree(plan, ranks))
                fail_msg("L = %u, W = %u: %s", lanes, ranks, plans_wrong());
            free_all(plan, ranks);
        }
}

static void test_every_plan_computes_the_tree(void **state)
{
    (void)state;
    every_plan_computes_the_tree(ls_plan_compile);
}

static void test_recursive_halving_computes_the_tree(void **state)
{
    (void)state;
    every_plan_computes_the_tree(ls_plan_compile_halving);
}

static void test_staging_holds_the_own_piece_alone(void **state)
{
    (void)state;
    for (uint32_t rank = 0; rank < 5; rank++) {
        LsPlan plan;
        assert_int_equal(ls_plan_compile(8, 5, rank, &plan), LS_OK);
        for (size_t i = 0; i < plan.transfers; i++)
            if (plan.transfer[i].slot >= plan.lane_slots) {
                assert_int_equal(plan.transfer[i].kind, LS_RECEIVE);
                assert_int_equal(plan.transfer[i].first_piece, rank);
                assert_int_equal(plan.transfer[i].pieces, 1);
            }
        ls_plan_free(&plan);
    }
}

// Each of these breaks one plan of L = 8, W = 3 in its own way: a direct exchange or a recursive halving.
static void swap_operands(LsPlan *plan)
{
    LsPlanAdd *a = &plan->add[0];
    *a = (LsPlanAdd){a->from, a->into, a->first_piece, a->pieces};
}

static void swap_additions(LsPlan *plan)
{
    LsPlanAdd first = plan->add[0];
    plan->add[0] = plan->add[plan->adds - 1];
    plan->add[plan->adds - 1] = first;
}

static void swap_targets(LsPlan *plan)
{
    uint32_t slot = plan->transfer[0].slot;
    plan->transfer[0].slot = plan->transfer[1].slot;
    plan->transfer[1].slot = slot;
}

static void receive_into_live_slot(LsPlan *plan)
{
    plan->transfer[0].slot = 0;
}

static void receive_twice(LsPlan *plan)
{
    plan->transfer[1].slot = plan->transfer[0].slot;
}

static void leave_out_addition(LsPlan *plan)
{
    plan->phase[0].adds--;
}

static void leave_out_transfer(LsPlan *plan)
{
    plan->phase[0].transfers--;
}

static void take_wrong_piece(LsPlan *plan)
{
    plan->transfer[0].first_piece = (plan->transfer[0].first_piece + 1) % plan->ranks;
}

static void leave_bounds(LsPlan *plan)
{
    plan->transfer[0].slot = plan->slots;
}

static void swap_lanes(LsPlan *plan)
{
    uint32_t lane = plan->lane_step[0].lane;
    plan->lane_step[0].lane = plan->lane_step[1].lane;
    plan->lane_step[1].lane = lane;
}

static void take_wrong_result(LsPlan *plan)
{
    plan->result_slot = plan->result_slot + 1;
}

static void test_a_broken_plan_is_detected(void **state)
{
    (void)state;
    static void (*const breaks[])(LsPlan *) = {swap_operands, swap_additions, swap_targets,
        receive_into_live_slot, receive_twice, leave_out_addition, leave_out_transfer, take_wrong_piece,
        leave_bounds, swap_lanes, take_wrong_result};
    static const Compile compile[] = {ls_plan_compile, ls_plan_compile_halving};
    for (size_t c = 0; c < sizeof compile / sizeof *compile; c++)
        for (size_t i = 0; i < sizeof breaks / sizeof *breaks; i++)
            for (uint32_t broken = 0; broken < 3; broken++) {
                LsPlan plan[3];
                compile_all(compile[c], 8, 3, plan);
                assert_true(plans_compute_tree(plan, 3));
                breaks[i](&plan[broken]);
                if (plans_compute_tree(plan, 3))
                    fail_msg("plan %zu: break %zu of rank %u went unnoticed", c, i, broken);
                free_all(plan, 3);
            }
}

static void test_bytes_sent(void **state)
{
    (void)state;
    for (uint32_t lanes = 1; lanes <= LANES; lanes *= 2)
        for (uint32_t ranks = 1; ranks <= lanes; ranks *= 2)
            for (uint32_t rank = 0; rank < ranks; rank++) {
                LsPlan plan;
                assert_int_equal(ls_plan_compile(lanes, ranks, rank, &plan), LS_OK);
                assert_true(ls_plan_send_ratio(&plan) == 1.0);
                ls_plan_free(&plan);
            }
    for (uint32_t ranks = 3; ranks < 8; ranks++) {
        double worst = 0;
        for (uint32_t rank = 0; rank < ranks; rank++) {
            LsPlan plan;
            assert_int_equal(ls_plan_compile(8, ranks, rank, &plan), LS_OK);
            double ratio = ls_plan_send_ratio(&plan);
            worst = ratio > worst ? ratio : worst;
            ls_plan_free(&plan);
        }
        print_message("L = 8, W = %u: the busiest rank sends %.2f times a ring's bytes\n", ranks, worst);
        assert_true(worst <= (ranks == 3 ? 2.0 : LS_SUBTREES_MAX));
    }
}

static void test_shares_of_many_lanes(void **state)
{
    (void)state;
    static const uint32_t some[] = {1, 2, 3, 7, 63, 100, 255, 1000, 2047, 4095, 4096};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        uint32_t lane = 0;
        // Every 64th rank is asked for, and the last: each call searches all ranks.
        for (uint32_t r = 0; r < some[i]; r++) {
            if (r % 64 && r != some[i] - 1)
                continue;
            LsLaneShare share;
            assert_int_equal(ls_lane_share(LS_LANES_MAX, some[i], r, &share), LS_OK);
            assert_true(share.first >= lane && share.count > 0 && share.subtrees <= LS_SUBTREES_MAX);
            lane = share.first + share.count;
        }
        assert_int_equal(lane, LS_LANES_MAX);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    LsLaneShare share;
    LsPlan plan;
    static const uint32_t bad[][2] = {{0, 1}, {3, 1}, {12, 4}, {8192, 2}, {8, 0}, {8, 9}, {1, 2}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(ls_lane_share(bad[i][0], bad[i][1], 0, &share), LS_CONFIG);
        assert_int_equal(ls_plan_compile(bad[i][0], bad[i][1], 0, &plan), LS_CONFIG);
    }
    assert_int_equal(ls_plan_compile(8, 2, 2, &plan), LS_INTERNAL);
    ls_plan_free(NULL);
}

static void test_pieces_make_up_the_bucket(void **state)
{
    (void)state;
    for (size_t blocks = 0; blocks < 70; blocks++)
        for (uint32_t ranks = 1; ranks <= 9; ranks++) {
            size_t next = 0;
            for (uint32_t p = 0; p < ranks; p++) {
                LsBlockRange piece = ls_piece(blocks, ranks, p);
                assert_int_equal(piece.first, next);
                assert_true(piece.count <= blocks / ranks + 1); // even to within a block
                next += piece.count;
            }
            assert_int_equal(next, blocks);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_plan_computes_the_tree),
        cmocka_unit_test(test_staging_holds_the_own_piece_alone),
        cmocka_unit_test(test_recursive_halving_computes_the_tree),
        cmocka_unit_test(test_a_broken_plan_is_detected),
        cmocka_unit_test(test_bytes_sent),
        cmocka_unit_test(test_shares_of_many_lanes),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_pieces_make_up_the_bucket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
