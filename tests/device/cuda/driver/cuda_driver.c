// Stands in for NVIDIA's driver (libcuda.so.1) where cuDNN makes plans for a GPU that is not here: it takes
// the kernels that were compiled, and can do nothing else.
#include <stddef.h>

enum { SUCCESS = 0, NO_DEVICE = 100 };
enum { VERSION = 13000 };

// What cuDNN looks for, and will not call without a GPU.
#define UNAVAILABLE(X)                                                                                       \
    X(cuCtxGetCurrent)                                                                                       \
    X(cuCtxGetDevice)                                                                                        \
    X(cuCtxGetLimit)                                                                                         \
    X(cuCtxPopCurrent)                                                                                       \
    X(cuCtxPushCurrent)                                                                                      \
    X(cuDeviceGet)                                                                                           \
    X(cuDeviceGetAttribute)                                                                                  \
    X(cuDeviceGetCount)                                                                                      \
    X(cuDevicePrimaryCtxRelease)                                                                             \
    X(cuDevicePrimaryCtxReset)                                                                               \
    X(cuDevicePrimaryCtxRetain)                                                                              \
    X(cuFuncGetAttribute)                                                                                    \
    X(cuFuncSetAttribute)                                                                                    \
    X(cuInit)                                                                                                \
    X(cuKernelGetAttribute)                                                                                  \
    X(cuLaunchCooperativeKernel)                                                                             \
    X(cuLaunchKernel)                                                                                        \
    X(cuLaunchKernelEx)                                                                                      \
    X(cuLibraryLoadFromFile)                                                                                 \
    X(cuLinkAddData)                                                                                         \
    X(cuLinkAddData_v2)                                                                                      \
    X(cuLinkAddFile_v2)                                                                                      \
    X(cuLinkComplete)                                                                                        \
    X(cuLinkCreate)                                                                                          \
    X(cuLinkCreate_v2)                                                                                       \
    X(cuLinkDestroy)                                                                                         \
    X(cuMemcpyDtoH_v2)                                                                                       \
    X(cuModuleGetFunction)                                                                                   \
    X(cuModuleGetGlobal_v2)                                                                                  \
    X(cuModuleLoadData)                                                                                      \
    X(cuModuleLoadDataEx)                                                                                    \
    X(cuModuleLoadFatBinary)                                                                                 \
    X(cuModuleUnload)                                                                                        \
    X(cuOccupancyMaxActiveBlocksPerMultiprocessor)                                                           \
    X(cuOccupancyMaxPotentialClusterSize)                                                                    \
    X(cuStreamGetCtx)                                                                                        \
    X(cuStreamSynchronize)                                                                                   \
    X(cuTensorMapEncodeTiled)

#define EXPORTED __attribute__((visibility("default")))

#define DEFINE_UNAVAILABLE(name)                                                                             \
    EXPORTED int name(void);                                                                                 \
    int name(void)                                                                                           \
    {                                                                                                        \
        return NO_DEVICE;                                                                                    \
    }
UNAVAILABLE(DEFINE_UNAVAILABLE)

EXPORTED int cuDriverGetVersion(int *version);
EXPORTED int cuGetErrorName(int error, const char **text);
EXPORTED int cuGetErrorString(int error, const char **text);
EXPORTED int cuLibraryLoadData(void **library);
EXPORTED int cuLibraryGetKernel(void **kernel);
EXPORTED int cuLibraryUnload(void *library);
EXPORTED int cuKernelSetAttribute(void);

static int handle; // its address is a library and a kernel

int cuDriverGetVersion(int *version)
{
    *version = VERSION;
    return SUCCESS;
}

int cuGetErrorName(int error, const char **text)
{
    *text = error == SUCCESS ? "CUDA_SUCCESS" : "CUDA_ERROR_NO_DEVICE";
    return SUCCESS;
}

int cuGetErrorString(int error, const char **text)
{
    *text = error == SUCCESS ? "no error" : "this is no driver";
    return SUCCESS;
}

int cuLibraryLoadData(void **library)
{
    *library = &handle;
    return SUCCESS;
}

int cuLibraryGetKernel(void **kernel)
{
    *kernel = &handle;
    return SUCCESS;
}

int cuLibraryUnload(void *library)
{
    return library == &handle ? SUCCESS : NO_DEVICE;
}

int cuKernelSetAttribute(void)
{
    return SUCCESS;
}
