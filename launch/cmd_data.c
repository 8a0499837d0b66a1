// lockstep data import idx, import cifar, import images, import csv, import text, import tokens, inspect,
// verify
#include "command.h"

#include "data/import.h"

// ---- Import ---------------------------------------------------------------------------------------------

static const char *const missing_policies[] = {
    [LS_MISSING_ERROR] = "error", [LS_MISSING_DROP] = "drop", [LS_MISSING_FILL] = "fill", NULL};

typedef LsStatus (*Importer)(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged);

static void print_tokens(const LsDatasetInfo *info)
{
    printf("%zu training, %zu validation tokens of a vocabulary of %zu\n", info->token_counts[LS_TRAIN],
        info->token_counts[LS_VALIDATION], info->vocabulary);
}

static LsStatus print_import(const char *path, bool unchanged)
{
    LsDataset *dataset = NULL;
    LS_TRY(ls_dataset_open(path, &dataset));
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    printf("%s: %s; ", path, unchanged ? "unchanged, nothing to do" : "imported");
    if (info->vocabulary > 0)
        print_tokens(info);
    else
        printf("%zu training, %zu validation and %zu test samples of %zu features\n", info->samples[LS_TRAIN],
            info->samples[LS_VALIDATION], info->samples[LS_TEST], info->features);
    ls_dataset_close(dataset);
    return LS_OK;
}

static LsStatus import(
    LsInvocation *invocation, Importer importer, const LsImportOptions *options, int64_t seed)
{
    bool unchanged = false;
    LsImportOptions seeded = *options;
    seeded.seed = (uint64_t)seed;
    if (!options->output)
        return LS_FAIL(LS_USAGE, "-o OUT.h5 is missing; see lockstep %s --help", invocation->command->name);
    const char *const *inputs = (const char *const *)invocation->inputs;
    LS_TRY(importer(inputs, (size_t)invocation->input_count, &seeded, &unchanged));
    return print_import(options->output, unchanged);
}

#define IMPORT_FLAGS(options, seed)                                                                          \
    {"output", 'o', LS_FLAG_TEXT, &(options).output, "OUT.h5",                                               \
        "Data set to write; left alone when it already holds this import.", 0, NULL},                        \
        {"validation", 0, LS_FLAG_REAL, &(options).validation, "PART",                                       \
            "Part of the rows for validation, stratified by class (default 0).", 0, NULL},                   \
        {"test", 0, LS_FLAG_REAL, &(options).test, "PART",                                                   \
            "Part of the rows for the test split, stratified by class (default 0).", 0, NULL},               \
        {"seed", 0, LS_FLAG_COUNT, &(seed), "N", "Seed of the split (default 0).", 0, NULL},                 \
        {"compress", 0, LS_FLAG_SWITCH, &(options).compress, NULL, "Stores chunks with deflate.", 0, NULL},  \
    {                                                                                                        \
        "force", 0, LS_FLAG_SWITCH, &(options).force, NULL, "Imports even when nothing has changed.", 0,     \
            NULL                                                                                             \
    }

#define PARTITION_FLAG(options, argument, help)                                                              \
    {                                                                                                        \
        "partition-by", 0, LS_FLAG_TEXT, &(options).partition_by, argument, help, 0, NULL                    \
    }

static LsStatus import_idx(LsInvocation *invocation)
{
    LsImportOptions options;
    ls_import_defaults(&options);
    int64_t seed = (int64_t)options.seed;
    const LsFlag flags[] = {IMPORT_FLAGS(options, seed)};
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 1, -1));
    return invocation->helped ? LS_OK : import(invocation, ls_import_idx, &options, seed);
}

static const char *const cifar_labels[] = {"fine", "coarse", NULL};

static LsStatus import_cifar(LsInvocation *invocation)
{
    LsImportOptions options;
    ls_import_defaults(&options);
    int64_t seed = (int64_t)options.seed;
    int labels = 0;
    const LsFlag flags[] = {
        IMPORT_FLAGS(options, seed),
        {"labels", 0, LS_FLAG_CHOICE, &labels, "WHICH",
            "Which labels of CIFAR-100: fine (default), 100 classes, or coarse, 20.", 0, cifar_labels},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 1, -1));
    options.coarse = labels == 1;
    return invocation->helped ? LS_OK : import(invocation, ls_import_cifar, &options, seed);
}

