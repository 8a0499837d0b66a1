// The parameter table: every tensor of a model with its place in the flat buffers.
#ifndef LOCKSTEP_MODELS_PARAMETERS_H
#define LOCKSTEP_MODELS_PARAMETERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { LS_NAME_MAX = 64, LS_DIMENSIONS_MAX = 4 };

// How a parameter gets its first values (see ls_parameter_initialize).
typedef enum LsInit {
    LS_INIT_ZERO,
    LS_INIT_ONE,
    LS_INIT_NORMAL,
    LS_INIT_UNIFORM,
    LS_INIT_STATISTICS // [C][2]: mean 0, variance 1
} LsInit;

typedef struct LsParameter {
    char name[LS_NAME_MAX]; // "layers.0.weight"
    int dimensions;
    size_t shape[LS_DIMENSIONS_MAX];
    size_t elements;
    size_t reserved; // elements that the flat buffers keep for it, more than its own where products want
                     // padding rows, which are zero and stay zero; 0: its own
    size_t offset;   // in elements, a multiple of LS_BLOCK
    bool decay;      // weight decay applies
    bool stage;      // backward says that gradients are final from here on when it has come here
    bool frozen;     // is not trained: keeps its bits, and counts in no norm
    bool statistics; // [C][2] running mean and variance of a normalisation: no weights, but what the
                     // optimizer pass averages (see LS_KIND_STATISTICS); their gradients count in no norm
    LsInit init;
    float init_scale; // standard deviation (normal) or bound (uniform)
} LsParameter;

typedef struct LsParameters {
    size_t count, capacity;
    LsParameter *list; // in the order of the forward pass
    size_t blocks;     // of the flat buffer
} LsParameters;

// Appends a tensor behind the last one, on a fresh block. Names are unique.
LsStatus ls_parameters_add(LsParameters *table, const LsParameter *parameter);
void ls_parameters_free(LsParameters *table);

// NULL if there is none of that name.
const LsParameter *ls_parameters_find(const LsParameters *table, const char *name);

// Number of elements without padding.
size_t ls_parameters_elements(const LsParameters *table);

// kind[b]: LsBlockKind of the tensor that block b is a part of; table->blocks entries.
void ls_parameters_block_kinds(const LsParameters *table, uint8_t *kind);

// Lets all weights decay, biases and normalisations, too.
void ls_parameters_decay_all(LsParameters *table);

// Freezes the parameters whose names match one of the patterns, which have commas or spaces between them: '*'
// is any text, '?' any one character. LS_CONFIG names a pattern that matches none, with the nearest name, and
// refuses to freeze all weights.
LsStatus ls_parameters_freeze(LsParameters *table, const char *patterns);

// Writes the initial values of flat elements [first, first + count) to host memory `out`, padding as zeros.
// Element e of tensor t draws from (seed, LS_RNG_INITIALIZE, index t, element e): any rank can initialise any
// range.
void ls_parameters_initialize(
    const LsParameters *table, uint64_t seed, size_t first, size_t count, float *out);

#endif
