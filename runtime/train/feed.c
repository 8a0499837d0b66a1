#include "feed.h"

#include <string.h>

size_t ls_feed_sets(bool discrete)
{
    return discrete ? LS_FEED_SETS : 1;
}

static LsStatus create_markers(LsFeed *feed)
{
    const LsDeviceOps *ops = feed->device->ops;
    for (size_t s = 0; s < feed->sets; s++) {
        LS_TRY(ops->marker_create(feed->device, &feed->set[s].copied));
        LS_TRY(ops->marker_create(feed->device, &feed->set[s].used));
    }
    return LS_OK;
}

LsStatus ls_feed_create(LsComm *comm, LsDeviceBatch *batch, LsDevice *device, LsFeed *out)
{
    LsFeed feed = {
        .comm = comm,
        .device = device,
        .batch = batch,
        .sets = ls_feed_sets(device->discrete),
    };
    LsStatus status = create_markers(&feed);
    if (status != LS_OK) {
        ls_feed_destroy(&feed);
        return status;
    }
    *out = feed;
    return LS_OK;
}

static void give_back(LsFeed *feed, LsFeedSet *set)
{
    if (set->host)
        ls_loader_return(feed->loader, set->host);
    set->host = NULL;
}

void ls_feed_forget(LsFeed *feed)
{
    for (size_t s = 0; s < feed->sets; s++)
        give_back(feed, &feed->set[s]);
    feed->loader = NULL;
}

void ls_feed_destroy(LsFeed *feed)
{
    if (!feed->device)
        return;
    for (size_t s = feed->sets; s-- > 0;) {
        give_back(feed, &feed->set[s]);
        feed->device->ops->marker_destroy(feed->device, feed->set[s].used);
        feed->device->ops->marker_destroy(feed->device, feed->set[s].copied);
    }
    memset(feed, 0, sizeof *feed);
}

// Returns to the loader what has been copied.
static LsStatus return_copied(LsFeed *feed)
{
    for (size_t s = 0; s < feed->sets; s++) {
        LsFeedSet *set = &feed->set[s];
        bool reached = false;
        if (set->host)
            LS_TRY(feed->device->ops->marker_reached(feed->device, set->copied, &reached));
        if (reached)
            give_back(feed, set);
    }
    return LS_OK;
}

static LsStatus copy_rows(LsFeed *feed, size_t index)
{
    LsFeedSet *set = &feed->set[index];
    const LsHostBatch *host = set->host;
    LS_TRY(feed->device->ops->marker_wait(feed->device, set->used));
    LS_TRY(ls_device_batch_copy(feed->batch, index, host->x, host->y, host->positions, host->rows));
    return feed->device->ops->marker_record(feed->device, set->copied);
}

LsStatus ls_feed_next(LsFeed *feed, size_t *out, size_t *rows, double *waited)
{
    LsDevice *device = feed->device;
    size_t index = feed->next;
    LsFeedSet *set = &feed->set[index];
    if (set->host)
        LS_TRY(ls_comm_wait_marker(feed->comm, set->copied, "the copy of a batch to the device"));
    give_back(feed, set);
    LS_TRY(ls_loader_next(feed->loader, &set->host, waited));
    *rows = set->host->rows;
    device->ops->select_stream(device, LS_STREAM_COPY);
    LsStatus status = copy_rows(feed, index);
    device->ops->select_stream(device, LS_STREAM_COMPUTE);
    LS_TRY(status);
    LS_TRY(device->ops->marker_wait(device, set->copied));
    feed->next = (index + 1) % feed->sets;
    *out = index;
    return return_copied(feed);
}

LsStatus ls_feed_used(LsFeed *feed, size_t set)
{
    return feed->device->ops->marker_record(feed->device, feed->set[set].used);
}
