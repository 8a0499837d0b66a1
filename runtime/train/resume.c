// Where a run begins: at the newest checkpoint that verifies, at another run's parameters, or afresh.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/memory.h"
#include "train/weights.h"
#include "trainer_state.h"

// ---- Choosing a checkpoint ------------------------------------------------------------------------------

// Rank 0's list counts, so that all ranks try the same checkpoints.
static LsStatus list_checkpoints(LsTrainer *t, int64_t **steps, size_t *count)
{
    int64_t *list = NULL;
    uint64_t length = 0;
    LsStatus status = LS_OK;
    if (ls_comm_rank(t->comm) == 0) {
        size_t found = 0;
        status = ls_checkpoint_list_claimed(t->run.path, &list, &found);
        length = found;
    }
    LS_TRY(ls_comm_agree(t->comm, status));
    LS_TRY(ls_comm_broadcast(t->comm, &length, sizeof length, 0));
    if (!list && length > 0)
        status = ls_memory_allocate(length * sizeof *list, (void **)&list);
    LS_TRY(ls_comm_agree(t->comm, status));
    if (length > 0)
        LS_TRY(ls_comm_broadcast(t->comm, list, length * sizeof *list, 0));
    *steps = list;
    *count = length;
    return LS_OK;
}

static LsStatus open_verified(LsTrainer *t, const char *path, LsCheckpoint **out)
{
    LsCheckpoint *checkpoint = NULL;
    LsStatus status = ls_comm_agree(t->comm, ls_checkpoint_open(path, &checkpoint));
    if (status == LS_OK)
        status = ls_checkpoint_verify(checkpoint, t->comm);
    if (status != LS_OK) {
        ls_checkpoint_close(checkpoint);
        return status;
    }
    *out = checkpoint;
    return LS_OK;
}

static void report_unusable(LsTrainer *t, int64_t step)
{
    if (ls_comm_rank(t->comm) != 0)
        return;
    ls_warn("checkpoint of step %lld is left aside: %s", (long long)step, ls_status_message());
    json_t *details = json_pack("{s:s, s:s}", "checkpoint", "unusable", "reason", ls_status_message());
    ls_metrics_event(t->metrics, "checkpoint", step, details);
}

// The newest checkpoint that verifies; *out stays NULL when the run has none.
static LsStatus choose_newest(LsTrainer *t, LsCheckpoint **out)
{
    int64_t *steps = NULL;
    size_t count = 0;
    LS_TRY(list_checkpoints(t, &steps, &count));
    LsStatus status = LS_OK;
    bool unread = false;
    for (size_t i = count; i-- > 0;) {
        char path[LS_PATH_MAX];
        ls_checkpoint_path(path, t->run.path, steps[i]);
        status = open_verified(t, path, out);
        if (status == LS_OK)
            break;
        unread = unread || status == LS_IO;
        report_unusable(t, steps[i]);
    }
    free(steps);
    if (status != LS_OK) {
        t->entered = true; // it is the run that is broken, not this attempt: its status says so
        if (unread)        // the storage fails, what is on it may be whole
            return LS_FAIL(LS_IO,
                "%s: none of its %zu checkpoints can be read (the oldest: %s); run again when its storage "
                "answers",
                t->run.path, count, ls_status_message());
        return LS_FAIL(LS_CHECKPOINT,
            "%s: none of its %zu checkpoints is intact (the oldest: %s); start afresh with --resume never",
            t->run.path, count, ls_status_message());
    }
    return LS_OK;
}

// ---- Whether the run may go on from it ------------------------------------------------------------------

// A rollback goes to a multiple of checkpoint.every, and comes after train.max_skipped steps without numbers:
// then these two decide bits.
static bool is_free(const LsOption *option, const LsConfig *before, const LsConfig *now)
{
    bool goes_back = before->guard.action == LS_GUARD_ROLLBACK && now->guard.action == LS_GUARD_ROLLBACK;
    bool decides =
        strcmp(option->name, "checkpoint.every") == 0 || strcmp(option->name, "train.max_skipped") == 0;
    return option->class_ == LS_CLASS_FREE && !(goes_back && decides);
}

