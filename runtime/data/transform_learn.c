#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "transform.h"

// ---- Columns and roles from the options ----

static LsStatus unknown_column(const LsCsvTable *table, const char *origin, const char *name)
{
    enum { SHOWN = 3 };
    const char *nearest[SHOWN] = {NULL};
    size_t distance[SHOWN] = {0};
    for (size_t c = 0; c < table->columns; c++) {
        size_t mine = ls_text_distance(name, table->name[c]);
        size_t place = SHOWN;
        while (place > 0 && (!nearest[place - 1] || mine < distance[place - 1]))
            place--;
        for (size_t i = SHOWN - 1; i > place; i--) {
            nearest[i] = nearest[i - 1];
            distance[i] = distance[i - 1];
        }
        if (place < SHOWN) {
            nearest[place] = table->name[c];
            distance[place] = mine;
        }
    }
    char list[SHOWN * (LS_QUOTE_SIZE + 2)] = "", quote[LS_QUOTE_SIZE];
    size_t used = 0;
    for (size_t i = 0; i < SHOWN && nearest[i]; i++)
        used += (size_t)snprintf(
            list + used, sizeof list - used, "%s%s", i ? ", " : "", ls_text_quote(quote, nearest[i]));
    return LS_FAIL(LS_CONFIG, "%s: %s has no column %s; the nearest of its %zu names: %s", origin,
        table->file[0], ls_text_quote(quote, name), table->columns, list);
}

static LsStatus set_role(
    LsTransform *transform, const LsCsvTable *table, const char *origin, const char *name, LsColumnRole role)
{
    size_t c = ls_csv_table_column(table, name);
    if (c == table->columns)
        return unknown_column(table, origin, name);
    char quote[LS_QUOTE_SIZE];
    if (transform->column[c].role != LS_ROLE_INFER)
        return LS_FAIL(LS_CONFIG,
            "%s: column %s has a role already; name it once in label, numeric, categorical "
            "and ignore",
            origin, ls_text_quote(quote, name));
    transform->column[c].role = role;
    return LS_OK;
}

// What rows are partitioned by is no feature unless it was named as one.
static LsStatus leave_partition(LsTransform *transform, const LsCsvTable *table, const char *name)
{
    if (!name)
        return LS_OK;
    size_t c = ls_csv_table_column(table, name);
    if (c == table->columns)
        return unknown_column(table, "partition-by", name);
    if (transform->column[c].role == LS_ROLE_INFER)
        transform->column[c].role = LS_ROLE_IGNORE;
    return LS_OK;
}

static LsStatus set_roles(LsTransform *transform, const LsCsvTable *table, const LsImportOptions *options)
{
    if (!options->label || !*options->label)
        return LS_FAIL(
            LS_CONFIG, "label: %s has %zu columns; name the one to predict", table->file[0], table->columns);
    LS_TRY(set_role(transform, table, "label", options->label, LS_ROLE_LABEL));
    transform->label = ls_csv_table_column(table, options->label);
    const struct {
        const char *origin, *names;
        LsColumnRole role;
    } lists[] = {{"numeric", options->numeric, LS_ROLE_NUMERIC},
        {"categorical", options->categorical, LS_ROLE_CATEGORICAL},
        {"ignore", options->ignore, LS_ROLE_IGNORE}};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        LsTextList names;
        LS_TRY(ls_text_list_parse(lists[i].names, lists[i].origin, &names));
        LsStatus status = LS_OK;
        for (size_t n = 0; n < names.count && status == LS_OK; n++)
            status = set_role(transform, table, lists[i].origin, names.text[n], lists[i].role);
        ls_text_list_free(&names);
        LS_TRY(status);
    }
    return leave_partition(transform, table, options->partition_by);
}

static LsStatus fill_prepared(LsTransform *transform, const LsImportOptions *options, const LsCsvTable *table)
{
    transform->column = calloc(table->columns, sizeof *transform->column);
    if (!transform->column)
        return LS_FAIL(LS_INTERNAL, "out of memory for %zu columns", table->columns);
    for (; transform->columns < table->columns; transform->columns++) {
        char *name = strdup(table->name[transform->columns]);
        if (!name)
            return LS_FAIL(LS_INTERNAL, "out of memory for %zu columns", table->columns);
        transform->column[transform->columns].name = name;
    }
    LS_TRY(ls_text_list_parse(options->missing_values, "missing_values", &transform->missing_texts));
    for (size_t i = 0; i < transform->missing_texts.count; i++)
        if (!ls_text_valid(transform->missing_texts.text[i]))
            return LS_FAIL(LS_CONFIG, "missing_values: the list is not UTF-8");
    return set_roles(transform, table, options);
}

LsStatus ls_transform_prepare(const LsImportOptions *options, const LsCsvTable *table, LsTransform *out)
{
    LsTransform transform = {.format = {.delimiter = options->delimiter, .header = options->header},
        .missing = options->missing,
        .regression = options->regression};
    LsStatus status = fill_prepared(&transform, options, table);
    if (status != LS_OK) {
        ls_transform_free(&transform);
        return status;
    }
    *out = transform;
    return LS_OK;
}

