// What a reduction must end with: the canonical tree over lanes of known numbers, computed by each rank
// itself.
#ifndef LOCKSTEP_TESTS_LANE_SUMS_H
#define LOCKSTEP_TESTS_LANE_SUMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LANES = 8, ROUNDS = 3 };

extern bool rounded; // whether the sum is one of BF16 numbers, each lane's values among them

// Gradient element e of a lane: random, of widely differing size, so that the order of additions shows.
// Another one in each round, so that what is left of the last round shows.
float lane_value(uint32_t lane, size_t e, uint32_t round);

// The first `elements`, a multiple of 4, of a lane.
void fill_lane(uint32_t lane, uint32_t round, size_t elements, float *out);

// To BF16 numbers and back, where sums are rounded.
void narrow(size_t elements, float *values);

// The canonical tree over the lanes [first, first + count), as its definition says. `out` has (log2(count) +
// 1) × elements of room.
void add_tree(uint32_t first, uint32_t count, uint32_t round, size_t elements, float *out);

#endif
