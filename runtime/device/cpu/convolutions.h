// The cpu device's convolutions, in any type.
#ifndef LOCKSTEP_DEVICE_CPU_CONVOLUTIONS_H
#define LOCKSTEP_DEVICE_CPU_CONVOLUTIONS_H

#include "products.h"

LsStatus ls_cpu_convolution(LsCpuMultiplier *multiplier, const LsConvolution *args);
LsStatus ls_cpu_convolution_backward_data(LsCpuMultiplier *multiplier, const LsConvolutionBackwardData *args);
LsStatus ls_cpu_convolution_backward_weights(
    LsCpuMultiplier *multiplier, const LsConvolutionBackwardWeights *args);

#endif
