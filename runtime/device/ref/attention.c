// Reference causal attention: every score is computed where it is needed and none is stored.
#include <math.h>
#include <string.h>

#include "ref.h"

enum { TILE = 64 }; // columns whose sums are kept at a time

// One head of one window, seen through the packed projections.
typedef struct Head {
    const void *qkv, *out, *dout;
    LsDtype type;
    size_t first;         // row of the window's first token
    size_t packed, width; // values of a row of qkv and of out
    size_t column, size;  // where the head begins, its values
    const float *log_sum; // [window]
} Head;

static double at(const Head *head, int part, size_t t, size_t i)
{
    size_t row = (head->first + t) * head->packed + (size_t)part * head->width;
    return ls_ref_load(head->qkv, head->type, row + head->column + i);
}

enum { Q, K, V };

static double score(const Head *head, size_t t, size_t s)
{
    double sum = 0;
    for (size_t i = 0; i < head->size; i++)
        sum += at(head, Q, t, i) * at(head, K, s, i);
    return sum / sqrt((double)head->size);
}

static size_t out_index(const Head *head, size_t t, size_t i)
{
    return (head->first + t) * head->width + head->column + i;
}

// ---- Forward --------------------------------------------------------------------------------------------

// The row's softmax times columns first … first + count of v; returns the sum of exponentials.
static double weigh_values(
    const Head *head, size_t t, double largest, size_t first, size_t count, double *sums)
{
    double total = 0;
    memset(sums, 0, count * sizeof *sums);
    for (size_t s = 0; s <= t; s++) {
        double weight = exp(score(head, t, s) - largest);
        total += weight;
        for (size_t j = 0; j < count; j++)
            sums[j] += weight * at(head, V, s, first + j);
    }
    return total;
}

static void attend(const Head *head, size_t t, void *out, float *log_sum)
{
    double sums[TILE], largest = -INFINITY;
    for (size_t s = 0; s <= t; s++) {
        double x = score(head, t, s);
        largest = x > largest ? x : largest;
    }
    for (size_t first = 0; first < head->size; first += TILE) {
        size_t count = head->size - first < TILE ? head->size - first : TILE;
        double total = weigh_values(head, t, largest, first, count, sums);
        for (size_t j = 0; j < count; j++)
            ls_ref_store(out, head->type, out_index(head, t, first + j), (float)(sums[j] / total));
        log_sum[t] = (float)(largest + log(total));
    }
}

LsStatus ls_ref_attention(LsDevice *device, const LsAttention *args)
{
    (void)device;
    LS_TRY(ls_require_attention("attention", args->window, args->heads, args->size, args->type));
    size_t width = args->heads * args->size;
    for (size_t i = 0; i < args->windows * args->heads; i++) {
        Head head = {.qkv = args->qkv,
            .type = args->type,
            .first = i / args->heads * args->window,
            .packed = 3 * width,
            .width = width,
            .column = i % args->heads * args->size,
            .size = args->size};
        for (size_t t = args->first; t < args->window; t++)
            attend(&head, t, args->out, args->log_sum + i * args->window);
    }
    return LS_OK;
}

// ---- Backward -------------------------------------------------------------------------------------------

// The softmax's weight of (t, s), and the gradient of its score.
typedef struct Pair {
    double weight, gradient;
} Pair;

static Pair pair_of(const Head *head, const float *products, size_t t, size_t s)
{
    double weight = exp(score(head, t, s) - head->log_sum[t]), slope = 0;
    for (size_t i = 0; i < head->size; i++)
        slope += ls_ref_load(head->dout, head->type, out_index(head, t, i)) * at(head, V, s, i);
    return (Pair){weight, weight * (slope - products[t]) / sqrt((double)head->size)};
}

static void store_gradient(const Head *head, void *dqkv, int part, size_t t, size_t i, double value)
{
    size_t row = (head->first + t) * head->packed + (size_t)part * head->width;
    ls_ref_store(dqkv, head->type, row + head->column + i, (float)value);
}

static void query_gradient(const Head *head, const float *products, size_t t, void *dqkv)
{
    for (size_t first = 0; first < head->size; first += TILE) {
        size_t count = head->size - first < TILE ? head->size - first : TILE;
        double dq[TILE] = {0};
        for (size_t s = 0; s <= t; s++) {
            Pair pair = pair_of(head, products, t, s);
            for (size_t j = 0; j < count; j++)
                dq[j] += pair.gradient * at(head, K, s, first + j);
        }
        for (size_t j = 0; j < count; j++)
            store_gradient(head, dqkv, Q, t, first + j, dq[j]);
    }
}

static void key_gradient(const Head *head, const float *products, size_t s, size_t window, void *dqkv)
{
    for (size_t first = 0; first < head->size; first += TILE) {
        size_t count = head->size - first < TILE ? head->size - first : TILE;
        double dk[TILE] = {0}, dv[TILE] = {0};
        for (size_t t = s; t < window; t++) {
            Pair pair = pair_of(head, products, t, s);
            for (size_t j = 0; j < count; j++) {
                dk[j] += pair.gradient * at(head, Q, t, first + j);
                dv[j] += pair.weight * ls_ref_load(head->dout, head->type, out_index(head, t, first + j));
            }
        }
        for (size_t j = 0; j < count; j++) {
            store_gradient(head, dqkv, K, s, first + j, dk[j]);
            store_gradient(head, dqkv, V, s, first + j, dv[j]);
        }
    }
}

static void head_gradients(const Head *head, size_t window, float *products, void *dqkv)
{
    for (size_t t = 0; t < window; t++) {
        double product = 0;
        for (size_t i = 0; i < head->size; i++) {
            size_t index = out_index(head, t, i);
            product += (double)ls_ref_load(head->dout, head->type, index) *
                       ls_ref_load(head->out, head->type, index);
        }
        products[t] = (float)product;
    }
    for (size_t t = 0; t < window; t++) {
        query_gradient(head, products, t, dqkv);
        key_gradient(head, products, t, window, dqkv);
    }
}

LsStatus ls_ref_attention_backward(LsDevice *device, const LsAttentionBackward *args)
{
    (void)device;
    LS_TRY(ls_require_attention("attention_backward", args->window, args->heads, args->size, args->type));
    size_t width = args->heads * args->size;
    for (size_t i = 0; i < args->windows * args->heads; i++) {
        Head head = {.qkv = args->qkv,
            .out = args->out,
            .dout = args->dout,
            .type = args->type,
            .first = i / args->heads * args->window,
            .packed = 3 * width,
            .width = width,
            .column = i % args->heads * args->size,
            .size = args->size,
            .log_sum = args->log_sum + i * args->window};
        head_gradients(&head, args->window, (float *)args->scratch + i * args->window, args->dqkv);
    }
    return LS_OK;
}
