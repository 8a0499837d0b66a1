// The lane plan: which rank computes which lanes, and how their gradients become one sum, as data.
//
// The global batch is cut into L lanes, a power of two. The gradient is defined as a balanced binary tree
// over lanes: node(i, j) = node(i, m) + node(m, j), m = (i + j) / 2, leaves being single lanes. W <= L ranks
// compute contiguous lanes. A rank's lanes form at most three maximal aligned subtrees; it adds those up
// alone (local steps). What is left of the tree, its top, crosses ranks: for each bucket, split in W pieces
// of whole blocks, the owner of a piece receives every rank's partial sums over the piece and adds them in
// the tree's order (phases of sends, receives and additions). The sum's bits therefore depend on L and never
// on W.
//
// A plan is data, compiled once per rank and executed by every backend; tests interpret it serially and prove
// that it computes the tree.
#ifndef LOCKSTEP_COLLECTIVES_PLAN_H
#define LOCKSTEP_COLLECTIVES_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    LS_LANES_MAX = 4096,
    LS_SUBTREES_MAX = 3,
    LS_DIRECT_RANKS_MAX = 32,    // see ls_plan_choose
    LS_IN_PLACE_RANKS_MAX = 128, // see ls_plan_choose_hosts
};

// One maximal aligned subtree of a rank's lanes, node(first, first + count): count is a power of two that
// divides first.
typedef struct LsSubtree {
    uint32_t first, count;
} LsSubtree;

typedef struct LsLaneShare {
    uint32_t first, count, stride; // the rank's lanes: first, first + stride, … (stride 1 but in rounds)
    uint32_t subtrees;
    LsSubtree subtree[LS_SUBTREES_MAX]; // from left to right
} LsLaneShare;

// The lanes of `rank`. Lanes are dealt in units of the smallest power of two with which no rank holds more
// than LS_SUBTREES_MAX subtrees; the first ranks get one unit more when the units do not divide. LS_CONFIG if
// L is not a power of two up to LS_LANES_MAX, or W is 0 or above L.
LsStatus ls_lane_share(uint32_t lanes, uint32_t ranks, uint32_t rank, LsLaneShare *out);

// Local work in order: compute lane `lane` into slot `slot`, then `adds` times slot[top - 1] += slot[top],
// from the top of the stack down (slots form a stack, slot is its top; after the additions the top is slot -
// adds). At the end slot s holds the rank's s-th subtree.
typedef struct LsLaneStep {
    uint32_t lane, slot, adds;
} LsLaneStep;

typedef enum LsTransferKind { LS_SEND, LS_RECEIVE } LsTransferKind;

// A transfer of the pieces [first_piece, first_piece + pieces) of one slot's bucket with one peer. Transfers
// between the same two ranks in one phase match in the order in which they are listed.
typedef struct LsTransfer {
    LsTransferKind kind;
    uint32_t peer, slot, first_piece, pieces;
    uint32_t peer_slot; // receives of phase 0, where LsPlan.host says so: the slot at the peer
} LsTransfer;

// slot[into] += slot[from] over the same pieces.
typedef struct LsPlanAdd {
    uint32_t into, from, first_piece, pieces;
} LsPlanAdd;

// All transfers of a phase are concurrent; its additions follow when they are done.
typedef struct LsPlanPhase {
    size_t first_transfer, transfers; // in LsPlan.transfer
    size_t first_add, adds;           // in LsPlan.add
} LsPlanPhase;

typedef struct LsPieceSpan {
    uint32_t first, count;
} LsPieceSpan;

typedef struct LsPlan {
    uint32_t lanes, ranks, rank;
    LsPieceSpan host; // ranks. When count > 0: phase 0 moves between these alone, and nothing but what local
                      // steps left in lane slots. Where they see each other's memory they may read it there.
    LsLaneShare share;
    uint32_t lane_slots;  // gradient buffers that the local steps need (whole model each); >= share.subtrees
    uint32_t slots;       // all slots: [0, lane_slots) are gradient buffers, the rest are staging areas for
                          // received pieces
    uint32_t result_slot; // holds the rank's own piece of the sum at the end
    size_t lane_steps, phases, transfers, adds;
    LsLaneStep *lane_step;
    LsPlanPhase *phase;
    LsTransfer *transfer;
    LsPlanAdd *add;
    LsPieceSpan *staging; // [slots - lane_slots] the pieces that slot lane_slots + s ever holds
} LsPlan;

// The direct exchange: one phase, in which every rank sends its subtrees' partial sums of a piece to the
// piece's owner. For a bucket, a rank sends a message to each of the others for each of its subtrees: W - 1
// to 3 (W - 1) messages, and a ring's bytes (see ls_plan_send_ratio) as many times. A staging slot holds only
// the rank's own piece. Freed by ls_plan_free.
LsStatus ls_plan_compile(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out);

