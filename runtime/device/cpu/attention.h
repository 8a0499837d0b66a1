// Attention in blocks of queries and keys: products by oneDNN, what is between them by our own loops.
#ifndef LOCKSTEP_DEVICE_CPU_ATTENTION_H
#define LOCKSTEP_DEVICE_CPU_ATTENTION_H

#include "loops/loops.h"
#include "onednn.h"

// Memory that grows to what the largest call needs; freed by whoever has the struct.
typedef struct LsCpuMemory {
    char *memory;
    size_t bytes;
} LsCpuMemory;

LsStatus ls_cpu_attention(
    LsOnednn *onednn, const LsCpuLoops *loops, LsCpuMemory *memory, const LsAttention *args);
LsStatus ls_cpu_attention_backward(
    LsOnednn *onednn, const LsCpuLoops *loops, LsCpuMemory *memory, const LsAttentionBackward *args);

#endif
