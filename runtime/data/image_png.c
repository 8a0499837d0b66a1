// PNG through libpng's simplified interface, which returns its failures instead of jumping out of them. It
// keeps libpng's own limits: 1,000,000 pixels a side, 8 MB for what a chunk inflates to.
#include <png.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

// Leaves the last of `values` values of every pixel out, in place.
static void strip_last(uint8_t *pixels, size_t count, size_t values)
{
    for (size_t i = 0; i < count; i++)
        memmove(pixels + i * (values - 1), pixels + i * values, values - 1);
}

// Asked for with transparency where there is some, since libpng would otherwise lay the image on a
// background.
static LsStatus decode_pixels(png_image *png, const char *name, size_t channels, LsImage *image)
{
    bool colour = png->format & PNG_FORMAT_FLAG_COLOR, alpha = png->format & PNG_FORMAT_FLAG_ALPHA;
    size_t values = colour ? 3 : 1, pixels = image->height * image->width;
    png->format = (colour ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY) | (alpha ? PNG_FORMAT_FLAG_ALPHA : 0);
    png->flags |= PNG_IMAGE_FLAG_16BIT_sRGB; // 16 bits a value, as 8, are not taken for linear
    LS_TRY(ls_image_allocate(name, image->height, image->width, values + alpha, &image->pixels));
    if (!png_image_finish_read(png, NULL, image->pixels, 0, NULL))
        return LS_FAIL(LS_BAD_DATA, "%s: PNG: %s", name, png->message);
    if (alpha)
        strip_last(image->pixels, pixels, values + 1);
    if (values == channels)
        return LS_OK;
    uint8_t *grey = image->pixels;
    image->pixels = NULL;
    LsStatus status = ls_image_allocate(name, image->height, image->width, channels, &image->pixels);
    if (status == LS_OK)
        ls_image_spread(grey, pixels, image->pixels);
    free(grey);
    return status;
}

// The file without the chunks that say which colours its values mean (PNG specification, 11.3.2), since
// libpng would convert the values by them: a sample is what is stored, as with any other loader. The rest,
// broken or not, stays as it is. out [size], *left bytes of it are used.
static void drop_colour_spaces(const uint8_t *data, size_t size, uint8_t *out, size_t *left)
{
    static const char dropped[][5] = {"gAMA", "cHRM", "sRGB", "iCCP", "cICP"};
    enum { SIGNATURE = 8, AROUND = 12 }; // a chunk: its length, its type, its data, a checksum
    size_t at = size < SIGNATURE ? size : SIGNATURE, used = at;
    memcpy(out, data, at);
    while (size - at >= AROUND) {
        const uint8_t *chunk = data + at;
        size_t bytes = (size_t)chunk[0] << 24 | (size_t)chunk[1] << 16 | (size_t)chunk[2] << 8 | chunk[3];
        bool drop = false;
        if (bytes > size - at - AROUND)
            break;
        for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++)
            drop = drop || memcmp(chunk + 4, dropped[i], 4) == 0;
        if (!drop)
            memcpy(out + used, chunk, bytes + AROUND);
        used += drop ? 0 : bytes + AROUND;
        at += bytes + AROUND;
    }
    memcpy(out + used, data + at, size - at);
    *left = used + size - at;
}

LsStatus ls_png_decode(const uint8_t *data, size_t size, const char *name, size_t channels, LsImage *out)
{
    png_image png = {.version = PNG_IMAGE_VERSION};
    LsImage image = {.channels = channels};
    uint8_t *plain = malloc(size + 1);
    if (plain == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: no memory for %zu bytes", name, size);
    drop_colour_spaces(data, size, plain, &size);
    LsStatus status = LS_OK;
    if (!png_image_begin_read_from_memory(&png, plain, size))
        status = LS_FAIL(LS_BAD_DATA, "%s: PNG: %s", name, png.message);
    if (status == LS_OK)
        status =
            ls_image_check(name, png.height, png.width, png.format & PNG_FORMAT_FLAG_COLOR ? 3 : 1, channels);
    if (status == LS_OK) {
        image.height = png.height;
        image.width = png.width;
        status = decode_pixels(&png, name, channels, &image);
    }
    png_image_free(&png);
    free(plain);
    if (status != LS_OK) {
        free(image.pixels);
        return status;
    }
    *out = image;
    return LS_OK;
}
