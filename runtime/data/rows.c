// New data through the preprocessing that a data set's schema stores.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "data/import.h"
#include "import_common.h"
#include "import_idx.h"
#include "rows_images.h"
#include "transform.h"

void ls_rows_free(LsRows *rows)
{
    ls_rows_free_images(rows->images);
    free(rows->names);
    free(rows->x);
    free(rows->y);
    free(rows->lines);
    *rows = (LsRows){0};
}

// ---- IDX ----

static LsStatus check_images(const json_t *schema, const char *path, const LsIdx *idx)
{
    const json_t *shape = json_object_get(schema, "feature_shape");
    const char *type = json_string_value(json_object_get(schema, "feature_type"));
    size_t dimensions = json_array_size(shape);
    bool same = (size_t)idx->dimensions == dimensions + 1;
    for (size_t d = 0; d < dimensions && same; d++)
        same = json_integer_value(json_array_get(shape, d)) == (json_int_t)idx->shape[d + 1];
    if (!same)
        return LS_FAIL(LS_BAD_DATA,
            "%s: the samples' shape (%d dimensions, %zu …) is not that of the training data", path,
            idx->dimensions - 1, idx->dimensions > 1 ? idx->shape[1] : 1);
    if (!type || (idx->type == LS_COLUMN_U8) != (strcmp(type, "u8") == 0))
        return LS_FAIL(LS_BAD_DATA, "%s: the values' type is not that of the training data (%s)", path,
            type ? type : "unknown");
    if (idx->shape[0] == 0)
        return LS_FAIL(LS_BAD_DATA, "%s: there are no samples", path);
    const float *values = idx->values;
    for (size_t i = 0; idx->type == LS_COLUMN_F32 && i < idx->bytes / sizeof *values; i++)
        if (!isfinite(values[i]))
            return LS_FAIL(LS_BAD_DATA, "%s: value %zu is NaN or infinite", path, i);
    return LS_OK;
}

static LsStatus read_idx(const json_t *schema, const char *path, LsRows *out)
{
    LsIdx idx;
    LS_TRY(ls_idx_read(path, &idx));
    LsStatus status = check_images(schema, path, &idx);
    void *lines = NULL;
    if (status == LS_OK)
        status = ls_memory_allocate(idx.shape[0] * sizeof *out->lines, &lines);
    if (status == LS_OK) {
        *out = (LsRows){
            .rows = idx.shape[0], .row_bytes = idx.bytes / idx.shape[0], .x = idx.values, .lines = lines};
        for (size_t r = 0; r < out->rows; r++)
            out->lines[r] = r + 1;
        idx.values = NULL;
    }
    ls_idx_free(&idx);
    return status;
}

// ---- CSV ----

static bool used(const LsTransformColumn *column)
{
    return column->role == LS_ROLE_NUMERIC || column->role == LS_ROLE_CATEGORICAL;
}

// Columns of a file without header, by position: all of them, or all but the label.
static LsStatus map_positions(const LsTransform *transform, const LsCsvTable *table, size_t *source)
{
    bool labelled = table->columns == transform->columns;
    if (!labelled && table->columns != transform->columns - 1)
        return LS_FAIL(LS_BAD_DATA,
            "%s: the file has %zu columns where the training data has %zu (%zu without label)",
            table->file[0], table->columns, transform->columns, transform->columns - 1);
    for (size_t c = 0; c < transform->columns; c++)
        source[c] = labelled || c < transform->label ? c : c - 1;
    if (!labelled)
        source[transform->label] = table->columns;
    return LS_OK;
}

// Where each column lies in the table; table->columns: not there.
static LsStatus map_columns(const LsTransform *transform, const LsCsvTable *table, size_t *source)
{
    if (!transform->format.header)
        return map_positions(transform, table, source);
    for (size_t c = 0; c < transform->columns; c++) {
        char quote[LS_QUOTE_SIZE];
        source[c] = ls_csv_table_column(table, transform->column[c].name);
        if (source[c] == table->columns && used(&transform->column[c]))
            return LS_FAIL(LS_BAD_DATA, "%s: there is no column %s, which the training data has",
                table->file[0], ls_text_quote(quote, transform->column[c].name));
    }
    return LS_OK;
}

