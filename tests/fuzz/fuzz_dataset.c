// fuzz: data
// Data set files. The first byte chooses: a file, which is opened, read and verified; or a schema alone,
// given the hash that it should have, so that what stands behind the hash is reached too.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dataset_format.h"
#include "hdf5_leaks.h"
#include "require.h"

static void check_refusal(LsStatus status)
{
    require(status == LS_BAD_DATA || status == LS_INTERNAL); // memory may run out
    require(strchr(ls_status_message(), '\n') == NULL && ls_status_message()[0] != '\0');
}

// Reads every row of a split one by one, up to a number that bounds the time.
static LsStatus read_split(const LsDataset *dataset, LsSplit split)
{
    enum { ROWS = 1000 };
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    if (info->samples[split] == 0 || ls_dataset_x_bytes(info) > 1 << 20 || ls_dataset_y_bytes(info) > 1 << 20)
        return LS_OK;
    LsReader *reader = NULL;
    LS_TRY(ls_reader_create(dataset, split, &reader));
    void *x = malloc(ls_dataset_x_bytes(info)), *y = malloc(ls_dataset_y_bytes(info));
    require(x != NULL && y != NULL);
    LsStatus status = LS_OK;
    for (uint64_t i = 0; status == LS_OK && i < info->samples[split] && i < ROWS; i++)
        status = ls_reader_read(reader, &i, 1, x, y);
    free(y);
    free(x);
    ls_reader_destroy(reader);
    return status;
}

static void try_file(const char *path, size_t cache_limit)
{
    LsDataset *dataset = NULL;
    LsStatus status = ls_dataset_open_cached(path, cache_limit, &dataset);
    if (status != LS_OK) {
        check_refusal(status);
        return;
    }
    if (ls_dataset_tokens(ls_dataset_info(dataset)) && ls_dataset_set_window(dataset, 7) != LS_OK)
        check_refusal(LS_BAD_DATA);
    LsStatus verified = ls_dataset_verify(dataset);
    if (verified != LS_OK)
        check_refusal(verified);
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        status = read_split(dataset, split);
        require(verified != LS_OK || status == LS_OK); // what verifies can be read
        if (status != LS_OK)
            check_refusal(status);
    }
    ls_dataset_close(dataset);
}

static void try_schema(const char *text, size_t size)
{
    json_t *schema = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    LsHash128 hash;
    char root[LS_HASH128_TEXT];
    LsDataset dataset = {0};
    if (json_is_object(schema) && ls_schema_hash(schema, &hash) == LS_OK) {
        ls_hash128_text(hash, root);
        json_object_set_new(schema, "root_hash", json_string(root));
    }
    char *canonical = schema == NULL ? NULL : ls_json_canonical(schema);
    LsStatus status = canonical == NULL ? ls_schema_read(text, size, "input", &dataset)
                                        : ls_schema_read(canonical, strlen(canonical), "input", &dataset);
    if (status != LS_OK) {
        check_refusal(status);
    } else if (ls_dataset_tokens(&dataset.info)) {
        size_t tokens = 0;
        for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
            tokens += dataset.info.token_counts[split];
        require(tokens == 0 || dataset.info.token_counts[LS_TRAIN] > 0);
        require(dataset.info.bytes_per_token[LS_TRAIN] >= 0.0);
    } else {
        const LsDatasetInfo *info = &dataset.info;
        require(info->features > 0 && info->outputs > 0 && info->samples[LS_TRAIN] > 0);
        require(!info->encoded || (info->feature_type == LS_COLUMN_U8 && info->feature_dimensions >= 2));
        require(info->period >= 1 && info->features % info->period == 0);
        for (size_t i = 0; i < info->period; i++)
            require(info->scale[i] != 0.0f && info->shift[i] - info->shift[i] == 0.0f);
    }
    ls_schema_release(&dataset);
    free(canonical);
    json_decref(schema);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] & 1) {
        try_schema((const char *)data + 1, size - 1);
        return 0;
    }
    char path[64];
    int fd = memfd_create("input", MFD_CLOEXEC);
    require(fd >= 0 && write(fd, data + 1, size - 1) == (ssize_t)(size - 1));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    try_file(path, LS_CACHE_LIMIT);
    try_file(path, 0);
    close(fd);
    return 0;
}
