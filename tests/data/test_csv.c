// The CSV reader: what RFC 4180 allows is read, what it does not allow is refused with the line.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <zlib.h>

#include "csv_table.h"
#include "dataset_fixture.h"

// All rows as text, fields in brackets and a '|' behind each row, so that one comparison shows everything.
static LsStatus read_all(LsCsv *csv, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (;;) {
        LsCsvRow row;
        bool end;
        LS_TRY(ls_csv_next(csv, &row, &end));
        if (end)
            return LS_OK;
        for (size_t f = 0; f < row.fields; f++)
            used += (size_t)snprintf(out + used, size - used, "[%s]", ls_csv_field(&row, f));
        used += (size_t)snprintf(out + used, size - used, "%d|", (int)row.line);
    }
}

static LsStatus read_bytes(const char *data, size_t size, char delimiter, char *out, size_t out_size)
{
    LsCsv *csv;
    LS_TRY(ls_csv_open_memory(data, size, "memory", delimiter, &csv));
    LsStatus status = read_all(csv, out, out_size);
    ls_csv_close(csv);
    return status;
}

static const struct {
    const char *input, *rows;
} accepted[] = {
    // The numbers of RFC 4180, section 2.
    {"aaa,bbb,ccc\r\nzzz,yyy,xxx\r\n", "[aaa][bbb][ccc]1|[zzz][yyy][xxx]2|"}, // 1
    {"aaa,bbb,ccc\r\nzzz,yyy,xxx", "[aaa][bbb][ccc]1|[zzz][yyy][xxx]2|"},     // 2
    {"a, b \r\n c,d\r\n", "[a][ b ]1|[ c][d]2|"},                             // 4: spaces belong to the field
    {"\"aaa\",\"bbb\",\"ccc\"\r\nzzz,yyy,xxx", "[aaa][bbb][ccc]1|[zzz][yyy][xxx]2|"},           // 5
    {"\"aaa\",\"b\r\nbb\",\"c,cc\"\r\nzzz,yyy,xxx", "[aaa][b\r\nbb][c,cc]1|[zzz][yyy][xxx]3|"}, // 6
    {"\"aaa\",\"b\"\"bb\",\"\"\"\"", "[aaa][b\"bb][\"]1|"},                                     // 7
    // What else is met.
    {"", ""},
    {"a", "[a]1|"},
    {"a,b\nc,d\n", "[a][b]1|[c][d]2|"},
    {"a,b\nc,d\r\n", "[a][b]1|[c][d]2|"},
    {",\n,\n", "[][]1|[][]2|"},
    {"a,\n,b", "[a][]1|[][b]2|"},
    {"\"\",a\n", "[][a]1|"},
    {"a,\"\"", "[a][]1|"},
    {"\xEF\xBB\xBFx,y\n1,2\n", "[x][y]1|[1][2]2|"},
    {"\xEF\xBB\xBF\"x\",y\n", "[x][y]1|"},
    {"\xEF\xBB\xBF", ""},
    {"\n\na,b\n\n\nc,d\n\n", "[a][b]3|[c][d]6|"}, // empty lines count as lines and are no rows
    {"a\n\nb\n", "[a]1|[]2|[b]3|"},               // but values in a file of one column
    {"a,b\r\n\r\nc,d\r\n", "[a][b]1|[c][d]3|"},
    {"\"a\n\n\nb\",c\nd,e\n", "[a\n\n\nb][c]1|[d][e]5|"}, // lines within quotes count
    {"\"\r\",a\n", "[\r][a]1|"},
    {"\xC3\xA9,\xE2\x82\xAC\n", "[\xC3\xA9][\xE2\x82\xAC]1|"},
    {"a;b,c\n", "[a;b][c]1|"},
};

static void test_accepts(void **state)
{
    (void)state;
    char rows[512];
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        assert_ok(read_bytes(accepted[i].input, strlen(accepted[i].input), ',', rows, sizeof rows));
        assert_string_equal(rows, accepted[i].rows);
    }
    assert_ok(read_bytes("a;b,c\td\n", 8, ';', rows, sizeof rows));
    assert_string_equal(rows, "[a][b,c\td]1|");
    assert_ok(read_bytes("a;b,c\td\n", 8, '\t', rows, sizeof rows));
    assert_string_equal(rows, "[a;b,c][d]1|");
}

