#include "device/tensor.h"

static const struct {
    size_t size;
    const char *name;
} dtypes[] = {
    [LS_F32] = {4, "float32"},
    [LS_BF16] = {2, "bfloat16"},
    [LS_F16] = {2, "float16"},
    [LS_U8] = {1, "uint8"},
    [LS_I32] = {4, "int32"},
};

size_t ls_dtype_size(LsDtype dtype)
{
    return dtypes[dtype].size;
}

const char *ls_dtype_name(LsDtype dtype)
{
    return dtypes[dtype].name;
}
