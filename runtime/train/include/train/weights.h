// A model's weights in a file that programs exchange: safetensors, GPT-2 in the layout of Hugging Face's
// transformers (models/huggingface.h), other models under their own names.
#ifndef LOCKSTEP_TRAIN_WEIGHTS_H
#define LOCKSTEP_TRAIN_WEIGHTS_H

#include "data/tokenizer.h"
#include "train/checkpoint.h"
#include "train/safetensors.h"

#define LS_WEIGHTS_NAME "model.safetensors" // of the file in a directory
#define LS_WEIGHTS_CONFIG "config.json"     // beside it, for GPT-2

// Keys of the file's metadata.
#define LS_WEIGHTS_HEADS "n_head"        // GPT-2's heads, which no tensor's shape tells
#define LS_WEIGHTS_TOKENIZER "tokenizer" // "bytes", which Hugging Face's files cannot say
#define LS_WEIGHTS_MODEL "lockstep"      // of other models: JSON with configuration and data schema

// What makes a GPT-2.
typedef struct LsGptSizes {
    size_t layers, width, positions, vocabulary;
    size_t heads; // 0: the file does not say
} LsGptSizes;

// Whether `named` is a safetensors file, or a directory with one, as opposed to a checkpoint.
bool ls_weights_named(const char *named);

// LS_NO_INPUT, LS_IO or LS_CHECKPOINT.
typedef struct LsWeights LsWeights;
LsStatus ls_weights_open(const char *named, LsWeights **out);
void ls_weights_close(LsWeights *weights);
const LsSafetensors *ls_weights_file(const LsWeights *weights);

// Whether the file has GPT-2's token table; then its sizes, from the tensors' shapes. config.json beside the
// file must agree with them and describe GPT-2's architecture as models/gpt.c has it: LS_CHECKPOINT.
bool ls_weights_of_gpt(const LsWeights *weights);
LsStatus ls_weights_gpt_sizes(const LsWeights *weights, LsGptSizes *out);

// The tokenizer that the weights come with: merges.txt beside the file, or bytes by its metadata; NULL when
// there is none. The caller frees it. Errors are those of ls_tokenizer_open.
LsStatus ls_weights_tokenizer(const LsWeights *weights, LsTokenizer **out);

// Whether a table of `rows` rows serves a vocabulary: it has a row for each token, and behind them at most
// the padding that makes them a multiple of 64 or 128.
bool ls_weights_vocabulary_fits(size_t rows, size_t vocabulary);

// Finds every parameter's tensor; the table is lent until the close. LS_CHECKPOINT names a tensor that is
// missing, unknown or of another shape. Of tables with more rows than the model has, the first ones count:
// positions in any number, tokens as above; a log line says so. Masks are passed over, and an output head is
// when it equals the token table.
LsStatus ls_weights_match(LsWeights *weights, const LsParameters *parameters);

// Reads blocks [first, first + count) of the flat buffer, padding as zeros; after ls_weights_match.
LsStatus ls_weights_read(LsWeights *weights, size_t first, size_t count, float *out);

// Writes the checkpoint's parameters to a file. metadata: an object of texts, lent.
typedef struct LsWeightsExport {
    const LsCheckpoint *checkpoint;
    const LsParameters *parameters;
    LsDtype type;  // F32, F16 or BF16
    bool averaged; // of its averaged weights where it has them
    const json_t *metadata;
} LsWeightsExport;
LsStatus ls_weights_export(const LsWeightsExport *options, const char *path);

// ---- A run of weights (weights_run.c) -------------------------------------------------------------------

// What becomes the checkpoint of step 0 of a run that has not trained yet.
typedef struct LsWeightsRun {
    const LsParameters *parameters;
    float *values; // all of them, flat; not changed
    const LsConfig *config;
    const json_t *schema; // of the data that the model is for; NULL: none
} LsWeightsRun;

// Makes the directory and the checkpoint, whose path is returned. LS_USAGE when it has checkpoints already;
// other errors are those of a claim and a save. One rank.
LsStatus ls_weights_make_run(
    const LsWeightsRun *run, const char *directory, LsComm *comm, char path[LS_PATH_MAX]);

// ---- config.json (weights_config.c) ---------------------------------------------------------------------

// What transformers needs to build the model. end_of_text: the token's id. NULL when memory is short.
json_t *ls_weights_config(const LsGptSizes *sizes, LsDtype type, uint32_t end_of_text);

// Checks that the configuration describes a GPT-2 of these sizes and sets sizes->heads. LS_CHECKPOINT names
// the member; `name` stands for the file.
LsStatus ls_weights_check_config(const json_t *config, const char *name, LsGptSizes *sizes);

#endif
