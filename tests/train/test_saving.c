// Saves while training goes on: each is of its step, on any device and with any number in flight; slow, full
// and interrupted disks; saves by the clock.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "data/import.h"
#include "save_pace.h"
#include "strict_device.h"
#include "train/trainer.h"

enum { ROWS = 96, STEPS = 12 };

static char folder[] = "/tmp/lockstep-saving-XXXXXX";
static char data_path[LS_PATH_MAX];

// ---- A disk that can be slow or full --------------------------------------------------------------------

static struct {
    char run[LS_PATH_MAX];   // whose saves are watched; "": none
    useconds_t delay;        // before each write of a thread
    atomic_int fail_from;    // the write from which the disk is full, 0: never
    atomic_int writes;       // so far
    atomic_int most;         // saves that were on the disk unfinished at once
    atomic_int pile;         // checkpoints that were there at once
    atomic_long first, last; // bytes of metrics.jsonl at the first and the newest write
    int stop_from;           // the write at which a signal comes, 0: none
    LsStopSignal stop;
} disk;

static int count_saves(const char *run, const char *prefix)
{
    char path[LS_PATH_MAX];
    int count = 0;
    snprintf(path, sizeof path, "%s/checkpoints", run);
    DIR *directory = opendir(path);
    struct dirent *entry;
    while (directory && (entry = readdir(directory)))
        count += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    if (directory)
        closedir(directory);
    return count;
}

static void watch(void)
{
    char path[LS_PATH_MAX];
    struct stat found = {0};
    int number = atomic_fetch_add(&disk.writes, 1) + 1;
    int hidden = count_saves(disk.run, ".saving"), pile = count_saves(disk.run, "step-");
    snprintf(path, sizeof path, "%.4000s/metrics.jsonl", disk.run);
    stat(path, &found);
    if (number == 1)
        atomic_store(&disk.first, (long)found.st_size);
    atomic_store(&disk.last, (long)found.st_size);
    if (hidden > atomic_load(&disk.most))
        atomic_store(&disk.most, hidden);
    if (pile > atomic_load(&disk.pile))
        atomic_store(&disk.pile, pile);
    if (disk.stop_from && number >= disk.stop_from)
        disk.stop.number = SIGUSR1;
    usleep(disk.delay);
}

static bool is_state(int fd)
{
    char link[64], path[LS_PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path);
    return size > 8 && memcmp(path + size - 8, "state.h5", 8) == 0;
}

// Takes the place of the library's, for what a helper thread writes; HDF5 makes the structure in the main
// one.
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    if (disk.run[0] && is_state(fd) && getpid() != (pid_t)syscall(SYS_gettid)) {
        watch();
        if (disk.fail_from && disk.writes >= disk.fail_from) {
            errno = ENOSPC;
            return -1;
        }
    }
    return syscall(SYS_pwrite64, fd, data, size, offset);
}

static void watch_disk(const char *name, useconds_t delay, int fail_from, int stop_from)
{
    memset(&disk, 0, sizeof disk);
    disk.delay = delay;
    disk.fail_from = fail_from;
    disk.stop_from = stop_from;
    snprintf(disk.run, sizeof disk.run, "%s/%s", folder, name);
}

// ---- Runs -----------------------------------------------------------------------------------------------

static void set(LsConfig *config, const char *name, const char *value)
{
    assert_int_equal(ls_config_set(config, name, value, "test"), LS_OK);
}

static int set_up_data(void **state)
{
    (void)state;
    char table[LS_PATH_MAX];
    bool unchanged = false;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(ls_path_join(table, folder, "table.csv"), LS_OK);
    assert_int_equal(ls_path_join(data_path, folder, "data.h5"), LS_OK);
    FILE *file = fopen(table, "w");
    assert_non_null(file);
    fputs("a,b,c,d,kind\n", file);
    for (uint64_t r = 0; r < ROWS; r++) {
        for (uint64_t c = 0; c < 4; c++)
            fprintf(file, "%.6f,", (double)ls_rng_normal(ls_rng_key(3, LS_RNG_SPLIT), r, c));
        fprintf(file, "kind%d\n", (int)(r % 3));
    }
    assert_int_equal(fclose(file), 0);
    LsImportOptions options;
    ls_import_defaults(&options);
    options.output = data_path;
    options.label = "kind";
    const char *inputs[] = {table};
    if (ls_import_csv(inputs, 1, &options, &unchanged) != LS_OK)
        fail_msg("%s", ls_status_message());
    return 0;
}