static const struct {
    const char *input;
    size_t size; // 0: strlen
    const char *message;
} refused[] = {
    {"a,b\n\"c,d\n", 0, "memory:2: the quote of field 1, opened on this line, is never closed"},
    {"a,b\nc,\"d\ne\nf\n", 0, "memory:2: the quote of field 2"},
    {"\"", 0, "memory:1: the quote of field 1"},
    {"\"\"\"", 0, "memory:1: the quote of field 1"},
    {"a,b\n\"c\"d,e\n", 0, "memory:2: field 1 has text behind its closing quote"},
    {"a,b\n\"c\" ,e\n", 0, "memory:2: field 1 has text behind its closing quote"},
    {"a,b\nc,d\"e\n", 0, "memory:2: field 2 has a quote but does not begin with one"},
    {"a,b\nc, \"d\"\n", 0, "memory:2: field 2 has a quote"},
    {"a,b\nc\rd,e\n", 0, "memory:2: a carriage return without a line feed"},
    {"a,b\r", 0, "memory:1: a carriage return without a line feed"},
    {"a,b\nc\n", 0, "memory:2: the row has 1 fields where the first row has 2"},
    {"a,b\n\nc,d,e\n", 0, "memory:3: the row has 3 fields where the first row has 2"},
    {"a\nb,c\n", 0, "memory:2: the row has 2 fields where the first row has 1"},
    {"a,b\nc,\0\n", 8, "memory:2: the file contains a NUL byte"},
    {"a,b\n\"c\0\",d\n", 11, "memory:2: the file contains a NUL byte"},
    {"\0", 1, "memory:1: the file contains a NUL byte"},
    {"\xFF\xFE"
     "a\0",
        4, "UTF-16"},
    {"\xFE\xFF\0a", 4, "UTF-16"},
};

static void test_refuses(void **state)
{
    (void)state;
    char rows[512];
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        size_t size = refused[i].size ? refused[i].size : strlen(refused[i].input);
        assert_fails(
            read_bytes(refused[i].input, size, ',', rows, sizeof rows), LS_BAD_DATA, refused[i].message);
    }
    static const char delimiters[] = {'"', '\r', '\n', '\0', '\xC3'};
    for (size_t i = 0; i < sizeof delimiters; i++)
        assert_fails(read_bytes("a", 1, delimiters[i], rows, sizeof rows), LS_CONFIG, "delimiter");
}

static void test_bounds(void **state)
{
    (void)state;
    size_t size = LS_CSV_ROW_MAX + 64, out_size = 2 * LS_CSV_FIELD_MAX;
    char *data = malloc(size), *out = malloc(out_size);

    memset(data, 'x', size);
    assert_ok(read_bytes(data, LS_CSV_FIELD_MAX, ',', out, out_size));
    assert_int_equal(strspn(out + 1, "x"), LS_CSV_FIELD_MAX);
    assert_fails(
        read_bytes(data, LS_CSV_FIELD_MAX + 1, ',', out, out_size), LS_BAD_DATA, "field 1 is longer");
    data[0] = '"';
    assert_fails(
        read_bytes(data, LS_CSV_FIELD_MAX + 2, ',', out, out_size), LS_BAD_DATA, "field 1 is longer");

    memset(data, ',', size);
    assert_ok(read_bytes(data, LS_CSV_FIELDS_MAX - 1, ',', out, out_size));
    assert_fails(
        read_bytes(data, LS_CSV_FIELDS_MAX, ',', out, out_size), LS_BAD_DATA, "has more than 65536 fields");

    memset(data, 'x', size);
    for (size_t i = LS_CSV_FIELD_MAX / 2; i < size; i += LS_CSV_FIELD_MAX / 2)
        data[i] = ',';
    assert_fails(read_bytes(data, size, ',', out, out_size), LS_BAD_DATA, "the row is longer");
    free(out);
    free(data);
}

// Every cut of a file into reads gives the same rows: 200,000 bytes cross the reader's buffer, and a prime
// row length puts the seams at every place of a row.
static char *many_rows(size_t *size)
{
    enum { ROWS = 9091 };
    char *data = malloc(ROWS * 32);
    *size = 0;
    for (int r = 0; r < ROWS; r++)
        *size += (size_t)sprintf(data + *size, "%06d,\"a\"\"\r\n%03d\",tail\r\n", r, r % 1000);
    return data;
}

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    fclose(file);
}

static void write_gzip(const char *path, const void *data, size_t size)
{
    gzFile file = gzopen(path, "wb");
    assert_int_equal(gzwrite(file, data, (unsigned)size), size);
    assert_int_equal(gzclose(file), Z_OK);
}

static LsStatus read_path(const char *path, char *out, size_t size)
{
    LsCsv *csv;
    LS_TRY(ls_csv_open(path, ',', &csv));
    LsStatus status = read_all(csv, out, size);
    ls_csv_close(csv);
    return status;
}

