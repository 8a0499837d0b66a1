#include "halving_plan.h"

#include <stdlib.h>

#include "base/memory.h"

static LsStatus replace_lists(LsPlan *plan, size_t phases)
{
    free(plan->phase);
    free(plan->transfer);
    free(plan->add);
    plan->phase = NULL;
    plan->transfer = NULL;
    plan->add = NULL;
    plan->phases = plan->transfers = plan->adds = 0;
    LS_TRY(ls_memory_allocate((phases + 1) * sizeof *plan->phase, (void **)&plan->phase));
    LS_TRY(ls_memory_allocate((2 * plan->ranks + 1) * sizeof *plan->transfer, (void **)&plan->transfer));
    return ls_memory_allocate((plan->ranks + 1) * sizeof *plan->add, (void **)&plan->add);
}

// `current` holds the rank's partial sums so far; the partner's arrive in `received`.
static void add_phase(LsPlan *plan, uint32_t k, uint32_t current, uint32_t received)
{
    uint32_t bit = 1u << k, partner = plan->rank ^ bit, kept = bit - 1;
    bool left = !(plan->rank & bit);
    LsPlanPhase phase = {.first_transfer = plan->transfers, .first_add = plan->adds};
    for (uint32_t p = 0; p < plan->ranks; p++) {
        if ((p & kept) != (plan->rank & kept))
            continue;
        bool mine = (p & bit) == (plan->rank & bit);
        plan->transfer[plan->transfers++] = (LsTransfer){
            mine ? LS_RECEIVE : LS_SEND, partner, mine ? received : current, .first_piece = p, .pieces = 1};
        if (mine)
            plan->add[plan->adds++] = (LsPlanAdd){
                .into = left ? current : received, .from = left ? received : current, p, .pieces = 1};
    }
    phase.transfers = plan->transfers - phase.first_transfer;
    phase.adds = plan->adds - phase.first_add;
    plan->phase[plan->phases++] = phase;
}

LsStatus halving_plan_compile(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out)
{
    if (ranks == 0 || (ranks & (ranks - 1)) != 0)
        return LS_FAIL(LS_INTERNAL, "%u ranks are no power of two", ranks);
    LsPlan plan;
    LS_TRY(ls_plan_compile(lanes, ranks, rank, &plan));
    uint32_t phases = (uint32_t)__builtin_ctz(ranks), current = 0;
    LsStatus status = replace_lists(&plan, phases);
    if (status != LS_OK) {
        ls_plan_free(&plan);
        return status;
    }
    for (uint32_t k = 0; k < phases; k++) {
        uint32_t received = plan.lane_slots + k;
        add_phase(&plan, k, current, received);
        current = rank & 1u << k ? received : current;
    }
    plan.slots = plan.lane_slots + phases;
    plan.result_slot = current;
    *out = plan;
    return LS_OK;
}
