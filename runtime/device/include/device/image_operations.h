// Arguments of the operations of image models: convolutions, batch normalisation, pooling. As in
// operations.h, pointers are device memory and types are F32, BF16 or F16.
//
// Images are [rows][height][width][channels] (NHWC), filters [out][kernel][kernel][in] (KRSC): the values of
// one place lie side by side, so that to an operation of channels alone an image is a matrix of `places` =
// rows × height × width by channels. Windows are square, and what they reach beyond the edges counts as zero
// (convolutions) or does not count (maxima).
//
// Sums are taken in F32 or wider, in an order that the shape alone fixes. NaN passes through everything.
// Scratch memory is aligned to 4 bytes at least, read and written by the one call that it is given to, and
// may be lent to the next.
#ifndef LOCKSTEP_DEVICE_IMAGE_OPERATIONS_H
#define LOCKSTEP_DEVICE_IMAGE_OPERATIONS_H

#include "device/operations.h"

// How a window moves over images: `rows` of them, height × width, each side.
typedef struct LsImageWindow {
    size_t rows, height, width; // of what it moves over
    size_t kernel;              // its side
    size_t stride, padding;     // padding: on each of the four sides, less than kernel
} LsImageWindow;

// Places of one side of the result for one of length `side`: those at which the whole window lies within the
// padded side, which is at least one.
static inline size_t ls_image_places(const LsImageWindow *window, size_t side)
{
    return (side + 2 * window->padding - window->kernel) / window->stride + 1;
}

// ---- Convolutions ---------------------------------------------------------------------------------------

typedef struct LsConvolutionShape {
    LsImageWindow window; // over the input
    size_t in, out;       // channels
} LsConvolutionShape;

// y[r][h][w][o] = sum over i, j, c of x[r][h·stride + i - padding][w·stride + j - padding][c] ·
// weight[o][i][j][c].
typedef struct LsConvolution {
    LsConvolutionShape shape;
    const void *x, *weight;
    void *y;
    LsDtype type; // of all
} LsConvolution;

// dx from dy: the sum over the windows that an element of the input is in. Overwrites dx.
typedef struct LsConvolutionBackwardData {
    LsConvolutionShape shape;
    const void *dy, *weight;
    void *dx;
    LsDtype type;
} LsConvolutionBackwardData;

// dweight (+)= sum over rows and places of x · dy.
typedef struct LsConvolutionBackwardWeights {
    LsConvolutionShape shape;
    const void *x, *dy;
    LsDtype type; // of x and dy
    float *dweight;
    bool accumulate;
    void *scratch; // ls_convolution_scratch bytes: a second dweight, for libraries that cannot add to one
} LsConvolutionBackwardWeights;
size_t ls_convolution_scratch(const LsConvolutionShape *shape);

// The most device memory that a GPU may take by itself for one of the three, by a library or our own kernels.
size_t ls_convolution_library_bytes(const LsConvolutionShape *shape);

// ---- Batch normalisation --------------------------------------------------------------------------------

// What is added to a variance.
#define LS_BATCH_NORM_EPSILON 1e-5f

// A running variance as normalisation uses it. F16 ends at 65504: as a working weight, a variance beyond
// that, of a deviation above 256, is infinite, and would make a constant of its channel. It counts as 65504
// instead, which normalises by too little (by a deviation of 256) but keeps the channel. NaN stays NaN.
static inline LS_HOST_DEVICE float ls_running_variance(float value)
{
    return value > 0x1.fffffep127f ? 65504.0f : value;
}

// y = activation((x - mean) · rstd · gamma + beta + residual), rstd = 1 / sqrt(variance + epsilon) (Ioffe and
// Szegedy, ICML 2015). Without `running`, mean and variance (over all places, not one less) are those of x
// and are kept for backward; the variance comes from distances from the mean, or as exactly. With `running`
// they are given, and mean and variance stay as they are. y may be x or residual.
typedef struct LsBatchNorm {
    size_t places, channels;
    const void *x;            // [places][channels]
    const void *gamma, *beta; // [channels]
    const void *running;      // [channels][2]: mean, variance (see above); NULL: those of x
    const void *residual;     // [places][channels]; NULL: none
    LsActivation activation;  // IDENTITY or RELU
    void *y;
    LsDtype type;           // of x, gamma, beta, running, residual and y
    float *mean, *variance; // [channels]
    void *scratch;          // ls_batch_norm_scratch bytes
} LsBatchNorm;

// With g the gradient of what is before the activation, (dy + other) where y is not at most 0 for RELU:
// dgamma (+)= sum of g · normal and dbeta (+)= sum of g over places, normal = (x - mean) · rstd;
// dx = gamma · rstd · (g - mean of g - normal · mean of g · normal). g itself, which is the residual's
// gradient, goes to dresidual, rounded; where it does, what follows may read it from there.
//
// statistics[c] (+)= weight · (d, variance[c] + d²), where d = mean[c] - running[c][0]: from the sums of
// these over microbatches, with weights that add up to 1, follow mean and variance of all their places
// together, whatever `running` is, without the cancellation that sums of squares would bring.
typedef struct LsBatchNormBackward {
    size_t places, channels;
    const void *x, *y; // y: of RELU, else not used
    const void *dy;
    const void *other; // a second gradient that reached y; NULL: none
    const void *gamma;
    const float *mean, *variance;
    LsActivation activation;
    void *dresidual; // NULL: not wanted; may be dy or other
    void *dx;        // may be dy or other, but not dresidual
    float *dgamma, *dbeta;
    const void *running; // [channels][2], as forward would be given it
    float *statistics;   // [channels][2]; NULL: not wanted
    float statistics_weight;
    bool accumulate; // of dgamma, dbeta and statistics
    LsDtype type;    // of x, y, dy, other, gamma, dresidual, dx and running
    void *scratch;   // ls_batch_norm_scratch bytes
} LsBatchNormBackward;
size_t ls_batch_norm_scratch(size_t places, size_t channels);

// ---- Pooling --------------------------------------------------------------------------------------------

// y = the largest value of each window, NaN if there is one; place = where in its window it is, i × kernel +
// j: the first largest, or the first NaN.
typedef struct LsMaxPool {
    LsImageWindow window; // kernel at most 16
    size_t channels;
    const void *x;
    void *y;
    uint8_t *place; // [rows][places of height][places of width][channels]; NULL: not wanted
    LsDtype type;
} LsMaxPool;

// dx = the sum, row by row of windows, of dy of the windows whose maximum an element is. Overwrites dx.
typedef struct LsMaxPoolBackward {
    LsImageWindow window;
    size_t channels;
    const void *dy;
    const uint8_t *place;
    void *dx;
    LsDtype type;
} LsMaxPoolBackward;

// y[r][c] = the mean of x[r][p][c] over `places` p.
typedef struct LsAveragePool {
    size_t rows, places, channels;
    const void *x; // [rows][places][channels]
    void *y;       // [rows][channels]
    LsDtype type;
} LsAveragePool;

// dx[r][p][c] = dy[r][c] / places.
typedef struct LsAveragePoolBackward {
    size_t rows, places, channels;
    const void *dy;
    void *dx;
    LsDtype type;
} LsAveragePoolBackward;

#endif
