// The loader brings this rank's microbatches in order, with any number of workers, from any cursor, and ends
// cleanly.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>

#include "data/loader.h"
#include "dataset_fixture.h"

static const Example example = {.type = LS_COLUMN_F32,
    .classes = true,
    .shape = {24},
    .dimensions = 1,
    .outputs = 5,
    .samples = {331, 0, 9}};

static const LsLoaderOptions usual = {.seed = 11,
    .batch = 96,
    .lanes = 8,
    .first_lane = 2,
    .lane_count = 3,
    .accumulation = 2,
    .workers = 2,
    .prefetch = 3};

static const char *dataset_path(void)
{
    static bool made = false;
    const char *path = in_directory("loader.h5");
    if (!made)
        assert_ok(write_example(&example, path));
    made = true;
    return path;
}

static LsDataset *open_dataset(size_t cache_limit)
{
    LsDataset *dataset = NULL;
    assert_ok(ls_dataset_open_cached(dataset_path(), cache_limit, &dataset));
    return dataset;
}

// Microbatch `number` of this rank as the header defines it: positions by step, lane and part, and the rows
// there.
static void check_batch(const LsLoaderOptions *o, const LsHostBatch *batch, uint64_t number)
{
    size_t per_lane = o->batch / o->lanes, rows = per_lane / o->accumulation;
    uint64_t part = number % o->accumulation, stride = o->lane_stride ? o->lane_stride : 1;
    uint64_t lane = o->first_lane + number / o->accumulation % o->lane_count * stride;
    uint64_t step = number / o->accumulation / o->lane_count;
    assert_int_equal(batch->rows, rows);
    for (size_t i = 0; i < rows; i++) {
        uint64_t position = o->cursor + step * o->batch + lane * per_lane + part * rows + i;
        float x[24];
        int32_t y;
        assert_int_equal(batch->positions[i], position);
        example_row(
            &example, LS_TRAIN, ls_stream_sample(o->seed, example.samples[LS_TRAIN], position), x, &y);
        assert_memory_equal((const float *)batch->x + i * 24, x, sizeof x);
        assert_int_equal(((const int32_t *)batch->y)[i], y);
    }
}

static void check_loader(const LsDataset *dataset, const LsLoaderOptions *options, uint64_t batches)
{
    LsLoader *loader = NULL;
    double waited = 0.0;
    assert_ok(ls_loader_create(dataset, options, &loader));
    for (uint64_t number = 0; number < batches; number++) {
        const LsHostBatch *batch = NULL;
        assert_ok(ls_loader_next(loader, &batch, &waited));
        check_batch(options, batch, number);
        ls_loader_return(loader, batch);
    }
    assert_true(waited >= 0.0);
    ls_loader_destroy(loader);
}

// 100 microbatches are 16 steps of 96 samples: almost five epochs of 331.
static void test_order(void **state)
{
    (void)state;
    for (int cached = 0; cached < 2; cached++) {
        LsDataset *dataset = open_dataset(cached ? LS_CACHE_LIMIT : 0);
        for (int workers = 1; workers <= 4; workers++)
            for (int prefetch = 1; prefetch <= 9; prefetch += 4) {
                LsLoaderOptions options = usual;
                options.workers = workers;
                options.prefetch = prefetch;
                check_loader(dataset, &options, 100);
            }
        ls_dataset_close(dataset);
    }
}

// Lanes that are dealt like cards; the last one of eight is the furthest.
static void test_lanes_in_rounds(void **state)
{
    (void)state;
    LsDataset *dataset = open_dataset(LS_CACHE_LIMIT);
    LsLoader *loader = NULL;
    LsLoaderOptions options = usual;
    options.first_lane = 1;
    options.lane_stride = 3;
    options.lane_count = 3; // 1, 4, 7
    check_loader(dataset, &options, 40);
    options.lane_count = 4;
    assert_fails(ls_loader_create(dataset, &options, &loader), LS_CONFIG, "4 lanes from 1 of 8");
    ls_dataset_close(dataset);
}

