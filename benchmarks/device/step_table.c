#include "step_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static void add(StepRow *row, const OpWork *work, double seconds, double bound)
{
    row->calls++;
    row->work.bytes += work->bytes;
    row->work.flops += work->flops;
    row->seconds += seconds;
    row->bound += bound;
}

static StepRow *row_of(StepTable *table, const OpWork *work)
{
    for (size_t r = 0; r < table->count; r++)
        if (strcmp(table->row[r].work.name, work->name) == 0)
            return &table->row[r];
    StepRow *row = &table->row[table->count++];
    memcpy(row->work.name, work->name, sizeof row->work.name);
    return row;
}

static int longest_first(const void *a, const void *b)
{
    const StepRow *x = a, *y = b;
    double first = x->seconds > 0 ? x->seconds : x->bound, second = y->seconds > 0 ? y->seconds : y->bound;
    return (first < second) - (first > second);
}

LsStatus step_table_make(
    const OpWork *call, size_t calls, const double *seconds, const Peaks *peaks, StepTable *out)
{
    StepTable table = {.total.work.name = "all ops"};
    LS_TRY(ls_memory_allocate((calls + 1) * sizeof *table.row, (void **)&table.row));
    for (size_t i = 0; i < calls; i++) {
        double memory = call[i].bytes / peaks->bandwidth, products = call[i].flops / peaks->flops;
        double bound = larger(memory, products), time = seconds ? seconds[i] : 0;
        StepRow *row = row_of(&table, &call[i]);
        row->products = products > memory;
        add(row, &call[i], time, bound);
        add(&table.total, &call[i], time, bound);
    }
    qsort(table.row, table.count, sizeof *table.row, longest_first);
    *out = table;
    return LS_OK;
}

void step_table_free(StepTable *table)
{
    free(table->row);
    *table = (StepTable){0};
}

// ---- Output ---------------------------------------------------------------------------------------------

static void print_row(const StepRow *row, const StepTable *table, const char *bound_by)
{
    printf("%-84s %6zu", row->work.name, row->calls);
    if (table->total.seconds > 0)
        printf(" %10.3f %5.1f", row->seconds * 1e3, 100 * row->seconds / table->total.seconds);
    printf(" %9.3f %10.1f", row->work.bytes * 1e-9, row->work.flops * 1e-9);
    if (table->total.seconds > 0)
        printf(" %8.1f %9.1f", row->work.bytes / row->seconds * 1e-9, row->work.flops / row->seconds * 1e-9);
    printf("  %-8s %10.3f", bound_by, row->bound * 1e3);
    if (table->total.seconds > 0)
        printf(" %6.2f", row->bound / row->seconds);
    putchar('\n');
}

void step_table_print(const StepTable *table)
{
    bool timed = table->total.seconds > 0;
    printf("%-84s %6s%s %9s %10s%s  %-8s %10s%s\n", "op", "calls", timed ? "         ms     %" : "", "GB",
        "GFLOP", timed ? "     GB/s   GFLOP/s" : "", "bound by", "bound ms", timed ? "  ratio" : "");
    for (size_t r = 0; r < table->count; r++)
        print_row(&table->row[r], table, table->row[r].products ? "products" : "memory");
    print_row(&table->total, table, "");
}

static json_t *row_json(const StepRow *row)
{
    return json_pack("{s:s, s:I, s:o, s:o, s:o, s:o, s:s}", "op", row->work.name, "calls",
        (json_int_t)row->calls, "seconds", ls_json_number(row->seconds), "bytes",
        ls_json_number(row->work.bytes), "flops", ls_json_number(row->work.flops), "bound_seconds",
        ls_json_number(row->bound), "bound_by", row->products ? "products" : "memory");
}

json_t *step_table_json(const StepTable *table)
{
    json_t *rows = json_array();
    for (size_t r = 0; r < table->count; r++)
        if (json_array_append_new(rows, row_json(&table->row[r])) != 0) {
            json_decref(rows);
            return NULL;
        }
    return rows;
}
