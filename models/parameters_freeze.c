// Which parameters are not trained, by patterns of their names.
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "models/parameters.h"

// '*' is any text and '?' any one character. On a mismatch the newest '*' takes one character more, which is
// all that has to be tried.
static bool matches(const char *pattern, size_t length, const char *name)
{
    size_t p = 0, star = length;
    const char *taken = NULL;
    while (*name) {
        if (p < length && pattern[p] == '*') {
            star = p++;
            taken = name;
        } else if (p < length && (pattern[p] == '?' || pattern[p] == *name)) {
            p++;
            name++;
        } else if (taken) {
            p = star + 1;
            name = ++taken;
        } else {
            return false;
        }
    }
    while (p < length && pattern[p] == '*')
        p++;
    return p == length;
}

// A part of the model that was named without what is below it, or the name that looks most like the pattern.
static LsStatus fail_unmatched(const LsParameters *table, const char *pattern, size_t length)
{
    char text[LS_NAME_MAX], quote[LS_QUOTE_SIZE];
    snprintf(text, sizeof text, "%.*s", (int)(length < sizeof text ? length : sizeof text - 1), pattern);
    const char *nearest = table->list[0].name;
    for (size_t i = 0; i < table->count; i++) {
        const char *name = table->list[i].name;
        if (strncmp(name, text, strlen(text)) == 0 && name[strlen(text)] == '.')
            return LS_FAIL(LS_CONFIG, "train.freeze: no parameter is called %s; did you mean %s.*",
                ls_text_quote(quote, text), text);
        if (ls_text_distance(text, name) < ls_text_distance(text, nearest))
            nearest = name;
    }
    return LS_FAIL(LS_CONFIG, "train.freeze: %s matches no parameter; the nearest is called %s",
        ls_text_quote(quote, text), nearest);
}

static LsStatus freeze(LsParameters *table, const char *pattern, size_t length)
{
    bool matched = false;
    for (size_t i = 0; i < table->count; i++) {
        if (!matches(pattern, length, table->list[i].name))
            continue;
        table->list[i].frozen = true;
        matched = true;
    }
    return matched ? LS_OK : fail_unmatched(table, pattern, length);
}

LsStatus ls_parameters_freeze(LsParameters *table, const char *patterns)
{
    static const char separators[] = ", ";
    for (const char *pattern = patterns + strspn(patterns, separators); *pattern;) {
        size_t length = strcspn(pattern, separators);
        LS_TRY(freeze(table, pattern, length));
        pattern += length;
        pattern += strspn(pattern, separators);
    }
    for (size_t i = 0; i < table->count; i++)
        if (!table->list[i].frozen && !table->list[i].statistics)
            return LS_OK;
    return LS_FAIL(LS_CONFIG, "train.freeze: all parameters are frozen; leave some to be trained");
}