static int tear_down_data(void **state)
{
    (void)state;
    return ls_directory_remove(folder) == LS_OK ? 0 : 1;
}

static LsConfig small_config(const char *precision, const char *steps)
{
    LsConfig config;
    ls_config_defaults(&config);
    set(&config, "data.path", data_path);
    set(&config, "model.hidden", "[16, 16]");
    set(&config, "train.batch", "16");
    set(&config, "train.lanes", "4");
    set(&config, "train.max_steps", steps);
    set(&config, "checkpoint.every", "1");
    set(&config, "checkpoint.keep_last", "1000");
    set(&config, "log.every", "1");
    set(&config, "eval.every", "0");
    set(&config, "runtime.device", "ref");
    set(&config, "runtime.precision", precision);
    return config;
}

static LsStatus train_on(const LsConfig *config, const char *name, LsDevice *device, const LsStopSignal *stop,
    char run[LS_PATH_MAX])
{
    LsComm *comm = NULL;
    assert_int_equal(ls_comm_open(&(LsCommOptions){.kind = LS_COMM_AUTO, .timeout = 60}, &comm), LS_OK);
    assert_int_equal(ls_path_join(run, folder, name), LS_OK);
    LsStatus status = ls_train(&(LsTrainOptions){.config = config,
        .run_dir = run,
        .resume = "auto",
        .comm = comm,
        .device = device,
        .quiet = true,
        .stop_signal = stop});
    ls_comm_close(comm);
    assert_int_equal(count_saves(run, ".saving"), 0);
    return status;
}

static LsStatus train(
    const LsConfig *config, const char *name, const LsStopSignal *stop, char run[LS_PATH_MAX])
{
    return train_on(config, name, NULL, stop, run);
}

static void require_ok(LsStatus status)
{
    if (status != LS_OK)
        fail_msg("%s", ls_status_message());
}

static void hash_of(const char *run, int64_t step, char text[65])
{
    char path[LS_PATH_MAX];
    LsCheckpoint *checkpoint = NULL;
    ls_checkpoint_path(path, run, step);
    require_ok(ls_checkpoint_open(path, &checkpoint));
    require_ok(ls_checkpoint_verify(checkpoint, NULL));
    require_ok(ls_checkpoint_hash(checkpoint, text));
    ls_checkpoint_close(checkpoint);
}

static void require_same(const char *left, const char *right, int64_t step)
{
    char a[65], b[65];
    hash_of(left, step, a);
    hash_of(right, step, b);
    assert_string_equal(a, b);
}

static size_t count_checkpoints(const char *run)
{
    int64_t *steps = NULL;
    size_t count = 0;
    assert_int_equal(ls_checkpoint_list(run, &steps, &count), LS_OK);
    free(steps);
    return count;
}

static bool has_text(const char *run, const char *name, const char *wanted)
{
    char path[LS_PATH_MAX], *text = NULL;
    size_t size = 0;
    assert_int_equal(ls_path_join(path, run, name), LS_OK);
    require_ok(ls_file_read(path, 1 << 22, &text, &size));
    bool found = strstr(text, wanted) != NULL;
    free(text);
    return found;
}

// ---- Tests ----------------------------------------------------------------------------------------------

