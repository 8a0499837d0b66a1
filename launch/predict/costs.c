#include "costs.h"

#include <math.h>

#include "device/tensor.h"

const char *const ls_algorithm_names[LS_ALGORITHMS + 1] = {
    [LS_RING] = "ring", [LS_TREE] = "tree", [LS_HIERARCHICAL] = "hierarchical", [LS_EXACT] = "exact"};

// ---- Plans ----------------------------------------------------------------------------------------------

// As many ranks as a power of two do alike, since lanes are one too.
static bool alike(uint32_t ranks)
{
    return (ranks & (ranks - 1)) == 0;
}

static LsStatus add_plan(LsCosts *costs, uint32_t lanes, uint32_t peers, uint32_t rank)
{
    LS_TRY(ls_plan_choose(lanes, peers, rank, &costs->plan[costs->plans]));
    costs->plans++;
    return LS_OK;
}

// The number of subtrees of the rank that has the most, and that rank.
static LsStatus find_most_subtrees(uint32_t lanes, uint32_t ranks, uint32_t *subtrees, uint32_t *rank)
{
    *subtrees = *rank = 0;
    for (uint32_t r = 0; r < (alike(ranks) ? 1 : ranks) && *subtrees < LS_SUBTREES_MAX; r++) {
        LsLaneShare share;
        LS_TRY(ls_lane_share(lanes, ranks, r, &share));
        if (share.subtrees > *subtrees) {
            *subtrees = share.subtrees;
            *rank = r;
        }
    }
    return LS_OK;
}

static LsStatus compile_plans(LsCosts *costs, uint32_t lanes)
{
    const LsCluster *cluster = &costs->cluster;
    uint32_t ranks = cluster->nodes * cluster->ranks_per_node, subtrees, busiest;
    LS_TRY(find_most_subtrees(lanes, ranks, &subtrees, &busiest));
    costs->subtrees = subtrees;
    uint32_t peers = cluster->nodes > 1 ? cluster->nodes : ranks;
    if (alike(peers))
        return add_plan(costs, lanes, peers, peers - 1); // it has the largest pieces
    if (peers <= LS_PLAYED_RANKS)
        return ls_play_create(lanes, peers, &costs->play);
    LS_TRY(find_most_subtrees(lanes, peers, &subtrees, &busiest));
    LS_TRY(add_plan(costs, lanes, peers, busiest));
    for (uint32_t i = 0; i < LS_SAMPLED_RANKS - 1; i++)
        LS_TRY(add_plan(costs, lanes, peers, i * (peers - 1) / (LS_SAMPLED_RANKS - 2)));
    return LS_OK;
}

LsStatus ls_costs_create(const LsCluster *cluster, LsAlgorithm algorithm, uint32_t lanes, LsCosts *out)
{
    *out = (LsCosts){
        .cluster = *cluster,
        .algorithm = algorithm,
        .ranks = (double)cluster->nodes * cluster->ranks_per_node,
    };
    if (algorithm != LS_EXACT)
        return LS_OK;
    if (out->ranks > LS_LANES_MAX)
        return LS_FAIL(
            LS_CONFIG, "%.0f ranks are more than the %d lanes that there can be", out->ranks, LS_LANES_MAX);
    if (out->ranks > lanes)
        return LS_FAIL(LS_CONFIG, "%.0f ranks cannot share %u lanes: raise train.lanes (up to %d)",
            out->ranks, lanes, LS_LANES_MAX);
    LsStatus status = compile_plans(out, lanes);
    if (status != LS_OK)
        ls_costs_free(out);
    return status;
}

void ls_costs_free(LsCosts *costs)
{
    for (size_t i = 0; i < costs->plans; i++)
        ls_plan_free(&costs->plan[i]);
    costs->plans = 0;
    ls_play_free(&costs->play);
}

// ---- One level: the ranks of a node, or the nodes -------------------------------------------------------

// What is cut into one piece for each rank: whole blocks, or (blocks 0) as many bytes for each.
typedef struct Payload {
    size_t blocks;
    double block_bytes, each;
} Payload;

// The largest run of `pieces` pieces that follow each other.
static double run_bytes(const LsCosts *costs, const Payload *payload, double pieces)
{
    if (payload->blocks == 0)
        return pieces * payload->each;
    return ceil(pieces * (double)payload->blocks / costs->ranks) * payload->block_bytes;
}

// Peers that exchange at one level: each stands for `pieces` pieces, and `sharing` of them have one link.
typedef struct Level {
    LsLink link;
    double peers, pieces, sharing;
} Level;

typedef enum Use { REDUCES, GATHERS } Use;

static const LsLink *link_of(const LsPath *path, Use use)
{
    return use == REDUCES ? &path->reduce : &path->gather;
}

static Level inside(const LsCosts *costs, Use use)
{
    const LsCluster *c = &costs->cluster;
    return (Level){*link_of(&c->inside, use), c->ranks_per_node, c->nodes, 1};
}

static Level between(const LsCosts *costs, Use use)
{
    const LsCluster *c = &costs->cluster;
    return (Level){*link_of(&c->between, use), c->nodes, 1, c->ranks_per_node};
}

static double round_seconds(const LsCosts *costs, const Level *level, const Payload *payload, double pieces)
{
    double bytes = level->sharing * run_bytes(costs, payload, pieces);
    return level->link.latency + level->link.message + bytes / level->link.bandwidth;
}

