// lockstep train
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "command.h"
#include "train/trainer.h"

static const char help[] =
    "usage: lockstep train -c FILE [--set section.key=value]... [--run-dir DIR] [--resume "
    "auto|never|CHECKPOINT]\n"
    "                      [--dry-run [--ranks N]] [--profile STEPS] [-q|-v]\n"
    "\n"
    "Trains the model that FILE describes; alone as one rank, or as many ranks under mpirun or srun.\n"
    "\n"
    "  -c, --config FILE   configuration (docs/configuration.md)\n"
    "  --set KEY=VALUE     sets one option, over file and environment; may be repeated\n"
    "  --run-dir DIR       where the run lives (default runs/<name of FILE>)\n"
    "  --resume HOW        auto: go on where the run stopped (default); never: archive it and start afresh;\n"
    "                      a checkpoint directory: go on from there\n"
    "  --dry-run           prints lanes, memory and messages of each rank, and trains nothing\n"
    "  --ranks N           ranks to plan for with --dry-run (default: as started)\n"
    "  --profile STEPS     writes a Chrome trace of the first STEPS steps to <run>/profile/\n"
    "  -q, -v              less, or more, on the terminal\n"
    "\n"
    "SIGUSR1, SIGUSR2, SIGTERM and SIGINT: saves after the current step and exits with 75. The same command "
    "goes on.\n";

static volatile int stop_signal;

static void ask_to_stop(int signal_number)
{
    stop_signal = signal_number;
}

static void catch_signals(void)
{
    static const int signals[] = {SIGUSR1, SIGUSR2, SIGTERM, SIGINT};
    struct sigaction action = {.sa_handler = ask_to_stop, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, NULL);
}

typedef struct TrainWords {
    LsConfigSources sources;
    const char *run_dir, *resume;
    bool dry_run, quiet, verbose;
    int64_t ranks, profile;
} TrainWords;

static LsStatus read_words(int argc, char **argv, TrainWords *words)
{
    int others = 0;
    const LsFlag flags[] = {
        {.name = "config", .letter = 'c', .text = &words->sources.file},
        {.name = "set", .collect = ls_collect_setting, .context = &words->sources},
        {.name = "run-dir", .text = &words->run_dir},
        {.name = "resume", .text = &words->resume},
        {.name = "dry-run", .set = &words->dry_run},
        {.name = "ranks", .integer = &words->ranks},
        {.name = "profile", .integer = &words->profile},
        {.name = "quiet", .letter = 'q', .set = &words->quiet},
        {.name = "verbose", .letter = 'v', .set = &words->verbose},
        {0},
    };
    LS_TRY(ls_flags_read("train", flags, argc, argv, &others));
    LS_TRY(ls_words_check("train", others, 0, 0));
    if (!words->sources.file)
        return LS_FAIL(LS_USAGE, "train: -c FILE is missing (see lockstep train --help)");
    if (words->profile < 0 || words->profile > 100000)
        return LS_FAIL(LS_USAGE, "train: --profile takes 1 to 100000 steps");
    return LS_OK;
}

// runs/<name of the configuration file without its ending>
static void default_run_dir(const char *file, char *path, size_t size)
{
    const char *slash = strrchr(file, '/'), *name = slash ? slash + 1 : file;
    size_t length = strcspn(name, ".");
    snprintf(path, size, "runs/%.*s", length ? (int)length : (int)strlen(name), name);
}

static LsStatus prepare(int argc, char **argv, TrainWords *words, LsConfig *config)
{
    LS_TRY(read_words(argc, argv, words));
    ls_config_defaults(config);
    LS_TRY(ls_config_load(&words->sources, config));
    return ls_config_validate(config);
}

static LsStatus dry_run(LsComm *comm, const LsConfig *config, int64_t ranks)
{
    if (ls_comm_rank(comm) != 0)
        return ls_comm_agree(comm, LS_OK);
    int planned = ranks > 0 ? (int)ranks : ls_comm_size(comm);
    return ls_comm_agree(comm, ls_train_dry_run(config, planned, stdout));
}

static LsStatus run(LsComm *comm, int argc, char **argv)
{
    static LsConfig config; // large, and needed to the end
    TrainWords words = {.resume = "auto"};
    char run_dir[LS_PATH_MAX];
    LS_TRY(ls_comm_agree(comm, prepare(argc, argv, &words, &config)));
    LS_TRY(ls_comm_configure(
        comm, &(LsCommOptions){.kind = config.collectives.backend, .timeout = config.collectives.timeout}));
    LsLogLevel level = words.quiet ? LS_LOG_WARN : words.verbose ? LS_LOG_DEBUG : LS_LOG_INFO;
    ls_log_configure(level, ls_comm_rank(comm), ls_comm_size(comm));
    if (words.dry_run)
        return dry_run(comm, &config, words.ranks);
    default_run_dir(words.sources.file, run_dir, sizeof run_dir);
    catch_signals();
    return ls_train(&(LsTrainOptions){.config = &config,
        .run_dir = words.run_dir ? words.run_dir : run_dir,
        .resume = words.resume,
        .profile_steps = (int)words.profile,
        .comm = comm,
        .quiet = words.quiet,
        .stop_signal = &stop_signal});
}

const LsCommand ls_command_train = {
    .name = "train", .summary = "train a model", .help = help, .run = run, .parallel = true};
