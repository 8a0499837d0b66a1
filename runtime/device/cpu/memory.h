// Memory that grows to what the largest call needs; freed by whoever has the struct.
#ifndef LOCKSTEP_DEVICE_CPU_MEMORY_H
#define LOCKSTEP_DEVICE_CPU_MEMORY_H

#include <stddef.h>

#include "base/status.h"

typedef struct LsCpuMemory {
    char *memory;
    size_t bytes;
} LsCpuMemory;

// At least `bytes` at memory->memory, contents undefined.
LsStatus ls_cpu_memory_grow(LsCpuMemory *memory, size_t bytes);

#endif
