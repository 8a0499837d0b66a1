// Dropout in the MLP: the masks are exactly those of the counter-based generator, evaluation has none, and
// the gradient is that of the function with these masks (finite differences in float64).
#include "base/rng.h"
#include "mlp_fixture.h"

enum { ROWS = 6, FEATURES = 5, WIDTH = 8, CLASSES = 3, HIDDEN = 2, LAYERS = HIDDEN + 1 };

static const uint64_t SEED = 12345;
static const double RATE = 0.3;
static const uint64_t POSITIONS[ROWS] = {0, 1, 4, 3, 1000, ((uint64_t)1 << 40) + 7};

static bool keeps(size_t layer, size_t row, size_t column)
{
    uint32_t draw = ls_rng_u32(ls_rng_key(SEED, LS_RNG_DROPOUT + (uint32_t)layer), POSITIONS[row], column);
    return draw >= (uint32_t)(RATE * 4294967296.0);
}

static void configure_dropout(LsConfig *config, bool residual, int activation)
{
    ls_config_defaults(config);
    config->model.hidden = (LsIntList){.count = HIDDEN, .values = {WIDTH, WIDTH}};
    config->model.dropout = RATE;
    config->model.residual = residual;
    config->model.activation = activation;
    config->train.seed = (int64_t)SEED;
}

// A model whose batch is ROWS samples with the positions above.
typedef struct Network {
    LsDevice *device;
    LsModel *model;
    LsBatch batch;
    float x[ROWS * FEATURES];
    int32_t labels[ROWS];
    float *flat; // master weights
    void *weights, *inputs, *device_labels, *positions;
} Network;

static void create_network(Network *n, LsDevice *device, const LsConfig *config, size_t outputs)
{
    *n = (Network){.device = device};
    LsDataShape shape = {.features = FEATURES, .outputs = outputs, .classes = true};
    assert_ok(ls_model_create(config, &shape, device, ROWS, &n->model));
    for (size_t i = 0; i < ROWS * FEATURES; i++)
        n->x[i] = ls_rng_normal(ls_rng_key(1, 77), 0, i);
    for (size_t r = 0; r < ROWS; r++)
        n->labels[r] = (int32_t)(r % outputs);
    n->flat = calloc(n->model->parameters.blocks * LS_BLOCK, sizeof *n->flat);
}

static void upload_network(Network *n)
{
    n->weights = upload_rounded(n->device, n->flat, n->model->parameters.blocks * LS_BLOCK);
    n->inputs = upload_rounded(n->device, n->x, ROWS * FEATURES);
    n->device_labels = upload(n->device, n->labels, sizeof n->labels);
    n->positions = upload(n->device, POSITIONS, sizeof POSITIONS);
    n->batch =
        (LsBatch){.rows = ROWS, .inputs = n->inputs, .labels = n->device_labels, .positions = n->positions};
}

static void destroy_network(Network *n)
{
    const LsDeviceOps *ops = n->device->ops;
    ops->release(n->device, n->positions);
    ops->release(n->device, n->device_labels);
    ops->release(n->device, n->inputs);
    ops->release(n->device, n->weights);
    free(n->flat);
    ls_model_destroy(n->model);
}

static float *tensor(Network *n, const char *name)
{
    const LsParameter *p = ls_parameters_find(&n->model->parameters, name);
    assert_non_null(p);
    return n->flat + p->offset;
}

static void set_identity(float *matrix, float value)
{
    for (size_t i = 0; i < WIDTH; i++)
        matrix[i * WIDTH + i] = value;
}

// Hidden layer 0 gives 1 everywhere (weights 0, biases 1), layer 1 and the outputs pass on what they get: so
// the outputs show both masks, each kept value being 1 / (1 - rate)². BF16 rounds it twice, after each
// dropout, by at most 2^-8 each.
static void check_masks(LsDevice *device)
{
    LsConfig config;
    Network n;
    float outputs[ROWS * WIDTH];
    configure_dropout(&config, false, LS_ACTIVATION_RELU);
    create_network(&n, device, &config, WIDTH);
    for (size_t c = 0; c < WIDTH; c++)
        tensor(&n, "layers.0.bias")[c] = 1;
    set_identity(tensor(&n, "layers.1.weight"), 1);
    set_identity(tensor(&n, "layers.2.weight"), 1);
    upload_network(&n);
    for (int train = 0; train < 2; train++) {
        size_t dropped = 0;
        assert_ok(n.model->ops->forward(n.model, n.weights, &n.batch, train));
        download(device, outputs, n.model->ops->outputs(n.model), sizeof outputs);
        for (size_t r = 0; r < ROWS; r++)
            for (size_t c = 0; c < WIDTH; c++) {
                double kept = train ? 1 / ((1 - RATE) * (1 - RATE)) : 1;
                double wanted = !train || (keeps(0, r, c) && keeps(1, r, c)) ? kept : 0;
                dropped += wanted == 0;
                assert_true(fabs(outputs[r * WIDTH + c] - wanted) <= wanted * 2 / 256);
            }
        assert_int_equal(dropped > 0, train);
    }
    destroy_network(&n);
}

