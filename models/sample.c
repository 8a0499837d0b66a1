#include "models/sample.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"

// Finds the likeliest token.
static LsStatus find_best(const float *logits, size_t vocabulary, size_t *out)
{
    size_t best = 0;
    for (size_t v = 0; v < vocabulary; v++) {
        if (isnan(logits[v]))
            return LS_FAIL(
                LS_BAD_DATA, "the model's logit of token %zu is not a number; its weights are damaged", v);
        if (logits[v] > logits[best])
            best = v;
    }
    if (!isfinite(logits[best]))
        return LS_FAIL(LS_BAD_DATA, "the model's logits are not finite; its weights are damaged");
    *out = best;
    return LS_OK;
}

static int likelier_first(const void *a, const void *b)
{
    const LsCandidate *x = a, *y = b;
    if (x->probability != y->probability)
        return x->probability < y->probability ? 1 : -1;
    return (x->token > y->token) - (x->token < y->token);
}

// How many of the sorted candidates remain, and what their probabilities add up to.
static size_t cut(
    const LsSampling *sampling, const LsCandidate *sorted, size_t count, double total, double *kept)
{
    size_t limit = sampling->top_k > 0 && sampling->top_k < count ? sampling->top_k : count;
    size_t n = 0;
    double within = 0;
    for (size_t i = 0; i < limit; i++)
        within += sorted[i].probability;
    if (limit == count)
        within = total;
    *kept = 0;
    while (n < limit && (n == 0 || *kept < sampling->top_p * within))
        *kept += sorted[n++].probability;
    return n;
}

LsStatus ls_sample(const LsSampling *sampling, const float *logits, size_t vocabulary, uint64_t number,
    LsCandidate *scratch, uint32_t *token)
{
    size_t best = 0, count = vocabulary;
    LS_TRY(find_best(logits, vocabulary, &best));
    if (sampling->temperature == 0) {
        *token = (uint32_t)best;
        return LS_OK;
    }
    double total = 0;
    for (size_t v = 0; v < vocabulary; v++) {
        double above = ((double)logits[v] - logits[best]) / sampling->temperature;
        scratch[v] = (LsCandidate){.token = (uint32_t)v, .probability = exp(above)};
        total += scratch[v].probability;
    }
    if (sampling->top_k > 0 || sampling->top_p < 1) {
        qsort(scratch, vocabulary, sizeof *scratch, likelier_first);
        count = cut(sampling, scratch, vocabulary, total, &total);
    }
    LsRngKey key = ls_rng_key(sampling->seed, LS_RNG_SAMPLE_TEXT);
    double point = (double)ls_rng_uniform(key, number, 0) * total;
    size_t chosen = 0;
    while (chosen + 1 < count && point >= scratch[chosen].probability)
        point -= scratch[chosen++].probability;
    *token = scratch[chosen].token;
    return LS_OK;
}
