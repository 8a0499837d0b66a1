#include "shared.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "device/tensor.h"

typedef struct Block {
    LsSegment segment;
    bool common; // to all ranks
    struct Block *next;
} Block;

typedef struct SharedTransport {
    LsTransport base;
    LsTransportOps ops; // the host's, with what is done otherwise put over them
    LsTransport *host;  // owned
    uint32_t number;    // of this rank's host
    int first, end;     // its ranks
    LsShardMove *move;  // what a gather brings from other hosts and to them
    size_t moves;
    Block *blocks;                  // what `allocate` gave
    LsView *views;                  // of the flat buffers that were gathered
    LsSegment own;                  // this rank's board
    LsView *board;                  // everybody's
    uint64_t pages, shards, read;   // what this rank has got to
    uint64_t awaited;               // of shards: what it has seen all others get to
    bool goes_on;                   // the newest gather, which then has to be waited for
    uint64_t begun[LS_SHARED_TAGS]; // reductions
} SharedTransport;

static SharedTransport *shared_of(LsTransport *transport)
{
    return (SharedTransport *)transport;
}

static const LsBoard *board_of(const SharedTransport *shared, int rank)
{
    return shared->board->place[rank];
}

static LsBoard *own_board(const SharedTransport *shared)
{
    return shared->own.memory;
}

static bool shared_reaches(LsTransport *transport, int rank)
{
    const SharedTransport *shared = shared_of(transport);
    return rank >= shared->first && rank < shared->end;
}

// Writes made before are seen by whoever sees the counter.
static void post(_Atomic uint64_t *counter, uint64_t value)
{
    atomic_store_explicit(counter, value, memory_order_release);
}

static bool reached(const _Atomic uint64_t *counter, uint64_t value)
{
    return atomic_load_explicit(counter, memory_order_acquire) >= value;
}

// ---- Memory ---------------------------------------------------------------------------------------------

static LsStatus shared_allocate(LsTransport *transport, size_t bytes, void **out)
{
    SharedTransport *shared = shared_of(transport);
    Block *block;
    LS_TRY(ls_memory_allocate(sizeof *block, (void **)&block));
    LsStatus status = ls_segment_create(bytes, LS_SEGMENT_MINE, &block->segment);
    if (status != LS_OK) {
        free(block);
        return status;
    }
    block->next = shared->blocks;
    shared->blocks = block;
    *out = block->segment.memory;
    return LS_OK;
}

static void destroy_view(LsView *view)
{
    for (size_t r = 0; view && view->map && r < view->ranks; r++)
        ls_segment_destroy(&view->map[r]);
    if (view) {
        free(view->place);
        free(view->map);
    }
    free(view);
}

static void shared_release(LsTransport *transport, void *memory)
{
    SharedTransport *shared = shared_of(transport);
    Block **link = &shared->blocks;
    while (*link && (*link)->segment.memory != memory)
        link = &(*link)->next;
    Block *block = *link;
    if (!block)
        return;
    char *start = block->segment.memory, *end = start + block->segment.bytes;
    for (LsView **view = &shared->views; *view;) {
        const char *mine = (*view)->mine;
        LsView *gone = *view;
        if (mine < start || mine >= end) {
            view = &gone->next;
            continue;
        }
        *view = gone->next;
        destroy_view(gone);
    }
    *link = block->next;
    ls_segment_destroy(&block->segment);
    free(block);
}

static LsStatus address_in(const LsSegment *segment, const void *memory, size_t bytes, LsSegmentAddress *out)
{
    struct stat file;
    if (fstat(segment->fd, &file) != 0)
        return LS_FAIL(LS_INTERNAL, "a memory file has no status");
    *out = (LsSegmentAddress){.process = getpid(),
        .fd = segment->fd,
        .offset = (uint64_t)((const char *)memory - (const char *)segment->memory),
        .bytes = bytes,
        .device = file.st_dev,
        .inode = file.st_ino};
    return LS_OK;
}

static const Block *block_of(const SharedTransport *shared, const void *memory)
{
    for (const Block *block = shared->blocks; block; block = block->next) {
        const char *start = block->segment.memory;
        if ((const char *)memory >= start && (const char *)memory < start + block->segment.bytes)
            return block;
    }
    return NULL;
}

