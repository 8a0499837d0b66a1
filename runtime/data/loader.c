// A ring of slots that the workers fill in order. A worker takes the next number of a microbatch under the
// lock, fills the slot number mod slots without it, and marks the slot ready; the reader takes the slots in
// the same order. Everything is allocated at creation.
#include "data/loader.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/thread.h"
#include "encoded.h"

enum { MESSAGE_SIZE = 2048, WORKERS_LIMIT = 256, SLOTS_LIMIT = 1 << 16 };

typedef enum SlotState { SLOT_FREE, SLOT_FILLING, SLOT_READY, SLOT_TAKEN } SlotState;

typedef struct Slot {
    LsHostBatch batch;
    uint64_t *samples; // [rows]; of tokens, the first ones of the windows
    SlotState state;
    LsStatus status; // of filling it
    char message[MESSAGE_SIZE];
} Slot;

typedef struct Worker {
    LsLoader *loader;
    LsReader *reader;
    LsAugmenter *augmenter;      // NULL: images stay as they are
    void *partner_x, *partner_y; // the sample that is mixed in; NULL: none is
    pthread_t thread;
    bool running;
} Worker;

struct LsLoader {
    const LsDataset *dataset;
    LsLoaderOptions options;
    size_t rows; // of a microbatch
    Slot *slots;
    size_t slot_count;
    Worker *workers;
    pthread_mutex_t lock;
    pthread_cond_t freed, ready;   // a slot became free; a slot became ready
    uint64_t next_fill, next_take; // numbers of microbatches
    bool stopping;
};

static size_t stride_of(const LsLoaderOptions *options)
{
    return options->lane_stride ? options->lane_stride : 1;
}

// First stream position of microbatch `number`, counted over this rank's (step, lane, part).
static uint64_t first_position(const LsLoader *loader, uint64_t number)
{
    const LsLoaderOptions *o = &loader->options;
    uint64_t part = number % o->accumulation;
    uint64_t lane = number / o->accumulation % o->lane_count * stride_of(o) + o->first_lane;
    uint64_t step = number / (o->accumulation * o->lane_count);
    return o->cursor + step * o->batch + lane * (o->batch / o->lanes) + part * loader->rows;
}

// A sample whose part is taken before it has its size.
static LsStatus read_part(
    Worker *worker, uint64_t sample, uint64_t position, bool partner, uint8_t *x, uint8_t *y)
{
    LsImage image = {0};
    LS_TRY(ls_reader_read(worker->reader, &sample, 1, NULL, y));
    LS_TRY(ls_reader_image(worker->reader, sample, &image));
    LsStatus status = ls_augmenter_take_part(worker->augmenter, position, partner, &image, x);
    free(image.pixels);
    return status;
}

static bool takes_parts(const Worker *worker)
{
    return worker->augmenter != NULL && ls_augmenter_takes_parts(worker->augmenter);
}

static LsStatus read_partner(Worker *worker, uint64_t sample, uint64_t position)
{
    if (takes_parts(worker))
        return read_part(worker, sample, position, true, worker->partner_x, worker->partner_y);
    return ls_reader_read(worker->reader, &sample, 1, worker->partner_x, worker->partner_y);
}

// Each image as its position makes it, whichever rank and worker it is that reads it.
static LsStatus augment(Worker *worker, const LsDatasetInfo *info, const LsHostBatch *batch)
{
    size_t y_bytes = ls_dataset_y_bytes(info);
    for (size_t i = 0; i < batch->rows; i++) {
        uint64_t position = batch->positions[i];
        uint8_t *x = (uint8_t *)batch->x + i * info->features, *y = (uint8_t *)batch->y + i * y_bytes;
        ls_augmenter_apply(worker->augmenter, position, x);
        if (worker->partner_x == NULL)
            continue;
        uint64_t partner = ls_augmenter_partner(worker->augmenter, position, info->samples[LS_TRAIN]);
        LS_TRY(read_partner(worker, partner, position));
        ls_augmenter_mix(worker->augmenter, position, worker->partner_x, worker->partner_y, x, y);
    }
    return LS_OK;
}

