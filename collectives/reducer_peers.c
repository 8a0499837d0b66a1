#include "reducer_peers.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "device/operations.h"

// ---- Who would send what --------------------------------------------------------------------------------

// LS_UNSUPPORTED unless phase 0 can be read in place.
static LsStatus require_reach(LsTransport *transport, const LsPlan *plan)
{
    bool reached = plan->host.count > 0;
    for (uint32_t r = plan->host.first; r < plan->host.first + plan->host.count; r++)
        reached = reached && transport->ops->sharing->reaches(transport, (int)r);
    return reached
               ? LS_OK
               : LS_FAIL(LS_UNSUPPORTED, "the plan has no phase among ranks that see each other's memory");
}

static LsStatus match(const LsPlan *plan, LsReducerPeers *peers)
{
    size_t staging = plan->slots - plan->lane_slots;
    LS_TRY(ls_memory_allocate((staging + 1) * sizeof *peers->source, (void **)&peers->source));
    LS_TRY(ls_memory_allocate(plan->ranks * sizeof *peers->reads, (void **)&peers->reads));
    for (size_t i = 0; i < plan->transfers && plan->phases > 0; i++) {
        const LsTransfer *t = &plan->transfer[i];
        if (i >= plan->phase[0].transfers || t->kind != LS_RECEIVE)
            continue;
        peers->source[t->slot - plan->lane_slots] = peers->view[t->peer_slot]->place[t->peer];
        peers->reads[t->peer] = true;
    }
    return LS_OK;
}

// ---- What the others see --------------------------------------------------------------------------------

// Slots that are not in the transport's memory get a place there.
static LsStatus make_copies(
    LsComm *comm, const LsPlan *plan, void *const *slot, size_t bytes, LsReducerPeers *peers)
{
    const LsSharingOps *sharing = comm->transport->ops->sharing;
    for (uint32_t s = 0; s < plan->share.subtrees; s++)
        if (!sharing->owns(comm->transport, slot[s]))
            LS_TRY(ls_comm_allocate(comm, bytes, &peers->copy[s]));
    return LS_OK;
}

LsStatus ls_reducer_peers_create(
    LsComm *comm, const LsPlan *plan, void *const *slot, size_t bytes, size_t buckets, LsReducerPeers *out)
{
    const LsSharingOps *sharing = comm->transport ? comm->transport->ops->sharing : NULL;
    LsReducerPeers peers = {.transport = comm->transport};
    *out = (LsReducerPeers){0};
    if (!sharing || buckets > sharing->tags) // alike on all ranks
        return LS_OK;
    LsStatus status = require_reach(comm->transport, plan);
    if (status == LS_OK)
        status = make_copies(comm, plan, slot, bytes, &peers);
    status = ls_comm_agree(comm, status);
    for (uint32_t s = 0; status == LS_OK && s < LS_SUBTREES_MAX; s++) {
        const void *shown = s >= plan->share.subtrees ? NULL : peers.copy[s] ? peers.copy[s] : slot[s];
        status = sharing->view(comm->transport, shown, bytes, &peers.view[s]);
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
