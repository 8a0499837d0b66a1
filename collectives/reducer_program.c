#include "reducer_program.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "collectives/comm.h"
#include "device/device.h"

enum { NONE = UINT32_MAX };

typedef struct Builder {
    const LsPlan *plan;
    LsReducerProgram *program;
    size_t slots_used, pairs_used; // of the program's pools
    uint8_t *spent;   // bits [slots × ranks]: the piece was added to another slot since it last got contents
    uint32_t *parent; // [plan->slots] where this chunk adds the slot, or NONE
    bool *touched;    // [plan->slots] by this chunk
} Builder;

static LsStatus fail_spent(uint32_t slot)
{
    return LS_FAIL(LS_INTERNAL, "the plan reads slot %u after it was added to another", slot);
}

static bool is_spent(const Builder *b, uint32_t slot, uint32_t first_piece, uint32_t pieces)
{
    for (uint32_t piece = first_piece; piece < first_piece + pieces; piece++) {
        size_t bit = (size_t)slot * b->plan->ranks + piece;
        if (b->spent[bit / 8] & 1u << bit % 8)
            return true;
    }
    return false;
}

static void set_spent(Builder *b, uint32_t slot, uint32_t first_piece, uint32_t pieces, bool spent)
{
    for (uint32_t piece = first_piece; piece < first_piece + pieces; piece++) {
        size_t bit = (size_t)slot * b->plan->ranks + piece;
        uint8_t mask = (uint8_t)(1u << bit % 8);
        b->spent[bit / 8] = (uint8_t)(spent ? b->spent[bit / 8] | mask : b->spent[bit / 8] & ~mask);
    }
}

static uint32_t find_root(const Builder *b, uint32_t slot)
{
    while (b->parent[slot] != NONE)
        slot = b->parent[slot];
    return slot;
}

// The slot's index among the inputs of `op`, which grow by it if it is new.
static uint16_t input_index(Builder *b, LsTreeOp *op, uint32_t slot)
{
    for (size_t i = 0; i < op->inputs; i++)
        if (op->slot[i] == slot)
            return (uint16_t)i;
    b->slots_used++;
    op->slot[op->inputs] = slot;
    return (uint16_t)op->inputs++;
}

static LsTreeOp *start_op(Builder *b, LsPieceSpan span, uint32_t root)
{
    LsTreeOp *op = &b->program->op[b->program->ops++];
    *op = (LsTreeOp){
        .span = span,
        .output_slot = root,
        .slot = b->program->slot_pool + b->slots_used,
        .pairs = b->program->pair_pool + b->pairs_used,
    };
    return op;
}

// The additions of the chunk that end in `root`, as one op.
static void emit_tree(Builder *b, const LsPlanAdd *add, size_t adds, uint32_t root)
{
    LsTreeOp *op = start_op(b, (LsPieceSpan){add->first_piece, add->pieces}, root);
    for (size_t i = 0; i < adds; i++) {
        if (find_root(b, add[i].into) != root)
            continue;
        op->pairs[op->adds][0] = input_index(b, op, add[i].into);
        op->pairs[op->adds][1] = input_index(b, op, add[i].from);
        op->adds++;
        b->pairs_used++;
    }
    op->result = input_index(b, op, root);
}

// Turns the longest head of add[0 … adds) that touches no more slots than one op may read into ops, one for
// each tree that it forms. *taken is its length.
static LsStatus emit_chunk(Builder *b, const LsPlanAdd *add, size_t adds, size_t *taken)
{
    size_t count = 0;
    memset(b->touched, 0, b->plan->slots * sizeof *b->touched);
    memset(b->parent, 0xff, b->plan->slots * sizeof *b->parent);
    for (size_t inputs = 0; count < adds; count++) {
        uint32_t into = add[count].into, from = add[count].from;
        inputs += !b->touched[into] + (size_t)!b->touched[from];
        if (inputs > LS_TREE_INPUTS)
            break;
        bool into_spent = is_spent(b, into, add[count].first_piece, add[count].pieces);
        if (into_spent || into == from || is_spent(b, from, add[count].first_piece, add[count].pieces))
            return fail_spent(into_spent ? into : from);
        b->touched[into] = b->touched[from] = true;
        b->parent[from] = into;
        set_spent(b, from, add[count].first_piece, add[count].pieces, true);
    }
    for (size_t i = 0; i < count; i++) // every root is met as the target of its last addition
        if (b->parent[add[i].into] == NONE && b->touched[add[i].into]) {
            emit_tree(b, add, count, add[i].into);
            b->touched[add[i].into] = false; // done
        }
    *taken = count;
    return LS_OK;
}

static LsStatus emit_phase(Builder *b, const LsPlanPhase *phase)
{
    const LsTransfer *transfer = b->plan->transfer + phase->first_transfer, *t;
    for (t = transfer; t < transfer + phase->transfers; t++)
        if (t->kind == LS_SEND && is_spent(b, t->slot, t->first_piece, t->pieces))
            return fail_spent(t->slot);
    for (t = transfer; t < transfer + phase->transfers; t++)
        if (t->kind == LS_RECEIVE)
            set_spent(b, t->slot, t->first_piece, t->pieces, false);

    const LsPlanAdd *add = b->plan->add + phase->first_add, *end = add + phase->adds;
    while (add < end) {
        size_t run = 1, taken = 0;
        while (add + run < end && add[run].first_piece == add->first_piece && add[run].pieces == add->pieces)
            run++;
        LS_TRY(emit_chunk(b, add, run, &taken));
        add += taken;
    }
    return LS_OK;
}

