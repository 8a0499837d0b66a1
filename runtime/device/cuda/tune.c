// Measures the candidates for a product.
#include <stdlib.h>

#include "products.h"

// A sample is the time of as many runs as take about SAMPLE_MILLISECONDS, so that what launching costs does
// not decide, and the median of a few samples passes over what else the machine did. The runs are one graph:
// the host takes about as long to enqueue a small product as the GPU to compute it, and would be measured
// instead. Candidates take turns, so that a clock that changes meets all of them.
enum { SAMPLES = 5, MOST_RUNS = 32 };
static const float SAMPLE_MILLISECONDS = 0.2f;

typedef struct Measurement {
    LsProducts *products;
    const LsProductEntry *entry;
    const LsProductBuffers *buffers;
    cudaEvent_t start, end;
    LsGraph *graph[LS_MOST_CANDIDATES]; // all runs of a sample
} Measurement;

static LsStatus enqueue(const Measurement *m, const LsAlgorithm *algorithm, int runs)
{
    const LsProducts *products = m->products;
    for (int i = 0; i < runs; i++)
        LS_TRY(ls_cublaslt_run(products->library, m->entry->plan, algorithm, m->buffers,
            products->cuda->streams[LS_STREAM_COMPUTE]));
    return LS_OK;
}

static LsStatus record(const Measurement *m, const LsAlgorithm *algorithm, int runs, LsGraph **out)
{
    LsDevice *device = &m->products->cuda->base;
    LS_TRY(ls_cuda_capture_begin(device));
    LsStatus status = enqueue(m, algorithm, runs);
    if (status != LS_OK) {
        ls_cuda_capture_abandon(device);
        return status;
    }
    return ls_cuda_capture_end(device, out);
}

// Of one run, or of the graph when there is one.
static LsStatus time_once(
    const Measurement *m, const LsAlgorithm *algorithm, LsGraph *graph, float *milliseconds)
{
    LsCudaDevice *cuda = m->products->cuda;
    cudaStream_t stream = cuda->streams[LS_STREAM_COMPUTE];
    LS_TRY(ls_cuda_check(cuda, cudaEventRecord(m->start, stream), "measuring a product"));
    LS_TRY(graph ? ls_cuda_graph_launch(&cuda->base, graph) : enqueue(m, algorithm, 1));
    LS_TRY(ls_cuda_check(cuda, cudaEventRecord(m->end, stream), "measuring a product"));
    LS_TRY(ls_cuda_check(cuda, cudaEventSynchronize(m->end), "measuring a product"));
    return ls_cuda_check(cuda, cudaEventElapsedTime(milliseconds, m->start, m->end), "measuring a product");
}

// One graph for each candidate, which runs before: a recording may contain nothing that has to be loaded.
static LsStatus prepare(Measurement *m, const LsAlgorithm *candidates, size_t count, int *runs)
{
    for (size_t i = 0; i < count; i++) {
        float time = 0;
        LS_TRY(time_once(m, &candidates[i], NULL, &time)); // loads the kernel
        LS_TRY(time_once(m, &candidates[i], NULL, &time));
        float fit = SAMPLE_MILLISECONDS / (time > 0 ? time : SAMPLE_MILLISECONDS);
        runs[i] = fit < 1 ? 1 : fit > MOST_RUNS ? MOST_RUNS : (int)fit;
        LS_TRY(record(m, &candidates[i], runs[i], &m->graph[i]));
        LS_TRY(time_once(m, &candidates[i], m->graph[i], &time)); // brings the graph to the GPU
    }
    return LS_OK;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static LsStatus find_fastest(Measurement *m, const LsAlgorithm *candidates, size_t count, size_t *fastest)
{
    float time[LS_MOST_CANDIDATES][SAMPLES], best = 0;
    int runs[LS_MOST_CANDIDATES];
    LS_TRY(prepare(m, candidates, count, runs));
    for (int s = 0; s < SAMPLES; s++)
        for (size_t i = 0; i < count; i++) {
            LS_TRY(time_once(m, &candidates[i], m->graph[i], &time[i][s]));
            time[i][s] /= (float)runs[i];
        }
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
    Measurement m = {.products = products, .entry = entry, .buffers = &used};
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
    for (size_t i = 0; i < LS_MOST_CANDIDATES; i++)
        ls_cuda_graph_destroy(&cuda->base, m.graph[i]);
    if (m.start)
        cudaEventDestroy(m.start);
    if (m.end)
        cudaEventDestroy(m.end);
    ls_cuda_release(&cuda->base, sums);
    return status;
}
