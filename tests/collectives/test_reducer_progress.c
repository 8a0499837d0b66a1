// The thread that makes a reducer's additions, by itself.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "reducer_progress.h"

static const double DEADLINE = 60; // seconds

// ---- The thread by itself -------------------------------------------------------------------------------

enum { BUCKETS = 7 };

typedef struct Load {
    atomic_bool ready[BUCKETS], fails;
    atomic_int added[BUCKETS], asked;
    atomic_bool only_helpers; // whoever is not `owner` finds nothing ready
    pthread_t owner;
    useconds_t time; // of an addition
} Load;

static bool is_ready(void *context, size_t b)
{
    Load *load = context;
    atomic_fetch_add(&load->asked, 1);
    if (atomic_load(&load->only_helpers) && !pthread_equal(pthread_self(), load->owner))
        return false;
    return atomic_load(&load->ready[b]);
}

static LsStatus add(void *context, size_t b)
{
    Load *load = context;
    if (load->time)
        usleep(load->time);
    atomic_fetch_add(&load->added[b], 1);
    return atomic_load(&load->fails) ? LS_FAIL(LS_BAD_DATA, "bucket %zu cannot be added", b) : LS_OK;
}

static LsReducerProgress *start(Load *load)
{
    LsReducerProgress *progress;
    load->owner = pthread_self();
    LsReducerProgressWork work = {BUCKETS, load, is_ready, add};
    assert_int_equal(ls_reducer_progress_create(&work, &progress), LS_OK);
    return progress;
}

static LsStatus await(LsReducerProgress *progress, size_t b, bool help)
{
    double end = ls_clock_seconds() + DEADLINE;
    for (bool added = false; !added;) {
        LsStatus status = ls_reducer_progress_look(progress, b, help, &added);
        if (status != LS_OK)
            return status;
        if (ls_clock_seconds() > end)
            return LS_FAIL(LS_HUNG, "bucket %zu is never added", b);
        sched_yield();
    }
    return LS_OK;
}

static void set_ready(Load *load, bool ready)
{
    for (size_t b = 0; b < BUCKETS; b++)
        atomic_store(&load->ready[b], ready);
}

static void test_adds_alone(void **state)
{
    (void)state;
    Load load = {0};
    LsReducerProgress *progress = start(&load);
    for (int step = 1; step <= 50; step++) {
        set_ready(&load, true);
        for (size_t b = 0; b < BUCKETS; b++)
            ls_reducer_progress_give(progress, b);
        for (size_t b = 0; b < BUCKETS; b++) {
            assert_int_equal(await(progress, b, false), LS_OK);
            assert_int_equal(atomic_load(&load.added[b]), step);
        }
    }
    ls_reducer_progress_destroy(progress);
}

static void test_waits_until_ready(void **state)
{
    (void)state;
    Load load = {0};
    bool added = true;
    LsReducerProgress *progress = start(&load);
    for (size_t b = 0; b < BUCKETS; b++)
        ls_reducer_progress_give(progress, b);
    double end = ls_clock_seconds() + DEADLINE;
    while (atomic_load(&load.asked) < 100 && ls_clock_seconds() < end) // long enough to pause
        usleep(1000);
    assert_int_equal(ls_reducer_progress_look(progress, 0, true, &added), LS_OK);
    assert_false(added);
    for (size_t b = 0; b < BUCKETS; b++) {
        assert_int_equal(atomic_load(&load.added[b]), 0);
        atomic_store(&load.ready[b], true);
        assert_int_equal(await(progress, b, false), LS_OK);
    }
    ls_reducer_progress_destroy(progress);
}

static void test_helps(void **state)
{
    (void)state;
    Load load = {.only_helpers = true};
    LsReducerProgress *progress = start(&load);
    set_ready(&load, true);
    for (size_t b = 0; b < BUCKETS; b++)
        ls_reducer_progress_give(progress, b);
    for (size_t b = BUCKETS; b-- > 0;) // in any order
        assert_int_equal(await(progress, b, true), LS_OK);
    ls_reducer_progress_destroy(progress);
}

