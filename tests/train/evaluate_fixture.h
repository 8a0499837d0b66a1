// Data sets imported from small CSV files, and a linear model on them, for the tests of evaluation.
#ifndef LOCKSTEP_TESTS_EVALUATE_FIXTURE_H
#define LOCKSTEP_TESTS_EVALUATE_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "data/import.h"
#include "train/batch.h"
#include "train/evaluate.h"

#define assert_ok(expression)                                                                                \
    do {                                                                                                     \
        if ((expression) != LS_OK)                                                                           \
            fail_msg("%s: %s", #expression, ls_status_message());                                            \
    } while (0)

enum { FEATURES = 3, ROWS = 120 };

// Labels are classes (classes > 0) or numbers. A third of the rows is of class 0, the others are dealt
// evenly.
static inline void write_csv(const char *path, size_t classes)
{
    FILE *file = fopen(path, "w");
    LsRngKey key = ls_rng_key(5, 99);
    assert_non_null(file);
    fprintf(file, "a,b,c,y\n");
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t f = 0; f < FEATURES; f++)
            fprintf(file, "%.5f,", 10 * (double)f + (double)(f + 1) * (double)ls_rng_normal(key, r, f));
        if (classes)
            fprintf(file, "k%zu\n", r % 3 == 0 ? 0 : r % classes);
        else
            fprintf(file, "%.5f\n", (double)ls_rng_normal(key, r, FEATURES));
    }
    assert_int_equal(fclose(file), 0);
}

// Half of the rows are the test split; there is no validation split.
static inline LsDataset *import_dataset(const char *directory, size_t classes)
{
    char csv[LS_PATH_MAX], h5[LS_PATH_MAX];
    assert_ok(ls_path_join(csv, directory, "rows.csv"));
    assert_ok(ls_path_join(h5, directory, "rows.h5"));
    write_csv(csv, classes);
    LsImportOptions options;
    ls_import_defaults(&options);
    options.output = h5;
    options.validation = 0;
    options.test = 0.5;
    options.label = "y";
    options.regression = classes == 0;
    options.numeric = "a,b,c";
    options.force = true;
    const char *input = csv;
    bool unchanged;
    LsDataset *dataset;
    assert_ok(ls_import_csv(&input, 1, &options, &unchanged));
    assert_ok(ls_dataset_open(h5, &dataset));
    return dataset;
}

// A linear model with random weights, on a device, for the data set.
typedef struct Scene {
    LsDataset *dataset;
    LsDevice *device;
    LsModel *model;
    float *flat; // its weights
    void *weights;
} Scene;

static inline void open_scene(Scene *s, const char *directory, size_t classes, int loss, LsDevice *device)
{
    LsConfig config;
    LsDataShape shape;
    ls_config_defaults(&config);
    config.model.hidden.count = 0;
    config.train.loss = loss;
    *s = (Scene){.dataset = import_dataset(directory, classes), .device = device};
    assert_ok(ls_data_shape(&config, ls_dataset_info(s->dataset), &shape));
    assert_ok(ls_model_create(&config, &shape, device, 64, &s->model));
    size_t elements = s->model->parameters.blocks * LS_BLOCK;
    s->flat = calloc(elements, sizeof *s->flat);
    assert_non_null(s->flat);
    ls_parameters_initialize(&s->model->parameters, 3, 0, elements, s->flat);
    assert_ok(device->ops->allocate(device, elements * sizeof *s->flat, &s->weights));
    assert_ok(device->ops->copy_in(device, s->weights, s->flat, elements * sizeof *s->flat));
    assert_ok(device->ops->synchronize(device));
}

static inline void close_scene(Scene *s)
{
    s->device->ops->release(s->device, s->weights);
    free(s->flat);
    ls_model_destroy(s->model);
    ls_device_close(s->device);
    ls_dataset_close(s->dataset);
}

#endif
