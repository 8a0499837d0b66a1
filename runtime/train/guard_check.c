// Checked arithmetic: one lane of a step is computed by two ranks, and their gradients must have the same
// bits.

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"
#include "guard.h"

static size_t ranks_of(const LsTrainer *t)
{
    return (size_t)ls_comm_size(t->comm);
}

static uint32_t my_rank(const LsTrainer *t)
{
    return (uint32_t)ls_comm_rank(t->comm);
}

LsStatus ls_check_create(LsTrainer *t)
{
    LsCheck *check = &t->check;
    const LsDeviceOps *ops = t->device->ops;
    size_t bytes = t->buckets.blocks * LS_BLOCK * sizeof *check->gradient;
    void *memory = NULL;
    if (t->config->guard.recompute_every == 0)
        return LS_OK;
    LS_TRY(ls_memory_allocate(ranks_of(t) * sizeof *check->findings, (void **)&check->findings));
    memset(check->findings, 0, ranks_of(t) * sizeof *check->findings);
    LS_TRY(ops->allocate(t->device, bytes, &memory));
    check->gradient = memory;
    LS_TRY(ops->zero(t->device, memory, bytes)); // the padding, too, is compared
    LS_TRY(ops->allocate(t->device, LS_CHECK_ROLES * sizeof *check->sums, &memory));
    check->sums = memory;
    LS_TRY(ops->marker_create(t->device, &check->copied));
    LsLoaderOptions options = ls_trainer_loader_options(t);
    return ls_lane_reader_create(t->dataset, &options, &check->reader);
}

void ls_check_destroy(LsTrainer *t)
{
    LsCheck *check = &t->check;
    ls_lane_reader_destroy(check->reader);
    t->device->ops->marker_destroy(t->device, check->copied);
    t->device->ops->release(t->device, check->sums);
    t->device->ops->release(t->device, check->gradient);
    free(check->findings);
    *check = (LsCheck){0};
}

// ---- In the step ----------------------------------------------------------------------------------------

bool ls_check_due(const LsTrainer *t, int64_t step)
{
    int64_t every = t->config->guard.recompute_every;
    return every > 0 && step % every == 0;
}

// All lanes come to be checked, and each by all other ranks, in an order without a pattern.
static LsStatus choose(LsTrainer *t, int64_t step)
{
    LsCheck *check = &t->check;
    LsRngKey key = ls_rng_key((uint64_t)t->config->train.seed, LS_RNG_CHECK);
    uint32_t ranks = (uint32_t)ranks_of(t), lanes = t->plan.lanes;
    check->lane = ls_rng_u32(key, (uint64_t)step, 0) % lanes;
    for (uint32_t r = 0; r < ranks; r++) {
        LsLaneShare share;
        LS_TRY(ls_lane_share(lanes, ranks, r, &share));
        if (check->lane - share.first < share.count) // below first, it wraps around
            check->owner = r;
    }
    uint32_t away = ranks > 1 ? 1 + ls_rng_u32(key, (uint64_t)step, 1) % (ranks - 1) : 0;
    check->witness = (check->owner + away) % ranks;
    return LS_OK;
}

LsStatus ls_check_begin(LsTrainer *t)
{
    LsCheck *check = &t->check;
    check->active = ls_check_due(t, t->issued + 1);
    if (!check->active)
        return LS_OK;
    LS_TRY(choose(t, t->issued + 1));
    return t->device->ops->zero(t->device, check->sums, LS_CHECK_ROLES * sizeof *check->sums);
}

bool ls_check_owns(const LsTrainer *t, uint32_t lane)
{
    return t->check.active && t->check.lane == lane && t->check.owner == my_rank(t);
}

LsStatus ls_check_add(LsTrainer *t, const float *gradient, size_t first_block, size_t blocks)
{
    size_t first = first_block * LS_BLOCK;
    return t->device->ops->fingerprint_bits(t->device, &(LsFingerprint){.n = blocks * LS_BLOCK,
                                                           .x = gradient + first,
                                                           .first = first,
                                                           .sum = &t->check.sums[LS_CHECK_OWNER]});
}

// Fingerprint and loss to their place in the exchange.
static LsStatus put_finding(LsTrainer *t, LsCheckRole role, const float *loss)
{
    const LsDeviceOps *ops = t->device->ops;
    float *place = ls_exchange_finding(&t->exchange, role);
    LS_TRY(ops->copy(t->device, place, &t->check.sums[role], sizeof t->check.sums[role]));
    return ops->copy(t->device, place + LS_CHECK_WORDS - 1, loss, sizeof *loss);
}

