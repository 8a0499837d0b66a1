// Matrix products through oneDNN, behind an interface without its types: everything that depends on the
// library's version is in onednn.c.
#ifndef LOCKSTEP_DEVICE_CPU_ONEDNN_H
#define LOCKSTEP_DEVICE_CPU_ONEDNN_H

#include "../backend.h"

typedef struct LsOnednn LsOnednn;

// Limits the library to an instruction set and a number of threads. Both hold for the whole process: the
// first call decides about the instruction set, and a later call that asks for another is LS_UNAVAILABLE.
LsStatus ls_onednn_open(int isa, int threads, LsOnednn **out);
void ls_onednn_close(LsOnednn *onednn);

// The instruction set in use: what the machine has, up to what was asked for. LS_ISA_AUTO means that the
// machine has less than AVX2.
LsIsa ls_onednn_isa(const LsOnednn *onednn);

// Version and commit of the library, for the fingerprint.
void ls_onednn_version(char *text, size_t size);

// The product as LsMatmul describes it, but for pre_activation and ReLU, which must not be there, and for
// `backward` and bias_gradient, which are left to the caller. The first product of a shape builds and keeps a
// kernel; later ones allocate nothing here.
LsStatus ls_onednn_matmul(LsOnednn *onednn, const LsMatmul *args);

// A convolution or one of its gradients, F32 or BF16. x and y are what goes in and comes out of the
// convolution, or their gradients; filters are read or, as a gradient, written, which is F32 then. The first
// one of a shape builds and keeps a kernel, likewise.
typedef enum LsConvolverKind {
    LS_CONVOLVE_FORWARD,
    LS_CONVOLVE_DATA,   // x from y
    LS_CONVOLVE_WEIGHTS // filters from x and y
} LsConvolverKind;
LsStatus ls_onednn_convolve(LsOnednn *onednn, LsConvolverKind kind, const LsConvolutionShape *shape,
    LsDtype type, const void *x, const void *filters, const void *y);

#endif
