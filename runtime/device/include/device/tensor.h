// Element types and the few sizes that every layer agrees on.
#ifndef LOCKSTEP_DEVICE_TENSOR_H
#define LOCKSTEP_DEVICE_TENSOR_H

#include <stddef.h>
#include <stdint.h>

typedef enum LsDtype { LS_F32, LS_BF16, LS_F16, LS_U8, LS_I32 } LsDtype;

// A block is the unit of everything that is owned, summed or hashed in pieces: 4,096 elements. Tensors start
// on a block in every flat buffer; the padding behind a tensor is zero and stays zero.
enum { LS_BLOCK = 4096 };

size_t ls_dtype_size(LsDtype dtype);

// "float32", "bfloat16", "float16", "uint8", "int32".
const char *ls_dtype_name(LsDtype dtype);

// bfloat16 is the upper half of a float32; rounding is to nearest even, NaN stays NaN.
static inline float ls_bf16_to_f32(uint16_t value)
{
    union {
        uint32_t bits;
        float number;
    } u = {.bits = (uint32_t)value << 16};
    return u.number;
}

static inline uint16_t ls_f32_to_bf16(float value)
{
    union {
        float number;
        uint32_t bits;
    } u = {.number = value};
    if ((u.bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u.bits >> 16) | 0x40u);
    return (uint16_t)((u.bits + 0x7fffu + ((u.bits >> 16) & 1u)) >> 16);
}

#endif
