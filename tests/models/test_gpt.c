// The GPT against PyTorch, on every device: logits, losses and every gradient; padding of the vocabulary;
// what backward promises about order and accumulation; and that recomputing activations changes no bit.
#include "coming_weights.h"
#include "gpt_fixture.h"

// FP32: sums of at most 192 products with rounding errors of 2^-24, through two blocks, forward and backward:
// about 1e-6; ten times that is still far below any mistake in a formula.
static const double TOLERANCE_FP32 = 1e-5;

// BF16 keeps 8 bits: each stored value has a relative error of at most 2^-9, and FP16's three bits more of at
// most 2^-12. On the way to the deepest gradient the residual stream is stored 2 times a block forward and 2
// times backward, and each branch's contribution to it another 4 times (normalised, projected, attended or
// hidden, branch) forward and as often backward; embedding, final normalisation, logits and their gradient
// make 6 more: 6 + 2 · 12 roundings for 2 blocks. They add at worst linearly in the norm; 2 bounds their
// growth through these weights, as errors enter everywhere and seldom agree.
static double tolerance(int precision)
{
    if (precision == LS_PRECISION_FP32)
        return TOLERANCE_FP32;
    return 2 * (6.0 + 2 * 12.0) / (precision == LS_PRECISION_BF16 ? 512 : 4096);
}

// Of gradients whose exact value is zero, since the softmax does not see what is added to all keys: noise.
static bool is_key_bias(const LsParameter *p, size_t width, size_t element)
{
    return strstr(p->name, "qkv.bias") && element / width == 1;
}

typedef void (*Check)(Setup *s, const json_t *fixture, double tolerance);

static void check_on(LsDevice *device, int precision, const json_t *fixture, Check check)
{
    LsConfig config;
    Setup s;
    configure(fixture, &config);
    set_up(&s, device, &config, fixture, 2);
    check(&s, fixture, tolerance(precision));
    tear_down(&s);
}

// Runs a check on every device in every precision.
static void for_all(Check check)
{
    json_t *fixture = read_fixture();
    for (int which = 0; which < DEVICES; which++)
        for (int precision = LS_PRECISION_FP32; precision <= LS_PRECISION_FP16; precision++) {
            LsDevice *device = open_device(which, precision);
            if (!device)
                printf("skipped: device %d in precision %d\n", which, precision);
            else
                check_on(device, precision, fixture, check);
            ls_device_close(device);
        }
    json_decref(fixture);
}

static void check_gradients(Setup *s, double factor, double tolerance)
{
    const LsParameters *parameters = &s->model->parameters;
    size_t width = (size_t)s->config.model.width;
    float *expected = read_numbers(parameters, 0), *actual = malloc(s->elements * sizeof *actual);
    download(s->device, actual, s->gradients, s->elements * sizeof *actual);
    for (size_t t = 0; t < parameters->count; t++) {
        const LsParameter *p = &parameters->list[t];
        for (size_t i = 0; i < p->elements; i++) {
            expected[p->offset + i] *= (float)factor;
            if (is_key_bias(p, width, i))
                actual[p->offset + i] = expected[p->offset + i] = 0;
        }
        char what[256];
        snprintf(what, sizeof what, "gradient of %s on %s", p->name, s->device->ops->name);
        assert_close(actual + p->offset, expected + p->offset, p->elements, tolerance, what);
        // The padding, rows of the vocabulary's among it, was zero and stays so.
        for (size_t i = p->elements; i < ls_round_up(p->reserved, LS_BLOCK); i++)
            assert_true(actual[p->offset + i] == 0);
    }
    free(actual);
    free(expected);
}

// Logits of each window's last token, as generation asks for them.
static void check_logits(Setup *s, const json_t *fixture, double tolerance)
{
    size_t count, vocabulary = s->model->shape.vocabulary, window = s->model->shape.window;
    float *expected = read_floats(fixture, "last_logits", &count), *actual = malloc(count * sizeof *actual);
    for (size_t r = 0; r < s->batch.rows; r++)
        assert_ok(s->model->ops->next(s->model, r, window - 1, actual + r * vocabulary));
    assert_close(actual, expected, count, tolerance, "logits");
    free(actual);
    free(expected);
}

static void check_losses(Setup *s, const json_t *fixture, double tolerance)
{
    size_t count;
    float *expected = read_floats(fixture, "row_losses", &count), actual[16];
    download(s->device, actual, s->row_loss, count * sizeof *actual);
    assert_close(actual, expected, count, tolerance, "losses of the windows");
    free(expected);
}

