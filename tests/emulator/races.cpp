// Finds races of kernels, also those that change no result, and accesses outside live memory.
//
// Kernels are compiled with -fsanitize=thread, which calls a function before each access, and linked with the
// functions here in place of that sanitizer's library. An access is remembered for each byte by block,
// thread, barrier interval and the clock of its lane. Two accesses to one byte are ordered when the same
// thread made both, when a barrier lies between them, or when __syncwarp led from one lane to the other
// (vector clocks: Flanagan and Freund, "FastTrack", PLDI 2009). Blocks of one launch are never ordered. Two
// accesses that are not ordered, one of them a write and one of them not atomic, are a fault, whatever values
// they had.
//
// For each byte the last two unordered readers and writers are kept, not all: when three lanes of one warp
// read and the third alone was left out of a __syncwarp before the write, it goes unseen.
#include <algorithm>
#include <stdio.h>
#include <stdlib.h>
#include <unordered_map>

#include "kernel_state.h"

namespace
{

enum { PAGE = 4096, GRANULE = 64, MAX_PAGES = 1024 };

struct Event {
    uint64_t block : 21; // of the launch, from 1; 0: nobody
    uint64_t thread : 10;
    uint64_t atomic : 1;
    uint64_t interval : 16; // barriers before it
    uint64_t clock : 16;    // of its lane
};
static_assert(sizeof(Event) == 8, "a cell holds six");

// The last accesses of one kind. `other_block` is of a block that ran before that of `last`.
struct Accesses {
    Event last[2], other_block;
};

struct Cell {               // of one byte
    Accesses writes, reads; // an atomic update is a write
};

// Word by word: the sanitizer's memcmp looks at the memory first.
bool same(const Cell &a, const Cell &b)
{
    uint64_t words[2][sizeof(Cell) / sizeof(uint64_t)];
    memcpy(words[0], &a, sizeof a);
    memcpy(words[1], &b, sizeof b);
    return std::equal(words[0], words[0] + sizeof words[0] / sizeof *words[0], words[1]);
}

struct Page {
    uint32_t launch;                // for which the rest was recorded
    uint32_t owned[PAGE / GRANULE]; // launch in which the granule was seen to be live memory
    Cell cells[PAGE];
};

enum Memory { MEMORY_SHARED, MEMORY_DEVICE, MEMORY_OWN, MEMORY_NONE };

bool active;
uint64_t accesses; // since the program began
uint32_t launch;
Event now; // of the running block: block and interval
uint16_t clocks[LS_MAX_THREADS][LS_WARP];

std::unordered_map<uintptr_t, Page *> &pages()
{
    static auto *table = new std::unordered_map<uintptr_t, Page *>();
    return *table;
}

Page *last_page; // that was looked at, and its number
uintptr_t last_number;

Page *page_of(uintptr_t address)
{
    uintptr_t number = address / PAGE;
    if (!last_page || number != last_number) {
        Page *&page = pages()[number];
        if (!page)
            page = static_cast<Page *>(calloc(1, sizeof *page));
        if (!page)
            ls_emulator_fault("the race checker is out of memory");
        if (page->launch != launch)
            memset((void *)page, 0, sizeof *page);
        page->launch = launch;
        last_number = number;
        last_page = page;
    }
    return last_page;
}

// ---- Order ------------------------------------------------------------------------------------------------

bool ordered(const Event &before, const Event &after)
{
    if (before.thread == after.thread || before.interval != after.interval)
        return true;
    return before.thread / LS_WARP == after.thread / LS_WARP &&
           clocks[after.thread][before.thread % LS_WARP] >= before.clock;
}

// Whether nothing orders an access of the running block with an earlier one.
bool races(const Event &before, const Event &after, Memory memory)
{
    if (!before.block || (before.atomic && after.atomic))
        return false;
    if (before.block != after.block) // each block has shared memory of its own
        return memory == MEMORY_DEVICE;
    return !ordered(before, after);
}

const Event *find_race(const Accesses &accesses, const Event &event, Memory memory)
{
    if (races(accesses.last[0], event, memory))
        return &accesses.last[0];
    if (races(accesses.last[1], event, memory))
        return &accesses.last[1];
    return races(accesses.other_block, event, memory) ? &accesses.other_block : NULL;
}

void record(Accesses *accesses, const Event &event)
{
    Event *last = accesses->last;
    if (last[0].block && last[0].block != event.block) {
        accesses->other_block = last[0];
        last[0] = last[1] = Event{};
    }
    bool first = !last[0].block || ordered(last[0], event);
    bool second = !last[1].block || ordered(last[1], event);
    if (first) {
        last[0] = event;
        if (second)
            last[1] = Event{};
    } else if (second || (last[0].thread / LS_WARP == last[1].thread / LS_WARP &&
                             last[0].thread / LS_WARP != event.thread / LS_WARP)) {
        last[1] = event; // of another warp rather than of the same: only a barrier orders warps
    }
}

// ---- Messages ---------------------------------------------------------------------------------------------

const LsSharedVariable *shared_variable(const char *address)
{
    size_t count;
    const LsSharedVariable *variables = ls_symbols_shared(&count), *end = variables + count;
    const LsSharedVariable *after = std::upper_bound(variables, end, address,
        [](const char *wanted, const LsSharedVariable &v) { return wanted < v.address + v.bytes; });
    return after != end && after->address <= address ? after : NULL;
}

void describe(const char *address, Memory memory, char text[256])
{
    const LsSharedVariable *variable = shared_variable(address);
    size_t bytes;
    if (memory == MEMORY_DEVICE)
        snprintf(text, 256, "device memory at %p", (const void *)address);
    else if (variable)
        snprintf(text, 256, "shared memory, byte %td of %s", address - variable->address,
            ls_symbols_demangle(variable->symbol));
    else
        snprintf(text, 256, "dynamic shared memory, byte %td", address - ls_kernel_dynamic_shared(&bytes));
}

const char *verb(const Event &event, bool write, bool past)
{
    if (event.atomic)
        return past ? "updated atomically" : "updates atomically";
    if (write)
        return past ? "wrote" : "writes";
    return past ? "read" : "reads";
}

[[noreturn]] void report_race(const char *address, Memory memory, bool write, const Event &event,
    const Event &before, bool before_write, const void *code)
{
    char where[256], who[64];
    describe(address, memory, where);
    uint3 t = ls_kernel_thread_index(before.thread);
    if (before.block != event.block)
        snprintf(who, sizeof who, "another block");
    else
        snprintf(who, sizeof who, "thread (%u, %u, %u)", t.x, t.y, t.z);
    ls_kernel_fault(event.thread, "race: it %s %s, which %s %s, and nothing orders the two (%s, %#zx)",
        verb(event, write, false), where, who, verb(before, before_write, true), ls_symbols_function(code),
        ls_symbols_file_address(code));
}

// ---- Accesses ---------------------------------------------------------------------------------------------

bool inside(const char *address, size_t bytes, const char *begin, size_t length)
{
    return address >= begin && bytes <= length && (size_t)(address - begin) <= length - bytes;
}

// Whether this was asked before in this launch, which is so for nearly every access.
bool is_known_device_memory(const char *address, size_t bytes)
{
    uintptr_t first = (uintptr_t)address, last = first + bytes - 1;
    return first / GRANULE == last / GRANULE && page_of(first)->owned[first % PAGE / GRANULE] == launch;
}

// Live memory is asked for by granules, once in a launch.
bool is_device_memory(const char *address, size_t bytes)
{
    uintptr_t begin = (uintptr_t)address, end = begin + bytes;
    for (uintptr_t granule = begin / GRANULE * GRANULE; granule < end; granule += GRANULE) {
        uint32_t *owned = &page_of(granule)->owned[granule % PAGE / GRANULE];
        if (*owned == launch)
            continue;
        if (!ls_emulator_owns((const void *)granule, GRANULE))
            return ls_emulator_owns(address, bytes); // granules at the ends of an allocation
        *owned = launch;
    }
    return true;
}

bool is_builtin(const char *address)
{
    return inside(address, 1, (const char *)&threadIdx, sizeof threadIdx) ||
           inside(address, 1, (const char *)&blockIdx, sizeof blockIdx) ||
           inside(address, 1, (const char *)&blockDim, sizeof blockDim) ||
           inside(address, 1, (const char *)&gridDim, sizeof gridDim);
}

// What is in the program's image and not shared is a constant or a __device__ variable.
Memory classify(const char *address, size_t bytes, const LsKernelPlace &place)
{
    if (inside(address, bytes, static_cast<const char *>(place.stack), place.stack_bytes) ||
        is_builtin(address))
        return MEMORY_OWN;
    if (is_known_device_memory(address, bytes))
        return MEMORY_DEVICE;
    if (ls_symbols_image(address, bytes)) {
        const LsSharedVariable *variable = shared_variable(address);
        if (!variable)
            return MEMORY_DEVICE;
        return inside(address, bytes, variable->address, variable->bytes) ? MEMORY_SHARED : MEMORY_NONE;
    }
    size_t dynamic_bytes;
    const char *dynamic = ls_kernel_dynamic_shared(&dynamic_bytes);
    if (inside(address, bytes, dynamic, dynamic_bytes))
        return MEMORY_SHARED;
    return is_device_memory(address, bytes) ? MEMORY_DEVICE : MEMORY_NONE;
}

void check(const void *start, size_t bytes, bool write, bool atomic, const void *code)
{
    if (!active || !bytes)
        return;
    accesses++;
    auto *address = static_cast<const char *>(start);
    LsKernelPlace place = ls_kernel_place();
    Memory memory = classify(address, bytes, place);
    if (memory == MEMORY_OWN)
        return;
    if (memory == MEMORY_NONE)
        ls_kernel_fault(place.thread,
            "%s %zu bytes at %p, which is neither live memory of the device nor its own (%s, %#zx)",
            write ? "writes" : "reads", bytes, start, ls_symbols_function(code),
            ls_symbols_file_address(code));
    Event event = now;
    event.thread = place.thread;
    event.atomic = atomic;
    event.clock = clocks[place.thread][place.thread % LS_WARP];
    Cell found, left; // of the last byte that was looked at
    for (size_t i = 0; i < bytes; i++) {
        uintptr_t byte = (uintptr_t)address + i;
        Cell *cell = &page_of(byte)->cells[byte % PAGE];
        if (i > 0 && same(*cell, found)) { // mostly: bytes of a word go together
            *cell = left;
            continue;
        }
        found = *cell;
        if (const Event *before = find_race(cell->writes, event, memory))
            report_race(address + i, memory, write, event, *before, true, code);
        const Event *reader = write ? find_race(cell->reads, event, memory) : NULL;
        if (reader)
            report_race(address + i, memory, write, event, *reader, false, code);
        record(write ? &cell->writes : &cell->reads, event);
        left = *cell;
    }
}

// ---- What the kernel runner tells -------------------------------------------------------------------------

void kernel_begin()
{
    active = true;
    launch++;
    now = Event{};
    if (pages().size() > MAX_PAGES) {
        for (auto &page : pages())
            free(page.second);
        pages().clear();
    }
    last_page = NULL;
}

void kernel_end()
{
    active = false;
}

void block_begin()
{
    now.block++;
    now.interval = 0;
    if (!now.block)
        ls_kernel_fault(0, "the race checker counts to two million blocks only; test a smaller grid");
    memset(clocks, 0, sizeof clocks);
    for (unsigned i = 0; i < LS_MAX_THREADS; i++)
        clocks[i][i % LS_WARP] = 1;
}

void barrier()
{
    now.interval++;
    if (!now.interval)
        ls_kernel_fault(0, "the race checker counts to 65,535 barriers only; test a smaller problem");
}

// Each of the lanes learns what all of them knew, and begins a time of its own that no other knows yet.
void warp_barrier(unsigned warp, unsigned int lanes)
{
    uint16_t joined[LS_WARP] = {0};
    for (unsigned lane = 0; lane < LS_WARP; lane++)
        for (unsigned i = 0; (lanes >> lane & 1) && i < LS_WARP; i++)
            joined[i] = std::max(joined[i], clocks[warp * LS_WARP + lane][i]);
    for (unsigned lane = 0; lane < LS_WARP; lane++) {
        if (!(lanes >> lane & 1))
            continue;
        uint16_t *clock = clocks[warp * LS_WARP + lane];
        memcpy(clock, joined, sizeof joined);
        if (!++clock[lane])
            ls_kernel_fault(0, "the race checker counts to 65,535 calls of __syncwarp only");
    }
}

void atomic(const void *address, size_t bytes)
{
    check(address, bytes, true, true, __builtin_return_address(0));
}

const LsKernelObserver observer = {kernel_begin, kernel_end, block_begin, barrier, warp_barrier, atomic};

} // namespace

