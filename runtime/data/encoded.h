// Images that a data set keeps as their files were: JPEG and PNG, decoded when they are read, by what decodes
// them for an import.
//
// /train/encoded has the bytes of all files, one after the other, and /train/offsets where each begins and
// the last ends. Whatever is read is compared with the hash of its file in /train/files, so that damage of
// any of the three is found before anything is decoded.
#ifndef LOCKSTEP_DATA_ENCODED_H
#define LOCKSTEP_DATA_ENCODED_H

#include "dataset_format.h"
#include "image.h"

// The bytes of the image in a row of the file (not of the partition). LS_BAD_DATA with file, split and row.
LsStatus ls_encoded_read(const LsDataset *dataset, LsSplit split, uint64_t row, LsImageBytes *out);

// Its pixels, which the caller frees, as large as they were encoded. `scratch` keeps its memory for the next.
LsStatus ls_encoded_decode(
    const LsDataset *dataset, LsSplit split, uint64_t row, LsImageBytes *scratch, LsImage *out);

// ---- Through a reader, which brings the memory ----------------------------------------------------------

// The bytes of a sample, until the next call; its pixels, freed by the caller.
LsStatus ls_reader_encoded(LsReader *reader, uint64_t sample, const LsImageBytes **out);
LsStatus ls_reader_image(LsReader *reader, uint64_t sample, LsImage *out);

#endif
