// A CSV file (or several with the same columns) in memory, as text.
#ifndef LOCKSTEP_DATA_CSV_TABLE_H
#define LOCKSTEP_DATA_CSV_TABLE_H

#include "csv.h"

typedef struct LsCsvFormat {
    char delimiter;
    bool header; // the first row has the columns' names; without, columns are named "0", "1", …
} LsCsvFormat;

typedef struct LsCsvTable {
    size_t columns;
    char **name; // [columns], unique and not empty
    size_t rows;
    struct LsCsvTableRow *row;
    size_t files;
    char **file; // paths
    // The text of all rows, one after the other, and [rows][columns] places of the cells in their rows' text.
    char *text;
    size_t bytes, text_capacity;
    uint32_t *cell;
    size_t row_capacity;
} LsCsvTable;

struct LsCsvTableRow {
    size_t text;   // where the row's text begins
    uint64_t line; // of its file
    uint32_t file;
};

// The cell's NUL-terminated text, valid until a row is added.
static inline const char *ls_csv_cell(const LsCsvTable *table, size_t row, size_t column)
{
    return table->text + table->row[row].text + table->cell[row * table->columns + column];
}

// Reads the rest of `csv` into the table; its columns must be those already there, in name and order.
// LS_BAD_DATA for an empty file, an empty or duplicate name.
LsStatus ls_csv_table_add(LsCsvTable *table, LsCsv *csv, bool header);

// Reads all files into a fresh table, which ls_csv_table_free releases.
LsStatus ls_csv_table_read(const char *const *paths, size_t count, LsCsvFormat format, LsCsvTable *out);
void ls_csv_table_free(LsCsvTable *table);

// The number of the column of that name, table->columns if there is none.
size_t ls_csv_table_column(const LsCsvTable *table, const char *name);

// Fails with LS_BAD_DATA and a sentence that begins with file, line and column; `what` continues it.
LsStatus ls_csv_table_fail(const LsCsvTable *table, size_t row, size_t column, const char *what, ...)
    __attribute__((format(printf, 4, 5)));

// Keeps the rows whose keep[row] is set.
void ls_csv_table_filter(LsCsvTable *table, const bool *keep);

#endif