// ---- Missing values ----

// Counts one row's missing values in the columns that are used.
static LsStatus screen_row(LsTransform *transform, const LsCsvTable *table, size_t row, bool *complete)
{
    *complete = true;
    for (size_t c = 0; c < transform->columns; c++) {
        LsTransformColumn *column = &transform->column[c];
        if (column->role == LS_ROLE_IGNORE || !ls_transform_missing(transform, ls_csv_cell(table, row, c)))
            continue;
        *complete = false;
        column->missing++;
        if (transform->missing == LS_MISSING_ERROR)
            return ls_csv_table_fail(
                table, row, c, "the value is missing; choose a policy for missing values (drop or fill)");
        if (transform->missing == LS_MISSING_FILL && c == transform->label)
            return ls_csv_table_fail(table, row, c,
                "the label is missing and cannot be filled; give the row one, or drop such rows");
    }
    return LS_OK;
}

LsStatus ls_transform_screen(LsTransform *transform, LsCsvTable *table, size_t *dropped)
{
    size_t rows = table->rows;
    bool *complete = malloc(rows ? rows : 1);
    if (!complete)
        return LS_FAIL(LS_INTERNAL, "out of memory for %zu rows", rows);
    LsStatus status = LS_OK;
    for (size_t r = 0; r < rows && status == LS_OK; r++)
        status = screen_row(transform, table, r, &complete[r]);
    if (status == LS_OK && transform->missing == LS_MISSING_DROP)
        ls_csv_table_filter(table, complete);
    free(complete);
    LS_TRY(status);
    if (table->rows == 0)
        return LS_FAIL(LS_BAD_DATA,
            rows ? "%s: every row has a missing value, so none is left" : "%s: there are no rows",
            table->file[0]);
    *dropped = rows - table->rows;
    return LS_OK;
}

// ---- Categories ----

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// The sorted different texts of a column, missing ones left out; of all rows or of the training split.
// `limit`: more than that is an error whose sentence `advice` ends.
static LsStatus learn_texts(const LsTransform *transform, const LsCsvTable *table, const uint8_t *split,
    size_t c, size_t limit, const char *advice, LsTextList *out)
{
    const char **texts = malloc(table->rows * sizeof *texts);
    if (!texts)
        return LS_FAIL(LS_INTERNAL, "out of memory for %zu rows", table->rows);
    size_t count = 0;
    LsStatus status = LS_OK;
    for (size_t r = 0; r < table->rows && status == LS_OK; r++) {
        const char *text = ls_csv_cell(table, r, c);
        if ((split && split[r] != LS_TRAIN) || ls_transform_missing(transform, text))
            continue;
        if (!ls_text_valid(text))
            status = ls_csv_table_fail(table, r, c, "the text is not UTF-8; convert the file with iconv");
        texts[count++] = text;
    }
    qsort(texts, count, sizeof *texts, compare_texts);
    for (size_t i = 0; i < count && status == LS_OK; i++) {
        char quote[LS_QUOTE_SIZE];
        if (i > 0 && strcmp(texts[i - 1], texts[i]) == 0)
            continue;
        if (out->count == limit)
            status = LS_FAIL(LS_BAD_DATA, "%s: column %s has more than %zu different texts; %s",
                table->file[0], ls_text_quote(quote, transform->column[c].name), limit, advice);
        else
            status = ls_text_list_add(out, texts[i]);
    }
    free(texts);
    return status;
}

LsStatus ls_transform_learn_classes(LsTransform *transform, const LsCsvTable *table)
{
    enum { CLASSES_MAX = 1 << 16 };
    LsTextList *classes = &transform->column[transform->label].categories;
    LS_TRY(learn_texts(transform, table, NULL, transform->label, CLASSES_MAX,
        "is it a number to predict (regression)?", classes));
    char quote[LS_QUOTE_SIZE];
    if (classes->count < 2)
        return LS_FAIL(LS_BAD_DATA, "%s: every row has the label %s; a classification needs two classes",
            table->file[0], ls_text_quote(quote, classes->text[0]));
    return LS_OK;
}

static LsStatus learn_categorical(
    LsTransform *transform, const LsCsvTable *table, const uint8_t *split, size_t c)
{
    LsTransformColumn *column = &transform->column[c];
    LS_TRY(learn_texts(transform, table, split, c, LS_CATEGORIES_MAX,
        "ignore it (a name or an identifier?) or group them", &column->categories));
    for (size_t r = 0; r < table->rows && !column->missing_category; r++)
        column->missing_category =
            split[r] == LS_TRAIN && ls_transform_missing(transform, ls_csv_cell(table, r, c));
    column->features = column->categories.count + column->missing_category;
    return LS_OK;
}

// ---- Numbers ----