static LsStatus compare_options(LsTrainer *t, const LsConfig *before, json_t *changes)
{
    size_t count = 0;
    const LsOption *options = ls_options(&count);
    for (size_t i = 0; i < count; i++) {
        char old_value[LS_CONFIG_TEXT], new_value[LS_CONFIG_TEXT];
        ls_option_text(before, &options[i], old_value, sizeof old_value);
        ls_option_text(t->config, &options[i], new_value, sizeof new_value);
        if (strcmp(old_value, new_value) == 0 || is_free(&options[i], before, t->config))
            continue;
        if (options[i].class_ == LS_CLASS_IDENTITY)
            return LS_FAIL(LS_CHECKPOINT,
                "%s is %s, but the checkpoint was trained with %s: use that, or another --run-dir, or "
                "--resume never",
                options[i].name, *new_value ? new_value : "not set", *old_value ? old_value : "none");
        json_object_set_new(changes, options[i].name, json_pack("[s, s]", old_value, new_value));
    }
    return LS_OK;
}

// Weights that came without data, from lockstep import, are no run to go on with.
static LsStatus check_trained(const LsTrainer *t, const LsCheckpoint *checkpoint)
{
    const json_t *splits = json_object_get(ls_checkpoint_data_schema(checkpoint), "splits");
    if (!json_is_object(splits) || json_object_size(splits) > 0)
        return LS_OK;
    return LS_FAIL(LS_CHECKPOINT,
        "%s has imported weights, of no data: set train.init_from to it, and train in another --run-dir",
        t->run.path);
}

static LsStatus check_compatible(
    LsTrainer *t, const LsCheckpoint *checkpoint, const LsConfig *before, json_t *changes)
{
    LS_TRY(check_trained(t, checkpoint));
    LS_TRY(compare_options(t, before, changes));
    const char *data = ls_checkpoint_data_hash(checkpoint);
    if (strcmp(data, t->info->root_hash) != 0)
        return LS_FAIL(LS_CHECKPOINT,
            "%s has root hash %s, but the checkpoint was trained on %s: set data.path to that data, or use "
            "--resume never",
            t->config->data.path, t->info->root_hash, data);
    LS_TRY(ls_checkpoint_matches(checkpoint, &t->model->parameters));
    if (strcmp(ls_checkpoint_fingerprint(checkpoint), t->fingerprint) != 0)
        json_object_set_new(changes, "fingerprint",
            json_pack("[s, s]", ls_checkpoint_fingerprint(checkpoint), t->fingerprint));
    return LS_OK;
}

static void report_changes(json_t *changes)
{
    const char *name = NULL;
    json_t *pair = NULL;
    json_object_foreach(changes, name, pair)
    {
        ls_warn("resuming with another %s (%s, before %s): the run goes on, but not with the bits it would "
                "have had",
            name, json_string_value(json_array_get(pair, 1)), json_string_value(json_array_get(pair, 0)));
    }
}

// ---- Filling the arenas ---------------------------------------------------------------------------------

// Reads this rank's pieces of one group; a group that the checkpoint lacks (momentum switched on) stays zero.
static LsStatus read_group(LsTrainer *t, const LsCheckpoint *checkpoint, const LsStateArray *array)
{
    if (!ls_checkpoint_has_group(checkpoint, array->group))
        return LS_OK;
    for (size_t b = 0; b < t->buckets.count; b++) {
        LsBlockRange piece = ls_bucket_piece(&t->buckets, b, t->plan.ranks, t->plan.rank);
        size_t place = ls_shard_offset(&t->buckets, b, t->plan.ranks, t->plan.rank);
        if (piece.count > 0)
            LS_TRY(ls_checkpoint_read(checkpoint, &t->model->parameters, array->group, piece.first,
                piece.count, array->shard + place * LS_BLOCK));
    }
    return LS_OK;
}

