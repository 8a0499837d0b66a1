// lockstep train
#include "command.h"

#include <signal.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "train/trainer.h"

typedef struct TrainArguments {
    const char *config, *run_dir, *resume, *mtbf;
    LsTextList settings;
    bool dry_run, quiet, verbose;
    int64_t ranks, ranks_per_host, profile;
} TrainArguments;

// Signals that ask the run to save and stop. The handler only notes them; the ranks agree on it at the end of
// a step. SIGCONT is a hint: mpirun sends it a second before SIGTERM.
static LsStopSignal stop_signal;

static void note_signal(int number)
{
    if (number == SIGCONT) {
        stop_signal.continued++;
        return;
    }
    if (!stop_signal.number)
        stop_signal.seconds = ls_clock_seconds();
    stop_signal.number = number;
}

// On a stack of its own: oneDNN's generated AVX2 products use the stack pointer as a pointer into their
// operands, and what a signal that comes then puts on "the stack" would overwrite the heap.
static void catch_signals(void)
{
    static const int caught[] = {SIGUSR1, SIGUSR2, SIGTERM, SIGINT, SIGCONT};
    static _Alignas(64) char memory[64 << 10]; // the largest register file (AMX) takes 11 KiB
    const stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
    sigaltstack(&stack, NULL);
    struct sigaction action = {.sa_handler = note_signal};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof caught / sizeof caught[0]; i++) {
        // A second Ctrl-C ends the process at once.
        action.sa_flags = SA_ONSTACK | SA_RESTART | (caught[i] == SIGINT ? (int)SA_RESETHAND : 0);
        sigaction(caught[i], &action, NULL);
    }
    // A reader of the progress that goes away, or a limit on file sizes, is an error of a write; it must not
    // end a rank.
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

static LsStatus read_arguments(LsInvocation *invocation, TrainArguments *a)
{
    const LsFlag flags[] = {
        {"config", 'c', LS_FLAG_TEXT, &a->config, "FILE", "Configuration file.", 0, NULL},
        {"set", 0, LS_FLAG_LIST, &a->settings, "A.B=V", "Sets one option; may be repeated.", 0, NULL},
        {"run-dir", 0, LS_FLAG_TEXT, &a->run_dir, "DIR",
            "Directory of the run; by default runs/NAME for a configuration NAME.yaml.", 0, NULL},
        {"resume", 0, LS_FLAG_TEXT, &a->resume, "WHAT",
            "auto: go on where the directory stopped (default); never: archive the old run and start anew; "
            "or a "
            "checkpoint's directory.",
            0, NULL},
        {"mtbf", 0, LS_FLAG_TEXT, &a->mtbf, "HOURS",
            "Mean time between failures of the job: saves as often as loses least "
            "(checkpoint.policy=auto, checkpoint.mtbf=HOURS).",
            0, NULL},
        {"dry-run", 0, LS_FLAG_SWITCH, &a->dry_run, NULL, "Prints what the run would do, and does nothing.",
            0, NULL},
        {"ranks", 0, LS_FLAG_COUNT, &a->ranks, "N", "Ranks that --dry-run plans for.", 1, NULL},
        {"ranks-per-host", 0, LS_FLAG_COUNT, &a->ranks_per_host, "N",
            "Of these on one host, for --dry-run: what ranks share there is counted once.", 1, NULL},
        {"profile", 0, LS_FLAG_COUNT, &a->profile, "STEPS",
            "Writes a Chrome trace of every rank's phases for that many steps to profile/.", 1, NULL},
        {"quiet", 'q', LS_FLAG_SWITCH, &a->quiet, NULL, "Shows warnings only.", 0, NULL},
        {"verbose", 'v', LS_FLAG_SWITCH, &a->verbose, NULL, "Shows more.", 0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, 0));
    if (invocation->helped)
        return LS_OK;
    if (!a->config)
        return LS_FAIL(LS_USAGE, "-c FILE is missing; see lockstep train --help");
    if (a->ranks && !a->dry_run)
        return LS_FAIL(
            LS_USAGE, "--ranks is for --dry-run; a run's ranks are started by mpirun -np N or srun -n N");
    if (a->ranks_per_host && !a->dry_run)
        return LS_FAIL(
            LS_USAGE, "--ranks-per-host is for --dry-run; where a run's ranks are is mpirun's or srun's");
    if (a->profile > INT32_MAX)
        return LS_FAIL(LS_USAGE, "--profile %lld: too many steps", (long long)a->profile);
    return LS_OK;
}

