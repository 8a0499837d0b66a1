// JPEG and PNG become the pixels that were encoded; what is cut short, too large or has too many channels is
// refused; and resizing does what a plain reference of the triangle filter does.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <png.h>
#include <turbojpeg.h>
#include <zlib.h>

#include "dataset_fixture.h"
#include "image.h"

// A smooth picture, so that JPEG changes it little.
static void paint(uint8_t *pixels, size_t height, size_t width, size_t channels)
{
    for (size_t y = 0; y < height; y++)
        for (size_t x = 0; x < width; x++)
            for (size_t c = 0; c < channels; c++)
                pixels[(y * width + x) * channels + c] = (uint8_t)(120 + 60 * sin((double)x / 9 + (double)c) +
                                                                   50 * cos((double)y / 7 - (double)c));
}

static uint8_t *encode_png(
    const uint8_t *pixels, size_t height, size_t width, png_uint_32 format, size_t *size)
{
    png_image png = {.version = PNG_IMAGE_VERSION,
        .width = (png_uint_32)width,
        .height = (png_uint_32)height,
        .format = format};
    png_alloc_size_t bytes = 0;
    assert_true(png_image_write_to_memory(&png, NULL, &bytes, 0, pixels, 0, NULL));
    uint8_t *data = malloc(bytes);
    assert_true(png_image_write_to_memory(&png, data, &bytes, 0, pixels, 0, NULL));
    *size = bytes;
    return data;
}

static uint8_t *encode_jpeg(
    const uint8_t *pixels, size_t height, size_t width, int format, int sampling, size_t *size)
{
    tjhandle encoder = tjInitCompress();
    unsigned char *made = NULL;
    unsigned long bytes = 0;
    assert_int_equal(
        tjCompress2(encoder, pixels, (int)width, 0, (int)height, format, &made, &bytes, sampling, 100, 0), 0);
    uint8_t *data = malloc(bytes);
    memcpy(data, made, bytes);
    tjFree(made);
    tjDestroy(encoder);
    *size = bytes;
    return data;
}

// ---- Decoding -------------------------------------------------------------------------------------------

// Compares channel c of the decoded image with channel from[c] of the original, within `tolerance`.
static void check_pixels(const uint8_t *data, size_t size, size_t channels, const uint8_t *original,
    size_t stride, const int from[3], int tolerance)
{
    LsImage image = {0};
    assert_ok(ls_image_decode(data, size, "input", channels, &image));
    assert_int_equal(image.channels, channels);
    for (size_t i = 0; i < image.height * image.width; i++)
        for (size_t c = 0; c < channels; c++)
            assert_true(abs((int)image.pixels[i * channels + c] -
                            (int)original[i * stride + (size_t)from[c]]) <= tolerance);
    free(image.pixels);
}

static void test_png(void **state)
{
    (void)state;
    enum { HEIGHT = 31, WIDTH = 17 };
    static const struct {
        png_uint_32 format;
        size_t values;
        bool colour;
    } formats[] = {{PNG_FORMAT_GRAY, 1, false}, {PNG_FORMAT_GA, 2, false}, {PNG_FORMAT_RGB, 3, true},
        {PNG_FORMAT_RGBA, 4, true}};
    static const int colours[3] = {0, 1, 2}, grey[3] = {0, 0, 0};
    uint8_t pixels[HEIGHT * WIDTH * 4];
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        size_t size;
        paint(pixels, HEIGHT, WIDTH, formats[i].values);
        uint8_t *data = encode_png(pixels, HEIGHT, WIDTH, formats[i].format, &size);
        check_pixels(data, size, 3, pixels, formats[i].values, formats[i].colour ? colours : grey, 0);
        LsImage image = {0};
        if (formats[i].colour)
            assert_fails(ls_image_decode(data, size, "input", 1, &image), LS_BAD_DATA,
                "input: the image has 3 channels, 1 is wanted");
        else
            check_pixels(data, size, 1, pixels, formats[i].values, grey, 0);
        for (size_t cut = 0; cut + 13 < size; cut++) // all but the chunk that ends it
            assert_fails(ls_image_decode(data, cut, "input", 3, &image), LS_BAD_DATA, "input: ");
        assert_null(image.pixels);
        free(data);
    }
}

