// fuzz: data
// CSV import up to the features: whatever the bytes, they are refused in one line or become finite features
// that the schema's copy of the preprocessing reproduces bit for bit. The first byte chooses the options.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "require.h"
#include "split.h"
#include "transform.h"

// What a refusal must look like. Memory may run out, everything else is the input's fault.
static void check_refusal(LsStatus status)
{
    require(status == LS_BAD_DATA || status == LS_CONFIG || status == LS_INTERNAL);
    require(strchr(ls_status_message(), '\n') == NULL);
    require(ls_status_message()[0] != '\0');
}

typedef struct Work {
    LsCsvTable table;
    LsTransform transform, back;
    uint8_t *split;
    int32_t *classes;
    size_t *source;
    float *x, *again;
    json_t *schema;
} Work;

static LsStatus read_labels(Work *work, bool regression)
{
    size_t label = work->transform.label;
    if (!regression)
        LS_TRY(ls_transform_learn_classes(&work->transform, &work->table));
    for (size_t r = 0; r < work->table.rows; r++) {
        float target;
        if (regression)
            LS_TRY(ls_transform_target(&work->table, label, r, &target));
        else
            LS_TRY(ls_transform_class(&work->transform, &work->table, label, r, &work->classes[r]));
    }
    return LS_OK;
}

static void check_round_trip(Work *work)
{
    json_t *made = ls_transform_json(&work->transform);
    require(made != NULL);
    json_object_set_new(made, "feature_shape", json_pack("[I]", (json_int_t)work->transform.features));
    char *text = ls_json_canonical(made);
    json_decref(made);
    require(text != NULL);
    work->schema = json_loads(text, 0, NULL);
    free(text);
    require(work->schema != NULL);
    require(ls_transform_from_json(work->schema, &work->back) == LS_OK);
    require(work->back.features == work->transform.features);
}

static LsStatus transform_rows(Work *work)
{
    size_t features = work->transform.features, bytes = features * sizeof(float);
    work->x = malloc(bytes);
    work->again = malloc(bytes);
    require(work->x != NULL && work->again != NULL);
    for (size_t r = 0; r < work->table.rows; r++) {
        LS_TRY(ls_transform_row(&work->transform, &work->table, work->source, r, work->x, NULL));
        require(ls_transform_row(&work->back, &work->table, work->source, r, work->again, NULL) == LS_OK);
        require(memcmp(work->x, work->again, bytes) == 0);
        for (size_t f = 0; f < features; f++)
            require(isfinite(work->x[f]));
    }
    return LS_OK;
}

static LsStatus import(Work *work, const char *data, size_t size, const LsImportOptions *options)
{
    LsCsv *csv;
    LS_TRY(ls_csv_open_memory(data, size, "input.csv", options->delimiter, &csv));
    LsStatus status = ls_csv_table_add(&work->table, csv, options->header);
    ls_csv_close(csv);
    LS_TRY(status);
    LsImportOptions named = *options;
    named.label = work->table.name[work->table.columns - 1];
    LS_TRY(ls_transform_prepare(&named, &work->table, &work->transform));
    size_t dropped;
    LS_TRY(ls_transform_screen(&work->transform, &work->table, &dropped));
    work->split = malloc(work->table.rows);
    work->classes = malloc(work->table.rows * sizeof *work->classes);
    work->source = malloc(work->table.columns * sizeof *work->source);
    require(work->split != NULL && work->classes != NULL && work->source != NULL);
    for (size_t c = 0; c < work->table.columns; c++)
        work->source[c] = c;
    LS_TRY(read_labels(work, options->regression));
    size_t classes = work->transform.column[work->transform.label].categories.count;
    LS_TRY(ls_split_assign(1, (LsSplitFractions){.validation = 0.1, .test = 0.2},
        options->regression ? NULL : work->classes, classes, work->table.rows, work->split));
    LS_TRY(ls_transform_learn(&work->transform, &work->table, work->split));
    check_round_trip(work);
    return transform_rows(work);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    uint8_t choice = data[0];
    LsImportOptions options;
    ls_import_defaults(&options);
    options.header = choice & 1;
    options.regression = choice & 2;
    options.missing = (LsMissingPolicy)((choice >> 2) % 3);
    options.delimiter = choice & 16 ? ';' : ',';
    options.missing_values = choice & 32 ? "NA,?" : NULL;
    Work work = {0};
    LsStatus status = import(&work, (const char *)data + 1, size - 1, &options);
    if (status != LS_OK)
        check_refusal(status);
    json_decref(work.schema);
    free(work.again);
    free(work.x);
    free(work.source);
    free(work.classes);
    free(work.split);
    ls_transform_free(&work.back);
    ls_transform_free(&work.transform);
    ls_csv_table_free(&work.table);
    return 0;
}
