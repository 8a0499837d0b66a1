#include "base/rng.h"
#include "data/loader.h"

uint64_t ls_stream_sample(uint64_t seed, uint64_t samples, uint64_t position)
{
    return ls_rng_permute(seed, position / samples, samples, position % samples);
}
