// lockstep bench checkpoint: how fast checkpoints are written and verified, and what they cost training.
//
// A save is written while training goes on. What it costs is the time of the steps that were under way with
// it, less as many steps without one: the median of those in the last two fifths of the way to the next save,
// where nothing of it is left.
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/memory.h"
#include "rehearsal.h"
#include "train/checkpoint.h"

typedef struct Arguments {
    LsBenchInput input;
    const char *folder;
    int64_t saves, every;
} Arguments;

// Of each save, [saves].
typedef struct Saves {
    size_t count;
    double *durable, *write, *waited, *stall; // seconds
    bool *disturbed;
} Saves;

typedef struct Bench {
    Arguments arguments;
    LsConfig config;
    LsComm *comm;
    LsRehearsal rehearsal;
    Saves saves;
    double plain;     // seconds of a step without a save
    double bytes;     // of a checkpoint's file
    double verify[3]; // seconds
} Bench;

enum { SAVES_MAX = 1000, EVERY_MAX = 100000, EVERY_MIN = 5, VERIFIES = 3 };

static LsStatus prepare(LsInvocation *invocation, Bench *bench)
{
    Arguments *a = &bench->arguments;
    const LsFlag flags[] = {
        {"saves", 'n', LS_FLAG_COUNT, &a->saves, "N", "Checkpoints (5).", 1, NULL},
        {"every", 0, LS_FLAG_COUNT, &a->every, "K",
            "Steps from one to the next: so many that one is done long before the next begins (20).",
            EVERY_MIN, NULL},
        {"folder", 0, LS_FLAG_TEXT, &a->folder, "DIR",
            "Where they are written, seen by all hosts: the storage that is measured (TMPDIR or /tmp).", 0,
            NULL},
    };
    LS_TRY(ls_bench_read(invocation, LS_FLAG_TABLE(flags), &a->input, &bench->config));
    if (invocation->helped)
        return LS_OK;
    if (a->saves > SAVES_MAX || a->every > EVERY_MAX)
        return LS_FAIL(LS_USAGE, "--saves takes at most %d and --every %d", SAVES_MAX, EVERY_MAX);
    return LS_OK;
}

// ---- What the run tells ---------------------------------------------------------------------------------

static const LsStepWindow *window_of(const Bench *bench, int64_t step)
{
    int64_t i = step - bench->rehearsal.window[0].step;
    return i >= 0 && i < (int64_t)bench->rehearsal.windows ? &bench->rehearsal.window[i] : NULL;
}

static LsStatus find_plain(Bench *bench)
{
    int64_t every = bench->arguments.every, settled = every * 3 / 5;
    double *values;
    size_t count = 0;
    LsSpread spread;
    LS_TRY(ls_memory_allocate(bench->rehearsal.windows * sizeof *values, (void **)&values));
    for (size_t i = 0; i < bench->rehearsal.windows; i++) {
        const LsStepWindow *window = &bench->rehearsal.window[i];
        // The step of a save comes before it.
        if ((window->step - 1) % every >= settled && window->step > every)
            values[count++] = window->seconds;
    }
    LsStatus status = count > 0 ? ls_bench_spread(values, NULL, count, &spread)
                                : LS_FAIL(LS_INTERNAL, "no step was without a save");
    free(values);
    LS_TRY(status);
    bench->plain = spread.median;
    return LS_OK;
}

// The steps behind `step` that began before so many seconds were over.
static void add_stall(const Bench *bench, int64_t step, double seconds, double *stall, bool *disturbed)
{
    double clock = 0;
    const LsStepWindow *window;
    *stall = 0;
    *disturbed = false;
    while (clock < seconds && (window = window_of(bench, ++step))) {
        *stall += window->seconds - bench->plain;
        *disturbed |= window->disturbed;
        clock += window->seconds;
    }
}

static double member(const json_t *object, const char *name)
{
    return json_number_value(json_object_get(object, name));
}

static void add_event(Bench *bench, const json_t *event)
{
    Saves *saves = &bench->saves;
    const char *kind = json_string_value(json_object_get(event, "event"));
    const char *path = json_string_value(json_object_get(event, "path"));
    if (!kind || strcmp(kind, "checkpoint") != 0 || !path || saves->count == (size_t)bench->arguments.saves)
        return;
    size_t i = saves->count++;
    saves->durable[i] = member(event, "seconds");
    saves->write[i] = member(event, "write_seconds");
    saves->waited[i] = member(event, "stall_seconds");
    add_stall(
        bench, (int64_t)member(event, "step"), saves->durable[i], &saves->stall[i], &saves->disturbed[i]);
}

static LsStatus read_events(Bench *bench)
{
    char path[LS_PATH_MAX], *text, *rest;
    size_t size;
    LS_TRY(ls_path_join(path, bench->rehearsal.run_dir, "events.jsonl"));
    LS_TRY(ls_file_read(path, (size_t)1 << 26, &text, &size));
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        json_t *event = json_loads(line, 0, NULL);
        add_event(bench, event);
        json_decref(event);
    }
    free(text);
    return bench->saves.count == (size_t)bench->arguments.saves
               ? LS_OK
               : LS_FAIL(LS_INTERNAL, "%s tells of %zu checkpoints, and %lld were begun", path,
                     bench->saves.count, (long long)bench->arguments.saves);
}

static LsStatus allocate_saves(Bench *bench)
{
    Saves *saves = &bench->saves;
    double **arrays[] = {&saves->durable, &saves->write, &saves->waited, &saves->stall};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        LS_TRY(ls_memory_allocate((size_t)bench->arguments.saves * sizeof(double), (void **)arrays[i]));
    return ls_memory_allocate((size_t)bench->arguments.saves * sizeof(bool), (void **)&saves->disturbed);
}

