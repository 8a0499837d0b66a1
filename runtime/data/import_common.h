// What the importers share: names and hashes of their inputs, the cache, and the keys of the schema.
//
// The schema is one JSON object (docs/data.md lists every key). Set by the writer: format, feature_type,
// feature_shape, outputs, splits (samples, counts per class, hashes), root_hash. Set by every importer:
//
//   kind       "idx", "cifar", "csv" (of token data sets "tokens", with keys of its own, see token_set.h)
//   classes    array of names, one per class; absent for regression
//   uniform    true: shift and scale hold one number for all features; else one for each, or one for each
//              channel (the last dimension of the shape)
//   shift, scale   arrays: inputs = (x - shift) * scale
//   columns    csv only: array of objects in the order of the input's columns:
//              name, role ("label", "numeric", "categorical", "ignore"), missing (rows in which it was
//              missing, all splits), and for numeric mean, deviation, fill; for categorical categories (array
//              of texts); for both first_feature, features (where the column lies in x)
//   dropped    csv only: rows left out because of missing values
//   import     {key, inputs, options}, made by ls_import_source
#ifndef LOCKSTEP_DATA_IMPORT_COMMON_H
#define LOCKSTEP_DATA_IMPORT_COMMON_H

#include "data/import.h"

// Describes an import: "inputs" (base name, bytes, SHA-256 of each, in the order given), "options" (stolen:
// everything that decides the content; not `compress`, which decides only the layout) and "key", the hash of
// both and of `kind`. Reads every input once. LS_NO_INPUT, LS_IO.
LsStatus ls_import_source(
    const char *kind, const char *const *inputs, size_t count, json_t *options, json_t **import);

// The same for inputs that the importer has described itself: `inputs`, an array of such objects, and
// `options` are both stolen, also on failure.
LsStatus ls_import_describe(const char *kind, json_t *inputs, json_t *options, json_t **import);

// Is `options->output` a sound data set of exactly this import, in the layout that options->compress asks
// for? Never with options->force. An output that is missing or is no data set is not.
bool ls_import_unchanged(const LsImportOptions *options, const json_t *import);

// Refuses a missing output, inputs that are the output, and fractions outside [0, 1): LS_USAGE or LS_CONFIG.
LsStatus ls_import_check(const LsImportOptions *options, const char *const *inputs, size_t count);

// Mean and 1/deviation of a column from its count, sum and sum of squared differences from the mean; a
// deviation of zero (a constant column) gives scale 1. Rounded to float, as they are applied.
void ls_import_normalize(double mean, double variance, float *shift, float *scale);

// The last path component.
const char *ls_import_base_name(const char *path);

#endif
