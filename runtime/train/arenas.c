#include "arenas.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static const char *const group_names[LS_STATE_ARRAYS] = {
    "parameters", "optimizer/moment1", "optimizer/moment2"};

static size_t moments_of(const LsConfig *config)
{
    if (config->optimizer.kind == LS_OPTIMIZER_ADAMW)
        return 2;
    return config->optimizer.momentum > 0 ? 1 : 0;
}

size_t ls_arenas_slots(const LsConfig *config, const LsPlan *plan)
{
    return config->collectives.reduction == LS_REDUCTION_FAST ? 1 : plan->lane_slots;
}

LsArenaBytes ls_arenas_bytes(const LsConfig *config, LsDtype type, const LsParameters *parameters,
    const LsBuckets *buckets, const LsPlan *plan)
{
    size_t whole = parameters->blocks * LS_BLOCK;
    size_t shard_blocks = ls_shard_blocks(buckets, plan->ranks, plan->rank);
    size_t shard = shard_blocks * LS_BLOCK * sizeof(float);
    size_t moments = moments_of(config);
    return (LsArenaBytes){
        .weights = whole * ls_dtype_size(type),
        .gradients = whole * sizeof(float) * ls_arenas_slots(config, plan),
        .optimizer = shard * (moments + (type == LS_F32 ? 0 : 1)) + shard_blocks,
        .host = shard * (moments + 1),
    };
}

static LsStatus allocate_zeroed(LsArenas *arenas, size_t bytes, void **out)
{
    if (bytes == 0)
        bytes = 1; // a rank without a single block of its own still gets a pointer
    return ls_comm_allocate(arenas->comm, bytes, out);
}

static LsStatus allocate_whole_model(LsArenas *arenas)
{
    size_t elements = arenas->parameters->blocks * LS_BLOCK;
    LS_TRY(allocate_zeroed(arenas, elements * ls_dtype_size(arenas->type), &arenas->weights));
    for (size_t s = 0; s < arenas->slots; s++) {
        void *slot = NULL;
        LS_TRY(allocate_zeroed(arenas, elements * sizeof(float), &slot));
        arenas->gradient[s] = slot;
    }
    return LS_OK;
}

static LsStatus allocate_shard(LsArenas *arenas, size_t moments)
{
    size_t bytes = arenas->shard_blocks * LS_BLOCK * sizeof(float);
    void *memory = NULL;
    if (arenas->type != LS_F32) {
        LS_TRY(allocate_zeroed(arenas, bytes, &memory));
        arenas->master = memory;
    }
    for (size_t m = 0; m < moments; m++) {
        LS_TRY(allocate_zeroed(arenas, bytes, &memory));
        arenas->moment[m] = memory;
    }
    arenas->arrays = 1 + moments;
    for (size_t a = 0; a < arenas->arrays; a++) {
        LS_TRY(arenas->device->ops->allocate_host(arenas->device, bytes ? bytes : 1, &memory));
        memset(memory, 0, bytes ? bytes : 1); // touched now, so that no page is made during a save
        arenas->array[a] = (LsStateArray){.group = group_names[a], .shard = memory};
    }
    LS_TRY(allocate_zeroed(arenas, arenas->shard_blocks, &memory));
    arenas->decay = memory;
    return LS_OK;
}

// Packs the decay flags of this rank's blocks.
static LsStatus upload_decay(LsArenas *arenas)
{
    uint8_t *whole = NULL;
    LS_TRY(ls_memory_allocate(arenas->parameters->blocks, (void **)&whole));
    ls_parameters_block_decay(arenas->parameters, whole);
    LsStatus status = LS_OK;
    for (size_t b = 0; b < arenas->buckets->count && status == LS_OK; b++) {
        LsBlockRange piece = ls_bucket_piece(arenas->buckets, b, arenas->ranks, arenas->rank);
        size_t place = ls_shard_offset(arenas->buckets, b, arenas->ranks, arenas->rank);
        status = arenas->device->ops->copy_in(
            arenas->device, arenas->decay + place, whole + piece.first, piece.count);
    }
    if (status == LS_OK)
        status = arenas->device->ops->synchronize(arenas->device);
    free(whole);
    return status;
}

static LsStatus allocate_all(LsArenas *arenas, size_t moments)
{
    LS_TRY(allocate_whole_model(arenas));
    LS_TRY(allocate_shard(arenas, moments));
    return upload_decay(arenas);
}

