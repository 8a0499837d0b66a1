// The trainer on one rank: the strict device sees no memory fault, resuming changes no bit, divergence and
// stops end as they should.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "data/import.h"
#include "strict_device.h"
#include "train/trainer.h"

enum { ROWS = 96, STEPS = 12 };

static char folder[] = "/tmp/lockstep-trainer-XXXXXX";
static char data_path[LS_PATH_MAX];

static void set(LsConfig *config, const char *name, const char *value)
{
    assert_int_equal(ls_config_set(config, name, value, "test"), LS_OK);
}

// Three noisy clusters of four values.
static void write_table(const char *path)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("a,b,c,d,kind\n", file);
    LsRngKey key = ls_rng_key(3, LS_RNG_SPLIT);
    for (uint64_t r = 0; r < ROWS; r++) {
        for (uint64_t c = 0; c < 4; c++)
            fprintf(file, "%.6f,", (double)(ls_rng_normal(key, r, c) + 2.0f * (r % 3 == c)));
        fprintf(file, "kind%d\n", (int)(r % 3));
    }
    assert_int_equal(fclose(file), 0);
}

static int set_up_data(void **state)
{
    (void)state;
    char table[LS_PATH_MAX];
    bool unchanged = false;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(ls_path_join(table, folder, "table.csv"), LS_OK);
    assert_int_equal(ls_path_join(data_path, folder, "data.h5"), LS_OK);
    write_table(table);
    LsImportOptions options;
    ls_import_defaults(&options);
    options.output = data_path;
    options.label = "kind";
    options.test = 0.25;
    const char *inputs[] = {table};
    LsStatus status = ls_import_csv(inputs, 1, &options, &unchanged);
    if (status != LS_OK)
        fail_msg("%s", ls_status_message());
    return 0;
}

static int tear_down_data(void **state)
{
    (void)state;
    return ls_directory_remove(folder) == LS_OK ? 0 : 1;
}

static LsConfig small_config(void)
{
    LsConfig config;
    ls_config_defaults(&config);
    set(&config, "data.path", data_path);
    set(&config, "model.hidden", "[16, 16]");
    set(&config, "model.dropout", "0.2");
    set(&config, "train.batch", "16");
    set(&config, "train.lanes", "4");
    set(&config, "train.accumulation", "2");
    set(&config, "train.max_steps", "12");
    set(&config, "optimizer.clip_norm", "0.5");
    set(&config, "eval.every", "4");
    set(&config, "eval.batch", "7");
    set(&config, "log.every", "1");
    set(&config, "runtime.device", "ref");
    set(&config, "runtime.precision", "fp32");
    return config;
}

// Trains in the run directory `name`; its path is left in `run`.
static LsStatus train(const LsConfig *config, const char *name, LsDevice *device, const char *resume,
    const LsStopSignal *stop, char run[LS_PATH_MAX])
{
    LsComm *comm = NULL;
    assert_int_equal(ls_comm_open(&(LsCommOptions){.kind = LS_COMM_AUTO, .timeout = 60}, &comm), LS_OK);
    assert_int_equal(ls_path_join(run, folder, name), LS_OK);
    LsStatus status = ls_train(&(LsTrainOptions){.config = config,
        .run_dir = run,
        .resume = resume,
        .comm = comm,
        .device = device,
        .quiet = true,
        .stop_signal = stop});
    ls_comm_close(comm);
    return status;
}

static void hash_of(const char *run, int64_t step, char text[65])
{
    char path[LS_PATH_MAX];
    LsCheckpoint *checkpoint = NULL;
    ls_checkpoint_path(path, run, step);
    assert_int_equal(ls_checkpoint_open(path, &checkpoint), LS_OK);
    assert_int_equal(ls_checkpoint_hash(checkpoint, text), LS_OK);
    ls_checkpoint_close(checkpoint);
}

static void require_ok(LsStatus status)
{
    if (status != LS_OK)
        fail_msg("%s", ls_status_message());
}

static LsStatus train_strict(const LsConfig *config, const char *name, const LsStopSignal *stop, char *run)
{
    LsDevice *device = NULL;
    require_ok(ls_strict_device_open(config->runtime.precision, &device));
    LsStatus status = train(config, name, device, "auto", stop, run);
    ls_device_close(device);
    return status;
}

