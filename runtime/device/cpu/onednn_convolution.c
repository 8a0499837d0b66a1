// Convolutions through oneDNN 2.x. Images stay in the layout that the ops have, which the library's kernels
// for BF16 read without copying; filters are brought into the layout that the library asks for with each
// call, since they change from step to step and are small beside images.
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "onednn_state.h"

// Everything that selects a kernel. Compared as bytes, so it is always zeroed before it is filled.
typedef struct ConvolverKey {
    LsConvolutionShape shape;
    uint8_t type, kind;
} ConvolverKey;

struct LsConvolver {
    ConvolverKey key;
    LsConvolver *next;
    dnnl_primitive_t convolution;
    dnnl_primitive_t
        reorder; // of filters from plain to packed, of their gradient back; NULL: the same layout
    dnnl_memory_t x, y, plain, packed, scratchpad; // pointers are put into them at each execution
};

static void destroy_memory(dnnl_memory_t memory)
{
    if (memory)
        dnnl_memory_destroy(memory);
}

static void destroy_convolver(LsConvolver *convolver)
{
    destroy_memory(convolver->scratchpad);
    destroy_memory(convolver->packed);
    destroy_memory(convolver->plain);
    destroy_memory(convolver->y);
    destroy_memory(convolver->x);
    if (convolver->reorder)
        dnnl_primitive_destroy(convolver->reorder);
    if (convolver->convolution)
        dnnl_primitive_destroy(convolver->convolution);
    free(convolver);
}

void ls_onednn_forget_convolutions(LsOnednn *onednn)
{
    for (size_t i = 0; i < LS_CONVOLVER_LISTS; i++)
        while (onednn->convolvers[i]) {
            LsConvolver *next = onednn->convolvers[i]->next;
            destroy_convolver(onednn->convolvers[i]);
            onednn->convolvers[i] = next;
        }
}

// ---- Descriptions ---------------------------------------------------------------------------------------

// What a convolution is described by: tensors in the library's order of dimensions, and how windows move.
typedef struct Description {
    dnnl_memory_desc_t x, y, plain, packed;
    dnnl_dims_t strides, padding;
} Description;

static dnnl_data_type_t library_type(LsDtype type)
{
    return type == LS_BF16 ? dnnl_bf16 : dnnl_f32;
}

static LsStatus describe_tensor(
    dnnl_memory_desc_t *tensor, const dnnl_dims_t sizes, dnnl_data_type_t type, dnnl_format_tag_t tag)
{
    return ls_onednn_check(dnnl_memory_desc_init_by_tag(tensor, 4, sizes, type, tag), "describe images");
}

static LsStatus describe(const ConvolverKey *key, Description *out)
{
    const LsImageWindow *window = &key->shape.window;
    dnnl_dim_t rows = (dnnl_dim_t)window->rows, in = (dnnl_dim_t)key->shape.in;
    dnnl_dim_t filters = (dnnl_dim_t)key->shape.out, kernel = (dnnl_dim_t)window->kernel;
    dnnl_dim_t high = (dnnl_dim_t)ls_image_places(window, window->height);
    dnnl_dim_t wide = (dnnl_dim_t)ls_image_places(window, window->width);
    const dnnl_dims_t x = {rows, in, (dnnl_dim_t)window->height, (dnnl_dim_t)window->width};
    const dnnl_dims_t y = {rows, filters, high, wide}, weights = {filters, in, kernel, kernel};
    dnnl_data_type_t type = library_type((LsDtype)key->type);
    dnnl_data_type_t filter_type = key->kind == LS_CONVOLVE_WEIGHTS ? dnnl_f32 : type;
    LS_TRY(describe_tensor(&out->x, x, type, dnnl_nhwc));
    LS_TRY(describe_tensor(&out->y, y, type, dnnl_nhwc));
    LS_TRY(describe_tensor(&out->plain, weights, filter_type, dnnl_ohwi));
    LS_TRY(describe_tensor(&out->packed, weights, filter_type, dnnl_format_tag_any));
    for (int d = 0; d < 2; d++) {
        out->strides[d] = (dnnl_dim_t)window->stride;
        out->padding[d] = (dnnl_dim_t)window->padding;
    }
    return LS_OK;
}

static LsStatus make_attributes(dnnl_primitive_attr_t *out)
{
    TRY_DNNL(dnnl_primitive_attr_create(out), "make attributes");
    LsStatus status = ls_onednn_check(
        dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user), "use our scratchpad");
    if (status != LS_OK)
        dnnl_primitive_attr_destroy(*out);
    return status;
}