static LsStatus compute_again(LsTrainer *t, uint64_t cursor)
{
    LsCheck *check = &t->check;
    LS_TRY(ls_trainer_compute_again(t, check->lane, cursor));
    return t->device->ops->fingerprint_bits(t->device,
        &(LsFingerprint){
            .n = t->buckets.blocks * LS_BLOCK, .x = check->gradient, .sum = &check->sums[LS_CHECK_WITNESS]});
}

LsStatus ls_check_finish(LsTrainer *t)
{
    const LsCheck *check = &t->check;
    if (!check->active)
        return LS_OK;
    if (check->owner == my_rank(t))
        LS_TRY(put_finding(
            t, LS_CHECK_OWNER, ls_exchange_lane_loss(&t->exchange, check->lane - t->plan.share.first)));
    if (check->witness != my_rank(t))
        return LS_OK;
    // The host may be a step ahead of what it knows.
    uint64_t ahead = (uint64_t)(t->issued - t->state.control.step) * (uint64_t)t->config->train.batch;
    LS_TRY(compute_again(t, t->state.cursor + ahead));
    return put_finding(t, LS_CHECK_WITNESS, t->lane_loss);
}

// ---- Who is at fault ------------------------------------------------------------------------------------

typedef struct Finding {
    uint64_t fingerprint;
    uint32_t loss; // its bits
    uint32_t rank;
} Finding;

enum { FINDINGS_MAX = 5, NAME_MAX_TEXT = 128 };

// What each rank contributes: its repetition, when it is one of those that repeat, and who it is.
typedef struct Testimony {
    Finding again;
    uint32_t repeats;
    char host[NAME_MAX_TEXT], device[NAME_MAX_TEXT];
} Testimony;

// Owner, witness, and the first other rank.
static bool repeats(const LsTrainer *t)
{
    uint32_t owner = t->check.owner, witness = t->check.witness, third = 0;
    while (third == owner || third == witness)
        third++;
    return my_rank(t) == owner || my_rank(t) == witness || my_rank(t) == third;
}

static LsStatus repeat(LsTrainer *t, Testimony *mine)
{
    const LsDeviceOps *ops = t->device->ops;
    uint64_t *sum = &t->check.sums[LS_CHECK_WITNESS];
    LS_TRY(ops->zero(t->device, sum, sizeof *sum));
    LS_TRY(compute_again(t, t->state.cursor));
    LS_TRY(ops->copy_out(t->device, &mine->again.fingerprint, sum, sizeof *sum));
    LS_TRY(ops->copy_out(t->device, &mine->again.loss, t->lane_loss, sizeof *t->lane_loss));
    return ops->synchronize(t->device);
}

// What the exchange of the step brought; the same words lie on every rank.
static LsStatus read_finding(LsTrainer *t, uint32_t rank, LsCheckRole role, Finding *out)
{
    uint32_t words[LS_CHECK_WORDS];
    const float *place = t->exchange.words + ls_exchange_finding_word(&t->exchange, rank, role);
    LS_TRY(t->device->ops->copy_out(t->device, words, place, sizeof words));
    LS_TRY(t->device->ops->synchronize(t->device));
    memcpy(&out->fingerprint, words, sizeof out->fingerprint);
    out->loss = words[LS_CHECK_WORDS - 1];
    out->rank = rank;
    return LS_OK;
}

static LsStatus gather(LsTrainer *t, Testimony *all)
{
    size_t ranks = ranks_of(t), *sizes = NULL;
    Testimony mine = {.again.rank = my_rank(t), .repeats = repeats(t)};
    snprintf(mine.host, sizeof mine.host, "%s", ls_comm_host(t->comm));
    ls_device_identity(t->device, mine.device, sizeof mine.device);
    LS_TRY(ls_comm_agree(t->comm, mine.repeats ? repeat(t, &mine) : LS_OK));
    LS_TRY(ls_memory_allocate(ranks * sizeof *sizes, (void **)&sizes));
    for (size_t r = 0; r < ranks; r++)
        sizes[r] = sizeof mine;
    LsStatus status = ls_comm_all_gather(t->comm, &mine, all, sizes);
    free(sizes);
    return status;
}

static bool same(const Finding *a, const Finding *b)
{
    return a->fingerprint == b->fingerprint && a->loss == b->loss;
}

static size_t supporters(const Finding *list, size_t count, const Finding *of)
{
    size_t votes = 0;
    for (size_t i = 0; i < count; i++)
        votes += same(&list[i], of);
    return votes;
}

