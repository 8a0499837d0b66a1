// The numbers that collective benchmarks move and add, and what their sums must be.
#include <math.h>
#include <string.h>

#include "collective.h"
#include "device/tensor.h"

enum { CHUNK = 1024, LEVELS = 13 }; // of a tree over LS_LANES_MAX lanes

_Static_assert(1 << (LEVELS - 1) == LS_LANES_MAX, "a level for each halving");

static float number(uint32_t lane, size_t element)
{
    uint32_t bits = (uint32_t)element * 2654435761u ^ (lane + 1) * 2246822519u;
    bits ^= bits >> 15;
    bits *= 2654435761u;
    return ((float)(bits >> 8) * 0x1p-23f - 1.0f) * (float)(1u << (bits & 7u));
}

void ls_collective_part(uint32_t owner, size_t start, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = number(owner, start + i);
}

static void round_all(size_t n, float *values)
{
    for (size_t i = 0; i < n; i++)
        values[i] = ls_bf16_to_f32(ls_f32_to_bf16(values[i]));
}

// room: a chunk for each level below.
static void sum_tree(
    uint32_t first, uint32_t count, bool rounded, size_t start, size_t n, float *out, float (*room)[CHUNK])
{
    if (count == 1) {
        ls_collective_part(first, start, n, out);
    } else {
        sum_tree(first, count / 2, rounded, start, n, out, room + 1);
        sum_tree(first + count / 2, count / 2, rounded, start, n, room[0], room + 1);
        for (size_t i = 0; i < n; i++)
            out[i] += room[0][i];
    }
    if (rounded)
        round_all(n, out);
}

static void sum_in_a_row(uint32_t first, uint32_t count, size_t start, size_t n, float *out)
{
    ls_collective_part(first, start, n, out);
    for (uint32_t lane = first + 1; lane < first + count; lane++)
        for (size_t i = 0; i < n; i++)
            out[i] += number(lane, start + i);
}

void ls_collective_sum(uint32_t first, uint32_t count, LsSumOrder order, size_t start, size_t n, float *out)
{
    static float room[LEVELS][CHUNK];
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t more = n - done < CHUNK ? n - done : CHUNK;
        if (order != LS_SUM_IN_A_ROW)
            sum_tree(first, count, order == LS_SUM_ROUNDED, start + done, more, out + done, room);
        else
            sum_in_a_row(first, count, start + done, more, out + done);
    }
}

// Each of the lanes - 1 additions, in any order, rounds by at most half a unit of the partial sum, which the
// sum of magnitudes bounds; two orders differ by at most twice that.
static float rounding_bound(uint32_t lanes, size_t element)
{
    float magnitudes = 0;
    for (uint32_t lane = 0; lane < lanes; lane++)
        magnitudes += fabsf(number(lane, element));
    return 2 * (float)(lanes - 1) * 0x1p-24f * magnitudes * 1.001f; // and for this sum's own rounding
}

size_t ls_collective_count_wrong(uint32_t lanes, LsSumOrder order, size_t start, size_t n, const float *found)
{
    static float expected[CHUNK];
    size_t wrong = 0;
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t more = n - done < CHUNK ? n - done : CHUNK;
        bool exact = order != LS_SUM_IN_A_ROW;
        ls_collective_sum(0, lanes, exact ? order : LS_SUM_TREE, start + done, more, expected);
        for (size_t i = 0; i < more; i++) {
            const float *value = &found[done + i];
            if (memcmp(value, &expected[i], sizeof *value) == 0)
                continue;
            // A NaN is wrong as well.
            if (exact || !(fabsf(*value - expected[i]) <= rounding_bound(lanes, start + done + i)))
                wrong++;
        }
    }
    return wrong;
}