// Same arithmetic as `ref`, but every access from the host to device memory faults, and what comes from it is
// there when the host has waited for it. Read late, after every step, and with several buckets.
static void strict_device_computes_what_ref_computes(void **state)
{
    (void)state;
    static const char *const precisions[] = {"fp32", "bf16", "fp16"};
    for (size_t i = 0; i < 3; i++) {
        LsConfig config = small_config();
        char run[LS_PATH_MAX], name[32], plain[65], strict[65];
        set(&config, "runtime.precision", precisions[i]);
        set(&config, "collectives.bucket_mb", "0.0625");
        snprintf(name, sizeof name, "%s-plain", precisions[i]);
        require_ok(train(&config, name, NULL, "auto", NULL, run));
        hash_of(run, STEPS, plain);
        for (int every = 1; every <= 1000; every *= 1000) {
            config.log.every = every;
            snprintf(name, sizeof name, "%s-strict-%d", precisions[i], every);
            require_ok(train_strict(&config, name, NULL, run));
            hash_of(run, STEPS, strict);
            assert_string_equal(plain, strict);
        }
    }
}

// Whatever of the state is held where: the same bits, without a memory fault, also where gradients overwrite
// each other while they are on their way.
static void every_mode_of_sharding_computes_the_same(void **state)
{
    (void)state;
    static const char *const precisions[] = {"fp32", "bf16", "fp16"};
    static const char *const modes[] = {"none", "state+gradients"};
    LsConfig config = small_config();
    set(&config, "model.hidden", "[90, 200, 70, 60, 16]");
    set(&config, "train.accumulation", "1");
    set(&config, "collectives.bucket_mb", "0.0625");
    for (size_t i = 0; i < 3; i++) {
        char run[LS_PATH_MAX], name[64], plain[65], found[65];
        set(&config, "runtime.precision", precisions[i]);
        set(&config, "optimizer.shard", "state");
        snprintf(name, sizeof name, "%s-shard-state", precisions[i]);
        require_ok(train(&config, name, NULL, "auto", NULL, run));
        hash_of(run, STEPS, plain);
        for (size_t m = 0; m < 2; m++) {
            set(&config, "optimizer.shard", modes[m]);
            snprintf(name, sizeof name, "%s-shard-%s", precisions[i], modes[m]);
            require_ok(train_strict(&config, name, NULL, run));
            hash_of(run, STEPS, found);
            assert_string_equal(plain, found);
        }
    }
}

// The host sees the vote one step late, stops there, and going on changes no bit.
static void a_discrete_device_stops_one_step_later(void **state)
{
    (void)state;
    LsConfig config = small_config();
    char run[LS_PATH_MAX], undisturbed[65], stopped[65];
    const LsStopSignal stop = {.number = SIGUSR1};
    config.log.every = 1000;
    config.eval.every = 0;
    require_ok(train(&config, "whole", NULL, "auto", NULL, run));
    hash_of(run, STEPS, undisturbed);
    for (int attempt = 1; attempt <= STEPS / 2; attempt++) {
        assert_int_equal(train_strict(&config, "late", &stop, run), LS_STOPPED);
        hash_of(run, 2 * attempt, stopped); // there is this checkpoint
    }
    require_ok(train_strict(&config, "late", &stop, run));
    hash_of(run, STEPS, stopped);
    assert_string_equal(undisturbed, stopped);
}

static size_t events_of(const char *run, const char *kind)
{
    char path[LS_PATH_MAX], *text = NULL, wanted[64];
    size_t size = 0, count = 0;
    assert_int_equal(ls_path_join(path, run, "events.jsonl"), LS_OK);
    assert_int_equal(ls_file_read(path, 1 << 20, &text, &size), LS_OK);
    snprintf(wanted, sizeof wanted, "\"event\": \"%s\"", kind);
    for (const char *at = text; (at = strstr(at, wanted)); at++)
        count++;
    free(text);
    return count;
}

static LsStepControl control_of(const char *run, int64_t step)
{
    char path[LS_PATH_MAX];
    LsCheckpoint *checkpoint = NULL;
    LsRunState found;
    ls_checkpoint_path(path, run, step);
    assert_int_equal(ls_checkpoint_open(path, &checkpoint), LS_OK);
    assert_int_equal(ls_checkpoint_state(checkpoint, &found), LS_OK);
    ls_checkpoint_close(checkpoint);
    return found.control;
}

