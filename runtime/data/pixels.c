#include "pixels.h"

#include <math.h>

#include "import_common.h"

void ls_pixels_add(LsPixels *pixels, const uint8_t *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; c < pixels->channels; c++)
            pixels->count[c][*x++]++;
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
