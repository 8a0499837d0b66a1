// The cpu device's matrix products. FP16, which oneDNN 2 has no products in, is multiplied as FP32.
#ifndef LOCKSTEP_DEVICE_CPU_PRODUCTS_H
#define LOCKSTEP_DEVICE_CPU_PRODUCTS_H

#include "loops/loops.h"
#include "memory.h"
#include "onednn.h"

typedef struct LsCpuMultiplier {
    LsOnednn *onednn;
    const LsCpuLoops *loops;
    LsCpuMemory widened; // operands of FP16 products
    LsCpuMemory met;     // elements of images that windows of a stride meet
} LsCpuMultiplier;

// ls_onednn_matmul in any type: FP16 operands are widened, which is exact, and what is to be FP16 is rounded
// once, after bias, activation and what it is added to.
LsStatus ls_cpu_multiply(LsCpuMultiplier *multiplier, const LsMatmul *args);

#endif
