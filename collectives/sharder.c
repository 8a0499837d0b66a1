// See collectives/sharder.h. The order between streams is that of reducer.c: exchanges and additions are work
// of the communication stream, which follows the compute stream through the markers `final`; the compute
// stream follows it through the markers `reduced`, where it is about to overwrite what they read.
#include "collectives/sharder.h"

#include <stdlib.h>

#include "backend.h"
#include "base/memory.h"
#include "device/tensor.h"
#include "reducer_program.h"

enum { FULL, RAGGED, KINDS }; // rounds in which all ranks have a lane, and the last one if some have none

typedef struct Bucket {
    LsMarker *final, *reduced;
    LsExchange *exchange[KINDS]; // NULL: nothing moves
    uint32_t round;              // the newest
    bool active;                 // its transfers or additions are missing
    bool unseen;                 // the compute stream has not been told that it is reduced
} Bucket;

struct LsSharder {
    LsComm *comm;
    LsDevice *device;
    const LsRounds *rounds;
    const LsBuckets *buckets;
    float *const *gradient;
    float *const *sum;
    LsDtype type;              // of what is sent, received and added: BF16 where sums are rounded
    LsReducerProgram *program; // [rounds]
    char *staging;
    size_t set_blocks; // of staging, for one bucket under way
    char *rounded;     // gradients of LS_SHARDER_SETS buckets and then the sums, where they are rounded
    size_t rounded_set_blocks;
    Bucket *bucket; // [buckets->count]
};

static const LsTransportOps *transport_ops(const LsSharder *s)
{
    return s->comm->transport->ops;
}

// ---- Places ---------------------------------------------------------------------------------------------

static size_t own_blocks(const LsSharder *s, size_t b)
{
    return ls_piece(s->buckets->bucket[b].blocks, s->rounds->ranks, s->rounds->rank).count;
}

static void *block_of(const LsSharder *s, const void *array, size_t block)
{
    return (char *)array + block * LS_BLOCK * ls_dtype_size(s->type);
}

static void *gradient_place(const LsSharder *s, size_t b)
{
    return s->rounded ? block_of(s, s->rounded, b % LS_SHARDER_SETS * s->rounded_set_blocks) : s->gradient[b];
}

static void *sum_place(const LsSharder *s, size_t sum)
{
    size_t shard = ls_shard_blocks(s->buckets, s->rounds->ranks, s->rounds->rank);
    size_t first = LS_SHARDER_SETS * s->rounded_set_blocks + sum * shard;
    return s->rounded ? block_of(s, s->rounded, first) : s->sum[sum];
}

static size_t shard_offset(const LsSharder *s, size_t b)
{
    return ls_shard_offset(s->buckets, b, s->rounds->ranks, s->rounds->rank);
}

// Where slot `slot` has piece `piece` of bucket b; but for slot 0 that is this rank's piece.
static void *place(const LsSharder *s, size_t b, uint32_t slot, uint32_t piece)
{
    const LsRounds *rounds = s->rounds;
    if (slot == 0)
        return block_of(
            s, gradient_place(s, b), ls_piece(s->buckets->bucket[b].blocks, rounds->ranks, piece).first);
    if (slot >= rounds->first_sum)
        return block_of(s, sum_place(s, slot - rounds->first_sum), shard_offset(s, b));
    return block_of(s, s->staging, b % LS_SHARDER_SETS * s->set_blocks + (slot - 1) * own_blocks(s, b));
}

// ---- Set-up ---------------------------------------------------------------------------------------------

// Received blocks of the bucket that has most.
static size_t blocks_of_set(const LsRounds *rounds, const LsBuckets *buckets)
{
    size_t most = 0;
    for (size_t b = 0; b < buckets->count; b++) {
        size_t blocks = ls_piece(buckets->bucket[b].blocks, rounds->ranks, rounds->rank).count;
        most = blocks > most ? blocks : most;
    }
    return most * (rounds->ranks - 1);
}

static size_t largest_bucket(const LsBuckets *buckets)
{
    size_t most = 0;
    for (size_t b = 0; b < buckets->count; b++)
        most = buckets->bucket[b].blocks > most ? buckets->bucket[b].blocks : most;
    return most;
}