// Overflows on the way down from a scale that is far too high are no divergence, whatever their number; each
// is an event, also on a device that the host reads late.
static void the_search_for_a_loss_scale(void **state)
{
    (void)state;
    LsConfig config = small_config();
    char run[LS_PATH_MAX], plain[65], strict[65];
    set(&config, "runtime.precision", "fp16");
    set(&config, "train.loss_scale", "16777216");
    set(&config, "train.max_skipped", "1");
    set(&config, "log.every", "1000");
    require_ok(train(&config, "search", NULL, "auto", NULL, run));
    hash_of(run, STEPS, plain);
    LsStepControl control = control_of(run, STEPS);
    int64_t skipped = control.step - control.updates;
    assert_true(skipped > 2 && control.updates > 0);
    assert_true(control.loss_scale == ldexpf(1, 24 - (int)skipped));
    assert_int_equal(events_of(run, "skip"), skipped);
    require_ok(train_strict(&config, "search-strict", NULL, run));
    hash_of(run, STEPS, strict);
    assert_string_equal(plain, strict);
    assert_int_equal(events_of(run, "skip"), skipped);
}

static LsConfig guarded_config(const char *action)
{
    LsConfig config = small_config();
    set(&config, "train.max_steps", "40");
    set(&config, "checkpoint.every", "4");
    set(&config, "guard.spike", "2");
    set(&config, "guard.window", "8");
    set(&config, "guard.limit", "100");
    set(&config, "guard.action", action);
    return config;
}

// Spikes and checks, read late or at once: the bits and events of the plain device.
static void guards_on_a_discrete_device(void **state)
{
    (void)state;
    static const struct {
        const char *action, *event;
    } ways[] = {{"skip", "skip"}, {"rollback", "rollback"}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        LsConfig config = guarded_config(ways[i].action);
        char run[LS_PATH_MAX], name[32], plain[65], strict[65];
        snprintf(name, sizeof name, "guarded-%zu", i);
        require_ok(train(&config, name, NULL, "auto", NULL, run));
        hash_of(run, 40, plain);
        size_t events = events_of(run, ways[i].event);
        assert_true(events > 0);
        set(&config, "guard.recompute_every", "3");
        for (int every = 1; every <= 1000; every *= 1000) {
            config.log.every = every;
            snprintf(name, sizeof name, "guarded-%zu-%d", i, every);
            require_ok(train_strict(&config, name, NULL, run));
            hash_of(run, 40, strict);
            assert_string_equal(plain, strict);
            assert_int_equal(events_of(run, ways[i].event), events);
            assert_int_equal(events_of(run, "wrong_arithmetic"), 0);
        }
    }
}

static LsDeviceOps faulty_ops;
static const LsDeviceOps *good_ops;
static int fingerprints, wrong_fingerprint;

static LsStatus faulty_fingerprint_bits(LsDevice *device, const LsFingerprint *args)
{
    LsFingerprint wrong = *args;
    wrong.first += fingerprints++ == wrong_fingerprint;
    return good_ops->fingerprint_bits(device, &wrong);
}

// A device that is wrong once, wherever that is: seen, settled by repeating, and without a trace in the bits.
static void a_device_that_is_wrong_once(void **state)
{
    (void)state;
    LsConfig config = guarded_config("skip");
    char run[LS_PATH_MAX], name[32], healthy[65], found[65];
    require_ok(train(&config, "healthy", NULL, "auto", NULL, run));
    hash_of(run, 40, healthy);
    set(&config, "guard.recompute_every", "5");
    set(&config, "log.every", "1000");
    for (wrong_fingerprint = 0; wrong_fingerprint < 4; wrong_fingerprint++) {
        LsDevice *device = NULL;
        require_ok(ls_strict_device_open(config.runtime.precision, &device));
        good_ops = device->ops;
        faulty_ops = *good_ops;
        faulty_ops.fingerprint_bits = faulty_fingerprint_bits;
        device->ops = &faulty_ops;
        fingerprints = 0;
        snprintf(name, sizeof name, "wrong-%d", wrong_fingerprint);
        require_ok(train(&config, name, device, "auto", NULL, run));
        ls_device_close(device);
        hash_of(run, 40, found);
        assert_string_equal(found, healthy);
        assert_int_equal(events_of(run, "wrong_arithmetic"), 1);
    }
}

