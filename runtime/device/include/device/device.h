// A device: the ops table of one backend and its state. Models and the trainer speak to this header alone.
//
// Backends: `ref` (plain C, FP32 and BF16, every op, the truth that others are compared to), `cpu` (the ref
// table with oneDNN products and vectorised loops put over it). All work is issued from one thread. Ops are
// enqueued on the compute stream in order; on the CPU they have happened when the call returns, on a GPU when
// ls_device_synchronize does. Pointers in arguments are device memory unless their comment says host.
//
// Matrices are row-major. `rows` is the number of samples of a microbatch. An op returns LS_OK, or
// LS_UNSUPPORTED for a type or shape that the backend has no kernel for; it never falls back silently.
// Every op gives the same bits for the same arguments on the same machine (runtime.threads included).
#ifndef LOCKSTEP_DEVICE_DEVICE_H
#define LOCKSTEP_DEVICE_DEVICE_H

#include <stdbool.h>

#include "base/config.h"
#include "base/rng.h"
#include "base/status.h"
#include "device/step_control.h"
#include "device/tensor.h"

// ---- Arguments of the ops -------------------------------------------------------------------------------

// to[i] = from[i] in another type. F32, BF16 (round to nearest even), in any pair. Buffers must not overlap.
typedef struct LsCast {
    size_t n;
    const void *from;
    LsDtype from_type;
    void *to;
    LsDtype to_type;
} LsCast;

// y[r][c] = (x[r][c] - shift[c]) * scale[c]: raw samples (U8 or F32) to inputs of the compute type.
typedef struct LsNormalize {
    size_t rows, columns;
    const void *x;
    LsDtype x_type;
    const float *shift, *scale; // columns values each, or 1 each when `uniform`
    bool uniform;
    void *y;
    LsDtype y_type;
} LsNormalize;

// NaN passes through each, forward and backward, so that it reaches what decides about the step.
typedef enum LsActivation {
    LS_IDENTITY,
    LS_RELU,
    LS_GELU
} LsActivation; // GELU in its tanh form (Hendrycks 2016)

// c[m][n] = activation(op(a) op(b) + bias), or c += op(a) op(b) when `accumulate` (then no bias, no
// activation). Products of F32 or BF16 inputs are accumulated in F32.
typedef struct LsMatmul {
    size_t m, n, k;
    bool transpose_a; // false: a is [m][k]; true: a is stored as [k][m]
    bool transpose_b; // false: b is [k][n]; true: b is stored as [n][k]
    const void *a, *b;
    LsDtype input_type; // of a, b and bias
    void *c;
    LsDtype output_type; // F32 or input_type
    bool accumulate;
    const void *bias;        // [n] or NULL
    LsActivation activation; // applied after the bias
    void *pre_activation; // [m][n] of output_type, or NULL: the value before the activation, kept for GELU's
                          // backward pass
} LsMatmul;

// db[c] = (accumulate ? db[c] : 0) + sum over r of dy[r][c], in a fixed order.
typedef struct LsBiasGradient {
    size_t rows, columns;
    const void *dy;
    LsDtype type;
    float *db;
    bool accumulate;
} LsBiasGradient;

// dx[i] = dy[i] * activation'(…). `saved` is the output for RELU, the value before the activation for GELU.
// dx may be dy.
typedef struct LsActivationBackward {
    size_t n;
    LsActivation activation;
    const void *saved, *dy;
    void *dx;
    LsDtype type; // of saved, dy and dx
} LsActivationBackward;

// y[r][c] = keep(r, c) ? x[r][c] / (1 - rate) : 0, where keep draws ls_rng_u32(ls_rng_key(seed, purpose),
// positions[r], c) and keeps when it is at least rate × 2^32 (rounded down). Forward and backward are the
// same op. y may be x.
typedef struct LsDropout {
    size_t rows, columns;
    const void *x;
    void *y;
    LsDtype type;
    double rate; // in [0, 1)
    uint64_t seed;
    uint32_t purpose;
    const uint64_t *positions; // [rows] stream positions of the samples
} LsDropout;

// y[i] = a[i] + b[i], computed in F32. y may be a or b.
typedef struct LsAdd {
    size_t n;
    const void *a, *b;
    void *y;
    LsDtype type;
} LsAdd;