// runs/NAME for configs/NAME.yaml.
static LsStatus default_run_dir(const char *config, char path[LS_PATH_MAX])
{
    const char *slash = strrchr(config, '/'), *name = slash ? slash + 1 : config;
    const char *dot = strrchr(name, '.');
    int length = dot && dot != name ? (int)(dot - name) : (int)strlen(name);
    if (snprintf(path, LS_PATH_MAX, "runs/%.*s", length, name) >= LS_PATH_MAX)
        return LS_FAIL(LS_USAGE, "%s: the name is too long for a run directory; give --run-dir", config);
    return LS_OK;
}

static LsStatus prepare(const TrainArguments *a, LsConfig *config, char run_dir[LS_PATH_MAX])
{
    LS_TRY(ls_launch_configure(a->config, &a->settings, config));
    if (a->mtbf) {
        LS_TRY(ls_config_set(config, "checkpoint.policy", "auto", "--mtbf"));
        LS_TRY(ls_config_set(config, "checkpoint.mtbf", a->mtbf, "--mtbf"));
    }
    LS_TRY(ls_config_validate(config));
    if (!a->run_dir)
        return default_run_dir(a->config, run_dir);
    if (snprintf(run_dir, LS_PATH_MAX, "%s", a->run_dir) >= LS_PATH_MAX)
        return LS_FAIL(LS_USAGE, "--run-dir %.64s…: the path is too long", a->run_dir);
    return LS_OK;
}

LsStatus ls_train_find_run(int argc, char **argv, char run_dir[LS_PATH_MAX], LsConfig *config)
{
    LsInvocation invocation = {.command = &ls_command_train, .argc = argc, .argv = argv};
    TrainArguments arguments = {.resume = "auto"};
    LS_TRY(read_arguments(&invocation, &arguments));
    if (invocation.helped || arguments.dry_run)
        return LS_FAIL(
            LS_USAGE, "train %s needs no launch: run it alone", invocation.helped ? "--help" : "--dry-run");
    return prepare(&arguments, config, run_dir);
}

static LsStatus run(LsInvocation *invocation)
{
    TrainArguments arguments = {.resume = "auto"};
    LsConfig config;
    char run_dir[LS_PATH_MAX];
    LsStatus prepared = read_arguments(invocation, &arguments);
    if (invocation->helped)
        return LS_OK;
    // Before the ranks meet, which takes a while: a signal in it would else kill a rank.
    if (!arguments.dry_run)
        catch_signals();
    if (prepared == LS_OK)
        prepared = prepare(&arguments, &config, run_dir);
    if (prepared == LS_OK && !arguments.dry_run)
        prepared = ls_supervised_enter(invocation);
    LS_TRY(ls_invocation_join(invocation, prepared, &config));
    LsComm *comm = invocation->comm;
    int ranks = ls_comm_size(comm);
    LsLogLevel level = arguments.quiet ? LS_LOG_WARN : arguments.verbose ? LS_LOG_DEBUG : LS_LOG_INFO;
    ls_log_configure(level, ls_comm_rank(comm), ranks);
    if (arguments.dry_run) {
        if (arguments.ranks)
            ranks = arguments.ranks > LS_LANES_MAX + 1 ? LS_LANES_MAX + 1 : (int)arguments.ranks;
        int64_t each = arguments.ranks_per_host;
        if (!ls_invocation_speaks(invocation))
            return LS_OK;
        return ls_train_dry_run(&config, ranks, each > LS_LANES_MAX ? LS_LANES_MAX : (int)each, stdout);
    }
    return ls_train(&(LsTrainOptions){
        .config = &config,
        .run_dir = run_dir,
        .resume = arguments.resume,
        .profile_steps = (int)arguments.profile,
        .quiet = arguments.quiet,
        .comm = comm,
        .pulse = invocation->pulse,
        .stop_signal = &stop_signal,
    });
}

const LsCommand ls_command_train = {
    .name = "train",
    .arguments = "-c FILE [options]",
    .summary = "trains a model, alone or on many ranks under mpirun or srun",
    .about =
        "Trains to train.max_steps or train.max_epochs and writes checkpoints and metrics to the run\n"
        "directory. Started again, it goes on from the newest checkpoint, on any number of ranks up to\n"
        "train.lanes, with the same bits. SIGUSR1, SIGUSR2, SIGTERM or SIGINT make it save and stop with "
        "exit\n"
        "code 75. The configuration is: defaults < FILE < LOCKSTEP_SECTION_KEY in the environment < --set.",
    .several_ranks = true,
    .run = run,
};
