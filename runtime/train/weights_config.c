// config.json of a GPT-2, as transformers write and read it.
#include <string.h>

#include "base/text.h"
#include "train/weights.h"

json_t *ls_weights_config(const LsGptSizes *sizes, LsDtype type, uint32_t end_of_text)
{
    json_int_t end = end_of_text;
    return json_pack(
        "{s:s, s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:n, s:s, s:f, s:f, s:f, s:f, s:f, s:b, s:b, "
        "s:b, s:b, s:I, s:I}",
        "model_type", "gpt2", "architectures", "GPT2LMHeadModel", "torch_dtype", ls_dtype_name(type),
        "vocab_size", (json_int_t)sizes->vocabulary, "n_positions", (json_int_t)sizes->positions, "n_embd",
        (json_int_t)sizes->width, "n_layer", (json_int_t)sizes->layers, "n_head", (json_int_t)sizes->heads,
        "n_inner", "activation_function", "gelu_new", "layer_norm_epsilon", 1e-5, "initializer_range", 0.02,
        "embd_pdrop", 0.1, "attn_pdrop", 0.1, "resid_pdrop", 0.1, "scale_attn_weights", 1,
        "scale_attn_by_inverse_layer_idx", 0, "reorder_and_upcast_attn", 0, "tie_word_embeddings", 1,
        "bos_token_id", end, "eos_token_id", end);
}

static LsStatus fail(const char *name, const char *member, const char *what)
{
    return LS_FAIL(LS_CHECKPOINT, "%s: %s is not %s: weights of another architecture", name, member, what);
}

// A member that is missing means what transformers take it for, which is what we have.
static LsStatus check_text(
    const json_t *config, const char *name, const char *member, const char *first, const char *second)
{
    const json_t *value = json_object_get(config, member);
    const char *text = json_string_value(value);
    if (!value || (text && (strcmp(text, first) == 0 || strcmp(text, second) == 0)))
        return LS_OK;
    return fail(name, member, first);
}

static LsStatus check_flag(const json_t *config, const char *name, const char *member, bool wanted)
{
    const json_t *value = json_object_get(config, member);
    if (!value || (wanted ? json_is_true(value) : json_is_false(value)))
        return LS_OK;
    return fail(name, member, wanted ? "true" : "false");
}

static LsStatus check_size(const json_t *config, const char *name, const char *member, size_t wanted)
{
    const json_t *value = json_object_get(config, member);
    json_int_t size = json_integer_value(value);
    if (!value || (json_is_integer(value) && size > 0 && (size_t)size == wanted))
        return LS_OK;
    return LS_FAIL(
        LS_CHECKPOINT, "%s: %s is not %zu, which is what the tensors beside it have", name, member, wanted);
}

static LsStatus check_architecture(const json_t *config, const char *name, size_t width)
{
    const json_t *inner = json_object_get(config, "n_inner");
    const json_t *epsilon = json_object_get(config, "layer_norm_epsilon");
    LS_TRY(check_text(config, name, "model_type", "gpt2", "gpt2"));
    // Two names of GELU in its tanh form.
    LS_TRY(check_text(config, name, "activation_function", "gelu_new", "gelu_pytorch_tanh"));
    LS_TRY(check_flag(config, name, "tie_word_embeddings", true));
    LS_TRY(check_flag(config, name, "scale_attn_weights", true));
    LS_TRY(check_flag(config, name, "scale_attn_by_inverse_layer_idx", false));
    LS_TRY(check_flag(config, name, "add_cross_attention", false));
    if (inner && !json_is_null(inner))
        LS_TRY(check_size(config, name, "n_inner", 4 * width));
    if (epsilon && json_number_value(epsilon) != 1e-5) // exact: both are read from the same text
        return fail(name, "layer_norm_epsilon", "1e-05");
    return LS_OK;
}

LsStatus ls_weights_check_config(const json_t *config, const char *name, LsGptSizes *sizes)
{
    LS_TRY(check_architecture(config, name, sizes->width));
    LS_TRY(check_size(config, name, "n_layer", sizes->layers));
    LS_TRY(check_size(config, name, "n_embd", sizes->width));
    LS_TRY(check_size(config, name, "n_positions", sizes->positions));
    LS_TRY(check_size(config, name, "vocab_size", sizes->vocabulary));
    const json_t *heads = json_object_get(config, "n_head");
    if (!heads)
        return LS_OK;
    if (!json_is_integer(heads) || json_integer_value(heads) < 1)
        return LS_FAIL(LS_CHECKPOINT, "%s: n_head is no number of heads", name);
    sizes->heads = (size_t)json_integer_value(heads);
    return LS_OK;
}
