// Our own loops of the cpu backend. The files of this folder are compiled once for each instruction set;
// which of the tables runs is decided when the device is opened.
//
// Both give the same bits: element loops use only exactly rounded operations and explicit fused
// multiply-adds, contraction is off, and sums run over a fixed number of lanes that does not depend on the
// width of a register.
#ifndef LOCKSTEP_DEVICE_CPU_LOOPS_H
#define LOCKSTEP_DEVICE_CPU_LOOPS_H

#include "../../backend.h"

// Elements that tree_add works on at a time: with eight inputs they stay in the first-level cache.
enum { LS_TREE_TILE = 512 };
typedef float LsTreeScratch[LS_TREE_INPUTS][LS_TREE_TILE];

typedef struct LsCpuLoops {
    LsStatus (*cast)(LsDevice *device, const LsCast *args);
    LsStatus (*normalize)(LsDevice *device, const LsNormalize *args);
    LsStatus (*bias_gradient)(LsDevice *device, const LsBiasGradient *args);
    LsStatus (*activation_backward)(LsDevice *device, const LsActivationBackward *args);
    LsStatus (*dropout)(LsDevice *device, const LsDropout *args);
    LsStatus (*add)(LsDevice *device, const LsAdd *args);
    LsStatus (*cross_entropy)(LsDevice *device, const LsLossArgs *args);
    LsStatus (*binary_cross_entropy)(LsDevice *device, const LsLossArgs *args);
    LsStatus (*mean_squared_error)(LsDevice *device, const LsLossArgs *args);
    LsStatus (*sum)(LsDevice *device, const LsSum *args);
    LsStatus (*block_squares)(LsDevice *device, const LsBlockSquares *args);
    LsStatus (*optimizer_step)(LsDevice *device, const LsOptimizerStep *args);

    // y = activation(x), n elements of `type`. y may be x.
    void (*activate)(LsActivation activation, size_t n, const void *x, void *y, LsDtype type);
    LsStatus (*tree_add)(const LsTreeAdd *args, LsTreeScratch scratch);
} LsCpuLoops;

// LS_OK for F32 and BF16, the types that there are loops for, else LS_UNSUPPORTED naming the op.
LsStatus ls_cpu_require_type(const char *op, LsDtype type);

extern const LsCpuLoops ls_cpu_loops_avx2, ls_cpu_loops_avx512;

#endif
