#include "command.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- Flags ----------------------------------------------------------------------------------------------

static const LsFlag *find_flag(const LsFlag *flags, const char *word, size_t length)
{
    for (const LsFlag *flag = flags; flag->name; flag++) {
        if (word[0] == '-' && word[1] == '-' && strlen(flag->name) == length - 2 &&
            strncmp(flag->name, word + 2, length - 2) == 0)
            return flag;
        if (length == 2 && word[1] != '-' && flag->letter == word[1])
            return flag;
    }
    return NULL;
}

// Length of the common beginning: enough to find what was meant by a flag that does not exist.
static size_t common_prefix(const char *a, const char *b)
{
    size_t length = 0;
    while (a[length] && a[length] == b[length])
        length++;
    return length;
}

static LsStatus fail_unknown(const char *command, const LsFlag *flags, const char *word)
{
    const LsFlag *nearest = NULL;
    size_t longest = 0;
    for (const LsFlag *flag = flags; flag->name && strncmp(word, "--", 2) == 0; flag++) {
        size_t length = common_prefix(flag->name, word + 2);
        if (length > longest) {
            longest = length;
            nearest = flag;
        }
    }
    if (nearest)
        return LS_FAIL(LS_USAGE, "%s: unknown option %s, did you mean --%s? (see %s --help)", command, word,
            nearest->name, command);
    return LS_FAIL(LS_USAGE, "%s: unknown option %s (see %s --help)", command, word, command);
}

static LsStatus set_flag(const char *command, const LsFlag *flag, const char *value)
{
    char *end = NULL;
    errno = 0;
    if (flag->text) {
        *flag->text = value;
    } else if (flag->integer) {
        long long number = strtoll(value, &end, 10);
        if (end == value || *end || errno)
            return LS_FAIL(LS_USAGE, "%s: --%s takes a whole number, not \"%s\"", command, flag->name, value);
        *flag->integer = number;
    } else if (flag->real) {
        double number = strtod(value, &end);
        if (end == value || *end || !isfinite(number))
            return LS_FAIL(LS_USAGE, "%s: --%s takes a number, not \"%s\"", command, flag->name, value);
        *flag->real = number;
    } else {
        return flag->collect(flag->context, value);
    }
    return LS_OK;
}

// Reads the flag at argv[*i]; *i moves over its value.
static LsStatus read_flag(const char *command, const LsFlag *flags, int argc, char **argv, int *i)
{
    const char *word = argv[*i], *equals = strncmp(word, "--", 2) == 0 ? strchr(word, '=') : NULL;
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    const LsFlag *flag = find_flag(flags, word, length);
    if (!flag)
        return fail_unknown(command, flags, word);
    if (flag->set) {
        if (equals)
            return LS_FAIL(LS_USAGE, "%s: --%s takes no value", command, flag->name);
        *flag->set = true;
        return LS_OK;
    }
    if (equals)
        return set_flag(command, flag, equals + 1);
    if (*i + 1 == argc)
        return LS_FAIL(LS_USAGE, "%s: %s needs a value", command, word);
    return set_flag(command, flag, argv[++*i]);
}

LsStatus ls_flags_read(const char *command, const LsFlag *flags, int argc, char **argv, int *words)
{
    int kept = 0;
    bool ended = false;
    for (int i = 1; i < argc; i++) {
        if (!ended && strcmp(argv[i], "--") == 0)
            ended = true;
        else if (!ended && argv[i][0] == '-' && argv[i][1] != '\0')
            LS_TRY(read_flag(command, flags, argc, argv, &i));
        else
            argv[1 + kept++] = argv[i];
    }
    *words = kept;
    return LS_OK;
}

LsStatus ls_words_check(const char *command, int words, int least, int most)
{
    if (words < least)
        return LS_FAIL(LS_USAGE, "%s: something is missing (see %s --help)", command, command);
    if (words > most)
        return LS_FAIL(LS_USAGE, "%s: too many words (see %s --help)", command, command);
    return LS_OK;
}

// ---- The configuration ----------------------------------------------------------------------------------

LsStatus ls_collect_setting(void *context, const char *value)
{
    LsConfigSources *sources = context;
    if (!strchr(value, '='))
        return LS_FAIL(LS_USAGE, "--set takes section.key=value, not \"%s\"", value);
    if (sources->settings == LS_SETTINGS_MAX)
        return LS_FAIL(LS_USAGE, "more than %d --set", LS_SETTINGS_MAX);
    sources->setting[sources->settings++] = value;
    return LS_OK;
}

static LsStatus apply_setting(LsConfig *config, const char *setting)
{
    char name[256];
    const char *equals = strchr(setting, '=');
    size_t length = (size_t)(equals - setting);
    if (length >= sizeof name)
        return LS_FAIL(LS_CONFIG, "--set: a name of %zu characters is no option", length);
    memcpy(name, setting, length);
    name[length] = '\0';
    return ls_config_set(config, name, equals + 1, "--set");
}

LsStatus ls_config_load(const LsConfigSources *sources, LsConfig *config)
{
    if (sources->file)
        LS_TRY(ls_config_read_yaml(config, sources->file));
    LS_TRY(ls_config_read_environment(config, environ));
    for (size_t i = 0; i < sources->settings; i++)
        LS_TRY(apply_setting(config, sources->setting[i]));
    return LS_OK;
}
