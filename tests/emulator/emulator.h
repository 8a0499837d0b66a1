// The seam between the two halves of the emulated GPU: kernels.cpp runs the threads of one kernel, the
// runtime (memory, streams, events, graphs) decides when. Private to the emulator and its tests.
#ifndef LOCKSTEP_EMULATOR_H
#define LOCKSTEP_EMULATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

// Runs every thread of every block to its end, now. `thread` is called once for each, on a stack of its own,
// with threadIdx and the like set; threads of a block meet at barriers and shuffles. The order of blocks and
// threads is shuffled by ls_emulator_seed. Device memory is open to the calling process meanwhile. `name` is
// for messages.
void ls_emulator_run_kernel(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
    void (*thread)(void *arguments), void *arguments);

// Whether all these bytes are memory that a kernel may touch: inside one live allocation of the device, or
// inside one pinned host allocation. The runtime answers, the race checker asks for each access.
bool ls_emulator_owns(const void *address, size_t bytes);

// Accesses that the race checker has checked; in programs with kernels that tell of them (races.cpp).
uint64_t ls_emulator_accesses(void);

// Work of a stream. `advance` is called until it returns true, and not before everything ahead of it in the
// stream is done; a replayed graph calls it again. It may return false only while it waits for other
// processes. `release` frees the context when nothing will call advance again.
typedef struct LsEmulatedWork {
    const char *name; // for messages
    bool (*advance)(void *context);
    void (*release)(void *context);
    void *context;
} LsEmulatedWork;

// Puts work at the end of a stream, or into the graph that the stream is recording. Nothing runs before
// somebody has to wait for it. The context is the emulator's from here on, and released if this fails.
cudaError_t ls_emulator_enqueue(cudaStream_t stream, const LsEmulatedWork *work);

// Moves on whatever can, in all streams, without waiting for other processes: for a stand-in whose peers may
// be waiting for this process while its host polls (a GPU works on while nobody looks).
void ls_emulator_progress(void);

// Says of running work that it takes so many seconds more on the GPU than it does here. Nobody waits for
// them; events that are reached afterwards are later by them.
void ls_emulator_spend(double more);

// Seed of the order of blocks and threads and of when streams move on, from the environment's
// EMULATED_GPU_SEED at the start. 0: ascending order, and everything at the latest moment that is legal.
void ls_emulator_seed(uint64_t seed);

// The next number of the seeded generator; 0 when the seed is 0. Defined by the runtime, as is the seed.
uint64_t ls_emulator_random(void);

// Remembers an error for cudaGetLastError and returns it; every runtime call ends with it.
cudaError_t ls_emulator_result(cudaError_t error);

// Prints "emulated GPU: …" and aborts: for what would be undefined on a GPU (a host pointer in a kernel's
// copy, an unsynchronised race, a barrier that not all threads reach). Defined by the runtime.
void ls_emulator_fault(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#ifdef __cplusplus
}
#endif

#endif
