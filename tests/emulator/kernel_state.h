// What the files of the emulator that run kernels share: symbols of the program, and who may watch a kernel.
// Private to the emulator.
#ifndef LOCKSTEP_EMULATOR_KERNEL_STATE_H
#define LOCKSTEP_EMULATOR_KERNEL_STATE_H

#include <string.h>

#include <cuda_runtime.h>

#include "emulator.h"

enum { LS_WARP = 32, LS_MAX_THREADS = 1024, LS_MAX_WARPS = LS_MAX_THREADS / LS_WARP };

// Shared memory of a block, by CUDA's limits for compute capability 9.0.
enum { LS_SHARED_BYTES = 48 << 10, LS_SHARED_BYTES_OPT_IN = 227 << 10 };

// ---- Symbols (kernel_symbols.cpp) -------------------------------------------------------------------------

typedef struct LsSharedVariable {
    char *address;
    size_t bytes;
    const char *symbol; // mangled
} LsSharedVariable;

// The __shared__ variables of all kernels in the program, by address. Aborts where the program was stripped.
const LsSharedVariable *ls_symbols_shared(size_t *count);

// Name of the function at an address, as in the source; lives as long as the process.
const char *ls_symbols_function(const void *address);

// The address that addr2line wants.
size_t ls_symbols_file_address(const void *address);

// Whether the bytes belong to the program's own image (constants and variables).
bool ls_symbols_image(const void *address, size_t bytes);

const char *ls_symbols_demangle(const char *symbol); // malloc'ed, or the symbol itself

// Names of one file may differ in address where headers are compiled into several objects.
static inline bool ls_same_site(LsEmulatedSite a, LsEmulatedSite b)
{
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

// ---- The kernel that runs (kernels.cpp) -------------------------------------------------------------------

typedef struct LsKernelPlace {
    const char *name; // NULL: none runs
    uint3 block;
    unsigned thread, threads; // linear in the block
    const void *stack;        // of the thread
    size_t stack_bytes;
} LsKernelPlace;
LsKernelPlace ls_kernel_place(void);
uint3 ls_kernel_thread_index(unsigned thread);

// A fault of this thread of the running block.
[[noreturn]] void ls_kernel_fault(unsigned thread, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

// Dynamic shared memory of the running kernel.
char *ls_kernel_dynamic_shared(size_t *bytes);

// All threads of a block have ended: whether they left copies behind (kernel_copies.cpp).
void ls_kernel_copies_end(unsigned threads);

// Whoever watches kernels; all functions are set. The race checker is the only one.
typedef struct LsKernelObserver {
    void (*kernel_begin)(void);
    void (*kernel_end)(void);
    void (*block_begin)(void);
    void (*barrier)(void);                                   // all threads of the block met
    void (*warp_barrier)(unsigned warp, unsigned int lanes); // __syncwarp of these lanes
    void (*atomic)(const void *address, size_t bytes);
} LsKernelObserver;
extern const LsKernelObserver *ls_kernel_observer; // NULL: nobody

#endif
