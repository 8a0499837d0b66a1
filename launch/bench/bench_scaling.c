// lockstep bench scaling: the same training on several numbers of ranks, each started through mpirun.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "launcher.h"

enum { COUNTS_MAX = 32, ROUNDS_MAX = 1000 };

typedef enum Kind { STRONG, WEAK } Kind;
static const char *const kinds[] = {"strong", "weak", NULL};

typedef struct Arguments {
    LsBenchInput input;
    const char *ranks, *launcher, *folder;
    int64_t windows, warm_up, every, rounds;
    int kind;
    bool independent;
} Arguments;

// What one number of ranks did; arrays by round.
typedef struct Count {
    int ranks;
    int64_t batch, lanes;
    double balance; // lanes of an even share over those of the busiest rank
    double *seconds, *samples, *efficiency, *comm, *least_comm, *mfu;
    double *of_independent; // throughput by that of as many independent ranks
    int64_t windows, discarded;
    bool disturbed;
} Count;

typedef struct Bench {
    Arguments arguments;
    LsConfig config;
    Count count[COUNTS_MAX];
    size_t counts;
    bool *unusable; // [rounds] all false: a round's numbers are medians of undisturbed windows already
    char folder[LS_PATH_MAX];
} Bench;

// ---- Arguments ------------------------------------------------------------------------------------------

static LsStatus read_arguments(LsInvocation *invocation, Bench *bench)
{
    Arguments *a = &bench->arguments;
    const LsFlag flags[] = {
        {"ranks", 0, LS_FLAG_TEXT, &a->ranks, "LIST", "Numbers of ranks; the first one is the base (1,2).", 0,
            NULL},
        {"kind", 0, LS_FLAG_CHOICE, &a->kind, "KIND",
            "strong: the same batch on all (default); weak: batch and lanes grow with the ranks.", 0, kinds},
        {"rounds", 0, LS_FLAG_COUNT, &a->rounds, "N", "Times that all take their turn (3).", 1, NULL},
        {"windows", 'n', LS_FLAG_COUNT, &a->windows, "N", "Undisturbed windows wanted of each run (20).", 1,
            NULL},
        {"warm-up", 'w', LS_FLAG_COUNT, &a->warm_up, "N", "Windows before that, which do not count (3).", 2,
            NULL},
        {"every", 0, LS_FLAG_COUNT, &a->every, "K", "Steps of a window, as bench step has it.", 1, NULL},
        {"independent", 0, LS_FLAG_SWITCH, &a->independent, NULL,
            "Compares with as many runs of one rank at once, each with its part of batch and lanes.", 0,
            NULL},
        {"launcher", 0, LS_FLAG_TEXT, &a->launcher, "COMMAND",
            "What starts {ranks} ranks (mpirun -np {ranks} --bind-to core).", 0, NULL},
        {"folder", 0, LS_FLAG_TEXT, &a->folder, "DIR",
            "Where the runs have their directories meanwhile, seen by all hosts (TMPDIR or /tmp).", 0, NULL},
    };
    LS_TRY(ls_bench_read(invocation, LS_FLAG_TABLE(flags), &a->input, &bench->config));
    if (invocation->helped)
        return LS_OK;
    if (a->rounds > ROUNDS_MAX)
        return LS_FAIL(LS_USAGE, "--rounds %lld: at most %d", (long long)a->rounds, ROUNDS_MAX);
    if (a->independent && a->launcher)
        return LS_FAIL(LS_USAGE, "--independent starts processes of this host, which --launcher may leave");
    return LS_OK;
}

static LsStatus read_ranks(Bench *bench)
{
    const char *text = bench->arguments.ranks;
    for (const char *place = text;;) {
        char *end;
        errno = 0;
        long ranks = strtol(place, &end, 10);
        if (errno || end == place || ranks < 1 || ranks > LS_LANES_MAX || (*end && *end != ',') ||
            bench->counts == COUNTS_MAX)
            return LS_FAIL(LS_USAGE, "--ranks %s: expected up to %d numbers from 1 to %d, such as 1,2,4",
                text, COUNTS_MAX, LS_LANES_MAX);
        bench->count[bench->counts++].ranks = (int)ranks;
        if (!*end)
            return LS_OK;
        place = end + 1;
    }
}

