// The averaged weights in the place of the weights, and back.
#include "arenas.h"

// The run's weights, or in FP32 its masters, which they are.
static LsStatus put(LsArenas *arenas, const LsRunView *run, const float *from)
{
    LsDevice *device = arenas->device;
    if (!run->weights)
        return device->ops->copy(device, run->master, from, run->elements * sizeof *from);
    return device->ops->cast(device, &(LsCast){.n = run->elements,
                                         .from = from,
                                         .from_type = LS_F32,
                                         .to = run->weights,
                                         .to_type = arenas->type});
}

// Where every rank has everything, each has done all itself.
static LsStatus gather(LsArenas *arenas)
{
    LS_TRY(arenas->device->ops->synchronize(arenas->device));
    if (arenas->whole)
        return LS_OK;
    return ls_comm_gather_shards(arenas->comm, arenas->buckets, arenas->weights, ls_dtype_size(arenas->type));
}

LsStatus ls_arenas_show_average(LsArenas *arenas)
{
    LsDevice *device = arenas->device;
    LS_TRY(ls_comm_barrier(arenas->comm)); // nobody computes with the weights any more
    for (size_t u = 0; u < arenas->updates; u++) {
        LsRunView run = ls_arenas_run(arenas, &arenas->update[u]);
        if (!run.weights)
            LS_TRY(device->ops->copy(device, run.gradient, run.master, run.elements * sizeof *run.master));
        LS_TRY(put(arenas, &run, run.average));
    }
    return gather(arenas);
}

LsStatus ls_arenas_show_weights(LsArenas *arenas)
{
    LS_TRY(ls_comm_barrier(arenas->comm)); // nor with the averages
    for (size_t u = 0; u < arenas->updates; u++) {
        LsRunView run = ls_arenas_run(arenas, &arenas->update[u]);
        LS_TRY(put(arenas, &run, run.weights ? run.master : run.gradient));
    }
    return gather(arenas);
}
