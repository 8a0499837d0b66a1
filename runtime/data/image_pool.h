// Decodes the images of an import, several at a time.
#ifndef LOCKSTEP_DATA_IMAGE_POOL_H
#define LOCKSTEP_DATA_IMAGE_POOL_H

#include "image.h"
#include "image_sources.h"
#include "image_store.h"

// What became of a source.
typedef struct LsImageResult {
    LsHash128 hash; // of its bytes
    uint64_t bytes;
    uint64_t place; // in the store; what the store knew before is not decoded again
    bool known;     // the store had it before
    char *corrupt;  // why it is none; NULL: it is sound. Freed by the caller
} LsImageResult;

// results [sources->count], zeroed. LS_IO and LS_NO_INPUT for what cannot be read or written; what is read
// and is no image of this form is a result.
LsStatus ls_image_pool_decode(const LsImageSources *sources, const LsImageForm *form, int threads,
    LsImageStore *store, LsImageResult *results);

#endif
