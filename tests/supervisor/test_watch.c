// Watch: who is to blame, told from pulses alone; and who is not, however slow the machine.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "watch.h"
#include <cmocka.h>

static LsWatch watch;

static int begin(void **state)
{
    (void)state;
    return ls_watch_begin(&watch, 3, 100) == LS_OK ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    ls_watch_free(&watch);
    return 0;
}

static uint64_t sequence;

// A pulse of a rank whose usual gap between moves is 10 ms.
static bool pulse(uint32_t rank, LsPhase phase, uint64_t moves, uint64_t polls, double now)
{
    LsPulseRecord record = {.rank = rank,
        .ranks = 3,
        .phase = phase,
        .moves = moves,
        .polls = polls,
        .gap = 10000,
        .step = 7,
        .sequence = ++sequence};
    return ls_watch_pulse(&watch, &record, now);
}

// All ranks beat twice a second from `from` to `to`; a stuck one neither moves nor polls, a waiting one
// polls.
static void beat(uint32_t stuck, LsPhase phase, bool others_move, double from, double to)
{
    for (double now = from; now <= to; now += 0.5)
        for (uint32_t r = 0; r < 3; r++) {
            uint64_t count = (uint64_t)(2 * now);
            if (r == stuck)
                pulse(r, phase, 1, 1, now);
            else
                pulse(r, LS_PHASE_EXCHANGE, others_move ? count : 1, count, now);
        }
}

enum { NOBODY = 99 };

static void assert_finding(LsFindingKind kind, uint32_t rank, double now)
{
    LsFinding found = ls_watch_look(&watch, now);
    assert_int_equal(found.kind, kind);
    if (kind != LS_FINDING_NONE)
        assert_int_equal(found.rank, rank);
}

static void test_healthy(void **state)
{
    (void)state;
    beat(NOBODY, LS_PHASE_START, true, 100, 130);
    assert_finding(LS_FINDING_NONE, 0, 130);
    assert_true(ls_watch_all_connected(&watch));
    assert_false(ls_watch_all_closed(&watch));
}

static void test_dead(void **state)
{
    (void)state;
    beat(NOBODY, LS_PHASE_START, true, 100, 101);
    ls_watch_closed(&watch, 2);
    assert_finding(LS_FINDING_DEAD, 2, 101);
    assert_false(pulse(2, LS_PHASE_COMPUTE, 1, 1, 102)); // it does not come back
}

static void test_goodbye(void **state)
{
    (void)state;
    uint32_t code;
    beat(NOBODY, LS_PHASE_START, true, 100, 101);
    assert_false(ls_watch_all_ended(&watch, &code));
    for (uint32_t r = 0; r < 3; r++) {
        LsPulseRecord record = {
            .rank = r, .ranks = 3, .phase = LS_PHASE_END, .code = 75, .moves = 1000, .sequence = ++sequence};
        assert_true(ls_watch_pulse(&watch, &record, 102));
        ls_watch_closed(&watch, r);
    }
    assert_finding(LS_FINDING_NONE, 0, 200);
    assert_true(ls_watch_all_ended(&watch, &code));
    assert_int_equal(code, 75);
    assert_true(ls_watch_all_closed(&watch));
}

static void test_stopped(void **state)
{
    (void)state;
    beat(NOBODY, LS_PHASE_START, true, 100, 101);
    for (double now = 101.5; now < 104; now += 0.5)
        for (uint32_t r = 0; r < 2; r++)
            pulse(r, LS_PHASE_EXCHANGE, 500, (uint64_t)(2 * now), now);
    assert_finding(LS_FINDING_NONE, 0, 103.9);
    assert_finding(LS_FINDING_SILENT, 2, 104.2); // within 5 s
}

static void test_stuck(void **state)
{
    (void)state;
    static const LsPhase phases[] = {LS_PHASE_COMPUTE, LS_PHASE_EXCHANGE};
    for (size_t i = 0; i < 2; i++) {
        ls_watch_free(&watch);
        assert_int_equal(ls_watch_begin(&watch, 3, 100), LS_OK);
        beat(1, phases[i], false, 100, 103.5);
        assert_finding(LS_FINDING_NONE, 0, 103.5);
        beat(1, phases[i], false, 104, 104.5);
        assert_finding(LS_FINDING_STUCK, 1, 104.5); // within 5 s
    }
}

