// Directories and shards of images to a data set.
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cores.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "import_images.h"
#include "split.h"

enum { SIDE_MAX = 16384, THREADS_MAX = 1024, CLASSES_MAX = 1 << 16 };

static const char filter[] = "triangle";

// Goes up when the same file comes to give other pixels: 2, PNG as stored, without gamma and profiles.
enum { DECODING = 2 };

static LsStatus no_memory(void)
{
    return LS_FAIL(LS_INTERNAL, "data import: out of memory");
}

static LsStatus check_options(const LsImportOptions *o)
{
    if (o->height < 1 || o->height > SIDE_MAX || o->width < 1 || o->width > SIDE_MAX)
        return LS_FAIL(LS_USAGE,
            "data import: say which size images get with --size HEIGHTxWIDTH, each from 1 to %d", SIDE_MAX);
    if (o->channels != 1 && o->channels != 3)
        return LS_FAIL(LS_USAGE, "data import: --channels is %zu; images have 1 (grey) or 3", o->channels);
    if (o->height * o->width * o->channels > LS_ROW_BYTES_LIMIT / sizeof(float))
        return LS_FAIL(LS_USAGE,
            "data import: images of %zu x %zu are larger than a sample may be; %zu values are", o->height,
            o->width, LS_ROW_BYTES_LIMIT / sizeof(float));
    if (!(o->corrupt_share >= 0 && o->corrupt_share <= 1))
        return LS_FAIL(LS_USAGE, "data import: --corrupt-share %g is no share from 0 to 1", o->corrupt_share);
    if (o->partition_by && strcmp(o->partition_by, "class") != 0 && strcmp(o->partition_by, "input") != 0)
        return LS_FAIL(LS_USAGE, "data import: images are partitioned by class or by input");
    if (o->threads < 0 || o->threads > THREADS_MAX)
        return LS_FAIL(LS_USAGE, "data import: --threads takes 1 to %d", THREADS_MAX);
    return LS_OK;
}

// ---- What is there already ------------------------------------------------------------------------------

static bool same_form(const LsDataset *dataset, const LsImageForm *form)
{
    const json_t *schema = dataset->schema;
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        if (ls_dataset_has(&dataset->info, split) && dataset->files[split].row_bytes == 0)
            return false;
    const char *kind = json_string_value(json_object_get(schema, "kind"));
    const json_t *options = json_object_get(json_object_get(schema, "import"), "options");
    const char *resized = json_string_value(json_object_get(options, "filter"));
    return kind != NULL && strcmp(kind, "images") == 0 &&
           json_integer_value(json_object_get(options, "decoding")) == DECODING && resized != NULL &&
           strcmp(resized, filter) == 0 &&
           json_integer_value(json_object_get(options, "height")) == (json_int_t)form->height &&
           json_integer_value(json_object_get(options, "width")) == (json_int_t)form->width &&
           json_integer_value(json_object_get(options, "channels")) == (json_int_t)form->channels;
}

// Rows that are added need a partition as those have that are there.
static LsStatus check_partitions(const LsImportOptions *options, const LsDataset *old)
{
    const char *column =
        json_string_value(json_object_get(json_object_get(old->schema, "partitions"), "column"));
    const char *wanted = options->partition_by ? options->partition_by : "";
    if (strcmp(column ? column : "", wanted) == 0)
        return LS_OK;
    return LS_FAIL(LS_USAGE, "data import: %s has %s%s; say the same with --partition-by", options->output,
        column ? "partitions by " : "no partitions", column ? column : "");
}

// Pixels are not appended to encoded images, nor these to pixels: an output stays what it is.
static LsStatus choose_kind(LsImageImport *work, const LsDataset *old)
{
    LsImageForm *form = &work->form;
    if (work->options->append && old->info.encoded)
        form->encoded = true;
    if (form->encoded != old->info.encoded)
        return LS_FAIL(LS_USAGE,
            "data import: %s holds decoded images, to which no encoded ones can be appended; leave "
            "--keep-encoded out, or name another file",
            work->options->output);
    return LS_OK;
}

