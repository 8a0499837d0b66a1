// Importers: files as people have them to one data set file. What was learnt from the training split (means,
// deviations, categories, filling values) is stored in the file's schema, so that whoever predicts later
// applies the same.
#ifndef LOCKSTEP_DATA_IMPORT_H
#define LOCKSTEP_DATA_IMPORT_H

#include "data/dataset.h"

typedef enum LsMissingPolicy {
    LS_MISSING_ERROR, // a missing value is LS_BAD_DATA
    LS_MISSING_DROP,  // the row is left out and counted
    LS_MISSING_FILL   // numeric: the training split's mean; categorical: a category of its own
} LsMissingPolicy;

typedef struct LsImportOptions {
    const char *output;
    uint64_t seed;            // of the split
    double validation, test;  // fractions of the rows; stratified by class
    bool force;               // import again even when the output has the same inputs and options
    bool compress;            // chunked with deflate
    const char *partition_by; // csv: a column; images: "class" or "input"; NULL: no partitions
    // csv
    const char *label; // column name (or number when there is no header)
    bool regression;   // label is a number, not a class
    const char
        *numeric; // comma-separated column names; columns named nowhere are found out from the training split
    const char *categorical;
    const char *ignore;
    char delimiter; // ','
    bool header;    // first line has names
    LsMissingPolicy missing;
    const char
        *missing_values; // comma-separated texts that mean missing besides the empty field, e.g. "NA,?"
    // cifar
    bool coarse; // of CIFAR-100's two labels; else the fine one
    // images
    size_t height, width;
    size_t channels;      // 1 or 3
    double corrupt_share; // of the images that may be unreadable
    bool append;          // to what the output holds
    bool keep_encoded;    // stores the files' bytes instead of pixels
    int threads;          // that decode; 0: as many as there are cores
    // text and tokens
    const char *tokenizer; // a file, or "bytes"; NULL: bytes for text, not known for tokens
    bool by_document;      // text: validation documents are drawn; else validation is the end of the tokens
    const char *separator; // text: the line between documents; NULL: <|endoftext|>
    size_t vocabulary;     // tokens without a tokenizer; 0: 50257, GPT-2's
    const char *const *validation_inputs; // tokens: shards of the validation split
    size_t validation_count;
} LsImportOptions;

void ls_import_defaults(LsImportOptions *options);

// *unchanged: the output already held exactly this import (same input hashes, same options) and nothing was
// written. IDX (LeCun's MNIST format, plain or gzip): files are recognised by their dimensions; images and
// labels are paired by count; a pair with "t10k" or "test" in its name becomes the test split. LS_NO_INPUT,
// LS_BAD_DATA (file, offset, what), LS_IO.
LsStatus ls_import_idx(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged);

// CIFAR-10 and CIFAR-100, binary version: files with "test" in their name become the test split. Images are
// stored as [32][32][3]. Classes are named by the file of names beside the first input, if there is one.
// LS_NO_INPUT, LS_BAD_DATA (file, offset, what), LS_IO.
LsStatus ls_import_cifar(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged);

// JPEG and PNG in directories of classes or tar shards, decoded and brought to height × width
// (image_sources.h, image.h). Images that cannot be decoded are named and left out, up to a share. With
// `append`, images of the output stay and those whose file it lacks come behind them; an output of encoded
// images stays one. With `keep_encoded`, every image is decoded as well, and what is stored of it are the
// bytes of its file. What is decoded outlives a kill. LS_NO_INPUT, LS_BAD_DATA, LS_IO.
LsStatus ls_import_images(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged);

// CSV (RFC 4180, plain or gzip), several files with the same columns are joined. LS_BAD_DATA names file, line
// and column.
LsStatus ls_import_csv(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged);

// UTF-8 files, and directories of them, as tokens: each document is followed by <|endoftext|>. LS_BAD_DATA
// for bytes that are not UTF-8 (file, offset), an empty file, and text too short to be split.
LsStatus ls_import_text(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged);

// Token shards of llm.c: int32 header[256] with magic 20240520, version 1 and the number of tokens, then
// uint16 tokens. LS_BAD_DATA (file, what) for a header that says other than the file holds.
LsStatus ls_import_tokens(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged);

// New data through the stored preprocessing: rows in the model's raw feature layout of `dataset` schema.
typedef struct LsRows {
    size_t rows, row_bytes;
    void *x; // [rows][features] of the schema's feature type; NULL: image files, which ls_rows_fetch decodes
    void *y; // labels or targets when every row has one (as in the data set), else NULL
    // [rows] of the input: where in a CSV file the row begins, or the sample's number; from 1. NULL: the rows
    // have names.
    uint64_t *lines;
    const char **names;          // [rows] paths of image files; NULL: the rows are not files
    size_t dropped;              // rows left out for missing values (LS_MISSING_DROP)
    size_t unseen;               // categories that the training split lacks; their features are all zero
    struct LsRowsImages *images; // NULL: x is there
} LsRows;

// Reads input according to `schema` (a data set's or the copy stored in a checkpoint): CSV, or of images IDX,
// JPEG and PNG files, directories of these, and CIFAR's binary files where the data set was made of such. All
// but the last are recognised by content. The label column may be missing; CSV columns are found by name in
// any order and others are ignored (without header: by position). Image files are listed, not decoded. Freed
// by ls_rows_free. LS_NO_INPUT, LS_IO, LS_BAD_DATA.
LsStatus ls_rows_read(const json_t *schema, const char *path, LsRows *out);

// Rows [first, first + count) to x [count][row_bytes]. Image files are brought to the samples' size as
// ls_import_images does: LS_NO_INPUT, LS_IO, LS_BAD_DATA for one that cannot be.
LsStatus ls_rows_fetch(const LsRows *rows, size_t first, size_t count, void *x);
void ls_rows_free(LsRows *rows);

#endif
