#include "collective.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "device/tensor.h"

static uint32_t rank_of(const LsCollective *c)
{
    return (uint32_t)ls_comm_rank(c->options.comm);
}

static uint32_t ranks_of(const LsCollective *c)
{
    return (uint32_t)ls_comm_size(c->options.comm);
}

static bool gathers_only(const LsCollective *c)
{
    return c->options.call == LS_LIBRARY_ALL_GATHER;
}

// Elements of a range of the padded message, from `first` on, that are the message's.
static size_t in_message(const LsCollective *c, size_t first, size_t count)
{
    size_t left = c->elements > first ? c->elements - first : 0;
    return count < left ? count : left;
}

// What a gather makes whole.
static float *gathered(const LsCollective *c)
{
    return gathers_only(c) ? c->slot[0] : c->result;
}

// ---- Memory ---------------------------------------------------------------------------------------------

static LsStatus allocate_ordinary(LsCollective *c, size_t elements, float **out)
{
    LsDevice *device = c->options.device;
    LS_TRY(device->ops->allocate(device, elements * sizeof **out, (void **)out));
    LS_TRY(device->ops->zero(device, *out, elements * sizeof **out));
    return device->ops->synchronize(device);
}

// NCCL moves registered memory best, which the communicator's is; MPI takes any.
static LsStatus allocate_for_library(LsCollective *c, size_t elements, float **out)
{
    if (c->options.device->discrete)
        return ls_comm_allocate(c->options.comm, elements * sizeof **out, (void **)out);
    return allocate_ordinary(c, elements, out);
}

static LsStatus allocate_memory(LsCollective *c)
{
    uint32_t subtrees = gathers_only(c) ? 1 : c->plan.share.subtrees;
    for (uint32_t s = 0; s < subtrees; s++)
        LS_TRY(allocate_ordinary(c, c->padded, &c->ordinary[s]));
    return ls_memory_allocate(c->room * sizeof *c->host, (void **)&c->host);
}

// What is the communicator's is allocated by all ranks in one order.
static LsStatus allocate_shared(LsCollective *c)
{
    uint32_t slots = gathers_only(c) ? 1 : c->plan.lane_slots;
    LS_TRY(ls_memory_allocate(c->plan.lane_slots * sizeof *c->slot, (void **)&c->slot));
    for (uint32_t s = 0; s < slots; s++)
        LS_TRY(ls_comm_allocate(c->options.comm, c->padded * sizeof(float), (void **)&c->slot[s]));
    for (uint32_t s = 0; c->options.rounded && s < c->plan.share.subtrees; s++)
        LS_TRY(ls_comm_allocate(c->options.comm, c->padded * sizeof(uint16_t), (void **)&c->half[s]));
    if (!gathers_only(c))
        LS_TRY(ls_comm_allocate_common(c->options.comm, c->padded * sizeof(float), (void **)&c->result));
    LS_TRY(allocate_for_library(c, c->room, &c->from));
    return allocate_for_library(c, c->room, &c->to);
}

// ---- Numbers --------------------------------------------------------------------------------------------

static LsStatus upload(LsCollective *c, float *to, size_t elements)
{
    LsDevice *device = c->options.device;
    LS_TRY(device->ops->copy_in(device, to, c->host, elements * sizeof *to));
    return device->ops->synchronize(device); // `host` is used again
}

// What the exact reduction adds up: `count` elements of subtree s from ordinary memory.
static LsStatus put_sum(LsCollective *c, uint32_t s, size_t first, size_t count)
{
    LsDevice *device = c->options.device;
    const float *from = c->ordinary[s] + first;
    if (!c->half[s])
        return device->ops->copy(device, c->slot[s] + first, from, count * sizeof *from);
    return device->ops->cast(device,
        &(LsCast){
            .n = count, .from = from, .from_type = LS_F32, .to = c->half[s] + first, .to_type = LS_BF16});
}

// Every rank has its pieces of the buckets, or its part of the message.
static LsStatus write_parts(LsCollective *c)
{
    uint32_t rank = rank_of(c);
    for (size_t b = 0; b < c->buckets.count; b++) {
        LsBlockRange piece = ls_bucket_piece(&c->buckets, b, ranks_of(c), rank);
        size_t first = piece.first * LS_BLOCK;
        ls_collective_part(rank, first, piece.count * LS_BLOCK, c->host + first);
    }
    LS_TRY(upload(c, c->ordinary[0], c->padded));
    ls_collective_part(rank, rank * c->part, c->part, c->host);
    return upload(c, c->from, c->part);
}

static LsStatus write_sums(LsCollective *c)
{
    const LsLaneShare *share = &c->plan.share;
    for (uint32_t s = 0; s < share->subtrees; s++) {
        ls_collective_sum(share->subtree[s].first, share->subtree[s].count,
            c->options.rounded ? LS_SUM_ROUNDED : LS_SUM_TREE, 0, c->padded, c->host);
        LS_TRY(upload(c, c->ordinary[s], c->padded));
    }
    ls_collective_sum(share->first, share->count, LS_SUM_IN_A_ROW, 0, c->room, c->host);
    return upload(c, c->from, c->room);
}

