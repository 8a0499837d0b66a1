// Rows of a small data set in memory. A data set whose values take at most LS_CACHE_LIMIT bytes is kept by
// the process once read, block by block (chunk by chunk when deflated), because a system call for a row of a
// few hundred bytes costs more than seven times the copy. Every block is compared with its hash when it comes
// in.
#ifndef LOCKSTEP_DATA_DATASET_CACHE_H
#define LOCKSTEP_DATA_DATASET_CACHE_H

#include "dataset_format.h"

// Memory for the values of `stored`, of which the system gives only what is used. LS_INTERNAL.
LsStatus ls_cache_create(const LsStored *stored, LsCache **out);
void ls_cache_destroy(LsCache *cache); // accepts NULL

// Sets *out to `count` rows from `row` on, loading what they lie in when that is not there yet. Any number of
// threads may ask. `deflated` is the caller's room for a chunk (ls_stored_deflated_bytes) when the set is
// chunked. LS_BAD_DATA, LS_IO.
LsStatus ls_cache_rows(const LsDataset *dataset, const LsStored *stored, LsCache *cache, uint64_t row,
    size_t count, uint8_t *deflated, const uint8_t **out);

#endif