static LsStatus read_samples(Worker *worker, const LsDatasetInfo *info, const Slot *slot)
{
    const LsHostBatch *batch = &slot->batch;
    if (ls_dataset_tokens(info))
        return ls_reader_read_windows(worker->reader, slot->samples, batch->rows, batch->x, batch->y);
    if (!takes_parts(worker))
        return ls_reader_read(worker->reader, slot->samples, batch->rows, batch->x, batch->y);
    size_t y_bytes = ls_dataset_y_bytes(info);
    for (size_t i = 0; i < batch->rows; i++)
        LS_TRY(read_part(worker, slot->samples[i], batch->positions[i], false,
            (uint8_t *)batch->x + i * info->features, (uint8_t *)batch->y + i * y_bytes));
    return LS_OK;
}

static LsStatus fill_slot(Worker *worker, Slot *slot, uint64_t number)
{
    const LsLoader *loader = worker->loader;
    const LsDatasetInfo *info = &loader->dataset->info;
    bool tokens = ls_dataset_tokens(info);
    uint64_t first = first_position(loader, number), seed = loader->options.seed;
    for (size_t i = 0; i < loader->rows; i++) {
        slot->batch.positions[i] = first + i;
        slot->samples[i] = tokens
                               ? ls_stream_window(seed, info->token_counts[LS_TRAIN], info->window, first + i)
                               : ls_stream_sample(seed, info->samples[LS_TRAIN], first + i);
    }
    LS_TRY(read_samples(worker, info, slot));
    return worker->augmenter != NULL ? augment(worker, info, &slot->batch) : LS_OK;
}

