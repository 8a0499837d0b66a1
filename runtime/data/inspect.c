// What a data set holds, for people: all of it from the schema, so it is as fast for a large file as for a
// small.
#include <inttypes.h>
#include <stdlib.h>

#include "dataset_format.h"

enum { CLASSES_SHOWN = 100 };

static void print_number(FILE *out, const json_t *value, int width)
{
    if (json_is_integer(value))
        fprintf(out, " %*" JSON_INTEGER_FORMAT, width, json_integer_value(value));
    else if (json_is_number(value))
        fprintf(out, " %*.6g", width, json_number_value(value));
    else
        fprintf(out, " %*s", width, "-");
}

// Text from a file, without what a terminal would obey.
static void print_text(FILE *out, const json_t *value, int width)
{
    const char *text = json_string_value(value);
    int printed = 0;
    for (const unsigned char *c = (const unsigned char *)(text == NULL ? "-" : text); *c != '\0'; c++) {
        fputc(*c < 0x20 || *c == 0x7f ? '?' : *c, out);
        printed += (*c & 0xc0) != 0x80; // a UTF-8 character counts once
    }
    fprintf(out, "%*s", printed < width ? width - printed : 0, "");
}

static void print_statistic(FILE *out, const char *name, const json_t *value)
{
    fprintf(out, " %s", name);
    if (json_is_number(value))
        print_number(out, value, 0);
    for (size_t i = 0; i < json_array_size(value); i++)
        print_number(out, json_array_get(value, i), 0);
}

// One mean and deviation, or one for each channel.
static void print_values(const json_t *schema, FILE *out)
{
    const json_t *mean = json_object_get(schema, "mean"), *deviation = json_object_get(schema, "deviation");
    if (mean == NULL || deviation == NULL)
        return;
    fprintf(out, "values     ");
    print_statistic(out, "mean", mean);
    fputc(',', out);
    print_statistic(out, "deviation", deviation);
    fprintf(out, " (training split)\n");
}

static const char *layout_of(const LsDataset *dataset)
{
    if (dataset->info.encoded)
        return "decoded when read";
    return dataset->x[LS_TRAIN].chunk_rows > 0 ? "in deflated chunks" : "contiguous";
}

// How much the files of encoded images take, and a file in the mean.
static void print_encoded(const LsDataset *dataset, FILE *out)
{
    uint64_t bytes = 0, images = 0;
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        bytes += dataset->x[split].rows;
        images += dataset->info.samples[split];
    }
    fprintf(
        out, "encoded     %" PRIu64 " bytes of JPEG and PNG, %" PRIu64 " an image\n", bytes, bytes / images);
}

static void print_shapes(const LsDataset *dataset, FILE *out)
{
    const LsDatasetInfo *info = &dataset->info;
    fprintf(out, "features    ");
    for (int i = 0; i < info->feature_dimensions; i++)
        fprintf(out, "%s%zu", i == 0 ? "" : " x ", info->feature_shape[i]);
    fprintf(out, " %s, %s\n", info->feature_type == LS_COLUMN_U8 ? "uint8" : "float32", layout_of(dataset));
    if (info->encoded)
        print_encoded(dataset, out);
    fprintf(out, "labels      %zu %s\n", info->outputs,
        info->classes ? (info->outputs == 1 ? "class" : "classes")
                      : (info->outputs == 1 ? "target" : "targets"));
    fprintf(out, "samples    ");
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        if (info->samples[split] > 0)
            fprintf(out, " %s %zu", ls_split_name(split), info->samples[split]);
    fputc('\n', out);
    print_values(info->schema, out);
    if (json_object_get(info->schema, "dropped") != NULL) {
        fprintf(out, "dropped    ");
        print_number(out, json_object_get(info->schema, "dropped"), 0);
        fprintf(out, " rows with missing values\n");
    }
}

