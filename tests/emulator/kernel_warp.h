// How the lanes of a warp meet. Private to the emulator: kernels.cpp keeps the threads, kernel_warp.cpp knows
// the rules.
#ifndef LOCKSTEP_EMULATOR_KERNEL_WARP_H
#define LOCKSTEP_EMULATOR_KERNEL_WARP_H

#include "kernel_fiber.h"
#include "kernel_state.h"

// A thread, and what it said where it waits.
typedef struct LsKernelThread {
    LsFiber *fiber; // while it waits
    enum LsEmulatedMeeting kind;
    LsEmulatedSite site;
    unsigned int mask, lane;
    int width;
    uint64_t value, result;
} LsKernelThread;

typedef struct LsKernelWarp {
    unsigned int ended;   // lanes, also those that never existed
    unsigned int waiting; // for other lanes
} LsKernelWarp;

LsKernelThread *ls_kernel_lane(unsigned warp, unsigned lane);
LsKernelWarp *ls_kernel_warp(unsigned warp);
void ls_kernel_release_lanes(unsigned warp, unsigned int lanes); // they may go on

// A lane came to a meeting, or a lane of the warp ended: what is complete by that is carried out.
void ls_warp_lane_arrived(unsigned thread);
void ls_warp_lane_ended(unsigned warp);

#endif
