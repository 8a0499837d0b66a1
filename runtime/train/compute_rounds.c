// The gradients of one lane on their way out, where they are not kept (optimizer.shard: state+gradients):
// region by region of the window they are handed over, and backward goes on in the other half of it.

#include "guard.h"

// What lies between a tensor's end and the next block's start is zero in a buffer of its own, but here it is
// what another tensor has left.
static LsStatus clear_padding(LsTrainer *t, const LsRegion *region)
{
    const LsParameters *parameters = &t->model->parameters;
    size_t end = (region->first_block + region->blocks) * LS_BLOCK;
    for (size_t i = 0; i < parameters->count; i++) {
        const LsParameter *p = &parameters->list[i];
        size_t kept = p->reserved > p->elements ? p->reserved : p->elements;
        size_t padding = (LS_BLOCK - kept % LS_BLOCK) % LS_BLOCK;
        if (padding == 0 || p->offset >= end || p->offset < region->first_block * LS_BLOCK)
            continue;
        float *gradient = ls_model_gradient(t->model, t->arenas.gradient[0], p->offset);
        LS_TRY(t->device->ops->zero(t->device, gradient + kept, padding * sizeof *gradient));
    }
    return LS_OK;
}

static LsStatus send_bucket(LsTrainer *t)
{
    LsSending *sending = &t->sending;
    uint32_t round = sending->round;
    size_t b = sending->bucket++;
    if (sending->bucket == t->buckets.count)
        *sending = (LsSending){.round = round + 1};
    LS_TRY(t->device->ops->marker_record(t->device, ls_sharder_final(t->sharder, b)));
    return ls_sharder_begin(t->sharder, round, b);
}

// Behind region r comes r + 1, in the half of the window that r - 1 has.
static LsStatus send_region(LsTrainer *t, size_t r)
{
    const LsRegion *region = &t->window.region[r];
    LS_TRY(clear_padding(t, region));
    for (size_t i = 0; i < region->buckets; i++)
        LS_TRY(send_bucket(t));
    for (size_t i = 0; r > 0 && i < region[-1].buckets; i++)
        LS_TRY(ls_sharder_release(t->sharder, region[-1].first_bucket + i));
    return ls_sharder_poll(t->sharder);
}

LsStatus ls_trainer_send_regions(void *context, size_t first)
{
    LsTrainer *t = context;
    const LsWindow *window = &t->window;
    size_t r = 0;
    while (window->region[r].first_bucket < t->sending.bucket)
        r++;
    while (r < window->regions && window->region[r].first_block * LS_BLOCK >= first) {
        LS_TRY(send_region(t, r++));
        if (t->sending.bucket == 0) // that was the last
            break;
    }
    return LS_OK;
}

LsStatus ls_trainer_send_rest(LsTrainer *t)
{
    while (t->sending.round < t->rounds.rounds)
        LS_TRY(send_bucket(t));
    t->sending = (LsSending){0};
    return LS_OK;
}
