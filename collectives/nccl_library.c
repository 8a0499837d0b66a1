// Loads NCCL. In the emulated build a file of the stand-in takes this one's place.
#include "base/library.h"
#include "nccl_backend.h"

NcclFunctions ls_nccl;

LsStatus ls_nccl_require(void)
{
    static const char *const names[] = {
#define LS_NCCL_NAME(name) "nccl" #name,
        LS_NCCL_FUNCTIONS(LS_NCCL_NAME)
#undef LS_NCCL_NAME
    };
    _Static_assert(sizeof ls_nccl == sizeof names, "a pointer to each");
    if (ls_nccl.Send)
        return LS_OK;
    return ls_library_load("libnccl.so.2", names, sizeof names / sizeof *names, (void **)&ls_nccl);
}
