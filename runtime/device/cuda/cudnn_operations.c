// Loading of cuDNN, and its descriptors.
#include "cudnn_operations.h"

#include <stdio.h>

#include "base/library.h"

LsCudnnFunctions ls_cudnn;
int ls_cudnn_nvrtc[2];

// 9.15 and older read beyond windows that are no multiple of 128 when they run in a graph; from 9.18.1 on the
// deterministic backward pass is supported on all GPUs that we know.
enum { OLDEST = 91801 };

// Compiles the kernels. The library looks for it by name, which succeeds once it is loaded, wherever it was
// found.
static LsStatus load_compiler(const LsCudnnFunctions *functions)
{
    static const char *const names[] = {"nvrtcVersion"};
    int (*version)(int *major, int *minor);
    char file[32];
    snprintf(file, sizeof file, "libnvrtc.so.%d", (int)(functions->GetCudartVersion() / 1000));
    LS_TRY(ls_library_load(file, names, 1, (void **)&version));
    if (version(&ls_cudnn_nvrtc[0], &ls_cudnn_nvrtc[1]) != 0)
        return LS_FAIL(LS_UNAVAILABLE, "%s does not say its version", file);
    return LS_OK;
}

LsStatus ls_cudnn_load(void)
{
    static const char *const names[] = {
#define FUNCTION_NAME(name) "cudnn" #name,
        CUDNN_FUNCTIONS(FUNCTION_NAME)
#undef FUNCTION_NAME
    };
    LsCudnnFunctions found;
    _Static_assert(sizeof found == sizeof names, "a pointer to each");
    if (ls_cudnn.Create)
        return LS_OK;
    char file[32];
    snprintf(file, sizeof file, "libcudnn.so.%d", CUDNN_MAJOR);
    LS_TRY(ls_library_load(file, names, sizeof names / sizeof *names, (void **)&found));
    size_t version = found.GetVersion();
    if (version < OLDEST)
        return LS_FAIL(LS_UNAVAILABLE, "cuDNN %zu.%zu.%zu is too old: %d.%d.%d or newer is needed",
            version / 10000, version / 100 % 100, version % 100, OLDEST / 10000, OLDEST / 100 % 100,
            OLDEST % 100);
    LS_TRY(load_compiler(&found));
    ls_cudnn = found;
    return LS_OK;
}

LsStatus ls_cudnn_check(cudnnStatus_t status, const char *what)
{
    char why[256] = "";
    if (status == CUDNN_STATUS_SUCCESS)
        return LS_OK;
    ls_cudnn.GetLastErrorString(why, sizeof why);
    LsStatus kind = status / 1000 == CUDNN_STATUS_BAD_PARAM / 1000 ? LS_INTERNAL : LS_UNAVAILABLE;
    return LS_FAIL(
        kind, "cuDNN: %s failed: %s%s%s", what, ls_cudnn.GetErrorString(status), *why ? ": " : "", why);
}

// ---- Descriptors ----------------------------------------------------------------------------------------

void ls_cudnn_graph_release(LsCudnnGraph *graph)
{
    while (graph->count > 0)
        ls_cudnn.BackendDestroyDescriptor(graph->descriptors[--graph->count]);
}

LsCudnnDescriptor ls_cudnn_create(LsCudnnGraph *graph, cudnnBackendDescriptorType_t type)
{
    LsCudnnDescriptor created = NULL;
    if (graph->status == CUDNN_STATUS_SUCCESS && graph->count == LS_CUDNN_DESCRIPTORS)
        graph->status = CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND;
    if (graph->status == CUDNN_STATUS_SUCCESS)
        graph->status = ls_cudnn.BackendCreateDescriptor(type, &created);
    if (graph->status != CUDNN_STATUS_SUCCESS)
        return NULL;
    graph->descriptors[graph->count++] = created;
    return created;
}

void ls_cudnn_set(LsCudnnGraph *graph, LsCudnnDescriptor descriptor, cudnnBackendAttributeName_t attribute,
    cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    if (graph->status == CUDNN_STATUS_SUCCESS)
        graph->status = ls_cudnn.BackendSetAttribute(descriptor, attribute, type, count, values);
}

