#include "kernel_arrays.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { GUARD = 64, GUARD_BYTE = 0xA5 };

uint64_t seed;
static uint64_t drawn;

// The next random number below `bound`.
size_t draw(size_t bound)
{
    return (size_t)ls_rng_below(ls_rng_key(seed, 1), 0, drawn++, bound);
}

static float draw_float(void)
{
    return 8.0f * ls_rng_uniform(ls_rng_key(seed, 2), 0, drawn++) - 4.0f;
}

LsDtype draw_type(void)
{
    static const LsDtype types[] = {LS_F32, LS_BF16, LS_F16};
    return types[draw(3)];
}

void require(cudaError_t error, const char *call, int line)
{
    if (error != cudaSuccess)
        fail_msg(
            "seed %llu, line %d: %s: %s", (unsigned long long)seed, line, call, cudaGetErrorString(error));
}

void require_ref(LsStatus status)
{
    if (status != LS_OK)
        fail_msg("seed %llu: %s", (unsigned long long)seed, ls_status_message());
}

enum { ARRAYS = 1600 };
static Array *arrays[ARRAYS];
static size_t array_count;

void *allocate(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    assert_non_null(memory);
    return memory;
}

void store(void *array, LsDtype type, size_t i, float value)
{
    if (type == LS_I32)
        ((int32_t *)array)[i] = (int32_t)value;
    else if (type == LS_U8)
        ((uint8_t *)array)[i] = (uint8_t)value;
    else
        ls_ref_store(array, type, i, value);
}

// Copies the host's numbers to the device, at a random distance from their alignment.
void send(Array *a)
{
    size_t span = GUARD + a->shift + a->bytes + GUARD;
    char *image = allocate(span);
    memset(image, GUARD_BYTE, span);
    memcpy(image + GUARD + a->shift, a->host, a->bytes);
    REQUIRE(cudaMemcpy(a->base, image, span, cudaMemcpyHostToDevice));
    free(image);
}

Array *array_of(LsDtype type, size_t count)
{
    assert_true(array_count < ARRAYS);
    Array *a = allocate(sizeof *a);
    size_t element = ls_dtype_size(type);
    *a = (Array){.type = type, .count = count, .bytes = count * element};
    a->shift = draw(2) ? draw(16 / element) * element : 0;
    a->host = allocate(a->bytes);
    a->result = allocate(a->bytes);
    for (size_t i = 0; i < count; i++)
        store(a->host, type, i, type == LS_U8 || type == LS_I32 ? (float)draw(2) : draw_float());
    void *base;
    REQUIRE(cudaMalloc(&base, GUARD + 16 + a->bytes + GUARD)); // wherever it is shifted
    a->base = base;
    a->device = a->base + GUARD + a->shift;
    send(a);
    arrays[array_count++] = a;
    return a;
}

// Waits, and checks that nothing beside the array was written.
void fetch(Array *a)
{
    size_t span = GUARD + a->shift + a->bytes + GUARD, first = GUARD + a->shift;
    unsigned char *image = allocate(span);
    REQUIRE(cudaDeviceSynchronize());
    REQUIRE(cudaMemcpy(image, a->base, span, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < span; i++)
        if ((i < first || i >= first + a->bytes) && image[i] != GUARD_BYTE)
            fail_msg("seed %llu: written %td bytes from the start of %zu", (unsigned long long)seed,
                (ptrdiff_t)i - (ptrdiff_t)first, a->bytes);
    memcpy(a->result, image + first, a->bytes);
    free(image);
}

int release_arrays(void **unused)
{
    (void)unused;
    while (array_count > 0) {
        Array *a = arrays[--array_count];
        cudaFree(a->base);
        free(a->host);
        free(a->result);
        free(a);
    }
    return 0;
}

float host_number(const Array *a, size_t i)
{
    return ls_ref_load(a->host, a->type, i);
}

float result_number(const Array *a, size_t i)
{
    return ls_ref_load(a->result, a->type, i);
}

// What the kernel wrote has the bits that the reference left in a->host; one NaN is as good as another.
void expect_bits(const char *what, Array *a)
{
    fetch(a);
    size_t element = ls_dtype_size(a->type);
    for (size_t i = 0; i < a->count; i++) {
        bool same = memcmp((char *)a->result + i * element, (char *)a->host + i * element, element) == 0;
        if (!same && !(isnan(host_number(a, i)) && isnan(result_number(a, i))))
            fail_msg("seed %llu: %s[%zu] of %zu is %.9g, reference %.9g", (unsigned long long)seed, what, i,
                a->count, (double)result_number(a, i), (double)host_number(a, i));
    }
}

// Half a unit in the last place of the type's 8 or 11 bits, beyond that of F32.
double rounding(LsDtype type, double value)
{
    return type == LS_BF16 ? fabs(value) * 0x1p-8 : type == LS_F16 ? fabs(value) * 0x1p-11 + 0x1p-25 : 0;
}

void expect_near(const char *what, double got, double wanted, double allowed)
{
    if (isnan(wanted) ? !isnan(got) : !(fabs(got - wanted) <= allowed))
        fail_msg("seed %llu: %s is %.9g, wanted %.9g within %.3g", (unsigned long long)seed, what, got,
            wanted, allowed);
}

void shift_array(Array *a, size_t elements)
{
    a->shift = elements * ls_dtype_size(a->type);
    a->device = a->base + GUARD + a->shift;
    send(a);
}

size_t elements_that_fill_gpu(void)
{
    int device = 0, count = 0;
    REQUIRE(cudaGetDevice(&device));
    REQUIRE(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    return (size_t)count * 2048 * 4 * 2; // threads, elements of 16 bytes, and twice that
}

bool begin_on_gpu(void)
{
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("no GPU: skipped\n");
        return false;
    }
    const char *given = getenv("KERNEL_SEED");
    if (given)
        seed = strtoull(given, NULL, 10);
    else if (getrandom(&seed, 6, 0) != 6)
        abort();
    printf("KERNEL_SEED=%llu\n", (unsigned long long)seed);
    return true;
}