// A run that stops after each step waits for every save before it goes on; one that does not must save the
// same. On the strict device the host sees what it copied only after it has waited for it.
static void every_checkpoint_is_of_its_step(void **state)
{
    (void)state;
    static const char *const precisions[] = {"fp32", "bf16"};
    const LsStopSignal stop = {.number = SIGUSR1};
    for (size_t p = 0; p < 2; p++) {
        LsConfig config = small_config(precisions[p], "12");
        char waits[LS_PATH_MAX], goes_on[LS_PATH_MAX], name[64];
        snprintf(name, sizeof name, "waits-%s", precisions[p]);
        for (int attempt = 1; attempt < STEPS; attempt++)
            assert_int_equal(train(&config, name, &stop, waits), LS_STOPPED);
        require_ok(train(&config, name, &stop, waits));
        for (int kind = 0; kind < 4; kind++) {
            LsDevice *device = NULL;
            set(&config, "checkpoint.in_flight", kind % 2 ? "1" : "2");
            snprintf(name, sizeof name, "goes-on-%s-%d", precisions[p], kind);
            if (kind >= 2)
                require_ok(ls_strict_device_open(config.runtime.precision, &device));
            require_ok(train_on(&config, name, device, NULL, goes_on));
            ls_device_close(device);
            for (int64_t step = 1; step <= STEPS; step++)
                require_same(waits, goes_on, step);
        }
    }
}

static void training_goes_on_while_the_disk_is_slow(void **state)
{
    (void)state;
    LsConfig config = small_config("fp32", "200");
    char slow[LS_PATH_MAX], fast[LS_PATH_MAX];
    set(&config, "checkpoint.every", "50");
    require_ok(train(&config, "fast", NULL, fast));
    watch_disk("slow", 5000, 0, 0);
    require_ok(train(&config, "slow", NULL, slow));
    // Steps were logged between the first write and the last, which is of the last step's checkpoint.
    assert_true(disk.last > disk.first);
    assert_in_range(disk.most, 1, 2);
    disk.run[0] = '\0';
    for (int64_t step = 50; step <= 200; step += 50)
        require_same(fast, slow, step);
    assert_true(has_text(slow, "status.json", "step-00000200"));
}

// A save is always under way and the next one waits for it: old checkpoints are removed nonetheless.
static void checkpoints_do_not_pile_up(void **state)
{
    (void)state;
    LsConfig config = small_config("fp32", "60");
    char run[LS_PATH_MAX];
    set(&config, "checkpoint.keep_last", "1"); // and the one before, in case
    watch_disk("busy", 1000, 0, 0);
    require_ok(train(&config, "busy", NULL, run));
    disk.run[0] = '\0';
    // Three that are late, one that came while another was written and one while old ones were removed.
    assert_in_range(disk.pile, 2, 2 + 3 + 1 + 1);
}

// A write in the middle of the third save fails: the run ends with one sentence, and what was there is.
static void a_full_disk_ends_the_run(void **state)
{
    (void)state;
    LsConfig config = small_config("fp32", "60");
    char run[LS_PATH_MAX], counted[LS_PATH_MAX];
    set(&config, "checkpoint.every", "20");
    watch_disk("counted", 0, 0, 0);
    require_ok(train(&config, "counted", NULL, counted));
    int writes = disk.writes;
    watch_disk("full", 0, writes - writes / 6, 0);
    assert_int_equal(train(&config, "full", NULL, run), LS_IO);
    disk.run[0] = '\0';
    assert_non_null(strstr(ls_status_message(), "step-00000060"));
    assert_non_null(strstr(ls_status_message(), "No space left"));
    assert_int_equal(count_checkpoints(run), 2);
    assert_true(has_text(run, "status.json", "\"failed\""));
    assert_true(has_text(run, "status.json", "step-00000040"));
    // There is space again.
    require_ok(train(&config, "full", NULL, run));
    require_same(counted, run, 60);
}

