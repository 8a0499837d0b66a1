// Creates a data set file, for the importers (docs/data.md describes the format).
//
// The rows go to a temporary file beside the final one, which takes its name only in ls_writer_commit: after
// a failure, a full disk or a kill the old file, or none, is there. One thread.
//
//     LsWriter *writer = NULL;
//     LS_TRY(ls_writer_begin(path, &shape, &writer));
//     LsStatus status = ls_writer_append(writer, LS_TRAIN, x, y, rows); // as often as needed, splits in any
//     order if (status == LS_OK)
//         status = ls_writer_commit(writer, schema);
//     ls_writer_destroy(writer); // removes the temporary file unless it was committed
#ifndef LOCKSTEP_DATA_WRITER_H
#define LOCKSTEP_DATA_WRITER_H

#include "data/dataset.h"

// What must be known before the first row.
typedef struct LsWriterShape {
    LsColumnType feature_type; // LS_COLUMN_U8 or LS_COLUMN_F32
    size_t feature_shape[4];
    int feature_dimensions; // 1 to 4
    bool classes;           // y is int32 classes; else float32 targets
    size_t outputs;         // classes, or targets of a row
    size_t samples[LS_SPLITS];
    size_t vocabulary; // not 0: tokens. Then feature_type is LS_COLUMN_U16 or LS_COLUMN_U32, samples are
                       // tokens, and of the rest only `compress` counts
    bool compress;     // x in deflated chunks
    bool files;        // each row has the hash of the file that it was made of
    bool encoded;      // images are kept as their files' bytes: u8, not compressed, with `files`
    uint64_t encoded_bytes[LS_SPLITS]; // how many these are
} LsWriterShape;

typedef struct LsWriter LsWriter;

// LS_IO when the file cannot be created or the disk has no room for it (the space is reserved here, so that a
// full disk shows before the work is done); LS_BAD_DATA for a shape that overflows or has no training rows.
LsStatus ls_writer_begin(const char *path, const LsWriterShape *shape, LsWriter **out);

// Appends rows to a split: x [rows][features] of the feature type, y [rows] int32 or [rows][outputs] float32;
// of tokens, x [rows] tokens and y NULL. Both are checked: a class outside [0, outputs), a token beyond the
// vocabulary, a NaN or an infinity is LS_BAD_DATA. LS_IO.
LsStatus ls_writer_append(LsWriter *writer, LsSplit split, const void *x, const void *y, size_t rows);

// The same of one encoded image, `size` bytes of its file, and its label or targets. What cannot be decoded
// to the shape is found when it is read.
LsStatus ls_writer_append_encoded(
    LsWriter *writer, LsSplit split, const uint8_t *image, size_t size, const void *y);

// Appends the hashes of as many files of a split; of every row, when the shape says so.
LsStatus ls_writer_append_files(LsWriter *writer, LsSplit split, const LsHash128 *hashes, size_t count);

// Ends the file, makes it durable and gives it its name. `schema` is the importer's part of the schema (the
// keys of import_common.h); the writer adds its own keys (format, feature_type, feature_shape, encoded,
// outputs, splits, root_hash; of tokens format, kind, token_type, vocabulary, splits, root_hash) to the
// object. Every split must be complete.
LsStatus ls_writer_commit(LsWriter *writer, json_t *schema);

// Frees; removes the temporary file unless it was committed. Accepts NULL.
void ls_writer_destroy(LsWriter *writer);

#endif