// Blocks of gradients to send and of sums, rounded.
static size_t rounded_blocks(const LsRounds *rounds, const LsBuckets *buckets)
{
    return LS_SHARDER_SETS * largest_bucket(buckets) +
           rounds->sums * ls_shard_blocks(buckets, rounds->ranks, rounds->rank);
}

size_t ls_sharder_bytes(const LsRounds *rounds, const LsBuckets *buckets, bool rounded)
{
    size_t blocks = LS_SHARDER_SETS * blocks_of_set(rounds, buckets);
    if (!rounded)
        return blocks * LS_BLOCK * ls_dtype_size(LS_F32);
    return (blocks + rounded_blocks(rounds, buckets)) * LS_BLOCK * ls_dtype_size(LS_BF16);
}

static LsStatus prepare(LsSharder *s, size_t b, const LsPlan *plan, LsExchange **out)
{
    if (plan->transfers == 0)
        return LS_OK;
    LS_TRY(transport_ops(s)->exchange_create(s->comm->transport, plan->transfers, out));
    for (size_t i = 0; i < plan->transfers; i++) {
        const LsTransfer *t = &plan->transfer[i];
        size_t blocks = ls_piece(s->buckets->bucket[b].blocks, plan->ranks, t->first_piece).count;
        if (blocks > 0)
            LS_TRY(transport_ops(s)->exchange_add(*out, t->kind, place(s, b, t->slot, t->first_piece), blocks,
                ls_dtype_size(s->type), t->peer, b));
    }
    return LS_OK;
}

static LsStatus create_bucket(LsSharder *s, size_t b)
{
    Bucket *bucket = &s->bucket[b];
    const LsRounds *rounds = s->rounds;
    LS_TRY(s->device->ops->marker_create(s->device, &bucket->final));
    LS_TRY(s->device->ops->marker_create(s->device, &bucket->reduced));
    LS_TRY(prepare(s, b, &rounds->round[0], &bucket->exchange[FULL]));
    if (rounds->lanes % rounds->ranks == 0)
        return LS_OK;
    return prepare(s, b, &rounds->round[rounds->rounds - 1], &bucket->exchange[RAGGED]);
}

static LsStatus set_up(LsSharder *s)
{
    const LsRounds *rounds = s->rounds;
    LS_TRY(ls_memory_allocate(rounds->rounds * sizeof *s->program, (void **)&s->program));
    for (uint32_t i = 0; i < rounds->rounds; i++)
        LS_TRY(ls_reducer_program_move(&rounds->round[i], rounds->move[i], rounds->moves[i], &s->program[i]));
    const LsReducerProgram *last = &s->program[rounds->rounds - 1];
    if (last->ops == 0 || last->op[last->ops - 1].output_slot != rounds->first_sum)
        return LS_FAIL(LS_INTERNAL, "the last round's last addition does not make the sum");
    s->set_blocks = blocks_of_set(rounds, s->buckets);
    size_t block = LS_BLOCK * ls_dtype_size(s->type);
    if (s->set_blocks > 0)
        LS_TRY(ls_comm_allocate(s->comm, LS_SHARDER_SETS * s->set_blocks * block, (void **)&s->staging));
    if (s->type == LS_BF16) {
        s->rounded_set_blocks = largest_bucket(s->buckets);
        LS_TRY(ls_comm_allocate(s->comm, rounded_blocks(rounds, s->buckets) * block, (void **)&s->rounded));
    }
    LS_TRY(ls_memory_allocate(s->buckets->count * sizeof *s->bucket, (void **)&s->bucket));
    for (size_t b = 0; b < s->buckets->count; b++)
        LS_TRY(create_bucket(s, b));
    return LS_OK;
}

