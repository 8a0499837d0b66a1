// The mean of several checkpoints' weights.
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoint_file.h"

// Blocks [first, first + count): added up in the order in which the checkpoints were given, in double, and
// rounded once, so that the mean of n equal checkpoints is that checkpoint.
static LsStatus average_portion(
    const LsAverage *average, size_t first, size_t count, float *read, double *sum)
{
    size_t elements = count * LS_BLOCK;
    memset(sum, 0, elements * sizeof *sum);
    for (size_t c = 0; c < average->count; c++) {
        LS_TRY(ls_checkpoint_read(
            average->checkpoint[c], average->parameters, LS_GROUP_PARAMETERS, first, count, read));
        for (size_t i = 0; i < elements; i++)
            sum[i] += (double)read[i];
    }
    float *out = average->out + first * LS_BLOCK;
    for (size_t i = 0; i < elements; i++)
        out[i] = (float)(sum[i] / (double)average->count);
    return LS_OK;
}

LsStatus ls_checkpoint_average(const LsAverage *average)
{
    float *read = NULL;
    double *sum = NULL;
    LsStatus status = LS_OK;
    for (size_t c = 0; c < average->count && status == LS_OK; c++)
        status = ls_checkpoint_matches(average->checkpoint[c], average->parameters);
    if (status == LS_OK)
        status = ls_memory_allocate(LS_PORTION * LS_BLOCK * sizeof *read, (void **)&read);
    if (status == LS_OK)
        status = ls_memory_allocate(LS_PORTION * LS_BLOCK * sizeof *sum, (void **)&sum);
    size_t blocks = average->parameters->blocks;
    for (size_t block = 0; block < blocks && status == LS_OK; block += LS_PORTION) {
        size_t left = blocks - block;
        status = average_portion(average, block, left < LS_PORTION ? left : LS_PORTION, read, sum);
    }
    free(sum);
    free(read);
    return status;
}
