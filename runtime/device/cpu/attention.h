// Attention in blocks of queries and keys: products by oneDNN, what is between them by our own loops.
#ifndef LOCKSTEP_DEVICE_CPU_ATTENTION_H
#define LOCKSTEP_DEVICE_CPU_ATTENTION_H

#include "products.h"

LsStatus ls_cpu_attention(LsCpuMultiplier *multiplier, LsCpuMemory *memory, const LsAttention *args);
LsStatus ls_cpu_attention_backward(
    LsCpuMultiplier *multiplier, LsCpuMemory *memory, const LsAttentionBackward *args);

#endif
