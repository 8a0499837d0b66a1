#include "csv_table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"

enum { INDEX_TEXT = 24 };

static LsStatus out_of_memory(const LsCsv *csv)
{
    return LS_FAIL(LS_INTERNAL, "%s: out of memory; import a part of the rows", ls_csv_name(csv));
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// Names are looked up by people and stored as JSON, so they are UTF-8, not empty and unique.
static LsStatus check_names(const LsCsv *csv, uint64_t line, char *const *name, size_t columns)
{
    for (size_t c = 0; c < columns; c++) {
        if (name[c][0] == '\0')
            return LS_FAIL(LS_BAD_DATA, "%s:%llu: column %zu has no name in the header", ls_csv_name(csv),
                (unsigned long long)line, c + 1);
        if (!ls_text_valid(name[c]))
            return LS_FAIL(LS_BAD_DATA,
                "%s:%llu: the name of column %zu is not UTF-8; convert the file with iconv", ls_csv_name(csv),
                (unsigned long long)line, c + 1);
    }
    const char **sorted = malloc(columns * sizeof *sorted);
    if (!sorted)
        return out_of_memory(csv);
    memcpy(sorted, name, columns * sizeof *sorted);
    qsort(sorted, columns, sizeof *sorted, compare_names);
    LsStatus status = LS_OK;
    for (size_t c = 1; c < columns && status == LS_OK; c++) {
        char quote[LS_QUOTE_SIZE];
        if (strcmp(sorted[c - 1], sorted[c]) == 0)
            status = LS_FAIL(LS_BAD_DATA, "%s:%llu: two columns have the name %s in the header",
                ls_csv_name(csv), (unsigned long long)line, ls_text_quote(quote, sorted[c]));
    }
    free(sorted);
    return status;
}

static void free_names(char **name, size_t columns)
{
    for (size_t c = 0; name && c < columns; c++)
        free(name[c]);
    free(name);
}

// The columns' names from the file's first row: its fields, or their numbers.
static LsStatus copy_names(const LsCsv *csv, const LsCsvRow *row, bool header, char ***out)
{
    char **name = calloc(row->fields, sizeof *name);
    if (!name)
        return out_of_memory(csv);
    LsStatus status = LS_OK;
    for (size_t c = 0; c < row->fields && status == LS_OK; c++) {
        char number[INDEX_TEXT];
        snprintf(number, sizeof number, "%zu", c);
        name[c] = strdup(header ? ls_csv_field(row, c) : number);
        if (!name[c])
            status = out_of_memory(csv);
    }
    if (status == LS_OK)
        status = check_names(csv, row->line, name, row->fields);
    if (status != LS_OK) {
        free_names(name, row->fields);
        return status;
    }
    *out = name;
    return LS_OK;
}

static LsStatus check_same_columns(
    const LsCsvTable *table, const LsCsv *csv, const LsCsvRow *row, bool header)
{
    if (row->fields != table->columns)
        return LS_FAIL(LS_BAD_DATA, "%s:%llu: the file has %zu columns where %s has %zu", ls_csv_name(csv),
            (unsigned long long)row->line, row->fields, table->file[0], table->columns);
    for (size_t c = 0; header && c < row->fields; c++) {
        char mine[LS_QUOTE_SIZE], theirs[LS_QUOTE_SIZE];
        if (strcmp(ls_csv_field(row, c), table->name[c]) != 0)
            return LS_FAIL(LS_BAD_DATA, "%s:%llu: column %zu is %s where %s has %s", ls_csv_name(csv),
                (unsigned long long)row->line, c + 1, ls_text_quote(mine, ls_csv_field(row, c)),
                table->file[0], ls_text_quote(theirs, table->name[c]));
    }
    return LS_OK;
}

static LsStatus set_columns(LsCsvTable *table, const LsCsv *csv, const LsCsvRow *row, bool header)
{
    if (table->name)
        return check_same_columns(table, csv, row, header);
    LS_TRY(copy_names(csv, row, header, &table->name));
    table->columns = row->fields;
    return LS_OK;
}

static LsStatus add_file(LsCsvTable *table, const LsCsv *csv)
{
    char **grown = realloc(table->file, (table->files + 1) * sizeof *grown);
    if (!grown)
        return out_of_memory(csv);
    table->file = grown;
    table->file[table->files] = strdup(ls_csv_name(csv));
    if (!table->file[table->files])
        return out_of_memory(csv);
    table->files++;
    return LS_OK;
}

// Room for one more row of `bytes` bytes; capacities double.
static LsStatus reserve(LsCsvTable *table, const LsCsv *csv, size_t bytes)
{
    if (table->text_capacity - table->bytes < bytes) {
        size_t capacity = 2 * (table->text_capacity + bytes);
        char *text = realloc(table->text, capacity);
        if (!text)
            return out_of_memory(csv);
        table->text = text;
        table->text_capacity = capacity;
    }
    if (table->rows < table->row_capacity)
        return LS_OK;
    size_t capacity = table->row_capacity ? 2 * table->row_capacity : 256, cells, size;
    if (!ls_size_multiply(capacity, table->columns, &cells) ||
        !ls_size_multiply(cells, sizeof *table->cell, &size))
        return out_of_memory(csv);
    uint32_t *cell = realloc(table->cell, size);
    if (!cell)
        return out_of_memory(csv);
    table->cell = cell;
    struct LsCsvTableRow *row = realloc(table->row, capacity * sizeof *row);
    if (!row)
        return out_of_memory(csv);
    table->row = row;
    table->row_capacity = capacity;
    return LS_OK;
}

static LsStatus add_row(LsCsvTable *table, const LsCsv *csv, const LsCsvRow *row)
{
    LS_TRY(reserve(table, csv, row->bytes));
    table->row[table->rows] =
        (struct LsCsvTableRow){.text = table->bytes, .line = row->line, .file = (uint32_t)(table->files - 1)};
    memcpy(table->cell + table->rows * table->columns, row->offset, table->columns * sizeof *row->offset);
    memcpy(table->text + table->bytes, row->text, row->bytes);
    table->bytes += row->bytes;
    table->rows++;
    return LS_OK;
}

LsStatus ls_csv_table_add(LsCsvTable *table, LsCsv *csv, bool header)
{
    LsCsvRow row;
    bool end;
    LS_TRY(ls_csv_next(csv, &row, &end));
    if (end)
        return LS_FAIL(LS_BAD_DATA, "%s: the file is empty", ls_csv_name(csv));
    LS_TRY(set_columns(table, csv, &row, header));
    LS_TRY(add_file(table, csv));
    if (!header)
        LS_TRY(add_row(table, csv, &row));
    for (;;) {
        LS_TRY(ls_csv_next(csv, &row, &end));
        if (end)
            return LS_OK;
        LS_TRY(add_row(table, csv, &row));
    }
}

LsStatus ls_csv_table_read(const char *const *paths, size_t count, LsCsvFormat format, LsCsvTable *out)
{
    LsCsvTable table = {0};
    for (size_t i = 0; i < count; i++) {
        LsCsv *csv;
        LsStatus status = ls_csv_open(paths[i], format.delimiter, &csv);
        if (status == LS_OK) {
            status = ls_csv_table_add(&table, csv, format.header);
            ls_csv_close(csv);
        }
        if (status != LS_OK) {
            ls_csv_table_free(&table);
            return status;
        }
    }
    *out = table;
    return LS_OK;
}

void ls_csv_table_free(LsCsvTable *table)
{
    for (size_t f = 0; f < table->files; f++)
        free(table->file[f]);
    free(table->file);
    free_names(table->name, table->columns);
    free(table->row);
    free(table->cell);
    free(table->text);
    *table = (LsCsvTable){0};
}

size_t ls_csv_table_column(const LsCsvTable *table, const char *name)
{
    size_t c = 0;
    while (c < table->columns && strcmp(table->name[c], name) != 0)
        c++;
    return c;
}

LsStatus ls_csv_table_fail(const LsCsvTable *table, size_t row, size_t column, const char *what, ...)
{
    char sentence[512], quote[LS_QUOTE_SIZE];
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(sentence, sizeof sentence, what, arguments);
    va_end(arguments);
    const struct LsCsvTableRow *place = &table->row[row];
    return LS_FAIL(LS_BAD_DATA, "%s:%llu: column %s: %s", table->file[place->file],
        (unsigned long long)place->line, ls_text_quote(quote, table->name[column]), sentence);
}

void ls_csv_table_filter(LsCsvTable *table, const bool *keep)
{
    size_t kept = 0;
    for (size_t r = 0; r < table->rows; r++) {
        if (!keep[r])
            continue;
        table->row[kept] = table->row[r];
        memmove(table->cell + kept * table->columns, table->cell + r * table->columns,
            table->columns * sizeof *table->cell);
        kept++;
    }
    table->rows = kept;
}
