// Statistics of the pixels of a training split, channel by channel, and the schema's keys for them.
#ifndef LOCKSTEP_DATA_PIXELS_H
#define LOCKSTEP_DATA_PIXELS_H

#include "data/dataset.h"

enum { LS_CHANNELS_MAX = 4 };

// How often each value comes in each channel: exact, in any order of the images.
typedef struct LsPixels {
    size_t channels; // 1 to LS_CHANNELS_MAX
    uint64_t count[LS_CHANNELS_MAX][256];
} LsPixels;

// x [pixels][channels]
void ls_pixels_add(LsPixels *pixels, const uint8_t *x, size_t count);

// Adds the counts of other pixels of as many channels: [channels][256].
void ls_pixels_merge(LsPixels *pixels, const uint64_t (*counts)[256]);

// The counts as JSON, an array of 256 numbers for each channel; NULL when memory is short. And back: false
// when that is not what `json` is, for this many channels.
json_t *ls_pixels_json(const LsPixels *pixels);
bool ls_pixels_parse(const json_t *json, LsPixels *pixels);

// Adds uniform, shift, scale, mean and deviation to an importer's schema: numbers for one channel, and for
// more arrays of one value each. There must be pixels. LS_INTERNAL when memory is short.
LsStatus ls_pixels_describe(const LsPixels *pixels, json_t *schema);

#endif
