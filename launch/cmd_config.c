// lockstep config show, validate, options
#include "command.h"

static const char *const option_types[] = {
    [LS_OPTION_INT] = "integer",
    [LS_OPTION_REAL] = "number",
    [LS_OPTION_BOOL] = "true or false",
    [LS_OPTION_TEXT] = "text",
    [LS_OPTION_CHOICE] = "choice",
    [LS_OPTION_INTS] = "list of integers",
};

static const char *const option_classes[] = {
    [LS_CLASS_IDENTITY] = "fixed for a run",
    [LS_CLASS_NUMERIC] = "a resume may change it, which changes bits",
    [LS_CLASS_FREE] = "changes no bits",
};

static LsStatus show(LsInvocation *invocation)
{
    const char *file = NULL;
    LsTextList settings = {0};
    LsConfig config;
    const LsFlag flags[] = {
        {"config", 'c', LS_FLAG_TEXT, &file, "FILE", "Configuration file; without one, the defaults.", 0,
            NULL},
        {"set", 0, LS_FLAG_LIST, &settings, "A.B=V", "Sets one option; may be repeated.", 0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, 0));
    if (invocation->helped)
        return LS_OK;
    LS_TRY(ls_launch_configure(file, &settings, &config));
    ls_config_write_yaml(&config, stdout);
    return LS_OK;
}

static LsStatus validate(LsInvocation *invocation)
{
    const char *file = NULL;
    LsTextList settings = {0};
    LsConfig config;
    const LsFlag flags[] = {
        {"config", 'c', LS_FLAG_TEXT, &file, "FILE", "Configuration file.", 0, NULL},
        {"set", 0, LS_FLAG_LIST, &settings, "A.B=V", "Sets one option; may be repeated.", 0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, 0));
    if (invocation->helped)
        return LS_OK;
    if (!file)
        return LS_FAIL(LS_USAGE, "-c FILE is missing; see lockstep config validate --help");
    LS_TRY(ls_launch_configure(file, &settings, &config));
    LS_TRY(ls_config_validate(&config));
    printf("%s: valid\n", file);
    return LS_OK;
}

static void print_bounds(const LsOption *option)
{
    if (option->choices) {
        printf(" (");
        for (int i = 0; option->choices[i]; i++)
            printf("%s%s", i ? ", " : "", option->choices[i]);
        printf(")");
    } else if (option->type == LS_OPTION_INT || option->type == LS_OPTION_REAL ||
               option->type == LS_OPTION_INTS) {
        printf(" (%.16g to %.16g%s%s)", option->minimum, option->maximum, option->zero ? ", or " : "",
            option->zero ? option->zero : "");
    }
}

static LsStatus options(LsInvocation *invocation)
{
    bool markdown = false;
    const LsFlag flags[] = {
        {"markdown", 0, LS_FLAG_SWITCH, &markdown, NULL, "As the reference of docs/configuration.md.", 0,
            NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, 0));
    if (invocation->helped)
        return LS_OK;
    if (markdown) {
        ls_config_write_reference(stdout);
        return LS_OK;
    }
    size_t count;
    const LsOption *option = ls_options(&count);
    for (size_t i = 0; i < count; i++, option++) {
        printf("%s = %s\n    %s\n    %s", option->name, *option->initial ? option->initial : "\"\"",
            option->help, option_types[option->type]);
        print_bounds(option);
        printf("; %s\n", option_classes[option->class_]);
    }
    return LS_OK;
}

const LsCommand ls_command_config_show = {
    .name = "config show",
    .arguments = "[-c FILE] [--set A.B=V]...",
    .summary = "prints the configuration as a run would have it",
    .about = "Prints every option with the value that results from defaults, the file, LOCKSTEP_SECTION_KEY\n"
             "variables of the environment and --set, in this order, as YAML.",
    .run = show,
};

const LsCommand ls_command_config_validate = {
    .name = "config validate",
    .arguments = "-c FILE [--set A.B=V]...",
    .summary = "checks a configuration",
    .about = "Checks names, types and bounds, and what involves several options at once. Reads no data.",
    .run = validate,
};

const LsCommand ls_command_config_options = {
    .name = "config options",
    .arguments = "[--markdown]",
    .summary = "lists every option with its default, bounds and help",
    .about =
        "Lists every option: name, default, what it does, type and bounds, and what a resume may do with "
        "it.",
    .run = options,
};
