// What a thread of a kernel knows and how it meets others: indices, barriers, warp intrinsics, atomics,
// dynamic shared memory. Included by cuda_runtime.h; kernels.cpp defines what is only declared here.
//
// A call that meets other threads carries its place in the source, because CUDA lets threads meet only where
// all of them run the same statement, and because the message about a fault names it.
#ifndef LOCKSTEP_EMULATOR_KERNEL_THREADS_H
#define LOCKSTEP_EMULATOR_KERNEL_THREADS_H

#include <stdint.h>
#include <type_traits>

#include <kernel_math.h>

extern "C" {
// Those of the thread that runs now.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
}
constexpr int warpSize = 32;

enum LsEmulatedMeeting {
    LS_MEET_BARRIER,
    LS_MEET_BARRIER_COUNT,
    LS_MEET_BARRIER_AND,
    LS_MEET_BARRIER_OR,
    LS_MEET_WARP,
    LS_MEET_SHUFFLE,
    LS_MEET_SHUFFLE_UP,
    LS_MEET_SHUFFLE_DOWN,
    LS_MEET_SHUFFLE_XOR,
    LS_MEET_GATHER,
    LS_MEET_BALLOT,
    LS_MEET_ALL,
    LS_MEET_ANY,
};

typedef struct LsEmulatedSite {
    const char *file;
    int line;
} LsEmulatedSite;

extern "C" {
int ls_emulator_meet_block(enum LsEmulatedMeeting kind, int predicate, LsEmulatedSite site);
// `value` is what this lane gives; `lane` and `width` are the shuffle's arguments.
uint64_t ls_emulator_meet_warp(enum LsEmulatedMeeting kind, unsigned int mask, uint64_t value,
    unsigned int lane, int width, LsEmulatedSite site);
void *ls_emulator_dynamic_shared(void);
// Tells the race checker that the next access to these bytes is part of an atomic operation.
void ls_emulator_atomic(const void *address, size_t bytes);
}

#define LS_EMULATED_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define LS_EMULATED_HERE                                                                                     \
    LsEmulatedSite                                                                                           \
    {                                                                                                        \
        file, line                                                                                           \
    }

// ---- Barriers ---------------------------------------------------------------------------------------------

static inline void __syncthreads(LS_EMULATED_SITE)
{
    (void)ls_emulator_meet_block(LS_MEET_BARRIER, 0, LS_EMULATED_HERE);
}

static inline int __syncthreads_count(int predicate, LS_EMULATED_SITE)
{
    return ls_emulator_meet_block(LS_MEET_BARRIER_COUNT, predicate, LS_EMULATED_HERE);
}

static inline int __syncthreads_and(int predicate, LS_EMULATED_SITE)
{
    return ls_emulator_meet_block(LS_MEET_BARRIER_AND, predicate, LS_EMULATED_HERE);
}

static inline int __syncthreads_or(int predicate, LS_EMULATED_SITE)
{
    return ls_emulator_meet_block(LS_MEET_BARRIER_OR, predicate, LS_EMULATED_HERE);
}

static inline void __syncwarp(unsigned int mask = 0xffffffffu, LS_EMULATED_SITE)
{
    (void)ls_emulator_meet_warp(LS_MEET_WARP, mask, 0, 0, warpSize, LS_EMULATED_HERE);
}

// Threads run one at a time, so a fence has only the compiler to hold back.
static inline void __threadfence_block()
{
    __asm__ volatile("" ::: "memory");
}

static inline void __threadfence()
{
    __asm__ volatile("" ::: "memory");
}

static inline void __threadfence_system()
{
    __asm__ volatile("" ::: "memory");
}

// ---- Warp intrinsics --------------------------------------------------------------------------------------

// Numbers of 4 and 8 bytes, the 2-byte floats in a 4-byte word, as CUDA has overloads for.
template <typename T>
static inline T ls_emulator_shuffle(enum LsEmulatedMeeting kind, unsigned int mask, T value,
    unsigned int lane, int width, LsEmulatedSite site)
{
    static_assert(
        (sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8) && std::is_trivially_copyable<T>::value,
        "CUDA shuffles numbers of 4 and 8 bytes and the 2-byte floats");
    static_assert(sizeof(T) != 2 || !std::is_integral<T>::value, "CUDA does not shuffle 2-byte integers");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    word = ls_emulator_meet_warp(kind, mask, word, lane, width, site);
    memcpy(&value, &word, sizeof value);
    return value;
}

template <typename T>
static inline T __shfl_sync(unsigned int mask, T value, int lane, int width = warpSize, LS_EMULATED_SITE)
{
    return ls_emulator_shuffle(LS_MEET_SHUFFLE, mask, value, (unsigned int)lane, width, LS_EMULATED_HERE);
}

