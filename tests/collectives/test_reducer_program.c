// The device's list of trees that a plan compiles to computes what the plan says, for plans of one phase and
// of several, and for more partial sums than one device op may read.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "device/device.h"
#include "reducer_program.h"

// A symbol names a sum by its tree; 0 stands for contents that nobody may use.
static uint64_t plus(uint64_t left, uint64_t right)
{
    uint64_t x = left * 0x9e3779b97f4a7c15u + (right ^ right >> 29) * 0xbf58476d1ce4e5b9u + 1;
    return x ^ x >> 31;
}

// What the plan itself says: symbol[slot][piece] after the additions of a phase.
static void run_plan_phase(const LsPlan *plan, size_t phase, uint64_t *symbol)
{
    for (size_t i = 0; i < plan->phase[phase].adds; i++) {
        LsPlanAdd a = plan->add[plan->phase[phase].first_add + i];
        for (uint32_t p = a.first_piece; p < a.first_piece + a.pieces; p++) {
            uint64_t *into = &symbol[(size_t)a.into * plan->ranks + p];
            *into = plus(*into, symbol[(size_t)a.from * plan->ranks + p]);
        }
    }
}

static void run_program_phase(const LsReducerProgram *program, size_t phase, uint32_t ranks, uint64_t *symbol)
{
    for (size_t i = program->first_op[phase]; i < program->first_op[phase + 1]; i++) {
        const LsTreeOp *op = &program->op[i];
        assert_in_range(op->inputs, 1, LS_TREE_INPUTS);
        for (uint32_t p = op->span.first; p < op->span.first + op->span.count; p++) {
            uint64_t value[LS_TREE_INPUTS];
            for (size_t k = 0; k < op->inputs; k++)
                value[k] = symbol[(size_t)op->slot[k] * ranks + p];
            for (size_t k = 0; k < op->adds; k++)
                value[op->pairs[k][0]] = plus(value[op->pairs[k][0]], value[op->pairs[k][1]]);
            symbol[(size_t)op->output_slot * ranks + p] = value[op->result];
        }
    }
}

// Each phase begins with fresh contents in the slots that it receives into, and the same in the program's and
// the plan's slots.
static void receive(const LsPlan *plan, size_t phase, uint64_t *symbol)
{
    for (size_t i = 0; i < plan->phase[phase].transfers; i++) {
        LsTransfer t = plan->transfer[plan->phase[phase].first_transfer + i];
        for (uint32_t p = t.first_piece; t.kind == LS_RECEIVE && p < t.first_piece + t.pieces; p++)
            symbol[(size_t)t.slot * plan->ranks + p] =
                (uint64_t)phase << 40 | (uint64_t)t.slot << 20 | p | 1u << 19;
    }
}

// Sends read the same values under the program as under the plan.
static void compare_sends(const LsPlan *plan, size_t phase, const uint64_t *a, const uint64_t *b)
{
    for (size_t i = 0; i < plan->phase[phase].transfers; i++) {
        LsTransfer t = plan->transfer[plan->phase[phase].first_transfer + i];
        size_t first = (size_t)t.slot * plan->ranks + t.first_piece;
        if (t.kind == LS_SEND)
            assert_memory_equal(a + first, b + first, t.pieces * sizeof *a);
    }
}

static void check(const LsPlan *plan)
{
    LsReducerProgram program;
    if (ls_reducer_program_create(plan, &program) != LS_OK)
        fail_msg("L = %u, W = %u, rank %u: %s", plan->lanes, plan->ranks, plan->rank, ls_status_message());
    size_t symbols = (size_t)plan->slots * plan->ranks;
    uint64_t *expected = calloc(symbols, sizeof *expected), *found = calloc(symbols, sizeof *found);
    assert_true(expected && found);
    for (size_t i = 0; i < (size_t)plan->lane_slots * plan->ranks; i++)
        expected[i] = found[i] = i + 1;
    for (size_t phase = 0; phase < plan->phases; phase++) {
        compare_sends(plan, phase, expected, found);
        receive(plan, phase, expected);
        receive(plan, phase, found);
        run_plan_phase(plan, phase, expected);
        run_program_phase(&program, phase, plan->ranks, found);
    }
    uint64_t result = expected[(size_t)plan->result_slot * plan->ranks + plan->rank];
    assert_int_equal(found[plan->rank], result); // slot 0, the rank's own piece
    free(found);
    free(expected);
    ls_reducer_program_free(&program);
}

static void test_direct_exchange(void **state)
{
    (void)state;
    for (uint32_t lanes = 1; lanes <= 32; lanes *= 2)
        for (uint32_t ranks = 1; ranks <= lanes; ranks++)
            for (uint32_t rank = 0; rank < ranks; rank++) {
                LsPlan plan;
                assert_int_equal(ls_plan_compile(lanes, ranks, rank, &plan), LS_OK);
                check(&plan);
                ls_plan_free(&plan);
            }
}

static void test_recursive_halving(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= 32; ranks++)
        for (uint32_t rank = 0; rank < ranks; rank++) {
            LsPlan plan;
            assert_int_equal(ls_plan_compile_halving(32, ranks, rank, &plan), LS_OK);
            check(&plan);
            ls_plan_free(&plan);
        }
}

static void test_more_sums_than_one_op_reads(void **state)
{
    (void)state;
    static const uint32_t ranks[] = {100, 255, 256, 257, 600};
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++)
        for (uint32_t rank = 0; rank < ranks[i]; rank += ranks[i] / 3) {
            LsPlan plan;
            assert_int_equal(ls_plan_compile(1024, ranks[i], rank, &plan), LS_OK);
            check(&plan);
            ls_plan_free(&plan);
        }
}

static void test_reading_a_spent_slot_is_refused(void **state)
{
    (void)state;
    LsPlan plan;
    LsReducerProgram program;
    assert_int_equal(ls_plan_compile(8, 4, 1, &plan), LS_OK);
    plan.add[plan.adds - 1].from = plan.add[0].from; // added once already
    assert_int_equal(ls_reducer_program_create(&plan, &program), LS_INTERNAL);
    ls_plan_free(&plan);

    assert_int_equal(ls_plan_compile_halving(8, 4, 1, &plan), LS_OK);
    LsTransfer *later = &plan.transfer[plan.phase[1].first_transfer];
    for (size_t i = 0; i < plan.phase[1].transfers; i++)
        if (later[i].kind == LS_SEND)
            later[i].slot = 0; // rank 1 added its own sums to what it received
    assert_int_equal(ls_reducer_program_create(&plan, &program), LS_INTERNAL);
    ls_plan_free(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_direct_exchange),
        cmocka_unit_test(test_recursive_halving),
        cmocka_unit_test(test_more_sums_than_one_op_reads),
        cmocka_unit_test(test_reading_a_spent_slot_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
