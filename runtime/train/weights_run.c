// A run that begins as weights alone.
#include <stdlib.h>

#include "train/run_dir.h"
#include "train/weights.h"

static LsStatus require_new(const char *directory)
{
    int64_t *steps = NULL;
    size_t count = 0;
    LS_TRY(ls_checkpoint_list_claimed(directory, &steps, &count));
    free(steps);
    return count == 0 ? LS_OK
                      : LS_FAIL(LS_USAGE, "%s has checkpoints of a run; choose another directory", directory);
}

// One bucket of everything: the shard of one rank is then the flat buffer itself.
static LsStatus save(const LsWeightsRun *run, const LsRunDir *directory, LsComm *comm, char path[LS_PATH_MAX])
{
    LsBuckets buckets = {0};
    LsSave *saving = NULL;
    LsStateArray array = {.group = LS_GROUP_PARAMETERS, .shard = run->values};
    LsRunState state = {.control.loss_scale = 1, .best.step = -1};
    LS_TRY(ls_buckets_create(run->parameters->blocks, SIZE_MAX, &buckets));
    const LsCheckpointContent content = {.parameters = run->parameters,
        .buckets = &buckets,
        .arrays = 1,
        .array = &array,
        .state = &state,
        .config = run->config,
        .data_root_hash = json_string_value(json_object_get(run->schema, "root_hash")),
        .data_schema = run->schema};
    LsStatus status = ls_save_begin(directory, comm, &content, &saving);
    if (status == LS_OK)
        status = ls_save_commit(saving, ls_save_write(saving), path);
    ls_buckets_free(&buckets);
    return status;
}

LsStatus ls_weights_make_run(
    const LsWeightsRun *run, const char *directory, LsComm *comm, char path[LS_PATH_MAX])
{
    LsRunDir claimed;
    LS_TRY(require_new(directory));
    LS_TRY(ls_run_dir_claim(&claimed, directory, comm));
    LsStatus status = ls_run_dir_write_config(&claimed, run->config);
    if (status == LS_OK)
        status = save(run, &claimed, comm, path);
    ls_run_dir_release(&claimed);
    return status;
}
