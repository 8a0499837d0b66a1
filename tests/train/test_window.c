// The window for gradients that are not kept: regions where backward says that it has come there, which take
// turns in its halves, and buckets within them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "window.h"

static void set(LsConfig *config, const char *name, const char *value)
{
    assert_int_equal(ls_config_set(config, name, value, "test"), LS_OK);
}

static const LsParameter *parameter_at(const LsModel *model, size_t offset)
{
    for (size_t i = 0; i < model->parameters.count; i++)
        if (model->parameters.list[i].offset == offset)
            return &model->parameters.list[i];
    return NULL;
}

static void check_region(const LsModel *model, const LsWindow *window, size_t r)
{
    const LsRegion *region = &window->region[r];
    bool early = model->early_elements > 0 && r + 1 == window->regions;
    const LsParameter *first = parameter_at(model, region->first_block * LS_BLOCK);
    assert_true(region->blocks > 0 && region->place + region->blocks <= window->blocks);
    assert_non_null(first);
    assert_true(early || first->stage || region->first_block * LS_BLOCK == model->early_elements);
    for (size_t other = 0; other < r; other++) { // what is written while its neighbour is reduced lies apart
        const LsRegion *o = &window->region[other];
        bool apart = o->place + o->blocks <= region->place || region->place + region->blocks <= o->place;
        assert_true(apart || (!early && (r - other) % 2 == 0));
    }
}

static void check_buckets(const LsModel *model, const LsWindow *window, const LsBuckets *buckets, size_t most)
{
    size_t end = model->parameters.blocks, next = 0;
    for (size_t r = 0; r < window->regions; r++) {
        const LsRegion *region = &window->region[r];
        assert_int_equal(region->first_block + region->blocks, end);
        assert_int_equal(region->first_bucket, next);
        for (size_t b = next; b < next + region->buckets; b++) {
            LsBucket bucket = buckets->bucket[b];
            assert_int_equal(bucket.first_block + bucket.blocks, end);
            assert_in_range(bucket.blocks, 1, most);
            end = bucket.first_block;
            assert_int_equal(ls_window_place(window, buckets, b),
                (region->place + bucket.first_block - region->first_block) * LS_BLOCK);
        }
        next += region->buckets;
        assert_int_equal(end, region->first_block);
    }
    assert_int_equal(end, 0);
    assert_int_equal(next, buckets->count);
}

// Every tensor's gradient lies in its region's part of the window.
static void check_places(LsModel *model, const LsWindow *window)
{
    float *base = NULL;
    model->places = &window->places;
    for (size_t i = 0; i < model->parameters.count; i++) {
        size_t offset = model->parameters.list[i].offset, block = offset / LS_BLOCK;
        const LsRegion *region = window->region;
        while (block < region->first_block)
            region++;
        size_t place = (region->place + block - region->first_block) * LS_BLOCK;
        assert_int_equal((uintptr_t)ls_model_gradient(model, base, offset), place * sizeof *base);
    }
    model->places = NULL;
}

static void check(const LsConfig *config, const LsDataShape *shape, size_t *window_blocks, size_t *all)
{
    static const size_t sizes[] = {1, 3, 10, 1000}; // blocks of a bucket
    LsModel *model;
    assert_int_equal(ls_model_create(config, shape, NULL, 8, &model), LS_OK);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        LsWindow window;
        LsBuckets buckets;
        assert_int_equal(
            ls_window_create(model, sizes[i] * LS_BLOCK * sizeof(float), &window, &buckets), LS_OK);
        for (size_t r = 0; r < window.regions; r++)
            check_region(model, &window, r);
        check_buckets(model, &window, &buckets, sizes[i]);
        check_places(model, &window);
        assert_true(window.blocks <= model->parameters.blocks);
        if (i == 1)
            *window_blocks = window.blocks;
        ls_window_free(&window);
        ls_buckets_free(&buckets);
    }
    *all = model->parameters.blocks;
    ls_model_destroy(model);
}

static void mlp(void **state)
{
    (void)state;
    LsConfig config;
    size_t window, all;
    LsDataShape shape = {.features = 40, .outputs = 3, .classes = true};
    ls_config_defaults(&config);
    set(&config, "model.hidden", "[90, 100, 200, 100, 90, 80, 70, 60]");
    check(&config, &shape, &window, &all);
    assert_true(window < all); // two layers of nine
}

static void gpt(void **state)
{
    (void)state;
    LsConfig config;
    size_t window, all;
    LsDataShape shape = {.window = 16, .vocabulary = 100};
    ls_config_defaults(&config);
    set(&config, "model.kind", "gpt");
    set(&config, "model.layers", "8");
    set(&config, "model.heads", "2");
    set(&config, "model.width", "64");
    set(&config, "model.context", "16");
    check(&config, &shape, &window, &all);
    assert_true(window < all / 4); // the tables and parts of two blocks of eight
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mlp),
        cmocka_unit_test(gpt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
