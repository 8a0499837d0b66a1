// lockstep checkpoint list | info | verify | hash | diff
#include <stdio.h>
#include <stdlib.h>

#include "command.h"
#include "train/checkpoint.h"

// Commands without flags: words only.
static LsStatus read_words(const char *command, int argc, char **argv, int wanted)
{
    static const LsFlag none[] = {{0}};
    int words = 0;
    LS_TRY(ls_flags_read(command, none, argc, argv, &words));
    return ls_words_check(command, words, wanted, wanted);
}

static LsStatus list(LsComm *comm, int argc, char **argv)
{
    (void)comm;
    LS_TRY(read_words("checkpoint list", argc, argv, 1));
    int64_t *steps = NULL;
    size_t count = 0;
    LS_TRY(ls_checkpoint_list(argv[1], &steps, &count));
    for (size_t i = 0; i < count; i++) {
        char path[LS_PATH_MAX];
        ls_checkpoint_path(path, argv[1], steps[i]);
        puts(path);
    }
    free(steps);
    return LS_OK;
}

static LsStatus info(LsComm *comm, int argc, char **argv)
{
    (void)comm;
    LsCheckpoint *checkpoint = NULL;
    LS_TRY(read_words("checkpoint info", argc, argv, 1));
    LS_TRY(ls_checkpoint_open(argv[1], &checkpoint));
    LsStatus status = ls_checkpoint_info(checkpoint, stdout);
    ls_checkpoint_close(checkpoint);
    return status;
}

static LsStatus verify(LsComm *comm, int argc, char **argv)
{
    (void)comm;
    LsCheckpoint *checkpoint = NULL;
    LS_TRY(read_words("checkpoint verify", argc, argv, 1));
    LS_TRY(ls_checkpoint_open(argv[1], &checkpoint));
    LsStatus status = ls_checkpoint_verify(checkpoint, NULL);
    ls_checkpoint_close(checkpoint);
    LS_TRY(status);
    printf("%s: every block has the hash that its manifest gives\n", argv[1]);
    return LS_OK;
}

static LsStatus hash(LsComm *comm, int argc, char **argv)
{
    (void)comm;
    LsCheckpoint *checkpoint = NULL;
    char text[65];
    LS_TRY(read_words("checkpoint hash", argc, argv, 1));
    LS_TRY(ls_checkpoint_open(argv[1], &checkpoint));
    LsStatus status = ls_checkpoint_hash(checkpoint, text);
    ls_checkpoint_close(checkpoint);
    LS_TRY(status);
    puts(text);
    return LS_OK;
}

static LsStatus diff(LsComm *comm, int argc, char **argv)
{
    (void)comm;
    LsCheckpoint *a = NULL, *b = NULL;
    bool equal = false;
    LS_TRY(read_words("checkpoint diff", argc, argv, 2));
    LS_TRY(ls_checkpoint_open(argv[1], &a));
    LsStatus status = ls_checkpoint_open(argv[2], &b);
    if (status == LS_OK)
        status = ls_checkpoint_diff(a, b, stdout, &equal);
    ls_checkpoint_close(b);
    ls_checkpoint_close(a);
    LS_TRY(status);
    if (!equal)
        return LS_FAIL(LS_INTERNAL, "%s and %s differ", argv[1], argv[2]);
    return LS_OK;
}

static const LsCommand children[] = {
    {.name = "list",
        .summary = "the checkpoints of a run, oldest first",
        .help = "usage: lockstep checkpoint list RUN\n",
        .run = list},
    {.name = "info",
        .summary = "what a checkpoint holds",
        .help = "usage: lockstep checkpoint info DIR\n",
        .run = info},
    {.name = "verify",
        .summary = "check every block's hash; exit code 76 if one is wrong",
        .help = "usage: lockstep checkpoint verify DIR\n",
        .run = verify},
    {.name = "hash",
        .summary = "one SHA-256 over tensors and state, the same for any number of ranks",
        .help = "usage: lockstep checkpoint hash DIR\n",
        .run = hash},
    {.name = "diff",
        .summary = "where two checkpoints differ; exit code 1 if they do",
        .help = "usage: lockstep checkpoint diff DIR DIR\n",
        .run = diff},
    {0},
};

const LsCommand ls_command_checkpoint = {.name = "checkpoint",
    .summary = "list, check, hash and compare checkpoints",
    .help = "usage: lockstep checkpoint list RUN | info DIR | verify DIR | hash DIR | diff DIR DIR\n",
    .children = children};
