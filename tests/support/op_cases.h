// One list of op cases for everything that is said about ops: parity between devices, comparison with
// float64 models, and speed.
//
// A case names an op, its shape, types and options. Its buffers are described as data, so that any program
// can place them on any device at any alignment, run the op and read the results back.
#ifndef LOCKSTEP_TESTS_OP_CASES_H
#define LOCKSTEP_TESTS_OP_CASES_H

#include "device/device.h"

typedef enum LsOpKind {
    LS_OP_CAST,
    LS_OP_NORMALIZE,
    LS_OP_MATMUL,
    LS_OP_BIAS_GRADIENT,
    LS_OP_ACTIVATION_BACKWARD,
    LS_OP_DROPOUT,
    LS_OP_ADD,
    LS_OP_CROSS_ENTROPY,
    LS_OP_BINARY_CROSS_ENTROPY,
    LS_OP_MEAN_SQUARED_ERROR,
    LS_OP_SUM,
    LS_OP_BLOCK_SQUARES,
    LS_OP_TREE_ADD,
    LS_OP_SGD,
    LS_OP_ADAMW,
    LS_OP_KINDS
} LsOpKind;

typedef struct LsOpCase {
    LsOpKind kind;
    LsDtype type;                // of the inputs
    LsDtype output;              // cast, normalize, matmul: of the result; optimizer: of the rounded weights
    size_t rows, columns, depth; // matmul: m, n, k. Vectors: rows is 1. tree_add: depth is its inputs
    bool transpose_a, transpose_b, accumulate, bias, keep; // keep: the value before the activation
    LsActivation activation;
    bool in_place; // the result replaces the first input
    bool uniform;  // normalize
    bool momentum, nesterov;
    double rate;     // dropout
    float smoothing; // cross-entropy
    bool large;      // of a size for measuring speed, too slow to check against float64
} LsOpCase;

typedef enum LsOpFill {
    LS_FILL_NOTHING,   // written by the op alone
    LS_FILL_SIGNED,    // uniform in [-4, 4)
    LS_FILL_UNIT,      // uniform in [0, 1)
    LS_FILL_POSITIVE,  // uniform in [0.5, 1.5)
    LS_FILL_BYTES,     // any byte
    LS_FILL_LABELS,    // int32 below `bound`
    LS_FILL_POSITIONS, // uint64, up to 2^40
    LS_FILL_FLAGS,     // bytes 0 or 1
    LS_FILL_CONTROL    // an LsStepControl in the middle of a run
} LsOpFill;

typedef struct LsOpBuffer {
    const char *name;
    LsDtype type;   // when its values are numbers
    size_t element; // bytes
    size_t count;
    LsOpFill fill;
    size_t bound;
    bool output; // numbers that the op computes
} LsOpBuffer;

enum { LS_OP_BUFFERS = 20 };

// The list; freed by the caller.
LsStatus ls_op_cases(LsOpCase **cases, size_t *count);

// "matmul 33x17x65 nt bfloat16>float32 bias gelu".
void ls_op_name(const LsOpCase *op, char *text, size_t size);

size_t ls_op_buffers(const LsOpCase *op, LsOpBuffer buffers[LS_OP_BUFFERS]);

// Runs the op on the buffers, given as pointers in the device's memory.
LsStatus ls_op_call(const LsOpCase *op, LsDevice *device, void *const memory[]);

// True when every backend must compute the same bits: the op is made of exactly rounded operations in a given
// order.
bool ls_op_is_exact(const LsOpCase *op);

double ls_op_flops(const LsOpCase *op); // of matmul, 0 otherwise
double ls_op_bytes(const LsOpCase *op); // read and written

// What float64 makes of the same inputs. For each output buffer i (others stay untouched), value[i] gets the
// results and scale[i] the size of the numbers that rounding errors are relative to.
void ls_op_expect(const LsOpCase *op, void *const image[], double *value[], double *scale[]);

// How many units of 2^-24 × scale a result in F32 may be off: op_expect.c derives each.
double ls_op_units(const LsOpCase *op);

// Number i of an F32 or BF16 array.
double ls_op_number(const void *array, LsDtype type, size_t i);

// A case on a device: its inputs in `image`, its results in `result` after ls_op_run_read.
typedef struct LsOpRun {
    const LsOpCase *op;
    LsDevice *device;
    size_t count;
    LsOpBuffer buffers[LS_OP_BUFFERS];
    void *image[LS_OP_BUFFERS];  // host
    void *result[LS_OP_BUFFERS]; // host, outputs only
    void *base[LS_OP_BUFFERS];   // device
    void *memory[LS_OP_BUFFERS]; // device, `shift` elements behind base
} LsOpRun;

// Allocates and fills. `shift` moves every buffer by that many of its elements away from its alignment. Close
// also after a failure.
LsStatus ls_op_run_open(const LsOpCase *op, LsDevice *device, size_t shift, LsOpRun *run);
LsStatus ls_op_run_restore(LsOpRun *run); // puts the inputs back
LsStatus ls_op_run_read(LsOpRun *run);
void ls_op_run_close(LsOpRun *run);

#endif