// Losses: row_loss[r] is the loss of sample r, unscaled. gradient (NULL: evaluation) gets d(loss)/d(outputs)
// × gradient_scale × *loss_scale, may be `outputs` itself and has its type.
typedef struct LsLossArgs {
    size_t rows, columns; // columns: classes, or outputs
    const void *outputs;  // [rows][columns]: logits, or predictions for mean squared error
    LsDtype type;
    const int32_t *labels; // [rows] cross-entropy: the class (backends on the host refuse others,
                           // LS_BAD_DATA); NULL otherwise
    const float
        *targets;    // [rows][columns] binary cross-entropy (0 … 1) and mean squared error; NULL otherwise
    float smoothing; // cross-entropy: probability spread evenly over all classes
    float gradient_scale;    // 1 / global batch
    const float *loss_scale; // one value on the device, or NULL for 1
    float *row_loss;
    void *gradient;
} LsLossArgs;

// *y = (accumulate ? *y : 0) + sum of x[0 … n), in a fixed order with float64 or pairwise accumulation.
typedef struct LsSum {
    size_t n;
    const float *x;
    float *y;
    bool accumulate;
} LsSum;

// sums[b] = sum of squares of x over block b (LS_BLOCK elements, the last one may be shorter), float64
// accumulation rounded to float. Not finite exactly when the block holds a value that is not (or whose square
// overflows).
typedef struct LsBlockSquares {
    size_t n;
    const float *x;
    float *sums; // [ceil(n / LS_BLOCK)]
} LsBlockSquares;

// Runs a fixed list of additions over equally long vectors: values[into] += values[from] for each pair in
// order, then output = values[result]. Inputs are left alone unless output is one of them. This is how
// partial gradients are combined along the lane tree; the order of additions is data (collectives/plan.h), so
// every backend computes the same sum.
typedef struct LsTreeAdd {
    size_t n;
    size_t count;               // of inputs, at most LS_TREE_INPUTS
    const float *const *inputs; // host array of device pointers
    size_t adds;
    const uint16_t (*pairs)[2]; // host: {into, from}
    size_t result;
    float *output;
} LsTreeAdd;
enum { LS_TREE_INPUTS = 256 };

// Decides the step from what all ranks exchanged (design: "one small exchange"). Sums in float64 in canonical
// order: loss = sum of lane_loss[lane_index[l]] / samples over l; norm = sqrt(sum of
// block_squares[block_index[b]]) / loss_scale. Not finite loss or norm: skip. Otherwise updates += 1,
// gradient_factor = min(1, clip_norm / norm) / loss_scale, bias corrections. step += 1 either way.
typedef struct LsDecideStep {
    size_t lanes, blocks;
    const float *words;          // the gathered exchange, read at the indexes below
    const uint32_t *lane_index;  // [lanes] where each lane's loss sum is
    const uint32_t *block_index; // [blocks] where each block's sum of squares is
    double samples;              // of the global batch
    float learning_rate;         // of this step
    float clip_norm;             // 0: no clipping
    float beta1, beta2;
    LsStepControl *control; // device memory, read and written
} LsDecideStep;

// One optimizer pass over a piece of the flat buffers. Reads *control: does nothing when it says skip.
// SGD: g' = g·factor + decay·w; m = momentum·m + g'; w -= lr·(nesterov ? g' + momentum·m : m).
// AdamW (Loshchilov and Hutter, ICLR 2019): w -= lr·decay·w; m, v moments of g·factor; w -= lr·(m/c1) /
// (sqrt(v/c2) + epsilon).
typedef struct LsOptimizerStep {
    size_t n;      // elements, whole blocks
    int kind;      // LsOptimizerKind
    float *master; // F32 weights
    const float *gradient;
    float *moment1; // momentum or Adam's m; NULL for SGD without momentum
    float *moment2; // Adam's v; NULL for SGD
    void *weights;  // rounded copy of `type` for the products; NULL when the master weights serve
    LsDtype type;
    const uint8_t *block_decay; // [n / LS_BLOCK] 1: weight decay applies to the block
    float momentum, beta1, beta2, epsilon, weight_decay;
    bool nesterov;
    const LsStepControl *control;
} LsOptimizerStep;

