#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

LsStatus ls_memory_allocate(size_t bytes, void **out)
{
    size_t padded;
    if (!ls_size_add(bytes, LS_ALIGNMENT - 1, &padded))
        return LS_FAIL(LS_INTERNAL, "cannot allocate %zu bytes: the size is too large", bytes);
    padded = bytes == 0 ? LS_ALIGNMENT : padded / LS_ALIGNMENT * LS_ALIGNMENT;
    void *memory = aligned_alloc(LS_ALIGNMENT, padded);
    if (memory == NULL)
        return LS_FAIL(LS_INTERNAL,
            "cannot allocate %zu bytes: out of memory; use a smaller model or batch, or more ranks", bytes);
    *out = memset(memory, 0, padded);
    return LS_OK;
}

bool ls_size_multiply(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

bool ls_size_add(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}
