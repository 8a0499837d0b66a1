// Names of GPT-2's tensors in Hugging Face's layout, for every parameter of a model.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/huggingface.h"
#include "models/model.h"

// As transformers name them (GPT2LMHeadModel without its head and without "transformer."); '*' in front: the
// matrix is stored as [in][out].
static const char *const expected[] = {
    "wte.weight",
    "wpe.weight",
    "h.0.ln_1.weight",
    "h.0.ln_1.bias",
    "*h.0.attn.c_attn.weight",
    "h.0.attn.c_attn.bias",
    "*h.0.attn.c_proj.weight",
    "h.0.attn.c_proj.bias",
    "h.0.ln_2.weight",
    "h.0.ln_2.bias",
    "*h.0.mlp.c_fc.weight",
    "h.0.mlp.c_fc.bias",
    "*h.0.mlp.c_proj.weight",
    "h.0.mlp.c_proj.bias",
    "ln_f.weight",
    "ln_f.bias",
};

static void names_every_parameter(void **state)
{
    (void)state;
    LsConfig config;
    LsModel *model = NULL;
    ls_config_defaults(&config);
    config.model.kind = LS_MODEL_GPT;
    config.model.layers = 1;
    LsDataShape shape = {.window = 4, .vocabulary = 7};
    assert_int_equal(ls_model_create(&config, &shape, NULL, 1, &model), LS_OK);
    assert_int_equal(model->parameters.count, sizeof expected / sizeof expected[0]);
    for (size_t i = 0; i < model->parameters.count; i++) {
        char name[LS_NAME_MAX];
        bool transposed, wanted = expected[i][0] == '*';
        ls_huggingface_name(model->parameters.list[i].name, name, &transposed);
        assert_string_equal(name, expected[i] + wanted);
        assert_int_equal(transposed, wanted);
        assert_false(ls_huggingface_constant(name));
    }
    ls_model_destroy(model);
}

static void other_names(void **state)
{
    (void)state;
    static const char *const same[] = {
        "layers.0.weight", "blocks.x.ln1.weight", "blocks.0.ln3.weight", "blocks.0.ln1"};
    char name[LS_NAME_MAX];
    bool transposed;
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        ls_huggingface_name(same[i], name, &transposed);
        assert_string_equal(name, same[i]);
        assert_false(transposed);
    }
    ls_huggingface_name("blocks.4095.attention.projection.weight", name, &transposed);
    assert_string_equal(name, "h.4095.attn.c_proj.weight");
    assert_true(transposed);
}

static void constants(void **state)
{
    (void)state;
    assert_true(ls_huggingface_constant("h.0.attn.bias"));
    assert_true(ls_huggingface_constant("h.11.attn.masked_bias"));
    assert_false(ls_huggingface_constant("h.0.attn.c_attn.bias"));
    assert_false(ls_huggingface_constant("h.0.attn.biases"));
    assert_false(ls_huggingface_constant("attn.bias"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_every_parameter),
        cmocka_unit_test(other_names),
        cmocka_unit_test(constants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
