// Proves lane plans: a serial interpreter runs the plans of all ranks on symbols and compares what every
// piece's owner ends with to the tree over all lanes, for every L up to 64 and every W up to L.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/plan.h"

enum { LANES = 64 };

// ---- Symbols: a sum is a 64-bit hash of its tree, 0 is "nothing" -----------------------------------------

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t leaf(uint32_t lane)
{
    return mix(lane + 1);
}

static uint64_t plus(uint64_t left, uint64_t right)
{
    return mix(left * 3 + mix(right) + 0x9e3779b97f4a7c15u);
}

static uint64_t node(uint32_t first, uint32_t count)
{
    return count == 1 ? leaf(first) : plus(node(first, count / 2), node(first + count / 2, count / 2));
}

// ---- The interpreter ------------------------------------------------------------------------------------

static char reason[200]; // why the newest set of plans is wrong

#define WRONG(...) (snprintf(reason, sizeof reason, __VA_ARGS__), false)

// All ranks' slots, each with a symbol for every piece.
typedef struct Machine {
    const LsPlan *plan;
    uint32_t ranks;
    uint64_t *symbol[LANES]; // [slots × ranks]
} Machine;

static uint64_t *at(Machine *m, uint32_t rank, uint32_t slot, uint32_t piece)
{
    return &m->symbol[rank][(size_t)slot * m->ranks + piece];
}

static bool check_shares(const LsPlan *plan, uint32_t ranks)
{
    uint32_t lane = 0;
    for (uint32_t r = 0; r < ranks; r++) {
        const LsLaneShare *share = &plan[r].share;
        if (share->first != lane || share->count == 0)
            return WRONG(
                "rank %u begins at lane %u, not %u, with %u lanes", r, share->first, lane, share->count);
        if (share->subtrees < 1 || share->subtrees > LS_SUBTREES_MAX)
            return WRONG("rank %u has %u subtrees", r, share->subtrees);
        for (uint32_t s = 0; s < share->subtrees; s++) {
            LsSubtree t = share->subtree[s];
            if (t.first != lane || t.count == 0 || (t.count & (t.count - 1)) || t.first % t.count)
                return WRONG("rank %u: subtree (%u, %u) at lane %u", r, t.first, t.count, lane);
            lane += t.count;
        }
        if (lane != share->first + share->count)
            return WRONG("rank %u: subtrees do not make up the share", r);
    }
    return lane == plan[0].lanes ? true : WRONG("%u lanes dealt of %u", lane, plan[0].lanes);
}

static bool run_local_steps(Machine *m, uint32_t r)
{
    const LsPlan *plan = &m->plan[r];
    uint32_t height = 0, lane = plan->share.first; // of the stack
    if (plan->lane_steps != plan->share.count)
        return WRONG("rank %u has %zu steps for %u lanes", r, plan->lane_steps, plan->share.count);
    for (size_t i = 0; i < plan->lane_steps; i++) {
        LsLaneStep step = plan->lane_step[i];
        if (step.lane != lane++ || step.slot != height || step.slot >= plan->lane_slots || step.adds > height)
            return WRONG("rank %u: step %zu is out of place", r, i);
        for (uint32_t p = 0; p < m->ranks; p++) {
            *at(m, r, step.slot, p) = leaf(step.lane);
            for (uint32_t top = step.slot; top > step.slot - step.adds; top--) {
                *at(m, r, top - 1, p) = plus(*at(m, r, top - 1, p), *at(m, r, top, p));
                *at(m, r, top, p) = 0;
            }
        }
        height = step.slot - step.adds + 1;
    }
    for (uint32_t s = 0; s < plan->share.subtrees; s++)
        if (*at(m, r, s, 0) != node(plan->share.subtree[s].first, plan->share.subtree[s].count))
            return WRONG("rank %u: slot %u does not hold its subtree", r, s);
    return height == plan->share.subtrees ? true : WRONG("rank %u ends with %u slots", r, height);
}

static bool is_within(const LsPlan *plan, uint32_t slot, uint32_t first_piece, uint32_t pieces)
{
    return slot < plan->slots && pieces > 0 && first_piece < plan->ranks &&
           pieces <= plan->ranks - first_piece;
}

// The n-th transfer of a kind between `rank` and `peer` in the phase, or NULL.
static const LsTransfer *find_transfer(
    const LsPlan *plan, const LsPlanPhase *phase, LsTransferKind kind, uint32_t peer, size_t n)
{
    for (size_t i = 0; i < phase->transfers; i++) {
        const LsTransfer *t = &plan->transfer[phase->first_transfer + i];
        if (t->kind == kind && t->peer == peer && n-- == 0)
            return t;
    }
    return NULL;
}

