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

// Files that are decoded when their rows are wanted: a directory may hold more than memory does.
struct LsRowsImages {
    LsImageSources sources;
    LsImageForm form;
    LsImageBytes file; // the one that is being decoded
};

void ls_rows_free_images(struct LsRowsImages *images)
{
    if (images == NULL)
        return;
    ls_image_sources_free(&images->sources);
    free(images->file.data);
    free(images);
}

static LsStatus list(const json_t *schema, const char *path, LsRows *rows)
{
    LS_TRY(ls_memory_allocate(sizeof *rows->images, (void **)&rows->images));
    LsImageSources *sources = &rows->images->sources;
    LsImageForm *form = &rows->images->form;
    LS_TRY(form_of(schema, path, form));
    rows->row_bytes = form->height * form->width * form->channels;
    LS_TRY(ls_image_sources_find(path, sources));
    if (sources->ignored > 0)
        ls_warn("%s: %zu files are no images by their names", path, sources->ignored);
    LS_TRY(ls_memory_allocate(sources->count * sizeof *rows->names, (void **)&rows->names));
    for (size_t r = 0; r < sources->count; r++)
        rows->names[r] = sources->source[r].name;
    rows->rows = sources->count;
    return LS_OK;
}

LsStatus ls_rows_list_images(const json_t *schema, const char *path, LsRows *out)
{
    LsRows rows = {0};
    LsStatus status = list(schema, path, &rows);
    if (status != LS_OK) {
        ls_rows_free(&rows);
        return status;
    }
    *out = rows;
    return LS_OK;
}

LsStatus ls_rows_fetch_images(const LsRows *rows, size_t first, size_t count, uint8_t *x)
{
    struct LsRowsImages *images = rows->images;
    for (size_t r = first; r < first + count; r++, x += rows->row_bytes) {
        const LsImageSource *source = &images->sources.source[r];
        uint64_t size;
        LS_TRY(ls_image_source_read(source, &images->file, &size));
        LS_TRY(ls_image_make(images->file.data, size, source->name, &images->form, x));
    }
    return LS_OK;
}

static LsStatus copy_records(const LsCifar *file, const char *path, LsRows *rows)
{
    size_t bytes;
    if (!ls_size_multiply(file->count, LS_CIFAR_BYTES, &bytes))
        return LS_FAIL(LS_BAD_DATA, "%s: %zu images are too many for one prediction", path, file->count);
    LS_TRY(ls_memory_allocate(bytes, &rows->x));
    LS_TRY(ls_memory_allocate(file->count * sizeof *rows->lines, (void **)&rows->lines));
    rows->rows = file->count;
    rows->row_bytes = LS_CIFAR_BYTES;
    for (size_t r = 0; r < file->count; r++) {
        rows->lines[r] = r + 1;
        ls_cifar_record(file, r, false, (uint8_t *)rows->x + r * LS_CIFAR_BYTES);
    }
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
        status = copy_records(&file, path, &rows);
    free(data);
    if (status != LS_OK) {
        ls_rows_free(&rows);
        return status;
    }
    *out = rows;
    return LS_OK;
}