LsStatus ls_arenas_create(const LsConfig *config, LsComm *comm, LsModel *model, const LsBuckets *buckets,
    const LsPlan *plan, LsArenas *out)
{
    LsArenas arenas = {
        .comm = comm,
        .device = model->device,
        .parameters = &model->parameters,
        .buckets = buckets,
        .ranks = plan->ranks,
        .rank = plan->rank,
        .type = ls_device_compute_type(model->device),
        .slots = ls_arenas_slots(config, plan),
        .shard_blocks = ls_shard_blocks(buckets, plan->ranks, plan->rank),
    };
    LsStatus status = allocate_all(&arenas, moments_of(config));
    if (status != LS_OK) {
        ls_arenas_destroy(&arenas);
        return status;
    }
    *out = arenas;
    return LS_OK;
}

void ls_arenas_destroy(LsArenas *arenas)
{
    if (!arenas->device)
        return;
    for (size_t a = 0; a < arenas->arrays; a++)
        if (arenas->array[a].shard)
            arenas->device->ops->release_host(arenas->device, arenas->array[a].shard);
    void *device_memory[] = {arenas->decay, arenas->moment[1], arenas->moment[0], arenas->master};
    for (size_t i = 0; i < sizeof device_memory / sizeof *device_memory; i++)
        if (device_memory[i])
            ls_comm_release(arenas->comm, device_memory[i]);
    for (size_t s = arenas->slots; s-- > 0;)
        if (arenas->gradient[s])
            ls_comm_release(arenas->comm, arenas->gradient[s]);
    if (arenas->weights)
        ls_comm_release(arenas->comm, arenas->weights);
    memset(arenas, 0, sizeof *arenas);
}

LsPieceView ls_arenas_piece(const LsArenas *arenas, size_t b)
{
    LsBlockRange piece = ls_bucket_piece(arenas->buckets, b, arenas->ranks, arenas->rank);
    size_t place = ls_shard_offset(arenas->buckets, b, arenas->ranks, arenas->rank);
    size_t flat = piece.first * LS_BLOCK, packed = place * LS_BLOCK;
    char *weights = (char *)arenas->weights + flat * ls_dtype_size(arenas->type);
    return (LsPieceView){
        .elements = piece.count * LS_BLOCK,
        .master = arenas->master ? arenas->master + packed : (float *)(void *)weights,
        .gradient = arenas->gradient[0] + flat,
        .moment1 = arenas->moment[0] ? arenas->moment[0] + packed : NULL,
        .moment2 = arenas->moment[1] ? arenas->moment[1] + packed : NULL,
        .weights = arenas->master ? weights : NULL,
        .decay = arenas->decay + place,
    };
}

LsStatus ls_arenas_snapshot(LsArenas *arenas)
{
    LsDevice *device = arenas->device;
    for (size_t b = 0; b < arenas->buckets->count; b++) {
        LsPieceView piece = ls_arenas_piece(arenas, b);
        size_t place = ls_shard_offset(arenas->buckets, b, arenas->ranks, arenas->rank) * LS_BLOCK;
        const float *from[LS_STATE_ARRAYS] = {piece.master, piece.moment1, piece.moment2};
        for (size_t a = 0; a < arenas->arrays; a++)
            LS_TRY(device->ops->copy_out(
                device, arenas->array[a].shard + place, from[a], piece.elements * sizeof(float)));
    }
    return device->ops->synchronize(device);
}

LsStatus ls_arenas_restore(LsArenas *arenas)
{
    LsDevice *device = arenas->device;
    for (size_t b = 0; b < arenas->buckets->count; b++) {
        LsPieceView piece = ls_arenas_piece(arenas, b);
        size_t place = ls_shard_offset(arenas->buckets, b, arenas->ranks, arenas->rank) * LS_BLOCK;
        float *to[LS_STATE_ARRAYS] = {piece.master, piece.moment1, piece.moment2};
        for (size_t a = 0; a < arenas->arrays; a++)
            LS_TRY(device->ops->copy_in(
                device, to[a], arenas->array[a].shard + place, piece.elements * sizeof(float)));
        if (piece.weights)
            LS_TRY(device->ops->cast(device, &(LsCast){.n = piece.elements,
                                                 .from = piece.master,
                                                 .from_type = LS_F32,
                                                 .to = piece.weights,
                                                 .to_type = arenas->type}));
    }
    LS_TRY(device->ops->synchronize(device));
    return ls_comm_gather_shards(arenas->comm, arenas->buckets, arenas->weights, ls_dtype_size(arenas->type));
}
