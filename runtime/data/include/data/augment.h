// Augmentation: what the loader does to the images of the training split, and to no others, so that no epoch
// shows the same ones again. Bytes in, bytes out, before normalisation.
//
// All of it is drawn from the counter-based generator by (seed, purpose, stream position), so that any rank
// makes the same image of a position, whatever it made before. Pixels are computed in whole numbers. The
// order is crop, mirror, colours, cutout, mixing.
#ifndef LOCKSTEP_DATA_AUGMENT_H
#define LOCKSTEP_DATA_AUGMENT_H

#include "base/config.h"
#include "data/dataset.h"

struct LsImage; // image.h

typedef struct LsAugmentation {
    size_t crop_padding; // black pixels on every side of which a random part of the image's size is taken
    bool flip;           // mirrors left and right, every other time
    double resized_crop; // smallest share of the area that is taken and enlarged; 0: off
    double brightness, contrast, saturation; // largest distance of each factor from 1
    size_t cutout;                           // side of the square that is covered; 0: none
    double mixup; // parameter of the beta distribution (Zhang et al., ICLR 2018); 0: off
} LsAugmentation;

LsAugmentation ls_augmentation_of(const LsConfig *config);

// Whether there is anything to do.
bool ls_augmentation_any(const LsAugmentation *augmentation);

// LS_CONFIG, with the option, when the data are no images of bytes, [height][width] or
// [height][width][channels] with up to four channels, or the images are too small, have not the colours, or
// two options exclude each other.
LsStatus ls_augmentation_check(const LsAugmentation *augmentation, const LsDatasetInfo *info);

// What one thread needs: memory for images.
typedef struct LsAugmenter LsAugmenter;

// Fails as the check does.
LsStatus ls_augmenter_create(
    const LsAugmentation *augmentation, const LsDatasetInfo *info, uint64_t seed, LsAugmenter **out);
void ls_augmenter_destroy(LsAugmenter *augmenter);

// Of encoded images, the enlarged part is taken before the image is brought to its size: of all pixels that
// there are. Then this is true, the sample is made by ls_augmenter_take_part (of the partner that is mixed
// in, where `partner` says so) into x, and what comes next leaves that step out. LS_INTERNAL.
bool ls_augmenter_takes_parts(const LsAugmenter *augmenter);
LsStatus ls_augmenter_take_part(
    const LsAugmenter *augmenter, uint64_t position, bool partner, const struct LsImage *image, uint8_t *x);

// Makes the training image of a stream position out of the sample `x` that lies there, in place; all but
// mixing.
void ls_augmenter_apply(LsAugmenter *augmenter, uint64_t position, uint8_t *x);

// The sample, of `samples`, that is mixed in at a stream position.
uint64_t ls_augmenter_partner(const LsAugmenter *augmenter, uint64_t position, uint64_t samples);

// Mixes the partner, as it is stored (`other` is changed), into what ls_augmenter_apply has made, and its
// label or targets into `y`: int32 or [outputs] float32. The losses take one class for a sample: it is drawn
// by the weights, so that the expected gradient is that of both labels with their weights.
void ls_augmenter_mix(
    LsAugmenter *augmenter, uint64_t position, uint8_t *other, const void *other_y, uint8_t *x, void *y);

#endif
