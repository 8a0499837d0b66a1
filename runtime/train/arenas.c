#include "arenas.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoint_file.h"

enum {
    PIECE_BLOCKS = 256, // 4 MiB: the largest piece of a copy that two threads share
};

static size_t moments_of(const LsConfig *config)
{
    if (config->optimizer.kind == LS_OPTIMIZER_ADAMW)
        return 2;
    return config->optimizer.momentum > 0 ? 1 : 0;
}

static bool averages(const LsConfig *config)
{
    return config->optimizer.average > 0;
}

static size_t arrays_of(const LsConfig *config)
{
    return 1 + moments_of(config) + averages(config);
}

// The group of state array a.
static const char *group_name(const LsArenas *arenas, size_t a)
{
    static const char *const moments[] = {"optimizer/moment1", "optimizer/moment2"};
    return a == 0 ? LS_GROUP_PARAMETERS : a <= arenas->moments ? moments[a - 1] : LS_GROUP_AVERAGE;
}

size_t ls_arenas_slots(const LsConfig *config, const LsPlan *plan)
{
    return config->collectives.reduction == LS_REDUCTION_FAST ? 1 : plan->lane_slots;
}

static bool holds_whole_state(const LsConfig *config)
{
    return config->optimizer.shard == LS_SHARD_NONE;
}

// Cuts the shard of `rank` into runs; returns their number. run NULL: only counts, and *trained becomes the
// number of blocks that are trained.
static size_t cut_shard(const LsParameters *parameters, const LsBuckets *buckets, uint32_t ranks,
    uint32_t rank, bool whole, LsShardRun *run, size_t *trained)
{
    LsShardRun current = {0};
    size_t runs = 0, packed = 0;
    *trained = 0;
    for (size_t b = 0; b < buckets->count; b++) {
        LsBlockRange piece = ls_bucket_piece(buckets, b, ranks, rank);
        size_t end = piece.first + piece.count;
        for (size_t block = piece.first, count; block < end; block += count, packed += count) {
            LsBlockRun tensor = ls_block_run(parameters, block, end);
            bool frozen = parameters->list[tensor.index].frozen;
            count = tensor.count;
            if (block == piece.first || frozen != current.frozen) {
                current = (LsShardRun){.flat = block,
                    .packed = packed,
                    .master = whole ? block : packed,
                    .moments = whole ? block : *trained,
                    .frozen = frozen};
                runs++;
            }
            current.count += count;
            *trained += frozen ? 0 : count;
            if (run)
                run[runs - 1] = current;
        }
    }
    return runs;
}

// Sums of a shard; the sharder has rounded ones itself, but for the total.
static size_t sums_of(const LsConfig *config, const LsCut *cut)
{
    return cut->rounds->rounds > 0 && ls_cut_rounded(config) ? 1 : cut->rounds->sums;
}

// Subtrees whose sums travel as BF16; one rank alone sends nothing.
static size_t rounded_of(const LsConfig *config, const LsCut *cut)
{
    bool travels = cut->rounds->rounds == 0 && cut->plan->ranks > 1;
    return travels && ls_cut_rounded(config) ? cut->plan->share.subtrees : 0;
}

static size_t gradient_bytes(const LsConfig *config, size_t whole, size_t shard, const LsCut *cut)
{
    if (cut->rounds->rounds > 0)
        return cut->window->blocks * LS_BLOCK * sizeof(float) + shard * sums_of(config, cut);
    return whole * sizeof(float) * ls_arenas_slots(config, cut->plan) +
           whole * ls_dtype_size(LS_BF16) * rounded_of(config, cut);
}

LsArenaBytes ls_arenas_bytes(
    const LsConfig *config, LsDtype type, const LsParameters *parameters, const LsCut *cut)
{
    const LsPlan *plan = cut->plan;
    const LsBuckets *buckets = cut->buckets;
    size_t whole = parameters->blocks * LS_BLOCK, trained;
    size_t shard_blocks = ls_shard_blocks(buckets, plan->ranks, plan->rank);
    size_t shard = shard_blocks * LS_BLOCK * sizeof(float);
    cut_shard(parameters, buckets, plan->ranks, plan->rank, false, NULL, &trained);
    size_t masters = holds_whole_state(config) ? parameters->blocks : shard_blocks;
    size_t moments = holds_whole_state(config) ? parameters->blocks : trained;
    size_t block = LS_BLOCK * sizeof(float), copies = (type != LS_F32) + averages(config);
    return (LsArenaBytes){
        .weights = whole * ls_dtype_size(type),
        .gradients = gradient_bytes(config, whole, shard, cut),
        .optimizer = moments * block * moments_of(config) + masters * block * copies + masters,
        .host = (shard + LS_PAGE) * arrays_of(config) * (size_t)config->checkpoint.in_flight,
    };
}