// The finding that more agree on than on any other; NULL when there is none.
static const Finding *majority(const Finding *list, size_t count)
{
    const Finding *best = &list[0];
    for (size_t i = 1; i < count; i++)
        if (supporters(list, count, &list[i]) > supporters(list, count, best))
            best = &list[i];
    for (size_t i = 0; i < count; i++)
        if (!same(&list[i], best) && supporters(list, count, &list[i]) == supporters(list, count, best))
            return NULL;
    return best;
}

static json_t *fingerprint_json(const Finding *finding)
{
    char text[17];
    if (!finding)
        return json_null();
    snprintf(text, sizeof text, "%016" PRIx64, finding->fingerprint);
    return json_string(text);
}

static json_t *loss_json(const Finding *finding)
{
    float loss = 0;
    if (finding)
        memcpy(&loss, &finding->loss, sizeof loss);
    return finding ? ls_json_number((double)loss) : json_null();
}

// truth: what the majority has found; NULL: there is none, and the one rank may be as wrong as the other.
static LsStatus accuse(LsTrainer *t, const Testimony *who, const Finding *wrong, const Finding *truth)
{
    const LsCheck *check = &t->check;
    uint32_t rank = who->again.rank;
    bool certain = truth || ranks_of(t) == 1;
    const char *or_other = certain ? "" : " (or the other rank that computed the lane)";
    long long step = (long long)t->state.control.step + 1, count = ++t->check.findings[rank];
    if (my_rank(t) == 0)
        ls_warn(
            "rank %u on host %s%s computed lane %u of step %lld with wrong bits; the step is computed again",
            rank, who->host, or_other, check->lane, step);
    LS_TRY(ls_metrics_event(t->metrics, "wrong_arithmetic", step,
        json_pack("{s:i, s:s, s:s, s:i, s:i, s:i, s:b, s:I, s:o, s:o, s:o, s:o}", "rank", (int)rank, "host",
            who->host, "device", who->device, "lane", (int)check->lane, "owner", (int)check->owner, "witness",
            (int)check->witness, "certain", certain, "findings", (json_int_t)count, "fingerprint",
            fingerprint_json(wrong), "expected_fingerprint", fingerprint_json(truth), "loss",
            loss_json(wrong), "expected_loss", loss_json(truth))));
    if (count < t->config->guard.limit)
        return LS_OK;
    return LS_FAIL(LS_UNAVAILABLE,
        "rank %u on host %s%s has computed wrong bits %lld times (guard.limit), the newest in lane %u of "
        "step "
        "%lld: leave that host out, or find what is wrong with its processor or memory",
        rank, who->host, or_other, count, check->lane, step);
}

// At fault is who found, the first time or again, what the majority did not. Without one it is both.
static LsStatus judge(LsTrainer *t, const Testimony *all)
{
    Finding list[FINDINGS_MAX];
    size_t count = 2;
    LS_TRY(read_finding(t, t->check.owner, LS_CHECK_OWNER, &list[0]));
    LS_TRY(read_finding(t, t->check.witness, LS_CHECK_WITNESS, &list[1]));
    for (size_t r = 0; r < ranks_of(t) && count < FINDINGS_MAX; r++)
        if (all[r].repeats)
            list[count++] = all[r].again;
    const Finding *truth = majority(list, count);
    LsStatus status = LS_OK;
    for (uint32_t r = 0; r < ranks_of(t); r++) {
        const Finding *wrong = NULL;
        for (size_t i = 0; i < count && !wrong; i++)
            if (list[i].rank == r && (!truth || !same(&list[i], truth)))
                wrong = &list[i];
        bool suspect = truth || r == t->check.owner || r == t->check.witness;
        // The first failure counts, but all are named.
        LsStatus one = wrong && suspect ? accuse(t, &all[r], wrong, truth) : LS_OK;
        status = status == LS_OK ? one : status;
    }
    return status;
}

LsStatus ls_check_settle(LsTrainer *t)
{
    Testimony *all = NULL;
    t->check.differed = false;
    LS_TRY(ls_comm_drain(t->comm));
    LS_TRY(ls_comm_agree(t->comm, t->device->ops->synchronize(t->device)));
    LS_TRY(ls_comm_agree(t->comm, ls_memory_allocate(ranks_of(t) * sizeof *all, (void **)&all)));
    LsStatus status = gather(t, all);
    if (status == LS_OK)
        status = judge(t, all);
    free(all);
    LS_TRY(ls_comm_agree(t->comm, status));
    t->issued = t->state.control.step;
    t->went_back = true;
    return ls_comm_agree(t->comm, ls_trainer_start_loader(t));
}
