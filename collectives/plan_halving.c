// Recursive halving along the lane tree.
//
// The tree's nodes are added up level by level, all ranks together. Between two levels the sum of a node lies
// in *holdings*: ranges of pieces, in the pieces' order, each with the rank that has the node's sum over
// them. A rank's own subtree is one holding of all pieces. Where two nodes become one, the ranks of both are
// put in the order in which their holdings lie, and all pieces are dealt to them evenly in that order: so a
// rank's new part mostly lies within what it holds of one node, and it receives the other node's values
// there. (Ranks of equal numbers of lanes each keep one half and send the other, as in the textbook.) The
// root's parts are the owners' pieces.
//
// Every rank works out all holdings, of which only its own have slots.
#include <stdlib.h>

#include "base/memory.h"
#include "plan_private.h"

enum { NONE = UINT32_MAX };

typedef struct Holding {
    uint32_t rank, first, count; // pieces
    uint32_t slot;               // where this rank has them; NONE with other ranks
} Holding;

typedef struct Node {
    uint32_t first, count; // lanes
    size_t begin, end;     // holdings
} Node;

// Nodes from left to right; together they are all lanes.
typedef struct Forest {
    size_t nodes, holdings, room;
    Node *node; // [3 ranks]
    Holding *holding;
} Forest;

typedef struct Halving {
    LsPlan *plan;
    Forest forest, next;  // of this level and of the one above
    uint32_t *member;     // [ranks] of the node that is being made
    size_t *held[2];      // [ranks] a rank's first holding in the left and the right node, or SIZE_MAX
    size_t transfer_room; // in the plan's lists
    size_t add_room, phase_room;
} Halving;

// ---- Lists that grow ------------------------------------------------------------------------------------

static LsStatus make_room(void **list, size_t *room, size_t used, size_t size)
{
    if (used < *room)
        return LS_OK;
    size_t more = *room ? 2 * *room : 64, bytes;
    void *grown = ls_size_multiply(more, size, &bytes) ? realloc(*list, bytes) : NULL;
    if (!grown)
        return LS_FAIL(LS_INTERNAL, "out of memory for a plan of %zu entries", more);
    *list = grown;
    *room = more;
    return LS_OK;
}

static LsStatus push_holding(Forest *forest, Holding holding)
{
    LS_TRY(make_room((void **)&forest->holding, &forest->room, forest->holdings, sizeof holding));
    forest->holding[forest->holdings++] = holding;
    return LS_OK;
}

static LsStatus push_transfer(Halving *h, LsTransfer transfer)
{
    LsPlan *plan = h->plan;
    LS_TRY(make_room((void **)&plan->transfer, &h->transfer_room, plan->transfers, sizeof transfer));
    plan->transfer[plan->transfers++] = transfer;
    return LS_OK;
}

static LsStatus push_add(Halving *h, LsPlanAdd add)
{
    LsPlan *plan = h->plan;
    LS_TRY(make_room((void **)&plan->add, &h->add_room, plan->adds, sizeof add));
    plan->add[plan->adds++] = add;
    return LS_OK;
}

static LsStatus push_phase(Halving *h, size_t first_transfer, size_t first_add)
{
    LsPlan *plan = h->plan;
    LS_TRY(make_room((void **)&plan->phase, &h->phase_room, plan->phases, sizeof *plan->phase));
    plan->phase[plan->phases++] =
        (LsPlanPhase){first_transfer, plan->transfers - first_transfer, first_add, plan->adds - first_add};
    return LS_OK;
}

// ---- Who holds what of the sum of two nodes -------------------------------------------------------------

// Notes where each rank's holdings of a node begin; those of one rank lie one behind the other.
static void note_held(Halving *h, const Node *node, size_t *held)
{
    for (size_t i = node->end; i-- > node->begin;)
        held[h->forest.holding[i].rank] = i;
}

static void forget_held(Halving *h, const Node *node, size_t *held)
{
    for (size_t i = node->begin; i < node->end; i++)
        held[h->forest.holding[i].rank] = SIZE_MAX;
}

// The ranks of both nodes by the middles of what they hold. Returns their number.
static uint32_t order_members(Halving *h, const Node *left, const Node *right)
{
    const Holding *holding = h->forest.holding;
    uint32_t members = 0;
    size_t l = left->begin, r = right->begin;
    while (l < left->end || r < right->end) {
        bool from_left =
            r == right->end || (l < left->end && 2 * (uint64_t)holding[l].first + holding[l].count <=
                                                     2 * (uint64_t)holding[r].first + holding[r].count);
        size_t taken = from_left ? l++ : r++;
        uint32_t rank = holding[taken].rank;
        // A rank with several holdings, or in both nodes, has the place of the first.
        size_t other = h->held[from_left][rank]; // [true]: in the right node
        bool first_here = h->held[!from_left][rank] == taken;
        bool before = other != SIZE_MAX && other < (from_left ? r : l);
        if (first_here && !before)
            h->member[members++] = rank;
    }
    return members;
}