bool ls_collective_has(const LsCollective *c, LsContender contender)
{
    return !gathers_only(c) || contender == LS_CONTENDER_EXACT || contender == LS_CONTENDER_LIBRARY;
}

LsStatus ls_collective_fill(LsCollective *c, LsContender contender)
{
    LsDevice *device = c->options.device;
    for (size_t b = 0; c->result && b < c->buckets.count;
         b++) { // no earlier contender's sums are taken for its
        LsBlockRange piece = ls_bucket_piece(&c->buckets, b, ranks_of(c), rank_of(c));
        LS_TRY(device->ops->zero(
            device, c->result + piece.first * LS_BLOCK, piece.count * LS_BLOCK * sizeof(float)));
    }
    if (contender == LS_CONTENDER_LIBRARY)
        LS_TRY(device->ops->zero(device, c->to, c->room * sizeof *c->to));
    else if (contender == LS_CONTENDER_FAST)
        LS_TRY(device->ops->copy(device, c->slot[0], c->from, c->padded * sizeof(float)));
    else
        for (uint32_t s = 0; s < LS_SUBTREES_MAX && c->ordinary[s]; s++)
            LS_TRY(put_sum(c, s, 0, c->padded));
    return device->ops->synchronize(device);
}

// ---- Set-up ---------------------------------------------------------------------------------------------

static LsStatus create_reducers(LsCollective *c)
{
    LsComm *comm = c->options.comm;
    LsReducerOptions options = {.plan = &c->plan,
        .buckets = &c->buckets,
        .slot = c->slot,
        .result = c->result,
        .elements = c->elements,
        .meets = c->options.call == LS_LIBRARY_ALL_REDUCE}; // in its gather
    if (gathers_only(c))
        return LS_OK;
    options.reduction = LS_REDUCTION_EXACT;
    options.rounded = c->options.rounded ? c->half : NULL;
    LS_TRY(ls_comm_agree(comm, ls_reducer_create(comm, &options, &c->exact)));
    options.rounded = NULL;
    options.reduction = LS_REDUCTION_FAST;
    return ls_comm_agree(comm, ls_reducer_create(comm, &options, &c->fast));
}

// As training chooses it.
LsStatus ls_collective_plan(const LsCollectiveOptions *options, uint32_t rank, LsPlan *out)
{
    return ls_plan_choose_hosts(
        options->lanes, (uint32_t)ls_comm_size(options->comm), rank, options->hosts, out);
}

static LsStatus prepare(LsCollective *c)
{
    LsDevice *device = c->options.device;
    LS_TRY(ls_collective_plan(&c->options, rank_of(c), &c->plan));
    LS_TRY(ls_buckets_create(c->padded / LS_BLOCK, c->options.bucket_bytes, &c->buckets));
    LS_TRY(device->ops->marker_create(device, &c->done));
    return allocate_memory(c);
}

LsStatus ls_collective_create(const LsCollectiveOptions *options, size_t bytes, LsCollective *out)
{
    LsComm *comm = options->comm;
    size_t ranks = (size_t)ls_comm_size(comm), elements = bytes / sizeof(float);
    *out = (LsCollective){.options = *options, .elements = elements};
    out->padded = ls_round_up(elements, LS_BLOCK);
    out->part = (elements + ranks - 1) / ranks;
    out->room = out->part * ranks > out->padded ? out->part * ranks : out->padded;
    LsStatus status = ls_comm_agree(comm, prepare(out));
    if (status == LS_OK)
        status = ls_comm_agree(comm, allocate_shared(out));
    if (status == LS_OK)
        status = ls_comm_agree(comm, gathers_only(out) ? write_parts(out) : write_sums(out));
    if (status == LS_OK)
        status = create_reducers(out);
    if (status != LS_OK)
        ls_collective_destroy(out);
    return status;
}

static void release_for_library(LsCollective *c, float *memory)
{
    if (c->options.device->discrete)
        ls_comm_release(c->options.comm, memory);
    else
        c->options.device->ops->release(c->options.device, memory);
}

void ls_collective_destroy(LsCollective *c)
{
    LsDevice *device = c->options.device;
    ls_reducer_destroy(c->fast);
    ls_reducer_destroy(c->exact);
    release_for_library(c, c->to);
    release_for_library(c, c->from);
    ls_comm_release(c->options.comm, c->result);
    for (uint32_t s = 0; s < LS_SUBTREES_MAX; s++)
        ls_comm_release(c->options.comm, c->half[s]);
    for (uint32_t s = 0; c->slot && s < c->plan.lane_slots; s++)
        ls_comm_release(c->options.comm, c->slot[s]);
    free(c->slot);
    free(c->host);
    for (uint32_t s = 0; s < LS_SUBTREES_MAX; s++)
        device->ops->release(device, c->ordinary[s]);
    device->ops->marker_destroy(device, c->done);
    ls_buckets_free(&c->buckets);
    ls_plan_free(&c->plan);
    *c = (LsCollective){0};
}

// ---- Running --------------------------------------------------------------------------------------------

