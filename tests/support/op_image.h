// The part of the op cases that is about image models: convolutions, batch normalisation, pooling.
#ifndef LOCKSTEP_TESTS_OP_IMAGE_H
#define LOCKSTEP_TESTS_OP_IMAGE_H

#include "op_language.h"

LsConvolutionShape ls_op_convolution_shape(const LsOpCase *op);

size_t ls_op_image_buffers(const LsOpCase *op, LsOpBuffer *b);
LsStatus ls_op_image_call(const LsOpCase *op, LsDevice *device, void *const b[]);

// Inputs that follow from others: which element of a window the largest was.
void ls_op_image_derive(const LsOpCase *op, void *const image[]);

void ls_op_image_expect(const LsOpCase *op, void *const image[], double *value[], double *scale[]);
double ls_op_image_units(const LsOpCase *op);
double ls_op_image_flops(const LsOpCase *op);

#endif