static LsStatus shape_count(const Bench *bench, Count *count)
{
    int base = bench->count[0].ranks, factor = count->ranks / base;
    bool weak = bench->arguments.kind == WEAK;
    if (weak && (count->ranks % base != 0 || (factor & (factor - 1)) != 0))
        return LS_FAIL(LS_USAGE,
            "--ranks: weak scaling multiplies the first number, %d, by powers of two; %d is none of these",
            base, count->ranks);
    count->batch = bench->config.train.batch * (weak ? factor : 1);
    count->lanes = bench->config.train.lanes * (weak ? factor : 1);
    uint32_t most = 0;
    for (int r = 0; r < count->ranks; r++) {
        LsLaneShare share;
        if (count->lanes > LS_LANES_MAX)
            return LS_FAIL(LS_CONFIG, "%lld lanes on %d ranks: at most %d", (long long)count->lanes,
                count->ranks, LS_LANES_MAX);
        LS_TRY(ls_lane_share((uint32_t)count->lanes, (uint32_t)count->ranks, (uint32_t)r, &share));
        most = share.count > most ? share.count : most;
    }
    if (bench->arguments.independent && count->lanes % count->ranks != 0)
        return LS_FAIL(LS_USAGE, "--independent: %d ranks have no even part of %lld lanes", count->ranks,
            (long long)count->lanes);
    count->balance = (double)count->lanes / ((double)most * count->ranks);
    return LS_OK;
}

static LsStatus allocate_count(const Bench *bench, Count *count)
{
    double **arrays[] = {&count->seconds, &count->samples, &count->efficiency, &count->comm,
        &count->least_comm, &count->mfu, &count->of_independent};
    size_t bytes = (size_t)bench->arguments.rounds * sizeof(double);
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        LS_TRY(ls_memory_allocate(bytes, (void **)arrays[i]));
    return LS_OK;
}

static LsStatus prepare(LsInvocation *invocation, Bench *bench)
{
    Arguments *a = &bench->arguments;
    LS_TRY(read_arguments(invocation, bench));
    if (invocation->helped)
        return LS_OK;
    LS_TRY(read_ranks(bench));
    for (size_t i = 0; i < bench->counts; i++) {
        LS_TRY(shape_count(bench, &bench->count[i]));
        LS_TRY(allocate_count(bench, &bench->count[i]));
    }
    return ls_memory_allocate((size_t)a->rounds * sizeof(bool), (void **)&bench->unusable);
}

// ---- Runs -----------------------------------------------------------------------------------------------

// What follows the program's path. parts: what batch and lanes are divided by.
static void add_words(const Bench *bench, const Count *count, int parts, const char *json, LsWords *words)
{
    const Arguments *a = &bench->arguments;
    const char *const head[] = {"bench", "step", "-c", a->input.file, "--folder", bench->folder};
    for (size_t i = 0; i < sizeof head / sizeof *head; i++)
        ls_words_add(words, head[i]);
    ls_words_add(words, "--json");
    ls_words_format(words, "%s", json);
    ls_words_add(words, "-n");
    ls_words_format(words, "%lld", (long long)a->windows);
    ls_words_add(words, "-w");
    ls_words_format(words, "%lld", (long long)a->warm_up);
    if (a->every > 0) {
        ls_words_add(words, "--every");
        ls_words_format(words, "%lld", (long long)a->every);
    }
    for (size_t i = 0; i < a->input.settings.count; i++) {
        ls_words_add(words, "--set");
        ls_words_add(words, a->input.settings.text[i]);
    }
    ls_words_add(words, "--set");
    ls_words_format(words, "train.batch=%lld", (long long)count->batch / parts);
    ls_words_add(words, "--set");
    ls_words_format(words, "train.lanes=%lld", (long long)count->lanes / parts);
}

static double number(const json_t *report, const char *name, const char *member)
{
    const json_t *value = json_object_get(report, name);
    return json_number_value(member ? json_object_get(value, member) : value);
}

static LsStatus take_report(const char *path, size_t round, Count *count, json_t **machine)
{
    json_t *report;
    LS_TRY(ls_json_read(path, (size_t)1 << 24, LS_INTERNAL, &report));
    const json_t *seconds = json_object_get(report, "step_seconds");
    count->seconds[round] = number(report, "step_seconds", "median");
    count->samples[round] = number(report, "samples_per_second", NULL);
    count->comm[round] = number(report, "comm_seconds", "median");
    count->least_comm[round] = number(report, "least_comm_seconds", "median");
    count->mfu[round] = number(report, "mfu", NULL);
    count->windows += (int64_t)json_integer_value(json_object_get(seconds, "windows"));
    count->discarded += (int64_t)json_integer_value(json_object_get(seconds, "discarded"));
    count->disturbed |= json_is_true(json_object_get(seconds, "disturbed"));
    json_decref(*machine);
    *machine = json_incref(json_object_get(report, "machine"));
    json_decref(report);
    int ranks = (int)number(*machine, "ranks", NULL);
    if (ranks != count->ranks)
        return LS_FAIL(LS_USAGE,
            "--launcher started %d rank%s where %d were wanted: it says how many by {ranks}, as in \"mpirun "
            "-np "
            "{ranks}\"",
            ranks, ranks == 1 ? "" : "s", count->ranks);
    return count->seconds[round] > 0 ? LS_OK : LS_FAIL(LS_INTERNAL, "%s has no step's time", path);
}

