// Host memory and sizes that come from files or users.
#ifndef LOCKSTEP_BASE_MEMORY_H
#define LOCKSTEP_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { LS_ALIGNMENT = 64 }; // of every buffer: a cache line, and what AVX-512 and AMX loads like

// Zeroed memory, aligned to LS_ALIGNMENT; free() releases it. LS_INTERNAL when there is none left.
LsStatus ls_memory_allocate(size_t bytes, void **out);

// a * b and a + b, false on overflow.
bool ls_size_multiply(size_t a, size_t b, size_t *out);
bool ls_size_add(size_t a, size_t b, size_t *out);

static inline size_t ls_round_up(size_t value, size_t unit)
{
    return (value + unit - 1) / unit * unit;
}

#endif
