// Two levels: inside the hosts, then between them.
//
// A piece has one *server* on every host: on the owner's host the owner, elsewhere an agent. In phase 0 a
// server gets its host's partial sums over the piece and adds them up to the host's *roots*, the maximal
// aligned subtrees of the lanes of all its ranks; in phase 1 the owner gets the roots of the other hosts and
// adds up the tree. A root that is one rank's subtree needs no adding and goes from that rank straight to the
// owner. The pieces of other hosts are dealt to a host's ranks evenly and in order, so that every rank has
// its part of what leaves the host and few messages and additions inside it: what a rank serves is its own
// piece and one or two spans of others.
#include <stdlib.h>

#include "base/memory.h"
#include "plan_private.h"

enum { NONE = UINT32_MAX, SPANS = 3 }; // that a rank serves, at most

typedef struct Leaf {
    LsSubtree subtree;
    uint32_t rank, slot; // whose it is, and where that rank has it
    uint32_t root;
} Leaf;

typedef struct Root {
    LsSubtree subtree;
    uint32_t first_leaf, leaves;
    uint32_t slot; // where this rank has the sum over its own piece
} Root;

// Leaves and roots of all ranks, from left to right.
typedef struct Layout {
    LsPlan *plan;
    const LsHostMap *hosts;
    uint32_t host, first, ranks; // this rank's, and the ranks of it
    Leaf *leaf;
    uint32_t *first_leaf; // [ranks + 1] of a rank
    Root *root;
    uint32_t *first_root; // [hosts + 1] of a host
    uint32_t *slot;       // [SPANS × leaves of this host] where this rank has them
    LsPlanLeaf *part;     // scratch of a walk
} Layout;

// ---- Hosts ----------------------------------------------------------------------------------------------

uint32_t ls_host_of(const LsHostMap *hosts, uint32_t rank)
{
    uint32_t low = 0, high = hosts->count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (hosts->first[middle] <= rank)
            low = middle;
        else
            high = middle;
    }
    return low;
}

uint32_t ls_host_server(const LsHostMap *hosts, uint32_t host, uint32_t piece)
{
    uint32_t first = hosts->first[host], size = hosts->first[host + 1] - first;
    uint32_t others = hosts->first[hosts->count] - size; // pieces of other hosts, numbered without a gap
    if (piece >= first && piece < first + size)
        return piece;
    return first + (uint32_t)((uint64_t)(piece < first ? piece : piece - size) * size / others);
}

static LsStatus check_hosts(const LsHostMap *hosts, uint32_t ranks)
{
    bool good = hosts->count > 0 && hosts->first[0] == 0 && hosts->first[hosts->count] == ranks;
    for (uint32_t h = 0; good && h < hosts->count; h++)
        good = hosts->first[h] < hosts->first[h + 1];
    return good ? LS_OK : LS_FAIL(LS_INTERNAL, "%u hosts do not describe %u ranks", hosts->count, ranks);
}

// The pieces that a rank of this host serves: its own, then those of other hosts, which the host's own may
// cut in two. Returns their number.
static uint32_t list_spans(const Layout *l, uint32_t server, LsPieceSpan span[SPANS])
{
    uint64_t others = l->plan->ranks - l->ranks, number = server - l->first;
    uint32_t from = (uint32_t)((number * others + l->ranks - 1) / l->ranks);
    uint32_t to = (uint32_t)(((number + 1) * others + l->ranks - 1) / l->ranks), spans = 0;
    uint32_t cut = from > l->first ? from : to < l->first ? to : l->first;
    span[spans++] = (LsPieceSpan){server, 1};
    if (from < cut)
        span[spans++] = (LsPieceSpan){from, cut - from};
    if (cut < to)
        span[spans++] = (LsPieceSpan){cut + l->ranks, to - cut};
    return spans;
}

// ---- Leaves and roots -----------------------------------------------------------------------------------

