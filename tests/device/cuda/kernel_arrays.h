// Arrays for tests that call kernels directly: numbers on the host, and their copy on the device between
// guards.
#ifndef LOCKSTEP_TESTS_KERNEL_ARRAYS_H
#define LOCKSTEP_TESTS_KERNEL_ARRAYS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels.h"
#include "ref/ref.h"

// Of the random numbers: $KERNEL_SEED, or a fresh one, which is printed.
extern uint64_t seed;

size_t draw(size_t bound); // the next random number below `bound`
LsDtype draw_type(void);

typedef struct Array {
    LsDtype type;
    size_t count, bytes, shift;
    void *host;   // inputs, and what the reference makes of them
    char *base;   // device
    void *device; // `shift` bytes and a guard behind base
    void *result; // host, after fetch
} Array;

// Random numbers in [-4, 4), bytes and labels 0 or 1, at a random distance from their alignment.
Array *array_of(LsDtype type, size_t count);
// Moves it to that many elements behind an alignment of 16 bytes, below 16 bytes in all.
void shift_array(Array *a, size_t elements);
void send(Array *a);               // host to device, again
void fetch(Array *a);              // device to `result`; checks that nothing beside the array was written
int release_arrays(void **unused); // all of them: a test's teardown
void *allocate(size_t bytes);      // host memory
void store(void *array, LsDtype type, size_t i, float value);
float host_number(const Array *a, size_t i);
float result_number(const Array *a, size_t i);

// F32 numbers that are so many that the threads of the whole GPU have several groups each.
size_t elements_that_fill_gpu(void);

// Half a unit in the last place of BF16's 8 or F16's 11 bits; F32 has none beyond its own.
double rounding(LsDtype type, double value);

// The kernel wrote the bits that the reference left in a->host; one NaN is as good as another.
void expect_bits(const char *what, Array *a);
void expect_near(const char *what, double got, double wanted, double allowed);

#define REQUIRE(call) require((call), #call, __LINE__)
void require(cudaError_t error, const char *call, int line);
void require_ref(LsStatus status);

// Runs the tests; 77 where there is no GPU.
#define RUN_ON_GPU(tests) (begin_on_gpu() ? cmocka_run_group_tests(tests, NULL, NULL) : 77)
bool begin_on_gpu(void);

#endif