// An output that is damaged or something else is replaced, but nothing can be appended to it.
static LsStatus open_old(LsImageImport *work)
{
    const LsImportOptions *options = work->options;
    LsDataset *old = NULL;
    if (!ls_file_exists(options->output) || (options->force && !options->append))
        return LS_OK;
    LsStatus status = ls_dataset_open(options->output, &old);
    if (status == LS_OK && !same_form(old, &work->form))
        status = LS_FAIL(LS_USAGE,
            "data import: %s does not hold images of %zu x %zu with %zu channels as this version decodes "
            "them; say the same, or another file",
            options->output, work->form.height, work->form.width, work->form.channels);
    if (status == LS_OK)
        status = choose_kind(work, old);
    if (status == LS_OK) // what is damaged must not get hashes of its own
        status = ls_dataset_verify(old);
    if (status != LS_OK) {
        ls_dataset_close(old);
        return options->append ? status : LS_OK;
    }
    work->old = old;
    return options->append ? check_partitions(options, old) : LS_OK;
}

static LsStatus remember_old(LsImageImport *work)
{
    for (LsSplit split = LS_TRAIN; work->old != NULL && split < LS_SPLITS; split++) {
        if (!ls_dataset_has(&work->old->info, split))
            continue;
        LS_TRY(ls_dataset_read_files(work->old, split, &work->old_files[split]));
        LS_TRY(ls_reader_create(work->old, split, &work->old_rows[split]));
        for (uint64_t r = 0; work->old_files[split] && r < work->old->info.samples[split]; r++)
            LS_TRY(ls_image_store_add_known(work->store, work->old_files[split][r],
                LS_IMAGE_ELSEWHERE | (uint64_t)split << LS_IMAGE_ROW_BITS | r));
    }
    return LS_OK;
}

static LsStatus open_store(LsImageImport *work)
{
    char text[128];
    const LsImageForm *form = &work->form;
    snprintf(text, sizeof text, "%zu x %zu x %zu %s %d%s", form->height, form->width, form->channels, filter,
        DECODING, form->encoded ? " counts" : "");
    bool fresh = work->options->force;
    LS_TRY(ls_image_store_open(work->options->output, ls_hash128(text, strlen(text)),
        ls_image_record_bytes(form), fresh, &work->store));
    return remember_old(work);
}

// ---- Decoding -------------------------------------------------------------------------------------------

// Names what is left out, or refuses when it is too much.
static LsStatus judge_corrupt(const LsImageImport *work)
{
    size_t count = work->sources.count, corrupt = 0, first = 0;
    for (size_t i = count; i-- > 0;)
        if (work->results[i].corrupt != NULL) {
            corrupt++;
            first = i;
        }
    if ((double)corrupt > work->options->corrupt_share * (double)count + 1e-6) // 0.29 · 100 is below 29
        return LS_FAIL(LS_BAD_DATA,
            "%zu of %zu images cannot be read, more than --corrupt-share %g allows; the first: %s", corrupt,
            count, work->options->corrupt_share, work->results[first].corrupt);
    for (size_t i = 0; i < count; i++)
        if (work->results[i].corrupt != NULL)
            ls_warn("%s; the image is left out", work->results[i].corrupt);
    if (work->sources.ignored > 0)
        ls_warn("data import: %zu files are no images by their names, or lie in no class's directory",
            work->sources.ignored);
    return LS_OK;
}

static LsStatus run_pool(LsImageImport *work, bool again)
{
    int threads = work->options->threads > 0 ? work->options->threads : (int)ls_cores_usable();
    return ls_image_pool_decode(&work->sources, &work->form, threads, work->store, again, work->results);
}

// What an old data set of encoded images says of all of them is of use where all of them stay; else they are
// decoded again.
static bool old_serves(const LsImageImport *work)
{
    return !work->form.encoded || work->options->append;
}

static LsStatus decode(LsImageImport *work)
{
    work->results = calloc(work->sources.count, sizeof *work->results);
    if (work->results == NULL)
        return no_memory();
    LS_TRY(run_pool(work, false));
    size_t known = 0;
    for (size_t i = 0; i < work->sources.count; i++)
        known +=
            work->results[i].known && (old_serves(work) || !(work->results[i].place & LS_IMAGE_ELSEWHERE));
    if (known > 0)
        ls_info(
            "data import: %zu of %zu images were decoded by an import before", known, work->sources.count);
    return judge_corrupt(work);
}

// ---- Classes --------------------------------------------------------------------------------------------

