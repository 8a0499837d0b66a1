// Private to the files that read and write weights.
#ifndef LOCKSTEP_TRAIN_WEIGHTS_LAYOUT_H
#define LOCKSTEP_TRAIN_WEIGHTS_LAYOUT_H

#include <stddef.h>

// to[columns][rows] from from[rows][columns]; they do not overlap.
void ls_weights_transpose(const float *from, size_t rows, size_t columns, float *to);

#endif