static LsStatus drop_incomplete(const LsTransform *transform, const size_t *source, LsCsvTable *table)
{
    size_t rows = table->rows;
    bool *keep = malloc(rows ? rows : 1);
    if (!keep)
        return LS_FAIL(LS_INTERNAL, "out of memory for %zu rows", rows);
    for (size_t r = 0; r < rows; r++) {
        keep[r] = true;
        for (size_t c = 0; c < transform->columns; c++)
            if (used(&transform->column[c]) &&
                ls_transform_missing(transform, ls_csv_cell(table, r, source[c])))
                keep[r] = false;
    }
    ls_csv_table_filter(table, keep);
    free(keep);
    return LS_OK;
}

static LsStatus apply(
    const LsTransform *transform, const LsCsvTable *table, const size_t *source, LsRows *rows)
{
    size_t values, bytes;
    size_t *unseen = calloc(transform->columns, sizeof *unseen);
    rows->lines = malloc(table->rows * sizeof *rows->lines);
    if (ls_size_multiply(table->rows, transform->features, &values) &&
        ls_size_multiply(values, sizeof(float), &bytes))
        rows->x = malloc(bytes);
    LsStatus status = LS_OK;
    if (!unseen || !rows->lines || !rows->x)
        status = LS_FAIL(LS_INTERNAL, "%s: out of memory for %zu rows", table->file[0], table->rows);
    for (size_t r = 0; r < table->rows && status == LS_OK; r++) {
        float *x = (float *)rows->x + r * transform->features;
        rows->lines[r] = table->row[r].line;
        status = ls_transform_row(transform, table, source, r, x, unseen);
    }
    for (size_t c = 0; c < transform->columns && status == LS_OK; c++) {
        char quote[LS_QUOTE_SIZE];
        rows->unseen += unseen[c];
        if (unseen[c])
            ls_warn("%s: column %s: %zu rows have a category that the training data lacks", table->file[0],
                ls_text_quote(quote, transform->column[c].name), unseen[c]);
    }
    free(unseen);
    return status;
}

// Labels are taken when every row has one: a part of them is no ground for a metric.
static LsStatus read_labels(
    const LsTransform *transform, const LsCsvTable *table, size_t column, LsRows *rows)
{
    size_t missing = 0;
    for (size_t r = 0; column < table->columns && r < table->rows; r++)
        missing += ls_transform_missing(transform, ls_csv_cell(table, r, column));
    if (missing > 0 && missing < table->rows)
        ls_warn("%s: %zu of %zu rows have no label; the labels are not used", table->file[0], missing,
            table->rows);
    if (column == table->columns || missing > 0)
        return LS_OK;
    rows->y = malloc(table->rows * sizeof(float)); // int32 has the same size
    if (!rows->y)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory for %zu rows", table->file[0], table->rows);
    for (size_t r = 0; r < table->rows; r++) {
        if (transform->regression)
            LS_TRY(ls_transform_target(table, column, r, (float *)rows->y + r));
        else
            LS_TRY(ls_transform_class(transform, table, column, r, (int32_t *)rows->y + r));
    }
    return LS_OK;
}

static LsStatus transform_table(const LsTransform *transform, LsCsvTable *table, LsRows *rows)
{
    size_t *source = calloc(transform->columns, sizeof *source);
    if (!source)
        return LS_FAIL(LS_INTERNAL, "out of memory for %zu columns", transform->columns);
    size_t read = table->rows;
    LsStatus status = map_columns(transform, table, source);
    if (status == LS_OK && transform->missing == LS_MISSING_DROP)
        status = drop_incomplete(transform, source, table);
    rows->rows = table->rows;
    rows->row_bytes = transform->features * sizeof(float);
    rows->dropped = read - table->rows;
    if (status == LS_OK && rows->dropped)
        ls_warn(
            "%s: %zu of %zu rows have missing values and are left out", table->file[0], rows->dropped, read);
    if (status == LS_OK && rows->rows == 0)
        status = LS_FAIL(LS_BAD_DATA,
            read ? "%s: every row has a missing value, so none is left" : "%s: there are no rows",
            table->file[0]);
    if (status == LS_OK)
        status = apply(transform, table, source, rows);
    if (status == LS_OK)
        status = read_labels(transform, table, source[transform->label], rows);
    free(source);
    return status;
}

