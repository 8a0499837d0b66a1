// A predicted step: the collectives' closed forms, and the time-line of computing and communication.
#include "predict/predict.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "collectives/plan.h"
#include "device/tensor.h"
#include "near.h"

// Sums of a few hundred terms in another order.
static const double ROUNDING = 1e-10;

static const LsLink fast = {2e-6, 0.5e-6, 200e9}, slow = {10e-6, 1e-6, 10e9};

static LsCluster cluster(uint32_t nodes, uint32_t ranks)
{
    return (LsCluster){nodes, ranks, {fast, fast}, {slow, slow}};
}

// One bucket that is final at the end of backward.
static LsTimeline step_of_one(
    LsAlgorithm algorithm, LsCluster on, size_t blocks, uint32_t lanes, double exchange)
{
    LsWorkBucket bucket = {blocks, 0.01, 0.02};
    LsWork work = {.count = 1,
        .bucket = &bucket,
        .backward = 0.02,
        .gradient_bytes = 4,
        .weight_bytes = 2,
        .exchange_bytes = exchange,
        .overlap = 1,
        .lanes = lanes};
    LsTimeline timeline = {0};
    assert_int_equal(ls_predict_step(&work, &on, algorithm, 1, &timeline), LS_OK);
    return timeline;
}

static void expect_one(
    LsAlgorithm algorithm, LsCluster on, size_t blocks, double reduce, double gather, double exchange)
{
    LsTimeline t = step_of_one(algorithm, on, blocks, 4096, 96);
    LsSpan reduced = t.bucket[0].reduce, gathered = t.bucket[0].gather;
    assert_near((reduced.end - reduced.begin) / reduce, 1, ROUNDING);
    assert_near((gathered.end - gathered.begin) / gather, 1, ROUNDING);
    assert_near((t.exchange.end - t.exchange.begin) / exchange, 1, 1e-9); // a difference of far larger times
    assert_near(t.step, 0.03 + reduce + gather + exchange, ROUNDING);
    assert_near(t.exposed, reduce + gather + exchange, ROUNDING);
    ls_timeline_free(&t);
}

// A message of so many blocks of 4-byte or 2-byte elements, or of bytes.
static double message(LsLink link, double bytes)
{
    return link.latency + link.message + bytes / link.bandwidth;
}

static const double B4 = 4096 * 4, B2 = 4096 * 2;

static void ring_has_as_many_rounds_as_ranks_but_one(void **state)
{
    (void)state;
    // 64 blocks for 16 ranks: 4 each.
    expect_one(LS_RING, cluster(16, 1), 64, 15 * message(slow, 4 * B4), 15 * message(slow, 4 * B2),
        15 * message(slow, 96));
    // With nodes of several ranks the slow link sets the pace; a lone node has none.
    expect_one(LS_RING, cluster(4, 4), 64, 15 * message(slow, 4 * B4), 15 * message(slow, 4 * B2),
        15 * message(slow, 96));
    expect_one(LS_RING, cluster(1, 16), 64, 15 * message(fast, 4 * B4), 15 * message(fast, 4 * B2),
        15 * message(fast, 96));
    // Pieces are of whole blocks: 65 blocks take as long as 80.
    expect_one(LS_RING, cluster(16, 1), 65, 15 * message(slow, 5 * B4), 15 * message(slow, 5 * B2),
        15 * message(slow, 96));
}

static void tree_has_logarithmically_many_rounds(void **state)
{
    (void)state;
    double reduce = 0, gather = 0, exchange = 0;
    for (int pieces = 1; pieces < 16; pieces *= 2) {
        reduce += message(slow, pieces * 4 * B4);
        gather += message(slow, pieces * 4 * B2);
        exchange += message(slow, pieces * 96);
    }
    expect_one(LS_TREE, cluster(16, 1), 64, reduce, gather, exchange);
    // Five ranks: 1, 2 and 1 pieces.
    expect_one(LS_TREE, cluster(5, 1), 5, 2 * message(slow, B4) + message(slow, 2 * B4),
        2 * message(slow, B2) + message(slow, 2 * B2), 2 * message(slow, 96) + message(slow, 192));
}

static void levels_share_the_network_and_not_the_inside(void **state)
{
    (void)state;
    // 4 nodes of 2 ranks, 64 blocks: halves inside, then a rank's eighths between, two of them on one link.
    double inside = message(fast, 32 * B4), between = message(slow, 2 * 8 * B4);
    expect_one(LS_HIERARCHICAL, cluster(4, 2), 64, inside + 3 * between,
        message(fast, 32 * B2) + 3 * message(slow, 16 * B2),
        message(fast, 4 * 96) + 3 * message(slow, 2 * 96));
    expect_one(LS_TREE, cluster(4, 2), 64, inside + between + message(slow, 2 * 16 * B4),
        message(fast, 32 * B2) + message(slow, 16 * B2) + message(slow, 32 * B2),
        message(fast, 4 * 96) + message(slow, 2 * 96) + message(slow, 4 * 96));
}

