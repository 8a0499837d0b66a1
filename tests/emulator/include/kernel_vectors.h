// CUDA's vector types, with CUDA's alignments, and their make_ functions. Included by cuda_runtime.h.
#ifndef LOCKSTEP_EMULATOR_KERNEL_VECTORS_H
#define LOCKSTEP_EMULATOR_KERNEL_VECTORS_H

#define LS_VECTOR_2(name, type, align)                                                                       \
    struct __attribute__((aligned(align))) name {                                                            \
        type x, y;                                                                                           \
    };                                                                                                       \
    static inline name make_##name(type x, type y)                                                           \
    {                                                                                                        \
        return name{x, y};                                                                                   \
    }
#define LS_VECTOR_4(name, type, align)                                                                       \
    struct __attribute__((aligned(align))) name {                                                            \
        type x, y, z, w;                                                                                     \
    };                                                                                                       \
    static inline name make_##name(type x, type y, type z, type w)                                           \
    {                                                                                                        \
        return name{x, y, z, w};                                                                             \
    }

LS_VECTOR_2(char2, signed char, 2)
LS_VECTOR_2(uchar2, unsigned char, 2)
LS_VECTOR_2(short2, short, 4)
LS_VECTOR_2(ushort2, unsigned short, 4)
LS_VECTOR_2(int2, int, 8)
LS_VECTOR_2(uint2, unsigned int, 8)
LS_VECTOR_2(float2, float, 8)
LS_VECTOR_2(longlong2, long long, 16)
LS_VECTOR_2(ulonglong2, unsigned long long, 16)
LS_VECTOR_2(double2, double, 16)
LS_VECTOR_4(char4, signed char, 4)
LS_VECTOR_4(uchar4, unsigned char, 4)
LS_VECTOR_4(short4, short, 8)
LS_VECTOR_4(ushort4, unsigned short, 8)
LS_VECTOR_4(int4, int, 16)
LS_VECTOR_4(uint4, unsigned int, 16)
LS_VECTOR_4(float4, float, 16)

#undef LS_VECTOR_2
#undef LS_VECTOR_4

struct int3 {
    int x, y, z;
};

struct float3 {
    float x, y, z;
};

static inline int3 make_int3(int x, int y, int z)
{
    return int3{x, y, z};
}

static inline uint3 make_uint3(unsigned int x, unsigned int y, unsigned int z)
{
    return uint3{x, y, z};
}

static inline float3 make_float3(float x, float y, float z)
{
    return float3{x, y, z};
}

#endif
