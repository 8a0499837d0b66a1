// Float64 models of the ops of language models, and how far a float32 computation may be from them.
#include <math.h>

#include "op_language.h"

// ---- Embedding ------------------------------------------------------------------------------------------

static void expect_embedding(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    const int32_t *tokens = image[0];
    for (size_t r = 0; r < op->rows; r++)
        for (size_t c = 0; c < op->columns; c++) {
            size_t i = r * op->columns + c, token = (size_t)tokens[r], position = r % op->window;
            value[3][i] = ls_op_number(image[1], op->type, token * op->columns + c) +
                          ls_op_number(image[2], op->type, position * op->columns + c);
            scale[3][i] = fabs(value[3][i]);
        }
}

static void add_term(double *value, double *scale, double term)
{
    *value += term;
    *scale += fabs(term);
}

static void expect_embedding_gradient(
    const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    const int32_t *tokens = image[0];
    for (size_t i = 0; i < op->depth * op->columns; i++)
        add_term(&value[2][i], &scale[2][i], ((const float *)image[2])[i]);
    for (size_t i = 0; op->accumulate && i < op->window * op->columns; i++)
        add_term(&value[3][i], &scale[3][i], ((const float *)image[3])[i]);
    for (size_t r = 0; r < op->rows; r++)
        for (size_t c = 0; c < op->columns; c++) {
            double dy = ls_op_number(image[1], op->type, r * op->columns + c);
            size_t token = (size_t)tokens[r] * op->columns + c;
            size_t position = r % op->window * op->columns + c;
            add_term(&value[2][token], &scale[2][token], dy);
            add_term(&value[3][position], &scale[3][position], dy);
        }
}

// ---- Layer normalisation --------------------------------------------------------------------------------

static double rounded(LsDtype type, double x)
{
    float number;
    ls_op_store(&number, type, 0, (float)x);
    return ls_op_number(&number, type, 0);
}

static double normalized_input(const LsOpCase *op, void *const image[], size_t i)
{
    double x = ls_op_number(image[0], op->type, i);
    return op->branch ? rounded(op->type, x + ls_op_number(image[1], op->type, i)) : x;
}

// Rounding errors of a distance from the mean are relative to the row's largest number; those of rstd also to
// that number over the standard deviation, by which an error of all distances changes the variance.
static void expect_norm_row(
    const LsOpCase *op, void *const image[], size_t row, double *value[], double *scale[])
{
    size_t columns = op->columns, first = row * columns, sum_buffer = op->in_place ? 0 : 4;
    double mean = 0, variance = 0, largest = 0;
    for (size_t i = first; i < first + columns; i++) {
        double x = normalized_input(op, image, i);
        mean += x / (double)columns;
        largest = fmax(largest, fabs(x));
        if (op->branch)
            value[sum_buffer][i] = x, scale[sum_buffer][i] = fabs(x);
    }
    for (size_t i = first; i < first + columns; i++)
        variance += pow(normalized_input(op, image, i) - mean, 2) / (double)columns;
    double rstd = 1 / sqrt(variance + 1e-5), relative = 1 + largest * rstd;
    for (size_t c = 0; c < columns; c++) {
        double normal = (normalized_input(op, image, first + c) - mean) * rstd;
        double weight = ls_op_number(image[2], op->type, c), bias = ls_op_number(image[3], op->type, c);
        value[5][first + c] = normal * weight + bias;
        scale[5][first + c] = fabs(weight) * (2 * largest * rstd + fabs(normal) * relative) + fabs(bias);
    }
    value[6][row] = mean, scale[6][row] = largest;
    value[7][row] = rstd, scale[7][row] = rstd * relative;
}

