// Images that are decoded already, by the hash of their encoded bytes: those of the data set that an import
// replaces, and those that an import under way has made. The latter lie in a file beside the output,
// OUT.h5.decoded, from which an import that was killed goes on; it is gone when the import ends in another
// way. Of an image that the data set keeps encoded, the file has its statistics in place of its pixels.
#ifndef LOCKSTEP_DATA_IMAGE_STORE_H
#define LOCKSTEP_DATA_IMAGE_STORE_H

#include "base/hash.h"
#include "base/status.h"

typedef struct LsImageStore LsImageStore;

// `kind`: what the images are besides their bytes (size, channels, way of decoding); another kind's file is
// emptied, and so is any with `fresh`. LS_IO, also when another import has it open.
LsStatus ls_image_store_open(
    const char *output, LsHash128 kind, size_t image_bytes, bool fresh, LsImageStore **out);

// Closes it and removes the file. Accepts NULL.
void ls_image_store_close(LsImageStore *store);

// Where the image of a hash lies, or false. Not beside ls_image_store_add_known.
bool ls_image_store_find(const LsImageStore *store, LsHash128 hash, uint64_t *place);

// Images that lie elsewhere: `place` is the caller's, with LS_IMAGE_ELSEWHERE set. LS_INTERNAL.
#define LS_IMAGE_ELSEWHERE ((uint64_t)1 << 63)
LsStatus ls_image_store_add_known(LsImageStore *store, LsHash128 hash, uint64_t place);

// Stores an image. Threads may do so side by side; it is found from the next opening on. LS_IO.
LsStatus ls_image_store_add(LsImageStore *store, LsHash128 hash, const uint8_t *image, uint64_t *place);

// Reads an image of the store's own. LS_IO, LS_BAD_DATA.
LsStatus ls_image_store_read(const LsImageStore *store, uint64_t place, uint8_t *image);

#endif