// "HEIGHTxWIDTH"; a text that is none leaves both 0, which the importer refuses.
static void read_size(const char *text, LsImportOptions *options)
{
    unsigned height, width;
    int length = 0;
    if (text && sscanf(text, "%5ux%5u%n", &height, &width, &length) == 2 && text[length] == '\0') {
        options->height = height;
        options->width = width;
    }
}

static LsStatus import_images(LsInvocation *invocation)
{
    LsImportOptions options;
    ls_import_defaults(&options);
    int64_t seed = (int64_t)options.seed, channels = (int64_t)options.channels, threads = 0;
    const char *size = NULL;
    const LsFlag flags[] = {
        IMPORT_FLAGS(options, seed),
        {"size", 0, LS_FLAG_TEXT, &size, "HxW",
            "Height and width that every image is brought to: its largest centred part of that shape, "
            "resized.",
            0, NULL},
        {"channels", 0, LS_FLAG_COUNT, &channels, "N",
            "3 (default): grey images become RGB; 1: grey images alone, others cannot be read.", 1, NULL},
        {"corrupt-share", 0, LS_FLAG_REAL, &options.corrupt_share, "PART",
            "Part of the images that may be impossible to read; they are named and left out (default 0.01).",
            0, NULL},
        {"append", 0, LS_FLAG_SWITCH, &options.append, NULL,
            "Keeps what the output holds, and adds the images whose files it has not seen.", 0, NULL},
        {"keep-encoded", 0, LS_FLAG_SWITCH, &options.keep_encoded, NULL,
            "Stores the bytes of the files instead of pixels; they are decoded whenever they are read.", 0,
            NULL},
        PARTITION_FLAG(options, "class|input",
            "Images of one class, or of one input (by its last name), lie together, for data.where."),
        {"threads", 0, LS_FLAG_COUNT, &threads, "N",
            "Images that are decoded at a time (default: as many as there are cores).", 1, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 1, -1));
    read_size(size, &options);
    options.channels = (size_t)channels;
    options.threads = (int)(threads > INT32_MAX ? INT32_MAX : threads);
    return invocation->helped ? LS_OK : import(invocation, ls_import_images, &options, seed);
}

static LsStatus import_csv(LsInvocation *invocation)
{
    LsImportOptions options;
    ls_import_defaults(&options);
    int64_t seed = (int64_t)options.seed;
    int missing = (int)options.missing;
    const LsFlag flags[] = {
        IMPORT_FLAGS(options, seed),
        {"label", 0, LS_FLAG_TEXT, &options.label, "COLUMN",
            "Column to predict: its name, or its number from 0 when there is no header.", 0, NULL},
        {"regression", 0, LS_FLAG_SWITCH, &options.regression, NULL, "The label is a number, not a class.", 0,
            NULL},
        {"numeric", 0, LS_FLAG_TEXT, &options.numeric, "A,B,…",
            "Columns of numbers; what columns named nowhere are is found out from the training split.", 0,
            NULL},
        {"categorical", 0, LS_FLAG_TEXT, &options.categorical, "A,B,…", "Columns of categories.", 0, NULL},
        {"ignore", 0, LS_FLAG_TEXT, &options.ignore, "A,B,…", "Columns to leave out.", 0, NULL},
        {"delimiter", 0, LS_FLAG_CHAR, &options.delimiter, "C",
            "What separates fields (default a comma; \\t is a tab).", 0, NULL},
        {"no-header", 0, LS_FLAG_CLEAR, &options.header, NULL,
            "The first line is data; columns are numbered from 0.", 0, NULL},
        {"missing", 0, LS_FLAG_CHOICE, &missing, "POLICY",
            "What a missing value is: error (default), drop (the row is left out), or fill (the training "
            "split's "
            "mean, or a category of its own).",
            0, missing_policies},
        PARTITION_FLAG(options, "COLUMN",
            "Rows of one value of this column lie together, for data.where; it is no feature then unless it "
            "is "
            "named as one."),
        {"missing-values", 0, LS_FLAG_TEXT, &options.missing_values, "A,B,…",
            "Texts that mean missing, besides the empty field: NA,?", 0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 1, -1));
    options.missing = (LsMissingPolicy)missing;
    return invocation->helped ? LS_OK : import(invocation, ls_import_csv, &options, seed);
}

