// One list of op cases for everything that is said about ops: parity between devices, comparison with
// float64 models, and speed.
//
// A case names an op, its shape, types and options. Its buffers are described as data, so that any program
// can place them on any device at any alignment, run the op and read the results back.
//
// op_list.c has the cases, op_cases.c their buffers and runs, op_call.c the calls, op_expect.c the float64
// models; op_language.c and op_language_expect.c are those of the ops of language models, op_image.c and
// op_image_expect.c those of image models.
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
    LS_OP_DECIDE_STEP,
    LS_OP_EMBEDDING,
    LS_OP_EMBEDDING_GRADIENT,
    LS_OP_LAYER_NORM,
    LS_OP_LAYER_NORM_BACKWARD,
    LS_OP_ATTENTION,
    LS_OP_ATTENTION_BACKWARD,
    LS_OP_CONVOLUTION,
    LS_OP_CONVOLUTION_BACKWARD_DATA,
    LS_OP_CONVOLUTION_BACKWARD_WEIGHTS,
    LS_OP_BATCH_NORM,
    LS_OP_BATCH_NORM_BACKWARD,
    LS_OP_MAX_POOL,
    LS_OP_MAX_POOL_BACKWARD,
    LS_OP_AVERAGE_POOL,
    LS_OP_AVERAGE_POOL_BACKWARD,
    LS_OP_KINDS
} LsOpKind;

// What a decide_step case is about.
typedef enum LsOpDecision {
    LS_DECIDE_GOOD,          // nothing happens
    LS_DECIDE_CLIP,          // a norm above clip_norm
    LS_DECIDE_GROW,          // the last good step before the loss scale doubles
    LS_DECIDE_CEILING,       // the same at the largest loss scale
    LS_DECIDE_BAD_BLOCK,     // an infinite block: the loss scale halves
    LS_DECIDE_BAD_LOSS,      // a NaN loss
    LS_DECIDE_FLOOR,         // an infinite block at the smallest loss scale
    LS_DECIDE_BAD_UNSCALED,  // an infinite block without loss scaling
    LS_DECIDE_STOP,          // a rank votes to stop
    LS_DECIDE_ERROR,         // a rank votes error
    LS_DECIDE_ERROR_AND_BAD, // and there is an infinite block as well
    LS_DECISIONS
} LsOpDecision;

