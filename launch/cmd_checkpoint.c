// lockstep checkpoint list, info, verify, hash, diff
#include "command.h"

#include <stdlib.h>

#include "train/checkpoint.h"

static LsStatus open_named(const char *named, LsCheckpoint **out)
{
    char path[LS_PATH_MAX];
    LS_TRY(ls_checkpoint_find(named, path));
    return ls_checkpoint_open(path, out);
}

// A checkpoint that cannot be opened is listed too: whoever looks for one wants to know.
static void print_checkpoint(const char *path, int64_t step)
{
    LsCheckpoint *checkpoint = NULL;
    if (ls_checkpoint_open(path, &checkpoint) != LS_OK) {
        printf("%s  damaged: %s\n", path, ls_status_message());
        return;
    }
    const char *written = json_string_value(json_object_get(ls_checkpoint_manifest(checkpoint), "saved_at"));
    printf("%s  step %lld%s%s\n", path, (long long)step, written ? "  " : "", written ? written : "");
    ls_checkpoint_close(checkpoint);
}

static LsStatus list(LsInvocation *invocation)
{
    LS_TRY(ls_arguments_read(invocation, NULL, 0, 1, 1));
    if (invocation->helped)
        return LS_OK;
    int64_t *steps = NULL;
    size_t count = 0;
    const char *named = invocation->inputs[0];
    if (!ls_file_exists(named))
        return LS_FAIL(LS_NO_INPUT, "%s: there is no such run", named);
    LS_TRY(ls_checkpoint_list(named, &steps, &count));
    for (size_t i = 0; i < count; i++) {
        char path[LS_PATH_MAX];
        ls_checkpoint_path(path, named, steps[i]);
        print_checkpoint(path, steps[i]);
    }
    free(steps);
    return LS_OK;
}

static LsStatus info(LsInvocation *invocation)
{
    LS_TRY(ls_arguments_read(invocation, NULL, 0, 1, 1));
    if (invocation->helped)
        return LS_OK;
    LsCheckpoint *checkpoint = NULL;
    LS_TRY(open_named(invocation->inputs[0], &checkpoint));
    LsStatus status = ls_checkpoint_info(checkpoint, stdout);
    ls_checkpoint_close(checkpoint);
    return status;
}

static LsStatus verify(LsInvocation *invocation)
{
    LS_TRY(ls_arguments_read(invocation, NULL, 0, 1, 1));
    if (invocation->helped)
        return LS_OK;
    LsCheckpoint *checkpoint = NULL;
    LS_TRY(open_named(invocation->inputs[0], &checkpoint));
    LsStatus status = ls_checkpoint_verify(checkpoint, NULL);
    if (status == LS_OK)
        printf("%s: step %lld, every block matches its hash\n", invocation->inputs[0],
            (long long)ls_checkpoint_step(checkpoint));
    ls_checkpoint_close(checkpoint);
    return status;
}

static LsStatus hash(LsInvocation *invocation)
{
    LS_TRY(ls_arguments_read(invocation, NULL, 0, 1, 1));
    if (invocation->helped)
        return LS_OK;
    LsCheckpoint *checkpoint = NULL;
    char text[65];
    LS_TRY(open_named(invocation->inputs[0], &checkpoint));
    LsStatus status = ls_checkpoint_hash(checkpoint, text);
    if (status == LS_OK)
        puts(text);
    ls_checkpoint_close(checkpoint);
    return status;
}

static LsStatus diff(LsInvocation *invocation)
{
    LS_TRY(ls_arguments_read(invocation, NULL, 0, 2, 2));
    if (invocation->helped)
        return LS_OK;
    LsCheckpoint *a = NULL, *b = NULL;
    bool equal = false;
    LS_TRY(open_named(invocation->inputs[0], &a));
    LsStatus status = open_named(invocation->inputs[1], &b);
    if (status == LS_OK)
        status = ls_checkpoint_diff(a, b, stdout, &equal);
    if (status == LS_OK && !equal)
        status = LS_FAIL(LS_CHECKPOINT, "%s and %s differ", invocation->inputs[0], invocation->inputs[1]);
    ls_checkpoint_close(b);
    ls_checkpoint_close(a);
    return status;
}

const LsCommand ls_command_checkpoint_list = {
    .name = "checkpoint list",
    .arguments = "RUN",
    .summary = "lists the checkpoints of a run",
    .about = "Lists the checkpoints of a run directory, oldest first.",
    .run = list,
};

const LsCommand ls_command_checkpoint_info = {
    .name = "checkpoint info",
    .arguments = "DIR",
    .summary = "shows what a checkpoint holds",
    .about = "Shows step, state and tensors of a checkpoint, or of a run's newest one. Reads no tensor.",
    .run = info,
};

const LsCommand ls_command_checkpoint_verify = {
    .name = "checkpoint verify",
    .arguments = "DIR",
    .summary = "checks every block of a checkpoint; exit code 76 when one is damaged",
    .about = "Reads every tensor of a checkpoint, or of a run's newest one, and checks every block's hash.",
    .run = verify,
};

const LsCommand ls_command_checkpoint_hash = {
    .name = "checkpoint hash",
    .arguments = "DIR",
    .summary = "prints one SHA-256 over everything that training goes on from",
    .about = "Prints one SHA-256 over every tensor's name, type, shape and bytes in the order of their "
             "names, and\n"
             "over step control, data cursor and early stopping. It does not depend on the number of ranks.",
    .run = hash,
};

const LsCommand ls_command_checkpoint_diff = {
    .name = "checkpoint diff",
    .arguments = "DIR DIR",
    .summary = "shows how two checkpoints differ; exit code 76 when they do",
    .about =
        "Shows for each tensor how many elements differ in their bits and by how much, then the differences\n"
        "of state and configuration.",
    .run = diff,
};
