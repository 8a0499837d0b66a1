// A plan's additions as the device runs them: for each phase a list of trees. Private to this layer.
#ifndef LOCKSTEP_COLLECTIVES_REDUCER_PROGRAM_H
#define LOCKSTEP_COLLECTIVES_REDUCER_PROGRAM_H

#include "collectives/plan.h"

// One tree over the pieces `span`: the values of the slots slot[0 … inputs) are added in pairs; the root goes
// to output_slot.
typedef struct LsTreeOp {
    LsPieceSpan span;
    size_t inputs, adds, result;
    uint32_t output_slot;
    uint32_t *slot;       // [inputs]
    uint16_t (*pairs)[2]; // [adds] indexes in `slot`: {into, from}
} LsTreeOp;

typedef struct LsReducerProgram {
    size_t phases, ops;
    size_t *first_op; // [phases + 1]: phase p runs op[first_op[p]] … op[first_op[p + 1] - 1]
    LsTreeOp *op;
    uint32_t *slot_pool; // what the ops' lists are parts of
    uint16_t (*pair_pool)[2];
} LsReducerProgram;

// LS_INTERNAL if the plan reads a slot that has been added to another (its contents are not written back).
// Freed by ls_reducer_program_free.
LsStatus ls_reducer_program_create(const LsPlan *plan, LsReducerProgram *out);

// The same of a plan whose results go to `moves` places instead of slot 0.
LsStatus ls_reducer_program_move(
    const LsPlan *plan, const LsPlanMove *move, size_t moves, LsReducerProgram *out);

// What phase 0 receives is read where it lies with other ranks, until an op writes to the slot: only then
// does it need staging. Such an input becomes plan->slots and the slot's number among the staging slots.
// span: [plan->slots - plan->lane_slots] the pieces of a slot that need memory, of the plan's before. For a
// plan that allows it (LsPlan.host).
void ls_reducer_program_read_in_place(LsReducerProgram *program, const LsPlan *plan, LsPieceSpan *span);

void ls_reducer_program_free(LsReducerProgram *program);

#endif