// This rank's alone. One without a single block of its own still gets a pointer.
static LsStatus allocate_own(LsArenas *arenas, size_t bytes, void **out)
{
    return ls_device_allocate_zeroed(arenas->device, bytes ? bytes : 1, out);
}

static LsStatus allocate_gradients(LsArenas *arenas, const LsWindow *window)
{
    size_t blocks = arenas->sums > 0 ? window->blocks : arenas->parameters->blocks;
    for (size_t s = 0; s < arenas->slots; s++) {
        void *slot = NULL;
        LS_TRY(ls_comm_allocate(arenas->comm, blocks * LS_BLOCK * sizeof(float), &slot));
        arenas->gradient[s] = slot;
    }
    for (size_t s = 0; s < arenas->subtrees; s++) {
        void *rounded = NULL;
        LS_TRY(ls_comm_allocate(arenas->comm, blocks * LS_BLOCK * sizeof **arenas->rounded, &rounded));
        arenas->rounded[s] = rounded;
    }
    for (size_t s = 0; s < arenas->sums; s++) {
        void *sum = NULL;
        LS_TRY(allocate_own(arenas, arenas->shard_blocks * LS_BLOCK * sizeof(float), &sum));
        arenas->sum[s] = sum;
    }
    return LS_OK;
}

static LsStatus allocate_runs(LsArenas *arenas, size_t *trained)
{
    const LsParameters *parameters = arenas->parameters;
    const LsBuckets *buckets = arenas->buckets;
    uint32_t ranks = arenas->ranks, rank = arenas->rank;
    arenas->runs = cut_shard(parameters, buckets, ranks, rank, arenas->whole, NULL, trained);
    LS_TRY(ls_memory_allocate((arenas->runs + 1) * sizeof *arenas->run, (void **)&arenas->run));
    cut_shard(parameters, buckets, ranks, rank, arenas->whole, arenas->run, trained);
    arenas->updates = arenas->runs;
    arenas->update = arenas->run;
    if (!arenas->whole)
        return LS_OK;
    arenas->update = NULL;
    arenas->updates = cut_shard(parameters, buckets, 1, 0, true, NULL, trained);
    LS_TRY(ls_memory_allocate(arenas->updates * sizeof *arenas->update, (void **)&arenas->update));
    cut_shard(parameters, buckets, 1, 0, true, arenas->update, trained);
    *trained = parameters->blocks;
    return LS_OK;
}

static LsStatus allocate_sets(LsArenas *arenas, size_t bytes)
{
    for (size_t s = 0; s < arenas->sets; s++)
        for (size_t a = 0; a < arenas->arrays; a++) {
            LS_TRY(arenas->device->ops->allocate_host(arenas->device, bytes + LS_PAGE, &arenas->host[s][a]));
            char *memory = arenas->host[s][a];
            memory += (LS_PAGE - (uintptr_t)memory % LS_PAGE) % LS_PAGE; // written past the page cache
            memset(memory, 0, bytes);
            arenas->set[s][a] =
                (LsStateArray){.group = group_name(arenas, a), .shard = (float *)(void *)memory};
        }
    memcpy(arenas->array, arenas->set[0], sizeof arenas->array);
    return LS_OK;
}

static LsStatus allocate_state(LsArenas *arenas, bool average)
{
    size_t trained;
    LS_TRY(allocate_runs(arenas, &trained));
    size_t masters = arenas->whole ? arenas->parameters->blocks : arenas->shard_blocks;
    void *memory = NULL;
    if (arenas->type != LS_F32) {
        LS_TRY(allocate_own(arenas, masters * LS_BLOCK * sizeof(float), &memory));
        arenas->master = memory;
    }
    for (size_t m = 0; m < arenas->moments; m++) {
        LS_TRY(allocate_own(arenas, trained * LS_BLOCK * sizeof(float), &memory));
        arenas->moment[m] = memory;
    }
    if (average) {
        LS_TRY(allocate_own(arenas, masters * LS_BLOCK * sizeof(float), &memory));
        arenas->average = memory;
    }
    arenas->arrays = 1 + arenas->moments + average;
    LS_TRY(allocate_sets(arenas, arenas->shard_blocks * LS_BLOCK * sizeof(float)));
    LS_TRY(allocate_own(arenas, masters, &memory));
    arenas->kind = memory;
    return LS_OK;
}

// The kinds of the blocks that are updated here.
static LsStatus upload_kinds(LsArenas *arenas)
{
    uint8_t *whole = NULL;
    LS_TRY(ls_memory_allocate(arenas->parameters->blocks, (void **)&whole));
    ls_parameters_block_kinds(arenas->parameters, whole);
    LsStatus status = LS_OK;
    for (size_t u = 0; u < arenas->updates && status == LS_OK; u++) {
        const LsShardRun *run = &arenas->update[u];
        status = arenas->device->ops->copy_in(
            arenas->device, arenas->kind + run->master, whole + run->flat, run->count);
    }
    if (status == LS_OK)
        status = arenas->device->ops->synchronize(arenas->device);
    free(whole);
    return status;
}

