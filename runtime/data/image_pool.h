// Decodes the images of an import, several at a time.
#ifndef LOCKSTEP_DATA_IMAGE_POOL_H
#define LOCKSTEP_DATA_IMAGE_POOL_H

#include "image.h"
#include "image_sources.h"
#include "image_store.h"

// Bytes of what the store has of an image: its pixels, or the counts of their values.
size_t ls_image_record_bytes(const LsImageForm *form);

// What became of a source.
typedef struct LsImageResult {
    LsHash128 hash; // of its bytes
    uint64_t bytes;
    uint64_t place; // in the store; what the store knew before is not decoded again
    bool known;     // the store had it before
    char *corrupt;  // why it is none; NULL: it is sound. Freed by the caller
} LsImageResult;

// results [sources->count], zeroed. `again`: they are those of a call before, and what lay elsewhere is
// decoded now. LS_IO and LS_NO_INPUT for what cannot be read or written; what is read and is no image of this
// form, and a dangling link, are results.
LsStatus ls_image_pool_decode(const LsImageSources *sources, const LsImageForm *form, int threads,
    LsImageStore *store, bool again, LsImageResult *results);

// Reads the file of a source, of which bytes beyond LS_IMAGE_FILE_MAX are left out; *size is all of it.
LsStatus ls_image_source_read(const LsImageSource *source, LsImageBytes *bytes, uint64_t *size);

#endif
