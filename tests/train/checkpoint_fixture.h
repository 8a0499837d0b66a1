// A small model's state, alike on any number of ranks, and a run directory to save it in.
#ifndef LOCKSTEP_TESTS_CHECKPOINT_FIXTURE_H
#define LOCKSTEP_TESTS_CHECKPOINT_FIXTURE_H

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/rng.h"
#include "train/checkpoint.h"

enum { FIXTURE_ARRAYS = 3 };

static const char *const fixture_groups[FIXTURE_ARRAYS] = {
    "parameters", "optimizer/moment1", "optimizer/moment2"};

typedef struct Fixture {
    LsComm *comm;
    LsRunDir run;
    LsParameters parameters;
    LsBuckets buckets;
    LsConfig config;
    LsRunState state;
    json_t *schema;
    LsStateArray array[FIXTURE_ARRAYS];
    LsCheckpointContent content;
    size_t shard_blocks;
} Fixture;

// Ends the program: a fixture that cannot be made is no test result.
static inline void fixture_require(LsStatus status, const char *what)
{
    if (status == LS_OK)
        return;
    fprintf(stderr, "%s: %s\n", what, ls_status_message());
    exit(99);
}

// Any bits that 32 can be, infinities and NaN with payload too: what is saved is bits. `salt` makes another
// state of the same model.
static inline uint32_t fixture_bits(uint32_t salt, size_t array, size_t element)
{
    return ls_rng_u32(ls_rng_key(salt, (uint32_t)array), 0, element);
}

