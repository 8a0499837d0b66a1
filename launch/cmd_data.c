// lockstep data import idx|csv | inspect | verify
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "data/dataset.h"
#include "data/import.h"

// ---- Import ---------------------------------------------------------------------------------------------

typedef struct ImportWords {
    LsImportOptions options;
    const char *missing, *delimiter;
    bool no_header;
    int64_t seed;
    int inputs;
} ImportWords;

static LsStatus check_fractions(const LsImportOptions *options)
{
    double held_out = options->validation + options->test;
    if (!(options->validation >= 0 && options->test >= 0 && held_out < 1))
        return LS_FAIL(
            LS_USAGE, "data import: --validation and --test are fractions that leave something to train on");
    return LS_OK;
}

static LsStatus read_missing_policy(const char *text, LsMissingPolicy *out)
{
    static const char *const names[] = {
        [LS_MISSING_ERROR] = "error", [LS_MISSING_DROP] = "drop", [LS_MISSING_FILL] = "fill"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (LsMissingPolicy)i;
            return LS_OK;
        }
    return LS_FAIL(LS_USAGE, "data import: --missing takes error, drop or fill, not \"%s\"", text);
}

static LsStatus read_delimiter(const char *text, char *out)
{
    if (strcmp(text, "\\t") == 0 || strcmp(text, "tab") == 0)
        text = "\t";
    if (strlen(text) != 1 || text[0] == '"' || text[0] == '\n' || text[0] == '\r')
        return LS_FAIL(LS_USAGE, "data import: --delimiter takes one character, or tab");
    *out = text[0];
    return LS_OK;
}

static LsStatus read_import(const char *command, bool csv, int argc, char **argv, ImportWords *words)
{
    LsImportOptions *options = &words->options;
    // The flags after --compress are those of CSV; for IDX the list ends there.
    const LsFlag flags[] = {
        {.name = "output", .letter = 'o', .text = &options->output},
        {.name = "seed", .integer = &words->seed},
        {.name = "validation", .real = &options->validation},
        {.name = "force", .set = &options->force},
        {.name = "compress", .set = &options->compress},
        {.name = csv ? "test" : NULL, .real = &options->test},
        {.name = "label", .text = &options->label},
        {.name = "regression", .set = &options->regression},
        {.name = "numeric", .text = &options->numeric},
        {.name = "categorical", .text = &options->categorical},
        {.name = "ignore", .text = &options->ignore},
        {.name = "delimiter", .text = &words->delimiter},
        {.name = "no-header", .set = &words->no_header},
        {.name = "missing", .text = &words->missing},
        {.name = "missing-values", .text = &options->missing_values},
        {0},
    };
    LS_TRY(ls_flags_read(command, flags, argc, argv, &words->inputs));
    LS_TRY(ls_words_check(command, words->inputs, 1, 1 << 20));
    if (!options->output)
        return LS_FAIL(LS_USAGE, "%s: -o OUT.h5 is missing (see lockstep %s --help)", command, command);
    if (words->seed < 0)
        return LS_FAIL(LS_USAGE, "%s: --seed takes a number from 0", command);
    options->seed = (uint64_t)words->seed;
    options->header = !words->no_header;
    LS_TRY(check_fractions(options));
    if (words->missing)
        LS_TRY(read_missing_policy(words->missing, &options->missing));
    return words->delimiter ? read_delimiter(words->delimiter, &options->delimiter) : LS_OK;
}

static LsStatus import(const char *command, bool csv, int argc, char **argv)
{
    ImportWords words = {0};
    bool unchanged = false;
    ls_import_defaults(&words.options);
    words.seed = (int64_t)words.options.seed;
    LS_TRY(read_import(command, csv, argc, argv, &words));
    const char *const *inputs = (const char *const *)(argv + 1);
    if (csv)
        LS_TRY(ls_import_csv(inputs, (size_t)words.inputs, &words.options, &unchanged));
    else
        LS_TRY(ls_import_idx(inputs, (size_t)words.inputs, &words.options, &unchanged));
    LsDataset *dataset = NULL;
    LS_TRY(ls_dataset_open(words.options.output, &dataset));
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    printf("%s: %s, %zu training, %zu validation and %zu test samples of %zu values\n", words.options.output,
        unchanged ? "unchanged" : "imported", info->samples[LS_TRAIN], info->samples[LS_VALIDATION],
        info->samples[LS_TEST], info->features);
    ls_dataset_close(dataset);
    return LS_OK;
}