// The pieces of one run and array, in every set; NULL pieces only count.
static void cut_piece(LsArenas *arenas, const float *from, size_t a, size_t packed, size_t blocks, bool count)
{
    for (size_t done = 0; done < blocks; done += PIECE_BLOCKS, arenas->pieces++) {
        size_t left = blocks - done, size = left < PIECE_BLOCKS ? left : PIECE_BLOCKS;
        for (size_t s = 0; s < arenas->sets && !count; s++)
            arenas->piece[s][arenas->pieces] = (LsCopyPiece){.from = from + done * LS_BLOCK,
                .to = arenas->set[s][a].shard + (packed + done) * LS_BLOCK,
                .elements = size * LS_BLOCK};
    }
}

// Where run r of each state array is; NULL: of frozen weights' moments.
static void list_arrays(const LsArenas *arenas, size_t r, float *list[LS_STATE_ARRAYS])
{
    LsRunView run = ls_arenas_run(arenas, &arenas->run[r]);
    float *const all[] = {run.master, run.moment1, run.moment2};
    for (size_t a = 0; a <= arenas->moments; a++)
        list[a] = all[a];
    if (arenas->average)
        list[1 + arenas->moments] = run.average;
}

static void cut_all_pieces(LsArenas *arenas, bool count)
{
    arenas->pieces = 0;
    for (size_t r = 0; r < arenas->runs; r++) {
        float *from[LS_STATE_ARRAYS];
        list_arrays(arenas, r, from);
        for (size_t a = 0; a < arenas->arrays; a++)
            if (from[a])
                cut_piece(arenas, from[a], a, arenas->run[r].packed, arenas->run[r].count, count);
    }
}

static LsStatus cut_pieces(LsArenas *arenas)
{
    cut_all_pieces(arenas, true);
    for (size_t s = 0; s < arenas->sets; s++)
        LS_TRY(ls_memory_allocate((arenas->pieces + 1) * sizeof(LsCopyPiece), (void **)&arenas->piece[s]));
    cut_all_pieces(arenas, false);
    return LS_OK;
}

static LsStatus allocate_working(LsArenas *arenas, const LsWindow *window)
{
    size_t bytes = arenas->parameters->blocks * LS_BLOCK * ls_dtype_size(arenas->type);
    // Where every rank updates everything, each needs a copy to write to.
    LS_TRY(arenas->whole ? ls_comm_allocate(arenas->comm, bytes, &arenas->weights)
                         : ls_comm_allocate_common(arenas->comm, bytes, &arenas->weights));
    return allocate_gradients(arenas, window);
}

static LsStatus allocate_all(LsArenas *arenas, const LsWindow *window, bool average)
{
    LS_TRY(allocate_working(arenas, window));
    LS_TRY(allocate_state(arenas, average));
    if (!arenas->device->discrete)
        LS_TRY(cut_pieces(arenas));
    return upload_kinds(arenas);
}

static LsArenas describe(const LsConfig *config, LsComm *comm, LsModel *model, const LsCut *cut)
{
    const LsPlan *plan = cut->plan;
    const LsBuckets *buckets = cut->buckets;
    return (LsArenas){
        .comm = comm,
        .device = model->device,
        .parameters = &model->parameters,
        .buckets = buckets,
        .ranks = plan->ranks,
        .rank = plan->rank,
        .type = ls_device_compute_type(model->device),
        .slots = ls_arenas_slots(config, plan),
        .sets = (size_t)config->checkpoint.in_flight,
        .whole = holds_whole_state(config),
        .moments = moments_of(config),
        .sums = sums_of(config, cut),
        .subtrees = rounded_of(config, cut),
        .shard_blocks = ls_shard_blocks(buckets, plan->ranks, plan->rank),
    };
}

static LsStatus hand_over(LsArenas *arenas, LsStatus status, LsArenas *out)
{
    if (status == LS_OK)
        *out = *arenas;
    else
        ls_arenas_destroy(arenas);
    return status;
}

LsStatus ls_arenas_create(
    const LsConfig *config, LsComm *comm, LsModel *model, const LsCut *cut, LsArenas *out)
{
    LsArenas arenas = describe(config, comm, model, cut);
    return hand_over(&arenas, allocate_all(&arenas, cut->window, averages(config)), out);
}

LsStatus ls_arenas_create_working(
    const LsConfig *config, LsComm *comm, LsModel *model, const LsCut *cut, LsArenas *out)
{
    LsArenas arenas = describe(config, comm, model, cut);
    return hand_over(&arenas, allocate_working(&arenas, cut->window), out);
}

