// Devices of the emulated GPU: environment, properties, errors, the lock.
#include "runtime.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MULTIPROCESSORS = 4 };

static pthread_mutex_t lock;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int devices = 1;
static size_t device_bytes = (size_t)2 << 30;
static uint64_t generator; // 0: no seed
static _Thread_local cudaError_t last_error;
static _Thread_local int current;

// ---- Environment ----------------------------------------------------------------------------------------

static long long read_number(const char *name, long long otherwise)
{
    const char *text = getenv(name);
    if (!text || !*text)
        return otherwise;
    char *end;
    long long value = strtoll(text, &end, 10);
    int shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    if (shift)
        end++;
    if (*end || value < 0 || value > (1LL << 40 >> shift))
        ls_emulator_fault("%s is \"%s\"; it must be a number, with K, M or G for bytes", name, text);
    return value << shift;
}

static void start(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    long long count = read_number("EMULATED_GPUS", 1);
    devices = count < MAX_DEVICES ? (int)count : MAX_DEVICES;
    device_bytes = (size_t)read_number("EMULATED_GPU_MEMORY", (long long)device_bytes);
    generator = (uint64_t)read_number("EMULATED_GPU_SEED", 0);
}

cudaError_t ls_runtime_enter(void)
{
    pthread_once(&once, start);
    pthread_mutex_lock(&lock);
    return devices ? cudaSuccess : cudaErrorInsufficientDriver;
}

cudaError_t ls_runtime_leave(cudaError_t error)
{
    pthread_mutex_unlock(&lock);
    return ls_emulator_result(error);
}

void ls_runtime_yield(void)
{
    pthread_mutex_unlock(&lock);
    sched_yield();
    pthread_mutex_lock(&lock);
}

int ls_runtime_device(void)
{
    return current;
}

int ls_runtime_devices(void)
{
    return devices;
}

size_t ls_runtime_device_bytes(void)
{
    return device_bytes;
}

void *ls_runtime_allocate(void *old, size_t bytes)
{
    void *memory = realloc(old, bytes);
    if (!memory)
        ls_emulator_fault("the host has no %zu bytes left", bytes);
    return memory;
}

// ---- Seed, faults ---------------------------------------------------------------------------------------

void ls_emulator_seed(uint64_t seed)
{
    ls_runtime_enter();
    generator = seed;
    pthread_mutex_unlock(&lock);
}

// SplitMix64 (Steele, Lea and Flood, 2014); its state never stays 0.
uint64_t ls_emulator_random(void)
{
    pthread_once(&once, start);
    if (!generator)
        return 0;
    generator += 0x9e3779b97f4a7c15;
    if (!generator)
        generator = 1;
    uint64_t z = generator;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (z ^ (z >> 31)) | 1ULL << 63; // never 0, which says that there is no seed
}

void ls_emulator_fault(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char line[1024];
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    fprintf(stderr, "emulated GPU: %s\n", line);
    fflush(stderr);
    abort();
}

// ---- Errors ---------------------------------------------------------------------------------------------

cudaError_t ls_emulator_result(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define X(name, value, text)                                                                                 \
    case name:                                                                                               \
        return #name;
        LS_CUDA_ERRORS(X)
#undef X
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define X(name, value, text)                                                                                 \
    case name:                                                                                               \
        return text;
        LS_CUDA_ERRORS(X)
#undef X
    }
    return "unrecognized error code";
}

// ---- Devices --------------------------------------------------------------------------------------------

cudaError_t cudaDriverGetVersion(int *driverVersion)
{
    if (!driverVersion)
        return ls_emulator_result(cudaErrorInvalidValue);
    bool present = ls_runtime_enter() == cudaSuccess;
    *driverVersion = present ? CUDART_VERSION : 0;
    return ls_runtime_leave(cudaSuccess);
}

cudaError_t cudaRuntimeGetVersion(int *runtimeVersion)
{
    if (!runtimeVersion)
        return ls_emulator_result(cudaErrorInvalidValue);
    *runtimeVersion = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && !count)
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess)
        *count = devices;
    return ls_runtime_leave(error);
}

cudaError_t cudaSetDevice(int device)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && (device < 0 || device >= devices))
        error = cudaErrorInvalidDevice;
    if (error == cudaSuccess)
        current = device;
    return ls_runtime_leave(error);
}

cudaError_t cudaGetDevice(int *device)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && !device)
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess)
        *device = current;
    return ls_runtime_leave(error);
}

// Equal in all processes of a host, different for each of its devices.
static void identify(int device, cudaUUID_t *uuid)
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    uint64_t hash = 0xcbf29ce484222325; // FNV-1a
    for (const char *c = host; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3;
    memcpy(uuid->bytes, &hash, sizeof hash);
    uint64_t number = (uint64_t)device;
    memcpy(uuid->bytes + 8, &number, sizeof number);
}