// As backward does it: bucket after bucket becomes final and is begun at once.
static LsStatus reduce(LsCollective *c, LsReducer *reducer, bool copied)
{
    LsDevice *device = c->options.device;
    for (size_t b = 0; b < c->buckets.count; b++) {
        LsBucket bucket = c->buckets.bucket[b];
        size_t first = bucket.first_block * LS_BLOCK;
        for (uint32_t s = 0; copied && s < c->plan.share.subtrees; s++)
            LS_TRY(put_sum(c, s, first, in_message(c, first, bucket.blocks * LS_BLOCK)));
        LS_TRY(device->ops->marker_record(device, ls_reducer_final(reducer, b)));
        LS_TRY(ls_reducer_begin(reducer, b));
    }
    return ls_reducer_finish(reducer);
}

static LsStatus call_library(LsCollective *c)
{
    LsLibraryCall call = c->options.call;
    size_t elements = call == LS_LIBRARY_ALL_REDUCE       ? c->elements
                      : call == LS_LIBRARY_REDUCE_SCATTER ? c->part * ranks_of(c)
                                                          : c->part;
    return ls_comm_library(c->options.comm, call, c->from, c->to, elements);
}

LsStatus ls_collective_run(LsCollective *c, LsContender contender)
{
    if (contender == LS_CONTENDER_LIBRARY)
        return call_library(c);
    if (!gathers_only(c))
        LS_TRY(
            reduce(c, contender == LS_CONTENDER_FAST ? c->fast : c->exact, contender == LS_CONTENDER_COPIED));
    if (c->options.call == LS_LIBRARY_REDUCE_SCATTER)
        return LS_OK;
    return ls_comm_gather_shards(c->options.comm, &c->buckets, gathered(c), sizeof(float));
}

LsStatus ls_collective_wait(LsCollective *c)
{
    LsDevice *device = c->options.device;
    LS_TRY(device->ops->marker_record(device, c->done));
    return ls_comm_wait_marker(c->options.comm, c->done, "the device to finish a collective call");
}

// ---- Checking -------------------------------------------------------------------------------------------

static size_t count_wrong_part(uint32_t owner, size_t start, size_t n, const float *found)
{
    size_t wrong = 0;
    for (size_t i = 0; i < n; i++) {
        float expected;
        ls_collective_part(owner, start + i, 1, &expected);
        wrong += memcmp(&expected, &found[i], sizeof expected) != 0;
    }
    return wrong;
}

static size_t check_gather(const LsCollective *c, LsContender contender)
{
    size_t wrong = 0;
    for (uint32_t r = 0; r < ranks_of(c); r++) {
        if (contender == LS_CONTENDER_LIBRARY) {
            wrong += count_wrong_part(r, r * c->part, c->part, c->host + r * c->part);
            continue;
        }
        for (size_t b = 0; b < c->buckets.count; b++) {
            LsBlockRange piece = ls_bucket_piece(&c->buckets, b, ranks_of(c), r);
            size_t first = piece.first * LS_BLOCK;
            wrong += count_wrong_part(r, first, piece.count * LS_BLOCK, c->host + first);
        }
    }
    return wrong;
}

static size_t check_scatter(const LsCollective *c, LsContender contender, LsSumOrder order)
{
    uint32_t lanes = c->options.lanes;
    if (contender == LS_CONTENDER_LIBRARY)
        return ls_collective_count_wrong(lanes, order, rank_of(c) * c->part, c->part, c->host);
    size_t wrong = 0;
    for (size_t b = 0; b < c->buckets.count; b++) {
        LsBlockRange piece = ls_bucket_piece(&c->buckets, b, ranks_of(c), rank_of(c));
        size_t first = piece.first * LS_BLOCK;
        size_t count = in_message(c, first, piece.count * LS_BLOCK);
        wrong += ls_collective_count_wrong(lanes, order, first, count, c->host + first);
    }
    return wrong;
}

LsStatus ls_collective_check(LsCollective *c, LsContender contender, size_t *wrong)
{
    LsDevice *device = c->options.device;
    bool library = contender == LS_CONTENDER_LIBRARY;
    bool exact = contender == LS_CONTENDER_EXACT || contender == LS_CONTENDER_COPIED;
    LsSumOrder order = !exact ? LS_SUM_IN_A_ROW : c->options.rounded ? LS_SUM_ROUNDED : LS_SUM_TREE;
    size_t elements = library ? c->room : c->padded;
    LS_TRY(device->ops->copy_out(device, c->host, library ? c->to : gathered(c), elements * sizeof *c->host));
    LS_TRY(ls_collective_wait(c));
    switch (c->options.call) {
    case LS_LIBRARY_ALL_REDUCE:
        *wrong = ls_collective_count_wrong(c->options.lanes, order, 0, c->elements, c->host);
        break;
    case LS_LIBRARY_REDUCE_SCATTER:
        *wrong = check_scatter(c, contender, order);
        break;
    case LS_LIBRARY_ALL_GATHER:
        *wrong = check_gather(c, contender);
        break;
    }
    return LS_OK;
}
