// Preloaded: MPI_Allreduce whose first result on rank 0 is wrong.
#include <mpi.h>

__attribute__((visibility("default"))) int MPI_Allreduce(
    const void *from, void *to, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm)
{
    int rank, code = PMPI_Allreduce(from, to, count, type, op, comm);
    PMPI_Comm_rank(comm, &rank);
    if (rank == 0 && type == MPI_FLOAT)
        ((float *)to)[0] += 1000;
    return code;
}
