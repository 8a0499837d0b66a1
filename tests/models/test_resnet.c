// ResNets against PyTorch, on every device: outputs and losses in training and evaluation, every gradient and
// what running statistics are told; what backward promises about order and accumulation; sizes, names and
// first values of the table of parameters.
#include "coming_weights.h"

// FP32 rounds to 2^-24. The deepest gradient of the net of 18 layers has come through as many convolutions
// forward and backward, each a sum of at most 576 products and followed by a normalisation: 4 × 18 stored
// tensors whose errors add in quadrature make 8 × 2^-24 = 5e-7, and sums of up to 650 places somewhat more.
static const double TOLERANCE_FP32 = 1e-5;

// In the net of 50 layers all gradients together keep that bound. Of one alone, most of a sum may cancel:
// what is added to a channel before another normalisation takes it away again, so the gradient of bn1.bias is
// a small difference of large terms. PyTorch's own FP32 is off by 1.4e-4 there, and by 4e-6 in the median.
static const double TOLERANCE_DEEP = 2e-4;

// Of outputs and losses in BF16 and FP16: relative errors of 2^-9 and 2^-12 at 2 stored tensors of each of
// the 18 or 50 layers, of which errors before a residual sum count with the part that the block contributes.
// They add in quadrature: sqrt(2 × 50) = 10, times 4 for what normalisation by few places makes of them.
// Gradients of such nets in so few bits say little: where ReLU's input is near 0 they are all or nothing.
static double tolerance(int precision)
{
    if (precision == LS_PRECISION_FP32)
        return TOLERANCE_FP32;
    return 4.0 * 10 / (precision == LS_PRECISION_BF16 ? 512 : 4096);
}

// ---- Fixtures -------------------------------------------------------------------------------------------

// The fixture's numbers: see make_resnet_fixtures.py.
static int fixture_integer(uint32_t tensor, uint32_t i)
{
    uint32_t z = (i + 1) * 0x9e3779b1u + tensor * 0x85ebca6bu;
    z = (z ^ z >> 16) * 0x85ebca6bu;
    z = (z ^ z >> 13) * 0xc2b2ae35u;
    return (int)((z ^ z >> 16) % 255) - 127;
}

static int eighth(int i)
{
    return i >= 0 ? i / 8 : -((7 - i) / 8);
}

static void fill_tensor(const json_t *tensor, uint32_t index, const LsParameter *p, float *out)
{
    double unit = ldexp(1, -(int)number(tensor, "bits"));
    for (size_t i = 0; i < p->elements; i++) {
        int value = fixture_integer(index, (uint32_t)i);
        double offset = number(tensor, "offset") + (p->statistics ? (double)(i % 2) : 0);
        out[i] = (float)(offset + unit * (p->dimensions < 4 ? eighth(value) : value));
    }
}

// In the flat layout; freed by the caller. The fixture has exactly the model's tensors, in its order.
static float *make_weights(const json_t *fixture, const LsParameters *parameters)
{
    const json_t *tensors = field(fixture, "tensors");
    float *flat = calloc(parameters->blocks * LS_BLOCK, sizeof *flat);
    assert_non_null(flat);
    assert_int_equal(json_array_size(tensors), parameters->count);
    uint32_t first = (uint32_t)number(fixture, "first");
    for (size_t t = 0; t < parameters->count; t++) {
        const json_t *tensor = json_array_get(tensors, t);
        const LsParameter *p = &parameters->list[t];
        assert_string_equal(p->name, text(tensor, "name"));
        assert_int_equal(p->elements, (size_t)number(tensor, "elements"));
        fill_tensor(tensor, first + (uint32_t)t, p, flat + p->offset);
    }
    return flat;
}

// The gradients of a case behind those of the cases before it.
static float *read_gradients(const json_t *cases, size_t which, const LsParameters *parameters)
{
    FILE *file = fopen(LOCKSTEP_SOURCE_DIR "/tests/models/resnet_fixtures.f32", "rb");
    float *flat = calloc(parameters->blocks * LS_BLOCK, sizeof *flat);
    assert_true(file && flat);
    for (size_t c = 0; c < which; c++) {
        const json_t *tensors = field(json_array_get(cases, c), "tensors");
        for (size_t t = 0; t < json_array_size(tensors); t++) {
            long bytes = (long)(number(json_array_get(tensors, t), "elements") * sizeof *flat);
            assert_int_equal(fseek(file, bytes, SEEK_CUR), 0);
        }
    }
    for (size_t t = 0; t < parameters->count; t++) {
        const LsParameter *p = &parameters->list[t];
        assert_int_equal(fread(flat + p->offset, sizeof *flat, p->elements, file), p->elements);
    }
    fclose(file);
    return flat;
}

