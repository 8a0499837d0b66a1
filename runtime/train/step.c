// The step: see train/trainer.h for its order and docs/architecture.md for why.

#include "base/clock.h"
#include "train/schedule.h"
#include "trainer_state.h"

// Backward of the last lane's last microbatch hands out finished ranges here; buckets leave in order.
typedef struct BucketSender {
    LsTrainer *trainer;
    const LsLaneStep *lane; // the last lane's step: its additions complete the rank's subtrees
    size_t next;            // bucket
} BucketSender;

// Runs the additions that follow a lane over one range of blocks: slots top-adds … top become one.
static LsStatus collapse(LsTrainer *t, const LsLaneStep *lane, size_t first_block, size_t blocks)
{
    if (lane->adds == 0)
        return LS_OK;
    const float *inputs[LS_LANE_SLOTS_MAX];
    uint16_t pairs[LS_LANE_SLOTS_MAX][2];
    size_t bottom = lane->slot - lane->adds;
    for (size_t i = 0; i <= lane->adds; i++)
        inputs[i] = t->arenas.gradient[bottom + i] + first_block * LS_BLOCK;
    for (size_t i = 0; i < lane->adds; i++) {
        pairs[i][0] = (uint16_t)(lane->adds - i - 1);
        pairs[i][1] = (uint16_t)(lane->adds - i);
    }
    return t->device->ops->tree_add(
        t->device, &(LsTreeAdd){.n = blocks * LS_BLOCK,
                       .count = lane->adds + 1,
                       .inputs = inputs,
                       .adds = lane->adds,
                       .pairs = (const uint16_t(*)[2])pairs,
                       .result = 0,
                       .output = t->arenas.gradient[bottom] + first_block * LS_BLOCK});
}

static LsStatus send_bucket(BucketSender *sender)
{
    LsTrainer *t = sender->trainer;
    const LsBucket *bucket = &t->buckets.bucket[sender->next];
    if (sender->lane && t->config->collectives.reduction == LS_REDUCTION_EXACT)
        LS_TRY(collapse(t, sender->lane, bucket->first_block, bucket->blocks));
    return ls_reducer_begin(t->reducer, sender->next++);
}

static LsStatus gradients_ready(void *context, size_t first)
{
    BucketSender *sender = context;
    const LsBuckets *buckets = &sender->trainer->buckets;
    while (sender->next < buckets->count && buckets->bucket[sender->next].first_block * LS_BLOCK >= first)
        LS_TRY(send_bucket(sender));
    return ls_reducer_poll(sender->trainer->reducer);
}

static LsStatus forward(LsTrainer *t, const LsBatch *batch, float *lane_loss)
{
    const LsModelOps *model = t->model->ops;
    LS_TRY(model->forward(t->model, t->arenas.weights, batch, true));
    return model->loss(
        t->model, batch, 1.0f / (float)t->config->train.batch, &t->control->loss_scale, lane_loss, NULL);
}

static LsStatus compute_rows(LsTrainer *t, const LsHostBatch *host, float *gradient, bool accumulate,
    float *lane_loss, BucketSender *sender)
{
    LsBatch batch;
    ls_trace_begin(t->trace, "forward");
    LsStatus status = ls_device_batch_upload(t->batch, host->x, host->y, host->positions, host->rows, &batch);
    if (status == LS_OK)
        status = forward(t, &batch, lane_loss);
    ls_trace_end(t->trace);
    LS_TRY(status);
    ls_trace_begin(t->trace, "backward");
    status = t->model->ops->backward(
        t->model, t->arenas.weights, &batch, gradient, accumulate, sender ? gradients_ready : NULL, sender);
    ls_trace_end(t->trace);
    return status;
}

