// Options of a command, read and explained from one table.
#include "command.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

enum { HELP = 1, LONG_ONLY = 1000, COLUMN = 30, WIDTH = 100 };

// ---- Help -----------------------------------------------------------------------------------------------

static void print_flag(const LsFlag *flag)
{
    char left[128];
    int length = flag->letter ? snprintf(left, sizeof left, "  -%c, --%s", flag->letter, flag->name)
                              : snprintf(left, sizeof left, "      --%s", flag->name);
    if (flag->argument && length > 0 && (size_t)length < sizeof left)
        snprintf(left + length, sizeof left - (size_t)length, " %s", flag->argument);
    printf("%-*s", COLUMN, left);
    if (strlen(left) >= COLUMN)
        printf("\n%*s", COLUMN, "");
    size_t column = COLUMN;
    for (const char *word = flag->help; *word;) {
        size_t size = strcspn(word, " ");
        if (column > COLUMN && column + size >= WIDTH) {
            printf("\n%*s", COLUMN, "");
            column = COLUMN;
        }
        printf("%s%.*s", column > COLUMN ? " " : "", (int)size, word);
        column += size + 1;
        word += size + (word[size] == ' ');
    }
    printf("\n");
}

static void print_help(const LsCommand *command, const LsFlag *flags, size_t count)
{
    printf("lockstep %s %s\n\n%s\n\nOptions:\n", command->name, command->arguments, command->about);
    for (size_t i = 0; i < count; i++)
        print_flag(&flags[i]);
    print_flag(&(LsFlag){.name = "help", .letter = 'h', .help = "Prints this text."});
}

// ---- Nearest name ---------------------------------------------------------------------------------------

const char *ls_text_nearest(const char *text, const char *const *list, size_t count)
{
    const char *nearest = NULL;
    size_t best = strlen(text) / 2 + 1; // more changes than that make another word
    for (size_t i = 0; i < count; i++) {
        size_t distance = ls_text_distance(text, list[i]);
        if (distance < best) {
            best = distance;
            nearest = list[i];
        }
    }
    return nearest;
}

// ---- Values ---------------------------------------------------------------------------------------------

static LsStatus bad_value(const LsFlag *flag, const char *text, const char *expected)
{
    return LS_FAIL(LS_USAGE, "--%s %s: expected %s", flag->name, text, expected);
}

static LsStatus read_count(const LsFlag *flag, const char *text)
{
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    char expected[64];
    snprintf(expected, sizeof expected, "a whole number of at least %lld", (long long)flag->minimum);
    if (errno || end == text || *end || number < flag->minimum)
        return bad_value(flag, text, expected);
    *(int64_t *)flag->value = number;
    return LS_OK;
}

static LsStatus read_real(const LsFlag *flag, const char *text)
{
    char *end, expected[64];
    double number = strtod(text, &end);
    snprintf(expected, sizeof expected, "a number of at least %lld", (long long)flag->minimum);
    if (end == text || *end || !isfinite(number) || number < (double)flag->minimum)
        return bad_value(flag, text, expected);
    *(double *)flag->value = number;
    return LS_OK;
}

static LsStatus read_choice(const LsFlag *flag, const char *text)
{
    char expected[128] = "one of";
    for (int i = 0; flag->choices[i]; i++) {
        if (strcmp(flag->choices[i], text) == 0) {
            *(int *)flag->value = i;
            return LS_OK;
        }
        size_t used = strlen(expected);
        snprintf(expected + used, sizeof expected - used, "%s %s", i ? "," : "", flag->choices[i]);
    }
    return bad_value(flag, text, expected);
}

static LsStatus read_text(const LsFlag *flag, const char *text)
{
    if (flag->type == LS_FLAG_TEXT) {
        *(const char **)flag->value = text;
        return LS_OK;
    }
    LsTextList *list = flag->value;
    if (list->count == LS_TEXTS_MAX)
        return LS_FAIL(LS_USAGE, "--%s was given more than %d times", flag->name, LS_TEXTS_MAX);
    list->text[list->count++] = text;
    return LS_OK;
}

static LsStatus read_value(const LsFlag *flag, const char *text)
{
    switch (flag->type) {
    case LS_FLAG_SWITCH:
        *(bool *)flag->value = true;
        return LS_OK;
    case LS_FLAG_CLEAR:
        *(bool *)flag->value = false;
        return LS_OK;
    case LS_FLAG_COUNT:
        return read_count(flag, text);
    case LS_FLAG_REAL:
        return read_real(flag, text);
    case LS_FLAG_CHOICE:
        return read_choice(flag, text);
    case LS_FLAG_CHAR:
        if (strlen(text) != 1 && strcmp(text, "\\t") != 0)
            return bad_value(flag, text, "a single character, or \\t");
        *(char *)flag->value = strlen(text) == 1 ? text[0] : '\t';
        return LS_OK;
    case LS_FLAG_TEXT:
    case LS_FLAG_LIST:
        break;
    }
    return read_text(flag, text);
}

