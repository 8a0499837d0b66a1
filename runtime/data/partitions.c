#include "partitions.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "dataset_format.h"

enum { TEXT_SIZE = 1024 }; // of a column's name and a value in data.where

// ---- Making ---------------------------------------------------------------------------------------------

static int compare_rows(const void *a, const void *b)
{
    const LsPartitionRow *x = a, *y = b;
    int values = strcmp(x->value, y->value);
    return values != 0 ? values : (x->row > y->row) - (x->row < y->row);
}

// Adds the entry of a value whose rows are counted, and moves `first` behind them.
static LsStatus add_value(
    json_t *values, const char *value, const uint64_t rows[LS_SPLITS], uint64_t first[LS_SPLITS])
{
    char quote[LS_QUOTE_SIZE];
    if (strlen(value) > LS_PARTITION_VALUE_MAX || !ls_text_valid(value))
        return LS_FAIL(LS_BAD_DATA, "partition %s: a value must be UTF-8 of at most %d bytes",
            ls_text_quote(quote, value), LS_PARTITION_VALUE_MAX);
    json_t *entry = json_pack("{s:s}", "value", value);
    int failed = entry == NULL;
    for (LsSplit split = LS_TRAIN; !failed && split < LS_SPLITS; split++) {
        if (rows[split] > 0)
            failed = json_object_set_new(entry, ls_split_name(split),
                json_pack("[I, I]", (json_int_t)first[split], (json_int_t)rows[split]));
        first[split] += rows[split];
    }
    if (failed || json_array_append(values, entry) != 0)
        failed = 1;
    json_decref(entry);
    return failed ? LS_FAIL(LS_INTERNAL, "data import: out of memory for partitions") : LS_OK;
}

LsStatus ls_partitions_order(const char *column, LsPartitionRow *rows, size_t count, json_t **out)
{
    char quote[LS_QUOTE_SIZE];
    uint64_t first[LS_SPLITS] = {0}, here[LS_SPLITS] = {0};
    json_t *values = json_array();
    LsStatus status = values == NULL ? LS_FAIL(LS_INTERNAL, "data import: out of memory") : LS_OK;
    qsort(rows, count, sizeof *rows, compare_rows);
    for (size_t i = 0; status == LS_OK && i < count; i++) {
        here[rows[i].split]++;
        if (i + 1 < count && strcmp(rows[i].value, rows[i + 1].value) == 0)
            continue;
        status = add_value(values, rows[i].value, here, first);
        memset(here, 0, sizeof here);
        if (status == LS_OK && json_array_size(values) > LS_PARTITIONS_MAX)
            status = LS_FAIL(LS_BAD_DATA, "column %s has more than %d values; partition by another",
                ls_text_quote(quote, column), LS_PARTITIONS_MAX);
    }
    if (status != LS_OK) {
        json_decref(values);
        return status;
    }
    *out = json_pack("{s:s, s:o}", "column", column, "values", values);
    return *out == NULL ? LS_FAIL(LS_INTERNAL, "data import: out of memory") : LS_OK;
}

// ---- Reading --------------------------------------------------------------------------------------------

// The range of a split in a value's entry; false when it is no range. Absent: no rows.
static bool read_range(const json_t *entry, LsSplit split, uint64_t *first, uint64_t *rows)
{
    const json_t *range = json_object_get(entry, ls_split_name(split));
    const json_t *begin = json_array_get(range, 0), *length = json_array_get(range, 1);
    *first = *rows = 0;
    if (range == NULL)
        return true;
    if (json_array_size(range) != 2 || !json_is_integer(begin) || !json_is_integer(length) ||
        json_integer_value(begin) < 0 || json_integer_value(length) < 1)
        return false;
    *first = (uint64_t)json_integer_value(begin);
    *rows = (uint64_t)json_integer_value(length);
    return true;
}

bool ls_partitions_sound(const json_t *schema, const size_t samples[LS_SPLITS])
{
    const json_t *partitions = json_object_get(schema, "partitions"),
                 *values = json_object_get(partitions, "values");
    uint64_t end[LS_SPLITS] = {0};
    const char *before = NULL;
    if (partitions == NULL)
        return true;
    if (!json_is_string(json_object_get(partitions, "column")) || !json_is_array(values))
        return false;
    for (size_t i = 0; i < json_array_size(values); i++) {
        const json_t *entry = json_array_get(values, i);
        const char *value = json_string_value(json_object_get(entry, "value"));
        if (value == NULL || (before != NULL && strcmp(before, value) >= 0))
            return false;
        before = value;
        for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
            uint64_t first, rows;
            if (!read_range(entry, split, &first, &rows) || (rows > 0 && first != end[split]) ||
                rows > samples[split] - end[split])
                return false;
            end[split] += rows;
        }
    }
    return end[LS_TRAIN] == samples[LS_TRAIN] && end[LS_VALIDATION] == samples[LS_VALIDATION] &&
           end[LS_TEST] == samples[LS_TEST];
}

