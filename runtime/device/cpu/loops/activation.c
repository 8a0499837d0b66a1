// ReLU and GELU, forward and backward. Both let NaN through, so that it reaches what decides about the step;
// ReLU's backward pass selects and never multiplies, since 0 × infinity would make a NaN.
//
// GELU's tanh form is x (1 + tanh(u)) / 2 = x sigmoid(2u), so one exponential serves the value and the
// derivative.
#include "parts.h"
#include "vectors.h"

enum { BF16_MINUS_INFINITY = 0xff80, F16_MINUS_INFINITY = 0xfc00 };
static const float TWICE_SCALE = 1.5957691216057308f; // 2 sqrt(2 / pi)
static const float CUBIC = 0.044715f;

// sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
ALWAYS_INLINE FloatLanes gelu_gate(FloatLanes x)
{
    FloatLanes inner = x * fused_multiply_add(CUBIC * x, x, all_lanes(1));
    return sigmoid_lanes(TWICE_SCALE * inner);
}

// Below -64 the value is smaller than any that is added to it; the bound keeps it so for the largest numbers.
ALWAYS_INLINE FloatLanes gelu(FloatLanes x)
{
    return larger(all_lanes(-64), x) * gelu_gate(x);
}

ALWAYS_INLINE void gelu_forward(size_t n, const void *x, void *y, LsDtype type)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store_lanes(y, type, i, gelu(load_lanes(x, type, i)));
    if (i < n)
        store_some(y, type, i, n - i, gelu(load_some(x, type, i, n - i, 0)));
}

static void relu_forward_f32(size_t n, const float *x, float *y)
{
    ELEMENTWISE
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] < 0.0f ? 0.0f : x[i];
}

// On the bits as integers, which has twice the lanes: what has a sign and is not NaN becomes 0.
ALWAYS_INLINE void relu_forward_16(size_t n, const uint16_t *x, uint16_t *y, uint16_t minus_infinity)
{
    ELEMENTWISE
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] >= 0x8000u && x[i] <= minus_infinity ? 0 : x[i];
}

static void relu_backward_f32(size_t n, const float *saved, const float *dy, float *dx)
{
    ELEMENTWISE
    for (size_t i = 0; i < n; i++)
        dx[i] = saved[i] <= 0.0f ? 0.0f : dy[i];
}

// Saved outputs are zero, positive or NaN; a sign is taken for what it means all the same.
ALWAYS_INLINE void relu_backward_16(
    size_t n, const uint16_t *saved, const uint16_t *dy, uint16_t *dx, uint16_t minus_infinity)
{
    ELEMENTWISE
    for (size_t i = 0; i < n; i++)
        dx[i] = (uint16_t)(saved[i] - 1u) >= 0x7fffu && saved[i] <= minus_infinity ? 0 : dy[i];
}

void LOOPS(activate)(LsActivation activation, size_t n, const void *x, void *y, LsDtype type)
{
    if (activation == LS_IDENTITY)
        memmove(y, x, n * ls_dtype_size(type));
    else if (activation == LS_RELU && type == LS_F32)
        relu_forward_f32(n, x, y);
    else if (activation == LS_RELU && type == LS_BF16)
        relu_forward_16(n, x, y, BF16_MINUS_INFINITY);
    else if (activation == LS_RELU)
        relu_forward_16(n, x, y, F16_MINUS_INFINITY);
    else
        WITH_TYPE(type, gelu_forward(n, x, y, TYPE));
}

ALWAYS_INLINE FloatLanes gelu_derivative(FloatLanes saved)
{
    // Beyond 32 the derivative is exactly 0 or 1 in float; the bound keeps the square finite.
    FloatLanes x = lesser(all_lanes(32), larger(all_lanes(-32), saved));
    FloatLanes gate = gelu_gate(x);
    FloatLanes slope = TWICE_SCALE * fused_multiply_add(3.0f * CUBIC * x, x, all_lanes(1)); // of 2u
    return fused_multiply_add(x * gate * (1.0f - gate), slope, gate);
}

// The arguments are copied so that the compiler knows them unchanged by what is stored.
ALWAYS_INLINE void gelu_backward(const LsActivationBackward *given, LsDtype type)
{
    const LsActivationBackward args = *given;
    size_t i = 0;
    for (; i + LANES <= args.n; i += LANES)
        store_lanes(args.dx, type, i,
            load_lanes(args.dy, type, i) * gelu_derivative(load_lanes(args.saved, type, i)));
    if (i == args.n)
        return;
    size_t rest = args.n - i;
    FloatLanes derivative = gelu_derivative(load_some(args.saved, type, i, rest, 0));
    store_some(args.dx, type, i, rest, load_some(args.dy, type, i, rest, 0) * derivative);
}

LsStatus LOOPS(activation_backward)(LsDevice *device, const LsActivationBackward *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("activation_backward", args->type));
    if (args->activation == LS_IDENTITY)
        memmove(args->dx, args->dy, args->n * ls_dtype_size(args->type));
    else if (args->activation == LS_RELU && args->type == LS_F32)
        relu_backward_f32(args->n, args->saved, args->dy, args->dx);
    else if (args->activation == LS_RELU && args->type == LS_BF16)
        relu_backward_16(args->n, args->saved, args->dy, args->dx, BF16_MINUS_INFINITY);
    else if (args->activation == LS_RELU)
        relu_backward_16(args->n, args->saved, args->dy, args->dx, F16_MINUS_INFINITY);
    else
        WITH_TYPE(args->type, gelu_backward(args, TYPE));
    return LS_OK;
}
