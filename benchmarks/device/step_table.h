// The table of a step: its ops by what they cost, against what bounds each.
#ifndef LOCKSTEP_BENCH_STEP_TABLE_H
#define LOCKSTEP_BENCH_STEP_TABLE_H

#include <jansson.h>

#include "op_work.h"

// What the machine does at most.
typedef struct Peaks {
    double bandwidth; // bytes/s that a large copy reads and writes
    double flops;     // FLOP/s of a large product
} Peaks;

// Calls of one op in one shape.
typedef struct StepRow {
    OpWork work; // of all its calls
    size_t calls;
    double seconds; // of all its calls, 0 when nothing was timed
    double bound;   // seconds that the peaks allow
    bool products;  // its arithmetic bounds it, not its bytes
} StepRow;

typedef struct StepTable {
    StepRow *row; // the longest first
    size_t count;
    StepRow total;
} StepTable;

// `seconds` is [calls], or NULL when nothing was timed: then rows are sorted by their bounds.
LsStatus step_table_make(
    const OpWork *call, size_t calls, const double *seconds, const Peaks *peaks, StepTable *out);
void step_table_free(StepTable *table);

void step_table_print(const StepTable *table);
json_t *step_table_json(const StepTable *table); // NULL: no memory

#endif
