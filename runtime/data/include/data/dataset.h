// A data set on disk: one HDF5 file, read by offset.
//
// File (docs/data.md has all of it):
//   /train/x, /train/y, /validation/x, …, /test/y   rows of features, rows of labels or targets
//   /train/x.hashes, …   [blocks][16]: XXH3-128 of every 1 MiB of values
//   /train/x.chunks      [chunks] {offset, bytes, hash}: where the deflated chunks of x lie, if it is
//   compressed /schema              scalar string: JSON with shapes, statistics, counts, import, and hashes
// x is uint8 or float32 [samples][features…]; y is int32 [samples] (classes) or float32 [samples][outputs].
// Encoded images have /train/encoded, … instead of x: their files' bytes, one after the other, and
// /train/offsets, uint64 [samples + 1]; they are decoded when read. A token data set has /train/tokens, …
// instead: uint16 or uint32 [tokens], one after the other, which are read as windows. Everything is
// little-endian and contiguous but a compressed x. The schema holds a hash of every array of block hashes,
// and the root hash is that of the schema: it stands for every value, whether compressed or not.
#ifndef LOCKSTEP_DATA_DATASET_H
#define LOCKSTEP_DATA_DATASET_H

#include "base/hash.h"
#include "base/json.h"
#include "base/status.h"

typedef struct LsDataset LsDataset;

typedef enum LsSplit { LS_TRAIN, LS_VALIDATION, LS_TEST, LS_SPLITS } LsSplit;

const char *ls_split_name(LsSplit split); // "train", "validation", "test"

typedef enum LsColumnType {
    LS_COLUMN_U8,
    LS_COLUMN_F32,
    LS_COLUMN_I32,
    LS_COLUMN_U16, // tokens only
    LS_COLUMN_U32  // tokens only
} LsColumnType;

// What every reader of a split needs to know.
typedef struct LsDatasetInfo {
    size_t features; // values of one sample (product of its shape)
    size_t feature_shape[4];
    int feature_dimensions;
    LsColumnType feature_type; // U8 or F32; of tokens as they are stored: U16 or U32
    bool encoded;              // images are stored as JPEG or PNG; features are those of decoded ones
    bool classes;              // labels are int32 classes
    size_t outputs;            // classes, or regression outputs
    size_t samples[LS_SPLITS]; // 0: no such split
    // Tokens: samples are windows of `window` tokens, x and y are int32 [count][window], and y[i] is the
    // token behind x[i]. Features, outputs, shift and scale mean nothing then.
    size_t window, vocabulary;         // 0: no tokens; window and samples are 0 before ls_dataset_set_window
    size_t token_counts[LS_SPLITS];    // of tokens: 0: no such split
    double bytes_per_token[LS_SPLITS]; // of the text, 0: not known
    // inputs[i] = (x[i] - shift[i mod period]) * scale[i mod period]. The period is 1 (one value for all),
    // the last dimension of the shape (channels), or the number of features. Owned by the data set.
    size_t period;
    const float *shift, *scale; // [period]
    char root_hash[LS_HASH128_TEXT];
    const json_t *schema; // owned by the data set
} LsDatasetInfo;

// Opens and checks schema, structure and bounds (not the values: ls_dataset_verify does). Takes as long for a
// large file as for a small one. Labels, and then features, of up to 256 MiB are kept in memory once read.
// LS_NO_INPUT, LS_IO, or LS_BAD_DATA with what is wrong.
LsStatus ls_dataset_open(const char *path, LsDataset **out);
void ls_dataset_close(LsDataset *dataset);

// The data set that a schema describes, without its file: it has an info and no rows, and serves whoever
// predicts from a checkpoint. `name` stands for the path in messages. LS_BAD_DATA.
LsStatus ls_dataset_describe(const json_t *schema, const char *name, LsDataset **out);

// The schema of tokens without data, for a model that came from elsewhere. tokenizer: NULL where it is not
// known. The caller frees *schema; its root hash is that of nothing else than this vocabulary and tokenizer.
typedef struct LsTokenizer LsTokenizer;
LsStatus ls_dataset_describe_tokens(size_t vocabulary, const LsTokenizer *tokenizer, json_t **schema);

// Whether the tokenizers of two schemas give the same tokens the same numbers. Where one of both is not
// known, nothing speaks against it: true.
bool ls_dataset_same_tokens(const json_t *schema, const json_t *other);
const LsDatasetInfo *ls_dataset_info(const LsDataset *dataset);
const char *ls_dataset_path(const LsDataset *dataset);

// Makes a token data set one of windows: sample i of a split is inputs tokens[i × window … i × window +
// window) and labels the tokens that follow each, so that a split of n tokens has (n - 1) / window samples;
// the training split has ls_stream_windows of them (data/loader.h). Before readers and loaders are made.
// LS_BAD_DATA when there are no tokens, or a split is shorter than a window and the token after it.
LsStatus ls_dataset_set_window(LsDataset *dataset, size_t window);

// Leaves of every split the rows of one partition, as if there were no others; "" leaves all. `where` is
// "column == 'value'", a quote in the value written twice, a column that is no plain word in double quotes.
// Before readers and loaders are made. LS_CONFIG for another text, and for a column or value that the data
// lack.
LsStatus ls_dataset_select(LsDataset *dataset, const char *where);

// The tokenizer that made the tokens, from the schema; the caller frees it. LS_BAD_DATA when there is none
// (tokens imported without one), or it is damaged.
LsStatus ls_dataset_tokenizer(const LsDataset *dataset, LsTokenizer **out);

// A reader has the scratch memory that one thread needs (the last chunk inflated). Any number of readers may
// read one data set at the same time; they end before it is closed. LS_BAD_DATA when there is no such split.
typedef struct LsReader LsReader;
LsStatus ls_reader_create(const LsDataset *dataset, LsSplit split, LsReader **out);
void ls_reader_destroy(LsReader *reader);

// Reads `count` samples of the split by index into x [count][features] (feature_type) and y [count] int32 or
// [count][outputs] float32; of tokens, x and y are int32 [count][window]. x (but of tokens) or y may be NULL.
// Checks labels against the classes, tokens against the vocabulary and floats for NaN and infinity:
// LS_BAD_DATA names file, split and sample. Values that are kept in memory or compressed are compared with
// their hashes when they are first read, encoded images whenever they are.
LsStatus ls_reader_read(LsReader *reader, const uint64_t *samples, size_t count, void *x, void *y);

// Of tokens: the windows that begin at the given ones instead of at multiples of the window.
LsStatus ls_reader_read_windows(LsReader *reader, const uint64_t *firsts, size_t count, void *x, void *y);

// Reads everything: block hashes, chunk hashes, root hash, label range, NaN. LS_BAD_DATA at the first
// difference.
LsStatus ls_dataset_verify(const LsDataset *dataset);

// What decides the pixels of encoded images besides the data: names the JPEG decoder by a hash of what it
// makes of a picture, for the fingerprint of a machine. "" of other data. LS_INTERNAL.
enum { LS_DECODER_TEXT = 32 };
LsStatus ls_dataset_decoder(const LsDataset *dataset, char text[LS_DECODER_TEXT]);

// Prints shapes, classes with counts, means, deviations and missing values of each column, hashes and source
// for people.
LsStatus ls_dataset_inspect(const LsDataset *dataset, FILE *out);

// Name and version of the HDF5 library, for people. Not thread-safe.
const char *ls_dataset_library_version(void);

#endif