static void masks(void **state)
{
    (void)state;
    for (int which = 0; which < DEVICES; which++)
        for (int precision = LS_PRECISION_FP32; precision <= LS_PRECISION_BF16; precision++) {
            LsDevice *device = open_device(which, precision);
            if (device)
                check_masks(device);
            ls_device_close(device);
        }
}

// ---- The same function in float64 -----------------------------------------------------------------------

typedef struct Function {
    const Network *network;
    bool residual, gelu;
} Function;

static double activate(const Function *f, double z)
{
    if (!f->gelu)
        return z > 0 ? z : 0;
    return 0.5 * z * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (z + 0.044715 * z * z * z)));
}

// y = W h + b with the tensors of layer l in the flat buffer w.
static void affine(const Function *f, const double *w, size_t l, const double *h, double *y)
{
    const LsParameter *weight = &f->network->model->parameters.list[2 * l];
    size_t bias = f->network->model->parameters.list[2 * l + 1].offset;
    for (size_t o = 0; o < weight->shape[0]; o++) {
        y[o] = w[bias + o];
        for (size_t i = 0; i < weight->shape[1]; i++)
            y[o] += w[weight->offset + o * weight->shape[1] + i] * h[i];
    }
}

static double row_loss(const Function *f, const double *w, size_t row)
{
    double h[WIDTH], z[WIDTH], total = 0;
    for (size_t i = 0; i < FEATURES; i++)
        h[i] = f->network->x[row * FEATURES + i];
    for (size_t l = 0; l < HIDDEN; l++) {
        affine(f, w, l, h, z);
        for (size_t c = 0; c < WIDTH; c++) {
            double branch = keeps(l, row, c) ? activate(f, z[c]) / (1 - RATE) : 0;
            h[c] = f->residual && l > 0 ? h[c] + branch : branch; // layer 0 changes the width
        }
    }
    affine(f, w, HIDDEN, h, z);
    for (size_t c = 0; c < CLASSES; c++)
        total += exp(z[c]);
    return log(total) - z[f->network->labels[row]];
}

static double mean_loss(const Function *f, const double *w)
{
    double sum = 0;
    for (size_t r = 0; r < ROWS; r++)
        sum += row_loss(f, w, r);
    return sum / ROWS;
}

// Central differences; with h = 1e-5 their error is about h² + 2^-53 / h, 1e-10.
static void differentiate(const Function *f, float *out)
{
    const LsParameters *parameters = &f->network->model->parameters;
    size_t elements = parameters->blocks * LS_BLOCK;
    double *w = malloc(elements * sizeof *w);
    for (size_t i = 0; i < elements; i++)
        w[i] = f->network->flat[i];
    for (size_t t = 0; t < parameters->count; t++)
        for (size_t e = 0; e < parameters->list[t].elements; e++) {
            size_t i = parameters->list[t].offset + e;
            double value = w[i], h = 1e-5;
            w[i] = value + h;
            double above = mean_loss(f, w);
            w[i] = value - h;
            out[i] = (float)((above - mean_loss(f, w)) / (2 * h));
            w[i] = value;
        }
    free(w);
}

// FP32 computes the gradient with errors of about 1e-6 (see test_mlp.c); no value lies within 1e-5 of ReLU's
// bend with these weights, or the comparison would fail by far more.
static void check_gradient(LsDevice *device, bool residual, int activation)
{
    LsConfig config;
    Network n;
    configure_dropout(&config, residual, activation);
    create_network(&n, device, &config, CLASSES);
    size_t elements = n.model->parameters.blocks * LS_BLOCK;
    ls_parameters_initialize(&n.model->parameters, 9, 0, elements, n.flat);
    for (size_t c = 0; c < WIDTH; c++)
        tensor(&n, "layers.0.bias")[c] = 0.1f * (float)c;
    upload_network(&n);
    float *expected = calloc(elements, sizeof *expected), *actual = malloc(elements * sizeof *actual);
    Function f = {.network = &n, .residual = residual, .gelu = activation == LS_ACTIVATION_GELU};
    differentiate(&f, expected);
    float *gradients = upload(device, expected, elements * sizeof *expected); // padding: zeros
    const LsModelOps *ops = n.model->ops;
    assert_ok(ops->forward(n.model, n.weights, &n.batch, true));
    assert_ok(ops->loss(n.model, &n.batch, 1.0f / ROWS, NULL, NULL, NULL));
    assert_ok(ops->backward(n.model, n.weights, &n.batch, gradients, false, NULL, NULL));
    download(device, actual, gradients, elements * sizeof *actual);
    for (size_t t = 0; t < n.model->parameters.count; t++) {
        const LsParameter *p = &n.model->parameters.list[t];
        assert_close(actual + p->offset, expected + p->offset, p->elements, 1e-5, p->name);
    }
    device->ops->release(device, gradients);
    free(actual);
    free(expected);
    destroy_network(&n);
}

static void gradient(void **state)
{
    (void)state;
    for (int which = 0; which < DEVICES; which++) {
        LsDevice *device = open_device(which, LS_PRECISION_FP32);
        for (int residual = 0; device && residual < 2; residual++) {
            check_gradient(device, residual, LS_ACTIVATION_RELU);
            check_gradient(device, residual, LS_ACTIVATION_GELU);
        }
        ls_device_close(device);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks),
        cmocka_unit_test(gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