static const char *const text_splits[] = {"tail", "document", NULL};

#define TOKEN_FLAGS(options)                                                                                 \
    {"output", 'o', LS_FLAG_TEXT, &(options).output, "OUT.h5",                                               \
        "Data set to write; left alone when it already holds this import.", 0, NULL},                        \
        {"compress", 0, LS_FLAG_SWITCH, &(options).compress, NULL, "Stores chunks with deflate.", 0, NULL},  \
    {                                                                                                        \
        "force", 0, LS_FLAG_SWITCH, &(options).force, NULL, "Imports even when nothing has changed.", 0,     \
            NULL                                                                                             \
    }

static LsStatus import_text(LsInvocation *invocation)
{
    LsImportOptions options;
    ls_import_defaults(&options);
    int64_t seed = (int64_t)options.seed;
    int split = 0;
    const LsFlag flags[] = {
        TOKEN_FLAGS(options),
        {"tokenizer", 't', LS_FLAG_TEXT, &options.tokenizer, "T",
            "Tokenizer file (of Lockstep, GPT-2 or tiktoken), or bytes (default).", 0, NULL},
        {"validation", 0, LS_FLAG_REAL, &options.validation, "PART", "Part for validation (default 0).", 0,
            NULL},
        {"split", 0, LS_FLAG_CHOICE, &split, "HOW",
            "What validation is: tail (default), the last tokens; document, documents drawn by --seed.", 0,
            text_splits},
        {"separator", 0, LS_FLAG_TEXT, &options.separator, "TEXT",
            "Line between the documents of a file (default <|endoftext|>; an empty TEXT: an empty line).", 0,
            NULL},
        {"seed", 0, LS_FLAG_COUNT, &seed, "N", "Seed of the split by document (default 0).", 0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 1, -1));
    options.by_document = split == 1;
    return invocation->helped ? LS_OK : import(invocation, ls_import_text, &options, seed);
}

static LsStatus import_tokens(LsInvocation *invocation)
{
    LsImportOptions options;
    ls_import_defaults(&options);
    LsTextList shards = {0};
    int64_t vocabulary = 0;
    const LsFlag flags[] = {
        TOKEN_FLAGS(options),
        {"validation-shards", 0, LS_FLAG_LIST, &shards, "SHARD",
            "Shard of the validation split; may be given several times.", 0, NULL},
        {"validation", 0, LS_FLAG_REAL, &options.validation, "PART",
            "Or: part of the tokens, the last ones, for validation (default 0).", 0, NULL},
        {"tokenizer", 't', LS_FLAG_TEXT, &options.tokenizer, "T",
            "Tokenizer that made the tokens, to be kept with them for bits per byte and generation.", 0,
            NULL},
        {"vocab", 0, LS_FLAG_COUNT, &vocabulary, "N",
            "Number of tokens of the vocabulary, where no tokenizer is given (default 50257, GPT-2's).", 1,
            NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 1, -1));
    options.vocabulary = (size_t)vocabulary;
    options.validation_inputs = shards.text;
    options.validation_count = shards.count;
    return invocation->helped ? LS_OK : import(invocation, ls_import_tokens, &options, 0);
}

// ---- Looking at a data set ------------------------------------------------------------------------------

static LsStatus inspect(LsInvocation *invocation)
{
    LS_TRY(ls_arguments_read(invocation, NULL, 0, 1, 1));
    if (invocation->helped)
        return LS_OK;
    LsDataset *dataset = NULL;
    LS_TRY(ls_dataset_open(invocation->inputs[0], &dataset));
    LsStatus status = ls_dataset_inspect(dataset, stdout);
    ls_dataset_close(dataset);
    return status;
}

