#include "csv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"

enum { BUFFER_SIZE = 1 << 16, END = -1 };

struct LsCsv {
    char *name;
    char delimiter;
    gzFile file; // NULL: memory
    const unsigned char *data;
    size_t size, at; // what is buffered, and the next byte of it
    unsigned char *buffer;
    uint64_t line;  // of the next byte
    size_t columns; // of the first row, 0 before it
    char *text;     // the row's fields
    size_t bytes, text_capacity;
    uint32_t *offset;
    size_t fields, offset_capacity;
    bool begun; // the byte order mark has been looked for
};

static LsStatus create(const char *name, char delimiter, LsCsv **out)
{
    if (delimiter == '"' || delimiter == '\r' || delimiter == '\n' || delimiter == '\0' ||
        (unsigned char)delimiter > 0x7F)
        return LS_FAIL(
            LS_CONFIG, "the delimiter of a CSV file is one ASCII character, and no quote, line end or NUL");
    LsCsv *csv = calloc(1, sizeof *csv);
    if (csv)
        csv->name = strdup(name);
    if (!csv || !csv->name) {
        free(csv);
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", name);
    }
    csv->delimiter = delimiter;
    csv->line = 1;
    *out = csv;
    return LS_OK;
}

LsStatus ls_csv_open(const char *path, char delimiter, LsCsv **out)
{
    LsCsv *csv;
    LS_TRY(create(path, delimiter, &csv));
    csv->buffer = malloc(BUFFER_SIZE);
    if (!csv->buffer) {
        ls_csv_close(csv);
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", path);
    }
    csv->data = csv->buffer;
    csv->file = gzopen(path, "rb");
    if (!csv->file) {
        LsStatus status = ls_file_fail("open", path);
        ls_csv_close(csv);
        return status;
    }
    gzbuffer(csv->file, BUFFER_SIZE);
    *out = csv;
    return LS_OK;
}

LsStatus ls_csv_open_memory(const char *data, size_t size, const char *name, char delimiter, LsCsv **out)
{
    LsCsv *csv;
    LS_TRY(create(name, delimiter, &csv));
    csv->data = (const unsigned char *)data;
    csv->size = size;
    *out = csv;
    return LS_OK;
}

void ls_csv_close(LsCsv *csv)
{
    if (!csv)
        return;
    if (csv->file)
        gzclose_r(csv->file);
    free(csv->offset);
    free(csv->text);
    free(csv->buffer);
    free(csv->name);
    free(csv);
}

const char *ls_csv_name(const LsCsv *csv)
{
    return csv->name;
}

// A gzip file that was cut off gives its last bytes and then Z_BUF_ERROR, which only gzerror tells.
static LsStatus refill(LsCsv *csv)
{
    csv->at = 0;
    csv->size = 0;
    if (!csv->file)
        return LS_OK;
    errno = 0;
    int got = gzread(csv->file, csv->buffer, BUFFER_SIZE);
    int code = Z_OK;
    const char *reason = got > 0 ? "" : gzerror(csv->file, &code);
    if (got < 0 && code == Z_ERRNO)
        return ls_file_fail("read", csv->name);
    if (got < 0 || code == Z_BUF_ERROR)
        return LS_FAIL(LS_BAD_DATA, "%s: the gzip stream is damaged or cut off (%s); fetch the file again",
            csv->name, reason);
    csv->size = (size_t)got;
    return LS_OK;
}

// The next byte without taking it, END at the end. A NUL byte is an error wherever it stands.
static LsStatus peek(LsCsv *csv, int *byte)
{
    if (csv->at == csv->size)
        LS_TRY(refill(csv));
    *byte = csv->at < csv->size ? csv->data[csv->at] : END;
    if (*byte == 0)
        return LS_FAIL(LS_BAD_DATA,
            "%s:%llu: the file contains a NUL byte: it is not text (or is UTF-16; convert it to UTF-8)",
            csv->name, (unsigned long long)csv->line);
    return LS_OK;
}

static void take(LsCsv *csv)
{
    csv->line += csv->data[csv->at] == '\n';
    csv->at++;
}

static LsStatus append(LsCsv *csv, int byte)
{
    if (csv->bytes >= LS_CSV_ROW_MAX)
        return LS_FAIL(LS_BAD_DATA, "%s:%llu: the row is longer than %d bytes; is a closing quote missing?",
            csv->name, (unsigned long long)csv->line, LS_CSV_ROW_MAX);
    if (byte != 0 && csv->bytes - csv->offset[csv->fields - 1] >= LS_CSV_FIELD_MAX)
        return LS_FAIL(LS_BAD_DATA, "%s:%llu: field %zu is longer than %d bytes; is a closing quote missing?",
            csv->name, (unsigned long long)csv->line, csv->fields, LS_CSV_FIELD_MAX);
    if (csv->bytes == csv->text_capacity) {
        size_t capacity = csv->text_capacity ? 2 * csv->text_capacity : 1024;
        char *grown = realloc(csv->text, capacity);
        if (!grown)
            return LS_FAIL(LS_INTERNAL, "%s: out of memory", csv->name);
        csv->text = grown;
        csv->text_capacity = capacity;
    }
    csv->text[csv->bytes++] = (char)byte;
    return LS_OK;
}