// Gradients want a hint: the description of the forward pass that they belong to.
static LsStatus describe_primitive(LsOnednn *onednn, const dnnl_convolution_desc_t *convolution,
    const_dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *out)
{
    dnnl_primitive_attr_t attributes;
    LS_TRY(make_attributes(&attributes));
    LsStatus status =
        ls_onednn_check(dnnl_primitive_desc_create(out, convolution, attributes, onednn->engine, hint),
            "convolve images of these types");
    dnnl_primitive_attr_destroy(attributes);
    return status;
}

static LsStatus describe_forward(
    LsOnednn *onednn, const Description *d, bool hint, dnnl_primitive_desc_t *out)
{
    dnnl_convolution_desc_t convolution;
    dnnl_memory_desc_t filters = d->packed;
    filters.data_type = d->x.data_type; // a gradient's are F32 whatever the images are
    TRY_DNNL(dnnl_convolution_forward_desc_init(&convolution,
                 hint ? dnnl_forward_training : dnnl_forward_inference, dnnl_convolution_direct, &d->x,
                 &filters, NULL, &d->y, d->strides, d->padding, d->padding),
        "describe a convolution");
    return describe_primitive(onednn, &convolution, NULL, out);
}

static LsStatus describe_gradient(
    LsOnednn *onednn, const Description *d, bool data, dnnl_primitive_desc_t *out)
{
    dnnl_primitive_desc_t hint;
    dnnl_convolution_desc_t convolution;
    if (data)
        TRY_DNNL(dnnl_convolution_backward_data_desc_init(&convolution, dnnl_convolution_direct, &d->x,
                     &d->packed, &d->y, d->strides, d->padding, d->padding),
            "describe a convolution's gradient");
    else
        TRY_DNNL(dnnl_convolution_backward_weights_desc_init(&convolution, dnnl_convolution_direct, &d->x,
                     &d->packed, NULL, &d->y, d->strides, d->padding, d->padding),
            "describe a convolution's gradient");
    LS_TRY(describe_forward(onednn, d, true, &hint));
    LsStatus status = describe_primitive(onednn, &convolution, hint, out);
    dnnl_primitive_desc_destroy(hint);
    return status;
}

// ---- Kernels --------------------------------------------------------------------------------------------

static LsStatus make_reorder(LsOnednn *onednn, LsConvolver *convolver, const Description *d)
{
    bool back = convolver->key.kind == LS_CONVOLVE_WEIGHTS;
    dnnl_primitive_desc_t description;
    if (dnnl_memory_desc_equal(&d->plain, &d->packed))
        return LS_OK;
    dnnl_primitive_attr_t attributes;
    LS_TRY(make_attributes(&attributes));
    LsStatus status =
        ls_onednn_check(dnnl_reorder_primitive_desc_create(&description, back ? &d->packed : &d->plain,
                            onednn->engine, back ? &d->plain : &d->packed, onednn->engine, attributes),
            "bring filters into another layout");
    dnnl_primitive_attr_destroy(attributes);
    LS_TRY(status);
    status = ls_onednn_check(
        dnnl_primitive_create(&convolver->reorder, description), "bring filters into another layout");
    if (status == LS_OK)
        status = ls_cpu_memory_grow(
            &onednn->scratchpad, dnnl_memory_desc_get_size(
                                     dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0)));
    dnnl_primitive_desc_destroy(description);
    if (status == LS_OK)
        status = ls_cpu_memory_grow(&onednn->packed, dnnl_memory_desc_get_size(&d->packed));
    return status;
}

static LsStatus make_memory(LsOnednn *onednn, const dnnl_memory_desc_t *description, dnnl_memory_t *out)
{
    return ls_onednn_check(
        dnnl_memory_create(out, description, onednn->engine, DNNL_MEMORY_NONE), "describe an operand");
}

static LsStatus fill_convolver(
    LsOnednn *onednn, LsConvolver *convolver, Description *d, dnnl_primitive_desc_t description)
{
    bool gradient = convolver->key.kind == LS_CONVOLVE_WEIGHTS;
    const dnnl_memory_desc_t *scratchpad =
        dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
    d->packed = *dnnl_primitive_desc_query_md(
        description, gradient ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0);
    LS_TRY(make_memory(onednn, &d->x, &convolver->x));
    LS_TRY(make_memory(onednn, &d->y, &convolver->y));
    LS_TRY(make_memory(onednn, &d->plain, &convolver->plain));
    LS_TRY(make_memory(onednn, &d->packed, &convolver->packed));
    LS_TRY(make_memory(onednn, scratchpad, &convolver->scratchpad));
    LS_TRY(ls_cpu_memory_grow(&onednn->scratchpad, dnnl_memory_desc_get_size(scratchpad)));
    LS_TRY(make_reorder(onednn, convolver, d));
    return ls_onednn_check(
        dnnl_primitive_create(&convolver->convolution, description), "build a convolution");
}

