// New rows from image files, for the models of data sets whose samples are images of bytes.
#ifndef LOCKSTEP_DATA_ROWS_IMAGES_H
#define LOCKSTEP_DATA_ROWS_IMAGES_H

#include "data/import.h"

// Does the file begin as JPEG or PNG does? *image is set on LS_OK. LS_NO_INPUT, LS_IO.
LsStatus ls_rows_recognize_image(const char *path, bool *image);

// A JPEG or PNG file, or all of a directory, at any depth, by path: brought to the schema's size and channels
// as an import does. Rows have names, the files' paths. LS_BAD_DATA for a file that cannot be decoded, for a
// directory without images, and for a schema of other samples. LS_NO_INPUT, LS_IO.
LsStatus ls_rows_read_images(const json_t *schema, const char *path, LsRows *out);

// The records of a file of CIFAR's binary version; their labels are left out. LS_NO_INPUT, LS_BAD_DATA,
// LS_IO.
LsStatus ls_rows_read_cifar(const char *path, LsRows *out);

#endif
