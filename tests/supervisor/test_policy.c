// Policy: which ends of a job are followed by another launch, after which delay, and when that ends.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>

#include "policy.h"

static LsPolicy fresh(int64_t max_restarts)
{
    return (LsPolicy){.max_restarts = max_restarts, .durable = -1};
}

static LsJobOutcome exited(int code, int64_t step, int64_t durable)
{
    return (LsJobOutcome){
        .end = LS_JOB_EXITED, .code = code, .in_step = step > 0, .step = step, .durable = durable};
}

static LsJobOutcome killed(int signal, int64_t step, int64_t durable)
{
    LsJobOutcome outcome = exited(128 + signal, step, durable);
    outcome.end = LS_JOB_DIED;
    return outcome;
}

static void test_final_codes(void **state)
{
    (void)state;
    static const int codes[] = {0, 2, 65, 66, 69, 70, 76, 78, 126, 127};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        LsPolicy policy = fresh(10);
        LsJobOutcome outcome = exited(codes[i], 5, -1);
        LsDecision decision = ls_policy_decide(&policy, &outcome);
        assert_false(decision.again);
        assert_int_equal(decision.code, codes[i]);
    }
}

static void test_codes_that_may_pass(void **state)
{
    (void)state;
    static const int codes[] = {1, 74, 124};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        LsPolicy policy = fresh(10);
        LsJobOutcome outcome = exited(codes[i], 5, -1);
        LsDecision decision = ls_policy_decide(&policy, &outcome);
        assert_true(decision.again);
        assert_true(decision.delay == (codes[i] == 74 ? 1 : 0)); // a disk may become free
    }
}

static void test_stopped(void **state)
{
    (void)state;
    LsPolicy policy = fresh(0); // a stop in good order is no restart
    LsJobOutcome outcome = exited(75, 5, 4);
    assert_true(ls_policy_decide(&policy, &outcome).again);
    outcome.resizing = true;
    assert_true(ls_policy_decide(&policy, &outcome).again);
    outcome.final_stop = true; // which was in force as well, but could also have been our request
    assert_true(ls_policy_decide(&policy, &outcome).again);
    outcome.resizing = false;
    assert_int_equal(ls_policy_decide(&policy, &outcome).code, 75);
    outcome.final_stop = false;
    outcome.asked = true;
    LsDecision decision = ls_policy_decide(&policy, &outcome);
    assert_false(decision.again);
    assert_int_equal(decision.code, 75);
}

// Who has asked the job to stop does not want it started again, whatever became of it.
static void test_asked(void **state)
{
    (void)state;
    LsPolicy policy = fresh(10);
    LsJobOutcome outcome = killed(SIGKILL, 5, 4);
    outcome.asked = true;
    assert_int_equal(ls_policy_decide(&policy, &outcome).code, 137);
    outcome.in_step = false; // nothing was lost
    assert_int_equal(ls_policy_decide(&policy, &outcome).code, 75);
    outcome = exited(0, 5, 4);
    outcome.asked = true;
    assert_int_equal(ls_policy_decide(&policy, &outcome).code, 0);
}

static void test_twice_at_one_step(void **state)
{
    (void)state;
    LsPolicy policy = fresh(10);
    LsJobOutcome outcome = killed(SIGSEGV, 7, -1);
    assert_true(ls_policy_decide(&policy, &outcome).again);
    LsDecision decision = ls_policy_decide(&policy, &outcome);
    assert_false(decision.again);
    assert_int_equal(decision.code, 128 + SIGSEGV);
    assert_non_null(decision.why);

    policy = fresh(10); // another step, or a newer checkpoint
    assert_true(ls_policy_decide(&policy, &outcome).again);
    outcome.step = 8;
    assert_true(ls_policy_decide(&policy, &outcome).again);
    outcome.durable = 5;
    assert_true(ls_policy_decide(&policy, &outcome).again);
}

// What is heard of a rank is half a second old when it dies.
static void test_about_one_step(void **state)
{
    (void)state;
    LsPolicy policy = fresh(10);
    LsJobOutcome outcome = killed(SIGSEGV, 20, -1);
    outcome.slack = 5;
    assert_true(ls_policy_decide(&policy, &outcome).again);
    outcome.step = 26;
    assert_true(ls_policy_decide(&policy, &outcome).again);
    outcome.step = 22;
    outcome.slack = 4;
    assert_non_null(ls_policy_decide(&policy, &outcome).why);
}

// Being killed, or a full disk, says nothing about the step.
static void test_twice_from_outside(void **state)
{
    (void)state;
    LsJobOutcome outcomes[] = {killed(SIGKILL, 7, -1), killed(SIGTERM, 7, -1), exited(74, 7, -1)};
    for (size_t i = 0; i < sizeof outcomes / sizeof *outcomes; i++) {
        LsPolicy policy = fresh(10);
        for (int n = 0; n < 10; n++)
            assert_true(ls_policy_decide(&policy, &outcomes[i]).again);
        assert_non_null(ls_policy_decide(&policy, &outcomes[i]).why);
    }
}

static void test_hung(void **state)
{
    (void)state;
    LsPolicy policy = fresh(10);
    LsJobOutcome outcome = {.end = LS_JOB_HUNG, .code = 124, .step = 3, .in_step = true, .durable = -1};
    assert_true(ls_policy_decide(&policy, &outcome).again);
    assert_int_equal(ls_policy_decide(&policy, &outcome).code, 124);
}

static void test_delays_and_progress(void **state)
{
    (void)state;
    static const double expected[] = {0, 1, 2, 4, 8, 16, 32, 60, 60};
    LsPolicy policy = fresh(9);
    for (int n = 0; n < 9; n++) {
        LsJobOutcome outcome = killed(SIGKILL, 10 + n, 5);
        if (n == 0)
            outcome.durable = policy.durable; // none yet
        else
            policy.durable = 5;
        assert_true(ls_policy_decide(&policy, &outcome).delay == expected[n]);
    }
    LsJobOutcome outcome = killed(SIGKILL, 30, 5);
    LsPolicy spent = policy;
    assert_false(ls_policy_decide(&spent, &outcome).again);
    outcome.durable = 20; // progress: everything begins anew
    LsDecision decision = ls_policy_decide(&policy, &outcome);
    assert_true(decision.again);
    assert_true(decision.delay == 0);
    assert_int_equal(policy.restarts, 1);
}

// Two launches that took the run from each other would come nowhere.
static void test_a_run_taken_over_is_left(void **state)
{
    (void)state;
    LsJobOutcome ends[] = {exited(74, 5, -1), killed(SIGKILL, 5, -1), exited(124, 5, 4)};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        LsPolicy policy = fresh(10);
        ends[i].superseded = true;
        LsDecision decision = ls_policy_decide(&policy, &ends[i]);
        assert_false(decision.again);
        assert_int_equal(decision.code, 74);
    }
    LsPolicy policy = fresh(10);
    LsJobOutcome done = exited(0, 5, -1); // and has seen that it is done
    done.superseded = true;
    assert_int_equal(ls_policy_decide(&policy, &done).code, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_run_taken_over_is_left),
        cmocka_unit_test(test_final_codes),
        cmocka_unit_test(test_codes_that_may_pass),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_asked),
        cmocka_unit_test(test_twice_at_one_step),
        cmocka_unit_test(test_about_one_step),
        cmocka_unit_test(test_twice_from_outside),
        cmocka_unit_test(test_hung),
        cmocka_unit_test(test_delays_and_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
