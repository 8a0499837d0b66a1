// GPT-2 as Hugging Face's transformers store it: other names, and the weights of linear layers as [in][out].
#ifndef LOCKSTEP_MODELS_HUGGINGFACE_H
#define LOCKSTEP_MODELS_HUGGINGFACE_H

#include "models/parameters.h"

// A parameter's name there, without the prefix "transformer." that some files have, and whether its matrix is
// transposed. Of a parameter that is none of GPT-2's the name stays what it is.
void ls_huggingface_name(const char *ours, char theirs[LS_NAME_MAX], bool *transposed);

// Whether a tensor of a file is a constant that models need not be told: the causal mask.
bool ls_huggingface_constant(const char *theirs);

#endif
