// The executor of lane plans: for each bucket, phase after phase, an exchange and then the phase's additions.
//
// The additions of a phase over one range of pieces run as one device op per tree (tree_add), which reads
// the partial sums where they are and writes the root alone. A slot that was added to another is spent: only
// a later receive may give it contents again. The last root, the plan's result, is written to the
// caller's result, or slot 0.
//
// All of it is work of the communication stream: exchanges, additions, and with them every use of the slots
// and the staging. It follows the compute stream through the markers `final`, and the compute stream follows
// it through the marker `done`, which finish records behind the last of that work. So the next step's first
// write to a slot comes after this step's last read of it, and the staging, which the compute stream never
// touches, is only ever used in the order of the communication stream itself.
//
// Where phase 0 is read in place, on devices for which streams have no meaning, a thread may make its
// additions (reducer_progress.h). All else, posting what is final and what has been read among it, the rank's
// own does.
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "base/memory.h"
#include "device/tensor.h"
#include "reducer_peers.h"
#include "reducer_program.h"
#include "reducer_progress.h"

struct LsReducer {
    LsComm *comm;
    LsDevice *device;
    const LsPlan *plan;
    const LsBuckets *buckets;
    void **slot;  // [plan->lane_slots]
    LsDtype type; // of slots and staging: F32, or BF16 where sums are rounded
    bool fast;
    size_t phases; // of a bucket
    LsReducerProgram program;
    float *result;         // or NULL: slot 0
    const LsTreeOp *makes; // the op that makes the rank's piece of the sum; NULL: it is copied from slot 0
    LsReducerPeers peers;  // of a transport that shares memory: what phase 0 receives is read where it is
    bool read_posted;      // the others may change what this rank has read
    bool meets;            // and learn of it by other means
    size_t elements;       // of the whole buffer that are added up
    LsReducerProgress *progress; // a thread that makes phase 0's additions; NULL: the rank's own does
    bool finishing;              // the rank's own has nothing else to do

    // Staging: slot s >= lane_slots holds the pieces span[s - lane_slots] of every bucket, bucket b's from
    // element offset[b * staging_slots + s - lane_slots] on. None of a slot that is only read in place.
    size_t staging_slots, staging_bytes;
    LsPieceSpan *span;
    size_t *offset;
    char *staging;

    LsExchange **exchange; // [buckets × phases]; NULL where a phase moves nothing
    size_t begun;          // buckets begun since the last finish
    size_t *phase;         // [buckets] the phase under way; == phases: reduced
    LsMarker **final;      // [buckets]
    LsMarker *done;
};

static const LsTransportOps *transport_ops(const LsReducer *r)
{
    return r->comm->transport->ops;
}

// ---- Places ---------------------------------------------------------------------------------------------

static size_t range_blocks(const LsReducer *r, size_t b, LsPieceSpan span)
{
    return ls_span_blocks(r->buckets->bucket[b], r->plan->ranks, span);
}

static void *element_of(const LsReducer *r, const void *array, size_t element)
{
    return (char *)array + element * ls_dtype_size(r->type);
}

// Where slot `slot` has piece `piece` of bucket b.
static void *place(const LsReducer *r, size_t b, uint32_t slot, uint32_t piece)
{
    LsBucket bucket = r->buckets->bucket[b];
    size_t first = ls_piece(bucket.blocks, r->plan->ranks, piece).first;
    if (slot < r->plan->lane_slots)
        return element_of(r, r->slot[slot], (bucket.first_block + first) * LS_BLOCK);
    if (slot >= r->plan->slots) // see ls_reducer_program_read_in_place; read-only
        return element_of(r, r->peers.source[slot - r->plan->slots], (bucket.first_block + first) * LS_BLOCK);
    size_t s = slot - r->plan->lane_slots;
    size_t span_first = ls_piece(bucket.blocks, r->plan->ranks, r->span[s].first).first;
    size_t offset = r->offset[b * r->staging_slots + s] + (first - span_first) * LS_BLOCK;
    return element_of(r, r->staging, offset);
}