// The bytes that the plan of the busiest rank sends, on an otherwise free network.
static void exact_moves_what_the_plan_says(void **state)
{
    (void)state;
    const LsLink wire = {0, 0, 1e9};
    for (uint32_t ranks = 2; ranks <= 48; ranks++) {
        LsCluster on = {ranks, 1, {wire, wire}, {wire, wire}};
        size_t blocks = (size_t)ranks * 8;
        double most = 0;
        for (uint32_t r = 0; r < ranks; r++) {
            LsPlan plan;
            assert_int_equal(ls_plan_choose(64, ranks, r, &plan), LS_OK);
            double moved[2] = {0};
            for (size_t i = 0; i < plan.transfers; i++)
                moved[plan.transfer[i].kind] += plan.transfer[i].pieces * 8 * B4;
            most = fmax(most, fmax(moved[LS_SEND], moved[LS_RECEIVE]));
            ls_plan_free(&plan);
        }
        LsTimeline t = step_of_one(LS_EXACT, on, blocks, 64, 0);
        double reduce = t.bucket[0].reduce.end - t.bucket[0].reduce.begin;
        // Where a plan has several phases, different ranks may be the slowest of each.
        assert_true(reduce >= most / 1e9 * (1 - ROUNDING) && reduce <= 1.5 * most / 1e9);
        ls_timeline_free(&t);
    }
}

static void exact_refuses_more_ranks_than_lanes(void **state)
{
    (void)state;
    LsWorkBucket bucket = {64, 0.01, 0.02};
    LsWork work = {.count = 1,
        .bucket = &bucket,
        .backward = 0.02,
        .gradient_bytes = 4,
        .weight_bytes = 2,
        .overlap = 1,
        .lanes = 8};
    LsCluster on = cluster(2, 8);
    LsTimeline timeline;
    assert_int_equal(ls_predict_step(&work, &on, LS_EXACT, 1, &timeline), LS_CONFIG);
    assert_non_null(strstr(ls_status_message(), "16 ranks"));
}

// ---- The time-line --------------------------------------------------------------------------------------

enum { BUCKETS = 4 };

// Four buckets of 16 ranks, 64 blocks each, final every 2 ms; their forward takes 1 ms each.
static LsTimeline step_of_four(double overlap, bool gather_overlaps, double bandwidth, double slowdown)
{
    static const LsWorkBucket bucket[BUCKETS] = {
        {64, 1e-3, 2e-3}, {64, 1e-3, 4e-3}, {64, 1e-3, 6e-3}, {64, 1e-3, 8e-3}};
    LsWork work = {.count = BUCKETS,
        .bucket = bucket,
        .backward = 9e-3,
        .optimizer = 16e-3,
        .gradient_bytes = 4,
        .weight_bytes = 4,
        .overlap = overlap,
        .gather_overlaps = gather_overlaps,
        .lanes = 16};
    const LsLink wire = {0, 0, bandwidth};
    LsCluster on = {16, 1, {wire, wire}, {wire, wire}};
    LsTimeline timeline = {0};
    assert_int_equal(ls_predict_step(&work, &on, LS_RING, slowdown, &timeline), LS_OK);
    return timeline;
}

// A bucket's reduction and gather take `seconds` each.
static double bandwidth_for(double seconds)
{
    return 15.0 / 16 * 64 * B4 / seconds;
}

static void short_reductions_hide(void **state)
{
    (void)state;
    LsTimeline t = step_of_four(1, false, bandwidth_for(0.5e-3), 1);
    for (int b = 0; b < BUCKETS; b++) {
        assert_near(t.bucket[b].ready, 4e-3 + 2e-3 * (b + 1), ROUNDING);
        assert_near(t.bucket[b].reduce.begin, t.bucket[b].ready, ROUNDING);
        assert_near(t.bucket[b].reduce.end, t.bucket[b].ready + 0.5e-3, ROUNDING);
    }
    // 13 ms, the sixteenth of 16 ms that is this rank's, four gathers behind.
    assert_near(t.step, 13e-3 + 1e-3 + 2e-3, ROUNDING);
    assert_near(t.exposed, 2e-3, ROUNDING);
    assert_near(t.busy, 4e-3, ROUNDING);
    assert_near(t.computing, 14e-3, ROUNDING);
    ls_timeline_free(&t);
}

static void long_reductions_queue(void **state)
{
    (void)state;
    LsTimeline t = step_of_four(1, false, bandwidth_for(3e-3), 1);
    for (int b = 0; b < BUCKETS; b++)
        assert_near(t.bucket[b].reduce.end, 6e-3 + 3e-3 * (b + 1), ROUNDING);
    assert_near(t.optimizer.begin, 18e-3, ROUNDING);
    assert_near(t.step, 18e-3 + 1e-3 + 12e-3, ROUNDING);
    ls_timeline_free(&t);
}

