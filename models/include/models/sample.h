// Choosing the next token from a model's logits, on the host.
#ifndef LOCKSTEP_MODELS_SAMPLE_H
#define LOCKSTEP_MODELS_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct LsSampling {
    double temperature; // logits are divided by it; 0: always the likeliest token
    size_t top_k;       // only so many likeliest tokens; 0: all
    double top_p; // only the likeliest tokens that together reach this probability (Holtzman et al., "The
                  // curious case of neural text degeneration", ICLR 2020); 1: all
    uint64_t seed;
} LsSampling;

// A token with its probability.
typedef struct LsCandidate {
    uint32_t token;
    double probability;
} LsCandidate;

// The token number `number` of a text: the same for the same logits, seed and number. Of equal logits the
// lower token counts as likelier. `scratch`: [vocabulary]. LS_BAD_DATA when a logit is NaN or none is finite.
LsStatus ls_sample(const LsSampling *sampling, const float *logits, size_t vocabulary, uint64_t number,
    LsCandidate *scratch, uint32_t *token);

#endif
