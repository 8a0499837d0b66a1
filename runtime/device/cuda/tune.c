// Measures the candidates for a product.
#include <stdlib.h>

#include "products.h"

// A sample is the time of as many runs as take about SAMPLE_SECONDS, so that what launching costs does not
// decide, and the median of a few samples passes over what else the machine did. Candidates take turns, so
// that a clock that changes meets all of them.
enum { SAMPLES = 5, MOST_RUNS = 16 };
static const float SAMPLE_MILLISECONDS = 0.2f;

typedef struct Measurement {
    LsProducts *products;
    const LsProductEntry *entry;
    const LsProductBuffers *buffers;
    cudaEvent_t start, end;
} Measurement;

static LsStatus time_runs(const Measurement *m, const LsAlgorithm *algorithm, int runs, float *milliseconds)
{
    LsCudaDevice *cuda = m->products->cuda;
    cudaStream_t stream = cuda->streams[LS_STREAM_COMPUTE];
    LS_TRY(ls_cuda_check(cuda, cudaEventRecord(m->start, stream), "measuring a product"));
    for (int i = 0; i < runs; i++)
        LS_TRY(ls_cublaslt_run(m->products->library, m->entry->plan, algorithm, m->buffers, stream));
    LS_TRY(ls_cuda_check(cuda, cudaEventRecord(m->end, stream), "measuring a product"));
    LS_TRY(ls_cuda_check(cuda, cudaEventSynchronize(m->end), "measuring a product"));
    LS_TRY(ls_cuda_check(cuda, cudaEventElapsedTime(milliseconds, m->start, m->end), "measuring a product"));
    *milliseconds /= (float)runs;
    return LS_OK;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static LsStatus find_fastest(
    const Measurement *m, const LsAlgorithm *candidates, size_t count, size_t *fastest)
{
    float time[LS_MOST_CANDIDATES][SAMPLES], best = 0;
    int runs[LS_MOST_CANDIDATES];
    for (size_t i = 0; i < count; i++) {
        LS_TRY(time_runs(m, &candidates[i], 1, &time[i][0])); // loads the kernel
        LS_TRY(time_runs(m, &candidates[i], 1, &time[i][0]));
        float fit = SAMPLE_MILLISECONDS / (time[i][0] > 0 ? time[i][0] : SAMPLE_MILLISECONDS);
        runs[i] = fit < 1 ? 1 : fit > MOST_RUNS ? MOST_RUNS : (int)fit;
    }
    for (int s = 0; s < SAMPLES; s++)
        for (size_t i = 0; i < count; i++)
            LS_TRY(time_runs(m, &candidates[i], runs[i], &time[i][s]));
    for (size_t i = 0; i < count; i++) {
        qsort(time[i], SAMPLES, sizeof(float), ascending);
        if (i == 0 || time[i][SAMPLES / 2] < best) {
            best = time[i][SAMPLES / 2];
            *fastest = i;
        }
    }
    return LS_OK;
}

LsStatus ls_tune(LsProducts *products, const LsProductEntry *entry, const LsAlgorithm *candidates,
    size_t count, const LsProductBuffers *buffers, size_t *fastest)
{
    LsCudaDevice *cuda = products->cuda;
    LsProductBuffers used = *buffers;
    Measurement m = {products, entry, &used, NULL, NULL};
    void *sums = NULL;
    LsStatus status = LS_OK;
    // What is added to must not be added to by measurements.
    if (entry->product.accumulate) {
        size_t bytes = entry->product.m * entry->product.n * ls_dtype_size(entry->product.output_type);
        status = ls_cuda_allocate(&cuda->base, bytes, &sums);
        if (status == LS_OK)
            status = ls_cuda_zero(&cuda->base, sums, bytes);
        used.c = sums;
    }
    if (status == LS_OK)
        status = ls_cuda_check(cuda, cudaEventCreate(&m.start), "creating an event");
    if (status == LS_OK)
        status = ls_cuda_check(cuda, cudaEventCreate(&m.end), "creating an event");
    if (status == LS_OK)
        status = find_fastest(&m, candidates, count, fastest);
    if (m.start)
        cudaEventDestroy(m.start);
    if (m.end)
        cudaEventDestroy(m.end);
    ls_cuda_release(&cuda->base, sums);
    return status;
}
