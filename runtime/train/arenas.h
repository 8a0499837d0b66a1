// The flat buffers of a training run and this rank's shard of them.
//
// Whole model on every rank: weights (compute type), gradient slots (F32) and, with collectives.wire bf16,
// the sums that the others get (BF16). This rank's shard, packed bucket after bucket: master weights,
// the optimizer's moments and the weights' averages (F32; ZeRO-1, Rajbhandari et al., SC 2020). In FP32 the
// weights are their own master, so the shard of them lies in `weights`. With optimizer.shard none every rank
// has all these of the whole model, at their places in the flat buffer. With state+gradients gradients have a
// window instead, and their sums are of the shard, packed.
#ifndef LOCKSTEP_TRAIN_ARENAS_H
#define LOCKSTEP_TRAIN_ARENAS_H

#include "base/config.h"
#include "collectives/comm.h"
#include "models/model.h"
#include "saver.h"
#include "train/checkpoint.h"
#include "window.h"

enum { LS_LANE_SLOTS_MAX = 16, LS_SUMS_MAX = 13 };

// Blocks of this rank's shard that lie one behind the other, in the flat buffer too: parts of one bucket, all
// trained or all frozen.
typedef struct LsShardRun {
    size_t flat;    // first block in the flat buffer
    size_t packed;  // its place in the packed shard
    size_t master;  // its place among the masters and the blocks' kinds
    size_t moments; // its place among the moments, which what is frozen has not, except where they are whole
    size_t count;
    bool frozen;
} LsShardRun;

typedef struct LsArenas {
    LsComm *comm; // lent, as are the next three
    LsDevice *device;
    const LsParameters *parameters;
    const LsBuckets *buckets;
    uint32_t ranks, rank;
    LsDtype type;    // of weights
    size_t slots;    // gradient buffers
    size_t subtrees; // that are rounded
    size_t shard_blocks;
    bool whole; // masters, moments and decay flags are of the whole model
    size_t runs;
    LsShardRun *run; // [runs] all of the shard, in its order
    size_t updates;
    LsShardRun *update; // [updates] what the optimizer updates here: `run` itself, or the whole model
    void *weights;
    float *gradient[LS_LANE_SLOTS_MAX];
    uint16_t *rounded[LS_SUBTREES_MAX]; // the rank's subtrees' sums as they travel, where that is as BF16
    size_t sums;                        // 0: gradients are kept
    float *sum[LS_SUMS_MAX];
    float *master; // NULL in FP32
    size_t moments;
    float *moment[2]; // NULL where the optimizer has none
    float *average;   // at the masters' places; NULL: none
    uint8_t *kind;    // device: LsBlockKind of each block of the masters
    // Host copies of the shard, one per group: what checkpoints read, and the first set of those that they
    // write.
    LsStateArray array[LS_STATE_ARRAYS];
    size_t arrays;
    LsStateArray set[LS_SAVES_MAX][LS_STATE_ARRAYS]; // one for each save in flight
    void *host[LS_SAVES_MAX][LS_STATE_ARRAYS];       // their memory, which begins a little before
    size_t sets;
    LsCopyPiece *piece[LS_SAVES_MAX]; // the host's way to copy the shard to a set; NULL on a discrete device
    size_t pieces;
} LsArenas;

// How a model's flat buffers are cut for a number of ranks.
typedef struct LsCut {
    const LsPlan *plan;
    const LsBuckets *buckets;
    const LsWindow *window; // with state+gradients, else empty, as is the next
    const LsRounds *rounds;
} LsCut;

// What the configuration wants: the plan of a rank, and the model's buckets of a size (see ls_bucket_bytes).
// Freed by ls_plan_free, ls_rounds_free, ls_buckets_free and ls_window_free. hosts: NULL where they are not
// known.
LsStatus ls_cut_lanes(const LsConfig *config, uint32_t ranks, uint32_t rank, const LsHostMap *hosts,
    LsPlan *plan, LsRounds *rounds);
LsStatus ls_cut_model(
    const LsConfig *config, const LsModel *model, double bucket_mb, LsBuckets *buckets, LsWindow *window);

// Whether gradients and their sums become BF16 numbers (collectives.wire). With one lane there are no sums.
bool ls_cut_rounded(const LsConfig *config);

// Bytes of the buffers, for --dry-run; the arenas allocate exactly these.
typedef struct LsArenaBytes {
    size_t weights, gradients, optimizer, host;
} LsArenaBytes;
LsArenaBytes ls_arenas_bytes(
    const LsConfig *config, LsDtype type, const LsParameters *parameters, const LsCut *cut);

// Gradient buffers that the plan's local steps need: one when the library reduces.
size_t ls_arenas_slots(const LsConfig *config, const LsPlan *plan);

// Collective: the weights are memory that ranks may share.
LsStatus ls_arenas_create(
    const LsConfig *config, LsComm *comm, LsModel *model, const LsCut *cut, LsArenas *out);

// Weights and gradients alone: what forward, backward and the reduction need. Collective.
LsStatus ls_arenas_create_working(
    const LsConfig *config, LsComm *comm, LsModel *model, const LsCut *cut, LsArenas *out);
void ls_arenas_destroy(LsArenas *arenas);

// Where the numbers of a run are: its sum of gradients in slot 0, or in sum 0. What is frozen has no moments.
typedef struct LsRunView {
    size_t elements;
    float *master, *gradient, *moment1, *moment2, *average;
    void *weights;
    const uint8_t *kind;
} LsRunView;
LsRunView ls_arenas_run(const LsArenas *arenas, const LsShardRun *run);

// Enqueues device → host copies of master weights and moments, into a set; in it, moments of what is frozen
// stay as they were read.
LsStatus ls_arenas_snapshot(LsArenas *arenas, size_t set);

// Host → device: takes `array` as the state of this rank's shard, rounds the working weights and gathers
// them. The other sets become the same, so that no page of them is made during a save. Collective.
LsStatus ls_arenas_restore(LsArenas *arenas);

// For an evaluation the averages, rounded, take the weights' place, and then the weights come back to it with
// the bits that they had: in FP32, where they are the masters themselves, they wait where the gradients of
// the next step will be. Nothing reads or copies the state meanwhile. Both collective (arenas_average.c).
LsStatus ls_arenas_show_average(LsArenas *arenas);
LsStatus ls_arenas_show_weights(LsArenas *arenas);

#endif
