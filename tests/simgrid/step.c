// Plays a predicted step message by message in SimGrid's simulated MPI. It shares the lane plans and the
// times at which buckets are final with the prediction; what messages there are is written down here a second
// time, and how long they take is SimGrid's to say.
//
//   step FILE          as an MPI program under smpirun; rank 0 prints when the last rank has done its step
//   step FILE FOLDER   (built with WRITE_TRACES) writes a time-independent trace for every rank, which
//                      smpirun -replay plays with more ranks than a program can have
//
// FILE: algorithm, nodes, ranks per node, lanes, bytes of a gradient, of a weight, of each rank's exchange;
// the end of backward and the length of the optimizer pass in seconds; then for each bucket its blocks and
// when it is final.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/plan.h"

#ifndef WRITE_TRACES
#include <smpi/smpi.h>
#endif

enum { BUCKETS = 1024, BLOCK = 4096, NAME = 32, PAYLOAD = 1 << 26 };
static const double FLOPS = 1e9; // of a simulated host, a second

typedef struct Bucket {
    size_t blocks;
    double ready;
} Bucket;

typedef struct Step {
    char algorithm[NAME];
    unsigned nodes, ranks, lanes; // ranks: of each node
    double gradient, weight, exchange, backward, optimizer;
    size_t buckets;
    Bucket bucket[BUCKETS];
} Step;

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "step: %s\n", what);
    exit(1);
}

static void read_step(const char *path, Step *s)
{
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%31s %u %u %u %lf %lf %lf %lf %lf", s->algorithm, &s->nodes, &s->ranks,
                     &s->lanes, &s->gradient, &s->weight, &s->exchange, &s->backward, &s->optimizer) != 9)
        fail("cannot read the step");
    while (s->buckets < BUCKETS &&
           fscanf(file, "%zu %lf", &s->bucket[s->buckets].blocks, &s->bucket[s->buckets].ready) == 2)
        s->buckets++;
    fclose(file);
}

// ---- What a rank can do: as MPI calls, or as lines of a trace -------------------------------------------

#ifndef WRITE_TRACES

enum { REQUESTS = 1 << 14 };
static MPI_Request request[REQUESTS];
static int requests;
static char *payload; // shared by all messages of all ranks

static void send(unsigned to, double bytes)
{
    if (requests == REQUESTS || bytes > PAYLOAD)
        fail("too many messages at once, or too long ones");
    MPI_Isend(payload, (int)bytes, MPI_BYTE, (int)to, 0, MPI_COMM_WORLD, &request[requests++]);
}

static void receive(unsigned from, double bytes)
{
    if (requests == REQUESTS || bytes > PAYLOAD)
        fail("too many messages at once, or too long ones");
    MPI_Irecv(payload, (int)bytes, MPI_BYTE, (int)from, 0, MPI_COMM_WORLD, &request[requests++]);
}

static void wait_all(void)
{
    MPI_Waitall(requests, request, MPI_STATUSES_IGNORE);
    requests = 0;
}

static void compute(double seconds)
{
    if (seconds > 0)
        smpi_execute_flops(seconds * FLOPS);
}

static void compute_until(const Step *s, size_t event)
{
    compute((event < s->buckets ? s->bucket[event].ready : s->backward) - MPI_Wtime());
}

#else

// In a trace, 6 is the type MPI_BYTE.
static FILE *trace;
static unsigned me, world;

static void send(unsigned to, double bytes)
{
    fprintf(trace, "%u isend %u 0 %.0f 6\n", me, to, bytes);
}

static void receive(unsigned from, double bytes)
{
    fprintf(trace, "%u irecv %u 0 %.0f 6\n", me, from, bytes);
}

static void wait_all(void)
{
    fprintf(trace, "%u waitall\n", me);
}

static void compute(double seconds)
{
    if (seconds > 0)
        fprintf(trace, "%u compute %.0f\n", me, seconds * FLOPS);
}

// A trace cannot wait until a moment. A second process on the same host computes, and says when a bucket is
// final (see write_computing).
static void compute_until(const Step *s, size_t event)
{
    (void)s;
    fprintf(trace, "%u recv %u %zu 1 6\n", me, world + me, event + 1);
}

static void write_computing(const Step *s, unsigned rank)
{
    double now = 0;
    for (size_t event = 0; event <= s->buckets; event++) {
        double until = event < s->buckets ? s->bucket[event].ready : s->backward;
        fprintf(trace, "%u compute %.0f\n", world + rank, (until - now) * FLOPS);
        fprintf(trace, "%u send %u %zu 1 6\n", world + rank, rank, event + 1);
        now = until;
    }
}

