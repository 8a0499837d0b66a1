// A run's time over all its attempts: what counts, what was lost, and to what.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "account_records.h"
#include "base/clock.h"

static char folder[] = "/tmp/lockstep-account-XXXXXX";

static LsAccountRecord record(int attempt, double began, int64_t from, int64_t step, double steps)
{
    LsAccountRecord r = {.attempt = attempt, .began = began, .alive = 20 + steps, .from = from, .step = step};
    r.seconds[LS_ACCOUNT_START] = 5;
    r.seconds[LS_ACCOUNT_STEP] = steps;
    r.seconds[LS_ACCOUNT_CHECKPOINT] = 8;
    r.seconds[LS_ACCOUNT_EVALUATE] = 7;
    return r;
}

// Sums of a few doubles of this size are exact to far less than that.
static void assert_near(double a, double b)
{
    if (a - b > 1e-9 || b - a > 1e-9)
        fail_msg("%.12g is not %.12g", a, b);
}

static void assert_whole(const LsGoodput *g)
{
    assert_near(g->wall, g->steps + g->start + g->checkpoint + g->redo + g->restart + g->hang + g->evaluate);
    assert_near(g->ratio * g->wall, g->steps);
}

static void one_attempt(void **state)
{
    (void)state;
    LsAccountRecord r = record(1, 1000, 0, 100, 80);
    LsGoodput g;
    ls_account_sum(NULL, 0, &r, 0, &g);
    assert_near(g.ratio, 0.8);
    assert_near(g.wall, 100);
    assert_near(g.redo, 0);
    assert_near(g.restart, 0);
    assert_whole(&g);
}

// The first attempt made 100 steps in 80 s and died; the second began again at step 50, 10 s later.
static void steps_made_again(void **state)
{
    (void)state;
    LsAccountRecord r[] = {record(1, 1000, 0, 100, 80), record(2, 1110, 50, 200, 120)};
    LsGoodput g;
    ls_account_sum(r, 1, &r[1], 4, &g);
    assert_int_equal(g.attempts, 2);
    assert_near(g.redo, 40);
    assert_near(g.steps, 160);
    assert_near(g.restart, 6);
    assert_near(g.hang, 4);
    assert_near(g.wall, 250);
    assert_whole(&g);
}

// A damaged checkpoint sends the third attempt back before the beginning of the second: nothing of that
// counts.
static void further_back_than_the_attempt_before(void **state)
{
    (void)state;
    LsAccountRecord r[] = {
        record(1, 1000, 0, 100, 100), record(2, 1200, 80, 90, 10), record(3, 1300, 40, 100, 60)};
    LsGoodput g;
    ls_account_sum(r, 2, &r[2], 0, &g);
    assert_near(g.steps, 40 + 0 + 60);
    assert_near(g.redo, 60 + 10);
    assert_whole(&g);
}

// A wall clock that is set back makes no time negative.
static void a_clock_that_jumps(void **state)
{
    (void)state;
    LsAccountRecord r[] = {record(1, 1000, 0, 100, 80), record(2, 500, 100, 200, 80)};
    LsGoodput g;
    ls_account_sum(r, 1, &r[1], 3, &g);
    assert_near(g.restart, 0);
    assert_near(g.hang, 0);
    assert_near(g.wall, 200);
    assert_whole(&g);
}

// Marks say what a step cost that is not like the others; there is always room for one more.
static void marks(void **state)
{
    (void)state;
    LsAccountRecord r = {.spacing = 0.5};
    for (int64_t step = 1; step <= 1000; step++) {
        r.step = step;
        r.seconds[LS_ACCOUNT_STEP] += step <= 500 ? 1 : 3;
        ls_account_mark(&r);
        assert_true(r.marks <= LS_ACCOUNT_MARKS);
    }
    assert_near(ls_account_until(&r, 0), 0);
    assert_near(ls_account_until(&r, 1000), 2000);
    assert_near(ls_account_until(&r, 5000), 2000);
    // Between two marks of 2,000 / 32 / 2 seconds at the most: as many again for the halving.
    double middle = ls_account_until(&r, 500);
    assert_true(middle > 500 - 130 && middle < 500 + 130);
    double before = 0;
    for (int64_t step = 1; step <= 1000; step++) {
        assert_true(ls_account_until(&r, step) >= before);
        before = ls_account_until(&r, step);
    }
    // The attempt itself goes back, and makes the steps again.
    double kept = ls_account_until(&r, 700);
    ls_account_take_back(&r, 700);
    assert_near(r.redo, 2000 - kept);
    assert_near(r.seconds[LS_ACCOUNT_STEP], kept);
    assert_int_equal(r.step, 700);
    assert_near(ls_account_until(&r, 700), kept);
}

static LsRunDir run_of(const char *name, int attempt)
{
    LsRunDir run = {.attempt = attempt, .lock = -1};
    char path[LS_PATH_MAX + 32];
    snprintf(run.path, sizeof run.path, "%s/%s", folder, name);
    snprintf(path, sizeof path, "%s/attempts/%06d", run.path, attempt);
    assert_int_equal(ls_directory_create(path), LS_OK);
    return run;
}

