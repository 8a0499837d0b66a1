// Runs the threads of a kernel: blocks one after another, the threads of a block as fibers that are switched
// where they meet.
//
// A thread that never waits costs a call: one fiber runs such threads in turn. A thread that waits keeps the
// fiber that it is on, and another fiber goes on with the next thread that is ready.
#include "kernel_state.h"

#include <numeric>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "address_sanitizer.h"
#include "kernel_fiber.h"
#include "kernel_warp.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
const LsKernelObserver *ls_kernel_observer;

namespace
{

// Threads that can go on, first at `head`.
struct Ready {
    uint16_t ring[2 * LS_MAX_THREADS];
    unsigned head, tail;
};

struct Barrier {
    unsigned arrived;
    enum LsEmulatedMeeting kind; // of the first to arrive, as the site
    LsEmulatedSite site;
    int count; // of those whose predicate was true
};

struct Kernel {
    const char *name;
    void (*thread)(void *);
    void *arguments;
    unsigned threads; // of a block
    size_t shared_bytes;
    uint64_t random; // 0: ascending order
};

Kernel kernel;
Ready ready;
Barrier barrier;
unsigned finished;
unsigned current; // thread
LsKernelThread thread_states[LS_MAX_THREADS];
LsKernelWarp warps[LS_MAX_WARPS];
uint3 thread_indices[LS_MAX_THREADS];
LsFiber host, *running, *idle;

// ---- Order ------------------------------------------------------------------------------------------------

// xorshift64 (Marsaglia, 2003); the seed is never 0.
uint64_t next_random()
{
    kernel.random ^= kernel.random << 13;
    kernel.random ^= kernel.random >> 7;
    kernel.random ^= kernel.random << 17;
    return kernel.random;
}

unsigned random_below(unsigned bound)
{
    return (unsigned)((next_random() >> 32) * bound >> 32);
}

// Fills order with 0 … threads - 1, shuffled by the seed (Fisher and Yates).
void draw_order(uint16_t *order)
{
    std::iota(order, order + kernel.threads, (uint16_t)0);
    if (!kernel.random)
        return;
    for (unsigned i = kernel.threads - 1; i > 0; i--)
        std::swap(order[i], order[random_below(i + 1)]);
}

// A permutation of [0, count) by key: a bijection of the next power of two, walked until it falls inside.
uint64_t permute(uint64_t position, uint64_t count, uint64_t key)
{
    unsigned bits = 1;
    while ((uint64_t)1 << bits < count)
        bits++;
    uint64_t mask = ((uint64_t)1 << bits) - 1;
    do {
        for (int round = 0; round < 3; round++) {
            position = (position * (key | 1) + (key >> 17)) & mask;
            position ^= position >> (bits + 1) / 2;
        }
    } while (position >= count);
    return position;
}

void push_back(unsigned thread)
{
    ready.ring[ready.tail++ % (2 * LS_MAX_THREADS)] = (uint16_t)thread;
}

void push_front(unsigned thread)
{
    ready.ring[--ready.head % (2 * LS_MAX_THREADS)] = (uint16_t)thread;
}

bool nobody_ready()
{
    return ready.head == ready.tail;
}

unsigned pop()
{
    return ready.ring[ready.head++ % (2 * LS_MAX_THREADS)];
}

// ---- Switching --------------------------------------------------------------------------------------------

void set_current(unsigned thread)
{
    current = thread;
    threadIdx = thread_indices[thread];
}

void switch_to(LsFiber *to)
{
    LsFiber *from = running;
    running = to;
    ls_fiber_switch(from, to);
}

void fiber_loop();

LsFiber *take_idle()
{
    LsFiber *fiber = idle;
    if (fiber)
        idle = fiber->next_idle;
    else
        fiber = ls_fiber_create(fiber_loop);
    return fiber;
}

// Leaves this fiber idle and goes on with another.
void become_idle(LsFiber *next)
{
    running->next_idle = idle;
    idle = running;
    switch_to(next);
}

LsFiber *fiber_of_next_ready()
{
    LsKernelThread *next = &thread_states[ready.ring[ready.head % (2 * LS_MAX_THREADS)]];
    return next->fiber;
}

[[noreturn]] void report_deadlock()
{
    for (unsigned i = 0; i < kernel.threads; i++) {
        const LsKernelThread *t = &thread_states[i];
        if (!t->fiber || t->kind < LS_MEET_WARP)
            continue;
        ls_kernel_fault(i, "waits at %s:%d for lanes 0x%08x of its warp, but only 0x%08x came there",
            t->site.file, t->site.line, t->mask, warps[i / LS_WARP].waiting & t->mask);
    }
    ls_emulator_fault("kernel %s: no thread can go on", kernel.name);
}

// Runs others until this thread is ready again and its turn comes.
void wait_here()
{
    unsigned self = current;
    thread_states[self].fiber = running;
    if (nobody_ready())
        report_deadlock();
    LsFiber *next = fiber_of_next_ready();
    if (next)
        thread_states[pop()].fiber = NULL;
    else
        next = take_idle();
    if (next != running)
        switch_to(next);
    set_current(self);
}

void thread_ends()
{
    if (barrier.arrived)
        ls_kernel_fault(current, "ended while %u threads of its block wait at the barrier in %s:%d",
            barrier.arrived, barrier.site.file, barrier.site.line);
    finished++;
    LsKernelWarp *warp = &warps[current / LS_WARP];
    warp->ended |= 1u << current % LS_WARP;
    if (warp->waiting)
        ls_warp_lane_ended(current / LS_WARP);
}

// What every fiber does: threads that have not begun it runs itself.
void fiber_loop()
{
    for (;;) {
        while (!nobody_ready()) {
            unsigned thread = pop();
            LsFiber *suspended = thread_states[thread].fiber;
            if (suspended) {
                thread_states[thread].fiber = NULL;
                become_idle(suspended);
                continue;
            }
            set_current(thread);
            kernel.thread(kernel.arguments);
            thread_ends();
        }
        if (finished != kernel.threads)
            report_deadlock();
        become_idle(&host);
    }
}

// ---- Shared memory ----------------------------------------------------------------------------------------

// Ends at a closed page, so that what lies behind it cannot be touched.
char *dynamic_end()
{
    static char *end;
    if (end)
        return end;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (LS_SHARED_BYTES_OPT_IN + page - 1) / page * page;
    char *memory =
        (char *)mmap(NULL, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + bytes, page, PROT_NONE) != 0)
        ls_emulator_fault("no memory for the shared memory of a block");
    end = memory + bytes;
    return end;
}