template <typename T>
static inline T __shfl_up_sync(
    unsigned int mask, T value, unsigned int delta, int width = warpSize, LS_EMULATED_SITE)
{
    return ls_emulator_shuffle(LS_MEET_SHUFFLE_UP, mask, value, delta, width, LS_EMULATED_HERE);
}

template <typename T>
static inline T __shfl_down_sync(
    unsigned int mask, T value, unsigned int delta, int width = warpSize, LS_EMULATED_SITE)
{
    return ls_emulator_shuffle(LS_MEET_SHUFFLE_DOWN, mask, value, delta, width, LS_EMULATED_HERE);
}

template <typename T>
static inline T __shfl_xor_sync(
    unsigned int mask, T value, int lane_mask, int width = warpSize, LS_EMULATED_SITE)
{
    return ls_emulator_shuffle(
        LS_MEET_SHUFFLE_XOR, mask, value, (unsigned int)lane_mask, width, LS_EMULATED_HERE);
}

static inline unsigned int __ballot_sync(unsigned int mask, int predicate, LS_EMULATED_SITE)
{
    return (unsigned int)ls_emulator_meet_warp(
        LS_MEET_BALLOT, mask, predicate != 0, 0, warpSize, LS_EMULATED_HERE);
}

static inline int __all_sync(unsigned int mask, int predicate, LS_EMULATED_SITE)
{
    return (int)ls_emulator_meet_warp(LS_MEET_ALL, mask, predicate != 0, 0, warpSize, LS_EMULATED_HERE);
}

static inline int __any_sync(unsigned int mask, int predicate, LS_EMULATED_SITE)
{
    return (int)ls_emulator_meet_warp(LS_MEET_ANY, mask, predicate != 0, 0, warpSize, LS_EMULATED_HERE);
}

// ---- Memory -----------------------------------------------------------------------------------------------

template <typename T> static inline T __ldg(const T *address)
{
    return *address;
}

// Cache hints change no value.
template <typename T> static inline T __ldcs(const T *address)
{
    return *address;
}

template <typename T> static inline void __stcs(T *address, T value)
{
    *address = value;
}

// Integers only: the result of a sum of floats would depend on the order in which threads arrive. Threads run
// one at a time and are switched at meetings only, so plain accesses are atomic.
#define LS_EMULATED_ATOMIC(name, type, expression)                                                           \
    __attribute__((no_sanitize("thread"))) static inline type name(type *address, type value)                \
    {                                                                                                        \
        ls_emulator_atomic(address, sizeof *address);                                                        \
        type old = *address;                                                                                 \
        *address = (expression);                                                                             \
        return old;                                                                                          \
    }
// Unsigned arithmetic, so that a signed sum wraps instead of being undefined.
LS_EMULATED_ATOMIC(atomicAdd, int, (int)((unsigned int)old + (unsigned int)value))
LS_EMULATED_ATOMIC(atomicAdd, unsigned int, old + value)
LS_EMULATED_ATOMIC(atomicAdd, unsigned long long, old + value)
LS_EMULATED_ATOMIC(atomicSub, int, (int)((unsigned int)old - (unsigned int)value))
LS_EMULATED_ATOMIC(atomicSub, unsigned int, old - value)
LS_EMULATED_ATOMIC(atomicInc, unsigned int, old >= value ? 0 : old + 1)
#define LS_EMULATED_ATOMICS(type)                                                                            \
    LS_EMULATED_ATOMIC(atomicMin, type, min(old, value))                                                     \
    LS_EMULATED_ATOMIC(atomicMax, type, max(old, value))                                                     \
    LS_EMULATED_ATOMIC(atomicAnd, type, old &value)                                                          \
    LS_EMULATED_ATOMIC(atomicOr, type, old | value)                                                          \
    LS_EMULATED_ATOMIC(atomicXor, type, old ^ value)                                                         \
    LS_EMULATED_ATOMIC(atomicExch, type, value)
LS_EMULATED_ATOMICS(int)
LS_EMULATED_ATOMICS(unsigned int)
LS_EMULATED_ATOMICS(unsigned long long)
LS_EMULATED_ATOMIC(atomicExch, float, value)
#undef LS_EMULATED_ATOMICS
#undef LS_EMULATED_ATOMIC

#define LS_EMULATED_CAS(type)                                                                                \
    __attribute__((no_sanitize("thread"))) static inline type atomicCAS(                                     \
        type *address, type compare, type value)                                                             \
    {                                                                                                        \
        ls_emulator_atomic(address, sizeof *address);                                                        \
        type old = *address;                                                                                 \
        if (old == compare)                                                                                  \
            *address = value;                                                                                \
        return old;                                                                                          \
    }
LS_EMULATED_CAS(int)
LS_EMULATED_CAS(unsigned int)
LS_EMULATED_CAS(unsigned long long)
#undef LS_EMULATED_CAS

#undef LS_EMULATED_SITE
#undef LS_EMULATED_HERE

#endif