const char *ls_partition_of(const json_t *schema, LsSplit split, uint64_t row, uint64_t *end)
{
    const json_t *values = json_object_get(json_object_get(schema, "partitions"), "values");
    for (size_t i = 0; i < json_array_size(values); i++) {
        uint64_t first, rows;
        const json_t *entry = json_array_get(values, i);
        if (!read_range(entry, split, &first, &rows) || row < first || row - first >= rows)
            continue;
        *end = first + rows;
        return json_string_value(json_object_get(entry, "value"));
    }
    return NULL;
}

// ---- Choosing -------------------------------------------------------------------------------------------

// Takes a text in quotes, in which a quote is written twice; moves *text behind it.
static bool take_quoted(const char **text, char quote, char *out, size_t size)
{
    const char *c = *text;
    size_t length = 0;
    if (*c++ != quote)
        return false;
    for (; *c != '\0' && !(c[0] == quote && c[1] != quote); c++) {
        c += *c == quote; // the second of two
        if (length + 1 == size)
            return false;
        out[length++] = *c;
    }
    if (*c != quote)
        return false;
    out[length] = '\0';
    *text = c + 1;
    return true;
}

static void skip_spaces(const char **text)
{
    *text += strspn(*text, " \t");
}

// column == 'value', the column in double quotes where it is not a plain word.
static bool parse(const char *text, char *column, char *value, size_t size)
{
    skip_spaces(&text);
    if (*text == '"') {
        if (!take_quoted(&text, '"', column, size))
            return false;
    } else {
        size_t length = strcspn(text, " \t=\"'");
        if (length == 0 || length >= size)
            return false;
        memcpy(column, text, length);
        column[length] = '\0';
        text += length;
    }
    skip_spaces(&text);
    if (strncmp(text, "==", 2) != 0)
        return false;
    text += 2;
    skip_spaces(&text);
    if (!take_quoted(&text, '\'', value, size))
        return false;
    skip_spaces(&text);
    return *text == '\0';
}

static LsStatus find_value(const LsDataset *dataset, const char *value, const json_t **out)
{
    char quote[LS_QUOTE_SIZE], list[4 * LS_QUOTE_SIZE] = "";
    enum { SHOWN = 3 };
    const json_t *values = json_object_get(json_object_get(dataset->schema, "partitions"), "values");
    size_t used = 0, count = json_array_size(values);
    for (size_t i = 0; i < count; i++) {
        const char *name = json_string_value(json_object_get(json_array_get(values, i), "value"));
        *out = json_array_get(values, i);
        if (strcmp(name, value) == 0)
            return LS_OK;
        if (i < SHOWN)
            used += (size_t)snprintf(
                list + used, sizeof list - used, "%s%s", i ? ", " : "", ls_text_quote(quote, name));
    }
    return LS_FAIL(LS_CONFIG, "data.where: %s has no partition %s; it has %zu: %s%s", dataset->path,
        ls_text_quote(quote, value), count, list, count > SHOWN ? ", …" : "");
}

LsStatus ls_dataset_select(LsDataset *dataset, const char *where)
{
    char column[TEXT_SIZE], value[TEXT_SIZE], quote[LS_QUOTE_SIZE];
    const json_t *entry = NULL;
    if (where[0] == '\0')
        return LS_OK;
    if (!parse(where, column, value, sizeof column))
        return LS_FAIL(
            LS_CONFIG, "data.where: %s is not of the form column == 'value'", ls_text_quote(quote, where));
    const char *own =
        json_string_value(json_object_get(json_object_get(dataset->schema, "partitions"), "column"));
    if (own == NULL)
        return LS_FAIL(LS_CONFIG,
            "data.where: %s has no partitions; import the data with --partition-by COLUMN", dataset->path);
    if (strcmp(own, column) != 0)
        return LS_FAIL(
            LS_CONFIG, "data.where: %s is partitioned by %s alone", dataset->path, ls_text_quote(quote, own));
    LS_TRY(find_value(dataset, value, &entry));
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        uint64_t rows = 0;
        read_range(entry, split, &dataset->first[split], &rows);
        dataset->info.samples[split] = rows;
    }
    if (dataset->info.samples[LS_TRAIN] == 0)
        return LS_FAIL(LS_CONFIG, "data.where: %s has no training samples where %s", dataset->path, where);
    return LS_OK;
}
