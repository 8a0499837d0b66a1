// Partitions: rows of a split that have one value of a partition column lie together, and the schema says
// where.
//
// The key "partitions" is {column, values: [{value, train: [first, rows], validation: …, test: …}, …]},
// values in the order of their bytes, splits without rows of a value left out.
#ifndef LOCKSTEP_DATA_PARTITIONS_H
#define LOCKSTEP_DATA_PARTITIONS_H

#include "data/dataset.h"

enum { LS_PARTITIONS_MAX = 1 << 16, LS_PARTITION_VALUE_MAX = 255 };

typedef struct LsPartitionRow {
    const char *value;
    size_t row; // the importer's number of it
    LsSplit split;
} LsPartitionRow;

// Sorts rows by value, those of a value by their number, and makes the schema's key. LS_BAD_DATA for too many
// values, and for values that are too long or no UTF-8.
LsStatus ls_partitions_order(const char *column, LsPartitionRow *rows, size_t count, json_t **out);

// Checks the key of a schema, if it is there: the ranges of a split follow each other and hold all of its
// `samples`.
bool ls_partitions_sound(const json_t *schema, const size_t samples[LS_SPLITS]);

// The value of the partition that a row lies in, lent by the schema, and the row behind it; NULL when the
// schema has none (*end is left alone).
const char *ls_partition_of(const json_t *schema, LsSplit split, uint64_t row, uint64_t *end);

#endif
