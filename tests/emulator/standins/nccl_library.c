// In place of collectives/nccl_library.c: the functions of the stand-in, which is linked.
#include "nccl_backend.h"

NcclFunctions ls_nccl = {
#define LS_NCCL_FUNCTION(name) .name = nccl##name,
    LS_NCCL_FUNCTIONS(LS_NCCL_FUNCTION)
#undef LS_NCCL_FUNCTION
};

LsStatus ls_nccl_require(void)
{
    return LS_OK;
}
