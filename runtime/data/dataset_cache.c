#include "dataset_cache.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { LOCKS = 16 };

struct LsCache {
    uint8_t *values;
    uint64_t bytes;
    size_t unit_bytes; // of a block, or of a chunk inflated
    uint64_t units;
    atomic_bool *ready;          // [units]
    pthread_mutex_t lock[LOCKS]; // unit % LOCKS: held while a unit is loaded
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
    cache->ready = calloc(cache->units, sizeof *cache->ready);
    for (int i = 0; i < LOCKS; i++)
        pthread_mutex_init(&cache->lock[i], NULL);
    if (cache->values == NULL || cache->ready == NULL) {
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
    free(cache->ready);
    for (int i = 0; i < LOCKS; i++)
        pthread_mutex_destroy(&cache->lock[i]);
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

static bool is_ready(const LsCache *cache, uint64_t unit)
{
    return atomic_load_explicit(&cache->ready[unit], memory_order_acquire);
}

// Whoever finds a unit missing loads it; others that need it meanwhile wait for that.
static LsStatus load_unit(
    const LsDataset *dataset, const LsStored *stored, LsCache *cache, uint64_t unit, uint8_t *deflated)
{
    pthread_mutex_t *lock = &cache->lock[unit % LOCKS];
    LsStatus status = LS_OK;
    pthread_mutex_lock(lock);
    if (!is_ready(cache, unit)) {
        if (stored->chunk_rows > 0)
            status = ls_stored_read_chunk(
                dataset, stored, unit, deflated, cache->values + unit * cache->unit_bytes);
        else
            status = load_block(dataset, stored, cache, unit);
        atomic_store_explicit(&cache->ready[unit], status == LS_OK, memory_order_release);
    }
    pthread_mutex_unlock(lock);
    return status;
}

LsStatus ls_cache_rows(const LsDataset *dataset, const LsStored *stored, LsCache *cache, uint64_t row,
    size_t count, uint8_t *deflated, const uint8_t **out)
{
    uint64_t start = row * stored->row_bytes, end = start + count * stored->row_bytes;
    for (uint64_t unit = start / cache->unit_bytes; unit * cache->unit_bytes < end; unit++)
        if (!is_ready(cache, unit))
            LS_TRY(load_unit(dataset, stored, cache, unit, deflated));
    *out = cache->values + start;
    return LS_OK;
}
