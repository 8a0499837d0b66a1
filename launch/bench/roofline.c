#include "roofline.h"

#include "base/clock.h"

enum { COPY_BYTES = 1 << 26, COPY_BYTES_DISCRETE = 1 << 28, COPIES = 10 };

static LsStatus time_copies(LsDevice *device, char *memory, size_t bytes, double *best)
{
    LS_TRY(device->ops->zero(device, memory, 2 * bytes));
    LS_TRY(device->ops->synchronize(device));
    for (int i = 0; i < COPIES; i++) {
        double start = ls_clock_seconds();
        LS_TRY(device->ops->copy(device, memory, memory + bytes, bytes));
        LS_TRY(device->ops->synchronize(device));
        double seconds = ls_clock_seconds() - start;
        *best = i == 0 || seconds < *best ? seconds : *best;
    }
    return LS_OK;
}

LsStatus ls_roofline_measure(LsDevice *device, LsRoofline *roofline)
{
    size_t bytes = device->discrete ? COPY_BYTES_DISCRETE : COPY_BYTES;
    char *memory;
    double best = 0;
    LS_TRY(device->ops->allocate(device, 2 * bytes, (void **)&memory));
    LsStatus status = time_copies(device, memory, bytes, &best);
    device->ops->release(device, memory);
    LS_TRY(status);
    roofline->bandwidth = 2.0 * (double)bytes / best; // what is read and what is written
    return ls_device_measure_peak(device, &roofline->flops);
}

void ls_roofline_add_up(const Tap *tap, LsRoofline *roofline)
{
    roofline->ops = tap->count;
    for (size_t i = 0; i < tap->count; i++) {
        double memory = tap->call[i].bytes / roofline->bandwidth;
        double products = tap->call[i].flops / roofline->flops;
        roofline->bytes += tap->call[i].bytes;
        roofline->products += tap->call[i].flops;
        roofline->seconds += products > memory ? products : memory;
    }
}
