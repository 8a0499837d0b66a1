// Arguments of a device's operations: one struct each. Plain data, read by C and by CUDA C++.
//
// Pointers are device memory unless their comment says host. Matrices are row-major; `rows` is the number of
// samples of a microbatch. Types are F32, BF16 or F16 unless said otherwise.
#ifndef LOCKSTEP_DEVICE_OPERATIONS_H
#define LOCKSTEP_DEVICE_OPERATIONS_H

#include <stdbool.h>

#include "device/step_control.h"
#include "device/tensor.h"

// to[i] = from[i] in another type, rounded to nearest even, in any pair. Buffers must not overlap.
typedef struct LsCast {
    size_t n;
    const void *from;
    LsDtype from_type;
    void *to;
    LsDtype to_type;
} LsCast;

// y[r][c] = (x[r][c] - shift[c mod period]) * scale[c mod period]: raw samples (U8 or F32) to inputs of the
// compute type.
typedef struct LsNormalize {
    size_t rows, columns;
    const void *x;
    LsDtype x_type;
    const float *shift, *scale; // [period]
    size_t period;              // divides columns: 1 is one value for all, columns one for each
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
// activation), or c = op(a) op(b) · activation'(saved) with `backward` (likewise). Sums are taken in F32 or
// wider whatever the inputs are. c overlaps no input.
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
    void *pre_activation;  // [m][n] of output_type, or NULL: the value before the activation, kept for GELU's
                           // backward pass
    LsActivation backward; // multiplies the product by this activation's derivative at `saved`, [m][n] of
    const void *saved;     // output_type, as LsActivationBackward has it; LS_IDENTITY: does not
    float *bias_gradient;  // [m] or NULL; needs transpose_a: also (+)= the sums of a's columns, as
                           // LsBiasGradient makes them of dy = a [k][m]; added to when `accumulate`
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
    const uint64_t *positions; // [rows / rows_per_position] stream positions of the samples
    size_t rows_per_position;  // 0 or 1: a row is a sample; else a divisor of rows, and element c of row r is
                               // element (r mod rows_per_position) × columns + c of sample
                               // r / rows_per_position
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
    const int32_t *labels; // [rows] cross-entropy: the class; NULL otherwise. Of a label that is no class,
                           // backends on the host say so (LS_BAD_DATA), others make the row's loss NaN
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

// What the optimizer pass makes of a block.
typedef enum LsBlockKind {
    LS_KIND_PLAIN,     // weights that do not decay
    LS_KIND_DECAYED,   // weights that do
    LS_KIND_STATISTICS // pairs of a running mean and variance, see LsOptimizerStep
} LsBlockKind;

// sums[b] = sum of squares of x over block b (LS_BLOCK elements, the last one may be shorter) of each piece,
// in a fixed order, float64 or pairwise accumulation rounded to float. Not finite exactly when the block
// holds a value that is not (or whose square overflows): this is the overflow check of mixed precision as
// well. Of statistics, which are to count in no norm, nothing but that is left: their sum is zero, or NaN
// where it would not be finite.
typedef struct LsSquaresPiece {
    size_t n;
    const float *x;
    float *sums;               // [ceil(n / LS_BLOCK)]
    const uint8_t *block_kind; // [ceil(n / LS_BLOCK)] LsBlockKind; NULL: no block is of statistics
} LsSquaresPiece;

typedef struct LsBlockSquares {
    size_t count;
    const LsSquaresPiece *piece; // host: [count]
} LsBlockSquares;

// Runs a fixed list of additions over equally long vectors: values[into] += values[from] for each pair in
// order, then output = values[result]. Inputs are left alone unless output is one of them. This is how
// partial gradients are combined along the lane tree; the order of additions is data (collectives/plan.h), so
// every backend computes the same sum.
//
// With `rounded` each value that is read and each sum becomes the nearest BF16 number (ties to even; too
// large a sum becomes infinite, NaN stays NaN); additions themselves are in F32. Rounding what is rounded
// changes nothing, so it does not matter which of a value's readers and writers do it.
typedef struct LsTreeAdd {
    size_t n;
    size_t count;              // of inputs, at most LS_TREE_INPUTS
    const void *const *inputs; // host array of device pointers
    size_t adds;
    const uint16_t (*pairs)[2]; // host: {into, from}
    size_t result;
    void *output;              // may be an input of the same type
    LsDtype type, output_type; // F32; of inputs and output, each also BF16 where sums are rounded
    bool rounded;
} LsTreeAdd;
enum { LS_TREE_INPUTS = 256 };

// Decides the step from what all ranks exchanged (design: "one small exchange"). Sums in float64 in an order
// that the counts alone fix: loss = sum of lane_loss[lane_index[l]] / samples over l; norm = sqrt(sum of
// block_squares[block_index[b]]) / loss_scale. Not finite loss or norm: skip. Otherwise updates += 1,
// gradient_factor = min(1, clip_norm / norm) / loss_scale, bias corrections. step += 1 either way. A vote
// `error` of any rank makes the step a skip that counts as nothing else.
//
// Dynamic loss scaling (Micikevicius et al., ICLR 2018), with growth_interval above 0: a skip halves the
// scale (not below 1), growth_interval good steps in a row double it (not above 2^24). The factor uses the
// scale that the step's gradients were computed with.
//
// Spikes, with `spike` above 0: a step whose loss or norm x lies more than `spike` robust standard deviations
// above the median m of the newest `window` good steps, (x - m) / (1.4826 median |x_i - m|) > spike (the
// modified z-score of Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993; the factor makes the
// median deviation that of a normal distribution), is skipped: skipped_in_row += 1 and nothing else. So that
// a window without deviation makes no spike of any noise, the divisor is at least a hundredth of |m|, and
// 10^-6. Below the median nothing is a spike, and while the window holds fewer entries nothing is. A step
// that makes an update enters the window.
//
// Checked arithmetic, with check_words above 0: the words from first_check and those from second_check on are
// what two ranks found of one lane. When a bit of them differs and no rank failed, skip is LS_SKIP_WRONG and
// all else in control, step included, stays as it was.
typedef struct LsDecideStep {
    size_t lanes, blocks;
    size_t ranks, rank_words;    // words of rank r: [r × rank_words, (r + 1) × rank_words), LsVotes first
    const float *words;          // the gathered exchange, read at the indexes below
    const uint32_t *lane_index;  // [lanes] where each lane's loss sum is
    const uint32_t *block_index; // [blocks] where each block's sum of squares is
    double samples;              // of the global batch
    float learning_rate;         // of this step
    float clip_norm;             // 0: no clipping
    float beta1, beta2;
    int32_t growth_interval; // 0: the loss scale stays
    float spike;             // robust z-score, 0: window and scores are left alone
    int32_t window;          // 1 to LS_SPIKE_WINDOW_MAX
    size_t check_words, first_check, second_check;
    LsStepOutcome *outcome; // device memory: control and window are read and written, votes and scores
                            // written (of votes the largest of each)
} LsDecideStep;

// Rates of their own for tensors (LARS: You, Gitman and Ginsburg, Large Batch Training of Convolutional
// Networks, 2017): ratio = trust·|w| / (|g|·factor + decay·|w| + epsilon) for each block of a tensor that
// adapts; 1 for others, and where |w| or |g| is zero. |w| and |g| are roots of sums of the blocks' squares as
// they were exchanged, in float64 in an order that the counts alone fix. Behind the decision of the step,
// whose factor it reads; nothing is written when it says skip.
typedef struct LsTrustRatios {
    size_t tensors;
    const uint32_t
        *first; // [tensors + 1] block where each tensor begins, and behind the last the number of all
    const uint8_t *adapts;                         // [tensors]
    const float *words;                            // the gathered exchange
    const uint32_t *gradient_index, *weight_index; // [blocks] where each block's squares are
    float trust, weight_decay, epsilon;
    const LsStepControl *control;
    float *ratio; // [blocks]
} LsTrustRatios;

// Adds to *sum the fingerprint of the bits of `n` elements: the sum, modulo 2^64, of a bijective mix of each
// element's bits and its number `first` + i. One changed element always changes it, several do but for a
// chance of 2^-64; no order of additions does. So ranges can be added one by one.
typedef struct LsFingerprint {
    size_t n;
    const float *x;
    uint64_t first;
    uint64_t *sum; // device, read and written
} LsFingerprint;

// One optimizer pass over pieces of the flat buffers. Reads *control: does nothing when it says skip.
// SGD: g' = ratio·(g·factor + decay·w), ratio being 1 but for LARS; m = momentum·m + g'; w -= lr·(nesterov ?
// g' + momentum·m : m). AdamW (Loshchilov and Hutter, ICLR 2019): w -= lr·decay·w; m, v moments of g·factor;
// w -= lr·(m/c1) / (sqrt(v/c2) + epsilon).
//
// Statistics are no weights: no rate, factor, decay or moment has a part in them. Of each pair (mean,
// variance) the "gradient" is (D, Q), the averages over all microbatches of d and of the batch variance + d²,
// d being the batch mean less r, the running mean as the model reads it. So r + D is the mean and Q - D² the
// variance of all microbatches pooled, and, m being statistics_rate: mean = (1 - m)·mean + m·(r + D),
// variance = (1 - m)·variance + m·max(0, Q - D²). Differences to r keep Q - D² from cancelling where means
// are large.
//
// Averages follow every updated element, statistics among them: average += average_rate·(w - average).
typedef struct LsOptimizerPiece {
    size_t n;      // elements, whole blocks
    float *master; // F32 weights
    const float *gradient;
    float *moment1;            // momentum or Adam's m; NULL for SGD without momentum
    float *moment2;            // Adam's v; NULL for SGD
    void *weights;             // rounded copy for the products; NULL when the master weights serve
    const uint8_t *block_kind; // [n / LS_BLOCK] LsBlockKind
    float *average;            // of the master weights over the steps; NULL: none
    const float *block_ratio;  // [n / LS_BLOCK] see LsTrustRatios; NULL: 1
} LsOptimizerPiece;

typedef struct LsOptimizerStep {
    size_t count;
    const LsOptimizerPiece *piece; // host: [count]
    int kind;                      // LsOptimizerKind; LARS is SGD with ratios
    LsDtype type;                  // of the pieces' weights
    float momentum, beta1, beta2, epsilon, weight_decay;
    bool nesterov;
    float statistics_rate, average_rate;
    const LsStepControl *control;
} LsOptimizerStep;

// ---- Language models ------------------------------------------------------------------------------------
// Rows are tokens: row b × T + t is token t of window b. C channels; T tokens of a window. Scratch memory is
// aligned to 4 bytes at least, read and written by the one call that it is given to, and may be lent to the
// next. A window's results do not depend on the windows beside it, but for sums over rows.

// y[r][c] = table[tokens[r]][c] + positions[r mod window][c], added in F32.
typedef struct LsEmbedding {
    size_t rows, window, columns; // rows is a multiple of window
    const int32_t *tokens; // [rows]; a token beyond the vocabulary is LS_BAD_DATA on hosts, NaN elsewhere
    size_t vocabulary;
    const void *table;     // [vocabulary][columns]
    const void *positions; // [at least window][columns]
    void *y;               // [rows][columns]
    LsDtype type;          // of table, positions and y
} LsEmbedding;

// dtable[v] += sum of dy[r] over rows with tokens[r] = v; dpositions[t] (+)= sum over windows; each in an
// order that the tokens and the shape alone fix: rows are sorted by token (stable) in `scratch`, and runs of
// them summed in ascending order, without float atomics. dtable is always added to: the output layer that is
// tied to it was there first. Tokens beyond the vocabulary as in LsEmbedding: elsewhere than on hosts they
// leave NaN in dpositions, and dtable gets nothing of them.
typedef struct LsEmbeddingGradient {
    size_t rows, window, columns;
    const int32_t *tokens;
    size_t vocabulary;
    const void *dy;
    LsDtype type; // of dy
    float *dtable, *dpositions;
    bool accumulate; // of dpositions
    void *scratch;   // ls_embedding_scratch(rows, vocabulary, columns) bytes
} LsEmbeddingGradient;
size_t ls_embedding_scratch(size_t rows, size_t vocabulary, size_t columns);

// sum = x + branch (branch NULL: sum is x itself and is not written), then y = (sum - mean) · rstd · weight +
// bias for each row (Ba, Kiros and Hinton 2016): mean and variance (over C, not C - 1) in F32 or wider of the
// rounded sum, rstd = 1 / sqrt(variance + 1e-5).
typedef struct LsLayerNorm {
    size_t rows, columns;
    const void *x, *branch;
    void *sum; // [rows][columns]; may be x; not used without a branch
    const void *weight, *bias;
    void *y;
    float *mean, *rstd; // [rows], kept for backward, which normalises with them as they are stored
    LsDtype type;
} LsLayerNorm;

// dx = residual + d(loss)/d(sum), where residual is the gradient that reached `sum` past the normalisation
// (NULL: none; dx may be residual). dweight, dbias (+)= sums over rows in a fixed order, in one pass over x
// and dy.
typedef struct LsLayerNormBackward {
    size_t rows, columns;
    const void *x; // the sum that was normalised
    const void *dy, *weight;
    const float *mean, *rstd;
    const void *residual;
    void *dx;
    LsDtype type;
    float *dweight, *dbias;
    bool accumulate;
    void *scratch; // ls_layer_norm_scratch(rows, columns) bytes
} LsLayerNormBackward;
size_t ls_layer_norm_scratch(size_t rows, size_t columns);

// Causal self-attention over packed projections: qkv[b·T + t] = [q | k | v], each heads × size values. For
// each window and head, out[t] = sum over s <= t of softmax_s(q[t]·k[s] · scale) v[s], scale = 1 /
// sqrt(size). Computed block by block with a running maximum and sum (Dao et al., FlashAttention, NeurIPS
// 2022): nothing of size T × T is stored. log_sum[window][head][t] = log of the row's sum of exponentials of
// (scaled) scores, kept for backward. 16-bit types: weights, and in the backward pass the gradients of
// scores, are rounded to the type for their products; sums are in F32 or wider. A NaN reaches the rows that
// may see it.
typedef struct LsAttention {
    size_t windows, window, heads, size;
    size_t first;    // rows of out and log_sum before it are left as they are, their keys and values count; 0
                     // but in generation, which asks for the newest row alone
    const void *qkv; // [windows × window][3 × heads × size]
    void *out;       // [windows × window][heads × size]
    float *log_sum;  // [windows][heads][window]
    LsDtype type;
} LsAttention;

// dqkv from dout; deterministic: each block of keys adds over queries in ascending order and each block of
// queries over keys. dqkv must not overlap qkv.
typedef struct LsAttentionBackward {
    size_t windows, window, heads, size;
    const void *qkv, *out, *dout;
    const float *log_sum;
    void *dqkv;
    LsDtype type;
    void *scratch; // ls_attention_scratch bytes
} LsAttentionBackward;
size_t ls_attention_scratch(size_t windows, size_t window, size_t heads, size_t size);

// The most device memory that a GPU's library (cuDNN) uses for it beside its arguments: 0 where our own
// kernels work.
size_t ls_attention_library_bytes(size_t windows, size_t window, size_t heads, size_t size, LsDtype type);

#endif
