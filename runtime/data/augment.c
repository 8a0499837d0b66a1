#include "data/augment.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "image.h"

enum { CHANNELS_MAX = 4 };

// What is drawn, each under a key of its own: LS_RNG_AUGMENT + draw, and for the image that is mixed in
// LS_RNG_AUGMENT + PARTNER + draw.
typedef enum Draw {
    DRAW_CROP,
    DRAW_FLIP,
    DRAW_SHAPE, // of the part that is enlarged
    DRAW_PLACE, // and where it lies
    DRAW_COLOUR,
    DRAW_CUTOUT,
    DRAW_MIXUP,
    DRAW_PARTNER,
    DRAWS
} Draw;
enum { PARTNER = 0x100 };

// A row or column of an enlarged image: the two that it lies between, and how far behind the first one, of
// 256.
typedef struct Between {
    uint32_t first, second, behind;
} Between;

struct LsAugmenter {
    LsAugmentation options;
    size_t height, width, channels;
    bool encoded;   // the images have another size before
    size_t targets; // values of y; 0: a class
    uint8_t fill[CHANNELS_MAX];
    LsRngKey keys[2][DRAWS]; // of the sample, of its partner
    uint8_t *image;          // as it was
    Between *column;         // [width]
};

LsAugmentation ls_augmentation_of(const LsConfig *config)
{
    return (LsAugmentation){.crop_padding = (size_t)config->data.crop_padding,
        .flip = config->data.flip,
        .resized_crop = config->data.resized_crop,
        .brightness = config->data.brightness,
        .contrast = config->data.contrast,
        .saturation = config->data.saturation,
        .cutout = (size_t)config->data.cutout,
        .mixup = config->data.mixup};
}

