#include <mpi.h>
#include <string.h>

#include "collectives/comm.h"

const char *ls_comm_library_version(void)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    if (MPI_Get_library_version(text, &length) != MPI_SUCCESS)
        return "MPI";
    text[strcspn(text, ",\n")] = '\0'; // the rest says who built it
    return text;
}