uint64_t ls_emulator_accesses(void)
{
    return accesses;
}

// ---- What the instrumented code calls ---------------------------------------------------------------------

// Called before main by every instrumented object, so the checker is on where there is one.
extern "C" void __tsan_init(void)
{
    ls_kernel_observer = &observer;
}

extern "C" void __tsan_func_entry(void *)
{
}

extern "C" void __tsan_func_exit(void *)
{
}

#define ACCESS(name, bytes, write)                                                                           \
    extern "C" void name(void *address)                                                                      \
    {                                                                                                        \
        check(address, bytes, write, false, __builtin_return_address(0));                                    \
    }
#define ACCESSES(bytes)                                                                                      \
    ACCESS(__tsan_read##bytes, bytes, false)                                                                 \
    ACCESS(__tsan_write##bytes, bytes, true)                                                                 \
    ACCESS(__tsan_volatile_read##bytes, bytes, false)                                                        \
    ACCESS(__tsan_volatile_write##bytes, bytes, true)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

extern "C" void __tsan_read_range(void *address, long bytes)
{
    check(address, (size_t)bytes, false, false, __builtin_return_address(0));
}

extern "C" void __tsan_write_range(void *address, long bytes)
{
    check(address, (size_t)bytes, true, false, __builtin_return_address(0));
}

// What clang's code calls to fill and to copy structures, by the names that watch-copies gives the calls.
extern "C" void *__tsan_memset(void *to, int byte, size_t bytes)
{
    check(to, bytes, true, false, __builtin_return_address(0));
    return memset(to, byte, bytes);
}

extern "C" void *__tsan_memcpy(void *to, const void *from, size_t bytes)
{
    check(from, bytes, false, false, __builtin_return_address(0));
    check(to, bytes, true, false, __builtin_return_address(0));
    return memcpy(to, from, bytes);
}

extern "C" void *__tsan_memmove(void *to, const void *from, size_t bytes)
{
    check(from, bytes, false, false, __builtin_return_address(0));
    check(to, bytes, true, false, __builtin_return_address(0));
    return memmove(to, from, bytes);
}