LsStatus ls_sharder_create(LsComm *comm, const LsSharderOptions *options, LsSharder **out)
{
    const LsRounds *rounds = options->rounds;
    if (!comm->device || rounds->ranks != (uint32_t)comm->size || rounds->rank != (uint32_t)comm->rank)
        return LS_FAIL(LS_INTERNAL, "the rounds of rank %u of %u are not for rank %d of %d", rounds->rank,
            rounds->ranks, comm->rank, comm->size);
    LsSharder *s;
    LS_TRY(ls_memory_allocate(sizeof *s, (void **)&s));
    s->comm = comm;
    s->device = comm->device;
    s->rounds = rounds;
    s->buckets = options->buckets;
    s->gradient = options->gradient;
    s->sum = options->sum;
    s->type = options->rounded ? LS_BF16 : LS_F32;
    LsStatus status = set_up(s);
    if (status != LS_OK) {
        ls_sharder_destroy(s);
        return status;
    }
    *out = s;
    return LS_OK;
}

// The device may still be at work for what was reduced last; its memory goes when that is over.
static void wait_until_idle(LsSharder *s)
{
    const LsDeviceOps *ops = s->device->ops;
    LsMarker *last = s->bucket[0].reduced;
    ops->select_stream(s->device, LS_STREAM_COMMUNICATION);
    LsStatus status = ops->marker_record(s->device, last);
    ops->select_stream(s->device, LS_STREAM_COMPUTE);
    if (status == LS_OK)
        ls_comm_wait_marker(s->comm, last, "the last reduction");
}

void ls_sharder_destroy(LsSharder *s)
{
    if (!s)
        return;
    if (s->bucket && s->bucket[0].reduced)
        wait_until_idle(s);
    for (size_t b = 0; s->bucket && b < s->buckets->count; b++) {
        for (int kind = 0; kind < KINDS; kind++)
            if (s->bucket[b].exchange[kind])
                transport_ops(s)->exchange_destroy(s->bucket[b].exchange[kind]);
        s->device->ops->marker_destroy(s->device, s->bucket[b].reduced);
        s->device->ops->marker_destroy(s->device, s->bucket[b].final);
    }
    free(s->bucket);
    ls_comm_release(s->comm, s->rounded);
    ls_comm_release(s->comm, s->staging);
    for (uint32_t i = 0; s->program && i < s->rounds->rounds; i++)
        ls_reducer_program_free(&s->program[i]);
    free(s->program);
    free(s);
}

// ---- The step -------------------------------------------------------------------------------------------

static LsExchange *exchange_of(const LsSharder *s, size_t b)
{
    const LsRounds *rounds = s->rounds;
    bool ragged = rounds->lanes % rounds->ranks != 0 && s->bucket[b].round == rounds->rounds - 1;
    return s->bucket[b].exchange[ragged ? RAGGED : FULL];
}

// Where the whole sum comes to be, if this op makes it.
static float *total_place(const LsSharder *s, size_t b, const LsTreeOp *op)
{
    uint32_t newest = s->bucket[b].round;
    const LsReducerProgram *program = &s->program[newest];
    bool last = newest + 1 == s->rounds->rounds && op == &program->op[program->ops - 1];
    return last ? s->sum[0] + shard_offset(s, b) * LS_BLOCK : NULL;
}

static LsStatus run_tree(LsSharder *s, size_t b, const LsTreeOp *op)
{
    uint32_t rank = s->rounds->rank;
    const void *inputs[LS_TREE_INPUTS];
    float *total = total_place(s, b, op);
    for (size_t i = 0; i < op->inputs; i++)
        inputs[i] = place(s, b, op->slot[i], rank);
    return s->device->ops->tree_add(
        s->device, &(LsTreeAdd){.n = own_blocks(s, b) * LS_BLOCK,
                       .count = op->inputs,
                       .inputs = inputs,
                       .adds = op->adds,
                       .pairs = op->pairs,
                       .result = op->result,
                       .output = total ? total : place(s, b, op->output_slot, rank),
                       .type = s->type,
                       .output_type = total ? LS_F32 : s->type,
                       .rounded = s->type == LS_BF16});
}

static LsStatus advance(LsSharder *s, size_t b, size_t *outstanding)
{
    Bucket *bucket = &s->bucket[b];
    LsExchange *exchange = exchange_of(s, b);
    *outstanding = 0;
    if (!bucket->active)
        return LS_OK;
    if (exchange)
        LS_TRY(transport_ops(s)->exchange_test(exchange, outstanding));
    if (*outstanding > 0)
        return LS_OK;
    const LsReducerProgram *program = &s->program[bucket->round];
    for (size_t i = 0; i < program->ops && own_blocks(s, b) > 0; i++)
        LS_TRY(run_tree(s, b, &program->op[i]));
    bucket->active = false;
    return s->device->ops->marker_record(s->device, bucket->reduced);
}