static void test_files(void **state)
{
    (void)state;
    size_t size, out_size = 1 << 20;
    char *data = many_rows(&size), *expected = malloc(out_size), *out = malloc(out_size);
    assert_ok(read_bytes(data, size, ',', expected, out_size));
    write_file(in_directory("plain.csv"), data, size);
    assert_ok(read_path(in_directory("plain.csv"), out, out_size));
    assert_string_equal(out, expected);
    write_gzip(in_directory("packed.csv.gz"), data, size);
    assert_ok(read_path(in_directory("packed.csv.gz"), out, out_size));
    assert_string_equal(out, expected);

    char *packed;
    size_t packed_size;
    assert_ok(ls_file_read(in_directory("packed.csv.gz"), 1 << 20, &packed, &packed_size));
    write_file(in_directory("cut.csv.gz"), packed, packed_size / 2);
    assert_fails(read_path(in_directory("cut.csv.gz"), out, out_size), LS_BAD_DATA, "damaged or cut off");
    packed[packed_size / 2] ^= 0x55;
    write_file(in_directory("bad.csv.gz"), packed, packed_size);
    assert_int_equal(read_path(in_directory("bad.csv.gz"), out, out_size), LS_BAD_DATA);

    assert_fails(read_path(in_directory("none.csv"), out, out_size), LS_NO_INPUT, "none.csv");
    assert_fails(read_path(directory, out, out_size), LS_IO, directory);
    free(packed);
    free(out);
    free(expected);
    free(data);
}

static LsStatus read_table(const char *text, bool header, LsCsvTable *table)
{
    write_file(in_directory("table.csv"), text, strlen(text));
    const char *path = in_directory("table.csv");
    return ls_csv_table_read(&path, 1, (LsCsvFormat){.delimiter = ',', .header = header}, table);
}

static void test_header(void **state)
{
    (void)state;
    LsCsvTable table;
    assert_ok(read_table("x,\"y,z\"\n1,2\n3,4\n", true, &table));
    assert_int_equal(table.columns, 2);
    assert_int_equal(table.rows, 2);
    assert_int_equal(ls_csv_table_column(&table, "y,z"), 1);
    assert_int_equal(ls_csv_table_column(&table, "z"), 2);
    assert_string_equal(ls_csv_cell(&table, 1, 0), "3");
    bool keep[] = {false, true};
    ls_csv_table_filter(&table, keep);
    assert_int_equal(table.rows, 1);
    assert_string_equal(ls_csv_cell(&table, 0, 1), "4");
    assert_int_equal(table.row[0].line, 3);
    ls_csv_table_free(&table);

    assert_ok(read_table("x,y\n1,2\n", false, &table));
    assert_int_equal(table.rows, 2);
    assert_string_equal(table.name[1], "1");
    assert_string_equal(ls_csv_cell(&table, 0, 1), "y");
    ls_csv_table_free(&table);

    assert_ok(read_table("x,y\n", true, &table));
    assert_int_equal(table.rows, 0);
    ls_csv_table_free(&table);

    assert_fails(read_table("", true, &table), LS_BAD_DATA, "table.csv: the file is empty");
    assert_fails(read_table("x,,y\n", true, &table), LS_BAD_DATA, ":1: column 2 has no name");
    assert_fails(read_table("x,y,x\n", true, &table), LS_BAD_DATA, ":1: two columns have the name \"x\"");
    assert_fails(read_table("x,\xFF\n", true, &table), LS_BAD_DATA, "column 2 is not UTF-8");
}

static LsStatus read_two(const char *second, LsCsvTable *table)
{
    write_file(in_directory("first.csv"), "x,y\n1,2\n", 8);
    write_file(in_directory("second.csv"), second, strlen(second));
    const char *paths[] = {in_directory("first.csv"), in_directory("second.csv")};
    return ls_csv_table_read(paths, 2, (LsCsvFormat){.delimiter = ',', .header = true}, table);
}

static void test_several_files(void **state)
{
    (void)state;
    LsCsvTable table;
    assert_ok(read_two("x,y\n3,4\n5,6\n", &table));
    assert_int_equal(table.rows, 3);
    assert_string_equal(ls_csv_cell(&table, 2, 1), "6");
    assert_fails(
        ls_csv_table_fail(&table, 2, 1, "is %d", 6), LS_BAD_DATA, "second.csv:3: column \"y\": is 6");
    ls_csv_table_free(&table);
    assert_fails(read_two("y,x\n3,4\n", &table), LS_BAD_DATA, "second.csv:1: column 1 is \"y\" where ");
    assert_fails(read_two("x\n3\n", &table), LS_BAD_DATA, "second.csv:1: the file has 1 columns where ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_several_files),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
