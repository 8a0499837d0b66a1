#include "collectives/plan.h"

#include <stdlib.h>

#include "base/memory.h"
#include "plan_private.h"

// ---- Lane shares ----------------------------------------------------------------------------------------

static uint32_t minimum(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

// The lanes of `rank` when they are dealt in units of `unit` lanes.
static LsLaneShare deal(uint32_t lanes, uint32_t ranks, uint32_t rank, uint32_t unit)
{
    uint32_t units = lanes / unit, each = units / ranks, more = units % ranks;
    return (LsLaneShare){
        .first = (rank * each + minimum(rank, more)) * unit,
        .count = (each + (rank < more)) * unit,
        .stride = 1,
    };
}

uint32_t ls_plan_aligned(uint32_t first, uint32_t end)
{
    uint32_t count = first ? first & -first : LS_LANES_MAX;
    while (count > end - first)
        count /= 2;
    return count;
}

static uint32_t count_subtrees(LsLaneShare share)
{
    uint32_t subtrees = 0, end = share.first + share.count;
    for (uint32_t lane = share.first; lane < end; lane += ls_plan_aligned(lane, end))
        subtrees++;
    return subtrees;
}

// The smallest power of two that leaves every rank with few enough subtrees. With between W and 2W units a
// rank holds one or two, so the search ends before the units run out.
static uint32_t find_unit(uint32_t lanes, uint32_t ranks)
{
    uint32_t unit = 1;
    for (uint32_t rank = 0; rank < ranks; rank++)
        while (count_subtrees(deal(lanes, ranks, rank, unit)) > LS_SUBTREES_MAX) {
            unit *= 2;
            rank = 0;
        }
    return unit;
}

LsLaneShare ls_plan_share(uint32_t lanes, uint32_t ranks, uint32_t rank, uint32_t unit)
{
    LsLaneShare share = deal(lanes, ranks, rank, unit);
    uint32_t end = share.first + share.count;
    for (uint32_t lane = share.first; lane < end;) {
        uint32_t count = ls_plan_aligned(lane, end);
        share.subtree[share.subtrees++] = (LsSubtree){lane, count};
        lane += count;
    }
    return share;
}

static LsStatus check_shape(uint32_t lanes, uint32_t ranks, uint32_t rank)
{
    if (lanes == 0 || lanes > LS_LANES_MAX || (lanes & (lanes - 1)) != 0)
        return LS_FAIL(
            LS_CONFIG, "train.lanes is %u; it must be a power of two up to %d", lanes, LS_LANES_MAX);
    if (ranks == 0 || ranks > lanes)
        return LS_FAIL(LS_CONFIG, "%u ranks cannot share %u lanes; start 1 to %u ranks, or raise train.lanes",
            ranks, lanes, lanes);
    if (rank >= ranks)
        return LS_FAIL(LS_INTERNAL, "rank %u of %u ranks", rank, ranks);
    return LS_OK;
}

LsStatus ls_lane_share(uint32_t lanes, uint32_t ranks, uint32_t rank, LsLaneShare *out)
{
    LS_TRY(check_shape(lanes, ranks, rank));
    *out = ls_plan_share(lanes, ranks, rank, find_unit(lanes, ranks));
    return LS_OK;
}

// ---- Local steps ----------------------------------------------------------------------------------------

// Adding up a subtree is counting in binary: lane i of the subtree finds one partial sum on the stack for
// each bit set in i, and completes as many additions as i ends in ones.
static void plan_local_steps(LsPlan *plan)
{
    for (uint32_t s = 0; s < plan->share.subtrees; s++) {
        LsSubtree subtree = plan->share.subtree[s];
        for (uint32_t i = 0; i < subtree.count; i++) {
            LsLaneStep step = {
                .lane = subtree.first + i,
                .slot = s + (uint32_t)__builtin_popcount(i),
                .adds = (uint32_t)__builtin_ctz(~i),
            };
            plan->lane_step[plan->lane_steps++] = step;
            if (step.slot >= plan->lane_slots)
                plan->lane_slots = step.slot + 1;
        }
    }
}

// ---- Direct exchange ------------------------------------------------------------------------------------

uint32_t ls_plan_node(LsPlanWalk *walk, uint32_t first, uint32_t count)
{
    if (walk->next->subtree.first == first && walk->next->subtree.count == count)
        return walk->next++->slot;
    uint32_t left = ls_plan_node(walk, first, count / 2);
    uint32_t right = ls_plan_node(walk, first + count / 2, count / 2);
    LsPlan *plan = walk->plan;
    plan->add[plan->adds++] = (LsPlanAdd){left, right, walk->pieces.first, walk->pieces.count};
    return left;
}

// Lists every rank's subtrees from left to right and gives those of other ranks their staging slots.
// first_leaf[r] is where rank r's begin.
static void place_leaves(LsPlan *plan, uint32_t unit, LsPlanLeaf *leaf, uint32_t *first_leaf)
{
    uint32_t leaves = 0;
    plan->slots = plan->lane_slots;
    for (uint32_t r = 0; r < plan->ranks; r++) {
        LsLaneShare share = ls_plan_share(plan->lanes, plan->ranks, r, unit);
        first_leaf[r] = leaves;
        for (uint32_t s = 0; s < share.subtrees; s++)
            leaf[leaves++] = (LsPlanLeaf){share.subtree[s], r == plan->rank ? s : plan->slots++};
    }
    first_leaf[plan->ranks] = leaves;
}

// Rank r sends to its right neighbours in turn and receives from its left ones, so that no rank is
// everybody's first target. Receives come first: a message that finds its receive posted needs no copy.
static void plan_transfers(LsPlan *plan, const LsPlanLeaf *leaf, const uint32_t *first_leaf)
{
    for (uint32_t d = 1; d < plan->ranks; d++) {
        uint32_t peer = (plan->rank + plan->ranks - d) % plan->ranks;
        for (uint32_t i = first_leaf[peer]; i < first_leaf[peer + 1]; i++)
            plan->transfer[plan->transfers++] = (LsTransfer){LS_RECEIVE, peer, leaf[i].slot,
                .first_piece = plan->rank, .pieces = 1, .peer_slot = i - first_leaf[peer]};
    }
    for (uint32_t d = 1; d < plan->ranks; d++) {
        uint32_t peer = (plan->rank + d) % plan->ranks;
        for (uint32_t s = 0; s < plan->share.subtrees; s++)
            plan->transfer[plan->transfers++] =
                (LsTransfer){LS_SEND, peer, s, .first_piece = peer, .pieces = 1};
    }
}

static LsStatus plan_direct_exchange(LsPlan *plan, uint32_t unit)
{
    LsPlanLeaf *leaf = NULL;
    uint32_t *first_leaf = NULL;
    size_t leaves = (size_t)LS_SUBTREES_MAX * plan->ranks;
    LsStatus status = ls_memory_allocate(leaves * sizeof *leaf, (void **)&leaf);
    if (status == LS_OK)
        status = ls_memory_allocate((plan->ranks + 1) * sizeof *first_leaf, (void **)&first_leaf);
    if (status == LS_OK) {
        place_leaves(plan, unit, leaf, first_leaf);
        plan_transfers(plan, leaf, first_leaf);
        LsPlanWalk walk = {plan, leaf, {plan->rank, 1}};
        plan->result_slot = ls_plan_node(&walk, 0, plan->lanes);
        plan->phase[plan->phases++] = (LsPlanPhase){0, plan->transfers, 0, plan->adds};
        plan->host = (LsPieceSpan){0, plan->ranks};
    }
    free(first_leaf);
    free(leaf);
    return status;
}

// ---- The plan -------------------------------------------------------------------------------------------

LsStatus ls_plan_begin(uint32_t lanes, uint32_t ranks, uint32_t rank, uint32_t *unit, LsPlan *plan)
{
    *plan = (LsPlan){.lanes = lanes, .ranks = ranks, .rank = rank};
    LS_TRY(check_shape(lanes, ranks, rank));
    *unit = find_unit(lanes, ranks);
    plan->share = ls_plan_share(lanes, ranks, rank, *unit);
    LS_TRY(ls_memory_allocate(plan->share.count * sizeof *plan->lane_step, (void **)&plan->lane_step));
    plan_local_steps(plan);
    plan->slots = plan->lane_slots;
    return LS_OK;
}

static void widen(LsPieceSpan *span, uint32_t first, uint32_t count)
{
    uint32_t end = first + count, old_end = span->first + span->count;
    if (span->count == 0) {
        *span = (LsPieceSpan){first, count};
        return;
    }
    span->first = first < span->first ? first : span->first;
    span->count = (end > old_end ? end : old_end) - span->first;
}

LsStatus ls_plan_end(LsPlan *plan)
{
    uint32_t local = plan->lane_slots;
    size_t slots = plan->slots - local;
    LS_TRY(ls_memory_allocate((slots + 1) * sizeof *plan->staging, (void **)&plan->staging));
    for (size_t i = 0; i < plan->transfers; i++) {
        const LsTransfer *t = &plan->transfer[i];
        if (t->slot >= local)
            widen(&plan->staging[t->slot - local], t->first_piece, t->pieces);
    }
    for (size_t i = 0; i < plan->adds; i++) {
        const LsPlanAdd *a = &plan->add[i];
        if (a->into >= local)
            widen(&plan->staging[a->into - local], a->first_piece, a->pieces);
        if (a->from >= local)
            widen(&plan->staging[a->from - local], a->first_piece, a->pieces);
    }
    return LS_OK;
}

static LsStatus allocate_lists(LsPlan *plan)
{
    size_t leaves = (size_t)LS_SUBTREES_MAX * plan->ranks;
    LS_TRY(ls_memory_allocate(sizeof *plan->phase, (void **)&plan->phase));
    LS_TRY(ls_memory_allocate(2 * leaves * sizeof *plan->transfer, (void **)&plan->transfer));
    return ls_memory_allocate(leaves * sizeof *plan->add, (void **)&plan->add);
}

LsStatus ls_plan_compile(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out)
{
    uint32_t unit;
    LsPlan plan;
    LsStatus status = ls_plan_begin(lanes, ranks, rank, &unit, &plan);
    if (status == LS_OK)
        status = allocate_lists(&plan);
    if (status == LS_OK && ranks > 1)
        status = plan_direct_exchange(&plan, unit);
    if (status == LS_OK)
        status = ls_plan_end(&plan);
    if (status != LS_OK) {
        ls_plan_free(&plan);
        return status;
    }
    *out = plan;
    return LS_OK;
}

LsStatus ls_plan_choose(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out)
{
    return ranks > LS_DIRECT_RANKS_MAX ? ls_plan_compile_halving(lanes, ranks, rank, out)
                                       : ls_plan_compile(lanes, ranks, rank, out);
}

// Two levels take less between hosts wherever a host has several ranks.
static bool has_two_levels(const LsHostMap *hosts, uint32_t ranks)
{
    return hosts && hosts->count > 1 && hosts->count < ranks && hosts->count <= LS_DIRECT_RANKS_MAX;
}

LsStatus ls_plan_choose_hosts(
    uint32_t lanes, uint32_t ranks, uint32_t rank, const LsHostMap *hosts, LsPlan *out)
{
    if (hosts && hosts->count == 1 && hosts->in_place && ranks <= LS_IN_PLACE_RANKS_MAX)
        return ls_plan_compile(lanes, ranks, rank, out);
    return has_two_levels(hosts, ranks) ? ls_plan_compile_hosts(lanes, ranks, rank, hosts, out)
                                        : ls_plan_choose(lanes, ranks, rank, out);
}

void ls_plan_free(LsPlan *plan)
{
    if (!plan)
        return;
    free(plan->lane_step);
    free(plan->phase);
    free(plan->transfer);
    free(plan->add);
    free(plan->staging);
    *plan = (LsPlan){0};
}

double ls_plan_send_ratio(const LsPlan *plan)
{
    if (plan->ranks == 1)
        return 1.0;
    uint64_t pieces = 0;
    for (size_t i = 0; i < plan->transfers; i++)
        if (plan->transfer[i].kind == LS_SEND)
            pieces += plan->transfer[i].pieces;
    return (double)pieces / (plan->ranks - 1);
}

size_t ls_plan_messages(const LsPlan *plan)
{
    size_t messages = 0;
    for (size_t i = 0; i < plan->transfers; i++)
        messages += plan->transfer[i].kind == LS_SEND;
    return messages;
}

LsBlockRange ls_piece(size_t blocks, uint32_t ranks, uint32_t piece)
{
    size_t first = piece * blocks / ranks;
    return (LsBlockRange){first, (piece + 1) * blocks / ranks - first};
}