// Leaving fp16 leaves the scale, coming back begins with a new one; within fp16 it goes on, unless the option
// says otherwise.
static void the_loss_scale_survives_what_it_should(void **state)
{
    (void)state;
    static const struct {
        const char *precision, *first, *steps;
        float expected;
    } stage[] = {
        {"fp16", "64", "4", 128}, // grew in step 3
        {"fp16", "64", "5", 128}, // goes on
        {"fp16", "32", "6", 32},  // another first value
        {"fp32", "32", "7", 1},   // has none
        {"fp16", "32", "8", 32},  // begins again
        {"fp16", "32", "12", 64}, // and grows three good steps later
    };
    LsConfig config = small_config();
    char run[LS_PATH_MAX];
    set(&config, "train.loss_scale_growth", "3");
    for (size_t i = 0; i < sizeof stage / sizeof *stage; i++) {
        set(&config, "runtime.precision", stage[i].precision);
        set(&config, "train.loss_scale", stage[i].first);
        set(&config, "train.max_steps", stage[i].steps);
        require_ok(train(&config, "scales", NULL, "auto", NULL, run));
        assert_true(control_of(run, atoi(stage[i].steps)).loss_scale == stage[i].expected);
    }
}

// Stopped after every single step by a pending signal, resumed to the end.
static void stopping_after_each_step_changes_no_bit(void **state)
{
    (void)state;
    LsConfig config = small_config();
    char run[LS_PATH_MAX], undisturbed[65], stopped[65];
    const LsStopSignal stop = {.number = SIGUSR1};
    require_ok(train(&config, "undisturbed", NULL, "auto", NULL, run));
    hash_of(run, STEPS, undisturbed);
    for (int attempt = 1; attempt <= STEPS; attempt++)
        assert_int_equal(train(&config, "stopped", NULL, "auto", &stop, run), LS_STOPPED);
    require_ok(train(&config, "stopped", NULL, "auto", &stop, run));
    hash_of(run, STEPS, stopped);
    assert_string_equal(undisturbed, stopped);
}

static void divergence_is_seen_and_named(void **state)
{
    (void)state;
    LsConfig config = small_config();
    char run[LS_PATH_MAX];
    set(&config, "optimizer.kind", "sgd");
    set(&config, "optimizer.clip_norm", "0");
    set(&config, "optimizer.lr", "1000");
    set(&config, "optimizer.momentum", "0.9");
    set(&config, "train.loss", "auto");
    set(&config, "train.max_steps", "400");
    set(&config, "train.max_skipped", "3");
    set(&config, "model.hidden", "[16, 16, 16, 16, 16, 16]");
    assert_int_equal(train(&config, "diverged", NULL, "auto", NULL, run), LS_DIVERGED);
    assert_non_null(strstr(ls_status_message(), "diverged"));
}

static void another_model_is_refused(void **state)
{
    (void)state;
    LsConfig config = small_config();
    char run[LS_PATH_MAX];
    require_ok(train(&config, "model", NULL, "auto", NULL, run));
    set(&config, "model.hidden", "[16, 8]");
    assert_int_equal(train(&config, "model", NULL, "auto", NULL, run), LS_CHECKPOINT);
    assert_non_null(strstr(ls_status_message(), "model.hidden"));
}

// Early stopping's count is part of the state: a run stopped and resumed in the middle of it ends at the same
// step.
static void early_stopping_survives_a_resume(void **state)
{
    (void)state;
    LsConfig config = small_config();
    char run[LS_PATH_MAX];
    const LsStopSignal stop = {.number = SIGUSR1};
    set(&config, "optimizer.lr", "0"); // no evaluation after the first is better
    set(&config, "eval.every", "1");
    set(&config, "train.early_stopping", "4");
    require_ok(train(&config, "early", NULL, "auto", NULL, run));
    char text[65], resumed[65];
    hash_of(run, 5, text);
    for (int attempt = 1; attempt <= 5; attempt++)
        assert_int_equal(train(&config, "early-resumed", NULL, "auto", &stop, run), LS_STOPPED);
    require_ok(train(&config, "early-resumed", NULL, "auto", &stop, run));
    hash_of(run, 5, resumed);
    assert_string_equal(text, resumed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mode_of_sharding_computes_the_same),
        cmocka_unit_test(strict_device_computes_what_ref_computes),
        cmocka_unit_test(a_discrete_device_stops_one_step_later),
        cmocka_unit_test(the_search_for_a_loss_scale),
        cmocka_unit_test(guards_on_a_discrete_device),
        cmocka_unit_test(a_device_that_is_wrong_once),
        cmocka_unit_test(the_loss_scale_survives_what_it_should),
        cmocka_unit_test(stopping_after_each_step_changes_no_bit),
        cmocka_unit_test(divergence_is_seen_and_named),
        cmocka_unit_test(another_model_is_refused),
        cmocka_unit_test(early_stopping_survives_a_resume),
    };
    return cmocka_run_group_tests(tests, set_up_data, tear_down_data);
}