char *dynamic_begin()
{
    return dynamic_end() - (kernel.shared_bytes + 15) / 16 * 16;
}

void lay_out_dynamic_shared()
{
    char *all = dynamic_end() - LS_SHARED_BYTES_OPT_IN;
    __asan_poison_memory_region(all, LS_SHARED_BYTES_OPT_IN);
    __asan_unpoison_memory_region(dynamic_begin(), kernel.shared_bytes);
}

// A read of what the block did not write gives NaN, or an index that is out of all bounds.
void fill_shared()
{
    size_t count;
    const LsSharedVariable *variables = ls_symbols_shared(&count);
    for (size_t i = 0; i < count; i++)
        memset(variables[i].address, 0xff, variables[i].bytes);
    if (kernel.shared_bytes)
        memset(dynamic_begin(), 0xff, kernel.shared_bytes);
}

// ---- Blocks -----------------------------------------------------------------------------------------------

void run_block()
{
    finished = 0;
    barrier.arrived = 0;
    for (unsigned i = 0; i < kernel.threads; i += LS_WARP)
        warps[i / LS_WARP] = LsKernelWarp{};
    if (kernel.threads % LS_WARP) // lanes that do not exist have ended
        warps[kernel.threads / LS_WARP].ended = ~0u << kernel.threads % LS_WARP;
    fill_shared();
    ready.head = 0;
    ready.tail = kernel.threads;
    draw_order(ready.ring);
    if (ls_kernel_observer)
        ls_kernel_observer->block_begin();
    running = &host;
    switch_to(take_idle());
    ls_kernel_copies_end(kernel.threads);
}

void set_launch(dim3 grid, dim3 block)
{
    gridDim = grid;
    blockDim = block;
    unsigned i = 0;
    for (unsigned z = 0; z < block.z; z++)
        for (unsigned y = 0; y < block.y; y++)
            for (unsigned x = 0; x < block.x; x++)
                thread_indices[i++] = uint3{x, y, z};
    kernel.threads = i;
    lay_out_dynamic_shared();
}

} // namespace

void ls_emulator_run_kernel(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
    void (*thread)(void *arguments), void *arguments)
{
    if (kernel.name)
        ls_emulator_fault("kernel %s was to run in the middle of kernel %s", name, kernel.name);
    kernel = Kernel{name, thread, arguments, 0, shared_bytes, ls_emulator_random()};
    set_launch(grid, block);
    if (ls_kernel_observer)
        ls_kernel_observer->kernel_begin();
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z, key = kernel.random;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t b = key ? permute(i, blocks, key) : i;
        blockIdx.x = (unsigned)(b % grid.x);
        blockIdx.y = (unsigned)(b / grid.x % grid.y);
        blockIdx.z = (unsigned)(b / grid.x / grid.y);
        run_block();
    }
    if (ls_kernel_observer)
        ls_kernel_observer->kernel_end();
    kernel.name = NULL;
}

