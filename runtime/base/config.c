// Setting options from text, and what a whole configuration must satisfy.
#include "base/config.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config_text.h"

static void *field_of(LsConfig *config, const LsOption *option)
{
    return (char *)config + option->offset;
}

static const void *const_field_of(const LsConfig *config, const LsOption *option)
{
    return (const char *)config + option->offset;
}

// ---- One value ------------------------------------------------------------------------------------------

static LsStatus fail_value(const LsOption *option, const char *value, const char *origin, const char *wanted)
{
    char quote[LS_QUOTE_SIZE];
    return LS_FAIL(
        LS_CONFIG, "%s: %s is %s, but takes %s", origin, option->name, ls_text_quote(quote, value), wanted);
}

// A bound as people write it.
static const char *bound_text(double bound, char *text, size_t size)
{
    bool whole = bound == floor(bound) && fabs(bound) < 1e16;
    snprintf(text, size, whole ? "%.0f" : "%g", bound);
    return text;
}

static LsStatus fail_range(const LsOption *option, const char *value, const char *origin, const char *noun)
{
    char low[32], high[32], wanted[128];
    snprintf(wanted, sizeof wanted, "%s from %s to %s", noun, bound_text(option->minimum, low, sizeof low),
        bound_text(option->maximum, high, sizeof high));
    return fail_value(option, value, origin, wanted);
}

static bool within(const LsOption *option, double value)
{
    return value >= option->minimum && value <= option->maximum;
}

// A decimal integer and nothing else.
static bool read_integer(const char *text, int64_t *out)
{
    const char *digits = text + (text[0] == '-' || text[0] == '+');
    if (digits[0] < '0' || digits[0] > '9')
        return false;
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return false;
    *out = value;
    return true;
}

// A finite decimal number and nothing else: no hexadecimal, no "nan", no "inf".
static bool read_real(const char *text, double *out)
{
    if (text[0] == '\0' || text[strspn(text, "0123456789+-.eE")] != '\0')
        return false;
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value))
        return false;
    *out = value;
    return true;
}

static LsStatus set_int(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    int64_t number = 0;
    if (!read_integer(value, &number) || !within(option, (double)number))
        return fail_range(option, value, origin, "a whole number");
    *(int64_t *)field_of(config, option) = number;
    return LS_OK;
}

static LsStatus set_real(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    double number = 0;
    if (!read_real(value, &number) || !within(option, number))
        return fail_range(option, value, origin, "a number");
    *(double *)field_of(config, option) = number;
    return LS_OK;
}

static LsStatus set_bool(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    bool yes = strcmp(value, "true") == 0;
    if (!yes && strcmp(value, "false") != 0)
        return fail_value(option, value, origin, "true or false");
    *(bool *)field_of(config, option) = yes;
    return LS_OK;
}

static LsStatus set_text(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    char *text = field_of(config, option);
    if (strlen(value) >= LS_CONFIG_TEXT)
        return fail_value(option, value, origin, "at most 1023 bytes");
    for (const char *c = value; *c;) {
        uint32_t code_point = 0;
        size_t length = ls_text_decode(c, &code_point);
        if (length == 0 || code_point < 0x20 || code_point == 0x7F)
            return fail_value(option, value, origin, "UTF-8 text without control characters");
        c += length;
    }
    // The rest of the field is cleared, so that equal configurations are equal in memory.
    memset(text, 0, LS_CONFIG_TEXT);
    memcpy(text, value, strlen(value));
    return LS_OK;
}

static LsStatus set_choice(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    char wanted[256] = "one of";
    for (int i = 0; option->choices[i]; i++) {
        if (strcmp(option->choices[i], value) == 0) {
            *(int *)field_of(config, option) = i;
            return LS_OK;
        }
        size_t used = strlen(wanted);
        snprintf(wanted + used, sizeof wanted - used, "%s %s", i ? "," : "", option->choices[i]);
    }
    return fail_value(option, value, origin, wanted);
}

