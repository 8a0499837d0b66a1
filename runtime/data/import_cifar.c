// CIFAR's binary files to a data set.
#include "import_cifar.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/text.h"
#include "import_common.h"
#include "pixels.h"
#include "split.h"
#include "writer.h"

enum { FILE_LIMIT = 1 << 30, NAMES_LIMIT = 1 << 16, CLASSES_10 = 10, CLASSES_100 = 100, CLASSES_COARSE = 20 };

// ---- One file -------------------------------------------------------------------------------------------

static size_t record_bytes(const LsCifar *file)
{
    return file->label_bytes + LS_CIFAR_BYTES;
}

size_t ls_cifar_classes(const LsCifar *file, bool coarse)
{
    return file->label_bytes == 1 ? CLASSES_10 : coarse ? CLASSES_COARSE : CLASSES_100;
}

static LsStatus check_labels(const LsCifar *file, const char *name)
{
    for (size_t i = 0; i < file->count; i++)
        for (size_t l = 0; l < file->label_bytes; l++) {
            size_t at = i * record_bytes(file) + l;
            size_t classes = ls_cifar_classes(file, l == 0);
            if (file->records[at] >= classes)
                return LS_FAIL(LS_BAD_DATA, "%s: offset %zu: label %d is not below the %zu %sclasses of %s",
                    name, at, file->records[at], classes,
                    file->label_bytes == 1 ? ""
                    : l == 0               ? "coarse "
                                           : "fine ",
                    file->label_bytes == 1 ? "CIFAR-10" : "CIFAR-100");
        }
    return LS_OK;
}

LsStatus ls_cifar_parse(const uint8_t *data, size_t size, const char *name, LsCifar *out)
{
    LsCifar file = {.records = data};
    for (file.label_bytes = 1; file.label_bytes <= 2; file.label_bytes++)
        if (size > 0 && size % record_bytes(&file) == 0)
            break;
    if (file.label_bytes > 2)
        return LS_FAIL(LS_BAD_DATA,
            "%s: %zu bytes are no whole number of records, which have %d bytes in CIFAR-10 and %d in "
            "CIFAR-100 "
            "(binary version); give its .bin files",
            name, size, 1 + LS_CIFAR_BYTES, 2 + LS_CIFAR_BYTES);
    file.count = size / record_bytes(&file);
    LS_TRY(check_labels(&file, name));
    *out = file;
    return LS_OK;
}

int32_t ls_cifar_record(const LsCifar *file, size_t i, bool coarse, uint8_t image[LS_CIFAR_BYTES])
{
    enum { PLANE = LS_CIFAR_SIDE * LS_CIFAR_SIDE };
    const uint8_t *record = file->records + i * record_bytes(file);
    const uint8_t *planes = record + file->label_bytes;
    for (size_t pixel = 0; pixel < PLANE; pixel++)
        for (size_t c = 0; c < LS_CIFAR_CHANNELS; c++)
            image[pixel * LS_CIFAR_CHANNELS + c] = planes[c * PLANE + pixel];
    return record[file->label_bytes == 2 && !coarse];
}

// ---- All of them ----------------------------------------------------------------------------------------

typedef struct Input {
    const char *path;
    char *data;
    LsCifar file;
    bool test; // by its name
} Input;

// What an import holds while it is under way.
typedef struct Work {
    const LsImportOptions *options;
    Input *input; // [count]
    size_t count;
    size_t classes, rows, test_rows; // rows: of training files
    int32_t *labels;                 // [rows]
    uint8_t *split;                  // [rows]
    LsPixels pixels;
    LsWriter *writer;
} Work;

static LsStatus read_inputs(Work *work, const char *const *paths)
{
    for (size_t i = 0; i < work->count; i++) {
        Input *input = &work->input[i];
        size_t size;
        input->path = paths[i];
        input->test = strcasestr(ls_import_base_name(paths[i]), "test") != NULL;
        LS_TRY(ls_file_read(paths[i], FILE_LIMIT, &input->data, &size));
        LS_TRY(ls_cifar_parse((const uint8_t *)input->data, size, paths[i], &input->file));
        if (input->file.label_bytes != work->input[0].file.label_bytes)
            return LS_FAIL(LS_BAD_DATA, "%s and %s are of different kinds, CIFAR-10 and CIFAR-100",
                work->input[0].path, paths[i]);
        *(input->test ? &work->test_rows : &work->rows) += input->file.count;
    }
    if (work->options->coarse && work->input[0].file.label_bytes == 1)
        return LS_FAIL(
            LS_USAGE, "data import: CIFAR-10 has one label for an image; leave out --labels coarse");
    if (work->rows == 0)
        return LS_FAIL(
            LS_BAD_DATA, "there are no training files among the inputs (whose names are without \"test\")");
    if (work->test_rows > 0 && work->options->test > 0.0)
        return LS_FAIL(LS_USAGE, "data import: there is a test file already; leave out the test fraction");
    work->classes = ls_cifar_classes(&work->input[0].file, work->options->coarse);
    return LS_OK;
}

static LsStatus divide(Work *work)
{
    const LsImportOptions *options = work->options;
    uint8_t image[LS_CIFAR_BYTES];
    size_t row = 0;
    work->labels = malloc(work->rows * sizeof *work->labels);
    work->split = malloc(work->rows);
    if (work->labels == NULL || work->split == NULL)
        return LS_FAIL(LS_INTERNAL, "data import: out of memory");
    for (size_t i = 0; i < work->count; i++)
        for (size_t r = 0; !work->input[i].test && r < work->input[i].file.count; r++)
            work->labels[row++] = ls_cifar_record(&work->input[i].file, r, options->coarse, image);
    LsSplitFractions fractions = {.validation = options->validation, .test = options->test};
    return ls_split_assign(options->seed, fractions, work->labels, work->classes, work->rows, work->split);
}

