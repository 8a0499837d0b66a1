#include "image.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

LsStatus ls_image_bytes_reserve(LsImageBytes *bytes, size_t size, const char *name)
{
    if (size > bytes->capacity) {
        uint8_t *grown = realloc(bytes->data, size);
        if (grown == NULL)
            return LS_FAIL(LS_INTERNAL, "%s: no memory for %zu bytes", name, size);
        bytes->data = grown;
        bytes->capacity = size;
    }
    bytes->size = size;
    return LS_OK;
}

LsStatus ls_image_check(const char *name, size_t height, size_t width, size_t channels, size_t wanted)
{
    size_t pixels;
    if (height == 0 || width == 0 || !ls_size_multiply(height, width, &pixels) ||
        pixels > LS_IMAGE_PIXELS_MAX)
        return LS_FAIL(LS_BAD_DATA, "%s: the image declares %zu x %zu pixels; there may be 1 to %d of them",
            name, width, height, LS_IMAGE_PIXELS_MAX);
    if (channels > wanted)
        return LS_FAIL(LS_BAD_DATA, "%s: the image has %zu channels, %zu is wanted", name, channels, wanted);
    return LS_OK;
}

LsStatus ls_image_allocate(const char *name, size_t height, size_t width, size_t values, uint8_t **out)
{
    uint8_t *memory = malloc(height * width * values); // the limits keep the product small
    if (memory == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: no memory for %zu x %zu pixels", name, width, height);
    *out = memory;
    return LS_OK;
}

void ls_image_spread(const uint8_t *grey, size_t pixels, uint8_t *out)
{
    for (size_t i = 0; i < pixels; i++)
        out[3 * i] = out[3 * i + 1] = out[3 * i + 2] = grey[i];
}

static bool is_jpeg(const uint8_t *data, size_t size)
{
    static const uint8_t magic[3] = {0xff, 0xd8, 0xff};
    return size >= sizeof magic && memcmp(data, magic, sizeof magic) == 0;
}

static bool is_png(const uint8_t *data, size_t size)
{
    static const uint8_t magic[LS_IMAGE_MAGIC] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    return size >= sizeof magic && memcmp(data, magic, sizeof magic) == 0;
}

bool ls_image_recognize(const uint8_t *data, size_t size)
{
    return is_jpeg(data, size) || is_png(data, size);
}

LsStatus ls_image_decode(const uint8_t *data, size_t size, const char *name, size_t channels, LsImage *out)
{
    if (size == 0)
        return LS_FAIL(LS_BAD_DATA, "%s: the file is empty", name);
    if (size > LS_IMAGE_FILE_MAX)
        return LS_FAIL(
            LS_BAD_DATA, "%s: the file has %zu bytes, more than %d", name, size, LS_IMAGE_FILE_MAX);
    if (is_jpeg(data, size))
        return ls_jpeg_decode(data, size, name, channels, out);
    if (is_png(data, size))
        return ls_png_decode(data, size, name, channels, out);
    return LS_FAIL(LS_BAD_DATA, "%s: the file begins neither as JPEG nor as PNG does", name);
}

LsStatus ls_image_make(
    const uint8_t *data, size_t size, const char *name, const LsImageForm *form, uint8_t *out)
{
    LsImage image = {0};
    LS_TRY(ls_image_decode(data, size, name, form->channels, &image));
    LsStatus status = ls_image_resize(&image, form->height, form->width, out);
    free(image.pixels);
    return status;
}
