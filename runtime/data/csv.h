// A reader of comma-separated values (RFC 4180), row by row, from a file (plain or gzip) or from memory.
//
// Strict where leniency would change data silently: a quote inside an unquoted field, text behind a closing
// quote, a NUL byte, a carriage return without a line feed, or a row with another number of fields than the
// first is LS_BAD_DATA with file and line. Lines end in LF or CR LF, a UTF-8 byte order mark is skipped,
// spaces belong to the field, and empty lines are skipped (but in a file of one column, where they are a
// value).
#ifndef LOCKSTEP_DATA_CSV_H
#define LOCKSTEP_DATA_CSV_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    LS_CSV_FIELD_MAX = 1 << 20, // bytes of one field
    LS_CSV_ROW_MAX = 1 << 24,   // bytes of one row
    LS_CSV_FIELDS_MAX = 1 << 16 // fields of one row
};

typedef struct LsCsv LsCsv;

// One row; valid until the next one is read. Field f is the NUL-terminated text + offset[f].
typedef struct LsCsvRow {
    uint64_t line; // where the row begins, 1 is the file's first line
    size_t fields;
    const char *text;
    size_t bytes; // of all fields with their NULs
    const uint32_t *offset;
} LsCsvRow;

static inline const char *ls_csv_field(const LsCsvRow *row, size_t field)
{
    return row->text + row->offset[field];
}

// LS_NO_INPUT or LS_IO; LS_CONFIG when the delimiter is a quote, CR, LF, NUL or not ASCII.
LsStatus ls_csv_open(const char *path, char delimiter, LsCsv **out);

// The same from memory, which is lent; `name` stands for the path in messages.
LsStatus ls_csv_open_memory(const char *data, size_t size, const char *name, char delimiter, LsCsv **out);
void ls_csv_close(LsCsv *csv);

// The next row; *end is set instead when there is none.
LsStatus ls_csv_next(LsCsv *csv, LsCsvRow *row, bool *end);

const char *ls_csv_name(const LsCsv *csv);

#endif