// ---- The command line -----------------------------------------------------------------------------------

static LsStatus unknown_option(const LsInvocation *invocation, const LsFlag *flags, size_t count)
{
    const char *given = invocation->argv[optind - 1], *names[LS_FLAGS_MAX + 1] = {"help"};
    if (strncmp(given, "--", 2) != 0) // a letter, perhaps in the middle of several
        return LS_FAIL(
            LS_USAGE, "unknown option -%c; see lockstep %s --help", optopt, invocation->command->name);
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(given + 2, "="), given + 2);
    for (size_t i = 0; i < count; i++) {
        names[i + 1] = flags[i].name;
        if (strcmp(flags[i].name, name) == 0) // known, so it was given a value that it does not take
            return LS_FAIL(
                LS_USAGE, "--%s takes no value; see lockstep %s --help", name, invocation->command->name);
    }
    const char *nearest = ls_text_nearest(name, names, count + 1);
    return LS_FAIL(LS_USAGE, "unknown option --%s%s%s; see lockstep %s --help", name,
        nearest ? ", did you mean --" : "", nearest ? nearest : "", invocation->command->name);
}

// What getopt_long is told: long options are numbered from LONG_ONLY.
static void describe(const LsFlag *flags, size_t count, struct option *options, char *letters)
{
    char *letter = letters;
    *letter++ = ':'; // a missing argument is told from an unknown option
    *letter++ = 'h';
    for (size_t i = 0; i < count; i++) {
        bool value = flags[i].type != LS_FLAG_SWITCH && flags[i].type != LS_FLAG_CLEAR;
        options[i] = (struct option){flags[i].name, value, NULL, LONG_ONLY + (int)i};
        if (flags[i].letter) {
            *letter++ = flags[i].letter;
            if (value)
                *letter++ = ':';
        }
    }
    *letter = '\0';
    options[count] = (struct option){"help", no_argument, NULL, HELP};
    options[count + 1] = (struct option){0};
}

static const LsFlag *find_flag(const LsFlag *flags, size_t count, int code)
{
    if (code >= LONG_ONLY)
        return &flags[code - LONG_ONLY];
    for (size_t i = 0; i < count; i++)
        if (flags[i].letter == code)
            return &flags[i];
    return NULL;
}

static LsStatus check_inputs(const LsInvocation *invocation, int least_inputs, int most_inputs)
{
    const LsCommand *command = invocation->command;
    if (invocation->input_count < least_inputs)
        return LS_FAIL(LS_USAGE, "an argument is missing: lockstep %s %s", command->name, command->arguments);
    if (most_inputs >= 0 && invocation->input_count > most_inputs)
        return LS_FAIL(LS_USAGE, "unexpected argument %s: lockstep %s %s", invocation->inputs[most_inputs],
            command->name, command->arguments);
    return LS_OK;
}

LsStatus ls_arguments_read(
    LsInvocation *invocation, const LsFlag *flags, size_t count, int least_inputs, int most_inputs)
{
    struct option options[LS_FLAGS_MAX + 2];
    char letters[2 * LS_FLAGS_MAX + 3];
    if (count > LS_FLAGS_MAX)
        return LS_FAIL(
            LS_INTERNAL, "%s has %zu options, %d fit", invocation->command->name, count, LS_FLAGS_MAX);
    describe(flags, count, options, letters);
    opterr = 0;
    optind = 0;
    int code;
    while ((code = getopt_long(invocation->argc, invocation->argv, letters, options, NULL)) != -1) {
        if (code == HELP || code == 'h') {
            print_help(invocation->command, flags, count);
            invocation->helped = true;
            return LS_OK;
        }
        if (code == ':')
            return LS_FAIL(LS_USAGE, "%s needs an argument; see lockstep %s --help",
                invocation->argv[optind - 1], invocation->command->name);
        const LsFlag *flag = code == '?' ? NULL : find_flag(flags, count, code);
        if (!flag)
            return unknown_option(invocation, flags, count);
        LS_TRY(read_value(flag, optarg));
    }
    invocation->inputs = invocation->argv + optind;
    invocation->input_count = invocation->argc - optind;
    return check_inputs(invocation, least_inputs, most_inputs);
}
