#include "cuda_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

LsDevice *device;
bool emulated;

void require(LsStatus status, const char *call, int line)
{
    if (status != LS_OK)
        fail_msg("line %d: %s: %s", line, call, ls_status_message());
}

LsStatus open_cuda(LsPrecision precision, LsDevice **out)
{
    const LsDeviceOptions options = {.kind = LS_DEVICE_CUDA, .precision = precision, .threads = 1};
    return ls_device_open(&options, out);
}

int open_device(void **unused)
{
    (void)unused;
    REQUIRE(open_cuda(LS_PRECISION_FP32, &device));
    return 0;
}

int close_device(void **unused)
{
    (void)unused;
    ls_device_close(device);
    device = NULL;
    return 0;
}

void assert_said(const char *part)
{
    if (!strstr(ls_status_message(), part))
        fail_msg("\"%s\" does not say \"%s\"", ls_status_message(), part);
    assert_null(strchr(ls_status_message(), '\n'));
}

void *on_device(LsDevice *on, const void *host, size_t bytes)
{
    void *memory;
    REQUIRE(on->ops->allocate(on, bytes, &memory));
    if (host)
        REQUIRE(on->ops->copy_in(on, memory, host, bytes));
    return memory;
}

void read_back(LsDevice *on, void *host, const void *memory, size_t bytes)
{
    REQUIRE(on->ops->copy_out(on, host, memory, bytes));
    REQUIRE(on->ops->synchronize(on));
}

void fill(float *numbers, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        numbers[i] = ldexpf((float)(int32_t)seed, -31);
    }
}

size_t packed(uint16_t *to, const float *from, size_t count, LsDtype type)
{
    for (size_t i = 0; i < count && type != LS_F32; i++)
        to[i] = type == LS_BF16 ? ls_f32_to_bf16(from[i]) : ls_f32_to_f16(from[i]);
    if (type == LS_F32)
        memcpy(to, from, count * sizeof(float));
    return count * ls_dtype_size(type);
}

float number_at(const void *values, LsDtype type, size_t i)
{
    if (type == LS_F32)
        return ((const float *)values)[i];
    uint16_t bits = ((const uint16_t *)values)[i];
    return type == LS_BF16 ? ls_bf16_to_f32(bits) : ls_f16_to_f32(bits);
}

void *numbers_on_device(LsDevice *on, size_t count, uint32_t seed, LsDtype type)
{
    float *numbers = malloc(count * sizeof *numbers);
    uint16_t *half = malloc(count * sizeof(float));
    assert_true(numbers && half);
    fill(numbers, count, seed);
    void *memory = on_device(on, half, 0);
    on->ops->release(on, memory);
    size_t bytes = packed(half, numbers, count, type);
    memory = on_device(on, half, bytes);
    free(numbers);
    free(half);
    return memory;
}

void *run_product(LsDevice *on, const Product *p)
{
    size_t size = ls_dtype_size(p->output), count = p->m * p->n;
    void *a = numbers_on_device(on, p->m * p->k, 1, p->type),
         *b = numbers_on_device(on, p->k * p->n, 2, p->type);
    void *bias = numbers_on_device(on, p->n, 3, p->type), *saved = numbers_on_device(on, count, 4, p->output);
    void *c = numbers_on_device(on, count, 5, p->output), *kept = on_device(on, NULL, count * size);
    LsMatmul args = {.m = p->m,
        .n = p->n,
        .k = p->k,
        .a = a,
        .b = b,
        .input_type = p->type,
        .c = c,
        .output_type = p->output,
        .accumulate = p->accumulate,
        .bias = p->bias ? bias : NULL,
        .activation = p->activation,
        .pre_activation = p->keep ? kept : NULL,
        .backward = p->backward,
        .saved = p->backward ? saved : NULL};
    REQUIRE(on->ops->matmul(on, &args));
    void *result = malloc(count * size);
    assert_non_null(result);
    read_back(on, result, c, count * size);
    void *all[] = {a, b, bias, saved, c, kept};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        on->ops->release(on, all[i]);
    return result;
}

bool same_bits(const Product *p, const void *one, const void *other)
{
    return memcmp(one, other, p->m * p->n * ls_dtype_size(p->output)) == 0;
}

bool find_cuda(void)
{
    char libraries[128];
    ls_device_gpu_libraries(libraries, sizeof libraries);
    emulated = strstr(libraries, "emulated") != NULL;
    if (open_cuda(LS_PRECISION_FP32, &device) != LS_OK) {
        printf("no cuda device: %s\n", ls_status_message());
        return false;
    }
    return close_device(NULL) == 0;
}
