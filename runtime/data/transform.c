#include "transform.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

void ls_text_list_free(LsTextList *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->text[i]);
    free(list->text);
    *list = (LsTextList){0};
}

LsStatus ls_text_list_add(LsTextList *list, const char *text)
{
    // Capacities are powers of two, so the count tells when one is reached.
    if ((list->count & (list->count - 1)) == 0) {
        char **grown = realloc(list->text, (list->count ? 2 * list->count : 1) * sizeof *grown);
        if (!grown)
            return LS_FAIL(LS_INTERNAL, "out of memory for a list of %zu texts", list->count);
        list->text = grown;
    }
    list->text[list->count] = strdup(text);
    if (!list->text[list->count])
        return LS_FAIL(LS_INTERNAL, "out of memory for a list of %zu texts", list->count);
    list->count++;
    return LS_OK;
}

LsStatus ls_text_list_parse(const char *texts, const char *origin, LsTextList *out)
{
    LsTextList list = {0};
    LsCsv *csv;
    LsCsvRow row;
    bool end = true;
    LS_TRY(ls_csv_open_memory(texts ? texts : "", texts ? strlen(texts) : 0, origin, ',', &csv));
    LsStatus status = ls_csv_next(csv, &row, &end);
    for (size_t f = 0; status == LS_OK && !end && f < row.fields; f++)
        status = ls_text_list_add(&list, ls_csv_field(&row, f));
    if (status == LS_OK && !end)
        status = ls_csv_next(csv, &row, &end);
    if (status == LS_OK && !end)
        status = LS_FAIL(LS_CONFIG, "%s: the list has a line end", origin);
    ls_csv_close(csv);
    if (status != LS_OK) {
        ls_text_list_free(&list);
        return status == LS_BAD_DATA ? ls_status_adopt(LS_CONFIG, ls_status_message()) : status;
    }
    *out = list;
    return LS_OK;
}

size_t ls_text_list_find(const LsTextList *list, const char *text)
{
    size_t first = 0, end = list->count;
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        int order = strcmp(list->text[middle], text);
        if (order == 0)
            return middle;
        if (order < 0)
            first = middle + 1;
        else
            end = middle;
    }
    return list->count;
}

void ls_transform_free(LsTransform *transform)
{
    for (size_t c = 0; c < transform->columns; c++) {
        ls_text_list_free(&transform->column[c].categories);
        free(transform->column[c].name);
    }
    free(transform->column);
    ls_text_list_free(&transform->missing_texts);
    *transform = (LsTransform){0};
}

static const char *trimmed(const char *text, size_t *length)
{
    static const char spaces[] = " \t\r\n\v\f";
    text += strspn(text, spaces);
    *length = strlen(text);
    while (*length > 0 && strchr(spaces, text[*length - 1]))
        (*length)--;
    return text;
}

// strtod also takes hexadecimal numbers and "nan(…)", which here are text.
LsNumber ls_number_parse(const char *text, double *out)
{
    size_t length;
    const char *start = trimmed(text, &length);
    if (length == 0 || strcspn(start, "xX(") < length)
        return LS_NUMBER_NONE;
    char *end;
    *out = strtod(start, &end);
    if (end != start + length)
        return LS_NUMBER_NONE;
    return isfinite(*out) ? LS_NUMBER_FINITE : LS_NUMBER_NOT_FINITE;
}

bool ls_transform_missing(const LsTransform *transform, const char *text)
{
    size_t length;
    const char *start = trimmed(text, &length);
    bool missing = length == 0;
    for (size_t i = 0; i < transform->missing_texts.count && !missing; i++) {
        const char *known = transform->missing_texts.text[i];
        missing = strlen(known) == length && memcmp(known, start, length) == 0;
    }
    return missing;
}

static LsStatus apply_numeric(
    const LsTransformColumn *column, const LsCsvTable *table, size_t source, size_t row, float *x)
{
    const char *text = ls_csv_cell(table, row, source);
    char quote[LS_QUOTE_SIZE];
    double value;
    switch (ls_number_parse(text, &value)) {
    case LS_NUMBER_NONE:
        return ls_csv_table_fail(table, row, source,
            "%s is not a number (a column of categories? a text that means missing?)",
            ls_text_quote(quote, text));
    case LS_NUMBER_NOT_FINITE:
        return ls_csv_table_fail(table, row, source, "%s is not a finite number (does it mean missing?)",
            ls_text_quote(quote, text));
    case LS_NUMBER_FINITE:
        break;
    }
    *x = (float)((value - column->mean) / column->deviation);
    if (!isfinite(*x))
        return ls_csv_table_fail(table, row, source,
            "%s is too far from the training data's mean %g for a float", ls_text_quote(quote, text),
            column->mean);
    return LS_OK;
}

static void apply_categorical(const LsTransformColumn *column, const char *text, float *x, size_t *unseen)
{
    size_t category = ls_text_list_find(&column->categories, text);
    if (category < column->categories.count)
        x[category] = 1;
    else if (unseen)
        (*unseen)++;
}

static LsStatus apply_missing(const LsTransform *transform, const LsTransformColumn *column,
    const LsCsvTable *table, size_t source, size_t row, float *x)
{
    if (transform->missing != LS_MISSING_FILL)
        return ls_csv_table_fail(table, row, source, "the value is missing");
    if (column->missing_category)
        x[column->features - 1] = 1;
    return LS_OK; // zero is a standardised mean
}

LsStatus ls_transform_row(const LsTransform *transform, const LsCsvTable *table, const size_t *source,
    size_t row, float *x, size_t *unseen)
{
    memset(x, 0, transform->features * sizeof *x);
    for (size_t c = 0; c < transform->columns; c++) {
        const LsTransformColumn *column = &transform->column[c];
        if (column->role != LS_ROLE_NUMERIC && column->role != LS_ROLE_CATEGORICAL)
            continue;
        const char *text = ls_csv_cell(table, row, source[c]);
        if (ls_transform_missing(transform, text))
            LS_TRY(apply_missing(transform, column, table, source[c], row, x + column->first));
        else if (column->role == LS_ROLE_NUMERIC)
            LS_TRY(apply_numeric(column, table, source[c], row, x + column->first));
        else
            apply_categorical(column, text, x + column->first, unseen ? &unseen[c] : NULL);
    }
    return LS_OK;
}

LsStatus ls_transform_class(
    const LsTransform *transform, const LsCsvTable *table, size_t column, size_t row, int32_t *class)
{
    const LsTextList *classes = &transform->column[transform->label].categories;
    const char *text = ls_csv_cell(table, row, column);
    size_t found = ls_text_list_find(classes, text);
    char quote[LS_QUOTE_SIZE];
    if (found == classes->count)
        return ls_csv_table_fail(table, row, column, "%s is none of the %zu classes of the training data",
            ls_text_quote(quote, text), classes->count);
    *class = (int32_t)found;
    return LS_OK;
}

LsStatus ls_transform_target(const LsCsvTable *table, size_t column, size_t row, float *target)
{
    const char *text = ls_csv_cell(table, row, column);
    char quote[LS_QUOTE_SIZE];
    double value;
    if (ls_number_parse(text, &value) != LS_NUMBER_FINITE || !isfinite((float)value))
        return ls_csv_table_fail(
            table, row, column, "the target %s is not a finite number (float32)", ls_text_quote(quote, text));
    *target = (float)value;
    return LS_OK;
}