static LsStatus run_ranks(Bench *bench, Count *count, size_t round, json_t **machine)
{
    char json[LS_PATH_MAX], what[64];
    LsWords words = {0};
    LsChild child;
    snprintf(what, sizeof what, "the run on %d rank%s", count->ranks, count->ranks == 1 ? "" : "s");
    LS_TRY(ls_path_join(json, bench->folder, "step.json"));
    LS_TRY(ls_words_launch(&words, bench->arguments.launcher, count->ranks));
    add_words(bench, count, 1, json, &words);
    LS_TRY(ls_words_start(&words, bench->folder, "stderr", -1, &child));
    LS_TRY(ls_child_wait(&child, what));
    LS_TRY(take_report(json, round, count, machine));
    const Count *base = &bench->count[0];
    count->efficiency[round] =
        count->samples[round] / base->samples[round] * (double)base->ranks / count->ranks;
    return LS_OK;
}

static LsStatus name_independent(const Bench *bench, int i, char json[LS_PATH_MAX])
{
    char name[32];
    snprintf(name, sizeof name, "alone-%d.json", i);
    return ls_path_join(json, bench->folder, name);
}

static LsStatus start_independent(const Bench *bench, const Count *count, int i, LsChild *child)
{
    char json[LS_PATH_MAX], errors[32];
    LsWords words = {0};
    snprintf(errors, sizeof errors, "stderr-%d", i);
    LS_TRY(name_independent(bench, i, json));
    LS_TRY(ls_words_self(&words));
    add_words(bench, count, count->ranks, json, &words);
    return ls_words_start(&words, bench->folder, errors, i, child);
}

static LsStatus read_independent(const Bench *bench, int i, double *samples)
{
    char json[LS_PATH_MAX];
    json_t *report;
    LS_TRY(name_independent(bench, i, json));
    LS_TRY(ls_json_read(json, (size_t)1 << 24, LS_INTERNAL, &report));
    double its = number(report, "samples_per_second", NULL);
    *samples += its;
    json_decref(report);
    return its > 0 ? LS_OK : LS_FAIL(LS_INTERNAL, "%s has no throughput", json);
}

// As many runs of one rank at once, each bound to a core of its own.
static LsStatus run_independent(Bench *bench, Count *count, size_t round)
{
    LsChild *child;
    double samples = 0;
    LS_TRY(ls_memory_allocate((size_t)count->ranks * sizeof *child, (void **)&child));
    LsStatus status = LS_OK;
    for (int i = 0; status == LS_OK && i < count->ranks; i++)
        status = start_independent(bench, count, i, &child[i]);
    for (int i = 0; status == LS_OK && i < count->ranks; i++)
        status = ls_child_wait(&child[i], "an independent run");
    for (int i = 0; i < count->ranks; i++) // those that are left after a failure
        ls_child_kill(&child[i]);
    for (int i = 0; status == LS_OK && i < count->ranks; i++)
        status = read_independent(bench, i, &samples);
    if (status == LS_OK)
        count->of_independent[round] = count->samples[round] / samples;
    free(child);
    return status;
}

static LsStatus run_count(Bench *bench, Count *count, size_t round, json_t **machine)
{
    LS_TRY(run_ranks(bench, count, round, machine));
    return bench->arguments.independent ? run_independent(bench, count, round) : LS_OK;
}

// ---- Results --------------------------------------------------------------------------------------------

static void print_head(const Bench *bench)
{
    const Arguments *a = &bench->arguments;
    printf("# %s scaling, %lld rounds of all in turn, %lld windows a run; medians of the rounds (lowest to "
           "highest)\n",
        kinds[a->kind], (long long)a->rounds, (long long)a->windows);
    printf("#%5s %8s %6s %8s %11s %-21s %11s %10s %-16s %10s %6s %9s\n", "ranks", "batch", "lanes", "balance",
        "ms a step", "", "samples/s", "efficiency", "", "exposed ms", "%", "discarded");
}

