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
    .embedding = LOOPS(embedding),
    .embedding_gradient = LOOPS(embedding_gradient),
    .layer_norm = LOOPS(layer_norm),
    .layer_norm_backward = LOOPS(layer_norm_backward),
    .attention_weigh = LOOPS(attention_weigh),
    .attention_finish = LOOPS(attention_finish),
    .attention_slopes = LOOPS(attention_slopes),
    .attention_products = LOOPS(attention_products),
    .attention_gather = LOOPS(attention_gather),
    .attention_store = LOOPS(attention_store),
};
