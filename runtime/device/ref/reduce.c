// Reference sums, in ascending order.
#include "ref.h"

LsStatus ls_ref_sum(LsDevice *device, const LsSum *args)
{
    (void)device;
    double sum = args->accumulate ? *args->y : 0.0;
    for (size_t i = 0; i < args->n; i++)
        sum += args->x[i];
    *args->y = (float)sum;
    return LS_OK;
}

static void piece_squares(const LsSquaresPiece *piece)
{
    for (size_t first = 0; first < piece->n; first += LS_BLOCK) {
        size_t end = piece->n - first < LS_BLOCK ? piece->n : first + LS_BLOCK;
        double sum = 0;
        for (size_t i = first; i < end; i++)
            sum += (double)piece->x[i] * piece->x[i];
        piece->sums[first / LS_BLOCK] = (float)sum;
    }
}

LsStatus ls_ref_block_squares(LsDevice *device, const LsBlockSquares *args)
{
    (void)device;
    for (size_t p = 0; p < args->count; p++)
        piece_squares(&args->piece[p]);
    return LS_OK;
}

LsStatus ls_ref_tree_add(LsDevice *device, const LsTreeAdd *args)
{
    (void)device;
    LS_TRY(ls_require_tree(args));
    float values[LS_TREE_INPUTS];
    for (size_t i = 0; i < args->n; i++) {
        for (size_t input = 0; input < args->count; input++)
            values[input] = args->inputs[input][i];
        for (size_t add = 0; add < args->adds; add++)
            values[args->pairs[add][0]] += values[args->pairs[add][1]];
        args->output[i] = values[args->result];
    }
    return LS_OK;
}