static void configure(const json_t *fixture, LsConfig *config)
{
    char depth[8];
    snprintf(depth, sizeof depth, "%d", (int)number(fixture, "depth"));
    ls_config_defaults(config);
    assert_ok(ls_config_set(config, "model.kind", "resnet", "fixture"));
    assert_ok(ls_config_set(config, "model.depth", depth, "fixture"));
    assert_ok(ls_config_set(config, "model.stem", text(fixture, "stem"), "fixture"));
    config->model.width_multiplier = number(fixture, "multiplier");
    config->train.label_smoothing = number(fixture, "smoothing");
}

static LsDataShape shape_of(const json_t *fixture)
{
    LsDataShape shape = {
        .height = (size_t)number(fixture, "height"),
        .width = (size_t)number(fixture, "width"),
        .channels = (size_t)number(fixture, "channels"),
        .outputs = (size_t)number(fixture, "classes"),
        .classes = true,
    };
    shape.features = shape.height * shape.width * shape.channels;
    return shape;
}

static void set_up_batch(Setup *s, const json_t *fixture, size_t rows)
{
    size_t values = rows * s->model->shape.features;
    float *images = malloc(values * sizeof *images);
    int32_t labels[16];
    assert_true(images && rows <= sizeof labels / sizeof *labels);
    for (size_t i = 0; i < values; i++)
        images[i] = (float)fixture_integer((uint32_t)number(fixture, "images"), (uint32_t)i) / 64;
    for (size_t r = 0; r < rows; r++)
        labels[r] = (int32_t)(r % s->model->shape.outputs);
    s->inputs = upload_rounded(s->device, images, values);
    s->y = upload(s->device, labels, rows * sizeof *labels);
    s->batch = (LsBatch){.rows = rows, .inputs = s->inputs, .labels = s->y};
    free(images);
}

// For two rows more than the fixture has, since a batch may be smaller than what the model was made for.
static void set_up(Setup *s, LsDevice *device, const json_t *fixture)
{
    size_t rows = (size_t)number(fixture, "rows");
    LsDataShape shape = shape_of(fixture);
    void *row_loss;
    *s = (Setup){.device = device};
    configure(fixture, &s->config);
    assert_ok(ls_model_create(&s->config, &shape, device, rows + 2, &s->model));
    s->elements = s->model->parameters.blocks * LS_BLOCK;
    float *flat = make_weights(fixture, &s->model->parameters);
    s->weights = upload_rounded(device, flat, s->elements);
    memset(flat, 0, s->elements * sizeof *flat);
    s->gradients = upload(device, flat, s->elements * sizeof *flat);
    s->loss_sum = upload(device, flat, sizeof *flat);
    free(flat);
    set_up_batch(s, fixture, rows);
    assert_ok(device->ops->allocate(device, rows * sizeof(float), &row_loss));
    s->row_loss = row_loss;
}

typedef struct Case {
    const json_t *cases, *fixture;
    size_t which;
    int precision;
} Case;

typedef void (*Check)(Setup *s, const Case *at);

static void check_on(LsDevice *device, const Case *at, Check check)
{
    Setup s;
    set_up(&s, device, at->fixture);
    check(&s, at);
    tear_down(&s);
}

// Runs a check on every device that has convolutions, for every case, in precisions up to `last`.
static void for_all(int last, Check check)
{
    json_t *file;
    assert_ok(ls_json_read(
        LOCKSTEP_SOURCE_DIR "/tests/models/resnet_fixtures.json", (size_t)1 << 24, LS_BAD_DATA, &file));
    Case at = {.cases = field(file, "cases")};
    for (int which = 0; which < DEVICES; which++)
        for (at.precision = LS_PRECISION_FP32; at.precision <= last; at.precision++) {
            LsDevice *device = open_device(which, at.precision);
            if (!device || !device->ops->convolution)
                printf("skipped: device %d in precision %d\n", which, at.precision);
            for (at.which = 0; device && device->ops->convolution && at.which < 2; at.which++) {
                at.fixture = json_array_get(at.cases, at.which);
                check_on(device, &at, check);
            }
            ls_device_close(device);
        }
    json_decref(file);
}

// ---- Checks ---------------------------------------------------------------------------------------------

static void check_numbers(Setup *s, const Case *at, const char *key, const void *memory, double bound)
{
    size_t count;
    float *expected = read_floats(at->fixture, key, &count), actual[64];
    char what[128];
    assert_true(count <= sizeof actual / sizeof *actual);
    download(s->device, actual, memory, count * sizeof *actual);
    snprintf(what, sizeof what, "%s of %s on %s", key, text(at->fixture, "name"), s->device->ops->name);
    assert_close(actual, expected, count, bound, what);
    free(expected);
}