// The nearest end of one of the rank's holdings of a node behind piece `first`, else `end`.
static uint32_t nearest_end(const Halving *h, const Node *node, size_t held, uint32_t first, uint32_t end)
{
    const Holding *holding = h->forest.holding;
    if (held == SIZE_MAX)
        return end;
    uint32_t rank = holding[held].rank;
    for (size_t i = held; i < node->end && holding[i].rank == rank; i++) {
        uint32_t begins = holding[i].first, ends = begins + holding[i].count;
        if (begins > first && begins < end)
            end = begins;
        if (ends > first && ends < end)
            end = ends;
    }
    return end;
}

// Gives the rank the pieces [first, end) of the new node, cut so that each part is either all within one
// holding of each old node or all outside of them: the slots of its sums then differ from part to part only.
static LsStatus deal(
    Halving *h, const Node *left, const Node *right, uint32_t rank, uint32_t first, uint32_t end)
{
    while (first < end) {
        uint32_t cut = nearest_end(h, left, h->held[0][rank], first, end);
        cut = nearest_end(h, right, h->held[1][rank], first, cut);
        LS_TRY(push_holding(&h->next, (Holding){rank, first, cut - first, NONE}));
        first = cut;
    }
    return LS_OK;
}

static LsStatus deal_all(Halving *h, const Node *left, const Node *right)
{
    uint32_t ranks = h->plan->ranks, members = order_members(h, left, right);
    bool root = left->count + right->count == h->plan->lanes;
    for (uint32_t i = 0; i < members; i++) {
        LsBlockRange part = ls_piece(ranks, members, i);
        uint32_t rank = root ? i : h->member[i];
        uint32_t first = (uint32_t)part.first;
        LS_TRY(deal(h, left, right, rank, first, first + (uint32_t)part.count));
    }
    return LS_OK;
}

// ---- This rank's part -----------------------------------------------------------------------------------

