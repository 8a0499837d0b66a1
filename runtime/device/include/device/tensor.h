// Element types and the few sizes that every layer agrees on.
#ifndef LOCKSTEP_DEVICE_TENSOR_H
#define LOCKSTEP_DEVICE_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "base/host_device.h"

typedef enum LsDtype { LS_F32, LS_BF16, LS_F16, LS_U8, LS_I32 } LsDtype;

// A block is the unit of everything that is owned, summed or hashed in pieces: 4,096 elements. Tensors start
// on a block in every flat buffer; the padding behind a tensor is zero and stays zero.
enum { LS_BLOCK = 4096 };

size_t ls_dtype_size(LsDtype dtype);

// "float32", "bfloat16", "float16", "uint8", "int32".
const char *ls_dtype_name(LsDtype dtype);

static inline LS_HOST_DEVICE float ls_bits_to_f32(uint32_t bits)
{
    union {
        uint32_t bits;
        float number;
    } u;
    u.bits = bits;
    return u.number;
}

static inline LS_HOST_DEVICE uint32_t ls_f32_to_bits(float number)
{
    union {
        uint32_t bits;
        float number;
    } u;
    u.number = number;
    return u.bits;
}

// One number of an element's number in its buffer and its bits: for one element a bijection of the bits (the
// finalizer of Stafford's variant 13 of MurmurHash3, as SplitMix64 has it).
static inline LS_HOST_DEVICE uint64_t ls_mix_bits(uint64_t index, uint32_t bits)
{
    uint64_t z = (index + 1) * 0x9e3779b97f4a7c15u + bits;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// bfloat16 is the upper half of a float32; rounding is to nearest even, NaN stays NaN.
static inline LS_HOST_DEVICE float ls_bf16_to_f32(uint16_t value)
{
    return ls_bits_to_f32((uint32_t)value << 16);
}

static inline LS_HOST_DEVICE uint16_t ls_f32_to_bf16(float value)
{
    uint32_t bits = ls_f32_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// IEEE 754 binary16, subnormal numbers included; rounding is to nearest even, too large becomes infinity, NaN
// stays NaN.
float ls_f16_to_f32(uint16_t value);
uint16_t ls_f32_to_f16(float value);

#endif