// Recursive halving along the tree (the reduce-scatter of Thakur, Rabenseifner, Gropp, 2005, with the
// exchanges between neighbours in the tree first, as its additions want them): one phase for each level at
// which sums cross ranks. The sum of a node lies in parts with the ranks that have lanes of it; to add up two
// nodes, each of their ranks keeps a part of what it holds and gets the other node's values there. At the
// root every rank gets its own piece. For a bucket, a rank sends log2 W + 1 messages and W / (W - 1) times a
// ring's bytes when W is a power of two; at any other W up to 3 log2 W messages and, with ranks of several
// subtrees, up to 3.5 times a ring's bytes, about what the direct exchange sends. Freed by ls_plan_free.
LsStatus ls_plan_compile_halving(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out);

// The plan to take where sums travel as messages: the direct exchange for up to LS_DIRECT_RANKS_MAX ranks,
// recursive halving for more. Up to there, messages of a bucket of usual size are large enough (25 MiB / 32 =
// 0.8 MiB) and one phase waits once. Beyond, it is the number of messages that costs: time to post and match
// each, and memory for each, in every bucket.
LsStatus ls_plan_choose(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out);

// Which ranks share a host: host h has the ranks from first[h] to first[h + 1] - 1.
typedef struct LsHostMap {
    uint32_t count;
    uint32_t *first; // [count + 1]
    bool in_place;   // the ranks of a host read each other's memory where it is
} LsHostMap;

// Two levels: phase 0 inside hosts, phase 1 between them. The lanes of a host are a few maximal aligned
// subtrees. For each piece that a rank of another host owns, one rank of the host, its agent there, adds up
// what the host's ranks have of such a subtree and sends the sum; a subtree that one rank has by itself is
// sent by that rank. The owner does the same for its own host, and adds up the rest. So for a bucket a host
// of W_h ranks sends (W - W_h) / W of a bucket for each of its subtrees to other hosts: with hosts of equal
// powers of two of lanes less than a ring, which passes (W - 1) / W of a bucket from host to host. In all a
// rank sends about as many bytes as in the direct exchange, but fewer messages: on H hosts of equal powers of
// two of lanes at most 3 (W_h - 1) inside its host and H - 1 to others, for a bucket. Freed by ls_plan_free.
// LS_INTERNAL: `hosts` does not describe these ranks.
LsStatus ls_plan_compile_hosts(
    uint32_t lanes, uint32_t ranks, uint32_t rank, const LsHostMap *hosts, LsPlan *out);

// The plan to take on these hosts: two levels where there are several, up to LS_DIRECT_RANKS_MAX, not each of
// one rank; the direct exchange for up to LS_IN_PLACE_RANKS_MAX ranks of one host that read in place, since
// that sends no messages and needs no memory for what is received; else, and when `hosts` is NULL,
// ls_plan_choose.
LsStatus ls_plan_choose_hosts(
    uint32_t lanes, uint32_t ranks, uint32_t rank, const LsHostMap *hosts, LsPlan *out);

// The rank that stands for host `host` where piece `piece` is summed and gathered: its owner, or an agent.
uint32_t ls_host_server(const LsHostMap *hosts, uint32_t host, uint32_t piece);

// The host of `rank`.
uint32_t ls_host_of(const LsHostMap *hosts, uint32_t rank);

// Pieces that the rank sends to ranks of other hosts.
size_t ls_plan_pieces_between(const LsPlan *plan, const LsHostMap *hosts);

void ls_plan_free(LsPlan *plan);

// Bytes the rank sends for a bucket, as a multiple of what a ring reduce-scatter sends ((W-1)/W of the
// bucket); 1.0 for W = 1.
double ls_plan_send_ratio(const LsPlan *plan);

// After the additions: the rank's own piece of slot `from` becomes that of slot `to`.
typedef struct LsPlanMove {
    uint32_t from, to;
} LsPlanMove;

// For gradients that are not kept: lanes are dealt like cards, lane i W + r to rank r, and after each *round*
// of W lanes their gradients are reduced at once. What is left of the tree after a round, at most log2 L + 1
// partial sums of lanes 0 … (i + 1) W - 1, lies with the pieces' owners alone. A rank sends every lane's
// gradients, L / W times what it sends when it adds up its own lanes first.
typedef struct LsRounds {
    uint32_t lanes, ranks, rank, rounds;
    uint32_t first_sum, sums; // slots of every round's plan: 0 is the gradients of this rank's lane, those
                              // below first_sum are received pieces, then come the partial sums, which stay
    LsPlan *round;            // [rounds] of one phase each; in the last one some ranks may have no lane
    LsPlanMove **move;        // [rounds][moves]
    size_t *moves;
} LsRounds;

// *plan gets the local steps, each of which leaves its lane's gradients in slot 0, and no phases. The sum is
// in slot first_sum after the last round. Freed by ls_plan_free and ls_rounds_free.
LsStatus ls_rounds_compile(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *plan, LsRounds *out);
void ls_rounds_free(LsRounds *rounds);

// The lanes of any rank under the plan.
LsStatus ls_plan_lanes(const LsPlan *plan, uint32_t rank, LsLaneShare *out);

// Messages the rank sends for a bucket.
size_t ls_plan_messages(const LsPlan *plan);

// Piece `piece` of `blocks` blocks cut for `ranks` owners: the range [first, first + count), floor(piece *
// blocks / ranks) on.
typedef struct LsBlockRange {
    size_t first, count;
} LsBlockRange;
LsBlockRange ls_piece(size_t blocks, uint32_t ranks, uint32_t piece);

#endif
