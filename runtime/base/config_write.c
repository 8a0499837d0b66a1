// The configuration as YAML, and the reference of all options.
#include <math.h>
#include <string.h>

#include "base/config.h"
#include "config_text.h"

// A double-quoted YAML scalar; option texts hold no control characters.
static void write_quoted(const char *text, FILE *out)
{
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

// True when `option` is the first of its section.
static bool begins_section(const LsOption *options, size_t i)
{
    size_t length = ls_section_length(options[i].name);
    return i == 0 || ls_section_length(options[i - 1].name) != length ||
           strncmp(options[i].name, options[i - 1].name, length) != 0;
}

void ls_config_write_yaml(const LsConfig *config, FILE *out)
{
    size_t count = 0;
    const LsOption *options = ls_options(&count);
    for (size_t i = 0; i < count; i++) {
        size_t length = ls_section_length(options[i].name);
        if (begins_section(options, i))
            fprintf(out, "%.*s:\n", (int)length, options[i].name);
        char value[2 * LS_CONFIG_TEXT];
        ls_option_text(config, &options[i], value, sizeof value);
        fprintf(out, "  %s: ", options[i].name + length + 1);
        if (options[i].type == LS_OPTION_TEXT)
            write_quoted(value, out);
        else
            fputs(value, out);
        fputc('\n', out);
    }
}

static const char *const class_names[] = {
    [LS_CLASS_IDENTITY] = "identity", [LS_CLASS_NUMERIC] = "numeric", [LS_CLASS_FREE] = "free"};

static void number_text(double value, char *text, size_t size)
{
    bool whole = value == floor(value) && fabs(value) < 1e7;
    snprintf(text, size, whole ? "%.0f" : "%g", value);
}

static void write_values(const LsOption *option, FILE *out)
{
    static const char *const nouns[] = {[LS_OPTION_INT] = "whole number",
        [LS_OPTION_REAL] = "number",
        [LS_OPTION_INTS] = "list of whole numbers"};
    char low[32], high[32];
    switch (option->type) {
    case LS_OPTION_BOOL:
        fputs("`true`, `false`", out);
        break;
    case LS_OPTION_TEXT:
        fputs("text", out);
        break;
    case LS_OPTION_CHOICE:
        for (int i = 0; option->choices[i]; i++)
            fprintf(out, "%s`%s`", i ? ", " : "", option->choices[i]);
        break;
    default:
        number_text(option->minimum, low, sizeof low);
        if (option->maximum >= 9007199254740992.0) {
            fprintf(out, "%s, at least %s", nouns[option->type], low);
        } else {
            number_text(option->maximum, high, sizeof high);
            fprintf(out, "%s, %s to %s", nouns[option->type], low, high);
        }
    }
}

static void write_head(FILE *out)
{
    fputs("# Configuration\n"
          "\n"
          "A configuration is a YAML file of sections. Later sources win: defaults, then the file (`-c "
          "FILE`), then\n"
          "environment variables, then `--set section.key=value`. The variable of `train.max_steps` is\n"
          "`LOCKSTEP_TRAIN_MAX_STEPS`. `lockstep config show -c FILE` prints the result, `lockstep config "
          "validate -c FILE`\n"
          "checks it. An unknown key is an error that names the nearest known one.\n"
          "\n"
          "The last column says what a resume may do with an option: *identity*, a change is refused, "
          "because it would be another\n"
          "model or run; *numeric*, a change is allowed and recorded, but the run no longer has the bits "
          "that it would have had; *free*, no\n"
          "bit depends on it.\n"
          "\n"
          "This page is generated: `lockstep config options --markdown > docs/configuration.md`.\n",
        out);
}

void ls_config_write_reference(FILE *out)
{
    size_t count = 0;
    const LsOption *options = ls_options(&count);
    write_head(out);
    for (size_t i = 0; i < count; i++) {
        if (begins_section(options, i))
            fprintf(out,
                "\n## %.*s\n\n| option | values | default | meaning | resume |\n|---|---|---|---|---|\n",
                (int)ls_section_length(options[i].name), options[i].name);
        fprintf(out, "| `%s` | ", options[i].name);
        write_values(&options[i], out);
        fprintf(out, " | %s%s%s | %s | %s |\n", options[i].initial[0] ? "`" : "", options[i].initial,
            options[i].initial[0] ? "`" : "", options[i].help, class_names[options[i].class_]);
    }
}
