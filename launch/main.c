// The program: finds the command, runs it, and turns its failure into one line and an exit code.
#include "command.h"

#include <stdio.h>
#include <string.h>

#include "supervisor/scratch.h"

static const LsCommand *const commands[] = {
    &ls_command_train,
    &ls_command_launch,
    &ls_command_status,
    &ls_command_eval,
    &ls_command_predict,
    &ls_command_generate,
    &ls_command_export,
    &ls_command_import,
    &ls_command_import_idx,
    &ls_command_import_cifar,
    &ls_command_import_images,
    &ls_command_import_csv,
    &ls_command_import_text,
    &ls_command_import_tokens,
    &ls_command_data_inspect,
    &ls_command_data_verify,
    &ls_command_tokenizer_train,
    &ls_command_tokenizer_encode,
    &ls_command_tokenizer_decode,
    &ls_command_checkpoint_list,
    &ls_command_checkpoint_info,
    &ls_command_checkpoint_verify,
    &ls_command_checkpoint_hash,
    &ls_command_checkpoint_diff,
    &ls_command_checkpoint_prune,
    &ls_command_checkpoint_average,
    &ls_command_config_show,
    &ls_command_config_validate,
    &ls_command_config_options,
    &ls_command_bench_predict,
    &ls_command_bench_all_reduce,
    &ls_command_bench_reduce_scatter,
    &ls_command_bench_all_gather,
    &ls_command_bench_step,
    &ls_command_bench_scaling,
    &ls_command_bench_data,
    &ls_command_bench_checkpoint,
    &ls_command_doctor,
    &ls_command_version,
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

// Deadline of the ranks' first meeting when no configuration has been read.
static const double meeting_timeout = 300;

// ---- Ranks ----------------------------------------------------------------------------------------------

LsStatus ls_invocation_join(LsInvocation *invocation, LsStatus mine, const LsConfig *config)
{
    LsCommOptions options = {.kind = LS_COMM_AUTO, .timeout = meeting_timeout};
    if (mine == LS_OK && config) {
        options.kind = config->collectives.backend;
        options.timeout = config->collectives.timeout;
    }
    // Failing alone needs no communicator.
    if (mine != LS_OK && !ls_comm_launched())
        return mine;
    LS_TRY(ls_comm_open(&options, &invocation->comm));
    return ls_comm_agree(invocation->comm, mine);
}

bool ls_invocation_speaks(const LsInvocation *invocation)
{
    return !invocation->comm || ls_comm_rank(invocation->comm) == 0;
}

// ---- Commands -------------------------------------------------------------------------------------------

// Prints the commands whose names begin with `group`.
static void print_commands(const char *group)
{
    printf("Lockstep trains neural networks data-parallel across MPI ranks: the same bits on any number of "
           "them.\n\nCommands:\n");
    for (size_t i = 0; i < COMMANDS; i++)
        if (strncmp(commands[i]->name, group, strlen(group)) == 0)
            printf("  lockstep %-20s %s\n", commands[i]->name, commands[i]->summary);
    printf("\nlockstep COMMAND --help explains a command. lockstep config options lists what configures a "
           "run.\n");
}

// How many words of the command line are the command's name; 0: another command.
static int match(const LsCommand *command, int words, char **word)
{
    const char *rest = command->name;
    int matched = 0;
    while (*rest) {
        size_t length = strcspn(rest, " ");
        if (matched == words || strlen(word[matched]) != length || strncmp(rest, word[matched], length) != 0)
            return 0;
        matched++;
        rest += length + (rest[length] == ' ');
    }
    return matched;
}

// True when the words are the first ones of some command's name: "data", "data import".
static bool is_group(const char *text)
{
    size_t length = strlen(text);
    for (size_t i = 0; i < COMMANDS; i++)
        if (strncmp(commands[i]->name, text, length) == 0 && commands[i]->name[length] == ' ')
            return true;
    return false;
}

// The words in front of the first option, as many as a name may have.
static int join_words(int argc, char **argv, char *text, size_t size)
{
    int words = 0;
    text[0] = '\0';
    while (words < argc && words < 3 && argv[words][0] != '-') {
        size_t used = strlen(text);
        snprintf(text + used, size - used, "%s%s", words ? " " : "", argv[words]);
        words++;
    }
    return words;
}

static LsStatus unknown_command(const char *text)
{
    char tried[64];
    const char *names[COMMANDS], *nearest = NULL;
    for (size_t i = 0; i < COMMANDS; i++)
        names[i] = commands[i]->name;
    snprintf(tried, sizeof tried, "%s", text);
    // A mistyped command is followed by words that are no part of its name: they are dropped one by one.
    while (!(nearest = ls_text_nearest(tried, names, COMMANDS)) && strrchr(tried, ' '))
        *strrchr(tried, ' ') = '\0';
    return LS_FAIL(LS_USAGE, "unknown command \"%s\"%s%s; see lockstep --help", text,
        nearest ? ", did you mean lockstep " : "", nearest ? nearest : "");
}

static LsStatus find_command(int argc, char **argv, LsInvocation *invocation)
{
    for (size_t i = 0; i < COMMANDS; i++) {
        int words = match(commands[i], argc, argv);
        if (words > 0) {
            invocation->command = commands[i];
            invocation->argc = argc - words + 1;
            invocation->argv = argv + words - 1;
            return LS_OK;
        }
    }
    char text[64];
    int words = join_words(argc, argv, text, sizeof text);
    if (words > 0 && strcmp(argv[0], "help") != 0 && !is_group(text))
        return unknown_command(text);
    const char *option = words < argc ? argv[words] : "";
    if (strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0 || (words && !strcmp(argv[0], "help"))) {
        print_commands(words && strcmp(argv[0], "help") ? text : "");
        invocation->helped = true;
        return LS_OK;
    }
    if (*option)
        return LS_FAIL(LS_USAGE, "unknown option %s; see lockstep --help", option);
    return LS_FAIL(LS_USAGE, "a command is missing; see lockstep %s%s--help", text, *text ? " " : "");
}

static LsStatus run(int argc, char **argv, LsInvocation *invocation)
{
    LS_TRY(find_command(argc, argv, invocation));
    if (invocation->helped)
        return LS_OK;
    if (!invocation->command->several_ranks && ls_comm_launched()) {
        LS_TRY(ls_invocation_join(invocation, LS_OK, NULL));
        if (ls_comm_size(invocation->comm) > 1)
            return LS_FAIL(LS_USAGE, "lockstep %s runs as one process: start it without mpirun or srun",
                invocation->command->name);
    }
    LS_TRY(invocation->command->run(invocation));
    if (fflush(stdout) != 0)
        return ls_file_fail("write", "standard output");
    if (ferror(stdout)) // an earlier write; its reason is gone
        return LS_FAIL(
            LS_IO, "not all of the standard output could be written; free space or send it elsewhere");
    return LS_OK;
}

// One line for all ranks, whatever a message holds.
static void print_failure(LsStatus status)
{
    char line[4096];
    const char *message = ls_status_message();
    snprintf(line, sizeof line, "%s", *message ? message : ls_status_text(status));
    for (char *c = line; *c; c++)
        if (*c == '\n' || *c == '\r')
            *c = ' ';
    fflush(stdout);
    fprintf(stderr, "lockstep: %s\n", line);
}

int main(int argc, char **argv)
{
    LsInvocation invocation = {0};
    LsStatus status = run(argc - 1, argv + 1, &invocation);
    // Ranks that failed before they met do so now, so that only one of them speaks.
    if (status != LS_OK && !invocation.comm && ls_comm_launched())
        status = ls_invocation_join(&invocation, status, NULL);
    else if (invocation.comm)
        status = ls_comm_agree(invocation.comm, status);
    if (status != LS_OK && ls_invocation_speaks(&invocation))
        print_failure(status);
    // From here on no rank writes or prints: closing meets the others, so none is ended early by a launcher
    // that saw another one's exit code.
    ls_pulse_end(invocation.pulse, ls_status_exit_code(status));
    ls_comm_close(invocation.comm);
    ls_pulse_close(invocation.pulse);
    ls_scratch_part();
    return ls_status_exit_code(status);
}
