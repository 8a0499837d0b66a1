// The least time that a training step's ops need on this machine: each op's bytes at the speed of a large
// copy or its products at the speed of a large product, whichever takes longer, added up.
#ifndef LOCKSTEP_LAUNCH_ROOFLINE_H
#define LOCKSTEP_LAUNCH_ROOFLINE_H

#include "tap.h"

typedef struct LsRoofline {
    double bandwidth; // bytes/s that a large copy reads and writes
    double flops;     // FLOP/s of a large product
    size_t ops;       // that were listed
    double bytes;     // of them, as op_work.h counts
    double products;  // FLOPs of them
    double seconds;   // at least
} LsRoofline;

// Measures bandwidth and flops, best of several tries. The device is in nobody's use.
LsStatus ls_roofline_measure(LsDevice *device, LsRoofline *roofline);

// Fills in the rest from what the tap has listed.
void ls_roofline_add_up(const Tap *tap, LsRoofline *roofline);

#endif
