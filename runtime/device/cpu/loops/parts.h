// The loops of one instruction set, for the table that names them.
#ifndef LOCKSTEP_DEVICE_CPU_PARTS_H
#define LOCKSTEP_DEVICE_CPU_PARTS_H

#include "lanes.h"

LsStatus LOOPS(cast)(LsDevice *device, const LsCast *args);
LsStatus LOOPS(normalize)(LsDevice *device, const LsNormalize *args);
LsStatus LOOPS(bias_gradient)(LsDevice *device, const LsBiasGradient *args);
LsStatus LOOPS(activation_backward)(LsDevice *device, const LsActivationBackward *args);
LsStatus LOOPS(dropout)(LsDevice *device, const LsDropout *args);
LsStatus LOOPS(add)(LsDevice *device, const LsAdd *args);
LsStatus LOOPS(cross_entropy)(LsDevice *device, const LsLossArgs *args);
LsStatus LOOPS(binary_cross_entropy)(LsDevice *device, const LsLossArgs *args);
LsStatus LOOPS(mean_squared_error)(LsDevice *device, const LsLossArgs *args);
LsStatus LOOPS(sum)(LsDevice *device, const LsSum *args);
LsStatus LOOPS(block_squares)(LsDevice *device, const LsBlockSquares *args);
LsStatus LOOPS(optimizer_step)(LsDevice *device, const LsOptimizerStep *args);
void LOOPS(activate)(LsActivation activation, size_t n, const void *x, void *y, LsDtype type);
LsStatus LOOPS(tree_add)(const LsTreeAdd *args, LsTreeScratch scratch);

#endif
