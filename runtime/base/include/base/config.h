// The configuration of a run: one plain struct, filled from one table of options, read-only once parsed.
//
// The table (runtime/base/options.c) is the only place that names an option. It drives the YAML reader,
// `--set`, LOCKSTEP_SECTION_KEY variables, bounds, help, `config options`, docs/configuration.md and the copy
// of the configuration in every checkpoint. Precedence: defaults < file < environment < --set.
#ifndef LOCKSTEP_BASE_CONFIG_H
#define LOCKSTEP_BASE_CONFIG_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

enum { LS_CONFIG_TEXT = 1024, LS_CONFIG_LIST = 64 };

// A list of integers, in YAML [1024, 1024].
typedef struct LsIntList {
    size_t count;
    int64_t values[LS_CONFIG_LIST];
} LsIntList;

typedef enum LsModelKind { LS_MODEL_MLP, LS_MODEL_GPT, LS_MODEL_RESNET } LsModelKind;
typedef enum LsResnetDepth { LS_RESNET_18, LS_RESNET_34, LS_RESNET_50 } LsResnetDepth;
typedef enum LsResnetStem { LS_STEM_IMAGENET, LS_STEM_SMALL } LsResnetStem;
typedef enum LsRecompute { LS_RECOMPUTE_NONE, LS_RECOMPUTE_CHEAP, LS_RECOMPUTE_BLOCK } LsRecompute;
typedef enum LsActivationKind { LS_ACTIVATION_RELU, LS_ACTIVATION_GELU } LsActivationKind;
typedef enum LsLossKind {
    LS_LOSS_AUTO,
    LS_LOSS_CROSS_ENTROPY,
    LS_LOSS_BINARY_CROSS_ENTROPY,
    LS_LOSS_MSE
} LsLossKind;
typedef enum LsOptimizerKind { LS_OPTIMIZER_SGD, LS_OPTIMIZER_ADAMW, LS_OPTIMIZER_LARS } LsOptimizerKind;
// ZeRO-0, 1 and 2
typedef enum LsOptimizerShard { LS_SHARD_NONE, LS_SHARD_STATE, LS_SHARD_STATE_GRADIENTS } LsOptimizerShard;
typedef enum LsScheduleKind {
    LS_SCHEDULE_CONSTANT,
    LS_SCHEDULE_COSINE,
    LS_SCHEDULE_LINEAR,
    LS_SCHEDULE_STEP,
    LS_SCHEDULE_WSD // warm-up, stable, decay
} LsScheduleKind;
typedef enum LsEvalMetric {
    LS_METRIC_LOSS,
    LS_METRIC_ACCURACY,
    LS_METRIC_TOP5_ACCURACY,
    LS_METRIC_MACRO_F1,
    LS_METRIC_ROC_AUC
} LsEvalMetric;
typedef enum LsNoticeKind { LS_NOTICE_NONE, LS_NOTICE_EC2, LS_NOTICE_GCP, LS_NOTICE_AZURE } LsNoticeKind;
typedef enum LsGuardAction { LS_GUARD_SKIP, LS_GUARD_ROLLBACK } LsGuardAction;
typedef enum LsDeviceKind { LS_DEVICE_AUTO, LS_DEVICE_CPU, LS_DEVICE_CUDA, LS_DEVICE_REF } LsDeviceKind;
typedef enum LsPrecision {
    LS_PRECISION_AUTO,
    LS_PRECISION_FP32,
    LS_PRECISION_BF16,
    LS_PRECISION_FP16
} LsPrecision;
typedef enum LsIsa { LS_ISA_AUTO, LS_ISA_AVX2, LS_ISA_AVX512, LS_ISA_AVX512_BF16, LS_ISA_AMX } LsIsa;
typedef enum LsCommKind { LS_COMM_AUTO, LS_COMM_MPI, LS_COMM_NCCL, LS_COMM_SHARED } LsCommKind;
typedef enum LsReductionKind { LS_REDUCTION_EXACT, LS_REDUCTION_FAST } LsReductionKind;
typedef enum LsWireKind { LS_WIRE_FP32, LS_WIRE_BF16 } LsWireKind;
typedef enum LsProgressKind { LS_PROGRESS_AUTO, LS_PROGRESS_ON, LS_PROGRESS_OFF } LsProgressKind;

typedef enum LsSavePolicy { LS_SAVE_STEPS, LS_SAVE_TIME, LS_SAVE_AUTO } LsSavePolicy;

