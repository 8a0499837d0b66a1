// lockstep launch
#include "command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/supervise.h"

static const char *const launchers[] = {"mpirun", "srun", NULL};

static LsStatus read_arguments(LsInvocation *invocation, LsSuperviseOptions *o)
{
    const LsFlag flags[] = {
        {"ranks", 0, LS_FLAG_COUNT, &o->ranks, "N",
            "Ranks at most; without it as many as the hosts have slots, up to train.lanes, or 1.", 1, NULL},
        {"min-ranks", 0, LS_FLAG_COUNT, &o->min_ranks, "N",
            "Waits for hosts when there are slots for fewer (1).", 1, NULL},
        {"max-restarts", 0, LS_FLAG_COUNT, &o->max_restarts, "N",
            "Gives up after so many restarts without a newer checkpoint (10).", 0, NULL},
        {"hostfile", 0, LS_FLAG_TEXT, &o->hostfile, "FILE",
            "Hosts, in Open MPI's form `host slots=N`; read again now and then.", 0, NULL},
        {"discover", 0, LS_FLAG_TEXT, &o->discover, "COMMAND",
            "A command that prints the hosts that are there now, as `host:slots`.", 0, NULL},
        {"probe", 0, LS_FLAG_TEXT, &o->probe, "COMMAND",
            "A command, run with a host's name, that succeeds when the host answers; by default a connection "
            "to "
            "its ssh.",
            0, NULL},
        {"launcher", 0, LS_FLAG_CHOICE, &o->launcher, "NAME", "mpirun (default) or srun.", 0, launchers},
        {"grace", 0, LS_FLAG_REAL, &o->grace, "SECONDS",
            "How long the job may take to save when it is asked to stop (60).", 0, NULL},
        {"settle", 0, LS_FLAG_REAL, &o->settle, "SECONDS",
            "How long new slots must have been there before the job is stopped to use them (30).", 0, NULL},
        {"interface", 0, LS_FLAG_TEXT, &o->interface, "NAME",
            "Network interface, or address, where ranks on other hosts reach this process; by default only "
            "those "
            "of this host can.",
            0, NULL},
        {"mpi-args", 0, LS_FLAG_TEXT, &o->launcher_arguments, "TEXT",
            "More arguments for the launcher, taken apart as a shell would.", 0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, -1));
    if (invocation->helped)
        return LS_OK;
    if (invocation->input_count == 0 || strcmp(invocation->inputs[0], "train") != 0)
        return LS_FAIL(LS_USAGE, "what to launch is missing: lockstep launch [options] -- train -c FILE ...");
    if (o->hostfile && o->discover)
        return LS_FAIL(LS_USAGE, "--hostfile and --discover both say where ranks run; give one of them");
    if (o->ranks > 0 && o->min_ranks > o->ranks)
        return LS_FAIL(LS_USAGE, "--min-ranks %lld and --ranks %lld leave nothing to choose",
            (long long)o->min_ranks, (long long)o->ranks);
    return LS_OK;
}

// This program, as the ranks' hosts find it too.
static LsStatus find_program(char path[LS_PATH_MAX])
{
    ssize_t size = readlink("/proc/self/exe", path, LS_PATH_MAX - 1);
    if (size <= 0)
        return LS_FAIL(LS_INTERNAL, "cannot tell where this program lies: %s", strerror(errno));
    path[size] = '\0';
    return LS_OK;
}

// getopt rearranges what it reads, and the ranks' arguments are read here and given to them.
static LsStatus find_run(const LsInvocation *invocation, char run_dir[LS_PATH_MAX], LsConfig *config)
{
    size_t count = (size_t)invocation->input_count;
    char **copy = calloc(count + 1, sizeof *copy);
    if (!copy)
        return LS_FAIL(LS_INTERNAL, "out of memory reading the arguments");
    memcpy(copy, invocation->inputs, count * sizeof *copy);
    LsStatus status = ls_train_find_run((int)count, copy, run_dir, config);
    free(copy);
    return status;
}

// Hosts may come until they have more slots than the run has lanes, which is no reason for it to fail.
static LsStatus bound_ranks(LsSuperviseOptions *o, int64_t lanes)
{
    bool elastic = o->hostfile || o->discover;
    int64_t asked = o->ranks > 0 ? o->ranks : o->min_ranks;
    if (asked > lanes)
        return LS_FAIL(LS_CONFIG,
            "%lld ranks cannot share train.lanes = %lld lanes: start at most %lld ranks or raise train.lanes",
            (long long)asked, (long long)lanes, (long long)lanes);
    if (o->ranks == 0)
        o->ranks = elastic ? lanes : o->min_ranks;
    return LS_OK;
}

static LsStatus run(LsInvocation *invocation)
{
    LsSuperviseOptions options = {.min_ranks = 1, .max_restarts = 10, .grace = 60, .settle = 30};
    char run_dir[LS_PATH_MAX], program[LS_PATH_MAX];
    LsConfig config;
    LS_TRY(read_arguments(invocation, &options));
    if (invocation->helped)
        return LS_OK;
    LS_TRY(find_run(invocation, run_dir, &config));
    LS_TRY(bound_ranks(&options, config.train.lanes));
    LS_TRY(find_program(program));
    options.batch = config.train.batch;
    options.program = program;
    options.arguments = invocation->inputs;
    options.run_dir = run_dir;
    return ls_supervise(&options);
}

const LsCommand ls_command_launch = {
    .name = "launch",
    .arguments = "[options] -- train -c FILE [options of train]",
    .summary = "starts ranks under mpirun or srun, watches them, and starts them again",
    .about = "Starts the training and sees it through: a job in which a rank dies, stops or hangs, or loses "
             "its host,\n"
             "is ended and started again from its newest checkpoint, on the hosts that answer, with the same "
             "bits. TERM,\n"
             "INT, USR1 or USR2 make the job save and stop with exit code 75; killed itself, it takes all "
             "ranks with\n"
             "it, and the same command goes on. Other exit codes are those of the job's last failure. "
             "docs/failures.md\n"
             "says what is promised for each kind of failure.",
    .run = run,
};