static void check_like_torch(Setup *s, const json_t *fixture, double tolerance)
{
    compute(s, true, false);
    check_losses(s, fixture, tolerance);
    check_gradients(s, 1, tolerance);
    check_logits(s, fixture, tolerance);
}

static void like_torch(void **state)
{
    (void)state;
    for_all(check_like_torch);
}

// Evaluation computes the losses at once, and the same ones.
static void check_evaluation(Setup *s, const json_t *fixture, double tolerance)
{
    const LsModelOps *ops = s->model->ops;
    size_t rows = s->batch.rows;
    float trained[16], evaluated[16];
    compute(s, true, false);
    download(s->device, trained, s->row_loss, rows * sizeof *trained);
    assert_ok(s->device->ops->zero(s->device, s->row_loss, rows * sizeof *trained));
    assert_ok(ops->forward(s->model, s->weights, &s->batch, false));
    assert_ok(ops->loss(s->model, &s->batch, 0, NULL, NULL, s->row_loss));
    download(s->device, evaluated, s->row_loss, rows * sizeof *evaluated);
    assert_memory_equal(evaluated, trained, rows * sizeof *trained);
    check_losses(s, fixture, tolerance);
}

static void evaluates(void **state)
{
    (void)state;
    for_all(check_evaluation);
}

// A second pass adds its gradients and its loss to the first one's.
static void check_accumulation(Setup *s, const json_t *fixture, double tolerance)
{
    compute(s, true, false);
    compute(s, true, true);
    check_gradients(s, 2, tolerance);
    size_t count;
    float *losses = read_floats(fixture, "row_losses", &count), sum, expected = 0;
    for (size_t r = 0; r < count; r++)
        expected += 2 * losses[r];
    free(losses);
    download(s->device, &sum, s->loss_sum, sizeof sum);
    assert_close(&sum, &expected, 1, tolerance, "sum of losses");
}

static void accumulates(void **state)
{
    (void)state;
    for_all(check_accumulation);
}

// Chunks of the head that do not divide the microbatch's 51 tokens.
static void in_chunks(void **state)
{
    (void)state;
    json_t *fixture = read_fixture();
    for (int which = 0; which < DEVICES; which++) {
        LsDevice *device = open_device(which, LS_PRECISION_FP32);
        LsConfig config;
        Setup s;
        configure(fixture, &config);
        config.model.head_tokens = 20;
        if (device) {
            set_up(&s, device, &config, fixture, 2);
            check_like_torch(&s, fixture, TOLERANCE_FP32);
            check_evaluation(&s, fixture, TOLERANCE_FP32);
            tear_down(&s);
        }
        ls_device_close(device);
    }
    json_decref(fixture);
}

static void weights_may_come(void **state)
{
    (void)state;
    json_t *fixture = read_fixture();
    for (int which = 0; which < DEVICES; which++) {
        LsDevice *device = open_device(which, LS_PRECISION_BF16);
        LsConfig config;
        Setup s;
        configure(fixture, &config);
        if (device) {
            set_up(&s, device, &config, fixture, 0);
            check_coming_weights(&s, 2 + (int)config.model.layers); // embedding, blocks, norm
            tear_down(&s);
        }
        ls_device_close(device);
    }
    json_decref(fixture);
}

// Left to the model, a chunk of the head is as many tiles of 128 tokens as 2^27 logits are enough for.
static void chunks_are_whole_tiles(void **state)
{
    (void)state;
    static const int64_t given[] = {0, 2560, 2668}; // 2668 × 50304 logits are the most
    const LsDataShape shape = {.classes = true, .window = 1024, .vocabulary = 50257};
    size_t bytes[3];
    for (size_t i = 0; i < 3; i++) {
        LsConfig config;
        LsModel *model;
        ls_config_defaults(&config);
        config.model.kind = LS_MODEL_GPT;
        config.model.width = 64, config.model.heads = 4, config.model.layers = 1;
        config.model.context = 1024;
        config.model.head_tokens = given[i];
        assert_ok(ls_model_create(&config, &shape, NULL, 8, &model));
        bytes[i] = model->activation_bytes;
        ls_model_destroy(model);
    }
    assert_int_equal(bytes[0], bytes[1]);
    assert_true(bytes[0] < bytes[2]);
}

// ---- Order of the gradients -----------------------------------------------------------------------------

typedef struct Watcher {
    Setup *s;
    size_t previous;
    float *seen; // final values of what was handed out
} Watcher;

static LsStatus watch(void *context, size_t first)
{
    Watcher *w = context;
    assert_true(first < w->previous);
    download(w->s->device, w->seen + first, w->s->gradients + first, (w->previous - first) * sizeof(float));
    w->previous = first;
    return LS_OK;
}

