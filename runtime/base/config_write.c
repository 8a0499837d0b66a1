// The configuration as text: YAML that reads back, and the reference of all options in Markdown.
#include "base/config.h"

#include <stdlib.h>
#include <string.h>

#include "config_text.h"

// The shortest decimal text that reads back to the same double.
static void write_real(double value, char *text, size_t size)
{
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, size, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            return;
    }
}

static void write_ints(const LsIntList *list, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (size_t i = 0; i < list->count && used < size; i++)
        used += (size_t)snprintf(
            text + used, size - used, "%s%lld", i == 0 ? "" : ", ", (long long)list->values[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
}

void ls_option_text(const LsConfig *config, const LsOption *option, char *text, size_t size)
{
    const void *field = (const char *)config + option->offset;
    switch (option->type) {
    case LS_OPTION_INT:
        snprintf(text, size, "%lld", (long long)*(const int64_t *)field);
        break;
    case LS_OPTION_REAL:
        if (option->zero && *(const double *)field == 0)
            snprintf(text, size, "%s", option->zero);
        else
            write_real(*(const double *)field, text, size);
        break;
    case LS_OPTION_BOOL:
        snprintf(text, size, "%s", *(const bool *)field ? "true" : "false");
        break;
    case LS_OPTION_TEXT:
        snprintf(text, size, "%s", (const char *)field);
        break;
    case LS_OPTION_CHOICE:
        snprintf(text, size, "%s", option->choices[*(const int *)field]);
        break;
    case LS_OPTION_INTS:
        write_ints(field, text, size);
        break;
    }
}

// In double quotes, the one YAML style in which every text can be written.
static void write_quoted(const char *text, FILE *out)
{
    fputc('"', out);
    size_t length;
    uint32_t code_point;
    for (; (length = ls_text_decode(text, &code_point)) != 0; text += length) {
        // YAML breaks lines at some of these characters and forbids others; escaped they are always fine.
        bool plain = (code_point >= 0x20 && code_point < 0x7F) ||
                     (code_point >= 0xA0 && code_point < 0xFFFE && code_point != 0x2028 &&
                         code_point != 0x2029 && code_point != 0xFEFF) ||
                     code_point >= 0x10000;
        if (code_point == '"' || code_point == '\\')
            fprintf(out, "\\%c", (char)code_point);
        else if (plain)
            fwrite(text, 1, length, out);
        else
            fprintf(out, "\\U%08X", code_point);
    }
    fputc('"', out);
}

void ls_config_write_yaml(const LsConfig *config, FILE *out)
{
    size_t count;
    const LsOption *options = ls_options(&count);
    for (size_t i = 0; i < count; i++) {
        const char *name = options[i].name;
        int length = (int)ls_section_length(name);
        if (i == 0 || strncmp(name, options[i - 1].name, (size_t)length + 1) != 0)
            fprintf(out, "%s%.*s:\n", i == 0 ? "" : "\n", length, name);
        fprintf(out, "  %s: ", name + length + 1);
        char text[LS_CONFIG_LIST * 24];
        ls_option_text(config, &options[i], text, sizeof text);
        if (options[i].type == LS_OPTION_TEXT)
            write_quoted(text, out);
        else
            fputs(text, out);
        fputc('\n', out);
    }
}

static const char reference_head[] =
    "# Configuration\n"
    "\n"
    "<!-- Generated from the table of options: lockstep config options --markdown > docs/configuration.md "
    "-->\n"
    "\n"
    "A run is described by a YAML file with sections of options:\n"
    "\n"
    "```yaml\n"
    "data:\n"
    "  path: data/fashion-mnist.h5\n"
    "model:\n"
    "  hidden: [512, 256]\n"
    "train:\n"
    "  batch: 256\n"
    "  max_epochs: 5\n"
    "```\n"
    "\n"
    "Every option has a default, so a file names only what it changes. Values come from four places, each\n"
    "overruling those before it:\n"
    "\n"
    "1. the defaults below,\n"
    "2. the file given with `-c FILE`,\n"
    "3. environment variables `LOCKSTEP_SECTION_KEY`, for example `LOCKSTEP_TRAIN_BATCH=512`,\n"
    "4. `--set section.key=value` on the command line, for example `--set 'model.hidden=[256, 128]'`.\n"
    "\n"
    "An unknown option is an error (exit code 78) that names its place and the nearest known one, and so are "
    "a\n"
    "value out of bounds, a key given twice, a tab in the indentation, and YAML's anchors, aliases and "
    "tags.\n"
    "`lockstep config show -c FILE` prints the resolved configuration, `lockstep config validate -c FILE`\n"
    "checks one without running it.\n"
    "\n"
    "Numbers are decimal and finite. Lists are written `[512, 256]`. Booleans are `true` and `false`.\n"
    "\n"
    "## What a resume may change\n"
    "\n"
    "Every checkpoint holds the configuration that it was written under. An option's class says what\n"
    "happens when a run goes on with another value:\n"
    "\n"
    "| class | a change on resume |\n"
    "|---|---|\n"
    "| identity | is refused, since it would be another model or another run: start a new run directory |\n"
    "| numeric | is allowed; the weights from there on differ from those of the undisturbed run, and an "
    "event "
    "records the change |\n"
    "| free | is allowed; with `collectives.reduction: exact` no bit of the weights depends on it; "
    "`checkpoint.every` and "
    "`train.max_skipped` count as numeric with `guard.action: rollback` |\n";

static const char *const class_names[] = {
    [LS_CLASS_IDENTITY] = "identity",
    [LS_CLASS_NUMERIC] = "numeric",
    [LS_CLASS_FREE] = "free",
};

// Bounds in words; the largest count stands for "no limit".
static void write_bounds(const LsOption *option, const char *kind, FILE *out)
{
    if (option->maximum >= 9007199254740992.0)
        fprintf(out, "%s, at least %.16g", kind, option->minimum);
    else
        fprintf(out, "%s, %.16g to %.16g", kind, option->minimum, option->maximum);
}

static void write_type(const LsOption *option, FILE *out)
{
    switch (option->type) {
    case LS_OPTION_INT:
        write_bounds(option, "integer", out);
        break;
    case LS_OPTION_REAL:
        write_bounds(option, "number", out);
        if (option->zero)
            fprintf(out, ", or `%s`", option->zero);
        break;
    case LS_OPTION_BOOL:
        fputs("`true`, `false`", out);
        break;
    case LS_OPTION_TEXT:
        fputs("text", out);
        break;
    case LS_OPTION_CHOICE:
        for (size_t i = 0; option->choices[i] != NULL; i++)
            fprintf(out, "%s`%s`", i == 0 ? "" : ", ", option->choices[i]);
        break;
    case LS_OPTION_INTS:
        write_bounds(option, "list of integers", out);
        break;
    }
}

void ls_config_write_reference(FILE *out)
{
    size_t count;
    const LsOption *options = ls_options(&count);
    fputs(reference_head, out);
    for (size_t i = 0; i < count; i++) {
        const LsOption *option = &options[i];
        int length = (int)ls_section_length(option->name);
        if (i == 0 || strncmp(option->name, options[i - 1].name, (size_t)length + 1) != 0) {
            fprintf(out, "\n## `%.*s`\n\n", length, option->name);
            fputs("| option | values | default | class | what it does |\n|---|---|---|---|---|\n", out);
        }
        fprintf(out, "| `%s` | ", option->name);
        write_type(option, out);
        if (option->initial[0] == '\0')
            fputs(" | empty", out);
        else
            fprintf(out, " | `%s`", option->initial);
        fprintf(out, " | %s | %s |\n", class_names[option->class_], option->help);
    }
}
