#include "memory.h"

#include "collectives/sharder.h"
#include "feed.h"

// What the GPU's library of products may use beside operands and result.
static const size_t PRODUCT_WORKSPACE = (size_t)64 << 20;

// Received partial sums: the plan's staging slots, or the library's own piece.
static LsStatus staging_bytes(const LsMemoryQuestion *q, size_t *bytes)
{
    const LsCut *cut = &q->cut;
    bool rounded = ls_cut_rounded(q->config);
    if (cut->rounds->rounds > 0) {
        *bytes = ls_sharder_bytes(cut->rounds, cut->buckets, rounded);
        return LS_OK;
    }
    size_t blocks = ls_shard_blocks(cut->buckets, cut->plan->ranks, cut->plan->rank);
    if (q->config->collectives.reduction != LS_REDUCTION_FAST)
        LS_TRY(ls_reducer_staging(cut->plan, cut->buckets, q->in_place, &blocks));
    *bytes = blocks * LS_BLOCK * ls_dtype_size(rounded ? LS_BF16 : LS_F32);
    return LS_OK;
}

// Of training, and of an evaluation.
static size_t batch_bytes(const LsMemoryQuestion *q)
{
    const LsConfig *config = q->config;
    size_t rows = (size_t)(config->train.batch / (config->train.lanes * config->train.accumulation));
    const LsDataShape *shape = &q->model->shape;
    size_t block = ls_evaluation_rows(config, shape);
    size_t sets = ls_feed_sets(q->discrete) + (config->guard.recompute_every > 0);
    return ls_device_batch_bytes(q->info, shape, q->type, rows, sets) +
           ls_device_batch_bytes(q->info, shape, q->type, block, 1) + block * sizeof(float);
}

// The gradients of a lane that is computed again.
static size_t check_bytes(const LsMemoryQuestion *q)
{
    return q->config->guard.recompute_every > 0 ? q->cut.buckets->blocks * LS_BLOCK * sizeof(float) : 0;
}

static size_t sent_bytes(const LsMemoryQuestion *q)
{
    const LsCut *cut = &q->cut;
    if (q->config->collectives.reduction == LS_REDUCTION_FAST) { // as a ring does
        size_t all = cut->buckets->blocks * LS_BLOCK * sizeof(float);
        return (size_t)((double)all * (cut->plan->ranks - 1) / cut->plan->ranks);
    }
    size_t blocks = ls_sent_blocks(cut->buckets, cut->plan, q->in_place);
    for (uint32_t i = 0; i < cut->rounds->rounds; i++)
        blocks += ls_sent_blocks(cut->buckets, &cut->rounds->round[i], false);
    return blocks * LS_BLOCK * ls_dtype_size(ls_cut_rounded(q->config) ? LS_BF16 : LS_F32);
}

LsStatus ls_memory_plan(const LsMemoryQuestion *q, LsMemoryPlan *out)
{
    LsArenaBytes arenas = ls_arenas_bytes(q->config, q->type, &q->model->parameters, &q->cut);
    LsMemoryPlan plan = {
        .weights = q->borrows ? 0 : arenas.weights,
        .gradients = arenas.gradients + check_bytes(q),
        .optimizer = arenas.optimizer,
        .activations = q->model->activation_bytes,
        .batches = batch_bytes(q),
        .workspace = q->discrete ? PRODUCT_WORKSPACE + q->model->library_bytes : 0,
        .host = arenas.host,
        .sent = sent_bytes(q),
    };
    LS_TRY(staging_bytes(q, &plan.staging));
    plan.device = plan.weights + plan.gradients + plan.optimizer + plan.staging + plan.activations +
                  plan.batches + plan.workspace;
    *out = plan;
    return LS_OK;
}
