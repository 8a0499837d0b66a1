// In place of the `nccl` transport, in builds without NCCL.
#include "backend.h"

LsStatus ls_nccl_require(void)
{
    return LS_FAIL(LS_UNAVAILABLE, "this build has no NCCL; set collectives.backend to auto or mpi");
}

LsStatus ls_nccl_transport_open(LsComm *comm, LsDevice *device, LsTransport **out)
{
    (void)comm;
    (void)device;
    (void)out;
    return ls_nccl_require();
}

const char *ls_comm_nccl_version(void)
{
    return "";
}
