// ReLU and GELU, forward and backward, in F32. NaN passes through: ReLU selects by comparison, which NaN
// fails, and never multiplies, since 0 × infinity would make one.
//
// GELU's tanh form is x (1 + tanh(u)) / 2 = x sigmoid(2u), so one exponential serves the value and the
// derivative. Powers of two serve for those of e: the argument's extra rounding moves a sigmoid s of z by at
// most |z| s (1 - s) units of 2^-24, less than a quarter of one.
#ifndef LOCKSTEP_DEVICE_CUDA_ACTIVATION_CUH
#define LOCKSTEP_DEVICE_CUDA_ACTIVATION_CUH

#include "common.cuh"

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float GELU_TWICE_SCALE = 1.5957691216057308f; // 2 sqrt(2 / pi)
constexpr float GELU_CUBIC = 0.044715f;

// 1 / (1 + 2^x), within 2 units in the last place of what the power makes it; 0 where that overflows.
__device__ __forceinline__ float logistic(float x)
{
    return __fdividef(1.0f, 1.0f + exp2f(x));
}

__device__ __forceinline__ float sigmoid(float x)
{
    return logistic(-LOG2_E * x);
}

// sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
__device__ __forceinline__ float gelu_gate(float x)
{
    return logistic(-LOG2_E * GELU_TWICE_SCALE * x * fmaf(GELU_CUBIC * x, x, 1.0f));
}

// Below -64 the value is smaller than any that is added to it; the bound keeps it so down to -infinity.
__device__ __forceinline__ float gelu(float x)
{
    float bounded = x < -64.0f ? -64.0f : x;
    return bounded * gelu_gate(x);
}

__device__ __forceinline__ float gelu_derivative(float saved)
{
    // Beyond 32 the derivative is exactly 0 or 1 in F32; the bound keeps the square finite.
    float x = saved < -32.0f ? -32.0f : saved;
    x = x > 32.0f ? 32.0f : x;
    float gate = gelu_gate(x);
    float slope = GELU_TWICE_SCALE * fmaf(3.0f * GELU_CUBIC * x, x, 1.0f); // of 2u
    return fmaf(x * gate * (1.0f - gate), slope, gate);
}

template <LsActivation ACTIVATION> __device__ __forceinline__ float activate(float x)
{
    if (ACTIVATION == LS_RELU)
        return x < 0.0f ? 0.0f : x;
    return ACTIVATION == LS_GELU ? gelu(x) : x;
}

template <LsActivation ACTIVATION> __device__ __forceinline__ float activate_backward(float saved, float dy)
{
    if (ACTIVATION == LS_RELU)
        return saved <= 0.0f ? 0.0f : dy;
    return ACTIVATION == LS_GELU ? dy * gelu_derivative(saved) : dy;
}

#endif
