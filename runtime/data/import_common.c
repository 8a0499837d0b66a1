#include "import_common.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "dataset_format.h"

void ls_import_defaults(LsImportOptions *options)
{
    *options = (LsImportOptions){
        .delimiter = ',', .header = true, .missing = LS_MISSING_ERROR, .channels = 3, .corrupt_share = 0.01};
}

const char *ls_import_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

void ls_import_normalize(double mean, double variance, float *shift, float *scale)
{
    double deviation = sqrt(variance);
    *shift = (float)mean;
    *scale = deviation > 0.0 && isfinite((float)(1.0 / deviation)) ? (float)(1.0 / deviation) : 1.0f;
}

LsStatus ls_import_check(const LsImportOptions *options, const char *const *inputs, size_t count)
{
    if (options->output == NULL || options->output[0] == '\0')
        return LS_FAIL(LS_USAGE, "data import: name the output with -o OUT.h5");
    if (count == 0)
        return LS_FAIL(LS_USAGE, "data import: name at least one input file");
    double validation = options->validation, test = options->test;
    if (!(validation >= 0.0) || !(test >= 0.0) || !(validation + test < 1.0))
        return LS_FAIL(LS_USAGE,
            "data import: the fractions validation %g and test %g must be at least 0 and below 1 together",
            validation, test);
    struct stat output, input;
    if (stat(options->output, &output) != 0)
        return LS_OK;
    if (!S_ISREG(output.st_mode))
        return LS_FAIL(LS_IO, "cannot replace %s: it is no regular file", options->output);
    for (size_t i = 0; i < count; i++)
        if (stat(inputs[i], &input) == 0 && input.st_dev == output.st_dev && input.st_ino == output.st_ino)
            return LS_FAIL(LS_USAGE, "data import: the output %s is also an input; choose another name",
                options->output);
    return LS_OK;
}

static LsStatus hash_descriptor(int fd, const char *path, uint64_t *bytes, char text[LS_SHA256_TEXT])
{
    enum { PIECE = 1 << 20 };
    uint8_t *piece = malloc(PIECE);
    if (piece == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", path);
    LsSha256 *sha = ls_sha256_create();
    uint64_t total = 0;
    ssize_t got;
    while ((got = read(fd, piece, PIECE)) > 0 || (got < 0 && errno == EINTR)) {
        if (got < 0)
            continue;
        ls_sha256_update(sha, piece, (size_t)got);
        total += (uint64_t)got;
    }
    LsStatus status = got < 0 ? ls_file_fail("read", path) : LS_OK;
    ls_sha256_finish(sha, text);
    free(piece);
    *bytes = total;
    return status;
}

static LsStatus describe_input(const char *path, json_t **out)
{
    struct stat information;
    char sha256[LS_SHA256_TEXT];
    uint64_t bytes = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ls_file_fail("open", path);
    LsStatus status = LS_OK;
    // Inputs are read twice, for the hash and for the values, which a pipe does not allow.
    if (fstat(fd, &information) != 0)
        status = ls_file_fail("examine", path);
    else if (!S_ISREG(information.st_mode))
        status = LS_FAIL(LS_BAD_DATA, "%s is not a regular file", path);
    else
        status = hash_descriptor(fd, path, &bytes, sha256);
    close(fd);
    LS_TRY(status);
    json_t *name = json_string(ls_import_base_name(path));
    if (name == NULL)
        return LS_FAIL(LS_BAD_DATA, "the file name of %s is not UTF-8; rename it", path);
    *out = json_pack("{s:o, s:I, s:s}", "name", name, "bytes", (json_int_t)bytes, "sha256", sha256);
    return *out == NULL ? LS_FAIL(LS_INTERNAL, "%s: out of memory", path) : LS_OK;
}

static LsStatus make_key(
    const char *kind, const json_t *inputs, const json_t *options, char key[LS_HASH128_TEXT])
{
    json_t *all = json_pack("{s:i, s:s, s:O, s:O}", "format", LS_DATASET_FORMAT, "kind", kind, "inputs",
        inputs, "options", options);
    char *text = all == NULL ? NULL : ls_json_canonical(all);
    json_decref(all);
    if (text == NULL)
        return LS_FAIL(LS_INTERNAL, "data import: out of memory");
    ls_hash128_text(ls_hash128(text, strlen(text)), key);
    free(text);
    return LS_OK;
}

LsStatus ls_import_describe(const char *kind, json_t *inputs, json_t *options, json_t **import)
{
    char key[LS_HASH128_TEXT];
    json_t *made = NULL;
    LsStatus status = inputs == NULL || options == NULL ? LS_FAIL(LS_INTERNAL, "data import: out of memory")
                                                        : make_key(kind, inputs, options, key);
    if (status == LS_OK) {
        made = json_pack("{s:s, s:O, s:O}", "key", key, "inputs", inputs, "options", options);
        status = made == NULL ? LS_FAIL(LS_INTERNAL, "data import: out of memory") : LS_OK;
    }
    json_decref(inputs);
    json_decref(options);
    if (status == LS_OK)
        *import = made;
    return status;
}

LsStatus ls_import_source(
    const char *kind, const char *const *inputs, size_t count, json_t *options, json_t **import)
{
    json_t *described = json_array();
    LsStatus status =
        described == NULL || options == NULL ? LS_FAIL(LS_INTERNAL, "data import: out of memory") : LS_OK;
    for (size_t i = 0; status == LS_OK && i < count; i++) {
        json_t *input = NULL;
        status = describe_input(inputs[i], &input);
        if (status == LS_OK && json_array_append_new(described, input) != 0)
            status = LS_FAIL(LS_INTERNAL, "data import: out of memory");
    }
    if (status == LS_OK)
        return ls_import_describe(kind, described, options, import);
    json_decref(described);
    json_decref(options);
    return status;
}

bool ls_import_unchanged(const LsImportOptions *options, const json_t *import)
{
    LsDataset *dataset = NULL;
    if (options->force || ls_dataset_open(options->output, &dataset) != LS_OK)
        return false;
    const json_t *stored = json_object_get(json_object_get(dataset->schema, "import"), "key");
    bool same = stored != NULL && json_equal(stored, json_object_get(import, "key")) &&
                (dataset->x[LS_TRAIN].chunk_rows > 0) == options->compress;
    ls_dataset_close(dataset);
    return same;
}
