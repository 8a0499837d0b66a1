// The images of an import: files in directories of classes, and members of tar shards.
#ifndef LOCKSTEP_DATA_IMAGE_SOURCES_H
#define LOCKSTEP_DATA_IMAGE_SOURCES_H

#include "base/status.h"
#include "data/dataset.h"

typedef struct LsImageSource {
    char *name;         // for people: the file's path, or SHARD:MEMBER
    const char *file;   // to read; `name` itself, or the shard's path (lent by the caller of the listing)
    uint64_t offset;    // in the file
    uint64_t size;      // UINT64_MAX: the whole file
    bool dangling;      // a link to nothing: an image that cannot be read
    const char *class_; // name; NULL: none
    LsSplit split;
    size_t input; // number of the input that it comes from
} LsImageSource;

typedef struct LsImageSources {
    LsImageSource *source; // in the order of the inputs, within a directory by path
    size_t count, capacity;
    size_t ignored; // files that are no images by their names, or lie in no class
    bool divided;   // some are of the validation or test split
    void *names;    // of classes, each once (tsearch)
} LsImageSources;

// Lists the inputs. A directory has one of classes in it for each class, in which images (.jpg, .jpeg, .png)
// lie at any depth, or train and perhaps val (or valid, validation) and test, and no other directory, each of
// such ones. Capitals make no difference. A file is a tar shard (WebDataset): members KEY.jpg, .jpeg or .png
// beside KEY.cls or KEY.json with a "label", of the split whose name is a word of its own. LS_NO_INPUT,
// LS_IO, LS_BAD_DATA.
LsStatus ls_image_sources_list(const char *const *inputs, size_t count, LsImageSources *out);

// An image file, or all below a directory at any depth, by path, of no class. LS_NO_INPUT, LS_IO,
// LS_BAD_DATA.
LsStatus ls_image_sources_find(const char *path, LsImageSources *out);

void ls_image_sources_free(LsImageSources *sources);

#endif
