// The fixed part of a split that quick evaluations use.
#include <stdlib.h>

#include "base/memory.h"
#include "base/rng.h"
#include "train/evaluate.h"

// Samples whose labels are read at a time.
enum { CHUNK = 1024 };

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

// The labels of the whole split.
static LsStatus read_labels(const LsDataset *dataset, LsSplit split, int32_t *labels)
{
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    size_t samples = info->samples[split];
    uint64_t index[CHUNK];
    LsReader *reader = NULL;
    LsStatus status = ls_reader_create(dataset, split, &reader);
    for (size_t first = 0; status == LS_OK && first < samples; first += CHUNK) {
        size_t count = samples - first < CHUNK ? samples - first : CHUNK;
        for (size_t i = 0; i < count; i++)
            index[i] = first + i;
        status = ls_reader_read(reader, index, count, NULL, labels + first);
    }
    ls_reader_destroy(reader);
    return status;
}

// quota[c] of `count` samples for each class, in proportion to its members; what rounding down leaves over
// goes to the largest remainders, the lower class first among equals.
static void share(const uint64_t *members, size_t classes, size_t samples, size_t count, uint64_t *quota)
{
    size_t left = count;
    for (size_t c = 0; c < classes; c++) {
        quota[c] = (uint64_t)((unsigned __int128)members[c] * count / samples);
        left -= quota[c];
    }
    for (; left > 0; left--) {
        size_t best = classes;
        uint64_t largest = 0;
        for (size_t c = 0; c < classes; c++) {
            unsigned __int128 exact = (unsigned __int128)members[c] * count;
            // A class that was given its extra sample has more than its exact share.
            if (exact <= (unsigned __int128)quota[c] * samples)
                continue;
            uint64_t remainder = (uint64_t)(exact - (unsigned __int128)quota[c] * samples);
            if (remainder > largest) {
                largest = remainder;
                best = c;
            }
        }
        quota[best]++;
    }
}

// Sample i of class c is chosen when its place in the class's own permutation is below the quota.
static void pick(const int32_t *labels, size_t samples, uint64_t seed, const uint64_t *members,
    const uint64_t *quota, uint64_t *seen, uint64_t *indexes)
{
    for (size_t i = 0; i < samples; i++) {
        size_t c = (size_t)labels[i];
        if (ls_rng_permute(seed, c, members[c], seen[c]++) < quota[c])
            *indexes++ = i;
    }
}

static LsStatus choose_stratified(
    const LsDataset *dataset, LsSplit split, uint64_t seed, size_t count, uint64_t *indexes)
{
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    size_t samples = info->samples[split], classes = info->outputs;
    void *labels_memory = NULL, *class_memory = NULL;
    LsStatus status = ls_memory_allocate(samples * sizeof(int32_t), &labels_memory);
    if (status == LS_OK)
        status = ls_memory_allocate(3 * classes * sizeof(uint64_t), &class_memory);
    if (status == LS_OK)
        status = read_labels(dataset, split, labels_memory);
    if (status == LS_OK) {
        const int32_t *labels = labels_memory;
        uint64_t *members = class_memory, *quota = members + classes, *seen = quota + classes;
        for (size_t i = 0; i < samples; i++)
            members[labels[i]]++;
        share(members, classes, samples, count, quota);
        pick(labels, samples, seed, members, quota, seen, indexes);
    }
    free(class_memory);
    free(labels_memory);
    return status;
}

LsStatus ls_evaluate_choose(
    const LsDataset *dataset, LsSplit split, uint64_t seed, size_t count, uint64_t *indexes)
{
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    size_t samples = info->samples[split];
    if (count > samples)
        return LS_FAIL(LS_CONFIG, "eval.quick_samples: %zu, but %s has %zu samples in its %s split", count,
            ls_dataset_path(dataset), samples, ls_split_name(split));
    if (info->classes)
        return choose_stratified(dataset, split, seed, count, indexes);
    for (size_t i = 0; i < count; i++)
        indexes[i] = ls_rng_permute(seed, 0, samples, i);
    qsort(indexes, count, sizeof *indexes, ascending);
    return LS_OK;
}