// ---- Meeting ----------------------------------------------------------------------------------------------

static void complete_barrier(void)
{
    int result = barrier.count;
    if (barrier.kind == LS_MEET_BARRIER_AND)
        result = barrier.count == (int)kernel.threads;
    else if (barrier.kind == LS_MEET_BARRIER_OR)
        result = barrier.count > 0;
    uint16_t order[LS_MAX_THREADS];
    draw_order(order);
    for (unsigned i = 0; i < kernel.threads; i++) {
        thread_states[i].result = (uint64_t)result;
        push_back(order[i]);
    }
    barrier.arrived = 0;
    if (ls_kernel_observer)
        ls_kernel_observer->barrier();
}

// CUDA asks that all threads of the block come to the same barrier. That a GPU may let threads through when
// the others have ended is not promised.
int ls_emulator_meet_block(enum LsEmulatedMeeting kind, int predicate, LsEmulatedSite site)
{
    if (finished)
        ls_kernel_fault(current, "waits at the barrier in %s:%d, but %u threads of its block have ended",
            site.file, site.line, finished);
    if (!barrier.arrived)
        barrier = Barrier{0, kind, site, 0};
    if (barrier.kind != kind || !ls_same_site(barrier.site, site))
        ls_kernel_fault(current,
            "came to the barrier in %s:%d while others of its block wait at another one in %s:%d", site.file,
            site.line, barrier.site.file, barrier.site.line);
    thread_states[current].kind = kind;
    barrier.count += predicate != 0;
    if (++barrier.arrived == kernel.threads)
        complete_barrier();
    wait_here();
    return (int)thread_states[current].result;
}

uint64_t ls_emulator_meet_warp(enum LsEmulatedMeeting kind, unsigned int mask, uint64_t value,
    unsigned int lane, int width, LsEmulatedSite site)
{
    LsKernelThread *self = &thread_states[current];
    self->kind = kind;
    self->site = site;
    self->mask = mask;
    self->value = value;
    self->lane = lane;
    self->width = width;
    ls_warp_lane_arrived(current);
    wait_here();
    return self->result;
}

unsigned ls_emulator_lane(void)
{
    return current % LS_WARP;
}

// One lane order per meeting: i ↦ 32 lanes from a random start with a random odd stride. Sometimes the warp
// runs ahead of all others.
void ls_kernel_release_lanes(unsigned warp, unsigned int lanes)
{
    unsigned stride = 1, start = 0;
    bool ahead = false;
    if (kernel.random) {
        uint64_t r = next_random() >> 32;
        stride = (unsigned)r | 1;
        start = (unsigned)(r >> 8);
        ahead = r >> 16 & 1;
    }
    for (unsigned i = 0; i < LS_WARP; i++) {
        unsigned lane = (i * stride + start) % LS_WARP;
        if (!(lanes >> lane & 1))
            continue;
        if (ahead)
            push_front(warp * LS_WARP + lane);
        else
            push_back(warp * LS_WARP + lane);
    }
}

// ---- What others ask --------------------------------------------------------------------------------------

LsKernelThread *ls_kernel_lane(unsigned warp, unsigned lane)
{
    return &thread_states[warp * LS_WARP + lane];
}

LsKernelWarp *ls_kernel_warp(unsigned warp)
{
    return &warps[warp];
}

LsKernelPlace ls_kernel_place(void)
{
    return LsKernelPlace{
        kernel.name, blockIdx, current, kernel.threads, running->stack, running->stack_bytes};
}

uint3 ls_kernel_thread_index(unsigned thread)
{
    return thread_indices[thread];
}

char *ls_kernel_dynamic_shared(size_t *bytes)
{
    *bytes = kernel.shared_bytes;
    return dynamic_begin();
}

void *ls_emulator_dynamic_shared(void)
{
    return dynamic_begin();
}

void ls_emulator_atomic(const void *address, size_t bytes)
{
    if (ls_kernel_observer)
        ls_kernel_observer->atomic(address, bytes);
}

void ls_kernel_fault(unsigned thread, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    uint3 t = thread_indices[thread];
    ls_emulator_fault("kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s", kernel.name, blockIdx.x,
        blockIdx.y, blockIdx.z, t.x, t.y, t.z, text);
}
