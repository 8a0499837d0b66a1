// A tap on a device: sees every op that passes through the device's table, and times it.
//
// Attached, it puts a table of its own in the place of the device's, whose ops do what they did. An op that a
// backend calls for another op is part of that one. Any program that is given the device is measured without
// knowing of it.
#ifndef LOCKSTEP_BENCH_TAP_H
#define LOCKSTEP_BENCH_TAP_H

#include "op_work.h"

typedef enum TapMode {
    TAP_OFF,  // ops pass unseen
    TAP_LIST, // tap->call becomes their list
    TAP_MARK  // the same ops are marked: 0 at once, i + 1 behind call i
} TapMode;

// Puts mark `i` at this place of the device's stream.
typedef LsStatus (*TapMark)(void *watch, size_t i);

typedef struct Tap {
    LsDeviceOps ops; // first: the device's table while attached
    const LsDeviceOps *plain;
    LsDevice *device;
    bool concurrent; // as the device was
    bool dry;        // nothing is done, memory is not there: to list what would be
    int depth;       // of ops within ops
    TapMode mode;
    TapMark mark;
    void *watch;
    size_t marked; // calls of this pass
    OpWork *call;  // as listed
    size_t count, capacity;
} Tap;

void tap_attach(Tap *tap, LsDevice *device, bool dry);
void tap_detach(Tap *tap);

// What comes next is a pass from its beginning. The watch is lent until the next one; both NULL unless
// marking.
LsStatus tap_pass(Tap *tap, TapMode mode, TapMark mark, void *watch);

#endif
