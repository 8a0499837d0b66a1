// Metrics of one set of predictions, and how they are told.
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "train/evaluate.h"

// Whether output a comes before output b: it is larger, or as large and of a lower class, and no NaN.
static bool comes_before(const float *outputs, size_t a, size_t b)
{
    if (isnan(outputs[a]) || isnan(outputs[b]))
        return isnan(outputs[b]) && (!isnan(outputs[a]) || a < b);
    return outputs[a] > outputs[b] || (outputs[a] == outputs[b] && a < b);
}

static int32_t count_ahead(const float *outputs, size_t columns, size_t label)
{
    int32_t ahead = 0;
    for (size_t c = 0; c < columns; c++)
        ahead += c != label && comes_before(outputs, c, label);
    return ahead;
}

void ls_predict_class(const float *outputs, size_t columns, LsPrediction *prediction)
{
    if (columns == 1) {
        prediction->predicted = outputs[0] > 0;
        prediction->ahead = prediction->predicted != prediction->label;
        prediction->score = outputs[0];
    } else {
        size_t best = 0;
        for (size_t c = 1; c < columns; c++)
            best = comes_before(outputs, c, best) ? c : best;
        prediction->predicted = (int32_t)best;
        prediction->ahead = count_ahead(outputs, columns, (size_t)prediction->label);
        prediction->score = outputs[1] - outputs[0];
    }
    // Scores are sorted, which needs an order that includes every value.
    if (isnan(prediction->score))
        prediction->score = -INFINITY;
}

// F1 of a class = 2 true positives / (samples of the class + predictions of the class).
static double macro_f1(const uint64_t *correct, const uint64_t *occurrences, size_t classes)
{
    double sum = 0;
    size_t present = 0;
    for (size_t c = 0; c < classes; c++) {
        if (occurrences[c] == 0)
            continue;
        sum += 2.0 * (double)correct[c] / (double)occurrences[c];
        present++;
    }
    return sum / (double)present;
}

static int by_score(const void *a, const void *b)
{
    float x = ((const LsPrediction *)a)->score, y = ((const LsPrediction *)b)->score;
    return (x > y) - (x < y);
}

// U / (positives × negatives), where U sums the positives' ranks; equal scores share their mean rank.
static double area_under_curve(const LsPrediction *sorted, size_t samples)
{
    double rank_sum = 0, positives = 0;
    for (size_t first = 0, end; first < samples; first = end) {
        size_t positive = 0;
        for (end = first; end < samples && sorted[end].score == sorted[first].score; end++)
            positive += sorted[end].label == 1;
        rank_sum += (double)positive * ((double)(first + 1) + (double)end) / 2;
        positives += (double)positive;
    }
    double negatives = (double)samples - positives;
    if (positives == 0 || negatives == 0)
        return NAN;
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives);
}

static LsStatus roc_auc(const LsPrediction *predictions, size_t samples, double *out)
{
    void *memory;
    LS_TRY(ls_memory_allocate(samples * sizeof *predictions, &memory));
    LsPrediction *sorted = memory;
    for (size_t i = 0; i < samples; i++)
        sorted[i] = predictions[i];
    qsort(sorted, samples, sizeof *sorted, by_score);
    *out = area_under_curve(sorted, samples);
    free(memory);
    return LS_OK;
}

LsStatus ls_metrics_classification(
    const LsPrediction *predictions, size_t samples, size_t classes, LsEvaluation *out)
{
    void *memory;
    size_t bytes;
    if (!ls_size_multiply(classes, 2 * sizeof(uint64_t), &bytes) || samples == 0 || classes < 2)
        return LS_FAIL(LS_INTERNAL, "metrics of %zu samples in %zu classes", samples, classes);
    LS_TRY(ls_memory_allocate(bytes, &memory));
    uint64_t *correct = memory, *occurrences = correct + classes, hits = 0, near = 0;
    for (size_t i = 0; i < samples; i++) {
        const LsPrediction *p = &predictions[i];
        occurrences[p->label]++;
        occurrences[p->predicted]++;
        correct[p->label] += p->label == p->predicted;
        hits += p->label == p->predicted;
        near += p->ahead < LS_TOP;
    }
    double f1 = macro_f1(correct, occurrences, classes), auc = 0;
    free(memory);
    if (classes == 2)
        LS_TRY(roc_auc(predictions, samples, &auc));
    out->samples = samples;
    out->classes = true;
    out->binary = classes == 2;
    out->many = classes > LS_TOP;
    out->accuracy = (double)hits / (double)samples;
    out->top5_accuracy = (double)near / (double)samples;
    out->macro_f1 = f1;
    out->roc_auc = auc;
    return LS_OK;
}

json_t *ls_evaluation_json(const LsEvaluation *evaluation)
{
    json_t *object = json_object();
    json_object_set_new(object, "split", json_string(ls_split_name(evaluation->split)));
    json_object_set_new(object, "samples", json_integer((json_int_t)evaluation->samples));
    json_object_set_new(object, "loss", ls_json_number(evaluation->loss));
    if (evaluation->classes)
        json_object_set_new(object, "accuracy", ls_json_number(evaluation->accuracy));
    if (evaluation->many)
        json_object_set_new(object, "top5_accuracy", ls_json_number(evaluation->top5_accuracy));
    if (evaluation->classes)
        json_object_set_new(object, "macro_f1", ls_json_number(evaluation->macro_f1));
    if (evaluation->binary)
        json_object_set_new(object, "roc_auc", ls_json_number(evaluation->roc_auc));
    if (evaluation->window > 0)
        json_object_set_new(object, "perplexity", ls_json_number(evaluation->perplexity));
    if (evaluation->bits_per_byte > 0)
        json_object_set_new(object, "bits_per_byte", ls_json_number(evaluation->bits_per_byte));
    return object;
}

double ls_evaluation_metric(const LsEvaluation *evaluation, int metric, bool *better_is_higher)
{
    *better_is_higher = metric != LS_METRIC_LOSS;
    switch ((LsEvalMetric)metric) {
    case LS_METRIC_ACCURACY:
        return evaluation->classes ? evaluation->accuracy : NAN;
    case LS_METRIC_TOP5_ACCURACY:
        return evaluation->many ? evaluation->top5_accuracy : NAN;
    case LS_METRIC_MACRO_F1:
        return evaluation->classes ? evaluation->macro_f1 : NAN;
    case LS_METRIC_ROC_AUC:
        return evaluation->binary ? evaluation->roc_auc : NAN;
    case LS_METRIC_LOSS:
        break;
    }
    return evaluation->loss;
}