// Where the rank's piece of bucket b goes in the end.
static float *result_place(const LsReducer *r, size_t b)
{
    LsBlockRange piece = ls_bucket_piece(r->buckets, b, r->plan->ranks, r->plan->rank);
    return (r->result ? r->result : (float *)r->slot[0]) + piece.first * LS_BLOCK;
}

// ---- Set-up ---------------------------------------------------------------------------------------------

static void find_spans(LsReducer *r)
{
    if (r->fast) {
        r->span[0] = (LsPieceSpan){r->plan->rank, 1};
        return;
    }
    memcpy(r->span, r->plan->staging, r->staging_slots * sizeof *r->span);
    if (r->peers.transport)
        ls_reducer_program_read_in_place(&r->program, r->plan, r->span);
}

// Every bucket has staging of its own, so that all of them can be under way at once.
static LsStatus create_staging(LsReducer *r)
{
    r->staging_slots = r->fast ? 1 : r->plan->slots - r->plan->lane_slots;
    if (r->plan->ranks == 1 || r->staging_slots == 0)
        return LS_OK;
    size_t entries, bytes, elements = 0;
    if (!ls_size_multiply(r->staging_slots, r->buckets->count, &entries) ||
        !ls_size_multiply(entries, sizeof *r->offset, &bytes))
        return LS_FAIL(LS_INTERNAL, "%zu buckets do not fit in memory", r->buckets->count);
    LS_TRY(ls_memory_allocate(r->staging_slots * sizeof *r->span, (void **)&r->span));
    LS_TRY(ls_memory_allocate(bytes, (void **)&r->offset));
    find_spans(r);
    for (size_t b = 0; b < r->buckets->count; b++)
        for (size_t s = 0; s < r->staging_slots; s++) {
            r->offset[b * r->staging_slots + s] = elements;
            elements += range_blocks(r, b, r->span[s]) * LS_BLOCK;
        }
    r->staging_bytes = elements * ls_dtype_size(r->type);
    if (elements == 0 && r->peers.transport)
        return LS_OK;
    return ls_comm_allocate(r->comm, r->staging_bytes, (void **)&r->staging);
}

static LsStatus prepare_phase(LsReducer *r, size_t b, const LsPlanPhase *phase, LsExchange **out)
{
    const LsTransfer *transfer = r->plan->transfer + phase->first_transfer;
    LS_TRY(transport_ops(r)->exchange_create(r->comm->transport, phase->transfers, out));
    for (size_t i = 0; i < phase->transfers; i++) {
        // Both ends leave out pieces without a block (buckets may have fewer blocks than there are ranks).
        size_t blocks = range_blocks(r, b, (LsPieceSpan){transfer[i].first_piece, transfer[i].pieces});
        if (blocks > 0)
            LS_TRY(transport_ops(r)->exchange_add(*out, transfer[i].kind,
                place(r, b, transfer[i].slot, transfer[i].first_piece), blocks, ls_dtype_size(r->type),
                transfer[i].peer, b));
    }
    return LS_OK;
}

static LsStatus prepare_reduce_scatter(LsReducer *r, size_t b, LsExchange **out)
{
    uint32_t ranks = r->plan->ranks;
    LsBucket bucket = r->buckets->bucket[b];
    size_t *blocks;
    LS_TRY(transport_ops(r)->exchange_create(r->comm->transport, 1, out));
    LS_TRY(ls_memory_allocate(ranks * sizeof *blocks, (void **)&blocks));
    for (uint32_t rank = 0; rank < ranks; rank++)
        blocks[rank] = ls_piece(bucket.blocks, ranks, rank).count;
    float *whole = r->slot[0], *staging = (float *)(void *)r->staging;
    LsStatus status = transport_ops(r)->exchange_set_reduce_scatter(
        *out, whole + bucket.first_block * LS_BLOCK, staging + r->offset[b], blocks);
    free(blocks);
    return status;
}

// Whether a phase's pieces are read in place instead of received.
static bool is_read(const LsReducer *r, size_t phase)
{
    return phase == 0 && r->peers.transport;
}