static LsStatus report_count(const Bench *bench, const Count *count, json_t *rows)
{
    LsSpread seconds, samples, efficiency, comm, least, mfu, alone;
    size_t rounds = (size_t)bench->arguments.rounds;
    const struct {
        const double *values;
        LsSpread *spread;
    } all[] = {{count->seconds, &seconds}, {count->samples, &samples}, {count->efficiency, &efficiency},
        {count->comm, &comm}, {count->least_comm, &least}, {count->mfu, &mfu},
        {count->of_independent, &alone}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        LS_TRY(ls_bench_spread(all[i].values, bench->unusable, rounds, all[i].spread));
    char times[48], part[48];
    snprintf(times, sizeof times, "(%.2f to %.2f)", seconds.lowest * 1e3, seconds.highest * 1e3);
    snprintf(part, sizeof part, "(%.3f to %.3f)", efficiency.lowest, efficiency.highest);
    printf("%6d %8lld %6lld %8.3f %11.3f %-21s %11.1f %10.3f %-16s %10.3f %6.1f %8lld%s\n", count->ranks,
        (long long)count->batch, (long long)count->lanes, count->balance, seconds.median * 1e3, times,
        samples.median, efficiency.median, part, comm.median * 1e3, 100 * comm.median / seconds.median,
        (long long)count->discarded, count->disturbed ? "!" : "");
    if (bench->arguments.independent)
        printf("%6s %.3f (%.3f to %.3f) of the throughput of as many independent runs\n", "", alone.median,
            alone.lowest, alone.highest);
    fflush(stdout);
    json_t *row = json_pack("{s:i, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:b}", "ranks",
        count->ranks, "batch", (json_int_t)count->batch, "lanes", (json_int_t)count->lanes, "balance",
        ls_json_number(count->balance), "step_seconds", ls_bench_spread_json(&seconds, 1),
        "samples_per_second", ls_bench_spread_json(&samples, 1), "efficiency",
        ls_bench_spread_json(&efficiency, 1), "comm_seconds", ls_bench_spread_json(&comm, 1),
        "least_comm_seconds", ls_bench_spread_json(&least, 1), "mfu",
        mfu.median > 0 ? ls_bench_spread_json(&mfu, 1) : json_null(), "of_independent",
        bench->arguments.independent ? ls_bench_spread_json(&alone, 1) : json_null(), "windows",
        (json_int_t)count->windows, "discarded", (json_int_t)count->discarded, "disturbed", count->disturbed);
    return json_array_append_new(rows, row) == 0 ? LS_OK : LS_FAIL(LS_INTERNAL, "no memory for the report");
}

// The machine is as the last run saw it.
static LsStatus report(LsInvocation *invocation, Bench *bench, json_t *machine)
{
    json_t *rows = json_array(), *object = ls_bench_report(invocation, NULL);
    LsStatus status = LS_OK;
    print_head(bench);
    for (size_t i = 0; status == LS_OK && i < bench->counts; i++)
        status = report_count(bench, &bench->count[i], rows);
    json_object_set(object, "machine", machine);
    json_object_update_new(
        object, json_pack("{s:s, s:i, s:I, s:s, s:O}", "kind", kinds[bench->arguments.kind], "base",
                    bench->count[0].ranks, "rounds", (json_int_t)bench->arguments.rounds, "configuration",
                    bench->arguments.input.file, "rows", rows));
    json_decref(rows);
    if (status != LS_OK) {
        json_decref(object);
        return status;
    }
    return ls_bench_report_write(object, bench->arguments.input.json);
}

static LsStatus run_rounds(LsInvocation *invocation, Bench *bench)
{
    json_t *machine = NULL;
    LsStatus status = LS_OK;
    for (int64_t round = 0; status == LS_OK && round < bench->arguments.rounds; round++) {
        for (size_t i = 0; status == LS_OK && i < bench->counts; i++)
            status = run_count(bench, &bench->count[i], (size_t)round, &machine);
        if (status == LS_OK)
            fprintf(stderr, "round %lld/%lld\n", (long long)round + 1, (long long)bench->arguments.rounds);
    }
    if (status == LS_OK)
        status = report(invocation, bench, machine);
    json_decref(machine);
    return status;
}

static void free_counts(Bench *bench)
{
    for (size_t i = 0; i < bench->counts; i++) {
        Count *count = &bench->count[i];
        free(count->of_independent);
        free(count->mfu);
        free(count->least_comm);
        free(count->comm);
        free(count->efficiency);
        free(count->samples);
        free(count->seconds);
    }
    free(bench->unusable);
}

// The prediction is a command of its own, wherever the option stands.
static bool predicts(const LsInvocation *invocation)
{
    for (int i = 1; i < invocation->argc; i++)
        if (strcmp(invocation->argv[i], "--predict") == 0)
            return true;
    return false;
}

LsStatus ls_bench_scaling(LsInvocation *invocation)
{
    if (predicts(invocation)) {
        invocation->command = &ls_command_bench_predict;
        return invocation->command->run(invocation);
    }
    Bench bench = {.arguments = {.ranks = "1,2", .rounds = 3, .windows = 20, .warm_up = 3}};
    LsStatus status = prepare(invocation, &bench);
    if (!invocation->helped && status == LS_OK) {
        status = ls_bench_folder(bench.arguments.folder, bench.folder);
        if (status == LS_OK) {
            status = run_rounds(invocation, &bench);
            ls_bench_folder_remove(bench.folder);
        }
    }
    free_counts(&bench);
    return status;
}