static LsStatus read_csv(const json_t *schema, const char *path, LsRows *out)
{
    LsTransform transform = {0};
    LsCsvTable table = {0};
    LsRows rows = {0};
    LsStatus status = ls_transform_from_json(schema, &transform);
    if (status == LS_OK)
        status = ls_csv_table_read(&path, 1, transform.format, &table);
    if (status == LS_OK)
        status = transform_table(&transform, &table, &rows);
    ls_csv_table_free(&table);
    ls_transform_free(&transform);
    if (status != LS_OK) {
        ls_rows_free(&rows);
        return status;
    }
    *out = rows;
    return LS_OK;
}

// ---- Any ----

typedef enum Input { INPUT_CSV, INPUT_IDX, INPUT_IMAGES, INPUT_CIFAR } Input;

static LsStatus recognize(const char *kind, const char *path, Input *out)
{
    bool idx, image = ls_directory_exists(path);
    struct stat information;
    if (!image && stat(path, &information) == 0 && !S_ISREG(information.st_mode))
        return LS_FAIL(LS_BAD_DATA, "%s is neither a directory nor a regular file", path);
    if (!image)
        LS_TRY(ls_rows_recognize_image(path, &image));
    *out = INPUT_IMAGES;
    if (image)
        return LS_OK;
    LS_TRY(ls_idx_recognize(path, &idx));
    *out = idx ? INPUT_IDX : strcmp(kind, "cifar") == 0 ? INPUT_CIFAR : INPUT_CSV;
    return LS_OK;
}

// What a model that was trained on the schema's data reads.
static size_t row_bytes(const json_t *schema)
{
    const json_t *shape = json_object_get(schema, "feature_shape");
    const char *type = json_string_value(json_object_get(schema, "feature_type"));
    size_t bytes = type && strcmp(type, "u8") == 0 ? 1 : sizeof(float);
    for (size_t d = 0; d < json_array_size(shape); d++)
        bytes *= (size_t)json_integer_value(json_array_get(shape, d));
    return bytes;
}

static LsStatus read_any(const json_t *schema, const char *path, LsRows *out)
{
    const char *kind = json_string_value(json_object_get(schema, "kind"));
    Input input;
    LS_TRY(recognize(kind ? kind : "", path, &input));
    if (!kind || (input == INPUT_CSV) != (strcmp(kind, "csv") == 0))
        return LS_FAIL(LS_BAD_DATA, "%s is %s, the training data was %s", path,
            input == INPUT_CSV          ? "no JPEG, PNG or IDX file"
            : ls_directory_exists(path) ? "a directory"
                                        : "a JPEG, PNG or IDX file",
            kind ? kind : "of no known kind");
    switch (input) {
    case INPUT_IDX:
        return read_idx(schema, path, out);
    case INPUT_IMAGES:
        return ls_rows_list_images(schema, path, out);
    case INPUT_CIFAR:
        return ls_rows_read_cifar(path, out);
    default:
        return read_csv(schema, path, out);
    }
}

LsStatus ls_rows_read(const json_t *schema, const char *path, LsRows *out)
{
    LsRows rows = {0};
    LS_TRY(read_any(schema, path, &rows));
    if (rows.row_bytes != row_bytes(schema)) {
        ls_rows_free(&rows);
        return LS_FAIL(LS_BAD_DATA, "%s: its samples are of another size than the training data's", path);
    }
    *out = rows;
    return LS_OK;
}

LsStatus ls_rows_fetch(const LsRows *rows, size_t first, size_t count, void *x)
{
    if (rows->images != NULL)
        return ls_rows_fetch_images(rows, first, count, x);
    memcpy(x, (const char *)rows->x + first * rows->row_bytes, count * rows->row_bytes);
    return LS_OK;
}
