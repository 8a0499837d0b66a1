// Reference losses, each row in float64.
#include <math.h>

#include "ref.h"

static double gradient_factor(const LsLossArgs *args)
{
    return (double)args->gradient_scale * (args->loss_scale ? *args->loss_scale : 1.0f);
}

static double output(const LsLossArgs *args, size_t row, size_t column)
{
    return ls_ref_load(args->outputs, args->type, row * args->columns + column);
}

// Softmax cross-entropy against the distribution that gives smoothing / classes to every class and the rest
// to the label (Szegedy et al., CVPR 2016).
LsStatus ls_ref_cross_entropy(LsDevice *device, const LsLossArgs *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("cross_entropy", args->type));
    LS_TRY(ls_require_labels(args));
    double factor = gradient_factor(args), spread = args->smoothing / (double)args->columns;
    for (size_t r = 0; r < args->rows; r++) {
        size_t label = (size_t)args->labels[r];
        double largest = -INFINITY, exponentials = 0, sum = 0;
        for (size_t c = 0; c < args->columns; c++)
            largest = fmax(largest, output(args, r, c));
        for (size_t c = 0; c < args->columns; c++) {
            exponentials += exp(output(args, r, c) - largest);
            sum += output(args, r, c);
        }
        double log_total = largest + log(exponentials);
        args->row_loss[r] =
            (float)(log_total - (1.0 - args->smoothing) * output(args, r, label) - spread * sum);
        for (size_t c = 0; args->gradient && c < args->columns; c++) {
            double wanted = spread + (c == label ? 1.0 - args->smoothing : 0.0);
            double probability = exp(output(args, r, c) - log_total);
            ls_ref_store(
                args->gradient, args->type, r * args->columns + c, (float)((probability - wanted) * factor));
        }
    }
    return LS_OK;
}

LsStatus ls_ref_binary_cross_entropy(LsDevice *device, const LsLossArgs *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("binary_cross_entropy", args->type));
    double factor = gradient_factor(args) / (double)args->columns;
    for (size_t r = 0; r < args->rows; r++) {
        double loss = 0;
        for (size_t c = 0; c < args->columns; c++) {
            double x = output(args, r, c), target = args->targets[r * args->columns + c];
            // log(1 + e^x) - target x, written so that nothing overflows.
            loss += fmax(x, 0.0) + log1p(exp(-fabs(x))) - target * x;
            if (args->gradient)
                ls_ref_store(args->gradient, args->type, r * args->columns + c,
                    (float)((1.0 / (1.0 + exp(-x)) - target) * factor));
        }
        args->row_loss[r] = (float)(loss / (double)args->columns);
    }
    return LS_OK;
}

LsStatus ls_ref_mean_squared_error(LsDevice *device, const LsLossArgs *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("mean_squared_error", args->type));
    double factor = 2.0 * gradient_factor(args) / (double)args->columns;
    for (size_t r = 0; r < args->rows; r++) {
        double loss = 0;
        for (size_t c = 0; c < args->columns; c++) {
            double difference = output(args, r, c) - args->targets[r * args->columns + c];
            loss += difference * difference;
            if (args->gradient)
                ls_ref_store(args->gradient, args->type, r * args->columns + c, (float)(difference * factor));
        }
        args->row_loss[r] = (float)(loss / (double)args->columns);
    }
    return LS_OK;
}
