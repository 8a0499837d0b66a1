#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "data/import.h"
#include "import_common.h"
#include "partitions.h"
#include "split.h"
#include "transform.h"
#include "writer.h"

// What an import holds while it is under way.
typedef struct Work {
    const LsImportOptions *options;
    LsCsvTable table;
    LsTransform transform;
    size_t dropped;
    uint8_t *split;        // [rows]
    LsPartitionRow *order; // [rows] in which they are written
    json_t *partitions;    // the schema's key; NULL: there are none
    int32_t *classes;      // [rows]; NULL: regression
    float *targets;        // [rows]; NULL: classification
    size_t *source;        // [columns], each column its own source
    size_t *unseen;        // [columns]
    float *x;              // a batch of rows of one split
    LsWriter *writer;
} Work;

enum { BATCH_BYTES = 4 << 20 };

static LsStatus allocate(size_t count, size_t size, void *out)
{
    size_t bytes;
    void *memory = NULL;
    if (ls_size_multiply(count ? count : 1, size, &bytes))
        memory = calloc(1, bytes);
    if (!memory)
        return LS_FAIL(LS_INTERNAL, "out of memory for %zu items of %zu bytes", count, size);
    memcpy(out, &memory, sizeof memory);
    return LS_OK;
}

// Everything that decides the content.
static LsStatus describe_options(const LsImportOptions *options, json_t **out)
{
    const struct {
        const char *key, *text;
    } texts[] = {{"label", options->label}, {"numeric", options->numeric},
        {"categorical", options->categorical}, {"ignore", options->ignore},
        {"missing_values", options->missing_values}};
    char delimiter[2] = {options->delimiter, '\0'}, seed[24];
    snprintf(seed, sizeof seed, "%" PRIu64, options->seed);
    json_t *object = json_pack("{s:s, s:f, s:f, s:b, s:s, s:b, s:s}", "seed", seed, "validation",
        options->validation, "test", options->test, "regression", options->regression, "delimiter", delimiter,
        "header", options->header, "missing", ls_missing_policy_name(options->missing));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *text = texts[i].text ? texts[i].text : "";
        if (!ls_text_valid(text)) {
            json_decref(object);
            return LS_FAIL(LS_CONFIG, "%s: the text is not UTF-8", texts[i].key);
        }
        json_object_set_new(object, texts[i].key, json_string(text));
    }
    // Absent where it is not used, so that imports of before are the same ones.
    if (options->partition_by && !ls_text_valid(options->partition_by)) {
        json_decref(object);
        return LS_FAIL(LS_CONFIG, "partition-by: the text is not UTF-8");
    }
    if (options->partition_by)
        json_object_set_new(object, "partition_by", json_string(options->partition_by));
    if (!object)
        return LS_FAIL(LS_INTERNAL, "out of memory for the import's options");
    *out = object;
    return LS_OK;
}

// The label of every row: a class of the table of all rows' labels, or a number.
static LsStatus read_labels(Work *work)
{
    const LsCsvTable *table = &work->table;
    size_t label = work->transform.label;
    if (work->options->regression) {
        LS_TRY(allocate(table->rows, sizeof *work->targets, &work->targets));
        for (size_t r = 0; r < table->rows; r++)
            LS_TRY(ls_transform_target(table, label, r, &work->targets[r]));
        return LS_OK;
    }
    LS_TRY(ls_transform_learn_classes(&work->transform, table));
    LS_TRY(allocate(table->rows, sizeof *work->classes, &work->classes));
    for (size_t r = 0; r < table->rows; r++)
        LS_TRY(ls_transform_class(&work->transform, table, label, r, &work->classes[r]));
    return LS_OK;
}

static LsStatus learn(Work *work)
{
    const LsImportOptions *options = work->options;
    LS_TRY(ls_transform_prepare(options, &work->table, &work->transform));
    LS_TRY(ls_transform_screen(&work->transform, &work->table, &work->dropped));
    LS_TRY(read_labels(work));
    LS_TRY(allocate(work->table.rows, 1, &work->split));
    LsSplitFractions fractions = {.validation = options->validation, .test = options->test};
    size_t classes = work->transform.column[work->transform.label].categories.count;
    LS_TRY(ls_split_assign(options->seed, fractions, work->classes, classes, work->table.rows, work->split));
    return ls_transform_learn(&work->transform, &work->table, work->split);
}

static LsStatus begin_file(Work *work)
{
    const LsTransform *transform = &work->transform;
    LsWriterShape shape = {.feature_type = LS_COLUMN_F32,
        .feature_shape = {transform->features},
        .feature_dimensions = 1,
        .classes = !transform->regression,
        .outputs = transform->regression ? 1 : transform->column[transform->label].categories.count,
        .compress = work->options->compress};
    for (size_t r = 0; r < work->table.rows; r++)
        shape.samples[work->split[r]]++;
    return ls_writer_begin(work->options->output, &shape, &work->writer);
}