// What is moved mostly comes from a tree of the last phase, which can write it to its place itself.
static LsStatus place_result(Builder *b, LsPlanMove move)
{
    LsReducerProgram *program = b->program;
    LsPieceSpan own = {b->plan->rank, 1};
    if (move.from == move.to || program->phases == 0)
        return LS_OK;
    if (is_spent(b, move.from, own.first, own.count))
        return fail_spent(move.from);
    for (size_t i = program->ops; i-- > program->first_op[program->phases - 1];) {
        LsTreeOp *op = &program->op[i];
        if (op->output_slot == move.from && op->span.first == own.first && op->span.count == own.count) {
            op->output_slot = move.to;
            return LS_OK;
        }
    }
    LsTreeOp *copy = start_op(b, own, move.to);
    copy->result = input_index(b, copy, move.from);
    return LS_OK;
}

static LsStatus allocate(Builder *b, size_t moves)
{
    const LsPlan *plan = b->plan;
    LsReducerProgram *program = b->program;
    LS_TRY(ls_memory_allocate((plan->phases + 1) * sizeof *program->first_op, (void **)&program->first_op));
    LS_TRY(ls_memory_allocate((plan->adds + moves) * sizeof *program->op, (void **)&program->op));
    LS_TRY(ls_memory_allocate(
        (2 * plan->adds + moves) * sizeof *program->slot_pool, (void **)&program->slot_pool));
    LS_TRY(ls_memory_allocate((plan->adds + 1) * sizeof *program->pair_pool, (void **)&program->pair_pool));
    LS_TRY(ls_memory_allocate((size_t)plan->slots * plan->ranks / 8 + 1, (void **)&b->spent));
    LS_TRY(ls_memory_allocate(plan->slots * sizeof *b->touched, (void **)&b->touched));
    return ls_memory_allocate(plan->slots * sizeof *b->parent, (void **)&b->parent);
}

static LsStatus build(Builder *b, const LsPlanMove *move, size_t moves)
{
    LS_TRY(allocate(b, moves));
    LsReducerProgram *program = b->program;
    program->phases = b->plan->phases;
    for (size_t p = 0; p < program->phases; p++) {
        program->first_op[p] = program->ops;
        LS_TRY(emit_phase(b, &b->plan->phase[p]));
    }
    for (size_t i = 0; i < moves; i++)
        LS_TRY(place_result(b, move[i]));
    program->first_op[program->phases] = program->ops;
    return LS_OK;
}

LsStatus ls_reducer_program_create(const LsPlan *plan, LsReducerProgram *out)
{
    return ls_reducer_program_move(plan, &(LsPlanMove){plan->result_slot, 0}, 1, out);
}

LsStatus ls_reducer_program_move(
    const LsPlan *plan, const LsPlanMove *move, size_t moves, LsReducerProgram *out)
{
    LsReducerProgram program = {0};
    Builder builder = {.plan = plan, .program = &program};
    LsStatus status = build(&builder, move, moves);
    free(builder.parent);
    free(builder.touched);
    free(builder.spent);
    if (status != LS_OK) {
        ls_reducer_program_free(&program);
        return status;
    }
    *out = program;
    return LS_OK;
}

void ls_reducer_program_free(LsReducerProgram *program)
{
    free(program->pair_pool);
    free(program->slot_pool);
    free(program->op);
    free(program->first_op);
    *program = (LsReducerProgram){0};
}

void ls_reducer_program_read_in_place(LsReducerProgram *program, const LsPlan *plan, LsPieceSpan *span)
{
    for (size_t i = 0; plan->phases > 0 && i < plan->phase[0].transfers; i++)
        if (plan->transfer[i].kind == LS_RECEIVE)
            span[plan->transfer[i].slot - plan->lane_slots].count = 0;
    for (size_t i = 0; i < program->ops; i++) {
        LsTreeOp *op = &program->op[i];
        for (size_t k = 0; k < op->inputs; k++) {
            uint32_t slot = op->slot[k];
            if (slot >= plan->lane_slots && span[slot - plan->lane_slots].count == 0)
                op->slot[k] = plan->slots + slot - plan->lane_slots;
        }
        if (op->output_slot >= plan->lane_slots)
            span[op->output_slot - plan->lane_slots] = plan->staging[op->output_slot - plan->lane_slots];
    }
}

LsStatus ls_reducer_staging(const LsPlan *plan, const LsBuckets *buckets, bool in_place, size_t *blocks)
{
    LsReducerProgram program;
    LsPieceSpan *span = NULL;
    size_t slots = plan->slots - plan->lane_slots;
    *blocks = 0;
    if (plan->ranks == 1 || slots == 0)
        return LS_OK;
    LS_TRY(ls_reducer_program_create(plan, &program));
    LsStatus status = ls_memory_allocate(slots * sizeof *span, (void **)&span);
    if (status == LS_OK)
        memcpy(span, plan->staging, slots * sizeof *span);
    if (status == LS_OK && in_place && plan->host.count > 0)
        ls_reducer_program_read_in_place(&program, plan, span);
    for (size_t s = 0; s < slots && status == LS_OK; s++)
        for (size_t b = 0; b < buckets->count; b++)
            *blocks += ls_span_blocks(buckets->bucket[b], plan->ranks, span[s]);
    free(span);
    ls_reducer_program_free(&program);
    return status;
}
