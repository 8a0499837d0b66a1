// Resampling with a triangle filter, along rows and then along columns, in whole numbers.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

enum { WEIGHT_BITS = 14, WEIGHT_ONE = 1 << WEIGHT_BITS, PIECE = 256 };

// Where the pixels of one axis come from: pixel i is the sum of count[i] source pixels from first[i] on,
// times weight[i × taps …], which are WEIGHT_ONE together.
typedef struct Axis {
    size_t size, taps;
    size_t *first, *count;
    int32_t *weight;
} Axis;

static void release_axis(Axis *axis)
{
    free(axis->first);
    free(axis->count);
    free(axis->weight);
}

// The weights of one pixel whose centre lies at `centre` of the source, rounded so that they add up.
static void weigh(double centre, double support, size_t source, size_t *first, size_t *count, int32_t *weight)
{
    // Only pixels whose centres lie within the support have a weight.
    double low = floor(centre - support - 0.5) + 1, high = ceil(centre + support - 0.5), total = 0;
    size_t begin = low < 0 ? 0 : (size_t)low, end = high > (double)source ? source : (size_t)high,
           largest = 0;
    for (size_t i = begin; i < end; i++)
        total += fmax(0, 1 - fabs((double)i + 0.5 - centre) / support);
    int32_t left = WEIGHT_ONE;
    for (size_t i = begin; i < end; i++) {
        double share = fmax(0, 1 - fabs((double)i + 0.5 - centre) / support) / total;
        weight[i - begin] = (int32_t)nearbyint(share * WEIGHT_ONE);
        left -= weight[i - begin];
        if (weight[i - begin] > weight[largest])
            largest = i - begin;
    }
    weight[largest] += left;
    *first = begin;
    *count = end - begin;
}

// `scale`: source pixels for one; `offset`: of the source, where the part that is wanted begins.
static LsStatus plan_axis(size_t source, size_t size, double offset, double scale, Axis *axis)
{
    double support = scale > 1 ? scale : 1;
    *axis = (Axis){.size = size, .taps = 2 * (size_t)ceil(support) + 2};
    axis->first = malloc(size * sizeof *axis->first);
    axis->count = malloc(size * sizeof *axis->count);
    axis->weight = calloc(size * axis->taps, sizeof *axis->weight);
    if (axis->first == NULL || axis->count == NULL || axis->weight == NULL)
        return LS_FAIL(LS_INTERNAL, "no memory to resize an image");
    for (size_t i = 0; i < size; i++)
        weigh(offset + ((double)i + 0.5) * scale, support, source, &axis->first[i], &axis->count[i],
            axis->weight + i * axis->taps);
    return LS_OK;
}

static inline uint8_t rounded(int32_t sum)
{
    return (uint8_t)((sum + WEIGHT_ONE / 2) >> WEIGHT_BITS); // weights are not negative and add up to one
}

// The number of channels is a constant where it is called.
static inline void resample_row(const Axis *axis, const uint8_t *from, size_t channels, uint8_t *to)
{
    for (size_t i = 0; i < axis->size; i++) {
        const int32_t *weight = axis->weight + i * axis->taps;
        const uint8_t *pixel = from + axis->first[i] * channels;
        int32_t sum[3] = {0};
        for (size_t t = 0; t < axis->count[i]; t++)
            for (size_t c = 0; c < channels; c++)
                sum[c] += weight[t] * *pixel++;
        for (size_t c = 0; c < channels; c++)
            *to++ = rounded(sum[c]);
    }
}

// A piece of a row for each source row in turn, so that the compiler's loops are over neighbours.
static void resample_column(
    const Axis *axis, size_t i, const uint8_t *rows, size_t first_row, size_t row_bytes, uint8_t *to)
{
    const int32_t *weight = axis->weight + i * axis->taps;
    const uint8_t *from = rows + (axis->first[i] - first_row) * row_bytes;
    for (size_t start = 0, size; start < row_bytes; start += size) {
        int32_t sum[PIECE] = {0};
        size = row_bytes - start < PIECE ? row_bytes - start : PIECE;
        for (size_t t = 0; t < axis->count[i]; t++)
            for (size_t b = 0; b < size; b++)
                sum[b] += weight[t] * from[t * row_bytes + start + b];
        for (size_t b = 0; b < size; b++)
            to[start + b] = rounded(sum[b]);
    }
}

static LsStatus resample(const LsImage *image, const Axis *down, const Axis *across, uint8_t *out)
{
    size_t row_bytes = across->size * image->channels, last = down->size - 1, first_row = down->first[0];
    size_t rows = down->first[last] + down->count[last] - first_row;
    uint8_t *narrow = malloc(rows * row_bytes);
    if (narrow == NULL)
        return LS_FAIL(LS_INTERNAL, "no memory to resize an image");
    for (size_t r = 0; r < rows; r++) {
        const uint8_t *from = image->pixels + (first_row + r) * image->width * image->channels;
        if (image->channels == 3)
            resample_row(across, from, 3, narrow + r * row_bytes);
        else
            resample_row(across, from, 1, narrow + r * row_bytes);
    }
    for (size_t i = 0; i < down->size; i++)
        resample_column(down, i, narrow, first_row, row_bytes, out + i * row_bytes);
    free(narrow);
    return LS_OK;
}

// `down` and `across`: source pixels for one, from `top` and `left` on.
static LsStatus resize_from(const LsImage *image, double top, double down, double left, double across,
    size_t height, size_t width, uint8_t *out)
{
    Axis rows = {0}, columns = {0};
    LsStatus status = plan_axis(image->height, height, top, down, &rows);
    if (status == LS_OK)
        status = plan_axis(image->width, width, left, across, &columns);
    if (status == LS_OK)
        status = resample(image, &rows, &columns, out);
    release_axis(&rows);
    release_axis(&columns);
    return status;
}

LsStatus ls_image_resize(const LsImage *image, size_t height, size_t width, uint8_t *out)
{
    if (image->height == height && image->width == width) {
        memcpy(out, image->pixels, height * width * image->channels);
        return LS_OK;
    }
    double rows = (double)image->height, columns = (double)image->width;
    double scale = fmin(rows / (double)height, columns / (double)width);
    return resize_from(image, (rows - scale * (double)height) / 2, scale,
        (columns - scale * (double)width) / 2, scale, height, width, out);
}

LsStatus ls_image_resize_part(
    const LsImage *image, const LsImagePart *part, size_t height, size_t width, uint8_t *out)
{
    return resize_from(image, (double)part->top, (double)part->height / (double)height, (double)part->left,
        (double)part->width / (double)width, height, width, out);
}