// What is handed out does not change any more.
static void check_order(Setup *s, const json_t *fixture, double tolerance)
{
    (void)fixture;
    (void)tolerance;
    Watcher w = {.s = s, .previous = s->elements, .seen = malloc(s->elements * sizeof(float))};
    const LsModelOps *ops = s->model->ops;
    assert_ok(ops->forward(s->model, s->weights, &s->batch, true));
    assert_ok(ops->loss(s->model, &s->batch, 1, NULL, NULL, NULL));
    assert_ok(ops->backward(s->model, s->weights, &s->batch, s->gradients, false, watch, &w));
    assert_int_equal(w.previous, 0);
    float *last = malloc(s->elements * sizeof *last);
    download(s->device, last, s->gradients, s->elements * sizeof *last);
    assert_memory_equal(last, w.seen, s->elements * sizeof *last);
    free(last);
    free(w.seen);
}

static void in_order(void **state)
{
    (void)state;
    for_all(check_order);
}

// ---- Recomputation --------------------------------------------------------------------------------------

static void gradients_with(LsDevice *device, const json_t *fixture, const char *recompute, float **gradients,
    float *loss, size_t *bytes)
{
    LsConfig config;
    Setup s;
    configure(fixture, &config);
    config.model.dropout = 0.2;
    assert_ok(ls_config_set(&config, "model.recompute", recompute, "test"));
    set_up(&s, device, &config, fixture, 0);
    compute(&s, true, false);
    *gradients = malloc(s.elements * sizeof **gradients);
    download(device, *gradients, s.gradients, s.elements * sizeof **gradients);
    download(device, loss, s.loss_sum, sizeof *loss);
    *bytes = s.elements * sizeof **gradients;
    tear_down(&s);
}

static void check_recomputation(LsDevice *device, const json_t *fixture)
{
    static const char *const kinds[] = {"none", "cheap", "block"};
    float *gradients[3], loss[3];
    size_t bytes;
    for (size_t k = 0; k < 3; k++) {
        gradients_with(device, fixture, kinds[k], &gradients[k], &loss[k], &bytes);
        assert_memory_equal(gradients[k], gradients[0], bytes);
        assert_memory_equal(&loss[k], &loss[0], sizeof *loss);
    }
    for (size_t k = 0; k < 3; k++)
        free(gradients[k]);
}

static void recomputation_keeps_bits(void **state)
{
    (void)state;
    json_t *fixture = read_fixture();
    for (int which = 0; which < DEVICES; which++)
        for (int precision = LS_PRECISION_FP32; precision <= LS_PRECISION_FP16; precision++) {
            LsDevice *device = open_device(which, precision);
            if (device)
                check_recomputation(device, fixture);
            ls_device_close(device);
        }
    json_decref(fixture);
}

// ---- Generation -----------------------------------------------------------------------------------------

// A window computed token by token has the logits of a window computed at once. Tokens behind the first one
// do not matter to it, so the first pass sees zeros there.
static void check_steps(Setup *s, const json_t *fixture, double tolerance)
{
    size_t count, window = s->model->shape.window, vocabulary = s->model->shape.vocabulary;
    int32_t *tokens = read_tokens(fixture, "tokens", &count);
    int32_t *first = calloc(window, sizeof *first);
    float *expected = read_floats(fixture, "last_logits", &count), *actual = malloc(count * sizeof *actual);
    first[0] = tokens[0];
    void *inputs = upload(s->device, first, window * sizeof *first);
    LsBatch batch = {.rows = 1, .inputs = inputs};
    assert_ok(s->model->ops->forward(s->model, s->weights, &batch, false));
    assert_ok(s->device->ops->copy_in(s->device, inputs, tokens, window * sizeof *tokens));
    for (size_t place = 1; place < window; place++)
        assert_ok(s->model->ops->step(s->model, s->weights, &batch, place));
    assert_ok(s->model->ops->next(s->model, 0, window - 1, actual));
    assert_close(actual, expected, vocabulary, tolerance, "logits after steps");
    s->device->ops->release(s->device, inputs);
    free(actual);
    free(expected);
    free(first);
    free(tokens);
}

static void steps(void **state)
{
    (void)state;
    for_all(check_steps);
}

// ---- What needs no device -------------------------------------------------------------------------------