// From wherever a checkpoint says, and when a batch is larger than the data set.
static void test_cursor(void **state)
{
    (void)state;
    LsDataset *dataset = open_dataset(LS_CACHE_LIMIT);
    LsLoaderOptions options = usual;
    options.cursor = 5 * 96;
    check_loader(dataset, &options, 20);
    options.cursor = 330; // an epoch's last sample
    check_loader(dataset, &options, 20);
    options.cursor = (uint64_t)1 << 50;
    check_loader(dataset, &options, 20);
    options = (LsLoaderOptions){
        .batch = 1000, .lanes = 1, .lane_count = 1, .accumulation = 1, .workers = 3, .prefetch = 2};
    check_loader(dataset, &options, 5);
    ls_dataset_close(dataset);
}

static void test_destroy_at_any_time(void **state)
{
    (void)state;
    LsDataset *dataset = open_dataset(0);
    for (int taken = 0; taken < 40; taken++) {
        LsLoader *loader = NULL;
        LsLoaderOptions options = usual;
        options.workers = 1 + taken % 5;
        assert_ok(ls_loader_create(dataset, &options, &loader));
        for (int i = 0; i < taken; i++) {
            const LsHostBatch *batch = NULL;
            assert_ok(ls_loader_next(loader, &batch, NULL));
            if (i + 1 < taken) // the last one is never given back
                ls_loader_return(loader, batch);
        }
        ls_loader_destroy(loader);
    }
    ls_loader_destroy(NULL);
    ls_dataset_close(dataset);
}

// Several microbatches may be in use, and come back in any order; asking for more than there are is refused.
static void test_several_in_use(void **state)
{
    (void)state;
    LsDataset *dataset = open_dataset(LS_CACHE_LIMIT);
    LsLoader *loader = NULL;
    const LsHostBatch *batches[4], *more = NULL;
    assert_ok(ls_loader_create(dataset, &usual, &loader)); // prefetch 3: four in all
    for (uint64_t round = 0; round < 10; round++) {
        for (uint64_t i = 0; i < 4; i++)
            assert_ok(ls_loader_next(loader, &batches[i], NULL));
        for (uint64_t i = 0; i < 4; i++)
            check_batch(&usual, batches[i], round * 4 + i);
        assert_fails(ls_loader_next(loader, &more, NULL), LS_INTERNAL, "in use");
        for (uint64_t i = 0; i < 4; i++)
            ls_loader_return(loader, batches[(i * 3 + 2) % 4]);
    }
    ls_loader_destroy(loader);
    ls_dataset_close(dataset);
}

// A worker's failure comes out in its place, with its sentence, and again whoever asks again.
static void test_failure_surfaces(void **state)
{
    (void)state;
    const char *path = in_directory("broken.h5");
    assert_ok(write_example(&example, path));
    for (int cached = 0; cached < 2; cached++) {
        LsDataset *dataset = NULL;
        assert_ok(ls_dataset_open_cached(path, cached ? LS_CACHE_LIMIT : 0, &dataset));
        int32_t label = 77, sound;
        uint64_t sample =
            ls_stream_sample(usual.seed, 331, 2 * 12 + 96); // in the second step, lane 2, part 0
        off_t at = (off_t)(dataset->y[LS_TRAIN].offset + sample * 4);
        int fd = open(path, O_RDWR);
        assert_int_equal(pread(fd, &sound, 4, at), 4);
        assert_int_equal(pwrite(fd, &label, 4, at), 4);
        LsLoader *loader = NULL;
        const LsHostBatch *batch = NULL;
        LsStatus status = LS_OK;
        int good = 0;
        assert_ok(ls_loader_create(dataset, &usual, &loader));
        while ((status = ls_loader_next(loader, &batch, NULL)) == LS_OK && good < 1000) {
            ls_loader_return(loader, batch);
            good++;
        }
        assert_fails(status, LS_BAD_DATA, cached ? "does not match its hash" : "label 77");
        // Kept in memory, the one block of labels is checked with the first sample.
        assert_int_equal(good, cached ? 0 : 6);
        assert_fails(ls_loader_next(loader, &batch, NULL), LS_BAD_DATA, "broken.h5");
        ls_loader_destroy(loader);
        assert_int_equal(pwrite(fd, &sound, 4, at), 4);
        close(fd);
        ls_dataset_close(dataset);
    }
}