typedef struct LsOpCase {
    LsOpKind kind;
    LsDtype type;   // of the inputs
    LsDtype output; // cast, normalize, matmul, tree_add: of the result; optimizer: of the rounded weights,
                    // F32: none
    size_t rows, columns, depth; // matmul: m, n, k. Vectors: rows is 1. tree_add: depth is its inputs.
                                 // decide_step: ranks, lanes, blocks. Embedding: depth is the
                                 // vocabulary. Attention: rows are tokens of all windows, columns the
                                 // size of a head
    bool transpose_a, transpose_b, accumulate, bias, keep; // keep: the value before the activation
    LsActivation activation;
    LsActivation backward; // matmul: multiplies by its derivative
    bool bias_gradient;    // matmul
    size_t pieces;         // block_squares, optimizer: that the vector is cut into
    LsOpDecision decision; // decide_step
    bool rounded;          // tree_add: sums are BF16 numbers; gradients of filters: of the inputs' type
    bool in_place;         // the result replaces the first input
    size_t period;         // normalize
    bool momentum, nesterov;
    size_t window; // embedding, attention: tokens; dropout: rows of a sample, 0: one
    size_t heads;  // attention
    bool branch;   // layer_norm: a branch is added; its backward pass: a residual is. batch_norm: a
                   // residual is added; its backward pass: a second gradient is
    size_t height, width, kernel, stride, padding; // of images and windows; rows are images then, columns
                                                   // and depth channels in and out. batch_norm: rows are
                                                   // places, columns channels
    bool given;      // batch_norm: mean and variance are given; its backward pass: says them
    double rate;     // dropout
    float smoothing; // cross-entropy
    bool large;      // of a size for measuring speed, too slow to check against float64
    uint64_t seed;   // of the inputs
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
    LS_FILL_SCALE,     // a loss scale: uniform in [512, 1536) for F16 gradients, else in [0.5, 1.5)
    LS_FILL_CONTROL,   // an LsStepControl in the middle of a run
    LS_FILL_WORDS,     // decide_step: what the ranks exchanged
    LS_FILL_INDEX,     // decide_step: where a lane's or a block's word is
    LS_FILL_DERIVED,   // follows from the other inputs
    LS_FILL_OUTCOME    // decide_step: an LsStepOutcome before the step
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

// `rounds` random cases of every family: shapes, types, options and inputs from the seed; freed by the
// caller.
LsStatus ls_op_random_cases(uint64_t seed, size_t rounds, LsOpCase **cases, size_t *count);

// The seed of this run's random cases: OP_CASES_SEED of the environment, else another one each time. Prints
// it.
uint64_t ls_op_fresh_seed(void);

// Cases for measuring speed: products of layers of `width` units with `rows` samples (rows 0: none), and the
// other ops on `elements` (0: none), as a matrix of that width where they work on matrices. With a `window`,
// those of a language model on that many rows as well. Freed by the caller.
typedef struct LsOpSizes {
    size_t rows, width, elements, window;
} LsOpSizes;
LsStatus ls_op_speed_cases(const LsOpSizes *sizes, LsOpCase **cases, size_t *count);

// "matmul 33x17x65 nt bfloat16>float32 bias gelu".
void ls_op_name(const LsOpCase *op, char *text, size_t size);

size_t ls_op_buffers(const LsOpCase *op, LsOpBuffer buffers[LS_OP_BUFFERS]);

// Runs the op on the buffers, given as pointers in the device's memory.
LsStatus ls_op_call(const LsOpCase *op, LsDevice *device, void *const memory[]);

// Whether it is an op of image models: convolutions, batch normalisation, pooling.
bool ls_op_is_image(const LsOpCase *op);

// Weight of a batch's statistics in batch_norm's backward pass.
#define LS_OP_STATISTICS_WEIGHT 0.375f

// True when every backend must compute the same bits: the op is made of exactly rounded operations in a given
// order.
bool ls_op_is_exact(const LsOpCase *op);

// Whether it is a product or made of products, whose bits depend on the instruction set.
bool ls_op_multiplies(const LsOpCase *op);

// Whether it is an op of language models: embedding, layer normalisation, attention and their gradients.
bool ls_op_is_language(const LsOpCase *op);

double ls_op_flops(const LsOpCase *op); // of matmul and attention, 0 otherwise
double ls_op_bytes(const LsOpCase *op); // read and written

// What float64 makes of the same inputs. For each output buffer i (others stay untouched), value[i] gets the
// results and scale[i] the size of the numbers that rounding errors are relative to.
void ls_op_expect(const LsOpCase *op, void *const image[], double *value[], double *scale[]);

// How far a result of `type` may be from float64: op_expect.c derives it.
double ls_op_tolerance(const LsOpCase *op, LsDtype type, double value, double scale);

// The root mean square of a result's errors may be this part of that of the values.
double ls_op_relative_bound(LsDtype type);

// Compares an outcome of decide_step with the float64 model; false: `text` says what differs.
bool ls_op_check_outcome(
    const LsOpCase *op, void *const image[], const LsStepOutcome *got, char *text, size_t size);

// Number i of an F32, BF16 or F16 array.
double ls_op_number(const void *array, LsDtype type, size_t i);

// decide_step: words of a rank, the loss scale's interval, and the norm that is clipped to.
size_t ls_op_rank_words(const LsOpCase *op);
int32_t ls_op_growth_interval(const LsOpCase *op);
float ls_op_clip_norm(const LsOpCase *op);

// Element at which piece `p` begins; of block_squares, the index of its first sum as well. p may be `pieces`.
size_t ls_op_piece_begin(const LsOpCase *op, size_t p);
size_t ls_op_piece_sums(const LsOpCase *op, size_t p);

// A case on a device: its inputs in `image`, its results in `result` after ls_op_run_read.
typedef struct LsOpRun {
    const LsOpCase *op;
    LsDevice *device;
    size_t count;
    LsOpBuffer buffers[LS_OP_BUFFERS];
    void *image[LS_OP_BUFFERS];  // host
    void *result[LS_OP_BUFFERS]; // host, outputs only
    void *base[LS_OP_BUFFERS];   // device
    void *memory[LS_OP_BUFFERS]; // device, moved away from base
} LsOpRun;

// Allocates and fills. A `shift` below 16 moves every buffer by that many of its elements away from its
// alignment; from 16 on, buffers are moved by different numbers of elements. Close also after a failure.
LsStatus ls_op_run_open(const LsOpCase *op, LsDevice *device, size_t shift, LsOpRun *run);
LsStatus ls_op_run_restore(LsOpRun *run); // puts the inputs back
LsStatus ls_op_run_read(LsOpRun *run);
void ls_op_run_close(LsOpRun *run);

#endif
