// Metrics against known values; evaluation against a plain loop over the samples; the choice of the quick
// part.
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "evaluate_fixture.h"
#include "strict_device.h"

static char directory[] = "/tmp/lockstep-test-XXXXXX";
static LsComm *comm;

static int begin(void **state)
{
    (void)state;
    LsCommOptions options = {.kind = LS_COMM_AUTO, .timeout = 60};
    return mkdtemp(directory) && ls_comm_open(&options, &comm) == LS_OK ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    ls_comm_close(comm);
    return ls_directory_remove(directory) == LS_OK ? 0 : -1;
}

// ---- Metrics --------------------------------------------------------------------------------------------

static void assert_near(double actual, double expected)
{
    // A handful of float64 operations on numbers around 1.
    if (!(fabs(actual - expected) <= 1e-14))
        fail_msg("%.17g, not %.17g", actual, expected);
}

// The examples of scikit-learn's documentation of f1_score and accuracy_score.
static void accuracy_and_f1(void **state)
{
    (void)state;
    static const LsPrediction predictions[] = {{.label = 0, .predicted = 0}, {.label = 1, .predicted = 2},
        {.label = 2, .predicted = 1}, {.label = 0, .predicted = 0}, {.label = 1, .predicted = 0},
        {.label = 2, .predicted = 1}};
    LsEvaluation e;
    assert_ok(ls_metrics_classification(predictions, 6, 3, &e));
    assert_true(e.classes);
    assert_false(e.binary);
    assert_near(e.accuracy, 2.0 / 6);
    assert_near(e.macro_f1, 0.8 / 3);
    assert_ok(ls_metrics_classification(predictions, 6, 5, &e)); // classes 3 and 4 never occur
    assert_near(e.macro_f1, 0.8 / 3);
    // Classes 1 and 2 occur in predictions only, and class 0 has 2 of 5 with no false positive: F1 4/7.
    static const LsPrediction one_sided[] = {
        {.predicted = 0}, {.predicted = 1}, {.predicted = 2}, {.predicted = 0}, {.predicted = 1}};
    assert_ok(ls_metrics_classification(one_sided, 5, 3, &e));
    assert_near(e.macro_f1, 4.0 / 7 / 3);
    assert_int_equal(ls_metrics_classification(one_sided, 0, 3, &e), LS_INTERNAL);
}

static double auc(const int32_t *labels, const float *scores, size_t samples)
{
    LsPrediction predictions[16];
    LsEvaluation e;
    assert_true(samples <= 16);
    for (size_t i = 0; i < samples; i++)
        predictions[i] = (LsPrediction){.label = labels[i], .score = scores[i]};
    assert_ok(ls_metrics_classification(predictions, samples, 2, &e));
    assert_true(e.binary);
    return e.roc_auc;
}

static void area_under_curve(void **state)
{
    (void)state;
    // The example of scikit-learn's documentation of roc_auc_score.
    assert_near(auc((int32_t[]){0, 0, 1, 1}, (float[]){0.1f, 0.4f, 0.35f, 0.8f}, 4), 0.75);
    // Ties: of the nine pairs 5 are in order and 4 are equal, which counts half: (5 + 4 / 2) / 9.
    assert_near(
        auc((int32_t[]){0, 1, 0, 1, 1, 0}, (float[]){0.5f, 0.5f, 0.2f, 0.9f, 0.5f, 0.5f}, 6), 7.0 / 9);
    assert_near(auc((int32_t[]){0, 1, 1, 0}, (float[]){1, 1, 1, 1}, 4), 0.5);
    assert_near(auc((int32_t[]){0, 0, 1}, (float[]){3, INFINITY, -INFINITY}, 3), 0);
    assert_true(isnan(auc((int32_t[]){1, 1}, (float[]){1, 2}, 2)));
}