static LsStatus import_idx(LsComm *comm, int argc, char **argv)
{
    (void)comm;
    return import("data import idx", false, argc, argv);
}

static LsStatus import_csv(LsComm *comm, int argc, char **argv)
{
    (void)comm;
    return import("data import csv", true, argc, argv);
}

// ---- Looking at a data set ------------------------------------------------------------------------------

static LsStatus open_word(const char *command, int argc, char **argv, LsDataset **out)
{
    static const LsFlag none[] = {{0}};
    int words = 0;
    LS_TRY(ls_flags_read(command, none, argc, argv, &words));
    LS_TRY(ls_words_check(command, words, 1, 1));
    return ls_dataset_open(argv[1], out);
}

static LsStatus inspect(LsComm *comm, int argc, char **argv)
{
    (void)comm;
    LsDataset *dataset = NULL;
    LS_TRY(open_word("data inspect", argc, argv, &dataset));
    LsStatus status = ls_dataset_inspect(dataset, stdout);
    ls_dataset_close(dataset);
    return status;
}

static LsStatus verify(LsComm *comm, int argc, char **argv)
{
    (void)comm;
    LsDataset *dataset = NULL;
    LS_TRY(open_word("data verify", argc, argv, &dataset));
    LsStatus status = ls_dataset_verify(dataset);
    if (status == LS_OK)
        printf("%s: hashes, labels and values are as they should be\n", argv[1]);
    ls_dataset_close(dataset);
    return status;
}

// ---- The tables -----------------------------------------------------------------------------------------

#define COMMON_HELP                                                                                          \
    "  -o, --output FILE      the data set to write; replaced atomically, and left alone when it already\n"  \
    "                         holds this import\n"                                                           \
    "  --validation FRACTION  part of the training rows held out, stratified by class\n"                     \
    "  --seed N               of the split\n"                                                                \
    "  --compress             deflate; h5py reads it as well\n"                                              \
    "  --force                import even when nothing changed\n"

static const LsCommand importers[] = {
    {.name = "idx",
        .summary = "images and labels in the IDX format of MNIST, plain or .gz",
        .help = "usage: lockstep data import idx FILE... -o OUT.h5 [options]\n"
                "\n"
                "Images and labels are recognised by their dimensions and paired by their number; a pair "
                "with t10k or test in\n"
                "its names is the test split.\n\n" COMMON_HELP,
        .run = import_idx},
    {.name = "csv",
        .summary = "tables (RFC 4180), plain or .gz",
        .help =
            "usage: lockstep data import csv FILE... -o OUT.h5 --label COLUMN [options]\n"
            "\n"
            "Files with the same columns are joined. Numeric columns are standardised, categorical ones "
            "become one value a\n"
            "category, both learnt from the training rows only and kept in the file for "
            "predictions.\n\n" COMMON_HELP
            "  --test FRACTION        part of the rows for the test split, stratified by class\n"
            "  --label COLUMN         what is to be predicted: a name, or a number from 0 without a header\n"
            "  --regression           the label is a number, not a class\n"
            "  --numeric A,B          columns with numbers; columns named nowhere are recognised\n"
            "  --categorical A,B      columns with categories\n"
            "  --ignore A,B           columns to leave out\n"
            "  --delimiter C          default a comma\n"
            "  --no-header            the first line is data; columns are called 0, 1, …\n"
            "  --missing POLICY       error (default), drop the row, or fill: numbers with the mean, "
            "categories with one\n"
            "                         of their own\n"
            "  --missing-values A,B   texts that mean missing, besides the empty field\n",
        .run = import_csv},
    {0},
};

static const LsCommand children[] = {
    {.name = "import",
        .summary = "make a data set from files",
        .help = "usage: lockstep data import idx|csv INPUT... -o OUT.h5 [options]\n",
        .children = importers},
    {.name = "inspect",
        .summary = "shapes, classes, counts, means, missing values",
        .help = "usage: lockstep data inspect FILE\n",
        .run = inspect},
    {.name = "verify",
        .summary = "check hashes, ranges, NaN and labels; exit code 65 if something is wrong",
        .help = "usage: lockstep data verify FILE\n",
        .run = verify},
    {0},
};

const LsCommand ls_command_data = {.name = "data",
    .summary = "import, inspect and verify data sets",
    .help = "usage: lockstep data import idx|csv | inspect FILE | verify FILE\n",
    .children = children};
