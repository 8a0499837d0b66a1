// IDX files to a data set.
#include "import_idx.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "import_common.h"
#include "split.h"
#include "writer.h"

// One input file as it was read.
typedef struct File {
    const char *path;
    LsIdx idx;
    bool test; // by its name
    bool used; // a feature file has these labels
} File;

// Features and their labels.
typedef struct Pair {
    const File *x, *y;
} Pair;

static bool is_labels(const File *file)
{
    return file->idx.dimensions == 1;
}

// The labels of as many samples; among several those whose name agrees about being a test set.
static LsStatus find_labels(File *files, size_t count, const File *x, Pair *pair)
{
    File *found = NULL;
    for (size_t i = 0; i < count; i++) {
        File *y = &files[i];
        if (!is_labels(y) || y->used || y->idx.shape[0] != x->idx.shape[0])
            continue;
        if (found == NULL || (found->test != x->test && y->test == x->test))
            found = y;
    }
    if (found == NULL)
        return LS_FAIL(LS_BAD_DATA,
            "%s has %zu samples, but no input has that many labels; give its label file", x->path,
            x->idx.shape[0]);
    if (found->idx.type != LS_COLUMN_U8)
        return LS_FAIL(LS_BAD_DATA, "%s: offset 2: labels must be unsigned bytes (0x08)", found->path);
    found->used = true;
    *pair = (Pair){.x = x, .y = found};
    return LS_OK;
}

static LsStatus pair_files(File *files, size_t count, Pair *train, Pair *test)
{
    for (size_t i = 0; i < count; i++) {
        if (is_labels(&files[i]))
            continue;
        Pair pair;
        LS_TRY(find_labels(files, count, &files[i], &pair));
        Pair *place = pair.x->test || pair.y->test ? test : train;
        if (place->x != NULL)
            return LS_FAIL(LS_BAD_DATA,
                "%s and %s both hold %s features; test files have \"t10k\" or \"test\" in their name",
                place->x->path, pair.x->path, place == test ? "test" : "training");
        *place = pair;
    }
    if (train->x == NULL)
        return LS_FAIL(LS_BAD_DATA,
            "there are no training features among the inputs (a file of two or more dimensions whose "
            "name has neither \"t10k\" nor \"test\")");
    for (size_t i = 0; i < count; i++)
        if (is_labels(&files[i]) && !files[i].used)
            return LS_FAIL(LS_BAD_DATA, "%s has %zu labels, but no feature file has that many samples left",
                files[i].path, files[i].idx.shape[0]);
    if (test->x == NULL)
        return LS_OK;
    const LsIdx *a = &train->x->idx, *b = &test->x->idx;
    bool same = a->type == b->type && a->dimensions == b->dimensions;
    for (int i = 1; same && i < a->dimensions; i++)
        same = a->shape[i] == b->shape[i];
    if (!same)
        return LS_FAIL(
            LS_BAD_DATA, "%s and %s hold samples of different shape or type", train->x->path, test->x->path);
    return LS_OK;
}

