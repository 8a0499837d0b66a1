// A rank's lanes: microbatches forward and backward, gradients handed over bucket by bucket.
//
// On a device with graphs a microbatch runs plainly the first time, is recorded the second time and replayed
// from then on. Both ways issue the same ops. What differs between microbatches is in device memory that is
// the same each time (lane_loss, a set of the feed), or makes another variant.

#include "base/clock.h"
#include "guard.h"

typedef struct Microbatch {
    size_t set, rows; // in the feed
    size_t slot;      // of the gradients
    float *gradient;  // which lie here
    bool accumulate;  // to what is there
    bool begins_lane, ends_step;
    bool awaits_weights; // which come while forward runs
    bool plain;          // neither recorded nor replayed
} Microbatch;

// Backward of the step's last microbatch hands out finished ranges here; buckets leave in order.
typedef struct BucketSender {
    LsTrainer *trainer;
    const LsLaneStep *lane; // the last lane's step: its additions complete the rank's subtrees
    bool recording;         // into a graph: communication begins when it is launched
    size_t ready, begun;    // buckets
} BucketSender;

static bool exact(const LsTrainer *t)
{
    return t->config->collectives.reduction == LS_REDUCTION_EXACT;
}

// Where the sum that is complete after the lane goes in order to travel as BF16; NULL: it stays what it is.
static uint16_t *rounded_place(const LsTrainer *t, const LsLaneStep *lane)
{
    size_t bottom = lane->slot - lane->adds;
    if (bottom >= t->arenas.subtrees)
        return NULL;
    LsSubtree subtree = t->plan.share.subtree[bottom];
    return lane->lane + 1 == subtree.first + subtree.count ? t->arenas.rounded[bottom] : NULL;
}

// Runs the additions that follow a lane over one range of blocks: slots top-adds … top become one.
static LsStatus collapse(LsTrainer *t, const LsLaneStep *lane, size_t first_block, size_t blocks)
{
    uint16_t *rounded = rounded_place(t, lane);
    if (lane->adds == 0 && !rounded)
        return LS_OK;
    const void *inputs[LS_LANE_SLOTS_MAX];
    uint16_t pairs[LS_LANE_SLOTS_MAX][2];
    size_t bottom = lane->slot - lane->adds, first = first_block * LS_BLOCK;
    for (size_t i = 0; i <= lane->adds; i++)
        inputs[i] = t->arenas.gradient[bottom + i] + first;
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
                       .output = rounded ? (void *)(rounded + first) : t->arenas.gradient[bottom] + first,
                       .output_type = rounded ? LS_BF16 : LS_F32,
                       .rounded = ls_cut_rounded(t->config)});
}

static LsStatus finish_bucket(BucketSender *sender)
{
    LsTrainer *t = sender->trainer;
    const LsBucket *bucket = &t->buckets.bucket[sender->ready];
    if (ls_check_owns(t, sender->lane->lane))
        LS_TRY(ls_check_add(t, t->arenas.gradient[sender->lane->slot], bucket->first_block, bucket->blocks));
    if (exact(t))
        LS_TRY(collapse(t, sender->lane, bucket->first_block, bucket->blocks));
    LS_TRY(t->device->ops->marker_record(t->device, ls_reducer_final(t->reducer, sender->ready)));
    sender->ready++;
    if (sender->recording)
        return LS_OK;
    LS_TRY(ls_reducer_begin(t->reducer, sender->begun));
    sender->begun++;
    return ls_reducer_poll(t->reducer);
}

static LsStatus gradients_ready(void *context, size_t first)
{
    BucketSender *sender = context;
    const LsBuckets *buckets = &sender->trainer->buckets;
    while (sender->ready < buckets->count && buckets->bucket[sender->ready].first_block * LS_BLOCK >= first)
        LS_TRY(finish_bucket(sender));
    return LS_OK;
}

// An LsWeightsNeeded. Who watches the rank sees by its polls that it waits for others.
static LsStatus await_weights(void *context, size_t end)
{
    LsTrainer *t = context;
    double start = ls_clock_seconds();
    ls_trace_begin(t->trace, "gather");
    LsStatus status = ls_comm_gather_upto(t->comm, end);
    ls_trace_end(t->trace);
    t->times.comm += ls_clock_seconds() - start;
    return status;
}

static LsStatus forward_pass(LsTrainer *t, const LsBatch *batch, bool awaits_weights)
{
    t->model->need = awaits_weights ? await_weights : NULL;
    t->model->need_context = t;
    LsStatus status = t->model->ops->forward(t->model, t->arenas.weights, batch, true);
    t->model->need = NULL;
    return status;
}