static void predicted_class(void **state)
{
    (void)state;
    LsPrediction p = {0};
    ls_predict_class((float[]){1, 3, 3, 2}, 4, &p);
    assert_int_equal(p.predicted, 1);
    ls_predict_class((float[]){NAN, -7, NAN, -8}, 4, &p);
    assert_int_equal(p.predicted, 1);
    ls_predict_class((float[]){2, 0.5f}, 2, &p);
    assert_int_equal(p.predicted, 0);
    assert_true(p.score == -1.5f);
    ls_predict_class((float[]){0.25f}, 1, &p);
    assert_int_equal(p.predicted, 1);
    assert_true(p.score == 0.25f);
    ls_predict_class((float[]){-0.25f}, 1, &p);
    assert_int_equal(p.predicted, 0);
    ls_predict_class((float[]){NAN}, 1, &p);
    assert_int_equal(p.predicted, 0);
    assert_true(p.score == -INFINITY);
}

static void told(void **state)
{
    (void)state;
    LsEvaluation e = {.split = LS_TEST,
        .samples = 4,
        .classes = true,
        .binary = true,
        .loss = 0.5,
        .accuracy = 0.75,
        .macro_f1 = 0.7,
        .roc_auc = NAN};
    bool higher;
    json_t *object = ls_evaluation_json(&e);
    assert_string_equal(json_string_value(json_object_get(object, "split")), "test");
    assert_true(json_real_value(json_object_get(object, "accuracy")) == 0.75);
    assert_true(json_is_null(json_object_get(object, "roc_auc"))); // JSON has no NaN
    json_decref(object);
    assert_true(ls_evaluation_metric(&e, LS_METRIC_LOSS, &higher) == 0.5 && !higher);
    assert_true(ls_evaluation_metric(&e, LS_METRIC_ACCURACY, &higher) == 0.75 && higher);
    assert_true(ls_evaluation_metric(&e, LS_METRIC_MACRO_F1, &higher) == 0.7 && higher);
    e.classes = e.binary = false;
    assert_true(isnan(ls_evaluation_metric(&e, LS_METRIC_ROC_AUC, &higher)));
    assert_true(isnan(ls_evaluation_metric(&e, LS_METRIC_TOP5_ACCURACY, &higher)));
    object = ls_evaluation_json(&e);
    assert_null(json_object_get(object, "accuracy"));
    assert_null(json_object_get(object, "top5_accuracy"));
    json_decref(object);
    e.classes = e.many = true;
    e.top5_accuracy = 0.875;
    object = ls_evaluation_json(&e);
    assert_true(json_real_value(json_object_get(object, "top5_accuracy")) == 0.875);
    json_decref(object);
    assert_true(ls_evaluation_metric(&e, LS_METRIC_TOP5_ACCURACY, &higher) == 0.875 && higher);
}

// ---- Evaluation -----------------------------------------------------------------------------------------

static LsDevice *open_device(bool strict)
{
    LsDevice *device;
    LsDeviceOptions options = {.kind = LS_DEVICE_REF, .precision = LS_PRECISION_FP32, .threads = 1};
    if (strict)
        assert_ok(ls_strict_device_open(LS_PRECISION_FP32, &device));
    else
        assert_ok(ls_device_open(&options, &device));
    return device;
}

// The test split's samples and labels or targets.
static void read_split(const Scene *s, float *x, void *y)
{
    LsReader *reader;
    uint64_t index[ROWS];
    size_t samples = ls_dataset_info(s->dataset)->samples[LS_TEST];
    for (size_t i = 0; i < samples; i++)
        index[i] = i;
    assert_ok(ls_reader_create(s->dataset, LS_TEST, &reader));
    assert_ok(ls_reader_read(reader, index, samples, x, y));
    ls_reader_destroy(reader);
}

// The linear model in float64.
static void model_outputs(const Scene *s, const float *x, double *out)
{
    const LsDatasetInfo *info = ls_dataset_info(s->dataset);
    const LsParameter *weight = &s->model->parameters.list[0], *bias = &s->model->parameters.list[1];
    for (size_t o = 0; o < weight->shape[0]; o++) {
        out[o] = s->flat[bias->offset + o];
        for (size_t f = 0; f < FEATURES; f++) {
            size_t c = f % info->period;
            out[o] += (double)s->flat[weight->offset + o * FEATURES + f] * ((double)x[f] - info->shift[c]) *
                      info->scale[c];
        }
    }
}

static double cross_entropy(const double *logits, size_t classes, int32_t label)
{
    double total = 0;
    for (size_t c = 0; c < classes; c++)
        total += exp(logits[c]);
    return log(total) - logits[label];
}

