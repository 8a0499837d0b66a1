#include "reducer_peers.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "device/operations.h"

// ---- Who would send what --------------------------------------------------------------------------------

static bool same_transfers(const LsPlan *a, const LsPlan *b)
{
    if (a->transfers != b->transfers || a->phases != b->phases || a->lane_slots != b->lane_slots)
        return false;
    for (size_t i = 0; i < a->transfers; i++) {
        const LsTransfer *x = &a->transfer[i], *y = &b->transfer[i];
        if (x->kind != y->kind || x->peer != y->peer || x->slot != y->slot ||
            x->first_piece != y->first_piece || x->pieces != y->pieces)
            return false;
    }
    return true;
}

// LS_UNSUPPORTED unless the plan is one phase of which the other ranks' parts are known.
static LsStatus require_direct(const LsPlan *plan)
{
    LsPlan known;
    LS_TRY(ls_plan_compile(plan->lanes, plan->ranks, plan->rank, &known));
    // In one op for each sum, since slots of others are not written. All ranks have the same number of
    // inputs.
    size_t inputs = plan->share.subtrees;
    for (size_t i = 0; i < plan->transfers; i++)
        inputs += plan->transfer[i].kind == LS_RECEIVE;
    bool direct = plan->phases <= 1 && inputs <= LS_TREE_INPUTS && same_transfers(plan, &known);
    ls_plan_free(&known);
    return direct ? LS_OK : LS_FAIL(LS_UNSUPPORTED, "the plan is not the direct exchange");
}

// Transfers between two ranks match in order: the n-th that is received from `peer` is the n-th that it
// sends.
static LsStatus match_peer(const LsPlan *plan, uint32_t peer, LsReducerPeers *peers)
{
    LsPlan theirs;
    LS_TRY(ls_plan_compile(plan->lanes, plan->ranks, peer, &theirs));
    size_t sent = 0;
    LsStatus status = LS_OK;
    for (size_t i = 0; i < plan->transfers && status == LS_OK; i++) {
        const LsTransfer *mine = &plan->transfer[i];
        if (mine->kind != LS_RECEIVE || mine->peer != peer)
            continue;
        while (sent < theirs.transfers &&
               (theirs.transfer[sent].kind != LS_SEND || theirs.transfer[sent].peer != plan->rank))
            sent++;
        if (sent == theirs.transfers)
            status = LS_FAIL(LS_INTERNAL, "rank %u sends less than rank %u receives", peer, plan->rank);
        else
            peers->source[mine->slot - plan->lane_slots] =
                peers->view[theirs.transfer[sent++].slot]->place[peer];
        peers->reads[peer] = true;
    }
    ls_plan_free(&theirs);
    return status;
}

static LsStatus match(const LsPlan *plan, LsReducerPeers *peers)
{
    size_t staging = plan->slots - plan->lane_slots;
    LS_TRY(ls_memory_allocate((staging + 1) * sizeof *peers->source, (void **)&peers->source));
    LS_TRY(ls_memory_allocate(plan->ranks * sizeof *peers->reads, (void **)&peers->reads));
    for (uint32_t peer = 0; peer < plan->ranks; peer++)
        if (peer != plan->rank)
            LS_TRY(match_peer(plan, peer, peers));
    return LS_OK;
}

// ---- What the others see --------------------------------------------------------------------------------

// Slots that are not in the transport's memory get a place there.
static LsStatus make_copies(
    LsComm *comm, const LsPlan *plan, float *const *slot, size_t elements, LsReducerPeers *peers)
{
    const LsSharingOps *sharing = comm->transport->ops->sharing;
    for (uint32_t s = 0; s < plan->share.subtrees; s++)
        if (!sharing->owns(comm->transport, slot[s])) {
            void *memory = NULL;
            LS_TRY(ls_comm_allocate(comm, elements * sizeof(float), &memory));
            peers->copy[s] = memory;
        }
    return LS_OK;
}

LsStatus ls_reducer_peers_create(LsComm *comm, const LsPlan *plan, float *const *slot, size_t elements,
    size_t buckets, LsReducerPeers *out)
{
    const LsSharingOps *sharing = comm->transport ? comm->transport->ops->sharing : NULL;
    LsReducerPeers peers = {.transport = comm->transport};
    *out = (LsReducerPeers){0};
    if (!sharing || buckets > sharing->tags) // alike on all ranks
        return LS_OK;
    LsStatus status = require_direct(plan);
    if (status == LS_OK)
        status = make_copies(comm, plan, slot, elements, &peers);
    status = ls_comm_agree(comm, status);
    for (uint32_t s = 0; status == LS_OK && s < LS_SUBTREES_MAX; s++) {
        const float *shown = s >= plan->share.subtrees ? NULL : peers.copy[s] ? peers.copy[s] : slot[s];
        status = sharing->view(comm->transport, shown, elements * sizeof(float), &peers.view[s]);
    }
    if (status == LS_OK)
        status = match(plan, &peers);
    if (status != LS_OK) {
        ls_reducer_peers_free(&peers, comm);
        return status == LS_UNSUPPORTED ? LS_OK : status;
    }
    *out = peers;
    return LS_OK;
}

void ls_reducer_peers_free(LsReducerPeers *peers, LsComm *comm)
{
    for (size_t s = 0; s < LS_SUBTREES_MAX; s++) {
        if (peers->view[s])
            peers->transport->ops->sharing->unview(peers->view[s]);
        ls_comm_release(comm, peers->copy[s]);
    }
    free(peers->source);
    free(peers->reads);
    *peers = (LsReducerPeers){0};
}