// What takes long by nature has its own limits.
static void test_long_phases(void **state)
{
    (void)state;
    static const LsPhase phases[] = {
        LS_PHASE_START, LS_PHASE_DATA, LS_PHASE_LOG, LS_PHASE_SAVE, LS_PHASE_EVALUATE};
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        ls_watch_free(&watch);
        assert_int_equal(ls_watch_begin(&watch, 3, 100), LS_OK);
        beat(1, phases[i], false, 100, 150);
        assert_finding(LS_FINDING_NONE, 0, 150);
        beat(1, phases[i], false, 150.5, 1100);
        assert_finding(LS_FINDING_STUCK, 1, 1100);
    }
}

// A step that usually takes a second may take twenty; the first ones even longer.
static void test_slow_steps(void **state)
{
    (void)state;
    for (uint64_t gap = 0; gap <= 1000000; gap += 1000000) {
        ls_watch_free(&watch);
        assert_int_equal(ls_watch_begin(&watch, 3, 100), LS_OK);
        for (double now = 100; now < 119; now += 0.5)
            for (uint32_t r = 0; r < 3; r++) {
                LsPulseRecord record = {.rank = r,
                    .ranks = 3,
                    .phase = LS_PHASE_COMPUTE,
                    .moves = 1,
                    .gap = gap,
                    .sequence = ++sequence};
                assert_true(ls_watch_pulse(&watch, &record, now));
            }
        assert_finding(LS_FINDING_NONE, 0, 119);
    }
}

static void test_waiting_is_no_crime(void **state)
{
    (void)state;
    beat(NOBODY, LS_PHASE_EXCHANGE, false, 100, 900); // all wait: collectives.timeout is for that
    assert_finding(LS_FINDING_NONE, 0, 900);
}

static void test_own_pause(void **state)
{
    (void)state;
    beat(NOBODY, LS_PHASE_START, true, 100, 110);
    ls_watch_forgive(&watch, 1200);
    assert_finding(LS_FINDING_NONE, 0, 1311);
    assert_finding(LS_FINDING_SILENT, 0, 1314);
}

static void test_slack(void **state)
{
    (void)state;
    LsPulseRecord record = {.rank = 1, .ranks = 3, .sequence = 1, .step = 4};
    assert_int_equal(ls_watch_slack(&watch, 1), 0); // has never come
    assert_true(ls_watch_pulse(&watch, &record, 101));
    assert_int_equal(ls_watch_slack(&watch, 1), 1);
    record.sequence = 2;
    record.step = 14;
    assert_true(ls_watch_pulse(&watch, &record, 101.5));
    assert_int_equal(ls_watch_slack(&watch, 1), 16);
    record.sequence = 3;
    record.phase = LS_PHASE_END;
    assert_true(ls_watch_pulse(&watch, &record, 102));
    assert_int_equal(ls_watch_slack(&watch, 1), 0);
}

static void test_absent(void **state)
{
    (void)state;
    for (double now = 100; now < 290; now += 0.5)
        for (uint32_t r = 0; r < 2; r++)
            pulse(r, LS_PHASE_START, 1, (uint64_t)(2 * now), now);
    assert_finding(LS_FINDING_ABSENT, 2, 290);
}

static void test_records_of_others(void **state)
{
    (void)state;
    LsPulseRecord record = {.rank = 1, .ranks = 3, .sequence = 50};
    assert_true(ls_watch_pulse(&watch, &record, 101));
    assert_false(ls_watch_pulse(&watch, &record, 102)); // once more
    record.sequence = 49;
    assert_false(ls_watch_pulse(&watch, &record, 102));
    record = (LsPulseRecord){.rank = 1, .ranks = 4, .sequence = 60};
    assert_false(ls_watch_pulse(&watch, &record, 102));
    record = (LsPulseRecord){.rank = 3, .ranks = 3, .sequence = 60};
    assert_false(ls_watch_pulse(&watch, &record, 102));
    ls_watch_closed(&watch, 77); // whoever that was
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_healthy, begin, end),
        cmocka_unit_test_setup_teardown(test_dead, begin, end),
        cmocka_unit_test_setup_teardown(test_goodbye, begin, end),
        cmocka_unit_test_setup_teardown(test_stopped, begin, end),
        cmocka_unit_test_setup_teardown(test_stuck, begin, end),
        cmocka_unit_test_setup_teardown(test_long_phases, begin, end),
        cmocka_unit_test_setup_teardown(test_slow_steps, begin, end),
        cmocka_unit_test_setup_teardown(test_waiting_is_no_crime, begin, end),
        cmocka_unit_test_setup_teardown(test_own_pause, begin, end),
        cmocka_unit_test_setup_teardown(test_slack, begin, end),
        cmocka_unit_test_setup_teardown(test_absent, begin, end),
        cmocka_unit_test_setup_teardown(test_records_of_others, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
