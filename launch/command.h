// What the commands of the program have in common: a table of names, their options, their help.
#ifndef LOCKSTEP_LAUNCH_COMMAND_H
#define LOCKSTEP_LAUNCH_COMMAND_H

#include "base/config.h"
#include "base/status.h"
#include "collectives/comm.h"

// A command gets its own words: argv[0] is its name. `comm` is NULL for commands that run alone.
typedef struct LsCommand {
    const char *name;
    const char *summary;                                  // one line of its parent's help
    const char *help;                                     // whole help, printed by --help
    LsStatus (*run)(LsComm *comm, int argc, char **argv); // NULL for a group
    const struct LsCommand *children;                     // of a group, ends with a NULL name
    bool parallel;                                        // may run as several ranks
} LsCommand;

extern const LsCommand ls_command_train, ls_command_eval, ls_command_predict, ls_command_data,
    ls_command_checkpoint, ls_command_config, ls_command_doctor, ls_command_version;

// An option of a command, "--name" or "-n"; exactly one of the targets is set.
typedef struct LsFlag {
    const char *name;
    char letter;                                           // 0: none
    const char **text;                                     // takes a value
    int64_t *integer;                                      // takes a whole number
    double *real;                                          // takes a number
    bool *set;                                             // takes nothing
    LsStatus (*collect)(void *context, const char *value); // takes a value, may be repeated
    void *context;
} LsFlag;

// Reads the flags of argv[1 …] (also --name=value; "--" ends them) and leaves the other words, in order, in
// argv[1 …]; *words is their number. LS_USAGE names the flag, and for an unknown one the nearest. The list
// ends with a NULL name.
LsStatus ls_flags_read(const char *command, const LsFlag *flags, int argc, char **argv, int *words);

// LS_USAGE unless there are between `least` and `most` words.
LsStatus ls_words_check(const char *command, int words, int least, int most);

// The sources of a configuration: -c FILE, the environment, --set (in order).
enum { LS_SETTINGS_MAX = 256 };
typedef struct LsConfigSources {
    const char *file;
    size_t settings;
    const char *setting[LS_SETTINGS_MAX]; // "section.key=value"
} LsConfigSources;

// For LsFlag.collect of --set; the context is an LsConfigSources.
LsStatus ls_collect_setting(void *context, const char *value);

// Applies file, environment and settings over what `config` holds.
LsStatus ls_config_load(const LsConfigSources *sources, LsConfig *config);

#endif
