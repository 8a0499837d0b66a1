// lockstep eval
#include "command.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "inference.h"
#include "train/evaluate.h"

typedef struct EvalArguments {
    const char *checkpoint;
    LsTextList settings;
    int split; // LsSplit, -1: not given
} EvalArguments;

static LsStatus read_arguments(LsInvocation *invocation, EvalArguments *a)
{
    static const char *const splits[] = {
        [LS_TRAIN] = "train", [LS_VALIDATION] = "validation", [LS_TEST] = "test", NULL};
    const LsFlag flags[] = {
        {"checkpoint", 0, LS_FLAG_TEXT, &a->checkpoint, "DIR",
            "A checkpoint, or a run: then its newest checkpoint.", 0, NULL},
        {"split", 0, LS_FLAG_CHOICE, &a->split, "NAME",
            "train, validation or test; by default test, or validation where there is none.", 0, splits},
        {"set", 0, LS_FLAG_LIST, &a->settings, "A.B=V",
            "Sets an option over the checkpoint's configuration, for example data.path; may be repeated.", 0,
            NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, 0));
    if (!invocation->helped && !a->checkpoint)
        return LS_FAIL(LS_USAGE, "--checkpoint DIR is missing; see lockstep eval --help");
    return LS_OK;
}

static LsStatus choose_split(int named, const LsDataset *dataset, LsSplit *out)
{
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    LsSplit split = named >= 0 ? (LsSplit)named : info->samples[LS_TEST] > 0 ? LS_TEST : LS_VALIDATION;
    if (info->samples[split] == 0)
        return LS_FAIL(LS_BAD_DATA, "%s has no %s split; choose another with --split",
            ls_dataset_path(dataset), ls_split_name(split));
    *out = split;
    return LS_OK;
}

// A model that came without data has seen none of ours; all that counts is that it means the same tokens.
static LsStatus check_tokens(const LsDatasetInfo *described, const LsDatasetInfo *data, const char *path)
{
    if (described->vocabulary == data->vocabulary && ls_dataset_same_tokens(described->schema, data->schema))
        return LS_OK;
    return LS_FAIL(LS_CHECKPOINT,
        "%s has other tokens (%zu) than the checkpoint (%zu); import the text with the model's tokenizer",
        path, data->vocabulary, described->vocabulary);
}

// Another file may number its classes and scale its features in another way, so numbers on it would say
// nothing about this model.
static LsStatus check_data(const LsInference *inference, const LsDatasetInfo *data)
{
    const char *path = inference->config.data.path;
    const LsDatasetInfo *described = ls_dataset_info(inference->described);
    if (described->vocabulary > 0 && described->token_counts[LS_TRAIN] == 0)
        return check_tokens(described, data, path);
    const char *trained = ls_checkpoint_data_hash(inference->checkpoint);
    if (strcmp(data->root_hash, trained) == 0)
        return LS_OK;
    return LS_FAIL(LS_CHECKPOINT,
        "%s is not the data that the checkpoint was trained on (root hash %s); name that file with --set "
        "data.path=FILE, or use lockstep predict for new data",
        path, trained);
}

static LsStatus open_data(const LsInference *inference, LsDataset **out)
{
    LsDataset *dataset = NULL;
    if (inference->config.data.path[0] == '\0')
        return LS_FAIL(LS_CONFIG, "data.path is not set: name the data with --set data.path=FILE");
    LS_TRY(ls_dataset_open(inference->config.data.path, &dataset));
    LsStatus status = check_data(inference, ls_dataset_info(dataset));
    if (status == LS_OK)
        status = ls_dataset_select(dataset, inference->config.data.where);
    if (status == LS_OK && ls_dataset_info(dataset)->vocabulary > 0)
        status = ls_dataset_set_window(dataset, (size_t)inference->config.model.context);
    if (status != LS_OK) {
        ls_dataset_close(dataset);
        return status;
    }
    *out = dataset;
    return LS_OK;
}

static LsStatus prepare(const EvalArguments *a, LsInference *inference, LsDataset **dataset, LsSplit *split)
{
    LS_TRY(ls_inference_open(a->checkpoint, &a->settings, inference));
    LS_TRY(open_data(inference, dataset));
    return choose_split(a->split, *dataset, split);
}

static LsStatus print_evaluation(const LsEvaluation *evaluation)
{
    json_t *numbers = ls_evaluation_json(evaluation);
    char *line = numbers ? ls_json_line(numbers) : NULL;
    json_decref(numbers);
    if (!line)
        return LS_FAIL(LS_INTERNAL, "no memory for the result");
    puts(line);
    free(line);
    return LS_OK;
}

static LsStatus evaluate(LsComm *comm, const LsInference *inference, const LsDataset *dataset, LsSplit split)
{
    LsEvaluator *evaluator = NULL;
    LsEvaluation evaluation;
    LsStatus status = ls_comm_agree(comm, ls_evaluator_create(&(LsEvaluatorOptions){.comm = comm,
                                                                  .device = inference->device,
                                                                  .model = inference->model,
                                                                  .dataset = dataset,
                                                                  .batch = inference->rows},
                                              &evaluator));
    if (status == LS_OK)
        status = ls_evaluate(
            evaluator, &(LsEvaluateOptions){.split = split, .weights = inference->weights}, &evaluation);
    ls_evaluator_destroy(evaluator);
    LS_TRY(status);
    return ls_comm_rank(comm) == 0 ? print_evaluation(&evaluation) : LS_OK;
}

static LsStatus run(LsInvocation *invocation)
{
    EvalArguments arguments = {.split = -1};
    LsInference inference = {0};
    LsDataset *dataset = NULL;
    LsSplit split = LS_TEST;
    LsStatus status = read_arguments(invocation, &arguments);
    if (invocation->helped)
        return LS_OK;
    if (status == LS_OK)
        status = prepare(&arguments, &inference, &dataset, &split);
    status = ls_invocation_join(invocation, status, status == LS_OK ? &inference.config : NULL);
    if (status == LS_OK)
        status = ls_comm_agree(
            invocation->comm, ls_inference_load(&inference, ls_comm_local_rank(invocation->comm)));
    if (status == LS_OK) {
        ls_log_configure(LS_LOG_WARN, ls_comm_rank(invocation->comm), ls_comm_size(invocation->comm));
        status = evaluate(invocation->comm, &inference, dataset, split);
    }
    ls_dataset_close(dataset);
    ls_inference_close(&inference);
    return status;
}

const LsCommand ls_command_eval = {
    .name = "eval",
    .arguments = "--checkpoint DIR [--split NAME] [--set A.B=V]...",
    .summary = "evaluates a checkpoint on a split of its data",
    .about =
        "Evaluates a checkpoint on a whole split of the data it was trained on, alone or on many ranks, and\n"
        "prints one line of JSON. The numbers do not depend on the number of ranks.",
    .several_ranks = true,
    .run = run,
};
