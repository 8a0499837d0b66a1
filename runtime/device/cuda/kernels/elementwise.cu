// Kernels that work on each element by itself: cast, normalize, activations, add.
#include "activation.cuh"
#include "flat.cuh"
#include "rows.cuh"

namespace
{

// ---- Flat buffers ---------------------------------------------------------------------------------------

struct Keep {
    __device__ float operator()(const float (&x)[1]) const
    {
        return x[0];
    }
};

struct Add {
    __device__ float operator()(const float (&x)[2]) const
    {
        return x[0] + x[1];
    }
};

template <LsActivation ACTIVATION> struct Backward {
    __device__ float operator()(const float (&x)[2]) const
    {
        return activate_backward<ACTIVATION>(x[0], x[1]); // saved, dy
    }
};

template <typename From, typename To>
cudaError_t cast(cudaStream_t stream, size_t n, const void *from, void *to)
{
    if constexpr (std::is_same<From, To>::value)
        return cudaMemcpyAsync(to, from, n * sizeof(To), cudaMemcpyDeviceToDevice, stream);
    else
        return map(stream, n, FlatBuffers<From, To, 1>{{(const From *)from}, (To *)to}, Keep());
}

template <typename T, typename Op>
cudaError_t map_two(cudaStream_t stream, size_t n, const void *a, const void *b, void *y, const Op &op)
{
    return map(stream, n, FlatBuffers<T, T, 2>{{(const T *)a, (const T *)b}, (T *)y}, op);
}

// ---- Matrices whose columns have parameters -------------------------------------------------------------

template <typename In, typename Out> struct Normalize {
    typedef In Input;
    static constexpr int N = group_size<In, Out>(), STEPS = 4;
    const In *x;
    const float *shift, *scale;
    size_t period;
    Out *y;

    struct Column {
        float shift[N], scale[N];
    };

    __device__ Column column(size_t first, size_t columns) const
    {
        Column parameters;
#pragma unroll
        for (int j = 0; j < N; j++) {
            size_t feature = first + j >= columns ? 0 : (first + j) % period;
            parameters.shift[j] = shift[feature];
            parameters.scale[j] = scale[feature];
        }
        return parameters;
    }

    template <bool VECTOR>
    __device__ void finish(const RowPlace &place, const Group<In, N> &held, const Column &parameters) const
    {
        float result[N];
#pragma unroll
        for (int j = 0; j < N; j++)
            result[j] = (held[j] - parameters.shift[j]) * parameters.scale[j];
        store_group<VECTOR, N>(y + place.start(), place.column, place.columns, round_group<Out>(result));
    }

    bool aligned(size_t columns) const
    {
        return columns % N == 0 && is_aligned(x, N * sizeof(In)) && is_aligned(y, N * sizeof(Out));
    }
};

template <typename In, typename Out> cudaError_t normalize(cudaStream_t stream, const LsNormalize *args)
{
    Normalize<In, Out> op = {(const In *)args->x, args->shift, args->scale, args->period, (Out *)args->y};
    return each_row(stream, args->rows, args->columns, op);
}

__device__ __forceinline__ float load_number(const void *array, LsDtype type, size_t i)
{
    if (type == LS_F32)
        return ((const float *)array)[i];
    return type == LS_BF16 ? to_float(((const __nv_bfloat16 *)array)[i])
                           : to_float(((const __half *)array)[i]);
}

template <LsActivation ACTIVATION, typename T> struct BiasActivation {
    typedef T Input;
    static constexpr int N = group_size<T>(), STEPS = 2;
    const T *x;
    const void *bias;
    LsDtype bias_type;
    T *pre, *y;

    struct Column {
        float bias[N];
    };

    __device__ Column column(size_t first, size_t columns) const
    {
        Column parameters;
#pragma unroll
        for (int j = 0; j < N; j++)
            parameters.bias[j] =
                bias && first + j < columns ? load_number(bias, bias_type, first + j) : -0.0f;
        return parameters;
    }

    template <bool VECTOR>
    __device__ void finish(const RowPlace &place, const Group<T, N> &held, const Column &parameters) const
    {
        float before[N], after[N];
#pragma unroll
        for (int j = 0; j < N; j++) {
            before[j] = held[j] + parameters.bias[j];
            after[j] = activate<ACTIVATION>(before[j]);
        }
        if (pre)
            store_group<VECTOR, N>(pre + place.start(), place.column, place.columns, round_group<T>(before));
        store_group<VECTOR, N>(y + place.start(), place.column, place.columns, round_group<T>(after));
    }

    bool aligned(size_t columns) const
    {
        return columns % N == 0 && is_aligned(x, VECTOR_BYTES) && is_aligned(y, VECTOR_BYTES) &&
               is_aligned(pre, VECTOR_BYTES);
    }
};

template <LsActivation ACTIVATION, typename T>
cudaError_t bias_activation(cudaStream_t stream, const LsBiasActivation *args)
{
    BiasActivation<ACTIVATION, T> op = {
        (const T *)args->x, args->bias, args->bias_type, (T *)args->pre, (T *)args->y};
    return each_row(stream, args->rows, args->columns, op);
}

// Calls `function` with the activation as a constant.
template <typename Function> cudaError_t with_activation(LsActivation activation, Function function)
{
    switch (activation) {
    case LS_IDENTITY:
        return function(std::integral_constant<LsActivation, LS_IDENTITY>());
    case LS_RELU:
        return function(std::integral_constant<LsActivation, LS_RELU>());
    case LS_GELU:
        return function(std::integral_constant<LsActivation, LS_GELU>());
    }
    return cudaErrorInvalidValue;
}

} // namespace

cudaError_t ls_kernel_cast(cudaStream_t stream, const LsCast *args)
{
    return with_type(args->from_type, [&](auto from) {
        return with_type(args->to_type, [&](auto to) {
            return cast<decltype(from), decltype(to)>(stream, args->n, args->from, args->to);
        });
    });
}

cudaError_t ls_kernel_normalize(cudaStream_t stream, const LsNormalize *args)
{
    return with_type(args->y_type, [&](auto y) {
        if (args->x_type == LS_U8)
            return normalize<uint8_t, decltype(y)>(stream, args);
        return args->x_type == LS_F32 ? normalize<float, decltype(y)>(stream, args) : cudaErrorInvalidValue;
    });
}

cudaError_t ls_kernel_activation_backward(cudaStream_t stream, const LsActivationBackward *args)
{
    return with_type(args->type, [&](auto type) {
        return with_activation(args->activation, [&](auto activation) {
            return map_two<decltype(type)>(
                stream, args->n, args->saved, args->dy, args->dx, Backward<decltype(activation)::value>());
        });
    });
}

cudaError_t ls_kernel_add(cudaStream_t stream, const LsAdd *args)
{
    return with_type(args->type, [&](auto type) {
        return map_two<decltype(type)>(stream, args->n, args->a, args->b, args->y, Add());
    });
}

cudaError_t ls_kernel_bias_activation(cudaStream_t stream, const LsBiasActivation *args)
{
    return with_type(args->type, [&](auto type) {
        return with_activation(args->activation, [&](auto activation) {
            return bias_activation<decltype(activation)::value, decltype(type)>(stream, args);
        });
    });
}
