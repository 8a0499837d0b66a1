// Running statistics to a file and back: two tensors there, as PyTorch has them, one of pairs in the model.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "train/weights.h"

// Channels of less than a block, of several blocks, and of one; in other tensors' company.
static const LsParameter list[] = {
    {.name = "conv.weight", .dimensions = 4, .shape = {8, 4, 3, 3}},
    {.name = "bn1.running", .dimensions = 2, .shape = {70, 2}, .statistics = true},
    {.name = "bn2.running", .dimensions = 2, .shape = {5000, 2}, .statistics = true},
    {.name = "bn3.running", .dimensions = 2, .shape = {1, 2}, .statistics = true},
};
enum { COUNT = sizeof list / sizeof *list };

static char folder[] = "/tmp/lockstep-statistics-XXXXXX";
static LsParameters table;
static float *values; // all of them, flat
static LsComm *comm;

static void assert_ok(LsStatus status)
{
    if (status != LS_OK)
        fail_msg("%s", ls_status_message());
}

static char *in_folder(const char *name)
{
    static char path[LS_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(folder) ||
        ls_comm_open(&(LsCommOptions){.kind = LS_COMM_AUTO, .timeout = 60}, &comm) != LS_OK)
        return 1;
    for (size_t i = 0; i < COUNT; i++)
        if (ls_parameters_add(&table, &list[i]) != LS_OK)
            return 1;
    if (ls_memory_allocate(table.blocks * LS_BLOCK * sizeof *values, (void **)&values) != LS_OK)
        return 1;
    memset(values, 0, table.blocks * LS_BLOCK * sizeof *values);
    for (size_t i = 0; i < COUNT; i++)
        for (size_t e = 0; e < table.list[i].elements; e++)
            values[table.list[i].offset + e] = (float)(10000 * i + e);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(values);
    ls_parameters_free(&table);
    ls_comm_close(comm);
    return ls_directory_remove(folder) == LS_OK ? 0 : 1;
}

static void export_model(const char *file)
{
    char checkpoint_path[LS_PATH_MAX];
    LsConfig config;
    LsCheckpoint *checkpoint = NULL;
    ls_config_defaults(&config);
    LsWeightsRun run = {.parameters = &table, .values = values, .config = &config};
    assert_ok(ls_weights_make_run(&run, in_folder("run"), comm, checkpoint_path));
    assert_ok(ls_checkpoint_open(checkpoint_path, &checkpoint));
    assert_ok(ls_weights_export(
        &(LsWeightsExport){.checkpoint = checkpoint, .parameters = &table, .type = LS_F32}, in_folder(file)));
    ls_checkpoint_close(checkpoint);
}

static void there_and_back(void **state)
{
    (void)state;
    LsWeights *weights = NULL;
    size_t count, blocks = table.blocks;
    float *read = calloc(blocks * LS_BLOCK, sizeof *read), mean[70], variance[70];
    assert_non_null(read);
    export_model("model.safetensors");
    assert_ok(ls_weights_open(in_folder("model.safetensors"), &weights));
    const LsSafetensors *file = ls_weights_file(weights);
    ls_safetensors_list(file, &count);
    assert_int_equal(count, 1 + 2 * 3);
    const LsFileTensor *means = ls_safetensors_find(file, "bn1.running_mean");
    const LsFileTensor *variances = ls_safetensors_find(file, "bn1.running_var");
    assert_true(means && means->dimensions == 1 && means->shape[0] == 70);
    assert_true(variances && variances->dimensions == 1 && variances->shape[0] == 70);
    assert_ok(ls_safetensors_read(file, means, 0, 70, mean));
    assert_ok(ls_safetensors_read(file, variances, 0, 70, variance));
    for (size_t c = 0; c < 70; c++)
        assert_true(mean[c] == (float)(10000 + 2 * c) && variance[c] == (float)(10000 + 2 * c + 1));
    assert_ok(ls_weights_match(weights, &table));
    assert_ok(ls_weights_read(weights, 0, blocks, read));
    assert_memory_equal(read, values, blocks * LS_BLOCK * sizeof *read);
    for (size_t first = 0; first < blocks; first++) { // by single blocks, as a rank's pieces may be
        assert_ok(ls_weights_read(weights, first, 1, read));
        assert_memory_equal(read, values + first * LS_BLOCK, LS_BLOCK * sizeof *read);
    }
    ls_weights_close(weights);
    free(read);
}

typedef struct Tensors {
    LsFileTensor tensor[COUNT * 2 + 1];
    size_t count;
} Tensors;

static void add(Tensors *tensors, const char *name, int dimensions, size_t first, size_t second)
{
    tensors->tensor[tensors->count++] =
        (LsFileTensor){.name = name, .dimensions = dimensions, .shape = {first, second, 3, 3}};
}

static LsStatus zeros(void *context, size_t index, float *out)
{
    const Tensors *tensors = context;
    size_t elements = 1;
    for (int d = 0; d < tensors->tensor[index].dimensions; d++)
        elements *= tensors->tensor[index].shape[d];
    memset(out, 0, elements * sizeof *out);
    return LS_OK;
}

// Matches a file with these tensors of bn3.
static LsStatus match(const char *mean, size_t channels, const char *variance, const char *more)
{
    LsWeights *weights = NULL;
    Tensors tensors = {.count = 0};
    add(&tensors, "conv.weight", 4, 8, 4);
    add(&tensors, "bn1.running_mean", 1, 70, 0);
    add(&tensors, "bn1.running_var", 1, 70, 0);
    add(&tensors, "bn2.running_mean", 1, 5000, 0);
    add(&tensors, "bn2.running_var", 1, 5000, 0);
    add(&tensors, mean, 1, channels, 0);
    add(&tensors, variance, 1, 1, 0);
    if (more)
        add(&tensors, more, 1, 1, 0);
    assert_ok(ls_safetensors_write(in_folder("other.safetensors"),
        &(LsSafetensorsContent){
            .count = tensors.count, .tensor = tensors.tensor, .values = zeros, .context = &tensors}));
    assert_ok(ls_weights_open(in_folder("other.safetensors"), &weights));
    LsStatus status = ls_weights_match(weights, &table);
    ls_weights_close(weights);
    return status;
}

static void assert_refused(LsStatus status, const char *words)
{
    assert_int_equal(status, LS_CHECKPOINT);
    if (!strstr(ls_status_message(), words))
        fail_msg("expected %s in: %s", words, ls_status_message());
}

static void others_are_refused(void **state)
{
    (void)state;
    assert_ok(match("bn3.running_mean", 1, "bn3.running_var", NULL));
    assert_ok(match("bn3.running_mean", 1, "bn3.running_var", "bn3.num_batches_tracked"));
    assert_refused(match("bn3.running_mean", 2, "bn3.running_var", NULL), "bn3.running_mean is 2");
    assert_refused(match("bn3.running_mean", 1, "bn3.running", NULL), "no tensor bn3.running_var");
    assert_refused(match("bn3.running", 1, "bn3.running_var", NULL), "no tensor bn3.running_mean");
    assert_refused(match("bn3.running_mean", 1, "bn3.running_var", "bn3.running"), "none of the model's");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(others_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