static bool whole_number(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits > 0 && digits < 10 && text[digits] == '\0' && (text[0] != '0' || digits == 1);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int by_number(const void *a, const void *b)
{
    return atoi(*(const char *const *)a) - atoi(*(const char *const *)b);
}

// Sorts names and drops the repeated ones; numbers by their value, where all are.
static void order_classes(LsImageImport *work, size_t count)
{
    qsort(work->class_, count, sizeof *work->class_, by_text);
    work->numbered = true;
    for (size_t i = 0; i < count; i++)
        if (work->classes == 0 || strcmp(work->class_[work->classes - 1], work->class_[i]) != 0) {
            work->class_[work->classes++] = work->class_[i];
            work->numbered = work->numbered && whole_number(work->class_[i]);
        }
    if (work->numbered)
        qsort(work->class_, work->classes, sizeof *work->class_, by_number);
}

// Whether a source becomes a row: it is sound, and no row that stays was made of the same file.
static bool is_taken(const LsImageImport *work, size_t i)
{
    const LsImageResult *result = &work->results[i];
    return result->corrupt == NULL && !(work->options->append && (result->place & LS_IMAGE_ELSEWHERE));
}

static const json_t *old_names(const LsImageImport *work)
{
    return work->old == NULL ? NULL : json_object_get(work->old->schema, "classes");
}

static LsStatus fail_single(const LsImageImport *work, const char *name)
{
    return LS_FAIL(
        LS_BAD_DATA, "%s: every image has the class %s; a classification needs two", work->inputs[0], name);
}

static LsStatus collect_classes(LsImageImport *work)
{
    const json_t *names = work->options->append ? old_names(work) : NULL;
    size_t count = 0;
    work->class_ = calloc(work->sources.count + json_array_size(names), sizeof *work->class_);
    if (work->class_ == NULL)
        return no_memory();
    for (size_t i = 0; i < json_array_size(names); i++)
        work->class_[count++] = json_string_value(json_array_get(names, i));
    for (size_t i = 0; i < work->sources.count; i++)
        if (is_taken(work, i))
            work->class_[count++] = work->sources.source[i].class_;
    order_classes(work, count);
    if (work->classes < 2)
        return fail_single(work, work->classes ? work->class_[0] : "(none)");
    if (work->classes > CLASSES_MAX)
        return LS_FAIL(LS_BAD_DATA, "%s: there are %zu classes, more than %d", work->inputs[0], work->classes,
            CLASSES_MAX);
    return LS_OK;
}

static int32_t number_of(const LsImageImport *work, const char *name)
{
    const char **found = bsearch(
        &name, work->class_, work->classes, sizeof *work->class_, work->numbered ? by_number : by_text);
    return (int32_t)(found - work->class_);
}

static LsStatus renumber_old(LsImageImport *work)
{
    const json_t *names = old_names(work);
    if (!work->options->append || names == NULL)
        return LS_OK;
    work->old_class = calloc(json_array_size(names), sizeof *work->old_class);
    if (work->old_class == NULL)
        return no_memory();
    for (size_t i = 0; i < json_array_size(names); i++)
        work->old_class[i] = number_of(work, json_string_value(json_array_get(names, i)));
    return LS_OK;
}

// ---- Rows -----------------------------------------------------------------------------------------------

static const char *partition_of(const LsImageImport *work, const LsImageSource *source)
{
    const char *column = work->options->partition_by;
    if (column == NULL)
        return NULL;
    return strcmp(column, "class") == 0 ? source->class_ : ls_import_base_name(work->inputs[source->input]);
}

static void keep_old_rows(LsImageImport *work, LsSplit split)
{
    const char *partition = NULL;
    uint64_t end = 0; // of the partition
    for (uint64_t r = 0; r < work->old->info.samples[split]; r++) {
        if (r == end)
            partition = ls_partition_of(work->old->schema, split, r, &end);
        work->row[work->rows++] = (LsImageRow){.hash = work->old_files[split][r],
            .place = LS_IMAGE_ELSEWHERE | (uint64_t)split << LS_IMAGE_ROW_BITS | r,
            .class_ = -1,
            .split = split,
            .partition = partition};
    }
}

// Those of the old data set that stay, and then the inputs', without what is there already.
static LsStatus collect_rows(LsImageImport *work)
{
    size_t old = 0;
    for (LsSplit split = LS_TRAIN; work->old != NULL && split < LS_SPLITS; split++)
        old += work->old->info.samples[split];
    work->row = calloc(old + work->sources.count, sizeof *work->row);
    if (work->row == NULL)
        return no_memory();
    for (LsSplit split = LS_TRAIN; work->options->append && work->old != NULL && split < LS_SPLITS; split++)
        keep_old_rows(work, split);
    work->old_kept = work->rows;
    const char *last = NULL;
    int32_t number = 0;
    for (size_t i = 0; i < work->sources.count; i++) {
        const LsImageResult *result = &work->results[i];
        const LsImageSource *source = &work->sources.source[i];
        if (!is_taken(work, i))
            continue;
        if (source->class_ != last) // a class's name has one address
            number = number_of(work, source->class_);
        last = source->class_;
        work->row[work->rows++] = (LsImageRow){.hash = result->hash,
            .place = result->place,
            .source = i,
            .class_ = number,
            .split = source->split,
            .partition = partition_of(work, source)};
    }
    return LS_OK;
}

// Gives away a part of the new training rows.
static LsStatus divide(LsImageImport *work)
{
    const LsImportOptions *options = work->options;
    size_t count = work->rows - work->old_kept;
    if (work->sources.divided || count == 0)
        return LS_OK;
    int32_t *classes = malloc(count * sizeof *classes);
    uint8_t *split = malloc(count);
    LsStatus status = classes == NULL || split == NULL ? no_memory() : LS_OK;
    for (size_t i = 0; status == LS_OK && i < count; i++)
        classes[i] = work->row[work->old_kept + i].class_;
    LsSplitFractions fractions = {.validation = options->validation, .test = options->test};
    if (status == LS_OK)
        status = ls_split_assign(options->seed, fractions, classes, work->classes, count, split);
    for (size_t i = 0; status == LS_OK && i < count; i++)
        work->row[work->old_kept + i].split = (LsSplit)split[i];
    free(classes);
    free(split);
    return status;
}

// In the order of the rows, or of their partitions.
static LsStatus order_rows(LsImageImport *work)
{
    work->order = calloc(work->rows, sizeof *work->order);
    if (work->order == NULL)
        return no_memory();
    for (size_t i = 0; i < work->rows; i++)
        work->order[i] =
            (LsPartitionRow){.value = work->row[i].partition, .row = i, .split = work->row[i].split};
    if (work->options->partition_by == NULL)
        return LS_OK;
    return ls_partitions_order(work->options->partition_by, work->order, work->rows, &work->partitions);
}

// What a model cannot learn it cannot be asked for either.
static LsStatus check_trained(const LsImageImport *work)
{
    bool *trained = calloc(work->classes, sizeof *trained);
    if (trained == NULL)
        return no_memory();
    for (size_t i = 0; work->old_class != NULL && i < work->old->info.outputs; i++)
        trained[work->old_class[i]] = work->old->counts[LS_TRAIN][i] > 0;
    for (size_t i = work->old_kept; i < work->rows; i++)
        trained[work->row[i].class_] |= work->row[i].split == LS_TRAIN;
    LsStatus status = LS_OK;
    for (size_t c = 0; status == LS_OK && c < work->classes; c++)
        if (!trained[c])
            status =
                LS_FAIL(LS_BAD_DATA, "%s: class %s has no training image", work->inputs[0], work->class_[c]);
    free(trained);
    return status;
}

// ---- What the schema says of the import -----------------------------------------------------------------

// An input by its images: their hashes, classes and splits.
static json_t *describe_input(const LsImageImport *work, size_t input)
{
    LsSha256 *sha = ls_sha256_create();
    char text[LS_SHA256_TEXT];
    uint64_t bytes = 0, images = 0;
    for (size_t i = 0; i < work->sources.count; i++) {
        const LsImageSource *source = &work->sources.source[i];
        const LsImageResult *result = &work->results[i];
        if (source->input != input || result->corrupt != NULL)
            continue;
        uint8_t split = (uint8_t)source->split;
        ls_sha256_update(sha, &result->hash, sizeof result->hash);
        ls_sha256_update(sha, source->class_, strlen(source->class_) + 1);
        ls_sha256_update(sha, &split, 1);
        bytes += result->bytes;
        images++;
    }
    ls_sha256_finish(sha, text);
    return json_pack("{s:s, s:I, s:I, s:s}", "name", ls_import_base_name(work->inputs[input]), "bytes",
        (json_int_t)bytes, "images", (json_int_t)images, "sha256", text);
}

static LsStatus describe(LsImageImport *work)
{
    const LsImportOptions *o = work->options;
    const json_t *old = o->append && work->old ? json_object_get(work->old->schema, "import") : NULL;
    json_t *inputs = old ? json_copy(json_object_get(old, "inputs")) : json_array();
    for (size_t i = 0; inputs != NULL && i < work->input_count; i++)
        if (json_array_append_new(inputs, describe_input(work, i)) != 0)
            return LS_FAIL(LS_BAD_DATA, "the name of %s is not UTF-8; rename it", work->inputs[i]);
    json_t *options = json_pack("{s:o, s:f, s:f, s:I, s:I, s:I, s:s, s:i}", "seed",
        json_sprintf("%llu", (unsigned long long)o->seed), "validation", o->validation, "test", o->test,
        "height", (json_int_t)o->height, "width", (json_int_t)o->width, "channels", (json_int_t)o->channels,
        "filter", filter, "decoding", DECODING);
    if (o->partition_by && options)
        json_object_set_new(options, "partition_by", json_string(o->partition_by));
    if (work->form.encoded && options)
        json_object_set_new(options, "keep_encoded", json_true());
    return ls_import_describe("images", inputs, options, &work->import);
}

// ---- The import -----------------------------------------------------------------------------------------

// Decodes, and says what the import is; where the output holds just this, there is nothing else to do.
static LsStatus decode_all(LsImageImport *work)
{
    LS_TRY(decode(work));
    LS_TRY(describe(work));
    work->unchanged = ls_import_unchanged(work->options, work->import);
    return work->unchanged || old_serves(work) ? LS_OK : run_pool(work, true);
}

// What can be refused before anything is decoded.
static LsStatus check_sources(const LsImageImport *work)
{
    const LsImportOptions *o = work->options;
    if (work->sources.divided && (o->validation > 0 || o->test > 0))
        return LS_FAIL(LS_USAGE, "data import: the inputs have their own splits; leave out the fractions");
    const LsImageSource *source = work->sources.source;
    size_t same = 1; // a class's name has one address
    while (same < work->sources.count && source[same].class_ == source[0].class_)
        same++;
    return o->append || same < work->sources.count ? LS_OK : fail_single(work, source[0].class_);
}

// Without the slash that a directory's name may end with.
static LsStatus copy_inputs(LsImageImport *work, const char *const *inputs, size_t count)
{
    work->inputs = calloc(count, sizeof *work->inputs);
    for (; work->inputs != NULL && work->input_count < count; work->input_count++) {
        char *copy = strdup(inputs[work->input_count]);
        if (copy == NULL)
            break;
        for (size_t end = strlen(copy); end > 1 && copy[end - 1] == '/'; end--)
            copy[end - 1] = '\0';
        work->inputs[work->input_count] = copy;
    }
    return work->input_count == count ? LS_OK : no_memory();
}

static LsStatus gather(LsImageImport *work)
{
    LS_TRY(ls_image_sources_list((const char *const *)work->inputs, work->input_count, &work->sources));
    LS_TRY(check_sources(work));
    LS_TRY(open_old(work));
    if (work->form.encoded && work->options->compress)
        return LS_FAIL(LS_USAGE, "data import: encoded images do not become smaller; leave out --compress");
    LS_TRY(open_store(work));
    LS_TRY(decode_all(work));
    LS_TRY(collect_classes(work));
    LS_TRY(renumber_old(work));
    LS_TRY(collect_rows(work));
    LS_TRY(divide(work));
    LS_TRY(check_trained(work));
    return order_rows(work);
}

static LsStatus import_work(LsImageImport *work, bool *unchanged)
{
    LS_TRY(gather(work));
    bool nothing_new = work->options->append && work->old != NULL && work->rows == work->old_kept;
    bool same = nothing_new || work->unchanged;
    if (!same)
        LS_TRY(ls_image_import_write(work));
    *unchanged = same;
    return LS_OK;
}

static void release(LsImageImport *work)
{
    ls_writer_destroy(work->writer);
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        ls_reader_destroy(work->old_rows[split]);
        free(work->old_files[split]);
    }
    for (size_t i = 0; work->results != NULL && i < work->sources.count; i++)
        free(work->results[i].corrupt);
    ls_image_store_close(work->store);
    for (size_t i = 0; i < work->input_count; i++)
        free(work->inputs[i]);
    free(work->inputs);
    free(work->results);
    free(work->row);
    free(work->order);
    json_decref(work->import);
    json_decref(work->partitions);
    free(work->class_);
    free(work->old_class);
    ls_image_sources_free(&work->sources);
    ls_dataset_close(work->old); // whose schema has names of classes
}

LsStatus ls_import_images(
    const char *const *inputs, size_t count, const LsImportOptions *options, bool *unchanged)
{
    LS_TRY(check_options(options));
    LS_TRY(ls_import_check(options, inputs, count));
    LsImageImport *work = NULL;
    LS_TRY(ls_memory_allocate(sizeof *work, (void **)&work));
    work->options = options;
    work->form = (LsImageForm){.height = options->height,
        .width = options->width,
        .channels = options->channels,
        .encoded = options->keep_encoded};
    LsStatus status = copy_inputs(work, inputs, count);
    if (status == LS_OK)
        status = import_work(work, unchanged);
    release(work);
    free(work);
    return status;
}