// The scale of the loss goes on where it was, but for a run that comes back to fp16, one that leaves it, and
// one whose option says another first value than before.
static void resume_loss_scale(LsTrainer *t, const LsConfig *before)
{
    LsStepControl *control = &t->state.control;
    bool scaled = before->runtime.precision == LS_PRECISION_FP16;
    bool scales = t->arenas.type == LS_F16;
    double first = t->config->train.loss_scale;
    // Exact: both are read from the same kind of text.
    if (scaled == scales && (!scales || first == before->train.loss_scale))
        return;
    control->loss_scale = scales ? (float)first : 1.0f;
    control->good_steps = 0;
}

// Averages begin at the weights: all of them in a new run, or one that has had none, and those of what is
// frozen, which follow nothing.
static void begin_average(LsTrainer *t, bool all)
{
    LsArenas *arenas = &t->arenas;
    if (!arenas->average)
        return;
    const float *weights = arenas->array[0].shard;
    float *average = arenas->array[arenas->arrays - 1].shard;
    for (size_t r = 0; r < arenas->runs; r++) {
        const LsShardRun *run = &arenas->run[r];
        size_t place = run->packed * LS_BLOCK;
        if (all || run->frozen)
            memcpy(average + place, weights + place, run->count * LS_BLOCK * sizeof *average);
    }
}

static LsStatus read_state(LsTrainer *t, const LsCheckpoint *checkpoint, const LsConfig *before)
{
    for (size_t a = 0; a < t->arenas.arrays; a++)
        LS_TRY(read_group(t, checkpoint, &t->arenas.array[a]));
    begin_average(t, !ls_checkpoint_has_group(checkpoint, LS_GROUP_AVERAGE));
    LS_TRY(ls_checkpoint_state(checkpoint, &t->state));
    resume_loss_scale(t, before);
    if (t->config->guard.spike == 0) // it would be of long ago when it is wanted again
        t->state.window = (LsSpikeWindow){0};
    const char *algorithms = ls_checkpoint_algorithms(checkpoint);
    if (*algorithms && !t->algorithms && !(t->algorithms = strdup(algorithms)))
        return LS_FAIL(LS_INTERNAL, "out of memory");
    return LS_OK;
}

static void initialize_parameters(LsTrainer *t)
{
    for (size_t b = 0; b < t->buckets.count; b++) {
        LsBlockRange piece = ls_bucket_piece(&t->buckets, b, t->plan.ranks, t->plan.rank);
        size_t place = ls_shard_offset(&t->buckets, b, t->plan.ranks, t->plan.rank);
        ls_parameters_initialize(&t->model->parameters, (uint64_t)t->config->train.seed,
            piece.first * LS_BLOCK, piece.count * LS_BLOCK, t->arenas.array[0].shard + place * LS_BLOCK);
    }
}

// What no tensor's shape tells, and makes another model of the same weights.
static LsStatus check_architecture(const LsTrainer *t, const LsCheckpoint *checkpoint, const char *path)
{
    static const char *const mlp[] = {"model.kind", "model.activation", "model.residual", NULL};
    static const char *const gpt[] = {"model.kind", "model.heads", NULL};
    static const char *const resnet[] = {"model.kind", "model.stem", NULL};
    static const char *const *const names[] = {
        [LS_MODEL_MLP] = mlp, [LS_MODEL_GPT] = gpt, [LS_MODEL_RESNET] = resnet};
    LsConfig before;
    LS_TRY(ls_checkpoint_config(checkpoint, &before));
    for (const char *const *name = names[t->config->model.kind]; *name; name++) {
        char theirs[LS_CONFIG_TEXT], ours[LS_CONFIG_TEXT];
        ls_option_text(&before, ls_option_find(*name), theirs, sizeof theirs);
        ls_option_text(t->config, ls_option_find(*name), ours, sizeof ours);
        if (strcmp(theirs, ours) != 0)
            return LS_FAIL(LS_CHECKPOINT, "train.init_from: %s is of a model with %s %s, this one has %s",
                path, *name, theirs, ours);
    }
    return LS_OK;
}