// ---- The table ------------------------------------------------------------------------------------------

typedef struct LsDevice LsDevice;

typedef struct LsDeviceOps {
    const char *name;
    void (*close)(LsDevice *device);
    void (*fingerprint)(const LsDevice *device, char *text, size_t size); // see ls_device_fingerprint

    // Memory. New memory has undefined contents. Sizes are bytes.
    LsStatus (*allocate)(LsDevice *device, size_t bytes, void **out);
    void (*release)(LsDevice *device, void *memory);
    // Memory the host may touch and that copies to and from the device fast (pinned on a GPU).
    LsStatus (*allocate_host)(LsDevice *device, size_t bytes, void **out);
    void (*release_host)(LsDevice *device, void *memory);
    LsStatus (*copy_in)(LsDevice *device, void *to, const void *host_from, size_t bytes);
    LsStatus (*copy_out)(LsDevice *device, void *host_to, const void *from,
        size_t bytes); // the host may read `to` after synchronize
    LsStatus (*copy)(LsDevice *device, void *to, const void *from, size_t bytes);
    LsStatus (*zero)(LsDevice *device, void *to, size_t bytes);
    LsStatus (*synchronize)(LsDevice *device);

    LsStatus (*cast)(LsDevice *device, const LsCast *args);
    LsStatus (*normalize)(LsDevice *device, const LsNormalize *args);
    LsStatus (*matmul)(LsDevice *device, const LsMatmul *args);
    LsStatus (*bias_gradient)(LsDevice *device, const LsBiasGradient *args);
    LsStatus (*activation_backward)(LsDevice *device, const LsActivationBackward *args);
    LsStatus (*dropout)(LsDevice *device, const LsDropout *args);
    LsStatus (*add)(LsDevice *device, const LsAdd *args);
    LsStatus (*cross_entropy)(LsDevice *device, const LsLossArgs *args);
    LsStatus (*binary_cross_entropy)(
        LsDevice *device, const LsLossArgs *args); // row loss: mean over columns, on logits
    LsStatus (*mean_squared_error)(LsDevice *device, const LsLossArgs *args); // row loss: mean over columns
    LsStatus (*sum)(LsDevice *device, const LsSum *args);
    LsStatus (*block_squares)(LsDevice *device, const LsBlockSquares *args);
    LsStatus (*tree_add)(LsDevice *device, const LsTreeAdd *args);
    LsStatus (*decide_step)(LsDevice *device, const LsDecideStep *args);
    LsStatus (*optimizer_step)(LsDevice *device, const LsOptimizerStep *args);
} LsDeviceOps;

// Backends extend this struct: the first member of theirs is an LsDevice.
struct LsDevice {
    const LsDeviceOps *ops;
    LsPrecision precision; // fp32 or bf16, never auto
};

typedef struct LsDeviceOptions {
    int kind;      // LsDeviceKind
    int precision; // LsPrecision; auto: bf16 where products in it are faster than in fp32
    int threads;   // of the process's oneDNN, at least 1
    int isa;       // LsIsa: the highest instruction set to use
} LsDeviceOptions;

// Opens a device; ls_device_close(NULL) is fine. LS_UNAVAILABLE when this build or machine lacks it, or the
// instruction set asked for.
LsStatus ls_device_open(const LsDeviceOptions *options, LsDevice **out);

// The device that a configuration's runtime section names.
LsStatus ls_device_open_configured(const LsConfig *config, LsDevice **out);
void ls_device_close(LsDevice *device);

// The type in which activations and working weights are stored: F32 for fp32, BF16 for bf16.
LsDtype ls_device_compute_type(const LsDevice *device);

// What the bits of this device depend on, one line: backend, library version, instruction set, caches,
// threads, compiler.
void ls_device_fingerprint(const LsDevice *device, char *text, size_t size);

// The machine's GPUs in one line for people, or why none can be used.
void ls_device_gpus(char *text, size_t size);

// Measured peak of one rank's matrix products in the device's precision, FLOP/s (a 1,024³ product or a
// smaller one where that takes long, best of a few; about 50 ms), for MFU.
LsStatus ls_device_measure_peak(LsDevice *device, double *flops);

#endif