// "[1024, 512]", the brackets may be left out.
static LsStatus set_ints(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    LsIntList list = {0};
    char copy[LS_CONFIG_TEXT];
    if (strlen(value) >= sizeof copy)
        return fail_value(option, value, origin, "a shorter list");
    strcpy(copy, value);
    char *start = copy + strspn(copy, " ");
    size_t length = strlen(start);
    while (length > 0 && start[length - 1] == ' ')
        start[--length] = '\0';
    bool open = start[0] == '[', close = length > 0 && start[length - 1] == ']';
    if (open != close || (open && length < 2))
        return fail_value(option, value, origin, "a list such as [512, 256]");
    if (open) {
        start[length - 1] = '\0';
        start++;
    }
    bool empty = start[strspn(start, " ")] == '\0';
    for (char *rest = empty ? NULL : start, *item; (item = strsep(&rest, ",")) != NULL;) {
        item += strspn(item, " ");
        item[strcspn(item, " ")] = '\0';
        if (list.count == LS_CONFIG_LIST)
            return fail_value(option, value, origin, "at most 64 numbers");
        int64_t *number = &list.values[list.count];
        if (!read_integer(item, number) || !within(option, (double)*number))
            return fail_range(option, value, origin, "a list of whole numbers, each");
        list.count++;
    }
    *(LsIntList *)field_of(config, option) = list;
    return LS_OK;
}

static LsStatus set_option(LsConfig *config, const LsOption *option, const char *value, const char *origin)
{
    switch (option->type) {
    case LS_OPTION_INT:
        return set_int(config, option, value, origin);
    case LS_OPTION_REAL:
        return set_real(config, option, value, origin);
    case LS_OPTION_BOOL:
        return set_bool(config, option, value, origin);
    case LS_OPTION_TEXT:
        return set_text(config, option, value, origin);
    case LS_OPTION_CHOICE:
        return set_choice(config, option, value, origin);
    case LS_OPTION_INTS:
        return set_ints(config, option, value, origin);
    }
    return LS_FAIL(LS_INTERNAL, "option %s has no type", option->name);
}

LsStatus ls_config_set(LsConfig *config, const char *name, const char *value, const char *origin)
{
    const LsOption *option = ls_option_find(name);
    char quote[LS_QUOTE_SIZE];
    if (!option)
        return LS_FAIL(LS_CONFIG, "%s: unknown option %s, did you mean %s?", origin,
            ls_text_quote(quote, name), ls_option_nearest(name));
    return set_option(config, option, value, origin);
}

void ls_config_defaults(LsConfig *config)
{
    size_t count = 0;
    const LsOption *options = ls_options(&count);
    memset(config, 0, sizeof *config);
    for (size_t i = 0; i < count; i++)
        set_option(config, &options[i], options[i].initial, "default"); // tested to be within bounds
}

// ---- Values as text -------------------------------------------------------------------------------------

// The shortest decimal form that reads back to the same number.
static void real_text(double value, char *text, size_t size)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, size, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            return;
    }
}

