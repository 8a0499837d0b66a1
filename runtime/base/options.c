// The table of options: the only place that names one.
#include "base/config.h"

#include <string.h>

static const char *const model_kinds[] = {"mlp", "gpt", "resnet", NULL};
static const char *const depths[] = {"18", "34", "50", NULL};
static const char *const stems[] = {"imagenet", "small", NULL};
static const char *const recomputations[] = {"none", "cheap", "block", NULL};
static const char *const activations[] = {"relu", "gelu", NULL};
static const char *const losses[] = {"auto", "cross_entropy", "binary_cross_entropy", "mse", NULL};
static const char *const optimizers[] = {"sgd", "adamw", "lars", NULL};
static const char *const shards[] = {"none", "state", "state+gradients", NULL};
static const char *const schedules[] = {"constant", "cosine", "linear", "step", "wsd", NULL};
static const char *const checkpoint_policies[] = {"steps", "time", "auto", NULL};
static const char *const notices[] = {"none", "ec2", "gcp", "azure", NULL};
static const char *const guard_actions[] = {"skip", "rollback", NULL};
static const char *const metrics[] = {"loss", "accuracy", "top5_accuracy", "macro_f1", "roc_auc", NULL};
static const char *const devices[] = {"auto", "cpu", "cuda", "ref", NULL};
static const char *const precisions[] = {"auto", "fp32", "bf16", "fp16", NULL};
static const char *const instruction_sets[] = {"auto", "avx2", "avx512", "avx512_bf16", "amx", NULL};
static const char *const comm_backends[] = {"auto", "mpi", "nccl", "shared", NULL};
static const char *const reductions[] = {"exact", "fast", NULL};
static const char *const wires[] = {"fp32", "bf16", NULL};
static const char *const progresses[] = {"auto", "on", "off", NULL};

#define COUNT_MAX 9007199254740992.0 // 2^53: every count up to it is exact as a bound and in JSON

// One row each. The field's type is the option's: int64_t, double, bool, char[], int (choice), LsIntList.
#define AT(field) offsetof(LsConfig, field)
#define INT(name, field, initial, low, high, class, help)                                                    \
    {                                                                                                        \
        name, LS_OPTION_INT, AT(field), initial, low, high, NULL, LS_CLASS_##class, help, NULL               \
    }
#define REAL(name, field, initial, low, high, class, help)                                                   \
    {                                                                                                        \
        name, LS_OPTION_REAL, AT(field), initial, low, high, NULL, LS_CLASS_##class, help, NULL              \
    }
// A number, or a word, which is kept as 0.
#define REAL_OR(word, name, field, initial, low, high, class, help)                                          \
    {                                                                                                        \
        name, LS_OPTION_REAL, AT(field), initial, low, high, NULL, LS_CLASS_##class, help, word              \
    }
#define BOOL(name, field, initial, class, help)                                                              \
    {                                                                                                        \
        name, LS_OPTION_BOOL, AT(field), initial, 0, 1, NULL, LS_CLASS_##class, help, NULL                   \
    }
#define TEXT(name, field, initial, class, help)                                                              \
    {                                                                                                        \
        name, LS_OPTION_TEXT, AT(field), initial, 0, 0, NULL, LS_CLASS_##class, help, NULL                   \
    }
#define CHOICE(name, field, initial, choices, class, help)                                                   \
    {                                                                                                        \
        name, LS_OPTION_CHOICE, AT(field), initial, 0, 0, choices, LS_CLASS_##class, help, NULL              \
    }
#define INTS(name, field, initial, low, high, class, help)                                                   \
    {                                                                                                        \
        name, LS_OPTION_INTS, AT(field), initial, low, high, NULL, LS_CLASS_##class, help, NULL              \
    }