// Maps what every rank of the host passes, read-only; `segment` NULL: this one has nothing to show.
// Collective.
static LsStatus map_all(
    SharedTransport *shared, const LsSegment *segment, const void *mine, size_t bytes, LsView **out)
{
    LsComm *comm = shared->base.comm;
    size_t ranks = (size_t)comm->size;
    LsSegmentAddress address = {.fd = -1}, *all = NULL;
    LsView *view = NULL;
    size_t *sizes = NULL;
    LsStatus status = segment ? address_in(segment, mine, bytes, &address) : LS_OK;
    if (status == LS_OK)
        status = ls_memory_allocate(sizeof *view, (void **)&view);
    if (status == LS_OK)
        status = ls_memory_allocate(ranks * sizeof *view->map, (void **)&view->map);
    if (status == LS_OK)
        status = ls_memory_allocate(ranks * sizeof *view->place, (void **)&view->place);
    if (status == LS_OK)
        status = ls_memory_allocate(ranks * (sizeof *all + sizeof *sizes), (void **)&all);
    status = ls_comm_agree(comm, status);
    if (status == LS_OK) {
        sizes = (size_t *)(all + ranks);
        for (size_t r = 0; r < ranks; r++)
            sizes[r] = sizeof *all;
        view->mine = mine;
        view->ranks = ranks;
        status = ls_comm_all_gather(comm, &address, all, sizes);
        for (size_t r = 0; status == LS_OK && r < ranks; r++)
            if (r == (size_t)comm->rank)
                view->place[r] = mine;
            else if (all[r].fd >= 0 && shared_reaches(&shared->base, (int)r))
                status = ls_segment_map(&all[r], LS_SEGMENT_READ, &view->map[r], &view->place[r]);
        status = ls_comm_agree(comm, status); // also: no file is closed before all have mapped it
    }
    free(all);
    if (status != LS_OK) {
        destroy_view(view);
        return status;
    }
    *out = view;
    return LS_OK;
}

// *out: what the first rank of this host has passed.
static LsStatus hear_first(SharedTransport *shared, const LsSegmentAddress *mine, LsSegmentAddress *out)
{
    LsComm *comm = shared->base.comm;
    size_t ranks = (size_t)comm->size, *sizes;
    LsSegmentAddress *all = NULL;
    LsStatus status = ls_memory_allocate(ranks * (sizeof *all + sizeof *sizes), (void **)&all);
    status = ls_comm_agree(comm, status);
    if (status == LS_OK) {
        sizes = (size_t *)(all + ranks);
        for (size_t r = 0; r < ranks; r++)
            sizes[r] = sizeof *all;
        status = ls_comm_all_gather(comm, mine, all, sizes);
        *out = all[shared->first];
    }
    free(all);
    return status;
}

// The first rank of a host makes it and the others map it.
static LsStatus share_block(SharedTransport *shared, size_t bytes, Block *block)
{
    LsComm *comm = shared->base.comm;
    LsSegmentAddress mine = {.fd = -1}, address;
    LsStatus status = LS_OK;
    if (comm->rank == shared->first)
        status = ls_segment_create(bytes, LS_SEGMENT_OURS, &block->segment);
    if (comm->rank == shared->first && status == LS_OK)
        status = address_in(&block->segment, block->segment.memory, bytes, &mine);
    LS_TRY(ls_comm_agree(comm, status));
    LS_TRY(hear_first(shared, &mine, &address));
    const void *memory;
    if (comm->rank != shared->first)
        status = ls_segment_map(&address, LS_SEGMENT_WRITE, &block->segment, &memory);
    return ls_comm_agree(comm, status);
}

static LsStatus shared_allocate_common(LsTransport *transport, size_t bytes, void **out)
{
    SharedTransport *shared = shared_of(transport);
    Block *block = NULL;
    LS_TRY(ls_comm_agree(transport->comm, ls_memory_allocate(sizeof *block, (void **)&block)));
    LsStatus status = share_block(shared, bytes, block);
    if (status != LS_OK) {
        ls_segment_destroy(&block->segment);
        free(block);
        return status;
    }
    block->common = true;
    block->next = shared->blocks;
    shared->blocks = block;
    *out = block->segment.memory;
    return LS_OK;
}