static LsStatus compute_microbatch(
    LsTrainer *t, float *gradient, bool accumulate, float *lane_loss, BucketSender *sender)
{
    const LsHostBatch *host = NULL;
    ls_trace_begin(t->trace, "data");
    LsStatus status = ls_loader_next(t->loader, &host, &t->times.data);
    ls_trace_end(t->trace);
    LS_TRY(status);
    status = compute_rows(t, host, gradient, accumulate, lane_loss, sender);
    // The loader may refill the rows once the device has copied them.
    LsStatus copied = t->device->ops->synchronize(t->device);
    ls_loader_return(t->loader, host);
    return status == LS_OK ? copied : status;
}

// All microbatches of one lane into its slot.
static LsStatus compute_lane(LsTrainer *t, size_t index, BucketSender *sender)
{
    const LsLaneStep *lane = &t->plan.lane_step[index];
    bool fast = t->config->collectives.reduction == LS_REDUCTION_FAST;
    float *gradient = t->arenas.gradient[fast ? 0 : lane->slot];
    float *lane_loss = ls_exchange_lane_loss(&t->exchange, index);
    LS_TRY(t->device->ops->zero(t->device, lane_loss, sizeof *lane_loss));
    int64_t parts = t->config->train.accumulation;
    for (int64_t part = 0; part < parts; part++) {
        bool accumulate = part > 0 || (fast && index > 0);
        LS_TRY(compute_microbatch(t, gradient, accumulate, lane_loss, part == parts - 1 ? sender : NULL));
    }
    return LS_OK;
}

static LsStatus compute_lanes(LsTrainer *t, BucketSender *sender)
{
    for (size_t i = 0; i < t->plan.lane_steps; i++) {
        const LsLaneStep *lane = &t->plan.lane_step[i];
        bool last = i == t->plan.lane_steps - 1;
        if (last)
            sender->lane = lane;
        LS_TRY(compute_lane(t, i, last ? sender : NULL));
        if (!last && t->config->collectives.reduction == LS_REDUCTION_EXACT)
            LS_TRY(collapse(t, lane, 0, t->buckets.blocks));
    }
    return LS_OK;
}

static LsStatus reduce_gradients(LsTrainer *t)
{
    double start = ls_clock_seconds();
    ls_trace_begin(t->trace, "reduce");
    LsStatus status = ls_reducer_finish(t->reducer);
    ls_trace_end(t->trace);
    t->times.comm += ls_clock_seconds() - start;
    LS_TRY(status);
    size_t shard_block = 0;
    for (size_t b = 0; b < t->buckets.count; b++) {
        LsPieceView piece = ls_arenas_piece(&t->arenas, b);
        if (piece.elements == 0)
            continue;
        LS_TRY(t->device->ops->block_squares(
            t->device, &(LsBlockSquares){.n = piece.elements,
                           .x = piece.gradient,
                           .sums = ls_exchange_block_squares(&t->exchange, shard_block)}));
        shard_block += piece.elements / LS_BLOCK;
    }
    return LS_OK;
}

static LsVotes votes_of_this_rank(const LsTrainer *t, LsStatus computed)
{
    LsVotes votes = {.error = (uint32_t)computed};
    if (t->deadline > 0 && ls_clock_seconds() >= t->deadline)
        votes.stop = LS_STOP_TIME;
    if (t->options->stop_signal && *t->options->stop_signal)
        votes.stop = LS_STOP_SIGNAL;
    return votes;
}

static LsStatus exchange(LsTrainer *t, LsStatus computed, LsVotes *combined)
{
    LsVotes mine = votes_of_this_rank(t, computed);
    double start = ls_clock_seconds();
    ls_trace_begin(t->trace, "exchange");
    LsStatus status = ls_exchange_run(&t->exchange, &mine, combined);
    ls_trace_end(t->trace);
    t->times.comm += ls_clock_seconds() - start;
    return status;
}

