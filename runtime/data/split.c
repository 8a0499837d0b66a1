#include "split.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

// What one class gives to the splits.
typedef struct Stratum {
    size_t rows, held_out, validation;
    size_t seen; // rows met so far
} Stratum;

// A class's claim to one of the seats that are left when all quotas are rounded down.
typedef struct Claim {
    double remainder;
    size_t class;
} Claim;

static int compare_claims(const void *a, const void *b)
{
    const Claim *x = a, *y = b;
    if (x->remainder != y->remainder)
        return x->remainder < y->remainder ? 1 : -1;
    return (x->class > y->class) - (x->class < y->class);
}

// Products such as 0.1 × 30 fall just below the integer they stand for; this makes them whole again.
static double quota(double fraction, size_t rows)
{
    double exact = fraction * (double)rows, whole = nearbyint(exact);
    return fabs(exact - whole) < 1e-9 * (1 + exact) ? whole : exact;
}

// Deals `total` seats to the classes: quotas rounded down, the rest by largest remainders, at most limit[c]
// to class c. With too many limits in the way, fewer are dealt.
static void apportion(double fraction, size_t total, size_t count, const size_t *size, const size_t *limit,
    Claim *claims, size_t *seats)
{
    size_t dealt = 0;
    for (size_t c = 0; c < count; c++) {
        double exact = quota(fraction, size[c]);
        seats[c] = (size_t)exact;
        claims[c] = (Claim){.remainder = exact - floor(exact), .class = c};
        if (seats[c] > limit[c])
            seats[c] = limit[c];
        dealt += seats[c];
    }
    qsort(claims, count, sizeof *claims, compare_claims);
    for (bool progress = true; dealt < total && progress;) {
        progress = false;
        for (size_t i = 0; i < count && dealt < total; i++) {
            size_t c = claims[i].class;
            if (seats[c] < limit[c]) {
                seats[c]++;
                dealt++;
                progress = true;
            }
        }
    }
}

// size, limit and seats are scratch of `count` elements each.
static void divide(
    LsSplitFractions fractions, size_t rows, Stratum *strata, size_t count, size_t *scratch, Claim *claims)
{
    size_t *size = scratch, *limit = scratch + count, *seats = scratch + 2 * count;
    double held_out = fractions.validation + fractions.test;
    for (size_t c = 0; c < count; c++) {
        size[c] = strata[c].rows;
        limit[c] = strata[c].rows ? strata[c].rows - 1 : 0;
    }
    apportion(held_out, (size_t)nearbyint(quota(held_out, rows)), count, size, limit, claims, seats);

    size_t total = 0;
    for (size_t c = 0; c < count; c++) {
        strata[c].held_out = size[c] = limit[c] = seats[c];
        total += seats[c];
    }
    double share = held_out > 0 ? fractions.validation / held_out : 0;
    size_t validation = (size_t)nearbyint(quota(fractions.validation, rows));
    apportion(share, validation < total ? validation : total, count, size, limit, claims, seats);
    for (size_t c = 0; c < count; c++)
        strata[c].validation = seats[c];
}

static void assign(uint64_t seed, const int32_t *classes, size_t rows, Stratum *strata, uint8_t *split)
{
    LsRngKey key = ls_rng_key(seed, LS_RNG_SPLIT);
    uint64_t keyed = (uint64_t)key.word[1] << 32 | key.word[0];
    for (size_t row = 0; row < rows; row++) {
        size_t class = classes ? (size_t)classes[row] : 0;
        Stratum *stratum = &strata[class];
        uint64_t place = ls_rng_permute(keyed, class, stratum->rows, stratum->seen++);
        split[row] = place < stratum->validation ? LS_VALIDATION
                     : place < stratum->held_out ? LS_TEST
                                                 : LS_TRAIN;
    }
}

LsStatus ls_split_assign(uint64_t seed, LsSplitFractions fractions, const int32_t *classes,
    size_t class_count, size_t rows, uint8_t *split)
{
    if (!(fractions.validation >= 0 && fractions.test >= 0 && fractions.validation + fractions.test < 1))
        return LS_FAIL(LS_CONFIG,
            "validation (%g) and test (%g) are fractions of the rows, not negative and together below 1",
            fractions.validation, fractions.test);
    size_t count = classes ? class_count : 1;
    Stratum *strata = calloc(count, sizeof *strata);
    size_t *scratch = calloc(count, 3 * sizeof *scratch);
    Claim *claims = calloc(count, sizeof *claims);
    LsStatus status = LS_OK;
    if (count && (!strata || !scratch || !claims)) {
        status = LS_FAIL(LS_INTERNAL, "out of memory for %zu classes", count);
        goto release;
    }
    for (size_t row = 0; row < rows; row++)
        strata[classes ? classes[row] : 0].rows++;
    divide(fractions, rows, strata, count, scratch, claims);
    assign(seed, classes, rows, strata, split);
release:
    free(claims);
    free(scratch);
    free(strata);
    return status;
}
