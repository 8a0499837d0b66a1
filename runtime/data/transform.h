// The way from a CSV cell to a feature: what was learnt from the training split, and its application.
//
// A numeric column becomes one feature, (value - mean) / deviation in float64 rounded to float32; a
// categorical one a feature per category of the training split, 1 for the row's own and 0 elsewhere. A
// category that the training split lacks is all zeros. With LS_MISSING_FILL a missing number becomes the
// mean, and a missing category one of its own if the training split has missing ones (else all zeros).
// Features follow the columns' order. The same code runs at import and at prediction, on the same numbers, so
// the bits are the same.
#ifndef LOCKSTEP_DATA_TRANSFORM_H
#define LOCKSTEP_DATA_TRANSFORM_H

#include "csv_table.h"
#include "data/import.h"

enum { LS_CATEGORIES_MAX = 1024 }; // of one column

typedef enum LsColumnRole {
    LS_ROLE_INFER, // from the training split: numeric if every value is a number, else categorical
    LS_ROLE_LABEL,
    LS_ROLE_NUMERIC,
    LS_ROLE_CATEGORICAL,
    LS_ROLE_IGNORE
} LsColumnRole;

typedef struct LsTextList {
    size_t count;
    char **text;
} LsTextList;

// Parses comma-separated texts (quoted as in CSV where they have commas); NULL and "" are none. `origin`
// starts the sentence of a failure, LS_CONFIG.
LsStatus ls_text_list_parse(const char *texts, const char *origin, LsTextList *out);
LsStatus ls_text_list_add(LsTextList *list, const char *text);
void ls_text_list_free(LsTextList *list);

// Position in a list sorted by strcmp, list->count if it is not there.
size_t ls_text_list_find(const LsTextList *list, const char *text);

typedef struct LsTransformColumn {
    char *name;
    LsColumnRole role;
    size_t first, features; // where the column lies in a row of features
    size_t missing;         // rows in which it was missing, all splits, dropped ones too
    // numeric
    double mean, deviation, minimum, maximum;
    // categorical, and the label of a classification: sorted
    LsTextList categories;
    bool missing_category; // a last feature for missing values
    size_t unseen;         // rows of validation and test split with a category that training lacks
} LsTransformColumn;

typedef struct LsTransform {
    LsCsvFormat format;
    LsMissingPolicy missing;
    LsTextList missing_texts;
    size_t columns; // of the input, in its order
    LsTransformColumn *column;
    size_t label; // number of the label column
    bool regression;
    size_t features; // of a row, after learning
} LsTransform;

void ls_transform_free(LsTransform *transform);

// ---- Cells ----

typedef enum LsNumber { LS_NUMBER_NONE, LS_NUMBER_FINITE, LS_NUMBER_NOT_FINITE } LsNumber;

// Decimal notation, spaces around it allowed; NOT_FINITE: NaN, infinity, or too large for float64.
LsNumber ls_number_parse(const char *text, double *out);

// Empty, only spaces, or one of the texts that mean missing.
bool ls_transform_missing(const LsTransform *transform, const char *text);

// ---- Learning (transform_learn.c) ----

// Columns, roles and policies from a table and the import's options, before anything is learnt. LS_CONFIG: no
// label, a column named twice, an unknown one (the nearest is suggested).
LsStatus ls_transform_prepare(const LsImportOptions *options, const LsCsvTable *table, LsTransform *out);

// Counts missing values; with LS_MISSING_DROP removes the rows that have one in a column that is used and
// sets *dropped, otherwise LS_BAD_DATA for a missing label, and with LS_MISSING_ERROR for any.
LsStatus ls_transform_screen(LsTransform *transform, LsCsvTable *table, size_t *dropped);

// The table of class names from all rows. Classification only.
LsStatus ls_transform_learn_classes(LsTransform *transform, const LsCsvTable *table);

// Roles left open, statistics and categories from the training rows alone.
LsStatus ls_transform_learn(LsTransform *transform, const LsCsvTable *table, const uint8_t *split);

// ---- Applying ----

// x [features] of one row. source[c] is the table's column that holds column c (unused for label and ignored
// ones). unseen[c], when not NULL, grows where column c has an unseen category. LS_BAD_DATA names file, line
// and column.
LsStatus ls_transform_row(const LsTransform *transform, const LsCsvTable *table, const size_t *source,
    size_t row, float *x, size_t *unseen);

// The class or target of one row, whose label is table column `column`.
LsStatus ls_transform_class(
    const LsTransform *transform, const LsCsvTable *table, size_t column, size_t row, int32_t *class);
LsStatus ls_transform_target(const LsCsvTable *table, size_t column, size_t row, float *target);

// ---- Schema (transform_schema.c) ----

// "error", "drop", "fill".
const char *ls_missing_policy_name(LsMissingPolicy policy);

// The keys delimiter, header, missing, columns and (classification) classes of docs/data.md; NULL when memory
// is out or a text is no UTF-8.
json_t *ls_transform_json(const LsTransform *transform);

// The transform of a data set's schema. LS_BAD_DATA when the schema is damaged.
LsStatus ls_transform_from_json(const json_t *schema, LsTransform *out);

#endif
