// What the test programs of the cuda device share: the device, numbers on it, and products of fixed numbers.
#ifndef LOCKSTEP_TESTS_CUDA_FIXTURE_H
#define LOCKSTEP_TESTS_CUDA_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device/device.h"

enum { SKIPPED = 77 };

extern LsDevice *device; // of the test that runs
extern bool emulated;

#define REQUIRE(call) require((call), #call, __LINE__)
void require(LsStatus status, const char *call, int line);

LsStatus open_cuda(LsPrecision precision, LsDevice **out);

// Finds out whether the GPU is emulated and whether there is one: false, with the reason printed, if not.
bool find_cuda(void);

// Set-up and tear-down of a test.
int open_device(void **unused);
int close_device(void **unused);

// A failure is one line that says this.
void assert_said(const char *part);

// Device memory with the host's bytes in it; undefined bytes where host is NULL.
void *on_device(LsDevice *on, const void *host, size_t bytes);
void read_back(LsDevice *on, void *host, const void *memory, size_t bytes);

// Numbers of both signs with full mantissas, the same for the same seed.
void fill(float *numbers, size_t count, uint32_t seed);

// Numbers in another type, and their bytes.
size_t packed(uint16_t *to, const float *from, size_t count, LsDtype type);
float number_at(const void *values, LsDtype type, size_t i);
void *numbers_on_device(LsDevice *on, size_t count, uint32_t seed, LsDtype type);

enum { MOST = 512 }; // the largest dimension here

typedef struct Product {
    size_t m, n, k;
    LsDtype type, output;
    bool bias, keep, accumulate;
    LsActivation activation, backward;
} Product;

// Runs a product of fixed numbers and returns c, for the caller to free.
void *run_product(LsDevice *on, const Product *p);
bool same_bits(const Product *p, const void *one, const void *other);

#endif