static LsStatus shared_view(LsTransport *transport, const void *mine, size_t bytes, LsView **out)
{
    const Block *block = mine ? block_of(shared_of(transport), mine) : NULL;
    if (mine && !block)
        return LS_FAIL(LS_INTERNAL, "memory to be seen by other ranks is not the communicator's");
    return map_all(shared_of(transport), block ? &block->segment : NULL, mine, bytes, out);
}

static bool shared_owns(LsTransport *transport, const void *memory)
{
    return block_of(shared_of(transport), memory) != NULL;
}

// ---- Waiting for the others' counters -------------------------------------------------------------------

typedef struct CounterWait {
    const SharedTransport *shared;
    size_t offset; // of the counter in a board
    uint64_t value;
} CounterWait;

static bool peer_reached(const CounterWait *wait, int rank)
{
    const char *board = (const char *)board_of(wait->shared, rank);
    return reached((const _Atomic uint64_t *)(const void *)(board + wait->offset), wait->value);
}

static LsStatus poll_counters(void *context, size_t *outstanding)
{
    const CounterWait *wait = context;
    *outstanding = 0;
    for (int r = wait->shared->first; r < wait->shared->end; r++)
        *outstanding += !peer_reached(wait, r);
    return LS_OK;
}

static void mark_counters(void *context, bool *pending)
{
    const CounterWait *wait = context;
    for (int r = wait->shared->first; r < wait->shared->end; r++)
        pending[r] = !peer_reached(wait, r);
}

static LsStatus wait_for_host(SharedTransport *shared, size_t offset, uint64_t value, const char *what)
{
    CounterWait wait = {shared, offset, value};
    LsComm *comm = shared->base.comm;
    return comm->ops->wait(comm,
        &(LsWait){.what = what, .poll = poll_counters, .mark_pending = mark_counters, .context = &wait});
}

// ---- Reductions -----------------------------------------------------------------------------------------

static void shared_post_final(LsTransport *transport, size_t tag)
{
    SharedTransport *shared = shared_of(transport);
    post(&own_board(shared)->final[tag], ++shared->begun[tag]);
}

static bool shared_is_final(LsTransport *transport, size_t tag, int rank)
{
    const SharedTransport *shared = shared_of(transport);
    return reached(&board_of(shared, rank)->final[tag], shared->begun[tag]);
}

static void shared_post_read(LsTransport *transport)
{
    SharedTransport *shared = shared_of(transport);
    post(&own_board(shared)->read, ++shared->read);
}

static bool shared_has_read(LsTransport *transport, int rank)
{
    const SharedTransport *shared = shared_of(transport);
    return !shared_reaches(transport, rank) || reached(&board_of(shared, rank)->read, shared->read);
}

// ---- Gathers --------------------------------------------------------------------------------------------

// Two pages a rank take turns. A rank writes page n when it has read page n - 1 of all, which they wrote when
// they had read page n - 2 of this rank: the one whose place page n takes.
static LsStatus shared_gather(LsTransport *transport, const void *mine, void *all, size_t bytes)
{
    SharedTransport *shared = shared_of(transport);
    LsComm *comm = transport->comm;
    if (shared->end - shared->first < comm->size)
        return shared->host->ops->gather(shared->host, mine, all, bytes);
    for (size_t done = 0; done < bytes; done += LS_SHARED_PAGE) {
        size_t count = bytes - done < LS_SHARED_PAGE ? bytes - done : LS_SHARED_PAGE;
        uint64_t page = ++shared->pages;
        memcpy(own_board(shared)->words[page % 2], (const char *)mine + done, count);
        post(&own_board(shared)->pages, page);
        LS_TRY(wait_for_host(shared, offsetof(LsBoard, pages), page, "the others' words"));
        for (int r = 0; r < comm->size; r++)
            if (r != comm->rank || mine != (char *)all + (size_t)r * bytes)
                memcpy((char *)all + (size_t)r * bytes + done, board_of(shared, r)->words[page % 2], count);
    }
    return LS_OK;
}

