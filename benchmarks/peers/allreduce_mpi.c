// The all-reduce of any MPI library, timed as `lockstep bench allreduce` does it: allreduce_mpi CALLS WINDOWS
// BYTES... prints a line of JSON, {"BYTES": seconds of one call, …}: the median over the windows of the
// slowest rank's time.
//
//   mpicc.mpich -O2 allreduce_mpi.c -o allreduce_mpi && mpiexec.mpich -n 2 ./allreduce_mpi 20 7 4096 1048576
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double time_window(const float *from, float *to, int count, int calls)
{
    double slowest;
    MPI_Barrier(MPI_COMM_WORLD);
    double start = MPI_Wtime();
    for (int i = 0; i < calls; i++)
        MPI_Allreduce(from, to, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    double mine = (MPI_Wtime() - start) / calls;
    MPI_Allreduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return slowest;
}

static double measure(size_t bytes, int calls, int windows, double *seconds)
{
    float *from = malloc(bytes), *to = malloc(bytes);
    int count = (int)(bytes / sizeof *from);
    if (!from || !to)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (int i = 0; i < count; i++)
        from[i] = (float)(i % 100) / 7;
    time_window(from, to, count, 5); // warm-up
    for (int w = 0; w < windows; w++)
        seconds[w] = time_window(from, to, count, calls);
    free(to);
    free(from);
    qsort(seconds, (size_t)windows, sizeof *seconds, compare);
    return windows % 2 ? seconds[windows / 2] : (seconds[windows / 2 - 1] + seconds[windows / 2]) / 2;
}

int main(int argc, char **argv)
{
    int rank, calls = argc > 3 ? atoi(argv[1]) : 0, windows = argc > 3 ? atoi(argv[2]) : 0;
    double *seconds = windows > 0 ? malloc((size_t)windows * sizeof *seconds) : NULL;
    if (calls < 1 || !seconds)
        return 2;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (int i = 3; i < argc; i++) {
        double median = measure((size_t)atol(argv[i]), calls, windows, seconds);
        if (rank == 0)
            printf("%s\"%s\": %.9g", i == 3 ? "{" : ", ", argv[i], median);
    }
    if (rank == 0)
        printf("}\n");
    free(seconds);
    return MPI_Finalize();
}