// With the given mean and rstd, which need not be those of the row.
static void expect_norm_gradient(
    const LsOpCase *op, void *const image[], size_t row, double *value[], double *scale[])
{
    size_t columns = op->columns, first = row * columns, dx = op->branch && op->in_place ? 5 : 6;
    double mean = ((const float *)image[3])[row], rstd = ((const float *)image[4])[row];
    double sum = 0, along = 0, sum_size = 0, along_size = 0;
    for (size_t c = 0; c < columns; c++) {
        double dy = ls_op_number(image[1], op->type, first + c),
               x = ls_op_number(image[0], op->type, first + c);
        double g = dy * ls_op_number(image[2], op->type, c), normal = (x - mean) * rstd;
        double size = (fabs(x) + fabs(mean)) * rstd;
        sum += g / (double)columns, sum_size += fabs(g) / (double)columns;
        along += g * normal / (double)columns, along_size += fabs(g) * size / (double)columns;
        value[7][c] += dy * normal, scale[7][c] += fabs(dy) * size;
        value[8][c] += dy, scale[8][c] += fabs(dy);
    }
    for (size_t c = 0; c < columns; c++) {
        double x = ls_op_number(image[0], op->type, first + c), normal = (x - mean) * rstd;
        double g = ls_op_number(image[1], op->type, first + c) * ls_op_number(image[2], op->type, c);
        double residual = op->branch ? ls_op_number(image[5], op->type, first + c) : 0;
        double size = (fabs(x) + fabs(mean)) * rstd;
        value[dx][first + c] = residual + rstd * (g - sum - normal * along);
        scale[dx][first + c] = fabs(residual) + rstd * (fabs(g) + sum_size + size * along_size);
    }
}

static void expect_layer_norm_backward(
    const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    for (size_t c = 0; op->accumulate && c < op->columns; c++)
        for (size_t i = 7; i <= 8; i++)
            add_term(&value[i][c], &scale[i][c], ((const float *)image[i])[c]);
    for (size_t r = 0; r < op->rows; r++)
        expect_norm_gradient(op, image, r, value, scale);
}

// ---- Attention ------------------------------------------------------------------------------------------

// Number i of part 0, 1 or 2 (q, k, v) of a head's row.
static size_t packed_index(const LsOpCase *op, size_t row, size_t head, size_t part, size_t i)
{
    return ((row * 3 + part) * op->heads + head) * op->columns + i;
}

static size_t plain_index(const LsOpCase *op, size_t row, size_t head, size_t i)
{
    return (row * op->heads + head) * op->columns + i;
}

static double score(const LsOpCase *op, const void *qkv, size_t head, size_t query, size_t key)
{
    double sum = 0;
    for (size_t i = 0; i < op->columns; i++)
        sum += ls_op_number(qkv, op->type, packed_index(op, query, head, 0, i)) *
               ls_op_number(qkv, op->type, packed_index(op, key, head, 1, i));
    return sum / sqrt((double)op->columns);
}

static double log_sum_of(const LsOpCase *op, const void *qkv, size_t head, size_t query)
{
    double largest = -INFINITY, sum = 0;
    for (size_t key = query / op->window * op->window; key <= query; key++) {
        double x = score(op, qkv, head, query, key);
        sum = x > largest ? sum * exp(largest - x) + 1 : sum + exp(x - largest);
        largest = fmax(largest, x);
    }
    return largest + log(sum);
}

// out[row][head][…] and the sizes of its terms, both zero before.
static void expect_attention_row(const LsOpCase *op, const void *qkv, size_t head, size_t query,
    double *value, double *scale, double *log_sum)
{
    *log_sum = log_sum_of(op, qkv, head, query);
    for (size_t key = query / op->window * op->window; key <= query; key++) {
        double weight = exp(score(op, qkv, head, query, key) - *log_sum);
        for (size_t i = 0; i < op->columns; i++)
            add_term(&value[i], &scale[i],
                weight * ls_op_number(qkv, op->type, packed_index(op, key, head, 2, i)));
    }
}

static void expect_attention(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    for (size_t row = 0; row < op->rows; row++)
        for (size_t head = 0; head < op->heads; head++) {
            size_t first = plain_index(op, row, head, 0);
            size_t sum = (row / op->window * op->heads + head) * op->window + row % op->window;
            expect_attention_row(op, image[0], head, row, value[1] + first, scale[1] + first, &value[2][sum]);
            scale[2][sum] = 1 + fabs(value[2][sum]);
        }
}

enum { MOST_SIZE = 256 };

