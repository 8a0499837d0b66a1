// JPEG through libjpeg-turbo's own interface, which returns its failures instead of jumping out of them.
#include <stdlib.h>
#include <turbojpeg.h>

#include "base/hash.h"
#include "image.h"

// One result on every processor: the accurate transform has the same bits in all of its versions. A limit for
// scans, since a progressive file of few bytes may ask for very many.
enum { FLAGS = TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS };

static LsStatus fail(const char *name, tjhandle decoder)
{
    return LS_FAIL(LS_BAD_DATA, "%s: JPEG: %s", name, tjGetErrorStr2(decoder));
}

// Ink is stored as what it leaves of the light.
static void cmyk_to_rgb(const uint8_t *from, size_t pixels, uint8_t *to)
{
    for (size_t i = 0; i < pixels; i++)
        for (size_t c = 0; c < 3; c++)
            to[3 * i + c] = (uint8_t)((from[4 * i + c] * from[4 * i + 3] + 127) / 255);
}

static LsStatus decode_pixels(tjhandle decoder, const uint8_t *data, size_t size, const char *name,
    int format, size_t values, LsImage *image)
{
    LS_TRY(ls_image_allocate(name, image->height, image->width, values, &image->pixels));
    if (tjDecompress2(
            decoder, data, size, image->pixels, (int)image->width, 0, (int)image->height, format, FLAGS) != 0)
        return fail(name, decoder);
    return LS_OK;
}

// As many values a pixel as the file has, then as many as are wanted.
static LsStatus decode_image(
    tjhandle decoder, const uint8_t *data, size_t size, const char *name, size_t channels, LsImage *image)
{
    int width, height, sampling, colours;
    if (tjDecompressHeader3(decoder, data, size, &width, &height, &sampling, &colours) != 0)
        return fail(name, decoder);
    bool grey = colours == TJCS_GRAY, ink = colours == TJCS_CMYK || colours == TJCS_YCCK;
    size_t values = grey ? 1 : ink ? 4 : 3;
    LS_TRY(ls_image_check(name, (size_t)height, (size_t)width, grey ? 1 : 3, channels));
    LsImage raw = {.height = (size_t)height, .width = (size_t)width, .channels = channels};
    LsStatus status = decode_pixels(decoder, data, size, name,
        grey  ? TJPF_GRAY
        : ink ? TJPF_CMYK
              : TJPF_RGB,
        values, &raw);
    *image = raw;
    if (status != LS_OK || values == channels)
        return status;
    LS_TRY(ls_image_allocate(name, raw.height, raw.width, channels, &image->pixels));
    if (grey)
        ls_image_spread(raw.pixels, raw.height * raw.width, image->pixels);
    else
        cmyk_to_rgb(raw.pixels, raw.height * raw.width, image->pixels);
    free(raw.pixels);
    return LS_OK;
}

LsStatus ls_jpeg_decode(const uint8_t *data, size_t size, const char *name, size_t channels, LsImage *out)
{
    LsImage image = {0};
    tjhandle decoder = tjInitDecompress();
    if (decoder == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: libjpeg-turbo cannot start: %s", name, tjGetErrorStr2(NULL));
    LsStatus status = decode_image(decoder, data, size, name, channels, &image);
    tjDestroy(decoder);
    if (status != LS_OK) {
        free(image.pixels);
        return status;
    }
    *out = image;
    return LS_OK;
}

// Colours in steps and slopes, at a fourth of the resolution and with sides that fill no whole blocks: what
// is rounded in the transform, in the enlarging of colours and in their change to RGB is all there.
LsStatus ls_jpeg_probe(uint64_t *out)
{
    enum { HEIGHT = 43, WIDTH = 61, QUALITY = 75 };
    uint8_t pixels[HEIGHT * WIDTH * 3], *file = NULL;
    unsigned long size = 0;
    LsImage image = {0};
    for (size_t i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)(i * 5 / 3 + i / WIDTH * (i % 3 + 1) + (i / 64 % 2) * 90);
    tjhandle encoder = tjInitCompress();
    bool made = encoder != NULL && tjCompress2(encoder, pixels, WIDTH, 0, HEIGHT, TJPF_RGB, &file, &size,
                                       TJSAMP_420, QUALITY, FLAGS) == 0;
    LsStatus status =
        made ? ls_jpeg_decode(file, size, "the JPEG library's test", 3, &image)
             : LS_FAIL(LS_INTERNAL, "the JPEG library cannot encode: %s", tjGetErrorStr2(encoder));
    if (status == LS_OK)
        *out = ls_hash64(image.pixels, sizeof pixels);
    free(image.pixels);
    tjFree(file);
    if (encoder != NULL)
        tjDestroy(encoder);
    return status == LS_OK ? LS_OK : ls_status_adopt(LS_INTERNAL, ls_status_message());
}
