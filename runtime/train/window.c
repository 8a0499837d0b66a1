#include "window.h"

#include <stdlib.h>

#include "base/memory.h"
#include "device/tensor.h"

static size_t first_block_of(const LsParameter *parameter)
{
    return parameter->offset / LS_BLOCK;
}

// The start of the region that ends before block `end`: the one furthest back of those at which backward says
// that it has come there, with which the region is no larger than `usual`, or the nearest one.
static size_t find_start(const LsModel *model, size_t end, size_t usual)
{
    const LsParameters *parameters = &model->parameters;
    size_t early = model->early_elements / LS_BLOCK, start = end;
    for (size_t i = parameters->count; i-- > 0;) {
        size_t block = first_block_of(&parameters->list[i]);
        if (!parameters->list[i].stage || block >= end || block < early)
            continue;
        if (start < end && end - block > usual)
            break;
        start = block;
    }
    return start < end ? start : early; // backward says in the end that it is done
}

static size_t count_buckets(size_t blocks, size_t usual)
{
    return blocks / usual + (blocks % usual != 0);
}

static void add_region(LsWindow *window, size_t first, size_t end, size_t usual, size_t *buckets)
{
    LsRegion *region = &window->region[window->regions++];
    *region = (LsRegion){.first_block = first,
        .blocks = end - first,
        .first_bucket = *buckets,
        .buckets = count_buckets(end - first, usual)};
    *buckets += region->buckets;
}

// All regions; those that take turns come first. Returns the number of buckets.
static size_t cut_regions(const LsModel *model, size_t usual, LsWindow *window)
{
    size_t early = model->early_elements / LS_BLOCK, end = model->parameters.blocks, buckets = 0;
    size_t half[2] = {0, 0};
    while (end > early) {
        size_t start = find_start(model, end, usual), *most = &half[window->regions % 2];
        add_region(window, start, end, usual, &buckets);
        *most = end - start > *most ? end - start : *most;
        end = start;
    }
    for (size_t r = 0; r < window->regions; r++)
        window->region[r].place = r % 2 ? half[0] : 0;
    window->blocks = half[0] + half[1];
    if (early > 0) {
        add_region(window, 0, early, usual, &buckets);
        window->region[window->regions - 1].place = window->blocks;
        window->blocks += early;
    }
    return buckets;
}

static void cut_buckets(const LsWindow *window, LsBuckets *buckets)
{
    for (size_t r = 0; r < window->regions; r++) {
        const LsRegion *region = &window->region[r];
        size_t end = region->first_block + region->blocks;
        for (size_t i = 0; i < region->buckets; i++) {
            size_t blocks = region->blocks / region->buckets + (i < region->blocks % region->buckets);
            end -= blocks;
            buckets->bucket[region->first_bucket + i] = (LsBucket){end, blocks};
        }
    }
}

LsStatus ls_window_create(const LsModel *model, size_t bucket_bytes, LsWindow *out, LsBuckets *buckets)
{
    LsWindow window = {0};
    size_t usual = bucket_bytes / (LS_BLOCK * sizeof(float)), most = model->parameters.count + 1;
    usual = usual ? usual : 1;
    LsStatus status = ls_memory_allocate(most * sizeof *window.region, (void **)&window.region);
    if (status == LS_OK)
        status = ls_memory_allocate(most * sizeof *window.part, (void **)&window.part);
    LsBuckets cut = {.blocks = model->parameters.blocks};
    if (status == LS_OK) {
        cut.count = cut_regions(model, usual, &window);
        status = ls_memory_allocate(cut.count * sizeof *cut.bucket, (void **)&cut.bucket);
    }
    if (status != LS_OK) {
        ls_window_free(&window);
        return status;
    }
    cut_buckets(&window, &cut);
    for (size_t r = 0; r < window.regions; r++)
        window.part[r] =
            (LsGradientPlace){window.region[r].first_block * LS_BLOCK, window.region[r].place * LS_BLOCK};
    window.places = (LsGradientPlaces){window.regions, window.part};
    *out = window;
    *buckets = cut;
    return LS_OK;
}

void ls_window_free(LsWindow *window)
{
    free(window->part);
    free(window->region);
    *window = (LsWindow){0};
}

size_t ls_window_place(const LsWindow *window, const LsBuckets *buckets, size_t b)
{
    const LsRegion *region = window->region;
    while (b >= region->first_bucket + region->buckets)
        region++;
    return (region->place + buckets->bucket[b].first_block - region->first_block) * LS_BLOCK;
}
