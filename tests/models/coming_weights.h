// Weights that come while forward runs: a model names what it reads before it reads it.
#ifndef LOCKSTEP_TESTS_COMING_WEIGHTS_H
#define LOCKSTEP_TESTS_COMING_WEIGHTS_H

#include "fixture.h"

typedef struct Coming {
    Setup *s;
    const char *weights; // host, compute type
    size_t come;         // elements that are there
    int calls;
} Coming;

static inline LsStatus let_come(void *context, size_t end)
{
    Coming *coming = context;
    Setup *s = coming->s;
    size_t element = ls_dtype_size(ls_device_compute_type(s->device));
    assert_true(end >= coming->come && end <= s->elements);
    size_t from = coming->come * element;
    coming->come = end;
    coming->calls++;
    LS_TRY(s->device->ops->copy_in(
        s->device, (char *)s->weights + from, coming->weights + from, end * element - from));
    return s->device->ops->synchronize(s->device);
}

// Every weight is NaN until the model has asked for it. The gradients are those of whole weights, and it asks
// at least `stages` times.
static inline void check_coming_weights(Setup *s, int stages)
{
    size_t bytes = s->elements * ls_dtype_size(ls_device_compute_type(s->device));
    size_t size = s->elements * sizeof(float);
    char *weights = malloc(bytes), *nothing = malloc(bytes), *expected = malloc(size), *found = malloc(size);
    assert_true(weights && nothing && expected && found);
    download(s->device, weights, s->weights, bytes);
    compute(s, true, false);
    download(s->device, expected, s->gradients, size);

    memset(nothing, 0xff, bytes);
    assert_ok(s->device->ops->copy_in(s->device, s->weights, nothing, bytes));
    assert_ok(s->device->ops->synchronize(s->device));
    Coming coming = {.s = s, .weights = weights};
    s->model->need = let_come;
    s->model->need_context = &coming;
    compute(s, true, false);
    s->model->need = NULL;
    download(s->device, found, s->gradients, size);
    assert_memory_equal(found, expected, size);
    assert_int_equal(coming.come, s->elements);
    assert_true(coming.calls >= stages);
    free(found);
    free(expected);
    free(nothing);
    free(weights);
}

#endif
