// Small data sets with values that follow from their place, in a directory of the test's own.
#ifndef LOCKSTEP_TESTS_DATASET_FIXTURE_H
#define LOCKSTEP_TESTS_DATASET_FIXTURE_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../support/hdf5_leaks.h"
#include "base/file.h"
#include "dataset_format.h"
#include "writer.h"

#define assert_ok(expression)                                                                                \
    do {                                                                                                     \
        LsStatus assert_status = (expression);                                                               \
        if (assert_status != LS_OK)                                                                          \
            fail_msg("%s: %s", #expression, ls_status_message());                                            \
    } while (0)

#define assert_fails(expression, expected, part)                                                             \
    do {                                                                                                     \
        LsStatus assert_status = (expression);                                                               \
        if (assert_status != (expected) || strstr(ls_status_message(), (part)) == NULL)                      \
            fail_msg("%s: status %d, \"%s\"; expected %d and \"%s\"", #expression, (int)assert_status,       \
                ls_status_message(), (int)(expected), (part));                                               \
    } while (0)

typedef struct Example {
    LsColumnType type;
    bool classes;
    bool compress;
    size_t shape[4];
    int dimensions;
    size_t outputs;
    size_t samples[LS_SPLITS];
} Example;

static char directory[64];

// Makes the test's directory; for cmocka's group set-up.
static inline int make_directory(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/lockstep-test-XXXXXX");
    return mkdtemp(directory) == NULL ? -1 : 0;
}

static inline int remove_directory(void **state)
{
    (void)state;
    return ls_directory_remove(directory) == LS_OK ? 0 : -1;
}

// A path in the test's directory; valid until 64 calls later.
static inline const char *in_directory(const char *name)
{
    static char paths[64][256];
    static int next;
    char *path = paths[next++ % 64];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static inline size_t files_in_directory(void)
{
    size_t count = 0;
    DIR *handle = opendir(directory);
    for (struct dirent *entry; (entry = readdir(handle)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(handle);
    return count;
}

static inline size_t example_features(const Example *e)
{
    size_t features = 1;
    for (int i = 0; i < e->dimensions; i++)
        features *= e->shape[i];
    return features;
}

static inline size_t example_x_bytes(const Example *e)
{
    return example_features(e) * (e->type == LS_COLUMN_U8 ? 1 : sizeof(float));
}

static inline size_t example_y_bytes(const Example *e)
{
    return e->classes ? sizeof(int32_t) : e->outputs * sizeof(float);
}

// The row that belongs at `sample` of a split.
static inline void example_row(const Example *e, LsSplit split, uint64_t sample, void *x, void *y)
{
    for (size_t i = 0; i < example_features(e); i++) {
        if (e->type == LS_COLUMN_U8)
            ((uint8_t *)x)[i] = (uint8_t)(sample * 31 + i * 7 + split * 101 + (sample >> 8));
        else
            ((float *)x)[i] = (float)sample * 0.5f + (float)i * 0.001f - (float)split;
    }
    for (size_t i = 0; i < e->outputs && !e->classes; i++)
        ((float *)y)[i] = (float)sample - (float)i;
    if (e->classes)
        *(int32_t *)y = (int32_t)((sample + split) % e->outputs);
}

// What an importer would give.
static inline json_t *example_schema(const Example *e)
{
    json_t *schema = json_pack("{s:s, s:b, s:[f], s:[f], s:{s:s, s:[], s:{}}}", "kind", "example", "uniform",
        1, "shift", 0.5, "scale", 2.0, "import", "key", "none", "inputs", "options");
    json_t *names = json_array();
    for (size_t i = 0; i < e->outputs; i++)
        json_array_append_new(names, json_sprintf("class-%zu", i));
    if (e->classes)
        json_object_set(schema, "classes", names);
    json_decref(names);
    return schema;
}

static inline LsStatus write_rows(const Example *e, LsWriter *writer)
{
    uint8_t *x = malloc(example_x_bytes(e)), *y = malloc(example_y_bytes(e));
    LsStatus status = LS_OK;
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        for (size_t row = 0; status == LS_OK && row < e->samples[split]; row++) {
            example_row(e, split, row, x, y);
            status = ls_writer_append(writer, split, x, y, 1);
        }
    free(x);
    free(y);
    return status;
}

static inline LsWriterShape example_writer_shape(const Example *e)
{
    LsWriterShape shape = {.feature_type = e->type,
        .feature_dimensions = e->dimensions,
        .classes = e->classes,
        .outputs = e->outputs,
        .compress = e->compress};
    memcpy(shape.feature_shape, e->shape, sizeof shape.feature_shape);
    memcpy(shape.samples, e->samples, sizeof shape.samples);
    return shape;
}

static inline LsStatus write_example(const Example *e, const char *path)
{
    LsWriterShape shape = example_writer_shape(e);
    LsWriter *writer = NULL;
    LS_TRY(ls_writer_begin(path, &shape, &writer));
    LsStatus status = write_rows(e, writer);
    json_t *schema = example_schema(e);
    if (status == LS_OK)
        status = ls_writer_commit(writer, schema);
    json_decref(schema);
    ls_writer_destroy(writer);
    return status;
}

static inline LsStatus verify_file(const char *path)
{
    LsDataset *dataset = NULL;
    LS_TRY(ls_dataset_open(path, &dataset));
    LsStatus status = ls_dataset_verify(dataset);
    ls_dataset_close(dataset);
    return status;
}

// Reads every sample of a split, a few at a time, forwards (neighbours are read together) or backwards (they
// are not), and compares all bits.
static inline LsStatus compare_split(
    const Example *e, LsReader *reader, LsSplit split, bool forwards, bool *same)
{
    enum { AT_ONCE = 7 };
    size_t x_bytes = example_x_bytes(e), y_bytes = example_y_bytes(e), total = e->samples[split];
    uint8_t *x = malloc(AT_ONCE * x_bytes), *y = malloc(AT_ONCE * y_bytes);
    uint8_t *expected_x = malloc(x_bytes), *expected_y = malloc(y_bytes);
    LsStatus status = LS_OK;
    for (size_t done = 0, count; status == LS_OK && done < total; done += count) {
        uint64_t samples[AT_ONCE];
        count = total - done < AT_ONCE ? total - done : AT_ONCE;
        for (size_t i = 0; i < count; i++)
            samples[i] = forwards ? done + i : total - 1 - done - i;
        status = ls_reader_read(reader, samples, count, x, y);
        for (size_t i = 0; status == LS_OK && i < count; i++) {
            example_row(e, split, samples[i], expected_x, expected_y);
            *same = *same && memcmp(expected_x, x + i * x_bytes, x_bytes) == 0 &&
                    memcmp(expected_y, y + i * y_bytes, y_bytes) == 0;
        }
    }
    free(x);
    free(y);
    free(expected_x);
    free(expected_y);
    return status;
}

// Compares every row of every split. Returns the reader's status.
static inline LsStatus compare_example(const Example *e, const LsDataset *dataset, bool *same)
{
    *same = true;
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        if (e->samples[split] == 0)
            continue;
        LsReader *reader = NULL;
        LS_TRY(ls_reader_create(dataset, split, &reader));
        LsStatus status = compare_split(e, reader, split, false, same);
        if (status == LS_OK)
            status = compare_split(e, reader, split, true, same);
        ls_reader_destroy(reader);
        LS_TRY(status);
    }
    return LS_OK;
}

#endif