static void free_saves(Saves *saves)
{
    free(saves->disturbed);
    free(saves->stall);
    free(saves->waited);
    free(saves->write);
    free(saves->durable);
}

// ---- Verifying ------------------------------------------------------------------------------------------

static LsStatus verify(Bench *bench)
{
    char path[LS_PATH_MAX], file[LS_PATH_MAX];
    struct stat status;
    LsCheckpoint *checkpoint = NULL;
    LsStatus opened = ls_checkpoint_find(bench->rehearsal.run_dir, path);
    if (opened == LS_OK)
        opened = ls_checkpoint_open(path, &checkpoint);
    if (opened == LS_OK)
        opened = ls_path_join(file, path, "state.h5");
    if (opened == LS_OK && stat(file, &status) != 0)
        opened = ls_file_fail("examine", file);
    LsStatus result = ls_comm_agree(bench->comm, opened);
    for (int i = 0; result == LS_OK && i < VERIFIES; i++) {
        result = ls_comm_barrier(bench->comm);
        double start = ls_clock_seconds();
        if (result == LS_OK)
            result = ls_checkpoint_verify(checkpoint, bench->comm);
        bench->verify[i] = ls_clock_seconds() - start;
    }
    if (result == LS_OK)
        bench->bytes = (double)status.st_size;
    ls_checkpoint_close(checkpoint);
    return result;
}

static LsStatus measure(Bench *bench)
{
    const Arguments *a = &bench->arguments;
    LsRehearsalOptions options = {.comm = bench->comm,
        .config = &bench->config,
        .folder = a->folder,
        .warm_up = 1,
        .every = 1,
        .wanted = a->every * (a->saves + 1) - 1,
        .save_every = a->every,
        .fixed = true};
    LS_TRY(ls_rehearse(&options, &bench->rehearsal));
    return verify(bench);
}

// ---- Results --------------------------------------------------------------------------------------------

typedef struct Results {
    LsSpread durable, write, waited, stall, verify;
} Results;

static LsStatus find_results(Bench *bench, Results *r)
{
    const Saves *saves = &bench->saves;
    LS_TRY(allocate_saves(bench));
    LS_TRY(find_plain(bench));
    LS_TRY(read_events(bench));
    LS_TRY(ls_bench_spread(saves->durable, NULL, saves->count, &r->durable));
    LS_TRY(ls_bench_spread(saves->write, NULL, saves->count, &r->write));
    LS_TRY(ls_bench_spread(saves->waited, NULL, saves->count, &r->waited));
    LS_TRY(ls_bench_spread(saves->stall, saves->disturbed, saves->count, &r->stall));
    return ls_bench_spread(bench->verify, NULL, VERIFIES, &r->verify);
}

static void print_seconds(const char *name, const LsSpread *spread, double bytes)
{
    printf("  %-22s %9.1f ms  (%.1f to %.1f)", name, spread->median * 1e3, spread->lowest * 1e3,
        spread->highest * 1e3);
    if (bytes > 0)
        printf("  %.2f GB/s", bytes / spread->median * 1e-9);
    if (spread->discarded > 0)
        printf("  %zu disturbed ones discarded", spread->discarded);
    puts(spread->disturbed ? "  all were disturbed" : "");
}

static void print_results(const Bench *bench, const Results *r)
{
    printf("%zu checkpoints of %.1f MB on %d ranks, every %lld steps of %.3f ms\n", bench->saves.count,
        bench->bytes * 1e-6, ls_comm_size(bench->comm), (long long)bench->arguments.every,
        bench->plain * 1e3);
    print_seconds("until durable", &r->durable, bench->bytes);
    print_seconds("written and synced", &r->write, bench->bytes);
    print_seconds("training waited", &r->waited, 0);
    print_seconds("steps took longer by", &r->stall, 0);
    print_seconds("verified", &r->verify, bench->bytes);
}

static LsStatus report(LsInvocation *invocation, Bench *bench)
{
    Results r;
    LS_TRY(find_results(bench, &r));
    print_results(bench, &r);
    json_t *object = ls_bench_report(invocation, NULL);
    if (object)
        json_object_update_new(object,
            json_pack("{s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "bytes",
                ls_json_number(bench->bytes), "saves", (json_int_t)bench->saves.count, "every",
                (json_int_t)bench->arguments.every, "plain_step_seconds", ls_json_number(bench->plain),
                "durable_seconds", ls_bench_spread_json(&r.durable, 1), "write_seconds",
                ls_bench_spread_json(&r.write, 1), "waited_seconds", ls_bench_spread_json(&r.waited, 1),
                "stall_seconds", ls_bench_spread_json(&r.stall, 1), "verify_seconds",
                ls_bench_spread_json(&r.verify, 1), "write_bytes_per_second",
                ls_json_number(bench->bytes / r.write.median), "verify_bytes_per_second",
                ls_json_number(bench->bytes / r.verify.median)));
    return ls_bench_report_write(object, bench->arguments.input.json);
}

LsStatus ls_bench_checkpoint(LsInvocation *invocation)
{
    Bench bench = {.arguments = {.saves = 5, .every = 20}};
    LsStatus prepared = prepare(invocation, &bench);
    if (invocation->helped)
        return LS_OK;
    LS_TRY(ls_invocation_join(invocation, prepared, &bench.config));
    bench.comm = invocation->comm;
    LsStatus status = measure(&bench);
    if (status == LS_OK && ls_comm_rank(bench.comm) == 0)
        status = report(invocation, &bench);
    status = ls_comm_agree(bench.comm, status);
    ls_rehearsal_end(&bench.rehearsal);
    free_saves(&bench.saves);
    return status;
}