static LsStatus verify(LsInvocation *invocation)
{
    LS_TRY(ls_arguments_read(invocation, NULL, 0, 1, 1));
    if (invocation->helped)
        return LS_OK;
    LsDataset *dataset = NULL;
    LS_TRY(ls_dataset_open(invocation->inputs[0], &dataset));
    LsStatus status = ls_dataset_verify(dataset);
    if (status == LS_OK)
        printf("%s: hashes, ranges and labels are right; root hash %s\n", invocation->inputs[0],
            ls_dataset_info(dataset)->root_hash);
    ls_dataset_close(dataset);
    return status;
}

const LsCommand ls_command_import_idx = {
    .name = "data import idx",
    .arguments = "FILE... -o OUT.h5 [options]",
    .summary = "makes a data set from images and labels in MNIST's format",
    .about = "Imports IDX files, plain or .gz. Images and labels are recognised by their dimensions and "
             "paired by\n"
             "their number; a pair with t10k or test in its names becomes the test split.",
    .run = import_idx,
};

const LsCommand ls_command_import_cifar = {
    .name = "data import cifar",
    .arguments = "FILE... -o OUT.h5 [options]",
    .summary = "makes a data set from CIFAR-10 or CIFAR-100",
    .about = "Imports files of the binary version (data_batch_1.bin, train.bin, …), which are told apart by "
             "their\n"
             "size. Files with test in their names become the test split. Classes have the names of "
             "batches.meta.txt,\n"
             "fine_label_names.txt or coarse_label_names.txt where that lies beside the first file.",
    .run = import_cifar,
};

const LsCommand ls_command_import_images = {
    .name = "data import images",
    .arguments = "INPUT... -o OUT.h5 --size HxW [options]",
    .summary = "makes a data set from JPEG and PNG images",
    .about = "Imports directories of classes (or of train, val and test with classes in them) and tar shards "
             "as\n"
             "WebDataset has them. An import that was killed goes on where it was when it is started again.",
    .run = import_images,
};

const LsCommand ls_command_import_csv = {
    .name = "data import csv",
    .arguments = "FILE... -o OUT.h5 --label COLUMN [options]",
    .summary = "makes a data set from a table",
    .about = "Imports CSV files (RFC 4180), plain or .gz; several files with the same columns are joined. "
             "Numbers are\n"
             "standardised and categories become one feature each. Means, deviations and categories come "
             "from the\n"
             "training split alone and are stored, so that predictions apply the same.",
    .run = import_csv,
};

const LsCommand ls_command_import_text = {
    .name = "data import text",
    .arguments = "INPUT... -o OUT.h5 [options]",
    .summary = "makes a data set of tokens from text",
    .about = "Imports UTF-8 files, or all files below directories, as tokens. Documents are files, or what "
             "separator\n"
             "lines leave of them; each is followed by the token <|endoftext|>.",
    .run = import_text,
};

const LsCommand ls_command_import_tokens = {
    .name = "data import tokens",
    .arguments = "SHARD... -o OUT.h5 [options]",
    .summary = "makes a data set of tokens from llm.c's shards",
    .about =
        "Imports token shards as llm.c's scripts write them: uint16 tokens behind a header of 256 numbers.",
    .run = import_tokens,
};

const LsCommand ls_command_data_inspect = {
    .name = "data inspect",
    .arguments = "FILE",
    .summary = "shows shapes, classes, counts, means and missing values of a data set",
    .about =
        "Shows shapes, classes with their counts, means, deviations and missing values of every column,\n"
        "hashes and source of a data set.",
    .run = inspect,
};

const LsCommand ls_command_data_verify = {
    .name = "data verify",
    .arguments = "FILE",
    .summary = "checks every hash, range and label of a data set",
    .about = "Reads a whole data set and checks hashes, ranges, labels and that no value is NaN.",
    .run = verify,
};
