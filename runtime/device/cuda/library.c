// The opened cuDNN of a device, and operands where it needs them.
#include "library.h"

#include "base/memory.h"

LsStatus ls_cuda_library(LsCudaDevice *cuda, LsCudnn **out)
{
    *out = NULL;
    if (!ls_cudnn_is_there())
        return LS_OK;
    if (!cuda->library)
        LS_TRY(ls_cudnn_open(cuda->streams[LS_STREAM_COMPUTE], &cuda->library));
    *out = cuda->library;
    return LS_OK;
}

static bool is_moved(const LsOperand *operand)
{
    return (uintptr_t)operand->memory % LS_CUDNN_ALIGNMENT != 0;
}

LsStatus ls_operands_place(
    LsCudaDevice *cuda, size_t bytes, LsOperand *operands, size_t count, void **scratch)
{
    size_t total = ls_round_up(bytes, LS_ALIGNMENT);
    for (size_t i = 0; i < count; i++)
        total += is_moved(&operands[i]) ? ls_round_up(operands[i].bytes, LS_ALIGNMENT) : 0;
    LS_TRY(ls_cuda_scratch(cuda, total, scratch));
    char *next = (char *)*scratch + ls_round_up(bytes, LS_ALIGNMENT);
    for (size_t i = 0; i < count; i++) {
        LsOperand *operand = &operands[i];
        operand->place = operand->memory;
        if (!is_moved(operand))
            continue;
        operand->place = next;
        next += ls_round_up(operand->bytes, LS_ALIGNMENT);
        if (operand->read)
            LS_TRY(ls_cuda_copy(&cuda->base, operand->place, operand->memory, operand->bytes));
    }
    return LS_OK;
}

LsStatus ls_operands_return(LsCudaDevice *cuda, const LsOperand *operands, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (is_moved(&operands[i]) && !operands[i].read)
            LS_TRY(ls_cuda_copy(&cuda->base, operands[i].memory, operands[i].place, operands[i].bytes));
    return LS_OK;
}
