// lockstep checkpoint prune
#include "command.h"

#include <stdlib.h>

#include "base/memory.h"
#include "train/checkpoint.h"

typedef struct Prune {
    const char *run;
    bool dry_run;
    int64_t keep_last, keep_every; // -1: as the run is configured
    int64_t best_step;
    int64_t rollback_every; // as in LsRunDir
    size_t removed;
} Prune;

static LsStatus read_arguments(LsInvocation *invocation, Prune *prune)
{
    const LsFlag flags[] = {
        {"keep-last", 0, LS_FLAG_COUNT, &prune->keep_last, "N",
            "Keeps the newest N; by default checkpoint.keep_last of the run.", 0, NULL},
        {"keep-every", 0, LS_FLAG_COUNT, &prune->keep_every, "N",
            "Keeps those of steps that N divides (0: none for that); by default checkpoint.keep_every of the "
            "run.",
            0, NULL},
        {"dry-run", 0, LS_FLAG_SWITCH, &prune->dry_run, NULL, "Names what would go, and removes nothing.", 0,
            NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 1, 1));
    prune->run = invocation->inputs ? invocation->inputs[0] : NULL;
    return LS_OK;
}

static void say_removed(void *context, int64_t step)
{
    Prune *prune = context;
    char path[LS_PATH_MAX];
    ls_checkpoint_path(path, prune->run, step);
    printf("%s %s\n", prune->dry_run ? "would remove" : "removed", path);
    prune->removed++;
}

// The newest checkpoint that can be opened says how the run is configured and which step is its best.
static LsStatus ask_newest(Prune *prune, LsConfig *config)
{
    int64_t *steps = NULL;
    size_t count = 0;
    LsCheckpoint *newest = NULL;
    LS_TRY(ls_checkpoint_list(prune->run, &steps, &count));
    for (size_t i = count; i-- > 0 && !newest;) {
        char path[LS_PATH_MAX];
        ls_checkpoint_path(path, prune->run, steps[i]);
        (void)ls_checkpoint_open(path, &newest); // a damaged one is passed over
    }
    free(steps);
    if (!newest)
        return LS_FAIL(LS_NO_INPUT, "%s has no checkpoint that can be read; nothing is removed", prune->run);
    LsRunState state;
    LsStatus status = ls_checkpoint_config(newest, config);
    if (status == LS_OK)
        status = ls_checkpoint_state(newest, &state);
    ls_checkpoint_close(newest);
    LS_TRY(status);
    prune->best_step = config->checkpoint.keep_best && state.best.known ? state.best.step : -1;
    if (config->guard.action == LS_GUARD_ROLLBACK)
        prune->rollback_every = config->checkpoint.every;
    if (prune->keep_last < 0)
        prune->keep_last = config->checkpoint.keep_last;
    if (prune->keep_every < 0)
        prune->keep_every = config->checkpoint.keep_every;
    return LS_OK;
}

static LsStatus remove_old(Prune *prune)
{
    LsConfig *config = NULL;
    LS_TRY(ls_memory_allocate(sizeof *config, (void **)&config));
    LsStatus status = ask_newest(prune, config);
    free(config);
    LS_TRY(status);
    LsRunDir run;
    bool complete = false;
    LS_TRY(ls_run_dir_enter(&run, prune->run));
    run.rollback_every = prune->rollback_every;
    status = ls_checkpoint_retain(&run,
        &(LsRetention){.keep_last = prune->keep_last,
            .keep_every = prune->keep_every,
            .best_step = prune->best_step,
            .dry_run = prune->dry_run,
            .removed = say_removed,
            .context = prune},
        &complete);
    ls_run_dir_release(&run);
    if (status == LS_OK && prune->removed == 0)
        puts("nothing to remove");
    return status;
}

static LsStatus prune(LsInvocation *invocation)
{
    Prune options = {.keep_last = -1, .keep_every = -1};
    LS_TRY(read_arguments(invocation, &options));
    return invocation->helped ? LS_OK : remove_old(&options);
}

const LsCommand ls_command_checkpoint_prune = {
    .name = "checkpoint prune",
    .arguments = "RUN [--keep-last N] [--keep-every N] [--dry-run]",
    .summary = "removes old checkpoints of a run that is not training",
    .about =
        "Removes the checkpoints that retention lets go and what attempts left unfinished. In any case the\n"
        "newest two whose every block verifies stay, and the best one with checkpoint.keep_best. A run that\n"
        "is training does this itself; exit code 74 for one.",
    .run = prune,
};