static LsStatus forward(LsTrainer *t, const Microbatch *m, LsBatch *batch)
{
    const LsModelOps *model = t->model->ops;
    const float *loss_scale = &t->outcomes.device->control.loss_scale;
    if (m->begins_lane)
        LS_TRY(t->device->ops->zero(t->device, t->lane_loss, sizeof *t->lane_loss));
    LS_TRY(ls_device_batch_normalize(t->batch, m->set, m->rows, batch));
    LS_TRY(forward_pass(t, batch, m->awaits_weights));
    return model->loss(t->model, batch, 1.0f / (float)t->config->train.batch, loss_scale, t->lane_loss, NULL);
}

// From where a lane's microbatches have added up its loss to its place in the exchange.
static LsStatus store_loss(LsTrainer *t, size_t lane)
{
    float *place = ls_exchange_lane_loss(&t->exchange, lane);
    return t->device->ops->copy(t->device, place, t->lane_loss, sizeof *place);
}

// All that a graph of a microbatch holds. Which lane it is of is left out of it, but for the last one.
static LsStatus issue(LsTrainer *t, const Microbatch *m, BucketSender *sender)
{
    LsBatch batch;
    ls_trace_begin(t->trace, "forward");
    LsStatus status = forward(t, m, &batch);
    ls_trace_end(t->trace);
    LS_TRY(status);
    ls_trace_begin(t->trace, "backward");
    if (t->sharder) // of the lane before
        LS_TRY(ls_sharder_finish(t->sharder));
    LsGradientsReady ready = t->sharder ? ls_trainer_send_regions : m->ends_step ? gradients_ready : NULL;
    status = t->model->ops->backward(t->model, t->arenas.weights, &batch, m->gradient, m->accumulate, ready,
        t->sharder ? (void *)t : sender);
    ls_trace_end(t->trace);
    LS_TRY(status);
    return m->ends_step ? store_loss(t, t->plan.lane_steps - 1) : LS_OK;
}

static LsStatus record(LsTrainer *t, const Microbatch *m, BucketSender *sender, LsGraph **out)
{
    const LsDeviceOps *ops = t->device->ops;
    LS_TRY(ops->capture_begin(t->device));
    sender->recording = true;
    LsStatus status = issue(t, m, sender);
    sender->recording = false;
    if (status != LS_OK) {
        ops->capture_abandon(t->device);
        return status;
    }
    return ops->capture_end(t->device, out);
}

static LsStatus run(LsTrainer *t, const Microbatch *m, BucketSender *sender)
{
    LsVariant *variant =
        &t->variant[m->set][m->slot][m->accumulate][m->begins_lane][m->ends_step][m->awaits_weights];
    bool graphs = t->config->runtime.graphs && t->device->ops->capture_begin;
    if (!graphs || !variant->ran || m->plain) {
        variant->ran = true;
        return issue(t, m, sender);
    }
    if (!variant->graph)
        LS_TRY(record(t, m, sender, &variant->graph));
    ls_trace_begin(t->trace, "replay");
    LsStatus status = t->device->ops->graph_launch(t->device, variant->graph);
    ls_trace_end(t->trace);
    LS_TRY(status);
    return ls_comm_gather_end(t->comm); // the graph has waited for it
}

static LsStatus compute_microbatch(LsTrainer *t, Microbatch *m, BucketSender *sender)
{
    ls_trace_begin(t->trace, "data");
    ls_trainer_at(t, LS_PHASE_DATA);
    LsStatus status = ls_feed_next(&t->feed, &m->set, &m->rows, &t->times.data);
    ls_trace_end(t->trace);
    LS_TRY(status);
    ls_trainer_at(t, LS_PHASE_COMPUTE);
    LS_TRY(run(t, m, sender));
    return ls_feed_used(&t->feed, m->set);
}

// All microbatches of one lane into its slot.
static LsStatus compute_lane(LsTrainer *t, size_t index, BucketSender *sender)
{
    const LsLaneStep *lane = &t->plan.lane_step[index];
    bool last_lane = index == t->plan.lane_steps - 1;
    int64_t parts = t->config->train.accumulation;
    bool checked = ls_check_owns(t, lane->lane);
    sender->lane = lane;
    for (int64_t part = 0; part < parts; part++) {
        Microbatch m = {
            .slot = exact(t) ? lane->slot : 0,
            .gradient = t->arenas.gradient[exact(t) ? lane->slot : 0],
            .accumulate = part > 0 || (!exact(t) && index > 0),
            .begins_lane = part == 0,
            .ends_step = last_lane && part == parts - 1,
            .awaits_weights = ls_comm_gathers(t->comm),
        };
        // The fingerprint is no part of the graph, nor is communication.
        m.plain = (checked && m.ends_step) || t->sharder;
        LS_TRY(compute_microbatch(t, &m, sender));
    }
    if (last_lane) // its additions have been made bucket by bucket
        return LS_OK;
    LS_TRY(store_loss(t, index));
    if (checked)
        LS_TRY(ls_check_add(t, t->arenas.gradient[lane->slot], 0, t->buckets.blocks));
    return exact(t) ? collapse(t, lane, 0, t->buckets.blocks) : LS_OK;
}