void ls_arenas_destroy(LsArenas *arenas)
{
    if (!arenas->device)
        return;
    for (size_t s = 0; s < arenas->sets; s++) {
        free(arenas->piece[s]);
        for (size_t a = 0; a < arenas->arrays; a++)
            if (arenas->host[s][a])
                arenas->device->ops->release_host(arenas->device, arenas->host[s][a]);
    }
    void *own[] = {arenas->kind, arenas->average, arenas->moment[1], arenas->moment[0], arenas->master};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        arenas->device->ops->release(arenas->device, own[i]);
    for (size_t s = arenas->sums; s-- > 0;)
        arenas->device->ops->release(arenas->device, arenas->sum[s]);
    for (size_t s = arenas->subtrees; s-- > 0;)
        ls_comm_release(arenas->comm, arenas->rounded[s]);
    for (size_t s = arenas->slots; s-- > 0;)
        ls_comm_release(arenas->comm, arenas->gradient[s]);
    ls_comm_release(arenas->comm, arenas->weights);
    if (arenas->update != arenas->run)
        free(arenas->update);
    free(arenas->run);
    memset(arenas, 0, sizeof *arenas);
}

LsRunView ls_arenas_run(const LsArenas *arenas, const LsShardRun *run)
{
    size_t flat = run->flat * LS_BLOCK, master = run->master * LS_BLOCK, moments = run->moments * LS_BLOCK;
    char *weights = (char *)arenas->weights + flat * ls_dtype_size(arenas->type);
    return (LsRunView){
        .elements = run->count * LS_BLOCK,
        .master = arenas->master ? arenas->master + master : (float *)(void *)weights,
        .gradient = arenas->sums > 0 ? arenas->sum[0] + run->packed * LS_BLOCK : arenas->gradient[0] + flat,
        .moment1 = arenas->moment[0] && !run->frozen ? arenas->moment[0] + moments : NULL,
        .moment2 = arenas->moment[1] && !run->frozen ? arenas->moment[1] + moments : NULL,
        .average = arenas->average ? arenas->average + master : NULL,
        .weights = arenas->master ? weights : NULL,
        .kind = arenas->kind + run->master,
    };
}

LsStatus ls_arenas_snapshot(LsArenas *arenas, size_t set)
{
    LsDevice *device = arenas->device;
    for (size_t r = 0; r < arenas->runs; r++) {
        float *from[LS_STATE_ARRAYS];
        list_arrays(arenas, r, from);
        for (size_t a = 0; a < arenas->arrays; a++)
            if (from[a])
                LS_TRY(device->ops->copy_out(device,
                    arenas->set[set][a].shard + arenas->run[r].packed * LS_BLOCK, from[a],
                    arenas->run[r].count * LS_BLOCK * sizeof(float)));
    }
    return LS_OK;
}

static LsStatus restore_run(LsArenas *arenas, size_t r)
{
    LsDevice *device = arenas->device;
    LsRunView run = ls_arenas_run(arenas, &arenas->run[r]);
    float *to[LS_STATE_ARRAYS];
    list_arrays(arenas, r, to);
    for (size_t a = 0; a < arenas->arrays; a++)
        if (to[a])
            LS_TRY(device->ops->copy_in(device, to[a],
                arenas->array[a].shard + arenas->run[r].packed * LS_BLOCK, run.elements * sizeof(float)));
    if (!run.weights)
        return LS_OK;
    return device->ops->cast(device, &(LsCast){.n = run.elements,
                                         .from = run.master,
                                         .from_type = LS_F32,
                                         .to = run.weights,
                                         .to_type = arenas->type});
}

LsStatus ls_arenas_restore(LsArenas *arenas)
{
    LsDevice *device = arenas->device;
    LS_TRY(ls_comm_barrier(arenas->comm)); // nobody computes with the weights any more
    for (size_t r = 0; r < arenas->runs; r++)
        LS_TRY(restore_run(arenas, r));
    LS_TRY(device->ops->synchronize(device));
    for (size_t s = 1; s < arenas->sets; s++)
        for (size_t a = 0; a < arenas->arrays; a++)
            memcpy(arenas->set[s][a].shard, arenas->array[a].shard,
                arenas->shard_blocks * LS_BLOCK * sizeof(float));
    LS_TRY(
        ls_comm_gather_shards(arenas->comm, arenas->buckets, arenas->weights, ls_dtype_size(arenas->type)));
    if (!arenas->whole)
        return LS_OK;
    float *others[] = {arenas->master, arenas->moment[0], arenas->moment[1], arenas->average};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (others[i])
            LS_TRY(ls_comm_gather_shards(arenas->comm, arenas->buckets, others[i], sizeof(float)));
    return LS_OK;
}