static LsStatus build_convolver(LsOnednn *onednn, const ConvolverKey *key, LsConvolver **out)
{
    Description d;
    dnnl_primitive_desc_t description;
    LS_TRY(describe(key, &d));
    if (key->kind == LS_CONVOLVE_FORWARD)
        LS_TRY(describe_forward(onednn, &d, false, &description));
    else
        LS_TRY(describe_gradient(onednn, &d, key->kind == LS_CONVOLVE_DATA, &description));
    LsConvolver *convolver;
    LsStatus status = ls_memory_allocate(sizeof *convolver, (void **)&convolver);
    if (status == LS_OK) {
        memcpy(&convolver->key, key, sizeof *key); // with its padding
        status = fill_convolver(onednn, convolver, &d, description);
        if (status != LS_OK)
            destroy_convolver(convolver);
    }
    dnnl_primitive_desc_destroy(description);
    LS_TRY(status);
    LsConvolver **list = &onednn->convolvers[ls_hash64(key, sizeof *key) % LS_CONVOLVER_LISTS];
    convolver->next = *list;
    *list = *out = convolver;
    return LS_OK;
}

static LsConvolver *find_convolver(const LsOnednn *onednn, const ConvolverKey *key)
{
    LsConvolver *convolver = onednn->convolvers[ls_hash64(key, sizeof *key) % LS_CONVOLVER_LISTS];
    while (convolver && memcmp(&convolver->key, key, sizeof *key) != 0)
        convolver = convolver->next;
    return convolver;
}

// ---- Execution ------------------------------------------------------------------------------------------

static LsStatus run_reorder(
    LsOnednn *onednn, const LsConvolver *convolver, dnnl_memory_t from, dnnl_memory_t to)
{
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    return ls_onednn_check(dnnl_primitive_execute(convolver->reorder, onednn->stream, 2, arguments),
        "bring filters into another layout");
}

static LsStatus run_convolution(LsOnednn *onednn, const LsConvolver *convolver, dnnl_memory_t filters)
{
    static const int x[] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_SRC, DNNL_ARG_SRC};
    static const int weights[] = {DNNL_ARG_WEIGHTS, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_WEIGHTS};
    static const int y[] = {DNNL_ARG_DST, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_DST};
    int kind = convolver->key.kind;
    const dnnl_exec_arg_t arguments[] = {{x[kind], convolver->x}, {weights[kind], filters},
        {y[kind], convolver->y}, {DNNL_ARG_SCRATCHPAD, convolver->scratchpad}};
    return ls_onednn_check(
        dnnl_primitive_execute(convolver->convolution, onednn->stream, 4, arguments), "convolve images");
}

static LsStatus point(dnnl_memory_t memory, const void *at)
{
    return ls_onednn_check(dnnl_memory_set_data_handle(memory, (void *)at), "set an operand");
}

LsStatus ls_onednn_convolve(LsOnednn *onednn, LsConvolverKind kind, const LsConvolutionShape *shape,
    LsDtype type, const void *x, const void *filters, const void *y)
{
    ConvolverKey key;
    memset(&key, 0, sizeof key);
    key.shape = *shape;
    key.type = (uint8_t)type;
    key.kind = (uint8_t)kind;
    LsConvolver *convolver = find_convolver(onednn, &key);
    if (!convolver)
        LS_TRY(build_convolver(onednn, &key, &convolver));
    LS_TRY(point(convolver->x, x));
    LS_TRY(point(convolver->y, y));
    LS_TRY(point(convolver->plain, filters));
    LS_TRY(point(convolver->packed, onednn->packed.memory));
    LS_TRY(point(convolver->scratchpad, onednn->scratchpad.memory));
    dnnl_memory_t used = convolver->reorder ? convolver->packed : convolver->plain;
    if (convolver->reorder && kind != LS_CONVOLVE_WEIGHTS)
        LS_TRY(run_reorder(onednn, convolver, convolver->plain, used));
    LS_TRY(run_convolution(onednn, convolver, used));
    if (convolver->reorder && kind == LS_CONVOLVE_WEIGHTS)
        return run_reorder(onednn, convolver, used, convolver->plain);
    return LS_OK;
}
