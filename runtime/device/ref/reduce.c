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
        bool statistics = piece->block_kind && piece->block_kind[first / LS_BLOCK] == LS_KIND_STATISTICS;
        piece->sums[first / LS_BLOCK] = statistics ? (float)sum * 0.0f : (float)sum;
    }
}

LsStatus ls_ref_block_squares(LsDevice *device, const LsBlockSquares *args)
{
    (void)device;
    for (size_t p = 0; p < args->count; p++)
        piece_squares(&args->piece[p]);
    return LS_OK;
}

static float round_to(bool bf16, float value)
{
    return bf16 ? ls_bf16_to_f32(ls_f32_to_bf16(value)) : value;
}

LsStatus ls_ref_tree_add(LsDevice *device, const LsTreeAdd *args)
{
    (void)device;
    LS_TRY(ls_require_tree(args));
    float values[LS_TREE_INPUTS];
    for (size_t i = 0; i < args->n; i++) {
        for (size_t input = 0; input < args->count; input++)
            values[input] = round_to(args->rounded, ls_ref_load(args->inputs[input], args->type, i));
        for (size_t add = 0; add < args->adds; add++) {
            float *into = &values[args->pairs[add][0]];
            *into = round_to(args->rounded, *into + values[args->pairs[add][1]]);
        }
        ls_ref_store(args->output, args->output_type, i, values[args->result]);
    }
    return LS_OK;
}
