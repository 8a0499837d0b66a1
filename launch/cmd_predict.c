// lockstep predict
#include "command.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/import.h"
#include "inference.h"
#include "train/batch.h"

typedef struct Predictor {
    LsInference inference;
    LsRows rows;
    LsDeviceBatch *batch;
    char *block;   // host, one batch of rows
    float *scores; // host, [rows][outputs]
} Predictor;

// ---- Computing ------------------------------------------------------------------------------------------

// One block: rows [first, first + count) to host scores. A short block is filled up with its last row, so
// that all products have one shape and a row's scores do not depend on how many rows there are.
static LsStatus predict_block(Predictor *p, size_t first, size_t count)
{
    LsDevice *device = p->inference.device;
    LsModel *model = p->inference.model;
    size_t outputs = model->shape.outputs, batch = model->max_rows;
    size_t bytes = p->rows.row_bytes;
    LS_TRY(ls_rows_fetch(&p->rows, first, count, p->block));
    for (size_t r = count; r < batch; r++)
        memcpy(p->block + r * bytes, p->block + (count - 1) * bytes, bytes);
    LsBatch uploaded;
    LS_TRY(ls_device_batch_upload(p->batch, p->block, NULL, NULL, batch, &uploaded));
    LS_TRY(model->ops->forward(model, p->inference.weights, &uploaded, false));
    LS_TRY(device->ops->copy_out(
        device, p->scores + first * outputs, model->ops->outputs(model), count * outputs * sizeof(float)));
    return device->ops->synchronize(device);
}

static LsStatus allocate(size_t count, size_t bytes, void *out)
{
    size_t size;
    if (!ls_size_multiply(count, bytes, &size))
        return LS_FAIL(LS_BAD_DATA, "%zu rows of %zu bytes are too many for one prediction", count, bytes);
    return ls_memory_allocate(size, out);
}

static LsStatus predict(Predictor *p)
{
    LsInference *inference = &p->inference;
    const LsDatasetInfo *info = ls_dataset_info(inference->described);
    size_t batch = inference->model->max_rows;
    LS_TRY(allocate(p->rows.rows, inference->shape.outputs * sizeof(float), &p->scores));
    LS_TRY(allocate(batch, p->rows.row_bytes, &p->block));
    LS_TRY(ls_device_batch_create(inference->device, info, &inference->shape, batch, 1, &p->batch));
    for (size_t first = 0; first < p->rows.rows; first += batch) {
        size_t left = p->rows.rows - first;
        LS_TRY(predict_block(p, first, left < batch ? left : batch));
    }
    return LS_OK;
}

// ---- Writing --------------------------------------------------------------------------------------------

