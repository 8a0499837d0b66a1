#include "collectives/buckets.h"

#include <stdlib.h>

#include "base/memory.h"
#include "device/tensor.h"

size_t ls_bucket_bytes(double mebibytes)
{
    return (size_t)((mebibytes > 0 ? mebibytes : LS_BUCKET_MB) * 1024 * 1024);
}

LsStatus ls_buckets_create(size_t blocks, size_t bucket_bytes, LsBuckets *out)
{
    if (blocks == 0)
        return LS_FAIL(LS_INTERNAL, "buckets of an empty buffer");
    size_t usual = bucket_bytes / (LS_BLOCK * sizeof(float));
    usual = usual ? usual : 1;
    size_t early = usual / 4 ? usual / 4 : 1;
    early = early < blocks ? early : blocks;

    // What the first bucket leaves is cut evenly, so that no sliver remains at the start of the buffer.
    size_t rest = blocks - early, others = rest / usual + (rest % usual != 0);
    LsBuckets buckets = {.count = 1 + others, .blocks = blocks};
    size_t bytes;
    if (!ls_size_multiply(buckets.count, sizeof *buckets.bucket, &bytes))
        return LS_FAIL(LS_INTERNAL, "%zu buckets do not fit in memory", buckets.count);
    LS_TRY(ls_memory_allocate(bytes, (void **)&buckets.bucket));

    buckets.bucket[0] = (LsBucket){rest, early};
    size_t end = rest;
    for (size_t i = 0; i < others; i++) {
        size_t taken = rest / others + (i < rest % others);
        end -= taken;
        buckets.bucket[1 + i] = (LsBucket){end, taken};
    }
    *out = buckets;
    return LS_OK;
}

void ls_buckets_free(LsBuckets *buckets)
{
    if (!buckets)
        return;
    free(buckets->bucket);
    *buckets = (LsBuckets){0};
}

LsBlockRange ls_bucket_piece(const LsBuckets *buckets, size_t b, uint32_t ranks, uint32_t rank)
{
    LsBlockRange piece = ls_piece(buckets->bucket[b].blocks, ranks, rank);
    piece.first += buckets->bucket[b].first_block;
    return piece;
}

size_t ls_shard_blocks(const LsBuckets *buckets, uint32_t ranks, uint32_t rank)
{
    return ls_shard_offset(buckets, buckets->count, ranks, rank);
}

size_t ls_shard_offset(const LsBuckets *buckets, size_t b, uint32_t ranks, uint32_t rank)
{
    size_t blocks = 0;
    for (size_t i = 0; i < b; i++)
        blocks += ls_piece(buckets->bucket[i].blocks, ranks, rank).count;
    return blocks;
}

size_t ls_span_blocks(LsBucket bucket, uint32_t ranks, LsPieceSpan span)
{
    return ls_piece(bucket.blocks, ranks, span.first + span.count).first -
           ls_piece(bucket.blocks, ranks, span.first).first;
}

size_t ls_sent_blocks(const LsBuckets *buckets, const LsPlan *plan, bool in_place)
{
    size_t blocks = 0;
    size_t first = in_place && plan->host.count > 0 && plan->phases > 0 ? plan->phase[0].transfers : 0;
    for (size_t i = first; i < plan->transfers; i++) {
        const LsTransfer *t = &plan->transfer[i];
        for (size_t b = 0; b < buckets->count && t->kind == LS_SEND; b++)
            blocks +=
                ls_span_blocks(buckets->bucket[b], plan->ranks, (LsPieceSpan){t->first_piece, t->pieces});
    }
    return blocks;
}
