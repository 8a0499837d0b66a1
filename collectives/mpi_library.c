// MPI's own collectives, for benchmarks.
#include <limits.h>

#include "mpi_backend.h"

LsStatus ls_mpi_library(LsComm *comm, LsLibraryCall call, const float *from, float *to, size_t elements)
{
    MpiComm *mpi = mpi_comm(comm);
    if (elements > INT_MAX)
        return LS_FAIL(LS_CONFIG, "MPI cannot count %zu elements; %d are the most", elements, INT_MAX);
    int count = (int)elements;
    switch (call) {
    case LS_LIBRARY_ALL_REDUCE:
        ls_mpi_check(mpi,
            MPI_Allreduce(from == to ? MPI_IN_PLACE : from, to, count, MPI_FLOAT, MPI_SUM, mpi->traffic),
            "MPI_Allreduce");
        break;
    case LS_LIBRARY_REDUCE_SCATTER:
        ls_mpi_check(mpi,
            MPI_Reduce_scatter_block(from, to, count / comm->size, MPI_FLOAT, MPI_SUM, mpi->traffic),
            "MPI_Reduce_scatter_block");
        break;
    case LS_LIBRARY_ALL_GATHER:
        ls_mpi_check(
            mpi, MPI_Allgather(from, count, MPI_FLOAT, to, count, MPI_FLOAT, mpi->traffic), "MPI_Allgather");
        break;
    }
    return LS_OK;
}
