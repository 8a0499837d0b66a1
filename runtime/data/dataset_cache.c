#include "dataset_cache.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { UNIT_EMPTY, UNIT_LOADING, UNIT_READY };

struct LsCache {
    uint8_t *values;
    uint64_t bytes;
    size_t unit_bytes; // of a block, or of a chunk inflated
    uint64_t units;
    _Atomic uint8_t *state; // [units]
};

LsStatus ls_cache_create(const LsStored *stored, LsCache **out)
{
    LsCache *cache = calloc(1, sizeof *cache);
    if (cache == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", stored->name);
    bool chunked = stored->chunk_rows > 0;
    cache->unit_bytes = chunked ? stored->chunk_rows * stored->row_bytes : LS_BLOCK_BYTES;
    cache->units = chunked ? stored->chunks : stored->blocks;
    cache->bytes = chunked ? cache->units * cache->unit_bytes : stored->rows * stored->row_bytes;
    cache->values = malloc(cache->bytes);
    cache->state = calloc(cache->units, sizeof *cache->state);
    if (cache->values == NULL || cache->state == NULL) {
        ls_cache_destroy(cache);
        return LS_FAIL(LS_INTERNAL, "%s: no memory to keep it", stored->name);
    }
    *out = cache;
    return LS_OK;
}

void ls_cache_destroy(LsCache *cache)
{
    if (cache == NULL)
        return;
    free(cache->values);
    free((void *)cache->state);
    free(cache);
}

static LsStatus load_block(const LsDataset *dataset, const LsStored *stored, LsCache *cache, uint64_t block)
{
    uint64_t start = block * cache->unit_bytes;
    size_t bytes = cache->bytes - start < cache->unit_bytes ? cache->bytes - start : cache->unit_bytes;
    LsHash128 hash;
    LS_TRY(ls_file_read_at(dataset->fd, dataset->path, cache->values + start, bytes, stored->offset + start));
    LS_TRY(ls_file_read_at(
        dataset->fd, dataset->path, &hash, sizeof hash, stored->hashes + block * sizeof hash));
    if (!ls_hash128_equal(hash, ls_hash128(cache->values + start, bytes)))
        return ls_stored_fail_block(dataset, stored, block);
    return LS_OK;
}

// Makes the unit ready, or leaves it to the thread that is at it.
static LsStatus load_unit(
    const LsDataset *dataset, const LsStored *stored, LsCache *cache, uint64_t unit, uint8_t *deflated)
{
    uint8_t expected = UNIT_EMPTY;
    if (!atomic_compare_exchange_strong(&cache->state[unit], &expected, UNIT_LOADING))
        return LS_OK;
    LsStatus status = stored->chunk_rows > 0 ? ls_stored_read_chunk(dataset, stored, unit, deflated,
                                                   cache->values + unit * cache->unit_bytes)
                                             : load_block(dataset, stored, cache, unit);
    atomic_store_explicit(
        &cache->state[unit], status == LS_OK ? UNIT_READY : UNIT_EMPTY, memory_order_release);
    return status;
}

LsStatus ls_cache_row(const LsDataset *dataset, const LsStored *stored, LsCache *cache, uint64_t row,
    uint8_t *deflated, const uint8_t **out)
{
    uint64_t start = row * stored->row_bytes, end = start + stored->row_bytes;
    for (uint64_t unit = start / cache->unit_bytes; unit * cache->unit_bytes < end; unit++) {
        if (atomic_load_explicit(&cache->state[unit], memory_order_acquire) == UNIT_READY)
            continue;
        LS_TRY(load_unit(dataset, stored, cache, unit, deflated));
        if (atomic_load_explicit(&cache->state[unit], memory_order_acquire) != UNIT_READY) {
            *out = NULL;
            return LS_OK;
        }
    }
    *out = cache->values + start;
    return LS_OK;
}