// The training split's present values of a column as numbers.
static LsStatus collect_numbers(const LsTransform *transform, const LsCsvTable *table, const uint8_t *split,
    size_t c, double *values, size_t *count)
{
    *count = 0;
    for (size_t r = 0; r < table->rows; r++) {
        const char *text = ls_csv_cell(table, r, c);
        if (split[r] != LS_TRAIN || ls_transform_missing(transform, text))
            continue;
        LsNumber kind = ls_number_parse(text, &values[*count]);
        char quote[LS_QUOTE_SIZE];
        if (kind != LS_NUMBER_FINITE)
            return ls_csv_table_fail(table, r, c,
                "%s is not a %s; list it in missing_values or the column in categorical or ignore",
                ls_text_quote(quote, text), kind == LS_NUMBER_NONE ? "number" : "finite number");
        (*count)++;
    }
    return LS_OK;
}

static LsStatus learn_numeric(
    LsTransform *transform, const LsCsvTable *table, const uint8_t *split, size_t c, double *values)
{
    LsTransformColumn *column = &transform->column[c];
    size_t count;
    LS_TRY(collect_numbers(transform, table, split, c, values, &count));
    double sum = 0, squares = 0;
    column->minimum = column->maximum = count ? values[0] : 0;
    for (size_t i = 0; i < count; i++) {
        sum += values[i];
        column->minimum = fmin(column->minimum, values[i]);
        column->maximum = fmax(column->maximum, values[i]);
    }
    column->mean = count ? sum / (double)count : 0;
    for (size_t i = 0; i < count; i++)
        squares += (values[i] - column->mean) * (values[i] - column->mean);
    // A constant column keeps deviation 1, so that its training rows are 0 and others not infinite; rounding
    // can leave a deviation of some last places of the mean, hence the comparison of the extremes.
    column->deviation = column->minimum < column->maximum ? sqrt(squares / (double)count) : 1;
    if (column->minimum == column->maximum)
        column->mean = column->minimum;
    char quote[LS_QUOTE_SIZE];
    if (!isfinite(column->mean) || !isfinite(column->deviation) || column->deviation <= 0)
        return LS_FAIL(LS_BAD_DATA,
            "%s: column %s reaches from %g to %g, too far for its deviation; ignore or "
            "rescale it",
            table->file[0], ls_text_quote(quote, column->name), column->minimum, column->maximum);
    column->features = 1;
    return LS_OK;
}

// ---- The transform ----

// A column of numbers among which some are NaN or infinite is taken for numeric, where these are then
// refused: as a category each number would pass silently.
static LsStatus infer_role(
    const LsTransform *transform, const LsCsvTable *table, const uint8_t *split, size_t c, LsColumnRole *role)
{
    size_t present = 0, finite = 0, text = 0;
    for (size_t r = 0; r < table->rows; r++) {
        const char *cell = ls_csv_cell(table, r, c);
        double value;
        if (split[r] != LS_TRAIN || ls_transform_missing(transform, cell))
            continue;
        LsNumber kind = ls_number_parse(cell, &value);
        present++;
        finite += kind == LS_NUMBER_FINITE;
        text += kind == LS_NUMBER_NONE;
    }
    char quote[LS_QUOTE_SIZE];
    if (present == 0)
        return LS_FAIL(LS_BAD_DATA, "%s: column %s has no value in the training split; ignore it",
            table->file[0], ls_text_quote(quote, transform->column[c].name));
    *role = finite > 0 && text == 0 ? LS_ROLE_NUMERIC : LS_ROLE_CATEGORICAL;
    return LS_OK;
}

static LsStatus learn_column(
    LsTransform *transform, const LsCsvTable *table, const uint8_t *split, size_t c, double *values)
{
    LsTransformColumn *column = &transform->column[c];
    if (column->role == LS_ROLE_INFER || column->role == LS_ROLE_NUMERIC ||
        column->role == LS_ROLE_CATEGORICAL) {
        LsColumnRole inferred;
        LS_TRY(infer_role(transform, table, split, c, &inferred));
        if (column->role == LS_ROLE_INFER)
            column->role = inferred;
    }
    if (column->role == LS_ROLE_NUMERIC)
        LS_TRY(learn_numeric(transform, table, split, c, values));
    else if (column->role == LS_ROLE_CATEGORICAL)
        LS_TRY(learn_categorical(transform, table, split, c));
    column->first = transform->features;
    transform->features += column->features;
    return LS_OK;
}

LsStatus ls_transform_learn(LsTransform *transform, const LsCsvTable *table, const uint8_t *split)
{
    double *values = malloc(table->rows * sizeof *values);
    if (!values)
        return LS_FAIL(LS_INTERNAL, "out of memory for %zu rows", table->rows);
    LsStatus status = LS_OK;
    for (size_t c = 0; c < transform->columns && status == LS_OK; c++)
        status = learn_column(transform, table, split, c, values);
    free(values);
    if (status == LS_OK && transform->features == 0)
        status =
            LS_FAIL(LS_BAD_DATA, "%s: no column is left to learn from besides the label", table->file[0]);
    return status;
}