static LsStatus create_evaluator(Scene *s, size_t batch, LsEvaluator **out)
{
    return ls_evaluator_create(
        &(LsEvaluatorOptions){
            .comm = comm, .device = s->device, .model = s->model, .dataset = s->dataset, .batch = batch},
        out);
}

static LsEvaluation evaluate(Scene *s, size_t batch, const uint64_t *indexes, size_t count)
{
    LsEvaluator *evaluator;
    LsEvaluateOptions options = {
        .split = LS_TEST,
        .indexes = indexes,
        .count = count,
        .weights = s->weights,
    };
    LsEvaluation out;
    assert_ok(create_evaluator(s, batch, &evaluator));
    assert_ok(ls_evaluate(evaluator, &options, &out));
    ls_evaluator_destroy(evaluator);
    return out;
}

// FP32 logits of a few products of numbers around 1: errors of about 1e-7, and 1e-6 allowed for the mean
// loss.
static void assert_loss(double actual, double expected)
{
    if (!(fabs(actual - expected) <= 1e-6 * (1 + fabs(expected))))
        fail_msg("loss %.9g, not %.9g", actual, expected);
}

// The device's losses of the split's samples, all in one batch, summed in order.
static double ordered_loss(Scene *s, const float *x, const int32_t *y, size_t samples)
{
    const LsDeviceOps *ops = s->device->ops;
    LsDeviceBatch *uploader;
    LsBatch batch;
    float losses[ROWS];
    void *row_loss;
    double sum = 0;
    assert_ok(ls_device_batch_create(
        s->device, ls_dataset_info(s->dataset), &s->model->shape, samples, 1, &uploader));
    assert_ok(ls_device_batch_upload(uploader, x, y, NULL, samples, &batch));
    assert_ok(ops->allocate(s->device, samples * sizeof *losses, &row_loss));
    assert_ok(s->model->ops->forward(s->model, s->weights, &batch, false));
    assert_ok(s->model->ops->loss(s->model, &batch, 0, NULL, NULL, row_loss));
    assert_ok(ops->copy_out(s->device, losses, row_loss, samples * sizeof *losses));
    assert_ok(ops->synchronize(s->device));
    for (size_t i = 0; i < samples; i++)
        sum += (double)losses[i];
    ops->release(s->device, row_loss);
    ls_device_batch_destroy(uploader);
    return sum / (double)samples;
}

// The sizes of blocks, which divide the split or not, and the number of ranks change nothing, to the bit: the
// ref device computes each row by itself, and rows are summed in order.
static void check_blocks(Scene *s, const LsEvaluation *whole, double ordered)
{
    for (size_t batch = 1; batch <= 64; batch += 21) {
        LsEvaluation other = evaluate(s, batch, NULL, 0);
        assert_true(other.loss == ordered);
        assert_true(other.accuracy == whole->accuracy && other.macro_f1 == whole->macro_f1);
    }
}

// The whole split and a part of it.
static void check_like_a_plain_loop(bool strict)
{
    Scene s;
    float x[ROWS * FEATURES];
    int32_t y[ROWS];
    double logits[3], loss = 0, part_loss = 0;
    size_t hits = 0, next = 0;
    static const uint64_t part[] = {3, 4, 8, 30, 31};
    open_scene(&s, directory, 3, LS_LOSS_AUTO, open_device(strict));
    size_t samples = ls_dataset_info(s.dataset)->samples[LS_TEST];
    assert_in_range(samples, 50, 64);
    read_split(&s, x, y);
    for (size_t i = 0; i < samples; i++) {
        model_outputs(&s, x + i * FEATURES, logits);
        loss += cross_entropy(logits, 3, y[i]);
        hits += logits[y[i]] == fmax(logits[0], fmax(logits[1], logits[2]));
        if (next < 5 && part[next] == i) {
            part_loss += cross_entropy(logits, 3, y[i]);
            next++;
        }
    }
    LsEvaluation whole = evaluate(&s, 7, NULL, 0);
    assert_int_equal(whole.samples, samples);
    assert_int_equal(whole.split, LS_TEST);
    assert_true(whole.classes && !whole.binary);
    assert_loss(whole.loss, loss / (double)samples);
    assert_true(whole.accuracy == (double)hits / (double)samples);
    check_blocks(&s, &whole, ordered_loss(&s, x, y, samples));
    LsEvaluation some = evaluate(&s, 2, part, 5);
    assert_int_equal(some.samples, 5);
    assert_loss(some.loss, part_loss / 5);
    close_scene(&s);
}

