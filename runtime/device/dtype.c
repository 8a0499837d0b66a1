#include "device/tensor.h"

static const struct {
    size_t size;
    const char *name;
} dtypes[] = {
    [LS_F32] = {4, "float32"},
    [LS_BF16] = {2, "bfloat16"},
    [LS_F16] = {2, "float16"},
    [LS_U8] = {1, "uint8"},
    [LS_I32] = {4, "int32"},
};

size_t ls_dtype_size(LsDtype dtype)
{
    return dtypes[dtype].size;
}

const char *ls_dtype_name(LsDtype dtype)
{
    return dtypes[dtype].name;
}

float ls_f16_to_f32(uint16_t value)
{
    uint32_t sign = (uint32_t)(value & 0x8000u) << 16, exponent = value >> 10 & 31u;
    uint32_t mantissa = value & 0x3ffu;
    if (exponent == 0) // zero and subnormal numbers count units of 2^-24
        return ls_bits_to_f32(sign | ls_f32_to_bits((float)mantissa * 0x1p-24f));
    if (exponent == 31)
        return ls_bits_to_f32(sign | 0x7f800000u | mantissa << 13);
    return ls_bits_to_f32(sign | (exponent + 127 - 15) << 23 | mantissa << 13);
}

uint16_t ls_f32_to_f16(float value)
{
    const uint32_t infinity = 0x7f800000u, smallest_normal = 0x38800000u; // 2^-14
    const uint32_t too_large = 0x477ff000u; // 65520, half a unit above the largest number, rounds away
    uint32_t bits = ls_f32_to_bits(value), magnitude = bits & 0x7fffffffu;
    uint32_t sign = bits >> 16 & 0x8000u;
    if (magnitude > infinity)
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu));
    if (magnitude >= too_large)
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < smallest_normal) {
        // Between 1/2 and 1 the units of float32 are those of subnormal numbers: the addition rounds.
        uint32_t rounded = ls_f32_to_bits(ls_bits_to_f32(magnitude) + 0.5f) - ls_f32_to_bits(0.5f);
        return (uint16_t)(sign | rounded);
    }
    uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | (rounded - ((127u - 15u) << 23)) >> 13);
}
