// lockstep checkpoint average
#include "command.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "inference.h"
#include "train/weights.h"

enum { AVERAGED_MAX = 256 };

typedef struct Average {
    LsInference first; // of the first checkpoint, which says what the model is
    LsModel *model;    // without a device: the table of parameters
    LsCheckpoint *checkpoint[AVERAGED_MAX];
    size_t count;
    float *values;
} Average;

static LsStatus open_all(Average *average, const LsInvocation *invocation)
{
    static const LsTextList none = {0};
    for (int i = 0; i < invocation->input_count; i++) {
        char path[LS_PATH_MAX];
        LS_TRY(ls_checkpoint_find(invocation->inputs[i], path));
        LS_TRY(ls_checkpoint_open(path, &average->checkpoint[i]));
        average->count++;
    }
    LsInference *first = &average->first;
    LS_TRY(ls_inference_open(invocation->inputs[0], &none, first));
    LS_TRY(ls_checkpoint_config(first->checkpoint, &first->config)); // without this process's environment
    return ls_model_create(&first->config, &first->shape, NULL, 1, &average->model);
}

static LsStatus make_run(Average *average, const char *output, LsComm *comm)
{
    const LsParameters *parameters = &average->model->parameters;
    size_t bytes = parameters->blocks * LS_BLOCK * sizeof(float);
    LS_TRY(ls_memory_allocate(bytes, (void **)&average->values));
    LS_TRY(ls_checkpoint_average(&(LsAverage){.count = average->count,
        .checkpoint = average->checkpoint,
        .parameters = parameters,
        .out = average->values}));
    char path[LS_PATH_MAX];
    const LsWeightsRun run = {.parameters = parameters,
        .values = average->values,
        .config = &average->first.config,
        .schema = ls_checkpoint_data_schema(average->first.checkpoint)};
    LS_TRY(ls_weights_make_run(&run, output, comm, path));
    printf("%s: the mean of %zu checkpoints, %zu parameters\n", path, average->count,
        ls_parameters_elements(parameters));
    return LS_OK;
}

static LsStatus run(LsInvocation *invocation)
{
    const char *output = NULL;
    const LsFlag flags[] = {
        {"output", 'o', LS_FLAG_TEXT, &output, "RUN", "Run directory to make, with a checkpoint of step 0.",
            0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 1, AVERAGED_MAX));
    if (invocation->helped)
        return LS_OK;
    if (!output)
        return LS_FAIL(LS_USAGE, "-o RUN is missing; see lockstep checkpoint average --help");
    if (!invocation->comm)
        LS_TRY(ls_invocation_join(invocation, LS_OK, NULL));
    Average *average = NULL;
    LS_TRY(ls_memory_allocate(sizeof *average, (void **)&average));
    LsStatus status = open_all(average, invocation);
    if (status == LS_OK)
        status = make_run(average, output, invocation->comm);
    free(average->values);
    ls_model_destroy(average->model);
    ls_inference_close(&average->first);
    for (size_t c = 0; c < average->count; c++)
        ls_checkpoint_close(average->checkpoint[c]);
    free(average);
    return status;
}

const LsCommand ls_command_checkpoint_average = {
    .name = "checkpoint average",
    .arguments = "DIR... -o RUN",
    .summary = "makes a run of the mean of several checkpoints' weights",
    .about = "Averages the weights of checkpoints of one model (a run stands for its newest one); each "
             "number is\n"
             "added up in double and rounded once. The run's checkpoint serves eval, predict, generate, "
             "export and\n"
             "train.init_from; it has no optimizer state.",
    .run = run,
};
