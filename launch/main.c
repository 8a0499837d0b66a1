// The program: finds the command, runs it, prints the one line of a failure and returns its exit code.
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "command.h"

static const LsCommand *const commands[] = {
    &ls_command_train,
    &ls_command_eval,
    &ls_command_predict,
    &ls_command_data,
    &ls_command_checkpoint,
    &ls_command_config,
    &ls_command_doctor,
    &ls_command_version,
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

static void print_help(FILE *out)
{
    fputs("Lockstep trains neural networks data-parallel: the same bits, whatever happens to the ranks.\n\n"
          "usage: lockstep COMMAND [OPTIONS]      as several ranks: mpirun -np N lockstep train …\n\n",
        out);
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\n`lockstep COMMAND --help` says more.\n", out);
}

static void print_command_help(const LsCommand *command)
{
    fputs(command->help, stdout);
    if (!command->children)
        return;
    fputc('\n', stdout);
    for (const LsCommand *child = command->children; child->name; child++)
        printf("  %-12s %s\n", child->name, child->summary);
}

static const LsCommand *find_command(const char *name)
{
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

// Runs a command, or the child of a group that the next word names.
static LsStatus run_command(const LsCommand *command, LsComm *comm, int argc, char **argv)
{
    if (!command->children) {
        if (asks_for_help(argc, argv)) {
            print_command_help(command);
            return LS_OK;
        }
        return command->run(comm, argc, argv);
    }
    if (argc > 1 && is_help(argv[1])) {
        print_command_help(command);
        return LS_OK;
    }
    for (const LsCommand *child = command->children; argc > 1 && child->name; child++)
        if (strcmp(child->name, argv[1]) == 0)
            return run_command(child, comm, argc - 1, argv + 1);
    return LS_FAIL(LS_USAGE, "%s: %s%s; see lockstep %s --help", command->name,
        argc > 1 ? "there is no command " : "a command is missing", argc > 1 ? argv[1] : "", command->name);
}

// All ranks of a parallel command agree on its failure, so that one of them prints it.
static LsStatus run_parallel(const LsCommand *command, int argc, char **argv)
{
    LsComm *comm = NULL;
    LsStatus status = ls_comm_open(&(LsCommOptions){.kind = LS_COMM_AUTO, .timeout = 300}, &comm);
    if (status == LS_OK)
        status = run_command(command, comm, argc, argv);
    if (status != LS_OK && (!comm || ls_comm_rank(comm) == 0))
        fprintf(stderr, "lockstep: %s\n", ls_status_message());
    fflush(NULL);
    ls_comm_close(comm);
    return status;
}

static LsStatus run_alone(const LsCommand *command, int argc, char **argv)
{
    LsStatus status = run_command(command, NULL, argc, argv);
    if (status == LS_OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = LS_FAIL(LS_IO, "cannot write to standard output");
    if (status != LS_OK)
        fprintf(stderr, "lockstep: %s\n", ls_status_message());
    return status;
}

int main(int argc, char **argv)
{
    // A full disk is an error of write(), a closed pipe likewise; neither may kill the rank.
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    if (argc < 2) {
        print_help(stderr);
        return ls_status_exit_code(LS_USAGE);
    }
    if (is_help(argv[1])) {
        print_help(stdout);
        return ls_status_exit_code(LS_OK);
    }
    const LsCommand *command = find_command(strcmp(argv[1], "--version") == 0 ? "version" : argv[1]);
    if (!command) {
        fprintf(stderr, "lockstep: there is no command %s; see lockstep --help\n", argv[1]);
        return ls_status_exit_code(LS_USAGE);
    }
    bool parallel = command->parallel && !asks_for_help(argc - 1, argv + 1);
    LsStatus status =
        parallel ? run_parallel(command, argc - 1, argv + 1) : run_alone(command, argc - 1, argv + 1);
    return ls_status_exit_code(status);
}