typedef struct LsConfig {
    struct {
        int kind; // LsModelKind; all enumerations are stored as int
        LsIntList hidden;
        int activation;
        double dropout;
        bool residual;
        int64_t layers;
        int64_t heads;
        int64_t width;
        int64_t context;     // tokens of a window
        int64_t head_tokens; // 0: chosen by the vocabulary
        double init_std;
        double batch_norm_momentum;
        int recompute;
        int depth;
        int stem;
        double width_multiplier;
        bool zero_gamma;
    } model;
    struct {
        char path[LS_CONFIG_TEXT];
        char where[LS_CONFIG_TEXT];
        int64_t workers;
        int64_t prefetch;
        int64_t crop_padding; // pixels, 0: no crop
        bool flip;
        double resized_crop; // smallest share of the area, 0: off
        double brightness;
        double contrast;
        double saturation;
        int64_t cutout; // pixels of a side, 0: off
        double mixup;   // parameter of the beta distribution, 0: off
    } data;
    struct {
        int loss;
        double label_smoothing;
        int64_t batch; // global, in samples or windows
        int64_t lanes;
        int64_t accumulation;
        int64_t max_steps; // 0: no limit but max_epochs
        double max_epochs; // 0: no limit but max_steps
        double max_time;   // seconds, 0: none
        int64_t seed;
        int64_t early_stopping; // evaluations without a better metric, 0: off
        int64_t max_skipped;
        double loss_scale; // first value, fp16
        int64_t loss_scale_growth;
        char init_from[LS_CONFIG_TEXT];
        char freeze[LS_CONFIG_TEXT];
    } train;
    struct {
        int kind;
        double lr;
        double momentum;
        bool nesterov;
        double beta1;
        double beta2;
        double epsilon;
        double trust;   // of lars
        double average; // decay of the weights' moving average, 0: there is none
        double weight_decay;
        bool decay_biases;
        double clip_norm; // 0: no clipping
        int shard;        // LsOptimizerShard
    } optimizer;
    struct {
        int kind;
        int64_t warmup_steps;
        double min_ratio;
        int64_t step_every;
        double step_factor;
        int64_t decay_steps;
    } schedule;
    struct {
        int64_t every;
        int policy;      // LsSavePolicy
        double interval; // seconds
        double mtbf;     // hours
        int64_t in_flight;
        int64_t keep_last;
        int64_t keep_every;
        bool keep_best;
    } checkpoint;
    struct {
        int64_t every;
        int64_t quick_samples;
        int64_t batch;
        int metric;
        bool average;
    } eval;
    struct {
        int64_t every;
    } log;
    struct {
        double margin; // seconds, 0: off
        int notices;
        char notice_url[LS_CONFIG_TEXT];
    } stop;
    struct {
        double spike; // robust z-score, 0: off
        int64_t window;
        int action;
        int64_t limit;
        int64_t recompute_every; // 0: off
        double slow_ratio;       // 0: off
        int64_t slow_steps;
    } guard;
    struct {
        int device;
        int precision;
        int64_t threads;
        int isa;
        bool tf32;
        bool autotune;
        bool graphs;
    } runtime;
    struct {
        int backend;
        int reduction;
        int wire;
        int progress;     // LsProgressKind
        double bucket_mb; // 0: auto
        double timeout;   // seconds
    } collectives;
} LsConfig;

typedef enum LsOptionType {
    LS_OPTION_INT,
    LS_OPTION_REAL,
    LS_OPTION_BOOL,
    LS_OPTION_TEXT,
    LS_OPTION_CHOICE,
    LS_OPTION_INTS
} LsOptionType;

// What a resume may do with an option.
typedef enum LsOptionClass {
    LS_CLASS_IDENTITY, // a change is refused: it would be another model or another run
    LS_CLASS_NUMERIC,  // a change is allowed, changes bits and is recorded as an event
    LS_CLASS_FREE      // changes no bits
} LsOptionClass;

typedef struct LsOption {
    const char *name; // "train.batch"
    LsOptionType type;
    size_t offset;              // of the field in LsConfig
    const char *initial;        // default, as text
    double minimum, maximum;    // numbers, and each element of a list
    const char *const *choices; // NULL-terminated, in the enumeration's order
    LsOptionClass class_;
    const char *help; // one sentence, unit included
    const char *zero; // of a number from above 0 on: the word that is kept as 0; NULL: none
} LsOption;

// The table, in the order in which help prints it.
const LsOption *ls_options(size_t *count);

// The option of that name, or NULL.
const LsOption *ls_option_find(const char *name);

// Every option at its default.
void ls_config_defaults(LsConfig *config);

// Sets one option from text and checks its bounds. `origin` ("configs/a.yaml:7", "--set",
// "LOCKSTEP_TRAIN_BATCH") starts the sentence of a failure, LS_CONFIG; an unknown name suggests the nearest
// known one (optimal string alignment distance).
LsStatus ls_config_set(LsConfig *config, const char *name, const char *value, const char *origin);

// Reads a YAML file (mapping of sections of scalars and lists; libyaml). LS_NO_INPUT, or LS_CONFIG with line
// and column: a syntax error, a duplicate or unknown key, an alias, a bad value.
LsStatus ls_config_read_yaml(LsConfig *config, const char *path);

// The same from memory; `name` stands for the path in messages.
LsStatus ls_config_parse_yaml(LsConfig *config, const char *text, size_t size, const char *name);

// Applies LOCKSTEP_SECTION_KEY variables of `environment` (an environ-like list). An unknown LOCKSTEP_*
// variable of a known section is an error; others are left alone.
LsStatus ls_config_read_environment(LsConfig *config, char *const *environment);

// Checks what involves several options at once (batch divides into lanes × accumulation, a limit is set, …).
LsStatus ls_config_validate(const LsConfig *config);

// Writes every option as YAML that reads back to the same configuration.
void ls_config_write_yaml(const LsConfig *config, FILE *out);

// The option's value as text that ls_config_set reads back.
void ls_option_text(const LsConfig *config, const LsOption *option, char *text, size_t size);

// Markdown reference of all options: docs/configuration.md, below its hand-written head.
void ls_config_write_reference(FILE *out);

#endif
