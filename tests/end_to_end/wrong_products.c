// For LD_PRELOAD: on one rank some of oneDNN's products are wrong by one bit, or slow, or fail, as with a
// processor that does.
//
//   WRONG_RANK          the rank; without MPI it is 0
//   WRONG_PRODUCTS=A-B  products A to B of the rank's steps, the first one is 0, have a wrong bit
//   WRONG_FAILURE=N     product N fails
//   WRONG_SLEEP=N       every product of a step takes N microseconds more
//
// Before its first step a rank measures its processor with as many products as time allows. They are larger
// than those of a test's model, and do not count.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE // RTLD_NEXT
#endif
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <dnnl.h>

typedef dnnl_status_t Execute(const_dnnl_primitive_t, dnnl_stream_t, int, const dnnl_exec_arg_t *);
typedef dnnl_status_t Handle(const_dnnl_memory_t, void **);
typedef dnnl_status_t Describe(const_dnnl_memory_t, const void **);
typedef size_t Size(const void *);

enum { MEASURED_BYTES = 32768 }; // the least result of a product that measures

static bool is_the_rank(void)
{
    const char *wanted = getenv("WRONG_RANK"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    return wanted && strcmp(rank ? rank : "0", wanted) == 0;
}

static bool is_wrong(long long product)
{
    const char *range = getenv("WRONG_PRODUCTS");
    long long first = 0, last = -1;
    return range && sscanf(range, "%lld-%lld", &first, &last) == 2 && first <= product && product <= last;
}

static bool measures(const dnnl_exec_arg_t *argument, int count)
{
    void *describe_symbol = dlsym(RTLD_NEXT, "dnnl_memory_get_memory_desc");
    void *size_symbol = dlsym(RTLD_NEXT, "dnnl_memory_desc_get_size");
    const void *description = NULL;
    Describe *describe;
    Size *size;
    memcpy(&describe, &describe_symbol, sizeof describe);
    memcpy(&size, &size_symbol, sizeof size);
    for (int i = 0; i < count; i++)
        if (argument[i].arg == DNNL_ARG_DST && describe(argument[i].memory, &description) == dnnl_success)
            return size(description) >= MEASURED_BYTES;
    return false;
}

// In the first number of the result: a bit of a float's fraction, of a bfloat16's too.
static void flip(const dnnl_exec_arg_t *argument, int count)
{
    void *symbol = dlsym(RTLD_NEXT, "dnnl_memory_get_data_handle"), *data = NULL;
    Handle *get_handle;
    memcpy(&get_handle, &symbol, sizeof get_handle);
    for (int i = 0; i < count; i++)
        if (argument[i].arg == DNNL_ARG_DST && get_handle(argument[i].memory, &data) == dnnl_success)
            ((unsigned char *)data)[sizeof(float) - 2] ^= 0x10;
}

__attribute__((visibility("default"))) dnnl_status_t dnnl_primitive_execute(
    const_dnnl_primitive_t primitive, dnnl_stream_t stream, int count, const dnnl_exec_arg_t *argument)
{
    static long long products;
    static Execute *execute;
    if (!execute) {
        void *symbol = dlsym(RTLD_NEXT, "dnnl_primitive_execute");
        memcpy(&execute, &symbol, sizeof execute);
    }
    dnnl_status_t status = execute(primitive, stream, count, argument);
    if (!is_the_rank() || measures(argument, count))
        return status;
    long long product = products++;
    const char *failure = getenv("WRONG_FAILURE");
    if (failure && product == atoll(failure))
        return dnnl_runtime_error;
    if (is_wrong(product))
        flip(argument, count);
    if (getenv("WRONG_SLEEP"))
        usleep((useconds_t)atoi(getenv("WRONG_SLEEP")));
    return status;
}
