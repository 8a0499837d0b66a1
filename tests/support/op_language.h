// The part of the op cases that is about language models: embedding, layer normalisation, attention.
#ifndef LOCKSTEP_TESTS_OP_LANGUAGE_H
#define LOCKSTEP_TESTS_OP_LANGUAGE_H

#include "op_cases.h"

LsOpBuffer ls_op_numbers(const char *name, LsDtype type, size_t count, LsOpFill fill, bool output);
LsOpBuffer ls_op_others(const char *name, size_t element, size_t count, LsOpFill fill);
void ls_op_store(void *array, LsDtype type, size_t i, float value);

size_t ls_op_language_buffers(const LsOpCase *op, LsOpBuffer *b);
LsStatus ls_op_language_call(const LsOpCase *op, LsDevice *device, void *const b[]);

// Inputs that follow from other inputs: what attention gave to its backward pass.
void ls_op_language_derive(const LsOpCase *op, void *const image[]);

void ls_op_language_expect(const LsOpCase *op, void *const image[], double *value[], double *scale[]);
double ls_op_language_units(const LsOpCase *op);
double ls_op_language_flops(const LsOpCase *op);

#endif
