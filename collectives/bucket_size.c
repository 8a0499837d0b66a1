#include "collectives/bucket_size.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static bool alike(const LsBuckets *a, const LsBuckets *b)
{
    return a->count == b->count && memcmp(a->bucket, b->bucket, a->count * sizeof *a->bucket) == 0;
}

LsStatus ls_bucket_sizes(size_t blocks, LsBucketTime time[LS_BUCKET_SIZES_MAX], size_t *sizes)
{
    static const double mebibytes[LS_BUCKET_SIZES_MAX] = {
        LS_BUCKET_MB, 4.0 * LS_BUCKET_MB, LS_BUCKET_MB / 4.0, LS_BUCKET_MB / 16.0};
    LsBuckets cut[LS_BUCKET_SIZES_MAX] = {{0}};
    size_t count = 0;
    LsStatus status = LS_OK;
    for (size_t i = 0; i < LS_BUCKET_SIZES_MAX && status == LS_OK; i++) {
        LsBuckets *buckets = &cut[count];
        status = ls_buckets_create(blocks, ls_bucket_bytes(mebibytes[i]), buckets);
        if (status != LS_OK)
            break;
        bool worth = count == 0 || buckets->count <= LS_BUCKETS_TRIED;
        for (size_t c = 0; c < count; c++)
            worth = worth && !alike(&cut[c], buckets);
        if (worth)
            time[count++] = (LsBucketTime){.mebibytes = mebibytes[i]};
        else
            ls_buckets_free(buckets);
    }
    for (size_t c = 0; c < count; c++)
        ls_buckets_free(&cut[c]);
    if (status == LS_OK)
        *sizes = count;
    return status;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, ascending);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

static void take_slowest(double *samples, size_t count, LsBucketTime *time)
{
    double middle = median(samples, count);
    if (middle < time->seconds)
        return;
    for (size_t i = 0; i < count; i++)
        samples[i] = fabs(samples[i] - middle);
    time->seconds = middle;
    time->spread = median(samples, count);
}

size_t ls_bucket_size_choose(double *seconds, size_t ranks, size_t sizes, size_t samples, LsBucketTime *time)
{
    size_t best = 0;
    for (size_t s = 0; s < sizes; s++) {
        time[s].seconds = time[s].spread = 0;
        for (size_t r = 0; r < ranks; r++)
            take_slowest(seconds + (r * sizes + s) * samples, samples, &time[s]);
        bool faster = time[s].seconds + time[s].spread < time[0].seconds - time[0].spread;
        if (faster && time[s].seconds < time[best].seconds)
            best = s;
    }
    return best;
}
