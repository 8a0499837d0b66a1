// Writes the rows of an import of images: pixels from the store or the old data set, or the bytes of the
// files.
#include <stdlib.h>
#include <string.h>

#include "encoded.h"
#include "import_images.h"

// What one row needs on its way.
typedef struct Scratch {
    uint8_t *record;    // from the store: an image, or the counts of its values
    LsImageBytes bytes; // of a file
} Scratch;

static LsStatus no_memory(void)
{
    return LS_FAIL(LS_INTERNAL, "data import: out of memory");
}

static bool is_old(const LsImageRow *row)
{
    return row->place & LS_IMAGE_ELSEWHERE;
}

static LsReader *old_reader(const LsImageImport *work, const LsImageRow *row, uint64_t *sample)
{
    *sample = row->place & (((uint64_t)1 << LS_IMAGE_ROW_BITS) - 1);
    return work->old_rows[row->place >> LS_IMAGE_ROW_BITS & 3];
}

// The class of a row, and where `image` is not NULL, its pixels from the old data set.
static LsStatus fetch_old(const LsImageImport *work, const LsImageRow *row, uint8_t *image, int32_t *class_)
{
    uint64_t sample;
    int32_t before;
    LsReader *reader = old_reader(work, row, &sample);
    LS_TRY(ls_reader_read(reader, &sample, 1, image, &before));
    *class_ = row->class_ >= 0 ? row->class_ : work->old_class[before];
    return LS_OK;
}

static LsStatus write_pixels(LsImageImport *work, const LsImageRow *row, Scratch *scratch)
{
    int32_t class_ = row->class_;
    LS_TRY(is_old(row) ? fetch_old(work, row, scratch->record, &class_)
                       : ls_image_store_read(work->store, row->place, scratch->record));
    if (row->split == LS_TRAIN)
        ls_pixels_add(&work->pixels, scratch->record, work->form.height * work->form.width);
    return ls_writer_append(work->writer, row->split, scratch->record, &class_, 1);
}

// An image that stays as it is encoded in the old data set, whose statistics are those of its schema.
static LsStatus copy_encoded(LsImageImport *work, const LsImageRow *row)
{
    uint64_t sample;
    int32_t class_;
    const LsImageBytes *bytes;
    LsReader *reader = old_reader(work, row, &sample);
    LS_TRY(fetch_old(work, row, NULL, &class_));
    LS_TRY(ls_reader_encoded(reader, sample, &bytes));
    return ls_writer_append_encoded(work->writer, row->split, bytes->data, bytes->size, &class_);
}

// The file is read again: it is the one that was decoded as long as it has its hash.
static LsStatus write_encoded(LsImageImport *work, const LsImageRow *row, Scratch *scratch)
{
    const LsImageSource *source = &work->sources.source[row->source];
    LsImageBytes *bytes = &scratch->bytes;
    uint64_t size;
    if (is_old(row))
        return copy_encoded(work, row);
    LS_TRY(ls_image_source_read(source, bytes, &size));
    if (size != bytes->size || !ls_hash128_equal(ls_hash128(bytes->data, bytes->size), row->hash))
        return LS_FAIL(LS_IO, "%s was changed while it was imported; import again", source->name);
    LS_TRY(ls_image_store_read(work->store, row->place, scratch->record));
    if (row->split == LS_TRAIN)
        ls_pixels_merge(&work->pixels, (const uint64_t(*)[256])scratch->record);
    return ls_writer_append_encoded(work->writer, row->split, bytes->data, bytes->size, &row->class_);
}

static LsStatus write_split(LsImageImport *work, LsSplit split, Scratch *scratch)
{
    for (size_t i = 0; i < work->rows; i++) {
        const LsImageRow *row = &work->row[work->order[i].row];
        if (row->split != split)
            continue;
        LS_TRY(work->form.encoded ? write_encoded(work, row, scratch) : write_pixels(work, row, scratch));
        LS_TRY(ls_writer_append_files(work->writer, split, &row->hash, 1));
    }
    return LS_OK;
}

// How many samples there are, and how many bytes of encoded ones.
static void count_rows(const LsImageImport *work, LsWriterShape *shape)
{
    for (LsSplit split = LS_TRAIN; work->old_kept > 0 && split < LS_SPLITS; split++)
        shape->encoded_bytes[split] = work->form.encoded ? work->old->x[split].rows : 0;
    for (size_t i = 0; i < work->rows; i++) {
        const LsImageRow *row = &work->row[i];
        shape->samples[row->split]++;
        if (work->form.encoded && !is_old(row))
            shape->encoded_bytes[row->split] += work->results[row->source].bytes;
    }
}

// Encoded images that stay are not decoded for their statistics again.
static LsStatus begin_statistics(LsImageImport *work)
{
    work->pixels.channels = work->form.channels;
    if (!work->form.encoded || work->old_kept == 0)
        return LS_OK;
    if (!ls_pixels_parse(json_object_get(work->old->schema, "histogram"), &work->pixels))
        return LS_FAIL(LS_BAD_DATA, "%s: the schema has no histogram of its images; import all of them again",
            work->options->output);
    return LS_OK;
}

static LsStatus write_rows(LsImageImport *work)
{
    const LsImageForm *form = &work->form;
    LsWriterShape shape = {.feature_type = LS_COLUMN_U8,
        .feature_shape = {form->height, form->width, form->channels},
        .feature_dimensions = form->channels == 1 ? 2 : 3,
        .classes = true,
        .outputs = work->classes,
        .compress = work->options->compress,
        .files = true,
        .encoded = form->encoded};
    if (form->channels == 1)
        shape.feature_shape[2] = 0;
    count_rows(work, &shape);
    Scratch scratch = {.record = malloc(ls_image_record_bytes(form))};
    LsStatus status = scratch.record == NULL ? no_memory() : begin_statistics(work);
    if (status == LS_OK)
        status = ls_writer_begin(work->options->output, &shape, &work->writer);
    for (LsSplit split = LS_TRAIN; status == LS_OK && split < LS_SPLITS; split++)
        status = write_split(work, split, &scratch);
    free(scratch.record);
    free(scratch.bytes.data);
    return status;
}

static LsStatus commit(LsImageImport *work)
{
    json_t *names = json_array();
    size_t corrupt = 0; // of all that the data set was made of
    if (work->old_kept > 0)
        corrupt = (size_t)json_integer_value(json_object_get(work->old->schema, "corrupt"));
    for (size_t i = 0; i < work->classes; i++)
        json_array_append_new(names, json_string(work->class_[i]));
    for (size_t i = 0; i < work->sources.count; i++)
        corrupt += work->results[i].corrupt != NULL;
    json_t *schema = json_pack("{s:s, s:o, s:I, s:O}", "kind", "images", "classes", names, "corrupt",
        (json_int_t)corrupt, "import", work->import);
    LsStatus status = schema == NULL ? no_memory() : ls_pixels_describe(&work->pixels, schema);
    if (status == LS_OK && work->form.encoded &&
        json_object_set_new(schema, "histogram", ls_pixels_json(&work->pixels)) != 0)
        status = no_memory();
    if (status == LS_OK && work->partitions && json_object_set(schema, "partitions", work->partitions) != 0)
        status = no_memory();
    if (status == LS_OK)
        status = ls_writer_commit(work->writer, schema);
    json_decref(schema);
    return status;
}

LsStatus ls_image_import_write(LsImageImport *work)
{
    LS_TRY(write_rows(work));
    return commit(work);
}