// The same number would be another piece of text.
static LsStatus check_tokenizer(const LsTrainer *t, const json_t *schema, const char *path)
{
    if (ls_dataset_same_tokens(schema, t->info->schema))
        return LS_OK;
    return LS_FAIL(LS_CHECKPOINT,
        "train.init_from: the tokenizer of %s is not that of %s; import the text with the model's", path,
        t->config->data.path);
}

static LsStatus read_initial_checkpoint(LsTrainer *t)
{
    LsCheckpoint *checkpoint = NULL;
    char path[LS_PATH_MAX];
    LS_TRY(ls_checkpoint_find(t->config->train.init_from, path));
    LS_TRY(ls_checkpoint_open(path, &checkpoint));
    LsStatus status = check_architecture(t, checkpoint, path);
    if (status == LS_OK)
        status = check_tokenizer(t, ls_checkpoint_data_schema(checkpoint), path);
    if (status == LS_OK)
        status = ls_checkpoint_matches(checkpoint, &t->model->parameters);
    LsStateArray model = {
        .group = ls_checkpoint_model_group(checkpoint, true), .shard = t->arenas.array[0].shard};
    if (status == LS_OK)
        status = read_group(t, checkpoint, &model);
    ls_checkpoint_close(checkpoint);
    return status;
}

static LsStatus check_heads(const LsTrainer *t, const LsWeights *weights)
{
    LsGptSizes sizes;
    LS_TRY(ls_weights_gpt_sizes(weights, &sizes));
    if (sizes.heads == 0 || sizes.heads == (size_t)t->config->model.heads)
        return LS_OK;
    return LS_FAIL(LS_CHECKPOINT, "train.init_from: %s is of a model with %zu heads, model.heads is %lld",
        ls_safetensors_path(ls_weights_file(weights)), sizes.heads, (long long)t->config->model.heads);
}

static LsStatus check_weights_tokenizer(const LsTrainer *t, const LsWeights *weights)
{
    LsTokenizer *tokenizer = NULL;
    json_t *schema = NULL;
    LS_TRY(ls_weights_tokenizer(weights, &tokenizer));
    if (!tokenizer)
        return LS_OK;
    LsStatus status = ls_dataset_describe_tokens(ls_tokenizer_vocabulary(tokenizer), tokenizer, &schema);
    if (status == LS_OK)
        status = check_tokenizer(t, schema, ls_safetensors_path(ls_weights_file(weights)));
    json_decref(schema);
    ls_tokenizer_free(tokenizer);
    return status;
}

static LsStatus check_weights(const LsTrainer *t, LsWeights *weights)
{
    bool gpt = t->config->model.kind == LS_MODEL_GPT;
    if (gpt)
        LS_TRY(check_heads(t, weights));
    LS_TRY(ls_weights_match(weights, &t->model->parameters));
    return gpt ? check_weights_tokenizer(t, weights) : LS_OK;
}

static LsStatus read_initial_weights(LsTrainer *t)
{
    LsWeights *weights = NULL;
    LS_TRY(ls_weights_open(t->config->train.init_from, &weights));
    LsStatus status = check_weights(t, weights);
    for (size_t b = 0; b < t->buckets.count && status == LS_OK; b++) {
        LsBlockRange piece = ls_bucket_piece(&t->buckets, b, t->plan.ranks, t->plan.rank);
        size_t place = ls_shard_offset(&t->buckets, b, t->plan.ranks, t->plan.rank);
        status =
            ls_weights_read(weights, piece.first, piece.count, t->arenas.array[0].shard + place * LS_BLOCK);
    }
    ls_weights_close(weights);
    return status;
}

// Parameters of another run or program, everything else fresh.
static LsStatus read_initial_parameters(LsTrainer *t)
{
    return ls_weights_named(t->config->train.init_from) ? read_initial_weights(t)
                                                        : read_initial_checkpoint(t);
}

