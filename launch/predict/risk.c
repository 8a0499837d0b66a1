#include "predict/risk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- Stragglers -----------------------------------------------------------------------------------------

static const char *const jitter_names[] = {
    [LS_JITTER_NONE] = "none",
    [LS_JITTER_NORMAL] = "normal",
    [LS_JITTER_LOGNORMAL] = "lognormal",
    [LS_JITTER_EXPONENTIAL] = "exponential",
};

LsStatus ls_jitter_read(const char *text, LsJitter *out)
{
    size_t length = strcspn(text, ":");
    for (int kind = LS_JITTER_NONE; kind <= LS_JITTER_EXPONENTIAL; kind++) {
        if (strlen(jitter_names[kind]) != length || strncmp(text, jitter_names[kind], length) != 0)
            continue;
        char *end = NULL;
        double size = text[length] ? strtod(text + length + 1, &end) : 0;
        bool sized = end && end != text + length + 1 && *end == '\0' && size > 0 && size <= 10;
        if (kind == LS_JITTER_NONE ? text[length] == '\0' : sized) {
            *out = (LsJitter){(LsJitterKind)kind, size};
            return LS_OK;
        }
    }
    return LS_FAIL(LS_USAGE,
        "%s: expected none, normal:S, lognormal:S or exponential:S with S from above 0 to 10, for example "
        "normal:0.03",
        text);
}

// The distribution function at x standard units: deviations from the mean, logarithms, or means of the delay.
static double below(LsJitterKind kind, double x)
{
    if (kind == LS_JITTER_EXPONENTIAL)
        return x > 0 ? -expm1(-x) : 0;
    return 0.5 * erfc(-x / M_SQRT2);
}

// The time at x standard units.
static double time_at(LsJitter jitter, double x)
{
    if (jitter.kind == LS_JITTER_LOGNORMAL) {
        double variance = log1p(jitter.size * jitter.size); // of the logarithm
        return exp(x * sqrt(variance) - variance / 2);
    }
    return 1 + jitter.size * x;
}

double ls_jitter_slowest(LsJitter jitter, uint64_t ranks)
{
    enum { STEPS = 20000 };
    if (jitter.kind == LS_JITTER_NONE)
        return 1;
    // The mean of the largest is the sum of its times, each with the probability that the largest is there.
    // Past 45 units neither distribution has anything left for as many ranks as there may be.
    double lowest = jitter.kind == LS_JITTER_EXPONENTIAL ? 0 : -12, highest = 45, mean = 0, before = 0;
    for (int i = 1; i <= STEPS; i++) {
        double x = lowest + (highest - lowest) * i / STEPS, middle = x - (highest - lowest) / STEPS / 2;
        double now = pow(below(jitter.kind, x), (double)ranks);
        mean += (now - before) * time_at(jitter, middle);
        before = now;
    }
    return mean;
}

// ---- Failures -------------------------------------------------------------------------------------------

static double best_interval(double save, double mtbf)
{
    if (save >= 2 * mtbf)
        return mtbf;
    double ratio = save / (2 * mtbf);
    return sqrt(2 * save * mtbf) * (1 + sqrt(ratio) / 3 + ratio / 9) - save;
}

// The share of the time that trains, failures and checkpoints considered.
static double training_share(double interval, double save, double restart, double mtbf)
{
    return interval / (mtbf * exp(restart / mtbf) * expm1((interval + save) / mtbf));
}

LsGoodput ls_goodput(const LsRisk *risk, uint32_t nodes)
{
    double failures = risk->node_failures * nodes, preemptions = risk->preemptions * nodes;
    LsGoodput goodput = {.interval = risk->interval, .on_demand = 1, .spot = 1};
    if (failures <= 0 && risk->interval <= 0)
        goodput.interval = INFINITY;
    else if (failures <= 0)
        goodput.on_demand = risk->interval / (risk->interval + risk->save);
    else {
        double mtbf = 1 / failures;
        if (risk->interval <= 0)
            goodput.interval = best_interval(risk->save, mtbf);
        // Without a cost there is no reason not to save all the time; a second is as good as that.
        goodput.interval = fmax(goodput.interval, 1);
        goodput.on_demand = training_share(goodput.interval, risk->save, risk->restart, mtbf);
    }
    goodput.spot = goodput.on_demand / (1 + preemptions * (risk->save + risk->restart));
    return goodput;
}
