// What happens when a stream comes to a group: every message of it is posted at once, from and to host memory
// (MPI must not touch device memory, which is closed most of the time), and the group is over when all are.
//
// Every message begins with an envelope that says what it belongs to, so that ranks whose calls differ are
// found instead of hanging or mixing data.
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "emulator.h"
#include "nccl_state.h"

// Sends and receives match in order alone, collective calls by their number as well.
enum { TAG_TRANSFER = 0, TAG_COLLECTIVE = 1, TAGS = 30000 };

typedef struct Envelope {
    uint32_t kind, root, number, reserved;
    uint64_t bytes;
    uint64_t filler; // the data begins at a multiple of 16 bytes
} Envelope;

typedef struct Message {
    const Operation *operation;
    int peer;
    bool incoming;
    char *buffer; // envelope and data
} Message;

static char *data_of(const Message *m)
{
    return m->buffer + sizeof(Envelope);
}

// A receive and the send that it wants have different kinds otherwise, and each other's ranks as root.
static Envelope envelope_of(const Operation *o)
{
    Envelope envelope = {.kind = (uint32_t)o->kind, .number = o->number, .bytes = o->bytes};
    if (o->kind > OPERATION_RECEIVE)
        envelope.root = (uint32_t)o->root;
    else
        envelope.kind = OPERATION_SEND;
    return envelope;
}

// ---- Starting -------------------------------------------------------------------------------------------

static void require(const Operation *o, const void *memory, size_t bytes)
{
    if (bytes > 0 && !ls_emulator_owns(memory, bytes))
        ls_emulator_fault("an operation of NCCL (kind %d) reaches memory %p, freed since it was enqueued",
            (int)o->kind, memory);
}

static void post(Group *group, const Operation *o, int peer, bool incoming, const char *from)
{
    ncclComm_t comm = group->comm;
    size_t bytes = sizeof(Envelope) + o->bytes, i = group->messages++;
    if (bytes > INT_MAX)
        ls_emulator_fault("the stand-in for NCCL cannot send %zu bytes at once", o->bytes);
    Message *m = &group->message[i];
    *m = (Message){o, peer, incoming, malloc(bytes)};
    if (!m->buffer)
        ls_emulator_fault("no memory for a message");
    int tag = o->number > 0 ? TAG_COLLECTIVE + (int)(o->number % TAGS) : TAG_TRANSFER;
    if (incoming) {
        ls_nccl_mpi(MPI_Irecv(m->buffer, (int)bytes, MPI_BYTE, peer, tag, comm->mpi, &group->request[i]),
            "MPI_Irecv");
        return;
    }
    Envelope envelope = envelope_of(o);
    memcpy(m->buffer, &envelope, sizeof envelope);
    memcpy(data_of(m), from, o->bytes);
    ls_nccl_mpi(
        MPI_Isend(m->buffer, (int)bytes, MPI_BYTE, peer, tag, comm->mpi, &group->request[i]), "MPI_Isend");
}

static void start_operation(Group *group, const Operation *o)
{
    int rank = group->comm->rank, ranks = group->comm->ranks;
    bool root = rank == o->root;
    require(o, o->from, ls_nccl_reads(group->comm, o));
    require(o, o->to, ls_nccl_writes(group->comm, o));
    for (int peer = 0; peer < ranks; peer++) {
        bool other = peer != rank, chosen = peer == o->root;
        if ((o->kind == OPERATION_ALL_GATHER || o->kind == OPERATION_ALL_REDUCE) && other) {
            post(group, o, peer, false, o->from);
            post(group, o, peer, true, NULL);
        } else if (o->kind == OPERATION_REDUCE_SCATTER && other) {
            post(group, o, peer, false, o->from + (size_t)peer * o->bytes);
            post(group, o, peer, true, NULL);
        } else if ((o->kind == OPERATION_SEND && chosen) ||
                   (o->kind == OPERATION_BROADCAST && root && other) ||
                   (o->kind == OPERATION_REDUCE && !root && chosen)) {
            post(group, o, peer, false, o->from);
        } else if ((o->kind == OPERATION_RECEIVE && chosen) ||
                   (o->kind == OPERATION_BROADCAST && !root && chosen) ||
                   (o->kind == OPERATION_REDUCE && root && other)) {
            post(group, o, peer, true, NULL);
        }
    }
}

static void start(Group *group)
{
    size_t most = group->operations * 2 * (size_t)group->comm->ranks;
    group->message = calloc(most, sizeof *group->message);
    group->request = malloc(most * sizeof *group->request);
    if (!group->message || !group->request)
        ls_emulator_fault("no memory for a group");
    for (size_t i = 0; i < group->operations; i++)
        start_operation(group, &group->operation[i]);
}

// ---- Finishing ------------------------------------------------------------------------------------------

static void check_envelope(const Group *group, const Message *m)
{
    Envelope wanted = envelope_of(m->operation), found;
    memcpy(&found, m->buffer, sizeof found);
    if (memcmp(&wanted, &found, sizeof found) != 0)
        ls_emulator_fault("rank %d runs operation %u of NCCL (kind %u, root %u, %llu bytes), but rank %d its "
                          "operation %u (kind %u, root %u, %llu bytes)",
            group->comm->rank, wanted.number, wanted.kind, wanted.root, (unsigned long long)wanted.bytes,
            m->peer, found.number, found.kind, found.root, (unsigned long long)found.bytes);
}

