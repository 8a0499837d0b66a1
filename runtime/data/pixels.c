#include "pixels.h"

#include <math.h>

#include "import_common.h"

void ls_pixels_add(LsPixels *pixels, const uint8_t *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; c < pixels->channels; c++)
            pixels->count[c][*x++]++;
}

void ls_pixels_merge(LsPixels *pixels, const uint64_t (*counts)[256])
{
    for (size_t c = 0; c < pixels->channels; c++)
        for (size_t value = 0; value < 256; value++)
            pixels->count[c][value] += counts[c][value];
}

json_t *ls_pixels_json(const LsPixels *pixels)
{
    json_t *json = json_array();
    int failed = json == NULL;
    for (size_t c = 0; !failed && c < pixels->channels; c++) {
        json_t *counts = json_array();
        for (size_t value = 0; value < 256; value++)
            failed |= json_array_append_new(counts, json_integer((json_int_t)pixels->count[c][value]));
        failed |= json_array_append_new(json, counts);
    }
    if (failed) {
        json_decref(json);
        return NULL;
    }
    return json;
}

bool ls_pixels_parse(const json_t *json, LsPixels *pixels)
{
    bool good = json_array_size(json) == pixels->channels;
    for (size_t c = 0; good && c < pixels->channels; c++) {
        const json_t *counts = json_array_get(json, c);
        good = json_array_size(counts) == 256;
        for (size_t value = 0; good && value < 256; value++) {
            const json_t *count = json_array_get(counts, value);
            good = json_is_integer(count) && json_integer_value(count) >= 0;
            pixels->count[c][value] = (uint64_t)json_integer_value(count);
        }
    }
    return good;
}

static void measure(const uint64_t count[256], double *mean, double *variance)
{
    double total = 0.0, sum = 0.0, squares = 0.0;
    for (int value = 0; value < 256; value++) {
        total += (double)count[value];
        sum += (double)value * (double)count[value];
    }
    *mean = sum / total;
    for (int value = 0; value < 256; value++)
        squares += (value - *mean) * (value - *mean) * (double)count[value];
    *variance = squares / total;
}

LsStatus ls_pixels_describe(const LsPixels *pixels, json_t *schema)
{
    json_t *shifts = json_array(), *scales = json_array(), *means = json_array(), *deviations = json_array();
    int failed = 0;
    for (size_t c = 0; c < pixels->channels; c++) {
        double mean, variance;
        float shift, scale;
        measure(pixels->count[c], &mean, &variance);
        ls_import_normalize(mean, variance, &shift, &scale);
        failed |= json_array_append_new(shifts, json_real(shift)) |
                  json_array_append_new(scales, json_real(scale)) |
                  json_array_append_new(means, json_real(mean)) |
                  json_array_append_new(deviations, json_real(sqrt(variance)));
    }
    bool one = pixels->channels == 1;
    failed |= json_object_set_new(schema, "uniform", json_boolean(one)) |
              json_object_set_new(schema, "shift", shifts) | json_object_set_new(schema, "scale", scales) |
              json_object_set(schema, "mean", one ? json_array_get(means, 0) : means) |
              json_object_set(schema, "deviation", one ? json_array_get(deviations, 0) : deviations);
    json_decref(means);
    json_decref(deviations);
    return failed ? LS_FAIL(LS_INTERNAL, "data import: out of memory") : LS_OK;
}
