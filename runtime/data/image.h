// JPEG and PNG to pixels. The bytes are anybody's: what their header declares is checked against the limits
// before anything is decoded, so that a small file cannot ask for much memory.
#ifndef LOCKSTEP_DATA_IMAGE_H
#define LOCKSTEP_DATA_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    LS_IMAGE_FILE_MAX = 256 << 20,  // bytes of a file
    LS_IMAGE_PIXELS_MAX = 64 << 20, // height × width
};

// Whether a file that begins with these bytes is JPEG or PNG; LS_IMAGE_MAGIC of them are enough.
enum { LS_IMAGE_MAGIC = 8 };
bool ls_image_recognize(const uint8_t *data, size_t size);

// What the images of a data set are.
typedef struct LsImageForm {
    size_t height, width, channels;
    bool encoded; // an import keeps them as their files are; its store has the counts of their values, as of
                  // LsPixels
} LsImageForm;

typedef struct LsImage {
    size_t height, width, channels;
    uint8_t *pixels; // [height][width][channels], freed by the caller
} LsImage;

// Memory for the bytes of an image's file, kept from one to the next; data is freed by the owner.
typedef struct LsImageBytes {
    uint8_t *data;
    size_t size, capacity;
} LsImageBytes;

// Makes room for `size` bytes, whatever there was before. LS_INTERNAL, with `name`, when memory is short.
LsStatus ls_image_bytes_reserve(LsImageBytes *bytes, size_t size, const char *name);

// Decodes an image to `channels`, 1 or 3: grey becomes colour, colour never grey. Transparency is left out,
// CMYK becomes RGB. An orientation noted beside the pixels (EXIF) is not applied. LS_BAD_DATA with `name` and
// the reason, for a decoder's warning about a JPEG as well: its pixels are not those that were encoded.
LsStatus ls_image_decode(const uint8_t *data, size_t size, const char *name, size_t channels, LsImage *out);

// The largest centred part of an image that has the wanted shape, brought to [height][width] with a triangle
// filter that is as wide as two output pixels where the image becomes smaller (antialiased), and two source
// pixels where it becomes larger. LS_INTERNAL when memory is short.
LsStatus ls_image_resize(const LsImage *image, size_t height, size_t width, uint8_t *out);

// Both: the bytes of a file to an image of a form, out [height][width][channels].
LsStatus ls_image_make(
    const uint8_t *data, size_t size, const char *name, const LsImageForm *form, uint8_t *out);

// ls_image_resize for a part of any shape, in whole pixels within the image, which is stretched where it has
// not the wanted one. The filter looks beyond its edges where there is more of the image.
typedef struct LsImagePart {
    size_t top, left, height, width;
} LsImagePart;
LsStatus ls_image_resize_part(
    const LsImage *image, const LsImagePart *part, size_t height, size_t width, uint8_t *out);

// A hash of the pixels that this machine's JPEG library makes of a picture, which is another one where its
// decoder rounds otherwise. (PNG has no two ways to be decoded.) LS_INTERNAL.
LsStatus ls_jpeg_probe(uint64_t *out);

// ---- For the decoders (image_jpeg.c, image_png.c) -------------------------------------------------------

LsStatus ls_jpeg_decode(const uint8_t *data, size_t size, const char *name, size_t channels, LsImage *out);
LsStatus ls_png_decode(const uint8_t *data, size_t size, const char *name, size_t channels, LsImage *out);

// Refuses sizes beyond the limits, and colours where one channel is wanted. `channels`: of the file.
LsStatus ls_image_check(const char *name, size_t height, size_t width, size_t channels, size_t wanted);

// Memory of `values` bytes for each pixel. LS_INTERNAL.
LsStatus ls_image_allocate(const char *name, size_t height, size_t width, size_t values, uint8_t **out);

// Grey pixels to three channels each: [pixels] of `grey` to [pixels][3] of `out`.
void ls_image_spread(const uint8_t *grey, size_t pixels, uint8_t *out);

#endif