// clang-format off
static const LsOption options[] = {
    CHOICE("model.kind", model.kind, "mlp", model_kinds, IDENTITY,
        "Architecture of the network: `mlp` for rows of features, `gpt` (GPT-2) for tokens, `resnet` (v1.5) for images."),
    INTS("model.hidden", model.hidden, "[512, 512]", 1, 1 << 20, IDENTITY,
        "Widths of the hidden layers of `mlp`; an empty list is a linear model."),
    CHOICE("model.activation", model.activation, "relu", activations, IDENTITY,
        "Non-linearity after each hidden layer of `mlp`."),
    REAL("model.dropout", model.dropout, "0", 0, 0.99, NUMERIC,
        "Probability with which a hidden value is dropped while training; in `gpt` behind the embedding and both "
        "output projections of a block, while attention probabilities are not dropped."),
    BOOL("model.residual", model.residual, "false", IDENTITY,
        "Adds a hidden layer's input to its output where both have the same width, in `mlp`."),
    INT("model.layers", model.layers, "6", 1, 4096, IDENTITY,
        "Blocks of `gpt`."),
    INT("model.heads", model.heads, "6", 1, 4096, IDENTITY,
        "Attention heads of a block of `gpt`."),
    INT("model.width", model.width, "384", 1, 1 << 20, IDENTITY,
        "Width of the residual stream of `gpt`, a multiple of its heads."),
    INT("model.context", model.context, "256", 1, 1 << 24, IDENTITY,
        "Tokens of a window: as far as `gpt` looks back."),
    INT("model.head_tokens", model.head_tokens, "0", 0, 1 << 30, NUMERIC,
        "Tokens whose logits `gpt` has in memory at a time, on the way to the loss; 0: as many times 128 as give at most 2^27 logits."),
    REAL("model.init_std", model.init_std, "0.02", 0, 1, IDENTITY,
        "Standard deviation of `gpt`'s weights at the start, smaller by the root of twice `model.layers` where a block adds "
        "to the residual stream; narrow models learn faster from more, such as one over the root of their width."),
    REAL("model.batch_norm_momentum", model.batch_norm_momentum, "0.1", 0, 1, NUMERIC,
        "Part of the newest step in the running mean and variance of batch normalisations, which evaluations normalise with; "
        "the step's are those of its whole batch, the variance over all N values, not N - 1."),
    CHOICE("model.recompute", model.recompute, "none", recomputations, FREE,
        "What `gpt` computes again in the backward pass instead of keeping it: `cheap` is the normalisations' outputs "
        "and the MLP's hidden values, `block` all but a block's input; the bits stay the same."),
    CHOICE("model.depth", model.depth, "18", depths, IDENTITY,
        "Layers of `resnet`: 18 and 34 are of basic blocks, 50 of bottlenecks."),
    CHOICE("model.stem", model.stem, "imagenet", stems, IDENTITY,
        "How `resnet` begins: `imagenet` with a convolution of 7 x 7 and a maximum pool, which together halve the sides twice, "
        "`small`, for images of some 32 pixels, with one of 3 x 3 that keeps them."),
    REAL("model.width_multiplier", model.width_multiplier, "1", 0.015625, 16, IDENTITY,
        "Channels of every layer of `resnet` by those of the paper, of which the first has 64."),
    BOOL("model.zero_gamma", model.zero_gamma, "false", IDENTITY,
        "Lets the last normalisation of each block of `resnet` begin with a scale of 0, so that blocks begin as identities."),

    TEXT("data.path", data.path, "", FREE,
        "Data set, as `lockstep data import` writes it; a resume compares its contents, not its name."),
    TEXT("data.where", data.where, "", IDENTITY,
        "Leaves one partition of the data, `column == 'value'`, as if the file held nothing else; empty: all of it."),
    INT("data.workers", data.workers, "1", 1, 64, FREE,
        "Threads of each rank that read and prepare microbatches."),
    INT("data.prefetch", data.prefetch, "4", 1, 1024, FREE,
        "Microbatches that each rank prepares ahead of the step."),
    INT("data.crop_padding", data.crop_padding, "0", 0, 4096, NUMERIC,
        "Black pixels on every side of a training image, of which a random part of the image's size is taken; 0: no crop."),
    BOOL("data.flip", data.flip, "false", NUMERIC,
        "Mirrors every other training image, by chance, from left to right."),
    REAL("data.resized_crop", data.resized_crop, "0", 0, 1, NUMERIC,
        "Takes a random part of a training image, of at least this share of its area and with sides of 3:4 to 4:3, and enlarges "
        "it to the image's size; 0: off."),
    REAL("data.brightness", data.brightness, "0", 0, 1, NUMERIC,
        "How far from 1 the factor may be that a training image's brightness is multiplied by."),
    REAL("data.contrast", data.contrast, "0", 0, 1, NUMERIC,
        "The same for differences from the image's mean brightness."),
    REAL("data.saturation", data.saturation, "0", 0, 1, NUMERIC,
        "The same for differences of a pixel's colours from its brightness; of images with three channels."),
    INT("data.cutout", data.cutout, "0", 0, 4096, NUMERIC,
        "Side of a square, centred anywhere in a training image, in which its pixels become the mean colour; 0: none."),
    REAL("data.mixup", data.mixup, "0", 0, 1, NUMERIC,
        "Mixes every training image with another one, by weights from the beta distribution with this parameter twice; of two "
        "classes one is drawn by the weights, numbers are mixed; 0: off."),

    CHOICE("train.loss", train.loss, "auto", losses, IDENTITY,
        "Loss; `auto` is cross-entropy for classes and mean squared error for other targets."),
    REAL("train.label_smoothing", train.label_smoothing, "0", 0, 0.99, NUMERIC,
        "Share of each label's probability that cross-entropy spreads evenly over all classes."),
    INT("train.batch", train.batch, "256", 1, 1 << 30, NUMERIC,
        "Samples of one step over all ranks, windows where they are tokens; a multiple of lanes × accumulation."),
    INT("train.lanes", train.lanes, "8", 1, 4096, NUMERIC,
        "Fixed parts that the batch is cut into, a power of two and the most ranks that can train; the sum "
        "over them has the same bits on any number of ranks."),
    INT("train.accumulation", train.accumulation, "1", 1, 65536, NUMERIC,
        "Microbatches that a lane computes one after the other, so that activations need less memory."),
    INT("train.max_steps", train.max_steps, "0", 0, COUNT_MAX, NUMERIC,
        "Steps after which training is done; 0: `train.max_epochs` alone decides."),
    REAL("train.max_epochs", train.max_epochs, "0", 0, 1e9, NUMERIC,
        "Passes over the training split after which training is done, fractions too; 0: `train.max_steps` "
        "alone decides."),
    REAL("train.max_time", train.max_time, "0", 0, 1e9, FREE,
        "Seconds after which an attempt saves and stops with exit code 75; 0: no limit."),
    INT("train.seed", train.seed, "1", 0, COUNT_MAX, IDENTITY,
        "Seed of everything random: initialisation, order of the samples, dropout."),
    INT("train.early_stopping", train.early_stopping, "0", 0, 1000000, NUMERIC,
        "Evaluations in a row without a better `eval.metric` that end training; 0: never."),
    INT("train.max_skipped", train.max_skipped, "20", 1, 1000000, FREE,
        "Steps in a row skipped for gradients that are not finite that end the run as diverged; in `fp16` not before "
        "the loss scale has come down to 1."),
    REAL("train.loss_scale", train.loss_scale, "65536", 1, 16777216, NUMERIC,
        "What the loss is multiplied by at the start of training in `fp16`, so that small gradients do not vanish; a power "
        "of two."),
    INT("train.loss_scale_growth", train.loss_scale_growth, "2000", 0, 1000000000, NUMERIC,
        "Good steps in a row after which the loss scale of `fp16` doubles (an overflow halves it); 0: it stays."),
    TEXT("train.init_from", train.init_from, "", FREE,
        "What a new run takes its initial weights from: a checkpoint, a run, or a safetensors file, also in a directory "
        "as transformers save it; empty: random."),
    TEXT("train.freeze", train.freeze, "", NUMERIC,
        "Parameters that are not trained, by patterns of their names with commas between them, such as `wte,blocks.0.*`; "
        "`checkpoint info` lists names."),

    CHOICE("optimizer.kind", optimizer.kind, "adamw", optimizers, IDENTITY,
        "Optimizer; `lars` is `sgd` with a rate of each tensor's own, for large batches."),
    REAL("optimizer.lr", optimizer.lr, "0.001", 0, 1000, NUMERIC,
        "Learning rate at the height of the schedule."),
    REAL("optimizer.momentum", optimizer.momentum, "0.9", 0, 0.9999, NUMERIC,
        "Momentum of `sgd` and `lars`; 0: none."),
    BOOL("optimizer.nesterov", optimizer.nesterov, "false", NUMERIC,
        "Nesterov's form of the momentum of `sgd` and `lars`."),
    REAL("optimizer.beta1", optimizer.beta1, "0.9", 0, 0.999999, NUMERIC,
        "Decay of the first moment of `adamw`."),
    REAL("optimizer.beta2", optimizer.beta2, "0.999", 0, 0.999999, NUMERIC,
        "Decay of the second moment of `adamw`."),
    REAL("optimizer.epsilon", optimizer.epsilon, "1e-8", 1e-30, 1, NUMERIC,
        "What `adamw` adds to the root of the second moment, and `lars` to the gradient's norm."),
    REAL("optimizer.trust", optimizer.trust, "0.001", 1e-9, 1000, NUMERIC,
        "How much of a tensor's norm one step of `lars` may change at a learning rate of 1."),
    REAL("optimizer.weight_decay", optimizer.weight_decay, "0.01", 0, 10, NUMERIC,
        "Weight decay of matrices and convolutions (decoupled in `adamw`); biases and normalisations have none."),
    BOOL("optimizer.decay_biases", optimizer.decay_biases, "false", NUMERIC,
        "Weight decay of biases and normalisations, too."),
    REAL("optimizer.average", optimizer.average, "0", 0, 0.999999, NUMERIC,
        "Decay of an exponential moving average of the weights, 0.999 for example, which `eval.average` makes the model of "
        "evaluations; it takes 4 bytes for each parameter, split as moments are. 0: none."),
    REAL("optimizer.clip_norm", optimizer.clip_norm, "0", 0, 1e9, NUMERIC,
        "Global norm that gradients are scaled down to; 0: no clipping."),
    CHOICE("optimizer.shard", optimizer.shard, "state", shards, FREE,
        "What is split over the ranks instead of being held by each: `none` is nothing, so that every rank updates everything; "
        "`state` is master weights and moments (ZeRO-1); `state+gradients` also the sums of gradients (ZeRO-2), which takes "
        "`train.accumulation: 1` and sends every lane's gradients, lanes/ranks times the bytes. The bits are the same."),

    CHOICE("schedule.kind", schedule.kind, "constant", schedules, NUMERIC,
        "Course of the learning rate after warm-up; `wsd` is constant, then linear decay."),
    INT("schedule.warmup_steps", schedule.warmup_steps, "0", 0, COUNT_MAX, NUMERIC,
        "Steps in which the learning rate rises linearly to its height."),
    REAL("schedule.min_ratio", schedule.min_ratio, "0", 0, 1, NUMERIC,
        "Learning rate at the end of `cosine`, `linear` and `wsd`, as a part of its height."),
    INT("schedule.step_every", schedule.step_every, "1000", 1, COUNT_MAX, NUMERIC,
        "Steps after which `step` multiplies the learning rate by its factor, again and again."),
    REAL("schedule.step_factor", schedule.step_factor, "0.1", 0, 1, NUMERIC,
        "Factor of `step`."),
    INT("schedule.decay_steps", schedule.decay_steps, "0", 0, COUNT_MAX, NUMERIC,
        "Last steps of the run over which `wsd` decays; `wsd` needs at least 1."),

    INT("checkpoint.every", checkpoint.every, "1000", 0, COUNT_MAX, FREE,
        "Steps between checkpoints; 0: only at the end and when the run is stopped, where there always is one."),
    CHOICE("checkpoint.policy", checkpoint.policy, "steps", checkpoint_policies, FREE,
        "When there are checkpoints besides the end and a stop: `steps` by `checkpoint.every`, `time` by "
        "`checkpoint.interval`, `auto` as `checkpoint.mtbf` and the measured cost of a save ask for."),
    REAL("checkpoint.interval", checkpoint.interval, "600", 0.1, 1e9, FREE,
        "Seconds between checkpoints with `checkpoint.policy: time`."),
    REAL("checkpoint.mtbf", checkpoint.mtbf, "24", 0.001, 1e6, FREE,
        "Hours from one failure of the job to the next, as far as known, for `checkpoint.policy: auto`: the time between "
        "checkpoints is the one that loses least (Young, Daly)."),
    INT("checkpoint.in_flight", checkpoint.in_flight, "2", 1, 2, FREE,
        "Checkpoints that may be on their way to the disk at a time; each needs host memory for this rank's part of the state."),
    INT("checkpoint.keep_last", checkpoint.keep_last, "3", 1, 1000000, FREE,
        "Newest checkpoints that are kept; never fewer than two, so that there is one to fall back to."),
    INT("checkpoint.keep_every", checkpoint.keep_every, "0", 0, COUNT_MAX, FREE,
        "Checkpoints at multiples of this step are kept for good; 0: none."),
    BOOL("checkpoint.keep_best", checkpoint.keep_best, "false", FREE,
        "Keeps the checkpoint of the best evaluation by `eval.metric`."),

    INT("eval.every", eval.every, "500", 0, COUNT_MAX, NUMERIC,
        "Steps between evaluations on the quick part of the validation split; 0: only the full one at the end."),
    INT("eval.quick_samples", eval.quick_samples, "2000", 0, COUNT_MAX, NUMERIC,
        "Samples of the quick part, a fixed stratified choice; 0: the whole split."),
    INT("eval.batch", eval.batch, "500", 1, 1 << 24, NUMERIC,
        "Samples that a rank evaluates at a time; windows of tokens at most as many as in a microbatch."),
    BOOL("eval.average", eval.average, "true", NUMERIC,
        "Evaluations and `eval`, `predict`, `generate` and `export` use the averaged weights where there are some "
        "(`optimizer.average`), not the newest ones."),
    CHOICE("eval.metric", eval.metric, "loss", metrics, IDENTITY,
        "What early stopping and `checkpoint.keep_best` compare."),

    INT("log.every", log.every, "50", 1, COUNT_MAX, FREE,
        "Steps between lines of metrics.jsonl and of the progress shown."),

    REAL("stop.margin", stop.margin, "60", 0, 1e6, FREE,
        "Seconds before the end of a Slurm job's time limit at which an attempt saves and stops; 0: the limit is not looked at."),
    CHOICE("stop.notices", stop.notices, "none", notices, FREE,
        "Cloud whose notices of a machine's end make the run save and stop; one rank of each host asks every second."),
    TEXT("stop.notice_url", stop.notice_url, "", FREE,
        "Where notices are asked for, such as http://127.0.0.1:8080; empty: the cloud's own metadata address."),

    REAL("guard.spike", guard.spike, "0", 0, 1e6, NUMERIC,
        "Robust z-score above which the loss or the gradient norm of a step is a spike, 10 for example; 0: only what is not "
        "finite is."),
    INT("guard.window", guard.window, "64", 8, 128, NUMERIC,
        "Good steps before this one that a spike is measured against; there is none before so many were made."),
    CHOICE("guard.action", guard.action, "skip", guard_actions, NUMERIC,
        "What happens to a step with a spike: `skip` leaves it out; `rollback` goes back to the checkpoint before it, by "
        "`checkpoint.every`, and passes over the data from there to it."),
    INT("guard.limit", guard.limit, "10", 1, 100, FREE,
        "Spikes, or rollbacks, within the newest 1,000 steps that end the run as diverged; wrong lanes of one rank that end an "
        "attempt because of its hardware."),
    INT("guard.recompute_every", guard.recompute_every, "0", 0, COUNT_MAX, FREE,
        "Steps between checks of a rank's arithmetic, in which another rank computes one of its lanes again and compares the "
        "bits; 0: none."),
    REAL("guard.slow_ratio", guard.slow_ratio, "1.5", 0, 1000, FREE,
        "A rank whose own work takes this many times the ranks' median is named in events.jsonl; 0: none is."),
    INT("guard.slow_steps", guard.slow_steps, "20", 1, 1000000, FREE,
        "Steps over which a rank must be that slow, and for a second at least."),

    CHOICE("runtime.device", runtime.device, "auto", devices, NUMERIC,
        "Where a rank computes; `auto` is a GPU where there is one, `ref` the slow reference."),
    CHOICE("runtime.precision", runtime.precision, "auto", precisions, NUMERIC,
        "Type of activations and matrix products; `auto` is `bf16` where products in it are fast, else `fp32`."),
    INT("runtime.threads", runtime.threads, "1", 1, 1024, NUMERIC,
        "Threads of each rank that compute; never taken from the number of cores, since it decides bits."),
    CHOICE("runtime.isa", runtime.isa, "auto", instruction_sets, NUMERIC,
        "Highest CPU instruction set to use, a common level for machines that differ."),

    BOOL("runtime.tf32", runtime.tf32, "false", NUMERIC,
        "Lets a GPU round the inputs of FP32 products to TF32, which has 10 bits."),
    BOOL("runtime.autotune", runtime.autotune, "false", NUMERIC,
        "Measures the GPU library's deterministic algorithms for each shape on rank 0 and keeps the fastest in the run; "
        "otherwise its first choice serves."),
    BOOL("runtime.graphs", runtime.graphs, "true", FREE,
        "Replays a microbatch as one CUDA graph instead of launching kernel by kernel."),

    CHOICE("collectives.backend", collectives.backend, "auto", comm_backends, FREE,
        "What moves gradients between ranks; `auto` is `nccl` where every rank has a GPU of its own, `shared` for "
        "CPU ranks of which a host has several, which read each other's memory there, else `mpi`. `mpi` sends "
        "as if every rank had a host of its own."),
    CHOICE("collectives.reduction", collectives.reduction, "exact", reductions, NUMERIC,
        "`exact` sums along the tree of lanes: the same bits on any number of ranks; `fast` is the library's "
        "own all-reduce."),
    CHOICE("collectives.wire", collectives.wire, "fp32", wires, NUMERIC,
        "In what sums of gradients travel; with `bf16` every lane's gradient and every sum of two is rounded to BF16, "
        "which halves the bytes and is the same on any number of ranks."),
    CHOICE("collectives.progress", collectives.progress, "auto", progresses, FREE,
        "Whether a CPU rank adds up gradients of the ranks of its host in a thread of its own while backward goes on; "
        "`auto` where each rank of the host has a free core for it."),
    REAL_OR("auto", "collectives.bucket_mb", collectives.bucket_mb, "25", 0.0625, 1024, FREE,
        "Mebibytes of gradients that are reduced together; `auto` measures some sizes at the start of every attempt and "
        "takes the fastest."),
    REAL("collectives.timeout", collectives.timeout, "300", 0.1, 1e6, FREE,
        "Seconds that a rank waits for the others before the run ends with exit code 124."),
};
// clang-format on

const LsOption *ls_options(size_t *count)
{
    *count = sizeof options / sizeof options[0];
    return options;
}

const LsOption *ls_option_find(const char *name)
{
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (strcmp(options[i].name, name) == 0)
            return &options[i];
    return NULL;
}
