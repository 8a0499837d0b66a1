// The table of one instruction set.
#include "parts.h"

const LsCpuLoops LOOPS(loops) = {
    .cast = LOOPS(cast),
    .normalize = LOOPS(normalize),
    .bias_gradient = LOOPS(bias_gradient),
    .activation_backward = LOOPS(activation_backward),
    .dropout = LOOPS(dropout),
    .add = LOOPS(add),
    .cross_entropy = LOOPS(cross_entropy),
    .binary_cross_entropy = LOOPS(binary_cross_entropy),
    .mean_squared_error = LOOPS(mean_squared_error),
    .sum = LOOPS(sum),
    .block_squares = LOOPS(block_squares),
    .optimizer_step = LOOPS(optimizer_step),
    .activate = LOOPS(activate),
    .tree_add = LOOPS(tree_add),
};