// What an H100 says where kernels are shaped by it; few multiprocessors, for grids that are sized by them.
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && !prop)
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess && (device < 0 || device >= devices))
        error = cudaErrorInvalidDevice;
    if (error != cudaSuccess)
        return ls_runtime_leave(error);
    *prop = (struct cudaDeviceProp){
        .name = "Emulated GPU",
        .totalGlobalMem = device_bytes,
        .sharedMemPerBlock = 48 << 10,
        .regsPerBlock = 65536,
        .warpSize = 32,
        .maxThreadsPerBlock = 1024,
        .maxThreadsDim = {1024, 1024, 64},
        .maxGridSize = {2147483647, 65535, 65535},
        .totalConstMem = 64 << 10,
        .major = 9,
        .multiProcessorCount = MULTIPROCESSORS,
        .canMapHostMemory = 1,
        .concurrentKernels = 1,
        .ECCEnabled = 1,
        .pciBusID = device + 1,
        .asyncEngineCount = 2,
        .unifiedAddressing = 1,
        .memoryBusWidth = 5120,
        .l2CacheSize = 50 << 20,
        .maxThreadsPerMultiProcessor = 2048,
        .streamPrioritiesSupported = 1,
        .sharedMemPerMultiprocessor = 228 << 10,
        .regsPerMultiprocessor = 65536,
        .cooperativeLaunch = 0,
        .sharedMemPerBlockOptin = 227 << 10,
        .maxBlocksPerMultiProcessor = 32,
        .reservedSharedMemPerBlock = 1 << 10,
        .memoryPoolsSupported = 1,
    };
    identify(device, &prop->uuid);
    return ls_runtime_leave(cudaSuccess);
}

static cudaError_t attribute(const struct cudaDeviceProp *p, enum cudaDeviceAttr attr, int *value)
{
    const struct {
        enum cudaDeviceAttr attr;
        int value;
    } table[] = {
        {cudaDevAttrMaxThreadsPerBlock, p->maxThreadsPerBlock},
        {cudaDevAttrMaxBlockDimX, p->maxThreadsDim[0]},
        {cudaDevAttrMaxBlockDimY, p->maxThreadsDim[1]},
        {cudaDevAttrMaxBlockDimZ, p->maxThreadsDim[2]},
        {cudaDevAttrMaxGridDimX, p->maxGridSize[0]},
        {cudaDevAttrMaxGridDimY, p->maxGridSize[1]},
        {cudaDevAttrMaxGridDimZ, p->maxGridSize[2]},
        {cudaDevAttrMaxSharedMemoryPerBlock, (int)p->sharedMemPerBlock},
        {cudaDevAttrWarpSize, p->warpSize},
        {cudaDevAttrMaxRegistersPerBlock, p->regsPerBlock},
        {cudaDevAttrClockRate, 1000000},
        {cudaDevAttrMultiProcessorCount, p->multiProcessorCount},
        {cudaDevAttrIntegrated, p->integrated},
        {cudaDevAttrMemoryClockRate, 1000000},
        {cudaDevAttrGlobalMemoryBusWidth, p->memoryBusWidth},
        {cudaDevAttrL2CacheSize, p->l2CacheSize},
        {cudaDevAttrMaxThreadsPerMultiProcessor, p->maxThreadsPerMultiProcessor},
        {cudaDevAttrUnifiedAddressing, p->unifiedAddressing},
        {cudaDevAttrComputeCapabilityMajor, p->major},
        {cudaDevAttrComputeCapabilityMinor, p->minor},
        {cudaDevAttrStreamPrioritiesSupported, p->streamPrioritiesSupported},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, (int)p->sharedMemPerMultiprocessor},
        {cudaDevAttrMaxRegistersPerMultiprocessor, p->regsPerMultiprocessor},
        {cudaDevAttrCooperativeLaunch, p->cooperativeLaunch},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, (int)p->sharedMemPerBlockOptin},
        {cudaDevAttrMaxBlocksPerMultiprocessor, p->maxBlocksPerMultiProcessor},
        {cudaDevAttrMemoryPoolsSupported, p->memoryPoolsSupported},
        {cudaDevAttrClusterLaunch, p->clusterLaunch},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].attr == attr) {
            *value = table[i].value;
            return cudaSuccess;
        }
    return cudaErrorInvalidValue;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
    struct cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess)
        return error;
    return ls_emulator_result(value ? attribute(&properties, attr, value) : cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetPCIBusId(char *pciBusId, int len, int device)
{
    struct cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error == cudaSuccess && (!pciBusId || len < 13))
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess)
        snprintf(pciBusId, (size_t)len, "0000:%02x:00.0", (unsigned)properties.pciBusID & 0xff);
    return ls_emulator_result(error);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && leastPriority)
        *leastPriority = 0;
    if (error == cudaSuccess && greatestPriority)
        *greatestPriority = -5;
    return ls_runtime_leave(error);
}