static LsStatus decide(LsTrainer *t)
{
    const LsConfig *config = t->config;
    return t->device->ops->decide_step(
        t->device, &(LsDecideStep){.lanes = t->exchange.lanes,
                       .blocks = t->exchange.blocks,
                       .words = t->exchange.device_all,
                       .lane_index = t->exchange.lane_index,
                       .block_index = t->exchange.block_index,
                       .samples = (double)config->train.batch,
                       .learning_rate = ls_schedule_rate(config, t->state.control.step, t->total_steps),
                       .clip_norm = (float)config->optimizer.clip_norm,
                       .beta1 = (float)config->optimizer.beta1,
                       .beta2 = (float)config->optimizer.beta2,
                       .control = t->control});
}

static LsStatus update_piece(LsTrainer *t, const LsPieceView *piece)
{
    const LsConfig *config = t->config;
    return t->device->ops->optimizer_step(
        t->device, &(LsOptimizerStep){.n = piece->elements,
                       .kind = config->optimizer.kind,
                       .master = piece->master,
                       .gradient = piece->gradient,
                       .moment1 = piece->moment1,
                       .moment2 = piece->moment2,
                       .weights = piece->weights,
                       .type = t->arenas.type,
                       .block_decay = piece->decay,
                       .momentum = (float)config->optimizer.momentum,
                       .beta1 = (float)config->optimizer.beta1,
                       .beta2 = (float)config->optimizer.beta2,
                       .epsilon = (float)config->optimizer.epsilon,
                       .weight_decay = (float)config->optimizer.weight_decay,
                       .nesterov = config->optimizer.nesterov,
                       .control = t->control});
}

static LsStatus update_shard(LsTrainer *t)
{
    for (size_t b = 0; b < t->buckets.count; b++) {
        LsPieceView piece = ls_arenas_piece(&t->arenas, b);
        if (piece.elements > 0)
            LS_TRY(update_piece(t, &piece));
    }
    return LS_OK;
}

static LsStatus gather_weights(LsTrainer *t)
{
    double start = ls_clock_seconds();
    ls_trace_begin(t->trace, "gather");
    LsStatus status = ls_comm_gather_shards(
        t->comm, t->device, &t->buckets, t->arenas.weights, ls_dtype_size(t->arenas.type));
    ls_trace_end(t->trace);
    t->times.comm += ls_clock_seconds() - start;
    return status;
}

// The host reads what the device decided.
static LsStatus read_control(LsTrainer *t)
{
    LS_TRY(t->device->ops->copy_out(t->device, &t->state.control, t->control, sizeof t->state.control));
    return t->device->ops->synchronize(t->device);
}

static LsStatus decide_and_update(LsTrainer *t)
{
    LS_TRY(decide(t));
    ls_trace_begin(t->trace, "optimizer");
    LsStatus status = update_shard(t);
    ls_trace_end(t->trace);
    LS_TRY(status);
    LS_TRY(gather_weights(t));
    return read_control(t);
}

// Past the lanes, ranks are in the middle of collective calls and a failure cannot be told to the others
// there: it ends the job.
static void require(LsTrainer *t, LsStatus status)
{
    if (status != LS_OK)
        ls_comm_abort(t->comm, status, ls_status_message());
}

LsStatus ls_trainer_step(LsTrainer *t, uint32_t *stop)
{
    BucketSender sender = {.trainer = t};
    LsVotes votes;
    // A rank that fails here still takes part in the reduction and says so in the exchange, so that no rank
    // waits for it and all end with its sentence.
    LsStatus computed = compute_lanes(t, &sender);
    sender.lane = computed == LS_OK ? sender.lane : NULL;
    while (sender.next < t->buckets.count)
        require(t, send_bucket(&sender));
    require(t, reduce_gradients(t));
    require(t, exchange(t, computed, &votes));
    if (votes.error != LS_OK)
        return ls_comm_agree(t->comm, computed);
    require(t, decide_and_update(t));
    t->state.cursor += (uint64_t)t->config->train.batch;
    t->times.steps++;
    *stop = votes.stop;
    return LS_OK;
}
