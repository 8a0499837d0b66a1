// Values of options: from text, from the environment, and what they must be together.
#include "base/config.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config_text.h"

static void *field_of(LsConfig *config, const LsOption *option)
{
    return (char *)config + option->offset;
}

static LsStatus fail_value(const LsOption *option, const char *value, const char *origin, const char *must)
{
    char quote[LS_QUOTE_SIZE];
    return LS_FAIL(
        LS_CONFIG, "%s: %s is %s, but must be %s", origin, option->name, ls_text_quote(quote, value), must);
}

static LsStatus fail_number(const LsOption *option, const char *value, const char *origin, const char *kind)
{
    char must[160];
    snprintf(must, sizeof must, "%s from %.16g to %.16g%s%s", kind, option->minimum, option->maximum,
        option->zero ? " or " : "", option->zero ? option->zero : "");
    return fail_value(option, value, origin, must);
}

// Reads the whole of `text` as a decimal integer; false if it is anything else or does not fit.
static bool parse_int(const char *text, size_t length, int64_t *out)
{
    char digits[24]; // more than the longest int64_t
    if (length == 0 || length >= sizeof digits)
        return false;
    memcpy(digits, text, length);
    digits[length] = '\0';
    const char *first = digits + (digits[0] == '-');
    if (*first == '\0' || first[strspn(first, "0123456789")] != '\0')
        return false;
    errno = 0;
    *out = strtoll(digits, NULL, 10);
    return errno == 0;
}

// Reads the whole of `text` as a decimal number; false for hexadecimal, names such as "nan", and what is
// too large or too small for a double.
static bool parse_real(const char *text, double *out)
{
    if (text[0] == '\0' || text[strspn(text, "0123456789+-.eE")] != '\0')
        return false;
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && errno == 0 && isfinite(*out);
}

static bool within(const LsOption *option, double value)
{
    return value >= option->minimum && value <= option->maximum;
}

static LsStatus set_int(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    int64_t number;
    if (!parse_int(value, strlen(value), &number) || !within(option, (double)number))
        return fail_number(option, value, origin, "a whole number");
    *(int64_t *)field_of(config, option) = number;
    return LS_OK;
}

static LsStatus set_real(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    double number = 0;
    bool word = option->zero && strcmp(value, option->zero) == 0;
    if (!word && (!parse_real(value, &number) || !within(option, number)))
        return fail_number(option, value, origin, "a number");
    *(double *)field_of(config, option) = number;
    return LS_OK;
}

static LsStatus set_bool(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    bool on = strcmp(value, "true") == 0;
    if (!on && strcmp(value, "false") != 0)
        return fail_value(option, value, origin, "true or false");
    *(bool *)field_of(config, option) = on;
    return LS_OK;
}

static LsStatus set_text(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    size_t length = strlen(value);
    if (length >= LS_CONFIG_TEXT)
        return fail_value(option, value, origin, "at most 1023 bytes long");
    // Only what can be written to YAML and read back, and shown in one line of a message.
    size_t step;
    for (const char *at = value; *at != '\0'; at += step) {
        uint32_t code_point;
        step = ls_text_decode(at, &code_point);
        if (step == 0 || code_point < 0x20 || code_point == 0x7F)
            return fail_value(option, value, origin, "UTF-8 without control characters");
    }
    char *field = field_of(config, option);
    memset(field, 0, LS_CONFIG_TEXT);
    memcpy(field, value, length);
    return LS_OK;
}

static LsStatus set_choice(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    char must[256] = "one of ";
    for (int i = 0; option->choices[i] != NULL; i++) {
        if (strcmp(option->choices[i], value) == 0) {
            *(int *)field_of(config, option) = i;
            return LS_OK;
        }
        size_t used = strlen(must);
        snprintf(must + used, sizeof must - used, "%s%s", i == 0 ? "" : ", ", option->choices[i]);
    }
    return fail_value(option, value, origin, must);
}