void ls_op_language_derive(const LsOpCase *op, void *const image[])
{
    if (op->kind != LS_OP_ATTENTION_BACKWARD)
        return;
    for (size_t row = 0; row < op->rows; row++)
        for (size_t head = 0; head < op->heads; head++) {
            double value[MOST_SIZE] = {0}, scale[MOST_SIZE] = {0}, log_sum;
            expect_attention_row(op, image[0], head, row, value, scale, &log_sum);
            for (size_t i = 0; i < op->columns; i++)
                ls_op_store(image[1], op->type, plain_index(op, row, head, i), (float)value[i]);
            size_t sum = (row / op->window * op->heads + head) * op->window + row % op->window;
            ((float *)image[3])[sum] = (float)log_sum;
        }
}

// What a pair of query and key adds to the gradients. A score's gradient is weight × (dout · v - dout · out):
// its error is relative to the sizes of the terms of both products, however much of them cancels.
static void expect_pair(const LsOpCase *op, void *const image[], size_t head, size_t query, size_t key,
    double *value, double *scale)
{
    double slope = 0, size = 0, root = sqrt((double)op->columns);
    for (size_t i = 0; i < op->columns; i++) {
        double dout = ls_op_number(image[2], op->type, plain_index(op, query, head, i));
        double v = ls_op_number(image[0], op->type, packed_index(op, key, head, 2, i));
        double out = ls_op_number(image[1], op->type, plain_index(op, query, head, i));
        slope += dout * v - dout * out;
        size += fabs(dout * v) + fabs(dout * out);
    }
    size_t sum = (query / op->window * op->heads + head) * op->window + query % op->window;
    double weight = exp(score(op, image[0], head, query, key) - ((const float *)image[3])[sum]);
    for (size_t i = 0; i < op->columns; i++) {
        size_t q = packed_index(op, query, head, 0, i), k = packed_index(op, key, head, 1, i);
        size_t v = packed_index(op, key, head, 2, i);
        double dout = ls_op_number(image[2], op->type, plain_index(op, query, head, i));
        double query_number = ls_op_number(image[0], op->type, q),
               key_number = ls_op_number(image[0], op->type, k);
        value[q] += weight * slope / root * key_number;
        scale[q] += weight * size / root * fabs(key_number);
        value[k] += weight * slope / root * query_number;
        scale[k] += weight * size / root * fabs(query_number);
        add_term(&value[v], &scale[v], weight * dout);
    }
}

static void expect_attention_backward(
    const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    for (size_t head = 0; head < op->heads; head++)
        for (size_t query = 0; query < op->rows; query++)
            for (size_t key = query / op->window * op->window; key <= query; key++)
                expect_pair(op, image, head, query, key, value[4], scale[4]);
}

// ---- All of them ----------------------------------------------------------------------------------------

void ls_op_language_expect(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    switch (op->kind) {
    case LS_OP_EMBEDDING:
        expect_embedding(op, image, value, scale);
        return;
    case LS_OP_EMBEDDING_GRADIENT:
        expect_embedding_gradient(op, image, value, scale);
        return;
    case LS_OP_LAYER_NORM:
        for (size_t r = 0; r < op->rows; r++)
            expect_norm_row(op, image, r, value, scale);
        return;
    case LS_OP_LAYER_NORM_BACKWARD:
        expect_layer_norm_backward(op, image, value, scale);
        return;
    case LS_OP_ATTENTION:
        expect_attention(op, image, value, scale);
        return;
    default:
        expect_attention_backward(op, image, value, scale);
    }
}

// Units of 2^-24 × scale, as in op_expect.c.
double ls_op_language_units(const LsOpCase *op)
{
    double size = (double)op->columns;
    switch (op->kind) {
    case LS_OP_EMBEDDING:
        return 1; // one addition
    case LS_OP_EMBEDDING_GRADIENT:
        return (double)op->rows + 2;
    case LS_OP_LAYER_NORM:
        return size + 16; // sums over the row, and a dozen roundings of an element
    case LS_OP_LAYER_NORM_BACKWARD:
        return size + (double)op->rows + 16;
    default:
        // A score is a sum of `size` products of numbers up to 4, divided by sqrt(size): its terms add up to
        // at most 16 sqrt(size), and its error, as that of a product (op_expect.c), to 2 (size + 8) units of
        // them. The exponential makes it a relative error of the weight, and of the weights' sum as well.
        // Sums over up to `window` weights, and over `size` terms of a slope, come on top.
        return 2 * (2 * (size + 8) * 16 * sqrt(size)) + 2 * ((double)op->window + size + 16);
    }
}