static uint8_t *put_chunk(uint8_t *to, const char *type, const uint8_t *data, size_t size)
{
    uint8_t length[4] = {0, 0, (uint8_t)(size >> 8), (uint8_t)size};
    memcpy(to, length, 4);
    memcpy(to + 4, type, 4);
    if (size > 0)
        memcpy(to + 8, data, size);
    uint32_t sum = (uint32_t)crc32(0, to + 4, (uInt)size + 4);
    for (size_t b = 0; b < 4; b++)
        to[8 + size + b] = (uint8_t)(sum >> (24 - 8 * b));
    return to + 12 + size;
}

// A grey file that says that its values are linear light, or what is white, is read as one that says nothing.
static void test_png_colours(void **state)
{
    (void)state;
    enum { SIDE = 16 };
    static const uint8_t head[] = {0, 0, 0, SIDE, 0, 0, 0, SIDE, 8, 0, 0, 0, 0},
                         linear[] = {0, 1, 0x86, 0xA0},
                         white[32] = {0, 0, 0x7A, 0x26, 0, 0, 0x80, 0x84, 0, 0, 0xFA, 0, 0, 0, 0x80, 0xE8, 0,
                             0, 0x75, 0x30, 0, 0, 0xEA, 0x60, 0, 0, 0x3A, 0x98, 0, 0, 0x17, 0x70};
    static const int grey[3] = {0, 0, 0};
    uint8_t pixels[SIDE * SIDE], rows[SIDE * (1 + SIDE)] = {0}, packed[1024], file[2048];
    for (size_t i = 0; i < SIDE * SIDE; i++)
        rows[i / SIDE * (1 + SIDE) + 1 + i % SIDE] = pixels[i] = (uint8_t)i;
    uLongf bytes = sizeof packed;
    assert_int_equal(compress(packed, &bytes, rows, sizeof rows), Z_OK);
    memcpy(file, "\x89PNG\r\n\x1a\n", 8);
    uint8_t *end = put_chunk(file + 8, "IHDR", head, sizeof head);
    end = put_chunk(end, "gAMA", linear, sizeof linear);
    end = put_chunk(end, "cHRM", white, sizeof white);
    end = put_chunk(end, "IDAT", packed, bytes);
    end = put_chunk(end, "IEND", NULL, 0);
    check_pixels(file, (size_t)(end - file), 3, pixels, 1, grey, 0);
}

// At the best quality a value is off by rounding in two transforms and, but for grey, two changes of colours.
static void test_jpeg(void **state)
{
    (void)state;
    enum { HEIGHT = 33, WIDTH = 50, TOLERANCE = 4 };
    static const int colours[3] = {0, 1, 2}, grey[3] = {0, 0, 0};
    uint8_t pixels[HEIGHT * WIDTH * 3];
    LsImage image = {0};
    size_t size;
    paint(pixels, HEIGHT, WIDTH, 3);
    uint8_t *data = encode_jpeg(pixels, HEIGHT, WIDTH, TJPF_RGB, TJSAMP_444, &size);
    check_pixels(data, size, 3, pixels, 3, colours, TOLERANCE);
    assert_fails(ls_image_decode(data, size, "input", 1, &image), LS_BAD_DATA, "3 channels, 1 is wanted");
    for (size_t cut = 0; cut + 2 < size; cut += 1 + cut / 40)
        assert_fails(ls_image_decode(data, cut, "input", 3, &image), LS_BAD_DATA, "input: ");
    free(data);
    paint(pixels, HEIGHT, WIDTH, 1);
    data = encode_jpeg(pixels, HEIGHT, WIDTH, TJPF_GRAY, TJSAMP_GRAY, &size);
    check_pixels(data, size, 3, pixels, 1, grey, TOLERANCE);
    check_pixels(data, size, 1, pixels, 1, grey, TOLERANCE);
    free(data);
}

