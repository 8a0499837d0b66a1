#include "contender.h"

#include "base/clock.h"

static LsStatus call(const Contender *contender)
{
    LsDevice *device = contender->device;
    if (contender->run)
        return ls_op_call(contender->run->op, device, contender->run->memory);
    return device->ops->copy(device, contender->to, contender->from, contender->bytes);
}

static LsStatus sample(const Contender *contender, double *seconds)
{
    const LsDeviceOps *ops = contender->device->ops;
    double start = ls_clock_seconds();
    for (int i = 0; i < contender->launches; i++)
        LS_TRY(contender->graph ? ops->graph_launch(contender->device, contender->graph) : call(contender));
    LS_TRY(ops->synchronize(contender->device));
    *seconds = (ls_clock_seconds() - start) / (contender->launches * contender->recorded);
    return LS_OK;
}

static const double SAMPLE_SECONDS = 5e-3;
enum { MOST_RECORDED = 64, MOST_LAUNCHES = 1000 };

static int times_to_fill(double seconds, double one, int most)
{
    double times = one > 0 ? seconds / one : most;
    return times < 1 ? 1 : times > most ? most : (int)times;
}

static LsStatus record(Contender *contender, int calls)
{
    const LsDeviceOps *ops = contender->device->ops;
    LsStatus status = ops->capture_begin(contender->device);
    for (int i = 0; i < calls && status == LS_OK; i++)
        status = call(contender);
    if (status != LS_OK) {
        ops->capture_abandon(contender->device);
        return status;
    }
    LS_TRY(ops->capture_end(contender->device, &contender->graph));
    contender->recorded = calls;
    return LS_OK;
}

LsStatus contender_open(Contender *contender)
{
    LsDevice *device = contender->device;
    double one;
    contender->graph = NULL;
    contender->recorded = contender->launches = 1;
    LS_TRY(call(contender));
    LS_TRY(device->ops->synchronize(device));
    if (!device->discrete)
        return LS_OK;
    LS_TRY(sample(contender, &one));
    if (device->ops->capture_begin)
        LS_TRY(record(contender, times_to_fill(SAMPLE_SECONDS, one, MOST_RECORDED)));
    LS_TRY(sample(contender, &one));
    contender->launches = times_to_fill(SAMPLE_SECONDS, one * contender->recorded, MOST_LAUNCHES);
    return LS_OK;
}

void contender_close(Contender *contender)
{
    if (contender->graph)
        contender->device->ops->graph_destroy(contender->device, contender->graph);
}

LsStatus contenders_measure(Contender *const contenders[], size_t count, double seconds,
    double (*samples)[MOST_SAMPLES], int *sampled)
{
    double begin = ls_clock_seconds();
    int s = 0;
    for (; s < MOST_SAMPLES && (s < FEWEST_SAMPLES || ls_clock_seconds() - begin < seconds); s++)
        for (size_t c = 0; c < count; c++)
            LS_TRY(sample(contenders[c], &samples[c][s]));
    *sampled = s;
    return LS_OK;
}