static LsStatus create_exchanges(LsReducer *r)
{
    size_t entries;
    if (!ls_size_multiply(r->buckets->count, r->phases, &entries) ||
        !ls_size_multiply(entries, sizeof(LsExchange *), &(size_t){0}))
        return LS_FAIL(LS_INTERNAL, "%zu buckets do not fit in memory", r->buckets->count);
    LS_TRY(ls_memory_allocate(entries * sizeof *r->exchange, (void **)&r->exchange));
    LS_TRY(ls_memory_allocate(r->buckets->count * sizeof *r->phase, (void **)&r->phase));
    for (size_t b = 0; b < r->buckets->count; b++)
        for (size_t p = 0; p < r->phases; p++) {
            LsExchange **exchange = &r->exchange[b * r->phases + p];
            if (r->fast)
                LS_TRY(prepare_reduce_scatter(r, b, exchange));
            else if (r->plan->phase[p].transfers > 0 && !is_read(r, p))
                LS_TRY(prepare_phase(r, b, &r->plan->phase[p], exchange));
        }
    return LS_OK;
}

static LsStatus create_markers(LsReducer *r)
{
    LS_TRY(ls_memory_allocate(r->buckets->count * sizeof *r->final, (void **)&r->final));
    for (size_t b = 0; b < r->buckets->count; b++)
        LS_TRY(r->device->ops->marker_create(r->device, &r->final[b]));
    return r->device->ops->marker_create(r->device, &r->done);
}

static LsStatus check_plan(const LsComm *comm, const LsPlan *plan)
{
    if (!comm->device)
        return LS_FAIL(LS_INTERNAL, "a reducer needs a communicator with a device attached");
    if (plan->ranks != (uint32_t)comm->size || plan->rank != (uint32_t)comm->rank)
        return LS_FAIL(LS_INTERNAL, "the plan of rank %u of %u is not for rank %d of %d", plan->rank,
            plan->ranks, comm->rank, comm->size);
    if (plan->transfers > 0 && !comm->transport)
        return LS_FAIL(LS_INTERNAL, "the plan of one rank alone has %zu transfers", plan->transfers);
    return LS_OK;
}

// The last op, where it makes the rank's piece and nothing else.
static const LsTreeOp *find_maker(const LsReducer *r)
{
    const LsTreeOp *last = r->program.ops > 0 ? &r->program.op[r->program.ops - 1] : NULL;
    bool own = last && last->output_slot == 0 && last->span.first == r->plan->rank && last->span.count == 1;
    return own ? last : NULL;
}

static LsStatus copy_slots(LsReducer *r, const LsReducerOptions *options)
{
    const LsPlan *plan = r->plan;
    if (options->rounded && (!options->result || r->fast))
        return LS_FAIL(LS_INTERNAL, "a reduction of BF16 numbers needs a place for its sum, and to be exact");
    r->type = options->rounded ? LS_BF16 : LS_F32;
    LS_TRY(ls_memory_allocate(plan->lane_slots * sizeof *r->slot, (void **)&r->slot));
    for (uint32_t s = 0; s < (options->rounded ? plan->share.subtrees : plan->lane_slots); s++)
        r->slot[s] = options->rounded ? (void *)options->rounded[s] : options->slot[s];
    return LS_OK;
}

static bool all_final(void *context, size_t b);
static LsStatus add_read(void *context, size_t b);

static LsStatus start_thread(LsReducer *r)
{
    LsReducerProgressWork work = {
        .buckets = r->buckets->count, .context = r, .is_ready = all_final, .add = add_read};
    return ls_reducer_progress_create(&work, &r->progress);
}

