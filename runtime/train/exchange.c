#include "exchange.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

_Static_assert(sizeof(LsVotes) == LS_VOTE_WORDS * sizeof(float), "votes travel as words");

static LsStatus words_of_rank(const LsExchange *exchange, const LsPlan *plan, const LsBuckets *buckets,
    uint32_t rank, LsLaneShare *share, size_t *words)
{
    LS_TRY(ls_plan_lanes(plan, rank, share));
    size_t blocks = ls_shard_blocks(buckets, plan->ranks, rank);
    *words = LS_VOTE_WORDS + exchange->check_words + share->count + blocks * (exchange->weights ? 2 : 1);
    return LS_OK;
}

static LsStatus find_rank_words(LsExchange *exchange, const LsPlan *plan, const LsBuckets *buckets)
{
    for (uint32_t r = 0; r < plan->ranks; r++) {
        LsLaneShare share;
        size_t words = 0;
        LS_TRY(words_of_rank(exchange, plan, buckets, r, &share, &words));
        exchange->rank_words = words > exchange->rank_words ? words : exchange->rank_words;
    }
    return LS_OK;
}

// Where each lane's loss and each block's sum is among the gathered words.
static LsStatus lay_out(
    const LsExchange *exchange, const LsPlan *plan, const LsBuckets *buckets, uint32_t *lane, uint32_t *block)
{
    for (uint32_t r = 0; r < plan->ranks; r++) {
        LsLaneShare share;
        LS_TRY(ls_plan_lanes(plan, r, &share));
        size_t word = r * exchange->rank_words + LS_VOTE_WORDS + exchange->check_words;
        for (uint32_t l = 0; l < share.count; l++)
            lane[share.first + l * share.stride] = (uint32_t)word++;
        for (size_t b = 0; b < buckets->count; b++) {
            LsBlockRange piece = ls_bucket_piece(buckets, b, plan->ranks, r);
            for (size_t i = 0; i < piece.count; i++)
                block[piece.first + i] = (uint32_t)word++;
        }
    }
    return LS_OK;
}

// Behind the squares of a rank's gradients come those of its weights.
static void lay_out_weights(
    const LsPlan *plan, const LsBuckets *buckets, const uint32_t *block, uint32_t *weight)
{
    for (uint32_t r = 0; r < plan->ranks; r++) {
        uint32_t blocks = (uint32_t)ls_shard_blocks(buckets, plan->ranks, r);
        for (size_t b = 0; b < buckets->count; b++) {
            LsBlockRange piece = ls_bucket_piece(buckets, b, plan->ranks, r);
            for (size_t i = piece.first; i < piece.first + piece.count; i++)
                weight[i] = block[i] + blocks;
        }
    }
}

static LsStatus upload_index(LsDevice *device, const uint32_t *host, size_t count, uint32_t **out)
{
    void *memory = NULL;
    LS_TRY(device->ops->allocate(device, count * sizeof *host, &memory));
    *out = memory;
    LS_TRY(device->ops->copy_in(device, memory, host, count * sizeof *host));
    return device->ops->synchronize(device);
}

static LsStatus upload_indexes(LsExchange *exchange, const LsPlan *plan, const LsBuckets *buckets)
{
    uint32_t *lane = NULL, *block = NULL, *weight = NULL;
    LsStatus status = ls_memory_allocate(plan->lanes * sizeof *lane, (void **)&lane);
    if (status == LS_OK)
        status = ls_memory_allocate(buckets->blocks * sizeof *block, (void **)&block);
    if (status == LS_OK)
        status = ls_memory_allocate(buckets->blocks * sizeof *weight, (void **)&weight);
    if (status == LS_OK)
        status = lay_out(exchange, plan, buckets, lane, block);
    if (status == LS_OK)
        status = upload_index(exchange->device, lane, plan->lanes, &exchange->lane_index);
    if (status == LS_OK)
        status = upload_index(exchange->device, block, buckets->blocks, &exchange->block_index);
    if (status == LS_OK && exchange->weights) {
        lay_out_weights(plan, buckets, block, weight);
        status = upload_index(exchange->device, weight, buckets->blocks, &exchange->weight_index);
    }
    free(weight);
    free(block);
    free(lane);
    return status;
}

