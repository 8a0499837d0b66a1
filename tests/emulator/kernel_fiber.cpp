// Fibers with a context switch of our own: that of the C library makes a system call each time.
#include "kernel_fiber.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "address_sanitizer.h"
#include "emulator.h"

#ifdef LS_ADDRESS_SANITIZER
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES ((size_t)1 << 19) // its frames are several times as large
#else
#define STACK_BYTES ((size_t)1 << 17)
#endif

// void ls_fiber_swap(void **save, void *load): pushes the registers that a function must preserve, stores the
// stack pointer in *save, and does the reverse from `load`. Floating-point modes are never changed here and
// stay as they are.
extern "C" void ls_fiber_swap(void **save, void *load);

#if defined(__x86_64__)
__asm__(R"(
    .text
    .globl ls_fiber_swap
    .hidden ls_fiber_swap
    .type ls_fiber_swap, @function
ls_fiber_swap:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size ls_fiber_swap, . - ls_fiber_swap
)");
enum { SAVED_WORDS = 7, RETURN_WORD = 6, ENTRY_SLACK = 8 }; // a function starts 8 bytes off 16
#elif defined(__aarch64__)
__asm__(R"(
    .text
    .globl ls_fiber_swap
    .hidden ls_fiber_swap
    .type ls_fiber_swap, @function
ls_fiber_swap:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size ls_fiber_swap, . - ls_fiber_swap
)");
enum { SAVED_WORDS = 20, RETURN_WORD = 11, ENTRY_SLACK = 0 };
#else
#error "The emulated GPU switches stacks on x86-64 and aarch64 only; add ls_fiber_swap for this processor"
#endif

static LsFiber *running;    // being switched to
static LsFiber *came_from;  // the one before it
static void (*entry)(void); // of all fibers

static void finish_switch(LsFiber *self)
{
#ifdef LS_ADDRESS_SANITIZER
    // The stack that was left is measured on the way: nobody else knows that of the host.
    __sanitizer_finish_switch_fiber(self->fake_stack, &came_from->stack, &came_from->stack_bytes);
#else
    (void)self;
    (void)came_from;
#endif
}

static void first_entry(void)
{
    finish_switch(running);
    entry();
    ls_emulator_fault("a fiber returned");
}

LsFiber *ls_fiber_create(void (*new_entry)(void))
{
    static size_t count;
    entry = new_entry;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    // One page at the lower end stays closed: an overflowing stack must not run into the next.
    char *memory = (char *)mmap(
        NULL, page + STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0)
        ls_emulator_fault("no memory for the stack of a kernel's thread");
    LsFiber *fiber = new LsFiber();
    fiber->stack = memory + page;
    fiber->stack_bytes = STACK_BYTES;
    // Stacks start in different cache sets, or a thousand of them would take turns in a few lines.
    char *top = memory + page + STACK_BYTES - 64 - count++ % 32 * 128;
    void **saved = (void **)(top - ENTRY_SLACK) - SAVED_WORDS;
    saved[RETURN_WORD] = (void *)first_entry;
    fiber->stack_pointer = saved;
    return fiber;
}

void ls_fiber_switch(LsFiber *from, LsFiber *to)
{
    running = to;
    came_from = from;
#ifdef LS_ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
    ls_fiber_swap(&from->stack_pointer, to->stack_pointer);
    finish_switch(from);
}