LsStatus ls_reducer_create(LsComm *comm, const LsReducerOptions *options, LsReducer **out)
{
    const LsPlan *plan = options->plan;
    LS_TRY(check_plan(comm, plan));
    LsReducer *r;
    LS_TRY(ls_memory_allocate(sizeof *r, (void **)&r));
    r->comm = comm;
    r->device = comm->device;
    r->plan = plan;
    r->buckets = options->buckets;
    r->result = options->result;
    r->fast = options->reduction == LS_REDUCTION_FAST;
    r->meets = options->meets;
    r->elements = options->elements > 0 ? options->elements : r->buckets->blocks * LS_BLOCK;
    r->phases = !r->fast ? plan->phases : comm->size > 1 ? 1 : 0;
    LsStatus status = copy_slots(r, options);
    if (status == LS_OK && !r->fast)
        status = ls_reducer_program_create(plan, &r->program);
    if (status == LS_OK && r->result)
        r->makes = find_maker(r);
    status = ls_comm_agree(comm, status);
    if (status == LS_OK && !r->fast)
        status = ls_reducer_peers_create(comm, plan, r->slot,
            r->buckets->blocks * LS_BLOCK * ls_dtype_size(r->type), r->buckets->count, &r->peers);
    if (status == LS_OK)
        status = create_staging(r);
    if (status == LS_OK)
        status = create_exchanges(r);
    if (status == LS_OK)
        status = create_markers(r);
    if (status == LS_OK && options->progress && r->peers.transport && r->device->concurrent)
        status = start_thread(r);
    if (status != LS_OK) {
        ls_reducer_destroy(r);
        return status;
    }
    *out = r;
    return LS_OK;
}

bool ls_reducer_has_thread(const LsReducer *r)
{
    return r->progress;
}

// What was reduced last may still be under way on the device; its memory goes when that is over.
static void wait_until_idle(LsReducer *r)
{
    const LsDeviceOps *ops = r->device->ops;
    ops->select_stream(r->device, LS_STREAM_COMMUNICATION);
    LsStatus status = ops->marker_record(r->device, r->done);
    ops->select_stream(r->device, LS_STREAM_COMPUTE);
    if (status == LS_OK)
        ls_comm_wait_marker(r->comm, r->done, "the last reduction");
}

void ls_reducer_destroy(LsReducer *r)
{
    if (!r)
        return;
    ls_reducer_progress_destroy(r->progress); // whose thread reads what goes next
    if (r->done)
        wait_until_idle(r);
    for (size_t i = 0; r->exchange && i < r->buckets->count * r->phases; i++)
        if (r->exchange[i])
            transport_ops(r)->exchange_destroy(r->exchange[i]);
    for (size_t b = 0; r->final && b < r->buckets->count; b++)
        r->device->ops->marker_destroy(r->device, r->final[b]);
    r->device->ops->marker_destroy(r->device, r->done);
    free(r->final);
    free(r->phase);
    free(r->exchange);
    ls_comm_release(r->comm, r->staging);
    free(r->offset);
    free(r->span);
    ls_reducer_program_free(&r->program);
    ls_reducer_peers_free(&r->peers, r->comm);
    free(r->slot);
    free(r);
}

size_t ls_reducer_bytes(const LsReducer *r)
{
    return r->staging_bytes;
}

// ---- The step -------------------------------------------------------------------------------------------

// Elements of some pieces of a bucket that are added up: all but those behind the last that counts.
static size_t range_elements(const LsReducer *r, size_t b, LsPieceSpan span)
{
    LsBucket bucket = r->buckets->bucket[b];
    size_t first =
        (bucket.first_block + ls_piece(bucket.blocks, r->plan->ranks, span.first).first) * LS_BLOCK;
    size_t elements = range_blocks(r, b, span) * LS_BLOCK,
           left = r->elements > first ? r->elements - first : 0;
    return elements < left ? elements : left;
}

static LsStatus run_tree(LsReducer *r, size_t b, const LsTreeOp *op)
{
    size_t elements = range_elements(r, b, op->span);
    if (elements == 0)
        return LS_OK;
    const void *inputs[LS_TREE_INPUTS];
    for (size_t i = 0; i < op->inputs; i++)
        inputs[i] = place(r, b, op->slot[i], op->span.first);
    LsTreeAdd args = {
        .n = elements,
        .count = op->inputs,
        .inputs = inputs,
        .adds = op->adds,
        .pairs = op->pairs,
        .result = op->result,
        .output = op == r->makes ? result_place(r, b) : place(r, b, op->output_slot, op->span.first),
        .type = r->type,
        .output_type = op == r->makes ? LS_F32 : r->type,
        .rounded = r->type == LS_BF16,
    };
    return r->device->ops->tree_add(r->device, &args);
}