static bool run_message(
    Machine *m, const LsTransfer *send, uint32_t from, const LsTransfer *receive, uint32_t to)
{
    if (!is_within(&m->plan[from], send->slot, send->first_piece, send->pieces) ||
        !is_within(&m->plan[to], receive->slot, receive->first_piece, receive->pieces))
        return WRONG("message %u -> %u out of bounds", from, to);
    if (send->first_piece != receive->first_piece || send->pieces != receive->pieces)
        return WRONG("message %u -> %u: pieces differ", from, to);
    for (uint32_t p = send->first_piece; p < send->first_piece + send->pieces; p++) {
        if (*at(m, from, send->slot, p) == 0)
            return WRONG("rank %u sends an empty slot %u", from, send->slot);
        if (*at(m, to, receive->slot, p) != 0)
            return WRONG("rank %u receives into slot %u, which is live", to, receive->slot);
        *at(m, to, receive->slot, p) = *at(m, from, send->slot, p);
    }
    return true;
}

// Every send finds its receive, in the order in which both sides list them.
static bool run_transfers(Machine *m, size_t p)
{
    for (uint32_t to = 0; to < m->ranks; to++)
        for (uint32_t from = 0; from < m->ranks; from++) {
            const LsPlanPhase *there = &m->plan[from].phase[p], *here = &m->plan[to].phase[p];
            const LsTransfer *send, *receive;
            for (size_t n = 0;; n++) {
                send = find_transfer(&m->plan[from], there, LS_SEND, to, n);
                receive = find_transfer(&m->plan[to], here, LS_RECEIVE, from, n);
                if (!send && !receive)
                    break;
                if (from == to || !send || !receive)
                    return WRONG("a message %u -> %u has one end only", from, to);
                if (!run_message(m, send, from, receive, to))
                    return false;
            }
        }
    return true;
}

// Transfers of a phase are concurrent, so what is sent was there before any of them.
static bool check_sends_are_old(Machine *m, size_t p)
{
    for (uint32_t r = 0; r < m->ranks; r++) {
        const LsPlan *plan = &m->plan[r];
        for (size_t i = 0; i < plan->phase[p].transfers; i++) {
            const LsTransfer *t = &plan->transfer[plan->phase[p].first_transfer + i];
            if (t->peer >= m->ranks || !is_within(plan, t->slot, t->first_piece, t->pieces))
                return WRONG("rank %u: a transfer is out of bounds", r);
            for (uint32_t q = t->first_piece; t->kind == LS_SEND && q < t->first_piece + t->pieces; q++)
                if (*at(m, r, t->slot, q) == 0)
                    return WRONG("rank %u sends an empty slot %u", r, t->slot);
        }
    }
    return true;
}

static bool run_adds(Machine *m, uint32_t r, size_t p)
{
    const LsPlan *plan = &m->plan[r];
    for (size_t i = 0; i < plan->phase[p].adds; i++) {
        LsPlanAdd a = plan->add[plan->phase[p].first_add + i];
        if (!is_within(plan, a.into, a.first_piece, a.pieces) ||
            !is_within(plan, a.from, a.first_piece, a.pieces))
            return WRONG("rank %u: an addition is out of bounds", r);
        for (uint32_t q = a.first_piece; q < a.first_piece + a.pieces; q++) {
            uint64_t *into = at(m, r, a.into, q), *from = at(m, r, a.from, q);
            if (*into == 0 || *from == 0 || into == from)
                return WRONG("rank %u adds an empty slot", r);
            *into = plus(*into, *from);
            *from = 0;
        }
    }
    return true;
}

static bool run_machine(Machine *m)
{
    const LsPlan *plan = m->plan;
    for (uint32_t r = 0; r < m->ranks; r++) {
        if (plan[r].phases != plan[0].phases)
            return WRONG("rank %u has %zu phases, rank 0 %zu", r, plan[r].phases, plan[0].phases);
        if (!run_local_steps(m, r))
            return false;
    }
    for (size_t p = 0; p < plan[0].phases; p++) {
        if (!check_sends_are_old(m, p) || !run_transfers(m, p))
            return false;
        for (uint32_t r = 0; r < m->ranks; r++)
            if (!run_adds(m, r, p))
                return false;
    }
    uint64_t tree = node(0, plan[0].lanes);
    for (uint32_t r = 0; r < m->ranks; r++)
        if (plan[r].result_slot >= plan[r].slots || *at(m, r, plan[r].result_slot, r) != tree)
            return WRONG("the owner of piece %u does not end with the tree", r);
    return true;
}

// Whether the plans of all ranks compute the tree; `reason` says why not.
static bool compute_tree(const LsPlan *plan, uint32_t ranks)
{
    Machine machine = {.plan = plan, .ranks = ranks};
    if (!check_shares(plan, ranks))
        return false;
    for (uint32_t r = 0; r < ranks; r++) {
        machine.symbol[r] = calloc((size_t)plan[r].slots * ranks, sizeof(uint64_t));
        assert_non_null(machine.symbol[r]);
    }
    bool good = run_machine(&machine);
    for (uint32_t r = 0; r < ranks; r++)
        free(machine.symbol[r]);
    return good;
}

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
            if (!compute_tree(plan, ranks))
                fail_msg("L = %u, W = %u: %s", lanes, ranks, reason);
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
                assert_true(compute_tree(plan, 3));
                breaks[i](&plan[broken]);
                if (compute_tree(plan, 3))
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