static void test_bad_options(void **state)
{
    (void)state;
    LsDataset *dataset = open_dataset(LS_CACHE_LIMIT);
    LsLoader *loader = NULL;
    LsLoaderOptions options = usual;
    options.batch = 100;
    assert_fails(ls_loader_create(dataset, &options, &loader), LS_CONFIG, "train.batch 100");
    options = usual;
    options.lane_count = 7;
    assert_fails(ls_loader_create(dataset, &options, &loader), LS_CONFIG, "7 lanes from 2 of 8");
    options = usual;
    options.workers = 0;
    assert_fails(ls_loader_create(dataset, &options, &loader), LS_CONFIG, "data.workers 0");
    options = usual;
    options.prefetch = 0;
    assert_fails(ls_loader_create(dataset, &options, &loader), LS_CONFIG, "data.prefetch 0");
    assert_null(loader);
    ls_dataset_close(dataset);
}

// Memory of the caller's, counted; it fails once `left` pieces are given.
typedef struct Counted {
    int held, left;
} Counted;

static LsStatus counted_allocate(void *context, size_t bytes, void **out)
{
    Counted *counted = context;
    if (counted->left-- == 0)
        return LS_FAIL(LS_UNAVAILABLE, "no pinned memory left");
    *out = malloc(bytes);
    counted->held++;
    return LS_OK;
}

static void counted_release(void *context, void *memory)
{
    free(memory);
    ((Counted *)context)->held--;
}

static void test_callers_memory(void **state)
{
    (void)state;
    LsDataset *dataset = open_dataset(LS_CACHE_LIMIT);
    Counted counted = {.left = 1000};
    LsLoaderOptions options = usual;
    options.memory = (LsHostMemory){counted_allocate, counted_release, &counted};
    check_loader(dataset, &options, 10);
    assert_int_equal(counted.held, 0);
    assert_int_equal(counted.left, 1000 - 8); // x and y of four microbatches, at creation and never again
    for (int left = 0; left < 8; left++) {
        LsLoader *loader = NULL;
        counted = (Counted){.left = left};
        assert_fails(ls_loader_create(dataset, &options, &loader), LS_UNAVAILABLE, "pinned");
        assert_int_equal(counted.held, 0);
    }
    ls_dataset_close(dataset);
}

// Workers leave the one core that a rank is bound to, when the process may use more.
static void test_workers_unbind(void **state)
{
    (void)state;
    cpu_set_t before, one, seen;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    if (CPU_COUNT(&before) < 2)
        skip();
    int cpu = 0;
    while (!CPU_ISSET(cpu, &before))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    LsDataset *dataset = open_dataset(LS_CACHE_LIMIT);
    LsLoader *loader = NULL;
    const LsHostBatch *batch = NULL;
    LsLoaderOptions options = usual;
    options.workers = 1;
    assert_ok(ls_loader_create(dataset, &options, &loader));
    assert_ok(ls_loader_next(loader, &batch, NULL)); // so that the worker has begun
    int unbound = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        int id = atoi(entry->d_name);
        if (id > 0 && id != getpid() && sched_getaffinity(id, sizeof seen, &seen) == 0)
            unbound += CPU_COUNT(&seen) >= CPU_COUNT(&before);
    }
    closedir(tasks);
    ls_loader_destroy(loader);
    ls_dataset_close(dataset);
    sched_setaffinity(0, sizeof before, &before);
    assert_true(unbound >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_cursor),
        cmocka_unit_test(test_destroy_at_any_time),
        cmocka_unit_test(test_several_in_use),
        cmocka_unit_test(test_failure_surfaces),
        cmocka_unit_test(test_lanes_in_rounds),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_callers_memory),
        cmocka_unit_test(test_workers_unbind),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
