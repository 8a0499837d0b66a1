// A small function that C, host C++ and CUDA kernels compile from one source is marked LS_HOST_DEVICE.
#ifndef LOCKSTEP_BASE_HOST_DEVICE_H
#define LOCKSTEP_BASE_HOST_DEVICE_H

#ifdef __CUDACC__
#define LS_HOST_DEVICE __host__ __device__
#else
#define LS_HOST_DEVICE
#endif

#endif