// A CSV field, quoted where it must be (RFC 4180).
static void write_field(const char *text, FILE *out)
{
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"')
            fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

// Probabilities of the classes from the scores of a row: softmax, or the logistic function of a single score.
static void probabilities(const float *scores, size_t outputs, size_t classes, double *out)
{
    if (outputs == 1 && classes == 2) {
        out[1] = 1 / (1 + exp(-(double)scores[0]));
        out[0] = 1 - out[1];
        return;
    }
    double most = scores[0], sum = 0;
    for (size_t c = 1; c < classes; c++)
        most = scores[c] > most ? scores[c] : most;
    for (size_t c = 0; c < classes; c++)
        sum += out[c] = exp(scores[c] - most);
    for (size_t c = 0; c < classes; c++)
        out[c] /= sum;
}

// Where a row is in the input: the first field of its line.
static void write_place_name(const Predictor *p, FILE *out)
{
    fputs(p->rows.names ? "file" : "line", out);
}

static void write_place(const Predictor *p, size_t row, FILE *out)
{
    if (p->rows.names)
        write_field(p->rows.names[row], out);
    else
        fprintf(out, "%llu", (unsigned long long)p->rows.lines[row]);
}

static void write_classes(const Predictor *p, const json_t *names, double *row, FILE *out)
{
    size_t outputs = p->inference.shape.outputs, classes = json_array_size(names);
    write_place_name(p, out);
    fputs(",prediction", out);
    for (size_t c = 0; c < classes; c++) {
        fputc(',', out);
        write_field(json_string_value(json_array_get(names, c)), out);
    }
    fputc('\n', out);
    for (size_t r = 0; r < p->rows.rows; r++) {
        probabilities(p->scores + r * outputs, outputs, classes, row);
        size_t best = 0;
        for (size_t c = 1; c < classes; c++)
            best = row[c] > row[best] ? c : best;
        write_place(p, r, out);
        fputc(',', out);
        write_field(json_string_value(json_array_get(names, best)), out);
        for (size_t c = 0; c < classes; c++)
            fprintf(out, ",%.9g", row[c]);
        fputc('\n', out);
    }
}

static void write_values(const Predictor *p, FILE *out)
{
    size_t outputs = p->inference.shape.outputs;
    write_place_name(p, out);
    for (size_t c = 0; c < outputs; c++)
        outputs > 1 ? fprintf(out, ",prediction_%zu", c) : fprintf(out, ",prediction");
    fputc('\n', out);
    for (size_t r = 0; r < p->rows.rows; r++) {
        write_place(p, r, out);
        for (size_t c = 0; c < outputs; c++)
            fprintf(out, ",%.9g", (double)p->scores[r * outputs + c]);
        fputc('\n', out);
    }
}

static LsStatus write_predictions(const Predictor *p, FILE *out)
{
    const json_t *names = json_object_get(ls_checkpoint_data_schema(p->inference.checkpoint), "classes");
    if (!names) {
        write_values(p, out);
        return LS_OK;
    }
    void *row;
    LS_TRY(ls_memory_allocate(json_array_size(names) * sizeof(double), &row));
    write_classes(p, names, row, out);
    free(row);
    return LS_OK;
}

static LsStatus write_output(const Predictor *p, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    if (!memory)
        return LS_FAIL(LS_INTERNAL, "out of memory");
    LsStatus status = write_predictions(p, memory);
    if (fclose(memory) != 0 && status == LS_OK)
        status = LS_FAIL(LS_INTERNAL, "out of memory");
    if (status == LS_OK && path)
        status = ls_file_replace(path, text, size);
    else if (status == LS_OK)
        fwrite(text, 1, size, stdout);
    free(text);
    return status;
}

typedef struct PredictArguments {
    const char *checkpoint, *output;
    LsTextList settings;
} PredictArguments;

static LsStatus read_arguments(LsInvocation *invocation, PredictArguments *a)
{
    const LsFlag flags[] = {
        {"checkpoint", 0, LS_FLAG_TEXT, &a->checkpoint, "DIR",
            "A checkpoint, or a run: then its newest checkpoint.", 0, NULL},
        {"output", 'o', LS_FLAG_TEXT, &a->output, "OUT",
            "File to write, replaced when all is done (default: standard output).", 0, NULL},
        {"set", 0, LS_FLAG_LIST, &a->settings, "A.B=V",
            "Sets an option over the checkpoint's configuration; may be repeated.", 0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 1, 1));
    if (!invocation->helped && !a->checkpoint)
        return LS_FAIL(LS_USAGE, "--checkpoint DIR is missing; see lockstep predict --help");
    return LS_OK;
}

static LsStatus run_predictor(Predictor *p, const PredictArguments *a, const char *input)
{
    LS_TRY(ls_inference_open(a->checkpoint, &a->settings, &p->inference));
    if (p->inference.shape.window > 0)
        return LS_FAIL(
            LS_USAGE, "%s is a language model, which lockstep generate writes text with", a->checkpoint);
    LS_TRY(ls_inference_load(&p->inference, 0));
    LS_TRY(ls_rows_read(ls_checkpoint_data_schema(p->inference.checkpoint), input, &p->rows));
    LS_TRY(predict(p));
    return write_output(p, a->output);
}

static LsStatus run(LsInvocation *invocation)
{
    PredictArguments arguments = {0};
    LS_TRY(read_arguments(invocation, &arguments));
    if (invocation->helped)
        return LS_OK;
    Predictor p = {0};
    LsStatus status = run_predictor(&p, &arguments, invocation->inputs[0]);
    ls_device_batch_destroy(p.batch);
    free(p.scores);
    free(p.block);
    ls_rows_free(&p.rows);
    ls_inference_close(&p.inference);
    return status;
}

const LsCommand ls_command_predict = {
    .name = "predict",
    .arguments = "--checkpoint DIR INPUT [-o OUT]",
    .summary = "predicts for new data, CSV or images",
    .about =
        "Predicts for every row of INPUT after the preprocessing that the checkpoint keeps from the\n"
        "import. INPUT is a CSV file; or, for a model of images, IDX (plain or .gz), a JPEG or PNG file, a\n"
        "directory of such, or, for a model of CIFAR, a file of its binary version. Writes CSV: where the\n"
        "row is in the input (a line of CSV, an image's number or its file), the predicted class and the\n"
        "probability of each class, or the predicted values.",
    .run = run,
};