static LsStatus set_up(LsExchange *exchange, const LsPlan *plan, const LsBuckets *buckets)
{
    LsDevice *device = exchange->device;
    void *words = NULL, *votes = NULL;
    LS_TRY(find_rank_words(exchange, plan, buckets));
    LS_TRY(upload_indexes(exchange, plan, buckets));
    LS_TRY(device->ops->allocate_host(device, LS_STEPS_IN_FLIGHT * sizeof(LsVotes), &votes));
    exchange->votes = votes;
    // Zeros: no votes, and padding that has a value.
    LS_TRY(ls_comm_allocate(
        exchange->comm, exchange->ranks * exchange->rank_words * sizeof *exchange->words, &words));
    exchange->words = words;
    return LS_OK;
}

LsStatus ls_exchange_create(LsComm *comm, LsDevice *device, const LsPlan *plan, const LsBuckets *buckets,
    bool checks, bool weights, LsExchange *out)
{
    LsExchange exchange = {
        .comm = comm,
        .device = device,
        .lanes = plan->lanes,
        .blocks = buckets->blocks,
        .my_lanes = plan->share.count,
        .my_blocks = ls_shard_blocks(buckets, plan->ranks, plan->rank),
        .weights = weights,
        .check_words = checks ? LS_CHECK_ROLES * LS_CHECK_WORDS : 0,
        .ranks = plan->ranks,
        .rank = plan->rank,
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
    LsDevice *device = exchange->device;
    if (!device)
        return;
    if (exchange->words)
        ls_comm_release(exchange->comm, exchange->words);
    if (exchange->votes)
        device->ops->release_host(device, exchange->votes);
    device->ops->release(device, exchange->weight_index);
    device->ops->release(device, exchange->block_index);
    device->ops->release(device, exchange->lane_index);
    memset(exchange, 0, sizeof *exchange);
}

// This rank's words.
static float *words_of_mine(const LsExchange *exchange)
{
    return exchange->words + exchange->rank * exchange->rank_words;
}

float *ls_exchange_lane_loss(const LsExchange *exchange, size_t my_lane)
{
    return words_of_mine(exchange) + LS_VOTE_WORDS + exchange->check_words + my_lane;
}

float *ls_exchange_block_squares(const LsExchange *exchange, size_t shard_block)
{
    return words_of_mine(exchange) + LS_VOTE_WORDS + exchange->check_words + exchange->my_lanes + shard_block;
}

float *ls_exchange_weight_squares(const LsExchange *exchange, size_t shard_block)
{
    return ls_exchange_block_squares(exchange, exchange->my_blocks + shard_block);
}

size_t ls_exchange_finding_word(const LsExchange *exchange, size_t rank, LsCheckRole role)
{
    return rank * exchange->rank_words + LS_VOTE_WORDS + (size_t)role * LS_CHECK_WORDS;
}

float *ls_exchange_finding(const LsExchange *exchange, LsCheckRole role)
{
    return exchange->words + ls_exchange_finding_word(exchange, exchange->rank, role);
}

LsStatus ls_exchange_run(LsExchange *exchange, int64_t step, const LsVotes *mine)
{
    LsDevice *device = exchange->device;
    float *words = words_of_mine(exchange);
    // Votes seldom change, and what does not change is there already.
    if (memcmp(mine, &exchange->sent, sizeof *mine) != 0) {
        LsVotes *slot = &exchange->votes[step % LS_STEPS_IN_FLIGHT];
        *slot = *mine;
        LS_TRY(device->ops->copy_in(device, words, slot, sizeof *slot));
        exchange->sent = *mine;
    }
    if (exchange->ranks == 1)
        return LS_OK;
    return ls_comm_gather_device(
        exchange->comm, words, exchange->words, exchange->rank_words * sizeof *exchange->words);
}