static void like_a_plain_loop(void **state)
{
    (void)state;
    check_like_a_plain_loop(false);
    check_like_a_plain_loop(true);
}

// One output for two classes. The area under the curve is the part of (positive, negative) pairs in order.
static void binary_cross_entropy(void **state)
{
    (void)state;
    Scene s;
    float x[ROWS * FEATURES];
    int32_t y[ROWS];
    double logit[ROWS], loss = 0, ordered = 0, pairs = 0;
    open_scene(&s, directory, 2, LS_LOSS_BINARY_CROSS_ENTROPY, open_device(false));
    assert_int_equal(s.model->shape.outputs, 1);
    assert_int_equal(s.model->loss_kind, LS_LOSS_BINARY_CROSS_ENTROPY);
    size_t samples = ls_dataset_info(s.dataset)->samples[LS_TEST], hits = 0;
    read_split(&s, x, y);
    for (size_t i = 0; i < samples; i++) {
        model_outputs(&s, x + i * FEATURES, &logit[i]);
        loss += log1p(exp(logit[i])) - y[i] * logit[i];
        hits += (logit[i] > 0) == y[i];
    }
    for (size_t i = 0; i < samples; i++)
        for (size_t j = 0; j < samples; j++)
            if (y[i] == 1 && y[j] == 0) {
                pairs++;
                ordered += logit[i] > logit[j];
            }
    LsEvaluation e = evaluate(&s, 16, NULL, 0);
    assert_true(e.classes && e.binary);
    assert_loss(e.loss, loss / (double)samples);
    assert_true(e.accuracy == (double)hits / (double)samples);
    assert_near(e.roc_auc, ordered / pairs);
    close_scene(&s);
}

static void regression(void **state)
{
    (void)state;
    Scene s;
    float x[ROWS * FEATURES], y[ROWS];
    double loss = 0;
    open_scene(&s, directory, 0, LS_LOSS_AUTO, open_device(true));
    size_t samples = ls_dataset_info(s.dataset)->samples[LS_TEST];
    read_split(&s, x, y);
    for (size_t i = 0; i < samples; i++) {
        double output;
        model_outputs(&s, x + i * FEATURES, &output);
        loss += (output - y[i]) * (output - y[i]);
    }
    LsEvaluation e = evaluate(&s, 16, NULL, 0);
    assert_false(e.classes || e.binary);
    assert_loss(e.loss, loss / (double)samples);
    close_scene(&s);
}

static void refuses(void **state)
{
    (void)state;
    Scene s;
    LsConfig config;
    LsDataShape shape;
    LsEvaluation out;
    open_scene(&s, directory, 3, LS_LOSS_AUTO, open_device(false));
    LsEvaluator *evaluator;
    LsEvaluateOptions options = {.split = LS_VALIDATION, .weights = s.weights};
    assert_ok(create_evaluator(&s, 8, &evaluator));
    assert_int_equal(ls_evaluate(evaluator, &options, &out), LS_BAD_DATA);
    ls_evaluator_destroy(evaluator);
    assert_int_equal(create_evaluator(&s, 65, &evaluator), LS_INTERNAL);
    assert_int_equal(create_evaluator(&s, 0, &evaluator), LS_INTERNAL);
    LsDataset *other = s.dataset;
    s.dataset = import_dataset(directory, 2);
    assert_int_equal(create_evaluator(&s, 8, &evaluator), LS_BAD_DATA);
    ls_dataset_close(s.dataset);
    s.dataset = other;
    ls_config_defaults(&config);
    config.train.loss = LS_LOSS_BINARY_CROSS_ENTROPY;
    assert_int_equal(ls_data_shape(&config, ls_dataset_info(s.dataset), &shape), LS_CONFIG);
    close_scene(&s);
}

