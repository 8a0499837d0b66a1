// In place of the `nccl` transport, in builds without NCCL.
#include "backend.h"

LsStatus ls_nccl_transport_open(LsComm *comm, LsDevice *device, LsTransport **out)
{
    (void)comm;
    (void)device;
    (void)out;
    return LS_FAIL(LS_UNAVAILABLE, "this build has no NCCL; set collectives.backend to auto or mpi");
}

bool ls_nccl_built(void)
{
    return false;
}

const char *ls_comm_nccl_version(void)
{
    return "";
}
