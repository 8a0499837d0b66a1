// When the work of streams runs: as late as is legal. Somebody who has to wait for a place in a stream runs
// it up to there, and what of other streams it waits for, and nothing else.
#include "runtime.h"

#include <string.h>
#include <time.h>

// How long a waiter lets other streams rest while its own waits for other processes. A GPU would have run
// them meanwhile, and the other processes may be waiting for just that.
static const double patience = 0.02;

static Item *spare; // items to use again
static Item *host_users;
static double spent; // seconds that work takes on the GPU beyond what it takes here

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// ---- Queues ---------------------------------------------------------------------------------------------

// Until work that writes host memory has run, the memory holds 0xFF, so that who reads it too early sees
// NaN. Unless earlier work still uses it: then it cannot be told what is there.
static void use_host(Item *item)
{
    const Job *job = &item->job;
    bool used = false;
    for (const Item *other = host_users; other && !used; other = other->host_next)
        used = other->job.host < job->host + job->host_bytes &&
               job->host < other->job.host + other->job.host_bytes;
    if (job->writes_host && !used)
        memset(job->host, 0xff, job->host_bytes);
    item->host_link = &host_users;
    item->host_next = host_users;
    if (host_users)
        host_users->host_link = &item->host_next;
    host_users = item;
}

void ls_stream_push(cudaStream_t stream, const Item *template)
{
    Item *item = spare;
    if (item)
        spare = item->next;
    else
        item = ls_runtime_allocate(NULL, sizeof *item);
    *item = *template;
    item->next = NULL;
    if (item->kind <= ITEM_NODE && item->job.host)
        use_host(item);
    if (item->kind == ITEM_WAIT)
        item->on->references++;
    if (item->kind == ITEM_RECORD)
        item->event->references++;
    if (stream->tail)
        stream->tail->next = item;
    else
        stream->head = item;
    stream->tail = item;
    stream->queued++;
}

static void pop(cudaStream_t stream)
{
    Item *item = stream->head;
    stream->head = item->next;
    if (!stream->head)
        stream->tail = NULL;
    stream->done++;
    if (item->kind <= ITEM_NODE && item->job.host) {
        *item->host_link = item->host_next;
        if (item->host_next)
            item->host_next->host_link = item->host_link;
    }
    if (item->kind == ITEM_WORK)
        item->job.work.release(item->job.work.context);
    else if (item->kind == ITEM_WAIT)
        item->on->references--;
    else if (item->kind == ITEM_RECORD)
        ls_event_release(item->event);
    else if (item->kind == ITEM_LAUNCH_END)
        ls_graph_exec_release(item->launched);
    item->next = spare;
    spare = item;
}

// ---- Running --------------------------------------------------------------------------------------------

static bool advance(cudaStream_t stream, Item *item)
{
    switch (item->kind) {
    case ITEM_WORK:
    case ITEM_NODE:
        return item->job.work.advance(item->job.work.context);
    case ITEM_WAIT:
        return ls_run_to(item->on, item->until);
    case ITEM_RECORD:
        if (item->event->stream == stream && item->event->position == stream->done + 1)
            item->event->seconds = seconds() + spent;
        return true;
    case ITEM_LAUNCH_END:
        return true;
    }
    return true;
}

static bool run_items(cudaStream_t stream, uint64_t position)
{
    while (stream->done < position) {
        if (!advance(stream, stream->head))
            return false;
        pop(stream);
    }
    return true;
}

bool ls_run_to(cudaStream_t stream, uint64_t position)
{
    if (stream->done >= position)
        return true;
    ls_memory_open();
    bool reached = run_items(stream, position);
    ls_memory_close();
    return reached;
}

static bool run_what_can(void)
{
    bool all = true;
    for (cudaStream_t stream = ls_streams(); stream; stream = stream->next)
        all = ls_run_to(stream, stream->queued) && all;
    return all;
}

void ls_run_until(cudaStream_t stream, uint64_t position)
{
    if (stream->done >= position)
        return;
    stream->references++;
    ls_memory_open();
    double since = 0;
    while (!ls_run_to(stream, position)) {
        double now = seconds();
        since = since > 0 ? since : now;
        if (now - since > patience)
            run_what_can();
        ls_runtime_yield();
    }
    ls_memory_close();
    stream->references--;
}

void ls_run_all(void)
{
    for (cudaStream_t stream = ls_streams(); stream; stream = stream->next)
        ls_run_until(stream, stream->queued);
}

void ls_emulator_progress(void)
{
    if (ls_runtime_enter() == cudaSuccess)
        run_what_can();
    ls_runtime_leave(cudaSuccess);
}

void ls_emulator_spend(double more)
{
    spent += more;
}

void ls_run_wander(void)
{
    uint64_t random = ls_emulator_random();
    if (!(random & 1))
        return;
    size_t count = 0;
    for (cudaStream_t stream = ls_streams(); stream; stream = stream->next)
        count++;
    size_t chosen = count ? (random >> 8) % count : 0;
    uint64_t items = 1 + (random >> 40) % 16;
    for (cudaStream_t stream = ls_streams(); stream; stream = stream->next)
        if (chosen-- == 0) {
            uint64_t left = stream->queued - stream->done;
            ls_run_to(stream, stream->done + (items < left ? items : left));
        }
}

bool ls_run_query(cudaStream_t stream, uint64_t position)
{
    if (ls_emulator_random() & 1) // a poll that comes too early
        ls_run_wander();
    else
        ls_run_to(stream, position);
    return stream->done >= position;
}
