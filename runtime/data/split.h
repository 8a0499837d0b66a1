// Seeded, stratified division of rows into training, validation and test split.
#ifndef LOCKSTEP_DATA_SPLIT_H
#define LOCKSTEP_DATA_SPLIT_H

#include <stdint.h>

#include "data/dataset.h"

typedef struct LsSplitFractions {
    double validation, test; // of the rows; at least 0, together below 1
} LsSplitFractions;

// Sets split[row] (an LsSplit) for every row. `classes` [rows] holds class numbers below class_count; NULL:
// one stratum. Rows held out (validation + test) and validation rows are the fractions of all rows, rounded;
// each total is dealt to the classes by largest remainders, and a class never gives away its last row. Within
// a class a permutation keyed by (seed, LS_RNG_SPLIT, class) decides. LS_CONFIG for impossible fractions.
LsStatus ls_split_assign(uint64_t seed, LsSplitFractions fractions, const int32_t *classes,
    size_t class_count, size_t rows, uint8_t *split);

#endif