static LsStatus append_rows(Work *work)
{
    uint8_t image[LS_CIFAR_BYTES];
    size_t row = 0;
    for (size_t i = 0; i < work->count; i++) {
        const Input *input = &work->input[i];
        for (size_t r = 0; r < input->file.count; r++) {
            int32_t label = ls_cifar_record(&input->file, r, work->options->coarse, image);
            LsSplit split = input->test ? LS_TEST : (LsSplit)work->split[row++];
            LS_TRY(ls_writer_append(work->writer, split, image, &label, 1));
            if (split == LS_TRAIN)
                ls_pixels_add(&work->pixels, image, LS_CIFAR_SIDE * LS_CIFAR_SIDE);
        }
    }
    return LS_OK;
}

static LsStatus write_rows(Work *work)
{
    LsWriterShape shape = {.feature_type = LS_COLUMN_U8,
        .feature_shape = {LS_CIFAR_SIDE, LS_CIFAR_SIDE, LS_CIFAR_CHANNELS},
        .feature_dimensions = 3,
        .classes = true,
        .outputs = work->classes,
        .compress = work->options->compress};
    for (size_t row = 0; row < work->rows; row++)
        shape.samples[work->split[row]]++;
    shape.samples[LS_TEST] += work->test_rows;
    work->pixels.channels = LS_CIFAR_CHANNELS;
    LS_TRY(ls_writer_begin(work->options->output, &shape, &work->writer));
    return append_rows(work);
}

static LsStatus commit(Work *work, json_t *names, json_t *import)
{
    json_t *schema = json_pack("{s:s, s:O, s:O}", "kind", "cifar", "classes", names, "import", import);
    LsStatus status = schema == NULL ? LS_FAIL(LS_INTERNAL, "data import: out of memory") : LS_OK;
    if (status == LS_OK)
        status = ls_pixels_describe(&work->pixels, schema);
    if (status == LS_OK)
        status = ls_writer_commit(work->writer, schema);
    json_decref(schema);
    return status;
}

// ---- Names of the classes -------------------------------------------------------------------------------

// One a line; empty lines, of which the files have some at their end, do not count.
static LsStatus read_names(const char *path, size_t classes, json_t *names)
{
    char *text = NULL, *rest = NULL;
    size_t size, lines = 0;
    LS_TRY(ls_file_read(path, NAMES_LIMIT, &text, &size));
    LsStatus status = strlen(text) == size && ls_text_valid(text)
                          ? LS_OK
                          : LS_FAIL(LS_BAD_DATA, "%s: the names of the classes are no UTF-8", path);
    for (char *line = strtok_r(text, "\r\n", &rest); status == LS_OK && line != NULL;
         line = strtok_r(NULL, "\r\n", &rest), lines++)
        if (json_array_append_new(names, json_string(line)) != 0)
            status = LS_FAIL(LS_INTERNAL, "data import: out of memory");
    free(text);
    if (status == LS_OK && lines != classes)
        status = LS_FAIL(LS_BAD_DATA, "%s has %zu names for %zu classes; correct it or move it away", path,
            lines, classes);
    return status;
}

// From the file that comes with the data, or else numbers.
static LsStatus name_classes(const Work *work, json_t *names)
{
    static const char *const files[] = {
        [CLASSES_10] = "batches.meta.txt",
        [CLASSES_COARSE] = "coarse_label_names.txt",
        [CLASSES_100] = "fine_label_names.txt",
    };
    char path[LS_PATH_MAX];
    const char *input = work->input[0].path, *base = ls_import_base_name(input);
    int length = snprintf(path, sizeof path, "%.*s%s", (int)(base - input), input, files[work->classes]);
    if (length < (int)sizeof path && ls_file_exists(path))
        return read_names(path, work->classes, names);
    for (size_t i = 0; i < work->classes; i++)
        if (json_array_append_new(names, json_sprintf("%zu", i)) != 0)
            return LS_FAIL(LS_INTERNAL, "data import: out of memory");
    return LS_OK;
}

// ---- The import -----------------------------------------------------------------------------------------

static LsStatus import_work(Work *work, const char *const *paths, json_t *names, bool *unchanged)
{
    const LsImportOptions *options = work->options;
    json_t *import = NULL;
    LS_TRY(read_inputs(work, paths));
    LS_TRY(name_classes(work, names));
    json_t *named = json_pack("{s:o, s:f, s:f, s:s, s:O}", "seed",
        json_sprintf("%llu", (unsigned long long)options->seed), "validation", options->validation, "test",
        options->test, "labels", options->coarse ? "coarse" : "fine", "names", names);
    LS_TRY(ls_import_source("cifar", paths, work->count, named, &import));
    bool same = ls_import_unchanged(options, import);
    LsStatus status = same ? LS_OK : divide(work);
    if (status == LS_OK && !same)
        status = write_rows(work);
    if (status == LS_OK && !same)
        status = commit(work, names, import);
    json_decref(import);
    if (status == LS_OK)
        *unchanged = same;
    return status;
}

LsStatus ls_import_cifar(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged)
{
    LS_TRY(ls_import_check(options, inputs, count));
    Work work = {.options = options, .count = count, .input = calloc(count, sizeof *work.input)};
    json_t *names = json_array();
    LsStatus status = work.input == NULL || names == NULL ? LS_FAIL(LS_INTERNAL, "data import: out of memory")
                                                          : import_work(&work, inputs, names, unchanged);
    ls_writer_destroy(work.writer);
    for (size_t i = 0; work.input != NULL && i < count; i++)
        free(work.input[i].data);
    json_decref(names);
    free(work.input);
    free(work.labels);
    free(work.split);
    return status;
}
