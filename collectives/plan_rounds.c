// Rounds: lanes dealt like cards, gradients reduced lane by lane. See LsRounds.
#include <stdlib.h>

#include "base/memory.h"
#include "plan_private.h"

enum { STACK = 14 }; // partial sums at a time: one for each bit of LS_LANES_MAX, and one being added

typedef struct Sum {
    uint32_t first, count, slot; // lanes
} Sum;

static LsLaneShare share_of(uint32_t lanes, uint32_t ranks, uint32_t rank)
{
    return (LsLaneShare){.first = rank, .count = (lanes - rank + ranks - 1) / ranks, .stride = ranks};
}

LsStatus ls_plan_lanes(const LsPlan *plan, uint32_t rank, LsLaneShare *out)
{
    if (plan->share.stride == 1)
        return ls_lane_share(plan->lanes, plan->ranks, rank, out);
    *out = share_of(plan->lanes, plan->ranks, rank);
    return LS_OK;
}

// The slot in which this rank has its piece of the gradients of `peer`'s lane.
static uint32_t slot_of(const LsRounds *rounds, uint32_t peer)
{
    if (peer == rounds->rank)
        return 0;
    return peer < rounds->rank ? peer + 1 : peer;
}

// Rank r sends to its right neighbours in turn and receives from its left ones, so that no rank is
// everybody's first target. `present` ranks have a lane.
static void plan_transfers(LsPlan *plan, const LsRounds *rounds, uint32_t present)
{
    uint32_t ranks = plan->ranks, rank = plan->rank;
    for (uint32_t d = 1; d < ranks; d++) {
        uint32_t peer = (rank + ranks - d) % ranks;
        if (peer < present)
            plan->transfer[plan->transfers++] =
                (LsTransfer){LS_RECEIVE, peer, slot_of(rounds, peer), .first_piece = rank, .pieces = 1};
    }
    for (uint32_t d = 1; d < ranks && rank < present; d++) {
        uint32_t peer = (rank + d) % ranks;
        plan->transfer[plan->transfers++] = (LsTransfer){LS_SEND, peer, 0, .first_piece = peer, .pieces = 1};
    }
}

// Siblings at the top of the stack become one, again and again.
static void collapse(LsPlan *plan, Sum *stack, uint32_t *height)
{
    while (*height > 1) {
        Sum *left = &stack[*height - 2], *right = left + 1;
        if (left->count != right->count || left->first % (2 * left->count) != 0)
            return;
        plan->add[plan->adds++] = (LsPlanAdd){left->slot, right->slot, plan->rank, 1};
        left->count *= 2;
        (*height)--;
    }
}

// Partial sums go where the next round finds them. Those that were there before are still in their places.
static void plan_moves(LsRounds *rounds, uint32_t round, Sum *stack, uint32_t height)
{
    for (uint32_t s = 0; s < height; s++) {
        uint32_t to = rounds->first_sum + s;
        if (stack[s].slot != to)
            rounds->move[round][rounds->moves[round]++] = (LsPlanMove){stack[s].slot, to};
        stack[s].slot = to;
    }
    rounds->sums = height > rounds->sums ? height : rounds->sums;
}

static LsStatus plan_round(LsRounds *rounds, uint32_t round, Sum *stack, uint32_t *height)
{
    LsPlan *plan = &rounds->round[round];
    uint32_t ranks = rounds->ranks, first = round * ranks, left = rounds->lanes - first;
    uint32_t present = left < ranks ? left : ranks;
    *plan = (LsPlan){.lanes = rounds->lanes, .ranks = ranks, .rank = rounds->rank, .lane_slots = 1};
    LS_TRY(ls_memory_allocate(sizeof *plan->phase, (void **)&plan->phase));
    LS_TRY(ls_memory_allocate(2 * ranks * sizeof *plan->transfer, (void **)&plan->transfer));
    LS_TRY(ls_memory_allocate((ranks + STACK) * sizeof *plan->add, (void **)&plan->add));
    LS_TRY(ls_memory_allocate(STACK * sizeof **rounds->move, (void **)&rounds->move[round]));
    plan_transfers(plan, rounds, present);
    for (uint32_t peer = 0; peer < present; peer++) {
        stack[(*height)++] = (Sum){first + peer, 1, slot_of(rounds, peer)};
        collapse(plan, stack, height);
    }
    plan_moves(rounds, round, stack, *height);
    plan->phase[plan->phases++] = (LsPlanPhase){0, plan->transfers, 0, plan->adds};
    return LS_OK;
}

static LsStatus plan_rounds(LsRounds *rounds)
{
    Sum stack[STACK];
    uint32_t height = 0;
    size_t count = rounds->rounds;
    LS_TRY(ls_memory_allocate(count * sizeof *rounds->round, (void **)&rounds->round));
    LS_TRY(ls_memory_allocate(count * sizeof *rounds->move, (void **)&rounds->move));
    LS_TRY(ls_memory_allocate(count * sizeof *rounds->moves, (void **)&rounds->moves));
    for (uint32_t i = 0; i < rounds->rounds; i++)
        LS_TRY(plan_round(rounds, i, stack, &height));
    for (uint32_t i = 0; i < rounds->rounds; i++) {
        rounds->round[i].slots = rounds->first_sum + rounds->sums;
        LS_TRY(ls_plan_end(&rounds->round[i]));
    }
    return LS_OK;
}

static LsStatus plan_lanes(LsPlan *plan)
{
    plan->share = share_of(plan->lanes, plan->ranks, plan->rank);
    plan->lane_slots = plan->slots = 1;
    plan->lane_steps = 0;
    free(plan->lane_step);
    plan->lane_step = NULL;
    LS_TRY(ls_memory_allocate(plan->share.count * sizeof *plan->lane_step, (void **)&plan->lane_step));
    for (uint32_t i = 0; i < plan->share.count; i++)
        plan->lane_step[plan->lane_steps++] =
            (LsLaneStep){.lane = plan->share.first + i * plan->share.stride, .slot = 0, .adds = 0};
    return LS_OK;
}

LsStatus ls_rounds_compile(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *plan, LsRounds *out)
{
    LsPlan local;
    LsRounds rounds = {.lanes = lanes, .ranks = ranks, .rank = rank};
    uint32_t unit;
    LsStatus status = ls_plan_begin(lanes, ranks, rank, &unit, &local); // for its checks
    if (status == LS_OK) {
        rounds.rounds = (lanes + ranks - 1) / ranks;
        rounds.first_sum = ranks;
        status = plan_lanes(&local);
    }
    if (status == LS_OK)
        status = plan_rounds(&rounds);
    if (status != LS_OK) {
        ls_plan_free(&local);
        ls_rounds_free(&rounds);
        return status;
    }
    *plan = local;
    *out = rounds;
    return LS_OK;
}

void ls_rounds_free(LsRounds *rounds)
{
    for (uint32_t i = 0; rounds->round && i < rounds->rounds; i++)
        ls_plan_free(&rounds->round[i]);
    for (uint32_t i = 0; rounds->move && i < rounds->rounds; i++)
        free(rounds->move[i]);
    free(rounds->moves);
    free(rounds->move);
    free(rounds->round);
    *rounds = (LsRounds){0};
}