static void list_leaves(Layout *l, uint32_t unit)
{
    const LsPlan *plan = l->plan;
    uint32_t leaves = 0;
    for (uint32_t r = 0; r < plan->ranks; r++) {
        LsLaneShare share = ls_plan_share(plan->lanes, plan->ranks, r, unit);
        l->first_leaf[r] = leaves;
        for (uint32_t s = 0; s < share.subtrees; s++)
            l->leaf[leaves++] = (Leaf){share.subtree[s], r, s, 0};
    }
    l->first_leaf[plan->ranks] = leaves;
}

static void list_roots(Layout *l)
{
    uint32_t roots = 0;
    for (uint32_t h = 0; h < l->hosts->count; h++) {
        uint32_t leaf = l->first_leaf[l->hosts->first[h]], end = l->first_leaf[l->hosts->first[h + 1]];
        uint32_t end_lane = l->leaf[end - 1].subtree.first + l->leaf[end - 1].subtree.count;
        l->first_root[h] = roots;
        while (leaf < end) {
            Root *root = &l->root[roots];
            uint32_t lane = l->leaf[leaf].subtree.first;
            *root = (Root){{lane, ls_plan_aligned(lane, end_lane)}, leaf, 0, NONE};
            for (; leaf < end && l->leaf[leaf].subtree.first < lane + root->subtree.count; leaf++) {
                l->leaf[leaf].root = roots;
                root->leaves++;
            }
            roots++;
        }
    }
    l->first_root[l->hosts->count] = roots;
}

static uint32_t host_leaf(const Layout *l) // the first one of this host
{
    return l->first_leaf[l->first];
}

static uint32_t host_leaves(const Layout *l)
{
    return l->first_leaf[l->first + l->ranks] - host_leaf(l);
}

// The server of other hosts' pieces has no use for what another rank sends by itself.
static bool is_wanted(const Layout *l, uint32_t leaf, uint32_t span)
{
    return span == 0 || l->root[l->leaf[leaf].root].leaves > 1;
}

// Where this rank has a leaf of its host over one of the spans that it serves.
static uint32_t *slot_of(const Layout *l, uint32_t span, uint32_t leaf)
{
    return &l->slot[(size_t)span * host_leaves(l) + leaf - host_leaf(l)];
}

// ---- Phase 0: inside the host ---------------------------------------------------------------------------

static void receive_inside(Layout *l, uint32_t peer)
{
    LsPlan *plan = l->plan;
    LsPieceSpan span[SPANS];
    uint32_t spans = list_spans(l, plan->rank, span);
    for (uint32_t s = 0; s < spans; s++)
        for (uint32_t i = l->first_leaf[peer]; i < l->first_leaf[peer + 1]; i++)
            if (is_wanted(l, i, s)) {
                uint32_t slot = *slot_of(l, s, i) = plan->slots++;
                plan->transfer[plan->transfers++] =
                    (LsTransfer){LS_RECEIVE, peer, slot, span[s].first, span[s].count, l->leaf[i].slot};
            }
}

static void send_inside(Layout *l, uint32_t peer)
{
    LsPlan *plan = l->plan;
    LsPieceSpan span[SPANS];
    uint32_t spans = list_spans(l, peer, span);
    for (uint32_t s = 0; s < spans; s++)
        for (uint32_t i = l->first_leaf[plan->rank]; i < l->first_leaf[plan->rank + 1]; i++)
            if (is_wanted(l, i, s))
                plan->transfer[plan->transfers++] = (LsTransfer){
                    LS_SEND, peer, l->leaf[i].slot, .first_piece = span[s].first, .pieces = span[s].count};
}

// Adds up a root's leaves over a span and returns the slot of the sum, its first leaf's.
static uint32_t add_root(Layout *l, const Root *root, uint32_t number, LsPieceSpan span)
{
    for (uint32_t i = 0; i < root->leaves; i++) {
        uint32_t leaf = root->first_leaf + i;
        l->part[i] = (LsPlanLeaf){l->leaf[leaf].subtree, *slot_of(l, number, leaf)};
    }
    LsPlanWalk walk = {l->plan, l->part, span};
    return ls_plan_node(&walk, root->subtree.first, root->subtree.count);
}