static const char *contribution(const Group *group, const Operation *o, int rank)
{
    if (rank == group->comm->rank)
        return o->kind == OPERATION_REDUCE_SCATTER ? o->from + (size_t)rank * o->bytes : o->from;
    for (size_t i = 0; i < group->messages; i++)
        if (group->message[i].operation == o && group->message[i].incoming && group->message[i].peer == rank)
            return data_of(&group->message[i]);
    ls_emulator_fault("a contribution of rank %d is missing", rank);
}

// Adds along a ring that ends at the owner: an order of the library's own, with bits of its own.
static void add_up(const Group *group, const Operation *o, int owner)
{
    int ranks = group->comm->ranks;
    float *sum = malloc(o->bytes);
    if (!sum)
        ls_emulator_fault("no memory for a sum");
    memcpy(sum, contribution(group, o, (owner + 1) % ranks), o->bytes);
    for (int step = 2; step <= ranks; step++) {
        const char *next = contribution(group, o, (owner + step) % ranks);
        for (size_t i = 0; i < o->bytes / sizeof *sum; i++) {
            float value;
            memcpy(&value, next + i * sizeof value, sizeof value);
            sum[i] += value;
        }
    }
    memcpy(o->to, sum, o->bytes);
    free(sum);
}

static void finish_operation(const Group *group, const Operation *o)
{
    int rank = group->comm->rank;
    if (o->kind == OPERATION_ALL_GATHER)
        memmove(o->to + (size_t)rank * o->bytes, o->from, o->bytes);
    else if (o->kind == OPERATION_BROADCAST && rank == o->root)
        memmove(o->to, o->from, o->bytes);
    else if (o->kind == OPERATION_REDUCE_SCATTER || (o->kind == OPERATION_REDUCE && rank == o->root))
        add_up(group, o, rank);
    else if (o->kind == OPERATION_ALL_REDUCE)
        add_up(group, o, 0); // in the same order on all ranks
}

static void finish(Group *group)
{
    for (size_t i = 0; i < group->messages; i++)
        if (group->message[i].incoming)
            check_envelope(group, &group->message[i]);
    for (size_t i = 0; i < group->operations; i++)
        finish_operation(group, &group->operation[i]);
    for (size_t i = 0; i < group->messages; i++) {
        const Message *m = &group->message[i];
        const Operation *o = m->operation;
        if (!m->incoming || o->kind == OPERATION_REDUCE || o->kind == OPERATION_REDUCE_SCATTER ||
            o->kind == OPERATION_ALL_REDUCE)
            continue;
        size_t place = o->kind == OPERATION_ALL_GATHER ? (size_t)m->peer * o->bytes : 0;
        memcpy(o->to + place, data_of(m), o->bytes);
    }
}

// ---- In the stream --------------------------------------------------------------------------------------

// The fault's group neither starts nor ends.
static bool misbehaves(Group *group)
{
    ncclComm_t comm = group->comm;
    if (!group->begun)
        comm->groups_begun++;
    group->begun = true;
    if (comm->fault.kind[0] == '\0' || comm->groups_begun != comm->fault.group)
        return false;
    if (strcmp(comm->fault.kind, "error") == 0 && comm->state == ncclSuccess)
        ls_nccl_break(comm, ncclSystemError, "a failure on purpose in group %d", comm->fault.group);
    return true;
}

static bool advance(void *context)
{
    Group *group = context;
    int main_thread, over = 0;
    if (group->comm->aborted)
        return true;
    ls_nccl_mpi(MPI_Is_thread_main(&main_thread), "MPI_Is_thread_main");
    if (!main_thread || misbehaves(group))
        return false; // the main thread will come by
    if (!group->message)
        start(group);
    ls_nccl_mpi(MPI_Testall((int)group->messages, group->request, &over, MPI_STATUSES_IGNORE), "MPI_Testall");
    if (!over)
        return false;
    finish(group);
    group->comm->in_stream--;
    return true;
}

void ls_nccl_free_group(Group *group)
{
    bool over = !group->comm->aborted || !group->message; // else MPI may still use the memory
    for (size_t i = 0; over && i < group->messages; i++)
        free(group->message[i].buffer);
    if (over) {
        free(group->request);
        free(group->message);
        free(group->operation);
    }
    ls_nccl_release(group->comm);
    if (over)
        free(group);
}

static void release(void *context)
{
    ls_nccl_free_group(context);
}

ncclResult_t ls_nccl_enqueue(Group *group)
{
    ncclComm_t comm = group->comm;
    LsEmulatedWork work = {.name = "NCCL", .advance = advance, .release = release, .context = group};
    comm->in_stream++;
    if (ls_emulator_enqueue(group->stream, &work) == cudaSuccess)
        return ncclSuccess;
    comm->in_stream--;
    return ls_nccl_fail(ncclUnhandledCudaError, "the stream takes no work");
}