static void check_gradients(Setup *s, const Case *at, float factor)
{
    const LsParameters *parameters = &s->model->parameters;
    float *expected = read_gradients(at->cases, at->which, parameters);
    float *actual = malloc(s->elements * sizeof *actual);
    download(s->device, actual, s->gradients, s->elements * sizeof *actual);
    for (size_t t = 0; t < parameters->count; t++) {
        const LsParameter *p = &parameters->list[t];
        char what[256];
        for (size_t i = 0; i < p->elements; i++)
            expected[p->offset + i] *= factor;
        snprintf(what, sizeof what, "gradient of %s of %s on %s", p->name, text(at->fixture, "name"),
            s->device->ops->name);
        assert_close(actual + p->offset, expected + p->offset, p->elements,
            number(at->fixture, "depth") > 18 ? TOLERANCE_DEEP : TOLERANCE_FP32, what);
        for (size_t i = p->elements; i < ls_round_up(p->elements, LS_BLOCK); i++)
            assert_true(actual[p->offset + i] == 0);
    }
    assert_close(actual, expected, s->elements, TOLERANCE_FP32, "all gradients");
    free(actual);
    free(expected);
}

static void check_like_torch(Setup *s, const Case *at)
{
    compute(s, true, false);
    check_numbers(s, at, "outputs", s->model->ops->outputs(s->model), tolerance(at->precision));
    check_numbers(s, at, "losses", s->row_loss, tolerance(at->precision));
    if (at->precision == LS_PRECISION_FP32)
        check_gradients(s, at, 1);
}

static void like_torch(void **state)
{
    (void)state;
    for_all(LS_PRECISION_FP16, check_like_torch);
}

static void check_evaluation(Setup *s, const Case *at)
{
    const LsModelOps *ops = s->model->ops;
    assert_ok(ops->forward(s->model, s->weights, &s->batch, false));
    assert_ok(ops->loss(s->model, &s->batch, 0, NULL, NULL, s->row_loss));
    check_numbers(s, at, "evaluated", ops->outputs(s->model), tolerance(at->precision));
    check_numbers(s, at, "evaluated_losses", s->row_loss, tolerance(at->precision));
}

static void evaluates(void **state)
{
    (void)state;
    for_all(LS_PRECISION_FP16, check_evaluation);
}

static void check_accumulation(Setup *s, const Case *at)
{
    compute(s, true, false);
    compute(s, true, true);
    check_gradients(s, at, 2);
}

static void accumulates(void **state)
{
    (void)state;
    for_all(LS_PRECISION_FP32, check_accumulation);
}

static void check_coming(Setup *s, const Case *at)
{
    check_coming_weights(s, (int)number(at->fixture, "depth"));
}

static void weights_may_come(void **state)
{
    (void)state;
    for_all(LS_PRECISION_BF16, check_coming);
}

// What is reported as final is what is there in the end.
typedef struct Final {
    Setup *s;
    size_t first;
    int calls;
    float *seen; // host: gradients as they were when they were final
} Final;

static LsStatus note_final(void *context, size_t first)
{
    Final *final = context;
    assert_true(first < final->first);
    LS_TRY(final->s->device->ops->synchronize(final->s->device));
    download(final->s->device, final->seen + first, final->s->gradients + first,
        (final->first - first) * sizeof(float));
    final->first = first;
    final->calls++;
    return LS_OK;
}

static void check_order(Setup *s, const Case *at)
{
    Final final = {.s = s, .first = s->elements, .seen = calloc(s->elements, sizeof(float))};
    float *gradients = malloc(s->elements * sizeof *gradients);
    assert_true(final.seen && gradients);
    compute(s, true, false);
    assert_ok(
        s->model->ops->backward(s->model, s->weights, &s->batch, s->gradients, false, note_final, &final));
    download(s->device, gradients, s->gradients, s->elements * sizeof *gradients);
    assert_int_equal(final.first, 0);
    assert_true(final.calls >= (int)number(at->fixture, "depth"));
    assert_memory_equal(final.seen, gradients, s->elements * sizeof *gradients);
    free(gradients);
    free(final.seen);
}

static void finishes_in_order(void **state)
{
    (void)state;
    for_all(LS_PRECISION_FP32, check_order);
}

// ---- The table ------------------------------------------------------------------------------------------

