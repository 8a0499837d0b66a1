// ReLU and GELU, forward and backward.
//
// GELU's tanh form is x (1 + tanh(u)) / 2 = x sigmoid(2u), so one exponential serves the value and the
// derivative.
#include "lanes.h"
#include "parts.h"

static const float TWICE_SCALE = 1.5957691216057308f; // 2 sqrt(2 / pi)
static const float CUBIC = 0.044715f;

// sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
ALWAYS_INLINE float gelu_gate(float x)
{
    float inner = x * __builtin_fmaf(CUBIC * x, x, 1.0f);
    return 1.0f / (1.0f + exponential(-TWICE_SCALE * inner));
}

ALWAYS_INLINE float activate_one(LsActivation activation, float x)
{
    if (activation == LS_RELU)
        return x < 0.0f ? 0.0f : x;
    return x * gelu_gate(x);
}

ALWAYS_INLINE void activate(LsActivation activation, size_t n, const void *x, void *y, LsDtype type)
{
    ELEMENTWISE
    for (size_t i = 0; i < n; i++)
        store(y, type, i, activate_one(activation, load(x, type, i)));
}

void LOOPS(activate)(LsActivation activation, size_t n, const void *x, void *y, LsDtype type)
{
    if (activation == LS_IDENTITY)
        memmove(y, x, n * ls_dtype_size(type));
    else if (activation == LS_RELU && type == LS_F32)
        activate(LS_RELU, n, x, y, LS_F32);
    else if (activation == LS_RELU)
        activate(LS_RELU, n, x, y, LS_BF16);
    else if (type == LS_F32)
        activate(LS_GELU, n, x, y, LS_F32);
    else
        activate(LS_GELU, n, x, y, LS_BF16);
}

ALWAYS_INLINE float gelu_derivative(float saved)
{
    // Beyond 32 the derivative is exactly 0 or 1 in float; the bound keeps the square finite.
    float x = saved < -32.0f ? -32.0f : saved;
    x = x > 32.0f ? 32.0f : x;
    float gate = gelu_gate(x);
    float slope = TWICE_SCALE * __builtin_fmaf(3.0f * CUBIC * x, x, 1.0f); // of 2u
    return __builtin_fmaf(x * gate * (1.0f - gate), slope, gate);
}

ALWAYS_INLINE void gelu_backward(const LsActivationBackward *args, LsDtype type)
{
    ELEMENTWISE
    for (size_t i = 0; i < args->n; i++)
        store(args->dx, type, i, load(args->dy, type, i) * gelu_derivative(load(args->saved, type, i)));
}

// ReLU's backward pass selects and never multiplies: 0 × infinity would make a NaN.
ALWAYS_INLINE void relu_backward(const LsActivationBackward *args, LsDtype type)
{
    ELEMENTWISE
    for (size_t i = 0; i < args->n; i++) {
        float dy = load(args->dy, type, i);
        store(args->dx, type, i, load(args->saved, type, i) <= 0.0f ? 0.0f : dy);
    }
}

LsStatus LOOPS(activation_backward)(LsDevice *device, const LsActivationBackward *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("activation_backward", args->type));
    if (args->activation == LS_IDENTITY)
        memmove(args->dx, args->dy, args->n * ls_dtype_size(args->type));
    else if (args->activation == LS_RELU && args->type == LS_F32)
        relu_backward(args, LS_F32);
    else if (args->activation == LS_RELU)
        relu_backward(args, LS_BF16);
    else if (args->type == LS_F32)
        gelu_backward(args, LS_F32);
    else
        gelu_backward(args, LS_BF16);
    return LS_OK;
}
