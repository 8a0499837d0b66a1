// Files of the CIFAR data sets in their binary version (Krizhevsky 2009): records of one label byte
// (CIFAR-10) or a coarse and a fine one (CIFAR-100), then 32 x 32 bytes of red, of green and of blue.
#ifndef LOCKSTEP_DATA_IMPORT_CIFAR_H
#define LOCKSTEP_DATA_IMPORT_CIFAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { LS_CIFAR_SIDE = 32, LS_CIFAR_CHANNELS = 3, LS_CIFAR_BYTES = LS_CIFAR_SIDE * LS_CIFAR_SIDE * 3 };

typedef struct LsCifar {
    const uint8_t *records; // lent
    size_t count;
    size_t label_bytes; // before each image: 1 or 2
} LsCifar;

// What the bytes of a file are, by their number; every label is checked. LS_BAD_DATA with `name` and offset.
LsStatus ls_cifar_parse(const uint8_t *data, size_t size, const char *name, LsCifar *out);

// Classes of the coarse (CIFAR-100 only) or fine labels.
size_t ls_cifar_classes(const LsCifar *file, bool coarse);

// Record i: its label, and its image as [32][32][3].
int32_t ls_cifar_record(const LsCifar *file, size_t i, bool coarse, uint8_t image[LS_CIFAR_BYTES]);

#endif