static size_t activation_bytes(const char *recompute)
{
    LsConfig config;
    LsModel *model;
    ls_config_defaults(&config);
    assert_ok(ls_config_set(&config, "model.kind", "gpt", "test"));
    assert_ok(ls_config_set(&config, "model.recompute", recompute, "test"));
    LsDataShape shape = {.window = 256, .vocabulary = 257};
    assert_ok(ls_model_create(&config, &shape, NULL, 8, &model));
    size_t bytes = model->activation_bytes;
    ls_model_destroy(model);
    return bytes;
}

static void recomputation_saves_memory(void **state)
{
    (void)state;
    assert_true(activation_bytes("cheap") < activation_bytes("none"));
    assert_true(activation_bytes("block") < activation_bytes("cheap"));
}

static LsStatus try_model(const char *option, const char *value, size_t window, size_t vocabulary)
{
    LsConfig config;
    LsModel *model = NULL;
    ls_config_defaults(&config);
    assert_ok(ls_config_set(&config, "model.kind", "gpt", "test"));
    assert_ok(ls_config_set(&config, option, value, "test"));
    LsDataShape shape = {.window = window, .vocabulary = vocabulary};
    LsStatus status = ls_model_create(&config, &shape, NULL, 1, &model);
    if (status == LS_OK)
        ls_model_destroy(model);
    return status;
}

static void refuses(void **state)
{
    (void)state;
    assert_int_equal(try_model("model.context", "16", 16, 100), LS_OK);
    assert_int_equal(try_model("model.context", "16", 17, 100), LS_CONFIG);
    assert_int_equal(try_model("model.heads", "7", 16, 100), LS_CONFIG);
    assert_int_equal(try_model("model.kind", "mlp", 16, 100), LS_CONFIG);
    assert_int_equal(try_model("train.loss", "mse", 16, 100), LS_CONFIG);
    assert_int_equal(try_model("model.context", "16", 16, 1), LS_CONFIG);
    assert_int_equal(try_model("model.context", "16", 16, (size_t)1 << 40), LS_CONFIG);
    assert_int_equal(try_model("model.context", "16", 0, 0), LS_CONFIG);
}

// The size of GPT-2's smallest model is known: 124,439,808 parameters.
static void size_of_gpt2(void **state)
{
    (void)state;
    LsConfig config;
    LsModel *model;
    ls_config_defaults(&config);
    assert_ok(ls_config_set(&config, "model.kind", "gpt", "test"));
    config.model.layers = config.model.heads = 12;
    config.model.width = 768;
    config.model.context = 1024;
    LsDataShape shape = {.window = 1024, .vocabulary = 50257};
    assert_ok(ls_model_create(&config, &shape, NULL, 1, &model));
    assert_int_equal(ls_parameters_elements(&model->parameters), 124439808);
    assert_int_equal(model->parameters.list[0].reserved, 50304 * 768);
    ls_model_destroy(model);
}

// GPT-2's initial deviations: 0.02 unless the option says otherwise, and with 8 blocks a quarter of that
// where a block adds to the stream; the other tensors are ones and zeros.
static void initial_deviations(void **state)
{
    (void)state;
    static const char *const given[] = {"0.02", "0.0625"};
    for (size_t i = 0; i < 2; i++) {
        LsConfig config;
        LsModel *model;
        ls_config_defaults(&config);
        assert_ok(ls_config_set(&config, "model.kind", "gpt", "test"));
        assert_ok(ls_config_set(&config, "model.layers", "8", "test"));
        if (i > 0)
            assert_ok(ls_config_set(&config, "model.init_std", given[i], "test"));
        LsDataShape shape = {.window = 16, .vocabulary = 100};
        assert_ok(ls_model_create(&config, &shape, NULL, 1, &model));
        for (size_t t = 0; t < model->parameters.count; t++) {
            const LsParameter *p = &model->parameters.list[t];
            bool adds = strstr(p->name, "projection.weight") || strstr(p->name, "down.weight");
            float expected = strtof(given[i], NULL) / (adds ? 4.0f : 1.0f);
            if (p->dimensions == 2)
                assert_true(p->init == LS_INIT_NORMAL && p->init_scale == expected);
            else
                assert_true(p->init != LS_INIT_NORMAL);
        }
        ls_model_destroy(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(like_torch),
        cmocka_unit_test(evaluates),
        cmocka_unit_test(accumulates),
        cmocka_unit_test(in_chunks),
        cmocka_unit_test(chunks_are_whole_tiles),
        cmocka_unit_test(in_order),
        cmocka_unit_test(weights_may_come),
        cmocka_unit_test(recomputation_keeps_bits),
        cmocka_unit_test(recomputation_saves_memory),
        cmocka_unit_test(steps),
        cmocka_unit_test(refuses),
        cmocka_unit_test(size_of_gpt2),
        cmocka_unit_test(initial_deviations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