static double level_ring(const LsCosts *costs, Level level, const Payload *payload)
{
    return (level.peers - 1) * round_seconds(costs, &level, payload, level.pieces);
}

// Round k moves 2^k peers' pieces, the last one what is left.
static double level_tree(const LsCosts *costs, Level level, const Payload *payload)
{
    double seconds = 0;
    for (double done = 1; done < level.peers; done *= 2)
        seconds += round_seconds(costs, &level, payload, fmin(done, level.peers - done) * level.pieces);
    return seconds;
}

// A rank starts a round when the one before is over for it and its neighbour, so the slowest link sets the
// pace.
static double flat_ring(const LsCosts *costs, Use use, const Payload *payload)
{
    Level in = {*link_of(&costs->cluster.inside, use), costs->ranks, 1, 1};
    Level out = {*link_of(&costs->cluster.between, use), costs->ranks, 1, 1};
    double seconds = 0;
    if (costs->cluster.ranks_per_node > 1)
        seconds = level_ring(costs, in, payload);
    if (costs->cluster.nodes > 1)
        seconds = fmax(seconds, level_ring(costs, out, payload));
    return seconds;
}

// ---- The plan -------------------------------------------------------------------------------------------

// One direction of a phase: all its messages follow each other.
typedef struct Flow {
    double messages, bytes;
} Flow;

// The sender works on a message while the link carries the one before.
static double flow_seconds(const LsLink *link, Flow flow)
{
    if (flow.messages == 0)
        return 0;
    return fmax(flow.messages * link->message, link->message + flow.bytes / link->bandwidth);
}

static double phase_seconds(
    const LsPlan *plan, size_t phase, const LsLink *link, size_t blocks, double block_bytes)
{
    Flow flow[2] = {0}; // by kind
    const LsTransfer *transfer = plan->transfer + plan->phase[phase].first_transfer;
    for (size_t i = 0; i < plan->phase[phase].transfers; i++) {
        const LsTransfer *t = &transfer[i];
        size_t moved = ls_piece(blocks, plan->ranks, t->first_piece + t->pieces).first -
                       ls_piece(blocks, plan->ranks, t->first_piece).first;
        if (moved > 0) { // what has no block is not sent
            flow[t->kind].messages++;
            flow[t->kind].bytes += (double)moved * block_bytes;
        }
    }
    double seconds = fmax(flow_seconds(link, flow[LS_SEND]), flow_seconds(link, flow[LS_RECEIVE]));
    return seconds > 0 ? link->latency + seconds : 0;
}

static double plan_seconds(const LsCosts *costs, const LsLink *link, size_t blocks, double block_bytes)
{
    if (costs->play.ranks > 0)
        return ls_play_seconds(&costs->play, link, blocks, block_bytes);
    double seconds = 0;
    bool more = true;
    for (size_t phase = 0; more; phase++) {
        double slowest = 0;
        more = false;
        for (size_t i = 0; i < costs->plans; i++)
            if (phase < costs->plan[i].phases) {
                more = true;
                slowest = fmax(slowest, phase_seconds(&costs->plan[i], phase, link, blocks, block_bytes));
            }
        seconds += slowest;
    }
    return seconds;
}

// Inside a node every rank sends the owner of a shard its subtrees' sums over it. Between the nodes the
// owners do what the plan of the nodes says, each with its part of every piece.
static double exact_reduce(const LsCosts *costs, const Payload *payload)
{
    const LsCluster *c = &costs->cluster;
    if (c->nodes == 1)
        return plan_seconds(costs, &c->inside.reduce, payload->blocks, payload->block_bytes);
    double seconds = plan_seconds(costs, &c->between.reduce, payload->blocks, payload->block_bytes);
    if (c->ranks_per_node == 1)
        return seconds;
    double peers = c->ranks_per_node - 1;
    Flow flow = {costs->subtrees * peers, costs->subtrees * peers * run_bytes(costs, payload, c->nodes)};
    return seconds + c->inside.reduce.latency + flow_seconds(&c->inside.reduce, flow);
}

// ---- Collectives ----------------------------------------------------------------------------------------

// Reductions and gathers by these take the same rounds, in the opposite order.
static double rounds(const LsCosts *costs, Use use, const Payload *payload)
{
    if (costs->ranks == 1)
        return 0;
    if (costs->algorithm == LS_RING)
        return flat_ring(costs, use, payload);
    Level in = inside(costs, use), out = between(costs, use);
    if (costs->algorithm == LS_HIERARCHICAL)
        return level_ring(costs, in, payload) + level_ring(costs, out, payload);
    return level_tree(costs, in, payload) + level_tree(costs, out, payload);
}

double ls_costs_reduce(const LsCosts *costs, size_t blocks, double element)
{
    Payload payload = {.blocks = blocks, .block_bytes = LS_BLOCK * element};
    if (costs->algorithm == LS_EXACT && costs->ranks > 1)
        return exact_reduce(costs, &payload);
    return rounds(costs, REDUCES, &payload);
}

double ls_costs_gather(const LsCosts *costs, size_t blocks, double element)
{
    return rounds(costs, GATHERS, &(Payload){.blocks = blocks, .block_bytes = LS_BLOCK * element});
}

double ls_costs_exchange(const LsCosts *costs, double bytes)
{
    return rounds(costs, GATHERS, &(Payload){.each = bytes});
}