static LsStatus start_fresh(LsTrainer *t)
{
    float loss_scale = t->arenas.type == LS_F16 ? (float)t->config->train.loss_scale : 1.0f;
    t->state = (LsRunState){.control.loss_scale = loss_scale, .best.step = -1};
    t->saved_step = -1;
    LsStatus status = LS_OK;
    if (t->config->train.init_from[0])
        status = read_initial_parameters(t);
    else
        initialize_parameters(t);
    begin_average(t, true);
    LS_TRY(ls_comm_agree(t->comm, status));
    status = ls_metrics_rewind(t->metrics, 0, 0); // of an attempt that ended before its first checkpoint
    if (status == LS_OK)
        status = ls_metrics_event(t->metrics, "start", 0,
            json_pack("{s:i, s:s}", "world_size", ls_comm_size(t->comm), "fingerprint", t->fingerprint));
    return ls_comm_agree(t->comm, status);
}

// Step of the newest checkpoint that is there, whether it can be used now or not. Rank 0.
static LsStatus find_newest(const LsTrainer *t, int64_t *out)
{
    int64_t *steps = NULL;
    size_t count = 0;
    LS_TRY(ls_checkpoint_list(t->run.path, &steps, &count));
    *out = count > 0 ? steps[count - 1] : 0;
    free(steps);
    return LS_OK;
}

// named: the user has chosen it, and what is newer belongs to a future that will be trained again.
static LsStatus restore(LsTrainer *t, const LsCheckpoint *checkpoint, bool named)
{
    json_t *changes = json_object();
    LsConfig before;
    LsStatus status = ls_comm_agree(t->comm, ls_checkpoint_config(checkpoint, &before));
    if (status == LS_OK)
        status = ls_comm_agree(t->comm, check_compatible(t, checkpoint, &before, changes));
    if (status == LS_OK)
        status = ls_comm_agree(t->comm, read_state(t, checkpoint, &before));
    if (status == LS_OK && ls_comm_rank(t->comm) == 0) {
        t->saved_step = ls_checkpoint_step(checkpoint);
        report_changes(changes);
        ls_info("resuming at step %lld on %d rank%s", (long long)t->state.control.step, ls_comm_size(t->comm),
            ls_comm_size(t->comm) == 1 ? "" : "s");
        int64_t newest = t->state.control.step;
        status = named ? LS_OK : find_newest(t, &newest);
        if (status == LS_OK)
            status = ls_metrics_rewind(t->metrics, t->state.control.step, newest);
        if (status == LS_OK)
            status = ls_metrics_event(t->metrics, "resume", t->state.control.step,
                json_pack("{s:i, s:O}", "world_size", ls_comm_size(t->comm), "changes", changes));
    }
    json_decref(changes);
    return ls_comm_agree(t->comm, status);
}

// Whether the checkpoint that --resume names is none of this run's; rank 0's view counts.
static LsStatus ask_foreign(LsTrainer *t, const char *path, bool *out)
{
    uint32_t foreign = 0;
    if (ls_comm_rank(t->comm) == 0) {
        char own[LS_PATH_MAX];
        struct stat named, ours;
        ls_checkpoint_path(own, t->run.path, t->state.control.step);
        foreign = stat(path, &named) != 0 || stat(own, &ours) != 0 || named.st_dev != ours.st_dev ||
                  named.st_ino != ours.st_ino;
    }
    LS_TRY(ls_comm_broadcast(t->comm, &foreign, sizeof foreign, 0));
    *out = foreign != 0;
    return LS_OK;
}