// The first holding in [begin, end) that has pieces from `piece` on.
static size_t find_holding(const Forest *forest, size_t begin, size_t end, uint32_t piece)
{
    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        const Holding *holding = &forest->holding[middle];
        if (holding->first + holding->count <= piece)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

// The slot that has the values of `node` over `part` in the end, which may be received.
static LsStatus obtain(Halving *h, const Node *node, const Holding *part, uint32_t *slot)
{
    const Holding *holding = h->forest.holding;
    uint32_t end = part->first + part->count;
    size_t i = find_holding(&h->forest, node->begin, node->end, part->first);
    if (holding[i].rank == h->plan->rank) {
        *slot = holding[i].slot;
        return LS_OK;
    }
    *slot = h->plan->slots++;
    for (; i < node->end && holding[i].first < end; i++) {
        uint32_t from = holding[i].first > part->first ? holding[i].first : part->first;
        uint32_t to = holding[i].first + holding[i].count;
        to = to < end ? to : end;
        LS_TRY(push_transfer(h, (LsTransfer){LS_RECEIVE, holding[i].rank, *slot, from, .pieces = to - from}));
    }
    return LS_OK;
}

// What the other ranks need of this one's holdings of `node`.
static LsStatus give(Halving *h, const Node *node, size_t held, const Node *sum)
{
    uint32_t rank = h->plan->rank;
    for (size_t i = held; i < node->end && h->forest.holding[i].rank == rank; i++) {
        Holding mine = h->forest.holding[i];
        uint32_t end = mine.first + mine.count;
        size_t p = find_holding(&h->next, sum->begin, sum->end, mine.first);
        for (; p < sum->end && h->next.holding[p].first < end; p++) {
            Holding part = h->next.holding[p];
            uint32_t from = part.first > mine.first ? part.first : mine.first;
            uint32_t to = part.first + part.count < end ? part.first + part.count : end;
            if (part.rank != rank)
                LS_TRY(
                    push_transfer(h, (LsTransfer){LS_SEND, part.rank, mine.slot, from, .pieces = to - from}));
        }
    }
    return LS_OK;
}

// Both ends list what they exchange node by node, the left one before the right one, and piece by piece. All
// that is received comes first: a message that finds its receive posted needs no copy.
static LsStatus exchange(Halving *h, const Node *left, const Node *right, const Node *sum)
{
    uint32_t rank = h->plan->rank;
    size_t held_left = h->held[0][rank], held_right = h->held[1][rank];
    if (held_left == SIZE_MAX && held_right == SIZE_MAX)
        return LS_OK;
    uint32_t *right_slot;
    size_t parts = sum->end - sum->begin;
    LS_TRY(ls_memory_allocate(parts * sizeof *right_slot, (void **)&right_slot));
    LsStatus status = LS_OK;
    for (size_t p = 0; p < parts && status == LS_OK; p++)
        if (h->next.holding[sum->begin + p].rank == rank)
            status = obtain(h, left, &h->next.holding[sum->begin + p], &h->next.holding[sum->begin + p].slot);
    for (size_t p = 0; p < parts && status == LS_OK; p++)
        if (h->next.holding[sum->begin + p].rank == rank)
            status = obtain(h, right, &h->next.holding[sum->begin + p], &right_slot[p]);
    if (status == LS_OK && held_left != SIZE_MAX)
        status = give(h, left, held_left, sum);
    if (status == LS_OK && held_right != SIZE_MAX)
        status = give(h, right, held_right, sum);
    for (size_t p = 0; p < parts && status == LS_OK; p++) {
        Holding part = h->next.holding[sum->begin + p];
        if (part.rank == rank)
            status = push_add(h, (LsPlanAdd){part.slot, right_slot[p], part.first, part.count});
    }
    free(right_slot);
    return status;
}

// ---- Level by level -------------------------------------------------------------------------------------

static LsStatus unite(Halving *h, const Node *left, const Node *right)
{
    Node sum = {left->first, left->count + right->count, h->next.holdings, 0};
    note_held(h, left, h->held[0]);
    note_held(h, right, h->held[1]);
    LS_TRY(deal_all(h, left, right));
    sum.end = h->next.holdings;
    LS_TRY(exchange(h, left, right, &sum));
    forget_held(h, left, h->held[0]);
    forget_held(h, right, h->held[1]);
    h->next.node[h->next.nodes++] = sum;
    return LS_OK;
}

static LsStatus keep(Halving *h, Node node)
{
    size_t begin = h->next.holdings;
    for (size_t i = node.begin; i < node.end; i++)
        LS_TRY(push_holding(&h->next, h->forest.holding[i]));
    h->next.node[h->next.nodes++] = (Node){node.first, node.count, begin, h->next.holdings};
    return LS_OK;
}

// Adds up all pairs of nodes of `size` lanes, which takes a phase if there are any.
static LsStatus rise(Halving *h, uint32_t size)
{
    size_t first_transfer = h->plan->transfers, first_add = h->plan->adds;
    const Node *node = h->forest.node, *end = node + h->forest.nodes;
    bool any = false;
    h->next.nodes = h->next.holdings = 0;
    while (node < end) {
        if (node->count != size) {
            LS_TRY(keep(h, *node++));
            continue;
        }
        LS_TRY(unite(h, node, node + 1)); // no node is smaller, so its sibling comes next
        node += 2;
        any = true;
    }
    Forest done = h->forest;
    h->forest = h->next;
    h->next = done;
    return any ? push_phase(h, first_transfer, first_add) : LS_OK;
}

static LsStatus plant(Halving *h, uint32_t unit)
{
    const LsPlan *plan = h->plan;
    Forest *forest = &h->forest;
    for (uint32_t r = 0; r < plan->ranks; r++) {
        LsLaneShare share = ls_plan_share(plan->lanes, plan->ranks, r, unit);
        for (uint32_t s = 0; s < share.subtrees; s++) {
            size_t begin = forest->holdings;
            LS_TRY(push_holding(forest, (Holding){r, 0, plan->ranks, r == plan->rank ? s : NONE}));
            forest->node[forest->nodes++] =
                (Node){share.subtree[s].first, share.subtree[s].count, begin, begin + 1};
        }
    }
    return LS_OK;
}

static LsStatus compile(Halving *h, uint32_t unit)
{
    size_t ranks = h->plan->ranks, leaves = LS_SUBTREES_MAX * ranks;
    LS_TRY(ls_memory_allocate(leaves * sizeof *h->forest.node, (void **)&h->forest.node));
    LS_TRY(ls_memory_allocate(leaves * sizeof *h->next.node, (void **)&h->next.node));
    LS_TRY(ls_memory_allocate(ranks * sizeof *h->member, (void **)&h->member));
    for (int side = 0; side < 2; side++) {
        LS_TRY(ls_memory_allocate(ranks * sizeof *h->held[side], (void **)&h->held[side]));
        for (size_t r = 0; r < ranks; r++)
            h->held[side][r] = SIZE_MAX;
    }
    LS_TRY(plant(h, unit));
    for (uint32_t size = 1; h->forest.nodes > 1; size *= 2)
        LS_TRY(rise(h, size));
    for (size_t i = 0; i < h->forest.holdings; i++)
        if (h->forest.holding[i].rank == h->plan->rank)
            h->plan->result_slot = h->forest.holding[i].slot;
    return LS_OK;
}

LsStatus ls_plan_compile_halving(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out)
{
    uint32_t unit;
    LsPlan plan;
    Halving halving = {.plan = &plan};
    LsStatus status = ls_plan_begin(lanes, ranks, rank, &unit, &plan);
    if (status == LS_OK)
        status = compile(&halving, unit);
    if (status == LS_OK)
        status = ls_plan_end(&plan);
    for (int side = 0; side < 2; side++)
        free(halving.held[side]);
    free(halving.member);
    Forest *forests[] = {&halving.forest, &halving.next};
    for (int f = 0; f < 2; f++) {
        free(forests[f]->node);
        free(forests[f]->holding);
    }
    if (status != LS_OK) {
        ls_plan_free(&plan);
        return status;
    }
    *out = plan;
    return LS_OK;
}