static LsStatus find_view(SharedTransport *shared, const void *flat, size_t bytes, LsView **out)
{
    for (LsView *view = shared->views; view; view = view->next)
        if (view->mine == flat) {
            *out = view;
            return LS_OK;
        }
    LS_TRY(shared_view(&shared->base, flat, bytes, out));
    (*out)->next = shared->views;
    shared->views = *out;
    return LS_OK;
}

static void copy_pieces(
    const LsBuckets *buckets, int ranks, int rank, size_t element, const void *from, void *to)
{
    for (size_t b = 0; b < buckets->count; b++) {
        LsBlockRange piece = ls_bucket_piece(buckets, b, (uint32_t)ranks, (uint32_t)rank);
        size_t start = piece.first * LS_BLOCK * element;
        memcpy((char *)to + start, (const char *)from + start, piece.count * LS_BLOCK * element);
    }
}

// Each host gets another's shards once: their owners send them to the ranks that stand for it (as in the plan
// of two levels), which the others of the host then look to.
static LsStatus list_moves(SharedTransport *shared)
{
    LsComm *comm = shared->base.comm;
    const LsHostMap *hosts = &comm->hosts;
    uint32_t me = (uint32_t)comm->rank;
    size_t room = (size_t)comm->size + hosts->count;
    LS_TRY(ls_memory_allocate(room * sizeof *shared->move, (void **)&shared->move));
    for (uint32_t d = 1; d < hosts->count; d++) {
        uint32_t host = (shared->number + hosts->count - d) % hosts->count;
        for (uint32_t owner = hosts->first[host]; owner < hosts->first[host + 1]; owner++)
            if (ls_host_server(hosts, shared->number, owner) == me)
                shared->move[shared->moves++] = (LsShardMove){LS_RECEIVE, owner, owner};
    }
    for (uint32_t d = 1; d < hosts->count; d++) {
        uint32_t host = (shared->number + d) % hosts->count;
        shared->move[shared->moves++] = (LsShardMove){LS_SEND, ls_host_server(hosts, host, me), me};
    }
    return LS_OK;
}

// What other hosts have is brought by the ranks whose part it is. A rank that has its part of a bucket says
// so, and a bucket is there when all ranks of the host have said it; buckets come in the same order
// everywhere. Nobody reads what is overwritten here: each owner has come here, so all ranks are done with it.
static LsStatus begin_parts(SharedTransport *shared, const LsBuckets *buckets, void *flat, size_t element)
{
    if (shared->moves > 0)
        return ls_host_move_begin(shared->host, buckets, flat, element, shared->move, shared->moves);
    shared->shards += buckets->count; // all of it is here
    post(&own_board(shared)->shards, shared->shards);
    return LS_OK;
}

static LsStatus wait_for_part(SharedTransport *shared, size_t bucket)
{
    if (shared->moves > 0) {
        LS_TRY(ls_host_move_wait(shared->host, bucket, shared->move, shared->moves));
        post(&own_board(shared)->shards, ++shared->shards);
    }
    return wait_for_host(shared, offsetof(LsBoard, shards), ++shared->awaited, "the updated parameters");
}

static LsStatus gather_parts(SharedTransport *shared, const LsBuckets *buckets, void *flat, size_t element)
{
    LS_TRY(begin_parts(shared, buckets, flat, element));
    for (size_t b = buckets->count; b-- > 0;)
        LS_TRY(wait_for_part(shared, b));
    return LS_OK;
}

static LsStatus shared_gather_shards(
    LsTransport *transport, const LsBuckets *buckets, void *flat, size_t element)
{
    SharedTransport *shared = shared_of(transport);
    LsComm *comm = transport->comm;
    const Block *block = block_of(shared, flat); // alike on all ranks
    if (!block)
        return shared->host->ops->gather_shards(shared->host, buckets, flat, element);
    LsView *view = NULL;
    if (!block->common)
        LS_TRY(find_view(shared, flat, buckets->blocks * LS_BLOCK * element, &view));
    LS_TRY(gather_parts(shared, buckets, flat, element));
    if (block->common)
        return LS_OK;
    for (int i = 1; i < comm->size; i++) { // each rank starts at another one
        int r = (comm->rank + i) % comm->size;
        int from = (int)ls_host_server(&comm->hosts, shared->number, (uint32_t)r);
        if (from != comm->rank)
            copy_pieces(buckets, comm->size, r, element, view->place[from], flat);
    }
    shared_post_read(transport);
    return wait_for_host(
        shared, offsetof(LsBoard, read), shared->read, "all ranks to read the updated parameters");
}

