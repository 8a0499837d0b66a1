// Exactly shuffled rows per second through the loader: bench_loader DATA.h5 BATCH BATCHES WORKERS, one line
// of JSON.

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "data/loader.h"

static LsStatus measure(const LsDataset *dataset, size_t batch, size_t batches, int workers)
{
    LsLoaderOptions options = {
        .seed = 1,
        .batch = batch,
        .lanes = 1,
        .lane_count = 1,
        .accumulation = 1,
        .workers = workers,
        .prefetch = 4 * workers,
    };
    LsLoader *loader = NULL;
    LS_TRY(ls_loader_create(dataset, &options, &loader));
    const LsHostBatch *host = NULL;
    LsStatus status = ls_loader_next(loader, &host, NULL);
    double start = ls_clock_seconds();
    for (size_t i = 0; i < batches && status == LS_OK; i++) {
        ls_loader_return(loader, host);
        status = ls_loader_next(loader, &host, NULL);
    }
    double seconds = ls_clock_seconds() - start;
    ls_loader_destroy(loader);
    LS_TRY(status);
    printf("{\"peer\": \"lockstep\", \"rows_per_second\": %.0f, \"batch\": %zu, \"workers\": %d}\n",
        (double)(batch * batches) / seconds, batch, workers);
    return LS_OK;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: bench_loader DATA.h5 BATCH BATCHES WORKERS\n");
        return 2;
    }
    LsDataset *dataset = NULL;
    LsStatus status = ls_dataset_open(argv[1], &dataset);
    if (status == LS_OK)
        status = measure(dataset, (size_t)atol(argv[2]), (size_t)atol(argv[3]), atoi(argv[4]));
    ls_dataset_close(dataset);
    if (status != LS_OK)
        fprintf(stderr, "bench_loader: %s\n", ls_status_message());
    return ls_status_exit_code(status);
}
