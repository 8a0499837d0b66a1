// One command of the program, one run of it, and how it reads its arguments.
#ifndef LOCKSTEP_LAUNCH_COMMAND_H
#define LOCKSTEP_LAUNCH_COMMAND_H

#include "base/config.h"
#include "base/file.h"
#include "collectives/comm.h"
#include "train/pulse.h"

typedef struct LsInvocation LsInvocation;

typedef struct LsCommand {
    const char *name;      // "train", "data import csv"
    const char *arguments; // "-c FILE [options]"
    const char *summary;   // one line of `lockstep --help`
    const char *about;     // paragraphs of `lockstep NAME --help`
    bool several_ranks;    // may run under mpirun with more than one rank
    LsStatus (*run)(LsInvocation *invocation);
} LsCommand;

// A command being run. Made by main; a command reads its arguments from it and may join the other ranks.
struct LsInvocation {
    const LsCommand *command;
    int argc; // argv[0] is the last word of the command's name
    char **argv;
    char **inputs; // what ls_arguments_read left over: the arguments that are no options
    int input_count;
    bool helped;    // help was asked for and printed; nothing else is to be done
    LsComm *comm;   // NULL until ls_invocation_join; closed by main
    LsPulse *pulse; // NULL unless `lockstep launch` watches this rank; ended and closed by main
};

extern const LsCommand ls_command_train, ls_command_launch, ls_command_eval, ls_command_predict,
    ls_command_generate, ls_command_import_idx, ls_command_import_cifar, ls_command_import_images,
    ls_command_import_csv, ls_command_data_inspect, ls_command_data_verify, ls_command_checkpoint_list,
    ls_command_checkpoint_info, ls_command_checkpoint_verify, ls_command_checkpoint_hash,
    ls_command_checkpoint_diff, ls_command_checkpoint_prune, ls_command_checkpoint_average,
    ls_command_config_show, ls_command_config_validate, ls_command_config_options, ls_command_doctor,
    ls_command_version, ls_command_tokenizer_train, ls_command_tokenizer_encode, ls_command_tokenizer_decode,
    ls_command_status, ls_command_import_text, ls_command_import_tokens, ls_command_export, ls_command_import,
    ls_command_bench_predict, ls_command_bench_all_reduce, ls_command_bench_reduce_scatter,
    ls_command_bench_all_gather, ls_command_bench_step, ls_command_bench_scaling, ls_command_bench_data,
    ls_command_bench_checkpoint;

// Meets the other ranks: opens the communicator (with the configuration's backend and deadline, or the
// defaults when `config` is NULL) and agrees on `mine`, what this rank's preparations came to. Called also
// when `mine` is a failure, since the other ranks may have fared better and would wait.
LsStatus ls_invocation_join(LsInvocation *invocation, LsStatus mine, const LsConfig *config);

// Whether this rank is the one that prints. True before the ranks have met.
bool ls_invocation_speaks(const LsInvocation *invocation);

// A rank that `lockstep launch` started, seen by its environment: it dies with its parent, keeps its shared
// memory in the attempt's directory (of this host), and has a pulse. Comes before the ranks meet and before
// threads are started. Other processes pass through. Failures are those of ls_pulse_open.
LsStatus ls_supervised_enter(LsInvocation *invocation);

// Where `lockstep train` with these arguments (argv[0] is "train") has its run, and how it is configured.
// Fails as the ranks would: LS_USAGE, LS_CONFIG, LS_NO_INPUT.
LsStatus ls_train_find_run(int argc, char **argv, char run_dir[LS_PATH_MAX], LsConfig *config);

// ---- Arguments ------------------------------------------------------------------------------------------

typedef enum LsFlagType {
    LS_FLAG_SWITCH, // bool: set to true
    LS_FLAG_CLEAR,  // bool: set to false
    LS_FLAG_TEXT,   // const char *
    LS_FLAG_LIST,   // LsTextList: may be given several times
    LS_FLAG_COUNT,  // int64_t, at least `minimum`
    LS_FLAG_REAL,   // double, at least `minimum`
    LS_FLAG_CHAR,   // char: a single byte, or \t
    LS_FLAG_CHOICE, // int: the text's place in `choices`
} LsFlagType;

enum { LS_TEXTS_MAX = 256, LS_FLAGS_MAX = 32 };

typedef struct LsTextList {
    size_t count;
    const char *text[LS_TEXTS_MAX];
} LsTextList;

// One option of a command: parsing and help come from it.
typedef struct LsFlag {
    const char *name; // without the dashes
    char letter;      // 0: none
    LsFlagType type;
    void *value;          // keeps its initial contents unless the option is given
    const char *argument; // how help names the argument, "FILE"
    const char *help;     // one sentence
    int64_t minimum;
    const char *const *choices; // NULL-terminated
} LsFlag;

// Reads options and inputs (options may follow inputs; `--` ends them). --help prints the command's help and
// sets `helped`. LS_USAGE: an unknown option (names the nearest one), a missing or bad argument, fewer than
// `least` or more than `most` inputs (most < 0: any number).
LsStatus ls_arguments_read(LsInvocation *invocation, const LsFlag *flags, size_t count, int least, int most);

// The size of a table of flags.
#define LS_FLAG_TABLE(flags) (flags), sizeof(flags) / sizeof((flags)[0])

// The text nearest to `text` in a list (see ls_text_distance); NULL when nothing is near enough to have
// been meant.
const char *ls_text_nearest(const char *text, const char *const *list, size_t count);

// ---- What several commands share ------------------------------------------------------------------------

// Every rank alike: defaults < file (NULL: none) < environment < --set. Not validated.
LsStatus ls_launch_configure(const char *file, const LsTextList *settings, LsConfig *config);

// Environment and --set over what `config` holds.
LsStatus ls_launch_override(const LsTextList *settings, LsConfig *config);

#endif