static LsStatus begin_field(LsCsv *csv)
{
    if (csv->fields == LS_CSV_FIELDS_MAX)
        return LS_FAIL(LS_BAD_DATA, "%s:%llu: the row has more than %d fields", csv->name,
            (unsigned long long)csv->line, LS_CSV_FIELDS_MAX);
    if (csv->fields == csv->offset_capacity) {
        size_t capacity = csv->offset_capacity ? 2 * csv->offset_capacity : 64;
        uint32_t *grown = realloc(csv->offset, capacity * sizeof *grown);
        if (!grown)
            return LS_FAIL(LS_INTERNAL, "%s: out of memory", csv->name);
        csv->offset = grown;
        csv->offset_capacity = capacity;
    }
    csv->offset[csv->fields++] = (uint32_t)csv->bytes;
    return LS_OK;
}

// Takes a field's text from behind its opening quote to behind its closing one.
static LsStatus read_quoted(LsCsv *csv)
{
    uint64_t begun = csv->line;
    for (;;) {
        int byte;
        LS_TRY(peek(csv, &byte));
        if (byte == END)
            return LS_FAIL(LS_BAD_DATA,
                "%s:%llu: the quote of field %zu, opened on this line, is never closed", csv->name,
                (unsigned long long)begun, csv->fields);
        take(csv);
        if (byte == '"') {
            LS_TRY(peek(csv, &byte));
            if (byte != '"')
                return LS_OK;
            take(csv);
        }
        LS_TRY(append(csv, byte));
    }
}

static bool ends_field(const LsCsv *csv, int byte)
{
    return byte == END || byte == '\n' || byte == '\r' || byte == (unsigned char)csv->delimiter;
}

// Takes a field's text; the delimiter or line end behind it stays.
static LsStatus read_field(LsCsv *csv)
{
    int byte;
    LS_TRY(begin_field(csv));
    LS_TRY(peek(csv, &byte));
    if (byte == '"') {
        take(csv);
        LS_TRY(read_quoted(csv));
        LS_TRY(peek(csv, &byte));
        if (!ends_field(csv, byte))
            return LS_FAIL(LS_BAD_DATA,
                "%s:%llu: field %zu has text behind its closing quote (a quote within quotes is doubled)",
                csv->name, (unsigned long long)csv->line, csv->fields);
    }
    while (!ends_field(csv, byte)) {
        if (byte == '"')
            return LS_FAIL(LS_BAD_DATA,
                "%s:%llu: field %zu has a quote but does not begin with one (quote the field, double the "
                "quote)",
                csv->name, (unsigned long long)csv->line, csv->fields);
        LS_TRY(append(csv, byte));
        take(csv);
        LS_TRY(peek(csv, &byte));
    }
    return append(csv, 0);
}

// Takes the line end at which the row stands.
static LsStatus end_row(LsCsv *csv, int byte)
{
    if (byte == END)
        return LS_OK;
    if (byte == '\r') {
        take(csv);
        LS_TRY(peek(csv, &byte));
        if (byte != '\n')
            return LS_FAIL(LS_BAD_DATA,
                "%s:%llu: a carriage return without a line feed (quote the field, or convert the line ends)",
                csv->name, (unsigned long long)csv->line);
    }
    take(csv);
    return LS_OK;
}

static LsStatus read_row(LsCsv *csv)
{
    csv->bytes = 0;
    csv->fields = 0;
    for (;;) {
        int byte;
        LS_TRY(read_field(csv));
        LS_TRY(peek(csv, &byte));
        if (byte != (unsigned char)csv->delimiter)
            return end_row(csv, byte);
        take(csv);
    }
}

// A UTF-16 mark gets a message of its own: what follows would look like NUL bytes.
static LsStatus skip_byte_order_mark(LsCsv *csv)
{
    static const unsigned char mark[] = {0xEF, 0xBB, 0xBF};
    csv->begun = true;
    if (csv->at == csv->size)
        LS_TRY(refill(csv));
    const unsigned char *data = csv->data + csv->at;
    size_t size = csv->size - csv->at;
    if (size >= 2 && ((data[0] == 0xFF && data[1] == 0xFE) || (data[0] == 0xFE && data[1] == 0xFF)))
        return LS_FAIL(
            LS_BAD_DATA, "%s: the file is UTF-16; convert it with: iconv -f UTF-16 -t UTF-8", csv->name);
    if (size >= sizeof mark && memcmp(data, mark, sizeof mark) == 0)
        csv->at += sizeof mark;
    return LS_OK;
}

LsStatus ls_csv_next(LsCsv *csv, LsCsvRow *row, bool *end)
{
    if (!csv->begun)
        LS_TRY(skip_byte_order_mark(csv));
    for (;;) {
        int byte;
        LS_TRY(peek(csv, &byte));
        *end = byte == END;
        if (*end)
            return LS_OK;
        uint64_t line = csv->line;
        bool quoted = byte == '"';
        LS_TRY(read_row(csv));
        bool empty = csv->fields == 1 && csv->bytes == 1 && !quoted;
        if (empty && csv->columns != 1)
            continue;
        if (csv->columns == 0)
            csv->columns = csv->fields;
        if (csv->fields != csv->columns)
            return LS_FAIL(LS_BAD_DATA, "%s:%llu: the row has %zu fields where the first row has %zu",
                csv->name, (unsigned long long)line, csv->fields, csv->columns);
        *row = (LsCsvRow){.line = line,
            .fields = csv->fields,
            .text = csv->text,
            .bytes = csv->bytes,
            .offset = csv->offset};
        return LS_OK;
    }
}