static void add_inside(Layout *l)
{
    LsPieceSpan span[SPANS];
    uint32_t spans = list_spans(l, l->plan->rank, span);
    for (uint32_t s = 0; s < spans; s++)
        for (uint32_t i = l->first_root[l->host]; i < l->first_root[l->host + 1]; i++) {
            Root *root = &l->root[i];
            if (root->leaves == 1 && s > 0)
                continue;
            uint32_t slot = add_root(l, root, s, span[s]);
            if (s == 0)
                root->slot = slot;
        }
}

static void plan_inside(Layout *l)
{
    LsPlan *plan = l->plan;
    for (uint32_t s = 0; s < SPANS; s++)
        for (uint32_t i = l->first_leaf[plan->rank]; i < l->first_leaf[plan->rank + 1]; i++)
            *slot_of(l, s, i) = l->leaf[i].slot;
    uint32_t own = plan->rank - l->first;
    for (uint32_t d = 1; d < l->ranks; d++)
        receive_inside(l, l->first + (own + l->ranks - d) % l->ranks);
    for (uint32_t d = 1; d < l->ranks; d++)
        send_inside(l, l->first + (own + d) % l->ranks);
    add_inside(l);
    plan->phase[plan->phases++] = (LsPlanPhase){0, plan->transfers, 0, plan->adds};
    plan->host = (LsPieceSpan){l->first, l->ranks};
}

// ---- Phase 1: between hosts -----------------------------------------------------------------------------

// Who sends a root to the owner of a piece: the rank that has it by itself, or the host's agent.
static uint32_t find_sender(const Layout *l, uint32_t host, const Root *root, uint32_t piece)
{
    return root->leaves == 1 ? l->leaf[root->first_leaf].rank : ls_host_server(l->hosts, host, piece);
}

static void receive_roots(Layout *l, uint32_t host)
{
    LsPlan *plan = l->plan;
    for (uint32_t i = l->first_root[host]; i < l->first_root[host + 1]; i++) {
        Root *root = &l->root[i];
        root->slot = plan->slots++;
        plan->transfer[plan->transfers++] = (LsTransfer){LS_RECEIVE, find_sender(l, host, root, plan->rank),
            root->slot, .first_piece = plan->rank, .pieces = 1};
    }
}

// Among the spans that this rank serves: the one that has the piece.
static uint32_t find_span(const Layout *l, uint32_t piece)
{
    LsPieceSpan span[SPANS];
    uint32_t spans = list_spans(l, l->plan->rank, span), s = 0;
    while (s < spans && piece - span[s].first >= span[s].count)
        s++;
    return s;
}

static void send_roots(Layout *l, uint32_t piece)
{
    LsPlan *plan = l->plan;
    for (uint32_t i = l->first_root[l->host]; i < l->first_root[l->host + 1]; i++) {
        const Root *root = &l->root[i];
        if (find_sender(l, l->host, root, piece) != plan->rank)
            continue;
        uint32_t slot = root->leaves == 1 ? l->leaf[root->first_leaf].slot
                                          : *slot_of(l, find_span(l, piece), root->first_leaf);
        plan->transfer[plan->transfers++] =
            (LsTransfer){LS_SEND, piece, slot, .first_piece = piece, .pieces = 1};
    }
}

// As in the direct exchange, hosts take turns in who is sent to first.
static void plan_between(Layout *l)
{
    LsPlan *plan = l->plan;
    const LsHostMap *hosts = l->hosts;
    size_t first_transfer = plan->transfers, first_add = plan->adds;
    for (uint32_t d = 1; d < hosts->count; d++)
        receive_roots(l, (l->host + hosts->count - d) % hosts->count);
    for (uint32_t d = 1; d < hosts->count; d++) {
        uint32_t host = (l->host + d) % hosts->count, size = hosts->first[host + 1] - hosts->first[host];
        for (uint32_t i = 0; i < size; i++)
            send_roots(l, hosts->first[host] + (plan->rank + i) % size);
    }
    uint32_t roots = l->first_root[hosts->count];
    for (uint32_t i = 0; i < roots; i++)
        l->part[i] = (LsPlanLeaf){l->root[i].subtree, l->root[i].slot};
    LsPlanWalk walk = {plan, l->part, {plan->rank, 1}};
    plan->result_slot = ls_plan_node(&walk, 0, plan->lanes);
    plan->phase[plan->phases++] =
        (LsPlanPhase){first_transfer, plan->transfers - first_transfer, first_add, plan->adds - first_add};
}

