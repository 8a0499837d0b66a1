// Top-5 accuracy: one order of all outputs, NaN and equal ones among them, and counts of labels near its
// front.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "train/evaluate.h"

static int32_t ahead(int32_t label, const float *outputs, size_t columns)
{
    LsPrediction p = {.label = label};
    ls_predict_class(outputs, columns, &p);
    assert_int_equal(p.ahead == 0, p.predicted == label);
    return p.ahead;
}

static void classes_ahead(void **state)
{
    (void)state;
    static const float distinct[7] = {0.5f, -3, 2, 7, 1, -1, 6}, equal[7] = {1, 1, 1, 1, 1, 1, 1},
                       odd[7] = {NAN, INFINITY, -INFINITY, NAN, 2, 2, NAN};
    static const int32_t of_distinct[7] = {4, 6, 2, 0, 3, 5, 1}, of_odd[7] = {4, 0, 3, 5, 1, 2, 6};
    for (int32_t label = 0; label < 7; label++) {
        assert_int_equal(ahead(label, distinct, 7), of_distinct[label]);
        assert_int_equal(ahead(label, equal, 7), label);
        assert_int_equal(ahead(label, odd, 7), of_odd[label]);
    }
    assert_int_equal(ahead(1, (float[]){0.5f}, 1), 0); // binary cross-entropy
    assert_int_equal(ahead(0, (float[]){0.5f}, 1), 1);
}

static void top_five(void **state)
{
    (void)state;
    LsPrediction predictions[8];
    LsEvaluation e;
    for (int32_t i = 0; i < 8; i++)
        predictions[i] = (LsPrediction){.label = i % 6, .predicted = 0, .ahead = i % 6};
    assert_int_equal(ls_metrics_classification(predictions, 8, 6, &e), LS_OK);
    assert_true(e.many && e.top5_accuracy == 7.0 / 8); // label 5 has five ahead
    assert_true(e.accuracy == 2.0 / 8);
    assert_int_equal(ls_metrics_classification(predictions, 5, 5, &e), LS_OK);
    assert_false(e.many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_ahead),
        cmocka_unit_test(top_five),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