// Ink: no black, and as much of each colour as is missing from 200, 100, 50.
static void test_cmyk(void **state)
{
    (void)state;
    enum { SIDE = 16 };
    uint8_t ink[SIDE * SIDE * 4], light[3] = {200, 100, 50};
    for (size_t i = 0; i < SIDE * SIDE; i++) {
        memcpy(ink + 4 * i, light, 3);
        ink[4 * i + 3] = 255;
    }
    size_t size;
    uint8_t *data = encode_jpeg(ink, SIDE, SIDE, TJPF_CMYK, TJSAMP_444, &size);
    LsImage image = {0};
    assert_ok(ls_image_decode(data, size, "input", 3, &image));
    for (size_t i = 0; i < SIDE * SIDE; i++)
        for (size_t c = 0; c < 3; c++)
            assert_true(abs((int)image.pixels[3 * i + c] - light[c]) <= 4); // as above
    free(image.pixels);
    free(data);
}

// What a header declares is refused before there is memory for it.
static void test_limits(void **state)
{
    (void)state;
    uint8_t pixels[8 * 8 * 3] = {0};
    LsImage image = {0};
    size_t size;
    uint8_t *png = encode_png(pixels, 8, 8, PNG_FORMAT_RGB, &size);
    png[16] = 0, png[17] = 0, png[18] = 0x7d, png[19] = 0; // 32,000 wide
    png[20] = 0, png[21] = 0, png[22] = 0x7d, png[23] = 0; // and high
    uint32_t crc = (uint32_t)crc32(0, png + 12, 17);
    for (int i = 0; i < 4; i++)
        png[29 + i] = (uint8_t)(crc >> (24 - 8 * i));
    assert_fails(ls_image_decode(png, size, "bomb.png", 3, &image), LS_BAD_DATA,
        "bomb.png: the image declares 32000 x 32000 pixels");
    free(png);
    uint8_t *jpeg = encode_jpeg(pixels, 8, 8, TJPF_RGB, TJSAMP_444, &size);
    uint8_t *frame = memmem(jpeg, size, "\xff\xc0", 2);
    assert_non_null(frame);
    frame[5] = frame[7] = 0xfe; // 65,032 high and wide
    assert_fails(ls_image_decode(jpeg, size, "bomb.jpg", 3, &image), LS_BAD_DATA,
        "bomb.jpg: the image declares 65032 x 65032 pixels");
    assert_fails(ls_image_decode(jpeg, 0, "none", 3, &image), LS_BAD_DATA, "none: the file is empty");
    assert_fails(
        ls_image_decode((const uint8_t *)"GIF89a", 6, "gif", 3, &image), LS_BAD_DATA, "neither as JPEG");
    free(jpeg);
}

// ---- Resizing -------------------------------------------------------------------------------------------

// The weight of source pixel i for an output pixel centred at `centre`.
static double weight_at(double i, double centre, double scale)
{
    return fmax(0, 1 - fabs(i + 0.5 - centre) / fmax(scale, 1));
}

// The value around (top, left), of source pixels, where one is made of `down` × `across` of them.
static double sample_at(const LsImage *image, double top, double left, double down, double across, size_t c)
{
    double sum = 0, total = 0;
    for (size_t r = 0; r < image->height; r++)
        for (size_t k = 0; k < image->width; k++) {
            double weight = weight_at((double)r, top, down) * weight_at((double)k, left, across);
            sum += weight * image->pixels[(r * image->width + k) * image->channels + c];
            total += weight;
        }
    return sum / total;
}

static double reference(const LsImage *image, size_t height, size_t width, size_t y, size_t x, size_t c)
{
    double scale = fmin((double)image->height / (double)height, (double)image->width / (double)width);
    double top = ((double)image->height - scale * (double)height) / 2 + ((double)y + 0.5) * scale;
    double left = ((double)image->width - scale * (double)width) / 2 + ((double)x + 0.5) * scale;
    return sample_at(image, top, left, scale, scale, c);
}

