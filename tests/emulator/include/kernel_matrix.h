// What PTX has for tiles of matrices and CUDA C++ has no function for: products and loads by a whole warp
// (mma.sync, ldmatrix) and copies to shared memory that run beside the thread (cp.async). A .cu file names
// the instruction in a function of its own that calls the one here where __CUDACC__ is not defined.
// Included by cuda_runtime.h; kernel_warp.cpp and kernel_copies.cpp define what is only declared here.
#ifndef LOCKSTEP_EMULATOR_KERNEL_MATRIX_H
#define LOCKSTEP_EMULATOR_KERNEL_MATRIX_H

#include <stdint.h>

#include <kernel_threads.h>

#define LS_EMULATED_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

enum { LS_GATHERED_BYTES = 48 }; // of a lane, at most

extern "C" {
unsigned ls_emulator_lane(void);
void ls_emulator_copy_lanes(void *to, const void *from, size_t bytes); // memory of the emulator's own
}

template <typename T> struct LsEmulatedLanes {
    T of[warpSize];
};

// Every lane of the warp gives a value and gets all 32. The emulator's own memory is nothing to the race
// checker.
template <typename T>
__attribute__((no_sanitize("thread"))) static inline LsEmulatedLanes<T> ls_emulator_gather(
    const T &value, LsEmulatedSite site)
{
    static_assert(sizeof(T) <= LS_GATHERED_BYTES, "room for a lane's value");
    LsEmulatedLanes<T> lanes;
    uint64_t all = ls_emulator_meet_warp(
        LS_MEET_GATHER, 0xffffffffu, (uint64_t)(uintptr_t)&value, sizeof value, warpSize, site);
    ls_emulator_copy_lanes(&lanes, (const void *)(uintptr_t)all, sizeof lanes);
    return lanes;
}

// ---- mma.sync.aligned.m16n8k16.row.col.f32.T.T.f32 ------------------------------------------------------

// A lane's elements of a [16][16] and b [16][8], two in a word, the one of the lower index in its lower half
// (PTX manual, "Matrix Fragments for mma.m16n8k16 with floating point type").
struct LsEmulatedOperands {
    float a[8], b[4];
};

template <typename T> static inline float ls_emulator_element(uint32_t word, int upper)
{
    uint16_t bits = (uint16_t)(word >> 16 * upper);
    T element;
    memcpy((void *)&element, &bits, sizeof element);
    return (float)element;
}

// d += a b. Sums are taken in F32 from k = 0 to 15; a GPU takes them in an order of its own.
template <typename T>
__attribute__((no_sanitize("thread"))) static inline void ls_emulator_mma(
    float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, LS_EMULATED_SITE)
{
    LsEmulatedOperands own;
    for (int i = 0; i < 8; i++)
        own.a[i] = ls_emulator_element<T>(a[i / 2], i % 2);
    for (int i = 0; i < 4; i++)
        own.b[i] = ls_emulator_element<T>(i < 2 ? b0 : b1, i % 2);
    const LsEmulatedLanes<LsEmulatedOperands> lane = ls_emulator_gather(own, LsEmulatedSite{file, line});
    unsigned self = ls_emulator_lane(), row = self / 4, column = self % 4 * 2;
    for (unsigned i = 0; i < 4; i++) // of rows row, row + 8 and columns column, column + 1
        for (unsigned k = 0; k < 16; k++)
            d[i] += lane.of[row * 4 + k % 8 / 2].a[k / 8 * 4 + i / 2 * 2 + k % 2] *
                    lane.of[(column + i % 2) * 4 + k % 8 / 2].b[k / 8 * 2 + k % 2];
}

// ---- ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16 ---------------------------------------------------

// Lane i names row i % 8 of matrix i / 8, 16 bytes in shared memory. Word m is this lane's part of matrix m:
// elements 2 (i % 4) and the next of row i / 4, or with `transposed` those rows' elements i / 4.
static inline void ls_emulator_ldmatrix(
    uint32_t (&words)[4], const void *row, bool transposed, LS_EMULATED_SITE)
{
    const uint16_t *own = static_cast<const uint16_t *>(row);
    const LsEmulatedLanes<const uint16_t *> rows = ls_emulator_gather(own, LsEmulatedSite{file, line});
    unsigned self = ls_emulator_lane(), low = self % 4 * 2;
    for (unsigned m = 0; m < 4; m++) {
        const uint16_t *const *matrix = rows.of + 8 * m;
        uint32_t first = transposed ? matrix[low][self / 4] : matrix[self / 4][low];
        uint32_t second = transposed ? matrix[low + 1][self / 4] : matrix[self / 4][low + 1];
        words[m] = first | second << 16;
    }
}

// ---- cp.async -------------------------------------------------------------------------------------------

// A copy of `bytes` whose first `valid` come from global memory; the others are zeros.
struct LsEmulatedCopy {
    uint32_t *to;
    const uint32_t *from;
    unsigned bytes, valid;
};

extern "C" {
void ls_emulator_copy_issued(const LsEmulatedCopy *copy); // by the thread that runs
bool ls_emulator_copy_due(LsEmulatedCopy *copy);          // takes the oldest; false: there is none
}

// From here until the wait the destination holds no value: whoever still reads it, or already does, gets NaN
// and is seen by the race checker.
static inline void ls_emulator_cp_async(void *to, const void *from, unsigned bytes, unsigned valid)
{
    const LsEmulatedCopy copy = {
        static_cast<uint32_t *>(to), static_cast<const uint32_t *>(from), bytes, valid};
    for (unsigned i = 0; i < bytes / 4; i++)
        copy.to[i] = 0xffffffffu;
    ls_emulator_copy_issued(&copy);
}

static inline void ls_emulator_cp_async_wait_all(void)
{
    LsEmulatedCopy copy;
    while (ls_emulator_copy_due(&copy))
        for (unsigned i = 0; i < copy.bytes / 4; i++)
            copy.to[i] = 4 * i < copy.valid ? copy.from[i] : 0;
}

#undef LS_EMULATED_SITE

#endif
