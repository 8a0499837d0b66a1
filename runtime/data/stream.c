#include "base/rng.h"
#include "data/loader.h"

// Leaves room for the shift: behind the largest one, all windows still end before the text does.
size_t ls_stream_windows(size_t tokens, size_t window)
{
    return tokens < 2 * window ? 1 : (tokens - window) / window;
}

uint64_t ls_stream_window(uint64_t seed, size_t tokens, size_t window, uint64_t position)
{
    uint64_t windows = ls_stream_windows(tokens, window), room = tokens - windows * window;
    uint64_t shift =
        ls_rng_below(ls_rng_key(seed, LS_RNG_WINDOW), position / windows, 0, room < window ? room : window);
    return shift + ls_stream_sample(seed, windows, position) * window;
}

uint64_t ls_stream_sample(uint64_t seed, uint64_t samples, uint64_t position)
{
    return ls_rng_permute(seed, position / samples, samples, position % samples);
}
