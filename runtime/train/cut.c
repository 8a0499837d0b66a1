// How the configuration wants a model's flat buffers cut.
#include "arenas.h"

bool ls_cut_rounded(const LsConfig *config)
{
    return config->collectives.wire == LS_WIRE_BF16 && config->train.lanes > 1;
}

LsStatus ls_cut_lanes(const LsConfig *config, uint32_t ranks, uint32_t rank, const LsHostMap *hosts,
    LsPlan *plan, LsRounds *rounds)
{
    uint32_t lanes = (uint32_t)config->train.lanes;
    *rounds = (LsRounds){0};
    if (config->optimizer.shard == LS_SHARD_STATE_GRADIENTS)
        return ls_rounds_compile(lanes, ranks, rank, plan, rounds);
    bool flat = config->collectives.backend == LS_COMM_MPI;
    return ls_plan_choose_hosts(lanes, ranks, rank, flat ? NULL : hosts, plan);
}

LsStatus ls_cut_model(
    const LsConfig *config, const LsModel *model, double bucket_mb, LsBuckets *buckets, LsWindow *window)
{
    size_t bucket_bytes = ls_bucket_bytes(bucket_mb);
    *window = (LsWindow){0};
    if (config->optimizer.shard == LS_SHARD_STATE_GRADIENTS)
        return ls_window_create(model, bucket_bytes, window, buckets);
    return ls_buckets_create(model->parameters.blocks, bucket_bytes, buckets);
}
