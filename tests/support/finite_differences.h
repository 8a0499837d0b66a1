// Gradients of ops against finite differences of float64 functions, on the devices of a group.
//
// A central difference with step h = 2^-17 has a truncation error of h^2 f'''/6, about 1e-11 here, and a
// rounding error of 2^-53 |f| / h, about 1e-11 for |f| up to 10^4: both far below the float32 results.
#ifndef LOCKSTEP_TESTS_FINITE_DIFFERENCES_H
#define LOCKSTEP_TESTS_FINITE_DIFFERENCES_H

#include "device_group.h"

#include <math.h>
#include <string.h>

enum { MOST_INPUTS = 1024 }; // of a function
static const double STEP = 0x1p-17;

static inline void random_numbers(float *x, size_t n, uint32_t purpose)
{
    LsRngKey key = ls_rng_key(5, purpose);
    for (size_t i = 0; i < n; i++)
        x[i] = ls_rng_normal(key, 0, i);
}

// The derivative of f, a function of n numbers, in number i.
static inline double difference(double (*f)(const double *x), const float *at, size_t n, size_t i)
{
    double x[MOST_INPUTS];
    assert_true(n <= MOST_INPUTS);
    for (size_t j = 0; j < n; j++)
        x[j] = at[j];
    x[i] = at[i] + STEP;
    double above = f(x);
    x[i] = at[i] - STEP;
    return (above - f(x)) / (2 * STEP);
}

// `tolerance` is relative to 1, the size of the inputs and of the weights of the sum.
static inline void check_gradient(double (*f)(const double *x), const float *at, size_t n, size_t first,
    size_t count, const float *gradient, double tolerance, const char *device)
{
    for (size_t i = 0; i < count; i++) {
        double expected = difference(f, at, n, first + i);
        if (!(fabs(gradient[i] - expected) <= tolerance * (1 + fabs(expected))))
            fail_msg("%s: gradient %zu is %.9g, the difference is %.9g", device, i, gradient[i], expected);
    }
}

static inline void copy_in(LsDevice *device, void *to, const void *from, size_t bytes)
{
    assert_int_equal(device->ops->copy_in(device, to, from, bytes), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
}

static inline void copy_out(LsDevice *device, void *to, const void *from, size_t bytes)
{
    assert_int_equal(device->ops->copy_out(device, to, from, bytes), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
}

static inline float *allocate(LsDevice *device, size_t count)
{
    void *memory;
    assert_int_equal(device->ops->allocate(device, count * sizeof(float), &memory), LS_OK);
    return memory;
}

#endif