// Steps follow one another while the thread is behind: whoever adds, it is done once.
static void test_each_bucket_is_added_once(void **state)
{
    (void)state;
    enum { STEPS = 2000 };
    Load load = {0};
    LsReducerProgress *progress = start(&load);
    set_ready(&load, true);
    for (int step = 1; step <= STEPS; step++) {
        size_t buckets = 1 + (size_t)step % BUCKETS; // a step may end early
        for (size_t b = 0; b < buckets; b++)
            ls_reducer_progress_give(progress, b);
        if (step % 16 == 0)
            sched_yield();
        for (size_t b = 0; b < buckets; b++)
            assert_int_equal(await(progress, b, true), LS_OK);
    }
    int expected[BUCKETS] = {0};
    for (int step = 1; step <= STEPS; step++)
        for (int b = 0; b < 1 + step % BUCKETS; b++)
            expected[b]++;
    for (size_t b = 0; b < BUCKETS; b++)
        assert_int_equal(atomic_load(&load.added[b]), expected[b]);
    ls_reducer_progress_destroy(progress);
}

static void test_failure_is_handed_over(void **state)
{
    (void)state;
    Load load = {.fails = true};
    LsReducerProgress *progress = start(&load);
    atomic_store(&load.ready[0], true);
    ls_reducer_progress_give(progress, 0);
    assert_int_equal(await(progress, 0, false), LS_BAD_DATA);
    assert_string_equal(ls_status_message(), "bucket 0 cannot be added");
    ls_reducer_progress_destroy(progress);
}

static void test_destroyed_at_any_time(void **state)
{
    (void)state;
    ls_reducer_progress_destroy(NULL);
    for (int given = 0; given <= 2; given++)
        for (int pause = 0; pause < 3; pause++) {
            Load load = {.time = 500};
            LsReducerProgress *progress = start(&load);
            set_ready(&load, given == 2); // nothing, something that never gets ready, something
            for (size_t b = 0; given > 0 && b < BUCKETS; b++)
                ls_reducer_progress_give(progress, b);
            usleep((useconds_t)pause * 700);
            ls_reducer_progress_destroy(progress);
            int added = 0, later = 0;
            for (size_t b = 0; b < BUCKETS; b++)
                added += atomic_load(&load.added[b]);
            usleep(2000);
            for (size_t b = 0; b < BUCKETS; b++)
                later += atomic_load(&load.added[b]);
            assert_int_equal(added, later);
        }
}

// Seconds of a processor that this whole process takes while its main thread sleeps.
static double processor_time(useconds_t sleep)
{
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    usleep(sleep);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    return (double)(after.tv_sec - before.tv_sec) + 1e-9 * (double)(after.tv_nsec - before.tv_nsec);
}

// A thread that turned round and round would take all of the time; half of it leaves room for any machine.
static void test_takes_no_time_for_nothing(void **state)
{
    (void)state;
    enum { SLEEP = 400000 };
    Load load = {0};
    LsReducerProgress *progress = start(&load);
    double idle = processor_time(SLEEP);
    ls_reducer_progress_give(progress, 0);
    double waiting = processor_time(SLEEP);
    print_message("of 0.4 s: idle %.6f s, while others are late %.6f s\n", idle, waiting);
    assert_true(idle < 0.5e-6 * SLEEP);
    assert_true(waiting < 0.5e-6 * SLEEP);
    ls_reducer_progress_destroy(progress);
}

// The signals that a thread of this process blocks; 0 if there is none of that name.
static unsigned long long blocked_by(const char *name)
{
    DIR *tasks = opendir("/proc/self/task");
    unsigned long long blocked = 0;
    assert_non_null(tasks);
    for (struct dirent *task; (task = readdir(tasks));) {
        char path[320], line[256], found[64] = "";
        snprintf(path, sizeof path, "/proc/self/task/%.200s/status", task->d_name);
        FILE *file = fopen(path, "r");
        while (file && fgets(line, sizeof line, file)) {
            sscanf(line, "Name: %63s", found);
            unsigned long long mask;
            if (strcmp(found, name) == 0 && sscanf(line, "SigBlk: %llx", &mask) == 1)
                blocked = mask;
        }
        if (file)
            fclose(file);
    }
    closedir(tasks);
    return blocked;
}

static void test_signals_are_the_main_threads(void **state)
{
    (void)state;
    Load load = {0};
    LsReducerProgress *progress = start(&load);
    unsigned long long blocked = blocked_by("additions");
    const int signals[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGCONT, SIGCHLD};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        assert_true(blocked >> (signals[i] - 1) & 1);
    ls_reducer_progress_destroy(progress);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adds_alone),
        cmocka_unit_test(test_waits_until_ready),
        cmocka_unit_test(test_helps),
        cmocka_unit_test(test_each_bucket_is_added_once),
        cmocka_unit_test(test_failure_is_handed_over),
        cmocka_unit_test(test_destroyed_at_any_time),
        cmocka_unit_test(test_takes_no_time_for_nothing),
        cmocka_unit_test(test_signals_are_the_main_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