// ---- The plan -------------------------------------------------------------------------------------------

static LsStatus allocate_layout(Layout *l)
{
    size_t ranks = l->plan->ranks, leaves = LS_SUBTREES_MAX * ranks, hosts = l->hosts->count;
    LS_TRY(ls_memory_allocate(leaves * sizeof *l->leaf, (void **)&l->leaf));
    LS_TRY(ls_memory_allocate((ranks + 1) * sizeof *l->first_leaf, (void **)&l->first_leaf));
    LS_TRY(ls_memory_allocate(leaves * sizeof *l->root, (void **)&l->root));
    LS_TRY(ls_memory_allocate((hosts + 1) * sizeof *l->first_root, (void **)&l->first_root));
    return ls_memory_allocate(leaves * sizeof *l->part, (void **)&l->part);
}

static LsStatus allocate_lists(Layout *l)
{
    LsPlan *plan = l->plan;
    size_t mine = plan->share.subtrees, all = host_leaves(l), roots = l->first_root[l->hosts->count];
    size_t here = l->first_root[l->host + 1] - l->first_root[l->host];
    size_t received = SPANS * all + roots, sent = SPANS * mine * l->ranks + here * plan->ranks;
    LS_TRY(ls_memory_allocate(SPANS * all * sizeof *l->slot, (void **)&l->slot));
    LS_TRY(ls_memory_allocate(2 * sizeof *plan->phase, (void **)&plan->phase));
    LS_TRY(ls_memory_allocate((received + sent) * sizeof *plan->transfer, (void **)&plan->transfer));
    return ls_memory_allocate(received * sizeof *plan->add, (void **)&plan->add);
}

static LsStatus plan_levels(LsPlan *plan, const LsHostMap *hosts, uint32_t unit)
{
    Layout l = {.plan = plan, .hosts = hosts, .host = ls_host_of(hosts, plan->rank)};
    l.first = hosts->first[l.host];
    l.ranks = hosts->first[l.host + 1] - l.first;
    LsStatus status = allocate_layout(&l);
    if (status == LS_OK) {
        list_leaves(&l, unit);
        list_roots(&l);
        status = allocate_lists(&l);
    }
    if (status == LS_OK) {
        plan_inside(&l);
        plan_between(&l);
    }
    free(l.slot);
    free(l.part);
    free(l.first_root);
    free(l.root);
    free(l.first_leaf);
    free(l.leaf);
    return status;
}

LsStatus ls_plan_compile_hosts(
    uint32_t lanes, uint32_t ranks, uint32_t rank, const LsHostMap *hosts, LsPlan *out)
{
    uint32_t unit;
    LsPlan plan;
    LsStatus status = ls_plan_begin(lanes, ranks, rank, &unit, &plan);
    if (status == LS_OK)
        status = check_hosts(hosts, ranks);
    if (status == LS_OK && ranks > 1)
        status = plan_levels(&plan, hosts, unit);
    if (status == LS_OK)
        status = ls_plan_end(&plan);
    if (status != LS_OK) {
        ls_plan_free(&plan);
        return status;
    }
    *out = plan;
    return LS_OK;
}

size_t ls_plan_pieces_between(const LsPlan *plan, const LsHostMap *hosts)
{
    size_t pieces = 0;
    uint32_t host = ls_host_of(hosts, plan->rank);
    for (size_t i = 0; i < plan->transfers; i++)
        if (plan->transfer[i].kind == LS_SEND && ls_host_of(hosts, plan->transfer[i].peer) != host)
            pieces += plan->transfer[i].pieces;
    return pieces;
}