static LsModel *describe(LsResnetDepth depth, double multiplier, bool zero_gamma, LsResnetStem stem)
{
    LsDataShape shape = {.features = 224 * 224 * 3,
        .height = 224,
        .width = 224,
        .channels = 3,
        .outputs = 1000,
        .classes = true};
    LsConfig config;
    LsModel *model = NULL;
    ls_config_defaults(&config);
    config.model.kind = LS_MODEL_RESNET;
    config.model.depth = (int)depth;
    config.model.stem = (int)stem;
    config.model.width_multiplier = multiplier;
    config.model.zero_gamma = zero_gamma;
    assert_ok(ls_model_create(&config, &shape, NULL, 2, &model));
    return model;
}

// As torchvision counts its models of 1,000 classes, and multiply-adds of a forward pass as the papers of
// their field have them (1.8, 3.7 and 4.1 · 10^9).
static void sizes(void **state)
{
    (void)state;
    const struct {
        LsResnetDepth depth;
        size_t parameters, channels; // channels: of all normalisations
        double products;
    } known[] = {{LS_RESNET_18, 11689512, 4800, 1.8e9}, {LS_RESNET_34, 21797672, 8512, 3.7e9},
        {LS_RESNET_50, 25557032, 26560, 4.1e9}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        LsModel *model = describe(known[i].depth, 1, false, LS_STEM_IMAGENET);
        size_t statistics = 0;
        for (size_t t = 0; t < model->parameters.count; t++)
            statistics += model->parameters.list[t].statistics ? model->parameters.list[t].elements : 0;
        assert_int_equal(statistics, 2 * known[i].channels);
        assert_int_equal(ls_parameters_elements(&model->parameters) - statistics, known[i].parameters);
        double stem = 112 * 112 * 64.0 * 7 * 7 * 3; // whose input has no gradient
        double products = (model->flops_per_sample / 2 + stem) / 3;
        assert_true(fabs(products - known[i].products) < 0.05e9);
        assert_true(model->activation_bytes > 0);
        ls_model_destroy(model);
    }
}

static void check_parameter(const LsParameter *p)
{
    bool last = strstr(p->name, "bn2.weight") != NULL;
    assert_int_equal(p->decay,
        strstr(p->name, "conv") || strstr(p->name, "downsample.0") || strcmp(p->name, "fc.weight") == 0);
    assert_int_equal(p->stage, p->decay);
    assert_int_equal(p->statistics, strstr(p->name, ".running") != NULL);
    if (p->dimensions == 4) // by fan-out
        assert_true(p->init == LS_INIT_NORMAL &&
                    fabs(p->init_scale * p->init_scale * (float)(p->shape[0] * p->shape[1] * p->shape[2]) -
                         2) < 1e-6f); // a rounding to float, squared
    else if (p->statistics)
        assert_true(p->init == LS_INIT_STATISTICS);
    else if (p->dimensions == 1 && strstr(p->name, "weight"))
        assert_true(strstr(p->name, "downsample") || strstr(p->name, "fc") ||
                    p->init == (last ? LS_INIT_ZERO : LS_INIT_ONE));
}

static void table(void **state)
{
    (void)state;
    LsModel *model = describe(LS_RESNET_18, 0.25, true, LS_STEM_SMALL);
    const LsParameters *parameters = &model->parameters;
    for (size_t t = 0; t < parameters->count; t++)
        check_parameter(&parameters->list[t]);
    const LsParameter *running = ls_parameters_find(parameters, "layer2.0.downsample.1.running");
    const LsParameter *filters = ls_parameters_find(parameters, "layer4.1.conv2.weight");
    assert_true(running && filters && filters->shape[0] == 128 && filters->shape[3] == 128);
    float first[4];
    ls_parameters_initialize(parameters, 1, running->offset, 4, first);
    assert_true(first[0] == 0 && first[1] == 1 && first[2] == 0 && first[3] == 1);
    ls_model_destroy(model);
}

static void needs_images(void **state)
{
    (void)state;
    LsDataShape shape = {.features = 12, .outputs = 3, .classes = true};
    LsConfig config;
    LsModel *model = NULL;
    ls_config_defaults(&config);
    config.model.kind = LS_MODEL_RESNET;
    assert_int_equal(ls_model_create(&config, &shape, NULL, 2, &model), LS_CONFIG);
    assert_non_null(strstr(ls_status_message(), "needs images"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(like_torch), cmocka_unit_test(evaluates),
        cmocka_unit_test(accumulates), cmocka_unit_test(weights_may_come),
        cmocka_unit_test(finishes_in_order), cmocka_unit_test(sizes), cmocka_unit_test(table),
        cmocka_unit_test(needs_images)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