static void *work(void *argument)
{
    Worker *worker = argument;
    LsLoader *loader = worker->loader;
    ls_thread_unbind();
    pthread_mutex_lock(&loader->lock);
    for (;;) {
        Slot *slot;
        while (slot = &loader->slots[loader->next_fill % loader->slot_count],
            !loader->stopping && slot->state != SLOT_FREE)
            pthread_cond_wait(&loader->freed, &loader->lock);
        if (loader->stopping)
            break;
        uint64_t number = loader->next_fill++;
        slot->state = SLOT_FILLING;
        pthread_mutex_unlock(&loader->lock);
        LsStatus status = fill_slot(worker, slot, number);
        pthread_mutex_lock(&loader->lock);
        slot->status = status;
        if (status != LS_OK)
            snprintf(slot->message, sizeof slot->message, "%s", ls_status_message());
        slot->state = SLOT_READY;
        pthread_cond_signal(&loader->ready);
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

static LsStatus host_allocate(void *context, size_t bytes, void **out)
{
    (void)context;
    return ls_memory_allocate(bytes, out);
}

static void host_release(void *context, void *memory)
{
    (void)context;
    free(memory);
}

static LsStatus check_options(const LsDataset *dataset, const LsLoaderOptions *o)
{
    if (o->lanes == 0 || o->accumulation == 0 || o->lane_count == 0 || o->first_lane >= o->lanes ||
        o->lane_count > (o->lanes - o->first_lane - 1) / stride_of(o) + 1)
        return LS_FAIL(LS_CONFIG,
            "loader: %zu lanes from %zu of %zu with %zu microbatches each are impossible", o->lane_count,
            o->first_lane, o->lanes, o->accumulation);
    size_t parts;
    if (o->batch == 0 || !ls_size_multiply(o->lanes, o->accumulation, &parts) || o->batch % parts != 0)
        return LS_FAIL(LS_CONFIG,
            "train.batch %zu does not divide into train.lanes %zu x train.accumulation %zu; choose a "
            "multiple",
            o->batch, o->lanes, o->accumulation);
    if (o->workers < 1 || o->workers > WORKERS_LIMIT || o->prefetch < 1 || o->prefetch >= SLOTS_LIMIT)
        return LS_FAIL(LS_CONFIG, "data.workers %d must be 1 to %d and data.prefetch %d 1 to %d", o->workers,
            WORKERS_LIMIT, o->prefetch, SLOTS_LIMIT - 1);
    if (o->cursor > UINT64_MAX / 2)
        return LS_FAIL(LS_CONFIG, "loader: the cursor %llu is impossible", (unsigned long long)o->cursor);
    if (dataset->info.samples[LS_TRAIN] == 0)
        return LS_FAIL(LS_BAD_DATA, "%s has no training samples", dataset->path);
    return ls_augmentation_check(&o->augmentation, &dataset->info);
}

static LsStatus allocate_slot(LsLoader *loader, Slot *slot)
{
    const LsHostMemory *memory = &loader->options.memory;
    const LsDatasetInfo *info = &loader->dataset->info;
    size_t x_bytes, y_bytes, index_bytes;
    if (!ls_size_multiply(loader->rows, ls_dataset_x_bytes(info), &x_bytes) ||
        !ls_size_multiply(loader->rows, ls_dataset_y_bytes(info), &y_bytes) ||
        !ls_size_multiply(loader->rows, sizeof(uint64_t), &index_bytes))
        return LS_FAIL(LS_CONFIG, "a microbatch of %zu rows does not fit memory; make train.batch smaller",
            loader->rows);
    slot->batch.rows = loader->rows;
    LS_TRY(memory->allocate(memory->context, x_bytes, &slot->batch.x));
    LS_TRY(memory->allocate(memory->context, y_bytes, &slot->batch.y));
    LS_TRY(ls_memory_allocate(index_bytes, (void **)&slot->batch.positions));
    return ls_memory_allocate(index_bytes, (void **)&slot->samples);
}

static void release_slot(LsLoader *loader, Slot *slot)
{
    const LsHostMemory *memory = &loader->options.memory;
    if (slot->batch.x != NULL)
        memory->release(memory->context, slot->batch.x);
    if (slot->batch.y != NULL)
        memory->release(memory->context, slot->batch.y);
    free(slot->batch.positions);
    free(slot->samples);
}

// What a worker needs, before it has a thread.
static LsStatus equip_worker(LsLoader *loader, Worker *worker)
{
    const LsAugmentation *augmentation = &loader->options.augmentation;
    worker->loader = loader;
    LS_TRY(ls_reader_create(loader->dataset, LS_TRAIN, &worker->reader));
    if (!ls_augmentation_any(augmentation))
        return LS_OK;
    const LsDatasetInfo *info = &loader->dataset->info;
    LS_TRY(ls_augmenter_create(augmentation, info, loader->options.seed, &worker->augmenter));
    if (augmentation->mixup == 0)
        return LS_OK;
    LS_TRY(ls_memory_allocate(ls_dataset_x_bytes(info), &worker->partner_x));
    return ls_memory_allocate(ls_dataset_y_bytes(info), &worker->partner_y);
}

static void strip_worker(Worker *worker)
{
    free(worker->partner_x);
    free(worker->partner_y);
    ls_augmenter_destroy(worker->augmenter);
    ls_reader_destroy(worker->reader);
}

// Signals are for the threads of the program: a handler never runs on a worker.
static LsStatus start_workers(LsLoader *loader)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    LsStatus status = LS_OK;
    for (int i = 0; status == LS_OK && i < loader->options.workers; i++) {
        Worker *worker = &loader->workers[i];
        status = equip_worker(loader, worker);
        int error = status == LS_OK ? pthread_create(&worker->thread, NULL, work, worker) : 0;
        if (error != 0)
            status = LS_FAIL(LS_INTERNAL, "cannot start loader thread %d: %s", i, strerror(error));
        worker->running = status == LS_OK;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

LsStatus ls_loader_create(const LsDataset *dataset, const LsLoaderOptions *options, LsLoader **out)
{
    LS_TRY(check_options(dataset, options));
    LsLoader *loader = calloc(1, sizeof *loader);
    if (loader == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", dataset->path);
    loader->dataset = dataset;
    loader->options = *options;
    if (options->memory.allocate == NULL)
        loader->options.memory = (LsHostMemory){host_allocate, host_release, NULL};
    loader->rows = options->batch / options->lanes / options->accumulation;
    loader->slot_count = (size_t)options->prefetch + 1; // those ahead, and the one in use
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->freed, NULL);
    pthread_cond_init(&loader->ready, NULL);
    loader->slots = calloc(loader->slot_count, sizeof *loader->slots);
    loader->workers = calloc((size_t)options->workers, sizeof *loader->workers);
    LsStatus status = LS_OK;
    if (loader->slots == NULL || loader->workers == NULL)
        status = LS_FAIL(LS_INTERNAL, "%s: out of memory", dataset->path);
    for (size_t i = 0; status == LS_OK && i < loader->slot_count; i++)
        status = allocate_slot(loader, &loader->slots[i]);
    if (status == LS_OK)
        status = start_workers(loader);
    if (status != LS_OK) {
        ls_loader_destroy(loader);
        return status;
    }
    *out = loader;
    return LS_OK;
}

void ls_loader_destroy(LsLoader *loader)
{
    if (loader == NULL)
        return;
    pthread_mutex_lock(&loader->lock);
    loader->stopping = true;
    pthread_cond_broadcast(&loader->freed);
    pthread_mutex_unlock(&loader->lock);
    for (int i = 0; loader->workers != NULL && i < loader->options.workers; i++) {
        if (loader->workers[i].running)
            pthread_join(loader->workers[i].thread, NULL);
        strip_worker(&loader->workers[i]);
    }
    for (size_t i = 0; loader->slots != NULL && i < loader->slot_count; i++)
        release_slot(loader, &loader->slots[i]);
    pthread_cond_destroy(&loader->ready);
    pthread_cond_destroy(&loader->freed);
    pthread_mutex_destroy(&loader->lock);
    free(loader->slots);
    free(loader->workers);
    free(loader);
}

LsStatus ls_loader_next(LsLoader *loader, const LsHostBatch **out, double *waited)
{
    pthread_mutex_lock(&loader->lock);
    Slot *slot = &loader->slots[loader->next_take % loader->slot_count];
    if (slot->state == SLOT_TAKEN) {
        pthread_mutex_unlock(&loader->lock);
        return LS_FAIL(LS_INTERNAL, "loader: all %zu microbatches are in use; return one before the next",
            loader->slot_count);
    }
    if (slot->state != SLOT_READY) {
        double start = ls_clock_seconds();
        while (slot->state != SLOT_READY)
            pthread_cond_wait(&loader->ready, &loader->lock);
        if (waited != NULL)
            *waited += ls_clock_seconds() - start;
    }
    // A failed slot stays where it is, so that asking again gives the same answer.
    LsStatus status = slot->status;
    if (status == LS_OK) {
        slot->state = SLOT_TAKEN;
        loader->next_take++;
    }
    pthread_mutex_unlock(&loader->lock);
    if (status != LS_OK)
        return ls_status_adopt(status, slot->message);
    *out = &slot->batch;
    return LS_OK;
}

void ls_loader_return(LsLoader *loader, const LsHostBatch *batch)
{
    Slot *slot = (Slot *)((char *)batch - offsetof(Slot, batch));
    pthread_mutex_lock(&loader->lock);
    slot->state = SLOT_FREE;
    pthread_cond_broadcast(&loader->freed);
    pthread_mutex_unlock(&loader->lock);
}

// ---- Any lane -------------------------------------------------------------------------------------------

// A loader with one slot and without workers.
struct LsLaneReader {
    LsLoader loader;
    Worker worker;
    Slot slot;
};

LsStatus ls_lane_reader_create(const LsDataset *dataset, const LsLoaderOptions *options, LsLaneReader **out)
{
    LsLaneReader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", dataset->path);
    LsLoader *loader = &reader->loader;
    loader->dataset = dataset;
    loader->options = *options;
    loader->options.first_lane = 0;
    loader->options.lane_count = options->lanes;
    loader->options.lane_stride = 1;
    loader->options.workers = loader->options.prefetch = 1;
    if (options->memory.allocate == NULL)
        loader->options.memory = (LsHostMemory){host_allocate, host_release, NULL};
    LsStatus status = check_options(dataset, &loader->options);
    if (status == LS_OK) {
        loader->rows = options->batch / options->lanes / options->accumulation;
        status = equip_worker(loader, &reader->worker);
    }
    if (status == LS_OK)
        status = allocate_slot(loader, &reader->slot);
    if (status != LS_OK) {
        ls_lane_reader_destroy(reader);
        return status;
    }
    *out = reader;
    return LS_OK;
}

void ls_lane_reader_destroy(LsLaneReader *reader)
{
    if (reader == NULL)
        return;
    release_slot(&reader->loader, &reader->slot);
    strip_worker(&reader->worker);
    free(reader);
}

LsStatus ls_lane_reader_read(
    LsLaneReader *reader, uint64_t cursor, size_t lane, size_t part, const LsHostBatch **out)
{
    LsLoader *loader = &reader->loader;
    loader->options.cursor = cursor;
    LS_TRY(fill_slot(&reader->worker, &reader->slot, (uint64_t)lane * loader->options.accumulation + part));
    *out = &reader->slot.batch;
    return LS_OK;
}
