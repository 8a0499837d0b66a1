#include "exchange.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

_Static_assert(sizeof(LsVotes) == LS_VOTE_WORDS * sizeof(uint32_t), "votes travel as words");

// Host copies of the index tables, filled rank by rank: the words of rank r start at `start`.
typedef struct Indexes {
    uint32_t *lane, *block;
} Indexes;

static LsStatus lay_out_rank(LsExchange *exchange, const LsPlan *plan, const LsBuckets *buckets,
    uint32_t rank, size_t start, const Indexes *indexes)
{
    LsLaneShare share;
    LS_TRY(ls_lane_share(plan->lanes, plan->ranks, rank, &share));
    size_t word = start + LS_VOTE_WORDS;
    for (uint32_t l = 0; l < share.count; l++)
        indexes->lane[share.first + l] = (uint32_t)word++;
    for (size_t b = 0; b < buckets->count; b++) {
        LsBlockRange piece = ls_bucket_piece(buckets, b, plan->ranks, rank);
        for (size_t i = 0; i < piece.count; i++)
            indexes->block[piece.first + i] = (uint32_t)word++;
    }
    exchange->bytes[rank] = (word - start) * sizeof(uint32_t);
    return LS_OK;
}

static LsStatus lay_out(
    LsExchange *exchange, const LsPlan *plan, const LsBuckets *buckets, const Indexes *indexes)
{
    size_t start = 0;
    for (uint32_t r = 0; r < plan->ranks; r++) {
        LS_TRY(lay_out_rank(exchange, plan, buckets, r, start, indexes));
        start += exchange->bytes[r] / sizeof(uint32_t);
    }
    exchange->total_words = start;
    return LS_OK;
}

static LsStatus upload_index(LsDevice *device, const uint32_t *host, size_t count, uint32_t **out)
{
    void *memory = NULL;
    LS_TRY(device->ops->allocate(device, count * sizeof *host, &memory));
    *out = memory;
    LS_TRY(device->ops->copy_in(device, memory, host, count * sizeof *host));
    return device->ops->synchronize(device);
}

static LsStatus allocate_words(LsExchange *exchange)
{
    LsDevice *device = exchange->device;
    size_t mine = exchange->my_lanes + exchange->my_blocks;
    LS_TRY(ls_memory_allocate((mine + LS_VOTE_WORDS) * sizeof(uint32_t), (void **)&exchange->mine));
    LS_TRY(ls_memory_allocate(exchange->total_words * sizeof(uint32_t), (void **)&exchange->all));
    LS_TRY(device->ops->allocate(device, mine * sizeof(float), (void **)&exchange->device_mine));
    return device->ops->allocate(
        device, exchange->total_words * sizeof(float), (void **)&exchange->device_all);
}

static LsStatus set_up(LsExchange *exchange, const LsPlan *plan, const LsBuckets *buckets)
{
    Indexes indexes = {0};
    LS_TRY(ls_memory_allocate(plan->ranks * sizeof(size_t), (void **)&exchange->bytes));
    LsStatus status = ls_memory_allocate(plan->lanes * sizeof(uint32_t), (void **)&indexes.lane);
    if (status == LS_OK)
        status = ls_memory_allocate(buckets->blocks * sizeof(uint32_t), (void **)&indexes.block);
    if (status == LS_OK)
        status = lay_out(exchange, plan, buckets, &indexes);
    if (status == LS_OK)
        status = upload_index(exchange->device, indexes.lane, plan->lanes, &exchange->lane_index);
    if (status == LS_OK)
        status = upload_index(exchange->device, indexes.block, buckets->blocks, &exchange->block_index);
    if (status == LS_OK)
        status = allocate_words(exchange);
    free(indexes.block);
    free(indexes.lane);
    return status;
}

LsStatus ls_exchange_create(
    LsComm *comm, LsDevice *device, const LsPlan *plan, const LsBuckets *buckets, LsExchange *out)
{
    LsExchange exchange = {
        .comm = comm,
        .device = device,
        .lanes = plan->lanes,
        .blocks = buckets->blocks,
        .my_lanes = plan->share.count,
        .my_blocks = ls_shard_blocks(buckets, plan->ranks, plan->rank),
        .ranks = plan->ranks,
    };
    LsStatus status = set_up(&exchange, plan, buckets);
    if (status != LS_OK) {
        ls_exchange_destroy(&exchange);
        return status;
    }
    *out = exchange;
    return LS_OK;
}

void ls_exchange_destroy(LsExchange *exchange)
{
    if (!exchange->device)
        return;
    LsDevice *device = exchange->device;
    void *device_memory[] = {
        exchange->device_all, exchange->device_mine, exchange->block_index, exchange->lane_index};
    for (size_t i = 0; i < sizeof device_memory / sizeof *device_memory; i++)
        if (device_memory[i])
            device->ops->release(device, device_memory[i]);
    free(exchange->all);
    free(exchange->mine);
    free(exchange->bytes);
    memset(exchange, 0, sizeof *exchange);
}

float *ls_exchange_lane_loss(const LsExchange *exchange, size_t my_lane)
{
    return exchange->device_mine + my_lane;
}

float *ls_exchange_block_squares(const LsExchange *exchange, size_t shard_block)
{
    return exchange->device_mine + exchange->my_lanes + shard_block;
}

static void combine_votes(const LsExchange *exchange, LsVotes *combined)
{
    uint32_t most[LS_VOTE_WORDS] = {0};
    const uint32_t *words = exchange->all;
    for (size_t r = 0; r < exchange->ranks; r++) {
        for (size_t v = 0; v < LS_VOTE_WORDS; v++)
            most[v] = words[v] > most[v] ? words[v] : most[v];
        words += exchange->bytes[r] / sizeof *words;
    }
    memcpy(combined, most, sizeof *combined);
}

LsStatus ls_exchange_run(LsExchange *exchange, const LsVotes *mine, LsVotes *combined)
{
    LsDevice *device = exchange->device;
    size_t numbers = exchange->my_lanes + exchange->my_blocks;
    memcpy(exchange->mine, mine, sizeof *mine);
    LS_TRY(device->ops->copy_out(
        device, exchange->mine + LS_VOTE_WORDS, exchange->device_mine, numbers * sizeof(float)));
    LS_TRY(device->ops->synchronize(device));
    LS_TRY(ls_comm_all_gather(exchange->comm, exchange->mine, exchange->all, exchange->bytes));
    LS_TRY(device->ops->copy_in(
        device, exchange->device_all, exchange->all, exchange->total_words * sizeof(float)));
    combine_votes(exchange, combined);
    return LS_OK;
}
