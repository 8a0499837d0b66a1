// An import of images under way: import_images.c gathers what there is, import_images_write.c writes it.
#ifndef LOCKSTEP_DATA_IMPORT_IMAGES_H
#define LOCKSTEP_DATA_IMPORT_IMAGES_H

#include "dataset_format.h"
#include "image_pool.h"
#include "import_common.h"
#include "partitions.h"
#include "pixels.h"
#include "writer.h"

// One image of the data set to be.
typedef struct LsImageRow {
    LsHash128 hash;
    uint64_t place; // of its record: in the store, or a row of the old data set
    size_t source;  // its number; of rows of the old data set that stay: none
    int32_t class_; // -1: that of the old row
    LsSplit split;
    const char *partition; // NULL: there are none
} LsImageRow;

// A place in the old data set is LS_IMAGE_ELSEWHERE | split << LS_IMAGE_ROW_BITS | row.
enum { LS_IMAGE_ROW_BITS = 48 };

// What an import holds while it is under way.
typedef struct LsImageImport {
    const LsImportOptions *options;
    char **inputs; // [input_count]
    size_t input_count;
    LsImageForm form;
    LsImageSources sources;
    LsImageResult *results; // [sources.count]
    json_t *import;         // the schema's key
    bool unchanged;         // the output is of this import
    LsImageStore *store;
    LsDataset *old; // what the output holds, when its images are of this form; else NULL
    LsHash128 *old_files[LS_SPLITS];
    LsReader *old_rows[LS_SPLITS];
    int32_t *old_class; // [classes of the old data set]: their numbers now
    LsImageRow *row;
    size_t rows, old_kept; // the old rows that stay are the first
    LsPartitionRow *order; // [rows] in which they are written
    json_t *partitions;    // the schema's key; NULL: there are none
    const char **class_;   // names in order
    size_t classes;
    bool numbered; // all names are numbers, in whose order they are
    LsWriter *writer;
    LsPixels pixels;
} LsImageImport;

// Writes the rows and commits the file. LS_IO, LS_BAD_DATA.
LsStatus ls_image_import_write(LsImageImport *work);

#endif
