#include "lane_sums.h"

#include "base/rng.h"
#include "device/tensor.h"

enum { PURPOSE = 1000 };

static float to_value(uint32_t bits)
{
    return ((float)(bits >> 8) * 0x1p-23f - 1.0f) * (float)(1u << (bits & 15u));
}

float lane_value(uint32_t lane, size_t e, uint32_t round)
{
    return to_value(ls_rng_u32(ls_rng_key(42, PURPOSE + round), lane, e));
}

bool rounded;

void narrow(size_t elements, float *values)
{
    for (size_t e = 0; e < elements && rounded; e++)
        values[e] = ls_bf16_to_f32(ls_f32_to_bf16(values[e]));
}

void fill_lane(uint32_t lane, uint32_t round, size_t elements, float *out)
{
    LsRngKey key = ls_rng_key(42, PURPOSE + round);
    for (size_t e = 0; e < elements; e += 4) {
        uint32_t word[4];
        ls_rng_block(key, lane, e / 4, word);
        for (size_t i = 0; i < 4; i++)
            out[e + i] = to_value(word[i]);
    }
}

void add_tree(uint32_t first, uint32_t count, uint32_t round, size_t elements, float *out)
{
    if (count == 1) {
        fill_lane(first, round, elements, out);
        narrow(elements, out);
        return;
    }
    add_tree(first, count / 2, round, elements, out);
    add_tree(first + count / 2, count / 2, round, elements, out + elements);
    for (size_t e = 0; e < elements; e++)
        out[e] = out[e] + out[elements + e];
    narrow(elements, out);
}