// Takes blanks off both ends of [*start, *end).
static void trim(const char **start, const char **end)
{
    while (*start < *end && **start == ' ')
        ++*start;
    while (*end > *start && (*end)[-1] == ' ')
        --*end;
}

// Reads "[1, 2]", "1, 2" or "[]".
static LsStatus set_ints(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    LsIntList list = {0};
    const char *at = value, *end = value + strlen(value);
    trim(&at, &end);
    bool bracketed = end - at >= 2 && at[0] == '[' && end[-1] == ']';
    if (bracketed) {
        at++;
        end--;
        trim(&at, &end);
    }
    bool more = !(bracketed && at == end);
    while (more) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        const char *stop = comma == NULL ? end : comma;
        trim(&at, &stop);
        int64_t number;
        if (!parse_int(at, (size_t)(stop - at), &number) || !within(option, (double)number))
            return fail_number(option, value, origin, "a list of whole numbers, each");
        if (list.count == LS_CONFIG_LIST)
            return fail_value(option, value, origin, "a list of at most 64 numbers");
        list.values[list.count++] = number;
        more = comma != NULL;
        at = more ? comma + 1 : end;
    }
    *(LsIntList *)field_of(config, option) = list;
    return LS_OK;
}

typedef LsStatus (*Setter)(LsConfig *config, const LsOption *option, const char *value, const char *origin);

static const Setter setters[] = {
    [LS_OPTION_INT] = set_int,
    [LS_OPTION_REAL] = set_real,
    [LS_OPTION_BOOL] = set_bool,
    [LS_OPTION_TEXT] = set_text,
    [LS_OPTION_CHOICE] = set_choice,
    [LS_OPTION_INTS] = set_ints,
};

LsStatus ls_config_set(LsConfig *config, const char *name, const char *value, const char *origin)
{
    const LsOption *option = ls_option_find(name);
    if (option == NULL) {
        char quote[LS_QUOTE_SIZE];
        return LS_FAIL(LS_CONFIG,
            "%s: unknown option %s; did you mean %s? (`lockstep config options` lists all)", origin,
            ls_text_quote(quote, name), ls_option_nearest(name));
    }
    return setters[option->type](config, option, value, origin);
}

void ls_config_defaults(LsConfig *config)
{
    size_t count;
    const LsOption *options = ls_options(&count);
    memset(config, 0, sizeof *config); // padding too, so that equal configurations have equal bytes
    for (size_t i = 0; i < count; i++)
        setters[options[i].type](config, &options[i], options[i].initial, "default");
}

// Applies one NAME=VALUE of the environment if NAME is LOCKSTEP_SECTION_KEY.
static LsStatus apply_variable(LsConfig *config, const char *variable)
{
    static const char prefix[] = "LOCKSTEP_";
    if (strncmp(variable, prefix, sizeof prefix - 1) != 0)
        return LS_OK;
    const char *equals = strchr(variable, '=');
    size_t length = equals == NULL ? 0 : (size_t)(equals - variable);
    char origin[128], name[128];
    if (length < sizeof prefix || length >= sizeof origin)
        return LS_OK;
    memcpy(origin, variable, length);
    origin[length] = '\0';

    // The first underscore after the prefix ends the section, whose names have none.
    size_t used = 0;
    bool has_section = false;
    for (const char *at = origin + sizeof prefix - 1; *at != '\0'; at++) {
        char c = (char)tolower((unsigned char)*at);
        if (c == '_' && !has_section) {
            name[used] = '\0';
            if (!ls_section_known(name))
                return LS_OK;
            has_section = true;
            c = '.';
        }
        name[used++] = c;
    }
    name[used] = '\0';
    return has_section ? ls_config_set(config, name, equals + 1, origin) : LS_OK;
}

LsStatus ls_config_read_environment(LsConfig *config, char *const *environment)
{
    LsConfig changed = *config;
    for (size_t i = 0; environment[i] != NULL; i++)
        LS_TRY(apply_variable(&changed, environment[i]));
    *config = changed;
    return LS_OK;
}
