// Fibers: stacks that one thread of the host switches between. Private to the emulator.
#ifndef LOCKSTEP_EMULATOR_KERNEL_FIBER_H
#define LOCKSTEP_EMULATOR_KERNEL_FIBER_H

#include <stddef.h>

typedef struct LsFiber {
    void *stack_pointer; // while it is not running
    const void *stack;   // lowest address
    size_t stack_bytes;
    void *fake_stack; // AddressSanitizer's
    struct LsFiber *next_idle;
} LsFiber;

// A fiber that calls `entry` when it is switched to for the first time; entry must never return. Fibers live
// as long as the process.
LsFiber *ls_fiber_create(void (*entry)(void));

// Saves the running fiber in `from` and goes on with `to`. A caller's first LsFiber may be all zero: it then
// stands for the stack that the caller is on.
void ls_fiber_switch(LsFiber *from, LsFiber *to);

#endif