static LsStatus shared_gather_begin(
    LsTransport *transport, const LsBuckets *buckets, void *flat, size_t element)
{
    SharedTransport *shared = shared_of(transport);
    const Block *block = block_of(shared, flat);
    shared->goes_on = block && block->common;
    return shared->goes_on ? begin_parts(shared, buckets, flat, element)
                           : shared_gather_shards(transport, buckets, flat, element);
}

static LsStatus shared_gather_wait(LsTransport *transport, size_t bucket)
{
    SharedTransport *shared = shared_of(transport);
    return shared->goes_on ? wait_for_part(shared, bucket) : LS_OK;
}

// ---- Opening --------------------------------------------------------------------------------------------

static void shared_close(LsTransport *transport)
{
    SharedTransport *shared = shared_of(transport);
    while (shared->blocks)
        shared_release(transport, shared->blocks->segment.memory);
    destroy_view(shared->board);
    ls_segment_destroy(&shared->own);
    if (shared->host)
        shared->host->ops->close(shared->host);
    free(shared->move);
    free(shared);
}

static LsStatus shared_exchange_create(LsTransport *transport, size_t transfers, LsExchange **out)
{
    LsTransport *host = shared_of(transport)->host;
    return host->ops->exchange_create(host, transfers, out);
}

static const LsSharingOps sharing_ops = {
    .tags = LS_SHARED_TAGS,
    .reaches = shared_reaches,
    .owns = shared_owns,
    .allocate_common = shared_allocate_common,
    .view = shared_view,
    .unview = destroy_view,
    .post_final = shared_post_final,
    .is_final = shared_is_final,
    .post_read = shared_post_read,
    .has_read = shared_has_read,
};

static void put_over(SharedTransport *shared)
{
    shared->ops = *shared->host->ops;
    shared->ops.name = shared->base.comm->hosts.count > 1 ? "shared+mpi" : "shared";
    shared->ops.sharing = &sharing_ops;
    shared->ops.close = shared_close;
    shared->ops.allocate = shared_allocate;
    shared->ops.release = shared_release;
    shared->ops.gather = shared_gather;
    shared->ops.gather_shards = shared_gather_shards;
    shared->ops.gather_begin = shared_gather_begin;
    shared->ops.gather_wait = shared_gather_wait;
    shared->ops.exchange_create = shared_exchange_create;
    shared->base.ops = &shared->ops;
}

static LsStatus create_board(SharedTransport *shared)
{
    LsComm *comm = shared->base.comm;
    LsStatus status = ls_segment_create(sizeof(LsBoard), LS_SEGMENT_MINE, &shared->own);
    status = ls_comm_agree(comm, status);
    return status == LS_OK
               ? map_all(shared, &shared->own, shared->own.memory, sizeof(LsBoard), &shared->board)
               : status;
}

LsStatus ls_shared_transport_open(LsComm *comm, LsDevice *device, LsTransport **out)
{
    SharedTransport *shared = NULL;
    LsStatus status = ls_memory_allocate(sizeof *shared, (void **)&shared);
    if (status == LS_OK) {
        shared->base = (LsTransport){.comm = comm, .device = device};
        shared->number = ls_host_of(&comm->hosts, (uint32_t)comm->rank);
        shared->first = (int)comm->hosts.first[shared->number];
        shared->end = (int)comm->hosts.first[shared->number + 1];
        status = list_moves(shared);
    }
    status = ls_comm_agree(comm, status);
    if (status == LS_OK)
        status = create_board(shared);
    if (status == LS_OK)
        status = ls_host_transport_open(comm, device, &shared->host);
    if (status != LS_OK) {
        if (shared)
            shared_close(&shared->base);
        return status;
    }
    put_over(shared);
    *out = &shared->base;
    return LS_OK;
}
