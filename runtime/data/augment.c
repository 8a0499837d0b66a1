#include "data/augment.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"

enum { CHANNELS_MAX = 4 };

// What is drawn, each under a key of its own: LS_RNG_AUGMENT + draw.
typedef enum Draw { DRAW_CROP, DRAW_FLIP, DRAWS } Draw;

struct LsAugmenter {
    LsAugmentation options;
    size_t height, width, channels;
    LsRngKey key[DRAWS];
    uint8_t *image; // as it was
};

LsAugmentation ls_augmentation_of(const LsConfig *config)
{
    return (LsAugmentation){.crop_padding = (size_t)config->data.crop_padding, .flip = config->data.flip};
}

static const char *first_option(const LsAugmentation *augmentation)
{
    return augmentation->crop_padding > 0 ? "data.crop_padding" : augmentation->flip ? "data.flip" : NULL;
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
    return LS_OK;
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
    for (uint32_t draw = 0; draw < DRAWS; draw++)
        augmenter->key[draw] = ls_rng_key(seed, LS_RNG_AUGMENT + draw);
    LsStatus status = ls_memory_allocate(info->features, (void **)&augmenter->image);
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
    free(augmenter);
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

static void crop(LsAugmenter *augmenter, uint64_t position, uint8_t *x)
{
    size_t padding = augmenter->options.crop_padding;
    if (padding == 0)
        return;
    const LsRngKey key = augmenter->key[DRAW_CROP];
    ptrdiff_t down = (ptrdiff_t)ls_rng_below(key, position, 0, 2 * padding + 1) - (ptrdiff_t)padding;
    ptrdiff_t right = (ptrdiff_t)ls_rng_below(key, position, 1, 2 * padding + 1) - (ptrdiff_t)padding;
    memcpy(augmenter->image, x, augmenter->height * augmenter->width * augmenter->channels);
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

static void flip(const LsAugmenter *augmenter, uint64_t position, uint8_t *x)
{
    if (!augmenter->options.flip || (ls_rng_u32(augmenter->key[DRAW_FLIP], position, 0) & 1) == 0)
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

void ls_augmenter_apply(LsAugmenter *augmenter, uint64_t position, uint8_t *x)
{
    crop(augmenter, position, x);
    flip(augmenter, position, x);
}
