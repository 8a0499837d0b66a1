#include "rows_images.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "image_pool.h"
#include "import_cifar.h"

enum { CIFAR_FILE_MAX = 1 << 30 };

LsStatus ls_rows_recognize_image(const char *path, bool *image)
{
    uint8_t head[LS_IMAGE_MAGIC];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return ls_file_fail("open", path);
    ssize_t got = pread(fd, head, sizeof head, 0);
    close(fd);
    *image = got > 0 && ls_image_recognize(head, (size_t)got); // what cannot be read is for others to report
    return LS_OK;
}

// What samples are; LS_BAD_DATA when they are no images of bytes.
static LsStatus form_of(const json_t *schema, const char *path, LsImageForm *out)
{
    const json_t *shape = json_object_get(schema, "feature_shape");
    const char *type = json_string_value(json_object_get(schema, "feature_type"));
    size_t dimensions = json_array_size(shape);
    LsImageForm form = {
        .height = (size_t)json_integer_value(json_array_get(shape, 0)),
        .width = (size_t)json_integer_value(json_array_get(shape, 1)),
        .channels = dimensions == 2 ? 1 : (size_t)json_integer_value(json_array_get(shape, 2)),
    };
    bool images = type && strcmp(type, "u8") == 0 && (dimensions == 2 || dimensions == 3) &&
                  (form.channels == 1 || form.channels == 3) && form.height > 0 && form.width > 0;
    if (!images)
        return LS_FAIL(LS_BAD_DATA,
            "%s: the training data's samples are no grey or RGB images of bytes, which an image file could "
            "become",
            path);
    *out = form;
    return LS_OK;
}

// Memory of `rows` rows of `bytes`, numbered from 1.
static LsStatus make_rows(const char *path, size_t rows, size_t bytes, LsRows *out)
{
    size_t size;
    if (!ls_size_multiply(rows, bytes, &size))
        return LS_FAIL(
            LS_BAD_DATA, "%s: %zu images of %zu bytes are too many for one prediction", path, rows, bytes);
    LS_TRY(ls_memory_allocate(size, &out->x));
    LS_TRY(ls_memory_allocate(rows * sizeof *out->lines, (void **)&out->lines));
    for (size_t r = 0; r < rows; r++)
        out->lines[r] = r + 1;
    out->rows = rows;
    return LS_OK;
}

static LsStatus decode_all(LsImageSources *sources, const LsImageForm *form, const char *path, LsRows *rows)
{
    size_t bytes = form->height * form->width * form->channels;
    LS_TRY(make_rows(path, sources->count, bytes, rows));
    LS_TRY(ls_memory_allocate(sources->count * sizeof *rows->names, (void **)&rows->names));
    LsImageBytes file = {0};
    LsStatus status = LS_OK;
    for (size_t r = 0; status == LS_OK && r < rows->rows; r++) {
        LsImageSource *source = &sources->source[r];
        uint64_t size;
        status = ls_image_source_read(source, &file, &size);
        if (status == LS_OK)
            status = ls_image_make(file.data, size, source->name, form, (uint8_t *)rows->x + r * bytes);
        rows->names[r] = source->name;
        source->name = NULL;
    }
    free(file.data);
    return status;
}

LsStatus ls_rows_read_images(const json_t *schema, const char *path, LsRows *out)
{
    LsImageForm form;
    LsImageSources sources;
    LsRows rows = {0};
    LS_TRY(form_of(schema, path, &form));
    LS_TRY(ls_image_sources_find(path, &sources));
    if (sources.ignored > 0)
        ls_warn("%s: %zu files are no images by their names", path, sources.ignored);
    LsStatus status = decode_all(&sources, &form, path, &rows);
    ls_image_sources_free(&sources);
    if (status != LS_OK) {
        ls_rows_free(&rows);
        return status;
    }
    *out = rows;
    return LS_OK;
}

LsStatus ls_rows_read_cifar(const char *path, LsRows *out)
{
    char *data = NULL;
    size_t size = 0;
    LsCifar file;
    LsRows rows = {0};
    LS_TRY(ls_file_read(path, CIFAR_FILE_MAX, &data, &size));
    LsStatus status = ls_cifar_parse((const uint8_t *)data, size, path, &file);
    if (status == LS_OK)
        status = make_rows(path, file.count, LS_CIFAR_BYTES, &rows);
    for (size_t r = 0; status == LS_OK && r < file.count; r++)
        ls_cifar_record(&file, r, false, (uint8_t *)rows.x + r * LS_CIFAR_BYTES);
    free(data);
    if (status != LS_OK) {
        ls_rows_free(&rows);
        return status;
    }
    *out = rows;
    return LS_OK;
}
