// GPT-2 as Hugging Face's transformers store it: other names, and the weights of linear layers as [in][out].
#ifndef LOCKSTEP_MODELS_HUGGINGFACE_H
#define LOCKSTEP_MODELS_HUGGINGFACE_H

#include "models/parameters.h"

// A parameter's name there, without the prefix "transformer." that some files have, and whether its matrix is
// transposed. Of a parameter that is none of GPT-2's the name stays what it is.
void ls_huggingface_name(const char *ours, char theirs[LS_NAME_MAX], bool *transposed);

// Running statistics are two tensors there, as PyTorch has them: the names' ends.
#define LS_HUGGINGFACE_MEAN "_mean"
#define LS_HUGGINGFACE_VARIANCE "_var"

// Whether a tensor of a file is one that models need not be told: the causal mask, and PyTorch's count of the
// batches that statistics are of.
bool ls_huggingface_constant(const char *theirs);

#endif
