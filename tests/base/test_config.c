// Options: every one has a valid default and reads back from its text; bad values and combinations are
// refused with a sentence that helps.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/text.h"

static LsConfig fresh(void)
{
    LsConfig config;
    ls_config_defaults(&config);
    config.train.max_steps = 100; // a run needs an end
    return config;
}

// Setting must fail with LS_CONFIG, leave the configuration alone and say `part`.
static void expect_refused(const char *name, const char *value, const char *part)
{
    LsConfig config = fresh(), before = config;
    assert_int_equal(ls_config_set(&config, name, value, "--set"), LS_CONFIG);
    assert_memory_equal(&config, &before, sizeof config);
    assert_int_equal(strncmp(ls_status_message(), "--set: ", 7), 0);
    if (strstr(ls_status_message(), part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", ls_status_message(), part);
}

static void test_defaults(void **state)
{
    (void)state;
    size_t count;
    const LsOption *options = ls_options(&count);
    LsConfig config, again;
    memset(&config, 0xAA, sizeof config);
    ls_config_defaults(&config);
    ls_config_defaults(&again);
    assert_memory_equal(&config, &again, sizeof config); // every byte is set
    for (size_t i = 0; i < count; i++) {
        const LsOption *option = &options[i];
        assert_ptr_equal(ls_option_find(option->name), option);
        assert_int_equal(ls_config_set(&config, option->name, option->initial, "default"), LS_OK);
        size_t length = strlen(option->help);
        assert_true(length > 0 && option->help[length - 1] == '.');
        assert_null(strchr(option->help, '|')); // would end the cell of a table
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(options[j].name, option->name);
            assert_true(options[j].offset != option->offset);
        }
    }
    assert_memory_equal(&config, &again, sizeof config);
    config.train.max_steps = 1;
    assert_int_equal(ls_config_validate(&config), LS_OK);
}

// Sets the option, takes its text, sets that in another configuration: both must be equal.
static void check_round_trip(const LsOption *option, const char *value)
{
    LsConfig config = fresh(), back = fresh();
    char text[LS_CONFIG_LIST * 24];
    if (ls_config_set(&config, option->name, value, "test") != LS_OK)
        fail_msg("%s", ls_status_message());
    ls_option_text(&config, option, text, sizeof text);
    assert_int_equal(ls_config_set(&back, option->name, text, "test"), LS_OK);
    assert_memory_equal(&config, &back, sizeof config);
}

static void check_number_bounds(const LsOption *option)
{
    char text[64];
    bool whole = option->type != LS_OPTION_REAL;
    const char *format = whole ? "%.0f" : "%.17g";
    snprintf(text, sizeof text, format, option->minimum);
    check_round_trip(option, text);
    snprintf(text, sizeof text, format, option->maximum);
    check_round_trip(option, text);
    snprintf(text, sizeof text, format, whole ? option->minimum - 1 : nextafter(option->minimum, -INFINITY));
    if (strtod(text, NULL) != 0 || whole) // the number below 0 is too small for text to be read strictly
        expect_refused(option->name, text, option->name);
    if (whole)
        snprintf(text, sizeof text, "%.0f", option->maximum + 2); // 2^53 + 1 is no double
    else
        snprintf(text, sizeof text, "%.17g", nextafter(option->maximum, INFINITY));
    expect_refused(option->name, text, option->name);
}

static void test_every_option(void **state)
{
    (void)state;
    size_t count;
    const LsOption *options = ls_options(&count);
    for (size_t i = 0; i < count; i++) {
        const LsOption *option = &options[i];
        switch (option->type) {
        case LS_OPTION_INT:
        case LS_OPTION_REAL:
        case LS_OPTION_INTS:
            check_number_bounds(option);
            if (option->zero) {
                check_round_trip(option, option->zero);
                expect_refused(option->name, "0", option->zero);
                expect_refused(option->name, "automatic", option->zero);
            }
            break;
        case LS_OPTION_BOOL:
            check_round_trip(option, "true");
            check_round_trip(option, "false");
            break;
        case LS_OPTION_TEXT:
            check_round_trip(option, "a \"b\" \\ é: #{}[] 'c'");
            check_round_trip(option, "");
            break;
        case LS_OPTION_CHOICE:
            for (size_t c = 0; option->choices[c] != NULL; c++)
                check_round_trip(option, option->choices[c]);
            break;
        }
    }
}

static void test_choices_follow_the_enumerations(void **state)
{
    (void)state;
    const struct {
        const char *name, *choice;
        int value;
    } last[] = {{"model.kind", "resnet", LS_MODEL_RESNET}, {"model.depth", "50", LS_RESNET_50},
        {"model.stem", "small", LS_STEM_SMALL}, {"model.recompute", "block", LS_RECOMPUTE_BLOCK},
        {"model.activation", "gelu", LS_ACTIVATION_GELU}, {"train.loss", "mse", LS_LOSS_MSE},
        {"optimizer.kind", "adamw", LS_OPTIMIZER_ADAMW}, {"schedule.kind", "wsd", LS_SCHEDULE_WSD},
        {"schedule.kind", "step", LS_SCHEDULE_STEP}, {"eval.metric", "roc_auc", LS_METRIC_ROC_AUC},
        {"runtime.device", "ref", LS_DEVICE_REF}, {"runtime.precision", "bf16", LS_PRECISION_BF16},
        {"runtime.precision", "fp16", LS_PRECISION_FP16}, {"runtime.isa", "amx", LS_ISA_AMX},
        {"collectives.backend", "nccl", LS_COMM_NCCL}, {"collectives.reduction", "fast", LS_REDUCTION_FAST}};
    for (size_t i = 0; i < sizeof last / sizeof last[0]; i++) {
        LsConfig config = fresh();
        assert_int_equal(ls_config_set(&config, last[i].name, last[i].choice, "test"), LS_OK);
        const LsOption *option = ls_option_find(last[i].name);
        assert_int_equal(*(int *)((char *)&config + option->offset), last[i].value);
    }
}

static void test_bad_values(void **state)
{
    (void)state;
    const char *const bad_ints[] = {"", " ", "1e6", "1_000", "0x10", "3.0", "12 ", " 12", "abc", "-", "--1",
        "1,2", "99999999999999999999999", "-9223372036854775809", "nan", "true"};
    for (size_t i = 0; i < sizeof bad_ints / sizeof bad_ints[0]; i++)
        expect_refused("train.batch", bad_ints[i], "a whole number from 1 to");
    const char *const bad_reals[] = {"", "nan", "inf", "-inf", "infinity", "0x1p3", "1e999", "1e-999",
        "1.5.2", "1,5", "1 ", " 1", "e", ".", "-", "1e", "--1", "true", "-0.5"};
    for (size_t i = 0; i < sizeof bad_reals / sizeof bad_reals[0]; i++)
        expect_refused("optimizer.lr", bad_reals[i], "a number from 0 to 1000");
    const char *const bad_bools[] = {"", "yes", "no", "1", "True", "TRUE", "on", "true "};
    for (size_t i = 0; i < sizeof bad_bools / sizeof bad_bools[0]; i++)
        expect_refused("model.residual", bad_bools[i], "true or false");
    expect_refused("model.kind", "cnn", "one of mlp, gpt");
    expect_refused("runtime.device", "CPU", "one of auto, cpu, cuda, ref");
    expect_refused("runtime.precision", "", "one of auto, fp32, bf16, fp16");
    const char *const bad_lists[] = {"", "[", "]", "[1", "1]", "[1,]", "[,1]", "[1,,2]", "[1 2]", "[[1]]",
        "[a]", "[0]", "[1.5]", ",", "[1],[2]"};
    for (size_t i = 0; i < sizeof bad_lists / sizeof bad_lists[0]; i++)
        expect_refused("model.hidden", bad_lists[i], "a list of whole numbers");
    expect_refused("data.path", "a\nb", "control characters");
    expect_refused("data.path", "a\xff", "UTF-8");
    char text[LS_CONFIG_TEXT + 1];
    memset(text, 'p', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    expect_refused("data.path", text, "1023 bytes");
    text[LS_CONFIG_TEXT - 1] = '\0'; // just fits
    LsConfig config = fresh();
    assert_int_equal(ls_config_set(&config, "data.path", text, "test"), LS_OK);
    assert_string_equal(config.data.path, text);
    // Nothing of the long text stays behind the short one: configurations are compared as bytes.
    LsConfig other = fresh();
    assert_int_equal(ls_config_set(&config, "data.path", "p", "test"), LS_OK);
    assert_int_equal(ls_config_set(&other, "data.path", "p", "test"), LS_OK);
    assert_memory_equal(&config, &other, sizeof config);
}

static void test_lists(void **state)
{
    (void)state;
    const char *const same[] = {"[5, 6]", "5,6", "5, 6", " [ 5 ,6 ] "};
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        LsConfig config = fresh();
        assert_int_equal(ls_config_set(&config, "model.hidden", same[i], "test"), LS_OK);
        assert_int_equal(config.model.hidden.count, 2);
        assert_int_equal(config.model.hidden.values[0], 5);
        assert_int_equal(config.model.hidden.values[1], 6);
        assert_int_equal(config.model.hidden.values[2], 0);
    }
    LsConfig config = fresh();
    assert_int_equal(ls_config_set(&config, "model.hidden", "[ ]", "test"), LS_OK);
    assert_int_equal(config.model.hidden.count, 0);

    char text[1024] = "1";
    for (size_t i = 1; i < LS_CONFIG_LIST; i++)
        strcat(text, ",1048576");
    assert_int_equal(ls_config_set(&config, "model.hidden", text, "test"), LS_OK);
    assert_int_equal(config.model.hidden.count, LS_CONFIG_LIST);
    strcat(text, ",1");
    expect_refused("model.hidden", text, "at most 64 numbers");
}

static void test_suggestions(void **state)
{
    (void)state;
    expect_refused("train.bach", "1", "did you mean train.batch?");
    expect_refused("train.btach", "1", "did you mean train.batch?");
    expect_refused("trian.lanes", "1", "did you mean train.lanes?");
    expect_refused("train.lr", "1", "did you mean optimizer.lr?"); // the key of another section
    expect_refused("optimiser.lr", "1", "did you mean optimizer.lr?");
    expect_refused("", "1", "did you mean");
    expect_refused("nl\n.x", "1", "\"nl?.x\"");
    assert_null(strchr(ls_status_message(), '\n'));
    assert_int_equal(ls_text_distance("batch", "batch"), 0);
    assert_int_equal(ls_text_distance("btach", "batch"), 1); // a swap
    assert_int_equal(ls_text_distance("", "abc"), 3);
    assert_int_equal(ls_text_distance("kitten", "sitting"), 3);
    assert_int_equal(ls_text_distance("ca", "abc"), 3); // what tells it from the unrestricted distance, 2
}

static void test_environment(void **state)
{
    (void)state;
    char *const good[] = {"HOME=/root", "LOCKSTEP_TRAIN_MAX_STEPS=77", "LOCKSTEP_OPTIMIZER_LR=0.5",
        "LOCKSTEP_MODEL_HIDDEN=3,4", "LOCKSTEP_RUN_ID=of no section", "LOCKSTEP=x", "LOCKSTEP_=x",
        "LOCKSTEP_TRAIN=x", "LOCKSTEP_DATA_PATH=a=b", NULL};
    LsConfig config = fresh();
    assert_int_equal(ls_config_read_environment(&config, good), LS_OK);
    assert_int_equal(config.train.max_steps, 77);
    assert_true(config.optimizer.lr == 0.5);
    assert_int_equal(config.model.hidden.count, 2);
    assert_string_equal(config.data.path, "a=b");

    char *const unknown[] = {"LOCKSTEP_TRAIN_SEED=5", "LOCKSTEP_TRAIN_BACH=1", NULL};
    LsConfig before = config;
    assert_int_equal(ls_config_read_environment(&config, unknown), LS_CONFIG);
    assert_non_null(strstr(ls_status_message(), "LOCKSTEP_TRAIN_BACH: unknown option \"train.bach\""));
    assert_non_null(strstr(ls_status_message(), "train.batch"));
    assert_memory_equal(&config, &before, sizeof config); // not even the seed
    char *const bad[] = {"LOCKSTEP_TRAIN_BATCH=many", NULL};
    assert_int_equal(ls_config_read_environment(&config, bad), LS_CONFIG);
    assert_non_null(strstr(ls_status_message(), "LOCKSTEP_TRAIN_BATCH: train.batch is \"many\""));
}

// Validation must pass, or fail saying `part`, after the settings "name=value".
static void check_validation(const char *const *settings, const char *part)
{
    LsConfig config = fresh();
    for (; *settings != NULL; settings++) {
        char name[64];
        const char *equals = strchr(*settings, '=');
        snprintf(name, sizeof name, "%.*s", (int)(equals - *settings), *settings);
        if (ls_config_set(&config, name, equals + 1, "test") != LS_OK)
            fail_msg("%s", ls_status_message());
    }
    LsStatus status = ls_config_validate(&config);
    if (part == NULL && status != LS_OK)
        fail_msg("refused: %s", ls_status_message());
    if (part != NULL && (status != LS_CONFIG || strstr(ls_status_message(), part) == NULL))
        fail_msg("status %d, \"%s\" instead of \"%s\"", (int)status, ls_status_message(), part);
}
#define CHECK(part, ...) check_validation((const char *const[]){__VA_ARGS__, NULL}, part)

static void test_validation(void **state)
{
    (void)state;
    CHECK("96 or 104", "train.batch=100");
    CHECK("is 8", "train.batch=5");
    CHECK("240 or 264", "train.batch=250", "train.accumulation=3");
    CHECK(NULL, "train.batch=240", "train.accumulation=3");
    CHECK("4 or 8", "train.lanes=6");
    CHECK(NULL, "train.lanes=1", "train.batch=7");
    CHECK("no end", "train.max_steps=0");
    CHECK(NULL, "train.max_steps=0", "train.max_epochs=0.5");
    CHECK("no end", "train.max_steps=0", "train.max_time=60"); // schedules never depend on time
    CHECK("eval.every", "train.early_stopping=3", "eval.every=0");
    CHECK("eval.every", "checkpoint.keep_best=true", "eval.every=0");
    CHECK("schedule.warmup_steps", "schedule.warmup_steps=100");
    CHECK(NULL, "schedule.warmup_steps=99");
    CHECK("decay_steps", "schedule.kind=wsd");
    CHECK(NULL, "schedule.kind=wsd", "schedule.decay_steps=60", "schedule.warmup_steps=40");
    CHECK("longer than", "schedule.kind=wsd", "schedule.decay_steps=61", "schedule.warmup_steps=40");
    CHECK(NULL, "schedule.kind=cosine", "train.max_steps=0", "train.max_epochs=2");
    CHECK("set optimizer.kind to sgd", "optimizer.nesterov=true");
    CHECK("momentum", "optimizer.nesterov=true", "optimizer.kind=sgd", "optimizer.momentum=0");
    CHECK(NULL, "optimizer.nesterov=true", "optimizer.kind=sgd");
    CHECK("cross-entropy", "train.label_smoothing=0.1", "train.loss=mse");
    CHECK(NULL, "train.label_smoothing=0.1");
    CHECK("512 or 1024", "train.loss_scale=1000");
    CHECK(NULL, "train.loss_scale=16777216");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_every_option),
        cmocka_unit_test(test_choices_follow_the_enumerations),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_suggestions),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_validation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