// Checkpoints of this run past the step at which --resume CHECKPOINT starts belong to a future that will be
// trained again, and all of them to another past when that checkpoint is not of this run; they move out of
// the way of a later automatic resume.
static LsStatus set_aside_others(LsTrainer *t)
{
    int64_t *steps = NULL;
    size_t count = 0;
    LS_TRY(ls_checkpoint_list(t->run.path, &steps, &count));
    char folder[LS_PATH_MAX], from[LS_PATH_MAX], to[LS_PATH_MAX], name[64];
    snprintf(name, sizeof name, "archive/before-attempt-%06d", t->run.attempt);
    LsStatus status = ls_path_join(folder, t->run.path, name);
    for (size_t i = 0; i < count && status == LS_OK; i++) {
        if (!t->adopted && steps[i] <= t->state.control.step)
            continue;
        status = ls_directory_create(folder);
        ls_checkpoint_path(from, t->run.path, steps[i]);
        if (status == LS_OK)
            status = ls_path_join(to, folder, strrchr(from, '/') + 1);
        if (status == LS_OK && rename(from, to) != 0)
            status = ls_file_fail("move", from);
    }
    free(steps);
    return status;
}

static LsStatus resume_from(LsTrainer *t, const char *path)
{
    LsCheckpoint *checkpoint = NULL;
    LS_TRY(open_verified(t, path, &checkpoint));
    LsStatus status = restore(t, checkpoint, true);
    ls_checkpoint_close(checkpoint);
    LS_TRY(status);
    LS_TRY(ask_foreign(t, path, &t->adopted));
    if (t->adopted)
        t->saved_step = -1;
    return ls_comm_agree(t->comm, ls_comm_rank(t->comm) == 0 ? set_aside_others(t) : LS_OK);
}

static LsStatus resume_newest(LsTrainer *t)
{
    LsCheckpoint *checkpoint = NULL;
    LS_TRY(choose_newest(t, &checkpoint));
    LsStatus status = checkpoint ? restore(t, checkpoint, false) : start_fresh(t);
    ls_checkpoint_close(checkpoint);
    return status;
}

// The newest checkpoint of step `most` or before that verifies.
static LsStatus choose_before(LsTrainer *t, int64_t most, LsCheckpoint **out)
{
    int64_t *steps = NULL;
    size_t count = 0;
    LS_TRY(list_checkpoints(t, &steps, &count));
    LsStatus status = LS_FAIL(LS_CHECKPOINT, "%s: no checkpoint before step %lld is left to go back to",
        t->run.path, (long long)most);
    for (size_t i = count; i-- > 0 && status != LS_OK;) {
        char path[LS_PATH_MAX];
        ls_checkpoint_path(path, t->run.path, steps[i]);
        if (steps[i] > most)
            continue;
        status = open_verified(t, path, out);
        if (status != LS_OK)
            report_unusable(t, steps[i]);
    }
    free(steps);
    return status;
}

LsStatus ls_trainer_reread(LsTrainer *t, int64_t most)
{
    LsCheckpoint *checkpoint = NULL;
    LsConfig before;
    LS_TRY(choose_before(t, most, &checkpoint));
    LsStatus status = ls_checkpoint_config(checkpoint, &before);
    if (status == LS_OK)
        status = read_state(t, checkpoint, &before);
    ls_checkpoint_close(checkpoint);
    return ls_comm_agree(t->comm, status);
}

LsStatus ls_trainer_upload_state(LsTrainer *t)
{
    t->issued = t->state.control.step;
    LsStepOutcome first = {.control = t->state.control, .window = t->state.window};
    LS_TRY(t->device->ops->copy_in(t->device, t->outcomes.device, &first, sizeof first));
    return t->device->ops->synchronize(t->device);
}

LsStatus ls_trainer_resume(LsTrainer *t)
{
    const char *how = t->options->resume ? t->options->resume : "auto";
    if (strcmp(how, "never") == 0)
        LS_TRY(start_fresh(t));
    else if (strcmp(how, "auto") == 0)
        LS_TRY(resume_newest(t));
    else
        LS_TRY(resume_from(t, how));
    LS_TRY(ls_arenas_restore(&t->arenas));
    ls_account_resume(t->account, t->state.control.step);
    return ls_trainer_upload_state(t);
}
