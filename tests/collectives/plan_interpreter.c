#include "plan_interpreter.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

// ---- Symbols: a sum is a 64-bit hash of its tree, 0 is "nothing" -----------------------------------------

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t leaf(uint32_t lane)
{
    return mix(lane + 1);
}

static uint64_t plus(uint64_t left, uint64_t right)
{
    return mix(left * 3 + mix(right) + 0x9e3779b97f4a7c15u);
}

static uint64_t node(uint32_t first, uint32_t count)
{
    return count == 1 ? leaf(first) : plus(node(first, count / 2), node(first + count / 2, count / 2));
}

// ---- The interpreter ------------------------------------------------------------------------------------

static char reason[200]; // why the newest set of plans is wrong

#define WRONG(...) (snprintf(reason, sizeof reason, __VA_ARGS__), false)

// All ranks' slots, each with a symbol for every piece.
typedef struct Machine {
    const LsPlan *plan;
    uint32_t ranks;
    bool in_place;     // this phase may be read in place
    uint64_t **symbol; // [ranks][slots × ranks]
} Machine;

static uint64_t *at(Machine *m, uint32_t rank, uint32_t slot, uint32_t piece)
{
    return &m->symbol[rank][(size_t)slot * m->ranks + piece];
}

static bool check_shares(const LsPlan *plan, uint32_t ranks)
{
    uint32_t lane = 0;
    for (uint32_t r = 0; r < ranks; r++) {
        const LsLaneShare *share = &plan[r].share;
        if (share->first != lane || share->count == 0)
            return WRONG(
                "rank %u begins at lane %u, not %u, with %u lanes", r, share->first, lane, share->count);
        if (share->subtrees < 1 || share->subtrees > LS_SUBTREES_MAX)
            return WRONG("rank %u has %u subtrees", r, share->subtrees);
        for (uint32_t s = 0; s < share->subtrees; s++) {
            LsSubtree t = share->subtree[s];
            if (t.first != lane || t.count == 0 || (t.count & (t.count - 1)) || t.first % t.count)
                return WRONG("rank %u: subtree (%u, %u) at lane %u", r, t.first, t.count, lane);
            lane += t.count;
        }
        if (lane != share->first + share->count)
            return WRONG("rank %u: subtrees do not make up the share", r);
    }
    return lane == plan[0].lanes ? true : WRONG("%u lanes dealt of %u", lane, plan[0].lanes);
}

static bool run_local_steps(Machine *m, uint32_t r)
{
    const LsPlan *plan = &m->plan[r];
    uint32_t height = 0, lane = plan->share.first; // of the stack
    if (plan->lane_steps != plan->share.count)
        return WRONG("rank %u has %zu steps for %u lanes", r, plan->lane_steps, plan->share.count);
    for (size_t i = 0; i < plan->lane_steps; i++) {
        LsLaneStep step = plan->lane_step[i];
        if (step.lane != lane++ || step.slot != height || step.slot >= plan->lane_slots || step.adds > height)
            return WRONG("rank %u: step %zu is out of place", r, i);
        for (uint32_t p = 0; p < m->ranks; p++) {
            *at(m, r, step.slot, p) = leaf(step.lane);
            for (uint32_t top = step.slot; top > step.slot - step.adds; top--) {
                *at(m, r, top - 1, p) = plus(*at(m, r, top - 1, p), *at(m, r, top, p));
                *at(m, r, top, p) = 0;
            }
        }
        height = step.slot - step.adds + 1;
    }
    for (uint32_t s = 0; s < plan->share.subtrees; s++)
        if (*at(m, r, s, 0) != node(plan->share.subtree[s].first, plan->share.subtree[s].count))
            return WRONG("rank %u: slot %u does not hold its subtree", r, s);
    return height == plan->share.subtrees ? true : WRONG("rank %u ends with %u slots", r, height);
}

static bool is_within(const LsPlan *plan, uint32_t slot, uint32_t first_piece, uint32_t pieces)
{
    return slot < plan->slots && pieces > 0 && first_piece < plan->ranks &&
           pieces <= plan->ranks - first_piece;
}

// The n-th transfer of a kind between `rank` and `peer` in the phase, or NULL.
static const LsTransfer *find_transfer(
    const LsPlan *plan, const LsPlanPhase *phase, LsTransferKind kind, uint32_t peer, size_t n)
{
    for (size_t i = 0; i < phase->transfers; i++) {
        const LsTransfer *t = &plan->transfer[phase->first_transfer + i];
        if (t->kind == kind && t->peer == peer && n-- == 0)
            return t;
    }
    return NULL;
}

static bool run_message(
    Machine *m, const LsTransfer *send, uint32_t from, const LsTransfer *receive, uint32_t to)
{
    if (!is_within(&m->plan[from], send->slot, send->first_piece, send->pieces) ||
        !is_within(&m->plan[to], receive->slot, receive->first_piece, receive->pieces))
        return WRONG("message %u -> %u out of bounds", from, to);
    if (send->first_piece != receive->first_piece || send->pieces != receive->pieces)
        return WRONG("message %u -> %u: pieces differ", from, to);
    if (m->in_place && (send->slot != receive->peer_slot || send->slot >= m->plan[from].share.subtrees))
        return WRONG(
            "message %u -> %u of slot %u is read from slot %u", from, to, send->slot, receive->peer_slot);
    for (uint32_t p = send->first_piece; p < send->first_piece + send->pieces; p++) {
        if (*at(m, from, send->slot, p) == 0)
            return WRONG("rank %u sends an empty slot %u", from, send->slot);
        if (*at(m, to, receive->slot, p) != 0)
            return WRONG("rank %u receives into slot %u, which is live", to, receive->slot);
        *at(m, to, receive->slot, p) = *at(m, from, send->slot, p);
    }
    return true;
}

