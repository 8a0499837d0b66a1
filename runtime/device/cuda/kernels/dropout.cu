// Dropout. The random words are those of base/rng.h: one Philox block of ten rounds gives the words of four
// consecutive columns, so a thread's group of columns is one or two blocks.
#include "rows.cuh"

namespace
{

constexpr int WORDS = 4; // of a Philox block

template <typename T> struct Dropout {
    typedef T Input;
    static constexpr int N = group_size<T>(), STEPS = 4;
    const T *x;
    T *y;
    const uint64_t *positions;
    LsRngKey key;
    uint32_t threshold;
    float factor;

    struct Column {
    };

    __device__ Column column(size_t, size_t) const
    {
        return Column();
    }

    template <bool VECTOR>
    __device__ void finish(const RowPlace &place, const Group<T, N> &held, const Column &) const
    {
        uint64_t position = positions[place.row];
        float result[N];
#pragma unroll
        for (int block = 0; block < N / WORDS; block++) {
            uint32_t word[WORDS];
            ls_rng_block(key, position, place.column / WORDS + block, word);
#pragma unroll
            for (int j = 0; j < WORDS; j++) {
                float kept = held[block * WORDS + j] * factor;
                result[block * WORDS + j] = word[j] >= threshold ? kept : 0.0f;
            }
        }
        store_group<VECTOR, N>(y + place.start(), place.column, place.columns, round_group<T>(result));
    }

    bool aligned(size_t columns) const
    {
        return columns % N == 0 && is_aligned(x, VECTOR_BYTES) && is_aligned(y, VECTOR_BYTES);
    }
};

} // namespace

cudaError_t ls_kernel_dropout(cudaStream_t stream, const LsDropout *args)
{
    return with_type(args->type, [&](auto type) {
        typedef decltype(type) T;
        Dropout<T> op = {(const T *)args->x, (T *)args->y, args->positions,
            ls_rng_key(args->seed, args->purpose), ls_dropout_threshold(args->rate),
            ls_dropout_factor(args->rate)};
        return each_row(stream, args->rows, args->columns, op);
    });
}