// Rows in the order of the input, or of their partitions.
static LsStatus order_rows(Work *work)
{
    const LsCsvTable *table = &work->table;
    const char *column = work->options->partition_by;
    LS_TRY(allocate(table->rows, sizeof *work->order, &work->order));
    for (size_t r = 0; r < table->rows; r++)
        work->order[r] = (LsPartitionRow){.row = r, .split = (LsSplit)work->split[r]};
    if (!column)
        return LS_OK;
    size_t c = ls_csv_table_column(table, column);
    for (size_t r = 0; r < table->rows; r++)
        work->order[r].value = ls_csv_cell(table, r, c);
    return ls_partitions_order(column, work->order, table->rows, &work->partitions);
}

// Appends one split's rows, a batch at a time.
static LsStatus write_split(Work *work, LsSplit split, size_t batch, void *y)
{
    size_t features = work->transform.features, filled = 0;
    for (size_t i = 0; i < work->table.rows; i++) {
        size_t r = work->order[i].row;
        if (work->split[r] != split)
            continue;
        LS_TRY(ls_transform_row(
            &work->transform, &work->table, work->source, r, work->x + filled * features, work->unseen));
        if (work->classes)
            ((int32_t *)y)[filled++] = work->classes[r];
        else
            ((float *)y)[filled++] = work->targets[r];
        if (filled == batch) {
            LS_TRY(ls_writer_append(work->writer, split, work->x, y, filled));
            filled = 0;
        }
    }
    return filled ? ls_writer_append(work->writer, split, work->x, y, filled) : LS_OK;
}

static LsStatus write_rows(Work *work)
{
    size_t columns = work->transform.columns, row_bytes = work->transform.features * sizeof(float);
    size_t batch = row_bytes < BATCH_BYTES ? BATCH_BYTES / row_bytes : 1;
    if (batch > work->table.rows)
        batch = work->table.rows;
    LS_TRY(allocate(columns, sizeof *work->source, &work->source));
    LS_TRY(allocate(columns, sizeof *work->unseen, &work->unseen));
    LS_TRY(allocate(batch, row_bytes, &work->x));
    for (size_t c = 0; c < columns; c++)
        work->source[c] = c;
    void *y; // int32 or float32
    LS_TRY(allocate(batch, sizeof(float), &y));
    LsStatus status = LS_OK;
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS && status == LS_OK; split++)
        status = write_split(work, split, batch, y);
    free(y);
    for (size_t c = 0; c < columns && status == LS_OK; c++)
        work->transform.column[c].unseen = work->unseen[c];
    return status;
}

static LsStatus commit(Work *work, json_t *import)
{
    json_t *schema = ls_transform_json(&work->transform);
    json_t *rest = json_pack("{s:s, s:b, s:[f], s:[f], s:I, s:O}", "kind", "csv", "uniform", 1, "shift", 0.0,
        "scale", 1.0, "dropped", (json_int_t)work->dropped, "import", import);
    LsStatus status = LS_OK;
    if (!schema || !rest || json_object_update(schema, rest) != 0 ||
        (work->partitions && json_object_set(schema, "partitions", work->partitions) != 0))
        status = LS_FAIL(LS_INTERNAL, "out of memory for the schema");
    else
        status = ls_writer_commit(work->writer, schema);
    json_decref(rest);
    json_decref(schema);
    return status;
}

// What a person should know of an import that succeeded.
static void report(const Work *work)
{
    char quote[LS_QUOTE_SIZE];
    if (work->dropped)
        ls_info("%s: %zu rows with missing values left out", work->options->output, work->dropped);
    for (size_t c = 0; c < work->transform.columns; c++) {
        const LsTransformColumn *column = &work->transform.column[c];
        if (column->unseen)
            ls_warn("%s: column %s: %zu rows of validation and test have a category that no training row has",
                work->options->output, ls_text_quote(quote, column->name), column->unseen);
    }
}

static LsStatus import_files(
    const char *const *inputs, size_t count, const LsImportOptions *options, json_t *import)
{
    Work work = {.options = options};
    LsCsvFormat format = {.delimiter = options->delimiter, .header = options->header};
    LsStatus status = ls_csv_table_read(inputs, count, format, &work.table);
    if (status == LS_OK)
        status = learn(&work);
    if (status == LS_OK)
        status = order_rows(&work);
    if (status == LS_OK)
        status = begin_file(&work);
    if (status == LS_OK)
        status = write_rows(&work);
    if (status == LS_OK)
        status = commit(&work, import);
    if (status == LS_OK)
        report(&work);
    ls_writer_destroy(work.writer);
    free(work.x);
    free(work.unseen);
    free(work.source);
    free(work.targets);
    free(work.classes);
    free(work.split);
    free(work.order);
    json_decref(work.partitions);
    ls_transform_free(&work.transform);
    ls_csv_table_free(&work.table);
    return status;
}

LsStatus ls_import_csv(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged)
{
    LS_TRY(ls_import_check(options, inputs, count));
    json_t *described, *import;
    LS_TRY(describe_options(options, &described));
    LS_TRY(ls_import_source("csv", inputs, count, described, &import));
    bool same = ls_import_unchanged(options, import);
    LsStatus status = same ? LS_OK : import_files(inputs, count, options, import);
    json_decref(import);
    if (status == LS_OK)
        *unchanged = same;
    return status;
}