static LsStatus advance_all(void *context, size_t *outstanding)
{
    LsSharder *s = context;
    *outstanding = 0;
    for (size_t b = 0; b < s->buckets->count; b++) {
        size_t missing;
        LS_TRY(advance(s, b, &missing));
        *outstanding += missing;
    }
    return LS_OK;
}

static void mark_pending(void *context, bool *pending)
{
    LsSharder *s = context;
    for (size_t b = 0; b < s->buckets->count; b++)
        if (s->bucket[b].active && exchange_of(s, b))
            transport_ops(s)->exchange_mark_pending(exchange_of(s, b), pending);
}

// A bucket that the caller waits for, among all that advance meanwhile.
typedef struct BucketWait {
    LsSharder *sharder;
    size_t b;
} BucketWait;

static LsStatus poll_bucket(void *context, size_t *outstanding)
{
    const BucketWait *wait = context;
    LS_TRY(advance_all(wait->sharder, outstanding));
    if (!wait->sharder->bucket[wait->b].active)
        *outstanding = 0;
    return LS_OK;
}

static void mark_bucket(void *context, bool *pending)
{
    mark_pending(((const BucketWait *)context)->sharder, pending);
}

LsMarker *ls_sharder_final(LsSharder *s, size_t b)
{
    return s->bucket[b].final;
}

LsStatus ls_sharder_release(LsSharder *s, size_t b)
{
    Bucket *bucket = &s->bucket[b];
    if (bucket->active) {
        BucketWait context = {s, b};
        s->device->ops->select_stream(s->device, LS_STREAM_COMMUNICATION);
        LsStatus status = s->comm->ops->wait(s->comm,
            &(LsWait){
                .what = "gradients", .poll = poll_bucket, .mark_pending = mark_bucket, .context = &context});
        s->device->ops->select_stream(s->device, LS_STREAM_COMPUTE);
        LS_TRY(status);
    }
    if (!bucket->unseen)
        return LS_OK;
    bucket->unseen = false;
    return s->device->ops->marker_wait(s->device, bucket->reduced);
}

static LsStatus begin(LsSharder *s, size_t b)
{
    size_t outstanding;
    LsExchange *exchange = exchange_of(s, b);
    LS_TRY(s->device->ops->marker_wait(s->device, s->bucket[b].final));
    if (s->rounded)
        LS_TRY(s->device->ops->cast(s->device, &(LsCast){.n = s->buckets->bucket[b].blocks * LS_BLOCK,
                                                   .from = s->gradient[b],
                                                   .from_type = LS_F32,
                                                   .to = gradient_place(s, b),
                                                   .to_type = LS_BF16}));
    if (exchange)
        LS_TRY(transport_ops(s)->exchange_start(exchange));
    return advance(s, b, &outstanding);
}

LsStatus ls_sharder_begin(LsSharder *s, uint32_t round, size_t b)
{
    for (size_t other = b % LS_SHARDER_SETS; other < s->buckets->count; other += LS_SHARDER_SETS)
        LS_TRY(ls_sharder_release(s, other)); // of those that share its memory, one may be under way
    s->bucket[b].round = round;
    s->bucket[b].active = s->bucket[b].unseen = true;
    s->device->ops->select_stream(s->device, LS_STREAM_COMMUNICATION);
    LsStatus status = begin(s, b);
    s->device->ops->select_stream(s->device, LS_STREAM_COMPUTE);
    return status;
}

LsStatus ls_sharder_poll(LsSharder *s)
{
    size_t outstanding;
    s->device->ops->select_stream(s->device, LS_STREAM_COMMUNICATION);
    LsStatus status = advance_all(s, &outstanding);
    s->device->ops->select_stream(s->device, LS_STREAM_COMPUTE);
    return status;
}

LsStatus ls_sharder_finish(LsSharder *s)
{
    for (size_t b = 0; b < s->buckets->count; b++)
        LS_TRY(ls_sharder_release(s, b));
    return LS_OK;
}