// Every send finds its receive, in the order in which both sides list them.
static bool run_transfers(Machine *m, size_t p)
{
    for (uint32_t to = 0; to < m->ranks; to++)
        for (uint32_t from = 0; from < m->ranks; from++) {
            const LsPlanPhase *there = &m->plan[from].phase[p], *here = &m->plan[to].phase[p];
            const LsTransfer *send, *receive;
            for (size_t n = 0;; n++) {
                send = find_transfer(&m->plan[from], there, LS_SEND, to, n);
                receive = find_transfer(&m->plan[to], here, LS_RECEIVE, from, n);
                if (!send && !receive)
                    break;
                if (from == to || !send || !receive)
                    return WRONG("a message %u -> %u has one end only", from, to);
                if (!run_message(m, send, from, receive, to))
                    return false;
            }
        }
    return true;
}

// Transfers of a phase are concurrent, so what is sent was there before any of them.
static bool check_sends_are_old(Machine *m, size_t p)
{
    for (uint32_t r = 0; r < m->ranks; r++) {
        const LsPlan *plan = &m->plan[r];
        for (size_t i = 0; i < plan->phase[p].transfers; i++) {
            const LsTransfer *t = &plan->transfer[plan->phase[p].first_transfer + i];
            if (t->peer >= m->ranks || !is_within(plan, t->slot, t->first_piece, t->pieces))
                return WRONG("rank %u: a transfer is out of bounds", r);
            for (uint32_t q = t->first_piece; t->kind == LS_SEND && q < t->first_piece + t->pieces; q++)
                if (*at(m, r, t->slot, q) == 0)
                    return WRONG("rank %u sends an empty slot %u", r, t->slot);
        }
    }
    return true;
}

// What may be read in place: lane slots of the same host's ranks, over pieces that their own additions leave
// alone.
static bool check_reads(const LsPlan *plan, uint32_t ranks)
{
    for (uint32_t r = 0; r < ranks; r++) {
        const LsPlan *p = &plan[r];
        for (size_t i = 0; p->host.count > 0 && i < p->phase[0].transfers; i++) {
            const LsTransfer *t = &p->transfer[p->phase[0].first_transfer + i];
            if (t->peer < p->host.first || t->peer >= p->host.first + p->host.count)
                return WRONG("rank %u: phase 0 leaves the host for rank %u", r, t->peer);
            for (size_t a = 0; t->kind == LS_SEND && a < p->adds; a++)
                if (p->add[a].into == t->slot && p->add[a].first_piece < t->first_piece + t->pieces &&
                    t->first_piece < p->add[a].first_piece + p->add[a].pieces)
                    return WRONG("rank %u changes slot %u, which others read", r, t->slot);
        }
    }
    return true;
}

static bool run_adds(Machine *m, uint32_t r, size_t p)
{
    const LsPlan *plan = &m->plan[r];
    for (size_t i = 0; i < plan->phase[p].adds; i++) {
        LsPlanAdd a = plan->add[plan->phase[p].first_add + i];
        if (!is_within(plan, a.into, a.first_piece, a.pieces) ||
            !is_within(plan, a.from, a.first_piece, a.pieces))
            return WRONG("rank %u: an addition is out of bounds", r);
        for (uint32_t q = a.first_piece; q < a.first_piece + a.pieces; q++) {
            uint64_t *into = at(m, r, a.into, q), *from = at(m, r, a.from, q);
            if (*into == 0 || *from == 0 || into == from)
                return WRONG("rank %u adds an empty slot", r);
            *into = plus(*into, *from);
            *from = 0;
        }
    }
    return true;
}

static bool run_machine(Machine *m)
{
    const LsPlan *plan = m->plan;
    for (uint32_t r = 0; r < m->ranks; r++) {
        if (plan[r].phases != plan[0].phases)
            return WRONG("rank %u has %zu phases, rank 0 %zu", r, plan[r].phases, plan[0].phases);
        if (!run_local_steps(m, r))
            return false;
    }
    for (size_t p = 0; p < plan[0].phases; p++) {
        m->in_place = p == 0 && plan[0].host.count > 0;
        if (!check_sends_are_old(m, p) || !run_transfers(m, p))
            return false;
        for (uint32_t r = 0; r < m->ranks; r++)
            if (!run_adds(m, r, p))
                return false;
    }
    uint64_t tree = node(0, plan[0].lanes);
    for (uint32_t r = 0; r < m->ranks; r++)
        if (plan[r].result_slot >= plan[r].slots || *at(m, r, plan[r].result_slot, r) != tree)
            return WRONG("the owner of piece %u does not end with the tree", r);
    return true;
}

const char *plans_wrong(void)
{
    return reason;
}

bool plans_compute_tree(const LsPlan *plan, uint32_t ranks)
{
    Machine machine = {.plan = plan, .ranks = ranks};
    if (!check_shares(plan, ranks) || !check_reads(plan, ranks))
        return false;
    machine.symbol = calloc(ranks, sizeof *machine.symbol);
    assert_non_null(machine.symbol);
    for (uint32_t r = 0; r < ranks; r++) {
        machine.symbol[r] = calloc((size_t)plan[r].slots * ranks, sizeof(uint64_t));
        assert_non_null(machine.symbol[r]);
    }
    bool good = run_machine(&machine);
    for (uint32_t r = 0; r < ranks; r++)
        free(machine.symbol[r]);
    free(machine.symbol);
    return good;
}