void ls_cudnn_set_descriptor(LsCudnnGraph *graph, LsCudnnDescriptor descriptor,
    cudnnBackendAttributeName_t attribute, LsCudnnDescriptor value)
{
    ls_cudnn_set(graph, descriptor, attribute, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

void ls_cudnn_finalize(LsCudnnGraph *graph, LsCudnnDescriptor descriptor)
{
    if (graph->status == CUDNN_STATUS_SUCCESS)
        graph->status = ls_cudnn.BackendFinalize(descriptor);
}

// ---- Tensors --------------------------------------------------------------------------------------------

// What is in memory has ids below this.
enum { FIRST_VIRTUAL = 100 };

static LsCudnnDescriptor begin_tensor(
    LsCudnnGraph *graph, int64_t id, cudnnDataType_t type, const LsCudnnLayout *layout, int64_t alignment)
{
    LsCudnnDescriptor tensor = ls_cudnn_create(graph, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    ls_cudnn_set(graph, tensor, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    ls_cudnn_set(graph, tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, layout->sizes);
    ls_cudnn_set(graph, tensor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, layout->strides);
    ls_cudnn_set(graph, tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    ls_cudnn_set(graph, tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    return tensor;
}

LsCudnnDescriptor ls_cudnn_tensor(
    LsCudnnGraph *graph, int64_t id, cudnnDataType_t type, const LsCudnnLayout *layout, int64_t alignment)
{
    LsCudnnDescriptor tensor = begin_tensor(graph, id, type, layout, alignment);
    ls_cudnn_finalize(graph, tensor);
    return tensor;
}

LsCudnnDescriptor ls_cudnn_between(LsCudnnGraph *graph, cudnnDataType_t type, const LsCudnnLayout *layout)
{
    const bool is_virtual = true;
    int64_t id = FIRST_VIRTUAL + graph->virtual_tensors++;
    LsCudnnDescriptor tensor = begin_tensor(graph, id, type, layout, 16);
    ls_cudnn_set(graph, tensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    ls_cudnn_finalize(graph, tensor);
    return tensor;
}

LsCudnnDescriptor ls_cudnn_scalar(LsCudnnGraph *graph, int64_t id)
{
    static const LsCudnnLayout one = {{1, 1, 1, 1}, {1, 1, 1, 1}};
    const bool by_value = true;
    LsCudnnDescriptor tensor = begin_tensor(graph, id, CUDNN_DATA_FLOAT, &one, 16);
    ls_cudnn_set(graph, tensor, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    ls_cudnn_finalize(graph, tensor);
    return tensor;
}

// ---- Operations -----------------------------------------------------------------------------------------

static const cudnnDataType_t float_type = CUDNN_DATA_FLOAT;

static void end_operation(LsCudnnGraph *graph, LsCudnnDescriptor operation)
{
    ls_cudnn_finalize(graph, operation);
    if (graph->status == CUDNN_STATUS_SUCCESS && graph->operation_count == LS_CUDNN_OPERATIONS)
        graph->status = CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND;
    if (graph->status == CUDNN_STATUS_SUCCESS)
        graph->operations[graph->operation_count++] = operation;
}

LsCudnnDescriptor ls_cudnn_matmul(
    LsCudnnGraph *graph, LsCudnnDescriptor a, LsCudnnDescriptor b, LsCudnnDescriptor out)
{
    LsCudnnDescriptor product = ls_cudnn_create(graph, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    ls_cudnn_set(graph, product, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &float_type);
    ls_cudnn_finalize(graph, product);
    LsCudnnDescriptor operation = ls_cudnn_create(graph, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_MATMUL_DESC, product);
    ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_MATMUL_CDESC, out);
    end_operation(graph, operation);
    return out;
}

// axis below 0: of no axis. b and condition may be NULL.
static LsCudnnDescriptor pointwise(LsCudnnGraph *graph, cudnnPointwiseMode_t mode, int64_t axis,
    LsCudnnDescriptor a, LsCudnnDescriptor b, LsCudnnDescriptor condition, LsCudnnDescriptor out)
{
    cudnnDataType_t type = mode == CUDNN_POINTWISE_CMP_GE ? CUDNN_DATA_BOOLEAN : CUDNN_DATA_FLOAT;
    LsCudnnDescriptor function = ls_cudnn_create(graph, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    ls_cudnn_set(graph, function, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    ls_cudnn_set(graph, function, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
    if (axis >= 0)
        ls_cudnn_set(graph, function, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    ls_cudnn_finalize(graph, function);
    LsCudnnDescriptor operation = ls_cudnn_create(graph, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, function);
    ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, a);
    if (b)
        ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    if (condition)
        ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, condition);
    ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, out);
    end_operation(graph, operation);
    return out;
}

LsCudnnDescriptor ls_cudnn_pointwise(LsCudnnGraph *graph, cudnnPointwiseMode_t mode, LsCudnnDescriptor a,
    LsCudnnDescriptor b, LsCudnnDescriptor out)
{
    return pointwise(graph, mode, -1, a, b, NULL, out);
}

LsCudnnDescriptor ls_cudnn_index(
    LsCudnnGraph *graph, int64_t axis, LsCudnnDescriptor like, LsCudnnDescriptor out)
{
    return pointwise(graph, CUDNN_POINTWISE_GEN_INDEX, axis, like, NULL, NULL, out);
}

LsCudnnDescriptor ls_cudnn_select(LsCudnnGraph *graph, LsCudnnDescriptor condition, LsCudnnDescriptor yes,
    LsCudnnDescriptor no, LsCudnnDescriptor out)
{
    return pointwise(graph, CUDNN_POINTWISE_BINARY_SELECT, -1, yes, no, condition, out);
}

LsCudnnDescriptor ls_cudnn_reduce(
    LsCudnnGraph *graph, cudnnReduceTensorOp_t mode, LsCudnnDescriptor a, LsCudnnDescriptor out)
{
    LsCudnnDescriptor sum = ls_cudnn_create(graph, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    ls_cudnn_set(graph, sum, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode);
    ls_cudnn_set(graph, sum, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &float_type);
    ls_cudnn_finalize(graph, sum);
    LsCudnnDescriptor operation = ls_cudnn_create(graph, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_REDUCTION_DESC, sum);
    ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, a);
    ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, out);
    end_operation(graph, operation);
    return out;
}

LsCudnnDescriptor ls_cudnn_reshape(LsCudnnGraph *graph, LsCudnnDescriptor a, LsCudnnDescriptor out)
{
    LsCudnnDescriptor operation = ls_cudnn_create(graph, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, a);
    ls_cudnn_set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, out);
    end_operation(graph, operation);
    return out;
}

// ---- Convolutions ---------------------------------------------------------------------------------------

static LsCudnnDescriptor window_of(LsCudnnGraph *graph, const LsCudnnFilter *filter)
{
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t sides = 2, ones[2] = {1, 1}, strides[2] = {filter->stride, filter->stride};
    const int64_t paddings[2] = {filter->padding, filter->padding};
    LsCudnnDescriptor window = ls_cudnn_create(graph, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    ls_cudnn_set(graph, window, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &float_type);
    ls_cudnn_set(graph, window, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    ls_cudnn_set(graph, window, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &sides);
    ls_cudnn_set(graph, window, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, ones);
    ls_cudnn_set(graph, window, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, strides);
    ls_cudnn_set(graph, window, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, paddings);
    ls_cudnn_set(graph, window, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, paddings);
    ls_cudnn_finalize(graph, window);
    return window;
}

void ls_cudnn_convolve(LsCudnnGraph *graph, const LsCudnnFilter *filter)
{
    // The library has names of its own for the same attributes of each direction.
    static const struct {
        cudnnBackendDescriptorType_t type;
        cudnnBackendAttributeName_t window, x, weight, y, factor, before;
    } names[] = {
        [LS_CUDNN_CONVOLUTION] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
            CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
            CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
            CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
        [LS_CUDNN_BACKWARD_DATA] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
        [LS_CUDNN_BACKWARD_WEIGHTS] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
    };
    const float one = 1, zero = 0;
    LsCudnnDescriptor window = window_of(graph, filter);
    LsCudnnDescriptor operation = ls_cudnn_create(graph, names[filter->direction].type);
    ls_cudnn_set_descriptor(graph, operation, names[filter->direction].window, window);
    ls_cudnn_set_descriptor(graph, operation, names[filter->direction].x, filter->x);
    ls_cudnn_set_descriptor(graph, operation, names[filter->direction].weight, filter->weight);
    ls_cudnn_set_descriptor(graph, operation, names[filter->direction].y, filter->y);
    ls_cudnn_set(graph, operation, names[filter->direction].factor, CUDNN_TYPE_FLOAT, 1, &one);
    ls_cudnn_set(graph, operation, names[filter->direction].before, CUDNN_TYPE_FLOAT, 1, &zero);
    end_operation(graph, operation);
}