static void ints_text(const LsIntList *list, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (size_t i = 0; i < list->count && used < size; i++)
        used +=
            (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "", (long long)list->values[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
}

void ls_option_text(const LsConfig *config, const LsOption *option, char *text, size_t size)
{
    const void *field = const_field_of(config, option);
    switch (option->type) {
    case LS_OPTION_INT:
        snprintf(text, size, "%lld", (long long)*(const int64_t *)field);
        break;
    case LS_OPTION_REAL:
        real_text(*(const double *)field, text, size);
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
        ints_text(field, text, size);
        break;
    }
}

// ---- The environment ------------------------------------------------------------------------------------

// "LOCKSTEP_TRAIN_MAX_STEPS=…" names train.max_steps: the section ends at the first underscore.
static LsStatus read_variable(LsConfig *config, const char *variable)
{
    static const char prefix[] = "LOCKSTEP_";
    const char *equals = strchr(variable, '=');
    if (strncmp(variable, prefix, sizeof prefix - 1) != 0 || !equals)
        return LS_OK;
    char name[128], origin[160];
    size_t length = (size_t)(equals - variable) - (sizeof prefix - 1);
    if (length >= sizeof name)
        return LS_OK;
    for (size_t i = 0; i < length; i++) {
        char c = variable[sizeof prefix - 1 + i];
        name[i] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    }
    name[length] = '\0';
    char *separator = strchr(name, '_');
    if (!separator)
        return LS_OK;
    *separator = '\0';
    if (!ls_section_known(name))
        return LS_OK;
    *separator = '.';
    snprintf(origin, sizeof origin, "%.*s", (int)(equals - variable), variable);
    return ls_config_set(config, name, equals + 1, origin);
}

LsStatus ls_config_read_environment(LsConfig *config, char *const *environment)
{
    for (; *environment; environment++)
        LS_TRY(read_variable(config, *environment));
    return LS_OK;
}

// ---- The whole ------------------------------------------------------------------------------------------

static LsStatus validate_batch(const LsConfig *config)
{
    int64_t batch = config->train.batch, lanes = config->train.lanes;
    if ((lanes & (lanes - 1)) != 0) {
        int64_t below = 1;
        while (below * 2 < lanes)
            below *= 2;
        return LS_FAIL(LS_CONFIG, "train.lanes is %lld, but must be a power of two: %lld or %lld",
            (long long)lanes, (long long)below, (long long)(below * 2));
    }
    int64_t unit = lanes * config->train.accumulation;
    if (batch % unit == 0)
        return LS_OK;
    int64_t below = batch / unit * unit;
    if (below == 0)
        return LS_FAIL(LS_CONFIG,
            "train.batch = %lld does not divide into train.lanes x train.accumulation = %lld x %lld parts: "
            "take a "
            "multiple of %lld",
            (long long)batch, (long long)lanes, (long long)config->train.accumulation, (long long)unit);
    return LS_FAIL(LS_CONFIG,
        "train.batch = %lld does not divide into train.lanes x train.accumulation = %lld x %lld parts: take "
        "%lld or %lld",
        (long long)batch, (long long)lanes, (long long)config->train.accumulation, (long long)below,
        (long long)(below + unit));
}

static LsStatus validate_schedule(const LsConfig *config)
{
    int kind = config->schedule.kind;
    int64_t warmup = config->schedule.warmup_steps, steps = config->train.max_steps;
    if (kind == LS_SCHEDULE_WSD && config->schedule.decay_steps < 1)
        return LS_FAIL(LS_CONFIG, "schedule.kind wsd needs schedule.decay_steps of at least 1");
    int64_t decay = kind == LS_SCHEDULE_WSD ? config->schedule.decay_steps : 0;
    if (steps > 0 && (warmup >= steps || decay > steps - warmup))
        return LS_FAIL(LS_CONFIG,
            "schedule.warmup_steps = %lld and schedule.decay_steps = %lld do not fit train.max_steps = %lld",
            (long long)warmup, (long long)decay, (long long)steps);
    return LS_OK;
}

LsStatus ls_config_validate(const LsConfig *config)
{
    LS_TRY(validate_batch(config));
    if (config->train.max_steps == 0 && config->train.max_epochs == 0)
        return LS_FAIL(LS_CONFIG, "nothing says when training ends: set train.max_steps or train.max_epochs");
    LS_TRY(validate_schedule(config));
    bool sgd = config->optimizer.kind == LS_OPTIMIZER_SGD;
    if (sgd && config->optimizer.nesterov && config->optimizer.momentum == 0)
        return LS_FAIL(LS_CONFIG, "optimizer.nesterov needs optimizer.momentum above 0");
    if (config->train.early_stopping > 0 && config->eval.every == 0)
        return LS_FAIL(LS_CONFIG, "train.early_stopping needs eval.every above 0");
    if (config->checkpoint.keep_best && config->eval.every == 0)
        return LS_FAIL(LS_CONFIG, "checkpoint.keep_best needs eval.every above 0");
    return LS_OK;
}