static void without_overlap_everything_adds_up(void **state)
{
    (void)state;
    LsTimeline t = step_of_four(0, false, bandwidth_for(3e-3), 1);
    assert_near(t.step, t.computing + t.busy, ROUNDING);
    assert_near(t.bucket[1].ready, t.bucket[0].reduce.end + 2e-3, ROUNDING);
    ls_timeline_free(&t);
    t = step_of_four(0, true, bandwidth_for(3e-3), 1);
    assert_near(t.step, t.computing + t.busy, ROUNDING);
    ls_timeline_free(&t);
}

static void half_an_overlap_slows_computing(void **state)
{
    (void)state;
    // Bucket 0's 1 ms of communication computes half a millisecond's worth.
    LsTimeline t = step_of_four(0.5, false, bandwidth_for(1e-3), 1);
    assert_near(t.bucket[0].ready, 6e-3, ROUNDING);
    assert_near(t.bucket[1].ready, 6e-3 + 1e-3 + 1.5e-3, ROUNDING);
    ls_timeline_free(&t);
}

static void gathers_hide_behind_forward(void **state)
{
    (void)state;
    LsTimeline t = step_of_four(1, true, bandwidth_for(0.5e-3), 1);
    // Forward waits for the first layer's weights, which are the last bucket's, and then for none.
    assert_near(t.bucket[BUCKETS - 1].gather.begin, 0, ROUNDING);
    assert_near(t.bucket[0].gather.end, 2e-3, ROUNDING);
    assert_near(t.forward.begin, 0.5e-3, ROUNDING);
    assert_near(t.step, 0.5e-3 + 13e-3 + 1e-3, ROUNDING);
    ls_timeline_free(&t);
    // Longer ones hold up every layer.
    t = step_of_four(1, true, bandwidth_for(2e-3), 1);
    assert_near(t.forward.end, 4 * 2e-3 + 1e-3, ROUNDING);
    ls_timeline_free(&t);
}

static void slow_ranks_slow_computing_alone(void **state)
{
    (void)state;
    LsTimeline t = step_of_four(1, false, bandwidth_for(0.5e-3), 1.5);
    assert_near(t.computing, 21e-3, ROUNDING);
    assert_near(t.busy, 4e-3, ROUNDING);
    assert_near(t.bucket[0].ready, 9e-3, ROUNDING);
    ls_timeline_free(&t);
}

static void one_rank_alone_does_not_communicate(void **state)
{
    (void)state;
    for (int a = 0; a < LS_ALGORITHMS; a++) {
        LsTimeline t = step_of_one((LsAlgorithm)a, cluster(1, 1), 64, 8, 96);
        assert_near(t.step, 0.03, ROUNDING);
        assert_true(t.busy == 0);
        ls_timeline_free(&t);
    }
}

static void four_thousand_nodes_take_less_than_a_second(void **state)
{
    (void)state;
    LsWorkBucket bucket[64];
    for (int b = 0; b < 64; b++)
        bucket[b] = (LsWorkBucket){1600, 1e-3, 2e-3 * (b + 1)};
    LsWork work = {.count = 64,
        .bucket = bucket,
        .backward = 0.13,
        .gradient_bytes = 4,
        .weight_bytes = 2,
        .exchange_bytes = 1000,
        .overlap = 1,
        .lanes = 4096};
    LsCluster on = cluster(4096, 1);
    double start = ls_clock_seconds();
    for (int a = 0; a < LS_ALGORITHMS; a++) {
        LsTimeline t;
        assert_int_equal(ls_predict_step(&work, &on, (LsAlgorithm)a, 1, &t), LS_OK);
        assert_true(t.step > 0.194);
        ls_timeline_free(&t);
    }
    // The promise is one second on an idle machine; CI's machines may be far busier.
    assert_true(ls_clock_seconds() - start < 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ring_has_as_many_rounds_as_ranks_but_one),
        cmocka_unit_test(tree_has_logarithmically_many_rounds),
        cmocka_unit_test(levels_share_the_network_and_not_the_inside),
        cmocka_unit_test(exact_moves_what_the_plan_says),
        cmocka_unit_test(exact_refuses_more_ranks_than_lanes),
        cmocka_unit_test(short_reductions_hide),
        cmocka_unit_test(long_reductions_queue),
        cmocka_unit_test(without_overlap_everything_adds_up),
        cmocka_unit_test(half_an_overlap_slows_computing),
        cmocka_unit_test(gathers_hide_behind_forward),
        cmocka_unit_test(slow_ranks_slow_computing_alone),
        cmocka_unit_test(one_rank_alone_does_not_communicate),
        cmocka_unit_test(four_thousand_nodes_take_less_than_a_second),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