static const char *first_option(const LsAugmentation *augmentation)
{
    const struct {
        bool on;
        const char *name;
    } options[] = {{augmentation->crop_padding > 0, "data.crop_padding"}, {augmentation->flip, "data.flip"},
        {augmentation->resized_crop > 0, "data.resized_crop"},
        {augmentation->brightness > 0, "data.brightness"}, {augmentation->contrast > 0, "data.contrast"},
        {augmentation->saturation > 0, "data.saturation"}, {augmentation->cutout > 0, "data.cutout"},
        {augmentation->mixup > 0, "data.mixup"}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (options[i].on)
            return options[i].name;
    return NULL;
}

bool ls_augmentation_any(const LsAugmentation *augmentation)
{
    return first_option(augmentation) != NULL;
}

LsStatus ls_augmentation_check(const LsAugmentation *augmentation, const LsDatasetInfo *info)
{
    const char *option = first_option(augmentation);
    if (option == NULL)
        return LS_OK;
    int dimensions = info->feature_dimensions;
    bool images = info->vocabulary == 0 && info->feature_type == LS_COLUMN_U8 &&
                  (dimensions == 2 || (dimensions == 3 && info->feature_shape[2] <= CHANNELS_MAX));
    if (!images)
        return LS_FAIL(LS_CONFIG,
            "%s is for images of bytes, [height][width] or [height][width][up to %d channels], which the "
            "data are not; leave it out",
            option, CHANNELS_MAX);
    size_t height = info->feature_shape[0], width = info->feature_shape[1];
    if (augmentation->crop_padding >= (height < width ? height : width))
        return LS_FAIL(LS_CONFIG,
            "data.crop_padding is %zu, which leaves nothing of some images of %zu x %zu; make it smaller",
            augmentation->crop_padding, height, width);
    if (augmentation->cutout > (height < width ? height : width))
        return LS_FAIL(LS_CONFIG,
            "data.cutout is %zu, which can hide all of an image of %zu x %zu; make it smaller",
            augmentation->cutout, height, width);
    if (augmentation->crop_padding > 0 && augmentation->resized_crop > 0)
        return LS_FAIL(LS_CONFIG, "data.crop_padding and data.resized_crop both crop; set one of them to 0");
    if (augmentation->saturation > 0 && (dimensions != 3 || info->feature_shape[2] != 3))
        return LS_FAIL(
            LS_CONFIG, "data.saturation is for images of 3 channels, which the data are not; set it to 0");
    return LS_OK;
}

// The mean colour, as far as the statistics know it.
static void choose_fill(const LsDatasetInfo *info, LsAugmenter *augmenter)
{
    for (size_t c = 0; info->shift != NULL && c < augmenter->channels; c++) {
        float mean = info->shift[c % info->period];
        augmenter->fill[c] = (uint8_t)(mean < 0 ? 0 : mean > 255 ? 255 : mean + 0.5f);
    }
}

LsStatus ls_augmenter_create(
    const LsAugmentation *augmentation, const LsDatasetInfo *info, uint64_t seed, LsAugmenter **out)
{
    LS_TRY(ls_augmentation_check(augmentation, info));
    LsAugmenter *augmenter = NULL;
    LS_TRY(ls_memory_allocate(sizeof *augmenter, (void **)&augmenter));
    augmenter->options = *augmentation;
    augmenter->height = info->feature_shape[0];
    augmenter->width = info->feature_shape[1];
    augmenter->channels = info->feature_dimensions == 3 ? info->feature_shape[2] : 1;
    augmenter->encoded = info->encoded;
    augmenter->targets = info->classes ? 0 : info->outputs;
    for (uint32_t draw = 0; draw < DRAWS; draw++) {
        augmenter->keys[0][draw] = ls_rng_key(seed, LS_RNG_AUGMENT + draw);
        augmenter->keys[1][draw] = ls_rng_key(seed, LS_RNG_AUGMENT + PARTNER + draw);
    }
    choose_fill(info, augmenter);
    LsStatus status = ls_memory_allocate(info->features, (void **)&augmenter->image);
    if (status == LS_OK)
        status = ls_memory_allocate(augmenter->width * sizeof(Between), (void **)&augmenter->column);
    if (status != LS_OK) {
        ls_augmenter_destroy(augmenter);
        return status;
    }
    *out = augmenter;
    return LS_OK;
}

void ls_augmenter_destroy(LsAugmenter *augmenter)
{
    if (augmenter == NULL)
        return;
    free(augmenter->image);
    free(augmenter->column);
    free(augmenter);
}

// ---- Crop and mirror ------------------------------------------------------------------------------------

static size_t image_bytes(const LsAugmenter *augmenter)
{
    return augmenter->height * augmenter->width * augmenter->channels;
}

// to[y][x] = from[y + down][x + right], black outside.
static void move_image(
    const LsAugmenter *augmenter, ptrdiff_t down, ptrdiff_t right, const uint8_t *from, uint8_t *to)
{
    size_t channels = augmenter->channels, row_bytes = augmenter->width * channels;
    size_t skipped = (size_t)(right < 0 ? -right : right) * channels, kept = row_bytes - skipped;
    for (size_t y = 0; y < augmenter->height; y++, to += row_bytes) {
        ptrdiff_t source = (ptrdiff_t)y + down;
        if (source < 0 || source >= (ptrdiff_t)augmenter->height) {
            memset(to, 0, row_bytes);
            continue;
        }
        const uint8_t *row = from + (size_t)source * row_bytes;
        memcpy(to + (right < 0 ? skipped : 0), row + (right < 0 ? 0 : skipped), kept);
        memset(to + (right < 0 ? 0 : kept), 0, skipped);
    }
}

static void crop(LsAugmenter *augmenter, const LsRngKey *keys, uint64_t position, uint8_t *x)
{
    size_t padding = augmenter->options.crop_padding;
    if (padding == 0)
        return;
    const LsRngKey key = keys[DRAW_CROP];
    ptrdiff_t down = (ptrdiff_t)ls_rng_below(key, position, 0, 2 * padding + 1) - (ptrdiff_t)padding;
    ptrdiff_t right = (ptrdiff_t)ls_rng_below(key, position, 1, 2 * padding + 1) - (ptrdiff_t)padding;
    memcpy(augmenter->image, x, image_bytes(augmenter));
    move_image(augmenter, down, right, augmenter->image, x);
}

// The number of channels is given as a constant where it is called, so that the swap of a pixel is a few
// moves.
static inline void mirror_row(uint8_t *row, size_t width, size_t channels)
{
    for (size_t left = 0, right = width - 1; left < right; left++, right--)
        for (size_t c = 0; c < channels; c++) {
            uint8_t kept = row[left * channels + c];
            row[left * channels + c] = row[right * channels + c];
            row[right * channels + c] = kept;
        }
}

static void flip(const LsAugmenter *augmenter, const LsRngKey *keys, uint64_t position, uint8_t *x)
{
    if (!augmenter->options.flip || (ls_rng_u32(keys[DRAW_FLIP], position, 0) & 1) == 0)
        return;
    size_t width = augmenter->width, channels = augmenter->channels;
    for (size_t y = 0; y < augmenter->height; y++, x += width * channels) {
        if (channels == 1)
            mirror_row(x, width, 1);
        else if (channels == 3)
            mirror_row(x, width, 3);
        else
            mirror_row(x, width, channels);
    }
}

// ---- A part enlarged ------------------------------------------------------------------------------------

// A share of the area and a ratio of the sides, both as likely below as above their middle, until one fits.
// False, with the whole image, when none does. Roots and products alone, so that every processor finds the
// same.
static bool draw_part(
    double least, const LsRngKey *keys, uint64_t position, size_t rows, size_t columns, LsImagePart *part)
{
    enum { ATTEMPTS = 10 };
    double all = (double)rows * (double)columns;
    *part = (LsImagePart){.height = rows, .width = columns};
    for (uint64_t i = 0; i < ATTEMPTS; i++) {
        double share = least + (1 - least) * (double)ls_rng_uniform(keys[DRAW_SHAPE], position, 2 * i);
        double turn = 2 * (double)ls_rng_uniform(keys[DRAW_SHAPE], position, 2 * i + 1) - 1;
        double ratio = turn < 0 ? 1 / (1 - turn / 3) : 1 + turn / 3; // 3:4 to 4:3
        double height = floor(sqrt(share * all / ratio) + 0.5),
               width = floor(sqrt(share * all * ratio) + 0.5);
        if (height < 1 || width < 1 || height > (double)rows || width > (double)columns)
            continue;
        part->top = ls_rng_below(keys[DRAW_PLACE], position, 0, rows - (size_t)height + 1);
        part->left = ls_rng_below(keys[DRAW_PLACE], position, 1, columns - (size_t)width + 1);
        part->height = (size_t)height;
        part->width = (size_t)width;
        return true;
    }
    return false;
}

// Pixel i of `size` that show `part` ones from `first` on; the centres of both grids' ends have the same
// distance.
static Between between(size_t i, size_t size, size_t first, size_t part)
{
    int64_t at = (int64_t)((2 * i + 1) * part * 256 / (2 * size)) - 128; // in 256ths
    size_t floor = at < 0 ? 0 : (size_t)at / 256;
    return (Between){.first = (uint32_t)(first + floor),
        .second = (uint32_t)(first + (floor + 1 < part ? floor + 1 : part - 1)),
        .behind = at < 0 ? 0 : (uint32_t)at % 256};
}

static void enlarge(LsAugmenter *augmenter, const LsImagePart *part, const uint8_t *from, uint8_t *to)
{
    size_t channels = augmenter->channels, row_bytes = augmenter->width * channels;
    for (size_t x = 0; x < augmenter->width; x++)
        augmenter->column[x] = between(x, augmenter->width, part->left, part->width);
    for (size_t y = 0; y < augmenter->height; y++) {
        Between row = between(y, augmenter->height, part->top, part->height);
        const uint8_t *above = from + row.first * row_bytes, *below = from + row.second * row_bytes;
        for (size_t x = 0; x < augmenter->width; x++) {
            const Between *column = &augmenter->column[x];
            for (size_t c = 0; c < channels; c++) {
                size_t left = column->first * channels + c, right = column->second * channels + c;
                uint32_t upper = above[left] * (256 - column->behind) + above[right] * column->behind;
                uint32_t lower = below[left] * (256 - column->behind) + below[right] * column->behind;
                *to++ = (uint8_t)((upper * (256 - row.behind) + lower * row.behind + 32768) >> 16);
            }
        }
    }
}

static void resized_crop(LsAugmenter *augmenter, const LsRngKey *keys, uint64_t position, uint8_t *x)
{
    LsImagePart part;
    if (augmenter->options.resized_crop == 0 || augmenter->encoded)
        return;
    draw_part(augmenter->options.resized_crop, keys, position, augmenter->height, augmenter->width, &part);
    memcpy(augmenter->image, x, image_bytes(augmenter));
    enlarge(augmenter, &part, augmenter->image, x);
}

bool ls_augmenter_takes_parts(const LsAugmenter *augmenter)
{
    return augmenter->options.resized_crop > 0 && augmenter->encoded;
}

// Of an image so long that no part fits, the middle is taken.
LsStatus ls_augmenter_take_part(
    const LsAugmenter *augmenter, uint64_t position, bool partner, const struct LsImage *image, uint8_t *x)
{
    LsImagePart part;
    const LsRngKey *keys = augmenter->keys[partner];
    double least = augmenter->options.resized_crop;
    if (!draw_part(least, keys, position, image->height, image->width, &part))
        return ls_image_resize(image, augmenter->height, augmenter->width, x);
    return ls_image_resize_part(image, &part, augmenter->height, augmenter->width, x);
}

// ---- Colours --------------------------------------------------------------------------------------------

enum { FACTOR_BITS = 16, FACTOR_ONE = 1 << FACTOR_BITS };

// A factor from 1 - distance to 1 + distance.
static int32_t draw_factor(const LsRngKey *keys, uint64_t position, uint64_t element, double distance)
{
    double uniform = (double)ls_rng_uniform(keys[DRAW_COLOUR], position, element);
    return (int32_t)(FACTOR_ONE * (1 + distance * (2 * uniform - 1)));
}

// The point at `factor` times the distance of `value` from `middle`.
static inline uint8_t stretch(int32_t value, int32_t middle, int32_t factor)
{
    int32_t moved = middle + (((value - middle) * factor + FACTOR_ONE / 2) >> FACTOR_BITS);
    return (uint8_t)(moved < 0 ? 0 : moved > 255 ? 255 : moved);
}

// Brightness of a pixel: of colours by the weights of ITU-R BT.601 in 256ths.
static inline int32_t luma(const uint8_t *pixel, size_t channels)
{
    int32_t sum = 0;
    if (channels == 3)
        return (77 * pixel[0] + 150 * pixel[1] + 29 * pixel[2] + 128) >> 8;
    for (size_t c = 0; c < channels; c++)
        sum += pixel[c];
    return sum / (int32_t)channels;
}

static int32_t mean_luma(const LsAugmenter *augmenter, const uint8_t *x)
{
    uint64_t sum = 0, pixels = augmenter->height * augmenter->width;
    for (size_t i = 0; i < pixels; i++)
        sum += (uint64_t)luma(x + i * augmenter->channels, augmenter->channels);
    return (int32_t)((sum + pixels / 2) / pixels);
}

static void change_colours(const LsAugmenter *augmenter, const LsRngKey *keys, uint64_t position, uint8_t *x)
{
    const LsAugmentation *options = &augmenter->options;
    size_t values = image_bytes(augmenter), channels = augmenter->channels;
    int32_t factor = draw_factor(keys, position, 0, options->brightness);
    for (size_t i = 0; options->brightness > 0 && i < values; i++)
        x[i] = stretch(x[i], 0, factor);
    factor = draw_factor(keys, position, 1, options->contrast);
    int32_t mean = options->contrast > 0 ? mean_luma(augmenter, x) : 0;
    for (size_t i = 0; options->contrast > 0 && i < values; i++)
        x[i] = stretch(x[i], mean, factor);
    factor = draw_factor(keys, position, 2, options->saturation);
    for (size_t i = 0; options->saturation > 0 && i < values; i += channels) {
        int32_t grey = luma(x + i, channels);
        for (size_t c = 0; c < channels; c++)
            x[i + c] = stretch(x[i + c], grey, factor);
    }
}

// ---- Cutout ---------------------------------------------------------------------------------------------

// A square around any pixel (DeVries and Taylor 2017), as far as it lies in the image.
static void cut_out(const LsAugmenter *augmenter, const LsRngKey *keys, uint64_t position, uint8_t *x)
{
    size_t side = augmenter->options.cutout, channels = augmenter->channels;
    if (side == 0)
        return;
    size_t y = ls_rng_below(keys[DRAW_CUTOUT], position, 0, augmenter->height);
    size_t column = ls_rng_below(keys[DRAW_CUTOUT], position, 1, augmenter->width);
    size_t top = y < side / 2 ? 0 : y - side / 2, left = column < side / 2 ? 0 : column - side / 2;
    size_t bottom = y + side - side / 2, right = column + side - side / 2;
    for (size_t r = top; r < bottom && r < augmenter->height; r++)
        for (size_t c = left; c < right && c < augmenter->width; c++)
            memcpy(x + (r * augmenter->width + c) * channels, augmenter->fill, channels);
}

// ---- All of it ------------------------------------------------------------------------------------------

static void apply(LsAugmenter *augmenter, const LsRngKey *keys, uint64_t position, uint8_t *x)
{
    crop(augmenter, keys, position, x);
    resized_crop(augmenter, keys, position, x);
    flip(augmenter, keys, position, x);
    change_colours(augmenter, keys, position, x);
    cut_out(augmenter, keys, position, x);
}

void ls_augmenter_apply(LsAugmenter *augmenter, uint64_t position, uint8_t *x)
{
    apply(augmenter, augmenter->keys[0], position, x);
}

uint64_t ls_augmenter_partner(const LsAugmenter *augmenter, uint64_t position, uint64_t samples)
{
    return ls_rng_below(augmenter->keys[0][DRAW_PARTNER], position, 0, samples);
}

// A number of the beta distribution with both parameters `shape`, at most 1, in 256ths (Joehnk 1964): of two
// uniform numbers' roots the first one's part of their sum, when that is at most 1. In logarithms, since
// small shapes have roots of many digits. At least every other pair will do.
static uint32_t draw_weight(LsRngKey key, uint64_t position, double shape)
{
    enum { ATTEMPTS = 64 };
    for (uint64_t i = 0; i < ATTEMPTS; i++) {
        double first = log(((double)ls_rng_u32(key, position, 4 * i) + 1) * 0x1p-32) / shape;
        double second = log(((double)ls_rng_u32(key, position, 4 * i + 1) + 1) * 0x1p-32) / shape;
        if (exp(first) + exp(second) <= 1)
            return (uint32_t)(256 / (1 + exp(second - first)) + 0.5);
    }
    return 128;
}

void ls_augmenter_mix(
    LsAugmenter *augmenter, uint64_t position, uint8_t *other, const void *other_y, uint8_t *x, void *y)
{
    LsRngKey key = augmenter->keys[0][DRAW_MIXUP];
    uint32_t weight = draw_weight(key, position, augmenter->options.mixup);
    apply(augmenter, augmenter->keys[1], position, other);
    for (size_t i = 0; i < image_bytes(augmenter); i++)
        x[i] = (uint8_t)((weight * x[i] + (256 - weight) * other[i] + 128) >> 8);
    for (size_t i = 0; i < augmenter->targets; i++) {
        float *target = (float *)y + i;
        *target = ((float)weight * *target + (float)(256 - weight) * ((const float *)other_y)[i]) * 0x1p-8f;
    }
    // The words of an attempt are its first two; the third is free.
    if (augmenter->targets == 0 && ls_rng_u32(key, position, 2) >> 24 >= weight)
        memcpy(y, other_y, sizeof(int32_t));
}
