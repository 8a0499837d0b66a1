#include "encoded.h"

#include <stdio.h>

#include "base/file.h"

enum { NAME_SIZE = LS_PATH_MAX + 64 };

static void name_row(const LsDataset *dataset, LsSplit split, uint64_t row, char name[NAME_SIZE])
{
    snprintf(
        name, NAME_SIZE, "%s: %s sample %llu", dataset->path, ls_split_name(split), (unsigned long long)row);
}

LsStatus ls_encoded_read(const LsDataset *dataset, LsSplit split, uint64_t row, LsImageBytes *out)
{
    const LsStored *x = &dataset->x[split], *offsets = &dataset->offsets[split],
                   *files = &dataset->files[split];
    char name[NAME_SIZE];
    uint64_t place[2];
    LsHash128 hash;
    name_row(dataset, split, row, name);
    LS_TRY(ls_file_read_at(
        dataset->fd, dataset->path, place, sizeof place, offsets->offset + row * offsets->row_bytes));
    if (place[0] >= place[1] || place[1] > x->rows || place[1] - place[0] > LS_IMAGE_FILE_MAX)
        return LS_FAIL(LS_BAD_DATA, "%s lies from byte %llu to %llu of %llu; import the data again", name,
            (unsigned long long)place[0], (unsigned long long)place[1], (unsigned long long)x->rows);
    LS_TRY(ls_image_bytes_reserve(out, place[1] - place[0], name));
    LS_TRY(ls_file_read_at(dataset->fd, dataset->path, out->data, out->size, x->offset + place[0]));
    LS_TRY(ls_file_read_at(
        dataset->fd, dataset->path, &hash, sizeof hash, files->offset + row * files->row_bytes));
    if (!ls_hash128_equal(hash, ls_hash128(out->data, out->size)))
        return LS_FAIL(LS_BAD_DATA, "%s does not match the hash of its file; import the data again", name);
    return LS_OK;
}

LsStatus ls_encoded_decode(
    const LsDataset *dataset, LsSplit split, uint64_t row, LsImageBytes *scratch, LsImage *out)
{
    const LsDatasetInfo *info = &dataset->info;
    char name[NAME_SIZE];
    LS_TRY(ls_encoded_read(dataset, split, row, scratch));
    name_row(dataset, split, row, name);
    return ls_image_decode(
        scratch->data, scratch->size, name, info->feature_dimensions == 3 ? info->feature_shape[2] : 1, out);
}

LsStatus ls_dataset_decoder(const LsDataset *dataset, char text[LS_DECODER_TEXT])
{
    uint64_t hash;
    text[0] = '\0';
    if (!dataset->info.encoded)
        return LS_OK;
    LS_TRY(ls_jpeg_probe(&hash));
    snprintf(text, LS_DECODER_TEXT, "JPEG %016llx", (unsigned long long)hash);
    return LS_OK;
}