// What is on disk is what a killed attempt leaves: nothing closes the first account before it is read.
static void records_on_disk(void **state)
{
    (void)state;
    LsRunDir first = run_of("run", 1), second = run_of("run", 2);
    LsAccount *account = NULL, *next = NULL;
    LsGoodput g;
    assert_int_equal(ls_goodput_read(first.path, &g), LS_NO_INPUT);
    double begun = ls_clock_seconds() - 10; // ten seconds of set-up
    assert_int_equal(ls_account_open(&first, begun, NULL, &account), LS_OK);
    ls_account_resume(account, 0);
    ls_account_spend(account, LS_ACCOUNT_STEP);
    for (int64_t step = 1; step <= 30; step++) {
        usleep(10000);
        ls_account_step(account, step);
    }
    assert_int_equal(ls_goodput_read(first.path, &g), LS_OK);
    assert_whole(&g);
    assert_true(g.start >= 10 && g.steps >= 0.1 && g.redo == 0);

    // Until it is known where an attempt goes on, nothing of those before is lost.
    double steps = g.steps;
    assert_int_equal(ls_account_open(&second, ls_clock_seconds() - 3, NULL, &next), LS_OK);
    assert_int_equal(ls_goodput_read(first.path, &g), LS_OK);
    assert_whole(&g);
    assert_true(g.attempts == 2 && g.steps >= steps && g.start >= 13 && g.redo == 0);
    ls_account_resume(next, 0);
    ls_account_goodput(next, &g);
    assert_int_equal(g.attempts, 2);
    assert_true(g.steps < 0.001 && g.redo >= 0.1);
    assert_whole(&g);
    ls_account_close(next);
    ls_account_close(account);
    assert_int_equal(ls_goodput_read(first.path, &g), LS_OK);
    assert_int_equal(g.attempts, 2);
    assert_whole(&g);
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void damaged_records_count_for_nothing(void **state)
{
    (void)state;
#define RECORD(from, step, seconds, marks)                                                                   \
    "{\"attempt\": 1, \"began\": 1000, \"alive\": 9, \"from\": " from ", \"step\": " step                    \
    ", \"seconds\": {\"start\": 1, \"step\": " seconds                                                       \
    ", \"checkpoint\": 0, \"evaluate\": 0}, \"redo\": 0, \"marks\": " marks "}"
    static const struct {
        const char *text;
        int attempts; // that are counted
    } cases[] = {
        {RECORD("2", "9", "8", "[[3, 1], [5, 4]]"), 2},
        {"", 1},
        {"{\"attempt\": 1, \"began\":", 1},
        {RECORD("9", "2", "8", "[]"), 1},
        {RECORD("-9223372036854775807", "9", "8", "[]"), 1},
        {RECORD("2", "9", "-8", "[]"), 1},
        {RECORD("2", "9", "\"8\"", "[[3, 1]]"), 1},
        {RECORD("2", "9", "8", "[[5, 4], [3, 1]]"), 1},
        {RECORD("2", "9", "8", "[[3, 9]]"), 1},
        {RECORD("2", "9", "8", "[[10, 1]]"), 1},
    };
#undef RECORD
    LsRunDir first = run_of("damaged", 1), second = run_of("damaged", 2);
    char path[LS_PATH_MAX];
    ls_account_path(path, first.path, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        LsAccount *account = NULL;
        LsGoodput g;
        write_text(path, cases[i].text);
        assert_int_equal(ls_account_open(&second, ls_clock_seconds() - 2, NULL, &account), LS_OK);
        ls_account_goodput(account, &g);
        assert_int_equal(g.attempts, cases[i].attempts);
        assert_true(g.start >= 2);
        assert_true(g.redo >= 0 && g.steps >= 0 && g.restart >= 0);
        ls_account_close(account);
    }
}

// The supervisor's word that a rank hung splits the time between two attempts.
static void hangs(void **state)
{
    (void)state;
    LsRunDir run = run_of("hangs", 1);
    char path[LS_PATH_MAX];
    assert_int_equal(ls_path_join(path, run.path, "events.jsonl"), LS_OK);
    FILE *file = fopen(path, "w");
    // 2026-01-01T00:00:00Z is 1767225600.
    fputs("{\"time\": \"2026-01-01T00:02:05.500Z\", \"event\": \"restart\", \"attempt\": 1, \"reason\": \"a "
          "rank hung\"}\n"
          "{\"time\": \"2026-01-01T00:06:00.000Z\", \"event\": \"restart\", \"attempt\": 2, \"reason\": \"a "
          "rank died\"}\n"
          "{\"time\": \"2026-01-01T00:09:00.000Z\", \"event\": \"restart\", \"attempt\": 9, \"reason\": \"a "
          "rank hung\"}\n"
          "garbage \"restart\"\n{\"time\": \"2026-01-01T00:",
        file);
    fclose(file);
    LsAccountRecord r[] = {record(1, 1767225600, 0, 100, 100), record(2, 1767225600 + 200, 100, 200, 100)};
    assert_near(ls_account_hangs(run.path, r, 2, 1767225600 + 400), 5.5);
    assert_near(ls_account_hangs(run.path, r, 0, 0), 0);
}

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : 1;
}

static int tear_down(void **state)
{
    (void)state;
    return ls_directory_remove(folder) == LS_OK ? 0 : 1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_attempt),
        cmocka_unit_test(steps_made_again),
        cmocka_unit_test(further_back_than_the_attempt_before),
        cmocka_unit_test(a_clock_that_jumps),
        cmocka_unit_test(marks),
        cmocka_unit_test(records_on_disk),
        cmocka_unit_test(damaged_records_count_for_nothing),
        cmocka_unit_test(hangs),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