static void test_resize(void **state)
{
    (void)state;
    static const size_t shapes[][4] = {{40, 60, 8, 8}, {60, 40, 16, 24}, {7, 5, 14, 10}, {1, 1, 4, 3},
        {33, 33, 32, 32}, {20, 200, 10, 10}, {5, 64, 1, 1}, {9, 9, 9, 4}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t channels = 1; channels <= 3; channels += 2) {
            size_t height = shapes[i][2], width = shapes[i][3];
            uint8_t pixels[20 * 200 * 3], out[32 * 32 * 3];
            LsImage image = {
                .height = shapes[i][0], .width = shapes[i][1], .channels = channels, .pixels = pixels};
            for (size_t p = 0; p < image.height * image.width * channels; p++)
                pixels[p] = (uint8_t)(p * 89 + p / 7 * 31);
            assert_ok(ls_image_resize(&image, height, width, out));
            // Rounded twice, to whole numbers, with weights of 14 bits.
            for (size_t p = 0; p < height * width * channels; p++)
                assert_true(fabs(out[p] - reference(&image, height, width, p / channels / width,
                                              p / channels % width, p % channels)) < 1.1);
        }
}

// Parts that become smaller, larger, both, and all of an image.
static void test_resize_part(void **state)
{
    (void)state;
    enum { ROWS = 37, COLUMNS = 50 };
    static const LsImagePart parts[] = {
        {0, 0, ROWS, COLUMNS}, {3, 11, 30, 22}, {20, 40, 3, 5}, {0, 25, ROWS, 4}, {36, 49, 1, 1}};
    uint8_t pixels[ROWS * COLUMNS * 3], out[13 * 9 * 3];
    LsImage image = {.height = ROWS, .width = COLUMNS, .channels = 3, .pixels = pixels};
    for (size_t p = 0; p < sizeof pixels; p++)
        pixels[p] = (uint8_t)(p * 89 + p / 7 * 31);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const LsImagePart *part = &parts[i];
        double down = (double)part->height / 13, across = (double)part->width / 9;
        assert_ok(ls_image_resize_part(&image, part, 13, 9, out));
        for (size_t p = 0; p < sizeof out; p++) {
            double top = (double)part->top + ((double)(p / 27) + 0.5) * down;
            double left = (double)part->left + ((double)(p / 3 % 9) + 0.5) * across;
            assert_true(fabs(out[p] - sample_at(&image, top, left, down, across, p % 3)) < 1.1); // as above
        }
    }
    uint8_t same[13 * 9 * 3];
    LsImagePart cut = {.top = 7, .left = 21, .height = 13, .width = 9};
    assert_ok(ls_image_resize_part(&image, &cut, 13, 9, same)); // of the size already: untouched
    for (size_t r = 0; r < 13; r++)
        assert_memory_equal(same + r * 27, pixels + ((7 + r) * COLUMNS + 21) * 3, 27);
}

static void test_resize_keeps(void **state)
{
    (void)state;
    uint8_t pixels[30 * 20 * 3], out[30 * 20 * 3];
    LsImage image = {.height = 30, .width = 20, .channels = 3, .pixels = pixels};
    paint(pixels, 30, 20, 3);
    assert_ok(ls_image_resize(&image, 30, 20, out));
    assert_memory_equal(out, pixels, sizeof pixels);
    memset(pixels, 201, sizeof pixels); // weights add up to one
    assert_ok(ls_image_resize(&image, 13, 17, out));
    for (size_t i = 0; i < 13 * 17 * 3; i++)
        assert_int_equal(out[i], 201);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_png),
        cmocka_unit_test(test_png_colours),
        cmocka_unit_test(test_jpeg),
        cmocka_unit_test(test_cmyk),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_resize_part),
        cmocka_unit_test(test_resize_keeps),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