LsStatus ls_trainer_compute_again(LsTrainer *t, uint32_t lane, uint64_t cursor)
{
    const LsDeviceOps *ops = t->device->ops;
    BucketSender sender = {.trainer = t};
    size_t parts = (size_t)t->config->train.accumulation, set = t->feed.sets;
    for (size_t part = 0; part < parts; part++) {
        const LsHostBatch *host = NULL;
        LS_TRY(ls_comm_wait_marker(t->comm, t->check.copied, "the copy of a batch to the device"));
        LS_TRY(ls_lane_reader_read(t->check.reader, cursor, lane, part, &host));
        LS_TRY(ls_device_batch_copy(t->batch, set, host->x, host->y, host->positions, host->rows));
        LS_TRY(ops->marker_record(t->device, t->check.copied));
        Microbatch m = {.set = set,
            .rows = host->rows,
            .gradient = t->check.gradient,
            .accumulate = part > 0,
            .begins_lane = part == 0};
        LS_TRY(issue(t, &m, &sender));
    }
    return LS_OK;
}

static LsStatus compute_lanes(LsTrainer *t, BucketSender *sender)
{
    LS_TRY(ls_check_begin(t));
    for (size_t i = 0; i < t->plan.lane_steps; i++)
        LS_TRY(compute_lane(t, i, sender));
    return LS_OK;
}

static void keep_failure(LsTrainer *t)
{
    if (t->failed != LS_OK && t->failure[0] == '\0')
        snprintf(t->failure, sizeof t->failure, "%s", ls_status_message());
}

// Buckets that have not left: of a graph, or after a failure.
static LsStatus begin_rest(BucketSender *sender)
{
    LsTrainer *t = sender->trainer;
    for (; sender->begun < t->buckets.count; sender->begun++) {
        // After a failure not all markers have been recorded, by ops or by a graph.
        if (t->failed != LS_OK)
            LS_TRY(t->device->ops->marker_record(t->device, ls_reducer_final(t->reducer, sender->begun)));
        LS_TRY(ls_reducer_begin(t->reducer, sender->begun));
    }
    return LS_OK;
}

LsStatus ls_trainer_compute(LsTrainer *t)
{
    BucketSender sender = {.trainer = t};
    if (t->failed == LS_OK)
        t->failed = compute_lanes(t, &sender);
    keep_failure(t);
    LS_TRY(ls_comm_gather_end(t->comm)); // of a rank that has failed before it came to it
    if (t->sharder)
        return ls_trainer_send_rest(t);
    LS_TRY(begin_rest(&sender));
    if (t->failed == LS_OK)
        t->failed = ls_check_finish(t);
    keep_failure(t);
    return LS_OK;
}

static LsStatus rehearse_lane(LsTrainer *t, const LsBatch *batch, BucketSender *sender)
{
    const LsModelOps *model = t->model->ops;
    bool adds = t->config->train.accumulation > 1 || (!exact(t) && t->plan.lane_steps > 1);
    float *gradient = t->arenas.gradient[exact(t) ? sender->lane->slot : 0];
    LS_TRY(forward_pass(t, batch, ls_comm_gathers(t->comm)));
    LS_TRY(model->loss(t->model, batch, 1.0f / (float)batch->rows, NULL, NULL, NULL));
    return model->backward(t->model, t->arenas.weights, batch, gradient, adds, gradients_ready, sender);
}

LsStatus ls_trainer_rehearse(LsTrainer *t, const LsBatch *batch)
{
    BucketSender sender = {.trainer = t, .lane = &t->plan.lane_step[t->plan.lane_steps - 1]};
    t->failed = rehearse_lane(t, batch, &sender);
    keep_failure(t);
    LS_TRY(ls_comm_gather_end(t->comm));
    return begin_rest(&sender);
}

void ls_trainer_forget_graphs(LsTrainer *t)
{
    LsVariant *variant = &t->variant[0][0][0][0][0][0];
    for (size_t i = 0; i < sizeof t->variant / sizeof *variant; i++)
        if (variant[i].graph)
            t->device->ops->graph_destroy(t->device, variant[i].graph);
}
