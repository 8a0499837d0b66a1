// New rows from image files, for the models of data sets whose samples are images of bytes.
#ifndef LOCKSTEP_DATA_ROWS_IMAGES_H
#define LOCKSTEP_DATA_ROWS_IMAGES_H

#include "data/import.h"

// Does the file begin as JPEG or PNG does? *image is set on LS_OK. LS_NO_INPUT, LS_IO.
LsStatus ls_rows_recognize_image(const char *path, bool *image);

// Lists a JPEG or PNG file, or all of a directory, at any depth, by path: rows that have names, the files'
// paths, and are decoded when they are fetched. LS_BAD_DATA for a directory without images, and for a schema
// of other samples. LS_NO_INPUT, LS_IO.
LsStatus ls_rows_list_images(const json_t *schema, const char *path, LsRows *out);

// ls_rows_fetch of such rows.
LsStatus ls_rows_fetch_images(const LsRows *rows, size_t first, size_t count, uint8_t *x);
void ls_rows_free_images(struct LsRowsImages *images);

// The records of a file of CIFAR's binary version; their labels are left out. LS_NO_INPUT, LS_BAD_DATA,
// LS_IO.
LsStatus ls_rows_read_cifar(const char *path, LsRows *out);

#endif