#endif

// ---- One level: peers that exchange, each standing for a run of pieces ----------------------------------

// What is cut in one piece for each rank. Pieces are numbered by the rank's place in its node first, so that
// what the ranks of one place have in all nodes is one run.
typedef struct Payload {
    size_t blocks; // 0: `each` bytes for each piece
    double block_bytes, each;
    unsigned pieces;
} Payload;

static double run_bytes(const Payload *p, unsigned first, unsigned count)
{
    if (p->blocks == 0)
        return p->each * count;
    return (double)(ls_piece(p->blocks, p->pieces, first + count).first -
                    ls_piece(p->blocks, p->pieces, first).first) *
           p->block_bytes;
}

typedef struct Level {
    unsigned peers, me;        // my place among them
    unsigned rank, stride;     // of peer 0, between peers
    unsigned first, run, step; // peer i has the pieces [first + i * step, + run)
} Level;

static unsigned rank_of(const Level *l, unsigned peer)
{
    return l->rank + peer % l->peers * l->stride;
}

// Of `count` peers from `first` on, around the end.
static double peers_bytes(const Level *l, const Payload *p, unsigned first, unsigned count)
{
    double bytes = 0;
    for (unsigned i = 0; i < count; i++)
        bytes += run_bytes(p, l->first + (first + i) % l->peers * l->step, l->run);
    return bytes;
}

static void ring(const Level *l, const Payload *p, int reduce)
{
    for (unsigned k = 0; k + 1 < l->peers; k++) {
        unsigned back = k + (unsigned)reduce; // a sum ends with its owner, a gather begins with it
        receive(rank_of(l, l->me + l->peers - 1), peers_bytes(l, p, l->me + 2 * l->peers - 1 - back, 1));
        send(rank_of(l, l->me + 1), peers_bytes(l, p, l->me + l->peers - back, 1));
        wait_all();
    }
}

// A gather: what I have goes to the peer that far to the left, and as much comes from the right.
static void tree_round(const Level *l, const Payload *p, unsigned have, int reduce)
{
    unsigned count = have < l->peers - have ? have : l->peers - have;
    unsigned left = l->me + l->peers - have, right = l->me + have;
    double mine = peers_bytes(l, p, l->me, count), theirs = peers_bytes(l, p, right, count);
    receive(rank_of(l, reduce ? left : right), reduce ? mine : theirs);
    send(rank_of(l, reduce ? right : left), reduce ? theirs : mine);
    wait_all();
}

static void tree(const Level *l, const Payload *p, int reduce)
{
    unsigned rounds = 0;
    while (1u << rounds < l->peers)
        rounds++;
    for (unsigned k = 0; k < rounds; k++)
        tree_round(l, p, 1u << (reduce ? rounds - 1 - k : k), reduce);
}

// ---- The plan -------------------------------------------------------------------------------------------

// Each of the `sharing` ranks of a node moves its part of every piece.
static void play_plan(const LsPlan *plan, const Level *l, size_t blocks, double block_bytes, unsigned sharing)
{
    for (size_t phase = 0; phase < plan->phases; phase++) {
        const LsTransfer *t = plan->transfer + plan->phase[phase].first_transfer;
        for (size_t i = 0; i < plan->phase[phase].transfers; i++, t++) {
            double moved = (double)(ls_piece(blocks, plan->ranks, t->first_piece + t->pieces).first -
                                    ls_piece(blocks, plan->ranks, t->first_piece).first);
            double bytes = moved * block_bytes / sharing;
            if (moved > 0 && t->kind == LS_RECEIVE)
                receive(rank_of(l, t->peer), bytes);
            else if (moved > 0)
                send(rank_of(l, t->peer), bytes);
        }
        wait_all();
    }
}

// Inside a node: to the owner of each shard each of my subtrees' sums over it.
static void exact_inside(const Step *s, const Level *l, const Payload *p)
{
    LsLaneShare share[2];
    for (unsigned d = 1; d < l->peers; d++) {
        unsigned left = (l->me + l->peers - d) % l->peers, right = (l->me + d) % l->peers;
        if (ls_lane_share(s->lanes, s->nodes * s->ranks, rank_of(l, left), &share[0]) != LS_OK ||
            ls_lane_share(s->lanes, s->nodes * s->ranks, rank_of(l, l->me), &share[1]) != LS_OK)
            fail("no lanes");
        for (unsigned i = 0; i < share[0].subtrees; i++)
            receive(rank_of(l, left), peers_bytes(l, p, l->me, 1));
        for (unsigned i = 0; i < share[1].subtrees; i++)
            send(rank_of(l, right), peers_bytes(l, p, right, 1));
    }
    wait_all();
}