static void print_classes(const LsDataset *dataset, FILE *out)
{
    const LsDatasetInfo *info = &dataset->info;
    if (!info->classes)
        return;
    const json_t *names = json_object_get(info->schema, "classes");
    fprintf(out, "\n%-16s", "class");
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        if (info->samples[split] > 0)
            fprintf(out, " %12s", ls_split_name(split));
    fputc('\n', out);
    for (size_t i = 0; i < info->outputs && i < CLASSES_SHOWN; i++) {
        print_text(out, json_array_get(names, i), 16);
        for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
            if (info->samples[split] > 0)
                fprintf(out, " %12" PRIu64, dataset->counts[split][i]);
        fputc('\n', out);
    }
    if (info->outputs > CLASSES_SHOWN)
        fprintf(out, "and %zu more\n", info->outputs - CLASSES_SHOWN);
}

static void print_columns(const LsDataset *dataset, FILE *out)
{
    const json_t *columns = json_object_get(dataset->schema, "columns"), *column;
    if (json_array_size(columns) == 0)
        return;
    fprintf(out, "\n%-24s %-12s %10s %12s %12s %10s\n", "column", "role", "missing", "mean", "deviation",
        "categories");
    size_t i;
    json_array_foreach(columns, i, column)
    {
        print_text(out, json_object_get(column, "name"), 24);
        fputc(' ', out);
        print_text(out, json_object_get(column, "role"), 12);
        print_number(out, json_object_get(column, "missing"), 10);
        print_number(out, json_object_get(column, "mean"), 12);
        print_number(out, json_object_get(column, "deviation"), 12);
        const json_t *categories = json_object_get(column, "categories");
        if (categories != NULL)
            fprintf(out, " %10zu", json_array_size(categories));
        else
            fprintf(out, " %10s", "-");
        fputc('\n', out);
    }
}

static void print_source(const LsDataset *dataset, FILE *out)
{
    const json_t *import = json_object_get(dataset->schema, "import"), *input;
    fprintf(out, "\nroot hash   %s\nimport key  ", dataset->info.root_hash);
    print_text(out, json_object_get(import, "key"), 0);
    size_t i;
    json_array_foreach(json_object_get(import, "inputs"), i, input)
    {
        fprintf(out, "\ninput       ");
        print_text(out, json_object_get(input, "name"), 0);
        fprintf(out, ",");
        print_number(out, json_object_get(input, "bytes"), 0);
        fprintf(out, " bytes, sha256 ");
        print_text(out, json_object_get(input, "sha256"), 0);
    }
    char *options = ls_json_line(json_object_get(import, "options"));
    fprintf(out, "\noptions     %s\n", options == NULL ? "-" : options);
    free(options);
}

static void print_tokens(const LsDataset *dataset, FILE *out)
{
    const LsDatasetInfo *info = &dataset->info;
    const json_t *tokenizer = json_object_get(info->schema, "tokenizer");
    fprintf(out, "tokens      %s, %s\n", info->feature_type == LS_COLUMN_U16 ? "uint16" : "uint32",
        layout_of(dataset));
    fprintf(out, "vocabulary  %zu, tokenizer ", info->vocabulary);
    print_text(out, json_object_get(tokenizer, "kind"), 0);
    fprintf(out, "\ndocuments  ");
    print_number(out, json_object_get(info->schema, "documents"), 0);
    fprintf(out, "\n\n%-16s %16s %16s\n", "split", "tokens", "bytes per token");
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        if (info->token_counts[split] > 0)
            fprintf(out, "%-16s %16zu %16.4g\n", ls_split_name(split), info->token_counts[split],
                info->bytes_per_token[split]);
}

LsStatus ls_dataset_inspect(const LsDataset *dataset, FILE *out)
{
    fprintf(out, "%s\nkind        ", dataset->path);
    print_text(out, json_object_get(dataset->schema, "kind"), 0);
    fputc('\n', out);
    if (ls_dataset_tokens(&dataset->info)) {
        print_tokens(dataset, out);
    } else {
        print_shapes(dataset, out);
        print_classes(dataset, out);
        print_columns(dataset, out);
    }
    print_source(dataset, out);
    if (ferror(out))
        return LS_FAIL(LS_IO, "cannot print what %s holds", dataset->path);
    return LS_OK;
}