static inline void fixture_parameters(LsParameters *parameters)
{
    // Several tensors in one bucket, one tensor in several, a last block that is full, nearly empty, and four
    // dimensions.
    static const LsParameter list[] = {
        {.name = "embed.weight", .dimensions = 2, .shape = {37, 300}, .elements = 37 * 300},
        {.name = "layers.0.weight", .dimensions = 2, .shape = {128, 784}, .elements = 128 * 784},
        {.name = "layers.0.bias", .dimensions = 1, .shape = {128}, .elements = 128},
        {.name = "full", .dimensions = 1, .shape = {LS_BLOCK}, .elements = LS_BLOCK},
        {.name = "more", .dimensions = 1, .shape = {LS_BLOCK + 1}, .elements = LS_BLOCK + 1},
        {.name = "conv.weight", .dimensions = 4, .shape = {8, 4, 3, 3}, .elements = 8 * 4 * 3 * 3},
        {.name = "layers.10.bias", .dimensions = 1, .shape = {1}, .elements = 1},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        fixture_require(ls_parameters_add(parameters, &list[i]), "parameters");
}

// The flat block's numbers, padding zero.
static inline void fixture_block(
    const LsParameters *parameters, uint32_t salt, size_t array, size_t block, float *out)
{
    memset(out, 0, LS_BLOCK * sizeof *out);
    for (size_t i = 0; i < parameters->count; i++) {
        const LsParameter *parameter = &parameters->list[i];
        for (size_t e = 0; e < LS_BLOCK; e++) {
            size_t flat = block * LS_BLOCK + e;
            if (flat < parameter->offset || flat >= parameter->offset + parameter->elements)
                continue;
            uint32_t bits = fixture_bits(salt, array, flat);
            memcpy(&out[e], &bits, sizeof bits);
        }
    }
}

static inline void fixture_fill(Fixture *fixture, uint32_t salt)
{
    uint32_t ranks = (uint32_t)ls_comm_size(fixture->comm), rank = (uint32_t)ls_comm_rank(fixture->comm);
    for (size_t a = 0; a < FIXTURE_ARRAYS; a++) {
        float *to = fixture->array[a].shard;
        for (size_t b = 0; b < fixture->buckets.count; b++) {
            LsBlockRange piece = ls_bucket_piece(&fixture->buckets, b, ranks, rank);
            for (size_t i = 0; i < piece.count; i++, to += LS_BLOCK)
                fixture_block(&fixture->parameters, salt, a, piece.first + i, to);
        }
    }
}

static inline void fixture_state(LsRunState *state, int64_t step)
{
    memset(state, 0, sizeof *state);
    state->control = (LsStepControl){.step = step,
        .updates = step / 2,
        .loss = 0.1f, // has no short decimal fraction in binary
        .gradient_norm = INFINITY,
        .learning_rate = 1e-41f, // subnormal
        .gradient_factor = -0.0f,
        .bias_correction1 = 0.9999999f,
        .bias_correction2 = 1.0f / 3,
        .loss_scale = 65536,
        .good_steps = 7,
        .skip = 1,
        .skipped_in_row = 2};
    state->cursor = (uint64_t)step * 2048 + (1ull << 60) + 1; // does not fit a double
    state->best = (LsBestMetric){.known = true, .value = 1.0 / 3, .step = -1, .stale = 3};
    state->window =
        (LsSpikeWindow){.held = 2, .next = 2, .loss = {0.1f, 3}, .gradient_norm = {1e-41f, 1.0f / 3}};
    state->guard = (LsGuardHistory){.rollbacks = 1, .held = 2, .step = {3, 8}};
}

static inline void fixture_open(Fixture *fixture, const char *run_path)
{
    memset(fixture, 0, sizeof *fixture);
    fixture_require(
        ls_comm_open(&(LsCommOptions){.kind = LS_COMM_AUTO, .timeout = 60}, &fixture->comm), "communicator");
    fixture_require(ls_run_dir_claim(&fixture->run, run_path, fixture->comm), "run directory");
    fixture_parameters(&fixture->parameters);
    fixture_require(
        ls_buckets_create(fixture->parameters.blocks, 5 * LS_BLOCK * sizeof(float), &fixture->buckets),
        "buckets");
    ls_config_defaults(&fixture->config);
    fixture_require(ls_config_set(&fixture->config, "optimizer.lr", "0.0123", "test"), "configuration");
    fixture_require(ls_config_set(&fixture->config, "model.hidden", "[128, 64]", "test"), "configuration");
    fixture->schema = json_pack("{s:f, s:[i, i]}", "mean", 0.1, "shape", 28, 28);
    fixture->shard_blocks = ls_shard_blocks(
        &fixture->buckets, (uint32_t)ls_comm_size(fixture->comm), (uint32_t)ls_comm_rank(fixture->comm));
    for (size_t a = 0; a < FIXTURE_ARRAYS; a++) {
        fixture->array[a].group = fixture_groups[a];
        fixture_require(ls_memory_allocate((fixture->shard_blocks + 1) * LS_BLOCK * sizeof(float),
                            (void **)&fixture->array[a].shard),
            "memory");
    }
    fixture_state(&fixture->state, 10);
    fixture->content = (LsCheckpointContent){.parameters = &fixture->parameters,
        .buckets = &fixture->buckets,
        .arrays = FIXTURE_ARRAYS,
        .array = fixture->array,
        .state = &fixture->state,
        .config = &fixture->config,
        .data_root_hash = "00112233445566778899aabbccddeeff",
        .data_schema = fixture->schema,
        .fingerprint = "test machine"};
}

static inline void fixture_close(Fixture *fixture)
{
    for (size_t a = 0; a < FIXTURE_ARRAYS; a++)
        free(fixture->array[a].shard);
    json_decref(fixture->schema);
    ls_buckets_free(&fixture->buckets);
    ls_parameters_free(&fixture->parameters);
    ls_run_dir_release(&fixture->run);
    ls_comm_close(fixture->comm);
}

// All three parts of a save.
static inline LsStatus fixture_save(Fixture *fixture, int64_t step, char path[LS_PATH_MAX])
{
    LsSave *save;
    fixture_state(&fixture->state, step);
    LS_TRY(ls_save_begin(&fixture->run, fixture->comm, &fixture->content, &save));
    return ls_save_commit(save, ls_save_write(save), path);
}

// Retention by number alone, of checkpoints that are read.
static inline LsStatus fixture_retain(const LsRunDir *run, int64_t keep_last)
{
    bool complete = false;
    return ls_checkpoint_retain(run, &(LsRetention){.keep_last = keep_last, .best_step = -1}, &complete);
}

// Reads this rank's shards from the checkpoint and counts the numbers whose bits are not the fixture's.
static inline LsStatus fixture_compare(
    const Fixture *fixture, const LsCheckpoint *checkpoint, uint32_t salt, size_t *different)
{
    uint32_t ranks = (uint32_t)ls_comm_size(fixture->comm), rank = (uint32_t)ls_comm_rank(fixture->comm);
    *different = 0;
    for (size_t a = 0; a < FIXTURE_ARRAYS; a++) {
        for (size_t b = 0; b < fixture->buckets.count; b++) {
            LsBlockRange piece = ls_bucket_piece(&fixture->buckets, b, ranks, rank);
            float *read = malloc((piece.count + 1) * LS_BLOCK * sizeof *read), expected[LS_BLOCK];
            memset(read, 0xff, (piece.count + 1) * LS_BLOCK * sizeof *read);
            LsStatus status = ls_checkpoint_read(
                checkpoint, &fixture->parameters, fixture_groups[a], piece.first, piece.count, read);
            for (size_t i = 0; i < piece.count && status == LS_OK; i++) {
                fixture_block(&fixture->parameters, salt, a, piece.first + i, expected);
                for (size_t e = 0; e < LS_BLOCK; e++)
                    *different += memcmp(&expected[e], &read[i * LS_BLOCK + e], sizeof(float)) != 0;
            }
            free(read);
            LS_TRY(status);
        }
    }
    return LS_OK;
}

// A limit on the size of files stands for a full disk: writing past it fails.
static inline void fixture_limit_files(rlim_t bytes)
{
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0) {
        limit.rlim_cur = bytes;
        if (setrlimit(RLIMIT_FSIZE, &limit) == 0)
            return;
    }
    perror("RLIMIT_FSIZE");
    exit(99);
}

// A fresh directory under TMPDIR or /tmp.
static inline void fixture_directory(char path[LS_PATH_MAX])
{
    const char *base = getenv("TMPDIR");
    snprintf(path, LS_PATH_MAX, "%s/lockstep-test-XXXXXX", base ? base : "/tmp");
    if (mkdtemp(path) == NULL) {
        perror(path);
        exit(99);
    }
}

#endif
