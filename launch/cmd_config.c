// lockstep config show | validate | options
#include <stdio.h>
#include <string.h>

#include "command.h"

static LsStatus read_config(const char *command, int argc, char **argv, LsConfig *config)
{
    LsConfigSources sources = {0};
    int words = 0;
    const LsFlag flags[] = {
        {.name = "config", .letter = 'c', .text = &sources.file},
        {.name = "set", .collect = ls_collect_setting, .context = &sources},
        {0},
    };
    LS_TRY(ls_flags_read(command, flags, argc, argv, &words));
    LS_TRY(ls_words_check(command, words, 0, 0));
    if (!sources.file)
        return LS_FAIL(LS_USAGE, "%s: -c FILE is missing (see lockstep %s --help)", command, command);
    ls_config_defaults(config);
    LS_TRY(ls_config_load(&sources, config));
    return ls_config_validate(config);
}

static LsStatus show(LsComm *comm, int argc, char **argv)
{
    (void)comm;
    LsConfig config;
    LS_TRY(read_config("config show", argc, argv, &config));
    ls_config_write_yaml(&config, stdout);
    return LS_OK;
}

static LsStatus validate(LsComm *comm, int argc, char **argv)
{
    (void)comm;
    LsConfig config;
    LS_TRY(read_config("config validate", argc, argv, &config));
    puts("the configuration is valid");
    return LS_OK;
}

static LsStatus options(LsComm *comm, int argc, char **argv)
{
    (void)comm;
    bool markdown = false;
    int words = 0;
    const LsFlag flags[] = {{.name = "markdown", .set = &markdown}, {0}};
    LS_TRY(ls_flags_read("config options", flags, argc, argv, &words));
    LS_TRY(ls_words_check("config options", words, 0, 0));
    if (markdown) {
        ls_config_write_reference(stdout);
        return LS_OK;
    }
    size_t count = 0;
    const LsOption *list = ls_options(&count);
    for (size_t i = 0; i < count; i++)
        printf("%-26s %-12s %s\n", list[i].name, list[i].initial[0] ? list[i].initial : "-", list[i].help);
    return LS_OK;
}

static const LsCommand children[] = {
    {.name = "show",
        .summary = "print the whole resolved configuration as YAML",
        .help = "usage: lockstep config show -c FILE [--set section.key=value]...\n",
        .run = show},
    {.name = "validate",
        .summary = "check a configuration and say what is wrong",
        .help = "usage: lockstep config validate -c FILE [--set section.key=value]...\n",
        .run = validate},
    {.name = "options",
        .summary = "list every option with default and meaning",
        .help = "usage: lockstep config options [--markdown]\n"
                "\n  --markdown   the reference page, docs/configuration.md\n",
        .run = options},
    {0},
};

const LsCommand ls_command_config = {.name = "config",
    .summary = "show, check and explain configurations",
    .help = "usage: lockstep config show|validate|options\n",
    .children = children};