// Flips a bit of a sample of the test split in the data file.
static void damage(const char *path, const float *sample)
{
    FILE *file = fopen(path, "r+b");
    static char bytes[1 << 20];
    assert_non_null(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    const char *found = memmem(bytes, size, sample, FEATURES * sizeof *sample);
    assert_non_null(found);
    assert_int_equal(fseek(file, found - bytes, SEEK_SET), 0);
    assert_int_equal(fputc(*found ^ 1, file), (unsigned char)(*found ^ 1));
    assert_int_equal(fclose(file), 0);
}

// This rank wants to stop once it has been asked so often.
typedef struct Patience {
    uint32_t asked, enough, reason;
} Patience;

static uint32_t lose_patience(const void *context)
{
    Patience *patience = *(Patience *const *)context;
    return patience->asked++ >= patience->enough ? patience->reason : 0;
}

// The last rank alone has a bad file: no rank waits for it, all tell the same.
static void damaged_on_one_rank(void **state)
{
    (void)state;
    Scene s;
    char path[LS_PATH_MAX];
    float x[ROWS * FEATURES];
    int32_t y[ROWS];
    LsEvaluation out;
    open_scene(&s, directory, 3, LS_LOSS_AUTO, open_device(false));
    read_split(&s, x, y);
    assert_ok(ls_path_join(path, directory, "rows.h5"));
    if (ls_comm_rank(comm) == ls_comm_size(comm) - 1)
        damage(path, x);
    ls_dataset_close(s.dataset); // it keeps in memory what it has read
    assert_ok(ls_dataset_open(path, &s.dataset));
    LsEvaluator *evaluator;
    LsEvaluateOptions options = {.split = LS_TEST, .weights = s.weights};
    Patience endless = {.enough = UINT32_MAX}, *patience = &endless;
    LsEvaluateStop stop = {.ask = lose_patience, .context = &patience};
    assert_ok(create_evaluator(&s, 8, &evaluator));
    assert_int_equal(ls_evaluate(evaluator, &options, &out), LS_BAD_DATA);
    assert_non_null(strstr(ls_status_message(), "rows.h5"));
    options.stop = &stop;
    assert_int_equal(ls_evaluate(evaluator, &options, &out), LS_BAD_DATA);
    assert_non_null(strstr(ls_status_message(), "rows.h5"));
    assert_int_equal(stop.reason, 0);
    ls_evaluator_destroy(evaluator);
    close_scene(&s);
}

// What one rank wants ends it on all, after the same block; the next one is as if nothing had been.
static void gives_up_when_asked(void **state)
{
    (void)state;
    Scene s;
    LsEvaluator *evaluator;
    LsEvaluation whole, out;
    open_scene(&s, directory, 3, LS_LOSS_AUTO, open_device(false));
    assert_ok(create_evaluator(&s, 4, &evaluator));
    assert_ok(ls_evaluate(evaluator, &(LsEvaluateOptions){.split = LS_TEST, .weights = s.weights}, &whole));
    for (uint32_t enough = 0; enough < 4; enough++) {
        bool last = ls_comm_rank(comm) == ls_comm_size(comm) - 1;
        Patience mine = {.enough = last && enough < 3 ? enough : UINT32_MAX, .reason = 7}, *patience = &mine;
        LsEvaluateStop stop = {.ask = lose_patience, .context = &patience, .reason = 9};
        memset(&out, 0x55, sizeof out);
        LsEvaluation before = out;
        assert_ok(ls_evaluate(
            evaluator, &(LsEvaluateOptions){.split = LS_TEST, .weights = s.weights, .stop = &stop}, &out));
        assert_int_equal(stop.reason, enough < 3 ? 7 : 0);
        if (enough < 3) {
            assert_int_equal(mine.asked, enough + 1);
            assert_memory_equal(&out, &before, sizeof out);
        } else {
            assert_true(out.loss == whole.loss && out.accuracy == whole.accuracy);
        }
    }
    ls_evaluator_destroy(evaluator);
    close_scene(&s);
}

static size_t allocations;
static LsStatus (*allocate)(LsDevice *device, size_t bytes, void **out);

static LsStatus count_allocation(LsDevice *device, size_t bytes, void **out)
{
    allocations++;
    return allocate(device, bytes, out);
}

// Evaluations of any size take no memory of the device but what the evaluator has.
static void allocates_once(void **state)
{
    (void)state;
    Scene s;
    LsEvaluator *evaluator;
    LsEvaluation out;
    static const uint64_t part[] = {3, 4, 8};
    open_scene(&s, directory, 3, LS_LOSS_AUTO, open_device(true));
    const LsDeviceOps *ops = s.device->ops;
    LsDeviceOps counted = *ops;
    allocate = counted.allocate;
    counted.allocate = count_allocation;
    s.device->ops = &counted;
    allocations = 0;
    assert_ok(create_evaluator(&s, 8, &evaluator));
    size_t before = allocations;
    assert_true(before > 0);
    assert_ok(ls_evaluate(evaluator, &(LsEvaluateOptions){.split = LS_TEST, .weights = s.weights}, &out));
    double whole = out.loss;
    assert_ok(ls_evaluate(evaluator,
        &(LsEvaluateOptions){.split = LS_TEST, .indexes = part, .count = 3, .weights = s.weights}, &out));
    assert_int_equal(out.samples, 3);
    assert_ok(ls_evaluate(evaluator, &(LsEvaluateOptions){.split = LS_TEST, .weights = s.weights}, &out));
    assert_true(out.loss == whole);
    assert_int_equal(allocations, before);
    ls_evaluator_destroy(evaluator);
    s.device->ops = ops;
    close_scene(&s);
}

// ---- The quick part -------------------------------------------------------------------------------------

static void assert_ascending(const uint64_t *indexes, size_t count, size_t samples)
{
    for (size_t i = 0; i < count; i++)
        assert_true(indexes[i] < samples && (i == 0 || indexes[i - 1] < indexes[i]));
}

static void quick_part_is_stratified(void **state)
{
    (void)state;
    Scene s;
    float x[ROWS * FEATURES];
    int32_t y[ROWS];
    uint64_t chosen[ROWS], again[ROWS];
    open_scene(&s, directory, 3, LS_LOSS_AUTO, open_device(false));
    size_t samples = ls_dataset_info(s.dataset)->samples[LS_TEST], members[3] = {0};
    read_split(&s, x, y);
    for (size_t i = 0; i < samples; i++)
        members[y[i]]++;
    for (size_t count = 0; count <= samples; count++) {
        size_t got[3] = {0};
        assert_ok(ls_evaluate_choose(s.dataset, LS_TEST, 1, count, chosen));
        assert_ascending(chosen, count, samples);
        for (size_t i = 0; i < count; i++)
            got[y[chosen[i]]]++;
        for (size_t c = 0; c < 3; c++) // largest remainders: within one of the exact share
            assert_true(fabs((double)got[c] - (double)(members[c] * count) / (double)samples) < 1);
    }
    assert_ok(ls_evaluate_choose(s.dataset, LS_TEST, 1, 20, chosen));
    assert_ok(ls_evaluate_choose(s.dataset, LS_TEST, 1, 20, again));
    assert_memory_equal(chosen, again, 20 * sizeof *chosen);
    assert_ok(ls_evaluate_choose(s.dataset, LS_TEST, 2, 20, again));
    assert_memory_not_equal(chosen, again, 20 * sizeof *chosen);
    assert_int_equal(ls_evaluate_choose(s.dataset, LS_TEST, 1, samples + 1, chosen), LS_CONFIG);
    close_scene(&s);
}

static void quick_part_of_regression(void **state)
{
    (void)state;
    Scene s;
    uint64_t chosen[ROWS];
    open_scene(&s, directory, 0, LS_LOSS_AUTO, open_device(false));
    size_t samples = ls_dataset_info(s.dataset)->samples[LS_TEST];
    assert_ok(ls_evaluate_choose(s.dataset, LS_TEST, 1, 17, chosen));
    assert_ascending(chosen, 17, samples);
    close_scene(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accuracy_and_f1),
        cmocka_unit_test(area_under_curve),
        cmocka_unit_test(predicted_class),
        cmocka_unit_test(told),
        cmocka_unit_test(like_a_plain_loop),
        cmocka_unit_test(binary_cross_entropy),
        cmocka_unit_test(regression),
        cmocka_unit_test(refuses),
        cmocka_unit_test(damaged_on_one_rank),
        cmocka_unit_test(gives_up_when_asked),
        cmocka_unit_test(allocates_once),
        cmocka_unit_test(quick_part_is_stratified),
        cmocka_unit_test(quick_part_of_regression),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