// Labels as int32, which the caller frees.
static LsStatus widen_labels(const File *file, int32_t **out)
{
    size_t count = file->idx.shape[0];
    int32_t *labels = malloc(count * sizeof *labels);
    if (labels == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", file->path);
    for (size_t i = 0; i < count; i++)
        labels[i] = ((const uint8_t *)file->idx.values)[i];
    *out = labels;
    return LS_OK;
}

static size_t count_classes(const int32_t *labels, size_t count)
{
    int32_t largest = 0;
    for (size_t i = 0; i < count; i++)
        largest = labels[i] > largest ? labels[i] : largest;
    return (size_t)largest + 1;
}

static LsStatus check_labels(const File *file, const int32_t *labels, size_t classes)
{
    enum { HEADER = 8 };
    for (size_t i = 0; i < file->idx.shape[0]; i++)
        if ((size_t)labels[i] >= classes)
            return LS_FAIL(LS_BAD_DATA, "%s: offset %zu: label %d, but the training labels end at %zu",
                file->path, HEADER + i, (int)labels[i], classes - 1);
    return LS_OK;
}

// Mean and variance of all values of the training rows, in float64: in one pass over counts for bytes, in two
// passes for floats.
static void measure(const LsIdx *idx, const uint8_t *split, double *mean, double *variance)
{
    size_t rows = idx->shape[0],
           features = idx->bytes / rows / (idx->type == LS_COLUMN_U8 ? 1 : sizeof(float));
    uint64_t histogram[256] = {0};
    double total = 0.0, sum = 0.0, squares = 0.0;
    for (size_t row = 0; row < rows; row++) {
        if (split[row] != LS_TRAIN)
            continue;
        total += (double)features;
        for (size_t i = row * features; i < (row + 1) * features; i++) {
            if (idx->type == LS_COLUMN_U8)
                histogram[((const uint8_t *)idx->values)[i]]++;
            else
                sum += ((const float *)idx->values)[i];
        }
    }
    for (int value = 0; value < 256; value++)
        sum += (double)value * (double)histogram[value];
    *mean = sum / total;
    for (int value = 0; value < 256; value++)
        squares += (value - *mean) * (value - *mean) * (double)histogram[value];
    for (size_t row = 0; idx->type == LS_COLUMN_F32 && row < rows; row++)
        for (size_t i = row * features; split[row] == LS_TRAIN && i < (row + 1) * features; i++) {
            double difference = ((const float *)idx->values)[i] - *mean;
            squares += difference * difference;
        }
    *variance = squares / total;
}

// Appends the rows of a pair to the splits they belong to, as many at once as follow each other.
static LsStatus append_rows(LsWriter *writer, const LsIdx *x, const int32_t *labels, const uint8_t *split)
{
    size_t rows = x->shape[0], row_bytes = x->bytes / rows;
    for (size_t row = 0, run; row < rows; row += run) {
        run = 1;
        while (row + run < rows && split[row + run] == split[row])
            run++;
        LS_TRY(ls_writer_append(
            writer, (LsSplit)split[row], (const uint8_t *)x->values + row * row_bytes, labels + row, run));
    }
    return LS_OK;
}

// The importer's part of the schema; takes `import`.
static LsStatus make_schema(size_t classes, double mean, double variance, json_t *import, json_t **out)
{
    float shift, scale;
    ls_import_normalize(mean, variance, &shift, &scale);
    json_t *names = json_array();
    for (size_t i = 0; i < classes; i++)
        json_array_append_new(names, json_sprintf("%zu", i));
    json_t *schema = json_pack("{s:s, s:o, s:b, s:[f], s:[f], s:f, s:f, s:O}", "kind", "idx", "classes",
        names, "uniform", 1, "shift", (double)shift, "scale", (double)scale, "mean", mean, "deviation",
        sqrt(variance), "import", import);
    if (schema == NULL)
        return LS_FAIL(LS_INTERNAL, "data import: out of memory");
    *out = schema;
    return LS_OK;
}

// What an import holds while it is under way.
typedef struct Work {
    Pair train, test;
    int32_t *train_labels, *test_labels;
    uint8_t *train_split, *test_split;
    size_t classes;
    LsWriter *writer;
    json_t *schema;
} Work;

static LsStatus divide(const LsImportOptions *options, Work *work)
{
    size_t rows = work->train.x->idx.shape[0];
    size_t test_rows = work->test.x == NULL ? 0 : work->test.x->idx.shape[0];
    if (test_rows > 0 && options->test > 0.0)
        return LS_FAIL(LS_USAGE, "data import: %s is the test split already; leave out the test fraction",
            work->test.x->path);
    LS_TRY(widen_labels(work->train.y, &work->train_labels));
    work->classes = count_classes(work->train_labels, rows);
    if (work->classes < 2)
        return LS_FAIL(
            LS_BAD_DATA, "%s: every label is 0; a classification needs two classes", work->train.y->path);
    work->train_split = malloc(rows);
    work->test_split = malloc(test_rows + 1);
    if (work->train_split == NULL || work->test_split == NULL)
        return LS_FAIL(LS_INTERNAL, "data import: out of memory");
    memset(work->test_split, LS_TEST, test_rows + 1);
    if (test_rows > 0) {
        LS_TRY(widen_labels(work->test.y, &work->test_labels));
        LS_TRY(check_labels(work->test.y, work->test_labels, work->classes));
    }
    LsSplitFractions fractions = {.validation = options->validation, .test = options->test};
    return ls_split_assign(
        options->seed, fractions, work->train_labels, work->classes, rows, work->train_split);
}

static LsStatus write_dataset(const LsImportOptions *options, const json_t *import, Work *work)
{
    const LsIdx *x = &work->train.x->idx;
    LsWriterShape shape = {.feature_type = x->type,
        .feature_dimensions = x->dimensions - 1,
        .classes = true,
        .outputs = work->classes,
        .compress = options->compress};
    for (int i = 1; i < x->dimensions; i++)
        shape.feature_shape[i - 1] = x->shape[i];
    for (size_t row = 0; row < x->shape[0]; row++)
        shape.samples[work->train_split[row]]++;
    if (work->test.x != NULL)
        shape.samples[LS_TEST] += work->test.x->idx.shape[0];
    LS_TRY(ls_writer_begin(options->output, &shape, &work->writer));
    LS_TRY(append_rows(work->writer, x, work->train_labels, work->train_split));
    if (work->test.x != NULL)
        LS_TRY(append_rows(work->writer, &work->test.x->idx, work->test_labels, work->test_split));
    double mean, variance;
    measure(x, work->train_split, &mean, &variance);
    LS_TRY(make_schema(work->classes, mean, variance, (json_t *)import, &work->schema));
    return ls_writer_commit(work->writer, work->schema);
}

static LsStatus import_files(File *files, size_t count, const LsImportOptions *options, const json_t *import)
{
    Work work = {0};
    LsStatus status = pair_files(files, count, &work.train, &work.test);
    if (status == LS_OK)
        status = divide(options, &work);
    if (status == LS_OK)
        status = write_dataset(options, import, &work);
    ls_writer_destroy(work.writer);
    json_decref(work.schema);
    free(work.train_labels);
    free(work.test_labels);
    free(work.train_split);
    free(work.test_split);
    return status;
}

static LsStatus read_files(const char *const *inputs, size_t count, File *files)
{
    for (size_t i = 0; i < count; i++) {
        const char *name = ls_import_base_name(inputs[i]);
        files[i].path = inputs[i];
        files[i].test = strcasestr(name, "t10k") != NULL || strcasestr(name, "test") != NULL;
        LS_TRY(ls_idx_read(inputs[i], &files[i].idx));
    }
    return LS_OK;
}

LsStatus ls_import_idx(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged)
{
    LS_TRY(ls_import_check(options, inputs, count));
    json_t *import = NULL;
    json_t *named =
        json_pack("{s:o, s:f, s:f}", "seed", json_sprintf("%llu", (unsigned long long)options->seed),
            "validation", options->validation, "test", options->test);
    LS_TRY(ls_import_source("idx", inputs, count, named, &import));
    if (ls_import_unchanged(options, import)) {
        json_decref(import);
        *unchanged = true;
        return LS_OK;
    }
    File *files = calloc(count, sizeof *files);
    LsStatus status =
        files == NULL ? LS_FAIL(LS_INTERNAL, "data import: out of memory") : read_files(inputs, count, files);
    if (status == LS_OK)
        status = import_files(files, count, options, import);
    for (size_t i = 0; files != NULL && i < count; i++)
        ls_idx_free(&files[i].idx);
    free(files);
    json_decref(import);
    if (status == LS_OK)
        *unchanged = false;
    return status;
}