// A signal comes while the second save is being written: that save ends or is given up, the stop's own is
// there. With two in flight at most, the run is then no further than the step of the fourth, however slow the
// disk is.
static void a_stop_during_a_save(void **state)
{
    (void)state;
    LsConfig config = small_config("fp32", "600");
    char whole[LS_PATH_MAX], stopped[LS_PATH_MAX];
    set(&config, "checkpoint.every", "100");
    watch_disk("whole", 0, 0, 0);
    require_ok(train(&config, "whole", NULL, whole));
    int writes = disk.writes / 6; // of one save
    for (int part = 1; part < 8; part += 3) {
        char name[32];
        snprintf(name, sizeof name, "stopped-%d", part);
        watch_disk(name, 2000, 0, writes + writes * part / 8);
        assert_int_equal(train(&config, name, &disk.stop, stopped), LS_STOPPED);
        disk.run[0] = '\0';
        assert_true(has_text(stopped, "status.json", "\"preempted\""));
        require_ok(train(&config, name, NULL, stopped));
        require_same(whole, stopped, 600);
    }
}

static void saves_by_the_clock_change_no_bit(void **state)
{
    (void)state;
    LsConfig config = small_config("fp32", "600");
    char by_steps[LS_PATH_MAX], run[LS_PATH_MAX];
    set(&config, "checkpoint.every", "0");
    require_ok(train(&config, "by-steps", NULL, by_steps));
    assert_int_equal(count_checkpoints(by_steps), 1);
    set(&config, "checkpoint.every", "1"); // of no meaning now
    set(&config, "checkpoint.policy", "time");
    set(&config, "checkpoint.interval", "1000");
    require_ok(train(&config, "seldom", NULL, run));
    assert_int_equal(count_checkpoints(run), 1);
    set(&config, "checkpoint.interval", "0.1");
    watch_disk("time", 100, 0, 0);
    require_ok(train(&config, "time", NULL, run));
    require_same(by_steps, run, 600);
    set(&config, "checkpoint.policy", "auto");
    set(&config, "checkpoint.mtbf", "0.001");
    watch_disk("auto", 100, 0, 0);
    require_ok(train(&config, "auto", NULL, run));
    disk.run[0] = '\0';
    require_same(by_steps, run, 600);
    assert_true(count_checkpoints(run) >= 2);
    assert_true(has_text(run, "events.jsonl", "\"interval_seconds\""));
}

// Values by hand: Young's formula where a save costs next to nothing, and Daly's bound.
static void the_interval_is_the_one_of_the_papers(void **state)
{
    (void)state;
    assert_true(ls_save_interval(1e-6, 86400) > 0.41569 && ls_save_interval(1e-6, 86400) < 0.41570);
    // cost 60, mtbf 86400: √(2·60·86400) = 3219.94; · (1 + √(60/172800)/3 + 60/172800/9) = 3240.06
    assert_true(ls_save_interval(60, 86400) > 3240.0 && ls_save_interval(60, 86400) < 3240.1);
    assert_true(ls_save_interval(200, 100) == 100);
    LsSavePace pace;
    ls_save_pace_start(&pace, 0, 1000, 0);
    for (int step = 1; step <= 20; step++)
        ls_save_pace_step(&pace, step, false);
    assert_true(ls_save_pace_due(&pace, 20));
    ls_save_pace_begin(&pace, 20);
    assert_false(ls_save_pace_due(&pace, 1e9)); // not again before the first one is measured
    ls_save_pace_step(&pace, 21.5, true);       // half a second more than without
    ls_save_pace_step(&pace, 23, true);
    assert_true(ls_save_pace_end(&pace, 3));
    assert_true(pace.cost > 0.999 && pace.cost < 1.001);
    assert_true(pace.interval > 44 && pace.interval < 46); // √2000 and a little
    assert_false(ls_save_pace_due(&pace, 60));
    assert_true(ls_save_pace_due(&pace, 67));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_checkpoint_is_of_its_step),
        cmocka_unit_test(training_goes_on_while_the_disk_is_slow),
        cmocka_unit_test(checkpoints_do_not_pile_up),
        cmocka_unit_test(a_full_disk_ends_the_run),
        cmocka_unit_test(a_stop_during_a_save),
        cmocka_unit_test(saves_by_the_clock_change_no_bit),
        cmocka_unit_test(the_interval_is_the_one_of_the_papers),
    };
    return cmocka_run_group_tests(tests, set_up_data, tear_down_data);
}