// ---- Collectives ----------------------------------------------------------------------------------------

typedef struct Rank {
    const Step *step;
    Level flat, inside, between;
    LsPlan plan; // of nodes, or of the ranks of a single one
} Rank;

static void levels(const Rank *r, const Payload *p, int reduce)
{
    int rings = strcmp(r->step->algorithm, "hierarchical") == 0;
    void (*level)(const Level *, const Payload *, int) = rings ? ring : tree;
    if (strcmp(r->step->algorithm, "ring") == 0) {
        ring(&r->flat, p, reduce);
    } else if (reduce) {
        level(&r->inside, p, reduce);
        level(&r->between, p, reduce);
    } else {
        level(&r->between, p, reduce);
        level(&r->inside, p, reduce);
    }
}

static void reduce(const Rank *r, size_t blocks)
{
    const Step *s = r->step;
    Payload p = {blocks, BLOCK * s->gradient, 0, s->nodes * s->ranks};
    if (strcmp(s->algorithm, "exact") != 0) {
        levels(r, &p, 1);
    } else if (s->nodes == 1) {
        play_plan(&r->plan, &r->inside, blocks, p.block_bytes, 1);
    } else {
        exact_inside(s, &r->inside, &p);
        play_plan(&r->plan, &r->between, blocks, p.block_bytes, s->ranks);
    }
}

static void gather(const Rank *r, size_t blocks, double each)
{
    levels(r, &(Payload){blocks, BLOCK * r->step->weight, each, r->step->nodes * r->step->ranks}, 0);
}

static void play(const Step *s, unsigned rank)
{
    unsigned node = rank / s->ranks, local = rank % s->ranks, all = s->nodes * s->ranks;
    Rank r = {
        .step = s,
        .flat = {all, rank, 0, 1, 0, 1, 1},
        .inside = {s->ranks, local, node * s->ranks, 1, 0, s->nodes, s->nodes},
        .between = {s->nodes, node, local, s->ranks, local * s->nodes, 1, 1},
    };
    int exact = strcmp(s->algorithm, "exact") == 0;
    const Level *planned = s->nodes > 1 ? &r.between : &r.inside;
    if (exact && ls_plan_choose(s->lanes, planned->peers, planned->me, &r.plan) != LS_OK)
        fail("no plan");
    for (size_t b = 0; b < s->buckets; b++) {
        compute_until(s, b);
        reduce(&r, s->bucket[b].blocks);
    }
    compute_until(s, s->buckets);
    gather(&r, 0, s->exchange);
    compute(s->optimizer);
    for (size_t b = 0; b < s->buckets; b++)
        gather(&r, s->bucket[b].blocks, 0);
    ls_plan_free(&r.plan);
}

#ifndef WRITE_TRACES

int main(int argc, char **argv)
{
    static Step step;
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (argc != 2)
        fail("usage: step FILE");
    read_step(argv[1], &step);
    if ((unsigned)size != step.nodes * step.ranks)
        fail("another number of ranks than the step has");
    payload = SMPI_SHARED_MALLOC(PAYLOAD);
    MPI_Barrier(MPI_COMM_WORLD);
    double begin = MPI_Wtime();
    for (size_t b = 0; b < step.buckets; b++)
        step.bucket[b].ready += begin;
    step.backward += begin;
    play(&step, (unsigned)rank);
    double seconds = MPI_Wtime() - begin, slowest;
    MPI_Reduce(&seconds, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("step %.9f\n", slowest);
    SMPI_SHARED_FREE(payload);
    MPI_Finalize();
    return 0;
}

#else

int main(int argc, char **argv)
{
    static Step step;
    if (argc != 3)
        fail("usage: step FILE FOLDER");
    read_step(argv[1], &step);
    char path[4096];
    world = step.nodes * step.ranks;
    for (unsigned process = 0; process < 2 * world; process++) {
        snprintf(path, sizeof path, "%s/%u", argv[2], process);
        trace = fopen(path, "w");
        if (!trace)
            fail("cannot write a trace");
        me = process % world;
        fprintf(trace, "%u init\n", process);
        if (process < world)
            play(&step, me);
        else
            write_computing(&step, me);
        fprintf(trace, "%u finalize\n", process);
        if (fclose(trace) != 0)
            fail("cannot write a trace");
    }
    return 0;
}

#endif