static LsStatus finish_phase(LsReducer *r, size_t b, size_t phase)
{
    if (r->fast) {
        LsBlockRange piece = ls_bucket_piece(r->buckets, b, r->plan->ranks, r->plan->rank);
        return r->device->ops->copy(r->device, result_place(r, b), element_of(r, r->staging, r->offset[b]),
            piece.count * LS_BLOCK * sizeof(float));
    }
    for (size_t i = r->program.first_op[phase]; i < r->program.first_op[phase + 1]; i++)
        LS_TRY(run_tree(r, b, &r->program.op[i]));
    return LS_OK;
}

// Slot 0 has the rank's piece of bucket b, which belongs into the result.
static LsStatus copy_result(LsReducer *r, size_t b)
{
    if (!r->result || r->makes || (r->fast && r->phases > 0))
        return LS_OK;
    LsBlockRange piece = ls_bucket_piece(r->buckets, b, r->plan->ranks, r->plan->rank);
    return r->device->ops->cast(r->device, &(LsCast){.n = piece.count * LS_BLOCK,
                                               .from = element_of(r, r->slot[0], piece.first * LS_BLOCK),
                                               .from_type = r->type,
                                               .to = r->result + piece.first * LS_BLOCK,
                                               .to_type = LS_F32});
}

// For the thread that makes additions.
static LsStatus add_read(void *context, size_t b)
{
    return finish_phase(context, b, 0);
}

// What the others read of bucket b is final, in their sight.
static LsStatus show(LsReducer *r, size_t b)
{
    LsBucket bucket = r->buckets->bucket[b];
    size_t first = bucket.first_block * LS_BLOCK, bytes = bucket.blocks * LS_BLOCK * ls_dtype_size(r->type);
    for (size_t s = 0; s < LS_SUBTREES_MAX; s++)
        if (r->peers.copy[s])
            LS_TRY(r->device->ops->copy(
                r->device, element_of(r, r->peers.copy[s], first), element_of(r, r->slot[s], first), bytes));
    r->peers.transport->ops->sharing->post_final(r->peers.transport, b);
    return LS_OK;
}

// Ranks whose part of bucket b is not final yet, among those that this one reads.
static size_t count_hidden(const LsReducer *r, size_t b, bool *hidden)
{
    const LsTransport *transport = r->peers.transport;
    size_t count = 0;
    for (uint32_t peer = 0; peer < r->plan->ranks; peer++)
        if (r->peers.reads[peer] && !transport->ops->sharing->is_final(r->peers.transport, b, (int)peer)) {
            count++;
            if (hidden)
                hidden[peer] = true;
        }
    return count;
}

static bool all_final(void *context, size_t b)
{
    return count_hidden(context, b, NULL) == 0;
}

static size_t count_readers(const LsReducer *r, bool *reading)
{
    size_t count = 0;
    for (uint32_t peer = 0; peer < r->plan->ranks; peer++)
        if (!r->peers.transport->ops->sharing->has_read(r->peers.transport, (int)peer)) {
            count++;
            if (reading)
                reading[peer] = true;
        }
    return count;
}

static LsStatus start_phase(LsReducer *r, size_t b)
{
    if (is_read(r, r->phase[b])) {
        LS_TRY(show(r, b));
        if (r->progress)
            ls_reducer_progress_give(r->progress, b);
        return LS_OK;
    }
    LsExchange *exchange = r->phase[b] < r->phases ? r->exchange[b * r->phases + r->phase[b]] : NULL;
    return exchange ? transport_ops(r)->exchange_start(exchange) : LS_OK;
}

// What bucket b's phase misses until it is finished, by the thread or here.
static LsStatus test_phase(LsReducer *r, size_t b, size_t *missing)
{
    LsExchange *exchange = r->exchange[b * r->phases + r->phase[b]];
    bool read = is_read(r, r->phase[b]), added = false;
    *missing = 0;
    if (read && r->progress) {
        LS_TRY(ls_reducer_progress_look(r->progress, b, r->finishing, &added));
        *missing = added ? 0 : 1 + count_hidden(r, b, NULL);
        return LS_OK;
    }
    if (read)
        *missing = count_hidden(r, b, NULL);
    else if (exchange)
        LS_TRY(transport_ops(r)->exchange_test(exchange, missing));
    return *missing == 0 ? finish_phase(r, b, r->phase[b]) : LS_OK;
}

// Advances bucket b as far as it goes now; *outstanding counts its missing transfers and phases.
static LsStatus advance(LsReducer *r, size_t b, size_t *outstanding)
{
    *outstanding = 0;
    while (r->phase[b] < r->phases) {
        size_t missing;
        LS_TRY(test_phase(r, b, &missing));
        if (missing > 0) {
            *outstanding = missing + (r->phases - r->phase[b]);
            return LS_OK;
        }
        r->phase[b]++;
        LS_TRY(r->phase[b] < r->phases ? start_phase(r, b) : copy_result(r, b));
    }
    return LS_OK;
}

static LsStatus advance_all(void *context, size_t *outstanding)
{
    LsReducer *r = context;
    *outstanding = 0;
    for (size_t b = 0; b < r->begun; b++) {
        size_t missing;
        LS_TRY(advance(r, b, &missing));
        *outstanding += missing;
    }
    return LS_OK;
}

// The same, and then, unless the caller sees to it, until nobody reads this rank's slots any more.
static LsStatus advance_to_the_end(void *context, size_t *outstanding)
{
    LsReducer *r = context;
    LS_TRY(advance_all(r, outstanding));
    if (*outstanding > 0 || !r->peers.transport || r->meets)
        return LS_OK;
    if (!r->read_posted)
        r->peers.transport->ops->sharing->post_read(r->peers.transport);
    r->read_posted = true;
    *outstanding = count_readers(r, NULL);
    return LS_OK;
}

static void mark_pending(void *context, bool *pending)
{
    LsReducer *r = context;
    if (r->read_posted)
        count_readers(r, pending);
    for (size_t b = 0; b < r->begun; b++) {
        if (r->phase[b] == r->phases)
            continue;
        const LsExchange *exchange = r->exchange[b * r->phases + r->phase[b]];
        if (is_read(r, r->phase[b]))
            count_hidden(r, b, pending);
        else if (exchange)
            transport_ops(r)->exchange_mark_pending(exchange, pending);
    }
}

LsMarker *ls_reducer_final(LsReducer *r, size_t b)
{
    return r->final[b];
}

// Advancing right away makes the order of a transport that never lets wait (nccl) the same on all ranks,
// whichever of them poll in between.
static LsStatus begin(LsReducer *r, size_t b)
{
    size_t outstanding;
    LS_TRY(r->device->ops->marker_wait(r->device, r->final[b]));
    if (r->phases == 0)
        return copy_result(r, b);
    LS_TRY(start_phase(r, b));
    return advance(r, b, &outstanding);
}

LsStatus ls_reducer_begin(LsReducer *r, size_t b)
{
    if (b != r->begun || b >= r->buckets->count)
        return LS_FAIL(LS_INTERNAL, "bucket %zu begun out of order, %zu was next", b, r->begun);
    r->begun++;
    r->phase[b] = 0;
    r->device->ops->select_stream(r->device, LS_STREAM_COMMUNICATION);
    LsStatus status = begin(r, b);
    r->device->ops->select_stream(r->device, LS_STREAM_COMPUTE);
    return status;
}

LsStatus ls_reducer_poll(LsReducer *r)
{
    size_t outstanding;
    r->device->ops->select_stream(r->device, LS_STREAM_COMMUNICATION);
    LsStatus status = advance_all(r, &outstanding);
    r->device->ops->select_stream(r->device, LS_STREAM_COMPUTE);
    return status;
}

LsStatus ls_reducer_finish(LsReducer *r)
{
    LsWait wait = {
        .what = "gradients", .poll = advance_to_the_end, .mark_pending = mark_pending, .context = r};
    r->read_posted = false;
    r->finishing = true;
    r->device->ops->select_stream(r->device, LS_STREAM_COMMUNICATION);
    LsStatus status = r->comm->ops->wait(r->comm, &wait);
    r->finishing = false;
    if (status == LS_OK)
        status = r->device->ops->marker_record(r->device, r->done);
    r->device->ops->select_stream(r->device, LS_STREAM_COMPUTE);
    LS_TRY(status);
    r->begun = 0;
    return r->device->ops->marker_wait(r->device, r->done);
}
